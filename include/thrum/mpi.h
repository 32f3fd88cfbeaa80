/*
 * What libthrum-mpi offers beyond MPI: buffers of MPI's collectives in device memory. A program that uses this is linked
 * with libthrum-mpi; one that does not needs nothing of it, see docs/mpi.md.
 */
#ifndef THRUM_MPI_H
#define THRUM_MPI_H

#include <thrum/device.h>
#include <thrum/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

/*
 * *device_out <- the device of this rank, on which libthrum-mpi works: memory of it may be passed to the collectives of
 * MPI (blocking ones anywhere; nonblocking and persistent ones where Thrum takes the call). Borrowed until MPI_Finalize.
 * Any thread. Errors: INVALID_ARGUMENT, INVALID_USAGE (MPI is not initialized, or finalized), NO_DEVICE.
 */
THRUM_MUST_CHECK thrum_status_t thrum_mpi_device(thrum_device_t *device_out);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
