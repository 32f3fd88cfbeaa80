/*
 * What processes record of their operations and tell by TRACE_SOCKET: every operation once, with times in order; what has not
 * ended as it is; nothing, and no harm, where nobody listens, or nobody reads.
 */
#include "trace_streams.h"

static void operations_are_told_once_and_in_order(void **state)
{
    struct stream streams[2];
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    for (int r = 0; r < 2; r++) {
        streams[r] = listen_to(crew.pids[r]);
        hear_comm(&streams[r]);
    }
    crew_say_all(&crew, "sums 3000");
    crew_expect_all(&crew, "summed");
    for (int r = 0; r < 2; r++) {
        hear_operations(&streams[r], 3000);
        hear_end(&streams[r]);
        assert_int_equal(streams[r].processes, 1);
        assert_int_equal(streams[r].comms, 1);
        assert_int_equal(streams[r].last_comm.rank, r);
        assert_int_equal(streams[r].last_comm.nranks, 2);
        assert_string_equal(streams[r].last_comm.name, "comm0");
        assert_int_equal(streams[r].n, 3000);
        assert_int_equal(streams[r].lost, 0);
        for (size_t i = 0; i < 3000; i++)
            must_be_a_sum(&streams[r].operations[i], i + 1);
    }
    assert_true(streams[0].last_comm.id == streams[1].last_comm.id);
    /* nobody ends before everybody has begun: one clock */
    for (size_t i = 0; i < 3000; i++)
        for (int r = 0; r < 2; r++)
            assert_true(streams[r].operations[i].ended_ns >= streams[!r].operations[i].begun_ns);
    forget(&streams[0]);
    forget(&streams[1]);
    end(&crew);
}

static void other_calls_are_told(void **state)
{
    static const char *const whats[2][5] = {
        {"broadcast", "allgatherv", "messages", "put", "signal"},
        {"broadcast", "allgatherv", "messages", "wait_signal", ""}};
    static const uint64_t bytes[2][5] = {{1000, 300, 56, 24, 0}, {1000, 300, 56, 0, 0}};
    struct stream streams[2];
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    for (int r = 0; r < 2; r++) {
        streams[r] = listen_to(crew.pids[r]);
        hear_comm(&streams[r]);
    }
    crew_say_all(&crew, "others");
    crew_expect_all(&crew, "did");
    for (int r = 0; r < 2; r++) {
        size_t n = r ? 4 : 5;

        hear_operations(&streams[r], n);
        hear_end(&streams[r]);
        assert_int_equal(streams[r].n, n);
        for (size_t i = 0; i < n; i++) {
            const struct trace_operation *o = &streams[r].operations[i];

            assert_string_equal(o->what, whats[r][i]);
            assert_int_equal(o->bytes, bytes[r][i]);
            assert_int_equal(o->sequence, i < 2 ? i + 1 : 0);
            assert_int_equal(o->root, i ? -1 : 1);
            assert_int_equal(o->peer, i < 2 ? -1 : !r);
            assert_true(o->begun_ns && o->begun_ns <= o->ended_ns);
        }
        forget(&streams[r]);
    }
    end(&crew);
}

/* Rank 0 waits in a sum that rank 1 does not call. */
static void what_has_not_ended_is_told(void **state)
{
    struct stream s, again;
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    crew_say_all(&crew, "sum");
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say(&crew, 0, "sum");
    hear_operations(&s, 1);
    for (int i = 0; i < 2; i++) { /* a second one is told the same */
        int64_t limit = clock_ms() + 20000;

        do {
            again = listen_to(crew.pids[0]);
            hear_comm(&again);
            hear_end(&again);
            assert_true(clock_ms() < limit);
            if (again.n)
                break;
            forget(&again); /* it has not called it yet */
        } while (true);
        assert_int_equal(again.n, 1);
        assert_int_equal(again.operations[0].sequence, 2);
        assert_true(again.operations[0].begun_ns > 0);
        assert_int_equal(again.operations[0].ended_ns, 0);
        forget(&again);
    }
    crew_say(&crew, 1, "sum");
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    hear_ended(&s, 2); /* and when it has ended it is told as ended */
    assert_true(s.operations[1].ended_ns >= s.operations[1].begun_ns);
    hear_end(&s);
    assert_int_equal(s.n, 2);
    forget(&s);
    end(&crew);
}

