/*
 * hosts: what the algorithms that know hosts share. Inside a host ranks load and store each other's memory; between hosts
 * every rank moves its share, to and from ranks of its own index or, where hosts have unequal numbers of ranks, of its
 * index modulo those of the other host: its carriers. Called by src/algo/<collective>/hosts.c and algo.c.
 */
#ifndef ALGO_HOSTS_H
#define ALGO_HOSTS_H

#include "algo/build.h"

/* A rank's place. */
struct hosts {
    const struct plan_layout *l;
    int rank, host, index;
    int local; /* ranks of its host */
    int n; /* hosts */
    int rails; /* ranks that every host has: 0 .. rails - 1 of each pass slices between hosts */
};

static inline struct hosts hosts_of(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    int host = l->host[params->rank];
    return (struct hosts){.l = l,
                          .rank = params->rank,
                          .host = host,
                          .index = l->index[params->rank],
                          .local = plan_layout_local(l, host),
                          .n = l->nhosts,
                          .rails = l->least_local};
}

/* The rank of the own host with that index; the rank of this index on host + distance, modulo hosts. */
static inline int hosts_local(const struct hosts *h, int index)
{
    return plan_layout_rank(h->l, h->host, index);
}
static inline int hosts_at(const struct hosts *h, int distance)
{
    return algo_rank_at(h->host, distance, h->n);
}
static inline int hosts_rail(const struct hosts *h, int host)
{
    return plan_layout_rank(h->l, host, h->index);
}

/* Who on `host` moves what goes from there to `rank` of another host, or comes from it. */
static inline int hosts_carrier(const struct hosts *h, int host, int rank)
{
    return plan_layout_rank(h->l, host, h->l->index[rank] % plan_layout_local(h->l, host));
}

/* How many ranks of one other host a rank carries for, at most. */
static inline uint64_t hosts_carried(const struct plan_layout *l)
{
    return ((uint64_t)l->most_local + (uint64_t)l->least_local - 1) / (uint64_t)l->least_local;
}

/*
 * The ranks of other hosts that this one carries for, nearest host first: begin with *k = 1, *i = index; false: no more.
 * Both are advanced; *host_out and the return value say which.
 */
static inline int hosts_next_carried(const struct hosts *h, int *k, int *i, int *host_out)
{
    while (*k < h->n) {
        int host = hosts_at(h, *k), at = *i;
        if (at < plan_layout_local(h->l, host)) {
            *i += h->local;
            *host_out = host;
            return plan_layout_rank(h->l, host, at);
        }
        ++*k;
        *i = h->index;
    }
    return -1;
}

/* The first rank of a host, where one puts for all of it. */
static inline int hosts_leader(const struct hosts *h, int host)
{
    return plan_layout_rank(h->l, host, 0);
}

/* Lines of `bytes` from all other ranks of the host; and the operands: these lines and the own SEND, in rank order. */
void hosts_await_lines(struct plan *plan, const struct hosts *h, uint64_t bytes);
int hosts_lines(const struct hosts *h, struct plan_operand *srcs);

/* Of the ranks that share a core one is a leader: messages of a leader count by so much less. */
double hosts_leaders_share(const struct plan_params *params);

/* Arrivals among the ranks of the host: all are sent, all are waited for. */
void hosts_arrive(struct plan *plan, const struct hosts *h);
void hosts_await(struct plan *plan, const struct hosts *h);

/* Departures on the host, value 1: those with an index below `touching` have touched the others' memory. */
void hosts_depart(struct plan *plan, const struct hosts *h, int touching);

/* dsts <- the same range of RECV of all ranks of the host, the own one first, or without it. Returns how many. */
int hosts_recvs(const struct hosts *h, bool own_too, uint64_t offset, struct plan_operand *dsts);

/* srcs <- the same range of SEND of all ranks of the host, in rank order. Returns how many. */
int hosts_sends(const struct hosts *h, uint64_t offset, struct plan_operand *srcs);

/* So many bytes of a share are worth sending at once, where there are more: so that hosts and the network overlap. */
uint64_t hosts_piece_bytes(uint64_t share_bytes, uint64_t most);

/* Whether the scratch is large enough; and why the layout is none for these algorithms (NULL: it is one). */
bool hosts_allreduce_fits(const struct plan_params *params);
bool hosts_reduce_scatter_fits(const struct plan_params *params);
bool hosts_reduce_fits(const struct plan_params *params);
bool hosts_alltoall_fits(const struct plan_params *params);
bool hosts_alltoall_leaders_fits(const struct plan_params *params);
const char *hosts_refusal(const struct plan_params *params);
/* The same, of those that send one line for a host. */
const char *hosts_leaders_refusal(const struct plan_params *params);

#endif
