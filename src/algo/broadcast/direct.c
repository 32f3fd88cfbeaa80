/*
 * broadcast, direct. With peer access: the root arrives, every rank copies from its SEND and departs; all ranks copy at
 * the same time and the root does not wait for anyone before the end. The departure is a line, so that the root compares
 * signatures too. Without peer access: all meet the root, which puts to each.
 */
#include "algo/build.h"

static void build_root(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    bool put = !params->peer_access && bytes > 0;
    plan_stage(plan, PLAN_SEND, 0, bytes);
    for (int i = 1; i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(root, i, n));
    for (int i = 1; put && i < n; i++) {
        int peer = algo_rank_at(root, i, n);
        plan_wait_arrival(plan, 0, peer);
        plan_put(plan, 0, peer, algo_recv_at(peer, 0), algo_send_at(root, 0), bytes, 1);
    }
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(root, 0), algo_send_at(root, 0), bytes);
    for (int i = 1; !put && i < n; i++)
        plan_wait_arrival(plan, 0, algo_rank_at(root, i, n));
}

static void build_other(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    if (params->peer_access || bytes == 0) {
        plan_wait_arrival(plan, 0, root);
        plan_copy(plan, 0, algo_recv_at(rank, 0), algo_send_at(root, 0), bytes);
        plan_arrive(plan, 0, root); /* departs */
    } else {
        plan_arrive(plan, 0, root);
        plan_wait_arrival(plan, 0, root);
        plan_wait(plan, 0, root, 1);
    }
}

void algo_broadcast_direct_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    if (plan->params.peer_access)
        plan_names_stages(plan, false);
    if (plan->params.rank == plan->params.root)
        build_root(plan);
    else
        build_other(plan);
}

struct algo_cost algo_broadcast_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double copies = params->peer_access ? 1 : n - 1;
    return (struct algo_cost){.steps = 2,
                              .turns = 1,
                              .messages = (params->layout ? 3 : 2) * (n - 1),
                              .copied_bytes = 2 * copies * bytes,
                              .overlap = algo_overlap(n - 1) / 2}; /* arrivals come before */
}
