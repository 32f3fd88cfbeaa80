/*
 * Bad arguments of reduce, gather, scatter, alltoall, scan, exscan and of the v-variants: each is refused with its
 * status and a message that names the argument and the value, and the communicator goes on. Also what is allowed:
 * pointers and arrays that do not matter on this rank.
 */
#include "ranks.h"

#include <string.h>

#define N 2
#define BYTES 65536

static struct buffer sends[N], recvs[N];
static uint8_t *send, *recv; /* of rank 0 */
static const size_t counts[N] = {3, 4};

static int make(void **state)
{
    (void)state;
    ranks_open(N);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, MEMORY_DEVICE, BYTES);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, BYTES);
    }
    send = sends[0].address;
    recv = recvs[0].address;
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    ranks_leave(N);
    for (int r = 0; r < N; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_close(N);
    return 0;
}

/* The communicator works: what a refused call has to leave behind. */
static void works(void)
{
    int32_t values[4] = {1, 2, 3, 4};

    for (int r = 0; r < N; r++)
        buffer_write(&sends[r], values, sizeof values);
    for (int r = 0; r < N; r++)
        ok(thrum_allreduce(sends[r].address, recvs[r].address, 4, THRUM_INT32, THRUM_SUM, comms[r],
                           queues[r]));
    ranks_synchronize(N);
    buffer_read(&recvs[1], values, sizeof values);
    for (int k = 0; k < 4; k++)
        assert_int_equal(values[k], N * (k + 1));
}

#define T THRUM_INT32
#define ON comms[0], queues[0]

static void types_and_operations(void **state)
{
    const thrum_datatype_t bad = (thrum_datatype_t)99;

    (void)state;
    refused(thrum_reduce(send, recv, 1, bad, THRUM_SUM, 0, ON), THRUM_ERR_INVALID_TYPE, "dtype",
            "99");
    refused(thrum_alltoall(send, recv, 1, bad, ON), THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_gather(send, recv, 1, bad, 0, ON), THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_scatter(send, recv, 1, bad, 0, ON), THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_scan(send, recv, 1, bad, THRUM_SUM, ON), THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_exscan(send, recv, 1, bad, THRUM_SUM, ON), THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_allgatherv(send, recv, counts, NULL, bad, ON), THRUM_ERR_INVALID_TYPE, "dtype",
            "99");
    refused(thrum_reduce_scatterv(send, recv, counts, bad, THRUM_SUM, ON), THRUM_ERR_INVALID_TYPE,
            "dtype", "99");
    refused(thrum_alltoallv(send, counts, NULL, recv, counts, NULL, bad, ON),
            THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_gatherv(send, 3, recv, counts, NULL, bad, 0, ON), THRUM_ERR_INVALID_TYPE, "dtype",
            "99");
    refused(thrum_scatterv(send, counts, NULL, recv, 3, bad, 0, ON), THRUM_ERR_INVALID_TYPE,
            "dtype", "99");
    refused(thrum_reduce(send, recv, 1, T, (thrum_redop_t)10, 0, ON), THRUM_ERR_INVALID_OP, "op",
            "10");
    refused(thrum_scan(send, recv, 1, THRUM_FLOAT8_E4M3, THRUM_BAND, ON), THRUM_ERR_INVALID_OP,
            "band", "float8_e4m3");
    refused(thrum_exscan(send, recv, 1, THRUM_COMPLEX64, THRUM_MAX, ON), THRUM_ERR_INVALID_OP,
            "max", "complex64");
    refused(thrum_reduce_scatterv(send, recv, counts, THRUM_COMPLEX128, THRUM_LOR, ON),
            THRUM_ERR_INVALID_OP, "lor", "complex128");
    refused(thrum_allreduce(send, recv, 1, THRUM_COMPLEX64, THRUM_BXOR, ON), THRUM_ERR_INVALID_OP,
            "bxor", "complex64");
    works();
}

