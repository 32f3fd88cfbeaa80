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

/*
 * `host`: equal for processes that share a kernel and a network (boot id and network namespace; and THRUM_HOST_ID).
 * `machine`: for those that share the kernel, and so its cores. A few system calls; any thread.
 */
void topo_identify_host(uint64_t *host_out, uint64_t *machine_out);

/* ---- the hosts of a job: found here, or read from a file (THRUM_TOPOLOGY_FILE) ---- */

#define TOPO_NAME_BYTES 64

struct topo_numa {
    int index, cores;
    uint64_t bytes; /* of memory */
};

struct topo_port {
    char name[TOPO_NAME_BYTES]; /* "eth0", "mlx5_0/1" */
    char interface[TOPO_NAME_BYTES]; /* RDMA: its network interface; "" if there is none */
    double gbps; /* gigabits per second, each way; 0: not known */
    int numa_node; /* -1: none, or several */
    bool rdma, up;
};

struct topo_host {
    char name[TOPO_NAME_BYTES];
    int packages, cores, hardware_threads, usable_cores;
    struct topo_numa *numa;
    struct topo_port *ports;
    int *ranks; /* that run there, growing; only files say so */
    int nnuma, nports, nranks;
};

struct topo {
    struct topo_host *hosts;
    int nhosts;
    char source[256]; /* the file; "": found on this machine */
};

/* What THRUM_TOPOLOGY_FILE names, else this host. Errors: those of topo_read and topo_find. */
thrum_status_t topo_load(struct topo **topo_out);
/* This host, by hwloc and sysfs; tens of milliseconds. SYSTEM, NO_MEMORY. */
thrum_status_t topo_find(struct topo **topo_out);
/* INVALID_CONFIG: cannot be read, is damaged or contradicts itself; the message names the place. NO_MEMORY. */
thrum_status_t topo_read(const char *path, struct topo **topo_out);
/* What topo_read reads; or for people. NO_MEMORY, SYSTEM (cannot write). */
thrum_status_t topo_write(const struct topo *topo, FILE *file, bool json);
void topo_free(struct topo *topo);

/* Ranks that the file places; 0: none, so that any number is spread over the hosts, block after block. */
int topo_ranks(const struct topo *topo);
/* hosts[r] <- index of rank r's host. INVALID_CONFIG: the file places another number of ranks. */
thrum_status_t topo_place(const struct topo *topo, int nranks, int *hosts);

/*
 * What leaves the host whose way out is the slowest, in gigabytes per second: the sum of RDMA ports that are up, else
 * the fastest network interface that is. 0: not known.
 */
double topo_link_gbytes(const struct topo *topo);
/* The same of this host by sysfs alone, in microseconds; of all hosts of THRUM_TOPOLOGY_FILE where there is one. */
thrum_status_t topo_own_link(double *gbytes_out);

#endif
