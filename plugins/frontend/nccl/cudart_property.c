/*
 * What CUDA's devices are: properties, attributes, bus addresses, versions, limits. What a device of Thrum's does not have
 * is 0. Called by programs.
 */
#include "cudart.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(cudaDeviceProp) == 1032, "CUDA 12's layout");

cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp *out, int index)
{
    struct cudart_device *device;
    cudaError_t error = out && index >= 0
                            ? cudart_device_get(index, &device)
                            : cudart_fail(out ? cudaErrorInvalidDevice : cudaErrorInvalidValue,
                                          "properties=%p, device=%d", (void *)out, index);
    const struct thrum_device_properties *p;

    if (error)
        return cudart_result(error);
    p = &device->properties;
    /* limits of kernels are those of the compute capability that is claimed */
    *out = (cudaDeviceProp){.totalGlobalMem = p->memory_bytes,
                            .sharedMemPerBlock = 49152,
                            .regsPerBlock = 65536,
                            .warpSize = 32,
                            .memPitch = 0x7fffffff,
                            .maxThreadsPerBlock = 1024,
                            .maxThreadsDim = {1024, 1024, 64},
                            .maxGridSize = {0x7fffffff, 65535, 65535},
                            .totalConstMem = 65536,
                            .major = 9,
                            .textureAlignment = 512,
                            .multiProcessorCount = (int)p->engines_reduce,
                            .canMapHostMemory = 1,
                            .concurrentKernels = 1,
                            .pciBusID = p->index & 0xff,
                            .pciDomainID = p->index >> 8,
                            .asyncEngineCount = (int)p->engines_dma,
                            .unifiedAddressing = 1,
                            .maxThreadsPerMultiProcessor = 2048,
                            .sharedMemPerMultiprocessor = 233472,
                            .regsPerMultiprocessor = 65536,
                            .managedMemory = 1,
                            .pageableMemoryAccess = !!(p->capabilities & THRUM_CAP_PAGEABLE),
                            .concurrentManagedAccess = 1,
                            .canUseHostPointerForRegisteredMem = 1,
                            .sharedMemPerBlockOptin = 232448,
                            .maxBlocksPerMultiProcessor = 32,
                            .reservedSharedMemPerBlock = 1024,
                            .hostRegisterSupported = 1,
                            .memoryPoolsSupported = 1};
    snprintf(out->name, sizeof out->name, "Thrum %.*s", (int)sizeof p->name - 1, p->name);
    memcpy(out->uuid.bytes, "thrum", 5);
    out->uuid.bytes[14] = (char)(p->index >> 8);
    out->uuid.bytes[15] = (char)p->index;
    return cudaSuccess;
}

/* CUDA 13's layout, under the old name. */
struct properties_13 {
#define B(type, name, dimension) type name dimension;
#define O(type, name, dimension)
    CUDART_PROPERTIES_MAP(B, O)
#undef B
#undef O
    int added[7], reserved[56];
};
_Static_assert(sizeof(struct properties_13) == 1008, "CUDA 13's layout");

