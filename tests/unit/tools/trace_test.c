/*
 * Tests of thrum-trace: streams that the test writes, of jobs of which it knows who is late and what the clocks say; damaged
 * ones; and processes that answer, and that do not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "trace.h"

#define US INT64_C(1000)
#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

/* ---- streams ---- */

struct bytes {
    char *data;
    size_t n, room;
};

static void add(struct bytes *to, const void *data, size_t n)
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
static void add_frame(struct bytes *to, uint32_t type, const void *body, size_t n, size_t more)
{
    const struct trace_frame head = {type, (uint32_t)(n + more)};

    add(to, &head, sizeof head);
    add(to, body, n);
    for (size_t i = 0; i < more; i++)
        add(to, "x", 1);
}

static void add_process(struct bytes *to, uint64_t clock, int pid, const char *host, int64_t now,
                        int64_t realtime)
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

static void add_comm(struct bytes *to, uint64_t id, int rank, int nranks, const char *name)
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

static void add_op(struct bytes *to, const struct trace_operation *like, uint64_t sequence,
                   int64_t begun, int64_t ended)
{
    struct trace_operation op = *like;

    op.sequence = sequence;
    op.called_ns = (begun ? begun : ended) - 2 * US;
    op.begun_ns = begun;
    op.ended_ns = ended;
    add_frame(to, TRACE_OPERATION, &op, sizeof op, 0);
}

static void add_end(struct bytes *to)
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

static int64_t chance(unsigned *seed, int64_t below)
{
    return below ? (int64_t)rand_r(seed) % below : 0;
}

static int clock_of(const struct job *job, int rank)
{
    return job->per_clock ? rank / job->per_clock : 0;
}

/* What a clock shows at a time. */
static int64_t shown(const struct job *job, int clock, int64_t t)
{
    return t + job->offset[clock] + (int64_t)((double)t * job->ppm[clock] * 1e-6);
}

static void run(const struct job *job, struct bytes *streams)
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

static void forget(struct bytes *streams, int n)
{
    for (int i = 0; i < n; i++)
        free(streams[i].data);
}

static void feed(struct trace *trace, const struct bytes *bytes, size_t step, const char *name)
{
    struct stream stream;

    stream_open(&stream, trace, name);
    for (size_t at = 0; at < bytes->n; at += step)
        if (!stream_feed(&stream, bytes->data + at, bytes->n - at < step ? bytes->n - at : step))
            break;
    stream_close(&stream, false);
}

static void take(struct trace *trace, const struct bytes *streams, int n)
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

static json_t *parsed(char *text, size_t n)
{
    json_error_t error;
    json_t *json = json_loadb(text, n, JSON_DECODE_INT_AS_REAL, &error);

    if (!json)
        fail_msg("%s at line %d of:\n%.2000s", error.text, error.line, text);
    free(text);
    return json;
}

static json_t *json_of(const struct trace *trace)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    assert_int_equal(trace_json(trace, out), 0);
    assert_int_equal(fclose(out), 0);
    return parsed(text, n);
}

static json_t *timeline_of(const struct trace *trace)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    trace_timeline(trace, out);
    assert_int_equal(fclose(out), 0);
    return parsed(text, n);
}

static void must_say(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("\"%s\" is missing in:\n%s", what, text);
}

static void must_not_say(const char *text, const char *what)
{
    if (strstr(text, what))
        fail_msg("\"%s\" is in:\n%s", what, text);
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static int named(const struct trace *trace, int comm)
{
    struct verdict verdict;

    trace_judge(trace, &trace->comms[comm], &verdict);
    return verdict.member == NONE ? -1 : trace->members[verdict.member].rank;
}

struct slice {
    double thread, from, until;
};

static int by_begin(const void *a, const void *b)
{
    const struct slice *x = a, *y = b;

    if (x->thread != y->thread)
        return x->thread < y->thread ? -1 : 1;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->until < y->until ? -1 : x->until > y->until;
}

/* Slices of a thread follow each other. Returns how many there are. */
static size_t check_timeline(const struct trace *trace)
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

/* ---- who is late ---- */

static void one_late_rank_is_named(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    struct trace trace;
    char *text;
    json_t *json, *comm;

    (void)state;
    job.late = 2;
    job.late_ns = 310 * US;
    job.late_percent = 93;
    run(&job, streams);
    take(&trace, streams, 4);
    assert_int_equal(named(&trace, 0), 2);
    text = text_of(&trace);
    must_say(text, "comm0, 4 ranks on 1 host: 200 collectives in ");
    must_say(text, "\n  >    2  node0     4713 ");
    must_say(text,
             "The others wait for rank 2 (process 4713 on node0): it is the last to come\n  in 9");
    must_say(text, "allreduce float32 sum 4 MiB  direct");
    must_say(text, "rank 2 in 9");
    must_not_say(text, ">    1");
    json = json_of(&trace);
    comm = json_array_get(json_object_get(json, "communicators"), 0);
    assert_true(number(json_object_get(comm, "late"), "rank") == 2);
    assert_true(number(json_object_get(comm, "late"), "late_us") > 290);
    assert_true(number(json_object_get(comm, "late"), "late_us") < 320);
    assert_true(number(comm, "waiting_us") / number(comm, "time_us") > 0.2);
    assert_int_equal(check_timeline(&trace), 200 * 4 + 200 * 3);
    json_decref(json);
    free(text);
    trace_free(&trace);
    forget(streams, 4);
}

static void a_rare_but_long_wait_is_named(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    struct trace trace;
    char *text;

    (void)state;
    job.late = 1;
    job.late_ns = SECOND;
    job.late_percent = 2;
    run(&job, streams);
    take(&trace, streams, 4);
    assert_int_equal(named(&trace, 0), 1);
    text = text_of(&trace);
    must_say(text, "Most of the waiting is for rank 1 (process 4712 on node0)");
    must_say(text, "above all in allreduce #");
    must_say(text, "to which it came 1.00 s after the others");
    free(text);
    trace_free(&trace);
    forget(streams, 4);
}

static void nobody_is_named_where_nobody_is_late(void **state)
{
    static const int sizes[] = {1, 2, 3, 4, 8, 16};
    struct bytes streams[MOST];
    struct trace trace;

    (void)state;
    for (unsigned seed = 1; seed < 40; seed++)
        for (int i = 0; i < 6; i++) {
            struct job job = quiet;
            char *text;

            job.nranks = sizes[i];
            job.seed = seed;
            job.nops = seed % 2 ? 200 : 30;
            job.jitter_ns = seed % 3 ? 10 * US : 900 * US;
            run(&job, streams);
            take(&trace, streams, job.nranks);
            if (named(&trace, 0) >= 0)
                fail_msg("seed %u, %d ranks: rank %d", seed, sizes[i], named(&trace, 0));
            text = text_of(&trace);
            must_not_say(text, ">");
            if (sizes[i] > 1)
                must_say(text, "No rank is clearly late");
            free(text);
            trace_free(&trace);
            forget(streams, job.nranks);
        }
}

/* One is always the last of a few; but who is so in each of eight is not by chance. */
static void few_collectives_name_nobody_by_chance(void **state)
{
    struct bytes streams[MOST];
    struct trace trace;
    char *text;

    (void)state;
    for (unsigned seed = 1; seed < 60; seed++) {
        struct job job = quiet;

        job.nranks = 4;
        job.nops = seed < 50 ? 1 + (int)seed % 4 : 8;
        job.late = seed < 50 ? -1 : 2;
        job.late_percent = 100;
        job.late_ns = 3 * MS;
        job.jitter_ns = 900 * US;
        job.seed = seed;
        run(&job, streams);
        take(&trace, streams, 4);
        assert_int_equal(named(&trace, 0), job.late);
        text = text_of(&trace);
        must_say(text, seed < 50
                           ? "No rank is clearly late, in so few collectives: record for longer"
                           : "rank 2");
        free(text);
        trace_free(&trace);
        forget(streams, 4);
    }
}

/* A rank that waits for a root only, or for lower ranks, waits for nobody else. */
static void who_waits_for_whom(void **state)
{
    static const struct {
        const char *what;
        int root;
        int64_t waited[3]; /* where ranks 0, 1, 2 begin at 10, 30, 20, and end at 40 us */
        uint32_t last;
    } cases[] = {
        {"allreduce", -1, {20, 0, 10}, 1}, {"barrier", -1, {20, 0, 10}, 1},
        {"alltoallv", -1, {20, 0, 10}, 1}, {"broadcast", 1, {20, 0, 10}, 1},
        {"broadcast", 0, {0, 0, 0}, NONE}, {"scatter", 2, {10, 0, 0}, 2},
        {"reduce", 0, {20, 0, 0}, 1},      {"gather", 2, {0, 0, 10}, 1},
        {"reduce", 1, {0, 0, 0}, NONE},    {"scan", -1, {0, 0, 10}, 1},
        {"exscan", -1, {0, 0, 10}, 1},     {"mystery", -1, {0, 0, 0}, NONE},
        {"broadcast", 7, {0, 0, 0}, NONE}, {"scan in order", -1, {0, 10, 0}, 0},
    };
    static const int64_t begins[] = {10 * US, 30 * US, 20 * US};
    static const int64_t in_order[] = {20 * US, 10 * US, 30 * US};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes streams[3] = {{0}};
        struct trace trace;

        for (int r = 0; r < 3; r++) {
            struct trace_operation op = allreduce;

            memset(op.what, 0, sizeof op.what);
            snprintf(op.what, sizeof op.what, "%s", cases[i].what);
            op.root = cases[i].root;
            add_process(&streams[r], 1, 1 + r, "here", 0, 0);
            add_comm(&streams[r], 42, r, 3, "comm0");
            add_op(&streams[r], &op, 1, strchr(op.what, ' ') ? in_order[r] : begins[r], 40 * US);
            add_end(&streams[r]);
        }
        take(&trace, streams, 3);
        assert_int_equal(trace.comms[0].nmatches, 1);
        for (int r = 0; r < 3; r++)
            if (trace.ops[r].waited != cases[i].waited[r] * US)
                fail_msg("%s with root %d: rank %d waits for %d us", cases[i].what, cases[i].root,
                         r, (int)(trace.ops[r].waited / US));
        if (cases[i].last == NONE)
            assert_int_equal(trace.comms[0].matches[0].last, NONE);
        else
            assert_int_equal(trace.members[trace.comms[0].matches[0].last].rank,
                             (int)cases[i].last);
        check_timeline(&trace);
        trace_free(&trace);
        forget(streams, 3);
    }
}

