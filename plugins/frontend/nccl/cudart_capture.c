/*
 * Captures of streams: one begins on a stream; another joins it where it waits for an event that was recorded in it, and
 * has to be joined back. Each captured stream is a lane of one Thrum graph, which has the calls of all lanes in the order in
 * which they were made. What is kept here besides are nodes and what each comes behind, which is how a fork that was not joined
 * is found. A call that has no place in a capture spoils it, by CUDA's rules. Called by cudart_stream_enter and by the
 * functions of streams and events.
 */
#include "cudart.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nodes behind which the next one comes: indices. */
struct set {
    size_t *nodes;
    size_t n, capacity;
};

struct point {
    thrum_event_t event; /* the graph's */
    unsigned lane;
    struct set behind;
};

struct cudart_capture {
    struct cudart_capture *next;
    uint64_t number;
    enum cudaStreamCaptureMode mode;
    pthread_t thread; /* that began it */
    struct cudart_graph *graph;
    cudaGraph_t handle; /* of the graph; NULL: nobody has asked for it */
    struct lane {
        struct cudart_stream *stream; /* NULL: destroyed meanwhile */
        struct set behind;
        cudaGraphNode_t *shown; /* `behind`, for who asked last */
        cudaGraphEdgeData *shown_edges;
        size_t shown_capacity, shown_edges_capacity;
    } * lanes;
    struct point *points;
    size_t nlanes, lanes_capacity, npoints, points_capacity;
    bool spoiled; /* nothing is recorded any more */
};

_Atomic int cudart_captures;

static struct {
    pthread_mutex_t lock; /* of all that is in captures */
    pthread_cond_t asked; /* a stream's `asking` has become less */
    struct cudart_capture *first;
    uint64_t last_number;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .asked = PTHREAD_COND_INITIALIZER};

static _Thread_local enum cudaStreamCaptureMode thread_mode;

/* ---- sets and nodes; all under the lock ---- */

static bool set_add(struct set *set, size_t node)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->nodes[i] == node)
            return true;
    if (!cudart_grow(&set->nodes, set->n, &set->capacity, sizeof *set->nodes))
        return false;
    set->nodes[set->n++] = node;
    return true;
}

static bool set_add_all(struct set *set, const struct set *others)
{
    bool fits = true;

    for (size_t i = 0; i < others->n && fits; i++)
        fits = set_add(set, others->nodes[i]);
    return fits;
}

static bool add_dependency(struct cudart_graph *graph, size_t node)
{
    if (!cudart_grow(&graph->dependencies, graph->ndependencies, &graph->dependencies_capacity,
                     sizeof *graph->dependencies))
        return false;
    graph->dependencies[graph->ndependencies++] = node;
    return true;
}

static bool add_node(struct cudart_capture *capture, unsigned lane, enum cudaGraphNodeType type)
{
    struct cudart_graph *graph = capture->graph;
    struct set *behind = &capture->lanes[lane].behind;
    size_t first = graph->ndependencies;

    if (!cudart_grow(&graph->nodes, graph->nnodes, &graph->nodes_capacity, sizeof *graph->nodes))
        return false;
    for (size_t i = 0; i < behind->n; i++)
        if (!add_dependency(graph, behind->nodes[i]))
            return false;
    graph->nodes[graph->nnodes] = (struct cudart_node){
        .type = type, .lane = lane, .first_dependency = first, .ndependencies = behind->n};
    behind->n = 0;
    return set_add(behind, graph->nnodes++);
}

/* Whether every node is one of the set or comes before one. */
static bool reaches_all(const struct cudart_graph *graph, const struct set *from)
{
    bool *seen = calloc(graph->nnodes + 1, sizeof *seen);
    bool every = seen != NULL;

    for (size_t i = 0; seen && i < from->n; i++)
        seen[from->nodes[i]] = true;
    for (size_t i = graph->nnodes; seen && i--;) { /* a node comes behind earlier ones only */
        const struct cudart_node *node = &graph->nodes[i];

        every = every && seen[i];
        for (size_t d = 0; d < node->ndependencies && seen[i]; d++)
            seen[graph->dependencies[node->first_dependency + d]] = true;
    }
    free(seen);
    return every;
}

/* ---- one capture; all under the lock ---- */

static struct cudart_capture *find_number(uint64_t number)
{
    struct cudart_capture *capture = all.first;

