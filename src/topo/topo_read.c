/*
 * Reads a topology file. People write them for machines that they do not have, so everything in it is checked: form,
 * ranges, and that its parts fit each other. See topo.h; docs/topology.md describes the format.
 */
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "topo/topo.h"

#define MAX_FILE_BYTES (64 << 20)
#define MAX_HOSTS 65536
#define MAX_RANKS (1 << 20)
#define MAX_PARTS 4096 /* NUMA nodes, ports of a host */

struct reader {
    const char *path;
    char place[128]; /* what is being read: "hosts[2].ports[0]" */
};

static thrum_status_t wrong(const struct reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static thrum_status_t wrong(const struct reader *r, const char *format, ...)
{
    char what[200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return thrum_fail(THRUM_ERR_INVALID_CONFIG, "topology file %s: %s%s", r->path, r->place, what);
}

static thrum_status_t no_memory(const struct reader *r)
{
    return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for topology file %s", r->path);
}

/* ---- fields ---- */

enum field_type { FIELD_INT, FIELD_REAL, FIELD_BOOL, FIELD_NAME, FIELD_PART };

struct field {
    const char *key;
    enum field_type type;
    bool required;
    double least, most;
    void *value; /* int, double, bool, char[TOPO_NAME_BYTES]; PART: json_t *, an array */
};

static thrum_status_t take(const struct reader *r, const struct field *f, json_t *value)
{
    double number = json_number_value(value);

    switch (f->type) {
    case FIELD_INT:
    case FIELD_REAL:
        if (f->type == FIELD_INT ? !json_is_integer(value) : !json_is_number(value))
            return wrong(r, ".%s is not a %snumber", f->key, f->type == FIELD_INT ? "whole " : "");
        if (!(number >= f->least && number <= f->most))
            return wrong(r, ".%s is %.15g, not from %.15g to %.15g", f->key, number, f->least,
                         f->most);
        if (f->type == FIELD_INT)
            *(int *)f->value = (int)number;
        else
            *(double *)f->value = number;
        return THRUM_OK;
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return wrong(r, ".%s is neither true nor false", f->key);
        *(bool *)f->value = json_is_true(value);
        return THRUM_OK;
    case FIELD_NAME:
        if (!json_is_string(value) || !*json_string_value(value) ||
            json_string_length(value) >= TOPO_NAME_BYTES ||
            strlen(json_string_value(value)) != json_string_length(value))
            return wrong(r, ".%s is not a text of 1 to %d bytes", f->key, TOPO_NAME_BYTES - 1);
        memcpy(f->value, json_string_value(value), json_string_length(value) + 1);
        return THRUM_OK;
    case FIELD_PART:
        if (!json_is_array(value))
            return wrong(r, ".%s is not an array", f->key);
        if ((double)json_array_size(value) < f->least || (double)json_array_size(value) > f->most)
            return wrong(r, ".%s has %zu entries, not %.0f to %.0f", f->key, json_array_size(value),
                         f->least, f->most);
        *(json_t **)f->value = value;
        return THRUM_OK;
    }
    return THRUM_OK;
}

/* All fields of an object; one that is not known or is missing is an error. */
static thrum_status_t take_fields(const struct reader *r, json_t *object,
                                  const struct field *fields, size_t n)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return wrong(r, " is not an object");
    for (size_t i = 0; i < n; i++)
        if (fields[i].required && !json_object_get(object, fields[i].key))
            return wrong(r, ".%s is missing", fields[i].key);
    json_object_foreach(object, key, value)
    {
        thrum_status_t status;
        size_t i = 0;

        while (i < n && strcmp(fields[i].key, key))
            i++;
        status = i < n ? take(r, &fields[i], value) : wrong(r, ".%.60s is not known", key);
        if (status)
            return status;
    }
    return THRUM_OK;
}
#define TAKE(reader, object, fields) \
    take_fields(reader, object, fields, sizeof(fields) / sizeof((fields)[0]))

/* ---- a host ---- */

static bool has_numa(const struct topo_host *host, int index)
{
    for (int i = 0; i < host->nnuma; i++)
        if (host->numa[i].index == index)
            return true;
    return false;
}

static thrum_status_t read_numa(struct reader *r, const char *at, json_t *list,
                                struct topo_host *host)
{
    size_t n = json_array_size(list);

    host->numa = calloc(n + 1, sizeof *host->numa);
    if (!host->numa)
        return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        struct topo_numa node = {.cores = 0};
        double bytes = 0;
        const struct field fields[] = {{"index", FIELD_INT, true, 0, 65535, &node.index},
                                       {"cores", FIELD_INT, true, 0, 65536, &node.cores},
                                       {"bytes", FIELD_REAL, false, 0, 1e18, &bytes}};
        thrum_status_t status;

        snprintf(r->place, sizeof r->place, "%s.numa_nodes[%zu]", at, i);
        status = TAKE(r, json_array_get(list, i), fields);
        if (status)
            return status;
        if (has_numa(host, node.index))
            return wrong(r, ".index: node %d is there twice", node.index);
        /* nodes may share cores: those of a package's own memory and of its accelerators' */
        if (host->cores && node.cores > host->cores)
            return wrong(r, ".cores is %d, more than the host's %d", node.cores, host->cores);
        node.bytes = (uint64_t)bytes;
        host->numa[host->nnuma++] = node;
    }
    return THRUM_OK;
}

