/*
 * broadcast, scatter and allgather (Barnett, Gupta, Payne, Shuler, van de Geijn, Watts: "Building a high-performance
 * collective communication library", 1994): the root puts a slice to every rank, and every rank puts its slice to all
 * others as soon as it has it. The root sends everything once, and so does, all together, each of the others.
 */
#include "algo/build.h"

/* From the root: this rank's slice is 1, the root's own 2. From the others, their own is 1. */
static void build_root(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, root = params->root;
    for (int pass = 1; pass <= 2; pass++)
        for (int i = 1; i < n; i++) {
            int peer = algo_rank_at(root, i, n), slice = pass == 1 ? peer : root;
            uint64_t offset = algo_slice_offset(params, slice);
            plan_put(plan, 0, peer, algo_recv_at(peer, offset), algo_send_at(root, offset),
                     algo_slice_bytes(params, slice), (uint64_t)pass);
        }
    if (!params->in_place)
        plan_copy(plan, 0, algo_recv_at(root, 0), algo_send_at(root, 0), algo_count_bytes(params));
}

static void build_other(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank, root = params->root;
    uint64_t offset = algo_slice_offset(params, rank);
    plan_wait(plan, 0, root, 1);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        if (peer != root)
            plan_put(plan, 0, peer, algo_recv_at(peer, offset), algo_recv_at(rank, offset),
                     algo_slice_bytes(params, rank), 1);
    }
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, -i, n);
        plan_wait(plan, 0, peer, peer == root ? 2 : 1);
    }
}

void algo_broadcast_scatter_allgather_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    algo_meet_all(plan);
    if (params->count == 0)
        return;
    if (params->rank == params->root)
        build_root(plan);
    else
        build_other(plan);
}

struct algo_cost algo_broadcast_scatter_allgather_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    /* the last slice leaves the root when all others have; then its owner puts it to all */
    return (struct algo_cost){.steps = 3,
                              .messages = 4 * (n - 1),
                              .passed_bytes = 2 * bytes * (2 * n - 1) / n,
                              .overlap = algo_overlap(n - 1)};
}
