/*
 * Groups: calls of a thread between thrum_group_start and the outermost thrum_group_end begin together. All
 * point-to-point messages of a communicator (also those of alltoallv, gatherv, scatterv) become one piece of work (a
 * round per repeated pair); then its collectives and one-sided calls follow in call order. Calls that block until all
 * ranks have come (splits, windows) are made last. Communicators are taken in the order of their
 * ids, which is the same on all ranks, so that ranks that name them in different orders do not deadlock. Where ranks of
 * one process are in a group, they take turns, an operation each, so that none runs into the limit of what may be in
 * flight while the others have not begun.
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

struct group_call {
    enum { CALL_COLLECTIVE, CALL_PERSISTENT, CALL_MESSAGE, CALL_ONE_SIDED } kind;
    struct thrum_comm *comm;
    size_t index; /* in call order */
    struct coll_args *copy; /* owned: holds the arrays of `collective`; NULL: it has none */
    union {
        struct coll_args collective;
        struct thrum_persistent *persistent; /* one reference */
        struct p2p_call message;
        struct one_sided_call one_sided;
    };
};

/* A queue that was being captured when a call for it came. */
struct promise {
    struct thrum_queue *queue;
    uint64_t capture; /* its number */
};

#define FEW_CALLS 2 /* as of a send and a receive: a group of so many needs no allocation */

static _Thread_local BASE_FAST_TLS struct {
    int depth;
    struct group_call few[FEW_CALLS];
    struct group_call *calls; /* `few` or from malloc; NULL: none yet */
    size_t n, capacity;
    struct setup_call *setups;
    size_t nsetups;
    struct promise *promises;
    size_t npromises;
    thrum_status_t status; /* of the first call that was refused */
    char *message; /* its text; NULL: no memory */
} group;

bool group_is_open(void)
{
    return group.depth > 0;
}

static thrum_status_t refuse(thrum_status_t status)
{
    if (!group.status) {
        group.status = status;
        group.message = strdup(thrum_last_error());
    }
    return status;
}

/* ---- collecting ---- */

static bool grow(void)
{
    size_t capacity = group.capacity < 16 ? 16 : group.capacity * 2;
    bool is_few = group.calls == group.few;
    struct group_call *calls;

    if (!group.calls) {
        group.calls = group.few;
        group.capacity = FEW_CALLS;
        return true;
    }
    calls = realloc(is_few ? NULL : group.calls, capacity * sizeof *calls);
    if (!calls)
        return false;
    if (is_few)
        memcpy(calls, group.few, sizeof group.few);
    group.calls = calls;
    group.capacity = capacity;
    return true;
}

static struct thrum_queue *queue_of(const struct group_call *call);

/* The queue is being captured: its capture must not end before the group. */
static thrum_status_t promise(struct thrum_queue *queue)
{
    struct promise *promises;

    for (size_t i = 0; i < group.npromises; i++)
        if (group.promises[i].queue == queue)
            return THRUM_OK;
    promises = realloc(group.promises, (group.npromises + 1) * sizeof *promises);
    if (!promises)
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    group.promises = promises;
    promises[group.npromises] = (struct promise){queue, capture_promise(queue)};
    group.npromises += promises[group.npromises].capture != 0;
    return THRUM_OK;
}

/* The group ends: the first capture that has not waited for that is told. */
static thrum_status_t keep_promises(void)
{
    const struct promise *broken = NULL;

    for (size_t i = 0; i < group.npromises; i++)
        if (!capture_keep_promise(group.promises[i].queue, group.promises[i].capture) && !broken)
            broken = &group.promises[i];
    group.npromises = 0;
    return broken ? thrum_fail(THRUM_ERR_INVALID_USAGE,
                               "the capture of queue=%p ended inside a group that has calls for it",
                               (void *)broken->queue)
                  : THRUM_OK;
}

static thrum_status_t add(const struct group_call *call)
{
    struct thrum_queue *queue = queue_of(call);
    thrum_status_t status = queue_is_capturing(queue) ? promise(queue) : THRUM_OK;

    if (status)
        return status;
    if (group.n == group.capacity && !grow())
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    group.calls[group.n] = *call;
    group.calls[group.n].index = group.n;
    group.n++;
    return THRUM_OK;
}

