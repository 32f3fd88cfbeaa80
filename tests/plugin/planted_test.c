/*
 * Whether the conformance suites see what they are there for: the tables of loopback and sim with one thing done wrong at a
 * time, as a vendor's plugin might do it, and the test that has to fail then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "device/device_internal.h"
#include "device_conformance.h"
#include "device_side.h"
#include "fabric/fabric.h"
#include "fabric_conformance.h"
#include "fabric_nodes.h"
#include "holdings.h"

static struct thrum_fabric_ops right, fabric; /* loopback as it is, and with something wrong */
static struct thrum_device_ops good, device; /* sim */

/* ---- a fabric's --------------------------------------------------------------------------------- */

/* Now and then it stays so for a while, that the other side has the time to look even where cores are short. */
static thrum_status_t signal_before_data(void *peer, const struct thrum_fabric_put *put)
{
    static unsigned puts;
    struct thrum_fabric_put first = *put, second = *put;
    thrum_status_t status;

    if (!put->bytes || !put->signal_key)
        return right.put_signal(peer, put);
    first.bytes = 0;
    second.signal_key = 0;
    status = right.put_signal(peer, &first);
    if (status)
        return status;
    if (++puts % 16 == 0)
        usleep(2000);
    while ((status = right.put_signal(peer, &second)) == THRUM_IN_PROGRESS)
        sched_yield();
    return status;
}

static thrum_status_t lose_without_data(void *peer, const struct thrum_fabric_put *put)
{
    return put->bytes ? right.put_signal(peer, put) : THRUM_OK;
}

static thrum_status_t round_up(void *peer, const struct thrum_fabric_put *put)
{
    struct thrum_fabric_put longer = *put;

    longer.bytes += put->bytes % 8 ? 8 - put->bytes % 8 : 0;
    return right.put_signal(peer, &longer);
}

/* Nothing is stored, and nobody hears of it. */
static thrum_status_t take_any_key(void *peer, const struct thrum_fabric_put *put)
{
    thrum_status_t status = right.put_signal(peer, put);

    return status < 0 ? THRUM_OK : status;
}

static thrum_status_t flush_any(void *peer)
{
    thrum_status_t status = right.flush(peer);

    return status < 0 ? THRUM_OK : status;
}

static thrum_status_t flush_at_once(void *peer)
{
    (void)right.flush(peer);
    return THRUM_OK;
}

static void keep_registered(void *endpoint, void *region)
{
    (void)endpoint, (void)region;
}

static void keep_descriptor(void *endpoint)
{
    right.close(endpoint);
    if (dup(0) < 0)
        abort();
}

static void *kept;
static void keep_memory(void *endpoint)
{
    void **more = malloc(1000);

    right.close(endpoint);
    if (more)
        *more = kept;
    kept = more;
}

static int tell_nothing(void *endpoint)
{
    static int fd = -1;

    (void)endpoint;
    if (fd < 0)
        fd = eventfd(0, EFD_CLOEXEC);
    return fd;
}

static size_t promise_more(void *endpoint)
{
    return right.max_inline(endpoint) + (512u << 10);
}

/* Writes its output also where it fails. */
static thrum_status_t connect_halfway(void *endpoint, const struct thrum_fabric_address *address,
                                      void **peer_out)
{
    *peer_out = &fabric;
    return right.connect(endpoint, address, peer_out);
}

static void plant_signal(void)
{
    fabric.put_signal = signal_before_data;
}
static void plant_lost(void)
{
    fabric.put_signal = lose_without_data;
}
static void plant_longer(void)
{
    fabric.put_signal = round_up;
}
static void plant_any_key(void)
{
    fabric.put_signal = take_any_key;
    fabric.flush = flush_any;
}
static void plant_flush(void)
{
    fabric.flush = flush_at_once;
}
static void plant_stale(void)
{
    fabric.region_deregister = keep_registered;
}
static void plant_descriptor(void)
{
    fabric.close = keep_descriptor;
}
static void plant_memory(void)
{
    fabric.close = keep_memory;
}
static void plant_deaf(void)
{
    fabric.wait_fd = tell_nothing;
}
static void plant_promise(void)
{
    fabric.max_inline = promise_more;
}
static void plant_output(void)
{
    fabric.connect = connect_halfway;
}

/* ---- a device's --------------------------------------------------------------------------------- */

static thrum_status_t alloc_used(void *handle, size_t bytes, uint64_t *address_out)
{
    thrum_status_t status = good.mem_alloc(handle, bytes, address_out);

    return status ? status : good.mem_poke(handle, *address_out, "x", 1);
}

static thrum_status_t free_any(void *handle, uint64_t address)
{
    (void)good.mem_free(handle, address);
    return THRUM_OK;
}

static thrum_status_t forget_registration(void *handle, void *address)
{
    (void)handle, (void)address;
    return THRUM_OK;
}

