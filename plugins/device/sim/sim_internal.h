/*
 * Inside of the sim device, shared by its own files only: what a device, a queue and a packet look like.
 *
 * One memfd per device holds: struct sim_shared | page table | allocation table | HBM. Its owner and its peers map
 * the same pages, so that a peer's MMU check reads the owner's live tables.
 */
#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/device_plugin.h>

#include "base/base.h"

#define SIM_PAGE_SHIFT 12
#define SIM_PAGE_BYTES (1u << SIM_PAGE_SHIFT)
#define SIM_MAX_OPERANDS 256 /* destinations, and as many sources */
#define SIM_MAX_PORTS 8
#define SIM_STATUS_KEPT 1024 /* submissions whose status poll remembers */
#define SIM_KEY_BYTES 16

#define sim_likely(x) __builtin_expect(!!(x), 1)
#define sim_unlikely(x) __builtin_expect(!!(x), 0)

/* ---- addresses ----------------------------------------------------------------------------------------------
 * 0x00D0'0000'0000'0000 | slot << 40 | offset in HBM. Bits 52..55 are 0xD in no user address of x86-64 or arm64, so
 * a host that dereferences one crashes and the two kinds of address cannot be confused.
 */
#define SIM_TAG 0xDull
#define SIM_TAG_SHIFT 52
#define SIM_SLOT_SHIFT 40
#define SIM_SLOTS 4096u
#define SIM_OFFSET_MASK ((1ull << SIM_SLOT_SHIFT) - 1)

static inline uint64_t sim_slot_base(unsigned slot)
{
    return SIM_TAG << SIM_TAG_SHIFT | (uint64_t)slot << SIM_SLOT_SHIFT;
}
static inline bool sim_is_device_address(uint64_t address)
{
    return address >> SIM_TAG_SHIFT == SIM_TAG;
}
static inline unsigned sim_address_slot(uint64_t address)
{
    return (unsigned)(address >> SIM_SLOT_SHIFT) & (SIM_SLOTS - 1);
}

/* ---- shared pages ------------------------------------------------------------------------------------------- */

#define SIM_SHARED_MAGIC 0x334d495354485254ull

struct sim_shared {
    uint64_t magic; /* constant after open, like all of this line */
    uint64_t hbm_bytes;
    uint64_t page_table_offset, allocations_offset, hbm_offset, file_bytes;
    uint8_t key[SIM_KEY_BYTES];
    /* Written by the owner. memory_generation counts what empties the memory: hard resets and the close. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t generation;
    _Atomic uint32_t memory_generation;
    _Atomic uint64_t
        unmapped; /* grows whenever a translation of this memory may have become wrong */
    /* Threads of any process that sleep until a semaphore or line in this device's memory changes. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t sleepers;
    _Atomic uint32_t wake_sequence; /* the futex word */
    /* The core that the owner was last seen waiting on; -1: not known. Written by the owner. */
    _Alignas(CACHE_LINE_BYTES) _Atomic int core;
};

/* Of the allocation that starts at page i, at index i; bytes 0: none. Written by the owner under memory_lock. */
struct sim_allocation {
    _Atomic uint64_t bytes;
    _Atomic uint64_t id;
};

/* ---- MMU ---------------------------------------------------------------------------------------------------- */

/* One mapping of one device's memfd in this process. Under the slots lock. */
struct sim_mapping {
    struct sim_shared *shared;
    size_t bytes;
    int references;
};

/* A device's memory as seen at one slot. Written under the slots lock before any context is given rights to it. */
struct sim_slot {
    char *hbm;
    _Atomic uint32_t *page_table; /* page -> 1 + first page of its allocation; 0: none */
    struct sim_allocation *allocations;
    struct sim_shared *shared;
    uint64_t hbm_bytes;
    uint32_t memory_generation;
    struct sim_mapping *mapping;
    int references;
};
extern struct sim_slot sim_slots[SIM_SLOTS];

enum sim_rights { SIM_RIGHT_NONE, SIM_RIGHT_IMPORTS, SIM_RIGHT_ALL };

/* A registered host range, or an imported allocation (then id is the allocation's). */
struct sim_range {
    _Atomic uint64_t start, end, id;
    uint64_t count; /* imports of it; under memory_lock, readers do not look */
};

