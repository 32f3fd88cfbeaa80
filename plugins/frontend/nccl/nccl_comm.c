/* Communicators: live handles, creation, what can be asked of them. */
#include "frontend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

static struct handle_set live = HANDLE_SET_INITIALIZER;

/* ---- life ---- */

ncclResult_t nccl_comm_new(const char *function, int nranks, int rank, int device_index,
                           const struct nccl_config *config, struct ncclComm **comm_out)
{
    struct ncclComm *comm = calloc(1, sizeof *comm);
    thrum_status_t status;

    if (!comm)
        return nccl_fail(ncclSystemError, "%s: no host memory for a communicator", function);
    comm->nranks = nranks;
    comm->rank = rank;
    comm->config = *config;
    pthread_mutex_init(&comm->lock, NULL);
    atomic_store(&comm->references, 1);
    atomic_store(&comm->state, ncclInProgress);
    /* opened once more, so that it outlives cudaDeviceReset */
    status = nccl_runtime_open(device_index, &comm->device_index, &comm->device);
    if (status) {
        nccl_comm_put(comm);
        return nccl_of_status(function, NULL, status);
    }
    *comm_out = comm;
    return ncclSuccess;
}

ncclResult_t nccl_comm_publish(const char *function, struct ncclComm *comm)
{
    if (handle_set_add(&live, comm, comm))
        return ncclSuccess;
    return nccl_fail(ncclSystemError, "%s: no host memory for a communicator", function);
}

void nccl_comm_put(struct ncclComm *comm)
{
    if (!comm || atomic_fetch_sub(&comm->references, 1) > 1)
        return;
    nccl_registrations_free(comm);
    thrum_comm_destroy(comm->comm);
    nccl_runtime_release(comm);
    if (comm->device)
        thrum_device_close(comm->device);
    pthread_mutex_destroy(&comm->lock);
    free(comm);
}

bool nccl_comm_take(struct ncclComm *comm)
{
    return handle_set_remove(&live, comm) != NULL;
}

void nccl_comm_settle(struct ncclComm *comm, ncclResult_t result)
{
    if (result)
        memcpy(comm->text, nccl_last_text(), sizeof comm->text);
    atomic_store(&comm->state, result);
}

/* ---- checks ---- */

ncclResult_t nccl_comm_check(const char *function, const struct ncclComm *comm)
{
    if (handle_set_find(&live, comm))
        return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "%s: comm=%p is %s", function, (const void *)comm,
                     comm ? "no live communicator" : "NULL");
}

ncclResult_t nccl_comm_check_ready(const char *function, struct ncclComm *comm)
{
    ncclResult_t result = nccl_comm_check(function, comm);
    int state;

    if (result)
        return result;
    state = atomic_load_explicit(&comm->state, memory_order_acquire);
    if (state == ncclSuccess)
        return ncclSuccess;
    if (state == ncclInProgress)
        return nccl_fail(ncclInvalidArgument,
                         "%s: an earlier call on comm=%p has not ended: ask "
                         "ncclCommGetAsyncError until it is not ncclInProgress",
                         function, (void *)comm);
    return nccl_fail((ncclResult_t)state, "%s: comm=%p is of no use: %s", function, (void *)comm,
                     comm->text);
}

ncclResult_t nccl_comm_check_usable(const char *function, struct ncclComm *comm)
{
    ncclResult_t result = nccl_comm_check_ready(function, comm);

    if (!result && atomic_load_explicit(&comm->finalized, memory_order_relaxed))
        result = nccl_fail(ncclInvalidArgument, "%s: comm=%p is finalized", function, (void *)comm);
    if (!result && atomic_load_explicit(&comm->revoked, memory_order_relaxed))
        result = nccl_fail(ncclInvalidUsage, "%s: comm=%p is revoked", function, (void *)comm);
    return result;
}

/* ---- streams of its operations ---- */

