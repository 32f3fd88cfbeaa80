/*
 * Persistent calls: each collective begun again and again gives what the plain call gives, on what its buffers hold by
 * then; starts in a row, in groups, among plain calls; freed in flight; what becomes of them without their
 * communicator; bad arguments.
 */
#include "ranks.h"

#include <stdlib.h>
#include <string.h>

#define N 3
#define COUNT 1500 /* of a block */
#define ELEMENTS (N * COUNT)
#define STARTS 5

static struct buffer sends[N], recvs[N], plain[N];
static int32_t values[ELEMENTS], got[ELEMENTS], want[ELEMENTS];

enum kind {
    ALLREDUCE,
    BROADCAST,
    ALLGATHER,
    REDUCE_SCATTER,
    REDUCE,
    ALLTOALL,
    GATHER,
    SCATTER,
    SCAN,
    EXSCAN,
    BARRIER,
    ALLGATHERV,
    REDUCE_SCATTERV,
    ALLTOALLV,
    GATHERV,
    SCATTERV,
    KINDS
};

static const size_t given_counts[N] = {COUNT, 7, 900}, given_displs[N] = {10, 2000, 2500};
static const size_t given_rows[N] = {400, 400, 400};

static thrum_status_t call(enum kind kind, int r, uint8_t *recv, const size_t *counts,
                           const size_t *displs, const size_t *rows, thrum_persistent_t *out)
{
    const uint8_t *send = sends[r].address;
    thrum_comm_t comm = comms[r];
    thrum_queue_t queue = queues[r];

#define CALL(name, ...) \
    return out ? thrum_##name##_init(__VA_ARGS__, comm, queue, out) \
               : thrum_##name(__VA_ARGS__, comm, queue)
    switch (kind) {
    case ALLREDUCE:
        CALL(allreduce, send, recv, COUNT, THRUM_INT32, THRUM_MAX);
    case BROADCAST:
        CALL(broadcast, send, recv, COUNT, THRUM_INT32, 1);
    case ALLGATHER:
        CALL(allgather, send, recv, COUNT, THRUM_INT32);
    case REDUCE_SCATTER:
        CALL(reduce_scatter, send, recv, COUNT, THRUM_INT32, THRUM_SUM);
    case REDUCE:
        CALL(reduce, send, recv, COUNT, THRUM_INT32, THRUM_SUM, 2);
    case ALLTOALL:
        CALL(alltoall, send, recv, COUNT, THRUM_INT32);
    case GATHER:
        CALL(gather, send, recv, COUNT, THRUM_INT32, 1);
    case SCATTER:
        CALL(scatter, send, recv, COUNT, THRUM_INT32, 0);
    case SCAN:
        CALL(scan, send, recv, COUNT, THRUM_INT32, THRUM_SUM);
    case EXSCAN:
        CALL(exscan, send, recv, COUNT, THRUM_INT32, THRUM_SUM);
    case BARRIER:
        return out ? thrum_barrier_init(comm, queue, out) : thrum_barrier(comm, queue);
    case ALLGATHERV:
        CALL(allgatherv, send, recv, counts, displs, THRUM_INT32);
    case REDUCE_SCATTERV:
        CALL(reduce_scatterv, send, recv, counts, THRUM_INT32, THRUM_SUM);
    case ALLTOALLV:
        CALL(alltoallv, send, rows, NULL, recv, rows, displs, THRUM_INT32);
    case GATHERV:
        CALL(gatherv, send, counts[r], recv, counts, displs, THRUM_INT32, 2);
    default:
        CALL(scatterv, send, counts, displs, recv, counts[r], THRUM_INT32, 1);
    }
#undef CALL
}

static void make_buffers(enum memory memory)
{
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, memory, sizeof values);
        buffer_make(&recvs[r], r, memory, sizeof values);
        buffer_make(&plain[r], r, memory, sizeof values);
    }
}

static void free_buffers(void)
{
    for (int r = 0; r < N; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
        buffer_free(&plain[r]);
    }
}

