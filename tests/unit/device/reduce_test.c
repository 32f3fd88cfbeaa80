/* REDUCE by hand on one sim device: partial results of small floats, scalars, functions of the host. */
#include <pthread.h>
#include <stdlib.h>

#include "device_test.h"

static thrum_queue_t queue_of_mode(struct fixture *f, int mode)
{
    thrum_queue_t queue;
    assert_ok(
        thrum_queue_create(f->device, mode ? THRUM_QUEUE_DIRECT : THRUM_QUEUE_DEFAULT, &queue));
    return queue;
}

static void test_capabilities(void **state)
{
    struct fixture *f = of(state);
    struct thrum_device_properties p = {.size = sizeof p};

    assert_ok(thrum_device_get_properties(f->device, &p));
    assert_true(p.capabilities & THRUM_CAP_REDUCE_CALLBACK);
    assert_true(p.capabilities & THRUM_CAP_SCALE);
    assert_true(p.capabilities & THRUM_CAP_WIDE);
    assert_int_equal(p.reduce_types, (1ull << THRUM_DATATYPE_COUNT) - 1);
    assert_string_equal(thrum_datatype_name(THRUM_FLOAT8_E4M3), "float8_e4m3");
    assert_int_equal(thrum_datatype_size(THRUM_FLOAT8_E5M2), 1);
    assert_string_equal(thrum_datatype_name(THRUM_COMPLEX128), "complex128");
    assert_int_equal(thrum_datatype_size(THRUM_COMPLEX128), 16);
}

/* A chain of partial sums of bfloat16: 256 + 1 + 1 + 1, which would stay 256 if each were rounded. */
static void test_wide_partial_results(void **state)
{
    enum { COUNT = 8000 };
    struct fixture *f = of(state);
    static uint16_t large[COUNT], one[COUNT], out[COUNT];
    uint64_t wide = at(f->b), narrow = at(f->a) + 2 * COUNT, ones = at(f->a);
    struct thrum_operand first[] = {{.base = wide}, {.base = narrow}, {.base = ones}},
                         more[] = {{.base = wide}, {.base = wide}, {.base = ones}},
                         last[] = {{.base = narrow}, {.base = wide}, {.base = ones}};
    struct thrum_command chain[3];

    for (int i = 0; i < COUNT; i++) {
        large[i] = 0x4380; /* 256 */
        one[i] = 0x3f80;
    }
    for (int i = 0; i < 3; i++)
        chain[i] = (struct thrum_command){.opcode = THRUM_CMD_REDUCE,
                                          .dtype = THRUM_BFLOAT16,
                                          .redop = THRUM_SUM,
                                          .flags = i == 0   ? THRUM_CMD_FLAG_WIDE_DST
                                                   : i == 1 ? THRUM_CMD_FLAG_WIDE_DST |
                                                                  THRUM_CMD_FLAG_WIDE_FIRST
                                                            : THRUM_CMD_FLAG_WIDE_FIRST,
                                          .ndst = 1,
                                          .nsrc = 2,
                                          .bytes = sizeof large,
                                          .operands = i == 0   ? first
                                                      : i == 1 ? more
                                                               : last};
    for (int mode = 0; mode < 2; mode++) {
        thrum_queue_t queue = queue_of_mode(f, mode);
        assert_ok(thrum_copy_to_device(queue, f->a, one, sizeof one));
        assert_ok(thrum_copy_to_device(queue, f->a + 2 * COUNT, large, sizeof large));
        assert_ok(thrum_queue_submit(queue, chain, 3, NULL));
        assert_ok(thrum_copy_to_host(queue, out, f->a + 2 * COUNT, sizeof out));
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(out[i], 0x4382); /* 259, tied between 258 and 260, to even */
        thrum_queue_destroy(queue);
    }
}

