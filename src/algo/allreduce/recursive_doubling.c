/*
 * allreduce, recursive doubling (Thakur, Rabenseifner, Gropp: "Optimization of collective communication operations in
 * MPICH", 2005, section 4.5): at level j a rank exchanges all that it has with the rank whose number differs in bit j.
 *
 * Where n is no power of two, of the first 2 x (n - p2) ranks the even ones hand their contribution to the odd one on
 * their right and get the result from it, so that p2 ranks remain, numbered in rank order.
 *
 * Contributions that fit a line travel in lines, unless partial results are wider. Others are cut into pieces that fit the scratch, where each level has a
 * slot for what comes in and one for what goes out: what is being put must not be overwritten before the partner has
 * it. Pieces take turns in two sets of slots. That is enough: the partner sends piece q + 2 after it has received
 * piece q + 1, which this rank sent when it was through with piece q; and this rank composes piece q + 2 after it has
 * received piece q + 1, which the partner sent when it had received piece q.
 */
#include "algo/build.h"
#include "base/base.h"

struct doubling {
    const struct plan_params *params;
    int rank, levels;
    int rem; /* so many ranks fold into their right neighbour first */
    int number; /* among the p2 that remain; -1: folded away */
    bool lines;
    uint64_t slot_bytes; /* also the size of a piece */
    uint64_t pieces;
};

struct piece {
    uint64_t index, offset, bytes;
};

static bool travels_in_lines(const struct plan_params *params)
{
    uint64_t slots = 2 * (uint64_t)algo_log2_floor(params->nranks) + 1;
    return !algo_stages(params) &&
           algo_count_bytes(params) <=
               min_u64(plan_line_bytes(params),
                       algo_slot_bytes(params, params->scratch_bytes, slots));
}

static void doubling_init(struct doubling *d, const struct plan_params *params)
{
    int n = params->nranks, rank = params->rank, levels = algo_log2_floor(n);
    int rem = n - (1 << levels);
    uint64_t bytes = algo_count_bytes(params), sets = 1;
    uint64_t slots = 2 * (uint64_t)levels + 1, room = algo_partial_room(params) / slots;
    if (room < bytes) {
        sets = 2;
        room = algo_partial_room(params) / (slots * sets);
    }
    *d = (struct doubling){
        .params = params,
        .rank = rank,
        .levels = levels,
        .rem = rem,
        .number = algo_number_of(rank, rem),
        .lines = travels_in_lines(params),
        .slot_bytes = room / CACHE_LINE_BYTES * CACHE_LINE_BYTES,
    };
    /* also of nothing: who arrives is waited for */
    d->pieces = d->lines || !bytes ? 1 : (bytes + d->slot_bytes - 1) / d->slot_bytes;
}

static int partner_of(const struct doubling *d, int level)
{
    return algo_rank_of_number(d->number ^ (1 << level), d->rem);
}

/* Slots of a set: what comes in at each level, what goes out at each level, what the left neighbour folds in. */
static struct plan_operand slot(const struct doubling *d, int rank, const struct piece *piece,
                                int i)
{
    uint64_t set = piece->index % 2 * (2 * (uint64_t)d->levels + 1);
    return algo_partial_at(d->params, rank, (set + (uint64_t)i) * d->slot_bytes);
}
static struct plan_operand slot_in(const struct doubling *d, int rank, const struct piece *piece,
                                   int level)
{
    return slot(d, rank, piece, level);
}
static struct plan_operand slot_out(const struct doubling *d, const struct piece *piece, int level)
{
    return slot(d, d->rank, piece, d->levels + level);
}
static struct plan_operand slot_fold_in(const struct doubling *d, int rank,
                                        const struct piece *piece)
{
    return slot(d, rank, piece, 2 * d->levels);
}

static void send_to(struct plan *plan, const struct doubling *d, const struct piece *piece,
                    int peer, struct plan_operand dst, struct plan_operand src)
{
    if (d->lines) {
        plan_put_inline(plan, 0, peer, src, piece->bytes);
        return;
    }
    if (piece->index == 0)
        plan_wait_arrival(plan, 0, peer);
    plan_put(plan, 0, peer, dst, src, piece->bytes, piece->index + 1);
}

