/*
 * algo: the algorithm table. One file per algorithm under src/algo/<collective>/, one row here (algo_rows.h).
 * Called by select (which row), exec and thrum-plan (build).
 */
#ifndef ALGO_ALGO_H
#define ALGO_ALGO_H

#include "plan/plan.h"

enum {
    ALGO_NEEDS_PEER_ACCESS = 1 << 0, /* names peers' memory in COPY or REDUCE */
    ALGO_INLINE_ONLY = 1 << 1, /* a contribution or block must fit a line: plan_line_bytes */
    ALGO_ORDERED = 1 << 2, /* folds from the left in rank order */
    ALGO_POWER_OF_TWO = 1 << 3,
    /* Whom a rank talks to, where not to all: says what is between hosts. */
    ALGO_TO_NEXT = 1 << 4,
    ALGO_DOUBLING = 1 << 5,
    ALGO_IN_PAIRS = 1 << 6,
    ALGO_TO_ROOT = 1 << 7,
    ALGO_OF_HOSTS = 1 << 8, /* knows hosts: needs several, of which one has several ranks */
    ALGO_LEADERS = 1 << 9, /* of these: one rank sends for its host, in lines, which must hold it */
    ALGO_LANES = 1 << 10, /* uses as many lanes as it may, others use one */
    ALGO_IN_TREE = 1 << 11, /* see ALGO_TO_NEXT */
    ALGO_FAR_LONG = 1 << 12 /* messages are the longer the farther they go */
};

/*
 * Appends this rank's ops for plan->params. Pure: looks at nothing but the params, so that one rank's plan can be made
 * alone. Errors are kept in plan->status.
 */
typedef void (*algo_build_fn)(struct plan *plan);

/* What a call costs the busiest rank, for select, which knows what each of it takes. Equal on all ranks. */
struct algo_cost {
    double steps; /* exchanges that depend on each other: somebody waits for what another wrote */
    double
        turns; /* how often all ranks that share a core must have had a turn; 0: as often as there are steps */
    double messages; /* lines and signals written and waited for */
    double
        passed_bytes; /* data that one rank writes and another reads, both counted: lines, and puts of partial results */
    double copied_bytes; /* read and written by other COPYs and PUTs */
    double own_bytes; /* the same, from a rank's buffers to its own: crosses no hosts */
    double reduced_bytes; /* read and written by REDUCE */
    bool
        lines; /* all that passes goes in lines, out of which each rank copies for itself; INLINE_ONLY: so it is */
    /* What is between hosts, and not counted above; of algorithms that do not say, the model tells by whom they talk to. */
    double net_steps, net_messages;
    double net_bytes; /* sent to other hosts by the busiest rank */
    double port_bytes; /* and by all ranks of the busiest host */
    /*
     * How much of what a rank does, and of what is on its way between hosts meanwhile, is done at the same time: 0: one after
     * the other, 1: what takes less is hidden. Of m messages one after the other all but one are: algo_overlap.
     */
    double overlap;
};
/* Of a call out of place, by rank 0: in_place is not to be looked at, since ranks may differ in it. */
typedef struct algo_cost (*algo_cost_fn)(const struct plan_params *params);

struct algo {
    enum collective collective;
    const char *name; /* "ring" */
    algo_build_fn build;
    algo_cost_fn cost;
    unsigned flags;
    const char *help; /* one line, with the source of the algorithm */
};

extern const struct algo thrum_algos[];
extern const size_t thrum_algo_count;

/* NULL if there is none. */
const struct algo *algo_find(enum collective collective, const char *name);

/* NULL if the algorithm can serve these params, else the reason, as a static string. */
const char *algo_refusal(const struct algo *algo, const struct plan_params *params);

/* plan_init, build, status; on error the plan is finished. */
thrum_status_t algo_build(const struct algo *algo, const struct plan_params *params,
                          struct plan *plan_out);

/* The first element of slice i when count elements are cut into n slices that differ by at most one element. */
static inline uint64_t algo_slice(uint64_t count, int n, int i)
{
    uint64_t q = count / (uint64_t)n, r = count % (uint64_t)n, k = (uint64_t)i;
    return k * q + (k < r ? k : r);
}

#endif
