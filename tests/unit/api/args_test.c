/*
 * Bad arguments of every collective and communicator call, in one process with two devices: each is refused with its
 * status and a message that names the argument and the value, nothing is enqueued, and the communicator goes on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define BYTES 65536
#define N 2

static thrum_device_t devices[N];
static thrum_queue_t queues[N];
static thrum_comm_t comms[N];
static void *sends[N], *recvs[N];

#define ok(call) assert_int_equal((call), THRUM_OK)

/* The call fails with the status, and the message has both texts. */
#define refused(call, status, text, value) refused_at((call), #call, status, text, value, __LINE__)
static void refused_at(thrum_status_t got, const char *call, thrum_status_t status,
                       const char *text, const char *value, int line)
{
    if (got != status)
        fail_msg("line %d: %s: %s instead of %s (%s)", line, call, thrum_status_name(got),
                 thrum_status_name(status), thrum_last_error());
    if (!strstr(thrum_last_error(), text) || !strstr(thrum_last_error(), value))
        fail_msg("line %d: %s: \"%s\" does not name \"%s\" and \"%s\"", line, call,
                 thrum_last_error(), text, value);
}

static int make(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++) {
        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[i]));
        ok(thrum_queue_create(devices[i], THRUM_QUEUE_DEFAULT, &queues[i]));
        ok(thrum_mem_alloc(devices[i], BYTES, &sends[i]));
        ok(thrum_mem_alloc(devices[i], BYTES, &recvs[i]));
    }
    ok(thrum_comm_init_all(devices, N, NULL, comms));
    return 0;
}

/* The communicator works: what a refused call has to leave behind. */
static void works(void)
{
    int32_t values[4] = {1, 2, 3, 4};

    for (int i = 0; i < N; i++)
        ok(thrum_copy_to_device(queues[i], sends[i], values, sizeof values));
    for (int i = 0; i < N; i++)
        ok(thrum_allreduce(sends[i], recvs[i], 4, THRUM_INT32, THRUM_SUM, comms[i], queues[i]));
    for (int i = 0; i < N; i++) {
        ok(thrum_queue_synchronize(queues[i]));
        ok(thrum_copy_to_host(queues[i], values, recvs[i], sizeof values));
        for (int k = 0; k < 4; k++)
            assert_int_equal(values[k], N * (k + 1));
        for (int k = 0; k < 4; k++)
            values[k] = k + 1;
    }
}

static int unmake(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++)
        thrum_comm_destroy(comms[i]);
    for (int i = 0; i < N; i++) {
        thrum_queue_destroy(queues[i]);
        thrum_device_close(devices[i]);
    }
    return 0;
}

static void types(void **state)
{
    static const int bad[] = {-1, THRUM_DATATYPE_COUNT, 1000};

    (void)state;
    for (int i = 0; i < 3; i++) {
        thrum_datatype_t type = (thrum_datatype_t)bad[i];
        const char *value = i == 0 ? "-1" : i == 1 ? "16" : "1000";

        refused(thrum_allreduce(sends[0], recvs[0], 1, type, THRUM_SUM, comms[0], queues[0]),
                THRUM_ERR_INVALID_TYPE, "dtype", value);
        refused(thrum_broadcast(sends[0], recvs[0], 1, type, 0, comms[0], queues[0]),
                THRUM_ERR_INVALID_TYPE, "dtype", value);
        refused(thrum_allgather(sends[0], recvs[0], 1, type, comms[0], queues[0]),
                THRUM_ERR_INVALID_TYPE, "dtype", value);
        refused(thrum_reduce_scatter(sends[0], recvs[0], 1, type, THRUM_SUM, comms[0], queues[0]),
                THRUM_ERR_INVALID_TYPE, "dtype", value);
        refused(thrum_send(sends[0], 1, type, 1, comms[0], queues[0]), THRUM_ERR_INVALID_TYPE,
                "dtype", value);
        refused(thrum_recv(recvs[0], 1, type, 1, comms[0], queues[0]), THRUM_ERR_INVALID_TYPE,
                "dtype", value);
    }
    works();
}

static void operations(void **state)
{
    (void)state;
    refused(
        thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT8, (thrum_redop_t)-1, comms[0], queues[0]),
        THRUM_ERR_INVALID_OP, "op", "-1");
    refused(thrum_reduce_scatter(sends[0], recvs[0], 1, THRUM_INT8,
                                 (thrum_redop_t)THRUM_REDOP_COUNT, comms[0], queues[0]),
            THRUM_ERR_INVALID_OP, "op", "10");
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_FLOAT32, THRUM_BXOR, comms[0], queues[0]),
            THRUM_ERR_INVALID_OP, "bxor", "float32");
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_BFLOAT16, THRUM_BAND, comms[0], queues[0]),
            THRUM_ERR_INVALID_OP, "band", "bfloat16");
    refused(
        thrum_reduce_scatter(sends[0], recvs[0], 1, THRUM_FLOAT16, THRUM_BOR, comms[0], queues[0]),
        THRUM_ERR_INVALID_OP, "bor", "float16");
    works();
}

