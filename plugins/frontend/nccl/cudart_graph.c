/*
 * Graphs: what captures made, and their executable forms. A graph is constant, so copies of it are references. An
 * executable one has a hidden stream for each lane but the first, which is that of the launch. Called by programs;
 * cudart_capture.c fills graphs, cudart_node.c tells what is in them.
 */
#include "cudart.h"

#include <stdlib.h>

static struct handle_set graphs = HANDLE_SET_INITIALIZER, executables = HANDLE_SET_INITIALIZER;

static struct {
    pthread_mutex_t lock;
    struct cudart_graph *first;
    uint64_t last_number;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct lane {
    struct cudart_stream *stream;
    thrum_queue_t queue; /* tells whether the stream is still there */
};

struct executable {
    pthread_mutex_t lock; /* of launches: one after the other */
    struct cudart_graph *graph;
    unsigned long long flags;
    struct cudart_fence *order; /* behind the latest launch; NULL: there was none */
    thrum_queue_t *queues; /* of the lanes of a launch */
    struct lane lanes[]; /* the first has no stream */
};

bool cudart_grow(void *array_at, size_t n, size_t *capacity, size_t element_bytes)
{
    void **array = array_at, *grown;
    size_t wanted = *capacity ? 2 * *capacity : 8;

    if (n < *capacity)
        return true;
    grown = realloc(*array, wanted * element_bytes);
    if (!grown)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

/* ---- graphs ---- */

struct cudart_graph *cudart_graph_new(void)
{
    struct cudart_graph *graph = calloc(1, sizeof *graph);

    if (!graph)
        return NULL;
    atomic_store(&graph->references, 1);
    pthread_mutex_lock(&all.lock);
    graph->number = ++all.last_number;
    graph->next = all.first;
    all.first = graph;
    pthread_mutex_unlock(&all.lock);
    return graph;
}

void cudart_graph_put(struct cudart_graph *graph)
{
    struct cudart_graph **at = &all.first;

    if (atomic_fetch_sub(&graph->references, 1) > 1)
        return;
    pthread_mutex_lock(&all.lock);
    while (*at != graph)
        at = &(*at)->next;
    *at = graph->next;
    pthread_mutex_unlock(&all.lock);
    thrum_graph_destroy(graph->graph);
    for (size_t i = 0; i < graph->nevents; i++)
        thrum_event_destroy(graph->events[i]);
    for (size_t i = 0; i < graph->nchildren; i++)
        cudart_graph_put(graph->children[i]);
    cudart_graph_memory_put(graph);
    cudart_objects_drop(graph);
    free(graph->uses);
    free(graph->nodes);
    free(graph->dependencies);
    free(graph->events);
    free(graph->devices);
    free(graph->children);
    free(graph);
}

cudaError_t cudart_graph_publish(struct cudart_graph *graph, cudaGraph_t *out)
{
    void *handle = calloc(1, 1);

    if (!handle || !handle_set_add(&graphs, handle, graph)) {
        free(handle);
        cudart_graph_put(graph);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph");
    }
    *out = handle;
    return cudaSuccess;
}

void cudart_graph_unpublish(cudaGraph_t handle)
{
    struct cudart_graph *graph = handle_set_remove(&graphs, handle);

    if (!graph)
        return;
    cudart_graph_put(graph);
    free(handle);
}

cudaError_t cudart_graph_find(cudaGraph_t handle, struct cudart_graph **out)
{
    *out = handle_set_find(&graphs, handle);
    return *out
               ? cudaSuccess
               : cudart_fail(cudaErrorInvalidValue, "graph=%p is not a live graph", (void *)handle);
}

cudaError_t cudart_graph_find_ended(cudaGraph_t handle, struct cudart_graph **out)
{
    cudaError_t error = cudart_graph_find(handle, out);

    if (!error && !atomic_load(&(*out)->ended))
        error =
            cudart_fail(cudaErrorIllegalState, "graph=%p is still being captured", (void *)handle);
    return error;
}

/* ---- handles of nodes: the graph's number, and the node's, from 1 ---- */

#define NODE_BITS 28

cudaGraphNode_t cudart_node_handle(const struct cudart_graph *graph, size_t i)
{
    return i < graph->nnodes && i + 1 < (size_t)1 << NODE_BITS
               ? (cudaGraphNode_t)(uintptr_t)(graph->number << NODE_BITS | (i + 1))
               : NULL;
}

struct cudart_graph *cudart_node_find(cudaGraphNode_t handle, size_t *i_out)
{
    uint64_t number = (uintptr_t)handle >> NODE_BITS;
    size_t i = ((uintptr_t)handle & (((uintptr_t)1 << NODE_BITS) - 1)) - 1;
    struct cudart_graph *graph;

    pthread_mutex_lock(&all.lock);
    for (graph = all.first; graph && graph->number != number;)
        graph = graph->next;
    if (graph && (!atomic_load(&graph->ended) || i >= graph->nnodes))
        graph = NULL;
    if (graph)
        atomic_fetch_add(&graph->references, 1);
    pthread_mutex_unlock(&all.lock);
    *i_out = i;
    return graph;
}

/* ---- graphs of programs ---- */

cudaError_t cudaGraphClone(cudaGraph_t *clone, cudaGraph_t handle)
{
    struct cudart_graph *graph;
    cudaError_t error = cudart_graph_find_ended(handle, &graph);

    if (!error && !clone)
        error = cudart_fail(cudaErrorInvalidValue, "clone=NULL");
    if (!error && graph->nuses)
        error = cudart_fail(cudaErrorNotSupported,
                            "a graph that allocates or frees memory is not cloned");
    if (error)
        return cudart_result(error);
    atomic_fetch_add(&graph->references, 1);
    return cudart_result(cudart_graph_publish(graph, clone));
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle)
{
    struct cudart_graph *graph;
    cudaError_t error = cudart_graph_find_ended(handle, &graph);

    if (!error)
        cudart_graph_unpublish(handle);
    return cudart_result(error);
}

/* ---- the end of what was launched ---- */

struct retired {
    struct cudart_graph *graph;
    struct cudart_fence *fence;
};

static void *await_end(void *argument)
{
    struct retired *retired = argument;

    (void)!thrum_event_synchronize(retired->fence->event);
    cudart_fence_put(retired->fence);
    cudart_graph_put(retired->graph);
    free(retired);
    return NULL;
}

/* False: no memory, or no thread. */
static bool put_when_reached(struct cudart_graph *graph, struct cudart_fence *fence)
{
    struct retired *retired = malloc(sizeof *retired);
    pthread_attr_t detached;
    pthread_t thread;
    int failed;

    if (!retired)
        return false;
    *retired = (struct retired){graph, fence};
    atomic_fetch_add(&fence->references, 1);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &detached, await_end, retired);
    pthread_attr_destroy(&detached);
    if (!failed)
        return true;
    cudart_fence_put(fence);
    free(retired);
    return false;
}

/* Puts a graph whose latest launch the fence, if any, stands behind: objects that it keeps may be in use until then. */
static void retire(struct cudart_graph *graph, struct cudart_fence *fence)
{
    if (!fence || !cudart_objects_any(graph) ||
        thrum_event_query(fence->event) != THRUM_IN_PROGRESS || !put_when_reached(graph, fence))
        cudart_graph_put(graph);
}

/* ---- executable ones ---- */

static void free_executable(struct executable *executable)
{
    for (size_t i = 1; i < executable->graph->ndevices; i++)
        if (executable->lanes[i].stream)
            cudart_lane_give(executable->lanes[i].stream, executable->lanes[i].queue);
    atomic_store(&executable->graph->instantiated, false);
    retire(executable->graph, executable->order);
    cudart_fence_put(executable->order);
    free(executable->queues);
    pthread_mutex_destroy(&executable->lock);
    free(executable);
}

static cudaError_t take_lanes(struct executable *executable)
{
    const struct cudart_graph *graph = executable->graph;
    struct cudart_device *device;
    cudaError_t error = cudaSuccess;

    for (size_t i = 1; i < graph->ndevices && !error; i++) {
        error = cudart_device_get(graph->devices[i], &device);
        if (!error)
            error = cudart_lane_take(device, &executable->lanes[i].stream);
        if (!error)
            executable->lanes[i].queue = executable->lanes[i].stream->queue;
    }
    return error;
}

static cudaError_t check_flags(unsigned long long flags)
{
    if (flags & cudaGraphInstantiateFlagDeviceLaunch)
        return cudart_fail(cudaErrorNotSupported, "graphs are not launched by devices");
    if (flags & ~(unsigned long long)(cudaGraphInstantiateFlagAutoFreeOnLaunch |
                                      cudaGraphInstantiateFlagUpload |
                                      cudaGraphInstantiateFlagUseNodePriority))
        return cudart_fail(cudaErrorInvalidValue, "flags=%#llx", flags);
    return cudaSuccess;
}

static cudaError_t instantiate(struct cudart_graph *graph, unsigned long long flags,
                               cudaGraphExec_t *out)
{
    struct executable *executable;
    cudaError_t error;

    if (graph->nuses && atomic_exchange(&graph->instantiated, true))
        return cudart_fail(
            cudaErrorNotSupported,
            "a graph that allocates or frees memory has one executable form at a time");
    executable = calloc(1, sizeof *executable + graph->ndevices * sizeof *executable->lanes);
    if (executable)
        executable->queues = calloc(graph->ndevices, sizeof(thrum_queue_t));
    if (!executable || !executable->queues) {
        free(executable);
        atomic_store(&graph->instantiated, false);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph");
    }
    pthread_mutex_init(&executable->lock, NULL);
    atomic_fetch_add(&graph->references, 1);
    executable->graph = graph;
    executable->flags = flags;
    error = take_lanes(executable);
    if (!error && !handle_set_add(&executables, executable, executable))
        error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for a graph");
    if (error) {
        free_executable(executable);
        return error;
    }
    *out = (cudaGraphExec_t)(void *)executable;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t handle, unsigned long long flags)
{
    struct cudart_graph *graph;
    cudaError_t error = cudart_graph_find_ended(handle, &graph);

    if (!error && !out)
        error = cudart_fail(cudaErrorInvalidValue, "executable=NULL");
    if (!error)
        error = check_flags(flags);
    return cudart_result(error ? error : instantiate(graph, flags, out));
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(executable, graph, flags);
}

static cudaError_t find_executable(cudaGraphExec_t handle, struct executable **out)
{
    *out = handle_set_find(&executables, handle);
    return *out
               ? cudaSuccess
               : cudart_fail(cudaErrorInvalidValue, "graph=%p is not a live graph", (void *)handle);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle)
{
    struct executable *executable = handle_set_remove(&executables, handle);

    if (!executable)
        return cudart_result(find_executable(handle, &executable));
    free_executable(executable);
    return cudaSuccess;
}

cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t handle, unsigned long long *flags)
{
    struct executable *executable;
    cudaError_t error = find_executable(handle, &executable);

    if (!error && !flags)
        error = cudart_fail(cudaErrorInvalidValue, "flags=NULL");
    if (!error)
        *flags = executable->flags;
    return cudart_result(error);
}

