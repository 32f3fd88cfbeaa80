/* The sim plugin: its ops table, open, close, properties and reset. Called by the device runtime only. */
#include "sim_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/builtin.h"
#include "sim_reduce.h"

static struct sim_device *devices; /* under devices_lock */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A forked child has no engine threads, and must not keep its parent's devices open. */
static void in_child(void)
{
    for (struct sim_device *device = devices; device; device = device->next) {
        close(device->listen_fd);
        close(device->memory_fd);
        close(device->wake_fd);
        close(device->ras.event_fd);
        device->listen_fd = device->memory_fd = device->wake_fd = device->ras.event_fd = -1;
    }
}

static void lock_devices(void)
{
    pthread_mutex_lock(&devices_lock);
}

static void unlock_devices(void)
{
    pthread_mutex_unlock(&devices_lock);
}

static void unlock_devices_in_child(void)
{
    in_child();
    pthread_mutex_unlock(&devices_lock);
}

static void first_use(void)
{
    sim_heavy_barrier_register();
    pthread_atfork(lock_devices, unlock_devices, unlock_devices_in_child);
}

static thrum_status_t sim_enumerate(int *count_out)
{
    thrum_status_t status = thrum_config_load();

    if (!status)
        *count_out = (int)thrum_config_int(CFG_SIM_DEVICES);
    return status;
}

/* ---- open and close -------------------------------------------------------------------------------------------- */

static void stop_queues(struct sim_device *device, thrum_status_t status)
{
    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (sim_queue_is_alive(queue) && queue->device == device)
            sim_queue_stop(queue, status);
    }
}

static void device_free(struct sim_device *device)
{
    sim_engine_stop(device);
    sim_memory_close(device);
    sim_ras_close(device);
    if (device->listen_fd >= 0)
        close(device->listen_fd);
    free(device->ras.script);
    pthread_mutex_destroy(&device->memory_lock);
    pthread_mutex_destroy(&device->control_lock);
    free(device);
}

static struct sim_device *device_new(int index)
{
    struct sim_device *device = calloc(1, sizeof *device);
    int64_t spin_us = thrum_config_int(CFG_SPIN_US);

    if (!device)
        return NULL;
    device->index = index;
    device->memory_fd = device->listen_fd = device->wake_fd = device->ras.event_fd = -1;
    device->spin_ns = spin_us < 0 ? -1 : spin_us * 1000;
    pthread_mutex_init(&device->memory_lock, NULL);
    pthread_mutex_init(&device->control_lock, NULL);
    return device;
}

static thrum_status_t sim_open(int index, void **device_out)
{
    struct sim_device *device;
    thrum_status_t status;

    pthread_once(&once, first_use);
    device = device_new(index);
    if (!device)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for a device", index);
    status = sim_listen(index, &device->listen_fd);
    if (!status)
        status = sim_ras_open(device);
    else
        pthread_mutex_init(&device->ras.lock, NULL);
    if (!status)
        status = sim_memory_open(device, (uint64_t)thrum_config_int(CFG_SIM_HBM_BYTES));
    if (!status)
        status = sim_script_load(device);
    if (!status)
        status = sim_engine_start(device);
    if (status) {
        device_free(device);
        return status;
    }
    lock_devices();
    device->next = devices;
    devices = device;
    unlock_devices();
    *device_out = device;
    return THRUM_OK;
}

static void sim_close(void *handle)
{
    struct sim_device *device = handle;

    lock_devices();
    for (struct sim_device **link = &devices; *link; link = &(*link)->next)
        if (*link == device) {
            *link = device->next;
            break;
        }
    unlock_devices();
    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (sim_queue_is_alive(queue) && queue->device == device)
            sim_queue_destroy(queue);
    }
    device_free(device);
}

/* ---- properties ------------------------------------------------------------------------------------------------ */

static uint32_t sim_generation(void *device)
{
    return atomic_load_explicit(&((struct sim_device *)device)->shared->generation,
                                memory_order_acquire);
}

static uint64_t sim_own_base(void *device)
{
    return sim_slot_base(
        atomic_load_explicit(&((struct sim_device *)device)->slot, memory_order_acquire));
}

