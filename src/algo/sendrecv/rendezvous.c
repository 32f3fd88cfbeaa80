/*
 * send and receive, rendezvous: the receiver's arrival says that it is there and where its buffer is; the sender puts
 * into it. All arrivals come first, then all sends, then all waits, so that no order of calls inside a group can
 * deadlock. A message of no bytes still synchronises.
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

void algo_sendrecv_rendezvous_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    const struct plan_p2p *p2p = params->p2p;
    int rank = params->rank;
    for (int i = 0; i < params->np2p; i++)
        if (!p2p[i].is_send && p2p[i].peer != rank)
            plan_arrive(plan, 0, p2p[i].peer);
    copy_own(plan);
    for (int i = 0; i < params->np2p; i++) {
        int peer = p2p[i].peer;
        if (!p2p[i].is_send || peer == rank)
            continue;
        plan_wait_arrival(plan, 0, peer);
        plan_put(plan, 0, peer, algo_recv_at(peer, 0), algo_send_at(rank, p2p[i].offset),
                 p2p[i].bytes, 1);
    }
    for (int i = 0; i < params->np2p; i++)
        if (!p2p[i].is_send && p2p[i].peer != rank)
            plan_wait(plan, 0, p2p[i].peer, 1);
}

struct algo_cost algo_sendrecv_rendezvous_cost(const struct plan_params *params)
{
    double bytes = 0;
    for (int i = 0; i < params->np2p; i++)
        bytes += params->p2p[i].is_send ? 2 * (double)params->p2p[i].bytes : 0;
    return (struct algo_cost){.steps = 2, .messages = 2.0 * params->np2p, .copied_bytes = bytes};
}
