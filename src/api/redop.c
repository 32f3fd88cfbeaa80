/*
 * Reductions of the caller: made for one communicator, numbered in the order of creation. A function of the host folds
 * by REDUCE commands that call it; a premultiplied sum is a SCALE command in front of the program of a sum. Called by
 * applications; collectives.c and path.c ask it about the ops of calls.
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static struct comm_redop *find(const struct thrum_comm *comm, thrum_redop_t number)
{
    for (int i = 0; i < comm->nredops; i++)
        if (comm->redops[i].number == number)
            return &comm->redops[i];
    return NULL;
}

const struct comm_redop *comm_redop_find(const struct thrum_comm *comm, thrum_redop_t number)
{
    return find(comm, number);
}

/* ---- life ---- */

static thrum_status_t check_create(struct thrum_comm *comm, const thrum_redop_t *op_out,
                                   uint64_t capability, const char *name)
{
    thrum_status_t status = collective_check_comm(comm);

    if (status)
        return status;
    if (!op_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "op_out=NULL");
    if (!(comm->device->properties.capabilities & capability))
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s lacks %s", comm->device->properties.name,
                          name);
    if (comm->nredops == COMM_REDOPS)
        return thrum_fail(THRUM_ERR_LIMIT, "%s has %d reductions of the caller already", comm->name,
                          COMM_REDOPS);
    return THRUM_OK;
}

/* The next number that no live one has. */
static thrum_redop_t next_number(struct thrum_comm *comm)
{
    do {
        comm->last_redop++;
        if (comm->last_redop < THRUM_REDOP_COUNT || comm->last_redop > COMM_REDOP_LAST)
            comm->last_redop = THRUM_REDOP_COUNT;
    } while (comm_redop_find(comm, (thrum_redop_t)comm->last_redop));
    return (thrum_redop_t)comm->last_redop;
}

static thrum_status_t add(struct thrum_comm *comm, struct comm_redop redop, thrum_redop_t *op_out)
{
    if (comm->nredops == comm->redops_capacity) {
        int capacity = comm->redops_capacity ? 2 * comm->redops_capacity : 4;
        struct comm_redop *redops = realloc(comm->redops, (size_t)capacity * sizeof *redops);

        if (!redops)
            return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a reduction");
        comm->redops = redops;
        comm->redops_capacity = capacity;
    }
    redop.number = next_number(comm);
    comm->redops[comm->nredops++] = redop;
    *op_out = redop.number;
    return THRUM_OK;
}

thrum_status_t thrum_redop_create(thrum_comm_t comm, thrum_reduce_fn fold, void *context,
                                  bool commutative, thrum_redop_t *op_out)
{
    const struct comm_redop redop = {.fold = fold, .context = context, .commutative = commutative};
    thrum_status_t status =
        check_create(comm, op_out, THRUM_CAP_REDUCE_CALLBACK, "THRUM_CAP_REDUCE_CALLBACK");

    if (!status && !fold)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "fold=NULL");
    return status ? status : add(comm, redop, op_out);
}

/* Where the scalar is, or what it is now. */
static thrum_status_t take_scalar(struct thrum_comm *comm, const void *scalar,
                                  enum thrum_scalar_residence residence, struct comm_redop *redop)
{
    size_t bytes = thrum_datatype_size(redop->dtype);
    enum thrum_mem_kind kind;
    thrum_status_t status;

    if (residence == THRUM_SCALAR_HOST) {
        if (comm->ops->address_is_device((uint64_t)(uintptr_t)scalar))
            return thrum_fail(THRUM_ERR_INVALID_POINTER,
                              "scalar=%p is device memory, but residence is THRUM_SCALAR_HOST",
                              scalar);
        memcpy(redop->scalar, scalar, bytes);
        return THRUM_OK;
    }
    status = exec_classify(comm, "scalar", scalar, bytes, &kind);
    if (!status && kind == THRUM_MEM_HOST)
        return thrum_fail(THRUM_ERR_INVALID_POINTER,
                          "scalar=%p is no device memory, but residence is THRUM_SCALAR_DEVICE",
                          scalar);
    redop->scalar_address = (uint64_t)(uintptr_t)scalar;
    return status;
}

