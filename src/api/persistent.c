/*
 * Persistent calls: checked, planned and placed once, then begun again and again. Each has a program of its own; those
 * of alltoallv, gatherv and scatterv keep their messages. Called by applications; group.c runs those that were started
 * in a group.
 */
#include "api/api.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PERSISTENT_MAGIC 0x54505253u

/* user: the thread that calls into the communicator. */
struct thrum_persistent {
    uint32_t magic;
    int references; /* the handle, and groups that are to start it */
    struct comm_link link;
    struct thrum_queue *queue;
    struct coll_args *args; /* NULL: messages */
    struct exec_program *program;
    struct prepared prepared; /* as it was placed last */
    bool placed; /* and it need not be placed anew */
    struct p2p_call *messages;
    size_t nmessages;
};

/* ---- life ---- */

static size_t coll_args_bytes(const struct coll_args *args)
{
    return sizeof *args + (args->counts ? 2 * (size_t)args->comm->nranks * sizeof(uint64_t) : 0);
}

struct coll_args *coll_args_copy(const struct coll_args *args)
{
    size_t n = args->counts ? (size_t)args->comm->nranks : 0;
    struct coll_args *copy = malloc(coll_args_bytes(args));
    uint64_t *arrays = (uint64_t *)(copy + 1);

    if (!copy)
        return NULL;
    *copy = *args;
    if (n) {
        copy->counts = memcpy(arrays, args->counts, n * sizeof *arrays);
        copy->displs = memcpy(arrays + n, args->displs, n * sizeof *arrays);
    }
    return copy;
}

static void attach(struct thrum_persistent *persistent, struct thrum_comm *comm)
{
    struct comm_link *link = &persistent->link;

    *link = (struct comm_link){.comm = comm, .next = comm->links, .back = &comm->links};
    if (link->next)
        link->next->back = &link->next;
    comm->links = link;
}

static void detach(struct thrum_persistent *persistent)
{
    struct comm_link *link = &persistent->link;

    if (!link->comm)
        return;
    *link->back = link->next;
    if (link->next)
        link->next->back = link->back;
    atomic_fetch_sub(&link->comm->kept_bytes, link->host_bytes);
    link->comm = NULL;
}

static void count(struct comm_link *link, uint64_t bytes)
{
    link->host_bytes = bytes;
    atomic_fetch_add(&link->comm->kept_bytes, bytes);
}

static struct thrum_persistent *make(struct thrum_comm *comm, struct thrum_queue *queue)
{
    struct thrum_persistent *persistent = calloc(1, sizeof *persistent);

    if (!persistent)
        return NULL;
    persistent->magic = PERSISTENT_MAGIC;
    persistent->references = 1;
    persistent->queue = queue;
    attach(persistent, comm);
    return persistent;
}

void persistent_hold(struct thrum_persistent *persistent)
{
    persistent->references++;
}

void persistent_release(struct thrum_persistent *persistent)
{
    if (--persistent->references)
        return;
    detach(persistent);
    exec_program_free(persistent->program);
    if (persistent->placed)
        collective_unplace(&persistent->prepared);
    free(persistent->args);
    free(persistent->messages);
    free(persistent);
}

void thrum_persistent_free(thrum_persistent_t persistent)
{
    if (!persistent)
        return;
    persistent->magic = 0;
    persistent_release(persistent);
}

thrum_status_t persistent_no_output(void)
{
    return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "persistent_out=NULL");
}

/* Places the buffers; keeps them placed where nothing of the communicator's is needed that may move. */
static thrum_status_t place(struct thrum_persistent *persistent)
{
    thrum_status_t status = collective_place(persistent->args, &persistent->prepared);

    persistent->placed = !status && !persistent->prepared.on_stage;
    return status;
}

static void unplace(struct thrum_persistent *persistent)
{
    if (!persistent->placed)
        collective_unplace(&persistent->prepared);
}

static thrum_status_t plan(struct thrum_persistent *persistent, const struct coll_args *args)
{
    thrum_status_t status;

    persistent->args = coll_args_copy(args);
    if (!persistent->args)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a persistent call");
    status = place(persistent);
    if (status)
        return status;
    status = collective_build(persistent->args, &persistent->prepared, &persistent->program);
    unplace(persistent);
    return status;
}

thrum_status_t persistent_of_collective(const struct coll_args *args, thrum_status_t check,
                                        struct thrum_persistent **persistent_out)
{
    struct thrum_persistent *persistent;
    thrum_status_t status;

    if (check)
        return check;
    persistent = make(args->comm, args->queue);
    if (!persistent)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a persistent call");
    status = plan(persistent, args);
    if (status) {
        persistent_release(persistent);
        return status;
    }
    count(&persistent->link,
          sizeof *persistent + persistent->program->host_bytes + coll_args_bytes(args));
    *persistent_out = persistent;
    return THRUM_OK;
}

thrum_status_t persistent_of_messages(struct thrum_comm *comm, struct thrum_queue *queue,
                                      const struct p2p_call *calls, size_t n, thrum_status_t check,
                                      struct thrum_persistent **persistent_out)
{
    struct thrum_persistent *persistent;
    struct p2p_call *messages;

    if (check)
        return check;
    messages = calloc(n + 1, sizeof *messages);
    persistent = messages ? make(comm, queue) : NULL;
    if (!persistent) {
        free(messages);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a persistent call");
    }
    memcpy(messages, calls, n * sizeof *messages);
    persistent->messages = messages;
    persistent->nmessages = n;
    count(&persistent->link, sizeof *persistent + n * sizeof *messages);
    *persistent_out = persistent;
    return THRUM_OK;
}

/* ---- starting ---- */

struct thrum_comm *persistent_comm(const struct thrum_persistent *persistent)
{
    return persistent->link.comm;
}

