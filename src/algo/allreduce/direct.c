/*
 * allreduce, direct: arrival; one pass in which each rank folds its slice of every SEND, in rank order, and writes it
 * to every RECV; departure. Every byte moves once; needs peer access.
 *
 * In place it is right too: slice r of all buffers is read and written by rank r alone.
 */
#include "algo/build.h"

static uint64_t slice_elems(const struct plan_params *params, int rank)
{
    return algo_slice(params->count, params->nranks, rank + 1) -
           algo_slice(params->count, params->nranks, rank);
}

static bool has_slice(const struct plan_params *params, int rank)
{
    return slice_elems(params, rank) > 0;
}

void algo_allreduce_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t elem = algo_elem_bytes(params);
    uint64_t offset = algo_slice(params->count, params->nranks, params->rank) * elem;
    uint64_t bytes = slice_elems(params, params->rank) * elem, all = algo_count_bytes(params);
    plan_names_stages(plan, true);
    algo_stage_others(plan, PLAN_SEND, 0, all, offset, bytes);
    algo_meet_all(plan);
    algo_fold_all(plan, algo_source_send, offset, offset, bytes, true);
    algo_depart_all(plan, has_slice);
    algo_stage_others(plan, PLAN_RECV, 0, all, offset, bytes);
}

struct algo_cost algo_allreduce_direct_cost(const struct plan_params *params)
{
    double n = params->nranks;
    /* arrivals and departures are a line to and from every peer; n slices read, n written */
    return (struct algo_cost){
        .steps = 2, .bytes_moved = 4 * 64 * (n - 1) + 2 * (double)algo_count_bytes(params)};
}
