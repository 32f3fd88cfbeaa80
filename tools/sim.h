/* Inside of thrum-sim. */
#ifndef TOOLS_SIM_H
#define TOOLS_SIM_H

#include <stdio.h>

#include "plan/simulate.h"

/* sim_timeline.c: writes slices as trace events, which ui.perfetto.dev shows: a process for each rank and host. */
struct timeline {
    FILE *out;
    int nranks;
    bool *shown; /* ranks; owned */
    uint32_t *threads; /* by processes: those in use, a bit for each; owned */
    const char *between;
};

/* Shows `most` ranks, the first and the last of them, and `slowest`; host[r]. False: no memory. */
bool timeline_begin(struct timeline *timeline, FILE *out, const char *title, int nranks,
                    const int *host, int most, int slowest);
void timeline_slice(void *timeline, const struct simulate_slice *slice); /* a simulate_slice_fn */
void timeline_end(struct timeline *timeline);

#endif
