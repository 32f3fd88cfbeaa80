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

/* Prints nothing, measures nothing: the time of `times` copies by memcpy. */
double link_raw_copy(void *dst, const void *src, size_t bytes, int times);

#endif