static void roots(void **state)
{
    (void)state;
    refused(thrum_reduce(send, recv, 1, T, THRUM_SUM, N, ON), THRUM_ERR_INVALID_RANK, "root", "2");
    refused(thrum_gather(send, recv, 1, T, -1, ON), THRUM_ERR_INVALID_RANK, "root", "-1");
    refused(thrum_scatter(send, recv, 1, T, 7, ON), THRUM_ERR_INVALID_RANK, "root", "7");
    refused(thrum_gatherv(send, 3, recv, counts, NULL, T, N, ON), THRUM_ERR_INVALID_RANK, "root",
            "2");
    refused(thrum_scatterv(send, counts, NULL, recv, 3, T, -5, ON), THRUM_ERR_INVALID_RANK, "root",
            "-5");
    works();
}

static void counts_that_overflow(void **state)
{
    const size_t huge[N] = {3, SIZE_MAX / 4}, far[N] = {0, SIZE_MAX - 1};

    (void)state;
    refused(thrum_reduce(send, recv, SIZE_MAX, T, THRUM_SUM, 0, ON), THRUM_ERR_INVALID_COUNT,
            "count", "18446744073709551615");
    refused(thrum_alltoall(send, recv, SIZE_MAX / 4, T, ON), THRUM_ERR_INVALID_COUNT, "count",
            "4611686018427387903");
    refused(thrum_scan(send, recv, SIZE_MAX / 2, T, THRUM_SUM, ON), THRUM_ERR_INVALID_COUNT,
            "count", "9223372036854775807");
    refused(thrum_allgatherv(send, recv, huge, NULL, T, ON), THRUM_ERR_INVALID_COUNT, "count",
            "4611686018427387903");
    refused(thrum_allgatherv(send, recv, counts, far, T, ON), THRUM_ERR_INVALID_COUNT,
            "recvcounts[1]=4", "18446744073709551614");
    refused(thrum_alltoallv(send, huge, NULL, recv, counts, NULL, T, ON), THRUM_ERR_INVALID_COUNT,
            "sendcounts[1]", "4611686018427387903");
    refused(thrum_alltoallv(send, counts, NULL, recv, counts, far, T, ON), THRUM_ERR_INVALID_COUNT,
            "recvcounts[1]=4", "18446744073709551614");
    refused(thrum_gatherv(send, SIZE_MAX, recv, counts, NULL, T, 0, ON), THRUM_ERR_INVALID_COUNT,
            "sendcount", "18446744073709551615");
    refused(thrum_scatterv(send, counts, NULL, recv, SIZE_MAX, T, 0, ON), THRUM_ERR_INVALID_COUNT,
            "recvcount", "18446744073709551615");
    works();
}

static void counts_of_the_own_block(void **state)
{
    const size_t other[N] = {5, 4};

    (void)state;
    refused(thrum_alltoallv(send, counts, NULL, recv, other, NULL, T, ON), THRUM_ERR_INVALID_COUNT,
            "sendcounts[0]=3", "recvcounts[0]=5");
    refused(thrum_gatherv(send, 2, recv, counts, NULL, T, 0, ON), THRUM_ERR_INVALID_COUNT,
            "sendcount=2", "recvcounts[0]=3");
    refused(thrum_scatterv(send, counts, NULL, recv, 2, T, 0, ON), THRUM_ERR_INVALID_COUNT,
            "sendcounts[0]=3", "recvcount=2");
    works();
}

