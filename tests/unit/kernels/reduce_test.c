/*
 * The kernels of the REDUCE engine: the scalar ones against the oracle, the vector ones against the scalar ones bit by bit,
 * for every type, operation, number of sources and destinations, alignment and aliasing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cmocka.h>

#include "oracle.h"
#include "shapes.h"

static void every_shape(struct shape_buffers *b, thrum_datatype_t dtype, thrum_redop_t op)
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
                shape_check(&shape, b);
            }
        }
    }
}

static bool is_defined(thrum_datatype_t dtype, thrum_redop_t op)
{
    if (oracle_is_complex(dtype))
        return op == THRUM_SUM || op == THRUM_PROD || op == THRUM_AVG;
    return !(oracle_is_float(dtype) && oracle_is_bitwise(op));
}

static void every_type_and_operation(void **state)
{
    struct shape_buffers *b = *state;

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
                    shape.aliased =
                        turn % 2 && (!oracle_is_narrow(shape.dtype) || last == shape.wide_dst);
                    shape_check(&shape, *state);
                }
            }
        }
    }
}

static void scaled(void **state)
{
    static const size_t counts[] = {0, 1, 3, 17, 131, MAX_COUNT};
    struct shape_buffers *b = *state;
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
            struct sim_reduce_args args = shape_args(&shape, b, srcs);

            /* as the product with a second source that is the scalar everywhere */
            shape_fill(shape.dtype, (char *)(uintptr_t)srcs[0], shape.count);
            shape_fill(shape.dtype, (char *)(uintptr_t)srcs[1], 1);
            for (size_t i = 1; i < shape.count; i++)
                memcpy((char *)(uintptr_t)srcs[1] + i * size, srcs[1], size);
            for (size_t i = 0; i < shape.count; i++)
                oracle_expect(shape.dtype, THRUM_PROD, &args, i, b->expected + i * size);
            for (int v = -1; v < 0 || shape_variants[v].name; v++) {
                const struct sim_kernel_table *table =
                    v < 0 ? &sim_reduce_scalar_table : shape_variants[v].table;
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
                    shape_expect_bytes(v < 0 ? "scalar" : shape_variants[v].name, &shape, dsts[d],
                                       b->expected, shape.count * size);
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
                src[s][i] = (uint32_t)oracle_random();
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
                                  .op = turn & 1                                     ? THRUM_SUM
                                        : oracle_is_complex((thrum_datatype_t)dtype) ? THRUM_PROD
                                                                                     : THRUM_MAX,
                                  .nsrc = 1 + (int)(turn % 5),
                                  .ndst = 1 + (int)(turn % 3),
                                  .count = MAX_COUNT * 8 / size - turn,
                                  .stream = true,
                                  .aliased = turn % 4 == 3,
                                  .skew = turn % 3 == 1   ? size
                                          : turn % 3 == 2 ? 1
                                                          : 0};
            shape_check(&shape, *state);
        }
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
           wide_size = thrum_datatype_size(oracle_stored_as(dtype, true));
    const void *srcs[] = {before_guard_page(pages[0], count * (wide ? wide_size : size)),
                          before_guard_page(pages[1], count * size)};
    void *dsts[] = {before_guard_page(pages[2], count * size)};
    struct sim_reduce_args args = {
        .srcs = srcs, .dsts = dsts, .nsrc = 2, .ndst = 1, .count = count, .wide_first = wide};

    for (const struct shape_variant *v = shape_variants; v->name; v++)
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
    value = oracle_read_int(dtype, &x) / (__int128)n;
    want = (uint64_t)value & mask;
    for (size_t at = 0; at < 64; at += bits)
        packed |= x << at;
    for (const struct shape_variant *v = shape_variants; v->name; v++)
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
        uint64_t n = oracle_random() >> (oracle_random() % 64), x;
        if (round % 8 == 0)
            n = 1ull << (round / 8 % 64);
        n = n < 2 ? 2 : n;
        x = oracle_random() / n * n - (uint64_t)(round % 3) + 1;
        check_division(types[round % 8], x, n);
        check_division(types[round / 8 % 8], oracle_random() % n, n);
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
        cmocka_unit_test_setup_teardown(every_type_and_operation, shape_make_buffers,
                                        shape_free_buffers),
        cmocka_unit_test_setup_teardown(streamed_stores, shape_make_buffers, shape_free_buffers),
        cmocka_unit_test_setup_teardown(wide_operands, shape_make_buffers, shape_free_buffers),
        cmocka_unit_test_setup_teardown(scaled, shape_make_buffers, shape_free_buffers),
        cmocka_unit_test(folded_by_a_callback),
#if defined(__x86_64__)
        cmocka_unit_test(arithmetic_of_the_caller_does_not_matter),
#endif
        cmocka_unit_test(nothing_beyond_the_ends_is_touched),
        cmocka_unit_test(averages_of_integers_divide_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
