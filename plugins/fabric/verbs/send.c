/*
 * The ring of a connection's operations: what of it is posted to which queue pair, and what the completions mean; looking
 * up keys. Called by put.c, and by verbs.c for progress. verbs.h says why the order is right.
 */
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define COMPLETIONS 16 /* read at once */
#define SILENT 16 /* work requests, at most, until one reports */

/* ---- posting ---- */

static uint64_t room_on(const struct verbs_lane *lane)
{
    return VERBS_DEPTH - (lane->posted - lane->completed);
}

/* A chain of work requests for one lane. */
struct chain {
    struct ibv_send_wr requests[4];
    struct ibv_sge parts[4];
    unsigned n;
};

static struct ibv_send_wr *add(struct chain *chain, enum ibv_wr_opcode opcode, const void *local,
                               uint64_t bytes, uint32_t lkey, uint64_t remote, uint32_t rkey)
{
    struct ibv_send_wr *request = &chain->requests[chain->n];
    struct ibv_sge *part = &chain->parts[chain->n];

    *part = (struct ibv_sge){(uint64_t)(uintptr_t)local, (uint32_t)bytes, lkey};
    *request = (struct ibv_send_wr){.opcode = opcode,
                                    .sg_list = part,
                                    .num_sge = bytes ? 1 : 0,
                                    .wr.rdma = {.remote_addr = remote, .rkey = rkey}};
    if (chain->n)
        chain->requests[chain->n - 1].next = request;
    chain->n++;
    return request;
}

/* Without a lkey: the bytes are copied into the work request. */
static void add_inline(struct chain *chain, const void *local, uint64_t bytes, uint64_t remote,
                       uint32_t rkey)
{
    add(chain, IBV_WR_RDMA_WRITE, local, bytes, 0, remote, rkey)->send_flags = IBV_SEND_INLINE;
}

/* The lane has room. False: it has failed. */
static bool post(struct verbs_peer *peer, unsigned index, struct chain *chain, bool report)
{
    struct verbs_lane *lane = &peer->lanes[index];
    struct ibv_send_wr *bad;
    int error;

    for (unsigned i = 0; i < chain->n; i++)
        chain->requests[i].wr_id = ++lane->posted;
    if (report || lane->posted - lane->asked >= SILENT) {
        chain->requests[chain->n - 1].send_flags |= IBV_SEND_SIGNALED;
        lane->asked = lane->posted;
    }
    error = ibv_post_send(lane->qp, chain->requests, &bad);
    if (!error)
        return true;
    verbs_lane_failed(peer, index, strerror(error));
    return false;
}

/* ---- keys ---- */

static void start_lookup(struct verbs_peer *peer)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    struct verbs_lane *lane;
    struct chain chain = {.n = 0};

    if (peer->looking || peer->primary < 0)
        return;
    lane = &peer->lanes[peer->primary];
    if (room_on(lane) < 2)
        return;
    if (!peer->answer)
        peer->answer = verbs_slot_take(endpoint);
    if (!peer->answer)
        return;
    add(&chain, IBV_WR_RDMA_READ, peer->answer, sizeof *peer->answer,
        endpoint->ports[lane->port].device->arena_mr->lkey,
        peer->directory + ((uint32_t)peer->wanted - 1) * sizeof(struct verbs_entry),
        lane->arena_rkey);
    if (post(peer, (unsigned)peer->primary, &chain, true)) {
        peer->looking = true;
        peer->look_mark = lane->posted;
    }
}

/* The answer is there. An entry that was never used is all zero. */
static void finish_lookup(struct verbs_peer *peer)
{
    struct verbs_entry entry = *peer->answer;

    peer->looking = false;
    if ((entry.key || entry.check) && entry.check != verbs_entry_check(&entry)) {
        start_lookup(peer); /* it was being changed */
        return;
    }
    if (entry.key != peer->wanted) /* remembered as what it is: no region */
        entry = (struct verbs_entry){.key = peer->wanted};
    peer->entries[keys_add(&peer->keys, entry.key)] = entry;
    peer->wanted = 0;
    verbs_slot_free(peer->endpoint, peer->answer);
    peer->answer = NULL;
}

