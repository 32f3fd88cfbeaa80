/*
 * The kernels of the REDUCE engine: the scalar ones against arithmetic written again here, the vector ones against the
 * scalar ones bit by bit, for every type, operation, number of sources and destinations, alignment and aliasing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "sim_reduce_variants.h"

#define MAX_SRC 9
#define MAX_DST 3
#define MAX_COUNT 700
#define ROOM (MAX_COUNT * 8 + 128)
#define GUARD 0x5a

static uint64_t random_state = 88172645463325252u;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static const struct variant {
    const char *name;
    const struct sim_kernel_table *table;
} variants[] = {
#if SIM_HAVE_X86
    {"avx2", &sim_reduce_avx2_table},
    {"avx512", &sim_reduce_avx512_table},
#endif
    {NULL, NULL},
};

static bool is_float(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT16 || dtype == THRUM_FLOAT32 || dtype == THRUM_FLOAT64 ||
           dtype == THRUM_BFLOAT16;
}

/* ---- a second opinion ------------------------------------------------------------------------ */

/* Bits of precision behind the point, least exponent: float16 and bfloat16. */
struct format {
    int fraction_bits, min_exponent, bits_total;
};
static const struct format half = {10, -14, 16}, bfloat = {7, -126, 16};

static double decode(const struct format *format, uint64_t bits)
{
    int exponent_bits = format->bits_total - 1 - format->fraction_bits;
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (int)(bits >> format->fraction_bits) & ((1 << exponent_bits) - 1);
    double fraction = (double)(bits & ((1u << format->fraction_bits) - 1));
    double sign = bits >> (format->bits_total - 1) ? -1 : 1;

    if (exponent == (1 << exponent_bits) - 1)
        return fraction > 0 ? (double)NAN : sign * HUGE_VAL;
    if (!exponent)
        return sign * ldexp(fraction, format->min_exponent - format->fraction_bits);
    return sign * ldexp(ldexp(fraction, -format->fraction_bits) + 1, exponent - bias);
}

