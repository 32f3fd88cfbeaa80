/* What a communicator tells about itself: rank, size, device, error, memory. Public entry points. */
#include "comm/comm.h"

#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "comm/trace.h"
#include "exec/exec.h"

thrum_status_t thrum_comm_async_error(thrum_comm_t comm, thrum_status_t *status_out,
                                      const char **message_out)
{
    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    if (!status_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "status_out is NULL");
    *status_out = (thrum_status_t)atomic_load_explicit(&comm->status, memory_order_acquire);
    if (message_out)
        *message_out = *status_out ? comm->message : "";
    return THRUM_OK;
}

static thrum_status_t check_query(thrum_comm_t comm, const void *out, const char *argument)
{
    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    if (!out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s is NULL", argument);
    return THRUM_OK;
}

thrum_status_t thrum_comm_culprit(thrum_comm_t comm, int *rank_out)
{
    thrum_status_t status = check_query(comm, rank_out, "rank_out");

    if (!status)
        *rank_out = atomic_load_explicit(&comm->status, memory_order_acquire) ? comm->culprit : -1;
    return status;
}

thrum_status_t thrum_comm_rank(thrum_comm_t comm, int *rank_out)
{
    thrum_status_t status = check_query(comm, rank_out, "rank_out");

    if (!status)
        *rank_out = comm->rank;
    return status;
}

thrum_status_t thrum_comm_parent_rank(thrum_comm_t comm, int rank, int *parent_rank_out)
{
    thrum_status_t status = check_query(comm, parent_rank_out, "parent_rank_out");

    if (status)
        return status;
    if (rank < 0 || rank >= comm->nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "rank=%d is not between 0 and %d", rank,
                          comm->nranks - 1);
    *parent_rank_out = comm->peers[rank].parent_rank;
    return THRUM_OK;
}

thrum_status_t thrum_comm_size(thrum_comm_t comm, int *nranks_out)
{
    thrum_status_t status = check_query(comm, nranks_out, "nranks_out");

    if (!status)
        *nranks_out = comm->nranks;
    return status;
}

thrum_status_t thrum_comm_device(thrum_comm_t comm, thrum_device_t *device_out)
{
    thrum_status_t status = check_query(comm, device_out, "device_out");

    if (!status)
        *device_out = comm->device;
    return status;
}

static uint64_t host_bytes(int nranks, uint64_t operations)
{
    return sizeof(struct thrum_comm) + (uint64_t)nranks * sizeof(struct comm_peer) +
           operations * sizeof(struct comm_operation);
}

static uint64_t works_bytes(const struct thrum_comm *comm)
{
    uint64_t bytes = 0;

    for (int i = 0; i < COMM_KEPT_WORKS; i++)
        bytes += comm->kept_works[i] ? COMM_KEPT_WORK_BYTES : 0;
    return bytes;
}

/* That host_bytes, the cache and other things that are kept may come to. */
static uint64_t host_limit_bytes(int nranks)
{
    return host_bytes(nranks, COMM_IN_FLIGHT_MOST) + EXEC_CACHE_LIMIT_BYTES + EXEC_BOUNCE_BYTES +
           EXEC_LIST_KEPT_BYTES + COMM_KEPT_WORKS * COMM_KEPT_WORK_BYTES +
           sizeof(struct comm_trace);
}

static thrum_status_t write_memory(struct thrum_comm_memory_info *out,
                                   const struct thrum_comm_memory_info *values)
{
    size_t size = out->size;

    if (size < sizeof out->size || size > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "memory_out.size=%zu: set it to sizeof(struct thrum_comm_memory_info)",
                          size);
    memcpy(out, values, min_u64(size, sizeof *values));
    out->size = size;
    return THRUM_OK;
}

thrum_status_t thrum_comm_memory(thrum_comm_t comm, struct thrum_comm_memory_info *memory_out)
{
    thrum_status_t status = check_query(comm, memory_out, "memory_out");
    struct thrum_comm_memory_info values = {0};
    uint64_t kept;

    if (status)
        return status;
    kept = atomic_load_explicit(&comm->kept_bytes, memory_order_relaxed);
    values.stage_bytes = comm->stage_bytes[0] + comm->stage_bytes[1] + comm->old_stage_bytes;
    values.stage_limit_bytes = (uint64_t)thrum_config_int(CFG_STAGE_BYTES);
    values.device_bytes = comm->area_bytes + values.stage_bytes;
    values.scratch_bytes = comm->scratch_bytes;
    values.host_bytes = host_bytes(comm->nranks, comm->operations_mask + 1) +
                        exec_cache_bytes(comm->cache) + (comm->bounce ? EXEC_BOUNCE_BYTES : 0) +
                        exec_list_bytes(comm->list) + works_bytes(comm) + comm_trace_bytes(comm) +
                        kept;
    values.host_limit_bytes = host_limit_bytes(comm->nranks) + kept;
    return write_memory(memory_out, &values);
}

thrum_status_t thrum_comm_memory_plan(int nranks, const struct thrum_comm_config *config,
                                      struct thrum_comm_memory_info *memory_out)
{
    struct thrum_comm_memory_info values = {0};
    struct thrum_comm_config effective;
    uint64_t own, scratch;
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (nranks < 1 || nranks > 1 << 20)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "nranks=%d is not between 1 and 1048576",
                          nranks);
    if (!memory_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "memory_out is NULL");
    status = comm_effective_config(config, &effective);
    if (status)
        return status;
    values.scratch_bytes = effective.scratch_bytes;
    values.device_bytes = comm_area_bytes(nranks, effective.scratch_bytes, &own, &scratch);
    values.stage_limit_bytes = (uint64_t)thrum_config_int(CFG_STAGE_BYTES);
    values.host_bytes = host_bytes(nranks, COMM_IN_FLIGHT);
    values.host_limit_bytes = host_limit_bytes(nranks);
    return write_memory(memory_out, &values);
}
