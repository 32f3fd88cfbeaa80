/*
 * allreduce, pieces: the direct allreduce piece by piece. In each piece every rank folds its slice of every SEND, in
 * rank order, and writes it to every RECV. Where host memory is staged, the copies of one piece run between the folds of
 * others, while both are in the cache (see plan_stage); other ranks need not know. Needs peer access.
 *
 * One semaphore does it: raise k + 1 says that piece k of my SEND is there, and that my folds up to piece k - AHEAD are
 * done; the last raise says that all are. In place it is right as direct is: a slice of a piece is read and written by
 * one rank alone.
 */
#include "algo/build.h"
#include "base/base.h"

#define PIECE_BYTES (128u << 10) /* some of them fit a core's second cache */
#define MIN_PIECES 4
#define MAX_PIECES 64
#define AHEAD 2

struct pieces {
    uint64_t elem, count, n; /* bytes of an element, elements of a piece, pieces */
};

static struct pieces cut(const struct plan_params *params)
{
    struct pieces p = {.elem = algo_elem_bytes(params)};
    uint64_t unit = CACHE_LINE_BYTES / p.elem;

    p.count = min_u64(PIECE_BYTES / p.elem, (params->count + MIN_PIECES - 1) / MIN_PIECES);
    p.count = max_u64(p.count, (params->count + MAX_PIECES - 1) / MAX_PIECES);
    if (p.count > unit)
        p.count = round_up_u64(p.count, unit);
    p.n = (params->count + p.count - 1) / p.count;
    return p;
}

static uint64_t elements(const struct plan_params *params, const struct pieces *p, uint64_t k)
{
    return min_u64(p->count, params->count - k * p->count);
}

/* This rank's slice of piece k. */
static uint64_t slice(const struct plan_params *params, const struct pieces *p, uint64_t k,
                      uint64_t *bytes_out)
{
    uint64_t count = elements(params, p, k);
    uint64_t first = algo_slice(count, params->nranks, params->rank);

    *bytes_out = (algo_slice(count, params->nranks, params->rank + 1) - first) * p->elem;
    return (k * p->count + first) * p->elem;
}

static void stage(struct plan *plan, const struct pieces *p, enum plan_space space, uint64_t k)
{
    uint64_t bytes, offset = slice(&plan->params, p, k, &bytes);

    algo_stage_others(plan, space, k * p->count * p->elem, elements(&plan->params, p, k) * p->elem,
                      offset, bytes);
}

static void raise_all(struct plan *plan, uint64_t value)
{
    for (int i = 1; i < plan->params.nranks; i++)
        plan_signal(plan, 0, algo_rank_at(plan->params.rank, i, plan->params.nranks), value);
}

static void await_all(struct plan *plan, uint64_t value)
{
    for (int i = 1; i < plan->params.nranks; i++)
        plan_wait(plan, 0, algo_rank_at(plan->params.rank, i, plan->params.nranks), value);
}

/* Piece k of SEND is there. */
static void offer(struct plan *plan, const struct pieces *p, uint64_t k)
{
    if (k >= p->n)
        return;
    stage(plan, p, PLAN_SEND, k);
    raise_all(plan, k + 1);
}

static void fold(struct plan *plan, const struct pieces *p, uint64_t k)
{
    uint64_t bytes, offset = slice(&plan->params, p, k, &bytes);

    algo_fold(plan, &(struct algo_fold){.source = algo_source_send,
                                        .ranks = plan->params.nranks,
                                        .to = ALGO_EVERYWHERE,
                                        .offset = offset,
                                        .dst_offset = offset,
                                        .bytes = bytes});
}

void algo_allreduce_pieces_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct pieces p;

    if (algo_build_alone(plan))
        return;
    plan_names_stages(plan, true);
    algo_meet_all(plan);
    if (!params->count)
        return;
    p = cut(params);
    for (uint64_t k = 0; k < AHEAD; k++)
        offer(plan, &p, k);
    for (uint64_t k = 0; k < p.n; k++) {
        await_all(plan, k + 1);
        if (k >= AHEAD)
            stage(plan, &p, PLAN_RECV, k - AHEAD);
        fold(plan, &p, k);
        offer(plan, &p, k + AHEAD);
    }
    raise_all(plan, p.n + 1);
    await_all(plan, p.n + 1);
    for (uint64_t k = p.n > AHEAD ? p.n - AHEAD : 0; k < p.n; k++)
        stage(plan, &p, PLAN_RECV, k);
}

struct algo_cost algo_allreduce_pieces_cost(const struct plan_params *params)
{
    double n = params->nranks, pieces = params->count ? (double)cut(params).n : 0;
    /* as direct, and a semaphore to and from every peer for each piece */
    return (struct algo_cost){.steps = 2 + 0.2 * pieces,
                              .bytes_moved = 2 * 64 * (n - 1) * (2 + pieces) +
                                             2 * (double)algo_count_bytes(params)};
}
