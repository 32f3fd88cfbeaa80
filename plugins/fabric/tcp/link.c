/*
 * Links: how an endpoint calls another, which of two connections stays where both call at once, and how a link ends. A
 * call goes through the other's addresses, those of a common subnet first, of these the fastest. Called through the table by comm, by the
 * service thread for those who call here, and by receive.c at the end of a connection.
 */
#include "tcp.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define CALLS 3 /* of one address */
#define CALLS_APART_NS 20000000

/* ---- links ---- */

struct tcp_link *tcp_link_find(const struct tcp_endpoint *endpoint, const uint8_t *id)
{
    struct tcp_link *link = endpoint->links;

    while (link && (link->ended || memcmp(link->id, id, TCP_ID_BYTES) != 0))
        link = link->next;
    return link;
}

/* Which interface the connection goes over; "" if it is none of the endpoint's. */
static const char *interface_of(const struct tcp_endpoint *endpoint,
                                const struct sockaddr_storage *local)
{
    struct sockaddr_storage own;

    for (unsigned i = 0; i < endpoint->ninterfaces; i++)
        for (unsigned k = 0; k < endpoint->interfaces[i].ncandidates; k++) {
            const struct tcp_candidate *candidate = &endpoint->interfaces[i].candidates[k];
            struct sockaddr_in one, two;
            struct sockaddr_in6 one6, two6;

            (void)tcp_socket_address(candidate, 0, &own);
            memcpy(&one, &own, sizeof one);
            memcpy(&two, local, sizeof two);
            memcpy(&one6, &own, sizeof one6);
            memcpy(&two6, local, sizeof two6);
            if (local->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&two6.sin6_addr)
                    ? candidate->family == 4 &&
                          !memcmp(&one.sin_addr, &two6.sin6_addr.s6_addr[12], 4)
                    : own.ss_family == local->ss_family &&
                          (candidate->family == 4 ? one.sin_addr.s_addr == two.sin_addr.s_addr
                                                  : !memcmp(&one6.sin6_addr, &two6.sin6_addr, 16)))
                return endpoint->interfaces[i].name;
        }
    return "";
}

/* "process 7 of node2 (10.0.0.2:4711 over eth0)" */
static void name_link(struct tcp_link *link, int32_t pid, const char *host)
{
    struct sockaddr_storage other = {0}, local = {0};
    socklen_t length = sizeof other, local_length = sizeof local;
    struct tcp_candidate candidate = {.family = 4};
    char ip[INET6_ADDRSTRLEN] = "?";
    struct sockaddr_in6 in6;
    struct sockaddr_in in;
    const char *interface;

    (void)getpeername(link->fd, (struct sockaddr *)&other, &length);
    (void)getsockname(link->fd, (struct sockaddr *)&local, &local_length);
    memcpy(&in, &other, sizeof in);
    memcpy(&in6, &other, sizeof in6);
    if (other.ss_family == AF_INET) {
        memcpy(candidate.ip, &in.sin_addr, 4);
    } else if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
        memcpy(candidate.ip, &in6.sin6_addr.s6_addr[12], 4);
    } else {
        candidate.family = 6;
        memcpy(candidate.ip, &in6.sin6_addr, 16);
    }
    tcp_candidate_text(&candidate, ip, sizeof ip);
    interface = interface_of(link->endpoint, &local);
    snprintf(link->name, sizeof link->name, "process %d of %.15s (%s:%d%s%.15s)", pid, host, ip,
             ntohs(in.sin_port), *interface ? " over " : "", interface);
}

thrum_status_t tcp_link_add(struct tcp_endpoint *endpoint, int fd, const uint8_t *id, int32_t pid,
                            const char *host, struct tcp_link **link_out)
{
    struct tcp_link *link = calloc(1, sizeof *link);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};
    thrum_status_t status = THRUM_OK;

    if (link)
        link->stage = malloc(TCP_STAGE_BYTES);
    if (!link || !link->stage)
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for a connection");
    else if (epoll_ctl(endpoint->epoll_fd, EPOLL_CTL_ADD, fd, &event))
        status = tcp_fail_errno(THRUM_ERR_LIMIT, "tcp: a connection cannot be watched");
    if (status) {
        if (link)
            free(link->stage);
        free(link);
        return status;
    }
    link->endpoint = endpoint;
    link->fd = fd;
    link->since_ns = now_ns();
    memcpy(link->id, id, sizeof link->id);
    name_link(link, pid, host);
    pthread_mutex_init(&link->send_lock, NULL);
    link->next = endpoint->links;
    endpoint->links = link;
    atomic_fetch_add_explicit(&endpoint->nlinks, 1, memory_order_relaxed);
    thrum_plugin_log(THRUM_LOG_DEBUG, "tcp: linked to %s", link->name);
    *link_out = link;
    return THRUM_OK;
}

