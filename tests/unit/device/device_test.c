/* Command streams by hand on one sim device: memory, engines, semaphores, lines, callbacks, events. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "device/device_internal.h"
#include "device_test.h"

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
    void *gone;
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
    assert_ok(thrum_mem_alloc(f->device, 4096, &gone));
    assert_ok(thrum_mem_free(f->device, gone));
    assert_ok(thrum_mem_query(f->device, gone, &info));
    assert_int_equal(info.kind, THRUM_MEM_NONE);
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

/* What submit_meanwhile calls: the commands are on their way, or done; the ticket is there. */
struct noted {
    const uint64_t *ticket;
    int calls;
    uint64_t seen;
};

static void note(void *argument)
{
    struct noted *noted = argument;

    noted->calls++;
    noted->seen = *noted->ticket;
}

static uint64_t submit_noting(thrum_queue_t queue, uint64_t address, uint64_t value)
{
    struct thrum_operand operand = {.base = address};
    struct thrum_command command = {
        .opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = value, .operands = &operand};
    uint64_t ticket = 0;
    struct noted noted = {.ticket = &ticket};

    assert_ok(queue->ops->submit_meanwhile(queue->impl, &command, 1, 0, &ticket, note, &noted));
    assert_int_equal(noted.calls, 1);
    assert_true(ticket > 0 && noted.seen == ticket);
    return ticket;
}

static void test_meanwhile(void **state)
{
    struct fixture *f = of(state);
    const struct thrum_device_ops *ops = f->queue->ops;
    struct thrum_command none = {.opcode = THRUM_CMD_NOP};
    uint64_t at_once, waits, behind, ticket = 7;
    struct noted noted = {.ticket = &ticket};
    thrum_queue_t other;

    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &other));
    at_once = submit_noting(f->queue, at(f->a), 0);
    assert_int_equal(ops->poll(f->queue->impl, at_once), THRUM_OK);
    waits = submit_noting(f->queue, at(f->a), 1);
    behind = submit_noting(f->queue, at(f->a), 0);
    assert_int_equal(ops->poll(f->queue->impl, waits), THRUM_IN_PROGRESS);
    assert_ok(submit_signal(other, at(f->a), 1, THRUM_CMD_FLAG_SET));
    assert_ok(ops->wait(f->queue->impl, behind, TEST_TIMEOUT_NS));
    assert_ok(ops->submit_meanwhile(f->queue->impl, NULL, 0, 0, &ticket, note, &noted));
    assert_int_equal(noted.calls, 1);
    thrum_queue_destroy(other);
    (void)submit_wait(f->queue, 8, 1); /* no address: the queue stops */
    assert_status(finish(f->queue), THRUM_ERR_FAULT);
    ticket = 7;
    assert_status(ops->submit_meanwhile(f->queue->impl, &none, 1, 1, &ticket, note, &noted),
                  THRUM_ERR_FAULT);
    assert_int_equal(noted.calls, 1);
    assert_int_equal(ticket, 7);
}

/* Of two words the first is set by what goes first, the second by what `meanwhile` writes, which spoils the first. */
struct two_words {
    struct thrum_operand operands[2];
    struct thrum_command commands[2];
    uint64_t ticket;
};

static void write_second(void *argument)
{
    struct two_words *w = argument;

    w->commands[0].value = 9;
    w->commands[1].value = 2;
}

static void set_two_words(thrum_queue_t queue, uint64_t address)
{
    struct two_words w = {.operands = {{.base = address}, {.base = address + 8}}};

    for (int i = 0; i < 2; i++)
        w.commands[i] = (struct thrum_command){.opcode = THRUM_CMD_SIGNAL,
                                               .flags = THRUM_CMD_FLAG_SET,
                                               .ndst = 1,
                                               .value = i ? 9 : 1,
                                               .operands = &w.operands[i]};
    assert_ok(
        queue->ops->submit_meanwhile(queue->impl, w.commands, 2, 1, &w.ticket, write_second, &w));
}

static void expect_two_words(const struct fixture *f, uint64_t offset)
{
    uint64_t words[2];

    assert_ok(finish(f->queue));
    assert_ok(thrum_copy_to_host(f->queue, words, f->a + offset, sizeof words));
    assert_true(words[0] == 1 && words[1] == 2);
}

