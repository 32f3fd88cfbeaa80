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
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cmocka.h>

#include "sim_reduce_variants.h"

#define MAX_SRC 9
#define MAX_DST 3
#define MAX_COUNT 700
#define ROOM (MAX_COUNT * 16 + 128)
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

static bool is_narrow(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT16 || dtype == THRUM_BFLOAT16 || dtype == THRUM_FLOAT8_E4M3 ||
           dtype == THRUM_FLOAT8_E5M2;
}

static bool is_float(thrum_datatype_t dtype)
{
    return is_narrow(dtype) || dtype == THRUM_FLOAT32 || dtype == THRUM_FLOAT64;
}

static bool is_complex(thrum_datatype_t dtype)
{
    return dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
}

/* The type as which an operand lies in memory. */
static thrum_datatype_t stored_as(thrum_datatype_t dtype, bool wide)
{
    return wide && is_narrow(dtype) ? THRUM_FLOAT32 : dtype;
}

/* ---- a second opinion ------------------------------------------------------------------------ */

/*
 * Of a narrow float: bits of precision behind the point, least exponent, bits, whether the largest exponent holds
 * numbers (all but one), whether results saturate.
 */
struct format {
    int fraction_bits, min_exponent, bits_total;
    bool all_finite, saturates;
};

static const struct format *format_of(thrum_datatype_t dtype)
{
    static const struct format half = {10, -14, 16, false, false},
                               bfloat = {7, -126, 16, false, false}, e4m3 = {3, -6, 8, true, true},
                               e5m2 = {2, -14, 8, false, true};

    return dtype == THRUM_FLOAT16       ? &half
           : dtype == THRUM_BFLOAT16    ? &bfloat
           : dtype == THRUM_FLOAT8_E4M3 ? &e4m3
                                        : &e5m2;
}

static double decode(const struct format *format, uint64_t bits)
{
    int exponent_bits = format->bits_total - 1 - format->fraction_bits;
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (int)(bits >> format->fraction_bits) & ((1 << exponent_bits) - 1);
    uint64_t ones = (1u << format->fraction_bits) - 1;
    double fraction = (double)(bits & ones);
    double sign = bits >> (format->bits_total - 1) ? -1 : 1;

    if (exponent == (1 << exponent_bits) - 1) {
        if (format->all_finite && (bits & ones) == ones)
            return (double)NAN;
        if (!format->all_finite)
            return fraction > 0 ? (double)NAN : sign * HUGE_VAL;
    }
    if (!exponent)
        return sign * ldexp(fraction, format->min_exponent - format->fraction_bits);
    return sign * ldexp(ldexp(fraction, -format->fraction_bits) + 1, exponent - bias);
}

/* The first magnitude beyond all numbers: infinity, or the NaN of E4M3. */
static uint64_t beyond(const struct format *format)
{
    if (format->all_finite)
        return (1u << (format->bits_total - 1)) - 1;
    return ((1u << (format->bits_total - 1 - format->fraction_bits)) - 1u) << format->fraction_bits;
}

static uint64_t canonical_nan(const struct format *format)
{
    return beyond(format) | (format->all_finite ? 0 : 1u << (format->fraction_bits - 1));
}

