/* The conformance suite of device plugins, second part: bad commands, faults, cancels, resets, and peers that go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "device_conformance.h"
#include "device_side.h"

/* ---- bad commands ------------------------------------------------------------------------------ */

/* The newest event of the kind; expects that there is one, and that the descriptor tells of it. */
static struct thrum_ras_event take_event(const struct side *side, enum thrum_ras_kind kind)
{
    struct pollfd fd = {.fd = side->ops->event_fd(side->device), .events = POLLIN};
    struct thrum_ras_event event, found = {.kind = THRUM_RAS_KIND_COUNT};
    size_t n = 1;

    side_expect(fd.fd < 0 || poll(&fd, 1, 1000) == 1, "the event descriptor is readable");
    for (;;) {
        side_expect_ok(side->ops->get_events(side->device, &event, 1, &n), "get_events");
        if (!n)
            break;
        if (event.kind == kind)
            found = event;
    }
    side_expect(found.kind == kind, "an event of the kind");
    side_expect(fd.fd < 0 || !poll(&fd, 1, 0), "the event descriptor is quiet again");
    return found;
}

/* The second of two commands is bad: neither is done. */
static void expect_refused(const struct side *side, const struct thrum_command *bad)
{
    struct thrum_operand target = {.base = side->b};
    const struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = 8, .value = 1, .operands = &target}, *bad};
    uint64_t ticket = 77;

    side_expect(side->ops->submit(side->queue, commands, 2, &ticket) == THRUM_ERR_INVALID_COMMAND &&
                    ticket == 77,
                "INVALID_COMMAND, and no ticket");
    side_expect_ok(side_finish(side, side->queue, side_submit(side, side->queue, NULL, 0)),
                   "the queue goes on");
    side_expect(!side_word(side, side->b), "nothing of the submission is done");
}

static void expect_met(const struct side *side, const struct thrum_command *bad)
{
    void *direct = side_new_queue(side, THRUM_QUEUE_DIRECT);
    uint64_t ticket = side_submit(side, direct, bad, 1);

    side_expect(side_finish(side, direct, ticket) == THRUM_ERR_BAD_PACKET, "BAD_PACKET");
    side_expect(take_event(side, THRUM_RAS_BAD_PACKET).queue_id == side->ops->queue_id(direct),
                "of that queue");
    side->ops->queue_destroy(direct);
}

static void commands_body(struct side *side)
{
    struct thrum_operand o[] = {{.base = side->a}, {.base = side->a + 4096}};
    const struct thrum_command bad[] = {
        {.opcode = 200},
        {.opcode = THRUM_CMD_COPY, .ndst = 1, .bytes = 8, .operands = o},
        {.opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = 8},
        {.opcode = THRUM_CMD_SIGNAL,
         .ndst = 1,
         .value = 1,
         .operands = &(struct thrum_operand){.base = side->a + 4}},
        {.opcode = THRUM_CMD_WAIT, .value = 1},
        {.opcode = THRUM_CMD_CALLBACK},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        expect_refused(side, &bad[i]);
        if (side_can(side, THRUM_CAP_DIRECT_SUBMIT))
            expect_met(side, &bad[i]);
    }
}

void bad_commands_are_not_executed(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, commands_body));
}

/* ---- faults ------------------------------------------------------------------------------------- */

/* A copy from there stops a queue made for it, and says where. */
static void expect_fault(const struct side *side, uint64_t address)
{
    void *queue = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t ticket = side_copy(side, queue, side->b, address, 8), refused = 77;
    struct thrum_command nothing = {.opcode = THRUM_CMD_NOP};
    struct thrum_ras_event event;

    side_expect(side_finish(side, queue, ticket) == THRUM_ERR_FAULT, "FAULT");
    event = take_event(side, THRUM_RAS_PAGE_FAULT);
    side_expect(event.address == address && event.queue_id == side->ops->queue_id(queue) &&
                    event.generation == side->ops->generation(side->device),
                "the event says where and in which queue");
    side_expect(side->ops->submit(queue, &nothing, 1, &refused) == THRUM_ERR_FAULT && refused == 77,
                "the queue has stopped");
    side->ops->queue_destroy(queue);
}

