/*
 * Thrum's device runtime: devices, memory, queues, commands, events, semaphores, RAS.
 *
 * The same calls drive every accelerator that has a device plugin; `sim`, the software accelerator, is always there.
 * Device addresses are opaque: never dereference one on the host, copy through a queue. Unless a comment says
 * otherwise every call may be made from any thread, and calls on one handle may be made by several threads at once;
 * destroying a handle while another thread uses it is the caller's error.
 */
#ifndef THRUM_DEVICE_H
#define THRUM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/status.h>
#include <thrum/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

typedef struct thrum_device *thrum_device_t;
typedef struct thrum_queue *thrum_queue_t;
typedef struct thrum_event *thrum_event_t;
typedef struct thrum_semaphore *thrum_semaphore_t;

/* ---- devices ---------------------------------------------------------------------------------------------------- */

#define THRUM_DEVICE_ANY (-1) /* thrum_device_open: the first device that nobody has open */
#define THRUM_DEVICE_NAME_MAX 64

/* What a device can do, as bits of thrum_device_properties.capabilities. */
enum {
    THRUM_CAP_LOAD_STORE = 1 << 0, /* engines can load and store a peer's memory on the same host */
    THRUM_CAP_INDIRECT = 1 << 1, /* commands may take an address from memory when they execute */
    THRUM_CAP_DIRECT_SUBMIT =
        1 << 2, /* queues can be driven from user space, without the kernel driver */
    THRUM_CAP_MULTICAST = 1 << 3, /* COPY and REDUCE may have several destinations */
    THRUM_CAP_HOST_CALLBACK = 1 << 4, /* CALLBACK commands */
    THRUM_CAP_NATIVE_FABRIC = 1 << 5, /* the device's own ports form a fabric */
    THRUM_CAP_EXCLUSIVE = 1 << 6, /* one process at a time may open it */
    THRUM_CAP_INLINE_LINE = 1 << 7, /* WRITE_LINE and WAIT_LINE commands */
    THRUM_CAP_REDUCE_CALLBACK = 1 << 8, /* REDUCE by a function of the host */
    THRUM_CAP_SCALE = 1 << 9, /* SCALE commands */
    THRUM_CAP_WIDE = 1 << 10, /* REDUCE with float32 partial results of 8- and 16-bit floats */
    THRUM_CAP_PAGEABLE = 1 << 11 /* commands reach any memory of the process: THRUM_CMD_FLAG_HOST */
};

struct thrum_device_properties {
    size_t size; /* in: sizeof of the caller's struct; only that much is written */
    char name[THRUM_DEVICE_NAME_MAX]; /* "sim0" */
    char plugin[THRUM_DEVICE_NAME_MAX]; /* "sim" */
    int index; /* what thrum_device_open was given or chose */
    uint32_t generation; /* starts at 1; each reset adds 1 */
    uint64_t capabilities; /* THRUM_CAP_* */
    uint64_t memory_bytes; /* device memory in all */
    uint64_t
        memory_free_bytes; /* of it not allocated; the largest single allocation may be smaller */
    uint32_t semaphore_bits; /* width of a semaphore */
    uint32_t engines_dma, engines_reduce, ports;
    uint64_t reduce_types; /* bit (1 << thrum_datatype_t) for each type that REDUCE takes */
    uint64_t reduce_ops; /* bit (1 << thrum_redop_t) */
    uint32_t max_reduce_sources; /* k of a k-ary REDUCE */
    int numa_node; /* -1 if unknown */
};

/* How many devices this process could try to open; some may be in use elsewhere. Errors: INVALID_CONFIG. */
THRUM_MUST_CHECK thrum_status_t thrum_device_count(int *count_out);

/*
 * Opens device `index` (0 .. count-1) or THRUM_DEVICE_ANY, and owns it until thrum_device_close: a device is
 * exclusive to one process. A process that opens the same index again shares the handle; each open needs its close.
 * Errors: INVALID_ARGUMENT, NO_DEVICE, BUSY (another process has it), LIMIT, NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_device_open(int index, thrum_device_t *device_out);

/* Undoes one open; the last frees memory, queues and semaphores that are still there. Takes NULL. */
void thrum_device_close(thrum_device_t device);

