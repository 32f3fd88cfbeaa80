/*
 * Memory of libcudart.so. One table has every allocation and registered range of the process, so that copies know what
 * their ends are. Host memory that is pinned is registered with the device that was current; other devices of the
 * process reach it as they reach any host memory, or register it when they first need it.
 */
#include "cudart.h"

#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

#define PITCH ((size_t)512) /* of rows, as CUDA devices have it */

/* Another device's view of it: of device memory an import, of host memory that it is registered there too. */
struct cudart_import {
    struct cudart_import *next;
    int device; /* who imported */
    uint64_t address;
};

static struct {
    pthread_rwlock_t lock;
    struct cudart_entry *entries; /* by address; ranges do not overlap */
    size_t n, capacity;
} table = {.lock = PTHREAD_RWLOCK_INITIALIZER};

/* ---- the table ---- */

/* Under the lock: the first entry whose end is behind the address. */
static size_t lower(uintptr_t address)
{
    size_t low = 0, high = table.n;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct cudart_range *range = &table.entries[middle].range;

        if (range->base + range->bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Under the lock. */
static struct cudart_entry *find(const void *pointer)
{
    size_t i = lower((uintptr_t)pointer);

    return i < table.n && table.entries[i].range.base <= (uintptr_t)pointer ? &table.entries[i]
                                                                            : NULL;
}

struct cudart_range cudart_range_of(const void *pointer)
{
    struct cudart_range range = {.kind = CUDART_PAGEABLE};
    const struct cudart_entry *entry;

    pthread_rwlock_rdlock(&table.lock);
    entry = find(pointer);
    if (entry)
        range = entry->range;
    pthread_rwlock_unlock(&table.lock);
    return range;
}

bool cudart_memory_add(struct cudart_range range)
{
    bool fits = true;
    size_t i;

    pthread_rwlock_wrlock(&table.lock);
    if (table.n == table.capacity) {
        size_t capacity = table.capacity ? 2 * table.capacity : 64;
        struct cudart_entry *entries = realloc(table.entries, capacity * sizeof *entries);

        fits = entries;
        if (entries) {
            table.entries = entries;
            table.capacity = capacity;
        }
    }
    i = lower(range.base);
    if (i < table.n && table.entries[i].range.base < range.base + range.bytes)
        fits = false;
    if (fits) {
        memmove(&table.entries[i + 1], &table.entries[i], (table.n - i) * sizeof *table.entries);
        table.entries[i] = (struct cudart_entry){.range = range};
        table.n++;
    }
    pthread_rwlock_unlock(&table.lock);
    return fits;
}

bool cudart_memory_take(const void *pointer, unsigned kinds, struct cudart_entry *out)
{
    struct cudart_entry *entry;
    bool found;

    pthread_rwlock_wrlock(&table.lock);
    entry = find(pointer);
    found = entry && entry->range.base == (uintptr_t)pointer && kinds >> entry->range.kind & 1;
    if (found) {
        *out = *entry;
        table.n--;
        memmove(entry, entry + 1,
                (size_t)(table.entries + table.n - entry) * sizeof *table.entries);
    }
    pthread_rwlock_unlock(&table.lock);
    return found;
}

static thrum_device_t thrum_device(int index)
{
    struct cudart_device *device = cudart_device_if_open(index);

    return device ? atomic_load(&device->device) : NULL;
}

static bool is_device(const struct cudart_range *range)
{
    return range->kind == CUDART_DEVICE || range->kind == CUDART_IPC;
}

/* Takes the memory from a device; a device that was reset has forgotten it already. */
static thrum_status_t take_from(int index, const struct cudart_range *range, uint64_t address)
{
    thrum_device_t device = thrum_device(index);
    void *pointer = (void *)(uintptr_t)address;

    if (!device)
        return THRUM_OK;
    return is_device(range) ? thrum_mem_free(device, pointer)
                            : thrum_mem_unregister_host(device, pointer);
}

/* The views of one device, or with -1 of all. */
static void drop_imports(struct cudart_entry *entry, int index)
{
    struct cudart_import **at = &entry->imports, *import;

    while ((import = *at)) {
        if (index != -1 && import->device != index) {
            at = &import->next;
            continue;
        }
        *at = import->next;
        (void)!take_from(import->device, &entry->range, import->address);
        free(import);
    }
}

thrum_status_t cudart_memory_release(struct cudart_entry *entry)
{
    thrum_status_t status;

    drop_imports(entry, -1);
    status = take_from(entry->range.device, &entry->range, entry->range.base);
    if (entry->range.kind == CUDART_HOST || entry->range.kind == CUDART_MANAGED)
        free((void *)entry->range.base);
    return status;
}

/* ---- reaching ---- */

/* Under the lock for writing: the device's own view of another's allocation. */
static thrum_status_t import(struct cudart_device *device, struct cudart_entry *entry,
                             uint64_t *out)
{
    struct thrum_mem_handle handle;
    struct cudart_import *new_one;
    void *address = (void *)entry->range.base;
    thrum_status_t status;

    for (struct cudart_import *i = entry->imports; i; i = i->next)
        if (i->device == device->index) {
            *out = i->address;
            return THRUM_OK;
        }
    new_one = malloc(sizeof *new_one);
    if (!new_one)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for an import");
    if (is_device(&entry->range)) {
        status = thrum_mem_export(thrum_device(entry->range.device), address, &handle);
        if (!status)
            status = thrum_mem_import(atomic_load(&device->device), &handle, &address);
    } else {
        status = thrum_mem_register_host(atomic_load(&device->device), address, entry->range.bytes);
    }
    if (status) {
        free(new_one);
        return status;
    }
    *new_one = (struct cudart_import){entry->imports, device->index, (uint64_t)(uintptr_t)address};
    entry->imports = new_one;
    *out = new_one->address;
    return THRUM_OK;
}

static cudaError_t reach_peer(struct cudart_device *device, const void *pointer,
                              uint64_t *address_out)
{
    struct cudart_entry *entry;
    uint64_t base = 0;
    thrum_status_t status = THRUM_ERR_INVALID_POINTER;

    pthread_rwlock_wrlock(&table.lock);
    entry = find(pointer);
    if (entry)
        status = import(device, entry, &base);
    if (!status)
        *address_out = base + ((uintptr_t)pointer - entry->range.base);
    pthread_rwlock_unlock(&table.lock);
    return cudart_of_status(status);
}

/* Memory that the program has from Thrum itself. */
static bool is_thrums(const struct thrum_mem_info *info)
{
    return info->kind != THRUM_MEM_HOST && info->kind != THRUM_MEM_NONE;
}

cudaError_t cudart_reach(struct cudart_device *device, const char *argument, const void *pointer,
                         size_t bytes, uint64_t *address_out, bool *host_out)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct thrum_mem_info info = {.size = sizeof info};

    if (!pointer)
        return cudart_fail(cudaErrorInvalidValue, "%s=NULL", argument);
    *address_out = (uint64_t)(uintptr_t)pointer;
    if (range.kind == CUDART_PAGEABLE &&
        thrum_mem_query(atomic_load(&device->device), pointer, &info))
        return cudaErrorInvalidValue;
    if (info.kind == THRUM_MEM_NONE)
        return cudart_fail(cudaErrorInvalidValue,
                           "%s=%p is no live device memory: it was freed, or never allocated",
                           argument, pointer);
    if (info.kind == THRUM_MEM_DEVICE && cudart_pool_has_freed(pointer))
        return cudart_fail(cudaErrorInvalidValue, "%s=%p was freed in a stream", argument, pointer);
    if (range.kind == CUDART_PAGEABLE && is_thrums(&info)) {
        range.base = (uintptr_t)info.base;
        range.bytes = info.bytes;
        range.kind =
            info.kind == THRUM_MEM_HOST_REGISTERED ? CUDART_HOST_REGISTERED : CUDART_DEVICE;
        range.device = device->index;
    }
    *host_out = range.kind != CUDART_DEVICE && range.kind != CUDART_IPC;
    if (range.kind == CUDART_PAGEABLE)
        return cudaSuccess;
    if (bytes > range.bytes - ((uintptr_t)pointer - range.base)) {
        /* A registered range is part of a larger piece of host memory. */
        if (*host_out)
            return cudaSuccess;
        return cudart_fail(cudaErrorInvalidValue, "%s=%p: %zu bytes leave the allocation of %zu",
                           argument, pointer, bytes, range.bytes);
    }
    if (range.device == device->index)
        return cudaSuccess;
    return reach_peer(device, pointer, address_out);
}

/* ---- device memory ---- */

cudaError_t cudart_memory_allocate(struct cudart_device *device, size_t bytes,
                                   struct cudart_pool *pool, struct cudart_graph_memory *graph,
                                   void **pointer)
{
    void *address;
    thrum_status_t status = thrum_mem_alloc(atomic_load(&device->device), bytes, &address);

    /* freed in streams, but still held */
    if (status == THRUM_ERR_NO_DEVICE_MEMORY && cudart_pool_reclaim(device->index, true))
        status = thrum_mem_alloc(atomic_load(&device->device), bytes, &address);
    if (status)
        return cudart_of_status(status);
    if (!cudart_memory_add((struct cudart_range){.base = (uintptr_t)address,
                                                 .bytes = bytes,
                                                 .kind = CUDART_DEVICE,
                                                 .device = device->index,
                                                 .pool = pool,
                                                 .graph = graph})) {
        (void)!thrum_mem_free(atomic_load(&device->device), address);
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory");
    }
    *pointer = address;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    struct cudart_device *device;
    cudaError_t error = pointer ? cudart_capture_check_unsafe("cudaMalloc")
                                : cudart_fail(cudaErrorInvalidValue, "pointer=NULL");

    if (!error)
        error = cudart_device_get(-1, &device);
    if (error)
        return cudart_result(error);
    *pointer = NULL;
    return bytes ? cudart_result(cudart_memory_allocate(device, bytes, NULL, NULL, pointer))
                 : cudaSuccess;
}

cudaError_t cudaMallocPitch(void **pointer, size_t *pitch, size_t width, size_t height)
{
    size_t row, bytes;
    cudaError_t error;

    if (!pitch || __builtin_add_overflow(width, PITCH - 1, &row))
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "pitch=%p, width=%zu", (void *)pitch, width));
    row = row / PITCH * PITCH;
    if (__builtin_mul_overflow(row, height, &bytes))
        return cudart_result(cudart_fail(cudaErrorMemoryAllocation,
                                         "%zu rows of %zu bytes are too much", height, row));
    error = cudaMalloc(pointer, bytes);
    if (!error)
        *pitch = row;
    return error;
}

