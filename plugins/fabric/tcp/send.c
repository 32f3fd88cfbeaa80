/*
 * put, get, flush: what goes out on a link. Called through the table by port engines and exec, and by progress for what a
 * socket did not take at once. All of a link's sending happens under its send_lock.
 *
 * A put on an idle link is one system call: header and data. If the socket takes only a part, the rest of inline data is
 * copied; other puts stay where they are, go on frame by frame, and are done when the kernel has the last byte.
 *
 * Many small puts, one close behind the other while nobody looks for what comes, go together: from the fifth on they are
 * held until there are HELD_BYTES of them, or somebody calls progress, as whoever waits does, or THRUM_TCP_HOLD_US have
 * passed. A call of the kernel, and the way through it to the other side, then serve many.
 *
 * flush has to know of a put that the other side refuses. So the first put by a key asks for an answer, which says how long
 * the region is; later ones are checked here against that, and need none.
 */
#include "tcp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define SMALL_BYTES \
    512 /* header and data are copied together: cheaper than two pieces for the kernel */
#define FRAMES_AT_ONCE 4
#define QUEUE_BYTES 131072 /* of inline puts that wait for a socket */
#define ROW_PUTS 4 /* go at once, those that follow in a row are held */
#define ROW_GAP_NS 20000
#define HOLD_PUT_BYTES 8192 /* larger ones are not: the bytes are what takes time */
#define HELD_BYTES 16384

/* ---- errors ---- */

/* What the other side has said, or that it is gone. Keeps the first error. */
static thrum_status_t check_peer(struct tcp_peer *peer)
{
    const struct tcp_link *link = peer->link;

    if (!peer->status && link->status) {
        peer->status = link->status;
        memcpy(peer->message, link->message, sizeof peer->message);
    }
    return peer->status ? thrum_plugin_fail(peer->status, "%s", peer->message) : THRUM_OK;
}

static thrum_status_t fail_peer(struct tcp_peer *peer, thrum_status_t status, const char *format,
                                ...) __attribute__((format(printf, 3, 4)));
static thrum_status_t fail_peer(struct tcp_peer *peer, thrum_status_t status, const char *format,
                                ...)
{
    char text[128];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(peer->message, sizeof peer->message, "tcp: %.95s: %.127s", peer->link->name, text);
    peer->status = status;
    tcp_drop_locked(peer); /* whoever hears of it may take its memory away */
    return thrum_plugin_fail(status, "%s", peer->message);
}

/* Nothing more goes out. What has come in is still received: tcp_receive finds the end. */
static void send_broke(struct tcp_link *link, int error)
{
    if (tcp_status_of(error) == THRUM_ERR_PEER_DEAD)
        tcp_link_fail(link, THRUM_ERR_PEER_DEAD, "it has died or closed its endpoint");
    else
        tcp_link_fail(link, tcp_status_of(error), "the connection broke: %s", strerror(error));
}

/* ---- frames ---- */

