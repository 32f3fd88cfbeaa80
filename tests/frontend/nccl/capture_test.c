/* Streams that are captured, alone and together: what graphs hold, launches, NCCL on side streams, what spoils a capture. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"

#define OK(call) CUDA_OK(call)
#define WORDS 4

/* Three streams, an event for each, and device memory. */
struct fixture {
    cudaStream_t stream[3];
    cudaEvent_t fork, joined[3];
    int *device;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
};

static _Atomic int gate, passed;

static void pass_gate(void *argument)
{
    while (!atomic_load(&gate))
        sched_yield();
    atomic_fetch_add(&passed, *(int *)argument);
}

static int open_fixture(void **state)
{
    static struct fixture f;

    for (int i = 0; i < 3; i++) {
        OK(cudaStreamCreateWithFlags(&f.stream[i], cudaStreamNonBlocking));
        OK(cudaEventCreateWithFlags(&f.joined[i], cudaEventDisableTiming));
    }
    OK(cudaEventCreateWithFlags(&f.fork, cudaEventDisableTiming));
    OK(cudaMalloc((void **)&f.device, WORDS * sizeof(int)));
    OK(cudaMemset(f.device, 0, WORDS * sizeof(int)));
    f.graph = NULL;
    f.executable = NULL;
    atomic_store(&gate, 1);
    atomic_store(&passed, 0);
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;

    if (f->executable)
        OK(cudaGraphExecDestroy(f->executable));
    if (f->graph)
        OK(cudaGraphDestroy(f->graph));
    for (int i = 0; i < 3; i++) {
        if (f->stream[i])
            OK(cudaStreamDestroy(f->stream[i]));
        OK(cudaEventDestroy(f->joined[i]));
    }
    OK(cudaEventDestroy(f->fork));
    OK(cudaFree(f->device));
    return 0;
}

static void begin(struct fixture *f)
{
    OK(cudaStreamBeginCapture(f->stream[0], cudaStreamCaptureModeGlobal));
}

static void end(struct fixture *f)
{
    OK(cudaStreamEndCapture(f->stream[0], &f->graph));
    OK(cudaGraphInstantiate(&f->executable, f->graph, 0));
}

/* Ends a capture that was spoiled. */
static void end_spoiled(struct fixture *f)
{
    enum cudaStreamCaptureStatus status;
    cudaGraph_t graph = (cudaGraph_t)f;

    OK(cudaStreamIsCapturing(f->stream[0], &status));
    assert_int_equal(status, cudaStreamCaptureStatusInvalidated);
    CUDA_FAILS(cudaMemsetAsync(f->device, 1, 4, f->stream[0]), cudaErrorStreamCaptureInvalidated,
               "spoiled");
    CUDA_FAILS(cudaStreamEndCapture(f->stream[0], &graph), cudaErrorStreamCaptureInvalidated,
               "spoiled");
    assert_null(graph);
    OK(cudaStreamIsCapturing(f->stream[0], &status));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    OK(cudaStreamSynchronize(f->stream[0]));
    OK(cudaMemsetAsync(f->device, 0, 4, f->stream[0]));
}

static void fork_to(struct fixture *f, int i)
{
    OK(cudaEventRecord(f->fork, f->stream[0]));
    OK(cudaStreamWaitEvent(f->stream[i], f->fork, 0));
}

static void join_from(struct fixture *f, int i, int to)
{
    OK(cudaEventRecord(f->joined[i], f->stream[i]));
    OK(cudaStreamWaitEvent(f->stream[to], f->joined[i], 0));
}

static int word(struct fixture *f, int i)
{
    int value;

    OK(cudaMemcpy(&value, f->device + i, sizeof value, cudaMemcpyDeviceToHost));
    return value;
}

/* ---- one stream ------------------------------------------------------------------------------------------------- */

