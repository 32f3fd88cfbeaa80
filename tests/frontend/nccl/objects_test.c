/* Objects of the program's that graphs keep: who holds a reference, and when the destructor is called. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "ranks.h"

#define OK(call) CUDA_OK(call)

static cudaStream_t stream;
static char *device;
static _Atomic int ended;
static pthread_mutex_t program = PTHREAD_MUTEX_INITIALIZER;

/* As programs have it: the destructor wants a lock of theirs. */
static void destroy(void *argument)
{
    pthread_mutex_lock(&program);
    atomic_fetch_add(&ended, *(int *)argument);
    pthread_mutex_unlock(&program);
}

static void await_ended(int wanted)
{
    struct timespec begun, now;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    do {
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (atomic_load(&ended) < wanted && now.tv_sec - begun.tv_sec < 20);
    assert_int_equal(atomic_load(&ended), wanted);
}

static int open_stream(void **state)
{
    (void)state;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMalloc((void **)&device, 64));
    atomic_store(&ended, 0);
    return 0;
}

static int close_stream(void **state)
{
    (void)state;
    OK(cudaStreamDestroy(stream));
    OK(cudaFree(device));
    return 0;
}

static cudaUserObject_t new_object(unsigned count)
{
    static int one = 1;
    cudaUserObject_t object;

    OK(cudaUserObjectCreate(&object, &one, destroy, count, cudaUserObjectNoDestructorSync));
    return object;
}

/* A graph of a fill, and a collective if there is a communicator, which keeps an object that nobody else has. */
static cudaGraph_t capture(cudaUserObject_t *object_out, ncclComm_t comm, void *data)
{
    enum cudaStreamCaptureStatus status;
    cudaGraph_t seen, graph;

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaMemsetAsync(device, 1, 64, stream));
    OK(cudaStreamGetCaptureInfo(stream, &status, NULL, &seen, NULL, NULL));
    *object_out = new_object(1);
    OK(cudaGraphRetainUserObject(seen, *object_out, 1, cudaGraphUserObjectMove));
    if (comm)
        NCCL_OK(ncclAllReduce(data, data, 4, ncclFloat, ncclSum, comm, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    assert_ptr_equal(graph, seen);
    return graph;
}

/* ---- cases ---- */

static void counted(void **state)
{
    cudaUserObject_t object = new_object(2);

    (void)state;
    OK(cudaUserObjectRetain(object, 3));
    OK(cudaUserObjectRelease(object, 4));
    CUDA_FAILS(cudaUserObjectRelease(object, 2), cudaErrorInvalidValue, "has 1 references");
    assert_int_equal(atomic_load(&ended), 0);
    pthread_mutex_lock(&program); /* the destructor is another thread's to call */
    OK(cudaUserObjectRelease(object, 1));
    pthread_mutex_unlock(&program);
    await_ended(1);
    CUDA_FAILS(cudaUserObjectRelease(object, 1), cudaErrorInvalidValue, "not a live user object");
}

static void refused(void **state)
{
    cudaUserObject_t object = new_object(1), other;
    cudaGraph_t graph = capture(&other, NULL, NULL);

    (void)state;
    CUDA_FAILS(cudaUserObjectCreate(NULL, NULL, destroy, 1, 1), cudaErrorInvalidValue, "object=");
    CUDA_FAILS(cudaUserObjectCreate(&other, NULL, NULL, 1, 1), cudaErrorInvalidValue, "destroy=");
    CUDA_FAILS(cudaUserObjectCreate(&other, NULL, destroy, 0, 1), cudaErrorInvalidValue, "count=0");
    CUDA_FAILS(cudaUserObjectCreate(&other, NULL, destroy, 1, 0), cudaErrorInvalidValue,
               "NoDestructorSync");
    CUDA_FAILS(cudaUserObjectRetain(object, 0), cudaErrorInvalidValue, "count=0");
    CUDA_FAILS(cudaUserObjectRetain(object, 0x7fffffff), cudaErrorInvalidValue, "references");
    CUDA_FAILS(cudaGraphRetainUserObject(NULL, object, 1, 0), cudaErrorInvalidValue,
               "not a live graph");
    CUDA_FAILS(cudaGraphRetainUserObject(graph, object, 1, 2), cudaErrorInvalidValue, "flags=0x2");
    CUDA_FAILS(cudaGraphRetainUserObject(graph, object, 2, cudaGraphUserObjectMove),
               cudaErrorInvalidValue, "the program has 1 references");
    CUDA_FAILS(cudaGraphReleaseUserObject(graph, object, 1), cudaErrorInvalidValue,
               "the graph has 0 references");
    OK(cudaGraphDestroy(graph));
    OK(cudaUserObjectRelease(object, 1));
    await_ended(2);
}

/* A graph, its clone and its executable form: the last one ends it. */
static void shared(void **state)
{
    cudaUserObject_t object;
    cudaGraph_t graph = capture(&object, NULL, NULL), clone;
    cudaGraphExec_t executable;

    (void)state;
    OK(cudaGraphRetainUserObject(graph, new_object(1), 1, cudaGraphUserObjectMove));
    OK(cudaGraphClone(&clone, graph));
    OK(cudaGraphInstantiate(&executable, graph, 0));
    OK(cudaGraphReleaseUserObject(graph, object, 1)); /* the others have it still */
    CUDA_FAILS(cudaGraphReleaseUserObject(graph, object, 1), cudaErrorInvalidValue,
               "the graph has 0 references");
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphDestroy(clone));
    OK(cudaGraphLaunch(executable, stream));
    OK(cudaStreamSynchronize(stream));
    assert_int_equal(atomic_load(&ended), 0);
    OK(cudaGraphExecDestroy(executable));
    await_ended(2);
}

