/* Command streams by hand on one sim device: memory, engines, semaphores, lines, faults, events, handles. */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <dirent.h>

#include "base/config.h"
#include "device_test.h"

static struct fixture *of(void **state)
{
    return *state;
}

/* ---- memory and engines ---------------------------------------------------------------------------------------- */

static void test_copy_fill_reduce(void **state)
{
    struct fixture *f = of(state);
    float x[1000], y[1000], sum[1000];
    const void *srcs[2] = {f->a, f->b};
    char bytes[16];

    for (int i = 0; i < 1000; i++) {
        x[i] = (float)i;
        y[i] = (float)(2 * i + 1);
    }
    assert_ok(thrum_copy_to_device(f->queue, f->a, x, sizeof x));
    assert_ok(thrum_copy_to_device(f->queue, f->b, y, sizeof y));
    assert_ok(thrum_queue_reduce(f->queue, f->b, srcs, 2, 1000, THRUM_FLOAT32, THRUM_SUM));
    assert_ok(thrum_copy_to_host(f->queue, sum, f->b, sizeof sum));
    for (int i = 0; i < 1000; i++)
        assert_true(sum[i] == (float)(3 * i + 1));
    assert_ok(thrum_fill(f->queue, f->a + 3, 0x5a, 7));
    assert_ok(thrum_fill(f->queue, f->a, 0, 0));
    assert_ok(thrum_copy_to_host(f->queue, bytes, f->a, sizeof bytes));
    assert_memory_equal(bytes + 3, "ZZZZZZZ", 7);
    assert_true(bytes[10] != 'Z');
}

/* ---- partial results, scalars, functions of the host ------------------------------------------------------------- */

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

static void expect_fault(struct fixture *f, thrum_queue_t queue, enum thrum_ras_kind kind,
                         thrum_status_t status, uint64_t address);

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

static void test_large_work(void **state)
{
    struct fixture *f = of(state);
    size_t bytes = (9u << 20) + 12;
    unsigned char *host = malloc(bytes), *back = malloc(bytes);
    char *big, *other;
    const void *srcs[2];

    for (size_t i = 0; i < bytes; i++)
        host[i] = (unsigned char)(i * 7 + i / 4096);
    assert_ok(thrum_mem_alloc(f->device, bytes, (void **)&big));
    assert_ok(thrum_mem_alloc(f->device, bytes, (void **)&other));
    assert_ok(thrum_copy_to_device(f->queue, big, host, bytes));
    assert_ok(thrum_copy(f->queue, other, big, bytes));
    srcs[0] = big, srcs[1] = other;
    assert_ok(thrum_queue_reduce(f->queue, other, srcs, 2, bytes, THRUM_UINT8, THRUM_SUM));
    assert_ok(thrum_copy_to_host(f->queue, back, other, bytes));
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(back[i], (unsigned char)(host[i] * 2));
    assert_ok(thrum_copy(f->queue, big + 4, big, bytes - 4)); /* overlapping: as memmove */
    assert_ok(thrum_copy_to_host(f->queue, back, big, bytes));
    assert_memory_equal(back + 4, host, bytes - 4);
    assert_ok(thrum_mem_free(f->device, big));
    assert_ok(thrum_mem_free(f->device, other));
    free(host);
    free(back);
}

static void test_zeroed_and_reused(void **state)
{
    struct fixture *f = of(state);
    size_t sizes[] = {100, 4096, 300000, 2 << 20};
    char *host = calloc(1, 2 << 20), *zero = calloc(1, 2 << 20), *p;

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 4; i++) {
            assert_ok(thrum_mem_alloc(f->device, sizes[i], (void **)&p));
            assert_int_equal(at(p) % 4096, 0);
            assert_ok(thrum_copy_to_host(f->queue, host, p, sizes[i]));
            assert_memory_equal(host, zero, sizes[i]);
            assert_ok(thrum_fill(f->queue, p, 0xff, sizes[i]));
            assert_ok(finish(f->queue));
            assert_ok(thrum_mem_free(f->device, p));
            assert_status(thrum_mem_free(f->device, p), THRUM_ERR_INVALID_POINTER);
        }
    free(host);
    free(zero);
}

static void test_memory_exhausted(void **state)
{
    struct fixture *f = of(state);
    struct thrum_device_properties before = {.size = sizeof before}, after = before;
    void *p = f, *q;

    assert_ok(thrum_device_get_properties(f->device, &before));
    assert_status(thrum_mem_alloc(f->device, before.memory_bytes + 1, &p),
                  THRUM_ERR_NO_DEVICE_MEMORY);
    assert_status(thrum_mem_alloc(f->device, SIZE_MAX, &p), THRUM_ERR_NO_DEVICE_MEMORY);
    assert_status(thrum_mem_alloc(f->device, 0, &p), THRUM_ERR_INVALID_ARGUMENT);
    assert_ptr_equal(p, f);
    assert_ok(thrum_mem_alloc(f->device, before.memory_free_bytes, &p));
    assert_status(thrum_mem_alloc(f->device, 1, &q), THRUM_ERR_NO_DEVICE_MEMORY);
    assert_ok(thrum_mem_free(f->device, p));
    assert_ok(thrum_device_get_properties(f->device, &after));
    assert_int_equal(before.memory_free_bytes, after.memory_free_bytes);
}

