/*
 * Put, get and flush. One piece of work of a connection is accepted at a time; its pieces go to libfabric as it takes
 * them, from the call itself and from progress. Where the provider keeps the order of writes, everything goes out back
 * to back; where it does not, each step waits until the one before it is complete at the peer.
 *
 * A connection has up to two routes. Order holds on each of them alone, so it changes from one to the other only when
 * all that it has sent has arrived, which a read of the peer's directory tells. Only what is small takes the shared one:
 * it is copied to slots of the endpoint, so that closing the connection need not wait for it.
 */
#include "ofi.h"

#include <string.h>

#define COMPLETIONS 16 /* read at once */
#define ACTIVE_NS \
    20000000 /* bytes that a provider keeps back are on their way by then, if it is driven */

/* ---- operations that libfabric has ---- */

static bool is_shared(const struct ofi_peer *peer)
{
    return peer->route == &peer->shared;
}

static struct ofi_op *take_op(struct ofi_peer *peer)
{
    struct ofi_op **list = is_shared(peer) ? &peer->endpoint->free_shared : &peer->free_ops;
    struct ofi_op *op = *list;

    if (op) {
        *list = op->next;
        op->peer = peer;
    }
    return op;
}

static void finish_op(struct ofi_endpoint *endpoint, struct ofi_op *op)
{
    struct ofi_op **list = op->shared ? &endpoint->free_shared : &op->peer->free_ops;

    if (op->slot)
        ofi_slot_free(endpoint, op->slot);
    op->slot = NULL;
    op->peer = NULL;
    op->next = *list;
    *list = op;
}

static void note_given(struct ofi_peer *peer)
{
    peer->given++;
    peer->active_ns = now_ns();
}

/* What a call of libfabric said about `op`. True: it has it. */
static bool was_taken(struct ofi_peer *peer, struct ofi_op *op, ssize_t result, const char *doing)
{
    if (!result) {
        peer->outstanding++;
        note_given(peer);
        return true;
    }
    op->slot = NULL;
    finish_op(peer->endpoint, op);
    if (result != -FI_EAGAIN)
        (void)ofi_peer_broke(peer, (int)-result, doing);
    return false;
}

static bool post_write(struct ofi_peer *peer, const void *local, void *desc, size_t bytes,
                       uint64_t remote, uint64_t rma_key, bool inject, void *slot)
{
    struct iovec part = {(void *)(uintptr_t)local, bytes};
    struct fi_rma_iov target = {remote, bytes, rma_key};
    struct fi_msg_rma message = {.msg_iov = &part,
                                 .desc = &desc,
                                 .iov_count = 1,
                                 .addr = peer->route->to,
                                 .rma_iov = &target,
                                 .rma_iov_count = 1};
    uint64_t flags = FI_COMPLETION | (inject ? FI_INJECT : 0) |
                     (peer->endpoint->ordered ? 0 : FI_DELIVERY_COMPLETE);
    struct ofi_op *op = take_op(peer);

    if (!op)
        return false;
    op->slot = slot;
    message.context = &op->context;
    return was_taken(peer, op, fi_writemsg(peer->route->ep, &message, flags), "writing");
}

static struct ofi_op *post_read(struct ofi_peer *peer, void *local, void *desc, size_t bytes,
                                uint64_t remote, uint64_t rma_key)
{
    struct ofi_op *op = take_op(peer);

    if (!op)
        return NULL;
    if (was_taken(peer, op,
                  fi_read(peer->route->ep, local, bytes, desc, peer->route->to, remote, rma_key,
                          &op->context),
                  "reading"))
        return op;
    return NULL;
}

/* libfabric copies it at once; where its order is enough, it need not tell when it has gone. */
static bool inject_message(struct ofi_peer *peer, const void *at, size_t bytes)
{
    ssize_t result = fi_inject(peer->route->ep, at, bytes, peer->route->to);

    if (!result)
        note_given(peer);
    else if (result != -FI_EAGAIN)
        (void)ofi_peer_broke(peer, (int)-result, "signalling");
    return !result;
}

/* `slot`: where the message lies, freed with the operation; NULL: libfabric copies it at once. */
static bool post_message(struct ofi_peer *peer, const void *at, size_t bytes, void *slot)
{
    void *desc = slot ? peer->endpoint->arena_desc : NULL;
    struct iovec part = {(void *)(uintptr_t)at, bytes};
    struct fi_msg message = {
        .msg_iov = &part, .desc = &desc, .iov_count = 1, .addr = peer->route->to};
    struct ofi_op *op;

    if (!slot && peer->endpoint->ordered)
        return inject_message(peer, at, bytes);
    op = take_op(peer);
    if (!op)
        return false;
    op->slot = slot;
    message.context = &op->context;
    return was_taken(peer, op,
                     fi_sendmsg(peer->route->ep, &message, FI_COMPLETION | (slot ? 0 : FI_INJECT)),
                     "signalling");
}

