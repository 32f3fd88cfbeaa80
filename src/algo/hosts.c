/* What the algorithms that know hosts share; see hosts.h. */
#include "algo/hosts.h"
#include "base/base.h"

#define PIECE_BYTES 131072 /* so that what one piece takes besides its bytes is little */
#define PIECES 8 /* and so many at least, where they are not smaller */

const char *hosts_refusal(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    if (!l)
        return "knows hosts, but all ranks are on one, or there is no peer access within hosts";
    if (l->most_local == 1)
        return "knows hosts, but each has one rank only";
    if (l->most_local + l->nhosts >= PLAN_MAX_OPERANDS)
        return "knows hosts, but there are too many, or too many ranks on one";
    return NULL;
}

void hosts_arrive(struct plan *plan, const struct hosts *h)
{
    for (int i = 1; i < h->local; i++)
        plan_arrive(plan, 0, hosts_local(h, algo_rank_at(h->index, i, h->local)));
}

void hosts_await(struct plan *plan, const struct hosts *h)
{
    for (int i = 1; i < h->local; i++)
        plan_wait_arrival(plan, 0, hosts_local(h, algo_rank_at(h->index, i, h->local)));
}

void hosts_depart(struct plan *plan, const struct hosts *h, int touching)
{
    for (int i = 1; i < h->local && h->index < touching; i++)
        plan_signal(plan, 0, hosts_local(h, algo_rank_at(h->index, i, h->local)), 1);
    for (int i = 1; i < h->local; i++) {
        int index = algo_rank_at(h->index, i, h->local);
        if (index < touching)
            plan_wait(plan, 0, hosts_local(h, index), 1);
    }
}

int hosts_recvs(const struct hosts *h, bool own_too, uint64_t offset, struct plan_operand *dsts)
{
    int n = 0;
    for (int i = own_too ? 0 : 1; i < h->local; i++)
        dsts[n++] = algo_recv_at(hosts_local(h, algo_rank_at(h->index, i, h->local)), offset);
    return n;
}

int hosts_sends(const struct hosts *h, uint64_t offset, struct plan_operand *srcs)
{
    for (int i = 0; i < h->local; i++)
        srcs[i] = algo_send_at(hosts_local(h, i), offset);
    return h->local;
}

uint64_t hosts_piece_bytes(uint64_t share_bytes, uint64_t most)
{
    uint64_t wanted = max_u64(share_bytes / PIECES, PIECE_BYTES);
    return min_u64(most, round_up_u64(wanted, CACHE_LINE_BYTES));
}
