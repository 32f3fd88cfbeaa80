/*
 * A program for CUDA and NCCL, with nothing of Thrum in it: allreduce over a sweep of sizes, checked, in the manner of
 * nccl-tests. Host code only, so that it runs on Thrum's software accelerator as it does on GPUs.
 *
 *   cc nccl_allreduce.c $(thrum-run --flags) -o nccl_allreduce
 *   thrum-run ./nccl_allreduce -g 4                     one process, four devices
 *   mpirun -n 4 thrum-run ./nccl_allreduce -f ID-FILE   a process for each device; rank 0 writes the id to this file, which
 *                                                       is not there yet, and removes it when all have joined
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cuda_runtime.h>
#include <nccl.h>

#define CUDACHECK(call) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) { \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, \
                    cudaGetErrorString(error_)); \
            exit(1); \
        } \
    } while (0)
#define NCCLCHECK(call) \
    do { \
        ncclResult_t result_ = (call); \
        if (result_ != ncclSuccess) { \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, \
                    ncclGetErrorString(result_), ncclGetLastError(NULL)); \
            exit(1); \
        } \
    } while (0)

#define WARMUP 5
#define ROUNDS 20

/* One rank of this process. */
struct rank {
    int device;
    ncclComm_t comm;
    cudaStream_t stream;
    float *send, *recv;
};

static int number_from(const char *const *names, int fallback)
{
    for (; *names; names++)
        if (getenv(*names))
            return atoi(getenv(*names));
    return fallback;
}

/* Rank 0 makes the id and moves it to where the others look for it. */
static ncclUniqueId exchange_id(const char *path, int rank)
{
    char temporary[4096];
    ncclUniqueId id;
    FILE *file;

    if (rank == 0) {
        NCCLCHECK(ncclGetUniqueId(&id));
        snprintf(temporary, sizeof temporary, "%s.new", path);
        umask(077); /* who has the id can join */
        file = fopen(temporary, "wb");
        if (!file || fwrite(&id, sizeof id, 1, file) != 1 || fclose(file) ||
            rename(temporary, path)) {
            perror(path);
            exit(1);
        }
        return id;
    }
    while (!(file = fopen(path, "rb")))
        usleep(1000);
    if (fread(&id, sizeof id, 1, file) != 1) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return id;
}

static void open_rank(struct rank *rank, size_t bytes)
{
    CUDACHECK(cudaSetDevice(rank->device));
    CUDACHECK(cudaStreamCreate(&rank->stream));
    CUDACHECK(cudaMalloc((void **)&rank->send, bytes));
    CUDACHECK(cudaMalloc((void **)&rank->recv, bytes));
}

static void close_rank(struct rank *rank)
{
    CUDACHECK(cudaSetDevice(rank->device));
    NCCLCHECK(ncclCommDestroy(rank->comm));
    CUDACHECK(cudaStreamDestroy(rank->stream));
    CUDACHECK(cudaFree(rank->send));
    CUDACHECK(cudaFree(rank->recv));
}

static void allreduce(struct rank *ranks, int n, size_t count)
{
    NCCLCHECK(ncclGroupStart());
    for (int i = 0; i < n; i++)
        NCCLCHECK(ncclAllReduce(ranks[i].send, ranks[i].recv, count, ncclFloat, ncclSum,
                                ranks[i].comm, ranks[i].stream));
    NCCLCHECK(ncclGroupEnd());
}

static void wait_for(struct rank *ranks, int n)
{
    for (int i = 0; i < n; i++)
        CUDACHECK(cudaStreamSynchronize(ranks[i].stream));
}

/* Rank r gives r + i % 7. */
static void fill(struct rank *rank, float *host, size_t count)
{
    int number;

    NCCLCHECK(ncclCommUserRank(rank->comm, &number));
    for (size_t i = 0; i < count; i++)
        host[i] = (float)(number + (int)(i % 7));
    CUDACHECK(cudaMemcpy(rank->send, host, count * sizeof *host, cudaMemcpyHostToDevice));
    CUDACHECK(cudaMemset(rank->recv, 0xff, count * sizeof *host));
}

