/* Errors of libcudart.so: the thread's last one, texts, and what Thrum's statuses are called in CUDA. */
#include "cudart.h"

#include <stdarg.h>
#include <stdio.h>

#include <thrum/plugin.h>

static _Thread_local struct {
    cudaError_t last;
    char detail[512];
} thread;

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case cuda##name: \
        return text;
        CUDART_ERROR_MAP(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case cuda##name: \
        return "cuda" #name;
        CUDART_ERROR_MAP(X)
#undef X
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t last = thread.last;

    thread.last = cudaSuccess;
    return last;
}

cudaError_t cudaPeekAtLastError(void)
{
    return thread.last;
}

const char *thrumCudaErrorDetail(void)
{
    return thread.detail;
}

cudaError_t cudart_result(cudaError_t error)
{
    if (error != cudaSuccess && error != cudaErrorNotReady)
        thread.last = error;
    return error;
}

cudaError_t cudart_fail(cudaError_t error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(thread.detail, sizeof thread.detail, format, arguments);
    va_end(arguments);
    thrum_plugin_log(THRUM_LOG_INFO, "%s (%s)", thread.detail, cudaGetErrorName(error));
    return error;
}

static cudaError_t name_of(thrum_status_t status)
{
    switch (status) {
    case THRUM_OK:
        return cudaSuccess;
    case THRUM_IN_PROGRESS:
        return cudaErrorNotReady;
    case THRUM_ERR_INVALID_QUEUE:
        return cudaErrorInvalidResourceHandle;
    case THRUM_ERR_INVALID_USAGE:
        return cudaErrorIllegalState;
    case THRUM_ERR_UNSUPPORTED:
        return cudaErrorNotSupported;
    case THRUM_ERR_NO_MEMORY:
    case THRUM_ERR_NO_DEVICE_MEMORY:
        return cudaErrorMemoryAllocation;
    case THRUM_ERR_NO_DEVICE:
        return cudaErrorNoDevice;
    case THRUM_ERR_BUSY:
        return cudaErrorDevicesUnavailable;
    case THRUM_ERR_LIMIT:
    case THRUM_ERR_SYSTEM:
        return cudaErrorOperatingSystem;
    case THRUM_ERR_INVALID_CONFIG:
        return cudaErrorInitializationError;
    case THRUM_ERR_FAULT:
        return cudaErrorIllegalAddress;
    case THRUM_ERR_BAD_PACKET:
        return cudaErrorIllegalInstruction;
    case THRUM_ERR_RESET:
        return cudaErrorContextIsDestroyed;
    case THRUM_ERR_INVALID_ARGUMENT:
    case THRUM_ERR_INVALID_POINTER:
    case THRUM_ERR_INVALID_COUNT:
        return cudaErrorInvalidValue;
    case THRUM_ERR_TIMEOUT: /* a collective on the stream has failed */
    case THRUM_ERR_MISMATCH:
    case THRUM_ERR_PEER_DEAD:
    case THRUM_ERR_ABORTED:
    case THRUM_ERR_UNREACHABLE:
        return cudaErrorLaunchFailure;
    default:
        return cudaErrorUnknown;
    }
}

cudaError_t cudart_of_status(thrum_status_t status)
{
    return status < 0 ? cudart_fail(name_of(status), "%s", thrum_last_error()) : name_of(status);
}
