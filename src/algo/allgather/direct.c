/*
 * allgather, direct: all meet; each rank writes its block to every RECV, with peer access in one pass that reads it
 * once, otherwise by puts; departure, or the puts' own signals.
 */
#include "algo/build.h"

static bool has_block(const struct plan_params *params, int rank)
{
    return plan_block_elems(params, rank) > 0;
}

static void put_to_all(struct plan *plan, struct plan_operand src, uint64_t offset, uint64_t bytes)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    for (int i = 1; i < n && bytes > 0; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_put(plan, 0, peer, algo_recv_at(peer, offset), src, bytes, 1);
    }
    if (!plan->params.in_place)
        plan_copy(plan, 0, algo_recv_at(rank, offset), src, bytes);
    for (int i = 1; i < n; i++)
        if (has_block(&plan->params, algo_rank_at(rank, i, n)))
            plan_wait(plan, 0, algo_rank_at(rank, i, n), 1);
}

void algo_allgather_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t bytes = algo_block_bytes(params, params->rank);
    uint64_t offset = algo_block_offset(params, params->rank);
    struct plan_operand src = algo_send_at(params->rank, 0);
    if (params->peer_access)
        plan_names_stages(plan, false);
    algo_meet_all(plan);
    if (params->peer_access) {
        algo_copy_everywhere(plan, src, offset, bytes, !params->in_place);
        algo_depart_all(plan, has_block);
        algo_stage_blocks(plan, PLAN_RECV);
    } else {
        put_to_all(plan, src, offset, bytes);
    }
}

struct algo_cost algo_allgather_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    double puts = params->layout ? n - 1 : n;
    /* its block is read once, or for each put; its own copy is made while those to other hosts are on their way */
    return (struct algo_cost){.steps = 2,
                              .messages = 4 * (n - 1),
                              .copied_bytes = (params->peer_access ? n + 1 : 2 * puts) * bytes,
                              .overlap = algo_overlap(n - 1) / 2}; /* arrivals come before */
}
