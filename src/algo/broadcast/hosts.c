/*
 * broadcast over hosts: as many slices as the smallest host has ranks. Rank i of the root's host reads slice i of the
 * root's SEND; slice i goes along the ranks i of the hosts, each of which writes it to every RECV of its host: down a
 * binomial tree of hosts, or, if there are more pieces than hosts, along a chain of them, where each host sends it once.
 */
#include "algo/hosts.h"
#include "base/base.h"

struct pass {
    const struct plan_params *params;
    struct hosts h;
    int root_host, number; /* of the own host, counted from the root's */
    uint64_t elem, first, slice_elems, piece_elems, pieces;
    bool chain;
};

static void pass_init(struct pass *p, const struct plan_params *params)
{
    struct hosts h = hosts_of(params);
    uint64_t elem = algo_elem_bytes(params), largest = algo_slice(params->count, h.rails, 1);
    int root_host = h.l->host[params->root];
    *p = (struct pass){.params = params,
                       .h = h,
                       .root_host = root_host,
                       .number = algo_rank_at(h.host, -root_host, h.n),
                       .elem = elem,
                       .piece_elems = hosts_piece_bytes(largest * elem, UINT64_MAX) / elem};
    p->pieces = (largest + p->piece_elems - 1) / p->piece_elems;
    p->chain = p->pieces > (uint64_t)h.n;
    if (h.index < h.rails) {
        p->first = algo_slice(params->count, h.rails, h.index);
        p->slice_elems = algo_slice(params->count, h.rails, h.index + 1) - p->first;
    }
}

/* The rank of the own index on the host with that number. */
static int rail_of(const struct pass *p, int number)
{
    return hosts_rail(&p->h, algo_rank_at(number, p->root_host, p->h.n));
}

/* -1: this is the root's host. */
static int parent_of(const struct pass *p)
{
    if (p->number == 0)
        return -1;
    return rail_of(p, p->chain ? p->number - 1 : p->number & (p->number - 1));
}

/* Numbers of the children, the largest subtree first. */
static int children_of(const struct pass *p, int *children)
{
    int n = 0, number = p->number, lowest = number ? number & -number : 1 << 30;
    if (p->chain) {
        children[0] = number + 1;
        return number + 1 < p->h.n;
    }
    for (int bit = 1 << 29; bit > 0; bit /= 2)
        if (bit < lowest && number + bit < p->h.n)
            children[n++] = number + bit;
    return n;
}

static void pass_piece(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    uint64_t before = min_u64(q * p->piece_elems, p->slice_elems);
    uint64_t offset = (p->first + before) * p->elem;
    uint64_t bytes = min_u64(p->piece_elems, p->slice_elems - before) * p->elem;
    int children[32], nchildren = children_of(p, children), root = p->params->root;
    bool is_root = h->rank == root;
    struct plan_operand own = is_root ? algo_send_at(root, offset) : algo_recv_at(h->rank, offset);
    struct plan_operand dsts[PLAN_MAX_OPERANDS];
    if (p->number > 0)
        plan_wait(plan, 0, parent_of(p), q + 1);
    else if (!is_root)
        plan_copy(plan, 0, own, algo_send_at(root, offset), bytes);
    for (int i = 0; i < nchildren; i++) {
        int child = rail_of(p, children[i]);
        plan_put(plan, 0, child, algo_recv_at(child, offset), own, bytes, q + 1);
    }
    int n = hosts_recvs(h, is_root && !p->params->in_place, offset, dsts), kept = 0;
    for (int i = 0; i < n; i++) /* in place the root has it there */
        if (!p->params->in_place || dsts[i].rank != root)
            dsts[kept++] = dsts[i];
    if (kept > 0)
        plan_copy_multi(plan, 0, dsts, kept, own, bytes);
}

void algo_broadcast_hosts_build(struct plan *plan)
{
    struct pass p;
    int children[32], nchildren;
    if (algo_build_alone(plan))
        return;
    pass_init(&p, &plan->params);
    nchildren = children_of(&p, children);
    bool passes = p.h.index < p.h.rails && p.pieces > 0;
    hosts_arrive(plan, &p.h);
    if (passes && p.number > 0)
        plan_arrive(plan, 0, parent_of(&p));
    hosts_await(plan, &p.h);
    for (int i = 0; passes && i < nchildren; i++)
        plan_wait_arrival(plan, 0, rail_of(&p, children[i]));
    for (uint64_t q = 0; passes && q < p.pieces && plan->status == THRUM_OK; q++)
        pass_piece(plan, &p, q);
    hosts_depart(plan, &p.h, p.pieces > 0 ? p.h.rails : 0);
}

struct algo_cost algo_broadcast_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, rails = l->least_local;
    double slice = (double)algo_count_bytes(params) / rails;
    struct pass p;
    pass_init(&p, params);
    double pieces = p.pieces > 0 ? (double)p.pieces : 1, levels = algo_log2_ceil(l->nhosts);
    double hops = p.chain ? n - 1 : levels;
    double sent = p.chain ? slice * (pieces + hops - 1) / pieces : slice * levels;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .copied_bytes = (local + 2) * slice,
                              .net_steps = 1 + hops,
                              .net_messages = 2 + 2 * pieces * (p.chain ? 1 : levels),
                              .net_bytes = sent,
                              .port_bytes = sent * rails,
                              .overlap = algo_overlap(pieces)};
}
