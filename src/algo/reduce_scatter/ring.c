/*
 * reduce_scatter, ring: the first half of the ring allreduce (Patarasuk, Yuan 2009). The partial sum of block b starts
 * at rank b + 1 and ends, complete, at rank b, n - 1 steps further.
 *
 * RECV has room for one block only, so partial sums are composed in a second area of slots in this rank's own scratch
 * and put from there into the first area of the right neighbour's. Both are free again with the neighbour's credit.
 */
#include "algo/ring.h"

enum { AREA_IN, AREA_OUT, AREAS };

static int block_sent(const struct ring *ring, int rank, uint64_t m)
{
    return algo_rank_at(rank, -1 - ring_step(ring, m), ring->n);
}

static uint64_t send_offset(const struct plan *plan, const struct ring *ring, int block,
                            const struct ring_message *message)
{
    return ((uint64_t)block * plan->params.count + message->first) * ring->elem;
}

static void send_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct ring_message message = ring_message(ring, m, plan->params.count);
    int block = block_sent(ring, ring->rank, m);
    struct plan_operand src =
        message.step == 0 ? algo_send_at(ring->rank, send_offset(plan, ring, block, &message))
                          : algo_scratch_at(ring->rank, ring_slot(ring, m, AREA_OUT));
    plan_put(plan, 0, ring->right, algo_scratch_at(ring->right, ring_slot(ring, m, AREA_IN)), src,
             message.elems * ring->elem, ring_data_value(ring, m));
}

static void fold_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct ring_message message = ring_message(ring, m, plan->params.count);
    int block = block_sent(ring, ring->left, m);
    bool complete = message.step == ring->n - 2;
    struct plan_operand dst =
        complete ? algo_recv_at(ring->rank, message.first * ring->elem)
                 : algo_scratch_at(ring->rank, ring_slot(ring, m + ring->ahead, AREA_OUT));
    algo_reduce2(plan, complete ? PLAN_FINAL : 0, dst,
                 algo_scratch_at(ring->rank, ring_slot(ring, m, AREA_IN)),
                 algo_send_at(ring->rank, send_offset(plan, ring, block, &message)),
                 message.elems * ring->elem);
}

void algo_reduce_scatter_ring_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    int n = params->nranks;
    algo_meet_two(plan, algo_rank_at(params->rank, 1, n), algo_rank_at(params->rank, -1, n));
    if (params->count == 0)
        return;

    struct ring ring;
    ring_init(&ring, params, params->count, AREAS, 1);
    for (uint64_t m = 0; m < ring.ahead; m++)
        send_message(plan, &ring, m);
    for (uint64_t m = 0; m < ring.messages && plan->status == THRUM_OK; m++) {
        uint64_t next = m + ring.ahead;
        ring_wait_data(plan, &ring, m);
        ring_wait_credit(plan, &ring, next); /* the fold composes it */
        fold_message(plan, &ring, m);
        ring_give_credit(plan, &ring, m);
        if (next < ring.messages)
            send_message(plan, &ring, next);
    }
}

struct algo_cost algo_reduce_scatter_ring_cost(const struct plan_params *params)
{
    double n = params->nranks, block = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1 + (n - 1), .bytes_moved = (n - 1) * block * 5};
}
