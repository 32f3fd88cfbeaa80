/*
 * Copies between plain host memory and device memory. Small ones bounce through registered chunks; large ones register
 * the caller's range for as long as the copy takes. Also what a device leaves behind at close.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/device_internal.h"

#define CHUNK_BYTES (256u << 10)
#define DIRECT_BYTES (1u << 20) /* from here on registering is cheaper than a second copy */

struct staging {
    struct staging *next;
    _Alignas(CACHE_LINE_BYTES) char bytes[CHUNK_BYTES];
};

/* Ranges that are registered by a copy that is under way; another copy must not lean on them. */
struct temporary {
    struct temporary *next;
    uintptr_t start, end;
    const struct thrum_device *device;
};
static struct temporary *temporaries; /* under temporaries_lock */
static pthread_mutex_t temporaries_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- chunks ---------------------------------------------------------------------------------------------------- */

/* No lock is held while a copy waits: a queue may wait for what another thread copies. */
static struct staging *chunk_get(struct thrum_device *device)
{
    struct staging *chunk;

    pthread_mutex_lock(&device->staging_lock);
    chunk = device->staging;
    if (chunk)
        device->staging = chunk->next;
    pthread_mutex_unlock(&device->staging_lock);
    if (chunk)
        return chunk;
    chunk = aligned_alloc(CACHE_LINE_BYTES, sizeof *chunk);
    if (!chunk) {
        (void)thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for staging");
        return NULL;
    }
    if (device->ops->host_register(device->impl, chunk->bytes, sizeof chunk->bytes)) {
        free(chunk);
        return NULL;
    }
    return chunk;
}

static void chunk_put(struct thrum_device *device, struct staging *chunk)
{
    pthread_mutex_lock(&device->staging_lock);
    chunk->next = device->staging;
    device->staging = chunk;
    pthread_mutex_unlock(&device->staging_lock);
}

void staging_release(struct thrum_device *device)
{
    struct staging *next;

    for (struct staging *chunk = device->staging; chunk; chunk = next) {
        next = chunk->next;
        (void)device->ops->host_unregister(device->impl, chunk->bytes);
        free(chunk);
    }
    device->staging = NULL;
}

/* ---- copies ---------------------------------------------------------------------------------------------------- */

static thrum_status_t copy_and_wait(thrum_queue_t queue, void *dst, const void *src, size_t bytes)
{
    struct thrum_operand operands[] = {{.base = (uint64_t)(uintptr_t)dst},
                                       {.base = (uint64_t)(uintptr_t)src}};
    struct thrum_command command = {
        .opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = bytes, .operands = operands};
    uint64_t ticket;
    thrum_status_t status = thrum_queue_submit(queue, &command, 1, &ticket);

    if (status)
        return status;
    status = queue->ops->wait(queue->impl, ticket, -1);
    if (status == THRUM_ERR_FAULT || status == THRUM_ERR_BAD_PACKET)
        return thrum_queue_synchronize(queue); /* says where */
    if (status)
        return thrum_fail(status, "copy: %s", thrum_status_string(status));
    return THRUM_OK;
}

static thrum_status_t copy_by_chunks(thrum_queue_t queue, char *dst, const char *src, size_t bytes,
                                     bool to_device)
{
    struct staging *chunk = chunk_get(queue->device);
    thrum_status_t status = THRUM_OK;

    if (!chunk)
        return THRUM_ERR_NO_MEMORY;
    while (bytes && !status) {
        size_t n = bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES;
        if (to_device)
            memcpy(chunk->bytes, src, n);
        status = to_device ? copy_and_wait(queue, dst, chunk->bytes, n)
                           : copy_and_wait(queue, chunk->bytes, src, n);
        if (!to_device && !status)
            memcpy(dst, chunk->bytes, n);
        dst += n;
        src += n;
        bytes -= n;
    }
    chunk_put(queue->device, chunk);
    return status;
}

