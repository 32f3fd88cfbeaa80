/*
 * Memory that peers may write: regions of the caller, and the arena: the directory where peers read what a key means,
 * slots for data that has to outlive a call, and buffers for signals that arrive.
 */
#include "ofi.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

#define DIRECTORY_BYTES (OFI_REGIONS * sizeof(struct ofi_entry))
_Static_assert(DIRECTORY_BYTES % 4096 == 0, "slots begin on a page");

static uint64_t random_u64(void)
{
    uint64_t value = 0;

    if (getrandom(&value, sizeof value, 0) != (ssize_t)sizeof value)
        value = (uint64_t)now_ns() * 0x9e3779b97f4a7c15u;
    return value;
}

uint64_t ofi_entry_check(const struct ofi_entry *entry)
{
    const uint64_t words[] = {entry->key, entry->base, entry->bytes, entry->rma_key,
                              entry->write_signals};
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = (h ^ words[i] ^ h >> 29) * 0x9e3779b97f4a7c15u;
    return h;
}

/* ---- registration ---- */

/* Keys are the provider's where it wants that, else ours: at random, since a key is what opens the memory. */
static uint64_t wanted_key(const struct ofi_endpoint *endpoint)
{
    size_t bytes = endpoint->info->domain_attr->mr_key_size;

    if (endpoint->info->domain_attr->mr_mode & FI_MR_PROV_KEY)
        return 0;
    return bytes >= 8 ? random_u64() : random_u64() & ((1ull << 8 * bytes) - 1);
}

static thrum_status_t fail_register(int error, const void *base, size_t bytes)
{
    struct rlimit limit = {0};

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (error == FI_ENOMEM || error == FI_EPERM || error == FI_EAGAIN || error == FI_ENOSPC)
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "ofi: cannot register %zu bytes: %s; RLIMIT_MEMLOCK (ulimit -l) "
                                 "is %llu bytes: raise it, or register less",
                                 bytes, fi_strerror(error), (unsigned long long)limit.rlim_cur);
    return ofi_fail(error, "ofi: cannot register %zu bytes at %p", bytes, base);
}

/* With FI_MR_ENDPOINT a registration serves once it is bound to the endpoint that peers write through. */
static int bind_region(struct ofi_endpoint *endpoint, struct fid_mr *mr)
{
    int error;

    if (!(endpoint->info->domain_attr->mr_mode & FI_MR_ENDPOINT))
        return 0;
    error = fi_mr_bind(mr, &endpoint->ep->fid, 0);
    return error ? error : fi_mr_enable(mr);
}

static thrum_status_t register_memory(struct ofi_endpoint *endpoint, void *base, size_t bytes,
                                      struct fid_mr **mr_out)
{
    const uint64_t access =
        FI_SEND | FI_RECV | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
    struct fid_mr *mr = NULL;
    int error = 0;

    /* A key of ours may be taken already, where keys are short. */
    for (int tries = 0; tries < 16; tries++) {
        error =
            fi_mr_reg(endpoint->domain, base, bytes, access, 0, wanted_key(endpoint), 0, &mr, NULL);
        if (error != -FI_ENOKEY)
            break;
    }
    if (!error)
        error = bind_region(endpoint, mr);
    if (!error && fi_mr_key(mr) == FI_KEY_NOTAVAIL)
        error = -FI_ENOKEY;
    if (error) {
        if (mr)
            fi_close(&mr->fid);
        return fail_register(-error, base, bytes);
    }
    *mr_out = mr;
    return THRUM_OK;
}

static uint64_t remote_base(const struct ofi_endpoint *endpoint, const void *base)
{
    return endpoint->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR ? (uint64_t)(uintptr_t)base : 0;
}

/* ---- the arena ---- */

static unsigned receives_of(const struct ofi_endpoint *endpoint)
{
    return endpoint->is_stream ? OFI_STREAM_RECEIVES : OFI_RECEIVES;
}

static void lay_out_receives(struct ofi_endpoint *endpoint)
{
    char *at = endpoint->arena + DIRECTORY_BYTES + OFI_SLOTS * endpoint->slot_bytes;

    for (unsigned i = 0; i < receives_of(endpoint); i++)
        endpoint->receives[i].slot = at + i * endpoint->receive_bytes;
}

