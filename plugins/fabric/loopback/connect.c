/*
 * How two endpoints meet. An endpoint listens on an abstract unix socket (nothing in the file system, gone with the
 * process). A service thread, asleep otherwise, accepts, checks that the caller is of the same user, makes a mailbox in
 * a sealed memfd and passes its descriptor; so a connection is made even while the application computes. The socket
 * stays open for as long as the connection: its end is how each side learns that the other is gone.
 */
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { ID_LISTEN, ID_STOP, ID_FIRST };

/* The bytes of a fabric address. */
struct endpoint_address {
    uint32_t magic, version;
    int32_t pid;
    char boot_id[LOOPBACK_BOOT_ID_BYTES]; /* of the host's kernel: names the host */
    char name[48]; /* of the abstract socket */
};
_Static_assert(sizeof(struct endpoint_address) <= THRUM_FABRIC_ADDRESS_BYTES, "fits");

/* The only message on the socket, from the accepting side; the mailbox's descriptor comes with it. */
struct greeting {
    uint32_t magic, version;
    int32_t status; /* or why there is no mailbox */
    int32_t pid;
    uint64_t ring_bytes;
    char text[LOOPBACK_TEXT_BYTES];
};

static void read_boot_id(char out[LOOPBACK_BOOT_ID_BYTES])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, LOOPBACK_BOOT_ID_BYTES);

    memset(out + (n < 0 ? 0 : n), 0, LOOPBACK_BOOT_ID_BYTES - (size_t)(n < 0 ? 0 : n));
    if (fd >= 0)
        close(fd);
}

static socklen_t socket_name(struct sockaddr_un *out, const char *name)
{
    size_t length = strnlen(name, sizeof((struct endpoint_address *)0)->name);

    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    memcpy(out->sun_path + 1, name, length); /* the leading 0 makes it abstract */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

/* Running out of descriptors is the usual cause: name what to raise. */
static thrum_status_t fail_descriptor(const char *what)
{
    struct rlimit limit = {0};

    if (errno != EMFILE && errno != ENFILE)
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "loopback: %s", what);
    getrlimit(RLIMIT_NOFILE, &limit);
    return thrum_fail_errno(THRUM_ERR_LIMIT,
                            "loopback: %s: RLIMIT_NOFILE (ulimit -n) is %llu; raise it", what,
                            (unsigned long long)limit.rlim_cur);
}

static size_t mailbox_bytes(size_t ring_bytes)
{
    return LOOPBACK_HEADER_PAGE + ring_bytes + LOOPBACK_REPLY_BYTES;
}

static bool same_user(int fd, int *pid_out)
{
    struct ucred cred = {0};
    socklen_t length = sizeof cred;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &length) || cred.uid != geteuid())
        return false;
    *pid_out = cred.pid;
    return true;
}

/* ---- the accepting side, on the service thread ---------------------------------------------- */

void loopback_source_free(struct loopback_source *source)
{
    if (source->mailbox)
        munmap(source->mailbox, source->map_bytes);
    if (source->fd >= 0)
        close(source->fd);
    free(source);
}

/* Sends the greeting, and the mailbox if memfd >= 0. A caller that is gone by now is its own problem. */
static bool send_greeting(int fd, struct greeting *greeting, int memfd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {greeting, sizeof *greeting};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    greeting->magic = LOOPBACK_MAGIC;
    greeting->version = LOOPBACK_VERSION;
    greeting->pid = getpid();
    if (memfd >= 0) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_len = CMSG_LEN(sizeof memfd);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), &memfd, sizeof memfd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof *greeting;
}

static void turn_away(int fd, thrum_status_t status, const char *text)
{
    struct greeting greeting = {.status = status};

    snprintf(greeting.text, sizeof greeting.text, "%s", text);
    (void)send_greeting(fd, &greeting, -1);
    close(fd);
}

/* The mailbox's pages, sealed so that the other side cannot take them away under us. *memfd_out is the caller's. */
static thrum_status_t make_mailbox(struct loopback_source *source, int *memfd_out)
{
    int memfd = memfd_create("thrum-loopback", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *map;

    if (memfd < 0)
        return fail_descriptor("no descriptor for a mailbox");
    if (ftruncate(memfd, (off_t)source->map_bytes) ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        close(memfd);
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "loopback: cannot size a mailbox");
    }
    map = mmap(NULL, source->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (map == MAP_FAILED) {
        close(memfd);
        return thrum_fail_errno(THRUM_ERR_NO_MEMORY, "loopback: cannot map a mailbox");
    }
    source->mailbox = map;
    source->ring = (char *)map + LOOPBACK_HEADER_PAGE;
    source->reply = source->ring + source->ring_bytes;
    *memfd_out = memfd;
    return THRUM_OK;
}

static void watch(struct loopback_endpoint *endpoint, int fd, uint64_t id)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = id};

    if (epoll_ctl(endpoint->epoll_fd, EPOLL_CTL_ADD, fd, &event))
        thrum_log(LOG_WARN, "loopback: cannot watch a connection: its end will not be noticed");
}