/* A sorted table that executors read without a lock (a sequence lock); written under memory_lock. */
struct sim_ranges {
    _Atomic uint32_t sequence; /* odd while it is written */
    _Atomic uint32_t count;
    _Atomic(struct sim_range *) table;
    uint32_t capacity;
    struct sim_range *retired[40]; /* smaller, older tables that a reader may still hold */
    unsigned nretired;
};

struct sim_extent {
    uint64_t page, pages;
};

/* ---- packets ------------------------------------------------------------------------------------------------- */

enum {
    SIM_PACKET_LAST = 1 << 0, /* of its submission */
    SIM_PACKET_SHORT = 1 << 1, /* operands are base[], in the header */
    SIM_PACKET_PAYLOAD = 1 << 2, /* a payload slot follows the operand slots */
    SIM_PACKET_PUT = 1 << 3, /* then a put slot follows */
    SIM_PACKET_MALFORMED = 1 << 4, /* could not even be encoded */
    SIM_PACKET_MARKED =
        1 << 5 /* a flush that was looked at ahead of its turn: `value` is its mark */
};
#define SIM_ALWAYS_FIT 32 /* operands of a command that any ring has room for */
#define SIM_OPCODE_MALFORMED 255 /* of such a packet when it is met */

/* First slot of a packet; operand slots (4 each), payload slot and put slot follow it. */
struct sim_packet {
    uint8_t opcode, flags, dtype, redop;
    uint16_t ndst, nsrc;
    uint16_t slots;
    uint8_t form; /* SIM_PACKET_* */
    uint8_t reserved[5];
    uint64_t ticket, bytes, value, mask;
    union {
        uint64_t base[2];
        uint64_t divisor;
        struct {
            thrum_callback_t callback;
            void *argument;
        };
        struct {
            thrum_reduce_fn reduce;
            void *reduce_context;
        };
    };
};

union sim_ring_slot {
    struct sim_packet packet;
    struct thrum_operand operands[4];
    uint8_t payload[64];
    struct thrum_port_put put;
    struct {
        _Alignas(CACHE_LINE_BYTES) uint8_t bytes[64];
    } line;
};
_Static_assert(sizeof(union sim_ring_slot) == 64, "a slot is a cache line");

/* ---- queues -------------------------------------------------------------------------------------------------- */

struct sim_cancel {
    uint64_t first, last;
    thrum_status_t status;
};

/*
 * Who has a queue: one executes (owns it), one submits. Both in one word, so that a submission that is executed at once
 * takes one atomic operation. Not alive: destroyed.
 */
enum { SIM_ALIVE = 1, SIM_OWNED = 2, SIM_SUBMITTING = 4 };

/*
 * A queue's translations of the pages that its commands name again and again. An entry holds while the memory's owner
 * has unmapped nothing; what this process takes away itself (a window, an import) flushes it: see sim_quiesce.
 */
#define SIM_TLB_BITS 8
#define SIM_TLB_ENTRIES (1u << SIM_TLB_BITS)
struct sim_tlb_entry {
    uint64_t page; /* address >> SIM_PAGE_SHIFT; 0: free */
    uint64_t room; /* bytes from the page's start to the end of the allocation around it */
    char *cpu; /* of the page */
    struct sim_shared *shared; /* of the memory's owner */
    uint64_t seen; /* shared->unmapped when the entry was made */
};

/* What was looked at ahead of its turn, behind a flush that waits: see sim_put.c. */
#define SIM_AHEAD_SIGNALS 4
struct sim_passed_signal {
    uint64_t address, value;
};
struct sim_ahead {
    uint64_t position; /* up to here, if that is behind the head */
    const void *peer; /* of the flushes that are not over */
    unsigned nsignals;
    struct sim_passed_signal signals[SIM_AHEAD_SIGNALS]; /* that were met on the way */
};

struct sim_device;

/* Queue structs are recycled and never freed, so that a thread that helps may look at a dead one. */
struct sim_queue {
    _Atomic(struct sim_device *)
        device; /* constant from create to destroy; others may look later */
    uint64_t id;
    unsigned flags;
    union sim_ring_slot *ring;
    uint64_t depth, mask;
    struct sim_queue *next_free; /* under the queues lock */
    unsigned table_index;

    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t state; /* SIM_ALIVE and so on */
    /* Producer side: written by who submits, read by anyone. */
    _Atomic uint64_t tail; /* slots published: the doorbell */
    _Atomic uint64_t last_ticket;

