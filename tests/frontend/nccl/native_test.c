/*
 * libnccl in a process whose CUDA runtime is a vendor's: two ranks of this process on its devices, with streams that
 * Thrum's own libcudart knows nothing of. The vendor is make-believe (acme.c). usage: no arguments
 */
#include <dlfcn.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <nccl.h>

#include "acme.h"

#define RANKS 2
#define COUNT 64

#define CUDA_OK(call) assert_int_equal((call), cudaSuccess)
#define NCCL_OK(call) \
    do { \
        ncclResult_t got_ = (call); \
        if (got_) \
            fail_msg("%s: %d: %s", #call, (int)got_, ncclGetLastError(NULL)); \
    } while (0)
#define NCCL_FAILS(call, result, text) \
    do { \
        assert_int_equal((call), (result)); \
        if (!strstr(ncclGetLastError(NULL), (text))) \
            fail_msg("\"%s\" lacks \"%s\"", ncclGetLastError(NULL), (text)); \
    } while (0)

static struct {
    ncclComm_t comms[RANKS];
    cudaStream_t streams[RANKS];
    int *send[RANKS], *recv[RANKS]; /* of the device */
    int host[RANKS][COUNT];
} all;

/* ---- two ranks ---- */

static int open_ranks(void **state)
{
    (void)state;
    NCCL_OK(ncclCommInitAll(all.comms, RANKS, NULL));
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamCreate(&all.streams[r]));
        CUDA_OK(cudaMalloc((void **)&all.send[r], sizeof all.host[r]));
        CUDA_OK(cudaMalloc((void **)&all.recv[r], sizeof all.host[r]));
    }
    assert_int_equal(acme_imports(), 0);
    return 0;
}

static void destroy_comms(void)
{
    for (int r = 0; r < RANKS; r++) {
        NCCL_OK(ncclCommDestroy(all.comms[r]));
        all.comms[r] = NULL;
    }
}

static int close_ranks(void **state)
{
    (void)state;
    destroy_comms();
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamDestroy(all.streams[r]));
        CUDA_OK(cudaFree(all.send[r]));
        CUDA_OK(cudaFree(all.recv[r]));
    }
    assert_int_equal(acme_imports(), 0);
    return 0;
}

/* The vendor's own work on a rank's stream: send <- value of every element. `values`: there until it is done. */
static void fill(int rank, cudaStream_t stream, int value, int *values)
{
    for (int i = 0; i < COUNT; i++)
        values[i] = value + i;
    CUDA_OK(
        cudaMemcpyAsync(all.send[rank], values, COUNT * sizeof *values, cudaMemcpyDefault, stream));
}

static void fetch(int rank, cudaStream_t stream, int *values)
{
    CUDA_OK(
        cudaMemcpyAsync(values, all.recv[rank], COUNT * sizeof *values, cudaMemcpyDefault, stream));
}

static void sum(int rank, cudaStream_t stream)
{
    NCCL_OK(ncclAllReduce(all.send[rank], all.recv[rank], COUNT, ncclInt32, ncclSum,
                          all.comms[rank], stream));
}

/* Of rank r all filled with value[r]. */
static void check(const int *values, int of_0, int of_1)
{
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(values[i], of_0 + of_1 + 2 * i);
}

/* One allreduce between the vendor's own work, on these streams. */
static void round_trip(const cudaStream_t *streams)
{
    int values[RANKS][COUNT];

    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        fill(r, streams[r], 100 + 1000 * r, values[r]);
        sum(r, streams[r]);
        fetch(r, streams[r], all.host[r]);
    }
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamSynchronize(streams[r]));
        check(all.host[r], 100, 1100);
    }
}

/* ---- tests ---- */

/* In a process of its own, which has begun with nothing. */
static int is_refused(void)
{
    ncclComm_t comm;
    ncclResult_t result;

    setenv("ACME_WITHOUT_IMPORT", "1", 1);
    result = ncclCommInitAll(&comm, 1, NULL);
    if (result == ncclInvalidUsage && strstr(ncclGetLastError(NULL), "THRUM_DEVICE=acme cannot") &&
        strstr(ncclGetLastError(NULL), "libcudart.so"))
        return 0;
    print_error("%d: %s\n", (int)result, ncclGetLastError(NULL));
    return 1;
}

