/*
 * Splits, windows and one-sided calls with a rank that dies, stops, or leaves: every other rank gets a status that names it,
 * in time, and nothing is left behind.
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const with_access[] = {"THRUM_PEER_ACCESS=auto", NULL};
static const char *const without_access[] = {"THRUM_PEER_ACCESS=none", NULL};
static const char *const short_deadlines[] = {"THRUM_DEADLINE_MS=1000", NULL};

/* ---- roles ---- */

static void open_window(struct child *child, void **buffer_out, thrum_window_t *window_out)
{
    thrum_status_t status;

    MUST(thrum_mem_alloc(child->device, 4096, buffer_out));
    status = thrum_comm_register(child->comm, *buffer_out, 4096, window_out);
    say_result(status);
    if (status)
        *window_out = NULL;
}

static void check_comm(struct child *child, thrum_comm_t comm)
{
    bool right = false;

    MUST(child_sum(child, comm, 1000, &right));
    if (!right)
        say("failed: the sum is wrong");
}

/* Joins; does what it hears until "end"; says "calling" before what may block, and each result. */
static void obedient(struct child *child)
{
    struct thrum_comm_config config = {.size = sizeof config};
    thrum_comm_t made = NULL;
    thrum_window_t window = NULL;
    thrum_status_t status;
    const char *line;
    void *buffer;
    bool right;

    child_join(child);
    say("joined");
    for (;;) {
        line = hear();
        say("calling");
        if (!strcmp(line, "split") || !strcmp(line, "split in haste")) {
            config.init_deadline_ms = strcmp(line, "split") ? 1000 : 0;
            status = thrum_comm_split(child->comm, child->rank % 2, -child->rank, &config, &made);
            say_result(status);
        } else if (!strcmp(line, "open")) {
            open_window(child, &buffer, &window);
        } else if (!strcmp(line, "close")) {
            say_result(thrum_comm_deregister(window));
        } else if (!strcmp(line, "wait")) {
            status = thrum_wait_signal(1, 1, child->comm, child->queue);
            say_result(status ? status : thrum_queue_synchronize(child->queue));
        } else if (!strcmp(line, "put")) {
            status = thrum_put(buffer, 1024, THRUM_INT32, 1, window, 0, child->comm, child->queue);
            if (!status)
                status = thrum_signal(1, child->comm, child->queue);
            say_result(status ? status : thrum_queue_synchronize(child->queue));
        } else if (!strcmp(line, "sum")) {
            check_comm(child, child->comm);
            say_result(THRUM_OK);
        } else if (!strcmp(line, "sum of the part")) {
            status = child_sum(child, made, 1000, &right);
            say_result(status);
        } else if (!strcmp(line, "leave")) {
            thrum_comm_destroy(child->comm);
            child->comm = NULL;
            say_result(THRUM_OK);
        } else {
            break;
        }
    }
    thrum_comm_destroy(made);
}

static const struct role roles[] = {{"obedient", obedient}};

/* ---- tests ---- */

static void start(struct crew *crew, int nranks, const char *const *env)
{
    crew_start(crew, "obedient", nranks, env);
    crew_expect_all(crew, "joined");
}

static void tell(struct crew *crew, int rank, const char *what)
{
    crew_say(crew, rank, what);
    crew_expect(crew, rank, "calling");
}

/* All ranks do it, and it goes well. */
static void all(struct crew *crew, const char *what)
{
    for (int r = 0; r < crew->nranks; r++)
        tell(crew, r, what);
    for (int r = 0; r < crew->nranks; r++)
        crew_expect_result(crew, r, THRUM_OK, NULL);
}

static void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_expect_all(crew, "calling");
    crew_finish(crew);
}

static void killed_while_others_split(int victim)
{
    struct crew crew;

    start(&crew, 4, with_access);
    for (int r = 0; r < 4; r++)
        if (r != victim)
            tell(&crew, r, "split");
    crew_kill(&crew, victim, SIGKILL);
    for (int r = 0; r < 4; r++)
        if (r != victim) {
            char text[20];
            snprintf(text, sizeof text, "rank %d", victim);
            crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, text, "died", NULL);
        }
    end(&crew);
}

static void a_rank_killed_in_split(void **state)
{
    (void)state;
    killed_while_others_split(2);
}

static void rank_zero_killed_in_split(void **state)
{
    (void)state;
    killed_while_others_split(0);
}