static void test_query(void **state)
{
    struct fixture *f = of(state);
    struct thrum_mem_info info = {.size = sizeof info};
    char host[64];
    uint64_t id;

    assert_ok(thrum_mem_query(f->device, f->a + 100, &info));
    assert_int_equal(info.kind, THRUM_MEM_DEVICE);
    assert_ptr_equal(info.base, f->a);
    assert_int_equal(info.bytes, FIXTURE_BYTES);
    id = info.id;
    assert_ok(thrum_mem_query(f->device, f->b, &info));
    assert_int_not_equal(info.id, id);
    assert_ok(thrum_mem_query(f->device, host, &info));
    assert_int_equal(info.kind, THRUM_MEM_HOST);
    assert_ok(thrum_mem_register_host(f->device, host, sizeof host));
    assert_status(thrum_mem_register_host(f->device, host + 8, 8), THRUM_ERR_INVALID_POINTER);
    assert_ok(thrum_mem_query(f->device, host + 5, &info));
    assert_int_equal(info.kind, THRUM_MEM_HOST_REGISTERED);
    assert_ptr_equal(info.base, host);
    memset(host, 7, sizeof host);
    assert_ok(thrum_copy(f->queue, f->a, host, sizeof host));
    assert_ok(thrum_copy(f->queue, host + 32, f->b, 32));
    assert_ok(finish(f->queue));
    assert_int_equal(host[31], 7);
    assert_int_equal(host[32], 0);
    assert_ok(thrum_mem_unregister_host(f->device, host));
    assert_status(thrum_mem_unregister_host(f->device, host), THRUM_ERR_INVALID_POINTER);
    assert_ok(thrum_copy(f->queue, f->a, host, 1));
    assert_status(finish(f->queue), THRUM_ERR_FAULT);
}

static void test_indirect_and_multicast(void **state)
{
    struct fixture *f = of(state);
    uint64_t word = at(f->a) + 256;
    char text[16];
    struct thrum_operand operands[] = {
        {.base = at(f->b)}, {.base = 16, .indirect = at(f->b) + 512}, {.base = at(f->a)}};
    struct thrum_command command = {
        .opcode = THRUM_CMD_COPY, .ndst = 2, .nsrc = 1, .bytes = 6, .operands = operands};

    assert_ok(thrum_copy_to_device(f->queue, f->a, "hello", 6));
    assert_ok(thrum_copy_to_device(f->queue, f->b + 512, &word, 8));
    assert_ok(thrum_queue_submit(f->queue, &command, 1, NULL));
    assert_ok(thrum_copy_to_host(f->queue, text, f->b, 6));
    assert_string_equal(text, "hello");
    assert_ok(thrum_copy_to_host(f->queue, text, f->a + 256 + 16, 6));
    assert_string_equal(text, "hello");
}

/* ---- semaphores, lines, callbacks ------------------------------------------------------------------------------ */

static void test_semaphores(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t semaphore;
    thrum_queue_t other;
    uint64_t value;

    assert_ok(thrum_semaphore_create(f->device, 5, &semaphore));
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DIRECT, &other));
    assert_ok(thrum_queue_wait(f->queue, semaphore, 8));
    assert_ok(thrum_fill(f->queue, f->a, 1, 10));
    assert_status(thrum_queue_query(f->queue), THRUM_IN_PROGRESS);
    assert_status(thrum_queue_synchronize_for(f->queue, 1000000), THRUM_ERR_TIMEOUT);
    assert_ok(thrum_queue_signal(other, semaphore, 2));
    assert_status(thrum_queue_query(f->queue), THRUM_IN_PROGRESS);
    assert_ok(submit_signal(other, thrum_semaphore_address(semaphore), 8, THRUM_CMD_FLAG_SET));
    assert_ok(submit_signal(other, thrum_semaphore_address(semaphore), 3, THRUM_CMD_FLAG_SET));
    assert_ok(finish(f->queue));
    assert_ok(thrum_semaphore_read(semaphore, &value));
    assert_int_equal(value, 8);
    thrum_queue_destroy(other);
    thrum_semaphore_destroy(semaphore);
    assert_status(thrum_queue_wait(f->queue, semaphore, 8), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_semaphore_address(semaphore), 0);
}

