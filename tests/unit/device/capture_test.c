/* Capture and replay: what a graph holds, what a capture refuses, launches, events, lanes. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include <thrum/thrum.h>

#include "capture_test.h"

static thrum_status_t fail_once_asked(void *argument)
{
    return *(thrum_status_t *)argument;
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

/* b <- b + a, a <- a + a, one callback; the arrays that name operands are gone before the first launch. */
static void capture_doubling(struct fixture *f, int *calls)
{
    const void **srcs = malloc(2 * sizeof *srcs);

    srcs[0] = f->b, srcs[1] = f->a;
    assert_ok(thrum_queue_reduce(f->queue, f->b, srcs, 2, BYTES, THRUM_UINT8, THRUM_SUM));
    srcs[0] = f->a;
    assert_ok(thrum_queue_reduce(f->queue, f->a, srcs, 2, BYTES, THRUM_UINT8, THRUM_SUM));
    memset(srcs, 0xff, 2 * sizeof *srcs);
    free(srcs);
    assert_ok(thrum_copy(f->queue, f->a + BYTES, f->a, BYTES));
    assert_ok(thrum_queue_callback(f->queue, count_up, calls));
    assert_ok(thrum_fill(f->queue, f->b + BYTES, 7, BYTES));
}

static void test_commands(void **state)
{
    struct fixture *f = of(state);
    thrum_graph_t graph;
    int calls = 0;

    assert_ok(thrum_fill(f->queue, f->a, 1, BYTES));
    assert_ok(finish(f->queue));
    assert_ok(thrum_queue_capture_begin(f->queue));
    capture_doubling(f, &calls);
    graph = end(f->queue);
    assert_ok(finish(f->queue));
    assert_bytes(f->queue, f->a, 1);
    assert_int_equal(calls, 0); /* recorded, not executed */
    for (int i = 0; i < 6; i++)
        assert_ok(thrum_graph_launch(graph, f->queue));
    assert_ok(finish(f->queue));
    assert_int_equal(calls, 6);
    assert_bytes(f->queue, f->a, 64);
    assert_bytes(f->queue, f->b, 63);
    assert_bytes(f->queue, f->a + BYTES, 64);
    assert_bytes(f->queue, f->b + BYTES, 7);
    thrum_graph_destroy(graph);
}

/* Many commands, so that every array of the graph moves while it grows; payloads, lines and semaphores among them. */
static void test_many_commands(void **state)
{
    struct fixture *f = of(state);
    struct thrum_operand line = {.base = at(f->b)};
    struct thrum_line host;
    uint8_t payload[8] = "payload";
    struct thrum_command write = {.opcode = THRUM_CMD_WRITE_LINE,
                                  .ndst = 1,
                                  .bytes = sizeof payload,
                                  .value = 5,
                                  .operands = &line,
                                  .payload = payload};
    thrum_graph_t graph;
    uint64_t ticket = 1;

    assert_ok(thrum_queue_capture_begin(f->queue));
    for (int i = 0; i < 300; i++) {
        assert_ok(thrum_fill(f->queue, f->a + i * 8, (uint8_t)i, 8));
        payload[0] = (uint8_t)i;
        assert_ok(thrum_queue_submit(f->queue, &write, 1, &ticket));
        assert_int_equal(ticket, 0);
        assert_ok(thrum_copy(f->queue, f->a + 8192 + i * 8, f->b + 8, 8));
    }
    graph = end(f->queue);
    line.base = 1; /* neither is looked at any more */
    payload[0] = 0xee;
    assert_ok(thrum_graph_launch(graph, f->queue));
    thrum_graph_destroy(graph);
    for (int i = 0; i < 300; i++) {
        uint8_t bytes[8];

        assert_ok(thrum_copy_to_host(f->queue, bytes, f->a + i * 8, 8));
        assert_int_equal(bytes[7], (uint8_t)i);
        assert_ok(thrum_copy_to_host(f->queue, bytes, f->a + 8192 + i * 8, 8));
        assert_int_equal(bytes[0], (uint8_t)i);
        assert_string_equal((char *)bytes + 1, "ayload");
    }
    assert_ok(thrum_copy_to_host(f->queue, &host, f->b, sizeof host));
    assert_int_equal(host.flag, 5);
}

static uint64_t next_ticket(thrum_queue_t queue)
{
    uint64_t ticket;

    assert_ok(thrum_queue_submit(queue, NULL, 0, &ticket));
    return ticket;
}

