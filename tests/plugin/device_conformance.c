/*
 * What every device plugin must do, tried through its table only. Run by thrum-conformance, for vendors and for our own
 * suite. What a device need not have is tried where its capabilities say that it is there. This file: memory, commands and
 * order; device_conformance_copies.c: copies and folds; device_conformance_parts.c: submissions in two parts;
 * device_conformance_errors.c: faults, resets and peers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "device/device_internal.h"
#include "device_conformance.h"
#include "device_side.h"
#include "fabric/fabric.h"
#include "holdings.h"

/* ---- devices ---------------------------------------------------------------------------------- */

static void about_body(struct side *side)
{
    struct thrum_device_properties *about = &side->about;
    uint64_t free_bytes = about->memory_free_bytes;
    int n = 0;

    side_expect(side->ops->name && *side->ops->name, "the table has a name");
    side_expect_ok(side->ops->enumerate(&n), "enumerate");
    side_expect(n >= 1, "a device");
    side_expect(memchr(about->name, 0, sizeof about->name) && *about->name, "name");
    side_expect(about->index >= 0 && about->index < n, "index");
    side_expect(about->generation >= 1 && about->generation == side->ops->generation(side->device),
                "generation");
    side_expect_ok(side->ops->properties(side->device, about), "properties, again");
    side_expect(free_bytes <= about->memory_bytes &&
                    about->memory_free_bytes <= free_bytes - 2 * SIDE_BYTES,
                "memory_free_bytes knows of what was allocated meanwhile");
    side_expect(about->semaphore_bits >= 8 && about->semaphore_bits <= 64, "semaphore_bits");
    side_expect(!about->reduce_types == !about->reduce_ops, "reductions have types");
    side_expect(!about->reduce_ops || about->max_reduce_sources >= 2, "max_reduce_sources");
    side_expect(side_can(side, THRUM_CAP_INDIRECT | THRUM_CAP_MULTICAST | THRUM_CAP_INLINE_LINE),
                "INDIRECT, MULTICAST and INLINE_LINE, which the executor stands on");
}

static void describes_itself(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, about_body));
}

/* One use of a device from open to close, in which things are left to close. */
static void use_once(const struct thrum_device_ops *ops)
{
    struct side side = {.ops = ops};

    side_open(&side);
    side_do(&side, side.queue,
            &(struct thrum_command){.opcode = THRUM_CMD_FILL,
                                    .ndst = 1,
                                    .bytes = SIDE_BYTES,
                                    .value = 7,
                                    .operands = &(struct thrum_operand){.base = side.a}});
    (void)side_new_queue(&side, THRUM_QUEUE_DEFAULT);
    (void)side_wait(&side, side.queue, side.b, 1); /* will not come */
    side_close(&side);
}

static void trace_body(struct side *side)
{
    enum { TIMES = 40 };
    const struct thrum_device_ops *ops = side->ops;
    struct holdings before, after;

    side_close(side);
    use_once(ops); /* what a library keeps after its first use is not counted */
    before = holdings_count();
    for (int i = 0; i < TIMES; i++)
        use_once(ops);
    after = holdings_count();
    side_expect(holdings_are_equal(&before, &after, TIMES), "a trace is left");
    side_open(side);
}

static void opens_and_closes_without_a_trace(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, trace_body));
}

/* ---- memory ----------------------------------------------------------------------------------- */

