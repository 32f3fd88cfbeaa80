/*
 * Communicators under rough treatment, from one process: calls that fail while others are in flight, queues and devices
 * that go before the communicator, callbacks that call back, deadlines at the end of their range.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define RANKS 2
#define BYTES ((size_t)1 << 20)

static thrum_device_t devices[RANKS];
static thrum_queue_t queues[RANKS];
static thrum_comm_t comms[RANKS];
static uint8_t *sends[RANKS], *recvs[RANKS];

#define ok(call) ok_at((call), #call, __LINE__)
static void ok_at(thrum_status_t status, const char *call, int line)
{
    if (status != THRUM_OK)
        fail_msg("line %d: %s: %s: %s", line, call, thrum_status_name(status), thrum_last_error());
}

static int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int make(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++) {
        void *address;

        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[r]));
        ok(thrum_queue_create(devices[r], THRUM_QUEUE_DEFAULT, &queues[r]));
        ok(thrum_mem_alloc(devices[r], BYTES, &address));
        sends[r] = address;
        ok(thrum_mem_alloc(devices[r], BYTES, &address));
        recvs[r] = address;
        ok(thrum_fill(queues[r], sends[r], (uint8_t)(r + 1), BYTES));
    }
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++) {
        thrum_comm_destroy(comms[r]);
        comms[r] = NULL;
        thrum_queue_destroy(queues[r]);
        thrum_device_close(devices[r]);
    }
    return 0;
}

static void join(int64_t deadline_ms)
{
    struct thrum_comm_config config = {.size = sizeof config, .deadline_ms = deadline_ms};

    ok(thrum_comm_init_all(devices, RANKS, &config, comms));
}

/* A disagreement is found also when the ranks agree again right after it. */
static void mismatch_with_more_behind(void **state)
{
    const size_t counts[] = {10, 5000};

    (void)state;
    for (size_t c = 0; c < 2; c++) {
        join(20000);
        for (int r = 0; r < RANKS; r++) {
            ok(thrum_allreduce(sends[r], recvs[r], counts[c] + (size_t)r, THRUM_UINT8, THRUM_SUM,
                               comms[r], queues[r]));
            for (int i = 0; i < 3; i++)
                ok(thrum_allreduce(sends[r], recvs[r], 64, THRUM_UINT8, THRUM_SUM, comms[r],
                                   queues[r]));
        }
        for (int r = 0; r < RANKS; r++) {
            thrum_status_t status = thrum_queue_synchronize(queues[r]), kept;
            const char *message;

            assert_int_equal(status, THRUM_ERR_MISMATCH);
            assert_non_null(strstr(thrum_last_error(), "rank 0 called allreduce #1"));
            assert_non_null(strstr(thrum_last_error(), "rank 1 called allreduce #1"));
            ok(thrum_comm_async_error(comms[r], &kept, &message));
            assert_int_equal(kept, THRUM_ERR_MISMATCH);
        }
        for (int r = 0; r < RANKS; r++) {
            thrum_comm_destroy(comms[r]);
            comms[r] = NULL;
        }
    }
}

static void longest_deadline(void **state)
{
    int64_t end = clock_ns() + 100000000;

    (void)state;
    join(INT64_MAX);
    ok(thrum_allreduce(sends[0], recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]));
    while (clock_ns() < end) {
        thrum_status_t status;
        ok(thrum_comm_async_error(comms[0], &status, NULL));
        assert_int_equal(status, THRUM_OK);
    }
    ok(thrum_allreduce(sends[1], recvs[1], 64, THRUM_UINT8, THRUM_SUM, comms[1], queues[1]));
    for (int r = 0; r < RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
}

