/* What the builders share; see build.h. */
#include "algo/build.h"
#include "base/base.h"

static bool is_logical(const struct plan_params *params)
{
    return params->redop == THRUM_LAND || params->redop == THRUM_LOR;
}

bool algo_build_alone(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (params->nranks > 1)
        return false;
    uint64_t bytes = algo_count_bytes(params);
    struct plan_operand dst = algo_recv_at(0, 0), src = algo_send_at(0, 0);
    bool reduces =
        params->collective == COLL_ALLREDUCE || params->collective == COLL_REDUCE_SCATTER;
    plan_names_stages(plan, false);
    if (params->collective == COLL_BARRIER || params->count == 0)
        return true;
    if (reduces && is_logical(params)) /* 7 becomes 1, also with one contribution */
        plan_reduce(plan, 0, PLAN_FINAL, &dst, 1, &src, 1, bytes);
    else if (!params->in_place)
        plan_copy(plan, 0, dst, src, bytes);
    return true;
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
    plan_arrive(plan, 0, a);
    if (b != a)
        plan_arrive(plan, 0, b);
    plan_wait_arrival(plan, 0, a);
    if (b != a)
        plan_wait_arrival(plan, 0, b);
}

void algo_depart_all(struct plan *plan, algo_touched_fn of)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, rank = params->rank;
    if (of(params, rank))
        for (int i = 1; i < n; i++)
            plan_signal(plan, 0, algo_rank_at(rank, i, n), 1);
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        if (of(params, peer))
            plan_wait(plan, 0, peer, 1);
    }
}

struct plan_operand algo_source_send(const struct plan *plan, int rank, uint64_t offset)
{
    (void)plan;
    return algo_send_at(rank, offset);
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

/* All in one REDUCE. */
static void fold_at_once(struct plan *plan, algo_source_fn source, uint64_t offset,
                         uint64_t dst_offset, uint64_t bytes, bool everywhere)
{
    struct plan_operand operands[PLAN_MAX_OPERANDS];
    int n = plan->params.nranks, rank = plan->params.rank, ndst = everywhere ? n : 1;
    for (int i = 0; i < ndst; i++)
        operands[i] = algo_recv_at(algo_rank_at(rank, i, n), dst_offset);
    for (int r = 0; r < n; r++)
        operands[ndst + r] = source(plan, r, offset);
    plan_reduce(plan, 0, PLAN_FINAL, operands, ndst, operands + ndst, n, bytes);
}

/*
 * A piece that fits the scratch, in as many REDUCEs as the operands need. The accumulator is in scratch, since in place
 * RECV still holds this rank's contribution until the end.
 */
static void fold_piece(struct plan *plan, algo_source_fn source, uint64_t offset, uint64_t bytes,
                       struct plan_operand dst)
{
    struct plan_operand srcs[PLAN_MAX_OPERANDS - 1];
    struct plan_operand accumulator = algo_scratch_at(plan->params.rank, 0);
    int n = plan->params.nranks, nsrc = 0;
    for (int r = 0; r < n; r++) {
        srcs[nsrc++] = source(plan, r, offset);
        bool last = r == n - 1;
        if (nsrc == PLAN_MAX_OPERANDS - 1 || last) {
            plan_reduce(plan, 0, last ? PLAN_FINAL : 0, last ? &dst : &accumulator, 1, srcs, nsrc,
                        bytes);
            srcs[0] = accumulator;
            nsrc = 1;
        }
    }
}

void algo_fold_all(struct plan *plan, algo_source_fn source, uint64_t offset, uint64_t dst_offset,
                   uint64_t bytes, bool everywhere)
{
    const struct plan_params *params = &plan->params;
    uint64_t n = (uint64_t)params->nranks;
    if (bytes == 0)
        return;
    if (n + (everywhere ? n : 1) <= PLAN_MAX_OPERANDS) {
        fold_at_once(plan, source, offset, dst_offset, bytes, everywhere);
        return;
    }
    uint64_t elem = algo_elem_bytes(params), piece = params->scratch_bytes / elem * elem;
    struct plan_operand accumulator = algo_scratch_at(params->rank, 0);
    for (uint64_t done = 0; done < bytes; done += piece) {
        uint64_t len = min_u64(piece, bytes - done);
        if (everywhere) {
            fold_piece(plan, source, offset + done, len, accumulator);
            algo_copy_everywhere(plan, accumulator, dst_offset + done, len, true);
        } else {
            fold_piece(plan, source, offset + done, len,
                       algo_recv_at(params->rank, dst_offset + done));
        }
    }
}
