/*
 * Jobs: calls that wait for other ranks, which a group makes at the same time and a communicator that does not block makes
 * in the background. Jobs on one parent follow one another, since their order is the order in which ranks meet.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

static void free_job(struct nccl_job *job)
{
    nccl_comm_put(job->comm);
    nccl_comm_put(job->parent);
    free(job->excluded);
    free(job);
}

/* ---- one job ---- */

static void thrum_config_of(const struct ncclComm *comm, struct thrum_comm_config *out)
{
    *out = (struct thrum_comm_config){.size = sizeof *out,
                                      .name = *comm->config.name ? comm->config.name : NULL};
}

static thrum_status_t make(struct nccl_job *job, thrum_comm_t *made)
{
    struct thrum_comm_config config = {.size = sizeof config};
    struct thrum_unique_id id;
    thrum_status_t status;

    *made = NULL;
    if (job->comm)
        thrum_config_of(job->comm, &config);
    switch (job->kind) {
    case JOB_INIT:
        status = nccl_id_resolve(&job->id, job->comm->rank, job->comm->nranks, &id);
        if (status)
            return status;
        return thrum_comm_init_rank(&id, job->comm->nranks, job->comm->rank, job->comm->device,
                                    &config, made);
    case JOB_SPLIT:
        return nccl_split(job->parent, job->comm ? job->color : THRUM_SPLIT_NONE, job->key, &config,
                          made);
    case JOB_GROW:
        return thrum_comm_grow(job->parent->comm, job->nranks, &config, made);
    default:
        return thrum_comm_shrink(job->parent->comm, job->excluded, job->nexcluded, &config, made);
    }
}

/* Gives the new communicator what was made; or frees it where the caller has let it go meanwhile. */
static ncclResult_t take_over(struct nccl_job *job, thrum_comm_t made)
{
    struct ncclComm *comm = job->comm;
    thrum_status_t status;

    if (!comm)
        return ncclSuccess;
    comm->comm = made;
    atomic_store(&comm->made, true);
    status = thrum_comm_rank(made, &comm->rank);
    if (!status)
        status = thrum_comm_size(made, &comm->nranks);
    if (!status && job->kind == JOB_INIT && !comm->rank)
        nccl_debug_version();
    if (!status)
        thrum_plugin_log(THRUM_LOG_INFO, "%s comm %p rank %d nranks %d cudaDev %d - Init COMPLETE",
                         job->function, (void *)comm, comm->rank, comm->nranks, comm->device_index);
    if (atomic_load(&comm->abandoned))
        status = thrum_comm_abort(made);
    return nccl_of_status(job->function, comm, status);
}

static ncclResult_t run_new(struct nccl_job *job)
{
    thrum_comm_t made;
    thrum_status_t status = make(job, &made);
    ncclResult_t result =
        nccl_of_status(job->function, job->parent ? job->parent : job->comm, status);

    if (!result)
        result = take_over(job, made);
    if (job->comm)
        nccl_comm_settle(job->comm, result);
    /* Who waits gets no handle to what cannot be used; who asks needs it for the answer. */
    if (result && job->blocking && job->comm) {
        if (nccl_comm_take(job->comm))
            nccl_comm_put(job->comm);
        if (job->out)
            *job->out = NULL;
    }
    return result;
}

static ncclResult_t run_job(struct nccl_job *job)
{
    switch (job->kind) {
    case JOB_FINALIZE:
        nccl_comm_drain(job->comm);
        return ncclSuccess;
    case JOB_DESTROY: /* the handle's reference is dropped with the job */
        return ncclSuccess;
    default:
        return run_new(job);
    }
}

/* ---- many ---- */

/* Jobs that follow one another. */
struct chain {
    struct nccl_job *first;
    pthread_t thread;
    bool threaded;
};

static void *run_chain(void *argument)
{
    for (struct nccl_job *job = argument; job; job = job->next) {
        job->result = run_job(job);
        if (job->result)
            memcpy(job->text, nccl_last_text(), sizeof job->text);
    }
    return NULL;
}

/* What a job of the background keeps busy meanwhile: calls on it are refused. */
static struct ncclComm *busy_comm(const struct nccl_job *job)
{
    return job->kind == JOB_FINALIZE ? job->comm : job->parent;
}

static void mark_busy(const struct nccl_job *jobs)
{
    for (const struct nccl_job *job = jobs; job; job = job->next)
        if (busy_comm(job))
            atomic_store(&busy_comm(job)->state, ncclInProgress);
}

static void mark_idle(const struct nccl_job *jobs)
{
    for (const struct nccl_job *job = jobs; job; job = job->next) {
        int busy = ncclInProgress;

        if (busy_comm(job))
            atomic_compare_exchange_strong(&busy_comm(job)->state, &busy, ncclSuccess);
    }
}

