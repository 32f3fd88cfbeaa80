/*
 * MPI's functions in Fortran, of Open MPI. Its Fortran library (libmpi_mpifh) calls PMPI_* in C, past this library, so the
 * Fortran names are taken here and turned into C's: mpi_x_ is what mpif.h and `use mpi` call, ompi_x_f, or sometimes
 * pmpi_x_, what the module mpi_f08 calls (libmpi_usempif08).
 */
#include "fields.h"
#include "frontend.h"

#ifdef OPEN_MPI

#include <stdlib.h>

_Static_assert(sizeof(MPI_Fint) == sizeof(int), "Fortran's INTEGER arrays are used as C's");

/* Variables whose addresses are MPI_IN_PLACE and so on in Fortran; the Fortran program and libmpi share them. */
extern int mpi_fortran_in_place_ __attribute__((weak));
extern int mpi_fortran_bottom_ __attribute__((weak));
extern int mpi_fortran_status_ignore_ __attribute__((weak));
extern int mpi_fortran_statuses_ignore_ __attribute__((weak));

#define STATUS_INTS ((int)(sizeof(MPI_Status) / sizeof(MPI_Fint)))

static void *B(void *buffer)
{
    if (buffer == (void *)&mpi_fortran_in_place_)
        return MPI_IN_PLACE;
    return buffer == (void *)&mpi_fortran_bottom_ ? MPI_BOTTOM : buffer;
}

static MPI_Datatype T(const MPI_Fint *type)
{
    return PMPI_Type_f2c(*type);
}

static MPI_Op O(const MPI_Fint *op)
{
    return PMPI_Op_f2c(*op);
}

static MPI_Comm C(const MPI_Fint *comm)
{
    return PMPI_Comm_f2c(*comm);
}

static void give_back(int code, MPI_Fint *error)
{
    if (error)
        *error = code;
}

/* Defines a function under the names by which Fortran reaches it. */
#define NAMES(internal, name) \
    extern __typeof__(internal) name##_ TMPI_EXPORT __attribute__((alias(#internal))); \
    extern __typeof__(internal) name##__ TMPI_EXPORT __attribute__((alias(#internal)));

/* ---- collectives ---- */

#define F_send char *send
#define F_recv char *recv
#define F_sendcount MPI_Fint *sendcount
#define F_recvcount MPI_Fint *recvcount
#define F_sendtype MPI_Fint *sendtype
#define F_recvtype MPI_Fint *recvtype
#define F_sendcounts MPI_Fint *sendcounts
#define F_sdispls MPI_Fint *sdispls
#define F_recvcounts MPI_Fint *recvcounts
#define F_rdispls MPI_Fint *rdispls
#define F_op MPI_Fint *op
#define F_root MPI_Fint *root
#define F_comm MPI_Fint *comm
#define PARAMETER(field) F_##field

#define C_send B(send)
#define C_recv B(recv)
#define C_sendcount *sendcount
#define C_recvcount *recvcount
#define C_sendtype T(sendtype)
#define C_recvtype T(recvtype)
#define C_sendcounts sendcounts
#define C_sdispls sdispls
#define C_recvcounts recvcounts
#define C_rdispls rdispls
#define C_op O(op)
#define C_root *root
#define C_comm C(comm)
#define INITIALIZER(field) .field = C_##field
#define CALL(NAME) \
    { \
        .function = TMPI_##NAME, FIELDS_##NAME(INITIALIZER) \
    }
#define ARGUMENT(field) call.field

static void give_request(int code, MPI_Request handle, MPI_Fint *request, MPI_Fint *error)
{
    if (!code)
        *request = PMPI_Request_c2f(handle);
    give_back(code, error);
}

