/*
 * Reductions of the caller: functions that do not commute fold in rank order, whatever the size and the place; errors
 * of theirs fail the communicator everywhere; premultiplied sums with a scalar of the host or of the device, for every
 * collective that reduces, in place and not, each kind of memory. With and without peer access.
 */
#include "ranks.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define N 4
#define MAX_COUNT 60000 /* of a block */

static struct buffer sends[N], recvs[N];

/* ---- functions that fold ---- */

/* 2 x 2 matrices modulo 2^16 packed into 64 bits: products do not commute. */
static uint64_t product(uint64_t a, uint64_t b)
{
    uint16_t x[4], y[4], z[4];
    uint64_t result;

    memcpy(x, &a, 8);
    memcpy(y, &b, 8);
    z[0] = (uint16_t)(x[0] * y[0] + x[1] * y[2]);
    z[1] = (uint16_t)(x[0] * y[1] + x[1] * y[3]);
    z[2] = (uint16_t)(x[2] * y[0] + x[3] * y[2]);
    z[3] = (uint16_t)(x[2] * y[1] + x[3] * y[3]);
    memcpy(&result, z, 8);
    return result;
}

static thrum_status_t fold_matrices(const void *left, const void *right, void *result, size_t count,
                                    thrum_datatype_t dtype, void *context)
{
    const uint64_t *a = left, *b = right;
    uint64_t *out = result;

    if (dtype != THRUM_UINT64 || *(int *)context != 4711)
        return THRUM_ERR_INTERNAL;
    for (size_t i = 0; i < count; i++)
        out[i] = product(a[i], b[i]);
    return THRUM_OK;
}

static uint64_t matrix(int rank, size_t i)
{
    return ((uint64_t)(rank + 2) * 0x9e3779b97f4a7c15u) ^ ((uint64_t)i * 0xbf58476d1ce4e5b9u);
}

/* Of ranks 0 .. ranks - 1. */
static uint64_t product_of(int ranks, size_t i)
{
    uint64_t result = matrix(0, i);

    for (int r = 1; r < ranks; r++)
        result = product(result, matrix(r, i));
    return result;
}

enum kind { ALLREDUCE, REDUCE, REDUCE_SCATTER, REDUCE_SCATTERV, SCAN, EXSCAN, KINDS };

static thrum_status_t call(enum kind kind, int r, const void *send, void *recv, size_t count,
                           thrum_datatype_t dtype, thrum_redop_t op)
{
    const size_t counts[N] = {count, count / 2, count, count};

    switch (kind) {
    case ALLREDUCE:
        return thrum_allreduce(send, recv, count, dtype, op, comms[r], queues[r]);
    case REDUCE:
        return thrum_reduce(send, recv, count, dtype, op, 1, comms[r], queues[r]);
    case REDUCE_SCATTER:
        return thrum_reduce_scatter(send, recv, count, dtype, op, comms[r], queues[r]);
    case REDUCE_SCATTERV:
        return thrum_reduce_scatterv(send, recv, counts, dtype, op, comms[r], queues[r]);
    case SCAN:
        return thrum_scan(send, recv, count, dtype, op, comms[r], queues[r]);
    default:
        return thrum_exscan(send, recv, count, dtype, op, comms[r], queues[r]);
    }
}

/* How many ranks' contributions rank r gets (0: recv is left alone), which of their elements first, and how many. */
static int folded(enum kind kind, int r, size_t count, size_t *first, size_t *n)
{
    *first = 0;
    *n = count;
    switch (kind) {
    case ALLREDUCE:
        return N;
    case REDUCE:
        return r == 1 ? N : 0;
    case REDUCE_SCATTER:
        *first = count * (size_t)r;
        return N;
    case REDUCE_SCATTERV:
        *first = r < 2 ? count * (size_t)r : count * (size_t)(r - 1) + count / 2;
        *n = r == 1 ? count / 2 : count;
        return N;
    case SCAN:
        return r + 1;
    default:
        return r;
    }
}

/* Where the call receives, in place. */
static void *in_place(enum kind kind, int r, size_t count, size_t size)
{
    size_t first, n;

    (void)folded(kind, r, count, &first, &n);
    return sends[r].address + first * size;
}

static void make_buffers(enum memory memory, size_t bytes)
{
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, memory, bytes * N);
        buffer_make(&recvs[r], r, memory, bytes);
    }
}

