/* Communicators of the NCCL front end: how they are made and end, and what is said to wrong calls. */
#include "ranks.h"

#include <pthread.h>
#include <string.h>

#define N 3

/* A pointer that is nothing. */
#define WILD ((void *)(uintptr_t)0x1234560)

/* ---- making them ---- */

static void by_group(void **state)
{
    struct ranks ranks = {.n = N};
    ncclUniqueId id;

    (void)state;
    NCCL_OK(ncclGetUniqueId(&id));
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++) {
        CUDA_OK(cudaSetDevice(r));
        NCCL_OK(ncclCommInitRank(&ranks.comms[r], N, id, r));
    }
    NCCL_OK(ncclGroupEnd());
    ranks_open_memory(&ranks);
    ranks_check(&ranks);
    for (int r = 0; r < N; r++) {
        int device;

        NCCL_OK(ncclCommCuDevice(ranks.comms[r], &device));
        assert_int_equal(device, r);
    }
    ranks_close(&ranks);
}

static void by_several_ids(void **state)
{
    struct ranks ranks = {.n = N};
    ncclUniqueId ids[2];

    (void)state;
    NCCL_OK(ncclGetUniqueId(&ids[0]));
    NCCL_OK(ncclGetUniqueId(&ids[1]));
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(ncclCommInitRankScalable(&ranks.comms[r], N, r, 2, ids, NULL));
    NCCL_OK(ncclGroupEnd());
    ranks_open_memory(&ranks);
    ranks_check(&ranks);
    ranks_close(&ranks);
}

static void in_the_background(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct ranks ranks = {.n = 2};
    ncclUniqueId id;
    int n;

    (void)state;
    config.blocking = 0;
    NCCL_OK(ncclGetUniqueId(&id));
    assert_int_equal(ncclCommInitRankConfig(&ranks.comms[0], 2, id, 0, &config), ncclInProgress);
    assert_non_null(ranks.comms[0]);
    /* It cannot have ended: the other rank has not been called. */
    NCCL_FAILS(ncclCommCount(ranks.comms[0], &n), ncclInvalidArgument, "ncclCommCount",
               "ncclCommGetAsyncError");
    NCCL_FAILS(ncclAllReduce(NULL, NULL, 1, ncclInt, ncclSum, ranks.comms[0], NULL),
               ncclInvalidArgument, "ncclAllReduce", "has not ended");
    assert_int_equal(ncclCommInitRankConfig(&ranks.comms[1], 2, id, 1, &config), ncclInProgress);
    assert_int_equal(await(ranks.comms[0]), ncclSuccess);
    assert_int_equal(await(ranks.comms[1]), ncclSuccess);
    ranks_open_memory(&ranks);
    ranks_check(&ranks);
    for (int r = 0; r < 2; r++) {
        ncclResult_t result = ncclCommFinalize(ranks.comms[r]);

        assert_true(result == ncclInProgress || result == ncclSuccess);
        assert_int_equal(await(ranks.comms[r]), ncclSuccess);
    }
    ranks_close(&ranks);
}

static void background_in_a_group(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct ranks ranks = {.n = 2}, parts = {.n = 2};
    ncclUniqueId id;

    (void)state;
    config.blocking = 0;
    NCCL_OK(ncclGetUniqueId(&id));
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        NCCL_OK(ncclCommInitRankConfig(&ranks.comms[r], 2, id, r, &config));
    assert_int_equal(ncclGroupEnd(), ncclInProgress);
    for (int r = 0; r < 2; r++)
        assert_int_equal(await(ranks.comms[r]), ncclSuccess);
    /* what does not block hands it on */
    for (int r = 0; r < 2; r++)
        assert_int_equal(ncclCommSplit(ranks.comms[r], 0, -r, &parts.comms[r], NULL),
                         ncclInProgress);
    for (int r = 0; r < 2; r++) {
        int rank;

        assert_int_equal(await(ranks.comms[r]), ncclSuccess);
        assert_int_equal(await(parts.comms[r]), ncclSuccess);
        NCCL_OK(ncclCommUserRank(parts.comms[r], &rank));
        assert_int_equal(rank, 1 - r);
    }
    for (int r = 0; r < 2; r++) {
        NCCL_OK(ncclCommDestroy(parts.comms[r]));
        NCCL_OK(ncclCommDestroy(ranks.comms[r]));
    }
}