static void remember(struct ncclComm *comm, thrum_queue_t queue)
{
    bool known = false;

    pthread_mutex_lock(&comm->lock);
    for (unsigned i = 0; i < NCCL_STREAMS && i < comm->nqueues; i++)
        known |= comm->queues[i] == queue;
    if (!known)
        comm->queues[comm->nqueues++ % NCCL_STREAMS] = queue;
    pthread_mutex_unlock(&comm->lock);
    comm->last_queue = queue;
}

ncclResult_t nccl_comm_queue(const char *function, struct ncclComm *comm, cudaStream_t stream,
                             thrum_queue_t *queue_out)
{
    thrum_status_t status = nccl_runtime_queue(comm, stream, queue_out);

    if (status)
        return nccl_of_status(function, comm, status);
    if (*queue_out != comm->last_queue)
        remember(comm, *queue_out);
    return ncclSuccess;
}

static unsigned copy_queues(struct ncclComm *comm, thrum_queue_t *queues)
{
    unsigned n;

    pthread_mutex_lock(&comm->lock);
    n = comm->nqueues < NCCL_STREAMS ? comm->nqueues : NCCL_STREAMS;
    memcpy(queues, comm->queues, n * sizeof *queues);
    pthread_mutex_unlock(&comm->lock);
    return n;
}

void nccl_comm_forgive(struct ncclComm *comm)
{
    thrum_queue_t queues[NCCL_STREAMS];
    unsigned n = copy_queues(comm, queues);

    for (unsigned i = 0; i < n; i++)
        nccl_runtime_forgive(comm, queues[i]);
}

void nccl_comm_drain(struct ncclComm *comm)
{
    thrum_queue_t queues[NCCL_STREAMS];
    unsigned n = copy_queues(comm, queues);
    thrum_event_t event;

    for (unsigned i = 0; i < n; i++) {
        if (thrum_event_create(comm->device, &event))
            return;
        /* A stream that is gone has ended its work. */
        if (!thrum_event_record(event, queues[i]))
            (void)!thrum_event_synchronize(event);
        thrum_event_destroy(event);
    }
}

/* ---- creation ---- */

static ncclResult_t check_place(const char *function, const void *comm_out, int nranks, int rank)
{
    if (!comm_out)
        return nccl_fail(ncclInvalidArgument, "%s: comm=NULL", function);
    if (nranks < 1)
        return nccl_fail(ncclInvalidArgument, "%s: nranks=%d is less than 1", function, nranks);
    if (rank < 0 || rank >= nranks)
        return nccl_fail(ncclInvalidArgument, "%s: rank=%d is not between 0 and %d", function, rank,
                         nranks - 1);
    return ncclSuccess;
}

ncclResult_t nccl_init_rank(const char *function, ncclComm_t *out, int nranks, int rank,
                            const ncclUniqueId *id, const ncclConfig_t *config, int device)
{
    struct nccl_config own;
    struct ncclComm *comm;
    ncclResult_t result = check_place(function, out, nranks, rank);

    nccl_debug_init();
    if (!result)
        result = nccl_config_read(function, config, NULL, &own);
    if (!result)
        result = nccl_comm_new(function, nranks, rank, device, &own, &comm);
    if (result)
        return nccl_group_error(result);
    result = nccl_comm_publish(function, comm);
    if (result) {
        nccl_comm_put(comm);
        return nccl_group_error(result);
    }
    *out = comm;
    atomic_fetch_add(&comm->references, 1);
    return nccl_job_submit(&(struct nccl_job){.kind = JOB_INIT,
                                              .function = function,
                                              .comm = comm,
                                              .out = out,
                                              .id = *id,
                                              .blocking = own.blocking});
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank)
{
    return nccl_init_rank("ncclCommInitRank", comm, nranks, rank, &commId, NULL, -1);
}
NCCL_TWIN(ncclCommInitRank);

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank,
                                    ncclConfig_t *config)
{
    return nccl_init_rank("ncclCommInitRankConfig", comm, nranks, rank, &commId, config, -1);
}
NCCL_TWIN(ncclCommInitRankConfig);