/* New contributions, and nothing received yet. */
static void fill(int round)
{
    for (int r = 0; r < N; r++) {
        for (int i = 0; i < ELEMENTS; i++)
            values[i] = (r + 1) * 1000003 + i * 17 + round * 5003;
        buffer_write(&sends[r], values, sizeof values);
        memset(values, 0x33, sizeof values);
        buffer_write(&recvs[r], values, sizeof values);
        buffer_write(&plain[r], values, sizeof values);
    }
}

static void same_as_plain(enum kind kind, int round)
{
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        buffer_read(&plain[r], want, sizeof want);
        for (int i = 0; i < ELEMENTS; i++)
            if (got[i] != want[i])
                fail_msg("kind %d, start %d, rank %d: element %d is %d, not %d", kind, round, r, i,
                         got[i], want[i]);
    }
}

/* Plain calls in between: the starts take their place in the order of all. */
static void each_with(enum memory memory)
{
    make_buffers(memory);
    ranks_join(N, NULL);
    for (int kind = 0; kind < KINDS; kind++) {
        thrum_persistent_t calls[N];
        size_t counts[N], displs[N], rows[N];

        memcpy(counts, given_counts, sizeof counts);
        memcpy(displs, given_displs, sizeof displs);
        memcpy(rows, given_rows, sizeof rows);
        for (int r = 0; r < N; r++)
            ok(call((enum kind)kind, r, recvs[r].address, counts, displs, rows, &calls[r]));
        memset(counts, 0xee, sizeof counts); /* the arrays were copied */
        memset(displs, 0xee, sizeof displs);
        memset(rows, 0xee, sizeof rows);
        for (int round = 0; round < STARTS; round++) {
            fill(round);
            for (int r = 0; r < N; r++) {
                ok(thrum_start(calls[r]));
                ok(call((enum kind)kind, r, plain[r].address, given_counts, given_displs,
                        given_rows, NULL));
                ok(thrum_start(calls[r]));
            }
            ranks_synchronize(N);
            same_as_plain((enum kind)kind, round);
        }
        for (int r = 0; r < N; r++)
            thrum_persistent_free(calls[r]);
    }
    ranks_leave(N);
    free_buffers();
}

static void device_memory(void **state)
{
    (void)state;
    each_with(MEMORY_DEVICE);
}

static void registered_memory(void **state)
{
    (void)state;
    each_with(MEMORY_REGISTERED);
}

static void host_memory(void **state)
{
    (void)state;
    each_with(MEMORY_HOST);
}

/* All kinds at once, begun as one group; then freed before anybody waits. */
static void all_at_once(void **state)
{
    thrum_persistent_t calls[N][KINDS];
    struct buffer areas[N];

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(N, NULL);
    fill(0);
    for (int r = 0; r < N; r++) {
        buffer_make(&areas[r], r, MEMORY_DEVICE, KINDS * sizeof values);
        for (int kind = 0; kind < KINDS; kind++)
            ok(call((enum kind)kind, r, areas[r].address + (size_t)kind * sizeof values,
                    given_counts, given_displs, given_rows, &calls[r][kind]));
    }
    for (int round = 0; round < 3; round++) {
        for (int r = 0; r < N; r++)
            ok(thrum_fill(queues[r], areas[r].address, 0x33, KINDS * sizeof values));
        ok(thrum_group_start());
        for (int r = 0; r < N; r++)
            ok(thrum_start_all(calls[r], KINDS));
        if (round == 2)
            for (int r = 0; r < N; r++) /* the group still has them */
                for (int kind = 0; kind < KINDS; kind++)
                    thrum_persistent_free(calls[r][kind]);
        ok(thrum_group_end());
    }
    for (int kind = 0; kind < KINDS; kind++)
        for (int r = 0; r < N; r++)
            ok(call((enum kind)kind, r, plain[r].address, given_counts, given_displs, given_rows,
                    NULL));
    ranks_synchronize(N);
    for (int kind = 0; kind < KINDS; kind++) {
        fill(0);
        for (int r = 0; r < N; r++)
            ok(call((enum kind)kind, r, plain[r].address, given_counts, given_displs, given_rows,
                    NULL));
        ranks_synchronize(N);
        for (int r = 0; r < N; r++) {
            struct buffer area = areas[r];

            area.address += (size_t)kind * sizeof values;
            buffer_read(&area, got, sizeof got);
            buffer_read(&plain[r], want, sizeof want);
            assert_memory_equal(got, want, sizeof got);
        }
    }
    for (int r = 0; r < N; r++)
        buffer_free(&areas[r]);
    ranks_leave(N);
    free_buffers();
}