/* In a scan the last of the lower ranks may be one for which nobody had to wait. */
static void nobody_is_last_for_whom_nobody_waited(void **state)
{
    static const int64_t begins[] = {15 * US, 11 * US, 20 * US, 30 * US};
    struct trace_operation scan = allreduce;
    struct bytes streams[4] = {{0}};
    struct trace trace;

    (void)state;
    snprintf(scan.what, sizeof scan.what, "scan");
    for (int r = 0; r < 4; r++) {
        add_process(&streams[r], 1, 1 + r, "here", 0, 0);
        add_comm(&streams[r], 42, r, 4, "comm0");
        add_op(&streams[r], &scan, 1, begins[r], 40 * US);
        add_end(&streams[r]);
    }
    take(&trace, streams, 4);
    assert_int_equal(trace.comms[0].nmatches, 1);
    assert_int_equal(trace.members[trace.comms[0].matches[0].last].rank, 0);
    assert_int_equal(trace.comms[0].matches[0].late, 4 * US);
    trace_free(&trace);
    forget(streams, 4);
}

/* Rank 0 computes for long, and rank 2 waits for its message, or in another communicator: all others wait for rank 2. */
static void who_passes_lateness_on_is_told(void **state)
{
    struct trace_operation message = allreduce, other = allreduce;

    (void)state;
    memset(message.what, 0, sizeof message.what);
    snprintf(message.what, sizeof message.what, "recv");
    message.peer = 0;
    other.comm = 2;
    for (int what = 0; what < 3; what++) { /* 2: rank 2 computes itself */
        struct bytes streams[3] = {{0}};
        struct trace trace;
        char *text;

        for (int r = 0; r < 3; r++) {
            struct trace_comm pair = {
                .id = 43, .rank = r / 2, .nranks = 2, .number = 2, .name = "pair"};

            add_process(&streams[r], 1, 1 + r, "here", 0, 0);
            add_comm(&streams[r], 42, r, 3, "comm0");
            if (r != 1)
                add_frame(&streams[r], TRACE_COMM, &pair, sizeof pair, 0);
            for (int i = 1; i <= 20; i++) {
                int64_t from = i * 10 * MS;

                if (r == 2 && what == 0)
                    add_op(&streams[r], &message, 0, from, from + 8 * MS);
                if (r == 2 && what == 1)
                    add_op(&streams[r], &other, (uint64_t)i, from, from + 8 * MS);
                if (r == 0 && what == 1)
                    add_op(&streams[r], &other, (uint64_t)i, from + 7 * MS, from + 8 * MS);
                add_op(&streams[r], &allreduce, (uint64_t)i, from + (r == 2 ? 9 : r + 1) * MS,
                       from + 10 * MS);
            }
            add_end(&streams[r]);
        }
        take(&trace, streams, 3);
        assert_int_equal(named(&trace, 0), 2);
        text = text_of(&trace);
        if (what == 2)
            must_not_say(text, "of the time by which it was late");
        else
            must_say(text, "In 86 % of the time by which it was late it was in messages or other");
        free(text);
        trace_free(&trace);
        forget(streams, 3);
    }
}

/* ---- where the time goes ---- */

