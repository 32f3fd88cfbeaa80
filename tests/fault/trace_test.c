/*
 * What processes record of their operations and tell by TRACE_SOCKET and into files of THRUM_TRACE: every operation once, with
 * times in order; what has not ended as it is; nothing, and no harm, where nobody listens, or nobody reads.
 */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/trace_format.h"

#define WAIT_NS 10000000 /* that a call waits where too many are under way, and none ends */

/* ---- roles ---- */

static void sum_again_and_again(struct child *child, int n)
{
    void *buffer;

    MUST(thrum_mem_alloc(child->device, 64, &buffer));
    for (int i = 0; i < n; i++)
        MUST(
            thrum_allreduce(buffer, buffer, 10, THRUM_INT32, THRUM_SUM, child->comm, child->queue));
    MUST(thrum_queue_synchronize(child->queue));
    MUST(thrum_mem_free(child->device, buffer));
}

static void other_calls(struct child *child)
{
    const uint64_t counts[] = {100, 200}, displs[] = {0, 100};
    int peer = !child->rank;
    void *buffer;
    thrum_window_t window;

    MUST(thrum_mem_alloc(child->device, 4096, &buffer));
    MUST(thrum_comm_register(child->comm, buffer, 4096, &window));
    MUST(thrum_broadcast(buffer, buffer, 1000, THRUM_UINT8, 1, child->comm, child->queue));
    MUST(thrum_allgatherv((uint8_t *)buffer + displs[child->rank], buffer, counts, displs,
                          THRUM_UINT8, child->comm, child->queue));
    if (child->rank) {
        MUST(thrum_send(buffer, 7, THRUM_FLOAT64, peer, child->comm, child->queue));
        MUST(thrum_wait_signal(peer, 1, child->comm, child->queue));
    } else {
        MUST(thrum_recv(buffer, 7, THRUM_FLOAT64, peer, child->comm, child->queue));
        MUST(thrum_put(buffer, 24, THRUM_UINT8, peer, window, 64, child->comm, child->queue));
        MUST(thrum_signal(peer, child->comm, child->queue));
    }
    MUST(thrum_queue_synchronize(child->queue));
    MUST(thrum_comm_deregister(window));
    MUST(thrum_mem_free(child->device, buffer));
}

/* A queue that stands until this is set. */
static _Atomic bool is_open;

static thrum_status_t stand(void *argument)
{
    (void)argument;
    return atomic_load(&is_open) ? THRUM_OK : THRUM_IN_PROGRESS;
}

static int64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Calls more than can be under way: some of the calls wait. Says which, and when they were over. */
static void call_too_much(struct child *child)
{
    void *buffer;

    MUST(thrum_mem_alloc(child->device, 64, &buffer));
    MUST(thrum_queue_callback(child->queue, stand, NULL));
    for (int i = 0; i < 3000; i++) {
        int64_t start = clock_ns(), end;

        MUST(
            thrum_allreduce(buffer, buffer, 10, THRUM_INT32, THRUM_SUM, child->comm, child->queue));
        end = clock_ns();
        if (end - start >= WAIT_NS)
            say("waited %d %lld", i, (long long)end);
    }
    atomic_store(&is_open, true);
    MUST(thrum_queue_synchronize(child->queue));
    MUST(thrum_mem_free(child->device, buffer));
}

static void say_memory(struct child *child)
{
    struct thrum_comm_memory_info plan = {.size = sizeof plan}, now = {.size = sizeof now};

    MUST(thrum_comm_memory_plan(child->nranks, NULL, &plan));
    MUST(thrum_comm_memory(child->comm, &now));
    say("memory %llu %llu %llu", (unsigned long long)now.host_bytes,
        (unsigned long long)now.host_limit_bytes, (unsigned long long)plan.host_limit_bytes);
}

/* Joins; then does what it hears, until "end" or "leave" (at once, without an end of the communicator). */
static void obey(struct child *child)
{
    thrum_status_t status;
    bool right;

    child_join(child);
    say("joined");
    for (;;) {
        const char *line = hear();

        if (!strncmp(line, "sums ", 5)) {
            sum_again_and_again(child, atoi(line + 5));
            say("summed");
        } else if (!strcmp(line, "sum")) {
            status = child_sum(child, child->comm, 10, &right);
            say_result(status);
        } else if (!strcmp(line, "others")) {
            other_calls(child);
            say("did");
        } else if (!strcmp(line, "too much")) {
            call_too_much(child);
            say("did");
        } else if (!strcmp(line, "memory")) {
            say_memory(child);
        } else if (!strcmp(line, "at once")) { /* what another communicator is made for */
            thrum_comm_destroy(child->comm);
            child->comm = NULL;
            MUST(thrum_comm_init(child->device, NULL, &child->comm));
            sum_again_and_again(child, 50);
            say("summed");
        } else if (!strcmp(line, "again")) { /* with another communicator, when it is told to */
            thrum_comm_destroy(child->comm);
            child->comm = NULL;
            say("destroyed");
            (void)hear();
            MUST(thrum_comm_init(child->device, NULL, &child->comm));
            say("joined");
        } else if (!strcmp(line, "leave")) {
            poll(NULL, 0, 100); /* what had ended is in the file by then */
            _exit(0);
        } else {
            break;
        }
    }
    child_close(child);
    say("closed");
}

