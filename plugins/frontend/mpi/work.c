/*
 * Serves a call that was taken: what Thrum is given for MPI's buffers, the call, and what comes after it. Called by
 * entry.c (blocking calls) and request.c.
 *
 * Data that is only moved is bytes to Thrum. Memory with gaps is packed into a buffer of its own before, or unpacked out of
 * it after, on this rank alone: the others need not know.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

#define PACK_BYTES (1u << 30) /* PMPI_Pack counts in int */
#define FEW_RANKS 64 /* whose counts fit the stack */

/* ---- packing ---- */

static const char *at(const void *base, int64_t elements, const struct tmpi_type *type)
{
    return (const char *)((uintptr_t)base + (uintptr_t)(elements * type->extent));
}

/* Packs or unpacks `count` elements of memory, which `bytes` of `packed` stand for. */
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

static thrum_status_t need(void **packed, uint64_t bytes)
{
    *packed = malloc(bytes ? bytes : 1);
    return *packed ? THRUM_OK : THRUM_ERR_NO_MEMORY;
}

/* ---- what Thrum is given ---- */

/* Arguments of the Thrum call. */
struct given {
    const void *send;
    void *recv;
    uint64_t count; /* elements of reductions, else bytes */
    /* bytes for each rank; of alltoallv the ones to send too */
    size_t *counts, *displs, *sendcounts, *sdispls;
};

static bool is_in_place(const struct tmpi_call *call)
{
    return call->send == MPI_IN_PLACE;
}

/* Send memory of `count` elements: as it is, or packed. */
static thrum_status_t give_send(struct tmpi_work *work, const void *memory, int64_t count,
                                MPI_Datatype handle, const struct tmpi_type *type,
                                struct given *given)
{
    thrum_status_t status;

    given->send = memory;
    if (type->dense)
        return THRUM_OK;
    status = need(&work->packed_send, (uint64_t)count * type->size);
    given->send = work->packed_send;
    return status ? status : convert(memory, count, handle, type, work->packed_send, true);
}

/* Receive memory of `bytes`: as it is, or a buffer out of which finish unpacks. */
static thrum_status_t give_recv(struct tmpi_work *work, void *memory, uint64_t bytes, bool direct,
                                struct given *given)
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

static thrum_status_t give_reduction(struct tmpi_work *work, struct given *given)
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

static thrum_status_t give_bcast(struct tmpi_work *work, struct given *given)
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
                                     size_t offset, struct given *given)
{
    const struct tmpi_type *type = work->taken.recvtype;

    given->send = (char *)given->recv + offset;
    if (!work->packed_recv)
        return THRUM_OK;
    return convert(at(work->call.recv, displ, type), count, work->call.recvtype, type,
                   (char *)work->packed_recv + offset, true);
}

static thrum_status_t give_allgather(struct tmpi_work *work, struct given *given)
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

static thrum_status_t give_alltoall(struct tmpi_work *work, struct given *given)
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
                  : convert(call->recv, n * call->recvcount, call->recvtype, type,
                            work->packed_send, true);
}

/* Packs the blocks of a v-variant one after the other. */
static thrum_status_t pack_blocks(const void *memory, const int *counts, const int *displs, int n,
                                  MPI_Datatype handle, const struct tmpi_type *type, void *packed)
{
    char *next = packed;
    thrum_status_t status = THRUM_OK;

    for (int r = 0; r < n && !status; r++) {
        status = convert(at(memory, displs[r], type), counts[r], handle, type, next, true);
        next += (size_t)counts[r] * type->size;
    }
    return status;
}

/* The send blocks of alltoallv and scatterv. `own`: they are in recv, and will be written. */
static thrum_status_t give_send_blocks(struct tmpi_work *work, const void *memory,
                                       const int *counts, const int *displs, MPI_Datatype handle,
                                       const struct tmpi_type *type, bool own, size_t *counts_out,
                                       size_t *displs_out, struct given *given)
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