/* A collective that comes late to its queue, and others on another queue before it; messages beside all. */
static void overlapping_queues_count_once(void **state)
{
    struct trace_operation message = allreduce, late = allreduce;
    struct bytes streams[2] = {{0}};
    struct trace trace;
    struct sums sums;

    (void)state;
    late.queue = 2;
    message.queue = 3;
    message.peer = 0;
    snprintf(message.what, sizeof message.what, "recv");
    for (int r = 0; r < 2; r++) {
        int64_t begun = r ? 10 * MS : 4 * MS;

        add_process(&streams[r], 1, 1 + r, "here", 0, 0);
        add_comm(&streams[r], 42, r, 2, "comm0");
        add_op(&streams[r], &late, 1, 90 * MS, 100 * MS);
        add_op(&streams[r], &allreduce, 2, begun, 20 * MS);
        late.queue = 4; /* another that waits at the same time, and moves longer */
        add_op(&streams[r], &late, 3, begun, 30 * MS);
        late.queue = 2;
        add_op(&streams[r], &message, 0, 40 * MS, 50 * MS);
        message.queue = 5;
        add_op(&streams[r], &message, 0, 1 * MS, 60 * MS);
        add_op(&streams[r], &message, 0, 25 * MS, 60 * MS);
        message.queue = 3;
        add_end(&streams[r]);
    }
    take(&trace, streams, 2);
    sums = trace_sums(&trace, &trace.comms[0]);
    assert_int_equal(trace.members[0].waiting, 6 * MS);
    assert_int_equal(trace.members[0].moving, 30 * MS);
    assert_int_equal(trace.members[0].other, 33 * MS);
    assert_int_equal(trace.members[1].waiting, 0);
    assert_int_equal(trace.members[1].moving, 30 * MS);
    assert_int_equal(trace.members[1].other, 39 * MS);
    assert_int_equal(trace.members[1].held, trace.members[0].waiting);
    assert_true(sums.waiting + sums.moving + sums.other <= sums.time);
    check_timeline(&trace);
    trace_free(&trace);
    forget(streams, 2);
}

/* ---- clocks ---- */

static void check_clocks(const struct job *job, int64_t within)
{
    struct bytes streams[MOST], true_streams[MOST];
    struct job one = *job;
    struct trace trace, truth;

    memset(one.offset, 0, sizeof one.offset);
    memset(one.ppm, 0, sizeof one.ppm);
    one.per_clock = 0;
    run(job, streams);
    run(&one, true_streams);
    take(&trace, streams, job->nranks);
    take(&truth, true_streams, job->nranks);
    assert_int_equal(trace.nops, truth.nops);
    assert_int_equal(trace.nclocks, job->nranks / job->per_clock);
    for (size_t i = 0; i < trace.nops; i++) {
        int64_t error = trace.ops[i].begun - truth.ops[i].begun - job->offset[0];

        if (llabs(error) > within)
            fail_msg("operation %zu: %d ns", i, (int)error);
    }
    for (size_t i = 1; i < trace.nclocks; i++) {
        const struct clock *clock = &trace.clocks[i];
        /* at the base, the clock shows that much more than clock 0 */
        double t = (double)(clock->base - job->offset[i]) / (1 + job->ppm[i] * 1e-6);
        int64_t right = job->offset[0] + (int64_t)t - clock->base;

        assert_int_equal(clock->contradiction, 0);
        assert_true(llabs(clock->offset - right) <= clock->bound);
        assert_true(clock->rate * 1e6 < -job->ppm[i] + 2 && clock->rate * 1e6 > -job->ppm[i] - 2);
    }
    assert_int_equal(named(&trace, 0), job->late);
    trace_free(&trace);
    trace_free(&truth);
    forget(streams, job->nranks);
    forget(true_streams, job->nranks);
}

static void clocks_are_aligned(void **state)
{
    struct job job = quiet;

    (void)state;
    job.per_clock = 2;
    job.nops = 2000;
    job.compute_ns = 5 * MS;
    job.offset[0] = 3 * SECOND;
    job.offset[1] = -77 * SECOND;
    job.ppm[1] = 20;
    check_clocks(&job, 30 * US);
    job.late = 3; /* on the other host */
    job.late_percent = 100;
    job.late_ns = 2 * MS;
    check_clocks(&job, 30 * US);
    job.late = 0;
    check_clocks(&job, 30 * US);
}

static void many_clocks_are_aligned(void **state)
{
    struct job job = quiet;

    (void)state;
    job.nranks = 16;
    job.per_clock = 1;
    job.nops = 1000;
    job.compute_ns = 2 * MS;
    for (int i = 1; i < 16; i++) {
        job.offset[i] = (int64_t)i * i * SECOND;
        job.ppm[i] = 4 * i - 40;
    }
    check_clocks(&job, 40 * US);
}

/* From hosts that share no communicator, or none where all wait for all. */
static void without_collectives_there_is_the_time_of_day(void **state)
{
    struct bytes streams[2] = {{0}};
    struct trace trace;
    char *text;

    (void)state;
    for (int r = 0; r < 2; r++) {
        struct trace_operation op = allreduce;

        snprintf(op.what, sizeof op.what, "broadcast");
        op.root = 0;
        add_process(&streams[r], 1 + (uint64_t)r, 1 + r, r ? "there" : "here",
                    100 * SECOND + 50 * r, 1700 * SECOND + 70 * r);
        add_comm(&streams[r], 42, r, 2, "comm0");
        add_op(&streams[r], &op, 1, 100 * SECOND + 1000, 100 * SECOND + 2000);
        add_end(&streams[r]);
    }
    take(&trace, streams, 2);
    assert_int_equal(trace.ops[1].begun, 100 * SECOND + 1000 + 20);
    text = text_of(&trace);
    must_say(text, "note: there's clock is set by CLOCK_REALTIME");
    free(text);
    trace_free(&trace);
    forget(streams, 2);
}

/* ---- what is not as it should be ---- */

/* All of it, on whatever there is. */
static void digest(const struct bytes *streams, int n)
{
    struct trace trace;

    take(&trace, streams, n);
    free(text_of(&trace));
    json_decref(json_of(&trace));
    json_decref(timeline_of(&trace));
    trace_free(&trace);
}

/* Who is late by less than that can be wrong is not named, but all others are not said to be as late. */
static void suspects_are_told(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    struct trace trace;
    char *text;

    (void)state;
    job.per_clock = 2;
    job.what = "allgatherv"; /* which is no proof of the clocks */
    job.late = 2;
    job.late_ns = 3 * MS;
    job.late_percent = 100;
    run(&job, streams);
    take(&trace, streams, 4);
    assert_int_equal(named(&trace, 0), -1);
    text = text_of(&trace);
    must_say(text, "No rank is clearly late: rank 2 seems to be, by 3.0");
    must_not_say(text, "by turns");
    free(text);
    trace_free(&trace);
    forget(streams, 4);
}

