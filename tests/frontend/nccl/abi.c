/* Prints what a program built with nccl.h depends on: sizes, offsets, values. Compiled with two headers by `abi`. */
#include <stddef.h>
#include <stdio.h>

#include <nccl.h>

#define VALUE(name) printf(#name " %lld\n", (long long)(name))
#define FIELD(type, field) \
    printf(#type "." #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))

int main(void)
{
    const ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    const ncclSimInfo_t sim = NCCL_SIM_INFO_INITIALIZER;
    const unsigned char *bytes = (const unsigned char *)&config;

    VALUE(NCCL_VERSION_CODE);
    VALUE(NCCL_VERSION(2, 8, 1));
    VALUE(NCCL_VERSION(2, 27, 3));
    VALUE(NCCL_UNIQUE_ID_BYTES);
    VALUE(sizeof(ncclUniqueId));
    VALUE(sizeof(ncclComm_t));
    VALUE(sizeof(ncclWindow_t));
    VALUE(sizeof(ncclConfig_t));
    VALUE(sizeof(ncclSimInfo_t));
    VALUE(sizeof(ncclResult_t));
    VALUE(sizeof(ncclRedOp_t));
    VALUE(sizeof(ncclDataType_t));
    FIELD(ncclConfig_t, size);
    FIELD(ncclConfig_t, magic);
    FIELD(ncclConfig_t, version);
    FIELD(ncclConfig_t, blocking);
    FIELD(ncclConfig_t, cgaClusterSize);
    FIELD(ncclConfig_t, minCTAs);
    FIELD(ncclConfig_t, maxCTAs);
    FIELD(ncclConfig_t, netName);
    FIELD(ncclConfig_t, splitShare);
    FIELD(ncclConfig_t, trafficClass);
    FIELD(ncclConfig_t, commName);
    FIELD(ncclConfig_t, collnetEnable);
    FIELD(ncclConfig_t, CTAPolicy);
    FIELD(ncclConfig_t, shrinkShare);
    FIELD(ncclConfig_t, nvlsCTAs);
    FIELD(ncclConfig_t, nChannelsPerNetPeer);
    FIELD(ncclConfig_t, nvlinkCentricSched);
    FIELD(ncclSimInfo_t, size);
    FIELD(ncclSimInfo_t, magic);
    FIELD(ncclSimInfo_t, version);
    FIELD(ncclSimInfo_t, estimatedTime);
    printf("config");
    for (size_t i = 0; i < sizeof config; i++)
        printf(" %02x", bytes[i]);
    printf("\nsim %zu %x %u %f\n", sim.size, sim.magic, sim.version, (double)sim.estimatedTime);
    VALUE(NCCL_CONFIG_UNDEF_INT);
    VALUE(NCCL_SPLIT_NOCOLOR);
    VALUE(NCCL_WIN_DEFAULT);
    VALUE(NCCL_WIN_COLL_SYMMETRIC);
    VALUE(NCCL_WIN_REQUIRED_ALIGNMENT);
    VALUE(NCCL_CTA_POLICY_DEFAULT);
    VALUE(NCCL_CTA_POLICY_EFFICIENCY);
    VALUE(NCCL_CTA_POLICY_ZERO);
    VALUE(NCCL_SHRINK_DEFAULT);
    VALUE(NCCL_SHRINK_ABORT);
    VALUE(NCCL_REVOKE_DEFAULT);
    VALUE(ncclSuccess);
    VALUE(ncclUnhandledCudaError);
    VALUE(ncclSystemError);
    VALUE(ncclInternalError);
    VALUE(ncclInvalidArgument);
    VALUE(ncclInvalidUsage);
    VALUE(ncclRemoteError);
    VALUE(ncclInProgress);
    VALUE(ncclNumResults);
    VALUE(ncclSum);
    VALUE(ncclProd);
    VALUE(ncclMax);
    VALUE(ncclMin);
    VALUE(ncclAvg);
    VALUE(ncclNumOps);
    VALUE(ncclMaxRedOp);
    VALUE(ncclInt8);
    VALUE(ncclUint8);
    VALUE(ncclInt32);
    VALUE(ncclUint32);
    VALUE(ncclInt64);
    VALUE(ncclUint64);
    VALUE(ncclFloat16);
    VALUE(ncclFloat32);
    VALUE(ncclFloat64);
    VALUE(ncclBfloat16);
    VALUE(ncclFloat8e4m3);
    VALUE(ncclFloat8e5m2);
    VALUE(ncclNumTypes);
    VALUE(ncclChar);
    VALUE(ncclInt);
    VALUE(ncclHalf);
    VALUE(ncclFloat);
    VALUE(ncclDouble);
    VALUE(ncclScalarDevice);
    VALUE(ncclScalarHostImmediate);
    VALUE(cudaSuccess);
    VALUE(cudaErrorInvalidValue);
    VALUE(cudaErrorMemoryAllocation);
    VALUE(cudaErrorInvalidDevice);
    VALUE(cudaErrorInvalidResourceHandle);
    VALUE(cudaErrorNotReady);
    VALUE(cudaErrorLaunchFailure);
    VALUE(cudaErrorNotSupported);
    VALUE(cudaErrorNoKernelImageForDevice);
    VALUE(cudaErrorIllegalState);
    VALUE(cudaErrorOperatingSystem);
    VALUE(cudaErrorStreamCaptureInvalidated);
    VALUE(cudaErrorUnknown);
    VALUE(cudaMemcpyHostToDevice);
    VALUE(cudaMemcpyDeviceToHost);
    VALUE(cudaMemcpyDefault);
    VALUE(cudaMemoryTypeManaged);
    VALUE(cudaStreamNonBlocking);
    VALUE(cudaEventDisableTiming);
    VALUE(cudaHostAllocMapped);
    VALUE(cudaDevAttrComputeCapabilityMajor);
    VALUE(cudaDevAttrGPUDirectRDMASupported);
    VALUE(cudaStreamLegacy == (cudaStream_t)1 && cudaStreamPerThread == (cudaStream_t)2);
    return 0;
}
