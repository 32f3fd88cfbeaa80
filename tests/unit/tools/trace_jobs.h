/*
 * What the tests of thrum-trace share: streams that the test writes, jobs of which it knows who is late and what the clocks say,
 * and what comes of them.
 */
#ifndef TESTS_UNIT_TOOLS_TRACE_JOBS_H
#define TESTS_UNIT_TOOLS_TRACE_JOBS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "trace.h"

#define US INT64_C(1000)
#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

/* ---- streams ---- */

struct bytes {
    char *data;
    size_t n, room;
};

static inline void add(struct bytes *to, const void *data, size_t n)
{
    while (to->n + n > to->room) {
        to->room = to->room ? 2 * to->room : 4096;
        to->data = realloc(to->data, to->room);
        assert_non_null(to->data);
    }
    if (n)
        memcpy(to->data + to->n, data, n);
    to->n += n;
}

/* With `more` bytes than the reader knows. */
static inline void add_frame(struct bytes *to, uint32_t type, const void *body, size_t n,
                             size_t more)
{
    const struct trace_frame head = {type, (uint32_t)(n + more)};

    add(to, &head, sizeof head);
    add(to, body, n);
    for (size_t i = 0; i < more; i++)
        add(to, "x", 1);
}

static inline void add_process(struct bytes *to, uint64_t clock, int pid, const char *host,
                               int64_t now, int64_t realtime)
{
    struct trace_process process = {.clock = clock,
                                    .pid = pid,
                                    .monotonic_ns = now,
                                    .realtime_ns = realtime,
                                    .program = "train"};

    memcpy(process.magic, TRACE_MAGIC, sizeof process.magic);
    snprintf(process.host, sizeof process.host, "%s", host);
    add_frame(to, TRACE_PROCESS, &process, sizeof process, 0);
}

static inline void add_comm(struct bytes *to, uint64_t id, int rank, int nranks, const char *name)
{
    struct trace_comm comm = {.id = id, .rank = rank, .nranks = nranks, .number = 1};

    snprintf(comm.name, sizeof comm.name, "%s", name);
    add_frame(to, TRACE_COMM, &comm, sizeof comm, 0);
}

static const struct trace_operation allreduce = {.comm = 1,
                                                 .peer = -1,
                                                 .count = 1 << 20,
                                                 .bytes = 4 << 20,
                                                 .queue = 1,
                                                 .root = -1,
                                                 .dtype = THRUM_FLOAT32,
                                                 .what = "allreduce",
                                                 .algorithm = "direct"};

static inline void add_op(struct bytes *to, const struct trace_operation *like, uint64_t sequence,
                          int64_t begun, int64_t ended)
{
    struct trace_operation op = *like;

    op.sequence = sequence;
    op.called_ns = (begun ? begun : ended) - 2 * US;
    op.begun_ns = begun;
    op.ended_ns = ended;
    add_frame(to, TRACE_OPERATION, &op, sizeof op, 0);
}

static inline void add_end(struct bytes *to)
{
    add_frame(to, TRACE_END, NULL, 0, 0);
}

/* ---- jobs ---- */

#define MOST 16

/* Ranks that compute for 500 us, with some jitter, and sum for 100 us, again and again. */
struct job {
    int nranks, per_clock; /* ranks with one clock, and host; 0: all */
    int nops;
    int late; /* rank; -1: nobody */
    int64_t late_ns;
    int late_percent; /* of the operations */
    int64_t jitter_ns, compute_ns;
    int64_t offset[MOST]; /* of clocks */
    double ppm[MOST];
    const char *what; /* "" allreduce */
    unsigned seed;
};

static const struct job quiet = {
    .nranks = 4, .nops = 200, .late = -1, .jitter_ns = 10 * US, .compute_ns = 500 * US, .seed = 1};

static inline int64_t chance(unsigned *seed, int64_t below)
{
    return below ? (int64_t)rand_r(seed) % below : 0;
}

static inline int clock_of(const struct job *job, int rank)
{
    return job->per_clock ? rank / job->per_clock : 0;
}

/* What a clock shows at a time. */
static inline int64_t shown(const struct job *job, int clock, int64_t t)
{
    return t + job->offset[clock] + (int64_t)((double)t * job->ppm[clock] * 1e-6);
}

