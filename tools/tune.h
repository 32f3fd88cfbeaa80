/* Inside of thrum-tune: what is measured (tune_measure.c), and what becomes of it (thrum-tune.c). */
#ifndef TOOLS_TUNE_H
#define TOOLS_TUNE_H

#include <stdbool.h>

#include <thrum/thrum.h>

#include "job.h"
#include "select/select.h"

/* One rank's side of the program. */
struct tune {
    struct job job;
    int share; /* ranks that take turns on a core, at most */
    bool quick;
    bool peer_access;
    bool hosts; /* each rank is on a host of its own: what is put goes between hosts */
};

/*
 * Sets the figures that this run can measure, equal on all ranks, and their bits in *given. The others are taken as
 * they are. Collective.
 */
void tune_measure(struct tune *tune, struct select_figures *figures, uint32_t *given);

#endif