    /* Consumer side: written by the owner, read by anyone. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t
        attention; /* cancels are waiting, or stop is set: look before the next packet */
    _Atomic uint64_t head;
    _Atomic uint64_t done_ticket;
    _Atomic uint64_t progress; /* bumped by each executed packet or piece */
    _Atomic int stopped; /* thrum_status_t; first stop wins */
    thrum_status_t ending; /* owner: what the current submission will end with */
    uint64_t piece_offset; /* owner: bytes done of the current COPY, FILL or REDUCE */
    bool decoded; /* owner: `current` is the packet at the head */
    uint64_t flush_mark; /* owner: of the current flush; 0: not asked for yet */
    struct sim_ahead ahead; /* owner */
    bool counted; /* owner: the current command has its command number, faults were looked up */
    unsigned
        patience; /* owner: how often a submission looks again before it leaves a wait to others */
    uint64_t awaited_writer; /* owner: of the newest wait that took longer, as its command says */
    struct thrum_command current; /* owner: the packet at the head, decoded */
    struct sim_tlb_entry tlb[SIM_TLB_ENTRIES]; /* owner */
    struct thrum_operand
        *operands; /* of it, where they do not lie in the ring as they are needed */
    _Atomic(struct sim_shared *) blocked_on; /* whose wake word a waiter should sleep on */
    _Atomic uint64_t commands, bytes_copied, bytes_reduced, bytes_put;
    _Atomic uint64_t
        looked_progress; /* what the engine thread saw last; of another device, when recycled */

    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t waiters; /* threads in wait() */
    _Atomic uint32_t wanted; /* threads that need the ownership for control */
    pthread_mutex_t cancel_lock;
    struct sim_cancel *cancels; /* under cancel_lock */
    size_t ncancels, cancels_capacity;
    _Atomic int status[SIM_STATUS_KEPT];
};

/* ---- RAS ----------------------------------------------------------------------------------------------------- */

#define SIM_EVENTS_KEPT 1024

enum sim_fault_action { SIM_ACTION_EVENT, SIM_ACTION_RESET_SOFT, SIM_ACTION_RESET_HARD };

struct sim_fault {
    enum thrum_ras_kind kind;
    enum sim_fault_action action;
    bool by_time;
    uint64_t at; /* command number, or CLOCK_MONOTONIC ns */
    uint64_t argument;
    bool has_argument;
};

struct sim_ras {
    pthread_mutex_t lock; /* of all of it but the atomics */
    struct thrum_ras_event events[SIM_EVENTS_KEPT];
    uint64_t first, next; /* positions in events */
    uint64_t sequence;
    uint64_t count[THRUM_RAS_KIND_COUNT];
    bool has_fault;
    struct thrum_ras_event fault;
    int event_fd;
    struct sim_fault *script;
    size_t nscript;
    _Atomic uint32_t armed; /* script is not empty */
    _Atomic uint64_t command_number; /* counts while armed */
    _Atomic int64_t throttle_until_ns;
    _Atomic uint32_t throttled;
};

/* ---- devices -------------------------------------------------------------------------------------------------- */

struct sim_port {
    const struct thrum_fabric_ops *fabric;
    void *endpoint;
    unsigned users; /* how many times it is attached */
};

struct sim_device {
    int index;
    struct sim_device *next; /* list of open devices, under the devices lock */
    int memory_fd, listen_fd, wake_fd;
    uint8_t key[SIM_KEY_BYTES];
    struct sim_shared *shared;
    struct sim_mapping *mapping;
    _Atomic uint32_t slot; /* its own; a hard reset takes a new one */
    _Atomic uint8_t rights[SIM_SLOTS];
    uint16_t slot_opens[SIM_SLOTS], slot_imports[SIM_SLOTS]; /* under memory_lock */
    bool was_own[SIM_SLOTS]; /* its slots before hard resets; under memory_lock */

    pthread_mutex_t memory_lock; /* allocator, ranges, imports, rights */
    struct sim_extent *free_extents;
    size_t nfree, free_capacity;
    size_t nlive; /* allocations */
    uint64_t free_pages;
    uint64_t next_id;
    struct sim_ranges host, imports;

    pthread_mutex_t control_lock; /* reset, close, queue create and destroy */
    _Atomic uint32_t reset_wanted; /* 1 + enum thrum_reset_kind, from the fault script */
    _Atomic bool oversubscribed;
    _Atomic int64_t sleeps_until_ns, sleeps_for_ns; /* waiters do not yield: see sim_wait.c */
    _Atomic int soon_again; /* so many more yields count as soon after one that took long */
    int64_t spin_ns;

