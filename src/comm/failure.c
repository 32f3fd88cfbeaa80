/*
 * How a communicator fails: deadlines, deaths, device faults; what ranks say of their calls is looked at in
 * disagreement.c. Runs mostly on the control plane's thread, by comm_control_callbacks; comm_fail may come from any thread.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "comm/trace.h"
#include "exec/exec.h"

#define BROKEN_NS 100000000 /* after which connections are looked at */
#define QUERY_INTERVAL_NS 1000000000
#define FIRST_QUERY_NS 250000000 /* after so long a stall the others are asked what they do */

thrum_status_t comm_failure(struct thrum_comm *comm)
{
    thrum_status_t status =
        (thrum_status_t)atomic_load_explicit(&comm->status, memory_order_acquire);

    return status ? thrum_set_last_error(status, comm->message) : THRUM_OK;
}

/* ---- operations in flight ---- */

void comm_free_operation(struct comm_operation *operation)
{
    if (!operation->has_more)
        return;
    free(operation->host_memory);
    if (operation->messages != operation->few)
        free(operation->messages);
    operation->host_memory = NULL;
    operation->messages = NULL;
    operation->nmessages = 0;
}

bool comm_grow_operations(struct thrum_comm *comm)
{
    uint64_t old = comm->operations_mask + 1, n = 2 * old;
    struct comm_operation *operations;

    if (n > COMM_IN_FLIGHT_MOST)
        return false;
    operations = calloc(n, sizeof *operations);
    if (!operations)
        return false;
    pthread_mutex_lock(&comm->retire_lock);
    for (uint64_t number = atomic_load_explicit(&comm->retired_number, memory_order_relaxed) + 1;
         number <= atomic_load_explicit(&comm->issued, memory_order_relaxed); number++) {
        struct comm_operation *from = comm_operation_at(comm, number);
        struct comm_operation *to = &operations[number & (n - 1)];

        *to = *from;
        if (from->messages == from->few)
            to->messages = to->few;
    }
    free(comm->operations);
    comm->operations = operations;
    comm->operations_mask = n - 1;
    pthread_mutex_unlock(&comm->retire_lock);
    return true;
}

void comm_retire(struct thrum_comm *comm)
{
    uint64_t done, number, issued;

    pthread_mutex_lock(&comm->retire_lock);
    /* The device may be done with an operation that the user is still writing down; its record ends with `issued`. */
    issued = atomic_load_explicit(&comm->issued, memory_order_acquire);
    done = min_u64(comm_done(comm), issued);
    number = atomic_load_explicit(&comm->retired_number, memory_order_relaxed);
    for (; number < done; number++) {
        struct comm_operation *operation = comm_operation_at(comm, number + 1);
        comm_free_operation(operation);
    }
    atomic_store_explicit(&comm->retired_number, number, memory_order_release);
    pthread_mutex_unlock(&comm->retire_lock);
}

/* Ends a lane of an operation; its queue hears of the failure once, so that it can be used again after that. */
static void cancel_lane(struct thrum_comm *comm, struct comm_operation *operation, int lane,
                        struct thrum_queue *queue, uint64_t ticket)
{
    thrum_status_t status = (thrum_status_t)atomic_load(&comm->status);

    if (!(operation->told & 1u << lane))
        queue_fail(queue, status, comm->message);
    operation->told |= 1u << lane;
    comm->ops->cancel(queue->impl, ticket, ticket, status);
}

void comm_cancel_all(struct thrum_comm *comm)
{
    uint64_t issued = atomic_load_explicit(&comm->issued, memory_order_acquire);

    pthread_mutex_lock(&comm->retire_lock);
    for (uint64_t number = atomic_load(&comm->retired_number) + 1; number <= issued; number++) {
        struct comm_operation *operation = comm_operation_at(comm, number);

        if (number <= comm_done(comm))
            continue;
        cancel_lane(comm, operation, 0, operation->queue, operation->ticket);
        for (int lane = 1; lane < PLAN_MAX_LANES; lane++)
            if (operation->lane_queue[lane])
                cancel_lane(comm, operation, lane, operation->lane_queue[lane],
                            operation->lane_ticket[lane]);
        for (int i = 0; i < PLAN_MAX_LANES; i++)
            if (operation->join_queue[i])
                comm->ops->cancel(operation->join_queue[i]->impl, operation->join_ticket[i],
                                  operation->join_ticket[i],
                                  (thrum_status_t)atomic_load(&comm->status));
    }
    pthread_mutex_unlock(&comm->retire_lock);
}

