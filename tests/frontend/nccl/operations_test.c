/* Operations of the NCCL front end, with good input: what each computes, in groups, on threads, on any stream. */
#include "ranks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/thrum.h>

#define N 3
#define COUNT 100

static struct ranks ranks;

static int open_three(void **state)
{
    (void)state;
    ranks_open(&ranks, N);
    return 0;
}

static int close_three(void **state)
{
    ranks_close(&ranks);
    return reset_devices(state);
}

/* Each rank's call, as one group, and the end of it. `r` is the rank. */
#define EVERY_RANK(call) \
    do { \
        NCCL_OK(ncclGroupStart()); \
        for (int r = 0; r < ranks.n; r++) \
            NCCL_OK(call); \
        NCCL_OK(ncclGroupEnd()); \
        ranks_synchronize(&ranks); \
    } while (0)
#define SEND ranks.send[r]
#define RECV ranks.recv[r]
#define COMM ranks.comms[r], ranks.streams[r]

static void sums_and_copies(void **state)
{
    (void)state;
    ranks_fill(&ranks, COUNT);
    EVERY_RANK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclSum, COMM));
    for (int r = 0; r < N; r++)
        assert_int_equal(rank_result(&ranks, r, 7), 3000 + 3 * 7);
    ranks_fill(&ranks, COUNT);
    EVERY_RANK(ncclReduce(SEND, RECV, COUNT, ncclInt, ncclMax, 1, COMM));
    assert_int_equal(rank_result(&ranks, 1, 99), 2099);
    assert_int_equal(rank_result(&ranks, 0, 99), -1);
    ranks_fill(&ranks, COUNT);
    EVERY_RANK(ncclBroadcast(SEND, RECV, COUNT, ncclInt, 2, COMM));
    for (int r = 0; r < N; r++)
        assert_int_equal(rank_result(&ranks, r, 5), 2005);
    EVERY_RANK(ncclBcast(SEND, COUNT, ncclInt, 1, COMM));
    EVERY_RANK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclMin, COMM));
    assert_int_equal(rank_result(&ranks, 0, 5), 1005);
    /* a contribution to a mean, and a product */
    ranks_fill(&ranks, COUNT);
    EVERY_RANK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclAvg, COMM));
    assert_int_equal(rank_result(&ranks, 2, 4), 1004);
    EVERY_RANK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclProd, COMM));
    assert_int_equal(rank_result(&ranks, 2, 1), 1 * 1001 * 2001);
}

static void blocks(void **state)
{
    (void)state;
    ranks_fill(&ranks, 4);
    EVERY_RANK(ncclAllGather(SEND, RECV, 4, ncclInt, COMM));
    for (int r = 0; r < N; r++)
        for (int i = 0; i < 4 * N; i++)
            assert_int_equal(rank_result(&ranks, r, (size_t)i), 1000 * (i / 4) + i % 4);
    ranks_fill(&ranks, 4 * N);
    EVERY_RANK(ncclReduceScatter(SEND, RECV, 4, ncclInt, ncclSum, COMM));
    for (int r = 0; r < N; r++)
        assert_int_equal(rank_result(&ranks, r, 1), 3000 + 3 * (4 * r + 1));
    ranks_fill(&ranks, 4 * N);
    EVERY_RANK(ncclAlltoAll(SEND, RECV, 4, ncclInt, COMM));
    for (int r = 0; r < N; r++)
        for (int from = 0; from < N; from++)
            assert_int_equal(rank_result(&ranks, r, (size_t)(4 * from + 2)),
                             1000 * from + 4 * r + 2);
    ranks_fill(&ranks, 4);
    EVERY_RANK(ncclGather(SEND, RECV, 4, ncclInt, 2, COMM));
    assert_int_equal(rank_result(&ranks, 2, 5), 1001);
    assert_int_equal(rank_result(&ranks, 0, 0), -1);
    ranks_fill(&ranks, 4 * N);
    EVERY_RANK(ncclScatter(SEND, RECV, 4, ncclInt, 1, COMM));
    for (int r = 0; r < N; r++)
        assert_int_equal(rank_result(&ranks, r, 3), 1000 + 4 * r + 3);
}

