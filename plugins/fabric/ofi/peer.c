/*
 * Connections. libfabric's endpoints of this kind have none: what is made here is one to send through, with a queue of
 * its own; and whether the peer lives is asked of the kernel where libfabric does not say. A tcp peer is tried by an
 * ordinary connection to its port, which needs nothing of the peer's process; one in our pid namespace by its pidfd.
 */
#include "ofi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_NS 5000000 /* between two looks at a process */
#define STALL_NS 200000000 /* after which a host is tried */
#define PROBE_NS 1000000000 /* between two tries */
#define CONFIRM_NS 1000000000
#define CONFIRM_NEXT_NS 20000000
#define SILENT_NS 2000000000

/* ---- errors ---- */

thrum_status_t ofi_peer_fail(struct ofi_peer *peer, thrum_status_t status, const char *format, ...)
{
    char text[OFI_TEXT_BYTES];
    va_list arguments;

    if (peer->status)
        return thrum_plugin_fail(peer->status, "%s", peer->message);
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    peer->status = status;
    snprintf(peer->message, sizeof peer->message, "ofi: %.80s: %.160s", peer->name, text);
    return thrum_plugin_fail(status, "%s", peer->message);
}

static thrum_status_t status_of(int error)
{
    switch (error) {
    case FI_ECONNRESET:
    case FI_ECONNREFUSED:
    case FI_ECONNABORTED:
    case FI_ENOTCONN:
    case FI_ESHUTDOWN:
    case EPIPE:
        return THRUM_ERR_PEER_DEAD;
    default:
        return THRUM_ERR_UNREACHABLE;
    }
}

thrum_status_t ofi_peer_broke(struct ofi_peer *peer, int error, const char *doing)
{
    return ofi_peer_fail(peer, status_of(error), "%s: %s", doing, fi_strerror(error));
}

void ofi_peer_lost(struct ofi_peer *peer, int error)
{
    if (error == FI_ECANCELED || error == FI_EIO)
        error = FI_ECONNRESET; /* nothing is cancelled here: its connection went */
    (void)ofi_peer_broke(peer, error ? error : FI_EIO, "the connection broke");
}

thrum_status_t ofi_peer_error(void *handle, const char **message_out)
{
    struct ofi_peer *peer = handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->endpoint->lock);
    status = peer->status;
    *message_out = peer->message;
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

/* ---- is it alive? ---- */

/* Providers whose addresses are those of a listening tcp socket. */
static bool is_tcp(const struct ofi_peer *peer)
{
    const char *provider = peer->address.provider;

    return (peer->address.format == FI_SOCKADDR_IN || peer->address.format == FI_SOCKADDR_IN6) &&
           (!strncmp(provider, "tcp", 3) || !strncmp(provider, "net", 3) ||
            !strncmp(provider, "sockets", 7));
}

static thrum_status_t fail_gone(struct ofi_peer *peer)
{
    return ofi_peer_fail(peer, THRUM_ERR_PEER_DEAD, "the process has ended");
}

static thrum_status_t fail_probe(struct ofi_peer *peer, int error)
{
    if (error == ECONNREFUSED)
        return ofi_peer_fail(peer, THRUM_ERR_PEER_DEAD,
                             "nobody listens there any more (connection refused)");
    return ofi_peer_fail(peer, THRUM_ERR_UNREACHABLE, "cannot be reached from %s: %s",
                         peer->endpoint->address.host, strerror(error));
}

