/*
 * The MMU of sim devices: slots (mapped devices of this process) and range tables (registered host memory, imports).
 * sim_translate in sim_internal.h is the read side, called for every operand; this file is the write side.
 */
#include "sim_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct sim_slot sim_slots[SIM_SLOTS];
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned
    next_slot; /* under slots_lock; round robin, so that a stale address stays stale for long */

void sim_slots_lock(void)
{
    pthread_mutex_lock(&slots_lock);
}

void sim_slots_unlock(void)
{
    pthread_mutex_unlock(&slots_lock);
}

/* ---- slots and mappings ------------------------------------------------------------------------------------- */

int sim_slot_find(const uint8_t *key, uint32_t memory_generation)
{
    for (unsigned i = 0; i < SIM_SLOTS; i++)
        if (sim_slots[i].references && sim_slots[i].memory_generation == memory_generation &&
            !memcmp(sim_slots[i].shared->key, key, SIM_KEY_BYTES))
            return (int)i;
    return -1;
}

thrum_status_t sim_slot_fill(struct sim_mapping *mapping, uint32_t memory_generation,
                             unsigned *slot_out)
{
    struct sim_shared *shared = mapping->shared;
    char *base = (char *)shared;

    for (unsigned i = 0; i < SIM_SLOTS; i++) {
        unsigned index = (next_slot + i) % SIM_SLOTS;
        struct sim_slot *slot = &sim_slots[index];
        if (slot->references)
            continue;
        slot->hbm = base + shared->hbm_offset;
        slot->page_table = (_Atomic uint32_t *)(void *)(base + shared->page_table_offset);
        slot->allocations = (struct sim_allocation *)(void *)(base + shared->allocations_offset);
        slot->shared = shared;
        slot->hbm_bytes = shared->hbm_bytes;
        slot->memory_generation = memory_generation;
        slot->mapping = mapping;
        slot->references = 1;
        mapping->references++;
        next_slot = (index + 1) % SIM_SLOTS;
        *slot_out = index;
        return THRUM_OK;
    }
    return thrum_fail(THRUM_ERR_LIMIT, "sim: all %u device slots of this process are in use",
                      SIM_SLOTS);
}

void sim_slot_get(unsigned slot)
{
    sim_slots[slot].references++;
}

void sim_slot_put(unsigned slot)
{
    sim_slots_lock();
    if (--sim_slots[slot].references == 0)
        sim_mapping_put(sim_slots[slot].mapping);
    sim_slots_unlock();
}

/* A peer's file is checked like any input: an inconsistent one would make the MMU read outside of it. */
static bool layout_is_sane(const struct sim_shared *shared, uint64_t file_bytes)
{
    uint64_t pages = shared->hbm_bytes >> SIM_PAGE_SHIFT;

    return shared->magic == SIM_SHARED_MAGIC && shared->file_bytes == file_bytes &&
           shared->hbm_bytes <= SIM_OFFSET_MASK + 1 && shared->hbm_bytes >= SIM_PAGE_BYTES &&
           shared->page_table_offset >= sizeof *shared &&
           shared->allocations_offset >= shared->page_table_offset + pages * sizeof(uint32_t) &&
           shared->hbm_offset >=
               shared->allocations_offset + pages * sizeof(struct sim_allocation) &&
           shared->hbm_offset % SIM_PAGE_BYTES == 0 && shared->allocations_offset % 64 == 0 &&
           shared->page_table_offset % 64 == 0 &&
           file_bytes >= shared->hbm_offset + shared->hbm_bytes;
}

thrum_status_t sim_mapping_create(int fd, struct sim_mapping **mapping_out)
{
    struct sim_mapping *mapping;
    struct stat st;
    void *base;

    if (fstat(fd, &st))
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "sim: fstat of device memory");
    if (st.st_size < (off_t)sizeof(struct sim_shared))
        return thrum_fail(THRUM_ERR_PROTOCOL, "sim: peer sent a file of %lld bytes",
                          (long long)st.st_size);
    mapping = malloc(sizeof *mapping);
    if (!mapping)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim: no memory for a mapping");
    base =
        mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        free(mapping);
        return thrum_fail_errno(errno == ENOMEM ? THRUM_ERR_LIMIT : THRUM_ERR_SYSTEM,
                                "sim: mapping %lld bytes of device memory", (long long)st.st_size);
    }
    if (!layout_is_sane(base, (uint64_t)st.st_size)) {
        munmap(base, (size_t)st.st_size);
        free(mapping);
        return thrum_fail(THRUM_ERR_PROTOCOL, "sim: peer's device memory has another layout");
    }
    *mapping = (struct sim_mapping){.shared = base, .bytes = (size_t)st.st_size};
    *mapping_out = mapping;
    return THRUM_OK;
}