/* The MMU and the check for overlap see wide operands at their full length. */
static void test_wide_lengths(void **state)
{
    struct fixture *f = of(state);
    uint64_t end = at(f->b) + FIXTURE_BYTES;
    static const struct {
        uint8_t flags;
        uint64_t dst, src, bytes; /* offsets before the end of b */
        thrum_status_t status;
        bool src_faults;
    } rows[] = {
        {THRUM_CMD_FLAG_WIDE_DST, 64, 1024, 32, THRUM_OK, false},
        {THRUM_CMD_FLAG_WIDE_DST, 64, 1024, 34, THRUM_ERR_FAULT, false},
        {THRUM_CMD_FLAG_WIDE_SRC, 1024, 64, 34, THRUM_ERR_FAULT, true},
        {THRUM_CMD_FLAG_WIDE_FIRST, 1024, 64, 34, THRUM_ERR_FAULT, true},
        {0, 1024, 64, 34, THRUM_OK, false},
        {THRUM_CMD_FLAG_WIDE_DST, 1024, 1024, 32, THRUM_ERR_BAD_PACKET, false},
        {THRUM_CMD_FLAG_WIDE_SRC, 1024, 1024, 32, THRUM_ERR_BAD_PACKET, false},
        {THRUM_CMD_FLAG_WIDE_DST, 1024, 1024 - 48, 32, THRUM_ERR_BAD_PACKET, false},
        {THRUM_CMD_FLAG_WIDE_DST, 1024, 1024 - 64, 32, THRUM_OK, false},
        {THRUM_CMD_FLAG_WIDE_DST | THRUM_CMD_FLAG_WIDE_SRC, 1024, 1024, 32, THRUM_OK, false},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        thrum_queue_t queue = queue_of_mode(f, (int)i % 2);
        struct thrum_operand operands[] = {{.base = end - rows[i].dst},
                                           {.base = end - rows[i].src}};
        struct thrum_command command = {.opcode = THRUM_CMD_REDUCE,
                                        .dtype = THRUM_FLOAT16,
                                        .flags = rows[i].flags,
                                        .ndst = 1,
                                        .nsrc = 1,
                                        .bytes = rows[i].bytes,
                                        .operands = operands};

        assert_ok(thrum_queue_submit(queue, &command, 1, NULL));
        if (rows[i].status == THRUM_ERR_FAULT)
            expect_fault(f, queue, THRUM_RAS_PAGE_FAULT, THRUM_ERR_FAULT,
                         operands[rows[i].src_faults].base);
        else if (rows[i].status)
            expect_fault(f, queue, THRUM_RAS_BAD_PACKET, THRUM_ERR_BAD_PACKET, 0);
        else
            assert_ok(finish(queue));
        thrum_queue_destroy(queue);
    }
}

static void test_scale(void **state)
{
    enum { COUNT = 4001 };
    struct fixture *f = of(state);
    static double x[2 * COUNT], y[2 * COUNT];
    double scalar[2] = {2, -1};
    struct thrum_operand operands[] = {{.base = at(f->a)}, {.base = at(f->a)}, {.base = at(f->b)}};
    struct thrum_command command = {.opcode = THRUM_CMD_SCALE,
                                    .dtype = THRUM_COMPLEX128,
                                    .ndst = 1,
                                    .nsrc = 1,
                                    .bytes = 16ull * COUNT,
                                    .operands = operands,
                                    .payload = scalar};

    for (int i = 0; i < 2 * COUNT; i++)
        x[i] = i % 100;
    for (int mode = 0; mode < 4; mode++) { /* scalar in the packet and in memory */
        thrum_queue_t queue = queue_of_mode(f, mode % 2);
        assert_ok(thrum_copy_to_device(queue, f->a, x, sizeof x));
        assert_ok(thrum_copy_to_device(queue, f->b, scalar, sizeof scalar));
        command.nsrc = mode < 2 ? 1 : 2;
        command.payload = mode < 2 ? scalar : NULL;
        assert_ok(thrum_queue_submit(queue, &command, 1, NULL));
        assert_ok(thrum_copy_to_host(queue, y, f->a, sizeof y));
        for (int i = 0; i < COUNT; i++) {
            double a = x[2 * i], b = x[2 * i + 1];
            assert_true(y[2 * i] == 2 * a + b && y[2 * i + 1] == 2 * b - a);
        }
        thrum_queue_destroy(queue);
    }
}

/* A scalar that a destination would overwrite, or that is not there. */
static void test_scale_refused(void **state)
{
    struct fixture *f = of(state);
    struct thrum_operand operands[] = {
        {.base = at(f->a)}, {.base = at(f->a)}, {.base = at(f->a) + 60}};
    struct thrum_command command = {.opcode = THRUM_CMD_SCALE,
                                    .dtype = THRUM_INT32,
                                    .ndst = 1,
                                    .nsrc = 2,
                                    .bytes = 64,
                                    .operands = operands};

    for (int mode = 0; mode < 4; mode++) {
        thrum_queue_t queue = queue_of_mode(f, mode % 2);
        operands[2].base = mode < 2 ? at(f->a) + 60 : at(f->b) + FIXTURE_BYTES - 3;
        assert_ok(thrum_queue_submit(queue, &command, 1, NULL));
        if (mode < 2)
            expect_fault(f, queue, THRUM_RAS_BAD_PACKET, THRUM_ERR_BAD_PACKET, 0);
        else
            expect_fault(f, queue, THRUM_RAS_PAGE_FAULT, THRUM_ERR_FAULT, operands[2].base);
        thrum_queue_destroy(queue);
    }
}

struct folds {
    size_t elements, fails_after;
};

/* 2 * left + right: the order of the sources shows. */
static thrum_status_t fold(const void *left, const void *right, void *result, size_t count,
                           thrum_datatype_t dtype, void *context)
{
    struct folds *folds = context;

    assert_int_equal(dtype, THRUM_UINT32);
    folds->elements += count;
    if (folds->fails_after && folds->elements > folds->fails_after)
        return THRUM_ERR_MISMATCH;
    for (size_t i = 0; i < count; i++)
        ((uint32_t *)result)[i] = 2 * ((const uint32_t *)left)[i] + ((const uint32_t *)right)[i];
    return THRUM_OK;
}

