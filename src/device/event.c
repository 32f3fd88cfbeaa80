/*
 * Public events, made of CALLBACK commands: recording submits one that notes the time, waiting submits one that asks
 * whether the point is reached. Called by applications.
 */
#include <sched.h>
#include <stdlib.h>

#include "base/base.h"
#include "device/device_internal.h"

/* A recorded point. References: the event, and each submitted callback that may still look at it. */
struct event_mark {
    _Atomic int references;
    _Atomic int reached; /* 1: executed; also once the queue is gone */
    int status; /* once it is reached: for who waits. OK but with `since` */
    uint64_t since; /* see event_record */
    _Atomic int64_t timestamp_ns; /* 0: it was cancelled, or the queue is gone */
    struct thrum_queue *queue; /* its marks_lock is usable while this mark is in its list */
    uint64_t ticket;
};

/*
 * A callback that is in the ring of a queue. It may be cancelled and never run, so it owns nothing: its reference
 * is dropped when its ticket has ended, or with the queue.
 */
struct event_pending {
    struct event_pending *next;
    struct event_mark *mark;
    uint64_t ticket;
    bool is_record; /* the mark is this queue's own */
};

void event_mark_put(struct event_mark *mark)
{
    if (mark && atomic_fetch_sub_explicit(&mark->references, 1, memory_order_acq_rel) == 1)
        free(mark);
}

/* Under marks_lock: how the submissions behind `since` ended; those that one has looked at need no second look. */
static thrum_status_t ended_since(struct thrum_queue *queue, uint64_t since, uint64_t ticket)
{
    bool continues = since >= queue->good_from && since <= queue->good_to;
    thrum_status_t status = queue_ended_status(queue, continues ? queue->good_to : since, ticket);

    if (status)
        return status;
    if (!continues)
        queue->good_from = since;
    if (!continues || ticket > queue->good_to)
        queue->good_to = ticket;
    return THRUM_OK;
}

/* Under its queue's marks_lock. */
static void mark_reach(struct event_mark *mark)
{
    if (mark->since != EVENT_OF_NO_ERRORS &&
        !atomic_load_explicit(&mark->reached, memory_order_relaxed))
        mark->status = ended_since(mark->queue, mark->since, mark->ticket);
    atomic_store_explicit(&mark->reached, 1, memory_order_release);
}

thrum_status_t event_check(const struct thrum_event *event)
{
    if (!handle_is_valid(HANDLE_EVENT, event))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "event=%p is %s", (const void *)event,
                          event ? "destroyed or foreign" : "NULL");
    if (event->generation != event->device->ops->generation(event->device->impl))
        return thrum_fail(THRUM_ERR_RESET, "event=%p is of generation %u", (const void *)event,
                          event->generation);
    return THRUM_OK;
}

thrum_status_t thrum_event_create(thrum_device_t device, thrum_event_t *event_out)
{
    struct thrum_event *event;
    thrum_status_t status = device_check(device);

    if (status)
        return status;
    if (!event_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "event_out=NULL");
    event = handle_take(HANDLE_EVENT);
    if (!event)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for an event handle");
    event->device = device;
    event->generation = device->ops->generation(device->impl);
    pthread_mutex_init(&event->lock, NULL);
    handle_publish(HANDLE_EVENT, event);
    *event_out = event;
    return THRUM_OK;
}

void thrum_event_destroy(thrum_event_t event)
{
    if (!handle_is_valid(HANDLE_EVENT, event))
        return;
    event_mark_put(event->mark);
    pthread_mutex_destroy(&event->lock);
    handle_give(HANDLE_EVENT, event);
}

/* ---- callbacks in rings ---------------------------------------------------------------------------------------- */

/* Under marks_lock: drops what has ended. In order, so the first that has not ends the search. */
static void prune(struct thrum_queue *queue)
{
    while (queue->marks_first) {
        struct event_pending *pending = queue->marks_first;
        if (queue->ops->poll(queue->impl, pending->ticket) == THRUM_IN_PROGRESS)
            return;
        queue->marks_first = pending->next;
        if (!queue->marks_first)
            queue->marks_last = NULL;
        if (pending->is_record)
            mark_reach(pending->mark);
        event_mark_put(pending->mark);
        free(pending);
    }
}

