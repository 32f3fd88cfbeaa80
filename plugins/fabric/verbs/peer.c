/*
 * Connections, from the sender's side: which ports of both ends make a lane, the making of lanes, errors, and whether the
 * peer's process lives where that can be seen. Called by comm through the table, by send.c and failover.c.
 */
#include "verbs.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS 5000000 /* between two looks at a process */
#define ANSWER_NS 20000000 /* that connect waits for an answer before it looks after its lanes */
#define REPEAT_NS 60000000 /* of a question without an answer; then twice as long, up to: */
#define REPEAT_MAX_NS 1000000000
#define HELLO_NS \
    10000000000 /* then a lane is given up for a while: a new try costs the peer most */
#define PAUSE_NS 100000000 /* the first time; then twice as long, up to: */
#define PAUSE_MAX_NS 1000000000

/* ---- errors ---- */

/* It sends nothing more, and has nothing left of what all connections share. Under lock. */
static void let_go(struct verbs_peer *peer)
{
    for (unsigned i = 0; i < peer->nlanes; i++) {
        verbs_lane_close(peer->endpoint, &peer->lanes[i]);
        peer->lanes[i].state = LANE_DOWN;
    }
    peer->primary = -1;
    for (uint64_t i = peer->head; i < peer->tail; i++) {
        struct verbs_op *op = verbs_op(peer, i);
        if (op->slot)
            verbs_slot_free(peer->endpoint, op->slot);
        op->slot = NULL;
    }
    if (peer->answer)
        verbs_slot_free(peer->endpoint, peer->answer);
    peer->answer = NULL;
}

thrum_status_t verbs_peer_fail(struct verbs_peer *peer, thrum_status_t status, const char *format,
                               ...)
{
    char text[VERBS_TEXT_BYTES];
    va_list arguments;

    if (peer->status)
        return thrum_plugin_fail(peer->status, "%s", peer->message);
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    peer->status = status;
    snprintf(peer->message, sizeof peer->message, "verbs: %.63s: %.180s", peer->name, text);
    let_go(peer);
    return thrum_plugin_fail(status, "%s", peer->message);
}

thrum_status_t verbs_peer_error(void *handle, const char **message_out)
{
    struct verbs_peer *peer = handle;
    thrum_status_t status;

    pthread_mutex_lock(&peer->endpoint->lock);
    status = peer->status;
    *message_out = peer->message;
    pthread_mutex_unlock(&peer->endpoint->lock);
    return status;
}

/* ---- is it alive? ---- */

static thrum_status_t fail_gone(struct verbs_peer *peer)
{
    return verbs_peer_fail(peer, THRUM_ERR_PEER_DEAD, "the process has ended");
}

void verbs_peer_watch(struct verbs_peer *peer, int64_t now)
{
    if (peer->status || now - peer->looked_ns < LOOK_NS)
        return;
    peer->looked_ns = now;
    if (process_is_gone(peer->pid_fd))
        (void)fail_gone(peer);
}

static thrum_status_t check_alive(struct verbs_peer *peer)
{
    const struct verbs_address *theirs = &peer->address;
    int error = process_watch(theirs->boot, theirs->pid, theirs->token, &peer->pid_fd);

    if (error == ENOENT)
        return verbs_peer_fail(peer, THRUM_ERR_PEER_DEAD, "the endpoint is closed");
    if (error == ESRCH)
        return fail_gone(peer);
    if (error)
        return verbs_fail(error, "verbs: no descriptor for a connection");
    return THRUM_OK;
}

/* ---- lanes ---- */

void verbs_lane_close(struct verbs_endpoint *endpoint, struct verbs_lane *lane)
{
    verbs_close_later(endpoint, lane->qp, lane->cq, NULL);
    lane->qp = NULL;
    lane->cq = NULL;
}

/* Tries again later. */
static void give_up(struct verbs_peer *peer, unsigned index, int64_t now, const char *what,
                    int error)
{
    struct verbs_lane *lane = &peer->lanes[index];

    verbs_lane_close(peer->endpoint, lane);
    if (what)
        snprintf(lane->why, sizeof lane->why, "%s: %s", what, strerror(error));
    lane->state = LANE_DOWN;
    lane->pause_ns =
        lane->pause_ns ? (int64_t)min_u64(2 * (uint64_t)lane->pause_ns, PAUSE_MAX_NS) : PAUSE_NS;
    lane->retry_ns = now + lane->pause_ns;
}