/* Consecutive commands are one submission, but an error ends no more than it would have ended without the graph. */
static void test_batches(void **state)
{
    struct fixture *f = of(state);
    thrum_status_t answer = THRUM_ERR_LIMIT;
    thrum_graph_t graph;
    uint64_t before;

    assert_ok(thrum_queue_capture_begin(f->queue));
    for (int i = 0; i < 20; i++)
        assert_ok(thrum_fill(f->queue, f->a, (uint8_t)i, BYTES));
    assert_ok(thrum_queue_callback(f->queue, fail_once_asked, &answer));
    assert_ok(thrum_fill(f->queue, f->b, 9, BYTES));
    graph = end(f->queue);
    before = next_ticket(f->queue);
    assert_ok(thrum_graph_launch(graph, f->queue));
    assert_int_equal(next_ticket(f->queue), before + 3);
    assert_status(finish(f->queue), answer);
    assert_bytes(f->queue, f->a, 19);
    assert_bytes(f->queue, f->b, 9);
    thrum_graph_destroy(graph);
}

static void test_empty(void **state)
{
    struct fixture *f = of(state);
    thrum_graph_t graph;

    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_queue_submit(f->queue, NULL, 0, NULL));
    graph = end(f->queue);
    assert_ok(thrum_graph_launch(graph, f->queue));
    assert_ok(finish(f->queue));
    thrum_graph_destroy(graph);
    thrum_graph_destroy(NULL);
}

static void test_bad_command(void **state)
{
    struct fixture *f = of(state);
    struct thrum_command bad = {.opcode = 200};
    int called = 0;
    thrum_graph_t graph;

    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_fill(f->queue, f->a, 3, BYTES));
    assert_ok(thrum_queue_callback(f->queue, count_up, &called));
    assert_ok(thrum_queue_submit(f->queue, &bad, 1, NULL));
    assert_ok(thrum_fill(f->queue, f->a, 4, BYTES));
    graph = end(f->queue);
    assert_status(thrum_graph_launch(graph, f->queue), THRUM_ERR_INVALID_COMMAND);
    assert_bytes(f->queue, f->a, 0); /* nothing of it, also not what came before */
    assert_int_equal(called, 0);
    thrum_graph_destroy(graph);
}

/* ---- what a capture refuses ------------------------------------------------------------------------------------ */

static thrum_status_t call_sync(struct fixture *f)
{
    return thrum_queue_synchronize(f->queue);
}
static thrum_status_t call_sync_for(struct fixture *f)
{
    return thrum_queue_synchronize_for(f->queue, 0);
}
static thrum_status_t call_query(struct fixture *f)
{
    return thrum_queue_query(f->queue);
}
static thrum_status_t call_query_tickets(struct fixture *f)
{
    return thrum_queue_query_tickets(f->queue, 0, 1);
}
static thrum_status_t call_to_host(struct fixture *f)
{
    char byte;
    return thrum_copy_to_host(f->queue, &byte, f->a, 1);
}
static thrum_status_t call_to_device(struct fixture *f)
{
    return thrum_copy_to_device(f->queue, f->a, "x", 1);
}
static thrum_status_t call_begin(struct fixture *f)
{
    return thrum_queue_capture_begin(f->queue);
}
static thrum_status_t call_destroy(struct fixture *f)
{
    thrum_queue_destroy(f->queue); /* refused: it stays */
    return THRUM_ERR_INVALID_USAGE;
}

static void test_refused(void **state)
{
    struct fixture *f = of(state);
    static const struct {
        const char *name;
        thrum_status_t (*call)(struct fixture *f);
    } rows[] = {{"thrum_queue_synchronize:", call_sync},
                {"thrum_queue_synchronize_for:", call_sync_for},
                {"thrum_queue_query:", call_query},
                {"thrum_copy_to_host:", call_to_host},
                {"thrum_copy_to_device:", call_to_device},
                {"thrum_queue_capture_begin:", call_begin},
                {"thrum_queue_destroy:", call_destroy},
                {"thrum_queue_query_tickets:", call_query_tickets}};
    thrum_graph_t graph = (thrum_graph_t)f;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_ok(thrum_queue_capture_begin(f->queue));
        assert_ok(thrum_fill(f->queue, f->a, 1, BYTES));
        assert_status(rows[i].call(f), THRUM_ERR_INVALID_USAGE);
        assert_non_null(strstr(thrum_last_error(), rows[i].name));
        assert_ok(thrum_fill(f->queue, f->a, 1, BYTES)); /* it records on */
        assert_status(thrum_queue_submit(f->queue, NULL, 3, NULL), THRUM_ERR_INVALID_COMMAND);
        assert_status(thrum_queue_query(f->queue), THRUM_ERR_INVALID_USAGE);
        assert_status(thrum_queue_capture_end(f->queue, &graph), THRUM_ERR_INVALID_USAGE);
        assert_non_null(strstr(thrum_last_error(), rows[i].name)); /* the first one's */
        assert_null(graph);
        assert_ok(finish(f->queue));
        assert_bytes(f->queue, f->a, 0);
    }
}

