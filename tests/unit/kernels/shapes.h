/*
 * Runs kernels on operands of a given shape, of special, any and usual values, and compares every byte, also those around.
 * Called by the tests of the kernels, with cmocka's state.
 */
#ifndef KERNELS_SHAPES_H
#define KERNELS_SHAPES_H

#include "sim_reduce_variants.h"

#define MAX_SRC 9
#define MAX_DST 3
#define MAX_COUNT 700
#define ROOM (MAX_COUNT * 16 + 128)
#define GUARD 0x5a

/* The vector variants; the last has no name. Not all run on every machine. */
extern const struct shape_variant {
    const char *name;
    const struct sim_kernel_table *table;
} shape_variants[];

/* Of ROOM bytes each. The functions set up and tear down a test whose *state they are. */
struct shape_buffers {
    char *srcs[MAX_SRC], *dsts[MAX_DST], *expected;
};
int shape_make_buffers(void **state);
int shape_free_buffers(void **state);

struct shape {
    thrum_datatype_t dtype;
    thrum_redop_t op;
    int nsrc, ndst;
    size_t count;
    uint64_t divisor;
    bool stream, aliased;
    size_t skew; /* bytes by which pointers miss their alignment */
    bool wide_dst, wide_src, wide_first;
};

/* One of 16 special values, as bits: zeros, infinities, NaN, subnormal, least and largest numbers. */
uint64_t shape_special(thrum_datatype_t dtype, unsigned which);

/* A third each: special values, any bits, small numbers. */
void shape_fill(thrum_datatype_t dtype, char *p, size_t count);

/* Of the shape, but for the destinations. */
struct sim_reduce_args shape_args(const struct shape *shape, const struct shape_buffers *b,
                                  const void **srcs);

void shape_expect_bytes(const char *who, const struct shape *shape, const char *got,
                        const char *expected, size_t bytes);

/* Every variant gives b->expected of the sources in `b`. */
void shape_run(const struct shape *shape, const struct shape_buffers *b);

/* Fills the sources, and every variant gives what the oracle expects. */
void shape_check(const struct shape *shape, struct shape_buffers *b);

#endif
