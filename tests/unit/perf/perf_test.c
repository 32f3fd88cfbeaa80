/*
 * Tests of perf: that the data check of thrum-perf finds what it promises to find, for every type and reduction; that
 * its values are what the reductions' definitions give; statistics and sizes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "perf.h"
#include "perf_data.h"

enum { COUNT = 512, MAX_RANKS = 64 };

/* Of a small format with a sign and no more than 10 bits of fraction. */
static double small_value(unsigned bits, int exponent_bits, int fraction_bits)
{
    int exponent = (int)(bits >> fraction_bits) & ((1 << exponent_bits) - 1),
        fraction = (int)bits & ((1 << fraction_bits) - 1),
        one = (1 << (exponent_bits - 1)) - 1 + fraction_bits; /* where a unit of fraction is 1 */
    double value = exponent ? (double)((1 << fraction_bits) + fraction) : (double)fraction;

    for (int e = exponent ? exponent : 1; e < one; e++)
        value /= 2;
    for (int e = one; e < exponent; e++)
        value *= 2;
    return bits >> (exponent_bits + fraction_bits) & 1 ? -value : value;
}

static bool is_8_bit_float(thrum_datatype_t dtype)
{
    return dtype == THRUM_FLOAT8_E4M3 || dtype == THRUM_FLOAT8_E5M2;
}

static bool is_complex(thrum_datatype_t dtype)
{
    return dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
}

/* The value of an element as a number (no complex one); exact for all values of the tests but large 64-bit integers. */
static double value_of(thrum_datatype_t dtype, const void *element)
{
    union {
        int8_t i8;
        uint8_t u8;
        int16_t i16;
        uint16_t u16;
        int32_t i32;
        uint32_t u32;
        int64_t i64;
        uint64_t u64;
        float f32;
        double f64;
    } v = {.u64 = 0};
    uint32_t bits;

    memcpy(&v, element, thrum_datatype_size(dtype));
    switch (dtype) {
    case THRUM_INT8:
        return v.i8;
    case THRUM_UINT8:
        return v.u8;
    case THRUM_INT16:
        return v.i16;
    case THRUM_UINT16:
        return v.u16;
    case THRUM_INT32:
        return v.i32;
    case THRUM_UINT32:
        return v.u32;
    case THRUM_INT64:
        return (double)v.i64;
    case THRUM_UINT64:
        return (double)v.u64;
    case THRUM_FLOAT32:
        return v.f32;
    case THRUM_FLOAT64:
        return v.f64;
    case THRUM_BFLOAT16:
        bits = (uint32_t)v.u16 << 16;
        memcpy(&v.f32, &bits, sizeof bits);
        return v.f32;
    case THRUM_FLOAT8_E4M3:
        return small_value(v.u8, 4, 3);
    case THRUM_FLOAT8_E5M2:
        return small_value(v.u8, 5, 2);
    default:
        return small_value(v.u16, 5, 10); /* float16 */
    }
}

static void every_type_and_op(void (*test)(const struct perf_pattern *pattern))
{
    static const int ranks[] = {1, 2, 3, 7, MAX_RANKS};

    for (int d = 0; d < THRUM_DATATYPE_COUNT; d++) {
        for (int op = PERF_MOVE; op < THRUM_REDOP_COUNT; op++) {
            for (size_t n = 0; n < sizeof ranks / sizeof *ranks; n++) {
                struct perf_pattern pattern = {
                    .dtype = (thrum_datatype_t)d, .op = op, .nranks = ranks[n], .salt = 5};
                if (op == PERF_MOVE || perf_op_takes(op, pattern.dtype))
                    test(&pattern);
            }
        }
    }
}

static double fold(int op, double a, double b)
{
    switch (op) {
    case THRUM_PROD:
        return a * b;
    case THRUM_MAX:
        return a > b ? a : b;
    case THRUM_MIN:
        return a < b ? a : b;
    case THRUM_LAND:
        return a != 0 && b != 0;
    case THRUM_LOR:
        return a != 0 || b != 0;
    default:
        return a + b;
    }
}

