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

struct thrum_queue {
    uint32_t magic;
    struct thrum_device *device;
    const struct thrum_device_ops *ops; /* = device->ops */
    void *impl;
    uint32_t generation;
    unsigned flags;
    _Atomic uint64_t last_ticket; /* of the newest submission */
    _Atomic int references; /* the handle's own, and queue_hold's; freed by the last release */
    _Atomic int error; /* first failure since the last synchronize: see queue_fail */
    pthread_mutex_t error_lock;
    char error_text[768]; /* under error_lock */
};

/*
 * Exec keeps queues that carry its work alive: after thrum_queue_destroy the struct stays (magic cleared, so that
 * queue_is_valid is false; impl stays callable: submit refuses, poll tells how submissions ended, cancel does nothing)
 * until the last release.
 */
void queue_hold(struct thrum_queue *queue);
void queue_release(struct thrum_queue *queue);

/*
 * Makes the next synchronize or query of the queue return `status` with `message` (copied) as the last error, once.
 * The first of several wins. Any thread.
 */
void queue_fail(struct thrum_queue *queue, thrum_status_t status, const char *message);

/*
 * Set once by comm. thrum_queue_synchronize and _query call it when the plugin's wait or poll gave an error, before
 * they look at queue->error, so that whoever issued the work can find the cause and call queue_fail; it may block for
 * a bounded time. NULL: none.
 */
extern void (*_Atomic device_queue_error_hook)(struct thrum_queue *queue, thrum_status_t status);

/* Validated access for the layers above: true if the handle is alive. */
bool device_is_valid(const struct thrum_device *device);
bool queue_is_valid(const struct thrum_queue *queue);

/* Finds the plugin named by THRUM_DEVICE (built-in or loaded); the table has every entry. */
thrum_status_t device_plugin_load(const char *name, const struct thrum_device_ops **ops_out);

/* The built-in plugin. */
const struct thrum_device_ops *sim_device_plugin(uint32_t library_abi_version);

#endif
