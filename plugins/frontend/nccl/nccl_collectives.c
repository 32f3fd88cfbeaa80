/* Operations: each call is checked, translated, and handed to Thrum. */
#include "frontend.h"

#include <thrum/plugin.h>

static const thrum_datatype_t datatypes[ncclNumTypes] = {[ncclInt8] = THRUM_INT8,
                                                         [ncclUint8] = THRUM_UINT8,
                                                         [ncclInt32] = THRUM_INT32,
                                                         [ncclUint32] = THRUM_UINT32,
                                                         [ncclInt64] = THRUM_INT64,
                                                         [ncclUint64] = THRUM_UINT64,
                                                         [ncclFloat16] = THRUM_FLOAT16,
                                                         [ncclFloat32] = THRUM_FLOAT32,
                                                         [ncclFloat64] = THRUM_FLOAT64,
                                                         [ncclBfloat16] = THRUM_BFLOAT16,
                                                         [ncclFloat8e4m3] = THRUM_FLOAT8_E4M3,
                                                         [ncclFloat8e5m2] = THRUM_FLOAT8_E5M2};

/* An operation on its way: what every call has, translated. */
struct call {
    const char *function;
    struct ncclComm *comm;
    thrum_datatype_t dtype;
    thrum_redop_t op;
    thrum_queue_t queue;
};

static ncclResult_t check_type(const char *function, ncclDataType_t datatype)
{
    if ((unsigned)datatype < ncclNumTypes)
        return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "%s: datatype=%d is not between 0 and %d", function,
                     (int)datatype, ncclNumTypes - 1);
}

/* The built-in ones have Thrum's numbers; those of ncclRedOpCreatePreMulSum are Thrum's. */
static ncclResult_t check_op(const char *function, ncclRedOp_t op)
{
    if ((unsigned)op < ncclNumOps || (int)op >= THRUM_REDOP_COUNT)
        return ncclSuccess;
    return nccl_fail(ncclInvalidArgument,
                     "%s: op=%d is neither between 0 and %d nor one of ncclRedOpCreatePreMulSum",
                     function, (int)op, ncclNumOps - 1);
}

/* collective: its name in Thrum, NULL: point to point. */
static ncclResult_t begin(struct call *call, const char *collective, size_t count,
                          ncclDataType_t datatype, ncclRedOp_t op, cudaStream_t stream)
{
    ncclResult_t result = nccl_comm_check_usable(call->function, call->comm);

    if (!result)
        result = check_type(call->function, datatype);
    if (!result)
        result = check_op(call->function, op);
    if (result)
        return result;
    call->dtype = datatypes[datatype];
    call->op = (thrum_redop_t)op;
    result = nccl_comm_queue(call->function, call->comm, stream, &call->queue);
    return result ? result : nccl_group_enter(call->comm, collective, count, call->dtype);
}

/* After Thrum's call. */
static ncclResult_t end(const struct call *call, thrum_status_t status)
{
    ncclResult_t result = status ? nccl_of_status(call->function, call->comm, status) : ncclSuccess;

    nccl_group_leave(call->comm);
    return result ? nccl_group_error(result) : ncclSuccess;
}

/* Declares `call`, and leaves the function if the call is refused. */
#define BEGIN(collective, count, datatype, op) \
    struct call call = {.function = __func__, .comm = comm}; \
    ncclResult_t result = begin(&call, collective, count, datatype, op, stream); \
\
    if (result) \
    return nccl_group_error(result)

ncclResult_t ncclAllReduce(const void *sendbuff, void *recvbuff, size_t count,
                           ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream)
{
    BEGIN("allreduce", count, datatype, op);
    return end(&call, thrum_allreduce(sendbuff, recvbuff, count, call.dtype, call.op, comm->comm,
                                      call.queue));
}
NCCL_TWIN(ncclAllReduce);

ncclResult_t ncclReduce(const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("reduce", count, datatype, op);
    return end(&call, thrum_reduce(sendbuff, recvbuff, count, call.dtype, call.op, root, comm->comm,
                                   call.queue));
}
NCCL_TWIN(ncclReduce);

ncclResult_t ncclBroadcast(const void *sendbuff, void *recvbuff, size_t count,
                           ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("broadcast", count, datatype, ncclSum);
    return end(&call, thrum_broadcast(sendbuff, recvbuff, count, call.dtype, root, comm->comm,
                                      call.queue));
}
NCCL_TWIN(ncclBroadcast);

