/* libcudart.so: devices, memory, copies, streams and their order, events, host functions, wrong calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cuda_runtime.h>

#include "cuda_must.h"
#include "cudart_compiler.h"

#define WILD ((void *)(uintptr_t)0x1234560)
#define N 1000
#define BYTES (N * sizeof(int))

static void devices(void **state)
{
    struct cudaDeviceProp properties;
    size_t free_bytes, total;
    char text[32];
    int count, value;

    (void)state;
    CUDA_OK(cudaGetDeviceCount(&count));
    assert_int_equal(count, 8);
    CUDA_OK(cudaGetDevice(&value));
    assert_int_equal(value, 0);
    CUDA_OK(cudaSetDevice(3));
    CUDA_OK(cudaGetDevice(&value));
    assert_int_equal(value, 3);
    CUDA_OK(cudaGetDeviceProperties(&properties, 3));
    assert_non_null(strstr(properties.name, "Thrum sim"));
    CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal(properties.totalGlobalMem, total);
    CUDA_OK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 3));
    assert_int_equal(value, properties.major);
    CUDA_OK(cudaDeviceGetPCIBusId(text, sizeof text, 3));
    CUDA_OK(cudaDeviceGetByPCIBusId(&value, text));
    assert_int_equal(value, 3);
    CUDA_OK(cudaRuntimeGetVersion(&value));
    assert_int_equal(value, CUDART_VERSION);
    CUDA_OK(cudaDriverGetVersion(&value));
    assert_true(value >= CUDART_VERSION);
    CUDA_OK(cudaInitDevice(3, cudaDeviceScheduleSpin, 0));
    CUDA_OK(cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrAccessSupported, 3, 2));
    assert_int_equal(value, 1);
    CUDA_OK(cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrNativeAtomicSupported, 3, 2));
    assert_int_equal(value, 0);
    CUDA_FAILS(cudaDeviceGetP2PAttribute(&value, (enum cudaDeviceP2PAttr)9, 3, 2),
               cudaErrorInvalidValue, "attribute=9");
    CUDA_OK(cudaStreamGetDevice(NULL, &value));
    assert_int_equal(value, 3);
    CUDA_FAILS(cudaSetDevice(8), cudaErrorInvalidDevice, "between 0 and 7");
    CUDA_FAILS(cudaSetDevice(-1), cudaErrorInvalidDevice, "device=-1");
    CUDA_FAILS(cudaGetDeviceCount(NULL), cudaErrorInvalidValue, "count=NULL");
    CUDA_FAILS(cudaDeviceGetAttribute(&value, (enum cudaDeviceAttr)9999, 0), cudaErrorInvalidValue,
               "attribute=9999");
    CUDA_FAILS(cudaDeviceGetByPCIBusId(&value, "none"), cudaErrorInvalidDevice, "none");
    CUDA_OK(cudaGetDevice(&value));
    assert_int_equal(value, 3);
    CUDA_OK(cudaSetDevice(0));
}

static void errors(void **state)
{
    (void)state;
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaFree(WILD), cudaErrorInvalidValue);
    CUDA_OK(cudaSetDevice(0)); /* success does not hide it */
    assert_int_equal(cudaPeekAtLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_string_equal(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
    assert_string_equal(cudaGetErrorName(cudaErrorNotReady), "cudaErrorNotReady");
    assert_string_equal(cudaGetErrorString((cudaError_t)4242), "unrecognized error code");
}

static void copies(void **state)
{
    int host[N], back[N], *device, *other, *pinned;
    char *pitched;
    size_t pitch;

    (void)state;
    for (int i = 0; i < N; i++)
        host[i] = i;
    CUDA_OK(cudaMalloc((void **)&device, BYTES));
    CUDA_OK(cudaSetDevice(1));
    CUDA_OK(cudaMalloc((void **)&other, BYTES));
    CUDA_OK(cudaMallocHost((void **)&pinned, BYTES));
    CUDA_OK(cudaSetDevice(0));
    CUDA_OK(cudaMemcpy(device, host, BYTES, cudaMemcpyHostToDevice));
    /* to another device, by either name; from there through pinned memory of it */
    CUDA_OK(cudaMemcpy(other, device, BYTES, cudaMemcpyDefault));
    CUDA_OK(cudaMemset(device, 0, BYTES));
    CUDA_OK(cudaMemcpyPeer(device, 0, other, 1, BYTES));
    CUDA_OK(cudaMemcpyAsync(pinned, device, BYTES, cudaMemcpyDeviceToHost, NULL));
    CUDA_OK(cudaStreamSynchronize(NULL));
    assert_memory_equal(pinned, host, BYTES);
    CUDA_OK(cudaMemset(pinned, 1, 4)); /* by the device that it is not of */
    assert_int_equal(pinned[0], 0x01010101);
    CUDA_OK(cudaMemsetAsync(device + 10, 0xff, 4, NULL));
    CUDA_OK(cudaMemcpy(back, device, BYTES, cudaMemcpyDeviceToHost));
    assert_int_equal(back[10], -1);
    assert_int_equal(back[11], 11);
    CUDA_OK(cudaMemcpy(back, host, BYTES, cudaMemcpyHostToHost));
    assert_memory_equal(back, host, BYTES);
    /* columns 1 and 2 of a matrix with 10 columns */
    memset(back, 0, sizeof back);
    CUDA_OK(cudaMemcpy(device, host, BYTES, cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy2D(back, 8, device + 1, 40, 8, 100, cudaMemcpyDeviceToHost));
    assert_int_equal(back[7], 32);
    assert_int_equal(back[199], 992);
    CUDA_FAILS(cudaMemcpy2D(back, 4, device, 40, 8, 2, cudaMemcpyDeviceToHost),
               cudaErrorInvalidPitchValue, "width=8");
    CUDA_OK(cudaMemset2D(device, 40, 0xff, 8, 3));
    CUDA_OK(cudaMemcpy(back, device, BYTES, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 40; i++)
        assert_int_equal(back[i], i % 10 < 2 && i < 30 ? -1 : i);
    CUDA_FAILS(cudaMemset2D(device, 4, 0, 8, 2), cudaErrorInvalidValue, "width=8");
    CUDA_FAILS(cudaMemset2D(device, 40, 0, 8, 1000), cudaErrorInvalidValue, "leave the allocation");
    CUDA_OK(cudaMallocPitch((void **)&pitched, &pitch, 100, 3));
    assert_true(pitch >= 100 && pitch % 256 == 0);
    CUDA_OK(cudaMemset2DAsync(pitched, pitch, 1, pitch, 3, NULL));
    CUDA_FAILS(cudaMemset2DAsync(pitched, pitch, 1, pitch, 4, NULL), cudaErrorInvalidValue,
               "leave the allocation");
    CUDA_OK(cudaStreamSynchronize(NULL));
    CUDA_OK(cudaFree(pitched));
    CUDA_FAILS(cudaMallocPitch((void **)&pitched, &pitch, SIZE_MAX - 1, 1), cudaErrorInvalidValue,
               "width=");
    CUDA_FAILS(cudaMemcpy(device, host, BYTES + 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue,
               "leave the allocation");
    CUDA_FAILS(cudaMemcpy(host, back, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue, "kind=1");
    CUDA_FAILS(cudaMemcpy(device, other, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue,
               "kind=2");
    CUDA_FAILS(cudaMemcpy(NULL, device, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue,
               "dst=NULL");
    CUDA_FAILS(cudaMemcpy(device, host, 4, (enum cudaMemcpyKind)9), cudaErrorInvalidMemcpyDirection,
               "kind=9");
    CUDA_FAILS(cudaMemset(host, 0, 4), cudaErrorInvalidValue, "is not device memory");
    CUDA_FAILS(cudaMemcpyPeer(device, 1, other, 1, 4), cudaErrorInvalidValue, "memory of device 1");
    CUDA_OK(cudaMemcpy(NULL, NULL, 0, cudaMemcpyDefault));
    CUDA_OK(cudaFree(other)); /* with an import of it at device 0 */
    CUDA_FAILS(cudaMemcpy(other, device, 4, cudaMemcpyDefault), cudaErrorInvalidValue, "was freed");
    CUDA_FAILS(cudaMemcpy(back, other, 4, cudaMemcpyDefault), cudaErrorInvalidValue, "was freed");
    CUDA_OK(cudaMemcpy(back, device, 4, cudaMemcpyDefault)); /* the device goes on */
    CUDA_OK(cudaFree(device));
    CUDA_OK(cudaFreeHost(pinned));
}

static void memory(void **state)
{
    struct cudaPointerAttributes attributes;
    char *device, *managed, *pinned, plain[64];
    void *pointer = WILD;
    unsigned flags;

    (void)state;
    CUDA_OK(cudaSetDevice(2));
    CUDA_OK(cudaMalloc((void **)&device, 100));
    CUDA_OK(cudaMallocManaged((void **)&managed, 100, cudaMemAttachGlobal));
    CUDA_OK(cudaHostAlloc((void **)&pinned, 100, cudaHostAllocMapped));
    CUDA_OK(cudaPointerGetAttributes(&attributes, device + 99));
    assert_int_equal(attributes.type, cudaMemoryTypeDevice);
    assert_int_equal(attributes.device, 2);
    assert_null(attributes.hostPointer);
    CUDA_OK(cudaPointerGetAttributes(&attributes, managed));
    assert_int_equal(attributes.type, cudaMemoryTypeManaged);
    CUDA_OK(cudaPointerGetAttributes(&attributes, pinned + 1));
    assert_int_equal(attributes.type, cudaMemoryTypeHost);
    assert_ptr_equal(attributes.devicePointer, pinned + 1);
    CUDA_OK(cudaPointerGetAttributes(&attributes, plain));
    assert_int_equal(attributes.type, cudaMemoryTypeUnregistered);
    /* managed memory on both sides */
    memset(managed, 5, 100);
    CUDA_OK(cudaMemcpy(device, managed, 100, cudaMemcpyDefault));
    CUDA_OK(cudaMemset(managed, 6, 50));
    CUDA_OK(cudaMemcpy(managed + 50, device, 50, cudaMemcpyDefault));
    assert_int_equal(managed[49], 6);
    assert_int_equal(managed[50], 5);
    CUDA_OK(cudaHostGetDevicePointer(&pointer, pinned, 0));
    assert_ptr_equal(pointer, pinned);
    CUDA_OK(cudaHostGetFlags(&flags, pinned));
    assert_int_equal(flags, cudaHostAllocMapped);
    CUDA_OK(cudaHostRegister(plain, sizeof plain, cudaHostRegisterDefault));
    CUDA_FAILS(cudaHostRegister(plain, sizeof plain, 0), cudaErrorHostMemoryAlreadyRegistered,
               "0x");
    CUDA_OK(cudaHostUnregister(plain));
    CUDA_FAILS(cudaHostUnregister(plain), cudaErrorHostMemoryNotRegistered, "0x");
    CUDA_FAILS(cudaHostGetDevicePointer(&pointer, plain, 0), cudaErrorInvalidValue, "not pinned");
    CUDA_FAILS(cudaMalloc(NULL, 4), cudaErrorInvalidValue, "pointer=NULL");
    CUDA_FAILS(cudaMalloc(&pointer, (size_t)1 << 60), cudaErrorMemoryAllocation, "");
    CUDA_FAILS(cudaFree(device + 4), cudaErrorInvalidValue, "not the start");
    CUDA_FAILS(cudaFree(pinned), cudaErrorInvalidValue, "not the start");
    CUDA_FAILS(cudaFreeHost(device), cudaErrorInvalidValue, "not the start");
    CUDA_OK(cudaFree(device));
    CUDA_FAILS(cudaFree(device), cudaErrorInvalidValue, "not the start");
    CUDA_OK(cudaFree(managed));
    CUDA_OK(cudaFreeHost(pinned));
    CUDA_OK(cudaFree(NULL));
    CUDA_OK(cudaMalloc(&pointer, 0));
    assert_null(pointer);
    CUDA_OK(cudaSetDevice(0));
}

static void peers(void **state)
{
    int can;

    (void)state;
    CUDA_OK(cudaDeviceCanAccessPeer(&can, 0, 1));
    assert_int_equal(can, 1);
    CUDA_OK(cudaDeviceCanAccessPeer(&can, 1, 1));
    assert_int_equal(can, 0);
    CUDA_OK(cudaDeviceEnablePeerAccess(1, 0));
    CUDA_FAILS(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessAlreadyEnabled, "peer=1");
    CUDA_OK(cudaDeviceDisablePeerAccess(1));
    CUDA_FAILS(cudaDeviceDisablePeerAccess(1), cudaErrorPeerAccessNotEnabled, "peer=1");
    CUDA_FAILS(cudaDeviceEnablePeerAccess(0, 0), cudaErrorInvalidDevice, "device 0");
    CUDA_FAILS(cudaDeviceEnablePeerAccess(77, 0), cudaErrorInvalidDevice, "peer=77");
}

/* ---- streams: a gate holds one until it is opened ---- */

static _Atomic int gate, passed;

static void pass_gate(void *argument)
{
    while (!atomic_load(&gate))
        sched_yield();
    atomic_fetch_add(&passed, *(int *)argument);
}

static void on_stream(cudaStream_t stream, cudaError_t status, void *argument)
{
    (void)stream;
    atomic_fetch_add(&passed, status ? 0 : *(int *)argument);
}

static void streams(void **state)
{
    int one = 1, ten = 10, priority;
    cudaStream_t stream;
    unsigned flags;

    (void)state;
    atomic_store(&gate, 0);
    atomic_store(&passed, 0);
    CUDA_OK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, -1));
    CUDA_OK(cudaStreamGetFlags(stream, &flags));
    assert_int_equal(flags, cudaStreamNonBlocking);
    CUDA_OK(cudaStreamGetPriority(stream, &priority));
    CUDA_OK(cudaStreamQuery(stream));
    CUDA_OK(cudaLaunchHostFunc(stream, pass_gate, &one));
    CUDA_OK(cudaStreamAddCallback(stream, on_stream, &ten, 0));
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    atomic_store(&gate, 1);
    CUDA_OK(cudaStreamSynchronize(stream));
    assert_int_equal(atomic_load(&passed), 11);
    CUDA_OK(cudaStreamDestroy(stream));
    CUDA_FAILS(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle, "no");
    CUDA_FAILS(cudaStreamQuery(stream), cudaErrorInvalidResourceHandle, "not a live stream");
    CUDA_FAILS(cudaMemsetAsync(WILD, 0, 4, WILD), cudaErrorInvalidResourceHandle,
               "not a live stream");
    CUDA_FAILS(cudaStreamCreateWithFlags(&stream, 99), cudaErrorInvalidValue, "flags=0x63");
    CUDA_FAILS(cudaLaunchHostFunc(NULL, NULL, NULL), cudaErrorInvalidValue, "function=NULL");
}

/* What is put on the default stream waits for blocking streams, and they for it; others wait for neither. */
static void default_stream(void **state)
{
    cudaStream_t blocking, other, free_one;
    int one = 1, *device, value = 0;

    (void)state;
    CUDA_OK(cudaMalloc((void **)&device, sizeof *device));
    CUDA_OK(cudaMemset(device, 0, sizeof *device));
    CUDA_OK(cudaStreamCreate(&blocking));
    CUDA_OK(cudaStreamCreate(&other));
    CUDA_OK(cudaStreamCreateWithFlags(&free_one, cudaStreamNonBlocking));
    atomic_store(&gate, 0);
    CUDA_OK(cudaLaunchHostFunc(blocking, pass_gate, &one));
    CUDA_OK(cudaMemsetAsync(device, 1, sizeof *device, NULL));
    CUDA_OK(cudaMemsetAsync(device, 2, sizeof *device, other));
    CUDA_OK(cudaMemsetAsync(device, 3, sizeof *device, free_one));
    CUDA_OK(cudaStreamSynchronize(free_one));
    assert_int_equal(cudaStreamQuery(NULL), cudaErrorNotReady);
    assert_int_equal(cudaStreamQuery(other), cudaErrorNotReady);
    atomic_store(&gate, 1);
    CUDA_OK(cudaStreamSynchronize(other));
    CUDA_OK(cudaStreamQuery(NULL));
    CUDA_OK(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost));
    assert_int_equal(value, 0x02020202);
    CUDA_OK(cudaStreamDestroy(blocking));
    CUDA_OK(cudaStreamDestroy(other));
    CUDA_OK(cudaStreamDestroy(free_one));
    CUDA_OK(cudaFree(device));
}

static void events(void **state)
{
    cudaEvent_t start, end, untimed, never;
    cudaStream_t first, second;
    float milliseconds = -1;
    int one = 1;

    (void)state;
    CUDA_OK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&end));
    CUDA_OK(cudaEventCreate(&never));
    CUDA_OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    CUDA_OK(cudaEventQuery(never));
    atomic_store(&gate, 0);
    atomic_store(&passed, 0);
    CUDA_OK(cudaEventRecord(start, first));
    CUDA_OK(cudaLaunchHostFunc(first, pass_gate, &one));
    CUDA_OK(cudaEventRecord(untimed, first));
    CUDA_OK(cudaStreamWaitEvent(second, untimed, 0));
    CUDA_OK(cudaEventRecord(end, second));
    assert_int_equal(cudaEventQuery(end), cudaErrorNotReady);
    assert_int_equal(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
    atomic_store(&gate, 1);
    CUDA_OK(cudaEventSynchronize(end));
    assert_int_equal(atomic_load(&passed), 1);
    CUDA_OK(cudaEventElapsedTime(&milliseconds, start, end));
    assert_true(milliseconds > 0);
    CUDA_FAILS(cudaEventElapsedTime(&milliseconds, start, untimed), cudaErrorInvalidResourceHandle,
               "cudaEventDisableTiming");
    CUDA_FAILS(cudaEventElapsedTime(&milliseconds, start, never), cudaErrorInvalidResourceHandle,
               "never recorded");
    CUDA_OK(cudaEventDestroy(never));
    CUDA_FAILS(cudaEventDestroy(never), cudaErrorInvalidResourceHandle, "not a live event");
    CUDA_FAILS(cudaEventRecord(never, first), cudaErrorInvalidResourceHandle, "not a live event");
    CUDA_FAILS(cudaEventCreateWithFlags(&never, cudaEventInterprocess | cudaEventDisableTiming),
               cudaErrorNotSupported, "other processes");
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(end));
    CUDA_OK(cudaEventDestroy(untimed));
    CUDA_OK(cudaStreamDestroy(first));
    CUDA_OK(cudaStreamDestroy(second));
}

/* What the host side of a program with one kernel and two variables does, as nvcc writes it. */
static void kernels(void **state)
{
    static char kernel_stub, variable, unknown;
    static int *managed;
    dim3 grid = {4, 1, 1}, block = {128, 1, 1}, got_grid, got_block;
    void **binary = __cudaRegisterFatBinary(&unknown);
    cudaStream_t stream = (cudaStream_t)WILD, got_stream;
    cudaKernel_t kernel = NULL;
    size_t bytes = 0;

    (void)state;
    assert_non_null(binary);
    __cudaRegisterFunction(binary, &kernel_stub, &kernel_stub, "fill", -1, NULL, NULL, NULL, NULL,
                           NULL);
    __cudaRegisterVar(binary, &variable, &variable, "table", 0, 48, 0, 0);
    __cudaRegisterManagedVar(binary, (void **)&managed, &variable, "shared", 0, 64, 0, 0);
    __cudaRegisterFatBinaryEnd(binary);
    assert_int_equal(__cudaInitModule(binary), 1);

    assert_int_equal(__cudaPushCallConfiguration(grid, block, 16, stream), 0);
    CUDA_OK(__cudaPopCallConfiguration(&got_grid, &got_block, &bytes, &got_stream));
    assert_memory_equal(&got_grid, &grid, sizeof grid);
    assert_memory_equal(&got_block, &block, sizeof block);
    assert_int_equal(bytes, 16);
    assert_ptr_equal(got_stream, stream);
    CUDA_FAILS(__cudaPopCallConfiguration(&got_grid, &got_block, &bytes, &got_stream),
               cudaErrorMissingConfiguration, "<<<...>>>");

    CUDA_FAILS(cudaLaunchKernel(&kernel_stub, grid, block, NULL, 0, NULL),
               cudaErrorNoKernelImageForDevice, "kernel fill: Thrum's devices execute no");
    CUDA_OK(__cudaGetKernel(&kernel, &kernel_stub));
    CUDA_FAILS(__cudaLaunchKernel(kernel, grid, block, NULL, 0, NULL),
               cudaErrorNoKernelImageForDevice, "fill");
    CUDA_FAILS(cudaLaunchKernel(&unknown, grid, block, NULL, 0, NULL),
               cudaErrorInvalidDeviceFunction, "no kernel of this program");
    CUDA_FAILS(cudaLaunchKernel(&variable, grid, block, NULL, 0, NULL),
               cudaErrorInvalidDeviceFunction, "no kernel of this program");
    CUDA_OK(cudaFuncSetAttribute(&kernel_stub, cudaFuncAttributeMaxDynamicSharedMemorySize, 1024));
    CUDA_FAILS(cudaFuncSetAttribute(&unknown, cudaFuncAttributeMaxDynamicSharedMemorySize, 1024),
               cudaErrorInvalidDeviceFunction, "no kernel");

    CUDA_OK(cudaGetSymbolSize(&bytes, &variable));
    assert_int_equal(bytes, 48);
    CUDA_FAILS(cudaMemcpyToSymbol(&variable, &unknown, 1, 0, cudaMemcpyHostToDevice),
               cudaErrorInvalidSymbol, "variable table is in device code");
    CUDA_FAILS(cudaGetSymbolSize(&bytes, &kernel_stub), cudaErrorInvalidSymbol, "no variable");
    assert_int_equal(managed[15], 0);
    managed[15] = 3;

    __cudaUnregisterFatBinary(binary);
    CUDA_FAILS(cudaLaunchKernel(&kernel_stub, grid, block, NULL, 0, NULL),
               cudaErrorInvalidDeviceFunction, "no kernel of this program");
}

/* An exported handle that is none any more. */
static void stale_ipc(void **state)
{
    cudaIpcMemHandle_t handle, again;
    void *memory, *other;

    (void)state;
    memset(&handle, 0x5a, sizeof handle);
    CUDA_FAILS(cudaIpcOpenMemHandle(&memory, handle, 0), cudaErrorInvalidValue,
               "not one of cudaIpcGetMemHandle");
    CUDA_OK(cudaMalloc(&memory, 4096));
    CUDA_OK(cudaIpcGetMemHandle(&handle, memory));
    CUDA_OK(cudaIpcGetMemHandle(&again, memory));
    assert_memory_equal(&handle, &again, sizeof handle);
    CUDA_OK(cudaFree(memory));
    assert_int_not_equal(cudaIpcOpenMemHandle(&other, handle, 0), cudaSuccess);
    assert_string_not_equal(thrumCudaErrorDetail(), "");
    (void)cudaGetLastError();
}

/* A command that touches what is no memory stops its stream; the device is as good as new after a reset. */
static void reset(void **state)
{
    cudaStream_t stream;
    int *device, *again, value = 5;

    (void)state;
    CUDA_OK(cudaSetDevice(4));
    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaMalloc((void **)&device, 4));
    CUDA_OK(cudaDeviceReset());
    CUDA_FAILS(cudaStreamQuery(stream), cudaErrorInvalidResourceHandle, "not a live stream");
    CUDA_FAILS(cudaFree(device), cudaErrorInvalidValue, "not the start");
    CUDA_OK(cudaMalloc((void **)&again, 4));
    CUDA_OK(cudaMemcpy(again, &value, 4, cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy(&value, again, 4, cudaMemcpyDeviceToHost));
    assert_int_equal(value, 5);
    CUDA_OK(cudaDeviceReset());
    CUDA_OK(cudaSetDevice(0));
}

static void *on_thread(void *argument)
{
    int device, *memory, value = 0;

    (void)argument;
    CUDA_OK(cudaGetDevice(&device));
    assert_int_equal(device, 0); /* not the other thread's choice */
    for (int i = 0; i < 100; i++) {
        cudaStream_t stream;

        CUDA_OK(cudaSetDevice(i % 3));
        CUDA_OK(cudaStreamCreate(&stream));
        CUDA_OK(cudaMallocAsync((void **)&memory, 4, stream));
        CUDA_OK(cudaMemsetAsync(memory, 1, 4, cudaStreamPerThread));
        CUDA_OK(cudaStreamSynchronize(cudaStreamPerThread));
        CUDA_OK(cudaMemcpyAsync(&value, memory, 4, cudaMemcpyDeviceToHost, stream));
        assert_int_equal(value, 0x01010101);
        CUDA_OK(cudaFreeAsync(memory, stream));
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaStreamDestroy(stream));
    }
    return NULL;
}

static void threads(void **state)
{
    pthread_t made[3];

    (void)state;
    CUDA_OK(cudaSetDevice(1));
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&made[i], NULL, on_thread, NULL), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(made[i], NULL);
    CUDA_OK(cudaSetDevice(0));
}

