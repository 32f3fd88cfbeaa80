/*
 * Which ranks of a communicator live: those that call this agree on it, though nobody knows beforehand who has died. Called by
 * comm (shrink.c).
 *
 * Each rank has a place, where connections are let in as long as its process lives, and refused once it is gone (meeting.c).
 * The ranks meet at the place of the lowest of them that lives, the host:
 *
 *   - Who calls goes through the ranks from 0 on. One whose place refuses is gone, for good. One that does not answer may be
 *     late, or stopped, or its host may be lost: it is waited for until `silent_ns`, and passed over then. The first that
 *     answers is the host, or the caller itself where nobody is before it. Of two clocks the one that began first counts.
 *   - The host calls all that have not come, again and again. Who is called by a host comes to it.
 *   - If a lower rank answers after all, whoever has passed it over, be it a host, goes there. So while all ranks that are awake
 *     reach each other, there is one host.
 *   - The host decides when every rank has come, or is gone, or has not answered until `silent_ns` and after it was called.
 *     Nobody is left out who answers. It tells those that have come who they are, and they join each other as ever: that is
 *     when the new communicator comes about, for all of them or for none (shrink.c tries again without who died meanwhile).
 *   - A rank of the new communicator answers at its old place from then on that the others have gone on (root.c, a notice).
 *     Who comes late, because it was stopped, meets that before it can decide anything: it asks every rank first.
 *
 * Limits. If the network is cut in two for longer than `silent_ns`, the ranks on both sides take each other for lost, and each
 * side gets a communicator: that cannot be told from the loss of hosts. Somebody outside has to decide then which goes on. A
 * rank that is stopped after it has answered is waited for until the deadline: TIMEOUT, and the next call leaves it out. The
 * same goes for a latecomer when all who could tell it have dropped their notices, or ended, without its hearing of their
 * death: if all their places refuse, it is the only one that lives, as far as it can know.
 */
#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "bootstrap/control.h"
#include "bootstrap/internal.h"

#define TURN_NS (50 * MS_NS) /* the clock is looked at so often */
#define CALL_AFTER_NS (50 * MS_NS) /* time to come by themselves */
#define REACH_NS (100 * MS_NS) /* while nobody answers, one rank more is tried so often */

enum stance { SAID_NOTHING, SAID_ASK, SAID_COME };

/* Another rank. */
struct peer {
    struct boot_caller *caller; /* to its place; NULL: not tried yet, or gone */
    enum stance said; /* to it */
    struct boot_conn *conn; /* from it; NULL: none */
    bool asks, comes; /* what it has said there */
    bool gone;
    int64_t asked_ns, heard_ns; /* since when it is tried; when it last showed that it lives */
};

struct roll {
    const struct survivors_call *call;
    uint8_t secret[BOOT_SECRET_BYTES];
    struct boot_door door;
    struct peer *peers;
    struct pollfd *fds;
    int host; /* where this rank goes; itself: it is the host */
    int64_t silent_ns; /* of the first that called, as far as it has been in touch */
    int64_t grace_ns; /* who is called has so long to answer, also after silent_ns */
    bool done; /* `alive` is decided */
    uint8_t *alive;
    struct boot_failure failure;
};

static thrum_status_t roll_id(const struct control *control, const struct survivors_call *call,
                              struct boot_id *id_out)
{
    static const char purpose[] = "thrum survivors";
    struct thrum_unique_id id;
    thrum_status_t status =
        control_meeting_id(control, call->places + (size_t)call->rank * BOOTSTRAP_PLACE_BYTES,
                           purpose, sizeof purpose, BOOTSTRAP_A_LITTLE_EARLY, &id);

    return status ? status : boot_id_decode(&id, id_out);
}

/* ---- connections from others ---- */

static void drop_conn(struct peer *peer)
{
    if (peer->conn) {
        boot_conn_close(peer->conn);
        free(peer->conn);
    }
    peer->conn = NULL;
    peer->asks = peer->comes = false;
}