/* Begins to connect. 0: it is connected, and closed again; EINPROGRESS: see probe_result; or why it cannot be. */
static int probe_start(struct ofi_peer *peer)
{
    int error = 0, fd = socket(peer->address.format == FI_SOCKADDR_IN ? AF_INET : AF_INET6,
                               SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_storage address = {0};

    if (fd < 0)
        return 0; /* no descriptor: then this is not how we learn of it */
    memcpy(&address, peer->address.name, peer->address.name_bytes);
    if (connect(fd, (const struct sockaddr *)&address, peer->address.name_bytes))
        error = errno;
    if (error == EINPROGRESS)
        peer->probe_fd = fd;
    else
        close(fd);
    return error;
}

/* As probe_start, after at most `wait_ms`. */
static int probe_result(struct ofi_peer *peer, int wait_ms)
{
    struct pollfd entry = {.fd = peer->probe_fd, .events = POLLOUT};
    socklen_t length = sizeof(int);
    int error = 0;

    if (poll(&entry, 1, wait_ms) <= 0)
        return EINPROGRESS;
    if (getsockopt(peer->probe_fd, SOL_SOCKET, SO_ERROR, &error, &length))
        error = errno;
    close(peer->probe_fd);
    peer->probe_fd = -1;
    return error;
}

static void probe_sometimes(struct ofi_peer *peer, int64_t now)
{
    int error;

    if (peer->probe_fd >= 0) {
        error = probe_result(peer, 0);
    } else {
        if (now - peer->probed_ns < PROBE_NS)
            return;
        peer->probed_ns = now;
        error = probe_start(peer);
    }
    if (error && error != EINPROGRESS)
        (void)fail_probe(peer, error);
}

void ofi_peer_watch(struct ofi_peer *peer, bool stalled)
{
    int64_t now = now_ns();

    if (peer->status)
        return;
    if (!stalled)
        peer->stalled_since_ns = 0;
    if (now - peer->looked_ns < LOOK_NS)
        return;
    peer->looked_ns = now;
    if (process_is_gone(peer->pid_fd)) {
        (void)fail_gone(peer);
        return;
    }
    if (!stalled || !is_tcp(peer))
        return;
    if (!peer->stalled_since_ns)
        peer->stalled_since_ns = now;
    else if (now - peer->stalled_since_ns > STALL_NS)
        probe_sometimes(peer, now);
}

/* ---- connect ---- */

static void name_peer(struct ofi_peer *peer)
{
    const struct ofi_address *address = &peer->address;
    char ip[INET6_ADDRSTRLEN] = "";

    if (address->format == FI_SOCKADDR_IN) {
        struct sockaddr_in in = {0};
        memcpy(&in, address->name, sizeof in);
        inet_ntop(AF_INET, &in.sin_addr, ip, sizeof ip);
        snprintf(peer->name, sizeof peer->name, "process %d of %.15s (%s:%d)", address->pid,
                 address->host, ip, ntohs(in.sin_port));
    } else {
        snprintf(peer->name, sizeof peer->name, "process %d of %.15s", address->pid, address->host);
    }
}

static thrum_status_t parse_address(const struct ofi_endpoint *endpoint,
                                    const struct thrum_fabric_address *bytes,
                                    struct ofi_address *out)
{
    memcpy(out, bytes->bytes, sizeof *out);
    if (out->magic != OFI_MAGIC)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "address is not one of fabric ofi");
    if (out->version != OFI_VERSION)
        return thrum_plugin_fail(THRUM_ERR_PROTOCOL, "ofi: peer speaks version %u, we speak %d",
                                 out->version, OFI_VERSION);
    out->provider[sizeof out->provider - 1] = 0;
    out->host[sizeof out->host - 1] = 0;
    if (out->name_bytes > sizeof out->name)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "ofi: address of %u bytes",
                                 out->name_bytes);
    if (strcmp(out->provider, endpoint->address.provider) ||
        out->format != endpoint->address.format)
        return thrum_plugin_fail(THRUM_ERR_UNREACHABLE,
                                 "ofi: process %d of %s uses provider %s%s, this one %s%s: set "
                                 "THRUM_OFI_PROVIDER and THRUM_OFI_INTERFACE alike",
                                 out->pid, out->host, out->provider,
                                 out->format == FI_SOCKADDR_IN6 ? " (IPv6)" : "",
                                 endpoint->address.provider,
                                 endpoint->address.format == FI_SOCKADDR_IN6 ? " (IPv6)" : "");
    return THRUM_OK;
}

