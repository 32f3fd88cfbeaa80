/*
 * scatter, direct. With peer access: the root arrives, every rank copies its block from the root's SEND and departs;
 * the departure is a line, so that the root compares signatures too. Without: all meet the root, which puts to each.
 */
#include "algo/build.h"

static struct plan_operand block_of(const struct plan_params *params, int rank)
{
    return algo_send_at(params->root, (uint64_t)rank * algo_count_bytes(params));
}

static void build_root(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    for (int i = 1; params->peer_access && i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(root, i, n));
    for (int i = 1; !params->peer_access && i < n; i++) {
        int peer = algo_rank_at(root, i, n);
        plan_wait_arrival(plan, 0, peer);
        plan_put(plan, 0, peer, algo_recv_at(peer, 0), block_of(params, peer), bytes, 1);
    }
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(root, 0), block_of(params, root), bytes);
    for (int i = 1; params->peer_access && i < n; i++)
        plan_wait_arrival(plan, 0, algo_rank_at(root, i, n));
}

void algo_scatter_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root;
    if (algo_build_alone(plan))
        return;
    if (rank == root) {
        build_root(plan);
    } else if (params->peer_access) {
        plan_wait_arrival(plan, 0, root);
        plan_copy(plan, 0, algo_recv_at(rank, 0), block_of(params, rank), algo_count_bytes(params));
        plan_arrive(plan, 0, root); /* departs */
    } else {
        plan_arrive(plan, 0, root);
        plan_wait(plan, 0, root, 1);
    }
}

struct algo_cost algo_scatter_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double blocks = params->peer_access ? 1 /* each rank its own */
                    : params->layout
                        ? n - 1 /* or the root those of the others, its own meanwhile */
                        : n;
    return (struct algo_cost){.steps = 2,
                              .turns = 1,
                              .messages = 2 * (n - 1),
                              .copied_bytes = 2 * blocks * bytes,
                              .overlap = algo_overlap(n - 1) / 2}; /* arrivals come before */
}