/* ---- launches ---- */

/* As in CUDA: launches of one executable graph follow one another, on whatever streams. */
static cudaError_t put_behind_last(struct executable *executable, struct cudart_stream *stream)
{
    return executable->order
               ? cudart_of_status(thrum_event_wait(executable->order->event, stream->queue))
               : cudaSuccess;
}

/* The stream's work up to here: what comes later on other streams waits for it, whoever captures this one by then. */
static cudaError_t set_order(struct executable *executable, struct cudart_stream *stream)
{
    if (!executable->order)
        return cudart_fence_new(stream->queue, &executable->order);
    return cudart_of_status(thrum_event_record(executable->order->event, stream->queue));
}

static cudaError_t launch_lanes(struct executable *executable, struct cudart_stream *stream)
{
    size_t n = executable->graph->ndevices;

    executable->queues[0] = stream->queue;
    for (size_t i = 1; i < n; i++) {
        const struct lane *lane = &executable->lanes[i];

        if (!cudart_lane_lives(lane->stream, lane->queue))
            return cudart_fail(cudaErrorContextIsDestroyed,
                               "a device of the graph was reset since it was made executable");
        executable->queues[i] = lane->queue;
        atomic_store(&lane->stream->relays, true);
    }
    return cudart_of_status(
        thrum_graph_launch_lanes(executable->graph->graph, executable->queues, (int)n));
}

