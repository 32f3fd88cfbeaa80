/*
 * Waiting: the waiter executes, then spins, yields its core, and at last sleeps on a word that signallers of any
 * process look at. Called through the plugin table and by the engine thread.
 */
#include "sim_internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS_PER_LOOK 64 /* between two looks at the clock */
/*
 * More ranks than cores: whoever is waited for needs this core. It is given away after a second look, and the clock and
 * other queues are looked at now and then only.
 */
#define SPINS_OVERSUBSCRIBED 2
#define YIELDS_PER_LOOK 16
#define SPIN_OVERSUBSCRIBED_NS 0
#define LONG_YIELD_NS 2000000 /* longer than ranks take that take turns */
#define OFTEN_LONG 16 /* a yield in so many that takes long is no rank that computes for once */
#define SLEEPS_MIN_NS 5000000 /* for so long yields are avoided then */
#define SLEEPS_MAX_NS 160000000
#define SPIN_NS 50000 /* twice what a sleep and a wake cost */
#define YIELD_NS 1000000
#define SLEEP_NS 10000000
#define SLEEP_UNWOKEN_NS 200000 /* on a callback or a port: nobody will wake us */

/* ---- barriers and futexes -------------------------------------------------------------------------------------- */

static _Atomic int heavy_barrier_works;

void sim_heavy_barrier_register(void)
{
    if (!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0))
        atomic_store(&heavy_barrier_works, 1);
}

/*
 * Signaller: store the value; load `sleepers`. Sleeper: add to `sleepers`; load the value. One of them must see the
 * other, which takes a barrier on both sides; membarrier puts both into the sleeper, which has the time. Where the
 * kernel refuses it, the bounded sleep is the answer to a wake that was missed.
 */