static void send_hello(struct verbs_peer *peer, unsigned index, int64_t now)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    struct verbs_lane *lane = &peer->lanes[index];
    const struct verbs_port *port = &endpoint->ports[lane->port];
    struct verbs_message hello = {.magic = VERBS_MAGIC,
                                  .token = peer->address.token,
                                  .connection = peer->connection,
                                  .from_token = endpoint->address.token,
                                  .kind = VERBS_HELLO,
                                  .lane = index,
                                  .attempt = lane->attempt,
                                  .qpn = lane->qp->qp_num,
                                  .psn = lane->psn,
                                  .ud_qpn = port->ud->qp_num,
                                  .port = lane->remote_port,
                                  .mtu = (uint8_t)port->mtu,
                                  .lid = port->lid,
                                  .reads = port->device->reads};

    memcpy(hello.gid, port->gid.raw, sizeof hello.gid);
    lane->sent_ns = now;
    verbs_control_send(endpoint, lane->port, peer->ah[index],
                       peer->address.ports[lane->remote_port].qpn, &hello);
}

static thrum_status_t begin_lane(struct verbs_peer *peer, unsigned index, int64_t now)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    struct verbs_lane *lane = &peer->lanes[index];
    const struct verbs_port *port = &endpoint->ports[lane->port];
    const struct verbs_port_address *to = &peer->address.ports[lane->remote_port];
    struct ibv_qp_init_attr init = {.cap = {.max_send_wr = VERBS_DEPTH,
                                            .max_recv_wr = 1,
                                            .max_send_sge = 1,
                                            .max_recv_sge = 1,
                                            .max_inline_data = VERBS_SMALL_BYTES},
                                    .qp_type = IBV_QPT_RC};

    if (!peer->ah[index]) {
        peer->ah[index] = verbs_way(endpoint, lane->port, to->gid, to->lid);
        if (!peer->ah[index]) {
            give_up(peer, index, now_ns(), "no way there", errno);
            return THRUM_ERR_UNREACHABLE;
        }
    }
    lane->cq = ibv_create_cq(port->device->context, VERBS_DEPTH, NULL, NULL, 0);
    if (!lane->cq)
        return verbs_fail(errno, "verbs: %s: no completion queue for %s", port->name, peer->name);
    init.send_cq = init.recv_cq = lane->cq;
    lane->qp = ibv_create_qp(port->device->pd, &init);
    if (!lane->qp || verbs_qp_init(lane->qp, port, 0)) {
        int error = errno;
        verbs_lane_close(endpoint, lane);
        return verbs_fail(error, "verbs: %s: no queue pair for %s", port->name, peer->name);
    }
    lane->attempt++;
    lane->psn = (uint32_t)verbs_random() & 0xffffff;
    lane->posted = lane->completed = lane->asked = 0;
    lane->npieces = 0;
    lane->answer.kind = 0;
    lane->state = LANE_HELLO;
    lane->began_ns = now;
    lane->repeat_ns = REPEAT_NS;
    send_hello(peer, index, now);
    return THRUM_OK;
}

/* The peer is ready to receive. 0, or errno. */
static int finish_lane(struct verbs_peer *peer, unsigned index)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    struct verbs_lane *lane = &peer->lanes[index];
    const struct verbs_message *welcome = &lane->answer;
    const struct verbs_port_address *to = &peer->address.ports[lane->remote_port];
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .ah_attr = verbs_way_attr(endpoint, lane->port, to->gid, to->lid),
        .path_mtu = welcome->mtu,
        .dest_qp_num = welcome->qpn,
        .max_dest_rd_atomic = 0,
        .min_rnr_timer = 12,
    };

    if (ibv_modify_qp(lane->qp, &attr,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
        return errno;
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
                                .timeout = endpoint->settings.timeout,
                                .retry_cnt = endpoint->settings.retries,
                                .rnr_retry = 7,
                                .sq_psn = lane->psn,
                                .max_rd_atomic = welcome->reads};
    if (ibv_modify_qp(lane->qp, &attr,
                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC))
        return errno;
    peer->directory = welcome->directory;
    peer->word = welcome->words;
    lane->arena_rkey = welcome->arena_rkey[lane->remote_port];
    lane->state = LANE_UP;
    lane->pause_ns = 0;
    peer->ways |= 1u << index;
    return 0;
}

