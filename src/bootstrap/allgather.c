/*
 * Allgather and barrier over the tree, between joining and the control plane. Called by comm.
 *
 * Up: each rank sends the values of its subtree, a contiguous range of ranks, once it has them. Down: all values from
 * rank 0. Data goes in frames of bounded size, written as the sockets take them. A rank that dies, leaves or disagrees
 * fails the call on every rank: who notices floods the failure over the tree.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "bootstrap/internal.h"

enum { DATA_HEAD = 24, CHUNK = BOOT_FRAME_MAX - DATA_HEAD };
#define QUEUE_AHEAD 65536 /* stop filling a connection's buffer here */

/* One call. Offsets are into the values of all ranks. */
struct gather {
    struct bootstrap *b;
    uint8_t *values;
    size_t bytes, total;
    size_t in_at[BOOT_LINKS], in_end[BOOT_LINKS]; /* still to come over a link */
    size_t out_at[BOOT_LINKS], out_end[BOOT_LINKS]; /* still to be sent */
};

static bool ups_complete(const struct gather *g)
{
    for (int i = 1; i < BOOT_LINKS; i++)
        if (g->in_at[i] < g->in_end[i])
            return false;
    return true;
}

static void begin(struct gather *g, struct bootstrap *b, void *values, size_t bytes)
{
    const struct boot_tree *tree = &b->tree;

    *g = (struct gather){.b = b, .values = values, .bytes = bytes};
    g->total = bytes * (size_t)tree->nranks;
    for (int i = 0; i < tree->nchildren; i++) {
        g->in_at[1 + i] = bytes * (size_t)tree->child[i];
        g->in_end[1 + i] = bytes * (size_t)tree->child_end[i];
        g->out_end[1 + i] = g->total;
    }
    if (tree->parent >= 0) {
        g->in_end[0] = g->total;
        g->out_at[0] = bytes * (size_t)tree->rank;
        g->out_end[0] = bytes * (size_t)tree->end;
    }
}

/* How far the data for a link is there. */
static size_t available(const struct gather *g, int link)
{
    if (!ups_complete(g))
        return g->out_at[link];
    if (!link || g->b->tree.parent < 0)
        return g->out_end[link];
    return g->in_at[0];
}

static void pump(struct gather *g)
{
    uint8_t head[DATA_HEAD] = {0};

    boot_put_u32(head, g->b->step);
    boot_put_u64(head + 8, g->bytes);
    for (int i = 0; i < BOOT_LINKS; i++) {
        size_t ready = available(g, i);

        while (g->out_at[i] < ready && boot_conn_pending(&g->b->links[i]) < QUEUE_AHEAD) {
            size_t n = min_u64(ready - g->out_at[i], CHUNK);

            boot_put_u64(head + 16, g->out_at[i]);
            if (boot_conn_send(&g->b->links[i], FRAME_DATA, head, sizeof head,
                               g->values + g->out_at[i], n))
                return; /* no memory now: again at the next turn */
            g->out_at[i] += n;
        }
    }
}

static bool complete(const struct gather *g)
{
    for (int i = 0; i < BOOT_LINKS; i++)
        if (g->in_at[i] < g->in_end[i] || g->out_at[i] < g->out_end[i] ||
            !boot_conn_flushed(&g->b->links[i]))
            return false;
    return true;
}

/* ---- failing ---- */

static thrum_status_t fail(struct bootstrap *b, int from_link)
{
    for (int i = 0; i < BOOT_LINKS; i++)
        if (i != from_link)
            boot_send_failure(&b->links[i], &b->failure);
    return thrum_fail(b->failure.status, "%s", b->failure.message);
}

static thrum_status_t fail_timeout(struct gather *g, int64_t waited_ms)
{
    struct bootstrap *b = g->b;
    bool *missing = calloc((size_t)b->tree.nranks, sizeof *missing);
    char text[300] = "ranks";
    int culprit = -1, links = 0;

    for (int i = ups_complete(g) ? 0 : 1; i < BOOT_LINKS; i++) {
        if (g->in_at[i] == g->in_end[i])
            continue;
        culprit = boot_link_rank(&b->tree, i);
        links++;
        if (missing)
            missing[culprit] = true;
    }
    if (missing)
        boot_ranks_text(missing, b->tree.nranks, text, sizeof text);
    free(missing);
    boot_failure_set(&b->failure, THRUM_ERR_TIMEOUT, links == 1 ? culprit : -1,
                     "%s did not answer rank %d within %lld ms while the communicator was set up",
                     text, b->tree.rank, (long long)waited_ms);
    return fail(b, -1);
}

/* ---- receiving ---- */

static thrum_status_t take_data(struct gather *g, int link, const struct boot_frame *frame)
{
    struct bootstrap *b = g->b;
    int peer = boot_link_rank(&b->tree, link);
    size_t n = frame->bytes - DATA_HEAD;
    uint64_t bytes, offset;

    if (frame->bytes > DATA_HEAD) {
        bytes = boot_get_u64(frame->payload + 8);
        offset = boot_get_u64(frame->payload + 16);
        if (bytes != g->bytes) {
            boot_failure_set(&b->failure, THRUM_ERR_MISMATCH, peer,
                             "step %u of setting up: rank %d exchanges %llu bytes, rank %d %zu",
                             b->step, peer, (unsigned long long)bytes, b->tree.rank, g->bytes);
            return fail(b, -1);
        }
        if (offset == g->in_at[link] && n <= g->in_end[link] - offset) {
            memcpy(g->values + offset, frame->payload + DATA_HEAD, n);
            g->in_at[link] += n;
            return THRUM_OK;
        }
    }
    boot_failure_set(&b->failure, THRUM_ERR_PROTOCOL, peer, "rank %d sent data out of order", peer);
    return fail(b, -1);
}

