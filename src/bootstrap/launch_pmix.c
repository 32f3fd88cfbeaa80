/*
 * The id over PMIx: Open MPI's mpirun, PRRTE, srun --mpi=pmix. Called by launch_exchange.c.
 *
 * libpmix is opened at run time, so that one build works with and without it. An MPI library in the same process uses
 * the same libpmix, which counts its users: whichever comes first, both may come and go. This user stays until the
 * process exits, since a PMIx client that has left cannot everywhere come back, and says goodbye then, since
 * launchers take an exit without it for a crash.
 */
#include "bootstrap/launch.h"

#ifndef HAVE_PMIX

thrum_status_t launch_pmix_exchange(const struct launch_info *info, uint64_t instance,
                                    int64_t deadline, struct thrum_unique_id *id_out)
{
    (void)info;
    (void)instance;
    (void)deadline;
    (void)id_out;
    return thrum_fail(THRUM_ERR_UNSUPPORTED, "Thrum was built without PMIx's headers");
}

thrum_status_t launch_pmix_size(int *nranks_out)
{
    (void)nranks_out;
    return thrum_fail(THRUM_ERR_UNSUPPORTED, "PMIX_RANK is set, nothing says the number of ranks, "
                                             "and Thrum was built without PMIx's headers");
}

#else

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic push /* its inline functions are not ours to mend */
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <pmix.h>
#pragma GCC diagnostic pop

/* Name and type of what is used of libpmix. */
#define PMIX_CALLS(X) \
    X(Init) \
    X(Finalize) \
    X(Put) \
    X(Commit) \
    X(Fence_nb) \
    X(Get) \
    X(Error_string)

static struct {
    pthread_mutex_t lock; /* all of it */
    bool ready;
    pid_t owner;
    pmix_proc_t self;
#define X(name) __typeof__(&PMIx_##name) name;
    PMIX_CALLS(X)
#undef X
} pmix = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* In a child of fork, which has none of libpmix's threads, it would never return. */
static void at_exit(void)
{
    if (getpid() == pmix.owner)
        (void)pmix.Finalize(NULL, 0);
}

static thrum_status_t load_locked(void)
{
    void *library = dlopen("libpmix.so.2", RTLD_NOW | RTLD_LOCAL);
    const char *missing = NULL;
    pmix_status_t rc;

    if (!library)
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "libpmix.so.2 cannot be loaded: %s", dlerror());
#define X(name) \
    *(void **)&pmix.name = dlsym(library, "PMIx_" #name); \
    missing = pmix.name ? missing : "PMIx_" #name;
    PMIX_CALLS(X)
#undef X
    if (missing) {
        dlclose(library);
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "libpmix.so.2 has no %s", missing);
    }
    rc = pmix.Init(&pmix.self, NULL, 0);
    if (rc != PMIX_SUCCESS) {
        /* It stays loaded: a library that has started threads is not safe to unload. */
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "the PMIx server does not take this process: %s",
                          pmix.Error_string(rc));
    }
    pmix.ready = true;
    pmix.owner = getpid();
    atexit(at_exit);
    return THRUM_OK;
}

static thrum_status_t load(void)
{
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&pmix.lock);
    if (!pmix.ready)
        status = load_locked();
    pthread_mutex_unlock(&pmix.lock);
    return status;
}

/* ---- fence with a deadline ---- */

/* Shared by the waiter and libpmix's thread; the last one frees it. */
struct fence {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, abandoned;
    pmix_status_t status;
    pmix_proc_t all;
};

/* Rank 0's key comes along with the fence. */
static const pmix_info_t collect[1] = {
    {.key = PMIX_COLLECT_DATA, .value = {.type = PMIX_BOOL, .data = {.flag = true}}}};

static void free_fence(struct fence *fence)
{
    pthread_cond_destroy(&fence->changed);
    pthread_mutex_destroy(&fence->lock);
    free(fence);
}

static void fence_done(pmix_status_t status, void *argument)
{
    struct fence *fence = argument;
    bool abandoned;

    pthread_mutex_lock(&fence->lock);
    fence->status = status;
    fence->done = true;
    abandoned = fence->abandoned;
    pthread_cond_signal(&fence->changed);
    pthread_mutex_unlock(&fence->lock);
    if (abandoned)
        free_fence(fence);
}

static struct fence *make_fence(void)
{
    struct fence *fence = calloc(1, sizeof *fence);
    pthread_condattr_t attributes;

