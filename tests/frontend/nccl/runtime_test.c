/* The parts of libcudart.so beside streams and plain memory: pools, boxes, limits, advice; and the headers' conversions. */
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <nvtx3/nvToolsExt.h>

#include "ranks.h"

#define OK(call) CUDA_OK(call)

static _Atomic int gate;

static void pass_gate(void *argument)
{
    (void)argument;
    while (!atomic_load(&gate))
        sched_yield();
}

/* ---- pools ------------------------------------------------------------------------------------------------------- */

static uint64_t pool_value(cudaMemPool_t pool, enum cudaMemPoolAttr attribute)
{
    uint64_t value = 0;

    OK(cudaMemPoolGetAttribute(pool, attribute, &value));
    return value;
}

/* A free waits for the stream, not the caller for the free. */
static void memory_of_streams(void **state)
{
    size_t before, during, after, total;
    uint64_t zero = 0;
    cudaStream_t stream;
    cudaMemPool_t pool;
    void *memory;

    (void)state;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaDeviceGetDefaultMemPool(&pool, 0));
    OK(cudaMemGetInfo(&before, &total));
    OK(cudaMallocAsync(&memory, 1 << 20, stream));
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 1 << 20);
    atomic_store(&gate, 0);
    OK(cudaLaunchHostFunc(stream, pass_gate, NULL));
    OK(cudaMemsetAsync(memory, 1, 1 << 20, stream));
    OK(cudaFreeAsync(memory, stream));
    CUDA_FAILS(cudaFreeAsync(memory, stream), cudaErrorInvalidValue, "not the start");
    CUDA_FAILS(cudaMemset(memory, 0, 4), cudaErrorInvalidValue, "freed in a stream");
    OK(cudaMemGetInfo(&during, &total));
    assert_int_equal(before - during, 1 << 20); /* the stream may still use it */
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 0);
    assert_int_equal(pool_value(pool, cudaMemPoolAttrReservedMemCurrent), 1 << 20);
    atomic_store(&gate, 1);
    OK(cudaStreamSynchronize(stream));
    OK(cudaMemPoolTrimTo(pool, 0));
    OK(cudaMemGetInfo(&after, &total));
    assert_int_equal(after, before);
    assert_int_equal(pool_value(pool, cudaMemPoolAttrReservedMemCurrent), 0);
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemHigh), 1 << 20);
    OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &zero));
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemHigh), 0);

    OK(cudaMallocAsync(&memory, 4096, stream)); /* by the other function, either way */
    OK(cudaFree(memory));
    OK(cudaMalloc(&memory, 4096));
    OK(cudaFreeAsync(memory, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaMemGetInfo(&after, &total));
    assert_int_equal(after, before);
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 0);
    OK(cudaStreamDestroy(stream));
}

/* What is freed but held is taken back where memory is short. */
static void short_of_memory(void **state)
{
    size_t available, total;
    cudaStream_t stream;
    void *memory, *again;

    (void)state;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMemGetInfo(&available, &total));
    OK(cudaMallocAsync(&memory, total / 4 * 3, stream));
    OK(cudaFreeAsync(memory, stream));
    OK(cudaMalloc(&again, total / 4 * 3));
    CUDA_FAILS(cudaMallocAsync(&memory, total / 2, stream), cudaErrorMemoryAllocation, "");
    OK(cudaFree(again));
    OK(cudaStreamDestroy(stream));
}