static void cut_streams_are_used(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    struct trace trace;
    size_t whole;

    (void)state;
    job.nranks = 2;
    job.nops = 3;
    run(&job, streams);
    whole = streams[1].n;
    for (streams[1].n = 0; streams[1].n < whole; streams[1].n++) {
        size_t operation = sizeof(struct trace_frame) + sizeof(struct trace_operation);
        size_t before = 2 * sizeof(struct trace_frame) + sizeof(struct trace_process) +
                        sizeof(struct trace_comm);
        size_t expected = streams[1].n < before ? 0 : (streams[1].n - before) / operation;

        take(&trace, streams, 2);
        assert_false(trace.damaged);
        assert_int_equal(trace.nops, 3 + expected);
        assert_int_equal(trace.comms[0].nmatches, streams[1].n < before ? 3 : expected);
        assert_int_equal(trace.nnotes, 1);
        must_say(trace.notes[0], "without an end");
        trace_free(&trace);
        digest(streams, 2);
    }
    forget(streams, 2);
}

static void damage_is_named_with_its_place(void **state)
{
    enum { FRAME = sizeof(struct trace_frame), OPERATION = FRAME + sizeof(struct trace_operation) };
    enum {
        COMM = FRAME + sizeof(struct trace_process),
        FIRST = COMM + FRAME + sizeof(struct trace_comm)
    };
    enum { THIRD = FIRST + 2 * OPERATION };
    static const struct {
        size_t at;
        unsigned char byte;
        size_t frame;
        size_t collectives; /* that are left */
        const char *why;
    } cases[] = {
        {0, 2, 0, 0, "it is no recording of Thrum"},
        {FRAME, 'T', 0, 0, "no \"thrumtr1\" where a process is named"},
        {FRAME + offsetof(struct trace_process, monotonic_ns) + 7, 0x7f, 0, 0, "impossible time"},
        {COMM + FRAME + offsetof(struct trace_comm, rank), 2, COMM, 0, "rank 2 of 2"},
        {COMM + FRAME + offsetof(struct trace_comm, rank) + 3, 0x80, COMM, 0, "of 2, communicator"},
        {COMM + FRAME + offsetof(struct trace_comm, number), 0, COMM, 0, "number 0"},
        {THIRD + 4, 113, THIRD, 2, "a frame of 113 bytes"},
        {THIRD + 4, 104, THIRD, 2, "a frame of type 3 with 104 bytes, which should be 112"},
        {THIRD + FRAME, 99, THIRD, 2, "communicator number 99, which was not introduced"},
        {THIRD + FRAME + offsetof(struct trace_operation, begun_ns) + 7, 0x80, THIRD, 2,
         "an operation at impossible times"},
        {THIRD + FRAME + offsetof(struct trace_operation, ended_ns) + 4, 0, THIRD, 2,
         "an operation at impossible times"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job job = quiet;
        struct bytes streams[MOST];
        struct trace trace;
        char place[32];

        job.nranks = 2;
        run(&job, streams);
        streams[0].data[cases[i].at] = (char)cases[i].byte;
        take(&trace, streams, 2);
        assert_true(trace.damaged);
        assert_int_equal(trace.nnotes, 1);
        snprintf(place, sizeof place, "is damaged at byte %zu: ", cases[i].frame);
        must_say(trace.notes[0], place);
        must_say(trace.notes[0], cases[i].why);
        if (cases[i].frame > COMM) /* else there is one rank only */
            assert_int_equal(trace.comms[0].nmatches, cases[i].collectives);
        trace_free(&trace);
        forget(streams, 2);
    }
}

/* A file that is gone on with, by the same process or the next of its number, which numbers its communicators anew. */
static void files_may_be_gone_on_with(void **state)
{
    struct trace_comm other = {.nranks = 1, .number = 2, .name = "other"};
    struct trace_operation op = allreduce;
    struct bytes stream = {0};
    struct trace trace;

    (void)state;
    op.comm = 2;
    for (int k = 0; k < 3; k++) {
        add_process(&stream, 1, k < 2 ? 7 : 8, "here", 0, 0);
        for (uint64_t id = 1; id <= 2; id++) { /* the second has the number of the first */
            add_comm(&stream, 10 * (uint64_t)k + id, 0, 1, "comm0");
            add_op(&stream, &allreduce, 1, 10 * MS, 11 * MS);
        }
        add_comm(&stream, 10 * (uint64_t)k + 1, 0, 1, "comm0"); /* again */
        add_op(&stream, &allreduce, 2, 20 * MS, 21 * MS);
        other.id = 10 * (uint64_t)k + 3;
        add_frame(&stream, TRACE_COMM, &other, sizeof other, 0);
        add_op(&stream, &op, 1, 30 * MS, 31 * MS);
        add_op(&stream, &allreduce, 3, 40 * MS, 41 * MS);
        add_end(&stream);
    }
    take(&trace, &stream, 1);
    assert_false(trace.damaged);
    assert_int_equal(trace.nnotes, 0);
    assert_int_equal(trace.nprocs, 2);
    assert_int_equal(trace.ncomms, 9);
    for (int i = 0; i < 9; i++)
        assert_int_equal(trace.comms[i].nmatches, i % 3 ? 1 : 3);
    trace_free(&trace);
    forget(&stream, 1);
}

/* Two claim to be the same rank, and two disagree on the size. */
static void claims_are_not_believed(void **state)
{
    struct bytes streams[3] = {{0}};
    struct trace trace;

    (void)state;
    for (int i = 0; i < 3; i++) {
        add_process(&streams[i], 1, 1 + i, "here", 0, 0);
        add_comm(&streams[i], 1, 0, i == 2 ? 3 : 2, "comm0");
        add_op(&streams[i], &allreduce, 1, 10 * MS, 11 * MS);
        add_end(&streams[i]);
    }
    take(&trace, streams, 3);
    assert_true(trace.damaged);
    assert_int_equal(trace.comms[0].nmembers, 1);
    assert_int_equal(trace.comms[0].nmatches, 1);
    must_say(trace.notes[0], "comm0 has 3 ranks here, and 2 elsewhere");
    must_say(trace.notes[1], "rank 0 was recorded by two processes");
    check_timeline(&trace);
    trace_free(&trace);
    forget(streams, 3);
}

static void damage_does_no_harm(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    unsigned seed = 4711;

    (void)state;
    job.nranks = 2;
    job.nops = 3;
    job.per_clock = 1;
    run(&job, streams);
    for (size_t i = 0; i < streams[0].n; i++)
        for (int flip = 0; flip < 3; flip++) {
            char was = streams[0].data[i];

            streams[0].data[i] = (char)(was ^ (flip == 0 ? 1 : flip == 1 ? 0x80 : 0xff));
            digest(streams, 2);
            streams[0].data[i] = was;
        }
    for (int round = 0; round < 3000; round++) {
        struct bytes damaged[2] = {{0}};

        for (int s = 0; s < 2; s++) {
            add(&damaged[s], streams[s].data, streams[s].n);
            for (int64_t k = 1 + chance(&seed, 10); k; k--) {
                int64_t at = chance(&seed, (int64_t)damaged[s].n / 8) * 8;
                uint64_t word = chance(&seed, 3) ? (uint64_t)chance(&seed, 256) << chance(&seed, 57)
                                                 : UINT64_MAX >> chance(&seed, 5);

                memcpy(damaged[s].data + at, &word, sizeof word);
            }
        }
        digest(damaged, 2);
        forget(damaged, 2);
    }
    forget(streams, 2);
}

static void what_is_not_known_is_skipped(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST], longer = {0};
    struct trace trace, other;
    json_t *a, *b;

    (void)state;
    job.nranks = 2;
    run(&job, streams);
    for (size_t at = 0; at < streams[1].n;) {
        struct trace_frame head;

        memcpy(&head, streams[1].data + at, sizeof head);
        add_frame(&longer, head.type, streams[1].data + at + sizeof head, head.bytes,
                  head.type == TRACE_END ? 16 : 24);
        if (at)
            add_frame(&longer, 77, "0123456789abcdef", 16, 8000);
        if (at)
            add_frame(&longer, 78, NULL, 0, 0);
        at += sizeof head + head.bytes;
    }
    add_end(&longer);
    take(&trace, streams, 2);
    free(streams[1].data);
    streams[1] = longer;
    for (size_t step = 1; step < 2000; step *= 3) {
        trace_init(&other);
        feed(&other, &streams[0], step, "a stream");
        feed(&other, &streams[1], step, "a stream");
        trace_sort(&other);
        trace_align(&other);
        trace_match(&other);
        other.members[1].until =
            trace.members[1].until; /* the end has a time there, an impossible one */
        a = json_of(&trace);
        b = json_of(&other);
        assert_true(json_equal(a, b));
        json_decref(a);
        json_decref(b);
        trace_free(&other);
    }
    trace_free(&trace);
    forget(streams, 2);
}