static thrum_status_t write_line(thrum_queue_t queue, const void *line, uint64_t flag,
                                 const char *payload, size_t bytes)
{
    struct thrum_operand operand = {.base = at(line)};
    struct thrum_command command = {.opcode = THRUM_CMD_WRITE_LINE,
                                    .ndst = 1,
                                    .value = flag,
                                    .bytes = bytes,
                                    .payload = payload,
                                    .operands = &operand};
    return thrum_queue_submit(queue, &command, 1, NULL);
}

static thrum_status_t wait_line(thrum_queue_t queue, const void *line, uint64_t flag, uint64_t mask)
{
    struct thrum_operand operand = {.base = at(line)};
    struct thrum_command command = {.opcode = THRUM_CMD_WAIT_LINE,
                                    .nsrc = 1,
                                    .value = flag,
                                    .mask = mask,
                                    .operands = &operand};
    return thrum_queue_submit(queue, &command, 1, NULL);
}

static void test_lines(void **state)
{
    struct fixture *f = of(state);
    thrum_queue_t other;
    char text[8];

    assert_ok(thrum_queue_create(f->device, 0, &other));
    assert_ok(wait_line(f->queue, f->a, 0x100 + 7, 0xff));
    assert_ok(thrum_copy(f->queue, f->b, f->a + 8, 8));
    assert_status(thrum_queue_query(f->queue), THRUM_IN_PROGRESS);
    assert_ok(write_line(other, f->a, 0x100 + 7, "payload", 8));
    assert_ok(finish(f->queue));
    assert_ok(thrum_copy_to_host(f->queue, text, f->b, 8));
    assert_string_equal(text, "payload");
    /* same sequence, another signature: the two ends disagree */
    assert_ok(wait_line(f->queue, f->a, 0x200 + 7, 0xff));
    assert_status(finish(f->queue), THRUM_ERR_MISMATCH);
    assert_ok(finish(f->queue)); /* told once, and the queue goes on */
    thrum_queue_destroy(other);
}

/* How single submissions ended, whatever others did. */
static void test_tickets(void **state)
{
    struct fixture *f = of(state);
    struct thrum_command end = {.opcode = THRUM_CMD_NOP};
    uint64_t line = 0x100 + 7, good, bad, behind, last;
    thrum_semaphore_t semaphore;
    thrum_queue_t other;

    assert_ok(thrum_semaphore_create(f->device, 0, &semaphore));
    assert_ok(thrum_queue_create(f->device, 0, &other));
    assert_ok(thrum_copy_to_device(f->queue, f->a, &line, 8));
    assert_ok(thrum_queue_submit(f->queue, &end, 1, &good));
    assert_ok(wait_line(f->queue, f->a, 0x200 + 7, 0xff)); /* another signature */
    assert_ok(thrum_queue_submit(f->queue, &end, 1, &bad));
    assert_ok(thrum_queue_submit(f->queue, &end, 1, &behind));
    assert_ok(thrum_queue_wait(f->queue, semaphore, 1));
    assert_ok(thrum_queue_submit(f->queue, &end, 1, &last));
    while (thrum_queue_query_tickets(f->queue, bad, behind) == THRUM_IN_PROGRESS)
        ;
    for (int i = 0; i < 2; i++) { /* as often as it is asked for */
        assert_ok(thrum_queue_query_tickets(f->queue, 0, good));
        assert_status(thrum_queue_query_tickets(f->queue, good, bad), THRUM_ERR_MISMATCH);
        assert_status(thrum_queue_query_tickets(f->queue, 0, behind), THRUM_ERR_MISMATCH);
        assert_ok(thrum_queue_query_tickets(f->queue, bad, behind));
        assert_ok(thrum_queue_query_tickets(f->queue, bad, bad));
        assert_status(thrum_queue_query_tickets(f->queue, behind, last), THRUM_IN_PROGRESS);
    }
    assert_status(thrum_queue_query_tickets(f->queue, 0, last + 1), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_queue_query_tickets(NULL, 0, 1), THRUM_ERR_INVALID_QUEUE);
    assert_ok(thrum_queue_signal(other, semaphore, 1));
    assert_status(finish(f->queue), THRUM_ERR_MISMATCH); /* told all the same */
    assert_ok(thrum_queue_query_tickets(f->queue, behind, last));
    assert_status(thrum_queue_query_tickets(f->queue, good, bad), THRUM_ERR_MISMATCH);
    thrum_queue_destroy(other);
    thrum_semaphore_destroy(semaphore);
}

static thrum_status_t count_down(void *argument)
{
    _Atomic int *n = argument;
    if (*n == -1)
        return THRUM_ERR_ABORTED;
    return --*n > 0 ? THRUM_IN_PROGRESS : THRUM_OK;
}

