/* RAS of sim: the event list with its descriptor, counters, detail of the first fault. Called by the executor on a
 * fault, by reset, and through the plugin table. */
#include "sim_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

thrum_status_t sim_ras_open(struct sim_device *device)
{
    pthread_mutex_init(&device->ras.lock, NULL);
    device->ras.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (device->ras.event_fd < 0)
        return thrum_fail_errno(THRUM_ERR_LIMIT, "sim%d: eventfd (raise RLIMIT_NOFILE)",
                                device->index);
    return THRUM_OK;
}

static bool is_fault(enum thrum_ras_kind kind)
{
    return kind == THRUM_RAS_PAGE_FAULT || kind == THRUM_RAS_BAD_PACKET ||
           kind == THRUM_RAS_ECC_UNCORRECTED;
}

/* Readable exactly while the list is not empty. Under the lock. */
static void set_readable(struct sim_ras *ras, bool readable)
{
    uint64_t value = 1;
    ssize_t n = readable ? write(ras->event_fd, &value, sizeof value)
                         : read(ras->event_fd, &value, sizeof value);
    if (n < 0 && errno != EAGAIN)
        thrum_log(LOG_WARN, "sim: RAS event descriptor: errno %d", errno);
}

void sim_ras_event(struct sim_device *device, struct thrum_ras_event event)
{
    struct sim_ras *ras = &device->ras;

    event.timestamp_ns = (uint64_t)now_ns();
    event.generation = atomic_load_explicit(&device->shared->generation, memory_order_acquire);
    pthread_mutex_lock(&ras->lock);
    event.sequence = ++ras->sequence;
    ras->count[event.kind]++;
    if (is_fault(event.kind) && !ras->has_fault) {
        ras->fault = event;
        ras->has_fault = true;
    }
    if (ras->next - ras->first == SIM_EVENTS_KEPT)
        ras->first++; /* the oldest is lost; the gap in the sequence shows it */
    ras->events[ras->next++ % SIM_EVENTS_KEPT] = event;
    if (ras->next - ras->first == 1)
        set_readable(ras, true);
    pthread_mutex_unlock(&ras->lock);
    thrum_log(LOG_INFO,
              "sim%d: RAS event %llu: %s, queue %llu, ticket %llu, address 0x%llx, command %s",
              device->index, (unsigned long long)event.sequence, thrum_ras_kind_name(event.kind),
              (unsigned long long)event.queue_id, (unsigned long long)event.ticket,
              (unsigned long long)event.address, sim_opcode_name(event.opcode));
}

void sim_ras_rearm(struct sim_device *device)
{
    pthread_mutex_lock(&device->ras.lock);
    device->ras.has_fault = false;
    pthread_mutex_unlock(&device->ras.lock);
}

int sim_event_fd(void *device)
{
    return ((struct sim_device *)device)->ras.event_fd;
}

thrum_status_t sim_get_events(void *device, struct thrum_ras_event *events_out, size_t max,
                              size_t *n_out)
{
    struct sim_ras *ras = &((struct sim_device *)device)->ras;
    size_t n = 0;

    pthread_mutex_lock(&ras->lock);
    while (n < max && ras->first != ras->next)
        events_out[n++] = ras->events[ras->first++ % SIM_EVENTS_KEPT];
    if (n && ras->first == ras->next)
        set_readable(ras, false);
    pthread_mutex_unlock(&ras->lock);
    *n_out = n;
    return THRUM_OK;
}

thrum_status_t sim_counters(void *handle, struct thrum_ras_counters *counters_out)
{
    struct sim_device *device = handle;
    struct thrum_ras_counters counters = {.size = counters_out->size};

    pthread_mutex_lock(&device->ras.lock);
    memcpy(counters.count, device->ras.count, sizeof counters.count);
    pthread_mutex_unlock(&device->ras.lock);
    /* a queue that is destroyed meanwhile must not be counted twice or not at all */
    pthread_mutex_lock(&device->control_lock);
    counters.commands = device->old_commands;
    counters.bytes_copied = device->old_copied;
    counters.bytes_reduced = device->old_reduced;
    counters.bytes_put = device->old_put;
    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (!sim_queue_is_alive(queue) || queue->device != device)
            continue;
        counters.commands += atomic_load_explicit(&queue->commands, memory_order_relaxed);
        counters.bytes_copied += atomic_load_explicit(&queue->bytes_copied, memory_order_relaxed);
        counters.bytes_reduced += atomic_load_explicit(&queue->bytes_reduced, memory_order_relaxed);
        counters.bytes_put += atomic_load_explicit(&queue->bytes_put, memory_order_relaxed);
    }
    pthread_mutex_unlock(&device->control_lock);
    *counters_out = counters;
    return THRUM_OK;
}

thrum_status_t sim_fault_info(void *handle, struct thrum_ras_event *fault_out)
{
    struct sim_device *device = handle;
    bool has_fault;

    pthread_mutex_lock(&device->ras.lock);
    has_fault = device->ras.has_fault;
    if (has_fault)
        *fault_out = device->ras.fault;
    pthread_mutex_unlock(&device->ras.lock);
    return has_fault ? THRUM_OK : THRUM_ERR_INVALID_USAGE;
}

void sim_ras_close(struct sim_device *device)
{
    if (device->ras.event_fd >= 0)
        close(device->ras.event_fd);
    pthread_mutex_destroy(&device->ras.lock);
}