/* What the table says of the reduction is what folding the tables of the ranks in doubles gives, where that is exact. */
static void check_reference(const struct perf_pattern *p)
{
    struct perf_table all, one[MAX_RANKS];
    bool real = p->dtype == THRUM_FLOAT16 || p->dtype == THRUM_BFLOAT16 ||
                p->dtype == THRUM_FLOAT32 || p->dtype == THRUM_FLOAT64 || is_8_bit_float(p->dtype);

    if (is_complex(p->dtype) || p->op == PERF_MOVE || p->op == THRUM_BAND || p->op == THRUM_BOR ||
        p->op == THRUM_BXOR ||
        (!real && (p->op == THRUM_SUM || p->op == THRUM_PROD))) /* these wrap */
        return;
    perf_table_make(&all, p, PERF_ALL_RANKS, COUNT);
    for (int r = 0; r < p->nranks; r++)
        perf_table_make(&one[r], p, r, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        size_t at = i * all.element_bytes;
        double want = value_of(p->dtype, one[0].values + at),
               got = value_of(p->dtype, all.values + at);

        want = p->op == THRUM_LAND || p->op == THRUM_LOR ? want != 0 : want;
        for (int r = 1; r < p->nranks; r++)
            want = fold(p->op, want, value_of(p->dtype, one[r].values + at));
        if (p->op == THRUM_AVG) {
            want = real ? want / p->nranks : (double)((int64_t)want / p->nranks);
            if (p->dtype == THRUM_FLOAT32)
                want = (float)want;
            else if (thrum_datatype_size(p->dtype) < 4 && real) { /* to within half a last place */
                double most = (got < 0 ? -got : got) / (is_8_bit_float(p->dtype) ? 7 : 200) + 1e-3;
                want = want - got < most && got - want < most ? got : want;
            }
        }
        if (want != got)
            fail_msg("%s %s on %d ranks, element %zu: %g, not %g", thrum_datatype_name(p->dtype),
                     thrum_redop_name((thrum_redop_t)p->op), p->nranks, i, got, want);
    }
    for (int r = 0; r < p->nranks; r++)
        perf_table_free(&one[r]);
    perf_table_free(&all);
}

static void reference_is_what_the_definition_gives(void **state)
{
    (void)state;
    every_type_and_op(check_reference);
}

/* Adds up wrapping 64-bit integers, to check the integer sums that the test above leaves out. */
static void sums_of_integers_wrap(void **state)
{
    struct perf_pattern p = {.dtype = THRUM_UINT64, .op = THRUM_SUM, .nranks = 5, .salt = 9};
    struct perf_table all, one;
    uint64_t sums[COUNT] = {0}, value;

    (void)state;
    for (int r = 0; r < p.nranks; r++) {
        perf_table_make(&one, &p, r, COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            memcpy(&value, one.values + i * sizeof value, sizeof value);
            sums[i] += value;
        }
        perf_table_free(&one);
    }
    perf_table_make(&all, &p, PERF_ALL_RANKS, COUNT);
    assert_int_equal(perf_table_wrong(&all, 0, COUNT, sums), 0);
    perf_table_free(&all);
}

/* Of complex numbers: both parts add up, products turn; the sign of a zero does not count. */
static void complex_numbers(void **state)
{
    struct perf_pattern p = {.dtype = THRUM_COMPLEX128, .nranks = 5, .salt = 4};

    (void)state;
    for (p.op = THRUM_SUM; p.op <= THRUM_PROD; p.op++) {
        struct perf_table all, one;
        double results[COUNT][2], v[2];

        for (int r = p.nranks - 1; r >= 0; r--) { /* in another order than the table's */
            perf_table_make(&one, &p, r, COUNT);
            for (size_t i = 0; i < COUNT; i++) {
                double a = results[i][0], b = results[i][1];
                memcpy(v, one.values + i * sizeof v, sizeof v);
                if (r == p.nranks - 1) {
                    memcpy(results[i], v, sizeof v);
                    continue;
                }
                results[i][0] = p.op == THRUM_SUM ? a + v[0] : a * v[0] - b * v[1];
                results[i][1] = p.op == THRUM_SUM ? b + v[1] : a * v[1] + b * v[0];
            }
            perf_table_free(&one);
        }
        perf_table_make(&all, &p, PERF_ALL_RANKS, COUNT);
        assert_int_equal(perf_table_wrong(&all, 0, COUNT, results), 0);
        results[7][1] += 0.5;
        results[9][0] *= 2;
        results[9][1] *= 2;
        assert_int_equal(perf_table_wrong(&all, 0, COUNT, results), 2);
        perf_table_free(&all);
    }
}