/* The same, without the way over a call of its own: messages are many and small. */
static thrum_status_t add_message(struct thrum_comm *comm, const struct p2p_call *message)
{
    struct group_call *call;

    if (queue_is_capturing(message->queue) && promise(message->queue))
        return THRUM_ERR_NO_MEMORY;
    if (group.n == group.capacity && !grow())
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    call = &group.calls[group.n];
    call->kind = CALL_MESSAGE;
    call->comm = comm;
    call->copy = NULL;
    call->message = *message;
    call->index = group.n++;
    return THRUM_OK;
}

thrum_status_t group_add_collective(const struct coll_args *args, thrum_status_t check)
{
    struct group_call call = {.kind = CALL_COLLECTIVE, .comm = args->comm, .collective = *args};
    thrum_status_t status;

    if (check)
        return refuse(check);
    if (args->counts) {
        call.copy = coll_args_copy(args);
        if (!call.copy)
            return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
        call.collective = *call.copy;
    }
    status = add(&call);
    if (status)
        free(call.copy);
    return status;
}

thrum_status_t group_add_persistent(struct thrum_persistent *persistent, thrum_status_t check)
{
    thrum_status_t status;

    if (check)
        return refuse(check);
    status = add(&(struct group_call){
        .kind = CALL_PERSISTENT, .comm = persistent_comm(persistent), .persistent = persistent});
    if (!status)
        persistent_hold(persistent);
    return status;
}

bool group_expects(const struct thrum_comm *comm, const struct p2p_call *call)
{
    return group.depth > 0 && p2p_is_known(comm, group.n, call);
}

thrum_status_t group_add_messages(struct thrum_comm *comm, const struct p2p_call *calls, size_t n,
                                  thrum_status_t check)
{
    if (check)
        return refuse(check);
    for (size_t i = 0; i < n && !check; i++)
        check = add_message(comm, &calls[i]);
    return check;
}

thrum_status_t group_add_one_sided(struct thrum_comm *comm, const struct one_sided_call *one_sided,
                                   thrum_status_t check)
{
    if (check)
        return refuse(check);
    return add(&(struct group_call){.kind = CALL_ONE_SIDED, .comm = comm, .one_sided = *one_sided});
}

thrum_status_t group_add_setup(const struct setup_call *call, thrum_status_t check)
{
    struct setup_call *setups;

    if (check)
        return refuse(check);
    setups = realloc(group.setups, (group.nsetups + 1) * sizeof *setups);
    if (!setups)
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    group.setups = setups;
    setups[group.nsetups++] = *call;
    return THRUM_OK;
}

thrum_status_t thrum_group_start(void)
{
    group.depth++;
    return THRUM_OK;
}

/* ---- order ---- */

/*
 * Ids are equal on all ranks; two communicators of one id are ranks of one process, or parts of one split. Calls of one
 * communicator keep their order.
 */