thrum_status_t tcp_status_of(int error)
{
    switch (error) {
    case 0:
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case ENOTCONN:
    case EPIPE:
        return THRUM_ERR_PEER_DEAD;
    case EPROTO:
        return THRUM_ERR_PROTOCOL;
    default:
        return THRUM_ERR_UNREACHABLE;
    }
}

void tcp_link_fail(struct tcp_link *link, thrum_status_t status, const char *format, ...)
{
    char text[128];
    va_list arguments;

    if (link->status)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(link->message, sizeof link->message, "tcp: %s: %s", link->name, text);
    link->status = status;
    link->out_left = 0;
    link->queue.bytes = 0;
    tcp_unhold_locked(link);
    tcp_mark_busy_locked(link, false);
    (void)shutdown(link->fd,
                   SHUT_RDWR); /* the other side hears of it; what has come is still there */
    thrum_plugin_log(THRUM_LOG_INFO, "%s", link->message);
}

void tcp_link_end(struct tcp_link *link, int error)
{
    struct tcp_endpoint *endpoint = link->endpoint;
    thrum_status_t status = tcp_status_of(error);

    link->ended = true;
    endpoint->nwanted -= link->nwanted;
    link->nwanted = 0;
    (void)epoll_ctl(link->endpoint->epoll_fd, EPOLL_CTL_DEL, link->fd, NULL);
    pthread_mutex_lock(&link->send_lock);
    if (status == THRUM_ERR_PEER_DEAD)
        tcp_link_fail(link, status, "it has died or closed its endpoint");
    else
        tcp_link_fail(link, status, "the connection broke: %s", strerror(error));
    if (link->status != THRUM_ERR_PEER_DEAD)
        tcp_event_keep(link->endpoint, THRUM_FABRIC_FATAL, 0, link->message);
    pthread_mutex_unlock(&link->send_lock);
}

/* Something that was accepted is not at the other side yet; sends what can be sent of it. */
static bool owes(struct tcp_link *link)
{
    int left = 0;

    if (link->ended || link->peers)
        return false;
    pthread_mutex_lock(&link->send_lock);
    (void)tcp_send_locked(link);
    pthread_mutex_unlock(&link->send_lock);
    if (link->status)
        return false;
    return atomic_load(&link->busy) || (!ioctl(link->fd, SIOCOUTQ, &left) && left);
}

void tcp_linger(const struct tcp_endpoint *endpoint)
{
    int64_t end = now_ns() + (int64_t)TCP_LINGER_MS * 1000000;
    long nap_ns = 20000;

    while (now_ns() < end) {
        bool left = false;

        for (struct tcp_link *link = endpoint->links; link; link = link->next)
            left |= owes(link);
        if (!left)
            return;
        nanosleep(&(struct timespec){.tv_nsec = nap_ns}, NULL);
        nap_ns = nap_ns < 1000000 ? nap_ns * 2 : nap_ns;
    }
}

void tcp_link_free(struct tcp_link *link)
{
    while (link->peers) {
        struct tcp_peer *peer = link->peers;
        link->peers = peer->next;
        free(peer);
    }
    (void)shutdown(link->fd, SHUT_RDWR); /* a child of fork may have it open */
    close(link->fd);
    pthread_mutex_destroy(&link->send_lock);
    free(link->queue.frames);
    free(link->queue_out.frames);
    free(link->stage);
    free(link->copy);
    free(link);
}

/* ---- calling ---- */

/* One call, and what came of it. */
struct dial {
    const struct tcp_endpoint *endpoint;
    const struct tcp_address *address; /* whom */
    int64_t end_ns; /* of this attempt */
    int fd;
    struct tcp_welcome welcome;
    bool refused, limited; /* somebody's kernel or we said so */
    char tried[200]; /* addresses, and why not */
};

