/*
 * One of three ranks. When somebody has created the file, the first two exchange rows of small messages without end, until
 * something comes of an allreduce that the third never joins: tests/net/troubled_hosts has pulled its cable by then.
 *
 * usage: third_host FILE
 * Prints "connected", and in the end what the allreduce said. The third rank sleeps until it is killed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <thrum/thrum.h>

#define COUNT 8
#define ROW 30 /* more than are sent at once */

static void check(thrum_status_t status, const char *doing)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "third_host: %s: %s: %s\n", doing, thrum_status_name(status),
            thrum_last_error());
    exit(1);
}

/* Afterwards there is a connection to each of the others. */
static void sum(void *memory, thrum_comm_t comm, thrum_queue_t queue)
{
    check(thrum_allreduce(memory, memory, COUNT, THRUM_INT32, THRUM_SUM, comm, queue), "allreduce");
    check(thrum_queue_synchronize(queue), "allreduce");
}

/* False: the other rank is through. */
static int exchange_rows(void *memory, thrum_comm_t comm, thrum_queue_t queue)
{
    for (int root = 0; root < 2; root++) {
        for (int i = 0; i < ROW; i++)
            if (thrum_broadcast(memory, memory, COUNT, THRUM_INT32, root, comm, queue))
                return 0;
        if (thrum_queue_synchronize(queue))
            return 0;
    }
    return 1;
}

static void wait_for_file(const char *name)
{
    while (access(name, F_OK))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

int main(int argc, char **argv)
{
    thrum_device_t device;
    thrum_queue_t rows, apart;
    thrum_comm_t all, two;
    thrum_status_t status;
    void *memory, *other;
    int rank;

    if (argc != 2)
        return 2;
    check(thrum_device_open(THRUM_DEVICE_ANY, &device), "device");
    check(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &rows), "queue");
    check(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &apart), "queue");
    check(thrum_mem_alloc(device, COUNT * sizeof(int), &memory), "memory");
    check(thrum_mem_alloc(device, COUNT * sizeof(int), &other), "memory");
    check(thrum_comm_init(device, NULL, &all), "init");
    check(thrum_comm_rank(all, &rank), "rank");
    sum(other, all, apart);
    check(thrum_comm_split(all, rank == 2, rank, NULL, &two), "split");
    if (rank == 2)
        for (;;)
            pause();
    sum(memory, two, rows);
    printf("connected\n");
    fflush(stdout);
    wait_for_file(argv[1]);
    check(thrum_allreduce(other, other, COUNT, THRUM_INT32, THRUM_SUM, all, apart), "allreduce");
    do
        status = thrum_queue_query(apart);
    while (status == THRUM_IN_PROGRESS && exchange_rows(memory, two, rows));
    if (status == THRUM_IN_PROGRESS)
        status = thrum_queue_synchronize(apart);
    printf("the allreduce: %s: %s\n", thrum_status_name(status), thrum_last_error());
    fflush(stdout);
    _exit(0);
}