static int by_comm(const void *a, const void *b)
{
    const struct group_call *x = a, *y = b;

    if (x->comm->id != y->comm->id)
        return x->comm->id < y->comm->id ? -1 : 1;
    if (x->comm->rank != y->comm->rank)
        return x->comm->rank < y->comm->rank ? -1 : 1;
    if (x->comm != y->comm)
        return x->comm < y->comm ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* ---- running ---- */

/* The calls of one communicator, and how far they are. */
struct comm_work {
    struct group_call *calls;
    size_t n, at;
    struct p2p_work *p2p; /* NULL: no messages, or they are all issued */
    struct p2p_call *captured; /* messages for a graph, from malloc; NULL: none */
    size_t ncaptured;
};

static thrum_status_t keep_for_graph(struct comm_work *work, const struct p2p_call *messages,
                                     size_t n)
{
    work->captured = malloc(n * sizeof *messages);
    if (!work->captured)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu messages", n);
    memcpy(work->captured, messages, n * sizeof *messages);
    work->ncaptured = n;
    return THRUM_OK;
}

static thrum_status_t open_messages(struct comm_work *work)
{
    struct p2p_call few[FEW_CALLS], *messages = few;
    struct thrum_comm *comm = work->calls[0].comm;
    size_t n = 0;
    bool captured;
    thrum_status_t status;

    if (work->n > FEW_CALLS)
        messages = malloc(work->n * sizeof *messages);
    if (!messages)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group of %zu calls", work->n);
    for (size_t i = 0; i < work->n; i++)
        if (work->calls[i].kind == CALL_MESSAGE)
            messages[n++] = work->calls[i].message;
    status = n ? p2p_check(comm, messages, n) : THRUM_OK;
    if (n && !status)
        status = p2p_check_capture(messages, n, &captured);
    if (n && !status)
        status =
            captured ? keep_for_graph(work, messages, n) : p2p_open(comm, messages, n, &work->p2p);
    if (messages != few)
        free(messages);
    return status;
}

/* Does what can be refused: messages placed, programs of collectives made. Nothing is enqueued. */
static thrum_status_t open_work(struct comm_work *work)
{
    thrum_status_t status = open_messages(work);

    for (size_t i = 0; i < work->n && !status; i++)
        if (work->calls[i].kind == CALL_COLLECTIVE)
            status = collective_plan(&work->calls[i].collective);
    return status;
}

static thrum_status_t close_messages(struct comm_work *work)
{
    struct p2p_work *p2p = work->p2p;

    work->p2p = NULL;
    free(work->captured);
    work->captured = NULL;
    return p2p ? p2p_close(p2p) : THRUM_OK;
}

/* Issues the next operation: IN_PROGRESS; OK when all is issued. */
static thrum_status_t step_work(struct comm_work *work)
{
    struct group_call *call;
    thrum_status_t status;

    if (work->p2p || work->captured) {
        status = work->p2p ? p2p_step(work->p2p)
                           : p2p_issue(work->calls[0].comm, work->captured, work->ncaptured);
        if (status != THRUM_OK)
            return status;
        status = close_messages(work);
        if (status)
            return status;
    }
    while (work->at < work->n && work->calls[work->at].kind == CALL_MESSAGE)
        work->at++;
    if (work->at == work->n)
        return THRUM_OK;
    call = &work->calls[work->at++];
    if (call->kind == CALL_PERSISTENT)
        status = persistent_run(call->persistent);
    else if (call->kind == CALL_ONE_SIDED)
        status = one_sided_issue(call->comm, &call->one_sided);
    else
        status = collective_issue(&call->collective);
    return status ? status : THRUM_IN_PROGRESS;
}

/* All operations of communicators with one id, in turns. */
static thrum_status_t take_turns(struct comm_work *works, size_t n)
{
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < n; i++) {
            thrum_status_t status = step_work(&works[i]);

            if (status < 0)
                return status;
            more |= status == THRUM_IN_PROGRESS;
        }
    }
    return THRUM_OK;
}

static size_t split_works(struct group_call *calls, size_t ncalls, struct comm_work *works)
{
    size_t n = 0;

    for (size_t i = 0; i < ncalls; i++) {
        if (!i || calls[i].comm != calls[i - 1].comm)
            works[n++] = (struct comm_work){.calls = &calls[i]};
        works[n - 1].n++;
    }
    return n;
}

static thrum_status_t run_calls(struct group_call *calls, size_t ncalls)
{
    struct comm_work few[FEW_CALLS], *works = few;
    size_t n, first = 0;
    thrum_status_t status = THRUM_OK, end;

    if (ncalls > FEW_CALLS)
        works = malloc(ncalls * sizeof *works);
    if (!works)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group of %zu calls", ncalls);
    for (size_t i = 1; i < ncalls; i++)
        if (calls[i].comm != calls[0].comm) {
            qsort(calls, ncalls, sizeof *calls, by_comm);
            break;
        }
    n = split_works(calls, ncalls, works);
    for (size_t i = 0; i < n && !status; i++)
        status = open_work(&works[i]);
    while (!status && first < n) {
        size_t after = first + 1;

        while (after < n && works[after].calls[0].comm->id == works[first].calls[0].comm->id)
            after++;
        status = take_turns(&works[first], after - first);
        first = after;
    }
    for (size_t i = 0; i < n; i++) {
        end = close_messages(&works[i]);
        status = status ? status : end;
    }
    if (works != few)
        free(works);
    return status;
}

