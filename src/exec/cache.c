/*
 * The plan cache of a communicator: programs by what distinguishes calls. A set-associative table, so that finding is
 * a few loads; bounded by entries and bytes. One owner: the communicator's user thread.
 */
#include "exec/exec.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define SETS 64
#define WAYS 4
#define REPEATS 16

struct entry {
    struct exec_key key;
    struct exec_program *program; /* NULL: free */
    uint64_t *blocks; /* counts and displs of the key; NULL: none */
    uint64_t used; /* clock of the last use */
};

struct exec_cache {
    struct exec_repeat repeats[REPEATS];
    struct entry entries[SETS][WAYS];
    uint64_t clock, bytes, drops;
};

struct exec_cache *exec_cache_create(void)
{
    return calloc(1, sizeof(struct exec_cache));
}

static void drop(struct exec_cache *cache, struct entry *entry)
{
    for (int i = 0; i < REPEATS && entry->program; i++)
        if (cache->repeats[i].program == entry->program)
            cache->repeats[i].program = NULL;
    if (entry->program) {
        cache->bytes -= entry->program->host_bytes;
        cache->drops++;
    }
    exec_program_free(entry->program);
    free(entry->blocks);
    entry->program = NULL;
    entry->blocks = NULL;
}

void exec_cache_destroy(struct exec_cache *cache)
{
    if (!cache)
        return;
    for (int set = 0; set < SETS; set++)
        for (int way = 0; way < WAYS; way++)
            drop(cache, &cache->entries[set][way]);
    free(cache);
}

static bool same_blocks(const struct exec_key *a, const struct exec_key *b)
{
    size_t bytes = (size_t)a->nranks * sizeof *a->counts;

    if (!a->counts || !b->counts)
        return !a->counts && !b->counts;
    return a->nranks == b->nranks && !memcmp(a->counts, b->counts, bytes) &&
           !memcmp(a->displs, b->displs, bytes);
}

static bool same_key(const struct exec_key *a, const struct exec_key *b)
{
    return a->count == b->count && a->root == b->root && a->collective == b->collective &&
           a->dtype == b->dtype && a->redop == b->redop && a->in_place == b->in_place &&
           a->detail == b->detail && same_blocks(a, b);
}

static struct entry *set_of(struct exec_cache *cache, const struct exec_key *key)
{
    uint64_t h = key->count * 0x9e3779b97f4a7c15u ^ key->detail ^
                 ((uint64_t)(uint32_t)key->root << 40 | (uint64_t)key->collective << 32 |
                  (uint64_t)key->dtype << 24 | (uint64_t)key->redop << 8 | key->in_place) *
                     0xc2b2ae3d27d4eb4fu;
    return cache->entries[h >> 58];
}

struct exec_program *exec_cache_find(struct exec_cache *cache, const struct exec_key *key)
{
    struct entry *set = set_of(cache, key);

    for (int way = 0; way < WAYS; way++)
        if (set[way].program && same_key(&set[way].key, key)) {
            set[way].used = ++cache->clock;
            return set[way].program;
        }
    return NULL;
}

static inline struct exec_repeat *repeat_of(struct exec_cache *cache, const struct coll_args *args)
{
    uint64_t h = ((uint64_t)(uintptr_t)args->send ^ (uint64_t)(uintptr_t)args->recv << 7 ^
                  (uint64_t)args->collective << 60 ^ args->count) *
                 0x9e3779b97f4a7c15u;

    return &cache->repeats[h >> 60];
}

struct exec_repeat *exec_cache_recall(struct exec_cache *cache, const struct coll_args *args,
                                      uint64_t epoch)
{
    struct exec_repeat *r = repeat_of(cache, args);

    if (!r->program || args->counts || r->epoch != epoch || r->args.send != args->send ||
        r->args.recv != args->recv || r->args.count != args->count ||
        r->args.collective != args->collective || r->args.dtype != args->dtype ||
        r->args.redop != args->redop || r->args.root != args->root || r->args.queue != args->queue)
        return NULL;
    if (exec_is_staged(&r->placement) &&
        (r->stage_moves != args->comm->stage_moves || args->comm->old_stages))
        return NULL; /* old stages wait for a call that frees them */
    return r;
}

struct exec_repeat *exec_cache_remember(struct exec_cache *cache, const struct coll_args *args,
                                        uint64_t epoch, struct exec_program *program,
                                        const struct exec_placement *placement,
                                        const struct call_record *call)
{
    struct exec_repeat *r = repeat_of(cache, args);

    *r = (struct exec_repeat){.program = program,
                              .placement = *placement,
                              .call = *call,
                              .args = *args,
                              .epoch = epoch,
                              .stage_moves = args->comm->stage_moves};
    return r;
}

/* Makes room for `bytes` by dropping the least recently used programs. */
static void make_room(struct exec_cache *cache, uint64_t bytes)
{
    while (cache->bytes && cache->bytes + bytes > EXEC_CACHE_LIMIT_BYTES) {
        struct entry *oldest = NULL;
        for (int i = 0; i < SETS * WAYS; i++) {
            struct entry *entry = &cache->entries[i / WAYS][i % WAYS];
            if (entry->program && (!oldest || entry->used < oldest->used))
                oldest = entry;
        }
        drop(cache, oldest);
    }
}

/* The key's arrays for as long as the entry lives. */
static bool copy_blocks(struct entry *entry)
{
    size_t n = (size_t)entry->key.nranks;

    if (!entry->key.counts)
        return true;
    entry->blocks = malloc(2 * n * sizeof *entry->blocks);
    if (!entry->blocks)
        return false;
    memcpy(entry->blocks, entry->key.counts, n * sizeof *entry->blocks);
    memcpy(entry->blocks + n, entry->key.displs, n * sizeof *entry->blocks);
    entry->key.counts = entry->blocks;
    entry->key.displs = entry->blocks + n;
    return true;
}

thrum_status_t exec_cache_insert(struct exec_cache *cache, const struct exec_key *key,
                                 struct exec_program *program)
{
    struct entry *set = set_of(cache, key), *victim = set, entry = {.key = *key};

    if (!copy_blocks(&entry)) {
        exec_program_free(program);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
    }
    program->host_bytes += key->counts ? 2 * (size_t)key->nranks * sizeof *entry.blocks : 0;
    make_room(cache, program->host_bytes);
    for (int way = 0; way < WAYS && victim->program; way++)
        if (!set[way].program || set[way].used < victim->used)
            victim = &set[way];
    drop(cache, victim);
    entry.program = program;
    entry.used = ++cache->clock;
    *victim = entry;
    cache->bytes += program->host_bytes;
    return THRUM_OK;
}

void exec_cache_forget_redop(struct exec_cache *cache, thrum_redop_t redop)
{
    for (int i = 0; i < SETS * WAYS; i++) {
        struct entry *entry = &cache->entries[i / WAYS][i % WAYS];

        if (entry->program && entry->key.redop == redop)
            drop(cache, entry);
    }
}

uint64_t exec_cache_drops(const struct exec_cache *cache)
{
    return cache->drops;
}

uint64_t exec_cache_bytes(const struct exec_cache *cache)
{
    return sizeof *cache + cache->bytes;
}
