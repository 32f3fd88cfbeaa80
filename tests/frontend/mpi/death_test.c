/*
 * What happens when ranks disagree or die, by the first argument; see mpi-frontend. mismatch: counts differ, every rank gets
 * MPI_ERR_TRUNCATE and comes out; fatal: the same with rank 0's default handler, which ends the job; abort: rank 0 calls
 * MPI_Abort, kill: rank 1 is killed, while the others wait for it.
 */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static float values[8192], sums[8192];

static void mismatch(int rank, int *class)
{
    *class = MPI_SUCCESS;
    MPI_Error_class(
        MPI_Allreduce(values, sums, rank == 0 ? 2000 : 3000, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD),
        class);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int rank, class;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 0; i < 12; i++)
        MPI_Allreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (!strcmp(what, "mismatch")) {
        char text[MPI_MAX_ERROR_STRING];
        int length, code;

        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        mismatch(rank, &class);
        printf("rank %d: %s\n", rank, class == MPI_ERR_TRUNCATE ? "truncate" : "other");
        code = MPI_Allreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        MPI_Error_string(code, text, &length);
        printf("rank %d: %s\n", rank, text);
        fflush(stdout);
    } else if (!strcmp(what, "fatal")) {
        if (rank > 0) /* mpirun loses words that several ranks say at once */
            MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        mismatch(rank, &class);
        if (rank > 0)
            pause();
        printf("came back\n");
    } else {
        if (rank == 0 && !strcmp(what, "abort"))
            MPI_Abort(MPI_COMM_WORLD, 7);
        if (rank == 1 && !strcmp(what, "kill"))
            raise(SIGKILL);
        MPI_Allreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        printf("came back\n");
    }
    MPI_Finalize();
    return 0;
}