/* More starts in a row than operations may be in flight, by a thread for all ranks. */
static void many_starts(void **state)
{
    struct thrum_comm_memory_info before = {.size = sizeof before}, now = {.size = sizeof now};
    thrum_persistent_t calls[N];

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(N, NULL);
    fill(0);
    ok(thrum_comm_memory(comms[0], &before));
    for (int r = 0; r < N; r++)
        ok(thrum_allreduce_init(recvs[r].address, recvs[r].address, 10, THRUM_INT32, THRUM_SUM,
                                comms[r], queues[r], &calls[r]));
    ok(thrum_comm_memory(comms[0], &now));
    assert_true(now.host_bytes > before.host_bytes + 256); /* what it was compiled to */
    for (int r = 0; r < N; r++)
        ok(thrum_fill(queues[r], recvs[r].address, 1, 40));
    ok(thrum_group_start());
    for (int r = 0; r < N; r++)
        for (int i = 0; i < 1000; i++)
            ok(thrum_start(calls[r]));
    ok(thrum_group_end());
    ok(thrum_comm_memory(comms[0], &before));
    for (int r = 0; r < N; r++)
        thrum_persistent_free(calls[r]);
    ok(thrum_comm_memory(comms[0], &now));
    assert_true(now.host_bytes < before.host_bytes);
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        uint32_t expected = 0x01010101;

        for (int i = 0; i < 1000; i++)
            expected *= N; /* modulo 2^32 */
        buffer_read(&recvs[r], got, 40);
        for (int i = 0; i < 10; i++)
            assert_int_equal((uint32_t)got[i], expected);
    }
    ranks_leave(N);
    free_buffers();
}

/* Starts and v-variants in a graph: launched again and again, with what the arrays held when they were captured. */
static void in_a_graph(void **state)
{
    thrum_persistent_t calls[N][2];
    thrum_graph_t graphs[N];

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        size_t counts[N] = {20, 0, 30}, rows[N] = {10, 10, 10};
        uint8_t *recv = recvs[r].address;

        ok(thrum_allreduce_init(sends[r].address, recv, 100, THRUM_INT32, THRUM_MAX, comms[r],
                                queues[r], &calls[r][0]));
        ok(thrum_alltoallv_init(sends[r].address, rows, NULL, recv + 400, rows, NULL, THRUM_INT32,
                                comms[r], queues[r], &calls[r][1]));
        ok(thrum_queue_capture_begin(queues[r]));
        ok(thrum_start_all(calls[r], 2));
        ok(thrum_allgatherv(sends[r].address, recv + 800, counts, NULL, THRUM_INT32, comms[r],
                            queues[r]));
        ok(thrum_gatherv(sends[r].address, counts[r], recv + 1200, counts, NULL, THRUM_INT32, 0,
                         comms[r], queues[r]));
        ok(thrum_queue_capture_end(queues[r], &graphs[r]));
        memset(counts, 0xee, sizeof counts);
        thrum_persistent_free(calls[r][0]); /* the graph has the calls */
        thrum_persistent_free(calls[r][1]);
    }
    for (int round = 0; round < 3; round++) {
        const size_t counts[N] = {20, 0, 30}, rows[N] = {10, 10, 10};

        fill(round);
        for (int r = 0; r < N; r++)
            ok(thrum_graph_launch(graphs[r], queues[r]));
        for (int r = 0; r < N; r++) {
            uint8_t *recv = plain[r].address;

            ok(thrum_allreduce(sends[r].address, recv, 100, THRUM_INT32, THRUM_MAX, comms[r],
                               queues[r]));
            ok(thrum_alltoallv(sends[r].address, rows, NULL, recv + 400, rows, NULL, THRUM_INT32,
                               comms[r], queues[r]));
            ok(thrum_allgatherv(sends[r].address, recv + 800, counts, NULL, THRUM_INT32, comms[r],
                                queues[r]));
            ok(thrum_gatherv(sends[r].address, counts[r], recv + 1200, counts, NULL, THRUM_INT32, 0,
                             comms[r], queues[r]));
        }
        ranks_synchronize(N);
        same_as_plain(KINDS, round);
    }
    for (int r = 0; r < N; r++)
        thrum_graph_destroy(graphs[r]);
    ranks_leave(N);
    free_buffers();
}

