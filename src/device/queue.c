/* Public calls on queues. Called by applications; exec calls the plugin's table itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/device_internal.h"

#define DESTROY_TIMEOUT_NS 5000000000 /* for the command that executes */
#define STATUS_KEPT 1024 /* submissions whose status a plugin remembers */

void (*_Atomic device_queue_error_hook)(struct thrum_queue *queue, thrum_status_t status);

bool queue_is_valid(const struct thrum_queue *queue)
{
    return handle_is_valid(HANDLE_QUEUE, queue);
}

thrum_status_t queue_check(const struct thrum_queue *queue)
{
    if (!queue_is_valid(queue))
        return thrum_fail(THRUM_ERR_INVALID_QUEUE, "queue=%p is %s", (const void *)queue,
                          queue ? "destroyed or foreign" : "NULL");
    if (queue->generation != queue->ops->generation(queue->device->impl))
        return thrum_fail(THRUM_ERR_RESET, "queue %llu of %s is of generation %u",
                          (unsigned long long)queue->ops->queue_id(queue->impl),
                          queue->device->properties.name, queue->generation);
    return THRUM_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

/* What create and import begin with: a handle that is not alive yet. */
static thrum_status_t begin(struct thrum_device *device, const thrum_queue_t *queue_out,
                            struct thrum_queue **fresh_out)
{
    struct thrum_queue *queue;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!queue_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "queue_out=NULL");
    queue = handle_take(HANDLE_QUEUE);
    if (!queue)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a queue handle");
    /* read first: a reset in between makes the queue look old, never new */
    queue->generation = device->ops->generation(device->impl);
    *fresh_out = queue;
    return THRUM_OK;
}

/* And end with: `status` is what the plugin said, who has filled in queue->impl. */
static thrum_status_t finish(struct thrum_queue *queue, struct thrum_device *device, unsigned flags,
                             thrum_status_t status, thrum_queue_t *queue_out)
{
    if (status) {
        handle_give(HANDLE_QUEUE, queue);
        return status;
    }
    queue->device = device;
    queue->ops = device->ops;
    queue->flags = flags;
    pthread_mutex_init(&queue->marks_lock, NULL);
    pthread_mutex_init(&queue->error_lock, NULL);
    atomic_store_explicit(&queue->references, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&device->references, 1, memory_order_relaxed);
    handle_publish(HANDLE_QUEUE, queue);
    *queue_out = queue;
    return THRUM_OK;
}

thrum_status_t thrum_queue_create(thrum_device_t device, unsigned flags, thrum_queue_t *queue_out)
{
    struct thrum_queue *queue;
    thrum_status_t status = begin(device, queue_out, &queue);

    if (status)
        return status;
    status = device->ops->queue_create(device->impl, flags, &queue->impl);
    return finish(queue, device, flags, status, queue_out);
}

thrum_status_t thrum_queue_import(thrum_device_t device, void *native, thrum_queue_t *queue_out)
{
    struct thrum_queue *queue;
    thrum_status_t status = begin(device, queue_out, &queue);

    if (status)
        return status;
    (void)thrum_set_last_error(THRUM_OK, ""); /* a plugin of a vendor cannot set a text */
    status = device->ops->queue_import(device->impl, native, THRUM_QUEUE_DEFAULT, &queue->impl);
    if (status && !*thrum_last_error())
        (void)thrum_fail(status, "stream %p of %s: %s", native, device->properties.name,
                         thrum_status_string(status));
    queue->is_imported = true;
    return finish(queue, device, THRUM_QUEUE_DEFAULT, status, queue_out);
}

void thrum_queue_destroy(thrum_queue_t queue)
{
    if (queue_is_valid(queue) && !capture_refuse(queue, "thrum_queue_destroy"))
        queue_end(queue);
}

void queue_end(struct thrum_queue *queue)
{
    uint64_t last;

    handle_retract(queue);
    capture_drop(queue);
    event_close_queue(queue);
    /* to the end of all tickets: who still holds the queue can submit nothing more */
    queue->ops->cancel(queue->impl, 1, UINT64_MAX, THRUM_ERR_ABORTED);
    last = atomic_load_explicit(&queue->last_ticket, memory_order_acquire);
    /* TIMEOUT may also be what the last submission ended with */
    if (last && queue->ops->wait(queue->impl, last, DESTROY_TIMEOUT_NS) == THRUM_ERR_TIMEOUT &&
        queue->ops->poll(queue->impl, last) == THRUM_IN_PROGRESS)
        thrum_log(LOG_WARN, "a destroyed queue of %s still executes a command",
                  queue->device->properties.name);
    event_forget_queue(queue);
    queue_release(queue);
}