thrum_status_t verbs_key_resolve(struct verbs_peer *peer, uint64_t key, uint64_t offset,
                                 size_t bytes, const struct verbs_entry **out)
{
    int place = keys_find(&peer->keys, key);
    const struct verbs_entry *entry = place < 0 ? NULL : &peer->entries[place];

    if (!key || (uint32_t)key - 1 >= VERBS_REGIONS)
        return verbs_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                               "key 0x%llx is none of its regions", (unsigned long long)key);
    if (!entry) {
        if (!peer->wanted)
            peer->wanted = key;
        start_lookup(peer);
        return peer->status ? thrum_plugin_fail(peer->status, "%s", peer->message)
                            : THRUM_IN_PROGRESS;
    }
    if (!entry->bytes)
        return verbs_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                               "key 0x%llx is none of its regions, or not any more",
                               (unsigned long long)key);
    if (offset > entry->bytes || bytes > entry->bytes - offset)
        return verbs_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                               "%zu bytes at %llu leave its region of %llu bytes", bytes,
                               (unsigned long long)offset, (unsigned long long)entry->bytes);
    *out = entry;
    return THRUM_OK;
}

/* ---- large puts, in pieces over all lanes ---- */

static bool overlap(const struct verbs_op *a, const struct verbs_op *b)
{
    return a->bytes && b->bytes && a->remote < b->remote + b->bytes &&
           b->remote < a->remote + a->bytes;
}

/* Whether the data may go before what is in front of it: it does not touch the same memory, and is not to be read first. */
static bool may_go_ahead(const struct verbs_peer *peer, uint64_t index)
{
    struct verbs_op *op = verbs_op(peer, index);

    for (uint64_t i = peer->head; !op->cleared && i < index; i++) {
        const struct verbs_op *before = verbs_op(peer, i);
        if (before->kind == VERBS_GET || overlap(before, op))
            return false;
    }
    op->cleared = true;
    return true;
}

/* Each lane has its share of a put that is not many pieces long. */
static uint64_t piece_bytes(const struct verbs_peer *peer, const struct verbs_op *op)
{
    uint64_t share = (op->bytes + peer->nlanes - 1) / peer->nlanes;

    share = (share + VERBS_LEAST_PIECE - 1) / VERBS_LEAST_PIECE * VERBS_LEAST_PIECE;
    return min_u64(share, VERBS_MOST_PIECE);
}

/* The next piece that some lane shall take. What a failed lane had comes first. */
static bool next_piece(struct verbs_peer *peer, struct verbs_piece *piece)
{
    if (peer->nredo) {
        *piece = peer->redo[--peer->nredo];
        return true;
    }
    if (peer->stripe < peer->head)
        peer->stripe = peer->head;
    for (; peer->stripe < peer->tail; peer->stripe++) {
        struct verbs_op *op = verbs_op(peer, peer->stripe);

        if (!op->striped || op->handed == op->bytes)
            continue;
        if (!may_go_ahead(peer, peer->stripe))
            return false;
        *piece =
            (struct verbs_piece){.op = peer->stripe,
                                 .offset = op->handed,
                                 .bytes = min_u64(op->bytes - op->handed, piece_bytes(peer, op))};
        op->handed += piece->bytes;
        return true;
    }
    return false;
}

/* The piece, and a read of its last bytes behind it, whose answer says that it is there. */
static bool post_piece(struct verbs_peer *peer, unsigned index, struct verbs_piece piece)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    struct verbs_lane *lane = &peer->lanes[index];
    const struct verbs_op *op = verbs_op(peer, piece.op);
    uint64_t tail = min_u64(8, piece.bytes), at = op->remote + piece.offset;
    uint32_t rkey = op->rkey[lane->remote_port];
    struct chain chain = {.n = 0};

    add(&chain, IBV_WR_RDMA_WRITE, op->local + piece.offset, piece.bytes,
        op->region->lkey[lane->port], at, rkey);
    add(&chain, IBV_WR_RDMA_READ, verbs_control_buffer(endpoint, VERBS_SCRATCH), tail,
        endpoint->ports[lane->port].device->arena_mr->lkey, at + piece.bytes - tail, rkey);
    piece.mark = lane->posted + chain.n;
    lane->pieces[lane->npieces++] =
        piece; /* before it is posted: if that fails, it is still known */
    endpoint->counters.striped += piece.bytes;
    return post(peer, index, &chain, true);
}