/* By search: the two neighbours among all values of the format, the nearer, or the even one. */
static uint64_t encode(const struct format *format, double value)
{
    uint64_t sign = (uint64_t)(signbit(value) ? 1 : 0) << (format->bits_total - 1);
    uint64_t end = beyond(format), low = 0, high = end;
    double magnitude = fabs(value), below, above;

    if (isnan(value))
        return canonical_nan(format);
    while (high - low > 1) { /* decode(low) <= magnitude < decode(high) */
        uint64_t middle = (low + high) / 2;
        if (decode(format, middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    if (high == end && format->saturates)
        return sign | low;
    below = decode(format, low);
    /* beyond the largest, the next value would be one step on */
    above =
        high == end ? 2 * decode(format, end - 1) - decode(format, end - 2) : decode(format, high);
    if (magnitude - below < above - magnitude)
        return sign | low;
    if (magnitude - below > above - magnitude)
        return sign | high;
    return sign | (low & 1 ? high : low);
}

static double read_float(thrum_datatype_t dtype, const void *p)
{
    uint64_t bits = 0;
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
        memcpy(&bits, p, thrum_datatype_size(dtype));
        return decode(format_of(dtype), bits);
    }
}

static void write_float(thrum_datatype_t dtype, void *p, double value)
{
    uint64_t bits;
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
        bits = encode(format_of(dtype), value);
        memcpy(p, &bits, thrum_datatype_size(dtype));
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

/* The type as which source s lies in memory. */
static thrum_datatype_t source_type(thrum_datatype_t dtype, const struct sim_reduce_args *a, int s)
{
    return stored_as(dtype, a->wide_src || (a->wide_first && s == 0));
}

static const char *source_at(thrum_datatype_t dtype, const struct sim_reduce_args *a, int s,
                             size_t i)
{
    return (const char *)a->srcs[s] + i * thrum_datatype_size(source_type(dtype, a, s));
}

static void expect_float(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                         size_t i, void *out)
{
    double x = read_float(source_type(dtype, a, 0), source_at(dtype, a, 0, i));

    if (op == THRUM_LAND || op == THRUM_LOR)
        x = x != 0;
    for (int s = 1; s < a->nsrc; s++)
        x = float_step(dtype, op, x,
                       read_float(source_type(dtype, a, s), source_at(dtype, a, s, i)));
    if (op == THRUM_AVG && a->divisor > 1)
        x = dtype == THRUM_FLOAT64 ? x / (double)a->divisor
                                   : (double)((float)x / (float)a->divisor);
    write_float(stored_as(dtype, a->wide_dst), out, x);
}

/* In the precision of the components, each operation rounded. */
static double rounded(thrum_datatype_t real, double x)
{
    return real == THRUM_FLOAT32 ? (double)(float)x : x;
}

static void expect_complex(thrum_datatype_t dtype, thrum_redop_t op,
                           const struct sim_reduce_args *a, size_t i, void *out)
{
    thrum_datatype_t real = dtype == THRUM_COMPLEX64 ? THRUM_FLOAT32 : THRUM_FLOAT64;
    size_t size = thrum_datatype_size(real);
    const char *p = (const char *)a->srcs[0] + 2 * i * size;
    volatile double x[2] = {read_float(real, p), read_float(real, p + size)}; /* no fused steps */

    for (int s = 1; s < a->nsrc; s++) {
        p = (const char *)a->srcs[s] + 2 * i * size;
        double y[2] = {read_float(real, p), read_float(real, p + size)};
        if (op == THRUM_PROD) {
            volatile double ac = rounded(real, x[0] * y[0]), bd = rounded(real, x[1] * y[1]),
                            ad = rounded(real, x[0] * y[1]), bc = rounded(real, x[1] * y[0]);
            x[0] = rounded(real, ac - bd);
            x[1] = rounded(real, ad + bc);
        } else {
            x[0] = rounded(real, x[0] + y[0]);
            x[1] = rounded(real, x[1] + y[1]);
        }
    }
    for (int c = 0; c < 2; c++) {
        if (op == THRUM_AVG && a->divisor > 1)
            x[c] = real == THRUM_FLOAT32 ? (double)((float)x[c] / (float)a->divisor)
                                         : x[c] / (double)a->divisor;
        write_float(real, (char *)out + (size_t)c * size, x[c]);
    }
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

static void expect(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                   size_t i, void *out)
{
    if (is_complex(dtype))
        expect_complex(dtype, op, a, i, out);
    else
        (is_float(dtype) ? expect_float : expect_int)(dtype, op, a, i, out);
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

static const uint8_t special_e4m3[] = {
    0, 0x80, 0x7e, 0xfe, 0x7f, 0xff, 0x77, 1, 0x87, 0x08, 0x07, 0xf8, 0x38, 0xb8, 0x09, 0x39,
};
static const uint8_t special_e5m2[] = {
    0, 0x80, 0x7c, 0xfc, 0x7e, 0xff, 0x7d, 1, 0x83, 0x04, 0x7b, 0xfb, 0x3c, 0xbc, 0x05, 0x3d,
};

static uint64_t special(thrum_datatype_t dtype, unsigned which)
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
static void fill(thrum_datatype_t dtype, char *p, size_t count)
{
    size_t size = thrum_datatype_size(dtype);

    if (is_complex(dtype)) {
        fill(dtype == THRUM_COMPLEX64 ? THRUM_FLOAT32 : THRUM_FLOAT64, p, 2 * count);
        return;
    }
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
    bool wide_dst, wide_src, wide_first;
};

static void describe(const char *who, const struct shape *shape, size_t at)
{
    fprintf(stderr,
            "%s: %s %s nsrc=%d ndst=%d count=%zu divisor=%llu stream=%d aliased=%d skew=%zu"
            " wide=%d%d%d differs at byte %zu\n",
            who, thrum_datatype_name(shape->dtype), thrum_redop_name(shape->op), shape->nsrc,
            shape->ndst, shape->count, (unsigned long long)shape->divisor, shape->stream,
            shape->aliased, shape->skew, shape->wide_dst, shape->wide_src, shape->wide_first, at);
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

/* Of the shape, but for the destinations. */
static struct sim_reduce_args args_of(const struct shape *shape, const struct buffers *b,
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
                       const struct shape *shape, const struct buffers *b, const char *expected)
{
    size_t bytes = shape->count * thrum_datatype_size(stored_as(shape->dtype, shape->wide_dst));
    char *saved = must_alloc(ROOM);
    const void *srcs[MAX_SRC];
    void *dsts[MAX_DST];
    struct sim_reduce_args args = args_of(shape, b, srcs);

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
        expect_bytes(who, shape, p, expected, bytes);
        if (d || !shape->aliased) {
            assert_int_equal(p[bytes], GUARD);
            assert_true(p == b->dsts[d] || p[-1] == GUARD);
        }
    }
    memcpy(b->srcs[shape->nsrc - 1], saved, ROOM);
    free(saved);
}

/* Every variant gives what is expected. */
static void run_variants(const struct shape *shape, const struct buffers *b)
{
    run_kernel("scalar", &sim_reduce_scalar_table, shape, b, b->expected);
    for (const struct variant *v = variants; v->name; v++)
        if (sim_reduce_runs_here(v->table))
            run_kernel(v->name, v->table, shape, b, b->expected);
}

static void check_shape(const struct shape *shape, struct buffers *b)
{
    size_t size = thrum_datatype_size(stored_as(shape->dtype, shape->wide_dst));
    const void *srcs[MAX_SRC];
    struct sim_reduce_args args = args_of(shape, b, srcs);

    for (int s = 0; s < shape->nsrc; s++)
        fill(source_type(shape->dtype, &args, s), (char *)(uintptr_t)srcs[s], shape->count);
    for (size_t i = 0; i < shape->count; i++)
        expect(shape->dtype, shape->op, &args, i, b->expected + i * size);
    run_variants(shape, b);
}

static bool is_bitwise(thrum_redop_t op)
{
    return op == THRUM_BAND || op == THRUM_BOR || op == THRUM_BXOR;
}

static void every_shape(struct buffers *b, thrum_datatype_t dtype, thrum_redop_t op)
{
    static const size_t counts[] = {0, 1, 3, 17, 64, 131};
    static const uint64_t divisors[] = {0,   1,   2,   3,   7,     8,          100,   128,
                                        255, 256, 641, 128, 32768, 1ull << 32, 65537, 1ull << 63};
    unsigned turn = 0;

    for (int nsrc = 1; nsrc <= MAX_SRC; nsrc++) {
        for (int ndst = 1; ndst <= MAX_DST; ndst++) {
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++, turn++) {
                struct shape shape = {.dtype = dtype,
                                      .op = op,
                                      .nsrc = nsrc,
                                      .ndst = ndst,
                                      .count = counts[c],
                                      .divisor = divisors[turn % 16],
                                      .aliased = turn % 4 == 1,
                                      .skew = turn % 3 == 0 ? 1 : 0};
                check_shape(&shape, b);
            }
        }
    }
}

static bool is_defined(thrum_datatype_t dtype, thrum_redop_t op)
{
    if (is_complex(dtype))
        return op == THRUM_SUM || op == THRUM_PROD || op == THRUM_AVG;
    return !(is_float(dtype) && is_bitwise(op));
}

static void every_type_and_operation(void **state)
{
    struct buffers *b = *state;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            bool defined = is_defined((thrum_datatype_t)dtype, (thrum_redop_t)op);
            assert_int_equal(sim_reduce_defined((thrum_datatype_t)dtype, (thrum_redop_t)op),
                             defined);
            if (defined)
                every_shape(b, (thrum_datatype_t)dtype, (thrum_redop_t)op);
        }
    }
    assert_false(sim_reduce_defined(THRUM_DATATYPE_COUNT, THRUM_SUM));
    assert_false(sim_reduce_defined(THRUM_FLOAT32, (thrum_redop_t)THRUM_REDOP_COUNT));
}

/* float32 in and out of reductions of narrow floats; for other types the flags mean nothing. */
static void wide_operands(void **state)
{
    static const size_t counts[] = {1, 5, 31, 64, 513, MAX_COUNT};
    static const int nsrcs[] = {1, 2, 3, 8, 9};
    static const uint64_t divisors[] = {1, 2, 3, 64, 100};
    unsigned turn = 0;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            if (!is_defined((thrum_datatype_t)dtype, (thrum_redop_t)op))
                continue;
            for (unsigned wide = 0; wide < 8; wide++) {
                for (int round = 0; round < 5; round++, turn++) {
                    struct shape shape = {.dtype = (thrum_datatype_t)dtype,
                                          .op = (thrum_redop_t)op,
                                          .nsrc = nsrcs[round],
                                          .ndst = 1 + (int)turn % MAX_DST,
                                          .count = counts[turn % 6],
                                          .divisor = divisors[turn % 5],
                                          .skew = turn % 3 == 0 ? 1 : 0,
                                          .wide_dst = wide & 1,
                                          .wide_src = wide & 2,
                                          .wide_first = wide & 4};
                    /* onto the last source, if that is as wide */
                    bool last = shape.wide_src || (shape.wide_first && shape.nsrc == 1);
                    shape.aliased = turn % 2 && (!is_narrow(shape.dtype) || last == shape.wide_dst);
                    check_shape(&shape, *state);
                }
            }
        }
    }
}