static void take_hello_answer(struct verbs_peer *peer, unsigned index, int64_t now)
{
    struct verbs_lane *lane = &peer->lanes[index];
    int error;

    if (lane->answer.kind == VERBS_WELCOME) {
        error = finish_lane(peer, index);
        if (error)
            give_up(peer, index, now, "cannot be set up", error);
    } else {
        char text[sizeof lane->answer.text];
        memcpy(text, lane->answer.text, sizeof text);
        text[sizeof text - 1] = 0;
        snprintf(lane->why, sizeof lane->why, "refused by the peer: %s", text);
        lane->refused = true;
        give_up(peer, index, now, NULL, 0);
    }
}

static void send_fence(struct verbs_peer *peer, unsigned index, int64_t now)
{
    struct verbs_lane *lane = &peer->lanes[index];
    struct verbs_message fence = {.magic = VERBS_MAGIC,
                                  .token = peer->address.token,
                                  .connection = peer->connection,
                                  .from_token = peer->endpoint->address.token,
                                  .kind = VERBS_FENCE,
                                  .lane = index,
                                  .attempt = lane->attempt};

    lane->sent_ns = now;
    /* By each way in turn: which of them leads somewhere is not known. */
    for (unsigned tried = 0; tried < peer->nlanes; tried++) {
        unsigned by = peer->next_way++ % peer->nlanes;
        const struct verbs_lane *way = &peer->lanes[by];

        if (!(peer->ways & 1u << by) || !atomic_load(&peer->endpoint->ports[way->port].up))
            continue;
        fence.by = by;
        verbs_control_send(peer->endpoint, way->port, peer->ah[by],
                           peer->address.ports[way->remote_port].qpn, &fence);
        return;
    }
}

void verbs_peers_answered(struct verbs_endpoint *endpoint)
{
    struct verbs_message answer;

    while (verbs_answers_take(endpoint, &answer, 1)) {
        struct verbs_peer *peer = endpoint->peers;

        while (peer && peer->connection != answer.connection)
            peer = peer->next;
        if (peer && answer.lane < peer->nlanes &&
            answer.attempt == peer->lanes[answer.lane].attempt)
            peer->lanes[answer.lane].answer = answer;
    }
}

/* Less and less often: a peer that does not get round to answering is not helped by more questions. */
static bool is_time_to_repeat(struct verbs_lane *lane, int64_t now)
{
    if (!lane->repeat_ns)
        lane->repeat_ns = REPEAT_NS;
    else if (now - lane->sent_ns < lane->repeat_ns)
        return false;
    else
        lane->repeat_ns = (int64_t)min_u64(2 * (uint64_t)lane->repeat_ns, REPEAT_MAX_NS);
    return true;
}

bool verbs_lane_step(struct verbs_peer *peer, unsigned index, int64_t now)
{
    struct verbs_lane *lane = &peer->lanes[index];

    switch (lane->state) {
    case LANE_DOWN:
        if (now < lane->retry_ns || !atomic_load(&peer->endpoint->ports[lane->port].up))
            return false;
        if (begin_lane(peer, index, now))
            return false;
        return true;
    case LANE_HELLO:
        if (lane->answer.kind) {
            take_hello_answer(peer, index, now);
            return true;
        }
        if (now - lane->began_ns > HELLO_NS)
            give_up(peer, index, now, "no answer", ETIMEDOUT);
        else if (is_time_to_repeat(lane, now))
            send_hello(peer, index, now);
        return false;
    case LANE_FENCE:
        if (lane->answer.kind == VERBS_FENCED) {
            uint64_t number = lane->answer.number;
            lane->answer.kind = 0;
            lane->state = LANE_DOWN;
            lane->retry_ns = now;
            verbs_lane_fenced(peer, index, number);
            return true;
        }
        if (is_time_to_repeat(lane, now))
            send_fence(peer, index, now);
        return false;
    default:
        return false;
    }
}

/* ---- which ports of both ends make a lane ---- */

static bool same_network(const uint8_t *a, const uint8_t *b, unsigned prefix)
{
    unsigned bytes = prefix / 8, bits = prefix % 8;

    return prefix && !memcmp(a, b, bytes) && (!bits || (a[bytes] ^ b[bytes]) >> (8 - bits) == 0);
}

/* The one in the same network if there is, else the one at the same place of the list. */
static uint8_t partner_of(const struct verbs_peer *peer, unsigned index)
{
    const struct verbs_endpoint *endpoint = peer->endpoint;
    const struct verbs_port *port = &endpoint->ports[index];

    for (uint8_t i = 0; i < peer->address.nports; i++)
        if (same_network(port->gid.raw, peer->address.ports[i].gid, port->prefix))
            return i;
    return (uint8_t)(index % peer->address.nports);
}

