/*
 * Nonblocking and persistent calls as MPI requests. Called by entry.c, complete.c and work.c.
 *
 * A nonblocking call is a generalized request of MPI's with the Thrum call behind it, so that every function of MPI takes
 * it. Nothing of MPI is called from other threads than the caller's: the functions that complete requests look for ours
 * first (complete.c), and tell MPI that they are complete. The device's own thread moves the data meanwhile.
 *
 * The queue takes only so many calls at a time without making the caller wait, which a nonblocking call may not do: what
 * comes on top waits in the communicator's list until there is room. Whoever completes requests issues it, and a thread of
 * the library's own (issuer.c), since the caller may first wait for something else, in a function that is MPI's. So what
 * needs MPI, packing and unpacking, is done before a call is put in line and after it has been found to have ended.
 */
#include "frontend.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

#define MOST_ISSUED 32 /* calls of a communicator on its queue */
#define BUCKETS 1024
#define ROUNDS_PER_PROGRESS 32

_Atomic int tmpi_requests_live;

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tmpi_request *table[BUCKETS]; /* under table_lock */

/* ---- handles ---- */

static struct tmpi_request **bucket_of(MPI_Request handle)
{
    return &table[(uint64_t)(uintptr_t)handle * 0x9e3779b97f4a7c15u >> 54];
}

static void enter(struct tmpi_request *request)
{
    struct tmpi_request **bucket = bucket_of(request->handle);

    pthread_mutex_lock(&table_lock);
    request->hash_next = *bucket;
    *bucket = request;
    request->comm->requests++;
    atomic_fetch_add(&tmpi_requests_live, 1);
    pthread_mutex_unlock(&table_lock);
}

/* May be the end of its communicator. */
static void strike(struct tmpi_request *request)
{
    struct tmpi_comm *comm = request->comm;
    bool last = false;

    pthread_mutex_lock(&table_lock);
    for (struct tmpi_request **link = bucket_of(request->handle); *link; link = &(*link)->hash_next)
        if (*link == request) {
            *link = request->hash_next;
            last = --comm->requests == 0 && comm->freed;
            atomic_fetch_sub(&tmpi_requests_live, 1);
            break;
        }
    pthread_mutex_unlock(&table_lock);
    if (last)
        tmpi_comm_destroy(comm);
}

struct tmpi_request *tmpi_request_find(MPI_Request handle)
{
    struct tmpi_request *request;

    if (!atomic_load_explicit(&tmpi_requests_live, memory_order_acquire) ||
        handle == MPI_REQUEST_NULL)
        return NULL;
    pthread_mutex_lock(&table_lock);
    for (request = *bucket_of(handle); request && request->handle != handle;)
        request = request->hash_next;
    pthread_mutex_unlock(&table_lock);
    return request;
}

/* ---- on the queue ---- */

static void lock_comm(struct tmpi_comm *comm)
{
    if (tmpi.threads)
        pthread_mutex_lock(&comm->lock);
}

static void unlock_comm(struct tmpi_comm *comm)
{
    if (tmpi.threads)
        pthread_mutex_unlock(&comm->lock);
}

/* What the thread that finds out knows of a failure. comm->lock is held. */
static void note_end(struct tmpi_request *request, thrum_status_t status)
{
    const char *message;

    request->status = status;
    if (status) {
        request->status = tmpi_explain(request->comm, status, &message);
        request->message = strdup(message); /* NULL: the status has a text of its own */
        thrum_plugin_log(THRUM_LOG_INFO, "MPI: %s", message);
    }
    atomic_store_explicit(&request->state, TMPI_ENDED, memory_order_release);
}

/* comm->lock is held. */
static void finish(struct tmpi_request *request)
{
    request->code = tmpi_work_finish(&request->work, !request->status);
    if (request->status)
        request->code = tmpi_code_of(request->status, request->message ? request->message : "");
    free(request->message);
    request->message = NULL;
    atomic_store_explicit(&request->state, TMPI_DONE, memory_order_release);
}