static void scaled(void **state)
{
    static const size_t counts[] = {0, 1, 3, 17, 131, MAX_COUNT};
    struct buffers *b = *state;
    unsigned turn = 0;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        for (int round = 0; round < 48; round++, turn++) {
            struct shape shape = {.dtype = (thrum_datatype_t)dtype,
                                  .op = THRUM_PROD,
                                  .nsrc = 2,
                                  .ndst = 1 + (int)turn % MAX_DST,
                                  .count = counts[turn % 6],
                                  .skew = turn % 3 == 0 ? 1 : 0};
            const void *srcs[2];
            struct sim_reduce_args args = args_of(&shape, b, srcs);

            /* as the product with a second source that is the scalar everywhere */
            fill(shape.dtype, (char *)(uintptr_t)srcs[0], shape.count);
            fill(shape.dtype, (char *)(uintptr_t)srcs[1], 1);
            for (size_t i = 1; i < shape.count; i++)
                memcpy((char *)(uintptr_t)srcs[1] + i * size, srcs[1], size);
            for (size_t i = 0; i < shape.count; i++)
                expect(shape.dtype, THRUM_PROD, &args, i, b->expected + i * size);
            for (int v = -1; v < 0 || variants[v].name; v++) {
                const struct sim_kernel_table *table =
                    v < 0 ? &sim_reduce_scalar_table : variants[v].table;
                char scalar[16], saved[ROOM];
                void *dsts[MAX_DST];

                if (!sim_reduce_runs_here(table))
                    continue;
                memcpy(scalar, srcs[1], size);
                memcpy(saved, b->srcs[0], ROOM);
                for (int d = 0; d < shape.ndst; d++) {
                    memset(b->dsts[d], GUARD, ROOM);
                    dsts[d] = b->dsts[d] + shape.skew;
                }
                if (turn % 4 == 1)
                    dsts[shape.ndst - 1] = (void *)(uintptr_t)srcs[0];
                struct sim_scale_args scale = {.dsts = dsts,
                                               .ndst = shape.ndst,
                                               .src = srcs[0],
                                               .scalar = scalar,
                                               .count = shape.count,
                                               .stream = turn & 1};
                sim_scale_with(table, shape.dtype, &scale);
                for (int d = 0; d < shape.ndst; d++)
                    expect_bytes(v < 0 ? "scalar" : variants[v].name, &shape, dsts[d], b->expected,
                                 shape.count * size);
                assert_int_equal(b->dsts[0][shape.skew + shape.count * size], GUARD);
                memcpy(b->srcs[0], saved, ROOM);
            }
        }
    }
}

