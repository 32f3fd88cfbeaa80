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

/* With one rank: the whole plan (a copy, or nothing in place), and true. */
bool algo_build_alone(struct plan *plan);

/* dst <- a op b. */
void algo_reduce2(struct plan *plan, unsigned flags, struct plan_operand dst, struct plan_operand a,
                  struct plan_operand b, uint64_t bytes);

/*
 * Stages (see plan_stage) of the part of SEND or RECV, [offset, offset + bytes), but for [own, own + own_bytes) in it,
 * which this rank alone touches.
 */
void algo_stage_others(struct plan *plan, enum plan_space space, uint64_t offset, uint64_t bytes,
                       uint64_t own, uint64_t own_bytes);

/* Arrivals to and from every other rank, or the two neighbours on a ring (which may be one). */
void algo_meet_all(struct plan *plan);
void algo_meet_two(struct plan *plan, int a, int b);

/*
 * Departures among all, value 1: `mine` says whether this rank touched others' memory, `of` whether rank r did.
 * Each rank ends once all that touched its memory are done with it.
 */
typedef bool (*algo_touched_fn)(const struct plan_params *params, int rank);
void algo_depart_all(struct plan *plan, algo_touched_fn of);

/*
 * dst <- the op over all ranks, in rank order, of source(plan, rank, offset), `bytes` from byte `offset` of it; dst is
 * RECV at `dst_offset`, of every rank if `everywhere`, else of this one. One REDUCE while the operands fit in one,
 * beyond that several through scratch.
 */
typedef struct plan_operand (*algo_source_fn)(const struct plan *plan, int rank, uint64_t offset);
struct plan_operand algo_source_send(const struct plan *plan, int rank, uint64_t offset);
void algo_fold_all(struct plan *plan, algo_source_fn source, uint64_t offset, uint64_t dst_offset,
                   uint64_t bytes, bool everywhere);

/* block of this rank at dst_offset of every rank's RECV (its own too, unless in place) <- src; needs peer access. */
void algo_copy_everywhere(struct plan *plan, struct plan_operand src, uint64_t dst_offset,
                          uint64_t bytes, bool self_too);

/* Whether reduce_scatter's recursive halving can work in this scratch. */
bool algo_recursive_halving_fits(const struct plan_params *params);

#endif