/* So that the one who looks into it need not ask the launcher who that rank is. Who is told has it in the message. */
static void add_whereabouts(struct thrum_comm *comm, int culprit)
{
    const struct comm_process *process;
    char text[sizeof process->host + 64];
    size_t used;

    if (culprit < 0 || culprit >= comm->nranks || comm->nranks == 1)
        return;
    process = &comm->peers[culprit].process;
    snprintf(text, sizeof text, "; rank %d is process %d on %s", culprit, (int)process->pid,
             process->host);
    used = strlen(comm->message);
    if (!strstr(comm->message, text))
        snprintf(comm->message + used, sizeof comm->message - used, "%s", text);
}

void comm_fail(struct thrum_comm *comm, thrum_status_t status, int culprit, bool tell,
               const char *message)
{
    bool expected = false;

    if (!atomic_compare_exchange_strong(&comm->failing, &expected, true))
        return;
    comm->culprit = culprit;
    snprintf(comm->message, sizeof comm->message, "%s", message);
    add_whereabouts(comm, culprit);
    atomic_store(&comm->status, (int)status);
    thrum_log(LOG_INFO, "%s: %s (%s)", comm->name, comm->message, thrum_status_name(status));
    comm_cancel_all(comm);
    if (tell && comm->control)
        control_fail(comm->control, status, culprit, comm->message);
}

/* State of the oldest operation that has not ended: OK while it is just pending. */
static thrum_status_t poll_operation(struct thrum_comm *comm, struct comm_operation *operation)
{
    thrum_status_t status = comm->ops->poll(operation->queue->impl, operation->ticket);

    for (int lane = 1; lane < PLAN_MAX_LANES && status >= 0; lane++)
        if (operation->lane_queue[lane])
            status =
                comm->ops->poll(operation->lane_queue[lane]->impl, operation->lane_ticket[lane]);
    return status < 0 ? status : THRUM_OK;
}

bool comm_owes_cause(struct thrum_comm *comm, const struct thrum_queue *queue)
{
    uint64_t issued, done;
    bool owes = false;

    if (atomic_load(&comm->status)) {
        /* Who failed the communicator may not have told the queue yet; it must not come after this synchronize. */
        comm_cancel_all(comm);
        return false;
    }
    pthread_mutex_lock(&comm->retire_lock);
    issued = atomic_load_explicit(&comm->issued, memory_order_acquire);
    done = comm_done(comm);
    for (uint64_t number = done + 1; number <= issued && !owes; number++) {
        struct comm_operation *operation = comm_operation_at(comm, number);
        /* only of what has ended: else poll would execute, under our locks, callbacks of the user too */
        owes = operation->queue == queue &&
               operation->ticket <= atomic_load(&operation->queue->ended_ticket) &&
               comm->ops->poll(operation->queue->impl, operation->ticket) < 0;
    }
    pthread_mutex_unlock(&comm->retire_lock);
    return owes;
}

/* ---- callbacks ---- */

static void on_failed(void *argument, thrum_status_t status, int rank, const char *message)
{
    struct thrum_comm *comm = argument;
    char text[COMM_MESSAGE_BYTES];
    bool is_told = message && (strstr(message, "has died") || strstr(message, "has left"));

    if (status == THRUM_ERR_PEER_DEAD && !is_told && rank != comm->rank) {
        snprintf(text, sizeof text, "%s: rank %d has died%s%s", comm->name, rank,
                 message && *message ? ": " : "", message ? message : "");
        message = text;
    } else if (status == THRUM_ERR_PEER_DEAD && message && !strncmp(message, "rank ", 5)) {
        snprintf(text, sizeof text, "%s: %s", comm->name, message);
        message = text; /* what other ranks have found out has the communicator's name */
    }
    comm_fail(comm, status, rank, false, message);
}

/* Who or what a one-sided operation waits for. */
static const char *missing_of_pair(const struct call_record *call, char *text, size_t bytes)
{
    snprintf(text, bytes,
             call->state == EXEC_WAIT_SIGNAL ? "rank %d has not sent so many"
                                             : "rank %d cannot be reached",
             call->root);
    return text;
}

static void fail_deadline(struct thrum_comm *comm, const struct comm_pending *pending)
{
    const struct call_record *record = &pending->operation.call;
    char call[160], missing[80], message[COMM_MESSAGE_BYTES];
    bool messages = !record->sequence && record->state == EXEC_MESSAGES;
    bool one_sided = !record->sequence && !messages;

    comm_describe_call(record, call, sizeof call);
    snprintf(message, sizeof message, "%s: %s on rank %d has not ended within %lld ms: %s",
             comm->name, call, comm->rank, (long long)(comm->deadline_ns / 1000000),
             *comm->laggards    ? comm->laggards
             : record->sequence ? "every rank has called it"
             : messages         ? pending->detail
                                : missing_of_pair(record, missing, sizeof missing));
    comm_fail(comm, THRUM_ERR_TIMEOUT,
              one_sided  ? record->root
              : messages ? pending->awaited
                         : comm->first_laggard,
              true, message);
}

