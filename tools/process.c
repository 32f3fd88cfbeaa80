/* What finds and calls the processes of this host that have communicators. */
#include "process.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

void *process_must(void *memory)
{
    if (memory)
        return memory;
    fprintf(stderr, "%s: no memory\n", program_invocation_short_name);
    exit(2);
}

pid_t process_pid_option(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*text && !*end && value > 0 && value <= INT32_MAX)
        return (pid_t)value;
    fprintf(stderr, "%s: --pid %s: the number of a process is wanted\n",
            program_invocation_short_name, text);
    exit(2);
}

const char *process_state(const struct process *process)
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
static bool parse_name(const char *text, struct process *out)
{
    char *end;
    long pid = strtol(text, &end, 10);

    *out = (struct process){.pid = (pid_t)pid};
    if (pid <= 0 || pid > INT32_MAX || *end != '-' || !isdigit((unsigned char)end[1]))
        return false;
    out->space = strtoull(end + 1, &end, 10);
    out->here = out->space == own_space() ? out->pid : 0;
    return *end == '\n' || !*end;
}

size_t process_find(const char *name, struct process **out)
{
    FILE *file = fopen("/proc/net/unix", "re");
    size_t n = 0, room = 0;
    struct process found;
    char line[512], start[64];
    int length = snprintf(start, sizeof start, " @%s", name);

    *out = NULL;
    while (file && fgets(line, sizeof line, file)) {
        const char *at = strstr(line, start);
        bool again = !at || !parse_name(at + length, &found);

        for (size_t i = 0; i < n && !again; i++)
            again = (*out)[i].pid == found.pid && (*out)[i].space == found.space;
        if (again)
            continue;
        if (n == room) {
            room = room ? 2 * room : 16;
            *out = process_must(realloc(*out, room * sizeof **out));
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
static bool is_his(int fd, struct process *process)
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

static int connect_to(int fd, const struct process *process, const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t n = (size_t)snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "%s%d-%llu", name,
                                (int)process->pid, (unsigned long long)process->space);

    return connect(fd, (const struct sockaddr *)&at,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n));
}

bool process_is_over(const struct process *process, const char *name)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool over = fd >= 0 && connect_to(fd, process, name) && errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return over;
}

int process_call(struct process *process, const char *name, const char **why_out)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        *why_out = "no descriptor is free here";
        return -1;
    }
    if (connect_to(fd, process, name))
        *why_out = errno == EAGAIN ? "others are asking it" : "";
    else if (!is_his(fd, process))
        *why_out = "somebody else has its place";
    else
        return fd;
    close(fd);
    return -1;
}