/* Errors: INVALID_ARGUMENT (size is 0 or device is not open). */
THRUM_MUST_CHECK thrum_status_t
thrum_device_get_properties(thrum_device_t device, struct thrum_device_properties *properties_out);

enum thrum_reset_kind {
    THRUM_RESET_SOFT, /* engines and queues: queued commands are lost, memory stays */
    THRUM_RESET_HARD /* everything: memory contents and allocations are lost too */
};

/*
 * Resets the device and adds 1 to its generation. Commands in flight end with THRUM_ERR_RESET; queues, events and
 * semaphores of the old generation refuse every call with that status and can only be destroyed, and so do
 * allocations after a hard reset (also on peers that had them imported). Blocks until done (milliseconds).
 */
THRUM_MUST_CHECK thrum_status_t thrum_device_reset(thrum_device_t device,
                                                   enum thrum_reset_kind kind);

enum thrum_peer_access { THRUM_PEER_NONE, THRUM_PEER_STORE, THRUM_PEER_LOAD_STORE };

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/*
 * Allocates `bytes` (> 0) of device memory, zeroed and resident; the address is aligned to 4096 bytes and is valid in
 * commands and collectives until freed. Errors: INVALID_ARGUMENT, NO_DEVICE_MEMORY, RESET.
 */
THRUM_MUST_CHECK thrum_status_t thrum_mem_alloc(thrum_device_t device, size_t bytes,
                                                void **address_out);

/*
 * Frees what thrum_mem_alloc gave, or unmaps what thrum_mem_import gave. Commands that still touch it fault. NULL is
 * allowed. Errors: INVALID_POINTER (not the start of a live allocation; freed twice).
 */
THRUM_MUST_CHECK thrum_status_t thrum_mem_free(thrum_device_t device, void *address);

/*
 * Lets the device's engines reach [address, address + bytes) of ordinary host memory, which must stay mapped until
 * unregistered; the device address of it is the host address. Ranges may not overlap a registered one.
 * Errors: INVALID_POINTER, INVALID_ARGUMENT, NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_mem_register_host(thrum_device_t device, void *address,
                                                        size_t bytes);

/* Errors: INVALID_POINTER (not the start of a registered range). */
THRUM_MUST_CHECK thrum_status_t thrum_mem_unregister_host(thrum_device_t device, void *address);

enum thrum_mem_kind {
    THRUM_MEM_HOST, /* nothing the device knows: plain host memory, or an invalid pointer */
    THRUM_MEM_HOST_REGISTERED,
    THRUM_MEM_DEVICE,
    THRUM_MEM_PEER, /* imported from another device */
    THRUM_MEM_NONE /* an address of devices where this one has no live memory: freed, or another's */
};

struct thrum_mem_info {
    size_t size; /* in: sizeof of the caller's struct */
    enum thrum_mem_kind kind;
    void *base; /* start of the allocation or registered range */
    size_t bytes; /* its length */
    uint64_t
        id; /* differs between any two allocations of a device's life; 0 for plain host memory */
};

/* What `device` knows about the allocation around `address`. Never fails for an unknown address: kind is HOST or NONE. */
THRUM_MUST_CHECK thrum_status_t thrum_mem_query(thrum_device_t device, const void *address,
                                                struct thrum_mem_info *info_out);

/* A plain value that names an allocation or a semaphore to other processes of the same user on the same host. */
struct thrum_mem_handle {
    uint8_t bytes[128];
};

/*
 * Names the whole allocation that starts at `address` for export. The handle stays good until the allocation is freed
 * or hard-reset. Errors: INVALID_POINTER, RESET.
 */
THRUM_MUST_CHECK thrum_status_t thrum_mem_export(thrum_device_t device, void *address,
                                                 struct thrum_mem_handle *handle_out);

/*
 * Maps a peer's allocation into `device`'s address space, until thrum_mem_free(device, *address_out). Blocks while it
 * asks the owner (milliseconds). Errors: INVALID_ARGUMENT (no handle), UNSUPPORTED (no peer access), PEER_DEAD,
 * AUTH (another user), RESET (the allocation is gone).
 */
THRUM_MUST_CHECK thrum_status_t thrum_mem_import(thrum_device_t device,
                                                 const struct thrum_mem_handle *handle,
                                                 void **address_out);

