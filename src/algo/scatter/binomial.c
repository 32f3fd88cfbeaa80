/*
 * scatter, binomial tree (Knuth: The Art of Computer Programming 1, on binomial trees; Thakur, Rabenseifner, Gropp 2005,
 * section 4.2). Ranks are numbered from the root; the parent of a number is the number without its lowest bit, and its
 * subtree are the numbers from it on. So a subtree's blocks lie side by side in scratch; in the root's SEND they may wrap
 * around its end. Parents serve the largest subtree first.
 */
#include "algo/build.h"

struct place {
    int n, number, subtree; /* ranks of the subtree, this one among them */
    uint64_t block;
};

static int subtree_of(int number, int n)
{
    int low = number == 0 ? n : number & -number;
    return low < n - number ? low : n - number;
}

static int rank_of(const struct plan_params *params, int number)
{
    return algo_rank_at(number, params->root, params->nranks);
}

/* Inner ranks hold their subtree's blocks; the largest is half of all. */
bool algo_scatter_binomial_fits(const struct plan_params *params)
{
    uint64_t blocks = ((uint64_t)params->nranks + 1) / 2;
    return algo_count_bytes(params) <= params->scratch_bytes / blocks;
}

/* A subtree's blocks, or a leaf's block, which needs no room in scratch. */
static void put_to_child(struct plan *plan, const struct place *p, int child)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, to = rank_of(params, child), blocks = subtree_of(child, p->n);
    struct plan_operand dst = blocks == 1 ? algo_recv_at(to, 0) : algo_scratch_at(to, 0);
    uint64_t bytes = (uint64_t)blocks * p->block;
    plan_wait_arrival(plan, 0, to);
    if (p->number != 0) {
        plan_put(plan, 0, to, dst, algo_scratch_at(rank, (uint64_t)(child - p->number) * p->block),
                 bytes, 1);
        return;
    }
    int before_end = blocks < p->n - to ? blocks : p->n - to;
    uint64_t first = (uint64_t)before_end * p->block;
    plan_put(plan, 0, to, dst, algo_send_at(rank, (uint64_t)to * p->block), first,
             first < bytes ? 0 : 1);
    dst.offset += first;
    if (first < bytes)
        plan_put(plan, 0, to, dst, algo_send_at(rank, 0), bytes - first, 1);
}

void algo_scatter_binomial_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    int number = algo_rank_at(rank, -params->root, n), largest = 1;
    if (algo_build_alone(plan))
        return;
    struct place p = {n, number, subtree_of(number, n), algo_count_bytes(params)};
    if (number != 0) {
        int parent = rank_of(params, number & (number - 1));
        plan_arrive(plan, 0, parent);
        plan_wait(plan, 0, parent, 1);
    }
    while (2 * largest < p.subtree)
        largest *= 2;
    for (int bit = largest; bit > 0 && bit < p.subtree; bit /= 2)
        put_to_child(plan, &p, number + bit);
    if (number == 0 && !params->in_place)
        plan_copy(plan, 0, algo_recv_at(rank, 0), algo_send_at(rank, (uint64_t)rank * p.block),
                  p.block);
    else if (number != 0 && p.subtree > 1)
        plan_copy(plan, 0, algo_recv_at(rank, 0), algo_scratch_at(rank, 0), p.block);
}

struct algo_cost algo_scatter_binomial_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double levels = algo_log2_ceil(params->nranks);
    return (struct algo_cost){
        .steps = 1 + algo_log2_floor(params->nranks), /* hops: bits set in a number */
        .messages = 4 * levels,
        .passed_bytes = 2 * (n - 1) * bytes,
        .own_bytes = algo_kept(params, bytes)};
}
