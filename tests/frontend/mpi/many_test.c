/*
 * Communicators that live for a few calls, and one that lives on, through libthrum-mpi: which of them get a Thrum
 * communicator. Those are counted here, by standing before thrum_comm_init_rank. See mpi-frontend.
 */
#include "check.h"

#include <dlfcn.h>

#include <thrum/mpi.h>
#include <thrum/thrum.h>

#define MANY 100
#define CALLS 20 /* on each: so many are looked at twice, after 8 and 16 */
#define MANY_SECONDS 60

static int made;

thrum_status_t thrum_comm_init_rank(const struct thrum_unique_id *id, int nranks, int rank,
                                    thrum_device_t device, const struct thrum_comm_config *config,
                                    thrum_comm_t *comm_out)
{
    thrum_status_t (*real)(const struct thrum_unique_id *, int, int, thrum_device_t,
                           const struct thrum_comm_config *, thrum_comm_t *) = NULL;

    *(void **)&real = dlsym(RTLD_NEXT, "thrum_comm_init_rank");
    made++;
    return real(id, nranks, rank, device, config, comm_out);
}

static void broadcast(MPI_Comm comm, int number)
{
    int values[256];

    for (int i = 0; i < 256; i++)
        values[i] = check_rank == 0 ? number + i : -1;
    MPI_Bcast(values, 256, MPI_INT, 0, comm);
    for (int i = 0; i < 256; i++)
        check(values[i] == number + i, "call %d: values[%d]=%d", number, i, values[i]);
}

static void first(void)
{
    for (int i = 0; i < CALLS; i++)
        broadcast(MPI_COMM_WORLD, i);
    check(made == 1, "%d Thrum communicators for MPI_COMM_WORLD", made);
    check_case("the first communicator gets one after a few calls");
}

/* What these calls take is little beside what a Thrum communicator does: time for a few of them at most. */
static void many(void)
{
    MPI_Comm comm;

    for (int i = 0; i < MANY; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &comm);
        for (int j = 0; j < CALLS; j++)
            broadcast(comm, 1000 * i + j);
        MPI_Comm_free(&comm);
    }
    check(made < MANY / 4, "%d Thrum communicators for %d that lived for %d calls", made - 1, MANY,
          CALLS);
    check_case("those that live for a few calls get none");
}

static void one_that_lives(void)
{
    double end = MPI_Wtime() + MANY_SECONDS;
    int before = made, all[2], mine[2];
    MPI_Comm comm;

    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    for (int i = 0; i < 1 << 30; i++) {
        broadcast(comm, i);
        mine[0] = made;
        mine[1] = MPI_Wtime() < end;
        PMPI_Allreduce(mine, all, 2, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        if (all[0] > before || !all[1])
            break;
    }
    check(made == before + 1, "%d Thrum communicators for one that lived on", made - before);
    for (int i = 0; i < CALLS; i++)
        broadcast(comm, i);
    MPI_Comm_free(&comm);
    check_case("and one that lives on does");
}

/* MPI would refuse a nonblocking call with device memory of one rank's. */
static void with_device_memory(void)
{
    thrum_device_t device;
    int before = made;
    MPI_Comm comm;

    if (check_rank == 0 && thrum_mpi_device(&device))
        MPI_Abort(MPI_COMM_WORLD, 3);
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    for (int i = 0; i < CALLS; i++)
        broadcast(comm, i);
    check(made == before + 1, "%d Thrum communicators where a rank has the device", made - before);
    MPI_Comm_free(&comm);
    check_case("and any one when a rank has asked for the device");
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    check_begin();
    first();
    many();
    one_that_lives();
    with_device_memory();
    MPI_Finalize();
    return check_end();
}
