/*
 * reduce_scatter over hosts: of the block of a rank, each other host sends one partial result, which its carrier there
 * folds from the SENDs of that host; the rank folds those with the contributions of its own host. Blocks go in pieces, so
 * that one is folded while another is on its way.
 *
 * A carrier composes and puts piece q only when the rank has told it that it is through with piece q - SETS.
 */
#include "algo/hosts.h"
#include "base/base.h"

#define SETS 3

struct pass {
    const struct plan_params *params;
    struct hosts h;
    uint64_t carried; /* ranks of another host that one carries for, at most */
    uint64_t slot_bytes, pieces;
};

/* What comes in from each host, what goes out for each rank that is carried for; and the own host's partial result. */
static uint64_t slots_of(const struct plan_layout *l)
{
    return SETS * (uint64_t)l->nhosts * (1 + hosts_carried(l)) + 1;
}

bool hosts_reduce_scatter_fits(const struct plan_params *params)
{
    return algo_slot_bytes(params, algo_partial_room(params), slots_of(params->layout)) > 0;
}

static void pass_init(struct pass *p, const struct plan_params *params)
{
    uint64_t bytes = algo_count_bytes(params), elem = algo_elem_bytes(params);
    uint64_t slot = algo_slot_bytes(params, algo_partial_room(params), slots_of(params->layout));
    *p = (struct pass){
        .params = params,
        .h = hosts_of(params),
        .carried = hosts_carried(params->layout),
        .slot_bytes = hosts_piece_bytes(bytes, slot) / elem * elem,
    };
    p->pieces = (bytes + p->slot_bytes - 1) / p->slot_bytes;
}

static uint64_t piece_bytes(const struct pass *p, int block, uint64_t q)
{
    uint64_t bytes = algo_block_bytes(p->params, block), before = q * p->slot_bytes;
    return bytes > before ? min_u64(bytes - before, p->slot_bytes) : 0;
}
static uint64_t piece_offset(const struct pass *p, int block, uint64_t q)
{
    return algo_block_offset(p->params, block) + q * p->slot_bytes;
}

static struct plan_operand slot(const struct pass *p, int at, uint64_t index)
{
    return algo_partial_at(p->params, at, index * p->slot_bytes);
}
static struct plan_operand slot_in(const struct pass *p, int at, int from_host, uint64_t q)
{
    return slot(p, at, 1 + q % SETS * (uint64_t)p->h.n + (uint64_t)from_host);
}
/* For `to`, which is one of those of its host that this rank carries for. */
static struct plan_operand slot_out(const struct pass *p, int to, uint64_t q)
{
    uint64_t which = (uint64_t)p->h.l->index[to] / (uint64_t)p->h.local;
    uint64_t set = (SETS + q % SETS * p->carried) * (uint64_t)p->h.n;
    return slot(p, p->h.rank, 1 + set + (uint64_t)p->h.l->host[to] * p->carried + which);
}

/* In turn t a rank puts piece t, then says that it is through with piece t - 1; both on one semaphore. */
static uint64_t value_of_piece(uint64_t q)
{
    return 2 * q + 1;
}
static uint64_t value_of_credit(uint64_t q)
{
    return 2 * q + 4;
}

static void carry(struct plan *plan, const struct pass *p, int to, uint64_t q)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], out = slot_out(p, to, q);
    uint64_t bytes = piece_bytes(p, to, q);
    if (q >= SETS)
        plan_wait(plan, 0, to, value_of_credit(q - SETS));
    plan_reduce(plan, 0, 0, &out, 1, srcs, hosts_sends(&p->h, piece_offset(p, to, q), srcs), bytes);
    plan_put(plan, 0, to, slot_in(p, to, p->h.host, q), out, bytes, value_of_piece(q));
}

/* Partial results first, then the own host's contributions, as they are where the type can take both. */
static void finish(struct plan *plan, const struct pass *p, uint64_t q)
{
    const struct hosts *h = &p->h;
    struct plan_operand srcs[PLAN_MAX_OPERANDS], sends[PLAN_MAX_OPERANDS];
    struct plan_operand dst = algo_recv_at(h->rank, q * p->slot_bytes);
    uint64_t bytes = piece_bytes(p, h->rank, q);
    int n = 0, local = hosts_sends(h, piece_offset(p, h->rank, q), sends);
    for (int k = 1; k < h->n; k++)
        plan_wait(plan, 0, hosts_carrier(h, hosts_at(h, -k), h->rank), value_of_piece(q));
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
        plan_signal(plan, 0, hosts_carrier(h, hosts_at(h, -k), h->rank), value_of_credit(q));
}

void algo_reduce_scatter_hosts_build(struct plan *plan)
{
    struct pass p;
    int to, host;
    if (algo_build_alone(plan))
        return;
    pass_init(&p, &plan->params);
    hosts_arrive(plan, &p.h);
    for (int k = 1; p.pieces > 0 && k < p.h.n; k++)
        plan_arrive(plan, 0, hosts_carrier(&p.h, hosts_at(&p.h, -k), p.h.rank));
    hosts_await(plan, &p.h);
    for (int k = 1, i = p.h.index;
         p.pieces > 0 && (to = hosts_next_carried(&p.h, &k, &i, &host)) >= 0;)
        plan_wait_arrival(plan, 0, to);
    for (uint64_t t = 0; p.pieces > 0 && t <= p.pieces && plan->status == THRUM_OK; t++) {
        for (int k = 1, i = p.h.index;
             t < p.pieces && (to = hosts_next_carried(&p.h, &k, &i, &host)) >= 0;)
            carry(plan, &p, to, t);
        if (t >= 1)
            finish(plan, &p, t - 1);
    }
    hosts_depart(plan, &p.h, p.pieces > 0 ? p.h.local : 0);
}

struct algo_cost algo_reduce_scatter_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double carried = (n - 1) * (double)hosts_carried(l);
    struct pass p;
    pass_init(&p, params);
    double pieces = p.pieces > 0 ? (double)p.pieces : 1,
           credits = pieces > SETS ? pieces - SETS : 0;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .reduced_bytes = (carried * (local + 1) + n + local) * bytes,
                              .net_steps = 2,
                              .net_messages = (carried + n - 1) * (1 + pieces + credits),
                              .net_bytes = carried * bytes,
                              .port_bytes = (params->nranks - l->least_local) * bytes,
                              .overlap = algo_overlap(pieces)};
}