static void test_a_plugin_without_import(void **state)
{
    pid_t child = fork();
    int status;

    (void)state;
    if (!child)
        _exit(is_refused());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_which_runtimes_are_there(void **state)
{
    (void)state;
    assert_int_equal(dlsym(RTLD_DEFAULT, "thrum_cudart_device") != NULL, OWN_RUNTIME);
}

static void test_streams_of_the_vendor(void **state)
{
    (void)state;
    round_trip(all.streams);
    assert_int_equal(acme_imports(), RANKS);
    round_trip(all.streams);
    assert_int_equal(acme_imports(), RANKS); /* once each */
}

/* The stream's other work before an operation holds it, and that behind it waits. */
static void test_order(void **state)
{
    _Atomic bool open = false;
    int values[RANKS][COUNT];

    (void)state;
    round_trip(all.streams);
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        memset(all.host[r], 0, sizeof all.host[r]);
        CUDA_OK(acme_gate(all.streams[r], &open));
        fill(r, all.streams[r], 7 + r, values[r]);
        sum(r, all.streams[r]);
        fetch(r, all.streams[r], all.host[r]);
    }
    assert_int_equal(all.host[0][1], 0);
    atomic_store(&open, true);
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamSynchronize(all.streams[r]));
        check(all.host[r], 7, 8);
    }
}

/* Operations one after the other, with work between them that only the vendor knows of. */
static void test_work_between_operations(void **state)
{
    enum { ROUNDS = 8 };
    static int values[RANKS][ROUNDS][COUNT], results[RANKS][ROUNDS][COUNT];

    (void)state;
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        for (int i = 0; i < ROUNDS; i++) {
            fill(r, all.streams[r], 50 * i + r, values[r][i]);
            sum(r, all.streams[r]);
            fetch(r, all.streams[r], results[r][i]);
        }
    }
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamSynchronize(all.streams[r]));
        for (int i = 0; i < ROUNDS; i++)
            check(results[r][i], 50 * i, 50 * i + 1);
    }
}

static void test_default_stream(void **state)
{
    const cudaStream_t none[RANKS] = {NULL}, legacy[RANKS] = {cudaStreamLegacy, cudaStreamLegacy};

    (void)state;
    round_trip(none);
    round_trip(legacy);
}

static void test_two_streams(void **state)
{
    cudaStream_t others[RANKS];

    (void)state;
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamCreate(&others[r]));
    }
    round_trip(all.streams);
    round_trip(others);
    round_trip(all.streams);
    assert_int_equal(acme_imports(), 2 * RANKS);
    /* destroyed before the communicators: the next stream has the address, and is another */
    for (int r = 0; r < RANKS; r++) {
        cudaStream_t old = others[r];

        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamDestroy(old));
        CUDA_OK(cudaStreamCreate(&others[r]));
        assert_ptr_equal(others[r], old);
    }
    round_trip(others);
    assert_int_equal(acme_imports(), 2 * RANKS);
    for (int r = 0; r < RANKS; r++) {
        CUDA_OK(cudaSetDevice(r));
        CUDA_OK(cudaStreamDestroy(others[r]));
    }
}

static void test_what_is_no_stream(void **state)
{
    int local;
    cudaStream_t gone;

    (void)state;
    CUDA_OK(cudaSetDevice(0));
    CUDA_OK(cudaStreamCreate(&gone));
    CUDA_OK(cudaStreamDestroy(gone));
#define ON(stream) \
    ncclAllReduce(all.send[0], all.recv[0], 1, ncclInt32, ncclSum, all.comms[0], (stream))
    NCCL_FAILS(ON((cudaStream_t)(void *)&local), ncclInvalidArgument, "of acme0");
    NCCL_FAILS(ON(gone), ncclInvalidArgument, "of acme0");
    NCCL_FAILS(ON(all.streams[1]), ncclInvalidArgument, "of acme0"); /* another device's */
    NCCL_FAILS(ON(cudaStreamPerThread), ncclInvalidUsage, "cudaStreamPerThread");
    assert_int_equal(acme_imports(), 0);
    acme_capture(all.streams[0], true);
    NCCL_FAILS(ON(all.streams[0]), ncclInvalidUsage, "is being captured");
    acme_capture(all.streams[0], false);
#undef ON
    round_trip(all.streams); /* nothing was begun */
}

/* With a communicator its imports go, others keep theirs, and the streams stay what they were. */
static void test_destroy_lets_go(void **state)
{
    ncclComm_t firsts[RANKS];
    int values[COUNT];

    (void)state;
    round_trip(all.streams);
    memcpy(firsts, all.comms, sizeof firsts);
    NCCL_OK(ncclCommInitAll(all.comms, RANKS, NULL));
    round_trip(all.streams);
    assert_int_equal(acme_imports(), 2 * RANKS);
    for (int r = 0; r < RANKS; r++)
        NCCL_OK(ncclCommDestroy(firsts[r]));
    assert_int_equal(acme_imports(), RANKS);
    round_trip(all.streams);
    destroy_comms();
    assert_int_equal(acme_imports(), 0);
    CUDA_OK(cudaSetDevice(0));
    fill(0, all.streams[0], 3, values);
    CUDA_OK(cudaMemcpyAsync(all.host[0], all.send[0], sizeof values, cudaMemcpyDefault,
                            all.streams[0]));
    CUDA_OK(cudaStreamSynchronize(all.streams[0]));
    assert_memory_equal(all.host[0], values, sizeof values);
    NCCL_OK(ncclCommInitAll(all.comms, RANKS, NULL));
    round_trip(all.streams);
}

