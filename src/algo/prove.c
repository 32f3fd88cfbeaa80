/* Runs plan_check over an algorithm's whole range; see prove.h. */
#include "algo/prove.h"

#include <stdlib.h>

#include "base/base.h"

#define DEFAULT_SCRATCH_BYTES (4 << 20)
#define SMALL_SCRATCH_BYTES 65536
#define ROUNDS 2

/* ---- one case ---------------------------------------------------------------------------------------------------- */

int algo_pattern_p2p(enum algo_pattern pattern, int rank, int nranks, uint64_t bytes,
                     struct plan_p2p *entries)
{
    int n = 0;
    uint64_t nsent = 0, nreceived = 0, base = 4096; /* addresses of real buffers are not 0 either */
    for (int i = 0; i < nranks; i++) {
        int to = (rank + i) % nranks, from = (rank - i + nranks) % nranks;
        bool used = pattern == ALGO_ALL_TO_ALL || i == (nranks == 1 ? 0 : 1);
        bool pairs = pattern == ALGO_PAIRS && nranks > 1;
        if (used && (!pairs || (rank % 2 == 0 && to == rank + 1)))
            entries[n++] = (struct plan_p2p){
                .peer = to, .is_send = true, .bytes = bytes, .offset = base + nsent++ * bytes};
        if (used && (!pairs || (rank % 2 == 1 && from == rank - 1)))
            entries[n++] = (struct plan_p2p){
                .peer = from, .bytes = bytes, .offset = base + nreceived++ * bytes};
    }
    return n;
}

static void describe(FILE *report, const struct algo *algo, const struct plan_params *params,
                     enum algo_pattern pattern, enum algo_fault fault)
{
    static const char *const patterns[] = {"shift", "all-to-all", "pairs"};
    if (!report)
        return;
    fprintf(report,
            "%s %s: ranks %d, count %llu, %s, %s, root %d, %s, peer access %s, scratch %llu",
            collective_name(algo->collective), algo->name, params->nranks,
            (unsigned long long)params->count, thrum_datatype_name(params->dtype),
            thrum_redop_name(params->redop), params->root,
            params->in_place ? "in place" : "out of place", params->peer_access ? "yes" : "no",
            (unsigned long long)params->scratch_bytes);
    if (algo->collective == COLL_SENDRECV)
        fprintf(report, ", %s", patterns[pattern]);
    if (fault != ALGO_FAULT_NONE)
        fprintf(report, ", planted %s", algo_fault_name(fault));
    fputc('\n', report);
}

static thrum_status_t build_all(const struct algo *algo, const struct plan_params *params,
                                enum algo_pattern pattern, struct plan_p2p *p2p, struct plan *plans)
{
    int n = params->nranks;
    for (int r = 0; r < n; r++) {
        struct plan_params own = *params;
        own.rank = r;
        if (p2p) {
            own.p2p = p2p + (size_t)r * 2 * (size_t)n;
            own.np2p =
                algo_pattern_p2p(pattern, r, n, params->count, p2p + (size_t)r * 2 * (size_t)n);
        }
        thrum_status_t status = algo_build(algo, &own, &plans[r]);
        if (status != THRUM_OK)
            return status;
        if (plans[r].scratch_bytes > params->scratch_bytes)
            return thrum_fail(THRUM_ERR_PLAN, "rank %d uses %llu bytes of scratch, %llu are there",
                              r, (unsigned long long)plans[r].scratch_bytes,
                              (unsigned long long)params->scratch_bytes);
    }
    return THRUM_OK;
}

thrum_status_t algo_prove_case(const struct algo *algo, const struct plan_params *params,
                               enum algo_pattern pattern, enum algo_fault fault, FILE *report,
                               struct algo_proof *proof)
{
    thrum_status_t (*prove)(const struct plan *plans, int nranks, int rounds, FILE *file) =
        algo->flags & ALGO_ORDERED ? plan_check_ordered : plan_check;
    size_t n = (size_t)params->nranks;
    bool sendrecv = algo->collective == COLL_SENDRECV;
    thrum_status_t status = THRUM_ERR_NO_MEMORY;
    struct plan *plans = calloc(n, sizeof(*plans));
    struct plan_p2p *p2p = sendrecv ? calloc(2 * n * n, sizeof(*p2p)) : NULL;
    if (!plans || (sendrecv && !p2p))
        goto out;

    status = build_all(algo, params, pattern, p2p, plans);
    if (status != THRUM_OK) {
        describe(report, algo, params, pattern, fault);
        if (report)
            fprintf(report, "%s\n", thrum_last_error());
        goto out;
    }
    if (!algo_plant(plans, params->nranks, fault))
        goto out; /* no place for the fault: nothing proved, nothing refuted */
    proof->cases++;
    for (size_t r = 0; r < n; r++)
        proof->ops += plans[r].nops;
    status = prove(plans, params->nranks, ROUNDS, NULL);
    if (status != THRUM_OK && report) { /* once more, now that there is something to tell */
        describe(report, algo, params, pattern, fault);
        status = prove(plans, params->nranks, ROUNDS, report);
    }
out:
    for (size_t r = 0; plans && r < n; r++)
        plan_fini(&plans[r]);
    free(plans);
    free(p2p);
    return status;
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

static const int all_sizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 24, 32, 33, 64};
static const int quick_sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 13};

