/*
 * What Thrum is given for the buffers of a call, and what it leaves in them. Called by work.c.
 *
 * Data that is only moved is bytes to Thrum. Memory with gaps is packed into a buffer of its own before, or unpacked out of
 * it after, on this rank alone: the others need not know.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

#define PACK_BYTES (1u << 30) /* PMPI_Pack counts in int */

/* ---- packing ---- */

static const char *at(const void *base, int64_t elements, const struct tmpi_type *type)
{
    return (const char *)((uintptr_t)base + (uintptr_t)(elements * type->extent));
}

static thrum_status_t convert(const void *memory, int64_t count, MPI_Datatype handle,
                              const struct tmpi_type *type, void *packed, bool to_packed)
{
    int64_t chunk = PACK_BYTES / (int64_t)(type->size ? type->size : 1);

    if (type->dense) {
        size_t bytes = (size_t)count * type->size;

        if (bytes && to_packed)
            memcpy(packed, memory, bytes);
        else if (bytes)
            memcpy((void *)(uintptr_t)memory, packed, bytes);
        return THRUM_OK;
    }
    for (int64_t done = 0; done < count; done += chunk) {
        int n = (int)(count - done < chunk ? count - done : chunk), position = 0;
        char *part = (char *)packed + done * (int64_t)type->size;
        const char *from = at(memory, done, type);
        int bytes = n * (int)type->size;
        int code = to_packed ? PMPI_Pack(from, n, handle, part, bytes, &position, tmpi.self)
                             : PMPI_Unpack(part, bytes, &position, (void *)(uintptr_t)from, n,
                                           handle, tmpi.self);

        if (code)
            return THRUM_ERR_INVALID_TYPE;
    }
    return THRUM_OK;
}

/* From the address of the first element to the end of the last one. */
static size_t span_of(int64_t count, MPI_Datatype handle, const struct tmpi_type *type)
{
    MPI_Aint lower = 0, extent = type->extent;

    if (!type->dense)
        (void)PMPI_Type_get_true_extent(handle, &lower, &extent);
    return count ? (size_t)((count - 1) * type->extent + lower + extent) : 0;
}

thrum_status_t tmpi_convert(const void *memory, int64_t count, MPI_Datatype handle,
                            const struct tmpi_type *type, void *packed, bool to_packed)
{
    struct tmpi_bounce bounce;
    thrum_status_t status;

    if (!tmpi_is_device(memory))
        return convert(memory, count, handle, type, packed, to_packed);
    status = tmpi_bounce_in(memory, span_of(count, handle, type), &bounce);
    if (!status)
        status = convert(bounce.host, count, handle, type, packed, to_packed);
    if (!status && !to_packed)
        status = tmpi_bounce_out(&bounce);
    tmpi_bounce_drop(&bounce);
    return status;
}

/* Aligned as any element may want to be: operations of the caller's may work on it. */
static thrum_status_t need(void **packed, uint64_t bytes)
{
    *packed = aligned_alloc(64, (bytes | 63) + 1);
    return *packed ? THRUM_OK : THRUM_ERR_NO_MEMORY;
}

/* ---- what Thrum is given ---- */

static bool is_in_place(const struct tmpi_call *call)
{
    return call->send == MPI_IN_PLACE;
}

/* Send memory of `count` elements: as it is, or packed. */
static thrum_status_t give_send(struct tmpi_work *work, const void *memory, int64_t count,
                                MPI_Datatype handle, const struct tmpi_type *type,
                                struct tmpi_given *given)
{
    thrum_status_t status;

    given->send = memory;
    if (type->dense)
        return THRUM_OK;
    status = need(&work->packed_send, (uint64_t)count * type->size);
    given->send = work->packed_send;
    return status ? status : tmpi_convert(memory, count, handle, type, work->packed_send, true);
}

/* Receive memory of `bytes`: as it is, or a buffer out of which finish unpacks. */
static thrum_status_t give_recv(struct tmpi_work *work, void *memory, uint64_t bytes, bool direct,
                                struct tmpi_given *given)
{
    thrum_status_t status;

    given->recv = memory;
    if (direct)
        return THRUM_OK;
    work->recv_bytes = bytes;
    status = need(&work->packed_recv, bytes);
    given->recv = work->packed_recv;
    return status;
}

