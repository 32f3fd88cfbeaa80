/*
 * Memory of graphs. What a capture allocates has its address from then on, and the graph keeps that for as long as it lives:
 * a launch allocates (no more than a state here) and a launch, of this graph or another, or the program frees; then the next
 * launch may allocate again, at the same address. What is allocated when its graph goes is the program's, to be freed once.
 * Called by captures, launches and what frees; the state follows the calls, the work on the memory the streams, with fences
 * between.
 */
#include "cudart.h"

#include <stdlib.h>

struct cudart_graph_memory {
    struct cudart_graph_memory *next;
    void *pointer;
    size_t bytes;
    int device;
    bool owned; /* its graph is there */
    bool live; /* a launch has allocated it, and nobody freed it since */
    int frees; /* of graphs: nodes that free it */
    struct cudart_fence *fence; /* behind all work on it so far; NULL: there is none */
};

static struct {
    pthread_mutex_t lock; /* of all that is here, and of the devices' `graph_memory` */
    struct cudart_graph_memory *first;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- fences ---- */

cudaError_t cudart_fence_new(thrum_queue_t queue, struct cudart_fence **fence_out)
{
    struct cudart_fence *fence = malloc(sizeof *fence);
    thrum_status_t status;

    if (!fence)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for an event");
    atomic_init(&fence->references, 1);
    status = thrum_event_create(thrum_queue_device(queue), &fence->event);
    if (status) {
        free(fence);
        return cudart_of_status(status);
    }
    status = thrum_event_record(fence->event, queue);
    if (status)
        cudart_fence_put(fence);
    else
        *fence_out = fence;
    return cudart_of_status(status);
}

void cudart_fence_put(struct cudart_fence *fence)
{
    if (!fence || atomic_fetch_sub(&fence->references, 1) > 1)
        return;
    thrum_event_destroy(fence->event);
    free(fence);
}

/* Under the lock. */
static void set_fence(struct cudart_graph_memory *memory, struct cudart_fence *fence)
{
    if (fence)
        atomic_fetch_add(&fence->references, 1);
    cudart_fence_put(memory->fence);
    memory->fence = fence;
}

/* ---- counts, by device; under the lock ---- */

static void count(const struct cudart_graph_memory *memory, enum cudaGraphMemAttributeType current,
                  bool more)
{
    struct cudart_device *device = cudart_device_if_open(memory->device);
    uint64_t *value = device ? &device->graph_memory[current] : NULL, *high;

    if (!value || (!more && *value < memory->bytes)) /* the device was reset since */
        return;
    *value = more ? *value + memory->bytes : *value - memory->bytes;
    high = value + 1;
    if (*value > *high)
        *high = *value;
}

static void set_live(struct cudart_graph_memory *memory, bool live)
{
    if (memory->live != live)
        count(memory, cudaGraphMemAttrUsedMemCurrent, live);
    memory->live = live;
}

/* ---- life ---- */

/* Under the lock: takes it out of the list if it is nobody's any more. */
static bool unlink_if_over(struct cudart_graph_memory *memory)
{
    struct cudart_graph_memory **at = &all.first;

    if (memory->owned || memory->live || memory->frees)
        return false;
    while (*at != memory)
        at = &(*at)->next;
    *at = memory->next;
    count(memory, cudaGraphMemAttrReservedMemCurrent, false);
    return true;
}

/* It was unlinked: gives the memory back when all work on it is done. A reset of the device may have taken it already. */
static void destroy(struct cudart_graph_memory *memory)
{
    struct cudart_entry entry;

    if (cudart_range_of(memory->pointer).graph == memory &&
        cudart_memory_take(memory->pointer, 1u << CUDART_DEVICE, &entry))
        cudart_pool_give_back(&entry, memory->fence);
    else
        cudart_fence_put(memory->fence);
    free(memory);
}

void cudart_graph_memory_drop(struct cudart_graph_memory *memory)
{
    bool over;

    pthread_mutex_lock(&all.lock);
    memory->owned = false;
    over = unlink_if_over(memory);
    pthread_mutex_unlock(&all.lock);
    if (over)
        destroy(memory);
}

static cudaError_t make(struct cudart_device *device, size_t bytes,
                        struct cudart_graph_memory **memory_out)
{
    struct cudart_graph_memory *memory = calloc(1, sizeof *memory);
    cudaError_t error;

