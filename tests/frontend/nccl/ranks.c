/* See ranks.h. */
#include "ranks.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

void nccl_must(ncclResult_t result, const char *call, const char *file, int line)
{
    if (result != ncclSuccess)
        print_error("%s: %s: %s\n", call, ncclGetErrorString(result), ncclGetLastError(NULL));
    _assert_int_equal((uintmax_t)result, ncclSuccess, file, line);
}

void nccl_must_fail(ncclResult_t got, ncclResult_t wanted, const char *call, const char *file,
                    int line, ...)
{
    const char *text = ncclGetLastError(NULL), *part;
    va_list parts;

    if (got != wanted)
        print_error("%s: %s: %s\n", call, ncclGetErrorString(got), text);
    _assert_int_equal((uintmax_t)got, (uintmax_t)wanted, file, line);
    va_start(parts, line);
    while ((part = va_arg(parts, const char *)))
        if (!strstr(text, part)) {
            print_error("%s: \"%s\" lacks \"%s\"\n", call, text, part);
            _fail(file, line);
        }
    va_end(parts);
}

void ranks_open_memory(struct ranks *ranks)
{
    for (int r = 0; r < ranks->n; r++) {
        int device;

        NCCL_OK(ncclCommCuDevice(ranks->comms[r], &device));
        CUDA_OK(cudaSetDevice(device));
        CUDA_OK(cudaStreamCreate(&ranks->streams[r]));
        CUDA_OK(cudaMalloc(&ranks->send[r], RANK_BYTES));
        CUDA_OK(cudaMalloc(&ranks->recv[r], RANK_BYTES));
    }
}

void ranks_open(struct ranks *ranks, int n)
{
    ranks->n = n;
    NCCL_OK(ncclCommInitAll(ranks->comms, n, NULL));
    ranks_open_memory(ranks);
}

void ranks_close_memory(struct ranks *ranks)
{
    for (int r = 0; r < ranks->n; r++) {
        CUDA_OK(cudaStreamDestroy(ranks->streams[r]));
        CUDA_OK(cudaFree(ranks->send[r]));
        CUDA_OK(cudaFree(ranks->recv[r]));
    }
}

void ranks_close(struct ranks *ranks)
{
    for (int r = 0; r < ranks->n; r++)
        NCCL_OK(ncclCommDestroy(ranks->comms[r]));
    ranks_close_memory(ranks);
}

void ranks_synchronize(struct ranks *ranks)
{
    for (int r = 0; r < ranks->n; r++)
        CUDA_OK(cudaStreamSynchronize(ranks->streams[r]));
}

void ranks_fill(struct ranks *ranks, size_t count)
{
    int values[RANK_BYTES / sizeof(int)];

    assert_true(count <= sizeof values / sizeof *values);
    for (int r = 0; r < ranks->n; r++) {
        for (size_t i = 0; i < count; i++)
            values[i] = 1000 * r + (int)i;
        CUDA_OK(cudaMemcpy(ranks->send[r], values, count * sizeof *values, cudaMemcpyHostToDevice));
        CUDA_OK(cudaMemset(ranks->recv[r], 0xff, RANK_BYTES));
    }
}

int rank_result(struct ranks *ranks, int rank, size_t index)
{
    int value;

    CUDA_OK(cudaMemcpy(&value, (const int *)ranks->recv[rank] + index, sizeof value,
                       cudaMemcpyDeviceToHost));
    return value;
}

void ranks_check(struct ranks *ranks)
{
    ranks_fill(ranks, 1);
    NCCL_OK(ncclGroupStart());
    for (int r = 0; r < ranks->n; r++)
        NCCL_OK(ncclAllReduce(ranks->send[r], ranks->recv[r], 1, ncclInt, ncclSum, ranks->comms[r],
                              ranks->streams[r]));
    NCCL_OK(ncclGroupEnd());
    ranks_synchronize(ranks);
    for (int r = 0; r < ranks->n; r++)
        assert_int_equal(rank_result(ranks, r, 0), 1000 * ranks->n * (ranks->n - 1) / 2);
}

int reset_devices(void **state)
{
    int count;

    (void)state;
    CUDA_OK(cudaGetDeviceCount(&count));
    for (int i = 0; i < count; i++) {
        CUDA_OK(cudaSetDevice(i));
        CUDA_OK(cudaDeviceReset());
    }
    return 0;
}

ncclResult_t await(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;

    while (state == ncclInProgress) {
        NCCL_OK(ncclCommGetAsyncError(comm, &state));
        sched_yield();
    }
    return state;
}
