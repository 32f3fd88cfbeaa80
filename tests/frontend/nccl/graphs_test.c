/*
 * Graphs that are launched: what belongs to each launch, memory that they allocate and free, who they wait for and who not.
 * What a capture takes and refuses is in capture_test.c.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/device.h>

#include "ranks.h"

#define OK(call) CUDA_OK(call)
#define STREAMS 4
#define BYTES 4096

static cudaStream_t stream[STREAMS];
static cudaEvent_t fork_event, join_event;
static char *device; /* BYTES of device memory */
static _Atomic int gate, entered, calls;

static void count(void *unused)
{
    (void)unused;
    atomic_fetch_add(&calls, 1);
}

static void pass_gate(void *unused)
{
    atomic_fetch_add(&entered, 1);
    while (!atomic_load(&gate))
        sched_yield();
    count(unused);
}

static int open_streams(void **state)
{
    (void)state;
    OK(cudaSetDevice(0));
    for (int i = 0; i < STREAMS; i++)
        OK(cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&fork_event, cudaEventDisableTiming));
    OK(cudaEventCreateWithFlags(&join_event, cudaEventDisableTiming));
    OK(cudaMalloc((void **)&device, BYTES));
    OK(cudaMemset(device, 0, BYTES));
    atomic_store(&gate, 1);
    atomic_store(&calls, 0);
    atomic_store(&entered, 0);
    return 0;
}

static int close_streams(void **state)
{
    (void)state;
    atomic_store(&gate, 1);
    for (int i = 0; i < STREAMS; i++)
        OK(cudaStreamDestroy(stream[i]));
    OK(cudaEventDestroy(fork_event));
    OK(cudaEventDestroy(join_event));
    OK(cudaFree(device));
    return 0;
}

static void begin(void)
{
    OK(cudaStreamBeginCapture(stream[0], cudaStreamCaptureModeThreadLocal));
}

static cudaGraph_t end(void)
{
    cudaGraph_t graph;

    OK(cudaStreamEndCapture(stream[0], &graph));
    return graph;
}

static cudaGraphExec_t executable_of(cudaGraph_t graph)
{
    cudaGraphExec_t executable;

    OK(cudaGraphInstantiate(&executable, graph, 0));
    return executable;
}

static void fork_to(int i)
{
    OK(cudaEventRecord(fork_event, stream[0]));
    OK(cudaStreamWaitEvent(stream[i], fork_event, 0));
}

static void join_from(int i)
{
    OK(cudaEventRecord(join_event, stream[i]));
    OK(cudaStreamWaitEvent(stream[0], join_event, 0));
}

static int byte_at(const char *address)
{
    char value;

    OK(cudaMemcpy(&value, address, 1, cudaMemcpyDeviceToHost));
    return value;
}

/* ---- what is each launch's own ------------------------------------------------------------------------------------ */

static void host_functions(void **state)
{
    cudaGraphExec_t one, other, outer;
    cudaGraph_t graph, parent;

    (void)state;
    begin();
    OK(cudaLaunchHostFunc(stream[0], pass_gate, NULL));
    graph = end();
    one = executable_of(graph);
    other = executable_of(graph);
    begin();
    OK(cudaGraphLaunch(one, stream[0]));
    OK(cudaLaunchHostFunc(stream[0], count, NULL));
    OK(cudaGraphLaunch(other, stream[0]));
    parent = end();
    outer = executable_of(parent);
    atomic_store(&gate, 0);
    OK(cudaGraphLaunch(one, stream[1]));
    while (!atomic_load(&entered)) /* the first one's call: nobody else's */
        (void)cudaStreamQuery(stream[1]);
    OK(cudaGraphLaunch(other, stream[2]));
    for (int i = 0; i < 100; i++)
        assert_int_equal(cudaStreamQuery(stream[2]), cudaErrorNotReady);
    atomic_store(&gate, 1);
    OK(cudaStreamSynchronize(stream[2]));
    assert_int_equal(atomic_load(&calls), 2);
    OK(cudaStreamSynchronize(stream[1]));
    atomic_store(&gate, 0);
    atomic_store(&calls, 0);
    OK(cudaGraphLaunch(one, stream[1]));
    OK(cudaGraphLaunch(other, stream[2]));
    OK(cudaGraphLaunch(outer, stream[3]));
    for (int i = 1; i < 4; i++)
        assert_int_equal(cudaStreamQuery(stream[i]), cudaErrorNotReady);
    OK(cudaGraphDestroy(graph)); /* what is in flight goes on */
    OK(cudaGraphDestroy(parent));
    OK(cudaGraphExecDestroy(one));
    OK(cudaGraphExecDestroy(other));
    OK(cudaGraphExecDestroy(outer));
    atomic_store(&gate, 1);
    OK(cudaDeviceSynchronize());
    assert_int_equal(atomic_load(&calls), 5);
}

