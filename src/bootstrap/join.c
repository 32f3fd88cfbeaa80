/*
 * Joining: one rank's way from the id to its place in the tree. Called by comm through bootstrap_join.
 *
 * One loop serves everything at once, on the caller's thread: the connection to the root service, the one to the
 * parent, and the door for the children. Connections to what is not there yet are tried again until the deadline.
 */
#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "bootstrap/internal.h"

#define VERDICT_GRACE_NS \
    (300 * MS_NS) /* after the deadline, for the root service to say who is missing */
#define AUTH_RETRY_NS (2000 * MS_NS)
#define MEMBER_STRANGERS 64

struct joining {
    struct boot_id id;
    struct bootstrap *b;
    struct boot_caller root, parent;
    struct boot_door door;
    bool got_parent, ready_sent, go;
    int64_t deadline_ms;
};

/* ---- the root service ---- */

/* Where the children find this rank: the address by which it reaches the root, unless that leads nowhere else. */
static thrum_status_t own_address(const struct joining *j, struct boot_address *out)
{
    socklen_t length = sizeof *out;

    if (*thrum_config_string(CFG_BOOTSTRAP_INTERFACE))
        return boot_address_choose(out);
    memset(out, 0, sizeof *out);
    if (getsockname(j->root.conn.fd, &out->sa, &length))
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "getsockname");
    if (boot_address_is_loopback(out) && (j->id.flags & BOOT_ID_NAMED))
        return boot_address_choose(out);
    boot_address_set_port(out, 0);
    return THRUM_OK;
}

static thrum_status_t open_door(struct joining *j, struct boot_address *address_out)
{
    thrum_status_t status = own_address(j, address_out);
    int fd;

    if (status || !j->b->tree.nchildren)
        return status;
    if ((status = boot_listen(address_out, false, &fd)))
        return status;
    boot_door_open(&j->door, fd, MEMBER_STRANGERS, BOOT_FRAME_MAX);
    return THRUM_OK;
}

static thrum_status_t register_with_root(struct joining *j, int64_t now)
{
    uint8_t wire[BOOT_ADDRESS_WIRE + 16];
    int64_t left = j->b->deadline - now;
    struct boot_address address;
    thrum_status_t status = open_door(j, &address);

    if (status)
        return status;
    boot_address_put(&address, wire);
    boot_put_u64(wire + BOOT_ADDRESS_WIRE, left > 0 ? (uint64_t)(left / MS_NS) : 0);
    boot_put_u64(wire + BOOT_ADDRESS_WIRE + 8, (uint64_t)j->deadline_ms);
    return boot_conn_send(&j->root.conn, FRAME_REGISTER, wire, sizeof wire, NULL, 0);
}

static thrum_status_t other_secret(const struct joining *j)
{
    char text[BOOT_ADDRESS_TEXT];

    return thrum_fail(THRUM_ERR_AUTH,
                      "rank %d and the root service at %s do not know the same secret",
                      j->b->tree.rank, boot_address_text(&j->root.address, text));
}

/* AUTH or PROTOCOL from where the root service should be. */
static thrum_status_t root_refused(struct joining *j, thrum_status_t status, int64_t now)
{
    char text[BOOT_ADDRESS_TEXT];

    if (status == THRUM_ERR_PROTOCOL)
        return thrum_fail(status, "what listens at %s does not speak version %d of this protocol",
                          boot_address_text(&j->root.address, text), BOOT_VERSION);
    /* With a derived id the port may for a moment still serve this job's communicator before this one. */
    if (!j->root.first_refusal)
        j->root.first_refusal = now;
    if ((j->id.flags & BOOT_ID_EARLY) ||
        ((j->id.flags & BOOT_ID_DERIVED) && !(j->id.flags & BOOT_ID_AWAITED) &&
         now - j->root.first_refusal < AUTH_RETRY_NS))
        return THRUM_IN_PROGRESS;
    return other_secret(j);
}