    while (capture && capture->number != number)
        capture = capture->next;
    return capture;
}

static struct cudart_stream *origin_of(const struct cudart_capture *capture)
{
    return capture->lanes[0].stream;
}

/* Ends the recording, with nothing to show for it; its streams are captured until the program ends that. */
static void spoil(struct cudart_capture *capture)
{
    thrum_graph_t graph = NULL;

    if (capture->spoiled)
        return;
    capture->spoiled = true;
    if (!thrum_queue_capture_end(origin_of(capture)->queue, &graph))
        thrum_graph_destroy(graph);
}

/* Not under the lock: what it gives back may take its time. */
static void free_capture(struct cudart_capture *capture)
{
    for (size_t i = 0; i < capture->nlanes; i++) {
        free(capture->lanes[i].behind.nodes);
        free(capture->lanes[i].shown);
        free(capture->lanes[i].shown_edges);
    }
    free(capture->lanes);
    for (size_t i = 0; i < capture->npoints; i++)
        free(capture->points[i].behind.nodes);
    free(capture->points);
    if (capture->handle && !atomic_load(&capture->graph->ended))
        cudart_graph_unpublish(capture->handle);
    cudart_graph_put(capture->graph);
    free(capture);
}

/* Its streams are as before, and the capture is the caller's alone, to be freed. */
static void end_capture(struct cudart_capture *capture)
{
    struct cudart_capture **at = &all.first;

    while (*at != capture)
        at = &(*at)->next;
    *at = capture->next;
    for (size_t i = 0; i < capture->nlanes; i++)
        if (capture->lanes[i].stream)
            atomic_store(&capture->lanes[i].stream->capture, NULL);
    atomic_fetch_sub(&cudart_captures, 1);
}

static cudaError_t no_memory(struct cudart_capture *capture)
{
    spoil(capture);
    return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a capture");
}

static cudaError_t is_spoiled(const struct cudart_capture *capture)
{
    return capture->spoiled ? cudart_fail(cudaErrorStreamCaptureInvalidated,
                                          "the capture was spoiled by an earlier call")
                            : cudaSuccess;
}

static cudaError_t ended_meanwhile(void)
{
    return cudart_fail(cudaErrorIllegalState, "the capture ended meanwhile");
}

static bool add_lane(struct cudart_capture *capture, struct cudart_stream *stream)
{
    struct cudart_graph *graph = capture->graph;

    if (!cudart_grow(&capture->lanes, capture->nlanes, &capture->lanes_capacity,
                     sizeof *capture->lanes) ||
        !cudart_grow(&graph->devices, graph->ndevices, &graph->devices_capacity,
                     sizeof *graph->devices))
        return false;
    graph->devices[graph->ndevices++] = stream->device->index;
    capture->lanes[capture->nlanes] = (struct lane){.stream = stream};
    stream->lane = (unsigned)capture->nlanes++;
    atomic_store(&stream->capture, capture);
    return true;
}

/* ---- what calls do to captures ---- */

cudaError_t cudart_capture_add(struct cudart_stream *stream, enum cudaGraphNodeType type)
{
    struct cudart_capture *capture;
    cudaError_t error = cudaSuccess;

    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    if (capture)
        error = is_spoiled(capture);
    if (capture && !error && !add_node(capture, stream->lane, type))
        error = no_memory(capture);
    pthread_mutex_unlock(&all.lock);
    return error;
}

cudaError_t cudart_capture_keep(struct cudart_stream *stream, struct cudart_graph *child)
{
    struct cudart_capture *capture;
    struct cudart_graph *graph;
    cudaError_t error = cudaSuccess;

    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    graph = capture ? capture->graph : NULL;
    if (graph && !cudart_grow(&graph->children, graph->nchildren, &graph->children_capacity,
                              sizeof(struct cudart_graph *))) {
        error = no_memory(capture);
    } else if (graph) {
        atomic_fetch_add(&child->references, 1);
        graph->children[graph->nchildren++] = child;
    }
    pthread_mutex_unlock(&all.lock);
    return error;
}