/* It makes the others wait for their deadline, and the communicator is as good as before. */
static void a_rank_stopped_in_split(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, short_deadlines);
    crew_kill(&crew, 2, SIGSTOP);
    tell(&crew, 0, "split in haste");
    tell(&crew, 1, "split in haste");
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_split",
                       " within 1000 ms", NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_split",
                       " within 1000 ms", NULL);
    crew_kill(&crew, 2, SIGCONT);
    tell(&crew, 2, "split in haste");
    crew_expect_result(&crew, 2, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_split", NULL);
    all(&crew, "split");
    all(&crew, "sum of the part");
    all(&crew, "sum");
    end(&crew);
}

static void rank_zero_stopped_in_split(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, short_deadlines);
    crew_kill(&crew, 0, SIGSTOP);
    tell(&crew, 1, "split in haste");
    tell(&crew, 2, "split in haste");
    crew_expect_result(&crew, 1, THRUM_ERR_TIMEOUT, "rank 0", NULL);
    crew_expect_result(&crew, 2, THRUM_ERR_TIMEOUT, "rank 0", NULL);
    crew_kill(&crew, 0, SIGCONT);
    tell(&crew, 0, "split in haste");
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "rank 0", NULL);
    all(&crew, "split");
    all(&crew, "sum");
    end(&crew);
}

/* Of the even ranks' communicator one dies: the odd ranks' goes on, whatever becomes of the parent. */
static void a_part_is_hit(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, with_access);
    all(&crew, "split");
    tell(&crew, 0, "sum of the part");
    crew_kill(&crew, 2, SIGKILL);
    /* it has died, or cannot be reached, by who notices first */
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank", NULL);
    tell(&crew, 1, "sum of the part");
    tell(&crew, 3, "sum of the part");
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    crew_expect_result(&crew, 3, THRUM_OK, NULL);
    end(&crew);
}

/* The first ranks of both parts are on one host, where only one of them can have the port that is set. */
static void parts_share_a_port(void **state)
{
    char port[40];
    const char *const env[] = {port, NULL};
    struct crew crew;

    (void)state;
    snprintf(port, sizeof port, "THRUM_BOOTSTRAP_PORT=%d", free_port());
    start(&crew, 4, env);
    all(&crew, "split");
    all(&crew, "sum of the part");
    end(&crew);
}

static void a_rank_leaves_instead(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    tell(&crew, 0, "split");
    tell(&crew, 2, "leave");
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    tell(&crew, 1, "split");
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 2 has left", NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_PEER_DEAD, "rank 2 has left", NULL);
    end(&crew);
}

static void killed_while_others_open(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    tell(&crew, 0, "open");
    tell(&crew, 1, "open");
    crew_kill(&crew, 2, SIGKILL);
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
    end(&crew);
}

static void does_not_open(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, short_deadlines);
    tell(&crew, 0, "open");
    tell(&crew, 1, "open");
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_register",
                       NULL);
    crew_expect_result(&crew, 1, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_register",
                       NULL);
    tell(&crew, 2, "open");
    crew_expect_result(&crew, 2, THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_register",
                       NULL);
    all(&crew, "open");
    all(&crew, "close");
    end(&crew);
}

/* Rank 0 waits for a signal of rank 1, which dies; rank 2, which puts to it, hears of it too. */
static void signaller_is_killed(const char *const *env)
{
    struct crew crew;

    start(&crew, 3, env);
    all(&crew, "open");
    tell(&crew, 2, "put");
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    tell(&crew, 0, "wait");
    crew_kill(&crew, 1, SIGKILL);
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 1", NULL);
    tell(&crew, 2, "close");
    crew_expect_result(&crew, 2, THRUM_ERR_PEER_DEAD, "rank 1", NULL);
    tell(&crew, 0, "close");
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, "rank 1", NULL);
    end(&crew);
}

static void a_signaller_killed(void **state)
{
    (void)state;
    signaller_is_killed(with_access);
}

static void a_signaller_killed_without_peer_access(void **state)
{
    (void)state;
    signaller_is_killed(without_access);
}

static void a_signal_that_does_not_come(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, short_deadlines);
    tell(&crew, 0, "wait");
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "wait for 1 signal of rank 1",
                       "rank 1 has not sent", NULL);
    end(&crew);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_rank_killed_in_split),
        TEST(rank_zero_killed_in_split),
        TEST(a_rank_stopped_in_split),
        TEST(rank_zero_stopped_in_split),
        TEST(a_part_is_hit),
        TEST(parts_share_a_port),
        TEST(a_rank_leaves_instead),
        TEST(killed_while_others_open),
        TEST(does_not_open),
        TEST(a_signaller_killed),
        TEST(a_signaller_killed_without_peer_access),
        TEST(a_signal_that_does_not_come),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