static void memory_body(struct side *side)
{
    static const size_t lengths[] = {1, 7, 4096, 4097, 1000003};
    uint64_t address = 7;

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int again = 0; again < 2; again++) { /* of the second something was there */
            address = side_alloc(side, lengths[i]);
            side_expect(address && address % 4096 == 0, "aligned to 4096");
            side_expect(side_is_zero(side, address, lengths[i]), "zeroed");
            (void)side_finish(side, side->queue,
                              side_fill(side, side->queue, address, 0xee, lengths[i]));
            side_expect_ok(side->ops->mem_free(side->device, address), "mem_free");
            side_expect(side->ops->mem_free(side->device, address) == THRUM_ERR_INVALID_POINTER,
                        "freed twice is INVALID_POINTER");
        }
    side_expect(side->ops->mem_free(side->device, side->a + 4096) == THRUM_ERR_INVALID_POINTER,
                "not the start is INVALID_POINTER");
    address = 7;
    side_expect(side->ops->mem_alloc(side->device, (size_t)1 << 50, &address) ==
                        THRUM_ERR_NO_DEVICE_MEMORY &&
                    address == 7,
                "too much is NO_DEVICE_MEMORY, and no output");
}

static void memory_is_aligned_zeroed_and_bounded(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, memory_body));
}

static struct thrum_mem_info query(const struct side *side, uint64_t address)
{
    struct thrum_mem_info info = {.size = sizeof info};

    side_expect_ok(side->ops->mem_query(side->device, address, &info), "mem_query");
    return info;
}

static void query_body(struct side *side)
{
    struct thrum_mem_info info = query(side, side->a + SIDE_BYTES - 1), again, host;
    uint64_t freed = side_alloc(side, 4096);
    static char ordinary[64];

    side_expect(info.kind == THRUM_MEM_DEVICE && (uintptr_t)info.base == side->a &&
                    info.bytes == SIDE_BYTES,
                "the allocation around an address");
    side_expect(info.id && info.id != query(side, side->b).id, "ids differ");
    side_expect(side->ops->address_is_device(side->a), "address_is_device of device memory");
    host = query(side, (uintptr_t)ordinary);
    side_expect(host.kind == THRUM_MEM_HOST && !host.id, "host memory is HOST");
    side_expect(!side->ops->address_is_device((uintptr_t)ordinary), "address_is_device of host's");
    again = query(side, freed);
    side_expect_ok(side->ops->mem_free(side->device, freed), "mem_free");
    info = query(side, freed);
    side_expect(info.kind == THRUM_MEM_NONE || info.kind == THRUM_MEM_HOST, "freed is none");
    freed = side_alloc(side, 4096);
    side_expect(query(side, freed).id != again.id, "an id is not used again");
}

static void memory_is_described(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, query_body));
}

static void register_body(struct side *side)
{
    static _Alignas(4096) char host[16384];
    struct thrum_mem_info info;

    side_expect_ok(side->ops->host_register(side->device, host, 8192), "host_register");
    side_expect(side->ops->host_register(side->device, host + 4096, 8192) < 0, "an overlap");
    info = query(side, (uintptr_t)host + 8191);
    side_expect(info.kind == THRUM_MEM_HOST_REGISTERED && info.base == host && info.bytes == 8192,
                "the registered range");
    memset(host, 'h', sizeof host);
    (void)side_finish(side, side->queue,
                      side_copy(side, side->queue, side->a, (uintptr_t)host + 5, 8187));
    (void)side_finish(side, side->queue,
                      side_copy(side, side->queue, (uintptr_t)host, side->b, 4096));
    side_expect((side_word(side, side->a) & 255) == 'h', "engines read host memory");
    side_expect(!host[4095] && host[4096] == 'h', "engines write host memory");
    side_expect_ok(side->ops->host_unregister(side->device, host), "host_unregister");
    side_expect(side->ops->host_unregister(side->device, host) == THRUM_ERR_INVALID_POINTER,
                "unregistered twice is INVALID_POINTER");
    side_expect(query(side, (uintptr_t)host).kind == THRUM_MEM_HOST, "it is plain again");
}

static void host_memory_is_registered_once(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, register_body));
}

/* ---- order ------------------------------------------------------------------------------------ */

#define MANY 5000