void queue_hold(struct thrum_queue *queue)
{
    atomic_fetch_add_explicit(&queue->references, 1, memory_order_relaxed);
}

void queue_release(struct thrum_queue *queue)
{
    struct thrum_device *device = queue->device;

    if (atomic_fetch_sub_explicit(&queue->references, 1, memory_order_acq_rel) != 1)
        return;
    if (device_is_valid(
            device)) { /* else the device's close has taken the plugin's queue with it */
        queue->ops->queue_destroy(queue->impl);
        atomic_fetch_sub_explicit(&device->references, 1, memory_order_relaxed);
    }
    pthread_mutex_destroy(&queue->marks_lock);
    pthread_mutex_destroy(&queue->error_lock);
    handle_give(HANDLE_QUEUE, queue);
}

thrum_device_t thrum_queue_device(thrum_queue_t queue)
{
    return queue_is_valid(queue) ? queue->device : NULL;
}

uint64_t thrum_queue_id(thrum_queue_t queue)
{
    return queue_is_valid(queue) ? queue->ops->queue_id(queue->impl) : 0;
}

/* ---- submit ---------------------------------------------------------------------------------------------------- */

thrum_status_t thrum_queue_submit(thrum_queue_t queue, const struct thrum_command *commands,
                                  size_t n, uint64_t *ticket_out)
{
    uint64_t ticket;
    thrum_status_t status = queue_check(queue);

    if (status)
        return status;
    if (queue_is_capturing(queue)) {
        status = capture_commands(queue, commands, n);
        if (!status && ticket_out)
            *ticket_out = 0;
        return status;
    }
    status = queue->ops->submit(queue->impl, commands, n, &ticket);
    if (status)
        return status;
    queue_raise(&queue->last_ticket, ticket);
    if (ticket_out)
        *ticket_out = ticket;
    return THRUM_OK;
}

static struct thrum_operand operand(const void *pointer)
{
    return (struct thrum_operand){.base = (uint64_t)(uintptr_t)pointer};
}

thrum_status_t thrum_copy(thrum_queue_t queue, void *dst, const void *src, size_t bytes)
{
    struct thrum_operand operands[] = {operand(dst), operand(src)};
    struct thrum_command command = {
        .opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = bytes, .operands = operands};

    return thrum_queue_submit(queue, &command, 1, NULL);
}

thrum_status_t thrum_fill(thrum_queue_t queue, void *dst, uint8_t byte, size_t bytes)
{
    struct thrum_operand operands[] = {operand(dst)};
    struct thrum_command command = {
        .opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = bytes, .value = byte, .operands = operands};

    return thrum_queue_submit(queue, &command, 1, NULL);
}

thrum_status_t thrum_queue_reduce(thrum_queue_t queue, void *dst, const void *const *srcs,
                                  int nsrcs, size_t count, thrum_datatype_t dtype, thrum_redop_t op)
{
    struct thrum_operand *operands;
    struct thrum_command command = {.opcode = THRUM_CMD_REDUCE,
                                    .dtype = (uint8_t)dtype,
                                    .redop = (uint8_t)op,
                                    .ndst = 1,
                                    .divisor = op == THRUM_AVG ? (uint64_t)nsrcs : 1};
    size_t bytes;
    thrum_status_t status = queue_check(queue);

    if (status)
        return status;
    if (nsrcs < 1 || nsrcs > UINT16_MAX || !srcs)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=%d", srcs ? "nsrcs" : "srcs",
                          srcs ? nsrcs : 0);
    if ((unsigned)dtype >= THRUM_DATATYPE_COUNT)
        return thrum_fail(THRUM_ERR_INVALID_TYPE, "dtype=%d", (int)dtype);
    if ((unsigned)op >= THRUM_REDOP_COUNT)
        return thrum_fail(THRUM_ERR_INVALID_OP, "op=%d", (int)op);
    if (mul_overflows(count, thrum_datatype_size(dtype), &bytes))
        return thrum_fail(THRUM_ERR_INVALID_COUNT, "count=%zu", count);
    operands = malloc(((size_t)nsrcs + 1) * sizeof *operands);
    if (!operands)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for %d operands", nsrcs);
    operands[0] = operand(dst);
    for (int i = 0; i < nsrcs; i++)
        operands[i + 1] = operand(srcs[i]);
    command.nsrc = (uint16_t)nsrcs;
    command.bytes = bytes;
    command.operands = operands;
    status = thrum_queue_submit(queue, &command, 1, NULL);
    free(operands);
    return status;
}