static void one_stream(void **state)
{
    enum cudaStreamCaptureStatus status;
    struct fixture *f = *state;
    unsigned long long id = 0;
    int one = 1, host = -1;
    cudaGraph_t none;

    CUDA_FAILS(cudaStreamEndCapture(f->stream[0], &none), cudaErrorIllegalState, "not captured");
    begin(f);
    CUDA_FAILS(cudaStreamBeginCapture(f->stream[0], cudaStreamCaptureModeGlobal),
               cudaErrorIllegalState, "captured already");
    OK(cudaStreamIsCapturing(f->stream[0], &status));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, &id, NULL, NULL, NULL));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    assert_int_not_equal(id, 0);
    OK(cudaMemsetAsync(f->device, 7, 4, f->stream[0]));
    OK(cudaLaunchHostFunc(f->stream[0], pass_gate, &one));
    OK(cudaEventRecord(f->fork, f->stream[0]));
    OK(cudaStreamWaitEvent(f->stream[0], f->fork, 0));
    OK(cudaMemcpyAsync(f->device + 1, f->device, 4, cudaMemcpyDeviceToDevice, f->stream[0]));
    OK(cudaMemcpyAsync(&host, f->device + 1, 4, cudaMemcpyDeviceToHost, f->stream[0]));
    end(f);
    CUDA_FAILS(cudaEventQuery(f->fork), cudaErrorCapturedEvent, "in a capture");
    CUDA_FAILS(cudaEventSynchronize(f->fork), cudaErrorCapturedEvent, "in a capture");
    CUDA_FAILS(cudaStreamWaitEvent(f->stream[1], f->fork, 0), cudaErrorCapturedEvent, "has ended");
    OK(cudaEventRecord(f->fork, f->stream[0]));
    OK(cudaStreamWaitEvent(f->stream[1], f->fork, 0));
    OK(cudaEventSynchronize(f->fork));
    OK(cudaGraphDestroy(f->graph));
    f->graph = NULL;
    assert_int_equal(word(f, 0), 0); /* nothing was done yet */
    assert_int_equal(host, -1);
    for (int i = 0; i < 3; i++)
        OK(cudaGraphLaunch(f->executable, f->stream[0]));
    OK(cudaStreamSynchronize(f->stream[0]));
    assert_int_equal(word(f, 1), 0x07070707);
    assert_int_equal(host, 0x07070707); /* pageable memory, at each launch */
    assert_int_equal(atomic_load(&passed), 3);
    OK(cudaGraphExecDestroy(f->executable));
    CUDA_FAILS(cudaGraphLaunch(f->executable, f->stream[0]), cudaErrorInvalidValue,
               "not a live graph");
    f->executable = NULL;
    CUDA_FAILS(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal),
               cudaErrorStreamCaptureUnsupported, "default stream");
}

/* ---- several streams --------------------------------------------------------------------------------------------- */

/*
 * The first writes word 0 and forks; the second waits at the gate, then copies it to word 1; the third writes word 2 and joins
 * the second, which joins the first, which copies words 1 and 2 on.
 */
static void capture_three(struct fixture *f, int byte)
{
    static int one = 1;

    begin(f);
    OK(cudaMemsetAsync(f->device, byte, 4, f->stream[0]));
    fork_to(f, 1);
    OK(cudaStreamWaitEvent(f->stream[2], f->fork, 0));
    OK(cudaLaunchHostFunc(f->stream[1], pass_gate, &one));
    OK(cudaMemcpyAsync(f->device + 1, f->device, 4, cudaMemcpyDeviceToDevice, f->stream[1]));
    OK(cudaMemsetAsync(f->device + 2, byte + 1, 4, f->stream[2]));
    join_from(f, 2, 1);
    join_from(f, 1, 0);
    OK(cudaMemcpyAsync(f->device + 3, f->device + 1, 4, cudaMemcpyDeviceToDevice, f->stream[0]));
}

