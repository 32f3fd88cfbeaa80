/*
 * Host buffers: which memory a pointer is, device memory that stands for host memory, and the copies between them.
 * Called by api (placing) and run.c (the copies).
 */
#include "exec/exec.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"

/* From here on a copy fills the cache with what falls out of it before it is read. */
#define STREAM_BYTES (4u << 20)
/* No process has memory below: where Linux's vm.mmap_min_addr is usually. */
#define LEAST_ADDRESS 65536

thrum_status_t exec_classify(struct thrum_comm *comm, const char *argument, const void *pointer,
                             uint64_t bytes, enum thrum_mem_kind *kind_out)
{
    struct thrum_mem_info info = {.size = sizeof info};
    uint64_t address = (uint64_t)(uintptr_t)pointer, epoch = device_memory_epoch(comm->device);
    struct comm_memory *known =
        &comm->known_memory[(address >> 12) * 0x9e3779b97f4a7c15u >> 32 & (COMM_KNOWN_MEMORY - 1)];
    thrum_status_t status;

    if (address - known->start < known->end - known->start && bytes <= known->end - address &&
        known->epoch == epoch) {
        *kind_out = known->kind;
        return THRUM_OK;
    }
    if (!pointer)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s is NULL", argument);
    status = comm->ops->mem_query(comm->device->impl, address, &info);
    if (status)
        return status;
    if (info.kind == THRUM_MEM_PEER)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s=%p is memory of another device, not of %s",
                          argument, pointer, comm->device->properties.name);
    if (info.kind == THRUM_MEM_HOST) {
        if (comm->ops->address_is_device(address))
            return thrum_fail(THRUM_ERR_INVALID_POINTER,
                              "%s=%p is no live device memory of %s: it was freed, or belongs to "
                              "another device",
                              argument, pointer, comm->device->properties.name);
        if (address < LEAST_ADDRESS)
            return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s=%p is no address of memory", argument,
                              pointer);
        if (address + bytes < address)
            return thrum_fail(THRUM_ERR_INVALID_POINTER, "%s=%p: %llu bytes wrap around", argument,
                              pointer, (unsigned long long)bytes);
    } else {
        uint64_t offset = address - (uint64_t)(uintptr_t)info.base;
        if (bytes > info.bytes || offset > info.bytes - bytes)
            return thrum_fail(THRUM_ERR_INVALID_POINTER,
                              "%s=%p: %llu bytes leave its %s of %llu bytes at %p", argument,
                              pointer, (unsigned long long)bytes,
                              info.kind == THRUM_MEM_DEVICE ? "allocation" : "registered range",
                              (unsigned long long)info.bytes, info.base);
        *known =
            (struct comm_memory){(uint64_t)(uintptr_t)info.base,
                                 (uint64_t)(uintptr_t)info.base + info.bytes, epoch, info.kind};
    }
    *kind_out = info.kind;
    return THRUM_OK;
}

static bool is_pageable(const struct thrum_comm *comm)
{
    return comm->device->properties.capabilities & THRUM_CAP_PAGEABLE;
}

bool exec_reaches(const struct thrum_comm *comm, enum thrum_mem_kind kind)
{
    return kind != THRUM_MEM_HOST || is_pageable(comm);
}

/* Frees the outgrown stages that no operation uses any more. */
static void free_old_stages(struct thrum_comm *comm)
{
    uint64_t done = comm_done(comm);

    for (struct comm_old_stage **link = &comm->old_stages; *link;) {
        struct comm_old_stage *old = *link;

        if (old->number > done) {
            link = &old->next;
            continue;
        }
        *link = old->next;
        comm->old_stage_bytes -= old->bytes;
        (void)comm->ops->mem_free(comm->device->impl, old->address);
        free(old);
    }
}

/*
 * Puts a stage aside until the operations that use it have ended. Not waiting for them lets one thread call for several
 * ranks, each of which ends only with the others.
 */
static thrum_status_t outgrow(struct thrum_comm *comm, int which)
{
    struct comm_old_stage *old;

    if (!comm->stage[which])
        return THRUM_OK;
    old = malloc(sizeof *old);
    if (!old)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a stage");
    *old = (struct comm_old_stage){.next = comm->old_stages,
                                   .address = comm->stage[which],
                                   .bytes = comm->stage_bytes[which],
                                   .number = atomic_load(&comm->issued)};
    comm->old_stages = old;
    comm->old_stage_bytes += old->bytes;
    comm->stage[which] = comm->stage_bytes[which] = 0;
    comm->stage_moves++;
    return THRUM_OK;
}