static void test_misuse(void **state)
{
    struct fixture *f = of(state);
    thrum_graph_t graph, stale;
    thrum_device_t other;
    thrum_queue_t queue;

    assert_status(thrum_queue_capture_begin(NULL), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_queue_capture_end(NULL, &graph), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_queue_capture_end(f->queue, &graph), THRUM_ERR_INVALID_USAGE);
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_status(thrum_queue_capture_end(f->queue, NULL), THRUM_ERR_INVALID_ARGUMENT);
    stale = graph = end(f->queue);
    assert_status(thrum_graph_launch(NULL, f->queue), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_graph_launch((thrum_graph_t)f->queue, f->queue),
                  THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_graph_launch(graph, NULL), THRUM_ERR_INVALID_QUEUE);
    assert_ok(thrum_device_open(THRUM_DEVICE_ANY, &other));
    assert_ok(thrum_queue_create(other, THRUM_QUEUE_DEFAULT, &queue));
    assert_status(thrum_graph_launch(graph, queue), THRUM_ERR_INVALID_QUEUE);
    thrum_device_close(other);
    thrum_graph_destroy(graph);
    thrum_graph_destroy(stale);
    assert_status(thrum_graph_launch(stale, f->queue), THRUM_ERR_INVALID_ARGUMENT);
}

static void test_reset(void **state)
{
    struct fixture *f = of(state);
    thrum_graph_t graph, spoiled = (thrum_graph_t)f;
    thrum_queue_t old = f->queue, capturing;

    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DIRECT, &capturing));
    assert_ok(thrum_queue_capture_begin(capturing));
    assert_ok(thrum_queue_capture_begin(old));
    assert_ok(thrum_fill(old, f->a, 1, BYTES));
    graph = end(old);
    assert_ok(thrum_device_reset(f->device, THRUM_RESET_SOFT));
    assert_status(thrum_graph_launch(graph, old), THRUM_ERR_RESET);
    assert_status(thrum_fill(capturing, f->a, 1, BYTES), THRUM_ERR_RESET);
    assert_status(thrum_queue_capture_end(capturing, &spoiled), THRUM_ERR_RESET);
    assert_null(spoiled);
    thrum_queue_destroy(capturing);
    thrum_queue_destroy(old);
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &f->queue));
    assert_status(thrum_graph_launch(graph, f->queue), THRUM_ERR_RESET);
    assert_non_null(strstr(thrum_last_error(), "generation 1"));
    thrum_graph_destroy(graph);
}

/* Ends 20 ms after it was asked first: later than a submitter has patience. */
static thrum_status_t end_late(void *argument)
{
    static struct timespec first;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!first.tv_sec)
        first = now;
    if ((now.tv_sec - first.tv_sec) * 1000000000 + now.tv_nsec - first.tv_nsec < 20000000)
        return THRUM_IN_PROGRESS;
    return count_up(argument);
}

/* Waits also while the queue records, takes no error away, and spoils nothing. */
static void test_drain(void **state)
{
    struct fixture *f = of(state);
    thrum_status_t fails = THRUM_ERR_INVALID_USAGE;
    int calls = 0;
    thrum_graph_t graph;

    assert_ok(thrum_queue_drain(f->queue)); /* nothing yet */
    assert_ok(thrum_queue_callback(f->queue, end_late, &calls));
    assert_ok(thrum_queue_callback(f->queue, fail_once_asked, &fails));
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_queue_callback(f->queue, count_up, &calls));
    assert_ok(thrum_queue_drain(f->queue));
    assert_int_equal(calls, 1);
    graph = end(f->queue);
    assert_status(finish(f->queue), fails);
    assert_ok(thrum_graph_launch(graph, f->queue));
    assert_ok(thrum_queue_drain(f->queue));
    assert_int_equal(calls, 2);
    thrum_graph_destroy(graph);
    assert_status(thrum_queue_drain(NULL), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_queue_drain((thrum_queue_t)&calls), THRUM_ERR_INVALID_QUEUE);
}

