/*
 * Wrong calls of every function that the two libraries export: none crashes, none hangs, each says what is wrong. The lists
 * of functions are read from the libraries, so a new function without a row fails the test.
 */
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ranks.h"

#define WILD ((void *)(uintptr_t)0x1234560)

/* What calls are made of. */
struct arguments {
    const void *send;
    void *recv;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    ncclComm_t comm;
    cudaStream_t stream;
};

enum uses { SEND = 1, RECV = 2, COUNT = 4, TYPE = 8, OP = 16, ROOT = 32, COMM = 64, STREAM = 128 };

struct row {
    const char *name;
    unsigned uses; /* what is looked at; bits of enum uses */
    ncclResult_t (*call)(const struct arguments *a);
};

static int number;
static ncclResult_t result;
static ncclComm_t made;
static void *pointer;
static ncclWindow_t window;
static ncclRedOp_t op_made;
static int few[4];
static ncclUniqueId id;

#define COLLECTIVE (SEND | RECV | COUNT | TYPE | COMM | STREAM)
/* name, what it looks at, arguments */
#define ROWS(X) \
    X(ncclReduce, COLLECTIVE | OP | ROOT, a->send, a->recv, a->count, a->type, a->op, a->root, \
      a->comm, a->stream) \
    X(ncclBcast, (COLLECTIVE & ~SEND) | ROOT, a->recv, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclBroadcast, COLLECTIVE | ROOT, a->send, a->recv, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclAllReduce, COLLECTIVE | OP, a->send, a->recv, a->count, a->type, a->op, a->comm, \
      a->stream) \
    X(ncclReduceScatter, COLLECTIVE | OP, a->send, a->recv, a->count, a->type, a->op, a->comm, \
      a->stream) \
    X(ncclAllGather, COLLECTIVE, a->send, a->recv, a->count, a->type, a->comm, a->stream) \
    X(ncclAlltoAll, COLLECTIVE, a->send, a->recv, a->count, a->type, a->comm, a->stream) \
    X(ncclGather, COLLECTIVE | ROOT, a->send, a->recv, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclScatter, COLLECTIVE | ROOT, a->send, a->recv, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclSend, (COLLECTIVE & ~RECV) | ROOT, a->send, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclRecv, (COLLECTIVE & ~SEND) | ROOT, a->recv, a->count, a->type, a->root, a->comm, \
      a->stream) \
    X(ncclRedOpCreatePreMulSum, TYPE | COMM, &op_made, &number, a->type, ncclScalarHostImmediate, \
      a->comm) \
    X(ncclRedOpDestroy, OP | COMM, a->op, a->comm) \
    X(ncclCommSplit, COMM, a->comm, 0, 0, &made, NULL) \
    X(ncclCommShrink, COMM, a->comm, few, 1, &made, NULL, NCCL_SHRINK_ABORT) \
    X(ncclCommGetUniqueId, COMM, a->comm, &id) \
    X(ncclCommGrow, COMM, a->comm, 1, NULL, 0, &made, NULL) \
    X(ncclCommFinalize, COMM, a->comm) \
    X(ncclCommDestroy, COMM, a->comm) \
    X(ncclCommAbort, COMM, a->comm) \
    X(ncclCommRevoke, COMM, a->comm, NCCL_REVOKE_DEFAULT) \
    X(ncclCommGetAsyncError, COMM, a->comm, &result) \
    X(ncclCommCount, COMM, a->comm, &number) \
    X(ncclCommCuDevice, COMM, a->comm, &number) \
    X(ncclCommUserRank, COMM, a->comm, &number) \
    X(ncclCommRegister, COMM | RECV, a->comm, a->recv, 64, &pointer) \
    X(ncclCommDeregister, COMM, a->comm, WILD) \
    X(ncclCommWindowRegister, COMM | RECV, a->comm, a->recv, 64, &window, NCCL_WIN_DEFAULT) \
    X(ncclCommWindowDeregister, COMM, a->comm, WILD) \
    X(ncclMemAlloc, 0, NULL, 64) \
    X(ncclMemFree, RECV, a->recv) \
    X(ncclGetVersion, 0, NULL) \
    X(ncclGetUniqueId, 0, NULL) \
    X(ncclCommInitRank, 0, NULL, 1, id, 0) \
    X(ncclCommInitRankConfig, 0, NULL, 1, id, 0, NULL) \
    X(ncclCommInitRankScalable, 0, &made, 1, 0, 1, NULL, NULL) \
    X(ncclCommInitAll, 0, NULL, 2, NULL) \
    X(ncclGroupEnd, 0, ) \
    X(ncclGroupSimulateEnd, 0, NULL)

