/*
 * The PORT engine of sim behind a flush that waits: which puts go meanwhile, which do not, and that each flush waits for
 * no more than what was before it. The fabric is one of this file's: a put is taken at once, and done when the test says.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "device/device_internal.h"
#include "device_test.h"

#define LOOKS 200 /* at the queue, after which what may go has gone */

static char peer_memory[4096], other_memory[4096];
static _Atomic uint64_t accepted, completed;
static _Atomic int refusal; /* of the next puts; 0: none */
static _Thread_local unsigned own_looks; /* at the port, of this thread */

static thrum_status_t take_put(void *peer, const struct thrum_fabric_put *put)
{
    if (atomic_load(&refusal))
        return (thrum_status_t)atomic_load(&refusal);
    memcpy((char *)peer + put->remote_offset, put->local, put->bytes);
    atomic_fetch_add(&accepted, 1);
    return THRUM_OK;
}

static thrum_status_t flush(void *peer)
{
    (void)peer;
    return atomic_load(&completed) >= atomic_load(&accepted) ? THRUM_OK : THRUM_IN_PROGRESS;
}

static thrum_status_t flush_mark(void *peer, uint64_t *mark)
{
    (void)peer;
    if (!*mark)
        *mark = atomic_load(&accepted) + 1;
    return atomic_load(&completed) + 1 >= *mark ? THRUM_OK : THRUM_IN_PROGRESS;
}

static thrum_status_t progress(void *endpoint)
{
    (void)endpoint;
    own_looks++;
    return THRUM_IN_PROGRESS;
}

static int wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

static size_t get_events(void *endpoint, struct thrum_fabric_event *events_out, size_t max)
{
    (void)endpoint, (void)events_out, (void)max;
    return 0;
}

static const struct thrum_fabric_ops marking = {.size = sizeof marking,
                                                .abi_version = THRUM_FABRIC_ABI_VERSION,
                                                .name = "marking",
                                                .put_signal = take_put,
                                                .flush = flush,
                                                .flush_mark = flush_mark,
                                                .progress = progress,
                                                .wait_fd = wait_fd,
                                                .get_events = get_events};

static const struct thrum_fabric_ops plain = {.size = sizeof plain,
                                              .abi_version = THRUM_FABRIC_ABI_VERSION,
                                              .name = "plain",
                                              .put_signal = take_put,
                                              .flush = flush,
                                              .progress = progress,
                                              .wait_fd = wait_fd,
                                              .get_events = get_events};

static int endpoint;

static void attach(struct fixture *f, const struct thrum_fabric_ops *fabric)
{
    atomic_store(&accepted, 0);
    atomic_store(&completed, 0);
    atomic_store(&refusal, 0);
    memset(peer_memory, 0, sizeof peer_memory);
    assert_ok(f->device->ops->port_attach(f->device->impl, fabric, &endpoint));
    assert_ok(thrum_fill(f->queue, f->a, 'a', FIXTURE_BYTES));
    assert_ok(thrum_fill(f->queue, f->b, 0, FIXTURE_BYTES));
    assert_ok(finish(f->queue));
}

static void detach(struct fixture *f)
{
    assert_ok(f->device->ops->port_detach(f->device->impl, &endpoint));
}

/*
 * As exec_put does it: waits for operation n - 1 of the word at b, puts 64 bytes of `source` to offset 64 n, flushes,
 * says that n is done. Returns its ticket.
 */
static uint64_t submit_put_to(struct fixture *f, char *peer, uint64_t n, uint64_t source)
{
    struct thrum_operand operands[] = {
        {.base = at(f->b)}, {.base = 64 * n}, {.base = source}, {.base = at(f->b)}};
    struct thrum_command commands[] = {
        {.opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = n - 1, .operands = &operands[0]},
        {.opcode = THRUM_CMD_PUT,
         .ndst = 1,
         .nsrc = 1,
         .bytes = 64,
         .operands = &operands[1],
         .put = {.peer = peer, .local_region = &endpoint, .remote_key = 7}},
        {.opcode = THRUM_CMD_PUT,
         .flags = THRUM_CMD_FLAG_FLUSH,
         .value = 12345, /* means nothing */
         .put = {.peer = peer}},
        {.opcode = THRUM_CMD_SIGNAL,
         .flags = THRUM_CMD_FLAG_SET,
         .ndst = 1,
         .value = n,
         .operands = &operands[3]}};
    uint64_t ticket = 0;

    assert_ok(thrum_queue_submit(f->queue, commands, 4, &ticket));
    return ticket;
}

static uint64_t submit_put(struct fixture *f, uint64_t n, uint64_t source)
{
    return submit_put_to(f, peer_memory, n, source);
}

