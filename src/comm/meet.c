/*
 * Ranks of a communicator, and maybe new ones, meet for another communicator without the control plane, which may have
 * broken: at the port that one of them has kept since creation (bootstrap/meeting.c). Called by shrink.c and grow.c.
 */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

uint8_t *comm_places(const struct thrum_comm *comm, const uint8_t *excluded, int *n_out)
{
    uint8_t *places = malloc((size_t)comm->nranks * BOOTSTRAP_PLACE_BYTES);
    int n = 0;

    for (int r = 0; places && r < comm->nranks; r++)
        if (!excluded || !excluded[r])
            memcpy(places + (size_t)n++ * BOOTSTRAP_PLACE_BYTES, comm->peers[r].place,
                   BOOTSTRAP_PLACE_BYTES);
    *n_out = n;
    return places;
}

/* The rank at whose place they meet lets the others in. */
static thrum_status_t serve(struct thrum_comm *comm, const struct comm_meeting *meeting,
                            const struct thrum_unique_id *id, int64_t end_ns)
{
    thrum_status_t status;
    int n;
    uint8_t *places = comm_places(comm, meeting->excluded, &n);

    bootstrap_clear_place(comm->peers[comm->rank].place, end_ns);
    status = bootstrap_serve_place(id, comm->place_fd, places, places ? n : 0);
    free(places);
    return status;
}

thrum_status_t comm_meet(struct thrum_comm *comm, const struct comm_meeting *meeting,
                         const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_unique_id id;
    thrum_status_t status =
        control_meeting_id(comm->control, comm->peers[meeting->host].place, meeting->purpose,
                           meeting->purpose_bytes, meeting->early, &id);

    if (!status && meeting->host == comm->rank)
        status = serve(comm, meeting, &id, now_ns() + config->init_deadline_ms * 1000000);
    if (!status)
        status = comm_create(&id, meeting->nranks, meeting->rank, comm->device, config, comm_out);
    if (status == THRUM_ERR_AUTH && meeting->disagreement)
        status = thrum_fail(THRUM_ERR_MISMATCH, "%s: rank %d and rank %d %s", comm->name,
                            comm->rank, meeting->host, meeting->disagreement);
    else if (status == THRUM_ERR_UNREACHABLE && meeting->host != comm->rank)
        status = thrum_fail(THRUM_ERR_UNREACHABLE, "%s: the ranks meet at rank %d: %s", comm->name,
                            meeting->host, thrum_last_error());
    explicit_bzero(&id, sizeof id);
    return status;
}
