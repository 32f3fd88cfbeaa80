/*
 * thrum-trace: a timeline in Chrome's trace event format, for ui.perfetto.dev and chrome://tracing: a process for each rank, a
 * thread for each queue, in it a slice for the time that an operation waited, and one for the time it moved data.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"
#include "trace.h"

#define LANES 8 /* of a queue, where operations overlap */
#define CALLED_BEFORE_NS 10000 /* a call so long before the begin is shown */

/* Where an operation is shown. */
struct place {
    uint32_t track, queue, comm; /* thread; comm NONE: the queue has only one */
    uint32_t op;
    int64_t begun;
};

struct timeline {
    const struct trace *trace;
    FILE *out;
    int64_t zero;
    const char *between;
    uint32_t *track_of; /* members: process of the timeline that shows them */
    uint32_t *named_by; /* tracks: member whose rank they have */
    uint32_t ntracks;
    uint32_t *comm_of_queue; /* NONE: several */
    bool *split; /* processes: each of their ranks is a process of its own here */
};

/* ---- writing ---- */

static void text_json(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', out);
        putc(*text, out);
    }
    putc('"', out);
}

/* us with the ns behind the point */
static void us_json(FILE *out, int64_t ns)
{
    fprintf(out, "%" PRId64 ".%03" PRId64, ns / 1000, ns % 1000);
}

static void begin_event(struct timeline *t, const char *phase, uint32_t track, uint64_t thread)
{
    fprintf(t->out, "%s\n{\"ph\":\"%s\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu64, t->between, phase,
            track + 1, thread);
    t->between = ",";
}

static void metadata(struct timeline *t, const char *what, uint32_t track, uint64_t thread,
                     const char *name, uint64_t index)
{
    begin_event(t, "M", track, thread);
    fprintf(t->out, ",\"name\":\"%s\",\"args\":{", what);
    if (name) {
        fprintf(t->out, "\"name\":");
        text_json(t->out, name);
    } else {
        fprintf(t->out, "\"sort_index\":%" PRIu64, index);
    }
    fprintf(t->out, "}}");
}

/* ---- tracks ---- */

static const struct comm *comm_of(const struct trace *trace, uint32_t member)
{
    return &trace->comms[trace->members[member].comm];
}

/* A process whose name is that of its rank in its largest communicator; where it has several ranks of one, a process for each. */
static void find_tracks(struct timeline *t)
{
    const struct trace *trace = t->trace;
    uint32_t *track_of_proc = process_must(malloc((trace->nprocs + 1) * sizeof *track_of_proc));
    uint32_t *proc_in_comm = process_must(malloc((trace->nprocs + 1) * sizeof *proc_in_comm));

    for (size_t i = 0; i < trace->nprocs; i++)
        track_of_proc[i] = proc_in_comm[i] = NONE;
    for (uint32_t c = 0; c < trace->ncomms; c++)
        for (uint32_t i = 0; i < trace->comms[c].nmembers; i++) {
            uint32_t proc = trace->members[trace->comms[c].members[i]].proc;

            t->split[proc] |= proc_in_comm[proc] == c;
            proc_in_comm[proc] = c;
        }
    for (uint32_t i = 0; i < trace->nmembers; i++) {
        uint32_t proc = trace->members[i].proc, track = track_of_proc[proc];

        if (comm_of(trace, i)->left_out)
            continue;
        if (track == NONE || t->split[proc]) {
            track = t->ntracks++;
            track_of_proc[proc] = track;
            t->named_by[track] = i;
        } else if (comm_of(trace, i)->nranks > comm_of(trace, t->named_by[track])->nranks) {
            t->named_by[track] = i;
        }
        t->track_of[i] = track;
    }
    free(track_of_proc);
    free(proc_in_comm);
}

static void name_tracks(struct timeline *t)
{
    for (uint32_t i = 0; i < t->ntracks; i++) {
        const struct member *member = &t->trace->members[t->named_by[i]];
        const struct proc *proc = &t->trace->procs[member->proc];
        char name[192];

        snprintf(name, sizeof name, "%s%srank %d, %s (%d)",
                 t->split[member->proc] ? comm_of(t->trace, t->named_by[i])->name : "",
                 t->split[member->proc] ? " " : "", member->rank, proc->host, proc->pid);
        metadata(t, "process_name", i, 0, name, 0);
        metadata(t, "process_sort_index", i, 0, NULL, (uint64_t)member->rank);
    }
}