static void issue(struct tmpi_request *request)
{
    const struct thrum_command end = {.opcode = THRUM_CMD_NOP};
    struct tmpi_comm *comm = request->comm;
    thrum_status_t status = tmpi_work_issue(&request->work);

    if (!status) {
        status = thrum_queue_submit(comm->queue, &end, 1, &request->ticket);
        if (!status) {
            request->after = comm->ticket;
            comm->ticket = request->ticket;
            atomic_store_explicit(&request->state, TMPI_ISSUED, memory_order_release);
            comm->issued++;
            return;
        }
    }
    tmpi_tell_others(comm, status);
    note_end(request, status);
}

/* comm->lock is held. tmpi_has_requests looks at it without. */
static void set_first(struct tmpi_comm *comm, struct tmpi_request *request)
{
    __atomic_store_n(&comm->first, request, __ATOMIC_RELEASE);
}

/* Issues what there is room for, in order. What fails leaves the line: its owner may free it. comm->lock is held. */
static void issue_waiting(struct tmpi_comm *comm)
{
    struct tmpi_request *before = NULL, *next;

    for (struct tmpi_request *r = comm->first; r && comm->issued < MOST_ISSUED; r = next) {
        next = r->next;
        if (atomic_load_explicit(&r->state, memory_order_relaxed) == TMPI_WAITING)
            issue(r);
        if (atomic_load_explicit(&r->state, memory_order_relaxed) == TMPI_ISSUED) {
            before = r;
            continue;
        }
        if (before)
            before->next = next;
        else
            set_first(comm, next);
        if (!next)
            comm->last = before;
    }
}

/* Whether the communicator can say why a call failed, as it soon can; at the latest when the queue has nothing left to do. */
static bool knows_cause(const struct tmpi_comm *comm)
{
    thrum_status_t cause;

    return thrum_comm_async_error(comm->thrum, &cause, NULL) || cause ||
           thrum_queue_query(comm->queue) != THRUM_IN_PROGRESS;
}

/* False: it has not ended. A call that failed is followed by the queue as one that did not. comm->lock is held. */
static bool end_issued(struct tmpi_request *request)
{
    struct tmpi_comm *comm = request->comm;
    thrum_status_t status = thrum_queue_query_tickets(comm->queue, request->after, request->ticket);

    if (status == THRUM_IN_PROGRESS || (status && !knows_cause(comm)))
        return false;
    note_end(request, status);
    comm->issued--;
    return true;
}

/* comm->lock is held. */
static void advance(struct tmpi_comm *comm)
{
    for (struct tmpi_request *request; (request = comm->first);) {
        int state = atomic_load_explicit(&request->state, memory_order_relaxed);

        if (state == TMPI_WAITING || (state == TMPI_ISSUED && !end_issued(request)))
            break;
        if (!request->next)
            comm->last = NULL;
        set_first(comm, request->next);
    }
    issue_waiting(comm);
}

/* Calls are issued in order: if any waits the last does. comm->lock is held. */
static bool is_any_waiting(const struct tmpi_comm *comm)
{
    return comm->last &&
           atomic_load_explicit(&comm->last->state, memory_order_relaxed) == TMPI_WAITING;
}

bool tmpi_requests_advance(struct tmpi_comm *comm)
{
    bool waiting;

    lock_comm(comm);
    advance(comm);
    waiting = is_any_waiting(comm);
    unlock_comm(comm);
    return waiting;
}

static void put_in_line(struct tmpi_request *request)
{
    struct tmpi_comm *comm = request->comm;
    thrum_status_t status = tmpi_work_prepare(&request->work, request->numbers);
    bool waiting;

    lock_comm(comm);
    request->next = NULL;
    request->code = MPI_SUCCESS;
    if (status) {
        tmpi_tell_others(comm, status);
        note_end(request, status);
        unlock_comm(comm);
        return;
    }
    atomic_store_explicit(&request->state, TMPI_WAITING, memory_order_release);
    if (comm->last)
        comm->last->next = request;
    else
        set_first(comm, request);
    comm->last = request;
    issue_waiting(comm);
    waiting = is_any_waiting(comm);
    unlock_comm(comm);
    if (TMPI_UNLIKELY(waiting))
        tmpi_issuer_want(comm);
}