static bool is_later(const struct bootstrap *b, const struct boot_frame *frame)
{
    if (frame->type == FRAME_DATA)
        return frame->bytes >= DATA_HEAD && boot_get_u32(frame->payload) != b->step;
    return frame->type != FRAME_FAIL && frame->type != FRAME_GOODBYE;
}

/* Frames of one link, as far as they belong to this call. */
static thrum_status_t receive(struct gather *g, int link)
{
    struct bootstrap *b = g->b;
    struct boot_conn *conn = &b->links[link];
    bool waiting = g->in_at[link] < g->in_end[link];
    int peer = boot_link_rank(&b->tree, link);
    struct boot_frame frame;
    thrum_status_t status;

    while (!(status = boot_conn_peek(conn, &frame))) {
        if (frame.type == FRAME_FAIL && boot_get_failure(&frame, &b->failure))
            return fail(b, link);
        /* A neighbour that is done may be ahead of this rank, or gone: that concerns the calls to come. */
        if (!waiting && (is_later(b, &frame) || frame.type == FRAME_GOODBYE))
            return THRUM_OK;
        if (frame.type == FRAME_GOODBYE) {
            boot_failure_set(&b->failure, THRUM_ERR_PEER_DEAD, peer,
                             "rank %d left before the communicator was complete", peer);
            return fail(b, link);
        }
        if (frame.type != FRAME_DATA) {
            boot_failure_set(&b->failure, THRUM_ERR_MISMATCH, peer,
                             "rank %d is done with setting up, rank %d is in step %u", peer,
                             b->tree.rank, b->step);
            return fail(b, -1);
        }
        if ((status = take_data(g, link, &frame)))
            return status;
        boot_conn_pop(conn);
        waiting = g->in_at[link] < g->in_end[link];
    }
    if (status == THRUM_IN_PROGRESS &&
        (!conn->ended || (!waiting && g->out_at[link] == g->out_end[link])))
        return THRUM_OK;
    if (status == THRUM_IN_PROGRESS)
        boot_failure_set(&b->failure, THRUM_ERR_PEER_DEAD, peer,
                         "rank %d ended while the communicator was set up", peer);
    else
        boot_failure_set(&b->failure, THRUM_ERR_PROTOCOL, peer, "messages of rank %d are damaged",
                         peer);
    return fail(b, link);
}

/* ---- the calls ---- */

/* Who waits for ranks below gives up before those who wait for the result, so that the right rank is named. */
static int64_t patience_end(const struct gather *g)
{
    int64_t grain = (int64_t)min_u64((uint64_t)(g->b->deadline_ms * MS_NS / 50), 50 * MS_NS);

    return g->b->deadline - (ups_complete(g) ? 0 : grain * (1 + g->b->tree.depth));
}

static thrum_status_t run(struct gather *g)
{
    struct bootstrap *b = g->b;
    struct pollfd fds[BOOT_LINKS];
    thrum_status_t status;

    for (;;) {
        for (int i = 0; i < BOOT_LINKS; i++) {
            if (b->links[i].fd < 0)
                continue;
            boot_conn_io(&b->links[i]);
            if ((status = receive(g, i)))
                return status;
        }
        pump(g);
        if (complete(g))
            return THRUM_OK;
        if (now_ns() >= patience_end(g))
            return fail_timeout(g, b->deadline_ms);
        for (int i = 0; i < BOOT_LINKS; i++)
            fds[i] = (struct pollfd){.fd = b->links[i].ended ? -1 : b->links[i].fd,
                                     .events = boot_conn_events(&b->links[i])};
        poll(fds, BOOT_LINKS, boot_poll_ms(patience_end(g), now_ns()));
    }
}

thrum_status_t bootstrap_allgather(struct bootstrap *bootstrap, void *values, size_t bytes)
{
    struct gather gather;
    size_t total;

    if (!bootstrap || bootstrap->handed_over)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "the bootstrap is closed, or already control");
    if (bootstrap->failure.status)
        return thrum_fail(bootstrap->failure.status, "%s", bootstrap->failure.message);
    if (!values || !bytes || mul_overflows(bytes, (size_t)bootstrap->tree.nranks, &total))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "values is NULL, or %zu bytes", bytes);
    bootstrap->step++;
    begin(&gather, bootstrap, values, bytes);
    return run(&gather);
}

thrum_status_t bootstrap_barrier(struct bootstrap *bootstrap)
{
    uint8_t *values = bootstrap ? calloc((size_t)bootstrap->tree.nranks, 1) : NULL;
    thrum_status_t status;

    if (bootstrap && !values)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a barrier");
    status = bootstrap_allgather(bootstrap, values, 1);
    free(values);
    return status;
}