static void *run_in_background(void *argument)
{
    struct nccl_job *next;

    run_chain(argument);
    mark_idle(argument);
    for (struct nccl_job *job = argument; job; job = next) {
        next = job->next;
        free_job(job);
    }
    return NULL;
}

static bool start_thread(void *(*run)(void *), void *argument, pthread_t *thread_out, bool detach)
{
    pthread_attr_t attributes;
    int failed;

    pthread_attr_init(&attributes);
    if (detach)
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(thread_out, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return !failed;
}

static ncclResult_t no_thread(struct nccl_job *jobs)
{
    ncclResult_t result = nccl_fail(ncclSystemError, "%s: no thread", jobs->function);

    mark_idle(jobs);
    nccl_jobs_drop(jobs, result);
    return result;
}

/* Splits the jobs into chains, in order; returns how many. */
static size_t make_chains(struct nccl_job *jobs, struct chain *chains)
{
    struct nccl_job *next, **end;
    size_t n = 0, i;

    for (struct nccl_job *job = jobs; job; job = next) {
        next = job->next;
        job->next = NULL;
        for (i = 0; i < n; i++)
            if (job->parent && chains[i].first->parent == job->parent &&
                chains[i].first->blocking == job->blocking)
                break;
        if (i == n)
            chains[n++] = (struct chain){.first = NULL};
        for (end = &chains[i].first; *end;)
            end = &(*end)->next;
        *end = job;
    }
    return n;
}

/* Waits for a chain that blocks; the first error of all counts. */
static ncclResult_t end_chain(struct chain *chain, ncclResult_t result)
{
    struct nccl_job *next;

    if (chain->threaded)
        pthread_join(chain->thread, NULL);
    for (struct nccl_job *job = chain->first; job; job = next) {
        next = job->next;
        if (job->result && (!result || result == ncclInProgress))
            result = nccl_fail(job->result, "%s", job->text);
        free_job(job);
    }
    return result;
}

ncclResult_t nccl_jobs_run(struct nccl_job *jobs, bool here)
{
    struct chain *chains, *own = NULL;
    size_t n = 0;
    ncclResult_t result = ncclSuccess;
    pthread_t thread;

    for (struct nccl_job *job = jobs; job; job = job->next)
        n++;
    chains = calloc(n, sizeof *chains);
    if (!chains) {
        result = nccl_fail(ncclSystemError, "%s: no host memory", jobs->function);
        nccl_jobs_drop(jobs, result);
        return result;
    }
    n = make_chains(jobs, chains);
    for (size_t i = 0; i < n; i++) {
        struct chain *chain = &chains[i];

        if (!chain->first->blocking) {
            mark_busy(chain->first);
            result = start_thread(run_in_background, chain->first, &thread, true)
                         ? (result ? result : ncclInProgress)
                         : no_thread(chain->first);
            chain->first = NULL;
        } else if (here && !own) {
            own = chain; /* on this thread, once the others are on their way */
        } else {
            chain->threaded = start_thread(run_chain, chain->first, &chain->thread, false);
            if (!chain->threaded) {
                result = no_thread(chain->first);
                chain->first = NULL;
            }
        }
    }
    if (own)
        run_chain(own->first);
    for (size_t i = 0; i < n; i++)
        result = end_chain(&chains[i], result);
    free(chains);
    return result;
}

void nccl_jobs_drop(struct nccl_job *jobs, ncclResult_t result)
{
    struct nccl_job *next;

    for (struct nccl_job *job = jobs; job; job = next) {
        next = job->next;
        if (job->kind == JOB_FINALIZE) {
            atomic_store(&job->comm->finalized, false);
        } else if (job->kind != JOB_DESTROY && job->comm) { /* a handle to destroy is gone anyway */
            nccl_comm_settle(job->comm, result);
            if (nccl_comm_take(job->comm))
                nccl_comm_put(job->comm);
            if (job->out)
                *job->out = NULL;
        }
        free_job(job);
    }
}

ncclResult_t nccl_job_submit(const struct nccl_job *what)
{
    struct nccl_job *job = malloc(sizeof *job);

    if (!job) {
        nccl_comm_put(what->comm);
        nccl_comm_put(what->parent);
        free(what->excluded);
        return nccl_group_error(nccl_fail(ncclSystemError, "%s: no host memory", what->function));
    }
    *job = *what;
    job->next = NULL;
    if (nccl_group_is_open()) {
        nccl_group_add_job(job);
        return ncclSuccess;
    }
    return nccl_jobs_run(job, true);
}
