/*
 * The same MPI collective by MPI_* and by PMPI_*, in turns in one run: with libthrum-mpi before the MPI library the first is
 * what a program gets then, the second what it gets without. Called by perf/compare-mpi-frontend; needs MPI only.
 *
 * usage: mpirun ... mpi-frontend-bench MIN-BYTES MAX-BYTES FACTOR MILLISECONDS FORM[,FORM] FUNCTION[,FUNCTION ...]
 *
 * FORM is blocking or nonblocking (call and wait). Prints "form function ranks bytes mpi_us thrum_us", bytes of the whole
 * vector for reductions and Bcast and of one block for the others; each figure is the median over batches of the slowest
 * rank's time for one call. The elements are floats, added up where they are reduced.
 */
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCHES 11
#define MOST_RANKS 64

static int rank, nranks;
static float *send_buffer, *recv_buffer;
static int counts[MOST_RANKS], displs[MOST_RANKS];

/* name, spellings, whether the size is of the whole vector, arguments */
#define FUNCTIONS(X) \
    X(Allreduce, allreduce, 1, send_buffer, recv_buffer, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) \
    X(Reduce, reduce, 1, send_buffer, recv_buffer, n, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD) \
    X(Bcast, bcast, 1, send_buffer, n, MPI_FLOAT, 0, MPI_COMM_WORLD) \
    X(Allgather, allgather, 0, send_buffer, n, MPI_FLOAT, recv_buffer, n, MPI_FLOAT, \
      MPI_COMM_WORLD) \
    X(Allgatherv, allgatherv, 0, send_buffer, n, MPI_FLOAT, recv_buffer, counts, displs, \
      MPI_FLOAT, MPI_COMM_WORLD) \
    X(Reduce_scatter, reduce_scatter, 1, send_buffer, recv_buffer, counts, MPI_FLOAT, MPI_SUM, \
      MPI_COMM_WORLD) \
    X(Reduce_scatter_block, reduce_scatter_block, 1, send_buffer, recv_buffer, n / nranks, \
      MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) \
    X(Alltoall, alltoall, 0, send_buffer, n, MPI_FLOAT, recv_buffer, n, MPI_FLOAT, MPI_COMM_WORLD) \
    X(Alltoallv, alltoallv, 0, send_buffer, counts, displs, MPI_FLOAT, recv_buffer, counts, \
      displs, MPI_FLOAT, MPI_COMM_WORLD) \
    X(Gather, gather, 0, send_buffer, n, MPI_FLOAT, recv_buffer, n, MPI_FLOAT, 0, MPI_COMM_WORLD) \
    X(Gatherv, gatherv, 0, send_buffer, n, MPI_FLOAT, recv_buffer, counts, displs, MPI_FLOAT, 0, \
      MPI_COMM_WORLD) \
    X(Scatter, scatter, 0, send_buffer, n, MPI_FLOAT, recv_buffer, n, MPI_FLOAT, 0, \
      MPI_COMM_WORLD) \
    X(Scatterv, scatterv, 0, send_buffer, counts, displs, MPI_FLOAT, recv_buffer, n, MPI_FLOAT, 0, \
      MPI_COMM_WORLD) \
    X(Scan, scan, 1, send_buffer, recv_buffer, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) \
    X(Exscan, exscan, 1, send_buffer, recv_buffer, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) \
    X(Barrier, barrier, 1, MPI_COMM_WORLD)

enum function {
#define X(Name, name, whole, ...) Name,
    FUNCTIONS(X)
#undef X
        NFUNCTIONS
};

static const char *const names[] = {
#define X(Name, name, whole, ...) #name,
    FUNCTIONS(X)
#undef X
};

static const bool is_whole[] = {
#define X(Name, name, whole, ...) whole,
    FUNCTIONS(X)
#undef X
};

