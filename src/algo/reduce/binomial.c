/*
 * reduce, binomial tree (Thakur, Rabenseifner, Gropp 2005, section 4.6), pipelined. Ranks are numbered from the root; the
 * parent of a number is the number without its lowest bit.
 */
#include "algo/tree.h"

static struct tree tree_of(const struct plan_params *params, int which)
{
    (void)which;
    int n = params->nranks, root = params->root;
    int number = algo_rank_at(params->rank, -root, n);
    int bits = number == 0 ? algo_log2_ceil(n) : __builtin_ctz((unsigned)number);
    struct tree tree = {
        .parent = number == 0 ? -1 : algo_rank_at(number & (number - 1), root, n),
        .index = bits,
        .depth = __builtin_popcount((unsigned)number),
        .own_first = true,
        .bytes = algo_count_bytes(params),
    };
    for (int bit = 0; bit < bits && 1 << bit < n - number; bit++)
        tree.children[tree.nchildren++] = algo_rank_at(number + (1 << bit), root, n);
    return tree;
}

static struct tree_job job_of(const struct plan_params *params, const struct tree *tree)
{
    int levels = algo_log2_ceil(params->nranks);
    return (struct tree_job){.directions = TREE_UP,
                             .ntrees = 1,
                             .trees = tree,
                             .max_children = levels,
                             .max_depth = levels,
                             .collector = -1};
}

void algo_reduce_binomial_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    struct tree tree = tree_of(&plan->params, 0);
    struct tree_job job = job_of(&plan->params, &tree);
    tree_build(plan, &job);
}

struct algo_cost algo_reduce_binomial_cost(const struct plan_params *params)
{
    struct tree tree = tree_of(params, 0);
    struct tree_job job = job_of(params, &tree);
    return tree_cost(params, &job, tree_of);
}
