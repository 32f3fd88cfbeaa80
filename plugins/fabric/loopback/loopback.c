/* The loopback fabric's table, endpoints and regions. Called by the fabric loader; its table by exec and port engines. */
#include "loopback.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/config.h"
#include "base/builtin.h"

void loopback_ring_write(char *ring, size_t size, uint64_t at, const void *from, size_t bytes)
{
    size_t start = at & (size - 1);
    size_t first = bytes < size - start ? bytes : size - start;

    memcpy(ring + start, from, first);
    memcpy(ring, (const char *)from + first, bytes - first);
}

void loopback_ring_read(const char *ring, size_t size, uint64_t at, void *to, size_t bytes)
{
    size_t start = at & (size - 1);
    size_t first = bytes < size - start ? bytes : size - start;

    memcpy(to, ring + start, first);
    memcpy((char *)to + first, ring, bytes - first);
}

/* Powers of two keep positions in a ring a mask away. */
static size_t ring_bytes_wanted(void)
{
    size_t wanted = (size_t)thrum_config_int(CFG_LOOPBACK_RING_BYTES), bytes = 16384;

    while (bytes < wanted)
        bytes *= 2;
    return bytes;
}

/* Of one piece, see send.c. */
static size_t max_inline_of(size_t ring_bytes)
{
    return min_u64(ring_bytes / 4, LOOPBACK_INLINE_BYTES);
}

static thrum_status_t enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    const struct thrum_fabric_info info = {
        .name = "loopback",
        .detail = "mailboxes in shared pages, between processes of one user on one host",
        .usable = 1,
        .same_host_only = 1,
        .max_inline_bytes = max_inline_of(ring_bytes_wanted()),
    };

    if (max)
        *info_out = info;
    *n_out = 1;
    return THRUM_OK;
}

static thrum_status_t open_endpoint(const char *device, void **endpoint_out,
                                    struct thrum_fabric_address *address_out)
{
    struct loopback_endpoint *endpoint;
    thrum_status_t status;

    if (device && *device && strcmp(device, "loopback"))
        return thrum_fail(THRUM_ERR_NO_DEVICE,
                          "fabric loopback has no device \"%s\", only \"loopback\"", device);
    endpoint = calloc(1, sizeof *endpoint);
    if (!endpoint)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a loopback endpoint");
    pthread_mutex_init(&endpoint->lock, NULL);
    endpoint->ring_bytes = ring_bytes_wanted();
    if (getrandom(&endpoint->key_salt, sizeof endpoint->key_salt, 0) < 0)
        endpoint->key_salt = (uint32_t)now_ns();
    endpoint->key_salt |= 1; /* no key is 0 */
    endpoint->first_salt = endpoint->key_salt;
    status = loopback_listen(endpoint, address_out);
    if (status) {
        pthread_mutex_destroy(&endpoint->lock);
        free(endpoint);
        return status;
    }
    *endpoint_out = endpoint;
    return THRUM_OK;
}

/* Peers and regions that the caller left go with it. */
static void close_endpoint(void *endpoint_handle)
{
    struct loopback_endpoint *endpoint = endpoint_handle;

    if (!endpoint)
        return;
    loopback_stop_listening(endpoint);
    while (endpoint->peers)
        loopback_disconnect(endpoint->peers);
    while (endpoint->sources) {
        struct loopback_source *source = endpoint->sources;
        endpoint->sources = source->next;
        loopback_source_free(source);
    }
    for (size_t i = 0; i < endpoint->slots; i++)
        free(endpoint->regions[i]);
    free(endpoint->regions);
    pthread_mutex_destroy(&endpoint->lock);
    free(endpoint);
}

