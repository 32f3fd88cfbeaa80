/*
 * scan and exscan, recursive doubling (Hillis, Steele: "Data parallel algorithms", 1986): before the step of distance d a
 * rank has the fold of itself and the d - 1 ranks before it; it puts that to rank + d and folds in what rank - d has. For
 * exscan the contributions first move to the next rank, which goes on with them among one rank fewer.
 *
 * Contributions are cut into pieces that fit a slot. Each step has a slot for what comes in and one for what goes out,
 * in two sets, used in turn; who reads a slot says so before the piece after next.
 */
#include "algo/build.h"
#include "base/base.h"

#define SETS 2

struct doubling {
    const struct plan_params *params;
    int n, rank, levels;
    bool exclusive;
    uint64_t slot_bytes, pieces;
};

struct piece {
    uint64_t index, offset, bytes;
};

static void doubling_init(struct doubling *d, const struct plan_params *params)
{
    uint64_t bytes = algo_count_bytes(params);
    int levels = algo_log2_ceil(params->nranks);
    uint64_t slots = 2 * ((uint64_t)levels + 1);
    uint64_t slot = algo_slot_bytes(params, algo_partial_room(params), SETS * slots);
    *d = (struct doubling){
        .params = params,
        .n = params->nranks,
        .rank = params->rank,
        .levels = levels,
        .exclusive = params->collective == COLL_EXSCAN,
        .slot_bytes = slot,
        .pieces = (bytes + slot - 1) / slot,
    };
}

/* Step 0 is exscan's shift. Step s > 0 has distance 2^(s - 1). */
static int distance_of(int step)
{
    return step == 0 ? 1 : 1 << (step - 1);
}
static struct plan_operand slot(const struct doubling *d, int rank, const struct piece *piece,
                                int step, bool out)
{
    uint64_t set = piece->index % SETS * 2 + (out ? 1 : 0);
    return algo_partial_at(d->params, rank,
                           (set * ((uint64_t)d->levels + 1) + (uint64_t)step) * d->slot_bytes);
}

/* Does `rank` put to rank + distance in the step? In exscan rank 0 is out of it after step 0. */
static bool sends(const struct doubling *d, int rank, int step)
{
    int first = d->exclusive && step > 0 ? 1 : 0;
    return step <= d->levels && rank >= first && rank < d->n - distance_of(step) &&
           (step > 0 || d->exclusive);
}
static bool gets(const struct doubling *d, int step)
{
    return sends(d, d->rank - distance_of(step), step);
}

/*
 * Values to a rank: exscan's shift and the first step have the same distance, so that a piece counts two of them.
 * Credits go the other way.
 */
static uint64_t value_of(uint64_t q, int step)
{
    return 2 * q + (step == 0 ? 1 : 2);
}

static void send_to(struct plan *plan, const struct doubling *d, const struct piece *piece,
                    int step, struct plan_operand src)
{
    int to = d->rank + distance_of(step);
    plan_put(plan, 0, to, slot(d, to, piece, step, false), src, piece->bytes,
             value_of(piece->index, step));
}

/* All that has read what the piece before the last put: its slots are free again. */
static void wait_credits(struct plan *plan, const struct doubling *d, const struct piece *piece)
{
    for (int step = 0; piece->index >= SETS && step <= d->levels; step++)
        if (sends(d, d->rank, step))
            plan_wait(plan, 0, d->rank + distance_of(step), value_of(piece->index - SETS, step));
}

static struct plan_operand receive(struct plan *plan, const struct doubling *d,
                                   const struct piece *piece, int step)
{
    plan_wait(plan, 0, d->rank - distance_of(step), value_of(piece->index, step));
    return slot(d, d->rank, piece, step, false);
}

static void give_credit(struct plan *plan, const struct doubling *d, const struct piece *piece,
                        int step)
{
    if (piece->index + SETS < d->pieces)
        plan_signal(plan, 0, d->rank - distance_of(step), value_of(piece->index, step));
}

