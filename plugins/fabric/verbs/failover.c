/*
 * What becomes of the work of a lane that failed, and how a lane comes back. Called by send.c when a queue pair reports
 * an error, by verbs.c when a port goes down, and by peer.c when the receiver has answered.
 */
#include "verbs.h"

#include <stdio.h>
#include <string.h>

#define ANSWER_NS 10000000000 /* given to a receiver that can be reached and does not answer */

static void name_lane(const struct verbs_peer *peer, unsigned index, char *text, size_t bytes)
{
    const struct verbs_lane *lane = &peer->lanes[index];
    const struct verbs_port *port = &peer->endpoint->ports[lane->port];
    char to[48];

    verbs_gid_text(peer->address.ports[lane->remote_port].gid, to);
    snprintf(text, bytes, "port %s (%s to %s)", port->name, port->address, to);
}

void verbs_lane_failed(struct verbs_peer *peer, unsigned index, const char *why)
{
    struct verbs_lane *lane = &peer->lanes[index];
    char name[160];

    if (lane->state != LANE_UP || peer->status)
        return;
    name_lane(peer, index, name, sizeof name);
    verbs_lane_close(peer->endpoint, lane);
    if (++peer->replays > VERBS_REPLAYS) {
        lane->state = LANE_DOWN;
        (void)verbs_peer_fail(peer, THRUM_ERR_UNREACHABLE, "%s: %.60s, whatever lane is tried",
                              name, why);
        return;
    }
    thrum_plugin_log(THRUM_LOG_WARN, "verbs: %s: %s failed: %s; %s", peer->name, name, why,
                     peer->nlanes > 1 ? "its work goes another way" : "it is made anew");
    snprintf(lane->why, sizeof lane->why, "%s", why);
    lane->state = LANE_FENCE;
    lane->answer.kind = 0;
    lane->repeat_ns = 0; /* asks at once */
    peer->endpoint->counters.failovers++;
    peer->unsettled = true;
    if (peer->primary == (int)index) {
        peer->primary = -1;
        peer->fallen = (int)index;
        peer->looking = false;
    }
}

/* Sends again what the receiver has not been told of. `number`: of the last signal that it may have seen. */
static void replay(struct verbs_peer *peer, const struct verbs_lane *lane, uint64_t number)
{
    uint64_t first = peer->cursor;

    for (uint64_t i = peer->head; i < peer->tail; i++) {
        struct verbs_op *op = verbs_op(peer, i);
        bool done = op->posted && (op->mark <= lane->completed ||
                                   (op->kind == VERBS_PUT && op->signal && op->number < number) ||
                                   (op->kind == VERBS_PUT && !op->signal && op->number <= number));

        if (i >= peer->cursor && !op->posted) {
            if (op->kind == VERBS_GET)
                op->handed = 0;
            continue;
        }
        if (done) {
            op->mark = 0;
            continue;
        }
        op->posted = false;
        op->data_done |= op->kind == VERBS_PUT && op->number == number;
        if (op->kind == VERBS_GET)
            op->handed = 0;
        if (first > i)
            first = i;
    }
    peer->cursor = first;
}

void verbs_lane_fenced(struct verbs_peer *peer, unsigned index, uint64_t number)
{
    struct verbs_lane *lane = &peer->lanes[index];

    for (unsigned i = 0; i < lane->npieces; i++)
        peer->redo[peer->nredo++] = lane->pieces[i];
    lane->npieces = 0;
    if (peer->fallen == (int)index) {
        replay(peer, lane, number);
        peer->fallen = -1;
    }
}

static void choose_primary(struct verbs_peer *peer)
{
    for (unsigned i = 0; i < peer->nlanes && peer->primary < 0 && peer->fallen < 0; i++)
        if (peer->lanes[i].state == LANE_UP)
            peer->primary = (int)i;
}

static const char *describe(const struct verbs_peer *peer, const struct verbs_lane *lane)
{
    if (!atomic_load(&peer->endpoint->ports[lane->port].up))
        return "the port is down";
    switch (lane->state) {
    case LANE_UP:
        return "up";
    case LANE_HELLO:
        return lane->why[0] ? lane->why : "no answer";
    default:
        return lane->why;
    }
}

void verbs_lanes_describe(const struct verbs_peer *peer, char *text, size_t bytes)
{
    char name[160];

    text[0] = 0;
    for (unsigned i = 0; i < peer->nlanes; i++) {
        size_t used = strlen(text);
        name_lane(peer, i, name, sizeof name);
        snprintf(text + used, bytes - used, "%s%s: %s", used ? "; " : "", name,
                 describe(peer, &peer->lanes[i]));
    }
}

static bool is_any_up(const struct verbs_peer *peer)
{
    for (unsigned i = 0; i < peer->nlanes; i++)
        if (peer->lanes[i].state == LANE_UP)
            return true;
    return false;
}

/*
 * No lane serves: for how long is that borne? A receiver that is only asked what has arrived may take its time, and a
 * connection that has nothing to send loses nothing.
 */
static void mind_loss(struct verbs_peer *peer, int64_t now)
{
    bool up = is_any_up(peer);
    int64_t patience = peer->endpoint->settings.recovery_ns + (up ? ANSWER_NS : 0);
    char text[200];

    if (peer->primary >= 0 || (peer->head == peer->tail && !peer->wanted)) {
        peer->lost_ns = 0;
        return;
    }
    if (!peer->lost_ns)
        peer->lost_ns = now;
    if (now - peer->lost_ns < patience)
        return;
    verbs_lanes_describe(peer, text, sizeof text);
    (void)verbs_peer_fail(peer, THRUM_ERR_UNREACHABLE, "%s: %s",
                          up ? "it does not say what arrived before a port failed"
                             : "no port leads there any more",
                          text);
}

bool verbs_peer_mend(struct verbs_peer *peer, int64_t now, bool ports_changed)
{
    bool moved = false, unsettled = false;

    verbs_peers_answered(peer->endpoint);
    for (unsigned i = 0; i < peer->nlanes && !peer->status; i++) {
        struct verbs_lane *lane = &peer->lanes[i];

        if (ports_changed && lane->state == LANE_UP &&
            !atomic_load(&peer->endpoint->ports[lane->port].up)) {
            (void)verbs_lane_poll(peer, i);
            verbs_lane_failed(peer, i, "the port is down");
        }
        if (lane->state != LANE_UP)
            moved |= verbs_lane_step(peer, i, now);
        unsettled |= lane->state != LANE_UP;
    }
    peer->unsettled = unsettled;
    choose_primary(peer);
    if (!peer->status)
        mind_loss(peer, now);
    return moved;
}
