/* Events and captured graphs: Thrum's, with CUDA's flags. */
#include "cudart.h"

#include <stdlib.h>

static struct handle_set events = HANDLE_SET_INITIALIZER, graphs = HANDLE_SET_INITIALIZER;

/* ---- events ---- */

struct CUevent_st {
    thrum_event_t event;
    unsigned flags;
    _Atomic bool recorded;
    _Atomic uint64_t capture; /* in which it was recorded last; 0: none */
};

static cudaError_t find_event(cudaEvent_t handle, const char *argument)
{
    return handle_set_find(&events, handle)
               ? cudaSuccess
               : cudart_fail(cudaErrorInvalidResourceHandle, "%s=%p is not a live event", argument,
                             (void *)handle);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *handle, unsigned flags)
{
    const unsigned known = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    struct cudart_device *device;
    struct CUevent_st *event;
    cudaError_t error;

    if (!handle || flags & ~known)
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "event=%p, flags=%#x", (void *)handle, flags));
    if (flags & cudaEventInterprocess)
        return cudart_result(
            cudart_fail(cudaErrorNotSupported, "events are not for other processes"));
    error = cudart_device_get(-1, &device);
    if (error)
        return cudart_result(error);
    event = calloc(1, sizeof *event);
    if (!event)
        return cudart_result(cudart_fail(cudaErrorMemoryAllocation, "no host memory for an event"));
    event->flags = flags;
    error = cudart_of_status(thrum_event_create(atomic_load(&device->device), &event->event));
    if (!error && !handle_set_add(&events, event, event)) {
        thrum_event_destroy(event->event);
        error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for an event");
    }
    if (error)
        free(event);
    else
        *handle = event;
    return cudart_result(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    struct CUevent_st *event = handle_set_remove(&events, handle);

    if (!event)
        return cudart_result(cudart_fail(cudaErrorInvalidResourceHandle,
                                         "event=%p is not a live event", (void *)handle));
    thrum_event_destroy(event->event); /* streams that wait for it go on waiting */
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned flags)
{
    struct cudart_stream *stream;
    cudaError_t error = find_event(event, "event");

    if (!error && flags)
        error = cudart_fail(cudaErrorInvalidValue, "flags=%#x is not 0", flags);
    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    if (!error)
        error = cudart_stream_enter(stream);
    if (!error)
        atomic_store(&event->capture, stream->capturing);
    if (!error && !stream->capturing) { /* else it is but a place in the stream */
        error = cudart_of_status(thrum_event_record(event->event, stream->queue));
        if (!error)
            atomic_store(&event->recorded, true);
    }
    return cudart_result(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return cudaEventRecordWithFlags(event, stream, 0);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    struct cudart_stream *stream;
    cudaError_t error = find_event(event, "event");

    if (!error && flags)
        error = cudart_fail(cudaErrorInvalidValue, "flags=%#x is not 0", flags);
    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    if (!error && event->capture && event->capture != stream->capturing)
        error = cudart_fail(cudaErrorStreamCaptureUnsupported,
                            "event=%p was recorded in a capture, and stream=%p does not belong to "
                            "it: captures are of one stream, without forks",
                            (void *)event, (void *)handle);
    if (!error)
        error = cudart_stream_enter(stream);
    if (!error && !event->capture)
        error = cudart_of_status(thrum_event_wait(event->event, stream->queue));
    return cudart_result(error);
}

/* Of events that were recorded for real: in a capture they are but a place in it. */
static cudaError_t find_recorded(cudaEvent_t event, const char *argument)
{
    cudaError_t error = find_event(event, argument);

    if (!error && event->capture)
        error = cudart_fail(cudaErrorCapturedEvent, "%s=%p was last recorded in a capture",
                            argument, (void *)event);
    return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = find_recorded(event, "event");

    return cudart_result(error ? error : cudart_of_status(thrum_event_query(event->event)));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = find_recorded(event, "event");

    return cudart_result(error ? error : cudart_of_status(thrum_event_synchronize(event->event)));
}

static cudaError_t check_timed(cudaEvent_t event, const char *argument)
{
    cudaError_t error = find_recorded(event, argument);

    if (!error && event->flags & cudaEventDisableTiming)
        error = cudart_fail(cudaErrorInvalidResourceHandle,
                            "%s was made with cudaEventDisableTiming", argument);
    if (!error && !atomic_load(&event->recorded))
        error = cudart_fail(cudaErrorInvalidResourceHandle, "%s was never recorded", argument);
    return error;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    cudaError_t error = check_timed(start, "start");
    int64_t ns = 0;

    if (!error)
        error = check_timed(end, "end");
    if (!error && !milliseconds)
        error = cudart_fail(cudaErrorInvalidValue, "milliseconds=NULL");
    if (!error)
        error = cudart_of_status(thrum_event_elapsed(start->event, end->event, &ns));
    if (!error)
        *milliseconds = (float)((double)ns * 1e-6);
    return cudart_result(error);
}

cudaError_t cudaEventElapsedTime_v2(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    return cudaEventElapsedTime(milliseconds, start, end);
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event)
{
    cudaError_t error =
        handle ? find_event(event, "event") : cudart_fail(cudaErrorInvalidValue, "handle=NULL");

    return cudart_result(
        error ? error : cudart_fail(cudaErrorNotSupported, "events are not for other processes"));
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle)
{
    (void)event, (void)handle;
    return cudart_result(cudart_fail(cudaErrorNotSupported, "events are not for other processes"));
}

/* ---- graphs ---- */

struct captured { /* a cudaGraph_t and its cudaGraphExec_t are references to one */
    thrum_graph_t graph;
    _Atomic int references;
};

static void put_captured(struct captured *captured)
{
    if (atomic_fetch_sub(&captured->references, 1) > 1)
        return;
    thrum_graph_destroy(captured->graph);
    free(captured);
}

/* A handle of its own for a reference to the captured graph. */
static void *new_handle(struct captured *captured)
{
    void *handle = malloc(1);

    if (handle && !handle_set_add(&graphs, handle, captured)) {
        free(handle);
        handle = NULL;
    }
    return handle;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    struct cudart_stream *stream;
    static _Atomic uint64_t last;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    if (!error && (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed))
        error = cudart_fail(cudaErrorInvalidValue, "mode=%d", (int)mode);
    if (!error && (!stream->device || stream == &stream->device->main))
        error = cudart_fail(cudaErrorStreamCaptureUnsupported,
                            "the default stream, and queues of the caller, cannot be captured");
    if (!error)
        error = cudart_stream_enter(stream); /* what is captured starts behind it */
    if (!error)
        error = cudart_of_status(thrum_queue_capture_begin(stream->queue));
    if (!error)
        atomic_store(&stream->capturing, atomic_fetch_add(&last, 1) + 1);
    return cudart_result(error);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    struct cudart_stream *stream;
    struct captured *captured;
    cudaError_t error = graph ? cudart_stream_find(handle, -1, &stream)
                              : cudart_fail(cudaErrorInvalidValue, "graph=NULL");
    thrum_status_t status;

    if (!error && !stream->capturing)
        error = cudart_fail(cudaErrorStreamCaptureUnmatched, "stream=%p does not capture",
                            (void *)handle);
    if (error)
        return cudart_result(error);
    *graph = NULL;
    captured = calloc(1, sizeof *captured);
    if (!captured)
        return cudart_result(cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph"));
    atomic_store(&stream->capturing, 0);
    status = thrum_queue_capture_end(stream->queue, &captured->graph);
    if (status) {
        free(captured);
        (void)cudart_of_status(status);
        return cudart_result(status == THRUM_ERR_INVALID_USAGE ? cudaErrorStreamCaptureInvalidated
                                                               : cudart_of_status(status));
    }
    atomic_store(&captured->references, 1);
    *graph = new_handle(captured);
    if (!*graph) {
        put_captured(captured);
        error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph");
    }
    return cudart_result(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    struct cudart_stream *stream;
    cudaError_t error = status ? cudart_stream_find(handle, -1, &stream)
                               : cudart_fail(cudaErrorInvalidValue, "status=NULL");

    if (!error)
        *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudart_result(error);
}

cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t handle, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **dependencies, size_t *n)
{
    enum cudaStreamCaptureStatus now;
    cudaError_t error = cudaStreamIsCapturing(handle, status ? &now : NULL);
    struct cudart_stream *stream;

    if (!error && now != cudaStreamCaptureStatusNone && (graph || dependencies || n))
        error = cudart_result(
            cudart_fail(cudaErrorNotSupported, "a capture's graph cannot be seen before its end"));
    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    if (error)
        return error;
    *status = now;
    if (id)
        *id = stream->capturing;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **dependencies,
                                        const cudaGraphEdgeData **edges, size_t *n)
{
    size_t unused;

    return cudaStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies,
                                       edges && !n ? &unused : n);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    /* what other calls may do meanwhile: a capture here concerns its own stream only */
    static _Thread_local enum cudaStreamCaptureMode current;
    enum cudaStreamCaptureMode old = current;

    if (!mode || *mode < cudaStreamCaptureModeGlobal || *mode > cudaStreamCaptureModeRelaxed)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "mode=%d", mode ? (int)*mode : -1));
    current = *mode;
    *mode = old;
    return cudaSuccess;
}

