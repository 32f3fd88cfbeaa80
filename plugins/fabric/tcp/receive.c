/*
 * Stores what comes in on a link into registered regions, and answers gets. Called by progress and flush, under the
 * endpoint's lock. Small frames are read into a stage, many at once; what is long is read straight to where it goes.
 * Neither side trusts what the other writes: a frame is checked before a byte of it is stored.
 */
#include "tcp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LOOKS 4 /* at one socket, before others have their turn */
#define LONG_BYTES 8192

/* ---- refusals ---- */

/* Tells the sender why nothing more is taken of this connection. The link and this process go on unharmed. */
static void refuse(struct tcp_link *link, uint32_t channel, thrum_status_t status,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));
static void refuse(struct tcp_link *link, uint32_t channel, thrum_status_t status,
                   const char *format, ...)
{
    struct tcp_frame frame = {
        .kind = TCP_ERROR, .channel = channel, .offset = (uint64_t)(int64_t)status};
    char text[TCP_TEXT_BYTES / 2];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    thrum_plugin_log(THRUM_LOG_WARN, "tcp: refused %s: %s", link->name, text);
    link->refused[link->nrefused++ % TCP_REFUSED] = channel;
    frame.bytes = (uint32_t)strlen(text);
    pthread_mutex_lock(&link->send_lock);
    tcp_queue_locked(link, &frame, text);
    pthread_mutex_unlock(&link->send_lock);
}

static bool is_refused(const struct tcp_link *link, uint32_t channel)
{
    for (unsigned i = 0; i < link->nrefused && i < TCP_REFUSED; i++)
        if (link->refused[i] == channel)
            return true;
    return false;
}

/* What comes makes no sense: no telling where the next frame would begin. Always false. */
static bool cut(struct tcp_link *link, const char *why)
{
    thrum_plugin_log(THRUM_LOG_WARN, "tcp: %s sends nonsense, and is cut off: %s", link->name, why);
    shutdown(link->fd, SHUT_RDWR);
    tcp_link_end(link, EPROTO);
    return false;
}

/* ---- what a frame means ---- */

static _Atomic uint64_t *find_word(const struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    char *word = tcp_region_find(link->endpoint, in->signal_key, in->signal_offset, 8);

    return (uintptr_t)word % 8 ? NULL : (_Atomic uint64_t *)(void *)word;
}

/* Checks all of a put, this frame and those that will follow, before anything of it is stored. */
static bool is_good_put(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    uint64_t bytes;

    if (__builtin_add_overflow(in->rest, in->bytes, &bytes)) {
        refuse(link, in->channel, THRUM_ERR_PROTOCOL, "length of a put overflows");
        return false;
    }
    if (bytes && !tcp_region_find(link->endpoint, in->key, in->offset, bytes)) {
        refuse(link, in->channel, THRUM_ERR_INVALID_POINTER,
               "put of %llu bytes at offset %llu: key 0x%llx is not that of a region so large",
               (unsigned long long)bytes, (unsigned long long)in->offset,
               (unsigned long long)in->key);
        return false;
    }
    if (in->signal_key && !find_word(link)) {
        refuse(link, in->channel, THRUM_ERR_INVALID_POINTER,
               "signal at offset %llu: key 0x%llx is not that of a region with such a word",
               (unsigned long long)in->signal_offset, (unsigned long long)in->signal_key);
        return false;
    }
    return true;
}

static void answer(struct tcp_link *link)
{
    struct tcp_frame in = link->in;
    struct tcp_frame frame = {.kind = TCP_KNOWN,
                              .channel = in.channel,
                              .key = in.bytes ? in.key : 0,
                              .signal_key = in.signal_key};

    frame.offset = tcp_region_bytes(link->endpoint, frame.key);
    frame.signal_offset = tcp_region_bytes(link->endpoint, frame.signal_key);
    pthread_mutex_lock(&link->send_lock);
    tcp_queue_locked(link, &frame, NULL);
    pthread_mutex_unlock(&link->send_lock);
}

static struct tcp_peer *find_peer(const struct tcp_link *link, uint32_t channel)
{
    struct tcp_peer *peer = link->peers;

    while (peer && peer->channel != channel)
        peer = peer->next;
    return peer;
}

static void take_known(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    struct tcp_peer *peer;

    pthread_mutex_lock(&link->send_lock);
    if (in->key)
        link->known_bytes[keys_add(&link->known, in->key)] = in->offset;
    if (in->signal_key)
        link->known_bytes[keys_add(&link->known, in->signal_key)] = in->signal_offset;
    peer = find_peer(link, in->channel);
    if (peer && peer->unanswered)
        peer->unanswered--;
    pthread_mutex_unlock(&link->send_lock);
}

