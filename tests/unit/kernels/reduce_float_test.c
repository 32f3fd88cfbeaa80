/*
 * The kernels of the REDUCE engine on floats: special values, rounding, and blocks of usual values, which vector kernels
 * compute in another way; 8-bit floats exhaustively.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "oracle.h"
#include "shapes.h"

/* Every pair of special values, both ways round: -0 and +0, NaN, infinities, subnormals. */
static void pairs_of_special_values(void **state)
{
    struct shape_buffers *b = *state;
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
            struct sim_reduce_args args = shape_args(&shape, b, srcs);

            if (oracle_is_bitwise(shape.op))
                continue;
            for (unsigned i = 0; i < 256; i++) {
                uint64_t x = shape_special(types[t], i / 16), y = shape_special(types[t], i % 16);
                memcpy(b->srcs[0] + i * size, &x, size);
                memcpy(b->srcs[1] + i * size, &y, size);
            }
            for (size_t i = 0; i < 256; i++)
                oracle_expect(types[t], shape.op, &args, i, b->expected + i * size);
            shape_run(&shape, b);
        }
    }
}

/* One NaN among numbers, at every place of a block: it is looked for in all of them at once. */
static void one_nan_in_a_block(void **state)
{
    struct shape_buffers *b = *state;

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++) {
        size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
        if (!oracle_is_float((thrum_datatype_t)dtype))
            continue;
        for (size_t place = 0; place < 512 / size; place++) {
            struct shape shape = {
                .dtype = (thrum_datatype_t)dtype, .op = THRUM_SUM, .nsrc = 2, .ndst = 1};
            const void *srcs[2];
            struct sim_reduce_args args;
            uint64_t nan = shape_special(shape.dtype, 5); /* negative, with a payload */

            shape.count = 512 / size;
            args = shape_args(&shape, b, srcs);
            memset(b->srcs[0], 0, 512);
            memset(b->srcs[1], 0, 512);
            memcpy(b->srcs[place % 2] + place * size, &nan, size);
            for (size_t i = 0; i < shape.count; i++)
                oracle_expect(shape.dtype, shape.op, &args, i, b->expected + i * size);
            shape_run(&shape, b);
        }
    }
}

/* Any number of the format; or, so that sums round in all ways, one near another, or a tiny one. */
static uint64_t usual_value(thrum_datatype_t dtype, unsigned kind)
{
    const struct oracle_format *format = oracle_format_of(dtype);
    uint64_t end = oracle_beyond(format), one = oracle_encode(format, 1),
             sign = oracle_random() & 1, bits;
    uint64_t spread = 4u << format->fraction_bits;

    if (kind == 0)
        bits = oracle_random() % end;
    else if (kind == 1)
        bits = one - spread / 2 + oracle_random() % spread;
    else
        bits = oracle_random() % spread;
    return sign << (format->bits_total - 1) | bits;
}