/* InfiniBand: the same subnet. RoCE: the same IP network; whether a routed one lets it through nobody knows here. */
static bool ports_meet(const struct verbs_port_address *a, const struct verbs_port_address *b)
{
    if (a->link_layer != b->link_layer)
        return false;
    return a->link_layer == IBV_LINK_LAYER_ETHERNET ? same_network(a->gid, b->gid, a->prefix)
                                                    : !memcmp(a->gid, b->gid, 8);
}

thrum_status_t verbs_reaches(const struct thrum_fabric_address *from_bytes,
                             const struct thrum_fabric_address *to_bytes)
{
    struct verbs_address from, to;
    char ours[48], theirs[48];

    memcpy(&from, from_bytes->bytes, sizeof from);
    memcpy(&to, to_bytes->bytes, sizeof to);
    for (unsigned i = 0; i < from.nports && i < VERBS_PORTS; i++)
        for (unsigned k = 0; k < to.nports && k < VERBS_PORTS; k++)
            if (from.up & 1u << i && to.up & 1u << k && ports_meet(&from.ports[i], &to.ports[k]))
                return THRUM_OK;
    verbs_gid_text(from.ports[0].gid, ours);
    verbs_gid_text(to.ports[0].gid, theirs);
    return thrum_plugin_fail(THRUM_ERR_UNREACHABLE,
                             "no active port of %.15s (%s%s) is in a network with one of %.15s "
                             "(%s%s)",
                             from.host, ours, from.nports > 1 ? ", ..." : "", to.host, theirs,
                             to.nports > 1 ? ", ..." : "");
}

static void plan_lanes(struct verbs_peer *peer)
{
    const struct verbs_endpoint *endpoint = peer->endpoint;

    for (unsigned q = 0; q < endpoint->settings.qps; q++) {
        for (unsigned i = 0; i < endpoint->nports && peer->nlanes < VERBS_LANES; i++) {
            struct verbs_lane *lane = &peer->lanes[peer->nlanes++];
            lane->port = (uint8_t)i;
            lane->remote_port = partner_of(peer, i);
            lane->state = LANE_DOWN;
        }
    }
    peer->primary = peer->fallen = -1;
}

/* ---- connect ---- */

static thrum_status_t parse_address(const struct verbs_endpoint *endpoint,
                                    const struct thrum_fabric_address *bytes,
                                    struct verbs_address *out)
{
    memcpy(out, bytes->bytes, sizeof *out);
    if (out->magic != VERBS_MAGIC)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT,
                                 "address is not one of fabric verbs, or of another version");
    out->host[sizeof out->host - 1] = 0;
    if (!out->nports || out->nports > VERBS_PORTS)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "verbs: address of %u ports",
                                 out->nports);
    if (out->ports[0].link_layer != endpoint->ports[0].link_layer)
        return thrum_plugin_fail(
            THRUM_ERR_UNREACHABLE,
            "verbs: process %d of %s is on %s, this one on %s: choose ports "
            "by THRUM_FABRIC_DEVICE",
            out->pid, out->host,
            out->ports[0].link_layer == IBV_LINK_LAYER_ETHERNET ? "RoCE" : "InfiniBand",
            endpoint->ports[0].link_layer == IBV_LINK_LAYER_ETHERNET ? "RoCE" : "InfiniBand");
    return THRUM_OK;
}

static void name_peer(struct verbs_peer *peer)
{
    char address[48];

    verbs_gid_text(peer->address.ports[0].gid, address);
    snprintf(peer->name, sizeof peer->name, "process %d of %.15s (%.24s)", peer->address.pid,
             peer->address.host, address);
}

static bool lanes_wanted(const struct verbs_peer *peer, bool *one_is_up)
{
    bool waiting = false;

    *one_is_up = false;
    for (unsigned i = 0; i < peer->nlanes; i++) {
        const struct verbs_lane *lane = &peer->lanes[i];
        *one_is_up |= lane->state == LANE_UP;
        waiting |= lane->state != LANE_UP && !lane->refused &&
                   atomic_load(&peer->endpoint->ports[lane->port].up);
    }
    return waiting;
}

static thrum_status_t fail_connect(struct verbs_peer *peer)
{
    bool refused = false;
    char text[200];

    for (unsigned i = 0; i < peer->nlanes; i++)
        refused |= peer->lanes[i].refused;
    verbs_lanes_describe(peer, text, sizeof text);
    return verbs_peer_fail(peer, refused ? THRUM_ERR_LIMIT : THRUM_ERR_UNREACHABLE,
                           "no connection: %s", text);
}