/* Takes over `fd`. */
static void welcome(struct loopback_endpoint *endpoint, int fd, int pid)
{
    struct loopback_source *source = calloc(1, sizeof *source);
    struct greeting greeting = {.status = THRUM_OK, .ring_bytes = endpoint->ring_bytes};
    bool sent;
    int memfd = -1;

    if (!source) {
        turn_away(fd, THRUM_ERR_NO_MEMORY, "it has no memory for a connection");
        return;
    }
    source->fd = -1;
    source->pid = pid;
    source->ring_bytes = endpoint->ring_bytes;
    source->map_bytes = mailbox_bytes(endpoint->ring_bytes);
    greeting.status = make_mailbox(source, &memfd);
    if (greeting.status) {
        turn_away(fd, (thrum_status_t)greeting.status, thrum_last_error());
        loopback_source_free(source);
        return;
    }
    source->fd = fd;
    sent = send_greeting(fd, &greeting, memfd);
    close(memfd);
    if (!sent) {
        loopback_source_free(source);
        return;
    }
    pthread_mutex_lock(&endpoint->lock);
    source->id = endpoint->next_id++;
    source->next = endpoint->sources;
    endpoint->sources = source;
    watch(endpoint, fd, source->id);
    pthread_mutex_unlock(&endpoint->lock);
}

/* No descriptor is left: one kept in reserve lets the caller be told, instead of letting it wait. */
static void turn_away_for_limit(struct loopback_endpoint *endpoint)
{
    int fd;

    if (endpoint->spare_fd >= 0)
        close(endpoint->spare_fd);
    fd = accept4(endpoint->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        turn_away(fd, THRUM_ERR_LIMIT,
                  "it has no descriptor left: raise RLIMIT_NOFILE (ulimit -n) there");
    endpoint->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_one(struct loopback_endpoint *endpoint)
{
    int fd = accept4(endpoint->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), pid;

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            turn_away_for_limit(endpoint);
    } else if (same_user(fd, &pid)) {
        welcome(endpoint, fd, pid);
    } else {
        turn_away(fd, THRUM_ERR_AUTH, "it belongs to another user");
    }
}

/* The socket of a connection has ended, or says something, which it never does. */
static void mark_gone(struct loopback_endpoint *endpoint, uint64_t id)
{
    pthread_mutex_lock(&endpoint->lock);
    for (struct loopback_peer *peer = endpoint->peers; peer; peer = peer->next) {
        if (peer->id == id) {
            peer->gone = true;
            close(peer->fd);
            peer->fd = -1;
        }
    }
    for (struct loopback_source *source = endpoint->sources; source; source = source->next) {
        if (source->id == id) {
            source->gone = true;
            close(source->fd);
            source->fd = -1;
        }
    }
    pthread_mutex_unlock(&endpoint->lock);
}

static void *serve(void *argument)
{
    struct loopback_endpoint *endpoint = argument;
    struct epoll_event events[16];

    for (;;) {
        int n = epoll_wait(endpoint->epoll_fd, events, 16, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == ID_STOP)
                return NULL;
            if (events[i].data.u64 == ID_LISTEN)
                accept_one(endpoint);
            else
                mark_gone(endpoint, events[i].data.u64);
        }
    }
}