    if (!fence)
        return NULL;
    pthread_mutex_init(&fence->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&fence->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    memcpy(fence->all.nspace, pmix.self.nspace, sizeof fence->all.nspace);
    fence->all.rank = PMIX_RANK_WILDCARD;
    return fence;
}

static thrum_status_t wait_fence(struct fence *fence, int64_t deadline)
{
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
    pmix_status_t status;
    bool done;

    pthread_mutex_lock(&fence->lock);
    while (!fence->done)
        if (pthread_cond_timedwait(&fence->changed, &fence->lock, &until) == ETIMEDOUT)
            break;
    done = fence->done;
    status = fence->status;
    fence->abandoned = !done;
    pthread_mutex_unlock(&fence->lock);
    if (!done)
        return thrum_fail(THRUM_ERR_TIMEOUT,
                          "not every rank of the job called thrum_comm_init in time (PMIx fence)");
    free_fence(fence);
    if (status != PMIX_SUCCESS)
        return thrum_fail(THRUM_ERR_UNREACHABLE, "PMIx fence failed: %s",
                          pmix.Error_string(status));
    return THRUM_OK;
}

static thrum_status_t fence_all(int64_t deadline)
{
    struct fence *fence = make_fence();
    pmix_status_t rc;

    if (!fence)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a PMIx fence");
    rc = pmix.Fence_nb(&fence->all, 1, collect, 1, fence_done, fence);
    if (rc == PMIX_SUCCESS)
        return wait_fence(fence, deadline);
    free_fence(fence); /* it will not be called back */
    if (rc == PMIX_OPERATION_SUCCEEDED)
        return THRUM_OK;
    return thrum_fail(THRUM_ERR_UNREACHABLE, "PMIx fence failed: %s", pmix.Error_string(rc));
}

/* ---- the exchange ---- */

static thrum_status_t publish(const char *key, int64_t deadline, struct thrum_unique_id *id_out)
{
    struct thrum_unique_id id;
    pmix_value_t value = {.type = PMIX_BYTE_OBJECT};
    thrum_status_t status = bootstrap_make_id(&id);
    pmix_status_t rc;

    if (status)
        return status;
    value.data.bo.bytes = (char *)id.bytes;
    value.data.bo.size = sizeof id.bytes;
    if ((rc = pmix.Put(PMIX_GLOBAL, key, &value)) || (rc = pmix.Commit()))
        status = thrum_fail(THRUM_ERR_UNREACHABLE, "PMIx does not publish the id: %s",
                            pmix.Error_string(rc));
    if (status || (status = fence_all(deadline))) {
        bootstrap_withdraw(&id);
        return status;
    }
    *id_out = id;
    return THRUM_OK;
}

static thrum_status_t fetch(const char *key, int64_t deadline, struct thrum_unique_id *id_out)
{
    pmix_proc_t rank_0 = {.rank = 0};
    pmix_value_t *value = NULL;
    thrum_status_t status = fence_all(deadline);
    pmix_status_t rc;

    if (status)
        return status;
    memcpy(rank_0.nspace, pmix.self.nspace, sizeof rank_0.nspace);
    rc = pmix.Get(&rank_0, key, NULL, 0, &value);
    if (rc != PMIX_SUCCESS)
        return thrum_fail(THRUM_ERR_UNREACHABLE, "PMIx does not give rank 0's id: %s",
                          pmix.Error_string(rc));
    if (value->type == PMIX_BYTE_OBJECT && value->data.bo.size == sizeof id_out->bytes)
        memcpy(id_out->bytes, value->data.bo.bytes, sizeof id_out->bytes);
    else
        status = thrum_fail(THRUM_ERR_PROTOCOL, "PMIx gives something that is not an id");
    if (value->type == PMIX_BYTE_OBJECT)
        free(value->data.bo.bytes);
    free(value);
    return status;
}

thrum_status_t launch_pmix_exchange(const struct launch_info *info, uint64_t instance,
                                    int64_t deadline, struct thrum_unique_id *id_out)
{
    thrum_status_t status = load();
    char key[64];

    if (status)
        return status;
    if ((int64_t)pmix.self.rank != info->rank)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "PMIX_RANK is %d, the PMIx server says %u",
                          info->rank, pmix.self.rank);
    snprintf(key, sizeof key, "thrum.id.%llu", (unsigned long long)instance);
    return info->rank ? fetch(key, deadline, id_out) : publish(key, deadline, id_out);
}

thrum_status_t launch_pmix_size(int *nranks_out)
{
    thrum_status_t status = load();
    pmix_proc_t job = {.rank = PMIX_RANK_WILDCARD};
    pmix_value_t *value = NULL;
    pmix_status_t rc;

    if (status)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "PMIX_RANK is set, no variable says the number of ranks, and the PMIx "
                          "server cannot be asked");
    memcpy(job.nspace, pmix.self.nspace, sizeof job.nspace);
    rc = pmix.Get(&job, PMIX_JOB_SIZE, NULL, 0, &value);
    if (rc != PMIX_SUCCESS || value->type != PMIX_UINT32)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "PMIx does not say the number of ranks: %s",
                          pmix.Error_string(rc));
    *nranks_out = (int)value->data.uint32;
    free(value);
    return THRUM_OK;
}

#endif
