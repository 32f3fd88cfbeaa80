/*
 * Calls that block until all ranks have come: thrum_comm_split, thrum_comm_dup, and those that open and close windows
 * (window.c). Inside a group they are made at its end, so that one thread can call for several ranks of its process:
 * then each communicator gets a thread.
 */
#include "api/api.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static thrum_status_t run_split(const struct setup_call *call)
{
    struct thrum_comm_config config = call->config;

    if (config.name)
        config.name = call->name;
    if (config.algorithms)
        config.algorithms = call->algorithms;
    return comm_split(call->comm, call->color, call->key, call->has_config ? &config : NULL,
                      call->comm_out);
}

static thrum_status_t run(const struct setup_call *call)
{
    thrum_status_t status;

    if (!comm_is_valid(call->comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM,
                          "comm=%p was destroyed inside the group that uses it",
                          (void *)call->comm);
    switch (call->kind) {
    case SETUP_SPLIT:
        return run_split(call);
    case SETUP_REGISTER:
        status = comm_failure(call->comm);
        return status ? status
                      : comm_window_open(call->comm, call->buffer, call->bytes, call->window_out);
    case SETUP_DEREGISTER:
        if (comm_of_window(call->window) != call->comm)
            return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "window=%p is closed twice in a group",
                              (void *)call->window);
        return comm_window_close(call->window);
    }
    return THRUM_ERR_INTERNAL;
}

thrum_status_t setup_call(const struct setup_call *call, thrum_status_t check)
{
    if (group_is_open())
        return group_add_setup(call, check);
    return check ? check : run(call);
}

/* The calls of a group on one communicator, in their order. */
struct worker {
    pthread_t thread;
    bool started;
    const struct thrum_comm *comm;
    const struct setup_call *calls; /* of the whole group */
    size_t n;
    thrum_status_t status; /* of the first that failed */
    char message[COMM_MESSAGE_BYTES];
};

static void *work(void *argument)
{
    struct worker *worker = argument;

    for (size_t i = 0; i < worker->n; i++) {
        thrum_status_t status =
            worker->calls[i].comm == worker->comm ? run(&worker->calls[i]) : THRUM_OK;

        if (!status || worker->status)
            continue;
        worker->status = status;
        strncpy(worker->message, thrum_last_error(), sizeof worker->message - 1);
    }
    return NULL;
}

static size_t find_workers(const struct setup_call *calls, size_t n, struct worker *workers)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        size_t k = 0;

        while (k < count && workers[k].comm != calls[i].comm)
            k++;
        if (k == count)
            workers[count++] = (struct worker){.comm = calls[i].comm, .calls = calls, .n = n};
    }
    return count;
}

thrum_status_t setup_run_all(const struct setup_call *calls, size_t n)
{
    struct worker *workers = calloc(n, sizeof *workers);
    thrum_status_t status = THRUM_OK;
    size_t count;

    if (!workers)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group of %zu calls", n);
    count = find_workers(calls, n, workers);
    for (size_t i = 1; i < count; i++)
        workers[i].started = !pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    work(&workers[0]);
    for (size_t i = 1; i < count; i++) {
        if (workers[i].started) {
            pthread_join(workers[i].thread, NULL);
        } else {
            workers[i].status = THRUM_ERR_LIMIT;
            snprintf(workers[i].message, sizeof workers[i].message,
                     "no thread for %zu communicators of one group", count);
        }
    }
    for (size_t i = 0; i < count && !status; i++)
        if (workers[i].status)
            status = thrum_set_last_error(workers[i].status, workers[i].message);
    free(workers);
    return status;
}

/* ---- public ---- */

thrum_status_t thrum_comm_split(thrum_comm_t comm, int color, int key,
                                const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct setup_call call = {
        .kind = SETUP_SPLIT, .comm = comm, .color = color, .key = key, .comm_out = comm_out};
    thrum_status_t status = collective_check_comm(comm);

    if (!status && !comm_out)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (!status)
        status = comm_check_split(comm, color, config);
    if (!status && config) {
        call.has_config = true;
        memcpy(&call.config, config, min_u64(config->size, sizeof call.config));
        call.config.size = sizeof call.config;
        if (call.config.name) /* the group's end may come after the caller's text is gone */
            snprintf(call.name, sizeof call.name, "%s", call.config.name);
        if (call.config.algorithms)
            snprintf(call.algorithms, sizeof call.algorithms, "%s", call.config.algorithms);
    }
    return setup_call(&call, status);
}

thrum_status_t thrum_comm_dup(thrum_comm_t comm, const struct thrum_comm_config *config,
                              thrum_comm_t *comm_out)
{
    return thrum_comm_split(comm, 0, 0, config, comm_out);
}