static void pools(void **state)
{
    const struct cudaMemPoolProps wanted = {.allocType = cudaMemAllocationTypePinned,
                                            .location = {cudaMemLocationTypeDevice, 1}};
    struct cudaMemAccessDesc access = {{cudaMemLocationTypeDevice, 0},
                                       cudaMemAccessFlagsProtReadWrite};
    enum cudaMemAccessFlags flags = cudaMemAccessFlagsProtNone;
    struct cudaMemPoolProps shared = wanted;
    struct cudaPointerAttributes attributes;
    cudaMemPool_t pool, chosen, first;
    uint64_t threshold = UINT64_MAX;
    cudaStream_t stream;
    void *memory;
    int reuse = 7;

    (void)state;
    OK(cudaMemPoolCreate(&pool, &wanted));
    OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    assert_true(pool_value(pool, cudaMemPoolAttrReleaseThreshold) == UINT64_MAX);
    OK(cudaMemPoolGetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, &reuse));
    assert_int_equal(reuse, 1);
    CUDA_FAILS(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &threshold),
               cudaErrorInvalidValue, "nothing else");
    CUDA_FAILS(cudaMemPoolGetAttribute(pool, (enum cudaMemPoolAttr)99, &threshold),
               cudaErrorInvalidValue, "attribute=99");
    OK(cudaMemPoolSetAccess(pool, &access, 1));
    OK(cudaMemPoolGetAccess(&flags, pool, &access.location));
    assert_int_equal(flags, cudaMemAccessFlagsProtReadWrite);
    CUDA_FAILS(cudaDeviceSetMemPool(0, pool), cudaErrorInvalidDevice, "of device 1");
    OK(cudaDeviceGetDefaultMemPool(&first, 1));
    OK(cudaDeviceSetMemPool(1, pool));
    OK(cudaDeviceGetMemPool(&chosen, 1));
    assert_ptr_equal(chosen, pool);
    OK(cudaSetDevice(1));
    OK(cudaStreamCreate(&stream));
    OK(cudaSetDevice(0));
    OK(cudaMallocAsync(&memory, 64, stream)); /* of the stream's device, not the current one */
    OK(cudaPointerGetAttributes(&attributes, memory));
    assert_int_equal(attributes.device, 1);
    assert_int_equal(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 64);
    OK(cudaMemPoolDestroy(pool)); /* it goes with its memory */
    CUDA_FAILS(cudaMemPoolTrimTo(pool, 0), cudaErrorInvalidValue, "no live pool");
    OK(cudaDeviceGetMemPool(&chosen, 1));
    assert_ptr_equal(chosen, first);
    OK(cudaMemsetAsync(memory, 1, 64, stream));
    OK(cudaFreeAsync(memory, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaMallocFromPoolAsync(&memory, 64, first, stream));
    OK(cudaFreeAsync(memory, stream));
    OK(cudaStreamDestroy(stream));
    CUDA_FAILS(cudaMemPoolDestroy(first), cudaErrorInvalidValue, "default pool");
    shared.handleTypes = cudaMemHandleTypePosixFileDescriptor;
    CUDA_FAILS(cudaMemPoolCreate(&pool, &shared), cudaErrorNotSupported, "one process");
}

/* ---- boxes -------------------------------------------------------------------------------------------------------- */

#define W ((size_t)6)
#define H ((size_t)4)
#define D ((size_t)3)

static void boxes(void **state)
{
    const struct cudaExtent whole = make_cudaExtent(W, H, D), part = make_cudaExtent(3, 2, 2);
    unsigned char host[D][H][W], back[D][H][W];
    struct cudaMemcpy3DParms p = {.kind = cudaMemcpyHostToDevice, .extent = whole};
    struct cudaPitchedPtr device;

    (void)state;
    for (size_t i = 0; i < sizeof host; i++)
        ((unsigned char *)host)[i] = (unsigned char)i;
    OK(cudaMalloc3D(&device, whole));
    assert_true(device.pitch >= W && device.xsize == W && device.ysize == H);
    p.srcPtr = make_cudaPitchedPtr(host, W, W, H);
    p.dstPtr = device;
    OK(cudaMemcpy3D(&p));

    /* from (1, 1, 0) of the device to (2, 2, 1) of the host */
    memset(back, 0xee, sizeof back);
    p = (struct cudaMemcpy3DParms){.srcPtr = device,
                                   .srcPos = make_cudaPos(1, 1, 0),
                                   .dstPtr = make_cudaPitchedPtr(back, W, W, H),
                                   .dstPos = make_cudaPos(2, 2, 1),
                                   .extent = part,
                                   .kind = cudaMemcpyDeviceToHost};
    OK(cudaMemcpy3DAsync(&p, NULL));
    OK(cudaStreamSynchronize(NULL));
    for (size_t z = 0; z < D; z++)
        for (size_t y = 0; y < H; y++)
            for (size_t x = 0; x < W; x++) {
                bool in = z >= 1 && y >= 2 && x >= 2 && x < 5;

                assert_int_equal(back[z][y][x], in ? host[z - 1][y - 1][x - 1] : 0xee);
            }
    OK(cudaMemset3D(device, 9, part));
    p = (struct cudaMemcpy3DParms){.srcPtr = device,
                                   .dstPtr = make_cudaPitchedPtr(back, W, W, H),
                                   .extent = whole,
                                   .kind = cudaMemcpyDefault};
    OK(cudaMemcpy3D(&p));
    for (size_t z = 0; z < D; z++)
        for (size_t y = 0; y < H; y++)
            for (size_t x = 0; x < W; x++)
                assert_int_equal(back[z][y][x], z < 2 && y < 2 && x < 3 ? 9 : host[z][y][x]);
    p.srcPos.x = 600;
    CUDA_FAILS(cudaMemcpy3D(&p), cudaErrorInvalidPitchValue, "leave a row");
    p.srcPos.x = 0;
    p.srcPos.y = 1;
    CUDA_FAILS(cudaMemcpy3D(&p), cudaErrorInvalidValue, "leave a slice");
    p.srcPos = make_cudaPos(0, 0, SIZE_MAX / 2);
    CUDA_FAILS(cudaMemcpy3D(&p), cudaErrorInvalidValue, "too large");
    p.srcPos.z = 1;
    CUDA_FAILS(cudaMemcpy3D(&p), cudaErrorInvalidValue, "leave the allocation");
    p.srcArray = (cudaArray_t)host;
    CUDA_FAILS(cudaMemcpy3D(&p), cudaErrorNotSupported, "no CUDA arrays");
    OK(cudaFree(device.ptr));
}