struct launcher {
    pthread_t thread;
    cudaGraphExec_t executable;
    cudaStream_t stream;
    cudaError_t error;
};

static void *launch_often(void *argument)
{
    struct launcher *l = argument;

    for (int i = 0; i < 200 && !l->error; i++)
        l->error = cudaGraphLaunch(l->executable, l->stream);
    return NULL;
}

/* Lanes wait for those of the same launch: of a graph and one that has it inside, and of two executables, at once. */
static void lanes_at_once(void **state)
{
    struct launcher launchers[3] = {{0}};
    cudaGraph_t inner, outer;

    (void)state;
    begin();
    fork_to(1);
    OK(cudaLaunchHostFunc(stream[1], count, NULL));
    join_from(1);
    inner = end();
    launchers[0].executable = executable_of(inner);
    launchers[1].executable = executable_of(inner);
    begin();
    fork_to(2);
    OK(cudaLaunchHostFunc(stream[2], count, NULL));
    OK(cudaGraphLaunch(launchers[0].executable, stream[0]));
    join_from(2);
    outer = end();
    launchers[2].executable = executable_of(outer);
    for (int i = 0; i < 3; i++) {
        launchers[i].stream = stream[i];
        assert_int_equal(pthread_create(&launchers[i].thread, NULL, launch_often, &launchers[i]),
                         0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(launchers[i].thread, NULL);
        OK(launchers[i].error);
        OK(cudaStreamSynchronize(stream[i]));
    }
    assert_int_equal(atomic_load(&calls), 200 * (1 + 1 + 2));
    for (int i = 0; i < 3; i++)
        OK(cudaGraphExecDestroy(launchers[i].executable));
    OK(cudaGraphDestroy(inner));
    OK(cudaGraphDestroy(outer));
}

static char word[16];

static void write_a(void *unused)
{
    (void)unused;
    strcat(word, "a");
}

static void write_b(void *unused)
{
    (void)unused;
    strcat(word, "b");
}

/* Launches follow one another also where the earlier one's stream is being captured by now. */
static void order_of_launches(void **state)
{
    thrum_queue_t opener, queue = (thrum_queue_t)(void *)stream[0];
    thrum_semaphore_t semaphore;
    cudaGraphExec_t executable;
    cudaGraph_t graph, other;
    size_t n = 0;

    (void)state;
    assert_int_equal(thrum_semaphore_create(thrum_queue_device(queue), 0, &semaphore), THRUM_OK);
    assert_int_equal(thrum_queue_create(thrum_queue_device(queue), 0, &opener), THRUM_OK);
    begin();
    OK(cudaLaunchHostFunc(stream[0], write_a, NULL));
    assert_int_equal(thrum_queue_wait(queue, semaphore, 1), THRUM_OK);
    OK(cudaLaunchHostFunc(stream[0], write_b, NULL));
    graph = end();
    executable = executable_of(graph);
    word[0] = 0;
    OK(cudaGraphLaunch(executable, stream[0]));
    begin();
    OK(cudaMemsetAsync(device, 1, 4, stream[0]));
    OK(cudaGraphLaunch(executable, stream[1]));
    other = end();
    OK(cudaGraphGetNodes(other, NULL, &n));
    assert_int_equal(n, 1);
    assert_int_equal(cudaStreamQuery(stream[1]), cudaErrorNotReady);
    assert_int_equal(thrum_queue_signal(opener, semaphore, 1), THRUM_OK);
    OK(cudaStreamSynchronize(stream[1]));
    assert_string_equal(word, "abab");
    OK(cudaStreamSynchronize(stream[0]));
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphDestroy(other));
    thrum_queue_destroy(opener);
    thrum_semaphore_destroy(semaphore);
}