static thrum_status_t check_port(const struct reader *r, const struct topo_host *host,
                                 const struct topo_port *port, const char *kind)
{
    if (strcmp(kind, "RDMA") && strcmp(kind, "network"))
        return wrong(r, ".kind is \"%.20s\", neither \"network\" nor \"RDMA\"", kind);
    if (*port->interface && !port->rdma)
        return wrong(r, ".interface: only RDMA ports have one");
    if (port->numa_node >= 0 && !has_numa(host, port->numa_node))
        return wrong(r, ".numa_node: the host has no NUMA node %d", port->numa_node);
    for (int i = 0; i < host->nports; i++)
        if (!strcmp(host->ports[i].name, port->name))
            return wrong(r, ".name: \"%s\" is there twice", port->name);
    return THRUM_OK;
}

static thrum_status_t read_ports(struct reader *r, const char *at, json_t *list,
                                 struct topo_host *host)
{
    size_t n = json_array_size(list);

    host->ports = calloc(n + 1, sizeof *host->ports);
    if (!host->ports)
        return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        struct topo_port port = {.numa_node = -1, .up = true};
        char kind[TOPO_NAME_BYTES] = "network";
        const struct field fields[] = {
            {"name", FIELD_NAME, true, 0, 0, port.name},
            {"kind", FIELD_NAME, false, 0, 0, kind},
            {"interface", FIELD_NAME, false, 0, 0, port.interface},
            {"gbps", FIELD_REAL, false, 0, 1e6, &port.gbps},
            {"up", FIELD_BOOL, false, 0, 0, &port.up},
            {"numa_node", FIELD_INT, false, -1, 65535, &port.numa_node},
        };
        thrum_status_t status;

        snprintf(r->place, sizeof r->place, "%s.ports[%zu]", at, i);
        status = TAKE(r, json_array_get(list, i), fields);
        port.rdma = !strcmp(kind, "RDMA");
        if (!status)
            status = check_port(r, host, &port, kind);
        if (status)
            return status;
        host->ports[host->nports++] = port;
    }
    return THRUM_OK;
}

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static thrum_status_t read_ranks(struct reader *r, const char *at, json_t *list,
                                 struct topo_host *host)
{
    size_t n = json_array_size(list);

    host->ranks = calloc(n + 1, sizeof *host->ranks);
    if (!host->ranks)
        return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);

        snprintf(r->place, sizeof r->place, "%s.ranks[%zu]", at, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= MAX_RANKS)
            return wrong(r, " is not a rank from 0 to %d", MAX_RANKS - 1);
        host->ranks[host->nranks++] = (int)json_integer_value(value);
    }
    qsort(host->ranks, n, sizeof *host->ranks, ascending);
    return THRUM_OK;
}

static thrum_status_t read_host(struct reader *r, size_t index, json_t *json,
                                struct topo_host *host)
{
    json_t *numa = NULL, *ports = NULL, *ranks = NULL;
    const struct field fields[] = {
        {"name", FIELD_NAME, true, 0, 0, host->name},
        {"packages", FIELD_INT, false, 0, 65536, &host->packages},
        {"cores", FIELD_INT, false, 0, 65536, &host->cores},
        {"hardware_threads", FIELD_INT, false, 0, 1 << 20, &host->hardware_threads},
        {"usable_cores", FIELD_INT, false, 0, 1 << 20, &host->usable_cores},
        {"numa_nodes", FIELD_PART, false, 0, MAX_PARTS, &numa},
        {"ports", FIELD_PART, false, 0, MAX_PARTS, &ports},
        {"ranks", FIELD_PART, false, 0, MAX_RANKS, &ranks},
    };
    char at[48];
    thrum_status_t status;

    snprintf(at, sizeof at, "hosts[%zu]", index);
    snprintf(r->place, sizeof r->place, "%s", at);
    status = TAKE(r, json, fields);
    if (!status && host->hardware_threads && host->cores > host->hardware_threads)
        status = wrong(r, ".cores is %d, more than its %d hardware threads", host->cores,
                       host->hardware_threads);
    if (!status && host->hardware_threads && host->usable_cores > host->hardware_threads)
        status = wrong(r, ".usable_cores is %d, more than its %d hardware threads",
                       host->usable_cores, host->hardware_threads);
    if (!status && numa)
        status = read_numa(r, at, numa, host);
    if (!status && ports)
        status = read_ports(r, at, ports, host);
    if (!status && ranks)
        status = read_ranks(r, at, ranks, host);
    return status;
}