static size_t count_wrong(struct rank *rank, float *host, size_t count)
{
    size_t wrong = 0;
    int n;

    NCCLCHECK(ncclCommCount(rank->comm, &n));
    CUDACHECK(cudaMemcpy(host, rank->recv, count * sizeof *host, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < count; i++)
        wrong += host[i] != (float)(n * (n - 1) / 2 + n * (int)(i % 7));
    return wrong;
}

/* One line of the table; how many elements were wrong. */
static size_t measure(struct rank *ranks, int n, float *host, size_t count, int prints)
{
    cudaEvent_t start, end;
    size_t wrong = 0;
    float milliseconds;
    double us;
    int nranks;

    for (int i = 0; i < n; i++)
        fill(&ranks[i], host, count);
    for (int i = 0; i < WARMUP; i++)
        allreduce(ranks, n, count);
    wait_for(ranks, n);
    CUDACHECK(cudaSetDevice(ranks[0].device));
    CUDACHECK(cudaEventCreate(&start));
    CUDACHECK(cudaEventCreate(&end));
    CUDACHECK(cudaEventRecord(start, ranks[0].stream));
    for (int i = 0; i < ROUNDS; i++)
        allreduce(ranks, n, count);
    CUDACHECK(cudaEventRecord(end, ranks[0].stream));
    wait_for(ranks, n);
    CUDACHECK(cudaEventElapsedTime(&milliseconds, start, end));
    CUDACHECK(cudaEventDestroy(start));
    CUDACHECK(cudaEventDestroy(end));
    for (int i = 0; i < n; i++)
        wrong += count_wrong(&ranks[i], host, count);
    NCCLCHECK(ncclCommCount(ranks[0].comm, &nranks));
    us = milliseconds * 1000.0 / ROUNDS;
    if (prints)
        printf("%12zu %12zu   float   sum %12.2f %10.3f %10.3f %8zu\n", count * sizeof *host, count,
               us, (double)(count * sizeof *host) / us / 1e3,
               (double)(count * sizeof *host) / us / 1e3 * 2 * (nranks - 1) / nranks, wrong);
    return wrong;
}

int main(int argc, char **argv)
{
    static const char *const rank_names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID",
                                             "RANK", NULL};
    static const char *const size_names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS",
                                             "WORLD_SIZE", NULL};
    static const char *const local_names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                              "SLURM_LOCALID", "LOCAL_RANK", NULL};
    const char *id_file = NULL;
    size_t largest = 4 << 20, wrong = 0;
    int n = 1, count, option, number = 0, version;
    struct rank *ranks;
    float *host;

    while ((option = getopt(argc, argv, "g:e:f:")) != -1) {
        if (option == 'g')
            n = atoi(optarg);
        else if (option == 'e')
            largest = strtoull(optarg, NULL, 0);
        else if (option == 'f')
            id_file = optarg;
        else
            return 2;
    }
    CUDACHECK(cudaGetDeviceCount(&count));
    if (n < 1 || n > count || largest < sizeof *host) {
        fprintf(stderr, "usage: %s [-g DEVICES (1 to %d)] [-e LARGEST-SIZE] [-f ID-FILE]\n",
                argv[0], count);
        return 2;
    }
    ranks = calloc((size_t)n, sizeof *ranks);
    host = malloc(largest);
    if (!ranks || !host)
        return 1;
    if (id_file) {
        int size = number_from(size_names, 1), local = number_from(local_names, 0);
        ncclUniqueId id;

        number = number_from(rank_names, 0);
        id = exchange_id(id_file, number);
        NCCLCHECK(ncclGroupStart());
        for (int i = 0; i < n; i++) {
            ranks[i].device = (local * n + i) % count;
            CUDACHECK(cudaSetDevice(ranks[i].device));
            NCCLCHECK(ncclCommInitRank(&ranks[i].comm, size * n, id, number * n + i));
        }
        NCCLCHECK(ncclGroupEnd());
        if (number == 0) /* the next run would find it */
            (void)remove(id_file);
    } else {
        ncclComm_t *comms = malloc((size_t)n * sizeof *comms);

        NCCLCHECK(ncclCommInitAll(comms, n, NULL));
        for (int i = 0; i < n; i++)
            ranks[i] = (struct rank){.device = i, .comm = comms[i]};
        free(comms);
    }
    for (int i = 0; i < n; i++)
        open_rank(&ranks[i], largest);
    NCCLCHECK(ncclGetVersion(&version));
    if (number == 0)
        printf("# NCCL %d, %d devices in this process\n%12s %12s %7s %5s %12s %10s %10s %8s\n",
               version, n, "size (B)", "elements", "type", "op", "time (us)", "algbw", "busbw",
               "wrong");
    for (size_t bytes = 8; bytes <= largest; bytes *= 8)
        wrong += measure(ranks, n, host, bytes / sizeof *host, number == 0);
    for (int i = 0; i < n; i++)
        close_rank(&ranks[i]);
    free(host);
    free(ranks);
    if (number == 0)
        printf("# wrong elements: %zu\n", wrong);
    return wrong != 0;
}
