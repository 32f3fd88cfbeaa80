/* What the builders share; see build.h. */
#include "algo/build.h"
#include "base/base.h"

static bool is_logical(const struct plan_params *params)
{
    return params->redop == THRUM_LAND || params->redop == THRUM_LOR;
}

/* SCAN and EXSCAN say of how many ranks a result is; elsewhere it is of all. */
static bool has_prefixes(const struct plan_params *params)
{
    return params->collective == COLL_SCAN || params->collective == COLL_EXSCAN;
}

static void reduce_final(struct plan *plan, int lane, int ranks, const struct plan_operand *dsts,
                         int ndst, const struct plan_operand *srcs, int nsrc, uint64_t bytes)
{
    if (has_prefixes(&plan->params))
        plan_reduce_prefix(plan, lane, ranks, dsts[0], srcs, nsrc, bytes);
    else
        plan_reduce(plan, lane, PLAN_FINAL, dsts, ndst, srcs, nsrc, bytes);
}

bool algo_single_is_reduced(const struct plan_params *params)
{
    return plan_reduces(params->collective) && is_logical(params); /* 7 becomes 1 */
}

void algo_copy_single(struct plan *plan, struct plan_operand dst, struct plan_operand src,
                      uint64_t bytes)
{
    if (algo_single_is_reduced(&plan->params))
        reduce_final(plan, 0, 1, &dst, 1, &src, 1, bytes);
    else
        plan_copy(plan, 0, dst, src, bytes);
}

bool algo_build_alone(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (params->nranks > 1)
        return false;
    plan_names_stages(plan, false);
    bool gathers = params->collective == COLL_ALLGATHER;
    bool scatters = params->collective == COLL_REDUCE_SCATTER;
    uint64_t bytes = gathers || scatters ? algo_block_bytes(params, 0) : algo_count_bytes(params);
    struct plan_operand dst = algo_recv_at(0, gathers ? algo_block_offset(params, 0) : 0);
    struct plan_operand src = algo_send_at(0, scatters ? algo_block_offset(params, 0) : 0);
    bool nothing = params->collective == COLL_BARRIER || params->collective == COLL_EXSCAN;
    if (!nothing && (!params->in_place || algo_single_is_reduced(params)))
        algo_copy_single(plan, dst, src, bytes);
    return true;
}

void algo_stage(struct plan *plan, struct plan_operand partial, struct plan_operand src,
                uint64_t bytes)
{
    if (algo_stages(&plan->params))
        plan_reduce(plan, 0, 0, &partial, 1, &src, 1, bytes);
    else
        plan_copy(plan, 0, partial, src, bytes);
}

uint64_t algo_slot_bytes(const struct plan_params *params, uint64_t room, uint64_t slots)
{
    uint64_t elem = algo_elem_bytes(params), bytes = room / slots;
    return bytes >= CACHE_LINE_BYTES ? bytes / CACHE_LINE_BYTES * CACHE_LINE_BYTES
                                     : bytes / elem * elem;
}

void algo_reduce2(struct plan *plan, unsigned flags, struct plan_operand dst, struct plan_operand a,
                  struct plan_operand b, uint64_t bytes)
{
    struct plan_operand srcs[2] = {a, b};
    plan_reduce(plan, 0, flags, &dst, 1, srcs, 2, bytes);
}

void algo_stage_others(struct plan *plan, enum plan_space space, uint64_t offset, uint64_t bytes,
                       uint64_t own, uint64_t own_bytes)
{
    if (!own_bytes)
        own = offset + bytes;
    plan_stage(plan, space, offset, own - offset);
    plan_stage(plan, space, own + own_bytes, offset + bytes - own - own_bytes);
}

void algo_stage_blocks(struct plan *plan, enum plan_space space)
{
    for (int r = 0; r < plan->params.nranks; r++)
        if (r != plan->params.rank)
            plan_stage(plan, space, algo_block_offset(&plan->params, r),
                       algo_block_bytes(&plan->params, r));
}

void algo_meet_all(struct plan *plan)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    for (int i = 1; i < n; i++)
        plan_arrive(plan, 0, algo_rank_at(rank, i, n));
    for (int i = 1; i < n; i++)
        plan_wait_arrival(plan, 0, algo_rank_at(rank, i, n));
}

void algo_meet_two(struct plan *plan, int a, int b)
{
    bool has_a = a >= 0, has_b = b >= 0 && b != a;
    if (has_a)
        plan_arrive(plan, 0, a);
    if (has_b)
        plan_arrive(plan, 0, b);
    if (has_a)
        plan_wait_arrival(plan, 0, a);
    if (has_b)
        plan_wait_arrival(plan, 0, b);
}

void algo_signal_all(struct plan *plan, algo_touched_fn of)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    if (of(params, rank))
        for (int i = 1; i < n; i++)
            plan_signal(plan, 0, algo_rank_at(rank, i, n), 1);
}

void algo_wait_all(struct plan *plan, algo_touched_fn of)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        if (of(params, peer))
            plan_wait(plan, 0, peer, 1);
    }
}