/* By search: the two neighbours among all values of the format, the nearer, or the even one. */
static uint64_t encode(const struct format *format, double value)
{
    uint64_t sign = (uint64_t)(signbit(value) ? 1 : 0) << (format->bits_total - 1);
    uint64_t infinity = ((1u << (format->bits_total - 1 - format->fraction_bits)) - 1u)
                        << format->fraction_bits;
    uint64_t low = 0, high = infinity;
    double magnitude = fabs(value), below, above;

    if (isnan(value))
        return infinity | 1u << (format->fraction_bits - 1);
    while (high - low > 1) { /* decode(low) <= magnitude < decode(high) */
        uint64_t middle = (low + high) / 2;
        if (decode(format, middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    below = decode(format, low);
    /* beyond the largest, the next value would be one step on */
    above = high == infinity ? 2 * decode(format, infinity - 1) - decode(format, infinity - 2)
                             : decode(format, high);
    if (magnitude - below < above - magnitude)
        return sign | low;
    if (magnitude - below > above - magnitude)
        return sign | high;
    return sign | (low & 1 ? high : low);
}

static double read_float(thrum_datatype_t dtype, const void *p)
{
    uint16_t bits;
    float f;
    double d;

    switch (dtype) {
    case THRUM_FLOAT32:
        memcpy(&f, p, 4);
        return f;
    case THRUM_FLOAT64:
        memcpy(&d, p, 8);
        return d;
    default:
        memcpy(&bits, p, 2);
        return decode(dtype == THRUM_FLOAT16 ? &half : &bfloat, bits);
    }
}

static void write_float(thrum_datatype_t dtype, void *p, double value)
{
    uint16_t bits;
    float f = (float)value;

    if (isnan(value)) {
        f = (float)NAN; /* the canonical one */
        value = (double)NAN;
    }
    switch (dtype) {
    case THRUM_FLOAT32:
        memcpy(p, &f, 4);
        break;
    case THRUM_FLOAT64:
        memcpy(p, &value, 8);
        break;
    default:
        bits = (uint16_t)encode(dtype == THRUM_FLOAT16 ? &half : &bfloat, value);
        memcpy(p, &bits, 2);
    }
}

/* One step in the precision of accumulation: float64 for itself, float32 for all others. */
static double float_step(thrum_datatype_t dtype, thrum_redop_t op, double x, double y)
{
    bool wide = dtype == THRUM_FLOAT64;

    if (isnan(x) || isnan(y))
        return op == THRUM_LAND || op == THRUM_LOR
                   ? (op == THRUM_LAND ? (x != 0 && y != 0) : (x != 0 || y != 0))
                   : (double)NAN;
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
        return wide ? x + y : (double)((float)x + (float)y);
    case THRUM_PROD:
        return wide ? x * y : (double)((float)x * (float)y);
    case THRUM_MAX:
        return x > y || (x == y && !signbit(x)) ? x : y;
    case THRUM_MIN:
        return x < y || (x == y && signbit(x)) ? x : y;
    case THRUM_LAND:
        return x != 0 && y != 0;
    default:
        return x != 0 || y != 0;
    }
}

static void expect_float(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                         size_t i, void *out)
{
    size_t size = thrum_datatype_size(dtype);
    double x = read_float(dtype, (const char *)a->srcs[0] + i * size);

    if (op == THRUM_LAND || op == THRUM_LOR)
        x = x != 0;
    for (int s = 1; s < a->nsrc; s++)
        x = float_step(dtype, op, x, read_float(dtype, (const char *)a->srcs[s] + i * size));
    if (op == THRUM_AVG && a->divisor > 1)
        x = dtype == THRUM_FLOAT64 ? x / (double)a->divisor
                                   : (double)((float)x / (float)a->divisor);
    write_float(dtype, out, x);
}

static __int128 read_int(thrum_datatype_t dtype, const void *p)
{
    size_t size = thrum_datatype_size(dtype);
    bool is_signed =
        dtype == THRUM_INT8 || dtype == THRUM_INT16 || dtype == THRUM_INT32 || dtype == THRUM_INT64;
    uint64_t bits = 0;

    memcpy(&bits, p, size); /* little endian */
    if (is_signed && bits >> (8 * size - 1))
        return (__int128)bits - ((__int128)1 << (8 * size));
    return (__int128)bits;
}

static __int128 wrap(thrum_datatype_t dtype, __int128 value)
{
    uint64_t bits = (uint64_t)value;
    return read_int(dtype, &bits);
}

static __int128 int_step(thrum_redop_t op, __int128 x, __int128 y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
        return x + y;
    case THRUM_PROD:
        return (__int128)((unsigned __int128)x * (unsigned __int128)y);
    case THRUM_MAX:
        return x > y ? x : y;
    case THRUM_MIN:
        return x < y ? x : y;
    case THRUM_BAND:
        return x & y;
    case THRUM_BOR:
        return x | y;
    case THRUM_BXOR:
        return x ^ y;
    case THRUM_LAND:
        return x && y;
    default:
        return x || y;
    }
}

static void expect_int(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                       size_t i, void *out)
{
    size_t size = thrum_datatype_size(dtype);
    __int128 x = read_int(dtype, (const char *)a->srcs[0] + i * size);
    uint64_t bits;

    if (op == THRUM_LAND || op == THRUM_LOR)
        x = x != 0;
    for (int s = 1; s < a->nsrc; s++)
        x = wrap(dtype, int_step(op, x, read_int(dtype, (const char *)a->srcs[s] + i * size)));
    if (op == THRUM_AVG && a->divisor > 1)
        x /= (__int128)a->divisor;
    bits = (uint64_t)x;
    memcpy(out, &bits, size);
}

/* ---- data ------------------------------------------------------------------------------------ */

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

static uint64_t special(thrum_datatype_t dtype, unsigned which)
{
    switch (dtype) {
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
static void fill(thrum_datatype_t dtype, char *p, size_t count)
{
    size_t size = thrum_datatype_size(dtype);

    for (size_t i = 0; i < count; i++) {
        uint64_t bits = random_u64(), kind = bits >> 60;
        if (kind < 5)
            bits = special(dtype, (unsigned)bits);
        else if (kind < 11 && is_float(dtype))
            write_float(dtype, &bits, (double)(int)(bits % 2001) / 16 - 60);
        else if (kind < 11)
            bits %= 5;
        memcpy(p + i * size, &bits, size);
    }
}

struct buffers {
    char *srcs[MAX_SRC], *dsts[MAX_DST], *expected;
};

static void *must_alloc(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes), 0);
    memset(p, GUARD, bytes);
    return p;
}

static int make_buffers(void **state)
{
    struct buffers *b = calloc(1, sizeof *b);

    assert_non_null(b);
    for (int s = 0; s < MAX_SRC; s++)
        b->srcs[s] = must_alloc(ROOM);
    for (int d = 0; d < MAX_DST; d++)
        b->dsts[d] = must_alloc(ROOM);
    b->expected = must_alloc(ROOM);
    *state = b;
    return 0;
}

static int free_buffers(void **state)
{
    struct buffers *b = *state;

    for (int s = 0; s < MAX_SRC; s++)
        free(b->srcs[s]);
    for (int d = 0; d < MAX_DST; d++)
        free(b->dsts[d]);
    free(b->expected);
    free(b);
    return 0;
}

struct shape {
    thrum_datatype_t dtype;
    thrum_redop_t op;
    int nsrc, ndst;
    size_t count;
    uint64_t divisor;
    bool stream, aliased;
    size_t skew; /* bytes by which pointers miss their alignment */
};

static void describe(const char *who, const struct shape *shape, size_t at)
{
    fprintf(stderr,
            "%s: %s %s nsrc=%d ndst=%d count=%zu divisor=%llu stream=%d aliased=%d skew=%zu"
            " differs at byte %zu\n",
            who, thrum_datatype_name(shape->dtype), thrum_redop_name(shape->op), shape->nsrc,
            shape->ndst, shape->count, (unsigned long long)shape->divisor, shape->stream,
            shape->aliased, shape->skew, at);
}

static void expect_bytes(const char *who, const struct shape *shape, const char *got,
                         const char *expected, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (got[i] != expected[i]) {
            describe(who, shape, i);
            assert_memory_equal(got, expected, bytes);
        }
    }
}

