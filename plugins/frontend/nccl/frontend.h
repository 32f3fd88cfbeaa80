/*
 * Internals of libnccl.so: NCCL's interface on Thrum's. A communicator of NCCL is one of Thrum's with the state that NCCL's
 * calls need beside it: a call may be under way in the background, and handles may be wild or freed.
 */
#ifndef FRONTEND_NCCL_FRONTEND_H
#define FRONTEND_NCCL_FRONTEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <thrum/thrum.h>

#include "handle_set.h"
#include "nccl.h"
#include "cuda_runtime_api.h"

/* Defines the twin of a function of nccl.h. */
#define NCCL_TWIN(name) extern __typeof__(name) p##name __attribute__((alias(#name)))

#define NCCL_TEXT_BYTES 640

/* ---- errors (nccl_error.c) ---- */

/* Keeps a text for ncclGetLastError and returns the result. */
ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What a status is called in NCCL; of an error Thrum's message is kept, behind the function and, if not NULL, the rank. */
ncclResult_t nccl_of_status(const char *function, const struct ncclComm *comm,
                            thrum_status_t status);
ncclResult_t nccl_result_of(thrum_status_t status);
/* The text of this thread's last error; never NULL. */
const char *nccl_last_text(void);

/* ---- configuration (nccl_config.c) ---- */

struct nccl_config {
    bool blocking;
    char name[512]; /* "": none */
};
/* Reads a caller's struct of any version; NULL: the defaults, which are those of `parent` where there is one. */
ncclResult_t nccl_config_read(const char *function, const ncclConfig_t *config,
                              const struct ncclComm *parent, struct nccl_config *out);

/* ---- communicators (nccl_comm.c) ---- */

#define NCCL_STREAMS 8 /* remembered for nccl_comm_forgive; of more the newest are known */

struct nccl_registration;
struct nccl_import;

struct ncclComm {
    thrum_comm_t comm; /* NULL while it is being made; fixed then */
    _Atomic bool made; /* `comm` is there */
    thrum_device_t device; /* held: opened once more for this */
    int device_index, rank, nranks; /* fixed */
    struct nccl_config config; /* fixed */
    _Atomic int references; /* the handle, and each job and operation under way */
    _Atomic int state; /* ncclResult_t: ready, InProgress, or why the last job failed */
    char text[NCCL_TEXT_BYTES]; /* why; written before state */
    _Atomic bool finalized, revoked,
        abandoned; /* abandoned: its handle is gone while a job makes it */
    thrum_queue_t last_queue; /* user */
    pthread_mutex_t lock; /* of the rest */
    thrum_queue_t queues[NCCL_STREAMS];
    unsigned nqueues;
    struct nccl_registration *registrations;
    struct nccl_import *imports; /* streams of a vendor's runtime */
};

/* A new one, not in the set of live handles; the device is opened for it. */
ncclResult_t nccl_comm_new(const char *function, int nranks, int rank, int device_index,
                           const struct nccl_config *config, struct ncclComm **comm_out);
/* Makes it a live handle. */
ncclResult_t nccl_comm_publish(const char *function, struct ncclComm *comm);
/* Drops a reference; the last one frees what there is. */
void nccl_comm_put(struct ncclComm *comm);
/* Takes the handle from the live ones: false if it is none. */
bool nccl_comm_take(struct ncclComm *comm);

/* ncclCommInitRankConfig under the name of `function`; device -1: the thread's current one. */
ncclResult_t nccl_init_rank(const char *function, ncclComm_t *out, int nranks, int rank,
                            const ncclUniqueId *id, const ncclConfig_t *config, int device);

/* A live communicator; a ready one; one that may be given operations. */
ncclResult_t nccl_comm_check(const char *function, const struct ncclComm *comm);
ncclResult_t nccl_comm_check_ready(const char *function, struct ncclComm *comm);
ncclResult_t nccl_comm_check_usable(const char *function, struct ncclComm *comm);

/* The queue of a stream, for an operation of the communicator. */
ncclResult_t nccl_comm_queue(const char *function, struct ncclComm *comm, cudaStream_t stream,
                             thrum_queue_t *queue_out);
