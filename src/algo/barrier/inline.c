/*
 * barrier, in lines: each rank sends every peer an empty line and waits for one of each. One exchange, where
 * dissemination takes log2(n) of them with fewer lines.
 */
#include "algo/build.h"

void algo_barrier_inline_build(struct plan *plan)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    if (algo_build_alone(plan))
        return;
    plan_runs_ahead(plan);
    for (int i = 1; i < n; i++)
        plan_put_inline(plan, 0, algo_rank_at(rank, i, n), algo_send_at(rank, 0), 0);
    for (int i = 1; i < n; i++)
        plan_wait_inline(plan, 0, algo_rank_at(rank, i, n), 0);
}

struct algo_cost algo_barrier_inline_cost(const struct plan_params *params)
{
    double n = params->nranks;
    return (struct algo_cost){.steps = 1, .messages = 2 * (n - 1)};
}