/* Waits for the peer's piece, which is in `expected` unless it comes in a line, and says where it is. */
static struct plan_operand receive_from(struct plan *plan, const struct doubling *d,
                                        const struct piece *piece, int peer,
                                        struct plan_operand expected)
{
    if (d->lines) {
        plan_wait_inline(plan, 0, peer, piece->bytes);
        return algo_line_of(d->rank, peer);
    }
    plan_wait(plan, 0, peer, piece->index + 1);
    return expected;
}

/* A rank that is folded away: contribution out, result in. */
static void build_folded(struct plan *plan, const struct doubling *d, const struct piece *piece)
{
    int right = d->rank + 1;
    struct plan_operand recv = algo_recv_at(d->rank, piece->offset);
    struct plan_operand mine = algo_send_at(d->rank, piece->offset);
    if (algo_stages(d->params)) {
        algo_stage(plan, slot_out(d, piece, 0), mine, piece->bytes);
        mine = slot_out(d, piece, 0);
    }
    send_to(plan, d, piece, right, slot_fold_in(d, right, piece), mine);
    struct plan_operand result = receive_from(plan, d, piece, right, recv);
    if (d->lines)
        plan_copy(plan, 0, recv, result, piece->bytes);
}

static void build_piece(struct plan *plan, const struct doubling *d, const struct piece *piece)
{
    int rank = d->rank;
    bool has_left = rank < 2 * d->rem;
    struct plan_operand recv = algo_recv_at(rank, piece->offset);
    struct plan_operand mine = algo_send_at(rank, piece->offset);

    /* Fold in the left neighbour's; in place, move what is put out of RECV's way. Partial results are widened. */
    if (has_left) {
        struct plan_operand left =
            receive_from(plan, d, piece, rank - 1, slot_fold_in(d, rank, piece));
        struct plan_operand folded = slot_out(d, piece, 0);
        algo_reduce2(plan, 0, folded, left, mine, piece->bytes);
        mine = folded;
    } else if (plan->params.in_place || algo_stages(d->params)) {
        struct plan_operand moved = slot_out(d, piece, 0);
        algo_stage(plan, moved, mine, piece->bytes);
        mine = moved;
    }

    /* Exchange and fold, the lower numbers first, so that all ranks compute the same bits. */
    for (int level = 0; level < d->levels; level++) {
        int partner = partner_of(d, level);
        bool last = level == d->levels - 1;
        struct plan_operand result = last ? recv : slot_out(d, piece, level + 1);
        send_to(plan, d, piece, partner, slot_in(d, partner, piece, level), mine);
        struct plan_operand theirs =
            receive_from(plan, d, piece, partner, slot_in(d, rank, piece, level));
        bool lower = rank < partner;
        algo_reduce2(plan, last ? PLAN_FINAL : 0, result, lower ? mine : theirs,
                     lower ? theirs : mine, piece->bytes);
        mine = result;
    }

    if (has_left)
        send_to(plan, d, piece, rank - 1, algo_recv_at(rank - 1, piece->offset), recv);
}

static void arrive(struct plan *plan, const struct doubling *d)
{
    if (d->number < 0) {
        plan_arrive(plan, 0, d->rank + 1);
        return;
    }
    if (d->rank < 2 * d->rem)
        plan_arrive(plan, 0, d->rank - 1);
    for (int level = 0; level < d->levels; level++)
        plan_arrive(plan, 0, partner_of(d, level));
}

void algo_allreduce_recursive_doubling_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct doubling d;
    if (algo_build_alone(plan))
        return;
    doubling_init(&d, params);
    uint64_t bytes = algo_count_bytes(params);
    if (!d.lines)
        arrive(plan, &d);
    for (uint64_t q = 0; q < d.pieces && plan->status == THRUM_OK; q++) {
        uint64_t offset = q * d.slot_bytes;
        struct piece piece = {q, offset, min_u64(d.slot_bytes, bytes - offset)};
        if (d.number < 0)
            build_folded(plan, &d, &piece);
        else
            build_piece(plan, &d, &piece);
    }
}

struct algo_cost algo_allreduce_recursive_doubling_cost(const struct plan_params *params)
{
    int n = params->nranks, levels = algo_log2_floor(n);
    double bytes = (double)algo_count_bytes(params), rounds = levels + (n == 1 << levels ? 0 : 2);
    bool lines = travels_in_lines(params);
    return (struct algo_cost){.steps = rounds + (lines ? 0 : 1),
                              .messages = (lines ? 2 : 4) * rounds,
                              .passed_bytes = 2 * rounds * bytes,
                              .reduced_bytes = 3 * rounds * bytes};
}
