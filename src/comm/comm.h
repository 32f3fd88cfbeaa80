/*
 * comm: the state of one communicator on one rank. Made and destroyed here; api and exec work on it.
 *
 * Ownership of fields. "user": the one thread that calls into the communicator (its contract in thrum.h).
 * "control": the control plane's thread. "fixed": never changes after creation.
 */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <thrum/thrum.h>

#include "base/base.h"
#include "bootstrap/bootstrap.h"
#include "device/device_internal.h"
#include "plan/plan.h"
#include "select/select.h"

#define COMM_MAGIC 0x54434f4du
#define COMM_MAX_RANKS (1 << 20)
#define COMM_NAME_BYTES 48
#define COMM_ALGORITHMS_BYTES 512 /* of config.algorithms, with its end */
#define COMM_MESSAGE_BYTES 768
/* Operations that the host may be ahead of the device, and where nothing of them moves: powers of two. */
#define COMM_IN_FLIGHT 256
#define COMM_IN_FLIGHT_MOST 16384
#define COMM_HISTORY 64 /* call records kept for the control plane; a power of two */
#define COMM_KEPT_WORKS 8 /* groups of messages that may be run again as they are; a power of two */
#define COMM_KEPT_WORK_BYTES 8192 /* of one, at most */

/*
 * The area: one allocation of device memory per rank, laid out alike on all ranks.
 *   a block for each peer: what the peer writes here
 *   own semaphores: operations done, lanes started, lanes done
 *   scratch
 */
enum comm_channel {
    CHANNEL_COLLECTIVE,
    CHANNEL_P2P, /* messages by rendezvous */
    CHANNEL_ONE_SIDED,
    CHANNEL_EAGER, /* messages in lines */
    CHANNEL_COUNT
};
/*
 * Lines of collectives and of eager messages take units, in turn: a line, and room for the payload of one that has more
 * than fits it, which goes on over as many units as it fills; hence the spare ones. Rendezvous meet before they go on, so
 * two lines do for them. Rooms lie behind the blocks, those for collectives and those for messages of each peer.
 */
#define COMM_UNITS 128
#define COMM_UNIT_BYTES \
    256 /* of room, where every rank has a core and all load and store; else comm_unit_bytes */
#define COMM_UNIT_BYTES_MAX (8 * COMM_UNIT_BYTES)
#define COMM_LINE_UNITS_MAX 16
#define COMM_ROOM_UNITS (COMM_UNITS + COMM_LINE_UNITS_MAX - 1)
#define COMM_CREDIT_UNITS 64 /* a receiver tells of so many that are free again */
#define COMM_LINES_P2P 2
#define COMM_LINE_STRIDE 256
#define COMM_SEMAPHORE_STRIDE CACHE_LINE_BYTES

struct comm_peer_block {
    union {
        struct thrum_line line;
        uint8_t bytes[COMM_LINE_STRIDE];
    } lines[2 * COMM_UNITS + COMM_LINES_P2P]; /* of collectives, eager messages, rendezvous */
    struct {
        uint64_t value;
        uint8_t pad[COMM_SEMAPHORE_STRIDE - 8];
    } credits
        [2]; /* collectives, messages: so many units of lines sent to the peer it is done with */
    struct {
        uint64_t value;
        uint8_t pad[COMM_SEMAPHORE_STRIDE - 8];
    } semaphores[CHANNEL_COUNT][PLAN_MAX_LANES];
};

_Static_assert(sizeof(struct comm_peer_block) % CACHE_LINE_BYTES == 0, "blocks of whole lines");
_Static_assert(THRUM_LINE_LONG_BYTES >= COMM_LINE_UNITS_MAX * COMM_UNIT_BYTES_MAX, "one command");

struct comm_own_block {
    struct {
        uint64_t value;
        uint8_t pad[COMM_SEMAPHORE_STRIDE - 8];
    } done, lanes_started, joined, lane_done[PLAN_MAX_LANES];
};

/* What an arrival line carries, after the flag. All addresses count from the sender's own_base. */
struct comm_arrival {
    uint64_t send_offset, recv_offset; /* for load and store */
    uint64_t recv_key, recv_put_offset; /* for puts: region, and offset in it */
    uint64_t count;
    int32_t root;
    uint16_t redop; /* point-to-point: enum message_kind */
    uint8_t collective, dtype;
};