static const struct role roles[] = {{"obey", obey}};

/* ---- streams ---- */

struct stream {
    int fd;
    uint8_t *data;
    size_t bytes;
    /* what was found in it */
    int processes, comms, ends, times;
    uint32_t comm; /* number of the newest */
    struct trace_comm last_comm;
    struct trace_operation *operations;
    size_t n;
    uint64_t lost;
};

static int connect_to(pid_t pid)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), n;
    struct stat space;

    assert_true(fd >= 0);
    assert_int_equal(stat("/proc/self/ns/pid", &space), 0);
    n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, TRACE_SOCKET "%d-%llu", (int)pid,
                 (unsigned long long)space.st_ino);
    if (connect(fd, (const struct sockaddr *)&name,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n))) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct stream listen_to(pid_t pid)
{
    struct stream s = {.fd = connect_to(pid)};

    assert_true(s.fd >= 0);
    return s;
}

static void read_some(struct stream *s)
{
    ssize_t n;

    s->data = realloc(s->data, s->bytes + 65536);
    assert_non_null(s->data);
    n = read(s->fd, s->data + s->bytes, 65536);
    assert_true(n >= 0);
    s->bytes += (size_t)n;
    if (!n) {
        close(s->fd);
        s->fd = -1;
    }
}

/* Frames, each of the right size; the first is the process. */
static void parse(struct stream *s)
{
    size_t at = 0;

    free(s->operations);
    s->operations = calloc(s->bytes / sizeof *s->operations + 1, sizeof *s->operations);
    s->n = 0;
    s->processes = s->comms = s->ends = s->times = 0;
    s->lost = 0;
    while (at + sizeof(struct trace_frame) <= s->bytes) {
        struct trace_frame frame;
        struct trace_process process;
        struct trace_lost lost;

        memcpy(&frame, s->data + at, sizeof frame);
        if (frame.bytes > s->bytes - at - sizeof frame)
            return;
        at += sizeof frame;
        assert_true(at > sizeof frame || frame.type == TRACE_PROCESS);
        switch (frame.type) {
        case TRACE_PROCESS:
            assert_int_equal(frame.bytes, sizeof process);
            memcpy(&process, s->data + at, sizeof process);
            assert_memory_equal(process.magic, TRACE_MAGIC, 8);
            assert_true(process.clock && process.monotonic_ns && process.realtime_ns);
            assert_true(*process.host && *process.program);
            s->processes++;
            break;
        case TRACE_COMM:
            assert_int_equal(frame.bytes, sizeof s->last_comm);
            memcpy(&s->last_comm, s->data + at, sizeof s->last_comm);
            s->comm = s->last_comm.number;
            assert_true(s->comm);
            s->comms++;
            break;
        case TRACE_OPERATION:
            assert_int_equal(frame.bytes, sizeof *s->operations);
            memcpy(&s->operations[s->n], s->data + at, sizeof *s->operations);
            assert_true(s->comms && s->operations[s->n].comm <= s->comm);
            if (s->n && s->operations[s->n].sequence && !s->operations[s->n - 1].ended_ns &&
                s->operations[s->n].sequence == s->operations[s->n - 1].sequence)
                s->operations[s->n - 1] = s->operations[s->n]; /* the last holds */
            else
                s->n++;
            break;
        case TRACE_LOST:
            assert_int_equal(frame.bytes, sizeof lost);
            memcpy(&lost, s->data + at, sizeof lost);
            s->lost += lost.operations;
            break;
        case TRACE_TIME:
            assert_int_equal(frame.bytes, sizeof(struct trace_time));
            s->times++;
            break;
        default:
            assert_int_equal(frame.type, TRACE_END);
            assert_int_equal(frame.bytes, sizeof(struct trace_end));
            s->ends++;
        }
        at += frame.bytes;
    }
}

/* Until it has so many operations. */
static void hear_operations(struct stream *s, size_t n)
{
    int64_t end = clock_ms() + 20000;

    for (parse(s); s->n < n; parse(s)) {
        struct pollfd ready = {.fd = s->fd, .events = POLLIN};

        assert_true(clock_ms() < end && s->fd >= 0);
        if (poll(&ready, 1, 100) > 0)
            read_some(s);
    }
}

