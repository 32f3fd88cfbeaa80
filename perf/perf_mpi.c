/* The same operations by MPI, for thrum-perf --compare mpi. MPI is started only when that is asked for. */
#include "perf_run.h"

#include <stdlib.h>
#include <string.h>

#ifdef HAVE_MPI
#include <mpi.h>

static bool started;
static char reason[160];

const char *perf_mpi_start(void)
{
    int initialized;

    MPI_Initialized(&initialized);
    if (!initialized && MPI_Init(NULL, NULL) != MPI_SUCCESS)
        return "MPI_Init failed";
    started = !initialized;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return NULL;
}

const char *perf_mpi_same_ranks(int rank, int nranks)
{
    int mpi_rank, mpi_ranks;

    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_ranks);
    if (mpi_rank == rank && mpi_ranks == nranks)
        return NULL;
    snprintf(reason, sizeof reason,
             "this is rank %d of %d, but rank %d of %d of MPI: start it by this MPI's own mpirun",
             rank, nranks, mpi_rank, mpi_ranks);
    return reason;
}

void perf_mpi_stop(void)
{
    if (started)
        MPI_Finalize();
    started = false;
}

static MPI_Datatype type_of(thrum_datatype_t dtype)
{
    switch (dtype) {
    case THRUM_INT8:
        return MPI_INT8_T;
    case THRUM_UINT8:
        return MPI_UINT8_T;
    case THRUM_INT16:
        return MPI_INT16_T;
    case THRUM_UINT16:
        return MPI_UINT16_T;
    case THRUM_INT32:
        return MPI_INT32_T;
    case THRUM_UINT32:
        return MPI_UINT32_T;
    case THRUM_INT64:
        return MPI_INT64_T;
    case THRUM_UINT64:
        return MPI_UINT64_T;
    case THRUM_FLOAT32:
        return MPI_FLOAT;
    case THRUM_FLOAT64:
        return MPI_DOUBLE;
    case THRUM_COMPLEX64:
        return MPI_C_FLOAT_COMPLEX;
    case THRUM_COMPLEX128:
        return MPI_C_DOUBLE_COMPLEX;
    default:
        return MPI_DATATYPE_NULL; /* no 8- and 16-bit floats in the standard */
    }
}

static MPI_Op op_of(int op)
{
    switch (op) {
    case THRUM_SUM:
        return MPI_SUM;
    case THRUM_PROD:
        return MPI_PROD;
    case THRUM_MAX:
        return MPI_MAX;
    case THRUM_MIN:
        return MPI_MIN;
    case THRUM_BAND:
        return MPI_BAND;
    case THRUM_BOR:
        return MPI_BOR;
    case THRUM_BXOR:
        return MPI_BXOR;
    case THRUM_LAND:
        return MPI_LAND;
    case THRUM_LOR:
        return MPI_LOR;
    default:
        return MPI_OP_NULL; /* no average */
    }
}

bool perf_mpi_can(const struct perf_case *what)
{
    bool real = what->dtype == THRUM_FLOAT32 || what->dtype == THRUM_FLOAT64;

    if (what->count > (uint64_t)INT32_MAX / 2)
        return false;
    if (!what->collective->has_op)
        return true; /* what MPI lacks is moved as bytes */
    if (what->op == THRUM_LAND || what->op == THRUM_LOR)
        return !real && type_of(what->dtype) != MPI_DATATYPE_NULL;
    return type_of(what->dtype) != MPI_DATATYPE_NULL && op_of(what->op) != MPI_OP_NULL;
}