static void welcome(struct roll *roll, int64_t now)
{
    const struct survivors_call *call = roll->call;
    struct boot_conn *conn;

    while ((conn = boot_door_next(&roll->door, roll->secret, now))) {
        const struct boot_hello *hello = &conn->hello;

        if (hello->role != BOOT_ROLE_ROOT || hello->target != call->rank || hello->rank < 0 ||
            hello->rank >= call->nranks || hello->rank == call->rank ||
            hello->nranks != call->nranks) {
            boot_conn_close(conn);
            free(conn);
            continue;
        }
        drop_conn(&roll->peers[hello->rank]);
        roll->peers[hello->rank].conn = conn;
    }
}

static void say_gone_on(struct boot_failure *failure, uint64_t number)
{
    boot_failure_set(failure, THRUM_ERR_ABORTED, -1,
                     "other ranks have made their communicator number %llu, and gone on",
                     (unsigned long long)number);
}

/* False: the connection is not there any more. */
static bool take_meet(struct roll *roll, struct peer *peer, const struct boot_frame *frame,
                      int64_t now)
{
    uint64_t number = boot_get_u64(frame->payload), stance = boot_get_u64(frame->payload + 8);
    uint64_t left = boot_get_u64(frame->payload + 16);
    struct boot_failure failure;

    boot_conn_pop(peer->conn);
    if (number > roll->call->number) {
        say_gone_on(&roll->failure, number - 1);
    } else if (number < roll->call->number) {
        say_gone_on(&failure, number);
        boot_refuse(peer->conn, &failure);
        peer->conn = NULL;
        drop_conn(peer);
        return false;
    }
    if (roll->silent_ns > now && left < (uint64_t)(roll->silent_ns - now))
        roll->silent_ns = now + (int64_t)left;
    peer->asks = stance == SAID_ASK;
    peer->comes = stance == SAID_COME;
    return true;
}

static void serve_conn(struct roll *roll, struct peer *peer, int64_t now)
{
    struct boot_frame frame;
    thrum_status_t status;

    if (!peer->conn)
        return;
    boot_conn_io(peer->conn);
    while (!(status = boot_conn_peek(peer->conn, &frame))) {
        if (frame.type != FRAME_MEET || frame.bytes != BOOT_MEET_BYTES)
            boot_conn_pop(peer->conn);
        else if (!take_meet(roll, peer, &frame, now))
            return;
    }
    if (status != THRUM_IN_PROGRESS || peer->conn->ended)
        drop_conn(peer);
}

/* ---- connections to others ---- */

static void drop_caller(struct peer *peer)
{
    if (peer->caller) {
        boot_conn_close(&peer->caller->conn);
        free(peer->caller);
    }
    peer->caller = NULL;
    peer->said = SAID_NOTHING;
}

static void hang_up(struct peer *peer, int64_t now)
{
    boot_caller_retry(peer->caller, now);
    peer->said = SAID_NOTHING;
    peer->heard_ns = now;
}

static thrum_status_t begin_call(struct roll *roll, int rank, int64_t now)
{
    const struct survivors_call *call = roll->call;
    struct peer *peer = &roll->peers[rank];
    struct boot_caller *caller = calloc(1, sizeof *caller);

    if (!caller)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to look for rank %d", rank);
    boot_conn_init(&caller->conn);
    caller->hello = (struct boot_hello){BOOT_ROLE_ROOT, call->rank, rank, call->nranks};
    caller->frame_max = BOOT_ROOT_FRAME_MAX + (size_t)call->nranks / 8;
    caller->is_patient = true;
    caller->wanted =
        boot_address_get(call->places + (size_t)rank * BOOTSTRAP_PLACE_BYTES, &caller->address);
    caller->next_try = roll->host == call->rank ? now + CALL_AFTER_NS : now;
    peer->asked_ns = caller->next_try;
    peer->caller = caller;
    return THRUM_OK;
}