/* Every type, by a sum of ones, whose pattern is the type's. */
static void types(void **state)
{
    static const struct {
        ncclDataType_t type;
        size_t bytes;
        uint8_t one[8], three[8];
    } rows[ncclNumTypes] = {
        {ncclInt8, 1, {1}, {3}},
        {ncclUint8, 1, {1}, {3}},
        {ncclInt32, 4, {1}, {3}},
        {ncclUint32, 4, {1}, {3}},
        {ncclInt64, 8, {1}, {3}},
        {ncclUint64, 8, {1}, {3}},
        {ncclFloat16, 2, {0x00, 0x3c}, {0x00, 0x42}},
        {ncclFloat32, 4, {0, 0, 0x80, 0x3f}, {0, 0, 0x40, 0x40}},
        {ncclFloat64, 8, {0, 0, 0, 0, 0, 0, 0xf0, 0x3f}, {0, 0, 0, 0, 0, 0, 0x08, 0x40}},
        {ncclBfloat16, 2, {0x80, 0x3f}, {0x40, 0x40}},
        {ncclFloat8e4m3, 1, {0x38}, {0x44}},
        {ncclFloat8e5m2, 1, {0x3c}, {0x42}}};

    (void)state;
    for (int i = 0; i < ncclNumTypes; i++) {
        uint8_t got[8];

        for (int r = 0; r < N; r++)
            CUDA_OK(cudaMemcpy(ranks.send[r], rows[i].one, rows[i].bytes, cudaMemcpyHostToDevice));
        EVERY_RANK(ncclAllReduce(SEND, RECV, 1, rows[i].type, ncclSum, COMM));
        for (int r = 0; r < N; r++) {
            CUDA_OK(cudaMemcpy(got, ranks.recv[r], rows[i].bytes, cudaMemcpyDeviceToHost));
            assert_memory_equal(got, rows[i].three, rows[i].bytes);
        }
    }
}

static void in_place_and_empty(void **state)
{
    (void)state;
    ranks_fill(&ranks, COUNT);
    EVERY_RANK(ncclAllReduce(SEND, SEND, COUNT, ncclInt, ncclSum, COMM));
    EVERY_RANK(ncclAllGather((int *)SEND + 4 * r, SEND, 4, ncclInt, COMM));
    EVERY_RANK(ncclReduceScatter(SEND, (int *)SEND + 4 * r, 4, ncclInt, ncclSum, COMM));
    EVERY_RANK(ncclAllReduce(SEND, RECV, 0, ncclInt, ncclSum, COMM));
    EVERY_RANK(ncclAllReduce(NULL, NULL, 0, ncclInt, ncclSum, COMM));
}

/* Messages of a group in whatever order: all to all, twice, oneself too, receives first or last. */
static void messages_in_any_order(void **state)
{
    (void)state;
    for (int order = 0; order < 4; order++) {
        ranks_fill(&ranks, 64);
        NCCL_OK(ncclGroupStart());
        for (int i = 0; i < N; i++) {
            int r = order & 1 ? N - 1 - i : i;

            for (int pass = 0; pass < 2; pass++)
                for (int peer = 0; peer < N; peer++) {
                    if ((pass == 0) == (order < 2))
                        for (int k = 0; k < 2; k++)
                            NCCL_OK(
                                ncclSend((int *)SEND + 8 * peer + 4 * k, 4, ncclInt, peer, COMM));
                    else
                        for (int k = 0; k < 2; k++)
                            NCCL_OK(
                                ncclRecv((int *)RECV + 8 * peer + 4 * k, 4, ncclInt, peer, COMM));
                }
        }
        NCCL_OK(ncclGroupEnd());
        ranks_synchronize(&ranks);
        for (int r = 0; r < N; r++)
            for (int peer = 0; peer < N; peer++)
                for (int i = 0; i < 8; i++)
                    assert_int_equal(rank_result(&ranks, r, (size_t)(8 * peer + i)),
                                     1000 * peer + 8 * r + i);
    }
}

static void mixed_group(void **state)
{
    (void)state;
    ranks_fill(&ranks, 8);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++) {
        NCCL_OK(ncclGroupStart());
        NCCL_OK(ncclAllReduce(SEND, RECV, 4, ncclInt, ncclSum, COMM));
        NCCL_OK(ncclSend((int *)SEND + 4, 1, ncclInt, (r + 1) % N, COMM));
        NCCL_OK(ncclRecv((int *)RECV + 8, 1, ncclInt, (r + N - 1) % N, COMM));
        NCCL_OK(ncclBroadcast(SEND, (int *)RECV + 16, 4, ncclInt, 0, COMM));
        NCCL_OK(ncclGroupEnd());
    }
    NCCL_OK(ncclGroupEnd());
    ranks_synchronize(&ranks);
    for (int r = 0; r < N; r++) {
        assert_int_equal(rank_result(&ranks, r, 1), 3003);
        assert_int_equal(rank_result(&ranks, r, 8), 1000 * ((r + N - 1) % N) + 4);
        assert_int_equal(rank_result(&ranks, r, 19), 3);
    }
}

