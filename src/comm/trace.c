/* Recording of operations: see trace.h. */
#include "comm/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EARLY_NS 1000000000 /* what takes so long is told before it ends, if it ever does */

void comm_trace_call(struct trace_operation *operation, const struct call_record *call)
{
    enum collective collective = (enum collective)call->collective;

    snprintf(operation->what, sizeof operation->what, "%s%s", collective_name(collective),
             call->detail ? "v" : "");
    operation->sequence = call->sequence;
    operation->count = call->count;
    operation->dtype = call->dtype;
    operation->redop = call->redop;
    operation->root = plan_has_root(collective) ? call->root : -1;
    operation->peer = -1;
}

/* ---- the user's thread, and queues ---- */

struct comm_record_of_time *comm_trace_next(struct thrum_comm *comm)
{
    struct comm_trace *trace = atomic_load_explicit(&comm->trace, memory_order_relaxed);
    uint64_t added = atomic_load_explicit(&trace->added, memory_order_relaxed);
    struct comm_record_of_time *record = &trace->records[added % COMM_TRACE_RECORDS];

    if (added - atomic_load_explicit(&trace->freed, memory_order_acquire) == COMM_TRACE_RECORDS) {
        atomic_fetch_add_explicit(&trace->lost, 1, memory_order_relaxed);
        return NULL;
    }
    memset(&record->operation, 0, sizeof record->operation);
    record->operation.comm = trace->number;
    atomic_store_explicit(&record->begun_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&record->ended_ns, 0, memory_order_relaxed);
    return record;
}

void comm_trace_add(struct thrum_comm *comm)
{
    struct comm_trace *trace = atomic_load_explicit(&comm->trace, memory_order_relaxed);

    atomic_fetch_add_explicit(&trace->added, 1, memory_order_release);
}

thrum_status_t comm_trace_begun(void *argument)
{
    struct comm_record_of_time *record = argument;

    atomic_store_explicit(&record->begun_ns, now_ns(), memory_order_relaxed);
    return THRUM_OK;
}

thrum_status_t comm_trace_ended(void *argument)
{
    struct comm_record_of_time *record = argument;

    atomic_store_explicit(&record->ended_ns, now_ns(), memory_order_release);
    return THRUM_OK;
}

/* ---- the control plane's thread ---- */

static void announce(const struct thrum_comm *comm, const struct comm_trace *trace)
{
    struct trace_comm frame = {
        .id = comm->id, .rank = comm->rank, .nranks = comm->nranks, .number = trace->number};

    snprintf(frame.name, sizeof frame.name, "%s", comm->name);
    control_trace(TRACE_COMM, &frame, sizeof frame);
}

/* What was left when recording ended is nobody's any more. */
static void drop_ended(struct comm_trace *trace)
{
    uint64_t added = atomic_load_explicit(&trace->added, memory_order_acquire);
    uint64_t freed = atomic_load_explicit(&trace->freed, memory_order_relaxed);

    while (freed < added &&
           atomic_load_explicit(&trace->records[freed % COMM_TRACE_RECORDS].ended_ns,
                                memory_order_acquire))
        freed++;
    atomic_store_explicit(&trace->freed, freed, memory_order_release);
    trace->told_lost = atomic_load_explicit(&trace->lost, memory_order_relaxed);
}

/* The communicator's records, made when first wanted; NULL: no memory. */
static struct comm_trace *begin(struct thrum_comm *comm)
{
    static uint32_t numbers; /* this thread's: there is one at a time */
    struct comm_trace *trace = atomic_load_explicit(&comm->trace, memory_order_relaxed);

    if (!trace) {
        trace = calloc(1, sizeof *trace);
        if (!trace)
            return NULL;
        trace->number = ++numbers;
        atomic_store_explicit(&comm->trace, trace, memory_order_relaxed);
    }
    if (!comm_is_traced(comm))
        drop_ended(trace);
    atomic_store_explicit(&comm->is_traced, true, memory_order_release); /* comm_is_traced */
    return trace;
}

static void tell(const struct comm_record_of_time *record)
{
    struct trace_operation operation = record->operation;

    operation.ended_ns = atomic_load_explicit(&record->ended_ns, memory_order_acquire);
    operation.begun_ns = atomic_load_explicit(&record->begun_ns, memory_order_relaxed);
    control_trace(TRACE_OPERATION, &operation, sizeof operation);
}