/* Streams take the end of this communicator's operations for success, since the caller wants it. */
void nccl_comm_forgive(struct ncclComm *comm);
/* Waits until the operations that were given to its streams have ended. Errors stay with the streams. */
void nccl_comm_drain(struct ncclComm *comm);

/* The job has ended: ready, or why not, with the thread's last text. */
void nccl_comm_settle(struct ncclComm *comm, ncclResult_t result);

/* ---- jobs: what blocks until other ranks come (nccl_job.c) ---- */

enum nccl_job_kind { JOB_INIT, JOB_SPLIT, JOB_SHRINK, JOB_GROW, JOB_FINALIZE, JOB_DESTROY };

struct nccl_job {
    struct nccl_job *next;
    enum nccl_job_kind kind;
    const char *function;
    struct ncclComm
        *comm; /* what is made, finalized or destroyed; one reference. NULL: a split into none */
    struct ncclComm *parent; /* of splits; one reference */
    ncclComm_t *out; /* set to NULL if it cannot be made; NULL: nowhere */
    ncclUniqueId id;
    int color, key;
    int *excluded; /* owned */
    int nexcluded;
    int nranks; /* of what is grown */
    bool blocking; /* the caller waits for it */
    ncclResult_t result;
    char text[NCCL_TEXT_BYTES];
};

/* At once, in the background, or at the end of the thread's group; takes what the job has. */
ncclResult_t nccl_job_submit(const struct nccl_job *job);
/*
 * All of the jobs, which are freed; waits for those that block. here: one may run on this thread, which has no group of
 * Thrum's open.
 */
ncclResult_t nccl_jobs_run(struct nccl_job *jobs, bool here);
void nccl_jobs_drop(struct nccl_job *jobs, ncclResult_t result);

/* ---- what NCCL's variables ask for (nccl_error.c, nccl_comm.c) ---- */

/* Before the first communicator: NCCL_DEBUG. */
void nccl_debug_init(void);
/* Once, by rank 0 of the first one: the line with the version. */
void nccl_debug_version(void);
/* Where an id is but an address, by NCCL_COMM_ID, ranks agree on one there. Blocks. */
thrum_status_t nccl_id_resolve(const ncclUniqueId *id, int rank, int nranks,
                               struct thrum_unique_id *out);

/* ---- end of communicators (nccl_end.c) ---- */

/* thrum_comm_split, also of a revoked communicator. */
thrum_status_t nccl_split(struct ncclComm *parent, int color, int key,
                          const struct thrum_comm_config *config, thrum_comm_t *made);

/* ---- groups (nccl_group.c) ---- */

bool nccl_group_is_open(void);
void nccl_group_add_job(struct nccl_job *job);
/* Makes the group fail, if one is open. Returns the result. */
ncclResult_t nccl_group_error(ncclResult_t result);
/* An operation of the communicator begins and ends, in a group with that: meanwhile it is not freed. */
ncclResult_t nccl_group_enter(struct ncclComm *comm, const char *collective, size_t count,
                              thrum_datatype_t dtype);
void nccl_group_leave(struct ncclComm *comm);

/* ---- the process's CUDA runtime, Thrum's or a vendor's (nccl_runtime.c) ---- */

/* Opens the device of CUDA device `index`, or, with -1, of the thread's current one. */
thrum_status_t nccl_runtime_open(int index, int *index_out, thrum_device_t *device_out);
/* How many the runtime has. */
thrum_status_t nccl_runtime_count(int *count_out);
/* The queue of a stream, for an operation of the communicator that is given to it now. */
thrum_status_t nccl_runtime_queue(struct ncclComm *comm, cudaStream_t stream,
                                  thrum_queue_t *queue_out);
/* The caller itself ended operations on the queue: its stream takes that for success. */
void nccl_runtime_forgive(const struct ncclComm *comm, thrum_queue_t queue);
/* Lets go of the streams, when no operation of the communicator is left. */
void nccl_runtime_release(struct ncclComm *comm);
/* cudaMalloc and cudaFree. */
ncclResult_t nccl_runtime_malloc(const char *function, void **ptr, size_t bytes);
ncclResult_t nccl_runtime_free(const char *function, void *ptr);

/* ---- memory (nccl_memory.c) ---- */

void nccl_registrations_free(struct ncclComm *comm);

#endif