void sim_heavy_barrier(void)
{
    if (atomic_load_explicit(&heavy_barrier_works, memory_order_relaxed))
        (void)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

void sim_wake_sleepers(struct sim_shared *shared)
{
    atomic_fetch_add_explicit(&shared->wake_sequence, 1, memory_order_acq_rel);
    (void)syscall(SYS_futex, &shared->wake_sequence, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void sim_sleep(struct sim_shared *shared, int64_t timeout_ns, bool (*recheck)(void *), void *arg)
{
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000,
                               .tv_nsec = timeout_ns % 1000000000};
    uint32_t sequence = atomic_load_explicit(&shared->wake_sequence, memory_order_acquire);

    atomic_fetch_add_explicit(&shared->sleepers, 1, memory_order_seq_cst);
    sim_heavy_barrier();
    if (!recheck(arg))
        (void)syscall(SYS_futex, &shared->wake_sequence, FUTEX_WAIT, sequence, &timeout, NULL, 0);
    atomic_fetch_sub_explicit(&shared->sleepers, 1, memory_order_relaxed);
}

#define PAUSES 64
#define YIELDS 64
#define NAP_NS 20000

void sim_await_other(unsigned looks)
{
    if (looks < PAUSES)
        cpu_pause();
    else if (looks < PAUSES + YIELDS)
        sched_yield();
    else
        (void)nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

/* ---- helping --------------------------------------------------------------------------------------------------- */

static bool help_one(struct sim_queue *queue)
{
    uint64_t before;
    bool moved;

    if (sim_queue_has_owner(queue) || !sim_queue_pending(queue) || !sim_queue_try_own(queue))
        return false;
    before = atomic_load_explicit(&queue->progress, memory_order_relaxed);
    (void)sim_execute(queue, SIM_BUDGET_SLICE, true);
    moved = atomic_load_explicit(&queue->progress, memory_order_relaxed) != before;
    sim_queue_disown(queue);
    return moved;
}

bool sim_help(const struct sim_queue *except)
{
    bool moved = false;

    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (queue != except)
            moved |= help_one(queue);
    }
    return moved;
}

/* ---- the wait -------------------------------------------------------------------------------------------------- */

struct waiter {
    struct sim_queue *queue;
    uint64_t ticket;
    int64_t spin_ns;
    int spins; /* of a burst */
    bool gives_way; /* who is waited for needs this core */
    int64_t idle_since_ns; /* when it last saw progress; 0: look at the clock */
    uint64_t seen_progress;
};

static bool ended(const struct waiter *waiter)
{
    return atomic_load_explicit(&waiter->queue->done_ticket, memory_order_acquire) >=
           waiter->ticket;
}

/* One burst of execution. True if the ticket has ended. */
static bool burst(struct waiter *waiter)
{
    struct sim_queue *queue = waiter->queue;
    bool ports = atomic_load_explicit(&queue->device->nports, memory_order_relaxed) != 0;
    int spins = waiter->gives_way ? SPINS_OVERSUBSCRIBED : waiter->spins;

    if (atomic_load_explicit(&queue->wanted, memory_order_relaxed) || !sim_queue_try_own(queue)) {
        for (int i = 0; i < spins && !ended(waiter); i++)
            cpu_pause();
        return ended(waiter);
    }
    for (int i = 0; i < spins; i++) {
        enum sim_state state = sim_execute(queue, SIM_BUDGET_SLICE, true);
        if (ended(waiter) || state != SIM_BLOCKED ||
            atomic_load_explicit(&queue->wanted, memory_order_relaxed))
            break;
        if (sim_unlikely(ports) && i % 4 == 0)
            (void)sim_ports_progress(queue->device);
        cpu_pause();
    }
    waiter->gives_way = sim_writer_is_here(queue);
    sim_queue_disown(queue);
    return ended(waiter);
}

static bool recheck(void *argument)
{
    struct waiter *waiter = argument;
    uint64_t before = atomic_load_explicit(&waiter->queue->progress, memory_order_relaxed);

    return burst(waiter) ||
           atomic_load_explicit(&waiter->queue->progress, memory_order_relaxed) != before;
}

static void fall_asleep(struct waiter *waiter, int64_t left_ns)
{
    struct sim_queue *queue = waiter->queue;
    struct sim_shared *blocked_on = NULL, *shared = queue->device->shared;
    int64_t sleep_ns = SLEEP_NS;

    /*
     * What the queue is blocked on may be a peer's page. It stays mapped while the import is there; dropping an import
     * under a queue that waits on it is caught by quiescing only, so a page that is not ours is never slept on.
     */
    if (sim_queue_try_own(queue)) {
        blocked_on = atomic_load_explicit(&queue->blocked_on, memory_order_relaxed);
        sim_queue_disown(queue);
        if (blocked_on != shared)
            sleep_ns = SLEEP_UNWOKEN_NS;
    }
    if (atomic_load_explicit(&queue->device->nports, memory_order_relaxed))
        sleep_ns = SLEEP_UNWOKEN_NS;
    if (left_ns >= 0 && left_ns < sleep_ns)
        sleep_ns = left_ns;
    sim_sleep(shared, sleep_ns, recheck, waiter);
}

/* Sleeping instead of yields pays now: for a while, the longer, the sooner this comes after the last while. */
static void avoid_yields(struct sim_device *device, int64_t now)
{
    int64_t until = atomic_load_explicit(&device->sleeps_until_ns, memory_order_relaxed);
    int64_t while_ns = atomic_load_explicit(&device->sleeps_for_ns, memory_order_relaxed);

    while_ns = now - until < while_ns ? while_ns * 2 : SLEEPS_MIN_NS;
    if (while_ns > SLEEPS_MAX_NS)
        while_ns = SLEEPS_MAX_NS;
    atomic_store_explicit(&device->sleeps_for_ns, while_ns, memory_order_relaxed);
    atomic_store_explicit(&device->sleeps_until_ns, now + while_ns, memory_order_relaxed);
}

/*
 * Passes the core on to who is waited for. A yield that takes long has given it to somebody who does not wait for us, for a whole
 * time slice. Where that comes again at once, it is no rank that has had something to do, and so may the next one: who sleeps
 * comes before them when he is woken.
 */
static void pass_core_on(struct waiter *waiter, int64_t before, int64_t left_ns)
{
    struct sim_device *device = waiter->queue->device;
    int64_t now;
    int soon;

    if (before < atomic_load_explicit(&device->sleeps_until_ns, memory_order_relaxed)) {
        fall_asleep(waiter, left_ns);
        return;
    }
    sched_yield();
    now = now_ns();
    soon = atomic_load_explicit(&device->soon_again, memory_order_relaxed);
    if (now - before > LONG_YIELD_NS) {
        if (soon)
            avoid_yields(device, now);
        atomic_store_explicit(&device->soon_again, OFTEN_LONG, memory_order_relaxed);
    } else if (soon) {
        atomic_store_explicit(&device->soon_again, soon - 1, memory_order_relaxed);
    }
}

/* After a burst without an end: how to pass the time. now_ns has just been read. */
static void relax(struct waiter *waiter, int64_t now, int64_t deadline_ns)
{
    uint64_t progress = atomic_load_explicit(&waiter->queue->progress, memory_order_relaxed);
    int64_t idle_ns;

    if (waiter->gives_way)
        sched_yield(); /* two ranks may have come to one core where each could have its own */
    sim_publish_core_now(waiter->queue->device);
    if (progress != waiter->seen_progress || !waiter->idle_since_ns) {
        waiter->seen_progress = progress;
        waiter->idle_since_ns = now;
        return;
    }
    idle_ns = now - waiter->idle_since_ns;
    if (idle_ns < waiter->spin_ns)
        return;
    if (sim_help(waiter->queue) || sim_ports_progress(waiter->queue->device))
        return;
    if (idle_ns < waiter->spin_ns + YIELD_NS)
        pass_core_on(waiter, now, deadline_ns ? deadline_ns - now : -1);
    else
        fall_asleep(waiter, deadline_ns ? deadline_ns - now : -1);
}

static int64_t spin_budget_ns(const struct sim_device *device)
{
    if (device->spin_ns >= 0)
        return device->spin_ns;
    return atomic_load_explicit(&((struct sim_device *)(uintptr_t)device)->oversubscribed,
                                memory_order_relaxed)
               ? SPIN_OVERSUBSCRIBED_NS
               : SPIN_NS;
}

static thrum_status_t wait_slowly(struct waiter *waiter, int64_t timeout_ns)
{
    int64_t now = now_ns(), deadline_ns = 0;

    if (timeout_ns >= 0 && __builtin_add_overflow(now, timeout_ns, &deadline_ns))
        deadline_ns = 0;
    waiter->spin_ns = spin_budget_ns(waiter->queue->device);
    sim_engine_notice(waiter->queue->device); /* it does resets of the fault script */
    for (unsigned rounds = 1; !burst(waiter); rounds++) {
        if (waiter->spins == SPINS_OVERSUBSCRIBED && rounds % YIELDS_PER_LOOK) {
            now = now_ns();
            if (deadline_ns && now >= deadline_ns)
                return THRUM_ERR_TIMEOUT;
            pass_core_on(waiter, now, deadline_ns ? deadline_ns - now : -1);
            continue;
        }
        now = now_ns();
        if (deadline_ns && now >= deadline_ns)
            return THRUM_ERR_TIMEOUT;
        relax(waiter, now, deadline_ns);
    }
    return THRUM_OK;
}

thrum_status_t sim_wait(void *handle, uint64_t ticket, int64_t timeout_ns)
{
    struct waiter waiter = {.queue = handle, .ticket = ticket};
    bool crowded =
        atomic_load_explicit(&waiter.queue->device->oversubscribed, memory_order_relaxed);
    thrum_status_t status;

    if (sim_unlikely(ticket >
                     atomic_load_explicit(&waiter.queue->last_ticket, memory_order_relaxed)))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "ticket=%llu was never given by queue %llu",
                          (unsigned long long)ticket, (unsigned long long)waiter.queue->id);
    waiter.spins = crowded ? SPINS_OVERSUBSCRIBED : SPINS_PER_LOOK;
    if (!ended(&waiter)) {
        atomic_fetch_add_explicit(&waiter.queue->waiters, 1, memory_order_relaxed);
        status = burst(&waiter) ? THRUM_OK : wait_slowly(&waiter, timeout_ns);
        atomic_fetch_sub_explicit(&waiter.queue->waiters, 1, memory_order_relaxed);
        if (status)
            return status;
    } else {
        /* what its puts have left to do goes on now, not when somebody else finds the time */
        (void)sim_ports_progress(waiter.queue->device);
    }
    return sim_ticket_status(waiter.queue, ticket);
}