/* Where the provider cannot take a message at once it needs a slot; long ones are in one already. */
static bool post_signal(struct ofi_peer *peer, struct ofi_work *work)
{
    size_t bytes = OFI_SIGNAL_HEAD + work->signal.bytes;

    if (!work->message && peer->endpoint->inject_bytes >= bytes)
        return post_message(peer, &work->signal, bytes, NULL);
    if (!work->message) {
        work->message = ofi_slot_take(peer->endpoint);
        if (!work->message)
            return false;
        memcpy(work->message, &work->signal, bytes);
    }
    if (!post_message(peer, work->message, bytes, work->message))
        return false;
    work->message = NULL;
    return true;
}

/* ---- keys ---- */

thrum_status_t ofi_lookup_start(struct ofi_peer *peer, uint64_t key)
{
    struct ofi_endpoint *endpoint = peer->endpoint;
    uint64_t at = ((uint32_t)key - 1) * sizeof(struct ofi_entry);
    struct ofi_entry *answer;

    if (peer->lookup)
        return THRUM_IN_PROGRESS;
    answer = ofi_slot_take(endpoint);
    if (!answer)
        return THRUM_IN_PROGRESS;
    peer->lookup = post_read(peer, answer, endpoint->arena_desc, sizeof *answer,
                             peer->address.directory + at, peer->address.directory_key);
    if (peer->lookup) {
        peer->lookup->slot = answer;
        peer->lookup_given = peer->given;
        peer->answer = answer;
        peer->wanted = key;
    } else {
        ofi_slot_free(endpoint, answer);
    }
    return peer->status ? peer->status : THRUM_IN_PROGRESS;
}

/* The answer is there, and a slot still. An entry that was never used is all zero. */
static void finish_lookup(struct ofi_peer *peer)
{
    struct ofi_entry entry = *peer->answer;
    uint64_t wanted = peer->wanted;

    peer->lookup = NULL;
    peer->answer = NULL;
    peer->wanted = 0;
    peer->confirmed = peer->lookup_given;
    if ((entry.key || entry.check) && entry.check != ofi_entry_check(&entry))
        return; /* it was being changed: whoever wants it asks again */
    if (entry.key != wanted) /* remembered as what it is: no region */
        entry = (struct ofi_entry){.key = wanted};
    peer->entries[keys_add(&peer->keys, entry.key)] = entry;
}

/* What `key` names at the peer, and whether [offset, +bytes) lies in it. IN_PROGRESS: it is being asked for. */
static thrum_status_t resolve(struct ofi_peer *peer, uint64_t key, uint64_t offset, size_t bytes,
                              struct ofi_entry *out)
{
    int place = keys_find(&peer->keys, key);
    const struct ofi_entry *entry = place < 0 ? NULL : &peer->entries[place];

    if (!key || (uint32_t)key - 1 >= OFI_REGIONS)
        return ofi_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT, "key 0x%llx is none of its regions",
                             (unsigned long long)key);
    if (!entry)
        return ofi_lookup_start(peer, key);
    if (!entry->bytes)
        return ofi_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                             "key 0x%llx is none of its regions, or not any more",
                             (unsigned long long)key);
    if (offset > entry->bytes || bytes > entry->bytes - offset)
        return ofi_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                             "%zu bytes at %llu leave its region of %llu bytes", bytes,
                             (unsigned long long)offset, (unsigned long long)entry->bytes);
    *out = *entry;
    return THRUM_OK;
}

/* ---- work ---- */

/* Without the provider's order a step waits for all before it. */
static bool must_wait(const struct ofi_peer *peer)
{
    return !peer->endpoint->ordered && peer->outstanding;
}

static bool send_pieces(struct ofi_peer *peer)
{
    struct ofi_work *work = &peer->work;

    while (work->left) {
        size_t bytes = min_u64(work->left, peer->endpoint->piece_bytes);
        bool last = bytes == work->left;
        bool taken = work->kind == OFI_GET
                         ? post_read(peer, work->local, work->desc, bytes, work->remote,
                                     work->rma_key) != NULL
                         : post_write(peer, work->local, work->desc, bytes, work->remote,
                                      work->rma_key, work->inject, last ? work->slot : NULL);
        if (!taken)
            return false;
        work->local += bytes;
        work->remote += bytes;
        work->left -= bytes;
        if (last)
            work->slot = NULL;
    }
    return true;
}