/* The peer whose memory is there, as wide as this device's; -1: none. */
static int owner_of(const struct thrum_comm *comm, uint64_t address)
{
    for (int r = 0; r < comm->nranks; r++)
        if (r != comm->rank && comm->peers[r].loads &&
            __atomic_load_n(&comm->peers[r].reachable, __ATOMIC_ACQUIRE) &&
            address - comm->peers[r].window_base < comm->device->properties.memory_bytes)
            return r;
    return -1;
}

/* The device's first fault, where it is of this operation's queue, in words; and in whose memory it was. */
static void describe_fault(struct thrum_comm *comm, const struct comm_operation *operation,
                           char *text, size_t bytes, int *faulted_out)
{
    struct thrum_ras_event fault;
    char whose[64] = "";

    if (comm->ops->fault_info(comm->device->impl, &fault) ||
        fault.queue_id != comm->ops->queue_id(operation->queue->impl))
        return;
    *faulted_out = fault.kind == THRUM_RAS_PAGE_FAULT ? owner_of(comm, fault.address) : -1;
    if (*faulted_out >= 0)
        snprintf(whose, sizeof whose, ", memory of rank %d that is gone", *faulted_out);
    snprintf(text, bytes, "%s at 0x%llx%s", thrum_ras_kind_name(fault.kind),
             (unsigned long long)fault.address, whose);
}

/* The first connection that broke, of all or to `only`: to whom, and what the fabric says. THRUM_OK: none has. */
static thrum_status_t broken_connection(const struct thrum_comm *comm, int only, int *rank_out,
                                        const char **message_out)
{
    for (int r = 0; r < comm->nranks && comm->endpoint; r++) {
        void *peer = only < 0 || r == only
                         ? __atomic_load_n(&comm->peers[r].fabric_peer, __ATOMIC_ACQUIRE)
                         : NULL;
        thrum_status_t status = peer ? comm->fabric->peer_error(peer, message_out) : THRUM_OK;

        *rank_out = r;
        if (status)
            return status;
    }
    return THRUM_OK;
}

static void describe_connection(const struct thrum_comm *comm, char *text, size_t bytes)
{
    const char *why = "";
    int rank = 0;

    if (broken_connection(comm, -1, &rank, &why))
        snprintf(text, bytes, "rank %d: %s", rank, why);
}

int comm_awaited(const struct comm_pending *pending)
{
    const struct call_record *record = &pending->operation.call;

    if (record->sequence)
        return -1;
    return record->state == EXEC_MESSAGES ? pending->awaited : record->root;
}

/* A rank that waits for data puts nothing, so nobody tells it that its peer cannot be reached any more. */
static bool fail_broken(struct thrum_comm *comm, const struct comm_pending *pending)
{
    char call[160], message[COMM_MESSAGE_BYTES];
    const char *why = "";
    int rank = 0;
    thrum_status_t status = broken_connection(comm, comm_awaited(pending), &rank, &why);

    if (!status)
        return false;
    comm_describe_call(&pending->operation.call, call, sizeof call);
    snprintf(message, sizeof message, "%s: %s: rank %d cannot reach rank %d: %s", comm->name, call,
             comm->rank, rank, why);
    comm_fail(comm, status, rank, true, message);
    return true;
}

/* Asks the ranks what they called; the answer comes by comm_on_records. At most once in `interval_ns`. */
static void ask(struct thrum_comm *comm, uint64_t sequence, int64_t now, int64_t interval_ns)
{
    if (!sequence || now - comm->queried_at_ns <= interval_ns)
        return;
    comm->queried_at_ns = now;
    control_query(comm->control, sequence);
}

/* A submission ended with an error: fault, reset, or a line with another signature. */
static void operation_failed(struct thrum_comm *comm, const struct comm_pending *pending,
                             int64_t now)
{
    const struct call_record *record = &pending->operation.call;
    char call[160], message[COMM_MESSAGE_BYTES];

    comm_describe_call(record, call, sizeof call);
    /* who called something else, or has left and freed what this rank reaches for */
    if ((pending->status == THRUM_ERR_MISMATCH || pending->faulted >= 0) && record->sequence) {
        if (!comm->failed_since_ns)
            comm->failed_since_ns = now;
        ask(comm, record->sequence, now, QUERY_INTERVAL_NS / 4);
        if (now - comm->failed_since_ns < QUERY_INTERVAL_NS)
            return;
    }
    if (pending->status == THRUM_ERR_MISMATCH && *pending->detail)
        snprintf(message, sizeof message, "%s: ranks disagree: %s", comm->name, pending->detail);
    else if (pending->status == THRUM_ERR_MISMATCH)
        snprintf(message, sizeof message, "%s: rank %d in %s met a peer that does something else",
                 comm->name, comm->rank, call);
    else
        snprintf(message, sizeof message, "%s: %s failed on rank %d: %s%s%s", comm->name, call,
                 comm->rank, thrum_status_string(pending->status), *pending->detail ? ": " : "",
                 pending->detail);
    comm_fail(comm, pending->status, pending->faulted >= 0 ? pending->faulted : comm->rank, true,
              message);
}