static cudaError_t launch(struct executable *executable, struct cudart_stream *stream)
{
    struct cudart_graph *graph = executable->graph;
    cudaError_t error = put_behind_last(executable, stream);

    if (!error)
        error = cudart_graph_memory_begin(
            graph, executable->flags & cudaGraphInstantiateFlagAutoFreeOnLaunch, stream->queue);
    if (error)
        return error;
    atomic_store(&stream->relays, true);
    error = launch_lanes(executable, stream);
    if (!error)
        error = set_order(executable, stream);
    cudart_graph_memory_end(graph, error ? NULL : executable->order);
    return error;
}

/* A graph in a graph: its lanes follow one another there. */
static cudaError_t launch_captured(struct executable *executable, struct cudart_stream *stream)
{
    cudaError_t error;

    if (executable->graph->nuses)
        return cudart_capture_spoil(
            stream, cudaErrorNotSupported,
            "a graph that allocates or frees memory cannot be part of another");
    error = cudart_capture_keep(stream, executable->graph);
    return error ? error
                 : cudart_of_status(thrum_graph_launch(executable->graph->graph, stream->queue));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle)
{
    struct executable *executable;
    struct cudart_stream *stream;
    cudaError_t error = find_executable(handle, &executable);

    if (!error)
        error = cudart_stream_find(stream_handle, -1, &stream);
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeGraph);
    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&executable->lock);
    error = stream->capture ? launch_captured(executable, stream) : launch(executable, stream);
    pthread_mutex_unlock(&executable->lock);
    return cudart_result(error);
}