void algo_depart_all(struct plan *plan, algo_touched_fn of)
{
    algo_signal_all(plan, of);
    algo_wait_all(plan, of);
}

uint64_t algo_slice_offset(const struct plan_params *params, int rank)
{
    return algo_slice(params->count, params->nranks, rank) * algo_elem_bytes(params);
}

uint64_t algo_slice_bytes(const struct plan_params *params, int rank)
{
    return algo_slice_offset(params, rank + 1) - algo_slice_offset(params, rank);
}

bool algo_has_slice(const struct plan_params *params, int rank)
{
    return algo_slice_bytes(params, rank) > 0;
}

struct plan_operand algo_source_send(const struct plan *plan, int rank, uint64_t offset)
{
    (void)plan;
    return algo_send_at(rank, offset);
}

struct plan_operand algo_source_line(const struct plan *plan, int rank, uint64_t offset)
{
    int me = plan->params.rank;
    /* a line holds what its receiver needs, from byte 0, and there is no second piece of it */
    return rank == me ? algo_send_at(me, offset) : algo_line_of(me, rank);
}

void algo_copy_everywhere(struct plan *plan, struct plan_operand src, uint64_t dst_offset,
                          uint64_t bytes, bool self_too)
{
    struct plan_operand dsts[PLAN_MAX_OPERANDS - 1];
    int n = plan->params.nranks, ndst = 0;
    for (int i = self_too ? 0 : 1; i < n; i++) {
        dsts[ndst++] = algo_recv_at(algo_rank_at(plan->params.rank, i, n), dst_offset);
        if (ndst == PLAN_MAX_OPERANDS - 1 || i == n - 1) {
            plan_copy_multi(plan, 0, dsts, ndst, src, bytes);
            ndst = 0;
        }
    }
}

/* RECV of rank first + i, for i < n: of all, this rank's comes first, so that not all write to the same rank. */
static int fold_dsts(const struct plan *plan, const struct algo_fold *fold, uint64_t done,
                     int first, int max, struct plan_operand *dsts)
{
    int n = fold->to == ALGO_EVERYWHERE ? plan->params.nranks : 1, count = 0;
    for (int i = first; i < n && count < max; i++) {
        int rank = fold->to == ALGO_EVERYWHERE
                       ? algo_rank_at(plan->params.rank, i, plan->params.nranks)
                       : fold->to;
        dsts[count++] = algo_recv_at(rank, fold->dst_offset + done);
    }
    return count;
}

/* All in one REDUCE. */
static void fold_at_once(struct plan *plan, const struct algo_fold *fold)
{
    struct plan_operand operands[PLAN_MAX_OPERANDS];
    int ndst = fold_dsts(plan, fold, 0, 0, PLAN_MAX_OPERANDS, operands);
    for (int r = 0; r < fold->ranks; r++)
        operands[ndst + r] = fold->source(plan, r, fold->offset);
    reduce_final(plan, fold->lane, fold->ranks, operands, ndst, operands + ndst, fold->ranks,
                 fold->bytes);
}

/*
 * A piece that fits the scratch, in as many REDUCEs as the operands need. The accumulator is in scratch, since in place
 * RECV still holds this rank's contribution until the end, and since it is not rounded there.
 */
static void fold_piece(struct plan *plan, const struct algo_fold *fold, uint64_t done,
                       uint64_t bytes)
{
    struct plan_operand operands[PLAN_MAX_OPERANDS - 1];
    struct plan_operand accumulator = algo_partial_at(&plan->params, plan->params.rank, 0);
    int nsrc = 0, ndst;
    for (int r = 0; r < fold->ranks; r++) {
        operands[nsrc++] = fold->source(plan, r, fold->offset + done);
        if (nsrc == PLAN_MAX_OPERANDS - 1 || r == fold->ranks - 1) {
            plan_reduce(plan, 0, 0, &accumulator, 1, operands, nsrc, bytes);
            operands[0] = accumulator;
            nsrc = 1;
        }
    }
    for (int first = 0;
         (ndst = fold_dsts(plan, fold, done, first, PLAN_MAX_OPERANDS - 1, operands)) > 0;
         first += ndst)
        reduce_final(plan, 0, fold->ranks, operands, ndst, &accumulator, 1, bytes);
}

void algo_fold(struct plan *plan, const struct algo_fold *fold)
{
    const struct plan_params *params = &plan->params;
    int ndst = fold->to == ALGO_EVERYWHERE ? params->nranks : 1;
    if (fold->bytes == 0)
        return;
    if (fold->ranks == 1 && ndst == 1) {
        algo_copy_single(plan, algo_recv_at(fold->to, fold->dst_offset),
                         fold->source(plan, 0, fold->offset), fold->bytes);
        return;
    }
    if (fold->ranks + ndst <= PLAN_MAX_OPERANDS) {
        fold_at_once(plan, fold);
        return;
    }
    uint64_t elem = algo_elem_bytes(params), piece = algo_partial_room(params) / elem * elem;
    for (uint64_t done = 0; done < fold->bytes; done += piece)
        fold_piece(plan, fold, done, min_u64(piece, fold->bytes - done));
}
