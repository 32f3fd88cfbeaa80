/*
 * Functions of the host in streams. Whoever waits for a queue executes its commands, so a host function that blocks would
 * block that thread: functions run on a thread of their own, one after the other, and the queue's command only asks
 * whether its function has returned.
 */
#include "cudart.h"

#include <stdlib.h>

#include <thrum/plugin.h>

struct host_call {
    struct host_call *next; /* of the stream; under the device's lock */
    struct host_call *next_due; /* of the worker; under its lock */
    cudaHostFn_t function;
    void *argument;
    struct {
        cudaStreamCallback_t function; /* NULL: not by cudaStreamAddCallback */
        cudaStream_t stream;
    } callback;
    bool captured; /* may come again */
    _Atomic enum {
        CALL_NEW,
        CALL_DUE,
        CALL_DONE,
        CALL_SEEN
    } state; /* SEEN: nobody looks any more */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t due;
    bool started;
    struct host_call *first, *last;
    struct host_call *kept; /* what may still be called, by graphs; nobody says when it is not */
} worker = {.lock = PTHREAD_MUTEX_INITIALIZER, .due = PTHREAD_COND_INITIALIZER};

static void *work(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&worker.lock);
    for (;;) {
        struct host_call *call = worker.first;

        if (!call) {
            pthread_cond_wait(&worker.due, &worker.lock);
            continue;
        }
        worker.first = call->next_due;
        pthread_mutex_unlock(&worker.lock);
        if (call->callback.function)
            call->callback.function(call->callback.stream, cudaSuccess, call->argument);
        else
            call->function(call->argument);
        atomic_store_explicit(&call->state, CALL_DONE, memory_order_release);
        pthread_mutex_lock(&worker.lock);
    }
    return NULL;
}

static cudaError_t start_worker(void)
{
    pthread_attr_t detached;
    pthread_t thread;
    int failed = 0;

    pthread_mutex_lock(&worker.lock);
    if (!worker.started) {
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        failed = pthread_create(&thread, &detached, work, NULL);
        pthread_attr_destroy(&detached);
        worker.started = !failed;
    }
    pthread_mutex_unlock(&worker.lock);
    return failed ? cudart_fail(cudaErrorOperatingSystem, "no thread for host functions")
                  : cudaSuccess;
}

static thrum_status_t ask(void *argument)
{
    struct host_call *call = argument;

    switch (atomic_load_explicit(&call->state, memory_order_acquire)) {
    case CALL_NEW:
        atomic_store(&call->state, CALL_DUE);
        pthread_mutex_lock(&worker.lock);
        call->next_due = NULL;
        if (worker.first)
            worker.last->next_due = call;
        else
            worker.first = call;
        worker.last = call;
        pthread_cond_signal(&worker.due);
        pthread_mutex_unlock(&worker.lock);
        return THRUM_IN_PROGRESS;
    case CALL_DUE:
        return THRUM_IN_PROGRESS;
    default:
        /* A captured one waits for the graph's next launch. */
        atomic_store(&call->state, call->captured ? CALL_NEW : CALL_SEEN);
        return THRUM_OK;
    }
}

/* Under the device's lock. Calls whose command was cancelled go with the stream. */
static void prune(struct cudart_stream *stream)
{
    struct host_call **at = &stream->host_calls, *call;

    while ((call = *at)) {
        if (atomic_load(&call->state) != CALL_SEEN) {
            at = &call->next;
            continue;
        }
        *at = call->next;
        free(call);
    }
}

void cudart_host_calls_free(struct cudart_stream *stream)
{
    struct host_call *next;

    for (struct host_call *call = stream->host_calls; call; call = next) {
        next = call->next;
        /* A graph outlives the stream that captured it, and the worker may still be at a cancelled one. */
        if (call->captured || atomic_load(&call->state) == CALL_DUE) {
            pthread_mutex_lock(&worker.lock);
            call->next = worker.kept;
            worker.kept = call;
            pthread_mutex_unlock(&worker.lock);
        } else {
            free(call);
        }
    }
    stream->host_calls = NULL;
}

static cudaError_t launch(cudaStream_t handle, const struct host_call *what)
{
    struct cudart_stream *stream;
    struct host_call *call;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);
    thrum_status_t status;

    if (!error && !stream->device)
        error = cudart_fail(cudaErrorInvalidResourceHandle,
                            "stream=%p is a queue of thrum_queue_create: use thrum_queue_callback",
                            (void *)handle);
    if (!error)
        error = start_worker();
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeHost);
    if (error)
        return error;
    call = malloc(sizeof *call);
    if (!call)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a host function");
    *call = *what;
    call->callback.stream = handle;
    call->captured = stream->capture != NULL;
    pthread_mutex_lock(&stream->device->lock);
    prune(stream);
    /* ask() may already have been called, but only we free it, under this lock */
    status = thrum_queue_callback(stream->queue, ask, call);
    if (!status) {
        call->next = stream->host_calls;
        stream->host_calls = call;
    }
    pthread_mutex_unlock(&stream->device->lock);
    if (status)
        free(call);
    return cudart_of_status(status);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    if (!function)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "function=NULL"));
    return cudart_result(
        launch(stream, &(struct host_call){.function = function, .argument = argument}));
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function,
                                  void *argument, unsigned flags)
{
    if (!function || flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "%s",
                                         function ? "flags is not 0" : "function=NULL"));
    return cudart_result(launch(
        stream, &(struct host_call){.callback = {.function = function}, .argument = argument}));
}
