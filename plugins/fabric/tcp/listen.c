/*
 * The service thread of an endpoint, asleep otherwise: it accepts who calls and knows the endpoint's secret, whatever the
 * process computes, hears of cables that are pulled and put back, ends links that have gone silent, and sends what is held
 * when nobody else does. Who calls and says nothing, or something else, is dropped after a while and holds up nobody. Called
 * by tcp.c when an endpoint opens and closes.
 */
#include "tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CALLERS 256 /* at once; one more, and the oldest is dropped */
#define LOOKS_IN_A_TIMEOUT 4
#define REPEATS 2 /* that nobody answers */
#define FIXED 4 /* descriptors before those of callers */

struct tcp_caller {
    int fd;
    int64_t deadline_ns;
    size_t got; /* bytes of hello */
    struct tcp_hello hello;
};

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

/*
 * To be called before there is a connection: a socket that has begun with bbr stays paced. Its pacing, by timers, takes half
 * of the rate between hosts that are near each other.
 */
static void choose_congestion_control(int fd)
{
    static const char *const others[] = {"cubic", "reno"};
    const char *wanted = thrum_plugin_config("THRUM_TCP_CONGESTION");
    char name[32] = "";
    socklen_t length = sizeof name - 1;

    if (wanted && strcmp(wanted, "auto") != 0) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, wanted, (socklen_t)strlen(wanted)))
            thrum_plugin_log(THRUM_LOG_WARN, "tcp: THRUM_TCP_CONGESTION=%s: %s", wanted,
                             strerror(errno));
        return;
    }
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) || strncmp(name, "bbr", 3) != 0)
        return;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, others[i], (socklen_t)strlen(others[i])))
            return;
}

