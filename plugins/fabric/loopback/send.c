/* put, get, flush: fills the mailboxes of peers. Called through the table by port engines and exec. */
#include "loopback.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(struct loopback_message) == LOOPBACK_MESSAGE_ALIGN,
               "the header of a message never goes round the end of the ring");

static thrum_status_t fail_peer(struct loopback_peer *peer, thrum_status_t status, const char *text)
{
    snprintf(peer->message, sizeof peer->message, "loopback: peer process %d: %s", peer->pid, text);
    peer->status = status;
    return thrum_fail(status, "%s", peer->message);
}

/* What the receiver has said, or that it is gone. Keeps the first error. */
static thrum_status_t check_peer(struct loopback_peer *peer)
{
    char text[LOOPBACK_TEXT_BYTES];
    int refused;

    if (peer->status)
        return thrum_set_last_error(peer->status, peer->message);
    /* acquire: the text before the status; pairs with refuse in receive.c */
    refused = atomic_load_explicit(&peer->mailbox->refused, memory_order_acquire);
    if (refused) {
        memcpy(text, peer->mailbox->refusal, sizeof text);
        text[sizeof text - 1] = 0;
        return fail_peer(peer, refused < 0 ? (thrum_status_t)refused : THRUM_ERR_PROTOCOL, text);
    }
    if (peer->gone)
        return fail_peer(peer, THRUM_ERR_PEER_DEAD, "it has died or closed its endpoint");
    return THRUM_OK;
}

/* Free bytes of the message ring; looks again only if there are fewer than `wanted`. */
static uint64_t free_room(struct loopback_peer *peer, uint64_t wanted)
{
    if (peer->ring_bytes - (peer->head - peer->tail_seen) >= wanted)
        return peer->ring_bytes - (peer->head - peer->tail_seen);
    /* acquire: the receiver has read what we may now overwrite; pairs with receive_message */
    peer->tail_seen = atomic_load_explicit(&peer->mailbox->tail, memory_order_acquire);
    if (peer->head - peer->tail_seen > peer->ring_bytes) {
        (void)fail_peer(peer, THRUM_ERR_PROTOCOL, "its mailbox is damaged");
        peer->tail_seen = peer->head - peer->ring_bytes;
    }
    return peer->ring_bytes - (peer->head - peer->tail_seen);
}

/* Writes one message and, last, makes it visible. There is room for it. */
static void publish(struct loopback_peer *peer, const struct loopback_message *message,
                    const void *data)
{
    loopback_ring_write(peer->ring, peer->ring_bytes, peer->head, message, sizeof *message);
    if (message->bytes)
        loopback_ring_write(peer->ring, peer->ring_bytes, peer->head + sizeof *message, data,
                            message->bytes);
    peer->head += sizeof *message + round_up_u64(message->bytes, LOOPBACK_MESSAGE_ALIGN);
    /* release: the message before the count; pairs with loopback_receive_locked */
    order_published();
    atomic_store_explicit(&peer->mailbox->head, peer->head, memory_order_release);
}

/* Bytes per message: a quarter of the ring, so that both sides copy at the same time. */
static size_t segment_bytes(const struct loopback_peer *peer)
{
    return peer->ring_bytes / 4;
}

/* Puts the next piece of the unfinished put into the ring. False: no room. */
static bool push_segment(struct loopback_peer *peer)
{
    struct thrum_fabric_put *put = &peer->put;
    size_t part = min_u64(put->bytes, segment_bytes(peer));
    struct loopback_message message = {
        .kind = LOOPBACK_PUT,
        .bytes = (uint32_t)part,
        .key = put->remote_key,
        .offset = put->remote_offset,
        .rest = put->bytes - part,
        .signal_key = put->signal_key,
        .signal_offset = put->signal_offset,
        .signal_value = put->signal_value,
        .flags = put->flags & THRUM_PUT_LENIENT,
    };
    uint64_t size = sizeof message + round_up_u64(part, LOOPBACK_MESSAGE_ALIGN);

    if (free_room(peer, size) < size)
        return false;
    publish(peer, &message, put->local);
    put->bytes -= part;
    put->remote_offset += part;
    if (put->bytes)
        put->local = (const char *)put->local + part;
    else
        peer->unfinished = false;
    return true;
}

/* Takes what has come back for gets, oldest first. */
static bool take_replies(struct loopback_peer *peer)
{
    uint64_t head, available;
    bool moved = false;

    if (!peer->get_count)
        return false;
    /* acquire: bytes up to head are there; pairs with answer_get in receive.c */
    head = atomic_load_explicit(&peer->mailbox->reply_head, memory_order_acquire);
    order_looked();
    available = head - peer->reply_tail;
    if (available > LOOPBACK_REPLY_BYTES) {
        (void)fail_peer(peer, THRUM_ERR_PROTOCOL, "its mailbox is damaged");
        return false;
    }
    while (available && peer->get_count) {
        struct loopback_get *get = &peer->gets[peer->first_get];
        size_t part = min_u64(available, get->left);

        loopback_ring_read(peer->reply, LOOPBACK_REPLY_BYTES, peer->reply_tail, get->local, part);
        get->local += part;
        get->left -= part;
        peer->reply_tail += part;
        available -= part;
        if (!get->left) {
            peer->first_get = (peer->first_get + 1) % LOOPBACK_GETS;
            peer->get_count--;
        }
        moved = true;
    }
    /* release: we have read before the room is free; pairs with answer_get in receive.c */
    atomic_store_explicit(&peer->mailbox->reply_tail, peer->reply_tail, memory_order_release);
    return moved;
}