static void pointers(void **state)
{
    uint8_t *end = recv + BYTES;

    (void)state;
    refused(thrum_reduce(NULL, recv, 1, T, THRUM_SUM, 0, ON), THRUM_ERR_INVALID_POINTER, "send",
            "NULL");
    refused(thrum_reduce(send, NULL, 1, T, THRUM_SUM, 0, ON), THRUM_ERR_INVALID_POINTER, "recv",
            "NULL");
    refused(thrum_alltoall(send, end - 4, 1, T, ON), THRUM_ERR_INVALID_POINTER, "recv", "8 bytes");
    refused(thrum_gather(send, end - 4, 1, T, 0, ON), THRUM_ERR_INVALID_POINTER, "recv", "8 bytes");
    refused(thrum_scatter(NULL, recv, 1, T, 0, ON), THRUM_ERR_INVALID_POINTER, "send", "NULL");
    refused(thrum_scan(sends[1].address, recv, 1, T, THRUM_SUM, ON), THRUM_ERR_INVALID_POINTER,
            "send", "another device");
    refused(thrum_exscan(NULL, recv, 1, T, THRUM_SUM, ON), THRUM_ERR_INVALID_POINTER, "send",
            "NULL");
    refused(thrum_allgatherv(send, NULL, counts, NULL, T, ON), THRUM_ERR_INVALID_POINTER, "recv",
            "NULL");
    refused(thrum_allgatherv(send, recv, NULL, NULL, T, ON), THRUM_ERR_INVALID_POINTER,
            "recvcounts", "NULL");
    refused(thrum_reduce_scatterv(send, recv, NULL, T, THRUM_SUM, ON), THRUM_ERR_INVALID_POINTER,
            "counts", "NULL");
    refused(thrum_alltoallv(send, NULL, NULL, recv, counts, NULL, T, ON), THRUM_ERR_INVALID_POINTER,
            "sendcounts", "NULL");
    refused(thrum_alltoallv(send, counts, NULL, recv, NULL, NULL, T, ON), THRUM_ERR_INVALID_POINTER,
            "recvcounts", "NULL");
    refused(thrum_alltoallv(send, counts, NULL, end - 16, counts, NULL, T, ON),
            THRUM_ERR_INVALID_POINTER, "recv", "16 bytes");
    refused(thrum_gatherv(send, 3, recv, NULL, NULL, T, 0, ON), THRUM_ERR_INVALID_POINTER,
            "recvcounts", "NULL");
    refused(thrum_gatherv(NULL, 3, recv, counts, NULL, T, 0, ON), THRUM_ERR_INVALID_POINTER, "send",
            "NULL");
    refused(thrum_scatterv(send, NULL, NULL, recv, 3, T, 0, ON), THRUM_ERR_INVALID_POINTER,
            "sendcounts", "NULL");
    works();
}

static void overlaps(void **state)
{
    const size_t crossing[N] = {0, 2}, apart[N] = {0, 100};

    (void)state;
    refused(thrum_alltoall(send, send + 4, 1, T, ON), THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_reduce_scatter(send, send + 4, 2, T, THRUM_SUM, ON), THRUM_ERR_INVALID_POINTER,
            "send", "overlap");
    refused(thrum_reduce(send, send + 4, 4, T, THRUM_SUM, 0, ON), THRUM_ERR_INVALID_POINTER, "send",
            "overlap");
    refused(thrum_scan(send, send + 4, 4, T, THRUM_SUM, ON), THRUM_ERR_INVALID_POINTER, "send",
            "overlap");
    refused(thrum_gather(send + 4, send, 4, T, 0, ON), THRUM_ERR_INVALID_POINTER, "send",
            "overlap");
    refused(thrum_scatter(send, send + 4, 4, T, 0, ON), THRUM_ERR_INVALID_POINTER, "send",
            "overlap");
    refused(thrum_allgatherv(send, recv, counts, crossing, T, ON), THRUM_ERR_INVALID_ARGUMENT,
            "displs", "ranks 0 and 1");
    refused(thrum_allgatherv(recv + 4, recv, counts, NULL, T, ON), THRUM_ERR_INVALID_POINTER,
            "send", "overlap");
    refused(thrum_reduce_scatterv(send, send + 4, counts, T, THRUM_SUM, ON),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_alltoallv(send, counts, NULL, recv, counts, crossing, T, ON),
            THRUM_ERR_INVALID_ARGUMENT, "rdispls", "ranks 0 and 1");
    refused(thrum_alltoallv(send, counts, NULL, send, counts, apart, T, ON),
            THRUM_ERR_INVALID_POINTER, "send", "overlap");
    refused(thrum_alltoallv(send, counts, NULL, send + 24, counts, NULL, T, ON),
            THRUM_ERR_INVALID_POINTER, "rank 1", "rank 0");
    refused(thrum_gatherv(send, 3, recv, counts, crossing, T, 0, ON), THRUM_ERR_INVALID_ARGUMENT,
            "displs", "ranks 0 and 1");
    refused(thrum_gatherv(recv + 4, 3, recv, counts, NULL, T, 0, ON), THRUM_ERR_INVALID_POINTER,
            "send", "overlap");
    refused(thrum_scatterv(send, counts, NULL, send + 16, 3, T, 0, ON), THRUM_ERR_INVALID_POINTER,
            "send", "overlap");
    /* blocks that are read may overlap, and what is sent may lie between what is received */
    for (int r = 0; r < N; r++) {
        const size_t three[N] = {3, 3};
        ok(thrum_allgatherv(recvs[r].address + 40, recvs[r].address, three, apart, T, comms[r],
                            queues[r]));
        ok(thrum_alltoallv(sends[r].address, three, crossing, recvs[r].address, three, NULL, T,
                           comms[r], queues[r]));
    }
    ranks_synchronize(N);
    works();
}