cudaError_t cudaMalloc3D(struct cudaPitchedPtr *pitched, struct cudaExtent extent)
{
    void *pointer = NULL;
    size_t rows, pitch = 0;
    cudaError_t error;

    if (!pitched || __builtin_mul_overflow(extent.height, extent.depth, &rows))
        return cudart_result(cudart_fail(
            cudaErrorInvalidValue, "pitched=%p, or the extent is too large", (void *)pitched));
    error = cudaMallocPitch(&pointer, &pitch, extent.width, rows);
    if (!error)
        *pitched = make_cudaPitchedPtr(pointer, pitch, extent.width, extent.height);
    return error;
}

cudaError_t cudaFree(void *pointer)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct cudart_device *device = cudart_device_if_open(range.device);
    struct cudart_entry entry;
    cudaError_t error;

    if (!pointer)
        return cudaSuccess;
    error = cudart_capture_check_unsafe("cudaFree");
    if (error)
        return cudart_result(error);
    if (range.kind == CUDART_MANAGED && range.base == (uintptr_t)pointer)
        return cudaFreeHost(pointer);
    if (range.kind != CUDART_DEVICE || range.base != (uintptr_t)pointer)
        return cudart_result(cudart_fail(
            cudaErrorInvalidValue, "pointer=%p is not the start of a live allocation", pointer));
    /* As in CUDA: what may still use it ends first. */
    if (device)
        (void)cudart_device_wait(device, true);
    if (range.graph)
        return cudart_result(cudart_graph_memory_free(range.graph, NULL));
    if (!cudart_memory_take(pointer, 1u << CUDART_DEVICE, &entry))
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "pointer=%p was freed", pointer));
    cudart_pool_forget(&entry.range);
    return cudart_result(cudart_of_status(cudart_memory_release(&entry)));
}