    _Atomic uint32_t nports;
    struct sim_port ports[SIM_MAX_PORTS]; /* under ports_lock; PUT reads [0] as owner of a queue */
    _Atomic uint32_t ports_lock;

    pthread_t engine;
    bool engine_started;
    _Atomic uint32_t
        engine_asleep; /* deep: only wake_fd or a peer wakes it; until it is kicked, or naps */
    _Atomic bool closing;

    _Atomic uint64_t old_commands, old_copied, old_reduced, old_put; /* of destroyed queues */
    struct sim_ras ras;
};

/* ---- sim_put.c ------------------------------------------------------------------------------------------------- */

/* A port is attached. FAULT with *bad_out set, which is SIM_NO_ADDRESS before: a page fault. IN_PROGRESS: no room now. */
#define SIM_NO_ADDRESS UINT64_MAX
thrum_status_t sim_put_run(struct sim_queue *queue, const struct thrum_command *command,
                           uint64_t *bad_out);
/* IN_PROGRESS: not all is done. may_look_ahead: puts behind it in the ring may go meanwhile. */
thrum_status_t sim_put_flush(struct sim_queue *queue, const struct thrum_command *command,
                             bool may_look_ahead);

/* ---- sim_mmu.c ------------------------------------------------------------------------------------------------ */

/* [address, address + bytes) in the host range table; NULL if it is not there. */
void *sim_translate_host(struct sim_device *device, uint64_t address, uint64_t bytes);
bool sim_import_allows(struct sim_device *device, uint64_t address, uint64_t bytes, uint64_t id);

/*
 * The MMU: where the engines of `device` find [address, address + bytes), bytes > 0; NULL: page fault. A few loads,
 * no lock. What it returns stays mapped as long as the caller owns a queue of the device or holds memory_lock.
 */
static inline void *sim_translate(struct sim_device *device, uint64_t address, uint64_t bytes)
{
    if (sim_unlikely(!sim_is_device_address(address)))
        return sim_translate_host(device, address, bytes);
    unsigned s = sim_address_slot(address);
    uint8_t rights = atomic_load_explicit(&device->rights[s], memory_order_acquire);
    if (sim_unlikely(!rights))
        return NULL;
    const struct sim_slot *slot = &sim_slots[s];
    uint64_t offset = address & SIM_OFFSET_MASK;
    if (sim_unlikely(offset >= slot->hbm_bytes ||
                     atomic_load_explicit(&slot->shared->memory_generation, memory_order_relaxed) !=
                         slot->memory_generation))
        return NULL;
    uint32_t entry =
        atomic_load_explicit(&slot->page_table[offset >> SIM_PAGE_SHIFT], memory_order_acquire);
    if (sim_unlikely(!entry))
        return NULL;
    const struct sim_allocation *allocation = &slot->allocations[entry - 1];
    uint64_t live = atomic_load_explicit(&allocation->bytes, memory_order_acquire);
    uint64_t within = offset - ((uint64_t)(entry - 1) << SIM_PAGE_SHIFT);
    if (sim_unlikely(within >= live || bytes > live - within))
        return NULL;
    if (sim_unlikely(rights == SIM_RIGHT_IMPORTS) &&
        !sim_import_allows(device, address, bytes,
                           atomic_load_explicit(&allocation->id, memory_order_relaxed)))
        return NULL;
    return slot->hbm + offset;
}

/* sim_translate through the queue's translations; the caller owns the queue. */
void *sim_lookup_slowly(struct sim_queue *queue, struct sim_tlb_entry *entry, uint64_t address,
                        uint64_t bytes);
static inline struct sim_tlb_entry *sim_tlb_entry(struct sim_queue *queue, uint64_t address)
{
    return &queue->tlb[(address >> SIM_PAGE_SHIFT) * 0x9e3779b97f4a7c15u >> (64 - SIM_TLB_BITS)];
}
static inline bool sim_tlb_holds(const struct sim_tlb_entry *entry, uint64_t address,
                                 uint64_t bytes)
{
    return entry->page == address >> SIM_PAGE_SHIFT &&
           (address & (SIM_PAGE_BYTES - 1)) + bytes <= entry->room &&
           atomic_load_explicit(&entry->shared->unmapped, memory_order_acquire) == entry->seen;
}
static inline void *sim_lookup(struct sim_queue *queue, uint64_t address, uint64_t bytes)
{
    struct sim_tlb_entry *entry = sim_tlb_entry(queue, address);

    if (sim_likely(sim_tlb_holds(entry, address, bytes)))
        return entry->cpu + (address & (SIM_PAGE_BYTES - 1));
    return sim_lookup_slowly(queue, entry, address, bytes);
}