static thrum_status_t give_recv_blocks(struct tmpi_work *work, struct given *given)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    int n = work->taken.comm->size;
    bool direct = type->dense && are_positive(call->rdispls, n);
    uint64_t total = fill_blocks(call->recvcounts, call->rdispls, type, n, !direct, given->counts,
                                 given->displs);

    return give_recv(work, call->recv, total, direct, given);
}

static thrum_status_t give_alltoallv(struct tmpi_work *work, struct given *given)
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

static thrum_status_t give_gather(struct tmpi_work *work, struct given *given)
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
static thrum_status_t give_scatter_root(struct tmpi_work *work, struct given *given)
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

static thrum_status_t give_scatter(struct tmpi_work *work, struct given *given)
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

static thrum_status_t give(struct tmpi_work *work, struct given *given)
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
        return give_reduction(work, given);
    }
}

/* ---- the call ---- */

/* Counts that all ranks have, and that are one. */
static bool is_uniform(const struct tmpi_call *call, int n)
{
    for (int r = 1; r < n; r++)
        if (call->recvcounts[r] != call->recvcounts[0])
            return false;
    return true;
}

static thrum_status_t call_thrum(const struct tmpi_work *work, const struct given *g)
{
    const struct tmpi_taken *taken = &work->taken;
    thrum_comm_t comm = taken->comm->thrum;
    thrum_queue_t queue = taken->comm->queue;
    thrum_datatype_t dtype = taken->sendtype ? taken->sendtype->dtype : THRUM_UINT8;
    thrum_redop_t op = taken->redop;
    int root = work->call.root;

    switch (work->call.function) {
    case TMPI_ALLREDUCE:
        return thrum_allreduce(g->send, g->recv, g->count, dtype, op, comm, queue);
    case TMPI_REDUCE:
        return thrum_reduce(g->send, g->recv, g->count, dtype, op, root, comm, queue);
    case TMPI_REDUCE_SCATTER:
        if (is_uniform(&work->call, taken->comm->size))
            return thrum_reduce_scatter(g->send, g->recv, g->counts[0], dtype, op, comm, queue);
        return thrum_reduce_scatterv(g->send, g->recv, g->counts, dtype, op, comm, queue);
    case TMPI_REDUCE_SCATTER_BLOCK:
        return thrum_reduce_scatter(g->send, g->recv, g->count, dtype, op, comm, queue);
    case TMPI_SCAN:
        return thrum_scan(g->send, g->recv, g->count, dtype, op, comm, queue);
    case TMPI_EXSCAN:
        return thrum_exscan(g->send, g->recv, g->count, dtype, op, comm, queue);
    case TMPI_BCAST:
        return thrum_broadcast(g->send, g->recv, g->count, THRUM_UINT8, root, comm, queue);
    case TMPI_ALLGATHER:
        return thrum_allgather(g->send, g->recv, g->count, THRUM_UINT8, comm, queue);
    case TMPI_ALLGATHERV:
        if (is_uniform(&work->call, taken->comm->size))
            return thrum_allgather(g->send, g->recv, g->counts[0], THRUM_UINT8, comm, queue);
        return thrum_allgatherv(g->send, g->recv, g->counts, NULL, THRUM_UINT8, comm, queue);
    case TMPI_ALLTOALL:
        return thrum_alltoall(g->send, g->recv, g->count, THRUM_UINT8, comm, queue);
    case TMPI_ALLTOALLV:
        return thrum_alltoallv(g->send, g->sendcounts, g->sdispls, g->recv, g->counts, g->displs,
                               THRUM_UINT8, comm, queue);
    case TMPI_GATHER:
        return thrum_gather(g->send, g->recv, g->count, THRUM_UINT8, root, comm, queue);
    case TMPI_GATHERV:
        return thrum_gatherv(g->send, g->count, g->recv, g->counts, g->displs, THRUM_UINT8, root,
                             comm, queue);
    case TMPI_SCATTER:
        return thrum_scatter(g->send, g->recv, g->count, THRUM_UINT8, root, comm, queue);
    case TMPI_SCATTERV:
        return thrum_scatterv(g->send, g->counts, g->displs, g->recv, g->count, THRUM_UINT8, root,
                              comm, queue);
    default:
        return thrum_barrier(comm, queue);
    }
}

