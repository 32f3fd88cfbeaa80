/* Inside of thrum-diagnose: what is measured (diagnose_measure.c), and what is made of it (thrum-diagnose.c). */
#ifndef TOOLS_DIAGNOSE_H
#define TOOLS_DIAGNOSE_H

#include <stdbool.h>
#include <stdint.h>

#include <thrum/thrum.h>

#include "job.h"
#include "topo/topo.h"

/* What a rank tells the others of itself. */
struct place {
    uint64_t host; /* equal on one host */
    uint64_t machine; /* the same where hosts share cores, as network namespaces do */
    char name[64]; /* the host's */
    char device[THRUM_DEVICE_NAME_MAX];
    int32_t pid;
    struct topo_cores cores;
    double copy_gbytes; /* bytes that its device copies, a second / 1e9 */
};

/* What is between two ranks; both know the same. */
struct link {
    float us; /* of 8 bytes, one way, with the wait for them; 0: not measured */
    float gbytes; /* a second / 1e9, of large messages both ways at once, all together */
};

struct diagnosis {
    struct job job;
    struct place *places; /* nranks */
    int *masks,
        nmasks; /* rank r has measured its links to r ^ masks[i], where there is such a rank */
    struct link *links; /* [rank * nmasks + i] */
};

/* From malloc, zeroed; ends the program where there is none. */
void *diagnose_memory(size_t n, size_t bytes);

/* Fills places and links: devices first, all at once, then the links, as many at once as each rank has one. Collective. */
void diagnose_measure(struct diagnosis *d);

/*
 * Measures what was remarkable again, while the other ranks rest, and keeps what is better: once for each, in the order given,
 * which is the same on all ranks. Collective.
 */
void diagnose_device_again(struct diagnosis *d, int rank);
void diagnose_link_again(struct diagnosis *d, int rank, int mask_index);

#endif