static void call(enum function function, bool nonblocking, bool raw, int n)
{
    MPI_Request request;

    switch (function) {
#define X(Name, name, whole, ...) \
    case Name: \
        if (!nonblocking) { \
            (void)(raw ? PMPI_##Name(__VA_ARGS__) : MPI_##Name(__VA_ARGS__)); \
        } else if (raw) { \
            PMPI_I##name(__VA_ARGS__, &request); \
            PMPI_Wait(&request, MPI_STATUS_IGNORE); \
        } else { \
            MPI_I##name(__VA_ARGS__, &request); \
            MPI_Wait(&request, MPI_STATUS_IGNORE); \
        } \
        break;
        FUNCTIONS(X)
#undef X
    default:
        break;
    }
}

/* Microseconds of one call in a batch, on the slowest rank. */
static double batch(enum function function, bool nonblocking, bool raw, int n, int iterations)
{
    double start, mine, slowest;

    PMPI_Barrier(MPI_COMM_WORLD);
    start = PMPI_Wtime();
    for (int i = 0; i < iterations; i++)
        call(function, nonblocking, raw, n);
    mine = (PMPI_Wtime() - start) / iterations * 1e6;
    PMPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values)
{
    qsort(values, BATCHES, sizeof *values, by_value);
    return values[BATCHES / 2];
}

static void measure(enum function function, bool nonblocking, size_t bytes, double ms)
{
    int n = (int)(bytes / sizeof(float)), iterations;
    double raw[BATCHES], by[BATCHES], estimate, most;

    for (int r = 0; r < nranks; r++) {
        counts[r] = is_whole[function] ? n / nranks : n;
        displs[r] = r * counts[r];
    }
    for (int i = 0; i < 2; i++) {
        call(function, nonblocking, false, n);
        call(function, nonblocking, true, n);
    }
    estimate = batch(function, nonblocking, true, n, 3);
    most = batch(function, nonblocking, false, n, 3);
    estimate = most > estimate ? most : estimate;
    iterations = (int)(ms * 1000 / (2 * BATCHES) / estimate);
    iterations = iterations < 1 ? 1 : iterations > 5000 ? 5000 : iterations;
    for (int i = 0; i < BATCHES; i++) {
        raw[i] = batch(function, nonblocking, true, n, iterations);
        by[i] = batch(function, nonblocking, false, n, iterations);
    }
    if (rank == 0)
        printf("%s %s %d %zu %.3f %.3f\n", nonblocking ? "nonblocking" : "blocking",
               names[function], nranks, function == Barrier ? 0 : bytes, median(raw), median(by));
    fflush(stdout);
}

static bool is_wanted(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = list; (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ',') && (!at[length] || at[length] == ','))
            return true;
    return !strcmp(list, "all");
}

int main(int argc, char **argv)
{
    size_t least, most;
    double factor;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &nranks);
    if (argc != 7 || nranks > MOST_RANKS) {
        fprintf(stderr, "usage: mpi-frontend-bench MIN MAX FACTOR MS FORMS FUNCTIONS\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    least = strtoull(argv[1], NULL, 10);
    most = strtoull(argv[2], NULL, 10);
    factor = strtod(argv[3], NULL);
    send_buffer = calloc(most, (size_t)nranks);
    recv_buffer = calloc(most, (size_t)nranks);
    if (!send_buffer || !recv_buffer || factor < 1.1)
        MPI_Abort(MPI_COMM_WORLD, 2);
    for (int i = 0; i < 12; i++) /* after which libthrum-mpi has a Thrum communicator */
        MPI_Barrier(MPI_COMM_WORLD);
    for (int form = 0; form < 2; form++)
        for (int f = 0; f < NFUNCTIONS; f++) {
            if (!is_wanted(argv[6], names[f]) ||
                !is_wanted(argv[5], form ? "nonblocking" : "blocking"))
                continue;
            for (double bytes = (double)least; bytes <= (double)most; bytes *= factor) {
                measure((enum function)f, form == 1, (size_t)bytes, strtod(argv[4], NULL));
                if (f == Barrier)
                    break;
            }
        }
    free(send_buffer);
    free(recv_buffer);
    MPI_Finalize();
    return 0;
}