static void order_body(struct side *side)
{
    uint64_t last = 0, ticket = 0, value;

    for (uint64_t i = 1; i <= MANY; i++) { /* more than any ring has room for, none waited for */
        ticket = side_fill(side, side->queue, side->a, (uint8_t)i, 8);
        side_expect(ticket > last, "tickets grow");
        last = ticket;
        ticket = side_copy(side, side->queue, side->b + 8 * (i % 512), side->a, 8);
        last = ticket;
    }
    side_expect_ok(side_finish(side, side->queue, ticket), "the last");
    for (uint64_t i = MANY - 511; i <= MANY; i++) {
        value = side_word(side, side->b + 8 * (i % 512));
        side_expect(value == (i & 255) * 0x0101010101010101, "a copy between its fills");
    }
    side_expect_ok(side_finish(side, side->queue, side_submit(side, side->queue, NULL, 0)),
                   "nothing, submitted");
}

static void commands_take_effect_in_order(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, order_body));
}

static void timeout_body(struct side *side)
{
    uint64_t semaphore = side->b, ticket = side_wait(side, side->queue, semaphore, 3);
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    int64_t start = now_ns(), took;

    side_expect(side->ops->poll(side->queue, ticket) == THRUM_IN_PROGRESS, "it waits");
    side_expect(side->ops->wait(side->queue, ticket, 20000000) == THRUM_ERR_TIMEOUT, "TIMEOUT");
    took = now_ns() - start;
    side_expect(took >= 20000000 && took < 5000000000, "in time");
    (void)side_signal(side, other, semaphore, 2, 0);
    side_expect(side->ops->wait(side->queue, ticket, 5000000) == THRUM_ERR_TIMEOUT, "2 are not 3");
    (void)side_signal(side, other, semaphore, 1, 0); /* added */
    side_expect_ok(side_finish(side, side->queue, ticket), "3 are");
    (void)side_signal(side, other, semaphore, 9, THRUM_CMD_FLAG_SET);
    ticket = side_signal(side, other, semaphore, 4, THRUM_CMD_FLAG_SET);
    side_expect_ok(side_finish(side, other, ticket), "set");
    side_expect(side_word(side, semaphore) == 9, "SET stores, and never lowers");
    side->ops->queue_destroy(other);
}

static void waits_end_by_signals_or_time(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, timeout_body));
}

/* Two queues by turns: what was copied before a signal is there for who has waited for it. */
static void turns_body(struct side *side)
{
    enum { ROUNDS = 1000, BYTES = 3000 };
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t there = side->b, back = side->b + 64, data = side->a, seen = side->a + 65536;
    uint64_t ticket = 0, kept = side->a + 131072;

    for (uint64_t i = 1; i <= ROUNDS; i++) {
        (void)side_fill(side, side->queue, data, (uint8_t)i, BYTES);
        (void)side_signal(side, side->queue, there, 1, 0);
        (void)side_wait(side, side->queue, back, i);
        (void)side_wait(side, other, there, i);
        (void)side_copy(side, other, seen, data, BYTES);
        (void)side_signal(side, other, back, 1, 0);
        ticket = side_copy(side, side->queue, kept + 8 * (i % 1024), seen + BYTES - 8, 8);
        if (i % 100 == 0)
            side_expect_ok(side_finish(side, side->queue, ticket), "a round");
    }
    for (uint64_t i = 1; i <= ROUNDS; i++)
        side_expect(side_word(side, kept + 8 * (i % 1024)) == (i & 255) * 0x0101010101010101,
                    "data before its signal");
    side->ops->queue_destroy(other);
}

static void data_is_there_before_its_signal(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, turns_body));
}

/* The host submits, and calls nothing of the queues any more. */
static void alone_body(struct side *side)
{
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    int64_t end = now_ns() + side_wait_ns;

    (void)side_wait(side, other, side->b, 1);
    (void)side_copy(side, other, side->a, side->a + 4096, 4096);
    (void)side_signal(side, other, side->b + 64, 1, 0);
    (void)side_fill(side, side->queue, side->a + 4096, 0x11, 4096);
    (void)side_signal(side, side->queue, side->b, 1, 0);
    while (!side_word(side, side->b + 64)) {
        side_expect(now_ns() < end, "nothing happens while nobody waits");
        sched_yield();
    }
    side_expect(side_word(side, side->a + 4088) == 0x1111111111111111, "data");
    side->ops->queue_destroy(other);
}

