/* See job.h. */
#include "job.h"

#include <stdio.h>
#include <stdlib.h>

/* For messages. */
static const char *own_program = "";
static int own_rank, failure_status = 1;

void job_check(thrum_status_t status, const char *what)
{
    const char *message = thrum_last_error();

    if (!status)
        return;
    fprintf(stderr, "%s: rank %d: %s: %s: %s\n", own_program, own_rank, what,
            thrum_status_name(status), *message ? message : thrum_status_string(status));
    exit(failure_status);
}

int job_begin(const char *program, int exit_status)
{
    own_program = program;
    failure_status = exit_status;
    if (thrum_launch_info(&own_rank, &(int){0}, &(int){0}))
        own_rank = 0;
    return own_rank;
}

void job_join(struct job *job)
{
    thrum_status_t launched = thrum_launch_info(&own_rank, &(int){0}, &(int){0});
    struct thrum_unique_id id;

    if (launched && launched != THRUM_ERR_INVALID_USAGE)
        job_check(launched, "find the launcher");
    job_check(thrum_device_open(THRUM_DEVICE_ANY, &job->device), "open a device");
    job_check(thrum_queue_create(job->device, THRUM_QUEUE_DEFAULT, &job->queue), "create a queue");
    if (launched) { /* no launcher: a single rank */
        job_check(thrum_get_unique_id(&id), "an id");
        job_check(thrum_comm_init_rank(&id, 1, 0, job->device, NULL, &job->comm), "a communicator");
    } else {
        job_check(thrum_comm_init(job->device, NULL, &job->comm), "join the other ranks");
    }
    job_check(thrum_comm_rank(job->comm, &job->rank), "rank");
    job_check(thrum_comm_size(job->comm, &job->nranks), "size");
    own_rank = job->rank;
}

void job_leave(struct job *job)
{
    job_check(thrum_comm_finalize(job->comm), "finalize");
    thrum_comm_destroy(job->comm);
    thrum_queue_destroy(job->queue);
    thrum_device_close(job->device);
}

void job_gather(struct job *job, const void *mine, void *all, size_t bytes)
{
    void *device;
    char *blocks;

    job_check(thrum_mem_alloc(job->device, bytes * (size_t)job->nranks, &device), "device memory");
    blocks = device;
    blocks += bytes * (size_t)job->rank;
    job_check(thrum_copy_to_device(job->queue, blocks, mine, bytes), "gather");
    job_check(thrum_allgather(blocks, device, bytes, THRUM_UINT8, job->comm, job->queue), "gather");
    job_check(thrum_queue_synchronize(job->queue), "gather");
    job_check(thrum_copy_to_host(job->queue, all, device, bytes * (size_t)job->nranks), "gather");
    job_check(thrum_mem_free(job->device, device), "device memory");
}
