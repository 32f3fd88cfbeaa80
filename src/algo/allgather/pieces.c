/*
 * allgather, pieces: the direct allgather piece by piece: each rank writes piece k of its block to every RECV, and raise
 * k + 1 says so. Where host memory is staged, what has come is copied out while more comes. Needs peer access.
 */
#include "algo/pieces.h"

static uint64_t piece_bytes(const struct plan_params *params, const struct algo_pieces *p, int rank,
                            uint64_t k)
{
    return algo_piece_elems(p, algo_block_bytes(params, rank) / p->elem, k) * p->elem;
}

/* Piece k of every peer's block is there. */
static void stage(struct plan *plan, const struct algo_pieces *p, uint64_t k)
{
    const struct plan_params *params = &plan->params;

    for (int r = 0; r < params->nranks; r++)
        if (r != params->rank)
            plan_stage(plan, PLAN_RECV, algo_block_offset(params, r) + k * p->count * p->elem,
                       piece_bytes(params, p, r, k));
}

void algo_allgather_pieces_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct algo_pieces p;

    if (algo_build_alone(plan))
        return;
    plan_names_stages(plan, false);
    algo_meet_all(plan);
    if (!params->count)
        return;
    p = algo_cut(params, params->count);
    for (uint64_t k = 0; k < p.n; k++) {
        uint64_t offset = k * p.count * p.elem;
        uint64_t bytes = piece_bytes(params, &p, params->rank, k);

        if (bytes)
            algo_copy_everywhere(plan, algo_send_at(params->rank, offset),
                                 algo_block_offset(params, params->rank) + offset, bytes,
                                 !params->in_place);
        algo_raise_all(plan, k + 1);
        if (k < ALGO_PIECES_AHEAD)
            continue;
        algo_await_all(plan, k + 1 - ALGO_PIECES_AHEAD);
        stage(plan, &p, k - ALGO_PIECES_AHEAD);
    }
    algo_await_all(plan, p.n);
    for (uint64_t k = p.n > ALGO_PIECES_AHEAD ? p.n - ALGO_PIECES_AHEAD : 0; k < p.n; k++)
        stage(plan, &p, k);
}

struct algo_cost algo_allgather_pieces_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double pieces = params->count ? (double)algo_cut(params, params->count).n : 0;

    return (struct algo_cost){.steps = 2 + 0.2 * pieces,
                              .messages = 2 * (n - 1) * (1 + pieces),
                              .copied_bytes = (n + 1) * bytes};
}
