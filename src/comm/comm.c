/*
 * Makes and destroys communicators: joins the ranks, lays out the area, has addresses exchanged (exchange.c), starts the
 * control plane. Public entry points of thrum.h's "communicators" part.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "exec/exec.h"
#include "select/select.h"
#include "topo/topo.h"

#define TICK_MS 20
#define DEADLINE_MAX_MS ((int64_t)1 << 40) /* 34 years, and no product of it overflows */
#define CANCEL_WAIT_NS 2000000000 /* for commands that execute; others end at once */

/* ---- area ---- */

uint64_t comm_area_bytes(int nranks, uint64_t scratch_bytes, uint64_t *own_offset_out,
                         uint64_t *scratch_offset_out)
{
    uint64_t own = comm_block_offset(nranks) +
                   2 * (uint64_t)nranks * COMM_ROOM_UNITS * comm_unit_bytes(nranks);
    uint64_t scratch = round_up_u64(own + sizeof(struct comm_own_block), 4096);

    *own_offset_out = own;
    *scratch_offset_out = scratch;
    return scratch + scratch_bytes;
}

uint64_t comm_done(struct thrum_comm *comm)
{
    uint64_t done = 0;

    (void)comm->ops->mem_peek(comm->device->impl, comm->area + comm->own_offset, &done,
                              sizeof done);
    return done;
}

/* ---- creation ---- */

static thrum_status_t check_config_struct(const struct thrum_comm_config *config)
{
    if (!config)
        return THRUM_OK;
    if (config->size < sizeof config->size || config->size > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.size=%zu: set it to sizeof(struct thrum_comm_config)",
                          config->size);
    return THRUM_OK;
}

static thrum_status_t check_algorithms(const char *text)
{
    struct select_policy unused = {.nrules = 0};

    if (strlen(text) >= COMM_ALGORITHMS_BYTES)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.algorithms has %zu characters; %d are possible", strlen(text),
                          COMM_ALGORITHMS_BYTES - 1);
    return select_rules_parse("config.algorithms", text, &unused);
}

thrum_status_t comm_effective_config(const struct thrum_comm_config *config,
                                     struct thrum_comm_config *out)
{
    const struct config_row *scratch_row = &thrum_config_rows[CFG_SCRATCH_BYTES];
    const struct config_row *lanes_row = &thrum_config_rows[CFG_LANES];
    thrum_status_t status = check_config_struct(config);

    if (status)
        return status;
    memset(out, 0, sizeof *out);
    if (config)
        memcpy(out, config, min_u64(config->size, sizeof *out));
    if (out->deadline_ms < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.deadline_ms=%lld is negative",
                          (long long)out->deadline_ms);
    if (out->init_deadline_ms < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.init_deadline_ms=%lld is negative",
                          (long long)out->init_deadline_ms);
    if (out->scratch_bytes && (out->scratch_bytes < (uint64_t)scratch_row->min ||
                               out->scratch_bytes > (uint64_t)scratch_row->max))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.scratch_bytes=%llu is not between %lld and %lld",
                          (unsigned long long)out->scratch_bytes, (long long)scratch_row->min,
                          (long long)scratch_row->max);
    if (out->reproducible < -1 || out->reproducible > 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.reproducible=%d is not -1, 0 or 1",
                          out->reproducible);
    if (out->probes < -1 || out->probes > 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.probes=%d is not -1, 0 or 1",
                          out->probes);
    if (out->survivors_least < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.survivors_least=%lld is below 0",
                          (long long)out->survivors_least);
    if (out->lanes && (out->lanes < lanes_row->min || out->lanes > lanes_row->max))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.lanes=%d is not between %lld and %lld", out->lanes,
                          (long long)lanes_row->min, (long long)lanes_row->max);
    if (out->algorithms) {
        status = check_algorithms(out->algorithms);
        if (status)
            return status;
    }
    if (!out->deadline_ms)
        out->deadline_ms = thrum_config_int(CFG_DEADLINE_MS);
    if (!out->init_deadline_ms)
        out->init_deadline_ms = thrum_config_int(CFG_INIT_DEADLINE_MS);
    out->deadline_ms = (int64_t)min_u64((uint64_t)out->deadline_ms, DEADLINE_MAX_MS);
    out->init_deadline_ms = (int64_t)min_u64((uint64_t)out->init_deadline_ms, DEADLINE_MAX_MS);
    if (!out->scratch_bytes)
        out->scratch_bytes = (uint64_t)thrum_config_int(CFG_SCRATCH_BYTES);
    out->scratch_bytes = round_up_u64(out->scratch_bytes, 4096);
    if (!out->reproducible)
        out->reproducible = thrum_config_bool(CFG_REPRODUCIBLE) ? 1 : -1;
    if (!out->lanes)
        out->lanes = (int)thrum_config_int(CFG_LANES);
    return THRUM_OK;
}