static void huge_numbers_are_told(void **state)
{
    struct trace_operation op = allreduce;
    struct bytes streams[2] = {{0}};
    struct trace_lost lost = {.comm = 1, .operations = UINT64_MAX};
    struct trace trace;
    char *text;

    (void)state;
    op.count = op.bytes = op.queue = UINT64_MAX;
    op.redop = UINT16_MAX;
    op.dtype = UINT8_MAX;
    op.root = op.peer = INT32_MAX;
    for (int i = 0; i < 2; i++) {
        add_process(&streams[i], UINT64_MAX, INT32_MIN, "\"\\\033[2J\xc3", INT64_MAX / 16,
                    INT64_MAX / 4);
        add_comm(&streams[i], UINT64_MAX, i ? INT32_MAX - 1 : 5, INT32_MAX, "\x9b\xc2\x9b\xff");
        for (int k = 0; k < 4; k++)
            add_op(&streams[i], &op, UINT64_MAX - (uint64_t)k % 3, 2 * US, INT64_MAX / 16);
        add_frame(&streams[i], TRACE_LOST, &lost, sizeof lost, 0);
        add_frame(&streams[i], TRACE_LOST, &lost, sizeof lost, 0);
        add_frame(&streams[i], TRACE_END, NULL, 0, 0);
    }
    take(&trace, streams, 2);
    assert_false(trace.damaged);
    text = text_of(&trace);
    must_say(text, "????, 2147483647 ranks");
    must_say(text, "\"\\?[2J?");
    must_say(text, "ranks 0 to 4, 6 to 2147483645 were not recorded");
    must_say(text, "2 operations were recorded twice");
    free(text);
    json_decref(json_of(&trace));
    check_timeline(&trace);
    trace_free(&trace);
    forget(streams, 2);
}

/* Of whichever communicator: what is missing may have been among them. */
static void losses_are_told(void **state)
{
    struct trace_lost lost = {.comm = 0, .operations = 12},
                      lost_of_comm = {.comm = 1, .operations = 5};
    struct bytes streams[2] = {{0}};
    struct trace trace;
    char *text;

    (void)state;
    for (int r = 0; r < 2; r++) {
        add_process(&streams[r], 1, 1 + r, "here", 0, 0);
        add_comm(&streams[r], 42, r, 2, "comm0");
        add_op(&streams[r], &allreduce, 1, MS, 2 * MS);
        if (r) {
            add_frame(&streams[r], TRACE_LOST, &lost, sizeof lost, 0);
            add_frame(&streams[r], TRACE_LOST, &lost_of_comm, sizeof lost_of_comm, 0);
        } else {
            add_op(&streams[r], &allreduce, 2, 3 * MS, 0);
        }
        add_end(&streams[r]);
    }
    take(&trace, streams, 2);
    assert_false(trace.damaged);
    text = text_of(&trace);
    must_say(text, "note: a stream: 12 operations were not recorded for want of room");
    must_say(text, "5 operations of rank 1 were not recorded for want of room:\n  their time "
                   "counts as elsewhere");
    must_say(text, "in flight: allreduce #2: nothing is known of rank 1");
    must_not_say(text, "has not begun it");
    free(text);
    trace_free(&trace);
    forget(streams, 2);
}

static void missing_ranks_are_told(void **state)
{
    struct job job = quiet;
    struct bytes streams[MOST];
    struct trace trace;
    char *text;

    (void)state;
    run(&job, streams);
    take(&trace, streams + 1, 2);
    text = text_of(&trace);
    must_say(text, "comm0, 4 ranks on 1 host or more: 200 collectives");
    must_say(text, "ranks 0, 3 were not recorded");
    free(text);
    trace_free(&trace);
    forget(streams, 4);
}

static void who_has_not_begun_is_told(void **state)
{
    struct bytes streams[4] = {{0}};
    struct trace trace;
    char *text;
    json_t *json, *flight;

    (void)state;
    for (int r = 0; r < 4; r++) {
        int64_t when = 100 * SECOND + 4100 * MS;

        add_process(&streams[r], 1, 1 + r, "here", 100 * SECOND, 0);
        add_comm(&streams[r], 42, r, 4, "comm0");
        add_op(&streams[r], &allreduce, 1, 100 * SECOND + 100, 100 * SECOND + 200);
        if (r != 2)
            add_op(&streams[r], &allreduce, 2, 101 * SECOND, 0);
        add_frame(&streams[r], TRACE_END, &when, sizeof when, 0);
    }
    take(&trace, streams, 4);
    text = text_of(&trace);
    must_say(text, "1 collective in ");
    must_say(text, "in flight: allreduce #2 since 3.10 s: rank 2 has not begun it");
    must_not_say(text, "No rank is clearly late");
    json = json_of(&trace);
    flight = json_array_get(
        json_object_get(json_array_get(json_object_get(json, "communicators"), 0), "in_flight"), 0);
    assert_true(json_number_value(json_array_get(json_object_get(flight, "not_begun"), 0)) == 2);
    assert_int_equal(check_timeline(&trace), 4 + 3);
    json_decref(json);
    free(text);
    trace_free(&trace);
    forget(streams, 4);
}

