/*
 * Finds fabric plugins, checks them and makes their tables whole. Called by comm, exec and thrum-info. Plugins stay
 * loaded until the process ends.
 */
#include "fabric/fabric.h"

#include <ctype.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thrum/plugin.h>

#include "base/base.h"
#include "base/builtin.h"
#include "base/config.h"

#define NAME_BYTES 33
#define PATH_BYTES 4096

const char *const thrum_fabric_builtin_names[] = {"loopback", NULL};

/* One plugin that has been asked for. */
struct loaded {
    struct loaded *next;
    char name[NAME_BYTES];
    struct thrum_fabric_ops ops; /* the plugin's, and defaults where it has none */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded *loaded_list; /* under lock; never shrinks */

/* ---- defaults for what an older or smaller plugin lacks ---------------------------------------- */

static thrum_status_t lacks(const char *operation)
{
    return thrum_fail(THRUM_ERR_UNSUPPORTED, "this fabric plugin has no %s", operation);
}

static thrum_status_t no_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    (void)info_out, (void)max, (void)n_out;
    return lacks("enumerate");
}

static thrum_status_t no_open(const char *device, void **endpoint_out,
                              struct thrum_fabric_address *address_out)
{
    (void)device, (void)endpoint_out, (void)address_out;
    return lacks("open");
}

static void no_close(void *endpoint)
{
    (void)endpoint;
}

static thrum_status_t no_connect(void *endpoint, const struct thrum_fabric_address *address,
                                 void **peer_out)
{
    (void)endpoint, (void)address, (void)peer_out;
    return lacks("connect");
}

static void no_disconnect(void *peer)
{
    (void)peer;
}

static thrum_status_t no_region_register(void *endpoint, void *cpu_base, size_t bytes,
                                         void **region_out, uint64_t *key_out)
{
    (void)endpoint, (void)cpu_base, (void)bytes, (void)region_out, (void)key_out;
    return lacks("region_register");
}

static thrum_status_t no_region_register_dmabuf(void *endpoint, int fd, uint64_t offset,
                                                size_t bytes, void **region_out, uint64_t *key_out)
{
    (void)endpoint, (void)fd, (void)offset, (void)bytes, (void)region_out, (void)key_out;
    return lacks("region_register_dmabuf");
}

static void no_region_deregister(void *endpoint, void *region)
{
    (void)endpoint, (void)region;
}

static thrum_status_t no_put_signal(void *peer, const struct thrum_fabric_put *put)
{
    (void)peer, (void)put;
    return lacks("put_signal");
}

static thrum_status_t no_get(void *peer, void *local, void *local_region, size_t bytes,
                             uint64_t remote_key, uint64_t remote_offset)
{
    (void)peer, (void)local, (void)local_region, (void)bytes, (void)remote_key, (void)remote_offset;
    return lacks("get");
}

static thrum_status_t no_flush(void *peer)
{
    (void)peer;
    return lacks("flush");
}

/* A fabric that needs no driving never has anything to do. */
static thrum_status_t no_progress(void *endpoint)
{
    (void)endpoint;
    return THRUM_IN_PROGRESS;
}

static int no_wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

/* Errors of such a plugin are those that put_signal, get and flush return. */
static thrum_status_t no_peer_error(void *peer, const char **message_out)
{
    (void)peer;
    *message_out = "";
    return THRUM_OK;
}

static size_t no_get_events(void *endpoint, struct thrum_fabric_event *events_out, size_t max)
{
    (void)endpoint, (void)events_out, (void)max;
    return 0;
}

/* Nothing speaks against it. */
static thrum_status_t no_reaches(const struct thrum_fabric_address *from,
                                 const struct thrum_fabric_address *to)
{
    (void)from, (void)to;
    return THRUM_OK;
}

static size_t least_max_inline(void *endpoint)
{
    (void)endpoint;
    return 4096;
}

static int no_offloads(void *endpoint)
{
    (void)endpoint;
    return 0;
}

static const struct thrum_fabric_ops defaults = {
    .size = sizeof defaults,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "",
    .enumerate = no_enumerate,
    .open = no_open,
    .close = no_close,
    .connect = no_connect,
    .disconnect = no_disconnect,
    .region_register = no_region_register,
    .region_register_dmabuf = no_region_register_dmabuf,
    .region_deregister = no_region_deregister,
    .put_signal = no_put_signal,
    .get = no_get,
    .flush = no_flush,
    .progress = no_progress,
    .wait_fd = no_wait_fd,
    .peer_error = no_peer_error,
    .get_events = no_get_events,
    .reaches = no_reaches,
    .max_inline = least_max_inline,
    .offloads = no_offloads,
};

/* One line per entry of the table; without it a NULL entry would be called. */
static void fill_missing(struct thrum_fabric_ops *ops)
{
    if (!ops->enumerate)
        ops->enumerate = defaults.enumerate;
    if (!ops->open)
        ops->open = defaults.open;
    if (!ops->close)
        ops->close = defaults.close;
    if (!ops->connect)
        ops->connect = defaults.connect;
    if (!ops->disconnect)
        ops->disconnect = defaults.disconnect;
    if (!ops->region_register)
        ops->region_register = defaults.region_register;
    if (!ops->region_register_dmabuf)
        ops->region_register_dmabuf = defaults.region_register_dmabuf;
    if (!ops->region_deregister)
        ops->region_deregister = defaults.region_deregister;
    if (!ops->put_signal)
        ops->put_signal = defaults.put_signal;
    if (!ops->get)
        ops->get = defaults.get;
    if (!ops->flush)
        ops->flush = defaults.flush;
    if (!ops->progress)
        ops->progress = defaults.progress;
    if (!ops->wait_fd)
        ops->wait_fd = defaults.wait_fd;
    if (!ops->peer_error)
        ops->peer_error = defaults.peer_error;
    if (!ops->get_events)
        ops->get_events = defaults.get_events;
    if (!ops->reaches)
        ops->reaches = defaults.reaches;
    if (!ops->max_inline)
        ops->max_inline = defaults.max_inline;
    if (!ops->offloads)
        ops->offloads = defaults.offloads;
}

