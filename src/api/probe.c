/*
 * thrum_probe: whether a message waits to be received. A short one lies in the line that comes next; who sends by rendezvous
 * announces it before waiting for the receiver (lower_announcements).
 */
#include "api/api.h"

#include "base/base.h"

static thrum_status_t read_word(const struct thrum_comm *comm, uint64_t offset, uint64_t *out)
{
    return comm->ops->mem_peek(comm->device->impl, comm->area + offset, out, sizeof *out);
}

/* Both ends count what was called: the counters say how much the receives that were called take. */
static thrum_status_t find_message(const struct thrum_comm *comm, int peer, int *has_out)
{
    const struct comm_lines *lines = &comm->peers[peer].pairs[CHANNEL_EAGER].in;
    uint64_t met = comm->peers[peer].pairs[CHANNEL_P2P].received[0];
    uint64_t line = comm_line_offset(CHANNEL_EAGER, peer) + lines->slot * COMM_LINE_STRIDE;
    uint64_t next = (lines->count + 1) << exec_signature_bits(CHANNEL_EAGER), flag, announced;
    thrum_status_t status = read_word(comm, line, &flag);

    if (!status)
        status = read_word(comm, comm_announced_offset(peer), &announced);
    if (!status)
        *has_out = flag >= next || announced > met;
    return status;
}

thrum_status_t thrum_probe(int peer, thrum_comm_t comm, int *has_out)
{
    thrum_status_t status = collective_check_comm(comm);

    if (status)
        return status;
    if (peer < 0 || peer >= comm->nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "peer=%d is not between 0 and %d", peer,
                          comm->nranks - 1);
    if (!has_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "has_out is NULL");
    if (!comm->peers[comm->rank].probes)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          "%s was made without config.probes: long messages to rank %d are not "
                          "announced",
                          comm->name, comm->rank);
    if (peer != comm->rank)
        return find_message(comm, peer, has_out);
    *has_out = 0;
    return THRUM_OK;
}
