/*
 * Ports of a sim device: fabric endpoints that are attached to it, and who drives them. The executor hands puts to the
 * first one's fabric; waiters and the engine thread call sim_ports_progress.
 */
#include "sim_internal.h"

static void ports_lock(struct sim_device *device)
{
    for (unsigned looks = 0; atomic_exchange_explicit(&device->ports_lock, 1, memory_order_acquire);
         looks++)
        sim_await_other(looks);
}

static void ports_unlock(struct sim_device *device)
{
    atomic_store_explicit(&device->ports_lock, 0, memory_order_release);
}

/* What happened to the ports' links becomes RAS events of the device. Under ports_lock. */
static void take_events(struct sim_device *device, unsigned index)
{
    static const enum thrum_ras_kind kinds[] = {[THRUM_FABRIC_LINK_DOWN] = THRUM_RAS_LINK_DOWN,
                                                [THRUM_FABRIC_LINK_UP] = THRUM_RAS_LINK_UP,
                                                [THRUM_FABRIC_FATAL] = THRUM_RAS_FABRIC_ERROR};
    const struct sim_port *port = &device->ports[index];
    struct thrum_fabric_event events[8];
    size_t n = port->fabric->get_events(port->endpoint, events, sizeof events / sizeof *events);

    for (size_t i = 0; i < n; i++)
        if (events[i].kind < sizeof kinds / sizeof *kinds)
            sim_ras_event(device, (struct thrum_ras_event){.kind = kinds[events[i].kind],
                                                           .engine = THRUM_ENGINE_PORT,
                                                           .address = events[i].port});
}

bool sim_ports_progress(struct sim_device *device)
{
    bool moved = false;

    if (!atomic_load_explicit(&device->nports, memory_order_relaxed) ||
        atomic_exchange_explicit(&device->ports_lock, 1, memory_order_acquire))
        return false;
    for (unsigned i = 0; i < atomic_load_explicit(&device->nports, memory_order_relaxed); i++) {
        moved |= device->ports[i].fabric->progress(device->ports[i].endpoint) == THRUM_OK;
        take_events(device, i);
    }
    ports_unlock(device);
    if (moved) /* what arrived may be what a sleeper waits for; the fabric does not know of them */
        sim_wake(device->shared);
    return moved;
}

/* The attached endpoint's index; n: it is not attached. Under ports_lock. */
static unsigned find(const struct sim_device *device, unsigned n, const void *endpoint)
{
    unsigned i = 0;

    while (i < n && device->ports[i].endpoint != endpoint)
        i++;
    return i;
}

thrum_status_t sim_port_attach(void *handle, const struct thrum_fabric_ops *fabric, void *endpoint)
{
    struct sim_device *device = handle;
    thrum_status_t status = THRUM_OK;
    unsigned n, i;

    if (!fabric || !endpoint)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: %s=NULL", device->index,
                          fabric ? "endpoint" : "fabric");
    ports_lock(device);
    n = atomic_load_explicit(&device->nports, memory_order_relaxed);
    i = find(device, n, endpoint);
    if (i < n) {
        device->ports[i].users++;
    } else if (n == SIM_MAX_PORTS) {
        status =
            thrum_fail(THRUM_ERR_LIMIT, "sim%d: has only %d ports", device->index, SIM_MAX_PORTS);
    } else if (n && device->ports[0].fabric != fabric) {
        status = thrum_fail(THRUM_ERR_BUSY, "sim%d: its ports belong to fabric %s", device->index,
                            device->ports[0].fabric->name);
    } else {
        device->ports[n] = (struct sim_port){fabric, endpoint, 1};
        atomic_store_explicit(&device->nports, n + 1, memory_order_release);
    }
    ports_unlock(device);
    if (!status)
        sim_engine_kick(device);
    return status;
}

thrum_status_t sim_port_detach(void *handle, void *endpoint)
{
    struct sim_device *device = handle;
    bool found;
    unsigned n, i;

    ports_lock(device);
    n = atomic_load_explicit(&device->nports, memory_order_relaxed);
    i = find(device, n, endpoint);
    found = i < n;
    if (found && !--device->ports[i].users) {
        device->ports[i] = device->ports[n - 1];
        atomic_store_explicit(&device->nports, n - 1, memory_order_release);
    }
    ports_unlock(device);
    if (!found)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: the endpoint is not attached",
                          device->index);
    sim_quiesce(device);
    return THRUM_OK;
}
