/*
 * Collectives, point-to-point and one-sided calls on a queue that is being captured: the arguments are kept in its
 * graph, and each launch makes the call again. Called where calls are issued (collectives.c, window.c, group.c).
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* Gives `argument`, from malloc, to the queue's graph. */
static thrum_status_t record(struct thrum_queue *queue, const struct thrum_graph_call *call,
                             void *argument)
{
    thrum_status_t status;

    if (!argument)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory to capture a call");
    status = thrum_queue_capture_call(queue, call, argument);
    if (status)
        call->release(argument);
    return status;
}

/* A graph may outlive its communicator, and another may be where that was. Checks of the call tell if none is. */
static thrum_status_t check_same_comm(const struct thrum_comm *comm, uint64_t id)
{
    if (comm_is_valid(comm) && comm->id != id)
        return thrum_fail(THRUM_ERR_INVALID_COMM,
                          "the communicator of a captured call is destroyed: comm=%p is another",
                          (const void *)comm);
    return THRUM_OK;
}

/* ---- collectives ----------------------------------------------------------------------------------------------- */

struct captured_collective {
    uint64_t comm_id;
    struct coll_args *args; /* owned */
};

static void release_collective(void *argument)
{
    struct captured_collective *captured = argument;

    free(captured->args);
    free(captured);
}

/* The communicator may have failed since, or be gone. */
static thrum_status_t check_collective(void *argument, struct thrum_queue *queue)
{
    const struct captured_collective *captured = argument;
    struct coll_args args = *captured->args;
    thrum_status_t status = check_same_comm(args.comm, captured->comm_id);

    args.queue = queue;
    return status ? status : collective_check(&args);
}

static thrum_status_t replay_collective(void *argument, struct thrum_queue *queue)
{
    const struct captured_collective *captured = argument;
    struct coll_args args = *captured->args;
    thrum_status_t status = THRUM_OK;

    args.queue = queue;
    if (!collective_repeat(&args, &status))
        status = collective_issue(&args);
    return status;
}

static const struct thrum_graph_call captured_collective_call = {
    .size = sizeof(struct thrum_graph_call),
    .check = check_collective,
    .replay = replay_collective,
    .release = release_collective};

static thrum_status_t record_collective(const struct coll_args *args)
{
    struct captured_collective *captured = malloc(sizeof *captured);

    if (captured) {
        *captured = (struct captured_collective){args->comm->id, coll_args_copy(args)};
        if (!captured->args) {
            free(captured);
            captured = NULL;
        }
    }
    return record(args->queue, &captured_collective_call, captured);
}

thrum_status_t collective_issue(const struct coll_args *args)
{
    thrum_status_t status;

    if (!queue_is_capturing(args->queue))
        return collective_run(args);
    status = collective_check_buffers(args);
    return status ? status : record_collective(args);
}

/* ---- point to point -------------------------------------------------------------------------------------------- */

struct captured_p2p {
    struct thrum_comm *comm;
    uint64_t comm_id;
    size_t n;
    struct p2p_call calls[];
};

static thrum_status_t check_p2p(void *argument, struct thrum_queue *queue)
{
    const struct captured_p2p *captured = argument;
    const struct coll_args any = {
        .collective = COLL_BARRIER, .dtype = THRUM_UINT8, .comm = captured->comm, .queue = queue};
    thrum_status_t status = check_same_comm(captured->comm, captured->comm_id);

    return status ? status : collective_check(&any); /* communicator and queue */
}

static thrum_status_t replay_p2p(void *argument, struct thrum_queue *queue)
{
    struct captured_p2p *captured = argument;

    for (size_t i = 0; i < captured->n; i++)
        captured->calls[i].queue = queue;
    return p2p_issue(captured->comm, captured->calls, captured->n);
}

static const struct thrum_graph_call captured_p2p_call = {.size = sizeof(struct thrum_graph_call),
                                                          .check = check_p2p,
                                                          .replay = replay_p2p,
                                                          .release = free};

thrum_status_t p2p_check_capture(const struct p2p_call *calls, size_t n, bool *captured_out)
{
    struct thrum_queue *queue = NULL;

    for (size_t i = 0; i < n && !queue; i++)
        if (queue_is_capturing(calls[i].queue))
            queue = calls[i].queue;
    *captured_out = queue;
    for (size_t i = 0; i < n && queue; i++)
        if (calls[i].queue != queue)
            return capture_refuse(queue, "sends and receives of one group on several queues");
    return THRUM_OK;
}

static thrum_status_t record_p2p(struct thrum_comm *comm, struct thrum_queue *queue,
                                 const struct p2p_call *calls, size_t n)
{
    struct captured_p2p *captured;
    thrum_status_t status = p2p_check_buffers(comm, calls, n);

    if (status)
        return status;
    captured = malloc(sizeof *captured + n * sizeof *calls);
    if (captured) {
        captured->comm = comm;
        captured->comm_id = comm->id;
        captured->n = n;
        memcpy(captured->calls, calls, n * sizeof *calls);
    }
    return record(queue, &captured_p2p_call, captured);
}

thrum_status_t p2p_issue(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    bool captured;
    thrum_status_t status = p2p_check_capture(calls, n, &captured);

    if (status)
        return status;
    return captured ? record_p2p(comm, calls[0].queue, calls, n) : p2p_run(comm, calls, n);
}

/* ---- one-sided --------------------------------------------------------------------------------------------------- */

struct captured_one_sided {
    struct thrum_comm *comm;
    uint64_t comm_id;
    uint64_t window; /* number of a put's: another may be where it was */
    struct one_sided_call call;
};

static thrum_status_t check_captured_one_sided(void *argument, struct thrum_queue *queue)
{
    const struct captured_one_sided *captured = argument;
    struct one_sided_call call = captured->call;
    thrum_status_t status = check_same_comm(captured->comm, captured->comm_id);

    call.queue = queue;
    if (!status)
        status = one_sided_check(captured->comm, &call);
    if (!status && call.kind == EXEC_PUT && call.window->number != captured->window)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                            "the window of a captured put was deregistered: window=%p is another",
                            (void *)call.window);
    return status;
}

static thrum_status_t replay_one_sided(void *argument, struct thrum_queue *queue)
{
    const struct captured_one_sided *captured = argument;
    struct one_sided_call call = captured->call;

    call.queue = queue;
    return one_sided_issue(captured->comm, &call);
}

static const struct thrum_graph_call captured_one_sided_call = {.size =
                                                                    sizeof(struct thrum_graph_call),
                                                                .check = check_captured_one_sided,
                                                                .replay = replay_one_sided,
                                                                .release = free};

thrum_status_t one_sided_issue(struct thrum_comm *comm, const struct one_sided_call *call)
{
    struct captured_one_sided *captured;

    if (!queue_is_capturing(call->queue))
        return one_sided_run(comm, call);
    captured = malloc(sizeof *captured);
    if (captured)
        *captured = (struct captured_one_sided){
            comm, comm->id, call->kind == EXEC_PUT ? call->window->number : 0, *call};
    return record(call->queue, &captured_one_sided_call, captured);
}