static ssize_t hand_to_kernel(int fd, const char *head, size_t head_bytes, const char *data,
                              size_t data_bytes)
{
    struct iovec parts[2] = {{(void *)(uintptr_t)head, head_bytes},
                             {(void *)(uintptr_t)data, data_bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = data_bytes ? 2 : 1};
    char small[SMALL_BYTES];

    if (!head_bytes)
        return send(fd, data, data_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (head_bytes + data_bytes > sizeof small)
        return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    memcpy(small, head, head_bytes);
    if (data_bytes)
        memcpy(small + head_bytes, data, data_bytes);
    return send(fd, small, head_bytes + data_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t transmit(struct tcp_link *link)
{
    const char *head = (const char *)&link->out + sizeof link->out - link->out_head;
    size_t data = link->out_left - link->out_head;
    ssize_t n;

    order_reads(link->out_data, data);
    order_published();
    order_hide();
    n = hand_to_kernel(link->fd, head, link->out_head, link->out_data, data);
    order_show();
    return n;
}

/* Sends of the frame at hand what the socket takes. True if that was something. */
static bool push_frame(struct tcp_link *link)
{
    bool moved = false;

    while (link->out_left) {
        ssize_t n = transmit(link);
        size_t sent = n > 0 ? (size_t)n : 0, head = min_u64(sent, link->out_head);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) {
            send_broke(link, errno);
            return true;
        }
        if (n <= 0)
            return moved;
        moved = true;
        link->out_head -= head;
        link->out_left -= sent;
        if (sent > head)
            link->out_data += sent - head;
    }
    return moved;
}

static struct tcp_frame frame_of(const struct tcp_peer *peer, const struct thrum_fabric_put *put,
                                 size_t part, bool asks)
{
    return (struct tcp_frame){
        .kind = TCP_PUT,
        .flags = asks ? TCP_ASKS : 0,
        .channel = peer->channel,
        .bytes = (uint32_t)part,
        .rest = put->bytes - part,
        .key = put->remote_key,
        .offset = put->remote_offset,
        .signal_key = put->signal_key,
        .signal_offset = put->signal_offset,
        .signal_value = put->signal_value,
    };
}

/* Makes a frame of a put's next bytes the one at hand. */
static void frame_put(struct tcp_link *link, struct tcp_peer *peer, struct thrum_fabric_put *put,
                      bool asks)
{
    size_t part = min_u64(put->bytes, TCP_SEGMENT_BYTES);

    link->out = frame_of(peer, put, part, asks);
    link->out_head = sizeof link->out;
    link->out_left = sizeof link->out + part;
    link->out_data = put->local;
    link->out_peer = peer;
    put->bytes -= part;
    put->remote_offset += part;
    if (put->bytes)
        put->local = (const char *)put->local + part;
}

/* The next peer that has more to put; there is one. */
static struct tcp_peer *next_peer(struct tcp_link *link)
{
    struct tcp_peer *peer = link->turn ? link->turn : link->peers;

    while (!peer->unfinished)
        peer = peer->next ? peer->next : link->peers;
    link->turn = peer->next;
    return peer;
}

/* What goes out after the frame at hand. False: nothing. */
static bool next_frame(struct tcp_link *link)
{
    struct tcp_queue sent = link->queue;
    struct tcp_peer *peer;

    if (sent.bytes) {
        link->queue = link->queue_out;
        link->queue.bytes = 0;
        link->queue_out = sent;
        link->out_head = 0;
        link->out_left = sent.bytes;
        link->out_data = sent.frames;
        link->out_peer = NULL;
        return true;
    }
    if (!link->nunfinished)
        return false;
    peer = next_peer(link);
    frame_put(link, peer, &peer->put, peer->asks);
    peer->asks = false;
    if (!peer->put.bytes) {
        peer->unfinished = false;
        link->nunfinished--;
    }
    return true;
}

void tcp_mark_busy_locked(struct tcp_link *link, bool busy)
{
    if (atomic_exchange_explicit(&link->busy, busy, memory_order_relaxed) == busy)
        return;
    if (busy)
        atomic_fetch_add_explicit(&link->endpoint->nbusy, 1, memory_order_relaxed);
    else
        atomic_fetch_sub_explicit(&link->endpoint->nbusy, 1, memory_order_relaxed);
}

/* Who sleeps on the epoll descriptor has to hear of room at once: nobody else may look at the link again. */
static void tell_busy(struct tcp_link *link)
{
    bool busy = !link->status && (link->out_left || link->queue.bytes || link->nunfinished);
    struct epoll_event event = {.events = busy ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = link};

    if (atomic_load_explicit(&link->busy, memory_order_relaxed) == busy)
        return;
    tcp_mark_busy_locked(link, busy);
    (void)epoll_ctl(link->endpoint->epoll_fd, EPOLL_CTL_MOD, link->fd, &event);
}

void tcp_unhold_locked(struct tcp_link *link)
{
    if (!atomic_load_explicit(&link->held, memory_order_relaxed))
        return;
    atomic_store_explicit(&link->held, false, memory_order_relaxed);
    atomic_fetch_sub_explicit(&link->endpoint->nheld, 1, memory_order_relaxed);
}

bool tcp_send_locked(struct tcp_link *link)
{
    bool moved;

    tcp_unhold_locked(link);
    moved = push_frame(link);
    for (int i = 0; i < FRAMES_AT_ONCE && !link->out_left && !link->status && next_frame(link); i++)
        moved |= push_frame(link);
    tell_busy(link);
    return moved;
}

bool tcp_send_held(struct tcp_endpoint *endpoint)
{
    bool moved = false;

    if (!atomic_load_explicit(&endpoint->nheld, memory_order_relaxed))
        return false;
    for (struct tcp_link *link = endpoint->links; link; link = link->next) {
        if (!atomic_load_explicit(&link->held, memory_order_relaxed))
            continue;
        pthread_mutex_lock(&link->send_lock);
        if (atomic_load_explicit(&link->held, memory_order_relaxed))
            moved |= tcp_send_locked(link);
        pthread_mutex_unlock(&link->send_lock);
    }
    return moved;
}

/* False: the link is done for. */
static bool append(struct tcp_link *link, const struct tcp_frame *frame, const void *payload)
{
    struct tcp_queue *queue = &link->queue;
    size_t wanted = queue->bytes + sizeof *frame + frame->bytes;

    if (link->status)
        return false;
    if (wanted > queue->room) {
        size_t room = max_u64(2 * queue->room, max_u64(wanted, 4096));
        char *frames = wanted > TCP_QUEUE_MAX ? NULL : realloc(queue->frames, room);
        if (!frames) {
            tcp_link_fail(link, THRUM_ERR_NO_MEMORY, "no memory for %zu bytes that wait", wanted);
            return false;
        }
        queue->frames = frames;
        queue->room = room;
    }
    memcpy(queue->frames + queue->bytes, frame, sizeof *frame);
    if (frame->bytes)
        memcpy(queue->frames + queue->bytes + sizeof *frame, payload, frame->bytes);
    queue->bytes = wanted;
    return true;
}

void tcp_queue_locked(struct tcp_link *link, const struct tcp_frame *frame, const void *payload)
{
    if (append(link, frame, payload))
        (void)tcp_send_locked(link);
}

/* The rest of the frame at hand no longer needs the memory that it came from. */
static void keep_rest(struct tcp_link *link)
{
    size_t data = link->out_left - link->out_head;

    if (!link->copy)
        link->copy = malloc(TCP_SEGMENT_BYTES);
    if (!link->copy) {
        tcp_link_fail(link, THRUM_ERR_NO_MEMORY, "no memory for what the socket did not take");
        return;
    }
    if (data)
        memcpy(link->copy, link->out_data, data);
    link->out_data = link->copy;
    link->out_peer = NULL;
}

/* ---- put ---- */

static thrum_status_t check_local(const struct tcp_peer *peer, const char *what, const void *local,
                                  const struct tcp_region *region, size_t bytes)
{
    uintptr_t at = (uintptr_t)local;

    if (!region || region->endpoint != peer->link->endpoint)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "tcp: %s: local_region %p is not one of this endpoint", what,
                                 (const void *)region);
    if (at < (uintptr_t)region->base || at - (uintptr_t)region->base > region->bytes ||
        bytes > region->bytes - (at - (uintptr_t)region->base))
        return thrum_plugin_fail(THRUM_ERR_INVALID_POINTER,
                                 "tcp: %s: %zu bytes at %p leave the local region", what, bytes,
                                 local);
    return THRUM_OK;
}

static thrum_status_t check_put(const struct tcp_peer *peer, const struct thrum_fabric_put *put)
{
    if (put->signal_key && put->signal_offset % 8)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "tcp: put: signal_offset %llu is not a multiple of 8",
                                 (unsigned long long)put->signal_offset);
    if (!put->bytes)
        return THRUM_OK;
    if (!(put->flags & THRUM_PUT_INLINE))
        return check_local(peer, "put", put->local, put->local_region, put->bytes);
    if (put->bytes > TCP_INLINE_BYTES)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "tcp: put: %zu bytes inline, at most %d are", put->bytes,
                                 TCP_INLINE_BYTES);
    return THRUM_OK;
}

