/* Collectives and messages in graphs: replay equals eager calls, what is refused, failures, launches far ahead of peers. */
#include <thrum/thrum.h>

#include "capture_test.h"

#define MAX_RANKS 4
#define COUNT 3000
#define LAUNCHES 10

struct rank {
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int32_t *x, *sum, *total, *from_left; /* device memory */
    thrum_graph_t graph;
    int calls;
};

static void make_ranks(struct rank *ranks, int n)
{
    thrum_device_t devices[MAX_RANKS];
    thrum_comm_t comms[MAX_RANKS];

    memset(ranks, 0, (size_t)n * sizeof *ranks);
    for (int r = 0; r < n; r++) {
        assert_ok(thrum_device_open(THRUM_DEVICE_ANY, &ranks[r].device));
        assert_ok(thrum_queue_create(ranks[r].device, THRUM_QUEUE_DEFAULT, &ranks[r].queue));
        int32_t **buffers[] = {&ranks[r].x, &ranks[r].sum, &ranks[r].total, &ranks[r].from_left};
        for (int i = 0; i < 4; i++)
            assert_ok(thrum_mem_alloc(ranks[r].device, COUNT * 4, (void **)buffers[i]));
        devices[r] = ranks[r].device;
    }
    assert_ok(thrum_comm_init_all(devices, n, NULL, comms));
    for (int r = 0; r < n; r++)
        ranks[r].comm = comms[r];
}

static void free_ranks(struct rank *ranks, int n)
{
    for (int r = 0; r < n; r++) {
        thrum_graph_destroy(ranks[r].graph);
        thrum_comm_destroy(ranks[r].comm);
        thrum_queue_destroy(ranks[r].queue);
        thrum_device_close(ranks[r].device);
    }
}

/*
 * x grows by what its fill adds, sum is that of all ranks, total collects the sums: each step depends on the one before.
 */
