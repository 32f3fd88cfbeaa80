/*
 * Handing out an id on one host, where the launcher gives no channel and no secret. Called by launch_exchange.c.
 *
 * An abstract unix socket leaves nothing in the file system and goes with its process. Its name can be guessed, so both
 * sides ask the kernel for the other's uid (SO_PEERCRED) before anything is said.
 */
#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "bootstrap/launch.h"

#define BUSY_RETRY_NS (2000 * MS_NS)
#define ANSWER_NS (2000 * MS_NS) /* for a peer of this user to say its rank */

struct hello {
    int32_t rank, nranks;
};

static socklen_t socket_name(const char *key, uint64_t instance, struct sockaddr_un *out)
{
    char text[700], hex[2 * 16 + 1];
    uint8_t hash[16];
    int length;

    snprintf(text, sizeof text, "%lu/%llu/%.600s", (unsigned long)geteuid(),
             (unsigned long long)instance, key);
    crypto_generichash(hash, sizeof hash, (const uint8_t *)text, strlen(text), NULL, 0);
    sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    length = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "thrum-id-%s", hex);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static bool same_user(int fd, uid_t *uid_out)
{
    struct ucred peer = {0};
    socklen_t length = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length))
        return false;
    *uid_out = peer.uid;
    return peer.uid == geteuid();
}

static bool wait_readable(int fd, int64_t due)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int rc;

    do
        rc = poll(&poll_fd, 1, boot_poll_ms(due, now_ns()));
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

static bool read_all(int fd, void *data, size_t bytes, int64_t due)
{
    uint8_t *at = data;

    while (bytes) {
        ssize_t n = wait_readable(fd, due) ? recv(fd, at, bytes, MSG_DONTWAIT) : 0;

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 3 * MS_NS}, NULL);
}

/* ---- rank 0 ---- */

static thrum_status_t bind_name(const struct sockaddr_un *name, socklen_t length, const char *key,
                                int64_t deadline, int *fd_out)
{
    int64_t due = now_ns() + BUSY_RETRY_NS;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;

    if (fd < 0)
        return boot_fail_descriptor(errno, "handing out the id");
    while (bind(fd, (const struct sockaddr *)name, length)) {
        error = errno;
        if (error == EADDRINUSE && now_ns() < due && now_ns() < deadline) {
            nap();
            continue;
        }
        close(fd);
        errno = error;
        if (error == EADDRINUSE)
            return thrum_fail(THRUM_ERR_BUSY,
                              "another job on this host uses the name that rank 0 needs (%.200s); "
                              "give this job another address or port",
                              key);
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "binding a unix socket");
    }
    if (listen(fd, 4096)) {
        close(fd);
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "listening on a unix socket");
    }
    *fd_out = fd;
    return THRUM_OK;
}

/* One visitor. How many ranks are not missing any more: 1, or 0; all that are left if it takes the job for another size. */
static int serve_one(int fd, const struct launch_info *info, const struct thrum_unique_id *id,
                     bool *missing, int left)
{
    int64_t due = now_ns() + ANSWER_NS;
    struct hello hello;
    uid_t uid;
    bool fresh;

    if (!same_user(fd, &uid) || !read_all(fd, &hello, sizeof hello, due) || hello.rank < 1 ||
        hello.rank >= hello.nranks)
        return 0;
    /* Twice the same rank, or another size, is for the root service to find: it tells both. */
    if (send(fd, id, sizeof *id, MSG_NOSIGNAL) != (ssize_t)sizeof *id)
        return 0;
    if (hello.nranks != info->nranks)
        return left;
    fresh = missing[hello.rank];
    missing[hello.rank] = false;
    return fresh;
}

static thrum_status_t hand_out(int listener, const struct launch_info *info,
                               const struct thrum_unique_id *id, int64_t deadline)
{
    bool *missing = calloc((size_t)info->nranks, sizeof *missing);
    thrum_status_t status = THRUM_OK;
    int left = info->nranks - 1;
    char text[300];

    if (!missing)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to hand out the id");
    memset(missing + 1, true, (size_t)left);
    while (left) {
        int fd;

        if (!wait_readable(listener, deadline)) {
            boot_ranks_text(missing, info->nranks, text, sizeof text);
            status =
                thrum_fail(THRUM_ERR_TIMEOUT, "%s did not ask for the id in time (%d of %d came)",
                           text, info->nranks - left, info->nranks);
            break;
        }
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
            status = boot_fail_descriptor(errno, "handing out the id");
            break;
        }
        if (fd < 0)
            continue;
        left -= serve_one(fd, info, id, missing, left);
        close(fd);
    }
    free(missing);
    return status;
}

static thrum_status_t give(const struct launch_info *info, const char *key, uint64_t instance,
                           int64_t deadline, struct thrum_unique_id *id_out)
{
    struct sockaddr_un name;
    socklen_t length = socket_name(key, instance, &name);
    struct thrum_unique_id id;
    thrum_status_t status;
    int fd = -1;

    if ((status = bind_name(&name, length, key, deadline, &fd)))
        return status;
    if (!(status = bootstrap_make_id(&id))) {
        status = hand_out(fd, info, &id, deadline);
        if (status)
            boot_withdraw(&id, status, thrum_last_error()); /* who came hears who has not */
        else
            *id_out = id;
    }
    close(fd);
    sodium_memzero(&id, sizeof id);
    return status;
}

/* ---- the others ---- */

static thrum_status_t try_take(const struct launch_info *info, const struct sockaddr_un *name,
                               socklen_t length, int64_t deadline, struct thrum_unique_id *id_out)
{
    struct hello hello = {info->rank, info->nranks};
    struct thrum_unique_id id;
    thrum_status_t status = THRUM_IN_PROGRESS;
    uid_t uid = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return boot_fail_descriptor(errno, "asking for the id");
    if (connect(fd, (const struct sockaddr *)name, length))
        goto done;
    if (!same_user(fd, &uid)) {
        status = thrum_fail(THRUM_ERR_AUTH,
                            "the socket where rank 0 should hand out the id is held by uid %lu",
                            (unsigned long)uid);
        goto done;
    }
    if (send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == (ssize_t)sizeof hello &&
        read_all(fd, &id, sizeof id, deadline)) {
        *id_out = id;
        status = THRUM_OK;
    }
done:
    close(fd);
    return status;
}

static thrum_status_t take(const struct launch_info *info, const char *key, uint64_t instance,
                           int64_t deadline, struct thrum_unique_id *id_out)
{
    struct sockaddr_un name;
    socklen_t length = socket_name(key, instance, &name);
    thrum_status_t status;

    while ((status = try_take(info, &name, length, deadline, id_out)) == THRUM_IN_PROGRESS) {
        if (now_ns() >= deadline)
            return thrum_fail(
                THRUM_ERR_TIMEOUT,
                "rank %d: rank 0 did not hand out the id on this host in time (%.200s)", info->rank,
                key);
        nap();
    }
    return status;
}

thrum_status_t launch_local_exchange(const struct launch_info *info, const char *key,
                                     uint64_t instance, int64_t deadline,
                                     struct thrum_unique_id *id_out)
{
    if (sodium_init() < 0)
        return thrum_fail(THRUM_ERR_SYSTEM, "libsodium cannot be initialised");
    return info->rank ? take(info, key, instance, deadline, id_out)
                      : give(info, key, instance, deadline, id_out);
}
