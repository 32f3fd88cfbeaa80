/*
 * reduce over hosts: as many slices as the smallest host has ranks. Rank i of a host folds slice i of all SENDs of its host
 * and puts it to rank i of the root's host, which folds what all hosts have into the root's RECV. Slices go in pieces, so
 * that one is folded while another is on its way.
 *
 * Piece q is composed and put only when the rank on the root's host has told that it is through with piece q - SETS.
 */
#include "algo/hosts.h"
#include "base/base.h"

#define SETS 3

struct pass {
    const struct plan_params *params;
    struct hosts h;
    int root_host;
    uint64_t elem, first, slice_elems, slot_elems, pieces;
};

/* What comes from each host, or goes out; and the partial result of the root's host. */
static uint64_t most_slot_bytes(const struct plan_params *params)
{
    return algo_slot_bytes(params, algo_partial_room(params),
                           SETS * (uint64_t)params->layout->nhosts + 1);
}

bool hosts_reduce_fits(const struct plan_params *params)
{
    return most_slot_bytes(params) > 0;
}

static void pass_init(struct pass *p, const struct plan_params *params)
{
    struct hosts h = hosts_of(params);
    uint64_t elem = algo_elem_bytes(params), largest = algo_slice(params->count, h.rails, 1);
    *p = (struct pass){
        .params = params,
        .h = h,
        .root_host = h.l->host[params->root],
        .elem = elem,
        .slot_elems = hosts_piece_bytes(largest * elem, most_slot_bytes(params)) / elem,
    };
    p->pieces = (largest + p->slot_elems - 1) / p->slot_elems;
    if (h.index < h.rails) {
        p->first = algo_slice(params->count, h.rails, h.index);
        p->slice_elems = algo_slice(params->count, h.rails, h.index + 1) - p->first;
    }
}

static uint64_t piece_offset(const struct pass *p, uint64_t q)
{
    return (p->first + min_u64(q * p->slot_elems, p->slice_elems)) * p->elem;
}
static uint64_t piece_bytes(const struct pass *p, uint64_t q)
{
    uint64_t before = min_u64(q * p->slot_elems, p->slice_elems);
    return min_u64(p->slot_elems, p->slice_elems - before) * p->elem;
}

static struct plan_operand slot(const struct pass *p, int at, uint64_t index)
{
    return algo_partial_at(p->params, at, index * p->slot_elems * p->elem);
}
static struct plan_operand slot_in(const struct pass *p, int at, int from_host, uint64_t q)
{
    return slot(p, at, 1 + q % SETS * (uint64_t)p->h.n + (uint64_t)from_host);
}

static void send_piece(struct plan *plan, const struct pass *p, uint64_t q)
{
    int to = hosts_rail(&p->h, p->root_host);
    uint64_t bytes = piece_bytes(p, q);
    struct plan_operand srcs[PLAN_MAX_OPERANDS], out = slot(p, p->h.rank, 1 + q % SETS);
    if (q >= SETS)
        plan_wait(plan, 0, to, q - SETS + 1);
    plan_reduce(plan, 0, 0, &out, 1, srcs, hosts_sends(&p->h, piece_offset(p, q), srcs), bytes);
    plan_put(plan, 0, to, slot_in(p, to, p->h.host, q), out, bytes, q + 1);
}

/* Partial results first, then the own host's contributions, as they are where the type can take both. */
static void finish_piece(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    struct plan_operand srcs[PLAN_MAX_OPERANDS], sends[PLAN_MAX_OPERANDS];
    struct plan_operand dst = algo_recv_at(p->params->root, piece_offset(p, q));
    uint64_t bytes = piece_bytes(p, q);
    int n = 0, local = hosts_sends(h, piece_offset(p, q), sends);
    for (int k = 1; k < h->n; k++)
        plan_wait(plan, 0, hosts_rail(h, hosts_at(h, -k)), q + 1);
    for (int host = 0; host < h->n; host++)
        if (host != h->host)
            srcs[n++] = slot_in(p, h->rank, host, q);
    if (algo_stages(p->params)) {
        srcs[n] = slot(p, h->rank, 0);
        plan_reduce(plan, 0, 0, &srcs[n++], 1, sends, local, bytes);
    } else {
        for (int i = 0; i < local; i++)
            srcs[n++] = sends[i];
    }
    plan_reduce(plan, 0, PLAN_FINAL, &dst, 1, srcs, n, bytes);
    for (int k = 1; k < h->n && q + SETS < p->pieces; k++)
        plan_signal(plan, 0, hosts_rail(h, hosts_at(h, -k)), q + 1);
}

void algo_reduce_hosts_build(struct plan *plan)
{
    struct pass p;
    if (algo_build_alone(plan))
        return;
    pass_init(&p, &plan->params);
    bool passes = p.h.index < p.h.rails && p.pieces > 0, ends = p.h.host == p.root_host;
    hosts_arrive(plan, &p.h);
    for (int k = 1; passes && ends && k < p.h.n; k++)
        plan_arrive(plan, 0, hosts_rail(&p.h, hosts_at(&p.h, k)));
    hosts_await(plan, &p.h);
    if (passes && !ends)
        plan_wait_arrival(plan, 0, hosts_rail(&p.h, p.root_host));
    for (uint64_t q = 0; passes && q < p.pieces && plan->status == THRUM_OK; q++) {
        if (ends)
            finish_piece(plan, &p, q);
        else
            send_piece(plan, &p, q);
    }
    hosts_depart(plan, &p.h, p.pieces > 0 ? p.h.rails : 0);
}

struct algo_cost algo_reduce_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, rails = l->least_local;
    double slice = (double)algo_count_bytes(params) / rails;
    struct pass p;
    pass_init(&p, params);
    double pieces = p.pieces > 0 ? (double)p.pieces : 1;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .reduced_bytes = (2 * local + n + 1) * slice,
                              .net_steps = 2,
                              .net_messages = (n - 1) * (1 + 1.5 * pieces),
                              .net_bytes = slice,
                              .port_bytes = (n - 1) * slice * rails,
                              .overlap = algo_overlap(pieces)};
}
