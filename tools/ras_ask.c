/* thrum-ras: the processes of this host that have communicators, by their abstract unix sockets, and their answers. */
#include "ras.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"

#define STOPPED_MS 1000 /* so long it may take to go on */
#define MOST_BYTES (256u << 20) /* of an answer: a million ranks tell less */

/* A process while it is asked. */
struct asked {
    int fd; /* -1: done with */
    char *text;
    size_t bytes, room;
};

static void *must(void *memory)
{
    if (memory)
        return memory;
    fprintf(stderr, "thrum-ras: no memory\n");
    exit(2);
}

/* What the kernel says of a process, where that explains a silence; "" else. */
static const char *state_of(const struct ras_process *process)
{
    char path[48], line[512] = "", *state;
    FILE *file;

    if (!process->here)
        return "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)process->here);
    file = fopen(path, "re");
    if (!file)
        return "gone";
    if (!fgets(line, sizeof line, file))
        line[0] = 0;
    fclose(file);
    state = strrchr(line, ')'); /* the program's name before it may be anything */
    if (!state || state[1] != ' ')
        return "";
    switch (state[2]) {
    case 'T':
        return "stopped by a signal";
    case 't':
        return "stopped by a debugger";
    case 'D':
        return "in the kernel, waiting for a disk or device";
    case 'Z':
    case 'X':
        return "dead";
    default:
        return "";
    }
}

/* The PID namespace that this process is in. */
static uint64_t own_space(void)
{
    struct stat space;

    return stat("/proc/self/ns/pid", &space) ? 0 : space.st_ino;
}

/* Reads "4711-4026531836" to the end of the line. */
static bool parse_name(const char *text, struct ras_process *out)
{
    char *end;
    long pid = strtol(text, &end, 10);

    *out = (struct ras_process){.pid = (pid_t)pid};
    if (pid <= 0 || pid > INT32_MAX || *end != '-' || !isdigit((unsigned char)end[1]))
        return false;
    out->space = strtoull(end + 1, &end, 10);
    out->here = out->space == own_space() ? out->pid : 0;
    return *end == '\n' || !*end;
}

/* Adds those that listen, each once. */
static size_t find(struct ras_process **out)
{
    FILE *file = fopen("/proc/net/unix", "re");
    size_t n = 0, room = 0;
    struct ras_process found;
    char line[512];

    *out = NULL;
    while (file && fgets(line, sizeof line, file)) {
        const char *name = strstr(line, " @" STATUS_SOCKET);
        bool again = !name || !parse_name(name + strlen(" @" STATUS_SOCKET), &found);

        for (size_t i = 0; i < n && !again; i++)
            again = (*out)[i].pid == found.pid && (*out)[i].space == found.space;
        if (again)
            continue;
        if (n == room) {
            room = room ? 2 * room : 16;
            *out = must(realloc(*out, room * sizeof **out));
        }
        (*out)[n++] = found;
    }
    if (file)
        fclose(file);
    return n;
}

/*
 * The name might be another's: only who listens there counts. Of a process in another PID namespace that is said by its user
 * alone; it gets the number here that it has, if it can be seen from here.
 */
static bool is_his(int fd, struct ras_process *process)
{
    struct ucred who;
    socklen_t length = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length))
        return false;
    if (process->here)
        return who.pid == process->here;
    process->here = who.pid;
    return who.uid == geteuid() || !geteuid();
}

static int connect_to(int fd, const struct ras_process *process)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t n =
        (size_t)snprintf(name.sun_path + 1, sizeof name.sun_path - 1, STATUS_SOCKET "%d-%llu",
                         (int)process->pid, (unsigned long long)process->space);

    return connect(fd, (const struct sockaddr *)&name,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n));
}

/* Whether it has communicators no more, as one that is just ending. */
static bool is_over(const struct ras_process *process)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool over = fd >= 0 && connect_to(fd, process) && errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return over;
}

/* Says why, unless the kernel knows better. */
static void no_answer(struct ras_process *process, const char *why)
{
    const char *state = state_of(process);

    process->is_asked = !is_over(process);
    process->why = *state ? state : why;
}

static int call(struct ras_process *process)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        process->why = "no descriptor is free here";
        return -1;
    }
    if (connect_to(fd, process))
        no_answer(process, errno == EAGAIN ? "others are asking it" : "");
    else if (!is_his(fd, process))
        process->why = "somebody else has its place";
    else
        return fd;
    close(fd);
    return -1;
}

