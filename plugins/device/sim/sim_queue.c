/*
 * Command queues of sim: rings, the two ways in, tickets, cancel. Called through the plugin table; reset and close stop
 * queues.
 */
#include "sim_internal.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

#define MAX_QUEUES 65536u
#define KICK_BYTES (1u << 20) /* from here on it is worth waking the engine thread at once */
#define MOST_SLOTS (1u << 20) /* of a ring that has grown */
#define GROW_AFTER_NS \
    10000000 /* a full ring of which nothing could be executed for so long grows */

static _Atomic(struct sim_queue *) table[MAX_QUEUES];
static _Atomic unsigned table_high;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* of the free list and growth */
static struct sim_queue *free_first, *free_last;
static _Atomic uint64_t next_id = 1;

struct sim_queue *sim_queue_at(unsigned i)
{
    return atomic_load_explicit(&table[i], memory_order_acquire);
}

unsigned sim_queue_high(void)
{
    return atomic_load_explicit(&table_high, memory_order_acquire);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static struct sim_queue *take_struct(void)
{
    struct sim_queue *queue;
    unsigned index;

    pthread_mutex_lock(&table_lock);
    queue = free_first;
    if (queue) {
        free_first = queue->next_free;
        if (!free_first)
            free_last = NULL;
        goto out;
    }
    index = atomic_load_explicit(&table_high, memory_order_relaxed);
    if (index == MAX_QUEUES)
        goto out;
    queue = aligned_alloc(CACHE_LINE_BYTES, round_up_u64(sizeof *queue, CACHE_LINE_BYTES));
    if (!queue)
        goto out;
    memset(queue, 0, sizeof *queue);
    pthread_mutex_init(&queue->cancel_lock, NULL);
    atomic_store_explicit(&table[index], queue, memory_order_release);
    atomic_store_explicit(&table_high, index + 1, memory_order_release);
out:
    pthread_mutex_unlock(&table_lock);
    return queue;
}

static void give_struct(struct sim_queue *queue)
{
    pthread_mutex_lock(&table_lock);
    queue->next_free = NULL;
    if (free_last)
        free_last->next_free = queue;
    else
        free_first = queue;
    free_last = queue;
    pthread_mutex_unlock(&table_lock);
}

static uint64_t ring_depth(void)
{
    uint64_t depth = 16;

    while (depth < (uint64_t)thrum_config_int(CFG_QUEUE_DEPTH))
        depth *= 2;
    return depth;
}

thrum_status_t sim_queue_create(void *handle, unsigned flags, void **queue_out)
{
    struct sim_device *device = handle;
    struct sim_queue *queue;

    if (flags & ~(unsigned)THRUM_QUEUE_DIRECT)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: flags=0x%x", device->index, flags);
    queue = take_struct();
    if (!queue)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for a queue", device->index);
    queue->depth = ring_depth();
    queue->mask = queue->depth - 1;
    queue->ring = aligned_alloc(CACHE_LINE_BYTES, queue->depth * sizeof *queue->ring);
    queue->operands = malloc(2 * SIM_MAX_OPERANDS * sizeof *queue->operands);
    if (!queue->ring || !queue->operands) {
        free(queue->ring);
        free(queue->operands);
        give_struct(queue);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for a ring of %llu slots",
                          device->index, (unsigned long long)queue->depth);
    }
    memset(queue->ring, 0, queue->depth * sizeof *queue->ring);
    queue->device = device;
    queue->flags = flags;
    queue->id = atomic_fetch_add_explicit(&next_id, 1, memory_order_relaxed);
    queue->ending = THRUM_OK;
    queue->piece_offset = 0;
    queue->counted = false;
    queue->flush_mark = 0;
    memset(&queue->ahead, 0, sizeof queue->ahead);
    queue->decoded = false;
    memset(queue->tlb, 0, sizeof queue->tlb);
    sim_patience_end(queue, true);
    queue->ncancels = 0;
    atomic_store_explicit(&queue->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->head, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->last_ticket, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->done_ticket, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->attention, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->stopped, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->blocked_on, NULL, memory_order_relaxed);
    atomic_store_explicit(&queue->commands, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->bytes_copied, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->bytes_reduced, 0, memory_order_relaxed);
    atomic_store_explicit(&queue->bytes_put, 0, memory_order_relaxed);
    for (unsigned i = 0; i < SIM_STATUS_KEPT; i++)
        atomic_store_explicit(&queue->status[i], 0, memory_order_relaxed);
    atomic_store_explicit(&queue->state, SIM_ALIVE, memory_order_release);
    *queue_out = queue;
    return THRUM_OK;
}

