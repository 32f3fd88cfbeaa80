/*
 * Serves a call that was taken: the call of Thrum, and what comes after it. Called by entry.c (blocking calls) and
 * request.c.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

#define FEW_RANKS 64 /* whose counts fit the stack */

/* ---- the call ---- */

/* Counts that all ranks have, and that are one. */
static bool is_uniform(const struct tmpi_call *call, int n)
{
    for (int r = 1; r < n; r++)
        if (call->recvcounts[r] != call->recvcounts[0])
            return false;
    return true;
}

/* Reductions whose contributions are folded by tmpi_fold. */
static thrum_status_t call_to_move(const struct tmpi_work *work)
{
    const struct tmpi_given *g = &work->given;
    thrum_comm_t comm = work->taken.comm->thrum;
    thrum_queue_t queue = work->taken.comm->queue;

    switch (work->call.function) {
    case TMPI_REDUCE:
        return thrum_gather(g->send, g->recv, g->count, THRUM_UINT8, work->call.root, comm, queue);
    case TMPI_REDUCE_SCATTER:
        return thrum_alltoallv(g->send, g->sendcounts, g->sdispls, g->recv, g->counts, g->displs,
                               THRUM_UINT8, comm, queue);
    case TMPI_REDUCE_SCATTER_BLOCK:
        return thrum_alltoall(g->send, g->recv, g->count, THRUM_UINT8, comm, queue);
    default:
        return thrum_allgather(g->send, g->recv, g->count, THRUM_UINT8, comm, queue);
    }
}

static thrum_status_t call_thrum(const struct tmpi_work *work)
{
    const struct tmpi_taken *taken = &work->taken;
    const struct tmpi_given *g = &work->given;
    thrum_comm_t comm = taken->comm->thrum;
    thrum_queue_t queue = taken->comm->queue;
    thrum_datatype_t dtype = taken->sendtype ? taken->sendtype->dtype : THRUM_UINT8;
    thrum_redop_t op = taken->redop;
    int root = work->call.root;

    if (TMPI_UNLIKELY(taken->is_moved))
        return call_to_move(work);
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

size_t tmpi_work_numbers(const struct tmpi_work *work)
{
    return has_counts(work->call.function) ? 4 * (size_t)work->taken.comm->size : 0;
}

thrum_status_t tmpi_work_prepare(struct tmpi_work *work, size_t *numbers)
{
    struct tmpi_given *given = &work->given;
    size_t n = tmpi_work_numbers(work) / 4;
    thrum_status_t status;

    work->packed_send = work->packed_recv = NULL;
    *given = (struct tmpi_given){.counts = numbers,
                                 .displs = numbers + n,
                                 .sendcounts = numbers + 2 * n,
                                 .sdispls = numbers + 3 * n};
    status = tmpi_give(work, given);
    if (status)
        drop(work);
    return status;
}

thrum_status_t tmpi_work_issue(struct tmpi_work *work)
{
    thrum_status_t status;

    if (work->taken.is_user_op && !work->taken.is_moved)
        work->taken.comm->user =
            (struct tmpi_user_op){work->call.op, work->call.sendtype, work->taken.sendtype->size};
    status = call_thrum(work);
    if (status)
        drop(work);
    return status;
}

/* Of a blocking call. */
static thrum_status_t prepare_and_issue(struct tmpi_work *work)
{
    size_t few[4 * FEW_RANKS], n = tmpi_work_numbers(work), *numbers = few;
    thrum_status_t status;

    if (TMPI_UNLIKELY(n > sizeof few / sizeof *few)) {
        numbers = malloc(n * sizeof *numbers);
        if (!numbers)
            return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu counts", n);
    }
    status = tmpi_work_prepare(work, numbers);
    if (!status)
        status = tmpi_work_issue(work);
    if (numbers != few)
        free(numbers);
    return status;
}

/* ---- after it ---- */

int tmpi_work_finish(struct tmpi_work *work, bool good)
{
    thrum_status_t status = THRUM_OK;

    if (TMPI_UNLIKELY(work->packed_recv || work->packed_send)) {
        if (good && work->packed_recv)
            status = work->taken.is_moved ? tmpi_fold(work) : tmpi_unpack(work);
        drop(work);
    }
    if (TMPI_UNLIKELY(status))
        return status == THRUM_ERR_INVALID_OP  ? MPI_ERR_OP
               : status == THRUM_ERR_NO_MEMORY ? MPI_ERR_NO_MEM
                                               : MPI_ERR_TYPE;
    return MPI_SUCCESS;
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
    struct tmpi_work work;
    const char *message;
    thrum_status_t status;
    int code;

    work.call = *call;
    work.taken = *taken;
    work.told_type = call->sendtype;
    work.packed_send = work.packed_recv = NULL;

    tmpi_requests_flush(taken->comm);
    status = prepare_and_issue(&work);
    if (TMPI_UNLIKELY(status)) {
        status = tmpi_explain(taken->comm, status, &message);
        tmpi_tell_others(taken->comm, status);
        return tmpi_raise(call->comm, status, message);
    }
    status = wait_for(taken->comm);
    code = tmpi_work_finish(&work, !status);
    if (TMPI_UNLIKELY(status)) {
        status = tmpi_explain(taken->comm, status, &message);
        return tmpi_raise(call->comm, status, message);
    }
    if (TMPI_UNLIKELY(code))
        (void)PMPI_Comm_call_errhandler(call->comm, code);
    return code;
}
