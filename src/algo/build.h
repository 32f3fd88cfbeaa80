/*
 * What the builders share: sizes, neighbours, the openings and closings that most plans have, and the fold over all
 * ranks. Called by src/algo/<collective>/ and algo.c only. Nothing here allocates or depends on other ranks' plans.
 */
#ifndef ALGO_BUILD_H
#define ALGO_BUILD_H

#include "algo/algo.h"

#define ALGO_MIN_SCRATCH_BYTES 65536

#define X(collective, name, file, flags, help) \
    void algo_##file##_build(struct plan *plan); \
    struct algo_cost algo_##file##_cost(const struct plan_params *params);
#include "algo/algo_rows.h"
#undef X

/* Bytes of one element, and of `count` elements. */
static inline uint64_t algo_elem_bytes(const struct plan_params *params)
{
    return thrum_datatype_size(params->dtype);
}
static inline uint64_t algo_count_bytes(const struct plan_params *params)
{
    return params->count * algo_elem_bytes(params);
}

/* Rank's block of ALLGATHER and REDUCE_SCATTER, in bytes: where it starts in the whole, how long it is. */
static inline uint64_t algo_block_offset(const struct plan_params *params, int rank)
{
    return plan_block_first(params, rank) * algo_elem_bytes(params);
}
static inline uint64_t algo_block_bytes(const struct plan_params *params, int rank)
{
    return plan_block_elems(params, rank) * algo_elem_bytes(params);
}

/* What a line with a contribution or block takes in memory. */
static inline double algo_line_bytes(const struct plan_params *params)
{
    uint64_t flag = 8;
    return (double)((algo_count_bytes(params) + flag + 63) / 64 * 64);
}

/*
 * Turns of a step of what goes one way, to the root or from it: nobody waits for an answer, and several hops happen in
 * one round of a core's ranks. Measured with 2 and 4 ranks a core.
 */
#define ALGO_TURNS_ONE_WAY 0.25

/* struct algo_cost, of so many messages that a rank sends one after the other. */
static inline double algo_overlap(double messages)
{
    return messages > 1 ? 1 - 1 / messages : 0;
}

/*
 * struct algo_cost's own_bytes, of a rank or root that keeps so many: the copy is made while what other hosts get is on its
 * way. Ranks that share a core were measured with as many as of one rank, and none of a root.
 */
static inline double algo_kept(const struct plan_params *params, double bytes)
{
    double share = params->ranks_per_core > 1 ? params->ranks_per_core : 1;
    return params->layout ? 0 : 2 * bytes / share;
}
static inline double algo_root_kept(const struct plan_params *params)
{
    return params->ranks_per_core > 1 ? 0 : algo_kept(params, (double)algo_count_bytes(params));
}

/* The rank `distance` places further on the ring of n; distance may be negative, down to -2n. */
static inline int algo_rank_at(int rank, int64_t distance, int n)
{
    return (int)((rank + distance + 2 * (int64_t)n) % n);
}

/* floor(log2(n)), n >= 1; ceil(log2(n)). */
static inline int algo_log2_floor(int n)
{
    return 31 - __builtin_clz((unsigned)n);
}
static inline int algo_log2_ceil(int n)
{
    return n <= 1 ? 0 : 1 + algo_log2_floor(n - 1);
}

static inline struct plan_operand algo_send_at(int rank, uint64_t offset)
{
    return plan_at(PLAN_SEND, rank, offset);
}
static inline struct plan_operand algo_recv_at(int rank, uint64_t offset)
{
    return plan_at(PLAN_RECV, rank, offset);
}
static inline struct plan_operand algo_scratch_at(int rank, uint64_t offset)
{
    return plan_at(PLAN_SCRATCH, rank, offset);
}
/* The data of the line that `from` sent to `rank`. */
static inline struct plan_operand algo_line_of(int rank, int from)
{
    return plan_at(PLAN_LINE, rank, (uint64_t)from);
}

/*
 * Partial results lie in WIDE where the type would round them, else in SCRATCH; algo_partial_room: how many bytes of
 * the type the scratch has room for. algo_stage copies contributions there, algo_stages says whether PUT cannot.
 */
static inline bool algo_stages(const struct plan_params *params)
{
    return plan_widening(params) > 1;
}
static inline struct plan_operand algo_partial_at(const struct plan_params *params, int rank,
                                                  uint64_t offset)
{
    return plan_at(algo_stages(params) ? PLAN_WIDE : PLAN_SCRATCH, rank, offset);
}
static inline uint64_t algo_partial_room(const struct plan_params *params)
{
    return params->scratch_bytes / plan_widening(params);
}
void algo_stage(struct plan *plan, struct plan_operand partial, struct plan_operand src,
                uint64_t bytes);

