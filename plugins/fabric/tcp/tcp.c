/* The tcp fabric's table, endpoints, regions and progress. Called by the fabric loader; its table by exec and port engines. */
#include "tcp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#define LOOK_AT_EACH 4 /* with more links, the kernel is asked which have something */
#define ROUNDS_OF_A_SPINNER 16

thrum_status_t tcp_fail_errno(thrum_status_t status, const char *format, ...)
{
    struct rlimit limit = {0};
    char text[TCP_TEXT_BYTES];
    int error = errno;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (error != EMFILE && error != ENFILE)
        return thrum_plugin_fail(status, "%s: %s", text, strerror(error));
    getrlimit(RLIMIT_NOFILE, &limit);
    return thrum_plugin_fail(THRUM_ERR_LIMIT, "%s: %s: RLIMIT_NOFILE (ulimit -n) is %llu; raise it",
                             text, strerror(error), (unsigned long long)limit.rlim_cur);
}

/* ---- endpoints ---- */

static int setting(const char *name)
{
    const char *text = thrum_plugin_config(name);

    return text ? (int)strtol(text, NULL, 10) : 0;
}

/* A connection fails by itself in time for the operation to say so. */
static int timeout_of_a_link(void)
{
    int wanted = setting("THRUM_TCP_TIMEOUT_MS"), deadline = setting("THRUM_DEADLINE_MS");

    return deadline > 1 && wanted > deadline / 2 ? deadline / 2 : wanted;
}

static bool fill_random(struct tcp_endpoint *endpoint)
{
    struct tcp_address *address = &endpoint->address;

    return getrandom(address->id, sizeof address->id, 0) == (ssize_t)sizeof address->id &&
           getrandom(address->token, sizeof address->token, 0) == (ssize_t)sizeof address->token &&
           getrandom(&endpoint->key_salt, sizeof endpoint->key_salt, 0) ==
               (ssize_t)sizeof endpoint->key_salt;
}

static struct tcp_endpoint *allocate(void)
{
    struct tcp_endpoint *endpoint = calloc(1, sizeof *endpoint);
    pthread_condattr_t clock;

    if (!endpoint)
        return NULL;
    pthread_mutex_init(&endpoint->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&endpoint->changed, &clock);
    pthread_condattr_destroy(&clock);
    endpoint->listen_fd = endpoint->epoll_fd = endpoint->stop_fd = endpoint->watch_fd =
        endpoint->spare_fd = endpoint->alarm_fd = -1;
    endpoint->connect_ms = limit_connect_ms(TCP_CONNECT_MS);
    endpoint->timeout_ms = timeout_of_a_link();
    endpoint->buffer_bytes = setting("THRUM_TCP_BUFFER_BYTES");
    endpoint->hold_us = setting("THRUM_TCP_HOLD_US");
    return endpoint;
}

/* The service thread has ended or never began. Peers and regions that the caller left go with it. */
static void destroy(struct tcp_endpoint *endpoint)
{
    if (endpoint->epoll_fd >= 0)
        close(endpoint->epoll_fd);
    for (size_t i = 0; i < endpoint->slots; i++)
        free(endpoint->regions[i]);
    free(endpoint->regions);
    pthread_cond_destroy(&endpoint->changed);
    pthread_mutex_destroy(&endpoint->lock);
    free(endpoint);
}

static thrum_status_t open_endpoint(const char *device, void **endpoint_out,
                                    struct thrum_fabric_address *address_out)
{
    struct tcp_endpoint *endpoint = allocate();
    struct tcp_address *address;
    thrum_status_t status;
    char host[65] = "";

    if (!endpoint)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for an endpoint");
    address = &endpoint->address;
    address->magic = TCP_MAGIC;
    address->version = TCP_VERSION;
    address->pid = getpid();
    address->network = process_namespace_hash("/proc/self/ns/net");
    gethostname(host, sizeof host - 1);
    snprintf(address->host, sizeof address->host, "%.15s", host);
    endpoint->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (endpoint->epoll_fd < 0)
        status = tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: no descriptor for an endpoint");
    else if (!fill_random(endpoint))
        status = tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: getrandom");
    else
        status = tcp_interfaces_choose(endpoint, device);
    endpoint->key_salt |= 1; /* no key is 0 */
    endpoint->first_salt = endpoint->key_salt;
    if (!status)
        status = tcp_listen(endpoint);
    if (status) {
        destroy(endpoint);
        return status;
    }
    memset(address_out, 0, sizeof *address_out);
    memcpy(address_out->bytes, address, sizeof *address);
    *endpoint_out = endpoint;
    return THRUM_OK;
}

static void close_endpoint(void *endpoint_handle)
{
    struct tcp_endpoint *endpoint = endpoint_handle;

    if (!endpoint)
        return;
    tcp_stop_listening(endpoint);
    tcp_linger(endpoint);
    while (endpoint->links) {
        struct tcp_link *link = endpoint->links;
        endpoint->links = link->next;
        tcp_link_free(link);
    }
    destroy(endpoint);
}

