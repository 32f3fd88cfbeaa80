/*
 * reduce_scatter, pairwise: each rank puts every peer's block to it, which folds all of them in rank order. Every
 * contribution travels once, as it is; for what must be folded in order where only puts reach the peers. See pairwise.h.
 */
#include "algo/pairwise.h"

void algo_reduce_scatter_pairwise_build(struct plan *plan)
{
    pairwise_build(plan);
}

struct algo_cost algo_reduce_scatter_pairwise_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* n - 1 blocks out, n read and one written by the fold */
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (n - 1),
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .reduced_bytes = (n + 1) * bytes};
}