bool sim_queue_own(struct sim_queue *queue)
{
    bool owned = false;

    /* while it is wanted, who executes it gives it up soon, and does not take it again */
    atomic_fetch_add_explicit(&queue->wanted, 1, memory_order_relaxed);
    for (unsigned looks = 0; sim_queue_is_alive(queue) && !(owned = sim_queue_try_own(queue));
         looks++)
        sim_await_other(looks);
    atomic_fetch_sub_explicit(&queue->wanted, 1, memory_order_relaxed);
    return owned;
}

/* Under no lock but the caller's; the executor reads `stopped` before each packet and piece. */
static void request_stop(struct sim_queue *queue, thrum_status_t status)
{
    int none = THRUM_OK;

    pthread_mutex_lock(&queue->cancel_lock);
    atomic_compare_exchange_strong_explicit(&queue->stopped, &none, status, memory_order_acq_rel,
                                            memory_order_acquire);
    atomic_store_explicit(&queue->attention, 1, memory_order_release);
    pthread_mutex_unlock(&queue->cancel_lock);
}

static void wake_waiters(struct sim_queue *queue)
{
    /* blocked_on belongs to a slot that may be unmapped: only the owner may follow it */
    sim_wake(queue->device->shared);
}

void sim_queue_stop(struct sim_queue *queue, thrum_status_t status)
{
    request_stop(queue, status);
    if (!sim_queue_own(queue))
        return;
    (void)sim_execute(queue, UINT64_MAX, true); /* ends what is there: nothing runs once stopped */
    sim_queue_disown(queue);
    wake_waiters(queue);
}

void sim_queue_destroy(void *handle)
{
    struct sim_queue *queue = handle;
    struct sim_device *device = queue->device;

    request_stop(queue, THRUM_ERR_ABORTED);
    if (!sim_queue_own(queue))
        return; /* closing the device has destroyed it */
    (void)sim_execute(queue, UINT64_MAX, true);
    atomic_fetch_add_explicit(&device->old_commands, queue->commands, memory_order_relaxed);
    atomic_fetch_add_explicit(&device->old_copied, queue->bytes_copied, memory_order_relaxed);
    atomic_fetch_add_explicit(&device->old_reduced, queue->bytes_reduced, memory_order_relaxed);
    atomic_fetch_add_explicit(&device->old_put, queue->bytes_put, memory_order_relaxed);
    free(queue->ring);
    free(queue->operands);
    free(queue->cancels);
    queue->ring = NULL;
    queue->operands = NULL;
    queue->cancels = NULL;
    queue->ncancels = queue->cancels_capacity = 0;
    atomic_fetch_and_explicit(&queue->state, ~(uint32_t)(SIM_ALIVE | SIM_OWNED),
                              memory_order_release);
    wake_waiters(queue);
    give_struct(queue);
}

uint64_t sim_queue_id(void *queue)
{
    return ((struct sim_queue *)queue)->id;
}

void sim_quiesce(struct sim_device *device)
{
    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (!sim_queue_is_alive(queue))
            continue;
        if (!sim_queue_own(queue))
            continue;
        memset(queue->tlb, 0, sizeof queue->tlb);
        sim_queue_disown(queue);
    }
    (void)device;
}

/* ---- submit ---------------------------------------------------------------------------------------------------- */

static void submit_lock(struct sim_queue *queue)
{
    for (unsigned looks = 0;
         atomic_fetch_or_explicit(&queue->state, SIM_SUBMITTING, memory_order_acquire) &
         SIM_SUBMITTING;
         looks++)
        sim_await_other(looks);
}

static void submit_unlock(struct sim_queue *queue)
{
    atomic_fetch_and_explicit(&queue->state, ~(uint32_t)SIM_SUBMITTING, memory_order_release);
}

/* submit_lock and sim_queue_try_own at once, if nobody has either. */
static inline bool take_whole(struct sim_queue *queue)
{
    uint32_t none = SIM_ALIVE;

    return atomic_compare_exchange_strong_explicit(&queue->state, &none,
                                                   SIM_ALIVE | SIM_OWNED | SIM_SUBMITTING,
                                                   memory_order_acquire, memory_order_relaxed);
}

/* Gives up the ownership of who has both; while he does nobody else writes the word. `state`: what is left. */
static inline void give_whole(struct sim_queue *queue, uint32_t state)
{
    atomic_store_explicit(&queue->state, state, memory_order_release);
}