static void test_callback(void **state)
{
    struct fixture *f = of(state);
    _Atomic int n = 100, fails = -1;

    assert_ok(thrum_queue_callback(f->queue, count_down, (void *)&n));
    assert_ok(finish(f->queue));
    assert_int_equal(n, 0);
    assert_ok(thrum_queue_callback(f->queue, count_down, (void *)&fails));
    assert_ok(thrum_fill(f->queue, f->a, 0, 1));
    assert_status(finish(f->queue), THRUM_ERR_ABORTED);
    assert_ok(finish(f->queue));
}

static void test_events(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t semaphore;
    thrum_event_t start, end;
    thrum_queue_t other;
    int64_t ns = -1;

    assert_ok(thrum_semaphore_create(f->device, 0, &semaphore));
    assert_ok(thrum_queue_create(f->device, 0, &other));
    assert_ok(thrum_event_create(f->device, &start));
    assert_ok(thrum_event_create(f->device, &end));
    assert_ok(thrum_event_query(start));
    assert_status(thrum_event_elapsed(start, end, &ns), THRUM_ERR_INVALID_USAGE);
    assert_ok(thrum_event_record(start, f->queue));
    assert_ok(thrum_queue_wait(f->queue, semaphore, 1));
    assert_ok(thrum_event_record(end, f->queue));
    assert_ok(thrum_event_wait(end, other));
    assert_ok(thrum_fill(other, f->a, 9, 4));
    assert_status(thrum_event_query(end), THRUM_IN_PROGRESS);
    assert_status(thrum_queue_query(other), THRUM_IN_PROGRESS);
    assert_status(thrum_event_elapsed(start, end, &ns), THRUM_IN_PROGRESS);
    assert_ok(submit_signal(other, thrum_semaphore_address(semaphore), 0, 0));
    {
        thrum_queue_t third;
        assert_ok(thrum_queue_create(f->device, 0, &third));
        assert_ok(thrum_queue_signal(third, semaphore, 1));
        assert_ok(finish(other));
        thrum_queue_destroy(third);
    }
    assert_ok(thrum_event_synchronize(end));
    assert_ok(thrum_event_elapsed(start, end, &ns));
    assert_true(ns > 0);
    /* a wait for an event of a queue that dies must not hang */
    assert_ok(thrum_queue_wait(f->queue, semaphore, 100));
    assert_ok(thrum_event_record(end, f->queue));
    assert_ok(thrum_event_wait(end, other));
    assert_status(thrum_queue_query(other), THRUM_IN_PROGRESS);
    thrum_queue_destroy(f->queue);
    f->queue = NULL;
    assert_ok(finish(other));
    thrum_event_destroy(end);
    assert_status(thrum_event_query(end), THRUM_ERR_INVALID_ARGUMENT);
    thrum_event_destroy(start);
    thrum_queue_destroy(other);
}

/* ---- the engine thread ------------------------------------------------------------------------------------------ */

static void test_engine_progresses(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t first, second;
    thrum_queue_t away;
    uint64_t value = 0;

    assert_ok(thrum_semaphore_create(f->device, 0, &first));
    assert_ok(thrum_semaphore_create(f->device, 0, &second));
    assert_ok(thrum_queue_create(f->device, 0, &away));
    assert_ok(thrum_queue_wait(away, first, 1));
    assert_ok(thrum_queue_signal(away, second, 1));
    assert_ok(thrum_queue_signal(f->queue, first, 1));
    /* the host only looks at memory: nobody but the engine can execute `away` */
    while (!value)
        assert_ok(thrum_semaphore_read(second, &value));
    thrum_queue_destroy(away);
}

static void test_many_submissions(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t semaphore;
    uint64_t value;

    assert_ok(thrum_semaphore_create(f->device, 0, &semaphore));
    for (int i = 0; i < 100000; i++) {
        assert_ok(thrum_queue_signal(f->queue, semaphore, 1));
        assert_ok(thrum_copy(f->queue, f->b, f->a, 64));
    }
    assert_ok(finish(f->queue));
    assert_ok(thrum_semaphore_read(semaphore, &value));
    assert_int_equal(value, 100000);
}

struct producer {
    thrum_queue_t queue;
    thrum_semaphore_t semaphore;
};

static void *produce(void *argument)
{
    struct producer *p = argument;
    for (int i = 0; i < 5000; i++)
        if (thrum_queue_signal(p->queue, p->semaphore, 1))
            return p;
    return NULL;
}

static void test_threads_share_a_queue(void **state)
{
    struct fixture *f = of(state);
    struct producer p = {.queue = f->queue};
    pthread_t threads[3];
    uint64_t value;
    void *failed;

    assert_ok(thrum_semaphore_create(f->device, 0, &p.semaphore));
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &p), 0);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_ok(finish(f->queue));
    assert_ok(thrum_semaphore_read(p.semaphore, &value));
    assert_int_equal(value, 15000);
}

