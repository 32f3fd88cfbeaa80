/*
 * Streams: queues of Thrum with what CUDA's rules need to be known about them. Work on the default stream begins after
 * earlier work on every blocking stream of its device, and work on a blocking stream after earlier work on the default
 * one. This is kept by counting the uses of both sides and, where the other side was used since, an event.
 */
#include "cudart.h"

#include <stdlib.h>

#include <thrum/plugin.h>

static struct handle_set streams = HANDLE_SET_INITIALIZER;

/* ---- this thread's own default streams (cudaStreamPerThread) ---- */

struct thread_stream {
    struct thread_stream *next;
    struct cudart_stream *stream;
    thrum_queue_t queue; /* tells whether `stream` is still there */
};

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static void drop_thread_streams(void *argument)
{
    struct thread_stream *next;

    for (struct thread_stream *t = argument; t; t = next) {
        next = t->next;
        if (handle_set_find(&streams, t->queue) == t->stream)
            (void)cudaStreamDestroy((cudaStream_t)(void *)t->queue);
        free(t);
    }
}

static void make_thread_key(void)
{
    pthread_key_create(&thread_key, drop_thread_streams);
}

static cudaError_t create(struct cudart_device *device, unsigned flags, int priority,
                          struct cudart_stream **stream_out);

static cudaError_t find_thread_stream(struct cudart_device *device,
                                      struct cudart_stream **stream_out)
{
    struct thread_stream *t;
    cudaError_t error;

    pthread_once(&thread_once, make_thread_key);
    for (t = pthread_getspecific(thread_key); t; t = t->next)
        if (handle_set_find(&streams, t->queue) == t->stream && t->stream->device == device) {
            *stream_out = t->stream;
            return cudaSuccess;
        }
    t = malloc(sizeof *t);
    if (!t)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a stream");
    error = create(device, cudaStreamDefault, 0, &t->stream);
    if (error) {
        free(t);
        return error;
    }
    t->queue = t->stream->queue;
    t->next = pthread_getspecific(thread_key);
    pthread_setspecific(thread_key, t);
    *stream_out = t->stream;
    return cudaSuccess;
}

/* ---- finding ---- */

cudaError_t cudart_stream_find(cudaStream_t handle, int index, struct cudart_stream **stream_out)
{
    static _Thread_local struct cudart_stream foreign;
    struct cudart_stream *stream = handle_set_find(&streams, handle);
    struct cudart_device *device;
    cudaError_t error;

    if (stream) {
        *stream_out = stream;
        return cudaSuccess;
    }
    if (!handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread) {
        error = cudart_device_get(index, &device);
        if (!error && handle == cudaStreamPerThread)
            return find_thread_stream(device, stream_out);
        if (!error)
            *stream_out = &device->main;
        return error;
    }
    if (!thrum_queue_device((thrum_queue_t)(void *)handle))
        return cudart_fail(cudaErrorInvalidResourceHandle, "stream=%p is not a live stream",
                           (void *)handle);
    /* A queue that the program made by Thrum's own interface. */
    foreign = (struct cudart_stream){.queue = (thrum_queue_t)(void *)handle,
                                     .flags = cudaStreamNonBlocking};
    *stream_out = &foreign;
    return cudaSuccess;
}

struct cudart_stream *cudart_stream_of(thrum_queue_t queue)
{
    struct cudart_stream *stream = handle_set_find(&streams, queue);
    struct cudart_device *device;
    int count = 0;

    if (!stream && cudart_device_count(&count))
        return NULL;
    for (int i = 0; i < count && !stream; i++) {
        device = cudart_device_if_open(i);
        if (device && device->main.queue == queue)
            stream = &device->main;
    }
    return stream;
}

/* ---- order between the default stream and the others ---- */

/* Under the device's lock: `later` waits for what is in `earlier`. */
static thrum_status_t put_behind(struct cudart_device *device, struct cudart_stream *later,
                                 struct cudart_stream *earlier)
{
    thrum_status_t status = thrum_event_record_errors(device->order, earlier->queue);

    atomic_store(&later->relays, true);
    if (atomic_load(&earlier->forgiven))
        atomic_store(&later->forgiven, true);
    return status ? status : thrum_event_wait(device->order, later->queue);
}

