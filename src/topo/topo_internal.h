/* Inside of topo, for its unit test. */
#ifndef TOPO_TOPO_INTERNAL_H
#define TOPO_TOPO_INTERNAL_H

#include <thrum/status.h>

/*
 * The least number of cores that the CPU quotas of `group` ("/a/b", or "" for the root) and the groups above it allow,
 * rounded up, where the control groups are mounted at `mount`. INT_MAX if there is no quota.
 */
int topo_quota_cores(const char *mount, const char *group);

/* Appends the network and RDMA ports under `sysfs` ("/sys") to the host, each kind by name. NO_MEMORY. */
struct topo_host;
thrum_status_t topo_find_ports(const char *sysfs, struct topo_host *host);

#endif