static void queues_go_on_while_nobody_waits(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, alone_body));
}

#define THREADS 4

static void *submit_many(void *argument)
{
    const struct side *side = argument;
    uint64_t ticket = 0;

    for (int i = 0; i < 500; i++)
        ticket = side_signal(side, side->queue, side->b, 1, 0);
    side_expect_ok(side_finish(side, side->queue, ticket), "of a thread");
    return NULL;
}

static void threads_body(struct side *side)
{
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        side_expect(!pthread_create(&threads[i], NULL, submit_many, side), "thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    side_expect(side_word(side, side->b) == THREADS * 500, "each signal once");
}

static void threads_share_a_queue(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, threads_body));
}

/* ---- lines, indirect operands, callbacks ------------------------------------------------------- */

static uint64_t write_line(const struct side *side, uint64_t line, uint64_t flag, uint64_t source,
                           uint64_t bytes, uint64_t room)
{
    struct thrum_operand operands[3] = {
        {.base = line}, {.base = room ? room : source}, {source, 0}};

    return side_submit(side, side->queue,
                       &(struct thrum_command){.opcode = THRUM_CMD_WRITE_LINE,
                                               .ndst = room ? 2 : 1,
                                               .nsrc = 1,
                                               .bytes = bytes,
                                               .value = flag,
                                               .operands = operands},
                       1);
}

/* Waits for a line, copies 8 bytes of `from` to `to`; all one submission. */
static uint64_t take_line(const struct side *side, void *queue, uint64_t line, uint64_t flag,
                          uint64_t mask, uint64_t to, uint64_t from)
{
    struct thrum_operand operands[] = {{.base = line}, {.base = to}, {.base = from}};
    const struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_WAIT_LINE,
         .nsrc = 1,
         .value = flag,
         .mask = mask,
         .operands = operands},
        {.opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = 8, .operands = &operands[1]}};

    return side_submit(side, queue, commands, 2);
}

static void lines_body(struct side *side)
{
    static const uint64_t lengths[] = {0, 8, 56, 57, 4000, THRUM_LINE_LONG_BYTES};
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t line = side->b, room = side->b + 65536, to = side->b + 131072;
    uint64_t word, ticket;

    for (uint64_t i = 1; i <= 300; i++) {
        uint64_t bytes = lengths[i % 6], elsewhere = i % 2 ? room : 0;
        uint64_t last = (elsewhere ? elsewhere : line + 8) + (bytes ? bytes - 8 : 0);

        (void)side_fill(side, side->queue, side->a, (uint8_t)i, THRUM_LINE_LONG_BYTES);
        ticket = take_line(side, other, line, i << 8 | 1, ~0xffull, to, last);
        (void)write_line(side, line, i << 8 | 1, side->a, bytes, elsewhere);
        side_expect_ok(side_finish(side, other, ticket), "a line");
        word = side_word(side, to);
        side_expect(bytes < 8 || word == (i & 255) * 0x0101010101010101, "payload of a line");
    }
    side->ops->queue_destroy(other);
}

static void lines_come_whole(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, lines_body));
}

static void mismatch_body(struct side *side)
{
    uint64_t line = side->b, to = side->b + 4096, ticket;

    (void)side_fill(side, side->queue, side->a, 0x22, 64);
    (void)write_line(side, line, 5 << 8 | 7, side->a, 8, 0);
    ticket = take_line(side, side->queue, line, 5 << 8 | 9, ~0xffull, to, side->a);
    side_expect(side_finish(side, side->queue, ticket) == THRUM_ERR_MISMATCH, "MISMATCH");
    side_expect(!side_word(side, to), "the rest of the submission is not done");
    ticket = side_copy(side, side->queue, to, side->a, 8);
    side_expect_ok(side_finish(side, side->queue, ticket), "the next one is");
    side_expect(side_word(side, to) == 0x2222222222222222, "and does it");
}

