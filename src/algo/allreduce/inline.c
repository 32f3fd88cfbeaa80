/*
 * allreduce, one shot in lines: each rank sends its contribution in a line, data and flag together, to every peer
 * and folds all of them itself, in rank order. One exchange; for contributions that fit one. The idea is
 * that of NCCL's LL protocol.
 */
#include "algo/build.h"

void algo_allreduce_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    int n = params->nranks, rank = params->rank;
    uint64_t bytes = algo_count_bytes(params);
    for (int i = 1; i < n; i++)
        plan_put_inline(plan, 0, algo_rank_at(rank, i, n), algo_send_at(rank, 0), bytes);
    for (int i = 1; i < n; i++)
        plan_wait_inline(plan, 0, algo_rank_at(rank, i, n), bytes);
    algo_fold(plan, &(struct algo_fold){
                        .source = algo_source_line, .ranks = n, .to = rank, .bytes = bytes});
}

struct algo_cost algo_allreduce_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1,
                              .messages = 2 * (n - 1),
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .reduced_bytes = 2 * bytes};
}