thrum_status_t ofi_arena_create(struct ofi_endpoint *endpoint)
{
    thrum_status_t status;
    void *map;

    endpoint->slot_bytes = endpoint->is_stream ? OFI_STREAM_SLOT_BYTES : OFI_SLOT_BYTES;
    endpoint->receive_bytes = endpoint->is_stream ? OFI_STREAM_SLOT_BYTES : OFI_SLOT_BYTES;
    endpoint->arena_bytes = DIRECTORY_BYTES + OFI_SLOTS * endpoint->slot_bytes +
                            receives_of(endpoint) * endpoint->receive_bytes;
    map = mmap(NULL, endpoint->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
               0);
    if (map == MAP_FAILED)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for an endpoint");
    endpoint->arena = map;
    endpoint->directory = map;
    for (unsigned i = 0; i < OFI_SLOTS; i++)
        endpoint->free_slots[endpoint->nfree++] = (uint16_t)(OFI_SLOTS - 1 - i);
    lay_out_receives(endpoint);
    endpoint->key_salt = (uint32_t)random_u64() | 1; /* no key is 0 */
    endpoint->address.token = random_u64();
    status = register_memory(endpoint, map, endpoint->arena_bytes, &endpoint->arena_mr);
    if (status)
        return status;
    endpoint->arena_desc = fi_mr_desc(endpoint->arena_mr);
    endpoint->address.directory = remote_base(endpoint, map);
    endpoint->address.directory_key = fi_mr_key(endpoint->arena_mr);
    return THRUM_OK;
}

void ofi_arena_destroy(struct ofi_endpoint *endpoint)
{
    for (uint32_t i = 0; i < endpoint->regions_high; i++)
        if (endpoint->regions[i])
            ofi_region_deregister(endpoint, endpoint->regions[i]);
    if (endpoint->arena_mr)
        fi_close(&endpoint->arena_mr->fid);
    if (endpoint->arena)
        munmap(endpoint->arena, endpoint->arena_bytes);
}

void *ofi_slot_take(struct ofi_endpoint *endpoint)
{
    if (!endpoint->nfree)
        return NULL;
    return endpoint->arena + DIRECTORY_BYTES +
           (size_t)endpoint->free_slots[--endpoint->nfree] * endpoint->slot_bytes;
}

void ofi_slot_free(struct ofi_endpoint *endpoint, void *slot)
{
    size_t at = (size_t)((char *)slot - endpoint->arena) - DIRECTORY_BYTES;

    endpoint->free_slots[endpoint->nfree++] = (uint16_t)(at / endpoint->slot_bytes);
}

/* ---- regions ---- */

/* A peer may be reading: it must not take half of an entry for a whole one. */
static void publish(struct ofi_entry *entry, struct ofi_entry value)
{
    entry->check = 0;
    atomic_thread_fence(memory_order_release);
    entry->key = value.key;
    entry->base = value.base;
    entry->bytes = value.bytes;
    entry->rma_key = value.rma_key;
    entry->write_signals = value.write_signals;
    atomic_thread_fence(memory_order_release);
    entry->check = ofi_entry_check(&value);
}

/* Under lock. Where the region goes in the directory. */
static thrum_status_t take_entry(struct ofi_endpoint *endpoint, uint32_t *slot_out)
{
    uint32_t slot = 0;

    while (slot < endpoint->regions_high && endpoint->regions[slot])
        slot++;
    if (slot == OFI_REGIONS)
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "ofi: %d regions are registered already, which is the limit: "
                                 "register larger ones, or let go of some",
                                 OFI_REGIONS);
    if (slot == endpoint->regions_high)
        endpoint->regions_high++;
    *slot_out = slot;
    return THRUM_OK;
}

/* Takes over `mr`. */
static thrum_status_t add_region(struct ofi_endpoint *endpoint, struct fid_mr *mr, void *base,
                                 size_t bytes, uint64_t remote, void **region_out,
                                 uint64_t *key_out)
{
    struct ofi_region *region = calloc(1, sizeof *region);
    struct ofi_entry entry = {
        .base = remote, .bytes = bytes, .rma_key = fi_mr_key(mr), .write_signals = !base};
    thrum_status_t status = THRUM_OK;
    uint32_t slot = 0;

    if (!region)
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for a region");
    else
        status = take_entry(endpoint, &slot);
    if (status) {
        free(region);
        fi_close(&mr->fid);
        return status;
    }
    /* A new salt each time: the key of a region that is gone does not open its successor. */
    endpoint->key_salt += 2;
    entry.key = (uint64_t)endpoint->key_salt << 32 | (slot + 1);
    *region = (struct ofi_region){mr, base, bytes, fi_mr_desc(mr), slot};
    endpoint->regions[slot] = region;
    publish(&endpoint->directory[slot], entry);
    *region_out = region;
    *key_out = entry.key;
    return THRUM_OK;
}