/* ---- launches -------------------------------------------------------------------------------------------------- */

static void test_destroy_in_flight(void **state)
{
    struct fixture *f = of(state);
    thrum_semaphore_t gate;
    thrum_graph_t graph;
    thrum_queue_t other;

    assert_ok(thrum_semaphore_create(f->device, 0, &gate));
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DIRECT, &other));
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_queue_wait(f->queue, gate, 1));
    assert_ok(thrum_fill(f->queue, f->a, 8, BYTES));
    assert_ok(thrum_copy(f->queue, f->b, f->a, BYTES));
    graph = end(f->queue);
    thrum_queue_destroy(f->queue);
    f->queue = other; /* a graph needs not the queue on which it was captured */
    for (int i = 0; i < 3; i++)
        assert_ok(thrum_graph_launch(graph, other));
    thrum_graph_destroy(graph);
    assert_status(thrum_queue_query(other), THRUM_IN_PROGRESS);
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &other));
    assert_ok(thrum_queue_signal(other, gate, 1));
    assert_ok(finish(f->queue));
    assert_bytes(f->queue, f->b, 8);
}

/* A launch on a capturing queue becomes part of the new graph, which does not need the old one. */
static void test_nested(void **state)
{
    struct fixture *f = of(state);
    thrum_graph_t inner, outer;
    int calls = 0;

    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_queue_callback(f->queue, count_up, &calls));
    assert_ok(thrum_fill(f->queue, f->a, 3, BYTES));
    inner = end(f->queue);
    assert_ok(thrum_queue_capture_begin(f->queue));
    for (int i = 0; i < 4; i++)
        assert_ok(thrum_graph_launch(inner, f->queue));
    outer = end(f->queue);
    thrum_graph_destroy(inner);
    assert_int_equal(calls, 0);
    assert_ok(thrum_graph_launch(outer, f->queue));
    assert_ok(thrum_graph_launch(outer, f->queue));
    assert_ok(finish(f->queue));
    assert_int_equal(calls, 8);
    assert_bytes(f->queue, f->a, 3);
    thrum_graph_destroy(outer);
}

static void test_close_while_capturing(void **state)
{
    struct fixture *f = of(state);

    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_fill(f->queue, f->a, 3, BYTES));
    thrum_device_close(f->device);
    assert_ok(thrum_device_open(THRUM_DEVICE_ANY, &f->device)); /* for the fixture */
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &f->queue));
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void test_events(void **state)
{
    struct fixture *f = of(state);
    thrum_event_t start, stop;
    thrum_graph_t graph;
    int64_t ns = -1;

    assert_ok(thrum_event_create(f->device, &start));
    assert_ok(thrum_event_create(f->device, &stop));
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_event_record(start, f->queue));
    assert_ok(thrum_fill(f->queue, f->a, 1, FIXTURE_BYTES));
    assert_ok(thrum_event_wait(start, f->queue));
    assert_ok(thrum_event_record(stop, f->queue));
    graph = end(f->queue);
    assert_status(thrum_event_elapsed(start, stop, &ns), THRUM_ERR_INVALID_USAGE); /* not yet */
    for (int i = 0; i < 3; i++) {
        assert_ok(thrum_graph_launch(graph, f->queue));
        assert_ok(thrum_event_synchronize(stop));
        assert_ok(thrum_event_elapsed(start, stop, &ns));
        assert_true(ns >= 0);
    }
    assert_ok(finish(f->queue));
    thrum_event_destroy(stop);
    assert_status(thrum_graph_launch(graph, f->queue), THRUM_ERR_INVALID_ARGUMENT);
    thrum_event_destroy(start);
    thrum_graph_destroy(graph);
}

/* ---- lanes ----------------------------------------------------------------------------------------------------- */

struct lanes {
    thrum_queue_t side, other;
    thrum_event_t fork, join;
    thrum_semaphore_t gate;
};

static void lanes_open(struct fixture *f, struct lanes *l)
{
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &l->side));
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &l->other));
    assert_ok(thrum_event_create(f->device, &l->fork));
    assert_ok(thrum_event_create(f->device, &l->join));
    assert_ok(thrum_semaphore_create(f->device, 0, &l->gate));
}