/* Whole blocks without NaN and infinities, which the vector kernels compute in another way; some with one. */
static void blocks_of_usual_values(void **state)
{
    static const thrum_datatype_t types[] = {THRUM_FLOAT16, THRUM_BFLOAT16, THRUM_FLOAT8_E4M3,
                                             THRUM_FLOAT8_E5M2};
    static const thrum_redop_t ops[] = {THRUM_SUM, THRUM_AVG, THRUM_PROD, THRUM_MIN, THRUM_MAX};
    static const uint64_t divisors[] = {2, 3, 64, 7, 65536, 641, 65537, 1ull << 17};
    struct shape_buffers *b = *state;

    for (unsigned turn = 0; turn < 4 * 5 * 3 * 64; turn++) {
        struct shape shape = {.dtype = types[turn % 4],
                              .op = ops[turn / 4 % 5],
                              .nsrc = 2 + (turn / 60 % 2 ? (int)(turn / 120 % 7) : 0),
                              .ndst = 1,
                              .count = 512 + turn % 7,
                              .divisor = divisors[turn / 60 % 8]};
        size_t size = thrum_datatype_size(shape.dtype);
        const void *srcs[MAX_SRC];
        struct sim_reduce_args args = shape_args(&shape, b, srcs);
        void *dsts[] = {b->expected};

        for (int s = 0; s < shape.nsrc; s++)
            for (size_t i = 0; i < shape.count; i++) {
                uint64_t bits = usual_value(shape.dtype, turn / 20 % 3);
                memcpy(b->srcs[s] + i * size, &bits, size);
            }
        if (turn % 8 == 7) {
            uint64_t bits = shape_special(shape.dtype, (unsigned)oracle_random() % 8);
            memcpy(b->srcs[0] + oracle_random() % shape.count * size, &bits, size);
        }
        args.dsts = dsts;
        sim_reduce_with(&sim_reduce_scalar_table, shape.dtype, shape.op, &args);
        shape_run(&shape, b);
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
        const struct oracle_format *format = oracle_format_of(types[t]);
        size_t size = thrum_datatype_size(types[t]), count = size == 1 ? 256 : 65536;
        const void *srcs[] = {in}, *wides[] = {wide};
        void *dsts[] = {out}, *wide_dsts[] = {wide};
        struct sim_reduce_args args = {
            .srcs = srcs, .dsts = dsts, .nsrc = 1, .ndst = 1, .count = count};

        for (uint64_t i = 0; i < count; i++)
            memcpy(in + i * size, &i, size);
        for (int v = -1; v < 0 || shape_variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : shape_variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            for (int by_float = 0; by_float < 2; by_float++) {
                struct sim_reduce_args there = args, back = args;
                if (by_float) {
                    there.dsts = wide_dsts;
                    there.wide_dst = true;
                    sim_reduce_with(table, types[t], THRUM_SUM, &there);
                    for (uint64_t i = 0; i < count; i++)
                        assert_true(isnan(oracle_decode(format, i))
                                        ? isnan(wide[i])
                                        : (double)wide[i] == oracle_decode(format, i) &&
                                              !signbit(wide[i]) ==
                                                  !signbit(oracle_decode(format, i)));
                    back.srcs = wides;
                    back.wide_src = true;
                }
                memset(out, GUARD, sizeof out);
                sim_reduce_with(table, types[t], THRUM_SUM, &back);
                for (uint64_t i = 0; i < count; i++) {
                    uint64_t got = 0, want = oracle_encode(format, oracle_decode(format, i));
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
        const struct oracle_format *format = oracle_format_of(types[t]);
        const void *srcs[] = {in};
        void *dsts[] = {out};
        size_t n = 0;

        for (uint64_t code = 0; code + 1 < oracle_beyond(format); code++) {
            double x = oracle_decode(format, code),
                   middle = (x + oracle_decode(format, code + 1)) / 2;
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
        for (int v = -1; v < 0 || shape_variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : shape_variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            sim_reduce_with(table, types[t], THRUM_SUM, &args);
            for (size_t i = 0; i < n; i++)
                assert_int_equal(out[i], oracle_encode(format, in[i]));
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
        for (int v = -1; v < 0 || shape_variants[v].name; v++) {
            const struct sim_kernel_table *table =
                v < 0 ? &sim_reduce_scalar_table : shape_variants[v].table;
            if (!sim_reduce_runs_here(table))
                continue;
            sim_reduce_with(table, dtype, ops[t / 2], &args);
            for (unsigned i = 0; i < 65536; i++) {
                uint8_t want;
                oracle_expect_float(dtype, ops[t / 2], &args, i, &want);
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
    struct shape_buffers *b = *state;

    for (int round = 0; round < 800; round++) {
        struct shape shape = {.dtype = types[round % 4],
                              .op = round & 4 ? THRUM_SUM : THRUM_PROD,
                              .nsrc = 2 + round / 8 % 2,
                              .ndst = 1,
                              .count = 64};
        shape_check(&shape, b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pairs_of_special_values, shape_make_buffers,
                                        shape_free_buffers),
        cmocka_unit_test_setup_teardown(blocks_of_usual_values, shape_make_buffers,
                                        shape_free_buffers),
        cmocka_unit_test_setup_teardown(one_nan_in_a_block, shape_make_buffers, shape_free_buffers),
        cmocka_unit_test(narrow_floats_round_trip),
        cmocka_unit_test(every_halfway_point_of_float8),
        cmocka_unit_test(every_pair_of_float8),
        cmocka_unit_test_setup_teardown(narrow_floats_round_to_nearest_even, shape_make_buffers,
                                        shape_free_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