thrum_status_t exec_stage(struct thrum_comm *comm, int which, uint64_t bytes, uint64_t *address_out)
{
    uint64_t limit = (uint64_t)thrum_config_int(CFG_STAGE_BYTES);
    uint64_t wanted = round_up_u64(max_u64(bytes, 1), 65536), address;
    thrum_status_t status;

    free_old_stages(comm);
    if (bytes > comm->stage_bytes[which]) {
        if (bytes > limit || wanted + comm->stage_bytes[!which] > limit)
            return thrum_fail(
                THRUM_ERR_NO_DEVICE_MEMORY,
                "%s: host buffers or a copy of %llu bytes need more than THRUM_STAGE_BYTES=%llu "
                "of device memory",
                comm->name, (unsigned long long)bytes, (unsigned long long)limit);
        status = outgrow(comm, which);
        if (status)
            return status;
        if (wanted + comm->stage_bytes[!which] + comm->old_stage_bytes > limit) {
            status = comm_drain(comm); /* only so is there room */
            if (status)
                return status;
            free_old_stages(comm);
        }
        status = comm->ops->mem_alloc(comm->device->impl, wanted, &address);
        if (status)
            return status;
        comm->stage[which] = address;
        comm->stage_bytes[which] = wanted;
    }
    *address_out = comm->stage[which];
    return THRUM_OK;
}

/* ---- the copies ---- */

struct bounce_context {
    void *dst;
    const void *src;
    size_t bytes;
};

static thrum_status_t bounce_callback(void *argument)
{
    const struct bounce_context *context = argument;

    memcpy(context->dst, context->src, context->bytes);
    return THRUM_OK;
}

static size_t pieces(const struct exec_copy *copy)
{
    return (copy->bytes + EXEC_BOUNCE_BYTES - 1) / EXEC_BOUNCE_BYTES;
}

/* Whether the copy is one command. */
static bool is_direct(const struct exec_copy *copy, bool pageable)
{
    return copy->registered || pageable;
}

static void count_copies(const struct exec_copy *copies, size_t n, bool pageable, size_t *commands,
                         size_t *contexts)
{
    for (size_t i = 0; i < n; i++) {
        bool direct = is_direct(&copies[i], pageable);
        *commands += direct ? 1 : 2 * pieces(&copies[i]);
        *contexts += direct ? 0 : pieces(&copies[i]);
    }
}

/* The bounce buffer, made when first needed. */
static thrum_status_t need_bounce(struct thrum_comm *comm)
{
    void *bounce;
    thrum_status_t status;

    if (comm->bounce)
        return THRUM_OK;
    bounce = aligned_alloc(4096, EXEC_BOUNCE_BYTES);
    if (!bounce)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a bounce buffer");
    status = comm->ops->host_register(comm->device->impl, bounce, EXEC_BOUNCE_BYTES);
    if (status) {
        free(bounce);
        return status;
    }
    comm->bounce = bounce;
    return THRUM_OK;
}

static bool reserve(void **array, size_t *capacity, size_t n, size_t element_bytes)
{
    void *grown;

    if (n <= *capacity)
        return true;
    grown = realloc(*array, n * element_bytes);
    if (!grown)
        return false;
    *array = grown;
    *capacity = n;
    return true;
}

static bool reserve_all(struct exec_list *list, size_t ncommands, size_t ncopies, size_t ncontexts)
{
    if (!reserve((void **)&list->commands, &list->commands_capacity, ncommands + ncopies,
                 sizeof *list->commands) ||
        !reserve((void **)&list->operands, &list->operands_capacity, 2 * ncopies,
                 sizeof *list->operands))
        return false;
    list->contexts = ncontexts ? malloc(ncontexts * sizeof(struct bounce_context)) : NULL;
    return !ncontexts || list->contexts;
}

thrum_status_t exec_list_begin(struct thrum_comm *comm, const struct exec_staging *staging,
                               size_t ncommands, size_t nparts, struct exec_list **list_out)
{
    struct exec_list *list = comm->list ? comm->list : calloc(1, sizeof *list);
    size_t copies = 0, contexts = 0;

    if (!list)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for staging copies");
    comm->list = list;
    list->n = list->noperands = list->ncontexts = 0;
    list->pageable = is_pageable(comm);
    list->flags = staging->by_parts && list->pageable ? THRUM_CMD_FLAG_HOST : 0;
    if (!staging->by_parts) {
        count_copies(staging->in, staging->nin, list->pageable, &copies, &contexts);
        count_copies(staging->out, staging->nout, list->pageable, &copies, &contexts);
    }
    if (contexts) {
        thrum_status_t status = need_bounce(comm);
        if (status)
            return status;
    }
    list->bounce = comm->bounce;
    if (!reserve_all(list, ncommands, copies + nparts, contexts))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu staging copies", copies);
    *list_out = list;
    return THRUM_OK;
}