static bool has_counts(enum tmpi_function function)
{
    return 1u << function & (1u << TMPI_REDUCE_SCATTER | 1u << TMPI_ALLGATHERV |
                             1u << TMPI_ALLTOALLV | 1u << TMPI_GATHERV | 1u << TMPI_SCATTERV);
}

static void drop(struct tmpi_work *work)
{
    free(work->packed_send);
    free(work->packed_recv);
    work->packed_send = work->packed_recv = NULL;
}

static thrum_status_t issue(struct tmpi_work *work, size_t *arrays)
{
    size_t n = (size_t)work->taken.comm->size;
    struct given given = {.counts = arrays,
                          .displs = arrays + n,
                          .sendcounts = arrays + 2 * n,
                          .sdispls = arrays + 3 * n};
    thrum_status_t status = give(work, &given);

    return status ? status : call_thrum(work, &given);
}

thrum_status_t tmpi_work_issue(struct tmpi_work *work)
{
    size_t few[4 * FEW_RANKS], n = (size_t)work->taken.comm->size, *arrays = few;
    thrum_status_t status;

    work->packed_send = work->packed_recv = NULL;
    if (TMPI_UNLIKELY(has_counts(work->call.function) && n > FEW_RANKS)) {
        arrays = malloc(4 * n * sizeof *arrays);
        if (!arrays)
            return THRUM_ERR_NO_MEMORY;
    }
    if (work->taken.is_user_op)
        work->taken.comm->user =
            (struct tmpi_user_op){work->call.op, work->call.sendtype, work->taken.sendtype->size};
    status = issue(work, arrays);
    if (arrays != few)
        free(arrays);
    if (status)
        drop(work);
    return status;
}

/* ---- after it ---- */

static thrum_status_t unpack_blocks(struct tmpi_work *work)
{
    const struct tmpi_call *call = &work->call;
    char *next = work->packed_recv;
    thrum_status_t status = THRUM_OK;

    for (int r = 0; r < work->taken.comm->size && !status; r++) {
        status = convert(at(call->recv, call->rdispls[r], work->taken.recvtype),
                         call->recvcounts[r], call->recvtype, work->taken.recvtype, next, false);
        next += (size_t)call->recvcounts[r] * work->taken.recvtype->size;
    }
    return status;
}

static thrum_status_t unpack(struct tmpi_work *work)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_type *type = work->taken.recvtype;
    int64_t n = work->taken.comm->size;

    switch (call->function) {
    case TMPI_BCAST:
        return convert(call->recv, call->sendcount, call->sendtype, work->taken.sendtype,
                       work->packed_recv, false);
    case TMPI_ALLGATHER:
    case TMPI_ALLTOALL:
    case TMPI_GATHER:
        return convert(call->recv, n * call->recvcount, call->recvtype, type, work->packed_recv,
                       false);
    case TMPI_SCATTER:
    case TMPI_SCATTERV:
        return convert(call->recv, call->recvcount, call->recvtype, type, work->packed_recv, false);
    case TMPI_ALLGATHERV:
    case TMPI_ALLTOALLV:
    case TMPI_GATHERV:
        return unpack_blocks(work);
    default: /* the block of a reduce_scatter in place */
        memcpy(call->recv, work->packed_recv, work->recv_bytes);
        return THRUM_OK;
    }
}