/* All lanes, or after half a second those that are there. Under lock, which it lets go of while it waits. */
static thrum_status_t make_lanes(struct verbs_peer *peer)
{
    struct verbs_endpoint *endpoint = peer->endpoint;
    int64_t start = now_ns(), now = start;
    int64_t limit_ns = limit_connect_ms(VERBS_CONNECT_MS) * 1000000ll;
    bool up = false;

    for (unsigned i = 0; i < peer->nlanes; i++)
        if (atomic_load(&endpoint->ports[peer->lanes[i].port].up)) {
            thrum_status_t status = begin_lane(peer, i, now_ns());
            if (status && status != THRUM_ERR_UNREACHABLE)
                return status;
        }
    while (lanes_wanted(peer, &up) && !(up && now - start > 500000000)) {
        pthread_mutex_unlock(&endpoint->lock);
        verbs_answers_wait(endpoint, ANSWER_NS);
        pthread_mutex_lock(&endpoint->lock);
        verbs_peers_answered(endpoint);
        now = now_ns();
        if (process_is_gone(peer->pid_fd))
            return fail_gone(peer);
        if (now - start > limit_ns)
            break;
        for (unsigned i = 0; i < peer->nlanes; i++)
            verbs_lane_step(peer, i, now);
    }
    return up ? THRUM_OK : fail_connect(peer);
}

static void free_peer(struct verbs_peer *peer)
{
    for (unsigned i = 0; i < peer->nlanes; i++) {
        verbs_lane_close(peer->endpoint, &peer->lanes[i]);
        if (peer->ah[i])
            ibv_destroy_ah(peer->ah[i]);
    }
    if (peer->pid_fd >= 0)
        close(peer->pid_fd);
    free(peer->ops);
    free(peer);
}

static void unlink_peer(struct verbs_peer *peer)
{
    struct verbs_peer **link = &peer->endpoint->peers;

    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
}

/* The receiver may let go of its queue pairs. Nobody waits for it: it is asked twice by each way. */
static void say_bye(struct verbs_peer *peer)
{
    struct verbs_message bye = {.magic = VERBS_MAGIC,
                                .token = peer->address.token,
                                .connection = peer->connection,
                                .from_token = peer->endpoint->address.token,
                                .kind = VERBS_BYE};

    for (unsigned i = 0; i < 2 * peer->nlanes; i++) {
        const struct verbs_lane *lane = &peer->lanes[i % peer->nlanes];
        if (peer->ways & 1u << i % peer->nlanes)
            verbs_control_send(peer->endpoint, lane->port, peer->ah[i % peer->nlanes],
                               peer->address.ports[lane->remote_port].qpn, &bye);
    }
}

thrum_status_t verbs_connect(void *handle, const struct thrum_fabric_address *address,
                             void **peer_out)
{
    struct verbs_endpoint *endpoint = handle;
    struct verbs_peer *peer = calloc(1, sizeof *peer);
    thrum_status_t status = THRUM_OK;

    if (peer)
        peer->ops = calloc(VERBS_OPS, sizeof *peer->ops);
    if (!peer || !peer->ops) {
        free(peer);
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for a connection");
    }
    peer->endpoint = endpoint;
    peer->pid_fd = -1;
    peer->connection = verbs_random();
    status = parse_address(endpoint, address, &peer->address);
    if (!status) {
        name_peer(peer);
        status = check_alive(peer);
    }
    if (status)
        goto err_free;
    plan_lanes(peer);
    pthread_mutex_lock(&endpoint->lock);
    peer->next = endpoint->peers;
    endpoint->peers = peer;
    status = make_lanes(peer);
    if (status)
        unlink_peer(peer);
    else
        verbs_peer_mend(peer, now_ns(), false);
    pthread_mutex_unlock(&endpoint->lock);
    if (status)
        goto err_free;
    *peer_out = peer;
    return THRUM_OK;

err_free:
    free_peer(peer);
    return status;
}

/* What flush called complete is in the peer's memory; the rest is dropped. */
void verbs_disconnect(void *handle)
{
    struct verbs_peer *peer = handle;
    struct verbs_endpoint *endpoint;

    if (!peer)
        return;
    endpoint = peer->endpoint;
    pthread_mutex_lock(&endpoint->lock);
    unlink_peer(peer);
    say_bye(peer);
    let_go(peer);
    free_peer(peer);
    pthread_mutex_unlock(&endpoint->lock);
}
