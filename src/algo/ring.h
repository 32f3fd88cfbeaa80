/*
 * The schedule of the reducing rings: how slices are cut into pieces and groups, which message is which, which slot of
 * the scratch it lands in, and the semaphore values. Called by allreduce/ring.c and reduce_scatter/ring.c.
 *
 * Slices are cut into pieces that fit a slot; `ahead` pieces form a group and travel the ring together, so that one is
 * folded while the next is on its way. Message i of a phase is (group, step, piece of the group), in that order: having
 * consumed message m, a rank sends message m + ahead, which is the same piece one step further.
 *
 * Staged messages land in slot m % slots of the right neighbour's scratch. Message m is sent only after the neighbour's
 * credit for message m - slots, which used the slot before.
 *
 * Data to the right and credits to the left are numbered as one sequence, since with two ranks both go to the same peer.
 */
#ifndef ALGO_RING_H
#define ALGO_RING_H

#include "algo/build.h"

#define RING_SLOTS 8
#define RING_AHEAD 4
#define RING_WHOLE_PIECE_BYTES 65536 /* slices up to this are not cut for the sake of overlap */

struct ring {
    int n, rank, left, right, lane, lanes;
    uint64_t elem, slot_bytes, slots_offset; /* of its lane's slots in the scratch */
    uint64_t piece_elems;
    uint64_t ahead; /* pieces of a group = messages sent before the first is consumed */
    uint64_t staged; /* messages that pass through scratch */
    uint64_t messages; /* all */
    uint64_t credits; /* how many of the staged messages are acknowledged */
};

/* One message: at `step` of its phase, the elements [first, first + elems) of a slice of slice_elems. */
struct ring_message {
    int step;
    uint64_t first, elems;
};

/*
 * slice_elems: of the largest slice. `phases`: of n - 1 steps, the first staged. A ring in each of `lanes` lanes shares
 * the scratch with the others.
 */
void ring_init(struct ring *ring, const struct plan_params *params, uint64_t slice_elems,
               int phases, int lane, int lanes);

/* What message `index` (counted within its phase) carries of a slice of slice_elems elements. */
struct ring_message ring_message(const struct ring *ring, uint64_t index, uint64_t slice_elems);

/* The step of message `index` of a phase; by it the caller finds the slice. */
int ring_step(const struct ring *ring, uint64_t index);

/* The slot of message m in the scratch of `rank`: where it comes in, or where it is composed before it is sent. */
enum ring_area { RING_IN, RING_OUT, RING_AREAS };
struct plan_operand ring_slot(const struct plan *plan, const struct ring *ring, int rank,
                              uint64_t m, enum ring_area area);

/*
 * What it costs a rank that messages are many: how many it writes and waits for, arrivals too, and struct algo_cost's overlap.
 * slice_elems: of the largest slice; 0 counts as 1.
 */
double ring_message_count(const struct plan_params *params, uint64_t slice_elems, int phases);
double ring_overlap(const struct plan_params *params, uint64_t slice_elems);

void ring_wait_data(struct plan *plan, const struct ring *ring, uint64_t m);
uint64_t ring_data_value(const struct ring *ring, uint64_t m);

/* Before message m may be written to the neighbour's slot (or composed in this rank's own area of the same slot). */
void ring_wait_credit(struct plan *plan, const struct ring *ring, uint64_t m);
/* After message m has been consumed. */
void ring_give_credit(struct plan *plan, const struct ring *ring, uint64_t m);

#endif
