/*
 * The functions of MPI that start, complete and free requests. Without live requests of ours they are MPI's. Else ours
 * are looked for among the arguments: they are executed until they end, then told to MPI, which does the rest, since each
 * has a handle of MPI's own. Persistent ones are inactive for MPI throughout, so their ends are reported here.
 */
#include "frontend.h"

#include <stdlib.h>

static bool none_live(void)
{
    return !atomic_load_explicit(&tmpi_requests_live, memory_order_acquire);
}

/* Ours and not idle. */
static struct tmpi_request *active(MPI_Request handle)
{
    struct tmpi_request *request = tmpi_request_find(handle);

    return request && atomic_load_explicit(&request->state, memory_order_acquire) != TMPI_IDLE
               ? request
               : NULL;
}

static bool any_active(int count, const MPI_Request *requests)
{
    for (int i = 0; i < count; i++)
        if (active(requests[i]))
            return true;
    return false;
}

static struct tmpi_comm *comm_of_first(int count, const MPI_Request *requests)
{
    struct tmpi_request *request;

    for (int i = 0; i < count; i++)
        if ((request = active(requests[i])))
            return request->comm;
    return NULL;
}

/* Has ended: the caller learns it, for one request. The error, if any, goes to the communicator's handler. */
static int end_one(struct tmpi_request *request, MPI_Request *handle, MPI_Status *status)
{
    MPI_Comm comm = tmpi_request_blames(request);
    int code = request->code, other;

    request->code = MPI_SUCCESS; /* MPI would raise it on another communicator */
    (void)tmpi_request_tell(request);
    other = PMPI_Wait(handle, status);
    if (!code)
        return other;
    if (status != MPI_STATUS_IGNORE)
        status->MPI_ERROR = code;
    (void)PMPI_Comm_call_errhandler(comm, code);
    return code;
}

int MPI_Wait(MPI_Request *handle, MPI_Status *status)
{
    struct tmpi_request *request;

    if (none_live() || !handle || !(request = active(*handle)))
        return PMPI_Wait(handle, status);
    tmpi_request_wait(request);
    return end_one(request, handle, status);
}

int MPI_Test(MPI_Request *handle, int *flag, MPI_Status *status)
{
    struct tmpi_request *request;

    if (none_live() || !handle || !(request = active(*handle)))
        return PMPI_Test(handle, flag, status);
    *flag = tmpi_request_poll(request);
    if (!*flag) {
        tmpi_request_pause(request->comm, 0);
        return MPI_SUCCESS;
    }
    return end_one(request, handle, status);
}

int MPI_Request_get_status(MPI_Request handle, int *flag, MPI_Status *status)
{
    struct tmpi_request *request = active(handle);

    if (!request)
        return PMPI_Request_get_status(handle, flag, status);
    *flag = tmpi_request_poll(request);
    if (!*flag)
        return MPI_SUCCESS;
    if (!request->is_persistent)
        (void)tmpi_request_tell(request);
    return PMPI_Request_get_status(handle, flag, status); /* an idle one is complete, and empty */
}

int MPI_Request_free(MPI_Request *handle)
{
    struct tmpi_request *request = handle ? tmpi_request_find(*handle) : NULL;

    if (!request)
        return PMPI_Request_free(handle);
    if (active(*handle)) {
        tmpi_request_wait(request);
        (void)tmpi_request_tell(request);
        if (!tmpi_request_find(*handle))
            return PMPI_Request_free(handle);
    }
    tmpi_request_destroy(request);
    return PMPI_Request_free(handle);
}

/* ---- all ---- */

/* Every one of ours has ended. Returns the code of one that failed and is persistent: MPI does not see those. */
static int tell_all(int count, MPI_Request *handles, MPI_Comm *comm_out)
{
    int failed = MPI_SUCCESS;

    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);

        if (!request)
            continue;
        if (request->is_persistent && request->code) {
            failed = request->code;
            *comm_out = tmpi_request_blames(request);
        }
        (void)tmpi_request_tell(request);
    }
    return failed;
}

static int and_raise(int code, int failed, MPI_Comm comm)
{
    if (!failed)
        return code;
    (void)PMPI_Comm_call_errhandler(comm, failed);
    return code ? code : failed;
}

int MPI_Waitall(int count, MPI_Request handles[], MPI_Status statuses[])
{
    MPI_Comm comm = MPI_COMM_NULL;
    int failed;

    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Waitall(count, handles, statuses);
    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);

        if (request)
            tmpi_request_wait(request);
    }
    failed = tell_all(count, handles, &comm);
    return and_raise(PMPI_Waitall(count, handles, statuses), failed, comm);
}

/* Whether MPI's own among them are complete, without taking their ends. */
static bool others_done(int count, MPI_Request *handles)
{
    for (int i = 0; i < count; i++) {
        int flag = 1;

        if (handles[i] != MPI_REQUEST_NULL && !active(handles[i]) &&
            (PMPI_Request_get_status(handles[i], &flag, MPI_STATUS_IGNORE) || !flag))
            return false;
    }
    return true;
}