/* ---- all of it ---- */

static int by_name(const void *a, const void *b)
{
    const struct topo_host *const *x = a, *const *y = b;
    int order = strcmp((*x)->name, (*y)->name);

    return order ? order : *x < *y ? -1 : *x > *y; /* equal ones as in the file */
}

static thrum_status_t check_names(struct reader *r, const struct topo *topo)
{
    size_t n = topo->nhosts > 0 ? (size_t)topo->nhosts : 0;
    const struct topo_host **sorted = calloc(n + 1, sizeof(*sorted));
    thrum_status_t status = THRUM_OK;

    if (!sorted)
        return no_memory(r);
    for (int h = 0; h < topo->nhosts; h++)
        sorted[h] = &topo->hosts[h];
    qsort(sorted, n, sizeof(*sorted), by_name);
    snprintf(r->place, sizeof r->place, "hosts");
    for (int h = 1; h < topo->nhosts && !status; h++)
        if (!strcmp(sorted[h]->name, sorted[h - 1]->name))
            status = wrong(r, "[%td].name: \"%s\" is also that of hosts[%td]",
                           sorted[h] - topo->hosts, sorted[h]->name, sorted[h - 1] - topo->hosts);
    free(sorted);
    return status;
}

/* Each rank from 0 on is on one host, or the file says nothing of ranks. */
static thrum_status_t check_ranks(struct reader *r, const struct topo *topo)
{
    int n = topo_ranks(topo);
    int *host_of = calloc((size_t)n + 1, sizeof *host_of);
    thrum_status_t status = host_of ? THRUM_OK : no_memory(r);

    for (int h = 0; h < topo->nhosts && n && !status; h++) {
        snprintf(r->place, sizeof r->place, "hosts[%d].ranks", h);
        if (!topo->hosts[h].nranks)
            status = wrong(r, " is missing or empty, while other hosts have ranks");
        for (int i = 0; i < topo->hosts[h].nranks && !status; i++) {
            int rank = topo->hosts[h].ranks[i];

            if (rank >= n)
                status = wrong(r, ": rank %d, but all hosts have %d ranks: a lower one is missing",
                               rank, n);
            else if (host_of[rank])
                status = wrong(r, ": rank %d is also in hosts[%d].ranks", rank, host_of[rank] - 1);
            else
                host_of[rank] = h + 1;
        }
    }
    free(host_of);
    return status;
}

static thrum_status_t read_all(struct reader *r, json_t *root, struct topo *topo)
{
    char format[TOPO_NAME_BYTES] = "";
    json_t *hosts = NULL;
    int version = 0;
    const struct field fields[] = {{"format", FIELD_NAME, true, 0, 0, format},
                                   {"version", FIELD_INT, true, 1, 1, &version},
                                   {"hosts", FIELD_PART, true, 1, MAX_HOSTS, &hosts}};
    thrum_status_t status;

    snprintf(r->place, sizeof r->place, "the file");
    status = TAKE(r, root, fields);
    if (!status && strcmp(format, "thrum-topology"))
        status = wrong(r, ".format is not \"thrum-topology\"");
    if (status)
        return status;
    topo->hosts = calloc(json_array_size(hosts), sizeof *topo->hosts);
    if (!topo->hosts)
        return no_memory(r);
    topo->nhosts = (int)json_array_size(hosts);
    for (int h = 0; h < topo->nhosts && !status; h++)
        status = read_host(r, (size_t)h, json_array_get(hosts, (size_t)h), &topo->hosts[h]);
    if (!status)
        status = check_names(r, topo);
    return status ? status : check_ranks(r, topo);
}

thrum_status_t topo_read(const char *path, struct topo **topo_out)
{
    struct reader reader = {.path = path};
    struct topo *topo;
    json_error_t error;
    json_t *root;
    struct stat about;
    thrum_status_t status;

    if (stat(path, &about))
        return thrum_fail_errno(THRUM_ERR_INVALID_CONFIG, "topology file %s cannot be read", path);
    if (!S_ISREG(about.st_mode) || about.st_size > MAX_FILE_BYTES)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "topology file %s is no regular file of at most %d MiB", path,
                          MAX_FILE_BYTES >> 20);
    root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "topology file %s: line %d, column %d: %s",
                          path, error.line, error.column, error.text);
    topo = calloc(1, sizeof *topo);
    status = topo ? read_all(&reader, root, topo) : no_memory(&reader);
    json_decref(root);
    if (status) {
        topo_free(topo);
        return status;
    }
    snprintf(topo->source, sizeof topo->source, "%s", path);
    *topo_out = topo;
    return THRUM_OK;
}