/* Nothing of a launch is done that cannot be done as a whole. */
static void whole_or_nothing(void **state)
{
    struct ranks ranks = {0};
    cudaGraphExec_t executable;
    cudaGraph_t graph;

    (void)state;
    ranks_open(&ranks, 2);
    OK(cudaSetDevice(0));
    begin();
    OK(cudaMemsetAsync(device, 3, 4, stream[0]));
    fork_to(1);
    NCCL_OK(ncclAllReduce(ranks.send[0], ranks.recv[0], 1, ncclInt, ncclSum, ranks.comms[0],
                          stream[1]));
    join_from(1);
    graph = end();
    executable = executable_of(graph);
    NCCL_OK(ncclCommAbort(ranks.comms[0]));
    NCCL_OK(ncclCommAbort(ranks.comms[1]));
    assert_int_not_equal(cudaGraphLaunch(executable, stream[0]), cudaSuccess);
    (void)cudaGetLastError();
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(byte_at(device), 0);
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
    ranks_close_memory(&ranks);
    OK(cudaSetDevice(0));
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static uint64_t attribute(enum cudaGraphMemAttributeType which)
{
    uint64_t value = 77;

    OK(cudaDeviceGetGraphMemAttribute(0, which, &value));
    return value;
}

static uint64_t used(void)
{
    return attribute(cudaGraphMemAttrUsedMemCurrent);
}

static uint64_t reserved(void)
{
    return attribute(cudaGraphMemAttrReservedMemCurrent);
}

/* Memory that is allocated, written with the byte, and freed or not; device[0] has the byte then. */
static cudaGraph_t capture_memory(char **memory, int byte, bool freed)
{
    begin();
    OK(cudaMallocAsync((void **)memory, 64, stream[0]));
    OK(cudaMemsetAsync(*memory, byte, 64, stream[0]));
    OK(cudaMemcpyAsync(device, *memory, 1, cudaMemcpyDeviceToDevice, stream[0]));
    if (freed)
        OK(cudaFreeAsync(*memory, stream[0]));
    return end();
}

static void freed_by_each_launch(void **state)
{
    cudaGraphExec_t executable, second;
    cudaGraph_t graph, clone;
    uint64_t zero = 0;
    char *memory;

    (void)state;
    graph = capture_memory(&memory, 2, true);
    executable = executable_of(graph);
    assert_int_equal(reserved(), 64);
    for (int i = 0; i < 3; i++) {
        OK(cudaGraphLaunch(executable, stream[i]));
        assert_int_equal(used(), 0);
    }
    OK(cudaDeviceSynchronize());
    assert_int_equal(byte_at(device), 2);
    CUDA_FAILS(cudaFree(memory), cudaErrorInvalidValue, "no launch has allocated");
    CUDA_FAILS(cudaFreeAsync(memory, stream[0]), cudaErrorInvalidValue, "no launch has allocated");
    CUDA_FAILS(cudaGraphInstantiate(&second, graph, 0), cudaErrorNotSupported, "at a time");
    CUDA_FAILS(cudaGraphClone(&clone, graph), cudaErrorNotSupported, "not cloned");
    begin();
    CUDA_FAILS(cudaGraphLaunch(executable, stream[0]), cudaErrorNotSupported, "part of another");
    assert_int_equal(cudaStreamEndCapture(stream[0], &clone), cudaErrorStreamCaptureInvalidated);
    OK(cudaGraphExecDestroy(executable));
    executable = executable_of(graph);
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaGraphExecDestroy(executable));
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(reserved(), 0);
    assert_int_equal(attribute(cudaGraphMemAttrUsedMemHigh), 64);
    assert_int_equal(attribute(cudaGraphMemAttrReservedMemHigh), 64);
    OK(cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrUsedMemHigh, &zero));
    OK(cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrReservedMemHigh, &zero));
    assert_int_equal(attribute(cudaGraphMemAttrUsedMemHigh), 0);
    CUDA_FAILS(cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrUsedMemCurrent, &zero),
               cudaErrorInvalidValue, "watermarks");
    OK(cudaDeviceGraphMemTrim(0));
}