static void forks(void **state)
{
    struct fixture *f = *state;
    enum cudaStreamCaptureStatus status;

    capture_three(f, 5);
    OK(cudaStreamIsCapturing(f->stream[2], &status));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    end(f);
    OK(cudaStreamIsCapturing(f->stream[2], &status));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    /* the graph has streams of its own */
    OK(cudaStreamDestroy(f->stream[1]));
    f->stream[1] = NULL;
    atomic_store(&gate, 0);
    OK(cudaGraphLaunch(f->executable, f->stream[2]));
    while (word(f, 2) != 0x06060606) /* while another lane is at the gate */
        sched_yield();
    assert_int_equal(cudaStreamQuery(f->stream[2]), cudaErrorNotReady);
    assert_int_equal(word(f, 3), 0);
    /* launches follow one another, on whatever stream */
    OK(cudaGraphLaunch(f->executable, f->stream[0]));
    assert_int_equal(cudaStreamQuery(f->stream[0]), cudaErrorNotReady);
    atomic_store(&gate, 1);
    OK(cudaStreamSynchronize(f->stream[0]));
    assert_int_equal(atomic_load(&passed), 2);
    OK(cudaStreamQuery(f->stream[2]));
    assert_int_equal(word(f, 3), 0x05050505);
    for (int i = 0; i < 50; i++)
        OK(cudaGraphLaunch(f->executable, f->stream[0]));
    OK(cudaDeviceSynchronize());
    assert_int_equal(atomic_load(&passed), 52);
}

static void unjoined(void **state)
{
    struct fixture *f = *state;
    cudaGraph_t graph;

    begin(f);
    fork_to(f, 1);
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[1]));
    CUDA_FAILS(cudaStreamEndCapture(f->stream[1], &graph), cudaErrorStreamCaptureUnmatched,
               "joined");
    CUDA_FAILS(cudaStreamEndCapture(f->stream[0], &graph), cudaErrorStreamCaptureUnjoined,
               "2 streams");
    assert_null(graph);
    OK(cudaStreamSynchronize(f->stream[1]));

    begin(f); /* joined, but worked on */
    fork_to(f, 1);
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[1]));
    join_from(f, 1, 0);
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[1]));
    CUDA_FAILS(cudaStreamEndCapture(f->stream[0], &graph), cudaErrorStreamCaptureUnjoined,
               "2 streams");

    begin(f); /* a side stream that was joined to a side stream only */
    fork_to(f, 1);
    OK(cudaStreamWaitEvent(f->stream[2], f->fork, 0));
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[1]));
    join_from(f, 1, 2);
    CUDA_FAILS(cudaStreamEndCapture(f->stream[0], &graph), cudaErrorStreamCaptureUnjoined,
               "3 streams");
    assert_int_equal(word(f, 0), 0);
}

/* An event for streams outside, and one from there. */
static void external_events(void **state)
{
    struct fixture *f = *state;
    int one = 1;

    OK(cudaEventRecord(f->joined[0], f->stream[1]));
    begin(f);
    OK(cudaStreamWaitEvent(f->stream[0], f->joined[0], cudaEventWaitExternal));
    OK(cudaMemsetAsync(f->device, 3, 4, f->stream[0]));
    OK(cudaEventRecordWithFlags(f->joined[1], f->stream[0], cudaEventRecordExternal));
    end(f);
    atomic_store(&gate, 0);
    OK(cudaLaunchHostFunc(f->stream[1], pass_gate, &one));
    OK(cudaEventRecord(f->joined[0], f->stream[1]));
    OK(cudaGraphLaunch(f->executable, f->stream[0]));
    assert_int_equal(cudaEventQuery(f->joined[1]), cudaErrorNotReady);
    atomic_store(&gate, 1);
    OK(cudaEventSynchronize(f->joined[1]));
    assert_int_equal(word(f, 0), 0x03030303);
}

/* ---- NCCL --------------------------------------------------------------------------------------------------------- */

