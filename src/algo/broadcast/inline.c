/*
 * broadcast, in lines: the root sends each peer a line, data and flag together; for what fits one. It
 * waits for nobody.
 */
#include "algo/build.h"

void algo_broadcast_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    if (rank != root) {
        plan_wait_inline(plan, 0, root, bytes);
        plan_copy(plan, 0, algo_recv_at(rank, 0), algo_line_of(rank, root), bytes);
        return;
    }
    for (int i = 1; i < n; i++)
        plan_put_inline(plan, 0, algo_rank_at(rank, i, n), algo_send_at(rank, 0), bytes);
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, 0), algo_send_at(rank, 0), bytes);
}

struct algo_cost algo_broadcast_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){
        .steps = 1, .messages = n - 1, .passed_bytes = n * bytes, .copied_bytes = 2 * bytes};
}