static void free_buffers(void)
{
    for (int r = 0; r < N; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
}

/* The result of rank r, wherever it was received. */
static void read_result(enum kind kind, int r, bool placed, size_t count, size_t size, void *out)
{
    struct buffer where = placed ? sends[r] : recvs[r];
    size_t first, n;

    (void)folded(kind, r, count, &first, &n);
    if (placed)
        where.address = in_place(kind, r, count, size);
    buffer_read(&where, out, n * size);
}

static void matrices_with(enum memory memory)
{
    static const size_t counts[] = {1, 5, 700, MAX_COUNT};
    static int context = 4711;
    uint64_t *values = malloc(N * MAX_COUNT * 8);
    thrum_redop_t op[N];

    assert_non_null(values);
    make_buffers(memory, MAX_COUNT * 8);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++)
        ok(thrum_redop_create(comms[r], fold_matrices, &context, false, &op[r]));
    for (int kind = 0; kind < KINDS; kind++)
        for (int c = 0; c < (memory == MEMORY_DEVICE ? 4 : 3); c++)
            for (int placed = 0; placed < 2; placed++) {
                size_t count = counts[c], first, n;

                for (int r = 0; r < N; r++) {
                    for (size_t i = 0; i < N * count; i++)
                        values[i] = matrix(r, i);
                    buffer_write(&sends[r], values, N * count * 8);
                    memset(values, 0x77, count * 8);
                    buffer_write(&recvs[r], values, count * 8);
                }
                for (int r = 0; r < N; r++)
                    ok(call((enum kind)kind, r, sends[r].address,
                            placed ? in_place((enum kind)kind, r, count, 8) : recvs[r].address,
                            count, THRUM_UINT64, op[r]));
                ranks_synchronize(N);
                for (int r = 0; r < N; r++) {
                    int ranks = folded((enum kind)kind, r, count, &first, &n);

                    read_result((enum kind)kind, r, placed, count, 8, values);
                    for (size_t i = 0; i < n; i++) {
                        uint64_t want = ranks    ? product_of(ranks, first + i)
                                        : placed ? matrix(r, first + i)
                                                 : 0x7777777777777777u;
                        if (values[i] != want)
                            fail_msg("kind %d, count %zu, rank %d, placed %d: element %zu", kind,
                                     count, r, placed, i);
                    }
                }
            }
    for (int r = 0; r < N; r++)
        ok(thrum_redop_destroy(comms[r], op[r]));
    ranks_leave(N);
    free_buffers();
    free(values);
}

static void matrices(void **state)
{
    (void)state;
    matrices_with(MEMORY_DEVICE);
}

static void matrices_in_host_memory(void **state)
{
    (void)state;
    matrices_with(MEMORY_HOST);
}

/* ---- premultiplied sums ---- */

static int32_t whole(int rank, size_t i)
{
    return (int32_t)((rank * 7 + (int)(i % 31)) % 40 - 20);
}

/* Every rank its own scalar: rank + 2. */
static int32_t sum_of(int ranks, size_t i)
{
    int32_t sum = 0;

    for (int r = 0; r < ranks; r++)
        sum += (r + 2) * whole(r, i);
    return sum;
}

static void write_values(thrum_datatype_t dtype, int r, size_t n, uint8_t *values)
{
    for (size_t i = 0; i < n; i++) {
        float real = (float)whole(r, i), complex[2] = {real, 2 * real};
        int32_t integer = whole(r, i);

        if (dtype == THRUM_INT32)
            memcpy(values + i * 4, &integer, 4);
        else if (dtype == THRUM_FLOAT32)
            memcpy(values + i * 4, &real, 4);
        else
            memcpy(values + i * 8, complex, 8);
    }
}

static bool is_value(thrum_datatype_t dtype, const uint8_t *at, int32_t want)
{
    float real[2];
    int32_t integer;

    memcpy(real, at, thrum_datatype_size(dtype) < 8 ? 4 : 8);
    memcpy(&integer, at, 4);
    if (dtype == THRUM_INT32)
        return integer == want;
    return real[0] == (float)want && (dtype == THRUM_FLOAT32 || real[1] == 2 * (float)want);
}

