/*
 * gather, direct: the root arrives; every rank writes its block into the root's RECV. With peer access all copy at the
 * same time and depart with a line, so that the root compares signatures too; otherwise they put.
 */
#include "algo/build.h"

static void build_root(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    for (int i = 1; i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(root, i, n));
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(root, (uint64_t)root * bytes), algo_send_at(root, 0),
                  bytes);
    for (int i = 1; i < n; i++) {
        if (params->peer_access)
            plan_wait_arrival(plan, 0, algo_rank_at(root, i, n));
        else
            plan_wait(plan, 0, algo_rank_at(root, i, n), 1);
    }
}

void algo_gather_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root;
    uint64_t bytes = algo_count_bytes(params);
    struct plan_operand dst = algo_recv_at(root, (uint64_t)rank * bytes);
    if (algo_build_alone(plan))
        return;
    if (rank == root) {
        build_root(plan);
        return;
    }
    plan_wait_arrival(plan, 0, root);
    if (params->peer_access) {
        plan_copy(plan, 0, dst, algo_send_at(rank, 0), bytes);
        plan_arrive(plan, 0, root); /* departs */
    } else {
        plan_put(plan, 0, root, dst, algo_send_at(rank, 0), bytes, 1);
    }
}

struct algo_cost algo_gather_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* each rank its own block, at the same time */
    return (struct algo_cost){.steps = 2,
                              .turns = 1,
                              .messages = 2 * (n - 1),
                              .copied_bytes = 2 * bytes,
                              .overlap = algo_overlap(n - 1)};
}
