/*
 * An independent reference: what each rank contributes to a collective, and what has to come out. Shares no code with
 * the library. Contributions are chosen so that every order of folding gives the same bits (small multiples of a power of
 * two for floats, anything for integers), and a missing, doubled or misplaced contribution gives others.
 */
#ifndef TESTS_MPI_REFERENCE_H
#define TESTS_MPI_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/types.h>

bool reference_is_float(thrum_datatype_t dtype);
bool reference_valid(thrum_datatype_t dtype, thrum_redop_t op);

/* out <- elements first .. first + count - 1 of what `rank` of `nranks` contributes to the reduction named by `seed`. */
void reference_contribution(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                            thrum_redop_t op, int nranks, uint64_t seed, int rank);
/* out <- elements first .. of what the first `folded` of the ranks give, by which AVG divides. */
void reference_reduction(void *out, uint64_t first, uint64_t count, thrum_datatype_t dtype,
                         thrum_redop_t op, int nranks, int folded, uint64_t seed);
/* out <- bytes first .. of the data that (seed, rank) names, for collectives that only move data. */
void reference_bytes(void *out, uint64_t first, uint64_t count, uint64_t seed, int rank);

/*
 * Index of the first element that differs, or count. Bit for bit, but any NaN is as good as another, and so is any zero
 * in a complex number.
 */
uint64_t reference_difference(const void *got, const void *expected, uint64_t count,
                              thrum_datatype_t dtype);

#endif
