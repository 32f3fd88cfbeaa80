/*
 * A rank that dies, stops, aborts or resets its device, before, during and after a collective: every other rank gets a
 * status that names it and why, in time; other queues and communicators go on; nothing is left behind. In both access
 * modes.
 */
#include "harness.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEADLINE_MS 1500
#define DEADLINE "THRUM_DEADLINE_MS=1500"
/* From the cause to the status; a death is noticed within 100 ms on an idle machine, which this one may not be. */
#define NOTICE_MS 5000
#define CONTACT_MS \
    4000 /* half of the deadline is for asking the owner of memory; less than the 5 s that it would get else */

static const char *const with_access[] = {DEADLINE, "THRUM_PEER_ACCESS=auto", NULL};
static const char *const without_access[] = {DEADLINE, "THRUM_PEER_ACCESS=none", NULL};
static const char *const no_hurry[] = {"THRUM_PEER_ACCESS=auto", NULL};
static const char *const no_hurry_no_access[] = {"THRUM_PEER_ACCESS=none", NULL};

/* ---- roles ---- */

/* What has to work whatever happened to a communicator: this rank's device, and another queue of it. */
static void device_goes_on(struct child *child)
{
    thrum_queue_t queue;
    uint8_t byte = 0;
    void *buffer;

    MUST(thrum_queue_create(child->device, THRUM_QUEUE_DEFAULT, &queue));
    MUST(thrum_mem_alloc(child->device, 100000, &buffer));
    MUST(thrum_fill(queue, buffer, 77, 100000));
    MUST(thrum_copy_to_host(queue, &byte, (uint8_t *)buffer + 99999, 1));
    MUST(thrum_mem_free(child->device, buffer));
    thrum_queue_destroy(queue);
    if (byte != 77)
        say("failed: byte is %d", byte);
}

/* The failed communicator answers everything with its error, at once, and names it. */
static void comm_stays_failed(struct child *child, thrum_status_t expected)
{
    int64_t end = clock_ms() + 10000;
    thrum_status_t status = THRUM_OK;
    const char *message = NULL;
    bool right;

    do { /* a rank that was stopped may not have been told yet */
        MUST(thrum_comm_async_error(child->comm, &status, &message));
        if (expected == THRUM_OK)
            expected = status;
        poll(NULL, 0, 1);
    } while (status == THRUM_OK && clock_ms() < end);
    if (status == THRUM_OK || status != expected || !message || !*message)
        say("failed: async error is %s (%s)", thrum_status_name(status), message ? message : "-");
    status = child_sum(child, child->comm, 10, &right);
    if (status != expected)
        say("failed: a later call gives %s", thrum_status_name(status));
}

/* Joins; hears "sum COUNT" again and again, until "end"; says each result. */
static void obedient(struct child *child)
{
    thrum_status_t status = THRUM_OK;
    bool right = true;
    const char *line;

    child_join(child);
    say("joined");
    for (;;) {
        line = hear();
        if (!strncmp(line, "sum ", 4)) {
            size_t count = (size_t)strtoull(line + 4, NULL, 10);
            say("calling");
            status = child_sum(child, child->comm, count, &right);
            say_result(status);
            if (status == THRUM_OK && !right)
                say("failed: the sum is wrong");
        } else if (!strcmp(line, "check")) {
            comm_stays_failed(child, status);
            device_goes_on(child);
            say("checked");
        } else if (!strcmp(line, "abort")) {
            MUST(thrum_comm_abort(child->comm));
            say("aborted");
        } else if (!strcmp(line, "reset")) {
            MUST(thrum_device_reset(child->device, THRUM_RESET_HARD));
            say("reset");
        } else if (!strcmp(line, "destroy")) {
            thrum_comm_destroy(child->comm);
            child->comm = NULL;
            say("destroyed");
        } else if (!strcmp(line, "finalize")) {
            say_result(thrum_comm_finalize(child->comm));
        } else {
            return;
        }
    }
}