/* Under the lock. */
static cudaError_t add_use(struct cudart_capture *capture, struct cudart_graph_memory *memory,
                           bool allocates)
{
    struct cudart_graph *graph = capture->graph;
    cudaError_t error = is_spoiled(capture);

    for (size_t i = 0; i < graph->nuses && !error; i++)
        if (graph->uses[i].memory == memory && !graph->uses[i].allocates)
            error = cudart_fail(cudaErrorInvalidValue, "the capture has freed it already");
    if (error)
        return error;
    if (!cudart_grow(&graph->uses, graph->nuses, &graph->uses_capacity, sizeof *graph->uses))
        return no_memory(capture);
    graph->uses[graph->nuses++] = (struct cudart_memory_use){memory, allocates, false};
    return cudaSuccess;
}

cudaError_t cudart_capture_use(struct cudart_stream *stream, struct cudart_graph_memory *memory,
                               bool allocates)
{
    struct cudart_capture *capture;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    error = capture ? add_use(capture, memory, allocates) : ended_meanwhile();
    pthread_mutex_unlock(&all.lock);
    return error;
}

/* Without the lock, as the cause of an error may have to be found: a capture of this stream begins after that. */
thrum_status_t cudart_capture_query(struct cudart_stream *stream)
{
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&all.lock);
    if (!atomic_load(&stream->capture)) {
        stream->asking++;
        pthread_mutex_unlock(&all.lock);
        status = thrum_queue_query(stream->queue);
        pthread_mutex_lock(&all.lock);
        stream->asking--;
        pthread_cond_broadcast(&all.asked);
    }
    pthread_mutex_unlock(&all.lock);
    return status;
}

/* Takes the lock, for what may begin to record the stream. */
static void lock_for(const struct cudart_stream *stream)
{
    pthread_mutex_lock(&all.lock);
    while (stream->asking)
        pthread_cond_wait(&all.asked, &all.lock);
}

static cudaError_t new_point(struct cudart_capture *capture, struct cudart_stream *stream,
                             struct cudart_point *point_out)
{
    struct cudart_graph *graph = capture->graph;
    thrum_event_t event;
    struct point *point;
    cudaError_t error;

    if (!cudart_grow(&capture->points, capture->npoints, &capture->points_capacity,
                     sizeof *capture->points) ||
        !cudart_grow(&graph->events, graph->nevents, &graph->events_capacity, sizeof event))
        return no_memory(capture);
    error = cudart_of_status(thrum_event_create(atomic_load(&stream->device->device), &event));
    if (error)
        return error;
    graph->events[graph->nevents++] = event;
    error = cudart_of_status(thrum_event_record(event, stream->queue));
    if (error)
        return error;
    point = &capture->points[capture->npoints];
    *point = (struct point){.event = event, .lane = stream->lane};
    if (!set_add_all(&point->behind, &capture->lanes[stream->lane].behind))
        return no_memory(capture);
    *point_out = (struct cudart_point){capture->number, capture->npoints++};
    return cudaSuccess;
}

cudaError_t cudart_capture_record(struct cudart_stream *stream, struct cudart_point *point_out)
{
    struct cudart_capture *capture;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    error = capture ? is_spoiled(capture) : ended_meanwhile();
    if (!error)
        error = new_point(capture, stream, point_out);
    pthread_mutex_unlock(&all.lock);
    return error;
}

/* Under the lock: a stream that is captured by no one becomes a lane. */
static cudaError_t join(struct cudart_capture *capture, struct cudart_stream *stream)
{
    cudaError_t error;

    if (!stream->device || stream == &stream->device->main) {
        spoil(capture);
        return cudart_fail(cudaErrorStreamCaptureImplicit,
                           "the default stream, and queues of the caller, cannot join a capture");
    }
    error = cudart_of_status(thrum_queue_capture_join(stream->queue, origin_of(capture)->queue));
    if (error) /* what the stream does next is not recorded: no graph may come of it */
        spoil(capture);
    else if (!add_lane(capture, stream))
        error = no_memory(capture);
    return error;
}

static cudaError_t wait_in(struct cudart_capture *capture, struct cudart_stream *stream,
                           size_t index)
{
    cudaError_t error = is_spoiled(capture);
    struct cudart_capture *own = atomic_load(&stream->capture);
    const struct point *point = &capture->points[index];

    if (!error && own && own != capture) {
        spoil(capture);
        spoil(own);
        return cudart_fail(cudaErrorStreamCaptureMerge,
                           "stream=%p belongs to another capture than the event",
                           (void *)stream->queue);
    }
    if (!error && !own)
        error = join(capture, stream);
    if (error || stream->lane == point->lane)
        return error;
    error = cudart_of_status(thrum_event_wait(point->event, stream->queue));
    if (!error && !set_add_all(&capture->lanes[stream->lane].behind, &point->behind))
        error = no_memory(capture);
    return error;
}