/* A v-variant in a graph is not taken for the plain call with the same buffers and its largest count. */
static void in_a_graph_beside_a_plain_call(void **state)
{
    static const size_t counts[N] = {30, 0, 30};
    thrum_graph_t graphs[N];

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(N, NULL);
    fill(0);
    for (int r = 0; r < N; r++) {
        ok(thrum_queue_capture_begin(queues[r]));
        ok(thrum_allgatherv(sends[r].address, recvs[r].address, counts, NULL, THRUM_INT32, comms[r],
                            queues[r]));
        ok(thrum_queue_capture_end(queues[r], &graphs[r]));
    }
    for (int r = 0; r < N; r++)
        ok(thrum_allgather(sends[r].address, recvs[r].address, 30, THRUM_INT32, comms[r],
                           queues[r]));
    for (int r = 0; r < N; r++)
        ok(thrum_graph_launch(graphs[r], queues[r]));
    for (int r = 0; r < N; r++)
        ok(thrum_allgatherv(sends[r].address, plain[r].address, counts, NULL, THRUM_INT32, comms[r],
                            queues[r]));
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, 60 * sizeof *got);
        buffer_read(&plain[r], want, 60 * sizeof *want);
        assert_memory_equal(got, want, 60 * sizeof *got);
        thrum_graph_destroy(graphs[r]);
    }
    ranks_leave(N);
    free_buffers();
}

static void without_their_communicator(void **state)
{
    thrum_persistent_t calls[4];
    thrum_queue_t queue;

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(1, NULL);
    ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &queue));
    for (int i = 0; i < 4; i++)
        ok(thrum_allreduce_init(sends[0].address, recvs[0].address, 10, THRUM_INT32, THRUM_SUM,
                                comms[0], i == 1 ? queue : queues[0], &calls[i]));
    thrum_queue_destroy(queue);
    refused(thrum_start(calls[1]), THRUM_ERR_INVALID_QUEUE, "queue", "");
    thrum_persistent_free(calls[2]);
    ok(thrum_comm_finalize(comms[0]));
    refused(thrum_start(calls[0]), THRUM_ERR_INVALID_COMM, "finalized", "");
    ranks_leave(1);
    refused(thrum_start(calls[0]), THRUM_ERR_INVALID_COMM, "destroyed", "");
    ranks_join(1, NULL); /* maybe where the other was */
    refused(thrum_start(calls[3]), THRUM_ERR_INVALID_COMM, "destroyed", "");
    thrum_persistent_free(calls[0]);
    thrum_persistent_free(calls[1]);
    thrum_persistent_free(calls[3]);
    ranks_leave(1);
    free_buffers();
}

static thrum_graph_t graph_of(int call)
{
    const size_t rows[1] = {10};
    thrum_graph_t graph;

    ok(thrum_queue_capture_begin(queues[0]));
    if (call == 0)
        ok(thrum_allreduce(sends[0].address, recvs[0].address, 10, THRUM_INT32, THRUM_SUM, comms[0],
                           queues[0]));
    else if (call == 1)
        ok(thrum_alltoallv(sends[0].address, rows, NULL, recvs[0].address, rows, NULL, THRUM_INT32,
                           comms[0], queues[0]));
    else
        ok(thrum_signal(0, comms[0], queues[0]));
    ok(thrum_queue_capture_end(queues[0], &graph));
    return graph;
}

/* A communicator that is made where one was destroyed is no part of a graph that calls the old one. */
static void a_graph_without_its_communicator(void **state)
{
    thrum_graph_t graphs[3];
    thrum_comm_t old[8];
    bool again = false;

    (void)state;
    make_buffers(MEMORY_DEVICE);
    for (int i = 0; i < 8; i++) {
        ranks_join(1, NULL);
        old[i] = comms[0];
        if (i == 2) /* by then memory comes again */
            for (int call = 0; call < 3; call++)
                graphs[call] = graph_of(call);
        again |= i > 2 && comms[0] == old[2];
        for (int call = 0; call < 3 && i > 2; call++)
            refused(thrum_graph_launch(graphs[call], queues[0]), THRUM_ERR_INVALID_COMM, "comm",
                    "");
        ranks_leave(1);
    }
    if (!again)
        print_message("no communicator came where the first was\n");
    for (int call = 0; call < 3; call++)
        thrum_graph_destroy(graphs[call]);
    free_buffers();
}