static thrum_status_t never_late(void *queue, uint64_t ticket, int64_t timeout_ns)
{
    thrum_status_t status = good.wait(queue, ticket, timeout_ns);

    return status == THRUM_ERR_TIMEOUT ? THRUM_OK : status;
}

/* The first destination only. */
static thrum_status_t copy_once(void *queue, const struct thrum_command *commands, size_t n,
                                uint64_t *ticket_out)
{
    struct thrum_operand operands[2];
    struct thrum_command one;

    if (n != 1 || commands->opcode != THRUM_CMD_COPY || commands->ndst != 2)
        return good.submit(queue, commands, n, ticket_out);
    one = *commands;
    operands[0] = commands->operands[0];
    operands[1] = commands->operands[2];
    one.ndst = 1;
    one.operands = operands;
    return good.submit(queue, &one, 1, ticket_out);
}

/* A sum of float16 that is one of bfloat16. */
static thrum_status_t fold_otherwise(void *queue, const struct thrum_command *commands, size_t n,
                                     uint64_t *ticket_out)
{
    struct thrum_command one;

    if (n != 1 || commands->opcode != THRUM_CMD_REDUCE || commands->dtype != THRUM_FLOAT16)
        return good.submit(queue, commands, n, ticket_out);
    one = *commands;
    one.dtype = THRUM_BFLOAT16;
    return good.submit(queue, &one, 1, ticket_out);
}

static thrum_status_t signal_sets(void *queue, const struct thrum_command *commands, size_t n,
                                  uint64_t *ticket_out)
{
    struct thrum_command one;

    if (n != 1 || commands->opcode != THRUM_CMD_SIGNAL)
        return good.submit(queue, commands, n, ticket_out);
    one = *commands;
    one.flags |= THRUM_CMD_FLAG_SET;
    return good.submit(queue, &one, 1, ticket_out);
}

static thrum_status_t skip_bad(void *queue, const struct thrum_command *commands, size_t n,
                               uint64_t *ticket_out)
{
    thrum_status_t status = good.submit(queue, commands, n, ticket_out);

    return status == THRUM_ERR_INVALID_COMMAND ? good.submit(queue, NULL, 0, ticket_out) : status;
}

static void cancel_nothing(void *queue, uint64_t first, uint64_t last, thrum_status_t status)
{
    (void)queue, (void)first, (void)last, (void)status;
}

static uint32_t same_generation(void *handle)
{
    (void)handle;
    return 1;
}

static thrum_status_t no_news(void *handle, struct thrum_ras_event *events_out, size_t max,
                              size_t *n_out)
{
    (void)handle, (void)events_out, (void)max;
    *n_out = 0;
    return THRUM_OK;
}

static void close_less(void *handle)
{
    good.close(handle);
    if (dup(0) < 0)
        abort();
}

/* Submissions in two parts, done otherwise. */
typedef void (*meanwhile_fn)(void *argument);
static thrum_status_t all_first(void *queue, const struct thrum_command *commands, size_t n,
                                size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                                void *argument)
{
    thrum_status_t status = good.submit_checked(queue, commands, n, ticket_out);

    (void)nfirst;
    if (!status)
        meanwhile(argument);
    return status;
}

static thrum_status_t all_afterwards(void *queue, const struct thrum_command *commands, size_t n,
                                     size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                                     void *argument)
{
    (void)nfirst;
    return good.submit_meanwhile(queue, commands, n, 0, ticket_out, meanwhile, argument);
}

static thrum_status_t one_more(void *queue, const struct thrum_command *commands, size_t n,
                               size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                               void *argument)
{
    return good.submit_meanwhile(queue, commands, n, nfirst < n ? nfirst + 1 : n, ticket_out,
                                 meanwhile, argument);
}

static thrum_status_t two_submissions(void *queue, const struct thrum_command *commands, size_t n,
                                      size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                                      void *argument)
{
    thrum_status_t status = good.submit_checked(queue, commands, nfirst, ticket_out);
    uint64_t more;

    if (status)
        return status;
    meanwhile(argument);
    return good.submit_checked(queue, commands + nfirst, n - nfirst, &more);
}

static thrum_status_t call_again(void *queue, const struct thrum_command *commands, size_t n,
                                 size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                                 void *argument)
{
    thrum_status_t status =
        good.submit_meanwhile(queue, commands, n, nfirst, ticket_out, meanwhile, argument);

    meanwhile(argument);
    return status;
}

static thrum_status_t call_if_refused(void *queue, const struct thrum_command *commands, size_t n,
                                      size_t nfirst, uint64_t *ticket_out, meanwhile_fn meanwhile,
                                      void *argument)
{
    thrum_status_t status =
        good.submit_meanwhile(queue, commands, n, nfirst, ticket_out, meanwhile, argument);

    if (status)
        meanwhile(argument);
    return status;
}

