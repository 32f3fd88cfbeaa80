/*
 * allgather, recursive doubling (Thakur, Rabenseifner, Gropp 2005, section 4.1): at the step of distance d a rank exchanges
 * with rank ^ d all blocks that each has by then, which lie side by side and go to where they belong at once.
 *
 * Where half of all blocks fit a line, all steps go in lines, for which nobody has to arrive.
 */
#include "algo/build.h"

static bool fits_lines(const struct plan_params *params)
{
    uint64_t half = (uint64_t)params->nranks / 2;
    return !params->counts && algo_count_bytes(params) * half <= plan_line_bytes(params);
}

/* The first step sends from SEND, so that it need not wait for the copy of the own block. */
static struct plan_operand source_of(const struct plan_params *params, int d, int first)
{
    return d == 1 ? algo_send_at(params->rank, 0)
                  : algo_recv_at(params->rank, algo_block_offset(params, first));
}

static void copy_own(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank;
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, algo_block_offset(params, rank)),
                  algo_send_at(rank, 0), algo_block_bytes(params, rank));
}

static void build_with_lines(struct plan *plan, uint64_t bytes)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    plan_runs_ahead(plan);
    for (int d = 1; d < n; d *= 2) {
        int peer = rank ^ d, first = rank & ~(d - 1);
        uint64_t len = (uint64_t)d * bytes;
        plan_put_inline(plan, 0, peer, source_of(params, d, first), len);
        if (d == 1)
            copy_own(plan);
        plan_wait_inline(plan, 0, peer, len);
        plan_copy(plan, 0, algo_recv_at(rank, algo_block_offset(params, first ^ d)),
                  algo_line_of(rank, peer), len);
    }
}

/* Blocks [first, first + d) to the peer: at once, unless their sizes and places are their own. */
static void put_blocks(struct plan *plan, int peer, int first, int d)
{
    const struct plan_params *params = &plan->params;
    int puts = params->counts ? d : 1, blocks = d / puts;
    for (int i = 0; i < puts; i++) {
        uint64_t offset = algo_block_offset(params, first + i);
        plan_put(plan, 0, peer, algo_recv_at(peer, offset), source_of(params, d, first + i),
                 (uint64_t)blocks * algo_block_bytes(params, first + i), (uint64_t)i + 1);
    }
}

static void build_with_puts(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    for (int d = 1; d < n; d *= 2)
        plan_arrive(plan, 0, rank ^ d);
    for (int d = 1; d < n; d *= 2) {
        int peer = rank ^ d;
        plan_wait_arrival(plan, 0, peer);
        put_blocks(plan, peer, rank & ~(d - 1), d);
        if (d == 1)
            copy_own(plan);
        plan_wait(plan, 0, peer, params->counts ? (uint64_t)d : 1);
    }
}

void algo_allgather_recursive_doubling_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    if (fits_lines(&plan->params))
        build_with_lines(plan, algo_count_bytes(&plan->params));
    else
        build_with_puts(plan);
}

struct algo_cost algo_allgather_recursive_doubling_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double levels = algo_log2_ceil(params->nranks);
    if (fits_lines(params)) /* the own block, and out of each line */
        return (struct algo_cost){.steps = levels,
                                  .messages = 2 * levels,
                                  .passed_bytes = 2 * (n - 1) * bytes,
                                  .copied_bytes = 2 * n * bytes,
                                  .lines = true};
    return (struct algo_cost){.steps = levels + 1,
                              .messages = 4 * levels,
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .own_bytes = algo_kept(params, bytes)};
}