void perf_mpi_barrier(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

void *perf_mpi_alloc(size_t bytes)
{
    void *memory;

    if (MPI_Alloc_mem((MPI_Aint)bytes, MPI_INFO_NULL, &memory) != MPI_SUCCESS)
        return NULL;
    memset(memory, 0, bytes);
    return memory;
}

void perf_mpi_free(void *memory)
{
    if (memory)
        MPI_Free_mem(memory);
}

/* Count and type of data that is only moved. */
static MPI_Datatype moved_type(const struct perf_call *call, int *count_out)
{
    MPI_Datatype type = type_of(call->dtype);

    *count_out = (int)call->count;
    if (type != MPI_DATATYPE_NULL)
        return type;
    *count_out *= (int)thrum_datatype_size(call->dtype);
    return MPI_BYTE;
}

int perf_mpi_allreduce(const struct perf_call *c)
{
    return MPI_Allreduce(c->send == c->recv ? MPI_IN_PLACE : c->send, c->recv, (int)c->count,
                         type_of(c->dtype), op_of(c->op), MPI_COMM_WORLD);
}

/* MPI has one buffer, so it is always in place; the root sends what it would send. */
int perf_mpi_broadcast(const struct perf_call *c)
{
    int count;
    MPI_Datatype type = moved_type(c, &count);
    return MPI_Bcast(c->recv, count, type, c->root, MPI_COMM_WORLD);
}

int perf_mpi_allgather(const struct perf_call *c)
{
    size_t block = c->count * thrum_datatype_size(c->dtype);
    bool in_place = (const char *)c->send == (const char *)c->recv + block * (size_t)c->rank;
    int count;
    MPI_Datatype type = moved_type(c, &count);

    return MPI_Allgather(in_place ? MPI_IN_PLACE : c->send, count, type, c->recv, count, type,
                         MPI_COMM_WORLD);
}

/* In place, MPI leaves the block at the start of the buffer that holds all blocks. */
int perf_mpi_reduce_scatter(const struct perf_call *c)
{
    size_t block = c->count * thrum_datatype_size(c->dtype);
    const char *send = c->send;
    bool in_place = send + block * (size_t)c->rank == (char *)c->recv;
    void *recv = in_place ? (char *)c->recv - block * (size_t)c->rank : c->recv;

    return MPI_Reduce_scatter_block(in_place ? MPI_IN_PLACE : send, recv, (int)c->count,
                                    type_of(c->dtype), op_of(c->op), MPI_COMM_WORLD);
}

int perf_mpi_barrier_call(const struct perf_call *c)
{
    (void)c;
    return MPI_Barrier(MPI_COMM_WORLD);
}

int perf_mpi_sendrecv(const struct perf_call *c)
{
    int count, next = (c->rank + 1) % c->nranks, previous = (c->rank + c->nranks - 1) % c->nranks;
    MPI_Datatype type = moved_type(c, &count);

    return MPI_Sendrecv(c->send, count, type, next, 0, c->recv, count, type, previous, 0,
                        MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

int perf_mpi_reduce(const struct perf_call *c)
{
    bool in_place = c->rank == c->root && c->send == c->recv;

    return MPI_Reduce(in_place ? MPI_IN_PLACE : c->send, c->recv, (int)c->count, type_of(c->dtype),
                      op_of(c->op), c->root, MPI_COMM_WORLD);
}

int perf_mpi_alltoall(const struct perf_call *c)
{
    int count;
    MPI_Datatype type = moved_type(c, &count);

    return MPI_Alltoall(c->send == c->recv ? MPI_IN_PLACE : c->send, count, type, c->recv, count,
                        type, MPI_COMM_WORLD);
}

/* Whether the root's own block of the larger buffer is the smaller one. */
static bool root_is_in_place(const struct perf_call *c, const char *whole, const char *part)
{
    size_t block = c->count * thrum_datatype_size(c->dtype);

    return c->rank == c->root && part == whole + block * (size_t)c->rank;
}

int perf_mpi_gather(const struct perf_call *c)
{
    int count;
    MPI_Datatype type = moved_type(c, &count);

    return MPI_Gather(root_is_in_place(c, c->recv, c->send) ? MPI_IN_PLACE : c->send, count, type,
                      c->recv, count, type, c->root, MPI_COMM_WORLD);
}

int perf_mpi_scatter(const struct perf_call *c)
{
    int count;
    MPI_Datatype type = moved_type(c, &count);

    return MPI_Scatter(c->send, count, type,
                       root_is_in_place(c, c->send, c->recv) ? MPI_IN_PLACE : c->recv, count, type,
                       c->root, MPI_COMM_WORLD);
}

int perf_mpi_scan(const struct perf_call *c)
{
    return MPI_Scan(c->send == c->recv ? MPI_IN_PLACE : c->send, c->recv, (int)c->count,
                    type_of(c->dtype), op_of(c->op), MPI_COMM_WORLD);
}

int perf_mpi_exscan(const struct perf_call *c)
{
    return MPI_Exscan(c->send == c->recv ? MPI_IN_PLACE : c->send, c->recv, (int)c->count,
                      type_of(c->dtype), op_of(c->op), MPI_COMM_WORLD);
}

#else

const char *perf_mpi_start(void)
{
    return "thrum-perf was built without MPI";
}

const char *perf_mpi_same_ranks(int rank, int nranks)
{
    (void)rank;
    (void)nranks;
    return NULL;
}

void perf_mpi_stop(void) {}
void perf_mpi_barrier(void) {}
void perf_mpi_free(void *memory)
{
    (void)memory;
}

bool perf_mpi_can(const struct perf_case *what)
{
    (void)what;
    return false;
}

void *perf_mpi_alloc(size_t bytes)
{
    (void)bytes;
    return NULL;
}

static int no_mpi(const struct perf_call *call)
{
    (void)call;
    return -1;
}

int perf_mpi_allreduce(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_broadcast(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_allgather(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_reduce_scatter(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_barrier_call(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_sendrecv(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_reduce(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_alltoall(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_gather(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_scatter(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_scan(const struct perf_call *c)
{
    return no_mpi(c);
}

int perf_mpi_exscan(const struct perf_call *c)
{
    return no_mpi(c);
}

#endif