static thrum_status_t root_frame(struct joining *j, const struct boot_frame *frame)
{
    struct boot_failure failure;

    if (frame->type == FRAME_FAIL && boot_get_failure(frame, &failure))
        return thrum_fail(failure.status, "%s", failure.message);
    if (frame->type == FRAME_GO && j->ready_sent) {
        j->go = true;
        return THRUM_OK;
    }
    if (frame->type == FRAME_PARENT && frame->bytes == BOOT_ADDRESS_WIRE && !j->got_parent) {
        j->got_parent = true;
        if (j->b->tree.parent < 0)
            return THRUM_OK;
        if (boot_address_get(frame->payload, &j->parent.address)) {
            j->parent.wanted = true;
            return THRUM_OK;
        }
    }
    return thrum_fail(THRUM_ERR_PROTOCOL, "the root service sent an unexpected message (%d)",
                      (int)frame->type);
}

static thrum_status_t serve_root(struct joining *j, int64_t now)
{
    char text[BOOT_ADDRESS_TEXT];
    struct boot_frame frame;
    thrum_status_t status;

    if (!j->root.up) {
        status = boot_caller_step(&j->root, j->id.secret, now);
        if (status == THRUM_ERR_AUTH || status == THRUM_ERR_PROTOCOL)
            return root_refused(j, status, now);
        if ((j->id.flags & BOOT_ID_KEPT) && j->root.deserted)
            return thrum_fail(
                THRUM_ERR_UNREACHABLE,
                "rank %d could not reach the root service at %s: nobody listens there "
                "any more: the rank there has died, or destroyed its communicator",
                j->b->tree.rank, boot_address_text(&j->root.address, text));
        if ((j->id.flags & BOOT_ID_AWAITED) && j->root.backoff &&
            (!j->root.last_error ||
             j->root.last_error == ECONNRESET)) /* a notice, or it has died */
            return thrum_fail(THRUM_ERR_UNREACHABLE,
                              "rank %d came too late to the root service at %s", j->b->tree.rank,
                              boot_address_text(&j->root.address, text));
        /* A random id was made after its port was opened: that port does not open again. */
        if (!(j->id.flags & BOOT_ID_DERIVED) && j->root.deserted &&
            now - j->root.deserted > BOOT_DESERTED_NS)
            return thrum_fail(THRUM_ERR_UNREACHABLE,
                              "nobody listens at %s any more: the process that made the id has "
                              "ended, or its communicator has been joined or given up already",
                              boot_address_text(&j->root.address, text));
        return status == THRUM_OK ? register_with_root(j, now) : status;
    }
    boot_conn_io(&j->root.conn);
    while (!j->go && !(status = boot_conn_peek(&j->root.conn, &frame))) {
        status = root_frame(j, &frame);
        boot_conn_pop(&j->root.conn);
        if (status)
            return status;
    }
    if (j->go)
        return THRUM_OK;
    if (status != THRUM_IN_PROGRESS)
        return thrum_fail(status, "the root service's messages are damaged");
    if (j->root.conn.ended)
        return thrum_fail(THRUM_ERR_PEER_DEAD,
                          "the process that serves the id at %s ended while the ranks were joining",
                          boot_address_text(&j->root.address, text));
    return THRUM_OK;
}

/* ---- neighbours in the tree ---- */

static void welcome_children(struct joining *j, int64_t now)
{
    const struct boot_tree *tree = &j->b->tree;
    struct boot_conn *conn;

    while ((conn = boot_door_next(&j->door, j->id.secret, now))) {
        const struct boot_hello *hello = &conn->hello;
        int i = 0;

        while (i < tree->nchildren && tree->child[i] != hello->rank)
            i++;
        if (hello->role == BOOT_ROLE_TREE && hello->target == tree->rank &&
            hello->nranks == tree->nranks && i < tree->nchildren) {
            /* A child that comes again has given up its first attempt. */
            boot_conn_close(&j->b->links[1 + i]);
            j->b->links[1 + i] = *conn;
        } else {
            boot_conn_close(conn);
        }
        free(conn);
    }
}

static bool all_connected(const struct joining *j)
{
    const struct boot_tree *tree = &j->b->tree;

    for (int i = 0; i < tree->nchildren; i++)
        if (j->b->links[1 + i].fd < 0)
            return false;
    return j->got_parent && (tree->parent < 0 || j->parent.up);
}

