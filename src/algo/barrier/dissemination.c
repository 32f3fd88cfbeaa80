/*
 * barrier, dissemination (Hensgen, Finkel, Manber: "Two algorithms for barrier synchronization", 1988): in the round of
 * distance d a rank tells rank + d and hears from rank - d; after ceil(log2(n)) rounds it has heard, through others,
 * from all. Arrivals serve as the messages, so that signatures are compared on the way.
 */
#include "algo/build.h"

void algo_barrier_dissemination_build(struct plan *plan)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    for (int64_t d = 1; d < n; d *= 2) {
        plan_arrive(plan, 0, algo_rank_at(rank, d, n));
        plan_wait_arrival(plan, 0, algo_rank_at(rank, -d, n));
    }
}

struct algo_cost algo_barrier_dissemination_cost(const struct plan_params *params)
{
    double rounds = algo_log2_ceil(params->nranks);
    return (struct algo_cost){.steps = rounds, .messages = 2 * rounds};
}
