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
#define MOST_PIDS (1 << 22) /* of a Linux host */

/* Where an operation is shown. */
struct place {
    int32_t rank; /* where a process has several, their threads are in this order */
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
    int32_t *highest; /* processes: rank in the communicator by which they are named */
    uint32_t *pids; /* processes: their numbers here */
    uint32_t *threads; /* processes: how many there are */
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

static void begin_event(struct timeline *t, const char *phase, uint32_t proc, uint32_t thread)
{
    fprintf(t->out, "%s\n{\"ph\":\"%s\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32, t->between, phase,
            t->pids[proc], thread);
    t->between = ",";
}

static void metadata(struct timeline *t, const char *what, uint32_t proc, uint32_t thread,
                     const char *name, uint32_t index)
{
    begin_event(t, "M", proc, thread);
    fprintf(t->out, ",\"name\":\"%s\",\"args\":{", what);
    if (name) {
        fprintf(t->out, "\"name\":");
        text_json(t->out, name);
    } else {
        fprintf(t->out, "\"sort_index\":%" PRIu32, index);
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
            if (comm_of(trace, *name) == &trace->comms[c]) /* by rank */
                t->highest[proc] = trace->members[member].rank;
        }
    free(comm_of_proc);
}

static int by_pid(const void *a, const void *b)
{
    const struct proc *x = *(struct proc *const *)a, *y = *(struct proc *const *)b;

    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

/* Their own, where no other has it, as on another host; viewers show them. 0 is nobody's there. */
static void number_processes(struct timeline *t)
{
    const struct trace *trace = t->trace;
    const struct proc **procs = process_must(malloc((trace->nprocs + 1) * sizeof *procs));

    for (size_t i = 0; i < trace->nprocs; i++)
        procs[i] = &trace->procs[i];
    qsort(procs, trace->nprocs, sizeof *procs, by_pid);
    for (size_t i = 0; i < trace->nprocs; i++) {
        size_t proc = (size_t)(procs[i] - trace->procs);
        bool own = procs[i]->pid > 0 && procs[i]->pid <= MOST_PIDS &&
                   (!i || procs[i - 1]->pid != procs[i]->pid) &&
                   (i + 1 == trace->nprocs || procs[i + 1]->pid != procs[i]->pid);

        t->pids[proc] = own ? (uint32_t)procs[i]->pid : MOST_PIDS + 1 + (uint32_t)proc;
    }
    free(procs);
}

static void name_processes(struct timeline *t)
{
    for (uint32_t i = 0; i < t->trace->nprocs; i++) {
        const struct proc *proc = &t->trace->procs[i];
        char name[192], number[32] = "", last[16] = "";
        int rank;

        if (t->named_by[i] == NONE)
            continue;
        rank = t->trace->members[t->named_by[i]].rank;
        if (t->pids[i] > MOST_PIDS)
            snprintf(number, sizeof number, ", process %d", proc->pid);
        if (t->highest[i] > rank)
            snprintf(last, sizeof last, " to %d", t->highest[i]);
        snprintf(name, sizeof name, "rank%s %d%s (%s%s)", *last ? "s" : "", rank, last, proc->host,
                 number);
        metadata(t, "process_name", i, 1, name, 0);
        metadata(t, "process_sort_index", i, 1, NULL, (uint32_t)rank);
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
    size_t n = 0;

    if (ranks)
        n = (size_t)snprintf(name, bytes, "rank %d, ", member->rank);
    n += (size_t)snprintf(name + n, bytes - n, "queue %" PRIu32, queue->number);
    if (ranks || place->member != NONE)
        n += (size_t)snprintf(name + n, bytes - n, ", %s", trace->comms[member->comm].name);
    if (lane)
        snprintf(name + n, bytes - n, " (%u)", lane + 1);
}

/* ---- operations ---- */

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
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

static void write_common_args(struct timeline *t, const struct op *op)
{
    fprintf(t->out, ",\"args\":{\"communicator\":");
    text_json(t->out, comm_of(t->trace, op->member)->name);
    if (op->sequence)
        fprintf(t->out, ",\"sequence\":%" PRIu64, op->sequence);
}

/* Of the slice that moves data, which takes so long. */
static void write_args(struct timeline *t, const struct op *op, int64_t moved)
{
    const struct kind *kind = &t->trace->kinds[op->kind];
    FILE *out = t->out;

    write_common_args(t, op);
    if (has_type(kind))
        fprintf(out, ",\"count\":%" PRIu64 ",\"type\":\"%s\"", kind->count,
                thrum_datatype_name((thrum_datatype_t)kind->dtype));
    if (has_type(kind) && (strstr(kind->what, "reduce") || strstr(kind->what, "scan")))
        fprintf(out, ",\"op\":\"%s\"",
                kind->redop >= THRUM_REDOP_COUNT ? "own"
                                                 : thrum_redop_name((thrum_redop_t)kind->redop));
    if (kind->bytes)
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
    fprintf(out, ",\"us from call to begin\":");
    us_json(out, max_i64(0, op->begun - op->called));
    if (op->ended == NEVER)
        fprintf(out, ",\"ended\":\"not while this was recorded\"");
    else if (moved > 0 && kind->bytes)
        fprintf(out, ",\"GB/s\":%.3f", (double)kind->bytes / (double)moved);
    fprintf(out, "}}");
}

static void write_slice(struct timeline *t, uint32_t proc, uint32_t thread, int64_t from,
                        int64_t until)
{
    begin_event(t, "X", proc, thread);
    fprintf(t->out, ",\"ts\":");
    us_json(t->out, from - t->zero);
    fprintf(t->out, ",\"dur\":");
    us_json(t->out, until - from);
    fprintf(t->out, ",\"name\":");
}

static int64_t end_of(const struct timeline *t, const struct op *op)
{
    return op->ended != NEVER ? op->ended : max_i64(op->begun, t->trace->members[op->member].until);
}

static int by_sequence(const void *key, const void *element)
{
    const uint64_t *sequence = key;
    const struct pending *pending = element;

    return *sequence < pending->sequence ? -1 : *sequence > pending->sequence;
}

/* Of what has not ended: the first rank that is known not to have begun it; -1: there is none. */
static int awaited_rank(const struct trace *trace, const struct op *op)
{
    const struct comm *comm = comm_of(trace, op->member);
    const struct pending *pending = !comm->npending
                                        ? NULL
                                        : bsearch(&op->sequence, comm->pending, comm->npending,
                                                  sizeof *comm->pending, by_sequence);

    for (uint32_t i = 0; i < comm->nmembers && pending; i++)
        if (trace_not_begun(trace, comm, i, pending))
            return trace->members[comm->members[i]].rank;
    return -1;
}

/* "allreduce 4 MiB", with what there is to say where it has not ended. */
static void name_op(const struct trace *trace, const struct op *op, char *name, size_t bytes)
{
    const struct kind *kind = &trace->kinds[op->kind];
    size_t n = (size_t)snprintf(name, bytes, "%s", kind->what);
    char size[32];
    int rank;

    if (kind->bytes)
        n += (size_t)snprintf(name + n, bytes - n, " %s",
                              trace_size_text(kind->bytes, size, sizeof size));
    if (op->ended != NEVER)
        return;
    n += (size_t)snprintf(name + n, bytes - n, ", not ended");
    rank = awaited_rank(trace, op);
    if (rank >= 0)
        snprintf(name + n, bytes - n, ": rank %d has not begun it", rank);
}

/* From `from`, which is its begin if there was place. Colours are chrome://tracing's: ui.perfetto.dev chooses by the names. */
static void write_op(struct timeline *t, const struct op *op, uint32_t proc, uint32_t thread,
                     int64_t from)
{
    const struct kind *kind = &t->trace->kinds[op->kind];
    int64_t until = max_i64(from, end_of(t, op)),
            there = max_i64(from, min_i64(until, op->begun + op->waited));
    char name[128];

    if (there > from) {
        write_slice(t, proc, thread, from, there);
        fprintf(t->out, "\"wait for rank %d\",\"cname\":\"grey\"",
                t->trace->members[op->last].rank);
        write_common_args(t, op);
        fprintf(t->out, ",\"in\":");
        text_json(t->out, kind->what);
        fprintf(t->out, "}}");
    }
    write_slice(t, proc, thread, there, until);
    name_op(t->trace, op, name, sizeof name);
    text_json(t->out, name);
    if (op->ended == NEVER)
        fprintf(t->out, ",\"cname\":\"bad\"");
    write_args(t, op, until - there);
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
    uint32_t *threads = &t->threads[queue->proc], first = *threads + 1;
    int64_t busy[LANES] = {0};
    unsigned lanes = 0;

    for (size_t i = 0; i < n; i++) {
        const struct op *op = &t->trace->ops[places[i].op];
        int64_t from = op->begun;
        unsigned before = lanes, lane = lane_for(busy, &lanes, &from);

        if (lanes > before) {
            char name[128];

            ++*threads;
            name_thread(t, places, lane, name, sizeof name);
            metadata(t, "thread_name", queue->proc, *threads, name, 0);
            metadata(t, "thread_sort_index", queue->proc, *threads, NULL, *threads);
        }
        busy[lane] = max_i64(from, end_of(t, op));
        write_op(t, op, queue->proc, first + lane, from);
    }
}

static size_t find_places(struct timeline *t, struct place *places)
{
    const struct trace *trace = t->trace;
    size_t n = 0;

    t->zero = INT64_MAX;
    for (uint32_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];
        const struct member *member = &trace->members[op->member];

        if (op->begun == NEVER || trace->comms[member->comm].left_out)
            continue;
        t->zero = min_i64(t->zero, min_i64(op->called, op->begun));
        places[n++] =
            (struct place){t->several[member->proc] ? member->rank : 0, op->queue,
                           t->member_of_queue[op->queue] == NONE ? op->member : NONE, i, op->begun};
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
    t.highest = process_must(calloc(trace->nprocs + 1, sizeof *t.highest));
    t.pids = process_must(calloc(trace->nprocs + 1, sizeof *t.pids));
    t.threads = process_must(calloc(trace->nprocs + 1, sizeof *t.threads));
    fprintf(out, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    find_names(&t);
    number_processes(&t);
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
    free(t.highest);
    free(t.pids);
    free(t.threads);
}
