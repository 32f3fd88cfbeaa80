/*
 * Groups of a thread. Operations are collected by Thrum's own group; calls that wait for other ranks are jobs, which come
 * first. A communicator that an operation of the group uses is kept from being freed until the group has ended.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

struct use {
    struct ncclComm *comm;
    const char *collective; /* for the estimate; NULL: point to point */
    size_t count;
    thrum_datatype_t dtype;
};

static _Thread_local struct {
    int depth;
    ncclResult_t error; /* of the first call that was refused */
    char text[NCCL_TEXT_BYTES];
    struct nccl_job *jobs, **last_job; /* before the operations */
    struct nccl_job *late, **last_late; /* after them: what ends communicators */
    struct use *uses;
    size_t nuses, capacity;
} group;

bool nccl_group_is_open(void)
{
    return group.depth > 0;
}

void nccl_group_add_job(struct nccl_job *job)
{
    bool late = job->kind == JOB_FINALIZE || job->kind == JOB_DESTROY;
    struct nccl_job **first = late ? &group.late : &group.jobs;
    struct nccl_job ***last = late ? &group.last_late : &group.last_job;

    if (!*first)
        *last = first;
    **last = job;
    *last = &job->next;
}

ncclResult_t nccl_group_error(ncclResult_t result)
{
    if (group.depth && !group.error && result && result != ncclInProgress) {
        group.error = result;
        memcpy(group.text, nccl_last_text(), sizeof group.text);
    }
    return result;
}

/* ---- uses ---- */

ncclResult_t nccl_group_enter(struct ncclComm *comm, const char *collective, size_t count,
                              thrum_datatype_t dtype)
{
    if (group.depth && group.nuses == group.capacity) {
        size_t capacity = group.capacity ? 2 * group.capacity : 16;
        struct use *uses = realloc(group.uses, capacity * sizeof *uses);

        if (!uses)
            return nccl_fail(ncclSystemError, "no host memory for a group of %zu calls", capacity);
        group.uses = uses;
        group.capacity = capacity;
    }
    atomic_fetch_add(&comm->references, 1);
    if (group.depth)
        group.uses[group.nuses++] = (struct use){comm, collective, count, dtype};
    return ncclSuccess;
}

void nccl_group_leave(struct ncclComm *comm)
{
    if (!group.depth)
        nccl_comm_put(comm);
}

static void end_uses(void)
{
    for (size_t i = 0; i < group.nuses; i++)
        nccl_comm_put(group.uses[i].comm);
    free(group.uses);
    group.uses = NULL;
    group.nuses = group.capacity = 0;
}

/* ---- start and end ---- */

ncclResult_t ncclGroupStart(void)
{
    if (!group.depth++)
        return nccl_of_status("ncclGroupStart", NULL, thrum_group_start());
    return ncclSuccess;
}
NCCL_TWIN(ncclGroupStart);

/* Ends Thrum's group with nothing of it begun: a call that it refuses is in it. */
static void cancel_operations(void)
{
    (void)!thrum_barrier(NULL, NULL);
    (void)!thrum_group_end();
}

/* What was refused, or could not be done: nothing else of the group is. */
static ncclResult_t fail_group(ncclResult_t result, struct nccl_job *jobs, struct nccl_job *late)
{
    char text[NCCL_TEXT_BYTES];

    memcpy(text, nccl_last_text(), sizeof text);
    cancel_operations();
    nccl_jobs_drop(jobs, result);
    nccl_jobs_drop(late, result);
    return nccl_fail(result, "%s", text);
}

static ncclResult_t end_group(void)
{
    struct nccl_job *jobs = group.jobs, *late = group.late;
    ncclResult_t result = group.error, end;

    group.jobs = group.late = NULL;
    group.error = ncclSuccess;
    if (result) {
        (void)nccl_fail(result, "%s", group.text);
        return fail_group(result, jobs, late);
    }
    if (jobs)
        result = nccl_jobs_run(jobs, false);
    if (result && result != ncclInProgress)
        return fail_group(result, NULL, late);
    end = nccl_of_status("ncclGroupEnd", NULL, thrum_group_end());
    result = end ? end : result;
    if (late) {
        end = nccl_jobs_run(late, true);
        result = !result || (result == ncclInProgress && end) ? end : result;
    }
    return result;
}

static ncclResult_t no_group(const char *function)
{
    return nccl_fail(ncclInvalidUsage, "%s without ncclGroupStart on this thread", function);
}

ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t result;

    if (!group.depth)
        return no_group("ncclGroupEnd");
    if (--group.depth)
        return ncclSuccess;
    result = end_group();
    end_uses();
    return result;
}
NCCL_TWIN(ncclGroupEnd);

/* ---- estimate ---- */

/* What the model predicts for one collective, in microseconds. */
static double predicted_us(const struct use *use)
{
    struct thrum_algorithm_candidate candidate;

    for (int i = 0;; i++) {
        candidate = (struct thrum_algorithm_candidate){.size = sizeof candidate};
        if (thrum_comm_candidate(use->comm->comm, use->collective, use->count, use->dtype, i,
                                 &candidate))
            return 0;
        if (candidate.chosen)
            return candidate.predicted_us;
    }
}

/* Calls of one communicator follow one another, communicators work at the same time. */
static double estimate(void)
{
    double longest = 0;

    for (size_t i = 0; i < group.nuses; i++) {
        double sum = 0;

        for (size_t j = 0; j < group.nuses; j++)
            if (group.uses[j].comm == group.uses[i].comm && group.uses[j].collective)
                sum += predicted_us(&group.uses[j]);
        longest = sum > longest ? sum : longest;
    }
    return longest;
}

ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *simInfo)
{
    static const char function[] = "ncclGroupSimulateEnd";

    if (!group.depth)
        return no_group(function);
    if (simInfo && (simInfo->magic != NCCL_SIM_INFO_MAGIC || simInfo->size < sizeof *simInfo))
        return nccl_group_error(nccl_fail(ncclInvalidArgument,
                                          "%s: simInfo has magic=%#x and size=%zu: initialize it "
                                          "by NCCL_SIM_INFO_INITIALIZER",
                                          function, simInfo->magic, simInfo->size));
    if (group.jobs || group.late)
        (void)nccl_group_error(
            nccl_fail(ncclInvalidUsage,
                      "%s: the group has a call that makes or ends a communicator", function));
    if (--group.depth)
        return ncclSuccess;
    if (!group.error) {
        if (simInfo)
            simInfo->estimatedTime = (float)estimate();
        cancel_operations();
        end_uses();
        return ncclSuccess;
    }
    group.depth = 1;
    return ncclGroupEnd();
}
NCCL_TWIN(ncclGroupSimulateEnd);