/* The counts, each with a type and an operation, so that widths and the division of AVG are met too. */
struct load {
    uint64_t count;
    thrum_datatype_t dtype;
    thrum_redop_t redop;
    uint64_t scratch_bytes;
};

/*
 * Large enough for several rounds of the staging: for the rings more than one group of pieces where ranks are few, for
 * the others several pieces.
 */
static uint64_t large_count(enum collective collective, int nranks, bool quick)
{
    bool per_rank = collective == COLL_ALLGATHER || collective == COLL_REDUCE_SCATTER ||
                    collective == COLL_GATHER || collective == COLL_SCATTER ||
                    collective == COLL_ALLTOALL;
    uint64_t few = per_rank ? 20011 : 100003, many = per_rank ? 4999 : 40009;
    if (quick && nranks > 5)
        return per_rank ? 1999 : 20011;
    if (nranks > 32 && per_rank)
        return nranks > 64 ? 499 : 1999; /* recursive halving: tens of pieces of a few elements */
    return nranks <= 9 ? few : many;
}

static bool has_root(enum collective collective)
{
    return collective == COLL_BROADCAST || collective == COLL_REDUCE || collective == COLL_GATHER ||
           collective == COLL_SCATTER;
}

static thrum_status_t prove_load(const struct algo *algo, const struct plan_params *base,
                                 enum algo_fault fault, FILE *report, struct algo_proof *proof)
{
    int n = base->nranks;
    bool sendrecv = algo->collective == COLL_SENDRECV;
    int roots[3] = {0, n - 1, n / 2};
    int nroots = !has_root(algo->collective) ? 1 : n < 3 ? n : 3;
    int npatterns = sendrecv ? ALGO_PATTERN_COUNT : 1;
    bool buffers = algo->collective != COLL_BARRIER && !sendrecv;
    for (int mask = 0; mask < 4 * nroots * npatterns; mask++) {
        struct plan_params params = *base;
        enum algo_pattern pattern = (enum algo_pattern)(mask / 4 % npatterns);
        params.in_place = mask & 1;
        params.peer_access = mask & 2;
        params.root = roots[mask / 4 / npatterns];
        if ((params.in_place && !buffers) || algo_refusal(algo, &params))
            continue;
        thrum_status_t status = algo_prove_case(algo, &params, pattern, fault, report, proof);
        if (status != THRUM_OK)
            return status;
    }
    return THRUM_OK;
}

static thrum_status_t prove_size(const struct algo *algo, const struct algo_sweep *sweep,
                                 int nranks, FILE *report, struct algo_proof *proof)
{
    uint64_t large = large_count(algo->collective, nranks, sweep->quick);
    const struct load loads[] = {
        {0, THRUM_FLOAT32, THRUM_SUM, DEFAULT_SCRATCH_BYTES},
        {1, THRUM_FLOAT64, THRUM_AVG, SMALL_SCRATCH_BYTES},
        {7, THRUM_INT8, THRUM_SUM, DEFAULT_SCRATCH_BYTES},
        {7, THRUM_INT64, THRUM_MAX, DEFAULT_SCRATCH_BYTES},
        {1009, THRUM_BFLOAT16, THRUM_AVG, DEFAULT_SCRATCH_BYTES},
        {large, THRUM_FLOAT32, THRUM_SUM, DEFAULT_SCRATCH_BYTES},
        {large, THRUM_FLOAT32, THRUM_AVG, SMALL_SCRATCH_BYTES},
    };
    size_t nloads = algo->collective == COLL_BARRIER ? 1 : sizeof(loads) / sizeof(loads[0]);
    for (size_t i = 0; i < nloads; i++) {
        struct plan_params params = {
            .collective = algo->collective,
            .nranks = nranks,
            .count = loads[i].count,
            .dtype = algo->collective == COLL_SENDRECV ? THRUM_UINT8 : loads[i].dtype,
            .redop = loads[i].redop,
            .lanes = 1,
            .scratch_bytes = loads[i].scratch_bytes,
        };
        bool nothing = params.count == 0 && algo->collective != COLL_BARRIER;
        if (nothing && sweep->fault != ALGO_FAULT_NONE)
            continue; /* a fault shows better where there are data */
        thrum_status_t status = prove_load(algo, &params, sweep->fault, report, proof);
        if (status != THRUM_OK)
            return status;
    }
    return THRUM_OK;
}

thrum_status_t algo_prove(const struct algo *algo, const struct algo_sweep *sweep, FILE *report,
                          struct algo_proof *proof_out)
{
    struct algo_proof proof = {0};
    const int *sizes = sweep->nranks > 0 ? &sweep->nranks : sweep->quick ? quick_sizes : all_sizes;
    size_t nsizes = sweep->nranks > 0 ? 1
                    : sweep->quick    ? sizeof(quick_sizes) / sizeof(quick_sizes[0])
                                      : sizeof(all_sizes) / sizeof(all_sizes[0]);
    thrum_status_t status = THRUM_OK;
    for (size_t i = 0; i < nsizes && status == THRUM_OK; i++)
        status = prove_size(algo, sweep, sizes[i], report, &proof);
    *proof_out = proof;
    return status;
}
