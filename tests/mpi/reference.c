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
           dtype == THRUM_BFLOAT16 || dtype == THRUM_FLOAT8_E4M3 || dtype == THRUM_FLOAT8_E5M2;
}

static bool is_8_bit_float(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT8_E4M3 || dtype == THRUM_FLOAT8_E5M2;
}

static bool is_complex(thrum_datatype_t dtype)
{
    return dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
}

static bool is_signed(thrum_datatype_t dtype)
{
    return dtype == THRUM_INT8 || dtype == THRUM_INT16 || dtype == THRUM_INT32 ||
           dtype == THRUM_INT64;
}

bool reference_valid(thrum_datatype_t dtype, thrum_redop_t op)
{
    bool bitwise = op == THRUM_BAND || op == THRUM_BOR || op == THRUM_BXOR;

    if (is_complex(dtype))
        return op == THRUM_SUM || op == THRUM_PROD || op == THRUM_AVG;
    return !(bitwise && reference_is_float(dtype));
}

/* ---- encoding ---- */

/* The bits of a value whose exponent range fits, rounded to nearest even: 1 sign, `ebits`, `mbits`. */
static uint16_t encode_small(double value, int ebits, int mbits)
{
    int bias = (1 << (ebits - 1)) - 1, exponent;
    unsigned sign = signbit(value) ? 1u << (ebits + mbits) : 0, top = (1u << ebits) - 1;
    double quantum;

    if (isnan(value))
        return (uint16_t)(sign | top << mbits | ((1u << mbits) - 1)); /* the only one of E4M3 */
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
        if (dtype == THRUM_FLOAT8_E4M3)
            ((uint8_t *)out)[at] = (uint8_t)encode_small(narrow, 4, 3);
        else if (dtype == THRUM_FLOAT8_E5M2)
            ((uint8_t *)out)[at] = (uint8_t)encode_small(narrow, 5, 2);
        else
            ((uint16_t *)out)[at] =
                dtype == THRUM_FLOAT16 ? encode_small(narrow, 5, 10) : encode_small(narrow, 8, 7);
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

/* Small whole numbers: an 8-bit float has no more than 8 in a row. */
static double small_float_value(thrum_redop_t op, int nranks, uint64_t h)
{
    uint64_t most = op == THRUM_MAX || op == THRUM_MIN ? 7 : 8 / (uint64_t)nranks;
    double sign = h >> 63 ? -1 : 1;

    return most ? sign * (double)(1 + h % most) : h % (uint64_t)nranks ? 0 : sign;
}

static double float_value(thrum_datatype_t dtype, thrum_redop_t op, int nranks, uint64_t seed,
                          int rank, uint64_t i)
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
        if (is_8_bit_float(dtype)) /* they have no infinity, or saturate */
            return small_float_value(op, nranks, h);
        if (i % 101 == 7 && rank == (int)(i % (uint64_t)nranks))
            return sign * INFINITY;
        return sign * (double)(1 + h % 255) / 8;
    case THRUM_LAND:
        return h % 8 ? sign * 0.5 : sign * 0.0;
    case THRUM_LOR:
        return h % 8 ? sign * 0.0 : sign * 0.5;
    default:
        if (is_8_bit_float(dtype))
            return small_float_value(op, nranks, h);
        return sign * (double)(1 + h % (255 / (uint64_t)nranks)) / 8;
    }
}

/* Real and imaginary part. Factors have length 1/2, 1 or 2 and a multiple of a right angle. */
static void complex_value(thrum_redop_t op, int nranks, uint64_t seed, int rank, uint64_t i,
                          double *out)
{
    bool turned = op == THRUM_PROD && hash(seed, rank, i) >> 40 & 1;

    out[turned] = float_value(THRUM_FLOAT32, op, nranks, seed, rank, i);
    out[!turned] = op == THRUM_PROD ? 0 : float_value(THRUM_FLOAT32, op, nranks, ~seed, rank, i);
}

static void complex_result(thrum_redop_t op, int nranks, int folded, uint64_t seed, uint64_t i,
                           bool single, double *out)
{
    complex_value(op, nranks, seed, 0, i, out);
    for (int r = 1; r < folded; r++) {
        double a = out[0], b = out[1], v[2];

        complex_value(op, nranks, seed, r, i, v);
        out[0] = op == THRUM_PROD ? a * v[0] - b * v[1] : a + v[0];
        out[1] = op == THRUM_PROD ? a * v[1] + b * v[0] : b + v[1];
    }
    for (int part = 0; part < 2 && op == THRUM_AVG; part++)
        out[part] = single ? (double)((float)out[part] / (float)folded) : out[part] / folded;
}

