/* See oracle.h. */
#include "oracle.h"

#include <math.h>
#include <string.h>

uint64_t oracle_random(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

bool oracle_is_narrow(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT16 || dtype == THRUM_BFLOAT16 || dtype == THRUM_FLOAT8_E4M3 ||
           dtype == THRUM_FLOAT8_E5M2;
}

bool oracle_is_float(thrum_datatype_t dtype)
{
    return oracle_is_narrow(dtype) || dtype == THRUM_FLOAT32 || dtype == THRUM_FLOAT64;
}

bool oracle_is_complex(thrum_datatype_t dtype)
{
    return dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
}

bool oracle_is_bitwise(thrum_redop_t op)
{
    return op == THRUM_BAND || op == THRUM_BOR || op == THRUM_BXOR;
}

/* The type as which an operand lies in memory. */
thrum_datatype_t oracle_stored_as(thrum_datatype_t dtype, bool wide)
{
    return wide && oracle_is_narrow(dtype) ? THRUM_FLOAT32 : dtype;
}

const struct oracle_format *oracle_format_of(thrum_datatype_t dtype)
{
    static const struct oracle_format half = {10, -14, 16, false, false},
                                      bfloat = {7, -126, 16, false, false},
                                      e4m3 = {3, -6, 8, true, true},
                                      e5m2 = {2, -14, 8, false, true};

    return dtype == THRUM_FLOAT16       ? &half
           : dtype == THRUM_BFLOAT16    ? &bfloat
           : dtype == THRUM_FLOAT8_E4M3 ? &e4m3
                                        : &e5m2;
}

double oracle_decode(const struct oracle_format *format, uint64_t bits)
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
uint64_t oracle_beyond(const struct oracle_format *format)
{
    if (format->all_finite)
        return (1u << (format->bits_total - 1)) - 1;
    return ((1u << (format->bits_total - 1 - format->fraction_bits)) - 1u) << format->fraction_bits;
}

static uint64_t canonical_nan(const struct oracle_format *format)
{
    return oracle_beyond(format) | (format->all_finite ? 0 : 1u << (format->fraction_bits - 1));
}

/* By search: the two neighbours among all values of the format, the nearer, or the even one. */
uint64_t oracle_encode(const struct oracle_format *format, double value)
{
    uint64_t sign = (uint64_t)(signbit(value) ? 1 : 0) << (format->bits_total - 1);
    uint64_t end = oracle_beyond(format), low = 0, high = end;
    double magnitude = fabs(value), below, above;

    if (isnan(value))
        return canonical_nan(format);
    while (high - low > 1) { /* oracle_decode(low) <= magnitude < oracle_decode(high) */
        uint64_t middle = (low + high) / 2;
        if (oracle_decode(format, middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    if (high == end && format->saturates)
        return sign | low;
    below = oracle_decode(format, low);
    /* beyond the largest, the next value would be one step on */
    above = high == end ? 2 * oracle_decode(format, end - 1) - oracle_decode(format, end - 2)
                        : oracle_decode(format, high);
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
        return oracle_decode(oracle_format_of(dtype), bits);
    }
}

void oracle_write_float(thrum_datatype_t dtype, void *p, double value)
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
        bits = oracle_encode(oracle_format_of(dtype), value);
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
thrum_datatype_t oracle_source_type(thrum_datatype_t dtype, const struct sim_reduce_args *a, int s)
{
    return oracle_stored_as(dtype, a->wide_src || (a->wide_first && s == 0));
}

static const char *source_at(thrum_datatype_t dtype, const struct sim_reduce_args *a, int s,
                             size_t i)
{
    return (const char *)a->srcs[s] + i * thrum_datatype_size(oracle_source_type(dtype, a, s));
}

void oracle_expect_float(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                         size_t i, void *out)
{
    double x = read_float(oracle_source_type(dtype, a, 0), source_at(dtype, a, 0, i));

    if (op == THRUM_LAND || op == THRUM_LOR)
        x = x != 0;
    for (int s = 1; s < a->nsrc; s++)
        x = float_step(dtype, op, x,
                       read_float(oracle_source_type(dtype, a, s), source_at(dtype, a, s, i)));
    if (op == THRUM_AVG && a->divisor > 1)
        x = dtype == THRUM_FLOAT64 ? x / (double)a->divisor
                                   : (double)((float)x / (float)a->divisor);
    oracle_write_float(oracle_stored_as(dtype, a->wide_dst), out, x);
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
        oracle_write_float(real, (char *)out + (size_t)c * size, x[c]);
    }
}

__int128 oracle_read_int(thrum_datatype_t dtype, const void *p)
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
    return oracle_read_int(dtype, &bits);
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
    __int128 x = oracle_read_int(dtype, (const char *)a->srcs[0] + i * size);
    uint64_t bits;

    if (op == THRUM_LAND || op == THRUM_LOR)
        x = x != 0;
    for (int s = 1; s < a->nsrc; s++)
        x = wrap(dtype,
                 int_step(op, x, oracle_read_int(dtype, (const char *)a->srcs[s] + i * size)));
    if (op == THRUM_AVG && a->divisor > 1)
        x /= (__int128)a->divisor;
    bits = (uint64_t)x;
    memcpy(out, &bits, size);
}

void oracle_expect(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                   size_t i, void *out)
{
    if (oracle_is_complex(dtype))
        expect_complex(dtype, op, a, i, out);
    else
        (oracle_is_float(dtype) ? oracle_expect_float : expect_int)(dtype, op, a, i, out);
}