/* `room` bytes cut into `slots`: bytes of each, whole cache lines or at least whole elements. */
uint64_t algo_slot_bytes(const struct plan_params *params, uint64_t room, uint64_t slots);

/* With one rank: the whole plan (a copy, or nothing in place), and true. */
bool algo_build_alone(struct plan *plan);

/*
 * Lanes worth using where each works on a part of `bytes`, which is the same on all ranks; for ALGO_LANES. Lane 0 sends
 * arrivals; every lane waits itself for those of whom it touches.
 */
int algo_lanes(const struct plan_params *params, uint64_t bytes);

/* dst <- a op b. */
void algo_reduce2(struct plan *plan, unsigned flags, struct plan_operand dst, struct plan_operand a,
                  struct plan_operand b, uint64_t bytes);

/*
 * Stages (see plan_stage) of the part of SEND or RECV, [offset, offset + bytes), but for [own, own + own_bytes) in it,
 * which this rank alone touches; and of all blocks but the own one.
 */
void algo_stage_others(struct plan *plan, enum plan_space space, uint64_t offset, uint64_t bytes,
                       uint64_t own, uint64_t own_bytes);
void algo_stage_blocks(struct plan *plan, enum plan_space space);

/* Arrivals to and from every other rank, or two neighbours (which may be one, or -1: none). */
void algo_meet_all(struct plan *plan);
void algo_meet_two(struct plan *plan, int a, int b);

/*
 * Departures among all, value 1: `mine` says whether this rank touched others' memory, `of` whether rank r did.
 * Each rank ends once all that touched its memory are done with it.
 */
typedef bool (*algo_touched_fn)(const struct plan_params *params, int rank);
void algo_depart_all(struct plan *plan, algo_touched_fn of);
/* The two halves of it: what touches only this rank's memory may be between them. */
void algo_signal_all(struct plan *plan, algo_touched_fn of);
void algo_wait_all(struct plan *plan, algo_touched_fn of);

/*
 * Ranks beyond a power of two: of the first 2 * rem ranks each even one is folded into its right neighbour; those that
 * remain have numbers 0, 1, .. (-1: folded away).
 */
static inline int algo_number_of(int rank, int rem)
{
    return rank >= 2 * rem ? rank - rem : (rank % 2 ? rank / 2 : -1);
}
static inline int algo_rank_of_number(int number, int rem)
{
    return number < rem ? 2 * number + 1 : number + rem;
}

/* Slice `rank` of count elements cut for all ranks, in bytes; algo_has_slice: it is not empty. */
uint64_t algo_slice_offset(const struct plan_params *params, int rank);
uint64_t algo_slice_bytes(const struct plan_params *params, int rank);
bool algo_has_slice(const struct plan_params *params, int rank);

/*
 * RECV of rank `to` (ALGO_EVERYWHERE: of every rank) at `dst_offset` <- the op over ranks 0 .. ranks - 1, in this order,
 * of source(plan, rank, offset), `bytes` long. One REDUCE while the operands fit in one, beyond that several through
 * scratch. Of one rank it is a copy. In another lane than the first only what fits in one REDUCE, of several ranks.
 */
#define ALGO_EVERYWHERE (-1)
typedef struct plan_operand (*algo_source_fn)(const struct plan *plan, int rank, uint64_t offset);
struct algo_fold {
    algo_source_fn source;
    int ranks, to, lane;
    uint64_t offset, dst_offset, bytes;
};
void algo_fold(struct plan *plan, const struct algo_fold *fold);

/* Sources: every rank's SEND; the lines of all others and the own SEND. */
struct plan_operand algo_source_send(const struct plan *plan, int rank, uint64_t offset);
struct plan_operand algo_source_line(const struct plan *plan, int rank, uint64_t offset);

/* dst <- src, the contribution of one rank as a result (the logical operations make 0 or 1 of it). */
void algo_copy_single(struct plan *plan, struct plan_operand dst, struct plan_operand src,
                      uint64_t bytes);
/* That it takes a REDUCE, which writes also where dst and src are one. */
bool algo_single_is_reduced(const struct plan_params *params);

/* block of this rank at dst_offset of every rank's RECV (its own too, unless in place) <- src; needs peer access. */
void algo_copy_everywhere(struct plan *plan, struct plan_operand src, uint64_t dst_offset,
                          uint64_t bytes, bool self_too);

/* Whether an algorithm can work in this scratch. */
bool algo_recursive_halving_fits(const struct plan_params *params);
bool algo_gather_binomial_fits(const struct plan_params *params);
bool algo_scatter_binomial_fits(const struct plan_params *params);
bool algo_alltoall_bruck_fits(const struct plan_params *params);

#endif
