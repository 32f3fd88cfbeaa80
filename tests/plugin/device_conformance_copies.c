/* The conformance suite of device plugins: copies and fills of every length, folds of every type and operation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "device_conformance.h"
#include "device_side.h"

/* ---- copies ---------------------------------------------------------------------------------- */

static uint8_t pattern_byte(uint64_t seed, size_t i)
{
    return (uint8_t)((i * 131 + i / 255 + seed * 29) ^ seed >> 3);
}

/* `bytes` of a pattern at address + shift, zeros around it. */
static void expect_pattern(const struct side *side, uint64_t address, size_t shift, size_t bytes,
                           uint64_t seed)
{
    static char host[SIDE_BYTES / 2];

    side_read(side, address, host, shift + bytes + 64);
    for (size_t i = 0; i < shift + bytes + 64; i++)
        side_expect((uint8_t)host[i] ==
                        (i < shift || i >= shift + bytes ? 0 : pattern_byte(seed, i - shift)),
                    "what was copied, and nothing beside it");
}

static void lengths_body(struct side *side)
{
    static const size_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 4095, 4096, 4097, 70001};
    static char host[SIDE_BYTES];

    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (char)pattern_byte(5, i);
    side_write(side, side->a, host, sizeof host / 2);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t shift = 0; shift < 3; shift++) {
            uint64_t half = SIDE_BYTES / 2;
            struct thrum_operand operands[] = {
                {.base = side->b + 64 + shift}, {.base = side->b + half + 64}, {.base = side->a}};

            side_do(side, side->queue,
                    &(struct thrum_command){.opcode = THRUM_CMD_COPY,
                                            .ndst = 2,
                                            .nsrc = 1,
                                            .bytes = lengths[i],
                                            .operands = operands});
            expect_pattern(side, side->b, 64 + shift, lengths[i], 5);
            expect_pattern(side, side->b + half, 64, lengths[i], 5);
            side_do(side, side->queue,
                    &(struct thrum_command){.opcode = THRUM_CMD_FILL,
                                            .ndst = 2,
                                            .bytes = lengths[i],
                                            .operands = operands});
            expect_pattern(side, side->b, 0, 0, 0);
        }
    side_expect(side_is_zero(side, side->b, SIDE_BYTES), "fills cover what was copied");
}

void copies_and_fills_of_every_length(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, lengths_body));
}

/* ---- folds ----------------------------------------------------------------------------------- */

/* One and two, as each type has them; 0 is zero in all. */
struct numbers {
    uint64_t one, two;
};
static const struct numbers numbers[THRUM_DATATYPE_COUNT] = {
    [THRUM_INT8] = {1, 2},
    [THRUM_UINT8] = {1, 2},
    [THRUM_INT16] = {1, 2},
    [THRUM_UINT16] = {1, 2},
    [THRUM_INT32] = {1, 2},
    [THRUM_UINT32] = {1, 2},
    [THRUM_INT64] = {1, 2},
    [THRUM_UINT64] = {1, 2},
    [THRUM_FLOAT16] = {0x3c00, 0x4000},
    [THRUM_BFLOAT16] = {0x3f80, 0x4000},
    [THRUM_FLOAT32] = {0x3f800000, 0x40000000},
    [THRUM_FLOAT64] = {0x3ff0000000000000, 0x4000000000000000},
    [THRUM_FLOAT8_E4M3] = {0x38, 0x40},
    [THRUM_FLOAT8_E5M2] = {0x3c, 0x40},
    [THRUM_COMPLEX64] = {0x3f800000, 0x40000000}, /* real parts; the others are 0 */
    [THRUM_COMPLEX128] = {0x3ff0000000000000, 0x4000000000000000},
};

#define FOLDED 331 /* elements */
#define SOURCE_BYTES 8192