static void hang_up(struct asked *a)
{
    close(a->fd);
    a->fd = -1;
    free(a->text);
    a->text = NULL;
}

/* What another has sent does nothing to the terminal that it is shown on: no control characters. */
static void clean_text(json_t *string)
{
    char *text = must(strdup(json_string_value(string))), *to = text;

    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (c[0] == 0xc2 && c[1] < 0xa0) { /* U+0080 to U+009F */
            *to++ = '?';
            c++;
        } else {
            *to++ = *c < ' ' || *c == 127 ? '?' : (char)*c;
        }
    *to = 0;
    json_string_set(string, text);
    free(text);
}

/* jansson reads no deeper than this can go. */
static void clean(json_t *json)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_string(json))
        clean_text(json);
    json_array_foreach(json, i, value)
    {
        clean(value);
    }
    json_object_foreach(json, key, value)
    {
        clean(value);
    }
}

/* The answer is complete. */
static void take(struct ras_process *process, struct asked *a)
{
    json_t *answer = a->bytes ? json_loadb(a->text, a->bytes, 0, NULL) : NULL;

    hang_up(a);
    if (json_is_object(answer)) {
        clean(answer);
        process->answer = answer;
        return;
    }
    json_decref(answer);
    no_answer(process, a->bytes ? "its answer is not understood" : "it answers only its own user");
}

static void hear(struct ras_process *process, struct asked *a)
{
    for (;;) {
        ssize_t n;

        if (a->bytes == a->room) {
            a->room = a->room ? 2 * a->room : 1 << 16;
            a->text = must(realloc(a->text, a->room));
        }
        n = recv(a->fd, a->text + a->bytes, a->room - a->bytes, 0);
        if (n > 0) {
            a->bytes += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else if (n < 0 && errno != EINTR) {
            hang_up(a);
            no_answer(process, "it has hung up");
            return;
        } else if (n == 0) {
            take(process, a);
            return;
        }
        if (a->bytes > MOST_BYTES) {
            process->why = "its answer has no end";
            hang_up(a);
            return;
        }
    }
}

/* Gives up those of which the kernel knows why they are silent. */
static void give_up(struct ras_process *processes, struct asked *asked, size_t n, bool all)
{
    for (size_t i = 0; i < n; i++) {
        const char *state = asked[i].fd < 0 ? "" : state_of(&processes[i]);

        if (asked[i].fd < 0 || !(all || *state))
            continue;
        processes[i].why = *state ? state : "it does not answer";
        hang_up(&asked[i]);
    }
}

static void hear_all(struct ras_process *processes, struct asked *asked, size_t n, int limit_ms)
{
    struct pollfd *fds = must(calloc(n + 1, sizeof *fds));
    int64_t begin = now_ns();
    size_t left = 1;

    while (left) {
        int64_t spent = (now_ns() - begin) / 1000000;

        if (spent >= STOPPED_MS)
            give_up(processes, asked, n, spent >= limit_ms);
        left = 0;
        for (size_t i = 0; i < n; i++) {
            fds[i] = (struct pollfd){.fd = asked[i].fd, .events = POLLIN};
            left += asked[i].fd >= 0;
        }
        if (!left)
            break;
        poll(fds, (nfds_t)n, STOPPED_MS / 4);
        for (size_t i = 0; i < n; i++)
            if (fds[i].fd >= 0 && fds[i].revents)
                hear(&processes[i], &asked[i]);
    }
    free(fds);
}

size_t ras_ask(pid_t only, int limit_ms, struct ras_process **processes_out)
{
    size_t n = find(processes_out);
    struct ras_process *processes = *processes_out;
    struct asked *asked = must(calloc(n + 1, sizeof *asked));

    for (size_t i = 0; i < n; i++) {
        processes[i].is_asked = !only || only == processes[i].pid;
        processes[i].why = processes[i].is_asked ? "" : state_of(&processes[i]);
        asked[i].fd = processes[i].is_asked ? call(&processes[i]) : -1;
    }
    hear_all(processes, asked, n, limit_ms);
    free(asked);
    return n;
}

void ras_forget(struct ras_process *processes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        json_decref(processes[i].answer);
    free(processes);
}