/* A bad buffer refuses the whole group: what was good in it does not begin either. */
static void bad_buffer_in_a_group(void **state)
{
    (void)state;
    join(20000);
    for (int p2p = 0; p2p < 2; p2p++) {
        ok(thrum_group_start());
        ok(thrum_allreduce(sends[0], recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]));
        if (p2p)
            assert_int_equal(thrum_send(sends[0], BYTES + 1, THRUM_UINT8, 1, comms[0], queues[0]),
                             THRUM_ERR_INVALID_POINTER);
        else
            assert_int_equal(
                thrum_allreduce(NULL, recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]),
                THRUM_ERR_INVALID_POINTER);
        assert_int_equal(thrum_group_end(), THRUM_ERR_INVALID_POINTER);
        ok(thrum_queue_synchronize_for(queues[0], 5000000000)); /* nothing is there to wait for */
    }
    for (int r = 0; r < RANKS; r++)
        ok(thrum_barrier(comms[r], queues[r]));
    for (int r = 0; r < RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
}

/* Calls do not wait, also when the second needs more memory to stand for host buffers than the first. */
static void host_buffers_that_grow(void **state)
{
    enum { SMALL = 1000, LARGE = 300000 };
    uint8_t *small = calloc(RANKS, SMALL), *large = calloc(RANKS, LARGE);

    (void)state;
    assert_non_null(small);
    assert_non_null(large);
    memset(small, 3, (size_t)RANKS * SMALL);
    memset(large, 4, (size_t)RANKS * LARGE);
    join(3000);
    for (int r = 0; r < RANKS; r++) {
        ok(thrum_allreduce(small + r * SMALL, small + r * SMALL, SMALL, THRUM_UINT8, THRUM_SUM,
                           comms[r], queues[r]));
        ok(thrum_allreduce(large + r * LARGE, large + r * LARGE, LARGE, THRUM_UINT8, THRUM_SUM,
                           comms[r], queues[r]));
    }
    for (int r = 0; r < RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
    for (int i = 0; i < RANKS * SMALL; i++)
        assert_int_equal(small[i], 6);
    for (int i = 0; i < RANKS * LARGE; i++)
        assert_int_equal(large[i], 8);
    free(small);
    free(large);
}

/* The threads that have executed the callback: who submits, the device's engine, the communicator's own. */
static pthread_t seen[3];
static int nseen;

/* Aborts once the third thread is in it; until then it asks to be called again. */
static thrum_status_t abort_callback(void *argument)
{
    int rank, i;

    for (i = 0; i < nseen; i++)
        if (pthread_equal(seen[i], pthread_self()))
            break;
    if (i == nseen)
        seen[nseen++] = pthread_self();
    if (nseen < 3)
        return THRUM_IN_PROGRESS;
    if (thrum_comm_rank(comms[0], &rank))
        return THRUM_ERR_INTERNAL;
    return thrum_comm_abort(*(thrum_comm_t *)argument);
}

/* Abort may be called from anywhere, so also from a callback, whoever executes it. */
static void abort_in_a_callback(void **state)
{
    thrum_status_t status;

    (void)state;
    for (int i = 0; i < 4; i++) {
        join(20000);
        nseen = 0;
        ok(thrum_queue_callback(queues[0], abort_callback, &comms[0]));
        ok(thrum_allreduce(sends[0], recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]));
        /* no wait: the communicator's own thread may be the one who executes it */
        do
            ok(thrum_comm_async_error(comms[1], &status, NULL));
        while (!status);
        assert_int_equal(status, THRUM_ERR_ABORTED);
        assert_int_equal(thrum_queue_synchronize(queues[0]), THRUM_ERR_ABORTED);
        for (int r = 0; r < RANKS; r++) {
            thrum_comm_destroy(comms[r]);
            comms[r] = NULL;
        }
    }
}

/* A queue a step, thrown away after it, does not add up. */
static void many_short_lived_queues(void **state)
{
    enum { QUEUES = 66000 }; /* more than there are handles */

    (void)state;
    ok(thrum_comm_init_all(devices, 1, NULL, comms));
    for (int i = 0; i < QUEUES; i++) {
        thrum_queue_t queue;
        ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &queue));
        ok(thrum_barrier(comms[0], queue));
        ok(thrum_queue_synchronize(queue));
        thrum_queue_destroy(queue);
    }
}

static _Atomic bool stop_submitting;

static void *submit_small(void *argument)
{
    while (!atomic_load(&stop_submitting))
        if (thrum_allreduce(sends[0], recvs[0], 8, THRUM_UINT8, THRUM_SUM, argument, queues[0]))
            return argument;
    return NULL;
}