/* The same, and the last has ended. */
static void hear_ended(struct stream *s, size_t n)
{
    hear_operations(s, n);
    while (!s->operations[n - 1].ended_ns) {
        read_some(s);
        parse(s);
        assert_true(s->fd >= 0 && s->n == n);
    }
}

/* Whoever listens is recorded for from the moment that it has been told of a communicator. */
static void hear_comm(struct stream *s)
{
    for (parse(s); !s->comms; parse(s))
        read_some(s);
}

static void hear_end(struct stream *s)
{
    assert_int_equal(shutdown(s->fd, SHUT_WR), 0);
    while (s->fd >= 0)
        read_some(s);
    parse(s);
    assert_int_equal(s->ends, 1);
}

static void forget(struct stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    free(s->data);
    free(s->operations);
    *s = (struct stream){.fd = -1};
}

static void start(struct crew *crew, int nranks, const char *setting)
{
    const char *const env[] = {setting, NULL};

    crew_start(crew, "obey", nranks, env);
    crew_expect_all(crew, "joined");
}

static void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_expect_all(crew, "closed");
    crew_finish(crew);
}

static void must_be_a_sum(const struct trace_operation *o, uint64_t sequence)
{
    assert_int_equal(o->sequence, sequence);
    assert_string_equal(o->what, "allreduce");
    assert_true(*o->algorithm && memchr(o->algorithm, 0, sizeof o->algorithm));
    assert_int_equal(o->count, 10);
    assert_int_equal(o->bytes, 40);
    assert_int_equal(o->dtype, THRUM_INT32);
    assert_int_equal(o->redop, THRUM_SUM);
    assert_int_equal(o->root, -1);
    assert_int_equal(o->peer, -1);
    assert_true(o->queue);
    assert_true(o->called_ns > 0 && o->called_ns <= o->begun_ns && o->begun_ns <= o->ended_ns);
}

/* ---- live ---- */

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

/* ---- files ---- */

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "%s", "/tmp/thrum-trace-test-XXXXXX");
    return leftovers_before(state) || !mkdtemp(folder);
}

static struct stream read_file(const char *name)
{
    struct stream s = {.fd = -1};
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    s.fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(s.fd >= 0);
    while (s.fd >= 0)
        read_some(&s);
    parse(&s);
    return s;
}

/* The only file there whose name ends so, which is removed. */
static struct stream take_file(const char *ending)
{
    DIR *dir = opendir(folder);
    struct stream s = {.fd = -1};
    struct dirent *entry;
    char path[512];
    int found = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        size_t length = strlen(entry->d_name);

        if (length < strlen(ending) || strcmp(entry->d_name + length - strlen(ending), ending))
            continue;
        s = read_file(entry->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
        found++;
    }
    closedir(dir);
    assert_int_equal(found, 1);
    return s;
}

static int remove_folder(void **state)
{
    return rmdir(folder) || leftovers_after(state);
}

static void files_have_all(void **state)
{
    char setting[128], ending[64];
    pid_t pids[2];
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    memcpy(pids, crew.pids, sizeof pids);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    end(&crew);
    for (int r = 0; r < 2; r++) {
        struct stream s;

        snprintf(ending, sizeof ending, "-%d.trace", (int)pids[r]);
        s = take_file(ending);
        assert_int_equal(s.n, 500);
        assert_int_equal(s.lost, 0);
        assert_int_equal(s.ends, 1);
        for (size_t i = 0; i < s.n; i++)
            must_be_a_sum(&s.operations[i], i + 1);
        forget(&s);
    }
}

/* Its file has what had ended; the other's also what never will. */
static void files_of_who_leaves(void **state)
{
    char setting[128], ending[64];
    struct stream s;
    struct crew crew;
    pid_t pids[2];

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    memcpy(pids, crew.pids, sizeof pids);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    crew_say(&crew, 0, "sum");
    crew_say(&crew, 1, "leave");
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, NULL);
    crew_wait(&crew, 1);
    crew_say(&crew, 0, "end");
    crew_expect(&crew, 0, "closed");
    crew_finish(&crew);
    snprintf(ending, sizeof ending, "-%d.trace", (int)pids[1]);
    s = take_file(ending);
    assert_int_equal(s.n, 500);
    forget(&s);
    snprintf(ending, sizeof ending, "-%d.trace", (int)pids[0]);
    s = take_file(ending);
    assert_true(s.times >= 1); /* a second one where the other took its time to leave */
    assert_int_equal(s.n, 501);
    assert_int_equal(s.operations[500].sequence, 501);
    assert_int_equal(s.operations[500].ended_ns, 0);
    assert_true(s.operations[500].begun_ns > 0);
    forget(&s);
}

