/*
 * CUDA's devices: numbers of this process for devices that Thrum opens. Device k is Thrum's device k where nobody else has
 * it, and any free one where somebody has: a sim device is as good as another, and every process may call its device 0.
 */
#include "cudart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

static struct {
    pthread_mutex_t lock; /* of opening and resetting */
    pthread_once_t once;
    int count; /* fixed after once */
    thrum_status_t status; /* of once */
    char message[256];
    struct cudart_device *devices; /* fixed after once */
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static _Thread_local int current;

/* ---- counting and opening ---- */

static void count_devices(void)
{
    int there, wanted;

    all.status = thrum_device_count(&there);
    if (all.status) {
        snprintf(all.message, sizeof all.message, "%s", thrum_last_error());
        return;
    }
    wanted = atoi(thrum_plugin_config("THRUM_CUDA_DEVICES"));
    all.count = wanted < there ? wanted : there;
    all.devices = calloc((size_t)all.count, sizeof *all.devices);
    if (!all.devices) {
        all.status = THRUM_ERR_NO_MEMORY;
        all.count = 0;
        return;
    }
    for (int i = 0; i < all.count; i++) {
        all.devices[i].index = i;
        pthread_mutex_init(&all.devices[i].lock, NULL);
    }
}

cudaError_t cudart_device_count(int *count_out)
{
    pthread_once(&all.once, count_devices);
    if (all.status)
        return cudart_fail(all.status == THRUM_ERR_NO_MEMORY ? cudaErrorMemoryAllocation
                                                             : cudaErrorInitializationError,
                           "%s", all.message);
    *count_out = all.count;
    return cudaSuccess;
}

/* Whether another CUDA device of this process stands for the Thrum device. */
static bool is_taken(int thrum_index)
{
    for (int i = 0; i < all.count; i++)
        if (atomic_load(&all.devices[i].device) && all.devices[i].properties.index == thrum_index)
            return true;
    return false;
}

static thrum_status_t open_any(int wanted, thrum_device_t *device_out)
{
    thrum_status_t status = THRUM_ERR_BUSY;

    if (!is_taken(wanted))
        status = thrum_device_open(wanted, device_out);
    return status == THRUM_ERR_BUSY ? thrum_device_open(THRUM_DEVICE_ANY, device_out) : status;
}

/* Under all.lock. */
static thrum_status_t open_device(struct cudart_device *device)
{
    thrum_device_t opened = NULL;
    thrum_status_t status = open_any(device->index, &opened);

    if (status)
        return status;
    device->properties = (struct thrum_device_properties){.size = sizeof device->properties};
    status = thrum_device_get_properties(opened, &device->properties);
    if (!status)
        status = thrum_queue_create(opened, THRUM_QUEUE_DEFAULT, &device->main.queue);
    if (!status)
        status = thrum_event_create(opened, &device->order);
    device->peers = calloc((size_t)all.count, sizeof *device->peers);
    if (!status && !device->peers)
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for a device");
    if (status) {
        free(device->peers);
        thrum_device_close(opened);
        return status;
    }
    device->main.device = device;
    atomic_store(&device->main.references, 1);
    atomic_store(&device->device, opened);
    return THRUM_OK;
}

cudaError_t cudart_device_get(int index, struct cudart_device **device_out)
{
    struct cudart_device *device;
    thrum_status_t status = THRUM_OK;
    int count = 0;
    cudaError_t error = cudart_device_count(&count);

    if (error)
        return error;
    if (index == -1)
        index = current;
    if (index < 0 || index >= count)
        return cudart_fail(cudaErrorInvalidDevice, "device=%d is not between 0 and %d", index,
                           count - 1);
    device = &all.devices[index];
    if (!atomic_load(&device->device)) {
        pthread_mutex_lock(&all.lock);
        if (!atomic_load(&device->device))
            status = open_device(device);
        pthread_mutex_unlock(&all.lock);
    }
    if (!status)
        *device_out = device;
    return cudart_of_status(status);
}

struct cudart_device *cudart_device_if_open(int index)
{
    return all.devices && index >= 0 && index < all.count && atomic_load(&all.devices[index].device)
               ? &all.devices[index]
               : NULL;
}

thrum_status_t thrum_cudart_device(int index, int *index_out, thrum_device_t *device_out)
{
    struct cudart_device *device;
    cudaError_t error = cudart_device_get(index, &device);

    if (error)
        return thrum_plugin_fail(error == cudaErrorDevicesUnavailable ? THRUM_ERR_BUSY
                                                                      : THRUM_ERR_NO_DEVICE,
                                 "%s", thrumCudaErrorDetail());
    *index_out = device->index;
    *device_out = atomic_load(&device->device);
    return THRUM_OK;
}

/* ---- the thread's device ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    if (!count)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "count=NULL"));
    return cudart_result(cudart_device_count(count));
}

cudaError_t cudaSetDevice(int index)
{
    struct cudart_device *device;
    cudaError_t error = index < 0 ? cudart_fail(cudaErrorInvalidDevice, "device=%d", index)
                                  : cudart_device_get(index, &device);

    if (!error)
        current = index;
    return cudart_result(error);
}

cudaError_t cudaGetDevice(int *index)
{
    if (!index)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "device=NULL"));
    *index = current;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    struct cudart_device *device;
    cudaError_t error = cudart_device_get(-1, &device);

    if (!error && atomic_load(&cudart_captures))
        error = cudart_capture_check_device(device);
    if (!error)
        error = cudart_device_wait(device, false);
    if (!error)
        (void)cudart_pool_reclaim(device->index, false);
    return cudart_result(error);
}

cudaError_t cudaDeviceReset(void)
{
    int count = 0;
    cudaError_t error = cudart_device_count(&count);
    struct cudart_device *device = error ? NULL : cudart_device_if_open(current);
    thrum_device_t opened;

    if (!device)
        return cudart_result(error);
    (void)cudart_device_wait(device, true);
    pthread_mutex_lock(&all.lock);
    cudart_streams_drop(device);
    cudart_memory_drop(device);
    opened = atomic_exchange(&device->device, NULL);
    thrum_event_destroy(device->order);
    thrum_queue_destroy(device->main.queue);
    cudart_host_calls_free(&device->main);
    device->main = (struct cudart_stream){.queue = NULL};
    atomic_store(&device->blocking_used, 0);
    free(device->peers);
    /* A communicator on it has its own hold: its device stays until that is destroyed. */
    thrum_device_close(opened);
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int index, unsigned device_flags, unsigned flags)
{
    struct cudart_device *device;

    (void)device_flags; /* hints for waiting */
    return cudart_result(
        index < 0 || flags ? cudart_fail(index < 0 ? cudaErrorInvalidDevice : cudaErrorInvalidValue,
                                         "device=%d, flags=%#x", index, flags)
                           : cudart_device_get(index, &device));
}