static void fault_body(struct side *side)
{
    const uint64_t bad[] = {side->a + SIDE_BYTES - 7, 0x1234560, 8};
    struct thrum_ras_counters counters = {.size = sizeof counters};
    struct thrum_ras_event fault;
    void *waiting = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t ticket = side_wait(side, waiting, side->b + 64, 1);

    side_expect(side->ops->fault_info(side->device, &fault) == THRUM_ERR_INVALID_USAGE,
                "there was no fault yet");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fault(side, bad[i]);
    side_expect_ok(side->ops->fault_info(side->device, &fault), "fault_info");
    side_expect(fault.kind == THRUM_RAS_PAGE_FAULT && fault.address == bad[0], "the first fault");
    side_expect_ok(side->ops->counters(side->device, &counters), "counters");
    side_expect(counters.count[THRUM_RAS_PAGE_FAULT] == sizeof bad / sizeof *bad, "all counted");
    side_expect(!side_word(side, side->b), "nothing was written");
    (void)side_signal(side, side->queue, side->b + 64, 1, 0);
    side_expect_ok(side_finish(side, waiting, ticket), "other queues go on");
    side->ops->queue_destroy(waiting);
}

void bad_addresses_stop_their_queue_only(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, fault_body));
}

static void freed_body(struct side *side)
{
    uint64_t freed = side_alloc(side, 65536), word = 0, again;

    side_expect_ok(side_finish(side, side->queue, side_copy(side, side->queue, side->b, freed, 8)),
                   "while it lives"); /* known to whatever remembers translations */
    side_expect_ok(side->ops->mem_free(side->device, freed), "mem_free");
    expect_fault(side, freed);
    side_expect(side->ops->mem_peek(side->device, freed, &word, 8) < 0, "peek at freed memory");
    again = side_alloc(side, 4096); /* perhaps the same place, and less */
    expect_fault(side, (again == freed ? again : freed) + 4096);
}

void freed_memory_cannot_be_reached(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, freed_body));
}

/* ---- cancel -------------------------------------------------------------------------------------- */

static void cancel_body(struct side *side)
{
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    uint64_t first = side_wait(side, side->queue, side->a, 1);
    uint64_t second = side_fill(side, side->queue, side->b, 1, 8);
    uint64_t third = side_fill(side, side->queue, side->b + 8, 1, 8);
    uint64_t elsewhere = side_wait(side, other, side->a, 1);

    side->ops->cancel(side->queue, first, second, THRUM_ERR_ABORTED);
    side_expect(side_finish(side, side->queue, first) == THRUM_ERR_ABORTED, "the first, cancelled");
    side_expect(side_finish(side, side->queue, second) == THRUM_ERR_ABORTED, "the second");
    side_expect_ok(side_finish(side, side->queue, third), "the third is not");
    side_expect(!side_word(side, side->b) && side_word(side, side->b + 8),
                "what was cancelled is not done, what follows is");
    side_expect(side->ops->poll(other, elsewhere) == THRUM_IN_PROGRESS, "other queues wait on");
    side->ops->cancel(side->queue, first, third, THRUM_ERR_ABORTED);
    side_expect_ok(side->ops->poll(side->queue, third), "what has ended stays as it ended");
    (void)side_signal(side, side->queue, side->a, 1, 0);
    side_expect_ok(side_finish(side, other, elsewhere), "and end");
    side->ops->queue_destroy(other);
}

void cancelled_submissions_end_and_others_go_on(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, cancel_body));
}

/* ---- resets -------------------------------------------------------------------------------------- */

