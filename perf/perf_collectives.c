/*
 * The table of collectives. The bandwidths are those of nccl-tests (doc/PERFORMANCE.md there): algbw = size / time,
 * busbw = algbw times the share of the size that must cross each rank's link in the best algorithm, so that it can be
 * compared with the hardware's rate whatever the number of ranks. Size is that of the larger buffer of a rank.
 */
#include "perf_run.h"

#include <string.h>

static double bus_allreduce(int nranks)
{
    return 2.0 * (nranks - 1) / nranks; /* each byte is sent to its reducer and comes back */
}

static double bus_blocks(int nranks)
{
    return (double)(nranks - 1) / nranks; /* all blocks but the own one */
}

static double bus_one(int nranks)
{
    (void)nranks;
    return 1;
}

static thrum_status_t run_allreduce(const struct perf_call *c)
{
    return thrum_allreduce(c->send, c->recv, c->count, c->dtype, (thrum_redop_t)c->op, c->comm,
                           c->queue);
}

static thrum_status_t run_broadcast(const struct perf_call *c)
{
    return thrum_broadcast(c->send, c->recv, c->count, c->dtype, c->root, c->comm, c->queue);
}

static thrum_status_t run_allgather(const struct perf_call *c)
{
    return thrum_allgather(c->send, c->recv, c->count, c->dtype, c->comm, c->queue);
}

static thrum_status_t run_reduce_scatter(const struct perf_call *c)
{
    return thrum_reduce_scatter(c->send, c->recv, c->count, c->dtype, (thrum_redop_t)c->op, c->comm,
                                c->queue);
}

static thrum_status_t run_reduce(const struct perf_call *c)
{
    return thrum_reduce(c->send, c->recv, c->count, c->dtype, (thrum_redop_t)c->op, c->root,
                        c->comm, c->queue);
}

static thrum_status_t run_alltoall(const struct perf_call *c)
{
    return thrum_alltoall(c->send, c->recv, c->count, c->dtype, c->comm, c->queue);
}

static thrum_status_t run_gather(const struct perf_call *c)
{
    return thrum_gather(c->send, c->recv, c->count, c->dtype, c->root, c->comm, c->queue);
}

static thrum_status_t run_scatter(const struct perf_call *c)
{
    return thrum_scatter(c->send, c->recv, c->count, c->dtype, c->root, c->comm, c->queue);
}

static thrum_status_t run_scan(const struct perf_call *c)
{
    return thrum_scan(c->send, c->recv, c->count, c->dtype, (thrum_redop_t)c->op, c->comm,
                      c->queue);
}

static thrum_status_t run_exscan(const struct perf_call *c)
{
    return thrum_exscan(c->send, c->recv, c->count, c->dtype, (thrum_redop_t)c->op, c->comm,
                        c->queue);
}

static thrum_status_t run_barrier(const struct perf_call *c)
{
    return thrum_barrier(c->comm, c->queue);
}

/* Around the ring: to the next rank, from the previous one. */
static thrum_status_t run_sendrecv(const struct perf_call *c)
{
    int next = (c->rank + 1) % c->nranks, previous = (c->rank + c->nranks - 1) % c->nranks;
    thrum_status_t status = thrum_group_start();

    if (status == THRUM_OK)
        status = thrum_send(c->send, c->count, c->dtype, next, c->comm, c->queue);
    if (status == THRUM_OK)
        status = thrum_recv(c->recv, c->count, c->dtype, previous, c->comm, c->queue);
    return status == THRUM_OK ? thrum_group_end() : status;
}

const struct perf_collective perf_collectives[] = {
    {.name = "allreduce",
     .has_op = true,
     .has_data = true,
     .can_be_in_place = true,
     .bus_factor = bus_allreduce,
     .run = run_allreduce,
     .run_mpi = perf_mpi_allreduce},
    {.name = "broadcast",
     .has_root = true,
     .has_data = true,
     .can_be_in_place = true,
     .bus_factor = bus_one,
     .run = run_broadcast,
     .run_mpi = perf_mpi_broadcast},
    {.name = "allgather",
     .has_data = true,
     .can_be_in_place = true,
     .recv_is_blocks = true,
     .bus_factor = bus_blocks,
     .run = run_allgather,
     .run_mpi = perf_mpi_allgather},
    {.name = "reduce_scatter",
     .has_op = true,
     .has_data = true,
     .can_be_in_place = true,
     .send_is_blocks = true,
     .bus_factor = bus_blocks,
     .run = run_reduce_scatter,
     .run_mpi = perf_mpi_reduce_scatter},
    {.name = "reduce",
     .has_op = true,
     .has_root = true,
     .has_data = true,
     .can_be_in_place = true,
     .recv_at_root = true,
     .bus_factor = bus_one,
     .run = run_reduce,
     .run_mpi = perf_mpi_reduce},
    {.name = "alltoall",
     .has_data = true,
     .can_be_in_place = true,
     .send_is_blocks = true,
     .recv_is_blocks = true,
     .bus_factor = bus_blocks,
     .run = run_alltoall,
     .run_mpi = perf_mpi_alltoall},
    {.name = "gather",
     .has_root = true,
     .has_data = true,
     .can_be_in_place = true,
     .recv_is_blocks = true,
     .recv_at_root = true,
     .bus_factor = bus_blocks,
     .run = run_gather,
     .run_mpi = perf_mpi_gather},
    {.name = "scatter",
     .has_root = true,
     .has_data = true,
     .can_be_in_place = true,
     .send_is_blocks = true,
     .send_at_root = true,
     .bus_factor = bus_blocks,
     .run = run_scatter,
     .run_mpi = perf_mpi_scatter},
    {.name = "scan",
     .has_op = true,
     .has_data = true,
     .can_be_in_place = true,
     .prefix = true,
     .bus_factor = bus_one,
     .run = run_scan,
     .run_mpi = perf_mpi_scan},
    {.name = "exscan",
     .has_op = true,
     .has_data = true,
     .can_be_in_place = true,
     .prefix = true,
     .excludes_own = true,
     .bus_factor = bus_one,
     .run = run_exscan,
     .run_mpi = perf_mpi_exscan},
    {.name = "barrier",
     .bus_factor = bus_one,
     .run = run_barrier,
     .run_mpi = perf_mpi_barrier_call},
    {.name = "sendrecv",
     .has_data = true,
     .bus_factor = bus_one,
     .run = run_sendrecv,
     .run_mpi = perf_mpi_sendrecv},
};
const int perf_collective_count = sizeof perf_collectives / sizeof *perf_collectives;

const struct perf_collective *perf_collective_find(const char *name)
{
    for (int i = 0; i < perf_collective_count; i++) {
        if (!strcmp(perf_collectives[i].name, name))
            return &perf_collectives[i];
    }
    return NULL;
}

size_t perf_send_elems(const struct perf_case *what, int nranks)
{
    return what->count * (what->collective->send_is_blocks ? (size_t)nranks : 1);
}

size_t perf_recv_elems(const struct perf_case *what, int nranks)
{
    return what->count * (what->collective->recv_is_blocks ? (size_t)nranks : 1);
}
