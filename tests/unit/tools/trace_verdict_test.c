/* Tests of thrum-trace: who is late, where the time goes, and what the clocks say; reports and timelines tell it. */
#include "trace_jobs.h"

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

/* Two ranks that take turns do so unevenly: whoever is last in six of ten is not what the other one waits for. */
static void a_little_more_often_is_by_turns(void **state)
{
    struct bytes streams[MOST];
    struct job job = quiet;
    struct trace trace;
    char *text;

    (void)state;
    job.nranks = 2;
    job.nops = 1000;
    job.late = 1;
    job.late_percent = 20;
    job.late_ns = 900 * US;
    job.jitter_ns = 900 * US;
    job.seed = 7;
    run(&job, streams);
    take(&trace, streams, 2);
    assert_in_range(trace.members[trace.comms[0].members[1]].last, 550, 700);
    assert_int_equal(named(&trace, 0), -1);
    text = text_of(&trace);
    must_say(text, "No rank is clearly late: they wait for each other by turns");
    free(text);
    trace_free(&trace);
    forget(streams, 2);
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

/* ---- what is said besides ---- */

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

/* ---- timelines and tables ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_late_rank_is_named),
        cmocka_unit_test(a_rare_but_long_wait_is_named),
        cmocka_unit_test(nobody_is_named_where_nobody_is_late),
        cmocka_unit_test(few_collectives_name_nobody_by_chance),
        cmocka_unit_test(a_little_more_often_is_by_turns),
        cmocka_unit_test(who_waits_for_whom),
        cmocka_unit_test(nobody_is_last_for_whom_nobody_waited),
        cmocka_unit_test(who_passes_lateness_on_is_told),
        cmocka_unit_test(overlapping_queues_count_once),
        cmocka_unit_test(clocks_are_aligned),
        cmocka_unit_test(many_clocks_are_aligned),
        cmocka_unit_test(without_collectives_there_is_the_time_of_day),
        cmocka_unit_test(suspects_are_told),
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
