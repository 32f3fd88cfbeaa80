/*
 * libthrum-mpi: MPI's collectives by Thrum, for programs that know nothing of it. What its files share.
 *
 * entry.c and fortran.c have MPI's entry points; they fill a struct tmpi_call. tmpi_passes sorts out quickly what MPI has
 * anyhow; take.c decides whether Thrum or the MPI below serves the rest, trial.c measures which is faster, comm.c has the
 * Thrum communicator of an MPI communicator, type.c knows what data types and operations are in Thrum, give.c places
 * buffers, work.c issues and finishes a call, fold.c calls operations of the caller's, request.c makes nonblocking and persistent calls MPI requests, issuer.c issues
 * those that had to wait, fall.c hands a call down, report.c counts, other.c has what is counted only.
 *
 * Whatever decides between Thrum and MPI must come out alike on all ranks with nothing said: it may depend only on what
 * MPI wants to be equal on all of them, and on what the ranks agreed on when the communicator was made.
 */
#ifndef TMPI_FRONTEND_H
#define TMPI_FRONTEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <mpi.h>
#ifdef HAVE_MPIX_PERSISTENT
#include <mpi-ext.h>
#endif

#include <thrum/mpi.h>
#include <thrum/thrum.h>

#define TMPI_EXPORT __attribute__((visibility("default")))
/* Persistent collectives have the names of MPI 4, or Open MPI 4's. */
#if defined(HAVE_MPI_PERSISTENT)
#define TMPI_INIT(Name) MPI_##Name##_init
#define TMPI_PINIT(Name) PMPI_##Name##_init
#elif defined(HAVE_MPIX_PERSISTENT)
#define TMPI_INIT(Name) MPIX_##Name##_init
#define TMPI_PINIT(Name) PMPIX_##Name##_init
#endif
#define TMPI_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum tmpi_function {
#define X(NAME, Name, name) TMPI_##NAME,
#include "function_rows.h"
#undef X
    TMPI_FUNCTIONS
};

/* Those that Thrum does not have, beside them in the report. */
enum tmpi_other {
    TMPI_BEFORE_OTHERS = TMPI_FUNCTIONS - 1,
#define X(Name, name, parameters) TMPI_OTHER_##Name,
#include "other_rows.h"
#undef X
    TMPI_ALL_FUNCTIONS
};

enum tmpi_mode { TMPI_BLOCKING, TMPI_NONBLOCKING, TMPI_PERSISTENT, TMPI_MODES };

enum tmpi_reason {
#define X(name, text) TMPI_##name,
#include "reason_rows.h"
#undef X
    TMPI_REASONS
};

/* The arguments of any of the functions, as the caller gave them; fields.h has which. */
struct tmpi_call {
    enum tmpi_function function;
    int sendcount, recvcount; /* reductions, Bcast: sendcount; Reduce_scatter_block: recvcount */
    const void *send;
    void *recv; /* Bcast: the buffer */
    MPI_Datatype sendtype, recvtype; /* reductions, Bcast: sendtype */
    const int *sendcounts, *sdispls, *recvcounts, *rdispls;
    MPI_Op op;
    int root;
    MPI_Comm comm;
};

/* ---- data types and operations (type.c) ---- */

/* What reductions may do with a type, as MPI groups them. */
enum tmpi_class {
    TMPI_CLASS_NONE, /* moved only */
    TMPI_CLASS_INTEGER,
    TMPI_CLASS_ANY_INTEGER, /* the integers of MPI itself: as INTEGER */
    TMPI_CLASS_FORTRAN_INTEGER, /* no logical operations */
    TMPI_CLASS_FLOAT,
    TMPI_CLASS_COMPLEX,
    TMPI_CLASS_LOGICAL,
    TMPI_CLASS_BYTE
};

struct tmpi_type {
    size_t size; /* bytes of data */
    MPI_Aint extent;
    bool dense; /* the bytes lie in the order of the type map, without gaps, from 0 on */
    enum tmpi_class class;
    thrum_datatype_t
        dtype; /* of elements in reductions; class NONE: stands for `size` bytes, for operations of the caller's */
    bool has_dtype;
    bool derived;
};