/* Of a key that is known: is the range good? *asks_out is set where it is not known. */
static thrum_status_t check_remote(struct tcp_peer *peer, uint64_t key, uint64_t offset,
                                   uint64_t bytes, bool *asks_out)
{
    const struct tcp_link *link = peer->link;
    int place = keys_find(&link->known, key);
    uint64_t size = place < 0 ? 0 : link->known_bytes[place];

    if (place < 0)
        *asks_out = true;
    else if (offset > size || bytes > size - offset)
        return fail_peer(peer, THRUM_ERR_INVALID_POINTER,
                         "put of %llu bytes at offset %llu leaves the region of key 0x%llx",
                         (unsigned long long)bytes, (unsigned long long)offset,
                         (unsigned long long)key);
    return THRUM_OK;
}

/* Sends at once what the socket takes. */
static void put_now(struct tcp_link *link, struct tcp_peer *peer,
                    const struct thrum_fabric_put *put, bool asks)
{
    struct thrum_fabric_put rest = *put;

    frame_put(link, peer, &rest, asks);
    (void)push_frame(link);
    if (rest.bytes) {
        peer->put = rest;
        peer->unfinished = true;
        link->nunfinished++;
        if (!link->out_left)
            (void)tcp_send_locked(link);
    } else if (link->out_left && put->flags & THRUM_PUT_INLINE) {
        keep_rest(link);
    }
    tell_busy(link);
}