/* ---- checking and finding ------------------------------------------------------------------------ */

/* A copy of the plugin's table, made whole. `from`: where it comes from, for messages. */
static thrum_status_t adopt(thrum_fabric_plugin_fn plugin, const char *from,
                            struct thrum_fabric_ops *ops_out)
{
    const struct thrum_fabric_ops *theirs = plugin(THRUM_FABRIC_ABI_VERSION);
    size_t size;

    if (!theirs)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "%s: the plugin refuses fabric ABI version %d of this library", from,
                          THRUM_FABRIC_ABI_VERSION);
    if (theirs->size < offsetof(struct thrum_fabric_ops, enumerate))
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s: a table of %zu bytes is no fabric table",
                          from, theirs->size);
    if (theirs->abi_version != THRUM_FABRIC_ABI_VERSION)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "%s: made for fabric ABI version %u, this library has %d", from,
                          theirs->abi_version, THRUM_FABRIC_ABI_VERSION);
    size = min_u64(theirs->size, sizeof *ops_out) / sizeof(void *) * sizeof(void *);
    *ops_out = defaults;
    memcpy(ops_out, theirs, size);
    ops_out->size = sizeof *ops_out;
    if (!ops_out->name)
        ops_out->name = "";
    fill_missing(ops_out);
    return THRUM_OK;
}

static thrum_status_t adopt_file(const char *path, struct thrum_fabric_ops *ops_out)
{
    thrum_fabric_plugin_fn plugin;
    thrum_status_t status;
    void *symbol, *library;

    plugin_offer_services();
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s: cannot be loaded: %s", path, dlerror());
    symbol = dlsym(library, "thrum_fabric_plugin");
    if (!symbol) {
        dlclose(library);
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s: exports no thrum_fabric_plugin", path);
    }
    memcpy(&plugin, &symbol, sizeof plugin); /* ISO C has no cast for this */
    status = adopt(plugin, path, ops_out);
    if (status)
        dlclose(library);
    return status;
}

/* True if the file is there: then *status_out says what became of it. */
static bool try_directory(const char *directory, size_t length, const char *name,
                          struct thrum_fabric_ops *ops_out, thrum_status_t *status_out)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%.*s/thrum-fabric-%s.so", (int)length, directory, name);

    if (!length || n < 0 || (size_t)n >= sizeof path || access(path, F_OK))
        return false;
    *status_out = adopt_file(path, ops_out);
    return true;
}

static thrum_status_t search(const char *name, struct thrum_fabric_ops *ops_out)
{
    const char *path = thrum_config_string(CFG_PLUGIN_PATH);
    thrum_status_t status;

    if (!strcmp(name, "loopback"))
        return adopt(loopback_fabric_plugin, "built-in fabric loopback", ops_out);
    for (const char *directory = path;; directory++) {
        size_t length = strcspn(directory, ":");
        if (try_directory(directory, length, name, ops_out, &status))
            return status;
        directory += length;
        if (!*directory)
            break;
    }
    if (try_directory(THRUM_PLUGIN_DIR, strlen(THRUM_PLUGIN_DIR), name, ops_out, &status))
        return status;
    return thrum_fail(THRUM_ERR_UNSUPPORTED,
                      "no fabric plugin \"%s\": not built in, and thrum-fabric-%s.so is neither in "
                      "THRUM_PLUGIN_PATH (\"%s\") nor in %s",
                      name, name, path, THRUM_PLUGIN_DIR);
}

/* It becomes part of a file name. */
static bool is_plugin_name(const char *name)
{
    size_t length = strlen(name);

    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_' && name[i] != '-')
            return false;
    return length > 0 && length < NAME_BYTES;
}

static thrum_status_t load_locked(const char *name, const struct thrum_fabric_ops **ops_out)
{
    struct loaded *entry;
    thrum_status_t status;

    for (entry = loaded_list; entry; entry = entry->next) {
        if (!strcmp(entry->name, name)) {
            *ops_out = &entry->ops;
            return THRUM_OK;
        }
    }
    entry = calloc(1, sizeof *entry);
    if (!entry)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for fabric plugin \"%s\"", name);
    status = search(name, &entry->ops);
    if (status) {
        free(entry);
        return status;
    }
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->next = loaded_list;
    loaded_list = entry;
    *ops_out = &entry->ops;
    return THRUM_OK;
}

thrum_status_t fabric_plugin_load(const char *name, const struct thrum_fabric_ops **ops_out)
{
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!name || !is_plugin_name(name))
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "\"%.64s\" is no name of a fabric plugin: letters, digits, - and _ only",
                          name ? name : "");
    pthread_mutex_lock(&lock);
    status = load_locked(name, ops_out);
    pthread_mutex_unlock(&lock);
    return status;
}
