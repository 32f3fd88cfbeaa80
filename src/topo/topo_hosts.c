/* The hosts of a job: this one as it is found, what all say about their links, and their printing. See topo.h. */
#include <hwloc.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/base.h"
#include "base/config.h"
#include "topo/topo.h"
#include "topo/topo_internal.h"

void topo_free(struct topo *topo)
{
    for (int i = 0; topo && i < topo->nhosts; i++) {
        free(topo->hosts[i].numa);
        free(topo->hosts[i].ports);
        free(topo->hosts[i].ranks);
    }
    if (topo)
        free(topo->hosts);
    free(topo);
}

/* ---- this host ---- */

static int count_of(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(topology, type);
    return n < 0 ? 0 : n;
}

static thrum_status_t find_cores(struct topo_host *host)
{
    hwloc_topology_t topology;
    thrum_status_t status = THRUM_OK;

    if (hwloc_topology_init(&topology))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "hwloc_topology_init failed");
    if (hwloc_topology_load(topology)) {
        status = thrum_fail_errno(THRUM_ERR_SYSTEM, "hwloc cannot load the topology");
        goto out;
    }
    host->packages = count_of(topology, HWLOC_OBJ_PACKAGE);
    host->cores = count_of(topology, HWLOC_OBJ_CORE);
    host->hardware_threads = count_of(topology, HWLOC_OBJ_PU);
    host->usable_cores = topo_usable_cores();
    host->nnuma = count_of(topology, HWLOC_OBJ_NUMANODE);
    host->numa = calloc((size_t)host->nnuma + 1, sizeof *host->numa);
    if (!host->numa) {
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for the NUMA nodes");
        goto out;
    }
    for (int i = 0; i < host->nnuma; i++) {
        hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
        int cores = hwloc_get_nbobjs_inside_cpuset_by_type(topology, node->cpuset, HWLOC_OBJ_CORE);

        host->numa[i] = (struct topo_numa){.index = (int)node->os_index,
                                           .cores = cores < 0 ? 0 : cores,
                                           .bytes = node->attr->numanode.local_memory};
    }
out:
    hwloc_topology_destroy(topology);
    return status;
}

thrum_status_t topo_find(struct topo **topo_out)
{
    struct topo *topo = calloc(1, sizeof *topo);
    struct utsname name;
    thrum_status_t status;

    if (topo)
        topo->hosts = calloc(1, sizeof *topo->hosts);
    if (!topo || !topo->hosts) {
        topo_free(topo);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for the topology");
    }
    topo->nhosts = 1;
    uname(&name);
    snprintf(topo->hosts[0].name, sizeof topo->hosts[0].name, "%.63s", name.nodename);
    status = find_cores(topo->hosts);
    if (!status)
        status = topo_find_ports("/sys", topo->hosts);
    if (status) {
        topo_free(topo);
        return status;
    }
    *topo_out = topo;
    return THRUM_OK;
}

thrum_status_t topo_load(struct topo **topo_out)
{
    const char *path = thrum_config_string(CFG_TOPOLOGY_FILE);

    return *path ? topo_read(path, topo_out) : topo_find(topo_out);
}

/* ---- ranks and links ---- */

int topo_ranks(const struct topo *topo)
{
    int n = 0;

    for (int h = 0; h < topo->nhosts; h++)
        n += topo->hosts[h].nranks;
    return n;
}

thrum_status_t topo_place(const struct topo *topo, int nranks, int *hosts)
{
    int placed = topo_ranks(topo);

    if (placed && placed != nranks)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "topology file %s places %d ranks, not %d",
                          topo->source, placed, nranks);
    for (int r = 0; r < nranks && !placed; r++)
        hosts[r] = (int)((int64_t)r * topo->nhosts / nranks);
    for (int h = 0; h < topo->nhosts; h++)
        for (int i = 0; i < topo->hosts[h].nranks; i++)
            hosts[topo->hosts[h].ranks[i]] = h;
    return THRUM_OK;
}

static double host_link(const struct topo_host *host)
{
    double rdma = 0, fastest = 0;

    for (int i = 0; i < host->nports; i++) {
        const struct topo_port *port = &host->ports[i];

        if (port->up && port->rdma)
            rdma += port->gbps;
        else if (port->up && port->gbps > fastest)
            fastest = port->gbps;
    }
    return (rdma > 0 ? rdma : fastest) / 8;
}

double topo_link_gbytes(const struct topo *topo)
{
    double least = 0;

    for (int h = 0; h < topo->nhosts; h++) {
        double own = host_link(&topo->hosts[h]);

        if (own > 0 && (least <= 0 || own < least))
            least = own;
    }
    return least;
}