/* Nobody else comes: what waits for them is let go at once. */
static void abort_while_joining(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t result;
    ncclUniqueId id;
    ncclComm_t comm;

    (void)state;
    config.blocking = 0;
    NCCL_OK(ncclGetUniqueId(&id));
    assert_int_equal(ncclCommInitRankConfig(&comm, 2, id, 0, &config), ncclInProgress);
    NCCL_OK(ncclCommGetAsyncError(comm, &result));
    assert_int_equal(result, ncclInProgress);
    NCCL_OK(ncclCommAbort(comm));
    NCCL_FAILS(ncclCommAbort(comm), ncclInvalidArgument, "no live communicator");
    /* its peer is there after all, and hears of it */
    assert_int_equal(ncclCommInitRankConfig(&comm, 2, id, 1, &config), ncclInProgress);
    while (!await(comm))
        ;
    NCCL_OK(ncclCommGetAsyncError(comm, &result));
    assert_int_equal(result, ncclRemoteError);
    assert_non_null(strstr(ncclGetLastError(comm), "abort"));
    NCCL_OK(ncclCommDestroy(comm));
}

/* ---- configuration ---- */

static ncclResult_t init_alone(const void *config, ncclComm_t *comm)
{
    ncclUniqueId id;

    NCCL_OK(ncclGetUniqueId(&id));
    return ncclCommInitRankConfig(comm, 1, id, 0, (ncclConfig_t *)(uintptr_t)config);
}

static void config_versions(void **state)
{
    /* as programs have them that were built with NCCL 2.14 and 2.18 */
    struct {
        size_t size;
        unsigned magic, version;
        int blocking, padding;
    } oldest = {sizeof oldest, NCCL_CONFIG_MAGIC, NCCL_VERSION(2, 14, 3), 1, 77};
    struct {
        size_t size;
        unsigned magic, version;
        int blocking, cga, min, max;
        const char *net;
        int share, padding;
    } older = {sizeof older, NCCL_CONFIG_MAGIC, NCCL_VERSION(2, 18, 1), 1, 4, 1, 2, NULL, 0, 77};
    struct {
        ncclConfig_t config;
        char unknown[64];
    } newer = {.config = NCCL_CONFIG_INITIALIZER};
    ncclComm_t comm;

    (void)state;
    assert_int_equal(sizeof oldest, 24);
    NCCL_OK(init_alone(&oldest, &comm));
    NCCL_OK(ncclCommDestroy(comm));
    NCCL_OK(init_alone(&older, &comm));
    NCCL_OK(ncclCommDestroy(comm));
    newer.config.size = sizeof newer;
    newer.config.version = NCCL_VERSION(2, 31, 0);
    newer.config.commName = "newer";
    NCCL_OK(init_alone(&newer, &comm));
    NCCL_OK(ncclCommDestroy(comm));
}

static void bad_config(void **state)
{
    const ncclConfig_t good = NCCL_CONFIG_INITIALIZER;
    ncclConfig_t config = {.size = 0};
    ncclComm_t comm = WILD;

    (void)state;
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidArgument, "NCCL_CONFIG_INITIALIZER");
    config = good;
    config.blocking = 2;
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidArgument, "config.blocking=2");
    config = good;
    config.minCTAs = 4;
    config.maxCTAs = 2;
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidArgument, "minCTAs=4", "maxCTAs=2");
    config = good;
    config.cgaClusterSize = -1;
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidArgument, "cgaClusterSize=-1");
    config = good;
    config.size = 40;
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidArgument, "size=40");
    config = good;
    config.netName = "IB";
    NCCL_FAILS(init_alone(&config, &comm), ncclInvalidUsage, "netName=\"IB\"", "THRUM_FABRIC");
    assert_ptr_equal(comm, WILD);
}

/* ---- from others ---- */

static void split(void **state)
{
    struct ranks ranks, parts = {.n = 2};
    ncclComm_t made[4];

    (void)state;
    ranks_open(&ranks, 4);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 4; r++) {
        made[r] = WILD;
        NCCL_OK(
            ncclCommSplit(ranks.comms[r], r == 3 ? NCCL_SPLIT_NOCOLOR : r % 2, -r, &made[r], NULL));
    }
    NCCL_OK(ncclGroupEnd());
    assert_null(made[3]);
    /* color 0: ranks 2, 0; color 1: rank 1 */
    parts.comms[0] = made[2];
    parts.comms[1] = made[0];
    ranks_open_memory(&parts);
    ranks_check(&parts);
    ranks_close(&parts);
    NCCL_OK(ncclCommDestroy(made[1]));
    ranks_check(&ranks);
    NCCL_FAILS(ncclCommSplit(ranks.comms[0], -2, 0, &made[0], NULL), ncclInvalidArgument,
               "ncclCommSplit", "color=-2");
    ranks_close(&ranks);
}

