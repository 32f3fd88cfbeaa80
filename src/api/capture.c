/*
 * Collectives, point-to-point and one-sided calls on a queue that is being captured: the arguments are kept in its
 * graph, and each launch makes the call again. Called where calls are issued (collectives.c, window.c, group.c).
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* Gives `argument`, from malloc, to the queue's graph. */
static thrum_status_t record(struct thrum_queue *queue,
                             thrum_status_t (*replay)(void *argument, struct thrum_queue *queue),
                             void *argument)
{
    thrum_status_t status;

    if (!argument)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory to capture a call");
    status = queue_capture_call(queue, replay, free, argument);
    if (status)
        free(argument);
    return status;
}

/* ---- collectives ----------------------------------------------------------------------------------------------- */

static thrum_status_t replay_collective(void *argument, struct thrum_queue *queue)
{
    struct coll_args args = *(const struct coll_args *)argument;
    thrum_status_t status;

    args.queue = queue;
    if (collective_repeat(&args, &status))
        return status;
    status = collective_check(&args); /* the communicator may have failed since */
    return status ? status : collective_issue(&args);
}

thrum_status_t collective_issue(const struct coll_args *args)
{
    thrum_status_t status;

    if (!queue_is_capturing(args->queue))
        return collective_run(args);
    status = collective_check_buffers(args);
    return status ? status : record(args->queue, replay_collective, coll_args_copy(args));
}

/* ---- point to point -------------------------------------------------------------------------------------------- */

struct captured_p2p {
    struct thrum_comm *comm;
    size_t n;
    struct p2p_call calls[];
};

static thrum_status_t replay_p2p(void *argument, struct thrum_queue *queue)
{
    struct captured_p2p *captured = argument;
    const struct coll_args any = {
        .collective = COLL_BARRIER, .dtype = THRUM_UINT8, .comm = captured->comm, .queue = queue};
    thrum_status_t status = collective_check(&any); /* communicator and queue */

    for (size_t i = 0; i < captured->n; i++)
        captured->calls[i].queue = queue;
    return status ? status : p2p_issue(captured->comm, captured->calls, captured->n);
}

/* A graph is of one queue: `queue`, which is being captured. */
static thrum_status_t check_same_queue(struct thrum_queue *queue, const struct p2p_call *calls,
                                       size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (calls[i].queue != queue)
            return capture_refuse(queue, "sends and receives of one group on several queues");
    return THRUM_OK;
}

static thrum_status_t record_p2p(struct thrum_comm *comm, struct thrum_queue *queue,
                                 const struct p2p_call *calls, size_t n)
{
    struct captured_p2p *captured;
    thrum_status_t status = check_same_queue(queue, calls, n);

    if (!status)
        status = p2p_check_buffers(comm, calls, n);
    if (status)
        return status;
    captured = malloc(sizeof *captured + n * sizeof *calls);
    if (captured) {
        captured->comm = comm;
        captured->n = n;
        memcpy(captured->calls, calls, n * sizeof *calls);
    }
    return record(queue, replay_p2p, captured);
}

thrum_status_t p2p_issue(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (queue_is_capturing(calls[i].queue))
            return record_p2p(comm, calls[i].queue, calls, n);
    return p2p_run(comm, calls, n);
}

/* ---- one-sided --------------------------------------------------------------------------------------------------- */

struct captured_one_sided {
    struct thrum_comm *comm;
    struct one_sided_call call;
};

static thrum_status_t replay_one_sided(void *argument, struct thrum_queue *queue)
{
    const struct captured_one_sided *captured = argument;
    struct one_sided_call call = captured->call;
    thrum_status_t status;

    call.queue = queue;
    status = one_sided_check(captured->comm, &call);
    return status ? status : one_sided_issue(captured->comm, &call);
}

thrum_status_t one_sided_issue(struct thrum_comm *comm, const struct one_sided_call *call)
{
    struct captured_one_sided *captured;

    if (!queue_is_capturing(call->queue))
        return one_sided_run(comm, call);
    captured = malloc(sizeof *captured);
    if (captured)
        *captured = (struct captured_one_sided){comm, *call};
    return record(call->queue, replay_one_sided, captured);
}