/* Who begins to listen when it hangs already is told what in, and since when. */
static void what_hangs_already_is_told(void **state)
{
    int64_t limit = clock_ms() + 20000;
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    crew_say_all(&crew, "sum");
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say(&crew, 0, "sum");
    for (;;) {
        poll(NULL, 0, 200);
        s = listen_to(crew.pids[0]);
        hear_comm(&s);
        poll(NULL, 0, 50); /* not from the start of the recording on */
        hear_end(&s);
        if (s.n)
            break;
        assert_true(clock_ms() < limit);
        forget(&s); /* it has not called it yet */
    }
    assert_int_equal(s.n, 1);
    assert_string_equal(s.operations[0].what, "allreduce");
    assert_int_equal(s.operations[0].sequence, 2);
    assert_int_equal(s.operations[0].count, 10);
    assert_int_equal(s.operations[0].dtype, THRUM_INT32);
    assert_int_equal(s.operations[0].root, -1);
    assert_int_equal(s.operations[0].ended_ns, 0);
    assert_true(s.operations[0].begun_ns > 0 &&
                s.operations[0].begun_ns < clock_ms() * 1000000 - 40000000);
    forget(&s);
    s = listen_to(crew.pids[1]); /* it waits for nothing */
    hear_comm(&s);
    hear_end(&s);
    assert_int_equal(s.n, 0);
    forget(&s);
    crew_say(&crew, 1, "sum");
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    end(&crew);
}

static void recording_stops_and_begins_again(void **state)
{
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    for (uint64_t round = 0; round < 3; round++) {
        s = listen_to(crew.pids[1]);
        hear_comm(&s);
        crew_say_all(&crew, "sums 20");
        crew_expect_all(&crew, "summed");
        hear_operations(&s, 20);
        must_be_a_sum(&s.operations[0], round * 40 + 1);
        if (round)
            hear_end(&s);
        forget(&s); /* the first one leaves without a word */
        poll(NULL, 0, 100);
        crew_say_all(&crew, "sums 20"); /* for nobody */
        crew_expect_all(&crew, "summed");
    }
    end(&crew);
}

static void who_does_not_read_loses_and_holds_up_nobody(void **state)
{
    struct stream deaf, s;
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    deaf = listen_to(crew.pids[0]);
    hear_comm(&deaf);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    for (int i = 0; i < 30; i++) {
        crew_say_all(&crew, "sums 4000"); /* 14 MB of them: more than is kept */
        crew_expect_all(&crew, "summed");
        hear_operations(&s, (size_t)(i + 1) * 4000);
    }
    hear_end(&s);
    assert_int_equal(s.n, 30 * 4000);
    hear_end(&deaf);
    assert_true(deaf.n < s.n);
    assert_int_equal(deaf.n + deaf.lost, s.n);
    forget(&s);
    forget(&deaf);
    end(&crew);
}

/* Places for records are used up faster than they are told of: some are lost, and said to be. */
static void too_many_at_once_are_counted(void **state)
{
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    crew_say(&crew, 0, "sums 300000");
    crew_expect_all(&crew, "summed");
    crew_say(&crew, 0, "sums 1");
    crew_expect_all(&crew, "summed");
    hear_end(&s);
    assert_int_equal(s.n + s.lost, 300001);
    for (size_t i = 1; i < s.n; i++)
        assert_true(s.operations[i].sequence > s.operations[i - 1].sequence);
    forget(&s);
    end(&crew);
}

static void a_job_that_ends_says_so(void **state)
{
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    crew_say_all(&crew, "sums 100");
    crew_expect_all(&crew, "summed");
    end(&crew);
    while (s.fd >= 0)
        read_some(&s);
    parse(&s);
    assert_int_equal(s.n, 100);
    assert_int_equal(s.ends, 1);
    forget(&s);
}