static thrum_status_t start_service(struct loopback_endpoint *endpoint)
{
    sigset_t all, before;
    int error;

    sigfillset(&all); /* signals are the application's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&endpoint->service, NULL, serve, endpoint);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error)
        return THRUM_OK;
    errno = error;
    return thrum_fail_errno(THRUM_ERR_LIMIT, "loopback: cannot start the service thread");
}

static void close_descriptors(struct loopback_endpoint *endpoint)
{
    int *const fds[] = {&endpoint->listen_fd, &endpoint->epoll_fd, &endpoint->stop_fd,
                        &endpoint->spare_fd};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

static thrum_status_t bind_socket(struct loopback_endpoint *endpoint,
                                  struct endpoint_address *address)
{
    struct sockaddr_un name;
    uint64_t random[2];
    socklen_t length;

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "loopback: getrandom");
    snprintf(address->name, sizeof address->name, "thrum-loopback-%016llx%016llx",
             (unsigned long long)random[0], (unsigned long long)random[1]);
    length = socket_name(&name, address->name);
    if (bind(endpoint->listen_fd, (const struct sockaddr *)&name, length) ||
        listen(endpoint->listen_fd, SOMAXCONN))
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "loopback: cannot listen at %s", address->name);
    return THRUM_OK;
}

thrum_status_t loopback_listen(struct loopback_endpoint *endpoint,
                               struct thrum_fabric_address *address_out)
{
    struct endpoint_address address = {
        .magic = LOOPBACK_MAGIC, .version = LOOPBACK_VERSION, .pid = getpid()};
    thrum_status_t status;

    read_boot_id(endpoint->boot_id);
    endpoint->next_id = ID_FIRST;
    endpoint->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    endpoint->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    endpoint->stop_fd = eventfd(0, EFD_CLOEXEC);
    endpoint->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (endpoint->listen_fd < 0 || endpoint->epoll_fd < 0 || endpoint->stop_fd < 0 ||
        endpoint->spare_fd < 0)
        status = fail_descriptor("no descriptor for an endpoint");
    else
        status = bind_socket(endpoint, &address);
    if (!status) {
        watch(endpoint, endpoint->listen_fd, ID_LISTEN);
        watch(endpoint, endpoint->stop_fd, ID_STOP);
        status = start_service(endpoint);
    }
    if (status) {
        close_descriptors(endpoint);
        return status;
    }
    memcpy(address.boot_id, endpoint->boot_id, sizeof address.boot_id);
    memset(address_out, 0, sizeof *address_out);
    memcpy(address_out->bytes, &address, sizeof address);
    return THRUM_OK;
}

void loopback_stop_listening(struct loopback_endpoint *endpoint)
{
    uint64_t one = 1;

    while (write(endpoint->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pthread_join(endpoint->service, NULL);
    close_descriptors(endpoint);
}

/* ---- the connecting side ---------------------------------------------------------------------- */

static thrum_status_t parse_address(const struct loopback_endpoint *endpoint,
                                    const struct thrum_fabric_address *bytes,
                                    struct endpoint_address *out)
{
    memcpy(out, bytes->bytes, sizeof *out);
    if (out->magic != LOOPBACK_MAGIC)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "address is not one of fabric loopback");
    if (out->version != LOOPBACK_VERSION)
        return thrum_fail(THRUM_ERR_PROTOCOL, "loopback: peer speaks version %u, we speak %d",
                          out->version, LOOPBACK_VERSION);
    if (memcmp(endpoint->boot_id, out->boot_id, sizeof out->boot_id))
        return thrum_fail(THRUM_ERR_UNREACHABLE,
                          "fabric loopback cannot leave the host, and process %d is on another",
                          out->pid);
    return THRUM_OK;
}

static thrum_status_t open_socket(const struct endpoint_address *address, int *fd_out)
{
    int limit_ms = limit_connect_ms(LOOPBACK_CONNECT_MS);
    struct timeval limit = {limit_ms / 1000, limit_ms % 1000 * 1000};
    struct sockaddr_un name;
    socklen_t length = socket_name(&name, address->name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), result, pid;

    if (fd < 0)
        return fail_descriptor("no descriptor for a connection");
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* bounds connect, too */
    do
        result = connect(fd, (const struct sockaddr *)&name, length);
    while (result && errno == EINTR);
    if (result) {
        thrum_status_t status = errno == ECONNREFUSED ? THRUM_ERR_PEER_DEAD : THRUM_ERR_UNREACHABLE;
        status = thrum_fail_errno(status, "loopback: no answer from the endpoint of process %d",
                                  address->pid);
        close(fd);
        return status;
    }
    if (!same_user(fd, &pid)) {
        close(fd);
        return thrum_fail(THRUM_ERR_AUTH, "loopback: the endpoint of process %d is another user's",
                          address->pid);
    }
    *fd_out = fd;
    return THRUM_OK;
}

