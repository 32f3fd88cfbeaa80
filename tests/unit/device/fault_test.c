/* Bad commands, handles and limits on one sim device, and its resets. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../counts.h"
#include "device_test.h"

/* ---- bad input --------------------------------------------------------------------------------------------------- */

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
        DEVICE_TEST(test_page_fault),       DEVICE_TEST(test_bad_packet),
        DEVICE_TEST(test_misaligned),       DEVICE_TEST(test_handles),
        DEVICE_TEST(test_descriptor_limit), DEVICE_TEST(test_reset_in_midstream),
        DEVICE_TEST(test_hard_reset),
    };

    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    return cmocka_run_group_tests_name("faults of a device", tests, NULL, NULL);
}
