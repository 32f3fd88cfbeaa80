/*
 * MPI's collectives, in C: what a program calls when this library stands before the MPI library. Each fills a struct
 * tmpi_call; tmpi_decide says whose it is.
 */
#include "frontend.h"

int tmpi_blocking(const struct tmpi_call *call)
{
    struct tmpi_taken taken;
    enum tmpi_reason reason = tmpi_decide(call, TMPI_BLOCKING, &taken);

    if (TMPI_UNLIKELY(tmpi_reporting))
        tmpi_report_count(call->function, TMPI_BLOCKING, reason);
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

#define P(...) __VA_ARGS__

#define ENTRY(NAME, Name, name, parameters, ...) \
    int MPI_##Name(parameters) \
    { \
        const struct tmpi_call call = {.function = TMPI_##NAME, __VA_ARGS__}; \
        return tmpi_blocking(&call); \
    }
#include "entry_rows.h"
#undef ENTRY

#define ENTRY(NAME, Name, name, parameters, ...) \
    int MPI_I##name(parameters, MPI_Request *request) \
    { \
        const struct tmpi_call call = {.function = TMPI_##NAME, __VA_ARGS__}; \
        return tmpi_nonblocking(&call, request); \
    }
#include "entry_rows.h"
#undef ENTRY

#ifdef HAVE_MPIX_PERSISTENT
#define ENTRY(NAME, Name, name, parameters, ...) \
    int MPIX_##Name##_init(parameters, MPI_Info info, MPI_Request *request) \
    { \
        const struct tmpi_call call = {.function = TMPI_##NAME, __VA_ARGS__}; \
        return tmpi_persistent(&call, info, request); \
    }
#include "entry_rows.h"
#undef ENTRY
#endif

#ifdef HAVE_MPI_PERSISTENT
#define ENTRY(NAME, Name, name, parameters, ...) \
    int MPI_##Name##_init(parameters, MPI_Info info, MPI_Request *request) \
    { \
        const struct tmpi_call call = {.function = TMPI_##NAME, __VA_ARGS__}; \
        return tmpi_persistent(&call, info, request); \
    }
#include "entry_rows.h"
#undef ENTRY
#endif