static void ranks(void **state)
{
    (void)state;
    refused(thrum_broadcast(sends[0], recvs[0], 1, THRUM_INT8, -1, comms[0], queues[0]),
            THRUM_ERR_INVALID_RANK, "root", "-1");
    refused(thrum_broadcast(sends[0], recvs[0], 1, THRUM_INT8, N, comms[0], queues[0]),
            THRUM_ERR_INVALID_RANK, "root", "2");
    refused(thrum_send(sends[0], 1, THRUM_INT8, N, comms[0], queues[0]), THRUM_ERR_INVALID_RANK,
            "peer", "2");
    refused(thrum_recv(recvs[0], 1, THRUM_INT8, -7, comms[0], queues[0]), THRUM_ERR_INVALID_RANK,
            "peer", "-7");
    refused(thrum_send(sends[0], 1, THRUM_INT8, 0, comms[0], queues[0]), THRUM_ERR_INVALID_USAGE,
            "peer", "0");
    works();
}

static void counts(void **state)
{
    (void)state;
    refused(
        thrum_allreduce(sends[0], recvs[0], SIZE_MAX, THRUM_INT64, THRUM_SUM, comms[0], queues[0]),
        THRUM_ERR_INVALID_COUNT, "count", "18446744073709551615");
    refused(thrum_allreduce(sends[0], recvs[0], SIZE_MAX / 8 + 1, THRUM_INT64, THRUM_SUM, comms[0],
                            queues[0]),
            THRUM_ERR_INVALID_COUNT, "count", "2305843009213693952");
    /* fits once, not once for each rank */
    refused(thrum_allgather(sends[0], recvs[0], SIZE_MAX / 12, THRUM_INT64, comms[0], queues[0]),
            THRUM_ERR_INVALID_COUNT, "count", "1537228672809129301");
    refused(thrum_reduce_scatter(sends[0], recvs[0], SIZE_MAX / 2 + 1, THRUM_UINT8, THRUM_SUM,
                                 comms[0], queues[0]),
            THRUM_ERR_INVALID_COUNT, "count", "9223372036854775808");
    refused(thrum_send(sends[0], SIZE_MAX / 2, THRUM_INT16, 1, comms[0], queues[0]),
            THRUM_ERR_INVALID_COUNT, "count", "9223372036854775807");
    works();
}