thrum_status_t thrum_queue_callback(thrum_queue_t queue, thrum_callback_t callback, void *argument)
{
    struct thrum_command command = {
        .opcode = THRUM_CMD_CALLBACK, .callback = callback, .argument = argument};

    return thrum_queue_submit(queue, &command, 1, NULL);
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

static thrum_status_t explain(struct thrum_queue *queue, thrum_status_t status)
{
    static const char *const commands[] = {"NOP",    "COPY",     "FILL",       "REDUCE",
                                           "SIGNAL", "WAIT",     "WRITE_LINE", "WAIT_LINE",
                                           "PUT",    "CALLBACK", "SCALE"};
    uint64_t id = queue->ops->queue_id(queue->impl);
    const char *name = queue->device->properties.name;
    struct thrum_ras_event fault;

    if ((status == THRUM_ERR_FAULT || status == THRUM_ERR_BAD_PACKET) &&
        !queue->ops->fault_info(queue->device->impl, &fault) && fault.queue_id == id)
        return thrum_fail(status, "%s queue %llu: %s at 0x%llx in %s, ticket %llu", name,
                          (unsigned long long)id, thrum_ras_kind_name(fault.kind),
                          (unsigned long long)fault.address,
                          fault.opcode < sizeof commands / sizeof *commands ? commands[fault.opcode]
                                                                            : "no command",
                          (unsigned long long)fault.ticket);
    return thrum_fail(status, "%s queue %llu: %s", name, (unsigned long long)id,
                      thrum_status_string(status));
}

/* The first error of the submissions behind `ticket` up to `last`, which has ended. */
static thrum_status_t first_error(struct thrum_queue *queue, uint64_t ticket, uint64_t last,
                                  thrum_status_t last_status)
{
    thrum_status_t status = THRUM_OK;

    if (last - ticket >= STATUS_KEPT)
        ticket = last - STATUS_KEPT + 1;
    while (++ticket < last && !status)
        status = queue->ops->poll(queue->impl, ticket);
    return status < 0 ? status : last_status;
}

thrum_status_t queue_ended_status(struct thrum_queue *queue, uint64_t after, uint64_t ticket)
{
    if (ticket <= after)
        return THRUM_OK;
    return first_error(queue, after, ticket, queue->ops->poll(queue->impl, ticket));
}

void queue_fail(struct thrum_queue *queue, thrum_status_t status, const char *message)
{
    pthread_mutex_lock(&queue->error_lock);
    if (!atomic_load_explicit(&queue->error, memory_order_relaxed)) {
        snprintf(queue->error_text, sizeof queue->error_text, "%s", message ? message : "");
        atomic_store_explicit(&queue->error, status, memory_order_release);
    }
    pthread_mutex_unlock(&queue->error_lock);
}

/* What queue_fail left, once; OK if nothing. */
static thrum_status_t take_failure(struct thrum_queue *queue)
{
    thrum_status_t status;

    if (!atomic_load_explicit(&queue->error, memory_order_acquire))
        return THRUM_OK;
    pthread_mutex_lock(&queue->error_lock);
    status = (thrum_status_t)atomic_exchange_explicit(&queue->error, 0, memory_order_relaxed);
    if (status)
        (void)thrum_set_last_error(status, queue->error_text);
    pthread_mutex_unlock(&queue->error_lock);
    return status;
}

/* Whoever issued the work may know why: see device_queue_error_hook. */
static void find_cause(struct thrum_queue *queue, thrum_status_t status)
{
    void (*hook)(struct thrum_queue *, thrum_status_t) =
        atomic_load_explicit(&device_queue_error_hook, memory_order_acquire);

    if (hook)
        hook(queue, status);
}

thrum_status_t queue_tell(struct thrum_queue *queue, uint64_t ticket, thrum_status_t status)
{
    thrum_status_t cause;

    if (queue_check(queue)) /* the queue is gone, and what it knew */
        return thrum_fail(status, "event: its queue ended with \"%s\"",
                          thrum_status_string(status));
    queue_raise(&queue->ended_ticket, ticket);
    find_cause(queue, status);
    pthread_mutex_lock(&queue->error_lock);
    cause = (thrum_status_t)atomic_load_explicit(&queue->error, memory_order_relaxed);
    if (cause)
        (void)thrum_set_last_error(cause, queue->error_text);
    pthread_mutex_unlock(&queue->error_lock);
    return cause ? cause : explain(queue, status);
}

static bool is_sticky(thrum_status_t status)
{
    return status == THRUM_ERR_FAULT || status == THRUM_ERR_BAD_PACKET || status == THRUM_ERR_RESET;
}

/* What a synchronize that has seen `last` end returns. */
static thrum_status_t collect(struct thrum_queue *queue, uint64_t last, thrum_status_t last_status)
{
    uint64_t synced = atomic_load_explicit(&queue->synced_ticket, memory_order_relaxed);
    thrum_status_t failure;

    if (last > synced) {
        last_status = first_error(queue, synced, last, last_status);
        queue_raise(&queue->synced_ticket, last);
        queue_raise(&queue->ended_ticket, last);
    } else if (!is_sticky(last_status)) {
        last_status = THRUM_OK; /* an earlier synchronize has returned it */
    }
    if (last_status)
        find_cause(queue, last_status);
    failure = take_failure(queue);
    if (failure)
        return failure;
    return last_status ? explain(queue, last_status) : THRUM_OK;
}

/* `call`: the public name, for messages. */
static thrum_status_t synchronize(thrum_queue_t queue, int64_t timeout_ns, const char *call)
{
    uint64_t last;
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, call);
    if (status)
        return status;
    last = atomic_load_explicit(&queue->last_ticket, memory_order_acquire);
    status = last ? queue->ops->wait(queue->impl, last, timeout_ns) : THRUM_OK;
    if (status == THRUM_ERR_TIMEOUT && queue->ops->poll(queue->impl, last) == THRUM_IN_PROGRESS)
        return thrum_fail(status, "queue %llu: ticket %llu has not ended within %lld ns",
                          (unsigned long long)queue->ops->queue_id(queue->impl),
                          (unsigned long long)last, (long long)timeout_ns);
    return collect(queue, last, status);
}