static bool wait_for(int fd, short events, int64_t end_ns)
{
    struct pollfd entry = {.fd = fd, .events = events};
    int64_t left;

    while ((left = end_ns - now_ns()) > 0) {
        int n = poll(&entry, 1, (int)(left / 1000000) + 1);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
    errno = ETIMEDOUT;
    return false;
}

/* Where the user said which interface, from there. */
static void bind_to_choice(const struct dial *dial, int fd, const struct tcp_candidate *to)
{
    const struct tcp_address *own = &dial->endpoint->address;
    const struct tcp_candidate *from = NULL;
    struct sockaddr_storage name;
    socklen_t length;

    for (unsigned i = 0; dial->endpoint->chosen && i < own->ncandidates; i++)
        if (own->candidates[i].family == to->family &&
            (!from || tcp_same_subnet(&own->candidates[i], to)))
            from = &own->candidates[i];
    if (!from)
        return;
    length = tcp_socket_address(from, 0, &name);
    if (bind(fd, (const struct sockaddr *)&name, length))
        thrum_plugin_log(THRUM_LOG_DEBUG, "tcp: cannot call from the chosen interface");
}

/* 0 or an error's number. */
static int connect_to(struct dial *dial, const struct tcp_candidate *to)
{
    struct sockaddr_storage name;
    socklen_t length = tcp_socket_address(to, dial->address->port, &name), size = sizeof(int);
    int error = 0;

    dial->fd = socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (dial->fd < 0)
        return errno;
    tcp_socket_tune(dial->endpoint, dial->fd);
    bind_to_choice(dial, dial->fd, to);
    if (!connect(dial->fd, (const struct sockaddr *)&name, length))
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    if (!wait_for(dial->fd, POLLOUT, dial->end_ns))
        return errno;
    if (getsockopt(dial->fd, SOL_SOCKET, SO_ERROR, &error, &size))
        error = errno;
    return error;
}

/* Says who calls, and hears the answer. 0 or an error's number. */
static int greet(struct dial *dial)
{
    const struct tcp_address *own = &dial->endpoint->address;
    struct tcp_hello hello = {.magic = TCP_MAGIC, .version = TCP_VERSION, .pid = own->pid};
    struct tcp_welcome *welcome = &dial->welcome;
    size_t got = 0;

    memcpy(hello.token, dial->address->token, sizeof hello.token);
    memcpy(hello.id, own->id, sizeof hello.id);
    memcpy(hello.host, own->host, sizeof hello.host);
    if (send(dial->fd, &hello, sizeof hello, MSG_NOSIGNAL) != (ssize_t)sizeof hello)
        return errno ? errno : EPROTO;
    while (got < sizeof *welcome) {
        ssize_t n;

        if (!wait_for(dial->fd, POLLIN, dial->end_ns))
            return errno;
        n = recv(dial->fd, (char *)welcome + got, sizeof *welcome - got, 0);
        if (!n)
            return ECONNRESET;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return errno;
        got += n > 0 ? (size_t)n : 0;
    }
    welcome->text[sizeof welcome->text - 1] = 0;
    if (welcome->magic != TCP_MAGIC || memcmp(welcome->id, dial->address->id, TCP_ID_BYTES) != 0)
        return EPROTO;
    return 0;
}

static bool is_own_ip(const struct tcp_endpoint *endpoint, const struct tcp_candidate *candidate)
{
    for (unsigned i = 0; i < endpoint->address.ncandidates; i++)
        if (endpoint->address.candidates[i].family == candidate->family &&
            !memcmp(endpoint->address.candidates[i].ip, candidate->ip, sizeof candidate->ip))
            return true;
    return false;
}

/*
 * How good an address is to call: 0 if it is in no subnet of ours, so that we cannot tell where it leads; else the more, the
 * faster, as the slower end is, where its speed is known.
 */
static uint64_t merit_of(const struct tcp_endpoint *endpoint, const struct tcp_candidate *to)
{
    uint64_t merit = 0;

    for (unsigned i = 0; i < endpoint->address.ncandidates; i++) {
        const struct tcp_candidate *own = &endpoint->address.candidates[i];
        uint64_t speed = own->speed && to->speed ? min_u64(own->speed, to->speed)
                                                 : max_u64(own->speed, to->speed);
        if (tcp_same_subnet(own, to))
            merit = max_u64(merit, 1 + speed);
    }
    return merit;
}

/* True: there is an answer. */
static bool try_one(struct dial *dial, const struct tcp_candidate *to)
{
    size_t used = strlen(dial->tried);
    char ip[INET6_ADDRSTRLEN] = "?";
    int error = ECONNRESET;

    /* who is called by very many at once may drop one of them */
    for (int i = 0; i < CALLS && error == ECONNRESET; i++) {
        error = connect_to(dial, to);
        if (!error)
            error = greet(dial);
        if (!error)
            return true;
        if (dial->fd >= 0)
            close(dial->fd);
        dial->fd = -1;
        nanosleep(&(struct timespec){.tv_nsec = CALLS_APART_NS}, NULL);
    }
    dial->refused |= error == ECONNREFUSED || error == ECONNRESET;
    dial->limited |= error == EMFILE || error == ENFILE;
    tcp_candidate_text(to, ip, sizeof ip);
    snprintf(dial->tried + used, sizeof dial->tried - used, "%s%s:%u: %s", used ? ", " : "", ip,
             dial->address->port,
             error == ECONNRESET ? "nobody who knows it is there any more" : strerror(error));
    return false;
}

/* The addresses of the other that may lead there, in the order in which to call them; how many. */
static unsigned order_candidates(const struct tcp_endpoint *endpoint,
                                 const struct tcp_address *address, struct tcp_candidate *out)
{
    bool same_network = tcp_same_network(address, &endpoint->address);
    unsigned n = 0;

    for (unsigned i = 0; i < address->ncandidates; i++) {
        const struct tcp_candidate *to = &address->candidates[i];
        unsigned at = n;

        if (!same_network && is_own_ip(endpoint, to)) /* that would be ourselves */
            continue;
        for (; at && merit_of(endpoint, &out[at - 1]) < merit_of(endpoint, to); at--)
            out[at] = out[at - 1];
        out[at] = *to;
        n++;
    }
    return n;
}

static bool try_all(struct dial *dial, int64_t end_ns)
{
    struct tcp_candidate candidates[TCP_CANDIDATES];
    unsigned n = order_candidates(dial->endpoint, dial->address, candidates);

    for (unsigned i = 0; i < n; i++) {
        int64_t now = now_ns();

        /* one that does not answer leaves time for the others */
        dial->end_ns = i + 1 < n ? now + (end_ns - now) / 2 : end_ns;
        if (try_one(dial, &candidates[i]))
            return true;
    }
    return false;
}

/* Descriptor and verdict of a connection. Not under a lock. */
static thrum_status_t call(const struct tcp_endpoint *endpoint, const struct tcp_address *address,
                           int64_t end_ns, int *fd_out, enum tcp_verdict *verdict_out)
{
    struct dial dial = {.endpoint = endpoint, .address = address, .fd = -1};
    const struct tcp_welcome *welcome = &dial.welcome;

    if (!try_all(&dial, end_ns)) {
        if (dial.limited) {
            errno = EMFILE;
            return tcp_fail_errno(THRUM_ERR_LIMIT, "tcp: no descriptor for a connection");
        }
        return thrum_plugin_fail(dial.refused ? THRUM_ERR_PEER_DEAD : THRUM_ERR_UNREACHABLE,
                                 "tcp: process %d of %s cannot be reached: %s", address->pid,
                                 address->host,
                                 *dial.tried ? dial.tried : "it has no address that leads there");
    }
    if (welcome->version == TCP_VERSION && welcome->verdict != TCP_REJECTED) {
        *fd_out = dial.fd;
        *verdict_out = welcome->verdict == TCP_TAKEN ? TCP_TAKEN : TCP_CROSSED;
        return THRUM_OK;
    }
    close(dial.fd);
    return thrum_plugin_fail(welcome->status < 0 ? (thrum_status_t)welcome->status
                                                 : THRUM_ERR_PROTOCOL,
                             "tcp: process %d of %s refused the connection: %s", address->pid,
                             address->host, welcome->text);
}

/* ---- connections ---- */

static thrum_status_t parse_address(const struct thrum_fabric_address *bytes,
                                    struct tcp_address *out)
{
    memcpy(out, bytes->bytes, sizeof *out);
    if (out->magic != TCP_MAGIC)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "address is not one of fabric tcp");
    if (out->version != TCP_VERSION)
        return thrum_plugin_fail(THRUM_ERR_PROTOCOL, "tcp: peer speaks version %u, we speak %d",
                                 out->version, TCP_VERSION);
    out->host[sizeof out->host - 1] = 0;
    if (out->ncandidates > TCP_CANDIDATES)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "tcp: %u addresses of an endpoint",
                                 out->ncandidates);
    for (unsigned i = 0; i < out->ncandidates; i++)
        if (out->candidates[i].family != 4 && out->candidates[i].family != 6)
            return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "tcp: address of kind %u",
                                     out->candidates[i].family);
    return THRUM_OK;
}

