/*
 * reduce, direct: arrival; each rank folds its slice of every SEND, in rank order, and writes it into the root's RECV;
 * departure. Every byte moves once and all ranks share the work; needs peer access.
 *
 * In place it is right too: slice r of the root's buffer is read and written by rank r alone.
 */
#include "algo/build.h"

void algo_reduce_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t offset = algo_slice_offset(params, params->rank);
    algo_meet_all(plan);
    algo_fold(plan, &(struct algo_fold){.source = algo_source_send,
                                        .ranks = params->nranks,
                                        .to = params->root,
                                        .offset = offset,
                                        .dst_offset = offset,
                                        .bytes = algo_slice_bytes(params, params->rank)});
    algo_depart_all(plan, algo_has_slice);
}

struct algo_cost algo_reduce_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* n slices read, one written */
    return (struct algo_cost){
        .steps = 2, .messages = 4 * (n - 1), .reduced_bytes = bytes + bytes / n};
}
