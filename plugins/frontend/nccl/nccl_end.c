/*
 * Communicators from communicators, and their end: split, shrink, grow, finalize, destroy, abort, revoke.
 *
 * Finalize and destroy wait for this rank's own operations only, so that one thread may end many ranks one after the
 * other. Abort and revoke end the operations on every rank at once: the others get ncclRemoteError, which names this one.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

/* ---- split, shrink, grow ---- */

thrum_status_t nccl_split(struct ncclComm *parent, int color, int key,
                          const struct thrum_comm_config *config, thrum_comm_t *made)
{
    thrum_comm_t fresh;
    thrum_status_t status;

    if (!atomic_load(&parent->revoked))
        return thrum_comm_split(parent->comm, color, key, config, made);
    /* A revoked one has nothing to meet on any more: all its ranks make a new one first. */
    status = thrum_comm_shrink(parent->comm, NULL, 0, config, &fresh);
    if (status)
        return status;
    status = thrum_comm_split(fresh, color, key, config, made);
    thrum_comm_destroy(fresh);
    return status;
}

/* Submits a job that makes a new communicator from `comm`; `into`: this rank is in it. Takes what the job has. */
static ncclResult_t derive(struct nccl_job *job, struct ncclComm *comm, bool into,
                           const ncclConfig_t *config)
{
    struct nccl_config own;
    struct ncclComm *child = NULL;
    ncclResult_t result = nccl_config_read(job->function, config, comm, &own);

    if (!result && into) {
        result = nccl_comm_new(job->function, comm->nranks, comm->rank, comm->device_index, &own,
                               &child);
        if (!result)
            result = nccl_comm_publish(job->function, child);
    }
    if (result) {
        nccl_comm_put(child);
        free(job->excluded);
        return nccl_group_error(result);
    }
    *job->out = child;
    job->comm = child;
    job->parent = comm;
    job->blocking = own.blocking;
    atomic_fetch_add(&comm->references, 1);
    if (child)
        atomic_fetch_add(&child->references, 1);
    return nccl_job_submit(job);
}

/* Of what a new communicator is to be made from. */
static ncclResult_t check_parent(const char *function, struct ncclComm *comm)
{
    ncclResult_t result = nccl_comm_check_ready(function, comm);

    if (!result && atomic_load(&comm->finalized))
        result = nccl_fail(ncclInvalidArgument, "%s: comm=%p is finalized", function, (void *)comm);
    return result;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                           ncclConfig_t *config)
{
    static const char function[] = "ncclCommSplit";
    struct nccl_job job = {
        .kind = JOB_SPLIT, .function = function, .out = newcomm, .color = color, .key = key};
    ncclResult_t result = check_parent(function, comm);

    if (!result && !newcomm)
        result = nccl_fail(ncclInvalidArgument, "%s: newcomm=NULL", function);
    if (!result && color < 0 && color != NCCL_SPLIT_NOCOLOR)
        result = nccl_fail(ncclInvalidArgument,
                           "%s, rank %d: color=%d is neither 0 or more nor NCCL_SPLIT_NOCOLOR",
                           function, comm->rank, color);
    if (result)
        return nccl_group_error(result);
    return derive(&job, comm, color != NCCL_SPLIT_NOCOLOR, config);
}
NCCL_TWIN(ncclCommSplit);

