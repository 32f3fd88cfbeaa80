/*
 * Joins by whatever launcher is there, checks what thrum_launch_info said against the communicator, sums the ranks, and
 * prints "rank R of N: sum S". Run by tests/mpi/launchers in every environment that a launcher leaves.
 */
#include <stdio.h>

#include <thrum/thrum.h>

#define CHECK(call) \
    do { \
        thrum_status_t status_ = (call); \
        if (status_ != THRUM_OK) { \
            fprintf(stderr, "%s: %s: %s\n", #call, thrum_status_name(status_), \
                    thrum_last_error()); \
            return 1; \
        } \
    } while (0)

int main(void)
{
    int rank, nranks, comm_rank, comm_nranks, local_rank;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int32_t value;
    void *buffer;

    CHECK(thrum_launch_info(&rank, &nranks, &local_rank));
    CHECK(thrum_device_open(THRUM_DEVICE_ANY, &device));
    CHECK(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &queue));
    CHECK(thrum_comm_init(device, NULL, &comm));
    CHECK(thrum_comm_rank(comm, &comm_rank));
    CHECK(thrum_comm_size(comm, &comm_nranks));
    if (rank != comm_rank || nranks != comm_nranks) {
        fprintf(stderr, "the launcher says rank %d of %d, the communicator %d of %d\n", rank,
                nranks, comm_rank, comm_nranks);
        return 1;
    }
    value = rank + 1;
    CHECK(thrum_mem_alloc(device, sizeof value, &buffer));
    CHECK(thrum_copy_to_device(queue, buffer, &value, sizeof value));
    CHECK(thrum_allreduce(buffer, buffer, 1, THRUM_INT32, THRUM_SUM, comm, queue));
    CHECK(thrum_copy_to_host(queue, &value, buffer, sizeof value));
    printf("rank %d of %d: sum %d\n", rank, nranks, (int)value);
    CHECK(thrum_comm_finalize(comm));
    thrum_comm_destroy(comm);
    CHECK(thrum_mem_free(device, buffer));
    thrum_queue_destroy(queue);
    thrum_device_close(device);
    return value != nranks * (nranks + 1) / 2;
}