/* Synchronize waits for what its own thread has submitted, whatever another submits to the queue meanwhile. */
static void two_threads_on_one_queue(void **state)
{
    int64_t end = clock_ns() + 1000000000;
    thrum_event_t event;
    pthread_t thread;
    void *failed;
    int early = 0;

    (void)state;
    ok(thrum_comm_init_all(devices, 1, NULL, comms));
    ok(thrum_event_create(devices[0], &event));
    atomic_store(&stop_submitting, false);
    assert_int_equal(pthread_create(&thread, NULL, submit_small, comms[0]), 0);
    while (clock_ns() < end && !early) {
        ok(thrum_event_record(event, queues[0]));
        ok(thrum_queue_synchronize(queues[0]));
        early += thrum_event_query(event) != THRUM_OK;
    }
    atomic_store(&stop_submitting, true);
    pthread_join(thread, &failed);
    thrum_event_destroy(event);
    assert_null(failed);
    assert_int_equal(early, 0);
}

static _Atomic bool stop_asking;

static void *ask(void *comm)
{
    struct thrum_comm_memory_info memory = {.size = sizeof memory};

    while (!atomic_load(&stop_asking))
        if (thrum_comm_memory(comm, &memory) || memory.host_bytes > memory.host_limit_bytes)
            return comm;
    return NULL;
}

/* Any thread may ask what a communicator holds, while its own opens and closes things. */
static void memory_is_asked_for_meanwhile(void **state)
{
    struct thrum_comm_memory_info before = {.size = sizeof before}, after = {.size = sizeof after};
    thrum_persistent_t persistent;
    thrum_window_t window;
    pthread_t thread;
    void *failed;

    (void)state;
    ok(thrum_comm_init_all(devices, 1, NULL, comms));
    ok(thrum_comm_memory(comms[0], &before));
    atomic_store(&stop_asking, false);
    assert_int_equal(pthread_create(&thread, NULL, ask, comms[0]), 0);
    for (int i = 0; i < 500; i++) {
        ok(thrum_comm_register(comms[0], recvs[0], 64, &window));
        ok(thrum_allreduce_init(sends[0], recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0],
                                &persistent));
        thrum_persistent_free(persistent);
        ok(thrum_comm_deregister(window));
    }
    atomic_store(&stop_asking, true);
    pthread_join(thread, &failed);
    assert_null(failed);
    ok(thrum_comm_memory(comms[0], &after));
    assert_int_equal(after.host_limit_bytes, before.host_limit_bytes);
}

/* The device stays until the last communicator on it is gone. */
static void device_closed_first(void **state)
{
    int64_t end = clock_ns() + 100000000;
    thrum_status_t status;

    (void)state;
    join(20000);
    for (int r = 0; r < RANKS; r++)
        ok(thrum_barrier(comms[r], queues[r]));
    thrum_device_close(devices[0]);
    while (clock_ns() < end) /* a few ticks of the control thread */
        ok(thrum_comm_async_error(comms[0], &status, NULL));
    thrum_comm_destroy(comms[1]);
    thrum_comm_destroy(comms[0]);
    comms[0] = comms[1] = NULL;
}

/* A group on two queues of which one stops: the other gets its end as well. */
static void one_of_two_queues_faults(void **state)
{
    thrum_queue_t other, third;
    thrum_semaphore_t gate;
    thrum_status_t status;

    (void)state;
    join(500);
    ok(thrum_queue_create(devices[0], THRUM_QUEUE_DIRECT, &other));
    ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &third));
    ok(thrum_semaphore_create(devices[0], 0, &gate));
    ok(thrum_queue_wait(other, gate, 1));
    ok(thrum_copy(other, recvs[0], (void *)(uintptr_t)0x1000, 64));
    ok(thrum_group_start());
    ok(thrum_send(sends[0], 64, THRUM_UINT8, 1, comms[0], queues[0]));
    ok(thrum_recv(recvs[0], 64, THRUM_UINT8, 1, comms[0], other));
    ok(thrum_group_end());
    ok(thrum_queue_signal(third, gate, 1)); /* lets it run into the bad address */
    status = thrum_queue_synchronize_for(queues[0], 10000000000);
    if (status == THRUM_OK || status == THRUM_ERR_TIMEOUT)
        fail_msg("%s", thrum_last_error());
    thrum_queue_destroy(other);
    thrum_queue_destroy(third);
    thrum_semaphore_destroy(gate);
}