static bool send_signal(struct ofi_peer *peer)
{
    struct ofi_work *work = &peer->work;

    if (work->signal_rma_key)
        return post_write(peer, &work->signal.value, NULL, sizeof work->signal.value,
                          work->signal_remote, work->signal_rma_key, true, NULL);
    return post_signal(peer, work);
}

/* Gives libfabric what it takes of the work. True: all of it. */
static bool advance(struct ofi_peer *peer)
{
    struct ofi_work *work = &peer->work;

    if (!work->kind)
        return true;
    if (!work->started) {
        if (must_wait(peer))
            return false;
        work->started = true;
    }
    if (work->left && !send_pieces(peer))
        return false;
    if (work->signal.magic && (must_wait(peer) || !send_signal(peer)))
        return false;
    work->kind = OFI_NOTHING;
    return true;
}

/* ---- completions ---- */

static void take_error(struct ofi_peer *peer)
{
    struct fi_cq_err_entry error = {0};

    if (fi_cq_readerr(peer->own.cq, &error, 0) >= 0)
        ofi_peer_lost(peer, error.err);
}

void ofi_op_done(struct ofi_endpoint *endpoint, struct ofi_op *op)
{
    if (op->peer) {
        op->peer->outstanding--;
        if (op == op->peer->lookup)
            finish_lookup(op->peer);
    }
    finish_op(endpoint, op);
}

/* On the connection's own route. True if something ended. */
static bool take_completions(struct ofi_peer *peer)
{
    struct fi_cq_entry entries[COMPLETIONS];
    ssize_t n = fi_cq_read(peer->own.cq, entries, COMPLETIONS);

    if (n == -FI_EAVAIL)
        take_error(peer);
    else if (n < 0 && n != -FI_EAGAIN)
        (void)ofi_peer_broke(peer, (int)-n, "reading completions");
    for (ssize_t i = 0; i < n; i++)
        if (entries[i].op_context)
            ofi_op_done(peer->endpoint, entries[i].op_context);
    return n > 0;
}

bool ofi_is_confirmed(const struct ofi_peer *peer)
{
    return peer->confirmed == peer->given;
}

bool ofi_send_locked(struct ofi_peer *peer)
{
    bool busy = peer->outstanding || peer->work.kind, moved = false;

    if (peer->status && peer->own.ep)
        ofi_peer_let_go(peer);
    if (peer->status)
        return false;
    if (!busy && (peer->endpoint->is_stream || now_ns() - peer->active_ns > ACTIVE_NS))
        return false;
    if (!is_shared(peer)) /* else the endpoint's queue has it */
        moved = take_completions(peer);
    if (!peer->status && peer->work.kind)
        moved |= advance(peer);
    ofi_peer_watch(peer, !moved && (peer->outstanding || peer->work.kind));
    return moved;
}

/* ---- the calls ---- */

static thrum_status_t check_local(const struct ofi_peer *peer, const char *call, const void *local,
                                  const struct ofi_region *region, size_t bytes)
{
    uintptr_t base, at = (uintptr_t)local;

    (void)peer;
    if (!bytes)
        return THRUM_OK;
    if (!local || !region)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "%s: %s is NULL", call,
                                 local ? "local_region" : "local");
    if (!region->base)
        return THRUM_OK; /* a dmabuf: the address is the device's affair */
    base = (uintptr_t)region->base;
    if (at < base || at - base > region->bytes || bytes > region->bytes - (at - base))
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "%s: %zu bytes at %p are not in their local region", call, bytes,
                                 local);
    return THRUM_OK;
}

static thrum_status_t check_put(const struct ofi_peer *peer, const struct thrum_fabric_put *put)
{
    if (put->signal_key && put->signal_offset % 8)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "put: signal_offset=%llu is no multiple of 8",
                                 (unsigned long long)put->signal_offset);
    if (!(put->flags & THRUM_PUT_INLINE))
        return check_local(peer, "put", put->local, put->local_region, put->bytes);
    if (put->bytes > peer->endpoint->inline_bytes)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "put: %zu bytes inline, at most %zu are", put->bytes,
                                 peer->endpoint->inline_bytes);
    if (put->bytes && !put->local)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "put: local is NULL");
    return THRUM_OK;
}

