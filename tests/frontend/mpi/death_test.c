/*
 * What happens when ranks disagree or die, by the first argument; see mpi-frontend. mismatch: counts differ, every rank gets
 * MPI_ERR_TRUNCATE and comes out; sides: they differ so that one rank's call is MPI's and the other's Thrum's, of which the
 * deadline tells; imismatch: the same in nonblocking calls, whatever is behind them; refused: one call among others is;
 * fatal: as mismatch with rank 0's default handler, which ends the job; abort: rank 0 calls MPI_Abort, kill: rank 1 is killed,
 * while the others wait for it.
 */
#include <mpi.h>
#include <signal.h>
#include <stdbool.h>
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

/* Two that differ and `behind` that do not; each is waited for by itself. How many ended well, and the first one's class. */
static int nonblocking_mismatch(MPI_Comm comm, int rank, int behind, int *first_class)
{
    enum { MOST = 40 };
    static float sums_of[MOST][8192];
    MPI_Request requests[MOST];
    int good = 0, class;

    for (int i = 0; i < 2 + behind; i++)
        if (MPI_Iallreduce(values, sums_of[i], i < 2 && rank == 0 ? 2000 : 3000, MPI_FLOAT, MPI_SUM,
                           comm, &requests[i]))
            requests[i] = MPI_REQUEST_NULL; /* it has failed by then */
    for (int i = 0; i < 2 + behind; i++) {
        bool was_null = requests[i] == MPI_REQUEST_NULL;

        class = MPI_SUCCESS;
        MPI_Error_class(MPI_Wait(&requests[i], MPI_STATUS_IGNORE), &class);
        if (i == 0)
            *first_class = class;
        good += !was_null && class == MPI_SUCCESS;
    }
    return good;
}

/* A call that is refused while one is under way, and waited for before it: the other one, and the next, are as ever. */
static void refused(int rank)
{
    MPI_Request good, bad;
    int class = MPI_SUCCESS;

    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    for (int i = 0; i < 8192; i++)
        values[i] = 1;
    if (rank == 0) {
        MPI_Iallreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &good);
        if (!MPI_Iallreduce((void *)16, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &bad))
            MPI_Error_class(MPI_Wait(&bad, MPI_STATUS_IGNORE), &class);
        for (int r = 1, size = 0; !MPI_Comm_size(MPI_COMM_WORLD, &size) && r < size; r++)
            MPI_Send(&class, 1, MPI_INT, r, 5, MPI_COMM_WORLD);
    } else {
        MPI_Recv(&class, 1, MPI_INT, 0, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Iallreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &good);
    }
    if (MPI_Wait(&good, MPI_STATUS_IGNORE) || sums[8191] < 1.5f)
        class = MPI_SUCCESS;
    if (MPI_Allreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) || sums[0] < 1.5f)
        class = MPI_SUCCESS;
    printf("rank %d: %s\n", rank, class == MPI_SUCCESS ? "wrong" : "one refused");
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int rank, class;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (!strcmp(what, "sides") && rank == 0)
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
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
    } else if (!strcmp(what, "imismatch")) {
        for (int behind = 0; behind < 38; behind = 2 * behind + 1) {
            MPI_Comm comm;
            int good;

            MPI_Comm_dup(MPI_COMM_WORLD, &comm);
            MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
            for (int i = 0; i < 12; i++)
                MPI_Allreduce(values, sums, 8192, MPI_FLOAT, MPI_SUM, comm);
            good = nonblocking_mismatch(comm, rank, behind, &class);
            printf("rank %d: %d behind: %d good, %s\n", rank, behind, good,
                   class == MPI_ERR_TRUNCATE ? "truncate" : "other");
            MPI_Comm_free(&comm);
        }
    } else if (!strcmp(what, "refused")) {
        refused(rank);
    } else if (!strcmp(what, "sides")) {
        MPI_Allreduce(values, sums, rank == 0 ? 100 : 2000, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (rank > 0)
            printf("came back\n");
        else
            pause(); /* MPI may refuse what comes of it, or wait */
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
