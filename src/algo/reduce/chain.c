/*
 * reduce, chain: partial results travel from rank 0 to rank n - 1, folded in rank order, piece after piece, and from there
 * to the root, wherever it is. As many bytes through each rank as there are, and n + pieces steps.
 */
#include "algo/tree.h"

static struct tree_job job_of(const struct plan_params *params, const struct tree *chain)
{
    int last = params->nranks - 1, root = params->root;
    return (struct tree_job){.directions = TREE_UP,
                             .ntrees = 1,
                             .trees = chain,
                             .max_children = 1,
                             .max_depth = last,
                             .collector = root == last ? -1 : root,
                             .collector_depth = last - root};
}

void algo_reduce_chain_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    struct tree chain = tree_chain(&plan->params, 0);
    struct tree_job job = job_of(&plan->params, &chain);
    tree_build(plan, &job);
}

struct algo_cost algo_reduce_chain_cost(const struct plan_params *params)
{
    struct tree chain = tree_chain(params, 0);
    struct tree_job job = job_of(params, &chain);
    return tree_cost(params, &job, tree_chain);
}
