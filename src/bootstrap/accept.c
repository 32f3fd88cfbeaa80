/*
 * The door: a listening socket and those who have knocked but not yet proved the secret. Called by root.c and join.c.
 *
 * Strangers cost little here: each gets a small buffer, BOOT_SHAKE_TIMEOUT_NS of time, and there is room for a bounded
 * number. When the room is full, the oldest that has been there for a second makes place.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bootstrap/internal.h"

#define EVICT_AFTER_NS (1000 * MS_NS)
#define RETRY_ACCEPT_NS (50 * MS_NS)

void boot_door_open(struct boot_door *door, int fd, int most, size_t frame_max)
{
    *door = (struct boot_door){.fd = fd, .most = most, .frame_max = frame_max};
}

static void drop(struct boot_door *door, int i)
{
    boot_conn_close(door->strangers[i]);
    free(door->strangers[i]);
    door->strangers[i] = door->strangers[--door->nstrangers];
}

void boot_door_close(struct boot_door *door)
{
    int fd = door->fd;

    while (door->nstrangers)
        drop(door, 0);
    door->fd = -1; /* first: a child of fork closes what stands here */
    if (fd >= 0)
        close(fd);
}

int boot_door_poll(const struct boot_door *door, struct pollfd *fds, int64_t now)
{
    int n = 0;

    if (door->fd >= 0 && now >= door->shut_until)
        fds[n++] = (struct pollfd){.fd = door->fd, .events = POLLIN};
    for (int i = 0; i < door->nstrangers; i++)
        fds[n++] = (struct pollfd){.fd = door->strangers[i]->fd,
                                   .events = boot_conn_events(door->strangers[i])};
    return n;
}

int64_t boot_door_due(const struct boot_door *door)
{
    int64_t due = INT64_MAX;

    if (door->fd >= 0 && door->shut_until)
        due = door->shut_until;
    for (int i = 0; i < door->nstrangers; i++)
        if (door->strangers[i]->since_ns + BOOT_SHAKE_TIMEOUT_NS < due)
            due = door->strangers[i]->since_ns + BOOT_SHAKE_TIMEOUT_NS;
    return due;
}

static bool make_room(struct boot_door *door, int64_t now, int64_t age)
{
    int oldest = -1;

    for (int i = 0; i < door->nstrangers; i++)
        if (oldest < 0 || door->strangers[i]->since_ns < door->strangers[oldest]->since_ns)
            oldest = i;
    if (oldest < 0 || now - door->strangers[oldest]->since_ns < age)
        return false;
    drop(door, oldest);
    return true;
}

/* True if another may be waiting. */
static bool accept_one(struct boot_door *door, int64_t now)
{
    struct boot_address peer;
    socklen_t length = sizeof peer;
    struct boot_conn *conn;
    struct pollfd waiting = {.fd = door->fd, .events = POLLIN};
    int fd;

    if (poll(&waiting, 1, 0) <= 0) /* nobody is put out for nobody */
        return false;
    if (door->nstrangers == door->most && !make_room(door, now, EVICT_AFTER_NS)) {
        door->shut_until = now + RETRY_ACCEPT_NS;
        return false;
    }
    memset(&peer, 0, sizeof peer);
    fd = accept4(door->fd, &peer.sa, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            if (make_room(door, now, 0))
                return true;
            door->error = errno;
            door->shut_until = now + RETRY_ACCEPT_NS;
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    conn = malloc(sizeof *conn);
    if (!conn) {
        close(fd);
        door->shut_until = now + RETRY_ACCEPT_NS;
        return false;
    }
    boot_conn_accepted(conn, fd, &peer, door->frame_max);
    conn->is_discreet = door->is_discreet;
    door->strangers[door->nstrangers++] = conn;
    return true;
}

struct boot_conn *boot_door_next(struct boot_door *door, const uint8_t *secret, int64_t now)
{
    if (now >= door->shut_until) {
        door->shut_until = 0;
        while (door->fd >= 0 && accept_one(door, now))
            ;
    }
    for (int i = 0; i < door->nstrangers; i++) {
        struct boot_conn *conn = door->strangers[i];
        thrum_status_t status = boot_conn_handshake(conn, secret);

        if (status == THRUM_OK) {
            door->strangers[i] = door->strangers[--door->nstrangers];
            return conn;
        }
        if (status < 0 || now - conn->since_ns > BOOT_SHAKE_TIMEOUT_NS)
            drop(door, i--);
    }
    return NULL;
}
