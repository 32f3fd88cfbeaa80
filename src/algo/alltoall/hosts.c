/*
 * alltoall over hosts, for small blocks: what all ranks of a host have for one rank of another is collected by its carrier
 * there and put at once, in as few puts as its blocks lie in a row in RECV; inside the host each rank reads its blocks.
 * So a rank exchanges with one rank of each other host instead of all of them.
 */
#include "algo/hosts.h"
#include "base/base.h"

bool hosts_alltoall_fits(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    uint64_t slots = (uint64_t)l->nhosts * hosts_carried(l) * (uint64_t)l->most_local;
    return algo_count_bytes(params) <= params->scratch_bytes / slots;
}

/* How many of the host's ranks from `index` on are one after the other in rank order. */
static int run_from(const struct hosts *h, int index)
{
    int n = 1;
    while (index + n < h->local && hosts_local(h, index + n) == hosts_local(h, index) + n)
        n++;
    return n;
}

/* The blocks of all ranks of the host for `to`, collected from byte `room` of the scratch on. */
static void carry(struct plan *plan, const struct hosts *h, int to, uint64_t room, uint64_t bytes)
{
    for (int i = 0; i < h->local; i++)
        plan_copy(plan, 0, algo_scratch_at(h->rank, room + (uint64_t)i * bytes),
                  algo_send_at(hosts_local(h, i), (uint64_t)to * bytes), bytes);
    for (int i = 0, n; i < h->local; i += n) {
        n = run_from(h, i);
        plan_put(plan, 0, to, algo_recv_at(to, (uint64_t)hosts_local(h, i) * bytes),
                 algo_scratch_at(h->rank, room + (uint64_t)i * bytes), (uint64_t)n * bytes,
                 i + n == h->local);
    }
}

void algo_alltoall_hosts_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    uint64_t bytes = algo_count_bytes(params), room = 0;
    int to, host;
    if (algo_build_alone(plan))
        return;
    struct hosts h = hosts_of(params);
    hosts_arrive(plan, &h);
    for (int k = 1; bytes > 0 && k < h.n; k++)
        plan_arrive(plan, 0, hosts_carrier(&h, hosts_at(&h, -k), h.rank));
    hosts_await(plan, &h);
    for (int k = 1, i = h.index; bytes > 0 && (to = hosts_next_carried(&h, &k, &i, &host)) >= 0;) {
        plan_wait_arrival(plan, 0, to);
        carry(plan, &h, to, room, bytes);
        room += (uint64_t)h.local * bytes;
    }
    for (int i = 0; i < h.local; i++) {
        int from = hosts_local(&h, algo_rank_at(h.index, i, h.local));
        plan_copy(plan, 0, algo_recv_at(h.rank, (uint64_t)from * bytes),
                  algo_send_at(from, (uint64_t)h.rank * bytes), bytes);
    }
    for (int k = 1; bytes > 0 && k < h.n; k++)
        plan_wait(plan, 0, hosts_carrier(&h, hosts_at(&h, -k), h.rank), 1);
    hosts_depart(plan, &h, bytes > 0 ? h.local : 0);
}

struct algo_cost algo_alltoall_hosts_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double carried = (n - 1) * (double)hosts_carried(l), least = l->least_local;
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (local - 1),
                              .copied_bytes = 2 * local * (1 + carried) * bytes,
                              .net_steps = 2,
                              .net_messages = 2 * (carried + n - 1),
                              .net_bytes = carried * local * bytes,
                              .port_bytes = (params->nranks - least) * local * bytes,
                              .overlap = algo_overlap(n - 1)};
}
