/*
 * broadcast, in lines over hosts: the root sends one rank of each other host a line, which hands it to the ranks there,
 * and one to each rank of its own host. It waits for nobody.
 */
#include "algo/hosts.h"

static void hand_on(struct plan *plan, const struct hosts *h, struct plan_operand src,
                    uint64_t bytes)
{
    for (int i = 1; i < h->local; i++)
        plan_put_inline(plan, 0, hosts_local(h, algo_rank_at(h->index, i, h->local)), src, bytes);
}

void algo_broadcast_leaders_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root, from;
    uint64_t bytes = algo_count_bytes(params);
    struct hosts h;
    if (algo_build_alone(plan))
        return;
    h = hosts_of(params);
    plan_runs_ahead(plan);
    if (rank == root) {
        for (int k = 1; k < h.n; k++)
            plan_put_inline(plan, 0, hosts_carrier(&h, hosts_at(&h, k), root),
                            algo_send_at(root, 0), bytes);
        hand_on(plan, &h, algo_send_at(root, 0), bytes);
        if (!params->in_place)
            plan_copy(plan, 0, algo_recv_at(root, 0), algo_send_at(root, 0), bytes);
        return;
    }
    from = h.l->host[root] == h.host ? root : hosts_carrier(&h, h.host, root);
    if (from == rank)
        from = root;
    plan_wait_inline(plan, 0, from, bytes);
    plan_copy(plan, 0, algo_recv_at(rank, 0), algo_line_of(rank, from), bytes);
    if (from == root && h.l->host[root] != h.host)
        hand_on(plan, &h, algo_recv_at(rank, 0), bytes);
}

struct algo_cost algo_broadcast_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1,
                              .messages = local - 1,
                              .passed_bytes = 2 * (local - 1) * bytes,
                              .copied_bytes = 2 * bytes,
                              .net_steps = 1,
                              .net_messages = (n - 1) / hosts_leaders_share(params),
                              .net_bytes = (n - 1) * bytes / hosts_leaders_share(params),
                              .port_bytes = (n - 1) * bytes,
                              .overlap = algo_overlap(n - 1)};
}