cudaError_t cudaSetDeviceFlags(unsigned flags)
{
    if (flags & ~(unsigned)(cudaDeviceScheduleSpin | cudaDeviceScheduleYield |
                            cudaDeviceScheduleBlockingSync | cudaDeviceMapHost))
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "flags=%#x", flags));
    return cudaSuccess; /* hints for waiting; Thrum decides by itself */
}

cudaError_t cudaGetDeviceFlags(unsigned *flags)
{
    if (!flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "flags=NULL"));
    *flags = cudaDeviceScheduleAuto | cudaDeviceMapHost;
    return cudaSuccess;
}

/* ---- what they are ---- */

_Static_assert(sizeof(cudaDeviceProp) == 1032, "CUDA 12's layout");

cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp *out, int index)
{
    struct cudart_device *device;
    cudaError_t error = out && index >= 0
                            ? cudart_device_get(index, &device)
                            : cudart_fail(out ? cudaErrorInvalidDevice : cudaErrorInvalidValue,
                                          "properties=%p, device=%d", (void *)out, index);
    const struct thrum_device_properties *p;

    if (error)
        return cudart_result(error);
    p = &device->properties;
    *out = (cudaDeviceProp){.totalGlobalMem = p->memory_bytes,
                            .memPitch = 0x7fffffff,
                            .warpSize = 32,
                            .maxThreadsPerBlock = 1024,
                            .maxThreadsDim = {1024, 1024, 64},
                            .maxGridSize = {0x7fffffff, 65535, 65535},
                            .major = 9,
                            .multiProcessorCount = (int)p->engines_reduce,
                            .asyncEngineCount = (int)p->engines_dma,
                            .canMapHostMemory = 1,
                            .pciBusID = p->index & 0xff,
                            .pciDomainID = p->index >> 8,
                            .unifiedAddressing = 1,
                            .managedMemory = 1,
                            .pageableMemoryAccess = !!(p->capabilities & THRUM_CAP_PAGEABLE),
                            .concurrentManagedAccess = 1,
                            .canUseHostPointerForRegisteredMem = 1,
                            .hostRegisterSupported = 1};
    snprintf(out->name, sizeof out->name, "Thrum %.*s", (int)sizeof p->name - 1, p->name);
    memcpy(out->uuid.bytes, "thrum", 5);
    out->uuid.bytes[14] = (char)(p->index >> 8);
    out->uuid.bytes[15] = (char)p->index;
    return cudaSuccess;
}

