/*
 * RDMA devices and their ports: what there is, which can serve and why the others cannot, the choice of GIDs, and the
 * settings of this fabric. Called by verbs.c for enumerate, open and close.
 */
#include "verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOUND_MAX 64

/* A port, judged. */
struct found {
    int index; /* of its device in libibverbs' list */
    bool usable; /* and else `why` says what stands against it */
    bool active, has_dmabuf;
    uint8_t number, gid_index, prefix;
    char name[IBV_SYSFS_NAME_MAX + 8], device[IBV_SYSFS_NAME_MAX], address[48], why[112];
    union ibv_gid gid;
    struct ibv_port_attr attr;
};

struct found_list {
    struct ibv_device **devices;
    size_t n;
    struct found ports[FOUND_MAX];
};

/* ---- settings ---- */

static uint64_t number_of(const char *variable)
{
    return strtoull(thrum_plugin_config(variable), NULL, 0);
}

static enum ibv_mtu mtu_of(uint64_t bytes)
{
    enum ibv_mtu mtu = IBV_MTU_256;

    while (mtu < IBV_MTU_4096 && 128ull << mtu < bytes)
        mtu++;
    return mtu;
}

thrum_status_t verbs_settings_read(struct verbs_settings *out)
{
    const char *gid = thrum_plugin_config("THRUM_VERBS_GID");
    struct verbs_settings settings = {.gid_index = -1};
    char *end;

    if (!strcmp(gid, "ipv4")) {
        settings.family = 4;
    } else if (!strcmp(gid, "ipv6")) {
        settings.family = 6;
    } else if (*gid && strcmp(gid, "auto") != 0) {
        unsigned long index = strtoul(gid, &end, 10);
        if (*end || index > 255)
            return thrum_plugin_fail(
                THRUM_ERR_INVALID_CONFIG,
                "THRUM_VERBS_GID=\"%.40s\" is not auto, ipv4, ipv6 or an index of 0 to 255", gid);
        settings.gid_index = (int)index;
    }
    settings.mtu = (enum ibv_mtu)0;
    if (number_of("THRUM_VERBS_MTU"))
        settings.mtu = mtu_of(number_of("THRUM_VERBS_MTU"));
    settings.traffic_class = (uint8_t)number_of("THRUM_VERBS_TRAFFIC_CLASS");
    settings.timeout = (uint8_t)number_of("THRUM_VERBS_TIMEOUT");
    settings.retries = (uint8_t)number_of("THRUM_VERBS_RETRY");
    settings.qps = (uint8_t)number_of("THRUM_VERBS_QPS");
    settings.stripe_bytes = number_of("THRUM_VERBS_STRIPE_BYTES");
    /* An operation shall still say which port it was, not only that its time is over. */
    settings.recovery_ns =
        (int64_t)min_u64(number_of("THRUM_VERBS_RECOVERY_MS"), number_of("THRUM_DEADLINE_MS") / 2) *
        1000000;
    *out = settings;
    return THRUM_OK;
}

/* ---- GIDs ---- */

