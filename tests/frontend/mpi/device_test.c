/* Buffers in the device memory of the rank: taken calls use them as they are, others go by host memory. See mpi-frontend. */
#include <thrum/mpi.h>

#include "check.h"

#define N 5000

static thrum_queue_t queue;

static int *make(thrum_device_t device, int first)
{
    int host[N];
    void *memory;

    for (int i = 0; i < N; i++)
        host[i] = first + i;
    if (thrum_mem_alloc(device, sizeof host, &memory) ||
        thrum_copy_to_device(queue, memory, host, sizeof host)) {
        fprintf(stderr, "device memory: %s\n", thrum_last_error());
        MPI_Abort(MPI_COMM_WORLD, 3);
    }
    return memory;
}

static void expect(const int *memory, int n, int factor, int first, const char *what)
{
    int host[N];

    check(!thrum_copy_to_host(queue, host, memory, (size_t)n * sizeof *host), "%s: no copy", what);
    for (int i = 0; i < n; i++)
        check(host[i] == factor * i + first, "%s: element %d is %d", what, i, host[i]);
}

static void larger(void *in, void *inout, int *n, MPI_Datatype *type)
{
    int *a = in, *b = inout;

    (void)type;
    for (int i = 0; i < *n; i++)
        b[i] = a[i] > b[i] ? a[i] : b[i];
}

/* Contributions that this process folds; blocks that are packed. */
static void by_the_host(thrum_device_t device)
{
    int *a = make(device, check_rank), *b = make(device, -1), *c = make(device, 100 * check_rank);
    MPI_Request request;
    MPI_Op op;

    MPI_Op_create(larger, 1, &op);
    MPI_Iallreduce(a, b, N, MPI_INT, op, MPI_COMM_WORLD, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    expect(b, N, 1, check_size - 1, "Iallreduce by an operation of the caller's");
    MPI_Op_free(&op);
    MPI_Alltoall(MPI_IN_PLACE, 0, MPI_INT, c, 1, MPI_INT, MPI_COMM_WORLD);
    expect(c, check_size, 100, check_rank, "Alltoall in place");
    check(!thrum_mem_free(device, a) && !thrum_mem_free(device, b) && !thrum_mem_free(device, c),
          "not freed");
}

static void all(thrum_device_t device)
{
    int *a = make(device, check_rank), *b = make(device, -1), total;
    int ranks = check_size * (check_size - 1) / 2;
    MPI_Request request;

    for (int round = 0; round < 12; round++) { /* first by MPI, then by Thrum */
        MPI_Allreduce(a, b, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        expect(b, N, check_size, ranks, "Allreduce");
        MPI_Bcast(b, 10, MPI_INT, 0, MPI_COMM_WORLD);
        expect(b, 10, check_size, ranks, "Bcast");
        MPI_Exscan(a, b, N, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
        if (check_rank)
            expect(b, N, 1, check_rank - 1, "Exscan");
    }
    MPI_Iallreduce(a, b, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    expect(b, N, check_size, ranks, "Iallreduce");
    MPI_Allreduce(MPI_IN_PLACE, b, N, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    expect(b, N, check_size, ranks, "Allreduce in place");
    MPI_Allreduce(&check_rank, &total, 1, MPI_INT, MPI_SUM,
                  MPI_COMM_WORLD); /* host memory beside it */
    check(total == ranks, "total=%d", total);
    check(!thrum_mem_free(device, a) && !thrum_mem_free(device, b), "not freed");
}

/* Memory that is the device's no more: an error of MPI's, by the communicator's handler, where Thrum has the call. */
static void freed(thrum_device_t device)
{
    int *memory = make(device, 0), class = MPI_SUCCESS;

    check(!thrum_mem_free(device, memory), "not freed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Error_class(MPI_Allreduce(MPI_IN_PLACE, memory, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD),
                    &class);
    check(class == MPI_ERR_BUFFER, "freed device memory: class %d", class);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}

int main(int argc, char **argv)
{
    thrum_device_t device;
    int status;

    if (thrum_mpi_device(&device) != THRUM_ERR_INVALID_USAGE)
        return 1;
    MPI_Init(&argc, &argv);
    check_begin();
    if (thrum_mpi_device(&device) || thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &queue)) {
        fprintf(stderr, "no device: %s\n", thrum_last_error());
        MPI_Abort(MPI_COMM_WORLD, 3);
    }
    check(thrum_mpi_device(NULL) == THRUM_ERR_INVALID_ARGUMENT, "thrum_mpi_device(NULL)");
    all(device);
    check_case("buffers in device memory");
    if (getenv("THRUM_MPI_TAKE")) { /* else MPI may have the nonblocking call, and refuse it */
        by_the_host(device);
        check_case("buffers in device memory that the host has to reach");
    }
    freed(device);
    check_case("buffers in freed device memory");
    thrum_queue_destroy(queue);
    status = check_end();
    MPI_Finalize();
    return status || thrum_mpi_device(&device) != THRUM_ERR_INVALID_USAGE;
}
