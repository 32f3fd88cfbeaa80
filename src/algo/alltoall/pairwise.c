/*
 * alltoall, pairwise (Thakur, Rabenseifner, Gropp 2005, section 4.4): all meet; at step i a rank puts a block to rank + i
 * and will get one from rank - i. Nothing stands between two steps: every block has its own place in RECV.
 */
#include "algo/build.h"

void algo_alltoall_pairwise_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    uint64_t bytes = algo_count_bytes(params), own = (uint64_t)rank * bytes;
    if (algo_build_alone(plan))
        return;
    for (int i = 1; i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(rank, -i, n)); /* who puts here at step i */
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_wait_arrival(plan, 0, peer);
        plan_put(plan, 0, peer, algo_recv_at(peer, own), algo_send_at(rank, (uint64_t)peer * bytes),
                 bytes, 1);
    }
    plan_copy(plan, 0, algo_recv_at(rank, own), algo_send_at(rank, own), bytes);
    for (int i = 1; i < n; i++)
        plan_wait(plan, 0, algo_rank_at(rank, -i, n), 1);
}

struct algo_cost algo_alltoall_pairwise_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double puts = params->layout ? n - 1 : n; /* its own meanwhile */
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (n - 1),
                              .copied_bytes = 2 * puts * bytes,
                              .overlap = algo_overlap(n - 1) / 2}; /* arrivals come before */
}
