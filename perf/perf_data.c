/* See perf_data.h. */
#include "perf_data.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "perf.h"

static bool is_float(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT16 || dtype == THRUM_FLOAT32 || dtype == THRUM_FLOAT64 ||
           dtype == THRUM_BFLOAT16 || dtype == THRUM_FLOAT8_E4M3 || dtype == THRUM_FLOAT8_E5M2;
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

int perf_op_takes(int op, thrum_datatype_t dtype)
{
    if (is_complex(dtype))
        return op == THRUM_SUM || op == THRUM_PROD || op == THRUM_AVG;
    return op != THRUM_BAND && op != THRUM_BOR && op != THRUM_BXOR ? 1 : !is_float(dtype);
}

/* S. Vigna's splitmix64 finaliser (after D. Stafford, "Better bit mixing", 2011). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t hash(const struct perf_pattern *p, uint64_t rank, uint64_t index)
{
    return mix(mix(p->salt * 0x9e3779b97f4a7c15ull + rank + 1) + index * 0xd1342543de82ef95ull);
}

/* ---- numbers: integers as their bits (wrapping to the type's width at the end), floats and complex as doubles ---- */

struct number {
    uint64_t bits;
    double real, imaginary;
};

/*
 * Rounds to nearest even in a format with that many exponent and fraction bits. No value here is beyond the largest
 * finite one of an 8-bit format.
 */
static uint16_t encode_small(double value, int exponent_bits, int fraction_bits)
{
    int smallest = 2 - (1 << (exponent_bits - 1)), exponent;
    uint32_t sign = signbit(value) ? 1u << (exponent_bits + fraction_bits) : 0, bits,
             infinity = ((1u << exponent_bits) - 1) << fraction_bits;

    value = fabs(value);
    if (value == 0)
        return (uint16_t)sign;
    (void)frexp(value, &exponent);
    exponent = exponent - 1 < smallest ? smallest : exponent - 1;
    if (exponent > 1 - smallest)
        return (uint16_t)(sign | infinity);
    /* the hidden bit of a normal number adds one to the exponent field; a subnormal has neither */
    bits = ((uint32_t)(exponent - smallest) << fraction_bits) +
           (uint32_t)nearbyint(ldexp(value, fraction_bits - exponent));
    return (uint16_t)(sign | (bits > infinity ? infinity : bits));
}

static void encode(thrum_datatype_t dtype, struct number number, uint8_t *out)
{
    double parts[2] = {number.real, number.imaginary};
    float single[2] = {(float)number.real, (float)number.imaginary};
    uint16_t half;

    switch (dtype) {
    case THRUM_FLOAT8_E4M3:
        *out = (uint8_t)encode_small(number.real, 4, 3);
        break;
    case THRUM_FLOAT8_E5M2:
        *out = (uint8_t)encode_small(number.real, 5, 2);
        break;
    case THRUM_COMPLEX64:
        memcpy(out, single, sizeof single);
        break;
    case THRUM_COMPLEX128:
        memcpy(out, parts, sizeof parts);
        break;
    case THRUM_FLOAT16:
        half = encode_small(number.real, 5, 10);
        memcpy(out, &half, sizeof half);
        break;
    case THRUM_BFLOAT16:
        half = encode_small(number.real, 8, 7);
        memcpy(out, &half, sizeof half);
        break;
    case THRUM_FLOAT32:
        memcpy(out, single, sizeof *single);
        break;
    case THRUM_FLOAT64:
        memcpy(out, &number.real, sizeof number.real);
        break;
    default: /* little-endian integers: the low bytes */
        memcpy(out, &number.bits, thrum_datatype_size(dtype));
    }
}

static uint64_t type_mask(thrum_datatype_t dtype)
{
    size_t bytes = thrum_datatype_size(dtype);
    return bytes >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * bytes)) - 1;
}

static int64_t sign_extend(thrum_datatype_t dtype, uint64_t bits)
{
    int shift = 64 - 8 * (int)thrum_datatype_size(dtype);
    return (int64_t)(bits << shift) >> shift;
}

/* Up to where every integer is exact in the type. */
static uint64_t exact_limit(thrum_datatype_t dtype)
{
    switch (dtype) {
    case THRUM_FLOAT8_E4M3:
        return 1u << 4;
    case THRUM_FLOAT8_E5M2:
        return 1u << 3;
    case THRUM_COMPLEX64:
        return 1u << 24;
    case THRUM_COMPLEX128:
        return UINT64_C(1) << 53;
    case THRUM_BFLOAT16:
        return 1u << 8;
    case THRUM_FLOAT16:
        return 1u << 11;
    case THRUM_FLOAT32:
        return 1u << 24;
    case THRUM_FLOAT64:
        return UINT64_C(1) << 53;
    default:
        return (type_mask(dtype) >> is_signed(dtype)) & ((UINT64_C(1) << 53) - 1);
    }
}

/*
 * Whole numbers whose sum over all ranks is exact, so that the order of adding does not matter. With more ranks than
 * that allows, most are 0 and a few 1. The average of many integers would nearly always be the same: at every other
 * index all ranks give the same number, which falls short if one is missing.
 */