static struct thrum_comm *allocate(int nranks, int rank, thrum_device_t device,
                                   const struct thrum_comm_config *config,
                                   const struct select_policy *policy)
{
    static _Atomic int names;
    struct thrum_comm *comm = calloc(1, sizeof *comm);

    if (!comm)
        return NULL;
    comm->peers = calloc((size_t)nranks, sizeof *comm->peers);
    comm->operations = calloc(COMM_IN_FLIGHT, sizeof *comm->operations);
    comm->operations_mask = COMM_IN_FLIGHT - 1;
    comm->stands_at = UINT64_MAX;
    comm->cache = exec_cache_create();
    comm->algorithms = config->algorithms ? strdup(config->algorithms) : NULL;
    if (!comm->peers || !comm->operations || !comm->cache ||
        (config->algorithms && !comm->algorithms)) {
        exec_cache_destroy(comm->cache);
        free(comm->algorithms);
        free(comm->operations);
        free(comm->peers);
        free(comm);
        return NULL;
    }
    comm->magic = COMM_MAGIC;
    comm->place_fd = -1;
    for (int r = 0; r < nranks; r++)
        comm->peers[r].parent_rank = -1;
    comm->rank = rank;
    comm->nranks = nranks;
    comm->device = device;
    comm->ops = device->ops;
    comm->deadline_ns = config->deadline_ms * 1000000;
    comm->scratch_bytes = config->scratch_bytes;
    comm->init_deadline_ms = config->init_deadline_ms;
    comm->lanes = config->lanes;
    comm->reproducible = config->reproducible > 0;
    comm->peers[rank].probes = config->probes > 0;
    pthread_mutex_init(&comm->retire_lock, NULL);
    comm->policy = *policy;
    if (config->name)
        snprintf(comm->name, sizeof comm->name, "%s", config->name);
    else
        snprintf(comm->name, sizeof comm->name, "comm%d", atomic_fetch_add(&names, 1));
    return comm;
}

/* Frees whatever there is; the control plane, if started, is stopped first. */
static void release(struct thrum_comm *comm)
{
    control_stop(comm->control);
    bootstrap_close(comm->bootstrap);
    comm_windows_free(comm);
    for (int i = 0; i < PLAN_MAX_LANES; i++)
        thrum_queue_destroy(comm->lane_queues[i]);
    for (int i = 0; i < comm->nqueues; i++)
        queue_release(comm->queues[i]);
    free(comm->queues);
    if (comm->endpoint) {
        (void)comm->ops->port_detach(comm->device->impl, comm->endpoint);
        for (int r = 0; r < comm->nranks; r++)
            if (comm->peers[r].fabric_peer)
                comm->fabric->disconnect(comm->peers[r].fabric_peer);
        for (int i = 0; i < comm->nregions; i++)
            comm->fabric->region_deregister(comm->endpoint, comm->regions[i].region);
        comm_endpoint_put(comm->shared_endpoint);
    }
    while (comm->shrinks) {
        struct comm_shrink *shrink = comm->shrinks;

        comm->shrinks = shrink->next;
        free(shrink);
    }
    bootstrap_leave_place(comm->peers[comm->rank].place, comm->place_fd);
    comm_drop_notices(comm);
    free(comm->regions);
    for (int r = 0; r < comm->nranks; r++)
        if (comm->peers[r].loads && r != comm->rank && comm->peers[r].reachable)
            comm->ops->peer_window_close(comm->device->impl, comm->peers[r].window_base);
    for (int i = 0; i < 2; i++)
        if (comm->stage[i])
            (void)comm->ops->mem_free(comm->device->impl, comm->stage[i]);
    while (comm->old_stages) {
        struct comm_old_stage *old = comm->old_stages;

        comm->old_stages = old->next;
        (void)comm->ops->mem_free(comm->device->impl, old->address);
        free(old);
    }
    if (comm->bounce) {
        (void)comm->ops->host_unregister(comm->device->impl, comm->bounce);
        free(comm->bounce);
    }
    if (comm->area)
        (void)comm->ops->mem_free(comm->device->impl, comm->area);
    exec_cache_destroy(comm->cache);
    for (int i = 0; i < COMM_KEPT_WORKS; i++)
        free(comm->kept_works[i]);
    free(comm->redops);
    for (struct comm_link *link = comm->links; link; link = link->next)
        link->comm = NULL;
    exec_list_destroy(comm->list);
    free(atomic_load(&comm->trace));
    pthread_mutex_destroy(&comm->retire_lock);
    plan_layout_destroy(comm->layout);
    free(comm->operations);
    free(comm->peers);
    free(comm->algorithms);
    thrum_device_close(comm->held_device);
    comm->magic = 0;
    free(comm);
}

