/* Helpers of the device tests: a fresh device, hand-written commands, expected statuses. */
#ifndef DEVICE_TEST_H
#define DEVICE_TEST_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/device.h>

#define assert_ok(call) assert_status(call, THRUM_OK)
#define assert_status(call, expected) \
    do { \
        thrum_status_t status_ = (call); \
        if (status_ != (expected)) \
            print_error("%s: %s, last error \"%s\"\n", #call, thrum_status_name(status_), \
                        thrum_last_error()); \
        assert_int_equal(status_, (expected)); \
    } while (0)

/* Never a hang: what must end, ends within this. */
#define TEST_TIMEOUT_NS 30000000000

struct fixture {
    thrum_device_t device;
    thrum_queue_t queue;
    char *a, *b; /* 64 KiB of device memory each */
};
#define FIXTURE_BYTES 65536
#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)

static inline int fixture_open(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof f);
    assert_ok(thrum_device_open(THRUM_DEVICE_ANY, &f.device));
    assert_ok(thrum_queue_create(f.device, THRUM_QUEUE_DEFAULT, &f.queue));
    assert_ok(thrum_mem_alloc(f.device, FIXTURE_BYTES, (void **)&f.a));
    assert_ok(thrum_mem_alloc(f.device, FIXTURE_BYTES, (void **)&f.b));
    *state = &f;
    return 0;
}

static inline struct fixture *of(void **state)
{
    return *state;
}

static inline int fixture_close(void **state)
{
    struct fixture *f = *state;

    thrum_queue_destroy(f->queue);
    thrum_device_close(f->device);
    return 0;
}

static inline uint64_t at(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

static inline thrum_status_t submit_wait(thrum_queue_t queue, uint64_t address, uint64_t value)
{
    struct thrum_operand operand = {.base = address};
    struct thrum_command command = {
        .opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = value, .operands = &operand};
    return thrum_queue_submit(queue, &command, 1, NULL);
}

static inline thrum_status_t submit_signal(thrum_queue_t queue, uint64_t address, uint64_t value,
                                           uint8_t flags)
{
    struct thrum_operand operand = {.base = address};
    struct thrum_command command = {.opcode = THRUM_CMD_SIGNAL,
                                    .flags = flags,
                                    .ndst = 1,
                                    .value = value,
                                    .operands = &operand};
    return thrum_queue_submit(queue, &command, 1, NULL);
}

static inline thrum_status_t finish(thrum_queue_t queue)
{
    return thrum_queue_synchronize_for(queue, TEST_TIMEOUT_NS);
}

/* The queue has faulted: every call says so, there is one event, and the device's first fault is kept. */
static inline void expect_fault(struct fixture *f, thrum_queue_t queue, enum thrum_ras_kind kind,
                                thrum_status_t status, uint64_t address)
{
    static struct thrum_ras_event first_fault; /* of the device */
    struct thrum_ras_event event, fault;
    struct pollfd fd = {.fd = thrum_ras_event_fd(f->device), .events = POLLIN};
    size_t n;

    assert_status(finish(queue), status);
    assert_non_null(strstr(thrum_last_error(), "sim"));
    assert_status(finish(queue), status); /* again each time */
    assert_status(thrum_fill(queue, f->a, 0, 1), status);
    assert_int_equal(poll(&fd, 1, 0), 1);
    assert_ok(thrum_ras_get_events(f->device, &event, 1, &n));
    assert_int_equal(n, 1);
    assert_int_equal(event.kind, kind);
    assert_int_equal(event.queue_id, thrum_queue_id(queue));
    assert_int_equal(event.address, address);
    assert_true(event.ticket > 0 && event.timestamp_ns > 0 && event.generation == 1);
    assert_ok(thrum_ras_get_fault(f->device, &fault));
    if (event.sequence == 1) /* the first is kept, whatever comes later */
        first_fault = event;
    assert_memory_equal(&fault, &first_fault, sizeof fault);
    assert_int_equal(poll(&fd, 1, 0), 0);
}

#endif