int tmpi_work_finish(struct tmpi_work *work, bool good)
{
    thrum_status_t status = THRUM_OK;

    if (TMPI_UNLIKELY(work->packed_recv || work->packed_send)) {
        if (good && work->packed_recv)
            status = unpack(work);
        drop(work);
    }
    return status ? MPI_ERR_TYPE : MPI_SUCCESS;
}

/* ---- blocking calls ---- */

/*
 * Waits for the queue. Most waits are short, and Thrum's alone; in a longer one MPI gets on with the messages that it has in
 * flight, without which the rank that is waited for might never come.
 */
static thrum_status_t wait_for(const struct tmpi_comm *comm)
{
    const int64_t alone_ns = 200000;
    thrum_status_t status = thrum_queue_synchronize_for(comm->queue, alone_ns), cause;

    if (status != THRUM_ERR_TIMEOUT)
        return status;
    while ((status = thrum_queue_query(comm->queue)) == THRUM_IN_PROGRESS)
        tmpi_request_pause(comm, 0);
    /* TIMEOUT may have been how it ended */
    return !status && !thrum_comm_async_error(comm->thrum, &cause, NULL) ? cause : status;
}

thrum_status_t tmpi_explain(const struct tmpi_comm *comm, thrum_status_t status,
                            const char **message_out)
{
    thrum_status_t cause;
    const char *message;

    *message_out = thrum_last_error();
    if (thrum_comm_async_error(comm->thrum, &cause, &message) || !cause)
        return status;
    if (message)
        *message_out = message;
    return cause;
}

void tmpi_tell_others(const struct tmpi_comm *comm, thrum_status_t status)
{
    if (status <= THRUM_ERR_UNSUPPORTED)
        (void)!thrum_comm_abort(comm->thrum);
}

int tmpi_work_run(const struct tmpi_call *call, const struct tmpi_taken *taken)
{
    struct tmpi_work work = {.call = *call, .taken = *taken};
    const char *message;
    thrum_status_t status = tmpi_requests_flush(taken->comm);
    int code;

    if (!status) {
        status = tmpi_work_issue(&work);
        if (TMPI_UNLIKELY(status)) {
            message = thrum_last_error();
            status = tmpi_explain(taken->comm, status, &message);
            tmpi_tell_others(taken->comm, status);
            return tmpi_raise(call->comm, status, message);
        }
        status = wait_for(taken->comm);
    }
    code = tmpi_work_finish(&work, !status);
    if (TMPI_UNLIKELY(status)) {
        status = tmpi_explain(taken->comm, status, &message);
        return tmpi_raise(call->comm, status, message);
    }
    if (TMPI_UNLIKELY(code))
        (void)PMPI_Comm_call_errhandler(call->comm, code);
    return code;
}

/* ---- operations of the caller's ---- */

/*
 * MPI's own way to call it, which knows whether it is C's or Fortran's: inout[i] <- in[i] op inout[i]. Called by whoever
 * executes the REDUCE command, which is the waiting thread or the device's.
 */
thrum_status_t tmpi_user_fold(const void *left, const void *right, void *result, size_t count,
                              thrum_datatype_t dtype, void *context)
{
    const struct tmpi_user_op *user = context;
    char piece[4096];
    size_t most = result == left ? sizeof piece / user->bytes : 1u << 20;

    (void)dtype;
    for (size_t done = 0; done < count;) {
        size_t n = count - done < most ? count - done : most, bytes = n * user->bytes;
        const char *from = (const char *)left + done * user->bytes;
        const char *with = (const char *)right + done * user->bytes;
        char *to = (char *)result + done * user->bytes, *inout = result == left ? piece : to;

        if (inout != with)
            memcpy(inout, with, bytes);
        if (PMPI_Reduce_local(from, inout, (int)n, user->type, user->op))
            return THRUM_ERR_INVALID_OP;
        if (inout != to)
            memcpy(to, inout, bytes);
        done += n;
    }
    return THRUM_OK;
}