/* Memory of another process, whose device has the same number. */
static void other_process(const char *program)
{
    cudaIpcMemHandle_t handle;
    int *memory, value = 4711;

    CUDA_OK(cudaMalloc((void **)&memory, 64));
    CUDA_OK(cudaMemcpy(memory, &value, sizeof value, cudaMemcpyHostToDevice));
    CUDA_OK(cudaIpcGetMemHandle(&handle, memory));
    (void)program;
    if (write(1, &handle, sizeof handle) != sizeof handle || read(0, &value, 1) != 1)
        _exit(1);
    CUDA_OK(cudaMemcpy(&value, memory, sizeof value, cudaMemcpyDeviceToHost));
    _exit(value == 815 ? 0 : 2);
}

static const char *own_path;

static void shared_memory(void **state)
{
    cudaIpcMemHandle_t handle;
    int in[2], out[2], status, value = 0, *memory;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(in) | pipe(out), 0);
    pid = fork();
    if (!pid) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execl(own_path, own_path, "other", (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    assert_int_equal(read(out[0], &handle, sizeof handle), sizeof handle);
    CUDA_OK(cudaIpcOpenMemHandle((void **)&memory, handle, cudaIpcMemLazyEnablePeerAccess));
    CUDA_OK(cudaMemcpy(&value, memory, sizeof value, cudaMemcpyDeviceToHost));
    assert_int_equal(value, 4711);
    value = 815;
    CUDA_OK(cudaMemcpy(memory, &value, sizeof value, cudaMemcpyHostToDevice));
    CUDA_FAILS(cudaFree(memory), cudaErrorInvalidValue, "not the start");
    CUDA_OK(cudaIpcCloseMemHandle(memory));
    CUDA_FAILS(cudaIpcCloseMemHandle(memory), cudaErrorInvalidValue, "not the start");
    assert_int_equal(write(in[1], "x", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(in[1]);
    close(out[0]);
}

static int reset_devices(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        CUDA_OK(cudaSetDevice(i));
        CUDA_OK(cudaDeviceReset());
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices),        cmocka_unit_test(errors),
        cmocka_unit_test(copies),         cmocka_unit_test(memory),
        cmocka_unit_test(peers),          cmocka_unit_test(streams),
        cmocka_unit_test(default_stream), cmocka_unit_test(events),
        cmocka_unit_test(kernels),        cmocka_unit_test(reset),
        cmocka_unit_test(threads),        cmocka_unit_test(shared_memory),
        cmocka_unit_test(stale_ipc)};

    own_path = "/proc/self/exe";
    if (argc > 1)
        other_process(argv[0]);
    return cmocka_run_group_tests(tests, NULL, reset_devices);
}