/* Holds or releases the queues of an operation. */
static void hold_queues(struct comm_operation *operation, void (*hold)(struct thrum_queue *))
{
    hold(operation->queue);
    for (int lane = 1; lane < PLAN_MAX_LANES; lane++)
        if (operation->lane_queue[lane])
            hold(operation->lane_queue[lane]);
}

/* False if nothing is pending. Under retire_lock the user cannot reuse the operation's slot. */
static bool copy_oldest(struct thrum_comm *comm, struct comm_operation *out)
{
    bool pending;
    uint64_t done;

    pthread_mutex_lock(&comm->retire_lock);
    done = comm_done(comm);
    pending = done < atomic_load_explicit(&comm->issued, memory_order_acquire);
    if (pending) {
        *out = *comm_operation_at(comm, done + 1);
        hold_queues(out, queue_hold);
    }
    pthread_mutex_unlock(&comm->retire_lock);
    return pending;
}

/* Under retire_lock. */
static void look_at_messages(struct thrum_comm *comm, struct comm_pending *pending)
{
    const struct comm_operation *operation = &pending->operation;

    if (pending->status && pending->status != THRUM_ERR_MISMATCH)
        return;
    comm_describe_mismatch(comm, operation, pending->detail, sizeof pending->detail);
    if (*pending->detail)
        pending->status = THRUM_ERR_MISMATCH;
    if (pending->status)
        return;
    pending->awaited =
        comm_describe_unmet(comm, operation, pending->detail, sizeof pending->detail);
    pending->question = comm_message_question(comm, operation);
}

bool comm_oldest_pending(struct thrum_comm *comm, struct comm_pending *out)
{
    bool pending;

    if (!copy_oldest(comm, &out->operation))
        return false;
    /* without locks: it may execute callbacks of the user, who may call abort and the queries in them */
    out->status = poll_operation(comm, &out->operation);
    out->detail[0] = 0;
    out->awaited = out->faulted = -1;
    out->question = out->operation.call.sequence;
    if (out->status == THRUM_ERR_FAULT || out->status == THRUM_ERR_BAD_PACKET)
        describe_fault(comm, &out->operation, out->detail, sizeof out->detail, &out->faulted);
    else if (out->status == THRUM_ERR_UNREACHABLE || out->status == THRUM_ERR_PEER_DEAD)
        describe_connection(comm, out->detail, sizeof out->detail);
    hold_queues(&out->operation, queue_release);
    pthread_mutex_lock(&comm->retire_lock);
    pending = comm_done(comm) < out->operation.number;
    if (pending && out->operation.nmessages) {
        out->operation.messages = comm_operation_at(comm, out->operation.number)->messages;
        look_at_messages(comm, out);
    }
    /* the device goes on meanwhile: lines that were looked at may already be those of later messages */
    pending = pending && comm_done(comm) < out->operation.number;
    pthread_mutex_unlock(&comm->retire_lock);
    return pending;
}

static void on_tick(void *argument, int64_t now)
{
    struct thrum_comm *comm = argument;
    struct comm_pending oldest;
    int64_t stalled, ask_after;

    comm_retire(comm);
    if (atomic_load(&comm->status)) {
        comm_cancel_all(comm);
        return;
    }
    if (!comm_oldest_pending(comm, &oldest)) {
        comm->stalled_number = 0;
        return;
    }
    if (comm->stalled_number != oldest.operation.number) {
        comm->stalled_number = oldest.operation.number;
        comm->stalled_since_ns = now;
        comm->laggards[0] = 0;
        comm->first_laggard = -1;
    }
    if (oldest.status) {
        operation_failed(comm, &oldest, now);
        return;
    }
    stalled = now - comm->stalled_since_ns;
    if (stalled > BROKEN_NS && fail_broken(comm, &oldest))
        return;
    ask_after = (int64_t)min_u64((uint64_t)comm->deadline_ns / 3, FIRST_QUERY_NS);
    if (stalled > comm->deadline_ns)
        fail_deadline(comm, &oldest);
    else if (stalled > ask_after)
        ask(comm, oldest.question, now, QUERY_INTERVAL_NS);
}

const struct control_callbacks comm_control_callbacks = {
    .failed = on_failed,
    .tick = on_tick,
    .record = comm_on_record,
    .records = comm_on_records,
    .question = comm_question,
    .describe = comm_describe,
    .trace = comm_on_trace,
};