static void one_premul(thrum_datatype_t dtype, enum kind kind, size_t count, bool placed,
                       const thrum_redop_t *op, uint8_t *values)
{
    size_t size = thrum_datatype_size(dtype), first, n;

    for (int r = 0; r < N; r++) {
        write_values(dtype, r, N * count, values);
        buffer_write(&sends[r], values, N * count * size);
        memset(values, 0, count * size);
        buffer_write(&recvs[r], values, count * size);
    }
    for (int r = 0; r < N; r++)
        ok(call(kind, r, sends[r].address,
                placed ? in_place(kind, r, count, size) : recvs[r].address, count, dtype, op[r]));
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        int ranks = folded(kind, r, count, &first, &n);

        read_result(kind, r, placed, count, size, values);
        for (size_t i = 0; i < n; i++) {
            int32_t want = ranks ? sum_of(ranks, first + i) : placed ? whole(r, first + i) : 0;

            if (!is_value(dtype, values + i * size, want))
                fail_msg("%s, kind %d, count %zu, rank %d, placed %d: element %zu is not %d",
                         thrum_datatype_name(dtype), kind, count, r, placed, i, want);
        }
        if (placed)
            continue;
        buffer_read(&sends[r], values, N * count * size); /* the input is as it was */
        for (size_t i = 0; i < N * count; i++)
            assert_true(is_value(dtype, values + i * size, whole(r, i)));
    }
}

static void premul_with(enum memory memory, thrum_datatype_t dtype,
                        enum thrum_scalar_residence residence)
{
    static const size_t counts[] = {0, 1, 300, 20000};
    uint8_t *values = malloc(N * MAX_COUNT * 8);
    struct buffer scalars[N];
    thrum_redop_t op[N];

    assert_non_null(values);
    make_buffers(memory, MAX_COUNT * 8);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        uint8_t scalar[8] = {0};
        float real = (float)(r + 2);
        int32_t integer = r + 2;

        memcpy(scalar, dtype == THRUM_INT32 ? (void *)&integer : (void *)&real, 4);
        buffer_make(&scalars[r], r, MEMORY_DEVICE, 8);
        buffer_write(&scalars[r], scalar, 8);
        ok(thrum_redop_create_premul_sum(
            comms[r], residence == THRUM_SCALAR_HOST ? scalar : scalars[r].address, dtype,
            residence, &op[r]));
        memset(scalar, 0xff, sizeof scalar); /* has been read, if it is the host's */
    }
    for (int kind = 0; kind < KINDS; kind++)
        for (int c = 0; c < 4; c++)
            for (int placed = 0; placed < 2; placed++)
                one_premul(dtype, (enum kind)kind, counts[c], placed, op, values);
    for (int r = 0; r < N; r++)
        buffer_free(&scalars[r]);
    ranks_leave(N);
    free_buffers();
    free(values);
}

static void premul_sums(void **state)
{
    (void)state;
    premul_with(MEMORY_DEVICE, THRUM_INT32, THRUM_SCALAR_HOST);
    premul_with(MEMORY_DEVICE, THRUM_FLOAT32, THRUM_SCALAR_DEVICE);
    premul_with(MEMORY_REGISTERED, THRUM_FLOAT32, THRUM_SCALAR_HOST);
    premul_with(MEMORY_HOST, THRUM_COMPLEX64, THRUM_SCALAR_DEVICE);
}

/* A persistent call reads the device's scalar at each start; the op may go while it is in flight. */
static void premul_persistent(void **state)
{
    thrum_persistent_t calls[2];
    struct buffer scalars[2];
    thrum_redop_t op[2];

    (void)state;
    make_buffers(MEMORY_DEVICE, 4096);
    ranks_join(2, NULL);
    for (int r = 0; r < 2; r++) {
        buffer_make(&scalars[r], r, MEMORY_DEVICE, 8);
        ok(thrum_redop_create_premul_sum(comms[r], scalars[r].address, THRUM_INT32,
                                         THRUM_SCALAR_DEVICE, &op[r]));
        ok(thrum_allreduce_init(sends[r].address, recvs[r].address, 100, THRUM_INT32, op[r],
                                comms[r], queues[r], &calls[r]));
    }
    for (int32_t round = 1; round < 5; round++) {
        int32_t ones[100], got[100];

        for (int i = 0; i < 100; i++)
            ones[i] = 1;
        for (int r = 0; r < 2; r++) {
            int32_t scalar = round * (r + 1);
            buffer_write(&sends[r], ones, sizeof ones);
            buffer_write(&scalars[r], &scalar, 4);
        }
        for (int r = 0; r < 2; r++)
            ok(thrum_start(calls[r]));
        ranks_synchronize(2);
        buffer_read(&recvs[1], got, sizeof got);
        for (int i = 0; i < 100; i++)
            assert_int_equal(got[i], 3 * round);
    }
    for (int r = 0; r < 2; r++) {
        ok(thrum_start(calls[r]));
        ok(thrum_redop_destroy(comms[r], op[r]));
        refused(thrum_start(calls[r]), THRUM_ERR_INVALID_OP, "op", "10");
    }
    ranks_synchronize(2);
    for (int r = 0; r < 2; r++) {
        thrum_persistent_free(calls[r]);
        buffer_free(&scalars[r]);
    }
    ranks_leave(2);
    free_buffers();
}

