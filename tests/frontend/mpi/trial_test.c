/*
 * Trials (plugins/frontend/mpi/trial.c): whoever is slower loses the calls, on all ranks, also where one rank alone is slowed
 * down. The program stands between the library and both that it calls, counts, and makes one of them slow.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <time.h>

#include "check.h"

#include <thrum/thrum.h>

#define SETTLED 40 /* calls after which the faster one is known */
#define MORE 10
#define SLOW_NS 5000000 /* slower than either is on a loaded machine */
#define LATE_NS 100000
#define COUNT 2048

static int mpi_calls, thrum_calls;
static bool mpi_is_slow, thrum_is_slow;

static void be_late(long ns)
{
    const struct timespec t = {.tv_nsec = ns};

    nanosleep(&t, NULL);
}

static void *real(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (!function) {
        fprintf(stderr, "no %s: is the library there?\n", name);
        PMPI_Abort(MPI_COMM_WORLD, 98);
    }
    return function;
}

int PMPI_Bcast(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    static int (*function)(void *, int, MPI_Datatype, int, MPI_Comm);

    if (!function)
        *(void **)&function = real("PMPI_Bcast");
    mpi_calls++;
    if (mpi_is_slow)
        be_late(SLOW_NS);
    return function(buffer, count, type, root, comm);
}

thrum_status_t thrum_broadcast(const void *send, void *recv, uint64_t count, thrum_datatype_t dtype,
                               int root, thrum_comm_t comm, thrum_queue_t queue)
{
    static thrum_status_t (*function)(const void *, void *, uint64_t, thrum_datatype_t, int,
                                      thrum_comm_t, thrum_queue_t);

    if (!function)
        *(void **)&function = real("thrum_broadcast");
    thrum_calls++;
    if (thrum_is_slow)
        be_late(SLOW_NS);
    return function(send, recv, count, dtype, root, comm, queue);
}

thrum_status_t thrum_allreduce(const void *send, void *recv, uint64_t count, thrum_datatype_t dtype,
                               thrum_redop_t op, thrum_comm_t comm, thrum_queue_t queue)
{
    static thrum_status_t (*function)(const void *, void *, uint64_t, thrum_datatype_t,
                                      thrum_redop_t, thrum_comm_t, thrum_queue_t);

    if (!function)
        *(void **)&function = real("thrum_allreduce");
    if (thrum_is_slow)
        be_late(SLOW_NS);
    return function(send, recv, count, dtype, op, comm, queue);
}

/* Calls of a size; each one's data is compared. */
static void broadcasts(int n, int bytes)
{
    unsigned char data[4096];

    for (int i = 0; i < n; i++) {
        memset(data, check_rank == i % check_size ? i : 255, (size_t)bytes);
        MPI_Bcast(data, bytes, MPI_BYTE, i % check_size, MPI_COMM_WORLD);
        for (int k = 0; k < bytes; k++)
            if (data[k] != i % 256) {
                check(false, "call %d, byte %d: %d", i, k, data[k]);
                break;
            }
    }
}

static void slow_one_loses(bool is_mpi, int slow_rank, int bytes)
{
    int mpi_before, thrum_before;

    mpi_is_slow = is_mpi && check_rank == slow_rank;
    thrum_is_slow = !is_mpi && check_rank == slow_rank;
    mpi_before = mpi_calls, thrum_before = thrum_calls;
    broadcasts(SETTLED, bytes);
    check(mpi_calls - mpi_before >= 12 && thrum_calls - thrum_before >= 12,
          "%d calls to MPI and %d to Thrum: not both were tried", mpi_calls - mpi_before,
          thrum_calls - thrum_before);
    broadcasts(1, bytes); /* here they agree */
    mpi_before = mpi_calls, thrum_before = thrum_calls;
    broadcasts(MORE, bytes);
    check(mpi_calls - mpi_before == (is_mpi ? 0 : MORE), "%d of %d calls went to MPI",
          mpi_calls - mpi_before, MORE);
    check(thrum_calls - thrum_before == (is_mpi ? MORE : 0), "%d of %d calls went to Thrum",
          thrum_calls - thrum_before, MORE);
    mpi_is_slow = thrum_is_slow = false;
}

/* Sizes and functions in turns, ranks that come late: they must agree all the same. */
static void ranks_agree(void)
{
    long long values[1024], sums[1024];

    for (int i = 0; i < 600; i++) {
        int n = 1 << i % 11;

        if ((i * 7 + check_rank) % 5 == 0)
            be_late(LATE_NS);
        for (int k = 0; k < n; k++)
            values[k] = i + k + check_rank;
        MPI_Allreduce(values, sums, n, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
        for (int k = 0; k < n; k++) {
            long long wanted = (long long)check_size * (i + k) + check_size * (check_size - 1) / 2;

            if (sums[k] != wanted) {
                check(false, "call %d, element %d: %lld, not %lld", i, k, sums[k], wanted);
                break;
            }
        }
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

static void largest(void *in, void *inout, int *n, MPI_Datatype *type)
{
    const double *a = in;
    double *b = inout;

    (void)type;
    for (int i = 0; i < *n; i++)
        b[i] = a[i] > b[i] ? a[i] : b[i];
}

/*
 * Calls with the caller's operation go where the others of their size go, also on a rank that looks at each call for its
 * report, as rank 0 does here; and calls that go to MPI do not keep the other ranks waiting for requests.
 */
static void ranks_that_look_differently(void)
{
    static double values[COUNT], results[COUNT]; /* of a size that nobody has settled yet */
    long long many[64], sums[64];
    MPI_Request requests[64];
    MPI_Op op;

    MPI_Op_create(largest, 1, &op);
    thrum_is_slow = true;
    for (int i = 0; i < COUNT; i++)
        values[i] = check_rank + i;
    for (int i = 0; i < SETTLED + 5; i++)
        MPI_Allreduce(values, results, COUNT, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    thrum_is_slow = false;
    for (int i = 0; i < 5; i++) {
        MPI_Allreduce(values, results, COUNT, MPI_DOUBLE, op, MPI_COMM_WORLD);
        check(results[COUNT - 1] > check_size + COUNT - 2.5 &&
                  results[COUNT - 1] < check_size + COUNT - 1.5,
              "largest: %f", results[COUNT - 1]);
    }
    MPI_Op_free(&op);
    for (int i = 0; i < 64; i++) {
        many[i] = i;
        MPI_Iallreduce(&many[i], &sums[i], 1, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD, &requests[i]);
    }
    if (check_rank)
        MPI_Waitall(64, requests, MPI_STATUSES_IGNORE);
    MPI_Allreduce(values, results, COUNT, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    if (!check_rank)
        MPI_Waitall(64, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < 64; i++)
        check(sums[i] == (long long)check_size * i, "request %d: %lld", i, sums[i]);
}

int main(int argc, char **argv)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");

    if (rank && !strcmp(rank, "0"))
        setenv("THRUM_MPI_REPORT", "1", 1);
    MPI_Init(&argc, &argv);
    check_begin();
    slow_one_loses(true, 0, 64); /* which the table gives to MPI */
    check_case("MPI is slow on one rank");
    slow_one_loses(false, check_size - 1, 1024); /* which it gives to Thrum */
    check_case("Thrum is slow on one rank");
    ranks_agree();
    check_case("ranks agree");
    ranks_that_look_differently();
    check_case("ranks that look differently");
    MPI_Finalize();
    return check_end();
}
