/*
 * A program as those that measure NCCL are: C++, host code only, nothing of Thrum in it. Sweeps a collective over sizes, out of
 * place and in place, timed by events, results checked by the host. Compiled and run by sweep-check; with MPI_SUPPORT a
 * process has -g of the job's devices.
 *
 *   -b, -e SIZE  first and last size      -f FACTOR  between sizes      -g DEVICES  of this process      -n ROUNDS
 *   -o NAME      all_reduce, all_gather, reduce_scatter, broadcast, sendrecv        -G  rounds are a CUDA graph's, in which each
 *                                                                                  collective is on a side stream
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <vector>

#include <cuda_runtime.h>
#include <nccl.h>
#ifdef MPI_SUPPORT
#include <mpi.h>
#endif

#define CUDACHECK(call) \
    do { \
        cudaError_t e_ = (call); \
        if (e_ != cudaSuccess) { \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            std::exit(1); \
        } \
    } while (0)
#define NCCLCHECK(call) \
    do { \
        ncclResult_t r_ = (call); \
        if (r_ != ncclSuccess) { \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, ncclGetLastError(nullptr)); \
            std::exit(1); \
        } \
    } while (0)

struct Rank {
    int rank, device;
    ncclComm_t comm;
    cudaStream_t stream, side;
    cudaEvent_t ready, done;
    int *send, *recv;
};

struct Options {
    size_t first = 8, last = 1 << 20, factor = 8;
    int devices = 1, rounds = 4;
    bool graph = false;
    std::string operation = "all_reduce";
};

static Options options;
static int nranks = 1;
static size_t capacity; // elements of each buffer

static bool is(const char *name)
{
    return options.operation == name;
}

// Elements that a rank gives and gets where `count` is the larger of both.
static size_t given(size_t count)
{
    return is("all_gather") ? count / nranks : count;
}
static size_t got(size_t count)
{
    return is("reduce_scatter") ? count / nranks : count;
}

// What rank r gives at i, and what it has to get.
static int value(int r, size_t i)
{
    return 1000 * r + static_cast<int>(i % 257);
}
static int expected(int r, size_t i, size_t count)
{
    size_t part = count / nranks, at = is("reduce_scatter") ? r * part + i : i;

    if (is("all_gather"))
        return value(static_cast<int>(i / part), i % part);
    if (is("broadcast"))
        return value(nranks - 1, i);
    if (is("sendrecv"))
        return value((r + nranks - 1) % nranks, i);
    return 1000 * (nranks * (nranks - 1) / 2) + nranks * static_cast<int>(at % 257);
}

// In place a rank's part of the one buffer is where NCCL wants it.
static int *sendbuff(const Rank &r, size_t count, bool in_place)
{
    return !in_place ? r.send : is("all_gather") ? r.recv + r.rank * (count / nranks) : r.recv;
}
static int *recvbuff(const Rank &r, size_t count, bool in_place)
{
    return in_place && is("reduce_scatter") ? r.recv + r.rank * (count / nranks) : r.recv;
}

static void call(const Rank &r, size_t count, bool in_place, cudaStream_t stream)
{
    const int *send = sendbuff(r, count, in_place);
    int *recv = recvbuff(r, count, in_place);

    if (is("all_reduce"))
        NCCLCHECK(ncclAllReduce(send, recv, count, ncclInt, ncclSum, r.comm, stream));
    else if (is("all_gather"))
        NCCLCHECK(ncclAllGather(send, recv, count / nranks, ncclInt, r.comm, stream));
    else if (is("reduce_scatter"))
        NCCLCHECK(ncclReduceScatter(send, recv, count / nranks, ncclInt, ncclSum, r.comm, stream));
    else if (is("broadcast"))
        NCCLCHECK(ncclBroadcast(send, recv, count, ncclInt, nranks - 1, r.comm, stream));
    else {
        NCCLCHECK(ncclSend(r.send, count, ncclInt, (r.rank + 1) % nranks, r.comm, stream));
        NCCLCHECK(ncclRecv(recv, count, ncclInt, (r.rank + nranks - 1) % nranks, r.comm, stream));
    }
}

static void call_all(const std::vector<Rank> &ranks, size_t count, bool in_place)
{
    NCCLCHECK(ncclGroupStart());
    for (const Rank &r : ranks)
        call(r, count, in_place, r.stream);
    NCCLCHECK(ncclGroupEnd());
}

static void synchronize(const std::vector<Rank> &ranks)
{
    for (const Rank &r : ranks) {
        while (cudaStreamQuery(r.stream) == cudaErrorNotReady) {
            ncclResult_t async;
            NCCLCHECK(ncclCommGetAsyncError(r.comm, &async));
            NCCLCHECK(async);
        }
        CUDACHECK(cudaStreamSynchronize(r.stream));
    }
}

static void fill(const Rank &r, size_t count, bool in_place)
{
    std::vector<int> host(given(count));

    CUDACHECK(cudaSetDevice(r.device));
    CUDACHECK(cudaMemset(r.recv, 0xff, capacity * sizeof(int)));
    for (size_t i = 0; i < host.size(); i++)
        host[i] = value(r.rank, i);
    CUDACHECK(cudaMemcpy(r.send, host.data(), host.size() * sizeof(int), cudaMemcpyHostToDevice));
    CUDACHECK(cudaMemcpy(sendbuff(r, count, in_place), host.data(), host.size() * sizeof(int),
                         cudaMemcpyHostToDevice));
}

static size_t wrong(const Rank &r, size_t count, bool in_place)
{
    std::vector<int> host(got(count));
    size_t n = 0;

    CUDACHECK(cudaMemcpy(host.data(), recvbuff(r, count, in_place), host.size() * sizeof(int),
                         cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < host.size(); i++)
        n += host[i] != expected(r.rank, i, count);
    return n;
}

// The rounds of every rank as one graph each.
static std::vector<cudaGraphExec_t> capture(const std::vector<Rank> &ranks, size_t count,
                                            bool in_place)
{
    std::vector<cudaGraphExec_t> executables(ranks.size());

    for (const Rank &r : ranks)
        CUDACHECK(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal));
    for (int round = 0; round < options.rounds; round++)
        for (const Rank &r : ranks) {
            CUDACHECK(cudaEventRecord(r.ready, r.stream));
            CUDACHECK(cudaStreamWaitEvent(r.side, r.ready, 0));
            NCCLCHECK(ncclGroupStart());
            call(r, count, in_place, r.side);
            NCCLCHECK(ncclGroupEnd());
            CUDACHECK(cudaEventRecord(r.done, r.side));
            CUDACHECK(cudaStreamWaitEvent(r.stream, r.done, 0));
        }
    for (size_t i = 0; i < ranks.size(); i++) {
        cudaGraph_t graph;
        CUDACHECK(cudaStreamEndCapture(ranks[i].stream, &graph));
        CUDACHECK(cudaGraphInstantiate(&executables[i], graph, 0));
        CUDACHECK(cudaGraphDestroy(graph));
    }
    return executables;
}

static float run(const std::vector<Rank> &ranks, size_t count, bool in_place)
{
    std::vector<cudaGraphExec_t> executables;
    cudaEvent_t start, stop;
    float milliseconds;

    if (options.graph)
        executables = capture(ranks, count, in_place);
    CUDACHECK(cudaSetDevice(ranks[0].device));
    CUDACHECK(cudaEventCreate(&start));
    CUDACHECK(cudaEventCreate(&stop));
    CUDACHECK(cudaEventRecord(start, ranks[0].stream));
    for (size_t i = 0; i < executables.size(); i++)
        CUDACHECK(cudaGraphLaunch(executables[i], ranks[i].stream));
    for (int round = 0; !options.graph && round < options.rounds; round++)
        call_all(ranks, count, in_place);
    CUDACHECK(cudaEventRecord(stop, ranks[0].stream));
    synchronize(ranks);
    CUDACHECK(cudaEventElapsedTime(&milliseconds, start, stop));
    CUDACHECK(cudaEventDestroy(start));
    CUDACHECK(cudaEventDestroy(stop));
    for (cudaGraphExec_t executable : executables)
        CUDACHECK(cudaGraphExecDestroy(executable));
    return milliseconds * 1000 / static_cast<float>(options.rounds);
}

// Times it, then once more on fresh data for the check: in place the rounds have changed them.
static size_t measure(const std::vector<Rank> &ranks, size_t count, bool in_place)
{
    size_t n = 0;
    float us;

    for (const Rank &r : ranks)
        fill(r, count, in_place);
    us = run(ranks, count, in_place);
    for (const Rank &r : ranks)
        fill(r, count, in_place);
    call_all(ranks, count, in_place);
    synchronize(ranks);
    for (const Rank &r : ranks)
        n += wrong(r, count, in_place);
    std::printf(" %10.2f %8.3f %6zu", us, static_cast<double>(count) * sizeof(int) / us / 1e3, n);
    return n;
}

static void parse(int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "b:e:f:g:n:o:G")) != -1)
        switch (option) {
        case 'b':
            options.first = std::strtoull(optarg, nullptr, 0);
            break;
        case 'e':
            options.last = std::strtoull(optarg, nullptr, 0);
            break;
        case 'f':
            options.factor = std::strtoull(optarg, nullptr, 0);
            break;
        case 'g':
            options.devices = std::atoi(optarg);
            break;
        case 'n':
            options.rounds = std::atoi(optarg);
            break;
        case 'o':
            options.operation = optarg;
            break;
        case 'G':
            options.graph = true;
            break;
        default:
            std::exit(2);
        }
    if (options.factor < 2 || options.devices < 1 || options.rounds < 1)
        std::exit(2);
}

int main(int argc, char **argv)
{
    int process = 0, processes = 1, visible;
    ncclUniqueId id;
    size_t all_wrong = 0;

    parse(argc, argv);
#ifdef MPI_SUPPORT
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &process);
    MPI_Comm_size(MPI_COMM_WORLD, &processes);
#endif
    nranks = processes * options.devices;
    capacity = options.last / sizeof(int) + static_cast<size_t>(nranks);
    CUDACHECK(cudaGetDeviceCount(&visible));
    std::vector<Rank> ranks(static_cast<size_t>(options.devices));
    if (process == 0)
        NCCLCHECK(ncclGetUniqueId(&id));
#ifdef MPI_SUPPORT
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
#endif
    NCCLCHECK(ncclGroupStart());
    for (int i = 0; i < options.devices; i++) {
        Rank &r = ranks[static_cast<size_t>(i)];
        r.rank = process * options.devices + i;
        r.device = i % visible;
        CUDACHECK(cudaSetDevice(r.device));
        CUDACHECK(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking));
        CUDACHECK(cudaStreamCreateWithFlags(&r.side, cudaStreamNonBlocking));
        CUDACHECK(cudaEventCreateWithFlags(&r.ready, cudaEventDisableTiming));
        CUDACHECK(cudaEventCreateWithFlags(&r.done, cudaEventDisableTiming));
        CUDACHECK(cudaMalloc(&r.send, capacity * sizeof(int)));
        CUDACHECK(cudaMalloc(&r.recv, capacity * sizeof(int)));
        NCCLCHECK(ncclCommInitRank(&r.comm, nranks, id, r.rank));
    }
    NCCLCHECK(ncclGroupEnd());
    for (size_t bytes = options.first; bytes <= options.last; bytes *= options.factor) {
        size_t count =
            bytes / sizeof(int) / static_cast<size_t>(nranks) * static_cast<size_t>(nranks);
        std::printf("%12zu %12zu", bytes, count);
        all_wrong += measure(ranks, count, false) + measure(ranks, count, true);
        std::printf("\n");
    }
    for (const Rank &r : ranks) {
        CUDACHECK(cudaSetDevice(r.device));
        NCCLCHECK(ncclCommFinalize(r.comm));
        NCCLCHECK(ncclCommDestroy(r.comm));
        CUDACHECK(cudaFree(r.send));
        CUDACHECK(cudaFree(r.recv));
        CUDACHECK(cudaStreamDestroy(r.stream));
        CUDACHECK(cudaStreamDestroy(r.side));
    }
    std::printf("# %s, %d ranks, wrong: %zu\n", options.operation.c_str(), nranks, all_wrong);
#ifdef MPI_SUPPORT
    MPI_Finalize();
#endif
    return all_wrong != 0;
}
