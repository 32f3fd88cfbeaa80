/*
 * oracle: runs the plans of all ranks on real numbers, in a random interleaving, element by element, with PUTs and
 * SIGNALs that arrive late. Knows nothing of the checker: what the checker accepts must never go wrong here.
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include "plan/plan.h"

#define ORACLE_LINE_BYTES 256 /* what a line carries here, at most */

enum oracle_verdict { ORACLE_RIGHT, ORACLE_WRONG, ORACLE_STUCK };

/* Plans of uint64 elements, op sum or avg; not SENDRECV. Scratch of each rank is params.scratch_bytes. */
enum oracle_verdict oracle_run(const struct plan *plans, int nranks, int rounds, uint64_t seed);

#endif
