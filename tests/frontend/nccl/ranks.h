/* What the tests of the NCCL front end share: several ranks of this process, each with a device, a stream and buffers. */
#ifndef TESTS_FRONTEND_NCCL_RANKS_H
#define TESTS_FRONTEND_NCCL_RANKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <nccl.h>

#include "cuda_must.h"

#define RANKS_MAX 8
#define RANK_BYTES 65536 /* of each buffer */

struct ranks {
    int n;
    ncclComm_t comms[RANKS_MAX];
    cudaStream_t streams[RANKS_MAX];
    void *send[RANKS_MAX], *recv[RANKS_MAX];
};

/* Fails the test with NCCL's text. */
#define NCCL_OK(call) nccl_must((call), #call, __FILE__, __LINE__)
void nccl_must(ncclResult_t result, const char *call, const char *file, int line);
/* The call returns the result, and the last error's text has each of the NULL-ended texts in it. */
#define NCCL_FAILS(call, result, ...) \
    nccl_must_fail((call), (result), #call, __FILE__, __LINE__, __VA_ARGS__, NULL)
void nccl_must_fail(ncclResult_t got, ncclResult_t wanted, const char *call, const char *file,
                    int line, ...);

/* n ranks on devices 0 .. n-1 by ncclCommInitAll. */
void ranks_open(struct ranks *ranks, int n);
/* Their streams and buffers, for communicators that are there. */
void ranks_open_memory(struct ranks *ranks);
void ranks_close(struct ranks *ranks);
void ranks_close_memory(struct ranks *ranks);
void ranks_synchronize(struct ranks *ranks);

/* send[i] of every rank <- count ints: 1000 * rank + i; recv <- -1. */
void ranks_fill(struct ranks *ranks, size_t count);
/* One int of a rank's recv. */
int rank_result(struct ranks *ranks, int rank, size_t index);
/* Allreduces one int and checks it, on the communicators as they are. */
void ranks_check(struct ranks *ranks);

/* Teardown of a program's tests: gives all devices back, and what is still on them. */
int reset_devices(void **state);

/* Asks until the communicator's last call has ended; its result. */
ncclResult_t await(ncclComm_t comm);

#endif