/* What scan gives: the first ranks' contributions only. */
static void prefixes(void **state)
{
    struct perf_pattern p = {
        .dtype = THRUM_UINT32, .op = THRUM_SUM, .nranks = 5, .folded = 3, .salt = 4};
    struct perf_table some, one;
    uint32_t sums[COUNT] = {0}, value;

    (void)state;
    for (int r = 0; r < p.folded; r++) {
        perf_table_make(&one, &p, r, COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            memcpy(&value, one.values + i * sizeof value, sizeof value);
            sums[i] += value;
        }
        perf_table_free(&one);
    }
    perf_table_make(&some, &p, PERF_ALL_RANKS, COUNT);
    assert_int_equal(perf_table_wrong(&some, 0, COUNT, sums), 0);
    perf_table_free(&some);
}

/* How many of the results change if one rank's contribution is left out: as if there were one rank less. */
static void check_missing(const struct perf_pattern *p)
{
    struct perf_table all, other;
    struct perf_pattern changed = *p;
    size_t differ;

    if (p->op == PERF_MOVE || p->nranks == 1)
        return;
    /* another salt changes what one and every rank gives: results of another call do not pass for this one's */
    changed.salt++;
    perf_table_make(&all, p, PERF_ALL_RANKS, COUNT);
    perf_table_make(&other, &changed, PERF_ALL_RANKS, COUNT);
    differ = perf_table_wrong(&all, 0, COUNT, other.values);
    if (differ < COUNT / 8)
        fail_msg("%s %s on %d ranks: only %zu of %d elements tell two calls apart",
                 thrum_datatype_name(p->dtype), thrum_redop_name((thrum_redop_t)p->op), p->nranks,
                 differ, COUNT);
    perf_table_free(&other);

    /* one contribution alone is not the result: a rank that got nothing from the others is seen */
    for (int r = 0; r < p->nranks; r++) {
        perf_table_make(&other, p, r, COUNT);
        differ = perf_table_wrong(&all, 0, COUNT, other.values);
        assert_true(differ > COUNT / 10);
        perf_table_free(&other);
    }

    /* elements of a neighbouring place are not those of this one */
    differ = perf_table_wrong(&all, 16, COUNT - 16, all.values);
    if (differ < COUNT / 8)
        fail_msg("%s %s on %d ranks: only %zu elements show a displacement",
                 thrum_datatype_name(p->dtype), thrum_redop_name((thrum_redop_t)p->op), p->nranks,
                 differ);
    perf_table_free(&all);
}

static void wrong_results_show(void **state)
{
    (void)state;
    every_type_and_op(check_missing);
}

/* A sum in which one contribution is lost or counted twice differs in every element. */
static void missing_and_doubled_summands_show_everywhere(void **state)
{
    struct perf_table all, one;

    (void)state;
    for (int d = 0; d < THRUM_DATATYPE_COUNT; d++) {
        struct perf_pattern p = {
            .dtype = (thrum_datatype_t)d, .op = THRUM_SUM, .nranks = 6, .salt = 3};
        static const uint8_t zero[16];

        if (is_8_bit_float(p.dtype))
            continue; /* too few values are exact */
        for (int r = 0; r < p.nranks; r++) {
            perf_table_make(&one, &p, r, COUNT);
            for (size_t i = 0; i < COUNT; i++)
                assert_memory_not_equal(one.values + i * one.element_bytes, zero,
                                        one.element_bytes);
            perf_table_free(&one);
        }
        perf_table_make(&all, &p, PERF_ALL_RANKS, COUNT);
        perf_table_free(&all);
    }
}

