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
        cudart_limits_init(&all.devices[i]);
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
    memset(device->graph_memory, 0, sizeof device->graph_memory);
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

/* ---- the current one ---- */

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    if (least)
        *least = 0;
    if (greatest)
        *greatest = 0; /* queues have no priorities */
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