/* The predefined types, found by their handles. Filled once, from tmpi_ready. */
#define TMPI_TYPE_SLOTS 256 /* more than twice the types */

struct tmpi_type_slot {
    MPI_Datatype handle;
    struct tmpi_type type;
};
extern struct tmpi_type_slot tmpi_type_slots[TMPI_TYPE_SLOTS];

static inline size_t tmpi_type_slot_of(MPI_Datatype type)
{
    return (size_t)(((uint64_t)(uintptr_t)type >> 4) * 0x9e3779b97f4a7c15u >> 56) % TMPI_TYPE_SLOTS;
}

/* NULL: not predefined. */
static inline const struct tmpi_type *tmpi_predefined(MPI_Datatype type)
{
    const struct tmpi_type_slot *slot;

    for (size_t i = tmpi_type_slot_of(type);; i = (i + 1) % TMPI_TYPE_SLOTS) {
        slot = &tmpi_type_slots[i];
        if (slot->handle == type)
            return &slot->type;
        if (slot->handle == MPI_DATATYPE_NULL)
            return NULL;
    }
}

bool tmpi_types_init(void);
void tmpi_types_fini(void);
/* NULL: null, not committed, or otherwise nothing for Thrum. Borrowed until the type is freed. */
const struct tmpi_type *tmpi_type_of(MPI_Datatype type);
/*
 * Keeps a borrowed type beyond that, until it is released, with a handle of its own where one is needed to pack, or
 * is_called: operations of the caller's are. NULL is allowed. False: no memory.
 */
bool tmpi_type_keep(const struct tmpi_type *type, bool is_called, MPI_Datatype *handle);
void tmpi_type_release(const struct tmpi_type *type, bool is_called, MPI_Datatype *handle);
bool tmpi_type_is_freed(const struct tmpi_type *type); /* one that is kept, by the caller */
/*
 * Whether the operation can be served for the type. *user_out: it is the caller's own, and *commutes_out whether it
 * commutes.
 */
bool tmpi_op_of(MPI_Op op, const struct tmpi_type *type, thrum_redop_t *redop_out, bool *user_out,
                bool *commutes_out);
#define TMPI_REDUCTIONS \
    (1u << TMPI_ALLREDUCE | 1u << TMPI_REDUCE | 1u << TMPI_REDUCE_SCATTER | \
     1u << TMPI_REDUCE_SCATTER_BLOCK | 1u << TMPI_SCAN | 1u << TMPI_EXSCAN)
static inline bool tmpi_reduces(enum tmpi_function function)
{
    return 1u << function & TMPI_REDUCTIONS;
}

/* ---- communicators (comm.c) ---- */

/*
 * What an operation of the caller's needs that the device may call; one at a time on a communicator, since only blocking
 * calls have it.
 */
struct tmpi_user_op {
    MPI_Op op;
    MPI_Datatype type;
    size_t bytes; /* of an element */
};

struct tmpi_request;

/* Of how many bytes calls are Thrum's. */
struct tmpi_range {
    uint64_t from, to; /* both included; to 0: none */
};
struct tmpi_policy {
    struct tmpi_range ranges[2][TMPI_FUNCTIONS]; /* [0] blocking, [1] nonblocking and persistent */
    struct tmpi_range moved[TMPI_FUNCTIONS]; /* also, for reductions that tmpi_fold folds */
    unsigned ruled; /* bit for each function: by THRUM_MPI_TAKE, not by the table */
    unsigned
        tried; /* bit for each function: blocking calls are tried out, the range is where they start */
};

/*
 * How a function's calls of one size class, a power of two of bytes, are tried out (trial.c). Bit c of the two words is
 * about class c.
 */
#define TMPI_SIZE_CLASSES 36 /* the last one has no end */
#define TMPI_TRIAL_SAMPLES 10

struct tmpi_verdict {
    uint64_t settled, thrum;
};

struct tmpi_trial {
    unsigned calls; /* alike on all ranks */
    uint32_t ns[2][TMPI_TRIAL_SAMPLES]; /* [0] MPI, [1] Thrum */
};

static inline unsigned tmpi_size_class(uint64_t bytes)
{
    unsigned class = 63 - (unsigned)__builtin_clzll(bytes | 1);

    return class < TMPI_SIZE_CLASSES ? class : TMPI_SIZE_CLASSES - 1;
}

