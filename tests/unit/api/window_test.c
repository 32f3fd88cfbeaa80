/*
 * Puts, signals and waits between ranks of one process, most of them from one thread. All of it with peer access, and in a
 * process of its own without.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define RANKS 4
#define COUNT 20000 /* of int32 in each rank's window */

static bool peer_access;
static thrum_device_t devices[RANKS];
static thrum_queue_t queues[RANKS];
static int32_t *targets[RANKS], *sources[RANKS]; /* device memory, COUNT each */
static int32_t host[RANKS][COUNT];
static thrum_comm_t comms[RANKS]; /* new for each test */
static thrum_window_t windows[RANKS]; /* on targets */

#define ok(call) ok_at((call), #call, __LINE__)
static void ok_at(thrum_status_t status, const char *call, int line)
{
    if (status != THRUM_OK)
        fail_msg("line %d: %s: %s: %s", line, call, thrum_status_name(status), thrum_last_error());
}

#define refused(call, status, text) refused_at((call), #call, status, text, __LINE__)
static void refused_at(thrum_status_t status, const char *call, thrum_status_t wanted,
                       const char *text, int line)
{
    if (status != wanted)
        fail_msg("line %d: %s: %s, not %s", line, call, thrum_status_name(status),
                 thrum_status_name(wanted));
    if (!strstr(thrum_last_error(), text))
        fail_msg("line %d: %s: \"%s\" does not say \"%s\"", line, call, thrum_last_error(), text);
}

static int make_devices(void **state)
{
    (void)state;
    for (int i = 0; i < RANKS; i++) {
        void *address;

        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[i]));
        ok(thrum_queue_create(devices[i], THRUM_QUEUE_DEFAULT, &queues[i]));
        ok(thrum_mem_alloc(devices[i], sizeof host[i], &address));
        targets[i] = address;
        ok(thrum_mem_alloc(devices[i], sizeof host[i], &address));
        sources[i] = address;
    }
    return 0;
}

static int unmake_devices(void **state)
{
    (void)state;
    for (int i = 0; i < RANKS; i++) {
        thrum_queue_destroy(queues[i]);
        thrum_device_close(devices[i]);
    }
    return 0;
}

static void register_all(size_t bytes_of_rank_0, thrum_window_t *out)
{
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_register(comms[r], targets[r], r ? sizeof host[r] : bytes_of_rank_0,
                               &out[r]));
    ok(thrum_group_end());
}

static void deregister_all(thrum_window_t *list)
{
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_deregister(list[r]));
    ok(thrum_group_end());
}

static int make(void **state)
{
    struct thrum_comm_config config = {.size = sizeof config, .deadline_ms = 10000};

    (void)state;
    ok(thrum_comm_init_all(devices, RANKS, &config, comms));
    register_all(sizeof host[0], windows);
    for (int r = 0; r < RANKS; r++) {
        for (int i = 0; i < COUNT; i++)
            host[r][i] = r * 1000000 + i;
        ok(thrum_copy_to_device(queues[r], sources[r], host[r], sizeof host[r]));
        memset(host[r], 0xff, sizeof host[r]);
        ok(thrum_copy_to_device(queues[r], targets[r], host[r], sizeof host[r]));
    }
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++)
        thrum_comm_destroy(comms[r]);
    return 0;
}

static void read_target(int rank)
{
    ok(thrum_copy_to_host(queues[rank], host[rank], targets[rank], sizeof host[rank]));
}

/* host[rank][first .. first + n) are the elements of rank `from`'s source that begin at `at`. */
static void check_range(int rank, int first, int n, int from, int at)
{
    for (int i = 0; i < n; i++)
        if (host[rank][first + i] != from * 1000000 + at + i)
            fail_msg("rank %d, element %d: %d, not %d", rank, first + i, host[rank][first + i],
                     from * 1000000 + at + i);
}

static void put(int from, int to, int first, int n, int at)
{
    ok(thrum_put(sources[from] + at, (size_t)n, THRUM_INT32, to, windows[from],
                 (size_t)first * sizeof(int32_t), comms[from], queues[from]));
}

/* ---- data ---- */

static void ring(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++) {
        int next = (r + 1) % RANKS;
        put(r, next, 0, COUNT, 0);
        ok(thrum_signal(next, comms[r], queues[r]));
    }
    for (int r = 0; r < RANKS; r++)
        ok(thrum_wait_signal((r + RANKS - 1) % RANKS, 1, comms[r], queues[r]));
    for (int r = 0; r < RANKS; r++) {
        read_target(r);
        check_range(r, 0, COUNT, (r + RANKS - 1) % RANKS, 0);
    }
    deregister_all(windows);
}