static void lanes_close(struct lanes *l)
{
    thrum_semaphore_destroy(l->gate);
    thrum_event_destroy(l->fork);
    thrum_event_destroy(l->join);
    thrum_queue_destroy(l->side);
    thrum_queue_destroy(l->other);
}

/*
 * The side lane waits for the gate, counts and writes 2; meanwhile the first writes 1 elsewhere, then what the side
 * wrote.
 */
static thrum_graph_t capture_fork(struct fixture *f, struct lanes *l, thrum_status_t *result)
{
    thrum_graph_t graph = NULL;

    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_event_record(l->fork, f->queue));
    assert_ok(thrum_queue_capture_join(l->side, f->queue));
    assert_ok(thrum_queue_capture_join(l->side, f->queue)); /* again: nothing */
    assert_ok(thrum_event_wait(l->fork, l->side));
    assert_ok(thrum_queue_wait(l->side, l->gate, 1));
    assert_ok(thrum_fill(l->side, f->a, 2, BYTES));
    assert_ok(thrum_queue_callback(l->side, fail_once_asked, result));
    assert_ok(thrum_fill(f->queue, f->b, 1, BYTES));
    assert_ok(thrum_event_record(l->join, l->side));
    assert_ok(thrum_event_wait(l->join, f->queue));
    assert_ok(thrum_copy(f->queue, f->b + BYTES, f->a, BYTES));
    assert_status(thrum_queue_capture_end(l->side, &graph), THRUM_ERR_INVALID_USAGE);
    return end(f->queue);
}

static void test_fork_and_join(void **state)
{
    struct fixture *f = of(state);
    thrum_status_t result = THRUM_OK;
    struct lanes l;
    thrum_graph_t graph;
    thrum_queue_t queues[2];
    int lanes = 0;

    lanes_open(f, &l);
    graph = capture_fork(f, &l, &result);
    assert_ok(thrum_graph_lanes(graph, &lanes));
    assert_int_equal(lanes, 2);
    assert_ok(thrum_queue_synchronize(l.side)); /* captured no more */
    thrum_queue_destroy(l.side); /* the graph does not need it */
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &l.side));
    queues[0] = f->queue, queues[1] = l.other;
    assert_status(thrum_graph_launch_lanes(graph, queues, 1), THRUM_ERR_INVALID_ARGUMENT);
    assert_ok(thrum_graph_launch_lanes(graph, queues, 2));
    /* the first lane works while the side one is at the gate */
    for (uint8_t byte = 0; byte != 1;)
        assert_ok(thrum_copy_to_host(l.side, &byte, f->b, 1));
    assert_status(thrum_queue_query(f->queue), THRUM_IN_PROGRESS);
    assert_ok(thrum_queue_signal(l.side, l.gate, 1));
    assert_ok(finish(f->queue));
    assert_bytes(f->queue, f->b + BYTES, 2);

    /* all on one queue, in the order of the calls */
    assert_ok(thrum_fill(f->queue, f->b, 0, 2 * BYTES));
    assert_ok(thrum_graph_launch(graph, f->queue));
    assert_ok(finish(f->queue));
    assert_bytes(f->queue, f->b + BYTES, 2);
    thrum_graph_destroy(graph);
    lanes_close(&l);
}

/* An error of the side lane is the first one's too, once; and not that of work before the launch. */
static void test_error_of_a_lane(void **state)
{
    struct fixture *f = of(state);
    thrum_status_t result = THRUM_ERR_AUTH, before = THRUM_ERR_MISMATCH;
    struct lanes l;
    thrum_graph_t graph;
    thrum_queue_t queues[2];

    lanes_open(f, &l);
    graph = capture_fork(f, &l, &result);
    queues[0] = f->queue, queues[1] = l.other;
    assert_ok(thrum_queue_callback(l.other, fail_once_asked, &before));
    for (int after = 0; after < 2; after++) { /* the wait comes before its event, and behind it */
        if (after)
            assert_ok(thrum_queue_signal(l.side, l.gate, 1));
        assert_ok(thrum_graph_launch_lanes(graph, queues, 2));
        if (!after)
            assert_ok(thrum_queue_signal(l.side, l.gate, 1));
        assert_status(finish(f->queue), THRUM_ERR_AUTH);
        assert_ok(finish(f->queue));
    }
    result = THRUM_OK;
    assert_ok(thrum_graph_launch_lanes(graph, queues, 2));
    assert_ok(finish(f->queue));
    thrum_graph_destroy(graph);
    lanes_close(&l);
}

