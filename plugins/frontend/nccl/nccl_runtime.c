/*
 * The CUDA runtime of the process: Thrum's own libcudart, whose streams are queues, or a vendor's, whose streams the
 * device's plugin takes by queue_import. The rest of libnccl does not know which it is.
 */
#include "frontend.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

#include "thrum_cudart.h"

/* A vendor's runtime has none of these. */
#pragma weak thrum_cudart_device
#pragma weak thrum_cudart_stream
#pragma weak thrum_cudart_forgive
#pragma weak thrumCudaErrorDetail

static struct {
    pthread_once_t once;
    bool is_native; /* a vendor's */
    const char *path; /* of its object */
    /* whichever it is; NULL: it lacks the call */
    __typeof__(cudaGetDeviceCount) *get_device_count;
    __typeof__(cudaGetDevice) *get_device;
    __typeof__(cudaStreamIsCapturing) *stream_is_capturing;
    __typeof__(cudaMalloc) *malloc;
    __typeof__(cudaFree) *free;
    __typeof__(cudaGetLastError) *get_last_error;
    __typeof__(cudaGetErrorString) *get_error_string;
} runtime = {.once = PTHREAD_ONCE_INIT};

/* `call_out`: where the function's pointer goes, which stays NULL if there is none. */
static void *find(const char *name, void *call_out, size_t bytes)
{
    void *symbol = dlsym(RTLD_DEFAULT, name);

    memcpy(call_out, &symbol, bytes); /* ISO C has no cast from an object pointer */
    return symbol;
}
#define FIND(name, call) find(name, &runtime.call, sizeof runtime.call)

/*
 * Which one it is: the first in the order in which the program's own calls are resolved. Both may be loaded, since this
 * library brings Thrum's along where the program has a vendor's of another name. The object of cudaRuntimeGetVersion tells
 * them apart: nobody has a reason to wrap that, or to take its address, which may lie in a program then.
 */
static void find_runtime(void)
{
    Dl_info found = {.dli_fname = ""}, own;

    (void)FIND("cudaGetDeviceCount", get_device_count);
    (void)FIND("cudaStreamIsCapturing", stream_is_capturing);
    (void)FIND("cudaMalloc", malloc);
    (void)FIND("cudaFree", free);
    (void)FIND("cudaGetLastError", get_last_error);
    (void)FIND("cudaGetErrorString", get_error_string);
    (void)FIND("cudaGetDevice", get_device);
    if (!dladdr(dlsym(RTLD_DEFAULT, "cudaRuntimeGetVersion"), &found))
        return;
    runtime.path = found.dli_fname;
    runtime.is_native = !thrum_cudart_device ||
                        !dladdr((void *)(uintptr_t)thrum_cudart_device, &own) ||
                        own.dli_fbase != found.dli_fbase;
    if (runtime.is_native)
        thrum_plugin_log(THRUM_LOG_INFO, "the CUDA runtime is %s: streams are its own",
                         runtime.path);
}

/* UNSUPPORTED if there is no runtime, or one without the calls that everybody's has. */
static thrum_status_t runtime_get(void)
{
    pthread_once(&runtime.once, find_runtime);
    if (runtime.path && runtime.get_device && runtime.get_device_count && runtime.malloc &&
        runtime.free)
        return THRUM_OK;
    return thrum_plugin_fail(THRUM_ERR_UNSUPPORTED,
                             "there is no CUDA runtime in this process: link with libcudart, or "
                             "load it with RTLD_GLOBAL");
}

/* What the runtime says of the error that its call has just returned, which is taken from its last errors: it is told here. */
static const char *explain(cudaError_t error)
{
    if (runtime.get_last_error)
        (void)runtime.get_last_error();
    if (!runtime.is_native)
        return thrumCudaErrorDetail();
    return runtime.get_error_string ? runtime.get_error_string(error) : cudaGetErrorName(error);
}

static thrum_status_t cuda_failed(thrum_status_t status, const char *call, cudaError_t error)
{
    return thrum_plugin_fail(status, "%s: %s", call, explain(error));
}

/* ---- devices ---- */

thrum_status_t nccl_runtime_count(int *count_out)
{
    thrum_status_t status = runtime_get();
    cudaError_t error = status ? cudaSuccess : runtime.get_device_count(count_out);

    return error ? cuda_failed(THRUM_ERR_NO_DEVICE, "cudaGetDeviceCount", error) : status;
}

/* Thrum's own chooses one that is free for each of its numbers. */
static thrum_status_t open_own(int index, int *index_out, thrum_device_t *device_out)
{
    struct thrum_device_properties properties = {.size = sizeof properties};
    thrum_device_t device;
    thrum_status_t status = thrum_cudart_device(index, index_out, &device);

    if (!status)
        status = thrum_device_get_properties(device, &properties);
    return status ? status : thrum_device_open(properties.index, device_out);
}

/* Whether streams can be taken, before the first operation comes: by the default stream, which is always there. */
static thrum_status_t check_import(thrum_device_t device)
{
    thrum_queue_t queue;
    thrum_status_t status = thrum_queue_import(device, NULL, &queue);

    if (!status)
        thrum_queue_destroy(queue);
    if (status != THRUM_ERR_UNSUPPORTED)
        return status;
    return thrum_plugin_fail(status,
                             "THRUM_DEVICE=%s cannot take the streams of this process's CUDA "
                             "runtime, %s: choose that vendor's device plugin, or start the "
                             "program by thrum-run",
                             thrum_plugin_config("THRUM_DEVICE"), runtime.path);
}

