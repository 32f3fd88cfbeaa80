/* thrum-bench-link: two processes, a socket between them, and what is measured. */
#ifndef PERF_BENCH_LINK_H
#define PERF_BENCH_LINK_H

#include <stdatomic.h>

#include "perf.h"

enum { LINK_MAX_BATCHES = 200 };

struct link_flag {
    _Atomic uint64_t value;
    uint8_t rest_of_two_lines[120]; /* neighbours are fetched in pairs */
};

/* One of the two processes: side 0 measures, side 1 answers. */
struct link_side {
    int side;
    int socket; /* to the other; it closes when that process ends */
    bool one_core; /* yield at once instead of spinning */
    struct link_flag *flags; /* [2] in a page that both have mapped */
};

/* Blocks until the other side has come to the same point; dies if it has ended. */
void link_sync(const struct link_side *link);
/* Dies if the other side has ended; does not block. */
void link_check(const struct link_side *link);
/* Swaps `bytes` with the other side; a point of meeting too. */
void link_exchange(const struct link_side *link, const void *mine, void *theirs, size_t bytes);

/* ---- the host's own limits, without the library (bench_link_raw.c) ---- */

/* One-way time of a flag between two processes over a shared page; both sides call it. Side 1's result means nothing. */
struct perf_stats link_raw_flag(const struct link_side *link, double budget_us);

/* ---- an allreduce of two without the library (bench_link_bare.c) ---- */

/* Bytes that both sides must have mapped, zeroed, for vectors of up to max_bytes. */
size_t link_bare_bytes(size_t max_bytes);

enum { LINK_BARE_LINE_BYTES = 4096 };
enum link_bare_kind {
    LINK_BARE_LINES, /* each sends its vector to the other, data and flag together; up to LINK_BARE_LINE_BYTES */
    LINK_BARE_DIRECT, /* each folds one half of both vectors into both results, between two flags */
    LINK_BARE_STREAM, /* the same past the cache */
    LINK_BARE_KINDS
};

/*
 * Time of one sum of `bytes` of float32 over both sides, by each kind; 0: cannot be done so. Both sides call it; side 1's
 * results mean nothing. Dies where a result is wrong.
 */
void link_bare_allreduce(const struct link_side *link, void *shared, size_t max_bytes, size_t bytes,
                         double budget_us, struct perf_stats us_out[LINK_BARE_KINDS]);

/* Prints nothing, measures nothing: the time of `times` copies by memcpy. */
double link_raw_copy(void *dst, const void *src, size_t bytes, int times);

#endif
