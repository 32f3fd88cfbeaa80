/*
 * broadcast, binomial tree (Thakur, Rabenseifner, Gropp 2005, section 4.2). Ranks are numbered from the root; the parent
 * of a number is the number without its lowest bit. Parents serve the largest subtree first.
 *
 * What fits a line goes down in lines, for which nobody has to arrive.
 */
#include "algo/build.h"

/* Lowest bit of the number, which says how many children there can be; the root's is beyond all. */
static int lowest_bit(int number, int n)
{
    return number == 0 ? 1 << algo_log2_ceil(n) : number & -number;
}

void algo_broadcast_binomial_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    int n = params->nranks, rank = params->rank, root = params->root;
    int number = algo_rank_at(rank, -root, n), bit = lowest_bit(number, n);
    int parent = number == 0 ? -1 : algo_rank_at(number - bit, root, n);
    uint64_t bytes = algo_count_bytes(params);
    bool lines = bytes <= plan_line_bytes(params);
    struct plan_operand recv = algo_recv_at(rank, 0);
    struct plan_operand src = number == 0 ? algo_send_at(rank, 0) : recv;

    if (lines)
        plan_runs_ahead(plan);
    /* Arrival: parent and children know each other. */
    if (parent >= 0 && !lines)
        plan_arrive(plan, 0, parent);
    for (int b = bit / 2; b > 0 && !lines; b /= 2)
        if (b < n - number)
            plan_arrive(plan, 0, algo_rank_at(number + b, root, n));

    /* From the parent. */
    if (parent >= 0 && lines) {
        plan_wait_inline(plan, 0, parent, bytes);
        plan_copy(plan, 0, recv, algo_line_of(rank, parent), bytes);
    } else if (parent >= 0) {
        plan_wait_arrival(plan, 0, parent);
        plan_wait(plan, 0, parent, 1);
    }

    /* To the children. */
    for (int b = bit / 2; b > 0; b /= 2) {
        if (b >= n - number)
            continue;
        int child = algo_rank_at(number + b, root, n);
        if (lines) {
            plan_put_inline(plan, 0, child, src, bytes);
        } else {
            plan_wait_arrival(plan, 0, child);
            plan_put(plan, 0, child, algo_recv_at(child, 0), src, bytes, 1);
        }
    }
    if (number == 0 && !params->in_place)
        plan_copy(plan, 0, recv, src, bytes);
}

struct algo_cost algo_broadcast_binomial_cost(const struct plan_params *params)
{
    double levels = algo_log2_ceil(params->nranks), bytes = (double)algo_count_bytes(params);
    double hops = algo_log2_floor(params->nranks); /* as many as a number has bits set */
    if (bytes <= (double)plan_line_bytes(params))
        return (struct algo_cost){.steps = hops,
                                  .turns = ALGO_TURNS_ONE_WAY * levels,
                                  .messages = levels,
                                  .passed_bytes = 2 * levels * bytes,
                                  .copied_bytes = 2 * bytes,
                                  .lines = true};
    return (struct algo_cost){.steps = hops + 1,
                              .turns = ALGO_TURNS_ONE_WAY * (levels + 1),
                              .messages = 4 * levels,
                              .passed_bytes = 2 * levels * bytes,
                              .own_bytes = algo_root_kept(params)};
}
