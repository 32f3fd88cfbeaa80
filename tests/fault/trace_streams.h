/* What the tests of recordings share: ranks that do what they are told, and streams, which are taken to pieces and held to the format. */
#ifndef TESTS_FAULT_TRACE_STREAMS_H
#define TESTS_FAULT_TRACE_STREAMS_H

#include "harness.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/trace_format.h"

#define WAIT_NS 10000000 /* that a call waits where too many are under way, and none ends */

/* ---- roles ---- */

static inline void sum_again_and_again(struct child *child, int n)
{
    void *buffer;

    MUST(thrum_mem_alloc(child->device, 64, &buffer));
    for (int i = 0; i < n; i++)
        MUST(
            thrum_allreduce(buffer, buffer, 10, THRUM_INT32, THRUM_SUM, child->comm, child->queue));
    MUST(thrum_queue_synchronize(child->queue));
    MUST(thrum_mem_free(child->device, buffer));
}

static inline void other_calls(struct child *child)
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

static inline thrum_status_t stand(void *argument)
{
    (void)argument;
    return atomic_load(&is_open) ? THRUM_OK : THRUM_IN_PROGRESS;
}

static inline int64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Calls more than can be under way: some of the calls wait. Says which, and when they were over. */
static inline void call_too_much(struct child *child)
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

static inline void say_memory(struct child *child)
{
    struct thrum_comm_memory_info plan = {.size = sizeof plan}, now = {.size = sizeof now};

    MUST(thrum_comm_memory_plan(child->nranks, NULL, &plan));
    MUST(thrum_comm_memory(child->comm, &now));
    say("memory %llu %llu %llu", (unsigned long long)now.host_bytes,
        (unsigned long long)now.host_limit_bytes, (unsigned long long)plan.host_limit_bytes);
}

/* Joins; then does what it hears, until "end" or "leave" (at once, without an end of the communicator). */
static inline void obey(struct child *child)
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

static inline int connect_to(pid_t pid)
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

static inline struct stream listen_to(pid_t pid)
{
    struct stream s = {.fd = connect_to(pid)};

    assert_true(s.fd >= 0);
    return s;
}

static inline void read_some(struct stream *s)
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
static inline void parse(struct stream *s)
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
static inline void hear_operations(struct stream *s, size_t n)
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
static inline void hear_ended(struct stream *s, size_t n)
{
    hear_operations(s, n);
    while (!s->operations[n - 1].ended_ns) {
        read_some(s);
        parse(s);
        assert_true(s->fd >= 0 && s->n == n);
    }
}

/* Whoever listens is recorded for from the moment that it has been told of a communicator. */
static inline void hear_comm(struct stream *s)
{
    for (parse(s); !s->comms; parse(s))
        read_some(s);
}

static inline void hear_end(struct stream *s)
{
    assert_int_equal(shutdown(s->fd, SHUT_WR), 0);
    while (s->fd >= 0)
        read_some(s);
    parse(s);
    assert_int_equal(s->ends, 1);
}

static inline void forget(struct stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    free(s->data);
    free(s->operations);
    *s = (struct stream){.fd = -1};
}

static inline void start(struct crew *crew, int nranks, const char *setting)
{
    const char *const env[] = {setting, NULL};

    crew_start(crew, "obey", nranks, env);
    crew_expect_all(crew, "joined");
}

static inline void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_expect_all(crew, "closed");
    crew_finish(crew);
}

static inline void must_be_a_sum(const struct trace_operation *o, uint64_t sequence)
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

#endif
