/*
 * scan and exscan, chain: the running prefix travels from rank 0 to rank n - 1 in pieces; each rank folds its
 * contribution in behind it and hands it on. So results are folded in rank order, and rank r starts r pieces later.
 *
 * The scratch has SLOTS slots for what comes in and as many for what goes out. Piece q uses slot q % SLOTS; the right
 * neighbour's credit for piece q says that it has read the slot of piece q, which frees both.
 */
#include "algo/tree.h"
#include "base/base.h"

#define SLOTS 4
#define LEAST_PIECE_BYTES 8192
#define MOST_PIECE_BYTES 262144

struct chain {
    int n, rank;
    uint64_t slot_bytes, piece_bytes, pieces, bytes;
};

struct piece {
    uint64_t index, offset, bytes;
};

static void chain_init(struct chain *c, const struct plan_params *params)
{
    uint64_t elem = algo_elem_bytes(params), bytes = algo_count_bytes(params);
    uint64_t slot = algo_slot_bytes(params, algo_partial_room(params), 2 * SLOTS);
    /* enough pieces to keep all ranks at work */
    uint64_t wanted = max_u64(bytes / (2 * (uint64_t)params->nranks), LEAST_PIECE_BYTES);
    uint64_t piece = min_u64(slot, min_u64(wanted, MOST_PIECE_BYTES)) / elem * elem;
    *c = (struct chain){
        .n = params->nranks,
        .rank = params->rank,
        .slot_bytes = slot,
        .piece_bytes = piece,
        .pieces = (bytes + piece - 1) / piece,
        .bytes = bytes,
    };
}

static struct plan_operand slot_in(const struct plan *plan, const struct chain *c, int rank,
                                   uint64_t q)
{
    return algo_partial_at(&plan->params, rank, q % SLOTS * c->slot_bytes);
}
static struct plan_operand slot_out(const struct plan *plan, const struct chain *c, uint64_t q)
{
    return algo_partial_at(&plan->params, c->rank, (SLOTS + q % SLOTS) * c->slot_bytes);
}

/* The prefix up to and with this rank, to the next. Rank 0 puts its contribution as it is where it can. */
static void hand_on(struct plan *plan, const struct chain *c, const struct piece *piece)
{
    uint64_t q = piece->index;
    struct plan_operand mine = algo_send_at(c->rank, piece->offset), out = slot_out(plan, c, q);
    if (q >= SLOTS)
        plan_wait(plan, 0, c->rank + 1, q - SLOTS + 1);
    if (c->rank > 0)
        algo_reduce2(plan, 0, out, slot_in(plan, c, c->rank, q), mine, piece->bytes);
    else if (algo_stages(&plan->params) || algo_single_is_reduced(&plan->params))
        algo_stage(plan, out, mine, piece->bytes);
    else
        out = mine;
    plan_put(plan, 0, c->rank + 1, slot_in(plan, c, c->rank + 1, q), out, piece->bytes, q + 1);
}

static void finish(struct plan *plan, const struct chain *c, const struct piece *piece)
{
    struct plan_operand recv = algo_recv_at(c->rank, piece->offset);
    struct plan_operand mine = algo_send_at(c->rank, piece->offset);
    struct plan_operand srcs[2] = {slot_in(plan, c, c->rank, piece->index), mine};
    bool last = c->rank == c->n - 1;
    if (plan->params.collective == COLL_EXSCAN) {
        if (c->rank > 0)
            plan_reduce_prefix(plan, 0, c->rank, recv, srcs, 1, piece->bytes);
    } else if (c->rank > 0 && last) {
        plan_reduce_prefix(plan, 0, c->n, recv, srcs, 2, piece->bytes);
    } else if (c->rank > 0) {
        struct plan_operand sum = slot_out(plan, c, piece->index);
        plan_reduce_prefix(plan, 0, c->rank + 1, recv, &sum, 1, piece->bytes);
    } else if (!plan->params.in_place || algo_single_is_reduced(&plan->params)) {
        algo_copy_single(plan, recv, mine, piece->bytes);
    }
}

void algo_scan_chain_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct chain c;
    if (algo_build_alone(plan))
        return;
    chain_init(&c, params);
    bool first = c.rank == 0, last = c.rank == c.n - 1;
    algo_meet_two(plan, first ? -1 : c.rank - 1, last ? -1 : c.rank + 1);
    for (uint64_t q = 0; q < c.pieces && plan->status == THRUM_OK; q++) {
        uint64_t offset = q * c.piece_bytes;
        struct piece piece = {q, offset, min_u64(c.piece_bytes, c.bytes - offset)};
        if (!first)
            plan_wait(plan, 0, c.rank - 1, q + 1);
        if (!last)
            hand_on(plan, &c, &piece);
        finish(plan, &c, &piece);
        if (!first && q + SLOTS < c.pieces)
            plan_signal(plan, 0, c.rank - 1, q + 1);
    }
}

/* A chain that reduces, whose ranks write what they hand on. */
struct algo_cost algo_scan_chain_cost(const struct plan_params *params)
{
    struct plan_params short_pieces = *params;
    struct tree chain = tree_chain(params, 0);
    struct tree_job job = {.directions = TREE_UP,
                           .ntrees = 1,
                           .trees = &chain,
                           .max_children = 1,
                           .max_depth = params->nranks - 1,
                           .collector = -1};
    short_pieces.peer_access = true; /* are those of a tree that has it */
    struct algo_cost cost = tree_cost(&short_pieces, &job, tree_chain);
    if (params->collective == COLL_EXSCAN && params->nranks == 2) /* nobody folds */
        cost.reduced_bytes = 0;
    cost.reduced_bytes += 2 * (double)algo_count_bytes(params);
    return cost;
}
