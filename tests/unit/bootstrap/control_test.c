/* The control plane with ranks as processes: deaths, aborts, questions, finalize, goodbye. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "world.h"

/* What the callbacks of one rank see. In the shared world, so that the test can look. */
struct rank_view {
    struct world *world;
    int rank;
    struct control *control;
    struct bootstrap *bootstrap;
    atomic_int ticks, answers;
    uint64_t asked;
    struct call_record records[WORLD_MAX];
};

static void on_failed(void *argument, thrum_status_t status, int rank, const char *message)
{
    struct rank_view *view = argument;
    struct world_rank *mine = &view->world->ranks[view->rank];

    mine->at_ns = now_ns();
    mine->status = status;
    mine->culprit = rank;
    mine->calls++;
    snprintf(mine->message, sizeof mine->message, "%s", message);
    atomic_store(&mine->stage, 1);
    atomic_fetch_add(&view->world->counter, 1);
}

static void on_tick(void *argument, int64_t now)
{
    struct rank_view *view = argument;

    WORLD_CHECK(now <= now_ns());
    atomic_fetch_add(&view->ticks, 1);
}

static void on_record(void *argument, uint64_t sequence, struct call_record *record_out)
{
    struct rank_view *view = argument;

    *record_out = (struct call_record){.sequence = sequence,
                                       .count = 1000u + (unsigned)view->rank,
                                       .root = view->rank,
                                       .collective = 3,
                                       .dtype = 4,
                                       .redop = 5,
                                       .state = 1};
}

static void on_records(void *argument, uint64_t sequence, const struct call_record *records,
                       int nranks)
{
    struct rank_view *view = argument;

    view->asked = sequence;
    memcpy(view->records, records, (size_t)nranks * sizeof *records);
    atomic_fetch_add(&view->answers, 1);
}

static const struct control_callbacks callbacks = {
    .failed = on_failed, .tick = on_tick, .record = on_record, .records = on_records};

static struct rank_view *enter(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct rank_view *view = calloc(1, sizeof *view);

    view->world = world;
    view->rank = rank;
    WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 30000, &view->bootstrap) == THRUM_OK);
    WORLD_CHECK(bootstrap_barrier(view->bootstrap) == THRUM_OK);
    WORLD_CHECK(control_start(view->bootstrap, &callbacks, view, 5, &view->control) == THRUM_OK);
    return view;
}

static void leave(struct rank_view *view)
{
    int64_t begin = now_ns();

    control_stop(view->control);
#ifndef THRUM_SANITIZED
    WORLD_CHECK(now_ns() - begin < 1000000000);
#else
    (void)begin;
#endif
    bootstrap_close(view->bootstrap);
    free(view);
}

/* Waits for all ranks at a point of the test, through the shared page. */
static void meet(struct world *world, int round)
{
    atomic_fetch_add(&world->go, 1);
    world_await(&world->go, world->nranks * round);
}

/* ---- orderly ---- */

static void orderly(struct world *world, int rank)
{
    int files = world_open_files(), threads = world_threads();
    struct rank_view *view = enter(world, rank);

    world_await(&view->ticks, 3);
    WORLD_CHECK(control_finalize(view->control, 20000) == THRUM_OK);
    leave(view);
    WORLD_CHECK(world->ranks[rank].calls == 0);
    WORLD_CHECK(world_settles(files, threads));
}

static void finalize_and_goodbye_are_no_failure(void **state)
{
    (void)state;
    for (int n = 1; n <= 17; n++)
        assert_int_equal(world_run(n, orderly), 0);
}

static void leaves_one_by_one(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    meet(world, 1);
    world_await(&world->counter, rank); /* rank 0, which all others hang on, goes first */
    leave(view);
    atomic_fetch_add(&world->counter, 1);
    WORLD_CHECK(world->ranks[rank].calls == 0);
}

static void goodbye_is_no_death(void **state)
{
    (void)state;
    assert_int_equal(world_run(12, leaves_one_by_one), 0);
}