void event_close_queue(struct thrum_queue *queue)
{
    pthread_mutex_lock(&queue->marks_lock);
    queue->is_closing = true;
    pthread_mutex_unlock(&queue->marks_lock);
}

void event_forget_queue(struct thrum_queue *queue)
{
    struct event_pending *next;

    /* nobody can be in a callback of this queue any more, but others may be looking at its marks */
    pthread_mutex_lock(&queue->marks_lock);
    for (struct event_pending *pending = queue->marks_first; pending; pending = next) {
        next = pending->next;
        if (pending->is_record)
            mark_reach(pending->mark);
        event_mark_put(pending->mark);
        free(pending);
    }
    queue->marks_first = queue->marks_last = NULL;
    pthread_mutex_unlock(&queue->marks_lock);
}

/* Submits a callback with a reference to the mark. Holds marks_lock so that the list is in ticket order. */
static thrum_status_t submit_pending(struct thrum_queue *queue, struct event_mark *mark,
                                     thrum_callback_t callback, bool is_record)
{
    struct thrum_command command = {
        .opcode = THRUM_CMD_CALLBACK, .callback = callback, .argument = mark};
    struct event_pending *pending = malloc(sizeof *pending);
    thrum_status_t status;

    if (!pending)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for an event");
    *pending = (struct event_pending){.mark = mark, .is_record = is_record};
    pthread_mutex_lock(&queue->marks_lock);
    prune(queue);
    atomic_fetch_add_explicit(&mark->references, 1, memory_order_relaxed);
    if (is_record)
        mark->ticket = UINT64_MAX;
    status = thrum_queue_submit(queue, &command, 1, &pending->ticket);
    if (status) {
        event_mark_put(mark);
        free(pending);
    } else {
        if (is_record)
            mark->ticket = pending->ticket;
        if (queue->marks_last)
            queue->marks_last->next = pending;
        else
            queue->marks_first = pending;
        queue->marks_last = pending;
    }
    pthread_mutex_unlock(&queue->marks_lock);
    return status;
}

static thrum_status_t note_time(void *argument)
{
    struct event_mark *mark = argument;

    atomic_store_explicit(&mark->timestamp_ns, now_ns(), memory_order_relaxed);
    if (mark->since == EVENT_OF_NO_ERRORS) /* else whoever asks finds how the others ended */
        atomic_store_explicit(&mark->reached, 1, memory_order_release);
    return THRUM_OK;
}

/* Executes what it can of the mark's queue, which may be in the same thread further up: hence no blocking lock. */
static thrum_status_t ask_mark(void *argument)
{
    struct event_mark *mark = argument;
    struct thrum_queue *queue = mark->queue;

    if (atomic_load_explicit(&mark->reached, memory_order_acquire))
        return mark->status;
    if (pthread_mutex_trylock(&queue->marks_lock))
        return THRUM_IN_PROGRESS;
    if (!atomic_load_explicit(&mark->reached, memory_order_acquire) && !queue->is_closing &&
        queue->ops->poll(queue->impl, mark->ticket) != THRUM_IN_PROGRESS)
        mark_reach(mark);
    pthread_mutex_unlock(&queue->marks_lock);
    return atomic_load_explicit(&mark->reached, memory_order_acquire) ? mark->status
                                                                      : THRUM_IN_PROGRESS;
}

/* ---- record, wait, query --------------------------------------------------------------------------------------- */

thrum_status_t thrum_event_record(thrum_event_t event, thrum_queue_t queue)
{
    return event_record(event, queue, EVENT_OF_NO_ERRORS, NULL);
}

thrum_status_t thrum_event_record_errors(thrum_event_t event, thrum_queue_t queue)
{
    thrum_status_t status = queue_check(queue);

    return status ? status
                  : event_record(event, queue,
                                 atomic_load_explicit(&queue->synced_ticket, memory_order_acquire),
                                 NULL);
}

thrum_status_t event_record(struct thrum_event *event, struct thrum_queue *queue, uint64_t since,
                            struct event_mark **mark_out)
{
    struct event_mark *mark, *old;
    thrum_status_t status = event_check(event);

