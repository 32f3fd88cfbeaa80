/* Internals of libcudart.so, the CUDA runtime's host side on Thrum's device runtime. */
#ifndef FRONTEND_NCCL_CUDART_H
#define FRONTEND_NCCL_CUDART_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "handle_set.h"
#include "thrum_cudart.h"

/* ---- errors (cudart_error.c) ---- */

/* Keeps the error as this thread's last one and returns it; NotReady and Success are none. */
cudaError_t cudart_result(cudaError_t error);
/* The error, with a sentence for thrumCudaErrorDetail. */
cudaError_t cudart_fail(cudaError_t error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What a status of Thrum is called in CUDA; its message becomes the detail. */
cudaError_t cudart_of_status(thrum_status_t status);

/* ---- streams (cudart_stream.c) ---- */

struct cudart_device;

struct host_call;
struct cudart_stream {
    thrum_queue_t queue; /* also the stream's handle */
    struct cudart_device *device; /* NULL: a queue of the caller's, of which nothing is known */
    unsigned flags; /* cudaStreamNonBlocking */
    int priority;
    struct cudart_stream *next; /* of the device; under its lock */
    _Atomic int references; /* 1, and one for each who waits for all streams of the device */
    /*
     * How often work was given to it, and how much of the work on the other side it waits for already: of a blocking
     * stream, of the default stream's; of the default stream, of all blocking ones'.
     */
    _Atomic uint64_t used, ordered;
    uint64_t
        waited_for; /* blocking: `used` up to which the default stream waits; under the device's lock */
    _Atomic int deferred; /* thrum_status_t that a wait of ours met, for the caller's next one */
    _Atomic bool forgiven; /* see thrum_cudart_forgive */
    _Atomic uint64_t capturing; /* the number of its capture; 0: it is not captured */
    struct host_call *host_calls; /* under the device's lock */
};

/* ---- devices (cudart_device.c) ---- */

struct cudart_device {
    int index; /* CUDA's number of it */
    _Atomic(thrum_device_t) device; /* NULL: not opened yet */
    struct thrum_device_properties properties; /* fixed once opened */
    pthread_mutex_t lock; /* of the streams and the ordering event */
    struct cudart_stream main; /* the default stream */
    struct cudart_stream *streams; /* the others */
    _Atomic uint64_t blocking_used; /* how often work was given to any blocking stream */
    thrum_event_t order; /* marks points for which the other side waits */
    bool *peers; /* by CUDA device: peer access was enabled; under the lock */
};

/* How many CUDA devices there are; of the environment's choice. */
cudaError_t cudart_device_count(int *count_out);
/* An opened device; index -1: the thread's current one. */
cudaError_t cudart_device_get(int index, struct cudart_device **device_out);
/* The same, as it is: NULL where it is not open. */
struct cudart_device *cudart_device_if_open(int index);

/* cudaGetDeviceProperties of CUDA 13, exported as that by cudart-13.sed. */
__attribute__((visibility("default"))) cudaError_t cudart_properties_13(void *properties_out,
                                                                        int index);

/* The stream of a handle: NULL is the default one of device `index` (-1: the current). */
cudaError_t cudart_stream_find(cudaStream_t handle, int index, struct cudart_stream **stream_out);
/* Before work is given to the stream: lets it wait for what CUDA's rules put in front. */
cudaError_t cudart_stream_enter(struct cudart_stream *stream);
/* Waits for the stream's work. keep: an error is for the caller's next wait. */
cudaError_t cudart_stream_wait(struct cudart_stream *stream, bool keep);
/* What a wait that returned `status` means for the caller. */
cudaError_t cudart_stream_settle(struct cudart_stream *stream, thrum_status_t status);
/* All streams of the device; the first error. */
cudaError_t cudart_device_wait(struct cudart_device *device, bool keep);
/* Waits for, and destroys, the device's streams except the default one. */
void cudart_streams_drop(struct cudart_device *device);
/* Frees the records of host functions of a stream that has ended its work. */
void cudart_host_calls_free(struct cudart_stream *stream);

/* ---- memory (cudart_memory.c) ---- */

enum cudart_kind {
    CUDART_PAGEABLE, /* plain host memory; not in the table */
    CUDART_DEVICE,
    CUDART_HOST, /* cudaMallocHost and its like */
    CUDART_HOST_REGISTERED,
    CUDART_MANAGED, /* host memory that devices reach */
    CUDART_IPC /* another process's device memory */
};

struct cudart_range {
    uintptr_t base;
    size_t bytes;
    enum cudart_kind kind;
    int device; /* CUDA's number */
    unsigned flags;
};

/* What holds the pointer; kind CUDART_PAGEABLE if nothing that is known. */
struct cudart_range cudart_range_of(const void *pointer);
/*
 * An address for the engines of `device`, of memory that may be another device's; *host_out: it is host memory.
 * The range has to be inside one allocation.
 */
cudaError_t cudart_reach(struct cudart_device *device, const char *argument, const void *pointer,
                         size_t bytes, uint64_t *address_out, bool *host_out);
/* Thrum's name of an allocation as CUDA's, and back (cudart_ipc.c). */
cudaError_t cudart_ipc_publish(const struct thrum_mem_handle *handle, cudaIpcMemHandle_t *out);
cudaError_t cudart_ipc_find(const cudaIpcMemHandle_t *handle, struct thrum_mem_handle *out);
/* Forgets all memory of the device. */
void cudart_memory_drop(struct cudart_device *device);

#endif