/* Rows and columns in one group: two splits of each communicator. */
static void split_twice_in_a_group(void **state)
{
    struct ranks ranks;
    ncclComm_t rows[4], columns[4];
    int n, rank;

    (void)state;
    ranks_open(&ranks, 4);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 4; r++) {
        NCCL_OK(ncclCommSplit(ranks.comms[r], r / 2, r, &rows[r], NULL));
        NCCL_OK(ncclCommSplit(ranks.comms[r], r % 2, r, &columns[r], NULL));
    }
    NCCL_OK(ncclGroupEnd());
    for (int r = 0; r < 4; r++) {
        NCCL_OK(ncclCommCount(rows[r], &n));
        NCCL_OK(ncclCommUserRank(columns[r], &rank));
        assert_int_equal(n, 2);
        assert_int_equal(rank, r / 2);
        NCCL_OK(ncclCommDestroy(rows[r]));
        NCCL_OK(ncclCommDestroy(columns[r]));
    }
    ranks_close(&ranks);
}

static void shrink_those(struct ranks *ranks, int excluded, int flags, struct ranks *left)
{
    left->n = 0;
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < ranks->n; r++)
        if (r != excluded)
            NCCL_OK(ncclCommShrink(ranks->comms[r], &excluded, 1, &left->comms[left->n++], NULL,
                                   flags));
    NCCL_OK(ncclGroupEnd());
    ranks_open_memory(left);
    ranks_check(left);
}

static void shrink(void **state)
{
    int excluded[] = {1, 7};
    struct ranks ranks, left;
    ncclComm_t none;

    (void)state;
    ranks_open(&ranks, 4);
    for (int gone = 0; gone < 2; gone++) { /* also the first, where the others would meet */
        shrink_those(&ranks, gone, NCCL_SHRINK_DEFAULT, &left);
        ranks_close(&left);
    }
    ranks_check(&ranks);
    NCCL_FAILS(ncclCommShrink(ranks.comms[0], excluded, 2, &none, NULL, 0), ncclInvalidArgument,
               "excludeRanksList[1]=7");
    NCCL_FAILS(ncclCommShrink(ranks.comms[1], excluded, 1, &none, NULL, 0), ncclInvalidArgument,
               "is this rank");
    NCCL_FAILS(ncclCommShrink(ranks.comms[0], excluded, 0, &none, NULL, 0), ncclInvalidArgument,
               "excludeRanksCount=0");
    NCCL_FAILS(ncclCommShrink(ranks.comms[0], excluded, 1, &none, NULL, 8), ncclInvalidArgument,
               "shrinkFlags=0x8");
    ranks_close(&ranks);
}

/* Two ranks become four, whose numbers and devices are 2 and 3; one of the two passes its id on. */
static void grow(void **state)
{
    struct ranks ranks, grown = {.n = 4};
    ncclUniqueId id, other;
    int rank;

    (void)state;
    ranks_open(&ranks, 2);
    for (int round = 0; round < 2; round++) {
        NCCL_OK(ncclCommGetUniqueId(ranks.comms[1], &id));
        NCCL_OK(ncclGroupStart());
        for (int r = 0; r < 4; r++) {
            CUDA_OK(cudaSetDevice(r));
            NCCL_OK(ncclCommGrow(r < 2 ? ranks.comms[r] : NULL, 4, r ? &id : NULL, r < 2 ? -1 : r,
                                 &grown.comms[r], NULL));
        }
        NCCL_OK(ncclGroupEnd());
        for (int r = 0; r < 4; r++) {
            NCCL_OK(ncclCommUserRank(grown.comms[r], &rank));
            assert_int_equal(rank, r);
        }
        ranks_open_memory(&grown);
        ranks_check(&grown);
        ranks_close(&grown);
    }
    ranks_check(&ranks);
    NCCL_FAILS(ncclCommGrow(ranks.comms[1], 3, NULL, 1, &grown.comms[0], NULL), ncclInvalidArgument,
               "rank=1");
    NCCL_FAILS(ncclCommGrow(ranks.comms[1], 2, NULL, -1, &grown.comms[0], NULL),
               ncclInvalidArgument, "nRanks=2");
    NCCL_FAILS(ncclCommGrow(ranks.comms[1], 3, &id, -1, &grown.comms[0], NULL), ncclInvalidArgument,
               "has been used");
    NCCL_OK(ncclCommGetUniqueId(ranks.comms[0], &other));
    assert_memory_not_equal(&id, &other, sizeof id);
    NCCL_FAILS(ncclCommGrow(NULL, 3, NULL, 2, &grown.comms[0], NULL), ncclInvalidArgument,
               "uniqueId=NULL");
    NCCL_FAILS(ncclCommGrow(NULL, 3, &other, -1, &grown.comms[0], NULL), ncclInvalidArgument,
               "ncclCommGrow", "rank=-1");
    NCCL_OK(ncclCommFinalize(ranks.comms[0]));
    NCCL_FAILS(ncclCommGetUniqueId(ranks.comms[0], &other), ncclInvalidArgument, "is finalized");
    NCCL_FAILS(ncclCommGrow(ranks.comms[0], 3, NULL, -1, &grown.comms[0], NULL),
               ncclInvalidArgument, "is finalized");
    ranks_close(&ranks);
}