    if (mark_out)
        *mark_out = NULL;
    if (!status)
        status = queue_check(queue);
    if (status)
        return status;
    if (queue_is_capturing(queue))
        return capture_event(queue, event, true);
    mark = calloc(1, sizeof *mark);
    if (!mark)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for an event");
    atomic_init(&mark->references, 1);
    mark->queue = queue;
    mark->since = since;
    status = submit_pending(queue, mark, note_time, true);
    if (status) {
        event_mark_put(mark);
        return status;
    }
    if (mark_out) {
        atomic_fetch_add_explicit(&mark->references, 1, memory_order_relaxed);
        *mark_out = mark;
    }
    pthread_mutex_lock(&event->lock);
    old = event->mark;
    event->mark = mark;
    pthread_mutex_unlock(&event->lock);
    event_mark_put(old);
    return THRUM_OK;
}

/* A reference to the event's mark, NULL if it was never recorded. */
static struct event_mark *mark_get(struct thrum_event *event)
{
    struct event_mark *mark;

    pthread_mutex_lock(&event->lock);
    mark = event->mark;
    if (mark)
        atomic_fetch_add_explicit(&mark->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&event->lock);
    return mark;
}

thrum_status_t event_wait_mark(struct event_mark *mark, struct thrum_queue *queue)
{
    if (mark->queue == queue ||
        (atomic_load_explicit(&mark->reached, memory_order_acquire) && !mark->status))
        return THRUM_OK;
    return submit_pending(queue, mark, ask_mark, false);
}

thrum_status_t thrum_event_wait(thrum_event_t event, thrum_queue_t queue)
{
    struct event_mark *mark;
    thrum_status_t status = event_check(event);

    if (!status)
        status = queue_check(queue);
    if (status)
        return status;
    if (queue_is_capturing(queue))
        return capture_event(queue, event, false);
    mark = mark_get(event);
    if (mark)
        status = event_wait_mark(mark, queue);
    event_mark_put(mark);
    return status;
}

thrum_status_t thrum_event_query(thrum_event_t event)
{
    struct event_mark *mark;
    thrum_status_t status = event_check(event);

    if (status)
        return status;
    mark = mark_get(event);
    if (mark)
        status = ask_mark(mark);
    if (status < 0)
        status = queue_tell(mark->queue, mark->ticket, status);
    event_mark_put(mark);
    return status;
}

thrum_status_t thrum_event_synchronize(thrum_event_t event)
{
    struct event_mark *mark;
    thrum_status_t status = event_check(event);

    if (status)
        return status;
    mark = mark_get(event);
    if (mark && !atomic_load_explicit(&mark->reached, memory_order_acquire)) {
        status = queue_check(mark->queue);
        if (!status)
            status = mark->queue->ops->wait(mark->queue->impl, mark->ticket, -1);
        if (status)
            status = thrum_fail(status, "event: its queue ended with \"%s\"",
                                thrum_status_string(status));
    }
    if (mark && !status && mark->since != EVENT_OF_NO_ERRORS) {
        while ((status = ask_mark(mark)) == THRUM_IN_PROGRESS)
            sched_yield(); /* someone else is looking */
        if (status)
            status = queue_tell(mark->queue, mark->ticket, status);
    }
    event_mark_put(mark);
    return status;
}

static thrum_status_t timestamp(thrum_event_t event, const char *name, int64_t *ns_out)
{
    struct event_mark *mark;
    thrum_status_t status = event_check(event);

    if (status)
        return status;
    mark = mark_get(event);
    if (!mark)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "%s was never recorded", name);
    status = ask_mark(mark);
    *ns_out = atomic_load_explicit(&mark->timestamp_ns, memory_order_acquire);
    event_mark_put(mark);
    if (!status && !*ns_out)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "%s: its queue ended before it", name);
    return status;
}

thrum_status_t thrum_event_elapsed(thrum_event_t start, thrum_event_t end, int64_t *elapsed_ns_out)
{
    int64_t start_ns = 0, end_ns = 0;
    thrum_status_t status;

    if (!elapsed_ns_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "elapsed_ns_out=NULL");
    status = timestamp(start, "start", &start_ns);
    if (!status)
        status = timestamp(end, "end", &end_ns);
    if (!status)
        *elapsed_ns_out = end_ns - start_ns;
    return status;
}
