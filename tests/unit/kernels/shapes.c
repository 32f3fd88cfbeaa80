/* See shapes.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "oracle.h"
#include "shapes.h"

const struct shape_variant shape_variants[] = {
#if SIM_HAVE_X86
    {"avx2", &sim_reduce_avx2_table},
    {"avx512", &sim_reduce_avx512_table},
#endif
    {NULL, NULL},
};

static const uint64_t special64[] = {
    0,
    1ull << 63, /* zeros */
    0x7ff0000000000000,
    0xfff0000000000000, /* infinities */
    0x7ff8000000000000,
    0xfff8000000000123,
    0x7ff0000000000001, /* NaN: quiet, with payload, signalling */
    1,
    0x800fffffffffffff,
    0x0010000000000000, /* subnormal, least normal */
    0x7fefffffffffffff,
    0xffefffffffffffff, /* largest */
    0x3ff0000000000000,
    0xbff0000000000000,
    UINT64_MAX,
    INT64_MAX,
};
static const uint32_t special32[] = {
    0,          1u << 31,   0x7f800000, 0xff800000, 0x7fc00000, 0xffc01234, 0x7f800001, 1,
    0x807fffff, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x3f800000, 0xbf800000, 0x33000000, 0x33800000,
};
static const uint16_t special_half[] = {
    0,      0x8000, 0x7c00, 0xfc00, 0x7e00, 0xfe12, 0x7c01, 1,
    0x83ff, 0x0400, 0x7bff, 0xfbff, 0x3c00, 0xbc00, 0x0401, 0x3c01,
};
static const uint16_t special_bfloat[] = {
    0,      0x8000, 0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x7f81, 1,
    0x807f, 0x0080, 0x7f7f, 0xff7f, 0x3f80, 0xbf80, 0x0081, 0x3f81,
};

static const uint8_t special_e4m3[] = {
    0, 0x80, 0x7e, 0xfe, 0x7f, 0xff, 0x77, 1, 0x87, 0x08, 0x07, 0xf8, 0x38, 0xb8, 0x09, 0x39,
};
static const uint8_t special_e5m2[] = {
    0, 0x80, 0x7c, 0xfc, 0x7e, 0xff, 0x7d, 1, 0x83, 0x04, 0x7b, 0xfb, 0x3c, 0xbc, 0x05, 0x3d,
};

uint64_t shape_special(thrum_datatype_t dtype, unsigned which)
{
    switch (dtype) {
    case THRUM_FLOAT8_E4M3:
        return special_e4m3[which % 16];
    case THRUM_FLOAT8_E5M2:
        return special_e5m2[which % 16];
    case THRUM_FLOAT16:
        return special_half[which % 16];
    case THRUM_BFLOAT16:
        return special_bfloat[which % 16];
    case THRUM_FLOAT32:
        return special32[which % 16];
    default:
        return special64[which % 16];
    }
}

/* A third each: special values, any bits, small numbers. */
void shape_fill(thrum_datatype_t dtype, char *p, size_t count)
{
    size_t size = thrum_datatype_size(dtype);

    if (oracle_is_complex(dtype)) {
        shape_fill(dtype == THRUM_COMPLEX64 ? THRUM_FLOAT32 : THRUM_FLOAT64, p, 2 * count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = oracle_random(), kind = bits >> 60;
        if (kind < 5)
            bits = shape_special(dtype, (unsigned)bits);
        else if (kind < 11 && oracle_is_float(dtype))
            oracle_write_float(dtype, &bits, (double)(int)(bits % 2001) / 16 - 60);
        else if (kind < 11)
            bits %= 5;
        memcpy(p + i * size, &bits, size);
    }
}

static void *must_alloc(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes), 0);
    memset(p, GUARD, bytes);
    return p;
}

int shape_make_buffers(void **state)
{
    struct shape_buffers *b = calloc(1, sizeof *b);

    assert_non_null(b);
    for (int s = 0; s < MAX_SRC; s++)
        b->srcs[s] = must_alloc(ROOM);
    for (int d = 0; d < MAX_DST; d++)
        b->dsts[d] = must_alloc(ROOM);
    b->expected = must_alloc(ROOM);
    *state = b;
    return 0;
}

