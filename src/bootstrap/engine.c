/*
 * The one thread per process that serves the control planes of all communicators. It starts with the first and ends
 * with the last. Called by control_start and control_stop. It is a singleton on purpose: a thread per communicator
 * would wake a process with many of them as many times.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bootstrap/control.h"

static struct {
    pthread_mutex_t lock; /* users, thread; held while the thread starts or ends */
    int users;
    pthread_t thread;
    pthread_mutex_t incoming_lock; /* incoming, quit */
    struct control *incoming;
    bool quit;
    int wake; /* eventfd; there as long as users > 0 */
    struct control *list; /* the thread's */
} engine = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .incoming_lock = PTHREAD_MUTEX_INITIALIZER, .wake = -1};

void engine_wake(void)
{
    uint64_t one = 1;

    while (write(engine.wake, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Takes over new controls. False: the thread has to end. */
static bool take_incoming(void)
{
    bool go_on;

    pthread_mutex_lock(&engine.incoming_lock);
    while (engine.incoming) {
        struct control *control = engine.incoming;

        engine.incoming = control->next;
        control->next = engine.list;
        engine.list = control;
    }
    go_on = !engine.quit;
    pthread_mutex_unlock(&engine.incoming_lock);
    return go_on;
}

static void let_go(struct control **link)
{
    struct control *control = *link;

    *link = control->next;
    status_forget(control);
    trace_leave(control);
    pthread_mutex_lock(&control->lock);
    control->stopped = true;
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
}

/* What there was to wait for besides the communicators. */
struct callers {
    bool wants_status; /* somebody wants to know how things are */
    struct pollfd traced[1 + TRACE_CALLERS];
    size_t ntraced;
};

static void wait_for_events(struct pollfd **fds, size_t *room, struct callers *callers)
{
    int64_t now = now_ns(), due = (int64_t)min_u64((uint64_t)status_due(), (uint64_t)trace_due());
    size_t n = 3 + TRACE_CALLERS, first_traced;
    uint64_t count;
    bool listens;

    for (struct control *c = engine.list; c; c = c->next)
        n += BOOT_LINKS;
    if (n > *room) {
        struct pollfd *more = realloc(*fds, 2 * n * sizeof *more);

        if (!more) { /* look again soon; everything is non-blocking */
            poll(NULL, 0, 5);
            callers->wants_status = false;
            callers->ntraced = 0;
            return;
        }
        *fds = more;
        *room = 2 * n;
    }
    (*fds)[0] = (struct pollfd){.fd = engine.wake, .events = POLLIN};
    listens = status_poll(&(*fds)[1]);
    first_traced = listens ? 2 : 1;
    callers->ntraced = trace_poll(&(*fds)[first_traced]);
    n = first_traced + callers->ntraced;
    for (struct control *c = engine.list; c; c = c->next) {
        for (int i = 0; i < BOOT_LINKS; i++)
            if (c->links[i].fd >= 0 && !c->links[i].ended)
                (*fds)[n++] =
                    (struct pollfd){.fd = c->links[i].fd, .events = boot_conn_events(&c->links[i])};
        due = (int64_t)min_u64((uint64_t)due, (uint64_t)control_due(c, now));
    }
    poll(*fds, (nfds_t)n, due == INT64_MAX ? -1 : boot_poll_ms(due, now));
    if ((*fds)[0].revents && read(engine.wake, &count, sizeof count) < 0)
        count = 0; /* another wake has been swallowed already */
    callers->wants_status = listens && (*fds)[1].revents;
    memcpy(callers->traced, &(*fds)[first_traced], callers->ntraced * sizeof **fds);
}

static void note_served(struct control *list)
{
    for (struct control *c = list; c; c = c->next) {
        if (c->is_served)
            continue;
        pthread_mutex_lock(&c->lock);
        c->is_served = true;
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
    }
}

static void *engine_main(void *argument)
{
    struct pollfd *fds = NULL;
    struct callers callers = {0};
    size_t room = 0;

    (void)argument;
    while (take_incoming()) {
        struct control **link = &engine.list;
        int64_t now = now_ns();

        while (*link) {
            control_serve(*link, now);
            if (control_left(*link))
                let_go(link);
            else
                link = &(*link)->next;
        }
        status_serve(engine.list, callers.wants_status, now);
        trace_serve(engine.list, callers.traced, callers.ntraced, now);
        note_served(engine.list);
        wait_for_events(&fds, &room, &callers);
    }
    free(fds);
    return NULL;
}

static void close_links(struct control *list)
{
    for (; list; list = list->next)
        for (int i = 0; i < BOOT_LINKS; i++)
            if (list->links[i].fd >= 0)
                close(list->links[i].fd);
}

/*
 * A child of fork has no such thread, and communicators of its own get a new one. Those of its parent are not the child's: were
 * their connections open here, nobody would notice the parent's death before the child's.
 */
static void forget_in_child(void)
{
    close_links(engine.list);
    close_links(engine.incoming);
    if (engine.wake >= 0)
        close(engine.wake);
    status_forget_in_child();
    trace_forget_in_child();
    pthread_mutex_init(&engine.lock, NULL);
    pthread_mutex_init(&engine.incoming_lock, NULL);
    engine.list = engine.incoming = NULL;
    engine.users = 0;
    engine.wake = -1;
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, forget_in_child);
}

static thrum_status_t start_locked(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint64_t thread;
    int rc;

    pthread_once(&once, watch_forks);
    engine.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine.wake < 0)
        return boot_fail_descriptor(errno, "starting the control plane");
    engine.quit = false;
    status_open();
    trace_open();
    rc = boot_thread_start(engine_main, NULL, false, &thread);
    if (rc) {
        status_close();
        trace_close();
        close(engine.wake);
        engine.wake = -1;
        errno = rc;
        return thrum_fail_errno(THRUM_ERR_LIMIT, "the control plane's thread cannot be started");
    }
    engine.thread = (pthread_t)thread;
    return THRUM_OK;
}

/* Where somebody records, also the first operations are recorded. */
static void wait_until_served(struct control *control)
{
    pthread_mutex_lock(&control->lock);
    while (!control->is_served)
        pthread_cond_wait(&control->changed, &control->lock);
    pthread_mutex_unlock(&control->lock);
}

thrum_status_t engine_add(struct control *control)
{
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&engine.lock);
    if (!engine.users)
        status = start_locked();
    if (!status) {
        engine.users++;
        pthread_mutex_lock(&engine.incoming_lock);
        control->next = engine.incoming;
        engine.incoming = control;
        pthread_mutex_unlock(&engine.incoming_lock);
        engine_wake();
    }
    pthread_mutex_unlock(&engine.lock);
    if (!status && trace_is_wanted())
        wait_until_served(control);
    return status;
}

void engine_remove(struct control *control)
{
    pthread_mutex_lock(&control->lock);
    control->stop_asked = true;
    pthread_mutex_unlock(&control->lock);
    engine_wake();
    pthread_mutex_lock(&control->lock);
    while (!control->stopped)
        pthread_cond_wait(&control->changed, &control->lock);
    pthread_mutex_unlock(&control->lock);

    pthread_mutex_lock(&engine.lock);
    if (!--engine.users) {
        pthread_mutex_lock(&engine.incoming_lock);
        engine.quit = true;
        pthread_mutex_unlock(&engine.incoming_lock);
        engine_wake();
        pthread_join(engine.thread, NULL);
        status_close();
        trace_close();
        close(engine.wake);
        engine.wake = -1;
    }
    pthread_mutex_unlock(&engine.lock);
}