static uint64_t summand(const struct perf_pattern *p, uint64_t h, uint64_t common)
{
    uint64_t limit = exact_limit(p->dtype), n = (uint64_t)p->nranks, most = limit / n;

    if (most == 0)
        return h % (4 * n) < limit ? 1 : 0;
    if (p->op == THRUM_AVG && !is_float(p->dtype) && common >> 62 & 1)
        return 1 + (common >> 8) % most;
    return most > 1 ? 1 + h % most : h & 1;
}

/* The value that `rank` contributes at `index`. */
static struct number contribution(const struct perf_pattern *p, int rank, uint64_t index)
{
    uint64_t h = hash(p, (uint64_t)rank, index), common = hash(p, UINT64_MAX, index);
    uint64_t n = (uint64_t)p->nranks, chosen = common % n == (uint64_t)rank,
             scarce = common % (2 * n) == (uint64_t)rank;
    bool real = is_float(p->dtype) || is_complex(p->dtype);
    uint64_t factors = thrum_datatype_size(p->dtype) == 1 ? 6 : 12; /* that may not be 1 */
    struct number value = {.bits = h};
    uint64_t whole;

    switch (p->op) {
    case THRUM_SUM:
        if (!real) { /* wraps: anything but 0 */
            value.bits |= (h & type_mask(p->dtype)) == 0;
            return value;
        }
        /* fall through */
    case THRUM_AVG:
        whole = summand(p, h, common); /* the sign is that of the index, alike on all ranks */
        if (real)
            value.real = common >> 63 ? -(double)whole : (double)whole;
        else
            value.bits = is_signed(p->dtype) && common >> 63 ? 0 - whole : whole;
        if (is_complex(p->dtype))
            value.imaginary = (double)summand(p, mix(h), mix(common));
        return value;
    case THRUM_PROD:
        if (real) { /* powers of two from a few ranks, so that no order of multiplying overflows */
            uint64_t share = (n + factors - 1) / factors;
            bool active = (uint64_t)rank % share == common % share;
            value.real = (h & 1 ? -1.0 : 1.0) * (active ? h & 2 ? 2.0 : 0.5 : 1.0);
            if (is_complex(p->dtype) && h & 4) /* turned by a right angle */
                value = (struct number){.imaginary = value.real};
        } else { /* odd: no factor can be lost in zeros */
            value.bits |= (h & type_mask(p->dtype)) == 1 ? 3 : 1;
        }
        return value;
    case THRUM_MAX:
    case THRUM_MIN: /* at every index one rank decides, by a value in the outer half of the range */
        whole = exact_limit(p->dtype) / 2;
        whole = h % whole + (chosen ? whole : 0);
        if (real)
            value.real = p->op == THRUM_MIN ? -(double)whole : (double)whole;
        else if (is_signed(p->dtype))
            value.bits = p->op == THRUM_MIN ? 0 - whole : whole;
        else
            value.bits = p->op == THRUM_MIN ? exact_limit(p->dtype) - whole : whole;
        return value;
    case THRUM_BAND: /* each bit is cleared by about every other index's one rank */
        value.bits = scarce ? h : UINT64_MAX;
        return value;
    case THRUM_BOR:
        value.bits = scarce ? h : 0;
        return value;
    case THRUM_LAND:
    case THRUM_LOR: /* one rank decides at every other index */
        whole = (p->op == THRUM_LAND) != scarce ? 1 + h % 100 : 0;
        if (real)
            value.real = (double)whole;
        else
            value.bits = whole;
        return value;
    default: /* BXOR and data that is only moved */
        return value;
    }
}

/* How many ranks a reduction folds. */
static int folded(const struct perf_pattern *p)
{
    return p->folded ? p->folded : p->nranks;
}

static struct number reduce_real(const struct perf_pattern *p, uint64_t index)
{
    struct number result = contribution(p, 0, index), left;

    if (p->op == THRUM_LAND || p->op == THRUM_LOR)
        result.real = result.real != 0;
    for (int r = 1; r < folded(p); r++) {
        struct number value = contribution(p, r, index);

        switch (p->op) {
        case THRUM_PROD:
            left = result;
            result.real = left.real * value.real - left.imaginary * value.imaginary;
            result.imaginary = left.real * value.imaginary + left.imaginary * value.real;
            break;
        case THRUM_MAX:
            result.real = value.real > result.real ? value.real : result.real;
            break;
        case THRUM_MIN:
            result.real = value.real < result.real ? value.real : result.real;
            break;
        case THRUM_LAND:
            result.real = result.real != 0 && value.real != 0;
            break;
        case THRUM_LOR:
            result.real = result.real != 0 || value.real != 0;
            break;
        default:
            result.real += value.real;
            result.imaginary += value.imaginary;
        }
    }
    if (p->op == THRUM_AVG) {
        result.real /= folded(p);
        result.imaginary /= folded(p);
    }
    return result;
}

