/*
 * exec: turns plans into device commands and hands them to queues.
 *
 * compile (compile.c) lowers a plan once into a program: commands plus the list of what changes from call to call.
 * run (run.c) binds a program to the buffers of one call, and submits it. Called by api; calls device and fabric.
 */
#ifndef EXEC_EXEC_H
#define EXEC_EXEC_H

#include <stddef.h>

#include "comm/comm.h"
#include "plan/plan.h"

/* One call of the public interface, validated. */
struct coll_args {
    enum collective collective;
    const void *send;
    void *recv;
    uint64_t count;
    thrum_datatype_t dtype;
    thrum_redop_t redop;
    int root;
    /* v-variants (allgather and reduce_scatter): nranks each, borrowed; `count` is the largest. NULL: equal blocks */
    const uint64_t *counts, *displs;
    struct thrum_comm *comm;
    struct thrum_queue *queue;
};

/* What a call has to patch in a program before it is submitted. All but the first four are counted. */
enum patch_kind {
    PATCH_SEND, /* operand.base = own send + addend */
    PATCH_RECV, /* operand.base = own recv + addend */
    PATCH_MESSAGE, /* operand.base = buffer of the message of index addend */
    PATCH_REGION, /* PUT: put.local_region of the source operand, after it was patched */
    PATCH_PEER_SEND, /* operand.indirect = send_offset in peer's arrival line (base is fixed) */
    PATCH_PEER_RECV, /* the same with recv_offset */
    PATCH_PEER_PUT, /* operand.indirect = recv_put_offset, put.remote_key_indirect = recv_key */
    PATCH_LINE_OUT, /* operand.base = next line slot at peer; command.value = flag */
    PATCH_LINE_PUT, /* the same for a line that is put: payload, and the flag as its signal */
    PATCH_LINE_PUT_FAR, /* the same without its payload */
    PATCH_LINE_IN, /* WAIT_LINE: operand.base = next own slot of peer; command.value = flag */
    PATCH_LINE_NEXT, /* command.next = slot at peer of the line after next */
    PATCH_LINE_DATA, /* operand.base = payload of the own slot of peer */
    PATCH_LINE_ROOM, /* operand.base = room of the next line's payload at peer: address, or offset of a put */
    PATCH_RAISE, /* command.value = base of what was sent to peer on lane + addend */
    PATCH_AWAIT /* command.value = base of what was received from peer on lane + addend */
};

struct exec_patch {
    uint8_t kind; /* enum patch_kind */
    uint8_t lane;
    uint8_t channel; /* enum comm_channel, of the pair */
    int32_t peer;
    uint32_t command, operand; /* indexes */
    uint64_t addend;
    uint64_t base; /* lines: of the pair's first slot */
    uint32_t stride; /* of slots */
    struct comm_pair *pair; /* of the peer, on the channel */
};

/*
 * Most of what changes from call to call goes with a counter of the communicator or of a pair: slots of lines, which take
 * turns, the flags in them, the values of semaphores. *word = first + *counter * stride. Patches of these kinds come down
 * to this.
 */
struct exec_counted {
    uint64_t *word; /* of a command or an operand */
    const uint64_t *counter;
    uint64_t first, stride;
};

/* What a program adds to the counters of a pair. */
struct exec_delta {
    struct comm_pair *pair;
    int32_t peer;
    uint8_t channel; /* enum comm_channel */
    uint8_t sends_units, receives_units; /* of a line; 0: there is none */
    bool receives_room; /* its payload is not in the line */
    bool answers; /* lines of this operation say what credits do elsewhere */
    uint64_t sent[PLAN_MAX_LANES], received[PLAN_MAX_LANES];
};

/*
 * A plan, lowered for this communicator. Lane 0 is for the queue of the call, the others for internal queues:
 *   lane 0: [head: WAIT done] [start: SIGNAL lanes_started] body [join: WAIT lane_done ...] [tail: SIGNAL done]
 *   lane l: [WAIT lanes_started] body [SIGNAL lane_done]
 * head orders operations of different queues, and lets none begin behind one that has failed on the same queue: that
 * one would never be missed. start and join are there with several lanes.
 */
