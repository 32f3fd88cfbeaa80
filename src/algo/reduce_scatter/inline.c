/*
 * reduce_scatter, in lines: each rank sends every peer that peer's block in a line, data and flag together, and
 * folds what it gets in rank order; for blocks that fit one.
 */
#include "algo/build.h"

void algo_reduce_scatter_inline_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_put_inline(plan, 0, peer, algo_send_at(rank, algo_block_offset(params, peer)),
                        algo_block_bytes(params, peer));
    }
    for (int i = 1; i < n; i++)
        plan_wait_inline(plan, 0, algo_rank_at(rank, i, n), algo_block_bytes(params, rank));
    algo_fold(plan, &(struct algo_fold){.source = algo_source_line,
                                        .ranks = n,
                                        .to = rank,
                                        .offset = algo_block_offset(params, rank),
                                        .bytes = algo_block_bytes(params, rank)});
}

struct algo_cost algo_reduce_scatter_inline_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1,
                              .messages = 2 * (n - 1),
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .reduced_bytes = 2 * bytes};
}
