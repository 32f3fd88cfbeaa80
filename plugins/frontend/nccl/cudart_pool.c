/*
 * Memory of streams (cudaMallocAsync, cudaFreeAsync) and its pools. Memory is there at once. What a stream frees is given
 * back when the stream has come that far: it is looked for at the next call here, at a synchronize of the pool's device, and where
 * memory is short. What captures allocate is their graphs' (cudart_graph_memory.c).
 */
#include "cudart.h"

#include <stdlib.h>

struct cudart_pool {
    struct cudart_pool *next; /* of the device; the first is the default one */
    int device;
    uint64_t used, used_high; /* bytes that are allocated */
    uint64_t held, held_high; /* and those that are freed but not given back yet */
    uint64_t threshold;
    int reuse[3];
    bool destroyed; /* goes with its last memory */
};

/* What a stream has freed, or will have. */
struct pending {
    struct pending *next;
    struct cudart_entry entry;
    struct cudart_fence *fence; /* NULL: it may be given back now */
};

static struct {
    pthread_mutex_t lock; /* of all that is here */
    struct cudart_pool **pools; /* by device: a list */
    struct cudart_pool **chosen; /* by device: cudaDeviceSetMemPool's */
    int ndevices;
    struct pending *pending;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- pools; all under the lock ---- */

static struct cudart_pool *new_pool(int device)
{
    struct cudart_pool *pool = calloc(1, sizeof *pool);