/* Processes that were killed: what takes long was told before, with a time; and once more where it has ended. */
static void what_was_told_before_its_end_counts_once(void **state)
{
    struct bytes streams[3] = {{0}};
    struct trace trace;
    char *text;

    (void)state;
    for (int r = 0; r < 3; r++) {
        struct trace_time time = {.comm = 1, .monotonic_ns = 107 * SECOND};

        add_process(&streams[r], 1, 1 + r, "here", 100 * SECOND, 0);
        add_comm(&streams[r], 42, r, 3, "comm0");
        if (r) {
            add_op(&streams[r], &allreduce, 1, 101 * SECOND, 0);
            add_frame(&streams[r], TRACE_TIME, &time, sizeof time, 0);
        }
        add_op(&streams[r], &allreduce, 1, (r ? 101 : 103) * SECOND, 104 * SECOND);
        if (r)
            add_op(&streams[r], &allreduce, 2, 105 * SECOND, 0);
        add_frame(&streams[r], TRACE_TIME, &time, sizeof time, 0);
    }
    take(&trace, streams, 3);
    text = text_of(&trace);
    must_say(text, "1 collective in 3.00 s");
    must_say(text, "in flight: allreduce #2 since 2.00 s: rank 0 has not begun it");
    must_not_say(text, "recorded twice");
    assert_int_equal(check_timeline(&trace), 3 + 2 + 2);
    free(text);
    trace_free(&trace);
    forget(streams, 3);
}

/* Operations of one queue that overlap, queues that communicators share, and ranks that share a process. */
static void timelines_are_sound(void **state)
{
    struct bytes stream = {0};
    unsigned seed = 7;
    struct trace trace;
    json_t *json, *events, *event;
    size_t i, names = 0;

    (void)state;
    add_process(&stream, 1, 1, "here", 0, 0);
    for (uint32_t c = 1; c <= 3; c++) {
        struct trace_comm comm = {
            .id = c / 2, .rank = (int)c, .nranks = 9, .number = c, .name = "\"quoted\" \\"};

        add_frame(&stream, TRACE_COMM, &comm, sizeof comm, 0);
    }
    for (int k = 0; k < 500; k++) {
        struct trace_operation op = allreduce;
        int64_t begun = 1 + chance(&seed, 10 * MS);

        op.comm = 1 + (uint32_t)chance(&seed, 3);
        op.queue = (uint64_t)chance(&seed, 4);
        op.peer = (int)chance(&seed, 3) - 1;
        add_op(&stream, &op, (uint64_t)k % 3, begun,
               chance(&seed, 10) ? begun + chance(&seed, MS) : 0);
    }
    take(&trace, &stream, 1);
    assert_true(check_timeline(&trace) >= 500);
    json = timeline_of(&trace);
    events = json_object_get(json, "traceEvents");
    json_array_foreach(events, i, event)
    {
        const char *name = json_string_value(json_object_get(event, "name"));

        names += !strcmp(name, "process_name");
        if (!strcmp(name, "thread_name")) /* that has several ranks */
            must_say(json_string_value(json_object_get(json_object_get(event, "args"), "name")),
                     ", \"quoted\" \\");
    }
    assert_int_equal(names, 1); /* as it is one process */
    json_decref(json);
    trace_free(&trace);
    forget(&stream, 1);
}

/* The event that has this value behind this key; fails if it is not the only one. */
static json_t *event_of(json_t *timeline, const char *key, const char *value)
{
    json_t *event, *found = NULL;
    size_t i;

    json_array_foreach(json_object_get(timeline, "traceEvents"), i, event)
    {
        const char *text = json_string_value(json_object_get(event, key));

        if (!text) /* metadata have their names a level below */
            continue;
        if (!strcmp(text, "process_name") || !strcmp(text, "thread_name"))
            text = json_string_value(json_object_get(json_object_get(event, "args"), "name"));
        if (strcmp(text, value) != 0)
            continue;
        assert_null(found);
        found = event;
    }
    if (!found)
        fail_msg("no %s \"%s\"", key, value);
    return found;
}

/* Processes keep their numbers where they can; what waits, and what has not ended, says so. */
static void timelines_say_who_and_what(void **state)
{
    static const char *const hosts[] = {"node7", "node8", "node8"};
    static const int pids[] = {4711, 4711, 4712};
    struct bytes streams[3] = {{0}};
    struct trace trace;
    json_t *json, *event, *args;

    (void)state;
    for (int r = 0; r < 3; r++) {
        add_process(&streams[r], 1, pids[r], hosts[r], 0, 0);
        add_comm(&streams[r], 42, r, 3, "comm0");
        add_op(&streams[r], &allreduce, 1, (r == 1 ? 7 : 5) * MS, 8 * MS);
        if (!r)
            add_op(&streams[r], &allreduce, 2, 9 * MS, 0);
        add_frame(&streams[r], TRACE_TIME, &(struct trace_time){.comm = 1, .monotonic_ns = 20 * MS},
                  sizeof(struct trace_time), 0);
        add_end(&streams[r]);
    }
    take(&trace, streams, 3);
    json = timeline_of(&trace);
    assert_true(number(event_of(json, "name", "rank 2 (node8)"), "pid") == 4712);
    assert_true(number(event_of(json, "name", "rank 0 (node7, process 4711)"), "pid") !=
                number(event_of(json, "name", "rank 1 (node8, process 4711)"), "pid"));
    event = event_of(json, "name", "allreduce 4 MiB, not ended: rank 1 has not begun it");
    args = json_object_get(event, "args");
    assert_true(number(event, "dur") == 11000);
    assert_true(number(args, "sequence") == 2);
    assert_true(number(args, "us from call to begin") == 2);
    assert_null(json_object_get(args, "GB/s"));
    trace.ops[0].waited = 0; /* rank 2 alone waits */
    json_decref(json);
    json = timeline_of(&trace);
    event = event_of(json, "name", "wait for rank 1");
    assert_true(number(event, "pid") == 4712 && number(event, "dur") == 2000);
    args = json_object_get(event, "args");
    assert_string_equal(json_string_value(json_object_get(args, "in")), "allreduce");
    assert_true(number(args, "sequence") == 1);
    json_decref(json);
    trace_free(&trace);
    forget(streams, 3);
}

/* Many sizes: the 20 with the most time, and the rest. */
static void many_kinds_are_folded(void **state)
{
    struct bytes stream = {0};
    struct trace trace;
    char *text;
    size_t lines = 0;

    (void)state;
    add_process(&stream, 1, 1, "here", 0, 0);
    add_comm(&stream, 1, 0, 1, "comm0");
    for (int i = 1; i <= 50; i++) {
        struct trace_operation op = allreduce;

        op.bytes = (uint64_t)i * 4;
        add_op(&stream, &op, (uint64_t)i, i * MS, i * MS + i * US);
    }
    add_end(&stream);
    take(&trace, &stream, 1);
    text = text_of(&trace);
    must_say(text, "allreduce float32 sum 200 B ");
    must_say(text, "\n  30 others ");
    must_not_say(text, "allreduce float32 sum 120 B ");
    for (const char *c = text; (c = strstr(c, "allreduce float32")); c++)
        lines++;
    assert_int_equal(lines, 20);
    for (const char *c = text, *end; *c; c = end + 1) {
        end = strchr(c, '\n');
        assert_non_null(end);
        assert_true(end - c <= 100);
    }
    free(text);
    trace_free(&trace);
    forget(&stream, 1);
}

