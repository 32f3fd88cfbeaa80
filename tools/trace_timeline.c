/*
 * thrum-trace: a timeline in Chrome's trace event format, for ui.perfetto.dev and chrome://tracing: processes, in them a thread
 * for each queue, in it a slice for the time that an operation waited, and one for the time it moved data.
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
    uint32_t queue, member; /* thread; member NONE: the queue has only one */
    uint32_t op;
    int64_t begun;
};

struct timeline {
    const struct trace *trace;
    FILE *out;
    int64_t zero;
    const char *between;
    uint32_t *named_by; /* processes: member whose rank they have; NONE: none is shown */
    uint32_t *member_of_queue; /* NONE: several */
    bool *several; /* processes: they have several ranks of a communicator */
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

static void begin_event(struct timeline *t, const char *phase, uint32_t proc, uint64_t thread)
{
    fprintf(t->out, "%s\n{\"ph\":\"%s\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu64, t->between, phase,
            proc + 1, thread);
    t->between = ",";
}

static void metadata(struct timeline *t, const char *what, uint32_t proc, uint64_t thread,
                     const char *name, uint64_t index)
{
    begin_event(t, "M", proc, thread);
    fprintf(t->out, ",\"name\":\"%s\",\"args\":{", what);
    if (name) {
        fprintf(t->out, "\"name\":");
        text_json(t->out, name);
    } else {
        fprintf(t->out, "\"sort_index\":%" PRIu64, index);
    }
    fprintf(t->out, "}}");
}

/* ---- processes and threads ---- */

static const struct comm *comm_of(const struct trace *trace, uint32_t member)
{
    return &trace->comms[trace->members[member].comm];
}

/* A process has the name of its rank in its largest communicator, if it has only one there. */
static void find_names(struct timeline *t)
{
    const struct trace *trace = t->trace;
    uint32_t *comm_of_proc = process_must(malloc((trace->nprocs + 1) * sizeof *comm_of_proc));

    for (size_t i = 0; i < trace->nprocs; i++)
        comm_of_proc[i] = t->named_by[i] = NONE;
    for (uint32_t c = 0; c < trace->ncomms; c++)
        for (uint32_t i = 0; i < trace->comms[c].nmembers && !trace->comms[c].left_out; i++) {
            uint32_t member = trace->comms[c].members[i], proc = trace->members[member].proc;
            uint32_t *name = &t->named_by[proc];

            t->several[proc] |= comm_of_proc[proc] == c;
            comm_of_proc[proc] = c;
            if (*name == NONE || trace->comms[c].nranks > comm_of(trace, *name)->nranks)
                *name = member;
        }
    free(comm_of_proc);
}

static void name_processes(struct timeline *t)
{
    for (uint32_t i = 0; i < t->trace->nprocs; i++) {
        const struct proc *proc = &t->trace->procs[i];
        char name[192];
        int rank;

        if (t->named_by[i] == NONE)
            continue;
        rank = t->trace->members[t->named_by[i]].rank;
        snprintf(name, sizeof name, "rank%s %d%s, %s (%d)", t->several[i] ? "s" : "", rank,
                 t->several[i] ? " and others" : "", proc->host, proc->pid);
        metadata(t, "process_name", i, 0, name, 0);
        metadata(t, "process_sort_index", i, 0, NULL, (uint64_t)rank);
    }
}

static void find_queues(struct timeline *t)
{
    const struct trace *trace = t->trace;

    memset(t->member_of_queue, 0xfe, trace->nqueues * sizeof *t->member_of_queue); /* none yet */
    for (size_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];
        uint32_t *member = &t->member_of_queue[op->queue];

        *member = *member == 0xfefefefe || *member == op->member ? op->member : NONE;
    }
}

/* "queue 1", and what else there is to tell it from others. */
static void name_thread(const struct timeline *t, const struct place *place, unsigned lane,
                        char *name, size_t bytes)
{
    const struct trace *trace = t->trace;
    const struct queue *queue = &trace->queues[place->queue];
    const struct member *member = &trace->members[trace->ops[place->op].member];
    bool ranks = t->several[queue->proc];
    size_t n = (size_t)snprintf(name, bytes, "queue %" PRIu32, queue->number);

    if (ranks || place->member != NONE)
        n += (size_t)snprintf(name + n, bytes - n, ", %s", trace->comms[member->comm].name);
    if (ranks)
        n += (size_t)snprintf(name + n, bytes - n, " rank %d", member->rank);
    if (lane)
        snprintf(name + n, bytes - n, " (%u)", lane + 1);
}

