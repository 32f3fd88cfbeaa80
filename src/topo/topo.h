/*
 * topo: what is known of this host. comm asks how many cores there are to share; thrum-info shows the rest, which hwloc
 * finds out (tens of milliseconds).
 */
#ifndef TOPO_TOPO_H
#define TOPO_TOPO_H

#include <stdbool.h>
#include <stdio.h>

#include <thrum/status.h>

/*
 * Cores that this process may use: the smaller of its affinity and its control groups' CPU quota, rounded up; at least
 * 1. A few system calls; any thread.
 */
int topo_usable_cores(void);

/*
 * Prints packages, NUMA nodes, caches, cores and I/O devices: as a tree, or as one JSON object. Errors: SYSTEM (hwloc
 * cannot load), NO_MEMORY.
 */
thrum_status_t topo_print(FILE *file, bool json);

#endif
