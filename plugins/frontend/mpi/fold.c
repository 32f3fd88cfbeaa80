/*
 * Reductions by operations of the caller's. Where the device's own thread may call the function, in blocking calls on
 * elements of a size that Thrum has a type of, a reduction of Thrum's does (tmpi_user_fold). Else Thrum moves the
 * contributions, and a thread of the program's folds them when it completes the call, from within MPI as MPI promises:
 * tmpi_fold. Called by work.c; the functions about handles by request.c.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

/* ---- by the device ---- */

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

/* ---- by who completes the call ---- */

/* What this rank folds: so many contributions, of so many elements. */
static int count_of(const struct tmpi_work *work, int *contributions_out)
{
    const struct tmpi_call *call = &work->call;
    const struct tmpi_comm *comm = work->taken.comm;

    *contributions_out = comm->size;
    switch (call->function) {
    case TMPI_SCAN:
        *contributions_out = comm->rank + 1;
        return call->sendcount;
    case TMPI_EXSCAN:
        *contributions_out = comm->rank;
        return call->sendcount;
    case TMPI_REDUCE_SCATTER:
        return call->recvcounts[comm->rank];
    case TMPI_REDUCE_SCATTER_BLOCK:
        return call->recvcount;
    default:
        return call->sendcount;
    }
}

/* What the function is told: the caller's handle as long as there is one. */
static MPI_Datatype told_type(const struct tmpi_work *work)
{
    return tmpi_type_is_freed(work->taken.sendtype) ? work->call.sendtype : work->told_type;
}

/* Elements as they lie in the caller's memory, of which `memory` is the place of address 0. */
struct laid_out {
    char *allocated, *memory;
};

static bool lay_out(const struct tmpi_work *work, int count, struct laid_out *out)
{
    MPI_Aint lower, extent;

    if (PMPI_Type_get_true_extent(work->call.sendtype, &lower, &extent))
        return false;
    extent += (count - 1) * work->taken.sendtype->extent;
    out->allocated = calloc(1, (size_t)extent);
    out->memory = (char *)((uintptr_t)out->allocated - (uintptr_t)lower);
    return out->allocated;
}

/* The result goes to where the last contribution is, packed. */
static thrum_status_t fold_with_gaps(const struct tmpi_work *work, char *packed, int contributions,
                                     int count)
{
    const struct tmpi_type *type = work->taken.sendtype;
    MPI_Datatype handle = work->call.sendtype;
    size_t bytes = (size_t)count * type->size;
    struct laid_out left = {0}, right = {0}, result;
    thrum_status_t status = THRUM_ERR_NO_MEMORY;

    if (lay_out(work, count, &left) && lay_out(work, count, &right))
        status = tmpi_convert(left.memory, count, handle, type, packed, false);
    for (int i = 1; i < contributions && !status; i++) {
        packed += bytes;
        status = tmpi_convert(right.memory, count, handle, type, packed, false);
        if (!status &&
            PMPI_Reduce_local(left.memory, right.memory, count, told_type(work), work->call.op))
            status = THRUM_ERR_INVALID_OP;
        result = right;
        right = left;
        left = result;
    }
    if (!status)
        status = tmpi_convert(left.memory, count, handle, type, packed, true);
    free(left.allocated);
    free(right.allocated);
    return status;
}

static thrum_status_t fold_dense(const struct tmpi_work *work, char *packed, int contributions,
                                 int count)
{
    size_t bytes = (size_t)count * work->taken.sendtype->size;

    for (int i = 1; i < contributions; i++, packed += bytes)
        if (PMPI_Reduce_local(packed, packed + bytes, count, told_type(work), work->call.op))
            return THRUM_ERR_INVALID_OP;
    return THRUM_OK;
}

thrum_status_t tmpi_fold(struct tmpi_work *work)
{
    const struct tmpi_type *type = work->taken.sendtype;
    int contributions, count = count_of(work, &contributions);
    char *packed = work->packed_recv;
    size_t bytes = (size_t)count * type->size;
    thrum_status_t status;

    if (!contributions || !bytes)
        return THRUM_OK;
    status = type->dense ? fold_dense(work, packed, contributions, count)
                         : fold_with_gaps(work, packed, contributions, count);
    if (status)
        return status;
    packed += (size_t)(contributions - 1) * bytes;
    return tmpi_convert(work->call.recv, count, work->call.sendtype, type, packed, false);
}

/* ---- handles of operations ---- */

/* The caller may free an operation while calls that were given it are pending: it goes with the last of them. */
struct kept_op {
    struct kept_op *next;
    MPI_Op op;
    int calls;
    bool freed; /* by the caller */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept_op *kept_ops; /* under lock */

static struct kept_op **find(MPI_Op op)
{
    struct kept_op **link = &kept_ops;

    while (*link && (*link)->op != op)
        link = &(*link)->next;
    return link;
}

bool tmpi_op_keep(MPI_Op op)
{
    struct kept_op *kept;

    pthread_mutex_lock(&lock);
    kept = *find(op);
    if (!kept && (kept = calloc(1, sizeof *kept))) {
        kept->op = op;
        kept->next = kept_ops;
        kept_ops = kept;
    }
    if (kept)
        kept->calls++;
    pthread_mutex_unlock(&lock);
    return kept;
}

void tmpi_op_release(MPI_Op op)
{
    struct kept_op **link, *kept;
    bool last;

    pthread_mutex_lock(&lock);
    link = find(op);
    kept = *link;
    last = --kept->calls == 0;
    if (last)
        *link = kept->next;
    pthread_mutex_unlock(&lock);
    if (!last)
        return;
    if (kept->freed)
        (void)PMPI_Op_free(&op);
    free(kept);
}

int MPI_Op_free(MPI_Op *op)
{
    struct kept_op *kept = NULL;

    pthread_mutex_lock(&lock);
    if (op && (kept = *find(*op)))
        kept->freed = true;
    pthread_mutex_unlock(&lock);
    if (!kept)
        return PMPI_Op_free(op);
    *op = MPI_OP_NULL;
    return MPI_SUCCESS;
}
