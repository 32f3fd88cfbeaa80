/* Any collective, by MPI_* (what is tested) or PMPI_* (what it is compared with), in any form. */
#ifndef TESTS_FRONTEND_MPI_CALLS_H
#define TESTS_FRONTEND_MPI_CALLS_H

#include "frontend.h"

#define MOST_RANKS 16
enum form { BLOCKING, NONBLOCKING, PERSISTENT, RAW, FORMS };

/* Number of blocks that the send and the receive buffer have on this rank. */
struct shape {
    int send_blocks, recv_blocks;
};

static inline int call_raw(const struct tmpi_call *c)
{
    switch (c->function) {
#define CALL(NAME, Name, name, ...) \
    case TMPI_##NAME: \
        return PMPI_##Name(__VA_ARGS__);
#include "fall_rows.h"
#undef CALL
    default:
        return MPI_ERR_OTHER;
    }
}

static inline int call_blocking(const struct tmpi_call *c)
{
    switch (c->function) {
#define CALL(NAME, Name, name, ...) \
    case TMPI_##NAME: \
        return MPI_##Name(__VA_ARGS__);
#include "fall_rows.h"
#undef CALL
    default:
        return MPI_ERR_OTHER;
    }
}

static inline int call_nonblocking(const struct tmpi_call *c, MPI_Request *request)
{
    switch (c->function) {
#define CALL(NAME, Name, name, ...) \
    case TMPI_##NAME: \
        return MPI_I##name(__VA_ARGS__, request);
#include "fall_rows.h"
#undef CALL
    default:
        return MPI_ERR_OTHER;
    }
}

#if defined(HAVE_MPIX_PERSISTENT) || defined(HAVE_MPI_PERSISTENT)
#define HAVE_PERSISTENT 1
static inline int call_init(const struct tmpi_call *c, MPI_Request *request)
{
    switch (c->function) {
#ifdef HAVE_MPI_PERSISTENT
#define CALL(NAME, Name, name, ...) \
    case TMPI_##NAME: \
        return MPI_##Name##_init(__VA_ARGS__, MPI_INFO_NULL, request);
#else
#define CALL(NAME, Name, name, ...) \
    case TMPI_##NAME: \
        return MPIX_##Name##_init(__VA_ARGS__, MPI_INFO_NULL, request);
#endif
#include "fall_rows.h"
#undef CALL
    default:
        return MPI_ERR_OTHER;
    }
}
#endif

static const char *const function_names[] = {
#define X(name, text, rule) text,
#include "function_rows.h"
#undef X
};

#endif