static thrum_status_t poll_ticket(struct fixture *f, uint64_t ticket)
{
    return f->queue->ops->poll(f->queue->impl, ticket);
}

/* How many puts are gone when everything that may has. */
static uint64_t look(struct fixture *f, uint64_t ticket)
{
    for (int i = 0; i < LOOKS; i++)
        (void)poll_ticket(f, ticket);
    return atomic_load(&accepted);
}

/* The queue may be in the hands of the device's thread for a while. */
static void await(struct fixture *f, uint64_t ticket)
{
    assert_ok(f->queue->ops->wait(f->queue->impl, ticket, TEST_TIMEOUT_NS));
}

static void await_accepted(struct fixture *f, uint64_t ticket, uint64_t n)
{
    for (int i = 0; atomic_load(&accepted) < n && i < 30000; i++) {
        (void)poll_ticket(f, ticket);
        if (i > LOOKS)
            poll(NULL, 0, 1);
    }
    assert_int_equal(atomic_load(&accepted), n);
}

static void puts_follow_each_other(void **state)
{
    struct fixture *f = of(state);
    uint64_t tickets[41];

    attach(f, &marking);
    for (uint64_t n = 1; n <= 40; n++)
        tickets[n] = submit_put(f, n, at(f->a));
    await_accepted(f, tickets[40], 40);
    assert_int_equal(poll_ticket(f, tickets[1]), THRUM_IN_PROGRESS);
    atomic_store(&completed, 1);
    await(f, tickets[1]); /* although the others are not done */
    assert_int_equal(look(f, tickets[2]), 40);
    assert_int_equal(poll_ticket(f, tickets[2]), THRUM_IN_PROGRESS);
    atomic_store(&completed, 17);
    await(f, tickets[17]);
    (void)look(f, tickets[18]);
    assert_int_equal(poll_ticket(f, tickets[18]), THRUM_IN_PROGRESS);
    atomic_store(&completed, 40);
    await(f, tickets[40]);
    assert_int_equal(atomic_load(&accepted), 40); /* none went twice */
    for (int i = 64; i < 41 * 64; i++)
        assert_int_equal(peer_memory[i], 'a');
    detach(f);
}

static void not_without_marks(void **state)
{
    struct fixture *f = of(state);
    uint64_t ticket;

    attach(f, &plain);
    (void)submit_put(f, 1, at(f->a));
    ticket = submit_put(f, 2, at(f->a));
    assert_int_equal(look(f, ticket), 1);
    atomic_store(&completed, 1);
    await_accepted(f, ticket, 2);
    atomic_store(&completed, 2);
    await(f, ticket);
    detach(f);
}

/* What another peer is told may let it write where the first put still reads. */
static void not_to_another_peer(void **state)
{
    struct fixture *f = of(state);
    uint64_t ticket;

    attach(f, &marking);
    (void)submit_put(f, 1, at(f->a));
    (void)submit_put(f, 2, at(f->a));
    (void)submit_put_to(f, other_memory, 3, at(f->a));
    ticket = submit_put(f, 4, at(f->a));
    assert_int_equal(look(f, ticket), 2);
    atomic_store(&completed, 1);
    assert_int_equal(look(f, ticket), 2);
    atomic_store(&completed, 2);
    await_accepted(f, ticket, 3);
    assert_int_equal(look(f, ticket), 3);
    atomic_store(&completed, 3);
    await_accepted(f, ticket, 4);
    atomic_store(&completed, 4);
    await(f, ticket);
    detach(f);
}

/* What stands between is done first: the put behind it sends what it has written. */
static void not_past_a_copy(void **state)
{
    struct fixture *f = of(state);
    uint64_t ticket;

    attach(f, &marking);
    (void)submit_put(f, 1, at(f->a));
    assert_ok(thrum_fill(f->queue, f->a, 'c', 64));
    ticket = submit_put(f, 2, at(f->a));
    assert_int_equal(look(f, ticket), 1);
    atomic_store(&completed, 1);
    await_accepted(f, ticket, 2);
    atomic_store(&completed, 2);
    await(f, ticket);
    assert_int_equal(peer_memory[64], 'a');
    assert_int_equal(peer_memory[128], 'c');
    detach(f);
}

/* The second one sends the word that says that the first one is done. */
static void not_when_it_reads_a_word_that_is_set_before(void **state)
{
    struct fixture *f = of(state);
    uint64_t ticket, word;

    attach(f, &marking);
    (void)submit_put(f, 1, at(f->a));
    ticket = submit_put(f, 2, at(f->b));
    assert_int_equal(look(f, ticket), 1);
    atomic_store(&completed, 2);
    await(f, ticket);
    memcpy(&word, peer_memory + 128, 8);
    assert_int_equal(word, 1);
    detach(f);
}

