/*
 * reduce_scatter, direct: all meet; each rank folds its block of every SEND, in rank order, into its RECV; departure.
 * Needs peer access. In place, a rank overwrites its own block only, which nobody else reads.
 */
#include "algo/build.h"

static bool everyone(const struct plan_params *params, int rank)
{
    (void)rank;
    return params->count > 0;
}

void algo_reduce_scatter_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t bytes = algo_count_bytes(params), offset = (uint64_t)params->rank * bytes;
    plan_names_stages(plan, false);
    algo_stage_others(plan, PLAN_SEND, 0, bytes * (uint64_t)params->nranks, offset, bytes);
    algo_meet_all(plan);
    algo_fold_all(plan, algo_source_send, offset, 0, bytes, false);
    algo_depart_all(plan, everyone);
}

struct algo_cost algo_reduce_scatter_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 2, .bytes_moved = 4 * 64 * (n - 1) + (n + 1) * bytes};
}