cudaError_t cudart_properties_13(void *out, int index)
{
    struct properties_13 *properties = out;
    cudaDeviceProp full;
    cudaError_t error = cudaGetDeviceProperties_v2(out ? &full : NULL, index);

    if (error)
        return error;
    memset(properties, 0, sizeof *properties);
#define B(type, name, dimension) memcpy(&properties->name, &full.name, sizeof full.name);
#define O(type, name, dimension)
    CUDART_PROPERTIES_MAP(B, O)
#undef B
#undef O
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int index)
{
    cudaDeviceProp p = {.major = 0};
    cudaError_t error = value ? cudaGetDeviceProperties(&p, index)
                              : cudart_fail(cudaErrorInvalidValue, "value=NULL");
    const struct {
        enum cudaDeviceAttr attribute;
        int value;
    } rows[] = {
        {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
        {cudaDevAttrMaxBlockDimX, p.maxThreadsDim[0]},
        {cudaDevAttrMaxBlockDimY, p.maxThreadsDim[1]},
        {cudaDevAttrMaxBlockDimZ, p.maxThreadsDim[2]},
        {cudaDevAttrMaxGridDimX, p.maxGridSize[0]},
        {cudaDevAttrMaxGridDimY, p.maxGridSize[1]},
        {cudaDevAttrMaxGridDimZ, p.maxGridSize[2]},
        {cudaDevAttrMaxSharedMemoryPerBlock, (int)p.sharedMemPerBlock},
        {cudaDevAttrTotalConstantMemory, (int)p.totalConstMem},
        {cudaDevAttrWarpSize, p.warpSize},
        {cudaDevAttrMaxPitch, (int)p.memPitch},
        {cudaDevAttrMaxRegistersPerBlock, p.regsPerBlock},
        {cudaDevAttrClockRate, p.clockRate},
        {cudaDevAttrTextureAlignment, (int)p.textureAlignment},
        {cudaDevAttrGpuOverlap, p.asyncEngineCount != 0},
        {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
        {cudaDevAttrKernelExecTimeout, p.kernelExecTimeoutEnabled},
        {cudaDevAttrIntegrated, p.integrated},
        {cudaDevAttrCanMapHostMemory, p.canMapHostMemory},
        {cudaDevAttrComputeMode, p.computeMode},
        {cudaDevAttrConcurrentKernels, p.concurrentKernels},
        {cudaDevAttrEccEnabled, p.ECCEnabled},
        {cudaDevAttrPciBusId, p.pciBusID},
        {cudaDevAttrPciDeviceId, p.pciDeviceID},
        {cudaDevAttrTccDriver, p.tccDriver},
        {cudaDevAttrMemoryClockRate, p.memoryClockRate},
        {cudaDevAttrGlobalMemoryBusWidth, p.memoryBusWidth},
        {cudaDevAttrL2CacheSize, p.l2CacheSize},
        {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
        {cudaDevAttrAsyncEngineCount, p.asyncEngineCount},
        {cudaDevAttrUnifiedAddressing, p.unifiedAddressing},
        {cudaDevAttrPciDomainId, p.pciDomainID},
        {cudaDevAttrComputeCapabilityMajor, p.major},
        {cudaDevAttrComputeCapabilityMinor, p.minor},
        {cudaDevAttrStreamPrioritiesSupported, p.streamPrioritiesSupported},
        {cudaDevAttrGlobalL1CacheSupported, p.globalL1CacheSupported},
        {cudaDevAttrLocalL1CacheSupported, p.localL1CacheSupported},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p.sharedMemPerMultiprocessor},
        {cudaDevAttrMaxRegistersPerMultiprocessor, p.regsPerMultiprocessor},
        {cudaDevAttrManagedMemory, p.managedMemory},
        {cudaDevAttrIsMultiGpuBoard, p.isMultiGpuBoard},
        {cudaDevAttrMultiGpuBoardGroupID, p.multiGpuBoardGroupID},
        {cudaDevAttrHostNativeAtomicSupported, p.hostNativeAtomicSupported},
        {cudaDevAttrSingleToDoublePrecisionPerfRatio, p.singleToDoublePrecisionPerfRatio},
        {cudaDevAttrPageableMemoryAccess, p.pageableMemoryAccess},
        {cudaDevAttrConcurrentManagedAccess, p.concurrentManagedAccess},
        {cudaDevAttrComputePreemptionSupported, p.computePreemptionSupported},
        {cudaDevAttrCanUseHostPointerForRegisteredMem, p.canUseHostPointerForRegisteredMem},
        {cudaDevAttrCooperativeLaunch, p.cooperativeLaunch},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p.sharedMemPerBlockOptin},
        {cudaDevAttrHostRegisterSupported, p.hostRegisterSupported},
        {cudaDevAttrPageableMemoryAccessUsesHostPageTables,
         p.pageableMemoryAccessUsesHostPageTables},
        {cudaDevAttrDirectManagedMemAccessFromHost, p.directManagedMemAccessFromHost},
        {cudaDevAttrMaxBlocksPerMultiprocessor, p.maxBlocksPerMultiProcessor},
        {cudaDevAttrMaxPersistingL2CacheSize, p.persistingL2CacheMaxSize},
        {cudaDevAttrMaxAccessPolicyWindowSize, p.accessPolicyMaxWindowSize},
        {cudaDevAttrReservedSharedMemoryPerBlock, (int)p.reservedSharedMemPerBlock},
        {cudaDevAttrHostRegisterReadOnlySupported, p.hostRegisterReadOnlySupported},
        {cudaDevAttrMemoryPoolsSupported, p.memoryPoolsSupported},
        {cudaDevAttrGPUDirectRDMASupported, p.gpuDirectRDMASupported},
        {cudaDevAttrGPUDirectRDMAFlushWritesOptions, (int)p.gpuDirectRDMAFlushWritesOptions},
        {cudaDevAttrGPUDirectRDMAWritesOrdering, p.gpuDirectRDMAWritesOrdering},
        {cudaDevAttrMemoryPoolSupportedHandleTypes, (int)p.memoryPoolSupportedHandleTypes},
        {cudaDevAttrClusterLaunch, p.clusterLaunch},
        {cudaDevAttrIpcEventSupport, p.ipcEventSupported}};

    for (size_t i = 0; !error && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].attribute == attribute) {
            *value = rows[i].value;
            return cudaSuccess;
        }
    return cudart_result(
        error ? error
              : cudart_fail(cudaErrorInvalidValue, "attribute=%d is not known", (int)attribute));
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int index)
{
    cudaDeviceProp p;
    cudaError_t error = text && bytes > 0 ? cudaGetDeviceProperties(&p, index)
                                          : cudart_fail(cudaErrorInvalidValue, "text=%p, bytes=%d",
                                                        (void *)text, bytes);

    if (!error)
        snprintf(text, (size_t)bytes, "%04x:%02x:%02x.0", (unsigned)p.pciDomainID,
                 (unsigned)p.pciBusID, (unsigned)p.pciDeviceID);
    return cudart_result(error);
}