/* The queue by itself: its place in the stream's order, and what is left of it without the stream. */
static void test_imported_queue(void **state)
{
    _Atomic bool open = false;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_event_t event;
    cudaStream_t stream;

    (void)state;
    CUDA_OK(cudaSetDevice(0));
    CUDA_OK(cudaStreamCreate(&stream));
    assert_int_equal(thrum_device_open(0, &device), THRUM_OK);
    assert_int_equal(thrum_queue_import(device, stream, &queue), THRUM_OK);
    assert_int_equal(thrum_event_create(device, &event), THRUM_OK);
    CUDA_OK(acme_gate(stream, &open));
    assert_int_equal(thrum_queue_synchronize(queue), THRUM_OK); /* it has submitted nothing */
    assert_int_equal(thrum_event_record(event, queue), THRUM_OK);
    assert_int_equal(thrum_event_query(event), THRUM_IN_PROGRESS);
    atomic_store(&open, true);
    assert_int_equal(thrum_event_synchronize(event), THRUM_OK);
    CUDA_OK(cudaStreamDestroy(stream));
    assert_int_equal(thrum_queue_id(queue), 0);
    assert_int_equal(thrum_event_record(event, queue), THRUM_ERR_INVALID_QUEUE);
    thrum_event_destroy(event);
    thrum_queue_destroy(queue);
    assert_int_equal(acme_imports(), 0);
    thrum_device_close(device);
}

/* What nobody will join is ended; the vendor's own work before and behind it is done. */
static void test_abort_ends_its_own(void **state)
{
    _Atomic bool open = false;
    int values[COUNT];

    (void)state;
    round_trip(all.streams);
    CUDA_OK(cudaSetDevice(0));
    memset(all.host[0], 0, sizeof all.host[0]);
    sum(0, all.streams[0]);
    CUDA_OK(acme_gate(all.streams[0], &open));
    fill(0, all.streams[0], 9, values);
    CUDA_OK(cudaMemcpyAsync(all.host[0], all.send[0], sizeof values, cudaMemcpyDefault,
                            all.streams[0]));
    for (int r = 0; r < RANKS; r++) {
        NCCL_OK(ncclCommAbort(all.comms[r]));
        all.comms[r] = NULL;
    }
    assert_int_equal(acme_imports(), 0);
    atomic_store(&open, true);
    CUDA_OK(cudaStreamSynchronize(all.streams[0]));
    assert_memory_equal(all.host[0], values, sizeof values);
}

static void test_memory(void **state)
{
    void *memory;

    (void)state;
    CUDA_OK(cudaSetDevice(0));
    NCCL_OK(ncclMemAlloc(&memory, 4096));
    CUDA_OK(cudaFree(memory)); /* it is the vendor's */
    NCCL_OK(ncclMemAlloc(&memory, 4096));
    NCCL_OK(ncclMemFree(memory));
    NCCL_FAILS(ncclMemFree(memory), ncclUnhandledCudaError, "Acme does not like it");
}

/* Ranks that share a core let collectives go ahead of their turn where a queue has nothing else. */
static void share_a_core(void)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    (void)!sched_setaffinity(0, sizeof one, &one);
}

int main(void)
{
#define WITH_RANKS(test) cmocka_unit_test_setup_teardown(test, open_ranks, close_ranks)
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_plugin_without_import),
                                       cmocka_unit_test(test_which_runtimes_are_there),
                                       WITH_RANKS(test_streams_of_the_vendor),
                                       WITH_RANKS(test_order),
                                       WITH_RANKS(test_work_between_operations),
                                       WITH_RANKS(test_default_stream),
                                       WITH_RANKS(test_two_streams),
                                       WITH_RANKS(test_what_is_no_stream),
                                       WITH_RANKS(test_destroy_lets_go),
                                       WITH_RANKS(test_abort_ends_its_own),
                                       cmocka_unit_test(test_imported_queue),
                                       cmocka_unit_test(test_memory)};

    share_a_core();
    setenv("THRUM_DEVICE", "acme", 1);
    setenv("THRUM_PLUGIN_PATH", TEST_PLUGIN_DIR, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
