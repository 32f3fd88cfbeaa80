/*
 * The control plane of one communicator: deaths, aborts, finalize, goodbye. Public part called by comm from any thread;
 * control_serve and what is below it run on the thread of engine.c.
 */
#include "bootstrap/control.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- sending ---- */

void control_send(struct control *control, int link, enum boot_frame_type type, const void *head,
                  size_t head_bytes, const void *body, size_t body_bytes)
{
    if (!control->gone[link] &&
        boot_conn_send(&control->links[link], type, head, head_bytes, body, body_bytes))
        thrum_log(LOG_WARN, "control: rank %d does not read, a message to it is lost",
                  boot_link_rank(&control->tree, link));
}

/* ---- failures ---- */

/* The first cause wins: it goes to every neighbour but the one it came from, and to the owner. */
static void raise_failure(struct control *control, const struct boot_failure *failure,
                          int from_link)
{
    if (control->failed || control->stopping)
        return;
    control->failed = true;
    for (int i = 0; i < BOOT_LINKS; i++)
        if (i != from_link && !control->gone[i])
            boot_send_failure(&control->links[i], failure);
    pthread_mutex_lock(&control->lock);
    control->failure = *failure;
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
    thrum_log(LOG_INFO, "control: rank %d: %s", control->tree.rank, failure->message);
    if (control->callbacks.failed)
        control->callbacks.failed(control->argument, failure->status, failure->rank,
                                  failure->message);
}

/* ---- finalize: up when the whole subtree has called it, down from rank 0 ---- */

static void final_done(struct control *control)
{
    uint8_t wire[4];

    if (control->final_down)
        return;
    control->final_down = true;
    boot_put_u32(wire, (uint32_t)control->final_left);
    for (int i = 1; i < BOOT_LINKS; i++)
        control_send(control, i, FRAME_FINAL_DOWN, wire, sizeof wire, NULL, 0);
    pthread_mutex_lock(&control->lock);
    control->finalized = true;
    control->left_early = control->final_left;
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
}

static void final_progress(struct control *control)
{
    uint8_t wire[4];

    if (!control->final_wanted || control->final_down || control->failed)
        return;
    if (control->tree.parent >= 0 && control->gone[0]) { /* it left without: nobody tells the end */
        final_done(control);
        return;
    }
    for (int i = 1; i <= control->tree.nchildren; i++)
        if (!control->final_up[i])
            return;
    if (control->tree.parent < 0) {
        final_done(control);
    } else if (!control->final_up_sent) {
        control->final_up_sent = true;
        boot_put_u32(wire, (uint32_t)control->final_left);
        control_send(control, 0, FRAME_FINAL_UP, wire, sizeof wire, NULL, 0);
    }
}

static void final_frame(struct control *control, int link, const struct boot_frame *frame)
{
    int left;

    if (frame->bytes != 4)
        return;
    left = (int32_t)boot_get_u32(frame->payload);
    if (left >= 0 && left < control->tree.nranks)
        control->final_left = left;
    if (frame->type == FRAME_FINAL_UP && link) {
        control->final_up[link] = true;
        final_progress(control);
    } else if (frame->type == FRAME_FINAL_DOWN && !link) {
        final_done(control);
    }
}

/* ---- links ---- */

static void close_link(struct control *control, int link)
{
    control->gone[link] = true;
    boot_conn_close(&control->links[link]);
    query_link_gone(control, link);
}

static void said_goodbye(struct control *control, int link)
{
    bool owes = link ? !control->final_up[link] : !control->final_down;

    close_link(control, link);
    if (owes) {
        control->final_left = boot_link_rank(&control->tree, link);
        control->final_up[link] = true;
    }
    final_progress(control);
    exchange_link_gone(control);
}

/* The connection ended without goodbye, or carries nonsense. */
static void link_broke(struct control *control, int link, bool damaged)
{
    struct boot_failure failure;
    int rank = boot_link_rank(&control->tree, link);
    char cause[128];
    int error = control->links[link].error;

    if (damaged)
        boot_failure_set(&failure, THRUM_ERR_PROTOCOL, rank, "messages of rank %d are damaged",
                         rank);
    else if (error && error != ECONNRESET && error != EPIPE)
        boot_failure_set(&failure, THRUM_ERR_PEER_DEAD, rank, "rank %d is lost: %s", rank,
                         strerror_r(error, cause, sizeof cause));
    else
        boot_failure_set(&failure, THRUM_ERR_PEER_DEAD, rank,
                         "rank %d has died (its process ended without goodbye)", rank);
    close_link(control, link);
    raise_failure(control, &failure, link);
}

