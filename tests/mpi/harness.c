/* Shared parts of the mpirun tests, see harness.h. */
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const memory_names[MEMORY_KINDS] = {"device", "registered", "host"};

static int this_rank = -1;

void job_must(thrum_status_t status, const char *call, const char *file, int line)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "# rank %d: %s:%d: %s: %s: %s\n", this_rank, file, line, call,
            thrum_status_name(status), thrum_last_error());
    exit(1);
}

void job_complain(const struct job *job, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "# rank %d: %s\n", job->rank, text);
}

void job_open(struct job *job, int argc, char **argv)
{
    *job = (struct job){.rank = -1, .max_bytes = UINT64_MAX};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            job->only = argv[++i];
        } else if (!strcmp(argv[i], "--max-bytes") && i + 1 < argc) {
            job->max_bytes = strtoull(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--only PREFIX] [--max-bytes N]\n", argv[0]);
            exit(2);
        }
    }
    MUST(thrum_device_open(THRUM_DEVICE_ANY, &job->device));
    MUST(thrum_queue_create(job->device, THRUM_QUEUE_DEFAULT, &job->queue));
    MUST(thrum_comm_init(job->device, NULL, &job->comm));
    MUST(thrum_comm_rank(job->comm, &job->rank));
    MUST(thrum_comm_size(job->comm, &job->nranks));
    this_rank = job->rank;
}

int job_close(struct job *job)
{
    MUST(thrum_comm_finalize(job->comm));
    thrum_comm_destroy(job->comm);
    thrum_queue_destroy(job->queue);
    thrum_device_close(job->device);
    if (job->rank == 0)
        printf("1..%d\n", job->cases);
    return job->failed != 0;
}

bool job_wants(const struct job *job, const char *name)
{
    return !job->only || !strncmp(name, job->only, strlen(job->only));
}

void job_case(struct job *job, const char *name, size_t errors)
{
    uint64_t worst = errors;
    struct buffer sum;

    buffer_create(job, &sum, MEMORY_DEVICE, sizeof worst);
    buffer_write(job, &sum, &worst, sizeof worst);
    MUST(thrum_allreduce(sum.address, sum.address, 1, THRUM_UINT64, THRUM_MAX, job->comm,
                         job->queue));
    MUST(thrum_queue_synchronize(job->queue));
    buffer_read(job, &sum, &worst, sizeof worst);
    buffer_destroy(job, &sum);
    worst = worst < errors ? errors : worst; /* should allreduce itself be wrong */
    job->cases++;
    job->failed += worst != 0;
    if (job->rank == 0) {
        printf("%sok %d - %s\n", worst ? "not " : "", job->cases, name);
        fflush(stdout);
    }
}

void *job_alloc(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);

    if (!memory) {
        fprintf(stderr, "# rank %d: no memory for %zu bytes\n", this_rank, bytes);
        exit(1);
    }
    return memory;
}

void buffer_create(struct job *job, struct buffer *buffer, enum memory memory, size_t bytes)
{
    void *address = NULL;

    if (memory == MEMORY_DEVICE) {
        MUST(thrum_mem_alloc(job->device, bytes, &address));
    } else {
        address = job_alloc(bytes);
        memset(address, 0, bytes);
        if (memory == MEMORY_REGISTERED)
            MUST(thrum_mem_register_host(job->device, address, bytes));
    }
    *buffer = (struct buffer){memory, address, bytes};
}

void buffer_destroy(struct job *job, struct buffer *buffer)
{
    if (buffer->memory == MEMORY_DEVICE) {
        MUST(thrum_mem_free(job->device, buffer->address));
    } else {
        if (buffer->memory == MEMORY_REGISTERED)
            MUST(thrum_mem_unregister_host(job->device, buffer->address));
        free(buffer->address);
    }
    buffer->address = NULL;
}

void buffer_write(struct job *job, const struct buffer *buffer, const void *from, size_t bytes)
{
    if (buffer->memory == MEMORY_DEVICE)
        MUST(thrum_copy_to_device(job->queue, buffer->address, from, bytes));
    else
        memcpy(buffer->address, from, bytes);
}

void buffer_read(struct job *job, const struct buffer *buffer, void *to, size_t bytes)
{
    if (buffer->memory == MEMORY_DEVICE)
        MUST(thrum_copy_to_host(job->queue, to, buffer->address, bytes));
    else
        memcpy(to, buffer->address, bytes);
}