static void drop_arrays(struct exec_list *list)
{
    free(list->commands);
    free(list->operands);
    list->commands = NULL;
    list->operands = NULL;
    list->commands_capacity = list->operands_capacity = 0;
}

void exec_list_end(struct exec_list *list)
{
    if (exec_list_bytes(list) > EXEC_LIST_KEPT_BYTES)
        drop_arrays(list);
}

uint64_t exec_list_bytes(const struct exec_list *list)
{
    return list ? sizeof *list + list->commands_capacity * sizeof *list->commands +
                      list->operands_capacity * sizeof *list->operands
                : 0;
}

void exec_list_destroy(struct exec_list *list)
{
    if (!list)
        return;
    drop_arrays(list);
    free(list);
}

void exec_list_add(struct exec_list *list, const struct thrum_command *commands, size_t n)
{
    struct thrum_command *added = &list->commands[list->n];

    memcpy(added, commands, n * sizeof *commands);
    list->n += n;
    for (size_t i = 0; list->flags && i < n; i++)
        if (added[i].opcode == THRUM_CMD_COPY || added[i].opcode == THRUM_CMD_REDUCE ||
            added[i].opcode == THRUM_CMD_WRITE_LINE)
            added[i].flags |= list->flags;
}

static void add_copy(struct exec_list *list, uint64_t dst, uint64_t src, uint64_t bytes,
                     uint8_t flags)
{
    struct thrum_operand *operands = &list->operands[list->noperands];

    operands[0] = (struct thrum_operand){.base = dst};
    operands[1] = (struct thrum_operand){.base = src};
    list->noperands += 2;
    list->commands[list->n++] = (struct thrum_command){.opcode = THRUM_CMD_COPY,
                                                       .flags = flags,
                                                       .ndst = 1,
                                                       .nsrc = 1,
                                                       .bytes = bytes,
                                                       .operands = operands};
}

static void add_callback(struct exec_list *list, void *dst, const void *src, size_t bytes)
{
    struct bounce_context *context = (struct bounce_context *)list->contexts + list->ncontexts++;

    *context = (struct bounce_context){dst, src, bytes};
    list->commands[list->n++] = (struct thrum_command){
        .opcode = THRUM_CMD_CALLBACK, .callback = bounce_callback, .argument = context};
}

static void add_bounced(struct exec_list *list, const struct exec_copy *copy, bool to_device)
{
    uint64_t bounce = (uint64_t)(uintptr_t)list->bounce;

    for (uint64_t at = 0; at < copy->bytes; at += EXEC_BOUNCE_BYTES) {
        size_t bytes = min_u64(EXEC_BOUNCE_BYTES, copy->bytes - at);
        uint8_t *host = (uint8_t *)copy->host + at;

        if (to_device) {
            add_callback(list, list->bounce, host, bytes);
            add_copy(list, copy->device + at, bounce, bytes, 0);
        } else {
            add_copy(list, bounce, copy->device + at, bytes, 0);
            add_callback(list, host, list->bounce, bytes);
        }
    }
}

static void add_direct(struct exec_list *list, const struct exec_copy *copy, uint64_t offset,
                       uint64_t bytes, bool to_device, uint8_t flags)
{
    uint64_t host = (uint64_t)(uintptr_t)copy->host + offset, device = copy->device + offset;

    if (!copy->registered)
        flags |= THRUM_CMD_FLAG_HOST;
    if (to_device)
        add_copy(list, device, host, bytes, flags);
    else
        add_copy(list, host, device, bytes, flags);
}

void exec_list_add_copies(struct exec_list *list, const struct exec_copy *copies, size_t n,
                          bool to_device)
{
    for (size_t i = 0; i < n; i++) {
        const struct exec_copy *copy = &copies[i];

        if (!is_direct(copy, list->pageable))
            add_bounced(list, copy, to_device);
        else
            add_direct(list, copy, 0, copy->bytes, to_device,
                       copy->bytes >= STREAM_BYTES ? THRUM_CMD_FLAG_STREAM : 0);
    }
}

void exec_list_add_part(struct exec_list *list, const struct exec_copy *copy, uint64_t offset,
                        uint64_t bytes, bool to_device)
{
    /* what comes in is read at once, what goes out is not, if it is part of much */
    add_direct(list, copy, offset, bytes, to_device,
               !to_device && copy->bytes >= STREAM_BYTES ? THRUM_CMD_FLAG_STREAM : 0);
}
