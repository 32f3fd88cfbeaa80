/*
 * broadcast, sliced: all meet; each rank copies its slice of the root's SEND to every RECV, so that the root's bytes
 * are read once and the copying is shared; departure. Needs peer access.
 *
 * In place it is right too: the root's slices are then copied onto themselves.
 */
#include "algo/build.h"

#define MOST_DESTINATIONS (PLAN_MAX_OPERANDS / 2) /* of one COPY */

void algo_broadcast_sliced_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    struct plan_operand dsts[MOST_DESTINATIONS];

    if (algo_build_alone(plan))
        return;
    uint64_t offset = algo_slice_offset(params, rank);
    algo_meet_all(plan);
    for (int done = 0, batch; done < n; done += batch) {
        batch = n - done < MOST_DESTINATIONS ? n - done : MOST_DESTINATIONS;
        for (int i = 0; i < batch; i++)
            dsts[i] = algo_recv_at(algo_rank_at(rank, done + i, n), offset);
        plan_copy_multi(plan, 0, dsts, batch, algo_send_at(params->root, offset),
                        algo_slice_bytes(params, rank));
    }
    algo_depart_all(plan, algo_has_slice);
}

struct algo_cost algo_broadcast_sliced_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);

    return (struct algo_cost){
        .steps = 2, .messages = 4 * (n - 1), .copied_bytes = bytes / n + bytes};
}