/* From all to all, in three pieces each and one signal; in the window also what is the rank's own. */
static void all_to_all(void **state)
{
    enum { BLOCK = COUNT / RANKS, PIECE = BLOCK / 4 };

    (void)state;
    for (int r = 0; r < RANKS; r++)
        for (int to = 0; to < RANKS; to++) {
            put(r, to, r * BLOCK, PIECE, to * BLOCK);
            put(r, to, r * BLOCK + 2 * PIECE, 2 * PIECE, to * BLOCK + 2 * PIECE);
            put(r, to, r * BLOCK + PIECE, PIECE, to * BLOCK + PIECE);
            put(r, to, r * BLOCK, 0, 0);
            ok(thrum_signal(to, comms[r], queues[r]));
        }
    for (int r = 0; r < RANKS; r++)
        for (int from = RANKS - 1; from >= 0; from--)
            ok(thrum_wait_signal(from, 1, comms[r], queues[r]));
    for (int r = 0; r < RANKS; r++) {
        read_target(r);
        for (int from = 0; from < RANKS; from++)
            check_range(r, from * BLOCK, BLOCK, from, r * BLOCK);
    }
    deregister_all(windows);
}

/* Signals are counted: two waits of one and one of three for five of them. */
static void signals_are_counted(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        put(1, 0, i * 10, 10, i * 100);
        ok(thrum_signal(0, comms[1], queues[1]));
    }
    ok(thrum_wait_signal(1, 1, comms[0], queues[0]));
    ok(thrum_wait_signal(1, 3, comms[0], queues[0]));
    ok(thrum_wait_signal(1, 0, comms[0], queues[0]));
    ok(thrum_wait_signal(1, 1, comms[0], queues[0]));
    read_target(0);
    for (int i = 0; i < 5; i++)
        check_range(0, i * 10, 10, 1, i * 100);
    put(1, 0, 0, 10, 700);
    ok(thrum_wait_signal(1, 1, comms[0], queues[0])); /* the sixth comes after its wait */
    ok(thrum_signal(0, comms[1], queues[1]));
    read_target(0);
    check_range(0, 0, 10, 1, 700);
}

/* More than can be counted are not taken for fewer than have come. */
static void too_many_signals(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        ok(thrum_signal(0, comms[1], queues[1]));
    ok(thrum_wait_signal(1, 2, comms[0], queues[0]));
    refused(thrum_wait_signal(1, UINT64_MAX, comms[0], queues[0]), THRUM_ERR_INVALID_COUNT,
            "n=18446744073709551615");
    ok(thrum_wait_signal(1, 1, comms[0], queues[0]));
    ok(thrum_queue_synchronize(queues[0]));
}

/* What came is sent back one further on, until it has been around COUNT / 100 times. */
static void ping_pong(void **state)
{
    enum { ROUNDS = 100, N = COUNT / ROUNDS };

    (void)state;
    for (int i = 0; i < ROUNDS - 1; i++) {
        int32_t *from = i ? targets[0] + i * N : sources[0];

        ok(thrum_put(from, N, THRUM_INT32, 1, windows[0], (size_t)i * N * 4, comms[0], queues[0]));
        ok(thrum_signal(1, comms[0], queues[0]));
        ok(thrum_wait_signal(0, 1, comms[1], queues[1]));
        ok(thrum_put(targets[1] + i * N, N, THRUM_INT32, 0, windows[1], (size_t)(i + 1) * N * 4,
                     comms[1], queues[1]));
        ok(thrum_signal(0, comms[1], queues[1]));
        ok(thrum_wait_signal(1, 1, comms[0], queues[0]));
    }
    read_target(0);
    check_range(0, (ROUNDS - 1) * N, N, 0, 0);
    read_target(1);
    check_range(1, (ROUNDS - 2) * N, N, 0, 0);
}