static void store_complex(void *out, uint64_t at, thrum_datatype_t dtype, const double *parts)
{
    for (uint64_t part = 0; part < 2; part++)
        store_float(out, 2 * at + part, dtype == THRUM_COMPLEX64 ? THRUM_FLOAT32 : THRUM_FLOAT64,
                    parts[part]);
}

void reference_contribution(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                            thrum_redop_t op, int nranks, uint64_t seed, int rank)
{
    for (uint64_t i = 0; i < count; i++) {
        double parts[2];

        if (is_complex(dtype)) {
            complex_value(op, nranks, seed, rank, first + i, parts);
            store_complex(out, i, dtype, parts);
        } else if (reference_is_float(dtype))
            store_float(out, i, dtype, float_value(dtype, op, nranks, seed, rank, first + i));
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

static uint64_t int_result(thrum_datatype_t dtype, thrum_redop_t op, int nranks, int folded,
                           uint64_t seed, uint64_t i)
{
    uint64_t value = int_value(dtype, op, nranks, seed, 0, i);

    if (op == THRUM_LAND || op == THRUM_LOR)
        value = value != 0; /* also of one rank */
    for (int r = 1; r < folded; r++)
        value = fold_int(op, dtype, value, int_value(dtype, op, nranks, seed, r, i));
    if (op == THRUM_AVG)
        value = is_signed(dtype) ? (uint64_t)((int64_t)value / folded) : value / (uint64_t)folded;
    return value;
}

static double float_result(thrum_datatype_t dtype, thrum_redop_t op, int nranks, int folded,
                           uint64_t seed, uint64_t i)
{
    double value = float_value(dtype, op, nranks, seed, 0, i);

    if (op == THRUM_LAND || op == THRUM_LOR)
        value = value != 0;
    for (int r = 1; r < folded; r++)
        value = fold_float(op, value, float_value(dtype, op, nranks, seed, r, i));
    if (op == THRUM_AVG) /* the sum is exact; divided in the type that accumulates */
        value = dtype == THRUM_FLOAT64 ? value / folded : (double)((float)value / (float)folded);
    return value;
}

void reference_reduction(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                         thrum_redop_t op, int nranks, int folded, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++) {
        double parts[2];

        if (is_complex(dtype)) {
            complex_result(op, nranks, folded, seed, first + i, dtype == THRUM_COMPLEX64, parts);
            store_complex(out, i, dtype, parts);
        } else if (reference_is_float(dtype))
            store_float(out, i, dtype, float_result(dtype, op, nranks, folded, seed, first + i));
        else
            store_int(out, i, dtype, int_result(dtype, op, nranks, folded, seed, first + i));
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
    case THRUM_FLOAT8_E4M3:
        return (((const uint8_t *)values)[at] & 0x7f) == 0x7f;
    case THRUM_FLOAT8_E5M2:
        return (((const uint8_t *)values)[at] & 0x7f) > 0x7c;
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

/* Zeros that differ in their sign are alike. */
static bool same_complex(const void *a, const void *b, thrum_datatype_t dtype)
{
    double wide[4];
    float narrow[4];

    if (dtype == THRUM_COMPLEX64) {
        memcpy(narrow, a, 8);
        memcpy(narrow + 2, b, 8);
        return narrow[0] == narrow[2] && narrow[1] == narrow[3];
    }
    memcpy(wide, a, 16);
    memcpy(wide + 2, b, 16);
    return wide[0] == wide[2] && wide[1] == wide[3];
}

uint64_t reference_difference(const void *got, const void *expected, uint64_t count,
                              thrum_datatype_t dtype)
{
    size_t bytes = thrum_datatype_size(dtype);

    if (!memcmp(got, expected, count * bytes))
        return count;
    for (uint64_t i = 0; i < count; i++)
        if (memcmp((const char *)got + i * bytes, (const char *)expected + i * bytes, bytes) &&
            !(is_complex(dtype) && same_complex((const char *)got + i * bytes,
                                                (const char *)expected + i * bytes, dtype)) &&
            !(is_nan(got, i, dtype) && is_nan(expected, i, dtype)))
            return i;
    return count;
}