cudaError_t cudart_capture_wait(struct cudart_stream *stream, const struct cudart_point *point)
{
    struct cudart_capture *capture;
    cudaError_t error;

    lock_for(stream);
    capture = find_number(point->capture);
    error = capture ? wait_in(capture, stream, point->index)
                    : cudart_fail(cudaErrorCapturedEvent,
                                  "the event was last recorded in a capture, which has ended");
    pthread_mutex_unlock(&all.lock);
    return error;
}

#define FORMAT_DETAIL(text, format) \
    do { \
        va_list arguments_; \
        va_start(arguments_, format); \
        vsnprintf(text, sizeof(text), format, arguments_); \
        va_end(arguments_); \
    } while (0)

cudaError_t cudart_capture_spoil(struct cudart_stream *stream, cudaError_t error,
                                 const char *format, ...)
{
    struct cudart_capture *capture;
    char text[300];

    FORMAT_DETAIL(text, format);
    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    if (capture)
        spoil(capture);
    pthread_mutex_unlock(&all.lock);
    return cudart_fail(error, "%s", text);
}

cudaError_t cudart_capture_spoil_point(const struct cudart_point *point, cudaError_t error,
                                       const char *format, ...)
{
    struct cudart_capture *capture;
    char text[300];

    FORMAT_DETAIL(text, format);
    pthread_mutex_lock(&all.lock);
    capture = find_number(point->capture);
    if (capture)
        spoil(capture);
    pthread_mutex_unlock(&all.lock);
    return cudart_fail(error, "%s", text);
}

/*
 * Under the lock: whether captures have a stream of the device, but for streams with one of the flags; and spoils them, or
 * not.
 */
static bool find_on(const struct cudart_device *device, unsigned without_flags, bool and_spoil)
{
    bool any = false;

    for (struct cudart_capture *c = all.first; c; c = c->next)
        for (size_t i = 0; i < c->nlanes; i++) {
            const struct cudart_stream *stream = c->lanes[i].stream;

            if (!stream || stream->device != device || stream->flags & without_flags)
                continue;
            if (and_spoil)
                spoil(c);
            any = true;
        }
    return any;
}

cudaError_t cudart_capture_check_legacy(const struct cudart_device *device, bool and_spoil)
{
    bool any;

    pthread_mutex_lock(&all.lock);
    any = find_on(device, cudaStreamNonBlocking, and_spoil);
    pthread_mutex_unlock(&all.lock);
    return any ? cudart_fail(cudaErrorStreamCaptureImplicit,
                             "the default stream waits for blocking streams, and one of device %d "
                             "is captured",
                             device->index)
               : cudaSuccess;
}

cudaError_t cudart_capture_check_device(const struct cudart_device *device)
{
    bool any;

    pthread_mutex_lock(&all.lock);
    any = find_on(device, 0, true);
    pthread_mutex_unlock(&all.lock);
    return any ? cudart_fail(cudaErrorStreamCaptureUnsupported,
                             "cudaDeviceSynchronize: a stream of device %d is captured",
                             device->index)
               : cudaSuccess;
}

/* Whether a call of this thread that may be unsafe is one the capture does not bear. */
static bool is_bothered(const struct cudart_capture *capture)
{
    if (thread_mode == cudaStreamCaptureModeRelaxed)
        return false;
    if (pthread_equal(capture->thread, pthread_self()))
        return capture->mode != cudaStreamCaptureModeRelaxed;
    return thread_mode == cudaStreamCaptureModeGlobal &&
           capture->mode == cudaStreamCaptureModeGlobal;
}

cudaError_t cudart_capture_check_unsafe(const char *function)
{
    bool any = false;

    if (!atomic_load(&cudart_captures))
        return cudaSuccess;
    pthread_mutex_lock(&all.lock);
    for (struct cudart_capture *c = all.first; c; c = c->next)
        if (is_bothered(c)) {
            spoil(c);
            any = true;
        }
    pthread_mutex_unlock(&all.lock);
    return any ? cudart_fail(
                     cudaErrorStreamCaptureUnsupported,
                     "%s may be unsafe while a stream is captured: capture in relaxed mode, "
                     "or see cudaThreadExchangeStreamCaptureMode",
                     function)
               : cudaSuccess;
}