/* The page with the wake word that goes with an address that has been translated. */
static inline struct sim_shared *sim_shared_of(struct sim_device *device, uint64_t address)
{
    return sim_is_device_address(address) ? sim_slots[sim_address_slot(address)].shared
                                          : device->shared;
}

/* Slots. The lock covers sim_slots, mappings and key lookups. */
void sim_slots_lock(void);
void sim_slots_unlock(void);
/* Under the lock: the slot with this key and memory generation, -1 if there is none. */
int sim_slot_find(const uint8_t *key, uint32_t memory_generation);
/* Under the lock: fills a free slot, with one reference; takes a reference of the mapping. LIMIT. */
thrum_status_t sim_slot_fill(struct sim_mapping *mapping, uint32_t memory_generation,
                             unsigned *slot_out);
void sim_slot_get(unsigned slot); /* under the lock */
void sim_slot_put(unsigned slot); /* takes the lock */
/* Maps a device's memfd (checked). Under the lock where it is shared. */
thrum_status_t sim_mapping_create(int fd, struct sim_mapping **mapping_out);
void sim_mapping_put(struct sim_mapping *mapping); /* under the lock */

/* Range tables; all under memory_lock. false: no memory. */
bool sim_ranges_insert(struct sim_ranges *ranges, uint64_t start, uint64_t end, uint64_t id);
bool sim_ranges_remove(struct sim_ranges *ranges, uint64_t start);
/* The range that starts there, or NULL; its count may be changed. */
struct sim_range *sim_ranges_at(struct sim_ranges *ranges, uint64_t start);
bool sim_ranges_overlap(struct sim_ranges *ranges, uint64_t start, uint64_t end);
void sim_ranges_free(struct sim_ranges *ranges);
/* Lock-free: the range that contains `address`. */
bool sim_ranges_find(struct sim_ranges *ranges, uint64_t address, uint64_t *start_out,
                     uint64_t *end_out, uint64_t *id_out);

/* ---- sim_memory.c --------------------------------------------------------------------------------------------- */

thrum_status_t sim_memory_open(struct sim_device *device, uint64_t hbm_bytes);
void sim_memory_close(struct sim_device *device);
/* Hard reset: every allocation is gone, addresses change. Caller owns every queue or has stopped it. */
thrum_status_t sim_memory_reset(struct sim_device *device);
thrum_status_t sim_mem_alloc(void *device, size_t bytes, uint64_t *address_out);
thrum_status_t sim_mem_reserve(void *device, size_t bytes, uint64_t *address_out);
thrum_status_t sim_mem_free(void *device, uint64_t address);
thrum_status_t sim_host_register(void *device, void *address, size_t bytes);
thrum_status_t sim_host_unregister(void *device, void *address);
thrum_status_t sim_mem_query(void *device, uint64_t address, struct thrum_mem_info *info_out);
thrum_status_t sim_mem_peek(void *device, uint64_t address, void *host_out, size_t bytes);
thrum_status_t sim_mem_poke(void *device, uint64_t address, const void *host, size_t bytes);
thrum_status_t sim_port_region(void *device, uint64_t address,
                               struct thrum_port_region *region_out);

/* ---- sim_peer.c ------------------------------------------------------------------------------------------------ */

thrum_status_t sim_listen(int index, int *fd_out); /* BUSY: another process has the device */
void sim_serve_peers(struct sim_device *device); /* answers all that wait; never blocks */
thrum_status_t sim_address(void *device, struct thrum_device_address *address_out);
enum thrum_peer_access sim_peer_access(void *device, const struct thrum_device_address *peer);
thrum_status_t sim_peer_window_open(void *device, const struct thrum_device_address *peer,
                                    uint64_t *window_base_out);
