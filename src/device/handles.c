/* Tables of the public handles: validity of any pointer in a few instructions. Called by all of src/device. */
#include "device_internal.h"

#include <string.h>
#include <sys/mman.h>

#include "base/base.h"

#define FREE_KEPT \
    1024 /* freed entries are reused only when there are more, so that stale handles stay stale */

/* Every handle struct starts with its magic, which is 0 in a dead entry. */
struct handle_table {
    size_t entry_bytes, capacity; /* entry_bytes becomes a power of two */
    uint32_t magic;
    _Atomic(char *) base;
    _Atomic size_t high;
    uint32_t *next_free; /* per entry, 1 + index; under the lock, like the two ends */
    uint32_t free_first, free_last;
    size_t nfree;
    pthread_mutex_t lock;
};

static struct handle_table tables[HANDLE_KINDS] = {
    [HANDLE_DEVICE] = {.entry_bytes = sizeof(struct thrum_device),
                       .capacity = 8192,
                       .magic = DEVICE_MAGIC,
                       .lock = PTHREAD_MUTEX_INITIALIZER},
    [HANDLE_QUEUE] = {.entry_bytes = sizeof(struct thrum_queue),
                      .capacity = 65536,
                      .magic = QUEUE_MAGIC,
                      .lock = PTHREAD_MUTEX_INITIALIZER},
    [HANDLE_EVENT] = {.entry_bytes = sizeof(struct thrum_event),
                      .capacity = 1048576,
                      .magic = EVENT_MAGIC,
                      .lock = PTHREAD_MUTEX_INITIALIZER},
    [HANDLE_SEMAPHORE] = {.entry_bytes = sizeof(struct thrum_semaphore),
                          .capacity = 1048576,
                          .magic = SEMAPHORE_MAGIC,
                          .lock = PTHREAD_MUTEX_INITIALIZER},
    [HANDLE_GRAPH] = {.entry_bytes = GRAPH_HANDLE_BYTES,
                      .capacity = 65536,
                      .magic = GRAPH_MAGIC,
                      .lock = PTHREAD_MUTEX_INITIALIZER},
};

static char *base_of(struct handle_table *table)
{
    return atomic_load_explicit(&table->base, memory_order_acquire);
}

static char *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Under the lock. Pages of it become real as entries are used. */
static bool make_table(struct handle_table *table)
{
    size_t links = table->capacity * sizeof *table->next_free;
    char *base;

    if (base_of(table))
        return true;
    size_t entry_bytes = CACHE_LINE_BYTES;
    while (entry_bytes < table->entry_bytes)
        entry_bytes *= 2;
    table->entry_bytes = entry_bytes;
    base = reserve(table->capacity * table->entry_bytes + links);
    if (!base)
        return false;
    table->next_free = (uint32_t *)(void *)(base + table->capacity * table->entry_bytes);
    atomic_store_explicit(&table->base, base, memory_order_release);
    return true;
}

void *handle_take(enum handle_kind kind)
{
    struct handle_table *table = &tables[kind];
    void *object = NULL;
    uint32_t index;
    size_t high;

    pthread_mutex_lock(&table->lock);
    if (!make_table(table))
        goto out;
    high = atomic_load_explicit(&table->high, memory_order_relaxed);
    if (high < table->capacity && table->nfree <= FREE_KEPT) {
        index = (uint32_t)high;
        atomic_store_explicit(&table->high, high + 1, memory_order_release);
    } else if (table->free_first) {
        index = table->free_first - 1;
        table->free_first = table->next_free[index];
        if (!--table->nfree)
            table->free_last = 0;
    } else {
        goto out;
    }
    object = base_of(table) + index * table->entry_bytes;
    memset((char *)object + sizeof(uint32_t), 0, table->entry_bytes - sizeof(uint32_t));
out:
    pthread_mutex_unlock(&table->lock);
    return object;
}

static uint32_t *magic_of(void *object)
{
    return object;
}

void handle_publish(enum handle_kind kind, void *object)
{
    __atomic_store_n(magic_of(object), tables[kind].magic, __ATOMIC_RELEASE);
}

void handle_retract(void *object)
{
    __atomic_store_n(magic_of(object), 0, __ATOMIC_RELEASE);
}

void handle_give(enum handle_kind kind, void *object)
{
    struct handle_table *table = &tables[kind];
    uint32_t index = (uint32_t)((size_t)((char *)object - base_of(table)) / table->entry_bytes);

    handle_retract(object);
    pthread_mutex_lock(&table->lock);
    table->next_free[index] = 0;
    if (table->free_last)
        table->next_free[table->free_last - 1] = index + 1;
    else
        table->free_first = index + 1;
    table->free_last = index + 1;
    table->nfree++;
    pthread_mutex_unlock(&table->lock);
}

bool handle_is_valid(enum handle_kind kind, const void *object)
{
    struct handle_table *table = &tables[kind];
    uintptr_t base = (uintptr_t)base_of(table), offset = (uintptr_t)object - base;

    return base &&
           offset < atomic_load_explicit(&table->high, memory_order_relaxed) * table->entry_bytes &&
           !(offset & (table->entry_bytes - 1)) &&
           __atomic_load_n((const uint32_t *)object, __ATOMIC_ACQUIRE) == table->magic;
}

void *handle_at(enum handle_kind kind, size_t i)
{
    char *object = base_of(&tables[kind]) + i * tables[kind].entry_bytes;

    return handle_is_valid(kind, object) ? object : NULL;
}

size_t handle_high(enum handle_kind kind)
{
    return atomic_load_explicit(&tables[kind].high, memory_order_acquire);
}