static thrum_status_t make_area(struct thrum_comm *comm)
{
    comm->area_bytes = comm_area_bytes(comm->nranks, comm->scratch_bytes, &comm->own_offset,
                                       &comm->scratch_offset);
    return comm->ops->mem_reserve(comm->device->impl, comm->area_bytes, &comm->area);
}

/* What exec builds programs from; there is no other lowering yet. */
static thrum_status_t check_device(const struct thrum_device *device)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } needed[] = {{THRUM_CAP_INDIRECT, "THRUM_CAP_INDIRECT"},
                  {THRUM_CAP_INLINE_LINE, "THRUM_CAP_INLINE_LINE"},
                  {THRUM_CAP_MULTICAST, "THRUM_CAP_MULTICAST"},
                  {THRUM_CAP_HOST_CALLBACK, "THRUM_CAP_HOST_CALLBACK"}};
    const struct thrum_device_properties *properties = &device->properties;

    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!(properties->capabilities & needed[i].bit))
            return thrum_fail(THRUM_ERR_UNSUPPORTED, "device %s lacks %s, which communicators need",
                              properties->name, needed[i].name);
    if (properties->semaphore_bits < 64)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "device %s has semaphores of %u bits, communicators need 64",
                          properties->name, properties->semaphore_bits);
    return THRUM_OK;
}

thrum_status_t comm_create(const struct thrum_unique_id *id, int nranks, int rank,
                           thrum_device_t device, const struct thrum_comm_config *config,
                           thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct select_policy policy;
    struct thrum_comm *comm;
    thrum_status_t status = comm_effective_config(config, &effective);

    if (!status)
        status = check_device(device);
    if (!status)
        status = select_policy_load(effective.algorithms, &policy);
    comm = status ? NULL : allocate(nranks, rank, device, &effective, &policy);
    if (!status && !comm)
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a communicator of %d ranks",
                            nranks);
    if (status) {
        bootstrap_withdraw(id); /* where it was made here, the others need not wait */
        return status;
    }
    status = thrum_device_open(device->index, &comm->held_device);
    if (status) {
        bootstrap_withdraw(id);
        release(comm);
        return status;
    }
    comm->id = hash_bytes(HASH_START, id, sizeof *id);
    atomic_store(&device_queue_error_hook, comm_settle_queue);
    status = bootstrap_join(id, rank, nranks, effective.init_deadline_ms, &comm->bootstrap);
    if (!status)
        status = comm_exchange_devices(comm, make_area(comm));
    if (!status)
        status = comm_exchange_fabric(comm);
    comm_offer_drop(comm);
    /* Ranks that share cores go on doing so, also where a later communicator has few of them. */
    if (!status && comm->own_share > 1) {
        thrum_log(LOG_DEBUG, "%s: rank %d: %d ranks take turns on a core", comm->name, rank,
                  comm->own_share);
        comm->ops->set_oversubscribed(device->impl, true);
    }
    if (!status)
        status = comm_registry_add(comm);
    if (status)
        goto err_release;
    status = control_start(comm->bootstrap, &comm_control_callbacks, comm, TICK_MS, &comm->control);
    if (status)
        goto err_remove;
    *comm_out = comm;
    return THRUM_OK;

err_remove:
    comm_registry_remove(comm);
err_release:
    release(comm);
    return status;
}

thrum_status_t thrum_comm_init_rank(const struct thrum_unique_id *id, int nranks, int rank,
                                    thrum_device_t device, const struct thrum_comm_config *config,
                                    thrum_comm_t *comm_out)
{
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!id)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "id is NULL");
    if (!comm_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (nranks < 1 || nranks > COMM_MAX_RANKS)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "nranks=%d is not between 1 and %d", nranks,
                          COMM_MAX_RANKS);
    if (rank < 0 || rank >= nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "rank=%d is not between 0 and %d", rank,
                          nranks - 1);
    if (!device_is_valid(device))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "device=%p is not an open device",
                          (void *)device);
    return comm_create(id, nranks, rank, device, config, comm_out);
}

/* ---- end ---- */