/* What a launch leaves allocated: not launched again before it is freed, and then at the same place, which is nobody's else. */
static void freed_outside(void **state)
{
    cudaGraphExec_t executable;
    char *memory, *others[8];
    cudaGraph_t graph;

    (void)state;
    graph = capture_memory(&memory, 3, false);
    executable = executable_of(graph);
    for (int i = 0; i < 4; i++) {
        OK(cudaMemset(device, 0, 1));
        OK(cudaGraphLaunch(executable, stream[0]));
        assert_int_equal(used(), 64);
        CUDA_FAILS(cudaGraphLaunch(executable, stream[0]), cudaErrorInvalidValue,
                   "AutoFreeOnLaunch");
        OK(cudaStreamSynchronize(stream[0]));
        assert_int_equal(byte_at(memory + 63), 3);
        assert_int_equal(byte_at(device), 3);
        if (i % 2)
            OK(cudaFree(memory));
        else
            OK(cudaFreeAsync(memory, stream[1]));
        assert_int_equal(used(), 0);
        CUDA_FAILS(cudaFree(memory), cudaErrorInvalidValue, "no launch has allocated");
    }
    for (int i = 0; i < 8; i++) {
        OK(cudaMalloc((void **)&others[i], 64));
        OK(cudaMemset(others[i], 9, 64));
    }
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaStreamSynchronize(stream[0]));
    for (int i = 0; i < 8; i++) {
        assert_int_equal(byte_at(others[i]), 9);
        OK(cudaFree(others[i]));
    }
    /* it outlives its graph, until it is freed */
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
    assert_int_equal(used(), 64);
    assert_int_equal(byte_at(memory), 3);
    OK(cudaFreeAsync(memory, stream[2]));
    OK(cudaStreamSynchronize(stream[2]));
    assert_int_equal(reserved(), 0);
    CUDA_FAILS(cudaFree(memory), cudaErrorInvalidValue, "not the start of a live allocation");
}

/* The next launch writes only when the stream in which its memory was freed has come so far. */
static void behind_who_frees(void **state)
{
    cudaGraphExec_t executable;
    cudaGraph_t graph;
    char *memory;

    (void)state;
    graph = capture_memory(&memory, 3, false);
    executable = executable_of(graph);
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaStreamSynchronize(stream[0]));
    atomic_store(&gate, 0);
    OK(cudaLaunchHostFunc(stream[1], pass_gate, NULL));
    OK(cudaMemsetAsync(memory, 8, 64, stream[1]));
    OK(cudaMemcpyAsync(device + 1, memory, 1, cudaMemcpyDeviceToDevice, stream[1]));
    OK(cudaFreeAsync(memory, stream[1]));
    OK(cudaGraphLaunch(executable, stream[0]));
    assert_int_equal(cudaStreamQuery(stream[0]), cudaErrorNotReady);
    atomic_store(&gate, 1);
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(byte_at(device + 1), 8);
    assert_int_equal(byte_at(device), 3);
    OK(cudaFree(memory));
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
}

static void freed_by_launches(void **state)
{
    cudaGraphExec_t maker, freer;
    cudaGraph_t graph, other;
    char *memory, *plain;

    (void)state;
    graph = capture_memory(&memory, 4, false); /* by the next one */
    OK(cudaGraphInstantiate(&maker, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch));
    for (int i = 0; i < 3; i++) {
        OK(cudaGraphLaunch(maker, stream[i]));
        assert_int_equal(used(), 64);
    }
    OK(cudaDeviceSynchronize());
    /* by that of another graph */
    OK(cudaMalloc((void **)&plain, 64));
    begin();
    OK(cudaMemcpyAsync(device + 5, memory, 1, cudaMemcpyDeviceToDevice, stream[0]));
    OK(cudaFreeAsync(memory, stream[0]));
    CUDA_FAILS(cudaFreeAsync(memory, stream[0]), cudaErrorInvalidValue, "freed it already");
    CUDA_FAILS(cudaFreeAsync(plain, stream[0]), cudaErrorInvalidValue, "not memory of a graph");
    other = end();
    OK(cudaFree(plain));
    freer = executable_of(other);
    OK(cudaGraphLaunch(freer, stream[0]));
    assert_int_equal(used(), 0);
    CUDA_FAILS(cudaGraphLaunch(freer, stream[0]), cudaErrorInvalidValue, "the graph frees");
    OK(cudaGraphLaunch(maker, stream[0]));
    OK(cudaGraphExecDestroy(maker));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(freer, stream[0])); /* of a graph that is gone */
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(byte_at(device + 5), 4);
    CUDA_FAILS(cudaGraphLaunch(freer, stream[0]), cudaErrorInvalidValue, "the graph frees");
    OK(cudaGraphExecDestroy(freer));
    OK(cudaGraphDestroy(other));
    assert_int_equal(reserved(), 0);
}

