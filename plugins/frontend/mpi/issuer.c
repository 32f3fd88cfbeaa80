/*
 * Issues nonblocking calls that had to wait for room on the queue, while the caller is elsewhere: it may wait in a function
 * of MPI's for a rank that first waits for these calls. Called by request.c and comm.c.
 *
 * One thread, which begins when the first call has to wait: programs with no more calls in flight than a queue takes
 * never have it. It calls nothing of MPI. It looks now and then, more seldom while there is no room; callers that complete
 * requests are faster, and issue what waits themselves.
 */
#include "frontend.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include <thrum/plugin.h>

#define SHORTEST_PAUSE_NS 50000
#define LONGEST_PAUSE_NS 800000

/* Comes before the communicators' locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
static struct tmpi_comm *wanting; /* communicators on which requests wait; lock */
static bool begun, stopping, failed; /* lock */
static pthread_t thread;

static void remove_from_wanting(struct tmpi_comm *comm)
{
    struct tmpi_comm **link = &wanting;

    while (*link && *link != comm)
        link = &(*link)->next_wanting;
    if (*link)
        *link = comm->next_wanting;
    comm->wants_issuer = false;
}

/* Returns whether anything could be issued. lock is held. */
static bool serve(void)
{
    bool moved = false;

    for (struct tmpi_comm *comm = wanting, *next; comm; comm = next) {
        uint64_t before = comm->ticket;

        next = comm->next_wanting;
        if (!tmpi_requests_advance(comm))
            remove_from_wanting(comm);
        moved |= comm->ticket != before;
    }
    return moved;
}

static void *run(void *unused)
{
    struct timespec pause = {.tv_nsec = SHORTEST_PAUSE_NS};

    pthread_mutex_lock(&lock);
    while (!stopping) {
        bool moved;

        if (!wanting) {
            pthread_cond_wait(&wanted, &lock);
            continue;
        }
        moved = serve();
        pthread_mutex_unlock(&lock);
        if (moved)
            pause.tv_nsec = SHORTEST_PAUSE_NS;
        else if (pause.tv_nsec < LONGEST_PAUSE_NS)
            pause.tv_nsec *= 2;
        (void)nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

/* lock is held, and communicators' locks are not: from here on they are taken. */
static void begin(void)
{
    sigset_t all, old;
    int error;

    if (!tmpi.threads)
        tmpi.threads = true;
    (void)sigfillset(&all); /* signals are the program's */
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_create(&thread, NULL, run, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    begun = !error;
    failed = error;
    if (error)
        thrum_plugin_log(THRUM_LOG_WARN,
                         "MPI: no thread (%s): nonblocking calls beyond those that a queue takes "
                         "are issued only when some are completed",
                         strerror(error));
}

void tmpi_issuer_want(struct tmpi_comm *comm)
{
    pthread_mutex_lock(&lock);
    if (!begun && !failed)
        begin();
    if (begun && !comm->wants_issuer) {
        comm->wants_issuer = true;
        comm->next_wanting = wanting;
        wanting = comm;
        pthread_cond_signal(&wanted);
    }
    pthread_mutex_unlock(&lock);
}

void tmpi_issuer_forget(struct tmpi_comm *comm)
{
    pthread_mutex_lock(&lock);
    remove_from_wanting(comm);
    pthread_mutex_unlock(&lock);
}

void tmpi_issuer_stop(void)
{
    bool was_begun;

    pthread_mutex_lock(&lock);
    stopping = true;
    was_begun = begun;
    begun = false;
    failed = true; /* does not begin again */
    wanting = NULL;
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
    if (was_begun)
        (void)pthread_join(thread, NULL);
}