/* Before anything is made: does somebody answer? */
static thrum_status_t check_alive(struct ofi_peer *peer)
{
    const struct ofi_address *theirs = &peer->address;
    int error = process_watch(theirs->boot, theirs->pid, theirs->token, &peer->pid_fd);

    if (error == ENOENT)
        return ofi_peer_fail(peer, THRUM_ERR_PEER_DEAD, "the endpoint is closed");
    if (error == ESRCH)
        return fail_gone(peer);
    if (error)
        return ofi_fail(error, "ofi: no descriptor for a connection");
    if (is_tcp(peer)) {
        error = probe_start(peer);
        if (error == EINPROGRESS)
            error = probe_result(peer, limit_connect_ms(OFI_CONNECT_MS));
        if (error == EINPROGRESS) {
            close(peer->probe_fd);
            peer->probe_fd = -1;
            error = ETIMEDOUT;
        }
        if (error)
            return fail_probe(peer, error);
    }
    return THRUM_OK;
}

static thrum_status_t add_address(struct ofi_peer *peer, struct ofi_route *route)
{
    if (fi_av_insert(route->av, peer->address.name, 1, &route->to, 0, NULL) != 1)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "ofi: provider %s does not understand the address of %s",
                                 peer->address.provider, peer->name);
    return THRUM_OK;
}

static thrum_status_t open_sender(struct ofi_peer *peer)
{
    struct ofi_endpoint *endpoint = peer->endpoint;
    struct fi_cq_attr cq_attr = {.size = 2 * OFI_OPS, .format = FI_CQ_FORMAT_CONTEXT};
    struct fi_av_attr av_attr = {.type = endpoint->info->domain_attr->av_type, .count = 1};
    struct ofi_route *own = &peer->own;
    thrum_status_t status;
    int error;

    /* Its name is of no interest: `info` leaves the port to the provider. */
    error = fi_endpoint(endpoint->domain, endpoint->info, &own->ep, NULL);
    if (!error)
        error = fi_cq_open(endpoint->domain, &cq_attr, &own->cq, NULL);
    if (!error)
        error = fi_av_open(endpoint->domain, &av_attr, &own->av, NULL);
    if (!error)
        error = fi_ep_bind(own->ep, &own->cq->fid, FI_TRANSMIT | FI_RECV);
    if (!error)
        error = fi_ep_bind(own->ep, &own->av->fid, 0);
    if (!error)
        error = fi_enable(own->ep);
    if (error)
        return ofi_fail(-error, "ofi: cannot make an endpoint for %s", peer->name);
    peer->route = own;
    status = add_address(peer, own);
    if (status || !endpoint->is_stream || peer->address.token == endpoint->address.token)
        return status;
    peer->shared = (struct ofi_route){.av = endpoint->av, .cq = endpoint->cq};
    status = add_address(peer, &peer->shared);
    if (!status)
        peer->shared.ep = endpoint->ep;
    return status;
}

static void close_own(struct ofi_peer *peer)
{
    if (peer->own.ep)
        fi_close(&peer->own.ep->fid);
    if (peer->own.cq)
        fi_close(&peer->own.cq->fid);
    if (peer->own.av)
        fi_close(&peer->own.av->fid);
    peer->own = (struct ofi_route){0};
}

static void close_sender(struct ofi_peer *peer)
{
    if (peer->shared.ep) /* what it has in flight lies in slots of the endpoint, and goes on */
        (void)fi_av_remove(peer->shared.av, &peer->shared.to, 1, 0);
    close_own(peer);
    if (peer->pid_fd >= 0)
        close(peer->pid_fd);
    if (peer->probe_fd >= 0)
        close(peer->probe_fd);
}

static bool make_ops(struct ofi_peer *peer)
{
    size_t n = min_u64(OFI_OPS, peer->endpoint->info->tx_attr->size);

    peer->ops = calloc(n, sizeof *peer->ops);
    for (size_t i = 0; peer->ops && i < n; i++) {
        peer->ops[i].next = peer->free_ops;
        peer->free_ops = &peer->ops[i];
    }
    return peer->ops != NULL;
}

