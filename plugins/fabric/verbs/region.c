/*
 * Memory that peers may write: regions of the caller, and the arena: the directory where peers read what a key means,
 * the words that count signals, slots for data that has to outlive a call, and buffers of control messages.
 */
#include "verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#define DIRECTORY_BYTES (VERBS_REGIONS * sizeof(struct verbs_entry))
#define WORDS_BYTES (VERBS_INBOUND * sizeof(uint64_t))
#define SLOTS_AT (DIRECTORY_BYTES + WORDS_BYTES)
#define CONTROL_AT (SLOTS_AT + VERBS_SLOTS * VERBS_INLINE_BYTES)
#define CONTROL_BYTES 512 /* a message behind the header that UD puts in front */
#define ARENA_BYTES (CONTROL_AT + VERBS_CONTROL_BUFFERS * CONTROL_BYTES)
_Static_assert(SLOTS_AT % 4096 == 0, "slots begin on a page");

static const int access_all =
    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

uint64_t verbs_random(void)
{
    uint64_t value = 0;

    if (getrandom(&value, sizeof value, 0) != (ssize_t)sizeof value)
        value = (uint64_t)now_ns() * 0x9e3779b97f4a7c15u;
    return value;
}

uint64_t verbs_entry_check(const struct verbs_entry *entry)
{
    const uint64_t words[] = {entry->key, entry->base, entry->bytes,
                              (uint64_t)entry->rkey[0] << 32 | entry->rkey[1],
                              (uint64_t)entry->rkey[2] << 32 | entry->rkey[3]};
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = (h ^ words[i] ^ h >> 29) * 0x9e3779b97f4a7c15u;
    return h;
}

/* ---- registration ---- */

static thrum_status_t fail_register(int error, const void *base, size_t bytes)
{
    struct rlimit limit = {0};

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limit.rlim_cur != RLIM_INFINITY)
        return thrum_plugin_fail(
            THRUM_ERR_LIMIT,
            "verbs: cannot pin %zu bytes for the adapter: %s. RLIMIT_MEMLOCK is %llu KiB; set it "
            "to "
            "unlimited: `ulimit -l unlimited`, or \"* - memlock unlimited\" in "
            "/etc/security/limits.conf, or LimitMEMLOCK=infinity of the service that starts this",
            bytes, strerror(error), (unsigned long long)limit.rlim_cur >> 10);
    if (error == ENOMEM || error == ENOSPC || error == EAGAIN)
        return thrum_plugin_fail(
            THRUM_ERR_LIMIT,
            "verbs: cannot register %zu bytes: %s: the adapter has no room for "
            "more regions, or the machine no memory",
            bytes, strerror(error));
    if (error == EFAULT || error == EOPNOTSUPP)
        return thrum_plugin_fail(THRUM_ERR_UNSUPPORTED,
                                 "verbs: the adapter cannot reach the memory at %p: %s", base,
                                 strerror(error));
    return verbs_fail(error, "verbs: cannot register %zu bytes at %p", bytes, base);
}

/* Pinning takes all pages, also those that were never touched: more than there are would end this process. */
static bool is_beyond_memory(size_t bytes)
{
    struct sysinfo info;

    return !sysinfo(&info) && bytes / info.mem_unit >= info.totalram;
}

static thrum_status_t register_memory(const struct verbs_device *device, void *base, size_t bytes,
                                      struct ibv_mr **mr_out)
{
    if (is_beyond_memory(bytes)) {
        if (device->has_paging)
            *mr_out = ibv_reg_mr(device->pd, base, bytes, access_all | IBV_ACCESS_ON_DEMAND);
        if (*mr_out)
            return THRUM_OK;
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "verbs: cannot pin %zu bytes: the machine has less memory, and "
                                 "the adapter does not page on demand",
                                 bytes);
    }
    *mr_out = ibv_reg_mr(device->pd, base, bytes, access_all);
    return *mr_out ? THRUM_OK : fail_register(errno, base, bytes);
}

/* ---- the arena ---- */