static size_t max_inline(void *endpoint)
{
    (void)endpoint;
    return TCP_INLINE_BYTES;
}

/* ---- regions ---- */

/* A free slot, or one more. -1: no memory. */
static int64_t take_slot(struct tcp_endpoint *endpoint)
{
    struct tcp_region **regions;

    for (; endpoint->free_slot < endpoint->slots; endpoint->free_slot++)
        if (!endpoint->regions[endpoint->free_slot])
            return (int64_t)endpoint->free_slot;
    if (endpoint->slots >= UINT32_MAX / 2)
        return -1;
    regions = realloc(endpoint->regions, (endpoint->slots + 1) * sizeof *regions);
    if (!regions)
        return -1;
    endpoint->regions = regions;
    regions[endpoint->slots] = NULL;
    return (int64_t)endpoint->slots++;
}

static thrum_status_t region_register(void *endpoint_handle, void *cpu_base, size_t bytes,
                                      void **region_out, uint64_t *key_out)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    struct tcp_region *region;
    int64_t slot;

    if (!cpu_base || !bytes || (uintptr_t)cpu_base + bytes < (uintptr_t)cpu_base)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "tcp: cannot register %zu bytes at %p",
                                 bytes, cpu_base);
    region = malloc(sizeof *region);
    if (!region)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for a region");
    pthread_mutex_lock(&endpoint->lock);
    slot = take_slot(endpoint);
    if (slot >= 0) {
        /* A new salt each time: the key of a region that is gone does not open its successor. */
        endpoint->key_salt += 2;
        *region = (struct tcp_region){endpoint, cpu_base, bytes,
                                      (uint64_t)endpoint->key_salt << 32 | (uint64_t)(slot + 1)};
        endpoint->regions[slot] = region;
    }
    pthread_mutex_unlock(&endpoint->lock);
    if (slot < 0) {
        free(region);
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for a region");
    }
    *region_out = region;
    *key_out = region->key;
    return THRUM_OK;
}

static thrum_status_t region_register_dmabuf(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                             void **region_out, uint64_t *key_out)
{
    (void)endpoint, (void)offset, (void)bytes, (void)region_out, (void)key_out;
    return thrum_plugin_fail(THRUM_ERR_UNSUPPORTED,
                             "fabric tcp copies by the CPU and cannot register dmabuf %d", fd);
}

/* After it nothing is stored in the region any more: what stores holds the lock. */
static void region_deregister(void *endpoint_handle, void *region_handle)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    struct tcp_region *region = region_handle;
    size_t slot;

    if (!region)
        return;
    slot = (uint32_t)region->key - 1;
    pthread_mutex_lock(&endpoint->lock);
    endpoint->regions[slot] = NULL;
    if (slot < endpoint->free_slot)
        endpoint->free_slot = slot;
    pthread_mutex_unlock(&endpoint->lock);
    free(region);
}

static const struct tcp_region *region_of(const struct tcp_endpoint *endpoint, uint64_t key)
{
    uint64_t slot = (key & UINT32_MAX) - 1;
    const struct tcp_region *region = slot < endpoint->slots ? endpoint->regions[slot] : NULL;

    return region && region->key == key ? region : NULL;
}

char *tcp_region_find(const struct tcp_endpoint *endpoint, uint64_t key, uint64_t offset,
                      uint64_t bytes)
{
    const struct tcp_region *region = region_of(endpoint, key);

    if (!region || offset > region->bytes || bytes > region->bytes - offset)
        return NULL;
    return region->base + offset;
}

uint64_t tcp_region_bytes(const struct tcp_endpoint *endpoint, uint64_t key)
{
    const struct tcp_region *region = region_of(endpoint, key);

    return region ? region->bytes : 0;
}

/* ---- progress ---- */

/* What has come in. */
static bool receive(struct tcp_endpoint *endpoint)
{
    struct epoll_event events[16];
    bool moved = false;
    int n;

    if (atomic_load_explicit(&endpoint->nlinks, memory_order_relaxed) <= LOOK_AT_EACH) {
        for (struct tcp_link *link = endpoint->links; link; link = link->next)
            if (!link->ended)
                moved |= tcp_receive(link);
        return moved;
    }
    n = epoll_wait(endpoint->epoll_fd, events, 16, 0);
    for (int i = 0; i < n; i++)
        moved |= tcp_receive(events[i].data.ptr);
    return moved;
}