/* A function of the host that does what SUM does, in float64 and int32, or fails at its nth call. */
struct adder {
    int calls, fails_at;
};

static thrum_status_t add(const void *left, const void *right, void *result, size_t count,
                          thrum_datatype_t dtype, void *context)
{
    struct adder *adder = context;

    if (++adder->calls == adder->fails_at)
        return THRUM_ERR_ABORTED;
    for (size_t i = 0; i < count; i++) {
        if (dtype == THRUM_FLOAT64)
            ((double *)result)[i] = ((const double *)left)[i] - ((const double *)right)[i];
        else
            ((uint32_t *)result)[i] =
                2 * ((const uint32_t *)left)[i] + ((const uint32_t *)right)[i];
    }
    return THRUM_OK;
}

/* From left to right, into any destinations, of which one may be any source; past the size of a tile. */
static void folded_by_a_callback(void **state)
{
    enum { COUNT = 5000, SOURCES = 4 };
    static uint32_t src[SOURCES][COUNT], expected[COUNT], other[COUNT];
    static double x[2][COUNT], difference[COUNT];
    struct adder adder = {0};

    (void)state;
    for (int onto = 0; onto < SOURCES; onto++) {
        const void *srcs[] = {src[0], src[1], src[2], src[3]};
        void *dsts[] = {src[onto], other};
        struct sim_reduce_args args = {
            .dsts = dsts, .srcs = srcs, .ndst = 2, .nsrc = SOURCES, .count = COUNT};

        for (int i = 0; i < COUNT; i++) {
            for (int s = 0; s < SOURCES; s++)
                src[s][i] = (uint32_t)random_u64();
            expected[i] = 2 * (2 * (2 * src[0][i] + src[1][i]) + src[2][i]) + src[3][i];
        }
        assert_int_equal(sim_reduce_by_callback(THRUM_UINT32, add, &adder, &args), THRUM_OK);
        assert_memory_equal(src[onto], expected, sizeof expected);
        assert_memory_equal(other, expected, sizeof expected);
    }
    for (int i = 0; i < COUNT; i++) {
        x[0][i] = i * 3;
        x[1][i] = i;
    }
    const void *srcs[] = {x[0], x[1]};
    void *dsts[] = {difference};
    struct sim_reduce_args args = {
        .dsts = dsts, .srcs = srcs, .ndst = 1, .nsrc = 2, .count = COUNT};
    assert_int_equal(sim_reduce_by_callback(THRUM_FLOAT64, add, &adder, &args), THRUM_OK);
    for (int i = 0; i < COUNT; i++)
        assert_true(difference[i] == 2 * i);
    adder = (struct adder){.fails_at = 2};
    assert_int_equal(sim_reduce_by_callback(THRUM_FLOAT64, add, &adder, &args), THRUM_ERR_ABORTED);
    assert_int_equal(adder.calls, 2);
    args.nsrc = 1; /* nothing to fold: a copy */
    assert_int_equal(sim_reduce_by_callback(THRUM_FLOAT64, add, &adder, &args), THRUM_OK);
    assert_memory_equal(difference, x[0], sizeof difference);
    assert_int_equal(adder.calls, 2);
}

