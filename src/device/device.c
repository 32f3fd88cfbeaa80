/* Public calls on devices and their memory, over the plugin's table. Called by applications and by comm. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "device/device_internal.h"

static struct {
    pthread_mutex_t lock;
    struct thrum_device *devices; /* open ones, under lock */
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool device_is_valid(const struct thrum_device *device)
{
    return handle_is_valid(HANDLE_DEVICE, device);
}

thrum_status_t device_check(const struct thrum_device *device)
{
    if (device_is_valid(device))
        return THRUM_OK;
    return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "device=%p is not open", (const void *)device);
}

/* ---- devices --------------------------------------------------------------------------------------------------- */

static thrum_status_t configured_plugin(const struct thrum_device_ops **ops_out)
{
    thrum_status_t status = thrum_config_load();

    return status ? status : device_plugin_load(thrum_config_string(CFG_DEVICE), ops_out);
}

thrum_status_t thrum_device_count(int *count_out)
{
    const struct thrum_device_ops *ops;
    thrum_status_t status;

    if (!count_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "count_out=NULL");
    status = configured_plugin(&ops);
    return status ? status : ops->enumerate(count_out);
}

/* Under the registry lock. */
static thrum_status_t open_new(const struct thrum_device_ops *ops, int index,
                               thrum_device_t *device_out)
{
    struct thrum_device *device;
    void *impl;
    thrum_status_t status;

    (void)thrum_set_last_error(THRUM_OK, ""); /* a plugin of a vendor cannot set a text */
    status = ops->open(index, &impl);
    if (status)
        return *thrum_last_error() ? status
                                   : thrum_fail(status, "%s: device %d: %s", ops->name, index,
                                                thrum_status_string(status));
    device = handle_take(HANDLE_DEVICE);
    if (!device) {
        ops->close(impl);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a device handle");
    }
    device->ops = ops;
    device->impl = impl;
    device->index = index;
    device->opens = 1;
    device->own_base = ops->own_base(impl);
    device->properties.size = sizeof device->properties;
    pthread_mutex_init(&device->staging_lock, NULL);
    status = ops->properties(impl, &device->properties);
    if (status) {
        ops->close(impl);
        handle_give(HANDLE_DEVICE, device);
        return status;
    }
    device->next = registry.devices;
    registry.devices = device;
    handle_publish(HANDLE_DEVICE, device);
    *device_out = device;
    return THRUM_OK;
}

static struct thrum_device *find_open(const struct thrum_device_ops *ops, int index)
{
    for (struct thrum_device *device = registry.devices; device; device = device->next)
        if (device->ops == ops && device->index == index)
            return device;
    return NULL;
}

static thrum_status_t open_any(const struct thrum_device_ops *ops, int count,
                               thrum_device_t *device_out)
{
    for (int index = 0; index < count; index++) {
        thrum_status_t status;
        if (find_open(ops, index))
            continue;
        status = open_new(ops, index, device_out);
        if (status != THRUM_ERR_BUSY)
            return status;
    }
    return thrum_fail(count ? THRUM_ERR_BUSY : THRUM_ERR_NO_DEVICE, "all %d %s devices are in use",
                      count, ops->name);
}

static thrum_status_t open_index(const struct thrum_device_ops *ops, int index, int count,
                                 thrum_device_t *device_out)
{
    struct thrum_device *device = find_open(ops, index);

    if (index < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "index=%d", index);
    if (index >= count)
        return thrum_fail(THRUM_ERR_NO_DEVICE, "index=%d: there are %d %s devices", index, count,
                          ops->name);
    if (!device)
        return open_new(ops, index, device_out);
    device->opens++;
    *device_out = device;
    return THRUM_OK;
}

thrum_status_t thrum_device_open(int index, thrum_device_t *device_out)
{
    const struct thrum_device_ops *ops;
    thrum_status_t status;
    int count;

    if (!device_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "device_out=NULL");
    status = configured_plugin(&ops);
    if (!status)
        status = ops->enumerate(&count);
    if (status)
        return status;
    pthread_mutex_lock(&registry.lock);
    if (index == THRUM_DEVICE_ANY)
        status = open_any(ops, count, device_out);
    else
        status = open_index(ops, index, count, device_out);
    pthread_mutex_unlock(&registry.lock);
    return status;
}