cudaError_t cudart_memory_drop_at(void *pointer, unsigned kinds, cudaError_t none)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct cudart_device *device = cudart_device_if_open(range.device);
    struct cudart_entry entry;

    cudaError_t error = cudart_capture_check_unsafe("cudaFreeHost, cudaHostUnregister or "
                                                    "cudaIpcCloseMemHandle");

    if (error)
        return error;
    if (range.base == (uintptr_t)pointer && kinds >> range.kind & 1 && device)
        (void)cudart_device_wait(device, true);
    if (!cudart_memory_take(pointer, kinds, &entry))
        return cudart_fail(none, "pointer=%p is not the start of such memory", pointer);
    return cudart_of_status(cudart_memory_release(&entry));
}

/* ---- what a pointer is ---- */

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    struct cudart_range range = cudart_range_of(pointer);
    void *address = (void *)(uintptr_t)pointer;

    if (!attributes)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "attributes=NULL"));
    *attributes = (struct cudaPointerAttributes){.device = range.device};
    switch (range.kind) {
    case CUDART_DEVICE:
    case CUDART_IPC:
        attributes->type = cudaMemoryTypeDevice;
        attributes->devicePointer = address;
        break;
    case CUDART_HOST:
    case CUDART_HOST_REGISTERED:
        attributes->type = cudaMemoryTypeHost;
        attributes->devicePointer = attributes->hostPointer = address;
        break;
    case CUDART_MANAGED:
        attributes->type = cudaMemoryTypeManaged;
        attributes->devicePointer = attributes->hostPointer = address;
        break;
    default:
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -2;
        attributes->hostPointer = address;
    }
    return cudaSuccess;
}

