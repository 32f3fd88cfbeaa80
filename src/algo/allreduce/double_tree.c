/*
 * allreduce, two binary trees (Sanders, Speck, Traff: "Two-tree algorithms for full bandwidth broadcast, reduction and
 * scan", 2009): each carries half of the elements, up and down, in pieces; a rank that is inside one tree is a leaf of
 * the other, so that all ranks send and fold about the same.
 *
 * The first tree is ordered by rank: its leaves are the even places, so that its inner ranks are odd. The second is its
 * mirror image where n is even, and the first one place further where n is odd.
 */
#include "algo/tree.h"

/* The root of the places [low, high), low even: as many to its left as fill a tree. It is odd, unless it is alone. */
static int root_of(int low, int high)
{
    return low + (1 << algo_log2_floor(high - low)) - 1;
}

/* Place -> rank and back (it is its own inverse, or a turn by one). */
static int rank_at_place(int place, int n, int which)
{
    return which == 0 ? place : n % 2 == 0 ? n - 1 - place : algo_rank_at(place, -1, n);
}
static int place_of_rank(int rank, int n, int which)
{
    return which == 0 ? rank : n % 2 == 0 ? n - 1 - rank : algo_rank_at(rank, 1, n);
}

static void add_child(struct tree *tree, int low, int high, int n, int which)
{
    if (low < high)
        tree->children[tree->nchildren++] = rank_at_place(root_of(low, high), n, which);
}

/* From the root down to this rank's place. */
static struct tree tree_of(const struct plan_params *params, int which)
{
    int n = params->nranks, place = place_of_rank(params->rank, n, which);
    int low = 0, high = n, at = root_of(low, high);
    uint64_t half = algo_slice(params->count, 2, 1) * algo_elem_bytes(params);
    struct tree tree = {.parent = -1};
    while (at != place) {
        bool left = place < at;
        tree.parent = rank_at_place(at, n, which);
        tree.index = left ? 0 : 1; /* who has a right child has a left one */
        tree.depth++;
        *(left ? &high : &low) = left ? at : at + 1;
        at = root_of(low, high);
    }
    add_child(&tree, low, at, n, which);
    add_child(&tree, at + 1, high, n, which);
    tree.offset = which == 0 ? 0 : half;
    tree.bytes = which == 0 ? half : algo_count_bytes(params) - half;
    return tree;
}

static struct tree_job job_of(const struct plan_params *params, const struct tree *trees)
{
    return (struct tree_job){.directions = TREE_UP | TREE_DOWN,
                             .ntrees = 2,
                             .trees = trees,
                             .max_children = 2,
                             .max_depth = algo_log2_ceil(params->nranks),
                             .collector = -1};
}

void algo_allreduce_double_tree_build(struct plan *plan)
{
    if (algo_build_alone(plan))
        return;
    struct tree trees[2] = {tree_of(&plan->params, 0), tree_of(&plan->params, 1)};
    struct tree_job job = job_of(&plan->params, trees);
    tree_build(plan, &job);
}

struct algo_cost algo_allreduce_double_tree_cost(const struct plan_params *params)
{
    struct tree trees[2] = {tree_of(params, 0), tree_of(params, 1)};
    struct tree_job job = job_of(params, trees);
    return tree_cost(params, &job, tree_of);
}