void cudart_capture_leave(struct cudart_stream *stream)
{
    struct cudart_capture *capture, *ended = NULL;

    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    if (capture) {
        spoil(capture);
        if (stream->lane) {
            capture->lanes[stream->lane].stream = NULL;
            atomic_store(&stream->capture, NULL);
        } else {
            end_capture(capture);
            ended = capture;
        }
    }
    pthread_mutex_unlock(&all.lock);
    if (ended)
        free_capture(ended);
}

/* ---- begin and end ---- */

/* Under the lock. */
static cudaError_t begin(struct cudart_capture *capture, struct cudart_stream *stream)
{
    cudaError_t error = atomic_load(&stream->capture)
                            ? cudart_fail(cudaErrorIllegalState, "stream=%p is captured already",
                                          (void *)stream->queue)
                            : cudart_of_status(thrum_queue_capture_begin(stream->queue));

    if (error)
        return error;
    if (!add_lane(capture, stream)) {
        thrum_graph_t graph = NULL;

        if (!thrum_queue_capture_end(stream->queue, &graph))
            thrum_graph_destroy(graph);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a capture");
    }
    capture->number = ++all.last_number;
    capture->next = all.first;
    all.first = capture;
    atomic_fetch_add(&cudart_captures, 1);
    return cudaSuccess;
}

static cudaError_t begin_new(struct cudart_stream *stream, enum cudaStreamCaptureMode mode)
{
    struct cudart_capture *capture = calloc(1, sizeof *capture);
    cudaError_t error;

    if (capture)
        capture->graph = cudart_graph_new();
    if (!capture || !capture->graph) {
        free(capture);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a capture");
    }
    capture->mode = mode;
    capture->thread = pthread_self();
    lock_for(stream);
    error = begin(capture, stream);
    pthread_mutex_unlock(&all.lock);
    if (error)
        free_capture(capture);
    return error;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    if (!error && (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed))
        error = cudart_fail(cudaErrorInvalidValue, "mode=%d", (int)mode);
    if (!error && (!stream->device || stream == &stream->device->main))
        error = cudart_fail(cudaErrorStreamCaptureUnsupported,
                            "the default stream, and queues of the caller, cannot be captured");
    if (!error && stream->capture)
        error = cudart_fail(cudaErrorIllegalState, "stream=%p is captured already", (void *)handle);
    if (!error) /* what is captured starts behind it */
        error = cudart_stream_enter(stream, cudaGraphNodeTypeEmpty);
    return cudart_result(error ? error : begin_new(stream, mode));
}

/* Under the lock: whether the capture may be ended on the stream, now and by this thread. */
static cudaError_t check_end(const struct cudart_stream *stream)
{
    const struct cudart_capture *capture = atomic_load(&stream->capture);

    if (!capture)
        return cudart_fail(cudaErrorIllegalState, "stream=%p is not captured",
                           (void *)stream->queue);
    if (stream->lane)
        return cudart_fail(cudaErrorStreamCaptureUnmatched,
                           "stream=%p joined the capture, which began on another",
                           (void *)stream->queue);
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        !pthread_equal(capture->thread, pthread_self()))
        return cudart_fail(cudaErrorStreamCaptureWrongThread,
                           "another thread began the capture of stream=%p, in a mode that is not "
                           "relaxed",
                           (void *)stream->queue);
    return cudaSuccess;
}

/* Under the lock: the handle of what the capture makes. */
static cudaError_t need_handle(struct cudart_capture *capture)
{
    if (capture->handle)
        return cudaSuccess;
    atomic_fetch_add(&capture->graph->references, 1);
    return cudart_graph_publish(capture->graph, &capture->handle);
}