static void wrong_elements_are_counted_wherever_they_are(void **state)
{
    enum { MANY = 2 * PERF_PERIOD + 77 };
    struct perf_pattern p = {.dtype = THRUM_INT32, .op = PERF_MOVE, .nranks = 2, .salt = 1};
    struct perf_table table;
    int32_t *data = malloc(sizeof *data * MANY);

    (void)state;
    assert_non_null(data);
    perf_table_make(&table, &p, 1, MANY);
    perf_table_copy(&table, 1000, MANY, data);
    assert_int_equal(perf_table_wrong(&table, 1000, MANY, data), 0);
    data[0]++;
    data[PERF_PERIOD]--;
    data[MANY - 1] ^= 1 << 30;
    assert_int_equal(perf_table_wrong(&table, 1000, MANY, data), 3);
    assert_true(perf_table_wrong(&table, 1001, MANY, data) > MANY / 2);
    perf_table_free(&table);
    free(data);
}

static void halves_are_encoded_to_nearest_even(void **state)
{
    /* averages of 3 ranks are no halves: compare with the compiler's own rounding where it has the type */
#ifdef __FLT16_MAX__
    struct perf_pattern p = {.dtype = THRUM_FLOAT16, .op = THRUM_AVG, .nranks = 3, .salt = 2};
    struct perf_table all, one;
    double sums[COUNT] = {0};

    for (int r = 0; r < p.nranks; r++) {
        perf_table_make(&one, &p, r, COUNT);
        for (size_t i = 0; i < COUNT; i++)
            sums[i] += value_of(p.dtype, one.values + 2 * i);
        perf_table_free(&one);
    }
    perf_table_make(&all, &p, PERF_ALL_RANKS, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        _Float16 want = (_Float16)(sums[i] / 3);
        assert_memory_equal(&want, all.values + 2 * i, sizeof want);
    }
    perf_table_free(&all);
#endif
    (void)state;
}

static void statistics(void **state)
{
    double one[] = {5}, odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2}, many[200];
    struct perf_stats s;

    (void)state;
    s = perf_statistics(one, 1);
    assert_true(s.min == 5 && s.median == 5 && s.p99 == 5);
    s = perf_statistics(odd, 3);
    assert_true(s.min == 1 && s.median == 2 && s.p99 == 3);
    s = perf_statistics(even, 4);
    assert_true(s.min == 1 && s.median == 2.5 && s.p99 == 4);
    for (int i = 0; i < 200; i++)
        many[i] = 200 - i;
    s = perf_statistics(many, 200);
    assert_true(s.min == 1 && s.median == 100.5 && s.p99 == 198);
}

static void sizes(void **state)
{
    static const char *const bad[] = {"", "x", "-1", "1X", "1KK", "0.3", "1e30", "nan", "8 ", "K"};
    char text[24];
    uint64_t bytes;

    (void)state;
    assert_true(perf_parse_bytes("8", &bytes) && bytes == 8);
    assert_true(perf_parse_bytes("64K", &bytes) && bytes == 65536);
    assert_true(perf_parse_bytes("1.5M", &bytes) && bytes == 3 << 19);
    assert_true(perf_parse_bytes("2GiB", &bytes) && bytes == UINT64_C(2) << 30);
    assert_true(perf_parse_bytes("1t", &bytes) && bytes == UINT64_C(1) << 40);
    assert_true(perf_parse_bytes("0", &bytes) && bytes == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (perf_parse_bytes(bad[i], &bytes))
            fail_msg("\"%s\" is taken for a size", bad[i]);
    }
    assert_string_equal(perf_format_bytes(65536, text), "64K");
    assert_string_equal(perf_format_bytes(1000, text), "1000");
    assert_string_equal(perf_format_bytes(3 << 19, text), "1536K");
    assert_string_equal(perf_format_bytes(0, text), "0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_what_the_definition_gives),
        cmocka_unit_test(sums_of_integers_wrap),
        cmocka_unit_test(complex_numbers),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(wrong_results_show),
        cmocka_unit_test(missing_and_doubled_summands_show_everywhere),
        cmocka_unit_test(wrong_elements_are_counted_wherever_they_are),
        cmocka_unit_test(halves_are_encoded_to_nearest_even),
        cmocka_unit_test(statistics),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests_name("perf", tests, NULL, NULL);
}
