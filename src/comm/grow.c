/*
 * A communicator of the ranks of an old one and of new ones behind them. The old ranks derive the id from the old
 * communicator's secret and from how often it has grown; so each of them can name it to the new ones, and all meet at the
 * place of rank 0 (meet.c). Public entry points.
 */
#include "comm/comm.h"

#include "base/base.h"

/* What all that meet agree on; hashed with the communicator's secret. */
struct purpose {
    char what[16];
    uint64_t number; /* of the call, from 1 */
};

static struct purpose purpose_of(uint64_t number)
{
    return (struct purpose){.what = "thrum grow", .number = number};
}

static thrum_status_t check(thrum_comm_t comm)
{
    if (!comm_is_valid(comm) || comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is %s", (void *)comm,
                          comm_is_valid(comm) ? "finalized" : "not a live communicator");
    return THRUM_OK;
}

thrum_status_t thrum_comm_get_unique_id(thrum_comm_t comm, struct thrum_unique_id *id_out)
{
    struct purpose purpose;
    thrum_status_t status = check(comm);

    if (status)
        return status;
    if (!id_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "id_out is NULL");
    purpose = purpose_of(comm->grows + 1);
    return control_meeting_id(comm->control, comm->peers[0].place, &purpose, sizeof purpose,
                              BOOTSTRAP_EARLY, id_out);
}

thrum_status_t thrum_comm_grow(thrum_comm_t comm, int nranks,
                               const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct comm_meeting meeting;
    struct purpose purpose;
    thrum_status_t status = check(comm);

    if (status)
        return status;
    if (!comm_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (nranks <= comm->nranks || nranks > COMM_MAX_RANKS)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "nranks=%d is not between %d and %d", nranks,
                          comm->nranks + 1, COMM_MAX_RANKS);
    status = comm_child_config(comm, config, &effective);
    if (status)
        return status;
    purpose = purpose_of(++comm->grows);
    meeting =
        (struct comm_meeting){.host = 0,
                              .rank = comm->rank,
                              .nranks = nranks,
                              .purpose = &purpose,
                              .purpose_bytes = sizeof purpose,
                              .early = BOOTSTRAP_EARLY,
                              .disagreement = "have not called thrum_comm_grow equally often"};
    return comm_meet(comm, &meeting, &effective, comm_out);
}
