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
struct cudart_pool;
struct cudart_capture;
struct cudart_graph;
struct cudart_graph_memory;
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
    _Atomic bool forgiven; /* see thrum_cudart_forgive */
    _Atomic uint64_t pardoned; /* when that was: for events that were recorded before */
    struct cudart_capture *_Atomic capture; /* NULL: it is not captured */
    unsigned lane; /* of the capture; under its lock */
    int asking; /* threads that ask how its work ended; under the captures' lock */
    bool is_lane; /* hidden, of an executable graph; its errors are those of who waits for it */
    struct cudart_stream *next_idle; /* of the device's lanes; under its lock */
    /*
     * Since the last wait it was given graphs to launch, or the end of other streams' work to wait for: it may end with
     * errors of others.
     */
    _Atomic bool relays;
};

/* ---- devices (cudart_device.c) ---- */

#define CUDART_LIMITS 7

struct cudart_device {
    int index; /* CUDA's number of it */
    _Atomic(thrum_device_t) device; /* NULL: not opened yet */
    struct thrum_device_properties properties; /* fixed once opened */
    pthread_mutex_t lock; /* of the streams and the ordering event */
    struct cudart_stream main; /* the default stream */
    struct cudart_stream *streams; /* the others */
    struct cudart_stream *idle_lanes; /* of them, those that no graph has */
    _Atomic uint64_t blocking_used; /* how often work was given to any blocking stream */
    thrum_event_t order; /* marks points for which the other side waits */
    _Atomic size_t limits[CUDART_LIMITS]; /* by enum cudaLimit: what programs set */
    _Atomic int cache; /* enum cudaFuncCache */
    bool *peers; /* by CUDA device: peer access was enabled; under the lock */
    uint64_t
        graph_memory[4]; /* by enum cudaGraphMemAttributeType; under cudart_graph_memory.c's lock */
};

/* How many CUDA devices there are; of the environment's choice. */
cudaError_t cudart_device_count(int *count_out);
/* An opened device; index -1: the thread's current one. */
cudaError_t cudart_device_get(int index, struct cudart_device **device_out);
/* The same, as it is: NULL where it is not open. */
struct cudart_device *cudart_device_if_open(int index);

void cudart_limits_init(struct cudart_device *device);

/* What is another function in CUDA 13, exported as that by cudart-13.sed. */
__attribute__((visibility("default"))) cudaError_t cudart_runtime_version_13(int *version);
__attribute__((visibility("default"))) cudaError_t cudart_properties_13(void *properties_out,
                                                                        int index);

/* The stream of a handle: NULL is the default one of device `index` (-1: the current). */
cudaError_t cudart_stream_find(cudaStream_t handle, int index, struct cudart_stream **stream_out);
/*
 * Before work is given to the stream: lets it wait for what CUDA's rules put in front; where the stream is captured, the
 * work is a node of its graph.
 */
cudaError_t cudart_stream_enter(struct cudart_stream *stream, enum cudaGraphNodeType type);
/* The stream whose queue it is; NULL: a queue of the caller's. */
struct cudart_stream *cudart_stream_of(thrum_queue_t queue);
/* Counts what happens, for `pardoned`. */
uint64_t cudart_moment(void);
/* Whether the end of what was on the queue then, by ABORTED, is what the program itself wanted. */
bool cudart_stream_is_pardoned(thrum_queue_t queue, uint64_t moment);
/* Waits for the stream's work. keep: an error is for the caller's next wait. */
cudaError_t cudart_stream_wait(struct cudart_stream *stream, bool keep);
/* What a wait that returned `status` means for the caller. */
cudaError_t cudart_stream_settle(struct cudart_stream *stream, thrum_status_t status);
/* All streams of the device; the first error. */
cudaError_t cudart_device_wait(struct cudart_device *device, bool keep);
/* Waits for, and destroys, the device's streams except the default one. */
void cudart_streams_drop(struct cudart_device *device);
/*
 * A stream for the work of a graph's lane, which waits for other lanes only; and back, where `queue` tells whether it is
 * still there. If it has work in flight then, that of its next user comes behind it.
 */
cudaError_t cudart_lane_take(struct cudart_device *device, struct cudart_stream **stream_out);
bool cudart_lane_lives(const struct cudart_stream *stream, thrum_queue_t queue);
void cudart_lane_give(struct cudart_stream *stream, thrum_queue_t queue);
/* Frees the records of host functions of a stream that executes nothing any more. */
void cudart_host_calls_free(const struct cudart_stream *stream);
/* Has the thread of host functions call it, behind those that are due. False: there is no thread, or no memory. */
bool cudart_host_call(cudaHostFn_t function, void *argument);