thrum_status_t thrum_redop_create_premul_sum(thrum_comm_t comm, const void *scalar,
                                             thrum_datatype_t dtype,
                                             enum thrum_scalar_residence residence,
                                             thrum_redop_t *op_out)
{
    struct comm_redop redop = {.dtype = dtype};
    thrum_status_t status = check_create(comm, op_out, THRUM_CAP_SCALE, "THRUM_CAP_SCALE");

    if (!status && !scalar)
        status = thrum_fail(THRUM_ERR_INVALID_POINTER, "scalar is NULL");
    if (!status && !thrum_datatype_size(dtype))
        status = thrum_fail(THRUM_ERR_INVALID_TYPE, "dtype=%d is no data type", (int)dtype);
    if (!status && residence != THRUM_SCALAR_HOST && residence != THRUM_SCALAR_DEVICE)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "residence=%d is neither host nor device",
                            (int)residence);
    if (!status)
        status = take_scalar(comm, scalar, residence, &redop);
    return status ? status : add(comm, redop, op_out);
}

static void forget(struct thrum_comm *comm, struct comm_redop *redop)
{
    exec_cache_forget_redop(comm->cache, redop->number);
    *redop = comm->redops[--comm->nredops];
}

thrum_status_t thrum_redop_destroy(thrum_comm_t comm, thrum_redop_t op)
{
    struct comm_redop *redop;

    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    redop = find(comm, op);
    if (!redop || redop->leaving)
        return thrum_fail(THRUM_ERR_INVALID_OP, "op=%d is no live reduction of %s", (int)op,
                          comm->name);
    if (group_uses_redop(comm, op))
        redop->leaving = true;
    else
        forget(comm, redop);
    return THRUM_OK;
}

void redop_leave(struct thrum_comm *comm, thrum_redop_t op)
{
    struct comm_redop *redop = find(comm, op);

    if (redop && redop->leaving)
        forget(comm, redop);
}

/* ---- in calls ---- */

thrum_status_t redop_check(const struct coll_args *args)
{
    const struct thrum_device_properties *properties = &args->comm->device->properties;
    const struct comm_redop *redop = comm_redop_find(args->comm, args->redop);

    if (!redop)
        return thrum_fail(THRUM_ERR_INVALID_OP, "op=%d is no reduction, nor a live one of %s",
                          (int)args->redop, args->comm->name);
    if (redop->fold)
        return THRUM_OK;
    if (redop->dtype != args->dtype)
        return thrum_fail(THRUM_ERR_INVALID_OP, "op=%d has a scalar of %s, it is not for %s",
                          (int)args->redop, thrum_datatype_name(redop->dtype),
                          thrum_datatype_name(args->dtype));
    if (!(properties->reduce_types >> args->dtype & 1) ||
        !(properties->reduce_ops >> THRUM_SUM & 1))
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s cannot reduce %s by sum", properties->name,
                          thrum_datatype_name(args->dtype));
    return THRUM_OK;
}

static void fill_scale(const struct coll_args *args, const struct comm_redop *redop, uint64_t to,
                       uint64_t from, uint64_t bytes, struct prepared *prepared)
{
    prepared->scale_operands[0].base = to;
    prepared->scale_operands[1].base = from;
    prepared->scale_operands[2].base = redop->scalar_address;
    memcpy(prepared->scalar, redop->scalar, sizeof prepared->scalar);
    prepared->scale = (struct thrum_command){
        .opcode = THRUM_CMD_SCALE,
        .dtype = (uint8_t)args->dtype,
        .ndst = 1,
        .nsrc = redop->scalar_address ? 2 : 1,
        .bytes = bytes,
        .operands = prepared->scale_operands,
        .payload = redop->scalar_address ? NULL : prepared->scalar,
    };
}

/* Where recv has room for the whole of send, which is not needed any more once it is multiplied. */
static bool fits_recv(const struct coll_args *args)
{
    return args->collective == COLL_ALLREDUCE || args->collective == COLL_SCAN ||
           (args->collective == COLL_EXSCAN && args->comm->rank > 0) ||
           (args->collective == COLL_REDUCE && args->comm->rank == args->root);
}

thrum_status_t redop_place(const struct coll_args *args, uint64_t nsend, struct prepared *prepared)
{
    const struct comm_redop *redop = comm_redop_find(args->comm, args->redop);
    struct exec_placement *p = &prepared->placement;
    uint64_t from = p->buffers.send;
    thrum_status_t status = THRUM_OK;

    if (redop->fold)
        return THRUM_OK;
    prepared->program_op = THRUM_SUM;
    if (!nsend)
        return THRUM_OK;
    if (p->in.bytes) {
        /* the stage is ours already: multiplied where it lies */
    } else if (fits_recv(args)) {
        p->buffers.send = p->buffers.recv;
        prepared->in_place = true;
    } else {
        prepared->on_stage = true;
        prepared->in_place = false;
        status = exec_stage(args->comm, 0, nsend, &p->buffers.send);
    }
    fill_scale(args, redop, p->buffers.send, from, nsend, prepared);
    prepared->staging.prologue = &prepared->scale;
    prepared->staged = true;
    return status;
}
