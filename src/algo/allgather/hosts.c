/*
 * allgather over hosts: each rank puts its block to one carrier on every other host, and writes it to the RECVs of its
 * own; carriers write what comes to theirs. So a block crosses to a host once. Blocks go in pieces: while one is written
 * inside the hosts, the next is on its way.
 */
#include "algo/hosts.h"
#include "base/base.h"

struct pass {
    const struct plan_params *params;
    struct hosts h;
    uint64_t piece_bytes, pieces;
};

static void pass_init(struct pass *p, const struct plan_params *params)
{
    uint64_t bytes = algo_count_bytes(params), elem = algo_elem_bytes(params);
    *p = (struct pass){.params = params,
                       .h = hosts_of(params),
                       .piece_bytes = hosts_piece_bytes(bytes, UINT64_MAX) / elem * elem};
    p->pieces = (bytes + p->piece_bytes - 1) / p->piece_bytes;
}

static uint64_t piece_bytes(const struct pass *p, int block, uint64_t q)
{
    uint64_t bytes = algo_block_bytes(p->params, block), before = q * p->piece_bytes;
    return bytes > before ? min_u64(bytes - before, p->piece_bytes) : 0;
}
static uint64_t piece_offset(const struct pass *p, int block, uint64_t q)
{
    return algo_block_offset(p->params, block) + q * p->piece_bytes;
}

/* The own piece q: to the carriers, then inside the host. */
static void send_own(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    uint64_t offset = piece_offset(p, h->rank, q), bytes = piece_bytes(p, h->rank, q);
    struct plan_operand dsts[PLAN_MAX_OPERANDS], src = algo_send_at(h->rank, q * p->piece_bytes);
    int n = hosts_recvs(h, !p->params->in_place, offset, dsts);
    for (int k = 1; k < h->n; k++) {
        int peer = hosts_carrier(h, hosts_at(h, k), h->rank);
        plan_put(plan, 0, peer, algo_recv_at(peer, offset), src, bytes, q + 1);
    }
    if (n > 0)
        plan_copy_multi(plan, 0, dsts, n, src, bytes);
}

/* Piece q of the ranks that this one carries for, inside the host. */
static void spread(struct plan *plan, const struct pass *p, uint64_t q)
{
    struct plan_operand dsts[PLAN_MAX_OPERANDS];
    int from, host;
    for (int k = 1, i = p->h.index; (from = hosts_next_carried(&p->h, &k, &i, &host)) >= 0;) {
        uint64_t offset = piece_offset(p, from, q);
        int n = hosts_recvs(&p->h, false, offset, dsts);
        plan_wait(plan, 0, from, q + 1);
        if (n > 0)
            plan_copy_multi(plan, 0, dsts, n, algo_recv_at(p->h.rank, offset),
                            piece_bytes(p, from, q));
    }
}

void algo_allgather_hosts_build(struct plan *plan)
{
    struct pass p;
    int from, host;
    if (algo_build_alone(plan))
        return;
    pass_init(&p, &plan->params);
    hosts_arrive(plan, &p.h);
    for (int k = 1, i = p.h.index;
         p.pieces > 0 && (from = hosts_next_carried(&p.h, &k, &i, &host)) >= 0;)
        plan_arrive(plan, 0, from);
    hosts_await(plan, &p.h);
    for (int k = 1; p.pieces > 0 && k < p.h.n; k++)
        plan_wait_arrival(plan, 0, hosts_carrier(&p.h, hosts_at(&p.h, k), p.h.rank));
    for (uint64_t t = 0; p.pieces > 0 && t <= p.pieces && plan->status == THRUM_OK; t++) {
        if (t < p.pieces)
            send_own(plan, &p, t);
        if (t >= 1)
            spread(plan, &p, t - 1);
    }
    hosts_depart(plan, &p.h, p.pieces > 0 ? p.h.local : 0);
}

struct algo_cost algo_allgather_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double carried = (n - 1) * (double)hosts_carried(l);
    struct pass p;
    pass_init(&p, params);
    double pieces = p.pieces > 0 ? (double)p.pieces : 1;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .copied_bytes = (1 + carried) * (local + 1) * bytes,
                              .net_steps = 2,
                              .net_messages = (carried + n - 1) * (1 + pieces),
                              .net_bytes = (n - 1) * bytes,
                              .port_bytes = (n - 1) * bytes * local,
                              .overlap = algo_overlap(pieces)};
}