/* ---- what is executed while it is submitted ---------------------------------------------------------------------- */

struct slow_failure {
    int left;
};

static thrum_status_t fail_later(void *argument)
{
    struct slow_failure *failure = argument;

    return failure->left-- > 0 ? THRUM_IN_PROGRESS : THRUM_ERR_ABORTED;
}

/* A command that is waited for a moment and then fails is the last of its submission, as any other. */
static void test_failure_after_a_moment(void **state)
{
    struct fixture *f = of(state);
    struct slow_failure failure = {.left = 3};
    struct thrum_operand copy[] = {{.base = at(f->b)}, {.base = at(f->a)}};
    struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_CALLBACK, .callback = fail_later, .argument = &failure},
        {.opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = 8, .operands = copy}};
    char text[8];

    assert_ok(thrum_copy_to_device(f->queue, f->a, "changed", 8));
    assert_ok(thrum_copy_to_device(f->queue, f->b, "as ever", 8));
    assert_ok(thrum_copy(f->queue, f->b + 64, f->a + 64, 8)); /* both are translated by now */
    assert_ok(finish(f->queue));
    assert_ok(thrum_queue_submit(f->queue, commands, 2, NULL));
    assert_status(finish(f->queue), THRUM_ERR_ABORTED);
    assert_ok(thrum_copy_to_host(f->queue, text, f->b, 8));
    assert_string_equal(text, "as ever");
}

/* Commands of no bytes name no memory, whatever their addresses. */
static void test_no_bytes(void **state)
{
    struct fixture *f = of(state);
    struct thrum_operand none[] = {{.base = 0}, {.base = 0}};
    struct thrum_operand line[] = {{.base = at(f->a)}, {.base = 0}};
    struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_REDUCE,
         .dtype = THRUM_FLOAT32,
         .redop = THRUM_SUM,
         .ndst = 1,
         .nsrc = 1,
         .operands = none},
        {.opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .operands = none},
        {.opcode = THRUM_CMD_WRITE_LINE, .ndst = 1, .nsrc = 1, .value = 7, .operands = line}};
    uint64_t flag = 0;

    for (int i = 0; i < 2; i++) {
        assert_ok(thrum_queue_submit(f->queue, commands, 3, NULL));
        assert_ok(finish(f->queue));
    }
    assert_ok(thrum_copy_to_host(f->queue, &flag, f->a, 8));
    assert_int_equal(flag, 7);
}

/* ---- bad input --------------------------------------------------------------------------------------------------- */

static struct thrum_ras_event first_fault;

static void expect_fault(struct fixture *f, thrum_queue_t queue, enum thrum_ras_kind kind,
                         thrum_status_t status, uint64_t address)
{
    struct thrum_ras_event event, fault;
    struct pollfd fd = {.fd = thrum_ras_event_fd(f->device), .events = POLLIN};
    size_t n;

    assert_status(finish(queue), status);
    assert_non_null(strstr(thrum_last_error(), "sim"));
    assert_status(finish(queue), status); /* again each time */
    assert_status(thrum_fill(queue, f->a, 0, 1), status);
    assert_int_equal(poll(&fd, 1, 0), 1);
    assert_ok(thrum_ras_get_events(f->device, &event, 1, &n));
    assert_int_equal(n, 1);
    assert_int_equal(event.kind, kind);
    assert_int_equal(event.queue_id, thrum_queue_id(queue));
    assert_int_equal(event.address, address);
    assert_true(event.ticket > 0 && event.timestamp_ns > 0 && event.generation == 1);
    assert_ok(thrum_ras_get_fault(f->device, &fault));
    if (event.sequence == 1) /* the first is kept, whatever comes later */
        first_fault = event;
    assert_memory_equal(&fault, &first_fault, sizeof fault);
    assert_int_equal(poll(&fd, 1, 0), 0);
}

