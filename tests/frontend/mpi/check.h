/* What the MPI test programs share: TAP from rank 0, a case fails if it fails on any rank. */
#ifndef TESTS_FRONTEND_MPI_CHECK_H
#define TESTS_FRONTEND_MPI_CHECK_H

#include <mpi.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_rank, check_size, check_cases, check_failed_cases;
static int check_failures; /* of the case that runs */

__attribute__((format(printf, 2, 3))) static inline void check(bool good, const char *format, ...)
{
    va_list args;

    if (good)
        return;
    if (check_failures++ < 5) {
        va_start(args, format);
        printf("# rank %d: ", check_rank);
        vprintf(format, args);
        printf("\n");
        fflush(stdout);
        va_end(args);
    }
}

/* Ends a case. Collective over MPI_COMM_WORLD. */
static inline void check_case(const char *name)
{
    int failures;

    PMPI_Allreduce(&check_failures, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check_failures = 0;
    check_cases++;
    check_failed_cases += failures > 0;
    if (check_rank == 0)
        printf("%sok %d - %s\n", failures ? "not " : "", check_cases, name);
    fflush(stdout);
}

static inline void check_begin(void)
{
    PMPI_Comm_rank(MPI_COMM_WORLD, &check_rank);
    PMPI_Comm_size(MPI_COMM_WORLD, &check_size);
}

/* The exit status. */
static inline int check_end(void)
{
    if (check_rank == 0)
        printf("1..%d\n", check_cases);
    fflush(stdout);
    return check_failed_cases > 0;
}

static inline void *need(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);

    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        PMPI_Abort(MPI_COMM_WORLD, 99);
    }
    return memory;
}

#endif
