/*
 * broadcast, pieces: the direct broadcast piece by piece: raise k + 1 of the root says that piece k of its SEND is there,
 * then every rank copies it. Where the root's memory is staged, the next piece is copied in meanwhile. The departure is
 * a line, so that the root compares signatures too. Needs peer access.
 */
#include "algo/pieces.h"

static void build_root(struct plan *plan, const struct algo_pieces *p)
{
    const struct plan_params *params = &plan->params;
    int root = params->root;

    for (int i = 1; i < params->nranks; i++)
        plan_arrive(plan, 0, algo_rank_at(root, i, params->nranks));
    for (uint64_t k = 0; k < p->n; k++) {
        uint64_t offset = k * p->count * p->elem;
        uint64_t bytes = algo_piece_elems(p, params->count, k) * p->elem;

        plan_stage(plan, PLAN_SEND, offset, bytes);
        algo_raise_all(plan, k + 1);
        if (!params->in_place)
            plan_copy(plan, 0, algo_recv_at(root, offset), algo_send_at(root, offset), bytes);
    }
    for (int i = 1; i < params->nranks; i++)
        plan_wait_arrival(plan, 0, algo_rank_at(root, i, params->nranks));
}

static void build_other(struct plan *plan, const struct algo_pieces *p)
{
    const struct plan_params *params = &plan->params;
    int rank = params->rank, root = params->root;

    plan_wait_arrival(plan, 0, root);
    for (uint64_t k = 0; k < p->n; k++) {
        uint64_t offset = k * p->count * p->elem;

        plan_wait(plan, 0, root, k + 1);
        plan_copy(plan, 0, algo_recv_at(rank, offset), algo_send_at(root, offset),
                  algo_piece_elems(p, params->count, k) * p->elem);
    }
    plan_arrive(plan, 0, root); /* departs */
}

void algo_broadcast_pieces_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct algo_pieces p = {0};

    if (algo_build_alone(plan))
        return;
    plan_names_stages(plan, false);
    if (params->count)
        p = algo_cut(params, params->count);
    if (params->rank == params->root)
        build_root(plan, &p);
    else
        build_other(plan, &p);
}

struct algo_cost algo_broadcast_pieces_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double pieces = params->count ? (double)algo_cut(params, params->count).n : 0;

    return (struct algo_cost){
        .steps = 2 + 0.1 * pieces, .messages = (n - 1) * (2 + pieces), .copied_bytes = 2 * bytes};
}