/* ---- what goes wrong ---- */

static thrum_status_t fold_fails(const void *left, const void *right, void *result, size_t count,
                                 thrum_datatype_t dtype, void *context)
{
    _Atomic int *left_over = context;

    (void)dtype;
    if (atomic_fetch_sub(left_over, 1) <= 0)
        return THRUM_ERR_LIMIT;
    for (size_t i = 0; i < count; i++)
        ((int32_t *)result)[i] = ((const int32_t *)left)[i] + ((const int32_t *)right)[i];
    return THRUM_OK;
}

static void a_failing_fold(void **state)
{
    static _Atomic int left_over[N] = {1000000, 1000000, 0, 1000000}; /* rank 2's fails at once */
    thrum_redop_t op;

    (void)state;
    make_buffers(MEMORY_DEVICE, MAX_COUNT * 4);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        ok(thrum_redop_create(comms[r], fold_fails, &left_over[r], false, &op));
        ok(thrum_allreduce(sends[r].address, recvs[r].address, MAX_COUNT, THRUM_INT32, op, comms[r],
                           queues[r]));
    }
    for (int r = 0; r < N; r++) {
        thrum_status_t status = thrum_queue_synchronize(queues[r]);
        const char *message = NULL;

        status = THRUM_OK;
        for (int tries = 0; !status && tries < 10000; tries++) {
            ok(thrum_comm_async_error(comms[r], &status, &message));
            if (!status)
                poll(NULL, 0, 1);
        }
        assert_int_equal(status, THRUM_ERR_LIMIT);
        if (!strstr(message, "rank 2"))
            fail_msg("rank %d: \"%s\" does not name rank 2", r, message);
    }
    ranks_leave(N);
    free_buffers();
}

/* Ranks that name different reductions. */
static void different_numbers(void **state)
{
    static _Atomic int plenty = 1000000;
    thrum_redop_t op[3];

    (void)state;
    make_buffers(MEMORY_DEVICE, 4096);
    ranks_join(2, NULL);
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < 3; i++)
            ok(thrum_redop_create(comms[r], fold_fails, &plenty, true, &op[i]));
    for (int r = 0; r < 2; r++)
        ok(thrum_allreduce(sends[r].address, recvs[r].address, 100, THRUM_INT32, op[r + 1],
                           comms[r], queues[r]));
    for (int r = 0; r < 2; r++)
        refused(thrum_queue_synchronize(queues[r]), THRUM_ERR_MISMATCH,
                "rank 0 called allreduce #1 (count=100, int32, the caller's op 11)",
                "rank 1 called allreduce #1 (count=100, int32, the caller's op 12)");
    ranks_leave(2);
    free_buffers();
}

/* Numbers do not come again soon, whatever is destroyed; and there is a limit. */
static void numbers(void **state)
{
    static _Atomic int plenty = 1000000;
    thrum_redop_t op[300], first;
    int n = 0;
    thrum_status_t status = THRUM_OK;

    (void)state;
    ranks_join(1, NULL);
    ok(thrum_redop_create(comms[0], fold_fails, &plenty, true, &first));
    assert_int_equal(first, THRUM_REDOP_COUNT);
    for (int i = 0; i < 70000; i++) { /* more than there are numbers */
        ok(thrum_redop_create(comms[0], fold_fails, &plenty, true, &op[0]));
        assert_int_not_equal(op[0], first);
        ok(thrum_redop_destroy(comms[0], op[0]));
    }
    for (n = 0; n < 300 && !status; n++)
        status = thrum_redop_create(comms[0], fold_fails, &plenty, true, &op[n]);
    assert_int_equal(status, THRUM_ERR_LIMIT);
    ranks_leave(1);
}

