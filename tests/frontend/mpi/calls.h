/* Any collective, by MPI_* (what is tested) or PMPI_* (what it is compared with), in any form. */
#ifndef TESTS_FRONTEND_MPI_CALLS_H
#define TESTS_FRONTEND_MPI_CALLS_H

#include "fields.h"
#include "frontend.h"

#define ARGUMENT(field) c->field

#define MOST_RANKS 16
enum form { BLOCKING, NONBLOCKING, PERSISTENT, RAW, FORMS };

/* Number of blocks that the send and the receive buffer have on this rank. */
struct shape {
    int send_blocks, recv_blocks;
};

static inline int call_raw(const struct tmpi_call *c)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return PMPI_##Name(FIELDS_##NAME(ARGUMENT));
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_OTHER;
    }
}

static inline int call_blocking(const struct tmpi_call *c)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return MPI_##Name(FIELDS_##NAME(ARGUMENT));
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_OTHER;
    }
}

static inline int call_nonblocking(const struct tmpi_call *c, MPI_Request *request)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return MPI_I##name(FIELDS_##NAME(ARGUMENT), request);
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_OTHER;
    }
}

#ifdef TMPI_INIT
static inline int call_init(const struct tmpi_call *c, MPI_Request *request)
{
    switch (c->function) {
#define X(NAME, Name, name) \
    case TMPI_##NAME: \
        return TMPI_INIT(Name)(FIELDS_##NAME(ARGUMENT), MPI_INFO_NULL, request);
#include "function_rows.h"
#undef X
    default:
        return MPI_ERR_OTHER;
    }
}
#endif

static const char *const function_names[] = {
#define X(NAME, Name, name) #Name,
#include "function_rows.h"
#undef X
};

#endif
