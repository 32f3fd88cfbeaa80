/*
 * Groups: two communicators named in opposite order by two ranks, on one queue and on two; more calls than may be in
 * flight; messages, collectives and v-variants together; a refused call of any kind, after which nothing has begun;
 * a group that is called again and again.
 */
#include "ranks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define N 2
#define COUNT 2000

static thrum_comm_t others[N]; /* a second communicator of the same ranks */
static thrum_queue_t second[N];
static struct buffer sends[N], recvs[N];
static int32_t values[16 * COUNT];

static int32_t *at(struct buffer *buffer, size_t block)
{
    return (int32_t *)(void *)buffer->address + block * COUNT;
}

static int make(void **state)
{
    (void)state;
    ranks_open(N);
    for (int r = 0; r < N; r++) {
        ok(thrum_queue_create(devices[r], THRUM_QUEUE_DEFAULT, &second[r]));
        buffer_make(&sends[r], r, MEMORY_DEVICE, sizeof values);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, sizeof values);
    }
    ok(thrum_comm_init_all(devices, N, NULL, others));
    ranks_join(N, NULL);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    ranks_leave(N);
    for (int r = 0; r < N; r++) {
        thrum_comm_destroy(others[r]);
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
        thrum_queue_destroy(second[r]);
    }
    ranks_close(N);
    return 0;
}

static void fill(void)
{
    for (int r = 0; r < N; r++) {
        for (int i = 0; i < 16 * COUNT; i++)
            values[i] = (r + 1) * 100000 + i;
        buffer_write(&sends[r], values, sizeof values);
        memset(values, 0, sizeof values);
        buffer_write(&recvs[r], values, sizeof values);
    }
}

static void expect(int r, size_t block, size_t count, int32_t first, int32_t step)
{
    struct buffer where = recvs[r];

    where.address = (uint8_t *)at(&recvs[r], block);
    buffer_read(&where, values, count * 4);
    for (size_t i = 0; i < count; i++)
        if (values[i] != first + (int32_t)i * step)
            fail_msg("rank %d, block %zu: element %zu is %d, not %d", r, block, i, values[i],
                     first + (int32_t)i * step);
}

/* ---- two communicators, named in opposite order ---- */

struct worker {
    pthread_t thread;
    int rank;
    bool two_queues;
    thrum_status_t status;
    char message[256];
};

/* Block 0 <- allreduce on comms; block 1 <- message on comms; blocks 2, 3 the same on others. */
static thrum_status_t issue(thrum_comm_t comm, int r, size_t block, thrum_queue_t a,
                            thrum_queue_t b)
{
    thrum_status_t status = thrum_allreduce(at(&sends[r], block), at(&recvs[r], block), COUNT,
                                            THRUM_INT32, THRUM_SUM, comm, a);

    if (!status)
        status = thrum_send(at(&sends[r], block + 1), COUNT, THRUM_INT32, !r, comm, b);
    if (!status)
        status = thrum_recv(at(&recvs[r], block + 1), COUNT, THRUM_INT32, !r, comm, a);
    return status;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    int r = w->rank;
    thrum_queue_t a = queues[r], b = w->two_queues ? second[r] : queues[r];
    thrum_status_t status = THRUM_OK;

    for (int round = 0; round < 50 && !status; round++) {
        bool turned = (r + round) & 1;

        status = thrum_group_start();
        if (!status)
            status = turned ? issue(others[r], r, 2, b, a) : issue(comms[r], r, 0, a, b);
        if (!status)
            status = turned ? issue(comms[r], r, 0, a, b) : issue(others[r], r, 2, b, a);
        if (!status)
            status = thrum_group_end();
    }
    if (!status)
        status = thrum_queue_synchronize(a);
    if (!status)
        status = thrum_queue_synchronize(b);
    w->status = status;
    strncpy(w->message, thrum_last_error(), sizeof w->message - 1);
    return NULL;
}

