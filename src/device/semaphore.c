/* Public semaphores: each is an allocation of 8 bytes, so that export, import and faults are those of memory. */
#include "base/base.h"
#include "device/device_internal.h"

static thrum_status_t semaphore_check(const struct thrum_semaphore *semaphore)
{
    if (!handle_is_valid(HANDLE_SEMAPHORE, semaphore))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "semaphore=%p is %s", (const void *)semaphore,
                          semaphore ? "destroyed or foreign" : "NULL");
    if (semaphore->generation != semaphore->device->ops->generation(semaphore->device->impl))
        return thrum_fail(THRUM_ERR_RESET, "semaphore=%p is of generation %u",
                          (const void *)semaphore, semaphore->generation);
    return THRUM_OK;
}

static struct thrum_semaphore *semaphore_new(thrum_device_t device)
{
    struct thrum_semaphore *semaphore = handle_take(HANDLE_SEMAPHORE);

    if (!semaphore) {
        (void)thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a semaphore handle");
        return NULL;
    }
    semaphore->device = device;
    semaphore->generation = device->ops->generation(device->impl);
    return semaphore;
}

thrum_status_t thrum_semaphore_create(thrum_device_t device, uint64_t initial,
                                      thrum_semaphore_t *semaphore_out)
{
    struct thrum_semaphore *semaphore;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!semaphore_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "semaphore_out=NULL");
    semaphore = semaphore_new(device);
    if (!semaphore)
        return THRUM_ERR_NO_MEMORY;
    status = device->ops->mem_alloc(device->impl, sizeof(uint64_t), &semaphore->address);
    if (!status && initial) {
        status = device->ops->mem_poke(device->impl, semaphore->address, &initial, sizeof initial);
        if (status)
            (void)device->ops->mem_free(device->impl, semaphore->address);
    }
    if (status) {
        handle_give(HANDLE_SEMAPHORE, semaphore);
        return status;
    }
    handle_publish(HANDLE_SEMAPHORE, semaphore);
    *semaphore_out = semaphore;
    return THRUM_OK;
}

void thrum_semaphore_destroy(thrum_semaphore_t semaphore)
{
    if (!handle_is_valid(HANDLE_SEMAPHORE, semaphore))
        return;
    /* after a hard reset there is nothing to free any more */
    (void)semaphore->device->ops->mem_free(semaphore->device->impl, semaphore->address);
    handle_give(HANDLE_SEMAPHORE, semaphore);
}

thrum_status_t thrum_semaphore_export(thrum_semaphore_t semaphore,
                                      struct thrum_mem_handle *handle_out)
{
    thrum_status_t status = semaphore_check(semaphore);

    if (status)
        return status;
    if (!handle_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "handle_out=NULL");
    return semaphore->device->ops->mem_export(semaphore->device->impl, semaphore->address,
                                              handle_out);
}

thrum_status_t thrum_semaphore_import(thrum_device_t device, const struct thrum_mem_handle *handle,
                                      thrum_semaphore_t *semaphore_out)
{
    struct thrum_semaphore *semaphore;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!handle || !semaphore_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=NULL",
                          handle ? "semaphore_out" : "handle");
    semaphore = semaphore_new(device);
    if (!semaphore)
        return THRUM_ERR_NO_MEMORY;
    status = device->ops->mem_import(device->impl, handle, &semaphore->address);
    if (status) {
        handle_give(HANDLE_SEMAPHORE, semaphore);
        return status;
    }
    semaphore->imported = true;
    handle_publish(HANDLE_SEMAPHORE, semaphore);
    *semaphore_out = semaphore;
    return THRUM_OK;
}

thrum_status_t thrum_semaphore_read(thrum_semaphore_t semaphore, uint64_t *value_out)
{
    uint64_t value;
    thrum_status_t status = semaphore_check(semaphore);

    if (status)
        return status;
    if (!value_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "value_out=NULL");
    status = semaphore->device->ops->mem_peek(semaphore->device->impl, semaphore->address, &value,
                                              sizeof value);
    if (!status)
        *value_out = value;
    return status;
}

uint64_t thrum_semaphore_address(thrum_semaphore_t semaphore)
{
    return handle_is_valid(HANDLE_SEMAPHORE, semaphore) ? semaphore->address : 0;
}

static thrum_status_t submit_one(thrum_queue_t queue, thrum_semaphore_t semaphore,
                                 thrum_opcode_t opcode, uint64_t value)
{
    struct thrum_operand operand;
    struct thrum_command command = {.opcode = (uint8_t)opcode,
                                    .ndst = opcode == THRUM_CMD_SIGNAL,
                                    .nsrc = opcode == THRUM_CMD_WAIT,
                                    .value = value,
                                    .operands = &operand};
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = semaphore_check(semaphore);
    if (status)
        return status;
    if (queue->device != semaphore->device)
        return thrum_fail(THRUM_ERR_INVALID_QUEUE,
                          "queue is of %s, semaphore of %s: import it there",
                          queue->device->properties.name, semaphore->device->properties.name);
    operand = (struct thrum_operand){.base = semaphore->address};
    return thrum_queue_submit(queue, &command, 1, NULL);
}

thrum_status_t thrum_queue_signal(thrum_queue_t queue, thrum_semaphore_t semaphore, uint64_t add)
{
    return submit_one(queue, semaphore, THRUM_CMD_SIGNAL, add);
}

thrum_status_t thrum_queue_wait(thrum_queue_t queue, thrum_semaphore_t semaphore, uint64_t value)
{
    return submit_one(queue, semaphore, THRUM_CMD_WAIT, value);
}