static bool is_ipv4(const uint8_t gid[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    return !memcmp(gid, mapped, sizeof mapped);
}

static bool is_link_local(const uint8_t gid[16])
{
    return gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80;
}

void verbs_gid_text(const uint8_t gid[16], char text[48])
{
    if (is_ipv4(gid))
        inet_ntop(AF_INET, gid + 12, text, 48);
    else
        inet_ntop(AF_INET6, gid, text, 48);
}

/* Length of the prefix of the network in which this host has that address; 0: unknown. */
static uint8_t prefix_of(const uint8_t gid[16])
{
    struct ifaddrs *list = NULL;
    uint8_t prefix = 0;

    if (is_link_local(gid) || getifaddrs(&list))
        return 0;
    for (const struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        const uint8_t *address = NULL, *mask = NULL;
        size_t bytes = 0, skip = 0;

        if (!entry->ifa_addr || !entry->ifa_netmask)
            continue;
        if (entry->ifa_addr->sa_family == AF_INET && is_ipv4(gid)) {
            address = (const uint8_t *)&((const struct sockaddr_in *)(const void *)entry->ifa_addr)
                          ->sin_addr;
            mask = (const uint8_t *)&((const struct sockaddr_in *)(const void *)entry->ifa_netmask)
                       ->sin_addr;
            bytes = 4;
            skip = 12;
        } else if (entry->ifa_addr->sa_family == AF_INET6) {
            address = (const uint8_t *)&((const struct sockaddr_in6 *)(const void *)entry->ifa_addr)
                          ->sin6_addr;
            mask = (const uint8_t *)&((const struct sockaddr_in6 *)(const void *)entry->ifa_netmask)
                       ->sin6_addr;
            bytes = 16;
        }
        if (!bytes || memcmp(address, gid + skip, bytes) != 0)
            continue;
        prefix = (uint8_t)(8 * skip);
        for (size_t i = 0; i < bytes; i++)
            prefix = (uint8_t)(prefix + __builtin_popcount(mask[i]));
    }
    freeifaddrs(list);
    return prefix;
}

/* Less is better; -1: does not serve. */
static int rank_gid(const struct ibv_gid_entry *entry, const struct verbs_settings *settings)
{
    bool ipv4 = is_ipv4(entry->gid.raw);

    if (settings->gid_index >= 0)
        return (int)entry->gid_index == settings->gid_index ? 0 : -1;
    if (entry->gid_type == IBV_GID_TYPE_ROCE_V1)
        return -1;
    if (entry->gid_type == IBV_GID_TYPE_IB)
        return (int)entry->gid_index;
    if (settings->family && (settings->family == 4) != ipv4)
        return -1;
    return (ipv4 ? 0 : is_link_local(entry->gid.raw) ? 20000 : 10000) + (int)entry->gid_index;
}

static void choose_gid(struct ibv_context *context, const struct verbs_settings *settings,
                       struct found *port)
{
    int best = -1;

    for (int i = 0; i < port->attr.gid_tbl_len && i < 256; i++) {
        struct ibv_gid_entry entry = {0};
        int rank;

        if (ibv_query_gid_ex(context, port->number, (uint32_t)i, &entry, 0))
            continue;
        rank = rank_gid(&entry, settings);
        if (rank < 0 || (best >= 0 && rank >= best))
            continue;
        best = rank;
        port->gid = entry.gid;
        port->gid_index = (uint8_t)i;
    }
    if (best < 0) {
        snprintf(port->why, sizeof port->why, "no GID of RoCE v2 that fits THRUM_VERBS_GID=%.20s",
                 thrum_plugin_config("THRUM_VERBS_GID"));
        return;
    }
    port->usable = true;
    port->prefix = prefix_of(port->gid.raw);
    verbs_gid_text(port->gid.raw, port->address);
}

/* ---- looking ---- */

/* A driver that has no dmabuf says so before it looks at the descriptor. */
static bool has_dmabuf(struct ibv_pd *pd)
{
    struct ibv_mr *mr = ibv_reg_dmabuf_mr(pd, 0, 4096, 0, -1, IBV_ACCESS_LOCAL_WRITE);

    if (mr)
        ibv_dereg_mr(mr);
    return mr || errno == EBADF;
}

static void judge(struct ibv_context *context, const struct verbs_settings *settings,
                  struct found *port)
{
    const struct ibv_port_attr *attr = &port->attr;

    if (ibv_query_port(context, port->number, &port->attr)) {
        snprintf(port->why, sizeof port->why, "cannot be asked: %s", strerror(errno));
        return;
    }
    port->active = attr->state == IBV_PORT_ACTIVE;
    if (context->device->transport_type != IBV_TRANSPORT_IB)
        snprintf(port->why, sizeof port->why, "iWARP or another transport, not InfiniBand's");
    else
        choose_gid(context, settings, port);
}

static struct found *add_found(struct found_list *list, int index, int number)
{
    const char *name = ibv_get_device_name(list->devices[index]);
    struct found *port;

    if (list->n == FOUND_MAX)
        return NULL;
    port = &list->ports[list->n++];
    port->index = index;
    port->number = (uint8_t)number;
    snprintf(port->device, sizeof port->device, "%s", name);
    snprintf(port->name, sizeof port->name, "%.*s/%d", IBV_SYSFS_NAME_MAX - 1, name, number & 255);
    return port;
}

static void look_at_device(struct found_list *list, int index,
                           const struct verbs_settings *settings)
{
    struct ibv_context *context = ibv_open_device(list->devices[index]);
    struct ibv_pd *pd = context ? ibv_alloc_pd(context) : NULL;
    bool dmabuf = pd && has_dmabuf(pd);
    struct ibv_device_attr attr = {0};
    struct found *port;

    if (pd)
        ibv_dealloc_pd(pd);
    if (!context || ibv_query_device(context, &attr)) {
        port = add_found(list, index, 1);
        if (port)
            snprintf(port->why, sizeof port->why, "cannot be opened: %s (/dev/infiniband)",
                     strerror(errno));
    }
    for (int n = 1; n <= attr.phys_port_cnt; n++) {
        port = add_found(list, index, n);
        if (!port)
            break;
        port->has_dmabuf = dmabuf;
        judge(context, settings, port);
        if (port->usable && (!attr.max_qp_rd_atom || !attr.max_qp_init_rd_atom)) {
            snprintf(port->why, sizeof port->why, "has no RDMA reads");
            port->usable = false;
        }
    }
    if (context)
        ibv_close_device(context);
}

/* No device is no error here. */
static struct found_list *look(const struct verbs_settings *settings)
{
    struct found_list *list = calloc(1, sizeof *list);
    int n = 0;

    if (!list)
        return NULL;
    /* a process that forks (a data loader) keeps its registered pages; from Linux 5.12 on nothing is to be done */
    if (ibv_is_fork_initialized() == IBV_FORK_DISABLED && ibv_fork_init())
        thrum_plugin_log(THRUM_LOG_WARN, "verbs: a fork may take registered memory from this "
                                         "process: ibv_fork_init has failed");
    list->devices = ibv_get_device_list(&n);
    for (int i = 0; list->devices && i < n; i++)
        look_at_device(list, i, settings);
    return list;
}

static void free_list(struct found_list *list)
{
    if (list->devices)
        ibv_free_device_list(list->devices);
    free(list);
}

static const char no_device[] = "no RDMA device: /sys/class/infiniband is empty or the module "
                                "ib_uverbs is not loaded (`rdma link` shows them)";

static double gigabytes_per_second(const struct ibv_port_attr *attr)
{
    static const double lane_gbits[] = {2.5, 5, 10, 10, 14, 25, 50, 100};
    double lanes = attr->active_width == 1    ? 1
                   : attr->active_width == 16 ? 2
                   : attr->active_width == 2  ? 4
                   : attr->active_width == 4  ? 8
                                              : 12;
    unsigned bit = attr->active_speed ? (unsigned)__builtin_ctz(attr->active_speed) : 0;

    if (!attr->active_speed || bit >= sizeof lane_gbits / sizeof *lane_gbits)
        return 0;
    return lanes * lane_gbits[bit] / 8;
}

static void describe(const struct found *port, struct thrum_fabric_info *out)
{
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%.63s", port->name);
    out->usable = port->usable;
    out->bandwidth_gbps = gigabytes_per_second(&port->attr);
    out->max_inline_bytes = VERBS_INLINE_BYTES;
    if (port->usable)
        snprintf(out->detail, sizeof out->detail, "%s: %s, GID %d, MTU %d, %s%s", port->address,
                 port->attr.link_layer == IBV_LINK_LAYER_ETHERNET ? "RoCE v2" : "InfiniBand",
                 port->gid_index, 128 << port->attr.active_mtu,
                 port->has_dmabuf ? "dmabuf" : "no dmabuf",
                 port->active ? "" : "; down now: taken only if named");
    else
        snprintf(out->detail, sizeof out->detail, "%s", port->why);
}

thrum_status_t verbs_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    struct verbs_settings settings;
    struct found_list *list;
    thrum_status_t status = verbs_settings_read(&settings);

    if (status)
        return status;
    list = look(&settings);
    if (!list)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for a list of devices");
    for (size_t i = 0; i < list->n && i < max; i++)
        describe(&list->ports[i], &info_out[i]);
    *n_out = list->n;
    if (!list->n) {
        if (max) {
            memset(info_out, 0, sizeof *info_out);
            snprintf(info_out->name, sizeof info_out->name, "none");
            snprintf(info_out->detail, sizeof info_out->detail, "%s", no_device);
        }
        *n_out = 1;
    }
    free_list(list);
    return THRUM_OK;
}