static void reset(struct side *side, enum thrum_reset_kind kind)
{
    uint32_t generation = side->ops->generation(side->device);
    uint64_t ticket = side_wait(side, side->queue, side->b, 1), refused = 77;
    struct thrum_command nothing = {.opcode = THRUM_CMD_NOP};

    side_expect_ok(side->ops->reset(side->device, kind), "reset");
    side_expect(side->ops->generation(side->device) == generation + 1, "the next generation");
    side_expect(side_finish(side, side->queue, ticket) == THRUM_ERR_RESET, "work ends with RESET");
    side_expect(side->ops->submit(side->queue, &nothing, 1, &refused) == THRUM_ERR_RESET &&
                    refused == 77,
                "queues of before refuse");
    (void)take_event(side, THRUM_RAS_RESET);
    side->ops->queue_destroy(side->queue);
    side->queue = side_new_queue(side, THRUM_QUEUE_DEFAULT);
}

static void soft_body(struct side *side)
{
    uint64_t ticket = side_fill(side, side->queue, side->a, 0x33, 64);

    side_expect_ok(side_finish(side, side->queue, ticket), "fill");
    reset(side, THRUM_RESET_SOFT);
    side_expect(side_word(side, side->a) == 0x3333333333333333, "memory stays");
    ticket = side_copy(side, side->queue, side->b, side->a, 64);
    side_expect_ok(side_finish(side, side->queue, ticket), "a new queue works on it");
    side_expect(side_word(side, side->b + 56) == 0x3333333333333333, "copied");
}

void soft_resets_end_work_and_keep_memory(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, soft_body));
}

static void hard_body(struct side *side)
{
    uint64_t old = side->a, word = 0;

    reset(side, THRUM_RESET_HARD);
    side_expect(side->ops->mem_peek(side->device, old, &word, 8) < 0, "memory is gone");
    side->b = side_alloc(side, SIDE_BYTES);
    if (side->b == old) /* the place is used again: another one is not */
        old = side->b + 2 * SIDE_BYTES - 8;
    expect_fault(side, old);
    side->a = side_alloc(side, SIDE_BYTES);
    side_expect(!side_word(side, side->a), "new memory is zero");
    side_expect_ok(
        side_finish(side, side->queue, side_copy(side, side->queue, side->b, side->a, 64)),
        "a new queue works on it");
}

void hard_resets_take_memory(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, hard_body));
}

/* ---- two processes ------------------------------------------------------------------------------- */

/* Process 1 has the device that process 0 tries to open. */
static void exclusive_body(struct side *side)
{
    void *device = NULL;

    if (side->index == 1) {
        side->board->memory[1] = (uint64_t)side->about.index;
        atomic_store(&side->board->stage, 1);
        side_await_stage(side, 2);
        return;
    }
    side_await_stage(side, 1);
    if (side_can(side, THRUM_CAP_EXCLUSIVE)) {
        side_expect(side->ops->open((int)side->board->memory[1], &device) == THRUM_ERR_BUSY &&
                        !device,
                    "a device of another process is BUSY");
    }
    atomic_store(&side->board->stage, 2);
}

void a_device_is_of_one_process(void **state)
{
    (void)state;
    if (!side_has_two())
        skip();
    assert_true(side_run(2, -1, exclusive_body));
}

/* Process 1 tells of its memory, and does what process 0 asks for by stages. */
static void tell_of_memory(struct side *side)
{
    struct side_board *board = side->board;

    (void)side_finish(side, side->queue, side_fill(side, side->queue, side->a, 0x21, SIDE_BYTES));
    side_expect_ok(side->ops->address(side->device, &board->address[1]), "address");
    side_expect_ok(side->ops->mem_export(side->device, side->a, &board->handle[1]), "mem_export");
    board->memory[1] = side->a;
    board->base[1] = side->ops->own_base(side->device);
    atomic_store(&board->stage, 1);
}

static void read_peer(const struct side *side, uint64_t address, const char *what)
{
    uint64_t ticket = side_copy(side, side->queue, side->b, address, 4096);

    side_expect_ok(side_finish(side, side->queue, ticket), what);
    side_expect(side_word(side, side->b + 4088) == 0x2121212121212121, what);
}