static void find_queues(struct timeline *t)
{
    const struct trace *trace = t->trace;

    memset(t->comm_of_queue, 0xfe, trace->nqueues * sizeof *t->comm_of_queue); /* none yet */
    for (size_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];
        uint32_t *comm = &t->comm_of_queue[op->queue], own = trace->members[op->member].comm;

        *comm = *comm == 0xfefefefe || *comm == own ? own : NONE;
    }
}

/* ---- operations ---- */

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->queue != y->queue)
        return x->queue < y->queue ? -1 : 1;
    if (x->comm != y->comm)
        return x->comm < y->comm ? -1 : 1;
    if (x->begun != y->begun)
        return x->begun < y->begun ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op;
}

static bool is_same_thread(const struct place *a, const struct place *b)
{
    return a->track == b->track && a->queue == b->queue && a->comm == b->comm;
}

static bool has_type(const struct kind *kind)
{
    return kind->count > 0 && strcmp(kind->what, "barrier") != 0;
}

static void write_args(struct timeline *t, const struct op *op, int64_t moved)
{
    const struct kind *kind = &t->trace->kinds[op->kind];
    FILE *out = t->out;

    fprintf(out, ",\"args\":{\"communicator\":");
    text_json(out, comm_of(t->trace, op->member)->name);
    if (op->sequence)
        fprintf(out, ",\"sequence\":%" PRIu64, op->sequence);
    if (has_type(kind))
        fprintf(out, ",\"count\":%" PRIu64 ",\"type\":\"%s\"", kind->count,
                thrum_datatype_name((thrum_datatype_t)kind->dtype));
    if (has_type(kind) && (strstr(kind->what, "reduce") || strstr(kind->what, "scan")))
        fprintf(out, ",\"op\":\"%s\"",
                kind->redop >= THRUM_REDOP_COUNT ? "own"
                                                 : thrum_redop_name((thrum_redop_t)kind->redop));
    fprintf(out, ",\"bytes\":%" PRIu64, kind->bytes);
    if (kind->algorithm[0]) {
        fprintf(out, ",\"algorithm\":");
        text_json(out, kind->algorithm);
    }
    if (op->root >= 0)
        fprintf(out, ",\"root\":%d", op->root);
    if (op->peer >= 0)
        fprintf(out, ",\"peer\":%d", op->peer);
    if (op->last != NONE)
        fprintf(out, ",\"last to come\":\"rank %d\"", t->trace->members[op->last].rank);
    if (moved > 0 && kind->bytes)
        fprintf(out, ",\"GB/s\":%.3f", (double)kind->bytes / (double)moved);
    if (op->ended == NEVER)
        fprintf(out, ",\"ended\":\"not while this was recorded\"");
    fprintf(out, "}}");
}

static void write_slice(struct timeline *t, uint32_t track, uint64_t thread, int64_t from,
                        int64_t until)
{
    begin_event(t, "X", track, thread);
    fprintf(t->out, ",\"ts\":");
    us_json(t->out, from - t->zero);
    fprintf(t->out, ",\"dur\":");
    us_json(t->out, until - from);
    fprintf(t->out, ",\"name\":");
}

static void write_call(struct timeline *t, const struct op *op, uint32_t track, uint64_t thread)
{
    begin_event(t, "i", track, thread);
    fprintf(t->out, ",\"s\":\"t\",\"ts\":");
    us_json(t->out, op->called - t->zero);
    fprintf(t->out, ",\"name\":\"call of ");
    fprintf(t->out, "%s\",\"args\":{\"sequence\":%" PRIu64 "}}",
            op->sequence ? "collective" : "operation", op->sequence);
}

static int64_t end_of(const struct timeline *t, const struct op *op)
{
    return op->ended != NEVER ? op->ended : max_i64(op->begun, t->trace->members[op->member].until);
}

