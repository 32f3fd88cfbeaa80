/*
 * What MPI lets a program do while nonblocking calls are pending, without threads, through libthrum-mpi; see mpi-frontend:
 * wait for something else first, free the types and the communicator that they were given.
 */
#include "check.h"

#ifdef HAVE_MPIX_PERSISTENT
#include <mpi-ext.h>
#define INIT(name) MPIX_##name##_init
#elif defined(HAVE_MPI_PERSISTENT)
#define INIT(name) MPI_##name##_init
#endif

#define MANY 200 /* more than the library puts on a queue at once */
#define N 500

static int total(int value)
{
    return check_size * value + check_size * (check_size - 1) / 2;
}

/* A communicator of its own, with its Thrum twin. */
static MPI_Comm new_comm(void)
{
    MPI_Comm comm;

    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    for (int i = 0; i < 12; i++)
        MPI_Barrier(comm);
    return comm;
}

/* ---- waiting for something else ---- */

enum elsewhere { IN_RECV, IN_TEST, IN_BARRIER };

/* The last rank waits in a call that is MPI's for one that comes when all others have their sums. */
static void waits(enum elsewhere where)
{
    static int in[MANY][40], out[MANY][40];
    MPI_Request requests[MANY], message;
    MPI_Comm other;
    int token = 0, flag = 0, last = check_size - 1;

    PMPI_Comm_dup(MPI_COMM_WORLD, &other);
    for (int i = 0; i < MANY; i++) {
        for (int k = 0; k < 40; k++)
            in[i][k] = i + k + check_rank;
        MPI_Iallreduce(in[i], out[i], 40, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &requests[i]);
    }
    if (check_rank != last)
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
    if (where == IN_BARRIER)
        PMPI_Barrier(other);
    else if (check_rank == 0)
        MPI_Send(&token, 1, MPI_INT, last, 7, MPI_COMM_WORLD);
    else if (check_rank == last && where == IN_RECV)
        MPI_Recv(&token, 1, MPI_INT, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    else if (check_rank == last) {
        MPI_Irecv(&token, 1, MPI_INT, 0, 7, MPI_COMM_WORLD, &message);
        while (!flag)
            MPI_Test(&message, &flag, MPI_STATUS_IGNORE);
    }
    if (check_rank == last)
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < MANY; i++)
        for (int k = 0; k < 40; k++)
            check(out[i][k] == total(i + k), "out[%d][%d]=%d", i, k, out[i][k]);
    PMPI_Comm_free(&other);
}

/* A communicator with calls that wait goes as soon as the last of them has been completed. */
static void waits_and_goes(void)
{
    static int values[MANY];
    MPI_Request requests[MANY];

    for (int round = 0; round < 3; round++) {
        MPI_Comm comm = new_comm();

        for (int i = 0; i < MANY; i++) {
            values[i] = i + check_rank;
            MPI_Iallreduce(MPI_IN_PLACE, &values[i], 1, MPI_INT, MPI_SUM, comm, &requests[i]);
        }
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
        MPI_Comm_free(&comm);
        for (int i = 0; i < MANY; i++)
            check(values[i] == total(i), "round %d values[%d]=%d", round, i, values[i]);
    }
}

int main(int argc, char **argv)
{
    int status;

    MPI_Init(&argc, &argv);
    check_begin();
    MPI_Comm comm = new_comm();
    for (int i = 0; i < 12; i++)
        MPI_Barrier(MPI_COMM_WORLD);
    waits(IN_RECV);
    check_case("more calls than a queue takes, and a message is waited for first");
    waits(IN_TEST);
    check_case("the same by MPI_Test");
    waits(IN_BARRIER);
    check_case("the same in a barrier of MPI's");
    waits_and_goes();
    check_case("communicators go one after the other");
    MPI_Comm_free(&comm);
    status = check_end();
    MPI_Finalize();
    return status;
}
