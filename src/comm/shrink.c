/*
 * A new communicator of those ranks that are left, from one whose control plane may have broken with the others: they meet
 * at the place of the first of them (meet.c). Public entry point.
 */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* What all that meet agree on; hashed with the communicator's secret. */
struct purpose {
    char what[16];
    uint64_t number; /* of the calls that exclude the same ranks */
    uint8_t excluded[]; /* by rank: 1 or 0 */
};

static thrum_status_t check(thrum_comm_t comm, const int *excluded, int n, const thrum_comm_t *out)
{
    if (!comm_is_valid(comm) || comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is %s", (void *)comm,
                          comm_is_valid(comm) ? "finalized" : "not a live communicator");
    if (!out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (n < 0 || n >= comm->nranks || (n && !excluded))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "nexcluded=%d is not between 0 and %d, or excluded is NULL", n,
                          comm->nranks - 1);
    for (int i = 0; i < n; i++)
        if (excluded[i] < 0 || excluded[i] >= comm->nranks || excluded[i] == comm->rank)
            return thrum_fail(THRUM_ERR_INVALID_RANK, "excluded[%d]=%d is %s", i, excluded[i],
                              excluded[i] == comm->rank ? "the calling rank"
                                                        : "outside the communicator");
    return THRUM_OK;
}

/* Ranks that are left agree on how often they were left by the same others, and on nothing else. */
static thrum_status_t count_call(struct thrum_comm *comm, struct purpose *purpose)
{
    size_t n = (size_t)comm->nranks;
    struct comm_shrink *shrink = comm->shrinks;

    while (shrink && memcmp(shrink->excluded, purpose->excluded, n))
        shrink = shrink->next;
    if (!shrink) {
        shrink = calloc(1, sizeof *shrink + n);
        if (!shrink)
            return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
        memcpy(shrink->excluded, purpose->excluded, n);
        shrink->next = comm->shrinks;
        comm->shrinks = shrink;
    }
    purpose->number = ++shrink->calls;
    return THRUM_OK;
}

static thrum_status_t meet(struct thrum_comm *comm, const struct purpose *purpose, size_t bytes,
                           const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct comm_meeting meeting = {
        .purpose = purpose,
        .purpose_bytes = bytes,
        .disagreement =
            "exclude different ranks, or one has excluded them more often than the other"};

    while (purpose->excluded[meeting.host])
        meeting.host++;
    for (int r = 0; r < comm->nranks; r++) {
        meeting.nranks += !purpose->excluded[r];
        meeting.rank += r < comm->rank && !purpose->excluded[r];
    }
    return comm_meet(comm, &meeting, config, comm_out);
}

thrum_status_t thrum_comm_shrink(thrum_comm_t comm, const int *excluded, int nexcluded,
                                 const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct purpose *purpose;
    size_t bytes;
    thrum_status_t status = check(comm, excluded, nexcluded, comm_out);

    if (!status)
        status = comm_child_config(comm, config, &effective);
    if (status)
        return status;
    bytes = sizeof *purpose + (size_t)comm->nranks;
    purpose = calloc(1, bytes);
    if (!purpose)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    memcpy(purpose->what, "thrum shrink", 12);
    for (int i = 0; i < nexcluded; i++)
        purpose->excluded[excluded[i]] = 1;
    status = count_call(comm, purpose);
    if (!status)
        status = meet(comm, purpose, bytes, &effective, comm_out);
    free(purpose);
    return status;
}