/*
 * An MPI communicator. MPI lets one thread at a time call collectives on it, in one order on all ranks; `lock` is for the
 * threads that complete requests meanwhile. Fields without a note belong to the thread that calls.
 */
struct tmpi_comm {
    MPI_Comm handle; /* MPI_COMM_NULL: freed, but not all of its requests have ended */
    int rank, size;
    bool made; /* `why` is final */
    enum tmpi_reason why; /* TAKEN: `thrum` is there */
    unsigned calls; /* collectives so far: alike on all ranks */
    unsigned after; /* at so many `thrum` is made, or put off to twice as many */
    int64_t since_ns; /* when this rank first called one */
    const struct tmpi_policy *policy; /* see take.c */
    bool crowded; /* more ranks than cores */
    uint64_t stage_bytes; /* the least THRUM_STAGE_BYTES of all ranks */
    struct tmpi_verdict verdicts[TMPI_FUNCTIONS];
    struct tmpi_trial (*trials)[TMPI_SIZE_CLASSES]; /* of each function; there if `thrum` is */
    thrum_comm_t thrum;
    thrum_queue_t queue;
    thrum_redop_t user_ops[2]; /* by whether it commutes */
    bool has_user_ops;
    struct tmpi_user_op user;
    pthread_mutex_t lock;
    struct tmpi_request *first, *last; /* in flight or waiting to be issued, in order. lock */
    unsigned issued; /* of these how many are on the queue. lock */
    uint64_t ticket; /* of the last that was issued. lock */
    unsigned requests; /* that live. Under the lock of request.c's table, as is the next one */
    bool freed; /* by the program: goes with its last request */
    struct tmpi_comm *next_wanting; /* the issuer's lock, as is the next one */
    bool wants_issuer;
    struct tmpi_comm *next; /* of all; under the library's lock */
};

/* The library's state. Written by tmpi_ready and at finalization. */
struct tmpi_state {
    _Atomic int ready; /* 0 not asked yet, 1 works, -1 does not */
    bool
        threads; /* several at a time use communicators: MPI_THREAD_MULTIPLE, or issuer.c has begun */
    bool works; /* the settings are good */
    _Atomic bool
        device_used; /* the program has asked for the device: buffers may be in its memory */
    thrum_device_t device;
    MPI_Comm self; /* own duplicate of MPI_COMM_SELF, errors are returned */
    uint64_t host, settings; /* what must be equal on all ranks of a communicator */
    uint64_t stage_bytes;
    unsigned after; /* THRUM_MPI_AFTER */
    int64_t deadline_ms;
    int world_rank, world_size;
    int64_t begun_ns; /* when the library did */
    /* Under the library's lock. */
    int64_t making_ns; /* how long making Thrum communicators took, also where it failed */
    unsigned nmade; /* those that are, or were, there */
};
extern struct tmpi_state tmpi;

/* True if the library works; sets it up on the first call. */
bool tmpi_ready_slow(void);
static inline bool tmpi_ready(void)
{
    int ready = atomic_load_explicit(&tmpi.ready, memory_order_acquire);
    return ready > 0 || (!ready && tmpi_ready_slow());
}

/*
 * What a thread remembers of a communicator. What it says holds while nothing has happened to any communicator since, which
 * tmpi_generation counts: handles may come again.
 */
struct tmpi_memory {
    MPI_Comm handle;
    uint64_t generation; /* 0: nothing */
    struct tmpi_comm *comm;
    const struct tmpi_policy *policy;
};
#define TMPI_MEMORIES 8
extern __thread struct tmpi_memory tmpi_memories[TMPI_MEMORIES]
    __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern _Atomic uint64_t tmpi_generation;

static inline size_t tmpi_memory_of(MPI_Comm handle)
{
    return (size_t)(((uint64_t)(uintptr_t)handle >> 4) * 0x9e3779b97f4a7c15u >> 61) % TMPI_MEMORIES;
}

/* NULL: it knows nothing of the communicator. */
static inline const struct tmpi_memory *tmpi_remember(MPI_Comm handle)
{
    const struct tmpi_memory *memory = &tmpi_memories[tmpi_memory_of(handle)];

    return memory->handle == handle &&
                   memory->generation ==
                       atomic_load_explicit(&tmpi_generation, memory_order_acquire)
               ? memory
               : NULL;
}