/* ---- ids ---- */

/* Ids that this process made: who made one that is not needed has to end its service. */
static struct {
    pthread_mutex_t lock;
    ncclUniqueId *ids;
    size_t n, capacity;
} made = {.lock = PTHREAD_MUTEX_INITIALIZER};

static ncclResult_t make_id(const char *function, ncclUniqueId *uniqueId)
{
    struct thrum_unique_id id;
    thrum_status_t status = thrum_get_unique_id(&id);

    _Static_assert(sizeof id == sizeof *uniqueId, "one is passed for the other");
    if (status)
        return nccl_of_status(function, NULL, status);
    memcpy(uniqueId->internal, id.bytes, sizeof id);
    pthread_mutex_lock(&made.lock);
    if (made.n == made.capacity) {
        size_t capacity = made.capacity ? 2 * made.capacity : 8;
        ncclUniqueId *ids = realloc(made.ids, capacity * sizeof *ids);

        if (ids) {
            made.ids = ids;
            made.capacity = capacity;
        }
    }
    if (made.n < made.capacity)
        made.ids[made.n++] = *uniqueId;
    pthread_mutex_unlock(&made.lock);
    return ncclSuccess;
}

/* An id that is but NCCL_COMM_ID: this, and the address. Thrum's begin with other bytes. */
static const char agreed_mark[] = "address=";
#define AGREED_TEXT (NCCL_UNIQUE_ID_BYTES - sizeof agreed_mark) /* and its end */

static ncclResult_t agreed_id(const char *address, ncclUniqueId *id)
{
    if (strlen(address) >= AGREED_TEXT)
        return nccl_fail(ncclInvalidArgument,
                         "ncclGetUniqueId: NCCL_COMM_ID has %zu characters, not up to %zu",
                         strlen(address), AGREED_TEXT - 1);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s%s", agreed_mark, address);
    return ncclSuccess;
}

thrum_status_t nccl_id_resolve(const ncclUniqueId *id, int rank, int nranks,
                               struct thrum_unique_id *out)
{
    const size_t n = sizeof agreed_mark - 1;

    if (!strncmp(id->internal, agreed_mark, n) && memchr(id->internal, 0, sizeof id->internal))
        return thrum_agree_unique_id(id->internal + n, rank, nranks, out);
    memcpy(out->bytes, id->internal, sizeof out->bytes);
    return THRUM_OK;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *uniqueId)
{
    const char *address = thrum_plugin_config("NCCL_COMM_ID");

    nccl_debug_init();
    if (!uniqueId)
        return nccl_fail(ncclInvalidArgument, "ncclGetUniqueId: uniqueId=NULL");
    return *address ? agreed_id(address, uniqueId) : make_id("ncclGetUniqueId", uniqueId);
}
NCCL_TWIN(ncclGetUniqueId);

static bool forget_id(const ncclUniqueId *id)
{
    bool found = false;

    pthread_mutex_lock(&made.lock);
    for (size_t i = 0; i < made.n && !found; i++) {
        found = !memcmp(&made.ids[i], id, sizeof *id);
        if (found)
            made.ids[i] = made.ids[--made.n];
    }
    pthread_mutex_unlock(&made.lock);
    return found;
}

/* The first id is where all meet. The service of another ends when it is joined by the one rank of a communicator. */
static void end_service(const ncclUniqueId *id)
{
    struct thrum_unique_id own;
    thrum_device_t device;
    thrum_comm_t comm;
    int index;

    if (!forget_id(id) || nccl_runtime_open(-1, &index, &device))
        return;
    memcpy(own.bytes, id->internal, sizeof own);
    if (!thrum_comm_init_rank(&own, 1, 0, device, NULL, &comm))
        thrum_comm_destroy(comm);
    thrum_device_close(device);
}

