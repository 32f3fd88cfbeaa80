/* Finds device plugins: sim is built in, others are shared objects. Called by device open and by thrum-info. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/builtin.h"
#include "base/config.h"
#include "device/device_internal.h"

struct plugin {
    struct plugin *next;
    char *name;
    struct thrum_device_ops ops; /* complete */
};
static struct plugin *plugins; /* loaded ones, never unloaded; under plugins_lock */
static pthread_mutex_t plugins_lock = PTHREAD_MUTEX_INITIALIZER;

/* Fills the entries that the plugin's table is too old for, or leaves NULL, with defaults. */
static void complete(struct thrum_device_ops *ops, const struct thrum_device_ops *plugin)
{
    size_t first = offsetof(struct thrum_device_ops, enumerate);
    size_t size = plugin->size < sizeof *ops ? plugin->size : sizeof *ops;

    *ops = device_default_ops;
    ops->abi_version = plugin->abi_version;
    ops->name = plugin->name;
    /* from `enumerate` on the table holds nothing but function pointers */
    for (size_t at = first; at + sizeof(void (*)(void)) <= size; at += sizeof(void (*)(void))) {
        void (*entry)(void);
        memcpy(&entry, (const char *)plugin + at, sizeof entry);
        if (entry)
            memcpy((char *)ops + at, &entry, sizeof entry);
    }
    if (!ops->submit_checked)
        ops->submit_checked = ops->submit;
    if (!ops->mem_reserve)
        ops->mem_reserve = ops->mem_alloc;
    ops->size = sizeof *ops;
}

static thrum_status_t add(const char *name, const struct thrum_device_ops *table,
                          const struct thrum_device_ops **ops_out)
{
    struct plugin *plugin = calloc(1, sizeof *plugin);

    if (!plugin || !(plugin->name = strdup(name))) {
        free(plugin);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for device plugin %s", name);
    }
    complete(&plugin->ops, table);
    plugin->next = plugins;
    plugins = plugin;
    *ops_out = &plugin->ops;
    return THRUM_OK;
}

static thrum_status_t accept_table(const char *path, const char *name,
                                   const struct thrum_device_ops *table,
                                   const struct thrum_device_ops **ops_out)
{
    if (!table)
        return thrum_fail(THRUM_ERR_PROTOCOL,
                          "device plugin %s (%s) refuses device ABI version %d of this library",
                          name, path, THRUM_DEVICE_ABI_VERSION);
    if (table->abi_version != THRUM_DEVICE_ABI_VERSION)
        return thrum_fail(THRUM_ERR_PROTOCOL,
                          "device plugin %s (%s) is made for device ABI version %u, this library "
                          "has %d",
                          name, path, table->abi_version, THRUM_DEVICE_ABI_VERSION);
    if (table->size < offsetof(struct thrum_device_ops, reset) || !table->name || !table->open ||
        !table->close || !table->enumerate)
        return thrum_fail(THRUM_ERR_PROTOCOL,
                          "device plugin %s (%s) lacks one of name, enumerate, open, close", name,
                          path);
    return add(name, table, ops_out);
}

/* UNREACHABLE: there is no such file. */
static thrum_status_t load_from(const char *directory, size_t length, const char *name,
                                const struct thrum_device_ops **ops_out)
{
    thrum_device_plugin_fn entry;
    char path[4096];
    void *object, *symbol;

    if (snprintf(path, sizeof path, "%.*s/thrum-device-%s.so", (int)length, directory, name) >=
        (int)sizeof path)
        return THRUM_ERR_UNREACHABLE;
    FILE *file = fopen(path, "re");
    if (!file)
        return THRUM_ERR_UNREACHABLE;
    fclose(file);
    plugin_offer_services();
    object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return thrum_fail(THRUM_ERR_NO_DEVICE, "device plugin %s: %s", name, dlerror());
    symbol = dlsym(object, "thrum_device_plugin");
    if (!symbol) {
        dlclose(object);
        return thrum_fail(THRUM_ERR_PROTOCOL, "device plugin %s does not export %s", path,
                          "thrum_device_plugin");
    }
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from an object pointer */
    return accept_table(path, name, entry(THRUM_DEVICE_ABI_VERSION), ops_out);
}

static thrum_status_t search(const char *name, const struct thrum_device_ops **ops_out)
{
    const char *path = thrum_config_string(CFG_PLUGIN_PATH);

    while (*path) {
        size_t length = strcspn(path, ":");
        thrum_status_t status =
            length ? load_from(path, length, name, ops_out) : THRUM_ERR_UNREACHABLE;
        if (status != THRUM_ERR_UNREACHABLE)
            return status;
        path += length + (path[length] == ':');
    }
    return load_from(THRUM_PLUGIN_DIR, strlen(THRUM_PLUGIN_DIR), name, ops_out);
}

thrum_status_t device_plugin_load(const char *name, const struct thrum_device_ops **ops_out)
{
    thrum_status_t status;

    if (!*name || strchr(name, '/'))
        return thrum_fail(THRUM_ERR_NO_DEVICE, "\"%s\" is no name of a device plugin", name);
    pthread_mutex_lock(&plugins_lock);
    for (struct plugin *plugin = plugins; plugin; plugin = plugin->next)
        if (!strcmp(plugin->name, name)) {
            *ops_out = &plugin->ops;
            status = THRUM_OK;
            goto out;
        }
    if (!strcmp(name, "sim"))
        status = add(name, sim_device_plugin(THRUM_DEVICE_ABI_VERSION), ops_out);
    else
        status = search(name, ops_out);
    if (status == THRUM_ERR_UNREACHABLE)
        status = thrum_fail(THRUM_ERR_NO_DEVICE,
                            "there is no thrum-device-%s.so in THRUM_PLUGIN_PATH=\"%s\" or %s",
                            name, thrum_config_string(CFG_PLUGIN_PATH), THRUM_PLUGIN_DIR);
out:
    pthread_mutex_unlock(&plugins_lock);
    return status;
}