/* ---- choosing ---- */

/* Whether the comma-separated list has the port, by device or by device/number. */
static bool is_named(const struct found *port, const char *names)
{
    while (*names) {
        size_t length = strcspn(names, ",");
        if ((strlen(port->name) == length && !strncmp(port->name, names, length)) ||
            (strlen(port->device) == length && !strncmp(port->device, names, length)))
            return true;
        names += length + (names[length] == ',');
    }
    return false;
}

static thrum_status_t fail_choice(const struct found_list *list, const char *names)
{
    char looked[300] = "";

    for (size_t i = 0; i < list->n; i++) {
        const struct found *port = &list->ports[i];
        size_t used = strlen(looked);
        snprintf(looked + used, sizeof looked - used, "%s%s (%s)", used ? ", " : "", port->name,
                 !port->usable  ? port->why
                 : port->active ? port->address
                                : "down");
    }
    if (!list->n)
        return thrum_plugin_fail(THRUM_ERR_NO_DEVICE, "fabric verbs: %s", no_device);
    return thrum_plugin_fail(THRUM_ERR_NO_DEVICE,
                             "fabric verbs: no usable port%s%.80s%s; looked at: %s",
                             names ? " called \"" : "", names ? names : "",
                             names ? "\" (THRUM_FABRIC_DEVICE)" : "", looked);
}

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static bool has_paging(struct ibv_context *context)
{
    const uint32_t needed = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
    struct ibv_device_attr_ex attr = {0};

    return !ibv_query_device_ex(context, NULL, &attr) &&
           attr.odp_caps.general_caps & IBV_ODP_SUPPORT &&
           (attr.odp_caps.per_transport_caps.rc_odp_caps & needed) == needed;
}