static ncclResult_t check_excluded(const char *function, const struct ncclComm *comm,
                                   const int *excluded, int n)
{
    if (!excluded || n < 1 || n >= comm->nranks)
        return nccl_fail(ncclInvalidArgument,
                         "%s: excludeRanksList=%p, excludeRanksCount=%d is not between 1 and %d",
                         function, (const void *)excluded, n, comm->nranks - 1);
    for (int i = 0; i < n; i++) {
        if (excluded[i] < 0 || excluded[i] >= comm->nranks)
            return nccl_fail(ncclInvalidArgument,
                             "%s: excludeRanksList[%d]=%d is not between 0 and %d", function, i,
                             excluded[i], comm->nranks - 1);
        if (excluded[i] == comm->rank)
            return nccl_fail(ncclInvalidArgument,
                             "%s: excludeRanksList[%d]=%d is this rank: who is excluded does not "
                             "call",
                             function, i, excluded[i]);
        for (int j = 0; j < i; j++)
            if (excluded[j] == excluded[i])
                return nccl_fail(ncclInvalidArgument,
                                 "%s: excludeRanksList has rank %d twice, at %d and %d", function,
                                 excluded[i], j, i);
    }
    return ncclSuccess;
}

ncclResult_t ncclCommShrink(ncclComm_t comm, int *excludeRanksList, int excludeRanksCount,
                            ncclComm_t *newcomm, ncclConfig_t *config, int shrinkFlags)
{
    static const char function[] = "ncclCommShrink";
    struct nccl_job job = {.kind = JOB_SHRINK, .function = function, .out = newcomm};
    ncclResult_t result = check_parent(function, comm);

    if (!result && !newcomm)
        result = nccl_fail(ncclInvalidArgument, "%s: newcomm=NULL", function);
    if (!result && shrinkFlags & ~NCCL_SHRINK_ABORT)
        result =
            nccl_fail(ncclInvalidArgument, "%s: shrinkFlags=%#x", function, (unsigned)shrinkFlags);
    if (!result)
        result = check_excluded(function, comm, excludeRanksList, excludeRanksCount);
    if (result)
        return nccl_group_error(result);
    job.nexcluded = excludeRanksCount;
    job.excluded = malloc((size_t)job.nexcluded * sizeof *job.excluded);
    if (!job.excluded)
        return nccl_group_error(nccl_fail(ncclSystemError, "%s: no host memory", function));
    memcpy(job.excluded, excludeRanksList, (size_t)job.nexcluded * sizeof *job.excluded);
    if (shrinkFlags & NCCL_SHRINK_ABORT) {
        nccl_comm_forgive(comm);
        (void)!thrum_comm_abort(comm->comm);
    }
    return derive(&job, comm, true, config);
}
NCCL_TWIN(ncclCommShrink);

ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *uniqueId)
{
    static const char function[] = "ncclCommGetUniqueId";
    struct thrum_unique_id id;
    ncclResult_t result = check_parent(function, comm);

    if (!result && !uniqueId)
        result = nccl_fail(ncclInvalidArgument, "%s: uniqueId=NULL", function);
    if (!result)
        result = nccl_of_status(function, comm, thrum_comm_get_unique_id(comm->comm, &id));
    if (!result)
        memcpy(uniqueId->internal, id.bytes, sizeof id);
    return result;
}
NCCL_TWIN(ncclCommGetUniqueId);

/* Of a rank of the communicator that grows. Who made the id passes it on here, too; the others need none. */
static ncclResult_t check_grow(const char *function, struct ncclComm *comm, int nranks,
                               const ncclUniqueId *id, int rank)
{
    ncclUniqueId own;
    ncclResult_t result;

    if (rank != -1)
        return nccl_fail(ncclInvalidArgument,
                         "%s, rank %d: rank=%d: a rank of comm keeps its number, and says -1",
                         function, comm->rank, rank);
    if (nranks <= comm->nranks)
        return nccl_fail(ncclInvalidArgument, "%s: nRanks=%d is not more than the %d of comm",
                         function, nranks, comm->nranks);
    if (!id)
        return ncclSuccess;
    result = ncclCommGetUniqueId(comm, &own);
    if (!result && memcmp(&own, id, sizeof own))
        result = nccl_fail(ncclInvalidArgument,
                           "%s: uniqueId is not that of ncclCommGetUniqueId, or has been used",
                           function);
    return result;
}