static bool less(thrum_datatype_t dtype, uint64_t a, uint64_t b)
{
    uint64_t mask = type_mask(dtype);
    return is_signed(dtype) ? sign_extend(dtype, a) < sign_extend(dtype, b)
                            : (a & mask) < (b & mask);
}

static uint64_t average(const struct perf_pattern *p, uint64_t sum)
{
    uint64_t n = (uint64_t)folded(p);
    return is_signed(p->dtype) ? (uint64_t)(sign_extend(p->dtype, sum) / (int64_t)n)
                               : (sum & type_mask(p->dtype)) / n;
}

static uint64_t reduce_bits(const struct perf_pattern *p, uint64_t index)
{
    uint64_t mask = type_mask(p->dtype), result = contribution(p, 0, index).bits;

    if (p->op == THRUM_LAND || p->op == THRUM_LOR)
        result = (result & mask) != 0;
    for (int r = 1; r < folded(p); r++) {
        uint64_t value = contribution(p, r, index).bits;

        switch (p->op) {
        case THRUM_PROD:
            result *= value;
            break;
        case THRUM_MAX:
            result = less(p->dtype, result, value) ? value : result;
            break;
        case THRUM_MIN:
            result = less(p->dtype, value, result) ? value : result;
            break;
        case THRUM_BAND:
            result &= value;
            break;
        case THRUM_BOR:
            result |= value;
            break;
        case THRUM_BXOR:
            result ^= value;
            break;
        case THRUM_LAND:
            result = result && (value & mask);
            break;
        case THRUM_LOR:
            result = result || (value & mask);
            break;
        default:
            result += value;
        }
    }
    return p->op == THRUM_AVG ? average(p, result) : result;
}

/* ---- tables ---- */

void perf_table_make(struct perf_table *table, const struct perf_pattern *pattern, int rank,
                     size_t count)
{
    size_t bytes = thrum_datatype_size(pattern->dtype);

    table->element_bytes = bytes;
    table->dtype = pattern->op == PERF_MOVE ? THRUM_UINT8 : pattern->dtype;
    table->n = count < PERF_PERIOD ? count : PERF_PERIOD;
    table->values = malloc(2 * table->n * bytes + 1);
    if (!table->values)
        perf_die(PERF_EXIT_FAILED, "out of host memory");
    for (size_t i = 0; i < table->n; i++) {
        struct number value;

        if (pattern->op == PERF_MOVE || rank != PERF_ALL_RANKS) {
            value = contribution(pattern, rank, i);
            if (pattern->op == PERF_MOVE) { /* bits, whatever the type */
                uint64_t bits[2] = {value.bits, mix(value.bits)};
                memcpy(table->values + i * bytes, bits, bytes);
                continue;
            }
        } else if (is_float(pattern->dtype) || is_complex(pattern->dtype)) {
            value = reduce_real(pattern, i);
        } else {
            value = (struct number){.bits = reduce_bits(pattern, i)};
        }
        encode(pattern->dtype, value, table->values + i * bytes);
    }
    memcpy(table->values + table->n * bytes, table->values, table->n * bytes);
}

void perf_table_free(struct perf_table *table)
{
    free(table->values);
    table->values = NULL;
}

void perf_table_copy(const struct perf_table *table, size_t first, size_t count, void *dst)
{
    uint8_t *out = dst;

    for (size_t done = 0; done < count;) {
        size_t n = count - done < table->n ? count - done : table->n;
        memcpy(out + done * table->element_bytes,
               table->values + (first + done) % table->n * table->element_bytes,
               n * table->element_bytes);
        done += n;
    }
}

/* Bit by bit; but the sign of a zero in a product of complex numbers depends on the order of multiplying. */
static bool is_wrong(const struct perf_table *table, const uint8_t *want, const uint8_t *have)
{
    double doubles[4];
    float floats[4];

    if (!memcmp(want, have, table->element_bytes))
        return false;
    memcpy(floats, want, is_complex(table->dtype) ? 8 : 0);
    memcpy(floats + 2, have, is_complex(table->dtype) ? 8 : 0);
    if (table->dtype == THRUM_COMPLEX64)
        return floats[0] != floats[2] || floats[1] != floats[3];
    if (table->dtype != THRUM_COMPLEX128)
        return true;
    memcpy(doubles, want, 16);
    memcpy(doubles + 2, have, 16);
    return doubles[0] != doubles[2] || doubles[1] != doubles[3];
}

size_t perf_table_wrong(const struct perf_table *table, size_t first, size_t count, const void *got)
{
    const uint8_t *in = got;
    size_t bytes = table->element_bytes, wrong = 0;

    for (size_t done = 0; done < count;) {
        size_t n = count - done < table->n ? count - done : table->n;
        const uint8_t *want = table->values + (first + done) % table->n * bytes,
                      *have = in + done * bytes;

        if (memcmp(want, have, n * bytes)) {
            for (size_t i = 0; i < n; i++)
                wrong += is_wrong(table, want + i * bytes, have + i * bytes);
        }
        done += n;
    }
    return wrong;
}