static void peers_body(struct side *side)
{
    struct side_board *board = side->board;
    uint64_t imported = 0, window = 0, ticket;
    struct thrum_mem_info info = {.size = sizeof info};

    if (!side_can(side, THRUM_CAP_LOAD_STORE))
        return;
    if (side->index == 1) {
        tell_of_memory(side);
        side_await_stage(side, 2);
        side_expect(side_word(side, side->a + 8192) == 0x1717171717171717, "what a peer stored");
        side_expect_ok(side->ops->mem_free(side->device, side->a), "mem_free");
        atomic_store(&board->stage, 3);
        side_await_stage(side, 4);
        return;
    }
    side_await_stage(side, 1);
    side_expect(side->ops->peer_access(side->device, &board->address[1]) == THRUM_PEER_LOAD_STORE,
                "LOAD_STORE between two devices of one host and user");
    side_expect_ok(side->ops->mem_import(side->device, &board->handle[1], &imported), "mem_import");
    side_expect_ok(side->ops->mem_query(side->device, imported + 9, &info), "mem_query");
    side_expect(info.kind == THRUM_MEM_PEER && info.bytes == SIDE_BYTES, "imported is PEER");
    read_peer(side, imported, "through the import");
    side_expect_ok(side->ops->peer_window_open(side->device, &board->address[1], &window),
                   "peer_window_open");
    window += board->memory[1] - board->base[1];
    read_peer(side, window, "through the window");
    ticket = side_fill(side, side->queue, window + 8192, 0x17, 4096);
    side_expect_ok(side_finish(side, side->queue, ticket), "store through the window");
    atomic_store(&board->stage, 2);
    side_await_stage(side, 3);
    expect_fault(side, imported);
    expect_fault(side, window);
    ticket =
        side_submit(side, side->queue,
                    &(struct thrum_command){.opcode = THRUM_CMD_SIGNAL,
                                            .flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_LENIENT,
                                            .ndst = 1,
                                            .value = 1,
                                            .operands = &(struct thrum_operand){.base = window}},
                    1);
    side_expect_ok(side_finish(side, side->queue, ticket), "a lenient signal is passed over");
    side->ops->peer_window_close(side->device, window - (board->memory[1] - board->base[1]));
    side_expect_ok(side->ops->mem_free(side->device, imported), "an import is given back");
    side_expect(side->ops->mem_import(side->device, &board->handle[1], &imported) < 0,
                "what is gone cannot be imported");
    atomic_store(&board->stage, 4);
}

void peers_load_and_store(void **state)
{
    (void)state;
    if (!side_has_two())
        skip();
    assert_true(side_run(2, -1, peers_body));
}

static void killed_body(struct side *side)
{
    struct side_board *board = side->board;
    uint64_t imported = 0, ticket;
    struct thrum_mem_handle nonsense;

    if (side->index == 1) {
        if (side_can(side, THRUM_CAP_LOAD_STORE))
            tell_of_memory(side);
        atomic_store(&board->stage, 1);
        side_await_stage(side, 2);
        kill(getpid(), SIGKILL);
    }
    side_await_stage(side, 1);
    memset(&nonsense, 0x5a, sizeof nonsense);
    side_expect(side->ops->mem_import(side->device, &nonsense, &imported) < 0 && !imported,
                "a handle that is none is refused");
    atomic_store(&board->stage, 2);
    for (int64_t end = now_ns() + side_wait_ns;;) {
        thrum_status_t status = side->ops->mem_import(side->device, &board->handle[1], &imported);

        if (status < 0)
            break;
        side_expect_ok(side->ops->mem_free(side->device, imported), "mem_free");
        side_expect(now_ns() < end, "a dead peer's memory can still be imported");
        sched_yield();
    }
    ticket = side_fill(side, side->queue, side->a, 1, 8);
    side_expect_ok(side_finish(side, side->queue, ticket), "this device goes on");
}

void killed_peers_are_noticed(void **state)
{
    (void)state;
    if (!side_has_two())
        skip();
    assert_true(side_run(2, 1, killed_body));
}
