/*
 * A vendor's CUDA runtime that there is not, and its device plugin: what libthrum-nccl meets where Thrum's own libcudart is
 * not the process's runtime. Its devices are sim's, by a copy of its own inside; its streams are its own, and libthrum knows
 * of them only by queue_import. A stream's handle is a slot, so that the next stream has the address of one that is gone.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/builtin.h"
#include "base/config.h"
#include "cuda_runtime_api.h"

#include "acme.h"

#define DEVICES 2
#define SLOTS 8

/* A stream: alive as long as the runtime or an import has it. */
struct stream {
    _Atomic int references;
    uint64_t id;
    void *queue; /* sim's; NULL: destroyed. Under its device's lock */
    _Atomic uint64_t last; /* sim's ticket of the newest submission, whoever's */
    bool capturing;
};

struct CUstream_st {
    struct stream *stream; /* NULL: the slot is free */
};

static struct device {
    int index;
    void *sim; /* NULL: not open yet */
    pthread_mutex_t lock;
    struct CUstream_st slots[SLOTS]; /* the first is the default stream */
} devices[DEVICES];

static const struct thrum_device_ops *sim;
static struct thrum_device_ops table;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local int current;
static _Atomic int imports;
static _Atomic uint64_t ids = 1;

int acme_imports(void)
{
    return atomic_load(&imports);
}

/* ---- the driver ---- */

static thrum_status_t stream_new(struct device *device, struct CUstream_st *slot)
{
    struct stream *stream = calloc(1, sizeof *stream);
    thrum_status_t status =
        stream ? sim->queue_create(device->sim, 0, &stream->queue) : THRUM_ERR_NO_MEMORY;

    if (status) {
        free(stream);
        return status;
    }
    atomic_store(&stream->references, 1);
    stream->id = atomic_fetch_add(&ids, 1);
    slot->stream = stream;
    return THRUM_OK;
}

static void stream_put(struct stream *stream)
{
    if (atomic_fetch_sub(&stream->references, 1) == 1)
        free(stream);
}

/* Under the device's lock; NULL: no live stream. */
static struct stream *stream_at(struct device *device, const void *handle)
{
    if (!handle || handle == cudaStreamLegacy)
        return device->slots[0].stream;
    for (int i = 1; i < SLOTS; i++)
        if (handle == &device->slots[i])
            return device->slots[i].stream;
    return NULL;
}

/* Of any device: the first that is free, as other programs use sim's too. */
static thrum_status_t device_open(struct device *device)
{
    thrum_status_t status;
    int count = 0;

    if (device->sim)
        return THRUM_OK;
    status = sim->enumerate(&count);
    for (int i = 0; !status && !device->sim && i < count; i++)
        if (sim->open(i, &device->sim))
            device->sim = NULL;
    if (!status && !device->sim)
        status = THRUM_ERR_BUSY;
    return status ? status : stream_new(device, &device->slots[0]);
}

/* Under no lock: sim executes small commands at once, and a callback may poll. */
static thrum_status_t submit(struct device *device, struct stream *stream,
                             const struct thrum_command *commands, size_t n, uint64_t *ticket_out)
{
    thrum_status_t status;
    uint64_t last;
    void *queue;

    pthread_mutex_lock(&device->lock);
    queue = stream ? stream->queue : NULL;
    pthread_mutex_unlock(&device->lock);
    if (!queue)
        return THRUM_ERR_INVALID_QUEUE;
    status = sim->submit(queue, commands, n, ticket_out);
    if (status)
        return status;
    for (last = atomic_load(&stream->last);
         last < *ticket_out && !atomic_compare_exchange_weak(&stream->last, &last, *ticket_out);)
        ;
    return THRUM_OK;
}

/* ---- the plugin ---- */

/* What the library gets for a queue: sim's, or a stream and the tickets of what came through here, numbered from 1. */
struct queue {
    struct device *device;
    void *own;
    struct stream *stream;
    uint64_t *tickets; /* under the device's lock */
    uint64_t n, capacity;
};

static thrum_status_t plugin_enumerate(int *count_out)
{
    *count_out = DEVICES;
    return THRUM_OK;
}

static struct device *of_sim(void *handle)
{
    return &devices[devices[1].sim == handle];
}

static thrum_status_t plugin_open(int index, void **device_out)
{
    struct device *device = &devices[index];
    thrum_status_t status;

    pthread_mutex_lock(&device->lock);
    status = device_open(device);
    pthread_mutex_unlock(&device->lock);
    if (!status)
        *device_out = device->sim;
    return status;
}

static void plugin_close(void *device)
{
    (void)device; /* the runtime has it still */
}

