/*
 * allgather, in lines over hosts: the ranks of a host send their blocks to the first of them, its leader; leaders
 * exchange the blocks of their hosts, and each hands all of them to its host. For ranks that are numbered host by host,
 * so that the blocks of a host are one piece of RECV.
 */
#include "algo/hosts.h"
#include "base/base.h"

/* Where the blocks of a host begin; how long they are. */
static struct plan_operand blocks_at(const struct hosts *h, int host, uint64_t bytes)
{
    return algo_recv_at(h->rank, (uint64_t)plan_layout_rank(h->l, host, 0) * bytes);
}
static uint64_t blocks_bytes(const struct hosts *h, int host, uint64_t bytes)
{
    return (uint64_t)plan_layout_local(h->l, host) * bytes;
}

static void build_leader(struct plan *plan, const struct hosts *h, uint64_t bytes)
{
    int n = plan->params.nranks;
    if (!plan->params.in_place)
        plan_copy(plan, 0, blocks_at(h, h->host, bytes), algo_send_at(h->rank, 0), bytes);
    for (int i = 1; i < h->local; i++) {
        int peer = hosts_local(h, i);
        plan_wait_inline(plan, 0, peer, bytes);
        plan_copy(plan, 0, algo_recv_at(h->rank, (uint64_t)peer * bytes),
                  algo_line_of(h->rank, peer), bytes);
    }
    for (int k = 1; k < h->n; k++)
        plan_put_inline(plan, 0, hosts_leader(h, hosts_at(h, k)), blocks_at(h, h->host, bytes),
                        blocks_bytes(h, h->host, bytes));
    for (int k = 1; k < h->n; k++) {
        int host = hosts_at(h, -k), from = hosts_leader(h, host);
        plan_wait_inline(plan, 0, from, blocks_bytes(h, host, bytes));
        plan_copy(plan, 0, blocks_at(h, host, bytes), algo_line_of(h->rank, from),
                  blocks_bytes(h, host, bytes));
    }
    for (int i = 1; i < h->local; i++)
        plan_put_inline(plan, 0, hosts_local(h, i), algo_recv_at(h->rank, 0), (uint64_t)n * bytes);
}

void algo_allgather_leaders_build(struct plan *plan)
{
    uint64_t bytes = algo_count_bytes(&plan->params), all = bytes * (uint64_t)plan->params.nranks;
    struct hosts h;
    if (algo_build_alone(plan))
        return;
    h = hosts_of(&plan->params);
    plan_runs_ahead(plan);
    if (h.index == 0) {
        build_leader(plan, &h, bytes);
        return;
    }
    plan_put_inline(plan, 0, hosts_leader(&h, h.host), algo_send_at(h.rank, 0), bytes);
    plan_wait_inline(plan, 0, hosts_leader(&h, h.host), all);
    plan_copy(plan, 0, algo_recv_at(h.rank, 0), algo_line_of(h.rank, hosts_leader(&h, h.host)),
              all);
}

struct algo_cost algo_allgather_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double all = params->nranks * bytes;
    return (struct algo_cost){.steps = 2,
                              .turns = 1, /* who leads nobody waits once */
                              .messages = 2 * (local - 1),
                              .passed_bytes = 2 * (local - 1) * (bytes + all),
                              .copied_bytes = 4 * all,
                              .net_steps = 1,
                              .net_messages = 2 * (n - 1) / hosts_leaders_share(params),
                              .net_bytes = (n - 1) * local * bytes / hosts_leaders_share(params),
                              .port_bytes = (n - 1) * local * bytes,
                              .overlap = algo_overlap(n - 1)};
}
