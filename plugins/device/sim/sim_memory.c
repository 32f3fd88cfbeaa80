/*
 * Device memory of sim: the memfd behind HBM, its allocator, registered host ranges, and host access to a few bytes.
 * Called through the plugin table and by reset.
 */
#include "sim_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define HBM_ALIGN (2ull << 20)
#define PUNCH_BYTES (64u << 10) /* freed ranges at least this large go back to the host at once */

/* ---- the allocator: page extents, sorted by page, coalesced; best fit. Under memory_lock ---------------------- */

static bool extents_reserve(struct sim_device *device, size_t n)
{
    struct sim_extent *extents;
    size_t capacity = device->free_capacity ? device->free_capacity * 2 : 64;

    if (n <= device->free_capacity)
        return true;
    extents = realloc(device->free_extents, capacity * sizeof *extents);
    if (!extents)
        return false;
    device->free_extents = extents;
    device->free_capacity = capacity;
    return true;
}

static bool extent_take(struct sim_device *device, uint64_t pages, uint64_t *page_out)
{
    struct sim_extent *best = NULL;

    for (size_t i = 0; i < device->nfree; i++) {
        struct sim_extent *extent = &device->free_extents[i];
        if (extent->pages >= pages && (!best || extent->pages < best->pages))
            best = extent;
    }
    if (!best)
        return false;
    *page_out = best->page;
    best->page += pages;
    best->pages -= pages;
    device->free_pages -= pages;
    if (!best->pages) {
        size_t after = device->nfree - (size_t)(best - device->free_extents) - 1;
        memmove(best, best + 1, after * sizeof *best);
        device->nfree--;
    }
    return true;
}

/* Room for one more extent was reserved when the pages were taken. */
static void extent_give(struct sim_device *device, uint64_t page, uint64_t pages)
{
    struct sim_extent *extents = device->free_extents;
    size_t low = 0, high = device->nfree;
    bool joins_left, joins_right;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (extents[middle].page < page)
            low = middle + 1;
        else
            high = middle;
    }
    joins_left = low > 0 && extents[low - 1].page + extents[low - 1].pages == page;
    joins_right = low < device->nfree && page + pages == extents[low].page;
    device->free_pages += pages;
    if (joins_left && joins_right) {
        extents[low - 1].pages += pages + extents[low].pages;
        memmove(&extents[low], &extents[low + 1], (device->nfree - low - 1) * sizeof *extents);
        device->nfree--;
    } else if (joins_left) {
        extents[low - 1].pages += pages;
    } else if (joins_right) {
        extents[low].page = page;
        extents[low].pages += pages;
    } else {
        memmove(&extents[low + 1], &extents[low], (device->nfree - low) * sizeof *extents);
        extents[low] = (struct sim_extent){page, pages};
        device->nfree++;
    }
}

/* ---- open, close, reset -------------------------------------------------------------------------------------- */

