/*
 * reduce_scatter, ring: the first half of the ring allreduce (Patarasuk, Yuan 2009). The partial sum of block b starts
 * at rank b + 1 and ends, complete, at rank b, n - 1 steps further.
 *
 * RECV has room for one block only, so partial sums are composed in a second area of slots in this rank's own scratch
 * and put from there into the first area of the right neighbour's. Both are free again with the neighbour's credit.
 */
#include "algo/ring.h"

static int block_sent(const struct ring *ring, int rank, uint64_t m)
{
    return algo_rank_at(rank, -1 - ring_step(ring, m), ring->n);
}

/* What message m carries of a block, in bytes. */
struct piece {
    int step;
    uint64_t send_offset, recv_offset, bytes;
};
static struct piece piece_of(const struct plan *plan, const struct ring *ring, int sender,
                             uint64_t m)
{
    const struct plan_params *params = &plan->params;
    int block = block_sent(ring, sender, m);
    struct ring_message message = ring_message(ring, m, plan_block_elems(params, block));
    return (struct piece){
        .step = message.step,
        .send_offset = (plan_block_first(params, block) + message.first) * ring->elem,
        .recv_offset = message.first * ring->elem,
        .bytes = message.elems * ring->elem,
    };
}

static void send_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct piece piece = piece_of(plan, ring, ring->rank, m);
    struct plan_operand src = ring_slot(plan, ring, ring->rank, m, RING_OUT);
    if (piece.step == 0 && algo_stages(&plan->params))
        algo_stage(plan, src, algo_send_at(ring->rank, piece.send_offset), piece.bytes);
    else if (piece.step == 0)
        src = algo_send_at(ring->rank, piece.send_offset);
    plan_put(plan, 0, ring->right, ring_slot(plan, ring, ring->right, m, RING_IN), src, piece.bytes,
             ring_data_value(ring, m));
}

static void fold_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct piece piece = piece_of(plan, ring, ring->left, m);
    bool complete = piece.step == ring->n - 2;
    struct plan_operand dst = complete
                                  ? algo_recv_at(ring->rank, piece.recv_offset)
                                  : ring_slot(plan, ring, ring->rank, m + ring->ahead, RING_OUT);
    algo_reduce2(plan, complete ? PLAN_FINAL : 0, dst,
                 ring_slot(plan, ring, ring->rank, m, RING_IN),
                 algo_send_at(ring->rank, piece.send_offset), piece.bytes);
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
    ring_init(&ring, params, params->count, 1, 0, 1);
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
    return (struct algo_cost){.steps = n,
                              .messages = ring_message_count(params, params->count, 1),
                              .passed_bytes = 2 * (n - 1) * block,
                              .reduced_bytes = 3 * (n - 1) * block,
                              .overlap = ring_overlap(params, params->count)};
}