void sim_mapping_put(struct sim_mapping *mapping)
{
    if (--mapping->references > 0)
        return;
    munmap(mapping->shared, mapping->bytes);
    free(mapping);
}

/* ---- range tables ------------------------------------------------------------------------------------------- */

/*
 * Readers load every field with acquire and look at the sequence again afterwards; the writer stores every field with
 * release after making the sequence odd. So a reader that saw any new field sees the changed sequence.
 */
static void write_begin(struct sim_ranges *ranges)
{
    atomic_fetch_add_explicit(&ranges->sequence, 1, memory_order_acq_rel);
}

static void write_end(struct sim_ranges *ranges)
{
    atomic_fetch_add_explicit(&ranges->sequence, 1, memory_order_release);
}

static void range_move(struct sim_range *to, struct sim_range *from)
{
    atomic_store_explicit(&to->start, atomic_load_explicit(&from->start, memory_order_relaxed),
                          memory_order_release);
    atomic_store_explicit(&to->end, atomic_load_explicit(&from->end, memory_order_relaxed),
                          memory_order_release);
    atomic_store_explicit(&to->id, atomic_load_explicit(&from->id, memory_order_relaxed),
                          memory_order_release);
    to->count = from->count;
}

static bool grow(struct sim_ranges *ranges)
{
    struct sim_range *old = atomic_load_explicit(&ranges->table, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&ranges->count, memory_order_relaxed);
    uint32_t capacity = ranges->capacity ? ranges->capacity * 2 : 16;
    struct sim_range *table;

    if (count < ranges->capacity)
        return true;
    if (old && ranges->nretired == sizeof ranges->retired / sizeof *ranges->retired)
        return false;
    table = calloc(capacity, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < count; i++)
        range_move(&table[i], &old[i]);
    atomic_store_explicit(&ranges->table, table, memory_order_release);
    ranges->capacity = capacity;
    if (old)
        ranges->retired[ranges->nretired++] = old;
    return true;
}

