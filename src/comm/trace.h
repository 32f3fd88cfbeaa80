/*
 * Recording of operations, see trace_format.h. The user's thread adds a record for each operation that it issues, two callbacks
 * on its queue fill in when it began and ended, and the control plane's thread tells of it and frees the place.
 */
#ifndef COMM_TRACE_H
#define COMM_TRACE_H

#include "comm/comm.h"
#include "base/trace_format.h"

#define COMM_TRACE_RECORDS 8192 /* a power of two */

struct comm_record_of_time {
    struct trace_operation operation; /* but for its two last times; user, until it is added */
    _Atomic int64_t begun_ns, ended_ns;
};

struct comm_trace {
    uint32_t number; /* fixed: trace_comm.number */
    _Atomic uint64_t added; /* user: records so far */
    _Atomic uint64_t lost; /* user: operations for which there was no place */
    _Atomic uint64_t freed; /* control: places of the first so many are free again */
    uint64_t told_lost; /* control */
    uint64_t
        told_early; /* control: the record with this number was told before it ended; the first has 1 */
    int64_t early_ns; /* control: and had taken so long */
    bool told_failed; /* control: what was pending when the communicator failed was told */
    struct comm_record_of_time records[COMM_TRACE_RECORDS];
};

/* False but for operations that are to be recorded; then there is a place for records (comm_on_trace). user. */
static inline bool comm_is_traced(const struct thrum_comm *comm)
{
    return atomic_load_explicit(&comm->is_traced, memory_order_acquire);
}

/* That records take. Any thread. */
static inline uint64_t comm_trace_bytes(struct thrum_comm *comm)
{
    return atomic_load_explicit(&comm->trace, memory_order_relaxed) ? sizeof(struct comm_trace) : 0;
}

/* Of a collective: what the call says of it. */
void comm_trace_call(struct trace_operation *operation, const struct call_record *call);

/* The next free place, empty; NULL: there is none, which is noted. user. */
struct comm_record_of_time *comm_trace_next(struct thrum_comm *comm);
/* It was filled, and its operation submitted. user. */
void comm_trace_add(struct thrum_comm *comm);
/* Callbacks of a queue (THRUM_CMD_CALLBACK); the argument is the place. */
thrum_status_t comm_trace_begun(void *argument);
thrum_status_t comm_trace_ended(void *argument);

/* `trace` of the control plane's callbacks. */
void comm_on_trace(void *argument, enum control_trace what);

#endif