/* ---- queues and commands ---------------------------------------------------------------------------------------- */

enum thrum_queue_flags {
    THRUM_QUEUE_DEFAULT =
        0, /* kernel-mediated: the form of commands is checked before they enter; a bad one fails there.
              Addresses are met by the device in both modes (FAULT) */
    THRUM_QUEUE_DIRECT =
        1 << 0 /* user space writes the ring: a bad command is met by the device, asynchronously */
};

/* An in-order command queue. Errors: INVALID_ARGUMENT, RESET, NO_MEMORY, UNSUPPORTED. */
THRUM_MUST_CHECK thrum_status_t thrum_queue_create(thrum_device_t device, unsigned flags,
                                                   thrum_queue_t *queue_out);

/*
 * A queue that submits to a stream of the device's own runtime (`native`: on a CUDA device a CUstream; NULL: the runtime's
 * default stream), in one order with what the runtime submits there. For devices whose plugin has queue_import; `sim` has
 * none, since its streams are queues. A stream may be imported several times. It stays its owner's, who keeps it until the
 * queue is destroyed: thrum_queue_destroy cancels what is still queued of this queue's and leaves the stream as it is. If
 * it is destroyed all the same, the queue's id (thrum_queue_id) is 0 from then on, and submitting is INVALID_QUEUE.
 * Synchronize and query know of what this queue has submitted; events stand behind the runtime's own work too. Does not
 * block; any thread.
 * Errors: INVALID_ARGUMENT (device is not open, queue_out=NULL), INVALID_QUEUE (not a live stream of the device),
 * UNSUPPORTED, RESET, NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_import(thrum_device_t device, void *native,
                                                   thrum_queue_t *queue_out);

/*
 * Cancels what is still queued and frees the queue. Waits for the command that executes, a reduction of the caller's (see
 * thrum_redop_create) until that returns. Takes NULL.
 */
void thrum_queue_destroy(thrum_queue_t queue);

thrum_device_t thrum_queue_device(thrum_queue_t queue); /* borrowed; NULL for a bad handle */

/*
 * An operand: the address is `base`, plus, where `indirect` is not 0, the 64-bit word at device address `indirect` as
 * it is when the command executes (needs THRUM_CAP_INDIRECT; NULL-free: 0 means absent).
 */
struct thrum_operand {
    uint64_t base;
    uint64_t indirect;
};

/*
 * A line: 64 aligned bytes, a flag and up to 56 bytes that travel with it; whoever sees the flag sees the payload. A
 * long line goes on behind its first 64 bytes, up to THRUM_LINE_LONG_BYTES of payload. Or the payload lies elsewhere:
 * WRITE_LINE with two destinations.
 */
#define THRUM_LINE_BYTES 64
#define THRUM_LINE_PAYLOAD_BYTES 56
#define THRUM_LINE_LONG_BYTES 32768
struct thrum_line {
    uint64_t flag;
    uint8_t payload[THRUM_LINE_PAYLOAD_BYTES];
};

typedef enum thrum_opcode {
    THRUM_CMD_NOP = 0,
    THRUM_CMD_COPY =
        1, /* every dst[] <- src[0], `bytes`; a destination may be exactly the source */
    THRUM_CMD_FILL = 2, /* every dst[] <- the byte `value`, `bytes` */
    THRUM_CMD_REDUCE =
        3, /* every dst[] <- redop(src[0], src[1], ...) in that order; `bytes` of `dtype`;
                                 a destination may be exactly one of the sources, if as wide; no other overlap */
    THRUM_CMD_SIGNAL =
        4, /* dst[0] is a semaphore: adds `value`; with THRUM_CMD_FLAG_SET stores it instead */
    THRUM_CMD_WAIT = 5, /* waits until the semaphore src[0] is >= `value` */
    THRUM_CMD_WRITE_LINE =
        6, /* line at dst[0] <- payload of `bytes` from src[0], or from `payload` where nsrc is 0;
                                 then its flag <- `value`. With a dst[1] that is where the payload goes */
    THRUM_CMD_WAIT_LINE =
        7, /* waits until (flag & mask) >= (value & mask) of the line at src[0]; if the flag then is
                                 not exactly `value`, the rest of the submission ends with THRUM_ERR_MISMATCH */
    THRUM_CMD_PUT = 8, /* hands a put to the port: see thrum_put */
    THRUM_CMD_CALLBACK =
        9, /* calls `callback(argument)` on a host thread; THRUM_IN_PROGRESS means ask again later,
                                 an error ends the submission with it. It must not block or call the queue */
    THRUM_CMD_SCALE =
        10 /* every dst[] <- src[0] times a scalar, `bytes` of `dtype`, rounded to it (integers wrap); the
                                 scalar is one element of `dtype`: at src[1], or in `payload` where nsrc is 1;
                                 a destination may be exactly the source */
} thrum_opcode_t;