thrum_status_t topo_own_link(double *gbytes_out)
{
    const char *path = thrum_config_string(CFG_TOPOLOGY_FILE);
    struct topo_host host = {.nports = 0};
    struct topo *topo = NULL;
    thrum_status_t status;

    if (*path) {
        status = topo_read(path, &topo);
        if (!status)
            *gbytes_out = topo_link_gbytes(topo);
        topo_free(topo);
        return status;
    }
    status = topo_find_ports("/sys", &host);
    if (!status)
        *gbytes_out = host_link(&host);
    free(host.ports);
    return status;
}

/* ---- printing ---- */

static json_t *port_json(const struct topo_port *port)
{
    return json_pack("{s:s, s:s, s:s*, s:f, s:b, s:i}", "name", port->name, "kind",
                     port->rdma ? "RDMA" : "network", "interface",
                     *port->interface ? port->interface : NULL, "gbps", port->gbps, "up",
                     (int)port->up, "numa_node", port->numa_node);
}

static json_t *host_json(const struct topo_host *host)
{
    json_t *numa = json_array(), *ports = json_array(), *ranks = json_array(), *json;

    for (int i = 0; i < host->nnuma; i++)
        json_array_append_new(numa, json_pack("{s:i, s:i, s:I}", "index", host->numa[i].index,
                                              "cores", host->numa[i].cores, "bytes",
                                              (json_int_t)host->numa[i].bytes));
    for (int i = 0; i < host->nports; i++)
        json_array_append_new(ports, port_json(&host->ports[i]));
    for (int i = 0; i < host->nranks; i++)
        json_array_append_new(ranks, json_integer(host->ranks[i]));
    json =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:o, s:o}", "name", host->name, "packages",
                  host->packages, "cores", host->cores, "hardware_threads", host->hardware_threads,
                  "usable_cores", host->usable_cores, "numa_nodes", numa, "ports", ports);
    if (host->nranks)
        json_object_set(json, "ranks", ranks);
    json_decref(ranks);
    return json;
}

static thrum_status_t write_json(const struct topo *topo, FILE *file)
{
    json_t *hosts = json_array(), *json;
    int failed;

    for (int h = 0; h < topo->nhosts; h++)
        json_array_append_new(hosts, host_json(&topo->hosts[h]));
    json = json_pack("{s:s, s:i, s:o}", "format", "thrum-topology", "version", 1, "hosts", hosts);
    failed = !json || json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) ||
             fputc('\n', file) == EOF;
    json_decref(json);
    return failed ? thrum_fail(THRUM_ERR_SYSTEM, "cannot write the topology as JSON") : THRUM_OK;
}

static void write_ranks(const struct topo_host *host, FILE *file)
{
    for (int i = 0; i < host->nranks; i++) {
        int last = i;

        while (last + 1 < host->nranks && host->ranks[last + 1] == host->ranks[last] + 1)
            last++;
        fprintf(file, i ? ",%d" : "  ranks %d", host->ranks[i]);
        if (last > i)
            fprintf(file, "-%d", host->ranks[last]);
        i = last;
    }
    if (host->nranks)
        fputc('\n', file);
}

static void write_text(const struct topo *topo, FILE *file)
{
    for (int h = 0; h < topo->nhosts; h++) {
        const struct topo_host *host = &topo->hosts[h];

        fprintf(file, "host %s: %d package(s), %d core(s), %d hardware thread(s), %d usable\n",
                host->name, host->packages, host->cores, host->hardware_threads,
                host->usable_cores);
        for (int i = 0; i < host->nnuma; i++)
            fprintf(file, "  NUMA node %d: %d core(s), %.1f GiB\n", host->numa[i].index,
                    host->numa[i].cores, (double)host->numa[i].bytes / (1 << 30));
        for (int i = 0; i < host->nports; i++) {
            const struct topo_port *port = &host->ports[i];

            fprintf(file, "  port %-14s %-8s %-5s", port->name, port->rdma ? "RDMA" : "network",
                    port->up ? "up" : "down");
            if (port->gbps > 0)
                fprintf(file, " %g Gb/s", port->gbps);
            if (port->numa_node >= 0)
                fprintf(file, " NUMA node %d", port->numa_node);
            fprintf(file, *port->interface ? " interface %s\n" : "\n", port->interface);
        }
        write_ranks(host, file);
    }
}

thrum_status_t topo_write(const struct topo *topo, FILE *file, bool json)
{
    if (json)
        return write_json(topo, file);
    write_text(topo, file);
    return ferror(file) ? thrum_fail(THRUM_ERR_SYSTEM, "cannot write the topology") : THRUM_OK;
}
