/*
 * reduce_scatter, direct: all meet; each rank folds its block of every SEND, in rank order, into its RECV; departure.
 * Needs peer access. In place, a rank overwrites its own block only, which nobody else reads.
 */
#include "algo/build.h"

static bool has_block(const struct plan_params *params, int rank)
{
    return plan_block_elems(params, rank) > 0;
}

void algo_reduce_scatter_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    plan_names_stages(plan, false);
    algo_stage_blocks(plan, PLAN_SEND);
    algo_meet_all(plan);
    algo_fold(plan, &(struct algo_fold){.source = algo_source_send,
                                        .ranks = params->nranks,
                                        .to = params->rank,
                                        .offset = algo_block_offset(params, params->rank),
                                        .bytes = algo_block_bytes(params, params->rank)});
    algo_depart_all(plan, has_block);
}

struct algo_cost algo_reduce_scatter_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){
        .steps = 2, .messages = 4 * (n - 1), .reduced_bytes = (n + 1) * bytes};
}