/* Sums without end, large ones, until the communicator fails. */
static void busy(struct child *child)
{
    enum { COUNT = 1 << 20 };
    thrum_status_t status;
    void *buffer;

    child_join(child);
    MUST(thrum_mem_alloc(child->device, COUNT * 4, &buffer));
    say("joined");
    for (int i = 0;; i++) {
        status = thrum_allreduce(buffer, buffer, COUNT, THRUM_INT32, THRUM_MAX, child->comm,
                                 child->queue);
        if (status == THRUM_OK && i % 4 == 3)
            status = thrum_queue_synchronize(child->queue);
        if (status != THRUM_OK)
            break;
        if (i == 8)
            say("going");
    }
    say_result(status);
    if (!strcmp(hear(), "check")) {
        comm_stays_failed(child, status);
        device_goes_on(child);
        say("checked");
    }
}

/* Two communicators: of all ranks, and of all but the last. When the first has failed the second still works. */
static void two_comms(struct child *child)
{
    thrum_comm_t second = NULL;
    thrum_status_t status;
    bool right = false;

    child_join(child);
    if (child->rank < child->nranks - 1)
        second = child_join_by_relay(child, child->nranks - 1);
    say("joined");
    if (strcmp(hear(), "sum"))
        return;
    status = child_sum(child, child->comm, 1000, &right);
    say_result(status);
    for (int i = 0; i < 20; i++) {
        status = child_sum(child, second, (size_t)i * 5000, &right);
        if (status != THRUM_OK || !right) {
            say("failed: the other communicator gives %s: %s", thrum_status_name(status),
                thrum_last_error());
            return;
        }
    }
    thrum_comm_destroy(second);
    thrum_comm_destroy(child->comm);
    /* and a new one can be made of those who are left */
    child->comm = child_join_by_relay(child, child->nranks - 1);
    status = child_sum(child, child->comm, 1000, &right);
    say_result(status);
}

/* A reduction of rank 0 that does not end before it is let go. */
static struct slow_fold {
    _Atomic bool begun, may_end, ended;
} slow_fold;

static thrum_status_t fold_slowly(const void *left, const void *right, void *result, size_t count,
                                  thrum_datatype_t dtype, void *context)
{
    struct slow_fold *fold = context;

    (void)dtype;
    atomic_store(&fold->begun, true);
    while (!atomic_load(&fold->may_end))
        poll(NULL, 0, 1);
    for (size_t i = 0; i < count; i++)
        ((int32_t *)result)[i] = ((const int32_t *)left)[i] + ((const int32_t *)right)[i];
    atomic_store(&fold->ended, true);
    return THRUM_OK;
}

/* Destroys a communicator that has failed, while one of its reductions still runs on a thread of the device. */
static void hasty(struct child *child)
{
    enum { COUNT = 1 << 16 };
    void *send, *recv;
    thrum_redop_t op;
    int64_t since;

    child_join(child);
    say("joined");
    MUST(thrum_mem_alloc(child->device, COUNT * 4, &send));
    MUST(thrum_mem_alloc(child->device, COUNT * 4, &recv));
    MUST(thrum_redop_create(child->comm, fold_slowly, &slow_fold, true, &op));
    atomic_store(&slow_fold.may_end, child->rank != 0);
    MUST(thrum_allreduce(send, recv, COUNT, THRUM_INT32, op, child->comm, child->queue));
    if (child->rank == 0) {
        while (!atomic_load(&slow_fold.begun))
            poll(NULL, 0, 1);
        MUST(thrum_comm_abort(child->comm));
        since = clock_ms();
        thrum_comm_destroy(child->comm);
        say("destroyed after %d ms, %s", (int)(clock_ms() - since),
            atomic_load(&slow_fold.ended) ? "ended" : "still running");
        atomic_store(&slow_fold.may_end, true);
    } else {
        say_result(thrum_queue_synchronize(child->queue));
        thrum_comm_destroy(child->comm);
    }
    child->comm = NULL;
    if (child->rank == 0 && thrum_queue_synchronize(child->queue) != THRUM_ERR_ABORTED)
        exit(23);
    thrum_queue_destroy(child->queue);
    child->queue = NULL;
    MUST(thrum_mem_free(child->device, send));
    MUST(thrum_mem_free(child->device, recv));
    if (child->rank == 0 && !atomic_load(&slow_fold.ended))
        exit(24);
}