enum {
    THRUM_CMD_FLAG_SET = 1 << 0, /* SIGNAL: one writer only; never lowers the semaphore */
    THRUM_CMD_FLAG_DEFER = 1 << 0, /* WAIT_LINE, a hint: the submitter has more to do meanwhile */
    THRUM_CMD_FLAG_FLUSH =
        1 << 1, /* PUT: no data; completes when all earlier puts to `peer` are done locally */
    THRUM_CMD_FLAG_LENIENT = 1 << 1, /* SIGNAL: nothing is done where a peer's memory is gone */
    THRUM_CMD_FLAG_LENIENT_PUT = 1 << 0, /* PUT: nothing is done where the peer cannot be reached */
    THRUM_CMD_FLAG_STREAM =
        1
        << 2, /* COPY, REDUCE, SCALE: the result will not be read soon; stores may bypass the cache */
    THRUM_CMD_FLAG_CONTAIN = 1 << 3, /* a page fault in a peer's memory ends the submission with
                                       FAULT, as other errors do, and does not stop the queue */
    /*
     * REDUCE of 8- and 16-bit floats: the destinations, all sources, or the first source are partial results, that is
     * float32, not rounded. `bytes` counts elements of `dtype` all the same. Other types are as wide as they are. Not
     * with THRUM_REDOP_CALLBACK.
     */
    THRUM_CMD_FLAG_WIDE_DST = 1 << 4,
    THRUM_CMD_FLAG_WIDE_SRC = 1 << 5,
    THRUM_CMD_FLAG_WIDE_FIRST = 1 << 6,
    /*
     * COPY, REDUCE, source of WRITE_LINE: addresses that are no device memory are taken as they are, as memory of this
     * process that need not be registered; a wild one is a segmentation fault, not a page fault. Needs
     * THRUM_CAP_PAGEABLE.
     */
    THRUM_CMD_FLAG_HOST = 1 << 7
};

/*
 * A put by the device's port through the fabric plugin attached to it. Fields that the fabric gave are opaque.
 * src[0] of the command is the source (nsrc 0: the command's `payload` or nothing); dst[0].base is the offset in the
 * remote region, with `indirect` added as usual. Then the 64-bit word at signal_offset in signal_key's region becomes
 * the command's `value`, visible after the data; signal_key 0 means no signal.
 */
struct thrum_port_put {
    void *peer; /* connection, of the fabric */
    void *
        local_region; /* registration that holds src[0]; may be NULL when `bytes` fits the fabric's inline size */
    uint64_t
        remote_key; /* plus the word at device address remote_key_indirect, where that is not 0 */
    uint64_t remote_key_indirect;
    uint64_t signal_key;
    uint64_t signal_offset;
};

typedef thrum_status_t (*thrum_callback_t)(void *argument);

/*
 * A reduction of the host: result[i] <- left[i] op right[i] for i < count; result may be left or right. An error ends
 * the submission with it. It must not block or call Thrum, and is called by several threads at once.
 */
typedef thrum_status_t (*thrum_reduce_fn)(const void *left, const void *right, void *result,
                                          size_t count, thrum_datatype_t dtype, void *context);
#define THRUM_REDOP_CALLBACK 255 /* thrum_command.redop: REDUCE folds by `reduce` */