/* More than fits into the socket is on its way to who has asked for the end, when the job ends: he gets all of it. */
static void who_asked_for_the_end_gets_it(void **state)
{
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    for (int i = 0; i < 3; i++) {
        crew_say(&crew, 0, "sums 4000");
        crew_expect(&crew, 0, "summed");
    }
    assert_int_equal(shutdown(s.fd, SHUT_WR), 0);
    poll(NULL, 0, 100); /* that was seen by then */
    crew_say(&crew, 0, "again");
    poll(NULL, 0, 20); /* it waits for us: by 300 ms at most */
    while (s.fd >= 0)
        read_some(&s);
    parse(&s);
    assert_int_equal(s.ends, 1);
    assert_int_equal(s.n + s.lost, 12000);
    forget(&s);
    crew_expect(&crew, 0, "destroyed");
    crew_say(&crew, 0, "join");
    crew_expect(&crew, 0, "joined");
    end(&crew);
}

/* That a call waits is not before it was made. */
static void calls_that_wait_were_made_before(void **state)
{
    const char *line;
    long long over[8];
    int which[8], n = 0, found = 0;
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    crew_say(&crew, 0, "too much");
    while (n < 8 &&
           sscanf(line = crew_hear(&crew, 0, 20000), "waited %d %lld", &which[n], &over[n]) == 2)
        n++;
    assert_string_equal(line, "did");
    hear_operations(&s, 3000);
    for (int i = 0; i < n; i++)
        found += s.operations[which[i]].called_ns <= over[i] - WAIT_NS / 2;
    assert_true(n > 0);
    assert_int_equal(found, n);
    hear_end(&s);
    forget(&s);
    end(&crew);
}

static void memory_of_records_is_told(void **state)
{
    unsigned long long before, now, limit, planned;
    struct stream s;
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    crew_say(&crew, 0, "memory");
    assert_int_equal(
        sscanf(crew_expect(&crew, 0, "memory"), "memory %llu %llu %llu", &before, &limit, &planned),
        3);
    s = listen_to(crew.pids[0]);
    hear_comm(&s);
    crew_say(&crew, 0, "memory");
    assert_int_equal(
        sscanf(crew_expect(&crew, 0, "memory"), "memory %llu %llu %llu", &now, &limit, &planned),
        3);
    assert_true(now >= before + 8192 * sizeof(struct trace_operation));
    assert_true(now <= limit && limit == planned);
    hear_end(&s);
    forget(&s);
    end(&crew);
}

static void not_where_it_is_not_wanted(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 1, "THRUM_RAS=0");
    assert_int_equal(connect_to(crew.pids[0]), -1);
    end(&crew);
}

static void more_listeners_wait(void **state)
{
    struct stream s[6];
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    for (int i = 0; i < 6; i++)
        s[i] = listen_to(crew.pids[0]);
    for (int i = 0; i < 4; i++)
        hear_comm(&s[i]);
    crew_say(&crew, 0, "sums 10");
    crew_expect_all(&crew, "summed");
    for (int i = 0; i < 4; i++) {
        hear_operations(&s[i], 10);
        hear_end(&s[i]);
        forget(&s[i]);
    }
    for (int i = 4; i < 6; i++) { /* there is room for them now */
        hear_comm(&s[i]);
        hear_end(&s[i]);
        assert_int_equal(s[i].n, 0);
        forget(&s[i]);
    }
    end(&crew);
}

int main(int argc, char **argv)
{
#define test(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)
    const struct CMUnitTest tests[] = {
        test(operations_are_told_once_and_in_order),
        test(other_calls_are_told),
        test(what_has_not_ended_is_told),
        test(what_hangs_already_is_told),
        test(recording_stops_and_begins_again),
        test(who_does_not_read_loses_and_holds_up_nobody),
        test(too_many_at_once_are_counted),
        test(a_job_that_ends_says_so),
        test(who_asked_for_the_end_gets_it),
        test(calls_that_wait_were_made_before),
        test(memory_of_records_is_told),
        test(not_where_it_is_not_wanted),
        test(more_listeners_wait),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests_name("trace_live", tests, NULL, NULL);
}
