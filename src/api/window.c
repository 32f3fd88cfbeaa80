/*
 * One-sided calls: windows, puts, signals. Public entry points of thrum.h's "windows" part. A put is one copy or one fabric
 * put, a signal raises the peer's counter, a wait waits for the own one: exec/one_sided.c.
 */
#include "api/api.h"

#include "base/base.h"

/* ---- windows ---- */

thrum_status_t thrum_comm_register(thrum_comm_t comm, void *buffer, size_t bytes,
                                   thrum_window_t *window_out)
{
    struct setup_call call = {.kind = SETUP_REGISTER,
                              .comm = comm,
                              .buffer = buffer,
                              .bytes = bytes,
                              .window_out = window_out};
    enum thrum_mem_kind kind = THRUM_MEM_DEVICE;
    thrum_status_t status = collective_check_comm(comm);

    if (!status && !window_out)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "window_out is NULL");
    if (!status && bytes)
        status = exec_classify(comm, "buffer", buffer, bytes, &kind);
    if (!status && kind != THRUM_MEM_DEVICE)
        status = thrum_fail(THRUM_ERR_INVALID_POINTER,
                            "buffer=%p is host memory; a window is memory of %s", buffer,
                            comm->device->properties.name);
    return setup_call(&call, status);
}

thrum_status_t thrum_comm_deregister(thrum_window_t window)
{
    struct setup_call call = {
        .kind = SETUP_DEREGISTER, .comm = comm_of_window(window), .window = window};
    thrum_status_t status = THRUM_OK;

    if (!call.comm)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "window=%p is not a live window",
                            (void *)window);
    return setup_call(&call, status);
}

/* ---- checks ---- */

static thrum_status_t check_peer(const struct thrum_comm *comm, int peer)
{
    if (peer < 0 || peer >= comm->nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "peer=%d is not between 0 and %d", peer,
                          comm->nranks - 1);
    return THRUM_OK;
}

static thrum_status_t check_window(const struct thrum_comm *comm, const struct one_sided_call *call)
{
    uint64_t bytes = call->count * thrum_datatype_size(call->dtype);
    const struct thrum_window *window = comm->windows;
    const struct comm_window_part *part;

    while (window && window != call->window)
        window = window->next;
    if (!window)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "window=%p is not a live window of %s: it was deregistered, or is of "
                          "another communicator",
                          (const void *)call->window, comm->name);
    part = &window->parts[call->peer];
    if (bytes > part->bytes || call->offset > part->bytes - bytes)
        return thrum_fail(
            THRUM_ERR_INVALID_ARGUMENT,
            "offset=%llu: %llu bytes from there leave rank %d's part of the window, %llu bytes",
            (unsigned long long)call->offset, (unsigned long long)bytes, call->peer,
            (unsigned long long)part->bytes);
    return THRUM_OK;
}

/* A put of this rank's to itself is a copy between ranges of one memory. */
static thrum_status_t check_own_part(const struct thrum_comm *comm,
                                     const struct one_sided_call *call)
{
    uint64_t bytes = call->count * thrum_datatype_size(call->dtype);
    uint64_t from = (uint64_t)(uintptr_t)call->send;
    uint64_t to = comm->device->own_base + call->window->parts[comm->rank].offset + call->offset;

    if (from == to || from >= to + bytes || to >= from + bytes)
        return THRUM_OK;
    return thrum_fail(
        THRUM_ERR_INVALID_POINTER,
        "send=%p (%llu bytes) overlaps where it is put in this rank's own part of the "
        "window, 0x%llx",
        call->send, (unsigned long long)bytes, (unsigned long long)to);
}

/* Signals are counted from the first one on, in 64 bits. */
static thrum_status_t check_signals(const struct thrum_comm *comm,
                                    const struct one_sided_call *call)
{
    if (call->count > INT64_MAX - comm->peers[call->peer].pairs[CHANNEL_ONE_SIDED].received[0])
        return thrum_fail(THRUM_ERR_INVALID_COUNT, "n=%llu signals of rank %d overflow",
                          (unsigned long long)call->count, call->peer);
    return THRUM_OK;
}

