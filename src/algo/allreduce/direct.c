/*
 * allreduce, direct: arrival; one pass in which each rank folds its slice of every SEND, in rank order, and writes it
 * to every RECV; departure. Every byte moves once; needs peer access.
 *
 * In place it is right too: slice r of all buffers is read and written by rank r alone.
 *
 * Of a large message each lane folds a part of the slice, with departures of its own, so that a device with several
 * engines works on all of them at once.
 */
#include "algo/build.h"
#include "base/base.h"

#define LANE_MIN_BYTES 8192 /* of a slice; for less another queue is not worth waking */

/* As many on every rank. */
static int lanes_of(const struct plan_params *params)
{
    uint64_t least = params->count / (uint64_t)params->nranks * algo_elem_bytes(params);
    uint64_t lanes = min_u64(least / LANE_MIN_BYTES, (uint64_t)params->lanes);

    return lanes < 2 || 2 * params->nranks > PLAN_MAX_OPERANDS ? 1 : (int)lanes;
}

/* The bytes [offset, offset + bytes) of everything, by this rank. */
static void fold(struct plan *plan, int lane, uint64_t offset, uint64_t bytes)
{
    algo_fold(plan, &(struct algo_fold){.source = algo_source_send,
                                        .ranks = plan->params.nranks,
                                        .to = ALGO_EVERYWHERE,
                                        .lane = lane,
                                        .offset = offset,
                                        .dst_offset = offset,
                                        .bytes = bytes});
}

/* Lane 0 has sent the arrivals. */
static void build_lane(struct plan *plan, int lane, uint64_t offset, uint64_t bytes)
{
    int n = plan->params.nranks, rank = plan->params.rank;

    for (int i = 1; i < n; i++)
        plan_wait_arrival(plan, lane, algo_rank_at(rank, i, n));
    fold(plan, lane, offset, bytes);
    for (int i = 1; i < n; i++)
        plan_signal(plan, lane, algo_rank_at(rank, i, n), 1);
    for (int i = 1; i < n; i++)
        plan_wait(plan, lane, algo_rank_at(rank, i, n), 1);
}

static void build_lanes(struct plan *plan, int lanes, uint64_t offset, uint64_t bytes)
{
    uint64_t elem = algo_elem_bytes(&plan->params), elems = bytes / elem;
    int n = plan->params.nranks;

    for (int i = 1; i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(plan->params.rank, i, n));
    for (int lane = 0; lane < lanes; lane++) {
        uint64_t first = algo_slice(elems, lanes, lane), end = algo_slice(elems, lanes, lane + 1);
        build_lane(plan, lane, offset + first * elem, (end - first) * elem);
    }
}

void algo_allreduce_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t offset = algo_slice_offset(params, params->rank);
    uint64_t bytes = algo_slice_bytes(params, params->rank), all = algo_count_bytes(params);
    int lanes = lanes_of(params);
    if (lanes > 1) {
        build_lanes(plan, lanes, offset, bytes);
        return;
    }
    plan_names_stages(plan, true);
    algo_stage_others(plan, PLAN_SEND, 0, all, offset, bytes);
    algo_meet_all(plan);
    fold(plan, 0, offset, bytes);
    algo_depart_all(plan, algo_has_slice);
    algo_stage_others(plan, PLAN_RECV, 0, all, offset, bytes);
}

struct algo_cost algo_allreduce_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* arrivals and departures to and from every peer; n slices read, n written */
    return (struct algo_cost){.steps = 2, .messages = 4 * (n - 1), .reduced_bytes = 2 * bytes};
}