cudaError_t cudaDeviceGetByPCIBusId(int *index, const char *text)
{
    char own[32];
    int count = 0;
    cudaError_t error = index && text
                            ? cudart_device_count(&count)
                            : cudart_fail(cudaErrorInvalidValue, "device or text is NULL");

    for (int i = 0; !error && i < count; i++) {
        error = cudaDeviceGetPCIBusId(own, sizeof own, i);
        if (!error && !strcmp(own, text)) {
            *index = i;
            return cudaSuccess;
        }
    }
    return cudart_result(
        error ? error : cudart_fail(cudaErrorInvalidDevice, "no device is at \"%s\"", text));
}

/* ---- versions, limits, the driver ---- */

/* No runtime that a program was linked with is newer than the driver. */
cudaError_t cudaDriverGetVersion(int *version)
{
    if (!version)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "version=NULL"));
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    if (!version)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "version=NULL"));
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudart_runtime_version_13(int *version)
{
    cudaError_t error = cudaRuntimeGetVersion(version);

    if (!error)
        *version = 13000;
    return error;
}

/* As CUDA's devices have them at first. */
void cudart_limits_init(struct cudart_device *device)
{
    static const size_t first[CUDART_LIMITS] = {
        [cudaLimitStackSize] = 1024,
        [cudaLimitPrintfFifoSize] = 1 << 20,
        [cudaLimitMallocHeapSize] = 8 << 20,
        [cudaLimitDevRuntimeSyncDepth] = 2,
        [cudaLimitDevRuntimePendingLaunchCount] = 2048,
        [cudaLimitMaxL2FetchGranularity] = 64,
        [cudaLimitPersistingL2CacheSize] = 0,
    };

    for (int i = 0; i < CUDART_LIMITS; i++)
        atomic_store(&device->limits[i], first[i]);
}

static cudaError_t find_limit(enum cudaLimit limit, struct cudart_device **device_out)
{
    if ((unsigned)limit >= CUDART_LIMITS)
        return cudart_fail(cudaErrorInvalidValue, "limit=%d is not known", (int)limit);
    return cudart_device_get(-1, device_out);
}

cudaError_t cudaDeviceSetLimit(enum cudaLimit limit, size_t value)
{
    struct cudart_device *device;
    cudaError_t error = find_limit(limit, &device);

    if (!error)
        atomic_store(&device->limits[limit], value);
    return cudart_result(error);
}

cudaError_t cudaDeviceGetLimit(size_t *value, enum cudaLimit limit)
{
    struct cudart_device *device;
    cudaError_t error =
        value ? find_limit(limit, &device) : cudart_fail(cudaErrorInvalidValue, "value=NULL");

    if (!error)
        *value = atomic_load(&device->limits[limit]);
    return cudart_result(error);
}

cudaError_t cudaDeviceSetCacheConfig(enum cudaFuncCache configuration)
{
    struct cudart_device *device;
    cudaError_t error =
        (unsigned)configuration > cudaFuncCachePreferEqual
            ? cudart_fail(cudaErrorInvalidValue, "configuration=%d", (int)configuration)
            : cudart_device_get(-1, &device);

    if (!error)
        atomic_store(&device->cache, (int)configuration);
    return cudart_result(error);
}

cudaError_t cudaDeviceGetCacheConfig(enum cudaFuncCache *configuration)
{
    struct cudart_device *device;
    cudaError_t error = configuration ? cudart_device_get(-1, &device)
                                      : cudart_fail(cudaErrorInvalidValue, "configuration=NULL");

    if (!error)
        *configuration = (enum cudaFuncCache)atomic_load(&device->cache);
    return cudart_result(error);
}

/* Devices of Thrum's are all alike. */
cudaError_t cudaChooseDevice(int *device, const cudaDeviceProp *wanted)
{
    int count = 0;
    cudaError_t error = device && wanted
                            ? cudart_device_count(&count)
                            : cudart_fail(cudaErrorInvalidValue, "device or wanted is NULL");

    if (!error && !count)
        error = cudart_fail(cudaErrorNoDevice, "there is no device");
    if (!error)
        *device = 0;
    return cudart_result(error);
}

cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult *status)
{
    (void)flags;
    if (function)
        *function = NULL;
    if (status)
        *status = cudaDriverEntryPointSymbolNotFound;
    return cudart_result(
        cudart_fail(symbol && function ? cudaErrorNotSupported : cudaErrorInvalidValue,
                    "%s: Thrum has no CUDA driver API", symbol ? symbol : "NULL"));
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *status)
{
    (void)version;
    return cudaGetDriverEntryPoint(symbol, function, flags, status);
}