struct thrum_command {
    uint8_t opcode; /* thrum_opcode_t */
    uint8_t flags; /* THRUM_CMD_FLAG_* */
    uint8_t dtype; /* thrum_datatype_t, REDUCE */
    uint8_t redop; /* thrum_redop_t, REDUCE */
    uint16_t ndst, nsrc;
    uint64_t bytes; /* WAIT_LINE: only for `next` */
    uint64_t value;
    uint64_t mask;
    const struct thrum_operand
        *operands; /* ndst destinations, then nsrc sources; copied by submit */
    const void *
        payload; /* WRITE_LINE and PUT with nsrc 0: `bytes` (<= 56) of host memory; copied by submit */
    union {
        uint64_t
            divisor; /* REDUCE with THRUM_AVG: the sum is divided by it once, before it is rounded; 0 means 1 */
        struct { /* hints; 0: not known */
            uint64_t writer; /* WAIT, WAIT_LINE: an address of the device that will write there */
            uint64_t
                next; /* a line that this device is to write soon, with as many `bytes`: WAIT_LINE, when this has
                         come; WRITE_LINE, after this one */
        };
        struct thrum_port_put put; /* PUT */
        struct {
            thrum_callback_t callback;
            void *argument;
        };
        struct {
            thrum_reduce_fn reduce; /* REDUCE with THRUM_REDOP_CALLBACK */
            void *reduce_context;
        };
    };
};

/*
 * Submits n commands, in order, and does not wait for them. ticket_out (may be NULL) receives a number that only grows
 * within a queue. On error nothing is submitted: INVALID_QUEUE, INVALID_COMMAND (kernel-mediated queues only; the
 * message names the command and field), FAULT or BAD_PACKET (the queue has stopped), RESET.
 * Blocks only while the ring is full, executing meanwhile.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_submit(thrum_queue_t queue,
                                                   const struct thrum_command *commands, size_t n,
                                                   uint64_t *ticket_out);

/* One command each, on top of thrum_queue_submit, with its errors. `bytes` 0 is allowed and does nothing. */
THRUM_MUST_CHECK thrum_status_t thrum_copy(thrum_queue_t queue, void *dst, const void *src,
                                           size_t bytes);
THRUM_MUST_CHECK thrum_status_t thrum_fill(thrum_queue_t queue, void *dst, uint8_t byte,
                                           size_t bytes);
/* dst[i] <- op over s of srcs[s][i]; `count` elements, nsrcs >= 1. */
THRUM_MUST_CHECK thrum_status_t thrum_queue_reduce(thrum_queue_t queue, void *dst,
                                                   const void *const *srcs, int nsrcs, size_t count,
                                                   thrum_datatype_t dtype, thrum_redop_t op);
THRUM_MUST_CHECK thrum_status_t thrum_queue_callback(thrum_queue_t queue, thrum_callback_t callback,
                                                     void *argument);

/*
 * Waits until everything submitted so far has ended; the waiting thread executes commands itself. Returns the first
 * error since the last synchronize: of a faulted queue FAULT or BAD_PACKET (again each time, until destroyed), of a
 * failed collective its status (once). timeout_ns < 0 waits without limit; TIMEOUT leaves everything as it was.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_synchronize(thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_queue_synchronize_for(thrum_queue_t queue,
                                                            int64_t timeout_ns);

/*
 * Waits until everything submitted so far has ended, and leaves errors to the next synchronize. The queue may be being
 * captured: what is recorded is not waited for. Blocks, as long as what waits for peers does: deadlines end that. Any
 * thread. Errors: INVALID_QUEUE, RESET.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_drain(thrum_queue_t queue);

/* Like synchronize, but returns THRUM_IN_PROGRESS instead of waiting. */
THRUM_MUST_CHECK thrum_status_t thrum_queue_query(thrum_queue_t queue);
/*
 * How the submissions behind ticket `after`, or from the beginning for 0, up to `ticket` ended: IN_PROGRESS while `ticket`
 * has not, else the first error among them, as often as it is asked for; the next synchronize returns it all the same. Of
 * more than 1024 submissions the first are forgotten, and count as good. Errors: INVALID_QUEUE, RESET, INVALID_ARGUMENT
 * (`ticket` has not been given).
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_query_tickets(thrum_queue_t queue, uint64_t after,
                                                          uint64_t ticket);

/*
 * Copy between plain host memory and device memory through an internal staging of `queue`'s device; returns when done.
 */
THRUM_MUST_CHECK thrum_status_t thrum_copy_to_device(thrum_queue_t queue, void *dst,
                                                     const void *host_src, size_t bytes);