static void opposite_order(bool two_queues)
{
    struct worker workers[N];

    memset(workers, 0, sizeof workers);
    fill();
    for (int r = 0; r < N; r++) {
        workers[r].rank = r;
        workers[r].two_queues = two_queues;
        assert_int_equal(pthread_create(&workers[r].thread, NULL, work, &workers[r]), 0);
    }
    for (int r = 0; r < N; r++)
        assert_int_equal(pthread_join(workers[r].thread, NULL), 0);
    for (int r = 0; r < N; r++) {
        if (workers[r].status)
            fail_msg("rank %d: %s", r, workers[r].message);
        for (size_t block = 0; block < 4; block += 2) {
            expect(r, block, COUNT, 300000 + 2 * (int32_t)(block * COUNT), 2);
            expect(r, block + 1, COUNT, (!r + 1) * 100000 + (int32_t)((block + 1) * COUNT), 1);
        }
    }
}

static void opposite_order_on_one_queue(void **state)
{
    (void)state;
    opposite_order(false);
}

static void opposite_order_on_two_queues(void **state)
{
    (void)state;
    opposite_order(true);
}

/* ---- many ---- */

/* One thread for both ranks, each with more operations than may be in flight: messages of one pair, and collectives. */
static void many_operations(void **state)
{
    enum { MANY = 700 };

    (void)state;
    fill();
    ok(thrum_group_start());
    for (int r = 0; r < N; r++)
        for (int i = 0; i < MANY; i++) {
            ok(thrum_send(at(&sends[r], 0) + i, 1, THRUM_INT32, !r, comms[r], queues[r]));
            ok(thrum_recv(at(&recvs[r], 0) + i, 1, THRUM_INT32, !r, comms[r], queues[r]));
            ok(thrum_allreduce(at(&sends[r], 1) + i, at(&recvs[r], 1) + i, 1, THRUM_INT32,
                               THRUM_SUM, comms[r], queues[r]));
            ok(thrum_allgather(at(&sends[r], 2) + i, at(&recvs[r], 2) + 2 * i, 1, THRUM_INT32,
                               others[r], queues[r]));
        }
    ok(thrum_group_end());
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        expect(r, 0, MANY, (!r + 1) * 100000, 1);
        expect(r, 1, MANY, 300000 + 2 * COUNT, 2);
        buffer_read(&recvs[r], values, sizeof values);
        for (int i = 0; i < MANY; i++)
            for (int k = 0; k < N; k++)
                assert_int_equal(values[2 * COUNT + 2 * i + k], (k + 1) * 100000 + 2 * COUNT + i);
    }
}