/* An operation of two ranks waits for the third, which is given up. */
static void hang(struct ranks *ranks)
{
    ranks_fill(ranks, 1);
    for (int r = 0; r < 2; r++)
        NCCL_OK(ncclAllReduce(ranks->send[r], ranks->recv[r], 1, ncclInt, ncclSum, ranks->comms[r],
                              ranks->streams[r]));
    assert_int_equal(cudaStreamQuery(ranks->streams[0]), cudaErrorNotReady);
}

static void shrink_while_hanging(void **state)
{
    struct ranks ranks, left;

    (void)state;
    ranks_open(&ranks, 3);
    hang(&ranks);
    shrink_those(&ranks, 2, NCCL_SHRINK_ABORT, &left);
    for (int r = 0; r < 2; r++)
        CUDA_OK(cudaStreamSynchronize(ranks.streams[r])); /* they asked for it */
    ranks_close(&left);
    ranks_close(&ranks);
}

static void revoke_while_hanging(void **state)
{
    struct ranks ranks, again = {.n = 3};
    ncclResult_t result;

    (void)state;
    ranks_open(&ranks, 3);
    hang(&ranks);
    for (int r = 0; r < 3; r++) {
        NCCL_OK(ncclCommRevoke(ranks.comms[r], NCCL_REVOKE_DEFAULT));
        CUDA_OK(cudaStreamSynchronize(ranks.streams[r]));
        NCCL_OK(ncclCommGetAsyncError(ranks.comms[r], &result));
        assert_int_equal(result, ncclSuccess);
    }
    NCCL_FAILS(ncclCommRevoke(ranks.comms[0], 0), ncclInvalidArgument, "revoked already");
    NCCL_FAILS(ncclCommRevoke(ranks.comms[1], 3), ncclInvalidArgument, "revokeFlags=0x3");
    NCCL_FAILS(ncclAllReduce(ranks.send[0], ranks.recv[0], 1, ncclInt, ncclSum, ranks.comms[0],
                             ranks.streams[0]),
               ncclInvalidUsage, "is revoked");
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 3; r++)
        NCCL_OK(ncclCommSplit(ranks.comms[r], 0, -r, &again.comms[2 - r], NULL));
    NCCL_OK(ncclGroupEnd());
    ranks_open_memory(&again);
    ranks_check(&again);
    ranks_close(&again);
    ranks_close(&ranks);
}

/* ---- their end ---- */

static void *abort_from_elsewhere(void *comm)
{
    NCCL_OK(ncclCommAbort(comm));
    return NULL;
}

/* Whoever waits for a collective that failed, in whatever way, is told. */
static void told_to_who_waits(void **state)
{
    enum { STREAM, EVENT, POLLED, SIDE_STREAM, DEFAULT_STREAM, DEVICE, WAYS };
    struct ranks ranks;
    cudaStream_t side;
    cudaEvent_t event;
    ncclResult_t result;
    cudaError_t error;
    int word;

    (void)state;
    for (int way = 0; way < WAYS; way++) {
        ranks_open(&ranks, 2);
        CUDA_OK(cudaSetDevice(0));
        CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        CUDA_OK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
        NCCL_OK(ncclAllReduce(ranks.send[0], ranks.recv[0], 1000, ncclInt, ncclSum, ranks.comms[0],
                              ranks.streams[0]));
        CUDA_OK(cudaEventRecord(event, ranks.streams[0]));
        CUDA_OK(cudaStreamWaitEvent(side, event, 0));
        NCCL_OK(ncclAllReduce(ranks.send[1], ranks.recv[1], 999, ncclInt, ncclSum, ranks.comms[1],
                              ranks.streams[1]));
        switch (way) {
        case STREAM:
            error = cudaStreamSynchronize(ranks.streams[0]);
            break;
        case EVENT:
            error = cudaEventSynchronize(event);
            NCCL_OK(ncclCommGetAsyncError(ranks.comms[0], &result)); /* it is known by now */
            assert_int_equal(result, ncclInvalidUsage);
            assert_non_null(strstr(thrumCudaErrorDetail(), "count=999"));
            break;
        case POLLED:
            do
                error = cudaEventQuery(event);
            while (error == cudaErrorNotReady);
            break;
        case SIDE_STREAM:
            CUDA_OK(cudaMemsetAsync(ranks.recv[0], 0, 4, side));
            error = cudaStreamSynchronize(side);
            break;
        case DEFAULT_STREAM:
            error = cudaMemcpy(&word, ranks.recv[0], sizeof word, cudaMemcpyDeviceToHost);
            break;
        default:
            error = cudaDeviceSynchronize();
            break;
        }
        assert_int_equal(error, cudaErrorLaunchFailure);
        assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
        for (int r = 0; r < 2; r++) {
            CUDA_OK(cudaSetDevice(r));
            (void)cudaDeviceSynchronize();
        }
        (void)cudaGetLastError();
        CUDA_OK(cudaSetDevice(0));
        CUDA_OK(cudaEventRecord(event, ranks.streams[0])); /* what was told is over */
        CUDA_OK(cudaEventSynchronize(event));
        CUDA_OK(cudaEventDestroy(event));
        CUDA_OK(cudaStreamDestroy(side));
        ranks_close(&ranks);
    }
}

