/* Events: Thrum's, with CUDA's flags; in a capture, places in it. */
#include "cudart.h"

#include <stdlib.h>

static struct handle_set events = HANDLE_SET_INITIALIZER;

struct CUevent_st {
    thrum_event_t event;
    unsigned flags;
    _Atomic bool recorded;
    thrum_queue_t queue; /* on which it was recorded last, when */
    uint64_t moment;
    struct cudart_point point; /* where it was recorded last, if that was in a capture */
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

/* For real: now, or at each launch of what the stream captures. */
static cudaError_t record(cudaEvent_t event, struct cudart_stream *stream)
{
    cudaError_t error = cudart_stream_enter(stream, cudaGraphNodeTypeEventRecord);

    if (!error)
        error = cudart_of_status(thrum_event_record_errors(event->event, stream->queue));
    if (error)
        return error;
    event->queue = stream->queue;
    event->moment = cudart_moment();
    event->point.capture = 0;
    atomic_store(&event->recorded, true);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned flags)
{
    struct cudart_stream *stream;
    cudaError_t error = find_event(event, "event");

    if (!error && flags & ~(unsigned)cudaEventRecordExternal)
        error = cudart_fail(cudaErrorInvalidValue, "flags=%#x", flags);
    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    if (!error && flags && !stream->capture)
        error = cudart_fail(cudaErrorInvalidValue,
                            "cudaEventRecordExternal on a stream that is not captured");
    if (!error && stream->capture && !flags)
        error = cudart_capture_record(stream, &event->point);
    else if (!error)
        error = record(event, stream);
    return cudart_result(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return cudaEventRecordWithFlags(event, stream, 0);
}

static cudaError_t wait_for_record(struct cudart_stream *stream, cudaEvent_t event)
{
    cudaError_t error = cudart_stream_enter(stream, cudaGraphNodeTypeWaitEvent);

    atomic_store(&stream->relays, true);
    if (cudart_stream_is_pardoned(event->queue, event->moment))
        atomic_store(&stream->forgiven, true);
    return error ? error : cudart_of_status(thrum_event_wait(event->event, stream->queue));
}

/* At each launch, for the newest record at that time: there may be none yet. */
static cudaError_t wait_external(struct cudart_stream *stream, cudaEvent_t event)
{
    return stream->capture ? wait_for_record(stream, event)
                           : cudart_fail(cudaErrorInvalidValue,
                                         "cudaEventWaitExternal on a stream that is not captured");
}

/* For what was recorded outside of captures. */
static cudaError_t wait_for(struct cudart_stream *stream, cudaEvent_t event)
{
    if (!atomic_load(&event->recorded))
        return cudaSuccess;
    if (stream->capture)
        return cudart_capture_spoil(stream, cudaErrorStreamCaptureIsolation,
                                    "event=%p was not recorded in the capture of stream=%p",
                                    (void *)event, (void *)stream->queue);
    return wait_for_record(stream, event);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    struct cudart_stream *stream;
    cudaError_t error = find_event(event, "event");

    if (!error && flags & ~(unsigned)cudaEventWaitExternal)
        error = cudart_fail(cudaErrorInvalidValue, "flags=%#x", flags);
    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    if (!error)
        error = flags                  ? wait_external(stream, event)
                : event->point.capture ? cudart_capture_wait(stream, &event->point)
                                       : wait_for(stream, event);
    return cudart_result(error);
}

/* Of events that were recorded for real: in a capture they are but a place in it. */
static cudaError_t find_recorded(cudaEvent_t event, const char *argument)
{
    cudaError_t error = find_event(event, argument);

    if (!error && event->point.capture)
        error = cudart_capture_spoil_point(&event->point, cudaErrorCapturedEvent,
                                           "%s=%p was last recorded in a capture", argument,
                                           (void *)event);
    return error;
}

static cudaError_t find_to_wait(const char *function, cudaEvent_t event)
{
    cudaError_t error = find_recorded(event, "event");

    return error ? error : cudart_capture_check_unsafe(function);
}

/* As its stream's synchronize would say. */
static cudaError_t settle(cudaEvent_t event, thrum_status_t status)
{
    if (status == THRUM_ERR_ABORTED && cudart_stream_is_pardoned(event->queue, event->moment))
        status = THRUM_OK;
    return cudart_of_status(status);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = find_to_wait("cudaEventQuery", event);

    return cudart_result(error ? error : settle(event, thrum_event_query(event->event)));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = find_to_wait("cudaEventSynchronize", event);

    return cudart_result(error ? error : settle(event, thrum_event_synchronize(event->event)));
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