static void plant_used(void)
{
    device.mem_alloc = alloc_used;
}
static void plant_free(void)
{
    device.mem_free = free_any;
}
static void plant_registration(void)
{
    device.host_unregister = forget_registration;
}
static void plant_never_late(void)
{
    device.wait = never_late;
}
static void plant_one_copy(void)
{
    device.submit = copy_once;
}
static void plant_fold(void)
{
    device.submit = fold_otherwise;
}
static void plant_set(void)
{
    device.submit = signal_sets;
}
static void plant_skip(void)
{
    device.submit = skip_bad;
}
static void plant_cancel(void)
{
    device.cancel = cancel_nothing;
}
static void plant_generation(void)
{
    device.generation = same_generation;
}
static void plant_no_news(void)
{
    device.get_events = no_news;
}
static void plant_less(void)
{
    device.close = close_less;
}

static void plant_all_first(void)
{
    device.submit_meanwhile = all_first;
}
static void plant_all_afterwards(void)
{
    device.submit_meanwhile = all_afterwards;
}
static void plant_one_more(void)
{
    device.submit_meanwhile = one_more;
}
static void plant_two(void)
{
    device.submit_meanwhile = two_submissions;
}
static void plant_again(void)
{
    device.submit_meanwhile = call_again;
}
static void plant_if_refused(void)
{
    device.submit_meanwhile = call_if_refused;
}

/* ---- the suites, on these ----------------------------------------------------------------------- */

struct plant {
    bool of_device;
    const char *test; /* which fails then */
    void (*plant)(void);
};

static const struct plant plants[] = {
    {false, "data_is_there_whoever_drives", plant_signal},
    {false, "zero_and_unaligned_lengths", plant_lost},
    {false, "zero_and_unaligned_lengths", plant_longer},
    {false, "bad_keys_and_ranges_fail_the_connection_only", plant_any_key},
    {false, "flush_gives_the_source_back", plant_flush},
    {false, "stale_keys_are_refused", plant_stale},
    {false, "opens_and_closes_without_a_trace", plant_descriptor},
    {false, "opens_and_closes_without_a_trace", plant_memory},
    {false, "sleepers_are_told_by_the_descriptor", plant_deaf},
    {false, "inline_data_may_be_as_long_as_is_told", plant_promise},
    {false, "dead_address_cannot_be_connected", plant_output},
    {true, "memory_is_aligned_zeroed_and_bounded", plant_used},
    {true, "memory_is_aligned_zeroed_and_bounded", plant_free},
    {true, "host_memory_is_registered_once", plant_registration},
    {true, "waits_end_by_signals_or_time", plant_never_late},
    {true, "waits_end_by_signals_or_time", plant_set},
    {true, "copies_and_fills_of_every_length", plant_one_copy},
    {true, "reductions_of_every_type_and_operation", plant_fold},
    {true, "bad_commands_are_not_executed", plant_skip},
    {true, "cancelled_submissions_end_and_others_go_on", plant_cancel},
    {true, "soft_resets_end_work_and_keep_memory", plant_generation},
    {true, "bad_addresses_stop_their_queue_only", plant_no_news},
    {true, "opens_and_closes_without_a_trace", plant_less},
    {true, "commands_are_taken_in_two_parts", plant_all_first},
    {true, "commands_are_taken_in_two_parts", plant_all_afterwards},
    {true, "commands_are_taken_in_two_parts", plant_one_more},
    {true, "commands_are_taken_in_two_parts", plant_two},
    {true, "commands_are_taken_in_two_parts", plant_again},
    {true, "commands_are_taken_in_two_parts", plant_if_refused},
};

/* The exit status of a process that runs the one test, without a word. */
static int run_quietly(const struct plant *plant, bool planted)
{
    int status = 0, null;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid) {
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    if (planted) { /* what is lost now need not be waited for as long */
        plant->plant();
        nodes_limit_ns = side_wait_ns = 2000000000;
    }
    cmocka_set_test_filter(plant->test);
    _exit(plant->of_device ? device_conformance_run(&device, -1)
                           : fabric_conformance_run(&fabric, NULL));
}

static void planted_bugs_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
        if (run_quietly(&plants[i], false) != 0)
            fail_msg("%s fails on what is right", plants[i].test);
        if (plants[i].plant == plant_memory && !holdings_count().bytes)
            continue; /* a sanitizer's malloc does not count */
        if (run_quietly(&plants[i], true) != 1)
            fail_msg("%s does not tell plant %zu", plants[i].test, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(planted_bugs_are_told)};
    const struct thrum_fabric_ops *loopback;
    const struct thrum_device_ops *sim;

    if (fabric_plugin_load("loopback", &loopback) || device_plugin_load("sim", &sim))
        return 1;
    right = fabric = *loopback;
    good = device = *sim;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