/* Compute and communication on streams of their own, as training programs overlap them; one graph for each rank. */
static void collectives_on_a_side_stream(void **state)
{
    struct ranks ranks = {0};
    cudaStream_t side[3];
    cudaGraphExec_t executable[3];
    cudaEvent_t ready, done;
    cudaGraph_t graph;

    (void)state;
    ranks_open(&ranks, 3);
    for (int r = 0; r < 3; r++) {
        OK(cudaSetDevice(r));
        OK(cudaStreamCreateWithFlags(&side[r], cudaStreamNonBlocking));
        OK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
        OK(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
        OK(cudaStreamBeginCapture(ranks.streams[r], cudaStreamCaptureModeThreadLocal));
        OK(cudaMemsetAsync(ranks.send[r], r + 1, 16, ranks.streams[r]));
        OK(cudaEventRecord(ready, ranks.streams[r]));
        OK(cudaStreamWaitEvent(side[r], ready, 0));
        NCCL_OK(ncclAllReduce(ranks.send[r], ranks.recv[r], 16, ncclUint8, ncclSum, ranks.comms[r],
                              side[r]));
        NCCL_OK(ncclGroupStart());
        NCCL_OK(ncclSend(ranks.recv[r], 16, ncclUint8, (r + 1) % 3, ranks.comms[r], side[r]));
        NCCL_OK(ncclRecv((char *)ranks.recv[r] + 64, 16, ncclUint8, (r + 2) % 3, ranks.comms[r],
                         side[r]));
        NCCL_OK(ncclGroupEnd());
        OK(cudaMemsetAsync((char *)ranks.recv[r] + 32, 9, 16, ranks.streams[r]));
        OK(cudaEventRecord(done, side[r]));
        OK(cudaStreamWaitEvent(ranks.streams[r], done, 0));
        OK(cudaStreamEndCapture(ranks.streams[r], &graph));
        OK(cudaEventDestroy(ready));
        OK(cudaEventDestroy(done));
        OK(cudaStreamDestroy(side[r]));
        OK(cudaGraphInstantiate(&executable[r], graph, 0));
        OK(cudaGraphDestroy(graph));
    }
    for (int i = 0; i < 20; i++)
        for (int r = 0; r < 3; r++)
            OK(cudaGraphLaunch(executable[r], ranks.streams[r]));
    for (int r = 0; r < 3; r++) {
        OK(cudaStreamSynchronize(ranks.streams[r]));
        assert_int_equal(rank_result(&ranks, r, 0), 0x06060606);
        assert_int_equal(rank_result(&ranks, r, 8), 0x09090909);
        assert_int_equal(rank_result(&ranks, r, 16), 0x06060606);
    }
    /* A collective that fails on the side stream fails the launch's stream; that of who ended it goes on. */
    OK(cudaGraphLaunch(executable[0], ranks.streams[0]));
    OK(cudaGraphLaunch(executable[1], ranks.streams[1]));
    NCCL_OK(ncclCommAbort(ranks.comms[0]));
    OK(cudaStreamSynchronize(ranks.streams[0]));
    assert_int_equal(cudaStreamSynchronize(ranks.streams[1]), cudaErrorLaunchFailure);
    OK(cudaDeviceSynchronize());
    NCCL_OK(ncclCommAbort(ranks.comms[1]));
    NCCL_OK(ncclCommAbort(ranks.comms[2]));
    for (int r = 0; r < 3; r++)
        OK(cudaGraphExecDestroy(executable[r]));
    ranks_close_memory(&ranks);
    OK(cudaSetDevice(0));
}

/* ---- what spoils a capture ---------------------------------------------------------------------------------------- */

static void called_back(cudaStream_t stream, cudaError_t status, void *argument)
{
    (void)stream, (void)status, (void)argument;
}

static void waiting_spoils(void **state)
{
    struct fixture *f = *state;
    cudaEvent_t event;
    int value;

    begin(f);
    CUDA_FAILS(cudaStreamSynchronize(f->stream[0]), cudaErrorStreamCaptureUnsupported,
               "is captured");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaStreamQuery(f->stream[0]), cudaErrorStreamCaptureUnsupported, "is captured");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported, "of device 0");
    end_spoiled(f);
    begin(f);
    OK(cudaEventRecord(f->fork, f->stream[0]));
    CUDA_FAILS(cudaEventQuery(f->fork), cudaErrorCapturedEvent, "in a capture");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaStreamAddCallback(f->stream[0], called_back, NULL, 0),
               cudaErrorStreamCaptureUnsupported, "cudaLaunchHostFunc");
    end_spoiled(f);
    begin(f); /* a stream that joined */
    fork_to(f, 1);
    CUDA_FAILS(cudaStreamSynchronize(f->stream[1]), cudaErrorStreamCaptureUnsupported,
               "is captured");
    end_spoiled(f);
    OK(cudaStreamSynchronize(f->stream[1]));

    OK(cudaEventCreate(&event));
    begin(f); /* never recorded: nothing to wait for */
    OK(cudaStreamWaitEvent(f->stream[0], event, 0));
    OK(cudaEventRecord(event, f->stream[1]));
    CUDA_FAILS(cudaStreamWaitEvent(f->stream[0], event, 0), cudaErrorStreamCaptureIsolation,
               "not recorded in the capture");
    end_spoiled(f);
    OK(cudaEventDestroy(event));

    begin(
        f); /* other streams, and copies by the default one, do not bother streams that do not block */
    OK(cudaMemcpy(&value, f->device, 4, cudaMemcpyDeviceToHost));
    OK(cudaStreamSynchronize(f->stream[1]));
    end(f);
}