static thrum_status_t open_device(struct verbs_endpoint *endpoint, struct ibv_device *found,
                                  struct verbs_device **device_out)
{
    struct ibv_device_attr attr;
    struct verbs_device *device;

    for (unsigned i = 0; i < endpoint->ndevices; i++) {
        if (endpoint->devices[i].context->device == found) {
            *device_out = &endpoint->devices[i];
            return THRUM_OK;
        }
    }
    device = &endpoint->devices[endpoint->ndevices];
    device->context = ibv_open_device(found);
    if (!device->context)
        return verbs_fail(errno, "verbs: cannot open %s", ibv_get_device_name(found));
    endpoint->ndevices++;
    if (ibv_query_device(device->context, &attr))
        return verbs_fail(errno, "verbs: cannot ask %s what it has", ibv_get_device_name(found));
    set_nonblocking(device->context->async_fd);
    device->pd = ibv_alloc_pd(device->context);
    if (!device->pd)
        return verbs_fail(errno, "verbs: %s: no protection domain", ibv_get_device_name(found));
    device->passive_cq = ibv_create_cq(device->context, 16, NULL, NULL, 0);
    if (!device->passive_cq)
        return verbs_fail(errno, "verbs: %s: no completion queue", ibv_get_device_name(found));
    device->reads = (uint8_t)min_u64((uint64_t)attr.max_qp_init_rd_atom, VERBS_READS);
    device->served_reads = (uint8_t)min_u64((uint64_t)attr.max_qp_rd_atom, VERBS_READS);
    device->has_dmabuf = has_dmabuf(device->pd);
    device->has_paging = has_paging(device->context);
    *device_out = device;
    return THRUM_OK;
}

static thrum_status_t open_port(struct verbs_endpoint *endpoint, struct ibv_device *device,
                                const struct found *found)
{
    struct verbs_port *port = &endpoint->ports[endpoint->nports];
    enum ibv_mtu limit = endpoint->settings.mtu;
    thrum_status_t status = open_device(endpoint, device, &port->device);

    if (status)
        return status;
    memcpy(port->name, found->name, sizeof port->name);
    memcpy(port->address, found->address, sizeof port->address);
    port->number = found->number;
    port->gid_index = found->gid_index;
    port->gid = found->gid;
    port->prefix = found->prefix;
    port->link_layer = found->attr.link_layer;
    port->lid = found->attr.lid;
    port->mtu = found->attr.active_mtu;
    if (limit && limit < port->mtu)
        port->mtu = limit;
    port->max_message = found->attr.max_msg_sz;
    atomic_store(&port->up, found->active);
    endpoint->nports++;
    return THRUM_OK;
}

/* Named ports come in the order of their names, so that the n-th of one host meets the n-th of another. */
static thrum_status_t open_all(struct verbs_endpoint *endpoint, const struct found_list *list,
                               const char *names)
{
    thrum_status_t status = THRUM_OK;

    while (names && *names && !status) {
        char name[IBV_SYSFS_NAME_MAX + 8];
        unsigned before = endpoint->nports;

        snprintf(name, sizeof name, "%.*s", (int)strcspn(names, ","), names);
        names += strcspn(names, ",");
        names += *names == ',';
        for (size_t i = 0; i < list->n && !status && endpoint->nports < VERBS_PORTS; i++)
            if (list->ports[i].usable && is_named(&list->ports[i], name))
                status = open_port(endpoint, list->devices[list->ports[i].index], &list->ports[i]);
        if (!status && endpoint->nports == before && before < VERBS_PORTS)
            status = fail_choice(list, name);
    }
    for (size_t i = 0; !names && i < list->n && !status && endpoint->nports < VERBS_PORTS; i++)
        if (list->ports[i].usable && list->ports[i].active)
            status = open_port(endpoint, list->devices[list->ports[i].index], &list->ports[i]);
    return status;
}

thrum_status_t verbs_ports_open(struct verbs_endpoint *endpoint, const char *names)
{
    struct found_list *list = look(&endpoint->settings);
    thrum_status_t status;

    if (!list)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "verbs: no memory for a list of devices");
    status = open_all(endpoint, list, names);
    if (!status && !endpoint->nports)
        status = fail_choice(list, names);
    free_list(list);
    return status;
}

void verbs_ports_close(struct verbs_endpoint *endpoint)
{
    for (unsigned i = 0; i < endpoint->ndevices; i++) {
        struct verbs_device *device = &endpoint->devices[i];
        if (device->passive_cq)
            ibv_destroy_cq(device->passive_cq);
        if (device->pd)
            ibv_dealloc_pd(device->pd);
        ibv_close_device(device->context);
    }
}
