/*
 * One rank of a job that goes on until somebody creates a file: an allreduce after the other, each result compared bit
 * for bit with what it has to be. tests/net/roce pulls cables meanwhile.
 *
 * usage: roce_loop FILE [COUNT [AGAIN]]
 * Of 262144 floats, or of COUNT, fewer, with pauses in which nothing is under way. Prints "rounds N, links down N, up N" at
 * the end, the latter from the device's RAS counters. With AGAIN an allreduce may fail once: that is printed, and when
 * somebody has created the file AGAIN it goes on with a new communicator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <thrum/thrum.h>

#define COUNT (256u << 10)

static size_t count = COUNT;

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
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((i * 7 + (size_t)rank * 3 + round) % 1000);
    values[0] = stop ? 1.0f : 0.0f;
}

static void compare(const float *values, int nranks, unsigned round)
{
    for (size_t i = 1; i < count; i++) {
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

static const struct timespec interval = {.tv_nsec = 20000000};

static void wait_for_file(const char *name)
{
    while (access(name, F_OK))
        nanosleep(&interval, NULL);
}

struct job {
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int rank, nranks;
    void *memory;
};

static void join(struct job *job)
{
    check(thrum_queue_create(job->device, THRUM_QUEUE_DEFAULT, &job->queue), "making a queue");
    check(thrum_comm_init(job->device, NULL, &job->comm), "joining");
    check(thrum_comm_rank(job->comm, &job->rank), "asking for the rank");
    check(thrum_comm_size(job->comm, &job->nranks), "asking for the size");
}

/* In place. */
static thrum_status_t sum(const struct job *job)
{
    thrum_status_t status = thrum_allreduce(job->memory, job->memory, count, THRUM_FLOAT32,
                                            THRUM_SUM, job->comm, job->queue);

    return status ? status : thrum_queue_synchronize(job->queue);
}

/* With a new communicator, when that is wanted. */
static void join_again(struct job *job, thrum_status_t status, const char *file)
{
    printf("failed: %s: %s\n", thrum_status_name(status), thrum_last_error());
    fflush(stdout);
    thrum_comm_destroy(job->comm);
    thrum_queue_destroy(job->queue);
    wait_for_file(file);
    join(job);
}

int main(int argc, char **argv)
{
    static float values[COUNT];
    struct thrum_ras_counters counters = {.size = sizeof counters};
    const char *again = argc > 3 ? argv[3] : NULL;
    thrum_status_t status;
    unsigned round = 0;
    struct job job;

    if (argc > 2)
        count = strtoul(argv[2], NULL, 10);
    if (argc < 2 || !count || count > COUNT)
        return 2;
    check(thrum_device_open(THRUM_DEVICE_ANY, &job.device), "opening a device");
    join(&job);
    check(thrum_mem_alloc(job.device, sizeof values, &job.memory), "allocating");
    do {
        if (count < COUNT)
            nanosleep(&interval, NULL);
        fill(values, job.rank, round, !access(argv[1], F_OK));
        check(thrum_copy_to_device(job.queue, job.memory, values, count * sizeof *values),
              "copying");
        status = sum(&job);
        if (status && again) {
            join_again(&job, status, again);
            again = NULL;
            round = 0;
            values[0] = 0;
            continue;
        }
        check(status, "allreduce");
        check(thrum_copy_to_host(job.queue, values, job.memory, count * sizeof *values),
              "copying back");
        compare(values, job.nranks, round++);
        if (job.rank == 0) {
            printf("round %u\n", round);
            fflush(stdout);
        }
    } while (values[0] == 0);
    check(thrum_ras_get_counters(job.device, &counters), "asking for counters");
    printf("rounds %u, links down %llu, up %llu\n", round,
           (unsigned long long)counters.count[THRUM_RAS_LINK_DOWN],
           (unsigned long long)counters.count[THRUM_RAS_LINK_UP]);
    check(thrum_comm_finalize(job.comm), "finalizing");
    thrum_comm_destroy(job.comm);
    thrum_device_close(job.device);
    return 0;
}