static bool has_op(const struct ofi_peer *peer)
{
    return is_shared(peer) ? peer->endpoint->free_shared != NULL : peer->free_ops != NULL;
}

/* Room for the next piece of work: OK, IN_PROGRESS, or the connection's error. */
static thrum_status_t make_room(struct ofi_peer *peer)
{
    if (!peer->status && (peer->work.kind || !has_op(peer)))
        (void)ofi_send_locked(peer);
    if (peer->status)
        return thrum_plugin_fail(peer->status, "%s", peer->message);
    return peer->work.kind || !has_op(peer) ? THRUM_IN_PROGRESS : THRUM_OK;
}

/* To the other route, once all has arrived that went by this one. OK, IN_PROGRESS, or the connection's error. */
static thrum_status_t change_route(struct ofi_peer *peer, const struct ofi_route *route)
{
    thrum_status_t status;

    if (peer->outstanding)
        (void)ofi_send_locked(peer);
    if (peer->outstanding)
        return THRUM_IN_PROGRESS;
    if (!ofi_is_confirmed(peer)) {
        status = ofi_lookup_start(peer, 1);
        if (status != THRUM_IN_PROGRESS)
            return thrum_plugin_fail(peer->status, "%s", peer->message);
        return status;
    }
    peer->route = route;
    thrum_plugin_log(THRUM_LOG_DEBUG, "ofi: to %s by %s route from now on", peer->name,
                     is_shared(peer) ? "the shared" : "its own");
    return THRUM_OK;
}

/* By which route a put goes: small ones by the shared one, after enough of them. */
static thrum_status_t find_route(struct ofi_peer *peer, bool is_small)
{
    const struct ofi_route *route = &peer->own;

    if (!peer->shared.ep)
        return THRUM_OK;
    if (!is_small)
        peer->streak = 0;
    else if (peer->streak >= OFI_STREAK)
        route = &peer->shared;
    return route == peer->route ? THRUM_OK : change_route(peer, route);
}

/* Inline and small data are copied: into the work where libfabric copies it again at once, else into a slot. */
static thrum_status_t keep_inline(struct ofi_peer *peer, const struct thrum_fabric_put *put,
                                  struct ofi_work *work)
{
    if (put->bytes <= peer->endpoint->inject_bytes && put->bytes <= sizeof work->small) {
        memcpy(work->small, put->local, put->bytes);
        work->inject = true;
        return THRUM_OK; /* `local` is set once the work lies where it stays */
    }
    work->slot = ofi_slot_take(peer->endpoint);
    if (!work->slot)
        return THRUM_IN_PROGRESS;
    memcpy(work->slot, put->local, put->bytes);
    work->local = work->slot;
    work->desc = peer->endpoint->arena_desc;
    return THRUM_OK;
}

/* A line: data right behind their signal's word. */
static bool is_line(const struct thrum_fabric_put *put)
{
    return put->flags & THRUM_PUT_INLINE && put->bytes && put->bytes <= OFI_LINE_BYTES &&
           put->signal_key && put->signal_key == put->remote_key &&
           put->remote_offset == put->signal_offset + 8;
}

/*
 * Whether a put is one message, data and signal: lines, and over tcp what else is as short, as each call of libfabric is one
 * of the kernel. Only what the CPUs of both ends reach.
 */
static bool is_one_message(const struct ofi_peer *peer, const struct thrum_fabric_put *put,
                           const struct ofi_entry *data, const struct ofi_entry *signal)
{
    const struct ofi_region *local = put->local_region;

    if (!put->signal_key || signal->write_signals)
        return false;
    if (!put->bytes || is_line(put))
        return true;
    if (data->write_signals)
        return false;
    if (put->flags & THRUM_PUT_INLINE && put->bytes <= OFI_LINE_BYTES)
        return true;
    return peer->endpoint->is_stream && put->bytes <= OFI_JOINED_BYTES &&
           (put->flags & THRUM_PUT_INLINE || local->base);
}

static void fill_signal(struct ofi_peer *peer, const struct thrum_fabric_put *put,
                        const struct ofi_entry *entry, struct ofi_work *work)
{
    work->signal = (struct ofi_signal){.magic = OFI_MAGIC,
                                       .version = OFI_VERSION,
                                       .token = peer->address.token,
                                       .key = put->signal_key,
                                       .offset = put->signal_offset,
                                       .value = put->signal_value};
    if (entry->write_signals) {
        work->signal_remote = entry->base + put->signal_offset;
        work->signal_rma_key = entry->rma_key;
    }
}