/* The contributions, which tmpi_fold folds where they arrive: one after the other, in the order of the ranks. */
static thrum_status_t give_contributions(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;
    const struct tmpi_type *type = work->taken.sendtype;
    uint64_t n = (uint64_t)comm->size, each = (uint64_t)call->sendcount;
    int64_t elements = call->sendcount;
    size_t next = 0;
    thrum_status_t status;

    if (call->function == TMPI_REDUCE_SCATTER_BLOCK) {
        each = (uint64_t)call->recvcount;
        elements = call->recvcount * (int64_t)n;
    } else if (call->function == TMPI_REDUCE_SCATTER) {
        each = (uint64_t)call->recvcounts[comm->rank];
        elements = (int64_t)tmpi_sum(call->recvcounts, comm->size);
        for (uint64_t r = 0; r < n; next += given->sendcounts[r++]) {
            given->sendcounts[r] = (size_t)call->recvcounts[r] * type->size;
            given->sdispls[r] = next;
            given->counts[r] = each * type->size;
            given->displs[r] = r * given->counts[r];
        }
    }
    given->count = each * type->size;
    if (call->function != TMPI_REDUCE || call->root == comm->rank) {
        status = need(&work->packed_recv, n * given->count);
        if (status)
            return status;
        given->recv = work->packed_recv;
    }
    return give_send(work, is_in_place(call) ? call->recv : call->send, elements, call->sendtype,
                     type, given);
}

static thrum_status_t give_reduction(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;
    bool scatters =
        call->function == TMPI_REDUCE_SCATTER || call->function == TMPI_REDUCE_SCATTER_BLOCK;
    const void *own = call->recv;

    given->count =
        (uint64_t)(call->function == TMPI_REDUCE_SCATTER_BLOCK ? call->recvcount : call->sendcount);
    if (call->function == TMPI_REDUCE_SCATTER)
        for (int r = 0; r < comm->size; r++)
            given->counts[r] = (size_t)call->recvcounts[r];
    given->send = is_in_place(call) ? own : call->send;
    given->recv = call->recv;
    if (!scatters || !is_in_place(call) || comm->rank == 0)
        return THRUM_OK;
    /* MPI wants the block at the front of recv, where rank 0's input is */
    if (call->function == TMPI_REDUCE_SCATTER)
        given->count = given->counts[comm->rank];
    return give_recv(work, call->recv, given->count * work->taken.sendtype->size, false, given);
}

static thrum_status_t give_bcast(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.sendtype;
    thrum_status_t status;

    given->count = (uint64_t)call->sendcount * type->size;
    if (call->root != work->taken.comm->rank)
        return give_recv(work, call->recv, given->count, type->dense, given);
    status = give_send(work, call->recv, call->sendcount, call->sendtype, type, given);
    given->recv = (void *)(uintptr_t)given->send;
    return status;
}

/* Where the blocks of a v-variant lie, in bytes: in the caller's memory, or one after the other. */
static uint64_t fill_blocks(const int *counts, const int *displs, const struct tmpi_type *type,
                            int n, bool packed, size_t *counts_out, size_t *displs_out)
{
    uint64_t next = 0;

    for (int r = 0; r < n; r++) {
        counts_out[r] = (size_t)counts[r] * type->size;
        displs_out[r] = packed ? next : (size_t)displs[r] * type->size;
        next += counts_out[r];
    }
    return next;
}

/* Blocks one after the other: what allgatherv of all ranks can have alike. */
static bool is_gapless(const int *counts, const int *displs, int n)
{
    int64_t next = 0;

    for (int r = 0; r < n; r++) {
        if (counts[r] && displs[r] != next)
            return false;
        next += counts[r];
    }
    return true;
}

static bool are_positive(const int *displs, int n)
{
    for (int r = 0; r < n; r++)
        if (displs[r] < 0)
            return false;
    return true;
}

/* Own block of recv, for MPI_IN_PLACE; `displ` in elements. Copied where recv itself is not what Thrum writes. */
static thrum_status_t give_own_block(struct tmpi_work *work, int64_t displ, int64_t count,
                                     size_t offset, struct tmpi_given *given)
{
    const struct tmpi_type *type = work->taken.recvtype;

    given->send = (char *)given->recv + offset;
    if (!work->packed_recv)
        return THRUM_OK;
    return tmpi_convert(at(work->call.recv, displ, type), count, work->call.recvtype, type,
                        (char *)work->packed_recv + offset, true);
}