/* To the lane that has least to do, piece by piece. */
static bool hand_out_pieces(struct verbs_peer *peer)
{
    struct verbs_piece piece;
    bool moved = false;

    for (;;) {
        struct verbs_lane *best = NULL;

        for (unsigned i = 0; i < peer->nlanes; i++) {
            struct verbs_lane *lane = &peer->lanes[i];
            if (lane->state == LANE_UP && lane->npieces < VERBS_PIECES && room_on(lane) >= 8 &&
                (!best || lane->npieces < best->npieces))
                best = lane;
        }
        if (!best || !next_piece(peer, &piece))
            return moved;
        moved = true;
        (void)post_piece(peer, (unsigned)(best - peer->lanes), piece);
    }
}

static bool take_pieces(struct verbs_peer *peer, struct verbs_lane *lane)
{
    unsigned done = 0;

    while (done < lane->npieces && lane->pieces[done].mark <= lane->completed) {
        verbs_op(peer, lane->pieces[done].op)->safe += lane->pieces[done].bytes;
        done++;
    }
    lane->npieces -= done;
    if (done)
        peer->replays = 0;
    memmove(lane->pieces, lane->pieces + done, lane->npieces * sizeof *lane->pieces);
    return done > 0;
}

/* ---- what goes in order, by the primary ---- */

static void add_signal(struct verbs_peer *peer, const struct verbs_lane *lane,
                       const struct verbs_op *op, struct chain *chain)
{
    add_inline(chain, &op->number, sizeof op->number, peer->word, lane->arena_rkey);
    add_inline(chain, &op->value, sizeof op->value, op->signal, op->signal_rkey[lane->remote_port]);
    peer->endpoint->counters.signals++;
}

static bool post_get(struct verbs_peer *peer, struct verbs_op *op)
{
    struct verbs_lane *lane = &peer->lanes[peer->primary];
    const struct verbs_port *port = &peer->endpoint->ports[lane->port];

    while (op->handed < op->bytes) {
        uint64_t bytes = min_u64(op->bytes - op->handed, port->max_message);
        struct chain chain = {.n = 0};

        if (room_on(lane) < 8)
            return false;
        add(&chain, IBV_WR_RDMA_READ, op->local + op->handed, bytes, op->region->lkey[lane->port],
            op->remote + op->handed, op->rkey[lane->remote_port]);
        op->handed += bytes;
        if (!post(peer, (unsigned)peer->primary, &chain, true))
            return false;
    }
    op->posted = true;
    op->mark = lane->posted;
    return true;
}

/* False: not now. */
static bool post_op(struct verbs_peer *peer, struct verbs_op *op)
{
    struct verbs_lane *lane = &peer->lanes[peer->primary];
    const struct verbs_device *device = peer->endpoint->ports[lane->port].device;
    struct chain chain = {.n = 0};
    bool inlined = op->copied && !op->slot;

    if (op->kind == VERBS_GET)
        return post_get(peer, op);
    if (room_on(lane) < 8)
        return false;
    if (op->bytes && !op->data_done) {
        if (inlined)
            add_inline(&chain, op->local, op->bytes, op->remote, op->rkey[lane->remote_port]);
        else
            add(&chain, IBV_WR_RDMA_WRITE, op->local, op->bytes,
                op->slot ? device->arena_mr->lkey : op->region->lkey[lane->port], op->remote,
                op->rkey[lane->remote_port]);
    }
    if (op->signal)
        add_signal(peer, lane, op, &chain);
    op->posted = true;
    op->mark = lane->posted + chain.n;
    return !chain.n || post(peer, (unsigned)peer->primary, &chain, op->bytes && !inlined);
}

static bool advance_cursor(struct verbs_peer *peer)
{
    uint64_t before = peer->cursor;

    while (peer->primary >= 0 && peer->cursor < peer->tail) {
        struct verbs_op *op = verbs_op(peer, peer->cursor);

        if (op->striped && op->safe < op->bytes)
            break;
        op->data_done |= op->striped;
        if (!op->posted && !post_op(peer, op))
            break;
        peer->cursor++;
    }
    return peer->cursor != before;
}

