/*
 * allreduce over hosts: reduce-scatter inside each host, allreduce of the slices between hosts, allgather inside.
 * Everything is cut into as many slices as the smallest host has ranks; rank i of a host folds slice i of all SENDs of its
 * host, exchanges it with the ranks i of the other hosts (each folds the part of it that belongs to its host, and puts the
 * result to them), and writes it to every RECV of its host. So each byte leaves a host twice over the number of hosts
 * times, at all ranks of it at once. A slice goes in pieces, each of which is folded, exchanged and spread while its
 * neighbours are in another of these phases.
 *
 * A rank puts piece q only when it has seen the result of piece q - SETS from every host: by then they have read what it
 * put of that, and their slots are free.
 */
#include "algo/hosts.h"
#include "base/base.h"

#define SETS 3

struct pass {
    const struct plan_params *params;
    struct hosts h;
    uint64_t elem, first; /* elements before the own slice */
    uint64_t slice_elems, piece_elems, pieces;
    uint64_t part_bytes; /* of a slot for a part */
    bool alone; /* on its host: its SEND is the partial result */
};

/* Slots are for parts: `n` in a row to compose a piece, `n` for what the other hosts put; of each, SETS. */
static uint64_t most_part_bytes(const struct plan_params *params)
{
    return algo_slot_bytes(params, algo_partial_room(params),
                           2 * SETS * (uint64_t)params->layout->nhosts);
}

bool hosts_allreduce_fits(const struct plan_params *params)
{
    return most_part_bytes(params) >= algo_elem_bytes(params);
}

static void pass_init(struct pass *p, const struct plan_params *params)
{
    struct hosts h = hosts_of(params);
    uint64_t elem = algo_elem_bytes(params), n = (uint64_t)h.n;
    uint64_t largest = algo_slice(params->count, h.rails, 1);
    uint64_t part = most_part_bytes(params);
    uint64_t wanted = hosts_piece_bytes(largest * elem, part * n) / n;
    part = min_u64(part, max_u64(round_up_u64(wanted, CACHE_LINE_BYTES), CACHE_LINE_BYTES));
    *p = (struct pass){
        .params = params,
        .h = h,
        .elem = elem,
        .part_bytes = part / elem * elem,
        .piece_elems = part / elem * n,
        .alone = h.local == 1 && !algo_stages(params),
    };
    p->pieces = (largest + p->piece_elems - 1) / p->piece_elems;
    if (h.index < h.rails) {
        p->first = algo_slice(params->count, h.rails, h.index);
        p->slice_elems = algo_slice(params->count, h.rails, h.index + 1) - p->first;
    }
}

/* Of a piece: where it is in the vector, how long, and its part for a host; bytes. */
struct range {
    uint64_t offset, bytes;
};
static uint64_t elems_of(const struct pass *p, uint64_t q)
{
    uint64_t before = min_u64(q * p->piece_elems, p->slice_elems);
    return min_u64(p->piece_elems, p->slice_elems - before);
}
static struct range piece_at(const struct pass *p, uint64_t q)
{
    return (struct range){(p->first + q * p->piece_elems) * p->elem, elems_of(p, q) * p->elem};
}
static struct range part_at(const struct pass *p, uint64_t q, int host)
{
    uint64_t elems = elems_of(p, q), from = algo_slice(elems, p->h.n, host);
    return (struct range){piece_at(p, q).offset + from * p->elem,
                          (algo_slice(elems, p->h.n, host + 1) - from) * p->elem};
}

/* The partial result of this host, from byte `offset` of the vector on, which lies in piece q. */
static struct plan_operand own_partial(const struct pass *p, uint64_t q, uint64_t offset)
{
    uint64_t slot = q % SETS * (uint64_t)p->h.n * p->part_bytes;
    if (p->alone)
        return algo_send_at(p->h.rank, offset);
    return algo_partial_at(p->params, p->h.rank, slot + offset - piece_at(p, q).offset);
}

/* Where rank `at` gets the part that host `from` has folded for it. */
static struct plan_operand slot_in(const struct pass *p, int at, int from, uint64_t q)
{
    uint64_t index = (SETS + q % SETS) * (uint64_t)p->h.n + (uint64_t)from;
    return algo_partial_at(p->params, at, index * p->part_bytes);
}

/* In turn t a rank puts its parts of piece t, then the result of piece t - 1. */
static uint64_t value_of_part(uint64_t q)
{
    return 2 * q + 1;
}
static uint64_t value_of_result(uint64_t q)
{
    return 2 * q + 4;
}