/* ---- other processes ---- */

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct thrum_mem_handle exported;
    cudaError_t error;

    if (!handle || range.kind != CUDART_DEVICE)
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "pointer=%p is not device memory", pointer));
    error = cudart_of_status(
        thrum_mem_export(thrum_device(range.device), (void *)range.base, &exported));
    if (!error)
        error = cudart_ipc_publish(&exported, handle);
    return cudart_result(error);
}

cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t handle, unsigned flags)
{
    struct thrum_mem_info info = {.size = sizeof info};
    struct thrum_mem_handle exported;
    struct cudart_device *device;
    void *address;
    cudaError_t error = cudart_device_get(-1, &device);

    if (!pointer || flags & ~(unsigned)cudaIpcMemLazyEnablePeerAccess)
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "pointer=%p, flags=%#x", (void *)pointer, flags));
    if (!error)
        error = cudart_ipc_find(&handle, &exported);
    if (!error)
        error =
            cudart_of_status(thrum_mem_import(atomic_load(&device->device), &exported, &address));
    if (error)
        return cudart_result(error);
    error = cudart_of_status(thrum_mem_query(atomic_load(&device->device), address, &info));
    if (!error && !cudart_memory_add((struct cudart_range){.base = (uintptr_t)address,
                                                           .bytes = info.bytes,
                                                           .kind = CUDART_IPC,
                                                           .device = device->index}))
        error = cudart_fail(cudaErrorMemoryAllocation, "no host memory for an import");
    if (error)
        (void)!thrum_mem_free(atomic_load(&device->device), address);
    else
        *pointer = address;
    return cudart_result(error);
}

cudaError_t cudaIpcCloseMemHandle(void *pointer)
{
    return cudart_result(cudart_memory_drop_at(pointer, 1u << CUDART_IPC, cudaErrorInvalidValue));
}

void cudart_memory_drop(struct cudart_device *device)
{
    struct cudart_entry entry;

    (void)cudart_pool_reclaim(device->index, true);

    for (size_t i = 0;;) {
        pthread_rwlock_rdlock(&table.lock);
        while (i < table.n && table.entries[i].range.device != device->index)
            i++;
        if (i == table.n) {
            pthread_rwlock_unlock(&table.lock);
            break;
        }
        entry = table.entries[i];
        pthread_rwlock_unlock(&table.lock);
        if (cudart_memory_take((void *)entry.range.base, ~0u, &entry))
            (void)!cudart_memory_release(&entry);
    }
    pthread_rwlock_wrlock(&table.lock);
    for (size_t i = 0; i < table.n; i++)
        drop_imports(&table.entries[i], device->index);
    pthread_rwlock_unlock(&table.lock);
}
