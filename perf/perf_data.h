/*
 * Test data and what must come out of it, computed here on the host, apart from the library's kernels.
 *
 * Values are made so that a missing, doubled or misordered contribution shows: each is a hash of the rank, of the
 * element's index and of the run, drawn from what is exact in the type under the reduction, so that results are
 * compared bit by bit. Indices repeat after PERF_PERIOD elements, a prime, so that no displacement by a power of two
 * goes unseen and large buffers cost no more than a copy to fill and a memcmp to check.
 */
#ifndef PERF_PERF_DATA_H
#define PERF_PERF_DATA_H

#include <stddef.h>
#include <stdint.h>

#include <thrum/types.h>

enum {
    PERF_PERIOD = 65521,
    PERF_MOVE = -1, /* in place of a thrum_redop_t: data is only moved; any bits will do */
    PERF_ALL_RANKS = -1 /* in place of a rank: the reduction over all of them */
};

struct perf_pattern {
    thrum_datatype_t dtype;
    int op; /* thrum_redop_t or PERF_MOVE */
    int nranks;
    int folded; /* of PERF_ALL_RANKS only the first so many; 0: all */
    uint64_t salt; /* differs from run to run, so that old data is not taken for new */
};

/* Values of elements 0, 1, ... of one rank, or of the result, up to a whole period. */
struct perf_table {
    size_t element_bytes, n;
    thrum_datatype_t dtype; /* how elements compare: UINT8 for what is only moved */
    uint8_t *values; /* n elements, twice: any n elements of the cycle lie in one piece */
};

/* Needs the first `count` elements. Dies if there is no memory. */
void perf_table_make(struct perf_table *table, const struct perf_pattern *pattern, int rank,
                     size_t count);
void perf_table_free(struct perf_table *table);

/* Elements first, first + 1, ... of the table. */
void perf_table_copy(const struct perf_table *table, size_t first, size_t count, void *dst);
/* How many of `count` elements at `got` are not what the table has from `first` on. */
size_t perf_table_wrong(const struct perf_table *table, size_t first, size_t count,
                        const void *got);

/* Whether the reduction is defined for the type. */
int perf_op_takes(int op, thrum_datatype_t dtype);

#endif