static void put_later(struct tcp_link *link, struct tcp_peer *peer,
                      const struct thrum_fabric_put *put, bool asks)
{
    if (put->flags & THRUM_PUT_INLINE || !put->bytes) {
        struct tcp_frame frame = frame_of(peer, put, put->bytes, asks);
        tcp_queue_locked(link, &frame, put->local);
        return;
    }
    peer->put = *put;
    peer->asks = asks;
    peer->unfinished = true;
    link->nunfinished++;
    (void)tcp_send_locked(link);
}

/*
 * Whether another is likely to follow soon; counts this one. What came before may have been put on any link. One look may have been
 * the engine thread's, woken by what has come; who waits looks more than once, or at once again, which sends what is held.
 */
static bool is_in_a_row(struct tcp_link *link)
{
    struct tcp_endpoint *endpoint = link->endpoint;
    unsigned looks = atomic_load_explicit(&endpoint->looks, memory_order_relaxed);
    int64_t before_ns = atomic_load_explicit(&endpoint->row_ns, memory_order_relaxed);

    if (looks - link->row_looks > 1 || now_ns() - before_ns > ROW_GAP_NS)
        link->row = 0;
    link->row_looks = looks;
    return link->row++ >= ROW_PUTS;
}

/* Sent by whoever looks next; and if nobody does, by the service thread. */
static void hold(struct tcp_link *link)
{
    struct tcp_endpoint *endpoint = link->endpoint;
    struct itimerspec time = {.it_value = {.tv_sec = endpoint->hold_us / 1000000,
                                           .tv_nsec = endpoint->hold_us % 1000000 * 1000L}};

    if (atomic_load_explicit(&link->held, memory_order_relaxed))
        return;
    atomic_store_explicit(&link->held, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->nheld, 1, memory_order_relaxed);
    /* release: what is held before the alarm; pairs with the exchange of who hears it */
    if (!atomic_exchange_explicit(&endpoint->alarmed, true, memory_order_acq_rel))
        (void)timerfd_settime(endpoint->alarm_fd, 0, &time, NULL);
}

static void put_in_a_row(struct tcp_link *link, struct tcp_peer *peer,
                         const struct thrum_fabric_put *put, bool asks)
{
    struct tcp_frame frame = frame_of(peer, put, put->bytes, asks);

    if (!append(link, &frame, put->local))
        return;
    if (link->queue.bytes < HELD_BYTES)
        hold(link);
    else
        (void)tcp_send_locked(link);
}

/* Under send_lock. */
static thrum_status_t accept_put(struct tcp_peer *peer, const struct thrum_fabric_put *put)
{
    struct tcp_link *link = peer->link;
    thrum_status_t status = THRUM_OK;
    bool asks = false,
         small = put->bytes <= HOLD_PUT_BYTES && (!put->bytes || put->flags & THRUM_PUT_INLINE);

    if (atomic_load_explicit(&link->busy, memory_order_relaxed))
        (void)tcp_send_locked(link);
    if (peer->unfinished || link->queue.bytes > QUEUE_BYTES)
        return THRUM_IN_PROGRESS;
    if (put->bytes)
        status = check_remote(peer, put->remote_key, put->remote_offset, put->bytes, &asks);
    if (!status && put->signal_key)
        status = check_remote(peer, put->signal_key, put->signal_offset, 8, &asks);
    if (status)
        return status;
    peer->unanswered += asks;
    if (atomic_load_explicit(&link->busy, memory_order_relaxed)) {
        put_later(link, peer, put, asks);
    } else if (link->endpoint->alarm_fd >= 0 && is_in_a_row(link) && small) {
        put_in_a_row(link, peer, put, asks);
    } else if (link->queue.bytes) {
        put_later(link, peer, put, asks);
    } else {
        put_now(link, peer, put, asks);
    }
    atomic_store_explicit(&link->endpoint->row_ns, now_ns(), memory_order_relaxed);
    return THRUM_OK;
}

