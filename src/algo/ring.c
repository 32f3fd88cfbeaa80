/* The schedule of the reducing rings; see ring.h. */
#include "algo/ring.h"
#include "base/base.h"

void ring_init(struct ring *ring, const struct plan_params *params, uint64_t slice_elems,
               int phases, int lane, int lanes)
{
    int n = params->nranks, rank = params->rank;
    uint64_t elem = algo_elem_bytes(params);
    uint64_t slots = RING_SLOTS * RING_AREAS;
    uint64_t slot_bytes =
        algo_slot_bytes(params, algo_partial_room(params), slots * (uint64_t)lanes);
    uint64_t slot_elems = slot_bytes / elem;
    bool cut = slice_elems * elem > min_u64(RING_WHOLE_PIECE_BYTES, slot_bytes);
    uint64_t ahead = cut ? RING_AHEAD : 1;
    uint64_t group_elems = min_u64(slot_elems * ahead, slice_elems);
    uint64_t groups = (slice_elems + group_elems - 1) / group_elems;
    uint64_t pieces = groups * ahead;

    *ring = (struct ring){
        .n = n,
        .rank = rank,
        .left = algo_rank_at(rank, -1, n),
        .right = algo_rank_at(rank, 1, n),
        .lane = lane,
        .lanes = lanes,
        .elem = elem,
        .slot_bytes = slot_bytes,
        .slots_offset = (uint64_t)lane * slots * slot_bytes,
        .piece_elems = (slice_elems + pieces - 1) / pieces,
        .ahead = ahead,
        .staged = (uint64_t)(n - 1) * pieces,
    };
    ring->messages = ring->staged * (uint64_t)phases;
    ring->credits = ring->staged > RING_SLOTS ? ring->staged - RING_SLOTS : 0;
}

int ring_step(const struct ring *ring, uint64_t index)
{
    return (int)(index / ring->ahead % (uint64_t)(ring->n - 1));
}

struct ring_message ring_message(const struct ring *ring, uint64_t index, uint64_t slice_elems)
{
    uint64_t group = index / (ring->ahead * (uint64_t)(ring->n - 1));
    uint64_t piece = group * ring->ahead + index % ring->ahead;
    uint64_t first = min_u64(piece * ring->piece_elems, slice_elems);
    return (struct ring_message){
        .step = ring_step(ring, index),
        .first = first,
        .elems = min_u64(ring->piece_elems, slice_elems - first),
    };
}

struct plan_operand ring_slot(const struct plan *plan, const struct ring *ring, int rank,
                              uint64_t m, enum ring_area area)
{
    return algo_partial_at(&plan->params, rank,
                           ring->slots_offset +
                               ((uint64_t)area * RING_SLOTS + m % RING_SLOTS) * ring->slot_bytes);
}

/* Every rank raises in this order: messages 0 .. ahead - 1; then for each m: the credit of m, message m + ahead. */
uint64_t ring_data_value(const struct ring *ring, uint64_t m)
{
    uint64_t credits_before = m < ring->ahead ? 0 : min_u64(m - ring->ahead + 1, ring->credits);
    return m + 1 + credits_before;
}

static uint64_t credit_value(const struct ring *ring, uint64_t m)
{
    return (ring->ahead + m) + (m + 1);
}

void ring_wait_data(struct plan *plan, const struct ring *ring, uint64_t m)
{
    plan_wait(plan, ring->lane, ring->left, ring_data_value(ring, m));
}

void ring_wait_credit(struct plan *plan, const struct ring *ring, uint64_t m)
{
    if (m >= RING_SLOTS && m < ring->staged)
        plan_wait(plan, ring->lane, ring->right, credit_value(ring, m - RING_SLOTS));
}

void ring_give_credit(struct plan *plan, const struct ring *ring, uint64_t m)
{
    if (m < ring->credits)
        plan_signal(plan, ring->lane, ring->left, credit_value(ring, m));
}

double ring_message_count(const struct plan_params *params, uint64_t slice_elems, int phases)
{
    struct ring ring;

    ring_init(&ring, params, max_u64(slice_elems, 1), phases, 0, 1);
    return 4 + 2 * (double)(ring.messages + ring.credits);
}

double ring_overlap(const struct plan_params *params, uint64_t slice_elems)
{
    struct ring ring;

    ring_init(&ring, params, max_u64(slice_elems, 1), 1, 0, 1);
    return algo_overlap((double)ring.ahead);
}