ncclResult_t ncclCommInitRankScalable(ncclComm_t *newcomm, int nranks, int myrank, int nId,
                                      ncclUniqueId *commIds, ncclConfig_t *config)
{
    static const char function[] = "ncclCommInitRankScalable";

    if (nId < 1 || nId > nranks || !commIds)
        return nccl_group_error(nccl_fail(ncclInvalidArgument,
                                          "%s: commIds=%p, nId=%d is not between 1 and nranks=%d",
                                          function, (void *)commIds, nId, nranks));
    for (int i = 1; i < nId; i++)
        end_service(&commIds[i]);
    return nccl_init_rank(function, newcomm, nranks, myrank, &commIds[0], config, -1);
}
NCCL_TWIN(ncclCommInitRankScalable);

ncclResult_t ncclCommInitAll(ncclComm_t *comm, int ndev, const int *devlist)
{
    static const char function[] = "ncclCommInitAll";
    ncclUniqueId id;
    ncclResult_t result = ncclSuccess, end;
    thrum_status_t status;
    int made_ranks = 0, count;

    if (!comm || ndev < 1)
        return nccl_group_error(
            nccl_fail(ncclInvalidArgument, "%s: comm=%p, ndev=%d", function, (void *)comm, ndev));
    status = nccl_runtime_count(&count);
    if (status)
        return nccl_group_error(nccl_of_status(function, NULL, status));
    for (int i = 0; i < ndev; i++) {
        int device = devlist ? devlist[i] : i;

        if (device < 0 || device >= count)
            return nccl_group_error(nccl_fail(ncclInvalidArgument,
                                              "%s: device %d of rank %d is not between 0 and %d",
                                              function, device, i, count - 1));
    }
    nccl_debug_init();
    result = make_id(function, &id);
    if (result)
        return nccl_group_error(result);
    ncclGroupStart();
    for (; made_ranks < ndev && !result; made_ranks++)
        result = nccl_init_rank(function, &comm[made_ranks], ndev, made_ranks, &id, NULL,
                                devlist ? devlist[made_ranks] : made_ranks);
    end = ncclGroupEnd();
    if (result)
        end_service(&id);
    return result ? result : end;
}
NCCL_TWIN(ncclCommInitAll);

/* ---- questions ---- */

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError)
{
    static const char function[] = "ncclCommGetAsyncError";
    ncclResult_t result = nccl_comm_check(function, comm);
    thrum_status_t status = THRUM_OK;
    int state;

    if (!result && !asyncError)
        result = nccl_fail(ncclInvalidArgument, "%s: asyncError=NULL", function);
    if (result)
        return result;
    state = atomic_load(&comm->state);
    if (!state && !atomic_load(&comm->revoked) && comm->comm &&
        !thrum_comm_async_error(comm->comm, &status, NULL))
        state = (int)nccl_result_of(status);
    *asyncError = (ncclResult_t)state;
    return ncclSuccess;
}
NCCL_TWIN(ncclCommGetAsyncError);

static ncclResult_t get_int(const char *function, struct ncclComm *comm, const char *argument,
                            int *out, size_t offset)
{
    ncclResult_t result = nccl_comm_check_ready(function, comm);

    if (!result && !out)
        result = nccl_fail(ncclInvalidArgument, "%s: %s=NULL", function, argument);
    if (!result)
        memcpy(out, (const char *)comm + offset, sizeof *out);
    return result;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    return get_int("ncclCommCount", comm, "count", count, offsetof(struct ncclComm, nranks));
}
NCCL_TWIN(ncclCommCount);

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    return get_int("ncclCommCuDevice", comm, "device", device,
                   offsetof(struct ncclComm, device_index));
}
NCCL_TWIN(ncclCommCuDevice);

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    return get_int("ncclCommUserRank", comm, "rank", rank, offsetof(struct ncclComm, rank));
}
NCCL_TWIN(ncclCommUserRank);
