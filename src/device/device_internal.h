/*
 * Inside of the device runtime: the public handles over a plugin's table. Used by src/device, and by exec, which calls
 * the plugin directly on the hot path.
 */
#ifndef DEVICE_DEVICE_INTERNAL_H
#define DEVICE_DEVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <thrum/device_plugin.h>

#define DEVICE_MAGIC 0x54444556u
#define QUEUE_MAGIC 0x54515545u
#define EVENT_MAGIC 0x54455645u
#define SEMAPHORE_MAGIC 0x5453454du
#define GRAPH_MAGIC 0x54475246u
#define GRAPH_HANDLE_BYTES 512 /* what capture.c needs at most */

struct thrum_device {
    uint32_t magic;
    const struct thrum_device_ops *ops; /* every entry callable */
    void *impl;
    int index;
    int opens; /* under the registry lock */
    _Atomic int references; /* queues, events and comms that are alive */
    struct thrum_device_properties
        properties; /* as at open; free bytes and generation are read anew */
    uint64_t own_base; /* read anew after a hard reset */
    _Atomic uint64_t memory_epoch; /* grows whenever memory that was known is given back */
    struct thrum_device *next; /* registry list, under the registry lock */
    pthread_mutex_t staging_lock;
    struct staging *staging; /* free chunks, under staging_lock */
};

struct thrum_queue {
    uint32_t magic;
    struct thrum_device *device;
    const struct thrum_device_ops *ops; /* = device->ops */
    void *impl;
    uint32_t generation;
    unsigned flags;
    bool is_imported; /* its device's own runtime submits there too, which is not seen here */
    _Atomic uint64_t last_ticket; /* of the newest submission */
    _Atomic int references; /* the handle's own, and queue_hold's; freed by the last release */
    _Atomic int error; /* first failure since the last synchronize: see queue_fail */
    pthread_mutex_t error_lock;
    char error_text[768]; /* under error_lock */
    _Atomic uint64_t synced_ticket; /* the errors up to here have been returned */
    _Atomic uint64_t ended_ticket; /* up to here it is known to have ended; not less than that */
    pthread_mutex_t marks_lock;
    bool is_closing; /* under marks_lock: event callbacks must not poll it any more */
    struct event_pending *marks_first,
        *marks_last; /* submitted event callbacks, under marks_lock */
    uint64_t good_from,
        good_to; /* submissions behind the one up to the other ended well; under it */
    _Atomic(struct thrum_graph *) capture; /* what is being recorded; NULL: nothing is */
    int capture_lane; /* of it; set before `capture` */
};

/* A queue's ticket counters only grow, whichever of several submitting threads comes last. */
static inline void queue_raise(_Atomic uint64_t *counter, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(counter, memory_order_relaxed);

    while (seen < value && !atomic_compare_exchange_weak_explicit(
                               counter, &seen, value, memory_order_release, memory_order_relaxed))
        ;
}

/* A point in a queue; event.c. Shared by the event and by the callbacks that touch it. */
struct event_mark;
struct thrum_event {
    uint32_t magic;
    struct thrum_device *device;
    uint32_t generation;
    pthread_mutex_t lock;
    struct event_mark *mark; /* under lock; NULL: never recorded */
};

struct thrum_semaphore {
    uint32_t magic;
    struct thrum_device *device;
    uint64_t address;
    uint32_t generation;
    bool imported;
};

/*
 * Exec keeps queues that carry its work alive: after thrum_queue_destroy the struct stays (magic cleared, so that
 * queue_is_valid is false; impl stays callable: submit refuses, poll tells how submissions ended, cancel does nothing)
 * until the last release.
 */
void queue_hold(struct thrum_queue *queue);
void queue_release(struct thrum_queue *queue);

/*
 * Makes the next synchronize or query of the queue return `status` with `message` (copied) as the last error, once.
 * The first of several wins. Any thread.
 */
void queue_fail(struct thrum_queue *queue, thrum_status_t status, const char *message);
/*
 * The error of a submission up to `ticket`, which has ended, with its cause, as far as it is known, as the last error; the next
 * synchronize returns it all the same.
 */
thrum_status_t queue_tell(struct thrum_queue *queue, uint64_t ticket, thrum_status_t status);

/*
 * Set once by comm. thrum_queue_synchronize and _query call it when the plugin's wait or poll gave an error, before
 * they look at queue->error, so that whoever issued the work can find the cause and call queue_fail; it may block for
 * a bounded time. NULL: none.
 */
extern void (*_Atomic device_queue_error_hook)(struct thrum_queue *queue, thrum_status_t status);

/*
 * Handles live in tables that are never unmapped, so a freed or foreign handle is recognised without touching freed
 * memory; entries are reused as late as possible. take returns zeroed memory without its magic, NULL if the table is
 * full; the object is alive from handle_publish until handle_give.
 */