void sim_peer_window_close(void *device, uint64_t window_base);
thrum_status_t sim_mem_export(void *device, uint64_t address, struct thrum_mem_handle *handle_out);
thrum_status_t sim_mem_import(void *device, const struct thrum_mem_handle *handle,
                              uint64_t *address_out);
/*
 * Under memory_lock: undoes one import that starts at `start`. 1: it was the last, so when the lock is released
 * the caller must quiesce and put the slot; 0: others are left (put the slot); -1: there is no such import.
 */
int sim_import_drop(struct sim_device *device, uint64_t start);

/* ---- sim_queue.c ----------------------------------------------------------------------------------------------- */

thrum_status_t sim_queue_create(void *device, unsigned flags, void **queue_out);
void sim_queue_destroy(void *queue);
uint64_t sim_queue_id(void *queue);
thrum_status_t sim_submit(void *queue, const struct thrum_command *commands, size_t n,
                          uint64_t *ticket_out);
thrum_status_t sim_check(void *device, const struct thrum_command *commands, size_t n);
thrum_status_t sim_submit_meanwhile(void *queue, const struct thrum_command *commands, size_t n,
                                    size_t nfirst, uint64_t *ticket_out, void (*meanwhile)(void *),
                                    void *argument);
thrum_status_t sim_submit_checked(void *queue, const struct thrum_command *commands, size_t n,
                                  uint64_t *ticket_out);
thrum_status_t sim_poll(void *queue, uint64_t ticket);
void sim_cancel(void *queue, uint64_t first, uint64_t last, thrum_status_t status);
/* Without executing anything: as poll. */
thrum_status_t sim_ticket_status(struct sim_queue *queue, uint64_t ticket);
/* Stops a queue and ends all it holds with `status`; returns when no thread executes it. */
void sim_queue_stop(struct sim_queue *queue, thrum_status_t status);
/* Returns when every thread that was executing a queue of the device has left the packet that it was in. */
void sim_quiesce(struct sim_device *device);
/* The i-th queue of the process or NULL; any thread, no lock. */
struct sim_queue *sim_queue_at(unsigned i);
unsigned sim_queue_high(void);

static inline bool sim_queue_pending(struct sim_queue *queue)
{
    return atomic_load_explicit(&queue->head, memory_order_relaxed) !=
           atomic_load_explicit(&queue->tail, memory_order_relaxed);
}
static inline bool sim_queue_is_alive(struct sim_queue *queue)
{
    return atomic_load_explicit(&queue->state, memory_order_acquire) & SIM_ALIVE;
}
static inline bool sim_queue_has_owner(struct sim_queue *queue)
{
    return atomic_load_explicit(&queue->state, memory_order_relaxed) & SIM_OWNED;
}
/*
 * Between two looks at what another thread is about to give; `looks`: how many there were. At last it sleeps: a thread of a
 * higher priority (chrt) keeps the other one off this core for as long as it is awake, yields or not.
 */
void sim_await_other(unsigned looks);