static void two_captures(void **state)
{
    struct fixture *f = *state;
    cudaGraph_t graph;

    begin(f);
    OK(cudaStreamBeginCapture(f->stream[1], cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(f->fork, f->stream[0]));
    CUDA_FAILS(cudaStreamWaitEvent(f->stream[1], f->fork, 0), cudaErrorStreamCaptureMerge,
               "another capture");
    end_spoiled(f);
    CUDA_FAILS(cudaStreamEndCapture(f->stream[1], &graph), cudaErrorStreamCaptureInvalidated,
               "spoiled");
}

/* The default stream waits for blocking ones. */
static void default_stream(void **state)
{
    enum cudaStreamCaptureStatus status;
    struct fixture *f = *state;
    cudaStream_t own = f->stream[0];

    OK(cudaStreamCreate(&f->stream[0]));
    begin(f);
    CUDA_FAILS(cudaStreamIsCapturing(NULL, &status), cudaErrorStreamCaptureImplicit,
               "default stream");
    OK(cudaStreamIsCapturing(f->stream[0], &status));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    CUDA_FAILS(cudaMemset(f->device, 1, 4), cudaErrorStreamCaptureImplicit, "default stream");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaStreamSynchronize(NULL), cudaErrorStreamCaptureImplicit, "default stream");
    end_spoiled(f);
    begin(f);
    OK(cudaEventRecord(f->fork, f->stream[0]));
    CUDA_FAILS(cudaStreamWaitEvent(NULL, f->fork, 0), cudaErrorStreamCaptureImplicit,
               "cannot join");
    end_spoiled(f);
    OK(cudaStreamDestroy(f->stream[0]));
    f->stream[0] = own;
}

static void *try_elsewhere(void *argument)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
    cudaError_t *errors = argument;
    void *memory = NULL;

    errors[0] = cudaMalloc(&memory, 4);
    if (!errors[0])
        (void)cudaFree(memory);
    (void)cudaThreadExchangeStreamCaptureMode(&mode);
    errors[1] = cudaMalloc(&memory, 4);
    if (!errors[1])
        errors[1] = cudaFree(memory);
    return NULL;
}

static void elsewhere(cudaError_t *errors)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, try_elsewhere, errors), 0);
    pthread_join(thread, NULL);
}

static void *end_elsewhere(void *argument)
{
    struct fixture *f = argument;

    return (void *)(uintptr_t)cudaStreamEndCapture(f->stream[0], &f->graph);
}