/* What cannot be wrong. */
static const char *const harmless[] = {"ncclGetErrorString", "ncclGetLastError",
                                       "ncclResetDebugInit", "ncclGroupStart"};

#define X(name, uses, ...) \
    static ncclResult_t call_##name(const struct arguments *a) \
    { \
        (void)a; \
        return name(__VA_ARGS__); \
    }
ROWS(X)
#undef X

static const struct row rows[] = {
#define X(name, uses, ...) {#name, uses, call_##name},
    ROWS(X)
#undef X
};
#define NROWS (sizeof rows / sizeof *rows)

/* ---- what a library exports ---- */

/* Calls `visit` with each function that the library which has `function` exports. */
static void each_export(void *function, void (*visit)(const char *name, void *address))
{
    Dl_info info;
    struct stat status;
    const char *file;
    int fd, found = 0;

    assert_true(dladdr(function, &info));
    fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && !fstat(fd, &status));
    file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(file != MAP_FAILED);
    close(fd);
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + elf->e_shoff);
    for (int s = 0; s < elf->e_shnum; s++) {
        const Elf64_Sym *symbols = (const Elf64_Sym *)(file + sections[s].sh_offset);
        const char *names = file + sections[sections[s].sh_link].sh_offset;

        if (sections[s].sh_type != SHT_DYNSYM)
            continue;
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++)
            if (symbols[i].st_shndx != SHN_UNDEF && symbols[i].st_value &&
                ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC) {
                visit(names + symbols[i].st_name, (char *)info.dli_fbase + symbols[i].st_value);
                found++;
            }
    }
    munmap((void *)(uintptr_t)file, (size_t)status.st_size);
    assert_true(found > 40);
}

static void has_row(const char *name, void *address)
{
    name += *name == 'p';
    for (size_t i = 0; i < NROWS; i++)
        if (!strcmp(rows[i].name, name))
            return;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (!strcmp(harmless[i], name))
            return;
    fail_msg("%s (%p) is exported and has no row here", name, address);
}

static void every_function_has_a_row(void **state)
{
    (void)state;
    each_export((void *)ncclAllReduce, has_row);
}

/* ---- NCCL ---- */

/* Refused with `wanted`; the text names the function and, if not NULL, has `text` in it. */
static void refused(const struct row *row, const struct arguments *a, ncclResult_t wanted,
                    const char *text)
{
    ncclResult_t got = row->call(a);
    const char *said = ncclGetLastError(NULL);

    if (got != wanted)
        fail_msg("%s with %s: %s (%s)", row->name, text ? text : "?", ncclGetErrorString(got),
                 said);
    if (!strstr(said, row->name) || (text && !strstr(said, text)))
        fail_msg("%s: \"%s\" lacks the name or \"%s\"", row->name, said, text ? text : "");
}

/* The ends of a communicator do nothing to none, as NCCL's. */
static bool takes_null(const char *name)
{
    return !strcmp(name, "ncclCommFinalize") || !strcmp(name, "ncclCommDestroy") ||
           !strcmp(name, "ncclCommAbort") || !strcmp(name, "ncclCommRevoke");
}