/* Who aborted it is not told of it, by events either; who has not, is. */
static void aborted_for_who_waits(void **state)
{
    struct ranks ranks;
    cudaStream_t side[2];
    cudaEvent_t event[2], later;

    (void)state;
    ranks_open(&ranks, 3);
    for (int r = 0; r < 2; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaEventCreateWithFlags(&event[r], cudaEventDisableTiming));
        CUDA_OK(cudaStreamCreateWithFlags(&side[r], cudaStreamNonBlocking));
        NCCL_OK(ncclAllReduce(ranks.send[r], ranks.recv[r], 1000, ncclInt, ncclSum, ranks.comms[r],
                              ranks.streams[r]));
        CUDA_OK(cudaEventRecord(event[r], ranks.streams[r]));
        CUDA_OK(cudaStreamWaitEvent(side[r], event[r], 0));
    }
    NCCL_OK(ncclCommAbort(ranks.comms[0]));
    CUDA_OK(cudaSetDevice(0));
    CUDA_OK(cudaEventCreateWithFlags(&later, cudaEventDisableTiming));
    CUDA_OK(cudaEventRecord(later, ranks.streams[0]));
    CUDA_OK(cudaEventSynchronize(event[0]));
    CUDA_OK(cudaEventSynchronize(later));
    CUDA_OK(cudaStreamSynchronize(side[0]));
    CUDA_OK(cudaMemset(ranks.recv[0], 0, 4));
    CUDA_OK(cudaStreamSynchronize(ranks.streams[0]));
    CUDA_OK(cudaEventQuery(event[0]));
    CUDA_OK(cudaSetDevice(1));
    assert_int_equal(cudaEventSynchronize(event[1]), cudaErrorLaunchFailure);
    assert_int_equal(cudaStreamSynchronize(side[1]), cudaErrorLaunchFailure);
    assert_int_equal(cudaStreamSynchronize(ranks.streams[1]), cudaErrorLaunchFailure);
    (void)cudaGetLastError();
    for (int r = 0; r < 2; r++) {
        CUDA_OK(cudaEventDestroy(event[r]));
        CUDA_OK(cudaStreamDestroy(side[r]));
    }
    CUDA_OK(cudaEventDestroy(later));
    NCCL_OK(ncclCommAbort(ranks.comms[1]));
    NCCL_OK(ncclCommAbort(ranks.comms[2]));
    ranks_close_memory(&ranks);
}

static void abort_while_hanging(void **state)
{
    struct ranks ranks;
    ncclResult_t result;
    pthread_t thread;

    (void)state;
    ranks_open(&ranks, 3);
    hang(&ranks);
    assert_int_equal(pthread_create(&thread, NULL, abort_from_elsewhere, ranks.comms[0]), 0);
    CUDA_OK(cudaStreamSynchronize(ranks.streams[0])); /* ends because of it; its own wish */
    pthread_join(thread, NULL);
    /* the others are told, at the stream and by the communicator, who it was */
    assert_int_equal(cudaStreamSynchronize(ranks.streams[1]), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    while (NCCL_OK(ncclCommGetAsyncError(ranks.comms[2], &result)), result == ncclSuccess)
        ;
    assert_int_equal(result, ncclRemoteError);
    assert_non_null(strstr(ncclGetLastError(ranks.comms[2]), "rank 0"));
    NCCL_FAILS(ncclAllReduce(ranks.send[2], ranks.recv[2], 1, ncclInt, ncclSum, ranks.comms[2],
                             ranks.streams[2]),
               ncclRemoteError, "ncclAllReduce, rank 2 of 3", "rank 0");
    for (int r = 1; r < 3; r++)
        NCCL_OK(ncclCommAbort(ranks.comms[r]));
    ranks_close_memory(&ranks);
}

/* One thread ends one rank after the other; work that is still queued is done. */
static void one_after_the_other(void **state)
{
    struct ranks ranks;

    (void)state;
    ranks_open(&ranks, 4);
    ranks_fill(&ranks, 1000);
    for (int r = 0; r < 4; r++)
        NCCL_OK(ncclAllReduce(ranks.send[r], ranks.recv[r], 1000, ncclInt, ncclSum, ranks.comms[r],
                              ranks.streams[r]));
    for (int r = 0; r < 4; r++)
        NCCL_OK(ncclCommFinalize(ranks.comms[r]));
    for (int r = 0; r < 4; r++)
        assert_int_equal(rank_result(&ranks, r, 999), 6000 + 4 * 999);
    NCCL_FAILS(ncclCommFinalize(ranks.comms[0]), ncclInvalidArgument, "finalized already");
    NCCL_FAILS(ncclBroadcast(ranks.send[0], ranks.recv[0], 1, ncclInt, 0, ranks.comms[0], NULL),
               ncclInvalidArgument, "is finalized");
    ranks_close(&ranks);
}

static void operations_and_end_in_one_group(void **state)
{
    struct ranks ranks;

    (void)state;
    ranks_open(&ranks, 2);
    ranks_fill(&ranks, 1);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 2; r++) {
        NCCL_OK(ncclAllReduce(ranks.send[r], ranks.recv[r], 1, ncclInt, ncclSum, ranks.comms[r],
                              ranks.streams[r]));
        NCCL_OK(ncclCommDestroy(ranks.comms[r]));
    }
    NCCL_OK(ncclGroupEnd());
    ranks_synchronize(&ranks);
    assert_int_equal(rank_result(&ranks, 1, 0), 1000);
    ranks_close_memory(&ranks);
}

