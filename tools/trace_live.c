/* thrum-trace: records running processes: each sends its stream while somebody is connected to its TRACE_SOCKET. */
#include "trace.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "process.h"

#define BUFFER_BYTES (1 << 18)
#define STOPPED_NS 1000000000 /* so long a process may be stopped when the recording ends */
#define FINISH_NS 5000000000 /* so long it may take for what is left */
#define TICK_MS 100

struct live {
    struct process who;
    struct stream stream;
    int fd; /* -1: done with */
    bool matters; /* its silence does: it was asked for, or all are */
    uint64_t bytes;
    int64_t heard; /* when its process was named */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* The first one ends the recording, another one the program. */
static void catch_interrupt(void)
{
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
}

/* Why nothing is heard of it; it may be that it has just ended, which is as it should be. */
static void note_silence(struct trace *trace, const struct live *live, const char *why)
{
    const char *state = process_state(&live->who);

    if (!live->bytes && process_is_over(&live->who, TRACE_SOCKET))
        return;
    if (!live->matters && !*state) /* it may be of another job, or another's */
        return;
    trace_note(trace, "process %d %s: %s", (int)live->who.pid,
               live->bytes ? "was not recorded to the end" : "was not recorded",
               *state ? state : why);
    trace->damaged |= live->matters;
}

/* Its time goes on while it is silent. */
static void hang_up(struct live *live)
{
    struct stream *stream = &live->stream;

    if (stream->begin != NEVER && live->heard)
        stream->until = max_i64(stream->until, stream->begin + (now_ns() - live->heard));
    close(live->fd);
    live->fd = -1;
    stream_close(stream, true);
}

static void call(struct trace *trace, struct live *live)
{
    const char *why = "";
    char name[32];

    live->fd = process_call(&live->who, TRACE_SOCKET, &why);
    if (live->fd < 0) {
        note_silence(trace, live, *why ? why : "it does not answer");
        return;
    }
    snprintf(name, sizeof name, "process %d", (int)live->who.pid);
    stream_open(&live->stream, trace, name);
}

/* One buffer at a time, so that all have their turn. */
static void hear(struct trace *trace, struct live *live, char *buffer, bool ending)
{
    ssize_t n = recv(live->fd, buffer, BUFFER_BYTES, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        live->bytes += (uint64_t)n;
        if (!stream_feed(&live->stream, buffer, (size_t)n) || (live->stream.ended && ending)) {
            hang_up(live);
            return;
        }
        if (!live->heard && live->stream.begin != NEVER)
            live->heard = now_ns();
        return;
    }
    if (!live->bytes)
        note_silence(trace, live, "it answers only its own user");
    else if (!live->stream.ended)
        trace_note(trace, "process %d has ended while it was recorded", (int)live->who.pid);
    hang_up(live);
}

/* Until the time, all are done, or it is interrupted. */
static void hear_all(struct trace *trace, struct live *lives, size_t n, int64_t until, bool ending)
{
    struct pollfd *fds = process_must(calloc(n + 1, sizeof *fds));
    char *buffer = process_must(malloc(BUFFER_BYTES));

    for (;;) {
        int64_t left = until - now_ns();
        size_t open = 0;

        for (size_t i = 0; i < n; i++) {
            fds[i] = (struct pollfd){.fd = lives[i].fd, .events = POLLIN};
            open += lives[i].fd >= 0;
        }
        if (!open || left <= 0 || (interrupted && !ending))
            break;
        poll(fds, (nfds_t)n, (int)min_i64(TICK_MS, left / 1000000 + 1));
        for (size_t i = 0; i < n; i++)
            if (fds[i].fd >= 0 && fds[i].revents)
                hear(trace, &lives[i], buffer, ending);
    }
    free(buffer);
    free(fds);
}

/* Those of which the kernel says why they are silent are not waited for. */
static void give_up(struct trace *trace, struct live *lives, size_t n, bool all)
{
    for (size_t i = 0; i < n; i++)
        if (lives[i].fd >= 0 && (all || *process_state(&lives[i].who))) {
            note_silence(trace, &lives[i], "it does not answer");
            hang_up(&lives[i]);
        }
}

/* Only communicators that the process has. */
static void leave_out(struct trace *trace, pid_t pid)
{
    for (size_t i = 0; i < trace->ncomms; i++)
        trace->comms[i].left_out = true;
    for (size_t i = 0; i < trace->nmembers; i++)
        if (trace->procs[trace->members[i].proc].pid == pid)
            trace->comms[trace->members[i].comm].left_out = false;
}

size_t trace_live(struct trace *trace, pid_t pid, double seconds)
{
    struct process *found;
    size_t n = process_find(TRACE_SOCKET, &found);
    struct live *lives = process_must(calloc(n + 1, sizeof *lives));
    bool some = false;
    int64_t ending;

    for (size_t i = 0; i < n; i++) {
        lives[i].who = found[i];
        lives[i].fd = -1;
        lives[i].matters = !pid || pid == found[i].pid;
        some |= lives[i].matters;
    }
    catch_interrupt();
    for (size_t i = 0; i < n && some; i++)
        call(trace, &lives[i]);
    hear_all(trace, lives, n, now_ns() + (int64_t)(seconds * 1e9), false);
    for (size_t i = 0; i < n; i++)
        if (lives[i].fd >= 0)
            shutdown(lives[i].fd, SHUT_WR);
    ending = now_ns();
    hear_all(trace, lives, n, ending + STOPPED_NS, true);
    give_up(trace, lives, n, false);
    hear_all(trace, lives, n, ending + FINISH_NS, true);
    give_up(trace, lives, n, true);
    if (pid)
        leave_out(trace, pid);
    free(lives);
    free(found);
    return n;
}