/* At once, behind what waits, and where each command is looked at for a fault that is to come. */
static void test_commands_written_meanwhile(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t semaphore;
    thrum_queue_t other;

    set_two_words(f->queue, at(f->a));
    expect_two_words(f, 0);
    assert_ok(thrum_semaphore_create(f->device, 0, &semaphore));
    assert_ok(thrum_queue_wait(f->queue, semaphore, 1));
    set_two_words(f->queue, at(f->a) + 64);
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &other));
    assert_ok(thrum_queue_signal(other, semaphore, 1));
    expect_two_words(f, 64);
    assert_ok(thrum_ras_inject(f->device, "page-fault@c1000000", 1));
    set_two_words(f->queue, at(f->a) + 128);
    expect_two_words(f, 128);
    thrum_queue_destroy(other);
    thrum_semaphore_destroy(semaphore);
}

static void write_copy(void *argument)
{
    struct two_words *w = argument;

    w->commands[1].operands = w->operands;
    w->commands[1].bytes = 8;
}

/* What `meanwhile` is to write is not looked at before: not even to see what comes behind a line. */
static void test_nothing_is_read_ahead(void **state)
{
    struct fixture *f = of(state);
    struct two_words w = {.operands = {{.base = at(f->a) + 512}, {.base = at(f->a)}}};
    uint64_t word = 0;

    assert_ok(submit_signal(f->queue, at(f->a), 5, THRUM_CMD_FLAG_SET));
    w.commands[0] = (struct thrum_command){.opcode = THRUM_CMD_WAIT_LINE,
                                           .nsrc = 1,
                                           .value = 5,
                                           .mask = UINT64_MAX,
                                           .operands = &w.operands[1]};
    w.commands[1] = (struct thrum_command){.opcode = THRUM_CMD_COPY,
                                           .ndst = 1,
                                           .nsrc = 1,
                                           .bytes = 4096,
                                           .operands = (struct thrum_operand *)(uintptr_t)8};
    assert_ok(f->queue->ops->submit_meanwhile(f->queue->impl, w.commands, 2, 1, &w.ticket,
                                              write_copy, &w));
    assert_ok(finish(f->queue));
    assert_ok(thrum_copy_to_host(f->queue, &word, f->a + 512, sizeof word));
    assert_int_equal(word, 5);
}