static thrum_status_t make_file(struct sim_device *device, uint64_t hbm_bytes, uint64_t *bytes_out)
{
    struct sim_shared layout = {.magic = SIM_SHARED_MAGIC, .hbm_bytes = hbm_bytes};
    uint64_t pages = hbm_bytes >> SIM_PAGE_SHIFT;

    layout.page_table_offset = round_up_u64(sizeof layout, SIM_PAGE_BYTES);
    layout.allocations_offset =
        round_up_u64(layout.page_table_offset + pages * sizeof(uint32_t), SIM_PAGE_BYTES);
    layout.hbm_offset =
        round_up_u64(layout.allocations_offset + pages * sizeof(struct sim_allocation), HBM_ALIGN);
    layout.file_bytes = layout.hbm_offset + hbm_bytes;
    if (getrandom(layout.key, sizeof layout.key, 0) != (ssize_t)sizeof layout.key)
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "sim%d: getrandom", device->index);
    atomic_init(&layout.generation, 1);
    atomic_init(&layout.memory_generation, 1);
    atomic_init(&layout.core, -1);
    memcpy(device->key, layout.key, sizeof layout.key);

    device->memory_fd = memfd_create("thrum-sim", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (device->memory_fd < 0)
        return thrum_fail_errno(errno == EMFILE || errno == ENFILE ? THRUM_ERR_LIMIT
                                                                   : THRUM_ERR_SYSTEM,
                                "sim%d: memfd_create%s", device->index,
                                errno == EMFILE ? " (raise RLIMIT_NOFILE)" : "");
    if (ftruncate(device->memory_fd, (off_t)layout.file_bytes) ||
        pwrite(device->memory_fd, &layout, sizeof layout, 0) != (ssize_t)sizeof layout)
        return thrum_fail_errno(THRUM_ERR_LIMIT, "sim%d: making %llu bytes of device memory",
                                device->index, (unsigned long long)layout.file_bytes);
    /* a peer that shrank the file would make everybody's accesses raise SIGBUS */
    if (fcntl(device->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "sim%d: sealing device memory", device->index);
    *bytes_out = layout.file_bytes;
    return THRUM_OK;
}

static thrum_status_t take_slot(struct sim_device *device, uint32_t memory_generation)
{
    unsigned slot;
    thrum_status_t status;

    sim_slots_lock();
    status = sim_slot_fill(device->mapping, memory_generation, &slot);
    sim_slots_unlock();
    if (status)
        return status;
    device->was_own[slot] = false;
    atomic_store_explicit(&device->slot, slot, memory_order_release);
    atomic_store_explicit(&device->rights[slot], SIM_RIGHT_ALL, memory_order_release);
    return THRUM_OK;
}

thrum_status_t sim_memory_open(struct sim_device *device, uint64_t hbm_bytes)
{
    uint64_t file_bytes;
    thrum_status_t status;

    hbm_bytes &= ~(uint64_t)(SIM_PAGE_BYTES - 1);
    if (!extents_reserve(device, 1))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for the allocator", device->index);
    status = make_file(device, hbm_bytes, &file_bytes);
    if (status)
        return status;
    sim_slots_lock();
    status = sim_mapping_create(device->memory_fd, &device->mapping);
    if (!status)
        device->mapping->references++;
    sim_slots_unlock();
    if (status)
        return status;
    device->shared = device->mapping->shared;
    (void)madvise((char *)device->shared + device->shared->hbm_offset, hbm_bytes, MADV_HUGEPAGE);
    device->next_id = 1;
    extent_give(device, 0, hbm_bytes >> SIM_PAGE_SHIFT);
    return take_slot(device, 1);
}

static void drop_rights(struct sim_device *device)
{
    for (unsigned s = 0; s < SIM_SLOTS; s++) {
        atomic_store_explicit(&device->rights[s], SIM_RIGHT_NONE, memory_order_release);
        for (int n = device->slot_opens[s] + device->slot_imports[s]; n > 0; n--)
            sim_slot_put(s);
        device->slot_opens[s] = device->slot_imports[s] = 0;
    }
}

void sim_memory_close(struct sim_device *device)
{
    if (device->mapping) {
        /* peers that still map the memory fault from now on */
        atomic_fetch_add_explicit(&device->shared->memory_generation, 1, memory_order_acq_rel);
        atomic_fetch_add_explicit(&device->shared->unmapped, 1, memory_order_acq_rel);
        drop_rights(device);
        if (sim_slots[device->slot].mapping == device->mapping)
            sim_slot_put(device->slot);
        sim_slots_lock();
        sim_mapping_put(device->mapping);
        sim_slots_unlock();
    }
    sim_ranges_free(&device->host);
    sim_ranges_free(&device->imports);
    free(device->free_extents);
    if (device->memory_fd >= 0)
        close(device->memory_fd);
}

thrum_status_t sim_memory_reset(struct sim_device *device)
{
    struct sim_shared *shared = device->shared;
    unsigned old = atomic_load_explicit(&device->slot, memory_order_relaxed);
    uint64_t pages = shared->hbm_bytes >> SIM_PAGE_SHIFT;
    thrum_status_t status;

    pthread_mutex_lock(&device->memory_lock);
    uint32_t generation =
        atomic_fetch_add_explicit(&shared->memory_generation, 1, memory_order_acq_rel) + 1;
    atomic_fetch_add_explicit(&shared->unmapped, 1, memory_order_acq_rel);
    atomic_store_explicit(&device->rights[old], SIM_RIGHT_NONE, memory_order_release);
    device->was_own[old] = true;
    /* tables and HBM become holes, which read as zero: no allocation, no data */
    if (fallocate(device->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)shared->page_table_offset,
                  (off_t)(shared->file_bytes - shared->page_table_offset)))
        thrum_log(LOG_ERROR, "sim%d: could not clear device memory", device->index);
    device->nfree = 0;
    device->nlive = 0;
    device->free_pages = 0;
    extent_give(device, 0, pages);
    status = take_slot(device, generation);
    pthread_mutex_unlock(&device->memory_lock);
    sim_slot_put(old);
    return status;
}

/* ---- alloc and free ------------------------------------------------------------------------------------------ */

static uint64_t extent_pages(uint64_t bytes)
{
    return (bytes + SIM_PAGE_BYTES - 1) >> SIM_PAGE_SHIFT;
}