static thrum_status_t order_main(struct cudart_device *device)
{
    uint64_t used = atomic_load(&device->blocking_used);
    thrum_status_t status = THRUM_OK;

    for (struct cudart_stream *s = device->streams; s && !status; s = s->next) {
        uint64_t now = atomic_load(&s->used);

        if (s->flags & cudaStreamNonBlocking || s->waited_for == now || s->capture)
            continue;
        status = put_behind(device, &device->main, s);
        if (!status)
            s->waited_for = now;
    }
    if (!status)
        atomic_store(&device->main.ordered, used);
    return status;
}

static thrum_status_t order_blocking(struct cudart_device *device, struct cudart_stream *stream)
{
    uint64_t used = atomic_load(&device->main.used);
    thrum_status_t status = put_behind(device, stream, &device->main);

    if (!status)
        atomic_store(&stream->ordered, used);
    return status;
}

cudaError_t cudart_stream_enter(struct cudart_stream *stream, enum cudaGraphNodeType type)
{
    struct cudart_device *device = stream->device;
    bool is_main = device && stream == &device->main;
    thrum_status_t status = THRUM_OK;

    cudaError_t error;

    if (stream->capture)
        return cudart_capture_add(stream, type);
    if (stream->flags & cudaStreamNonBlocking)
        return cudaSuccess;
    if (is_main && atomic_load(&cudart_captures)) {
        error = cudart_capture_check_legacy(device, true);
        if (error)
            return error;
    }
    if (is_main ? atomic_load(&device->blocking_used) != atomic_load(&stream->ordered)
                : atomic_load(&device->main.used) != atomic_load(&stream->ordered)) {
        pthread_mutex_lock(&device->lock);
        status = is_main ? order_main(device) : order_blocking(device, stream);
        pthread_mutex_unlock(&device->lock);
    }
    atomic_fetch_add(&stream->used, 1);
    if (!is_main)
        atomic_fetch_add(&device->blocking_used, 1);
    return cudart_of_status(status);
}

thrum_status_t thrum_cudart_stream(cudaStream_t handle, int index, thrum_queue_t *queue_out)
{
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, index, &stream);

    if (!error) /* a collective, as CUDA sees it */
        error = cudart_stream_enter(stream, cudaGraphNodeTypeKernel);
    if (error)
        return thrum_plugin_fail(error == cudaErrorInvalidResourceHandle ? THRUM_ERR_INVALID_QUEUE
                                                                         : THRUM_ERR_INVALID_USAGE,
                                 "%s", thrumCudaErrorDetail());
    *queue_out = stream->queue;
    return THRUM_OK;
}

/* ---- waiting ---- */

uint64_t cudart_moment(void)
{
    static _Atomic uint64_t last;

    return atomic_fetch_add(&last, 1) + 1;
}

static void forgive(struct cudart_stream *stream)
{
    atomic_store(&stream->forgiven, true);
    atomic_store(&stream->pardoned, cudart_moment());
}

/* The stream of the queue; and those that may end with its errors: a graph that they launched has them, or they wait. */
static void forgive_on(struct cudart_device *device, thrum_queue_t queue)
{
    pthread_mutex_lock(&device->lock);
    if (device->main.queue == queue || atomic_load(&device->main.relays))
        forgive(&device->main);
    for (struct cudart_stream *s = device->streams; s; s = s->next)
        if (s->queue == queue || atomic_load(&s->relays))
            forgive(s);
    pthread_mutex_unlock(&device->lock);
}

void thrum_cudart_forgive(thrum_queue_t queue, int index)
{
    struct cudart_device *device = cudart_device_if_open(index);

    if (device)
        forgive_on(device, queue);
}

bool cudart_stream_is_pardoned(thrum_queue_t queue, uint64_t moment)
{
    const struct cudart_stream *stream = cudart_stream_of(queue);

    return stream && (atomic_load(&stream->forgiven) || atomic_load(&stream->pardoned) > moment);
}

cudaError_t cudart_stream_settle(struct cudart_stream *stream, thrum_status_t status)
{
    cudaError_t error;

    if (status == THRUM_IN_PROGRESS)
        return cudaErrorNotReady;
    atomic_store(&stream->relays, false);
    if (atomic_exchange(&stream->forgiven, false) && status == THRUM_ERR_ABORTED)
        status = THRUM_OK;
    if (!status)
        return cudaSuccess;
    error = cudart_of_status(status);
    thrum_plugin_log(THRUM_LOG_WARN, "stream %p: %s: %s", (void *)stream->queue,
                     cudaGetErrorName(error), thrumCudaErrorDetail());
    return error;
}