/* Everything that there is, in one group; arrays may change after the call. */
static void all_together(void **state)
{
    (void)state;
    fill();
    ok(thrum_group_start());
    for (int r = 0; r < N; r++) {
        size_t counts[N] = {300, 700}, rows[N] = {r ? 200 : 100, r ? 400 : 200},
               columns[N] = {r ? 200 : 100, r ? 400 : 200}, displs[N] = {1000, 0};

        ok(thrum_scan(at(&sends[r], 0), at(&recvs[r], 0), COUNT, THRUM_INT32, THRUM_SUM, comms[r],
                      queues[r]));
        ok(thrum_allgatherv(at(&sends[r], 1), at(&recvs[r], 1), counts, displs, THRUM_INT32,
                            comms[r], queues[r]));
        ok(thrum_alltoallv(at(&sends[r], 2), rows, NULL, at(&recvs[r], 2), columns, NULL,
                           THRUM_INT32, comms[r], queues[r]));
        ok(thrum_send(at(&sends[r], 3), COUNT, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_recv(at(&recvs[r], 3), COUNT, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_gatherv(at(&sends[r], 4), counts[r], at(&recvs[r], 4), counts, NULL, THRUM_INT32,
                         1, others[r], queues[r]));
        ok(thrum_barrier(comms[r], queues[r]));
        ok(thrum_scatterv(at(&sends[r], 5), counts, NULL, at(&recvs[r], 5), counts[r], THRUM_INT32,
                          0, comms[r], queues[r]));
        ok(thrum_reduce_scatterv(at(&sends[r], 6), at(&recvs[r], 6), counts, THRUM_INT32, THRUM_MAX,
                                 others[r], queues[r]));
        memset(counts, 0xdd, sizeof counts);
        memset(displs, 0xdd, sizeof displs);
        memset(rows, 0xdd, sizeof rows);
        memset(columns, 0xdd, sizeof columns);
    }
    ok(thrum_group_end());
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        expect(r, 0, COUNT, r ? 300000 : 100000, r ? 2 : 1);
        expect(r, 1, 700, 200000 + COUNT, 1);
        expect(r, 2, r ? 200 : 100, 100000 + 2 * COUNT + (r ? 100 : 0), 1);
        expect(r, 3, COUNT, (!r + 1) * 100000 + 3 * COUNT, 1);
        expect(r, 5, r ? 700 : 300, 100000 + 5 * COUNT + (r ? 300 : 0), 1);
        expect(r, 6, r ? 700 : 300, 200000 + 6 * COUNT + (r ? 300 : 0), 1);
    }
    expect(1, 4, 300, 100000 + 4 * COUNT, 1);
}

/* ---- refusals ---- */

/* The last of a group is refused, some only at its end: nothing of the others has begun, on either communicator. */
static void nothing_begins(void **state)
{
    static const size_t counts[N] = {10, 20}, overlapping[N] = {0, 5};
    thrum_queue_t many[8];
    thrum_graph_t graph;

    (void)state;
    for (int i = 0; i < 8; i++)
        ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &many[i]));
    for (int variant = 0; variant < 10; variant++) {
        fill();
        ok(thrum_group_start());
        for (int r = 0; r < N; r++) {
            ok(thrum_allreduce(at(&sends[r], 0), at(&recvs[r], 0), COUNT, THRUM_INT32, THRUM_SUM,
                               comms[r], queues[r]));
            ok(thrum_send(at(&sends[r], 1), COUNT, THRUM_INT32, !r, others[r], queues[r]));
            ok(thrum_recv(at(&recvs[r], 1), COUNT, THRUM_INT32, !r, others[r], queues[r]));
        }
        switch (variant) {
        case 0:
            refused(thrum_allgatherv(at(&sends[0], 2), at(&recvs[0], 2), counts, overlapping,
                                     THRUM_INT32, comms[0], queues[0]),
                    THRUM_ERR_INVALID_ARGUMENT, "overlap", "ranks 0 and 1");
            refused(thrum_group_end(), THRUM_ERR_INVALID_ARGUMENT, "overlap", "ranks 0 and 1");
            break;
        case 1:
            refused(thrum_alltoallv(at(&sends[0], 2), counts, NULL, NULL, counts, NULL, THRUM_INT32,
                                    comms[0], queues[0]),
                    THRUM_ERR_INVALID_POINTER, "recv", "NULL");
            refused(thrum_group_end(), THRUM_ERR_INVALID_POINTER, "recv", "NULL");
            break;
        case 2:
            refused(thrum_reduce(at(&sends[0], 2), at(&recvs[0], 2), 5, THRUM_INT32,
                                 (thrum_redop_t)4000, 0, comms[0], queues[0]),
                    THRUM_ERR_INVALID_OP, "op", "4000");
            refused(thrum_group_end(), THRUM_ERR_INVALID_OP, "op", "4000");
            break;
        case 3: /* known at the end only */
            ok(thrum_send(at(&sends[1], 2), 5, THRUM_INT32, 1, others[1], queues[1]));
            refused(thrum_group_end(), THRUM_ERR_INVALID_USAGE, "rank 1 sends to itself", "");
            break;
        case 4:
            ok(thrum_send(at(&sends[1], 2), 5, THRUM_INT32, 1, others[1], queues[1]));
            ok(thrum_recv(at(&recvs[1], 2), 6, THRUM_INT32, 1, others[1], queues[1]));
            refused(thrum_group_end(), THRUM_ERR_INVALID_COUNT, "20", "24");
            break;
        case 5: /* as many bytes */
            ok(thrum_send(at(&sends[1], 2), 6, THRUM_INT32, 1, others[1], queues[1]));
            ok(thrum_recv(at(&recvs[1], 2), 3, THRUM_INT64, 1, others[1], queues[1]));
            refused(thrum_group_end(), THRUM_ERR_INVALID_TYPE, "int32", "int64");
            break;
        case 6: /* rank 0's message to itself would change places with its block of the alltoallv */
            ok(thrum_send(at(&sends[0], 2), 10, THRUM_INT32, 0, others[0], queues[0]));
            for (int r = 0; r < N; r++) {
                const size_t rows[N] = {10, 10};

                ok(thrum_alltoallv(at(&sends[r], 3), rows, NULL, at(&recvs[r], 3), rows, NULL,
                                   THRUM_INT32, others[r], queues[r]));
            }
            ok(thrum_recv(at(&recvs[0], 2), 10, THRUM_INT32, 0, others[0], queues[0]));
            refused(thrum_group_end(), THRUM_ERR_INVALID_USAGE, "thrum_send", "thrum_alltoallv");
            break;
        case 7: /* the sum is 2^64 */
            for (int i = 0; i < 4; i++)
                ok(thrum_send(values, ((size_t)1 << 62) - 1, THRUM_UINT8, 1, others[0], queues[0]));
            refused(thrum_group_end(), THRUM_ERR_NO_DEVICE_MEMORY, "host buffers", "stage");
            break;
        case 8: /* a graph is of one queue */
            ok(thrum_queue_capture_begin(many[0]));
            ok(thrum_send(at(&sends[0], 2), 1, THRUM_INT32, 1, others[0], many[0]));
            refused(thrum_group_end(), THRUM_ERR_INVALID_USAGE, "several queues", "captured");
            refused(thrum_queue_capture_end(many[0], &graph), THRUM_ERR_INVALID_USAGE,
                    "several queues", "captured");
            break;
        default:
            for (int i = 0; i < 8; i++)
                ok(thrum_send(at(&sends[0], 2), 0, THRUM_INT32, 1, others[0], many[i]));
            refused(thrum_group_end(), THRUM_ERR_UNSUPPORTED, "queues", "4");
        }
        ranks_synchronize(N);
        for (int r = 0; r < N; r++) {
            expect(r, 0, COUNT, 0, 0);
            expect(r, 1, COUNT, 0, 0);
        }
    }
    for (int i = 0; i < 8; i++)
        thrum_queue_destroy(many[i]);
    opposite_order(false); /* all goes on */
}