static void punch(struct sim_device *device, uint64_t page, uint64_t pages)
{
    (void)fallocate(device->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)(device->shared->hbm_offset + (page << SIM_PAGE_SHIFT)),
                    (off_t)(pages << SIM_PAGE_SHIFT));
}

/* Zeroed and there, or an error: never a SIGBUS later. With `touch` also mapped, which takes as long again. */
static bool make_resident(struct sim_device *device, uint64_t page, uint64_t pages, bool touch)
{
    size_t bytes = (size_t)(pages << SIM_PAGE_SHIFT);
    char *start = sim_slots[device->slot].hbm + (page << SIM_PAGE_SHIFT);
    bool fresh = bytes >= PUNCH_BYTES;
    int rc;

    if (fresh)
        punch(device, page, pages);
    do
        rc =
            fallocate(device->memory_fd, 0,
                      (off_t)(device->shared->hbm_offset + (page << SIM_PAGE_SHIFT)), (off_t)bytes);
    while (rc && errno == EINTR);
    if (rc)
        return false;
    if (fresh && !touch)
        return true;
#ifdef MADV_POPULATE_WRITE
    if (!madvise(start, bytes, MADV_POPULATE_WRITE) && fresh)
        return true;
#endif
    memset(start, 0, bytes);
    return true;
}

static void publish(struct sim_slot *slot, uint64_t page, uint64_t pages, uint64_t bytes,
                    uint64_t id)
{
    struct sim_allocation *allocation = &slot->allocations[page];

    atomic_store_explicit(&allocation->id, id, memory_order_relaxed);
    atomic_store_explicit(&allocation->bytes, bytes, memory_order_release);
    for (uint64_t i = 0; i < pages; i++)
        atomic_store_explicit(&slot->page_table[page + i], (uint32_t)(page + 1),
                              memory_order_release);
}

static thrum_status_t alloc(struct sim_device *device, size_t bytes, bool touch,
                            uint64_t *address_out)
{
    uint64_t pages, page, free_bytes;
    thrum_status_t status = THRUM_OK;

    if (!bytes)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: bytes=0", device->index);
    pages = bytes > SIM_OFFSET_MASK ? UINT64_MAX : extent_pages(bytes);
    pthread_mutex_lock(&device->memory_lock);
    free_bytes = device->free_pages << SIM_PAGE_SHIFT;
    if (!extents_reserve(device, device->nlive + 2)) {
        status =
            thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for the allocator", device->index);
    } else if (pages > device->free_pages || !extent_take(device, pages, &page)) {
        status = thrum_fail(THRUM_ERR_NO_DEVICE_MEMORY,
                            "sim%d: bytes=%zu do not fit: %llu of %llu bytes are free (raise "
                            "THRUM_SIM_HBM_BYTES)",
                            device->index, bytes, (unsigned long long)free_bytes,
                            (unsigned long long)device->shared->hbm_bytes);
    } else if (!make_resident(device, page, pages, touch)) {
        status =
            thrum_fail_errno(THRUM_ERR_NO_DEVICE_MEMORY,
                             "sim%d: the host has no pages for bytes=%zu", device->index, bytes);
        punch(device, page, pages);
        extent_give(device, page, pages);
    } else {
        unsigned slot = atomic_load_explicit(&device->slot, memory_order_relaxed);
        publish(&sim_slots[slot], page, pages, bytes, device->next_id++);
        device->nlive++;
        *address_out = sim_slot_base(slot) + (page << SIM_PAGE_SHIFT);
    }
    pthread_mutex_unlock(&device->memory_lock);
    return status;
}

thrum_status_t sim_mem_alloc(void *device, size_t bytes, uint64_t *address_out)
{
    return alloc(device, bytes, true, address_out);
}

thrum_status_t sim_mem_reserve(void *device, size_t bytes, uint64_t *address_out)
{
    return alloc(device, bytes, false, address_out);
}

/* Under memory_lock: the page where a live own allocation starts, or -1. */
static int64_t own_allocation(struct sim_device *device, uint64_t address)
{
    struct sim_slot *slot = &sim_slots[device->slot];
    uint64_t offset = address & SIM_OFFSET_MASK;

    if (!sim_is_device_address(address) || sim_address_slot(address) != device->slot ||
        offset >= slot->hbm_bytes || offset % SIM_PAGE_BYTES)
        return -1;
    uint64_t page = offset >> SIM_PAGE_SHIFT;
    return atomic_load_explicit(&slot->allocations[page].bytes, memory_order_relaxed)
               ? (int64_t)page
               : -1;
}