static void fold_and_send(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    struct range piece = piece_at(p, q);
    struct plan_operand srcs[PLAN_MAX_OPERANDS], dst = own_partial(p, q, piece.offset);
    if (!p->alone)
        plan_reduce(plan, 0, 0, &dst, 1, srcs, hosts_sends(h, piece.offset, srcs), piece.bytes);
    for (int k = 1; k < h->n; k++) {
        int host = hosts_at(h, k), peer = hosts_rail(h, host);
        struct range part = part_at(p, q, host);
        plan_put(plan, 0, peer, slot_in(p, peer, h->host, q), own_partial(p, q, part.offset),
                 part.bytes, value_of_part(q));
    }
}

/* The own part of piece q: of all hosts, in their order, so that it is the same however they are connected. */
static void finish_and_send(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    struct range part = part_at(p, q, h->host);
    struct plan_operand srcs[PLAN_MAX_OPERANDS], dsts[PLAN_MAX_OPERANDS];
    for (int k = 1; k < h->n; k++)
        plan_wait(plan, 0, hosts_rail(h, hosts_at(h, -k)), value_of_part(q));
    for (int host = 0; host < h->n; host++)
        srcs[host] =
            host == h->host ? own_partial(p, q, part.offset) : slot_in(p, h->rank, host, q);
    plan_reduce(plan, 0, PLAN_FINAL, dsts, hosts_recvs(h, true, part.offset, dsts), srcs, h->n,
                part.bytes);
    for (int k = 1; k < h->n; k++) {
        int peer = hosts_rail(h, hosts_at(h, k));
        plan_put(plan, 0, peer, algo_recv_at(peer, part.offset), algo_recv_at(h->rank, part.offset),
                 part.bytes, value_of_result(q));
    }
}

static void spread_range(struct plan *plan, const struct hosts *h, uint64_t from, uint64_t to)
{
    struct plan_operand dsts[PLAN_MAX_OPERANDS];
    int n = hosts_recvs(h, false, from, dsts);
    if (n > 0)
        plan_copy_multi(plan, 0, dsts, n, algo_recv_at(h->rank, from), to - from);
}

/* The others' parts of piece q, inside the host. */
static void spread(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    struct range piece = piece_at(p, q), own = part_at(p, q, h->host);
    for (int k = 1; k < h->n; k++)
        plan_wait(plan, 0, hosts_rail(h, hosts_at(h, -k)), value_of_result(q));
    spread_range(plan, h, piece.offset, own.offset);
    spread_range(plan, h, own.offset + own.bytes, piece.offset + piece.bytes);
}

void algo_allreduce_hosts_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct pass p;
    if (algo_build_alone(plan))
        return;
    pass_init(&p, params);
    bool passes = p.h.index < p.h.rails && params->count > 0;
    hosts_arrive(plan, &p.h);
    for (int k = 1; passes && k < p.h.n; k++)
        plan_arrive(plan, 0, hosts_rail(&p.h, hosts_at(&p.h, k)));
    hosts_await(plan, &p.h);
    for (int k = 1; passes && k < p.h.n; k++)
        plan_wait_arrival(plan, 0, hosts_rail(&p.h, hosts_at(&p.h, -k)));
    for (uint64_t t = 0; passes && t < p.pieces + 2 && plan->status == THRUM_OK; t++) {
        if (t < p.pieces)
            fold_and_send(plan, &p, t);
        if (t >= 1 && t - 1 < p.pieces)
            finish_and_send(plan, &p, t - 1);
        if (t >= 2)
            spread(plan, &p, t - 2);
    }
    hosts_depart(plan, &p.h, params->count > 0 ? p.h.rails : 0);
}

struct algo_cost algo_allreduce_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, rails = l->least_local;
    double slice = (double)algo_count_bytes(params) / rails, part = slice / n;
    struct pass p;
    pass_init(&p, params);
    double pieces = p.pieces > 0 ? (double)p.pieces : 1;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .copied_bytes = local * (n - 1) * part,
                              .reduced_bytes = (local + 1) * slice + (n + local) * part,
                              .net_steps = 3,
                              .net_messages = (n - 1) * (2 + 4 * pieces),
                              .net_bytes = 2 * (n - 1) * part,
                              .port_bytes = 2 * (n - 1) * part * rails,
                              .overlap = algo_overlap(pieces)};
}
