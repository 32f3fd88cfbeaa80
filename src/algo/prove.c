/* Runs plan_check over an algorithm's whole range; see prove.h. */
#include "algo/prove.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define DEFAULT_SCRATCH_BYTES (4 << 20)
#define SMALL_SCRATCH_BYTES 65536
#define ROUNDS 2

/* ---- one case ---------------------------------------------------------------------------------------------------- */

#define SOME_MORE_BYTES (PLAN_INLINE_BYTES + 1)

/* From everyone to everyone some are longer than any line. */
static uint64_t message_bytes(enum algo_pattern pattern, int from, int to, uint64_t bytes)
{
    return bytes + (pattern == ALGO_ALL_TO_ALL && (from + 2 * to) % 3 == 0 ? SOME_MORE_BYTES : 0);
}

int algo_pattern_p2p(enum algo_pattern pattern, int rank, int nranks, uint64_t bytes,
                     struct plan_p2p *entries)
{
    int n = 0;
    uint64_t nsent = 0, nreceived = 0, base = 4096; /* addresses of real buffers are not 0 either */
    uint64_t stride = bytes + SOME_MORE_BYTES;
    for (int i = 0; i < nranks; i++) {
        int to = (rank + i) % nranks, from = (rank - i + nranks) % nranks;
        bool used = pattern == ALGO_ALL_TO_ALL || i == (nranks == 1 ? 0 : 1);
        bool pairs = pattern == ALGO_PAIRS && nranks > 1;
        if (used && (!pairs || (rank % 2 == 0 && to == rank + 1)))
            entries[n++] = (struct plan_p2p){.peer = to,
                                             .is_send = true,
                                             .bytes = message_bytes(pattern, rank, to, bytes),
                                             .offset = base + nsent++ * stride};
        if (used && (!pairs || (rank % 2 == 1 && from == rank - 1)))
            entries[n++] = (struct plan_p2p){.peer = from,
                                             .bytes = message_bytes(pattern, from, rank, bytes),
                                             .offset = base + nreceived++ * stride};
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
    if (params->layout) {
        fprintf(report, ", on hosts");
        for (int r = 0; r < params->nranks; r++)
            fprintf(report, "%c%d", r ? ',' : ' ', params->layout->host[r]);
    }
    if (params->counts)
        fprintf(report, ", blocks of their own sizes%s", params->displs ? ", spread" : "");
    if (fault != ALGO_FAULT_NONE)
        fprintf(report, ", planted %s", algo_fault_name(fault));
    fputc('\n', report);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
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

/* Of all that the checker looks at in the plans of a call; equal plans have equal ones. */
static uint64_t fingerprint(const struct plan *plans, int nranks)
{
    uint64_t hash = 1;
    for (int r = 0; r < nranks; r++) {
        for (size_t i = 0; i < plans[r].nops; i++) {
            const struct plan_op *op = &plans[r].ops[i];
            uint64_t shape = op->opcode | (uint64_t)op->flags << 8 | (uint64_t)op->lane << 16 |
                             (uint64_t)op->ndst << 32 | (uint64_t)op->nsrc << 48;
            hash = mix(mix(mix(mix(hash, shape), (uint64_t)op->peer), op->bytes), op->value);
        }
        for (size_t i = 0; i < plans[r].noperands; i++) {
            const struct plan_operand *o = &plans[r].operands[i];
            hash = mix(hash, o->offset << 20 ^ (uint64_t)o->rank << 4 ^ o->space);
        }
        hash = mix(hash, plans[r].nops);
    }
    return hash;
}

/* As they are, and with all stages made real. */
static thrum_status_t check_both(const struct algo *algo, const struct plan *plans, int nranks,
                                 FILE *report)
{
    thrum_status_t status = algo->flags & ALGO_ORDERED
                                ? plan_check_ordered(plans, nranks, ROUNDS, report)
                                : plan_check(plans, nranks, ROUNDS, report);
    bool *staged;

    if (status)
        return status;
    staged = malloc((size_t)nranks * sizeof *staged);
    if (!staged)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a proof");
    memset(staged, true, (size_t)nranks * sizeof *staged);
    status = algo_check_staged(plans, nranks, staged, ROUNDS, report);
    free(staged);
    return status;
}

/* Checks plans that are built, unless they are those of *proved, which it updates. */
static thrum_status_t prove_plans(const struct algo *algo, const struct plan_params *params,
                                  enum algo_pattern pattern, enum algo_fault fault,
                                  struct plan *plans, uint64_t *proved, FILE *report,
                                  struct algo_proof *proof)
{
    int n = params->nranks;
    if (!algo_plant(plans, n, fault))
        return THRUM_OK; /* no place for the fault: nothing proved, nothing refuted */
    proof->cases++;
    for (int r = 0; r < n; r++)
        proof->ops += plans[r].nops;
    uint64_t print = fingerprint(plans, n);
    if (print == *proved)
        return THRUM_OK;
    thrum_status_t status = check_both(algo, plans, n, NULL);
    if (status == THRUM_OK)
        *proved = print;
    if (status != THRUM_OK && report) { /* once more, now that there is something to tell */
        describe(report, algo, params, pattern, fault);
        status = check_both(algo, plans, n, report);
    }
    return status;
}

static thrum_status_t prove_case(const struct algo *algo, const struct plan_params *params,
                                 enum algo_pattern pattern, enum algo_fault fault, uint64_t *proved,
                                 FILE *report, struct algo_proof *proof)
{
    size_t n = (size_t)params->nranks;
    bool sendrecv = algo->collective == COLL_SENDRECV;
    thrum_status_t status = THRUM_ERR_NO_MEMORY;
    struct plan *plans = calloc(n, sizeof(*plans));
    struct plan_p2p *p2p = sendrecv ? calloc(2 * n * n, sizeof(*p2p)) : NULL;
    if (!plans || (sendrecv && !p2p))
        goto out;

    status = build_all(algo, params, pattern, p2p, plans);
    if (status == THRUM_OK) {
        status = prove_plans(algo, params, pattern, fault, plans, proved, report, proof);
    } else if (report) {
        describe(report, algo, params, pattern, fault);
        fprintf(report, "%s\n", thrum_last_error());
    }
out:
    for (size_t r = 0; plans && r < n; r++)
        plan_fini(&plans[r]);
    free(plans);
    free(p2p);
    return status;
}

thrum_status_t algo_prove_case(const struct algo *algo, const struct plan_params *params,
                               enum algo_pattern pattern, enum algo_fault fault, FILE *report,
                               struct algo_proof *proof)
{
    uint64_t none = 0;
    return prove_case(algo, params, pattern, fault, &none, report, proof);
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

static const int all_sizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 24, 32, 33, 64};
static const int quick_sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 13};

/* Blocks: all of one size; of their own sizes; and in another order than ranks', with gaps. */
enum shape { BLOCKS_EQUAL, BLOCKS_OWN, BLOCKS_SPREAD };

/* The counts, each with a type and an operation, so that widths and the division of AVG are met too. */
struct load {
    uint64_t count;
    thrum_datatype_t dtype;
    thrum_redop_t redop;
    uint64_t scratch_bytes;
    enum shape shape;
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
    if (nranks > 17)
        return per_rank ? (nranks > 64 ? 499 : 999) : 20011;
    return nranks <= 9 ? few : many;
}

/* Two hosts; two ranks on each; in turn on three; and hosts of any number of ranks, in any order. */
enum { SPREADS = 4 };
static thrum_status_t lay_out_hosts(int spread, int nranks, struct plan_layout **layout_out)
{
    int *hosts = malloc((size_t)nranks * sizeof(*hosts));
    if (!hosts)
        return THRUM_ERR_NO_MEMORY;
    for (int r = 0; r < nranks; r++) {
        const int of_spread[SPREADS] = {2 * r / nranks, r / 2, r % 3, r * r * 7 / 3 % 5};
        hosts[r] = of_spread[spread];
    }
    thrum_status_t status = plan_layout_create(hosts, nranks, layout_out);
    free(hosts);
    return status;
}

/* Algorithms that know hosts: over several layouts of them. Others: with and without peer access. */
static thrum_status_t prove_reach(const struct algo *algo, const struct plan_params *base,
                                  enum algo_pattern pattern, enum algo_fault fault, FILE *report,
                                  struct algo_proof *proof)
{
    bool of_hosts = algo->flags & ALGO_OF_HOSTS;
    uint64_t proved = 0; /* with peer access plans may do more: equal ones need no second proof */
    thrum_status_t status = THRUM_OK;
    for (int i = 0; i < (of_hosts ? SPREADS : 2) && !status; i++) {
        struct plan_params params = *base;
        struct plan_layout *layout = NULL;
        params.peer_access = !of_hosts && i;
        if (of_hosts)
            status = lay_out_hosts(i, params.nranks, &layout);
        params.layout = layout;
        if (!status && !algo_refusal(algo, &params))
            status = prove_case(algo, &params, pattern, fault, &proved, report, proof);
        plan_layout_destroy(layout);
    }
    return status;
}

static thrum_status_t prove_load(const struct algo *algo, const struct plan_params *base,
                                 enum algo_fault fault, FILE *report, struct algo_proof *proof)
{
    int n = base->nranks;
    bool sendrecv = algo->collective == COLL_SENDRECV;
    int roots[3] = {0, n - 1, n / 2};
    int nroots = !plan_has_root(algo->collective) ? 1 : n < 3 ? n : 3;
    int npatterns = sendrecv ? ALGO_PATTERN_COUNT : 1;
    bool buffers = algo->collective != COLL_BARRIER && !sendrecv;
    for (int mask = 0; mask < 2 * nroots * npatterns; mask++) {
        struct plan_params params = *base;
        enum algo_pattern pattern = (enum algo_pattern)(mask / 2 % npatterns);
        params.in_place = mask & 1;
        params.root = roots[mask / 2 / npatterns];
        if (params.in_place && !buffers)
            continue;
        thrum_status_t status = prove_reach(algo, &params, pattern, fault, report, proof);
        if (status != THRUM_OK)
            return status;
    }
    return THRUM_OK;
}

/* counts and displs of n blocks, some of them empty, the largest of `count` elements. */
static void lay_out(enum shape shape, uint64_t count, int n, uint64_t *counts, uint64_t *displs)
{
    uint64_t end = 0;
    for (int r = 0; r < n; r++)
        counts[r] = r == n / 2 ? count : (uint64_t)(7 * r % 5) * count / 5;
    for (int i = 0; i < n; i++) {
        int r = shape == BLOCKS_SPREAD ? n - 1 - i : i;
        displs[r] = end + (shape == BLOCKS_SPREAD && i % 3 == 0 ? 3 : 0);
        end = displs[r] + counts[r];
    }
}

static bool has_blocks(enum collective collective)
{
    return collective == COLL_ALLGATHER || collective == COLL_REDUCE_SCATTER;
}

static bool wanted(enum collective collective, const struct load *load, enum algo_fault fault)
{
    if (collective == COLL_BARRIER)
        return load->count == 0;
    if (load->count == 0 && fault != ALGO_FAULT_NONE)
        return false; /* a fault shows better where there are data */
    if (load->shape != BLOCKS_EQUAL && !has_blocks(collective))
        return false;
    return plan_reduces(collective) || load->redop == THRUM_SUM || load->redop == THRUM_AVG;
}

static thrum_status_t prove_shaped(const struct algo *algo, struct plan_params *params,
                                   enum shape shape, enum algo_fault fault, FILE *report,
                                   struct algo_proof *proof)
{
    size_t n = (size_t)params->nranks;
    uint64_t *blocks = shape == BLOCKS_EQUAL ? NULL : malloc(2 * n * sizeof(*blocks));
    if (shape != BLOCKS_EQUAL && !blocks)
        return THRUM_ERR_NO_MEMORY;
    if (blocks) {
        lay_out(shape, params->count, params->nranks, blocks, blocks + n);
        params->counts = blocks;
        params->displs = shape == BLOCKS_SPREAD ? blocks + n : NULL;
    }
    thrum_status_t status = prove_load(algo, params, fault, report, proof);
    free(blocks);
    return status;
}

/* Large messages in every number of lanes. */
static thrum_status_t prove_lanes(const struct algo *algo, const struct algo_sweep *sweep,
                                  int nranks, FILE *report, struct algo_proof *proof)
{
    thrum_status_t status = THRUM_OK;
    for (int lanes = 2; lanes <= PLAN_MAX_LANES && !status; lanes++) {
        struct plan_params params = {
            .collective = algo->collective,
            .nranks = nranks,
            .count = large_count(algo->collective, nranks, sweep->quick) / (uint64_t)(lanes - 1),
            .dtype = lanes == 3 ? THRUM_BFLOAT16 : THRUM_FLOAT32,
            .redop = THRUM_SUM,
            .lanes = lanes,
            .scratch_bytes = DEFAULT_SCRATCH_BYTES,
        };
        status = prove_shaped(algo, &params, BLOCKS_EQUAL, sweep->fault, report, proof);
    }
    return status;
}

static thrum_status_t prove_size(const struct algo *algo, const struct algo_sweep *sweep,
                                 int nranks, FILE *report, struct algo_proof *proof)
{
    uint64_t large = large_count(algo->collective, nranks, sweep->quick);
    const struct load loads[] = {
        {0, THRUM_FLOAT32, THRUM_SUM, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {0, THRUM_FLOAT8_E4M3, THRUM_SUM, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {1, THRUM_COMPLEX128, THRUM_AVG, SMALL_SCRATCH_BYTES, BLOCKS_EQUAL},
        {7, THRUM_INT8, THRUM_SUM, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {7, THRUM_INT64, THRUM_LAND, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {5, THRUM_FLOAT8_E4M3, THRUM_MAX, SMALL_SCRATCH_BYTES, BLOCKS_EQUAL},
        {1009, THRUM_BFLOAT16, THRUM_AVG, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {large / 3, THRUM_FLOAT16, THRUM_PROD, SMALL_SCRATCH_BYTES, BLOCKS_EQUAL},
        {large, THRUM_FLOAT32, THRUM_SUM, DEFAULT_SCRATCH_BYTES, BLOCKS_EQUAL},
        {large, THRUM_FLOAT32, THRUM_AVG, SMALL_SCRATCH_BYTES, BLOCKS_EQUAL},
        {7, THRUM_FLOAT32, THRUM_SUM, DEFAULT_SCRATCH_BYTES, BLOCKS_OWN},
        {301, THRUM_FLOAT16, THRUM_SUM, SMALL_SCRATCH_BYTES, BLOCKS_SPREAD},
        {large / 5, THRUM_INT32, THRUM_SUM, SMALL_SCRATCH_BYTES, BLOCKS_SPREAD},
    };
    for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        struct plan_params params = {
            .collective = algo->collective,
            .nranks = nranks,
            .count = loads[i].count,
            .dtype = algo->collective == COLL_SENDRECV ? THRUM_UINT8 : loads[i].dtype,
            .redop = loads[i].redop,
            .lanes = 1,
            .scratch_bytes = loads[i].scratch_bytes,
        };
        if (!wanted(algo->collective, &loads[i], sweep->fault))
            continue;
        thrum_status_t status =
            prove_shaped(algo, &params, loads[i].shape, sweep->fault, report, proof);
        if (status != THRUM_OK)
            return status;
    }
    return algo->flags & ALGO_LANES ? prove_lanes(algo, sweep, nranks, report, proof) : THRUM_OK;
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
