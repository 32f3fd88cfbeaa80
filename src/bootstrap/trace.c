/*
 * Who is told of recorded operations (base/trace_format.h): a file of THRUM_TRACE, and whoever connects to TRACE_SOCKET. On the
 * engine's thread, which goes round the communicators every ROUND_NS while there is anybody. A file is written to at once; who is
 * connected and does not read loses what is more than BACKLOG_BYTES, and is told how much that was.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/config.h"
#include "bootstrap/control.h"
#include "base/trace_format.h"

#define ROUND_NS (20 * MS_NS)
#define REST_NS (100 * MS_NS) /* before the next try, where there is no descriptor for a caller */
#define PARTING_NS (2000 * MS_NS) /* for a caller to take what is left */
#define CLOSING_NS (300 * MS_NS) /* the same, where the last communicator is destroyed */
#define BACKLOG_BYTES (8u << 20)

/* Somebody who is told. */
struct sink {
    int fd; /* -1: nobody */
    bool is_new; /* has not been told what communicators there are */
    bool parts; /* it has asked for the end, and been told all */
    int64_t due; /* it has to be through with that */
    char *data; /* not written yet: [told, bytes) */
    size_t bytes, told, room;
    uint64_t missed; /* operations for which there was no room */
};

static struct {
    int door; /* -1: none */
    bool rests; /* no caller is let in before `rest_due` */
    int64_t rest_due, round_due;
    struct sink file, callers[TRACE_CALLERS];
    char path[512]; /* of the file; "": none was made yet */
    struct sink *only; /* frames are for this one; NULL: for all but new ones */
    bool is_on;
    _Atomic bool is_wanted; /* by anybody; any thread reads */
} trace = {.door = -1, .file.fd = -1, .callers = {[0 ... TRACE_CALLERS - 1] = {.fd = -1}}};

static bool is_told(const struct sink *sink)
{
    return sink->fd >= 0 && !sink->parts;
}

static void end_sink(struct sink *sink)
{
    if (sink->fd >= 0)
        close(sink->fd);
    free(sink->data);
    *sink = (struct sink){.fd = -1};
}

/* ---- frames ---- */

static bool make_room(struct sink *sink, size_t bytes)
{
    size_t room = sink->room ? sink->room : 4096;
    char *data;

    if (sink->told) {
        memmove(sink->data, sink->data + sink->told, sink->bytes - sink->told);
        sink->bytes -= sink->told;
        sink->told = 0;
    }
    while (room < sink->bytes + bytes)
        room *= 2;
    if (room == sink->room)
        return true;
    data = realloc(sink->data, room);
    if (!data)
        return false;
    sink->data = data;
    sink->room = room;
    return true;
}

static bool append(struct sink *sink, uint32_t type, const void *data, uint32_t bytes)
{
    struct trace_frame frame = {type, bytes};

    if (sink->bytes + sizeof frame + bytes > sink->room && !make_room(sink, sizeof frame + bytes))
        return false;
    memcpy(sink->data + sink->bytes, &frame, sizeof frame);
    if (bytes)
        memcpy(sink->data + sink->bytes + sizeof frame, data, bytes);
    sink->bytes += sizeof frame + bytes;
    return true;
}

static void tell(struct sink *sink, uint32_t type, const void *data, uint32_t bytes)
{
    bool is_full = sink->bytes - sink->told > BACKLOG_BYTES && type == TRACE_OPERATION;

    if (sink->missed && !is_full) {
        struct trace_lost lost = {.operations = sink->missed};

        if (append(sink, TRACE_LOST, &lost, sizeof lost))
            sink->missed = 0;
    }
    if ((is_full || !append(sink, type, data, bytes)) && type == TRACE_OPERATION)
        sink->missed++;
}

void control_trace(uint32_t type, const void *data, uint32_t bytes)
{
    if (trace.only) {
        tell(trace.only, type, data, bytes);
        return;
    }
    for (int i = -1; i < TRACE_CALLERS; i++) {
        struct sink *sink = i < 0 ? &trace.file : &trace.callers[i];

        if (is_told(sink) && !sink->is_new)
            tell(sink, type, data, bytes);
    }
}

static uint64_t clock_number(void)
{
    uint64_t h = HASH_START;
    char boot[64];
    struct stat space;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (file) {
        h = hash_bytes(h, boot, fread(boot, 1, sizeof boot, file));
        fclose(file);
    }
    if (!stat("/proc/self/ns/time", &space))
        h = hash_bytes(h, &space.st_ino, sizeof space.st_ino);
    return h;
}

static void tell_process(struct sink *sink)
{
    struct trace_process process = {.clock = clock_number(), .pid = (int32_t)getpid()};
    struct timespec real;
    struct utsname name;
    FILE *file = fopen("/proc/self/comm", "re");

    memcpy(process.magic, TRACE_MAGIC, sizeof process.magic);
    clock_gettime(CLOCK_REALTIME, &real);
    process.monotonic_ns = now_ns();
    process.realtime_ns = (int64_t)real.tv_sec * 1000000000 + real.tv_nsec;
    if (!uname(&name))
        snprintf(process.host, sizeof process.host, "%.63s", name.nodename);
    if (file) {
        if (fgets(process.program, sizeof process.program, file))
            process.program[strcspn(process.program, "\n")] = 0;
        fclose(file);
    }
    tell(sink, TRACE_PROCESS, &process, sizeof process);
}