thrum_status_t ofi_connect(void *handle, const struct thrum_fabric_address *address,
                           void **peer_out)
{
    struct ofi_endpoint *endpoint = handle;
    struct ofi_peer *peer = calloc(1, sizeof *peer);
    thrum_status_t status;

    if (!peer)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for a connection");
    peer->endpoint = endpoint;
    peer->pid_fd = peer->probe_fd = -1;
    status = parse_address(endpoint, address, &peer->address);
    if (status)
        goto err_free;
    name_peer(peer);
    status = check_alive(peer);
    if (!status && !make_ops(peer))
        status = thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for a connection");
    if (status)
        goto err_close;
    pthread_mutex_lock(&endpoint->lock);
    status = open_sender(peer);
    if (!status) {
        peer->next = endpoint->peers;
        endpoint->peers = peer;
    }
    pthread_mutex_unlock(&endpoint->lock);
    if (status)
        goto err_close;
    *peer_out = peer;
    return THRUM_OK;

err_close:
    pthread_mutex_lock(&endpoint->lock);
    close_sender(peer);
    pthread_mutex_unlock(&endpoint->lock);
    free(peer->ops);
err_free:
    free(peer);
    return status;
}

/* ---- disconnect ---- */

/*
 * What flush called complete may still lie in a buffer of the provider, and closing drops that. An answer of the peer's
 * provider to a read says that all before it has arrived. After a peer that did not answer others are not waited for as long:
 * they have had that time, too. Under lock.
 */
static void confirm(struct ofi_peer *peer)
{
    struct ofi_endpoint *endpoint = peer->endpoint;
    int64_t now = now_ns();
    int64_t end = now + (now < endpoint->silent_until_ns ? CONFIRM_NEXT_NS : CONFIRM_NS);

    while (!ofi_is_confirmed(peer) && !peer->status && !peer->outstanding && !peer->work.kind &&
           ofi_lookup_start(peer, 1) == THRUM_IN_PROGRESS && !peer->lookup && now_ns() < end)
        (void)ofi_progress_locked(endpoint);
    while (peer->lookup && !peer->status && now_ns() < end) {
        (void)ofi_progress_locked(endpoint);
        ofi_peer_watch(peer, true);
    }
    if (now_ns() >= end)
        endpoint->silent_until_ns = now_ns() + SILENT_NS;
}

static void drop_slot(struct ofi_peer *peer, void **slot)
{
    if (*slot)
        ofi_slot_free(peer->endpoint, *slot);
    *slot = NULL;
}

/* The endpoint is closed first, so that nobody reads the slots any more. Those of a shared route stay. */
void ofi_peer_let_go(struct ofi_peer *peer)
{
    size_t n = min_u64(OFI_OPS, peer->endpoint->info->tx_attr->size);

    close_own(peer);
    for (int i = 0; i < OFI_SLOTS; i++)
        if (peer->endpoint->shared_ops[i].peer == peer)
            peer->endpoint->shared_ops[i].peer = NULL;
    for (size_t i = 0; peer->ops && i < n; i++)
        drop_slot(peer, &peer->ops[i].slot);
    drop_slot(peer, &peer->work.slot);
    drop_slot(peer, &peer->work.message);
}

void ofi_disconnect(void *handle)
{
    struct ofi_peer *peer = handle, **link;
    struct ofi_endpoint *endpoint;

    if (!peer)
        return;
    endpoint = peer->endpoint;
    pthread_mutex_lock(&endpoint->lock);
    confirm(peer);
    for (link = &endpoint->peers; *link != peer; link = &(*link)->next)
        ;
    *link = peer->next;
    ofi_peer_let_go(peer);
    close_sender(peer);
    pthread_mutex_unlock(&endpoint->lock);
    free(peer->ops);
    free(peer);
}
