/*
 * What the mpirun tests share: joining the job, errors that end a rank with a message, buffers of each kind of memory,
 * and TAP lines printed once for all ranks.
 */
#ifndef TESTS_MPI_HARNESS_H
#define TESTS_MPI_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/thrum.h>

struct job {
    int rank, nranks;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm; /* of all ranks */
    const char *only; /* cases whose name starts with it; NULL: all */
    uint64_t max_bytes; /* of a rank's contribution, for algorithms that take no more */
    int cases; /* TAP lines so far */
    size_t failed;
};

/* Leaves the process with a message if the status is not OK. */
#define MUST(call) job_must((call), #call, __FILE__, __LINE__)
void job_must(thrum_status_t status, const char *call, const char *file, int line);

/* Joins by thrum_comm_init; understands --only PREFIX and --max-bytes N. */
void job_open(struct job *job, int argc, char **argv);
/* Leaves the job; returns the exit status. */
int job_close(struct job *job);

bool job_wants(const struct job *job, const char *name);
/* All ranks: prints "ok" or "not ok" at rank 0, by whether any rank has errors. */
void job_case(struct job *job, const char *name, size_t errors);
/* One line to stderr, with the rank. */
void job_complain(const struct job *job, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

enum memory { MEMORY_DEVICE, MEMORY_REGISTERED, MEMORY_HOST, MEMORY_KINDS };
extern const char *const memory_names[MEMORY_KINDS];

struct buffer {
    enum memory memory;
    uint8_t *address; /* to pass to collectives */
    size_t bytes;
};
void buffer_create(struct job *job, struct buffer *buffer, enum memory memory, size_t bytes);
void buffer_destroy(struct job *job, struct buffer *buffer);
/* Between host memory and the first `bytes` of a buffer; blocking. */
void buffer_write(struct job *job, const struct buffer *buffer, const void *from, size_t bytes);
void buffer_read(struct job *job, const struct buffer *buffer, void *to, size_t bytes);

/* malloc that does not fail. */
void *job_alloc(size_t bytes);

#endif