int MPI_Testall(int count, MPI_Request handles[], int *flag, MPI_Status statuses[])
{
    MPI_Comm comm = MPI_COMM_NULL;
    bool done = true;
    int failed;

    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Testall(count, handles, flag, statuses);
    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);

        done &= !request || tmpi_request_poll(request);
    }
    if (!done || !others_done(count, handles)) {
        tmpi_request_pause(comm_of_first(count, handles), 0);
        *flag = 0;
        return MPI_SUCCESS;
    }
    failed = tell_all(count, handles, &comm);
    return and_raise(PMPI_Testall(count, handles, flag, statuses), failed, comm);
}

/* ---- any ---- */

/* True if one has ended, or all are inactive. */
static bool test_any(int count, MPI_Request *handles, int *index, MPI_Status *status, int *code)
{
    bool ours = false;
    int flag;

    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);

        if (!request)
            continue;
        ours = true;
        if (tmpi_request_poll(request)) {
            *index = i;
            *code = end_one(request, &handles[i], status);
            return true;
        }
    }
    *code = PMPI_Testany(count, handles, index, &flag, status);
    return *code || (flag && (*index != MPI_UNDEFINED || !ours));
}

int MPI_Waitany(int count, MPI_Request handles[], int *index, MPI_Status *status)
{
    const struct tmpi_comm *comm;
    int code;

    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Waitany(count, handles, index, status);
    comm = comm_of_first(count, handles);
    for (unsigned round = 1; !test_any(count, handles, index, status, &code); round++)
        tmpi_request_pause(comm, round);
    return code;
}

int MPI_Testany(int count, MPI_Request handles[], int *index, int *flag, MPI_Status *status)
{
    int code;

    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Testany(count, handles, index, flag, status);
    *flag = test_any(count, handles, index, status, &code);
    if (!*flag)
        *index = MPI_UNDEFINED;
    return code;
}

/* ---- some ---- */

static void empty(MPI_Status *status, int code)
{
    MPI_Request none = MPI_REQUEST_NULL;

    (void)PMPI_Wait(&none, status);
    status->MPI_ERROR = code;
}

/* Ended persistent ones of ours, behind the `n` that MPI has reported. */
static int add_persistent(int count, MPI_Request *handles, int n, int *indices,
                          MPI_Status *statuses, int *failed, MPI_Comm *comm)
{
    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);
        int code;

        if (!request || !request->is_persistent || !tmpi_request_poll(request))
            continue;
        *comm = tmpi_request_blames(request);
        code = tmpi_request_tell(request);
        if (code)
            *failed = code;
        if (statuses != MPI_STATUSES_IGNORE)
            empty(&statuses[n], code);
        indices[n++] = i;
    }
    return n;
}

static int test_some(int count, MPI_Request *handles, int *n, int *indices, MPI_Status *statuses)
{
    MPI_Comm comm = MPI_COMM_NULL;
    int failed = MPI_SUCCESS, code;

    for (int i = 0; i < count; i++) {
        struct tmpi_request *request = active(handles[i]);

        if (request && !request->is_persistent && tmpi_request_poll(request))
            (void)tmpi_request_tell(request);
    }
    code = PMPI_Testsome(count, handles, n, indices, statuses);
    if (*n == MPI_UNDEFINED)
        *n = 0;
    *n = add_persistent(count, handles, *n, indices, statuses, &failed, &comm);
    return and_raise(code, failed, comm);
}

int MPI_Testsome(int count, MPI_Request handles[], int *n, int indices[], MPI_Status statuses[])
{
    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Testsome(count, handles, n, indices, statuses);
    return test_some(count, handles, n, indices, statuses);
}

int MPI_Waitsome(int count, MPI_Request handles[], int *n, int indices[], MPI_Status statuses[])
{
    const struct tmpi_comm *comm;
    int code;

    if (none_live() || count <= 0 || !handles || !any_active(count, handles))
        return PMPI_Waitsome(count, handles, n, indices, statuses);
    comm = comm_of_first(count, handles);
    for (unsigned round = 1; !(code = test_some(count, handles, n, indices, statuses)) && !*n;
         round++)
        tmpi_request_pause(comm, round);
    return code;
}

/* ---- start ---- */

static int start(struct tmpi_request *request)
{
    if (!tmpi_request_start(request))
        return MPI_SUCCESS;
    (void)PMPI_Comm_call_errhandler(tmpi_request_blames(request), MPI_ERR_REQUEST);
    return MPI_ERR_REQUEST;
}

int MPI_Start(MPI_Request *handle)
{
    struct tmpi_request *request = handle ? tmpi_request_find(*handle) : NULL;

    return request ? start(request) : PMPI_Start(handle);
}

int MPI_Startall(int count, MPI_Request handles[])
{
    int code = MPI_SUCCESS;

    if (none_live() || count <= 0 || !handles)
        return PMPI_Startall(count, handles);
    for (int i = 0; i < count && !code; i++)
        code = MPI_Start(&handles[i]);
    return code;
}