static bool is_done(const struct tmpi_request *request)
{
    return atomic_load_explicit(&request->state, memory_order_acquire) == TMPI_DONE;
}

bool tmpi_request_poll(struct tmpi_request *request)
{
    if (!is_done(request)) {
        lock_comm(request->comm);
        advance(request->comm);
        if (atomic_load_explicit(&request->state, memory_order_relaxed) == TMPI_ENDED)
            finish(request);
        unlock_comm(request->comm);
    }
    return is_done(request);
}

void tmpi_request_pause(const struct tmpi_comm *comm, unsigned round)
{
    if (round % ROUNDS_PER_PROGRESS == 0)
        tmpi_progress_mpi();
    if (comm->crowded)
        sched_yield();
}

void tmpi_request_wait(struct tmpi_request *request)
{
    for (unsigned round = 1; !tmpi_request_poll(request); round++)
        tmpi_request_pause(request->comm, round);
}

void tmpi_requests_flush(struct tmpi_comm *comm)
{
    for (unsigned round = 1; tmpi_has_requests(comm) && tmpi_requests_advance(comm); round++)
        tmpi_request_pause(comm, round);
}

/* ---- life ---- */

static int query(void *argument, MPI_Status *status)
{
    const struct tmpi_request *request = argument;

    status->MPI_SOURCE = MPI_UNDEFINED;
    status->MPI_TAG = MPI_UNDEFINED;
    status->MPI_ERROR = request->code;
    (void)PMPI_Status_set_elements(status, MPI_BYTE, 0);
    (void)PMPI_Status_set_cancelled(status, 0);
    return request->code;
}

static int release(void *argument)
{
    free(argument);
    return MPI_SUCCESS;
}

/* MPI does not let collectives be cancelled. */
static int cancel(void *argument, int complete)
{
    (void)argument, (void)complete;
    return MPI_SUCCESS;
}

static bool keep_handles(struct tmpi_work *work)
{
    bool is_moved = work->taken.is_moved;

    work->told_type = work->call.sendtype;
    if (is_moved && !tmpi_op_keep(work->call.op))
        return false;
    if (tmpi_type_keep(work->taken.sendtype, is_moved, &work->call.sendtype)) {
        if (tmpi_type_keep(work->taken.recvtype, false, &work->call.recvtype))
            return true;
        tmpi_type_release(work->taken.sendtype, is_moved, &work->call.sendtype);
    }
    if (is_moved)
        tmpi_op_release(work->call.op);
    return false;
}

static void release_handles(struct tmpi_work *work)
{
    tmpi_type_release(work->taken.sendtype, work->taken.is_moved, &work->call.sendtype);
    tmpi_type_release(work->taken.recvtype, false, &work->call.recvtype);
    if (work->taken.is_moved)
        tmpi_op_release(work->call.op);
}

/* With what the call needs until it has ended, whatever becomes of the caller's. NULL: no memory; has been raised. */
static struct tmpi_request *create(const struct tmpi_call *call, const struct tmpi_taken *taken,
                                   int *code_out)
{
    struct tmpi_request *request = calloc(1, sizeof *request);
    size_t n;

    if (request) {
        request->comm = taken->comm;
        request->work.call = *call;
        request->work.taken = *taken;
        n = tmpi_work_numbers(&request->work);
        request->numbers = n ? malloc(n * sizeof *request->numbers) : NULL;
        if ((!n || request->numbers) && keep_handles(&request->work))
            return request;
        free(request->numbers);
        free(request);
    }
    *code_out = tmpi_raise(call->comm, THRUM_ERR_NO_MEMORY, "no host memory for a request");
    return NULL;
}