static void no_communicator(void **state)
{
    static long foreign[64];
    struct ranks ranks = {0};
    ncclComm_t freed;
    struct arguments a = {.send = WILD, .recv = WILD, .count = 4, .type = ncclInt};

    (void)state;
    ranks_open(&ranks, 1);
    freed = ranks.comms[0];
    ranks_close(&ranks);
    for (size_t i = 0; i < NROWS; i++) {
        ncclComm_t wrong[] = {NULL, (ncclComm_t)foreign, WILD, freed};

        for (size_t w = 0; rows[i].uses & COMM && w < sizeof wrong / sizeof *wrong; w++) {
            a.comm = wrong[w];
            if (!wrong[w] && takes_null(rows[i].name)) {
                NCCL_OK(rows[i].call(&a));
                continue;
            }
            refused(&rows[i], &a, ncclInvalidArgument, "comm");
        }
    }
    assert_string_not_equal(ncclGetLastError(freed), "");
    assert_string_not_equal(ncclGetLastError(WILD), "");
}

static void nothing_where_something_is_needed(void **state)
{
    const struct arguments a = {.recv = WILD};

    (void)state;
    for (size_t i = 0; i < NROWS; i++)
        if (!(rows[i].uses & COMM))
            refused(&rows[i], &a,
                    !strncmp(rows[i].name, "ncclGroup", 9) ? ncclInvalidUsage : ncclInvalidArgument,
                    NULL);
}

static bool is_message(const char *name)
{
    return !strcmp(name, "ncclSend") || !strcmp(name, "ncclRecv");
}

/* Each argument wrong in turn, the others right. */
static void one_wrong_argument(void **state)
{
    struct ranks ranks = {0};

    (void)state;
    ranks_open(&ranks, 2);
    for (size_t i = 0; i < NROWS; i++) {
        const struct arguments right = {.send = ranks.send[0],
                                        .recv = ranks.recv[0],
                                        .count = 4,
                                        .type = ncclInt,
                                        .op = ncclSum,
                                        .root = 1,
                                        .comm = ranks.comms[0],
                                        .stream = ranks.streams[0]};
        const ncclDataType_t types[] = {(ncclDataType_t)-1, ncclNumTypes, (ncclDataType_t)1000};
        const ncclRedOp_t ops[] = {(ncclRedOp_t)-1, ncclNumOps, (ncclRedOp_t)1000};
        const int roots[] = {-1, 2, 0x7fffffff};
        struct arguments a;

        if (!(rows[i].uses & COMM))
            continue;
        for (int w = 0; w < 3; w++) {
            a = right;
            a.type = types[w];
            if (rows[i].uses & TYPE)
                refused(&rows[i], &a, ncclInvalidArgument, "datatype");
            a = right;
            a.op = ops[w];
            if (rows[i].uses & OP)
                refused(&rows[i], &a, ncclInvalidArgument, "op=");
            a = right;
            a.root = roots[w];
            if (rows[i].uses & ROOT)
                refused(&rows[i], &a, ncclInvalidArgument,
                        is_message(rows[i].name) ? "peer=" : "root=");
        }
        a = right;
        a.root = is_message(rows[i].name) ? 1 : 0; /* who needs both buffers */
        a.send = NULL;
        if (rows[i].uses & SEND)
            refused(&rows[i], &a, ncclInvalidArgument, "send");
        a.send = (void *)0x1000; /* of no process */
        if (rows[i].uses & SEND)
            refused(&rows[i], &a, ncclInvalidArgument, "send");
        a.send = right.send;
        a.recv = NULL;
        if (rows[i].uses & RECV)
            refused(&rows[i], &a, ncclInvalidArgument, NULL);
        a = right;
        a.count = SIZE_MAX / 2;
        if (rows[i].uses & COUNT)
            refused(&rows[i], &a, ncclInvalidArgument, "count");
        a = right;
        a.stream = WILD;
        if (rows[i].uses & STREAM)
            refused(&rows[i], &a, ncclInvalidArgument, "stream");
    }
    ranks_check(&ranks); /* nothing of it was enqueued */
    ranks_close(&ranks);
}