static void ended_handles(void **state)
{
    ncclResult_t result;
    struct ranks ranks;
    int n;

    (void)state;
    ranks_open(&ranks, 1);
    NCCL_OK(ncclCommDestroy(NULL));
    NCCL_OK(ncclCommAbort(NULL));
    NCCL_OK(ncclCommDestroy(ranks.comms[0]));
    NCCL_FAILS(ncclCommDestroy(ranks.comms[0]), ncclInvalidArgument, "no live communicator");
    NCCL_FAILS(ncclCommCount(ranks.comms[0], &n), ncclInvalidArgument, "no live communicator");
    NCCL_FAILS(ncclCommGetAsyncError(WILD, &result), ncclInvalidArgument, "0x1234560");
    NCCL_FAILS(
        ncclAllReduce(ranks.send[0], ranks.recv[0], 1, ncclInt, ncclSum, ranks.comms[0], NULL),
        ncclInvalidArgument, "ncclAllReduce: comm=");
    ranks_close_memory(&ranks);
}

/* ---- wrong calls ---- */

static void bad_creation(void **state)
{
    ncclComm_t comm = WILD;
    int devices[] = {0, 99};
    ncclUniqueId id;

    (void)state;
    NCCL_FAILS(ncclGetUniqueId(NULL), ncclInvalidArgument, "uniqueId=NULL");
    memset(&id, 0, sizeof id);
    NCCL_FAILS(ncclCommInitRank(NULL, 2, id, 0), ncclInvalidArgument, "comm=NULL");
    NCCL_FAILS(ncclCommInitRank(&comm, 0, id, 0), ncclInvalidArgument, "nranks=0");
    NCCL_FAILS(ncclCommInitRank(&comm, 2, id, 2), ncclInvalidArgument, "rank=2");
    NCCL_FAILS(ncclCommInitAll(&comm, 0, NULL), ncclInvalidArgument, "ndev=0");
    NCCL_FAILS(ncclCommInitAll(&comm, 2, devices), ncclInvalidArgument, "device 99 of rank 1");
    assert_ptr_equal(comm, WILD);
    /* what was not made by ncclGetUniqueId */
    NCCL_FAILS(ncclCommInitRank(&comm, 2, id, 0), ncclInvalidArgument, "ncclCommInitRank", "id");
    assert_null(comm);
}