/* Streaming starts at 4096 bytes, with destinations aligned alike or not, and not onto a source. */
static void streamed_stores(void **state)
{
    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        for (unsigned turn = 0; turn < 12; turn++) {
            struct shape shape = {.dtype = (thrum_datatype_t)dtype,
                                  .op = turn & 1                              ? THRUM_SUM
                                        : is_complex((thrum_datatype_t)dtype) ? THRUM_PROD
                                                                              : THRUM_MAX,
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
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16,    THRUM_FLOAT32,
                                             THRUM_FLOAT64, THRUM_FLOAT8_E4M3, THRUM_FLOAT8_E5M2};

    for (int t = 0; t < 6; t++) {
        size_t size = thrum_datatype_size(types[t]);
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            struct shape shape = {.dtype = types[t],
                                  .op = (thrum_redop_t)op,
                                  .nsrc = 2,
                                  .ndst = 1,
                                  .count = 256,
                                  .divisor = 3};
            const void *srcs[2];
            struct sim_reduce_args args = args_of(&shape, b, srcs);

            if (is_bitwise(shape.op))
                continue;
            for (unsigned i = 0; i < 256; i++) {
                uint64_t x = special(types[t], i / 16), y = special(types[t], i % 16);
                memcpy(b->srcs[0] + i * size, &x, size);
                memcpy(b->srcs[1] + i * size, &y, size);
            }
            for (size_t i = 0; i < 256; i++)
                expect(types[t], shape.op, &args, i, b->expected + i * size);
            run_variants(&shape, b);
        }
    }
}

/* One NaN among numbers, at every place of a block: it is looked for in all of them at once. */
static void one_nan_in_a_block(void **state)
{
    struct buffers *b = *state;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        if (!is_float((thrum_datatype_t)dtype))
            continue;
        for (size_t place = 0; place < 512 / size; place++) {
            struct shape shape = {
                .dtype = (thrum_datatype_t)dtype, .op = THRUM_SUM, .nsrc = 2, .ndst = 1};
            const void *srcs[2];
            struct sim_reduce_args args;
            uint64_t nan = special(shape.dtype, 5); /* negative, with a payload */

            shape.count = 512 / size;
            args = args_of(&shape, b, srcs);
            memset(b->srcs[0], 0, 512);
            memset(b->srcs[1], 0, 512);
            memcpy(b->srcs[place % 2] + place * size, &nan, size);
            for (size_t i = 0; i < shape.count; i++)
                expect(shape.dtype, shape.op, &args, i, b->expected + i * size);
            run_variants(&shape, b);
        }
    }
}

/* Any number of the format; or, so that sums round in all ways, one near another, or a tiny one. */
static uint64_t usual_value(thrum_datatype_t dtype, unsigned kind)
{
    const struct format *format = format_of(dtype);
    uint64_t end = beyond(format), one = encode(format, 1), sign = random_u64() & 1, bits;
    uint64_t spread = 4u << format->fraction_bits;

    if (kind == 0)
        bits = random_u64() % end;
    else if (kind == 1)
        bits = one - spread / 2 + random_u64() % spread;
    else
        bits = random_u64() % spread;
    return sign << (format->bits_total - 1) | bits;
}