static thrum_status_t give_allgather(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;
    const struct tmpi_type *type = work->taken.recvtype;
    bool v = call->function == TMPI_ALLGATHERV;
    bool direct = type->dense && (!v || is_gapless(call->recvcounts, call->rdispls, comm->size));
    uint64_t total, offset;
    thrum_status_t status;

    given->count = (uint64_t)call->recvcount * type->size;
    total = given->count * (uint64_t)comm->size;
    offset = given->count * (uint64_t)comm->rank;
    if (v) {
        total = fill_blocks(call->recvcounts, NULL, type, comm->size, true, given->counts,
                            given->displs);
        offset = given->displs[comm->rank];
    }
    status = give_recv(work, call->recv, total, direct, given);
    if (status)
        return status;
    if (!is_in_place(call))
        return give_send(work, call->send, call->sendcount, call->sendtype, work->taken.sendtype,
                         given);
    return give_own_block(work,
                          v ? call->rdispls[comm->rank] : (int64_t)comm->rank * call->recvcount,
                          v ? call->recvcounts[comm->rank] : call->recvcount, offset, given);
}

static thrum_status_t give_alltoall(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    int64_t n = work->taken.comm->size;
    thrum_status_t status;

    given->count = (uint64_t)call->recvcount * type->size;
    status = give_recv(work, call->recv, given->count * (uint64_t)n, type->dense, given);
    if (status)
        return status;
    if (!is_in_place(call))
        return give_send(work, call->send, n * call->sendcount, call->sendtype,
                         work->taken.sendtype, given);
    status = need(&work->packed_send, given->count * (uint64_t)n);
    given->send = work->packed_send;
    return status ? status
                  : tmpi_convert(call->recv, n * call->recvcount, call->recvtype, type,
                                 work->packed_send, true);
}

/* Packs the blocks of a v-variant one after the other. */
static thrum_status_t pack_blocks(const void *memory, const int *counts, const int *displs, int n,
                                  MPI_Datatype handle, const struct tmpi_type *type, void *packed)
{
    char *next = packed;
    thrum_status_t status = THRUM_OK;

    for (int r = 0; r < n && !status; r++) {
        status = tmpi_convert(at(memory, displs[r], type), counts[r], handle, type, next, true);
        next += (size_t)counts[r] * type->size;
    }
    return status;
}

/* The send blocks of alltoallv and scatterv. `own`: they are in recv, and will be written. */
static thrum_status_t give_send_blocks(struct tmpi_work *work, const void *memory,
                                       const int *counts, const int *displs, MPI_Datatype handle,
                                       const struct tmpi_type *type, bool own, size_t *counts_out,
                                       size_t *displs_out, struct tmpi_given *given)
{
    int n = work->taken.comm->size;
    bool packed = own || !type->dense || !are_positive(displs, n);
    uint64_t total = fill_blocks(counts, displs, type, n, packed, counts_out, displs_out);
    thrum_status_t status;

    given->send = memory;
    if (!packed)
        return THRUM_OK;
    status = need(&work->packed_send, total);
    given->send = work->packed_send;
    return status ? status
                  : pack_blocks(memory, counts, displs, n, handle, type, work->packed_send);
}

static thrum_status_t give_recv_blocks(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    int n = work->taken.comm->size;
    bool direct = type->dense && are_positive(call->rdispls, n);
    uint64_t total = fill_blocks(call->recvcounts, call->rdispls, type, n, !direct, given->counts,
                                 given->displs);

    return give_recv(work, call->recv, total, direct, given);
}

static thrum_status_t give_alltoallv(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    bool own = is_in_place(call);
    thrum_status_t status = give_recv_blocks(work, given);

    if (status)
        return status;
    return give_send_blocks(
        work, own ? call->recv : call->send, own ? call->recvcounts : call->sendcounts,
        own ? call->rdispls : call->sdispls, own ? call->recvtype : call->sendtype,
        own ? work->taken.recvtype : work->taken.sendtype, own, given->sendcounts, given->sdispls,
        given);
}

