/*
 * broadcast, chain: every rank hands pieces on to its right neighbour, straight into RECV; all links work at once, and
 * the last rank has everything n + pieces steps later.
 */
#include "algo/tree.h"

static struct tree tree_of(const struct plan_params *params, int which)
{
    (void)which;
    int n = params->nranks, rank = params->rank, number = algo_rank_at(rank, -params->root, n);
    return (struct tree){.parent = number == 0 ? -1 : algo_rank_at(rank, -1, n),
                         .depth = number,
                         .nchildren = number < n - 1 ? 1 : 0,
                         .children = {algo_rank_at(rank, 1, n)},
                         .bytes = algo_count_bytes(params)};
}

static struct tree_job job_of(const struct plan_params *params, const struct tree *tree)
{
    return (struct tree_job){.directions = TREE_DOWN,
                             .ntrees = 1,
                             .trees = tree,
                             .max_children = 1,
                             .max_depth = params->nranks - 1,
                             .collector = -1};
}

void algo_broadcast_chain_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    if (algo_build_alone(plan))
        return;
    struct tree tree = tree_of(params, 0);
    struct tree_job job = job_of(params, &tree);
    tree_build(plan, &job);
    if (tree.parent < 0 && !params->in_place)
        plan_copy(plan, 0, algo_recv_at(params->rank, 0), algo_send_at(params->rank, 0),
                  tree.bytes);
}

struct algo_cost algo_broadcast_chain_cost(const struct plan_params *params)
{
    struct tree tree = tree_of(params, 0);
    struct tree_job job = job_of(params, &tree);
    struct algo_cost cost = tree_cost(params, &job, tree_of);
    if (!params->in_place && params->ranks_per_core <= 1)
        cost.own_bytes = 2 * (double)algo_count_bytes(params);
    return cost;
}
