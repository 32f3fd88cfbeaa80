/*
 * allreduce, pieces: the direct allreduce piece by piece. In each piece every rank folds its slice of every SEND, in
 * rank order, and writes it to every RECV. Where host memory is staged, the copies of one piece run between the folds of
 * others, while both are in the cache (see plan_stage); other ranks need not know. Needs peer access.
 *
 * One semaphore does it: raise k + 1 says that piece k of my SEND is there, and that my folds up to piece k - AHEAD are
 * done; the last raise says that all are. In place it is right as direct is: a slice of a piece is read and written by
 * one rank alone.
 */
#include "algo/pieces.h"

/* This rank's slice of piece k. */
static uint64_t slice(const struct plan_params *params, const struct algo_pieces *p, uint64_t k,
                      uint64_t *bytes_out)
{
    uint64_t count = algo_piece_elems(p, params->count, k);
    uint64_t first = algo_slice(count, params->nranks, params->rank);

    *bytes_out = (algo_slice(count, params->nranks, params->rank + 1) - first) * p->elem;
    return (k * p->count + first) * p->elem;
}

static void stage(struct plan *plan, const struct algo_pieces *p, enum plan_space space, uint64_t k)
{
    uint64_t bytes, offset = slice(&plan->params, p, k, &bytes);

    algo_stage_others(plan, space, k * p->count * p->elem,
                      algo_piece_elems(p, plan->params.count, k) * p->elem, offset, bytes);
}

/* Piece k of SEND is there. */
static void offer(struct plan *plan, const struct algo_pieces *p, uint64_t k)
{
    if (k >= p->n)
        return;
    stage(plan, p, PLAN_SEND, k);
    algo_raise_all(plan, k + 1);
}

static void fold(struct plan *plan, const struct algo_pieces *p, uint64_t k)
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
    struct algo_pieces p;

    if (algo_build_alone(plan))
        return;
    plan_names_stages(plan, true);
    algo_meet_all(plan);
    if (!params->count)
        return;
    p = algo_cut(params, params->count);
    for (uint64_t k = 0; k < ALGO_PIECES_AHEAD; k++)
        offer(plan, &p, k);
    for (uint64_t k = 0; k < p.n; k++) {
        algo_await_all(plan, k + 1);
        if (k >= ALGO_PIECES_AHEAD)
            stage(plan, &p, PLAN_RECV, k - ALGO_PIECES_AHEAD);
        fold(plan, &p, k);
        offer(plan, &p, k + ALGO_PIECES_AHEAD);
    }
    algo_raise_all(plan, p.n + 1);
    algo_await_all(plan, p.n + 1);
    for (uint64_t k = p.n > ALGO_PIECES_AHEAD ? p.n - ALGO_PIECES_AHEAD : 0; k < p.n; k++)
        stage(plan, &p, PLAN_RECV, k);
}

struct algo_cost algo_allreduce_pieces_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double pieces = params->count ? (double)algo_cut(params, params->count).n : 0;

    /* as direct, and a semaphore to and from every peer for each piece, which is rarely waited for */
    return (struct algo_cost){.steps = 2 + 0.2 * pieces,
                              .messages = 2 * (n - 1) * (2 + pieces),
                              .reduced_bytes = 2 * bytes};
}
