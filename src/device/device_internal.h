/*
 * Inside of the device runtime: the public handles over a plugin's table. Used by src/device, and by exec, which calls
 * the plugin directly on the hot path.
 */
#ifndef DEVICE_DEVICE_INTERNAL_H
#define DEVICE_DEVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <thrum/device_plugin.h>

#define DEVICE_MAGIC 0x54444556u
#define QUEUE_MAGIC 0x54515545u

struct thrum_device {
    uint32_t magic;
    const struct thrum_device_ops *ops; /* every entry callable */
    void *impl;
    int index;
    int opens; /* under the registry lock */
    _Atomic int references; /* queues, events and comms that are alive */
    struct thrum_device_properties
        properties; /* as at open; free bytes and generation are read anew */
    uint64_t own_base;
    struct thrum_device *next; /* registry list, under the registry lock */
};

/* Called by thrum_queue_synchronize when work of a queue fails, to fetch a better message than the status's own. */
typedef const char *(*queue_explain_fn)(void *argument, thrum_status_t status);

struct thrum_queue {
    uint32_t magic;
    struct thrum_device *device;
    const struct thrum_device_ops *ops; /* = device->ops */
    void *impl;
    uint32_t generation;
    unsigned flags;
    _Atomic uint64_t last_ticket; /* of the newest submission */
    _Atomic int
        error; /* thrum_status_t of the first failed submission since the last synchronize */
    _Atomic(const char *)
        error_message; /* static or owned by a comm that outlives its work; NULL: none */
};

/* Validated access for the layers above: true if the handle is alive. */
bool device_is_valid(const struct thrum_device *device);
bool queue_is_valid(const struct thrum_queue *queue);

/* Finds the plugin named by THRUM_DEVICE (built-in or loaded); the table has every entry. */
thrum_status_t device_plugin_load(const char *name, const struct thrum_device_ops **ops_out);

/* The built-in plugin. */
const struct thrum_device_ops *sim_device_plugin(uint32_t library_abi_version);

#endif
