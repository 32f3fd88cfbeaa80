/*
 * What the tests of calls share: some ranks in this process with a queue each, buffers of each kind of memory, and the
 * same program run again with other settings (configuration is read once in a process).
 */
#ifndef TESTS_UNIT_API_RANKS_H
#define TESTS_UNIT_API_RANKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define RANKS_MAX 16

extern thrum_device_t devices[RANKS_MAX];
extern thrum_queue_t queues[RANKS_MAX];
extern thrum_comm_t comms[RANKS_MAX]; /* of ranks_join */

#define ok(call) ok_at((call), #call, __FILE__, __LINE__)
void ok_at(thrum_status_t status, const char *call, const char *file, int line);
/* The call fails with the status, and the message has both texts. */
#define refused(call, status, text, other) \
    refused_at((call), #call, status, text, other, __FILE__, __LINE__)
void refused_at(thrum_status_t got, const char *call, thrum_status_t status, const char *text,
                const char *other, const char *file, int line);

/* Devices and queues of the first n ranks; and back. */
void ranks_open(int n);
void ranks_close(int n);
/* comms[0 .. n-1]; and back. */
void ranks_join(int n, const struct thrum_comm_config *config);
void ranks_leave(int n);
void ranks_synchronize(int n);

enum memory { MEMORY_DEVICE, MEMORY_REGISTERED, MEMORY_HOST, MEMORY_KINDS };

struct buffer {
    enum memory memory;
    int rank;
    uint8_t *address; /* to pass to calls */
    size_t bytes;
};
void buffer_make(struct buffer *buffer, int rank, enum memory memory, size_t bytes);
void buffer_free(struct buffer *buffer);
/* The first `bytes`; blocking. */
void buffer_write(const struct buffer *buffer, const void *from, size_t bytes);
void buffer_read(const struct buffer *buffer, void *to, size_t bytes);

/*
 * Without arguments: runs the program once for each line of settings ("NAME=value NAME=value"), with them in its
 * environment, and exits with 1 if any of them fails. In these runs it returns.
 */
void run_with_each(int argc, char **argv, const char *const *settings, size_t n);

#endif
