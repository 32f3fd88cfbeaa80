/* thrum-info: the devices. See info.h. */
#include "info.h"

#include <stdlib.h>
#include <string.h>

#include <thrum/device.h>
#include <thrum/thrum.h>

#include "base/config.h"

enum { FIRST_FEW = 8 };

/* What opening a device told. It is held no longer than that takes. */
struct probe {
    thrum_status_t status; /* of the open */
    struct thrum_device_properties properties;
};

static thrum_status_t probe(int index, struct probe *out)
{
    thrum_device_t device;

    memset(out, 0, sizeof *out);
    out->status = thrum_device_open(index, &device);
    if (out->status)
        return out->status;
    out->properties.size = sizeof out->properties;
    out->status = thrum_device_get_properties(device, &out->properties);
    thrum_device_close(device);
    return out->status;
}

/* Alike but for name and index. */
static bool alike(const struct probe *a, const struct probe *b)
{
    struct probe x = *a, y = *b;

    memset(x.properties.name, 0, sizeof x.properties.name);
    memset(y.properties.name, 0, sizeof y.properties.name);
    x.properties.index = y.properties.index = 0;
    return !memcmp(&x, &y, sizeof x);
}

static const char *state_text(const struct probe *p)
{
    return p->status == THRUM_OK         ? "free"
           : p->status == THRUM_ERR_BUSY ? "in use"
                                         : thrum_status_name(p->status);
}

static const struct {
    uint64_t bit;
    const char *name;
} capabilities[] = {
    {THRUM_CAP_LOAD_STORE, "load-store"},
    {THRUM_CAP_INDIRECT, "indirect"},
    {THRUM_CAP_DIRECT_SUBMIT, "direct-submit"},
    {THRUM_CAP_MULTICAST, "multicast"},
    {THRUM_CAP_HOST_CALLBACK, "host-callback"},
    {THRUM_CAP_NATIVE_FABRIC, "native-fabric"},
    {THRUM_CAP_EXCLUSIVE, "exclusive"},
    {THRUM_CAP_INLINE_LINE, "inline-line"},
    {THRUM_CAP_REDUCE_CALLBACK, "reduce-callback"},
    {THRUM_CAP_SCALE, "scale"},
    {THRUM_CAP_WIDE, "wide"},
    {THRUM_CAP_PAGEABLE, "pageable"},
};
enum { CAPABILITIES = sizeof capabilities / sizeof *capabilities };

static json_t *capability_names(uint64_t bits)
{
    json_t *list = json_array();

    for (int i = 0; i < CAPABILITIES; i++) {
        if (bits & capabilities[i].bit)
            json_array_append_new(list, json_string(capabilities[i].name));
    }
    return list;
}

static json_t *type_names(uint64_t bits)
{
    json_t *list = json_array();

    for (int i = 0; i < THRUM_DATATYPE_COUNT; i++) {
        if (bits >> i & 1)
            json_array_append_new(list, json_string(thrum_datatype_name((thrum_datatype_t)i)));
    }
    return list;
}

static json_t *op_names(uint64_t bits)
{
    json_t *list = json_array();

    for (int i = 0; i < THRUM_REDOP_COUNT; i++) {
        if (bits >> i & 1)
            json_array_append_new(list, json_string(thrum_redop_name((thrum_redop_t)i)));
    }
    return list;
}

/* "label   one two three", in lines of a readable length. */
static void print_list(const char *label, json_t *names)
{
    enum { INDENT = 22, WIDTH = 98 };
    int column = printf("    %-*s", INDENT - 5, label);
    size_t i;
    json_t *name;

    json_array_foreach(names, i, name)
    {
        const char *text = json_string_value(name);
        if (column + 1 + (int)strlen(text) > WIDTH) {
            printf("\n");
            column = printf("%*s", INDENT - 1, "");
        }
        column += printf(" %s", text);
    }
    if (json_array_size(names) == 0)
        printf(" none");
    printf("\n");
    json_decref(names);
}

