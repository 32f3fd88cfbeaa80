/*
 * send and receive. What fits a line travels in one, at once (eager); for the rest the receiver's arrival says that it is
 * there and where its buffer is, and the sender puts into it (rendezvous). All lines and arrivals come first, then all
 * sends, then all waits, so that no order of calls inside a group can deadlock. A rendezvous of no bytes still
 * synchronises.
 *
 * `rendezvous` sends nothing in lines.
 */
#include "algo/build.h"

static const struct plan_p2p *find_own(const struct plan_params *params, bool is_send)
{
    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].peer == params->rank && params->p2p[i].is_send == is_send)
            return &params->p2p[i];
    return NULL;
}

static void copy_own(struct plan *plan)
{
    int rank = plan->params.rank;
    const struct plan_p2p *send = find_own(&plan->params, true);
    const struct plan_p2p *recv = find_own(&plan->params, false);
    if (send && recv)
        plan_copy(plan, 0, algo_recv_at(rank, recv->offset), algo_send_at(rank, send->offset),
                  send->bytes);
}

static bool goes_in_line(const struct plan *plan, bool lines, const struct plan_p2p *p2p)
{
    return lines && plan_is_eager(p2p, plan_line_bytes(&plan->params));
}

/* Lines, and arrivals. */
static void begin_messages(struct plan *plan, bool lines)
{
    const struct plan_params *params = &plan->params;
    const struct plan_p2p *p2p = params->p2p;
    int rank = params->rank;
    for (int i = 0; i < params->np2p; i++) {
        bool in_line = goes_in_line(plan, lines, &p2p[i]);
        if (p2p[i].peer == rank)
            continue;
        if (p2p[i].is_send && in_line)
            plan_put_inline(plan, 0, p2p[i].peer, algo_send_at(rank, p2p[i].offset), p2p[i].bytes);
        else if (!p2p[i].is_send && !in_line)
            plan_arrive(plan, 0, p2p[i].peer);
    }
}

static void end_receive(struct plan *plan, const struct plan_p2p *p2p, bool in_line)
{
    int rank = plan->params.rank;
    if (!in_line) {
        plan_wait(plan, 0, p2p->peer, 1);
        return;
    }
    plan_wait_inline(plan, 0, p2p->peer, p2p->bytes);
    plan_copy(plan, 0, algo_recv_at(rank, p2p->offset), algo_line_of(rank, p2p->peer), p2p->bytes);
}

static void build(struct plan *plan, bool lines)
{
    const struct plan_params *params = &plan->params;
    const struct plan_p2p *p2p = params->p2p;
    int rank = params->rank;
    begin_messages(plan, lines);
    copy_own(plan);
    for (int i = 0; i < params->np2p; i++) {
        int peer = p2p[i].peer;
        if (!p2p[i].is_send || peer == rank || goes_in_line(plan, lines, &p2p[i]))
            continue;
        plan_wait_arrival(plan, 0, peer);
        plan_put(plan, 0, peer, algo_recv_at(peer, 0), algo_send_at(rank, p2p[i].offset),
                 p2p[i].bytes, 1);
    }
    for (int i = 0; i < params->np2p; i++)
        if (!p2p[i].is_send && p2p[i].peer != rank)
            end_receive(plan, &p2p[i], goes_in_line(plan, lines, &p2p[i]));
}

void algo_sendrecv_rendezvous_build(struct plan *plan)
{
    build(plan, false);
}

void algo_sendrecv_eager_build(struct plan *plan)
{
    build(plan, true);
}

struct algo_cost algo_sendrecv_rendezvous_cost(const struct plan_params *params)
{
    double bytes = 0;
    for (int i = 0; i < params->np2p; i++)
        bytes += params->p2p[i].is_send ? 2 * (double)params->p2p[i].bytes : 0;
    return (struct algo_cost){.steps = 2, .messages = 2.0 * params->np2p, .copied_bytes = bytes};
}

struct algo_cost algo_sendrecv_eager_cost(const struct plan_params *params)
{
    struct algo_cost cost = algo_sendrecv_rendezvous_cost(params);
    cost.steps = 1;
    cost.messages = params->np2p;
    cost.copied_bytes *= 2;
    return cost;
}