static void finalizes_without_rank_3(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    if (rank != 3) {
        WORLD_CHECK(control_finalize(view->control, 20000) == THRUM_ERR_PEER_DEAD);
        WORLD_CHECK(strstr(thrum_last_error(), "rank"));
    }
    leave(view);
}

static void finalize_needs_all(void **state)
{
    (void)state;
    assert_int_equal(world_run(12, finalizes_without_rank_3), 0);
}

static void finalizes_too_early(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    if (rank == 1)
        WORLD_CHECK(control_finalize(view->control, 50) == THRUM_ERR_TIMEOUT);
    meet(world, 1);
    leave(view);
}

static void finalize_has_a_deadline(void **state)
{
    (void)state;
    assert_int_equal(world_run(3, finalizes_too_early), 0);
}

/* ---- failures ---- */

static void survives(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    atomic_fetch_add(&world->go, 1);
    world_await(&world->ranks[rank].stage, 1);
    world_await(&world->ranks[rank].stage, 2); /* by the test */
    WORLD_CHECK(control_finalize(view->control, 20000) == world->ranks[rank].status);
    leave(view);
    WORLD_CHECK(world->ranks[rank].calls == 1);
}

static void kill_one_of(int nranks, int victim)
{
    struct world *world = world_start(nranks, survives);
    int64_t killed, last = 0;

    world_await(&world->go, nranks);
    killed = now_ns();
    kill(world->pids[victim], SIGKILL);
    world_await(&world->counter, nranks - 1);
    for (int r = 0; r < nranks; r++) {
        if (r == victim)
            continue;
        assert_int_equal(world->ranks[r].status, THRUM_ERR_PEER_DEAD);
        assert_int_equal(world->ranks[r].culprit, victim);
        assert_non_null(strstr(world->ranks[r].message, "has died"));
        last = world->ranks[r].at_ns > last ? world->ranks[r].at_ns : last;
    }
    print_message("%d ranks, rank %d killed: all others told after %.2f ms\n", nranks, victim,
                  (double)(last - killed) / 1e6);
    assert_true(last - killed < 2000000000);
    for (int r = 0; r < nranks; r++)
        atomic_store(&world->ranks[r].stage, 2);
    assert_int_equal(world_wait(world), 1);
    world_free(world);
}

static void a_death_is_told_to_all(void **state)
{
    static const int cases[][2] = {{2, 0}, {2, 1}, {3, 2}, {13, 0}, {13, 1}, {13, 12}, {64, 9}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        kill_one_of(cases[i][0], cases[i][1]);
}

static void fails_by_rank_5(struct world *world, int rank)
{
    char text[2000];
    struct rank_view *view = enter(world, rank);

    meet(world, 1);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    memcpy(text, "first cause: ", 13);
    if (rank == 5) {
        control_fail(view->control, THRUM_ERR_ABORTED, 5, text);
        control_fail(view->control, THRUM_ERR_FAULT, 5, "a second cause");
    }
    world_await(&world->counter, world->nranks);
    WORLD_CHECK(world->ranks[rank].status == THRUM_ERR_ABORTED);
    WORLD_CHECK(world->ranks[rank].culprit == 5);
    WORLD_CHECK(!strncmp(world->ranks[rank].message, "first cause: xxx", 16));
    WORLD_CHECK(strlen(world->ranks[rank].message) < 600);
    leave(view);
    WORLD_CHECK(world->ranks[rank].calls == 1);
}

static void an_abort_is_told_to_all(void **state)
{
    (void)state;
    assert_int_equal(world_run(13, fails_by_rank_5), 0);
}

static void fails_and_leaves(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    meet(world, 1);
    if (rank == 4)
        control_fail(view->control, THRUM_ERR_ABORTED, 4, "rank 4 called abort");
    else
        world_await(&world->ranks[rank].stage, 1);
    leave(view); /* at once: the word still has to get out */
    WORLD_CHECK(rank == 4 || world->ranks[rank].status == THRUM_ERR_ABORTED);
}

static void an_abort_gets_out_before_the_rank_leaves(void **state)
{
    (void)state;
    assert_int_equal(world_run(17, fails_and_leaves), 0);
}

static void gives_up_setting_up(struct world *world, int rank)
{
    struct thrum_unique_id id;
    struct bootstrap *b;

    if (rank != 2) {
        struct rank_view *view = enter(world, rank);

        atomic_fetch_add(&world->go, 1);
        world_await(&world->ranks[rank].stage, 1);
        WORLD_CHECK(world->ranks[rank].status == THRUM_ERR_PEER_DEAD);
        WORLD_CHECK(world->ranks[rank].culprit == 2);
        leave(view);
        return;
    }
    id = world_id(world, rank);
    WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 30000, &b) == THRUM_OK);
    WORLD_CHECK(bootstrap_barrier(b) == THRUM_OK);
    world_await(&world->go, world->nranks - 1);
    bootstrap_close(b);
}