/* Whole blocks without NaN and infinities, which the vector kernels compute in another way; some with one. */
static void blocks_of_usual_values(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16, THRUM_FLOAT8_E4M3,
                                             THRUM_FLOAT8_E5M2};
    static const thrum_redop_t ops[] = {THRUM_SUM, THRUM_AVG, THRUM_PROD, THRUM_MIN, THRUM_MAX};
    static const uint64_t divisors[] = {2, 3, 64, 7, 65536, 641, 65537, 1ull << 17};
    struct buffers *b = *state;

    for (unsigned turn = 0; turn < 4 * 5 * 3 * 64; turn++) {
        struct shape shape = {.dtype = types[turn % 4],
                              .op = ops[turn / 4 % 5],
                              .nsrc = 2 + (turn / 60 % 2 ? (int)(turn / 120 % 7) : 0),
                              .ndst = 1,
                              .count = 512 + turn % 7,
                              .divisor = divisors[turn / 60 % 8]};
        size_t size = thrum_datatype_size(shape.dtype);
        const void *srcs[MAX_SRC];
        struct sim_reduce_args args = args_of(&shape, b, srcs);
        void *dsts[] = {b->expected};

        for (int s = 0; s < shape.nsrc; s++)
            for (size_t i = 0; i < shape.count; i++) {
                uint64_t bits = usual_value(shape.dtype, turn / 20 % 3);
                memcpy(b->srcs[s] + i * size, &bits, size);
            }
        if (turn % 8 == 7) {
            uint64_t bits = special(shape.dtype, (unsigned)random_u64() % 8);
            memcpy(b->srcs[0] + random_u64() % shape.count * size, &bits, size);
        }
        args.dsts = dsts;
        sim_reduce_with(&sim_reduce_scalar_table, shape.dtype, shape.op, &args);
        run_variants(&shape, b);
    }
}

/* Runs of every value of a narrow float through SUM, and through float32: unchanged, or the canonical NaN. */
static void narrow_floats_round_trip(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16, THRUM_FLOAT8_E4M3,
                                             THRUM_FLOAT8_E5M2};
    static char in[65536 * 2], out[65536 * 2];
    static float wide[65536];

    (void)state;
    for (int t = 0; t < 4; t++) {
        const struct format *format = format_of(types[t]);
        size_t size = thrum_datatype_size(types[t]), count = size == 1 ? 256 : 65536;
        const void *srcs[] = {in}, *wides[] = {wide};
        void *dsts[] = {out}, *wide_dsts[] = {wide};
        struct sim_reduce_args args = {
            .srcs = srcs, .dsts = dsts, .nsrc = 1, .ndst = 1, .count = count};

        for (uint64_t i = 0; i < count; i++)
            memcpy(in + i * size, &i, size);
        for (int v = -1; v < 0 || variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            for (int by_float = 0; by_float < 2; by_float++) {
                struct sim_reduce_args there = args, back = args;
                if (by_float) {
                    there.dsts = wide_dsts;
                    there.wide_dst = true;
                    sim_reduce_with(table, types[t], THRUM_SUM, &there);
                    for (uint64_t i = 0; i < count; i++)
                        assert_true(isnan(decode(format, i))
                                        ? isnan(wide[i])
                                        : (double)wide[i] == decode(format, i) &&
                                              !signbit(wide[i]) == !signbit(decode(format, i)));
                    back.srcs = wides;
                    back.wide_src = true;
                }
                memset(out, GUARD, sizeof out);
                sim_reduce_with(table, types[t], THRUM_SUM, &back);
                for (uint64_t i = 0; i < count; i++) {
                    uint64_t got = 0, want = encode(format, decode(format, i));
                    memcpy(&got, out + i * size, size);
                    assert_int_equal(got, want);
                }
            }
        }
    }
}

