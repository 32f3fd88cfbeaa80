/* thrum-ras: asks the processes of this host that have communicators, all at the same time. */
#include "ras.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

/* Says why, unless the kernel knows better. */
static void no_answer(struct ras_process *process, const char *why)
{
    const char *state = process_state(&process->who);

    process->is_asked = !process_is_over(&process->who, STATUS_SOCKET);
    process->why = *state ? state : why;
}

static int call(struct ras_process *process)
{
    const char *why;
    int fd = process_call(&process->who, STATUS_SOCKET, &why);

    if (fd < 0)
        no_answer(process, why);
    return fd;
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
    char *text = process_must(strdup(json_string_value(string))), *to = text;

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
            a->text = process_must(realloc(a->text, a->room));
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
        const char *state = asked[i].fd < 0 ? "" : process_state(&processes[i].who);

        if (asked[i].fd < 0 || !(all || *state))
            continue;
        processes[i].why = *state ? state : "it does not answer";
        hang_up(&asked[i]);
    }
}

static void hear_all(struct ras_process *processes, struct asked *asked, size_t n, int limit_ms)
{
    struct pollfd *fds = process_must(calloc(n + 1, sizeof *fds));
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
    struct process *found;
    size_t n = process_find(STATUS_SOCKET, &found);
    struct ras_process *processes = process_must(calloc(n + 1, sizeof *processes));
    struct asked *asked = process_must(calloc(n + 1, sizeof *asked));

    for (size_t i = 0; i < n; i++) {
        processes[i].who = found[i];
        processes[i].is_asked = !only || only == found[i].pid;
        processes[i].why = processes[i].is_asked ? "" : process_state(&processes[i].who);
        asked[i].fd = processes[i].is_asked ? call(&processes[i]) : -1;
    }
    hear_all(processes, asked, n, limit_ms);
    free(asked);
    free(found);
    *processes_out = processes;
    return n;
}

void ras_forget(struct ras_process *processes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        json_decref(processes[i].answer);
    free(processes);
}