static void host_memory(void **state)
{
    static int32_t plain[2][COUNT];

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        plain[0][i] = 2000000 + i;
        plain[1][i] = 3000000 + i;
    }
    ok(thrum_mem_register_host(devices[3], plain[1], sizeof plain[1]));
    ok(thrum_put(plain[0], COUNT, THRUM_INT32, 0, windows[2], 0, comms[2], queues[2]));
    ok(thrum_signal(0, comms[2], queues[2]));
    ok(thrum_put(plain[1], COUNT, THRUM_INT32, 1, windows[3], 0, comms[3], queues[3]));
    ok(thrum_signal(1, comms[3], queues[3]));
    ok(thrum_wait_signal(2, 1, comms[0], queues[0]));
    ok(thrum_wait_signal(3, 1, comms[1], queues[1]));
    read_target(0);
    read_target(1);
    check_range(0, 0, COUNT, 2, 0);
    check_range(1, 0, COUNT, 3, 0);
    ok(thrum_queue_synchronize(queues[3]));
    ok(thrum_mem_unregister_host(devices[3], plain[1]));
}

/* Among collectives, in one group, in call order. */
static void in_a_group(void **state)
{
    (void)state;
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++) {
        int next = (r + 1) % RANKS, last = (r + RANKS - 1) % RANKS;

        put(r, next, 0, COUNT, 0);
        ok(thrum_signal(next, comms[r], queues[r]));
        ok(thrum_wait_signal(last, 1, comms[r], queues[r]));
        ok(thrum_allreduce(targets[r], targets[r], COUNT, THRUM_INT32, THRUM_SUM, comms[r],
                           queues[r]));
    }
    ok(thrum_group_end());
    for (int r = 0; r < RANKS; r++) {
        read_target(r);
        for (int i = 0; i < COUNT; i++)
            if (host[r][i] != 6000000 + RANKS * i)
                fail_msg("rank %d, element %d: %d", r, i, host[r][i]);
    }
    ok(thrum_group_start());
    put(0, 1, 0, 10, 0);
    refused(thrum_put(sources[0], 1, THRUM_INT32, RANKS, windows[0], 0, comms[0], queues[0]),
            THRUM_ERR_INVALID_RANK, "peer=4");
    refused(thrum_group_end(), THRUM_ERR_INVALID_RANK, "peer=4");
    deregister_all(windows);
}

/* Puts and signals of a graph: one for each launch, from what is in the source then. */
static void captured(void **state)
{
    thrum_graph_t graph;

    (void)state;
    ok(thrum_queue_capture_begin(queues[0]));
    put(0, 1, 0, 10, 0);
    ok(thrum_signal(1, comms[0], queues[0]));
    ok(thrum_queue_capture_end(queues[0], &graph));
    for (int round = 0; round < 3; round++) {
        int32_t first = 1000 + round;

        ok(thrum_copy_to_device(queues[0], sources[0], &first, sizeof first));
        ok(thrum_graph_launch(graph, queues[0]));
        ok(thrum_wait_signal(0, 1, comms[1], queues[1]));
        read_target(1);
        assert_int_equal(host[1][0], first);
        check_range(1, 1, 9, 0, 1);
        ok(thrum_queue_synchronize(queues[0]));
    }
    thrum_graph_destroy(graph);
}

/* A window that is opened where one was closed is no part of a graph that puts into the old one. */
static void captured_before_it_was_closed(void **state)
{
    thrum_graph_t graph;
    thrum_window_t old = windows[0];

    (void)state;
    ok(thrum_queue_capture_begin(queues[0]));
    put(0, 1, 0, 10, 0);
    ok(thrum_queue_capture_end(queues[0], &graph));
    for (int i = 0; i < 8; i++) {
        deregister_all(windows);
        register_all(sizeof host[0], windows);
        refused(thrum_graph_launch(graph, queues[0]), THRUM_ERR_INVALID_ARGUMENT, "window");
    }
    if (windows[0] != old)
        print_message("no window came where the first was\n");
    thrum_graph_destroy(graph);
}

/* ---- windows ---- */

static void parts_of_any_size(void **state)
{
    thrum_window_t others[RANKS];

    (void)state;
    register_all(0, others);
    refused(thrum_put(sources[1], 1, THRUM_UINT8, 0, others[1], 0, comms[1], queues[1]),
            THRUM_ERR_INVALID_ARGUMENT, "rank 0's part of the window, 0 bytes");
    ok(thrum_put(sources[0] + COUNT - 5, 5, THRUM_INT32, 1, others[0], sizeof host[1] - 20,
                 comms[0], queues[0]));
    put(0, 1, 0, 7, 0); /* the window of before is still open */
    ok(thrum_signal(1, comms[0], queues[0]));
    ok(thrum_wait_signal(0, 1, comms[1], queues[1]));
    read_target(1);
    check_range(1, COUNT - 5, 5, 0, COUNT - 5);
    check_range(1, 0, 7, 0, 0);
    deregister_all(others);
    deregister_all(windows);
}