/* A free slot, or one more. -1: no memory. */
static int64_t take_slot(struct loopback_endpoint *endpoint)
{
    struct loopback_region **regions;

    for (size_t i = 0; i < endpoint->slots; i++)
        if (!endpoint->regions[i])
            return (int64_t)i;
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
    struct loopback_endpoint *endpoint = endpoint_handle;
    struct loopback_region *region;
    int64_t slot;

    if (!cpu_base || !bytes || (uintptr_t)cpu_base + bytes < (uintptr_t)cpu_base)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "cannot register %zu bytes at %p", bytes,
                          cpu_base);
    region = malloc(sizeof *region);
    if (!region)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a loopback region");
    pthread_mutex_lock(&endpoint->lock);
    slot = take_slot(endpoint);
    if (slot >= 0) {
        /* A new salt each time: the key of a region that is gone does not open its successor. */
        endpoint->key_salt += 2;
        *region = (struct loopback_region){
            endpoint, cpu_base, bytes, (uint64_t)endpoint->key_salt << 32 | (uint64_t)(slot + 1)};
        endpoint->regions[slot] = region;
    }
    pthread_mutex_unlock(&endpoint->lock);
    if (slot < 0) {
        free(region);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a loopback region");
    }
    *region_out = region;
    *key_out = region->key;
    return THRUM_OK;
}

static thrum_status_t region_register_dmabuf(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                             void **region_out, uint64_t *key_out)
{
    (void)endpoint, (void)offset, (void)bytes, (void)region_out, (void)key_out;
    return thrum_fail(THRUM_ERR_UNSUPPORTED,
                      "fabric loopback copies by the CPU and cannot register dmabuf %d", fd);
}

static void region_deregister(void *endpoint_handle, void *region_handle)
{
    struct loopback_endpoint *endpoint = endpoint_handle;
    struct loopback_region *region = region_handle;

    if (!region)
        return;
    pthread_mutex_lock(&endpoint->lock);
    endpoint->regions[(uint32_t)region->key - 1] = NULL;
    pthread_mutex_unlock(&endpoint->lock);
    free(region);
}

bool loopback_progress_locked(struct loopback_endpoint *endpoint)
{
    struct loopback_source **link = &endpoint->sources;
    bool moved = false;

    for (struct loopback_peer *peer = endpoint->peers; peer; peer = peer->next)
        moved |= loopback_send_locked(peer);
    while (*link) {
        struct loopback_source *source = *link;
        bool was_gone = source->gone; /* then nothing can follow what is there now */
        bool received = loopback_receive_locked(endpoint, source);

        moved |= received;
        if (was_gone && !received) {
            *link = source->next;
            loopback_source_free(source);
        } else {
            link = &source->next;
        }
    }
    return moved;
}

/* One thread at a time; a second one has nothing to do meanwhile. */
static thrum_status_t progress(void *endpoint_handle)
{
    struct loopback_endpoint *endpoint = endpoint_handle;
    bool moved;

    if (pthread_mutex_trylock(&endpoint->lock))
        return THRUM_IN_PROGRESS;
    moved = loopback_progress_locked(endpoint);
    pthread_mutex_unlock(&endpoint->lock);
    return moved ? THRUM_OK : THRUM_IN_PROGRESS;
}

/* Senders do not ring a bell: a system call per put would cost more than polling. */
static int wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

static size_t max_inline(void *handle)
{
    const struct loopback_endpoint *endpoint = handle;

    return max_inline_of(endpoint->ring_bytes);
}

static const struct thrum_fabric_ops ops = {
    .size = sizeof ops,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "loopback",
    .enumerate = enumerate,
    .open = open_endpoint,
    .close = close_endpoint,
    .connect = loopback_connect,
    .disconnect = loopback_disconnect,
    .region_register = region_register,
    .region_register_dmabuf = region_register_dmabuf,
    .region_deregister = region_deregister,
    .put_signal = loopback_put_signal,
    .get = loopback_get,
    .flush = loopback_flush,
    .progress = progress,
    .wait_fd = wait_fd,
    .peer_error = loopback_peer_error,
    .max_inline = max_inline,
};

const struct thrum_fabric_ops *loopback_fabric_plugin(uint32_t library_abi_version)
{
    return library_abi_version == THRUM_FABRIC_ABI_VERSION ? &ops : NULL;
}
