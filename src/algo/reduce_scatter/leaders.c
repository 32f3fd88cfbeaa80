/*
 * reduce_scatter, in lines over hosts: the ranks of a host send all their blocks to the first of them, its leader, which
 * folds them; leaders exchange the partial results for each other's hosts, fold those, and hand each rank its block. For
 * ranks that are numbered host by host, so that what goes to a host is one piece.
 */
#include "algo/hosts.h"
#include "base/base.h"

/* Of the vector of all blocks: where those of a host begin, how long they are. */
static uint64_t blocks_first(const struct hosts *h, int host, uint64_t bytes)
{
    return (uint64_t)plan_layout_rank(h->l, host, 0) * bytes;
}
static uint64_t blocks_bytes(const struct hosts *h, int host, uint64_t bytes)
{
    return (uint64_t)plan_layout_local(h->l, host) * bytes;
}

/* The vector's partial result of this host, in the leader's scratch; alone on its host its SEND is that. */
static struct plan_operand fold_host(struct plan *plan, const struct hosts *h, uint64_t all)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], partial = algo_scratch_at(h->rank, 0);
    if (h->local == 1)
        return algo_send_at(h->rank, 0);
    hosts_await_lines(plan, h, all);
    plan_reduce(plan, 0, 0, &partial, 1, srcs, hosts_lines(h, srcs), all);
    return partial;
}

static void build_leader(struct plan *plan, const struct hosts *h, uint64_t bytes, uint64_t all)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS], partial = fold_host(plan, h, all);
    struct plan_operand result = algo_scratch_at(h->rank, round_up_u64(all, CACHE_LINE_BYTES));
    uint64_t base = partial.offset, own = blocks_bytes(h, h->host, bytes);
    for (int k = 1; k < h->n; k++) {
        int host = hosts_at(h, k);
        partial.offset = base + blocks_first(h, host, bytes);
        plan_put_inline(plan, 0, hosts_leader(h, host), partial, blocks_bytes(h, host, bytes));
    }
    for (int k = 1; k < h->n; k++)
        plan_wait_inline(plan, 0, hosts_leader(h, hosts_at(h, -k)), own);
    partial.offset = base + blocks_first(h, h->host, bytes);
    for (int host = 0; host < h->n; host++)
        srcs[host] = host == h->host ? partial : algo_line_of(h->rank, hosts_leader(h, host));
    plan_reduce(plan, 0, PLAN_FINAL, &result, 1, srcs, h->n, own);
    plan_copy(plan, 0, algo_recv_at(h->rank, 0), result, bytes);
    for (int i = 1; i < h->local; i++) {
        result.offset += bytes;
        plan_put_inline(plan, 0, hosts_local(h, i), result, bytes);
    }
}

void algo_reduce_scatter_leaders_build(struct plan *plan)
{
    uint64_t bytes = algo_count_bytes(&plan->params), all = bytes * (uint64_t)plan->params.nranks;
    struct hosts h;
    if (algo_build_alone(plan))
        return;
    h = hosts_of(&plan->params);
    plan_runs_ahead(plan);
    if (h.index == 0) {
        build_leader(plan, &h, bytes, all);
        return;
    }
    plan_put_inline(plan, 0, hosts_leader(&h, h.host), algo_send_at(h.rank, 0), all);
    plan_wait_inline(plan, 0, hosts_leader(&h, h.host), bytes);
    plan_copy(plan, 0, algo_recv_at(h.rank, 0), algo_line_of(h.rank, hosts_leader(&h, h.host)),
              bytes);
}

struct algo_cost algo_reduce_scatter_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local, bytes = (double)algo_count_bytes(params);
    double all = params->nranks * bytes;
    return (struct algo_cost){.steps = 2,
                              .turns = 1, /* who leads nobody waits once */
                              .messages = 2 * (local - 1),
                              .passed_bytes = 2 * (local - 1) * (bytes + all),
                              .copied_bytes = 2 * bytes,
                              .reduced_bytes = 2 * all + 3 * local * bytes,
                              .net_steps = 1,
                              .net_messages = 2 * (n - 1) / hosts_leaders_share(params),
                              .net_bytes = (n - 1) * local * bytes / hosts_leaders_share(params),
                              .port_bytes = (n - 1) * local * bytes,
                              .overlap = algo_overlap(n - 1)};
}
