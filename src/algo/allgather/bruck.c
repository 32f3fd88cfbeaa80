/*
 * allgather, Bruck (Bruck, Ho, Kipnis, Upfal, Weathersby: "Efficient algorithms for all-to-all communications in
 * multiport message-passing systems", 1997): at the step of distance d a rank sends the min(d, n - d) blocks from its
 * own onwards to rank - d.
 *
 * Puts place blocks where they belong in RECV at once: as many as wrap around the end go as a second put, and the
 * rotation at the end of the paper's version is not needed. Where all that a step sends fits a line, it goes in one; then
 * blocks are collected in scratch, this rank's own first, and rotated at the end.
 */
#include "algo/build.h"
#include "base/base.h"

static int64_t blocks_at(int64_t distance, int n)
{
    return distance < n - distance ? distance : n - distance;
}

/* The blocks [first, first + blocks) of RECV, modulo n, are at most two runs. */
struct runs {
    uint64_t offset[2], bytes[2];
};
static struct runs runs_of(int first, int64_t blocks, int n, uint64_t block_bytes)
{
    int64_t before_end = blocks < n - first ? blocks : n - first;
    return (struct runs){
        .offset = {(uint64_t)first * block_bytes, 0},
        .bytes = {(uint64_t)before_end * block_bytes,
                  (uint64_t)(blocks - before_end) * block_bytes},
    };
}

/* The blocks from `first` on to a rank: as two runs at most where they lie side by side, else one by one. */
static void put_blocks(struct plan *plan, int to, int first, int64_t blocks)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    struct runs runs = runs_of(first, blocks, n, algo_count_bytes(params));
    for (int i = 0; !params->counts && i < (runs.bytes[1] > 0 ? 2 : 1); i++)
        plan_put(plan, 0, to, algo_recv_at(to, runs.offset[i]),
                 blocks == 1 && first == rank ? algo_send_at(rank, 0)
                                              : algo_recv_at(rank, runs.offset[i]),
                 runs.bytes[i], (uint64_t)i + 1);
    for (int64_t i = 0; params->counts && i < blocks; i++) {
        int block = algo_rank_at(first, i, n);
        uint64_t offset = algo_block_offset(params, block);
        plan_put(plan, 0, to, algo_recv_at(to, offset),
                 block == rank ? algo_send_at(rank, 0) : algo_recv_at(rank, offset),
                 algo_block_bytes(params, block), (uint64_t)i + 1);
    }
}

static uint64_t last_value(const struct plan_params *params, int first, int64_t blocks)
{
    struct runs runs = runs_of(first, blocks, params->nranks, algo_count_bytes(params));
    return params->counts ? (uint64_t)blocks : runs.bytes[1] > 0 ? 2 : 1;
}

static void build_with_puts(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    for (int64_t d = 1; d < n; d *= 2)
        plan_arrive(plan, 0, algo_rank_at(rank, d, n)); /* who will write here */
    for (int64_t d = 1; d < n; d *= 2) {
        int to = algo_rank_at(rank, -d, n), from = algo_rank_at(rank, d, n);
        plan_wait_arrival(plan, 0, to);
        put_blocks(plan, to, rank, blocks_at(d, n));
        if (d == 1 && !params->in_place)
            plan_copy(plan, 0, algo_recv_at(rank, algo_block_offset(params, rank)),
                      algo_send_at(rank, 0), algo_block_bytes(params, rank));
        plan_wait(plan, 0, from, last_value(params, from, blocks_at(d, n)));
    }
}

static void build_with_lines(struct plan *plan, uint64_t bytes)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    plan_copy(plan, 0, algo_scratch_at(rank, 0), algo_send_at(rank, 0), bytes);
    for (int64_t d = 1; d < n; d *= 2) {
        int to = algo_rank_at(rank, -d, n), from = algo_rank_at(rank, d, n);
        uint64_t len = (uint64_t)blocks_at(d, n) * bytes;
        plan_put_inline(plan, 0, to, algo_scratch_at(rank, 0), len);
        plan_wait_inline(plan, 0, from, len);
        plan_copy(plan, 0, algo_scratch_at(rank, (uint64_t)d * bytes), algo_line_of(rank, from),
                  len);
    }
    /* Block i of the scratch is that of rank + i. */
    struct runs runs = runs_of(rank, n, n, bytes);
    plan_copy(plan, 0, algo_recv_at(rank, runs.offset[0]), algo_scratch_at(rank, 0), runs.bytes[0]);
    plan_copy(plan, 0, algo_recv_at(rank, runs.offset[1]), algo_scratch_at(rank, runs.bytes[0]),
              runs.bytes[1]);
}

static bool fits_lines(const struct plan_params *params)
{
    uint64_t largest = ((uint64_t)params->nranks + 1) / 2;
    return !params->counts && algo_count_bytes(params) * largest <= plan_line_bytes(params);
}

void algo_allgather_bruck_build(struct plan *plan)
{
    uint64_t bytes = algo_count_bytes(&plan->params);
    if (algo_build_alone(plan))
        return;
    if (fits_lines(&plan->params))
        build_with_lines(plan, bytes);
    else
        build_with_puts(plan);
}

struct algo_cost algo_allgather_bruck_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double levels = algo_log2_ceil(params->nranks);
    if (fits_lines(params)) /* into the scratch, out of each line, and into RECV at the end */
        return (struct algo_cost){.steps = levels,
                                  .messages = 2 * levels,
                                  .passed_bytes = 2 * (n - 1) * bytes,
                                  .copied_bytes = 4 * n * bytes,
                                  .lines = true};
    return (struct algo_cost){.steps = levels + 1,
                              .messages = 6 * levels,
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .own_bytes = algo_kept(params, bytes)};
}