/* CUDA 13's layout, under the old name. */
struct properties_13 {
#define B(type, name, dimension) type name dimension;
#define O(type, name, dimension)
    CUDART_PROPERTIES_MAP(B, O)
#undef B
#undef O
    int added[7], reserved[56];
};
_Static_assert(sizeof(struct properties_13) == 1008, "CUDA 13's layout");

cudaError_t cudart_properties_13(void *out, int index)
{
    struct properties_13 *properties = out;
    cudaDeviceProp full;
    cudaError_t error = cudaGetDeviceProperties_v2(out ? &full : NULL, index);

    if (error)
        return error;
    memset(properties, 0, sizeof *properties);
#define B(type, name, dimension) memcpy(&properties->name, &full.name, sizeof full.name);
#define O(type, name, dimension)
    CUDART_PROPERTIES_MAP(B, O)
#undef B
#undef O
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int index)
{
    cudaDeviceProp p = {.major = 0};
    cudaError_t error = value ? cudaGetDeviceProperties(&p, index)
                              : cudart_fail(cudaErrorInvalidValue, "value=NULL");
    const struct {
        enum cudaDeviceAttr attribute;
        int value;
    } rows[] = {{cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
                {cudaDevAttrWarpSize, p.warpSize},
                {cudaDevAttrClockRate, p.clockRate},
                {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
                {cudaDevAttrIntegrated, p.integrated},
                {cudaDevAttrCanMapHostMemory, p.canMapHostMemory},
                {cudaDevAttrComputeMode, p.computeMode},
                {cudaDevAttrConcurrentKernels, p.concurrentKernels},
                {cudaDevAttrEccEnabled, p.ECCEnabled},
                {cudaDevAttrPciBusId, p.pciBusID},
                {cudaDevAttrPciDeviceId, p.pciDeviceID},
                {cudaDevAttrAsyncEngineCount, p.asyncEngineCount},
                {cudaDevAttrUnifiedAddressing, p.unifiedAddressing},
                {cudaDevAttrPciDomainId, p.pciDomainID},
                {cudaDevAttrComputeCapabilityMajor, p.major},
                {cudaDevAttrComputeCapabilityMinor, p.minor},
                {cudaDevAttrStreamPrioritiesSupported, p.streamPrioritiesSupported},
                {cudaDevAttrManagedMemory, p.managedMemory},
                {cudaDevAttrPageableMemoryAccess, p.pageableMemoryAccess},
                {cudaDevAttrConcurrentManagedAccess, p.concurrentManagedAccess},
                {cudaDevAttrHostRegisterSupported, p.hostRegisterSupported},
                {cudaDevAttrMemoryPoolsSupported, p.memoryPoolsSupported},
                {cudaDevAttrGPUDirectRDMASupported, p.gpuDirectRDMASupported}};

    for (size_t i = 0; !error && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].attribute == attribute) {
            *value = rows[i].value;
            return cudaSuccess;
        }
    return cudart_result(
        error ? error
              : cudart_fail(cudaErrorInvalidValue, "attribute=%d is not known", (int)attribute));
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int index)
{
    cudaDeviceProp p;
    cudaError_t error = text && bytes > 0 ? cudaGetDeviceProperties(&p, index)
                                          : cudart_fail(cudaErrorInvalidValue, "text=%p, bytes=%d",
                                                        (void *)text, bytes);

    if (!error)
        snprintf(text, (size_t)bytes, "%04x:%02x:%02x.0", (unsigned)p.pciDomainID,
                 (unsigned)p.pciBusID, (unsigned)p.pciDeviceID);
    return cudart_result(error);
}

cudaError_t cudaDeviceGetByPCIBusId(int *index, const char *text)
{
    char own[32];
    int count = 0;
    cudaError_t error = index && text
                            ? cudart_device_count(&count)
                            : cudart_fail(cudaErrorInvalidValue, "device or text is NULL");

    for (int i = 0; !error && i < count; i++) {
        error = cudaDeviceGetPCIBusId(own, sizeof own, i);
        if (!error && !strcmp(own, text)) {
            *index = i;
            return cudaSuccess;
        }
    }
    return cudart_result(
        error ? error : cudart_fail(cudaErrorInvalidDevice, "no device is at \"%s\"", text));
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    if (least)
        *least = 0;
    if (greatest)
        *greatest = 0; /* queues have no priorities */
    return cudaSuccess;
}

/* No runtime that a program was linked with is newer than the driver. */
cudaError_t cudaDriverGetVersion(int *version)
{
    if (!version)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "version=NULL"));
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    if (!version)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "version=NULL"));
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    struct thrum_device_properties properties = {.size = sizeof properties};
    struct cudart_device *device;
    cudaError_t error = cudart_device_get(-1, &device);

    if (!error)
        (void)cudart_pool_reclaim(device->index, false);
    if (!error)
        error = cudart_of_status(
            thrum_device_get_properties(atomic_load(&device->device), &properties));
    if (!error && free_bytes)
        *free_bytes = properties.memory_free_bytes;
    if (!error && total_bytes)
        *total_bytes = properties.memory_bytes;
    return cudart_result(error);
}

