/*
 * Ranks as processes of their own, one of which dies or never comes: the others get NCCL's error with a text that names it,
 * in time, and can go on without it.
 */
#include "ranks.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define N 3

/* A rank's side: what it needs, and its end of the pipes to the test. */
struct self {
    int rank, in, out;
    ncclComm_t comm;
    cudaStream_t stream;
    int *buffer;
};

/* In a rank: leaves with a message unless true. */
#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "rank %d: line %d: %s: %s\n", self->rank, __LINE__, #condition, \
                    ncclGetLastError(NULL)); \
            _exit(1); \
        } \
    } while (0)

static void say(struct self *self, const void *what, size_t bytes)
{
    MUST(write(self->out, what, bytes) == (ssize_t)bytes);
}

static void hear(struct self *self, void *what, size_t bytes)
{
    for (char *at = what; bytes;) {
        ssize_t n = read(self->in, at, bytes);

        MUST(n > 0);
        at += n;
        bytes -= (size_t)n;
    }
}

/* Rank 0 makes the id, the test hands it on. All processes call their device 0. */
static ncclResult_t join(struct self *self)
{
    ncclUniqueId id;

    MUST(cudaSetDevice(0) == cudaSuccess);
    if (self->rank == 0) {
        MUST(ncclGetUniqueId(&id) == ncclSuccess);
        say(self, &id, sizeof id);
    } else {
        hear(self, &id, sizeof id);
    }
    return ncclCommInitRank(&self->comm, N, id, self->rank);
}

static void open_buffer(struct self *self)
{
    MUST(cudaStreamCreate(&self->stream) == cudaSuccess);
    MUST(cudaMalloc((void **)&self->buffer, 4096) == cudaSuccess);
}

static cudaError_t sum(struct self *self, ncclComm_t comm, int *result)
{
    int one = 1;
    cudaError_t error;

    MUST(cudaMemcpy(self->buffer, &one, sizeof one, cudaMemcpyHostToDevice) == cudaSuccess);
    if (ncclAllReduce(self->buffer, self->buffer, 1, ncclInt, ncclSum, comm, self->stream))
        return cudaErrorUnknown;
    error = cudaStreamSynchronize(self->stream);
    MUST(cudaMemcpy(result, self->buffer, sizeof *result, cudaMemcpyDeviceToHost) == cudaSuccess);
    return error;
}

/* ---- roles ---- */

/* One dies while the others wait for it; they end that, and go on among themselves. */
static void survive(struct self *self, int victim)
{
    ncclResult_t result;
    ncclComm_t left;
    int total = 0, n;

    MUST(join(self) == ncclSuccess);
    open_buffer(self);
    MUST(sum(self, self->comm, &total) == cudaSuccess && total == N);
    say(self, "r", 1);
    if (self->rank == victim)
        for (;;)
            pause();
    MUST(sum(self, self->comm, &total) != cudaSuccess);
    MUST(ncclCommGetAsyncError(self->comm, &result) == ncclSuccess);
    MUST(result == ncclRemoteError);
    MUST(strchr(ncclGetLastError(self->comm), '0' + victim));
    MUST(ncclAllReduce(self->buffer, self->buffer, 1, ncclInt, ncclSum, self->comm, self->stream) ==
         ncclRemoteError);
    MUST(ncclCommShrink(self->comm, &victim, 1, &left, NULL, NCCL_SHRINK_ABORT) == ncclSuccess);
    MUST(ncclCommCount(left, &n) == ncclSuccess && n == N - 1);
    MUST(ncclCommAbort(self->comm) == ncclSuccess);
    MUST(sum(self, left, &total) == cudaSuccess && total == N - 1);
    MUST(ncclCommDestroy(left) == ncclSuccess);
    say(self, "d", 1);
}

static void survive_last(struct self *self)
{
    survive(self, N - 1);
}

static void survive_first(struct self *self)
{
    survive(self, 0);
}

/* The last rank never comes. */
static void miss_one(struct self *self)
{
    if (self->rank == N - 1) {
        ncclUniqueId id;

        hear(self, &id, sizeof id);
        say(self, "d", 1);
        return;
    }
    MUST(join(self) == ncclRemoteError);
    MUST(!self->comm);
    MUST(strstr(ncclGetLastError(NULL), "ncclCommInitRank"));
    MUST(strstr(ncclGetLastError(NULL), "rank 2"));
    say(self, "d", 1);
}

/* ---- the test's side ---- */

struct crew {
    pid_t pids[N];
    int to[N], from[N];
};

static void start(struct crew *crew, void (*role)(struct self *))
{
    ncclUniqueId id;

    for (int r = 0; r < N; r++) {
        int in[2], out[2];

        assert_int_equal(pipe(in) | pipe(out), 0);
        crew->pids[r] = fork();
        assert_true(crew->pids[r] >= 0);
        if (!crew->pids[r]) {
            struct self self = {.rank = r, .in = in[0], .out = out[1]};

            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (int i = 0; i < r; i++) {
                close(crew->to[i]);
                close(crew->from[i]);
            }
            close(in[1]);
            close(out[0]);
            role(&self);
            _exit(0);
        }
        close(in[0]);
        close(out[1]);
        crew->to[r] = in[1];
        crew->from[r] = out[0];
    }
    assert_int_equal(read(crew->from[0], &id, sizeof id), sizeof id);
    for (int r = 1; r < N; r++)
        assert_int_equal(write(crew->to[r], &id, sizeof id), sizeof id);
}

static void expect(struct crew *crew, int rank, char wanted)
{
    char got = 0;
    ssize_t n;

    do
        n = read(crew->from[rank], &got, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1 || got != wanted)
        fail_msg("rank %d has ended, or said '%c' and not '%c'", rank, got ? got : '-', wanted);
}

static void finish(struct crew *crew, int victim)
{
    for (int r = 0; r < N; r++) {
        int status;

        assert_int_equal(waitpid(crew->pids[r], &status, 0), crew->pids[r]);
        if (r != victim)
            assert_int_equal(status, 0);
        close(crew->to[r]);
        close(crew->from[r]);
    }
}

static void one_dies(void (*role)(struct self *), int victim)
{
    struct crew crew;

    start(&crew, role);
    for (int r = 0; r < N; r++)
        expect(&crew, r, 'r');
    kill(crew.pids[victim], SIGKILL);
    for (int r = 0; r < N; r++)
        if (r != victim)
            expect(&crew, r, 'd');
    finish(&crew, victim);
}

static void last_dies(void **state)
{
    (void)state;
    one_dies(survive_last, N - 1);
}

static void first_dies(void **state)
{
    (void)state;
    one_dies(survive_first, 0);
}

static void one_is_missing(void **state)
{
    struct crew crew;

    (void)state;
    setenv("THRUM_INIT_DEADLINE_MS", "1000", 1);
    start(&crew, miss_one);
    for (int r = 0; r < N; r++)
        expect(&crew, r, 'd');
    finish(&crew, -1);
    unsetenv("THRUM_INIT_DEADLINE_MS");
}

int main(void)
{
    /* This process stays without threads, so that it can fork: it calls nothing of the libraries. */
    const struct CMUnitTest tests[] = {cmocka_unit_test(last_dies), cmocka_unit_test(first_dies),
                                       cmocka_unit_test(one_is_missing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
