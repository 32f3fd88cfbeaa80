/*
 * pairwise: each rank puts every other rank's part of its contribution into a slot of that rank's scratch, which folds
 * all of them in one go, in rank order (the pairwise exchange of Thakur, Rabenseifner, Gropp 2005, section 4.3, without
 * its steps: a slot for each rank, so that nothing waits for its turn). Called by reduce_scatter/pairwise.c, where the
 * parts are blocks, and allreduce/pairwise.c, where they are slices and the results are put to all.
 *
 * Parts are cut into pieces that fit a slot. There are two sets of slots, used in turn: piece q + 2 is sent when the
 * answer to piece q has come, which is its result, or a bare credit.
 */
#ifndef ALGO_PAIRWISE_H
#define ALGO_PAIRWISE_H

#include "algo/build.h"

void pairwise_build(struct plan *plan);
bool pairwise_fits(const struct plan_params *params);

#endif