enum handle_kind {
    HANDLE_DEVICE,
    HANDLE_QUEUE,
    HANDLE_EVENT,
    HANDLE_SEMAPHORE,
    HANDLE_GRAPH,
    HANDLE_KINDS
};
void *handle_take(enum handle_kind kind);
void handle_publish(enum handle_kind kind, void *object);
void handle_give(enum handle_kind kind, void *object);
bool handle_is_valid(enum handle_kind kind, const void *object);
/* The i-th entry if it is alive, else NULL; for sweeps at close. */
void *handle_at(enum handle_kind kind, size_t i);
size_t handle_high(enum handle_kind kind); /* entries from here on were never used */

/* Equal values: what was known of the device's memory in between still holds. */
static inline uint64_t device_memory_epoch(const struct thrum_device *device)
{
    return atomic_load_explicit(&device->memory_epoch, memory_order_acquire) << 32 |
           device->ops->generation(device->impl);
}

/* After memory was given back: before, another thread could still find it good and remember that as new. */
void device_forget_memory(struct thrum_device *device);

/* As thrum_device_close, but the last open stays: for who may not wait until all commands have ended. */
void device_let_go(struct thrum_device *device);

/* THRUM_ERR_INVALID_ARGUMENT with a message unless the device is open. */
thrum_status_t device_check(const struct thrum_device *device);
/* INVALID_QUEUE or RESET with a message unless the queue is alive and of the device's generation. */
thrum_status_t queue_check(const struct thrum_queue *queue);
/* Destroys what is left of a device's events, semaphores and queues. */
void device_sweep(struct thrum_device *device);
/* Releases the event callbacks of a queue whose plugin queue is gone. */
void event_forget_queue(struct thrum_queue *queue);
void event_close_queue(
    struct thrum_queue *queue); /* before that: no callback polls it from now on */
/* INVALID_ARGUMENT or RESET with a message unless the event is alive and of its device's generation. */
thrum_status_t event_check(const struct thrum_event *event);
/*
 * thrum_event_record of a point that is to tell errors: who waits for it gets the first error of the queue's submissions
 * behind the ticket `since`. EVENT_OF_NO_ERRORS: thrum_event_record. *mark_out, where it is not NULL: a reference to the
 * point, or NULL if the queue is being captured.
 */
#define EVENT_OF_NO_ERRORS UINT64_MAX
thrum_status_t event_record(struct thrum_event *event, struct thrum_queue *queue, uint64_t since,
                            struct event_mark **mark_out);
/* thrum_event_wait for the point, on a live queue, which is not being captured. */
thrum_status_t event_wait_mark(struct event_mark *mark, struct thrum_queue *queue);
void event_mark_put(struct event_mark *mark); /* takes NULL */
/* How the submissions behind ticket `after` up to `ticket`, which have ended, ended: OK or the first error. */
thrum_status_t queue_ended_status(struct thrum_queue *queue, uint64_t after, uint64_t ticket);
/* thrum_queue_destroy, also of a queue that is being captured. */
void queue_end(struct thrum_queue *queue);

/* ---- capture (capture.c) ---- */

static inline struct thrum_graph *queue_graph(const struct thrum_queue *queue)
{
    return atomic_load_explicit(&queue->capture, memory_order_acquire);
}

/* Whether what is submitted to the live queue is to be recorded instead. */
static inline bool queue_is_capturing(const struct thrum_queue *queue)
{
    return queue_graph(queue) != NULL;
}

/*
 * OK unless the queue is being captured: then INVALID_USAGE, which names `call` ("thrum_queue_query"), and the capture
 * will end with it.
 */
thrum_status_t capture_refuse(struct thrum_queue *queue, const char *call);
/* Records of a capturing queue: commands with what they point to, and events by handle. */
thrum_status_t capture_commands(struct thrum_queue *queue, const struct thrum_command *commands,
                                size_t n);
thrum_status_t capture_event(struct thrum_queue *queue, struct thrum_event *event, bool is_record);
/*
 * A call for the queue will be recorded later, as that of a group when it ends: the number of the queue's capture, which
 * cannot end well before that; 0: the queue is not being captured. Later once for each number: whether that capture still
 * goes on.
 */
uint64_t capture_promise(struct thrum_queue *queue);
bool capture_keep_promise(struct thrum_queue *queue, uint64_t number);
/* Ends a capture with nothing to show for it; does nothing if there is none. */
void capture_drop(struct thrum_queue *queue);

/* For handle_give and sweeps: makes the entry invalid but keeps it. */
void handle_retract(void *object);
/* Frees the staging memory of a device; called by close before the plugin closes it. */
void staging_release(struct thrum_device *device);
/* The default for a table entry that a plugin lacks, and the whole table. */
extern const struct thrum_device_ops device_default_ops;

/* Validated access for the layers above: true if the handle is alive. */
bool device_is_valid(const struct thrum_device *device);
bool queue_is_valid(const struct thrum_queue *queue);
/* The same for a handle that has been valid before: its memory is never unmapped, but may be another queue's by now. */
static inline bool queue_is_still_valid(const struct thrum_queue *queue)
{
    return __atomic_load_n(&queue->magic, __ATOMIC_ACQUIRE) == QUEUE_MAGIC;
}

/* Finds the plugin named by THRUM_DEVICE (built-in or loaded); the table has every entry. */
thrum_status_t device_plugin_load(const char *name, const struct thrum_device_ops **ops_out);

#endif