/* Calls that may be unsafe, by the mode of the capture and of the thread. */
static void modes(void **state)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    struct fixture *f = *state;
    cudaError_t errors[2];
    pthread_t thread;
    void *memory, *result;

    begin(f); /* global */
    CUDA_FAILS(cudaMalloc(&memory, 4), cudaErrorStreamCaptureUnsupported, "relaxed mode");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaFree(f->device), cudaErrorStreamCaptureUnsupported, "relaxed mode");
    end_spoiled(f);
    begin(f);
    CUDA_FAILS(cudaMallocHost(&memory, 4), cudaErrorStreamCaptureUnsupported, "relaxed mode");
    end_spoiled(f);
    OK(cudaEventRecord(f->fork, f->stream[1]));
    begin(f);
    CUDA_FAILS(cudaEventQuery(f->fork), cudaErrorStreamCaptureUnsupported, "relaxed mode");
    end_spoiled(f);
    begin(f);
    elsewhere(errors);
    assert_int_equal(errors[0], cudaErrorStreamCaptureUnsupported);
    OK(errors[1]);
    end_spoiled(f);

    begin(f); /* this thread may, for a while */
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, cudaStreamCaptureModeGlobal);
    OK(cudaMalloc(&memory, 4));
    OK(cudaFree(memory));
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, cudaStreamCaptureModeRelaxed);
    assert_int_equal(pthread_create(&thread, NULL, end_elsewhere, f), 0);
    pthread_join(thread, &result);
    assert_int_equal((uintptr_t)result, cudaErrorStreamCaptureWrongThread);
    end(f);

    OK(cudaGraphExecDestroy(f->executable));
    OK(cudaGraphDestroy(f->graph));
    OK(cudaStreamBeginCapture(f->stream[0], cudaStreamCaptureModeThreadLocal));
    elsewhere(errors);
    OK(errors[0]);
    CUDA_FAILS(cudaMalloc(&memory, 4), cudaErrorStreamCaptureUnsupported, "relaxed mode");
    end_spoiled(f);

    OK(cudaStreamBeginCapture(f->stream[0], cudaStreamCaptureModeRelaxed));
    elsewhere(errors);
    OK(errors[0]);
    OK(cudaMalloc(&memory, 4));
    OK(cudaFree(memory));
    f->executable = NULL;
    assert_int_equal(pthread_create(&thread, NULL, end_elsewhere, f), 0);
    pthread_join(thread, &result);
    OK((cudaError_t)(uintptr_t)result);
}

static void streams_that_go(void **state)
{
    struct fixture *f = *state;

    begin(f);
    fork_to(f, 1);
    OK(cudaStreamDestroy(f->stream[1]));
    f->stream[1] = NULL;
    end_spoiled(f);
    begin(f);
    fork_to(f, 2);
    OK(cudaStreamDestroy(f->stream[0]));
    f->stream[0] = NULL;
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[2])); /* captured no more */
    OK(cudaStreamSynchronize(f->stream[2]));
    assert_int_equal(word(f, 0), 0x01010101);
}

/* ---- graphs as such ----------------------------------------------------------------------------------------------- */