static inline int64_t tmpi_now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The state of a communicator, made when first asked for; NULL for one that MPI does not know, or without memory. */
struct tmpi_comm *tmpi_comm_learn(MPI_Comm comm);
static inline struct tmpi_comm *tmpi_comm_of(MPI_Comm handle)
{
    const struct tmpi_memory *memory = tmpi_remember(handle);

    return memory ? memory->comm : tmpi_comm_learn(handle);
}
/*
 * Makes the Thrum communicator, on all ranks or on none, or puts it off: sets comm->why, and comm->made or comm->after.
 * Collective, blocks. Called inside a blocking collective or the initialisation of a persistent one.
 */
void tmpi_comm_make(struct tmpi_comm *comm);
/* No request needs it any more, and MPI has freed the communicator. */
void tmpi_comm_destroy(struct tmpi_comm *comm);
/* Lets MPI make progress on what it has in flight: a wait for Thrum must not stop messages. */
void tmpi_progress_mpi(void);

/* Raises a Thrum error through the communicator's handler. Returns MPI's code. */
int tmpi_raise(MPI_Comm comm, thrum_status_t status, const char *message);
/* The MPI code of a Thrum status, with the message as its text. */
int tmpi_code_of(thrum_status_t status, const char *message);

/* ---- deciding (take.c) ---- */

/* What the decision found out, for give.c and work.c. */
struct tmpi_taken {
    struct tmpi_comm *comm;
    const struct tmpi_type *sendtype, *recvtype; /* NULL where the call has none here */
    thrum_redop_t redop;
    bool is_user_op;
    bool is_moved; /* a reduction: Thrum moves the contributions, tmpi_fold folds them */
    uint32_t *sample; /* how long the call takes goes here; NULL: nowhere */
};

/* Adds up counts of all ranks. */
static inline uint64_t tmpi_sum(const int *counts, int n)
{
    uint64_t total = 0;

    for (int r = 0; r < n; r++)
        total += (uint64_t)counts[r];
    return total;
}

/* What the policy goes by is elements of one of the two types: whether it is that of what is received. */
static inline bool tmpi_goes_by_recv(const struct tmpi_call *call, const struct tmpi_comm *comm)
{
    switch (call->function) {
    case TMPI_ALLGATHER:
    case TMPI_ALLGATHERV:
    case TMPI_ALLTOALL:
        return true;
    case TMPI_GATHER:
        return call->root == comm->rank;
    case TMPI_SCATTER:
        return call->root != comm->rank;
    default:
        return false;
    }
}

/* How many there are, with type_bytes each. 1: a call of which no rank knows all sizes. */
static inline uint64_t tmpi_policy_bytes(const struct tmpi_call *call, const struct tmpi_comm *comm,
                                         uint64_t type_bytes)
{
    switch (call->function) {
    case TMPI_ALLREDUCE:
    case TMPI_REDUCE:
    case TMPI_BCAST:
    case TMPI_SCAN:
    case TMPI_EXSCAN:
        return (uint64_t)call->sendcount * type_bytes;
    case TMPI_REDUCE_SCATTER:
        return tmpi_sum(call->recvcounts, comm->size) * type_bytes;
    case TMPI_REDUCE_SCATTER_BLOCK:
        return (uint64_t)call->recvcount * (uint64_t)comm->size * type_bytes;
    case TMPI_ALLGATHERV:
        return tmpi_sum(call->recvcounts, comm->size) * type_bytes / (uint64_t)comm->size;
    case TMPI_ALLGATHER:
    case TMPI_ALLTOALL:
    case TMPI_GATHER:
    case TMPI_SCATTER:
        return (uint64_t)(tmpi_goes_by_recv(call, comm) ? call->recvcount : call->sendcount) *
               type_bytes;
    default:
        return 1;
    }
}

static inline bool tmpi_has_type(enum tmpi_function function)
{
    return !(1u << function & (1u << TMPI_BARRIER | 1u << TMPI_ALLTOALLV | 1u << TMPI_GATHERV |
                               1u << TMPI_SCATTERV));
}