#define X(NAME, Name, name) \
    TMPI_EXPORT void ompi_##name##_f(FIELDS_##NAME(PARAMETER), MPI_Fint *error); \
    void ompi_##name##_f(FIELDS_##NAME(PARAMETER), MPI_Fint *error) \
    { \
        const struct tmpi_call call = CALL(NAME); \
        int code = tmpi_passes(&call, TMPI_BLOCKING) ? PMPI_##Name(FIELDS_##NAME(ARGUMENT)) \
                                                     : tmpi_blocking(&call); \
        give_back(code, error); \
    } \
    NAMES(ompi_##name##_f, mpi_##name) \
    TMPI_EXPORT void ompi_i##name##_f(FIELDS_##NAME(PARAMETER), MPI_Fint *request, \
                                      MPI_Fint *error); \
    void ompi_i##name##_f(FIELDS_##NAME(PARAMETER), MPI_Fint *request, MPI_Fint *error) \
    { \
        const struct tmpi_call call = CALL(NAME); \
        MPI_Request handle = MPI_REQUEST_NULL; \
        int code = tmpi_nonblocking(&call, &handle); \
        give_request(code, handle, request, error); \
    } \
    NAMES(ompi_i##name##_f, mpi_i##name)
#include "function_rows.h"
#undef X

#if defined(HAVE_MPI_PERSISTENT)
#define INIT(name) ompi_##name##_init_f
#define INIT_NAMES(name) NAMES(ompi_##name##_init_f, mpi_##name##_init)
#elif defined(HAVE_MPIX_PERSISTENT)
#define INIT(name) ompix_##name##_init_f
#define INIT_NAMES(name) NAMES(ompix_##name##_init_f, mpix_##name##_init)
#endif
#ifdef INIT
#define X(NAME, Name, name) \
    TMPI_EXPORT void INIT(name)(FIELDS_##NAME(PARAMETER), MPI_Fint * info, MPI_Fint * request, \
                                MPI_Fint * error); \
    void INIT(name)(FIELDS_##NAME(PARAMETER), MPI_Fint * info, MPI_Fint * request, \
                    MPI_Fint * error) \
    { \
        const struct tmpi_call call = CALL(NAME); \
        MPI_Request handle = MPI_REQUEST_NULL; \
        int code = tmpi_persistent(&call, PMPI_Info_f2c(*info), &handle); \
        give_request(code, handle, request, error); \
    } \
    INIT_NAMES(name)
#include "function_rows.h"
#undef X
#endif

TMPI_EXPORT void ompi_finalize_f(MPI_Fint *error);
void ompi_finalize_f(MPI_Fint *error)
{
    give_back(MPI_Finalize(), error);
}
NAMES(ompi_finalize_f, mpi_finalize)

TMPI_EXPORT void ompi_op_free_f(MPI_Fint *op, MPI_Fint *error);
void ompi_op_free_f(MPI_Fint *op, MPI_Fint *error)
{
    MPI_Op handle = PMPI_Op_f2c(*op);
    int code = MPI_Op_free(&handle);

    if (!code)
        *op = PMPI_Op_c2f(handle);
    give_back(code, error);
}
NAMES(ompi_op_free_f, mpi_op_free)

/* ---- requests ---- */

/* The module mpi_f08 calls pmpi_x_ where an argument is a LOGICAL: of functions that complete requests, past ompi_x_f. */
#define REQUEST_NAMES(name) NAMES(ompi_##name##_f, mpi_##name) NAMES(ompi_##name##_f, pmpi_##name)

/* C's arrays of Fortran's. */
struct arrays {
    MPI_Request *requests;
    MPI_Status *statuses;
    int *indices;
    int n;
    MPI_Request few_requests[16];
    MPI_Status few_statuses[16];
    int few_indices[16];
    void *memory;
};

static bool open_arrays(struct arrays *a, int n, const MPI_Fint *requests)
{
    a->n = n > 0 ? n : 0;
    a->memory = NULL;
    a->requests = a->few_requests;
    a->statuses = a->few_statuses;
    a->indices = a->few_indices;
    if (n > 16) {
        size_t each = sizeof *a->requests + sizeof *a->statuses + sizeof *a->indices;

        a->memory = malloc((size_t)n * each);
        if (!a->memory)
            return false;
        a->requests = a->memory;
        a->statuses = (MPI_Status *)(a->requests + n);
        a->indices = (int *)(a->statuses + n);
    }
    for (int i = 0; i < a->n; i++)
        a->requests[i] = PMPI_Request_f2c(requests[i]);
    return true;
}

static void close_arrays(struct arrays *a, MPI_Fint *requests)
{
    for (int i = 0; i < a->n; i++)
        requests[i] = PMPI_Request_c2f(a->requests[i]);
    free(a->memory);
}

static void give_status(const MPI_Status *status, MPI_Fint *to)
{
    if (to != (void *)&mpi_fortran_status_ignore_)
        (void)PMPI_Status_c2f(status, to);
}

static void give_statuses(const struct arrays *a, int n, MPI_Fint *to)
{
    for (int i = 0; to != (void *)&mpi_fortran_statuses_ignore_ && i < n; i++)
        (void)PMPI_Status_c2f(&a->statuses[i], to + (ptrdiff_t)i * STATUS_INTS);
}

/* An index counts from 1 in Fortran. */
static MPI_Fint give_index(int index)
{
    return index == MPI_UNDEFINED ? index : index + 1;
}

TMPI_EXPORT void ompi_wait_f(MPI_Fint *request, MPI_Fint *status, MPI_Fint *error);
void ompi_wait_f(MPI_Fint *request, MPI_Fint *status, MPI_Fint *error)
{
    MPI_Request handle = PMPI_Request_f2c(*request);
    MPI_Status result;
    int code = MPI_Wait(&handle, &result);

    if (!code) {
        *request = PMPI_Request_c2f(handle);
        give_status(&result, status);
    }
    give_back(code, error);
}
REQUEST_NAMES(wait)

TMPI_EXPORT void ompi_test_f(MPI_Fint *request, MPI_Fint *flag, MPI_Fint *status, MPI_Fint *error);
void ompi_test_f(MPI_Fint *request, MPI_Fint *flag, MPI_Fint *status, MPI_Fint *error)
{
    MPI_Request handle = PMPI_Request_f2c(*request);
    MPI_Status result;
    int done = 0, code = MPI_Test(&handle, &done, &result);

    *flag = done;
    if (!code && done) {
        *request = PMPI_Request_c2f(handle);
        give_status(&result, status);
    }
    give_back(code, error);
}
REQUEST_NAMES(test)

TMPI_EXPORT void ompi_waitall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *statuses,
                                MPI_Fint *error);