static inline void run(const struct job *job, struct bytes *streams)
{
    struct trace_operation op = allreduce;
    unsigned seed = job->seed;
    int64_t now = 100 * SECOND;

    if (job->what)
        snprintf(op.what, sizeof op.what, "%s", job->what);
    for (int r = 0; r < job->nranks; r++) {
        int clock = clock_of(job, r);
        char host[16];

        snprintf(host, sizeof host, "node%d", clock);
        streams[r] = (struct bytes){0};
        add_process(&streams[r], 1000 + (uint64_t)clock, 4711 + r, host, shown(job, clock, now),
                    1700000000 * SECOND + now);
        add_comm(&streams[r], 42, r, job->nranks, "comm0");
    }
    for (int i = 1; i <= job->nops; i++) {
        bool late = job->late >= 0 && i % 100 < job->late_percent;
        int64_t begun[MOST], last = 0;

        for (int r = 0; r < job->nranks; r++) {
            begun[r] = now + job->compute_ns + chance(&seed, job->jitter_ns) +
                       (late && r == job->late ? job->late_ns : 0);
            last = max_i64(last, begun[r]);
        }
        now = last + 100 * US;
        for (int r = 0; r < job->nranks; r++)
            add_op(&streams[r], &op, (uint64_t)i, shown(job, clock_of(job, r), begun[r]),
                   shown(job, clock_of(job, r), now + chance(&seed, 3 * US)));
    }
    for (int r = 0; r < job->nranks; r++)
        add_end(&streams[r]);
}

static inline void forget(struct bytes *streams, int n)
{
    for (int i = 0; i < n; i++)
        free(streams[i].data);
}

static inline void feed(struct trace *trace, const struct bytes *bytes, size_t step,
                        const char *name)
{
    struct stream stream;

    stream_open(&stream, trace, name);
    for (size_t at = 0; at < bytes->n; at += step)
        if (!stream_feed(&stream, bytes->data + at, bytes->n - at < step ? bytes->n - at : step))
            break;
    stream_close(&stream, false);
}

static inline void take(struct trace *trace, const struct bytes *streams, int n)
{
    trace_init(trace);
    for (int i = 0; i < n; i++)
        feed(trace, &streams[i], 1 << 16, "a stream");
    trace_sort(trace);
    trace_align(trace);
    trace_match(trace);
}

/* ---- what comes of it ---- */

static char *text_of(const struct trace *trace)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    trace_report(trace, false, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static inline json_t *parsed(char *text, size_t n)
{
    json_error_t error;
    json_t *json = json_loadb(text, n, JSON_DECODE_INT_AS_REAL, &error);

    if (!json)
        fail_msg("%s at line %d of:\n%.2000s", error.text, error.line, text);
    free(text);
    return json;
}

static inline json_t *json_of(const struct trace *trace)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    assert_int_equal(trace_json(trace, out), 0);
    assert_int_equal(fclose(out), 0);
    return parsed(text, n);
}

static inline json_t *timeline_of(const struct trace *trace)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    trace_timeline(trace, out);
    assert_int_equal(fclose(out), 0);
    return parsed(text, n);
}

static inline void must_say(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("\"%s\" is missing in:\n%s", what, text);
}

static inline void must_not_say(const char *text, const char *what)
{
    if (strstr(text, what))
        fail_msg("\"%s\" is in:\n%s", what, text);
}

static inline double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static inline int named(const struct trace *trace, int comm)
{
    struct verdict verdict;

    trace_judge(trace, &trace->comms[comm], &verdict);
    return verdict.member == NONE ? -1 : trace->members[verdict.member].rank;
}

struct slice {
    double thread, from, until;
};

static inline int by_begin(const void *a, const void *b)
{
    const struct slice *x = a, *y = b;

    if (x->thread != y->thread)
        return x->thread < y->thread ? -1 : 1;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->until < y->until ? -1 : x->until > y->until;
}

/* Slices of a thread follow each other. Returns how many there are. */
static inline size_t check_timeline(const struct trace *trace)
{
    json_t *json = timeline_of(trace), *events = json_object_get(json, "traceEvents"), *event;
    struct slice *slices = calloc(json_array_size(events) + 1, sizeof *slices);
    size_t n = 0, i;

    assert_non_null(slices);
    json_array_foreach(events, i, event)
    {
        const char *phase = json_string_value(json_object_get(event, "ph"));

        assert_non_null(phase);
        assert_true(number(event, "pid") > 0);
        assert_true(number(event, "tid") > 0); /* 0 is the idle process to ui.perfetto.dev */
        if (strcmp(phase, "X") != 0)
            continue;
        assert_true(number(event, "ts") >= 0);
        assert_true(number(event, "dur") >= 0);
        slices[n].thread = number(event, "pid") * 1e6 + number(event, "tid");
        slices[n].from = number(event, "ts");
        slices[n].until = slices[n].from + number(event, "dur");
        n++;
    }
    qsort(slices, n, sizeof *slices, by_begin);
    for (i = 1; i < n; i++) /* in doubles: of large times the ns are lost */
        assert_true(slices[i].thread != slices[i - 1].thread ||
                    slices[i].from >= slices[i - 1].until - 1e-3 - slices[i].from * 1e-14);
    free(slices);
    json_decref(json);
    return n;
}

#endif
