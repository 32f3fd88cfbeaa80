/*
 * check_segments: one piece of memory as a sorted sequence of segments, in leaves of bounded size, so that cutting one
 * of thousands stays cheap. Called by check_memory.c and check_result.c.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

struct leaf {
    uint32_t n;
    struct segment at[SEGMENTS_PER_LEAF];
};

static bool insert_leaf(struct store *store, size_t i, struct leaf *leaf)
{
    if (!leaf || !VECTOR_RESERVE(&store->leaves, store->leaves.n + 1)) {
        free(leaf);
        return false;
    }
    memmove(store->leaves.at + i + 1, store->leaves.at + i,
            (store->leaves.n - i) * sizeof *store->leaves.at);
    store->leaves.at[i] = (struct leaf_entry){leaf->at[0].start, leaf};
    store->leaves.n++;
    return true;
}

bool store_init(struct store *store, uint64_t bytes)
{
    struct leaf *leaf;

    *store = (struct store){.bytes = bytes};
    if (!bytes)
        return true;
    leaf = malloc(sizeof *leaf);
    if (leaf) {
        leaf->n = 1;
        leaf->at[0] = (struct segment){0};
    }
    return insert_leaf(store, 0, leaf);
}

void store_fini(struct store *store)
{
    for (size_t i = 0; i < store->leaves.n; i++)
        free(store->leaves.at[i].leaf);
    free(store->leaves.at);
}

struct cursor store_find(struct store *store, uint64_t offset)
{
    size_t low = 0, high = store->leaves.n;
    uint32_t first = 0, last;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        *(store->leaves.at[middle].start <= offset ? &low : &high) = middle;
    }
    last = store->leaves.at[low].leaf->n;
    while (last - first > 1) {
        uint32_t middle = first + (last - first) / 2;

        *(store->leaves.at[low].leaf->at[middle].start <= offset ? &first : &last) = middle;
    }
    return (struct cursor){store, low, first};
}

struct segment *cursor_segment(const struct cursor *cursor)
{
    return &cursor->store->leaves.at[cursor->leaf].leaf->at[cursor->slot];
}

/* NULL behind the last. */
static struct segment *following(const struct cursor *cursor)
{
    const struct store *store = cursor->store;

    if (cursor->slot + 1 < store->leaves.at[cursor->leaf].leaf->n)
        return &store->leaves.at[cursor->leaf].leaf->at[cursor->slot + 1];
    return cursor->leaf + 1 < store->leaves.n ? &store->leaves.at[cursor->leaf + 1].leaf->at[0]
                                              : NULL;
}

uint64_t cursor_end(const struct cursor *cursor)
{
    const struct segment *next = following(cursor);

    return next ? next->start : cursor->store->bytes;
}

void cursor_next(struct cursor *cursor)
{
    if (++cursor->slot == cursor->store->leaves.at[cursor->leaf].leaf->n) {
        cursor->leaf++;
        cursor->slot = 0;
    }
}

static void cut(struct segment *segment, uint64_t offset)
{
    segment->origin += offset - segment->start;
    segment->start = offset;
}

/* Half of a full leaf moves into a new one behind it. */
static bool part_leaf(struct cursor *cursor)
{
    struct leaf *full = cursor->store->leaves.at[cursor->leaf].leaf, *half = malloc(sizeof *half);
    uint32_t kept = full->n / 2;

    if (half) {
        half->n = full->n - kept;
        memcpy(half->at, full->at + kept, half->n * sizeof *half->at);
    }
    if (!insert_leaf(cursor->store, cursor->leaf + 1, half))
        return false;
    full->n = kept;
    if (cursor->slot >= kept) {
        cursor->leaf++;
        cursor->slot -= kept;
    }
    return true;
}

bool cursor_split(struct cursor *cursor, uint64_t offset)
{
    struct leaf *leaf;

    if (cursor->store->leaves.at[cursor->leaf].leaf->n == SEGMENTS_PER_LEAF && !part_leaf(cursor))
        return false;
    leaf = cursor->store->leaves.at[cursor->leaf].leaf;
    memmove(leaf->at + cursor->slot + 1, leaf->at + cursor->slot,
            (leaf->n - cursor->slot) * sizeof *leaf->at);
    leaf->n++;
    cut(&leaf->at[++cursor->slot], offset);
    return true;
}

static void drop_leaf(struct store *store, size_t i)
{
    free(store->leaves.at[i].leaf);
    store->leaves.n--;
    memmove(store->leaves.at + i, store->leaves.at + i + 1,
            (store->leaves.n - i) * sizeof *store->leaves.at);
}

static void drop_following(const struct cursor *cursor)
{
    struct store *store = cursor->store;
    struct leaf *leaf = store->leaves.at[cursor->leaf].leaf;
    size_t i = cursor->leaf;
    uint32_t slot = cursor->slot + 1;

    if (slot == leaf->n) {
        leaf = store->leaves.at[++i].leaf;
        slot = 0;
    }
    leaf->n--;
    memmove(leaf->at + slot, leaf->at + slot + 1, (leaf->n - slot) * sizeof *leaf->at);
    if (!leaf->n)
        drop_leaf(store, i);
    else
        store->leaves.at[i].start = leaf->at[0].start;
}

void cursor_extend(const struct cursor *cursor, uint64_t end)
{
    const struct store *store = cursor->store;

    while (cursor_end(cursor) < end) {
        struct segment *next = following(cursor);
        struct cursor behind = *cursor;

        cursor_next(&behind);
        if (cursor_end(&behind) > end) {
            cut(next, end);
            if (!behind.slot)
                store->leaves.at[behind.leaf].start = end;
            return;
        }
        if (!behind.slot && behind.leaf + 1 < store->leaves.n &&
            store->leaves.at[behind.leaf + 1].start <= end)
            drop_leaf(cursor->store, behind.leaf);
        else
            drop_following(cursor);
    }
}