void ompi_waitall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *statuses, MPI_Fint *error)
{
    struct arrays a;
    int code = MPI_ERR_NO_MEM;

    if (open_arrays(&a, *count, requests)) {
        code = MPI_Waitall(*count, a.requests, a.statuses);
        if (!code || code == MPI_ERR_IN_STATUS)
            give_statuses(&a, a.n, statuses);
        close_arrays(&a, requests);
    }
    give_back(code, error);
}
REQUEST_NAMES(waitall)

TMPI_EXPORT void ompi_testall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *flag,
                                MPI_Fint *statuses, MPI_Fint *error);
void ompi_testall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *flag, MPI_Fint *statuses,
                    MPI_Fint *error)
{
    struct arrays a;
    int done = 0, code = MPI_ERR_NO_MEM;

    if (open_arrays(&a, *count, requests)) {
        code = MPI_Testall(*count, a.requests, &done, a.statuses);
        *flag = done;
        if (done && (!code || code == MPI_ERR_IN_STATUS))
            give_statuses(&a, a.n, statuses);
        close_arrays(&a, requests);
    }
    give_back(code, error);
}
REQUEST_NAMES(testall)

TMPI_EXPORT void ompi_waitany_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *index,
                                MPI_Fint *status, MPI_Fint *error);
void ompi_waitany_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *index, MPI_Fint *status,
                    MPI_Fint *error)
{
    struct arrays a;
    MPI_Status result;
    int which = MPI_UNDEFINED, code = MPI_ERR_NO_MEM;

    if (open_arrays(&a, *count, requests)) {
        code = MPI_Waitany(*count, a.requests, &which, &result);
        *index = give_index(which);
        if (!code)
            give_status(&result, status);
        close_arrays(&a, requests);
    }
    give_back(code, error);
}
REQUEST_NAMES(waitany)

TMPI_EXPORT void ompi_testany_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *index,
                                MPI_Fint *flag, MPI_Fint *status, MPI_Fint *error);