static thrum_status_t serve(struct joining *j, int64_t now)
{
    thrum_status_t status = serve_root(j, now);

    if (status < 0 || j->go)
        return status;
    status = boot_caller_step(&j->parent, j->id.secret, now);
    /* Whoever answers wrongly there has taken the port of a parent that is gone; the root service will say so. */
    if (status < 0 && status != THRUM_ERR_AUTH && status != THRUM_ERR_PROTOCOL)
        return status;
    if (j->door.fd >= 0) {
        welcome_children(j, now);
        if (j->door.error)
            return boot_fail_descriptor(j->door.error, "accepting the ranks below this one");
    }
    for (int i = 0; i < j->b->tree.nchildren; i++)
        if (j->b->links[1 + i].fd >= 0 && !boot_conn_flushed(&j->b->links[1 + i]))
            boot_conn_io(&j->b->links[1 + i]);
    if (!j->ready_sent && all_connected(j)) {
        j->ready_sent = true;
        return boot_conn_send(&j->root.conn, FRAME_READY, NULL, 0, NULL, 0);
    }
    return THRUM_OK;
}

static thrum_status_t too_late(const struct joining *j)
{
    char text[BOOT_ADDRESS_TEXT], cause[128];
    const struct boot_caller *caller = j->root.up ? &j->parent : &j->root;
    const char *why = caller->last_error ? strerror_r(caller->last_error, cause, sizeof cause)
                                         : "it does not answer";

    boot_address_text(&caller->address, text);
    if (!j->root.up && boot_root_accept_error(&j->id))
        return boot_fail_descriptor(boot_root_accept_error(&j->id),
                                    "the root service, in this process, cannot accept");
    if (!j->root.up && j->root.first_refusal)
        return other_secret(j);
    if (!j->root.up)
        return thrum_fail(THRUM_ERR_UNREACHABLE,
                          "rank %d could not reach the root service at %s within %lld ms: %s",
                          j->b->tree.rank, text, (long long)j->deadline_ms, why);
    if (j->parent.wanted && !j->parent.up)
        return thrum_fail(THRUM_ERR_UNREACHABLE,
                          "rank %d could not reach rank %d at %s within %lld ms: %s",
                          j->b->tree.rank, j->b->tree.parent, text, (long long)j->deadline_ms, why);
    return thrum_fail(THRUM_ERR_TIMEOUT,
                      "not all ranks joined within %lld ms, and the root service does not say who "
                      "is missing",
                      (long long)j->deadline_ms);
}

static thrum_status_t run(struct joining *j)
{
    struct pollfd fds[MEMBER_STRANGERS + 4];
    int64_t now = now_ns(), due;
    thrum_status_t status;
    int n;

    while ((status = serve(j, now)) >= 0 && !j->go) {
        n = 0;
        due = j->b->deadline + (j->root.up ? VERDICT_GRACE_NS : 0);
        if (now >= due)
            return too_late(j);
        if (j->door.fd >= 0) {
            n = boot_door_poll(&j->door, fds, now);
            due = due < boot_door_due(&j->door) ? due : boot_door_due(&j->door);
        }
        boot_caller_poll(&j->root, fds, &n, &due);
        if (!j->parent.up)
            boot_caller_poll(&j->parent, fds, &n, &due);
        poll(fds, (nfds_t)n, boot_poll_ms(due, now));
        now = now_ns();
    }
    return status < 0 ? status : THRUM_OK;
}

/* ---- entry points ---- */

static void prepare(struct joining *j, int rank, int nranks)
{
    boot_conn_init(&j->root.conn);
    boot_conn_init(&j->parent.conn);
    j->door.fd = -1;
    j->root.wanted = true;
    j->root.frame_max = BOOT_ROOT_FRAME_MAX;
    j->root.hello = (struct boot_hello){BOOT_ROLE_ROOT, rank, -1, nranks};
    j->parent.frame_max = BOOT_FRAME_MAX;
    j->parent.hello = (struct boot_hello){BOOT_ROLE_TREE, rank, j->b->tree.parent, nranks};
    for (int i = 0; i < BOOT_LINKS; i++)
        boot_conn_init(&j->b->links[i]);
}

