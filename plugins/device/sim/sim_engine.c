/*
 * The engine thread of a sim device: executes when the host is away, answers peers that ask for the memory, fires
 * timed faults and carries out scripted resets. In steady state nobody has to call into it: while the host is active
 * it looks at the queues now and then, and sleeps for good when they have been empty for a while.
 */
#include "sim_internal.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NAP_MIN_NS 200000
#define NAP_MAX_NS 5000000
#define NAP_MAX_OVERSUBSCRIBED_NS 20000000
#define NAPS_BEFORE_SLEEP 8 /* with nothing queued */
#define SPIN_NS 20000
#define BLOCKED_SLEEP_MAX_NS 10000000
#define ANSWER_GAP_NS 1000000
#define PORTS_SLEEP_NS 2000000 /* where a port cannot say now when it needs us */
#define PORTS_NAP_NS 500000 /* the same, when there was something to do lately */

struct engine {
    struct sim_device *device;
    int64_t nap_ns;
    int empty_naps;
    bool called; /* a peer asks, as poll has said */
    int64_t answered_ns;
};

static bool is_ours(const struct engine *engine, struct sim_queue *queue)
{
    return sim_queue_is_alive(queue) && queue->device == engine->device;
}

static bool any_pending(const struct engine *engine)
{
    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        if (is_ours(engine, queue) && sim_queue_pending(queue))
            return true;
    }
    return false;
}

/* ---- taking over ----------------------------------------------------------------------------------------------- */

/* Pending, and nobody waits for it or executes it; *same_out: it has not moved since the last look. */
static bool is_left(struct sim_queue *queue, bool *same_out)
{
    uint64_t progress = atomic_load_explicit(&queue->progress, memory_order_relaxed);

    *same_out = atomic_exchange_explicit(&queue->looked_progress, progress, memory_order_relaxed) ==
                progress;
    return sim_queue_pending(queue) &&
           !atomic_load_explicit(&queue->waiters, memory_order_relaxed) &&
           !sim_queue_has_owner(queue);
}

enum outcome { OUTCOME_NOTHING, OUTCOME_MOVED, OUTCOME_BLOCKED };

/* One slice of one queue. */
static enum outcome run_slice(struct sim_queue *queue)
{
    enum sim_state state;
    uint64_t before;
    bool moved;

    if (atomic_load_explicit(&queue->waiters, memory_order_relaxed) ||
        atomic_load_explicit(&queue->wanted, memory_order_relaxed) || !sim_queue_try_own(queue))
        return OUTCOME_NOTHING;
    before = atomic_load_explicit(&queue->progress, memory_order_relaxed);
    state = sim_execute(queue, SIM_BUDGET_SLICE, true);
    moved = atomic_load_explicit(&queue->progress, memory_order_relaxed) != before;
    sim_queue_disown(queue);
    return moved ? OUTCOME_MOVED : state == SIM_BLOCKED ? OUTCOME_BLOCKED : OUTCOME_NOTHING;
}

/* A slice of each queue that the host has left. */
static enum outcome run_all(const struct engine *engine)
{
    enum outcome best = OUTCOME_NOTHING;

    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        enum outcome outcome;
        if (!is_ours(engine, queue) || !sim_queue_pending(queue))
            continue;
        outcome = run_slice(queue);
        if (outcome == OUTCOME_MOVED || best == OUTCOME_NOTHING)
            best = outcome;
    }
    return best;
}

static bool has_moved(void *argument)
{
    return run_all(argument) == OUTCOME_MOVED;
}

/* A look at who asks makes the kernel build a socket first: not after every command, and at once where poll has told. */
static void answer_peers(struct engine *engine)
{
    int64_t now = now_ns();

    if (!engine->called && now - engine->answered_ns < ANSWER_GAP_NS)
        return;
    engine->called = false;
    engine->answered_ns = now;
    sim_serve_peers(engine->device);
}

