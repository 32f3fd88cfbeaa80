/*
 * Windows: memory of every rank that the others may put into. Opened and closed by an exchange over the control plane;
 * in between a put only looks up where the peer's part lies. Called by api.
 */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "exec/exec.h"

/* The open windows of the process, to tell a live handle from any other pointer. */
static struct {
    pthread_mutex_t lock;
    struct thrum_window *first;
} live = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct thrum_comm *comm_of_window(const struct thrum_window *window)
{
    struct thrum_comm *comm = NULL;

    pthread_mutex_lock(&live.lock);
    for (const struct thrum_window *w = live.first; w && !comm; w = w->next_live)
        if (w == window)
            comm = w->comm;
    pthread_mutex_unlock(&live.lock);
    return comm;
}

static uint64_t host_bytes(const struct thrum_comm *comm)
{
    return sizeof(struct thrum_window) + (uint64_t)comm->nranks * sizeof(struct comm_window_part);
}

static void add(struct thrum_window *window)
{
    pthread_mutex_lock(&live.lock);
    window->next_live = live.first;
    live.first = window;
    pthread_mutex_unlock(&live.lock);
    window->next = window->comm->windows;
    window->comm->windows = window;
    atomic_fetch_add(&window->comm->kept_bytes, host_bytes(window->comm));
}

static void release(struct thrum_window *window)
{
    pthread_mutex_lock(&live.lock);
    for (struct thrum_window **link = &live.first; *link; link = &(*link)->next_live)
        if (*link == window) {
            *link = window->next_live;
            break;
        }
    pthread_mutex_unlock(&live.lock);
    for (struct thrum_window **link = &window->comm->windows; *link; link = &(*link)->next)
        if (*link == window) {
            *link = window->next;
            break;
        }
    atomic_fetch_sub(&window->comm->kept_bytes, host_bytes(window->comm));
    free(window);
}

void comm_windows_free(struct thrum_comm *comm)
{
    while (comm->windows)
        release(comm->windows);
}

/* ---- open and close ---- */

struct opening {
    struct comm_window_part part;
    int32_t status; /* thrum_status_t of this rank's part */
    char message[128];
};

static thrum_status_t exchange(struct thrum_comm *comm, enum control_exchange_kind kind,
                               void *values, size_t bytes)
{
    thrum_status_t status =
        control_exchange(comm->control, kind, 2 * ++comm->setups, values, bytes,
                         comm->deadline_ns / 1000000, comm->deadline_ns / 1000000);

    return status ? thrum_fail(status, "%s: %s", comm->name, thrum_last_error()) : THRUM_OK;
}

static thrum_status_t open_own(struct thrum_comm *comm, void *buffer, size_t bytes,
                               struct comm_window_part *part)
{
    uint64_t address = (uint64_t)(uintptr_t)buffer;

    part->bytes = bytes;
    part->offset = bytes ? address - comm->device->own_base : 0;
    if (comm->peer_access || !bytes)
        return THRUM_OK;
    return exec_region(comm, address, &part->key, &part->put_offset);
}

static thrum_status_t take_parts(struct thrum_window *window, const struct opening *all)
{
    for (int r = 0; r < window->comm->nranks; r++) {
        if (all[r].status)
            return thrum_fail((thrum_status_t)all[r].status,
                              "%s: rank %d cannot open its memory: %.*s", window->comm->name, r,
                              (int)sizeof all[r].message - 1, all[r].message);
        window->parts[r] = all[r].part;
    }
    return THRUM_OK;
}

thrum_status_t comm_window_open(struct thrum_comm *comm, void *buffer, size_t bytes,
                                struct thrum_window **window_out)
{
    size_t nranks = (size_t)comm->nranks;
    struct thrum_window *window = calloc(1, host_bytes(comm));
    struct opening *all = calloc(nranks, sizeof *all), *mine;
    thrum_status_t status;

    if (!window || !all) {
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
        goto out;
    }
    window->comm = comm;
    mine = &all[comm->rank];
    mine->status = open_own(comm, buffer, bytes, &mine->part);
    if (mine->status)
        snprintf(mine->message, sizeof mine->message, "%s", thrum_last_error());
    /* Also after a failure: the others learn of it instead of waiting. */
    status = exchange(comm, EXCHANGE_REGISTER, all, sizeof *all);
    if (!status)
        status = take_parts(window, all);
    window->number = comm->setups;
out:
    free(all);
    if (status) {
        free(window);
        return status;
    }
    add(window);
    *window_out = window;
    return THRUM_OK;
}

thrum_status_t comm_window_close(struct thrum_window *window)
{
    struct thrum_comm *comm = window->comm;
    uint8_t *nothing = calloc((size_t)comm->nranks, 1);
    thrum_status_t status = comm_await(comm, window->last_put);

    if (!status && !nothing)
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    if (!status)
        status = exchange(comm, EXCHANGE_DEREGISTER, nothing, 1);
    free(nothing);
    release(window);
    return status;
}