static bool temporary_add(struct temporary *temporary)
{
    bool overlaps = false;

    pthread_mutex_lock(&temporaries_lock);
    for (struct temporary *other = temporaries; other && !overlaps; other = other->next)
        overlaps = other->device == temporary->device && other->start < temporary->end &&
                   temporary->start < other->end;
    if (!overlaps) {
        temporary->next = temporaries;
        temporaries = temporary;
    }
    pthread_mutex_unlock(&temporaries_lock);
    return !overlaps;
}

static void temporary_remove(struct temporary *temporary)
{
    pthread_mutex_lock(&temporaries_lock);
    for (struct temporary **link = &temporaries; *link; link = &(*link)->next)
        if (*link == temporary) {
            *link = temporary->next;
            break;
        }
    pthread_mutex_unlock(&temporaries_lock);
}

static bool is_registered(struct thrum_device *device, const void *host, size_t bytes)
{
    struct thrum_mem_info info = {.size = sizeof info};

    return !device->ops->mem_query(device->impl, (uint64_t)(uintptr_t)host, &info) &&
           info.kind == THRUM_MEM_HOST_REGISTERED &&
           (uintptr_t)host + bytes <= (uintptr_t)info.base + info.bytes;
}

static thrum_status_t copy_host(thrum_queue_t queue, void *dst, const void *src, size_t bytes,
                                bool to_device)
{
    struct thrum_device *device = queue->device;
    void *host = to_device ? (void *)(uintptr_t)src : dst;
    struct temporary temporary = {
        .start = (uintptr_t)host, .end = (uintptr_t)host + bytes, .device = device};
    thrum_status_t status;

    if (bytes < DIRECT_BYTES || !temporary_add(&temporary))
        return copy_by_chunks(queue, dst, src, bytes, to_device);
    if (is_registered(device, host, bytes)) {
        status = copy_and_wait(queue, dst, src, bytes);
    } else if (!device->ops->host_register(device->impl, host, bytes)) {
        status = copy_and_wait(queue, dst, src, bytes);
        (void)device->ops->host_unregister(device->impl, host);
        device_forget_memory(device); /* somebody may have met it in a call */
    } else {
        status = copy_by_chunks(queue, dst, src, bytes, to_device);
    }
    temporary_remove(&temporary);
    return status;
}

static thrum_status_t check_copy(thrum_queue_t queue, const void *dst, const void *src,
                                 const char *call)
{
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, call);
    if (!status && (!dst || !src))
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s=NULL", dst ? "src" : "dst");
    return status;
}

thrum_status_t thrum_copy_to_device(thrum_queue_t queue, void *dst, const void *host_src,
                                    size_t bytes)
{
    thrum_status_t status = check_copy(queue, dst, host_src, "thrum_copy_to_device");

    return status ? status : copy_host(queue, dst, host_src, bytes, true);
}

thrum_status_t thrum_copy_to_host(thrum_queue_t queue, void *host_dst, const void *src,
                                  size_t bytes)
{
    thrum_status_t status = check_copy(queue, host_dst, src, "thrum_copy_to_host");

    return status ? status : copy_host(queue, host_dst, src, bytes, false);
}

/* ---- what is left at close ------------------------------------------------------------------------------------- */

void device_sweep(struct thrum_device *device)
{
    for (size_t i = 0; i < handle_high(HANDLE_QUEUE); i++) {
        struct thrum_queue *queue = handle_at(HANDLE_QUEUE, i);
        if (queue && queue->device == device)
            queue_end(queue);
    }
    for (size_t i = 0; i < handle_high(HANDLE_EVENT); i++) {
        struct thrum_event *event = handle_at(HANDLE_EVENT, i);
        if (event && event->device == device)
            thrum_event_destroy(event);
    }
    for (size_t i = 0; i < handle_high(HANDLE_SEMAPHORE); i++) {
        struct thrum_semaphore *semaphore = handle_at(HANDLE_SEMAPHORE, i);
        if (semaphore && semaphore->device == device)
            thrum_semaphore_destroy(semaphore);
    }
}
