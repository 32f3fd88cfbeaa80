/*
 * allreduce, in lines over hosts: the ranks of a host send their contributions to the first of them, its leader, which
 * folds them; leaders exchange what they have and fold it in the order of hosts, so that all compute the same bits; each
 * hands the result to its host. One message between each two hosts and direction, where "inline" sends one between each
 * two ranks: putting one takes far longer than an exchange inside a host.
 */
#include "algo/hosts.h"
#include "base/base.h"

/* The lines of this host, in the leader's scratch; alone on its host its SEND is that. */
static struct plan_operand fold_host(struct plan *plan, const struct hosts *h, uint64_t bytes)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], partial = algo_scratch_at(h->rank, 0);
    if (h->local == 1)
        return algo_send_at(h->rank, 0);
    hosts_await_lines(plan, h, bytes);
    plan_reduce(plan, 0, 0, &partial, 1, srcs, hosts_lines(h, srcs), bytes);
    return partial;
}

static void build_leader(struct plan *plan, const struct hosts *h, uint64_t bytes)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], recv = algo_recv_at(h->rank, 0);
    struct plan_operand partial = fold_host(plan, h, bytes);
    for (int k = 1; k < h->n; k++)
        plan_put_inline(plan, 0, hosts_leader(h, hosts_at(h, k)), partial, bytes);
    for (int k = 1; k < h->n; k++)
        plan_wait_inline(plan, 0, hosts_leader(h, hosts_at(h, -k)), bytes);
    for (int host = 0; host < h->n; host++)
        srcs[host] = host == h->host ? partial : algo_line_of(h->rank, hosts_leader(h, host));
    plan_reduce(plan, 0, PLAN_FINAL, &recv, 1, srcs, h->n, bytes);
    for (int i = 1; i < h->local; i++)
        plan_put_inline(plan, 0, hosts_local(h, i), recv, bytes);
}

void algo_allreduce_leaders_build(struct plan *plan)
{
    struct hosts h;
    uint64_t bytes = algo_count_bytes(&plan->params);
    if (algo_build_alone(plan))
        return;
    h = hosts_of(&plan->params);
    plan_runs_ahead(plan);
    if (h.index == 0) {
        build_leader(plan, &h, bytes);
        return;
    }
    plan_put_inline(plan, 0, hosts_leader(&h, h.host), algo_send_at(h.rank, 0), bytes);
    plan_wait_inline(plan, 0, hosts_leader(&h, h.host), bytes);
    plan_copy(plan, 0, algo_recv_at(h.rank, 0), algo_line_of(h.rank, hosts_leader(&h, h.host)),
              bytes);
}

struct algo_cost algo_allreduce_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 2,
                              .turns = 1, /* who leads nobody waits once */
                              .messages = 2 * (local - 1),
                              .passed_bytes = 4 * (local - 1) * bytes,
                              .copied_bytes = 2 * bytes,
                              .reduced_bytes = 4 * bytes,
                              .net_steps = 1,
                              .net_messages = 2 * (n - 1) / hosts_leaders_share(params),
                              .net_bytes = (n - 1) * bytes / hosts_leaders_share(params),
                              .port_bytes = (n - 1) * bytes,
                              .overlap = algo_overlap(n - 1)};
}