static void take_survivors(struct roll *roll, const struct boot_frame *frame)
{
    const struct survivors_call *call = roll->call;

    if (frame->bytes != ((size_t)call->nranks + 7) / 8)
        return;
    for (int r = 0; r < call->nranks; r++)
        roll->alive[r] = frame->payload[r / 8] >> r % 8 & 1;
    roll->done = roll->alive[call->rank];
}

static void serve_answers(struct roll *roll, int rank, int64_t now)
{
    struct peer *peer = &roll->peers[rank];
    struct boot_conn *conn = &peer->caller->conn;
    struct boot_frame frame;
    thrum_status_t status;

    boot_conn_io(conn);
    while (!(status = boot_conn_peek(conn, &frame))) {
        if (frame.type == FRAME_FAIL && !roll->failure.status)
            (void)boot_get_failure(&frame, &roll->failure);
        else if (frame.type == FRAME_SURVIVORS && rank == roll->host && peer->said == SAID_COME)
            take_survivors(roll, &frame);
        boot_conn_pop(conn);
    }
    if (status != THRUM_IN_PROGRESS || conn->ended)
        hang_up(peer, now);
}

static thrum_status_t serve_caller(struct roll *roll, int rank, int64_t now)
{
    struct peer *peer = &roll->peers[rank];
    thrum_status_t status;

    if (!peer->caller)
        return THRUM_OK;
    if (!peer->caller->up) {
        status = boot_caller_step(peer->caller, roll->secret, now);
        if (status == THRUM_OK || status == THRUM_ERR_AUTH)
            peer->heard_ns = now; /* it is there, if only for another meeting */
        else if (status != THRUM_IN_PROGRESS && status != THRUM_ERR_PROTOCOL) /* a stranger's */
            return status;
        if (peer->caller->deserted) {
            thrum_log(LOG_DEBUG, "survivors: rank %d is gone", rank);
            peer->gone = true;
            drop_caller(peer);
            drop_conn(peer);
            return THRUM_OK;
        }
    }
    if (peer->caller->up)
        serve_answers(roll, rank, now);
    return THRUM_OK;
}

static void say(struct roll *roll, struct peer *peer, enum stance stance, int64_t now)
{
    uint8_t wire[BOOT_MEET_BYTES];

    if (!peer->caller || !peer->caller->up || peer->said == stance)
        return;
    if (peer->said == SAID_COME) { /* it has to see that this rank goes elsewhere */
        hang_up(peer, now);
        return;
    }
    if (stance == SAID_NOTHING)
        return;
    boot_put_u64(wire, roll->call->number);
    boot_put_u64(wire + 8, stance);
    boot_put_u64(wire + 16, roll->silent_ns > now ? (uint64_t)(roll->silent_ns - now) : 0);
    (void)boot_conn_send(&peer->caller->conn, FRAME_MEET, wire, sizeof wire, NULL, 0);
    peer->said = stance;
}

/* ---- who is the host, and who is there ---- */

static bool answers(const struct peer *peer)
{
    return peer->conn || (peer->caller && peer->caller->up);
}

/* It has had its time. */
static bool is_silent(const struct roll *roll, const struct peer *peer, int64_t now)
{
    int64_t since = peer->asked_ns > peer->heard_ns ? peer->asked_ns : peer->heard_ns;

    return peer->caller && !answers(peer) && now >= roll->silent_ns &&
           now >= since + roll->grace_ns;
}

static int choose_host(const struct roll *roll, int64_t now)
{
    int rank = roll->call->rank, lowest = 0, answering = 0, asking = 0;

    while (lowest < rank &&
           (roll->peers[lowest].gone || is_silent(roll, &roll->peers[lowest], now)))
        lowest++;
    while (answering < rank && !answers(&roll->peers[answering]))
        answering++;
    if (lowest == answering)
        return lowest;
    /* A host has passed over those below it, with reason: it is not worth while to wait for them here, too. */
    while (asking < roll->call->nranks && !roll->peers[asking].asks)
        asking++;
    if (asking == roll->call->nranks)
        return lowest;
    return asking < rank ? asking : rank;
}