static void tell_end(struct sink *sink)
{
    struct trace_end end = {now_ns()};

    tell(sink, TRACE_END, &end, sizeof end);
}

/* ---- writing ---- */

static void write_file(struct sink *sink)
{
    while (sink->told < sink->bytes) {
        ssize_t n = write(sink->fd, sink->data + sink->told, sink->bytes - sink->told);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            thrum_log(LOG_WARN, "THRUM_TRACE: %s: %s; the rest is not recorded", trace.path,
                      strerror(n ? errno : ENOSPC));
            trace.path[0] = 0; /* it ends in the middle of a frame: nothing may come behind it */
            end_sink(sink);
            return;
        }
        sink->told += (size_t)n;
    }
    sink->told = sink->bytes = 0;
}

static void write_caller(struct sink *sink, int64_t now)
{
    ssize_t n = 0;

    while (sink->told < sink->bytes && n >= 0) {
        n = send(sink->fd, sink->data + sink->told, sink->bytes - sink->told,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sink->told += (size_t)n;
    }
    if (sink->told == sink->bytes)
        sink->told = sink->bytes = 0;
    if ((n < 0 && errno != EAGAIN && errno != EINTR) ||
        (sink->parts && (!sink->bytes || now >= sink->due)))
        end_sink(sink);
}

static void write_all(int64_t now)
{
    if (trace.file.fd >= 0)
        write_file(&trace.file);
    for (int i = 0; i < TRACE_CALLERS; i++)
        if (trace.callers[i].fd >= 0)
            write_caller(&trace.callers[i], now);
}

/* Blocks so long at most. */
static void write_until(struct sink *sink, int64_t due)
{
    while (sink->fd >= 0 && sink->bytes && now_ns() < due) {
        struct pollfd ready = {.fd = sink->fd, .events = POLLOUT};

        poll(&ready, 1, boot_poll_ms(due, now_ns()));
        write_caller(sink, now_ns());
    }
}

/* ---- the file ---- */

static bool name_file(const char *folder, int copy)
{
    struct utsname name;
    char number[16] = "";
    int n;

    if (copy)
        snprintf(number, sizeof number, "-%d", copy);
    n = snprintf(trace.path, sizeof trace.path, "%s/%s-%d%s.trace", folder,
                 uname(&name) ? "host" : name.nodename, (int)getpid(), number);
    return n > 0 && (size_t)n < sizeof trace.path;
}

/* A file of its own, which one of an earlier process with this number is not. */
static int make_file(const char *folder)
{
    int fd = -1;

    if (mkdir(folder, 0777) && errno != EEXIST)
        return -1;
    for (int copy = 0; fd < 0 && copy < 1000; copy++) {
        if (!name_file(folder, copy)) {
            errno = ENAMETOOLONG;
            break;
        }
        fd = open(trace.path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    return fd;
}

static void open_file(const char *folder)
{
    trace.file = (struct sink){.fd = -1, .is_new = true};
    if (*trace.path)
        trace.file.fd = open(trace.path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (trace.file.fd < 0) /* or it was taken away meanwhile */
        trace.file.fd = make_file(folder);
    if (trace.file.fd < 0) {
        thrum_log(LOG_WARN, "THRUM_TRACE=%s: %s; nothing is recorded", folder, strerror(errno));
        trace.path[0] = 0;
        return;
    }
    tell_process(&trace.file);
}

/* ---- for the engine ---- */

void trace_open(void)
{
    const char *folder = thrum_config_string(CFG_TRACE);

    trace.door = door_open(TRACE_SOCKET, "thrum-trace");
    trace.is_on = false;
    if (*folder)
        open_file(folder);
    atomic_store_explicit(&trace.is_wanted, trace.file.fd >= 0, memory_order_relaxed);
}

void trace_close(void)
{
    int64_t due = now_ns() + CLOSING_NS;

    for (int i = -1; i < TRACE_CALLERS; i++) {
        struct sink *sink = i < 0 ? &trace.file : &trace.callers[i];

        if (is_told(sink))
            tell_end(sink);
    }
    write_all(now_ns());
    for (int i = 0; i < TRACE_CALLERS; i++)
        write_until(&trace.callers[i], due);
    for (int i = 0; i < TRACE_CALLERS; i++)
        end_sink(&trace.callers[i]);
    end_sink(&trace.file);
    if (trace.door >= 0)
        close(trace.door);
    trace.door = -1;
}

void trace_forget_in_child(void)
{
    for (int i = -1; i < TRACE_CALLERS; i++) {
        struct sink *sink = i < 0 ? &trace.file : &trace.callers[i];

        if (sink->fd >= 0)
            close(sink->fd);
        *sink = (struct sink){.fd = -1}; /* the thread may have been at it: what it had is lost */
    }
    if (trace.door >= 0)
        close(trace.door);
    trace.door = -1;
    trace.path[0] = 0; /* it is the parent's */
    trace.only = NULL;
}

static bool anybody(bool also_new)
{
    bool any = is_told(&trace.file) && (also_new || !trace.file.is_new);

    for (int i = 0; i < TRACE_CALLERS; i++)
        any |= is_told(&trace.callers[i]) && (also_new || !trace.callers[i].is_new);
    return any;
}

static int free_place(void)
{
    for (int i = 0; i < TRACE_CALLERS; i++)
        if (trace.callers[i].fd < 0)
            return i;
    return -1;
}

bool trace_is_wanted(void)
{
    return atomic_load_explicit(&trace.is_wanted, memory_order_relaxed);
}

size_t trace_poll(struct pollfd *fds)
{
    size_t n = 0;

    if (trace.door >= 0 && !trace.rests && free_place() >= 0)
        fds[n++] = (struct pollfd){.fd = trace.door, .events = POLLIN};
    for (int i = 0; i < TRACE_CALLERS; i++) {
        const struct sink *sink = &trace.callers[i];
        short events = (short)((sink->parts ? 0 : POLLIN) | (sink->bytes ? POLLOUT : 0));

        if (sink->fd >= 0)
            fds[n++] = (struct pollfd){.fd = sink->fd, .events = events};
    }
    return n;
}

int64_t trace_due(void)
{
    int64_t due = anybody(true) ? trace.round_due : INT64_MAX;

    if (trace.rests && trace.rest_due < due)
        due = trace.rest_due;
    for (int i = 0; i < TRACE_CALLERS; i++)
        if (trace.callers[i].fd >= 0 && trace.callers[i].parts && trace.callers[i].due < due)
            due = trace.callers[i].due;
    return due;
}

static void ask(struct control *list, enum control_trace what)
{
    for (struct control *c = list; c; c = c->next)
        if (c->callbacks.trace)
            c->callbacks.trace(c->argument, what);
}

static void tell_only(struct control *list, struct sink *sink, enum control_trace what)
{
    trace.only = sink;
    ask(list, what);
    trace.only = NULL;
}

static void let_in(int64_t now)
{
    int place = free_place();
    int fd = place < 0 ? -1 : door_admit(trace.door, &trace.rests);

    if (place >= 0 && trace.rests)
        trace.rest_due = now + REST_NS;
    if (fd < 0)
        return;
    trace.callers[place] = (struct sink){.fd = fd, .is_new = true};
    tell_process(&trace.callers[place]);
}

/* Whether the caller has asked for the end. It has nothing else to say. */
static bool asks_for_the_end(struct sink *sink)
{
    char bytes[64];
    ssize_t n = recv(sink->fd, bytes, sizeof bytes, MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static struct sink *caller_of(int fd)
{
    for (int i = 0; i < TRACE_CALLERS; i++)
        if (trace.callers[i].fd == fd)
            return &trace.callers[i];
    return NULL;
}

static void part(struct control *list, struct sink *sink, int64_t now)
{
    tell_only(list, sink, CONTROL_TRACE_PENDING);
    tell_end(sink);
    sink->parts = true;
    sink->due = now + PARTING_NS;
}

/* Those who have come are told from here on. */
static void welcome(struct control *list)
{
    for (int i = -1; i < TRACE_CALLERS; i++) {
        struct sink *sink = i < 0 ? &trace.file : &trace.callers[i];

        if (!is_told(sink) || !sink->is_new)
            continue;
        tell_only(list, sink, CONTROL_TRACE_ANNOUNCE);
        sink->is_new = false;
    }
    trace.is_on = true;
}

void trace_serve(struct control *list, const struct pollfd *fds, size_t n, int64_t now)
{
    bool is_called = false;

    trace.rests &= now < trace.rest_due;
    for (size_t i = 0; i < n; i++)
        is_called |= fds[i].fd == trace.door && fds[i].revents;
    if (trace.is_on && anybody(false))
        ask(list, CONTROL_TRACE_ENDED); /* before somebody new is told of it, too */
    for (size_t i = 0; i < n; i++) {
        struct sink *sink = fds[i].revents ? caller_of(fds[i].fd) : NULL;

        if (sink && is_told(sink) && asks_for_the_end(sink))
            part(list, sink, now);
    }
    if (is_called)
        let_in(now);
    if (anybody(true)) {
        welcome(list);
        trace.round_due = now + ROUND_NS;
    } else if (trace.is_on) {
        ask(list, CONTROL_TRACE_OFF);
        trace.is_on = false;
    }
    write_all(now);
    atomic_store_explicit(&trace.is_wanted, trace.is_on, memory_order_relaxed);
}

void trace_leave(struct control *control)
{
    if (!trace.is_on || !control->callbacks.trace)
        return;
    control->callbacks.trace(control->argument, CONTROL_TRACE_ENDED);
    control->callbacks.trace(control->argument, CONTROL_TRACE_PENDING);
    control->callbacks.trace(control->argument, CONTROL_TRACE_OFF);
}