THRUM_MUST_CHECK thrum_status_t thrum_copy_to_host(thrum_queue_t queue, void *host_dst,
                                                   const void *src, size_t bytes);

/* ---- capture and replay ------------------------------------------------------------------------------------------- */

typedef struct thrum_graph *thrum_graph_t;

/*
 * Records what is submitted to the queue from now on instead of executing it: commands with what they point to (the
 * tickets are 0), copies, callbacks, event records and waits, collectives, point-to-point and one-sided calls, and
 * launches of other graphs. An event is recorded and waited for at each launch, as if it were called then: a wait for
 * one that was recorded before it in the capture is for that record of the same launch, any other for the newest record at
 * that time; a record in a capture is none before a launch.
 * Calls that need a result now (synchronize, query, thrum_copy_to_host and _to_device, destroying the queue) are
 * INVALID_USAGE while it records, name themselves, and leave the recording as it is; so are sends and receives of one
 * group on several queues.
 * Threads may drive the queues of one capture at the same time. Errors of begin: INVALID_QUEUE, RESET, INVALID_USAGE (it
 * records already), NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_capture_begin(thrum_queue_t queue);
/*
 * Lets the capture of `origin` record `queue` too, from now until it ends: another lane of the same graph. Lanes are
 * ordered by events only: let the new one wait for an event that was recorded in the capture, and in the end the
 * origin for one of each lane. It may be of another device of this process. Nothing happens where it has joined
 * already. Errors: INVALID_QUEUE, RESET, INVALID_USAGE (origin is not captured; queue is, by another capture),
 * NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_capture_join(thrum_queue_t queue, thrum_queue_t origin);
/*
 * Ends the recording. If a call was refused in it because of the capture, or for lack of memory, the first one's status
 * and message, and *graph_out <- NULL; so too inside a group that has a call for one of its queues (INVALID_USAGE). Calls
 * with bad arguments are refused as ever and simply not in the graph.
 * Other errors: INVALID_ARGUMENT (graph_out), INVALID_QUEUE, INVALID_USAGE (it does not record, or has joined another's
 * capture; these leave *graph_out), RESET. The caller owns the graph; it does not need the queue.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_capture_end(thrum_queue_t queue,
                                                        thrum_graph_t *graph_out);

/*
 * A call of the program's own in a capture: each launch calls `replay`, where the call stands, with the queue of its lane,
 * to which that submits what is to be done this time. The queue may itself be captured then. Functions may be called by
 * several threads at once, and must not block; they may not use the graph.
 */
struct thrum_graph_call {
    size_t size; /* sizeof(struct thrum_graph_call) */
    /* Before anything of a launch is submitted: an error is the launch's, which then does nothing. NULL: always OK */
    thrum_status_t (*check)(void *argument, thrum_queue_t queue);
    thrum_status_t (*replay)(void *argument, thrum_queue_t queue);
    void (*release)(
        void *
            argument); /* when the graph is destroyed, or the capture ends with none; NULL: nothing */
};
/*
 * Records the call. `call` is borrowed until `release` has been called; so is `argument`, which is the graph's. Errors, and
 * then release is not called: INVALID_QUEUE, RESET, INVALID_ARGUMENT (call), INVALID_USAGE (the queue is not being
 * captured), NO_MEMORY.
 */
THRUM_MUST_CHECK thrum_status_t thrum_queue_capture_call(thrum_queue_t queue,
                                                         const struct thrum_graph_call *call,
                                                         void *argument);
/*
 * Submits all of the graph to a queue of the device on which it was captured, in order, without waiting; any number of
 * times. Buffers, communicators and callbacks that it names must live. Collectives take their place in the issue order
 * of their communicator now, also inside a group, so all ranks launch alike. Commands that follow one another are one
 * submission as far as an error would end no more of them than without the graph. Errors: INVALID_ARGUMENT (graph),
 * INVALID_QUEUE (also: of another device), RESET (of the device, since the capture), and those of the recorded calls, of
 * events and communicators that are gone or have failed among them: all are looked at first, and nothing is submitted. What
 * fails all the same (no memory, or a failure meanwhile) leaves what stands before it submitted. Any thread, also several,
 * except where a recorded call says otherwise. Lanes follow one another here, in the order in which their calls were made:
 * they must be of one device.
 */