static void do_chores(struct engine *engine)
{
    struct sim_device *device = engine->device;
    uint32_t reset = atomic_load_explicit(&device->reset_wanted, memory_order_acquire);

    if (reset) {
        if (sim_reset(device, (enum thrum_reset_kind)(reset - 1)))
            thrum_log(LOG_ERROR, "sim%d: scripted reset failed: %s", device->index,
                      thrum_last_error());
        /* only now: while it is set no queue begins a command, and the old ones are stopped by now */
        atomic_compare_exchange_strong_explicit(&device->reset_wanted, &reset, 0,
                                                memory_order_acq_rel, memory_order_relaxed);
    }
    answer_peers(engine);
}

/* Works as a waiter does until the queues are empty or the host is back. */
static void take_over(struct engine *engine)
{
    struct sim_device *device = engine->device;
    int64_t idle_since_ns = now_ns(), sleep_ns = 1000000;

    while (!atomic_load_explicit(&device->closing, memory_order_acquire)) {
        enum outcome outcome = run_all(engine);
        bool ports = atomic_load_explicit(&device->nports, memory_order_relaxed) != 0;
        int64_t now;

        if (outcome == OUTCOME_NOTHING)
            return;
        if (sim_ports_progress(device) || outcome == OUTCOME_MOVED) {
            idle_since_ns = now_ns();
            sleep_ns = 1000000;
            do_chores(engine);
            continue;
        }
        now = now_ns();
        if (now - idle_since_ns < SPIN_NS &&
            !atomic_load_explicit(&device->oversubscribed, memory_order_relaxed)) {
            cpu_pause();
            continue;
        }
        do_chores(engine);
        (void)sim_script_time(device);
        sim_sleep(device->shared, ports ? NAP_MIN_NS : sleep_ns, has_moved, engine);
        sleep_ns = (int64_t)min_u64((uint64_t)sleep_ns * 2, BLOCKED_SLEEP_MAX_NS);
    }
}

/* A queue that is left is looked at again soon; if it still is, the host is away. */
static bool look_for_abandoned(struct engine *engine)
{
    bool found = false;

    for (unsigned i = 0; i < sim_queue_high(); i++) {
        struct sim_queue *queue = sim_queue_at(i);
        bool same;
        if (!is_ours(engine, queue) || !is_left(queue, &same))
            continue;
        engine->nap_ns = NAP_MIN_NS;
        found |= same;
    }
    return found;
}

/* ---- sleeping -------------------------------------------------------------------------------------------------- */

static void drain(int fd)
{
    uint64_t value;
    if (read(fd, &value, sizeof value) < 0 && errno != EAGAIN)
        thrum_log(LOG_DEBUG, "sim: reading an eventfd: errno %d", errno);
}

