/*
 * The queues that a communicator's operations are on: references to those of the user, and its own for further lanes.
 * Called by run.c, ahead.c and one_sided.c.
 */
#include "exec/run.h"

#include <stdlib.h>

#include "base/base.h"

/* Whether an operation that has not ended names the queue. Under retire_lock. */
static bool in_flight_on(const struct thrum_comm *comm, const struct thrum_queue *queue)
{
    uint64_t number = atomic_load_explicit(&comm->retired_number, memory_order_relaxed) + 1;
    uint64_t issued = atomic_load_explicit(&comm->issued, memory_order_relaxed);

    for (; number <= issued; number++) {
        const struct comm_operation *operation = comm_operation_at(comm, number);
        bool found = operation->queue == queue;

        for (int i = 0; i < PLAN_MAX_LANES && !found; i++)
            found = operation->lane_queue[i] == queue || operation->join_queue[i] == queue;
        if (found)
            return true;
    }
    return false;
}

/* Lets go of queues that their owner has destroyed and no operation needs. Under retire_lock. */
static void release_dead_queues(struct thrum_comm *comm)
{
    for (int i = comm->nqueues - 1; i >= 0; i--) {
        struct thrum_queue *queue = comm->queues[i];

        if (queue_is_valid(queue) || in_flight_on(comm, queue))
            continue;
        if (comm->last_queue == queue)
            comm->last_queue = NULL; /* the handle may come again */
        comm->queues[i] = comm->queues[--comm->nqueues];
        queue_release(queue);
    }
}

thrum_status_t exec_hold_queue(struct thrum_comm *comm, struct thrum_queue *queue)
{
    struct thrum_queue **queues;

    for (int i = 0; i < comm->nqueues; i++)
        if (comm->queues[i] == queue)
            return THRUM_OK;
    comm_retire(comm);
    pthread_mutex_lock(&comm->retire_lock);
    release_dead_queues(comm);
    queues = realloc(comm->queues, ((size_t)comm->nqueues + 1) * sizeof *queues);
    if (queues) {
        comm->queues = queues;
        queues[comm->nqueues++] = queue;
        queue_hold(queue);
    }
    pthread_mutex_unlock(&comm->retire_lock);
    return queues ? THRUM_OK : thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a queue");
}

thrum_status_t exec_lane_queue(struct thrum_comm *comm, uint32_t lane, struct thrum_queue **out)
{
    thrum_status_t status;

    if (!comm->lane_queues[lane]) {
        status = thrum_queue_create(comm->device, THRUM_QUEUE_DIRECT, &comm->lane_queues[lane]);
        if (status)
            return status;
    }
    *out = comm->lane_queues[lane];
    return THRUM_OK;
}
