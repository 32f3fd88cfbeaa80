/*
 * Host memory of libcudart.so: pinned, registered, and managed, which is pinned too. It is registered with the device that
 * is current; what it is stands in cudart_memory.c's table. Called by programs.
 */
#include "cudart.h"

#include <stdlib.h>
#include <string.h>

#define PAGE ((size_t)4096)

static cudaError_t pin(void *pointer, size_t bytes, enum cudart_kind kind, unsigned flags)
{
    struct cudart_device *device;
    cudaError_t error = cudart_capture_check_unsafe("cudaHostAlloc, cudaHostRegister or "
                                                    "cudaMallocManaged");

    if (!error)
        error = cudart_device_get(-1, &device);
    if (!error && kind == CUDART_HOST_REGISTERED &&
        cudart_range_of(pointer).kind != CUDART_PAGEABLE)
        return cudart_fail(cudaErrorHostMemoryAlreadyRegistered, "pointer=%p", pointer);
    if (!error)
        error =
            cudart_of_status(thrum_mem_register_host(atomic_load(&device->device), pointer, bytes));
    if (error)
        return error;
    if (cudart_memory_add((struct cudart_range){.base = (uintptr_t)pointer,
                                                .bytes = bytes,
                                                .kind = kind,
                                                .device = device->index,
                                                .flags = flags}))
        return cudaSuccess;
    (void)!thrum_mem_unregister_host(atomic_load(&device->device), pointer);
    return cudart_fail(kind == CUDART_HOST_REGISTERED ? cudaErrorHostMemoryAlreadyRegistered
                                                      : cudaErrorMemoryAllocation,
                       "pointer=%p, %zu bytes: overlaps a registered range, or no host memory",
                       pointer, bytes);
}

static cudaError_t alloc_pinned(void **pointer, size_t bytes, enum cudart_kind kind, unsigned flags)
{
    void *memory;
    cudaError_t error;

    if (!pointer || bytes > SIZE_MAX / 2)
        return cudart_fail(pointer ? cudaErrorMemoryAllocation : cudaErrorInvalidValue,
                           "pointer=%p, %zu bytes", (void *)pointer, bytes);
    if (!bytes) {
        *pointer = NULL;
        return cudaSuccess;
    }
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    memory = aligned_alloc(PAGE, bytes);
    if (!memory)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory for %zu bytes", bytes);
    memset(memory, 0, bytes);
    error = pin(memory, bytes, kind, flags);
    if (error)
        free(memory);
    else
        *pointer = memory;
    return error;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    const unsigned known = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;

    if (flags & ~known)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "flags=%#x", flags));
    return cudart_result(alloc_pinned(pointer, bytes, CUDART_HOST, flags));
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned flags)
{
    if (!bytes || (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost))
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "bytes=%zu, flags=%#x", bytes, flags));
    return cudart_result(alloc_pinned(pointer, bytes, CUDART_MANAGED, flags));
}

cudaError_t cudaFreeHost(void *pointer)
{
    if (!pointer)
        return cudaSuccess;
    return cudart_result(cudart_memory_drop_at(pointer, 1u << CUDART_HOST | 1u << CUDART_MANAGED,
                                               cudaErrorInvalidValue));
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
    const unsigned known =
        cudaHostRegisterPortable | cudaHostRegisterMapped | cudaHostRegisterReadOnly;

    if (!pointer || !bytes || flags & ~known)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "pointer=%p, bytes=%zu, flags=%#x",
                                         pointer, bytes, flags));
    return cudart_result(pin(pointer, bytes, CUDART_HOST_REGISTERED, flags));
}

cudaError_t cudaHostUnregister(void *pointer)
{
    return cudart_result(cudart_memory_drop_at(pointer, 1u << CUDART_HOST_REGISTERED,
                                               cudaErrorHostMemoryNotRegistered));
}

static bool is_pinned(const struct cudart_range *range)
{
    return range->kind == CUDART_HOST || range->kind == CUDART_HOST_REGISTERED ||
           range->kind == CUDART_MANAGED;
}

