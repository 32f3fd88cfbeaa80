/*
 * The reference: one element at a time in plain C, on every machine. The vector variants are tested against it bit by
 * bit. Called through the table by sim_reduce.c.
 */
#include "sim_reduce_variants.h"

#include <math.h>
#include <string.h>

/* One element, as bits. */
typedef uint64_t vec;

/* Integers, float64: bits. Narrow floats, float32: the bits of a float32. */
struct acc {
    uint64_t bits;
};

static SIM_ALWAYS_INLINE size_t step_bytes(enum sim_elem elem, thrum_redop_t op)
{
    (void)op;
    return elem_bytes(elem);
}

static SIM_ALWAYS_INLINE size_t part_bytes(enum sim_elem elem, thrum_redop_t op)
{
    return step_bytes(elem, op);
}

static SIM_ALWAYS_INLINE int block_steps(enum sim_elem elem, thrum_redop_t op)
{
    (void)elem, (void)op;
    return 4;
}

static SIM_ALWAYS_INLINE vec load_bytes(const void *p, size_t bytes)
{
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;

    switch (bytes) {
    case 1:
        memcpy(&u8, p, 1);
        return u8;
    case 2:
        memcpy(&u16, p, 2);
        return u16;
    case 4:
        memcpy(&u32, p, 4);
        return u32;
    default:
        memcpy(&u64, p, 8);
        return u64;
    }
}

static SIM_ALWAYS_INLINE void store_bytes(void *p, vec v, size_t bytes)
{
    uint8_t u8 = (uint8_t)v;
    uint16_t u16 = (uint16_t)v;
    uint32_t u32 = (uint32_t)v;

    switch (bytes) {
    case 1:
        memcpy(p, &u8, 1);
        break;
    case 2:
        memcpy(p, &u16, 2);
        break;
    case 4:
        memcpy(p, &u32, 4);
        break;
    default:
        memcpy(p, &v, 8);
    }
}

static SIM_ALWAYS_INLINE vec vec_load(size_t bytes, const void *p)
{
    return load_bytes(p, bytes);
}
static SIM_ALWAYS_INLINE vec vec_load_part(const void *p, size_t bytes)
{
    return load_bytes(p, bytes);
}
static SIM_ALWAYS_INLINE void vec_store(size_t bytes, void *p, vec v)
{
    store_bytes(p, v, bytes);
}
static SIM_ALWAYS_INLINE void vec_store_part(void *p, vec v, size_t bytes)
{
    store_bytes(p, v, bytes);
}
static SIM_ALWAYS_INLINE void vec_stream(size_t bytes, void *p, vec v)
{
    store_bytes(p, v, bytes);
}
static SIM_ALWAYS_INLINE void stream_fence(void) {}

static SIM_ALWAYS_INLINE float as_float(uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, sizeof value);
    return value;
}

static SIM_ALWAYS_INLINE uint64_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static SIM_ALWAYS_INLINE double as_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static SIM_ALWAYS_INLINE uint64_t double_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Exact: every float16 is a float32. */
static uint64_t half_to_float(uint64_t half)
{
    uint64_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;

    if (exponent == 31)
        return sign | 0x7f800000 | fraction << 13;
    if (exponent)
        return sign | (exponent + 112) << 23 | fraction << 13;
    return sign | float_bits((float)fraction * 0x1p-24f);
}

/* To nearest, ties to even. NaN never comes here: it is made canonical before. */
static uint64_t float_to_half(uint64_t bits)
{
    uint64_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    int exponent = (int)(magnitude >> 23);
    uint64_t fraction = (magnitude & 0x7fffff) | 0x800000, kept;
    int drop = 13;

    if (magnitude >= 0x47800000) /* 65536 and above, infinity */
        return sign | 0x7c00;
    if (exponent < 102) /* below half of the smallest */
        return sign;
    if (exponent < 113) /* becomes subnormal: 2^-24 is the unit */
        drop = 126 - exponent;
    kept = fraction >> drop;
    kept += (fraction & ((1u << drop) - 1)) + (kept & 1) > 1u << (drop - 1);
    return exponent < 113 ? sign | kept : sign | (kept + ((uint64_t)(exponent - 113) << 10));
}