static void refusals(void **state)
{
    thrum_window_t window = NULL, old = windows[0];
    thrum_comm_t comm = comms[0];
    thrum_queue_t queue = queues[0];
    int32_t plain[4] = {0}, *source = sources[0];

    (void)state;
    refused(thrum_comm_register(comm, plain, sizeof plain, &window), THRUM_ERR_INVALID_POINTER,
            "host memory");
    refused(thrum_comm_register(comm, targets[1], 4, &window), THRUM_ERR_INVALID_POINTER, "buffer");
    refused(thrum_comm_register(comm, targets[0], sizeof host[0] + 1, &window),
            THRUM_ERR_INVALID_POINTER, "leave");
    refused(thrum_comm_register(comm, targets[0], 4, NULL), THRUM_ERR_INVALID_ARGUMENT,
            "window_out");
    refused(thrum_comm_deregister(NULL), THRUM_ERR_INVALID_ARGUMENT, "not a live window");
    refused(thrum_put(source, 1, THRUM_INT32, -1, old, 0, comm, queue), THRUM_ERR_INVALID_RANK,
            "peer=-1");
    refused(thrum_put(source, 1, THRUM_INT32, 1, windows[1], 0, comm, queue),
            THRUM_ERR_INVALID_ARGUMENT, "another communicator");
    refused(thrum_put(source, 2, THRUM_INT32, 1, old, sizeof host[1] - 4, comm, queue),
            THRUM_ERR_INVALID_ARGUMENT, "offset=79996");
    refused(thrum_put(source, COUNT + 1, THRUM_INT32, 1, old, 0, comm, queue),
            THRUM_ERR_INVALID_ARGUMENT, "offset=0");
    refused(thrum_put(source, 1, THRUM_INT32, 1, old, SIZE_MAX - 1, comm, queue),
            THRUM_ERR_INVALID_ARGUMENT, "offset=");
    refused(thrum_put(source, 1, (thrum_datatype_t)99, 1, old, 0, comm, queue),
            THRUM_ERR_INVALID_TYPE, "dtype=99");
    refused(thrum_put(NULL, 1, THRUM_INT32, 1, old, 0, comm, queue), THRUM_ERR_INVALID_POINTER,
            "send");
    refused(thrum_put(targets[0] + 1, 10, THRUM_INT32, 0, old, 40, comm, queue),
            THRUM_ERR_INVALID_POINTER, "overlaps");
    refused(thrum_put(targets[0] + 10, 10, THRUM_INT32, 0, old, 4, comm, queue),
            THRUM_ERR_INVALID_POINTER, "overlaps");
    ok(thrum_put(targets[0] + 1, 10, THRUM_INT32, 0, old, 4, comm, queue));
    ok(thrum_put(targets[0] + 1, 10, THRUM_INT32, 0, old, 44, comm, queue));
    ok(thrum_put(targets[0] + 11, 10, THRUM_INT32, 0, old, 4, comm, queue));
    ok(thrum_queue_synchronize(queue));
    refused(thrum_signal(RANKS, comm, queue), THRUM_ERR_INVALID_RANK, "peer=4");
    refused(thrum_wait_signal(1, 1, comm, queues[1]), THRUM_ERR_INVALID_QUEUE, "queue");
    deregister_all(windows);
    refused(thrum_put(source, 1, THRUM_INT32, 1, old, 0, comm, queue), THRUM_ERR_INVALID_ARGUMENT,
            "was deregistered");
    refused(thrum_comm_deregister(old), THRUM_ERR_INVALID_ARGUMENT, "not a live window");
}

/* Windows are in what a communicator says of its memory. */
static void are_counted(void **state)
{
    struct thrum_comm_memory_info before = {.size = sizeof before}, now = {.size = sizeof now};
    thrum_window_t more[RANKS];

    (void)state;
    ok(thrum_comm_memory(comms[0], &before));
    register_all(8, more);
    ok(thrum_comm_memory(comms[0], &now));
    assert_true(now.host_bytes > before.host_bytes);
    assert_true(now.host_bytes - before.host_bytes ==
                now.host_limit_bytes - before.host_limit_bytes);
    deregister_all(more);
    ok(thrum_comm_memory(comms[0], &now));
    assert_int_equal(now.host_bytes, before.host_bytes);
    deregister_all(windows);
}

