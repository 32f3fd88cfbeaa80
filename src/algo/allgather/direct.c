/*
 * allgather, direct: all meet; each rank writes its block to every RECV, with peer access in one pass that reads it
 * once, otherwise by puts; departure, or the puts' own signals.
 */
#include "algo/build.h"

static bool everyone(const struct plan_params *params, int rank)
{
    (void)rank;
    return params->count > 0;
}

static void put_to_all(struct plan *plan, struct plan_operand src, uint64_t offset, uint64_t bytes)
{
    int n = plan->params.nranks, rank = plan->params.rank;
    for (int i = 1; i < n; i++) {
        int peer = algo_rank_at(rank, i, n);
        plan_put(plan, 0, peer, algo_recv_at(peer, offset), src, bytes, 1);
    }
    if (!plan->params.in_place)
        plan_copy(plan, 0, algo_recv_at(rank, offset), src, bytes);
    for (int i = 1; i < n; i++)
        plan_wait(plan, 0, algo_rank_at(rank, i, n), 1);
}

void algo_allgather_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    uint64_t bytes = algo_count_bytes(params), offset = (uint64_t)params->rank * bytes;
    struct plan_operand src = algo_send_at(params->rank, 0);
    if (params->peer_access)
        plan_names_stages(plan, false);
    algo_meet_all(plan);
    if (bytes == 0)
        return;
    if (params->peer_access) {
        algo_copy_everywhere(plan, src, offset, bytes, !params->in_place);
        algo_depart_all(plan, everyone);
        algo_stage_others(plan, PLAN_RECV, 0, bytes * (uint64_t)params->nranks, offset, bytes);
    } else {
        put_to_all(plan, src, offset, bytes);
    }
}

struct algo_cost algo_allgather_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params), lines = 4 * 64 * (n - 1);
    double moved = params->peer_access ? (n + 1) * bytes : 2 * n * bytes;
    return (struct algo_cost){.steps = 2, .bytes_moved = lines + moved};
}
