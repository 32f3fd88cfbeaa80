/*
 * An MPI program that knows nothing of Thrum: ranks average vectors of different lengths, as data-parallel training does
 * with gradients. Run it by mpirun, then by thrum-mpirun:
 *
 *   mpicc -O2 mpi_average.c -o mpi_average
 *   mpirun -n 2 ./mpi_average
 *   thrum-mpirun --report -n 2 ./mpi_average
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define LONGEST (4 << 20)

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Median time of one Allreduce of n floats, in microseconds. */
static double time_average(float *gradient, float *average, int n)
{
    enum { TRIES = 51 };
    double us[TRIES];

    for (int i = 0; i < TRIES; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        us[i] = -MPI_Wtime();
        MPI_Allreduce(gradient, average, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        us[i] = (us[i] + MPI_Wtime()) * 1e6;
    }
    qsort(us, TRIES, sizeof *us, compare);
    return us[TRIES / 2];
}

int main(int argc, char **argv)
{
    float *gradient = malloc(LONGEST * sizeof *gradient);
    float *average = malloc(LONGEST * sizeof *average);
    int rank, ranks, wrong = 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (!gradient || !average)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int i = 0; i < LONGEST; i++) {
        gradient[i] = (float)(rank + i % 1000);
        average[i] = 0;
    }
    for (int n = 64; n <= LONGEST; n *= 16) {
        double us = time_average(gradient, average, n);

        if (rank == 0)
            printf("%9d floats: %10.1f us\n", n, us);
    }
    for (int i = 0; i < LONGEST; i++)
        wrong += average[i] != (float)(ranks * (i % 1000) + ranks * (ranks - 1) / 2);
    if (rank == 0)
        printf("%d of %d sums wrong\n", wrong, LONGEST);
    MPI_Finalize();
    free(gradient);
    free(average);
    return wrong != 0;
}
