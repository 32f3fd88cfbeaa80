/*
 * The communicators that are alive: tells a live handle from any other pointer, finds who owes a queue the cause of an
 * error, and forgets all of them in a child of fork. Called by comm.c and, through the device runtime's error hook, by
 * thrum_queue_synchronize.
 */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

static struct {
    pthread_mutex_t lock;
    struct thrum_comm **comms;
    int n, capacity;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic uint64_t registry_serial; /* grows whenever a communicator ends */

#define KNOWN 16 /* handles that a thread has used lately; a power of two */

static _Thread_local BASE_FAST_TLS struct {
    uint64_t serial; /* when they were found alive */
    const struct thrum_comm *comms[KNOWN];
} known;

/* Looks it up, and notes it in place i or its neighbour. */
static __attribute__((noinline)) bool find_valid(const struct thrum_comm *comm, size_t i)
{
    bool found = false;

    pthread_mutex_lock(&registry.lock);
    for (int k = 0; k < registry.n && !found; k++)
        found = registry.comms[k] == comm;
    if (found) {
        uint64_t serial = atomic_load(&registry_serial);

        if (known.serial != serial)
            memset(known.comms, 0, sizeof known.comms);
        known.serial = serial;
        known.comms[known.comms[i] ? i ^ 1 : i] = comm;
    }
    pthread_mutex_unlock(&registry.lock);
    return found;
}

bool comm_is_valid(const struct thrum_comm *comm)
{
    size_t i = ((uintptr_t)comm >> 4) * 0x9e3779b97f4a7c15u >> 60;

    if (comm && known.serial == atomic_load(&registry_serial) &&
        (known.comms[i] == comm || known.comms[i ^ 1] == comm))
        return true;
    return find_valid(comm, i);
}

/* A child of fork has none of our threads: its copies of communicators would wait for them for ever. */
static void forget_in_child(void)
{
    pthread_mutex_init(&registry.lock, NULL);
    registry.n = 0;
    atomic_fetch_add(&registry_serial, 1);
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, forget_in_child);
}

thrum_status_t comm_registry_add(struct thrum_comm *comm)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thrum_status_t status = THRUM_OK;

    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&registry.lock);
    if (registry.n == registry.capacity) {
        int capacity = registry.capacity ? registry.capacity * 2 : 16;
        struct thrum_comm **comms =
            realloc(registry.comms, (size_t)capacity * sizeof(struct thrum_comm *));
        if (!comms)
            status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a communicator");
        else {
            registry.comms = comms;
            registry.capacity = capacity;
        }
    }
    if (!status)
        registry.comms[registry.n++] = comm;
    pthread_mutex_unlock(&registry.lock);
    return status;
}

void comm_registry_remove(struct thrum_comm *comm)
{
    pthread_mutex_lock(&registry.lock);
    for (int i = 0; i < registry.n; i++)
        if (registry.comms[i] == comm)
            registry.comms[i] = registry.comms[--registry.n];
    atomic_fetch_add(&registry_serial, 1);
    if (!registry.n) {
        free(registry.comms);
        registry.comms = NULL;
        registry.capacity = 0;
    }
    pthread_mutex_unlock(&registry.lock);
}

void comm_settle_queue(struct thrum_queue *queue, thrum_status_t status)
{
    int64_t deadline = now_ns() + 2000000000;
    bool pending = true;

    (void)status;
    while (pending && now_ns() < deadline) {
        struct timespec pause = {.tv_nsec = 1000000};

        pending = false;
        pthread_mutex_lock(&registry.lock);
        for (int i = 0; i < registry.n && !pending; i++)
            pending = comm_owes_cause(registry.comms[i], queue);
        pthread_mutex_unlock(&registry.lock);
        if (pending)
            nanosleep(&pause, NULL);
    }
}