/* A reduction that is destroyed inside a group stays until the group's end; then what was made with it has none. */
static void destroyed_reductions_serve_their_group(void **state)
{
    const int32_t scalar = 3;
    thrum_persistent_t calls[N];
    thrum_redop_t ops[N];

    (void)state;
    fill();
    for (int r = 0; r < N; r++) {
        ok(thrum_redop_create_premul_sum(comms[r], &scalar, THRUM_INT32, THRUM_SCALAR_HOST,
                                         &ops[r]));
        ok(thrum_allreduce_init(at(&sends[r], 0), at(&recvs[r], 0), COUNT, THRUM_INT32, ops[r],
                                comms[r], queues[r], &calls[r]));
    }
    ok(thrum_group_start());
    for (int r = 0; r < N; r++) {
        ok(thrum_allreduce(at(&sends[r], 1), at(&recvs[r], 1), COUNT, THRUM_INT32, THRUM_SUM,
                           comms[r], queues[r]));
        ok(thrum_start(calls[r]));
    }
    for (int r = 0; r < N; r++) {
        ok(thrum_redop_destroy(comms[r], ops[r]));
        refused(thrum_redop_destroy(comms[r], ops[r]), THRUM_ERR_INVALID_OP, "op", "no live");
    }
    ok(thrum_group_end());
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        expect(r, 0, COUNT, 3 * 300000, 3 * 2);
        expect(r, 1, COUNT, 300000 + 2 * COUNT, 2);
        refused(thrum_start(calls[r]), THRUM_ERR_INVALID_OP, "op", "no");
        thrum_persistent_free(calls[r]);
    }
    ok(thrum_group_start()); /* also where nothing begins */
    ok(thrum_redop_create_premul_sum(comms[0], &scalar, THRUM_INT32, THRUM_SCALAR_HOST, &ops[0]));
    ok(thrum_allreduce(at(&sends[0], 0), at(&recvs[0], 0), COUNT, THRUM_INT32, ops[0], comms[0],
                       queues[0]));
    ok(thrum_redop_destroy(comms[0], ops[0]));
    refused(thrum_barrier(NULL, queues[0]), THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_group_end(), THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_redop_destroy(comms[0], ops[0]), THRUM_ERR_INVALID_OP, "op", "no live");
    opposite_order(false); /* all goes on */
}

/* ---- the same group again ---- */