struct exec_lane {
    uint32_t first_command, ncommands;
};

/* A stage of the plan (plan_stage): before command `command` of lane 0. */
struct exec_stage_point {
    uint32_t command;
    bool is_send;
    uint64_t offset, bytes;
};

struct exec_program {
    const char *algorithm; /* static */
    enum comm_channel channel;
    bool puts; /* commands need a fabric */
    struct thrum_command *commands; /* lane after lane */
    struct thrum_operand *operands;
    struct exec_patch *patches; /* those of the own buffers first */
    struct exec_delta *deltas; /* those with credits first */
    uint32_t ncredits; /* commands before lane 0, and as many behind it; see place_credits */
    struct comm_arrival
        *arrivals; /* payloads of arrival lines: 1 for collectives, 1 a peer for p2p */
    struct comm_message *messages; /* point-to-point; the operation gets a copy */
    uint32_t nmessages;
    struct exec_stage_point *points;
    uint32_t npoints;
    bool names_stages, shares_stages; /* as the plan */
    bool stages_send, stages_recv; /* there is a point of it */
    struct exec_lane lanes[PLAN_MAX_LANES];
    uint32_t ncommands, noperands, npatches, ndeltas, nlanes;
    uint32_t nbuffer_patches;
    struct exec_counted *counted; /* those of the commands that go first come first */
    uint32_t ncounted, ncounted_first;
    /*
     * Of lane 0's commands (credits not counted) so many stand before the first that waits for a peer, or the last: they go
     * first, and are bound for the next operation as soon as they have gone, if this one was the newest's, too.
     */
    uint32_t nfirst;
    struct exec_credits {
        bool awaited, given;
    } credits; /* which of the commands around lane 0 the operation needs; those of peers without one do nothing then */
    uint64_t bound_for, ran_as; /* number of the operation; 0: of none */
    /*
     * Lines that may be sent ahead of the operation's turn: so many commands behind lane 0's first, which stands once
     * more behind them. 0: none.
     */
    uint32_t nahead;
    bool sends_later; /* also what depends on what it has waited for */
    bool is_plain; /* writes RECV and nothing else, recv_bytes of it */
    uint64_t send_bytes, recv_bytes;
    uint64_t bound_send, bound_recv; /* what the buffers' patches hold now; 0: nothing */
    bool arrives; /* sends arrival lines */
    uint64_t *head_value, *tail_value; /* of lane 0's first and last command */
    uint64_t *head_again; /* of the first's twin, see nahead; else the same */
    size_t host_bytes;
};

/*
 * Lowers a checked or trusted plan. `signature` is that of a collective's call, else 0. The caller frees by
 * exec_program_free. Reaches all peers that the plan names.
 */
thrum_status_t exec_compile(struct thrum_comm *comm, const struct plan *plan,
                            enum comm_channel channel, uint64_t signature,
                            struct exec_program **program_out);
void exec_program_free(struct exec_program *program); /* takes NULL */

/*
 * Buffers of one run, 0 where there is none: for this rank's own commands, and for its peers', which need device memory.
 */
struct exec_buffers {
    uint64_t send, recv;
    uint64_t peer_send, peer_recv;
    const uint64_t *messages; /* point-to-point: of each message */
};

/* A copy between host memory of the caller and device memory that stands for it. */
struct exec_copy {
    void *host;
    uint64_t device;
    uint64_t bytes;
    bool registered; /* the device reaches it; else by THRUM_CMD_FLAG_HOST or the bounce buffer */
};

/* Copies before and after the program; borrowed for the call. */
struct exec_staging {
    const struct exec_copy *in, *out;
    size_t nin, nout;
    const struct thrum_command *prologue; /* between the copies in and the program; NULL: none */
    bool
        by_parts; /* one copy each at most, of which the program's points name parts; no prologue */
};

/* Where the buffers of a collective are for the device, with the copies that host memory needs around the program. */
struct exec_placement {
    struct exec_buffers buffers;
    struct exec_copy in, out; /* bytes 0: the buffer is device memory, or there is none */
    bool by_parts; /* the program's points name what is copied; see plan_names_stages */
};