static bool wait_readable(int fd)
{
    int64_t deadline = now_ns() + (int64_t)limit_connect_ms(LOOPBACK_CONNECT_MS) * 1000000;
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    int64_t left;

    while ((left = deadline - now_ns()) > 0) {
        int n = poll(&entry, 1, (int)(left / 1000000) + 1);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
    return false;
}

/* The greeting and the descriptor that comes with it; -1 if none does. */
static thrum_status_t receive_greeting(int fd, int pid, struct greeting *greeting, int *memfd_out)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {greeting, sizeof *greeting};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header;
    ssize_t n;

    *memfd_out = -1;
    if (!wait_readable(fd))
        return thrum_fail(THRUM_ERR_UNREACHABLE,
                          "loopback: process %d did not answer within %d ms (is it stopped?)", pid,
                          limit_connect_ms(LOOPBACK_CONNECT_MS));
    n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return thrum_fail(THRUM_ERR_PEER_DEAD, "loopback: process %d ended while it was called",
                          pid);
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(memfd_out, CMSG_DATA(header), sizeof(int));
    if (n != (ssize_t)sizeof *greeting || greeting->magic != LOOPBACK_MAGIC ||
        greeting->version != LOOPBACK_VERSION)
        return thrum_fail(THRUM_ERR_PROTOCOL, "loopback: process %d answered something else", pid);
    greeting->text[sizeof greeting->text - 1] = 0;
    if (greeting->status)
        return thrum_fail(greeting->status < 0 ? (thrum_status_t)greeting->status
                                               : THRUM_ERR_PROTOCOL,
                          "loopback: process %d refused the connection: %s", pid, greeting->text);
    if (*memfd_out < 0) {
        errno = EMFILE; /* what the kernel drops a descriptor for */
        return fail_descriptor("no descriptor for a peer's mailbox");
    }
    return THRUM_OK;
}

/* Maps a mailbox after checking that it is as large as it says and stays so. */
static thrum_status_t map_mailbox(struct loopback_peer *peer, const struct greeting *greeting,
                                  int memfd)
{
    size_t ring_bytes = greeting->ring_bytes;
    struct stat file;
    void *map;

    if (ring_bytes < 16384 || ring_bytes > 67108864 || (ring_bytes & (ring_bytes - 1)) ||
        fstat(memfd, &file) || (size_t)file.st_size != mailbox_bytes(ring_bytes) ||
        !(fcntl(memfd, F_GET_SEALS) & F_SEAL_SHRINK))
        return thrum_fail(THRUM_ERR_PROTOCOL, "loopback: process %d sent no proper mailbox",
                          peer->pid);
    peer->ring_bytes = ring_bytes;
    peer->map_bytes = mailbox_bytes(ring_bytes);
    map = mmap(NULL, peer->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (map == MAP_FAILED)
        return thrum_fail_errno(THRUM_ERR_NO_MEMORY, "loopback: cannot map a mailbox");
    peer->mailbox = map;
    peer->ring = (char *)map + LOOPBACK_HEADER_PAGE;
    peer->reply = peer->ring + ring_bytes;
    return THRUM_OK;
}

static thrum_status_t meet(struct loopback_peer *peer, const struct endpoint_address *address)
{
    struct greeting greeting;
    thrum_status_t status;
    int memfd = -1;

    status = open_socket(address, &peer->fd);
    if (!status)
        status = receive_greeting(peer->fd, address->pid, &greeting, &memfd);
    if (!status)
        status = map_mailbox(peer, &greeting, memfd);
    if (memfd >= 0)
        close(memfd);
    return status;
}

static void free_peer(struct loopback_peer *peer)
{
    if (peer->mailbox)
        munmap(peer->mailbox, peer->map_bytes);
    if (peer->fd >= 0)
        close(peer->fd);
    free(peer);
}

thrum_status_t loopback_connect(void *endpoint_handle, const struct thrum_fabric_address *bytes,
                                void **peer_out)
{
    struct loopback_endpoint *endpoint = endpoint_handle;
    struct endpoint_address address;
    struct loopback_peer *peer;
    thrum_status_t status = parse_address(endpoint, bytes, &address);

    if (status)
        return status;
    peer = calloc(1, sizeof *peer);
    if (!peer)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a loopback connection");
    peer->endpoint = endpoint;
    peer->fd = -1;
    peer->pid = address.pid;
    status = meet(peer, &address);
    if (status) {
        free_peer(peer);
        return status;
    }
    pthread_mutex_lock(&endpoint->lock);
    peer->id = endpoint->next_id++;
    peer->next = endpoint->peers;
    endpoint->peers = peer;
    watch(endpoint, peer->fd, peer->id);
    pthread_mutex_unlock(&endpoint->lock);
    *peer_out = peer;
    return THRUM_OK;
}

void loopback_disconnect(void *peer_handle)
{
    struct loopback_peer *peer = peer_handle;
    struct loopback_endpoint *endpoint;

    if (!peer)
        return;
    endpoint = peer->endpoint;
    pthread_mutex_lock(&endpoint->lock);
    for (struct loopback_peer **link = &endpoint->peers; *link; link = &(*link)->next) {
        if (*link == peer) {
            *link = peer->next;
            break;
        }
    }
    pthread_mutex_unlock(&endpoint->lock);
    free_peer(peer); /* closing the socket ends its watch */
}