/* Fills source s with one element value. */
static void write_source(const struct side *side, unsigned s, int dtype, uint64_t value)
{
    size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
    static char host[SOURCE_BYTES];

    memset(host, 0, sizeof host);
    for (size_t i = 0; i < FOLDED; i++)
        memcpy(host + i * size, &value, min_u64(size, sizeof value));
    side_write(side, side->a + s * SOURCE_BYTES, host, sizeof host);
}

static void expect_elements(const struct side *side, uint64_t address, int dtype, uint64_t value,
                            const char *what)
{
    size_t size = thrum_datatype_size((thrum_datatype_t)dtype);
    static char host[SOURCE_BYTES];

    side_read(side, address, host, sizeof host);
    for (size_t i = 0; i < FOLDED; i++) {
        uint64_t element = 0;

        memcpy(&element, host + i * size, min_u64(size, sizeof element));
        if (element != value)
            fprintf(stderr, "type %s: element %zu is 0x%llx, not 0x%llx: ",
                    thrum_datatype_name((thrum_datatype_t)dtype), i, (unsigned long long)element,
                    (unsigned long long)value);
        side_expect(element == value, what);
    }
    for (size_t i = FOLDED * size; i < sizeof host; i++)
        side_expect(!host[i], "nothing behind the last element");
}

/* Folds `n` sources of the value, the first also a destination. */
static void fold(const struct side *side, int dtype, int redop, unsigned n)
{
    struct thrum_operand operands[2 + 8] = {{.base = side->b}, {.base = side->a}};

    for (unsigned s = 0; s < n; s++)
        operands[2 + s].base = side->a + s * SOURCE_BYTES;
    side_do(side, side->queue,
            &(struct thrum_command){.opcode = THRUM_CMD_REDUCE,
                                    .dtype = (uint8_t)dtype,
                                    .redop = (uint8_t)redop,
                                    .ndst = 2,
                                    .nsrc = (uint16_t)n,
                                    .bytes = FOLDED * thrum_datatype_size((thrum_datatype_t)dtype),
                                    .divisor = redop == THRUM_AVG ? n : 0,
                                    .operands = operands});
}

static uint64_t expected(int dtype, int redop, unsigned n)
{
    const struct numbers *known = &numbers[dtype];

    switch (redop) {
    case THRUM_SUM:
        return known->two; /* of one, one and zeros */
    case THRUM_MIN:
    case THRUM_BAND:
    case THRUM_LAND:
    case THRUM_PROD:
        return n > 2 ? 0 : known->one;
    case THRUM_BXOR:
        return 0;
    case THRUM_MAX:
    case THRUM_BOR:
    case THRUM_LOR:
        return known->one;
    default:
        return known->one; /* AVG, of ones */
    }
}

static bool is_defined(int dtype, int redop)
{
    bool complex = dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
    bool integer = numbers[dtype].one == 1;

    if (complex)
        return redop == THRUM_SUM || redop == THRUM_PROD || redop == THRUM_AVG;
    return integer || (redop != THRUM_BAND && redop != THRUM_BOR && redop != THRUM_BXOR);
}

static void reduce_body(struct side *side)
{
    unsigned most = (unsigned)min_u64(side->about.max_reduce_sources, 8);

    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++)
        for (int redop = 0; redop < THRUM_REDOP_COUNT; redop++) {
            if (!(side->about.reduce_types >> dtype & 1) ||
                !(side->about.reduce_ops >> redop & 1) || !is_defined(dtype, redop))
                continue;
            for (unsigned n = 2; n <= most; n++) {
                for (unsigned s = 0; s < n; s++)
                    write_source(side, s, dtype,
                                 s < 2 || redop == THRUM_AVG ? numbers[dtype].one : 0);
                side_write(side, side->b, (char[SOURCE_BYTES]){0}, SOURCE_BYTES);
                fold(side, dtype, redop, n);
                expect_elements(side, side->b, dtype, expected(dtype, redop, n),
                                thrum_redop_name((thrum_redop_t)redop));
                expect_elements(side, side->a, dtype, expected(dtype, redop, n), "in place");
            }
        }
}

void reductions_of_every_type_and_operation(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, reduce_body));
}