/* Runs one kernel on fresh destinations (or onto its first source), and looks at results and guards. */
static void run_kernel(const char *who, sim_reduce_fn kernel, const struct shape *shape,
                       const struct buffers *b, const char *expected)
{
    size_t bytes = shape->count * thrum_datatype_size(shape->dtype);
    char *saved = must_alloc(ROOM);
    const void *srcs[MAX_SRC];
    void *dsts[MAX_DST];
    struct sim_reduce_args args = {.dsts = dsts,
                                   .srcs = srcs,
                                   .ndst = shape->ndst,
                                   .nsrc = shape->nsrc,
                                   .count = shape->count,
                                   .divisor = shape->divisor,
                                   .stream = shape->stream};

    for (int s = 0; s < shape->nsrc; s++)
        srcs[s] = b->srcs[s] + (shape->skew ? shape->skew + (size_t)s : 0);
    for (int d = 0; d < shape->ndst; d++) {
        memset(b->dsts[d], GUARD, ROOM);
        dsts[d] = b->dsts[d] + shape->skew;
    }
    memcpy(saved, b->srcs[shape->nsrc - 1], ROOM);
    if (shape->aliased)
        dsts[0] = (void *)(uintptr_t)srcs[shape->nsrc - 1];
    kernel(&args);
    for (int d = 0; d < shape->ndst; d++) {
        const char *p = dsts[d];
        expect_bytes(who, shape, p, expected, bytes);
        if (d || !shape->aliased) {
            assert_int_equal(p[bytes], GUARD);
            assert_true(p == b->dsts[d] || p[-1] == GUARD);
        }
    }
    memcpy(b->srcs[shape->nsrc - 1], saved, ROOM);
    free(saved);
}

static void check_shape(const struct shape *shape, struct buffers *b)
{
    sim_reduce_fn scalar = sim_reduce_lookup(&sim_reduce_scalar_table, shape->dtype, shape->op);
    size_t size = thrum_datatype_size(shape->dtype);
    const void *srcs[MAX_SRC];
    struct sim_reduce_args args = {
        .srcs = srcs, .nsrc = shape->nsrc, .count = shape->count, .divisor = shape->divisor};

    for (int s = 0; s < shape->nsrc; s++) {
        srcs[s] = b->srcs[s] + (shape->skew ? shape->skew + (size_t)s : 0);
        fill(shape->dtype, (char *)(uintptr_t)srcs[s], shape->count);
    }
    for (size_t i = 0; i < shape->count; i++)
        (is_float(shape->dtype) ? expect_float : expect_int)(shape->dtype, shape->op, &args, i,
                                                             b->expected + i * size);
    run_kernel("scalar", scalar, shape, b, b->expected);
    for (const struct variant *v = variants; v->name; v++)
        if (sim_reduce_runs_here(v->table))
            run_kernel(v->name, sim_reduce_lookup(v->table, shape->dtype, shape->op), shape, b,
                       b->expected);
}