static thrum_status_t plugin_properties(void *device, struct thrum_device_properties *out)
{
    thrum_status_t status = sim->properties(device, out);

    strcpy(out->name, of_sim(device) == devices ? "acme0" : "acme1");
    strcpy(out->plugin, "acme");
    out->index = of_sim(device)->index;
    return status;
}

static thrum_status_t queue_create(void *device, unsigned flags, void **queue_out)
{
    struct queue *queue = calloc(1, sizeof *queue);
    thrum_status_t status =
        queue ? sim->queue_create(device, flags, &queue->own) : THRUM_ERR_NO_MEMORY;

    if (status) {
        free(queue);
        return status;
    }
    queue->device = of_sim(device);
    *queue_out = queue;
    return THRUM_OK;
}

static thrum_status_t queue_import(void *handle, void *native, unsigned flags, void **queue_out)
{
    struct device *device = of_sim(handle);
    struct queue *queue = calloc(1, sizeof *queue);

    if (!queue || flags) {
        free(queue);
        return queue ? THRUM_ERR_INVALID_ARGUMENT : THRUM_ERR_NO_MEMORY;
    }
    pthread_mutex_lock(&device->lock);
    queue->stream = stream_at(device, native);
    if (queue->stream)
        atomic_fetch_add(&queue->stream->references, 1);
    pthread_mutex_unlock(&device->lock);
    if (!queue->stream) {
        free(queue);
        return THRUM_ERR_INVALID_QUEUE;
    }
    queue->device = device;
    atomic_fetch_add(&imports, 1);
    *queue_out = queue;
    return THRUM_OK;
}

static void queue_destroy(void *handle)
{
    struct queue *queue = handle;

    if (queue->own)
        sim->queue_destroy(queue->own);
    if (queue->stream) {
        stream_put(queue->stream);
        atomic_fetch_sub(&imports, 1);
    }
    free(queue->tickets);
    free(queue);
}

static uint64_t queue_id(void *handle)
{
    struct queue *queue = handle;
    uint64_t id;

    if (queue->own)
        return sim->queue_id(queue->own);
    pthread_mutex_lock(&queue->device->lock);
    id = queue->stream->queue ? 1000000 + queue->stream->id : 0;
    pthread_mutex_unlock(&queue->device->lock);
    return id;
}

static thrum_status_t queue_submit(void *handle, const struct thrum_command *commands, size_t n,
                                   uint64_t *ticket_out)
{
    struct queue *queue = handle;
    thrum_status_t status;
    uint64_t ticket;

    if (queue->own)
        return sim->submit(queue->own, commands, n, ticket_out);
    status = submit(queue->device, queue->stream, commands, n, &ticket);
    if (status)
        return status;
    pthread_mutex_lock(&queue->device->lock);
    if (queue->n == queue->capacity) {
        queue->capacity = queue->capacity ? 2 * queue->capacity : 64;
        queue->tickets = realloc(queue->tickets, queue->capacity * sizeof *queue->tickets);
        if (!queue->tickets)
            abort();
    }
    queue->tickets[queue->n++] = ticket;
    *ticket_out = queue->n;
    pthread_mutex_unlock(&queue->device->lock);
    return THRUM_OK;
}

/* sim's queue for the ticket, which becomes sim's; NULL: the stream is gone. */
static void *sim_queue(struct queue *queue, uint64_t *ticket)
{
    void *of_stream;

    if (queue->own)
        return queue->own;
    pthread_mutex_lock(&queue->device->lock);
    of_stream = queue->stream->queue;
    *ticket = queue->tickets[*ticket - 1];
    pthread_mutex_unlock(&queue->device->lock);
    return of_stream;
}

static thrum_status_t queue_poll(void *handle, uint64_t ticket)
{
    void *queue = sim_queue(handle, &ticket);

    return queue ? sim->poll(queue, ticket) : THRUM_OK;
}

static thrum_status_t queue_wait(void *handle, uint64_t ticket, int64_t timeout_ns)
{
    void *queue = sim_queue(handle, &ticket);

    return queue ? sim->wait(queue, ticket, timeout_ns) : THRUM_OK;
}

static void queue_cancel(void *handle, uint64_t first, uint64_t last, thrum_status_t status)
{
    struct queue *queue = handle;

    if (queue->own) {
        sim->cancel(queue->own, first, last, status);
        return;
    }
    for (uint64_t own = first; own <= last && own <= queue->n; own++) {
        uint64_t ticket = own;
        void *of_stream = sim_queue(queue, &ticket);

        if (of_stream && sim->poll(of_stream, ticket) == THRUM_IN_PROGRESS)
            sim->cancel(of_stream, ticket, ticket, status);
    }
}

