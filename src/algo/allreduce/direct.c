/*
 * allreduce, direct: arrival; one pass in which each rank folds its slice of every SEND, in rank order, and writes it
 * to every RECV; departure. Every byte moves once; needs peer access.
 *
 * In place it is right too: slice r of all buffers is read and written by rank r alone.
 */
#include "algo/build.h"

void algo_allreduce_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t offset = algo_slice_offset(params, params->rank);
    uint64_t bytes = algo_slice_bytes(params, params->rank), all = algo_count_bytes(params);
    plan_names_stages(plan, true);
    algo_stage_others(plan, PLAN_SEND, 0, all, offset, bytes);
    algo_meet_all(plan);
    algo_fold(plan, &(struct algo_fold){.source = algo_source_send,
                                        .ranks = params->nranks,
                                        .to = ALGO_EVERYWHERE,
                                        .offset = offset,
                                        .dst_offset = offset,
                                        .bytes = bytes});
    algo_depart_all(plan, algo_has_slice);
    algo_stage_others(plan, PLAN_RECV, 0, all, offset, bytes);
}

struct algo_cost algo_allreduce_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* arrivals and departures to and from every peer; n slices read, n written */
    return (struct algo_cost){.steps = 2, .messages = 4 * (n - 1), .reduced_bytes = 2 * bytes};
}
