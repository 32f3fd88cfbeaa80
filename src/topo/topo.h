/*
 * topo: what is known of this host. comm asks how many cores there are to share; thrum-info shows the rest, which hwloc
 * finds out (tens of milliseconds).
 */
#ifndef TOPO_TOPO_H
#define TOPO_TOPO_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <thrum/status.h>

/*
 * Cores that this process may use: the smaller of its affinity and its control groups' CPU quota, rounded up; at least
 * 1. A few system calls; any thread.
 */
int topo_usable_cores(void);

/* Which cores a process may use, so that processes of a host can find out who shares them. */
struct topo_cores {
    uint64_t set; /* equal for equal sets of cores */
    int affinity; /* how many are in the set */
    int quota; /* how many the control groups' quota amounts to, whichever they are; INT_MAX: no quota */
};
/* A few system calls; any thread. */
void topo_get_cores(struct topo_cores *cores_out);

/*
 * How many processes take turns on a core, where `sharers` (this one among them) may use the same set of cores and
 * `local` are on the host: 1 or more.
 */
int topo_share_of_core(const struct topo_cores *cores, int sharers, int local);

/*
 * Prints packages, NUMA nodes, caches, cores and I/O devices: as a tree, or as one JSON object. Errors: SYSTEM (hwloc
 * cannot load), NO_MEMORY.
 */
thrum_status_t topo_print(FILE *file, bool json);

#endif
