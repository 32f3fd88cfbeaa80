/*
 * tree: pipelined reductions up a tree and broadcasts down it, piece after piece. A chain is a tree too, and two trees
 * may each carry a half. Called by allreduce/{chain,double_tree}.c, reduce/{binomial,chain}.c and broadcast/chain.c;
 * scan/chain.c asks what it costs.
 *
 * Time is counted in turns. In turn t a rank folds piece t of what its children have sent with its own contribution and
 * puts it to its parent; and it hands piece t - 2 x depth down, which is complete by then if all ranks go at one pace.
 * So a rank waits only for what others do in earlier turns, or in the same turn on the way up: there is no cycle.
 *
 * Up: partial results are put into slots of the parent's scratch, one set for each child; a rank composes its own in a
 * further set. Piece q uses slot q % TREE_SLOTS; the parent's credit for piece q frees both ends. Down: pieces are put
 * straight into RECV, which has a place for each.
 *
 * Semaphore values are (turn, phase) as one number, so that everything that one rank tells another, in whatever tree and
 * direction, grows; the receiver knows the turn in which the sender raises.
 */
#ifndef ALGO_TREE_H
#define ALGO_TREE_H

#include "algo/build.h"

#define TREE_MAX_CHILDREN 31
#define TREE_MAX 2 /* trees that work side by side */

enum { TREE_UP = 1 << 0, TREE_DOWN = 1 << 1 };

/* A rank's place in a tree. Fold order: child 0, child 1, .., own contribution; or own first. */
struct tree {
    int parent; /* -1: this is the root */
    int index; /* among the parent's children */
    int depth; /* below the root */
    int nchildren;
    int children[TREE_MAX_CHILDREN];
    bool own_first;
    uint64_t offset, bytes; /* of the vector, that this tree carries */
};

struct tree_job {
    unsigned directions; /* TREE_UP, TREE_DOWN */
    int ntrees;
    const struct tree *trees;
    int max_children; /* of any rank, in any of the trees */
    int max_depth; /* how long the pipeline is: says how many pieces are worth having */
    /*
     * UP only: the rank that shall have the result of tree 0 where that is not the tree's root, else -1; the root puts
     * to it. Its depth is collector_depth.
     */
    int collector, collector_depth;
};

void tree_build(struct plan *plan, const struct tree_job *job);

/* The place of params->rank in a tree of the job. */
typedef struct tree (*tree_of_fn)(const struct plan_params *params, int which);

/* What the job costs; looks at the places of all ranks. */
struct algo_cost tree_cost(const struct plan_params *params, const struct tree_job *job,
                           tree_of_fn tree_of);

/* The chain that ends at rank n - 1: rank r's child is r - 1. */
struct tree tree_chain(const struct plan_params *params, int which);

#endif