static thrum_status_t refuse(struct sim_queue *queue, thrum_status_t status)
{
    struct thrum_ras_event fault;

    if (status == THRUM_ERR_RESET)
        return thrum_fail(status, "sim%d: queue %llu is of an older generation",
                          queue->device->index, (unsigned long long)queue->id);
    if (sim_fault_info(queue->device, &fault) == THRUM_OK && fault.queue_id == queue->id)
        return thrum_fail(status, "sim%d: queue %llu has stopped: %s at 0x%llx in %s, ticket %llu",
                          queue->device->index, (unsigned long long)queue->id,
                          thrum_ras_kind_name(fault.kind), (unsigned long long)fault.address,
                          sim_opcode_name(fault.opcode), (unsigned long long)fault.ticket);
    return thrum_fail(status, "sim%d: queue %llu has stopped", queue->device->index,
                      (unsigned long long)queue->id);
}

thrum_status_t sim_check(void *handle, const struct thrum_command *commands, size_t n)
{
    char why[160];

    for (size_t i = 0; i < n; i++) {
        if (sim_unlikely(!sim_command_check(handle, &commands[i], why, sizeof why)))
            return thrum_fail(THRUM_ERR_INVALID_COMMAND, "command %zu (%s): %s", i,
                              sim_opcode_name(commands[i].opcode), why);
        if ((unsigned)commands[i].ndst + commands[i].nsrc > SIM_ALWAYS_FIT &&
            sim_packet_slots(&commands[i]) > ring_depth())
            return thrum_fail(THRUM_ERR_INVALID_COMMAND,
                              "command %zu (%s): takes %u slots of a ring of %llu (raise "
                              "THRUM_QUEUE_DEPTH)",
                              i, sim_opcode_name(commands[i].opcode),
                              sim_packet_slots(&commands[i]), (unsigned long long)ring_depth());
    }
    return THRUM_OK;
}

/* By who submits and owns the queue: a ring of twice the slots. Without memory for one it stays as it is. */
static void grow_ring(struct sim_queue *queue, uint64_t tail)
{
    uint64_t depth = 2 * queue->depth, flush_mark = queue->flush_mark;
    union sim_ring_slot *ring = aligned_alloc(CACHE_LINE_BYTES, depth * sizeof *ring);
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

    if (!ring)
        return;
    memset(ring, 0, depth * sizeof *ring);
    for (uint64_t at = head; at != tail; at++)
        ring[at & (depth - 1)] = queue->ring[at & queue->mask];
    free(queue->ring);
    queue->ring = ring;
    queue->depth = depth;
    queue->mask = depth - 1;
    if (queue->decoded) /* operands may lie in the ring */
        sim_packet_decode(queue, head, &queue->current, queue->operands);
    queue->flush_mark = flush_mark;
}

/*
 * Executes until `slots` fit; others may execute at the same time. Where nothing moves, what it waits for may be what the
 * submitter does next: who drives several devices submits to one of them after the other.
 */
static void make_room(struct sim_queue *queue, uint64_t tail, uint64_t slots)
{
    uint64_t seen = 0;
    int64_t since = 0;

    while (tail + slots - atomic_load_explicit(&queue->head, memory_order_acquire) > queue->depth) {
        uint64_t progress = atomic_load_explicit(&queue->progress, memory_order_relaxed);
        enum sim_state state = SIM_BLOCKED;

        if (!since || progress != seen) {
            seen = progress;
            since = now_ns();
        }
        if (sim_queue_try_own(queue)) {
            state = sim_execute(queue, SIM_BUDGET_SLICE, true);
            if (state == SIM_BLOCKED && queue->depth < MOST_SLOTS &&
                now_ns() - since > GROW_AFTER_NS) {
                grow_ring(queue, tail);
                since = 0;
            }
            sim_queue_disown(queue);
        }
        if (state == SIM_BLOCKED) {
            sim_engine_notice(queue->device); /* it does resets of the fault script */
            if (!sim_ports_progress(queue->device) && !sim_help(queue))
                sched_yield();
        }
    }
}