/* One waits for the gate, the other lane for that; meanwhile the event of the graph is recorded elsewhere. */
struct intruder {
    thrum_event_t event;
    thrum_queue_t queue;
    int checks, replays, releases;
    thrum_status_t refusal;
};

static thrum_status_t intrude_check(void *argument, thrum_queue_t queue)
{
    struct intruder *i = argument;

    (void)queue;
    i->checks++;
    return i->refusal;
}

static thrum_status_t intrude(void *argument, thrum_queue_t queue)
{
    struct intruder *i = argument;

    (void)queue;
    i->replays++;
    return thrum_event_record(i->event, i->queue);
}

static void intrude_release(void *argument)
{
    ((struct intruder *)argument)->releases++;
}

static const struct thrum_graph_call intrusion = {
    .size = sizeof(struct thrum_graph_call),
    .check = intrude_check,
    .replay = intrude,
    .release = intrude_release,
};

/* A lane waits for what its own launch has recorded, whoever has recorded the same event since. */
static void test_marks_of_a_launch(void **state)
{
    struct fixture *f = of(state);
    struct intruder intruder = {0};
    struct lanes l;
    thrum_graph_t graph;
    thrum_queue_t queues[2];

    lanes_open(f, &l);
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &intruder.queue));
    intruder.event = l.fork;
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_event_record(l.fork, f->queue));
    assert_ok(thrum_queue_capture_call(f->queue, &intrusion, &intruder));
    assert_ok(thrum_queue_capture_join(l.side, f->queue));
    assert_ok(thrum_event_wait(l.fork, l.side));
    assert_ok(thrum_fill(l.side, f->a, 2, BYTES));
    assert_ok(thrum_event_record(l.join, l.side));
    assert_ok(thrum_event_wait(l.join, f->queue));
    graph = end(f->queue);
    queues[0] = f->queue, queues[1] = l.other;
    assert_ok(thrum_queue_wait(intruder.queue, l.gate, 1));
    assert_ok(thrum_graph_launch_lanes(graph, queues, 2));
    assert_ok(finish(f->queue));
    assert_bytes(l.side, f->a, 2);
    assert_ok(thrum_queue_signal(l.side, l.gate, 1));
    assert_ok(finish(intruder.queue));
    thrum_graph_destroy(graph);
    thrum_queue_destroy(intruder.queue);
    lanes_close(&l);
}

/* Calls of the program's own: looked at before a launch does anything, made by each, let go of with the graph. */
static void test_calls(void **state)
{
    struct fixture *f = of(state);
    struct intruder intruder = {.queue = f->queue};
    struct thrum_graph_call bad = {.size = sizeof bad};
    thrum_graph_t graph = NULL;

    assert_ok(thrum_event_create(f->device, &intruder.event));
    assert_status(thrum_queue_capture_call(f->queue, &intrusion, &intruder),
                  THRUM_ERR_INVALID_USAGE);
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_status(thrum_queue_capture_call(NULL, &intrusion, &intruder), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_queue_capture_call(f->queue, NULL, &intruder), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_queue_capture_call(f->queue, &bad, &intruder), THRUM_ERR_INVALID_ARGUMENT);
    assert_ok(thrum_fill(f->queue, f->a, 7, BYTES));
    assert_ok(thrum_queue_capture_call(f->queue, &intrusion, &intruder));
    graph = end(f->queue);
    intruder.refusal = THRUM_ERR_AUTH;
    assert_status(thrum_graph_launch(graph, f->queue), THRUM_ERR_AUTH);
    assert_bytes(f->queue, f->a, 0);
    assert_int_equal(intruder.replays, 0);
    intruder.refusal = THRUM_OK;
    for (int i = 1; i <= 3; i++) {
        assert_ok(thrum_graph_launch(graph, f->queue));
        assert_int_equal(intruder.replays, i);
    }
    assert_int_equal(intruder.checks, 4);
    assert_int_equal(intruder.releases, 0);
    thrum_graph_destroy(graph);
    assert_int_equal(intruder.releases, 1);

    assert_ok(thrum_queue_capture_begin(f->queue)); /* a capture that comes to nothing */
    assert_ok(thrum_queue_capture_call(f->queue, &intrusion, &intruder));
    assert_status(thrum_queue_query(f->queue), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_queue_capture_end(f->queue, &graph), THRUM_ERR_INVALID_USAGE);
    assert_int_equal(intruder.releases, 2);
    thrum_event_destroy(intruder.event);
}

