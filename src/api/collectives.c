/* The public collectives: validate, then run or keep for the end of the group. */
#include "api/api.h"

#include "base/base.h"

const char *thrum_version(void)
{
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
    return TEXT(THRUM_VERSION_MAJOR) "." TEXT(THRUM_VERSION_MINOR) "." TEXT(THRUM_VERSION_PATCH);
}

thrum_status_t collective_check_comm(struct thrum_comm *comm)
{
    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    if (comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "%s is finalized", comm->name);
    return comm_failure(comm);
}

thrum_status_t collective_check_queue(const struct thrum_comm *comm,
                                      const struct thrum_queue *queue)
{
    if (!queue_is_valid(queue))
        return thrum_fail(THRUM_ERR_INVALID_QUEUE, "queue=%p is not a live queue",
                          (const void *)queue);
    if (queue->device != comm->device)
        return thrum_fail(THRUM_ERR_INVALID_QUEUE, "queue is of %s, %s is on %s",
                          queue->device->properties.name, comm->name,
                          comm->device->properties.name);
    return THRUM_OK;
}

thrum_status_t collective_check_count(const struct thrum_comm *comm, const char *argument,
                                      uint64_t count, thrum_datatype_t dtype)
{
    size_t bytes;

    if (!thrum_datatype_size(dtype))
        return thrum_fail(THRUM_ERR_INVALID_TYPE, "dtype=%d is no data type", (int)dtype);
    if (mul_overflows(count, thrum_datatype_size(dtype), &bytes) ||
        mul_overflows(bytes, (size_t)comm->nranks, &bytes) || bytes > INT64_MAX)
        return thrum_fail(THRUM_ERR_INVALID_COUNT, "%s=%llu of %s on %d ranks overflows", argument,
                          (unsigned long long)count, thrum_datatype_name(dtype), comm->nranks);
    return THRUM_OK;
}

static thrum_status_t check_op(const struct coll_args *args)
{
    const struct thrum_device_properties *properties = &args->comm->device->properties;

    if (!plan_reduces(args->collective))
        return THRUM_OK;
    if ((unsigned)args->redop >= THRUM_REDOP_COUNT)
        return redop_check(args);
    if (!plan_op_takes(args->redop, args->dtype))
        return thrum_fail(THRUM_ERR_INVALID_OP, "op=%s is not for %s",
                          thrum_redop_name(args->redop), thrum_datatype_name(args->dtype));
    if (!(properties->reduce_types >> args->dtype & 1) ||
        !(properties->reduce_ops >> args->redop & 1))
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s cannot reduce %s by %s", properties->name,
                          thrum_datatype_name(args->dtype), thrum_redop_name(args->redop));
    return THRUM_OK;
}

thrum_status_t collective_check(const struct coll_args *args)
{
    thrum_status_t status = collective_check_comm(args->comm);

    if (!status)
        status = collective_check_queue(args->comm, args->queue);
    if (!status)
        status = collective_check_count(args->comm, "count", args->count, args->dtype);
    if (!status)
        status = check_op(args);
    if (!status && (args->root < 0 || args->root >= args->comm->nranks))
        status = thrum_fail(THRUM_ERR_INVALID_RANK, "root=%d is not between 0 and %d", args->root,
                            args->comm->nranks - 1);
    return status;
}

thrum_status_t collective_call_checked(const struct coll_args *args, thrum_status_t check)
{
    if (group_is_open()) {
        if (!check)
            check = collective_check_buffers(args);
        return group_add_collective(args, check);
    }
    return check ? check : collective_issue(args);
}

/* By pointer: a copy of arguments that have just been written one by one would stall the core. */
static thrum_status_t collective_call(const struct coll_args *args)
{
    thrum_status_t status;

    if (!group_is_open() && collective_repeat(args, &status))
        return status;
    return collective_call_checked(args, collective_check(args));
}

thrum_status_t thrum_allreduce(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                               thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_ALLREDUCE, send, recv, count, dtype, op, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_broadcast(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                               int root, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_BROADCAST, send, recv, count, dtype, THRUM_SUM, root, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_allgather(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                               thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_ALLGATHER, send, recv, count, dtype, THRUM_SUM, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_reduce_scatter(const void *send, void *recv, size_t count,
                                    thrum_datatype_t dtype, thrum_redop_t op, thrum_comm_t comm,
                                    thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_REDUCE_SCATTER, send, recv, count, dtype, op, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_reduce(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                            thrum_redop_t op, int root, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_REDUCE, send, recv, count, dtype, op, root, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_alltoall(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                              thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_ALLTOALL, send, recv, count, dtype, THRUM_SUM, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_gather(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                            int root, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_GATHER, send, recv, count, dtype, THRUM_SUM, root, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_scatter(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                             int root, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_SCATTER, send, recv, count, dtype, THRUM_SUM, root, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_scan(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                          thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_SCAN, send, recv, count, dtype, op, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_exscan(const void *send, void *recv, size_t count, thrum_datatype_t dtype,
                            thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_EXSCAN, send, recv, count, dtype, op, 0, comm, queue);

    return collective_call(&args);
}

thrum_status_t thrum_barrier(thrum_comm_t comm, thrum_queue_t queue)
{
    const struct coll_args args =
        coll_args_of(COLL_BARRIER, NULL, NULL, 0, THRUM_UINT8, THRUM_SUM, 0, comm, queue);

    return collective_call(&args);
}

static thrum_status_t p2p_call(thrum_comm_t comm, const struct p2p_call *call)
{
    thrum_status_t status = collective_check_comm(comm);

    if (!status && group_expects(comm, call))
        return group_add_messages(comm, call, 1, THRUM_OK);
    if (!status)
        status = collective_check_queue(comm, call->queue);
    if (!status)
        status = collective_check_count(comm, "count", call->count, call->dtype);
    if (!status && (call->peer < 0 || call->peer >= comm->nranks))
        status = thrum_fail(THRUM_ERR_INVALID_RANK, "peer=%d is not between 0 and %d", call->peer,
                            comm->nranks - 1);
    if (group_is_open()) {
        if (!status)
            status = p2p_check_buffers(comm, call, 1);
        return group_add_messages(comm, call, 1, status);
    }
    if (!status && call->peer == comm->rank)
        status = thrum_fail(THRUM_ERR_INVALID_USAGE,
                            "peer=%d is this rank: a message to oneself needs its send and receive "
                            "in one group",
                            call->peer);
    return status ? status : p2p_issue(comm, call, 1);
}

thrum_status_t thrum_send(const void *send, size_t count, thrum_datatype_t dtype, int peer,
                          thrum_comm_t comm, thrum_queue_t queue)
{
    struct p2p_call call = {.is_send = true,
                            .buffer = (void *)(uintptr_t)send,
                            .count = count,
                            .dtype = dtype,
                            .peer = peer,
                            .queue = queue};
    return p2p_call(comm, &call);
}

thrum_status_t thrum_recv(void *recv, size_t count, thrum_datatype_t dtype, int peer,
                          thrum_comm_t comm, thrum_queue_t queue)
{
    struct p2p_call call = {
        .buffer = recv, .count = count, .dtype = dtype, .peer = peer, .queue = queue};
    return p2p_call(comm, &call);
}
