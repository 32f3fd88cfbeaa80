/*
 * scan and exscan, in lines: each rank sends its contribution to all ranks behind it in a line, data and flag
 * together, and folds what it gets in rank order; for what fits one. Nobody waits for a
 * rank behind it.
 */
#include "algo/build.h"

void algo_scan_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    uint64_t bytes = algo_count_bytes(params);
    int ranks = params->collective == COLL_EXSCAN ? rank : rank + 1;
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    for (int peer = rank + 1; peer < n; peer++)
        plan_put_inline(plan, 0, peer, algo_send_at(rank, 0), bytes);
    for (int peer = 0; peer < rank; peer++)
        plan_wait_inline(plan, 0, peer, bytes);
    if (rank > 0 || (ranks == 1 && (!params->in_place || algo_single_is_reduced(params))))
        algo_fold(plan,
                  &(struct algo_fold){
                      .source = algo_source_line, .ranks = ranks, .to = rank, .bytes = bytes});
}

struct algo_cost algo_scan_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){
        .steps = 1, .messages = n - 1, .passed_bytes = n * bytes, .reduced_bytes = 2 * bytes};
}