/* From `from`, which is its begin if there was place. */
static void write_op(struct timeline *t, const struct op *op, uint32_t track, uint64_t thread,
                     int64_t from)
{
    int64_t until = max_i64(from, end_of(t, op)),
            there = max_i64(from, min_i64(until, op->begun + op->waited));

    if (there > from) {
        write_slice(t, track, thread, from, there);
        fprintf(t->out, "\"wait for rank %d\",\"args\":{\"sequence\":%" PRIu64 "}}",
                t->trace->members[op->last].rank, op->sequence);
    }
    write_slice(t, track, thread, there, until);
    text_json(t->out, t->trace->kinds[op->kind].what);
    write_args(t, op, until - there);
    if (op->begun - op->called > CALLED_BEFORE_NS)
        write_call(t, op, track, thread);
}

/* The first lane that is free by then; the last one is so a little later, if need be. */
static unsigned lane_for(int64_t *busy, unsigned *n, int64_t *begun)
{
    for (unsigned i = 0; i < *n; i++)
        if (busy[i] <= *begun)
            return i;
    if (*n < LANES)
        return (*n)++;
    *begun = busy[LANES - 1];
    return LANES - 1;
}

/* Operations of one queue, and one communicator if it has several. */
static void write_thread(struct timeline *t, const struct place *places, size_t n)
{
    const struct queue *queue = &t->trace->queues[places->queue];
    uint64_t thread = ((uint64_t)queue->number * (t->trace->ncomms + 1) +
                       (places->comm == NONE ? 0 : places->comm + 1)) *
                      LANES;
    int64_t busy[LANES] = {0};
    unsigned lanes = 0;

    for (size_t i = 0; i < n; i++) {
        const struct op *op = &t->trace->ops[places[i].op];
        int64_t from = op->begun;
        unsigned before = lanes, lane = lane_for(busy, &lanes, &from);

        if (lanes > before) {
            char name[128];

            snprintf(name, sizeof name, "queue %" PRIu32 "%s%s", queue->number,
                     places->comm == NONE ? "" : ", ",
                     places->comm == NONE ? "" : t->trace->comms[places->comm].name);
            if (lane)
                snprintf(name + strlen(name), sizeof name - strlen(name), " (%u)", lane + 1);
            metadata(t, "thread_name", places->track, thread + lane, name, 0);
            metadata(t, "thread_sort_index", places->track, thread + lane, NULL, thread + lane);
        }
        busy[lane] = max_i64(from, end_of(t, op));
        write_op(t, op, places->track, thread + lane, from);
    }
}

static size_t find_places(struct timeline *t, struct place *places)
{
    const struct trace *trace = t->trace;
    size_t n = 0;

    t->zero = INT64_MAX;
    for (uint32_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];
        uint32_t comm = trace->members[op->member].comm;

        if (op->begun == NEVER || trace->comms[comm].left_out)
            continue;
        t->zero = min_i64(t->zero, min_i64(op->called, op->begun));
        places[n++] =
            (struct place){t->track_of[op->member], op->queue,
                           t->comm_of_queue[op->queue] == NONE ? comm : NONE, i, op->begun};
    }
    qsort(places, n, sizeof *places, by_place);
    return n;
}

void trace_timeline(const struct trace *trace, FILE *out)
{
    struct timeline t = {.trace = trace, .out = out, .between = ""};
    struct place *places = process_must(calloc(trace->nops + 1, sizeof *places));
    size_t n;

    t.track_of = process_must(calloc(trace->nmembers + 1, sizeof *t.track_of));
    t.named_by = process_must(calloc(trace->nmembers + 1, sizeof *t.named_by));
    t.comm_of_queue = process_must(calloc(trace->nqueues + 1, sizeof *t.comm_of_queue));
    t.split = process_must(calloc(trace->nprocs + 1, sizeof *t.split));
    fprintf(out, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    find_tracks(&t);
    name_tracks(&t);
    find_queues(&t);
    n = find_places(&t, places);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && is_same_thread(&places[next], &places[i]);)
            next++;
        write_thread(&t, places + i, next - i);
    }
    fprintf(out, "\n]}\n");
    free(places);
    free(t.track_of);
    free(t.named_by);
    free(t.comm_of_queue);
    free(t.split);
}
