/* Contributions and results for the mpirun tests, see reference.h. */
#include "reference.h"

#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t hash(uint64_t seed, int rank, uint64_t index)
{
    return mix(mix(seed * 1000003u + (uint64_t)rank) + index);
}

bool reference_is_float(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT16 || dtype == THRUM_FLOAT32 || dtype == THRUM_FLOAT64 ||
           dtype == THRUM_BFLOAT16;
}

static bool is_signed(thrum_datatype_t dtype)
{
    return dtype == THRUM_INT8 || dtype == THRUM_INT16 || dtype == THRUM_INT32 ||
           dtype == THRUM_INT64;
}

bool reference_valid(thrum_datatype_t dtype, thrum_redop_t op)
{
    bool bitwise = op == THRUM_BAND || op == THRUM_BOR || op == THRUM_BXOR;

    return !(bitwise && reference_is_float(dtype));
}

/* ---- encoding ---- */

/* The bits of a value whose exponent range fits, rounded to nearest even: 1 sign, `ebits`, `mbits`. */
static uint16_t encode16(double value, int ebits, int mbits)
{
    int bias = (1 << (ebits - 1)) - 1, exponent;
    unsigned sign = signbit(value) ? 1u << 15 : 0, top = (1u << ebits) - 1;
    double quantum;

    if (isnan(value))
        return (uint16_t)(sign | top << mbits | 1u << (mbits - 1));
    value = fabs(value);
    if (value == 0)
        return (uint16_t)sign;
    if (isinf(value))
        return (uint16_t)(sign | top << mbits);
    exponent = ilogb(value) < 1 - bias ? 1 - bias : ilogb(value);
    quantum = nearbyint(ldexp(value, mbits - exponent)); /* in units of the last place */
    /* An implicit leading one carries into the exponent by plain addition, also when rounding overflows. */
    return (uint16_t)(sign | (((unsigned)(exponent + bias - 1) << mbits) + (unsigned)quantum));
}

static void store_float(void *out, uint64_t at, thrum_datatype_t dtype, double value)
{
    if (dtype == THRUM_FLOAT64) {
        ((double *)out)[at] = value;
    } else if (dtype == THRUM_FLOAT32) {
        ((float *)out)[at] = (float)value;
    } else {
        /* narrow formats accumulate in float32: what they store was a float before */
        double narrow = (double)(float)value;
        ((uint16_t *)out)[at] =
            dtype == THRUM_FLOAT16 ? encode16(narrow, 5, 10) : encode16(narrow, 8, 7);
    }
}

static void store_int(void *out, uint64_t at, thrum_datatype_t dtype, uint64_t value)
{
    switch (thrum_datatype_size(dtype)) {
    case 1:
        ((uint8_t *)out)[at] = (uint8_t)value;
        break;
    case 2:
        ((uint16_t *)out)[at] = (uint16_t)value;
        break;
    case 4:
        ((uint32_t *)out)[at] = (uint32_t)value;
        break;
    default:
        ((uint64_t *)out)[at] = value;
    }
}

/* The low bits of value, extended to 64 as the type says. */
static uint64_t wrap(uint64_t value, thrum_datatype_t dtype)
{
    unsigned shift = 64 - 8 * (unsigned)thrum_datatype_size(dtype);

    return is_signed(dtype) ? (uint64_t)((int64_t)(value << shift) >> shift)
                            : value << shift >> shift;
}

/* ---- contributions ---- */

static uint64_t int_value(thrum_datatype_t dtype, thrum_redop_t op, int nranks, uint64_t seed,
                          int rank, uint64_t i)
{
    uint64_t h = hash(seed, rank, i), small = 120 / (uint64_t)nranks;

    switch (op) {
    case THRUM_PROD:
        return wrap(h | 1, dtype);
    case THRUM_BAND:
        return wrap(h | mix(h) | mix(h + 1), dtype);
    case THRUM_BOR:
        return wrap(h & mix(h) & mix(h + 1), dtype);
    case THRUM_LAND:
        return h % 8 ? wrap(h | 1, dtype) : 0;
    case THRUM_LOR:
        return h % 8 ? 0 : wrap(h | 1, dtype);
    case THRUM_AVG:
        return is_signed(dtype) ? (uint64_t)((int64_t)(h % (2 * small + 1)) - (int64_t)small)
                                : h % small;
    default:
        return wrap(h, dtype);
    }
}

static double float_value(thrum_redop_t op, int nranks, uint64_t seed, int rank, uint64_t i)
{
    static const double factors[] = {2, 0.5, -1, -2, 1, -0.5};
    uint64_t h = hash(seed, rank, i);
    double sign = h >> 63 ? -1 : 1;

    switch (op) {
    case THRUM_PROD:
        return factors[h % 6];
    case THRUM_MAX:
    case THRUM_MIN:
        if (i % 97 == 13 && rank == (int)(i % (uint64_t)nranks))
            return NAN;
        if (i % 101 == 7 && rank == (int)(i % (uint64_t)nranks))
            return sign * INFINITY;
        return sign * (double)(1 + h % 255) / 8;
    case THRUM_LAND:
        return h % 8 ? sign * 0.5 : sign * 0.0;
    case THRUM_LOR:
        return h % 8 ? sign * 0.0 : sign * 0.5;
    default:
        return sign * (double)(1 + h % (255 / (uint64_t)nranks)) / 8;
    }
}

