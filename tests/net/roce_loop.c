/*
 * One rank of a job that goes on until somebody creates a file: an allreduce after the other, each result compared bit
 * for bit with what it has to be. tests/net/roce pulls cables meanwhile.
 *
 * usage: roce_loop FILE [MINIMUM]     MINIMUM: rounds, at least
 * Prints "rounds N, links down N, up N" at the end, the latter from the device's RAS counters.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thrum/thrum.h>

#define COUNT (256u << 10)

static void check(thrum_status_t status, const char *doing)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "roce_loop: %s: %s: %s\n", doing, thrum_status_name(status),
            thrum_last_error());
    exit(1);
}

/* Sums of these are exact in float32, whatever their order. Element 0 tells whether a rank wants to stop. */
static void fill(float *values, int rank, unsigned round, int stop)
{
    for (size_t i = 0; i < COUNT; i++)
        values[i] = (float)((i * 7 + (size_t)rank * 3 + round) % 1000);
    values[0] = stop ? 1.0f : 0.0f;
}

static void compare(const float *values, int nranks, unsigned round)
{
    for (size_t i = 1; i < COUNT; i++) {
        float sum = 0;
        for (int r = 0; r < nranks; r++)
            sum += (float)((i * 7 + (size_t)r * 3 + round) % 1000);
        if (memcmp(&sum, &values[i], sizeof sum)) {
            fprintf(stderr, "roce_loop: round %u: element %zu is %g, not %g\n", round, i,
                    (double)values[i], (double)sum);
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    static float values[COUNT];
    struct thrum_ras_counters counters = {.size = sizeof counters};
    unsigned round = 0, minimum = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int rank, nranks;
    void *memory;

    if (argc < 2)
        return 2;
    check(thrum_device_open(THRUM_DEVICE_ANY, &device), "opening a device");
    check(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &queue), "making a queue");
    check(thrum_comm_init(device, NULL, &comm), "joining");
    check(thrum_comm_rank(comm, &rank), "asking for the rank");
    check(thrum_comm_size(comm, &nranks), "asking for the size");
    check(thrum_mem_alloc(device, sizeof values, &memory), "allocating");
    do {
        fill(values, rank, round, round + 1 >= minimum && !access(argv[1], F_OK));
        check(thrum_copy_to_device(queue, memory, values, sizeof values), "copying");
        check(thrum_allreduce(memory, memory, COUNT, THRUM_FLOAT32, THRUM_SUM, comm, queue),
              "allreduce");
        check(thrum_queue_synchronize(queue), "waiting");
        check(thrum_copy_to_host(queue, values, memory, sizeof values), "copying back");
        compare(values, nranks, round++);
        if (rank == 0) {
            printf("round %u\n", round);
            fflush(stdout);
        }
    } while (values[0] == 0);
    check(thrum_ras_get_counters(device, &counters), "asking for counters");
    printf("rounds %u, links down %llu, up %llu\n", round,
           (unsigned long long)counters.count[THRUM_RAS_LINK_DOWN],
           (unsigned long long)counters.count[THRUM_RAS_LINK_UP]);
    check(thrum_comm_finalize(comm), "finalizing");
    thrum_comm_destroy(comm);
    thrum_device_close(device);
    return 0;
}