/* That of a process that hangs, and is killed, has what it hung in. */
static void files_of_who_hangs(void **state)
{
    int64_t limit = clock_ms() + 20000;
    char setting[128], path[512];
    struct stream s = {.fd = -1};
    struct dirent **names;
    struct crew crew;
    int found;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    crew_say(&crew, 0, "sum");
    snprintf(path, sizeof path, "-%d.trace", (int)crew.pids[0]);
    while (s.n != 501) {
        poll(NULL, 0, 100);
        assert_true(clock_ms() < limit);
        forget(&s);
        found = scandir(folder, &names, NULL, NULL);
        for (int i = 0; i < found; i++) {
            if (strstr(names[i]->d_name, path))
                s = read_file(names[i]->d_name);
            free(names[i]);
        }
        free(names);
    }
    assert_int_equal(s.operations[500].sequence, 501);
    assert_int_equal(s.operations[500].ended_ns, 0);
    assert_true(s.operations[500].begun_ns > 0);
    assert_true(s.times > 0);
    forget(&s);
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGKILL);
    crew_finish(&crew);
    s = take_file(path);
    assert_int_equal(s.n, 501);
    forget(&s);
    s = take_file(".trace");
    assert_int_equal(s.n, 500);
    forget(&s);
}

/* What is called as soon as there is a communicator is in it, too. */
static void files_have_the_first_calls(void **state)
{
    char setting[128];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    for (int i = 0; i < 5; i++) {
        crew_say(&crew, 0, "at once");
        crew_expect(&crew, 0, "summed");
    }
    end(&crew);
    s = take_file(".trace");
    assert_int_equal(s.n, 250);
    assert_int_equal(s.lost, 0);
    forget(&s);
}

/* A disk that is full: what is there can be read to its end, also of a communicator that comes when there is room. */
static void files_end_with_whole_frames(void **state)
{
    struct rlimit before, little = {.rlim_cur = 1003};
    char setting[128], ending[64];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, NULL, &before), 0);
    little.rlim_max = before.rlim_max;
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, &little, NULL), 0);
    crew_say(&crew, 0, "sums 50");
    crew_expect(&crew, 0, "summed");
    crew_say(&crew, 0, "again");
    crew_expect(&crew, 0, "destroyed");
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, &before, NULL), 0);
    crew_say(&crew, 0, "join");
    crew_expect(&crew, 0, "joined");
    crew_say(&crew, 0, "sums 50");
    crew_expect(&crew, 0, "summed");
    snprintf(ending, sizeof ending, "-%d-1.trace", (int)crew.pids[0]);
    end(&crew);
    s = take_file(ending);
    assert_int_equal(s.n, 50);
    forget(&s);
    s = take_file(".trace");
    assert_true(s.n && s.n < 50);
    forget(&s);
}

/* Taken away while there is no communicator, as one looks at it: the next one's is written all the same. */
static void files_are_taken_away(void **state)
{
    char setting[128];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    for (int i = 0; i < 2; i++) {
        crew_say(&crew, 0, "sums 50");
        crew_expect(&crew, 0, "summed");
        crew_say(&crew, 0, "again");
        crew_expect(&crew, 0, "destroyed");
        s = take_file(".trace");
        assert_int_equal(s.n, 50);
        forget(&s);
        crew_say(&crew, 0, "join");
        crew_expect(&crew, 0, "joined");
    }
    end(&crew);
    s = take_file(".trace");
    forget(&s);
}

static void no_folder_is_no_failure(void **state)
{
    struct crew crew;
    char setting[128];

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s/not/there", folder);
    start(&crew, 2, setting);
    crew_say_all(&crew, "sums 20");
    crew_expect_all(&crew, "summed");
    end(&crew);
}

int main(int argc, char **argv)
{
#define live(test) cmocka_unit_test_setup_teardown(test, leftovers_before, leftovers_after)
#define file(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        live(operations_are_told_once_and_in_order),
        live(other_calls_are_told),
        live(what_has_not_ended_is_told),
        live(what_hangs_already_is_told),
        live(recording_stops_and_begins_again),
        live(who_does_not_read_loses_and_holds_up_nobody),
        live(too_many_at_once_are_counted),
        live(a_job_that_ends_says_so),
        live(who_asked_for_the_end_gets_it),
        live(calls_that_wait_were_made_before),
        live(memory_of_records_is_told),
        live(not_where_it_is_not_wanted),
        live(more_listeners_wait),
        file(files_have_all),
        file(files_of_who_leaves),
        file(files_of_who_hangs),
        file(files_have_the_first_calls),
        file(files_end_with_whole_frames),
        file(files_are_taken_away),
        file(no_folder_is_no_failure),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