static bool retire(struct verbs_peer *peer)
{
    uint64_t before = peer->head;
    const struct verbs_lane *lane;

    if (peer->primary < 0)
        return false;
    lane = &peer->lanes[peer->primary];
    while (peer->head < peer->cursor && verbs_op(peer, peer->head)->mark <= lane->completed) {
        struct verbs_op *op = verbs_op(peer, peer->head);
        if (op->slot)
            verbs_slot_free(peer->endpoint, op->slot);
        op->slot = NULL;
        peer->head++;
    }
    if (peer->head != before)
        peer->replays = 0;
    return peer->head != before;
}

/* ---- completions ---- */

/* What another lane would meet as well. (LOC_QP_OP_ERR is not: Soft-RoCE says it where a packet finds no way out.) */
static bool is_fatal(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_MW_BIND_ERR:
        return true;
    default:
        return false;
    }
}

static void take_error(struct verbs_peer *peer, unsigned index, const struct ibv_wc *wc)
{
    const char *text = ibv_wc_status_str(wc->status);

    if (is_fatal(wc->status))
        (void)verbs_peer_fail(peer, THRUM_ERR_INVALID_ARGUMENT,
                              "port %s: %s: memory that is not registered, or not any more",
                              peer->endpoint->ports[peer->lanes[index].port].name, text);
    else
        verbs_lane_failed(peer, index, text);
}

bool verbs_lane_poll(struct verbs_peer *peer, unsigned index)
{
    struct verbs_lane *lane = &peer->lanes[index];
    struct ibv_wc completions[COMPLETIONS];
    bool moved = false;
    int n;

    /* also where only silent ones are under way: that they have failed they do tell */
    while (lane->state == LANE_UP && lane->completed < lane->posted &&
           (n = ibv_poll_cq(lane->cq, COMPLETIONS, completions)) > 0) {
        moved = true;
        for (int i = 0; i < n; i++) {
            if (completions[i].status != IBV_WC_SUCCESS) {
                (void)take_pieces(peer, lane);
                take_error(peer, index, &completions[i]);
                return true;
            }
            lane->completed = completions[i].wr_id;
        }
    }
    if (moved)
        (void)take_pieces(peer, lane);
    return moved;
}

/* ---- progress ---- */

/* False: nothing is on its way, and nothing waits. */
static bool is_busy(const struct verbs_peer *peer)
{
    return peer->head != peer->tail || peer->wanted || peer->unsettled;
}

bool verbs_advance(struct verbs_peer *peer)
{
    bool moved = false;

    if (peer->wanted && !peer->looking)
        start_lookup(peer);
    if (peer->status)
        return false;
    if (peer->nredo || peer->stripe < peer->tail)
        moved = hand_out_pieces(peer);
    if (!peer->status)
        moved |= advance_cursor(peer);
    return moved;
}

/* By an empty write behind the last work requests, which may be silent. */
void verbs_report_ask(struct verbs_peer *peer, uint64_t end)
{
    struct verbs_lane *lane;
    struct chain chain = {.n = 0};

    if (peer->primary < 0 || peer->cursor < end)
        return;
    lane = &peer->lanes[peer->primary];
    if (verbs_op(peer, end - 1)->mark <= lane->asked || !room_on(lane))
        return;
    add(&chain, IBV_WR_RDMA_WRITE, NULL, 0, 0, peer->word, lane->arena_rkey);
    (void)post(peer, (unsigned)peer->primary, &chain, true);
}

bool verbs_send_locked(struct verbs_peer *peer)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    bool moved = false;
    int64_t now;

    if (peer->status || !is_busy(peer))
        return false;
    for (unsigned i = 0; i < peer->nlanes && !peer->status; i++)
        moved |= verbs_lane_poll(peer, i);
    if (peer->looking && peer->primary >= 0 &&
        peer->lanes[peer->primary].completed >= peer->look_mark)
        finish_lookup(peer);
    moved |= retire(peer);
    if (!peer->status)
        moved |= verbs_advance(peer);
    if (moved && !peer->unsettled)
        return true;
    now = now_ns();
    verbs_peer_watch(peer, now);
    if (peer->unsettled && !peer->status)
        moved |= verbs_peer_mend(peer, now, false);
    (void)endpoint;
    return moved;
}