/* First index whose start is > address. */
static uint32_t upper_bound(struct sim_range *table, uint32_t count, uint64_t address)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (atomic_load_explicit(&table[middle].start, memory_order_acquire) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool sim_ranges_insert(struct sim_ranges *ranges, uint64_t start, uint64_t end, uint64_t id)
{
    uint32_t count, at;
    struct sim_range *table;

    if (!grow(ranges))
        return false;
    table = atomic_load_explicit(&ranges->table, memory_order_relaxed);
    count = atomic_load_explicit(&ranges->count, memory_order_relaxed);
    at = upper_bound(table, count, start);
    write_begin(ranges);
    for (uint32_t i = count; i > at; i--)
        range_move(&table[i], &table[i - 1]);
    atomic_store_explicit(&table[at].start, start, memory_order_release);
    atomic_store_explicit(&table[at].end, end, memory_order_release);
    atomic_store_explicit(&table[at].id, id, memory_order_release);
    table[at].count = 1;
    atomic_store_explicit(&ranges->count, count + 1, memory_order_release);
    write_end(ranges);
    return true;
}

struct sim_range *sim_ranges_at(struct sim_ranges *ranges, uint64_t start)
{
    struct sim_range *table = atomic_load_explicit(&ranges->table, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&ranges->count, memory_order_relaxed);
    uint32_t at = count ? upper_bound(table, count, start) : 0;

    if (!at || atomic_load_explicit(&table[at - 1].start, memory_order_relaxed) != start)
        return NULL;
    return &table[at - 1];
}

bool sim_ranges_remove(struct sim_ranges *ranges, uint64_t start)
{
    struct sim_range *table = atomic_load_explicit(&ranges->table, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&ranges->count, memory_order_relaxed);
    struct sim_range *range = sim_ranges_at(ranges, start);

    if (!range)
        return false;
    write_begin(ranges);
    for (struct sim_range *next = range + 1; next < table + count; next++)
        range_move(next - 1, next);
    atomic_store_explicit(&ranges->count, count - 1, memory_order_release);
    write_end(ranges);
    return true;
}

bool sim_ranges_overlap(struct sim_ranges *ranges, uint64_t start, uint64_t end)
{
    struct sim_range *table = atomic_load_explicit(&ranges->table, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&ranges->count, memory_order_relaxed);
    uint32_t at = count ? upper_bound(table, count, end - 1) : 0;

    return at && atomic_load_explicit(&table[at - 1].end, memory_order_relaxed) > start;
}

bool sim_ranges_find(struct sim_ranges *ranges, uint64_t address, uint64_t *start_out,
                     uint64_t *end_out, uint64_t *id_out)
{
    for (unsigned looks = 0;; looks++) {
        uint32_t sequence = atomic_load_explicit(&ranges->sequence, memory_order_acquire);
        uint32_t count = atomic_load_explicit(&ranges->count, memory_order_acquire);
        /* loaded after the count: a table only ever has room for at least the counts before it */
        struct sim_range *table = atomic_load_explicit(&ranges->table, memory_order_acquire);
        uint32_t at = count ? upper_bound(table, count, address) : 0;

        *start_out = *end_out = *id_out = 0;
        if (at) {
            *start_out = atomic_load_explicit(&table[at - 1].start, memory_order_acquire);
            *end_out = atomic_load_explicit(&table[at - 1].end, memory_order_acquire);
            *id_out = atomic_load_explicit(&table[at - 1].id, memory_order_acquire);
        }
        if (!(sequence & 1) &&
            atomic_load_explicit(&ranges->sequence, memory_order_relaxed) == sequence)
            return address - *start_out < *end_out - *start_out;
        sim_await_other(looks);
    }
}

void sim_ranges_free(struct sim_ranges *ranges)
{
    for (unsigned i = 0; i < ranges->nretired; i++)
        free(ranges->retired[i]);
    free(atomic_load_explicit(&ranges->table, memory_order_relaxed));
    memset(ranges, 0, sizeof *ranges);
}

void *sim_translate_host(struct sim_device *device, uint64_t address, uint64_t bytes)
{
    uint64_t start, end, id;

    if (!sim_ranges_find(&device->host, address, &start, &end, &id) || bytes > end - address)
        return NULL;
    return (void *)(uintptr_t)address;
}

bool sim_import_allows(struct sim_device *device, uint64_t address, uint64_t bytes, uint64_t id)
{
    uint64_t start, end, import_id;

    return sim_ranges_find(&device->imports, address, &start, &end, &import_id) &&
           bytes <= end - address && import_id == id;
}

void *sim_lookup_slowly(struct sim_queue *queue, struct sim_tlb_entry *entry, uint64_t address,
                        uint64_t bytes)
{
    unsigned s = sim_address_slot(address);
    struct sim_shared *shared;
    uint64_t seen, offset = address & SIM_OFFSET_MASK;
    uint32_t first;
    void *cpu;

    if (!sim_is_device_address(address) ||
        atomic_load_explicit(&queue->device->rights[s], memory_order_acquire) != SIM_RIGHT_ALL)
        return sim_translate(queue->device, address, bytes);
    shared = sim_slots[s].shared;
    seen = atomic_load_explicit(&shared->unmapped, memory_order_acquire); /* before the look */
    cpu = sim_translate(queue->device, address, bytes);
    if (!cpu)
        return NULL;
    first = atomic_load_explicit(&sim_slots[s].page_table[offset >> SIM_PAGE_SHIFT],
                                 memory_order_relaxed);
    if (!first)
        return cpu; /* freed meanwhile */
    *entry = (struct sim_tlb_entry){
        .page = address >> SIM_PAGE_SHIFT,
        .room =
            ((uint64_t)(first - 1) << SIM_PAGE_SHIFT) +
            atomic_load_explicit(&sim_slots[s].allocations[first - 1].bytes, memory_order_relaxed) -
            (offset & ~(uint64_t)(SIM_PAGE_BYTES - 1)),
        .cpu = (char *)cpu - (address & (SIM_PAGE_BYTES - 1)),
        .shared = shared,
        .seen = seen};
    return cpu;
}
