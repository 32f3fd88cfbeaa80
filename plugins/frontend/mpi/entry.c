/*
 * MPI's collectives, in C: what a program calls when this library stands before the MPI library. Each asks tmpi_passes,
 * which takes a few nanoseconds, whether it is clearly MPI's; else it fills a struct tmpi_call, and tmpi_decide says
 * whose it is.
 */
#include "fields.h"
#include "frontend.h"

int tmpi_blocking(const struct tmpi_call *call)
{
    struct tmpi_taken taken;
    enum tmpi_reason reason;

    taken.comm = NULL;
    taken.sample = NULL;
    reason = tmpi_decide(call, TMPI_BLOCKING, &taken);
    if (TMPI_UNLIKELY(tmpi_reporting))
        tmpi_report_count(call->function, TMPI_BLOCKING, reason);
    /* MPI would block with requests of Thrum's left that nobody issues, and others may wait for these first */
    if (reason && taken.comm && tmpi_has_requests(taken.comm))
        tmpi_requests_flush(taken.comm);
    if (TMPI_UNLIKELY(taken.sample))
        return tmpi_trial_run(call, &taken, reason);
    return reason ? tmpi_fall(call) : tmpi_work_run(call, &taken);
}

int tmpi_nonblocking(const struct tmpi_call *call, MPI_Request *request)
{
    struct tmpi_taken taken;
    enum tmpi_reason reason = tmpi_decide(call, TMPI_NONBLOCKING, &taken);

    if (TMPI_UNLIKELY(tmpi_reporting))
        tmpi_report_count(call->function, TMPI_NONBLOCKING, reason);
    return reason ? tmpi_fall_nonblocking(call, request)
                  : tmpi_request_begin(call, &taken, request);
}

int tmpi_persistent(const struct tmpi_call *call, MPI_Info info, MPI_Request *request)
{
    struct tmpi_taken taken;
    enum tmpi_reason reason = tmpi_decide(call, TMPI_PERSISTENT, &taken);

    if (TMPI_UNLIKELY(tmpi_reporting))
        tmpi_report_count(call->function, TMPI_PERSISTENT, reason);
    return reason ? tmpi_fall_persistent(call, info, request)
                  : tmpi_request_init(call, &taken, info, request);
}

#define C_send const void *send
#define C_recv void *recv
#define C_sendcount int sendcount
#define C_recvcount int recvcount
#define C_sendtype MPI_Datatype sendtype
#define C_recvtype MPI_Datatype recvtype
#define C_sendcounts const int sendcounts[]
#define C_sdispls const int sdispls[]
#define C_recvcounts const int recvcounts[]
#define C_rdispls const int rdispls[]
#define C_op MPI_Op op
#define C_root int root
#define C_comm MPI_Comm comm
#define PARAMETER(field) C_##field
#define ARGUMENT(field) field
#define INITIALIZER(field) .field = field
#define CALL(NAME) (&(const struct tmpi_call){.function = TMPI_##NAME, FIELDS_##NAME(INITIALIZER)})

/* The two literals are not one variable, so that the first is never in memory. */
#define X(NAME, Name, name) \
    int MPI_##Name(FIELDS_##NAME(PARAMETER)) \
    { \
        if (tmpi_passes(CALL(NAME), TMPI_BLOCKING)) \
            return PMPI_##Name(FIELDS_##NAME(ARGUMENT)); \
        return tmpi_blocking(CALL(NAME)); \
    } \
    int MPI_I##name(FIELDS_##NAME(PARAMETER), MPI_Request *request) \
    { \
        if (tmpi_passes(CALL(NAME), TMPI_NONBLOCKING)) \
            return PMPI_I##name(FIELDS_##NAME(ARGUMENT), request); \
        return tmpi_nonblocking(CALL(NAME), request); \
    }
#include "function_rows.h"
#undef X

#ifdef TMPI_INIT
#define X(NAME, Name, name) \
    int TMPI_INIT(Name)(FIELDS_##NAME(PARAMETER), MPI_Info info, MPI_Request * request) \
    { \
        return tmpi_persistent(CALL(NAME), info, request); \
    }
#include "function_rows.h"
#undef X
#endif
