/*
 * Hands a call to the MPI below. Buffers in Thrum device memory, which MPI cannot reach, go through host memory. Called by
 * entry.c and request.c.
 */
#include "fields.h"
#include "frontend.h"

#include <stdlib.h>

#include <thrum/plugin.h>

/* ---- as it is ---- */

#define ARGUMENT(field) c->field

static int hand_down(const struct tmpi_call *c)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return PMPI_##Name(FIELDS_##NAME(ARGUMENT));
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_INTERN;
    }
}

static int hand_down_nonblocking(const struct tmpi_call *c, MPI_Request *request)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return PMPI_I##name(FIELDS_##NAME(ARGUMENT), request);
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_INTERN;
    }
}

static int hand_down_persistent(const struct tmpi_call *c, MPI_Info info, MPI_Request *request)
{
    (void)info, (void)request;
    switch (c->function) {
#ifdef TMPI_INIT
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return TMPI_PINIT(Name)(FIELDS_##NAME(ARGUMENT), info, request);
#include "function_rows.h"
#undef X
#endif
    default:
        return MPI_ERR_INTERN;
    }
}

/* ---- device memory ---- */

static bool is_device(const void *pointer, struct thrum_mem_info *info)
{
    *info = (struct thrum_mem_info){.size = sizeof *info};
    return pointer && pointer != MPI_IN_PLACE && tmpi.device &&
           !thrum_mem_query(tmpi.device, pointer, info) && info->kind == THRUM_MEM_DEVICE;
}

bool tmpi_is_device_slow(const void *pointer)
{
    struct thrum_mem_info info;

    return is_device(pointer, &info);
}

thrum_status_t tmpi_bounce_in(const void *pointer, size_t bytes, struct tmpi_bounce *bounce)
{
    thrum_status_t status = THRUM_OK;

    *bounce = (struct tmpi_bounce){.device = (void *)(uintptr_t)pointer, .bytes = bytes};
    bounce->host = malloc(bytes ? bytes : 1);
    if (!bounce->host)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu bytes of a buffer",
                                 bytes);
    status = thrum_queue_create(tmpi.device, THRUM_QUEUE_DEFAULT, &bounce->queue);
    return status ? status : thrum_copy_to_host(bounce->queue, bounce->host, bounce->device, bytes);
}

thrum_status_t tmpi_bounce_out(const struct tmpi_bounce *bounce)
{
    return thrum_copy_to_device(bounce->queue, bounce->device, bounce->host, bounce->bytes);
}

void tmpi_bounce_drop(struct tmpi_bounce *bounce)
{
    free(bounce->host);
    thrum_queue_destroy(bounce->queue);
}

/* All of the allocation from the pointer on is copied: what part of it the call means depends on counts of any kind. */
static thrum_status_t bounce_all(const void *pointer, struct tmpi_bounce *bounce)
{
    struct thrum_mem_info info;

    if (!is_device(pointer, &info))
        return THRUM_OK;
    return tmpi_bounce_in(
        pointer, info.bytes - (size_t)((const char *)pointer - (const char *)info.base), bounce);
}

static int fall_by_host(const struct tmpi_call *call)
{
    struct tmpi_call host = *call;
    struct tmpi_bounce send = {0}, recv = {0};
    int code = MPI_SUCCESS;
    thrum_status_t status = bounce_all(call->recv, &recv);

    if (!status && call->send != call->recv)
        status = bounce_all(call->send, &send);
    if (!status) {
        host.recv = recv.host ? recv.host : call->recv;
        host.send = call->send == call->recv ? host.recv : send.host ? send.host : call->send;
        code = hand_down(&host);
        if (!code && recv.host)
            status = tmpi_bounce_out(&recv);
    }
    if (status)
        code = tmpi_raise(call->comm, status, thrum_last_error());
    tmpi_bounce_drop(&send);
    tmpi_bounce_drop(&recv);
    return code;
}

static bool has_device_memory(const struct tmpi_call *call)
{
    return tmpi_is_device(call->send) || tmpi_is_device(call->recv);
}

/* ---- for the rest of the library ---- */

int tmpi_fall(const struct tmpi_call *call)
{
    return TMPI_UNLIKELY(has_device_memory(call)) ? fall_by_host(call) : hand_down(call);
}

/* MPI would have to copy device memory when the request ends. */
static int refuse(const struct tmpi_call *call)
{
    return tmpi_raise(
        call->comm, THRUM_ERR_INVALID_POINTER,
        "a nonblocking or persistent call with a buffer in device memory went to MPI, "
        "which cannot reach it; THRUM_MPI_REPORT=1 says why");
}

int tmpi_fall_nonblocking(const struct tmpi_call *call, MPI_Request *request)
{
    return TMPI_UNLIKELY(has_device_memory(call)) ? refuse(call)
                                                  : hand_down_nonblocking(call, request);
}

int tmpi_fall_persistent(const struct tmpi_call *call, MPI_Info info, MPI_Request *request)
{
    return TMPI_UNLIKELY(has_device_memory(call)) ? refuse(call)
                                                  : hand_down_persistent(call, info, request);
}