THRUM_MUST_CHECK thrum_status_t thrum_graph_launch(thrum_graph_t graph, thrum_queue_t queue);
/* How many queues were captured: 1, and each that joined. Errors: INVALID_ARGUMENT. */
THRUM_MUST_CHECK thrum_status_t thrum_graph_lanes(thrum_graph_t graph, int *lanes_out);
/*
 * thrum_graph_launch with a queue for each lane, in the order of joining, which work at the same time. An error of one
 * lane is also that of lanes that wait for it, by events that the graph records: so the first queue's synchronize
 * returns it. Errors as thrum_graph_launch; INVALID_ARGUMENT (another number of lanes).
 */
THRUM_MUST_CHECK thrum_status_t thrum_graph_launch_lanes(thrum_graph_t graph,
                                                         const thrum_queue_t *queues, int nqueues);
void thrum_graph_destroy(thrum_graph_t graph); /* takes NULL; launches in flight go on */

/* ---- events ------------------------------------------------------------------------------------------------------ */

/* An event marks a point in a queue. Not recorded yet counts as reached. Errors: INVALID_ARGUMENT, NO_MEMORY. */
THRUM_MUST_CHECK thrum_status_t thrum_event_create(thrum_device_t device, thrum_event_t *event_out);
void thrum_event_destroy(thrum_event_t event);
THRUM_MUST_CHECK thrum_status_t thrum_event_record(thrum_event_t event, thrum_queue_t queue);
/*
 * The same for a point that tells errors: a thread or a queue that waits for it gets the first error that the queue had up to
 * there and that no synchronize or query of the queue had returned when this was called; for the queue, it is that of its
 * next synchronize. They come as often as they are asked for, and the queue's own synchronize returns them all the same.
 * In a capture it is thrum_event_record. Of an error more than 1024 submissions back it may know nothing.
 */