/* Of a socket that is not connected yet. What accept returns inherits it. */
void tcp_socket_tune(const struct tcp_endpoint *endpoint, int fd)
{
    int seconds = endpoint->timeout_ms / 1000;

    choose_congestion_control(fd);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (endpoint->buffer_bytes) {
        set_option(fd, SOL_SOCKET, SO_SNDBUF, endpoint->buffer_bytes);
        set_option(fd, SOL_SOCKET, SO_RCVBUF, endpoint->buffer_bytes);
    }
    if (!endpoint->timeout_ms)
        return;
    /* Where nothing is sent, the kernel asks now and then; else see watch_silence. */
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds / 3 + 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds / 3 + 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

/* ---- callers ---- */

/* Takes the same time wherever they differ. */
static bool same_secret(const uint8_t *a, const uint8_t *b)
{
    unsigned difference = 0;

    for (size_t i = 0; i < TCP_ID_BYTES; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return !difference;
}

/* A caller that is gone by now is its own problem. */
static bool say(struct tcp_endpoint *endpoint, int fd, enum tcp_verdict verdict,
                thrum_status_t status, const char *text)
{
    struct tcp_welcome welcome = {
        .magic = TCP_MAGIC, .version = TCP_VERSION, .verdict = (int32_t)verdict, .status = status};

    memcpy(welcome.id, endpoint->address.id, sizeof welcome.id);
    snprintf(welcome.text, sizeof welcome.text, "%s", text);
    return send(fd, &welcome, sizeof welcome, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)sizeof welcome;
}

/*
 * While this process calls the same endpoint, one of both connections must go: that of the greater id. Who calls though
 * it has had a connection for long has lost that.
 */
static bool is_crossed(const struct tcp_endpoint *endpoint, const uint8_t *id)
{
    int order = memcmp(id, endpoint->address.id, TCP_ID_BYTES);
    struct tcp_link *link = order ? tcp_link_find(endpoint, id) : NULL;

    if (!order)
        return false; /* we call ourselves: a link has two ends */
    if (link)
        (void)tcp_receive(link); /* its end may be there */
    if (link && !link->ended && now_ns() - link->since_ns < (int64_t)TCP_CONNECT_MS * 1000000)
        return true;
    if (link && !link->ended)
        tcp_link_end(link, ECONNRESET);
    for (const struct tcp_call *call = endpoint->calls; call; call = call->next)
        if (!memcmp(call->id, id, TCP_ID_BYTES))
            return order > 0;
    return false;
}

/* Takes over `fd`. */
static void welcome(struct tcp_endpoint *endpoint, int fd, struct tcp_hello *hello)
{
    struct tcp_link *link = NULL;
    bool crossed;

    hello->host[sizeof hello->host - 1] = 0;
    pthread_mutex_lock(&endpoint->lock);
    crossed = is_crossed(endpoint, hello->id);
    if (crossed)
        (void)say(endpoint, fd, TCP_CROSSED, THRUM_OK, "");
    else if (!say(endpoint, fd, TCP_TAKEN, THRUM_OK, "") ||
             tcp_link_add(endpoint, fd, hello->id, hello->pid, hello->host, &link))
        crossed = true; /* the end of the connection tells them */
    pthread_cond_broadcast(&endpoint->changed);
    pthread_mutex_unlock(&endpoint->lock);
    if (crossed)
        close(fd);
}

static void drop_caller(struct tcp_endpoint *endpoint, unsigned index)
{
    endpoint->ncallers--;
    memmove(&endpoint->callers[index], &endpoint->callers[index + 1],
            (endpoint->ncallers - index) * sizeof *endpoint->callers);
}

/* Reads what has come of a greeting. False: the caller is dealt with. */
static bool hear(struct tcp_endpoint *endpoint, struct tcp_caller *caller)
{
    struct tcp_hello *hello = &caller->hello;
    ssize_t n =
        recv(caller->fd, (char *)hello + caller->got, sizeof *hello - caller->got, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n > 0)
        caller->got += (size_t)n;
    if (n > 0 && caller->got < sizeof *hello)
        return true;
    if (n <= 0 || hello->magic != TCP_MAGIC) {
        thrum_plugin_log(THRUM_LOG_DEBUG, "tcp: a stranger called, and was not let in");
        close(caller->fd);
    } else if (hello->version != TCP_VERSION) {
        (void)say(endpoint, caller->fd, TCP_REJECTED, THRUM_ERR_PROTOCOL,
                  "it speaks another version");
        close(caller->fd);
    } else if (!same_secret(hello->token, endpoint->address.token)) {
        thrum_plugin_log(THRUM_LOG_WARN,
                         "tcp: somebody called who does not know the secret of this endpoint");
        close(caller->fd);
    } else {
        welcome(endpoint, caller->fd, hello);
    }
    return false;
}

/* No descriptor is left: one kept in reserve lets the caller be told, instead of letting it wait. */
static void turn_away_for_limit(struct tcp_endpoint *endpoint)
{
    int fd;

    if (endpoint->spare_fd >= 0)
        close(endpoint->spare_fd);
    fd = accept4(endpoint->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        (void)say(endpoint, fd, TCP_REJECTED, THRUM_ERR_LIMIT,
                  "it has no descriptor left: raise RLIMIT_NOFILE (ulimit -n) there");
        shutdown(fd, SHUT_WR);
        close(fd);
    }
    endpoint->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_one(struct tcp_endpoint *endpoint)
{
    int fd = accept4(endpoint->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            turn_away_for_limit(endpoint);
        return;
    }
    if (endpoint->ncallers == CALLERS) {
        close(endpoint->callers[0].fd);
        drop_caller(endpoint, 0);
    }
    endpoint->callers[endpoint->ncallers++] =
        (struct tcp_caller){.fd = fd, .deadline_ns = now_ns() + (int64_t)TCP_CONNECT_MS * 1000000};
}

/* ---- cables ---- */

static void link_changed(struct tcp_endpoint *endpoint, unsigned index, bool up)
{
    const char *name = endpoint->interfaces[index].name;
    char text[80];

    if (endpoint->up[index] == up)
        return;
    endpoint->up[index] = up;
    snprintf(text, sizeof text, "%s: the interface is %s", name, up ? "up again" : "down");
    thrum_plugin_log(THRUM_LOG_WARN, "tcp: %s", text);
    pthread_mutex_lock(&endpoint->lock);
    tcp_event_keep(endpoint, up ? THRUM_FABRIC_LINK_UP : THRUM_FABRIC_LINK_DOWN, index, text);
    pthread_mutex_unlock(&endpoint->lock);
}

static void hear_of_links(struct tcp_endpoint *endpoint)
{
    _Alignas(struct nlmsghdr) char buffer[8192];
    ssize_t n = recv(endpoint->watch_fd, buffer, sizeof buffer, MSG_DONTWAIT);
    const struct nlmsghdr *message = (const struct nlmsghdr *)(const void *)buffer;
    unsigned left = n > 0 ? (unsigned)n : 0;

    for (; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
        const struct ifinfomsg *info = NLMSG_DATA(message);
        if (message->nlmsg_type != RTM_NEWLINK && message->nlmsg_type != RTM_DELLINK)
            continue;
        for (unsigned i = 0; i < endpoint->ninterfaces; i++)
            if (endpoint->interfaces[i].index == info->ifi_index)
                link_changed(endpoint, i,
                             message->nlmsg_type == RTM_NEWLINK && info->ifi_flags & IFF_RUNNING);
    }
}

/* Without it there are no events; everything else goes on. */
static void watch_links(struct tcp_endpoint *endpoint)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

    endpoint->watch_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (endpoint->watch_fd >= 0 &&
        bind(endpoint->watch_fd, (const struct sockaddr *)&name, sizeof name)) {
        close(endpoint->watch_fd);
        endpoint->watch_fd = -1;
    }
    for (unsigned i = 0; i < endpoint->ninterfaces; i++)
        endpoint->up[i] = true;
}

/* ---- silence ---- */

/*
 * Nothing comes back for what was sent, again and again. TCP_USER_TIMEOUT would say so, too, but also of a process that
 * computes or is stopped and whose kernel says that it has no room; and that may last as long as the deadline of the
 * operation. Under lock.
 */
static bool is_silent(struct tcp_link *link, int64_t now)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    int64_t for_ms = (now - link->silent_since_ns) / 1000000;
    unsigned repeats;

    if (getsockopt(link->fd, IPPROTO_TCP, TCP_INFO, &info, &length))
        return false;
    repeats = info.tcpi_retransmits + info.tcpi_probes;
    if (!repeats || repeats < link->repeats || info.tcpi_last_ack_recv < for_ms ||
        !link->silent_since_ns) {
        link->silent_since_ns = now;
        link->repeats = repeats;
    }
    return repeats >= link->repeats + REPEATS &&
           now - link->silent_since_ns > (int64_t)link->endpoint->timeout_ms * 1000000;
}

static void watch_silence(struct tcp_endpoint *endpoint)
{
    int64_t now = now_ns();

    pthread_mutex_lock(&endpoint->lock);
    for (struct tcp_link *link = endpoint->links; link; link = link->next)
        if (!link->ended && is_silent(link, now))
            tcp_link_end(link, ETIMEDOUT);
    pthread_mutex_unlock(&endpoint->lock);
}

/* Those who put have not looked again, and may not for long. */
static void hear_alarm(struct tcp_endpoint *endpoint)
{
    uint64_t times;

    if (read(endpoint->alarm_fd, &times, sizeof times) < 0)
        return;
    /* acquire: what was held before it was found set is seen; pairs with the release of who holds */
    (void)atomic_exchange_explicit(&endpoint->alarmed, false, memory_order_acq_rel);
    pthread_mutex_lock(&endpoint->lock);
    (void)tcp_send_held(endpoint);
    pthread_mutex_unlock(&endpoint->lock);
}

/* ---- the thread ---- */

/* Until the first of the callers has been silent for too long, or the links are to be looked at. -1: for ever. */
static int milliseconds_left(const struct tcp_endpoint *endpoint, int64_t look_ns)
{
    int64_t until = endpoint->timeout_ms ? look_ns : INT64_MAX, left;

    if (endpoint->ncallers) /* they are in the order of their time */
        until = (int64_t)min_u64((uint64_t)until, (uint64_t)endpoint->callers[0].deadline_ns);
    if (until == INT64_MAX)
        return -1;
    left = until - now_ns();
    return left > 0 ? (int)(left / 1000000) + 1 : 0;
}

static void serve_callers(struct tcp_endpoint *endpoint, const struct pollfd *fds)
{
    unsigned n = endpoint->ncallers;

    for (unsigned i = 0, at = 0; i < n; i++) { /* `at`: of those that are left */
        if (fds[i].revents && !hear(endpoint, &endpoint->callers[at])) {
            drop_caller(endpoint, at);
        } else if (now_ns() >= endpoint->callers[at].deadline_ns) {
            close(endpoint->callers[at].fd);
            drop_caller(endpoint, at);
        } else {
            at++;
        }
    }
}

static void *serve(void *argument)
{
    struct tcp_endpoint *endpoint = argument;
    struct pollfd fds[FIXED + CALLERS];
    int64_t look_apart_ns = ((int64_t)endpoint->timeout_ms / LOOKS_IN_A_TIMEOUT + 1) * 1000000;
    int64_t look_ns =
        0; /* when the links are to be looked at, however often something else comes */

    fds[0] = (struct pollfd){.fd = endpoint->stop_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = endpoint->listen_fd, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = endpoint->watch_fd, .events = POLLIN};
    fds[3] = (struct pollfd){.fd = endpoint->alarm_fd, .events = POLLIN};
    for (;;) {
        int n;

        for (unsigned i = 0; i < endpoint->ncallers; i++)
            fds[FIXED + i] = (struct pollfd){.fd = endpoint->callers[i].fd, .events = POLLIN};
        n = poll(fds, FIXED + endpoint->ncallers, milliseconds_left(endpoint, look_ns));
        if (n < 0)
            continue; /* EINTR; signals are blocked here, but for those of a debugger */
        if (fds[0].revents)
            return NULL;
        if (fds[3].revents)
            hear_alarm(endpoint);
        if (endpoint->ncallers)
            serve_callers(endpoint, fds + FIXED);
        if (fds[1].revents)
            accept_one(endpoint);
        if (fds[2].revents)
            hear_of_links(endpoint);
        if (endpoint->timeout_ms && now_ns() >= look_ns) {
            watch_silence(endpoint);
            look_ns = now_ns() + look_apart_ns;
        }
    }
}

static thrum_status_t start_service(struct tcp_endpoint *endpoint)
{
    sigset_t all, before;
    int error;

    sigfillset(&all); /* signals are the application's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&endpoint->service, NULL, serve, endpoint);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    endpoint->has_service = !error;
    errno = error;
    return error ? tcp_fail_errno(THRUM_ERR_LIMIT, "tcp: cannot start the service thread")
                 : THRUM_OK;
}

/* The one address that there is, or all of the host's; there are so many ports that any will do. */
static thrum_status_t bind_socket(struct tcp_endpoint *endpoint)
{
    struct tcp_address *address = &endpoint->address;
    struct tcp_candidate any = {.family = 4};
    const struct tcp_candidate *at = address->ncandidates == 1 ? &address->candidates[0] : &any;
    struct sockaddr_storage name;
    struct sockaddr_in in;
    socklen_t length;
    int fd;

    for (unsigned i = 0; i < address->ncandidates; i++)
        if (address->candidates[i].family == 6)
            any.family = 6; /* takes both */
    fd =
        socket(at->family == 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: no descriptor for an endpoint");
    endpoint->listen_fd = fd;
    tcp_socket_tune(endpoint, fd);
    if (at->family == 6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    length = tcp_socket_address(at, 0, &name);
    if (bind(fd, (const struct sockaddr *)&name, length) || listen(fd, SOMAXCONN) ||
        getsockname(fd, (struct sockaddr *)&name, &length))
        return tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: cannot listen");
    memcpy(&in, &name, sizeof in); /* the port is at the same place in both kinds */
    address->port = ntohs(in.sin_port);
    return THRUM_OK;
}

thrum_status_t tcp_listen(struct tcp_endpoint *endpoint)
{
    thrum_status_t status = THRUM_OK;

    endpoint->callers = calloc(CALLERS, sizeof *endpoint->callers);
    endpoint->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (endpoint->hold_us)
        endpoint->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    endpoint->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!endpoint->callers)
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for an endpoint");
    else if (endpoint->stop_fd < 0 || endpoint->spare_fd < 0)
        status = tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: no descriptor for an endpoint");
    if (!status)
        status = bind_socket(endpoint);
    if (!status) {
        watch_links(endpoint);
        status = start_service(endpoint);
    }
    if (status)
        tcp_stop_listening(endpoint);
    return status;
}

void tcp_stop_listening(struct tcp_endpoint *endpoint)
{
    int *const fds[] = {&endpoint->listen_fd, &endpoint->stop_fd, &endpoint->watch_fd,
                        &endpoint->spare_fd, &endpoint->alarm_fd};
    uint64_t one = 1;

    if (endpoint->has_service) {
        while (write(endpoint->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(endpoint->service, NULL);
        endpoint->has_service = false;
    }
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    for (unsigned i = 0; i < endpoint->ncallers; i++)
        close(endpoint->callers[i].fd);
    free(endpoint->callers);
    endpoint->callers = NULL;
    endpoint->ncallers = 0;
}