static void init(void)
{
    if (thrum_config_load())
        abort();
    sim = sim_device_plugin(THRUM_DEVICE_ABI_VERSION);
    for (int i = 0; i < DEVICES; i++) {
        devices[i].index = i;
        pthread_mutex_init(&devices[i].lock, NULL);
    }
    table = *sim;
    table.name = "acme";
    table.enumerate = plugin_enumerate;
    table.open = plugin_open;
    table.close = plugin_close;
    table.properties = plugin_properties;
    table.queue_create = queue_create;
    table.queue_import = getenv("ACME_WITHOUT_IMPORT") ? NULL : queue_import;
    table.queue_destroy = queue_destroy;
    table.queue_id = queue_id;
    table.submit = queue_submit;
    table.submit_checked = NULL;
    table.submit_meanwhile = NULL;
    table.poll = queue_poll;
    table.wait = queue_wait;
    table.cancel = queue_cancel;
}

const struct thrum_device_ops *acme_device_ops(void)
{
    pthread_once(&once, init);
    return &table;
}

/* ---- the runtime ---- */

static cudaError_t of_status(thrum_status_t status)
{
    return status == THRUM_ERR_INVALID_QUEUE ? cudaErrorInvalidResourceHandle
           : status                          ? cudaErrorUnknown
                                             : cudaSuccess;
}

/* The thread's device, open. */
static struct device *here(void)
{
    pthread_once(&once, init);
    pthread_mutex_lock(&devices[current].lock);
    if (device_open(&devices[current]))
        abort();
    pthread_mutex_unlock(&devices[current].lock);
    return &devices[current];
}

static struct stream *find(struct device *device, cudaStream_t handle)
{
    struct stream *stream;

    pthread_mutex_lock(&device->lock);
    stream = stream_at(device, handle);
    pthread_mutex_unlock(&device->lock);
    return stream;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 12000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = DEVICES;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= DEVICES)
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error ? "cudaErrorOfAcme" : "cudaSuccess";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error ? "Acme does not like it" : "no error";
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    uint64_t address;

    if (!bytes || here()->sim == NULL || sim->mem_alloc(here()->sim, bytes, &address))
        return cudaErrorMemoryAllocation;
    *pointer = (void *)(uintptr_t)address;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    return of_status(sim->mem_free(here()->sim, (uintptr_t)pointer));
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    struct device *device = here();
    thrum_status_t status = THRUM_ERR_LIMIT;

    pthread_mutex_lock(&device->lock);
    for (int i = 1; i < SLOTS && status == THRUM_ERR_LIMIT; i++)
        if (!device->slots[i].stream) {
            status = stream_new(device, &device->slots[i]);
            *out = &device->slots[i];
        }
    pthread_mutex_unlock(&device->lock);
    return of_status(status);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    struct device *device = here();
    struct stream *stream = find(device, handle);
    uint64_t last;

    if (!stream)
        return cudaErrorInvalidResourceHandle;
    last = atomic_load(&stream->last);
    if (last)
        (void)!sim->wait(stream->queue, last,
                         -1); /* how others' work ended is no error of the stream */
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    struct device *device = here();
    cudaError_t error = cudaStreamSynchronize(handle);
    struct stream *stream;

    if (error)
        return error;
    pthread_mutex_lock(&device->lock);
    stream = handle->stream;
    handle->stream = NULL;
    sim->queue_destroy(stream->queue);
    stream->queue = NULL;
    pthread_mutex_unlock(&device->lock);
    stream_put(stream);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t handle)
{
    struct device *device = here();
    struct thrum_operand operands[] = {{.base = (uintptr_t)dst}, {.base = (uintptr_t)src}};
    struct thrum_command command = {.opcode = THRUM_CMD_COPY,
                                    .flags = THRUM_CMD_FLAG_HOST,
                                    .ndst = 1,
                                    .nsrc = 1,
                                    .bytes = bytes,
                                    .operands = operands};
    uint64_t ticket;

    (void)kind;
    return of_status(submit(device, find(device, handle), &command, 1, &ticket));
}

static thrum_status_t look_at_gate(void *argument)
{
    return atomic_load((_Atomic bool *)argument) ? THRUM_OK : THRUM_IN_PROGRESS;
}

cudaError_t acme_gate(cudaStream_t handle, _Atomic bool *open)
{
    struct device *device = here();
    struct thrum_command command = {
        .opcode = THRUM_CMD_CALLBACK, .callback = look_at_gate, .argument = (void *)open};
    uint64_t ticket;

    return of_status(submit(device, find(device, handle), &command, 1, &ticket));
}

void acme_capture(cudaStream_t handle, bool capturing)
{
    find(here(), handle)->capturing = capturing;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    struct stream *stream = find(here(), handle);

    if (!stream)
        return cudaErrorInvalidResourceHandle;
    *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