int shape_free_buffers(void **state)
{
    struct shape_buffers *b = *state;

    for (int s = 0; s < MAX_SRC; s++)
        free(b->srcs[s]);
    for (int d = 0; d < MAX_DST; d++)
        free(b->dsts[d]);
    free(b->expected);
    free(b);
    return 0;
}

static void describe(const char *who, const struct shape *shape, size_t at)
{
    fprintf(stderr,
            "%s: %s %s nsrc=%d ndst=%d count=%zu divisor=%llu stream=%d aliased=%d skew=%zu"
            " wide=%d%d%d differs at byte %zu\n",
            who, thrum_datatype_name(shape->dtype), thrum_redop_name(shape->op), shape->nsrc,
            shape->ndst, shape->count, (unsigned long long)shape->divisor, shape->stream,
            shape->aliased, shape->skew, shape->wide_dst, shape->wide_src, shape->wide_first, at);
}

void shape_expect_bytes(const char *who, const struct shape *shape, const char *got,
                        const char *expected, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (got[i] != expected[i]) {
            describe(who, shape, i);
            assert_memory_equal(got, expected, bytes);
        }
    }
}

/* Of the shape, but for the destinations. */
struct sim_reduce_args shape_args(const struct shape *shape, const struct shape_buffers *b,
                                  const void **srcs)
{
    for (int s = 0; s < shape->nsrc; s++)
        srcs[s] = b->srcs[s] + (shape->skew ? shape->skew + (size_t)s : 0);
    return (struct sim_reduce_args){.srcs = srcs,
                                    .ndst = shape->ndst,
                                    .nsrc = shape->nsrc,
                                    .count = shape->count,
                                    .divisor = shape->divisor,
                                    .stream = shape->stream,
                                    .wide_dst = shape->wide_dst,
                                    .wide_src = shape->wide_src,
                                    .wide_first = shape->wide_first};
}

/* Runs one kernel on fresh destinations (or onto its last source), and looks at results and guards. */
static void run_kernel(const char *who, const struct sim_kernel_table *table,
                       const struct shape *shape, const struct shape_buffers *b,
                       const char *expected)
{
    size_t bytes =
        shape->count * thrum_datatype_size(oracle_stored_as(shape->dtype, shape->wide_dst));
    char *saved = must_alloc(ROOM);
    const void *srcs[MAX_SRC];
    void *dsts[MAX_DST];
    struct sim_reduce_args args = shape_args(shape, b, srcs);

    args.dsts = dsts;
    for (int d = 0; d < shape->ndst; d++) {
        memset(b->dsts[d], GUARD, ROOM);
        dsts[d] = b->dsts[d] + shape->skew;
    }
    memcpy(saved, b->srcs[shape->nsrc - 1], ROOM);
    if (shape->aliased)
        dsts[0] = (void *)(uintptr_t)srcs[shape->nsrc - 1];
    sim_reduce_with(table, shape->dtype, shape->op, &args);
    for (int d = 0; d < shape->ndst; d++) {
        const char *p = dsts[d];
        shape_expect_bytes(who, shape, p, expected, bytes);
        if (d || !shape->aliased) {
            assert_int_equal(p[bytes], GUARD);
            assert_true(p == b->dsts[d] || p[-1] == GUARD);
        }
    }
    memcpy(b->srcs[shape->nsrc - 1], saved, ROOM);
    free(saved);
}

/* Every variant gives what is expected. */
void shape_run(const struct shape *shape, const struct shape_buffers *b)
{
    run_kernel("scalar", &sim_reduce_scalar_table, shape, b, b->expected);
    for (const struct shape_variant *v = shape_variants; v->name; v++)
        if (sim_reduce_runs_here(v->table))
            run_kernel(v->name, v->table, shape, b, b->expected);
}

void shape_check(const struct shape *shape, struct shape_buffers *b)
{
    size_t size = thrum_datatype_size(oracle_stored_as(shape->dtype, shape->wide_dst));
    const void *srcs[MAX_SRC];
    struct sim_reduce_args args = shape_args(shape, b, srcs);

    for (int s = 0; s < shape->nsrc; s++)
        shape_fill(oracle_source_type(shape->dtype, &args, s), (char *)(uintptr_t)srcs[s],
                   shape->count);
    for (size_t i = 0; i < shape->count; i++)
        oracle_expect(shape->dtype, shape->op, &args, i, b->expected + i * size);
    shape_run(shape, b);
}
