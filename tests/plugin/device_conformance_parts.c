/* Conformance of device plugins: submissions in two parts, where a plugin takes them (submit_meanwhile). */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "device_conformance.h"
#include "device_side.h"

#define COMMANDS 4
#define LONG_US 20000 /* others have the time to do what they must not */

/* Command i sets word i of `right` as long as it is what the plugin is to take, and of `wrong` before and after. */
struct parts {
    const struct side *side;
    uint64_t right, wrong;
    struct thrum_operand operands[COMMANDS];
    struct thrum_command commands[COMMANDS];
    size_t nfirst;
    pthread_t submitter;
    int calls;
    uint64_t ticket, seen;
    _Atomic int is_called, other_is_done;
    uint64_t other_ticket;
};

static void point(struct parts *p, size_t i, bool right)
{
    p->operands[i].base = (right ? p->right : p->wrong) + 8 * i;
    p->commands[i].value = right ? 1 : 7;
}

static void begin(struct parts *p, const struct side *side, size_t nfirst)
{
    *p = (struct parts){.side = side,
                        .right = side_alloc(side, 4096),
                        .nfirst = nfirst,
                        .submitter = pthread_self()};
    p->wrong = p->right + 2048;
    for (size_t i = 0; i < COMMANDS; i++) {
        p->commands[i] = (struct thrum_command){.opcode = THRUM_CMD_SIGNAL,
                                                .flags = THRUM_CMD_FLAG_SET,
                                                .ndst = 1,
                                                .operands = &p->operands[i]};
        point(p, i, i < nfirst);
    }
}

static void write_others(void *argument)
{
    struct parts *p = argument;

    p->calls++;
    p->seen = p->ticket;
    side_expect(pthread_equal(p->submitter, pthread_self()), "called by who submits");
    for (size_t i = 0; i < COMMANDS; i++)
        point(p, i, i >= p->nfirst);
}

static void submit(struct parts *p, void (*meanwhile)(void *))
{
    const struct thrum_device_ops *ops = p->side->ops;

    if (ops->check)
        side_expect_ok(ops->check(p->side->device, p->commands, COMMANDS), "check");
    side_expect_ok(ops->submit_meanwhile(p->side->queue, p->commands, COMMANDS, p->nfirst,
                                         &p->ticket, meanwhile, p),
                   "submit_meanwhile");
    side_expect(p->calls == 1, "it has called once");
    side_expect(p->ticket && p->seen == p->ticket, "with the ticket written");
    for (size_t i = 0; i < COMMANDS; i++)
        point(p, i, false); /* what is the caller's again */
}

static void expect_all(const struct parts *p)
{
    side_expect_ok(side_finish(p->side, p->side->queue, p->ticket), "both parts");
    side_expect(side_is_zero(p->side, p->wrong, 8 * (size_t)COMMANDS),
                "each command is taken in its time");
    for (size_t i = 0; i < COMMANDS; i++)
        side_expect(side_word(p->side, p->right + 8 * i) == 1, "each command is taken");
    side_expect_ok(p->side->ops->mem_free(p->side->device, p->right), "mem_free");
}

/* At once, and behind what waits. */
static void in_turn(const struct side *side)
{
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    struct parts p;

    for (size_t nfirst = 0; nfirst <= COMMANDS; nfirst++) {
        begin(&p, side, nfirst);
        submit(&p, write_others);
        expect_all(&p);
        begin(&p, side, nfirst);
        (void)side_wait(side, side->queue, side->b, nfirst + 1);
        submit(&p, write_others);
        side_expect(side->ops->poll(side->queue, p.ticket) == THRUM_IN_PROGRESS, "it waits");
        (void)side_signal(side, other, side->b, nfirst + 1, THRUM_CMD_FLAG_SET);
        expect_all(&p);
    }
    side->ops->queue_destroy(other);
}

/* The ticket is that of both: the last command waits. */
static void of_one_ticket(const struct side *side)
{
    void *other = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    struct parts p;

    begin(&p, side, 1);
    p.commands[COMMANDS - 1].opcode = THRUM_CMD_WAIT;
    p.commands[COMMANDS - 1].flags = 0;
    p.commands[COMMANDS - 1].ndst = 0;
    p.commands[COMMANDS - 1].nsrc = 1;
    submit(&p, write_others);
    usleep(LONG_US);
    side_expect(side->ops->poll(side->queue, p.ticket) == THRUM_IN_PROGRESS,
                "the ticket is that of both parts");
    (void)side_signal(side, other, p.right + 8 * (COMMANDS - 1), 1, 0);
    expect_all(&p);
    side->ops->queue_destroy(other);
}

static void write_slowly(void *argument)
{
    struct parts *p = argument;

    write_others(p);
    atomic_store(&p->is_called, 1);
    usleep(LONG_US);
    side_expect(!atomic_load(&p->other_is_done), "nothing is submitted between the parts");
}

static void *submit_between(void *argument)
{
    struct parts *p = argument;

    while (!atomic_load(&p->is_called))
        sched_yield();
    p->other_ticket = side_signal(p->side, p->side->queue, p->side->b + 64, 1, 0);
    atomic_store(&p->other_is_done, 1);
    return NULL;
}

static void with_another_thread(const struct side *side, size_t nfirst)
{
    struct parts p;
    pthread_t thread;

    begin(&p, side, nfirst);
    side_expect(!pthread_create(&thread, NULL, submit_between, &p), "thread");
    submit(&p, write_slowly);
    pthread_join(thread, NULL);
    side_expect(p.other_ticket > p.ticket, "tickets grow");
    expect_all(&p);
    side_expect_ok(side_finish(side, side->queue, p.other_ticket), "of a thread");
}

/* A queue that has stopped, of its own. */
static void refused(const struct side *side)
{
    struct side stopped = *side;
    struct parts p;

    stopped.queue = side_new_queue(side, THRUM_QUEUE_DEFAULT);
    (void)side_finish(&stopped, stopped.queue,
                      side_copy(&stopped, stopped.queue, side->b, 0x1234560, 8));
    begin(&p, &stopped, 2);
    p.ticket = 77;
    side_expect(side->ops->submit_meanwhile(stopped.queue, p.commands, COMMANDS, p.nfirst,
                                            &p.ticket, write_others, &p) == THRUM_ERR_FAULT,
                "the queue has stopped");
    side_expect(!p.calls && p.ticket == 77, "what is refused calls nothing");
    side->ops->queue_destroy(stopped.queue);
}

static void parts_body(struct side *side)
{
    if (!side->ops->submit_meanwhile)
        return;
    in_turn(side);
    of_one_ticket(side);
    for (size_t nfirst = 0; nfirst <= COMMANDS; nfirst++)
        with_another_thread(side, nfirst);
    refused(side);
}

void commands_are_taken_in_two_parts(void **state)
{
    (void)state;
    assert_true(side_run(1, -1, parts_body));
}
