/*
 * Processes that have a device of the plugin under test open: what the conformance suite of device plugins stands on. Only
 * the table of the plugin is used, as the library completes it.
 */
#ifndef TESTS_DEVICE_SIDE_H
#define TESTS_DEVICE_SIDE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/device_plugin.h>

#define SIDE_BYTES 262144

/* Shared by both processes of a test. */
struct side_board {
    struct thrum_device_address address[2];
    struct thrum_mem_handle handle[2];
    uint64_t memory[2], base[2];
    _Atomic int stage; /* tests use it as they like */
};

struct side {
    const struct thrum_device_ops *ops;
    struct side_board *board;
    int index; /* 0 or 1, of the process */
    struct thrum_device_properties about;
    void *device, *queue;
    uint64_t a, b; /* SIDE_BYTES of device memory each */
};

/* The plugin under test, and the index of its device (-1: the first that nobody has); set by main, before any fork. */
extern const struct thrum_device_ops *side_ops;
extern int side_device;
extern int64_t side_wait_ns; /* a submission that takes longer has been lost */

/*
 * Runs `body` in `n` (1 or 2) processes with a device each, and cleans up after it. True if all ended well, within a minute;
 * `killed` >= 0: that one is expected to die of SIGKILL.
 */
bool side_run(int n, int killed, void (*body)(struct side *side));

/* Whether there are two devices. All calls of the plugin are made in processes that are forked for it. */
bool side_has_two(void);

/* Ends the process with a message unless `good`. */
void side_expect(bool good, const char *what);
/* The same for a status that has to be OK. */
void side_expect_ok(thrum_status_t status, const char *what);

/* Opens the device under test, another one if that is in use by the other process. */
void side_open(struct side *side);
void side_close(struct side *side);

bool side_can(const struct side *side, uint64_t capability); /* THRUM_CAP_* */

uint64_t side_alloc(const struct side *side, size_t bytes);
void *side_new_queue(const struct side *side, unsigned flags);

/* Between the host and device memory, of any length. */
void side_read(const struct side *side, uint64_t address, void *host_out, size_t bytes);
void side_write(const struct side *side, uint64_t address, const void *host, size_t bytes);
bool side_is_zero(const struct side *side, uint64_t address, size_t bytes);
uint64_t side_word(const struct side *side, uint64_t address);

/* Submits, expecting that it is taken; the ticket. */
uint64_t side_submit(const struct side *side, void *queue, const struct thrum_command *commands,
                     size_t n);
/* How the submission ended; expects that it does. */
thrum_status_t side_finish(const struct side *side, void *queue, uint64_t ticket);
/* One command that has to end well. */
void side_do(const struct side *side, void *queue, const struct thrum_command *command);

/* Single commands. */
uint64_t side_copy(const struct side *side, void *queue, uint64_t dst, uint64_t src,
                   uint64_t bytes);
uint64_t side_fill(const struct side *side, void *queue, uint64_t dst, uint8_t byte,
                   uint64_t bytes);
uint64_t side_wait(const struct side *side, void *queue, uint64_t semaphore, uint64_t value);
uint64_t side_signal(const struct side *side, void *queue, uint64_t semaphore, uint64_t value,
                     unsigned flags);

/* Both processes come to `stage` of the board; see the users for who sets it. */
void side_await_stage(const struct side *side, int stage);

#endif