thrum_status_t verbs_arena_create(struct verbs_endpoint *endpoint)
{
    void *map = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for an endpoint");
    endpoint->arena = map;
    endpoint->arena_bytes = ARENA_BYTES;
    endpoint->directory = map;
    endpoint->words = (uint64_t *)(void *)(endpoint->arena + DIRECTORY_BYTES);
    for (unsigned i = 0; i < VERBS_SLOTS; i++)
        endpoint->free_slots[endpoint->nfree++] = (uint16_t)(VERBS_SLOTS - 1 - i);
    endpoint->key_salt = (uint32_t)verbs_random() | 1; /* no key is 0 */
    return THRUM_OK;
}

thrum_status_t verbs_arena_register(struct verbs_endpoint *endpoint)
{
    thrum_status_t status = THRUM_OK;

    for (unsigned i = 0; i < endpoint->ndevices && !status; i++)
        status = register_memory(&endpoint->devices[i], endpoint->arena, endpoint->arena_bytes,
                                 &endpoint->devices[i].arena_mr);
    return status;
}

void verbs_arena_destroy(struct verbs_endpoint *endpoint)
{
    for (uint32_t i = 0; i < endpoint->regions_high; i++)
        if (endpoint->regions[i])
            verbs_region_deregister(endpoint, endpoint->regions[i]);
    for (unsigned i = 0; i < endpoint->ndevices; i++)
        if (endpoint->devices[i].arena_mr)
            ibv_dereg_mr(endpoint->devices[i].arena_mr);
    if (endpoint->arena)
        munmap(endpoint->arena, endpoint->arena_bytes);
}

void *verbs_slot_take(struct verbs_endpoint *endpoint)
{
    if (!endpoint->nfree)
        return NULL;
    return endpoint->arena + SLOTS_AT +
           (size_t)endpoint->free_slots[--endpoint->nfree] * VERBS_INLINE_BYTES;
}

void verbs_slot_free(struct verbs_endpoint *endpoint, void *slot)
{
    size_t at = (size_t)((char *)slot - endpoint->arena) - SLOTS_AT;

    endpoint->free_slots[endpoint->nfree++] = (uint16_t)(at / VERBS_INLINE_BYTES);
}

void *verbs_control_buffer(struct verbs_endpoint *endpoint, unsigned index)
{
    return endpoint->arena + CONTROL_AT + (size_t)index * CONTROL_BYTES;
}

/* ---- regions ---- */

/* A peer may be reading: it must not take half of an entry for a whole one. */
static void publish(struct verbs_entry *entry, struct verbs_entry value)
{
    entry->check = 0;
    atomic_thread_fence(memory_order_release);
    entry->key = value.key;
    entry->base = value.base;
    entry->bytes = value.bytes;
    memcpy(entry->rkey, value.rkey, sizeof entry->rkey);
    atomic_thread_fence(memory_order_release);
    entry->check = verbs_entry_check(&value);
}

/* Under lock. Where the region goes in the directory. */
static thrum_status_t take_entry(struct verbs_endpoint *endpoint, uint32_t *slot_out)
{
    uint32_t slot = 0;

    while (slot < endpoint->regions_high && endpoint->regions[slot])
        slot++;
    if (slot == VERBS_REGIONS)
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "verbs: %d regions are registered already, which is the limit: "
                                 "register larger ones, or let go of some",
                                 VERBS_REGIONS);
    if (slot == endpoint->regions_high)
        endpoint->regions_high++;
    *slot_out = slot;
    return THRUM_OK;
}

static void free_region(struct verbs_region *region)
{
    for (unsigned i = 0; i < VERBS_PORTS; i++)
        if (region->mr[i])
            ibv_dereg_mr(region->mr[i]);
    free(region);
}