static void a_rank_that_never_starts_is_named(void **state)
{
    (void)state;
    assert_int_equal(world_run(12, gives_up_setting_up), 0);
}

/* ---- questions ---- */

static void all_ask(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    meet(world, 1);
    control_query(view->control, 42);
    world_await(&view->answers, 1);
    WORLD_CHECK(view->asked == 42);
    for (int r = 0; r < world->nranks; r++) {
        WORLD_CHECK(view->records[r].state == 1);
        WORLD_CHECK(view->records[r].sequence == 42);
        WORLD_CHECK(view->records[r].count == 1000u + (unsigned)r);
        WORLD_CHECK(view->records[r].root == r);
    }
    meet(world, 2);
    if (rank == world->nranks - 1) { /* one alone, again */
        control_query(view->control, 43);
        world_await(&view->answers, 2);
        WORLD_CHECK(view->asked == 43 && view->records[0].count == 1000);
    }
    meet(world, 3);
    leave(view);
}

static void every_rank_is_asked(void **state)
{
    (void)state;
    assert_int_equal(world_run(1, all_ask), 0);
    assert_int_equal(world_run(2, all_ask), 0);
    assert_int_equal(world_run(24, all_ask), 0);
}

static void asks_while_one_is_stopped(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);
    int64_t begin;

    atomic_fetch_add(&world->go, 1);
    world_await(&world->go, world->nranks + 1); /* the test has stopped its victim */
    if (atomic_load(&world->ranks[rank].stage) == 7) {
        leave(view); /* this is the one, let go again */
        return;
    }
    begin = now_ns();
    control_query(view->control, 7);
    world_await(&view->answers, 1);
    world->ranks[rank].at_ns = now_ns() - begin;
    for (int r = 0; r < world->nranks; r++)
        world->ranks[rank].message[r] = (char)view->records[r].state;
    atomic_fetch_add(&world->counter, 1);
    world_await(&world->go, world->nranks + 2);
    leave(view);
}

static void ask_with_stopped(int nranks, int victim)
{
    struct world *world = world_start(nranks, asks_while_one_is_stopped);
    int64_t longest = 0;

    world_await(&world->go, nranks);
    kill(world->pids[victim], SIGSTOP);
    waitpid(world->pids[victim], NULL, WUNTRACED);
    atomic_store(&world->ranks[victim].stage, 7);
    atomic_fetch_add(&world->go, 1);
    world_await(&world->counter, nranks - 1);
    for (int r = 0; r < nranks; r++) {
        if (r == victim)
            continue;
        assert_int_equal((uint8_t)world->ranks[r].message[victim], 0xff);
        assert_int_equal((uint8_t)world->ranks[r].message[r], 1);
        longest = world->ranks[r].at_ns > longest ? world->ranks[r].at_ns : longest;
        if (victim) { /* what is not behind the stopped rank has answered */
            bool all = world->ranks[r].message[0] == 1;
            assert_true(all || r > victim);
        }
    }
    print_message("%d ranks, rank %d stopped: answers within %.0f ms\n", nranks, victim,
                  (double)longest / 1e6);
    assert_true(longest < 3000000000);
    atomic_fetch_add(&world->go, 1);
    kill(world->pids[victim], SIGCONT);
    assert_int_equal(world_wait(world), 0);
    world_free(world);
}