static thrum_status_t give_gather(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;
    const struct tmpi_type *type = work->taken.recvtype;
    bool v = call->function == TMPI_GATHERV;
    int64_t displ, count;
    size_t offset;
    thrum_status_t status = THRUM_OK;

    if (work->taken.sendtype) /* else in place */
        given->count = (uint64_t)call->sendcount * work->taken.sendtype->size;
    if (comm->rank != call->root)
        return give_send(work, call->send, call->sendcount, call->sendtype, work->taken.sendtype,
                         given);
    displ = v ? call->rdispls[comm->rank] : (int64_t)comm->rank * call->recvcount;
    count = v ? call->recvcounts[comm->rank] : call->recvcount;
    given->count = (uint64_t)count * type->size;
    if (v) {
        status = give_recv_blocks(work, given);
        offset = given->displs[comm->rank];
    } else {
        status =
            give_recv(work, call->recv, given->count * (uint64_t)comm->size, type->dense, given);
        offset = given->count * (size_t)comm->rank;
    }
    if (status)
        return status;
    return is_in_place(call) ? give_own_block(work, displ, count, offset, given)
                             : give_send(work, call->send, call->sendcount, call->sendtype,
                                         work->taken.sendtype, given);
}

/* In place the root's own block stays where it is. */
static thrum_status_t give_scatter_root(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;
    const struct tmpi_type *type = work->taken.sendtype;
    bool v = call->function == TMPI_SCATTERV;
    size_t offset;
    thrum_status_t status;

    if (v) {
        status = give_send_blocks(work, call->send, call->sendcounts, call->sdispls, call->sendtype,
                                  type, false, given->counts, given->displs, given);
        offset = given->displs[comm->rank];
        given->count = given->counts[comm->rank];
    } else {
        given->count = (uint64_t)call->sendcount * type->size;
        status = give_send(work, call->send, (int64_t)comm->size * call->sendcount, call->sendtype,
                           type, given);
        offset = given->count * (size_t)comm->rank;
    }
    if (!status && call->recv == MPI_IN_PLACE)
        given->recv = (char *)(uintptr_t)given->send + offset;
    return status;
}

static thrum_status_t give_scatter(struct tmpi_work *work, struct tmpi_given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    thrum_status_t status = THRUM_OK;

    if (work->taken.comm->rank == call->root)
        status = give_scatter_root(work, given);
    if (status || call->recv == MPI_IN_PLACE)
        return status;
    given->count = (uint64_t)call->recvcount * type->size;
    return give_recv(work, call->recv, given->count, type->dense, given);
}

thrum_status_t tmpi_give(struct tmpi_work *work, struct tmpi_given *given)
{
    switch (work->call.function) {
    case TMPI_BARRIER:
        return THRUM_OK;
    case TMPI_BCAST:
        return give_bcast(work, given);
    case TMPI_ALLGATHER:
    case TMPI_ALLGATHERV:
        return give_allgather(work, given);
    case TMPI_ALLTOALL:
        return give_alltoall(work, given);
    case TMPI_ALLTOALLV:
        return give_alltoallv(work, given);
    case TMPI_GATHER:
    case TMPI_GATHERV:
        return give_gather(work, given);
    case TMPI_SCATTER:
    case TMPI_SCATTERV:
        return give_scatter(work, given);
    default:
        return work->taken.is_moved ? give_contributions(work, given) : give_reduction(work, given);
    }
}

/* ---- after it ---- */

static thrum_status_t unpack_blocks(struct tmpi_work *work)
{
    const struct tmpi_call *call = &work->call;
    char *next = work->packed_recv;
    thrum_status_t status = THRUM_OK;

    for (int r = 0; r < work->taken.comm->size && !status; r++) {
        status =
            tmpi_convert(at(call->recv, call->rdispls[r], work->taken.recvtype),
                         call->recvcounts[r], call->recvtype, work->taken.recvtype, next, false);
        next += (size_t)call->recvcounts[r] * work->taken.recvtype->size;
    }
    return status;
}

thrum_status_t tmpi_unpack(struct tmpi_work *work)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    int64_t n = work->taken.comm->size;

    switch (call->function) {
    case TMPI_BCAST:
        return tmpi_convert(call->recv, call->sendcount, call->sendtype, work->taken.sendtype,
                            work->packed_recv, false);
    case TMPI_ALLGATHER:
    case TMPI_ALLTOALL:
    case TMPI_GATHER:
        return tmpi_convert(call->recv, n * call->recvcount, call->recvtype, type,
                            work->packed_recv, false);
    case TMPI_SCATTER:
    case TMPI_SCATTERV:
        return tmpi_convert(call->recv, call->recvcount, call->recvtype, type, work->packed_recv,
                            false);
    case TMPI_ALLGATHERV:
    case TMPI_ALLTOALLV:
    case TMPI_GATHERV:
        return unpack_blocks(work);
    default: /* the block of a reduce_scatter in place */
        memcpy(call->recv, work->packed_recv, work->recv_bytes);
        return THRUM_OK;
    }
}