ncclResult_t ncclCommGrow(ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank,
                          ncclComm_t *newcomm, ncclConfig_t *config)
{
    static const char function[] = "ncclCommGrow";
    struct nccl_job job = {
        .kind = JOB_GROW, .function = function, .out = newcomm, .nranks = nRanks};
    ncclResult_t result = ncclSuccess;

    if (!comm && !uniqueId)
        result = nccl_fail(ncclInvalidArgument,
                           "%s: comm=NULL, as of a new rank, and uniqueId=NULL", function);
    else if (!comm)
        return nccl_init_rank(function, newcomm, nRanks, rank, uniqueId, config, -1);
    if (!result)
        result = check_parent(function, comm);
    if (!result && !newcomm)
        result = nccl_fail(ncclInvalidArgument, "%s: newcomm=NULL", function);
    if (!result)
        result = check_grow(function, comm, nRanks, uniqueId, rank);
    if (result)
        return nccl_group_error(result);
    return derive(&job, comm, true, config);
}
NCCL_TWIN(ncclCommGrow);

/* ---- end ---- */

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    static const char function[] = "ncclCommFinalize";
    ncclResult_t result;

    if (!comm)
        return ncclSuccess;
    result = nccl_comm_check_ready(function, comm);
    if (!result && atomic_exchange(&comm->finalized, true))
        result = nccl_fail(ncclInvalidArgument, "%s: comm=%p is finalized already", function,
                           (void *)comm);
    if (result)
        return nccl_group_error(result);
    atomic_fetch_add(&comm->references, 1);
    return nccl_job_submit(&(struct nccl_job){.kind = JOB_FINALIZE,
                                              .function = function,
                                              .comm = comm,
                                              .blocking = comm->config.blocking});
}
NCCL_TWIN(ncclCommFinalize);

/* Ends its operations on every rank. */
static void stop(struct ncclComm *comm)
{
    nccl_comm_forgive(comm);
    (void)!thrum_comm_abort(comm->comm);
}

static ncclResult_t take(const char *function, struct ncclComm *comm)
{
    if (nccl_comm_take(comm))
        return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "%s: comm=%p is no live communicator", function,
                     (void *)comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    static const char function[] = "ncclCommDestroy";
    ncclResult_t result;

    if (!comm)
        return ncclSuccess;
    result = take(function, comm);
    if (result)
        return nccl_group_error(result);
    atomic_store(&comm->abandoned, true); /* a job that is making it ends it */
    return nccl_job_submit(&(struct nccl_job){
        .kind = JOB_DESTROY, .function = function, .comm = comm, .blocking = true});
}
NCCL_TWIN(ncclCommDestroy);

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    ncclResult_t result;

    if (!comm)
        return ncclSuccess;
    result = take("ncclCommAbort", comm);
    if (result)
        return result;
    atomic_store(&comm->abandoned, true);
    if (atomic_load(&comm->made))
        stop(comm);
    nccl_comm_put(comm); /* a call of another thread that uses it returns, and frees it */
    return ncclSuccess;
}
NCCL_TWIN(ncclCommAbort);

ncclResult_t ncclCommRevoke(ncclComm_t comm, int revokeFlags)
{
    static const char function[] = "ncclCommRevoke";
    ncclResult_t result;

    if (!comm)
        return ncclSuccess;
    result = nccl_comm_check_ready(function, comm);
    if (!result && revokeFlags != NCCL_REVOKE_DEFAULT)
        result =
            nccl_fail(ncclInvalidArgument, "%s: revokeFlags=%#x", function, (unsigned)revokeFlags);
    if (!result && atomic_load(&comm->finalized))
        result = nccl_fail(ncclInvalidArgument, "%s: comm=%p is finalized", function, (void *)comm);
    if (!result && atomic_exchange(&comm->revoked, true))
        result = nccl_fail(ncclInvalidArgument, "%s: comm=%p is revoked already", function,
                           (void *)comm);
    if (!result)
        stop(comm);
    return result;
}
NCCL_TWIN(ncclCommRevoke);