thrum_status_t thrum_queue_synchronize_for(thrum_queue_t queue, int64_t timeout_ns)
{
    return synchronize(queue, timeout_ns, "thrum_queue_synchronize_for");
}

thrum_status_t thrum_queue_synchronize(thrum_queue_t queue)
{
    return synchronize(queue, -1, "thrum_queue_synchronize");
}

thrum_status_t thrum_queue_drain(thrum_queue_t queue)
{
    uint64_t last;
    thrum_status_t status = queue_check(queue);

    if (status)
        return status;
    last = atomic_load_explicit(&queue->last_ticket, memory_order_acquire);
    if (last)
        (void)queue->ops->wait(queue->impl, last, -1);
    return THRUM_OK;
}

thrum_status_t thrum_queue_query(thrum_queue_t queue)
{
    uint64_t last;
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, "thrum_queue_query");
    if (status)
        return status;
    last = atomic_load_explicit(&queue->last_ticket, memory_order_acquire);
    status = last ? queue->ops->poll(queue->impl, last) : THRUM_OK;
    return status == THRUM_IN_PROGRESS ? status : collect(queue, last, status);
}

thrum_status_t thrum_queue_query_tickets(thrum_queue_t queue, uint64_t after, uint64_t ticket)
{
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, "thrum_queue_query_tickets");
    if (status)
        return status;
    if (ticket > atomic_load_explicit(&queue->last_ticket, memory_order_acquire))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "ticket=%llu has not been given",
                          (unsigned long long)ticket);
    if (ticket <= after)
        return THRUM_OK;
    status = queue->ops->poll(queue->impl, ticket);
    if (status != THRUM_IN_PROGRESS)
        status = first_error(queue, after, ticket, status);
    return status < 0 ? explain(queue, status) : status;
}
