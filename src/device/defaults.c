/* What a plugin does that lacks an entry of the table: one typed default for each, so that no caller tests for NULL. */
#include "base/base.h"
#include "device/device_internal.h"

#define UNSUPPORTED(call) thrum_fail(THRUM_ERR_UNSUPPORTED, "the device plugin has no %s", call)

static thrum_status_t no_enumerate(int *count_out)
{
    *count_out = 0;
    return THRUM_OK;
}
static thrum_status_t no_open(int index, void **device_out)
{
    (void)device_out;
    return thrum_fail(THRUM_ERR_UNSUPPORTED, "device %d cannot be opened", index);
}
static void no_close(void *device)
{
    (void)device;
}
static thrum_status_t no_properties(void *device, struct thrum_device_properties *out)
{
    (void)device, (void)out;
    return UNSUPPORTED("properties");
}
static uint32_t no_generation(void *device)
{
    (void)device;
    return 1;
}
static thrum_status_t no_reset(void *device, enum thrum_reset_kind kind)
{
    (void)device, (void)kind;
    return UNSUPPORTED("reset");
}
static thrum_status_t no_mem_alloc(void *device, size_t bytes, uint64_t *out)
{
    (void)device, (void)bytes, (void)out;
    return UNSUPPORTED("mem_alloc");
}
static thrum_status_t no_mem_free(void *device, uint64_t address)
{
    (void)device, (void)address;
    return UNSUPPORTED("mem_free");
}
static thrum_status_t no_host_register(void *device, void *address, size_t bytes)
{
    (void)device, (void)address, (void)bytes;
    return UNSUPPORTED("host_register");
}
static thrum_status_t no_host_unregister(void *device, void *address)
{
    (void)device, (void)address;
    return UNSUPPORTED("host_unregister");
}
static thrum_status_t no_mem_query(void *device, uint64_t address, struct thrum_mem_info *out)
{
    (void)device, (void)address, (void)out;
    return UNSUPPORTED("mem_query");
}
static thrum_status_t no_mem_export(void *device, uint64_t address, struct thrum_mem_handle *out)
{
    (void)device, (void)address, (void)out;
    return UNSUPPORTED("mem_export");
}
static thrum_status_t no_mem_import(void *device, const struct thrum_mem_handle *handle,
                                    uint64_t *out)
{
    (void)device, (void)handle, (void)out;
    return UNSUPPORTED("mem_import");
}
static bool no_address_is_device(uint64_t address)
{
    (void)address;
    return false;
}
static thrum_status_t no_mem_peek(void *device, uint64_t address, void *out, size_t bytes)
{
    (void)device, (void)address, (void)out, (void)bytes;
    return UNSUPPORTED("mem_peek");
}
static thrum_status_t no_mem_poke(void *device, uint64_t address, const void *host, size_t bytes)
{
    (void)device, (void)address, (void)host, (void)bytes;
    return UNSUPPORTED("mem_poke");
}
static thrum_status_t no_address(void *device, struct thrum_device_address *out)
{
    (void)device;
    *out = (struct thrum_device_address){{0}};
    return THRUM_OK;
}
static enum thrum_peer_access no_peer_access(void *device, const struct thrum_device_address *peer)
{
    (void)device, (void)peer;
    return THRUM_PEER_NONE;
}
static thrum_status_t no_peer_window_open(void *device, const struct thrum_device_address *peer,
                                          uint64_t *out)
{
    (void)device, (void)peer, (void)out;
    return UNSUPPORTED("peer_window_open");
}
static void no_peer_window_close(void *device, uint64_t base)
{
    (void)device, (void)base;
}
static uint64_t no_own_base(void *device)
{
    (void)device;
    return 0;
}
static thrum_status_t no_queue_create(void *device, unsigned flags, void **out)
{
    (void)device, (void)flags, (void)out;
    return UNSUPPORTED("queue_create");
}
static thrum_status_t no_queue_import(void *device, void *native, unsigned flags, void **out)
{
    (void)device, (void)native, (void)flags, (void)out;
    return UNSUPPORTED("queue_import: it takes no streams of a runtime of its own");
}
static void no_queue_destroy(void *queue)
{
    (void)queue;
}
static uint64_t no_queue_id(void *queue)
{
    (void)queue;
    return 0;
}
static thrum_status_t no_submit(void *queue, const struct thrum_command *commands, size_t n,
                                uint64_t *out)
{
    (void)queue, (void)commands, (void)n, (void)out;
    return UNSUPPORTED("submit");
}
static thrum_status_t no_check(void *device, const struct thrum_command *commands, size_t n)
{
    (void)device, (void)commands, (void)n;
    return THRUM_OK; /* submit looks */
}
static thrum_status_t no_poll(void *queue, uint64_t ticket)
{
    (void)queue, (void)ticket;
    return UNSUPPORTED("poll");
}
static thrum_status_t no_wait(void *queue, uint64_t ticket, int64_t timeout_ns)
{
    (void)queue, (void)ticket, (void)timeout_ns;
    return UNSUPPORTED("wait");
}
static void no_cancel(void *queue, uint64_t first, uint64_t last, thrum_status_t status)
{
    (void)queue, (void)first, (void)last, (void)status;
}
static void no_set_oversubscribed(void *device, bool oversubscribed)
{
    (void)device, (void)oversubscribed;
}
static thrum_status_t no_port_region(void *device, uint64_t address, struct thrum_port_region *out)
{
    (void)device, (void)address, (void)out;
    return UNSUPPORTED("port_region");
}
static thrum_status_t no_port_attach(void *device, const struct thrum_fabric_ops *fabric,
                                     void *endpoint)
{
    (void)device, (void)fabric, (void)endpoint;
    return UNSUPPORTED("port_attach");
}
static thrum_status_t no_port_detach(void *device, void *endpoint)
{
    (void)device, (void)endpoint;
    return UNSUPPORTED("port_detach");
}
static thrum_status_t no_rdma_flush(void *device)
{
    (void)device;
    return UNSUPPORTED("rdma_flush");
}
static int no_event_fd(void *device)
{
    (void)device;
    return -1;
}
static thrum_status_t no_get_events(void *device, struct thrum_ras_event *out, size_t max,
                                    size_t *n_out)
{
    (void)device, (void)out, (void)max;
    *n_out = 0;
    return THRUM_OK;
}
static thrum_status_t no_counters(void *device, struct thrum_ras_counters *out)
{
    (void)device, (void)out;
    return UNSUPPORTED("counters");
}
static thrum_status_t no_fault_info(void *device, struct thrum_ras_event *out)
{
    (void)device, (void)out;
    return THRUM_ERR_INVALID_USAGE;
}
static thrum_status_t no_inject(void *device, const char *script, uint64_t seed)
{
    (void)device, (void)script, (void)seed;
    return UNSUPPORTED("fault injection");
}

