/*
 * What thrum-ras asks a process: the state of its communicators, as JSON, to whoever of the same user (or root) connects to
 * the abstract unix socket STATUS_SOCKET. On the engine's thread, which asks the ranks of each communicator by
 * the control plane first; one caller at a time, and none can hold it up for longer than a few seconds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bootstrap/control.h"

#define ASK_NS (600 * MS_NS) /* for the answers of all ranks of all communicators */
#define TELL_NS (2000 * MS_NS) /* for the caller to take what there is to say */
#define REST_NS (100 * MS_NS) /* before the next try, where there is no descriptor for a caller */

/* A communicator, while the ranks are asked about it. */
struct subject {
    struct control *control; /* NULL: it has ended */
    uint64_t sequence;
    struct call_record *records; /* NULL: no answer yet */
};

static struct {
    int door, caller; /* -1: none */
    bool rests; /* no caller is let in before `due` */
    int64_t due;
    struct subject *subjects;
    size_t nsubjects, nwaiting;
    char *text; /* NULL: the ranks are being asked */
    size_t bytes, told;
} status = {.door = -1, .caller = -1};

void status_open(void)
{
    status.door = door_open(STATUS_SOCKET, "thrum-ras");
}

static void hang_up(void)
{
    for (size_t i = 0; i < status.nsubjects; i++)
        free(status.subjects[i].records);
    free(status.subjects);
    free(status.text);
    status.subjects = NULL;
    status.text = NULL;
    status.nsubjects = status.nwaiting = 0;
    if (status.caller >= 0)
        close(status.caller);
    status.caller = -1;
}

void status_close(void)
{
    hang_up();
    if (status.door >= 0)
        close(status.door);
    status.door = -1;
}

void status_forget_in_child(void)
{
    if (status.caller >= 0)
        close(status.caller);
    if (status.door >= 0)
        close(status.door);
    memset(&status, 0, sizeof status); /* the thread may have been at it: what it had is lost */
    status.door = status.caller = -1;
}

/* ---- asking ---- */

static struct subject *subject_of(const struct control *control, uint64_t sequence)
{
    for (size_t i = 0; i < status.nsubjects; i++)
        if (status.subjects[i].control == control && status.subjects[i].sequence == sequence)
            return &status.subjects[i];
    return NULL;
}

void status_records(const struct control *control, uint64_t sequence,
                    const struct call_record *records)
{
    struct subject *subject = subject_of(control, sequence);
    size_t bytes = (size_t)control->tree.nranks * sizeof *records;

    if (!subject || subject->records)
        return;
    subject->records = malloc(bytes);
    if (subject->records)
        memcpy(subject->records, records, bytes);
    status.nwaiting--;
}

void status_forget(const struct control *control)
{
    for (size_t i = 0; i < status.nsubjects; i++)
        if (status.subjects[i].control == control) {
            status.nwaiting -= !status.subjects[i].records;
            status.subjects[i].control = NULL;
        }
}

/* Takes a caller; false: there is none that may ask. */
static bool take_caller(int64_t now)
{
    char byte;

    status.caller = door_admit(status.door, &status.rests);
    if (status.rests)
        status.due = now + REST_NS;
    if (status.caller < 0)
        return false;
    if (recv(status.caller, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0) /* 0: gone again */
        return true;
    hang_up();
    return false;
}

/* One that stops has freed its queries, and answers none. */
static bool is_told_of(const struct control *control)
{
    return control->callbacks.describe && !control->stopping;
}

static void ask(struct control *list, int64_t now)
{
    size_t n = 0;

    for (const struct control *c = list; c; c = c->next)
        n += is_told_of(c);
    status.subjects = calloc(n + 1, sizeof *status.subjects);
    if (!status.subjects) {
        hang_up();
        return;
    }
    status.due = now + ASK_NS;
    for (struct control *c = list; c; c = c->next)
        if (is_told_of(c))
            status.subjects[status.nsubjects++] =
                (struct subject){.control = c, .sequence = c->callbacks.question(c->argument)};
    status.nwaiting = status.nsubjects;
    for (size_t i = 0; i < status.nsubjects; i++)
        query_ask(status.subjects[i].control, QUERY_BY_STATUS, status.subjects[i].sequence);
}

/* ---- telling ---- */

static void write_program(FILE *out)
{
    char name[64] = "?";
    FILE *file = fopen("/proc/self/comm", "re");

    if (file) {
        if (!fgets(name, sizeof name, file))
            name[0] = 0;
        fclose(file);
    }
    for (const char *c = name; *c && *c != '\n'; c++)
        if ((unsigned char)*c >= ' ' && *c != '"' && *c != '\\' && (unsigned char)*c < 127)
            putc(*c, out);
}

static void compose(int64_t now)
{
    FILE *out = open_memstream(&status.text, &status.bytes);
    const char *between = "";

    if (!out) {
        hang_up();
        return;
    }
    fprintf(out, "{\"pid\":%d,\"thrum\":\"%s\",\"program\":\"", (int)getpid(), thrum_version());
    write_program(out);
    fprintf(out, "\",\"communicators\":[");
    for (size_t i = 0; i < status.nsubjects; i++) {
        const struct subject *s = &status.subjects[i];
        char *text = s->control ? s->control->callbacks.describe(s->control->argument, s->sequence,
                                                                 s->records, now)
                                : NULL;

        if (text) {
            fprintf(out, "%s%s", between, text);
            between = ",";
        }
        free(text);
    }
    fprintf(out, "]}\n");
    if (fclose(out) || !status.text) {
        hang_up();
        return;
    }
    status.told = 0;
    status.due = now + TELL_NS;
}

static void tell(void)
{
    ssize_t n = send(status.caller, status.text + status.told, status.bytes - status.told,
                     MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n > 0)
        status.told += (size_t)n;
    if (status.told == status.bytes || (n < 0 && errno != EAGAIN && errno != EINTR))
        hang_up();
}

/* ---- for the engine ---- */

bool status_poll(struct pollfd *fd_out)
{
    *fd_out = (struct pollfd){.fd = status.caller < 0 ? status.door : status.caller,
                              .events = status.caller < 0 ? POLLIN : POLLOUT};
    return fd_out->fd >= 0 && (status.caller < 0 ? !status.rests : status.text != NULL);
}

int64_t status_due(void)
{
    return status.caller < 0 && !status.rests ? INT64_MAX : status.due;
}

void status_serve(struct control *list, bool is_called, int64_t now)
{
    status.rests &= now < status.due;
    if (status.caller < 0 && is_called && take_caller(now))
        ask(list, now);
    if (status.caller >= 0 && !status.text && (!status.nwaiting || now >= status.due))
        compose(now);
    if (status.caller >= 0 && status.text)
        tell();
    if (status.caller >= 0 && now >= status.due)
        hang_up();
}