/* A peer has aborted, or this rank revoked: operations say so, questions are answered, ends work. */
static void communicators_that_are_over(void **state)
{
    for (int revoked = 0; revoked < 2; revoked++) {
        struct ranks ranks = {0};
        struct arguments a = {.count = 4, .type = ncclInt};
        int known = 0;

        (void)state;
        ranks_open(&ranks, 2);
        a.send = ranks.send[0];
        a.recv = ranks.recv[0];
        a.stream = ranks.streams[0];
        a.comm = ranks.comms[0];
        if (revoked) {
            NCCL_OK(ncclCommRevoke(ranks.comms[0], NCCL_REVOKE_DEFAULT));
        } else {
            NCCL_OK(ncclCommAbort(ranks.comms[1]));
            for (result = ncclSuccess; result == ncclSuccess || result == ncclInProgress;)
                NCCL_OK(ncclCommGetAsyncError(ranks.comms[0], &result));
            assert_int_equal(result, ncclRemoteError);
        }
        for (size_t i = 0; i < NROWS; i++)
            if ((rows[i].uses & (COMM | STREAM)) == (COMM | STREAM)) {
                refused(&rows[i], &a, revoked ? ncclInvalidUsage : ncclRemoteError,
                        revoked ? "revoked" : "rank");
                known++;
            }
        assert_int_equal(known, 11);
        NCCL_OK(ncclCommCount(ranks.comms[0], &number));
        assert_int_equal(number, 2);
        assert_string_not_equal(ncclGetLastError(ranks.comms[0]), "");
        NCCL_OK(ncclCommAbort(ranks.comms[0]));
        if (revoked)
            NCCL_OK(ncclCommAbort(ranks.comms[1]));
        ranks_close_memory(&ranks);
    }
}

/* ---- CUDA's runtime ---- */

/* Nothing in any argument: enough of them for every function. */
typedef cudaError_t (*cuda_function)(long, long, long, long, long, long, long, long, long, long,
                                     long, long, long, long, long, long);

/* No argument, or all of it may be nothing; nobody waits for kernels or asks for the thread's error. */
static const char *const may_be_nothing[] = {
    "cudaDeviceReset",
    "cudaDeviceSynchronize",
    "cudaDeviceGetStreamPriorityRange",
    "cudaDeviceSetCacheConfig",
    "cudaDeviceSetLimit",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetErrorName",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaDeviceGraphMemTrim",
    "cudaInitDevice",
    "cudaMemGetInfo",
    "cudaMemcpy",
    "cudaMemcpyAsync",
    "cudaMemcpyPeer",
    "cudaMemcpyPeerAsync",
    "cudaMemcpy2D",
    "cudaMemcpy2DAsync",
    "cudaMemset",
    "cudaMemsetAsync",
    "cudaMemset2D",
    "cudaMemset2DAsync",
    "cudaMallocPitch",
    "cudaPeekAtLastError",
    "cudaProfilerStart",
    "cudaProfilerStop",
    "cudaSetDevice",
    "cudaSetDeviceFlags",
    "cudaStreamQuery",
    "cudaStreamSynchronize",
    "cudaFreeAsync",
};

static void call_with_nothing(const char *name, void *address)
{
    cuda_function function;
    cudaError_t got;

    if (strncmp(name, "cuda", 4)) /* what the compiler calls: cuda_test has it */
        return;
    *(void **)&function = address;
    (void)cudaGetLastError();
    got = function(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    for (size_t i = 0; i < sizeof may_be_nothing / sizeof *may_be_nothing; i++)
        if (!strcmp(may_be_nothing[i], name))
            return;
    if (got == cudaSuccess || got == cudaErrorUnknown)
        fail_msg("%s of nothing: %s", name, cudaGetErrorName(got));
    if (cudaGetLastError() != got || !*thrumCudaErrorDetail())
        fail_msg("%s: %s is not the last error, or has no text", name, cudaGetErrorName(got));
}

static void cuda_of_nothing(void **state)
{
    int device = 7;

    (void)state;
    CUDA_OK(cudaSetDevice(0));
    each_export((void *)cudaMalloc, call_with_nothing);
    CUDA_OK(cudaGetDevice(&device));
    assert_int_equal(device, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_function_has_a_row),          cmocka_unit_test(no_communicator),
        cmocka_unit_test(nothing_where_something_is_needed), cmocka_unit_test(one_wrong_argument),
        cmocka_unit_test(communicators_that_are_over),       cmocka_unit_test(cuda_of_nothing)};

    return cmocka_run_group_tests(tests, NULL, reset_devices);
}