    if (!memory)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for memory of a graph");
    memory->bytes = bytes;
    memory->device = device->index;
    memory->owned = true;
    error = cudart_memory_allocate(device, bytes, NULL, memory, &memory->pointer);
    if (error) {
        free(memory);
        return error;
    }
    pthread_mutex_lock(&all.lock);
    memory->next = all.first;
    all.first = memory;
    count(memory, cudaGraphMemAttrReservedMemCurrent, true);
    pthread_mutex_unlock(&all.lock);
    *memory_out = memory;
    return cudaSuccess;
}

/* ---- in captures ---- */

cudaError_t cudart_graph_allocate(struct cudart_stream *stream, struct cudart_device *device,
                                  size_t bytes, void **pointer)
{
    struct cudart_graph_memory *memory = NULL;
    cudaError_t error;

    *pointer = NULL;
    (void)cudart_pool_reclaim(device->index, false);
    error = bytes ? make(device, bytes, &memory)
                  : cudart_fail(cudaErrorInvalidValue, "bytes=0 in a capture");
    if (error)
        return error;
    error = cudart_capture_use(stream, memory, true);
    if (error)
        cudart_graph_memory_drop(memory);
    else
        *pointer = memory->pointer;
    return error;
}

cudaError_t cudart_graph_free(struct cudart_stream *stream, void *pointer)
{
    struct cudart_graph_memory *memory = cudart_range_of(pointer).graph;
    cudaError_t error;

    if (!memory)
        return cudart_fail(cudaErrorInvalidValue,
                           "pointer=%p is not memory of a graph: a capture frees no other",
                           pointer);
    error = cudart_stream_enter(stream, cudaGraphNodeTypeMemFree);
    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    memory->frees++;
    pthread_mutex_unlock(&all.lock);
    error = cudart_capture_use(stream, memory, false);
    if (!error)
        return cudaSuccess;
    pthread_mutex_lock(&all.lock);
    memory->frees--;
    pthread_mutex_unlock(&all.lock);
    return error;
}

/* ---- outside ---- */

cudaError_t cudart_graph_memory_free(struct cudart_graph_memory *memory, thrum_queue_t queue)
{
    struct cudart_fence *fence = NULL;
    cudaError_t error = queue ? cudart_fence_new(queue, &fence) : cudaSuccess;
    bool over = false;

    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    if (memory->live) {
        set_live(memory, false);
        set_fence(memory, fence);
        over = unlink_if_over(memory);
    } else {
        error = cudart_fail(cudaErrorInvalidValue,
                            "pointer=%p is memory of a graph, which no launch has allocated since "
                            "it was freed",
                            memory->pointer);
    }
    pthread_mutex_unlock(&all.lock);
    cudart_fence_put(fence);
    if (over)
        destroy(memory);
    return error;
}

/* ---- launches ---- */

/* Under the lock. */
static cudaError_t begin_use(struct cudart_memory_use *use, bool automatic, thrum_queue_t queue)
{
    struct cudart_graph_memory *memory = use->memory;

    use->was_live = memory->live;
    if (use->allocates && memory->live && !automatic)
        return cudart_fail(cudaErrorInvalidValue,
                           "the graph has allocated %p before, and nobody has freed it: see "
                           "cudaGraphInstantiateFlagAutoFreeOnLaunch",
                           memory->pointer);
    if (!use->allocates && !memory->live)
        return cudart_fail(cudaErrorInvalidValue,
                           "the graph frees %p, which no launch has allocated since it was freed",
                           memory->pointer);
    set_live(memory, use->allocates);
    return memory->fence ? cudart_of_status(thrum_event_wait(memory->fence->event, queue))
                         : cudaSuccess;
}

/* Under the lock: as if the first n uses had not begun. */
static void take_back(struct cudart_graph *graph, size_t n)
{
    while (n--)
        set_live(graph->uses[n].memory, graph->uses[n].was_live);
}

cudaError_t cudart_graph_memory_begin(struct cudart_graph *graph, bool automatic,
                                      thrum_queue_t queue)
{
    cudaError_t error = cudaSuccess;
    size_t i;

    if (!graph->nuses)
        return cudaSuccess;
    pthread_mutex_lock(&all.lock);
    for (i = 0; i < graph->nuses && !error; i++)
        error = begin_use(&graph->uses[i], automatic, queue);
    if (error)
        take_back(graph, i);
    pthread_mutex_unlock(&all.lock);
    return error;
}

void cudart_graph_memory_end(struct cudart_graph *graph, struct cudart_fence *fence)
{
    if (!graph->nuses)
        return;
    pthread_mutex_lock(&all.lock);
    if (!fence)
        take_back(graph, graph->nuses);
    for (size_t i = 0; i < graph->nuses && fence; i++)
        set_fence(graph->uses[i].memory, fence);
    pthread_mutex_unlock(&all.lock);
}

void cudart_graph_memory_put(struct cudart_graph *graph)
{
    for (size_t i = 0; i < graph->nuses; i++) {
        struct cudart_graph_memory *memory = graph->uses[i].memory;
        bool over;

        pthread_mutex_lock(&all.lock);
        if (graph->uses[i].allocates)
            memory->owned = false;
        else
            memory->frees--;
        over = unlink_if_over(memory);
        pthread_mutex_unlock(&all.lock);
        if (over)
            destroy(memory);
    }
}

/* ---- questions ---- */

static cudaError_t find_attribute(int index, enum cudaGraphMemAttributeType attribute,
                                  const void *value, struct cudart_device **device_out)
{
    if (attribute < cudaGraphMemAttrUsedMemCurrent || attribute > cudaGraphMemAttrReservedMemHigh ||
        !value)
        return cudart_fail(cudaErrorInvalidValue, "attribute=%d, value=%p", (int)attribute, value);
    return index < 0 ? cudart_fail(cudaErrorInvalidDevice, "device=%d", index)
                     : cudart_device_get(index, device_out);
}

cudaError_t cudaDeviceGetGraphMemAttribute(int index, enum cudaGraphMemAttributeType attribute,
                                           void *value)
{
    struct cudart_device *device;
    cudaError_t error = find_attribute(index, attribute, value, &device);

    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&all.lock);
    *(uint64_t *)value = device->graph_memory[attribute];
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

cudaError_t cudaDeviceSetGraphMemAttribute(int index, enum cudaGraphMemAttributeType attribute,
                                           void *value)
{
    struct cudart_device *device;
    cudaError_t error = find_attribute(index, attribute, value, &device);

    if (!error && (*(uint64_t *)value || (attribute != cudaGraphMemAttrUsedMemHigh &&
                                          attribute != cudaGraphMemAttrReservedMemHigh)))
        error = cudart_fail(cudaErrorInvalidValue,
                            "attribute=%d: high watermarks can be set to 0, nothing else",
                            (int)attribute);
    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&all.lock);
    device->graph_memory[attribute] = device->graph_memory[attribute - 1];
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

/* Graphs hold what they need, and nothing else is kept. */
cudaError_t cudaDeviceGraphMemTrim(int index)
{
    struct cudart_device *device;
    cudaError_t error = index < 0 ? cudart_fail(cudaErrorInvalidDevice, "device=%d", index)
                                  : cudart_device_get(index, &device);

    if (!error)
        (void)cudart_pool_reclaim(index, false);
    return cudart_result(error);
}