/* Under the registry lock. */
static void close_last(struct thrum_device *device)
{
    for (struct thrum_device **link = &registry.devices; *link; link = &(*link)->next)
        if (*link == device) {
            *link = device->next;
            break;
        }
    device_sweep(device);
    staging_release(device);
    device->ops->close(device->impl);
    pthread_mutex_destroy(&device->staging_lock);
    handle_give(HANDLE_DEVICE, device);
}

void thrum_device_close(thrum_device_t device)
{
    if (!device || device_check(device))
        return;
    pthread_mutex_lock(&registry.lock);
    if (device_is_valid(device) && --device->opens == 0)
        close_last(device);
    pthread_mutex_unlock(&registry.lock);
}

void device_let_go(struct thrum_device *device)
{
    pthread_mutex_lock(&registry.lock);
    if (device->opens > 1)
        device->opens--;
    pthread_mutex_unlock(&registry.lock);
}

thrum_status_t thrum_device_get_properties(thrum_device_t device,
                                           struct thrum_device_properties *properties_out)
{
    struct thrum_device_properties properties = {.size = sizeof properties};
    size_t size;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!properties_out || properties_out->size < sizeof(size_t))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "properties_out%s",
                          properties_out ? "->size is not set" : "=NULL");
    status = device->ops->properties(device->impl, &properties);
    if (status)
        return status;
    size = properties_out->size;
    properties.size = size;
    memcpy(properties_out, &properties, min_u64(size, sizeof properties));
    return THRUM_OK;
}

void device_forget_memory(struct thrum_device *device)
{
    atomic_fetch_add_explicit(&device->memory_epoch, 1, memory_order_release);
}

thrum_status_t thrum_device_reset(thrum_device_t device, enum thrum_reset_kind kind)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (kind != THRUM_RESET_SOFT && kind != THRUM_RESET_HARD)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "kind=%d", (int)kind);
    status = device->ops->reset(device->impl, kind);
    device_forget_memory(device);
    __atomic_store_n(&device->own_base, device->ops->own_base(device->impl), __ATOMIC_RELEASE);
    return status;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint64_t as_address(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

static void *as_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

thrum_status_t thrum_mem_alloc(thrum_device_t device, size_t bytes, void **address_out)
{
    uint64_t address;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!address_out || !bytes)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s", bytes ? "address_out=NULL" : "bytes=0");
    status = device->ops->mem_alloc(device->impl, bytes, &address);
    if (!status)
        *address_out = as_pointer(address);
    return status;
}

thrum_status_t thrum_mem_free(thrum_device_t device, void *address)
{
    thrum_status_t status = device_check(device);

    if (status || !address)
        return status;
    status = device->ops->mem_free(device->impl, as_address(address));
    device_forget_memory(device);
    return status;
}

thrum_status_t thrum_mem_register_host(thrum_device_t device, void *address, size_t bytes)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!address)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "address=NULL");
    return device->ops->host_register(device->impl, address, bytes);
}

thrum_status_t thrum_mem_unregister_host(thrum_device_t device, void *address)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    status = device->ops->host_unregister(device->impl, address);
    device_forget_memory(device);
    return status;
}

thrum_status_t thrum_mem_query(thrum_device_t device, const void *address,
                               struct thrum_mem_info *info_out)
{
    struct thrum_mem_info info = {.size = sizeof info};
    thrum_status_t status = device_check(device);
    size_t size;

    if (status)
        return status;
    if (!info_out || info_out->size < sizeof(size_t))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "info_out%s",
                          info_out ? "->size is not set" : "=NULL");
    status = device->ops->mem_query(device->impl, as_address(address), &info);
    if (status)
        return status;
    if (info.kind == THRUM_MEM_HOST && device->ops->address_is_device(as_address(address)))
        info.kind = THRUM_MEM_NONE;
    size = info_out->size;
    info.size = size;
    memcpy(info_out, &info, min_u64(size, sizeof info));
    return THRUM_OK;
}

thrum_status_t thrum_mem_export(thrum_device_t device, void *address,
                                struct thrum_mem_handle *handle_out)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!handle_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "handle_out=NULL");
    return device->ops->mem_export(device->impl, as_address(address), handle_out);
}

thrum_status_t thrum_mem_import(thrum_device_t device, const struct thrum_mem_handle *handle,
                                void **address_out)
{
    uint64_t address;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!handle || !address_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=NULL", handle ? "address_out" : "handle");
    status = device->ops->mem_import(device->impl, handle, &address);
    if (!status)
        *address_out = as_pointer(address);
    return status;
}
