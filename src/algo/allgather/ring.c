/*
 * allgather, ring: at step s a rank hands the block of rank - s to its right neighbour, straight into its RECV. Each
 * block of a RECV is written once, so nothing needs room or credit.
 */
#include "algo/build.h"

void algo_allgather_ring_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    int n = params->nranks, rank = params->rank;
    int left = algo_rank_at(rank, -1, n), right = algo_rank_at(rank, 1, n);
    uint64_t bytes = algo_block_bytes(params, rank), own = algo_block_offset(params, rank);
    algo_meet_two(plan, right, left);
    if (params->count == 0)
        return;

    plan_put(plan, 0, right, algo_recv_at(right, own), algo_send_at(rank, 0), bytes, 1);
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, own), algo_send_at(rank, 0), bytes);
    for (int step = 1; step < n && plan->status == THRUM_OK; step++) {
        int block = algo_rank_at(rank, -step, n);
        uint64_t offset = algo_block_offset(params, block);
        plan_wait(plan, 0, left, (uint64_t)step);
        if (step < n - 1)
            plan_put(plan, 0, right, algo_recv_at(right, offset), algo_recv_at(rank, offset),
                     algo_block_bytes(params, block), (uint64_t)step + 1);
    }
}

struct algo_cost algo_allgather_ring_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = n,
                              .messages = 2 * n + 2,
                              .passed_bytes = 2 * (n - 1) * bytes,
                              .own_bytes = algo_kept(params, bytes)};
}