/*
 * One direction of a pair's lines, of which an operation sends one at most. Both ends count alike. A line's units are
 * free again when the operation that it was sent to has ended there. The receiver tells by a credit whenever that fills
 * another COMM_CREDIT_UNITS; a sender that would have more than all units on their way waits for one first. Where nobody
 * runs ahead, an operation with lines both ways needs none: each end has the other's line, which had ended what came
 * before. Then only that operation's units are in use, and the next ones are at the start of the other half: so the same
 * few lines, which are in the caches, go to and fro. Both ends of a message may be in different operations: they need
 * credits. No wait for one can close a circle that rendezvous would not: by then the receiver would have met all but the
 * newest message, so that the operations of all but two have ended, and two take no more than COMM_CREDIT_UNITS / 2 units.
 */
struct comm_lines {
    uint64_t count; /* lines so far */
    uint64_t units; /* that they took */
    uint64_t known_free; /* sender: so many are free again when the next operation begins */
    uint64_t told; /* receiver: the newest credit */
    uint64_t slot; /* of the next line */
    uint64_t slot_after; /* of the one that follows it, if that is as long */
};

/* What both ends of a pair advance alike. user. */
struct comm_pair {
    struct comm_lines out, in;
    uint64_t sent[PLAN_MAX_LANES], received[PLAN_MAX_LANES];
};

/* Where a rank runs. */
struct comm_process {
    int32_t pid; /* in its own namespace */
    char host[44]; /* its name, cut to fit */
};

struct comm_peer {
    bool reachable; /* user: window open or fabric connected */
    bool loads; /* fixed: this rank loads and stores its memory; else it puts through the fabric */
    uint64_t window_base; /* user: peer access */
    void *fabric_peer; /* user: put path; written once, atomically: control reads it */
    struct comm_pair pairs[CHANNEL_COUNT];
    uint64_t messages_sent, messages_received; /* user; written atomically: control reads them */
    /* fixed, from the exchange */
    struct thrum_device_address device;
    struct thrum_fabric_address fabric;
    uint64_t area_offset; /* of its area from its own_base */
    uint64_t area_key, area_put_offset;
    uint64_t host; /* equal on one host */
    bool probes; /* it may call thrum_probe: rendezvous are announced to it */
    uint8_t place[BOOTSTRAP_PLACE_BYTES]; /* where it can be met: see meet.c */
    int parent_rank; /* before the shrink that made this communicator; -1: another call made it */
    struct comm_process process;
};

/* A region registered with the fabric. user. */
struct comm_region {
    uint64_t id; /* of the allocation: an address may come again, an id does not */
    uint64_t device_base, bytes;
    void *region;
    uint64_t key;
};

/* call_record.state in an answer of the control plane. */
enum {
    COMM_RECORD_NEVER,
    COMM_RECORD_PENDING,
    COMM_RECORD_DONE,
    COMM_RECORD_LEFT = CONTROL_RECORD_LEFT,
    COMM_RECORD_NO_ANSWER = 0xff
};

/* What a point-to-point message is part of; both ends must name the same. Call records have it in `redop`. */
enum message_kind { MESSAGE_PLAIN, MESSAGE_ALLTOALLV, MESSAGE_GATHERV, MESSAGE_SCATTERV };