ncclResult_t ncclBcast(void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
                       cudaStream_t stream)
{
    BEGIN("broadcast", count, datatype, ncclSum);
    return end(&call, thrum_broadcast(buff, buff, count, call.dtype, root, comm->comm, call.queue));
}
NCCL_TWIN(ncclBcast);

ncclResult_t ncclAllGather(const void *sendbuff, void *recvbuff, size_t sendcount,
                           ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("allgather", sendcount, datatype, ncclSum);
    return end(&call,
               thrum_allgather(sendbuff, recvbuff, sendcount, call.dtype, comm->comm, call.queue));
}
NCCL_TWIN(ncclAllGather);

ncclResult_t ncclReduceScatter(const void *sendbuff, void *recvbuff, size_t recvcount,
                               ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream)
{
    BEGIN("reduce_scatter", recvcount, datatype, op);
    return end(&call, thrum_reduce_scatter(sendbuff, recvbuff, recvcount, call.dtype, call.op,
                                           comm->comm, call.queue));
}
NCCL_TWIN(ncclReduceScatter);

ncclResult_t ncclAlltoAll(const void *sendbuff, void *recvbuff, size_t count,
                          ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("alltoall", count, datatype, ncclSum);
    return end(&call,
               thrum_alltoall(sendbuff, recvbuff, count, call.dtype, comm->comm, call.queue));
}
NCCL_TWIN(ncclAlltoAll);

ncclResult_t ncclGather(const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
                        int root, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("gather", count, datatype, ncclSum);
    return end(&call,
               thrum_gather(sendbuff, recvbuff, count, call.dtype, root, comm->comm, call.queue));
}
NCCL_TWIN(ncclGather);

ncclResult_t ncclScatter(const void *sendbuff, void *recvbuff, size_t count,
                         ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream)
{
    BEGIN("scatter", count, datatype, ncclSum);
    return end(&call,
               thrum_scatter(sendbuff, recvbuff, count, call.dtype, root, comm->comm, call.queue));
}
NCCL_TWIN(ncclScatter);

ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    BEGIN(NULL, count, datatype, ncclSum);
    return end(&call, thrum_send(sendbuff, count, call.dtype, peer, comm->comm, call.queue));
}
NCCL_TWIN(ncclSend);

ncclResult_t ncclRecv(void *recvbuff, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    BEGIN(NULL, count, datatype, ncclSum);
    return end(&call, thrum_recv(recvbuff, count, call.dtype, peer, comm->comm, call.queue));
}
NCCL_TWIN(ncclRecv);

/* ---- reductions of the caller ---- */

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t *op, void *scalar, ncclDataType_t datatype,
                                      ncclScalarResidence_t residence, ncclComm_t comm)
{
    static const char function[] = "ncclRedOpCreatePreMulSum";
    thrum_redop_t made;
    ncclResult_t result = nccl_comm_check_usable(function, comm);

    if (!result)
        result = check_type(function, datatype);
    if (!result && (!op || !scalar))
        result =
            nccl_fail(ncclInvalidArgument, "%s: op=%p, scalar=%p", function, (void *)op, scalar);
    if (!result && residence != ncclScalarDevice && residence != ncclScalarHostImmediate)
        result = nccl_fail(ncclInvalidArgument, "%s: residence=%d", function, (int)residence);
    if (!result)
        result = nccl_of_status(
            function, comm,
            thrum_redop_create_premul_sum(
                comm->comm, scalar, datatypes[datatype],
                residence == ncclScalarDevice ? THRUM_SCALAR_DEVICE : THRUM_SCALAR_HOST, &made));
    if (!result)
        *op = (ncclRedOp_t)made;
    return result;
}
NCCL_TWIN(ncclRedOpCreatePreMulSum);

ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm)
{
    static const char function[] = "ncclRedOpDestroy";
    ncclResult_t result = nccl_comm_check_ready(function, comm);

    if (!result && (unsigned)op < ncclNumOps)
        result = nccl_fail(ncclInvalidArgument, "%s: op=%d is built in", function, (int)op);
    if (!result)
        result = nccl_of_status(function, comm, thrum_redop_destroy(comm->comm, (thrum_redop_t)op));
    return result;
}
NCCL_TWIN(ncclRedOpDestroy);
