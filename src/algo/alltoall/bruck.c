/*
 * alltoall, Bruck (Bruck, Ho, Kipnis, Upfal, Weathersby 1997): the block that has i ranks to go travels 2^j of them at
 * level j if bit j of i is set, together with all others of which that is true. log2(n) messages of n / 2 blocks instead
 * of n - 1 of one: for small blocks among many ranks.
 *
 * A level's blocks are collected side by side, in scratch, and stay where they land: a block is in the region of the
 * highest level that it has travelled so far, or still in SEND. So nothing is rotated before or after.
 */
#include "algo/build.h"

struct bruck {
    int n, rank, levels;
    uint64_t block;
};

static void bruck_init(struct bruck *b, const struct plan_params *params)
{
    *b = (struct bruck){.n = params->nranks,
                        .rank = params->rank,
                        .levels = algo_log2_ceil(params->nranks),
                        .block = algo_count_bytes(params)};
}

/* How many distances below i have bit `level` set. */
static int index_at(int i, int level)
{
    int period = 2 << level, rest = i % period - (1 << level);
    return i / period * (1 << level) + (rest > 0 ? rest : 0);
}

/* Regions: what comes in at each level, then what goes out. */
static struct plan_operand region(const struct bruck *b, int rank, int level, bool out, int i)
{
    uint64_t before = 0;
    for (int l = 0; l < (out ? b->levels + level : level); l++)
        before += (uint64_t)index_at(b->n, l % b->levels);
    return algo_scratch_at(rank, (before + (uint64_t)index_at(i, level)) * b->block);
}

bool algo_alltoall_bruck_fits(const struct plan_params *params)
{
    uint64_t blocks = (uint64_t)params->nranks * (uint64_t)algo_log2_ceil(params->nranks);
    return blocks == 0 || algo_count_bytes(params) <= params->scratch_bytes / blocks;
}

/* Where the block with distance i is before a level. */
static struct plan_operand current(const struct bruck *b, int level, int i)
{
    int travelled = i & ((1 << level) - 1);
    if (travelled == 0)
        return algo_send_at(b->rank, (uint64_t)algo_rank_at(b->rank, i, b->n) * b->block);
    return region(b, b->rank, algo_log2_floor(travelled), false, i);
}

static void build_level(struct plan *plan, const struct bruck *b, int level)
{
    int step = 1 << level, to = algo_rank_at(b->rank, step, b->n);
    for (int i = step; i < b->n; i++)
        if (i & step)
            plan_copy(plan, 0, region(b, b->rank, level, true, i), current(b, level, i), b->block);
    plan_wait_arrival(plan, 0, to);
    plan_put(plan, 0, to, region(b, to, level, false, step), region(b, b->rank, level, true, step),
             (uint64_t)index_at(b->n, level) * b->block, 1);
    plan_wait(plan, 0, algo_rank_at(b->rank, -step, b->n), 1);
}

void algo_alltoall_bruck_build(struct plan *plan)
{
    struct bruck b;
    if (algo_build_alone(plan))
        return;
    bruck_init(&b, &plan->params);
    for (int level = 0; level < b.levels; level++)
        plan_arrive(plan, 0, algo_rank_at(b.rank, -(1 << level), b.n));
    for (int level = 0; level < b.levels; level++)
        build_level(plan, &b, level);
    for (int i = 0; i < b.n; i++) { /* has come from the rank i places back */
        uint64_t from = (uint64_t)algo_rank_at(b.rank, -i, b.n);
        plan_copy(plan, 0, algo_recv_at(b.rank, from * b.block), current(&b, b.levels, i), b.block);
    }
}

struct algo_cost algo_alltoall_bruck_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double levels = algo_log2_ceil(params->nranks);
    /* half of the blocks collected and put at each level, and all where they belong at the end */
    return (struct algo_cost){.steps = 1 + levels,
                              .messages = 4 * levels,
                              .passed_bytes = levels * n * bytes,
                              .own_bytes = (levels + 2) * n * bytes};
}