/* What the count of a rank is multiplied by in call_record.detail: odd, and unlike the others (splitmix64's mixer). */
static inline uint64_t comm_count_weight(int rank)
{
    uint64_t x = ((uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) | 1;
}

/* A message of a point-to-point operation, kept so that a mismatch can be told in full. */
struct comm_message {
    int peer;
    uint8_t dtype;
    uint8_t kind; /* enum message_kind */
    bool is_send, is_eager;
    uint64_t number; /* among those of the pair in this direction */
    uint64_t count;
    uint64_t word, value; /* the other end has done its part when the own word is at least this */
    uint64_t
        line; /* own line: of the receiver's arrival, or of the sender's next eager message; 0: none */
    uint64_t
        flag; /* that it should carry; of a rendezvous that is received the sequence alone means something */
};

#define COMM_FEW_MESSAGES 2 /* that an operation has room for */

/* One operation that was handed to queues and has not been seen to end. */
struct comm_operation {
    uint64_t number; /* in issue order, from 1; the area's `done` reaches it when it ends */
    struct thrum_queue *queue; /* held by comm.queues */
    uint64_t ticket;
    struct call_record call; /* sequence 0 for point-to-point */
    uint32_t told; /* bit per lane: its queue has the failure; under retire_lock */
    bool has_more; /* what follows is not all NULL; most operations never touch it */
    struct thrum_queue *lane_queue[PLAN_MAX_LANES]; /* NULL: lane not used */
    uint64_t lane_ticket[PLAN_MAX_LANES];
    struct thrum_queue
        *join_queue[PLAN_MAX_LANES]; /* NULL: none; point-to-point on several queues */
    uint64_t join_ticket[PLAN_MAX_LANES]; /* what lets the operation begin: see p2p.c */
    void *host_memory; /* freed when it ends; NULL: none */
    struct comm_message *messages; /* of a point-to-point operation: its `few`, or as host_memory */
    uint32_t nmessages;
    struct comm_message few[COMM_FEW_MESSAGES];
};

/* A stage that became too small; freed when operation `number` has ended. */
struct comm_old_stage {
    struct comm_old_stage *next;
    uint64_t address, bytes, number;
};

/* Memory of the device, or registered with it, that a buffer was found in. Holds while device_memory_epoch is `epoch`. */
#define COMM_KNOWN_MEMORY 4 /* a power of two */
struct comm_memory {
    uint64_t start, end;
    uint64_t epoch;
    enum thrum_mem_kind kind;
};

/* A rank's part of a window. */
struct comm_window_part {
    uint64_t offset; /* of the memory from the rank's own_base */
    uint64_t bytes; /* 0: nothing is open there */
    uint64_t key, put_offset; /* for puts */
};

/*
 * Collectives in a row on one queue, with nothing else between them. If all that came before has ended, the next one may
 * send what none of them writes ahead of its turn. user.
 */
struct comm_row {
    struct thrum_queue *queue; /* NULL: there is none */
    uint64_t ticket; /* of the newest */
    bool is_all; /* of what is in the queue */
    bool moves; /* one of them does: a barrier does not go ahead of it */
    uint64_t recv_first, recv_end; /* what they write, and what lies between */
    uint64_t credit_number; /* of the newest operation that waits for a credit; 0: it has it */
    uint64_t
        barrier_number; /* of the newest barrier: what moves does not go ahead of it; 0: it has ended */
};

/* Memory of all ranks that is open to puts. user; the parts are fixed. */
struct thrum_window {
    struct thrum_window *next; /* of the communicator */
    struct thrum_window *next_live; /* of the process; under the lock of window.c */
    struct thrum_comm *comm;
    uint64_t number; /* no other of the communicator's has it, also after this is closed */
    uint64_t last_put; /* number of this rank's newest operation that puts into it */
    struct comm_window_part parts[]; /* nranks */
};

struct exec_cache;
struct p2p_work;
struct comm_endpoint;
struct exec_list;
struct comm_trace;

/* A call record that one thread writes and another reads without a lock: `sequence` is stored last, 0 meanwhile. */
struct comm_history {
    _Atomic uint64_t sequence, count, call, detail;
};

/*
 * A reduction of the caller's, see api/redop.c. Its number is its thrum_redop_t: counted in the order of creation, so
 * that ranks agree. Numbers come again only after all others.
 */
#define COMM_REDOPS 256 /* live ones, at most */
#define COMM_REDOP_LAST UINT16_MAX
struct comm_redop {
    thrum_redop_t number;
    bool leaving; /* destroyed, but a group that is open has calls with it */
    thrum_reduce_fn fold; /* NULL: a sum of contributions times a scalar */
    void *context;
    bool commutative;
    thrum_datatype_t dtype; /* of the scalar */
    uint64_t scalar_address; /* device memory; 0: `scalar` */
    uint8_t scalar[16];
};

/* What lives until its owner frees it, maybe longer than the communicator: `comm` is NULL once that is destroyed. user. */
struct comm_link {
    struct thrum_comm *comm;
    struct comm_link *next, **back; /* back: what points here */
    uint64_t host_bytes; /* what it holds */
};

/* How often thrum_comm_shrink has excluded certain ranks. */
struct comm_shrink {
    struct comm_shrink *next;
    uint64_t calls;
    uint8_t excluded[]; /* by rank: 1 or 0 */
};

/*
 * At the place of a communicator that this one has survived, who comes late is told so: see shrink.c. Held by this one, and by those
 * made of it.
 */
#define COMM_NOTICES 8 /* those of the last so many */
struct comm_notice {
    _Atomic int holders;
    uint8_t place[BOOTSTRAP_PLACE_BYTES];
    uint64_t number; /* of the call */
};

struct thrum_comm {
    uint32_t magic;
    struct thrum_comm *abandoned_before; /* by thrum_comm_destroy: another that it had to leave */
    bool finalized; /* user */
    int rank, nranks; /* fixed */
    struct thrum_device *device; /* fixed */
    struct thrum_device *held_device; /* fixed: the same, opened once more, so that it stays */
    const struct thrum_device_ops *ops; /* fixed, = device->ops */
    char name[COMM_NAME_BYTES]; /* fixed */
    uint64_t id; /* fixed; equal on all ranks, for ordering inside groups */
    int64_t deadline_ns; /* fixed */
    uint64_t scratch_bytes; /* fixed */
    int lanes; /* fixed */
    bool reproducible; /* fixed: reductions fold in rank order */
    int64_t
        init_deadline_ms; /* fixed: of making this one, and of splits where nothing else is said */
    bool peer_access; /* fixed: every pair of ranks can load and store */
    struct plan_layout *layout; /* fixed: where that is so within hosts only; NULL: one host */
    int local_ranks; /* fixed */
    int own_share; /* fixed: ranks that take turns on each core that this rank may use */
    int ranks_per_core; /* fixed: the most of any rank's own_share */
    bool
        runs_ahead; /* fixed: lines may be sent ahead of their turn: ranks take turns, or put to each other */
    struct select_policy policy; /* fixed: how algorithms are chosen */
    char *algorithms; /* fixed: config.algorithms, NULL: THRUM_ALGO */
    struct comm_peer *peers; /* nranks */

    uint64_t area; /* fixed: device address of the own area */
    uint64_t area_bytes, scratch_offset, own_offset; /* fixed; scratch and own block in the area */
    uint32_t unit_bytes; /* fixed: of room for a line's payload */
    uint64_t line_bytes; /* fixed: that a line may carry */

    char fabric_name[32]; /* fixed: the fabric to use without peer access */
    const struct thrum_fabric_ops *fabric; /* fixed; NULL with peer access */
    struct comm_endpoint *shared_endpoint; /* fixed; holds `endpoint` */
    void *endpoint; /* fixed */
    struct comm_endpoint *offered_endpoint; /* while it is created: what it might use; else NULL */
    struct comm_region *regions; /* user */
    int nregions;

    struct exec_cache *cache; /* user */
    struct p2p_work *kept_works[COMM_KEPT_WORKS]; /* user: blocks of p2p.c; NULL: free */
    struct p2p_work *last_work; /* user: the newest of them; NULL: it is gone */
    thrum_queue_t lane_queues
        [PLAN_MAX_LANES]; /* user; made when first used; [0]: of lines ahead of their turn */
    uint64_t stage[2], stage_bytes[2]; /* user: device memory that stands for host buffers */
    uint64_t stage_moves; /* user: how often a stage got a new address */
    struct comm_old_stage *old_stages; /* user: outgrown, some operation may still use them */
    uint64_t old_stage_bytes; /* user */
    void *bounce; /* user: registered host memory between plain and device */
    struct exec_list *list; /* user: of the submission with staging that is being made */
    struct comm_memory known_memory[COMM_KNOWN_MEMORY]; /* user */
    struct thrum_window *windows; /* user: open ones */
    int place_fd; /* fixed: keeps the own place; -1: none */
    struct comm_shrink *shrinks; /* user: of every set of ranks that was excluded */
    uint64_t
        survivors; /* user: communicators that thrum_comm_shrink_to_survivors has made of this one */
    struct comm_notice *notices[COMM_NOTICES]; /* user; the newest first */
    int nnotices;
    uint64_t grows; /* user: calls of thrum_comm_grow; the same on all ranks */
    uint64_t setups; /* user: splits and calls that open or close windows; the same on all ranks */

    /* Operations in flight: user writes that of issued + 1, then `issued`; control reads up to it. */
    struct comm_operation
        *operations; /* see comm_operation_at; user replaces it under retire_lock */
    uint64_t operations_mask; /* how many there are, less 1; as `operations` */
    uint64_t stands_at; /* user: where retired_number was last seen to stand still */
    _Atomic uint64_t issued; /* number of the newest operation */
    _Atomic bool is_traced; /* control writes, user reads: operations are recorded in `trace` */
    _Atomic uint64_t
        retired_number; /* operations up to it have ended and released what they held; under retire_lock */
    pthread_mutex_t retire_lock;
    uint64_t joined; /* user: queues that joined a group, see p2p.c */
    struct thrum_queue *last_queue; /* user: queue of the newest operation */
    struct comm_row row; /* user; kept where runs_ahead */
    struct thrum_queue **queues; /* every queue used, one reference each; under retire_lock */
    int nqueues;

    struct comm_redop *redops; /* user: live ones */
    int nredops, redops_capacity;
    uint32_t last_redop; /* user: number of the newest; 0: none yet */
    struct comm_link *links; /* user: persistent collectives */
    _Atomic uint64_t kept_bytes; /* host memory of windows and links; any thread may ask */

    uint64_t sequence; /* user: collectives called */
    struct comm_history history[COMM_HISTORY]; /* user writes, control reads: see comm_record */

    struct bootstrap *bootstrap;
    struct control *control;

    /* Failure: status is set once, after message and culprit. */
    _Atomic int status;
    _Atomic bool failing; /* the one who wins this may write the message */
    int culprit;
    char message[COMM_MESSAGE_BYTES];

    /* control: the deadline's bookkeeping */
    uint64_t stalled_number; /* the oldest pending operation at the last tick */
    int64_t stalled_since_ns, queried_at_ns, failed_since_ns;
    _Atomic(struct comm_trace *) trace; /* control makes it; NULL: not yet */
    char laggards[320]; /* what the last query found */
    int first_laggard; /* -1: none */
};

/* thrum_comm_init_rank after its checks. */
thrum_status_t comm_create(const struct thrum_unique_id *id, int nranks, int rank,
                           thrum_device_t device, const struct thrum_comm_config *config,
                           thrum_comm_t *comm_out);

/*
 * The caller's choices with the environment's behind them; fields that an older caller lacks, and zeros, count as not
 * given. config may be NULL. INVALID_ARGUMENT names the field.
 */
thrum_status_t comm_effective_config(const struct thrum_comm_config *config,
                                     struct thrum_comm_config *out);

/* ---- split.c ---- */

/* thrum_comm_split after its checks of comm and comm_out. user; blocks. */
thrum_status_t comm_split(struct thrum_comm *comm, int color, int key,
                          const struct thrum_comm_config *config, thrum_comm_t *comm_out);

/* The choices for a communicator made from `parent`: where config gives nothing, the parent's. */
thrum_status_t comm_child_config(const struct thrum_comm *parent,
                                 const struct thrum_comm_config *config,
                                 struct thrum_comm_config *out);

/* What is wrong with the arguments of a split, if anything. */
thrum_status_t comm_check_split(const struct thrum_comm *comm, int color,
                                const struct thrum_comm_config *config);

/* ---- meet.c ---- */

struct comm_meeting {
    int host; /* old rank, at whose place they meet */
    int rank, nranks; /* of the new communicator */
    const void *purpose; /* who gives another one does not get in */
    size_t purpose_bytes;
    enum bootstrap_early early; /* ranks may come before the host serves this meeting */
    const uint8_t *excluded; /* by old rank: 1 is not to come; NULL: all are */
    const char *disagreement; /* what it means if they do: "rank 3 and rank 0 ..."; NULL: AUTH */
};

/* The places of all ranks that are not excluded, from malloc; NULL: no memory. */
uint8_t *comm_places(const struct thrum_comm *comm, const uint8_t *excluded, int *n_out);

void comm_drop_notices(struct thrum_comm *comm);

/* Makes the communicator of those who meet, with a config from comm_child_config. user; blocks. */
thrum_status_t comm_meet(struct thrum_comm *comm, const struct comm_meeting *meeting,
                         const struct thrum_comm_config *config, thrum_comm_t *comm_out);

/* ---- window.c ---- */

/* thrum_comm_register after its checks. user; blocks. */
thrum_status_t comm_window_open(struct thrum_comm *comm, void *buffer, size_t bytes,
                                struct thrum_window **window_out);
/* thrum_comm_deregister; frees the window also after an error. user; blocks. */
thrum_status_t comm_window_close(struct thrum_window *window);
/* The communicator of a live window, NULL for any other pointer. Any thread. */
struct thrum_comm *comm_of_window(const struct thrum_window *window);
/* Frees the windows that are still open. */
void comm_windows_free(struct thrum_comm *comm);

/* ---- endpoint.c ---- */

/* The device's endpoint of the fabric, opened for the first communicator that asks and closed by the last. */
thrum_status_t comm_endpoint_get(struct thrum_device *device, const char *fabric,
                                 struct comm_endpoint **endpoint_out,
                                 const struct thrum_fabric_ops **fabric_out, void **handle_out,
                                 struct thrum_fabric_address *address_out);
/* A communicator uses it, not only offers to. */
void comm_endpoint_choose(struct comm_endpoint *endpoint);
void comm_endpoint_put(struct comm_endpoint *endpoint);
/* Name of a fabric that communicators of the device use; "" if there is none. */
void comm_endpoint_in_use(const struct thrum_device *device, char *name_out, size_t bytes);

/* ---- exchange.c ---- */

/* First round: devices and areas. Then everybody says whether it can load and store everywhere. */
thrum_status_t comm_exchange_devices(struct thrum_comm *comm, thrum_status_t area_status);
/* Second round, only without peer access: endpoints and the keys of areas. */
thrum_status_t comm_exchange_fabric(struct thrum_comm *comm);
/* Makes the peer usable (opens its window or connects); blocks for milliseconds the first time. user. */
thrum_status_t comm_reach(struct thrum_comm *comm, int peer);

/* ---- offer.c ---- */

/* Of a rank, to use verbs or ofi. Exchanged. */
struct comm_offer {
    uint32_t made; /* 0: `why` says why not */
    uint32_t ofi; /* what it has to say of the fabric ofi; see offer.c */
    struct thrum_fabric_address address;
    char why[160];
};
/* Opens an endpoint of verbs for it, where that can be. */
void comm_offer_make(struct thrum_comm *comm, struct comm_offer *mine);
/* With all ranks' offers: sets fabric_name to verbs or ofi if it is better than what is there; the same answer on every rank. */
void comm_offer_decide(struct thrum_comm *comm, const struct comm_offer *offers);
/* The endpoint that was opened is closed, unless it is used. */
void comm_offer_drop(struct thrum_comm *comm);

/* ---- registry.c ---- */

/* A communicator is a live handle from add until remove. NO_MEMORY. */
thrum_status_t comm_registry_add(struct thrum_comm *comm);
void comm_registry_remove(struct thrum_comm *comm);

/*
 * The device runtime's error hook: a queue met an error; waits, 2 s at most, until whoever issued the work has said
 * why.
 */
void comm_settle_queue(struct thrum_queue *queue, thrum_status_t status);

/* True for a live communicator. */
bool comm_is_valid(const struct thrum_comm *comm);

/* Fixed sizes, also before creation. */
uint64_t comm_area_bytes(int nranks, uint64_t scratch_bytes, uint64_t *own_offset_out,
                         uint64_t *scratch_offset_out);

/* Room of a unit that the area has: the more ranks, the less each. */
static inline uint32_t comm_unit_bytes(int nranks)
{
    return nranks <= 8    ? COMM_UNIT_BYTES_MAX
           : nranks <= 16 ? 4 * COMM_UNIT_BYTES
           : nranks <= 32 ? 2 * COMM_UNIT_BYTES
                          : COMM_UNIT_BYTES;
}

/*
 * What of it a communicator uses. A line saves an arrival for one more copy: where that takes others' turns, larger ones
 * are worth it.
 */
static inline uint32_t comm_used_unit_bytes(bool peer_access, int ranks_per_core, int nranks)
{
    return peer_access && ranks_per_core <= 1 ? COMM_UNIT_BYTES : comm_unit_bytes(nranks);
}

/* A payload that does not fit a line has a room of its own. */
static inline bool comm_needs_room(uint64_t bytes)
{
    return bytes > COMM_LINE_STRIDE - offsetof(struct thrum_line, payload);
}
static inline uint8_t comm_line_units(const struct thrum_comm *comm, uint64_t bytes)
{
    return comm_needs_room(bytes) ? (uint8_t)((bytes + comm->unit_bytes - 1) / comm->unit_bytes)
                                  : 1;
}

static inline uint64_t comm_block_offset(int from)
{
    return (uint64_t)from * sizeof(struct comm_peer_block);
}

/* In an area: the semaphore that rank `from` raises on a lane of a channel. */
static inline uint64_t comm_semaphore_offset(enum comm_channel channel, int from, int lane)
{
    return comm_block_offset(from) + offsetof(struct comm_peer_block, semaphores) +
           sizeof(((struct comm_peer_block *)0)->semaphores[0][0]) *
               ((uint64_t)channel * PLAN_MAX_LANES + (uint64_t)lane);
}

/* In an area: the newest rendezvous that rank `from` waits to send. Eager messages need no semaphores. */
static inline uint64_t comm_announced_offset(int from)
{
    return comm_semaphore_offset(CHANNEL_EAGER, from, 0);
}

/* In an area: how many units of a channel's lines that went to rank `from` it is done with. */
static inline uint64_t comm_credit_offset(enum comm_channel channel, int from)
{
    return comm_block_offset(from) + offsetof(struct comm_peer_block, credits) +
           (channel == CHANNEL_EAGER ? COMM_SEMAPHORE_STRIDE : 0);
}

/* In an area: the first line from a rank, and the first room for a payload. */
static inline uint64_t comm_line_offset(enum comm_channel channel, int from)
{
    uint64_t first = channel == CHANNEL_EAGER ? COMM_UNITS
                     : channel == CHANNEL_P2P ? 2 * COMM_UNITS
                                              : 0;

    return comm_block_offset(from) + offsetof(struct comm_peer_block, lines) +
           first * COMM_LINE_STRIDE;
}
static inline uint64_t comm_room_offset(const struct thrum_comm *comm, enum comm_channel channel,
                                        int from)
{
    uint64_t index = 2 * (uint64_t)from + (channel == CHANNEL_EAGER);

    return comm_block_offset(comm->nranks) + index * COMM_ROOM_UNITS * comm->unit_bytes;
}

/* Waits until operation `number` of this rank has ended or the communicator has failed. user. */
thrum_status_t comm_await(struct thrum_comm *comm, uint64_t number);

/* The communicator's failure as the return of a call: its status with its message as the thread's last error. */
thrum_status_t comm_failure(struct thrum_comm *comm);

/*
 * Fails the communicator: first cause wins. Ends its operations, marks the queues, and with `tell` floods the cause to
 * the other ranks. Any thread; does not block.
 */
void comm_fail(struct thrum_comm *comm, thrum_status_t status, int culprit, bool tell,
               const char *message);

/* ---- messages.c: point-to-point operations that do not end. Under retire_lock, but for comm_compare_messages ---- */

/*
 * A message whose other end has shown that it means another count, type or call, in words; nothing is written if there
 * is none.
 */
void comm_describe_mismatch(struct thrum_comm *comm, const struct comm_operation *operation,
                            char *text, size_t bytes);
/* The peer that the operation waits for, and what for; -1: none. */
int comm_describe_unmet(struct thrum_comm *comm, const struct comm_operation *operation, char *text,
                        size_t bytes);
/*
 * Who sends by rendezvous does not see that the receiver expects a line, and the other way round: so both are asked, by a
 * control_query of this number, which is no collective's. 0: there is nothing to ask.
 */
uint64_t comm_message_question(struct thrum_comm *comm, const struct comm_operation *operation);
/*
 * What a rank says that has not called a collective: which message of its oldest operation is not met, if one is not, and
 * by whom (`root`). Under retire_lock.
 */
void comm_record_unmet(struct thrum_comm *comm, const struct comm_operation *operation,
                       struct call_record *record_out);
/* Whether it is told so in the record, of rank r, and this rank has yet to send or receive the message. */
bool comm_owes_message(struct thrum_comm *comm, int r, const struct call_record *record);
static inline bool comm_asks_message(uint64_t question)
{
    return question >> 63;
}
/* This rank's answer. */
void comm_record_message(struct thrum_comm *comm, uint64_t question, struct call_record *out);
/* Both ends have answered: in words what they disagree in; returns the sender, -1 where they agree. */
int comm_compare_messages(uint64_t question, const struct call_record *records, int nranks,
                          char *text, size_t bytes);

/* Ends every operation in flight with the communicator's failure. Any thread; repeated on every tick after a failure. */
void comm_cancel_all(struct thrum_comm *comm);

/* True while work of the communicator has failed on the queue and the cause is not known yet. Any thread. */
bool comm_owes_cause(struct thrum_comm *comm, const struct thrum_queue *queue);

/* The live reduction of that number; NULL if there is none. user. */
const struct comm_redop *comm_redop_find(const struct thrum_comm *comm, thrum_redop_t number);

/* Frees what an operation holds. Under retire_lock. */
void comm_free_operation(struct comm_operation *operation);

/* The record of an operation that is in flight or comes next. user, or under retire_lock. */
static inline struct comm_operation *comm_operation_at(const struct thrum_comm *comm,
                                                       uint64_t number)
{
    return &comm->operations[number & comm->operations_mask];
}
/* Room for twice as many, all of which may be in flight; false: there is no memory, or they are enough. user. */
bool comm_grow_operations(struct thrum_comm *comm);

/* Releases what ended operations held. Any thread. */
void comm_retire(struct thrum_comm *comm);

/* Operations that have ended, by the area's semaphore. */
uint64_t comm_done(struct thrum_comm *comm);

/* Waits until all operations have ended or the communicator has failed. user. */
thrum_status_t comm_drain(struct thrum_comm *comm);

/* ---- disagreement.c ---- */

/* A call in words: "allreduce #12 (count=4096, float32, sum)". */
void comm_describe_call(const struct call_record *call, char *text, size_t bytes);

/* Notes a collective that begins, for the control plane. user. */
void comm_record(struct thrum_comm *comm, const struct call_record *call);
/* Takes the note back: the call was refused. user. */
void comm_unrecord(struct thrum_comm *comm, const struct call_record *call);

/* `record` and `records` of the control plane's callbacks. */
void comm_on_record(void *argument, uint64_t sequence, struct call_record *record_out);
void comm_on_records(void *argument, uint64_t sequence, const struct call_record *records,
                     int nranks);

/* ---- status.c: `question` and `describe` of the control plane's callbacks ---- */

uint64_t comm_question(void *argument);
char *comm_describe(void *argument, uint64_t sequence, const struct call_record *records,
                    int64_t now);

/* ---- failure.c ---- */

/* The oldest operation that has not ended, as it is now. */
struct comm_pending {
    struct comm_operation operation; /* a copy; what it points to may be gone */
    thrum_status_t status; /* THRUM_OK: just pending */
    char detail
        [400]; /* of a point-to-point operation, a fault or a connection; "" if there is none */
    int awaited; /* the peer that a point-to-point operation waits for; -1: none */
    uint64_t question; /* to ask about it; 0: none */
    int faulted; /* the peer in whose memory it met a page fault; -1: none */
};
/* False if nothing is pending. control. */
bool comm_oldest_pending(struct thrum_comm *comm, struct comm_pending *out);
/* For whom it waits: a rank, or -1 for all. Others may have left. */
int comm_awaited(const struct comm_pending *pending);

/* The callbacks of the control plane. */
extern const struct control_callbacks comm_control_callbacks;

#endif