static void bad_operations(void **state)
{
    struct ranks ranks;
    ncclRedOp_t op;
    int factor = 2;

    (void)state;
    ranks_open(&ranks, 1);
    const ncclComm_t comm = ranks.comms[0];
    const cudaStream_t stream = ranks.streams[0];
    void *const send = ranks.send[0], *const recv = ranks.recv[0];

    NCCL_FAILS(ncclAllReduce(send, recv, 1, ncclInt, ncclSum, NULL, stream), ncclInvalidArgument,
               "comm=(nil) is NULL");
    NCCL_FAILS(ncclAllReduce(NULL, recv, 1, ncclInt, ncclSum, comm, stream), ncclInvalidArgument,
               "ncclAllReduce, rank 0 of 1", "send");
    NCCL_FAILS(ncclAllReduce(send, recv, 1, ncclNumTypes, ncclSum, comm, stream),
               ncclInvalidArgument, "datatype=12");
    NCCL_FAILS(ncclAllReduce(send, recv, 1, (ncclDataType_t)-1, ncclSum, comm, stream),
               ncclInvalidArgument, "datatype=-1");
    NCCL_FAILS(ncclAllReduce(send, recv, 1, ncclInt, (ncclRedOp_t)7, comm, stream),
               ncclInvalidArgument, "op=7");
    NCCL_FAILS(ncclAllReduce(send, recv, 1, ncclInt, (ncclRedOp_t)1000, comm, stream),
               ncclInvalidArgument, "op=1000");
    NCCL_FAILS(ncclReduce(send, recv, 1, ncclInt, ncclSum, 1, comm, stream), ncclInvalidArgument,
               "root=1");
    NCCL_FAILS(ncclBroadcast(send, recv, 1, ncclInt, -1, comm, stream), ncclInvalidArgument,
               "root=-1");
    NCCL_FAILS(ncclAllReduce(send, recv, SIZE_MAX, ncclInt, ncclSum, comm, stream),
               ncclInvalidArgument, "count");
    NCCL_FAILS(ncclAllReduce(send, recv, RANK_BYTES, ncclInt, ncclSum, comm, stream),
               ncclInvalidArgument, "65536");
    NCCL_FAILS(ncclSend(send, 1, ncclInt, 3, comm, stream), ncclInvalidArgument, "peer=3");
    NCCL_FAILS(ncclRecv(recv, 1, ncclInt, -1, comm, stream), ncclInvalidArgument, "peer=-1");
    NCCL_FAILS(ncclAllReduce(send, recv, 1, ncclInt, ncclSum, comm, WILD), ncclInvalidArgument,
               "stream=0x1234560");
    NCCL_FAILS(ncclRedOpCreatePreMulSum(NULL, &factor, ncclInt, ncclScalarHostImmediate, comm),
               ncclInvalidArgument, "op=(nil)");
    NCCL_FAILS(ncclRedOpCreatePreMulSum(&op, &factor, ncclInt, (ncclScalarResidence_t)5, comm),
               ncclInvalidArgument, "residence=5");
    NCCL_FAILS(ncclRedOpDestroy(ncclSum, comm), ncclInvalidArgument, "op=0 is built in");
    NCCL_FAILS(ncclRedOpDestroy((ncclRedOp_t)99, comm), ncclInvalidArgument, "99");
    NCCL_FAILS(ncclGroupEnd(), ncclInvalidUsage, "without ncclGroupStart");
    NCCL_FAILS(ncclGroupSimulateEnd(NULL), ncclInvalidUsage, "without ncclGroupStart");
    NCCL_FAILS(ncclGetVersion(NULL), ncclInvalidArgument, "version=NULL");
    ranks_check(&ranks);
    ranks_close(&ranks);
}

/* One wrong call spoils the group: nothing of it is done, and the next one is as ever. */
static void bad_group(void **state)
{
    struct ranks ranks;
    ncclComm_t part = WILD;

    (void)state;
    ranks_open(&ranks, 2);
    ranks_fill(&ranks, 1);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        NCCL_OK(ncclAllReduce(ranks.send[r], ranks.recv[r], 1, ncclInt, ncclSum, ranks.comms[r],
                              ranks.streams[r]));
    NCCL_OK(ncclCommSplit(ranks.comms[0], 0, 0, &part, NULL));
    NCCL_FAILS(ncclReduce(ranks.send[0], ranks.recv[0], 1, (ncclDataType_t)50, ncclSum, 0,
                          ranks.comms[0], ranks.streams[0]),
               ncclInvalidArgument, "datatype=50");
    NCCL_FAILS(ncclGroupEnd(), ncclInvalidArgument, "datatype=50");
    assert_null(part);
    ranks_synchronize(&ranks);
    assert_int_equal(rank_result(&ranks, 0, 0), -1);
    ranks_check(&ranks);
    ranks_close(&ranks);
}