static void take_error(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    int64_t status = (int64_t)in->offset;
    struct tcp_peer *peer;

    link->text[in->bytes] = 0;
    pthread_mutex_lock(&link->send_lock);
    peer = find_peer(link, in->channel);
    if (peer && !peer->status) {
        peer->status = status < 0 && status > -1000 ? (thrum_status_t)status : THRUM_ERR_PROTOCOL;
        snprintf(peer->message, sizeof peer->message, "tcp: %s: %.130s", link->name, link->text);
        thrum_plugin_log(THRUM_LOG_INFO, "%s", peer->message);
        tcp_drop_locked(peer); /* whoever hears of it may take its memory away */
    }
    pthread_mutex_unlock(&link->send_lock);
}

static bool keep_wanted(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;

    if (link->nwanted == TCP_GETS)
        return cut(link, "more gets than can be");
    link->endpoint->nwanted++;
    link->wanted[(link->first_wanted + link->nwanted++) % TCP_GETS] =
        (struct tcp_wanted){in->channel, in->signal_value, in->key, in->offset, in->rest};
    return true;
}

/* Where the bytes of a get go; NULL: nobody waits for them. Stays good while the endpoint's lock is held. */
static char *find_get(struct tcp_link *link, size_t at, uint64_t bytes)
{
    struct tcp_get get;

    pthread_mutex_lock(&link->send_lock);
    get = link->gets[link->in.signal_value % TCP_GETS];
    pthread_mutex_unlock(&link->send_lock);
    if (!get.peer || get.number != link->in.signal_value || at + bytes > get.left)
        return NULL;
    return get.local + at;
}

static void finish_data(struct tcp_link *link)
{
    struct tcp_get *get = &link->gets[link->in.signal_value % TCP_GETS];

    pthread_mutex_lock(&link->send_lock);
    if (get->peer && get->number == link->in.signal_value) {
        get->local += link->in.bytes;
        get->left -= link->in.bytes;
        if (!get->left) {
            get->peer->gets--;
            get->peer = NULL;
        }
    }
    pthread_mutex_unlock(&link->send_lock);
}

/* Where the rest of the payload goes; NULL: nowhere. It is looked up each time: regions come and go. */
static char *find_target(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    char *target = NULL;

    if (link->in_dropped)
        return NULL;
    if (in->kind == TCP_ERROR)
        return link->text + link->in_done;
    if (in->kind == TCP_DATA) {
        target = find_get(link, link->in_done, link->in_left);
    } else {
        target =
            tcp_region_find(link->endpoint, in->key, in->offset + link->in_done, link->in_left);
        if (!target)
            refuse(link, in->channel, THRUM_ERR_INVALID_POINTER,
                   "the region of key 0x%llx went during a put", (unsigned long long)in->key);
    }
    link->in_dropped = !target;
    return target;
}

/* All of a frame is there. */
static void finish(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;
    _Atomic uint64_t *word;

    if (link->in_dropped)
        return;
    if (in->kind == TCP_DATA) {
        finish_data(link);
    } else if (in->kind == TCP_ERROR) {
        take_error(link);
    } else if (in->kind == TCP_PUT && in->signal_key && !in->rest) {
        word = find_word(link);
        /* release: the data before the signal; pairs with the acquire of whoever waits for the word */
        if (word)
            atomic_store_explicit(word, in->signal_value, memory_order_release);
    }
}

/* A header is there: checks it and gets ready for what follows. False: the link is cut. */
static bool begin(struct tcp_link *link)
{
    const struct tcp_frame *in = &link->in;

    link->in_done = 0;
    link->in_left = in->bytes;
    link->in_dropped = false;
    switch (in->kind) {
    case TCP_PUT:
        if (in->bytes > TCP_SEGMENT_BYTES)
            return cut(link, "a frame that is too long");
        link->in_dropped = (link->nrefused && is_refused(link, in->channel)) || !is_good_put(link);
        if (in->flags & TCP_ASKS && !link->in_dropped)
            answer(link);
        break;
    case TCP_GET:
        if (in->bytes)
            return cut(link, "a get with data");
        if (!is_refused(link, in->channel) && !keep_wanted(link))
            return false;
        break;
    case TCP_DATA:
        if (in->bytes > TCP_SEGMENT_BYTES)
            return cut(link, "a frame that is too long");
        link->in_dropped = !find_get(link, 0, in->bytes);
        break;
    case TCP_KNOWN:
        if (in->bytes)
            return cut(link, "an answer with data");
        take_known(link);
        break;
    case TCP_ERROR:
        if (in->bytes >= sizeof link->text)
            return cut(link, "an error that is too long");
        break;
    default:
        return cut(link, "no such frame");
    }
    if (!in->bytes)
        finish(link);
    return true;
}