/* Open windows go with their communicator. */
static void left_open(void **state)
{
    thrum_window_t more[RANKS];

    (void)state;
    register_all(8, more);
    for (int r = 0; r < RANKS; r++) {
        thrum_comm_destroy(comms[r]);
        comms[r] = NULL;
    }
    refused(thrum_comm_deregister(more[0]), THRUM_ERR_INVALID_ARGUMENT, "not a live window");
}

/* ---- faults ---- */

static void signal_does_not_come(void **state)
{
    struct thrum_comm_config config = {.size = sizeof config, .deadline_ms = 200};
    thrum_comm_t hasty[RANKS];

    (void)state;
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_dup(comms[r], &config, &hasty[r]));
    ok(thrum_group_end());
    ok(thrum_wait_signal(2, 7, hasty[1], queues[1]));
    ok(thrum_allreduce(targets[1], targets[1], 1, THRUM_INT32, THRUM_SUM, hasty[1], queues[1]));
    refused(thrum_queue_synchronize(queues[1]), THRUM_ERR_TIMEOUT,
            "wait for 7 signals of rank 2 on rank 1 has not ended within 200 ms: rank 2");
    refused(thrum_signal(0, hasty[1], queues[1]), THRUM_ERR_TIMEOUT, "rank 2");
    for (int r = 0; r < RANKS; r++)
        thrum_comm_destroy(hasty[r]);
}

static void abort_ends_a_wait(void **state)
{
    (void)state;
    ok(thrum_wait_signal(0, 1, comms[3], queues[3]));
    ok(thrum_comm_abort(comms[1]));
    refused(thrum_queue_synchronize(queues[3]), THRUM_ERR_ABORTED, "rank 1 called");
    /* the window can be closed, by each for itself */
    refused(thrum_comm_deregister(windows[3]), THRUM_ERR_ABORTED, "rank 1 called");
    refused(thrum_comm_deregister(windows[3]), THRUM_ERR_INVALID_ARGUMENT, "not a live window");
}

/* The memory is freed under an open window: who puts there with peer access hears of it. */
static void memory_is_gone(void **state)
{
    void *victim, *own, *next;
    thrum_window_t list[RANKS];
    thrum_status_t status;

    (void)state;
    if (!peer_access)
        skip(); /* a fabric writes as long as the pages are registered, whosever they are by then */
    ok(thrum_mem_alloc(devices[1], 65536, &victim));
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_register(comms[r], r == 1 ? victim : NULL, r == 1 ? 65536 : 0, &list[r]));
    ok(thrum_group_end());
    ok(thrum_mem_free(devices[1], victim));
    ok(thrum_put(sources[0], 100, THRUM_INT32, 1, list[0], 0, comms[0], queues[0]));
    refused(thrum_queue_synchronize(queues[0]), THRUM_ERR_FAULT,
            "put to rank 1 (count=100, int32)");
    ok(thrum_comm_async_error(comms[0], &status, NULL));
    assert_int_equal(status, THRUM_ERR_FAULT);
    ok(thrum_mem_alloc(devices[0], 64, &own));
    ok(thrum_mem_alloc(devices[1], 64, &next));
    ok(thrum_copy_to_device(queues[0], own, host[0], 64)); /* the queue goes on */
    ok(thrum_mem_free(devices[0], own));
    ok(thrum_mem_free(devices[1], next));
}

#define test(function) cmocka_unit_test_setup_teardown(function, make, unmake)

static int run(bool access)
{
    const struct CMUnitTest tests[] = {
        test(ring),
        test(all_to_all),
        test(signals_are_counted),
        test(ping_pong),
        test(host_memory),
        test(in_a_group),
        test(captured),
        test(captured_before_it_was_closed),
        test(too_many_signals),
        test(parts_of_any_size),
        test(refusals),
        test(are_counted),
        test(left_open),
        test(signal_does_not_come),
        test(abort_ends_a_wait),
        test(memory_is_gone),
    };

    peer_access = access;
    if (!access)
        setenv("THRUM_PEER_ACCESS", "none", 1);
    return cmocka_run_group_tests_name(access ? "windows, peer access"
                                              : "windows, puts by a fabric",
                                       tests, make_devices, unmake_devices);
}

int main(void)
{
    int status = 1;
    pid_t child = fork();

    if (!child)
        exit(run(false) ? 1 : 0);
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        return 1;
    return run(true);
}