/* ---- limits, advice ----------------------------------------------------------------------------------------------- */

static void limits(void **state)
{
    enum cudaFuncCache cache;
    cudaDeviceProp properties;
    size_t value = 0;
    void *function = &value;
    int number = -1;

    (void)state;
    OK(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
    OK(cudaDeviceGetLimit(&value, cudaLimitStackSize));
    assert_int_equal(value, 4096);
    OK(cudaSetDevice(1)); /* each device has its own */
    OK(cudaDeviceGetLimit(&value, cudaLimitStackSize));
    assert_int_equal(value, 1024);
    OK(cudaSetDevice(0));
    CUDA_FAILS(cudaDeviceSetLimit((enum cudaLimit)77, 1), cudaErrorInvalidValue, "limit=77");
    OK(cudaDeviceSetCacheConfig(cudaFuncCachePreferL1));
    OK(cudaDeviceGetCacheConfig(&cache));
    assert_int_equal(cache, cudaFuncCachePreferL1);
    CUDA_FAILS(cudaGetDriverEntryPoint("cuInit", &function, 0, NULL), cudaErrorNotSupported,
               "cuInit: Thrum has no CUDA driver API");
    assert_null(function);
    OK(cudaGetDeviceProperties(&properties, 0));
    OK(cudaChooseDevice(&number, &properties));
    assert_int_equal(number, 0);
    OK(cudaDeviceGetAttribute(&number, cudaDevAttrMaxThreadsPerMultiProcessor, 0));
    assert_int_equal(number, properties.maxThreadsPerMultiProcessor);
    OK(cudaDeviceGetAttribute(&number, cudaDevAttrMaxSharedMemoryPerBlock, 0));
    assert_int_equal(number, 49152);
    OK(cudaDeviceGetAttribute(&number, cudaDevAttrMemoryPoolsSupported, 0));
    assert_int_equal(number, 1);
}

static void advice(void **state)
{
    void *managed, *device;

    (void)state;
    OK(cudaMallocManaged(&managed, 4096, cudaMemAttachGlobal));
    OK(cudaMalloc(&device, 4096));
    OK(cudaMemPrefetchAsync(managed, 4096, 0, NULL));
    OK(cudaMemPrefetchAsync(managed, 4096, cudaCpuDeviceId, NULL));
    OK(cudaMemAdvise(managed, 4096, cudaMemAdviseSetReadMostly, 0));
    OK(cudaMemAdvise_v2(managed, 4096, cudaMemAdviseSetPreferredLocation,
                        (struct cudaMemLocation){cudaMemLocationTypeDevice, 3}));
    OK(cudaStreamAttachMemAsync(NULL, managed, 0, cudaMemAttachSingle));
    CUDA_FAILS(cudaMemPrefetchAsync(device, 4096, 0, NULL), cudaErrorInvalidValue,
               "no managed memory");
    CUDA_FAILS(cudaMemPrefetchAsync(managed, 4096, 99, NULL), cudaErrorInvalidDevice, "device=99");
    CUDA_FAILS(cudaMemAdvise(managed, 4096, (enum cudaMemoryAdvise)9, 0), cudaErrorInvalidValue,
               "advice=9");
    CUDA_FAILS(cudaStreamAttachMemAsync(NULL, device, 0, cudaMemAttachSingle),
               cudaErrorInvalidValue, "managed memory");
    OK(cudaFree(managed));
    OK(cudaFree(device));
}

/* ---- conversions: by looking for the nearest of all values --------------------------------------------------------- */

/* What 16 bits mean: a sign, exponent bits, mantissa bits. */
static double meaning(unsigned bits, unsigned mantissa_bits)
{
    unsigned exponent_bits = 15 - mantissa_bits, bias = (1u << (exponent_bits - 1)) - 1;
    unsigned exponent = bits >> mantissa_bits & ((1u << exponent_bits) - 1);
    unsigned mantissa = bits & ((1u << mantissa_bits) - 1);
    double value =
        exponent ? ldexp(1.0 + ldexp(mantissa, -(int)mantissa_bits), (int)exponent - (int)bias)
                 : ldexp(mantissa, 1 - (int)bias - (int)mantissa_bits);

    return bits & 0x8000 ? -value : value;
}

/* The double lies between the positive values of `low` and low + 1; what it has to become. */
static unsigned nearest(double value, unsigned low, unsigned mantissa_bits)
{
    double below = value - meaning(low, mantissa_bits),
           above = meaning(low + 1, mantissa_bits) - value;

    if (below != above)
        return below < above ? low : low + 1;
    return low & 1 ? low + 1 : low;
}

static void check(double value, unsigned low, unsigned mantissa_bits)
{
    unsigned wanted = nearest(value, low, mantissa_bits), got, of_negative, of_float;
    float near = (float)value;

    if (mantissa_bits == 10) {
        got = __half_as_ushort(__double2half(value));
        of_negative = __half_as_ushort(__double2half(-value));
        of_float = __half_as_ushort(__float2half(near));
    } else {
        got = __bfloat16_as_ushort(__double2bfloat16(value));
        of_negative = __bfloat16_as_ushort(__double2bfloat16(-value));
        of_float = __bfloat16_as_ushort(__float2bfloat16(near));
    }
    if (got != wanted || of_negative != (wanted | 0x8000) ||
        ((double)near == value && of_float != wanted))
        fail_msg("%a becomes %#x and %#x, its negative %#x: not %#x (%u bits)", value, got,
                 of_float, of_negative, wanted, mantissa_bits);
}

/* All values, and between each two the middle and what is next to it, as float and as double. */
static void conversions(void **state)
{
    (void)state;
    for (unsigned mantissa_bits = 7; mantissa_bits <= 10; mantissa_bits += 3) {
        unsigned infinity = 0x7fffu >> mantissa_bits << mantissa_bits;

        for (unsigned low = 0; low < infinity; low++) {
            double from = meaning(low, mantissa_bits), to = meaning(low + 1, mantissa_bits);
            double middle = from + (to - from) / 2;
            float near = (float)middle;

            assert_true((mantissa_bits == 10
                             ? (double)__half2float(__ushort_as_half((unsigned short)low))
                             : (double)__bfloat162float(
                                   __ushort_as_bfloat16((unsigned short)low))) == from);
            check(from, low, mantissa_bits);
            check(middle, low, mantissa_bits);
            check(nextafter(middle, 0), low, mantissa_bits);
            check(nextafter(middle, HUGE_VAL), low, mantissa_bits);
            check((double)nextafterf(near, 0), low, mantissa_bits);
            if (isfinite(nextafterf(near, HUGE_VALF)))
                check((double)nextafterf(near, HUGE_VALF), low, mantissa_bits);
        }
    }
    assert_int_equal(__half_as_ushort(__float2half(NAN)), 0x7fff);
    assert_int_equal(__half_as_ushort(__float2half(-HUGE_VALF)), 0xfc00);
    assert_int_equal(__half_as_ushort(__double2half(-1e-300)), 0x8000);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(NAN)), 0x7fff);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(1e300)), 0x7f80);
    assert_true(isnan(__half2float(__ushort_as_half(0x7e00))));
    assert_true(__half2float(__ushort_as_half(0xfc00)) == -HUGE_VALF);
    assert_true(__high2float(__floats2half2_rn(1, -2)) == -2);
    assert_true(__hisinf(__ushort_as_half(0xfc00)) == -1 && __hisnan(__ushort_as_half(0x7c01)));
    assert_int_equal(nvtxRangePushA("nobody listens"), nvtxRangePop());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(memory_of_streams),
                                       cmocka_unit_test(short_of_memory),
                                       cmocka_unit_test(pools),
                                       cmocka_unit_test(boxes),
                                       cmocka_unit_test(limits),
                                       cmocka_unit_test(advice),
                                       cmocka_unit_test(conversions)};

    setenv("THRUM_SIM_HBM_BYTES", "64M", 1); /* so that it can be used up */
    return cmocka_run_group_tests_name("runtime", tests, NULL, reset_devices);
}