thrum_status_t one_sided_check(struct thrum_comm *comm, const struct one_sided_call *call)
{
    enum thrum_mem_kind kind;
    thrum_status_t status = collective_check_comm(comm);

    if (!status)
        status = collective_check_queue(comm, call->queue);
    if (!status)
        status = check_peer(comm, call->peer);
    if (!status && call->kind == EXEC_WAIT_SIGNAL)
        status = check_signals(comm, call);
    if (status || call->kind != EXEC_PUT)
        return status;
    status = collective_check_count(comm, "count", call->count, call->dtype);
    if (!status)
        status = check_window(comm, call);
    if (!status && call->count)
        status = exec_classify(comm, "send", call->send,
                               call->count * thrum_datatype_size(call->dtype), &kind);
    if (!status && call->count && call->peer == comm->rank)
        status = check_own_part(comm, call);
    return status;
}

/* ---- running ---- */

static thrum_status_t run_put(struct thrum_comm *comm, const struct one_sided_call *call,
                              const struct call_record *record)
{
    uint64_t bytes = call->count * thrum_datatype_size(call->dtype);
    struct exec_copy in = {.host = (void *)(uintptr_t)call->send, .bytes = bytes};
    struct exec_staging staging = {.in = &in, .nin = 1};
    enum thrum_mem_kind kind = THRUM_MEM_DEVICE;
    thrum_status_t status;

    if (!bytes)
        return THRUM_OK;
    status = exec_classify(comm, "send", call->send, bytes, &kind);
    in.registered = kind == THRUM_MEM_HOST_REGISTERED;
    in.device = (uint64_t)(uintptr_t)call->send;
    if (!status && kind != THRUM_MEM_DEVICE)
        status = exec_stage(comm, 0, bytes, &in.device);
    if (!status)
        status =
            exec_put(comm, call->peer, in.device, &call->window->parts[call->peer], call->offset,
                     bytes, kind == THRUM_MEM_DEVICE ? NULL : &staging, call->queue, record);
    if (!status)
        call->window->last_put = atomic_load_explicit(&comm->issued, memory_order_relaxed);
    return status;
}

thrum_status_t one_sided_run(struct thrum_comm *comm, const struct one_sided_call *call)
{
    const struct call_record record = {.count = call->count,
                                       .root = call->peer,
                                       .dtype = (uint8_t)call->dtype,
                                       .state = (uint8_t)call->kind};

    if (call->kind == EXEC_PUT)
        return run_put(comm, call, &record);
    if (call->kind == EXEC_SIGNAL)
        return exec_signal(comm, call->peer, call->queue, &record);
    return call->count ? exec_wait_signal(comm, call->peer, call->count, call->queue, &record)
                       : THRUM_OK;
}

static thrum_status_t one_sided(struct thrum_comm *comm, const struct one_sided_call *call)
{
    thrum_status_t status = one_sided_check(comm, call);

    if (group_is_open())
        return group_add_one_sided(comm, call, status);
    return status ? status : one_sided_issue(comm, call);
}

thrum_status_t thrum_put(const void *send, size_t count, thrum_datatype_t dtype, int peer,
                         thrum_window_t window, size_t offset, thrum_comm_t comm,
                         thrum_queue_t queue)
{
    struct one_sided_call call = {.kind = EXEC_PUT,
                                  .send = send,
                                  .window = window,
                                  .offset = offset,
                                  .count = count,
                                  .dtype = dtype,
                                  .peer = peer,
                                  .queue = queue};
    return one_sided(comm, &call);
}

thrum_status_t thrum_signal(int peer, thrum_comm_t comm, thrum_queue_t queue)
{
    struct one_sided_call call = {
        .kind = EXEC_SIGNAL, .count = 1, .dtype = THRUM_UINT8, .peer = peer, .queue = queue};
    return one_sided(comm, &call);
}

thrum_status_t thrum_wait_signal(int peer, uint64_t n, thrum_comm_t comm, thrum_queue_t queue)
{
    struct one_sided_call call = {
        .kind = EXEC_WAIT_SIGNAL, .count = n, .dtype = THRUM_UINT8, .peer = peer, .queue = queue};
    return one_sided(comm, &call);
}
