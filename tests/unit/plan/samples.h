/* samples: small plans written by hand, independent of the builders, that the tests of the checker start from. */
#ifndef TESTS_SAMPLES_H
#define TESTS_SAMPLES_H

#include "plan/plan.h"

#define SAMPLE_MAX_RANKS 4

struct sample {
    struct plan plans[SAMPLE_MAX_RANKS];
    int n;
};

/* All: 2 uint64 elements a chunk, op avg, peer access. */
void sample_inline(struct sample *sample, int n); /* allreduce: a line with the data to each peer */
void sample_direct(struct sample *sample, int n); /* allreduce: arrival, one pass, departure */
void sample_ring(struct sample *sample, int n); /* allreduce: PUTs around, no peer access */
/*
 * Broadcast from 0 to 1 of six chunks: staged at the sender in `stages` pieces of scratch, put into `slots` pieces of
 * scratch at the receiver, which signals each as read; `credit` pieces may be under way.
 */
void sample_pipeline(struct sample *sample, int stages, int slots, int credit);
void sample_fini(struct sample *sample);

/* Mutations of one plan. */
size_t sample_find(const struct plan *plan, enum plan_opcode opcode, unsigned flags, int nth);
void sample_delete(struct plan *plan, size_t op);
void sample_move(struct plan *plan, size_t op, size_t to); /* `to` as it is without the op */

#endif