static void test_page_fault(void **state)
{
    unsigned modes[] = {THRUM_QUEUE_DEFAULT, THRUM_QUEUE_DIRECT};
    struct fixture *f = of(state);
    char before[8] = "intact!", after[8];

    assert_ok(thrum_copy_to_device(f->queue, f->a, before, 8));
    for (int i = 0; i < 2; i++) {
        thrum_queue_t queue;
        char *freed;
        uint64_t bad[] = {at(f->a) + FIXTURE_BYTES - 7, 0x1234560, 0, at(f->b) ^ 1ull << 45, 0};

        assert_ok(thrum_mem_alloc(f->device, 64, (void **)&freed));
        assert_ok(thrum_mem_free(f->device, freed));
        bad[4] = at(freed);
        for (int j = 0; j < 5; j++) {
            assert_ok(thrum_queue_create(f->device, modes[i], &queue));
            /* a range that leaves its allocation by one byte; host memory; NULL; another slot; freed */
            assert_ok(thrum_copy(queue, f->a, (void *)(uintptr_t)bad[j], 8));
            expect_fault(f, queue, THRUM_RAS_PAGE_FAULT, THRUM_ERR_FAULT, bad[j]);
            thrum_queue_destroy(queue);
        }
    }
    /* the other queue went on, and nothing of the faulting commands was done */
    assert_ok(thrum_copy_to_host(f->queue, after, f->a, 8));
    assert_memory_equal(before, after, 8);
    /* exactly to the end is allowed */
    assert_ok(thrum_fill(f->queue, f->a + FIXTURE_BYTES - 8, 1, 8));
    assert_ok(finish(f->queue));
}

static thrum_status_t refuses_all(const void *left, const void *right, void *result, size_t count,
                                  thrum_datatype_t dtype, void *context)
{
    (void)left, (void)right, (void)result, (void)count, (void)dtype, (void)context;
    return THRUM_ERR_INTERNAL;
}

/* `o` holds four operands. */
static void bad_commands(struct fixture *f, struct thrum_command *c, struct thrum_operand *o,
                         size_t *n)
{
    for (int i = 0; i < 4; i++)
        o[i] = (struct thrum_operand){.base = at(f->a)};
    *n = 0;
    c[(*n)++] = (struct thrum_command){.opcode = 77};
    c[(*n)++] =
        (struct thrum_command){.opcode = THRUM_CMD_COPY, .ndst = 1, .bytes = 8, .operands = o};
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = 8};
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_FILL, .ndst = 1, .value = 256};
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_FILL, .ndst = 60000, .operands = NULL};
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_REDUCE,
                                       .dtype = THRUM_FLOAT32,
                                       .ndst = 0,
                                       .nsrc = 1,
                                       .bytes = 8,
                                       .operands = o};
    c[(*n)++] = (struct thrum_command){
        .opcode = THRUM_CMD_WRITE_LINE, .ndst = 1, .bytes = 57, .payload = f, .operands = o};
    c[(*n)++] =
        (struct thrum_command){.opcode = THRUM_CMD_SIGNAL, .flags = 0x80, .ndst = 1, .operands = o};
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_CALLBACK};
    const struct thrum_command reduce = {.opcode = THRUM_CMD_REDUCE,
                                         .dtype = THRUM_FLOAT32,
                                         .ndst = 1,
                                         .nsrc = 1,
                                         .bytes = 8,
                                         .operands = o};
    c[*n] = reduce;
    c[(*n)++].redop = THRUM_REDOP_CALLBACK; /* without a function */
    c[*n] = reduce;
    c[*n].redop = THRUM_REDOP_CALLBACK;
    c[*n].reduce = refuses_all;
    c[(*n)++].flags = THRUM_CMD_FLAG_WIDE_DST;
    c[*n] = reduce;
    c[(*n)++].redop = THRUM_REDOP_COUNT;
    c[*n] = reduce;
    c[*n].dtype = THRUM_COMPLEX64;
    c[(*n)++].redop = THRUM_MAX;
    c[*n] = reduce;
    c[*n].dtype = THRUM_FLOAT8_E4M3;
    c[(*n)++].redop = THRUM_BXOR;
    c[*n] = reduce;
    c[(*n)++].dtype = THRUM_COMPLEX128; /* 8 bytes are half of one */
    c[*n] = reduce;
    c[(*n)++].opcode = THRUM_CMD_SCALE; /* without a scalar */
    c[*n] = reduce;
    c[*n].payload = f;
    c[*n].dtype = THRUM_DATATYPE_COUNT;
    c[(*n)++].opcode = THRUM_CMD_SCALE;
    c[*n] = reduce;
    c[*n].payload = f;
    c[*n].flags = THRUM_CMD_FLAG_WIDE_DST;
    c[(*n)++].opcode = THRUM_CMD_SCALE;
    c[*n] = reduce;
    c[*n].payload = f;
    c[*n].nsrc = 3;
    c[(*n)++].opcode = THRUM_CMD_SCALE;
    c[(*n)++] = (struct thrum_command){.opcode = THRUM_CMD_PUT};
}

