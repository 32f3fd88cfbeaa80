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

/* What a leader receives from its host, or sends to it: all blocks of it. */
const char *hosts_leaders_refusal(const struct plan_params *params)
{
    bool blocks = params->collective == COLL_ALLGATHER ||
                  params->collective == COLL_REDUCE_SCATTER || params->collective == COLL_ALLTOALL;
    uint64_t parts = blocks ? (uint64_t)params->nranks : 1;
    uint64_t most = params->layout ? (uint64_t)params->layout->most_local : 1;
    if (plan_reduces(params->collective) && algo_stages(params))
        return "partial results of the type are wider than it, and do not travel in lines";
    if (blocks && (params->counts || (params->layout && !params->layout->in_order)))
        return "needs equal blocks, and ranks that are numbered host by host";
    if (params->collective != COLL_BARRIER &&
        algo_count_bytes(params) > plan_line_bytes(params) / parts)
        return "what a host sends must fit a line";
    if (params->collective == COLL_ALLTOALL &&
        algo_count_bytes(params) > plan_line_bytes(params) / (most * most))
        return "what a host sends to another must fit a line";
    return NULL;
}

double hosts_leaders_share(const struct plan_params *params)
{
    int share = params->ranks_per_core, local = params->layout->most_local;
    return share <= 1 ? 1 : share < local ? share : local;
}

void hosts_await_lines(struct plan *plan, const struct hosts *h, uint64_t bytes)
{
    for (int i = 1; i < h->local; i++)
        plan_wait_inline(plan, 0, hosts_local(h, algo_rank_at(h->index, i, h->local)), bytes);
}

int hosts_lines(const struct hosts *h, struct plan_operand *srcs)
{
    for (int i = 0; i < h->local; i++)
        srcs[i] =
            i == h->index ? algo_send_at(h->rank, 0) : algo_line_of(h->rank, hosts_local(h, i));
    return h->local;
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