/* Commands of a submission into the ring, from `done` on and before `end`. */
static void encode_part(struct sim_queue *queue, const struct sim_submission *s, size_t done,
                        size_t end)
{
    uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
    uint64_t limit = atomic_load_explicit(&queue->head, memory_order_acquire) + queue->depth;

    for (; done < end; done++) {
        unsigned slots = sim_packet_slots(&s->commands[done]);
        uint64_t needed = slots ? slots : 1;
        if (slots > queue->depth)
            slots = 0, needed = 1; /* direct: met as a malformed packet */
        if (sim_unlikely(tail + needed > limit)) {
            atomic_store_explicit(&queue->tail, tail, memory_order_release);
            make_room(queue, tail, needed);
            limit = atomic_load_explicit(&queue->head, memory_order_acquire) + queue->depth;
        }
        sim_packet_encode(queue, tail, &s->commands[done], slots, s->ticket, done + 1 == s->n);
        tail += needed;
    }
    atomic_store_explicit(&queue->tail, tail, memory_order_release);
}

static void encode_all(struct sim_queue *queue, struct sim_submission *s, size_t done)
{
    if (done < s->nfirst) {
        encode_part(queue, s, done, s->nfirst);
        done = s->nfirst;
    }
    sim_do_meanwhile(
        s); /* the caller may be told to cancel what is not in the ring yet: it cancels again after this */
    encode_part(queue, s, done, s->n);
}

/* The work of the packet at the head, in bytes. */
static uint64_t head_bytes(struct sim_queue *queue)
{
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    const struct sim_packet *p = &queue->ring[head & queue->mask].packet;

    return p->bytes * ((uint64_t)p->nsrc + p->ndst);
}

/* Small work at once, on the submitter's own time; what is large or blocked is left to a waiter or the engine. */
static void execute_small(struct sim_queue *queue)
{
    enum sim_state state;
    bool kick = false;

    if (!sim_queue_try_own(queue)) {
        sim_engine_notice(queue->device);
        return;
    }
    state = sim_execute(queue, SIM_BUDGET_SUBMIT, false);
    if (state == SIM_LARGE)
        kick = head_bytes(queue) >= KICK_BYTES &&
               !atomic_load_explicit(&queue->device->oversubscribed, memory_order_relaxed);
    sim_queue_disown(queue);
    if (sim_unlikely(kick))
        sim_engine_kick(queue->device);
    else if (state != SIM_EMPTY || sim_queue_pending(queue))
        sim_engine_notice(queue->device);
}

static inline thrum_status_t submit(struct sim_queue *queue, struct sim_submission *s,
                                    uint64_t *ticket_out)
{
    static const struct thrum_command nop = {.opcode = THRUM_CMD_NOP};
    bool whole = take_whole(queue), owned = whole;
    size_t done = 0;

    if (sim_unlikely(!s->n)) { /* a ticket all the same, so that it can be waited for */
        s->commands = &nop;
        s->n = 1;
    }
    if (sim_unlikely(!whole)) {
        submit_lock(queue);
        owned = sim_queue_try_own(queue);
    }
    s->ticket = atomic_load_explicit(&queue->last_ticket, memory_order_relaxed) + 1;
    atomic_store_explicit(&queue->last_ticket, s->ticket, memory_order_relaxed);
    if (ticket_out)
        *ticket_out = s->ticket;
    /* with nothing left in the ring a submission need not go through it: what can be executed now is */
    if (sim_likely(owned) && (!sim_queue_pending(queue) || sim_execute_patiently(queue)))
        done = sim_execute_now(queue, s);
    if (sim_likely(done == s->n)) {
        sim_do_meanwhile(s);
        give_whole(queue, SIM_ALIVE);
        return THRUM_OK;
    }
    if (owned)
        give_whole(queue, SIM_ALIVE | SIM_SUBMITTING);
    encode_all(queue, s, done);
    submit_unlock(queue);
    execute_small(queue);
    return THRUM_OK;
}

thrum_status_t sim_submit(void *handle, const struct thrum_command *commands, size_t n,
                          uint64_t *ticket_out)
{
    struct sim_queue *queue = handle;
    bool direct = queue->flags & THRUM_QUEUE_DIRECT;
    struct sim_submission s = {.commands = commands, .n = n, .unchecked = direct};
    thrum_status_t status =
        (thrum_status_t)atomic_load_explicit(&queue->stopped, memory_order_acquire);

    if (sim_unlikely(status))
        return refuse(queue, status);
    if (!commands && n)
        return thrum_fail(THRUM_ERR_INVALID_COMMAND, "commands=NULL with n=%zu", n);
    if (!direct) {
        status = sim_check(queue->device, commands, n);
        if (status)
            return status;
    }
    return submit(queue, &s, ticket_out);
}