static void print_properties(const struct thrum_device_properties *p)
{
    char total[24], available[24];

    printf("    %-18s%s, of which free %s\n", "memory", info_bytes(p->memory_bytes, total),
           info_bytes(p->memory_free_bytes, available));
    printf("    %-18s%u DMA, %u reduce, %u port%s\n", "engines", p->engines_dma, p->engines_reduce,
           p->ports, p->ports == 1 ? "" : "s");
    printf("    %-18s%u bits\n", "semaphores", p->semaphore_bits);
    if (p->numa_node >= 0)
        printf("    %-18s%d\n", "NUMA node", p->numa_node);
    else
        printf("    %-18sunknown\n", "NUMA node");
    printf("    %-18s%u\n", "generation", p->generation);
    print_list("capabilities", capability_names(p->capabilities));
    printf("    %-18sup to %u sources at once\n", "reductions", p->max_reduce_sources);
    print_list("", op_names(p->reduce_ops));
    print_list("types", type_names(p->reduce_types));
}

/* Devices first .. last, which are alike. */
static void print_group(const struct probe *probes, int first, int last)
{
    const struct probe *p = &probes[first];
    char name[2 * THRUM_DEVICE_NAME_MAX + 8], plugin[32];

    snprintf(plugin, sizeof plugin, "%s", thrum_config_string(CFG_DEVICE));
    if (p->status)
        snprintf(name, sizeof name, first == last ? "%s%d" : "%s%d to %s%d", plugin, first, plugin,
                 last);
    else
        snprintf(name, sizeof name, first == last ? "%s" : "%s to %s", p->properties.name,
                 probes[last].properties.name);
    printf("  %s: %s\n", name, state_text(p));
    if (p->status == THRUM_OK)
        print_properties(&p->properties);
}

static json_t *probe_json(const struct probe *p, int index)
{
    const struct thrum_device_properties *d = &p->properties;
    json_t *json = json_pack("{s:i, s:s, s:s}", "index", index, "plugin",
                             thrum_config_string(CFG_DEVICE), "state", state_text(p));

    if (p->status)
        return json;
    json_object_set_new(json, "name", json_string(d->name));
    json_object_set_new(json, "generation", json_integer(d->generation));
    json_object_set_new(json, "memory_bytes", json_integer((json_int_t)d->memory_bytes));
    json_object_set_new(json, "memory_free_bytes", json_integer((json_int_t)d->memory_free_bytes));
    json_object_set_new(json, "engines_dma", json_integer(d->engines_dma));
    json_object_set_new(json, "engines_reduce", json_integer(d->engines_reduce));
    json_object_set_new(json, "ports", json_integer(d->ports));
    json_object_set_new(json, "semaphore_bits", json_integer(d->semaphore_bits));
    json_object_set_new(json, "numa_node", json_integer(d->numa_node));
    json_object_set_new(json, "max_reduce_sources", json_integer(d->max_reduce_sources));
    json_object_set_new(json, "capabilities", capability_names(d->capabilities));
    json_object_set_new(json, "reduce_types", type_names(d->reduce_types));
    json_object_set_new(json, "reduce_ops", op_names(d->reduce_ops));
    return json;
}

int info_devices(bool all, bool json, json_t **json_out)
{
    struct probe *probes;
    int n, shown, first = 0;
    thrum_status_t status = thrum_device_count(&n);

    if (status)
        return info_fail("devices", status);
    shown = all || n < FIRST_FEW ? n : FIRST_FEW;
    probes = calloc((size_t)shown + 1, sizeof *probes);
    if (!probes)
        return info_fail("devices", THRUM_ERR_NO_MEMORY);
    for (int i = 0; i < shown; i++)
        (void)probe(i, &probes[i]); /* a refusal is part of the answer */

    if (json) {
        *json_out = json_array();
        for (int i = 0; i < shown; i++)
            json_array_append_new(*json_out, probe_json(&probes[i], i));
    } else {
        printf("devices: %d of plugin %s\n", n, thrum_config_string(CFG_DEVICE));
        for (int i = 0; i < shown; i++) {
            if (i + 1 < shown && alike(&probes[first], &probes[i + 1]))
                continue;
            print_group(probes, first, i);
            first = i + 1;
        }
        if (shown < n)
            printf("  and %d more; --all looks at each of them\n", n - shown);
    }
    free(probes);
    return 0;
}