/* The same, where the communicator alone still holds the device, and has a window. */
static void last_holder(struct child *child)
{
    enum { COUNT = 1 << 16 };
    thrum_window_t window;
    void *send, *recv;
    thrum_redop_t op;

    child_join(child);
    MUST(thrum_mem_alloc(child->device, COUNT * 4, &send));
    MUST(thrum_mem_alloc(child->device, COUNT * 4, &recv));
    MUST(thrum_comm_register(child->comm, send, COUNT * 4, &window));
    MUST(thrum_redop_create(child->comm, fold_slowly, &slow_fold, true, &op));
    atomic_store(&slow_fold.may_end, child->rank != 0);
    MUST(thrum_allreduce(send, recv, COUNT, THRUM_INT32, op, child->comm, child->queue));
    if (child->rank) {
        say_result(thrum_queue_synchronize(child->queue));
        return;
    }
    while (!atomic_load(&slow_fold.begun))
        poll(NULL, 0, 1);
    MUST(thrum_comm_abort(child->comm));
    thrum_device_close(child->device);
    thrum_comm_destroy(child->comm);
    say("%s", atomic_load(&slow_fold.ended) ? "ended" : "still running");
    if (thrum_comm_deregister(window) != THRUM_ERR_INVALID_ARGUMENT)
        exit(25);
    atomic_store(&slow_fold.may_end, true);
    while (!atomic_load(&slow_fold.ended))
        poll(NULL, 0, 1);
    _exit(0); /* the device is still open */
}

static const struct role roles[] = {
    {"obedient", obedient},       {"busy", busy}, {"two_comms", two_comms}, {"hasty", hasty},
    {"last_holder", last_holder},
};

/* ---- tests ---- */

static void start(struct crew *crew, const char *role, int nranks, const char *const *env)
{
    crew_start(crew, role, nranks, env);
    crew_expect_all(crew, "joined");
}

/* Ranks that are alive have failed with `status`, naming `text`; they go on and end well. */
static void survivors(struct crew *crew, thrum_status_t status, const char *text, int64_t since)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r])
            crew_expect_result(crew, r, status, text, NULL);
    assert_in_range(clock_ms() - since, 0, NOTICE_MS);
    crew_say_all(crew, "check");
    crew_expect_all(crew, "checked");
    crew_say_all(crew, "end");
    crew_finish(crew);
}

/* Rank 1 dies while the others wait for it: it has not called. */
static void killed_before(const char *const *env)
{
    struct crew crew;
    int64_t since;

    start(&crew, "obedient", 4, env);
    for (int r = 0; r < 4; r++)
        if (r != 1)
            crew_say(&crew, r, "sum 10000");
    for (int r = 0; r < 4; r++)
        if (r != 1)
            crew_expect(&crew, r, "calling");
    since = clock_ms();
    crew_kill(&crew, 1, SIGKILL);
    survivors(&crew, THRUM_ERR_PEER_DEAD, "rank 1", since);
}

static void a_rank_killed_before(void **state)
{
    (void)state;
    killed_before(no_hurry);
}

static void a_rank_killed_before_without_peer_access(void **state)
{
    (void)state;
    killed_before(no_hurry_no_access);
}

