/*
 * Memory: allocation, registered buffers, windows. Peers reach every device buffer without registration, and NCCL 2.28 has
 * no host call that reads or writes a window, so that a registration is a checked handle, made without the other ranks.
 */
#include "frontend.h"

#include <stdlib.h>

struct nccl_registration {
    struct nccl_registration *next; /* of the communicator; under its lock */
    struct ncclComm *comm;
    bool is_window;
};

static struct handle_set registrations = HANDLE_SET_INITIALIZER;

/* ---- allocation ---- */

ncclResult_t ncclMemAlloc(void **ptr, size_t size)
{
    if (!ptr)
        return nccl_fail(ncclInvalidArgument, "ncclMemAlloc: ptr=NULL");
    return nccl_runtime_malloc("ncclMemAlloc", ptr, size);
}
NCCL_TWIN(ncclMemAlloc);

ncclResult_t ncclMemFree(void *ptr)
{
    return nccl_runtime_free("ncclMemFree", ptr);
}
NCCL_TWIN(ncclMemFree);

/* ---- registrations ---- */

static ncclResult_t check_buffer(const char *function, struct ncclComm *comm, const void *buff,
                                 size_t size)
{
    struct thrum_mem_info info = {.size = sizeof info};
    ncclResult_t result;

    if (!buff || !size)
        return nccl_fail(ncclInvalidArgument, "%s: buff=%p, size=%zu", function, buff, size);
    result = nccl_of_status(function, comm, thrum_mem_query(comm->device, buff, &info));
    if (result)
        return result;
    if (info.kind == THRUM_MEM_HOST || info.kind == THRUM_MEM_NONE)
        return nccl_fail(ncclInvalidArgument,
                         "%s, rank %d: buff=%p is no memory of device %d: use cudaMalloc, "
                         "ncclMemAlloc or cudaMallocHost",
                         function, comm->rank, buff, comm->device_index);
    if (size > info.bytes - (size_t)((uintptr_t)buff - (uintptr_t)info.base))
        return nccl_fail(ncclInvalidArgument,
                         "%s, rank %d: buff=%p: %zu bytes leave the allocation of %zu at %p",
                         function, comm->rank, buff, size, info.bytes, info.base);
    return ncclSuccess;
}

static ncclResult_t add(const char *function, struct ncclComm *comm, bool is_window,
                        struct nccl_registration **out)
{
    struct nccl_registration *r = calloc(1, sizeof *r);

    if (!r || !handle_set_add(&registrations, r, r)) {
        free(r);
        return nccl_fail(ncclSystemError, "%s: no host memory", function);
    }
    r->comm = comm;
    r->is_window = is_window;
    pthread_mutex_lock(&comm->lock);
    r->next = comm->registrations;
    comm->registrations = r;
    pthread_mutex_unlock(&comm->lock);
    *out = r;
    return ncclSuccess;
}

static ncclResult_t take(const char *function, struct ncclComm *comm, bool is_window, void *handle)
{
    struct nccl_registration *r = handle_set_find(&registrations, handle), **at;

    if (!r || r->comm != comm || r->is_window != is_window || !handle_set_remove(&registrations, r))
        return nccl_fail(ncclInvalidArgument, "%s: %p is no live %s of comm=%p", function, handle,
                         is_window ? "window" : "registration", (void *)comm);
    pthread_mutex_lock(&comm->lock);
    for (at = &comm->registrations; *at != r;)
        at = &(*at)->next;
    *at = r->next;
    pthread_mutex_unlock(&comm->lock);
    free(r);
    return ncclSuccess;
}

void nccl_registrations_free(struct ncclComm *comm)
{
    while (comm->registrations) {
        struct nccl_registration *r = comm->registrations;

        comm->registrations = r->next;
        (void)handle_set_remove(&registrations, r);
        free(r);
    }
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buff, size_t size, void **handle)
{
    static const char function[] = "ncclCommRegister";
    struct nccl_registration *r;
    ncclResult_t result = nccl_comm_check_usable(function, comm);

    if (!result && !handle)
        result = nccl_fail(ncclInvalidArgument, "%s: handle=NULL", function);
    if (!result)
        result = check_buffer(function, comm, buff, size);
    if (!result)
        result = add(function, comm, false, &r);
    if (!result)
        *handle = r;
    return result;
}
NCCL_TWIN(ncclCommRegister);

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    ncclResult_t result = nccl_comm_check_ready("ncclCommDeregister", comm);

    if (result || !handle)
        return result;
    return take("ncclCommDeregister", comm, false, handle);
}
NCCL_TWIN(ncclCommDeregister);

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win,
                                    int winFlags)
{
    static const char function[] = "ncclCommWindowRegister";
    struct nccl_registration *r;
    ncclResult_t result = nccl_comm_check_usable(function, comm);

    if (!result && !win)
        result = nccl_fail(ncclInvalidArgument, "%s: win=NULL", function);
    if (!result && winFlags & ~NCCL_WIN_COLL_SYMMETRIC)
        result = nccl_fail(ncclInvalidArgument, "%s: winFlags=%#x", function, (unsigned)winFlags);
    if (!result)
        result = check_buffer(function, comm, buff, size);
    if (!result && (uintptr_t)buff % NCCL_WIN_REQUIRED_ALIGNMENT)
        result = nccl_fail(ncclInvalidArgument, "%s: buff=%p is not aligned to %d bytes", function,
                           buff, NCCL_WIN_REQUIRED_ALIGNMENT);
    if (!result)
        result = add(function, comm, true, &r);
    if (!result)
        *win = (ncclWindow_t)(void *)r;
    return nccl_group_error(result);
}
NCCL_TWIN(ncclCommWindowRegister);

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t win)
{
    ncclResult_t result = nccl_comm_check_ready("ncclCommWindowDeregister", comm);

    if (result || !win)
        return result;
    return take("ncclCommWindowDeregister", comm, true, win);
}
NCCL_TWIN(ncclCommWindowDeregister);
