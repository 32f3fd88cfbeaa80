/*
 * The short way: commands of small messages while they are submitted, in a few instructions each, and the patience of
 * a submitter whose peer is just as far. Whatever is unusual about a command, a fault among it, is left to the
 * executor, which calls this as the owner of the queue.
 */
#include "sim_internal.h"

#include <sched.h>
#include <string.h>

#include "sim_reduce.h"

/* ---- patience ---------------------------------------------------------------------------------------------------- */

#define PATIENCE 256 /* looks at what has not come, before it is left to a waiter */
/*
 * With more ranks than cores whoever is waited for may need this core, which then is given away, so many times. If he
 * has another core, that costs more than a few looks.
 */
#define CROWDED_YIELDS(patience) ((patience) / 16)
#define CROWDED_LOOKS 2
#define CROWDED_LOOKS_APART 64

static bool is_crowded(const struct sim_queue *queue)
{
    return atomic_load_explicit(&queue->device->oversubscribed, memory_order_relaxed);
}

void sim_publish_core_now(struct sim_device *device)
{
    int core = sched_getcpu();

    if (core != atomic_load_explicit(&device->shared->core, memory_order_relaxed))
        atomic_store_explicit(&device->shared->core, core, memory_order_relaxed);
}

struct sim_patience sim_patience_begin(const struct sim_queue *queue)
{
    bool crowded = is_crowded(queue);

    return (struct sim_patience){
        .tries = crowded ? CROWDED_YIELDS(queue->patience) : queue->patience, .yields = crowded};
}

bool sim_patience_again(struct sim_patience *patience)
{
    if (!patience->tries)
        return false;
    patience->tries--;
    if (patience->yields)
        sched_yield();
    else
        cpu_pause();
    return true;
}