    if (!pool)
        return NULL;
    pool->device = device;
    for (int i = 0; i < 3; i++)
        pool->reuse[i] = 1;
    return pool;
}

static cudaError_t make_lists(void)
{
    int count = 0;
    cudaError_t error = cudart_device_count(&count);

    if (error || all.ndevices)
        return error;
    all.pools = calloc((size_t)count, sizeof(struct cudart_pool *));
    all.chosen = calloc((size_t)count, sizeof(struct cudart_pool *));
    if (!all.pools || !all.chosen) {
        free(all.pools);
        free(all.chosen);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for pools");
    }
    all.ndevices = count;
    return cudaSuccess;
}

static cudaError_t default_pool(int device, struct cudart_pool **out)
{
    cudaError_t error = make_lists();

    if (!error && (device < 0 || device >= all.ndevices))
        error = cudart_fail(cudaErrorInvalidDevice, "device=%d is not between 0 and %d", device,
                            all.ndevices - 1);
    if (!error && !all.pools[device]) {
        all.pools[device] = all.chosen[device] = new_pool(device);
        if (!all.pools[device])
            error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for a pool");
    }
    if (!error)
        *out = all.pools[device];
    return error;
}

static cudaError_t find_pool(cudaMemPool_t handle, struct cudart_pool **out)
{
    for (int d = 0; d < all.ndevices; d++)
        for (struct cudart_pool *pool = all.pools[d]; pool; pool = pool->next)
            if (pool == (void *)handle && !pool->destroyed) {
                *out = pool;
                return cudaSuccess;
            }
    return cudart_fail(cudaErrorInvalidValue, "pool=%p is no live pool", (void *)handle);
}

static void drop_if_over(struct cudart_pool *pool)
{
    struct cudart_pool **at = &all.pools[pool->device];

    if (!pool->destroyed || pool->held)
        return;
    while (*at != pool)
        at = &(*at)->next;
    *at = pool->next;
    free(pool);
}

static void count_in(struct cudart_pool *pool, uint64_t bytes)
{
    pool->used += bytes;
    pool->held += bytes;
    if (pool->used > pool->used_high)
        pool->used_high = pool->used;
    if (pool->held > pool->held_high)
        pool->held_high = pool->held;
}

/* ---- giving back ---- */

/* Under the lock: takes out one that may be given back now; NULL: none. */
static struct pending *take_ended(int device, bool any)
{
    for (struct pending **at = &all.pending, *pending; (pending = *at); at = &pending->next) {
        if (pending->entry.range.device != device ||
            (!any && pending->fence &&
             thrum_event_query(pending->fence->event) == THRUM_IN_PROGRESS))
            continue;
        *at = pending->next;
        return pending;
    }
    return NULL;
}

static void give_back(struct pending *pending)
{
    struct cudart_pool *pool = pending->entry.range.pool;

    if (pending->fence)
        (void)!thrum_event_synchronize(pending->fence->event);
    cudart_fence_put(pending->fence);
    (void)!cudart_memory_release(&pending->entry);
    pthread_mutex_lock(&all.lock);
    if (pool) {
        pool->held -= pending->entry.range.bytes;
        drop_if_over(pool);
    }
    pthread_mutex_unlock(&all.lock);
    free(pending);
}

bool cudart_pool_reclaim(int device, bool and_wait)
{
    struct pending *pending;
    bool any = false;

    for (;; any = true) {
        pthread_mutex_lock(&all.lock);
        pending = take_ended(device, and_wait);
        pthread_mutex_unlock(&all.lock);
        if (!pending)
            return any;
        give_back(pending);
    }
}

bool cudart_pool_has_freed(const void *pointer)
{
    bool found = false;

    pthread_mutex_lock(&all.lock);
    for (const struct pending *p = all.pending; p && !found; p = p->next)
        found = (uintptr_t)pointer - p->entry.range.base < p->entry.range.bytes;
    pthread_mutex_unlock(&all.lock);
    return found;
}

/* Not under the lock. */
void cudart_pool_forget(const struct cudart_range *range)
{
    struct cudart_pool *pool = range->pool;

    if (!pool)
        return;
    pthread_mutex_lock(&all.lock);
    pool->used -= range->bytes;
    pool->held -= range->bytes;
    drop_if_over(pool);
    pthread_mutex_unlock(&all.lock);
}

void cudart_pool_give_back(const struct cudart_entry *entry, struct cudart_fence *fence)
{
    struct pending *pending = malloc(sizeof *pending);
    struct cudart_pool *pool = entry->range.pool;

    if (!pending) { /* then not before the end: waiting here might be for who waits for us */
        cudart_fence_put(fence);
        return;
    }
    *pending = (struct pending){.entry = *entry, .fence = fence};
    pthread_mutex_lock(&all.lock);
    if (pool)
        pool->used -= entry->range.bytes;
    pending->next = all.pending;
    all.pending = pending;
    pthread_mutex_unlock(&all.lock);
    (void)cudart_pool_reclaim(entry->range.device, false);
}

/* ---- memory ---- */

static cudaError_t allocate(void **pointer, size_t bytes, struct cudart_pool *pool)
{
    struct cudart_device *device;
    cudaError_t error = cudart_device_get(pool->device, &device);

    *pointer = NULL;
    (void)cudart_pool_reclaim(pool->device, false);
    if (error || !bytes)
        return error;
    error = cudart_memory_allocate(device, bytes, pool, NULL, pointer);
    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    count_in(pool, bytes);
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

/* handle NULL: the one that the stream's device has chosen. */
static cudaError_t malloc_async(void **pointer, size_t bytes, cudaMemPool_t handle,
                                cudaStream_t stream_handle)
{
    struct cudart_pool *pool = NULL;
    struct cudart_device *device;
    struct cudart_stream *stream;
    cudaError_t error = pointer ? cudart_stream_find(stream_handle, -1, &stream)
                                : cudart_fail(cudaErrorInvalidValue, "pointer=NULL");

    if (!error)
        error = stream->device ? cudaSuccess : cudart_device_get(-1, &device);
    if (!error && stream->device)
        device = stream->device;
    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    error = handle ? find_pool(handle, &pool) : default_pool(device->index, &pool);
    if (!error && !handle)
        pool = all.chosen[device->index];
    pthread_mutex_unlock(&all.lock);
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeMemAlloc);
    if (!error && stream->capture) /* all that its pool says is where */
        return cudart_device_get(pool->device, &device) == cudaSuccess
                   ? cudart_graph_allocate(stream, device, bytes, pointer)
                   : cudaErrorInvalidDevice;
    return error ? error : allocate(pointer, bytes, pool);
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
    return cudart_result(malloc_async(pointer, bytes, NULL, stream));
}

cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream)
{
    return cudart_result(pool ? malloc_async(pointer, bytes, pool, stream)
                              : cudart_fail(cudaErrorInvalidValue, "pool=NULL"));
}