static float next_to(float x, int steps)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    bits += (uint32_t)steps;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* Every value of an 8-bit float, every point halfway between two, and the float32 beside each, both signs. */
static void every_halfway_point_of_float8(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_FLOAT8_E4M3, THRUM_FLOAT8_E5M2};
    static const uint32_t more[] = {1,          0x7f800000,           0x7fc00000, 0x7f7fffff,
                                    0x7f800001, 0x43e80000 /* 464 */, 0x47700000 /* 61440 */};
    static float in[2048];
    uint8_t out[2048];

    (void)state;
    for (int t = 0; t < 2; t++) {
        const struct format *format = format_of(types[t]);
        const void *srcs[] = {in};
        void *dsts[] = {out};
        size_t n = 0;

        for (uint64_t code = 0; code + 1 < beyond(format); code++) {
            double x = decode(format, code), middle = (x + decode(format, code + 1)) / 2;
            for (int step = -1; step <= 1; step++) {
                in[n++] = code || step >= 0 ? next_to((float)x, step) : 0;
                in[n++] = next_to((float)middle, step);
            }
        }
        memcpy(in + n, more, sizeof more);
        n += sizeof more / sizeof *more;
        for (size_t i = 0; i < n; i++)
            in[n + i] = -in[i];
        n *= 2;
        struct sim_reduce_args args = {
            .srcs = srcs, .dsts = dsts, .nsrc = 1, .ndst = 1, .count = n, .wide_src = true};
        for (int v = -1; v < 0 || variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            sim_reduce_with(table, types[t], THRUM_SUM, &args);
            for (size_t i = 0; i < n; i++)
                assert_int_equal(out[i], encode(format, in[i]));
        }
    }
}

/* Every sum and product of two, which the kernels may compute in another way than longer folds. */
static void every_pair_of_float8(void **state)
{
    static uint8_t x[65536], y[65536], out[65536];
    static const thrum_redop_t ops[] = {THRUM_SUM, THRUM_PROD, THRUM_MIN, THRUM_MAX};

    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        x[i] = (uint8_t)(i >> 8);
        y[i] = (uint8_t)i;
    }
    for (int t = 0; t < 8; t++) {
        thrum_datatype_t dtype = t & 1 ? THRUM_FLOAT8_E4M3 : THRUM_FLOAT8_E5M2;
        const void *srcs[] = {x, y};
        void *dsts[] = {out};
        struct sim_reduce_args args = {
            .srcs = srcs, .dsts = dsts, .nsrc = 2, .ndst = 1, .count = 65536};
        for (int v = -1; v < 0 || variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            sim_reduce_with(table, dtype, ops[t / 2], &args);
            for (unsigned i = 0; i < 65536; i++) {
                uint8_t want;
                expect_float(dtype, ops[t / 2], &args, i, &want);
                if (out[i] != want)
                    fprintf(stderr, "%s %s of 0x%02x and 0x%02x\n", thrum_datatype_name(dtype),
                            thrum_redop_name(ops[t / 2]), x[i], y[i]);
                assert_int_equal(out[i], want);
            }
        }
    }
}

/* Sums and products of two narrow floats land between two of them: ties and near-ties of all kinds. */
static void narrow_floats_round_to_nearest_even(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16, THRUM_FLOAT8_E4M3,
                                             THRUM_FLOAT8_E5M2};
    struct buffers *b = *state;

    for (int round = 0; round < 800; round++) {
        struct shape shape = {.dtype = types[round % 4],
                              .op = round & 4 ? THRUM_SUM : THRUM_PROD,
                              .nsrc = 2 + round / 8 % 2,
                              .ndst = 1,
                              .count = 64};
        check_shape(&shape, b);
    }
}

#if defined(__x86_64__)
/* A thread that rounds up and takes subnormal numbers for zero gets the same bits, and stays as it is. */
static void arithmetic_of_the_caller_does_not_matter(void **state)
{
    static const uint8_t x[] = {0x01, 0x02, 0x7e, 0x39}, y[] = {0x02, 0x81, 0x08, 0x18};
    static const uint8_t sum[] = {0x03, 0x01, 0x7e, 0x3a};
    static const uint32_t tiny[] = {0x00000001, 0x00000002}, doubled[] = {0x00000002, 0x00000004};
    const void *srcs[] = {x, y}, *tinies[] = {tiny, tiny};
    uint8_t out[4];
    uint32_t wide[2];
    void *dsts[] = {out}, *wide_dsts[] = {wide};
    struct sim_reduce_args args = {.srcs = srcs, .dsts = dsts, .nsrc = 2, .ndst = 1, .count = 4},
                           floats = {
                               .srcs = tinies, .dsts = wide_dsts, .nsrc = 2, .ndst = 1, .count = 2};
    unsigned before = _mm_getcsr(), odd = before | 0x8040 | 0x4000;

    (void)state;
    _mm_setcsr(odd);
    sim_reduce(THRUM_FLOAT8_E4M3, THRUM_SUM, &args);
    sim_reduce(THRUM_FLOAT32, THRUM_SUM, &floats);
    assert_int_equal(_mm_getcsr(), odd);
    _mm_setcsr(before);
    assert_memory_equal(out, sum, sizeof sum);
    assert_memory_equal(wide, doubled, sizeof doubled);
}
#endif

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