/* A contribution that will be put: out of RECV's way in place, and as wide as partial results are. */
static struct plan_operand own_contribution(struct plan *plan, const struct doubling *d,
                                            const struct piece *piece, int step)
{
    struct plan_operand mine = algo_send_at(d->rank, piece->offset);
    struct plan_operand out = slot(d, d->rank, piece, step, true);
    if (d->rank == d->n - 1 || !(d->params->in_place || algo_stages(d->params)))
        return mine;
    algo_stage(plan, out, mine, piece->bytes);
    return out;
}

/* What exscan begins with: the contribution of the rank before. */
static struct plan_operand shifted(struct plan *plan, const struct doubling *d,
                                   const struct piece *piece)
{
    struct plan_operand out = slot(d, d->rank, piece, 1, true);
    if (sends(d, d->rank, 0))
        send_to(plan, d, piece, 0, own_contribution(plan, d, piece, 0));
    if (d->rank == 0)
        return out;
    plan_copy(plan, 0, out, receive(plan, d, piece, 0), piece->bytes);
    give_credit(plan, d, piece, 0);
    return out;
}

/* RECV <- what is folded by the end. */
static void finish(struct plan *plan, const struct doubling *d, const struct piece *piece,
                   struct plan_operand mine)
{
    struct plan_operand recv = algo_recv_at(d->rank, piece->offset);
    int ranks = d->exclusive ? d->rank : d->rank + 1;
    if (ranks > 1 || d->exclusive)
        plan_reduce_prefix(plan, 0, ranks, recv, &mine, 1, piece->bytes);
    else if (!d->params->in_place || algo_single_is_reduced(d->params))
        algo_copy_single(plan, recv, algo_send_at(d->rank, piece->offset), piece->bytes);
}

static void build_piece(struct plan *plan, const struct doubling *d, const struct piece *piece)
{
    int ranks = d->exclusive ? d->rank : d->rank + 1;
    wait_credits(plan, d, piece);
    struct plan_operand mine =
        d->exclusive ? shifted(plan, d, piece) : own_contribution(plan, d, piece, 1);
    if (ranks == 0)
        return;
    for (int step = 1; step <= d->levels; step++) {
        if (sends(d, d->rank, step))
            send_to(plan, d, piece, step, mine);
        if (!gets(d, step))
            continue;
        struct plan_operand srcs[2] = {receive(plan, d, piece, step), mine};
        bool last = !gets(d, step + 1) && !sends(d, d->rank, step + 1);
        mine = slot(d, d->rank, piece, step + 1, true);
        if (last)
            plan_reduce_prefix(plan, 0, ranks, algo_recv_at(d->rank, piece->offset), srcs, 2,
                               piece->bytes);
        else
            plan_reduce(plan, 0, 0, &mine, 1, srcs, 2, piece->bytes);
        give_credit(plan, d, piece, step);
        if (last)
            return;
    }
    finish(plan, d, piece, mine);
}

static void meet(struct plan *plan, const struct doubling *d,
                 void (*op)(struct plan *plan, int lane, int peer))
{
    for (int distance = 1; distance < d->n; distance *= 2) {
        if (d->rank >= distance)
            op(plan, 0, d->rank - distance);
        if (d->rank < d->n - distance)
            op(plan, 0, d->rank + distance);
    }
}

void algo_scan_recursive_doubling_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct doubling d;
    if (algo_build_alone(plan))
        return;
    doubling_init(&d, params);
    meet(plan, &d, plan_arrive);
    meet(plan, &d, plan_wait_arrival);
    for (uint64_t q = 0; q < d.pieces && plan->status == THRUM_OK; q++) {
        uint64_t offset = q * d.slot_bytes;
        struct piece piece = {q, offset, min_u64(d.slot_bytes, algo_count_bytes(params) - offset)};
        build_piece(plan, &d, &piece);
    }
}

struct algo_cost algo_scan_recursive_doubling_cost(const struct plan_params *params)
{
    int shifts = params->collective == COLL_EXSCAN; /* and goes on among one rank fewer */
    double levels = algo_log2_ceil(params->nranks - shifts),
           bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 1 + levels + shifts,
                              .messages = 4 * levels + 2 * shifts,
                              .passed_bytes = 2 * (levels + shifts) * bytes,
                              .own_bytes = 2 * shifts * bytes,
                              .reduced_bytes = 3 * levels * bytes};
}