/* There is nothing to upload: it is where it has to be. */
cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t stream_handle)
{
    struct executable *executable;
    struct cudart_stream *stream;
    cudaError_t error = find_executable(handle, &executable);

    return cudart_result(error ? error : cudart_stream_find(stream_handle, -1, &stream));
}

/* ---- updates ---- */

/* The first node in which they differ; SIZE_MAX: there is none. */
static size_t first_difference(const struct cudart_graph *a, const struct cudart_graph *b,
                               enum cudaGraphExecUpdateResult *result_out)
{
    size_t n = a->nnodes < b->nnodes ? a->nnodes : b->nnodes;

    *result_out = cudaGraphExecUpdateErrorTopologyChanged;
    for (size_t i = 0; i < n; i++) {
        const struct cudart_node *x = &a->nodes[i], *y = &b->nodes[i];
        bool same = x->lane == y->lane && x->ndependencies == y->ndependencies;

        for (size_t d = 0; d < x->ndependencies && same; d++)
            same = a->dependencies[x->first_dependency + d] ==
                   b->dependencies[y->first_dependency + d];
        if (!same)
            return i;
        if (x->type == y->type)
            continue;
        *result_out = cudaGraphExecUpdateErrorNodeTypeChanged;
        return i;
    }
    if (a->nnodes != b->nnodes)
        return n;
    for (size_t i = 0; i < a->ndevices && i < b->ndevices; i++)
        if (a->devices[i] != b->devices[i])
            return 0;
    if (a->ndevices != b->ndevices)
        return 0;
    *result_out = cudaGraphExecUpdateSuccess;
    return SIZE_MAX;
}

/* Under its lock. */
static cudaError_t update(struct executable *executable, struct cudart_graph *graph,
                          cudaGraphExecUpdateResultInfo *info)
{
    struct cudart_graph *old = executable->graph;
    enum cudaGraphExecUpdateResult result;
    size_t i = first_difference(old, graph, &result);

    if (!result && (old->nuses || graph->nuses)) {
        *info = (cudaGraphExecUpdateResultInfo){.result = cudaGraphExecUpdateErrorNotSupported};
        return cudart_fail(cudaErrorGraphExecUpdateFailure,
                           "a graph that allocates or frees memory is not updated");
    }
    *info = (cudaGraphExecUpdateResultInfo){result, cudart_node_handle(graph, i),
                                            cudart_node_handle(old, i)};
    if (result)
        return cudart_fail(cudaErrorGraphExecUpdateFailure, "node %zu of the graph %s",
                           i == SIZE_MAX ? 0 : i,
                           result == cudaGraphExecUpdateErrorNodeTypeChanged
                               ? "is of another type"
                               : "comes behind others, or is not in both");
    atomic_fetch_add(&graph->references, 1);
    executable->graph = graph;
    retire(old, executable->order);
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t handle, cudaGraph_t graph_handle,
                                cudaGraphExecUpdateResultInfo *info)
{
    cudaGraphExecUpdateResultInfo own;
    struct executable *executable;
    struct cudart_graph *graph;
    cudaError_t error = find_executable(handle, &executable);

    if (!error)
        error = cudart_graph_find_ended(graph_handle, &graph);
    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&executable->lock);
    error = update(executable, graph, info ? info : &own);
    pthread_mutex_unlock(&executable->lock);
    return cudart_result(error);
}
