/*
 * allreduce, pairwise: each rank folds its slice of all contributions, which the others have put to it, in rank order,
 * and puts the result to all. Contributions and results travel once, as they are: what the rings move with fewer
 * messages, but in order, rounded once, and in two steps. See pairwise.h.
 */
#include "algo/pairwise.h"

void algo_allreduce_pairwise_build(struct plan *plan)
{
    pairwise_build(plan);
}

struct algo_cost algo_allreduce_pairwise_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 3,
                              .messages = 6 * (n - 1),
                              .passed_bytes = 4 * bytes * (n - 1) / n,
                              .reduced_bytes = bytes * (n + 1) / n};
}