/* What waits to go out, unless somebody is at it. */
static bool send_more(struct tcp_endpoint *endpoint)
{
    bool moved = false;

    if (!endpoint->nwanted && !atomic_load_explicit(&endpoint->nbusy, memory_order_relaxed))
        return false;
    for (struct tcp_link *link = endpoint->links; link; link = link->next) {
        if (link->nwanted)
            moved |= tcp_answer_gets(link);
        if (!atomic_load_explicit(&link->busy, memory_order_relaxed) ||
            pthread_mutex_trylock(&link->send_lock))
            continue;
        moved |= tcp_send_locked(link);
        pthread_mutex_unlock(&link->send_lock);
    }
    return moved;
}

/* Links that have ended, and that nobody uses. */
static void drop_ended(struct tcp_endpoint *endpoint)
{
    struct tcp_link **at = &endpoint->links;

    while (*at) {
        struct tcp_link *link = *at;
        if (link->ended && !link->peers) {
            *at = link->next;
            atomic_fetch_sub_explicit(&endpoint->nlinks, 1, memory_order_relaxed);
            tcp_link_free(link);
        } else {
            at = &link->next;
        }
    }
}

bool tcp_progress_locked(struct tcp_endpoint *endpoint)
{
    unsigned looks = atomic_load_explicit(&endpoint->looks, memory_order_relaxed) + 1;
    bool moved = tcp_send_held(endpoint);

    atomic_store_explicit(&endpoint->looks, looks, memory_order_relaxed);
    moved |= receive(endpoint);
    moved |= send_more(endpoint);
    if (looks % 1024 == 0)
        drop_ended(endpoint);
    return moved;
}

/* One thread at a time; a second one has nothing to do meanwhile. */
static thrum_status_t progress(void *endpoint_handle)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    bool moved;

    tcp_note_round(endpoint);
    if (!atomic_load_explicit(&endpoint->nlinks, memory_order_relaxed) ||
        pthread_mutex_trylock(&endpoint->lock))
        return THRUM_IN_PROGRESS;
    moved = tcp_progress_locked(endpoint);
    pthread_mutex_unlock(&endpoint->lock);
    return moved ? THRUM_OK : THRUM_IN_PROGRESS;
}

/*
 * The kernel's word that something has come, or that there is room for what waits to go out. But not while somebody spins
 * on progress, or puts one after the other and looks when he has to: every packet, if only a credit, would wake a sleeper
 * that has nothing to do, on a core that others need.
 */
static int wait_fd(void *endpoint_handle)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    unsigned rounds = atomic_load_explicit(&endpoint->rounds, memory_order_relaxed);
    unsigned before = atomic_exchange_explicit(&endpoint->waited, rounds, memory_order_relaxed);

    return rounds - before > ROUNDS_OF_A_SPINNER ? -1 : endpoint->epoll_fd;
}

/* ---- events ---- */

void tcp_event_keep(struct tcp_endpoint *endpoint, enum thrum_fabric_event_kind kind, uint32_t port,
                    const char *text)
{
    struct thrum_fabric_event *event = &endpoint->events[endpoint->nevents];

    if (endpoint->nevents == TCP_EVENTS)
        return;
    *event = (struct thrum_fabric_event){.kind = kind, .port = port};
    snprintf(event->text, sizeof event->text, "%s", text);
    endpoint->nevents++;
    atomic_store_explicit(&endpoint->has_events, true, memory_order_release);
}

static size_t get_events(void *endpoint_handle, struct thrum_fabric_event *events_out, size_t max)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    size_t n;

    if (!atomic_load_explicit(&endpoint->has_events, memory_order_acquire))
        return 0;
    pthread_mutex_lock(&endpoint->lock);
    n = min_u64(max, endpoint->nevents);
    memcpy(events_out, endpoint->events, n * sizeof *events_out);
    endpoint->nevents -= n;
    memmove(endpoint->events, endpoint->events + n, endpoint->nevents * sizeof *events_out);
    atomic_store_explicit(&endpoint->has_events, endpoint->nevents > 0, memory_order_release);
    pthread_mutex_unlock(&endpoint->lock);
    return n;
}

/* ---- the table ---- */

static const struct thrum_fabric_ops ops = {
    .size = sizeof ops,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "tcp",
    .enumerate = tcp_enumerate,
    .open = open_endpoint,
    .close = close_endpoint,
    .connect = tcp_connect,
    .disconnect = tcp_disconnect,
    .region_register = region_register,
    .region_register_dmabuf = region_register_dmabuf,
    .region_deregister = region_deregister,
    .put_signal = tcp_put_signal,
    .get = tcp_get,
    .flush = tcp_flush,
    .progress = progress,
    .wait_fd = wait_fd,
    .peer_error = tcp_peer_error,
    .get_events = get_events,
    .reaches = tcp_reaches,
    .max_inline = max_inline,
};

__attribute__((visibility("default"))) const struct thrum_fabric_ops *
thrum_fabric_plugin(uint32_t library_abi_version);

const struct thrum_fabric_ops *thrum_fabric_plugin(uint32_t library_abi_version)
{
    return library_abi_version == THRUM_FABRIC_ABI_VERSION ? &ops : NULL;
}