static void touch_ends(char *const *pages, thrum_datatype_t dtype, size_t count, bool wide)
{
    size_t size = thrum_datatype_size(dtype),
           wide_size = thrum_datatype_size(stored_as(dtype, true));
    const void *srcs[] = {before_guard_page(pages[0], count * (wide ? wide_size : size)),
                          before_guard_page(pages[1], count * size)};
    void *dsts[] = {before_guard_page(pages[2], count * size)};
    struct sim_reduce_args args = {
        .srcs = srcs, .dsts = dsts, .nsrc = 2, .ndst = 1, .count = count, .wide_first = wide};

    for (const struct variant *v = variants; v->name; v++)
        if (sim_reduce_runs_here(v->table))
            sim_reduce_with(v->table, dtype, THRUM_SUM, &args);
    sim_reduce_with(&sim_reduce_scalar_table, dtype, THRUM_SUM, &args);
}

static void nothing_beyond_the_ends_is_touched(void **state)
{
    char *pages[3] = {guarded_pages(), guarded_pages(), guarded_pages()};

    (void)state;
    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++)
        for (size_t count = 1; count <= 600 / thrum_datatype_size((thrum_datatype_t)dtype); count++)
            for (int wide = 0; wide < 2; wide++)
                touch_ends(pages, (thrum_datatype_t)dtype, count, wide);
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

    sim_reduce_with(table, dtype, THRUM_AVG, &args);
    return out[0];
}

/* x / n of one integer type, in all lanes, by every variant. */
static void check_division(thrum_datatype_t dtype, uint64_t x, uint64_t n)
{
    size_t bits = 8 * thrum_datatype_size(dtype);
    uint64_t mask = UINT64_MAX >> (64 - bits), packed = 0, want;
    __int128 value;

    x &= mask;
    value = read_int(dtype, &x) / (__int128)n;
    want = (uint64_t)value & mask;
    for (size_t at = 0; at < 64; at += bits)
        packed |= x << at;
    for (const struct variant *v = variants; v->name; v++)
        if (sim_reduce_runs_here(v->table))
            assert_int_equal(divided(dtype, v->table, packed, n) & mask, want);
    assert_int_equal(divided(dtype, &sim_reduce_scalar_table, packed, n) & mask, want);
}

/* Exact over the whole range, next to every multiple, for divisors of any size. */
static void averages_of_integers_divide_exactly(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_INT8,  THRUM_UINT8,  THRUM_INT16, THRUM_UINT16,
                                             THRUM_INT32, THRUM_UINT32, THRUM_INT64, THRUM_UINT64};

    (void)state;
    for (int round = 0; round < 16000; round++) {
        uint64_t n = random_u64() >> (random_u64() % 64), x;
        if (round % 8 == 0)
            n = 1ull << (round / 8 % 64);
        n = n < 2 ? 2 : n;
        x = random_u64() / n * n - (uint64_t)(round % 3) + 1;
        check_division(types[round % 8], x, n);
        check_division(types[round / 8 % 8], random_u64() % n, n);
    }
    for (uint64_t n = 2; n < 260; n += 1 + n / 64) { /* all there is in 8 bits */
        for (uint64_t x = 0; x < 256; x++) {
            check_division(THRUM_INT8, x, n);
            check_division(THRUM_UINT8, x, n);
        }
    }
    for (uint64_t n = 2; n < 65536; n += 1 + n / 8) /* the ends of ranges */
        for (uint64_t x = 0; x < 4; x++) {
            check_division(THRUM_INT16, 0x7ffe + x, n);
            check_division(THRUM_UINT16, 0xfffe + x, n);
            check_division(THRUM_INT32, 0x7ffffffe + x, n);
            check_division(THRUM_INT64, INT64_MAX - 1 + x, n);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_and_operation, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(streamed_stores, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(pairs_of_special_values, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(blocks_of_usual_values, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(one_nan_in_a_block, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(wide_operands, make_buffers, free_buffers),
        cmocka_unit_test_setup_teardown(scaled, make_buffers, free_buffers),
        cmocka_unit_test(folded_by_a_callback),
        cmocka_unit_test(narrow_floats_round_trip),
        cmocka_unit_test(every_halfway_point_of_float8),
        cmocka_unit_test(every_pair_of_float8),
        cmocka_unit_test_setup_teardown(narrow_floats_round_to_nearest_even, make_buffers,
                                        free_buffers),
#if defined(__x86_64__)
        cmocka_unit_test(arithmetic_of_the_caller_does_not_matter),
#endif
        cmocka_unit_test(nothing_beyond_the_ends_is_touched),
        cmocka_unit_test(averages_of_integers_divide_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