/* All but the request itself. */
static void let_go(struct tmpi_request *request)
{
    release_handles(&request->work);
    free(request->numbers);
    free(request->arrays);
}

int tmpi_request_begin(const struct tmpi_call *call, const struct tmpi_taken *taken,
                       MPI_Request *request_out)
{
    int code;
    struct tmpi_request *request = create(call, taken, &code);

    if (!request)
        return code;
    code = PMPI_Grequest_start(query, release, cancel, request, &request->handle);
    if (code) {
        let_go(request);
        free(request);
        return code;
    }
    enter(request);
    put_in_line(request);
    *request_out = request->handle;
    return MPI_SUCCESS;
}

int tmpi_request_tell(struct tmpi_request *request)
{
    int code = request->code;

    if (request->is_persistent) {
        atomic_store_explicit(&request->state, TMPI_IDLE, memory_order_release);
    } else {
        strike(request);
        let_go(request);
        (void)PMPI_Grequest_complete(request->handle); /* `request` goes with the handle */
    }
    return code;
}

/* ---- persistent ---- */

/* The caller may reuse its arrays. */
static bool keep_arrays(struct tmpi_request *request)
{
    struct tmpi_call *call = &request->work.call;
    const int **arrays[] = {&call->sendcounts, &call->sdispls, &call->recvcounts, &call->rdispls};
    size_t n = (size_t)request->comm->size;

    request->arrays = malloc(4 * n * sizeof *request->arrays);
    if (!request->arrays)
        return false;
    for (size_t i = 0; i < 4; i++)
        if (*arrays[i]) {
            memcpy(request->arrays + i * n, *arrays[i], n * sizeof(int));
            *arrays[i] = request->arrays + i * n;
        }
    return true;
}

int tmpi_request_init(const struct tmpi_call *call, const struct tmpi_taken *taken, MPI_Info info,
                      MPI_Request *request_out)
{
    const struct tmpi_call barrier = {.function = TMPI_BARRIER, .comm = call->comm};
    int code;
    struct tmpi_request *request = create(call, taken, &code);

    if (!request)
        return code;
    request->is_persistent = true;
    if (!keep_arrays(request)) {
        let_go(request);
        free(request);
        return tmpi_raise(call->comm, THRUM_ERR_NO_MEMORY, "no host memory for a request");
    }
    code = tmpi_fall_persistent(&barrier, info, &request->handle);
    if (code) {
        let_go(request);
        free(request);
        return code;
    }
    enter(request);
    *request_out = request->handle;
    return MPI_SUCCESS;
}

thrum_status_t tmpi_request_start(struct tmpi_request *request)
{
    if (atomic_load_explicit(&request->state, memory_order_acquire) != TMPI_IDLE)
        return THRUM_ERR_INVALID_USAGE;
    put_in_line(request);
    return THRUM_OK;
}

void tmpi_request_destroy(struct tmpi_request *request)
{
    strike(request);
    let_go(request);
    free(request);
}

MPI_Comm tmpi_request_blames(const struct tmpi_request *request)
{
    return request->comm->handle != MPI_COMM_NULL ? request->comm->handle : MPI_COMM_WORLD;
}

bool tmpi_requests_leave(struct tmpi_comm *comm)
{
    bool none;

    pthread_mutex_lock(&table_lock);
    comm->freed = true;
    none = !comm->requests;
    pthread_mutex_unlock(&table_lock);
    return none;
}

void tmpi_requests_drop(struct tmpi_comm *comm)
{
    tmpi_issuer_forget(comm);
    pthread_mutex_lock(&table_lock);
    for (size_t i = 0; i < BUCKETS && comm->requests; i++) /* the program has left some */
        for (struct tmpi_request **link = &table[i]; *link;)
            if ((*link)->comm == comm) {
                *link = (*link)->hash_next;
                comm->requests--;
                atomic_fetch_sub(&tmpi_requests_live, 1);
            } else {
                link = &(*link)->hash_next;
            }
    pthread_mutex_unlock(&table_lock);
}
