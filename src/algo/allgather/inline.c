/*
 * allgather, in lines: each rank sends every peer its block in a line, data and flag together; for blocks
 * that fit one.
 */
#include "algo/build.h"

void algo_allgather_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    uint64_t bytes = algo_block_bytes(params, rank);
    for (int i = 1; i < n; i++)
        plan_put_inline(plan, 0, algo_rank_at(rank, i, n), algo_send_at(rank, 0), bytes);
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, algo_block_offset(params, rank)),
                  algo_send_at(rank, 0), bytes);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_wait_inline(plan, 0, peer, algo_block_bytes(params, peer));
        plan_copy(plan, 0, algo_recv_at(rank, algo_block_offset(params, peer)),
                  algo_line_of(rank, peer), algo_block_bytes(params, peer));
    }
}

struct algo_cost algo_allgather_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1,
                              .messages = 2 * (n - 1),
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .copied_bytes = 2 * n * bytes};
}