thrum_status_t comm_await(struct thrum_comm *comm, uint64_t number)
{
    for (;;) {
        const struct comm_operation *oldest;
        uint64_t retired;
        thrum_status_t status;

        comm_retire(comm);
        retired = atomic_load_explicit(&comm->retired_number, memory_order_acquire);
        if (retired >= number)
            return THRUM_OK;
        if (atomic_load_explicit(&comm->status, memory_order_acquire))
            return comm_failure(comm);
        oldest = comm_operation_at(comm, retired + 1);
        status = comm->ops->wait(oldest->queue->impl, oldest->ticket, 20000000);
        if (status && status != THRUM_ERR_TIMEOUT) {
            struct timespec pause = {.tv_nsec = 1000000}; /* the control thread finds the cause */
            nanosleep(&pause, NULL);
        }
    }
}

thrum_status_t comm_drain(struct thrum_comm *comm)
{
    return comm_await(comm, atomic_load_explicit(&comm->issued, memory_order_relaxed));
}

thrum_status_t thrum_comm_finalize(thrum_comm_t comm)
{
    thrum_status_t status;

    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    if (comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "%s is finalized already", comm->name);
    status = comm_drain(comm);
    if (!status)
        status = control_finalize(comm->control, comm->deadline_ns / 1000000);
    comm->finalized = true;
    return atomic_load(&comm->status) ? comm_failure(comm) : status;
}

static int64_t left_until(int64_t end)
{
    int64_t now = now_ns();

    return now < end ? end - now : 0;
}

/* Whether a submission has ended by then, with whatever status: what was cancelled has that of the failure. */
static bool wait_until(struct thrum_comm *comm, struct thrum_queue *queue, uint64_t ticket,
                       int64_t end)
{
    thrum_status_t status = comm->ops->wait(queue->impl, ticket, left_until(end));

    return status != THRUM_ERR_TIMEOUT || comm->ops->poll(queue->impl, ticket) != THRUM_IN_PROGRESS;
}

/*
 * After a failure: waits, bounded in all, until queues are through with this communicator's commands. False: one of them still
 * executes, as a reduction of the user's may.
 */
static bool wait_cancelled(struct thrum_comm *comm)
{
    uint64_t issued = atomic_load(&comm->issued);
    int64_t end = now_ns() + CANCEL_WAIT_NS;
    bool all = true;

    for (uint64_t number = atomic_load(&comm->retired_number) + 1; number <= issued; number++) {
        struct comm_operation *operation = comm_operation_at(comm, number);
        bool ended = wait_until(comm, operation->queue, operation->ticket, end);

        for (int lane = 1; lane < PLAN_MAX_LANES; lane++)
            if (operation->lane_queue[lane])
                ended &= wait_until(comm, operation->lane_queue[lane], operation->lane_ticket[lane],
                                    end);
        all &= ended;
        if (!ended)
            continue;
        pthread_mutex_lock(&comm->retire_lock);
        comm_free_operation(operation);
        pthread_mutex_unlock(&comm->retire_lock);
    }
    return all;
}

/*
 * A destroyed communicator of which a command still executes: it works on memory of the communicator's, which stays for that
 * long, that is for ever, since nobody says when. What others could wait for goes.
 */
static void abandon(struct thrum_comm *comm)
{
    static _Atomic(struct thrum_comm *)
        abandoned; /* kept in sight of tools that look for lost memory */

    thrum_log(LOG_WARN,
              "%s: destroyed while a command of it still executes after %d s: its memory stays",
              comm->name, (int)(CANCEL_WAIT_NS / 1000000000));
    bootstrap_close(comm->bootstrap);
    comm_windows_free(comm);
    bootstrap_leave_place(comm->peers[comm->rank].place, comm->place_fd);
    comm_drop_notices(comm);
    for (int i = 0; i < comm->nqueues; i++)
        queue_release(comm->queues[i]);
    for (struct comm_link *link = comm->links; link; link = link->next)
        link->comm = NULL;
    device_let_go(comm->held_device); /* the last close would wait */
    comm->magic = 0;
    comm->abandoned_before = atomic_exchange(&abandoned, comm);
}

void thrum_comm_destroy(thrum_comm_t comm)
{
    bool all_ended = true;

    if (!comm)
        return;
    if (!comm_is_valid(comm)) {
        thrum_log(LOG_WARN, "thrum_comm_destroy: %p is not a live communicator", (void *)comm);
        return;
    }
    if (comm_drain(comm)) {
        comm_cancel_all(comm);
        all_ended = wait_cancelled(comm);
    }
    control_stop(comm->control);
    comm->control = NULL;
    comm_registry_remove(comm);
    if (all_ended)
        release(comm);
    else
        abandon(comm);
}

thrum_status_t thrum_comm_abort(thrum_comm_t comm)
{
    char message[128];

    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    snprintf(message, sizeof message, "%s: rank %d called thrum_comm_abort", comm->name,
             comm->rank);
    comm_fail(comm, THRUM_ERR_ABORTED, comm->rank, true, message);
    return THRUM_OK;
}