static uint64_t float_to_bfloat(uint64_t bits)
{
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff;
}

/* The shape of an 8-bit float: bits of fraction, its exponent bias below float32's, the largest finite value. */
struct float8 {
    int fraction_bits, rebias;
    uint64_t largest;
};

static SIM_ALWAYS_INLINE struct float8 float8_of(enum sim_elem elem)
{
    return elem == ELEM_E4M3 ? (struct float8){3, 120, 0x7e} : (struct float8){2, 112, 0x7b};
}

/* Exact. Both formats: OCP 8-bit Floating Point Specification (OFP8), revision 1.0, 2023. */
static uint64_t float8_to_float(enum sim_elem elem, uint64_t bits)
{
    uint64_t sign = (bits & 0x80) << 24, magnitude = bits & 0x7f;

    if (elem == ELEM_E5M2)
        return half_to_float(bits << 8); /* a float16 without its lower byte */
    if (magnitude == 0x7f)
        return sign | 0x7fc00000;
    if (magnitude < 8)
        return sign | float_bits((float)magnitude * 0x1p-9f);
    return sign | ((magnitude << 20) + (120u << 23));
}

/* To nearest, ties to even, saturated. NaN never comes here. */
static uint64_t float_to_float8(enum sim_elem elem, uint64_t bits)
{
    const struct float8 format = float8_of(elem);
    uint64_t sign = bits >> 24 & 0x80, fraction = (bits & 0x7fffff) | 0x800000, kept;
    int exponent = (int)(bits >> 23 & 0xff) - format.rebias, drop = 23 - format.fraction_bits;

    if (exponent < 1) { /* becomes subnormal */
        drop += 1 - exponent;
        exponent = 1;
    }
    if (drop > 24) /* below half of the smallest */
        return sign;
    kept = fraction >> drop;
    kept += (fraction & ((1u << drop) - 1)) + (kept & 1) > 1u << (drop - 1);
    kept += (uint64_t)(exponent - 1) << format.fraction_bits;
    return sign | (kept < format.largest ? kept : format.largest);
}

static SIM_ALWAYS_INLINE uint64_t narrow_to_float(enum sim_elem elem, uint64_t bits)
{
    if (elem_is_float8(elem))
        return float8_to_float(elem, bits);
    return elem == ELEM_F16 ? half_to_float(bits) : bits << 16;
}

static SIM_ALWAYS_INLINE uint64_t float_to_narrow(enum sim_elem elem, uint64_t bits)
{
    if (isnan(as_float(bits)))
        return elem_nan(elem);
    if (elem_is_float8(elem))
        return float_to_float8(elem, bits);
    return elem == ELEM_F16 ? float_to_half(bits) : float_to_bfloat(bits);
}

static SIM_ALWAYS_INLINE bool is_logical(thrum_redop_t op)
{
    return op == THRUM_LAND || op == THRUM_LOR;
}

static SIM_ALWAYS_INLINE struct acc acc_open(enum sim_elem elem, thrum_redop_t op, vec v)
{
    if (is_logical(op))
        return (struct acc){(v & elem_truth_mask(elem)) != 0};
    return (struct acc){elem_is_narrow(elem) ? narrow_to_float(elem, v) : v};
}

static SIM_ALWAYS_INLINE struct acc block_open(enum sim_elem elem, thrum_redop_t op, const void *p)
{
    return acc_open(elem, op, vec_load(elem_bytes(elem), p));
}

/* The smaller one; NaN if either is; -0 is below +0. */
static SIM_ALWAYS_INLINE double float_min(double x, double y)
{
    if (isnan(x) || isnan(y))
        return NAN;
    return x < y || (x == y && signbit(x)) ? x : y;
}