static void free_own(struct sim_device *device, uint64_t page)
{
    struct sim_slot *slot = &sim_slots[device->slot];
    uint64_t pages = extent_pages(
        atomic_exchange_explicit(&slot->allocations[page].bytes, 0, memory_order_acq_rel));

    for (uint64_t i = 0; i < pages; i++)
        atomic_store_explicit(&slot->page_table[page + i], 0, memory_order_release);
    atomic_fetch_add_explicit(&device->shared->unmapped, 1, memory_order_acq_rel);
    if (pages << SIM_PAGE_SHIFT >= PUNCH_BYTES)
        punch(device, page, pages);
    extent_give(device, page, pages);
    device->nlive--;
}

thrum_status_t sim_mem_free(void *handle, uint64_t address)
{
    struct sim_device *device = handle;
    bool is_old = false;
    int import = -1;
    int64_t page;

    pthread_mutex_lock(&device->memory_lock);
    page = own_allocation(device, address);
    if (page >= 0)
        free_own(device, (uint64_t)page);
    else if (sim_is_device_address(address))
        import = sim_import_drop(device, address);
    if (page < 0 && import < 0 && sim_is_device_address(address))
        is_old = device->was_own[sim_address_slot(address)];
    pthread_mutex_unlock(&device->memory_lock);
    if (import >= 0) {
        sim_quiesce(device);
        sim_slot_put(sim_address_slot(address));
    } else if (is_old) {
        return thrum_fail(THRUM_ERR_RESET, "sim%d: address=0x%llx was lost by a hard reset",
                          device->index, (unsigned long long)address);
    } else if (page < 0) {
        return thrum_fail(THRUM_ERR_INVALID_POINTER,
                          "sim%d: address=0x%llx is not the start of a live allocation",
                          device->index, (unsigned long long)address);
    }
    return THRUM_OK;
}

/* ---- host ranges --------------------------------------------------------------------------------------------- */

thrum_status_t sim_host_register(void *handle, void *address, size_t bytes)
{
    struct sim_device *device = handle;
    uint64_t start = (uint64_t)(uintptr_t)address, end;
    thrum_status_t status = THRUM_OK;

    if (!address)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "sim%d: address=NULL", device->index);
    if (!bytes || __builtin_add_overflow(start, bytes, &end))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: bytes=%zu from %p", device->index,
                          bytes, address);
    if (sim_is_device_address(start) || end >> SIM_TAG_SHIFT)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "sim%d: address=%p is no host address",
                          device->index, address);
    pthread_mutex_lock(&device->memory_lock);
    if (sim_ranges_overlap(&device->host, start, end))
        status =
            thrum_fail(THRUM_ERR_INVALID_POINTER, "sim%d: [%p, +%zu) overlaps a registered range",
                       device->index, address, bytes);
    else if (!sim_ranges_insert(&device->host, start, end, device->next_id++))
        status =
            thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for the range table", device->index);
    pthread_mutex_unlock(&device->memory_lock);
    return status;
}

thrum_status_t sim_host_unregister(void *handle, void *address)
{
    struct sim_device *device = handle;
    bool removed;

    pthread_mutex_lock(&device->memory_lock);
    removed = sim_ranges_remove(&device->host, (uint64_t)(uintptr_t)address);
    pthread_mutex_unlock(&device->memory_lock);
    if (!removed)
        return thrum_fail(THRUM_ERR_INVALID_POINTER,
                          "sim%d: address=%p is not the start of a registered range", device->index,
                          address);
    sim_quiesce(device); /* the caller may unmap it now */
    return THRUM_OK;
}

/* ---- queries and host access --------------------------------------------------------------------------------- */

static bool query_slot(struct sim_device *device, uint64_t address, struct thrum_mem_info *info)
{
    unsigned s = sim_address_slot(address);
    const struct sim_slot *slot = &sim_slots[s];
    uint32_t entry;

    if (!sim_translate(device, address, 1))
        return false;
    entry = atomic_load_explicit(&slot->page_table[(address & SIM_OFFSET_MASK) >> SIM_PAGE_SHIFT],
                                 memory_order_acquire);
    if (!entry)
        return false;
    info->kind = s == device->slot ? THRUM_MEM_DEVICE : THRUM_MEM_PEER;
    info->base = (void *)(uintptr_t)(sim_slot_base(s) + ((uint64_t)(entry - 1) << SIM_PAGE_SHIFT));
    info->bytes = atomic_load_explicit(&slot->allocations[entry - 1].bytes, memory_order_acquire);
    info->id = atomic_load_explicit(&slot->allocations[entry - 1].id, memory_order_relaxed);
    return true;
}

