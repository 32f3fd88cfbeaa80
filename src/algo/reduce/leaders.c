/*
 * reduce, in lines over hosts: the ranks of a host send their contributions to one of them, which folds them and sends
 * the root one line; the root folds those with what the ranks of its own host have sent. Only who folds waits.
 */
#include "algo/hosts.h"
#include "base/base.h"

/* The own host's contributions, then the other hosts' partial results. */
static void build_root(struct plan *plan, const struct hosts *h, uint64_t bytes)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], recv = algo_recv_at(h->rank, 0);
    int n;
    hosts_await_lines(plan, h, bytes);
    n = hosts_lines(h, srcs);
    for (int k = 1; k < h->n; k++) {
        int from = hosts_carrier(h, hosts_at(h, -k), h->rank);
        plan_wait_inline(plan, 0, from, bytes);
        srcs[n++] = algo_line_of(h->rank, from);
    }
    plan_reduce(plan, 0, PLAN_FINAL, &recv, 1, srcs, n, bytes);
}

void algo_reduce_leaders_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root, to;
    uint64_t bytes = algo_count_bytes(params);
    struct plan_operand srcs[PLAN_MAX_OPERANDS], mine = algo_send_at(rank, 0);
    struct hosts h;
    if (algo_build_alone(plan))
        return;
    h = hosts_of(params);
    plan_runs_ahead(plan);
    if (rank == root) {
        build_root(plan, &h, bytes);
        return;
    }
    to = h.l->host[root] == h.host ? root : hosts_carrier(&h, h.host, root);
    if (to == rank) {
        to = root;
        if (h.local > 1) {
            mine = algo_scratch_at(rank, 0);
            hosts_await_lines(plan, &h, bytes);
            plan_reduce(plan, 0, 0, &mine, 1, srcs, hosts_lines(&h, srcs), bytes);
        }
    }
    plan_put_inline(plan, 0, to, mine, bytes);
}

struct algo_cost algo_reduce_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1,
                              .messages = local - 1,
                              .passed_bytes = 2 * (local - 1) * bytes,
                              .reduced_bytes = 4 * bytes,
                              .net_steps = 1,
                              .net_messages = (n - 1) / hosts_leaders_share(params),
                              .net_bytes = bytes / hosts_leaders_share(params),
                              .port_bytes = bytes};
}
