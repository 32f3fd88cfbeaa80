/*
 * allreduce, chain: partial results travel from rank 0 to rank n - 1, folded in rank order, piece after piece, and the
 * results back. Serves what must be folded in order where only puts reach the peers, for any number of ranks.
 */
#include "algo/tree.h"

static struct tree_job job_of(const struct plan_params *params, const struct tree *chain)
{
    return (struct tree_job){.directions = TREE_UP | TREE_DOWN,
                             .ntrees = 1,
                             .trees = chain,
                             .max_children = 1,
                             .max_depth = params->nranks - 1,
                             .collector = -1};
}

void algo_allreduce_chain_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    struct tree chain = tree_chain(&plan->params, 0);
    struct tree_job job = job_of(&plan->params, &chain);
    tree_build(plan, &job);
}

struct algo_cost algo_allreduce_chain_cost(const struct plan_params *params)
{
    struct tree chain = tree_chain(params, 0);
    struct tree_job job = job_of(params, &chain);
    return tree_cost(params, &job, tree_chain);
}