struct thrum_queue *persistent_queue(const struct thrum_persistent *persistent)
{
    return persistent->queue;
}

thrum_redop_t persistent_redop(const struct thrum_persistent *persistent)
{
    return persistent->args ? persistent->args->redop : THRUM_SUM;
}

thrum_status_t persistent_run(struct thrum_persistent *persistent)
{
    thrum_status_t status = THRUM_OK;

    if (queue_is_capturing(persistent->queue))
        return collective_issue(persistent->args); /* the graph has the call */
    if (persistent->args->redop >= THRUM_REDOP_COUNT)
        status = redop_check(persistent->args); /* it may be gone */
    if (!status && !persistent->placed)
        status = place(persistent);
    if (status)
        return status;
    status = collective_begin(persistent->args, persistent->program, &persistent->prepared);
    unplace(persistent);
    return status;
}

/* Buffers are as they were at init; what else may have gone is looked at again. */
static thrum_status_t check_start(const struct thrum_persistent *persistent)
{
    thrum_status_t status;

    if (!persistent || persistent->magic != PERSISTENT_MAGIC)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "persistent=%p is %s",
                          (const void *)persistent, persistent ? "no persistent call" : "NULL");
    if (!persistent->link.comm)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "the communicator of persistent=%p is destroyed",
                          (const void *)persistent);
    status = collective_check_comm(persistent->link.comm);
    if (!status)
        status = collective_check_queue(persistent->link.comm, persistent->queue);
    if (!status && persistent->args && persistent->args->redop >= THRUM_REDOP_COUNT)
        status = redop_check(persistent->args);
    return status;
}

static thrum_status_t start_messages(struct thrum_persistent *persistent)
{
    if (!persistent->nmessages)
        return THRUM_OK;
    return p2p_issue(persistent->link.comm, persistent->messages, persistent->nmessages);
}

thrum_status_t thrum_start(thrum_persistent_t persistent)
{
    thrum_status_t status = check_start(persistent);

    if (group_is_open() && (status || persistent->args))
        return group_add_persistent(persistent, status);
    if (group_is_open())
        return group_add_messages(persistent->link.comm, persistent->messages,
                                  persistent->nmessages, status);
    if (status)
        return status;
    return persistent->args ? persistent_run(persistent) : start_messages(persistent);
}

thrum_status_t thrum_start_all(const thrum_persistent_t *persistents, size_t n)
{
    thrum_status_t status, end;

    if (!persistents && n)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "persistents=NULL, n=%zu", n);
    status = thrum_group_start();
    for (size_t i = 0; i < n && !status; i++)
        status = thrum_start(persistents[i]);
    end = thrum_group_end(); /* has the first refusal too, unless it is nested */
    return status ? status : end;
}

/* ---- the calls; those of the v-variants are in vector.c ---- */

static thrum_status_t init(struct coll_args args, struct thrum_persistent **persistent_out)
{
    if (!persistent_out)
        return persistent_no_output();
    return persistent_of_collective(&args, collective_check(&args), persistent_out);
}

thrum_status_t thrum_allreduce_init(const void *send, void *recv, size_t count,
                                    thrum_datatype_t dtype, thrum_redop_t op, thrum_comm_t comm,
                                    thrum_queue_t queue, thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_ALLREDUCE, send, recv, count, dtype, op, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_broadcast_init(const void *send, void *recv, size_t count,
                                    thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                    thrum_queue_t queue, thrum_persistent_t *persistent_out)
{
    return init(
        coll_args_of(COLL_BROADCAST, send, recv, count, dtype, THRUM_SUM, root, comm, queue),
        persistent_out);
}

thrum_status_t thrum_allgather_init(const void *send, void *recv, size_t count,
                                    thrum_datatype_t dtype, thrum_comm_t comm, thrum_queue_t queue,
                                    thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_ALLGATHER, send, recv, count, dtype, THRUM_SUM, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_reduce_scatter_init(const void *send, void *recv, size_t count,
                                         thrum_datatype_t dtype, thrum_redop_t op,
                                         thrum_comm_t comm, thrum_queue_t queue,
                                         thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_REDUCE_SCATTER, send, recv, count, dtype, op, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_reduce_init(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                                 thrum_redop_t op, int root, thrum_comm_t comm, thrum_queue_t queue,
                                 thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_REDUCE, send, recv, count, dtype, op, root, comm, queue),
                persistent_out);
}

thrum_status_t thrum_alltoall_init(const void *send, void *recv, size_t count,
                                   thrum_datatype_t dtype, thrum_comm_t comm, thrum_queue_t queue,
                                   thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_ALLTOALL, send, recv, count, dtype, THRUM_SUM, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_gather_init(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                                 int root, thrum_comm_t comm, thrum_queue_t queue,
                                 thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_GATHER, send, recv, count, dtype, THRUM_SUM, root, comm, queue),
                persistent_out);
}

thrum_status_t thrum_scatter_init(const void *send, void *recv, size_t count,
                                  thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                  thrum_queue_t queue, thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_SCATTER, send, recv, count, dtype, THRUM_SUM, root, comm, queue),
                persistent_out);
}

thrum_status_t thrum_scan_init(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                               thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue,
                               thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_SCAN, send, recv, count, dtype, op, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_exscan_init(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                                 thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue,
                                 thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_EXSCAN, send, recv, count, dtype, op, 0, comm, queue),
                persistent_out);
}

thrum_status_t thrum_barrier_init(thrum_comm_t comm, thrum_queue_t queue,
                                  thrum_persistent_t *persistent_out)
{
    return init(coll_args_of(COLL_BARRIER, NULL, NULL, 0, THRUM_UINT8, THRUM_SUM, 0, comm, queue),
                persistent_out);
}