/* A capture that comes to nothing gives back what it allocated, at once and without waiting for anybody. */
static void spoiled(void **state)
{
    cudaGraph_t graph;
    char *memory;

    (void)state;
    atomic_store(&gate, 0);
    OK(cudaLaunchHostFunc(stream[1], pass_gate, NULL));
    begin();
    OK(cudaMallocAsync((void **)&memory, 64, stream[0]));
    OK(cudaMallocAsync((void **)&memory, 64, stream[0]));
    OK(cudaFreeAsync(memory, stream[0]));
    assert_int_equal(cudaStreamQuery(stream[0]), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream[0], &graph), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(reserved(), 0);
    assert_int_equal(cudaStreamQuery(stream[1]), cudaErrorNotReady);
    (void)cudaGetLastError();
    atomic_store(&gate, 1);
    OK(cudaStreamSynchronize(stream[1]));
}

/* A graph that frees goes without waiting for the other rank, which is this same thread. */
static void end_before_the_peer(void **state)
{
    struct ranks ranks = {0};
    cudaGraphExec_t executable;
    cudaGraph_t graph;
    char *memory;

    (void)state;
    ranks_open(&ranks, 2);
    OK(cudaSetDevice(0));
    graph = capture_memory(&memory, 6, true);
    executable = executable_of(graph);
    ranks_fill(&ranks, 1);
    NCCL_OK(ncclAllReduce(ranks.send[0], ranks.recv[0], 1, ncclInt, ncclSum, ranks.comms[0],
                          stream[0]));
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
    NCCL_OK(ncclAllReduce(ranks.send[1], ranks.recv[1], 1, ncclInt, ncclSum, ranks.comms[1],
                          ranks.streams[1]));
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(byte_at(device), 6);
    OK(cudaStreamSynchronize(ranks.streams[1]));
    ranks_close(&ranks);
    OK(cudaSetDevice(0));
    assert_int_equal(reserved(), 0);
}

/* ---- ranks --------------------------------------------------------------------------------------------------------- */

#define LONG 600

/* One thread launches for one rank after the other, far more than a communicator takes as a rule. */
static void long_graphs(void **state)
{
    cudaGraphExec_t executable[2];
    struct ranks ranks = {0};
    cudaGraph_t graph;

    (void)state;
    ranks_open(&ranks, 2);
    ranks_fill(&ranks, LONG);
    for (int r = 0; r < 2; r++) {
        OK(cudaSetDevice(r));
        OK(cudaStreamBeginCapture(ranks.streams[r], cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < LONG; i++)
            NCCL_OK(ncclAllReduce((int *)ranks.send[r] + i, (int *)ranks.recv[r] + i, 1, ncclInt,
                                  ncclSum, ranks.comms[r], ranks.streams[r]));
        OK(cudaStreamEndCapture(ranks.streams[r], &graph));
        executable[r] = executable_of(graph);
        OK(cudaGraphDestroy(graph));
    }
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < 3; i++)
            OK(cudaGraphLaunch(executable[r], ranks.streams[r]));
    ranks_synchronize(&ranks);
    for (int r = 0; r < 2; r++) {
        for (int i = 0; i < LONG; i += 50)
            assert_int_equal(rank_result(&ranks, r, (size_t)i), 1000 + 2 * i);
        OK(cudaGraphExecDestroy(executable[r]));
    }
    ranks_close(&ranks);
    OK(cudaSetDevice(0));
}