/* Under the lock: what the capture has made. */
static cudaError_t finish(struct cudart_capture *capture)
{
    cudaError_t error = is_spoiled(capture);
    thrum_status_t status;

    if (!error && !reaches_all(capture->graph, &capture->lanes[0].behind)) {
        spoil(capture);
        error = cudart_fail(cudaErrorStreamCaptureUnjoined,
                            "the first of the capture's %zu streams does not wait for all work of "
                            "the others",
                            capture->nlanes);
    }
    if (error)
        return error;
    capture->spoiled = true; /* it is no more, whatever comes */
    status = thrum_queue_capture_end(origin_of(capture)->queue, &capture->graph->graph);
    if (status) {
        error = cudart_of_status(status);
        return status == THRUM_ERR_INVALID_USAGE ? cudaErrorStreamCaptureInvalidated : error;
    }
    error = need_handle(capture);
    if (!error)
        atomic_store(&capture->graph->ended, true);
    return error;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    struct cudart_capture *ended = NULL;
    struct cudart_stream *stream;
    cudaError_t error = graph ? cudart_stream_find(handle, -1, &stream)
                              : cudart_fail(cudaErrorInvalidValue, "graph=NULL");

    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&all.lock);
    error = check_end(stream);
    if (!error) {
        *graph = NULL;
        ended = stream->capture;
        error = finish(ended);
        if (!error)
            *graph = ended->handle;
        end_capture(ended);
    }
    pthread_mutex_unlock(&all.lock);
    if (ended)
        free_capture(ended);
    return cudart_result(error);
}

/* ---- questions ---- */

/* What to tell of a stream's capture; NULL: not that. */
struct answer {
    enum cudaStreamCaptureStatus *status; /* is wanted always */
    unsigned long long *number;
    cudaGraph_t *graph;
    const cudaGraphNode_t **nodes;
    const cudaGraphEdgeData **edges;
    size_t *n;
};

/* Under the lock: the graph that is being made, and the nodes behind which the stream's next one comes. */
static cudaError_t show(struct cudart_capture *capture, struct lane *lane,
                        const struct answer *answer)
{
    const struct set *behind = &lane->behind;
    cudaError_t error = answer->graph ? need_handle(capture) : cudaSuccess;

    for (size_t i = 0; i < behind->n && !error; i++) {
        if (!cudart_grow(&lane->shown, i, &lane->shown_capacity, sizeof *lane->shown) ||
            !cudart_grow(&lane->shown_edges, i, &lane->shown_edges_capacity,
                         sizeof *lane->shown_edges))
            return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a list of nodes");
        lane->shown[i] = cudart_node_handle(capture->graph, behind->nodes[i]);
        lane->shown_edges[i] = (cudaGraphEdgeData){0};
    }
    if (error)
        return error;
    if (answer->graph)
        *answer->graph = capture->handle;
    if (answer->nodes)
        *answer->nodes = lane->shown;
    if (answer->edges)
        *answer->edges = lane->shown_edges;
    if (answer->n)
        *answer->n = behind->n;
    return cudaSuccess;
}

static cudaError_t ask(cudaStream_t handle, const struct answer *answer)
{
    struct cudart_capture *capture;
    struct cudart_stream *stream;
    enum cudaStreamCaptureStatus now;
    cudaError_t error = answer->status ? cudart_stream_find(handle, -1, &stream)
                                       : cudart_fail(cudaErrorInvalidValue, "status=NULL");

    if (!error && stream->device && stream == &stream->device->main &&
        atomic_load(&cudart_captures))
        error = cudart_capture_check_legacy(stream->device, false);
    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    capture = atomic_load(&stream->capture);
    now = !capture           ? cudaStreamCaptureStatusNone
          : capture->spoiled ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
    if (now == cudaStreamCaptureStatusActive)
        error = show(capture, &capture->lanes[stream->lane], answer);
    if (!error) {
        *answer->status = now;
        if (answer->number)
            *answer->number = capture ? capture->number : 0;
    }
    pthread_mutex_unlock(&all.lock);
    return error;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    return cudart_result(ask(stream, &(struct answer){.status = status}));
}

cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **dependencies,
                                        const cudaGraphEdgeData **edges, size_t *n)
{
    return cudart_result(ask(stream, &(struct answer){status, id, graph, dependencies, edges, n}));
}

cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **dependencies, size_t *n)
{
    return cudaStreamGetCaptureInfo_v3(stream, status, id, graph, dependencies, NULL, n);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    enum cudaStreamCaptureMode old = thread_mode;

    if (!mode || *mode < cudaStreamCaptureModeGlobal || *mode > cudaStreamCaptureModeRelaxed)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "mode=%d", mode ? (int)*mode : -1));
    thread_mode = *mode;
    *mode = old;
    return cudaSuccess;
}