static void nodes(void **state)
{
    char path[] = "/tmp/capture_test-XXXXXX", text[4096] = "";
    struct fixture *f = *state;
    enum cudaGraphNodeType type;
    cudaGraphNode_t all[16];
    size_t n = 0, bytes;
    cudaGraphNode_t to[16];
    cudaGraphEdgeData edges[16];
    cudaGraph_t clone;
    int fd;

    capture_three(f, 1);
    end(f);
    OK(cudaGraphClone(&clone, f->graph));
    OK(cudaGraphGetNodes(clone, NULL, &n));
    assert_int_equal(n, 5); /* two fills, two copies, a host function */
    n = 16;
    OK(cudaGraphGetNodes(clone, all, &n));
    assert_int_equal(n, 5);
    assert_null(all[5]);
    OK(cudaGraphNodeGetType(all[1], &type));
    assert_int_equal(type, cudaGraphNodeTypeHost);
    OK(cudaGraphNodeGetType(all[4], &type));
    assert_int_equal(type, cudaGraphNodeTypeMemcpy);
    CUDA_FAILS(cudaGraphNodeGetType((cudaGraphNode_t)f, &type), cudaErrorInvalidValue,
               "of no graph");
    n = 8;
    OK(cudaGraphNodeGetDependencies(all[4], all + 8, &n));
    assert_int_equal(n, 3); /* what its own stream did, and both others */
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(all[8 + i], all[i ? i + 1 : 0]);
    assert_null(all[11]);
    n = 1;
    OK(cudaGraphNodeGetDependentNodes_v2(all[0], all + 8, edges, &n));
    assert_int_equal(n, 1);
    assert_ptr_equal(all[8], all[1]);
    assert_int_equal(edges[0].type, 0);
    n = 16;
    OK(cudaGraphGetRootNodes(clone, all, &n));
    assert_int_equal(n, 1);
    OK(cudaGraphGetEdges(clone, NULL, NULL, &n));
    assert_int_equal(n, 6);
    n = 16;
    OK(cudaGraphGetEdges_v2(clone, all, to, edges, &n));
    assert_int_equal(n, 6);
    assert_ptr_equal(all[0], all[2]); /* both side streams come behind the root */
    assert_ptr_not_equal(to[0], to[2]);
    CUDA_FAILS(cudaGraphGetEdges(clone, all, NULL, &n), cudaErrorInvalidValue, "one of them");
    CUDA_FAILS(cudaGraphNodeGetDependencies(NULL, NULL, &n), cudaErrorInvalidValue, "of no graph");

    fd = mkstemp(path);
    assert_true(fd >= 0);
    OK(cudaGraphDebugDotPrint(clone, path, 0));
    bytes = (size_t)read(fd, text, sizeof text - 1);
    text[bytes < sizeof text ? bytes : 0] = 0;
    assert_non_null(strstr(text, "n0 -> n1;"));
    assert_non_null(strstr(text, "n3 -> n4;"));
    assert_null(strstr(text, "n1 -> n3;"));
    close(fd);
    unlink(path);
    CUDA_FAILS(cudaGraphDebugDotPrint(clone, "/nowhere/x", 0), cudaErrorOperatingSystem,
               "/nowhere");
    OK(cudaGraphUpload(f->executable, f->stream[0]));
    OK(cudaGraphDestroy(clone));
    CUDA_FAILS(cudaGraphGetNodes(clone, NULL, &n), cudaErrorInvalidValue, "not a live graph");
}

/* The graph has its handle from the first question on; its nodes are where the stream stands. */
static void seen_while_captured(void **state)
{
    struct fixture *f = *state;
    enum cudaStreamCaptureStatus status;
    const cudaGraphNode_t *at = NULL;
    const cudaGraphEdgeData *edges = NULL;
    cudaGraphNode_t all[4], first;
    cudaGraph_t graph = NULL, ended;
    unsigned long long id;
    size_t n = 1;

    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, &id, &graph, &at, &n));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    begin(f);
    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, &id, &graph, &at, &n));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    assert_non_null(graph);
    assert_int_equal(n, 0);
    OK(cudaMemsetAsync(f->device, 1, 4, f->stream[0]));
    OK(cudaStreamGetCaptureInfo_v3(f->stream[0], &status, &id, &ended, &at, &edges, &n));
    assert_ptr_equal(ended, graph);
    assert_int_equal(n, 1);
    assert_int_equal(edges[0].from_port, 0);
    first = at[0];
    fork_to(f, 1);
    OK(cudaMemsetAsync(f->device + 1, 1, 4, f->stream[1]));
    join_from(f, 1, 0);
    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, NULL, NULL, &at, &n));
    assert_int_equal(n, 2);
    assert_ptr_equal(at[0], first);
    CUDA_FAILS(cudaGraphInstantiate(&f->executable, graph, 0), cudaErrorIllegalState,
               "still being captured");
    CUDA_FAILS(cudaGraphDestroy(graph), cudaErrorIllegalState, "still being captured");
    CUDA_FAILS(cudaGraphNodeGetDependencies(first, NULL, &n), cudaErrorInvalidValue,
               "still being captured");
    OK(cudaStreamEndCapture(f->stream[0], &f->graph));
    assert_ptr_equal(f->graph, graph);
    n = 4;
    OK(cudaGraphGetNodes(graph, all, &n));
    assert_int_equal(n, 2);
    assert_ptr_equal(all[0], first);

    begin(f); /* a capture that comes to nothing takes its handle with it */
    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, &id, &graph, NULL, NULL));
    (void)cudaStreamSynchronize(f->stream[0]);
    (void)cudaGetLastError();
    OK(cudaStreamGetCaptureInfo(f->stream[0], &status, &id, NULL, NULL, NULL));
    assert_int_equal(status, cudaStreamCaptureStatusInvalidated);
    assert_int_equal(cudaStreamEndCapture(f->stream[0], &ended), cudaErrorStreamCaptureInvalidated);
    CUDA_FAILS(cudaGraphDestroy(graph), cudaErrorInvalidValue, "not a live graph");
}