/* Goodbye says which was the rank's last collective; or it never got as far as control_start. */
static void left(struct control *control, int link, const struct boot_frame *frame)
{
    int rank = boot_link_rank(&control->tree, link);
    bool early = frame->bytes != sizeof(uint64_t);
    struct boot_failure failure;

    control->left[link] = !early;
    control->left_at[link] = early ? 0 : boot_get_u64(frame->payload);
    said_goodbye(control, link);
    if (!early)
        return;
    boot_failure_set(&failure, THRUM_ERR_PEER_DEAD, rank,
                     "rank %d left before the communicator was complete", rank);
    raise_failure(control, &failure, link);
}

static void take_frame(struct control *control, int link, const struct boot_frame *frame)
{
    struct boot_failure failure;

    switch (frame->type) {
    case FRAME_FAIL:
        if (boot_get_failure(frame, &failure) && failure.rank < control->tree.nranks)
            raise_failure(control, &failure, link);
        break;
    case FRAME_FINAL_UP:
    case FRAME_FINAL_DOWN:
        final_frame(control, link, frame);
        break;
    case FRAME_QUERY_UP:
    case FRAME_QUERY_DOWN:
    case FRAME_QUERY_WAIT:
    case FRAME_ANSWER:
    case FRAME_RECORDS:
        query_frame(control, link, frame);
        break;
    case FRAME_EXCHANGE_UP:
    case FRAME_EXCHANGE_DOWN:
    case FRAME_EXCHANGE_FAIL:
        exchange_frame(control, link, frame);
        break;
    default:
        /* A neighbour that is still setting up, after this rank has stopped doing so: it will notice. */
        break;
    }
}

static void serve_link(struct control *control, int link)
{
    struct boot_conn *conn = &control->links[link];
    struct boot_frame frame;
    thrum_status_t status;

    boot_conn_io(conn);
    while (!(status = boot_conn_peek(conn, &frame))) {
        if (frame.type == FRAME_GOODBYE) {
            left(control, link, &frame);
            return;
        }
        take_frame(control, link, &frame);
        boot_conn_pop(conn);
    }
    if (status != THRUM_IN_PROGRESS || conn->ended)
        link_broke(control, link, status != THRUM_IN_PROGRESS);
}

/* ---- stopping ---- */

static void begin_stop(struct control *control, int64_t now)
{
    struct call_record newest = {.sequence = 0};
    uint8_t last[sizeof newest.sequence];

    if (control->callbacks.record)
        control->callbacks.record(control->argument, CONTROL_NEWEST, &newest);
    boot_put_u64(last, newest.sequence);
    control->stopping = true;
    control->stop_due = now + BOOT_LINGER_NS;
    query_free_all(control);
    exchange_free_all(control);
    for (int i = 0; i < BOOT_LINKS; i++)
        if (!control->gone[i])
            (void)boot_conn_send(&control->links[i], FRAME_GOODBYE, last, sizeof last, NULL, 0);
}

/* The peers close their ends when they read the goodbye; who does not is not waited for. */
static void continue_stop(struct control *control, int64_t now)
{
    for (int i = 0; i < BOOT_LINKS; i++) {
        struct boot_conn *conn = &control->links[i];

        if (control->gone[i])
            continue;
        boot_conn_io(conn);
        conn->in.begin = conn->in.end = 0;
        if (!conn->ended && boot_conn_flushed(conn) && !control->half_closed[i]) {
            shutdown(conn->fd, SHUT_WR);
            control->half_closed[i] = true;
        }
        if (conn->ended || now >= control->stop_due) {
            control->gone[i] = true;
            boot_conn_close(conn);
        }
    }
}

bool control_left(const struct control *control)
{
    bool open = false;

    for (int i = 0; i < BOOT_LINKS; i++)
        open |= !control->gone[i];
    return control->stopping && !open;
}

/* ---- the thread's turn ---- */

static void take_requests(struct control *control, int64_t now)
{
    struct boot_failure failure;
    uint64_t asked[CONTROL_QUERIES];
    bool stop;
    int n;

    pthread_mutex_lock(&control->lock);
    failure = control->asked_failure;
    control->asked_failure.status = THRUM_OK;
    n = control->nasked;
    memcpy(asked, control->asked, sizeof asked);
    control->nasked = 0;
    control->final_wanted |= control->finalize_asked;
    stop = control->stop_asked;
    pthread_mutex_unlock(&control->lock);

    if (failure.status)
        raise_failure(control, &failure, -1);
    final_progress(control);
    for (int i = 0; i < n; i++)
        query_ask(control, QUERY_BY_RANK, asked[i]);
    exchange_ask(control);
    if (stop)
        begin_stop(control, now);
}

/* All communicators tick together, so that a hundred of them wake the thread as seldom as one. */
static int64_t next_tick(const struct control *control, int64_t now)
{
    return control->tick_ns ? (now / control->tick_ns + 1) * control->tick_ns : INT64_MAX;
}

