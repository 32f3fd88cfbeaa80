/* Open addressing with atomic slots; writers take turns. See handle_set.h. */
#include "handle_set.h"

#include <stdatomic.h>
#include <stdlib.h>

#define SMALLEST 64 /* slots; a power of two */
#define GONE ((uintptr_t)1) /* a key that was removed; no pointer */

struct slot {
    _Atomic uintptr_t key; /* 0: never used, which ends a search */
    void *_Atomic value; /* stored before the key */
};

struct handle_table {
    struct handle_table *outgrown; /* the one before, which someone may still be searching */
    size_t mask, used; /* used: slots whose key is not 0; under the set's lock */
    struct slot slots[];
};

static size_t home_of(const struct handle_table *table, uintptr_t key)
{
    return (size_t)((uint64_t)key * 0x9e3779b97f4a7c15u >> 20) & table->mask;
}

static struct slot *find_slot(struct handle_table *table, uintptr_t key)
{
    for (size_t i = home_of(table, key);; i = (i + 1) & table->mask) {
        uintptr_t there = atomic_load_explicit(&table->slots[i].key, memory_order_acquire);

        if (there == key)
            return &table->slots[i];
        if (!there)
            return NULL;
    }
}

void *handle_set_find(struct handle_set *set, const void *key)
{
    struct handle_table *table = atomic_load_explicit(&set->table, memory_order_acquire);
    struct slot *slot;

    if (!table || (uintptr_t)key <= GONE)
        return NULL;
    slot = find_slot(table, (uintptr_t)key);
    return slot ? atomic_load_explicit(&slot->value, memory_order_acquire) : NULL;
}

static void put(struct handle_table *table, uintptr_t key, void *value)
{
    size_t i = home_of(table, key);

    while (atomic_load_explicit(&table->slots[i].key, memory_order_relaxed) > GONE)
        i = (i + 1) & table->mask;
    table->used += !atomic_load_explicit(&table->slots[i].key, memory_order_relaxed);
    atomic_store_explicit(&table->slots[i].value, value, memory_order_release);
    atomic_store_explicit(&table->slots[i].key, key, memory_order_release);
}

/* Under the lock: a table with room for one more. Half of the slots stay empty, so that searches are short. */
static struct handle_table *make_room(struct handle_set *set)
{
    struct handle_table *old = atomic_load_explicit(&set->table, memory_order_relaxed), *table;
    size_t slots = SMALLEST;

    if (old && 2 * (old->used + 1) <= old->mask + 1)
        return old;
    while (slots < 4 * (set->live + 1))
        slots *= 2;
    table = calloc(1, sizeof *table + slots * sizeof *table->slots);
    if (!table)
        return NULL;
    table->mask = slots - 1;
    table->outgrown = old;
    for (size_t i = 0; old && i <= old->mask; i++) {
        uintptr_t key = atomic_load_explicit(&old->slots[i].key, memory_order_relaxed);

        if (key > GONE)
            put(table, key, atomic_load_explicit(&old->slots[i].value, memory_order_relaxed));
    }
    atomic_store_explicit(&set->table, table, memory_order_release);
    return table;
}

bool handle_set_add(struct handle_set *set, const void *key, void *value)
{
    struct handle_table *table;

    pthread_mutex_lock(&set->lock);
    table = make_room(set);
    if (table) {
        put(table, (uintptr_t)key, value);
        set->live++;
    }
    pthread_mutex_unlock(&set->lock);
    return table != NULL;
}

void *handle_set_remove(struct handle_set *set, const void *key)
{
    struct handle_table *table;
    struct slot *slot = NULL;
    void *value = NULL;

    pthread_mutex_lock(&set->lock);
    table = atomic_load_explicit(&set->table, memory_order_relaxed);
    if (table && (uintptr_t)key > GONE)
        slot = find_slot(table, (uintptr_t)key);
    if (slot) {
        value = atomic_load_explicit(&slot->value, memory_order_relaxed);
        atomic_store_explicit(&slot->key, GONE, memory_order_release);
        set->live--;
    }
    pthread_mutex_unlock(&set->lock);
    return value;
}
