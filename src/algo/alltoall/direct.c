/*
 * alltoall, direct: all meet; each rank copies its block out of every SEND, its right neighbour's first, so that no two
 * ranks read from the same one at a time; departure. Needs peer access.
 */
#include "algo/build.h"

static bool everyone(const struct plan_params *params, int rank)
{
    (void)rank;
    return params->count > 0;
}

void algo_alltoall_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    uint64_t bytes = algo_count_bytes(params), own = (uint64_t)rank * bytes;
    if (algo_build_alone(plan))
        return;
    algo_meet_all(plan);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_copy(plan, 0, algo_recv_at(rank, (uint64_t)peer * bytes), algo_send_at(peer, own),
                  bytes);
    }
    /* the own block while the peers are at it, or take what has been said to them */
    algo_signal_all(plan, everyone);
    plan_copy(plan, 0, algo_recv_at(rank, own), algo_send_at(rank, own), bytes);
    algo_wait_all(plan, everyone);
}

struct algo_cost algo_alltoall_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 2, .messages = 4 * (n - 1), .copied_bytes = 2 * n * bytes};
}