static void premultiplied(void **state)
{
    ncclRedOp_t ops[N];
    int factor = 0;

    (void)state;
    ranks_fill(&ranks, COUNT);
    for (int r = 0; r < N; r++) {
        factor = r + 1;
        NCCL_OK(ncclRedOpCreatePreMulSum(&ops[r], &factor, ncclInt, ncclScalarHostImmediate,
                                         ranks.comms[r]));
        assert_true(ops[r] >= ncclNumOps && ops[r] <= ncclMaxRedOp);
    }
    factor = -1;
    EVERY_RANK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ops[r], COMM));
    assert_int_equal(rank_result(&ranks, 1, 2), 1 * 2 + 2 * 1002 + 3 * 2002);
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclRedOpDestroy(ops[r], ranks.comms[r]));
    /* a scalar on the device, read when the operation executes */
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclRedOpCreatePreMulSum(&ops[r], (int *)SEND + 1000, ncclInt, ncclScalarDevice,
                                         ranks.comms[r]));
    for (int r = 0; r < N; r++) {
        factor = 2;
        CUDA_OK(cudaMemcpy((int *)SEND + 1000, &factor, sizeof factor, cudaMemcpyHostToDevice));
    }
    EVERY_RANK(ncclReduceScatter(SEND, RECV, 2, ncclInt, ops[r], COMM));
    assert_int_equal(rank_result(&ranks, 0, 1), 2 * 3003);
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclRedOpDestroy(ops[r], ranks.comms[r]));
    /* destroyed as soon as the call that uses it has returned, inside the group */
    ranks_fill(&ranks, COUNT);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++) {
        factor = r + 1;
        NCCL_OK(ncclRedOpCreatePreMulSum(&ops[r], &factor, ncclInt, ncclScalarHostImmediate,
                                         ranks.comms[r]));
        NCCL_OK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ops[r], COMM));
        NCCL_OK(ncclRedOpDestroy(ops[r], ranks.comms[r]));
    }
    NCCL_OK(ncclGroupEnd());
    ranks_synchronize(&ranks);
    assert_int_equal(rank_result(&ranks, 1, 2), 1 * 2 + 2 * 1002 + 3 * 2002);
}

/* NULL is the default stream of the communicator's device, whatever the current one is; a queue of Thrum is a stream. */
static void any_stream(void **state)
{
    const cudaStream_t kinds[] = {NULL, cudaStreamLegacy, cudaStreamPerThread};

    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        ranks_fill(&ranks, 1);
        CUDA_OK(cudaSetDevice(0));
        NCCL_OK(ncclGroupStart());
        for (int r = 0; r < N; r++)
            NCCL_OK(ncclAllReduce(SEND, RECV, 1, ncclInt, ncclSum, ranks.comms[r], kinds[k]));
        NCCL_OK(ncclGroupEnd());
        for (int r = 0; r < N; r++) {
            CUDA_OK(cudaSetDevice(r));
            CUDA_OK(cudaStreamSynchronize(kinds[k]));
            assert_int_equal(rank_result(&ranks, r, 0), 3000);
        }
    }
    ranks_fill(&ranks, 1);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclAllReduce(SEND, RECV, 1, ncclInt, ncclSum, COMM));
    NCCL_OK(ncclGroupEnd());
    for (int r = 0; r < N; r++) {
        thrum_queue_t queue = (thrum_queue_t)(void *)ranks.streams[r];

        assert_non_null(thrum_queue_device(queue));
        assert_int_equal(thrum_queue_synchronize(queue), THRUM_OK);
    }
    assert_int_equal(rank_result(&ranks, 1, 0), 3000);
}

static void host_buffers(void **state)
{
    int plain[N], *pinned[N];

    (void)state;
    for (int r = 0; r < N; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaMallocHost((void **)&pinned[r], sizeof(int)));
        plain[r] = r + 1;
    }
    EVERY_RANK(ncclAllReduce(&plain[r], pinned[r], 1, ncclInt, ncclSum, COMM));
    for (int r = 0; r < N; r++) {
        assert_int_equal(*pinned[r], 6);
        CUDA_OK(cudaFreeHost(pinned[r]));
    }
}

