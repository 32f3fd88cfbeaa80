/*
 * A connection that is tried until it stands, with growing pauses. Called by join.c, root.c and survivors.c.
 */
#include <errno.h>
#include <poll.h>
#include <sodium.h>

#include "bootstrap/internal.h"

#define BACKOFF_FIRST_NS (2 * MS_NS)
#define BACKOFF_MOST_NS (250 * MS_NS)

void boot_caller_retry(struct boot_caller *caller, int64_t now)
{
    caller->up = false;
    caller->last_error = caller->conn.error;
    if (caller->last_error != ECONNREFUSED)
        caller->deserted = 0;
    else if (!caller->deserted)
        caller->deserted = now;
    if (caller->deserted && now - caller->deserted > BOOT_DESERTED_NS)
        caller->first_refusal = 0; /* who refused is gone */
    boot_conn_close(&caller->conn);
    caller->backoff = caller->backoff
                          ? (int64_t)min_u64((uint64_t)caller->backoff * 2, BACKOFF_MOST_NS)
                          : BACKOFF_FIRST_NS;
    /* Spread, so that many ranks do not come all at once. */
    caller->next_try =
        now + caller->backoff / 2 + (int64_t)randombytes_uniform((uint32_t)caller->backoff);
}

/* When the other end has to have answered; it may take its time once it is known to be there. */
static int64_t late(const struct boot_caller *caller)
{
    return caller->is_patient && caller->conn.shake != SHAKE_CONNECTING
               ? INT64_MAX
               : caller->conn.since_ns + BOOT_SHAKE_TIMEOUT_NS;
}

thrum_status_t boot_caller_step(struct boot_caller *caller, const uint8_t *secret, int64_t now)
{
    thrum_status_t status;

    if (!caller->wanted || caller->up)
        return THRUM_IN_PROGRESS;
    if (caller->conn.fd < 0) {
        if (now < caller->next_try)
            return THRUM_IN_PROGRESS;
        status = boot_conn_open(&caller->conn, &caller->address, &caller->hello, caller->frame_max);
        if (status)
            return status;
    }
    status = caller->conn.ended && caller->conn.shake == SHAKE_CONNECTING
                 ? THRUM_ERR_UNREACHABLE
                 : boot_conn_handshake(&caller->conn, secret);
    if (status == THRUM_OK) {
        caller->up = true;
        return THRUM_OK;
    }
    if (status == THRUM_IN_PROGRESS && now < late(caller))
        return THRUM_IN_PROGRESS;
    if (status == THRUM_IN_PROGRESS)
        caller->conn.error = 0;
    boot_caller_retry(caller, now);
    return status == THRUM_ERR_AUTH || status == THRUM_ERR_PROTOCOL ? status : THRUM_IN_PROGRESS;
}

void boot_caller_poll(const struct boot_caller *caller, struct pollfd *fds, int *n, int64_t *due)
{
    if (!caller->wanted)
        return;
    if (caller->conn.fd >= 0)
        fds[(*n)++] =
            (struct pollfd){.fd = caller->conn.fd, .events = boot_conn_events(&caller->conn)};
    if (!caller->up && caller->conn.fd < 0 && caller->next_try < *due)
        *due = caller->next_try;
    if (!caller->up && caller->conn.fd >= 0 && late(caller) < *due)
        *due = late(caller);
}
