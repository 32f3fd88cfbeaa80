/*
 * Fabric endpoints, one for each device that needs one: its communicators share it, so that many of them take neither
 * threads nor descriptors for themselves. Called by comm.c.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "fabric/fabric.h"

struct comm_endpoint {
    struct comm_endpoint *next;
    pid_t pid; /* a child of fork has no part in its parent's */
    struct thrum_device *device;
    char name[32]; /* of the fabric */
    const struct thrum_fabric_ops *fabric;
    void *handle;
    struct thrum_fabric_address address;
    int users;
    bool chosen; /* by a communicator; else it was opened to offer it only */
};

static struct {
    pthread_mutex_t lock;
    struct comm_endpoint *first;
} endpoints = {.lock = PTHREAD_MUTEX_INITIALIZER};

static thrum_status_t make(struct thrum_device *device, const char *fabric,
                           struct comm_endpoint **endpoint_out)
{
    const char *name = thrum_config_string(CFG_FABRIC_DEVICE);
    struct comm_endpoint *endpoint = calloc(1, sizeof *endpoint);
    thrum_status_t status;

    if (!endpoint)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a fabric endpoint");
    endpoint->pid = getpid();
    endpoint->device = device;
    snprintf(endpoint->name, sizeof endpoint->name, "%s", fabric);
    status = fabric_plugin_load(fabric, &endpoint->fabric);
    if (!status)
        status = endpoint->fabric->open(*name ? name : NULL, &endpoint->handle, &endpoint->address);
    if (status) {
        free(endpoint);
        return status;
    }
    endpoint->next = endpoints.first;
    endpoints.first = endpoint;
    *endpoint_out = endpoint;
    return THRUM_OK;
}

/* Under lock. `fabric` NULL: any that a communicator has chosen. */
static struct comm_endpoint *find(const struct thrum_device *device, const char *fabric)
{
    struct comm_endpoint *endpoint = endpoints.first;

    while (endpoint && (endpoint->device != device || endpoint->pid != getpid() ||
                        (fabric ? strcmp(endpoint->name, fabric) != 0 : !endpoint->chosen)))
        endpoint = endpoint->next;
    return endpoint;
}

void comm_endpoint_in_use(const struct thrum_device *device, char *name_out, size_t bytes)
{
    const struct comm_endpoint *endpoint;

    pthread_mutex_lock(&endpoints.lock);
    endpoint = find(device, NULL);
    snprintf(name_out, bytes, "%s", endpoint ? endpoint->name : "");
    pthread_mutex_unlock(&endpoints.lock);
}

thrum_status_t comm_endpoint_get(struct thrum_device *device, const char *fabric,
                                 struct comm_endpoint **endpoint_out,
                                 const struct thrum_fabric_ops **fabric_out, void **handle_out,
                                 struct thrum_fabric_address *address_out)
{
    thrum_status_t status = THRUM_OK;
    struct comm_endpoint *endpoint;

    pthread_mutex_lock(&endpoints.lock);
    endpoint = find(device, fabric);
    if (!endpoint)
        status = make(device, fabric, &endpoint);
    if (!status) {
        endpoint->users++;
        *endpoint_out = endpoint;
        *fabric_out = endpoint->fabric;
        *handle_out = endpoint->handle;
        *address_out = endpoint->address;
    }
    pthread_mutex_unlock(&endpoints.lock);
    return status;
}

void comm_endpoint_choose(struct comm_endpoint *endpoint)
{
    pthread_mutex_lock(&endpoints.lock);
    endpoint->chosen = true;
    pthread_mutex_unlock(&endpoints.lock);
}

void comm_endpoint_put(struct comm_endpoint *endpoint)
{
    pthread_mutex_lock(&endpoints.lock);
    if (--endpoint->users) {
        endpoint = NULL;
    } else {
        for (struct comm_endpoint **link = &endpoints.first; *link; link = &(*link)->next)
            if (*link == endpoint) {
                *link = endpoint->next;
                break;
            }
    }
    pthread_mutex_unlock(&endpoints.lock);
    if (!endpoint)
        return;
    endpoint->fabric->close(endpoint->handle);
    free(endpoint);
}
