/* Public RAS calls, over the plugin's table. Called by applications and tools. */
#include <string.h>

#include "base/base.h"
#include "device/device_internal.h"

const char *thrum_ras_kind_name(enum thrum_ras_kind kind)
{
    switch (kind) {
#define X(name, value, text) \
    case THRUM_RAS_##name: \
        return text;
        THRUM_RAS_MAP(X)
#undef X
    case THRUM_RAS_KIND_COUNT:
        break;
    }
    return "?";
}

int thrum_ras_event_fd(thrum_device_t device)
{
    return device_check(device) ? -1 : device->ops->event_fd(device->impl);
}

thrum_status_t thrum_ras_get_events(thrum_device_t device, struct thrum_ras_event *events_out,
                                    size_t max, size_t *n_out)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!n_out || (max && !events_out))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=NULL", n_out ? "events_out" : "n_out");
    return device->ops->get_events(device->impl, events_out, max, n_out);
}

thrum_status_t thrum_ras_get_counters(thrum_device_t device,
                                      struct thrum_ras_counters *counters_out)
{
    struct thrum_ras_counters counters = {.size = sizeof counters};
    size_t size;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!counters_out || counters_out->size < sizeof(size_t))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "counters_out%s",
                          counters_out ? "->size is not set" : "=NULL");
    status = device->ops->counters(device->impl, &counters);
    if (status)
        return status;
    size = counters_out->size;
    counters.size = size;
    memcpy(counters_out, &counters, min_u64(size, sizeof counters));
    return THRUM_OK;
}

thrum_status_t thrum_ras_get_fault(thrum_device_t device, struct thrum_ras_event *fault_out)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!fault_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "fault_out=NULL");
    status = device->ops->fault_info(device->impl, fault_out);
    if (status == THRUM_ERR_INVALID_USAGE)
        return thrum_fail(status, "%s has had no fault", device->properties.name);
    return status;
}

thrum_status_t thrum_ras_inject(thrum_device_t device, const char *script, uint64_t seed)
{
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!script)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "script=NULL");
    return device->ops->inject(device->impl, script, seed);
}
