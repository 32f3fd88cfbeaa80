/* Network interfaces and RDMA ports of this host, by sysfs. Called by topo_hosts.c. */
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "topo/topo.h"
#include "topo/topo_internal.h"

/* The first line of a file; "" if it cannot be read, as of a port that is down. */
static void read_line(const char *folder, const char *name, char *text, size_t bytes)
{
    char path[PATH_MAX];
    FILE *file;

    *text = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return;
    file = fopen(path, "re");
    if (!file)
        return;
    if (!fgets(text, (int)bytes, file))
        *text = 0;
    text[strcspn(text, "\n")] = 0;
    fclose(file);
}

/* A number at the start of a file; `otherwise` if there is none. */
static double read_number(const char *folder, const char *name, double otherwise)
{
    char text[64], *end;
    double value;

    read_line(folder, name, text, sizeof text);
    value = strtod(text, &end);
    return end == text ? otherwise : value;
}

static int shown(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* A control group may keep this process from the NUMA node of a port: then hwloc does not show it. */
static bool is_shown(const struct topo_host *host, int numa_node)
{
    for (int i = 0; i < host->nnuma; i++)
        if (host->numa[i].index == numa_node)
            return true;
    return !host->nnuma; /* nobody has asked hwloc */
}

static thrum_status_t add_port(struct topo_host *host, const struct topo_port *port)
{
    size_t n = (size_t)host->nports;
    struct topo_port *more = realloc(host->ports, (n + 1) * sizeof *more);

    if (!more)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for the ports of this host");
    host->ports = more;
    more[n] = *port;
    if (!is_shown(host, port->numa_node))
        more[n].numa_node = -1;
    host->nports++;
    return THRUM_OK;
}

/* Calls `visit` for each name in a folder, in the order of names. A folder that is not there is empty. */
typedef thrum_status_t (*visit_fn)(const char *folder, const char *name, struct topo_host *host);
static thrum_status_t for_each(const char *folder, struct topo_host *host, visit_fn visit)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, shown, alphasort);
    thrum_status_t status = THRUM_OK;

    for (int i = 0; i < n; i++) {
        if (!status)
            status = visit(folder, names[i]->d_name, host);
        free(names[i]);
    }
    free(names);
    return status;
}

/*
 * Whether something stands behind an interface that has a speed: a device, at last, where interfaces lie below it, as of a bond.
 * Of others, such as the ends of a veth and a bridge of those, the kernel says a number that means nothing.
 */
static bool has_speed(const char *own)
{
    DIR *folder = opendir(own);
    struct dirent *entry;
    char below[PATH_MAX];
    bool found = false;

    while (folder && !found && (entry = readdir(folder)))
        found =
            !strcmp(entry->d_name, "device") ||
            (!strncmp(entry->d_name, "lower_", 6) &&
             (size_t)snprintf(below, sizeof below, "%s/%s", own, entry->d_name) < sizeof below &&
             has_speed(below));
    if (folder)
        closedir(folder);
    return found;
}

static thrum_status_t add_interface(const char *folder, const char *name, struct topo_host *host)
{
    struct topo_port port = {.numa_node = -1};
    char own[PATH_MAX], text[64];
    double mbps;

    if (!strcmp(name, "lo") ||
        (size_t)snprintf(own, sizeof own, "%s/%s", folder, name) >= sizeof own)
        return THRUM_OK;
    read_line(own, "operstate", text, sizeof text);
    if (!*text) /* no interface: /sys/class/net has files as well */
        return THRUM_OK;
    if ((size_t)snprintf(port.name, sizeof port.name, "%s", name) >= sizeof port.name)
        return THRUM_OK; /* none has so long a name */
    port.up = !strcmp(text, "up") || !strcmp(text, "unknown");
    mbps = has_speed(own) ? read_number(own, "speed", 0) : 0;
    port.gbps = mbps > 0 ? mbps / 1000 : 0;
    port.numa_node = (int)read_number(own, "device/numa_node", -1);
    return add_port(host, &port);
}

/* `folder` is .../infiniband/mlx5_0/ports, `name` "1". */
static thrum_status_t add_rdma_port(const char *folder, const char *name, struct topo_host *host)
{
    struct topo_port port = {.numa_node = -1, .rdma = true};
    char own[PATH_MAX], device[PATH_MAX], text[64], *slash;
    double rate;

    if ((size_t)snprintf(own, sizeof own, "%s/%s", folder, name) >= sizeof own)
        return THRUM_OK;
    snprintf(device, sizeof device, "%s", folder);
    *strrchr(device, '/') = 0;
    slash = strrchr(device, '/');
    snprintf(port.name, sizeof port.name, "%.50s/%.12s", slash + 1, name);
    read_line(own, "state", text, sizeof text); /* "4: ACTIVE" */
    port.up = strstr(text, "ACTIVE") != NULL;
    rate = read_number(own, "rate", 0); /* "100 Gb/sec (4X EDR)" */
    port.gbps = rate > 0 ? rate : 0;
    port.numa_node = (int)read_number(device, "device/numa_node", -1);
    read_line(own, "gid_attrs/ndevs/0", port.interface, sizeof port.interface);
    return add_port(host, &port);
}

static thrum_status_t add_rdma_device(const char *folder, const char *name, struct topo_host *host)
{
    char ports[PATH_MAX];

    if ((size_t)snprintf(ports, sizeof ports, "%s/%s/ports", folder, name) >= sizeof ports)
        return THRUM_OK;
    return for_each(ports, host, add_rdma_port);
}

thrum_status_t topo_find_ports(const char *sysfs, struct topo_host *host)
{
    char folder[PATH_MAX];
    thrum_status_t status;

    snprintf(folder, sizeof folder, "%s/class/net", sysfs);
    status = for_each(folder, host, add_interface);
    snprintf(folder, sizeof folder, "%s/class/infiniband", sysfs);
    return status ? status : for_each(folder, host, add_rdma_device);
}