static thrum_status_t attend(struct roll *roll, int64_t now)
{
    const struct survivors_call *call = roll->call;
    int64_t reach = (now - call->begun_ns) / REACH_NS;
    bool is_host;

    roll->host = choose_host(roll, now);
    is_host = roll->host == call->rank;
    if (!is_host && answers(&roll->peers[roll->host]))
        reach = roll->host;
    for (int r = 0; r < call->nranks; r++) {
        struct peer *peer = &roll->peers[r];
        bool is_wanted = is_host ? !peer->comes : r == roll->host || (r < call->rank && r <= reach);

        if (r == call->rank || peer->gone)
            continue;
        if (is_wanted && !peer->caller) {
            thrum_status_t status = begin_call(roll, r, now);

            if (status)
                return status;
        }
        say(roll, peer, r == roll->host ? SAID_COME : is_host ? SAID_ASK : SAID_NOTHING, now);
    }
    return THRUM_OK;
}

static bool is_settled(const struct roll *roll, const struct peer *peer, int64_t now)
{
    return peer->comes || peer->gone || is_silent(roll, peer, now);
}

static void decide(struct roll *roll, int64_t now)
{
    const struct survivors_call *call = roll->call;

    if (roll->host != call->rank)
        return;
    for (int r = 0; r < call->nranks; r++)
        if (r != call->rank && !is_settled(roll, &roll->peers[r], now))
            return;
    for (int r = 0; r < call->nranks; r++)
        roll->alive[r] = r == call->rank || roll->peers[r].comes;
    roll->done = true;
}

/* ---- the end ---- */

static void too_late(struct roll *roll, int64_t now)
{
    const struct survivors_call *call = roll->call;
    long long waited_ms = (call->end_ns - call->begun_ns) / MS_NS;
    bool *set = calloc((size_t)call->nranks, sizeof *set);
    char text[300] = "some ranks";

    for (int r = 0; set && r < call->nranks; r++)
        set[r] = roll->host != call->rank
                     ? r == roll->host
                     : r != call->rank && !is_settled(roll, &roll->peers[r], now);
    if (set)
        boot_ranks_text(set, call->nranks, text, sizeof text);
    free(set);
    boot_failure_set(&roll->failure, THRUM_ERR_TIMEOUT, -1,
                     roll->host == call->rank
                         ? "%s did not come within %lld ms, and may live"
                         : "%s, at whose place the ranks that live meet, has not decided within "
                           "%lld ms",
                     text, waited_ms);
}

/* The host's last words to those that have come; who is stopped is not waited for long. */
static void tell_guests(struct roll *roll)
{
    const struct survivors_call *call = roll->call;
    size_t bytes = ((size_t)call->nranks + 7) / 8;
    uint8_t *bits = roll->done ? calloc(1, bytes) : NULL;

    for (int r = 0; bits && r < call->nranks; r++)
        bits[r / 8] |= (uint8_t)(roll->alive[r] << r % 8);
    for (int r = 0; r < call->nranks; r++)
        if (roll->peers[r].comes && roll->done && bits)
            (void)boot_conn_send(roll->peers[r].conn, FRAME_SURVIVORS, bits, bytes, NULL, 0);
        else if (roll->peers[r].comes && roll->failure.status)
            boot_send_failure(roll->peers[r].conn, &roll->failure);
    for (int r = 0; r < call->nranks; r++)
        if (roll->peers[r].comes)
            boot_conns_linger(roll->peers[r].conn, 1);
    free(bits);
}

static void wait_for_events(struct roll *roll, int64_t now)
{
    int64_t due = now + TURN_NS;
    int n = boot_door_poll(&roll->door, roll->fds, now);

    for (int r = 0; r < roll->call->nranks; r++) {
        const struct peer *peer = &roll->peers[r];

        if (peer->conn)
            roll->fds[n++] =
                (struct pollfd){.fd = peer->conn->fd, .events = boot_conn_events(peer->conn)};
        if (peer->caller)
            boot_caller_poll(peer->caller, roll->fds, &n, &due);
    }
    poll(roll->fds, (nfds_t)n, boot_poll_ms(due, now));
}