/* Nonblocking calls that have not ended. */
static inline bool tmpi_has_requests(const struct tmpi_comm *comm)
{
    return __atomic_load_n(&comm->first, __ATOMIC_ACQUIRE) != NULL;
}

/* Whether trials have shown that MPI is faster. */
static inline bool tmpi_settled_for_mpi(const struct tmpi_comm *comm, enum tmpi_function function,
                                        uint64_t bytes)
{
    const struct tmpi_verdict *verdict = &comm->verdicts[function];

    return (verdict->settled & ~verdict->thrum) >> tmpi_size_class(bytes) & 1;
}

/*
 * Whether MPI has the call for sure, found out in a few nanoseconds: by what the thread remembers of the communicator, with
 * no look at arguments that do not matter for it. False: tmpi_decide knows.
 */
static inline __attribute__((always_inline)) bool tmpi_passes(const struct tmpi_call *call,
                                                              enum tmpi_mode mode)
{
    const struct tmpi_memory *memory = tmpi_remember(call->comm);
    const struct tmpi_range *range;
    const struct tmpi_type *type = NULL;
    uint64_t bytes;
    bool tried;

    if (!memory)
        return false;
    if (mode == TMPI_BLOCKING && tmpi_has_requests(memory->comm))
        return false; /* see tmpi_blocking */
    range = &memory->policy->ranges[mode != TMPI_BLOCKING][call->function];
    tried = mode == TMPI_BLOCKING && memory->policy->tried >> call->function & 1;
    if (!range->to && !tried)
        return true;
    if (call->function == TMPI_BARRIER && tried)
        return tmpi_settled_for_mpi(memory->comm, call->function, 1);
    if (!tmpi_has_type(call->function))
        return false;
    type = tmpi_predefined(tmpi_goes_by_recv(call, memory->comm) ? call->recvtype : call->sendtype);
    if (!type || ((call->function == TMPI_REDUCE_SCATTER || call->function == TMPI_ALLGATHERV) &&
                  !call->recvcounts))
        return false;
    bytes = tmpi_policy_bytes(call, memory->comm, type->size);
    if (tried)
        return !bytes || tmpi_settled_for_mpi(memory->comm, call->function, bytes);
    return bytes < range->from || bytes > range->to;
}

/* Whether Thrum serves the call. */
enum tmpi_reason tmpi_decide(const struct tmpi_call *call, enum tmpi_mode mode,
                             struct tmpi_taken *taken_out);
/* Reads THRUM_MPI_TAKE; false if it is malformed (says so). */
bool tmpi_policy_init(void);
/* What a communicator of that many ranks goes by. */
const struct tmpi_policy *tmpi_policy_of(int size, bool crowded);
/* All calls pass to MPI, or none of them without a look, or those that cannot make a Thrum communicator. */
extern const struct tmpi_policy tmpi_all_pass, tmpi_none_passes, tmpi_nonblocking_pass;
bool tmpi_policy_all(void); /* THRUM_MPI_TAKE=all */
uint64_t tmpi_hash(uint64_t hash, const void *data, size_t bytes);

/* ---- trying out (trial.c) ---- */

/*
 * Whose a call of so many bytes is, of a function that is tried; in_range: the table says Thrum's. All ranks come to the
 * same answer; now and then they talk about it, by MPI. Sets taken->sample.
 */
enum tmpi_reason tmpi_trial_decide(struct tmpi_taken *taken, enum tmpi_function function,
                                   uint64_t bytes, bool in_range);
/* A call with a sample, by MPI if there is a reason. Returns an MPI code, raised. */
int tmpi_trial_run(const struct tmpi_call *call, const struct tmpi_taken *taken,
                   enum tmpi_reason reason);

/* ---- doing (give.c, work.c) ---- */

/* Arguments of the Thrum call. */
struct tmpi_given {
    const void *send;
    void *recv;
    uint64_t count; /* elements of reductions, else bytes */
    /* bytes for each rank; of alltoallv the ones to send too */
    size_t *counts, *displs, *sendcounts, *sdispls;
};