thrum_status_t tcp_put_signal(void *peer_handle, const struct thrum_fabric_put *put)
{
    struct tcp_peer *peer = peer_handle;
    thrum_status_t status = check_put(peer, put);

    if (status || (!put->bytes && !put->signal_key))
        return status;
    tcp_note_round(peer->link->endpoint);
    pthread_mutex_lock(&peer->link->send_lock);
    status = check_peer(peer);
    if (!status)
        status = accept_put(peer, put);
    pthread_mutex_unlock(&peer->link->send_lock);
    return status;
}

/* ---- get, flush ---- */

/* A free place for a get; NULL: there are as many as can be. */
static struct tcp_get *take_get(struct tcp_link *link)
{
    for (unsigned i = 0; i < TCP_GETS; i++)
        if (!link->gets[i].peer) {
            link->gets[i].number = link->next_get++ * TCP_GETS + i;
            return &link->gets[i];
        }
    return NULL;
}

thrum_status_t tcp_get(void *peer_handle, void *local, void *local_region, size_t bytes,
                       uint64_t remote_key, uint64_t remote_offset)
{
    struct tcp_peer *peer = peer_handle;
    struct tcp_frame frame = {
        .kind = TCP_GET, .key = remote_key, .offset = remote_offset, .rest = bytes};
    struct tcp_link *link = peer->link;
    struct tcp_get *get = NULL;
    thrum_status_t status;

    if (!bytes)
        return THRUM_OK;
    status = check_local(peer, "get", local, local_region, bytes);
    if (status)
        return status;
    pthread_mutex_lock(&link->send_lock);
    status = check_peer(peer);
    if (!status) {
        (void)tcp_send_locked(link);
        get = peer->unfinished ? NULL : take_get(link);
        status = get ? THRUM_OK : THRUM_IN_PROGRESS;
    }
    if (!status) {
        get->peer = peer;
        get->local = local;
        get->left = bytes;
        peer->gets++;
        frame.channel = peer->channel;
        frame.signal_value = get->number;
        tcp_queue_locked(link, &frame, NULL);
    }
    pthread_mutex_unlock(&link->send_lock);
    return status;
}

static bool is_done(const struct tcp_peer *peer)
{
    return !peer->unfinished && !peer->unanswered && !peer->gets &&
           !(peer->link->out_left && peer->link->out_peer == peer);
}

/* Complete is complete even if the peer has gone since. Drives the endpoint: both sides may be in here. */
thrum_status_t tcp_flush(void *peer_handle)
{
    struct tcp_peer *peer = peer_handle;
    struct tcp_link *link = peer->link;
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&link->send_lock);
    if (atomic_load_explicit(&link->busy, memory_order_relaxed))
        (void)tcp_send_locked(link);
    if (peer->status || !is_done(peer)) {
        status = check_peer(peer);
        if (!status)
            status = THRUM_IN_PROGRESS;
    }
    pthread_mutex_unlock(&link->send_lock);
    if (status == THRUM_IN_PROGRESS && !pthread_mutex_trylock(&link->endpoint->lock)) {
        (void)tcp_progress_locked(link->endpoint);
        pthread_mutex_unlock(&link->endpoint->lock);
    }
    return status;
}

thrum_status_t tcp_peer_error(void *peer_handle, const char **message_out)
{
    struct tcp_peer *peer = peer_handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->link->send_lock);
    status = check_peer(peer);
    *message_out = peer->message;
    pthread_mutex_unlock(&peer->link->send_lock);
    return status;
}

void tcp_drop_locked(struct tcp_peer *peer)
{
    struct tcp_link *link = peer->link;

    if (link->out_left && link->out_peer == peer)
        keep_rest(link);
    if (peer->unfinished)
        link->nunfinished--;
    peer->unfinished = false;
    if (link->turn == peer)
        link->turn = peer->next;
    if (atomic_load_explicit(&link->held, memory_order_relaxed))
        (void)tcp_send_locked(link);
    for (unsigned i = 0; i < TCP_GETS && peer->gets; i++)
        if (link->gets[i].peer == peer) {
            link->gets[i].peer = NULL;
            peer->gets--;
        }
    tell_busy(link);
}
