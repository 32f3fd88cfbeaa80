/*
 * What libnccl.so asks of libcudart.so: the device and the queue behind a thread's current device and a stream. Exported,
 * but not installed: the two libraries come together.
 */
#ifndef FRONTEND_NCCL_THRUM_CUDART_H
#define FRONTEND_NCCL_THRUM_CUDART_H

#include <thrum/device.h>

#include "cuda_runtime_api.h"

#pragma GCC visibility push(default)

/* The Thrum device of CUDA device `index`, or, with -1, of the thread's current one; opened by the first who asks. */
thrum_status_t thrum_cudart_device(int index, int *index_out, thrum_device_t *device_out);

/*
 * The queue of a stream, for work that is given to it now: NULL is the default stream of device `index`. Work on the
 * default stream and on blocking ones is put in order as CUDA has it. INVALID_QUEUE: not a live stream.
 */
thrum_status_t thrum_cudart_stream(cudaStream_t stream, int index, thrum_queue_t *queue_out);

/*
 * The caller itself ended operations on the queue, of CUDA device `index`: the next synchronize of the stream, and of the
 * device's streams that launched graphs or wait for others, takes ABORTED for success, as the stream of an aborted NCCL
 * communicator does; so do events.
 */
void thrum_cudart_forgive(thrum_queue_t queue, int index);

#pragma GCC visibility pop

#endif