/* Data that go with their signal. */
static thrum_status_t keep_data(struct ofi_peer *peer, const struct thrum_fabric_put *put,
                                struct ofi_work *work)
{
    char *data = work->signal.data;

    work->signal.bytes = (uint16_t)put->bytes;
    if (!is_line(put)) {
        work->signal.data_key = put->remote_key;
        work->signal.data_offset = put->remote_offset;
    }
    work->left = 0;
    if (put->bytes > sizeof work->signal.data) {
        work->message = ofi_slot_take(peer->endpoint);
        if (!work->message)
            return THRUM_IN_PROGRESS;
        memcpy(work->message, &work->signal, OFI_SIGNAL_HEAD);
        data = (char *)work->message + OFI_SIGNAL_HEAD;
    }
    memcpy(data, put->local, put->bytes);
    return THRUM_OK;
}

static thrum_status_t accept_put(struct ofi_peer *peer, const struct thrum_fabric_put *put)
{
    struct ofi_work work = {.kind = OFI_PUT, .left = put->bytes};
    struct ofi_entry data = {0}, signal = {0};
    thrum_status_t status = make_room(peer);
    bool is_message, is_small;

    if (!status && put->bytes)
        status = resolve(peer, put->remote_key, put->remote_offset, put->bytes, &data);
    if (!status && put->signal_key)
        status = resolve(peer, put->signal_key, put->signal_offset, 8, &signal);
    is_message = is_one_message(peer, put, &data, &signal);
    is_small = is_message || (put->signal_key && put->bytes <= OFI_SMALL_BYTES);
    if (!status)
        status = find_route(peer, is_small);
    if (status)
        return status;
    work.remote = data.base + put->remote_offset;
    work.rma_key = data.rma_key;
    if (put->signal_key)
        fill_signal(peer, put, &signal, &work);
    if (is_message && put->bytes) {
        status = keep_data(peer, put, &work);
        if (status)
            return status;
    } else if (put->bytes && (put->flags & THRUM_PUT_INLINE || is_shared(peer))) {
        status = keep_inline(peer, put, &work);
        if (status)
            return status;
    } else if (put->bytes) {
        work.local = (char *)(uintptr_t)put->local;
        work.desc = ((const struct ofi_region *)put->local_region)->desc;
    }
    peer->work = work;
    peer->streak += is_small;
    if (work.inject)
        peer->work.local = peer->work.small;
    (void)advance(peer);
    return peer->status ? thrum_plugin_fail(peer->status, "%s", peer->message) : THRUM_OK;
}

thrum_status_t ofi_put_signal(void *handle, const struct thrum_fabric_put *put)
{
    struct ofi_peer *peer = handle;
    thrum_status_t status = check_put(peer, put);

    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = accept_put(peer, put);
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

thrum_status_t ofi_get(void *handle, void *local, void *local_region, size_t bytes,
                       uint64_t remote_key, uint64_t remote_offset)
{
    const struct ofi_region *region = local_region;
    struct ofi_peer *peer = handle;
    struct ofi_entry entry = {0};
    thrum_status_t status;

    if (!bytes)
        return THRUM_OK;
    status = check_local(peer, "get", local, region, bytes);
    if (status)
        return status;
    pthread_mutex_lock(&peer->endpoint->lock);
    status = make_room(peer);
    if (!status)
        status = resolve(peer, remote_key, remote_offset, bytes, &entry);
    if (!status)
        status = find_route(peer, false);
    if (!status) {
        peer->work = (struct ofi_work){.kind = OFI_GET,
                                       .local = local,
                                       .desc = region->desc,
                                       .left = bytes,
                                       .remote = entry.base + remote_offset,
                                       .rma_key = entry.rma_key};
        (void)advance(peer);
    }
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

/* Complete is complete even if the peer has gone since. Drives the endpoint: both sides may be in here. */
thrum_status_t ofi_flush(void *handle)
{
    struct ofi_peer *peer = handle;
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&peer->endpoint->lock);
    if (peer->outstanding || peer->work.kind)
        (void)ofi_send_locked(peer);
    if (!peer->status && (peer->outstanding || peer->work.kind)) {
        (void)ofi_progress_locked(peer->endpoint);
        status = peer->outstanding || peer->work.kind ? THRUM_IN_PROGRESS : THRUM_OK;
    }
    if (peer->status)
        status = thrum_plugin_fail(peer->status, "%s", peer->message);
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}
