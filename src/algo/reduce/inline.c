/*
 * reduce, in lines: each rank sends the root its contribution in a line, data and flag together, and the root folds
 * them in rank order; for what fits one. Only the root waits.
 */
#include "algo/build.h"

void algo_reduce_inline_build(struct plan *plan)
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
    for (int i = 1; i < n; i++)
        plan_wait_inline(plan, 0, algo_rank_at(rank, i, n), bytes);
    algo_fold(plan, &(struct algo_fold){
                        .source = algo_source_line, .ranks = n, .to = root, .bytes = bytes});
}

struct algo_cost algo_reduce_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){
        .steps = 1, .messages = n - 1, .passed_bytes = n * bytes, .reduced_bytes = 2 * bytes};
}