static void tell_pending(const struct comm_trace *trace)
{
    uint64_t added = atomic_load_explicit(&trace->added, memory_order_acquire);
    uint64_t freed = atomic_load_explicit(&trace->freed, memory_order_relaxed);

    for (; freed < added; freed++)
        tell(&trace->records[freed % COMM_TRACE_RECORDS]);
}

/* And that this is all. */
static void tell_time(const struct comm_trace *trace, int64_t now)
{
    struct trace_time time = {.comm = trace->number, .monotonic_ns = now};

    tell_pending(trace);
    control_trace(TRACE_TIME, &time, sizeof time);
}

/*
 * A process may be killed while it waits: so that a file has what for, and since when. The record `number` is the oldest that
 * has not ended; 0: there is none.
 */
static void tell_early(const struct thrum_comm *comm, struct comm_trace *trace, uint64_t number)
{
    const struct comm_record_of_time *record = &trace->records[(number - 1) % COMM_TRACE_RECORDS];
    int64_t begun, now = now_ns(), due = EARLY_NS;

    if (trace->told_failed)
        return;
    if (atomic_load_explicit(&comm->status, memory_order_relaxed)) {
        tell_time(trace, now);
        trace->told_failed = true;
        return;
    }
    begun = number ? atomic_load_explicit(&record->begun_ns, memory_order_relaxed) : 0;
    if (trace->told_early == number)
        due = 2 * trace->early_ns;
    if (!begun || !record->operation.sequence || now - begun < due)
        return;
    tell_time(trace, now);
    trace->told_early = number;
    trace->early_ns = now - begun;
}

static void tell_ended(const struct thrum_comm *comm, struct comm_trace *trace)
{
    uint64_t added = atomic_load_explicit(&trace->added, memory_order_acquire);
    uint64_t freed = atomic_load_explicit(&trace->freed, memory_order_relaxed);
    uint64_t lost = atomic_load_explicit(&trace->lost, memory_order_relaxed);

    for (; freed < added; freed++) {
        const struct comm_record_of_time *record = &trace->records[freed % COMM_TRACE_RECORDS];

        if (!atomic_load_explicit(&record->ended_ns, memory_order_acquire))
            break;
        tell(record);
        atomic_store_explicit(&trace->freed, freed + 1, memory_order_release);
    }
    tell_early(comm, trace, freed < added ? freed + 1 : 0);
    if (lost != trace->told_lost) {
        struct trace_lost frame = {.comm = trace->number, .operations = lost - trace->told_lost};

        control_trace(TRACE_LOST, &frame, sizeof frame);
        trace->told_lost = lost;
    }
}

/* A collective that was called before recording began: what is known of it. */
static void tell_older(struct thrum_comm *comm, const struct comm_trace *trace)
{
    uint64_t added = atomic_load_explicit(&trace->added, memory_order_acquire);
    uint64_t freed = atomic_load_explicit(&trace->freed, memory_order_relaxed);
    struct trace_operation operation = {.comm = trace->number};
    struct comm_pending oldest;

    if (!comm_oldest_pending(comm, &oldest) || !oldest.operation.call.sequence)
        return;
    for (; freed < added; freed++) {
        uint64_t sequence = trace->records[freed % COMM_TRACE_RECORDS].operation.sequence;

        if (sequence && sequence <= oldest.operation.call.sequence)
            return;
    }
    comm_trace_call(&operation, &oldest.operation.call);
    operation.queue = (uint64_t)(uintptr_t)oldest.operation.queue;
    operation.called_ns = operation.begun_ns =
        comm->stalled_number == oldest.operation.number ? comm->stalled_since_ns : now_ns();
    control_trace(TRACE_OPERATION, &operation, sizeof operation);
}

void comm_on_trace(void *argument, enum control_trace what)
{
    struct thrum_comm *comm = argument;
    struct comm_trace *trace = atomic_load_explicit(&comm->trace, memory_order_relaxed);

    if (what == CONTROL_TRACE_ANNOUNCE || (what == CONTROL_TRACE_ENDED && !comm_is_traced(comm))) {
        trace = begin(comm);
        if (trace)
            announce(comm, trace);
    }
    if (!trace)
        return;
    if (what == CONTROL_TRACE_ENDED)
        tell_ended(comm, trace);
    if (what == CONTROL_TRACE_PENDING) {
        tell_older(comm, trace);
        tell_pending(trace);
    }
    if (what == CONTROL_TRACE_OFF)
        atomic_store_explicit(&comm->is_traced, false, memory_order_relaxed);
}
