/*
 * Running one case of thrum-perf: one collective, size, type, op and place. One table of collectives serves the
 * library, MPI and the check. Called by thrum_perf.c.
 */
#ifndef PERF_PERF_RUN_H
#define PERF_PERF_RUN_H

#include "perf.h"
#include "perf_data.h"

enum perf_memory { PERF_MEMORY_DEVICE, PERF_MEMORY_REGISTERED, PERF_MEMORY_HOST };

enum {
    PERF_MAX_BATCHES = 100,
    PERF_CANARY_BYTES = 64 /* beyond the end of a result: must stay as they were */
};

/* What a collective is called with. */
struct perf_call {
    const void *send;
    void *recv;
    size_t count; /* as the collective counts */
    thrum_datatype_t dtype;
    int op; /* thrum_redop_t or PERF_MOVE */
    int root, rank, nranks;
    thrum_comm_t comm;
    thrum_queue_t queue;
};

struct perf_collective {
    const char *name;
    bool has_op, has_root, has_data, can_be_in_place;
    bool send_is_blocks, recv_is_blocks; /* nranks x count elements there, else count */
    bool send_at_root, recv_at_root; /* at the root only */
    bool prefix, excludes_own; /* folds ranks 0 .. rank, or .. rank - 1 */
    double (*bus_factor)(int nranks); /* busbw = algbw x this */
    thrum_status_t (*run)(const struct perf_call *call);
    int (*run_mpi)(const struct perf_call *call); /* an MPI error code */
};

extern const struct perf_collective perf_collectives[];
extern const int perf_collective_count;
const struct perf_collective *perf_collective_find(const char *name); /* NULL if there is none */

struct perf_case {
    const struct perf_collective *collective;
    uint64_t count, bytes; /* bytes: as nccl-tests define the size of the collective */
    thrum_datatype_t dtype;
    int op;
    int root;
    bool in_place;
    const char *algorithm; /* the one to use; NULL: the communicator chooses */
};

struct perf_result {
    struct perf_case what;
    const char *algorithm;
    int iterations; /* in all */
    struct perf_stats time_us; /* of one operation, of the slowest rank, over batches */
    double algbw, busbw; /* GB/s, of the median */
    long wrong; /* elements, over all ranks; -1: not checked */
    double mpi_us, ratio; /* medians; 0: not compared */
    double predicted_us; /* by the library's model */
    bool chosen; /* what the communicator would choose */
    double
        times_best; /* median over the smallest of all algorithms for the same call; 0: only one was run */
};

enum { PERF_MAX_ALGORITHMS = 32 }; /* of a collective */

/* One rank's side of the program, for its whole life. */
struct perf_context {
    int rank, nranks, hosts;
    struct { /* communicators that are held to one algorithm each, of one collective */
        thrum_comm_t comm;
        const char *collective, *algorithm;
    } forced[PERF_MAX_ALGORITHMS];
    int nforced;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    enum perf_memory memory;
    bool check, compare_mpi, sync_each;
    int warmup, iterations, batches; /* 0: chosen by time */
    double budget_us; /* of the measurement of a case */
    uint64_t salt;
    struct perf_buffer {
        void *address;
        size_t bytes;
    } send, recv, mpi_send, mpi_recv;
    void *control; /* device memory for perf_gather, nranks x control_bytes */
    size_t control_bytes;
};

/* all, nranks x bytes, <- everybody's `mine`; bytes <= control_bytes. */
void perf_gather(struct perf_context *context, const void *mine, void *all, size_t bytes);

/* Makes the buffers large enough for cases of up to these bytes (send and recv of one rank). */
void perf_reserve(struct perf_context *context, size_t send_bytes, size_t recv_bytes);
void perf_release(struct perf_context *context);

/* Collective. Dies with a message on error. */
void perf_run_case(struct perf_context *context, const struct perf_case *what,
                   struct perf_result *result_out);

/*
 * The same with every algorithm that can serve. Returns how many there are; results_out has room for
 * PERF_MAX_ALGORITHMS.
 */
int perf_run_all(struct perf_context *context, const struct perf_case *what,
                 struct perf_result *results_out);

/* Elements of the buffers of one rank. */
size_t perf_send_elems(const struct perf_case *what, int nranks);
size_t perf_recv_elems(const struct perf_case *what, int nranks);

/* ---- MPI, for --compare mpi ---- */

/*
 * Starts MPI; returns NULL, or why it cannot be used. Before Thrum joins: Open MPI 5 does not start in a process whose
 * launcher someone else has talked to.
 */
const char *perf_mpi_start(void);
/* NULL, or why MPI's ranks are not those of Thrum. */
const char *perf_mpi_same_ranks(int rank, int nranks);
void perf_mpi_stop(void);
bool perf_mpi_can(const struct perf_case *what); /* MPI has the type and the op */
void perf_mpi_barrier(void);
void *perf_mpi_alloc(size_t bytes); /* touched; NULL if there is no memory */
void perf_mpi_free(void *memory);

int perf_mpi_allreduce(const struct perf_call *call);
int perf_mpi_broadcast(const struct perf_call *call);
int perf_mpi_allgather(const struct perf_call *call);
int perf_mpi_reduce_scatter(const struct perf_call *call);
int perf_mpi_barrier_call(const struct perf_call *call);
int perf_mpi_sendrecv(const struct perf_call *call);
int perf_mpi_reduce(const struct perf_call *call);
int perf_mpi_alltoall(const struct perf_call *call);
int perf_mpi_gather(const struct perf_call *call);
int perf_mpi_scatter(const struct perf_call *call);
int perf_mpi_scan(const struct perf_call *call);
int perf_mpi_exscan(const struct perf_call *call);

#endif