static thrum_status_t run(struct roll *roll)
{
    const struct survivors_call *call = roll->call;
    thrum_status_t status = THRUM_OK;

    for (int64_t now = now_ns(); !status && !roll->done && !roll->failure.status; now = now_ns()) {
        welcome(roll, now);
        for (int r = 0; r < call->nranks && !status; r++) {
            serve_conn(roll, &roll->peers[r], now);
            status = serve_caller(roll, r, now);
        }
        if (roll->door.error)
            status = boot_fail_descriptor(roll->door.error, "accepting ranks that live");
        if (!status && !roll->done && !roll->failure.status)
            status = attend(roll, now);
        if (status || roll->done || roll->failure.status)
            break;
        decide(roll, now);
        if (roll->done)
            break;
        if (now >= call->end_ns)
            too_late(roll, now);
        else
            wait_for_events(roll, now);
    }
    if (status)
        boot_failure_set(&roll->failure, status, call->rank, "%s", thrum_last_error());
    if (roll->failure.status)
        roll->done = false;
    if (roll->done && roll->host != call->rank)
        return THRUM_OK;
    tell_guests(roll);
    return roll->done ? THRUM_OK
           : roll->failure.status == THRUM_ERR_ABORTED
               ? thrum_fail(THRUM_ERR_ABORTED, "rank %d is left out: %s", call->rank,
                            roll->failure.message)
               : thrum_fail(roll->failure.status, "%s", roll->failure.message);
}

thrum_status_t control_survivors(const struct control *control, const struct survivors_call *call,
                                 uint8_t *alive_out)
{
    struct roll roll = {.call = call,
                        .host = -1,
                        .silent_ns = call->silent_ns,
                        .grace_ns = (call->end_ns - call->begun_ns) / 8,
                        .alive = alive_out};
    size_t n = (size_t)call->nranks;
    struct boot_id id;
    thrum_status_t status = roll_id(control, call, &id);

    if (status)
        return status;
    memcpy(roll.secret, id.secret, sizeof roll.secret);
    sodium_memzero(&id, sizeof id);
    roll.peers = calloc(n, sizeof *roll.peers);
    roll.fds = calloc(BOOT_STRANGERS + 2 + 2 * n, sizeof *roll.fds);
    boot_door_open(&roll.door, call->place_fd, BOOT_STRANGERS, BOOT_ROOT_FRAME_MAX);
    status = roll.peers && roll.fds
                 ? run(&roll)
                 : thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", call->nranks);
    roll.door.fd = -1; /* the place stays */
    boot_door_close(&roll.door);
    for (int r = 0; roll.peers && r < call->nranks; r++) {
        drop_caller(&roll.peers[r]);
        drop_conn(&roll.peers[r]);
    }
    free(roll.peers);
    free(roll.fds);
    sodium_memzero(roll.secret, sizeof roll.secret);
    return status;
}

thrum_status_t control_post_notice(const struct control *control, const struct survivors_call *call,
                                   const uint8_t *alive)
{
    bool *set = calloc((size_t)call->nranks, sizeof *set);
    char text[300] = "other ranks";
    struct boot_failure failure;
    struct boot_id id;
    thrum_status_t status = roll_id(control, call, &id);
    int fd;

    for (int r = 0; set && r < call->nranks; r++)
        set[r] = alive[r];
    if (set)
        boot_ranks_text(set, call->nranks, text, sizeof text);
    free(set);
    if (status || (status = boot_share_place(call->place_fd, &fd)))
        return status;
    boot_failure_set(&failure, THRUM_ERR_ABORTED, -1, "%s have gone on without it", text);
    status = boot_root_start_notice(&id, fd, call->number, &failure);
    sodium_memzero(&id, sizeof id);
    return status;
}
