/*
 * gather, binomial tree (Knuth: The Art of Computer Programming 1, on binomial trees; Thakur, Rabenseifner, Gropp 2005,
 * section 4.1). Ranks are numbered from the root; the parent of a number is the number without its lowest bit, and its
 * subtree are the numbers from it on. So a subtree's blocks lie side by side, in scratch, and at the root in RECV, where
 * they may wrap around its end.
 */
#include "algo/build.h"

struct place {
    int n, number, parent; /* number of the parent; -1: root */
    int subtree; /* how many ranks, this one among them */
    uint64_t block;
};

static int subtree_of(int number, int n)
{
    int low = number == 0 ? n : number & -number;
    return low < n - number ? low : n - number;
}

static struct place place_of(const struct plan_params *params)
{
    int n = params->nranks, number = algo_rank_at(params->rank, -params->root, n);
    return (struct place){.n = n,
                          .number = number,
                          .parent = number == 0 ? -1 : number & (number - 1),
                          .subtree = subtree_of(number, n),
                          .block = algo_count_bytes(params)};
}

static int rank_of(const struct plan_params *params, int number)
{
    return algo_rank_at(number, params->root, params->nranks);
}

/* Inner ranks hold their subtree's blocks; the largest is half of all. */
bool algo_gather_binomial_fits(const struct plan_params *params)
{
    uint64_t blocks = ((uint64_t)params->nranks + 1) / 2;
    return algo_count_bytes(params) <= params->scratch_bytes / blocks;
}

/* To the root: where the blocks belong, in two runs if they wrap around, both told of by the last. */
static void put_to_root(struct plan *plan, const struct place *p, struct plan_operand src)
{
    int root = plan->params.root, first = plan->params.rank;
    int before_end = p->subtree < p->n - first ? p->subtree : p->n - first;
    uint64_t bytes = (uint64_t)before_end * p->block;
    bool wraps = before_end < p->subtree;
    plan_put(plan, 0, root, algo_recv_at(root, (uint64_t)first * p->block), src, bytes,
             wraps ? 0 : 1);
    if (!wraps)
        return;
    src.offset += bytes;
    plan_put(plan, 0, root, algo_recv_at(root, 0), src,
             (uint64_t)(p->subtree - before_end) * p->block, 1);
}

static void put_to_parent(struct plan *plan, const struct place *p)
{
    int rank = plan->params.rank, to = rank_of(&plan->params, p->parent);
    bool leaf = p->subtree == 1;
    struct plan_operand src = leaf ? algo_send_at(rank, 0) : algo_scratch_at(rank, 0);
    plan_wait_arrival(plan, 0, to);
    if (p->parent == 0)
        put_to_root(plan, p, src);
    else
        plan_put(plan, 0, to, algo_scratch_at(to, (uint64_t)(p->number - p->parent) * p->block),
                 src, (uint64_t)p->subtree * p->block, 1);
}

void algo_gather_binomial_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank;
    if (algo_build_alone(plan))
        return;
    struct place p = place_of(params);
    for (int bit = 1; bit < p.subtree; bit *= 2)
        plan_arrive(plan, 0, rank_of(params, p.number + bit));
    if (p.number == 0 && !params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, (uint64_t)rank * p.block), algo_send_at(rank, 0),
                  p.block);
    else if (p.number != 0 && p.subtree > 1)
        plan_copy(plan, 0, algo_scratch_at(rank, 0), algo_send_at(rank, 0), p.block);
    for (int bit = 1; bit < p.subtree; bit *= 2)
        plan_wait(plan, 0, rank_of(params, p.number + bit), 1);
    if (p.number != 0)
        put_to_parent(plan, &p);
}

struct algo_cost algo_gather_binomial_cost(const struct plan_params *params)
{
    double bytes = (double)algo_count_bytes(params);
    int n = params->nranks, hops = algo_log2_floor(n); /* bits set in a number */
    /* blocks double with each hop; to the root they go at the same time, but where they share its port */
    int blocks = params->layout ? n - 1 : (1 << hops) - 1;
    return (struct algo_cost){.steps = 1 + hops,
                              .messages = 4.0 * algo_log2_ceil(n),
                              .passed_bytes = 2.0 * blocks * bytes,
                              .own_bytes = algo_kept(params, bytes)};
}