static void taken_back(void **state)
{
    cudaUserObject_t object;
    cudaGraph_t graph = capture(&object, NULL, NULL);

    (void)state;
    OK(cudaGraphRetainUserObject(graph, new_object(1), 1, cudaGraphUserObjectMove));
    OK(cudaGraphReleaseUserObject(graph, object, 1));
    await_ended(1);
    OK(cudaGraphDestroy(graph));
    await_ended(2);
}

static void nothing(void *unused)
{
    (void)unused;
}

/* What is launched may use the object: here it waits for rank 1. */
static void in_flight(void **state)
{
    struct ranks r;
    cudaGraphExec_t executable, outer;
    cudaUserObject_t object;
    cudaGraph_t graph, parent;

    (void)state;
    ranks_open(&r, 2);
    OK(cudaSetDevice(0));
    for (int nested = 0; nested < 2; nested++) {
        graph = capture(&object, r.comms[0], r.send[0]);
        OK(cudaGraphInstantiate(&executable, graph, 0));
        OK(cudaGraphDestroy(graph));
        if (nested) {
            OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
            OK(cudaGraphLaunch(executable, stream));
            OK(cudaStreamEndCapture(stream, &parent));
            OK(cudaGraphExecDestroy(executable));
            OK(cudaGraphInstantiate(&outer, parent, 0));
            OK(cudaGraphDestroy(parent));
            executable = outer;
        }
        OK(cudaGraphLaunch(executable, stream));
        OK(cudaGraphExecDestroy(executable)); /* at once */
        OK(cudaLaunchHostFunc(r.streams[1], nothing, NULL)); /* behind what the thread has to do */
        OK(cudaStreamSynchronize(r.streams[1]));
        assert_int_equal(atomic_load(&ended), nested);
        NCCL_OK(
            ncclAllReduce(r.send[1], r.recv[1], 4, ncclFloat, ncclSum, r.comms[1], r.streams[1]));
        await_ended(nested + 1);
        OK(cudaStreamSynchronize(stream));
    }
    ranks_close(&r);
}

/* A capture that is spoiled lets go of what it was given. */
static void spoiled(void **state)
{
    enum cudaStreamCaptureStatus status;
    cudaGraph_t graph;

    (void)state;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaStreamGetCaptureInfo(stream, &status, NULL, &graph, NULL, NULL));
    OK(cudaGraphRetainUserObject(graph, new_object(1), 1, cudaGraphUserObjectMove));
    (void)cudaStreamSynchronize(stream);
    (void)cudaGetLastError();
    assert_int_equal(atomic_load(&ended), 0);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    (void)cudaGetLastError();
    await_ended(1);
}

#define on_stream(test) cmocka_unit_test_setup_teardown(test, open_stream, close_stream)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_stream(counted),    on_stream(refused),   on_stream(shared),
        on_stream(taken_back), on_stream(in_flight), on_stream(spoiled),
    };

    setenv("THRUM_DEADLINE_MS", "5000", 1); /* a case that fails leaves a rank waiting */
    return cmocka_run_group_tests_name("objects", tests, NULL, reset_devices);
}