static bool is_bitwise(thrum_redop_t op)
{
    return op == THRUM_BAND || op == THRUM_BOR || op == THRUM_BXOR;
}

static void every_shape(struct buffers *b, thrum_datatype_t dtype, thrum_redop_t op)
{
    static const size_t counts[] = {0, 1, 3, 17, 64, 131};
    static const uint64_t divisors[] = {0, 1, 2, 3, 7, 8, 100, 255, 256, 641, 65537, 1ull << 32};
    unsigned turn = 0;

    for (int nsrc = 1; nsrc <= MAX_SRC; nsrc++) {
        for (int ndst = 1; ndst <= MAX_DST; ndst++) {
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++, turn++) {
                struct shape shape = {.dtype = dtype,
                                      .op = op,
                                      .nsrc = nsrc,
                                      .ndst = ndst,
                                      .count = counts[c],
                                      .divisor = divisors[turn % 12],
                                      .aliased = turn % 4 == 1,
                                      .skew = turn % 3 == 0 ? 1 : 0};
                check_shape(&shape, b);
            }
        }
    }
}

static void every_type_and_operation(void **state)
{
    struct buffers *b = *state;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            bool defined = !(is_float((thrum_datatype_t)dtype) && is_bitwise((thrum_redop_t)op));
            assert_int_equal(sim_reduce_kernel((thrum_datatype_t)dtype, (thrum_redop_t)op) != NULL,
                             defined);
            if (defined)
                every_shape(b, (thrum_datatype_t)dtype, (thrum_redop_t)op);
        }
    }
}

/* Streaming starts at 4096 bytes, with destinations aligned alike or not, and not onto a source. */
static void streamed_stores(void **state)
{
    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        for (unsigned turn = 0; turn < 12; turn++) {
            struct shape shape = {.dtype = (thrum_datatype_t)dtype,
                                  .op = turn & 1 ? THRUM_SUM : THRUM_MAX,
                                  .nsrc = 1 + (int)(turn % 5),
                                  .ndst = 1 + (int)(turn % 3),
                                  .count = MAX_COUNT * 8 / size - turn,
                                  .stream = true,
                                  .aliased = turn % 4 == 3,
                                  .skew = turn % 3 == 1   ? size
                                          : turn % 3 == 2 ? 1
                                                          : 0};
            check_shape(&shape, *state);
        }
    }
}

/* Every pair of special values, both ways round: -0 and +0, NaN, infinities, subnormals. */
static void pairs_of_special_values(void **state)
{
    struct buffers *b = *state;
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16, THRUM_FLOAT32,
                                             THRUM_FLOAT64};

    for (int t = 0; t < 4; t++) {
        size_t size = thrum_datatype_size(types[t]);
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            const void *srcs[] = {b->srcs[0], b->srcs[1]};
            struct sim_reduce_args args = {.srcs = srcs, .nsrc = 2, .count = 256, .divisor = 3};
            struct shape shape = {types[t], (thrum_redop_t)op, 2, 1, 256, 3, false, false, 0};

            if (is_bitwise((thrum_redop_t)op))
                continue;
            for (unsigned i = 0; i < 256; i++) {
                uint64_t x = special(types[t], i / 16), y = special(types[t], i % 16);
                memcpy(b->srcs[0] + i * size, &x, size);
                memcpy(b->srcs[1] + i * size, &y, size);
            }
            for (size_t i = 0; i < 256; i++)
                expect_float(types[t], (thrum_redop_t)op, &args, i, b->expected + i * size);
            run_kernel("scalar", sim_reduce_lookup(&sim_reduce_scalar_table, types[t], shape.op),
                       &shape, b, b->expected);
            for (const struct variant *v = variants; v->name; v++)
                if (sim_reduce_runs_here(v->table))
                    run_kernel(v->name, sim_reduce_lookup(v->table, types[t], shape.op), &shape, b,
                               b->expected);
        }
    }
}