/* A vendor's plugin counts its devices as its runtime does. */
static thrum_status_t open_native(int index, int *index_out, thrum_device_t *device_out)
{
    thrum_device_t device;
    cudaError_t error = index < 0 ? runtime.get_device(&index) : cudaSuccess;
    thrum_status_t status = error ? cuda_failed(THRUM_ERR_NO_DEVICE, "cudaGetDevice", error)
                                  : thrum_device_open(index, &device);

    if (status)
        return status;
    status = check_import(device);
    if (status) {
        thrum_device_close(device);
        return status;
    }
    *index_out = index;
    *device_out = device;
    return THRUM_OK;
}

thrum_status_t nccl_runtime_open(int index, int *index_out, thrum_device_t *device_out)
{
    thrum_status_t status = runtime_get();

    if (status)
        return status;
    return runtime.is_native ? open_native(index, index_out, device_out)
                             : open_own(index, index_out, device_out);
}

/* ---- streams ---- */

/* A stream of a vendor's runtime that the communicator has been given. */
struct nccl_import {
    struct nccl_import *next; /* under the communicator's lock */
    cudaStream_t stream;
    thrum_queue_t queue;
};

/* Under the communicator's lock. A stream that is gone may have left its address to another. */
static thrum_status_t import_once(struct ncclComm *comm, cudaStream_t stream,
                                  thrum_queue_t *queue_out)
{
    struct nccl_import *import = comm->imports;
    thrum_queue_t queue;
    thrum_status_t status;

    while (import && import->stream != stream)
        import = import->next;
    if (import && thrum_queue_id(import->queue)) {
        *queue_out = import->queue;
        return THRUM_OK;
    }
    status = thrum_queue_import(comm->device, stream, &queue);
    if (status)
        return status;
    if (!import) {
        import = calloc(1, sizeof *import);
        if (!import) {
            thrum_queue_destroy(queue);
            return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for a stream");
        }
        import->stream = stream;
        import->next = comm->imports;
        comm->imports = import;
    }
    thrum_queue_destroy(import->queue);
    import->queue = queue;
    *queue_out = queue;
    return THRUM_OK;
}

/* A graph of the runtime's could not launch what Thrum's threads have to take part in. */
static thrum_status_t check_capture(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t error =
        runtime.stream_is_capturing ? runtime.stream_is_capturing(stream, &capture) : cudaSuccess;

    if (error)
        return cuda_failed(THRUM_ERR_INVALID_USAGE, "cudaStreamIsCapturing", error);
    if (capture != cudaStreamCaptureStatusNone)
        return thrum_plugin_fail(THRUM_ERR_INVALID_USAGE,
                                 "stream %p is being captured: operations are captured on the "
                                 "streams of Thrum's own CUDA runtime only (thrum-run)",
                                 (void *)stream);
    return THRUM_OK;
}

static thrum_status_t native_queue(struct ncclComm *comm, cudaStream_t stream,
                                   thrum_queue_t *queue_out)
{
    thrum_status_t status;

    if (stream == cudaStreamPerThread)
        return thrum_plugin_fail(THRUM_ERR_INVALID_USAGE,
                                 "cudaStreamPerThread is another stream on each thread: name one "
                                 "that cudaStreamCreate made");
    pthread_mutex_lock(&comm->lock);
    status = import_once(comm, stream, queue_out);
    pthread_mutex_unlock(&comm->lock);
    return status ? status : check_capture(stream);
}

thrum_status_t nccl_runtime_queue(struct ncclComm *comm, cudaStream_t stream,
                                  thrum_queue_t *queue_out)
{
    return runtime.is_native ? native_queue(comm, stream, queue_out)
                             : thrum_cudart_stream(stream, comm->device_index, queue_out);
}

void nccl_runtime_forgive(const struct ncclComm *comm, thrum_queue_t queue)
{
    if (!runtime.is_native) /* streams of others are told nothing of it */
        thrum_cudart_forgive(queue, comm->device_index);
}

void nccl_runtime_release(struct ncclComm *comm)
{
    while (comm->imports) {
        struct nccl_import *import = comm->imports;

        comm->imports = import->next;
        thrum_queue_destroy(import->queue);
        free(import);
    }
}

/* ---- memory ---- */

static ncclResult_t of_cuda(const char *function, cudaError_t error)
{
    if (!error)
        return ncclSuccess;
    return nccl_fail(error == cudaErrorInvalidValue ? ncclInvalidArgument : ncclUnhandledCudaError,
                     "%s: %s (%s)", function, explain(error), cudaGetErrorName(error));
}

ncclResult_t nccl_runtime_malloc(const char *function, void **ptr, size_t bytes)
{
    thrum_status_t status = runtime_get();

    return status ? nccl_of_status(function, NULL, status)
                  : of_cuda(function, runtime.malloc(ptr, bytes));
}

ncclResult_t nccl_runtime_free(const char *function, void *ptr)
{
    thrum_status_t status = runtime_get();

    return status ? nccl_of_status(function, NULL, status) : of_cuda(function, runtime.free(ptr));
}