/* The next iteration's graph takes the place of the last one's, if it is of the same shape. */
static void updates(void **state)
{
    struct fixture *f = *state;
    cudaGraphExecUpdateResultInfo info;
    cudaGraphExec_t first;
    cudaGraph_t graph;

    capture_three(f, 1);
    end(f);
    first = f->executable;
    capture_three(f, 7);
    OK(cudaStreamEndCapture(f->stream[0], &graph));
    OK(cudaGraphExecUpdate(first, graph, &info));
    assert_int_equal(info.result, cudaGraphExecUpdateSuccess);
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(first, f->stream[0]));
    OK(cudaStreamSynchronize(f->stream[0]));
    assert_int_equal(word(f, 3), 0x07070707);

    begin(f);
    OK(cudaMemcpyAsync(f->device, f->device + 1, 4, cudaMemcpyDeviceToDevice, f->stream[0]));
    OK(cudaStreamEndCapture(f->stream[0], &graph));
    CUDA_FAILS(cudaGraphExecUpdate(first, graph, &info), cudaErrorGraphExecUpdateFailure, "node 0");
    assert_int_equal(info.result, cudaGraphExecUpdateErrorNodeTypeChanged);
    assert_non_null(info.errorNode);
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(first, f->stream[0])); /* as it was */
    OK(cudaStreamSynchronize(f->stream[0]));
    CUDA_FAILS(cudaGraphInstantiate(&first, f->graph, cudaGraphInstantiateFlagDeviceLaunch),
               cudaErrorNotSupported, "not launched by devices");
}

/* A graph in a graph, which outlives it. */
static void nested(void **state)
{
    struct fixture *f = *state;
    cudaGraphExec_t inner;

    capture_three(f, 3);
    end(f);
    inner = f->executable;
    OK(cudaGraphDestroy(f->graph));
    begin(f);
    OK(cudaGraphLaunch(inner, f->stream[0]));
    OK(cudaMemcpyAsync(f->device, f->device + 2, 4, cudaMemcpyDeviceToDevice, f->stream[0]));
    end(f);
    OK(cudaGraphExecDestroy(inner));
    OK(cudaGraphLaunch(f->executable, f->stream[0]));
    OK(cudaStreamSynchronize(f->stream[0]));
    assert_int_equal(word(f, 3), 0x03030303);
    assert_int_equal(word(f, 0), 0x04040404);
}

#define on_streams(test) cmocka_unit_test_setup_teardown(test, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {on_streams(one_stream),
                                       on_streams(forks),
                                       on_streams(unjoined),
                                       on_streams(external_events),
                                       cmocka_unit_test(collectives_on_a_side_stream),
                                       on_streams(waiting_spoils),
                                       on_streams(two_captures),
                                       on_streams(default_stream),
                                       on_streams(modes),
                                       on_streams(streams_that_go),
                                       on_streams(nodes),
                                       on_streams(seen_while_captured),
                                       on_streams(updates),
                                       on_streams(nested)};

    return cmocka_run_group_tests_name("capture", tests, NULL, reset_devices);
}