static SIM_ALWAYS_INLINE uint64_t combine_float(thrum_redop_t op, uint64_t x, uint64_t y)
{
    float a = as_float(x), b = as_float(y);

    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return float_bits(a + b);
    case THRUM_PROD:
        return float_bits(a * b);
    case THRUM_MIN:
        return float_bits((float)float_min(a, b));
    default:
        return float_bits((float)-float_min(-a, -b));
    }
}

static SIM_ALWAYS_INLINE uint64_t combine_double(thrum_redop_t op, uint64_t x, uint64_t y)
{
    double a = as_double(x), b = as_double(y);

    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return double_bits(a + b);
    case THRUM_PROD:
        return double_bits(a * b);
    case THRUM_MIN:
        return double_bits(float_min(a, b));
    default:
        return double_bits(-float_min(-a, -b));
    }
}

/* The value of a signed element, from its bits. */
static SIM_ALWAYS_INLINE int64_t sign_extend(enum sim_elem elem, uint64_t bits)
{
    int unused = 64 - 8 * (int)elem_bytes(elem);
    return (int64_t)(bits << unused) >> unused;
}

static SIM_ALWAYS_INLINE bool int_less(enum sim_elem elem, uint64_t x, uint64_t y)
{
    return elem_is_signed_int(elem) ? sign_extend(elem, x) < sign_extend(elem, y) : x < y;
}

static SIM_ALWAYS_INLINE uint64_t combine_int(enum sim_elem elem, thrum_redop_t op, uint64_t x,
                                              uint64_t y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return x + y; /* bits above the element's are dropped when it is stored */
    case THRUM_PROD:
        return x * y;
    case THRUM_MAX:
        return int_less(elem, x, y) ? y : x;
    case THRUM_MIN:
        return int_less(elem, x, y) ? x : y;
    case THRUM_BAND:
    case THRUM_LAND:
        return x & y;
    case THRUM_BOR:
    case THRUM_LOR:
        return x | y;
    default:
        return x ^ y;
    }
}

static SIM_ALWAYS_INLINE struct acc acc_combine(enum sim_elem elem, thrum_redop_t op, struct acc x,
                                                struct acc y)
{
    if (is_logical(op) || !elem_is_float(elem))
        return (struct acc){combine_int(elem, op, x.bits, y.bits)};
    if (elem == ELEM_F64)
        return (struct acc){combine_double(op, x.bits, y.bits)};
    return (struct acc){combine_float(op, x.bits, y.bits)};
}

static SIM_ALWAYS_INLINE uint64_t divide_int(enum sim_elem elem, uint64_t bits, uint64_t n)
{
    int64_t value = sign_extend(elem, bits);
    uint64_t size = 0 - (uint64_t)value;

    if (!elem_is_signed_int(elem))
        return (bits & UINT64_MAX >> (64 - 8 * elem_bytes(elem))) / n;
    return value < 0 ? 0 - size / n : (uint64_t)value / n; /* toward zero */
}

static SIM_ALWAYS_INLINE bool is_average(thrum_redop_t op)
{
    return op == THRUM_AVG || op == SIM_AVG_POW2;
}

static SIM_ALWAYS_INLINE uint64_t close_float(enum sim_elem elem, thrum_redop_t op, uint64_t bits,
                                              uint64_t n)
{
    float value = as_float(bits);

    if (is_average(op))
        value /= (float)n;
    if (elem_is_narrow(elem))
        return float_to_narrow(elem, float_bits(value));
    return isnan(value) ? 0x7fc00000 : float_bits(value);
}

static SIM_ALWAYS_INLINE uint64_t close_double(thrum_redop_t op, uint64_t bits, uint64_t n)
{
    double value = as_double(bits);

    if (is_average(op))
        value /= (double)n;
    return isnan(value) ? 0x7ff8000000000000 : double_bits(value);
}

static SIM_ALWAYS_INLINE vec close_part(enum sim_elem elem, thrum_redop_t op,
                                        const struct sim_division *division, struct acc x)
{
    if (is_logical(op))
        return x.bits ? elem_one(elem) : 0;
    if (elem == ELEM_F64)
        return close_double(op, x.bits, division->n);
    if (elem_is_float(elem))
        return close_float(elem, op, x.bits, division->n);
    return is_average(op) ? divide_int(elem, x.bits, division->n) : x.bits;
}