static void lines_with_another_flag_are_a_mismatch(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, mismatch_body));
}

static void indirect_body(struct side *side)
{
    struct thrum_operand operands[] = {{.base = side->a, .indirect = side->b},
                                       {.base = side->a + 8}};
    struct thrum_command copy = {
        .opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = 8, .operands = operands};
    struct thrum_operand wait = {.base = side->b + 64};
    struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = 1, .operands = &wait}, copy};
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t value = 0x123456789abcdef0, offset = 4096, ticket;

    side_write(side, side->a + 8, &value, 8);
    ticket = side_submit(side, side->queue, commands, 2);
    side_write(side, side->b, &offset, 8); /* as it is when the command executes */
    (void)side_signal(side, other, side->b + 64, 1, 0);
    side_expect_ok(side_finish(side, side->queue, ticket), "copy");
    side_expect(side_word(side, side->a + 4096) == value, "base plus the word");
    side->ops->queue_destroy(other);
}

static void addresses_are_taken_from_memory(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, indirect_body));
}

static thrum_status_t ask_thrice(void *argument)
{
    return ++*(int *)argument < 3 ? (thrum_status_t)THRUM_IN_PROGRESS : THRUM_OK;
}

static thrum_status_t say_no(void *argument)
{
    (void)argument;
    return THRUM_ERR_ABORTED;
}

static void callback_body(struct side *side)
{
    struct thrum_operand target = {.base = side->a};
    int asked = 0;
    struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_CALLBACK, .callback = ask_thrice, .argument = &asked},
        {.opcode = THRUM_CMD_CALLBACK, .callback = say_no},
        {.opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = 8, .value = 1, .operands = &target}};
    uint64_t ticket;

    if (!side_can(side, THRUM_CAP_HOST_CALLBACK))
        return;
    ticket = side_submit(side, side->queue, commands, 3);
    side_expect(side_finish(side, side->queue, ticket) == THRUM_ERR_ABORTED, "a callback's error");
    side_expect(asked == 3, "asked until it was ready, and not again");
    side_expect(!side_word(side, side->a), "the rest of the submission is not done");
    side_do(side, side->queue, &commands[2]);
    side_expect(side_word(side, side->a) != 0, "the next one is");
}

static void callbacks_are_asked_again_and_may_refuse(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, callback_body));
}

/* ---- ports ------------------------------------------------------------------------------------ */

