/*
 * gather, in lines: each rank sends the root its block in a line, data and flag together; for blocks
 * that fit one. Only the root waits.
 */
#include "algo/build.h"

void algo_gather_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    if (rank != root) {
        plan_put_inline(plan, 0, root, algo_send_at(rank, 0), bytes);
        return;
    }
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, (uint64_t)rank * bytes), algo_send_at(rank, 0),
                  bytes);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_wait_inline(plan, 0, peer, bytes);
        plan_copy(plan, 0, algo_recv_at(rank, (uint64_t)peer * bytes), algo_line_of(rank, peer),
                  bytes);
    }
}

struct algo_cost algo_gather_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){
        .steps = 1, .messages = n - 1, .passed_bytes = n * bytes, .copied_bytes = 2 * n * bytes};
}