static thrum_status_t sim_properties(void *handle, struct thrum_device_properties *properties_out)
{
    struct sim_device *device = handle;
    struct thrum_device_properties properties = {
        .size = properties_out->size,
        .plugin = "sim",
        .index = device->index,
        .generation = sim_generation(device),
        .capabilities = THRUM_CAP_LOAD_STORE | THRUM_CAP_INDIRECT | THRUM_CAP_DIRECT_SUBMIT |
                        THRUM_CAP_MULTICAST | THRUM_CAP_HOST_CALLBACK | THRUM_CAP_EXCLUSIVE |
                        THRUM_CAP_INLINE_LINE | THRUM_CAP_REDUCE_CALLBACK | THRUM_CAP_SCALE |
                        THRUM_CAP_WIDE | THRUM_CAP_PAGEABLE,
        .memory_bytes = device->shared->hbm_bytes,
        .semaphore_bits = 64,
        .engines_dma = 1,
        .engines_reduce = 1,
        .ports = SIM_MAX_PORTS,
        .max_reduce_sources = SIM_MAX_OPERANDS,
        .numa_node = -1,
    };

    snprintf(properties.name, sizeof properties.name, "sim%d", device->index);
    for (int type = 0; type < THRUM_DATATYPE_COUNT; type++)
        for (int op = 0; op < THRUM_REDOP_COUNT; op++)
            if (sim_reduce_defined((thrum_datatype_t)type, (thrum_redop_t)op)) {
                properties.reduce_types |= 1ull << type;
                properties.reduce_ops |= 1ull << op;
            }
    pthread_mutex_lock(&device->memory_lock);
    properties.memory_free_bytes = device->free_pages << SIM_PAGE_SHIFT;
    pthread_mutex_unlock(&device->memory_lock);
    *properties_out = properties;
    return THRUM_OK;
}

static void sim_set_oversubscribed(void *device, bool oversubscribed)
{
    atomic_store_explicit(&((struct sim_device *)device)->oversubscribed, oversubscribed,
                          memory_order_relaxed);
}

static thrum_status_t sim_rdma_flush(void *device)
{
    (void)
        device; /* NIC and engines see the same, coherent host memory: there is nothing to flush */
    return THRUM_OK;
}

/* ---- reset ----------------------------------------------------------------------------------------------------- */

thrum_status_t sim_reset(void *handle, enum thrum_reset_kind kind)
{
    struct sim_device *device = handle;
    thrum_status_t status = THRUM_OK;
    struct thrum_ras_event event = {.kind = THRUM_RAS_RESET, .address = (uint64_t)kind};

    pthread_mutex_lock(&device->control_lock);
    atomic_fetch_add_explicit(&device->shared->generation, 1, memory_order_acq_rel);
    stop_queues(device, THRUM_ERR_RESET);
    if (kind == THRUM_RESET_HARD)
        status = sim_memory_reset(device);
    sim_ras_rearm(device);
    atomic_store_explicit(&device->ras.throttled, 0, memory_order_relaxed);
    sim_ras_event(device, event);
    pthread_mutex_unlock(&device->control_lock);
    return status;
}

static thrum_status_t create_queue(void *handle, unsigned flags, void **queue_out)
{
    struct sim_device *device = handle;
    thrum_status_t status;

    pthread_mutex_lock(&device->control_lock);
    status = sim_queue_create(device, flags, queue_out);
    pthread_mutex_unlock(&device->control_lock);
    return status;
}

static void destroy_queue(void *handle)
{
    struct sim_device *device = ((struct sim_queue *)handle)->device;

    pthread_mutex_lock(&device->control_lock);
    sim_queue_destroy(handle);
    pthread_mutex_unlock(&device->control_lock);
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static const struct thrum_device_ops sim_ops = {
    .size = sizeof sim_ops,
    .abi_version = THRUM_DEVICE_ABI_VERSION,
    .name = "sim",
    .enumerate = sim_enumerate,
    .open = sim_open,
    .close = sim_close,
    .properties = sim_properties,
    .generation = sim_generation,
    .reset = sim_reset,
    .mem_alloc = sim_mem_alloc,
    .mem_reserve = sim_mem_reserve,
    .mem_free = sim_mem_free,
    .host_register = sim_host_register,
    .host_unregister = sim_host_unregister,
    .mem_query = sim_mem_query,
    .mem_export = sim_mem_export,
    .mem_import = sim_mem_import,
    .address_is_device = sim_is_device_address,
    .mem_peek = sim_mem_peek,
    .mem_poke = sim_mem_poke,
    .address = sim_address,
    .peer_access = sim_peer_access,
    .peer_window_open = sim_peer_window_open,
    .peer_window_close = sim_peer_window_close,
    .own_base = sim_own_base,
    .queue_create = create_queue,
    .queue_destroy = destroy_queue,
    .queue_id = sim_queue_id,
    .submit = sim_submit,
    .check = sim_check,
    .submit_checked = sim_submit_checked,
    .submit_meanwhile = sim_submit_meanwhile,
    .poll = sim_poll,
    .wait = sim_wait,
    .cancel = sim_cancel,
    .set_oversubscribed = sim_set_oversubscribed,
    .port_region = sim_port_region,
    .port_attach = sim_port_attach,
    .port_detach = sim_port_detach,
    .rdma_flush = sim_rdma_flush,
    .event_fd = sim_event_fd,
    .get_events = sim_get_events,
    .counters = sim_counters,
    .fault_info = sim_fault_info,
    .inject = sim_inject,
};

const struct thrum_device_ops *sim_device_plugin(uint32_t library_abi_version)
{
    return library_abi_version == THRUM_DEVICE_ABI_VERSION ? &sim_ops : NULL;
}