static inline bool exec_is_staged(const struct exec_placement *placement)
{
    return placement->in.bytes || placement->out.bytes;
}

/*
 * Binds and submits one operation: staging in, the program, staging out, done. Does not wait. `call` is what the
 * control plane will say of it (sequence 0: point-to-point).
 */
thrum_status_t exec_run(struct thrum_comm *comm, struct exec_program *program,
                        const struct exec_buffers *buffers, const struct exec_staging *staging,
                        struct thrum_queue *queue, const struct call_record *call);

/*
 * The flag of lines: a sequence above, a signature of the call below. For collectives the sequence is the
 * communicator's, for point-to-point that of the pair and direction. Messages in lines have the message itself for a
 * signature, so that a receiver that expects another can name it.
 */
#define EXEC_SIGNATURE_BITS 16
#define EXEC_MESSAGE_BITS 24
static inline int exec_signature_bits(enum comm_channel channel)
{
    return channel == CHANNEL_EAGER ? EXEC_MESSAGE_BITS : EXEC_SIGNATURE_BITS;
}
static inline uint64_t exec_sequence_mask(enum comm_channel channel)
{
    return ~(uint64_t)0 << exec_signature_bits(channel);
}
static inline uint64_t exec_message_signature(uint64_t bytes, unsigned dtype, unsigned kind)
{
    return bytes << 7 | dtype << 2 | kind;
}
static inline uint64_t exec_message_bytes(uint64_t flag)
{
    return flag >> 7 & 0x1ffff;
}
static inline unsigned exec_message_dtype(uint64_t flag)
{
    return (unsigned)flag >> 2 & 0x1f;
}
static inline unsigned exec_message_kind(uint64_t flag)
{
    return (unsigned)flag & 3;
}
uint64_t exec_signature(const struct call_record *call);
#define EXEC_LINE_PAYLOAD offsetof(struct thrum_line, payload)

/* Keeps a reference on a queue that carries work of the communicator, until its end. user. */
thrum_status_t exec_hold_queue(struct thrum_comm *comm, struct thrum_queue *queue);

/* ---- one-sided (one_sided.c): operations of one command, built anew for each call, without allocation ---- */

/* What call_record.state says of an operation that is not a collective (sequence 0). */
enum exec_kind { EXEC_MESSAGES, EXEC_PUT, EXEC_SIGNAL, EXEC_WAIT_SIGNAL };

/* Copies `bytes` from own device memory at `source` to `offset` in the peer's part of a window. */
thrum_status_t exec_put(struct thrum_comm *comm, int peer, uint64_t source,
                        const struct comm_window_part *part, uint64_t offset, uint64_t bytes,
                        const struct exec_staging *staging, struct thrum_queue *queue,
                        const struct call_record *call);
/* One more signal to the peer. */
thrum_status_t exec_signal(struct thrum_comm *comm, int peer, struct thrum_queue *queue,
                           const struct call_record *call);
/* Waits for `n` more signals from the peer. */
thrum_status_t exec_wait_signal(struct thrum_comm *comm, int peer, uint64_t n,
                                struct thrum_queue *queue, const struct call_record *call);

/* ---- plan cache ---- */

struct exec_key {
    uint64_t count;
    uint64_t detail; /* v-variants: hash of counts; else 0, and both arrays are NULL */
    const uint64_t *counts, *displs; /* compared in full; a key in the cache has copies */
    int nranks; /* elements of these; point-to-point: messages, what they are and their bytes */
    int32_t root;
    uint16_t redop;
    uint8_t collective, dtype, in_place;
};

struct exec_cache *exec_cache_create(void);
void exec_cache_destroy(struct exec_cache *cache); /* takes NULL */
/* NULL if it is not there. */
struct exec_program *exec_cache_find(struct exec_cache *cache, const struct exec_key *key);
/* Takes the program, also on error; may drop another. NO_MEMORY. */
thrum_status_t exec_cache_insert(struct exec_cache *cache, const struct exec_key *key,
                                 struct exec_program *program);