void control_serve(struct control *control, int64_t now)
{
    if (control->stopping) {
        continue_stop(control, now);
        return;
    }
    for (int i = 0; i < BOOT_LINKS; i++)
        if (!control->gone[i])
            serve_link(control, i);
    query_time(control, now);
    exchange_progress(control);
    exchange_time(control, now);
    if (now >= control->next_tick && control->tick_ns && control->callbacks.tick) {
        control->next_tick = next_tick(control, now);
        control->callbacks.tick(control->argument, now);
    }
    take_requests(control, now);
    if (control->stopping)
        continue_stop(control, now);
}

int64_t control_due(const struct control *control, int64_t now)
{
    int64_t due = query_due(control), exchange = exchange_due(control);

    due = exchange < due ? exchange : due;
    if (control->stopping)
        return control->stop_due;
    if (control->tick_ns && control->callbacks.tick && control->next_tick < due)
        due = control->next_tick;
    return due > now ? due : now;
}

/* ---- public ---- */

thrum_status_t control_start(struct bootstrap *bootstrap, const struct control_callbacks *callbacks,
                             void *argument, int tick_ms, struct control **control_out)
{
    struct control *control;
    pthread_condattr_t attributes;
    thrum_status_t status;

    if (!bootstrap || bootstrap->handed_over || !callbacks || !control_out)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "control_start without a joined bootstrap");
    if (bootstrap->failure.status)
        return thrum_fail(bootstrap->failure.status, "%s", bootstrap->failure.message);
    control = calloc(1, sizeof *control);
    if (!control)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for the control plane");
    control->tree = bootstrap->tree;
    memcpy(control->seal_key, bootstrap->seal_key, sizeof control->seal_key);
    control->callbacks = *callbacks;
    control->argument = argument;
    control->tick_ns = tick_ms > 0 ? tick_ms * MS_NS : 0;
    control->next_tick = next_tick(control, now_ns());
    control->left_early = control->final_left = -1;
    pthread_mutex_init(&control->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&control->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    memcpy(control->links, bootstrap->links, sizeof control->links);
    for (int i = 0; i < BOOT_LINKS; i++) {
        control->gone[i] = control->links[i].fd < 0;
        /* an exchange sends the values of all ranks at once */
        control->links[i].out_most += (size_t)control->tree.nranks * CONTROL_EXCHANGE_BYTES;
    }
    status = engine_add(control);
    if (status) {
        pthread_cond_destroy(&control->changed);
        pthread_mutex_destroy(&control->lock);
        free(control);
        return status;
    }
    bootstrap->handed_over = true;
    *control_out = control;
    return THRUM_OK;
}

void control_fail(struct control *control, thrum_status_t status, int rank, const char *message)
{
    pthread_mutex_lock(&control->lock);
    if (!control->asked_failure.status && status < 0)
        boot_failure_set(&control->asked_failure, status, rank, "%s", message ? message : "");
    pthread_mutex_unlock(&control->lock);
    engine_wake();
}

void control_query(struct control *control, uint64_t sequence)
{
    bool known = false;

    pthread_mutex_lock(&control->lock);
    for (int i = 0; i < control->nasked; i++)
        known |= control->asked[i] == sequence;
    if (!known && control->nasked < CONTROL_QUERIES)
        control->asked[control->nasked++] = sequence;
    pthread_mutex_unlock(&control->lock);
    engine_wake();
}

void control_stop(struct control *control)
{
    if (!control)
        return;
    engine_remove(control);
    pthread_cond_destroy(&control->changed);
    pthread_mutex_destroy(&control->lock);
    sodium_memzero(control->seal_key, sizeof control->seal_key);
    free(control);
}

thrum_status_t control_finalize(struct control *control, int64_t deadline_ms)
{
    int64_t due = now_ns() + (int64_t)min_u64((uint64_t)deadline_ms, 1ull << 40) * MS_NS;
    struct timespec until = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
    struct boot_failure failure;
    bool finalized, late = false;
    int left;

    pthread_mutex_lock(&control->lock);
    control->finalize_asked = true;
    pthread_mutex_unlock(&control->lock);
    engine_wake();
    pthread_mutex_lock(&control->lock);
    while (!control->finalized && !control->failure.status && !late)
        late = pthread_cond_timedwait(&control->changed, &control->lock, &until) == ETIMEDOUT;
    finalized = control->finalized;
    failure = control->failure;
    left = control->left_early;
    pthread_mutex_unlock(&control->lock);
    if (finalized && left < 0)
        return THRUM_OK;
    if (finalized)
        return thrum_fail(THRUM_ERR_PEER_DEAD, "rank %d has left without finalize", left);
    if (failure.status)
        return thrum_fail(failure.status, "%s", failure.message);
    return thrum_fail(THRUM_ERR_TIMEOUT, "not every rank called finalize within %lld ms",
                      (long long)deadline_ms);
}