/* An event that is gone, or a queue that has stopped: no lane begins. */
static void test_nothing_half_launched(void **state)
{
    struct fixture *f = of(state);
    thrum_queue_t queues[2];
    thrum_graph_t graph;
    struct lanes l;

    lanes_open(f, &l);
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_fill(f->queue, f->a, 4, BYTES));
    assert_ok(thrum_event_record(l.fork, f->queue));
    assert_ok(thrum_queue_capture_join(l.side, f->queue));
    assert_ok(thrum_event_wait(l.fork, l.side));
    assert_ok(thrum_fill(l.side, f->b, 4, BYTES));
    assert_ok(thrum_event_record(l.join, l.side));
    assert_ok(thrum_event_wait(l.join, f->queue));
    graph = end(f->queue);
    queues[0] = f->queue, queues[1] = l.other;
    assert_ok(thrum_fill(l.other, (void *)8, 1, BYTES)); /* a page fault */
    assert_status(finish(l.other), THRUM_ERR_FAULT);
    assert_status(thrum_graph_launch_lanes(graph, queues, 2), THRUM_ERR_FAULT);
    queues[1] = l.side;
    thrum_event_destroy(l.join);
    assert_status(thrum_graph_launch_lanes(graph, queues, 2), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_graph_launch(graph, f->queue), THRUM_ERR_INVALID_ARGUMENT);
    assert_bytes(f->queue, f->a, 0);
    assert_bytes(f->queue, f->b, 0);
    thrum_graph_destroy(graph);
    lanes_close(&l);
}

#define MANY 100

/* More lanes than fit into anything; each writes a byte of its own. */
static void test_many_lanes(void **state)
{
    struct fixture *f = of(state);
    thrum_queue_t queues[MANY];
    thrum_event_t fork, joins[MANY];
    thrum_graph_t graph;
    uint8_t bytes[MANY];

    assert_ok(thrum_event_create(f->device, &fork));
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_event_record(fork, f->queue));
    queues[0] = f->queue;
    for (int i = 1; i < MANY; i++) {
        assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &queues[i]));
        assert_ok(thrum_event_create(f->device, &joins[i]));
        assert_ok(thrum_queue_capture_join(queues[i], f->queue));
        assert_ok(thrum_event_wait(fork, queues[i]));
        assert_ok(thrum_fill(queues[i], f->a + i, (uint8_t)i, 1));
        assert_ok(thrum_event_record(joins[i], queues[i]));
        assert_ok(thrum_event_wait(joins[i], f->queue));
    }
    assert_ok(thrum_copy(f->queue, f->b, f->a, MANY));
    graph = end(f->queue);
    assert_ok(thrum_graph_launch_lanes(graph, queues, MANY));
    assert_ok(finish(f->queue));
    assert_ok(thrum_copy_to_host(f->queue, bytes, f->b, MANY));
    for (int i = 1; i < MANY; i++) {
        assert_int_equal(bytes[i], i);
        thrum_queue_destroy(queues[i]);
        thrum_event_destroy(joins[i]);
    }
    thrum_event_destroy(fork);
    thrum_graph_destroy(graph);
}

#define DRIVERS 4
#define STEPS 500

struct driver {
    pthread_t thread;
    thrum_queue_t queue;
    char *bytes;
    thrum_event_t own;
    int calls;
    bool failed;
};

static void *drive(void *argument)
{
    struct driver *d = argument;

    for (int i = 0; i < STEPS && !d->failed; i++)
        d->failed = thrum_fill(d->queue, d->bytes + i % BYTES, (uint8_t)i, 1) ||
                    thrum_queue_callback(d->queue, count_up, &d->calls) ||
                    thrum_event_record(d->own, d->queue) || thrum_event_wait(d->own, d->queue);
    return NULL;
}