thrum_status_t sim_mem_query(void *handle, uint64_t address, struct thrum_mem_info *info_out)
{
    struct sim_device *device = handle;
    struct thrum_mem_info info = {.size = info_out->size, .kind = THRUM_MEM_HOST};
    uint64_t start, end, id;

    if (!sim_is_device_address(address)) {
        if (sim_ranges_find(&device->host, address, &start, &end, &id)) {
            info.kind = THRUM_MEM_HOST_REGISTERED;
            info.base = (void *)(uintptr_t)start;
            info.bytes = end - start;
            info.id = id;
        }
    } else {
        /* the lock keeps a peer's slot mapped; own memory is the hot path and needs none */
        bool own =
            sim_address_slot(address) == atomic_load_explicit(&device->slot, memory_order_acquire);
        if (!own)
            pthread_mutex_lock(&device->memory_lock);
        (void)query_slot(device, address, &info);
        if (!own)
            pthread_mutex_unlock(&device->memory_lock);
    }
    *info_out = info;
    return THRUM_OK;
}

/* Words that a semaphore or a flag may live in are read and written whole. */
static void copy_words(void *dst, const void *src, size_t bytes, bool dst_is_device)
{
    char *d = dst;
    const char *s = src;
    uintptr_t shared = dst_is_device ? (uintptr_t)d : (uintptr_t)s;

    for (; bytes && shared % 8; d++, s++, shared++, bytes--)
        *d = *s;
    for (; bytes >= 8; d += 8, s += 8, bytes -= 8) {
        uint64_t word;
        if (dst_is_device) {
            memcpy(&word, s, 8);
            atomic_store_explicit((_Atomic uint64_t *)(void *)d, word, memory_order_release);
        } else {
            word = atomic_load_explicit((_Atomic uint64_t *)(void *)(uintptr_t)s,
                                        memory_order_acquire);
            memcpy(d, &word, 8);
        }
    }
    memcpy(d, s, bytes);
}

static thrum_status_t access_bytes(struct sim_device *device, uint64_t address, void *host,
                                   const void *host_const, size_t bytes)
{
    thrum_status_t status = THRUM_OK;
    bool lock =
        !sim_is_device_address(address) ||
        sim_address_slot(address) != atomic_load_explicit(&device->slot, memory_order_acquire);
    void *cpu;

    if (!bytes)
        return THRUM_OK;
    if (bytes > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: bytes=%zu > 4096", device->index,
                          bytes);
    if (lock)
        pthread_mutex_lock(&device->memory_lock);
    cpu = sim_translate(device, address, bytes);
    if (!cpu) {
        status = thrum_fail(THRUM_ERR_INVALID_POINTER, "sim%d: [0x%llx, +%zu) is not mapped",
                            device->index, (unsigned long long)address, bytes);
    } else if (host) {
        copy_words(host, cpu, bytes, false);
    } else {
        copy_words(cpu, host_const, bytes, true);
        sim_wake(sim_shared_of(device, address));
    }
    if (lock)
        pthread_mutex_unlock(&device->memory_lock);
    return status;
}

thrum_status_t sim_mem_peek(void *device, uint64_t address, void *host_out, size_t bytes)
{
    return access_bytes(device, address, host_out, NULL, bytes);
}

thrum_status_t sim_mem_poke(void *device, uint64_t address, const void *host, size_t bytes)
{
    return access_bytes(device, address, NULL, host, bytes);
}

thrum_status_t sim_port_region(void *handle, uint64_t address, struct thrum_port_region *region_out)
{
    struct sim_device *device = handle;
    struct thrum_mem_info info = {.size = sizeof info};
    uint64_t base;

    /* one allocation, not all of HBM: registering pins pages, and HBM is mostly holes */
    (void)sim_mem_query(device, address, &info);
    if (info.kind != THRUM_MEM_DEVICE && info.kind != THRUM_MEM_HOST_REGISTERED)
        return thrum_fail(THRUM_ERR_INVALID_POINTER,
                          "sim%d: address=0x%llx is neither this device's memory nor registered",
                          device->index, (unsigned long long)address);
    base = (uint64_t)(uintptr_t)info.base;
    *region_out = (struct thrum_port_region){
        .cpu_base = info.kind == THRUM_MEM_DEVICE
                        ? sim_slots[sim_address_slot(base)].hbm + (base & SIM_OFFSET_MASK)
                        : info.base,
        .dmabuf_fd = -1,
        .device_base = base,
        .bytes = info.bytes};
    return THRUM_OK;
}