/* The fabric that is always there, from this process to itself. */
static void port_body(struct side *side)
{
    const struct thrum_fabric_ops *fabric = NULL;
    struct thrum_port_region where = {.dmabuf_fd = -1};
    struct thrum_fabric_address address;
    void *endpoint = NULL, *peer = NULL, *region = NULL;
    struct thrum_operand operands[2];
    uint64_t key = 0, ticket;

    side_expect_ok(side->ops->port_region(side->device, side->a, &where), "port_region");
    side_expect(where.device_base <= side->a &&
                    side->a + SIDE_BYTES <= where.device_base + where.bytes,
                "a region that holds the allocation");
    side_expect(where.cpu_base || where.dmabuf_fd >= 0, "a form that a fabric can register");
    side_expect_ok(fabric_plugin_load("loopback", &fabric), "loopback");
    side_expect_ok(fabric->open(NULL, &endpoint, &address), "open of loopback");
    side_expect_ok(side->ops->port_attach(side->device, fabric, endpoint), "port_attach");
    if (where.cpu_base) { /* loopback takes no dmabuf */
        side_expect_ok(
            fabric->region_register(endpoint, where.cpu_base, where.bytes, &region, &key),
            "region_register");
        side_expect_ok(fabric->connect(endpoint, &address, &peer), "connect");
        operands[0].base = side->a + 65536 - where.device_base;
        operands[1].base = side->a;
        operands[0].indirect = operands[1].indirect = 0;
        (void)side_fill(side, side->queue, side->a, 0x44, 50000);
        (void)side_submit(
            side, side->queue,
            &(struct thrum_command){.opcode = THRUM_CMD_PUT,
                                    .ndst = 1,
                                    .nsrc = 1,
                                    .bytes = 50000,
                                    .value = 3,
                                    .operands = operands,
                                    .put = {.peer = peer,
                                            .local_region = region,
                                            .remote_key = key,
                                            .signal_key = key,
                                            .signal_offset = side->a + 196608 - where.device_base}},
            1);
        ticket = side_wait(side, side->queue, side->a + 196608, 3);
        side_expect_ok(side_finish(side, side->queue, ticket), "the signal of a put");
        side_expect(side_word(side, side->a + 65536 + 49992) == 0x4444444444444444, "its data");
        side_do(side, side->queue,
                &(struct thrum_command){
                    .opcode = THRUM_CMD_PUT, .flags = THRUM_CMD_FLAG_FLUSH, .put = {.peer = peer}});
    }
    side_expect_ok(side->ops->rdma_flush(side->device), "rdma_flush");
    side_expect_ok(side->ops->port_detach(side->device, endpoint), "port_detach");
    side_expect(side->ops->port_detach(side->device, endpoint) < 0, "detached twice");
    fabric->close(endpoint);
}

static void puts_go_through_the_port(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, port_body));
}

/* ---- all -------------------------------------------------------------------------------------- */

int device_conformance_run(const struct thrum_device_ops *ops, int index)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(opens_and_closes_without_a_trace),
        cmocka_unit_test(memory_is_aligned_zeroed_and_bounded),
        cmocka_unit_test(memory_is_described),
        cmocka_unit_test(host_memory_is_registered_once),
        cmocka_unit_test(copies_and_fills_of_every_length),
        cmocka_unit_test(reductions_of_every_type_and_operation),
        cmocka_unit_test(commands_take_effect_in_order),
        cmocka_unit_test(waits_end_by_signals_or_time),
        cmocka_unit_test(data_is_there_before_its_signal),
        cmocka_unit_test(queues_go_on_while_nobody_waits),
        cmocka_unit_test(threads_share_a_queue),
        cmocka_unit_test(commands_are_taken_in_two_parts),
        cmocka_unit_test(lines_come_whole),
        cmocka_unit_test(lines_with_another_flag_are_a_mismatch),
        cmocka_unit_test(addresses_are_taken_from_memory),
        cmocka_unit_test(callbacks_are_asked_again_and_may_refuse),
        cmocka_unit_test(puts_go_through_the_port),
        cmocka_unit_test(bad_commands_are_not_executed),
        cmocka_unit_test(bad_addresses_stop_their_queue_only),
        cmocka_unit_test(freed_memory_cannot_be_reached),
        cmocka_unit_test(cancelled_submissions_end_and_others_go_on),
        cmocka_unit_test(soft_resets_end_work_and_keep_memory),
        cmocka_unit_test(hard_resets_take_memory),
        cmocka_unit_test(a_device_is_of_one_process),
        cmocka_unit_test(peers_load_and_store),
        cmocka_unit_test(killed_peers_are_noticed),
    };

    side_ops = ops;
    side_device = index;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int device_conformance(const char *plugin, const char *device)
{
    const struct thrum_device_ops *ops;
    char *end = NULL;
    long index = device ? strtol(device, &end, 10) : -1;

    if (device && (end == device || *end || index < 0 || index > INT32_MAX)) {
        fprintf(stderr, "thrum-conformance: \"%s\" is no index of a device\n", device);
        return 1;
    }
    if (device_plugin_load(plugin, &ops)) {
        fprintf(stderr, "thrum-conformance: %s\n", thrum_last_error());
        return 1;
    }
    return device_conformance_run(ops, (int)index);
}