/* Drops the programs of a reduction that is no more. */
void exec_cache_forget_redop(struct exec_cache *cache, thrum_redop_t redop);
/*
 * A call that is made again with the arguments of an earlier one, whose buffers were found good and lie where they lay
 * (equal epoch: device_memory_epoch; the stages are looked after here), needs no second look at them. recall: what was
 * remembered, which is the cache's, or NULL. Calls with counts are not remembered.
 */
struct exec_repeat {
    struct exec_program *program; /* NULL: free */
    struct exec_placement placement;
    struct call_record call; /* its sequence is the run's */
    struct coll_args args;
    uint64_t epoch, stage_moves;
};
struct exec_repeat *exec_cache_recall(struct exec_cache *cache, const struct coll_args *args,
                                      uint64_t epoch);
struct exec_repeat *exec_cache_remember(struct exec_cache *cache, const struct coll_args *args,
                                        uint64_t epoch, struct exec_program *program,
                                        const struct exec_placement *placement,
                                        const struct call_record *call);
/* How often a program was dropped: what has been found stays while this does not change. */
uint64_t exec_cache_drops(const struct exec_cache *cache);
uint64_t exec_cache_bytes(const struct exec_cache *cache);
#define EXEC_CACHE_LIMIT_BYTES (16u << 20)

/* ---- host memory ---- */

/*
 * Decides whether `bytes` at `pointer` are device memory of the communicator's device or host memory, and checks that
 * the range lies inside its allocation or registered range. `argument` is its name for messages. pointer may be
 * anything. *kind_out is DEVICE, HOST_REGISTERED or HOST.
 */
thrum_status_t exec_classify(struct thrum_comm *comm, const char *argument, const void *pointer,
                             uint64_t bytes, enum thrum_mem_kind *kind_out);

/* Whether commands can work on memory of the kind itself. */
bool exec_reaches(const struct thrum_comm *comm, enum thrum_mem_kind kind);

/* Device memory of at least `bytes` that stands for host memory; stage `which` (0 or 1) is the communicator's. */
thrum_status_t exec_stage(struct thrum_comm *comm, int which, uint64_t bytes,
                          uint64_t *address_out);

/* Device memory registered with the fabric: its key and the offset of `address` in its region. */
thrum_status_t exec_region(struct thrum_comm *comm, uint64_t address, uint64_t *key_out,
                           uint64_t *offset_out);

/*
 * A submission put together from a program and the copies around it. Registered memory, and plain memory where the
 * device has THRUM_CAP_PAGEABLE, is one COPY. Else plain memory goes in pieces through the communicator's bounce buffer:
 * a callback copies on the host, a COPY moves the piece. A communicator has one list and uses it again and again; only
 * contexts, what the callbacks need, has to live until the operation has ended.
 */
#define EXEC_BOUNCE_BYTES (256u << 10)
#define EXEC_LIST_KEPT_BYTES (1u << 20)
struct exec_list {
    struct thrum_command *commands;
    struct thrum_operand *operands;
    size_t commands_capacity, operands_capacity;
    size_t n, noperands, ncontexts;
    void *contexts; /* the operation's after submit; NULL: none are needed */
    uint8_t *bounce;
    bool pageable;
    uint8_t flags; /* that commands which move data get: THRUM_CMD_FLAG_HOST or 0 */
};
/*
 * The communicator's list, empty, with room for `ncommands`, all copies of the staging, and `nparts` parts of them.
 * NO_MEMORY.
 */
thrum_status_t exec_list_begin(struct thrum_comm *comm, const struct exec_staging *staging,
                               size_t ncommands, size_t nparts, struct exec_list **list_out);
void exec_list_add(struct exec_list *list, const struct thrum_command *commands, size_t n);
void exec_list_add_copies(struct exec_list *list, const struct exec_copy *copies, size_t n,
                          bool to_device);
void exec_list_add_part(struct exec_list *list, const struct exec_copy *copy, uint64_t offset,
                        uint64_t bytes, bool to_device);
/* After submit: keeps memory for the next time, but no more than EXEC_LIST_KEPT_BYTES. */
void exec_list_end(struct exec_list *list);
uint64_t exec_list_bytes(const struct exec_list *list); /* NULL: 0 */
void exec_list_destroy(struct exec_list *list); /* takes NULL */

#endif