const struct thrum_device_ops device_default_ops = {
    .size = sizeof device_default_ops,
    .abi_version = THRUM_DEVICE_ABI_VERSION,
    .name = "none",
    .enumerate = no_enumerate,
    .open = no_open,
    .close = no_close,
    .properties = no_properties,
    .generation = no_generation,
    .reset = no_reset,
    .mem_alloc = no_mem_alloc,
    .mem_free = no_mem_free,
    .host_register = no_host_register,
    .host_unregister = no_host_unregister,
    .mem_query = no_mem_query,
    .mem_export = no_mem_export,
    .mem_import = no_mem_import,
    .address_is_device = no_address_is_device,
    .mem_peek = no_mem_peek,
    .mem_poke = no_mem_poke,
    .address = no_address,
    .peer_access = no_peer_access,
    .peer_window_open = no_peer_window_open,
    .peer_window_close = no_peer_window_close,
    .own_base = no_own_base,
    .queue_create = no_queue_create,
    .queue_import = no_queue_import,
    .queue_destroy = no_queue_destroy,
    .queue_id = no_queue_id,
    .submit = no_submit,
    .check = no_check, /* submit_checked: submit, see plugin.c */
    .poll = no_poll,
    .wait = no_wait,
    .cancel = no_cancel,
    .set_oversubscribed = no_set_oversubscribed,
    .port_region = no_port_region,
    .port_attach = no_port_attach,
    .port_detach = no_port_detach,
    .rdma_flush = no_rdma_flush,
    .event_fd = no_event_fd,
    .get_events = no_get_events,
    .counters = no_counters,
    .fault_info = no_fault_info,
    .inject = no_inject,
};