/* Another process may have become the reason; the root service passes on what this rank says. */
static void tell_root(struct joining *j, thrum_status_t status)
{
    struct boot_failure failure;

    boot_failure_set(&failure, status, j->b->tree.rank, "%s", thrum_last_error());
    boot_send_failure(&j->root.conn, &failure);
    boot_conns_linger(&j->root.conn, 1);
}

/* If the service is in this process, it need not wait for this rank any more. */
static void give_up(struct joining *j, thrum_status_t status)
{
    struct boot_giving_up what = {.nranks = j->b->tree.nranks, .until = j->b->deadline};
    int rank = j->b->tree.rank;

    boot_failure_set(&what.failure, status, rank, "rank %d could not join: %.400s", rank,
                     thrum_last_error());
    boot_root_give_up(&j->id, &what);
}

static void derive_seal_key(struct joining *j)
{
    static const uint8_t label[] = "thrum control plane: sealed ids";

    crypto_generichash(j->b->seal_key, sizeof j->b->seal_key, label, sizeof label, j->id.secret,
                       sizeof j->id.secret);
}

static thrum_status_t check_arguments(const struct thrum_unique_id *id, int rank, int nranks,
                                      int64_t deadline_ms)
{
    if (!id)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "id is NULL");
    if (nranks < 1 || nranks > BOOT_MAX_RANKS)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "nranks is %d; 1 to %d are possible", nranks,
                          BOOT_MAX_RANKS);
    if (rank < 0 || rank >= nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "rank is %d; nranks is %d", rank, nranks);
    if (deadline_ms < 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "deadline is %lld ms",
                          (long long)deadline_ms);
    return thrum_config_load();
}

thrum_status_t bootstrap_join(const struct thrum_unique_id *id, int rank, int nranks,
                              int64_t deadline_ms, struct bootstrap **bootstrap_out)
{
    struct joining *j = NULL;
    thrum_status_t status = check_arguments(id, rank, nranks, deadline_ms);

    if (status)
        return status;
    j = calloc(1, sizeof *j);
    if (!j || !(j->b = calloc(1, sizeof *j->b))) {
        free(j);
        bootstrap_withdraw(id);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to join as rank %d", rank);
    }
    boot_tree_make(rank, nranks, &j->b->tree);
    prepare(j, rank, nranks);
    if ((status = boot_id_decode(id, &j->id)))
        goto done;
    j->root.address = j->id.address;
    j->root.is_patient = j->id.flags & BOOT_ID_KEPT;
    deadline_ms = (int64_t)min_u64((uint64_t)deadline_ms, 1ull << 40);
    j->deadline_ms = j->b->deadline_ms = deadline_ms;
    j->b->deadline = now_ns() + deadline_ms * MS_NS;
    status = run(j);
done:
    boot_door_close(&j->door);
    j->b->links[0] = j->parent.conn;
    if (status) {
        if (j->root.up && !j->root.conn.ended)
            tell_root(j, status);
        give_up(j, status);
        for (int i = 0; i < BOOT_LINKS; i++)
            boot_conn_close(&j->b->links[i]);
        boot_conn_close(&j->root.conn);
        free(j->b);
    } else {
        boot_conn_close(&j->root.conn);
        boot_root_settle(&j->id);
        derive_seal_key(j);
        *bootstrap_out = j->b;
    }
    sodium_memzero(&j->id, sizeof j->id);
    free(j);
    return status;
}

void bootstrap_close(struct bootstrap *bootstrap)
{
    if (!bootstrap)
        return;
    if (!bootstrap->handed_over) {
        if (!bootstrap->failure.status)
            for (int i = 0; i < BOOT_LINKS; i++)
                (void)boot_conn_send(&bootstrap->links[i], FRAME_GOODBYE, "early", 5, NULL, 0);
        boot_conns_linger(bootstrap->links, BOOT_LINKS);
    }
    sodium_memzero(bootstrap->seal_key, sizeof bootstrap->seal_key);
    free(bootstrap);
}
