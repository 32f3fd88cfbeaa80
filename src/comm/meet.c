/*
 * Ranks of a communicator, and maybe new ones, meet for another communicator without the control plane, which may have
 * broken: at the port that one of them has kept since creation (bootstrap/meeting.c). Called by shrink.c and grow.c.
 */
#include "comm/comm.h"

#include <string.h>

#include "base/base.h"

#define SERVE_RETRY_NS 10000000 /* the service of an earlier attempt may still be ending */

/* The rank at whose place they meet lets the others in. */
static thrum_status_t serve(const struct thrum_unique_id *id, int64_t end_ns)
{
    const struct timespec pause = {.tv_nsec = SERVE_RETRY_NS};
    thrum_status_t status;

    while ((status = bootstrap_serve(id)) == THRUM_ERR_BUSY && now_ns() < end_ns)
        nanosleep(&pause, NULL);
    return status;
}

thrum_status_t comm_meet(struct thrum_comm *comm, const struct comm_meeting *meeting,
                         const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_unique_id id;
    thrum_status_t status =
        control_meeting_id(comm->control, comm->peers[meeting->host].place, meeting->purpose,
                           meeting->purpose_bytes, meeting->early, &id);

    if (!status && meeting->host == comm->rank) {
        bootstrap_clear_place(comm->peers[comm->rank].place);
        status = serve(&id, now_ns() + config->init_deadline_ms * 1000000);
    }
    if (!status)
        status = comm_create(&id, meeting->nranks, meeting->rank, comm->device, config, comm_out);
    if (status == THRUM_ERR_AUTH)
        status = thrum_fail(THRUM_ERR_MISMATCH, "%s: rank %d and rank %d %s", comm->name,
                            comm->rank, meeting->host, meeting->disagreement);
    else if (status == THRUM_ERR_UNREACHABLE && meeting->host != comm->rank)
        status = thrum_fail(THRUM_ERR_UNREACHABLE, "%s: the ranks meet at rank %d: %s", comm->name,
                            meeting->host, thrum_last_error());
    explicit_bzero(&id, sizeof id);
    return status;
}
