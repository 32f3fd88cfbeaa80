/* The verbs fabric's table, endpoints and progress. Called by the fabric loader; its table by exec and port engines. */
#include "verbs.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

thrum_status_t verbs_fail(int error, const char *format, ...)
{
    struct rlimit limit = {0};
    char text[VERBS_TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (error == EMFILE || error == ENFILE) {
        getrlimit(RLIMIT_NOFILE, &limit);
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "%s: %s: RLIMIT_NOFILE (ulimit -n) is %llu; raise it", text,
                                 strerror(error), (unsigned long long)limit.rlim_cur);
    }
    if (error == ENOMEM || error == ENOSPC || error == EAGAIN)
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "%s: %s: the adapter has no more of them, or RLIMIT_MEMLOCK "
                                 "(ulimit -l) is too small",
                                 text, strerror(error));
    return thrum_plugin_fail(error == ENODEV ? THRUM_ERR_NO_DEVICE : THRUM_ERR_SYSTEM, "%s: %s",
                             text, strerror(error));
}

/* ---- opening ---- */

static void fill_address(struct verbs_endpoint *endpoint)
{
    struct verbs_address *address = &endpoint->address;
    char host[65] = "";

    address->magic = VERBS_MAGIC;
    address->boot = process_boot_hash();
    address->pid = getpid();
    address->nports = (uint8_t)endpoint->nports;
    gethostname(host, sizeof host - 1);
    snprintf(address->host, sizeof address->host, "%.15s", host);
    for (unsigned i = 0; i < endpoint->nports; i++) {
        const struct verbs_port *port = &endpoint->ports[i];
        memcpy(address->ports[i].gid, port->gid.raw, 16);
        address->ports[i].qpn = port->ud->qp_num;
        address->ports[i].lid = port->lid;
        address->ports[i].prefix = port->prefix;
        address->ports[i].link_layer = port->link_layer;
        address->up |= (uint8_t)(atomic_load(&port->up) << i);
    }
}

static struct verbs_endpoint *allocate(void)
{
    struct verbs_endpoint *endpoint = calloc(1, sizeof *endpoint);
    pthread_condattr_t clock;

    if (!endpoint)
        return NULL;
    pthread_mutex_init(&endpoint->lock, NULL);
    pthread_mutex_init(&endpoint->mail_lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&endpoint->answered, &clock);
    pthread_condattr_destroy(&clock);
    verbs_closer_init(&endpoint->closer);
    endpoint->stop_fd = -1;
    endpoint->address.token = verbs_random();
    return endpoint;
}

static void destroy(struct verbs_endpoint *endpoint)
{
    verbs_control_close(endpoint);
    verbs_closer_finish(&endpoint->closer);
    verbs_arena_destroy(endpoint);
    verbs_ports_close(endpoint);
    pthread_cond_destroy(&endpoint->answered);
    pthread_mutex_destroy(&endpoint->mail_lock);
    pthread_mutex_destroy(&endpoint->lock);
    free(endpoint);
}

static thrum_status_t open_endpoint(const char *device, void **endpoint_out,
                                    struct thrum_fabric_address *address_out)
{
    struct verbs_endpoint *endpoint = allocate();
    thrum_status_t status;

    if (!endpoint)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for an endpoint");
    status = verbs_settings_read(&endpoint->settings);
    if (!status)
        status = verbs_ports_open(endpoint, device && *device ? device : NULL);
    if (!status)
        status = verbs_arena_create(endpoint);
    if (!status)
        status = verbs_arena_register(endpoint);
    if (!status)
        status = verbs_control_open(endpoint);
    if (status) {
        destroy(endpoint);
        return status;
    }
    fill_address(endpoint);
    process_endpoint_add(&endpoint->open, endpoint->address.token);
    memset(address_out, 0, sizeof *address_out);
    memcpy(address_out->bytes, &endpoint->address, sizeof endpoint->address);
    *endpoint_out = endpoint;
    return THRUM_OK;
}

/* What went by the adapter's hands only, and what the CPU copied. */
static void log_counters(const struct verbs_endpoint *endpoint)
{
    const struct verbs_counters *counters = &endpoint->counters;

    thrum_plugin_log(THRUM_LOG_INFO,
                     "verbs: %llu puts, %llu signals; %llu bytes written by the adapter from where "
                     "they were (%llu of them striped), %llu bytes copied by the CPU for inline "
                     "puts; %llu lanes failed",
                     (unsigned long long)counters->puts, (unsigned long long)counters->signals,
                     (unsigned long long)counters->written, (unsigned long long)counters->striped,
                     (unsigned long long)counters->copied, (unsigned long long)counters->failovers);
}

/* Peers and regions that the caller left go with it. */
static void close_endpoint(void *handle)
{
    struct verbs_endpoint *endpoint = handle;

    if (!endpoint)
        return;
    process_endpoint_remove(&endpoint->open);
    while (endpoint->peers)
        verbs_disconnect(endpoint->peers);
    log_counters(endpoint);
    destroy(endpoint);
}

/* ---- progress ---- */

bool verbs_progress_locked(struct verbs_endpoint *endpoint)
{
    uint32_t changes = atomic_load_explicit(&endpoint->changes, memory_order_relaxed);
    bool moved = false;

    if (changes != endpoint->seen_changes) {
        endpoint->seen_changes = changes;
        for (struct verbs_peer *peer = endpoint->peers; peer; peer = peer->next)
            moved |= verbs_peer_mend(peer, now_ns(), true);
    }
    for (struct verbs_peer *peer = endpoint->peers; peer; peer = peer->next)
        moved |= verbs_send_locked(peer);
    return moved;
}

/* One thread at a time; a second one has nothing to do meanwhile. */
static thrum_status_t progress(void *handle)
{
    struct verbs_endpoint *endpoint = handle;
    bool moved;

    if (pthread_mutex_trylock(&endpoint->lock))
        return THRUM_IN_PROGRESS;
    moved = verbs_progress_locked(endpoint);
    pthread_mutex_unlock(&endpoint->lock);
    return moved ? THRUM_OK : THRUM_IN_PROGRESS;
}

static int wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

static int offloads(void *endpoint)
{
    (void)endpoint;
    return 1;
}

static const struct thrum_fabric_ops ops = {
    .size = sizeof ops,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "verbs",
    .enumerate = verbs_enumerate,
    .open = open_endpoint,
    .close = close_endpoint,
    .connect = verbs_connect,
    .disconnect = verbs_disconnect,
    .region_register = verbs_region_register,
    .region_register_dmabuf = verbs_region_register_dmabuf,
    .region_deregister = verbs_region_deregister,
    .put_signal = verbs_put_signal,
    .get = verbs_get,
    .flush = verbs_flush,
    .flush_mark = verbs_flush_mark,
    .progress = progress,
    .wait_fd = wait_fd,
    .peer_error = verbs_peer_error,
    .get_events = verbs_get_events,
    .offloads = offloads,
    .reaches = verbs_reaches,
};

__attribute__((visibility("default"))) const struct thrum_fabric_ops *
thrum_fabric_plugin(uint32_t library_abi_version);

const struct thrum_fabric_ops *thrum_fabric_plugin(uint32_t library_abi_version)
{
    return library_abi_version == THRUM_FABRIC_ABI_VERSION ? &ops : NULL;
}