cudaError_t cudart_stream_wait(struct cudart_stream *stream, bool keep)
{
    if (keep || stream->is_lane) {
        (void)!thrum_queue_drain(stream->queue);
        return cudaSuccess;
    }
    return cudart_stream_settle(stream, thrum_queue_synchronize(stream->queue));
}

static void drop(struct cudart_stream *stream)
{
    if (atomic_fetch_sub(&stream->references, 1) > 1)
        return;
    thrum_queue_destroy(stream->queue);
    cudart_host_calls_free(stream);
    free(stream);
}

/* All streams but the default one, each held; NULL: no memory. */
static struct cudart_stream **hold_all(struct cudart_device *device, size_t *n_out)
{
    struct cudart_stream **list;
    size_t n = 0;

    pthread_mutex_lock(&device->lock);
    for (struct cudart_stream *s = device->streams; s; s = s->next)
        n++;
    list = malloc((n + 1) * sizeof *list);
    n = 0;
    for (struct cudart_stream *s = list ? device->streams : NULL; s; s = s->next) {
        atomic_fetch_add(&s->references, 1);
        list[n++] = s;
    }
    pthread_mutex_unlock(&device->lock);
    *n_out = n;
    return list;
}

/* What is recorded is no work yet: streams that are captured, now or in a moment, are not disturbed. */
cudaError_t cudart_device_wait(struct cudart_device *device, bool keep)
{
    cudaError_t error = cudart_stream_wait(&device->main, keep), next;
    struct cudart_stream **list;
    size_t n;

    list = hold_all(device, &n);
    if (!list)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a list of streams");
    for (size_t i = 0; i < n; i++) {
        (void)!thrum_queue_drain(list[i]->queue);
        next = keep || list[i]->is_lane
                   ? cudaSuccess
                   : cudart_stream_settle(list[i], cudart_capture_query(list[i]));
        error = error || next == cudaErrorNotReady ? error : next;
        drop(list[i]);
    }
    free(list);
    return error;
}

/* A stream whose end is asked for. */
static cudaError_t find_to_wait(const char *function, cudaStream_t handle,
                                struct cudart_stream **stream_out)
{
    cudaError_t error = cudart_stream_find(handle, -1, stream_out);
    struct cudart_stream *stream = error ? NULL : *stream_out;

    if (!error && stream->capture)
        error = cudart_capture_spoil(stream, cudaErrorStreamCaptureUnsupported,
                                     "%s: stream=%p is captured", function, (void *)handle);
    if (!error && stream->device && stream == &stream->device->main)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeEmpty);
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    struct cudart_stream *stream;
    cudaError_t error = find_to_wait("cudaStreamSynchronize", handle, &stream);

    return cudart_result(error ? error : cudart_stream_wait(stream, false));
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    struct cudart_stream *stream;
    cudaError_t error = find_to_wait("cudaStreamQuery", handle, &stream);

    if (!error)
        error = cudart_stream_settle(stream, thrum_queue_query(stream->queue));
    return cudart_result(error);
}

/* ---- life ---- */

static cudaError_t create(struct cudart_device *device, unsigned flags, int priority,
                          struct cudart_stream **stream_out)
{
    struct cudart_stream *stream = calloc(1, sizeof *stream);
    thrum_status_t status;

    if (!stream)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a stream");
    status = thrum_queue_create(atomic_load(&device->device), THRUM_QUEUE_DEFAULT, &stream->queue);
    if (status) {
        free(stream);
        return cudart_of_status(status);
    }
    stream->device = device;
    stream->flags = flags;
    stream->priority = priority;
    atomic_store(&stream->references, 1);
    if (!handle_set_add(&streams, stream->queue, stream)) {
        drop(stream);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a stream");
    }
    pthread_mutex_lock(&device->lock);
    stream->next = device->streams;
    device->streams = stream;
    pthread_mutex_unlock(&device->lock);
    *stream_out = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *handle, unsigned flags, int priority)
{
    struct cudart_device *device;
    struct cudart_stream *stream;
    cudaError_t error;

    if (!handle || flags & ~(unsigned)cudaStreamNonBlocking)
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "stream=%p, flags=%#x", (void *)handle, flags));
    error = cudart_device_get(-1, &device);
    if (!error)
        error = create(device, flags, 0, &stream); /* any priority is the only one there is */
    (void)priority;
    if (!error)
        *handle = (cudaStream_t)(void *)stream->queue;
    return cudart_result(error);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