THRUM_MUST_CHECK thrum_status_t thrum_event_record_errors(thrum_event_t event, thrum_queue_t queue);
/* Later commands of `queue` wait until the event's point is reached (a queue of any device of this process). */
THRUM_MUST_CHECK thrum_status_t thrum_event_wait(thrum_event_t event, thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_event_synchronize(thrum_event_t event);
THRUM_MUST_CHECK thrum_status_t thrum_event_query(thrum_event_t event); /* OK or IN_PROGRESS */
/* Time between two reached events, in ns. Errors: IN_PROGRESS, INVALID_USAGE (never recorded). */
THRUM_MUST_CHECK thrum_status_t thrum_event_elapsed(thrum_event_t start, thrum_event_t end,
                                                    int64_t *elapsed_ns_out);

/* ---- semaphores -------------------------------------------------------------------------------------------------- */

/* A 64-bit counter in device memory that only grows. Errors: NO_DEVICE_MEMORY, RESET. */
THRUM_MUST_CHECK thrum_status_t thrum_semaphore_create(thrum_device_t device, uint64_t initial,
                                                       thrum_semaphore_t *semaphore_out);
void thrum_semaphore_destroy(thrum_semaphore_t semaphore); /* takes NULL; also for imported ones */
THRUM_MUST_CHECK thrum_status_t thrum_semaphore_export(thrum_semaphore_t semaphore,
                                                       struct thrum_mem_handle *handle_out);
/* Errors as thrum_mem_import. */
THRUM_MUST_CHECK thrum_status_t thrum_semaphore_import(thrum_device_t device,
                                                       const struct thrum_mem_handle *handle,
                                                       thrum_semaphore_t *semaphore_out);
/* The value now, read by the host. */
THRUM_MUST_CHECK thrum_status_t thrum_semaphore_read(thrum_semaphore_t semaphore,
                                                     uint64_t *value_out);
/* Device address of the counter, for hand-written commands. 0 for a bad handle. */
uint64_t thrum_semaphore_address(thrum_semaphore_t semaphore);
THRUM_MUST_CHECK thrum_status_t thrum_queue_signal(thrum_queue_t queue, thrum_semaphore_t semaphore,
                                                   uint64_t add);
THRUM_MUST_CHECK thrum_status_t thrum_queue_wait(thrum_queue_t queue, thrum_semaphore_t semaphore,
                                                 uint64_t value);

/* ---- RAS: reliability, availability, serviceability --------------------------------------------------------------- */

/* One row per kind of event: name, value, printed name. */
#define THRUM_RAS_MAP(X) \
    X(ECC_CORRECTED, 0, "ecc-corrected") \
    X(ECC_UNCORRECTED, 1, "ecc-uncorrected") \
    X(PAGE_FAULT, 2, "page-fault") \
    X(BAD_PACKET, 3, "bad-packet") \
    X(LINK_DOWN, 4, "link-down") \
    X(LINK_UP, 5, "link-up") \
    X(THROTTLING, 6, "throttling") \
    X(HEARTBEAT_LOST, 7, "heartbeat-lost") \
    X(RESET, 8, "reset") \
    X(FABRIC_ERROR, 9, "fabric-error")

enum thrum_ras_kind {
#define X(name, value, text) THRUM_RAS_##name = value,
    THRUM_RAS_MAP(X)
#undef X
        THRUM_RAS_KIND_COUNT = 10
};

const char *
thrum_ras_kind_name(enum thrum_ras_kind kind); /* "page-fault"; "?" if there is no such kind */

enum thrum_engine {
    THRUM_ENGINE_NONE,
    THRUM_ENGINE_DMA,
    THRUM_ENGINE_REDUCE,
    THRUM_ENGINE_PORT,
    THRUM_ENGINE_SYNC
};

struct thrum_ras_event {
    enum thrum_ras_kind kind;
    enum thrum_engine engine;
    uint64_t
        sequence; /* 1, 2, 3 ... per device; a gap means that events were lost to a full list */
    uint64_t timestamp_ns; /* CLOCK_MONOTONIC */
    uint64_t queue_id; /* 0 if no queue is involved */
    uint64_t ticket; /* of the submission that met it; 0 if none */
    uint64_t
        address; /* page fault: the address; ECC: the cell; link: the port; reset: the kind; else 0 */
    uint32_t opcode; /* of the command that met it */
    uint32_t generation;
};

/* A descriptor that is readable while events are waiting (poll it; do not read or close it). -1 for a bad handle. */
int thrum_ras_event_fd(thrum_device_t device);

/* Takes up to `max` events, oldest first. Never blocks. */
THRUM_MUST_CHECK thrum_status_t thrum_ras_get_events(thrum_device_t device,
                                                     struct thrum_ras_event *events_out, size_t max,
                                                     size_t *n_out);

/* How often each kind happened since open; index with enum thrum_ras_kind. */
struct thrum_ras_counters {
    size_t size; /* in: sizeof of the caller's struct */
    uint64_t count[THRUM_RAS_KIND_COUNT];
    uint64_t commands, bytes_copied, bytes_reduced, bytes_put; /* work done by the engines */
};

/* Errors: INVALID_ARGUMENT (size is 0 or device is not open). Never blocks. */
THRUM_MUST_CHECK thrum_status_t thrum_ras_get_counters(thrum_device_t device,
                                                       struct thrum_ras_counters *counters_out);

/* Detail of the first page fault or bad packet since open or the last reset. Errors: INVALID_USAGE (there was none). */
THRUM_MUST_CHECK thrum_status_t thrum_ras_get_fault(thrum_device_t device,
                                                    struct thrum_ras_event *fault_out);

/* Id of a queue, as in events; 0 for a bad handle. */
uint64_t thrum_queue_id(thrum_queue_t queue);

/*
 * Adds one line of a fault script to the device, as THRUM_SIM_FAULTS does at open. A script is faults separated by
 * ';', each KIND@WHEN[:ARGUMENT] where KIND is a printed RAS kind (or "reset-soft", "reset-hard"), WHEN is a command
 * number "c123" counted from now over all queues, a time "t50ms", or a seeded choice "c100-200", and ARGUMENT is an
 * address or port. The same script and seed give the same faults at the same commands.
 * Errors: INVALID_ARGUMENT (names the part that is malformed), UNSUPPORTED (the device has no fault injection).
 */
THRUM_MUST_CHECK thrum_status_t thrum_ras_inject(thrum_device_t device, const char *script,
                                                 uint64_t seed);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
