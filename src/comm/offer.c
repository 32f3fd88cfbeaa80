/*
 * Whether ranks on several hosts that leave the choice of a fabric to the library put through verbs: each of them opens
 * an endpoint if it can, all look at all the addresses, and so come to the same answer. Called by exchange.c and comm.c.
 */
#include "comm/comm.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "fabric/fabric.h"

#define OFFERED "verbs"

/* Without an RDMA device there is no need to load the plugin and its libraries. */
static bool has_rdma_device(void)
{
    DIR *folder = opendir("/sys/class/infiniband");
    const struct dirent *entry = NULL;

    while (folder && (entry = readdir(folder)) && entry->d_name[0] == '.')
        ;
    if (folder)
        closedir(folder);
    return entry != NULL;
}

void comm_offer_make(struct thrum_comm *comm, struct comm_offer *mine)
{
    const struct thrum_fabric_ops *fabric;
    void *endpoint;

    if (thrum_config_is_set(CFG_OFI_PROVIDER) || thrum_config_is_set(CFG_OFI_INTERFACE))
        snprintf(mine->why, sizeof mine->why, "settings of ofi are made (THRUM_OFI_*)");
    else if (!has_rdma_device())
        snprintf(mine->why, sizeof mine->why, "it has no RDMA device");
    else if (comm_endpoint_get(comm->device, OFFERED, &comm->offered_endpoint, &fabric, &endpoint,
                               &mine->address))
        snprintf(mine->why, sizeof mine->why, "%s", thrum_last_error());
    else
        mine->made = 1;
}

/* Whether the ports of all ranks lead to those of all ranks on other hosts, as far as addresses tell. */
static bool all_reach(const struct thrum_comm *comm, const struct comm_offer *offers, char *why,
                      size_t bytes)
{
    const struct thrum_fabric_ops *fabric;

    if (fabric_plugin_load(OFFERED, &fabric)) {
        snprintf(why, bytes, "%s", thrum_last_error());
        return false;
    }
    for (int r = 0; r < comm->nranks; r++)
        for (int k = 0; k < comm->nranks; k++) {
            if (comm->peers[r].host == comm->peers[k].host ||
                !fabric->reaches(&offers[r].address, &offers[k].address))
                continue;
            snprintf(why, bytes, "rank %d does not reach rank %d: %s", r, k, thrum_last_error());
            return false;
        }
    return true;
}

void comm_offer_decide(struct thrum_comm *comm, const struct comm_offer *offers)
{
    char why[256] = "";

    for (int r = 0; r < comm->nranks && !*why; r++)
        if (!offers[r].made)
            snprintf(why, sizeof why, "rank %d: %.*s", r, (int)sizeof offers[r].why - 1,
                     offers[r].why);
    if (!*why && all_reach(comm, offers, why, sizeof why))
        snprintf(comm->fabric_name, sizeof comm->fabric_name, OFFERED);
    if (comm->rank)
        return;
    if (*why)
        thrum_log(LOG_INFO, "%s: fabric %s, not " OFFERED ": %s", comm->name, comm->fabric_name,
                  why);
    else
        thrum_log(LOG_INFO,
                  "%s: fabric " OFFERED ": every rank has a port that leads to the others",
                  comm->name);
}

void comm_offer_drop(struct thrum_comm *comm)
{
    if (comm->offered_endpoint)
        comm_endpoint_put(comm->offered_endpoint);
    comm->offered_endpoint = NULL;
}
