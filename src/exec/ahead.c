/*
 * Small collectives ahead of their turn: the lines of an operation leave while others before it still wait on its queue.
 * Where ranks share cores a turn then serves many; where they put to each other many are under way at a time, and what goes
 * to one host goes together (comm->runs_ahead). A row of such operations is followed in struct comm_row. Called by run.c.
 */
#include "exec/run.h"

#include "base/base.h"

#define LOOK_AGAIN_NS 10000000 /* whether the communicator has failed */
#define CATCH_UP_TIMEOUT_NS 2000000 /* some turns of others */

/* All that the communicator has been given, on whatever queue: the next operation comes behind it. */
static bool has_ended(struct thrum_comm *comm)
{
    return comm_done(comm) >= atomic_load_explicit(&comm->issued, memory_order_relaxed);
}

/*
 * A program that has sent all before it waits needs no look at what has come, which would also send what the port holds
 * back: the next call's lines go with it. Others do, to get on.
 */
static bool is_idle(struct thrum_comm *comm, const struct exec_program *program,
                    const struct thrum_queue *queue, uint64_t last)
{
    const struct comm_row *row = &comm->row;

    if (atomic_load_explicit(&queue->synced_ticket, memory_order_relaxed) == last)
        return true;
    if (!program->sends_later && row->queue == queue && row->ticket == last)
        return has_ended(comm);
    return queue->ops->poll(queue->impl, last) != THRUM_IN_PROGRESS;
}

/* Else it is a barrier, or nothing. */
static bool moves(const struct exec_program *program)
{
    return program->send_bytes || program->recv_bytes;
}

void exec_follow_row(struct thrum_comm *comm, const struct exec_program *program,
                     const struct exec_staging *staging, const struct thrum_queue *queue)
{
    struct comm_row *row = &comm->row;
    uint64_t last = atomic_load_explicit(&queue->last_ticket, memory_order_relaxed);
    bool idle = is_idle(comm, program, queue, last);

    if (row->credit_number && comm_done(comm) >= row->credit_number)
        row->credit_number = 0;
    if (row->barrier_number && comm_done(comm) >= row->barrier_number)
        row->barrier_number = 0;
    if (staging || !program->is_plain || queue->is_imported)
        row->queue = NULL; /* nothing is in a row with it, or what lies between is not known */
    else if (idle || row->queue != queue || row->ticket != last)
        *row = (struct comm_row){.queue = (struct thrum_queue *)(uintptr_t)queue,
                                 .is_all = idle && has_ended(comm),
                                 .credit_number = row->credit_number};
}

/* Others may be writing there still, who then take part in a collective of the row. */
static bool lies_in_window(const struct thrum_comm *comm, uint64_t start, uint64_t bytes)
{
    for (const struct thrum_window *w = comm->windows; w; w = w->next) {
        const struct comm_window_part *part = &w->parts[comm->rank];
        uint64_t first = comm->device->own_base + part->offset;

        if (part->bytes && start < first + part->bytes && first < start + bytes)
            return true;
    }
    return false;
}

bool exec_may_run_ahead(const struct thrum_comm *comm, const struct exec_program *program,
                        const struct exec_buffers *buffers, const struct thrum_queue *queue)
{
    const struct comm_row *row = &comm->row;

    if (!program->send_bytes && row->moves)
        return false; /* as a barrier, it says that what came before is over */
    if (row->barrier_number && moves(program))
        return false; /* behind a barrier: what others have done before theirs is seen, also in SEND */
    if (!row->ticket)
        return false; /* it is its turn */
    return row->queue == queue && row->is_all && !row->credit_number &&
           (buffers->send >= row->recv_end ||
            buffers->send + program->send_bytes <= row->recv_first) &&
           !lies_in_window(comm, buffers->send, program->send_bytes);
}

bool exec_let_catch_up(struct thrum_comm *comm, const struct exec_program *program,
                       struct thrum_queue *queue)
{
    const struct comm_row *row = &comm->row;
    struct thrum_queue *lane;
    uint64_t ticket;

    if (row->queue != queue || !row->is_all || row->credit_number ||
        (row->ticket && queue->ops->wait(queue->impl, row->ticket, CATCH_UP_TIMEOUT_NS)) ||
        exec_lane_queue(comm, AHEAD_LANE, &lane) ||
        lane->ops->submit_checked(lane->impl, program->commands, program->ncredits, &ticket))
        return false;
    if (!lane->ops->wait(lane->impl, ticket, CATCH_UP_TIMEOUT_NS))
        return true;
    lane->ops->cancel(lane->impl, ticket, ticket, THRUM_ERR_ABORTED);
    return false;
}

void exec_extend_row(struct comm_row *row, const struct exec_program *program,
                     const struct exec_buffers *buffers, const struct comm_operation *operation,
                     bool awaits_credit)
{
    if (awaits_credit)
        row->credit_number = operation->number;
    if (row->queue != operation->queue)
        return;
    row->ticket = operation->ticket;
    row->moves |= moves(program);
    if (!moves(program))
        row->barrier_number = operation->number;
    if (!program->recv_bytes)
        return;
    if (!row->recv_end || buffers->recv < row->recv_first)
        row->recv_first = buffers->recv;
    row->recv_end = max_u64(row->recv_end, buffers->recv + program->recv_bytes);
}

thrum_status_t exec_submit_ahead(struct thrum_comm *comm, struct exec_program *program,
                                 struct thrum_queue *queue, uint32_t first, uint32_t n,
                                 struct comm_operation *operation)
{
    const struct thrum_command *commands = &program->commands[first];
    uint32_t nahead = program->nahead;
    struct thrum_queue *lane;
    uint64_t ticket;
    thrum_status_t status = exec_lane_queue(comm, AHEAD_LANE, &lane);

    if (!status)
        status = lane->ops->submit_checked(lane->impl, &commands[1], nahead, &ticket);
    if (status)
        return status;
    status = lane->ops->poll(lane->impl, ticket);
    while (
        status == THRUM_IN_PROGRESS || /* a port has no room; what is before it has a deadline */
        (status == THRUM_ERR_TIMEOUT && !atomic_load_explicit(&comm->status, memory_order_acquire)))
        status = lane->ops->wait(lane->impl, ticket, LOOK_AGAIN_NS);
    if (status) {
        operation->has_more = true; /* as a lane that has failed */
        operation->lane_queue[1] = lane;
        operation->lane_ticket[1] = ticket;
    }
    status = queue->ops->submit_checked(queue->impl, &commands[1 + nahead], n - 1 - nahead,
                                        &operation->ticket);
    if (status) /* peers have the lines of a call that is none */
        comm_fail(comm, status, comm->rank, true, thrum_last_error());
    return status;
}
