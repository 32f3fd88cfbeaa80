/*
 * Registrations of device memory with the fabric, made when first used and kept by the communicator while the allocation
 * is there. Called by run.c and one_sided.c.
 */
#include "exec/run.h"

#include <stdlib.h>

#include "base/base.h"

/* Drops registrations whose allocation is gone; its addresses may be another's by now. */
static void drop_stale_regions(struct thrum_comm *comm)
{
    for (int i = comm->nregions - 1; i >= 0; i--) {
        struct comm_region *region = &comm->regions[i];
        struct thrum_mem_info info = {.size = sizeof info};

        if (!comm->ops->mem_query(comm->device->impl, region->device_base, &info) &&
            info.id == region->id)
            continue;
        comm->fabric->region_deregister(comm->endpoint, region->region);
        *region = comm->regions[--comm->nregions];
    }
}

static thrum_status_t add_region(struct thrum_comm *comm, uint64_t address, uint64_t id,
                                 struct comm_region **region_out)
{
    struct thrum_port_region port;
    struct comm_region *regions, *region;
    thrum_status_t status;

    drop_stale_regions(comm);
    status = comm->ops->port_region(comm->device->impl, address, &port);
    if (status)
        return status;
    regions = realloc(comm->regions, ((size_t)comm->nregions + 1) * sizeof *regions);
    if (!regions)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a fabric registration");
    comm->regions = regions;
    region = &regions[comm->nregions];
    *region = (struct comm_region){.id = id, .device_base = port.device_base, .bytes = port.bytes};
    status = THRUM_ERR_UNSUPPORTED;
    if (port.dmabuf_fd >= 0)
        status = comm->fabric->region_register_dmabuf(comm->endpoint, port.dmabuf_fd, 0, port.bytes,
                                                      &region->region, &region->key);
    /* Drivers without dmabuf may still know the memory by where it is mapped. */
    if (status == THRUM_ERR_UNSUPPORTED && (port.cpu_base || port.dmabuf_fd < 0))
        status = comm->fabric->region_register(comm->endpoint, port.cpu_base, port.bytes,
                                               &region->region, &region->key);
    if (status)
        return status;
    comm->nregions++;
    *region_out = region;
    return THRUM_OK;
}

thrum_status_t exec_find_region(struct thrum_comm *comm, uint64_t address,
                                struct comm_region **region_out)
{
    struct thrum_mem_info info = {.size = sizeof info};
    thrum_status_t status = comm->ops->mem_query(comm->device->impl, address, &info);

    if (status)
        return status;
    for (int i = 0; i < comm->nregions; i++)
        if (comm->regions[i].id == info.id &&
            address - comm->regions[i].device_base < comm->regions[i].bytes) {
            *region_out = &comm->regions[i];
            return THRUM_OK;
        }
    return add_region(comm, address, info.id, region_out);
}

thrum_status_t exec_region(struct thrum_comm *comm, uint64_t address, uint64_t *key_out,
                           uint64_t *offset_out)
{
    struct comm_region *region = NULL;
    thrum_status_t status = exec_find_region(comm, address, &region);

    if (status)
        return status;
    *key_out = region->key;
    *offset_out = address - region->device_base;
    return THRUM_OK;
}
