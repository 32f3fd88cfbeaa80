/*
 * THRUM_FABRIC=auto between hosts: verbs, if every rank has a port in a network with a port of every other; else ofi, if
 * on every rank libfabric has a provider with RDMA where verbs has none, or somebody has made settings of ofi; else tcp.
 * Each rank offers what it has, all exchange that, and all come to the same answer by what was exchanged alone. Called by
 * exchange.c and comm.c.
 */
#include "comm/comm.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "fabric/fabric.h"

#define OFFERED "verbs"

/* What a rank has to say of the fabric ofi. */
enum { OFI_NO, OFI_RDMA, OFI_WANTED };

static bool has_entries(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;

    while (folder && (entry = readdir(folder)) && entry->d_name[0] == '.')
        ;
    if (folder)
        closedir(folder);
    return entry != NULL;
}

/* Whether libfabric has a provider of these devices; those over sockets are no better than the fabric tcp. */
static bool ofi_has_rdma(void)
{
    static const char *const others[] = {"tcp", "net", "sockets", "udp", "shm"};
    const struct thrum_fabric_ops *fabric;
    struct thrum_fabric_info infos[64];
    bool found = false;
    size_t n = 0;

    if (fabric_plugin_load("ofi", &fabric) || fabric->enumerate(infos, 64, &n))
        return false;
    for (size_t i = 0; i < n && i < 64 && !found; i++) {
        size_t length = strcspn(infos[i].name, ";/"), k = 0;
        while (k < sizeof others / sizeof *others &&
               (strlen(others[k]) != length || strncmp(infos[i].name, others[k], length) != 0))
            k++;
        found = infos[i].usable && !infos[i].same_host_only && k == sizeof others / sizeof *others;
    }
    return found;
}

void comm_offer_make(struct thrum_comm *comm, struct comm_offer *mine)
{
    /* Without such devices there is no need to load the plugins and their libraries. */
    bool rdma = has_entries("/sys/class/infiniband");
    const struct thrum_fabric_ops *fabric;
    void *endpoint;

    mine->ofi = OFI_NO;
    if (thrum_config_is_set(CFG_OFI_PROVIDER) || thrum_config_is_set(CFG_OFI_INTERFACE) ||
        thrum_config_is_set(CFG_OFI_ORDER))
        mine->ofi = OFI_WANTED;
    if (mine->ofi == OFI_WANTED)
        snprintf(mine->why, sizeof mine->why, "settings of ofi are made (THRUM_OFI_*)");
    else if (!rdma)
        snprintf(mine->why, sizeof mine->why, "it has no RDMA device");
    else if (comm_endpoint_get(comm->device, OFFERED, &comm->offered_endpoint, &fabric, &endpoint,
                               &mine->address))
        snprintf(mine->why, sizeof mine->why, "%s", thrum_last_error());
    else
        mine->made = 1;
    /* Starting libfabric takes time, and where verbs has a port it has no better way to it. */
    if (mine->ofi == OFI_NO && !mine->made && (rdma || has_entries("/sys/class/cxi")) &&
        ofi_has_rdma())
        mine->ofi = OFI_RDMA;
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
    bool all_ofi = true, wanted = false;
    char why[256] = "";

    for (int r = 0; r < comm->nranks; r++) {
        all_ofi &= offers[r].ofi != OFI_NO;
        wanted |= offers[r].ofi == OFI_WANTED;
    }
    if (wanted || all_ofi)
        snprintf(comm->fabric_name, sizeof comm->fabric_name, "ofi");
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