static void windows(void **state)
{
    ncclWindow_t window, other;
    struct ranks ranks;
    void *handle, *memory;
    int plain;

    (void)state;
    ranks_open(&ranks, 2);
    const ncclComm_t comm = ranks.comms[0];

    CUDA_OK(cudaSetDevice(0));
    NCCL_OK(ncclMemAlloc(&memory, 8192));
    NCCL_OK(ncclCommWindowRegister(comm, memory, 8192, &window, NCCL_WIN_COLL_SYMMETRIC));
    NCCL_OK(ncclCommRegister(comm, ranks.send[0], RANK_BYTES, &handle));
    NCCL_FAILS(ncclCommWindowRegister(comm, (char *)memory + 64, 64, &other, 0),
               ncclInvalidArgument, "aligned to 4096");
    NCCL_FAILS(ncclCommWindowRegister(comm, memory, 9000, &other, 0), ncclInvalidArgument,
               "9000 bytes");
    NCCL_FAILS(ncclCommWindowRegister(comm, memory, 8192, &other, 6), ncclInvalidArgument,
               "winFlags=0x6");
    NCCL_FAILS(ncclCommRegister(comm, &plain, sizeof plain, &handle), ncclInvalidArgument,
               "no memory of device 0");
    NCCL_FAILS(ncclCommRegister(comm, ranks.send[1], 4, &handle), ncclInvalidArgument,
               "no memory of device 0");
    NCCL_FAILS(ncclCommRegister(comm, memory, 0, &handle), ncclInvalidArgument, "size=0");
    NCCL_FAILS(ncclCommWindowDeregister(ranks.comms[1], window), ncclInvalidArgument,
               "no live window");
    NCCL_FAILS(ncclCommDeregister(comm, window), ncclInvalidArgument, "no live registration");
    NCCL_OK(ncclCommWindowDeregister(comm, window));
    NCCL_FAILS(ncclCommWindowDeregister(comm, window), ncclInvalidArgument, "no live window");
    NCCL_OK(ncclCommWindowDeregister(comm, NULL));
    NCCL_OK(ncclMemFree(memory));
    NCCL_FAILS(ncclMemFree(memory), ncclInvalidArgument, "ncclMemFree", "live allocation");
    NCCL_FAILS(ncclMemAlloc(NULL, 1), ncclInvalidArgument, "ptr=NULL");
    NCCL_OK(ncclMemAlloc(&memory, 0)); /* as cudaMalloc */
    assert_null(memory);
    NCCL_FAILS(ncclMemAlloc(&memory, (size_t)1 << 60), ncclUnhandledCudaError, "ncclMemAlloc");
    ranks_close(&ranks); /* with a registration still there */
}

/* Ranks that call different things are told what, on all sides. */
static void mismatch(void **state)
{
    struct ranks ranks;
    ncclResult_t result;

    (void)state;
    ranks_open(&ranks, 2);
    ranks_fill(&ranks, 64);
    NCCL_OK(ncclAllReduce(ranks.send[0], ranks.recv[0], 16, ncclInt, ncclSum, ranks.comms[0],
                          ranks.streams[0]));
    NCCL_OK(ncclAllReduce(ranks.send[1], ranks.recv[1], 32, ncclInt, ncclSum, ranks.comms[1],
                          ranks.streams[1]));
    for (int r = 0; r < 2; r++) {
        assert_int_equal(cudaStreamSynchronize(ranks.streams[r]), cudaErrorLaunchFailure);
        NCCL_OK(ncclCommGetAsyncError(ranks.comms[r], &result));
        assert_int_equal(result, ncclInvalidUsage);
        assert_non_null(strstr(ncclGetLastError(ranks.comms[r]), "16"));
        assert_non_null(strstr(ncclGetLastError(ranks.comms[r]), "32"));
    }
    ranks_close(&ranks);
}

static void texts_and_twins(void **state)
{
    int version;

    (void)state;
    NCCL_OK(pncclGetVersion(&version));
    assert_int_equal(version, 22809);
    for (int i = 0; i < ncclNumResults; i++)
        assert_int_not_equal(strcmp(ncclGetErrorString((ncclResult_t)i), "unknown result code"), 0);
    assert_string_equal(pncclGetErrorString((ncclResult_t)77), "unknown result code");
    assert_ptr_equal(pncclAllReduce, ncclAllReduce);
    assert_ptr_equal(pncclGroupEnd, ncclGroupEnd);
    assert_ptr_equal(pncclCommRevoke, ncclCommRevoke);
    assert_non_null(ncclGetLastError(NULL));
    assert_non_null(ncclGetLastError(WILD));
    ncclResetDebugInit();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_group),
                                       cmocka_unit_test(by_several_ids),
                                       cmocka_unit_test(in_the_background),
                                       cmocka_unit_test(background_in_a_group),
                                       cmocka_unit_test(abort_while_joining),
                                       cmocka_unit_test(config_versions),
                                       cmocka_unit_test(bad_config),
                                       cmocka_unit_test(split),
                                       cmocka_unit_test(split_twice_in_a_group),
                                       cmocka_unit_test(shrink),
                                       cmocka_unit_test(grow),
                                       cmocka_unit_test(shrink_while_hanging),
                                       cmocka_unit_test(revoke_while_hanging),
                                       cmocka_unit_test(abort_while_hanging),
                                       cmocka_unit_test(told_to_who_waits),
                                       cmocka_unit_test(aborted_for_who_waits),
                                       cmocka_unit_test(one_after_the_other),
                                       cmocka_unit_test(operations_and_end_in_one_group),
                                       cmocka_unit_test(ended_handles),
                                       cmocka_unit_test(bad_creation),
                                       cmocka_unit_test(bad_operations),
                                       cmocka_unit_test(bad_group),
                                       cmocka_unit_test(windows),
                                       cmocka_unit_test(mismatch),
                                       cmocka_unit_test(texts_and_twins)};

    return cmocka_run_group_tests(tests, NULL, reset_devices);
}
