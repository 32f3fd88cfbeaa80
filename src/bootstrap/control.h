/*
 * Inside the control plane: what control.c (links, failures, finalize), query.c (questions), exchange.c (allgather),
 * status.c (thrum-ras), trace.c (thrum-trace) and engine.c (the thread) share. Called by nobody else.
 *
 * Locks: engine.lock (start and stop of the thread) before engine.incoming_lock before control->lock; none is held
 * while a callback runs, and none while the thread waits.
 */
#ifndef BOOTSTRAP_CONTROL_H
#define BOOTSTRAP_CONTROL_H

#include <poll.h>
#include <pthread.h>

#include "bootstrap/internal.h"

#define CONTROL_QUERIES 8 /* questions asked and not yet taken by the thread */

struct query;
struct exchange;

/* What a thread in control_exchange waits for; on its stack. Under control->lock once it is handed over. */
struct exchange_request {
    uint64_t sequence;
    enum control_exchange_kind kind;
    void *values;
    size_t bytes;
    int64_t due, granted; /* granted: from the call to `due` */
    bool done;
    struct boot_failure failure;
};

struct control {
    /* fixed after control_start */
    struct boot_tree tree;
    struct control_callbacks callbacks;
    void *argument;
    int64_t tick_ns;
    uint8_t seal_key[BOOT_SECRET_BYTES];

    pthread_mutex_t lock;
    pthread_cond_t changed; /* finalize, failure, stop */
    /* under lock: what other threads ask the thread to do */
    struct boot_failure asked_failure;
    uint64_t asked[CONTROL_QUERIES];
    int nasked;
    bool finalize_asked, stop_asked;
    struct exchange_request *request; /* NULL: none, or answered */
    bool request_is_new; /* the thread has not seen it */
    /* under lock: what the thread has found out */
    struct boot_failure failure;
    bool finalized, stopped;
    bool is_served; /* since it was added, also by trace.c */
    int left_early; /* a rank that left without finalize, -1 none */

    /* the thread's */
    struct boot_conn links[BOOT_LINKS];
    bool gone[BOOT_LINKS]; /* no such link, or the rank there has said goodbye, or died */
    bool left[BOOT_LINKS]; /* it has said goodbye */
    uint64_t left_at[BOOT_LINKS]; /* and this was its last collective */
    bool failed;
    int64_t next_tick;
    bool final_up[BOOT_LINKS]; /* children whose subtrees have called finalize */
    bool final_wanted, final_up_sent, final_down;
    int final_left; /* like left_early */
    struct query *queries;
    struct exchange *exchanges;
    uint64_t exchanged; /* exchanges up to this sequence are over on this rank */
    bool stopping, half_closed[BOOT_LINKS];
    int64_t stop_due;
    struct control *next; /* incoming or the thread's list */
};

/* engine.c */
thrum_status_t engine_add(struct control *control);
void engine_wake(void);
void engine_remove(struct control *control); /* blocks until the thread has let it go */

/* control.c, on the thread */
void control_serve(struct control *control, int64_t now);
int64_t control_due(const struct control *control, int64_t now);
bool control_left(const struct control *control); /* all links closed after stop_asked */
/* Sends on a link; a peer that reads nothing any more loses what does not fit. */
void control_send(struct control *control, int link, enum boot_frame_type type, const void *head,
                  size_t head_bytes, const void *body, size_t body_bytes);

/* query.c, on the thread */
#define QUERY_BY_RANK (-1)
#define QUERY_BY_STATUS (-2)
void query_ask(struct control *control, int asker,
               uint64_t sequence); /* asker: link, or one of these: this rank, or status.c */
void query_frame(struct control *control, int link, const struct boot_frame *frame);
void query_link_gone(struct control *control, int link);
void query_time(struct control *control, int64_t now);
int64_t query_due(const struct control *control);
void query_free_all(struct control *control);

/* status.c, on the thread; open and close while it does not run */
void status_open(void);
void status_close(void);
void status_forget_in_child(void); /* of fork */
bool status_poll(struct pollfd *fd_out); /* false: nothing to wait for */
int64_t status_due(void);
void status_serve(struct control *list, bool is_called, int64_t now);
void status_records(const struct control *control, uint64_t sequence,
                    const struct call_record *records);
void status_forget(const struct control *control); /* it leaves the list */

/* trace.c, the same way */
#define TRACE_CALLERS 4 /* at a time; more wait */
void trace_open(void);
void trace_close(void);
void trace_forget_in_child(void);
bool trace_is_wanted(void); /* any thread */
size_t trace_poll(struct pollfd *fds); /* 1 + TRACE_CALLERS at most; how many */
int64_t trace_due(void);
void trace_serve(struct control *list, const struct pollfd *fds, size_t n, int64_t now);
void trace_leave(
    struct control *control); /* it leaves the list; its callbacks can still be called */

/* door.c: the abstract unix socket PREFIX "PID-NAMESPACE"; -1: it cannot be, or is not wanted */
int door_open(const char *prefix, const char *program);
/*
 * Accepts one caller, of the same user or root; -1: there is none, or it was another's. *broken_out: none can be accepted for
 * now, as where there are no descriptors.
 */
int door_admit(int door, bool *broken_out);

/* exchange.c, on the thread */
void exchange_ask(struct control *control); /* takes control->request up */
void exchange_frame(struct control *control, int link, const struct boot_frame *frame);
void exchange_progress(struct control *control); /* hands on what has come */
void exchange_link_gone(struct control *control);
void exchange_time(struct control *control, int64_t now);
int64_t exchange_due(const struct control *control);
void exchange_free_all(struct control *control);

#endif