thrum_status_t ofi_region_register(void *handle, void *cpu_base, size_t bytes, void **region_out,
                                   uint64_t *key_out)
{
    struct ofi_endpoint *endpoint = handle;
    struct fid_mr *mr = NULL;
    thrum_status_t status;

    if (!cpu_base || !bytes || (uintptr_t)cpu_base + bytes < (uintptr_t)cpu_base)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "cannot register %zu bytes at %p",
                                 bytes, cpu_base);
    pthread_mutex_lock(&endpoint->lock);
    status = register_memory(endpoint, cpu_base, bytes, &mr);
    if (!status)
        status = add_region(endpoint, mr, cpu_base, bytes, remote_base(endpoint, cpu_base),
                            region_out, key_out);
    pthread_mutex_unlock(&endpoint->lock);
    return status;
}

#ifdef FI_MR_DMABUF
/* Whether provider, driver and exporter get along is known by trying. */
thrum_status_t ofi_region_register_dmabuf(void *handle, int fd, uint64_t offset, size_t bytes,
                                          void **region_out, uint64_t *key_out)
{
    struct ofi_endpoint *endpoint = handle;
    struct fi_mr_dmabuf dmabuf = {.fd = fd, .offset = offset, .len = bytes};
    struct fi_mr_attr attr = {.dmabuf = &dmabuf,
                              .iov_count = 1,
                              .access = FI_SEND | FI_RECV | FI_READ | FI_WRITE | FI_REMOTE_READ |
                                        FI_REMOTE_WRITE,
                              .requested_key = wanted_key(endpoint)};
    struct fid_mr *mr = NULL;
    thrum_status_t status;
    int error;

    if (!(endpoint->info->caps & FI_HMEM))
        return thrum_plugin_fail(THRUM_ERR_UNSUPPORTED,
                                 "ofi: provider %s cannot reach device memory (FI_HMEM)",
                                 endpoint->address.provider);
    pthread_mutex_lock(&endpoint->lock);
    error = fi_mr_regattr(endpoint->domain, &attr, FI_MR_DMABUF, &mr);
    if (!error)
        error = bind_region(endpoint, mr);
    if (error) {
        if (mr)
            fi_close(&mr->fid);
        status = thrum_plugin_fail(THRUM_ERR_UNSUPPORTED, "ofi: cannot register dmabuf %d: %s", fd,
                                   fi_strerror(-error));
    } else {
        status = add_region(endpoint, mr, NULL, bytes, 0, region_out, key_out);
    }
    pthread_mutex_unlock(&endpoint->lock);
    return status;
}
#else
thrum_status_t ofi_region_register_dmabuf(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                          void **region_out, uint64_t *key_out)
{
    (void)endpoint, (void)offset, (void)bytes, (void)region_out, (void)key_out;
    return thrum_plugin_fail(THRUM_ERR_UNSUPPORTED,
                             "ofi: cannot register dmabuf %d: built with libfabric %d.%d, which "
                             "has no FI_MR_DMABUF",
                             fd, FI_MAJOR_VERSION, FI_MINOR_VERSION);
}
#endif

void ofi_region_deregister(void *handle, void *region_handle)
{
    struct ofi_endpoint *endpoint = handle;
    struct ofi_region *region = region_handle;

    if (!region)
        return;
    pthread_mutex_lock(&endpoint->lock);
    publish(&endpoint->directory[region->slot], (struct ofi_entry){0});
    endpoint->regions[region->slot] = NULL;
    fi_close(&region->mr->fid);
    pthread_mutex_unlock(&endpoint->lock);
    free(region);
}

/* Where [offset, +bytes) of the region that `key` names lies; NULL: there is none. Under lock. */
static char *find_bytes(const struct ofi_endpoint *endpoint, uint64_t key, uint64_t offset,
                        size_t bytes)
{
    uint32_t slot = (uint32_t)key - 1;
    const struct ofi_region *region =
        slot < endpoint->regions_high ? endpoint->regions[slot] : NULL;

    if (!region || !region->base || endpoint->directory[slot].key != key || region->bytes < bytes ||
        offset > region->bytes - bytes)
        return NULL;
    return region->base + offset;
}

bool ofi_signal_apply(struct ofi_endpoint *endpoint, const struct ofi_signal *signal)
{
    bool is_line = !signal->data_key;
    char *word =
        find_bytes(endpoint, signal->key, signal->offset, 8u + (is_line ? signal->bytes : 0u));
    char *data =
        is_line ? NULL : find_bytes(endpoint, signal->data_key, signal->data_offset, signal->bytes);

    if (!word || (uintptr_t)word % 8 || (!is_line && !data))
        return false;
    memcpy(is_line ? word + 8 : data, (const char *)signal + OFI_SIGNAL_HEAD, signal->bytes);
    atomic_store_explicit((_Atomic uint64_t *)(void *)word, signal->value, memory_order_release);
    return true;
}