static cudaError_t free_behind(struct cudart_stream *stream, void *pointer)
{
    struct cudart_entry entry;
    struct cudart_fence *fence;
    cudaError_t error = cudart_fence_new(stream->queue, &fence);

    if (error)
        return error;
    if (!cudart_memory_take(pointer, 1u << CUDART_DEVICE, &entry)) {
        cudart_fence_put(fence);
        return cudart_fail(cudaErrorInvalidValue, "pointer=%p was freed", pointer);
    }
    cudart_pool_give_back(&entry, fence);
    return cudaSuccess;
}

static cudaError_t free_async(void *pointer, cudaStream_t handle)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    if (error || !pointer)
        return error;
    if (range.kind != CUDART_DEVICE || range.base != (uintptr_t)pointer)
        return cudart_fail(cudaErrorInvalidValue,
                           "pointer=%p is not the start of a live allocation", pointer);
    if (stream->capture)
        return cudart_graph_free(stream, pointer);
    error = cudart_stream_enter(stream, cudaGraphNodeTypeMemFree);
    if (error)
        return error;
    return range.graph ? cudart_graph_memory_free(range.graph, stream->queue)
                       : free_behind(stream, pointer);
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    return cudart_result(free_async(pointer, stream));
}

/* ---- pools of programs ---- */

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *handle, int device)
{
    struct cudart_pool *pool = NULL;
    cudaError_t error;

    if (!handle)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "pool=NULL"));
    pthread_mutex_lock(&all.lock);
    error = default_pool(device, &pool);
    pthread_mutex_unlock(&all.lock);
    if (!error)
        *handle = (cudaMemPool_t)(void *)pool;
    return cudart_result(error);
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *handle, int device)
{
    cudaError_t error = cudaDeviceGetDefaultMemPool(handle, device);

    if (error)
        return error;
    pthread_mutex_lock(&all.lock);
    *handle = (cudaMemPool_t)(void *)all.chosen[device];
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t handle)
{
    struct cudart_pool *pool, *first;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = default_pool(device, &first);
    if (!error)
        error = find_pool(handle, &pool);
    if (!error && pool->device != device)
        error = cudart_fail(cudaErrorInvalidDevice, "the pool is of device %d", pool->device);
    if (!error)
        all.chosen[device] = pool;
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *handle, const struct cudaMemPoolProps *properties)
{
    struct cudart_pool *first, *pool = NULL;
    cudaError_t error = cudaSuccess;

    if (!handle || !properties || properties->allocType != cudaMemAllocationTypePinned)
        error = cudart_fail(cudaErrorInvalidValue, "pool, properties or its allocType");
    else if (properties->location.type != cudaMemLocationTypeDevice ||
             properties->handleTypes != cudaMemHandleTypeNone)
        error =
            cudart_fail(cudaErrorNotSupported, "pools are of device memory, and of one process");
    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&all.lock);
    error = default_pool(properties->location.id, &first);
    if (!error && !(pool = new_pool(properties->location.id)))
        error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for a pool");
    if (!error) {
        pool->next = first->next;
        first->next = pool;
        *handle = (cudaMemPool_t)(void *)pool;
    }
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t handle)
{
    struct cudart_pool *pool;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = find_pool(handle, &pool);
    if (!error && pool == all.pools[pool->device])
        error = cudart_fail(cudaErrorInvalidValue, "the default pool cannot be destroyed");
    if (!error) {
        if (all.chosen[pool->device] == pool)
            all.chosen[pool->device] = all.pools[pool->device];
        pool->destroyed = true;
        drop_if_over(pool);
    }
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

/* The attribute's place in the pool; *wide_out: it has 64 bits. NULL: there is no such attribute. */
static void *attribute_at(struct cudart_pool *pool, enum cudaMemPoolAttr attribute, bool *wide_out)
{
    *wide_out = attribute >= cudaMemPoolAttrReleaseThreshold;
    switch (attribute) {
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
        return &pool->reuse[attribute - cudaMemPoolReuseFollowEventDependencies];
    case cudaMemPoolAttrReleaseThreshold:
        return &pool->threshold;
    case cudaMemPoolAttrReservedMemCurrent:
        return &pool->held;
    case cudaMemPoolAttrReservedMemHigh:
        return &pool->held_high;
    case cudaMemPoolAttrUsedMemCurrent:
        return &pool->used;
    case cudaMemPoolAttrUsedMemHigh:
        return &pool->used_high;
    }
    return NULL;
}

static cudaError_t find_attribute(cudaMemPool_t handle, enum cudaMemPoolAttr attribute,
                                  const void *value, struct cudart_pool **pool_out, void **at_out,
                                  bool *wide_out)
{
    cudaError_t error = find_pool(handle, pool_out);

    if (error)
        return error;
    *at_out = attribute_at(*pool_out, attribute, wide_out);
    if (!*at_out || !value)
        error = cudart_fail(cudaErrorInvalidValue, "attribute=%d, value=%p", (int)attribute, value);
    return error;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t handle, enum cudaMemPoolAttr attribute,
                                    void *value)
{
    struct cudart_pool *pool;
    void *at;
    bool wide;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = find_attribute(handle, attribute, value, &pool, &at, &wide);
    if (!error && wide)
        *(uint64_t *)value = *(uint64_t *)at;
    else if (!error)
        *(int *)value = *(int *)at;
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, enum cudaMemPoolAttr attribute,
                                    void *value)
{
    struct cudart_pool *pool;
    void *at;
    bool wide;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = find_attribute(handle, attribute, value, &pool, &at, &wide);
    if (!error && attribute > cudaMemPoolAttrReleaseThreshold &&
        ((attribute != cudaMemPoolAttrReservedMemHigh && attribute != cudaMemPoolAttrUsedMemHigh) ||
         *(uint64_t *)value))
        error = cudart_fail(cudaErrorInvalidValue,
                            "attribute=%d: high watermarks can be set to 0, nothing else",
                            (int)attribute);
    if (!error && attribute == cudaMemPoolAttrReservedMemHigh)
        pool->held_high = pool->held;
    else if (!error && attribute == cudaMemPoolAttrUsedMemHigh)
        pool->used_high = pool->used;
    else if (!error && wide)
        *(uint64_t *)at = *(uint64_t *)value;
    else if (!error)
        *(int *)at = *(int *)value;
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

/* Nothing is kept but what streams still use. */
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t handle, size_t bytes)
{
    struct cudart_pool *pool;
    int device = 0;
    cudaError_t error;

    (void)bytes;
    pthread_mutex_lock(&all.lock);
    error = find_pool(handle, &pool);
    if (!error)
        device = pool->device;
    pthread_mutex_unlock(&all.lock);
    if (!error)
        (void)cudart_pool_reclaim(device, false);
    return cudart_result(error);
}

/* Whether the location is a device that reaches the pool's memory: all do, at any time. */
static cudaError_t check_location(const struct cudart_pool *pool,
                                  const struct cudaMemLocation *location)
{
    int can = 0;
    cudaError_t error;

    if (location->type != cudaMemLocationTypeDevice)
        return cudart_fail(cudaErrorInvalidValue, "location.type=%d is no device",
                           (int)location->type);
    error = cudaDeviceCanAccessPeer(&can, location->id, pool->device);
    if (!error && !can && location->id != pool->device)
        error = cudart_fail(cudaErrorPeerAccessUnsupported, "device %d does not reach device %d",
                            location->id, pool->device);
    return error;
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t handle, const struct cudaMemAccessDesc *list,
                                 size_t n)
{
    struct cudart_pool *pool;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = find_pool(handle, &pool);
    if (!error && (!list || !n))
        error = cudart_fail(cudaErrorInvalidValue, "list=%p, n=%zu", (const void *)list, n);
    for (size_t i = 0; i < n && !error; i++)
        error = check_location(pool, &list[i].location);
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}

cudaError_t cudaMemPoolGetAccess(enum cudaMemAccessFlags *flags, cudaMemPool_t handle,
                                 struct cudaMemLocation *location)
{
    struct cudart_pool *pool;
    cudaError_t error;

    pthread_mutex_lock(&all.lock);
    error = find_pool(handle, &pool);
    if (!error && (!flags || !location))
        error = cudart_fail(cudaErrorInvalidValue, "flags or location is NULL");
    if (!error)
        error = check_location(pool, location);
    if (!error)
        *flags = cudaMemAccessFlagsProtReadWrite;
    pthread_mutex_unlock(&all.lock);
    return cudart_result(error);
}