/* Rank 2 dies inside the call, in which it and rank 0 wait for rank 1; rank 1 comes later. */
static void killed_inside(const char *const *env)
{
    struct crew crew;
    char process[64];
    int64_t since;

    start(&crew, "obedient", 3, env);
    crew_say(&crew, 0, "sum 100000");
    crew_say(&crew, 2, "sum 100000");
    crew_expect(&crew, 0, "calling");
    crew_expect(&crew, 2, "calling");
    since = clock_ms();
    snprintf(process, sizeof process, "; rank 2 is process %d on ", (int)crew.pids[2]);
    crew_kill(&crew, 2, SIGKILL);
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 2", process, NULL);
    assert_in_range(clock_ms() - since, 0, NOTICE_MS);
    crew_say(&crew, 1, "sum 100000");
    crew_expect(&crew, 1, "calling");
    crew_expect_result(&crew, 1, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void a_rank_killed_inside(void **state)
{
    (void)state;
    killed_inside(no_hurry);
}

static void a_rank_killed_inside_without_peer_access(void **state)
{
    (void)state;
    killed_inside(no_hurry_no_access);
}

/* At some moment of large transfers. */
static void killed_in_transfer(const char *const *env, int victim)
{
    struct crew crew;
    int64_t since;

    start(&crew, "busy", 3, env);
    crew_expect_all(&crew, "going");
    since = clock_ms();
    crew_kill(&crew, victim, SIGKILL);
    survivors(&crew, THRUM_ERR_PEER_DEAD, victim == 0 ? "rank 0" : "rank 2", since);
}

static void a_rank_killed_in_transfer(void **state)
{
    (void)state;
    killed_in_transfer(no_hurry, 2);
}

static void a_rank_killed_in_transfer_without_peer_access(void **state)
{
    (void)state;
    killed_in_transfer(no_hurry_no_access, 2);
}

static void rank_zero_killed_in_transfer(void **state)
{
    (void)state;
    killed_in_transfer(no_hurry, 0);
}

/* What was done before stays right; the next call says who died. */
static void a_rank_killed_after(void **state)
{
    struct crew crew;
    int64_t since;

    (void)state;
    start(&crew, "obedient", 3, no_hurry);
    crew_say_all(&crew, "sum 10000");
    crew_expect_all(&crew, "calling");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    since = clock_ms();
    crew_kill(&crew, 0, SIGKILL);
    crew_say_all(&crew, "sum 10000");
    crew_expect_all(&crew, "calling");
    survivors(&crew, THRUM_ERR_PEER_DEAD, "rank 0", since);
}

/* All but one die: the last one says so too. */
static void only_one_is_left(void **state)
{
    struct crew crew;
    int64_t since;

    (void)state;
    start(&crew, "obedient", 4, no_hurry);
    crew_say(&crew, 3, "sum 10000");
    crew_expect(&crew, 3, "calling");
    since = clock_ms();
    for (int r = 0; r < 3; r++)
        crew_kill(&crew, r, SIGKILL);
    survivors(&crew, THRUM_ERR_PEER_DEAD, "rank ", since);
}

/* A stopped rank is not dead: the deadline ends it, and names who did not come. */
static void stopped(const char *const *env, const char *role)
{
    struct crew crew;
    bool is_busy = !strcmp(role, "busy");
    char process[64];
    int64_t since;

    start(&crew, role, 3, env);
    if (is_busy) {
        crew_expect_all(&crew, "going");
    } else {
        crew_say_all(&crew, "sum 10000");
        crew_expect_all(&crew, "calling");
        for (int r = 0; r < 3; r++)
            crew_expect_result(&crew, r, THRUM_OK, NULL);
    }
    snprintf(process, sizeof process, "; rank 1 is process %d on ", (int)crew.pids[1]);
    crew_kill(&crew, 1, SIGSTOP);
    since = clock_ms();
    for (int r = 0; r < 3; r += 2) {
        if (!is_busy) {
            crew_say(&crew, r, "sum 10000");
            crew_expect(&crew, r, "calling");
        }
    }
    for (int r = 0; r < 3; r += 2)
        crew_expect_result(&crew, r, THRUM_ERR_TIMEOUT, "rank 1", process, NULL);
    assert_in_range(clock_ms() - since, DEADLINE_MS / 2, DEADLINE_MS + NOTICE_MS);
    crew_kill(&crew, 1, SIGCONT);
    if (!is_busy) {
        crew_say(&crew, 1, "sum 10000");
        crew_expect(&crew, 1, "calling");
    }
    crew_expect_result(&crew, 1, THRUM_ERR_TIMEOUT, NULL); /* it is told what the others found */
    crew_say_all(&crew, "check");
    crew_expect_all(&crew, "checked");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void a_rank_stopped_before(void **state)
{
    (void)state;
    stopped(with_access, "obedient");
}

static void a_rank_stopped_before_without_peer_access(void **state)
{
    (void)state;
    stopped(without_access, "obedient");
}

static void a_rank_stopped_in_transfer(void **state)
{
    (void)state;
    stopped(with_access, "busy");
}

static void a_rank_stopped_in_transfer_without_peer_access(void **state)
{
    (void)state;
    stopped(without_access, "busy");
}

/*
 * The first collective of a communicator makes contact; a stopped rank does not answer. The name of the status depends on
 * who notices first; the rank is named, and the communicator has failed on all.
 */
static void stopped_at_first(const char *const *env)
{
    struct crew crew;
    int64_t since;

    start(&crew, "obedient", 3, env);
    crew_kill(&crew, 1, SIGSTOP);
    since = clock_ms();
    for (int r = 0; r < 3; r += 2) {
        crew_say(&crew, r, "sum 10000");
        crew_expect(&crew, r, "calling");
    }
    for (int r = 0; r < 3; r += 2) {
        const char *line = crew_expect(&crew, r, "result THRUM_ERR_");
        if ((!strstr(line, "ERR_TIMEOUT") && !strstr(line, "ERR_UNREACHABLE")) ||
            !strstr(line, "rank 1"))
            fail_msg("rank %d: %s", r, line);
    }
    assert_in_range(clock_ms() - since, 0, CONTACT_MS);
    crew_kill(&crew, 1, SIGCONT);
    crew_say_all(&crew, "check");
    crew_expect_all(&crew, "checked");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void a_rank_stopped_at_first(void **state)
{
    (void)state;
    stopped_at_first(with_access);
}

static void a_rank_stopped_at_first_without_peer_access(void **state)
{
    (void)state;
    stopped_at_first(without_access);
}

/* Not stopped, only late, but later than the deadline. */
static void a_rank_that_does_not_call(void **state)
{
    struct crew crew;
    int64_t since = clock_ms();

    (void)state;
    start(&crew, "obedient", 3, with_access);
    crew_say(&crew, 0, "sum 10000");
    crew_say(&crew, 1, "sum 10000");
    crew_expect(&crew, 0, "calling");
    crew_expect(&crew, 1, "calling");
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "rank 2", NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_TIMEOUT, "rank 2", NULL);
    assert_in_range(clock_ms() - since, DEADLINE_MS, DEADLINE_MS + NOTICE_MS);
    crew_say(&crew, 2, "sum 10000");
    crew_expect(&crew, 2, "calling");
    crew_expect_result(&crew, 2, THRUM_ERR_TIMEOUT, NULL);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void a_rank_aborts(void **state)
{
    struct crew crew;
    int64_t since;

    (void)state;
    start(&crew, "obedient", 3, no_hurry);
    crew_say(&crew, 0, "sum 10000");
    crew_say(&crew, 2, "sum 50000");
    crew_expect(&crew, 0, "calling");
    crew_expect(&crew, 2, "calling");
    since = clock_ms();
    crew_say(&crew, 1, "abort");
    crew_expect(&crew, 1, "aborted");
    crew_expect_result(&crew, 0, THRUM_ERR_ABORTED, "rank 1", NULL);
    crew_expect_result(&crew, 2, THRUM_ERR_ABORTED, "rank 1", NULL);
    assert_in_range(clock_ms() - since, 0, NOTICE_MS);
    crew_say(&crew, 1, "sum 10000"); /* use after abort */
    crew_expect(&crew, 1, "calling");
    crew_expect_result(&crew, 1, THRUM_ERR_ABORTED, NULL);
    crew_say_all(&crew, "check");
    crew_expect_all(&crew, "checked");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

/* A reset takes away what a rank's collectives stand on: the rank gets RESET, the others hear of it. */
static void a_device_is_reset(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, "obedient", 3, with_access);
    crew_say(&crew, 1, "reset");
    crew_expect(&crew, 1, "reset");
    crew_say(&crew, 0, "sum 10000");
    crew_say(&crew, 2, "sum 10000");
    crew_expect(&crew, 0, "calling");
    crew_expect(&crew, 2, "calling");
    for (int r = 0; r < 3; r += 2) {
        const char *line = crew_hear(&crew, r, DEADLINE_MS + NOTICE_MS);
        if (strncmp(line, "result THRUM_ERR_", 17) || !strstr(line, "rank 1"))
            fail_msg("rank %d: \"%s\"", r, line);
    }
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void other_communicators_go_on(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "two_comms", 4, no_hurry);
    crew_relay_id(&crew, 0, 3);
    crew_expect_all(&crew, "joined");
    for (int r = 0; r < 3; r++)
        crew_say(&crew, r, "sum");
    crew_kill(&crew, 3, SIGKILL);
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, "rank 3", NULL);
    crew_relay_id(&crew, 0, 3);
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_finish(&crew);
}

/* A rank that leaves properly is not taken for dead by those who are done as well. */
static void leaving_is_no_death(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, "obedient", 3, no_hurry);
    crew_say_all(&crew, "sum 10000");
    crew_expect_all(&crew, "calling");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say_all(&crew, "finalize");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    for (int r = 2; r >= 0; r--) {
        crew_say(&crew, r, "destroy");
        crew_expect(&crew, r, "destroyed");
    }
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

/*
 * A rank that leaves owes the others what they call after it: they are told who, also where they have reached for its
 * memory meanwhile, and where it stood between them in the tree. (Through a fabric they find its endpoint closed.)
 */
static void left_behind(const char *const *env, int leaver, const char *told, const char *sum)
{
    char name[48];
    struct crew crew;
    int64_t since;

    snprintf(name, sizeof name, "%srank %d%s", *told ? "DEAD comm0: " : "", leaver, told);
    start(&crew, "obedient", 4, env);
    crew_say_all(&crew, sum);
    crew_expect_all(&crew, "calling");
    for (int r = 0; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say(&crew, leaver, "destroy");
    crew_expect(&crew, leaver, "destroyed");
    since = clock_ms();
    for (int r = 0; r < 4; r++)
        if (r != leaver)
            crew_say(&crew, r, sum);
    for (int r = 0; r < 4; r++)
        if (r != leaver) {
            crew_expect(&crew, r, "calling");
            crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, name, "allreduce #2", NULL);
            crew_say(&crew, r, "check");
            crew_expect(&crew, r, "checked");
        }
    assert_true(clock_ms() - since < 10000);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void a_rank_that_leaves(void **state)
{
    (void)state;
    left_behind(no_hurry, 3, " has left", "sum 10");
    left_behind(no_hurry, 3, " has left", "sum 100000");
    left_behind(no_hurry, 1, " has left", "sum 10");
    left_behind(no_hurry, 0, " has left", "sum 100000");
}

static void a_rank_that_leaves_without_peer_access(void **state)
{
    (void)state;
    left_behind(no_hurry_no_access, 3, "", "sum 10");
    left_behind(no_hurry_no_access, 0, "", "sum 100000");
}

/* Killed while all wait in finalize. */
static void a_rank_killed_in_finalize(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, "obedient", 3, no_hurry);
    crew_say(&crew, 0, "finalize");
    crew_say(&crew, 1, "finalize");
    crew_kill(&crew, 2, SIGKILL);
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

/* The communicator goes, and what the reduction works on stays. */
static void a_reduction_that_does_not_end(void **state)
{
    struct crew crew;
    int ms;

    (void)state;
    start(&crew, "hasty", 2, with_access);
    assert_int_equal(
        sscanf(crew_expect(&crew, 0, "destroyed"), "destroyed after %d ms, still", &ms), 1);
    assert_true(ms >= 1500 && ms < 20000);
    crew_expect_result(&crew, 1, THRUM_ERR_ABORTED, NULL);
    crew_finish(&crew);
}

static void a_reduction_on_a_closed_device(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "last_holder", 2, with_access);
    crew_expect(&crew, 0, "still running");
    crew_expect_result(&crew, 1, THRUM_ERR_ABORTED, NULL);
    crew_finish(&crew);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_rank_killed_before),
        TEST(a_rank_killed_before_without_peer_access),
        TEST(a_rank_killed_inside),
        TEST(a_rank_killed_inside_without_peer_access),
        TEST(a_rank_killed_in_transfer),
        TEST(a_rank_killed_in_transfer_without_peer_access),
        TEST(rank_zero_killed_in_transfer),
        TEST(a_rank_killed_after),
        TEST(only_one_is_left),
        TEST(a_rank_stopped_before),
        TEST(a_rank_stopped_before_without_peer_access),
        TEST(a_rank_stopped_at_first),
        TEST(a_rank_stopped_at_first_without_peer_access),
        TEST(a_rank_stopped_in_transfer),
        TEST(a_rank_stopped_in_transfer_without_peer_access),
        TEST(a_rank_that_does_not_call),
        TEST(a_rank_aborts),
        TEST(a_device_is_reset),
        TEST(other_communicators_go_on),
        TEST(leaving_is_no_death),
        TEST(a_rank_that_leaves),
        TEST(a_rank_that_leaves_without_peer_access),
        TEST(a_rank_killed_in_finalize),
        TEST(a_reduction_that_does_not_end),
        TEST(a_reduction_on_a_closed_device),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