/* A group of nothing but the messages of the communicator's last one: true if it has been run again. */
static bool repeat_messages(const struct group_call *calls, size_t n, thrum_status_t *status_out)
{
    struct thrum_comm *comm = calls[0].comm;

    if (calls[0].kind != CALL_MESSAGE || !comm_is_valid(comm))
        return false;
    for (size_t i = 0; i < n; i++)
        if (calls[i].kind != CALL_MESSAGE || calls[i].comm != comm ||
            !p2p_is_known(comm, i, &calls[i].message))
            return false;
    return p2p_repeat(comm, n, status_out);
}

static struct thrum_queue *queue_of(const struct group_call *call)
{
    switch (call->kind) {
    case CALL_MESSAGE:
        return call->message.queue;
    case CALL_ONE_SIDED:
        return call->one_sided.queue;
    case CALL_PERSISTENT:
        return persistent_queue(call->persistent);
    default:
        return call->collective.queue;
    }
}

/* THRUM_SUM where nothing is reduced. */
static thrum_redop_t redop_of(const struct group_call *call)
{
    if (call->kind == CALL_PERSISTENT)
        return persistent_redop(call->persistent);
    return call->kind == CALL_COLLECTIVE ? call->collective.redop : THRUM_SUM;
}

/* What the calls name may have been destroyed since. */
static thrum_status_t check_alive(const struct group_call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct group_call *call = &calls[i];
        const struct thrum_queue *queue = queue_of(call);

        if (!comm_is_valid(call->comm) ||
            (call->kind == CALL_PERSISTENT && !persistent_comm(call->persistent)))
            return thrum_fail(THRUM_ERR_INVALID_COMM,
                              "comm=%p was destroyed inside the group that uses it",
                              (void *)call->comm);
        if (!queue_is_valid(queue))
            return thrum_fail(THRUM_ERR_INVALID_QUEUE,
                              "queue=%p was destroyed inside the group that uses it",
                              (const void *)queue);
    }
    return THRUM_OK;
}

bool group_uses_redop(const struct thrum_comm *comm, thrum_redop_t op)
{
    for (size_t i = 0; i < group.n; i++)
        if (group.calls[i].comm == comm && redop_of(&group.calls[i]) == op)
            return true;
    return false;
}

static void drop_calls(void)
{
    for (size_t i = 0; i < group.n; i++) {
        if (redop_of(&group.calls[i]) >= THRUM_REDOP_COUNT && comm_is_valid(group.calls[i].comm))
            redop_leave(group.calls[i].comm, redop_of(&group.calls[i]));
        free(group.calls[i].copy);
        if (group.calls[i].kind == CALL_PERSISTENT)
            persistent_release(group.calls[i].persistent);
    }
    if (group.calls != group.few)
        free(group.calls);
    free(group.setups);
    free(group.promises);
    free(group.message);
    group.promises = NULL;
    group.message = NULL;
    group.calls = NULL;
    group.setups = NULL;
    group.n = group.capacity = group.nsetups = 0;
    group.status = THRUM_OK;
}

thrum_status_t thrum_group_end(void)
{
    thrum_status_t status;

    if (!group.depth)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          "thrum_group_end without thrum_group_start on this thread");
    if (--group.depth)
        return THRUM_OK;
    status = group.npromises ? keep_promises() : THRUM_OK;
    if (group.status)
        status = thrum_set_last_error(group.status, group.message ? group.message : "");
    if (!status && group.n && !repeat_messages(group.calls, group.n, &status)) {
        status = check_alive(group.calls, group.n);
        if (!status)
            status = run_calls(group.calls, group.n);
    }
    if (!status && group.nsetups)
        status = setup_run_all(group.setups, group.nsetups);
    drop_calls();
    return status;
}