static SIM_ALWAYS_INLINE struct acc block_combine(enum sim_elem elem, thrum_redop_t op,
                                                  struct acc x, struct acc y)
{
    return acc_combine(elem, op, x, y);
}

static SIM_ALWAYS_INLINE bool has_blocks(enum sim_elem elem, thrum_redop_t op,
                                         const struct sim_division *division)
{
    (void)elem, (void)op, (void)division;
    return true;
}

static SIM_ALWAYS_INLINE bool close_block(enum sim_elem elem, thrum_redop_t op,
                                          const struct sim_division *division, const struct acc *x,
                                          int n, vec *v)
{
    for (int i = 0; i < n; i++)
        v[i] = close_part(elem, op, division, x[i]);
    return true;
}

/* ---- complex products: element by element, by the definition ----------------------------------- */

static void store_everywhere(const struct sim_kernel_args *args, size_t at, const void *value,
                             size_t bytes)
{
    for (int d = 0; d < args->ndst; d++)
        memcpy((char *)args->dsts[d] + at, value, bytes);
}

static void multiply_C64(const struct sim_kernel_args *args, bool scalar)
{
    for (size_t at = 0; at < args->bytes; at += 8) {
        float x[2], y[2];
        uint32_t bits[2];

        memcpy(x, (const char *)args->srcs[0] + at, 8);
        for (int s = 1; s < args->nsrc; s++) {
            memcpy(y, (const char *)args->srcs[s] + (scalar ? 0 : at), 8);
            float real = x[0] * y[0] - x[1] * y[1];
            x[1] = x[0] * y[1] + x[1] * y[0];
            x[0] = real;
        }
        for (int i = 0; i < 2; i++)
            bits[i] = (uint32_t)(isnan(x[i]) ? 0x7fc00000 : float_bits(x[i]));
        store_everywhere(args, at, bits, 8);
    }
}

static void multiply_C128(const struct sim_kernel_args *args, bool scalar)
{
    for (size_t at = 0; at < args->bytes; at += 16) {
        double x[2], y[2];
        uint64_t bits[2];

        memcpy(x, (const char *)args->srcs[0] + at, 16);
        for (int s = 1; s < args->nsrc; s++) {
            memcpy(y, (const char *)args->srcs[s] + (scalar ? 0 : at), 16);
            double real = x[0] * y[0] - x[1] * y[1];
            x[1] = x[0] * y[1] + x[1] * y[0];
            x[0] = real;
        }
        for (int i = 0; i < 2; i++)
            bits[i] = isnan(x[i]) ? 0x7ff8000000000000 : double_bits(x[i]);
        store_everywhere(args, at, bits, 16);
    }
}

static void reduce_C64_PROD(const struct sim_kernel_args *args)
{
    multiply_C64(args, false);
}
static void scale_C64(const struct sim_kernel_args *args)
{
    multiply_C64(args, true);
}
static void reduce_C128_PROD(const struct sim_kernel_args *args)
{
    multiply_C128(args, false);
}
static void scale_C128(const struct sim_kernel_args *args)
{
    multiply_C128(args, true);
}

/* ---- between narrow floats and float32 --------------------------------------------------------- */

static SIM_ALWAYS_INLINE void widen(enum sim_elem elem, float *dst, const void *src, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_bytes(dst + i,
                    narrow_to_float(elem, load_bytes((const char *)src + i * elem_bytes(elem),
                                                     elem_bytes(elem))),
                    4);
}

static SIM_ALWAYS_INLINE void narrow(enum sim_elem elem, void *dst, const float *src, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_bytes((char *)dst + i * elem_bytes(elem),
                    float_to_narrow(elem, load_bytes(src + i, 4)), elem_bytes(elem));
}

#define VARIANT_TABLE sim_reduce_scalar_table
#define SIM_COMPLEX_PRODUCTS 0
#include "sim_reduce_body.h"