/* ---- the stream ---- */

/* `bytes` of payload have come, and are where they go. */
static void advance(struct tcp_link *link, size_t bytes)
{
    link->in_done += bytes;
    link->in_left -= bytes;
    if (!link->in_left)
        finish(link);
}

/* Takes the stage apart. False: the link is cut. */
static bool take_apart(struct tcp_link *link)
{
    for (;;) {
        const char *at = link->stage + link->stage_from;
        size_t there = link->stage_to - link->stage_from;

        if (link->in_left && there) {
            size_t part = min_u64(there, link->in_left);
            char *target = find_target(link);

            if (target)
                memcpy(target, at, part);
            link->stage_from += part;
            advance(link, part);
        } else if (!link->in_left && there >= sizeof link->in) {
            memcpy(&link->in, at, sizeof link->in);
            link->stage_from += sizeof link->in;
            if (!begin(link))
                return false;
        } else {
            break;
        }
    }
    /* what is left is part of a header at most */
    if (link->stage_from < link->stage_to)
        memmove(link->stage, link->stage + link->stage_from, link->stage_to - link->stage_from);
    link->stage_to -= link->stage_from;
    link->stage_from = 0;
    return true;
}

/*
 * How much to take beyond the payload that is awaited. Behind a long frame comes mostly another: only its header is taken,
 * so that its payload is read to where it goes, and not copied there.
 */
static size_t stage_room(const struct tcp_link *link)
{
    size_t room = TCP_STAGE_BYTES - link->stage_to;

    if (link->in.bytes >= LONG_BYTES && link->stage_to < sizeof link->in)
        return sizeof link->in - link->stage_to;
    return room;
}

/* As recv. *whole_out: it was as much as was asked for, so there may be more. */
static ssize_t take(struct tcp_link *link, bool *whole_out)
{
    char *target = link->in_left ? find_target(link) : NULL;
    size_t direct = target ? link->in_left : 0, room = stage_room(link);
    struct iovec parts[2] = {{target, direct}, {link->stage + link->stage_to, room}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t n;

    order_hide();
    n = direct ? recvmsg(link->fd, &message, MSG_DONTWAIT)
               : recv(link->fd, parts[1].iov_base, room, MSG_DONTWAIT);
    order_show();
    order_looked();
    if (n > 0)
        order_writes(target, min_u64((size_t)n, direct));
    if (n > (ssize_t)direct)
        order_writes(parts[1].iov_base, (size_t)n - direct);
    *whole_out = n == (ssize_t)(direct + room);
    if (n <= 0)
        return n;
    if (direct)
        advance(link, min_u64((size_t)n, direct));
    if ((size_t)n > direct)
        link->stage_to += (size_t)n - direct;
    return n;
}

bool tcp_receive(struct tcp_link *link)
{
    bool moved = false, whole = true;

    for (int i = 0; i < LOOKS && whole && !link->ended; i++) {
        ssize_t n = take(link, &whole);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n <= 0) {
            tcp_link_end(link, n ? errno : 0);
            return true;
        }
        moved = true;
        if (!take_apart(link))
            break;
    }
    return moved;
}

/* ---- gets of others ---- */

/* Queues one frame of the oldest get: it goes before any put's next one, so each has its turn. False: one still waits. */
static bool answer_one(struct tcp_link *link)
{
    struct tcp_wanted *get = &link->wanted[link->first_wanted];
    const char *source = tcp_region_find(link->endpoint, get->key, get->offset, get->left);
    size_t part = min_u64(get->left, TCP_SEGMENT_BYTES);
    struct tcp_frame frame = {.kind = TCP_DATA,
                              .channel = get->channel,
                              .bytes = (uint32_t)part,
                              .rest = get->left - part,
                              .signal_value = get->number};
    bool sent = false;

    if (source) {
        pthread_mutex_lock(&link->send_lock);
        if (!link->queue.bytes && !link->status) {
            tcp_queue_locked(link, &frame, source);
            sent = true;
        }
        pthread_mutex_unlock(&link->send_lock);
        if (!sent)
            return false;
        get->offset += part;
        get->left -= part;
    } else {
        refuse(link, get->channel, THRUM_ERR_INVALID_POINTER,
               "get of %llu bytes at offset %llu: key 0x%llx is not that of a region so large",
               (unsigned long long)get->left, (unsigned long long)get->offset,
               (unsigned long long)get->key);
    }
    if (!source || !get->left) {
        link->first_wanted = (link->first_wanted + 1) % TCP_GETS;
        link->nwanted--;
        link->endpoint->nwanted--;
    }
    return true;
}

bool tcp_answer_gets(struct tcp_link *link)
{
    bool moved = false;

    while (link->nwanted && answer_one(link))
        moved = true;
    return moved;
}
