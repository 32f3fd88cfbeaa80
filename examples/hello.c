/*
 * The smallest whole program: every rank gives its number, every rank gets the sum.
 *
 *   cc hello.c $(pkg-config --cflags --libs thrum) -o hello && mpirun -n 4 ./hello
 */
#include <stdio.h>
#include <stdlib.h>

#include <thrum/thrum.h>

static void check(thrum_status_t status)
{
    if (status != THRUM_OK) {
        fprintf(stderr, "hello: %s: %s\n", thrum_status_name(status), thrum_last_error());
        exit(1);
    }
}

int main(void)
{
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int rank, nranks, sum;
    void *number; /* in device memory: never dereferenced here */

    check(thrum_device_open(THRUM_DEVICE_ANY, &device)); /* each rank owns one accelerator */
    check(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &queue)); /* work goes to it in order */
    check(thrum_comm_init(device, NULL, &comm)); /* meets the ranks that the launcher started */
    check(thrum_comm_rank(comm, &rank));
    check(thrum_comm_size(comm, &nranks));

    check(thrum_mem_alloc(device, sizeof rank, &number));
    check(thrum_copy_to_device(queue, number, &rank, sizeof rank));
    check(thrum_allreduce(number, number, 1, THRUM_INT32, THRUM_SUM, comm, queue)); /* enqueued */
    check(thrum_queue_synchronize(queue)); /* done */
    check(thrum_copy_to_host(queue, &sum, number, sizeof sum));
    printf("rank %d of %d: the ranks add up to %d\n", rank, nranks, sum);

    check(thrum_comm_finalize(comm));
    thrum_comm_destroy(comm);
    thrum_device_close(device); /* frees its memory and queues too */
    return sum == nranks * (nranks - 1) / 2 ? 0 : 1;
}
