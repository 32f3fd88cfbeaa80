/* thrum-trace: what the recorded operations come to, as JSON. Times are in microseconds. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"
#include "trace.h"

#define MOST_ROWS 1000

static json_t *us(double ns)
{
    return json_real(ns / 1e3);
}

static json_t *whole(uint64_t number)
{
    return json_integer((json_int_t)(number < INT64_MAX ? number : INT64_MAX));
}

static void set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value))
        process_must(NULL);
}

static void append(json_t *list, json_t *value)
{
    if (json_array_append_new(list, value))
        process_must(NULL);
}

static json_t *row_json(const struct trace *trace, const struct comm *comm, const struct row *row)
{
    const struct kind *kind = row->kind == NONE ? NULL : &trace->kinds[row->kind];
    json_t *json = json_object();

    if (kind) {
        set(json, "what", json_string(kind->what));
        set(json, "type", json_string(thrum_datatype_name((thrum_datatype_t)kind->dtype)));
        set(json, "op", json_string(thrum_redop_name((thrum_redop_t)kind->redop)));
        set(json, "count", whole(kind->count));
        set(json, "bytes", whole(kind->bytes));
        set(json, "algorithm", json_string(kind->algorithm));
        set(json, "median_us", us((double)row->median));
        set(json, "p99_us", us((double)row->p99));
    } else {
        set(json, "others", whole(row->kinds));
    }
    set(json, "calls", whole(row->calls));
    set(json, "total_us", us(row->spent / comm->nmembers));
    set(json, "waiting_us", us(row->waited / comm->nmembers));
    if (row->last != NONE) {
        set(json, "last", json_integer(trace->members[row->last].rank));
        set(json, "last_calls", whole(row->times));
        set(json, "late_us", us((double)row->late));
    }
    return json;
}

static json_t *rows_json(const struct trace *trace, const struct comm *comm)
{
    json_t *list = json_array();
    struct row *rows;
    size_t n = trace_rows(comm, MOST_ROWS, &rows);

    for (size_t i = 0; i < n; i++)
        append(list, row_json(trace, comm, &rows[i]));
    free(rows);
    return list;
}

static json_t *ranks_json(const struct trace *trace, const struct comm *comm)
{
    double time = (double)(comm->ended - comm->begun);
    json_t *list = json_array();

    for (uint32_t i = 0; i < comm->nmembers; i++) {
        const struct member *m = &trace->members[comm->members[i]];
        json_t *json = json_object();

        set(json, "rank", json_integer(m->rank));
        set(json, "host", json_string(trace->procs[m->proc].host));
        set(json, "pid", json_integer(trace->procs[m->proc].pid));
        set(json, "program", json_string(trace->procs[m->proc].program));
        set(json, "waiting_us", us((double)m->waiting));
        set(json, "moving_us", us((double)m->moving));
        set(json, "messages_us", us((double)m->other));
        set(json, "elsewhere_us",
            us(trace_rest(time, (double)m->waiting, (double)m->moving, (double)m->other)));
        set(json, "last", whole(m->last));
        set(json, "held_up_us", us((double)m->held));
        set(json, "lost", whole(m->lost));
        set(json, "complete", json_boolean(m->whole));
        append(list, json);
    }
    return list;
}

static json_t *missing_json(const struct trace *trace, const struct comm *comm)
{
    json_t *list = json_array();
    int next = 0;

    for (uint32_t i = 0; i <= comm->nmembers; i++) {
        int rank = i < comm->nmembers ? trace->members[comm->members[i]].rank : comm->nranks;

        if (rank > next) /* there may be millions */
            append(list, json_pack("[i, i]", next, rank - 1));
        next = rank < INT32_MAX ? rank + 1 : rank;
    }
    return list;
}

static json_t *pending_json(const struct trace *trace, const struct comm *comm)
{
    json_t *list = json_array();

    for (size_t i = 0; i < comm->npending && i < MOST_ROWS; i++) {
        const struct pending *pending = &comm->pending[i];
        json_t *json = json_object(), *absent = json_array();

        for (uint32_t k = 0; k < comm->nmembers; k++)
            if (trace_not_begun(trace, comm, k, pending))
                append(absent, json_integer(trace->members[comm->members[k]].rank));
        set(json, "what",
            json_string(trace->kinds[trace->ops[comm->refs[pending->first].op].kind].what));
        set(json, "sequence", whole(pending->sequence));
        set(json, "since_us", us(trace_age(trace, comm, pending)));
        set(json, "not_begun", absent);
        append(list, json);
    }
    return list;
}

static json_t *verdict_json(const struct trace *trace, const struct comm *comm)
{
    struct verdict verdict;
    json_t *json;

    trace_judge(trace, comm, &verdict);
    if (verdict.member == NONE)
        return json_null();
    json = json_object();
    set(json, "rank", json_integer(trace->members[verdict.member].rank));
    set(json, "often", json_boolean(verdict.often));
    set(json, "share", json_real(verdict.share));
    set(json, "calls", whole(verdict.times));
    set(json, "late_us", us((double)verdict.late));
    set(json, "busy", json_real(verdict.busy));
    return json;
}

static json_t *comm_json(const struct trace *trace, const struct comm *comm)
{
    struct sums sums = trace_sums(trace, comm);
    json_t *json = json_object();

    set(json, "name", json_string(comm->name));
    set(json, "id", json_sprintf("%016llx", (unsigned long long)comm->id));
    set(json, "size", json_integer(comm->nranks));
    set(json, "hosts", whole(sums.hosts));
    set(json, "collectives", whole(comm->nmatches));
    set(json, "messages", whole(comm->others));
    set(json, "incomplete", whole(comm->partial));
    set(json, "span_us", us((double)(comm->ended - comm->begun)));
    set(json, "time_us", us(sums.time));
    set(json, "waiting_us", us(sums.waiting));
    set(json, "moving_us", us(sums.moving));
    set(json, "messages_us", us(sums.other));
    set(json, "late", verdict_json(trace, comm));
    set(json, "rows", rows_json(trace, comm));
    set(json, "ranks", ranks_json(trace, comm));
    set(json, "not_recorded", missing_json(trace, comm));
    set(json, "in_flight", pending_json(trace, comm));
    return json;
}

static json_t *clocks_json(const struct trace *trace)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < trace->nclocks; i++) {
        const struct clock *clock = &trace->clocks[i];
        json_t *json = json_object();

        set(json, "host", json_string(trace_clock_host(trace, i)));
        set(json, "by",
            json_string(!i                   ? "itself"
                        : clock->hub == NONE ? "CLOCK_REALTIME"
                                             : "collectives"));
        set(json, "offset_ns", json_integer(clock->offset));
        set(json, "at_ns", json_integer(clock->base));
        set(json, "drift_ppm", json_real(clock->rate * 1e6));
        set(json, "spread_us", us((double)clock->spread));
        set(json, "bound_us", us((double)clock->bound));
        set(json, "contradiction_us", us((double)clock->contradiction));
        append(list, json);
    }
    return list;
}

int trace_json(const struct trace *trace, FILE *out)
{
    json_t *json = json_object(), *comms = json_array(), *notes = json_array();
    int status;

    for (size_t i = 0; i < trace->ncomms; i++)
        if (!trace->comms[i].left_out)
            append(comms, comm_json(trace, &trace->comms[i]));
    for (size_t i = 0; i < trace->nnotes; i++)
        append(notes, json_string(trace->notes[i]));
    set(json, "communicators", comms);
    set(json, "clocks", clocks_json(trace));
    set(json, "notes", notes);
    status = json_dumpf(json, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', out);
    json_decref(json);
    return status;
}