/* A capture that ends before the group that has a call for it: both say so. */
static void end_inside_a_group(void **state)
{
    struct ranks ranks = {0};
    cudaGraph_t graph;

    (void)state;
    ranks_open(&ranks, 2);
    OK(cudaSetDevice(0));
    begin();
    NCCL_OK(ncclGroupStart());
    NCCL_OK(ncclAllReduce(ranks.send[0], ranks.recv[0], 1, ncclInt, ncclSum, ranks.comms[0],
                          stream[0]));
    CUDA_FAILS(cudaStreamEndCapture(stream[0], &graph), cudaErrorStreamCaptureInvalidated,
               "inside a group");
    NCCL_FAILS(ncclGroupEnd(), ncclInvalidUsage, "ended inside a group");
    OK(cudaStreamSynchronize(stream[0]));
    ranks_check(&ranks);
    ranks_close(&ranks);
    OK(cudaSetDevice(0));
}

/* ---- captures and others ------------------------------------------------------------------------------------------- */

struct driver {
    pthread_t thread;
    int i;
    cudaError_t error;
};

static void *drive(void *argument)
{
    struct driver *d = argument;

    for (int n = 0; n < 300 && !d->error; n++) {
        d->error = cudaMemsetAsync(device + 64 * d->i, n % 100, 64, stream[d->i]);
        if (!d->error)
            d->error = cudaLaunchHostFunc(stream[d->i], count, NULL);
    }
    return NULL;
}

/* A thread for each stream of one capture. */
static void driven_by_threads(void **state)
{
    struct driver drivers[STREAMS] = {{0}};
    cudaGraphExec_t executable;
    cudaGraph_t graph;
    size_t n = 0;

    (void)state;
    OK(cudaStreamBeginCapture(stream[0], cudaStreamCaptureModeRelaxed));
    for (int i = 1; i < STREAMS; i++)
        fork_to(i);
    for (int i = 0; i < STREAMS; i++) {
        drivers[i].i = i;
        assert_int_equal(pthread_create(&drivers[i].thread, NULL, drive, &drivers[i]), 0);
    }
    for (int i = 0; i < STREAMS; i++) {
        pthread_join(drivers[i].thread, NULL);
        OK(drivers[i].error);
    }
    for (int i = 1; i < STREAMS; i++)
        join_from(i);
    graph = end();
    OK(cudaGraphGetNodes(graph, NULL, &n));
    assert_int_equal(n, STREAMS * 600);
    executable = executable_of(graph);
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaStreamSynchronize(stream[0]));
    assert_int_equal(atomic_load(&calls), STREAMS * 300);
    for (int i = 0; i < STREAMS; i++)
        assert_int_equal(byte_at(device + 64 * i), 99);
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
}

static _Atomic int waiting;

static void *free_elsewhere(void *memory)
{
    atomic_store(&waiting, 1);
    return (void *)(uintptr_t)cudaFree(memory);
}

static void *synchronize_elsewhere(void *unused)
{
    (void)unused;
    atomic_store(&waiting, 1);
    return (void *)(uintptr_t)cudaDeviceSynchronize();
}

/* A thread that waits for the device waits for what was given to its streams, not for what one records meanwhile. */
static void captured_while_waited_for(void **state)
{
    void *(*const calls_elsewhere[])(void *) = {free_elsewhere, synchronize_elsewhere};
    pthread_t thread;
    void *memory, *result;
    cudaGraph_t graph;

    (void)state;
    OK(cudaMalloc(&memory, 64));
    for (int i = 0; i < 2; i++) {
        atomic_store(&gate, 0);
        atomic_store(&waiting, 0);
        OK(cudaLaunchHostFunc(stream[STREAMS - 1], pass_gate, NULL)); /* it is looked at first */
        assert_int_equal(pthread_create(&thread, NULL, calls_elsewhere[i], memory), 0);
        while (!atomic_load(&waiting))
            sched_yield();
        for (int k = 0; k < 2000; k++) /* it has listed the streams by then */
            sched_yield();
        begin();
        OK(cudaMemsetAsync(device, 1, 4, stream[0]));
        atomic_store(&gate, 1);
        pthread_join(thread, &result);
        OK((cudaError_t)(uintptr_t)result);
        graph = end();
        OK(cudaGraphDestroy(graph));
        OK(cudaStreamSynchronize(stream[0])); /* and no error is left there */
    }
}