/* They number their communicators and queues as they happen to come. */
static void ranks_of_one_process_are_in_order(void **state)
{
    static const int order[] = {2, 0, 1};
    struct bytes stream = {0};
    struct trace trace;
    char name[16];
    json_t *json;

    (void)state;
    add_process(&stream, 1, 1, "here", 0, 0);
    for (int i = 0; i < 3; i++) {
        struct trace_operation op = allreduce;

        op.queue = (uint64_t)i;
        snprintf(name, sizeof name, "comm%d", 7 - order[i]);
        add_comm(&stream, 42, order[i], 3, name);
        add_op(&stream, &op, 1, MS, 2 * MS);
    }
    add_end(&stream);
    take(&trace, &stream, 1);
    assert_string_equal(trace.comms[0].name, "comm7"); /* rank 0's */
    json = timeline_of(&trace);
    (void)event_of(json, "name", "ranks 0 to 2 (here)");
    assert_true(number(event_of(json, "name", "rank 0, queue 1, comm7"), "tid") == 1);
    assert_true(number(event_of(json, "name", "rank 1, queue 2, comm7"), "tid") == 2);
    assert_true(number(event_of(json, "name", "rank 2, queue 0, comm7"), "tid") == 3);
    json_decref(json);
    trace_free(&trace);
    forget(&stream, 1);
}

static void idle_communicators_are_one_line(void **state)
{
    struct bytes stream = {0};
    struct trace trace;
    char *text;

    (void)state;
    add_process(&stream, 1, 1, "here", 0, 0);
    add_comm(&stream, 42, 0, 1, "idle");
    add_end(&stream);
    take(&trace, &stream, 1);
    text = text_of(&trace);
    assert_string_equal(text, "idle, 1 rank on 1 host: 0 collectives\n");
    free(text);
    trace_free(&trace);
    forget(&stream, 1);
}

/* Of many communicators those come first in which time is spent; one in which something hangs is not left out. */
static void communicators_that_matter_come_first(void **state)
{
    struct bytes streams[2] = {{0}};
    struct trace trace;
    char *text;

    (void)state;
    for (int r = 0; r < 2; r++) {
        add_process(&streams[r], 1, 1 + r, "here", 0, 0);
        for (uint32_t i = 1; i <= 20; i++) {
            struct trace_comm comm = {.id = i, .rank = r, .nranks = 2, .number = i};
            struct trace_operation op = allreduce;

            op.comm = i;
            snprintf(comm.name, sizeof comm.name, "comm%u", i);
            add_frame(&streams[r], TRACE_COMM, &comm, sizeof comm, 0);
            add_op(&streams[r], &op, 1, MS, MS + i * US);
            if (i == 4)
                add_op(&streams[r], &op, 2, 3 * MS, 0);
        }
        add_comm(&streams[r], 42, r, 2, "idle");
        add_end(&streams[r]);
    }
    take(&trace, streams, 2);
    text = text_of(&trace);
    assert_int_equal(strncmp(text, "comm20, 2 ranks", 15), 0);
    must_say(text, "\ncomm11, 2 ranks");
    must_say(text, "\ncomm4, 2 ranks");
    must_not_say(text, "\ncomm10, ");
    must_not_say(text, "\ncomm1, ");
    must_say(text, "\nand 10 communicators, in which less time was spent; --all lists them\n");
    free(text);
    trace_free(&trace);
    forget(streams, 2);
}

/* ---- the program ---- */

static char said[1 << 16];

/* Runs it; returns its exit status. */
static int trace_program(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int trace_program(const char *format, ...)
{
    char command[512] = "./thrum-trace ";
    va_list arguments;
    size_t n;
    FILE *pipe;
    int status;

    va_start(arguments, format);
    vsnprintf(command + strlen(command), sizeof command - 64, format, arguments);
    va_end(arguments);
    strcat(command, " 2>&1");
    pipe = popen(command, "re");
    assert_non_null(pipe);
    n = fread(said, 1, sizeof said - 1, pipe);
    said[n] = 0;
    status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void put_file(const char *path, const struct bytes *bytes)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes->data, 1, bytes->n, file), bytes->n);
    assert_int_equal(fclose(file), 0);
}

