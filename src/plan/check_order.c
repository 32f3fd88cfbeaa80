/*
 * check_order: vector clocks, semaphores and lines: what each lane knows to have happened. Called by plan_check.c for
 * SIGNAL and WAIT, and by check_data.c for PUT.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

void order_join(const struct check *check, uint32_t *into, const uint32_t *from)
{
    for (uint32_t i = 0; i < check->threads; i++)
        into[i] = into[i] > from[i] ? into[i] : from[i];
}

/* A copy of the thread's clock, for whoever waits; what the thread does next is not in it. */
static bool release(struct check *check, uint32_t thread, uint32_t *clock_out)
{
    uint32_t *clock = check_clock(check, thread);
    size_t bytes = check->threads * sizeof *clock;

    if (!check->free_clocks.n) {
        uint32_t *fresh = malloc(bytes);

        if (!fresh || !VECTOR_RESERVE(&check->clock_pool, check->clock_pool.n + 1) ||
            !VECTOR_RESERVE(&check->free_clocks, check->clock_pool.n + 1)) {
            free(fresh);
            return check_no_memory(check);
        }
        check->free_clocks.at[check->free_clocks.n++] = (uint32_t)check->clock_pool.n;
        check->clock_pool.at[check->clock_pool.n++] = fresh;
    }
    *clock_out = check->free_clocks.at[--check->free_clocks.n];
    memcpy(check->clock_pool.at[*clock_out], clock, bytes);
    clock[thread]++;
    return true;
}

/* Room is there: free_clocks can hold the whole pool. */
static void give_back_clock(struct check *check, uint32_t clock)
{
    check->free_clocks.at[check->free_clocks.n++] = clock;
}

/* ---- who may run ------------------------------------------------------------------------------------------------- */

bool order_wake(struct check *check, uint32_t thread)
{
    if (!check->lane_of[thread].blocked)
        return true;
    check->lane_of[thread].blocked = false;
    if (!VECTOR_RESERVE(&check->runnable, check->runnable.n + 1))
        return check_no_memory(check);
    check->runnable.at[check->runnable.n++] = thread;
    return true;
}

/* ---- signals and waits ------------------------------------------------------------------------------------------- */

static uint64_t absolute(const struct check *check, const struct semaphore *semaphore,
                         uint64_t value)
{
    return check->round * semaphore->raise_max + value;
}

static bool new_raise(struct check *check, uint32_t *id_out)
{
    if (check->free_raises.n) {
        *id_out = check->free_raises.at[--check->free_raises.n];
        return true;
    }
    if (!VECTOR_RESERVE(&check->raises, check->raises.n + 1) ||
        !VECTOR_RESERVE(&check->free_raises, check->raises.n + 1))
        return check_no_memory(check);
    check->raises.n++;
    *id_out = (uint32_t)check->raises.n;
    return true;
}

bool order_raise(struct check *check, uint32_t thread, struct semaphore *s, uint64_t value,
                 uint32_t puts)
{
    uint32_t id = 0, clock = 0;

    if (!release(check, thread, &clock) || !new_raise(check, &id))
        return false;
    s->raised = absolute(check, s, value);
    check->raises.at[id - 1] = (struct raise){.value = s->raised, .clock = clock, .puts = puts};
    if (s->last_raise)
        check->raises.at[s->last_raise - 1].next = id;
    else
        s->first_raise = id;
    s->last_raise = id;
    return order_wake(check, check_thread(check, s->to, s->lane));
}

/* The receiver knows of these PUTs from now on. */
static void receive_puts(struct check *check, uint32_t puts, uint32_t epoch)
{
    for (; puts; puts = check->puts.at[puts - 1].next)
        check->puts.at[puts - 1].epoch = epoch;
}

/*
 * Done if raised so far, else the lane blocks. The first raise that is high enough is all that a WAIT can be sure of,
 * so only what is known up to it is taken over, however far the semaphore has come.
 */
bool order_wait(struct check *check, uint32_t thread, struct semaphore *s, uint64_t value)
{
    uint32_t *clock = check_clock(check, thread);
    uint64_t wanted = absolute(check, s, value);

    if (s->raised < wanted)
        return false;
    while (s->seen < wanted) {
        uint32_t id = s->first_raise;
        struct raise *raise = &check->raises.at[id - 1];

        s->seen = raise->value;
        order_join(check, clock, check->clock_pool.at[raise->clock]);
        receive_puts(check, raise->puts, clock[thread]);
        s->first_raise = raise->next;
        if (!raise->next)
            s->last_raise = 0;
        give_back_clock(check, raise->clock);
        check->free_raises.at[check->free_raises.n++] = id;
    }
    return true;
}

bool order_send_line(struct check *check, uint32_t thread, struct line *line)
{
    uint32_t slot = check->round % PLAN_CHECK_ROUNDS;

    if (line->sent_round[slot])
        give_back_clock(check, line->clock[slot]);
    if (!release(check, thread, &line->clock[slot]))
        return false;
    line->sent_round[slot] = check->round + 1;
    for (int lane = 0; lane < check->lanes; lane++)
        if (!order_wake(check, check_thread(check, line->to, lane)))
            return false;
    return true;
}

bool order_wait_line(struct check *check, uint32_t thread, struct line *line)
{
    uint32_t slot = check->round % PLAN_CHECK_ROUNDS, *clock = check_clock(check, thread);

    if (line->sent_round[slot] != check->round + 1)
        return false;
    order_join(check, clock, check->clock_pool.at[line->clock[slot]]);
    line->waited[thread % (uint32_t)check->lanes].epoch = clock[thread];
    line->waited[thread % (uint32_t)check->lanes].round = check->round;
    return true;
}