static void in_place_on_one_rank(void **state)
{
    (void)state;
    join(20000);
    for (size_t count = 1; count < 200000; count = count * 7 + 1)
        for (int which = 0; which < 3; which++) {
            for (int r = 0; r < RANKS; r++) {
                ok(thrum_fill(queues[r], sends[r], (uint8_t)(r + 1), BYTES));
                ok(thrum_fill(queues[r], recvs[r], (uint8_t)(r + 1), BYTES));
            }
            for (int r = 0; r < RANKS; r++) {
                uint8_t *send = r ? sends[r] : recvs[r];
                if (which == 0)
                    ok(thrum_allreduce(send, recvs[r], count, THRUM_UINT8, THRUM_SUM, comms[r],
                                       queues[r]));
                else if (which == 1)
                    ok(thrum_allgather(send, recvs[r], count, THRUM_UINT8, comms[r], queues[r]));
                else
                    ok(thrum_broadcast(send, recvs[r], count, THRUM_UINT8, 0, comms[r], queues[r]));
            }
            for (int r = 0; r < RANKS; r++) {
                uint8_t *got = malloc(2 * count);
                assert_non_null(got);
                ok(thrum_copy_to_host(queues[r], got, recvs[r], 2 * count));
                for (size_t i = 0; i < count; i++) {
                    if (got[i] != (which ? 1 : 3))
                        fail_msg("which %d rank %d count %zu at %zu: %d", which, r, count, i,
                                 got[i]);
                    if (which == 1 && got[count + i] != 2)
                        fail_msg("which %d rank %d count %zu at %zu: %d", which, r, count, i,
                                 got[count + i]);
                }
                free(got);
            }
        }
}

/* Behind a wait that nobody satisfies, any number of operations: abort and destroy are quick all the same. */
static void destroy_behind_a_closed_gate(void **state)
{
    thrum_semaphore_t gate;
    int64_t begin;

    (void)state;
    join(20000);
    ok(thrum_semaphore_create(devices[0], 0, &gate));
    ok(thrum_queue_wait(queues[0], gate, 1));
    for (int i = 0; i < 20; i++)
        ok(thrum_barrier(comms[0], queues[0]));
    begin = clock_ns();
    ok(thrum_comm_abort(comms[0]));
    thrum_comm_destroy(comms[0]);
    comms[0] = NULL;
    assert_true(clock_ns() - begin < INT64_C(5000000000));
    thrum_queue_destroy(queues[0]);
    queues[0] = NULL;
    thrum_semaphore_destroy(gate);
}

/* Ranks that call different things about no elements at all. */
static void mismatch_of_nothing(void **state)
{
    thrum_status_t status = THRUM_OK;

    (void)state;
    join(2000);
    ok(thrum_allreduce(NULL, NULL, 0, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]));
    ok(thrum_broadcast(NULL, NULL, 0, THRUM_UINT8, 0, comms[1], queues[1]));
    for (int r = 0; r < RANKS; r++) {
        thrum_status_t mine = thrum_queue_synchronize(queues[r]);
        if (mine)
            status = mine;
    }
    assert_int_equal(status, THRUM_ERR_MISMATCH);
}

/* A call that was refused was not made: the deadline's message says who is missing. */
static void refused_call_was_not_made(void **state)
{
    thrum_status_t status;

    (void)state;
    join(1500);
    assert_true(thrum_copy(queues[0], recvs[0], (void *)(uintptr_t)0x1000, 64) < 0 ||
                thrum_queue_synchronize(queues[0]) < 0);
    assert_true(
        thrum_allreduce(sends[0], recvs[0], 64, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]) < 0);
    ok(thrum_allreduce(sends[1], recvs[1], 64, THRUM_UINT8, THRUM_SUM, comms[1], queues[1]));
    status = thrum_queue_synchronize(queues[1]);
    assert_int_equal(status, THRUM_ERR_TIMEOUT);
    if (!strstr(thrum_last_error(), "rank 0 has not called it"))
        fail_msg("%s", thrum_last_error());
}

