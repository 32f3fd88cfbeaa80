/*
 * layout: which ranks share a host, for builders of plans across hosts, the checker and the cost model. A host here is a
 * group of ranks that can load and store each other's memory. Made once by a communicator (or a tool), equal on all
 * ranks, then only read; plan_params borrows it.
 */
#ifndef PLAN_LAYOUT_H
#define PLAN_LAYOUT_H

#include <stdbool.h>

#include <thrum/status.h>

/*
 * Whom a rank talks to: its neighbours on a ring; those 1, 2, 4, .. away; those whose number differs in one bit; its parent
 * and children in a binomial tree below rank 0; everyone; the root with everyone.
 */
enum plan_talks {
    PLAN_TALKS_TO_ALL,
    PLAN_TALKS_TO_NEXT,
    PLAN_TALKS_DOUBLING,
    PLAN_TALKS_IN_PAIRS,
    PLAN_TALKS_IN_TREE,
    PLAN_TALKS_TO_ROOT,
    PLAN_TALKS_COUNT
};

/* Of what ranks that talk so send, how much crosses hosts. */
struct plan_crossing {
    double steps; /* share of the exchanges that depend on each other in which some rank's does */
    double messages; /* share of what a rank sends and receives, of the rank of which most does */
    double rank,
        host; /* of what it sends; what leaves the busiest host, in units of what a rank sends */
    double far_rank, far_host; /* the same where messages are the longer the farther they go */
};

struct plan_layout {
    int nranks, nhosts;
    int least_local, most_local; /* ranks on the smallest and the largest host */
    bool in_order; /* the ranks of each host follow each other: `ranks` counts up */
    const int *host; /* of each rank; hosts are numbered in the order of their first ranks */
    const int *index; /* of each rank among those of its host, which are in rank order */
    const int *first; /* nhosts + 1: where a host's ranks begin in `ranks` */
    const int *ranks; /* nranks: host after host */
    struct plan_crossing crossing[PLAN_TALKS_COUNT]; /* for the cost model */
};

static inline int plan_layout_local(const struct plan_layout *l, int host)
{
    return l->first[host + 1] - l->first[host];
}
/* The rank that has this index on the host. */
static inline int plan_layout_rank(const struct plan_layout *l, int host, int index)
{
    return l->ranks[l->first[host] + index];
}

/* From a number for each rank, equal where ranks share a host, otherwise any. NO_MEMORY. */
thrum_status_t plan_layout_create(const int *hosts, int nranks, struct plan_layout **layout_out);
void plan_layout_destroy(struct plan_layout *layout);

#endif