static void test_sim_has_no_streams_to_import(void **state)
{
    struct fixture *f = of(state);
    thrum_queue_t queue = f->queue;

    assert_status(thrum_queue_import(f->device, NULL, &queue), THRUM_ERR_UNSUPPORTED);
    assert_non_null(strstr(thrum_last_error(), "queue_import"));
    assert_status(thrum_queue_import(f->device, f->queue, &queue), THRUM_ERR_UNSUPPORTED);
    assert_ptr_equal(queue, f->queue);
    assert_status(thrum_queue_import(f->device, NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_queue_import(NULL, NULL, &queue), THRUM_ERR_INVALID_ARGUMENT);
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

static thrum_status_t refuse(void *unused)
{
    (void)unused;
    return THRUM_ERR_MISMATCH;
}

/* A point that tells errors tells those that no synchronize has returned, to threads and to queues; others tell none. */
static void test_events_tell_errors(void **state)
{
    struct fixture *f = of(state);
    thrum_event_t plain, before, telling;
    thrum_queue_t other;

    assert_ok(thrum_queue_create(f->device, 0, &other));
    assert_ok(thrum_event_create(f->device, &plain));
    assert_ok(thrum_event_create(f->device, &before));
    assert_ok(thrum_event_create(f->device, &telling));
    assert_ok(thrum_event_record_errors(before, f->queue));
    assert_ok(thrum_queue_callback(f->queue, refuse, NULL));
    assert_ok(thrum_event_record(plain, f->queue));
    assert_ok(thrum_event_record_errors(telling, f->queue));
    assert_ok(thrum_event_wait(telling, other));
    assert_ok(thrum_event_wait(plain, other));
    assert_ok(thrum_event_synchronize(before));
    assert_ok(thrum_event_synchronize(plain));
    assert_status(thrum_event_synchronize(telling), THRUM_ERR_MISMATCH);
    assert_status(thrum_event_query(telling), THRUM_ERR_MISMATCH);
    assert_status(finish(other), THRUM_ERR_MISMATCH);
    assert_ok(finish(other));

    /* as long as the queue's own synchronize has not returned it, later points tell it too */
    assert_ok(thrum_event_record_errors(before, f->queue));
    assert_status(thrum_event_synchronize(before), THRUM_ERR_MISMATCH);
    assert_status(finish(f->queue), THRUM_ERR_MISMATCH);
    assert_status(thrum_event_query(telling), THRUM_ERR_MISMATCH);
    assert_ok(thrum_event_record_errors(telling, f->queue));
    assert_ok(thrum_event_wait(telling, other));
    assert_ok(thrum_event_synchronize(telling));
    assert_ok(finish(other));
    assert_status(thrum_event_record_errors(telling, NULL), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_event_record_errors(NULL, f->queue), THRUM_ERR_INVALID_ARGUMENT);
    thrum_event_destroy(plain);
    thrum_event_destroy(before);
    thrum_event_destroy(telling);
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

/* ---- priorities -------------------------------------------------------------------------------------------------- */

#define BUSY_BYTES (16u << 20)

struct busy {
    thrum_device_t device;
    void *memory;
    _Atomic int stop;
};

static void *keep_busy(void *argument)
{
    struct busy *busy = argument;
    thrum_queue_t queue;

    assert_ok(thrum_queue_create(busy->device, 0, &queue));
    while (!atomic_load(&busy->stop)) {
        assert_ok(thrum_fill(queue, busy->memory, 1, BUSY_BYTES));
        assert_ok(finish(queue));
    }
    thrum_queue_destroy(queue);
    return NULL;
}

static void *register_often(void *argument)
{
    static _Alignas(4096) char host[8192];
    const struct busy *busy = argument;

    for (int i = 0; i < 5; i++) { /* each time all who execute have to let go for a moment */
        assert_int_equal(poll(NULL, 0, 5), 0);
        assert_ok(thrum_mem_register_host(busy->device, host, sizeof host));
        assert_ok(thrum_mem_unregister_host(busy->device, host));
    }
    return NULL;
}

/* Who waits for a thread of lower priority on the same core lets it run, instead of spinning until the kernel steps in. */
static void test_high_priority_gives_way(void **state)
{
    struct fixture *f = of(state);
    struct busy busy = {.device = f->device};
    const struct sched_param priority = {.sched_priority = 10};
    cpu_set_t before, one;
    struct timespec start, end;
    pthread_attr_t attributes;
    pthread_t worker, controller;
    int error;

    assert_ok(thrum_mem_alloc(f->device, BUSY_BYTES, &busy.memory));
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof before, &before), 0);
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof one, &one), 0);
    assert_int_equal(pthread_create(&worker, NULL, keep_busy, &busy), 0);
    pthread_attr_init(&attributes);
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
    pthread_attr_setschedparam(&attributes, &priority);
    clock_gettime(CLOCK_MONOTONIC, &start);
    error = pthread_create(&controller, &attributes, register_often, &busy);
    if (!error)
        pthread_join(controller, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    atomic_store(&busy.stop, 1);
    pthread_join(worker, NULL);
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    pthread_attr_destroy(&attributes);
    if (error)
        skip(); /* real-time priority is not for this user */
    assert_true(end.tv_sec - start.tv_sec < 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(test_copy_fill_reduce),
        DEVICE_TEST(test_large_work),
        DEVICE_TEST(test_zeroed_and_reused),
        DEVICE_TEST(test_memory_exhausted),
        DEVICE_TEST(test_query),
        DEVICE_TEST(test_indirect_and_multicast),
        DEVICE_TEST(test_semaphores),
        DEVICE_TEST(test_lines),
        DEVICE_TEST(test_tickets),
        DEVICE_TEST(test_meanwhile),
        DEVICE_TEST(test_commands_written_meanwhile),
        DEVICE_TEST(test_nothing_is_read_ahead),
        DEVICE_TEST(test_callback),
        DEVICE_TEST(test_sim_has_no_streams_to_import),
        DEVICE_TEST(test_events),
        DEVICE_TEST(test_events_tell_errors),
        DEVICE_TEST(test_engine_progresses),
        DEVICE_TEST(test_many_submissions),
        DEVICE_TEST(test_threads_share_a_queue),
        DEVICE_TEST(test_failure_after_a_moment),
        DEVICE_TEST(test_high_priority_gives_way),
        DEVICE_TEST(test_no_bytes),
    };

    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
