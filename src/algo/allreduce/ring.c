/*
 * allreduce, ring: reduce-scatter, then allgather (Patarasuk, Yuan: "Bandwidth optimal all-reduce algorithms for
 * clusters of workstations", 2009). Rank r starts slice r on its way to the right; each rank on the way folds in its
 * contribution; after n - 1 steps the slice is complete, and travels on for n - 1 more steps into every RECV.
 *
 * Partial sums are composed in this rank's own slots and put into those of the right neighbour, both free again with its
 * credit; complete slices go straight to RECV.
 *
 * Of a large message each lane has a part of every slice, which travels a ring of its own, so that one lane folds while
 * another sends. Each element is folded in the same order as in one lane.
 */
#include "algo/ring.h"

/* Slice that a rank sends at a step of a phase; what it receives then, its left neighbour sends. */
static int slice_sent(const struct ring *ring, int rank, uint64_t m)
{
    bool gather = m >= ring->staged;
    return algo_rank_at(rank, (gather ? 1 : 0) - ring_step(ring, m), ring->n);
}

struct piece {
    int step;
    bool gather;
    uint64_t offset, bytes;
};

static struct piece piece_of(const struct plan *plan, const struct ring *ring, int sender,
                             uint64_t m)
{
    uint64_t count = plan->params.count;
    int slice = slice_sent(ring, sender, m);
    uint64_t of_slice = algo_slice(count, ring->n, slice);
    uint64_t all = algo_slice(count, ring->n, slice + 1) - of_slice;
    uint64_t first = algo_slice(all, ring->lanes, ring->lane);
    uint64_t elems = algo_slice(all, ring->lanes, ring->lane + 1) - first;
    bool gather = m >= ring->staged;
    struct ring_message message = ring_message(ring, gather ? m - ring->staged : m, elems);
    return (struct piece){
        .step = message.step,
        .gather = gather,
        .offset = (of_slice + first + message.first) * ring->elem,
        .bytes = message.elems * ring->elem,
    };
}

/* The first step's message is this rank's contribution, as it is where a PUT can take it. */
static struct plan_operand source_of(struct plan *plan, const struct ring *ring,
                                     const struct piece *piece, uint64_t m)
{
    struct plan_operand slot = ring_slot(plan, ring, ring->rank, m, RING_OUT);
    struct plan_operand send = algo_send_at(ring->rank, piece->offset);
    if (piece->gather)
        return algo_recv_at(ring->rank, piece->offset);
    if (piece->step > 0)
        return slot;
    if (!algo_stages(&plan->params))
        return send;
    plan_reduce(plan, ring->lane, 0, &slot, 1, &send, 1, piece->bytes); /* widens it */
    return slot;
}

static void send_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct piece piece = piece_of(plan, ring, ring->rank, m);
    struct plan_operand dst = piece.gather ? algo_recv_at(ring->right, piece.offset)
                                           : ring_slot(plan, ring, ring->right, m, RING_IN);
    plan_put(plan, ring->lane, ring->right, dst, source_of(plan, ring, &piece, m), piece.bytes,
             ring_data_value(ring, m));
}

static void fold_message(struct plan *plan, const struct ring *ring, uint64_t m)
{
    struct piece piece = piece_of(plan, ring, ring->left, m);
    bool complete = piece.step == ring->n - 2;
    struct plan_operand dst = complete
                                  ? algo_recv_at(ring->rank, piece.offset)
                                  : ring_slot(plan, ring, ring->rank, m + ring->ahead, RING_OUT);
    struct plan_operand srcs[2] = {ring_slot(plan, ring, ring->rank, m, RING_IN),
                                   algo_send_at(ring->rank, piece.offset)};
    plan_reduce(plan, ring->lane, complete ? PLAN_FINAL : 0, &dst, 1, srcs, 2, piece.bytes);
}

static void build_lane(struct plan *plan, int lane, int lanes)
{
    const struct plan_params *params = &plan->params;
    uint64_t largest = algo_slice(algo_slice(params->count, params->nranks, 1), lanes, 1);
    struct ring ring;

    ring_init(&ring, params, largest, 2, lane, lanes);
    if (lane > 0)
        plan_wait_arrival(plan, lane, ring.right);
    for (uint64_t m = 0; m < ring.ahead; m++)
        send_message(plan, &ring, m);
    for (uint64_t m = 0; m < ring.messages && plan->status == THRUM_OK; m++) {
        uint64_t next = m + ring.ahead;
        ring_wait_data(plan, &ring, m);
        ring_wait_credit(plan, &ring, next); /* the fold composes it */
        if (m < ring.staged)
            fold_message(plan, &ring, m);
        ring_give_credit(plan, &ring, m);
        if (next < ring.messages)
            send_message(plan, &ring, next);
    }
}

void algo_allreduce_ring_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    int n = params->nranks;
    int lanes = algo_lanes(params, params->count / (uint64_t)n * algo_elem_bytes(params));
    algo_meet_two(plan, algo_rank_at(params->rank, 1, n), algo_rank_at(params->rank, -1, n));
    if (params->count == 0)
        return;
    for (int lane = 0; lane < lanes; lane++)
        build_lane(plan, lane, lanes);
}

struct algo_cost algo_allreduce_ring_cost(const struct plan_params *params)
{
    double n = params->nranks, slice = (double)algo_count_bytes(params) / n,
           steps = 1 + 2 * (n - 1);
    uint64_t largest = algo_slice(params->count, params->nranks, 1);
    /* a step: put (read, write), and in the first half the fold (two reads, one write) */
    return (struct algo_cost){.steps = steps,
                              .messages = ring_message_count(params, largest, 2),
                              .passed_bytes = 4 * (n - 1) * slice,
                              .reduced_bytes = 3 * (n - 1) * slice,
                              .overlap = ring_overlap(params, largest)};
}