thrum_status_t sim_submit_meanwhile(void *handle, const struct thrum_command *commands, size_t n,
                                    size_t nfirst, uint64_t *ticket_out, void (*meanwhile)(void *),
                                    void *argument)
{
    struct sim_queue *queue = handle;
    struct sim_submission s = {.commands = commands,
                               .n = n,
                               .nfirst = nfirst,
                               .meanwhile = meanwhile,
                               .argument = argument};
    thrum_status_t status =
        (thrum_status_t)atomic_load_explicit(&queue->stopped, memory_order_acquire);

    return sim_unlikely(status) ? refuse(queue, status) : submit(queue, &s, ticket_out);
}

thrum_status_t sim_submit_checked(void *handle, const struct thrum_command *commands, size_t n,
                                  uint64_t *ticket_out)
{
    return sim_submit_meanwhile(handle, commands, n, 0, ticket_out, NULL, NULL);
}

/* ---- tickets --------------------------------------------------------------------------------------------------- */

thrum_status_t sim_ticket_status(struct sim_queue *queue, uint64_t ticket)
{
    uint64_t done = atomic_load_explicit(&queue->done_ticket, memory_order_acquire);
    int status, stopped;

    if (ticket > done)
        return THRUM_IN_PROGRESS;
    stopped = atomic_load_explicit(&queue->stopped, memory_order_relaxed);
    if (sim_unlikely(done - ticket >= SIM_STATUS_KEPT))
        return (thrum_status_t)stopped;
    status = atomic_load_explicit(&queue->status[ticket % SIM_STATUS_KEPT], memory_order_relaxed);
    if (sim_unlikely(atomic_load_explicit(&queue->done_ticket, memory_order_acquire) - ticket >=
                     SIM_STATUS_KEPT))
        return (thrum_status_t)stopped; /* overwritten meanwhile */
    return (thrum_status_t)status;
}

thrum_status_t sim_poll(void *handle, uint64_t ticket)
{
    struct sim_queue *queue = handle;
    thrum_status_t status = sim_ticket_status(queue, ticket);

    if (status != THRUM_IN_PROGRESS)
        return status;
    if (ticket > atomic_load_explicit(&queue->last_ticket, memory_order_relaxed))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "ticket=%llu was never given by queue %llu",
                          (unsigned long long)ticket, (unsigned long long)queue->id);
    if (sim_queue_try_own(queue)) {
        enum sim_state state = sim_execute_by_poll(queue);
        sim_queue_disown(queue);
        if (state == SIM_BLOCKED) {
            (void)sim_ports_progress(queue->device);
            sim_engine_notice(queue->device);
        } else if (state == SIM_LARGE) {
            sim_engine_kick(queue->device);
        }
    }
    return sim_ticket_status(queue, ticket);
}

void sim_cancel(void *handle, uint64_t first, uint64_t last, thrum_status_t status)
{
    struct sim_queue *queue = handle;
    struct sim_cancel *cancels;
    bool known = false;

    if (status >= THRUM_OK || last < first || !sim_queue_is_alive(queue))
        return;
    if (last == UINT64_MAX) { /* all that will ever be submitted: nothing more is taken */
        sim_queue_stop(queue, status);
        return;
    }
    if (atomic_load_explicit(&queue->done_ticket, memory_order_acquire) >= last)
        return; /* nothing of it is left; who repeats a cancel for safety must not fill the list */
    pthread_mutex_lock(&queue->cancel_lock);
    for (size_t i = 0; i < queue->ncancels && !known; i++)
        known = queue->cancels[i].first <= first && queue->cancels[i].last >= last;
    if (!known && queue->ncancels == queue->cancels_capacity) {
        size_t capacity = queue->cancels_capacity ? queue->cancels_capacity * 2 : 8;
        cancels = realloc(queue->cancels, capacity * sizeof *cancels);
        if (cancels) {
            queue->cancels = cancels;
            queue->cancels_capacity = capacity;
        }
    }
    if (known) {
        /* asked before, and not met yet */
    } else if (queue->ncancels < queue->cancels_capacity) {
        queue->cancels[queue->ncancels++] = (struct sim_cancel){first, last, status};
    } else { /* no memory: widening another range cancels too much, which is better than a hang */
        struct sim_cancel *other = &queue->cancels[0];
        other->first = min_u64(other->first, first);
        other->last = max_u64(other->last, last);
    }
    atomic_store_explicit(&queue->attention, 1, memory_order_release);
    pthread_mutex_unlock(&queue->cancel_lock);
    if (sim_queue_try_own(queue)) {
        (void)sim_execute(queue, SIM_BUDGET_SUBMIT, false);
        sim_queue_disown(queue);
    }
    wake_waiters(queue);
}
