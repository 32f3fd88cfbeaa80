/*
 * Pieces of a large message, and the semaphores between them, shared by the algorithms named "pieces". Raise k + 1 of a
 * rank says something about its piece k, in an order that all ranks know.
 */
#ifndef ALGO_PIECES_H
#define ALGO_PIECES_H

#include "algo/build.h"

#define ALGO_PIECES_AHEAD 2 /* pieces that a rank offers before it needs one of its peers */

struct algo_pieces {
    uint64_t elem, count, n; /* bytes of an element, elements of a piece, pieces */
};

/* Pieces of count elements, count > 0: of a size of which some fit a core's second cache, but not too many. */
struct algo_pieces algo_cut(const struct plan_params *params, uint64_t count);

/* Elements of piece k of `count` elements; 0 beyond the end. */
uint64_t algo_piece_elems(const struct algo_pieces *p, uint64_t count, uint64_t k);

/* Raises to, and waits for, all other ranks. */
void algo_raise_all(struct plan *plan, uint64_t value);
void algo_await_all(struct plan *plan, uint64_t value);

#endif