void sim_patience_end(struct sim_queue *queue, bool was_in_time)
{
    queue->patience = was_in_time ? PATIENCE : queue->patience / 2 + 1;
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

/* The translation of an operand that is simple and known; NULL: there is none. */
static inline struct sim_tlb_entry *find_near(struct sim_queue *queue,
                                              const struct thrum_operand *o, uint64_t bytes)
{
    struct sim_tlb_entry *entry = sim_tlb_entry(queue, o->base);

    return sim_likely(!o->indirect && sim_tlb_holds(entry, o->base, bytes)) ? entry : NULL;
}

static inline char *near_cpu(const struct sim_tlb_entry *entry, const struct thrum_operand *o)
{
    return entry->cpu + (o->base & (SIM_PAGE_BYTES - 1));
}

/* What data are copied from or to; NULL: not near. */
static inline char *find_data(struct sim_queue *queue, const struct thrum_command *c, unsigned i,
                              uint64_t bytes)
{
    const struct thrum_operand *o = &c->operands[i];
    const struct sim_tlb_entry *entry = find_near(queue, o, bytes);

    if (sim_likely(entry != NULL))
        return near_cpu(entry, o);
    return c->flags & THRUM_CMD_FLAG_HOST && !o->indirect && !sim_is_device_address(o->base)
               ? (char *)(uintptr_t)o->base
               : NULL;
}

static inline void store_word(char *cpu, uint64_t value, struct sim_shared *shared)
{
    atomic_store_explicit((_Atomic uint64_t *)(void *)cpu, value, memory_order_release);
    sim_wake(shared);
}

static inline bool signal_near(struct sim_queue *queue, const struct thrum_command *c)
{
    const struct sim_tlb_entry *entry = find_near(queue, &c->operands[0], 8);
    char *cpu;

    if (!entry || !(c->flags & THRUM_CMD_FLAG_SET))
        return false;
    cpu = near_cpu(entry, &c->operands[0]);
    if (sim_load_word(cpu) >= c->value)
        return false;
    store_word(cpu, c->value, entry->shared);
    return true;
}

/* ---- what comes next --------------------------------------------------------------------------------------------- */

#define FETCH_BYTES 4096 /* at most; of more it would drive out what else is needed */

static inline void fetch_for_write(const char *cpu, uint64_t bytes)
{
    bytes = min_u64(bytes, FETCH_BYTES);
    for (uint64_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        cpu_prefetch_for_write(cpu + at);
}

/*
 * What is written next was read by the peer long ago: its copy is of no use to it any more, and on the way here while there
 * are other things to do.
 */
static inline void fetch_line(struct sim_queue *queue, const struct thrum_command *c,
                              uint64_t bytes)
{
    const struct thrum_operand next = {.base = c->next};
    const struct sim_tlb_entry *entry;

    if (!c->next)
        return;
    entry = find_near(queue, &next, bytes);
    if (entry)
        fetch_for_write(near_cpu(entry, &next), bytes);
}

/* Payloads that lie apart from their lines lie one behind the other. */
static inline void fetch_apart(const char *payload, uint64_t bytes)
{
    fetch_for_write(payload + bytes, bytes);
}

#define PEEK_BYTES 1024 /* further on the processor is as clever itself */

/* A line has come, and with it what the command after reads. */
static inline void peek(struct sim_queue *queue, const struct thrum_command *c)
{
    if (c->bytes <= THRUM_LINE_PAYLOAD_BYTES ||
        (c->opcode != THRUM_CMD_REDUCE && c->opcode != THRUM_CMD_COPY))
        return;
    for (unsigned i = c->ndst; i < (unsigned)c->ndst + c->nsrc; i++) {
        const struct sim_tlb_entry *entry = find_near(queue, &c->operands[i], c->bytes);
        const char *cpu, *end;

        if (!entry)
            return;
        cpu = near_cpu(entry, &c->operands[i]);
        end = cpu + min_u64(c->bytes, PEEK_BYTES);
        for (cpu -= (uintptr_t)cpu % CACHE_LINE_BYTES; cpu < end; cpu += CACHE_LINE_BYTES)
            __builtin_prefetch(cpu, 0);
    }
}

/* ---- one command ------------------------------------------------------------------------------------------------- */

static inline bool write_line_near(struct sim_queue *queue, const struct thrum_command *c)
{
    const uint64_t head = offsetof(struct thrum_line, payload);
    bool apart = c->ndst == 2;
    const struct sim_tlb_entry *entry =
        find_near(queue, &c->operands[0], apart ? THRUM_LINE_BYTES : head + c->bytes);
    const char *source = c->payload;
    char *line, *payload;

    if (sim_unlikely(!entry))
        return false;
    line = near_cpu(entry, &c->operands[0]);
    payload = line + head;
    if (c->bytes) {
        if (apart)
            payload = find_data(queue, c, 1, c->bytes);
        if (c->nsrc)
            source = find_data(queue, c, c->ndst, c->bytes);
        if (sim_unlikely(!payload || !source))
            return false;
        if (c->bytes == 8)
            memcpy(payload, source, 8);
        else
            memmove(payload, source, c->bytes);
    }
    store_word(line, c->value, entry->shared);
    if (apart)
        fetch_apart(payload, c->bytes);
    fetch_line(queue, c, apart ? THRUM_LINE_BYTES : head + c->bytes);
    return true;
}

#define NEAR_OPERANDS 16

/* Translates all operands of a COPY or REDUCE; false if one is not near or is larger than is small. */
static inline bool find_all_near(struct sim_queue *queue, const struct thrum_command *c, void **cpu)
{
    unsigned n = (unsigned)c->ndst + c->nsrc;

    if (n > NEAR_OPERANDS || c->bytes > SIM_PAGE_BYTES ||
        (c->flags & ~(unsigned)(THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_HOST)))
        return false;
    for (unsigned i = 0; i < n; i++) {
        cpu[i] = find_data(queue, c, i, c->bytes);
        if (!cpu[i])
            return false;
    }
    return true;
}

static inline bool copy_near(struct sim_queue *queue, const struct thrum_command *c)
{
    void *cpu[NEAR_OPERANDS];

    if (!c->bytes || !find_all_near(queue, c, cpu))
        return false;
    for (unsigned i = 0; i < c->ndst; i++)
        memmove(cpu[i], cpu[c->ndst], c->bytes);
    sim_count(&queue->bytes_copied, c->bytes * c->ndst);
    return true;
}

/* A destination may be exactly a source. */
static inline bool overlaps(void *const *dst, unsigned ndst, void *const *src, unsigned nsrc,
                            uint64_t bytes)
{
    for (unsigned d = 0; d < ndst; d++)
        for (unsigned s = 0; s < nsrc; s++) {
            uintptr_t apart = (uintptr_t)dst[d] - (uintptr_t)src[s];
            if (apart && apart + bytes - 1 < 2 * bytes - 1)
                return true;
        }
    return false;
}

static inline bool reduce_near(struct sim_queue *queue, const struct thrum_command *c)
{
    void *cpu[NEAR_OPERANDS];

    if (!c->bytes || c->redop >= THRUM_REDOP_COUNT || !find_all_near(queue, c, cpu) ||
        overlaps(cpu, c->ndst, cpu + c->ndst, c->nsrc, c->bytes) ||
        !sim_reduce_small((thrum_datatype_t)c->dtype, (thrum_redop_t)c->redop, cpu, c->ndst,
                          (const void *const *)(cpu + c->ndst), c->nsrc, c->bytes))
        return false;
    sim_count(&queue->bytes_reduced, c->bytes * c->nsrc);
    return true;
}

/* Looks for some time at a word that is to come. */
static inline bool spin(const struct sim_queue *queue, char *cpu, uint64_t value, uint64_t mask,
                        unsigned looks)
{
    for (; looks; looks--) {
        if ((sim_load_word(cpu) & mask) >= (value & mask))
            return true;
        cpu_pause();
        if (atomic_load_explicit(&queue->attention, memory_order_relaxed))
            return false;
    }
    return false;
}

/* The device that is to write a word; NULL: not known, or not one that may be looked at. */
static const struct sim_shared *writer_of(const struct sim_queue *queue, uint64_t writer)
{
    unsigned slot = sim_address_slot(writer);

    return sim_is_device_address(writer) &&
                   atomic_load_explicit(&queue->device->rights[slot], memory_order_acquire)
               ? sim_slots[slot].shared
               : NULL;
}

/* It was not seen on this core. */
static bool is_apart(const struct sim_queue *queue, const struct thrum_command *c)
{
    const struct sim_shared *writer = writer_of(queue, c->writer);

    return writer && atomic_load_explicit(&writer->core, memory_order_relaxed) != sched_getcpu();
}

bool sim_writer_is_here(const struct sim_queue *queue)
{
    const struct sim_shared *writer = writer_of(queue, queue->awaited_writer);

    return writer && atomic_load_explicit(&writer->core, memory_order_relaxed) == sched_getcpu();
}

static bool await_in_crowd(struct sim_queue *queue, const struct thrum_command *c, char *cpu,
                           uint64_t mask)
{
    unsigned looks = is_apart(queue, c) ? CROWDED_LOOKS_APART : CROWDED_LOOKS;

    for (unsigned yields = sim_is_deferred(c) ? 0 : CROWDED_YIELDS(queue->patience);; yields--) {
        if (spin(queue, cpu, c->value, mask, looks))
            return true;
        if (!yields || atomic_load_explicit(&queue->wanted, memory_order_relaxed))
            return false;
        sched_yield();
        sim_publish_core(queue->device);
        looks = CROWDED_LOOKS;
    }
}

bool sim_awaits_port(const struct sim_queue *queue, const struct thrum_command *c)
{
    return (c->opcode == THRUM_CMD_WAIT || c->opcode == THRUM_CMD_WAIT_LINE) && !c->writer &&
           atomic_load_explicit(&queue->device->nports, memory_order_relaxed);
}

/* The word has not come yet: from a peer that is just as far it comes in a moment. */
static bool await_near(struct sim_queue *queue, const struct thrum_command *c, char *cpu,
                       uint64_t mask)
{
    bool came;

    if (sim_awaits_port(queue, c))
        return sim_ports_progress(queue->device) &&
               (sim_load_word(cpu) & mask) >= (c->value & mask);
    came = is_crowded(queue) ? await_in_crowd(queue, c, cpu, mask)
                             : spin(queue, cpu, c->value, mask, queue->patience);
    if (came || !sim_is_deferred(c))
        sim_patience_end(queue, came);
    if (!came && c->writer)
        queue->awaited_writer = c->writer;
    return came;
}

static inline bool wait_near(struct sim_queue *queue, const struct thrum_command *c)
{
    const struct sim_tlb_entry *entry = find_near(queue, &c->operands[0], 8);
    char *cpu;

    if (sim_unlikely(!entry))
        return false;
    cpu = near_cpu(entry, &c->operands[0]);
    return sim_load_word(cpu) >= c->value || await_near(queue, c, cpu, UINT64_MAX);
}

static inline bool wait_line_near(struct sim_queue *queue, const struct thrum_command *c)
{
    const struct sim_tlb_entry *entry = find_near(queue, &c->operands[0], THRUM_LINE_BYTES);
    char *cpu;

    if (sim_unlikely(!entry))
        return false;
    cpu = near_cpu(entry, &c->operands[0]);
    if (sim_load_word(cpu) != c->value &&
        !(await_near(queue, c, cpu, c->mask) && sim_load_word(cpu) == c->value))
        return false;
    fetch_line(queue, c, offsetof(struct thrum_line, payload) + c->bytes);
    return true;
}

static inline bool step_near(struct sim_queue *queue, const struct thrum_command *c)
{
    switch (c->opcode) {
    case THRUM_CMD_WAIT:
        return wait_near(queue, c);
    case THRUM_CMD_WAIT_LINE:
        return wait_line_near(queue, c);
    case THRUM_CMD_SIGNAL:
        return signal_near(queue, c);
    case THRUM_CMD_WRITE_LINE:
        return write_line_near(queue, c);
    case THRUM_CMD_COPY:
        return copy_near(queue, c);
    case THRUM_CMD_REDUCE:
        return reduce_near(queue, c);
    default:
        return false;
    }
}

size_t sim_execute_near(struct sim_queue *queue, struct sim_submission *s, size_t done)
{
    const struct thrum_command *commands = s->commands;
    size_t n = s->n;

    for (; done < n; done++) {
        if (done == s->nfirst)
            sim_do_meanwhile(s);
        if (sim_unlikely(atomic_load_explicit(&queue->attention, memory_order_acquire)) ||
            !step_near(queue, &commands[done]))
            break;
        if (commands[done].opcode == THRUM_CMD_WAIT_LINE && done + 1 < n && done + 1 != s->nfirst)
            peek(queue, &commands[done + 1]);
    }
    return done;
}