static void files_are_read(void **state)
{
    char folder[] = "/tmp/trace_test-XXXXXX", path[64];
    struct bytes streams[MOST];
    struct job job = quiet;
    struct stat about;

    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(trace_program("%s", folder), 3);
    must_say(said, "nothing is recorded there");
    run(&job, streams);
    for (int r = 0; r < 4; r++) {
        snprintf(path, sizeof path, "%s/node-%d.trace", folder, r);
        put_file(path, &streams[r]);
    }
    assert_int_equal(trace_program("-o %s/timeline.json %s", folder, folder), 0);
    must_say(said, "comm0, 4 ranks on 1 host: 200 collectives");
    snprintf(path, sizeof path, "%s/timeline.json", folder);
    assert_int_equal(stat(path, &about), 0);
    assert_true(about.st_size > 100000);
    assert_int_equal(trace_program("%s/node-1.trace", folder), 0);
    must_say(said, "ranks 0, 2, 3 were not recorded");
    assert_int_equal(trace_program("%s", path), 1); /* no recording */
    must_say(said, "timeline.json is damaged at byte 0: it is no recording of Thrum");
    assert_int_equal(trace_program("-o %s/no/such %s", folder, folder), 2);
    must_say(said, "no/such: No such file or directory");
    assert_int_equal(trace_program("-o /dev/full %s", folder), 2);
    must_say(
        said,
        "comm0, 4 ranks on 1 host: 200 collectives"); /* it may be all there is of a long recording */
    must_say(said, "/dev/full: No space left on device");
    assert_int_equal(trace_program("-o %s %s/node-1.trace/x", path, folder), 2);
    assert_int_equal(stat(path, &about), 0);
    assert_true(about.st_size >
                100000); /* what was there is kept until there is something better */
    assert_int_equal(trace_program("%s/absent", folder), 2);
    must_say(said, "absent: No such file or directory");
    assert_int_equal(trace_program("--pid 1 %s", folder), 2);
    assert_int_equal(trace_program("--seconds x"), 2);
    must_say(said, "--seconds x: a number of seconds is wanted");
    assert_int_equal(unlink(path), 0);
    for (int r = 0; r < 4; r++) {
        snprintf(path, sizeof path, "%s/node-%d.trace", folder, r);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
    forget(streams, 4);
}

/* ---- running processes ---- */

enum manner { ANSWERS, SILENT, STOPS, CLOSES, GARBAGE };

static void must_send(int fd, const struct bytes *bytes, size_t from, size_t until)
{
    while (from < until) {
        ssize_t n = send(fd, bytes->data + from, until - from, MSG_NOSIGNAL);

        if (n <= 0)
            _exit(0); /* it has hung up */
        from += (size_t)n;
    }
}

static void serve(int caller, enum manner manner, const struct bytes *stream)
{
    char byte;

    switch (manner) {
    case ANSWERS:
        must_send(caller, stream, 0, stream->n / 2);
        while (recv(caller, &byte, 1, 0) > 0)
            ;
        must_send(caller, stream, stream->n / 2, stream->n);
        break;
    case SILENT:
        pause();
        break;
    case STOPS:
        must_send(caller, stream, 0, stream->n / 2);
        raise(SIGSTOP);
        break;
    case CLOSES:
        break;
    case GARBAGE:
        must_send(caller, &(struct bytes){.data = said}, 0, sizeof said);
        break;
    }
}

/* A process that listens as one with communicators does. */
static pid_t fake(enum manner manner, const struct bytes *stream)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct stat space;
    int ready[2], n;
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(stat("/proc/self/ns/pid", &space), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        int door = socket(AF_UNIX, SOCK_STREAM, 0);

        n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, TRACE_SOCKET "%d-%llu",
                     (int)getpid(), (unsigned long long)space.st_ino);
        if (bind(door, (const struct sockaddr *)&name,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ||
            listen(door, 8) || write(ready[1], "r", 1) != 1)
            _exit(1);
        serve(accept(door, NULL, NULL), manner, stream);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void finish(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void running_processes_are_recorded(void **state)
{
    struct bytes streams[MOST];
    struct job job = quiet;
    int64_t begin;
    pid_t pids[2];

    (void)state;
    job.nranks = 2;
    run(&job, streams);
    pids[0] = fake(ANSWERS, &streams[0]);
    pids[1] = fake(ANSWERS, &streams[1]);
    begin = now_ns();
    assert_int_equal(trace_program("-s 60 -o /no/such/file"),
                     2); /* that is told before it records */
    assert_int_equal(trace_program("-s 60 -p %d", (int)getpid()), 3); /* so is this */
    must_say(said, "has no communicators here");
    assert_true(now_ns() - begin < 20 * SECOND);
    assert_int_equal(trace_program("-s 0.2"), 0);
    must_say(said, "comm0, 2 ranks on 1 host: 200 collectives in ");
    finish(pids[0]);
    finish(pids[1]);
    forget(streams, 2);
}

static void bad_processes_hold_nothing_up(void **state)
{
    struct bytes streams[MOST];
    struct job job = quiet;
    char line[96];
    int64_t begin;
    pid_t pids[6];

    (void)state;
    job.nranks = 4;
    run(&job, streams);
    pids[0] = fake(ANSWERS, &streams[0]);
    pids[1] = fake(ANSWERS, &streams[1]);
    pids[2] = fake(STOPS, &streams[2]);
    pids[3] = fake(SILENT, &streams[3]);
    pids[4] = fake(CLOSES, NULL);
    memset(said, 0xa5, sizeof said);
    pids[5] = fake(GARBAGE, NULL);
    begin = now_ns();
    assert_int_equal(trace_program("-s 0.2"), 1);
    assert_true(now_ns() - begin < 20 * SECOND);
    must_say(said, "comm0, 4 ranks on 1 host");
    must_say(said, "rank 3 was not recorded");
    snprintf(line, sizeof line, "process %d was not recorded to the end: stopped by a signal",
             (int)pids[2]);
    must_say(said, line);
    snprintf(line, sizeof line, "process %d was not recorded: it does not answer", (int)pids[3]);
    must_say(said, line);
    snprintf(line, sizeof line, "process %d is damaged at byte 0: it is no recording of Thrum",
             (int)pids[5]);
    must_say(said, line);
    for (int i = 0; i < 6; i++)
        finish(pids[i]);
    forget(streams, 4);
}

/* How long an operation is in flight is told though it has no end. */
static void running_processes_that_hang_are_recorded(void **state)
{
    struct bytes streams[2] = {{0}};
    pid_t pids[2];

    (void)state;
    for (int r = 0; r < 2; r++) {
        int64_t now = now_ns();

        add_process(&streams[r], 1, 1 + r, "here", now, 0);
        add_comm(&streams[r], 42, r, 2, "comm0");
        add_op(&streams[r], &allreduce, 1, now - 9000 * MS, now - 8900 * MS);
        if (!r)
            add_op(&streams[r], &allreduce, 2, now - 8000 * MS, 0);
        add_end(&streams[r]);
        pids[r] = fake(ANSWERS, &streams[r]);
    }
    assert_int_equal(trace_program("-s 0.3"), 0);
    must_say(said, "in flight: allreduce #2 since 8.");
    must_say(said, "rank 1 has not begun it");
    must_not_say(said, "since 8.0");
    for (int r = 0; r < 2; r++)
        finish(pids[r]);
    forget(streams, 2);
}

static void without_processes_it_says_so(void **state)
{
    (void)state;
    assert_int_equal(trace_program("--pid %d -s 0.1", (int)getpid()), 3);
    must_say(said, "has no communicators here");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_late_rank_is_named),
        cmocka_unit_test(a_rare_but_long_wait_is_named),
        cmocka_unit_test(nobody_is_named_where_nobody_is_late),
        cmocka_unit_test(few_collectives_name_nobody_by_chance),
        cmocka_unit_test(who_waits_for_whom),
        cmocka_unit_test(nobody_is_last_for_whom_nobody_waited),
        cmocka_unit_test(who_passes_lateness_on_is_told),
        cmocka_unit_test(overlapping_queues_count_once),
        cmocka_unit_test(clocks_are_aligned),
        cmocka_unit_test(many_clocks_are_aligned),
        cmocka_unit_test(without_collectives_there_is_the_time_of_day),
        cmocka_unit_test(suspects_are_told),
        cmocka_unit_test(cut_streams_are_used),
        cmocka_unit_test(damage_is_named_with_its_place),
        cmocka_unit_test(files_may_be_gone_on_with),
        cmocka_unit_test(claims_are_not_believed),
        cmocka_unit_test(damage_does_no_harm),
        cmocka_unit_test(what_is_not_known_is_skipped),
        cmocka_unit_test(huge_numbers_are_told),
        cmocka_unit_test(losses_are_told),
        cmocka_unit_test(missing_ranks_are_told),
        cmocka_unit_test(who_has_not_begun_is_told),
        cmocka_unit_test(what_was_told_before_its_end_counts_once),
        cmocka_unit_test(timelines_are_sound),
        cmocka_unit_test(timelines_say_who_and_what),
        cmocka_unit_test(many_kinds_are_folded),
        cmocka_unit_test(ranks_of_one_process_are_in_order),
        cmocka_unit_test(idle_communicators_are_one_line),
        cmocka_unit_test(communicators_that_matter_come_first),
        cmocka_unit_test(files_are_read),
        cmocka_unit_test(running_processes_are_recorded),
        cmocka_unit_test(bad_processes_hold_nothing_up),
        cmocka_unit_test(running_processes_that_hang_are_recorded),
        cmocka_unit_test(without_processes_it_says_so),
    };

    if (unshare(CLONE_NEWNET)) /* with processes of others on this host, if that is how it is */
        print_message("# not alone on this host\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