cudaError_t cudaHostGetDevicePointer(void **device_pointer, void *host_pointer, unsigned flags)
{
    struct cudart_range range = cudart_range_of(host_pointer);

    if (!device_pointer || flags || !is_pinned(&range))
        return cudart_result(cudart_fail(cudaErrorInvalidValue,
                                         "host_pointer=%p is not pinned, or flags=%#x is not 0",
                                         host_pointer, flags));
    *device_pointer = host_pointer;
    return cudaSuccess;
}

cudaError_t cudaHostGetFlags(unsigned *flags, void *host_pointer)
{
    struct cudart_range range = cudart_range_of(host_pointer);

    if (!flags || !is_pinned(&range))
        return cudart_result(
            cudart_fail(cudaErrorInvalidValue, "host_pointer=%p is not pinned", host_pointer));
    *flags = range.flags;
    return cudaSuccess;
}

/* ---- managed memory, which stays where it is ---- */

/* Advice is taken for managed memory and, where devices reach all host memory, for that. */
static cudaError_t check_managed(const void *pointer, size_t bytes, int device)
{
    struct cudart_range range = cudart_range_of(pointer);
    int count = 0;
    cudaError_t error = cudart_device_count(&count);

    if (error)
        return error;
    if (!pointer || !bytes || range.kind == CUDART_DEVICE || range.kind == CUDART_IPC)
        return cudart_fail(cudaErrorInvalidValue, "pointer=%p, bytes=%zu: no managed memory",
                           pointer, bytes);
    if (device < cudaCpuDeviceId || device >= count)
        return cudart_fail(cudaErrorInvalidDevice, "device=%d is not between -1 and %d", device,
                           count - 1);
    return cudaSuccess;
}

static int device_of(struct cudaMemLocation location)
{
    return location.type == cudaMemLocationTypeDevice ? location.id : cudaCpuDeviceId;
}

cudaError_t cudaMemPrefetchAsync(const void *pointer, size_t bytes, int device, cudaStream_t handle)
{
    struct cudart_stream *stream;
    cudaError_t error = check_managed(pointer, bytes, device);

    return cudart_result(error ? error : cudart_stream_find(handle, -1, &stream));
}

cudaError_t cudaMemPrefetchAsync_v2(const void *pointer, size_t bytes,
                                    struct cudaMemLocation location, unsigned flags,
                                    cudaStream_t stream)
{
    if (flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "flags=%#x is not 0", flags));
    return cudaMemPrefetchAsync(pointer, bytes, device_of(location), stream);
}

cudaError_t cudaMemAdvise(const void *pointer, size_t bytes, enum cudaMemoryAdvise advice,
                          int device)
{
    if (advice < cudaMemAdviseSetReadMostly || advice > cudaMemAdviseUnsetAccessedBy)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "advice=%d", (int)advice));
    return cudart_result(check_managed(pointer, bytes, device));
}

cudaError_t cudaMemAdvise_v2(const void *pointer, size_t bytes, enum cudaMemoryAdvise advice,
                             struct cudaMemLocation location)
{
    return cudaMemAdvise(pointer, bytes, advice, device_of(location));
}

cudaError_t cudaStreamAttachMemAsync(cudaStream_t handle, void *pointer, size_t bytes,
                                     unsigned flags)
{
    struct cudart_range range = cudart_range_of(pointer);
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    if (!error && (range.kind != CUDART_MANAGED || range.base != (uintptr_t)pointer))
        error = cudart_fail(cudaErrorInvalidValue, "pointer=%p is not the start of managed memory",
                            pointer);
    if (!error && ((bytes && bytes > range.bytes) ||
                   (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost &&
                    flags != cudaMemAttachSingle)))
        error = cudart_fail(cudaErrorInvalidValue, "bytes=%zu, flags=%#x", bytes, flags);
    return cudart_result(error); /* host and devices see it at any time */
}