static void bad_arguments(void **state)
{
    thrum_persistent_t call = (thrum_persistent_t)(void *)values, calls[2] = {NULL, NULL};

    (void)state;
    make_buffers(MEMORY_DEVICE);
    ranks_join(N, NULL);
    refused(thrum_start(NULL), THRUM_ERR_INVALID_ARGUMENT, "persistent", "NULL");
    refused(thrum_start_all(NULL, 2), THRUM_ERR_INVALID_ARGUMENT, "persistents", "NULL");
    refused(thrum_start_all(calls, 2), THRUM_ERR_INVALID_ARGUMENT, "persistent", "NULL");
    ok(thrum_start_all(NULL, 0));
    thrum_persistent_free(NULL);
    refused(thrum_allreduce_init(sends[0].address, NULL, 10, THRUM_INT32, THRUM_SUM, comms[0],
                                 queues[0], &call),
            THRUM_ERR_INVALID_POINTER, "recv", "NULL");
    refused(thrum_broadcast_init(sends[0].address, recvs[0].address, 10, THRUM_INT32, N, comms[0],
                                 queues[0], &call),
            THRUM_ERR_INVALID_RANK, "root", "3");
    refused(thrum_barrier_init(NULL, queues[0], &call), THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_barrier_init(comms[0], queues[1], &call), THRUM_ERR_INVALID_QUEUE, "queue", "");
    refused(thrum_barrier_init(comms[0], queues[0], NULL), THRUM_ERR_INVALID_ARGUMENT,
            "persistent_out", "NULL");
    refused(thrum_alltoallv_init(sends[0].address, NULL, NULL, recvs[0].address, given_rows, NULL,
                                 THRUM_INT32, comms[0], queues[0], &call),
            THRUM_ERR_INVALID_POINTER, "sendcounts", "NULL");
    refused(thrum_gatherv_init(sends[0].address, 3, recvs[0].address, given_rows, NULL, THRUM_INT32,
                               0, comms[0], queues[0], NULL),
            THRUM_ERR_INVALID_ARGUMENT, "persistent_out", "NULL");
    refused(thrum_allgatherv_init(sends[0].address, recvs[0].address, given_counts, given_displs,
                                  THRUM_INT32, comms[0], queues[0], NULL),
            THRUM_ERR_INVALID_ARGUMENT, "persistent_out", "NULL");
    assert_ptr_equal(call, values); /* written on success only */
    /* a refused init is no call of a group */
    ok(thrum_group_start());
    refused(thrum_scan_init(sends[0].address, recvs[0].address, 10, (thrum_datatype_t)99, THRUM_SUM,
                            comms[0], queues[0], &call),
            THRUM_ERR_INVALID_TYPE, "dtype", "99");
    ok(thrum_group_end());
    ok(thrum_group_start());
    refused(thrum_start(NULL), THRUM_ERR_INVALID_ARGUMENT, "persistent", "NULL");
    refused(thrum_group_end(), THRUM_ERR_INVALID_ARGUMENT, "persistent", "NULL");
    ranks_leave(N);
    free_buffers();
}

static int make(void **state)
{
    (void)state;
    ranks_open(N);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    ranks_close(N);
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"THRUM_PEER_ACCESS=auto", "THRUM_PEER_ACCESS=none"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_memory),
        cmocka_unit_test(registered_memory),
        cmocka_unit_test(host_memory),
        cmocka_unit_test(all_at_once),
        cmocka_unit_test(many_starts),
        cmocka_unit_test(without_their_communicator),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(in_a_graph),
        cmocka_unit_test(a_graph_without_its_communicator),
        cmocka_unit_test(in_a_graph_beside_a_plain_call),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, make, unmake);
}