/* ---- operations ---- */

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->queue != y->queue)
        return x->queue < y->queue ? -1 : 1;
    if (x->member != y->member)
        return x->member < y->member ? -1 : 1;
    if (x->begun != y->begun)
        return x->begun < y->begun ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op;
}

static bool is_same_thread(const struct place *a, const struct place *b)
{
    return a->queue == b->queue && a->member == b->member;
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

static void write_slice(struct timeline *t, uint32_t proc, uint64_t thread, int64_t from,
                        int64_t until)
{
    begin_event(t, "X", proc, thread);
    fprintf(t->out, ",\"ts\":");
    us_json(t->out, from - t->zero);
    fprintf(t->out, ",\"dur\":");
    us_json(t->out, until - from);
    fprintf(t->out, ",\"name\":");
}

static void write_call(struct timeline *t, const struct op *op, uint32_t proc, uint64_t thread)
{
    begin_event(t, "i", proc, thread);
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
static void write_op(struct timeline *t, const struct op *op, uint32_t proc, uint64_t thread,
                     int64_t from)
{
    int64_t until = max_i64(from, end_of(t, op)),
            there = max_i64(from, min_i64(until, op->begun + op->waited));

    if (there > from) {
        write_slice(t, proc, thread, from, there);
        fprintf(t->out, "\"wait for rank %d\",\"args\":{\"sequence\":%" PRIu64 "}}",
                t->trace->members[op->last].rank, op->sequence);
    }
    write_slice(t, proc, thread, there, until);
    text_json(t->out, t->trace->kinds[op->kind].what);
    write_args(t, op, until - there);
    if (op->begun - op->called > CALLED_BEFORE_NS)
        write_call(t, op, proc, thread);
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

/* Operations of one queue, and one rank of a communicator if it has several. */
static void write_thread(struct timeline *t, const struct place *places, size_t n)
{
    const struct queue *queue = &t->trace->queues[places->queue];
    uint64_t thread = ((uint64_t)queue->number * (t->trace->nmembers + 1) +
                       (places->member == NONE ? 0 : places->member + 1)) *
                      LANES;
    int64_t busy[LANES] = {0};
    unsigned lanes = 0;

    for (size_t i = 0; i < n; i++) {
        const struct op *op = &t->trace->ops[places[i].op];
        int64_t from = op->begun;
        unsigned before = lanes, lane = lane_for(busy, &lanes, &from);

        if (lanes > before) {
            char name[128];

            name_thread(t, places, lane, name, sizeof name);
            metadata(t, "thread_name", queue->proc, thread + lane, name, 0);
            metadata(t, "thread_sort_index", queue->proc, thread + lane, NULL, thread + lane);
        }
        busy[lane] = max_i64(from, end_of(t, op));
        write_op(t, op, queue->proc, thread + lane, from);
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
        places[n++] = (struct place){
            op->queue, t->member_of_queue[op->queue] == NONE ? op->member : NONE, i, op->begun};
    }
    qsort(places, n, sizeof *places, by_place);
    return n;
}

void trace_timeline(const struct trace *trace, FILE *out)
{
    struct timeline t = {.trace = trace, .out = out, .between = ""};
    struct place *places = process_must(calloc(trace->nops + 1, sizeof *places));
    size_t n;

    t.named_by = process_must(calloc(trace->nprocs + 1, sizeof *t.named_by));
    t.member_of_queue = process_must(calloc(trace->nqueues + 1, sizeof *t.member_of_queue));
    t.several = process_must(calloc(trace->nprocs + 1, sizeof *t.several));
    fprintf(out, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    find_names(&t);
    name_processes(&t);
    find_queues(&t);
    n = find_places(&t, places);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && is_same_thread(&places[next], &places[i]);)
            next++;
        write_thread(&t, places + i, next - i);
    }
    fprintf(out, "\n]}\n");
    free(places);
    free(t.named_by);
    free(t.member_of_queue);
    free(t.several);
}