/* A stream that cannot join spoils the capture; otherwise any number may. */
static void joins(void **state)
{
    thrum_queue_t queue = (thrum_queue_t)(void *)stream[1];
    cudaStream_t many[80];
    cudaGraphExec_t executable;
    thrum_graph_t own;
    cudaGraph_t graph;

    (void)state;
    assert_int_equal(thrum_queue_capture_begin(queue), THRUM_OK);
    begin();
    OK(cudaEventRecord(fork_event, stream[0]));
    assert_int_not_equal(cudaStreamWaitEvent(stream[1], fork_event, 0), cudaSuccess);
    CUDA_FAILS(cudaStreamEndCapture(stream[0], &graph), cudaErrorStreamCaptureInvalidated,
               "spoiled");
    assert_int_equal(thrum_queue_capture_end(queue, &own), THRUM_ERR_INVALID_USAGE);

    begin();
    OK(cudaEventRecord(fork_event, stream[0]));
    for (int i = 0; i < 80; i++) {
        OK(cudaStreamCreateWithFlags(&many[i], cudaStreamNonBlocking));
        OK(cudaStreamWaitEvent(many[i], fork_event, 0));
        OK(cudaMemsetAsync(device + i, i, 1, many[i]));
        OK(cudaEventRecord(join_event, many[i]));
        OK(cudaStreamWaitEvent(stream[0], join_event, 0));
    }
    graph = end();
    executable = executable_of(graph);
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaStreamSynchronize(stream[0]));
    for (int i = 0; i < 80; i++) {
        assert_int_equal(byte_at(device + i), i);
        OK(cudaStreamDestroy(many[i]));
    }
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
}

/* Each launch waits for the newest record at that time: of an event that had none, or one in another capture. */
static void external_waits(void **state)
{
    cudaGraphExec_t executable;
    cudaGraph_t graph, other;
    size_t n = 0;

    (void)state;
    CUDA_FAILS(cudaStreamWaitEvent(stream[0], fork_event, cudaEventWaitExternal),
               cudaErrorInvalidValue, "not captured");
    CUDA_FAILS(cudaEventRecordWithFlags(fork_event, stream[0], cudaEventRecordExternal),
               cudaErrorInvalidValue, "not captured");
    begin();
    OK(cudaEventRecord(join_event, stream[0]));
    other = end();
    begin();
    OK(cudaStreamWaitEvent(stream[0], fork_event, cudaEventWaitExternal));
    OK(cudaStreamWaitEvent(stream[0], join_event, cudaEventWaitExternal));
    OK(cudaMemsetAsync(device, 5, 4, stream[0]));
    graph = end();
    OK(cudaGraphGetNodes(graph, NULL, &n));
    assert_int_equal(n, 3);
    executable = executable_of(graph);
    OK(cudaGraphLaunch(executable, stream[0]));
    OK(cudaStreamSynchronize(stream[0])); /* there is none */
    for (int i = 0; i < 2; i++) {
        OK(cudaMemset(device, 0, 4));
        atomic_store(&gate, 0);
        OK(cudaLaunchHostFunc(stream[1], pass_gate, NULL));
        OK(cudaEventRecord(i ? join_event : fork_event, stream[1]));
        OK(cudaGraphLaunch(executable, stream[0]));
        assert_int_equal(cudaStreamQuery(stream[0]), cudaErrorNotReady);
        assert_int_equal(byte_at(device), 0);
        atomic_store(&gate, 1);
        OK(cudaStreamSynchronize(stream[0]));
        assert_int_equal(byte_at(device), 5);
    }
    OK(cudaGraphExecDestroy(executable));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphDestroy(other));
}

#define on_streams(test) cmocka_unit_test_setup_teardown(test, open_streams, close_streams)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_streams(host_functions),
        on_streams(lanes_at_once),
        on_streams(order_of_launches),
        on_streams(whole_or_nothing),
        on_streams(freed_by_each_launch),
        on_streams(freed_outside),
        on_streams(behind_who_frees),
        on_streams(freed_by_launches),
        on_streams(spoiled),
        on_streams(end_before_the_peer),
        on_streams(long_graphs),
        on_streams(end_inside_a_group),
        on_streams(driven_by_threads),
        on_streams(captured_while_waited_for),
        on_streams(joins),
        on_streams(external_waits),
    };

    return cmocka_run_group_tests_name("graphs", tests, NULL, reset_devices);
}