/* One capture whose lanes are driven by a thread each. */
static void test_threads(void **state)
{
    struct fixture *f = of(state);
    struct driver drivers[DRIVERS] = {{.queue = f->queue}};
    thrum_queue_t queues[DRIVERS];
    thrum_graph_t graph;

    assert_ok(thrum_queue_capture_begin(f->queue));
    for (int i = 0; i < DRIVERS; i++) {
        struct driver *d = &drivers[i];

        if (i)
            assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &d->queue));
        assert_ok(thrum_queue_capture_join(d->queue, f->queue));
        assert_ok(thrum_event_create(f->device, &d->own));
        d->bytes = f->a + i * BYTES;
        queues[i] = d->queue;
    }
    for (int i = 0; i < DRIVERS; i++)
        assert_int_equal(pthread_create(&drivers[i].thread, NULL, drive, &drivers[i]), 0);
    for (int i = 0; i < DRIVERS; i++) {
        pthread_join(drivers[i].thread, NULL);
        assert_false(drivers[i].failed);
    }
    graph = end(f->queue);
    for (int launches = 1; launches <= 2; launches++) {
        assert_ok(thrum_graph_launch_lanes(graph, queues, DRIVERS));
        for (int i = 0; i < DRIVERS; i++) {
            assert_ok(finish(queues[i]));
            assert_int_equal(drivers[i].calls, launches * STEPS);
        }
    }
    for (int i = 0; i < DRIVERS; i++) {
        uint8_t bytes[BYTES];

        assert_ok(thrum_copy_to_host(f->queue, bytes, drivers[i].bytes, BYTES));
        for (int b = 0; b < BYTES; b++)
            assert_int_equal(bytes[b], (uint8_t)(b + BYTES < STEPS ? b + BYTES : b));
        thrum_event_destroy(drivers[i].own);
        if (i)
            thrum_queue_destroy(drivers[i].queue);
    }
    thrum_graph_destroy(graph);
}

static void test_bad_joins(void **state)
{
    struct fixture *f = of(state);
    struct lanes l;
    thrum_graph_t graph = NULL;

    lanes_open(f, &l);
    assert_status(thrum_queue_capture_join(l.side, f->queue), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_queue_capture_join(NULL, f->queue), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_queue_capture_join(l.side, NULL), THRUM_ERR_INVALID_QUEUE);
    assert_status(thrum_graph_lanes(NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_queue_capture_begin(l.other));
    assert_ok(thrum_queue_capture_join(l.side, f->queue));
    assert_status(thrum_queue_capture_join(l.side, l.other), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_queue_synchronize(l.side), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_queue_capture_end(f->queue, &graph), THRUM_ERR_INVALID_USAGE);
    assert_ok(thrum_queue_synchronize(l.side)); /* it goes with the first */
    assert_ok(thrum_queue_capture_end(l.other, &graph));
    thrum_graph_destroy(graph);
    lanes_close(&l);
}

/* Each launch waits for the record that is the newest then, wherever it was made. */
static void test_wait_for_outside_event(void **state)
{
    struct fixture *f = of(state);
    thrum_event_t event;
    thrum_graph_t graph;
    thrum_queue_t producer;
    thrum_semaphore_t gate;

    assert_ok(thrum_event_create(f->device, &event));
    assert_ok(thrum_semaphore_create(f->device, 0, &gate));
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &producer));
    assert_ok(thrum_queue_capture_begin(f->queue));
    assert_ok(thrum_event_wait(event, f->queue));
    assert_ok(thrum_copy(f->queue, f->b, f->a, BYTES));
    graph = end(f->queue);
    for (uint64_t i = 1; i <= 3; i++) {
        thrum_queue_t opener;

        assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &opener));
        assert_ok(thrum_queue_wait(producer, gate, i));
        assert_ok(thrum_fill(producer, f->a, (uint8_t)i, BYTES));
        assert_ok(thrum_event_record(event, producer));
        assert_ok(thrum_graph_launch(graph, f->queue));
        assert_status(thrum_queue_query(f->queue), THRUM_IN_PROGRESS);
        assert_ok(thrum_queue_signal(opener, gate, 1));
        assert_ok(finish(f->queue));
        assert_bytes(f->queue, f->b, (int)i);
        thrum_queue_destroy(opener);
    }
    thrum_graph_destroy(graph);
    thrum_event_destroy(event);
}

#define on_device(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_device(test_commands),      on_device(test_many_commands),
        on_device(test_batches),       on_device(test_empty),
        on_device(test_bad_command),   on_device(test_refused),
        on_device(test_misuse),        on_device(test_reset),
        on_device(test_drain),         on_device(test_destroy_in_flight),
        on_device(test_nested),        on_device(test_close_while_capturing),
        on_device(test_events),        on_device(test_wait_for_outside_event),
        on_device(test_fork_and_join), on_device(test_error_of_a_lane),
        on_device(test_bad_joins),     on_device(test_marks_of_a_launch),
        on_device(test_calls),         on_device(test_nothing_half_launched),
        on_device(test_many_lanes),    on_device(test_threads),
    };

    return cmocka_run_group_tests_name("capture", tests, NULL, NULL);
}