/* ---- captures (cudart_capture.c) ---- */

/* A place in a capture: what an event that was recorded there stands for. */
struct cudart_point {
    uint64_t capture; /* its number; 0: none */
    size_t index; /* of the capture's points */
};

/* How many captures there are. */
extern _Atomic int cudart_captures;

/* A node for work that the captured stream is given. */
cudaError_t cudart_capture_add(struct cudart_stream *stream, enum cudaGraphNodeType type);
/* What a point is for streams: see cudaEventRecord and cudaStreamWaitEvent. */
cudaError_t cudart_capture_record(struct cudart_stream *stream, struct cudart_point *point_out);
cudaError_t cudart_capture_wait(struct cudart_stream *stream, const struct cudart_point *point);
/* The stream's capture is spoiled by this call, which returns `error`, with a sentence. */
cudaError_t cudart_capture_spoil(struct cudart_stream *stream, cudaError_t error,
                                 const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for the capture of a point, if it goes on. */
cudaError_t cudart_capture_spoil_point(const struct cudart_point *point, cudaError_t error,
                                       const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The default stream is to be used: that spoils captures of blocking streams of its device; asking about it does not. */
cudaError_t cudart_capture_check_legacy(const struct cudart_device *device, bool and_spoil);
/* The same for the whole device: all captures on it. */
cudaError_t cudart_capture_check_device(const struct cudart_device *device);
/* A call that may be unsafe in a capture: refused, by the modes of captures and of this thread. */
cudaError_t cudart_capture_check_unsafe(const char *function);
/* The stream is about to be destroyed. */
void cudart_capture_leave(struct cudart_stream *stream);
/* What the stream's work that has ended ended with, unless it is being captured by now. */
thrum_status_t cudart_capture_query(struct cudart_stream *stream);
/* The capture's graph holds another until it is freed. */
cudaError_t cudart_capture_keep(struct cudart_stream *stream, struct cudart_graph *graph);
/* What the captured stream does with memory of graphs; one that it allocates is the capture's from now on. */
cudaError_t cudart_capture_use(struct cudart_stream *stream, struct cudart_graph_memory *memory,
                               bool allocates);

/* ---- graphs (cudart_graph.c) ---- */

struct cudart_node {
    enum cudaGraphNodeType type;
    unsigned lane;
    size_t first_dependency, ndependencies;
};

/* A node that allocates or frees. */
struct cudart_memory_use {
    struct cudart_graph_memory *memory;
    bool allocates;
    bool was_live; /* before the launch that is being made */
};

/* References to an object of the program's (cudart_object.c). */
struct cudart_kept {
    struct CUuserObject_st *object;
    unsigned count; /* that the program may take back */
    unsigned taken_back; /* while others had the graph: they go with it */
};

/* What was captured; constant when the capture has ended, but for what it keeps. */
struct cudart_graph {
    _Atomic int references;
    struct cudart_graph *next; /* of all; under cudart_graph.c's lock */
    uint64_t number; /* fixed */
    _Atomic bool ended; /* the capture, with success; before, there is but a handle */
    thrum_graph_t graph;
    struct cudart_node *nodes;
    size_t *dependencies; /* indices of nodes */
    thrum_event_t *events; /* that its lanes wait for */
    int *devices; /* of its lanes */
    struct cudart_graph **children; /* graphs that were launched in the capture */
    struct cudart_memory_use *uses; /* of memory of graphs, in order */
    _Atomic bool instantiated; /* there are uses: there is an executable one */
    size_t nnodes, ndependencies, nevents, ndevices, nchildren, nuses;
    size_t nodes_capacity, dependencies_capacity, events_capacity, devices_capacity,
        children_capacity, uses_capacity;
    struct cudart_kept *kept; /* objects; under cudart_object.c's lock */
    size_t nkept, kept_capacity;
};

struct cudart_graph *cudart_graph_new(void); /* with one reference; NULL: no memory */
void cudart_graph_put(struct cudart_graph *graph);
/* A handle for the caller's reference; and back, with the reference. */
cudaError_t cudart_graph_publish(struct cudart_graph *graph, cudaGraph_t *out);
void cudart_graph_unpublish(cudaGraph_t handle);
/* The graph of a handle; of one that is still being captured there is nothing to be seen. */
cudaError_t cudart_graph_find(cudaGraph_t handle, struct cudart_graph **out);
cudaError_t cudart_graph_find_ended(cudaGraph_t handle, struct cudart_graph **out);
/* Handles of nodes; NULL: there is none. Back: with a reference to the graph, or NULL. */
cudaGraphNode_t cudart_node_handle(const struct cudart_graph *graph, size_t i);
struct cudart_graph *cudart_node_find(cudaGraphNode_t handle, size_t *i_out);
/* Room for one more behind n elements; false: no memory. */
bool cudart_grow(void *array_at, size_t n, size_t *capacity, size_t element_bytes);

/* ---- objects that graphs keep (cudart_object.c) ---- */

/* Whether the graph keeps any, or one that is in it. */
bool cudart_objects_any(const struct cudart_graph *graph);
/* The graph goes. */
void cudart_objects_drop(struct cudart_graph *graph);

/* ---- memory of graphs (cudart_graph_memory.c) ---- */

/* A point in a stream, for several who wait for it. */
struct cudart_fence {
    _Atomic int references;
    thrum_event_t event;
};
cudaError_t cudart_fence_new(thrum_queue_t queue, struct cudart_fence **fence_out);
void cudart_fence_put(struct cudart_fence *fence); /* takes NULL */

/* In a capture: cudaMallocAsync, and cudaFreeAsync of any memory. */
cudaError_t cudart_graph_allocate(struct cudart_stream *stream, struct cudart_device *device,
                                  size_t bytes, void **pointer);
cudaError_t cudart_graph_free(struct cudart_stream *stream, void *pointer);
/* Outside of captures: what a launch has allocated is freed; behind the queue's work, or with NULL now. */
cudaError_t cudart_graph_memory_free(struct cudart_graph_memory *memory, thrum_queue_t queue);
/*
 * Around a launch: what it allocates must not be allocated (automatic: it is freed first), what it frees must be; the
 * queue waits for who used that before. If then nothing is launched: fence NULL.
 */
cudaError_t cudart_graph_memory_begin(struct cudart_graph *graph, bool automatic,
                                      thrum_queue_t queue);
void cudart_graph_memory_end(struct cudart_graph *graph, struct cudart_fence *fence);
/* The graph goes. What it has allocated and not freed is the program's. */
void cudart_graph_memory_put(struct cudart_graph *graph);
/* Memory whose graph is not made: it goes. */
void cudart_graph_memory_drop(struct cudart_graph_memory *memory);

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
    struct cudart_pool *pool; /* NULL: not of one */
    struct cudart_graph_memory *graph; /* NULL: not of one */
};

struct cudart_import;
struct cudart_entry {
    struct cudart_range range;
    struct cudart_import *imports;
};

/* false: no memory, or it overlaps another. */
bool cudart_memory_add(struct cudart_range range);
/* Takes out what starts at the pointer and is of one of the kinds (bits); false: there is no such thing. */
bool cudart_memory_take(const void *pointer, unsigned kinds, struct cudart_entry *out);
/* Gives back what the entry holds in the devices, and the memory if it is ours. */
thrum_status_t cudart_memory_release(struct cudart_entry *entry);
/* Takes out and releases, when the device's work is done; `none`: there is no such thing. */
cudaError_t cudart_memory_drop_at(void *pointer, unsigned kinds, cudaError_t none);
/* Device memory; of a pool or a graph, or NULL. */
cudaError_t cudart_memory_allocate(struct cudart_device *device, size_t bytes,
                                   struct cudart_pool *pool, struct cudart_graph_memory *graph,
                                   void **pointer);

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

/* ---- memory of streams (cudart_pool.c) ---- */

/*
 * Gives back to the device what was freed in streams whose work has come that far; and_wait: when it has. Returns whether
 * there was anything.
 */
bool cudart_pool_reclaim(int device, bool and_wait);
/* Whether the memory was freed in a stream, and is not given back yet. */
bool cudart_pool_has_freed(const void *pointer);
/* Gives back memory that was taken out of the table, when the point is reached; takes the reference. */
void cudart_pool_give_back(const struct cudart_entry *entry, struct cudart_fence *fence);
/* The range is freed by other means. */
void cudart_pool_forget(const struct cudart_range *range);

#endif