/* Rank 0's group, and rank 1's: each sends a block to the other. */
static void exchange(size_t block, size_t count)
{
    for (int r = 0; r < N; r++) {
        ok(thrum_group_start());
        ok(thrum_send(at(&sends[r], block), count, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_recv(at(&recvs[r], block), count, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_group_end());
    }
    ranks_synchronize(N);
    for (int r = 0; r < N; r++)
        expect(r, block, count, (!r + 1) * 100000 + (int32_t)block * COUNT, 1);
}

/* A group that has been called before is not looked at as closely; what has changed since is seen all the same. */
static void again(void **state)
{
    thrum_graph_t graph;
    thrum_queue_t queue;
    uint8_t *gone;

    (void)state;
    for (int i = 0; i < 5; i++) {
        fill();
        exchange(0, 100);
    }
    fill(); /* then others, longer, shorter, and in another order */
    exchange(1, 100);
    exchange(0, 100);
    exchange(0, COUNT);
    exchange(0, 50);
    fill();
    for (int r = 0; r < N; r++) {
        ok(thrum_group_start());
        ok(thrum_recv(at(&recvs[r], 0), 50, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_send(at(&sends[r], 0), 50, THRUM_INT32, !r, comms[r], queues[r]));
        ok(thrum_group_end());
    }
    ranks_synchronize(N);
    for (int r = 0; r < N; r++)
        expect(r, 0, 50, (!r + 1) * 100000, 1);

    fill(); /* a part of it */
    exchange(0, 60);
    fill();
    ok(thrum_group_start());
    ok(thrum_send(at(&sends[0], 0), 60, THRUM_INT32, 1, comms[0], queues[0]));
    ok(thrum_group_end());
    ok(thrum_group_start());
    ok(thrum_recv(at(&recvs[1], 0), 60, THRUM_INT32, 0, comms[1], queues[1]));
    ok(thrum_group_end());
    ranks_synchronize(N);
    expect(1, 0, 60, 100000, 1);
    expect(0, 0, 60, 0, 0);

    ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &queue));
    ok(thrum_mem_alloc(devices[0], 4096, (void **)&gone));
    for (int i = 0; i < 3; i++) {
        ok(thrum_group_start());
        ok(thrum_send(at(&sends[0], 0), 50, THRUM_INT32, 1, comms[0], queue));
        ok(thrum_recv(gone, 50, THRUM_INT32, 1, comms[0], queue));
        ok(thrum_group_end());
        ok(thrum_group_start());
        ok(thrum_send(at(&sends[1], 0), 50, THRUM_INT32, 0, comms[1], queues[1]));
        ok(thrum_recv(at(&recvs[1], 0), 50, THRUM_INT32, 0, comms[1], queues[1]));
        ok(thrum_group_end());
        ranks_synchronize(N);
        ok(thrum_queue_synchronize(queue));
    }
    /* the same group for a graph, then into memory that has gone, then a part of it on a queue that has gone */
    ok(thrum_queue_capture_begin(queue));
    ok(thrum_group_start());
    ok(thrum_send(at(&sends[0], 0), 50, THRUM_INT32, 1, comms[0], queue));
    ok(thrum_recv(gone, 50, THRUM_INT32, 1, comms[0], queue));
    ok(thrum_group_end());
    ok(thrum_queue_capture_end(queue, &graph));
    ok(thrum_queue_synchronize(queue)); /* rank 1 has called nothing */
    thrum_graph_destroy(graph);

    ok(thrum_group_start());
    ok(thrum_send(at(&sends[0], 0), 50, THRUM_INT32, 1, comms[0], queue));
    ok(thrum_mem_free(devices[0], gone));
    refused(thrum_recv(gone, 50, THRUM_INT32, 1, comms[0], queue), THRUM_ERR_INVALID_POINTER,
            "recv", "");
    refused(thrum_group_end(), THRUM_ERR_INVALID_POINTER, "recv", "");

    ok(thrum_group_start());
    ok(thrum_send(at(&sends[0], 0), 50, THRUM_INT32, 1, comms[0], queue));
    thrum_queue_destroy(queue);
    refused(thrum_group_end(), THRUM_ERR_INVALID_QUEUE, "destroyed inside the group", "");
    exchange(2, 100);
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"THRUM_PEER_ACCESS=auto", "THRUM_PEER_ACCESS=none"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opposite_order_on_one_queue),
        cmocka_unit_test(opposite_order_on_two_queues),
        cmocka_unit_test(many_operations),
        cmocka_unit_test(all_together),
        cmocka_unit_test(nothing_begins),
        cmocka_unit_test(again),
        cmocka_unit_test(destroyed_reductions_serve_their_group),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, make, unmake);
}