static inline bool sim_queue_try_own(struct sim_queue *queue)
{
    uint32_t state = atomic_load_explicit(&queue->state, memory_order_relaxed);

    while ((state & (SIM_ALIVE | SIM_OWNED)) == SIM_ALIVE)
        if (atomic_compare_exchange_weak_explicit(&queue->state, &state, state | SIM_OWNED,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    return false;
}
static inline void sim_queue_disown(struct sim_queue *queue)
{
    atomic_fetch_and_explicit(&queue->state, ~(uint32_t)SIM_OWNED, memory_order_release);
}
/* For control: blocks until no one executes it. false: the queue is dead. */
bool sim_queue_own(struct sim_queue *queue);

/* ---- sim_packet.c ---------------------------------------------------------------------------------------------- */

/* Whether a command is well formed: the rule of both ways in. On failure writes what is wrong to `why`. */
bool sim_command_check(const struct sim_device *device, const struct thrum_command *command,
                       char *why, size_t why_bytes);
/* Slots that it takes in a ring; 0 if it cannot be encoded at all. */
unsigned sim_packet_slots(const struct thrum_command *command);
/* Writes the packet at ring position `position`; slots as sim_packet_slots (0: a malformed packet of one slot). */
void sim_packet_encode(struct sim_queue *queue, uint64_t position,
                       const struct thrum_command *command, unsigned slots, uint64_t ticket,
                       bool last);
/* The reverse, into queue->current; its operands and payload may lie in the ring. Caller owns the queue. */
/* `operands`: room for those that do not lie in the ring as they are needed. */
void sim_packet_decode(const struct sim_queue *queue, uint64_t position,
                       struct thrum_command *command_out, struct thrum_operand *operands);
enum thrum_engine sim_opcode_engine(unsigned opcode);
const char *sim_opcode_name(unsigned opcode);

/* A semaphore or the flag of a line. */
static inline uint64_t sim_load_word(void *cpu)
{
    return atomic_load_explicit((_Atomic uint64_t *)cpu, memory_order_acquire);
}

/* Adds the word at `indirect`. On a fault *bad_out is the address that has none. */
static inline bool sim_resolve(struct sim_queue *queue, uint64_t base, uint64_t indirect,
                               uint64_t *address_out, uint64_t *bad_out)
{
    if (indirect) {
        void *cpu = indirect % 8 ? NULL : sim_lookup(queue, indirect, 8);
        if (!cpu) {
            *bad_out = indirect;
            return false;
        }
        base += sim_load_word(cpu);
    }
    *address_out = base;
    return true;
}
/* Counters of a queue have one writer at a time: its owner. */
static inline void sim_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* ---- sim_execute.c --------------------------------------------------------------------------------------------- */

enum sim_state {
    SIM_EMPTY, /* nothing left in the ring */
    SIM_BLOCKED, /* the next packet waits for somebody else */
    SIM_LARGE /* the next packet is more work than was left of the budget */
};
#define SIM_BUDGET_SUBMIT (64u << 10)
#define SIM_BUDGET_SLICE (1u << 20)
/*
 * Executes what can be executed. Only the queue's owner calls it. With `pieces`, a packet that is larger than the
 * budget is begun; without, it is left untouched.
 */
enum sim_state sim_execute(struct sim_queue *queue, uint64_t budget_bytes, bool pieces);
/* A slice, but no reductions of the caller's, which may take long: before one it ends with SIM_LARGE. */
enum sim_state sim_execute_by_poll(struct sim_queue *queue);
/* Executes what is in the ring, waiting for peers as a submission may. True if nothing is left. Only the owner calls it. */
bool sim_execute_patiently(struct sim_queue *queue);
/* See submit_meanwhile: commands from nfirst on are looked at after `meanwhile`, which is NULL once it has been called. */
struct sim_submission {
    const struct thrum_command *commands;
    size_t n, nfirst;
    uint64_t ticket;
    bool unchecked;
    void (*meanwhile)(void *argument);
    void *argument;
};
static inline void sim_do_meanwhile(struct sim_submission *s)
{
    void (*meanwhile)(void *) = s->meanwhile;

    s->meanwhile = NULL;
    if (meanwhile)
        meanwhile(s->argument);
}
/*
 * Executes a submission from the submitter's memory, as far as it goes at once: returns how many commands are done, and
 * has ended the submission if it is all of them. The caller owns the queue, and its ring is empty.
 */
size_t sim_execute_now(struct sim_queue *queue, struct sim_submission *s);

/* ---- sim_near.c ------------------------------------------------------------------------------------------------- */

/*
 * What a submission waits for is likely to come in a moment, from a peer that is just as far. Who has waited in vain
 * loses this credit, until a look finds him in time again. begin; again, which passes some time, before each further
 * look, until it says no; end. The caller owns the queue.
 */
struct sim_patience {
    unsigned tries;
    bool yields;
};
struct sim_patience sim_patience_begin(const struct sim_queue *queue);
bool sim_patience_again(struct sim_patience *patience);
void sim_patience_end(struct sim_queue *queue, bool was_in_time);
/*
 * What is waited for comes through a port: nothing on this host writes it while nobody looks at the ports, and it takes
 * longer than a submitter has patience.
 */
bool sim_awaits_port(const struct sim_queue *queue, const struct thrum_command *command);
/* Whether the submitter has more to do than to wait for it. */
static inline bool sim_is_deferred(const struct thrum_command *command)
{
    return command->opcode == THRUM_CMD_WAIT_LINE && command->flags & THRUM_CMD_FLAG_DEFER;
}
/*
 * Executes commands of a submission, from `done` on, as long as they are simple ones and nothing else asks for attention:
 * how many are done then.
 */
size_t sim_execute_near(struct sim_queue *queue, struct sim_submission *s, size_t done);
/* Whether who is to write what the queue waits for was last seen on this core. By the queue's owner. */
bool sim_writer_is_here(const struct sim_queue *queue);
/* Tells peers where this process runs; sim_publish_core: where ranks share cores. */
void sim_publish_core_now(struct sim_device *device);
static inline void sim_publish_core(struct sim_device *device)
{
    if (sim_unlikely(atomic_load_explicit(&device->oversubscribed, memory_order_relaxed)))
        sim_publish_core_now(device);
}

/* ---- sim_port.c ------------------------------------------------------------------------------------------------- */

/* Drives the attached ports, unless another thread does. True if something moved. */
bool sim_ports_progress(struct sim_device *device);
thrum_status_t sim_port_attach(void *device, const struct thrum_fabric_ops *fabric, void *endpoint);
thrum_status_t sim_port_detach(void *device, void *endpoint);

/* ---- sim_wait.c ------------------------------------------------------------------------------------------------ */

thrum_status_t sim_wait(void *queue, uint64_t ticket, int64_t timeout_ns);
/* Executes queues of this process that nobody executes. True if one got further. */
bool sim_help(const struct sim_queue *except);
/* Wakes whoever sleeps on the page; cheap when nobody does. Called after the store that they wait for. */
static inline bool sim_has_sleepers(struct sim_shared *shared)
{
    return atomic_load_explicit(&shared->sleepers, memory_order_relaxed) != 0;
}
void sim_wake_sleepers(struct sim_shared *shared);
static inline void sim_wake(struct sim_shared *shared)
{
    atomic_signal_fence(
        memory_order_seq_cst); /* the sleeper's barrier orders the core, this the compiler */
    if (sim_unlikely(sim_has_sleepers(shared)))
        sim_wake_sleepers(shared);
}
/* Sleeps until woken or timeout; `recheck` is asked once after the sleeper is announced. */
void sim_sleep(struct sim_shared *shared, int64_t timeout_ns, bool (*recheck)(void *), void *arg);
/* Full barrier on every running thread that could be signalling, so that signallers need none. */
void sim_heavy_barrier(void);
void sim_heavy_barrier_register(void);

/* ---- sim_engine.c ---------------------------------------------------------------------------------------------- */

thrum_status_t sim_engine_start(struct sim_device *device);
void sim_engine_stop(struct sim_device *device);
/* Wakes the engine thread. */
void sim_engine_kick(struct sim_device *device);
static inline void sim_engine_notice(struct sim_device *device)
{
    atomic_signal_fence(memory_order_seq_cst); /* as in sim_wake */
    if (sim_unlikely(atomic_load_explicit(&device->engine_asleep, memory_order_relaxed)))
        sim_engine_kick(device);
}

/* ---- sim_ras.c, sim_script.c ----------------------------------------------------------------------------------- */

thrum_status_t sim_ras_open(struct sim_device *device);
void sim_ras_close(struct sim_device *device);
/* Adds an event; the first fault is kept. */
void sim_ras_event(struct sim_device *device, struct thrum_ras_event event);
void sim_ras_rearm(struct sim_device *device); /* forgets the first fault */
int sim_event_fd(void *device);
thrum_status_t sim_get_events(void *device, struct thrum_ras_event *events_out, size_t max,
                              size_t *n_out);
thrum_status_t sim_counters(void *device, struct thrum_ras_counters *counters_out);
thrum_status_t sim_fault_info(void *device, struct thrum_ras_event *fault_out);
thrum_status_t sim_inject(void *device, const char *script, uint64_t seed);
/* From the environment, at open: only faults for this device. */
thrum_status_t sim_script_load(struct sim_device *device);
/*
 * Called once per command while armed. Fires what is due; true if the command must fail, then *kind_out is
 * PAGE_FAULT, BAD_PACKET or ECC_UNCORRECTED, and *argument_out its address where has_argument.
 */
bool sim_script_command(struct sim_device *device, struct sim_queue *queue,
                        struct sim_fault *fault_out);
/* Called by the engine thread: fires what is due by time, returns ns until the next, -1 for none. */
int64_t sim_script_time(struct sim_device *device);
/* Spins as long as a throttled engine would have needed more for work that began at start_ns. */
void sim_throttle(struct sim_device *device, int64_t start_ns);

/* ---- sim_device.c ---------------------------------------------------------------------------------------------- */

thrum_status_t sim_reset(void *device, enum thrum_reset_kind kind);
struct sim_device *sim_devices_first(void);

#endif