static void test_bad_packet(void **state)
{
    struct fixture *f = of(state);
    struct thrum_command commands[32];
    struct thrum_operand operands[4];
    thrum_queue_t queue;
    uint64_t ticket = 99;
    size_t n;

    bad_commands(f, commands, operands, &n);
    for (size_t i = 0; i < n; i++) {
        struct thrum_command pair[2] = {{.opcode = THRUM_CMD_NOP}, commands[i]};
        assert_status(thrum_queue_submit(f->queue, pair, 2, &ticket), THRUM_ERR_INVALID_COMMAND);
        assert_non_null(strstr(thrum_last_error(), "command 1"));
        assert_int_equal(ticket, 99);
        assert_ok(finish(f->queue));

        assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DIRECT, &queue));
        assert_ok(thrum_queue_submit(queue, pair, 2, NULL));
        expect_fault(f, queue, THRUM_RAS_BAD_PACKET, THRUM_ERR_BAD_PACKET, 0);
        thrum_queue_destroy(queue);
    }
}

static void test_misaligned(void **state)
{
    struct fixture *f = of(state);
    struct thrum_operand operands[2] = {{.base = at(f->a) + 4}, {.base = at(f->b)}};
    struct thrum_command wait = {
        .opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = 1, .operands = operands};
    struct thrum_command odd = {.opcode = THRUM_CMD_REDUCE,
                                .dtype = THRUM_FLOAT64,
                                .ndst = 1,
                                .nsrc = 1,
                                .bytes = 12,
                                .operands = operands};
    struct thrum_command band = odd;

    assert_status(thrum_queue_submit(f->queue, &wait, 1, NULL), THRUM_ERR_INVALID_COMMAND);
    assert_non_null(strstr(thrum_last_error(), "aligned"));
    assert_status(thrum_queue_submit(f->queue, &odd, 1, NULL), THRUM_ERR_INVALID_COMMAND);
    band.bytes = 16;
    band.redop = THRUM_BAND;
    assert_status(thrum_queue_submit(f->queue, &band, 1, NULL), THRUM_ERR_INVALID_COMMAND);
    operands[0].base = 4; /* misaligned only once the word is added: known when it executes */
    operands[0].indirect = at(f->b);
    assert_ok(thrum_queue_submit(f->queue, &wait, 1, NULL));
    assert_status(finish(f->queue), THRUM_ERR_BAD_PACKET);
}

static void test_handles(void **state)
{
    struct fixture *f = of(state);
    char foreign[1024] = {0};
    thrum_queue_t queue;
    thrum_device_t again;
    struct thrum_device_properties properties = {.size = 0};
    struct thrum_mem_handle garbage;
    void *p;

    assert_ok(thrum_queue_create(f->device, 0, &queue));
    thrum_queue_destroy(queue);
    assert_status(thrum_fill(queue, f->a, 0, 1), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_fill(NULL, f->a, 0, 1), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_fill((thrum_queue_t)(void *)foreign, f->a, 0, 1), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_fill((thrum_queue_t)0x10, f->a, 0, 1), THRUM_ERR_INVALID_QUEUE);
    thrum_queue_destroy(queue);
    thrum_queue_destroy(NULL);
    assert_status(thrum_device_get_properties(f->device, &properties), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_mem_alloc(NULL, 1, &p), THRUM_ERR_INVALID_ARGUMENT);
    memset(&garbage, 0xa5, sizeof garbage);
    assert_status(thrum_mem_import(f->device, &garbage, &p), THRUM_ERR_INVALID_ARGUMENT);
    assert_ok(thrum_mem_export(f->device, f->a, &garbage));
    garbage.bytes[30] ^= 1;
    assert_status(thrum_mem_import(f->device, &garbage, &p), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_mem_export(f->device, f->a + 4096, &garbage), THRUM_ERR_INVALID_POINTER);
    properties.size = sizeof properties;
    assert_ok(thrum_device_get_properties(f->device, &properties));
    assert_ok(thrum_device_open(properties.index, &again)); /* shared within the process */
    assert_ptr_equal(again, f->device);
    thrum_device_close(again);
    assert_ok(thrum_fill(f->queue, f->a, 0, 1));
    assert_status(thrum_device_open(1000000, &again), THRUM_ERR_NO_DEVICE);
    assert_status(thrum_device_open(-5, &again), THRUM_ERR_INVALID_ARGUMENT);
}

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void test_descriptor_limit(void **state)
{
    int before = count_descriptors();
    struct rlimit saved, low;
    thrum_device_t device;
    bool seen = false, opened = false;

    (void)state;
    getrlimit(RLIMIT_NOFILE, &saved);
    for (rlim_t n = 3; n < 64 && !opened; n++) {
        thrum_status_t status;
        low = (struct rlimit){n, saved.rlim_max};
        setrlimit(RLIMIT_NOFILE, &low);
        status = thrum_device_open(THRUM_DEVICE_ANY, &device);
        setrlimit(RLIMIT_NOFILE, &saved);
        if (status == THRUM_OK)
            opened = true;
        else
            assert_status(status, THRUM_ERR_LIMIT);
        seen |= status == THRUM_ERR_LIMIT;
    }
    assert_true(seen && opened);
    thrum_device_close(device);
    assert_int_equal(count_descriptors(), before);
}