static void comms_and_queues(void **state)
{
    (void)state;
    refused(thrum_scan(send, recv, 1, T, THRUM_SUM, NULL, queues[0]), THRUM_ERR_INVALID_COMM,
            "comm", "");
    refused(thrum_allgatherv(send, recv, counts, NULL, T, NULL, queues[0]), THRUM_ERR_INVALID_COMM,
            "comm", "");
    refused(thrum_alltoallv(send, counts, NULL, recv, counts, NULL, T, NULL, queues[0]),
            THRUM_ERR_INVALID_COMM, "comm", "");
    refused(thrum_reduce(send, recv, 1, T, THRUM_SUM, 0, comms[0], queues[1]),
            THRUM_ERR_INVALID_QUEUE, "queue", "sim");
    refused(thrum_reduce_scatterv(send, recv, counts, T, THRUM_SUM, comms[0], NULL),
            THRUM_ERR_INVALID_QUEUE, "queue", "");
    refused(thrum_scatterv(send, counts, NULL, recv, 3, T, 0, comms[0], queues[1]),
            THRUM_ERR_INVALID_QUEUE, "queue", "sim");
    works();
}

/* What does not matter on a rank may be anything; nothing at all may be NULL. */
static void what_does_not_matter(void **state)
{
    void *wild = (void *)(uintptr_t)8;
    const size_t nothing[N] = {0, 0};

    (void)state;
    for (int r = 0; r < N; r++) {
        const uint8_t *s = sends[r].address;
        uint8_t *d = recvs[r].address;
        thrum_comm_t comm = comms[r];
        thrum_queue_t queue = queues[r];

        ok(thrum_reduce(s, r ? wild : d, 5, T, THRUM_SUM, 0, comm, queue));
        ok(thrum_gather(s, r ? wild : d, 5, T, 0, comm, queue));
        ok(thrum_scatter(r ? wild : s, d, 5, T, 0, comm, queue));
        ok(thrum_exscan(s, r ? d : wild, 5, T, THRUM_SUM, comm, queue));
        ok(thrum_gatherv(s, counts[r], r ? wild : d, r ? wild : counts, r ? wild : NULL, T, 0, comm,
                         queue));
        ok(thrum_scatterv(r ? wild : s, r ? wild : counts, r ? wild : NULL, d, counts[r], T, 0,
                          comm, queue));
        ok(thrum_reduce(NULL, NULL, 0, T, THRUM_SUM, 1, comm, queue));
        ok(thrum_alltoall(NULL, NULL, 0, T, comm, queue));
        ok(thrum_gather(NULL, NULL, 0, T, 1, comm, queue));
        ok(thrum_scatter(NULL, NULL, 0, T, 1, comm, queue));
        ok(thrum_scan(NULL, NULL, 0, T, THRUM_SUM, comm, queue));
        ok(thrum_exscan(NULL, NULL, 0, T, THRUM_SUM, comm, queue));
        ok(thrum_allgatherv(NULL, NULL, nothing, NULL, T, comm, queue));
        ok(thrum_reduce_scatterv(NULL, NULL, nothing, T, THRUM_SUM, comm, queue));
        ok(thrum_alltoallv(NULL, nothing, NULL, NULL, nothing, NULL, T, comm, queue));
        ok(thrum_gatherv(NULL, 0, NULL, nothing, NULL, T, 1, comm, queue));
        ok(thrum_scatterv(NULL, nothing, NULL, NULL, 0, T, 1, comm, queue));
    }
    ranks_synchronize(N);
    works();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_and_operations),
        cmocka_unit_test(roots),
        cmocka_unit_test(counts_that_overflow),
        cmocka_unit_test(counts_of_the_own_block),
        cmocka_unit_test(pointers),
        cmocka_unit_test(overlaps),
        cmocka_unit_test(comms_and_queues),
        cmocka_unit_test(what_does_not_matter),
    };

    return cmocka_run_group_tests(tests, make, unmake);
}
