/*
 * What a communicator tells thrum-ras: its pending operation, and what each rank has called. Callbacks of the control plane,
 * on its thread.
 */
#include "comm/comm.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "base/base.h"

/* The oldest collective that has not ended; CONTROL_NEWEST: there is none. */
uint64_t comm_question(void *argument)
{
    struct thrum_comm *comm = argument;
    uint64_t done, sequence = 0;

    pthread_mutex_lock(&comm->retire_lock);
    done = comm_done(comm);
    if (done < atomic_load_explicit(&comm->issued, memory_order_acquire))
        sequence = comm_operation_at(comm, done + 1)->call.sequence;
    pthread_mutex_unlock(&comm->retire_lock);
    return sequence ? sequence : CONTROL_NEWEST;
}

static const char *state_name(uint64_t sequence, const struct call_record *record)
{
    switch (record->state) {
    case COMM_RECORD_PENDING:
    case COMM_RECORD_DONE:
        return "called";
    case COMM_RECORD_LEFT:
        return "left";
    case COMM_RECORD_NO_ANSWER:
        return "no answer";
    default:
        return sequence == CONTROL_NEWEST ? "idle" : "not called";
    }
}

/* What is no UTF-8, as a name that was cut, with ? for all that is not ASCII: JSON has no room for it. */
static json_t *text_of(const char *text)
{
    json_t *json = json_string(text);
    char plain[COMM_MESSAGE_BYTES];

    if (json)
        return json;
    snprintf(plain, sizeof plain, "%s", text);
    for (char *c = plain; *c; c++)
        if (*c & 0x80)
            *c = '?';
    return json_string(plain);
}

/* One object for each rank; an empty array where they could not be asked. */
static json_t *describe_ranks(const struct thrum_comm *comm, uint64_t sequence,
                              const struct call_record *records)
{
    json_t *list = json_array();

    for (int r = 0; r < comm->nranks && records; r++) {
        const struct comm_process *process = &comm->peers[r].process;
        const struct call_record *record = &records[r];
        json_t *rank = json_pack("{s:i, s:o, s:i, s:s}", "rank", r, "host", text_of(process->host),
                                 "pid", (int)process->pid, "state", state_name(sequence, record));

        if (record->state == COMM_RECORD_NO_ANSWER && record->root != r)
            json_object_set_new(rank, "behind", json_integer(record->root));
        else if (record->state != COMM_RECORD_NO_ANSWER)
            json_object_set_new(rank, "calls", json_integer((json_int_t)record->sequence));
        json_array_append_new(list, rank);
    }
    return list;
}

static json_t *describe_pending(struct thrum_comm *comm, int64_t now)
{
    struct comm_pending pending;
    char call[160];
    int64_t since;
    json_t *json;

    if (!comm_oldest_pending(comm, &pending))
        return json_null();
    since = comm->stalled_number == pending.operation.number ? now - comm->stalled_since_ns : 0;
    comm_describe_call(&pending.operation.call, call, sizeof call);
    json = json_pack("{s:s, s:I, s:f}", "call", call, "sequence",
                     (json_int_t)pending.operation.call.sequence, "seconds", (double)since / 1e9);
    if (comm_awaited(&pending) >= 0)
        json_object_set_new(json, "awaits", json_integer(comm_awaited(&pending)));
    if (*pending.detail)
        json_object_set_new(json, "detail", text_of(pending.detail));
    return json;
}

char *comm_describe(void *argument, uint64_t sequence, const struct call_record *records,
                    int64_t now)
{
    struct thrum_comm *comm = argument;
    thrum_status_t status =
        (thrum_status_t)atomic_load_explicit(&comm->status, memory_order_acquire);
    uint64_t issued = atomic_load_explicit(&comm->issued, memory_order_acquire);
    char id[24], *text;
    json_t *json;

    snprintf(id, sizeof id, "%016" PRIx64, comm->id);
    json = json_pack("{s:o, s:s, s:i, s:i, s:s, s:o, s:I, s:f, s:o, s:o}", "name",
                     text_of(comm->name), "id", id, "rank", comm->rank, "size", comm->nranks,
                     "status", thrum_status_name(status), "message",
                     text_of(status ? comm->message : ""), "operations", (json_int_t)issued,
                     "deadline_seconds", (double)comm->deadline_ns / 1e9, "pending",
                     status ? json_null() : describe_pending(comm, now), "ranks",
                     describe_ranks(comm, sequence, records));
    text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(json);
    return text;
}