/* More than a piece, three sources, two destinations, of which one is the last source. */
static void test_reduce_by_callback(void **state)
{
    enum { COUNT = 300001 };
    struct fixture *f = of(state);
    size_t bytes = COUNT * sizeof(uint32_t);
    uint32_t *host = malloc(bytes);
    char *memory[4];
    struct thrum_operand operands[5] = {0};
    struct folds folds = {0};
    struct thrum_command command = {.opcode = THRUM_CMD_REDUCE,
                                    .dtype = THRUM_UINT32,
                                    .redop = THRUM_REDOP_CALLBACK,
                                    .ndst = 2,
                                    .nsrc = 3,
                                    .bytes = bytes,
                                    .operands = operands,
                                    .reduce = fold,
                                    .reduce_context = &folds};

    for (int m = 0; m < 4; m++)
        assert_ok(thrum_mem_alloc(f->device, bytes, (void **)&memory[m]));
    operands[0] = operands[4] = (struct thrum_operand){.base = at(memory[2])};
    operands[1].base = at(memory[3]);
    operands[2].base = at(memory[0]);
    operands[3].base = at(memory[1]);
    for (int mode = 0; mode < 2; mode++) {
        thrum_queue_t queue = queue_of_mode(f, mode);
        for (uint32_t m = 0; m < 3; m++) {
            for (uint32_t i = 0; i < COUNT; i++)
                host[i] = i * (m + 1);
            assert_ok(thrum_copy_to_device(queue, memory[m], host, bytes));
        }
        folds = (struct folds){0};
        assert_ok(thrum_queue_submit(queue, &command, 1, NULL));
        for (int m = 2; m < 4; m++) {
            assert_ok(thrum_copy_to_host(queue, host, memory[m], bytes));
            for (uint32_t i = 0; i < COUNT; i++)
                assert_int_equal(host[i], 2 * (2 * i + 2 * i) + 3 * i);
        }
        assert_int_equal(folds.elements, 2 * COUNT);
        /* an error half way ends this submission, and no other: what follows starts at its beginning */
        folds = (struct folds){.fails_after = COUNT};
        assert_ok(thrum_queue_submit(queue, &command, 1, NULL));
        assert_ok(thrum_fill(queue, memory[3], 0x11, bytes));
        assert_status(finish(queue), THRUM_ERR_MISMATCH);
        assert_ok(thrum_copy_to_host(queue, host, memory[3], bytes));
        for (uint32_t i = 0; i < COUNT; i++)
            assert_int_equal(host[i], 0x11111111);
        thrum_queue_destroy(queue);
    }
    for (int m = 0; m < 4; m++)
        assert_ok(thrum_mem_free(f->device, memory[m]));
    free(host);
}

static thrum_status_t note_thread(const void *left, const void *right, void *result, size_t count,
                                  thrum_datatype_t dtype, void *context)
{
    (void)left, (void)right, (void)result, (void)count, (void)dtype;
    *(pthread_t *)context = pthread_self();
    return THRUM_OK;
}

/* Poll never blocks, and a reduction of the caller's may. */
static void test_poll_leaves_callbacks(void **state)
{
    struct fixture *f = of(state);
    struct thrum_operand operands[] = {{.base = at(f->a)}, {.base = at(f->a)}, {.base = at(f->b)}};
    pthread_t by;
    struct thrum_command command = {.opcode = THRUM_CMD_REDUCE,
                                    .dtype = THRUM_UINT32,
                                    .redop = THRUM_REDOP_CALLBACK,
                                    .ndst = 1,
                                    .nsrc = 2,
                                    .bytes = 64,
                                    .operands = operands,
                                    .reduce = note_thread,
                                    .reduce_context = &by};
    void *gate;
    thrum_queue_t other;

    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &other));
    assert_ok(thrum_mem_alloc(f->device, 8, &gate));
    for (uint64_t i = 1; i <= 20; i++) {
        (void)submit_wait(f->queue, at(gate), i);
        assert_ok(thrum_queue_submit(f->queue, &command, 1, NULL));
        assert_ok(submit_signal(other, at(gate), i, THRUM_CMD_FLAG_SET));
        while (thrum_queue_query(f->queue) == THRUM_IN_PROGRESS)
            ;
        assert_false(pthread_equal(by, pthread_self()));
    }
    thrum_queue_destroy(other);
    assert_ok(thrum_mem_free(f->device, gate));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(test_capabilities),          DEVICE_TEST(test_wide_partial_results),
        DEVICE_TEST(test_wide_lengths),          DEVICE_TEST(test_scale),
        DEVICE_TEST(test_scale_refused),         DEVICE_TEST(test_reduce_by_callback),
        DEVICE_TEST(test_poll_leaves_callbacks),
    };

    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    return cmocka_run_group_tests_name("reductions of a device", tests, NULL, NULL);
}
