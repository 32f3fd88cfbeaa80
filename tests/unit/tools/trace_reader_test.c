/* Tests of thrum-trace: cut and damaged streams, files, and processes that answer, and that do not. */
#include "trace_jobs.h"

#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

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
        cmocka_unit_test(cut_streams_are_used),
        cmocka_unit_test(damage_is_named_with_its_place),
        cmocka_unit_test(files_may_be_gone_on_with),
        cmocka_unit_test(claims_are_not_believed),
        cmocka_unit_test(damage_does_no_harm),
        cmocka_unit_test(what_is_not_known_is_skipped),
        cmocka_unit_test(huge_numbers_are_told),
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
