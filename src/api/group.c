/*
 * Groups: calls of a thread between thrum_group_start and the outermost thrum_group_end begin together. All
 * point-to-point calls of a communicator become one operation (a round per repeated pair); then its collectives and
 * one-sided calls follow in call order. Calls that block until all ranks have come (splits, windows) are made last. Communicators are taken in the order of their ids, which is the same on all ranks, so that ranks that
 * name them in different orders do not deadlock.
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

struct group_call {
    enum { CALL_COLLECTIVE, CALL_P2P, CALL_ONE_SIDED } kind;
    struct thrum_comm *comm;
    struct coll_args collective;
    struct p2p_call p2p;
    struct one_sided_call one_sided;
};

static _Thread_local BASE_FAST_TLS struct {
    int depth;
    struct group_call *calls;
    size_t n, capacity;
    struct setup_call *setups;
    size_t nsetups;
    thrum_status_t status; /* of the first call that was refused */
    char message[512];
} group;

bool group_is_open(void)
{
    return group.depth > 0;
}

static thrum_status_t refuse(thrum_status_t status)
{
    if (!group.status) {
        group.status = status;
        strncpy(group.message, thrum_last_error(), sizeof group.message - 1);
    }
    return status;
}

static struct group_call *add(void)
{
    if (group.n == group.capacity) {
        size_t capacity = group.capacity ? group.capacity * 2 : 16;
        struct group_call *calls = realloc(group.calls, capacity * sizeof *calls);
        if (!calls)
            return NULL;
        group.calls = calls;
        group.capacity = capacity;
    }
    return &group.calls[group.n++];
}

thrum_status_t group_add_collective(const struct coll_args *args, thrum_status_t check)
{
    struct group_call *call = check ? NULL : add();

    if (check)
        return refuse(check);
    if (!call)
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    *call = (struct group_call){.comm = args->comm, .collective = *args};
    return THRUM_OK;
}

thrum_status_t group_add_p2p(struct thrum_comm *comm, const struct p2p_call *p2p,
                             thrum_status_t check)
{
    struct group_call *call = check ? NULL : add();

    if (check)
        return refuse(check);
    if (!call)
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    *call = (struct group_call){.kind = CALL_P2P, .comm = comm, .p2p = *p2p};
    return THRUM_OK;
}

thrum_status_t group_add_one_sided(struct thrum_comm *comm, const struct one_sided_call *one_sided,
                                   thrum_status_t check)
{
    struct group_call *call = check ? NULL : add();

    if (check)
        return refuse(check);
    if (!call)
        return refuse(thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group"));
    *call = (struct group_call){.kind = CALL_ONE_SIDED, .comm = comm, .one_sided = *one_sided};
    return THRUM_OK;
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

/* Ids are equal on all ranks; two communicators of one id are ranks of one process, told apart by rank. */
static int by_comm(const void *a, const void *b)
{
    const struct thrum_comm *x = ((const struct group_call *)a)->comm;
    const struct thrum_comm *y = ((const struct group_call *)b)->comm;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->rank - y->rank;
}

/* Stable: calls of one communicator keep their order. */
static void sort_calls(struct group_call *calls, size_t n)
{
    for (size_t i = 1; i < n; i++)
        for (size_t j = i; j > 0 && by_comm(&calls[j - 1], &calls[j]) > 0; j--) {
            struct group_call swap = calls[j];
            calls[j] = calls[j - 1];
            calls[j - 1] = swap;
        }
}

/* The calls of one communicator. */
static thrum_status_t run_comm(const struct group_call *calls, size_t n)
{
    struct p2p_call *p2p = malloc(n * sizeof *p2p);
    size_t np2p = 0;
    thrum_status_t status = THRUM_OK;

    if (!p2p)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a group of %zu calls", n);
    for (size_t i = 0; i < n; i++)
        if (calls[i].kind == CALL_P2P)
            p2p[np2p++] = calls[i].p2p;
    if (np2p)
        status = p2p_issue(calls[0].comm, p2p, np2p);
    free(p2p);
    for (size_t i = 0; i < n && !status; i++) {
        if (calls[i].kind == CALL_COLLECTIVE)
            status = collective_issue(&calls[i].collective);
        else if (calls[i].kind == CALL_ONE_SIDED)
            status = one_sided_run(calls[i].comm, &calls[i].one_sided);
    }
    return status;
}

/* What the calls name may have been destroyed since. */
static thrum_status_t check_alive(const struct group_call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct thrum_queue *queue = calls[i].kind == CALL_P2P ? calls[i].p2p.queue
                                          : calls[i].kind == CALL_ONE_SIDED
                                              ? calls[i].one_sided.queue
                                              : calls[i].collective.queue;

        if (!comm_is_valid(calls[i].comm))
            return thrum_fail(THRUM_ERR_INVALID_COMM,
                              "comm=%p was destroyed inside the group that uses it",
                              (void *)calls[i].comm);
        if (!queue_is_valid(queue))
            return thrum_fail(THRUM_ERR_INVALID_QUEUE,
                              "queue=%p was destroyed inside the group that uses it",
                              (const void *)queue);
    }
    return THRUM_OK;
}

thrum_status_t thrum_group_end(void)
{
    thrum_status_t status;
    size_t first = 0;

    if (!group.depth)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          "thrum_group_end without thrum_group_start on this thread");
    if (--group.depth)
        return THRUM_OK;
    status = group.status ? thrum_set_last_error(group.status, group.message) : THRUM_OK;
    if (!status)
        status = check_alive(group.calls, group.n);
    if (!status)
        sort_calls(group.calls, group.n);
    while (!status && first < group.n) {
        size_t end = first + 1;
        while (end < group.n && group.calls[end].comm == group.calls[first].comm)
            end++;
        status = run_comm(&group.calls[first], end - first);
        first = end;
    }
    if (!status && group.nsetups)
        status = setup_run_all(group.setups, group.nsetups);
    free(group.calls);
    free(group.setups);
    group.calls = NULL;
    group.setups = NULL;
    group.n = group.capacity = group.nsetups = 0;
    group.status = THRUM_OK;
    return status;
}