static bool is_called(const struct tcp_endpoint *endpoint, const uint8_t *id)
{
    for (const struct tcp_call *one = endpoint->calls; one; one = one->next)
        if (!memcmp(one->id, id, TCP_ID_BYTES))
            return true;
    return false;
}

/* Waits until there is a link, or nobody calls any more, if `or_call`. NULL: none. Under the endpoint's lock. */
static struct tcp_link *await_link(struct tcp_endpoint *endpoint, const uint8_t *id, bool or_call,
                                   int64_t end_ns)
{
    struct timespec end = {.tv_sec = end_ns / 1000000000, .tv_nsec = end_ns % 1000000000};
    struct tcp_link *link;

    while (!(link = tcp_link_find(endpoint, id)) && !(or_call && !is_called(endpoint, id)))
        if (pthread_cond_timedwait(&endpoint->changed, &endpoint->lock, &end))
            break;
    return link;
}

static void forget_call(struct tcp_endpoint *endpoint, const struct tcp_call *done)
{
    struct tcp_call **at = &endpoint->calls;

    while (*at != done)
        at = &(*at)->next;
    *at = done->next;
    pthread_cond_broadcast(&endpoint->changed);
}

/*
 * Under the endpoint's lock, which it lets go while it calls. Takes connect_ms at most, whatever it waits for: another
 * thread that calls the same endpoint, the answer, or a call of the other side that crosses this one.
 */
