/*
 * prove: runs plan_check over an algorithm's whole range: sizes, counts, in place or not, with and without peer access,
 * roots, small scratch. Called by thrum-plan --check and by the tests of the algorithms.
 *
 * plant: damages built plans the way builders go wrong, so that one can see the checker find it.
 */
#ifndef ALGO_PROVE_H
#define ALGO_PROVE_H

#include "algo/algo.h"

/* One row per fault: NAME, printed name, help. */
#define ALGO_FAULT_MAP(X) \
    X(NONE, "none", "plans as they are built") \
    X(MISSING_WAIT, "missing-wait", "a rank leaves out one of its WAITs") \
    X(SWAPPED_CHUNK, "swapped-chunk", "two transfers exchange where they read or write") \
    X(DOUBLED_CONTRIBUTION, "doubled-contribution", "a REDUCE takes one source twice") \
    X(EARLY_SCRATCH_REUSE, "early-scratch-reuse", \
      "two slots of the scratch are one, so that data lands before its slot is free") \
    X(DOUBLE_ROUNDING, "double-rounding", \
      "partial results are kept in the type itself, so that each fold rounds")

enum algo_fault {
#define X(name, text, help) ALGO_FAULT_##name,
    ALGO_FAULT_MAP(X)
#undef X
        ALGO_FAULT_COUNT
};
const char *algo_fault_name(enum algo_fault fault);
const char *algo_fault_help(enum algo_fault fault);
/* -1 if there is no such name. */
int algo_fault_by_name(const char *name);

/* Damages the plans of all ranks; false if they have no place for this fault. */
bool algo_plant(struct plan *plans, int nranks, enum algo_fault fault);

/* Messages of COLL_SENDRECV: to the next rank; everyone to everyone and itself; even ranks to the odd one after. */
enum algo_pattern { ALGO_SHIFT, ALGO_ALL_TO_ALL, ALGO_PAIRS, ALGO_PATTERN_COUNT };
/*
 * The p2p entries of `rank` in a pattern with messages of `bytes`, written to entries[2 x nranks]; returns how many.
 * Buffers lie one after the other.
 */
int algo_pattern_p2p(enum algo_pattern pattern, int rank, int nranks, uint64_t bytes,
                     struct plan_p2p *entries);

/*
 * plan_check of plans that name their stages, with the stages made real: the buffers of the ranks in staged[nranks] are
 * in memory that peers cannot reach; a stage is a COPY to or from scratch, and peers' operands are in that scratch. OK
 * also for plans that name none, or use WIDE scratch. algo_prove does so with all ranks staged.
 */
thrum_status_t algo_check_staged(const struct plan *plans, int nranks, const bool *staged,
                                 int rounds, FILE *report);

struct algo_sweep {
    int nranks; /* 0: 1 to 17, 24, 32, 33, 64 */
    bool quick; /* fewer sizes and combinations, for builds that run slowly */
    enum algo_fault fault;
};

struct algo_proof {
    uint64_t cases, ops; /* cases with a fault planted, if one was asked for */
};

/*
 * OK: every case holds. ERR_PLAN: the first case that does not, and why, is written to report (may be NULL).
 * *proof_out is also written with ERR_PLAN.
 */
thrum_status_t algo_prove(const struct algo *algo, const struct algo_sweep *sweep, FILE *report,
                          struct algo_proof *proof_out);

/* One case: builds the plans of all ranks (params->rank and p2p are ignored), damages and checks them twice in a row. */
thrum_status_t algo_prove_case(const struct algo *algo, const struct plan_params *params,
                               enum algo_pattern pattern, enum algo_fault fault, FILE *report,
                               struct algo_proof *proof);

#endif