/* ---- reset ------------------------------------------------------------------------------------------------------ */

static void *reset_it(void *device)
{
    thrum_status_t status = thrum_device_reset(device, THRUM_RESET_SOFT);
    return status ? device : NULL;
}

static void test_reset_in_midstream(void **state)
{
    struct fixture *f = of(state);
    struct thrum_ras_event event;
    thrum_semaphore_t semaphore;
    thrum_queue_t fresh;
    thrum_event_t mark;
    pthread_t thread;
    void *failed;
    char text[8];
    size_t n;

    assert_ok(thrum_copy_to_device(f->queue, f->a, "stays", 6));
    assert_ok(thrum_semaphore_create(f->device, 0, &semaphore));
    assert_ok(thrum_event_create(f->device, &mark));
    assert_ok(thrum_queue_wait(f->queue, semaphore, 1));
    assert_ok(thrum_event_record(mark, f->queue));
    assert_ok(thrum_fill(f->queue, f->a, 0, 8));
    assert_int_equal(pthread_create(&thread, NULL, reset_it, f->device), 0);
    assert_status(finish(f->queue), THRUM_ERR_RESET);
    pthread_join(thread, &failed);
    assert_null(failed);
    assert_status(thrum_fill(f->queue, f->a, 0, 8), THRUM_ERR_RESET);
    assert_status(thrum_event_query(mark), THRUM_ERR_RESET);
    assert_status(thrum_queue_signal(f->queue, semaphore, 1), THRUM_ERR_RESET);
    assert_ok(thrum_ras_get_events(f->device, &event, 1, &n));
    assert_true(n == 1 && event.kind == THRUM_RAS_RESET && event.generation == 2);
    assert_ok(thrum_queue_create(f->device, 0, &fresh));
    assert_status(thrum_queue_signal(fresh, semaphore, 1), THRUM_ERR_RESET);
    assert_ok(thrum_copy_to_host(fresh, text, f->a, 6)); /* memory stays after a soft reset */
    assert_string_equal(text, "stays");
    thrum_event_destroy(mark);
    thrum_semaphore_destroy(semaphore);
    thrum_queue_destroy(fresh);
}

static void test_hard_reset(void **state)
{
    struct fixture *f = of(state);
    struct thrum_device_properties properties = {.size = sizeof properties};
    struct thrum_ras_event fault;
    char *now, zero[64] = {0}, read[64];

    assert_ok(thrum_fill(f->queue, f->a, 1, 64));
    assert_ok(thrum_copy(f->queue, NULL, f->a, 64));
    assert_status(finish(f->queue), THRUM_ERR_FAULT);
    assert_ok(thrum_ras_get_fault(f->device, &fault));
    assert_ok(thrum_device_reset(f->device, THRUM_RESET_HARD));
    assert_status(thrum_ras_get_fault(f->device, &fault), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_mem_free(f->device, f->a), THRUM_ERR_RESET);
    thrum_queue_destroy(f->queue);
    assert_ok(thrum_queue_create(f->device, 0, &f->queue));
    assert_ok(thrum_mem_alloc(f->device, FIXTURE_BYTES, (void **)&now));
    assert_ptr_not_equal(now, f->a);
    assert_ok(thrum_copy_to_host(f->queue, read, now, 64));
    assert_memory_equal(read, zero, 64);
    assert_ok(thrum_device_get_properties(f->device, &properties));
    assert_int_equal(properties.generation, 2);
    /* the old address does not reach the new allocation, although it is where the old one was */
    assert_ok(thrum_copy(f->queue, now, f->a, 8));
    assert_status(finish(f->queue), THRUM_ERR_FAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)
        TEST(test_copy_fill_reduce),
        TEST(test_capabilities),
        TEST(test_wide_partial_results),
        TEST(test_wide_lengths),
        TEST(test_scale),
        TEST(test_scale_refused),
        TEST(test_reduce_by_callback),
        TEST(test_large_work),
        TEST(test_zeroed_and_reused),
        TEST(test_memory_exhausted),
        TEST(test_query),
        TEST(test_indirect_and_multicast),
        TEST(test_semaphores),
        TEST(test_lines),
        TEST(test_tickets),
        TEST(test_callback),
        TEST(test_events),
        TEST(test_engine_progresses),
        TEST(test_many_submissions),
        TEST(test_threads_share_a_queue),
        TEST(test_failure_after_a_moment),
        TEST(test_no_bytes),
        TEST(test_page_fault),
        TEST(test_bad_packet),
        TEST(test_misaligned),
        TEST(test_handles),
        TEST(test_descriptor_limit),
        TEST(test_reset_in_midstream),
        TEST(test_hard_reset),
#undef TEST
    };
    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