static thrum_status_t reach(struct tcp_endpoint *endpoint, const struct tcp_address *address,
                            struct tcp_link **link_out)
{
    int64_t end_ns = now_ns() + (int64_t)endpoint->connect_ms * 1000000;
    struct tcp_call mine = {.id = address->id};
    enum tcp_verdict verdict = TCP_CROSSED;
    thrum_status_t status;
    int fd = -1;

    *link_out = await_link(endpoint, address->id, true, end_ns);
    if (*link_out)
        return THRUM_OK;
    mine.next = endpoint->calls;
    endpoint->calls = &mine;
    pthread_mutex_unlock(&endpoint->lock);
    status = call(endpoint, address, end_ns, &fd, &verdict);
    pthread_mutex_lock(&endpoint->lock);
    forget_call(endpoint, &mine);
    if (status) { /* or they have called, and got through */
        *link_out = tcp_link_find(endpoint, address->id);
        return *link_out ? THRUM_OK : status;
    }
    if (verdict == TCP_TAKEN) {
        status = tcp_link_add(endpoint, fd, address->id, address->pid, address->host, link_out);
        if (!status)
            return THRUM_OK;
    }
    close(fd);
    if (!status)
        *link_out = await_link(endpoint, address->id, false, end_ns);
    if (!status && !*link_out)
        status = thrum_plugin_fail(THRUM_ERR_UNREACHABLE,
                                   "tcp: process %d of %s called at the same time, and did not "
                                   "get through",
                                   address->pid, address->host);
    return status;
}

thrum_status_t tcp_connect(void *endpoint_handle, const struct thrum_fabric_address *bytes,
                           void **peer_out)
{
    struct tcp_endpoint *endpoint = endpoint_handle;
    struct tcp_address address;
    struct tcp_link *link = NULL;
    struct tcp_peer *peer;
    thrum_status_t status = parse_address(bytes, &address);

    if (status)
        return status;
    peer = calloc(1, sizeof *peer);
    if (!peer)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "tcp: no memory for a connection");
    pthread_mutex_lock(&endpoint->lock);
    status = reach(endpoint, &address, &link);
    if (!status) {
        pthread_mutex_lock(&link->send_lock);
        peer->link = link;
        peer->channel = link->next_channel++;
        peer->next = link->peers;
        link->peers = peer;
        pthread_mutex_unlock(&link->send_lock);
    }
    pthread_mutex_unlock(&endpoint->lock);
    if (status) {
        free(peer);
        return status;
    }
    *peer_out = peer;
    return THRUM_OK;
}

void tcp_disconnect(void *peer_handle)
{
    struct tcp_peer *peer = peer_handle, **at;
    struct tcp_endpoint *endpoint;
    struct tcp_link *link;

    if (!peer)
        return;
    link = peer->link;
    endpoint = link->endpoint;
    pthread_mutex_lock(&endpoint->lock); /* what comes for its gets is received under this one */
    pthread_mutex_lock(&link->send_lock);
    tcp_drop_locked(peer);
    for (at = &link->peers; *at != peer; at = &(*at)->next)
        ;
    *at = peer->next;
    pthread_mutex_unlock(&link->send_lock);
    pthread_mutex_unlock(&endpoint->lock);
    free(peer);
}
