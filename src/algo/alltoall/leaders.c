/*
 * alltoall, in lines over hosts: the ranks of a host send all their blocks to the first of them, its leader; leaders
 * exchange what their hosts have for each other, and each hands every rank of its host all that is for it. For ranks that
 * are numbered host by host, so that the blocks for a host, or from one, are one piece.
 *
 * A leader's scratch: the SENDs of its ranks, one after the other; what goes to another host, of all ranks for its first
 * rank, then for its second; what has come from one; the RECVs of its other ranks.
 */
#include "algo/hosts.h"
#include "base/base.h"

struct pass {
    struct hosts h;
    uint64_t bytes, all; /* of a block, of all blocks of a rank */
    uint64_t out, in, recvs; /* where in the scratch; SENDs begin it */
};

static uint64_t pass_init(struct pass *p, const struct plan_params *params)
{
    uint64_t bytes = algo_count_bytes(params), all = bytes * (uint64_t)params->nranks;
    uint64_t most = (uint64_t)params->layout->most_local;
    uint64_t sends = round_up_u64(most * all, CACHE_LINE_BYTES);
    uint64_t part = round_up_u64(most * most * bytes, CACHE_LINE_BYTES);
    *p = (struct pass){.h = hosts_of(params),
                       .bytes = bytes,
                       .all = all,
                       .out = sends,
                       .in = sends + part,
                       .recvs = sends + 2 * part};
    return 2 * (sends + part);
}

bool hosts_alltoall_leaders_fits(const struct plan_params *params)
{
    struct pass p;
    return pass_init(&p, params) <= params->scratch_bytes;
}

/* Block `to` of what rank `index` of the host sends; block `from` of what it receives. */
static struct plan_operand sent(const struct pass *p, int index, int to)
{
    uint64_t offset = (uint64_t)to * p->bytes;
    return index == 0 ? algo_send_at(p->h.rank, offset)
                      : algo_scratch_at(p->h.rank, (uint64_t)index * p->all + offset);
}
static struct plan_operand received(const struct pass *p, int index, int from)
{
    uint64_t offset = (uint64_t)from * p->bytes;
    return index == 0
               ? algo_recv_at(p->h.rank, offset)
               : algo_scratch_at(p->h.rank, p->recvs + (uint64_t)(index - 1) * p->all + offset);
}

static void send_to_host(struct plan *plan, const struct pass *p, int host)
{
    const struct hosts *h = &p->h;
    int there = plan_layout_local(h->l, host);
    uint64_t at = p->out;
    for (int to = 0; to < there; to++)
        for (int i = 0; i < h->local; i++, at += p->bytes)
            plan_copy(plan, 0, algo_scratch_at(h->rank, at),
                      sent(p, i, plan_layout_rank(h->l, host, to)), p->bytes);
    plan_put_inline(plan, 0, hosts_leader(h, host), algo_scratch_at(h->rank, p->out), at - p->out);
}

static void receive_from_host(struct plan *plan, const struct pass *p, int host)
{
    const struct hosts *h = &p->h;
    int from = hosts_leader(h, host);
    uint64_t bytes = (uint64_t)plan_layout_local(h->l, host) * p->bytes, n = (uint64_t)h->local;
    plan_wait_inline(plan, 0, from, n * bytes);
    plan_copy(plan, 0, algo_scratch_at(h->rank, p->in), algo_line_of(h->rank, from), n * bytes);
    for (int i = 0; i < h->local; i++)
        plan_copy(plan, 0, received(p, i, from),
                  algo_scratch_at(h->rank, p->in + (uint64_t)i * bytes), bytes);
}

static void build_leader(struct plan *plan, const struct pass *p)
{
    const struct hosts *h = &p->h;
    for (int i = 1; i < h->local; i++) {
        plan_wait_inline(plan, 0, hosts_local(h, i), p->all);
        plan_copy(plan, 0, sent(p, i, 0), algo_line_of(h->rank, hosts_local(h, i)), p->all);
    }
    for (int k = 1; k < h->n; k++)
        send_to_host(plan, p, hosts_at(h, k));
    for (int to = 0; to < h->local; to++)
        for (int i = 0; i < h->local; i++)
            plan_copy(plan, 0, received(p, to, hosts_local(h, i)), sent(p, i, hosts_local(h, to)),
                      p->bytes);
    for (int k = 1; k < h->n; k++)
        receive_from_host(plan, p, hosts_at(h, -k));
    for (int i = 1; i < h->local; i++)
        plan_put_inline(plan, 0, hosts_local(h, i), received(p, i, 0), p->all);
}

void algo_alltoall_leaders_build(struct plan *plan)
{
    struct pass p;
    if (algo_build_alone(plan))
        return;
    (void)pass_init(&p, &plan->params);
    plan_runs_ahead(plan);
    if (p.h.index == 0) {
        build_leader(plan, &p);
        return;
    }
    plan_put_inline(plan, 0, hosts_leader(&p.h, p.h.host), algo_send_at(p.h.rank, 0), p.all);
    plan_wait_inline(plan, 0, hosts_leader(&p.h, p.h.host), p.all);
    plan_copy(plan, 0, algo_recv_at(p.h.rank, 0),
              algo_line_of(p.h.rank, hosts_leader(&p.h, p.h.host)), p.all);
}

struct algo_cost algo_alltoall_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double all = params->nranks * bytes, share = hosts_leaders_share(params);
    double copies = local * (local + 1) * n / share;
    return (struct algo_cost){.steps = 2,
                              .turns = 1, /* who leads nobody waits once */
                              .messages = 2 * (local - 1) + copies, /* which take as long */
                              .passed_bytes = 4 * (local - 1) * all,
                              .copied_bytes = 4 * local * all / share,
                              .net_steps = 1,
                              .net_messages = 2 * (n - 1) / share,
                              .net_bytes = (n - 1) * local * local * bytes / share,
                              .port_bytes = (n - 1) * local * local * bytes,
                              .overlap = algo_overlap(n - 1)};
}