static void not_before_a_wait_is_over(void **state)
{
    struct fixture *f = of(state);
    uint64_t ticket;
    thrum_queue_t other;

    attach(f, &marking);
    assert_ok(thrum_queue_create(f->device, THRUM_QUEUE_DEFAULT, &other));
    (void)submit_put(f, 1, at(f->a));
    assert_ok(submit_wait(f->queue, at(f->b) + 64, 1));
    ticket = submit_put(f, 2, at(f->a));
    assert_int_equal(look(f, ticket), 1);
    assert_ok(submit_signal(other, at(f->b) + 64, 1, 0));
    assert_ok(finish(other));
    await_accepted(f, ticket, 2); /* and before the first one is done */
    atomic_store(&completed, 2);
    await(f, ticket);
    thrum_queue_destroy(other);
    detach(f);
}

/* What cannot go ahead fails in its turn, and what is before it does not. */
static void a_failure_is_met_in_its_turn(void **state)
{
    struct fixture *f = of(state);
    uint64_t first, second;

    attach(f, &marking);
    first = submit_put(f, 1, at(f->a));
    atomic_store(&refusal, THRUM_ERR_UNREACHABLE);
    second = submit_put(f, 2, at(f->a));
    assert_int_equal(look(f, second), 1);
    assert_int_equal(poll_ticket(f, first), THRUM_IN_PROGRESS);
    atomic_store(&completed, 1);
    await(f, first);
    assert_status(f->queue->ops->wait(f->queue->impl, second, TEST_TIMEOUT_NS),
                  THRUM_ERR_UNREACHABLE);
    detach(f);
}

static void a_fault_is_met_in_its_turn(void **state)
{
    struct fixture *f = of(state);
    uint64_t first, second, bad = at(f->a) + FIXTURE_BYTES - 32;

    attach(f, &marking);
    first = submit_put(f, 1, at(f->a));
    second = submit_put(f, 2, bad);
    assert_int_equal(look(f, second), 1);
    assert_int_equal(poll_ticket(f, first), THRUM_IN_PROGRESS);
    atomic_store(&completed, 1);
    await(f, first);
    expect_fault(f, f->queue, THRUM_RAS_PAGE_FAULT, THRUM_ERR_FAULT, bad);
    detach(f);
}

/* Of a submission that was cancelled nothing goes any more. */
static void not_what_was_cancelled(void **state)
{
    struct fixture *f = of(state);
    uint64_t first, second;

    attach(f, &marking);
    first = submit_put(f, 1, at(f->a));
    atomic_store(&refusal, THRUM_IN_PROGRESS); /* no room: the second one waits for its turn */
    second = submit_put(f, 2, at(f->a));
    f->queue->ops->cancel(f->queue->impl, second, second, THRUM_ERR_ABORTED);
    atomic_store(&refusal, 0);
    assert_int_equal(look(f, second), 1);
    atomic_store(&completed, 1);
    await(f, first);
    assert_status(f->queue->ops->wait(f->queue->impl, second, TEST_TIMEOUT_NS), THRUM_ERR_ABORTED);
    assert_int_equal(atomic_load(&accepted), 1);
    detach(f);
}

/* A fabric may have more to do for a put that it has taken; it is not left to the device's thread. */
static void who_waits_for_what_has_ended_looks_at_the_port(void **state)
{
    struct fixture *f = of(state);
    unsigned before;
    uint64_t ticket;

    attach(f, &plain);
    atomic_store(&completed, 1);
    ticket = submit_put(f, 1, at(f->a));
    while (poll_ticket(f, ticket) == THRUM_IN_PROGRESS)
        ;
    before = own_looks;
    for (int i = 0; own_looks == before && i < 1000; i++) /* the device's thread may be at it */
        await(f, ticket);
    assert_true(own_looks > before);
    detach(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(puts_follow_each_other),
        DEVICE_TEST(not_without_marks),
        DEVICE_TEST(not_to_another_peer),
        DEVICE_TEST(not_past_a_copy),
        DEVICE_TEST(not_when_it_reads_a_word_that_is_set_before),
        DEVICE_TEST(not_before_a_wait_is_over),
        DEVICE_TEST(a_failure_is_met_in_its_turn),
        DEVICE_TEST(a_fault_is_met_in_its_turn),
        DEVICE_TEST(not_what_was_cancelled),
        DEVICE_TEST(who_waits_for_what_has_ended_looks_at_the_port),
    };

    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    return cmocka_run_group_tests_name("put", tests, NULL, NULL);
}