/* ---- peer access: there is always the device runtime's import ---- */

static cudaError_t check_pair(int index, int peer)
{
    int count = 0;
    cudaError_t error = cudart_device_count(&count);

    if (error)
        return error;
    if (index < 0 || index >= count || peer < 0 || peer >= count)
        return cudart_fail(cudaErrorInvalidDevice, "device=%d, peer=%d: not both between 0 and %d",
                           index, peer, count - 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int index, int peer)
{
    struct cudart_device *device;
    cudaError_t error =
        can ? check_pair(index, peer) : cudart_fail(cudaErrorInvalidValue, "can=NULL");

    if (!error)
        error = cudart_device_get(index, &device);
    if (!error)
        *can = index != peer && device->properties.capabilities & THRUM_CAP_LOAD_STORE;
    return cudart_result(error);
}

static cudaError_t change_peer(int peer, bool enable)
{
    struct cudart_device *device;
    int can = 0;
    cudaError_t error = cudaDeviceCanAccessPeer(&can, current, peer);

    if (!error && !can)
        error =
            cudart_fail(peer == current ? cudaErrorInvalidDevice : cudaErrorPeerAccessUnsupported,
                        "device %d cannot access device %d as a peer", current, peer);
    if (!error)
        error = cudart_device_get(-1, &device);
    if (error)
        return error;
    pthread_mutex_lock(&device->lock);
    if (device->peers[peer] == enable)
        error = enable ? cudaErrorPeerAccessAlreadyEnabled : cudaErrorPeerAccessNotEnabled;
    device->peers[peer] = enable;
    pthread_mutex_unlock(&device->lock);
    return error ? cudart_fail(error, "peer=%d", peer) : cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    if (flags)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "flags=%#x is not 0", flags));
    return cudart_result(change_peer(peer, true));
}

cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
    return cudart_result(change_peer(peer, false));
}

cudaError_t cudaDeviceGetP2PAttribute(int *value, enum cudaDeviceP2PAttr attribute, int index,
                                      int peer)
{
    int can;
    cudaError_t error = value ? cudaDeviceCanAccessPeer(&can, index, peer)
                              : cudart_result(cudart_fail(cudaErrorInvalidValue, "value=NULL"));

    if (!error && (attribute < cudaDevP2PAttrPerformanceRank ||
                   attribute > cudaDevP2PAttrCudaArrayAccessSupported))
        error = cudart_result(
            cudart_fail(cudaErrorInvalidValue, "attribute=%d is not known", (int)attribute));
    if (!error && index == peer)
        error = cudart_result(cudart_fail(cudaErrorInvalidDevice, "device=peer=%d", peer));
    if (!error)
        *value = attribute == cudaDevP2PAttrAccessSupported && can;
    return error;
}