static void bad_arguments(void **state)
{
    static _Atomic int plenty = 1000000;
    thrum_redop_t op = (thrum_redop_t)77, sum;
    float scalar = 2;
    void *freed;

    (void)state;
    make_buffers(MEMORY_DEVICE, 4096);
    ranks_join(2, NULL);
    refused(thrum_redop_create(NULL, fold_fails, &plenty, true, &op), THRUM_ERR_INVALID_COMM,
            "comm", "");
    refused(thrum_redop_create(comms[0], NULL, &plenty, true, &op), THRUM_ERR_INVALID_ARGUMENT,
            "fold", "NULL");
    refused(thrum_redop_create(comms[0], fold_fails, &plenty, true, NULL),
            THRUM_ERR_INVALID_ARGUMENT, "op_out", "NULL");
    refused(thrum_redop_create_premul_sum(comms[0], NULL, THRUM_FLOAT32, THRUM_SCALAR_HOST, &op),
            THRUM_ERR_INVALID_POINTER, "scalar", "NULL");
    refused(thrum_redop_create_premul_sum(comms[0], &scalar, (thrum_datatype_t)99,
                                          THRUM_SCALAR_HOST, &op),
            THRUM_ERR_INVALID_TYPE, "dtype", "99");
    refused(thrum_redop_create_premul_sum(comms[0], &scalar, THRUM_FLOAT32,
                                          (enum thrum_scalar_residence)5, &op),
            THRUM_ERR_INVALID_ARGUMENT, "residence", "5");
    refused(
        thrum_redop_create_premul_sum(comms[0], &scalar, THRUM_FLOAT32, THRUM_SCALAR_DEVICE, &op),
        THRUM_ERR_INVALID_POINTER, "scalar", "DEVICE");
    refused(thrum_redop_create_premul_sum(comms[0], sends[0].address, THRUM_FLOAT32,
                                          THRUM_SCALAR_HOST, &op),
            THRUM_ERR_INVALID_POINTER, "scalar", "HOST");
    ok(thrum_mem_alloc(devices[0], 4096, &freed));
    ok(thrum_mem_free(devices[0], freed));
    refused(thrum_redop_create_premul_sum(comms[0], freed, THRUM_FLOAT32, THRUM_SCALAR_DEVICE, &op),
            THRUM_ERR_INVALID_POINTER, "scalar", "freed");
    assert_int_equal(op, 77); /* written on success only */
    refused(thrum_redop_destroy(comms[0], (thrum_redop_t)12), THRUM_ERR_INVALID_OP, "op", "12");
    refused(thrum_redop_destroy(comms[0], THRUM_SUM), THRUM_ERR_INVALID_OP, "op", "0");
    refused(thrum_redop_destroy(NULL, THRUM_SUM), THRUM_ERR_INVALID_COMM, "comm", "");
    ok(thrum_redop_create_premul_sum(comms[0], &scalar, THRUM_FLOAT32, THRUM_SCALAR_HOST, &sum));
    refused(thrum_allreduce(sends[0].address, recvs[0].address, 1, THRUM_FLOAT64, sum, comms[0],
                            queues[0]),
            THRUM_ERR_INVALID_OP, "float32", "float64");
    refused(thrum_allreduce(sends[1].address, recvs[1].address, 1, THRUM_FLOAT32, sum, comms[1],
                            queues[1]),
            THRUM_ERR_INVALID_OP, "op", "10"); /* of another communicator */
    ok(thrum_redop_destroy(comms[0], sum));
    refused(thrum_allreduce(sends[0].address, recvs[0].address, 1, THRUM_FLOAT32, sum, comms[0],
                            queues[0]),
            THRUM_ERR_INVALID_OP, "op", "10");
    ranks_leave(2);
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
        cmocka_unit_test(matrices),       cmocka_unit_test(matrices_in_host_memory),
        cmocka_unit_test(premul_sums),    cmocka_unit_test(premul_persistent),
        cmocka_unit_test(a_failing_fold), cmocka_unit_test(different_numbers),
        cmocka_unit_test(numbers),        cmocka_unit_test(bad_arguments),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, make, unmake);
}