/* All 65536 values of the 16-bit floats survive the way through float32, or become the canonical NaN. */
static void half_floats_round_trip(void **state)
{
    static uint16_t in[65536], out[65536];

    (void)state;
    for (unsigned i = 0; i < 65536; i++)
        in[i] = (uint16_t)i;
    for (int t = 0; t < 2; t++) {
        thrum_datatype_t dtype = t ? THRUM_BFLOAT16 : THRUM_FLOAT16;
        const void *srcs[] = {in};
        void *dsts[] = {out};
        struct sim_reduce_args args = {
            .srcs = srcs, .dsts = dsts, .nsrc = 1, .ndst = 1, .count = 65536};

        for (int v = -1; v < 0 || variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            sim_reduce_lookup(table, dtype, THRUM_SUM)(&args);
            for (unsigned i = 0; i < 65536; i++)
                assert_int_equal(out[i], isnan(decode(t ? &bfloat : &half, i))
                                             ? encode(t ? &bfloat : &half, (double)NAN)
                                             : i);
        }
    }
}

/* Sums of two 16-bit floats land between two of them: ties and near-ties of all kinds. */
static void half_floats_round_to_nearest_even(void **state)
{
    struct buffers *b = *state;

    for (int round = 0; round < 400; round++) {
        struct shape shape = {.dtype = round & 1 ? THRUM_FLOAT16 : THRUM_BFLOAT16,
                              .op = round & 2 ? THRUM_SUM : THRUM_PROD,
                              .nsrc = 2 + round % 2,
                              .ndst = 1,
                              .count = 64};
        check_shape(&shape, b);
    }
}

/* `bytes` at the end of a page that is followed by one that nobody may touch. */
static char *before_guard_page(char *pages, size_t bytes)
{
    return pages + 4096 - bytes;
}

static char *guarded_pages(void)
{
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + 4096, 4096, PROT_NONE), 0);
    return pages;
}

static void nothing_beyond_the_ends_is_touched(void **state)
{
    char *pages[3] = {guarded_pages(), guarded_pages(), guarded_pages()};

    (void)state;
    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        for (size_t count = 1; count <= 600 / size; count++) {
            const void *srcs[] = {before_guard_page(pages[0], count * size),
                                  before_guard_page(pages[1], count * size)};
            void *dsts[] = {before_guard_page(pages[2], count * size)};
            struct sim_reduce_args args = {
                .srcs = srcs, .dsts = dsts, .nsrc = 2, .ndst = 1, .count = count};

            for (const struct variant *v = variants; v->name; v++)
                if (sim_reduce_runs_here(v->table))
                    sim_reduce_lookup(v->table, (thrum_datatype_t)dtype, THRUM_SUM)(&args);
            sim_reduce_lookup(&sim_reduce_scalar_table, (thrum_datatype_t)dtype, THRUM_SUM)(&args);
        }
    }
    for (int i = 0; i < 3; i++)
        munmap(pages[i], 8192);
}

static uint64_t divided(thrum_datatype_t dtype, const struct sim_kernel_table *table, uint64_t x,
                        uint64_t n)
{
    uint64_t in[8] = {x, x, x, x, x, x, x, x}, out[8] = {0};
    const void *srcs[] = {in};
    void *dsts[] = {out};
    struct sim_reduce_args args = {
        .srcs = srcs, .dsts = dsts, .nsrc = 1, .ndst = 1, .count = 8, .divisor = n};

    sim_reduce_lookup(table, dtype, THRUM_AVG)(&args);
    return out[0];
}

/* Exact over the whole range, next to every multiple, for divisors of any size. */
static void averages_of_integers_divide_exactly(void **state)
{
    (void)state;
    for (const struct variant *v = variants; v->name; v++) {
        if (!sim_reduce_runs_here(v->table))
            continue;
        for (int round = 0; round < 20000; round++) {
            uint64_t n = (random_u64() >> (random_u64() % 64)) | 2;
            uint64_t x = random_u64() / n * n - (uint64_t)(round % 3) + 1;
            int64_t sx = (int64_t)x, sn = (int64_t)n;

            assert_int_equal(divided(THRUM_UINT64, v->table, x, n), x / n);
            if (sn > 0)
                assert_int_equal(divided(THRUM_INT64, v->table, x, n), sx / sn);
            else
                assert_int_equal(divided(THRUM_INT64, v->table, x, n),
                                 x == n && n == 1ull << 63 ? UINT64_MAX : 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_and_operation, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(streamed_stores, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(pairs_of_special_values, make_buffers, free_buffers),
        cmocka_unit_test(half_floats_round_trip),
        cmocka_unit_test_setup_teardown(half_floats_round_to_nearest_even, make_buffers,
                                        free_buffers),
        cmocka_unit_test(nothing_beyond_the_ends_is_touched),
        cmocka_unit_test(averages_of_integers_divide_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