static cudaError_t no_graph(const void *handle)
{
    return cudart_fail(cudaErrorInvalidResourceHandle, "graph=%p is not a live graph", handle);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags)
{
    struct captured *captured = handle_set_find(&graphs, graph);
    void *handle;

    if (!captured)
        return cudart_result(no_graph(graph));
    if (!executable || flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "executable=%p, flags=%#llx",
                                         (void *)executable, flags));
    handle = new_handle(captured);
    if (!handle)
        return cudart_result(cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph"));
    atomic_fetch_add(&captured->references, 1);
    *executable = handle;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(executable, graph, flags);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle)
{
    struct captured *captured = handle_set_find(&graphs, executable);
    struct cudart_stream *stream;
    cudaError_t error = captured ? cudart_stream_find(handle, -1, &stream) : no_graph(executable);

    if (!error)
        error = cudart_stream_enter(stream);
    if (!error)
        error = cudart_of_status(thrum_graph_launch(captured->graph, stream->queue));
    return cudart_result(error);
}

static cudaError_t drop_graph(void *handle)
{
    struct captured *captured = handle_set_remove(&graphs, handle);

    if (!captured)
        return no_graph(handle);
    put_captured(captured);
    free(handle);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    return cudart_result(drop_graph(executable));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return cudart_result(drop_graph(graph));
}