static void null_pointers(void **state)
{
    (void)state;
    refused(thrum_allreduce(NULL, recvs[0], 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "NULL");
    refused(thrum_allreduce(sends[0], NULL, 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "NULL");
    refused(thrum_broadcast(NULL, recvs[0], 1, THRUM_INT8, 0, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "NULL"); /* at the root */
    refused(thrum_broadcast(NULL, NULL, 1, THRUM_INT8, 1, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "NULL");
    refused(thrum_allgather(NULL, recvs[0], 1, THRUM_INT8, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "NULL");
    refused(thrum_reduce_scatter(sends[0], NULL, 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "NULL");
    refused(thrum_send(NULL, 1, THRUM_INT8, 1, comms[0], queues[0]), THRUM_ERR_INVALID_POINTER,
            "send", "NULL");
    refused(thrum_recv(NULL, 1, THRUM_INT8, 1, comms[0], queues[0]), THRUM_ERR_INVALID_POINTER,
            "recv", "NULL");
    works();
}

static void freed_pointers(void **state)
{
    void *freed;

    (void)state;
    ok(thrum_mem_alloc(devices[0], BYTES, &freed));
    ok(thrum_mem_free(devices[0], freed));
    refused(thrum_allreduce(freed, recvs[0], 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "freed");
    refused(thrum_allreduce(sends[0], freed, 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "freed");
    refused(thrum_mem_free(devices[0], freed), THRUM_ERR_INVALID_POINTER, "", "");
    refused(thrum_mem_free(devices[0], (uint8_t *)sends[0] + 4096), THRUM_ERR_INVALID_POINTER, "",
            "");
    works();
}

/* Memory of one device is foreign to the other. */
static void foreign_pointers(void **state)
{
    (void)state;
    refused(thrum_allreduce(sends[1], recvs[0], 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "device");
    refused(thrum_allreduce(sends[0], recvs[1], 1, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "device");
    works();
}

static void ranges_past_their_allocation(void **state)
{
    uint8_t *end = (uint8_t *)recvs[0] + BYTES;

    (void)state;
    refused(thrum_allreduce(sends[0], recvs[0], BYTES / 4 + 1, THRUM_INT32, THRUM_SUM, comms[0],
                            queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "65540");
    refused(thrum_allreduce(sends[0], end - 4, 2, THRUM_INT32, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "8");
    refused(thrum_allgather(sends[0], recvs[0], BYTES / 2 + 1, THRUM_INT8, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "65538");
    refused(thrum_reduce_scatter(sends[0], recvs[0], BYTES / 2 + 1, THRUM_INT8, THRUM_SUM, comms[0],
                                 queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "65538");
    refused(thrum_recv(end - 1, 2, THRUM_INT8, 1, comms[0], queues[0]), THRUM_ERR_INVALID_POINTER,
            "recv", "2");
    works();
}

static void overlaps_that_are_not_in_place(void **state)
{
    uint8_t *send = sends[0], *host = malloc(64);

    (void)state;
    assert_non_null(host);
    refused(thrum_allreduce(send, send + 4, 16, THRUM_INT32, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_broadcast(send + 4, send, 16, THRUM_INT32, 0, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_allgather(send + 64, send, 16, THRUM_INT32, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "overlap"); /* rank 0's place is block 0 */
    refused(thrum_reduce_scatter(send, send + 4, 16, THRUM_INT32, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_allreduce(host, host + 1, 8, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    free(host);
    works();
}

static void a_registered_range_ends(void **state)
{
    uint8_t *host = aligned_alloc(4096, 8192);

    (void)state;
    assert_non_null(host);
    memset(host, 0, 8192);
    ok(thrum_mem_register_host(devices[0], host, 4096));
    refused(thrum_allreduce(sends[0], host, 5000, THRUM_INT8, THRUM_SUM, comms[0], queues[0]),
            THRUM_ERR_INVALID_POINTER, "recv", "5000");
    refused(thrum_mem_register_host(devices[0], host + 100, 8), THRUM_ERR_INVALID_POINTER,
            "overlaps", "");
    ok(thrum_mem_unregister_host(devices[0], host));
    refused(thrum_mem_unregister_host(devices[0], host), THRUM_ERR_INVALID_POINTER, "", "");
    free(host);
    works();
}

static void wrong_queues(void **state)
{
    (void)state;
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT8, THRUM_SUM, comms[0], NULL),
            THRUM_ERR_INVALID_QUEUE, "queue", "");
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT8, THRUM_SUM, comms[0], queues[1]),
            THRUM_ERR_INVALID_QUEUE, "queue", "sim");
    refused(thrum_barrier(comms[0], queues[1]), THRUM_ERR_INVALID_QUEUE, "queue", "sim");
    refused(thrum_send(sends[0], 1, THRUM_INT8, 1, comms[0], NULL), THRUM_ERR_INVALID_QUEUE,
            "queue", "");
    works();
}

static void wrong_comms(void **state)
{
    int rank = 77;
    uint64_t not_a_comm[64] = {0};

    (void)state;
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT8, THRUM_SUM, NULL, queues[0]),
            THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_barrier((thrum_comm_t)(void *)not_a_comm, queues[0]), THRUM_ERR_INVALID_COMM,
            "comm", "");
    refused(thrum_comm_rank(NULL, &rank), THRUM_ERR_INVALID_COMM, "comm", "");
    assert_int_equal(rank, 77);
    refused(thrum_comm_finalize(NULL), THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_comm_abort(NULL), THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_comm_async_error(NULL, NULL, NULL), THRUM_ERR_INVALID_COMM, "comm", "");
    thrum_comm_destroy(NULL);
    works();
}

static void null_outputs(void **state)
{
    thrum_comm_t comm;
    struct thrum_unique_id id = {{0}};

    (void)state;
    refused(thrum_comm_rank(comms[0], NULL), THRUM_ERR_INVALID_ARGUMENT, "rank", "NULL");
    refused(thrum_comm_size(comms[0], NULL), THRUM_ERR_INVALID_ARGUMENT, "nranks", "NULL");
    refused(thrum_comm_device(comms[0], NULL), THRUM_ERR_INVALID_ARGUMENT, "device", "NULL");
    refused(thrum_comm_async_error(comms[0], NULL, NULL), THRUM_ERR_INVALID_ARGUMENT, "status",
            "NULL");
    refused(thrum_comm_memory(comms[0], NULL), THRUM_ERR_INVALID_ARGUMENT, "memory", "NULL");
    refused(thrum_get_unique_id(NULL), THRUM_ERR_INVALID_ARGUMENT, "id", "NULL");
    refused(thrum_comm_init_rank(NULL, 1, 0, devices[0], NULL, &comm), THRUM_ERR_INVALID_ARGUMENT,
            "id", "NULL");
    refused(thrum_comm_init_rank(&id, 1, 0, devices[0], NULL, NULL), THRUM_ERR_INVALID_ARGUMENT,
            "comm", "NULL");
    refused(thrum_comm_init_all(NULL, 1, NULL, &comm), THRUM_ERR_INVALID_ARGUMENT, "devices",
            "NULL");
    refused(thrum_comm_init_all(devices, 0, NULL, &comm), THRUM_ERR_INVALID_ARGUMENT, "n", "0");
    works();
}

static void bad_joins(void **state)
{
    const struct thrum_comm_config no_size = {.deadline_ms = 5};
    const struct thrum_comm_config negative = {.size = sizeof negative, .deadline_ms = -5};
    thrum_device_t same[2] = {devices[0], devices[0]};
    struct thrum_unique_id zeroes = {{0}}, id;
    thrum_comm_t comm = (thrum_comm_t)(void *)same, two[2] = {comm, comm};

    (void)state;
    refused(thrum_comm_init_rank(&zeroes, 1, 0, devices[0], NULL, &comm),
            THRUM_ERR_INVALID_ARGUMENT, "id", "");
    ok(thrum_get_unique_id(&id));
    refused(thrum_comm_init_rank(&id, 0, 0, devices[0], NULL, &comm), THRUM_ERR_INVALID_ARGUMENT,
            "nranks", "0");
    refused(thrum_comm_init_rank(&id, 4, 4, devices[0], NULL, &comm), THRUM_ERR_INVALID_RANK,
            "rank", "4");
    refused(thrum_comm_init_rank(&id, 4, -1, devices[0], NULL, &comm), THRUM_ERR_INVALID_RANK,
            "rank", "-1");
    refused(thrum_comm_init_rank(&id, 1, 0, NULL, NULL, &comm), THRUM_ERR_INVALID_ARGUMENT,
            "device", "");
    refused(thrum_comm_init_rank(&id, 1, 0, devices[0], &no_size, &comm),
            THRUM_ERR_INVALID_ARGUMENT, "size", "0");
    refused(thrum_comm_init_rank(&id, 1, 0, devices[0], &negative, &comm),
            THRUM_ERR_INVALID_ARGUMENT, "deadline_ms", "-5");
    refused(thrum_comm_init_all(same, 2, NULL, two), THRUM_ERR_INVALID_ARGUMENT, "device", "");
    assert_ptr_equal(comm, same); /* outputs are written on success only */
    assert_ptr_equal(two[0], same);
    works();
}

static void groups(void **state)
{
    int32_t before = 5, after = 0;

    (void)state;
    refused(thrum_group_end(), THRUM_ERR_INVALID_USAGE, "thrum_group_start", "");
    /* A refused call inside: nothing of the group begins, and the first refusal is what end returns. */
    ok(thrum_copy_to_device(queues[0], recvs[0], &before, sizeof before));
    ok(thrum_group_start());
    for (int i = 0; i < N; i++)
        ok(thrum_allreduce(sends[i], recvs[i], 1, THRUM_INT32, THRUM_SUM, comms[i], queues[i]));
    refused(thrum_broadcast(sends[0], recvs[0], 1, THRUM_INT32, 55, comms[0], queues[0]),
            THRUM_ERR_INVALID_RANK, "root", "55");
    refused(thrum_group_end(), THRUM_ERR_INVALID_RANK, "root", "55");
    for (int i = 0; i < N; i++)
        ok(thrum_queue_synchronize(queues[i]));
    ok(thrum_copy_to_host(queues[0], &after, recvs[0], sizeof after));
    assert_int_equal(after, before);
    refused(thrum_group_end(), THRUM_ERR_INVALID_USAGE, "thrum_group_start", "");
    /* Nested ones begin at the outermost end. */
    ok(thrum_group_start());
    ok(thrum_group_start());
    for (int i = 0; i < N; i++)
        ok(thrum_send(sends[i], 4, THRUM_INT32, !i, comms[i], queues[i]));
    ok(thrum_group_end());
    for (int i = 0; i < N; i++)
        ok(thrum_recv(recvs[i], 4, THRUM_INT32, !i, comms[i], queues[i]));
    ok(thrum_group_end());
    for (int i = 0; i < N; i++)
        ok(thrum_queue_synchronize(queues[i]));
    works();
}

/* An error in the buffers of the second call of a group: nothing of the first begins either. */
static void a_bad_buffer_in_a_group(void **state)
{
    int32_t before = 6, after = 0;
    thrum_status_t status;

    (void)state;
    ok(thrum_copy_to_device(queues[0], recvs[0], &before, sizeof before));
    ok(thrum_group_start());
    for (int i = 0; i < N; i++)
        ok(thrum_allreduce(sends[i], recvs[i], 1, THRUM_INT32, THRUM_SUM, comms[i], queues[i]));
    status = thrum_send(sends[0], BYTES, THRUM_INT32, 1, comms[0], queues[0]);
    assert_true(status == THRUM_OK || status == THRUM_ERR_INVALID_POINTER);
    refused(thrum_group_end(), THRUM_ERR_INVALID_POINTER, "send", "262144");
    for (int i = 0; i < N; i++)
        ok(thrum_queue_synchronize(queues[i]));
    ok(thrum_copy_to_host(queues[0], &after, recvs[0], sizeof after));
    assert_int_equal(after, before);
    works();
}

static void a_count_of_zero(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++) {
        ok(thrum_allreduce(NULL, NULL, 0, THRUM_INT32, THRUM_SUM, comms[i], queues[i]));
        ok(thrum_broadcast(NULL, NULL, 0, THRUM_INT32, 1, comms[i], queues[i]));
        ok(thrum_allgather(NULL, NULL, 0, THRUM_INT32, comms[i], queues[i]));
        ok(thrum_reduce_scatter(NULL, NULL, 0, THRUM_INT32, THRUM_SUM, comms[i], queues[i]));
    }
    for (int i = 0; i < N; i++)
        ok(thrum_queue_synchronize(queues[i]));
    works();
}

static void use_after_finalize(void **state)
{
    thrum_comm_t pair[N];
    thrum_status_t status = THRUM_ERR_INTERNAL;
    int rank = -1;

    (void)state;
    ok(thrum_comm_init_all(devices, 1, NULL, pair));
    ok(thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT32, THRUM_SUM, pair[0], queues[0]));
    ok(thrum_comm_finalize(pair[0]));
    refused(thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT32, THRUM_SUM, pair[0], queues[0]),
            THRUM_ERR_INVALID_COMM, "finalized", "");
    refused(thrum_barrier(pair[0], queues[0]), THRUM_ERR_INVALID_COMM, "finalized", "");
    ok(thrum_comm_rank(pair[0], &rank));
    assert_int_equal(rank, 0);
    ok(thrum_comm_async_error(pair[0], &status, NULL));
    assert_int_equal(status, THRUM_OK);
    thrum_comm_destroy(pair[0]);
    works();
}

static void use_after_abort(void **state)
{
    thrum_comm_t pair[N];
    thrum_status_t status = THRUM_OK;
    const char *message = NULL;

    (void)state;
    ok(thrum_comm_init_all(devices, N, NULL, pair));
    ok(thrum_comm_abort(pair[1]));
    refused(thrum_allreduce(sends[1], recvs[1], 1, THRUM_INT32, THRUM_SUM, pair[1], queues[1]),
            THRUM_ERR_ABORTED, "rank 1", "");
    ok(thrum_comm_async_error(pair[1], &status, &message));
    assert_int_equal(status, THRUM_ERR_ABORTED);
    assert_non_null(strstr(message, "rank 1"));
    /* The other rank is told, by the call or at its queue. */
    status = thrum_allreduce(sends[0], recvs[0], 1, THRUM_INT32, THRUM_SUM, pair[0], queues[0]);
    if (status == THRUM_OK)
        status = thrum_queue_synchronize(queues[0]);
    assert_int_equal(status, THRUM_ERR_ABORTED);
    assert_non_null(strstr(thrum_last_error(), "rank 1"));
    ok(thrum_comm_abort(pair[0])); /* again is allowed */
    thrum_comm_destroy(pair[1]);
    thrum_comm_destroy(pair[0]);
    works();
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(types),
        TEST(operations),
        TEST(ranks),
        TEST(counts),
        TEST(null_pointers),
        TEST(freed_pointers),
        TEST(foreign_pointers),
        TEST(ranges_past_their_allocation),
        TEST(overlaps_that_are_not_in_place),
        TEST(a_registered_range_ends),
        TEST(wrong_queues),
        TEST(wrong_comms),
        TEST(null_outputs),
        TEST(bad_joins),
        TEST(groups),
        TEST(a_bad_buffer_in_a_group),
        TEST(a_count_of_zero),
        TEST(use_after_finalize),
        TEST(use_after_abort),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