/* A call on its way: what Thrum is given, and what is to be done after it. */
struct tmpi_work {
    struct tmpi_call call;
    struct tmpi_taken taken;
    void *packed_send,
        *packed_recv; /* from malloc; what Thrum reads and writes instead of the caller's memory */
    size_t recv_bytes; /* of packed_recv */
    MPI_Datatype told_type; /* the caller's sendtype, for operations of the caller's */
    struct tmpi_given given;
};
/* What Thrum is given for the call's buffers, packed where need be; the arrays of `given` are there (give.c). */
thrum_status_t tmpi_give(struct tmpi_work *work, struct tmpi_given *given);
/* What Thrum has left in packed_recv goes where the caller wants it. */
thrum_status_t tmpi_unpack(struct tmpi_work *work);
/* Packs or unpacks `count` elements of memory, which `packed` stands for. */
thrum_status_t tmpi_convert(const void *memory, int64_t count, MPI_Datatype handle,
                            const struct tmpi_type *type, void *packed, bool to_packed);
/* How many numbers about all ranks Thrum is given with the call; 0: none. */
size_t tmpi_work_numbers(const struct tmpi_work *work);
/*
 * Packs, in a thread that may call MPI; `numbers` has that many, and is needed until the call is issued. On failure nothing
 * is held.
 */
thrum_status_t tmpi_work_prepare(struct tmpi_work *work, size_t *numbers);
/* Issues what was prepared, in any thread. On failure nothing was enqueued and nothing is held. */
thrum_status_t tmpi_work_issue(struct tmpi_work *work);
/* After the call has ended, well or not: unpacks and frees. Returns an MPI code. */
int tmpi_work_finish(struct tmpi_work *work, bool good);
/* What a failed communicator says of `status`, which is more than the queue does. */
thrum_status_t tmpi_explain(const struct tmpi_comm *comm, thrum_status_t status,
                            const char **message_out);
/*
 * A call could not be issued: the others have issued it, or will; they must not wait for this rank. Bad arguments are an
 * error of the caller's and change nothing.
 */
void tmpi_tell_others(const struct tmpi_comm *comm, thrum_status_t status);
/* A taken blocking call, from beginning to end. Returns an MPI code, raised. */
int tmpi_work_run(const struct tmpi_call *call, const struct tmpi_taken *taken);

/* ---- operations of the caller's (fold.c) ---- */

/* thrum_reduce_fn that calls the function of a struct tmpi_user_op */
thrum_status_t tmpi_user_fold(const void *left, const void *right, void *result, size_t count,
                              thrum_datatype_t dtype, void *context);
/* Folds the contributions in packed_recv, in rank order; the result goes where the caller wants it. In a thread that may call MPI. */
thrum_status_t tmpi_fold(struct tmpi_work *work);
/* Keeps an operation until it is released, also when the caller frees it meanwhile. False: no memory. */
bool tmpi_op_keep(MPI_Op op);
void tmpi_op_release(MPI_Op op);

/* ---- requests (request.c; the functions that complete them: complete.c) ---- */

enum tmpi_request_state {
    TMPI_IDLE, /* persistent, not started */
    TMPI_WAITING, /* for room on the queue */
    TMPI_ISSUED,
    TMPI_ENDED, /* not finished, which only a thread that may call MPI does */
    TMPI_DONE /* finished; not yet told to the caller */
};

/*
 * A nonblocking or persistent call. Its handle is a request of MPI's: a generalized one, completed by whoever completes
 * ours, or a persistent one that is never started. The caller's thread owns it; fields with a note excepted.
 */
struct tmpi_request {
    struct tmpi_request *next; /* on its communicator. comm->lock */
    struct tmpi_request *hash_next; /* of the table's lock */
    MPI_Request handle;
    struct tmpi_comm *comm;
    struct tmpi_work work;
    int *arrays; /* persistent: copies of counts and displacements */
    size_t *numbers; /* of tmpi_work_prepare */
    bool is_persistent;
    int code; /* once DONE: what MPI is told */
    thrum_status_t status; /* once ENDED. comm->lock */
    char *message; /* of a status that is an error, until DONE. comm->lock */
    _Atomic int state; /* enum tmpi_request_state; advanced under comm->lock */
    uint64_t after,
        ticket; /* its submissions are behind the one and end with the other. comm->lock */
};