static void lonely_send(void **state)
{
    (void)state;
    join(600);
    ok(thrum_send(sends[0], BYTES, THRUM_UINT8, 1, comms[0], queues[0]));
    assert_int_equal(thrum_queue_synchronize(queues[0]), THRUM_ERR_TIMEOUT);
    if (!strstr(thrum_last_error(), "rank 1 has not received message #1 of rank 0"))
        fail_msg("%s", thrum_last_error());
}

/* A child of fork is told that the communicator is not its own, and does not hang in it. */
static void child_of_fork(void **state)
{
    int child_status;
    pid_t child;

    (void)state;
    join(20000);
    child = fork();
    if (!child) {
        alarm(20);
        if (thrum_barrier(comms[0], queues[0]) != THRUM_ERR_INVALID_COMM)
            _exit(1);
        thrum_comm_destroy(comms[0]);
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &child_status, 0), child);
    assert_int_equal(child_status, 0);
    for (int r = 0; r < RANKS; r++)
        ok(thrum_barrier(comms[r], queues[r]));
    for (int r = 0; r < RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
}

/* Memory freed under a collective: both ranks are told where, and the queue of the other rank goes on. */
static void freed_under_a_collective(void **state)
{
    const char *access = getenv("THRUM_PEER_ACCESS");

    (void)state;
    if (access && !strcmp(access, "none"))
        skip(); /* what a fabric has registered it may still write */
    join(20000);
    ok(thrum_queue_synchronize(queues[0]));
    ok(thrum_allreduce(sends[0], recvs[0], 4096, THRUM_UINT8, THRUM_SUM, comms[0], queues[0]));
    ok(thrum_mem_free(devices[0], recvs[0]));
    ok(thrum_allreduce(sends[1], recvs[1], 4096, THRUM_UINT8, THRUM_SUM, comms[1], queues[1]));
    for (int r = 0; r < RANKS; r++) {
        const char *message;
        thrum_status_t status;

        assert_int_equal(thrum_queue_synchronize(queues[r]), THRUM_ERR_FAULT);
        ok(thrum_comm_async_error(comms[r], &status, &message));
        assert_int_equal(status, THRUM_ERR_FAULT);
        if (!strstr(message, "page-fault at 0x"))
            fail_msg("\"%s\" does not say where", message);
    }
    ok(thrum_fill(queues[1], recvs[1], 0, 64));
    ok(thrum_queue_synchronize(queues[1]));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mismatch_with_more_behind, make, unmake),
        cmocka_unit_test_setup_teardown(longest_deadline, make, unmake),
        cmocka_unit_test_setup_teardown(bad_buffer_in_a_group, make, unmake),
        cmocka_unit_test_setup_teardown(host_buffers_that_grow, make, unmake),
        cmocka_unit_test_setup_teardown(abort_in_a_callback, make, unmake),
        cmocka_unit_test_setup_teardown(many_short_lived_queues, make, unmake),
        cmocka_unit_test_setup_teardown(two_threads_on_one_queue, make, unmake),
        cmocka_unit_test_setup_teardown(memory_is_asked_for_meanwhile, make, unmake),
        cmocka_unit_test_setup_teardown(device_closed_first, make, unmake),
        cmocka_unit_test_setup_teardown(one_of_two_queues_faults, make, unmake),
        cmocka_unit_test_setup_teardown(in_place_on_one_rank, make, unmake),
        cmocka_unit_test_setup_teardown(destroy_behind_a_closed_gate, make, unmake),
        cmocka_unit_test_setup_teardown(mismatch_of_nothing, make, unmake),
        cmocka_unit_test_setup_teardown(refused_call_was_not_made, make, unmake),
        cmocka_unit_test_setup_teardown(lonely_send, make, unmake),
        cmocka_unit_test_setup_teardown(freed_under_a_collective, make, unmake),
        cmocka_unit_test_setup_teardown(child_of_fork, make, unmake),
    };

    setenv("THRUM_QUEUE_DEPTH", "256", 0); /* small rings: many queues are made */
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
