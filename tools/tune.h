/* Inside of thrum-tune: what is measured (tune_measure.c), and what becomes of it (thrum-tune.c). */
#ifndef TOOLS_TUNE_H
#define TOOLS_TUNE_H

#include <stdbool.h>

#include <thrum/thrum.h>

#include "select/select.h"

/* One rank's side of the program. */
struct tune {
    int rank, nranks;
    int share; /* ranks that take turns on a core, at most */
    bool quick;
    bool peer_access;
    bool hosts; /* each rank is on a host of its own: what is put goes between hosts */
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm; /* of all ranks */
};

/* Says what failed, and ends the program, unless the status is OK. */
void tune_check(thrum_status_t status, const char *what);

/* all[r] <- rank r's `mine`, bytes each; collective. */
void tune_gather(struct tune *tune, const void *mine, void *all, size_t bytes);

/*
 * Sets the figures that this run can measure, equal on all ranks, and their bits in *given. The others are taken as
 * they are. Collective.
 */
void tune_measure(struct tune *tune, struct select_figures *figures, uint32_t *given);

#endif