/* Under lock. Takes over `region`, registered with all devices; remote addresses begin at `base`. */
static thrum_status_t add_region(struct verbs_endpoint *endpoint, struct verbs_region *region,
                                 uint64_t base, uint64_t *key_out)
{
    struct verbs_entry entry = {.base = base, .bytes = region->bytes};
    thrum_status_t status = take_entry(endpoint, &region->slot);

    if (status)
        return status;
    for (unsigned i = 0; i < endpoint->nports; i++) {
        struct ibv_mr *mr = region->mr[endpoint->ports[i].device - endpoint->devices];
        region->lkey[i] = mr->lkey;
        entry.rkey[i] = mr->rkey;
    }
    /* A new salt each time: the key of a region that is gone does not open its successor. */
    endpoint->key_salt += 2;
    entry.key = (uint64_t)endpoint->key_salt << 32 | (region->slot + 1);
    endpoint->regions[region->slot] = region;
    publish(&endpoint->directory[region->slot], entry);
    *key_out = entry.key;
    return THRUM_OK;
}

thrum_status_t verbs_region_register(void *handle, void *cpu_base, size_t bytes, void **region_out,
                                     uint64_t *key_out)
{
    struct verbs_endpoint *endpoint = handle;
    struct verbs_region *region;
    thrum_status_t status = THRUM_OK;

    if (!cpu_base || !bytes || (uintptr_t)cpu_base + bytes < (uintptr_t)cpu_base)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "cannot register %zu bytes at %p",
                                 bytes, cpu_base);
    region = calloc(1, sizeof *region);
    if (!region)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for a region");
    region->base = cpu_base;
    region->bytes = bytes;
    pthread_mutex_lock(&endpoint->lock);
    for (unsigned i = 0; i < endpoint->ndevices && !status; i++)
        status = register_memory(&endpoint->devices[i], cpu_base, bytes, &region->mr[i]);
    if (!status)
        status = add_region(endpoint, region, (uint64_t)(uintptr_t)cpu_base, key_out);
    pthread_mutex_unlock(&endpoint->lock);
    if (status)
        free_region(region);
    else
        *region_out = region;
    return status;
}

/* Device memory by its dmabuf, else by its mapping in this process, which peer-memory drivers understand. */
static struct ibv_mr *register_dmabuf(const struct verbs_device *device, int fd, uint64_t offset,
                                      size_t bytes, void *map)
{
    struct ibv_mr *mr = NULL;

    errno = EOPNOTSUPP;
    if (device->has_dmabuf)
        mr = ibv_reg_dmabuf_mr(device->pd, offset, bytes, 0, fd, access_all);
    if (!mr && map)
        mr = ibv_reg_mr_iova(device->pd, map, bytes, 0, access_all);
    return mr;
}

thrum_status_t verbs_region_register_dmabuf(void *handle, int fd, uint64_t offset, size_t bytes,
                                            void **region_out, uint64_t *key_out)
{
    struct verbs_endpoint *endpoint = handle;
    struct verbs_region *region = bytes ? calloc(1, sizeof *region) : NULL;
    thrum_status_t status = THRUM_OK;

    if (!bytes || fd < 0)
        status = thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                   "cannot register %zu bytes of dmabuf %d", bytes, fd);
    else if (!region)
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for a region");
    if (status) {
        free(region);
        return status;
    }
    region->bytes = bytes;
    pthread_mutex_lock(&endpoint->lock);
    for (unsigned i = 0; i < endpoint->ndevices && !status; i++) {
        const struct verbs_device *device = &endpoint->devices[i];
        region->mr[i] = register_dmabuf(device, fd, offset, bytes, NULL);
        if (!region->mr[i])
            status = thrum_plugin_fail(
                THRUM_ERR_UNSUPPORTED, "verbs: %s cannot register dmabuf %d: %s",
                ibv_get_device_name(device->context->device), fd,
                device->has_dmabuf ? strerror(errno) : "its driver has no dmabuf support");
    }
    if (!status)
        status = add_region(endpoint, region, 0, key_out);
    pthread_mutex_unlock(&endpoint->lock);
    if (status)
        free_region(region);
    else
        *region_out = region;
    return status;
}

void verbs_region_deregister(void *handle, void *region_handle)
{
    struct verbs_endpoint *endpoint = handle;
    struct verbs_region *region = region_handle;

    if (!region)
        return;
    pthread_mutex_lock(&endpoint->lock);
    publish(&endpoint->directory[region->slot], (struct verbs_entry){0});
    endpoint->regions[region->slot] = NULL;
    pthread_mutex_unlock(&endpoint->lock);
    free_region(region);
}