bool loopback_send_locked(struct loopback_peer *peer)
{
    bool moved = false;

    if (peer->status)
        return false;
    while (peer->unfinished && push_segment(peer))
        moved = true;
    moved |= take_replies(peer);
    return moved;
}

static thrum_status_t check_local(const struct loopback_peer *peer, const char *what,
                                  const void *local, const struct loopback_region *region,
                                  size_t bytes)
{
    uintptr_t at = (uintptr_t)local;

    if (!region || region->endpoint != peer->endpoint)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "%s: local_region %p is not one of this endpoint", what,
                          (const void *)region);
    if (at < (uintptr_t)region->base || at - (uintptr_t)region->base > region->bytes ||
        bytes > region->bytes - (at - (uintptr_t)region->base))
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s: %zu bytes at %p leave the local region",
                          what, bytes, local);
    return THRUM_OK;
}

static thrum_status_t check_put(const struct loopback_peer *peer,
                                const struct thrum_fabric_put *put)
{
    if (put->signal_key && put->signal_offset % 8)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "put: signal_offset %llu is not a multiple of 8",
                          (unsigned long long)put->signal_offset);
    if (!put->bytes)
        return THRUM_OK;
    if (!(put->flags & THRUM_PUT_INLINE))
        return check_local(peer, "put", put->local, put->local_region, put->bytes);
    if (put->bytes > segment_bytes(peer))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "put: %zu bytes inline, at most %zu are",
                          put->bytes, segment_bytes(peer));
    return THRUM_OK;
}

/*
 * Accepted once its first piece is in the ring. The rest follows from progress, and nothing else is accepted before it:
 * puts stay in order. An inline put is never more than one piece.
 */
thrum_status_t loopback_put_signal(void *peer_handle, const struct thrum_fabric_put *put)
{
    struct loopback_peer *peer = peer_handle;
    thrum_status_t status = check_put(peer, put);

    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = check_peer(peer);
    if (!status && peer->unfinished)
        (void)loopback_send_locked(peer);
    if (!status && peer->unfinished) {
        status = THRUM_IN_PROGRESS;
    } else if (!status) {
        peer->put = *put;
        peer->unfinished = true;
        if (push_segment(peer)) {
            (void)loopback_send_locked(peer);
        } else {
            peer->unfinished = false;
            status = THRUM_IN_PROGRESS;
        }
    }
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

thrum_status_t loopback_get(void *peer_handle, void *local, void *local_region, size_t bytes,
                            uint64_t remote_key, uint64_t remote_offset)
{
    struct loopback_peer *peer = peer_handle;
    struct loopback_message message = {
        .kind = LOOPBACK_GET, .key = remote_key, .offset = remote_offset, .rest = bytes};
    thrum_status_t status;

    if (!bytes)
        return THRUM_OK;
    status = check_local(peer, "get", local, local_region, bytes);
    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = check_peer(peer);
    if (!status)
        (void)loopback_send_locked(peer);
    if (!status && (peer->unfinished || peer->get_count == LOOPBACK_GETS ||
                    free_room(peer, sizeof message) < sizeof message)) {
        status = THRUM_IN_PROGRESS;
    } else if (!status) {
        unsigned last = (peer->first_get + peer->get_count++) % LOOPBACK_GETS;
        peer->gets[last] = (struct loopback_get){local, bytes};
        publish(peer, &message, NULL);
    }
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

static bool all_done(struct loopback_peer *peer)
{
    return !peer->unfinished && !peer->get_count &&
           free_room(peer, peer->ring_bytes) == peer->ring_bytes;
}

/* Complete is complete even if the peer has gone since. Drives the endpoint: both sides may be in here. */
thrum_status_t loopback_flush(void *peer_handle)
{
    struct loopback_peer *peer = peer_handle;
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&peer->endpoint->lock);
    (void)loopback_send_locked(peer);
    if (peer->status || !all_done(peer)) {
        status = check_peer(peer);
        if (!status) {
            (void)loopback_progress_locked(peer->endpoint);
            status = all_done(peer) ? THRUM_OK : THRUM_IN_PROGRESS;
            if (peer->status)
                status = peer->status;
        }
    }
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

thrum_status_t loopback_peer_error(void *peer_handle, const char **message_out)
{
    struct loopback_peer *peer = peer_handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->endpoint->lock);
    status = check_peer(peer);
    *message_out = peer->message;
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}
