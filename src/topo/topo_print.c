/* The host as hwloc sees it, as text or JSON. See topo.h. */
#include "topo/topo.h"

#include <hwloc.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/base.h"

static thrum_status_t load(hwloc_topology_t *topology_out)
{
    hwloc_topology_t topology;

    if (hwloc_topology_init(&topology))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "hwloc_topology_init failed");
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(topology)) {
        hwloc_topology_destroy(topology);
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "hwloc cannot load the topology");
    }
    *topology_out = topology;
    return THRUM_OK;
}

static void size_text(uint64_t bytes, char *text, size_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;

    while (unit < 4 && value >= 1024) {
        value /= 1024;
        unit++;
    }
    snprintf(text, n, value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static uint64_t object_bytes(hwloc_obj_t object)
{
    if (object->type == HWLOC_OBJ_NUMANODE)
        return object->attr->numanode.local_memory;
    if (hwloc_obj_type_is_cache(object->type))
        return object->attr->cache.size;
    return object->type == HWLOC_OBJ_MACHINE ? object->total_memory : 0;
}

/* "Package 0 (AMD EPYC)", "L3 (32 MiB)", "Core 1" */
static void object_text(hwloc_obj_t object, char *text, size_t n)
{
    char type[32], size[32];
    const char *model = hwloc_obj_get_info_by_name(object, "CPUModel");
    size_t used;

    hwloc_obj_type_snprintf(type, sizeof type, object, 0);
    snprintf(text, n, "%s", type);
    used = strlen(text);
    if (object->os_index != HWLOC_UNKNOWN_INDEX && object->type != HWLOC_OBJ_MACHINE &&
        !hwloc_obj_type_is_cache(object->type))
        snprintf(text + used, n - used, " %u", object->os_index);
    used = strlen(text);
    if (object_bytes(object)) {
        size_text(object_bytes(object), size, sizeof size);
        snprintf(text + used, n - used, " (%s)", size);
    } else if (object->type == HWLOC_OBJ_PACKAGE && model) {
        snprintf(text + used, n - used, " (%s)", model);
    }
}

/* A chain of single children goes on one line, as in lstopo. */
static void print_object(FILE *file, hwloc_obj_t object, int depth)
{
    char text[128];

    fprintf(file, "  %*s", 2 * depth, "");
    for (;;) {
        object_text(object, text, sizeof text);
        fputs(text, file);
        if (object->arity != 1 || object->memory_arity)
            break;
        fputs(", ", file);
        object = object->first_child;
    }
    fputc('\n', file);
    for (hwloc_obj_t child = object->memory_first_child; child; child = child->next_sibling)
        print_object(file, child, depth + 1);
    for (hwloc_obj_t child = object->first_child; child; child = child->next_sibling)
        print_object(file, child, depth + 1);
}

static const char *os_device_kind(hwloc_obj_t device)
{
    switch (device->attr->osdev.type) {
    case HWLOC_OBJ_OSDEV_BLOCK:
        return "storage";
    case HWLOC_OBJ_OSDEV_GPU:
        return "GPU";
    case HWLOC_OBJ_OSDEV_NETWORK:
        return "network";
    case HWLOC_OBJ_OSDEV_OPENFABRICS:
        return "RDMA";
    case HWLOC_OBJ_OSDEV_DMA:
        return "DMA";
    case HWLOC_OBJ_OSDEV_COPROC:
        return "accelerator";
    }
    return "other";
}

/* The bus address of the PCI device that an OS device is part of; "" if there is none. */
static void pci_address(hwloc_obj_t device, char *text, size_t n)
{
    hwloc_obj_t parent = device->parent;

    while (parent && parent->type == HWLOC_OBJ_OS_DEVICE)
        parent = parent->parent;
    *text = 0;
    if (parent && parent->type == HWLOC_OBJ_PCI_DEVICE) {
        const struct hwloc_pcidev_attr_s *pci = &parent->attr->pcidev;
        snprintf(text, n, "%04x:%02x:%02x.%x", pci->domain, pci->bus, pci->dev, pci->func);
    }
}

/* The NUMA node that is nearest to an I/O device; -1 if there are several. */
static int io_numa_node(hwloc_topology_t topology, hwloc_obj_t device)
{
    hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology, device);

    if (!near || !near->nodeset || hwloc_bitmap_weight(near->nodeset) != 1)
        return -1;
    return hwloc_bitmap_first(near->nodeset);
}

static void print_io(FILE *file, hwloc_topology_t topology)
{
    hwloc_obj_t device = NULL;

    while ((device = hwloc_get_next_osdev(topology, device))) {
        char address[32];

        pci_address(device, address, sizeof address);
        fprintf(file, "  %-11s %-12s %-14s NUMA node ", os_device_kind(device), device->name,
                *address ? address : "-");
        if (io_numa_node(topology, device) >= 0)
            fprintf(file, "%d\n", io_numa_node(topology, device));
        else
            fprintf(file, "-\n");
    }
}

static int count_of(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(topology, type);
    return n < 0 ? 0 : n;
}

static void print_text(FILE *file, hwloc_topology_t topology)
{
    struct utsname host;

    uname(&host);
    fprintf(file,
            "host %s: %d package(s), %d core(s), %d hardware thread(s), of which this process may "
            "use %d\n",
            host.nodename, count_of(topology, HWLOC_OBJ_PACKAGE),
            count_of(topology, HWLOC_OBJ_CORE), count_of(topology, HWLOC_OBJ_PU),
            topo_usable_cores());
    print_object(file, hwloc_get_root_obj(topology), 0);
    print_io(file, topology);
}

static json_t *object_json(hwloc_obj_t object)
{
    char type[32];
    json_t *json = json_object(), *children = json_array();

    hwloc_obj_type_snprintf(type, sizeof type, object, 0);
    json_object_set_new(json, "type", json_string(type));
    if (object->os_index != HWLOC_UNKNOWN_INDEX)
        json_object_set_new(json, "index", json_integer(object->os_index));
    if (object_bytes(object))
        json_object_set_new(json, "bytes", json_integer((json_int_t)object_bytes(object)));
    for (hwloc_obj_t child = object->memory_first_child; child; child = child->next_sibling)
        json_array_append_new(children, object_json(child));
    for (hwloc_obj_t child = object->first_child; child; child = child->next_sibling)
        json_array_append_new(children, object_json(child));
    if (json_array_size(children))
        json_object_set(json, "children", children);
    json_decref(children);
    return json;
}

static json_t *io_json(hwloc_topology_t topology)
{
    json_t *list = json_array();
    hwloc_obj_t device = NULL;

    while ((device = hwloc_get_next_osdev(topology, device))) {
        char address[32];

        pci_address(device, address, sizeof address);
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s*, s:i}", "kind", os_device_kind(device),
                                        "name", device->name, "pci", *address ? address : NULL,
                                        "numa_node", io_numa_node(topology, device)));
    }
    return list;
}

static thrum_status_t print_json(FILE *file, hwloc_topology_t topology)
{
    struct utsname host;
    json_t *json;
    int failed;

    uname(&host);
    json = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:o, s:o}", "host", host.nodename, "packages",
        count_of(topology, HWLOC_OBJ_PACKAGE), "cores", count_of(topology, HWLOC_OBJ_CORE),
        "hardware_threads", count_of(topology, HWLOC_OBJ_PU), "usable_cores", topo_usable_cores(),
        "objects", object_json(hwloc_get_root_obj(topology)), "io_devices", io_json(topology));
    failed = !json || json_dumpf(json, file, JSON_INDENT(2));
    json_decref(json);
    return failed ? thrum_fail(THRUM_ERR_NO_MEMORY, "cannot write the topology as JSON") : THRUM_OK;
}

thrum_status_t topo_print(FILE *file, bool json)
{
    hwloc_topology_t topology = NULL;
    thrum_status_t status = load(&topology);

    if (status)
        return status;
    if (json)
        status = print_json(file, topology);
    else
        print_text(file, topology);
    hwloc_topology_destroy(topology);
    return status;
}
