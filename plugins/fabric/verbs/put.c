/*
 * Put, get and flush: their arguments, and how they enter the ring of a connection's operations. Called by exec's port
 * engine through the table.
 */
#include "verbs.h"

#include <string.h>

static thrum_status_t check_local(const char *call, const void *local,
                                  const struct verbs_region *region, size_t bytes)
{
    uintptr_t base, at = (uintptr_t)local;

    if (!bytes)
        return THRUM_OK;
    if (!region || (!local && region->base))
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "%s: %s is NULL", call,
                                 region ? "local" : "local_region");
    base = (uintptr_t)region->base; /* a dmabuf's is 0: `local` is an offset in there */
    if (at < base || at - base > region->bytes || bytes > region->bytes - (at - base))
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "%s: %zu bytes at %p are not in their local region", call, bytes,
                                 local);
    return THRUM_OK;
}

static thrum_status_t check_put(const struct thrum_fabric_put *put)
{
    if (put->signal_key && put->signal_offset % 8)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "put: signal_offset=%llu is no multiple of 8",
                                 (unsigned long long)put->signal_offset);
    if (!(put->flags & THRUM_PUT_INLINE))
        return check_local("put", put->local, put->local_region, put->bytes);
    if (put->bytes > VERBS_INLINE_BYTES)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "put: %zu bytes inline, at most %d are", put->bytes,
                                 VERBS_INLINE_BYTES);
    if (put->bytes && !put->local)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "put: local is NULL");
    return THRUM_OK;
}

/* Room for one more operation: OK, IN_PROGRESS, or the connection's error. */
static thrum_status_t make_room(struct verbs_peer *peer)
{
    if (!peer->status && peer->tail - peer->head == VERBS_OPS)
        (void)verbs_send_locked(peer);
    if (peer->status)
        return thrum_plugin_fail(peer->status, "%s", peer->message);
    return peer->tail - peer->head == VERBS_OPS ? THRUM_IN_PROGRESS : THRUM_OK;
}

/* Inline data is copied at once: into the operation, or a slot. */
static thrum_status_t keep_inline(struct verbs_peer *peer, const struct thrum_fabric_put *put,
                                  struct verbs_op *op)
{
    op->copied = true;
    if (put->bytes <= sizeof op->small) {
        op->small_bytes = (uint8_t)put->bytes;
        op->local = op->small;
    } else {
        op->slot = op->local = verbs_slot_take(peer->endpoint);
        if (!op->slot)
            return THRUM_IN_PROGRESS;
    }
    memcpy(op->local, put->local, put->bytes);
    peer->endpoint->counters.copied += put->bytes;
    return THRUM_OK;
}

static bool is_striped(const struct verbs_peer *peer, uint64_t bytes)
{
    const struct verbs_endpoint *endpoint = peer->endpoint;

    return bytes >= endpoint->settings.stripe_bytes &&
           (peer->nlanes > 1 || bytes > 4 * VERBS_MOST_PIECE);
}

static void enqueue(struct verbs_peer *peer, struct verbs_op *op)
{
    if (op->signal)
        op->number = ++peer->number;
    else
        op->number = peer->number + 1;
    peer->tail++;
    (void)verbs_advance(peer);
}

static thrum_status_t accept_put(struct verbs_peer *peer, const struct thrum_fabric_put *put)
{
    const struct verbs_entry *data = NULL, *signal = NULL;
    struct verbs_op *op = verbs_op(peer, peer->tail);
    thrum_status_t status = make_room(peer);

    if (!status && put->bytes)
        status = verbs_key_resolve(peer, put->remote_key, put->remote_offset, put->bytes, &data);
    if (!status && put->signal_key)
        status = verbs_key_resolve(peer, put->signal_key, put->signal_offset, 8, &signal);
    if (status)
        return status;
    memset(op, 0, offsetof(struct verbs_op, small));
    op->kind = VERBS_PUT;
    op->bytes = put->bytes;
    if (data) {
        op->remote = data->base + put->remote_offset;
        memcpy(op->rkey, data->rkey, sizeof op->rkey);
    }
    if (signal) {
        op->signal = signal->base + put->signal_offset;
        op->value = put->signal_value;
        memcpy(op->signal_rkey, signal->rkey, sizeof op->signal_rkey);
    }
    if (put->flags & THRUM_PUT_INLINE && put->bytes) {
        status = keep_inline(peer, put, op);
        if (status)
            return status;
    } else {
        op->local = (char *)(uintptr_t)put->local;
        op->region = put->local_region;
        op->striped = is_striped(peer, put->bytes);
        peer->endpoint->counters.written += put->bytes;
    }
    peer->endpoint->counters.puts++;
    enqueue(peer, op);
    return peer->status ? thrum_plugin_fail(peer->status, "%s", peer->message) : THRUM_OK;
}

thrum_status_t verbs_put_signal(void *handle, const struct thrum_fabric_put *put)
{
    struct verbs_peer *peer = handle;
    thrum_status_t status = check_put(put);

    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = accept_put(peer, put);
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

thrum_status_t verbs_get(void *handle, void *local, void *local_region, size_t bytes,
                         uint64_t remote_key, uint64_t remote_offset)
{
    struct verbs_peer *peer = handle;
    const struct verbs_entry *entry = NULL;
    thrum_status_t status;

    if (!bytes)
        return THRUM_OK;
    status = check_local("get", local, local_region, bytes);
    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = make_room(peer);
    if (!status)
        status = verbs_key_resolve(peer, remote_key, remote_offset, bytes, &entry);
    if (!status) {
        struct verbs_op *op = verbs_op(peer, peer->tail);
        memset(op, 0, offsetof(struct verbs_op, small));
        op->kind = VERBS_GET;
        op->local = local;
        op->region = local_region;
        op->bytes = bytes;
        op->remote = entry->base + remote_offset;
        memcpy(op->rkey, entry->rkey, sizeof op->rkey);
        enqueue(peer, op);
    }
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

/* Of the operations before `end`. Complete is complete even if the peer has gone since. Under lock. */
static thrum_status_t flush_to(struct verbs_peer *peer, uint64_t end)
{
    if (!peer->status && peer->head < end) {
        verbs_report_ask(peer, end);
        (void)verbs_send_locked(peer);
    }
    if (peer->head >= end)
        return THRUM_OK; /* also if what followed has failed */
    return peer->status ? thrum_plugin_fail(peer->status, "%s", peer->message) : THRUM_IN_PROGRESS;
}

thrum_status_t verbs_flush(void *handle)
{
    struct verbs_peer *peer = handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->endpoint->lock);
    status = flush_to(peer, peer->tail);
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

/* A mark is one more than the number of operations that were accepted. */
thrum_status_t verbs_flush_mark(void *handle, uint64_t *mark_inout)
{
    struct verbs_peer *peer = handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->endpoint->lock);
    if (!*mark_inout)
        *mark_inout = peer->tail + 1;
    status = flush_to(peer, *mark_inout - 1);
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}
