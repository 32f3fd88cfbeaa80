/*
 * Functions of the host in streams. Whoever waits for a queue executes its commands, so a host function that blocks would
 * block that thread: functions run on a thread of their own, one after the other, and the queue's command only asks
 * whether its function has returned. Each launch of a graph calls its functions anew. Destructors of objects that graphs
 * kept are called by the same thread.
 */
#include "cudart.h"

#include <stdlib.h>

#include <thrum/plugin.h>

struct host_function {
    cudaHostFn_t function;
    void *argument;
    struct {
        cudaStreamCallback_t function; /* NULL: not by cudaStreamAddCallback */
        cudaStream_t stream;
    } callback;
};

/* One call of it. */
struct host_call {
    struct host_call *next, *previous; /* of all; under the lock */
    struct host_call *next_due; /* of the worker; under the lock */
    const struct cudart_stream *stream; /* NULL: a queue of the caller's */
    struct host_function what;
    bool abandoned; /* the stream is gone: the worker frees it; under the lock */
    _Atomic enum { CALL_NEW, CALL_DUE, CALL_DONE } state;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t due;
    bool started;
    struct host_call *calls; /* whose commands have not ended */
    struct host_call *first, *last; /* due */
} worker = {.lock = PTHREAD_MUTEX_INITIALIZER, .due = PTHREAD_COND_INITIALIZER};

/* Under the lock. */
static void link_call(struct host_call *call)
{
    call->previous = NULL;
    call->next = worker.calls;
    if (call->next)
        call->next->previous = call;
    worker.calls = call;
}

static void unlink_call(struct host_call *call)
{
    if (call->next)
        call->next->previous = call->previous;
    if (call->previous)
        call->previous->next = call->next;
    else
        worker.calls = call->next;
}

static void *work(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&worker.lock);
    for (;;) {
        struct host_call *call = worker.first;
        const struct host_function *what;

        if (!call) {
            pthread_cond_wait(&worker.due, &worker.lock);
            continue;
        }
        worker.first = call->next_due;
        pthread_mutex_unlock(&worker.lock);
        what = &call->what;
        if (what->callback.function)
            what->callback.function(what->callback.stream, cudaSuccess, what->argument);
        else
            what->function(what->argument);
        pthread_mutex_lock(&worker.lock);
        if (call->abandoned)
            free(call);
        else
            atomic_store_explicit(&call->state, CALL_DONE, memory_order_release);
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

/* The worker's next, behind the others. */
static void make_due(struct host_call *call)
{
    pthread_mutex_lock(&worker.lock);
    call->next_due = NULL;
    if (worker.first)
        worker.last->next_due = call;
    else
        worker.first = call;
    worker.last = call;
    pthread_cond_signal(&worker.due);
    pthread_mutex_unlock(&worker.lock);
}

static thrum_status_t ask(void *argument)
{
    struct host_call *call = argument;

    switch (atomic_load_explicit(&call->state, memory_order_acquire)) {
    case CALL_NEW:
        atomic_store(&call->state, CALL_DUE);
        make_due(call);
        return THRUM_IN_PROGRESS;
    case CALL_DUE:
        return THRUM_IN_PROGRESS;
    default: /* nobody asks again */
        pthread_mutex_lock(&worker.lock);
        unlink_call(call);
        pthread_mutex_unlock(&worker.lock);
        free(call);
        return THRUM_OK;
    }
}

/* Those whose commands were cancelled. */
void cudart_host_calls_free(const struct cudart_stream *stream)
{
    struct host_call *next;

    pthread_mutex_lock(&worker.lock);
    for (struct host_call *call = worker.calls; call; call = next) {
        next = call->next;
        if (call->stream != stream)
            continue;
        unlink_call(call);
        call->abandoned = atomic_load(&call->state) == CALL_DUE;
        if (!call->abandoned)
            free(call);
    }
    pthread_mutex_unlock(&worker.lock);
}

static thrum_status_t submit(const struct cudart_stream *stream, thrum_queue_t queue,
                             const struct host_function *what)
{
    struct host_call *call = calloc(1, sizeof *call);
    thrum_status_t status;

    if (!call)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for a host function");
    call->what = *what;
    call->stream = stream;
    pthread_mutex_lock(&worker.lock);
    link_call(call);
    pthread_mutex_unlock(&worker.lock);
    status = thrum_queue_callback(queue, ask, call);
    if (status) {
        pthread_mutex_lock(&worker.lock);
        unlink_call(call);
        pthread_mutex_unlock(&worker.lock);
        free(call);
    }
    return status;
}

bool cudart_host_call(cudaHostFn_t function, void *argument)
{
    struct host_call *call = start_worker() ? NULL : calloc(1, sizeof *call);

    if (!call)
        return false;
    call->what = (struct host_function){.function = function, .argument = argument};
    call->abandoned = true; /* no queue asks for it */
    make_due(call);
    return true;
}

/* ---- in graphs: each launch makes a call of its own ---- */

static thrum_status_t replay(void *argument, thrum_queue_t queue);

static const struct thrum_graph_call captured = {
    .size = sizeof(struct thrum_graph_call),
    .replay = replay,
    .release = free,
};

/* In a graph in a graph, which keeps the inner one. */
static const struct thrum_graph_call captured_again = {
    .size = sizeof(struct thrum_graph_call),
    .replay = replay,
};

static thrum_status_t replay(void *argument, thrum_queue_t queue)
{
    const struct cudart_stream *stream = cudart_stream_of(queue);

    if (stream && stream->capture)
        return thrum_queue_capture_call(queue, &captured_again, argument);
    return submit(stream, queue, argument);
}

static thrum_status_t capture(thrum_queue_t queue, const struct host_function *what)
{
    struct host_function *copy = malloc(sizeof *copy);
    thrum_status_t status;

    if (!copy)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for a host function");
    *copy = *what;
    status = thrum_queue_capture_call(queue, &captured, copy);
    if (status)
        free(copy);
    return status;
}

static cudaError_t launch(cudaStream_t handle, struct host_function what)
{
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    if (!error && !stream->device)
        error = cudart_fail(cudaErrorInvalidResourceHandle,
                            "stream=%p is a queue of thrum_queue_create: use thrum_queue_callback",
                            (void *)handle);
    if (!error && what.callback.function && stream->capture)
        error = cudart_capture_spoil(stream, cudaErrorStreamCaptureUnsupported,
                                     "cudaStreamAddCallback: stream=%p is captured, which takes "
                                     "cudaLaunchHostFunc",
                                     (void *)handle);
    if (!error)
        error = start_worker();
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeHost);
    if (error)
        return error;
    what.callback.stream = handle;
    return cudart_of_status(stream->capture ? capture(stream->queue, &what)
                                            : submit(stream, stream->queue, &what));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    if (!function)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "function=NULL"));
    return cudart_result(
        launch(stream, (struct host_function){.function = function, .argument = argument}));
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function,
                                  void *argument, unsigned flags)
{
    if (!function || flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "%s",
                                         function ? "flags is not 0" : "function=NULL"));
    return cudart_result(launch(
        stream, (struct host_function){.callback = {.function = function}, .argument = argument}));
}