void ompi_testany_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *index, MPI_Fint *flag,
                    MPI_Fint *status, MPI_Fint *error)
{
    struct arrays a;
    MPI_Status result;
    int which = MPI_UNDEFINED, done = 0, code = MPI_ERR_NO_MEM;

    if (open_arrays(&a, *count, requests)) {
        code = MPI_Testany(*count, a.requests, &which, &done, &result);
        *index = give_index(which);
        *flag = done;
        if (!code && done)
            give_status(&result, status);
        close_arrays(&a, requests);
    }
    give_back(code, error);
}
REQUEST_NAMES(testany)

static int some(int (*complete)(int, MPI_Request *, int *, int *, MPI_Status *), int count,
                MPI_Fint *requests, MPI_Fint *n, MPI_Fint *indices, MPI_Fint *statuses)
{
    struct arrays a;
    int done = 0, code;

    if (!open_arrays(&a, count, requests))
        return MPI_ERR_NO_MEM;
    code = complete(count, a.requests, &done, a.indices, a.statuses);
    *n = done;
    if (done != MPI_UNDEFINED && (!code || code == MPI_ERR_IN_STATUS)) {
        for (int i = 0; i < done; i++)
            indices[i] = give_index(a.indices[i]);
        give_statuses(&a, done, statuses);
    }
    close_arrays(&a, requests);
    return code;
}

TMPI_EXPORT void ompi_waitsome_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *n,
                                 MPI_Fint *indices, MPI_Fint *statuses, MPI_Fint *error);
void ompi_waitsome_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *n, MPI_Fint *indices,
                     MPI_Fint *statuses, MPI_Fint *error)
{
    give_back(some(MPI_Waitsome, *count, requests, n, indices, statuses), error);
}
REQUEST_NAMES(waitsome)

TMPI_EXPORT void ompi_testsome_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *n,
                                 MPI_Fint *indices, MPI_Fint *statuses, MPI_Fint *error);
void ompi_testsome_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *n, MPI_Fint *indices,
                     MPI_Fint *statuses, MPI_Fint *error)
{
    give_back(some(MPI_Testsome, *count, requests, n, indices, statuses), error);
}
REQUEST_NAMES(testsome)

TMPI_EXPORT void ompi_request_get_status_f(MPI_Fint *request, MPI_Fint *flag, MPI_Fint *status,
                                           MPI_Fint *error);
void ompi_request_get_status_f(MPI_Fint *request, MPI_Fint *flag, MPI_Fint *status, MPI_Fint *error)
{
    MPI_Status result;
    int done = 0, code = MPI_Request_get_status(PMPI_Request_f2c(*request), &done, &result);

    *flag = done;
    if (!code && done)
        give_status(&result, status);
    give_back(code, error);
}
REQUEST_NAMES(request_get_status)

TMPI_EXPORT void ompi_request_free_f(MPI_Fint *request, MPI_Fint *error);
void ompi_request_free_f(MPI_Fint *request, MPI_Fint *error)
{
    MPI_Request handle = PMPI_Request_f2c(*request);
    int code = MPI_Request_free(&handle);

    if (!code)
        *request = PMPI_Request_c2f(handle);
    give_back(code, error);
}
REQUEST_NAMES(request_free)

TMPI_EXPORT void ompi_start_f(MPI_Fint *request, MPI_Fint *error);
void ompi_start_f(MPI_Fint *request, MPI_Fint *error)
{
    MPI_Request handle = PMPI_Request_f2c(*request);
    int code = MPI_Start(&handle);

    if (!code)
        *request = PMPI_Request_c2f(handle);
    give_back(code, error);
}
REQUEST_NAMES(start)

TMPI_EXPORT void ompi_startall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *error);
void ompi_startall_f(MPI_Fint *count, MPI_Fint *requests, MPI_Fint *error)
{
    struct arrays a;
    int code = MPI_ERR_NO_MEM;

    if (open_arrays(&a, *count, requests)) {
        code = MPI_Startall(*count, a.requests);
        close_arrays(&a, requests);
    }
    give_back(code, error);
}
REQUEST_NAMES(startall)

#endif