static void captured(void **state)
{
    cudaGraphExec_t graphs[N];
    cudaGraph_t graph;

    (void)state;
    for (int r = 0; r < N; r++)
        CUDA_OK(cudaStreamBeginCapture(ranks.streams[r], cudaStreamCaptureModeThreadLocal));
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclSum, COMM));
    NCCL_OK(ncclGroupEnd());
    for (int r = 0; r < N; r++) {
        CUDA_OK(cudaStreamEndCapture(ranks.streams[r], &graph));
        CUDA_OK(cudaGraphInstantiate(&graphs[r], graph, 0));
        CUDA_OK(cudaGraphDestroy(graph));
    }
    for (int round = 0; round < 3; round++) {
        ranks_fill(&ranks, COUNT);
        for (int r = 0; r < N; r++)
            CUDA_OK(cudaGraphLaunch(graphs[r], ranks.streams[r]));
        ranks_synchronize(&ranks);
        assert_int_equal(rank_result(&ranks, 1, 9), 3027);
    }
    for (int r = 0; r < N; r++)
        CUDA_OK(cudaGraphExecDestroy(graphs[r]));
}

static void estimated(void **state)
{
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;

    (void)state;
    ranks_fill(&ranks, COUNT);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclAllReduce(SEND, RECV, COUNT, ncclInt, ncclSum, COMM));
    NCCL_OK(ncclGroupSimulateEnd(&info));
    assert_true(info.estimatedTime > 0);
    ranks_synchronize(&ranks);
    assert_int_equal(rank_result(&ranks, 0, 0), -1); /* nothing was done */
    ranks_check(&ranks);
}

/* ---- ranks on threads of their own ---- */

struct member {
    pthread_t thread;
    const ncclUniqueId *id;
    int rank, device;
};

static void *play(void *argument)
{
    const struct member *member = argument;
    cudaStream_t stream;
    ncclComm_t comm;
    int *buffer, value = member->rank, n, rank, device;

    CUDA_OK(cudaSetDevice(member->device));
    NCCL_OK(ncclCommInitRank(&comm, N, *member->id, member->rank));
    NCCL_OK(ncclCommCount(comm, &n));
    NCCL_OK(ncclCommUserRank(comm, &rank));
    NCCL_OK(ncclCommCuDevice(comm, &device));
    assert_int_equal(n, N);
    assert_int_equal(rank, member->rank);
    assert_int_equal(device, member->device);
    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_OK(cudaMalloc((void **)&buffer, sizeof value));
    for (int round = 0; round < 50; round++) {
        CUDA_OK(cudaMemcpyAsync(buffer, &value, sizeof value, cudaMemcpyHostToDevice, stream));
        NCCL_OK(ncclAllReduce(buffer, buffer, 1, ncclInt, ncclSum, comm, stream));
        CUDA_OK(cudaMemcpyAsync(&value, buffer, sizeof value, cudaMemcpyDeviceToHost, stream));
        CUDA_OK(cudaStreamSynchronize(stream));
        assert_int_equal(value, N * (N - 1) / 2);
        value = rank;
    }
    NCCL_OK(ncclCommFinalize(comm));
    NCCL_OK(ncclCommDestroy(comm));
    CUDA_OK(cudaStreamDestroy(stream));
    CUDA_OK(cudaFree(buffer));
    return NULL;
}

static void play_on(const int *devices)
{
    struct member members[N];
    ncclUniqueId id;

    NCCL_OK(ncclGetUniqueId(&id));
    for (int r = 0; r < N; r++) {
        members[r] = (struct member){.id = &id, .rank = r, .device = devices[r]};
        assert_int_equal(pthread_create(&members[r].thread, NULL, play, &members[r]), 0);
    }
    for (int r = 0; r < N; r++)
        pthread_join(members[r].thread, NULL);
}

static void thread_per_rank(void **state)
{
    (void)state;
    play_on((const int[N]){0, 1, 2});
}

static void ranks_share_a_device(void **state)
{
    (void)state;
    play_on((const int[N]){1, 1, 0});
}

static void many_on_one_device(void **state)
{
    const int devices[4] = {2, 2, 2, 2};
    struct ranks four = {.n = 4};

    (void)state;
    NCCL_OK(ncclCommInitAll(four.comms, 4, devices));
    ranks_open_memory(&four);
    ranks_check(&four);
    ranks_close(&four);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_and_copies),
                                       cmocka_unit_test(blocks),
                                       cmocka_unit_test(types),
                                       cmocka_unit_test(in_place_and_empty),
                                       cmocka_unit_test(messages_in_any_order),
                                       cmocka_unit_test(mixed_group),
                                       cmocka_unit_test(premultiplied),
                                       cmocka_unit_test(any_stream),
                                       cmocka_unit_test(host_buffers),
                                       cmocka_unit_test(captured),
                                       cmocka_unit_test(estimated),
                                       cmocka_unit_test(thread_per_rank),
                                       cmocka_unit_test(ranks_share_a_device),
                                       cmocka_unit_test(many_on_one_device)};

    return cmocka_run_group_tests(tests, open_three, close_three);
}