/* Takes it out of the device's list; under the device's lock. */
static void unlink_stream(struct cudart_stream *stream)
{
    struct cudart_stream **at = &stream->device->streams;

    while (*at && *at != stream)
        at = &(*at)->next;
    if (*at)
        *at = stream->next;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    struct cudart_stream *stream = handle_set_remove(&streams, handle);

    if (!stream)
        return cudart_result(cudart_fail(cudaErrorInvalidResourceHandle,
                                         "stream=%p is not a live stream", (void *)handle));
    if (stream->capture)
        cudart_capture_leave(stream);
    /* What was given to it is still done. */
    (void)cudart_stream_wait(stream, true);
    pthread_mutex_lock(&stream->device->lock);
    unlink_stream(stream);
    pthread_mutex_unlock(&stream->device->lock);
    drop(stream);
    return cudaSuccess;
}

void cudart_streams_drop(struct cudart_device *device)
{
    device->idle_lanes = NULL;
    while (device->streams)
        (void)cudaStreamDestroy((cudaStream_t)(void *)device->streams->queue);
}

/* ---- lanes of graphs ---- */

cudaError_t cudart_lane_take(struct cudart_device *device, struct cudart_stream **stream_out)
{
    struct cudart_stream *stream;
    cudaError_t error;

    pthread_mutex_lock(&device->lock);
    stream = device->idle_lanes;
    if (stream)
        device->idle_lanes = stream->next_idle;
    pthread_mutex_unlock(&device->lock);
    if (!stream) {
        error = create(device, cudaStreamNonBlocking, 0, &stream);
        if (error)
            return error;
        stream->is_lane = true;
    }
    *stream_out = stream;
    return cudaSuccess;
}

bool cudart_lane_lives(const struct cudart_stream *stream, thrum_queue_t queue)
{
    return handle_set_find(&streams, queue) == stream;
}

void cudart_lane_give(struct cudart_stream *stream, thrum_queue_t queue)
{
    if (!cudart_lane_lives(stream, queue))
        return;
    if (thrum_queue_query(queue) != THRUM_IN_PROGRESS) {
        (void)cudaStreamDestroy((cudaStream_t)(void *)queue);
        return;
    }
    pthread_mutex_lock(&stream->device->lock);
    stream->next_idle = stream->device->idle_lanes;
    stream->device->idle_lanes = stream;
    pthread_mutex_unlock(&stream->device->lock);
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned *flags)
{
    struct cudart_stream *stream;
    cudaError_t error = flags ? cudart_stream_find(handle, -1, &stream)
                              : cudart_fail(cudaErrorInvalidValue, "flags=NULL");

    if (!error)
        *flags = stream->flags;
    return cudart_result(error);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int *priority)
{
    struct cudart_stream *stream;
    cudaError_t error = priority ? cudart_stream_find(handle, -1, &stream)
                                 : cudart_fail(cudaErrorInvalidValue, "priority=NULL");

    if (!error)
        *priority = stream->priority;
    return cudart_result(error);
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int *index)
{
    struct cudart_stream *stream;
    cudaError_t error = index ? cudart_stream_find(handle, -1, &stream)
                              : cudart_fail(cudaErrorInvalidValue, "device=NULL");

    if (!error && !stream->device)
        error = cudart_fail(cudaErrorInvalidResourceHandle,
                            "stream=%p is a queue of thrum_queue_create", (void *)handle);
    if (!error)
        *index = stream->device->index;
    return cudart_result(error);
}

cudaError_t cudaStreamGetId(cudaStream_t handle, unsigned long long *id)
{
    struct cudart_stream *stream;
    cudaError_t error = id ? cudart_stream_find(handle, -1, &stream)
                           : cudart_fail(cudaErrorInvalidValue, "id=NULL");

    if (!error)
        *id = (uintptr_t)stream->queue; /* the default stream has one for each device */
    return cudart_result(error);
}