void reference_contribution(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                            thrum_redop_t op, int nranks, uint64_t seed, int rank)
{
    for (uint64_t i = 0; i < count; i++) {
        if (reference_is_float(dtype))
            store_float(out, i, dtype, float_value(op, nranks, seed, rank, first + i));
        else
            store_int(out, i, dtype, int_value(dtype, op, nranks, seed, rank, first + i));
    }
}

/* ---- results ---- */

static uint64_t fold_int(thrum_redop_t op, thrum_datatype_t dtype, uint64_t a, uint64_t b)
{
    bool less = is_signed(dtype) ? (int64_t)a < (int64_t)b : a < b;

    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
        return a + b;
    case THRUM_PROD:
        return a * b;
    case THRUM_MAX:
        return less ? b : a;
    case THRUM_MIN:
        return less ? a : b;
    case THRUM_BAND:
        return a & b;
    case THRUM_BOR:
        return a | b;
    case THRUM_BXOR:
        return a ^ b;
    case THRUM_LAND:
        return a && b;
    default:
        return a || b;
    }
}

static double fold_float(thrum_redop_t op, double a, double b)
{
    switch (op) {
    case THRUM_PROD:
        return a * b;
    case THRUM_MAX:
        return isnan(a) || isnan(b) ? NAN : a < b ? b : a;
    case THRUM_MIN:
        return isnan(a) || isnan(b) ? NAN : a < b ? a : b;
    case THRUM_LAND:
        return a != 0 && b != 0;
    case THRUM_LOR:
        return a != 0 || b != 0;
    default:
        return a + b;
    }
}

static uint64_t int_result(thrum_datatype_t dtype, thrum_redop_t op, int nranks, uint64_t seed,
                           uint64_t i)
{
    uint64_t value = int_value(dtype, op, nranks, seed, 0, i);

    if (op == THRUM_LAND || op == THRUM_LOR)
        value = value != 0; /* also of one rank */
    for (int r = 1; r < nranks; r++)
        value = fold_int(op, dtype, value, int_value(dtype, op, nranks, seed, r, i));
    if (op == THRUM_AVG)
        value = is_signed(dtype) ? (uint64_t)((int64_t)value / nranks) : value / (uint64_t)nranks;
    return value;
}

static double float_result(thrum_datatype_t dtype, thrum_redop_t op, int nranks, uint64_t seed,
                           uint64_t i)
{
    double value = float_value(op, nranks, seed, 0, i);

    if (op == THRUM_LAND || op == THRUM_LOR)
        value = value != 0;
    for (int r = 1; r < nranks; r++)
        value = fold_float(op, value, float_value(op, nranks, seed, r, i));
    if (op == THRUM_AVG) /* the sum is exact; divided in the type that accumulates */
        value = dtype == THRUM_FLOAT64 ? value / nranks : (double)((float)value / (float)nranks);
    return value;
}

void reference_reduction(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                         thrum_redop_t op, int nranks, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++) {
        if (reference_is_float(dtype))
            store_float(out, i, dtype, float_result(dtype, op, nranks, seed, first + i));
        else
            store_int(out, i, dtype, int_result(dtype, op, nranks, seed, first + i));
    }
}

void reference_bytes(void *out, uint64_t first, uint64_t count, uint64_t seed, int rank)
{
    uint8_t *bytes = out;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = first + i;
        bytes[i] = (uint8_t)(hash(seed, rank, at / 8) >> (8 * (at % 8)));
    }
}

static bool is_nan(const void *values, uint64_t at, thrum_datatype_t dtype)
{
    uint16_t bits;

    switch (dtype) {
    case THRUM_FLOAT64:
        return isnan(((const double *)values)[at]);
    case THRUM_FLOAT32:
        return isnan(((const float *)values)[at]);
    case THRUM_FLOAT16:
        bits = ((const uint16_t *)values)[at] & 0x7fff;
        return bits > 0x7c00;
    case THRUM_BFLOAT16:
        bits = ((const uint16_t *)values)[at] & 0x7fff;
        return bits > 0x7f80;
    default:
        return false;
    }
}

uint64_t reference_difference(const void *got, const void *expected, uint64_t count,
                              thrum_datatype_t dtype)
{
    size_t bytes = thrum_datatype_size(dtype);

    if (!memcmp(got, expected, count * bytes))
        return count;
    for (uint64_t i = 0; i < count; i++)
        if (memcmp((const char *)got + i * bytes, (const char *)expected + i * bytes, bytes) &&
            !(is_nan(got, i, dtype) && is_nan(expected, i, dtype)))
            return i;
    return count;
}