static void a_stopped_rank_does_not_answer(void **state)
{
    (void)state;
    ask_with_stopped(2, 1);
    ask_with_stopped(2, 0);
    ask_with_stopped(24, 23);
    ask_with_stopped(24, 1);
    ask_with_stopped(24, 0);
}

/* ---- several communicators of one process share the thread ---- */

static void several(struct world *world, int rank)
{
    int threads = world_threads();
    struct rank_view *views[4];

    for (int i = 0; i < 4; i++) {
        views[i] = enter(world, rank);
        meet(world, i + 1);
    }
    WORLD_CHECK(world_settles(1000, threads + 1));
    for (int i = 0; i < 4; i++)
        WORLD_CHECK(control_finalize(views[i]->control, 20000) == THRUM_OK);
    for (int i = 0; i < 4; i++)
        leave(views[i]);
    WORLD_CHECK(world_settles(1000, threads));
}

static void one_thread_serves_all(void **state)
{
    (void)state;
    assert_int_equal(world_run(1, several), 0);
}

/* ---- a child of fork ---- */

/* Rank 1 dies and leaves a child behind, which lives on until the test has seen what it wants. */
static void leave_a_child(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);

    if (rank == 1 && fork() == 0) {
        prctl(PR_SET_PDEATHSIG, 0);
        atomic_fetch_add(&world->noted, 1);
        world_await(&world->stay_for, 1);
        _exit(0);
    }
    if (rank == 1) {
        world_await(&world->noted, 1);
        raise(SIGKILL);
    }
    world_await(&world->ranks[rank].stage, 1);
    leave(view);
}

static void a_death_is_told_though_a_child_lives(void **state)
{
    struct world *world = world_start(3, leave_a_child);

    (void)state;
    assert_int_equal(world_wait(world), 1);
    for (int r = 0; r < 3; r += 2) {
        assert_int_equal(world->ranks[r].status, THRUM_ERR_PEER_DEAD);
        assert_int_equal(world->ranks[r].culprit, 1);
    }
    atomic_store(&world->stay_for, 1);
    world_free(world);
}

/* A child makes communicators of its own while its parent has some. */
static void child_of_its_own(struct world *world, int rank)
{
    struct rank_view *view = enter(world, rank);
    pid_t child = fork();
    int how;

    if (!child) {
        struct world *alone = world_start(1, orderly);

        _exit(world_wait(alone));
    }
    WORLD_CHECK(waitpid(child, &how, 0) == child && !how);
    WORLD_CHECK(control_finalize(view->control, 20000) == THRUM_OK);
    leave(view);
}

static void a_child_has_its_own(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* their locks stay held in a child where another thread of the parent has them */
#endif
    assert_int_equal(world_run(1, child_of_its_own), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finalize_and_goodbye_are_no_failure),
        cmocka_unit_test(goodbye_is_no_death),
        cmocka_unit_test(finalize_needs_all),
        cmocka_unit_test(finalize_has_a_deadline),
        cmocka_unit_test(a_death_is_told_to_all),
        cmocka_unit_test(an_abort_is_told_to_all),
        cmocka_unit_test(an_abort_gets_out_before_the_rank_leaves),
        cmocka_unit_test(a_rank_that_never_starts_is_named),
        cmocka_unit_test(every_rank_is_asked),
        cmocka_unit_test(a_stopped_rank_does_not_answer),
        cmocka_unit_test(one_thread_serves_all),
        cmocka_unit_test(a_death_is_told_though_a_child_lives),
        cmocka_unit_test(a_child_has_its_own),
    };
    return cmocka_run_group_tests_name("bootstrap control", tests, NULL, NULL);
}