static void submit_step(struct rank *k, int rank, int n)
{
    const void *grown[] = {k->x, k->from_left}, *totals[] = {k->total, k->sum};

    assert_ok(thrum_fill(k->queue, k->from_left, (uint8_t)(rank + 1), COUNT * 4));
    assert_ok(thrum_queue_reduce(k->queue, k->x, grown, 2, COUNT, THRUM_INT32, THRUM_SUM));
    assert_ok(thrum_allreduce(k->x, k->sum, COUNT, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
    assert_ok(thrum_queue_callback(k->queue, count_up, &k->calls));
    assert_ok(thrum_queue_reduce(k->queue, k->total, totals, 2, COUNT, THRUM_INT32, THRUM_SUM));
    assert_ok(thrum_group_start());
    assert_ok(thrum_send(k->total, COUNT, THRUM_INT32, (rank + 1) % n, k->comm, k->queue));
    assert_ok(thrum_recv(k->from_left, COUNT, THRUM_INT32, (rank + n - 1) % n, k->comm, k->queue));
    assert_ok(thrum_group_end());
    assert_ok(thrum_copy(k->queue, k->x + 1, k->from_left, COUNT * 2));
}

static void read_ranks(struct rank *ranks, int n, int32_t result[][3][COUNT])
{
    for (int r = 0; r < n; r++)
        assert_ok(finish(ranks[r].queue));
    for (int r = 0; r < n; r++) {
        const int32_t *from[] = {ranks[r].x, ranks[r].sum, ranks[r].total};
        for (int i = 0; i < 3; i++)
            assert_ok(thrum_copy_to_host(ranks[r].queue, result[r][i], from[i], COUNT * 4));
    }
}

static void clear_ranks(struct rank *ranks, int n)
{
    for (int r = 0; r < n; r++) {
        int32_t *buffers[] = {ranks[r].x, ranks[r].sum, ranks[r].total};
        for (int i = 0; i < 3; i++)
            assert_ok(thrum_fill(ranks[r].queue, buffers[i], 0, COUNT * 4));
        assert_ok(finish(ranks[r].queue));
        ranks[r].calls = 0;
    }
}

static void replay_equals_eager(int n)
{
    static int32_t eager[MAX_RANKS][3][COUNT], replayed[MAX_RANKS][3][COUNT];
    struct rank ranks[MAX_RANKS];

    make_ranks(ranks, n);
    for (int i = 0; i < LAUNCHES; i++)
        for (int r = 0; r < n; r++)
            submit_step(&ranks[r], r, n);
    read_ranks(ranks, n, eager);
    clear_ranks(ranks, n);
    for (int r = 0; r < n; r++) {
        assert_ok(thrum_queue_capture_begin(ranks[r].queue));
        submit_step(&ranks[r], r, n);
        ranks[r].graph = end(ranks[r].queue);
        assert_int_equal(ranks[r].calls, 0);
    }
    for (int i = 0; i < LAUNCHES; i++)
        for (int r = n - 1; r >= 0; r--)
            assert_ok(thrum_graph_launch(ranks[r].graph, ranks[r].queue));
    read_ranks(ranks, n, replayed);
    assert_memory_equal(eager, replayed, (size_t)n * sizeof *eager);
    assert_int_not_equal(eager[0][2][COUNT - 1], 0);
    assert_int_equal(ranks[0].calls, LAUNCHES);
    free_ranks(ranks, n);
}

static void test_two_ranks(void **state)
{
    (void)state;
    replay_equals_eager(2);
}

static void test_four_ranks(void **state)
{
    (void)state;
    replay_equals_eager(4);
}

/* Eager calls and launches share the communicator's order; a graph may go to another queue, by way of a third graph. */
static void test_mixed_with_eager(void **state)
{
    struct rank ranks[2];
    thrum_queue_t others[2];
    int32_t value;

    (void)state;
    make_ranks(ranks, 2);
    for (int r = 0; r < 2; r++) {
        struct rank *k = &ranks[r];
        thrum_graph_t inner;

        assert_ok(thrum_queue_create(k->device, THRUM_QUEUE_DIRECT, &others[r]));
        assert_ok(thrum_fill(k->queue, k->x, 1, COUNT * 4));
        assert_ok(finish(k->queue));
        assert_ok(thrum_queue_capture_begin(k->queue));
        assert_ok(thrum_allreduce(k->x, k->x, COUNT, THRUM_UINT8, THRUM_SUM, k->comm, k->queue));
        inner = end(k->queue);
        assert_ok(thrum_queue_capture_begin(k->queue));
        assert_ok(thrum_graph_launch(inner, k->queue));
        k->graph = end(k->queue);
        thrum_graph_destroy(inner);
    }
    for (int i = 0; i < 3; i++)
        for (int r = 0; r < 2; r++) {
            struct rank *k = &ranks[r];
            assert_ok(thrum_graph_launch(k->graph, others[r]));
            assert_ok(
                thrum_allreduce(k->x, k->x, COUNT, THRUM_UINT8, THRUM_SUM, k->comm, others[r]));
        }
    for (int r = 0; r < 2; r++)
        assert_ok(finish(others[r]));
    for (int r = 0; r < 2; r++) {
        assert_ok(thrum_copy_to_host(others[r], &value, ranks[r].x, 4));
        assert_int_equal(value, 0x40404040); /* six doublings */
    }
    free_ranks(ranks, 2);
}

static void test_refused_collectives(void **state)
{
    struct rank ranks[2];
    struct rank *k = &ranks[0];
    thrum_queue_t other;

    (void)state;
    make_ranks(ranks, 2);
    assert_ok(thrum_queue_create(k->device, THRUM_QUEUE_DEFAULT, &other));
    assert_ok(thrum_queue_capture_begin(k->queue));
    /* bad arguments are told at once, and the recording is as it was */
    assert_status(
        thrum_allreduce(k->x, k->sum, COUNT, (thrum_datatype_t)99, THRUM_SUM, k->comm, k->queue),
        THRUM_ERR_INVALID_TYPE);
    assert_status(thrum_allreduce(k->x, NULL, COUNT, THRUM_INT32, THRUM_SUM, k->comm, k->queue),
                  THRUM_ERR_INVALID_POINTER);
    assert_status(thrum_send(k->x, COUNT * 2, THRUM_INT32, 1, k->comm, k->queue),
                  THRUM_ERR_INVALID_POINTER);
    k->graph = end(k->queue);
    assert_ok(thrum_graph_launch(k->graph, k->queue)); /* nothing is in it */
    assert_ok(finish(k->queue));
    thrum_graph_destroy(k->graph);
    assert_ok(thrum_queue_capture_begin(k->queue));
    assert_ok(thrum_group_start());
    assert_ok(thrum_recv(k->sum, COUNT, THRUM_INT32, 1, k->comm, other));
    assert_ok(thrum_send(k->x, COUNT, THRUM_INT32, 1, k->comm, k->queue));
    assert_status(thrum_group_end(), THRUM_ERR_INVALID_USAGE);
    assert_status(thrum_queue_capture_end(k->queue, &k->graph), THRUM_ERR_INVALID_USAGE);
    assert_non_null(strstr(thrum_last_error(), "several queues"));
    free_ranks(ranks, 2);
}

/* A collective that cannot begin at replay: nothing of the launch is submitted, also not what stands before it. */
static void test_failure_at_replay(void **state)
{
    struct rank ranks[2];
    struct rank *k = &ranks[0];

    (void)state;
    make_ranks(ranks, 2);
    assert_ok(thrum_queue_capture_begin(k->queue));
    assert_ok(thrum_fill(k->queue, k->x, 5, COUNT * 4));
    assert_ok(thrum_allreduce(k->x, k->sum, COUNT, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
    assert_ok(thrum_fill(k->queue, k->x, 6, COUNT * 4));
    k->graph = end(k->queue);
    assert_ok(thrum_comm_abort(k->comm));
    assert_status(thrum_graph_launch(k->graph, k->queue), THRUM_ERR_ABORTED);
    assert_bytes(k->queue, (const char *)k->x, 0);
    thrum_comm_destroy(k->comm);
    assert_status(thrum_graph_launch(k->graph, k->queue), THRUM_ERR_INVALID_COMM);
    k->comm = NULL;
    free_ranks(ranks, 2);
}

#define FAR 1500

/* One thread launches for one rank after the other what is more than a communicator or a ring takes as a rule; and ends it. */
static void test_far_ahead(void **state)
{
    struct rank ranks[2];
    int32_t value;

    (void)state;
    make_ranks(ranks, 2);
    for (int r = 0; r < 2; r++) {
        struct rank *k = &ranks[r];

        assert_ok(thrum_fill(k->queue, k->x, 0, COUNT * 4));
        assert_ok(thrum_queue_capture_begin(k->queue));
        for (int i = 0; i < FAR; i++) {
            assert_ok(thrum_allreduce(k->x, k->sum, 1, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
            assert_ok(thrum_group_start());
            assert_ok(thrum_send(k->sum, 1, THRUM_INT32, !r, k->comm, k->queue));
            assert_ok(thrum_recv(k->total, 1, THRUM_INT32, !r, k->comm, k->queue));
            assert_ok(thrum_group_end());
        }
        k->graph = end(k->queue);
    }
    assert_ok(thrum_fill(ranks[0].queue, ranks[0].x, 1, 4));
    for (int r = 0; r < 2; r++)
        assert_ok(thrum_graph_launch(ranks[r].graph, ranks[r].queue));
    for (int r = 0; r < 2; r++) {
        assert_ok(finish(ranks[r].queue));
        assert_ok(thrum_copy_to_host(ranks[r].queue, &value, ranks[r].total, 4));
        assert_int_equal(value, 0x01010101);
    }
    for (int i = 0; i < 2; i++)
        assert_ok(thrum_graph_launch(ranks[0].graph, ranks[0].queue));
    assert_ok(thrum_comm_abort(ranks[0].comm));
    assert_status(finish(ranks[0].queue), THRUM_ERR_ABORTED);
    free_ranks(ranks, 2);
}

/* A capture ends before the group that has calls for it: both are told, and nothing is done eagerly instead. */
static void test_end_inside_a_group(void **state)
{
    struct rank ranks[2];
    struct rank *k = &ranks[0];

    (void)state;
    make_ranks(ranks, 2);
    for (int messages = 0; messages < 2; messages++) {
        assert_ok(thrum_queue_capture_begin(k->queue));
        assert_ok(thrum_group_start());
        if (messages)
            assert_ok(thrum_send(k->x, COUNT, THRUM_INT32, 1, k->comm, k->queue));
        else
            assert_ok(
                thrum_allreduce(k->x, k->sum, COUNT, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
        assert_status(thrum_queue_capture_end(k->queue, &k->graph), THRUM_ERR_INVALID_USAGE);
        assert_non_null(strstr(thrum_last_error(), "inside a group"));
        assert_null(k->graph);
        assert_status(thrum_group_end(), THRUM_ERR_INVALID_USAGE);
        assert_non_null(strstr(thrum_last_error(), "ended inside a group"));
        assert_ok(finish(k->queue)); /* nothing waits there for the other rank */
    }
    assert_ok(thrum_queue_capture_begin(k->queue)); /* ended in order */
    assert_ok(thrum_group_start());
    assert_ok(thrum_allreduce(k->x, k->sum, COUNT, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
    assert_ok(thrum_group_end());
    k->graph = end(k->queue);
    free_ranks(ranks, 2);
}

/* A collective that began and fails on its way: the launch is fine, the queue tells. */
static void test_failure_after_launch(void **state)
{
    struct rank ranks[2];

    (void)state;
    make_ranks(ranks, 2);
    for (int r = 0; r < 2; r++) {
        struct rank *k = &ranks[r];
        assert_ok(thrum_queue_capture_begin(k->queue));
        assert_ok(thrum_allreduce(k->x, k->sum, (size_t)(COUNT - r), THRUM_INT32, THRUM_SUM,
                                  k->comm, k->queue));
        k->graph = end(k->queue);
        assert_ok(thrum_graph_launch(k->graph, k->queue));
    }
    for (int r = 0; r < 2; r++)
        assert_status(finish(ranks[r].queue), THRUM_ERR_MISMATCH);
    assert_status(thrum_graph_launch(ranks[0].graph, ranks[0].queue), THRUM_ERR_MISMATCH);
    free_ranks(ranks, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_ranks),         cmocka_unit_test(test_four_ranks),
        cmocka_unit_test(test_mixed_with_eager),  cmocka_unit_test(test_refused_collectives),
        cmocka_unit_test(test_failure_at_replay), cmocka_unit_test(test_failure_after_launch),
        cmocka_unit_test(test_far_ahead),         cmocka_unit_test(test_end_inside_a_group),
    };

    return cmocka_run_group_tests_name("captured collectives", tests, NULL, NULL);
}