/* How many requests of ours live; 0: completion functions are MPI's. */
extern _Atomic int tmpi_requests_live;
/* NULL: not ours. */
struct tmpi_request *tmpi_request_find(MPI_Request handle);
/* Whether it has ended; executes and issues what it can. */
bool tmpi_request_poll(struct tmpi_request *request);
void tmpi_request_wait(struct tmpi_request *request);
/* Between two polls of anything: gives MPI and other processes their turn. */
void tmpi_request_pause(const struct tmpi_comm *comm, unsigned round);
/* DONE: the generalized request is complete for MPI and no longer ours; a persistent one is idle. Returns its code. */
int tmpi_request_tell(struct tmpi_request *request);
/* Whose error handler hears of it: that of its communicator, or when that has been freed, as MPI says, of MPI_COMM_WORLD. */
MPI_Comm tmpi_request_blames(const struct tmpi_request *request);
thrum_status_t tmpi_request_start(struct tmpi_request *request);
/* Of a persistent one that is idle. */
void tmpi_request_destroy(struct tmpi_request *request);

int tmpi_request_begin(const struct tmpi_call *call, const struct tmpi_taken *taken,
                       MPI_Request *request_out);
int tmpi_request_init(const struct tmpi_call *call, const struct tmpi_taken *taken, MPI_Info info,
                      MPI_Request *request_out);
/* Waits until everything in front of a blocking call is on the queue. */
void tmpi_requests_flush(struct tmpi_comm *comm);
/* Ends and issues what it can. Calls nothing of MPI. Returns whether requests still wait for room. */
bool tmpi_requests_advance(struct tmpi_comm *comm);
/* The program has freed the communicator. False: it has requests, and is destroyed with the last of them. */
bool tmpi_requests_leave(struct tmpi_comm *comm);
/* Before the communicator goes: lets go of what is left. */
void tmpi_requests_drop(struct tmpi_comm *comm);

/* ---- the thread that issues what waits (issuer.c) ---- */

/* Requests wait on the communicator. */
void tmpi_issuer_want(struct tmpi_comm *comm);
/* The communicator goes. */
void tmpi_issuer_forget(struct tmpi_comm *comm);
void tmpi_issuer_stop(void);

/* ---- handing down (fall.c) ---- */

int tmpi_fall(const struct tmpi_call *call);
int tmpi_fall_nonblocking(const struct tmpi_call *call, MPI_Request *request_out);
int tmpi_fall_persistent(const struct tmpi_call *call, MPI_Info info, MPI_Request *request_out);

/* Whether it is in device memory. */
bool tmpi_is_device_slow(const void *pointer);
static inline bool tmpi_is_device(const void *pointer)
{
    return TMPI_UNLIKELY(atomic_load_explicit(&tmpi.device_used, memory_order_relaxed)) &&
           tmpi_is_device_slow(pointer);
}
/* Host memory that stands for device memory. */
struct tmpi_bounce {
    void *host;
    void *device;
    size_t bytes;
    thrum_queue_t queue;
};
/* Drop it also after a failure; one that is all 0 may be dropped. */
thrum_status_t tmpi_bounce_in(const void *pointer, size_t bytes, struct tmpi_bounce *bounce);
thrum_status_t tmpi_bounce_out(const struct tmpi_bounce *bounce);
void tmpi_bounce_drop(struct tmpi_bounce *bounce);

/* The three ways into the library, for entry.c and fortran.c. */
int tmpi_blocking(const struct tmpi_call *call);
int tmpi_nonblocking(const struct tmpi_call *call, MPI_Request *request_out);
int tmpi_persistent(const struct tmpi_call *call, MPI_Info info, MPI_Request *request_out);

/* ---- counting (report.c) ---- */

extern bool tmpi_reporting;
void tmpi_report_init(void);
/* `function`: also one of enum tmpi_other. */
void tmpi_report_count(unsigned function, enum tmpi_mode mode, enum tmpi_reason reason);
/* A function's size class is settled: what one call took, in ns, the mean of the ranks. */
void tmpi_report_trial(const struct tmpi_comm *comm, enum tmpi_function function, unsigned class,
                       uint64_t mpi_ns, uint64_t thrum_ns, bool by_thrum);
void tmpi_report_print(void);

#endif