/* True if it was kicked. timeout_ns < 0: none, if every port can say by itself when it needs us. */
static bool sleep_on_descriptors(struct engine *engine, int64_t timeout_ns)
{
    struct sim_device *device = engine->device;
    bool all = !atomic_load_explicit(&device->nports, memory_order_acquire);
    struct timespec timeout;
    struct pollfd fds[2 + SIM_MAX_PORTS] = {{.fd = device->wake_fd, .events = POLLIN},
                                            {.fd = device->listen_fd, .events = POLLIN}};
    nfds_t n = 2;

    if (!all && !atomic_exchange_explicit(&device->ports_lock, 1, memory_order_acquire)) {
        all = true;
        for (unsigned i = 0; i < atomic_load_explicit(&device->nports, memory_order_relaxed); i++) {
            int fd = device->ports[i].fabric->wait_fd(device->ports[i].endpoint);
            if (fd >= 0)
                fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
            all &= fd >= 0;
        }
        atomic_store_explicit(&device->ports_lock, 0, memory_order_release);
    }
    if (!all)
        timeout_ns =
            timeout_ns < 0 ? PORTS_SLEEP_NS : (int64_t)min_u64((uint64_t)timeout_ns, PORTS_NAP_NS);
    timeout =
        (struct timespec){.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (ppoll(fds, n, timeout_ns < 0 ? NULL : &timeout, NULL) <= 0)
        return false;
    if (fds[0].revents)
        drain(device->wake_fd);
    engine->called = fds[1].revents != 0;
    return fds[0].revents != 0;
}

static bool sleep_deeply(struct engine *engine, int64_t timed_ns)
{
    struct sim_device *device = engine->device;

    if (!atomic_load_explicit(&device->engine_asleep, memory_order_relaxed)) {
        atomic_store_explicit(&device->engine_asleep, 1, memory_order_seq_cst);
        sim_heavy_barrier(); /* pairs with submit: publish the tail, then load engine_asleep */
    }
    return !any_pending(engine) && sleep_on_descriptors(engine, timed_ns);
}

/* Sleeps as deeply as what is queued allows. True if it was kicked. */
static bool take_nap(struct engine *engine)
{
    int64_t timed_ns = sim_script_time(engine->device);
    int64_t nap_ns;

    if (any_pending(engine)) {
        engine->empty_naps = 0;
    } else if (++engine->empty_naps > NAPS_BEFORE_SLEEP) {
        engine->nap_ns = NAP_MIN_NS;
        engine->empty_naps = NAPS_BEFORE_SLEEP; /* again, unless something has happened */
        return sleep_deeply(engine, timed_ns);
    }
    atomic_store_explicit(&engine->device->engine_asleep, 0, memory_order_relaxed);
    nap_ns = engine->nap_ns;
    if (timed_ns >= 0 && timed_ns < nap_ns)
        nap_ns = timed_ns;
    engine->nap_ns =
        (int64_t)min_u64((uint64_t)engine->nap_ns * 2,
                         engine->device->oversubscribed ? NAP_MAX_OVERSUBSCRIBED_NS : NAP_MAX_NS);
    return sleep_on_descriptors(engine, nap_ns);
}

static void *engine_main(void *argument)
{
    struct engine engine = {.device = argument, .nap_ns = NAP_MIN_NS};
    struct sim_device *device = argument;

    while (!atomic_load_explicit(&device->closing, memory_order_acquire)) {
        bool kicked = take_nap(&engine);
        do_chores(&engine);
        if (sim_ports_progress(device) || kicked)
            engine.empty_naps = 0;
        if (look_for_abandoned(&engine) || kicked) {
            engine.nap_ns = NAP_MIN_NS;
            take_over(&engine);
        }
    }
    return NULL;
}

/* ---- for the others -------------------------------------------------------------------------------------------- */

void sim_engine_kick(struct sim_device *device)
{
    uint64_t one = 1;

    atomic_store_explicit(&device->engine_asleep, 0, memory_order_relaxed);
    if (write(device->wake_fd, &one, sizeof one) < 0)
        thrum_log(LOG_DEBUG, "sim%d: kicking the engine: errno %d", device->index, errno);
}

thrum_status_t sim_engine_start(struct sim_device *device)
{
    sigset_t all, before;
    int error;

    device->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (device->wake_fd < 0)
        return thrum_fail_errno(THRUM_ERR_LIMIT, "sim%d: eventfd (raise RLIMIT_NOFILE)",
                                device->index);
    /* signals are the application's business */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&device->engine, NULL, engine_main, device);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return thrum_fail(error == EAGAIN ? THRUM_ERR_LIMIT : THRUM_ERR_SYSTEM,
                          "sim%d: starting the engine thread: %s", device->index, strerror(error));
    device->engine_started = true;
    return THRUM_OK;
}

void sim_engine_stop(struct sim_device *device)
{
    if (device->engine_started) {
        atomic_store_explicit(&device->closing, true, memory_order_release);
        sim_engine_kick(device);
        sim_wake(device->shared);
        pthread_join(device->engine, NULL);
    }
    if (device->wake_fd >= 0)
        close(device->wake_fd);
}
