/*
 * thrum_comm_grow with ranks that come later, that do not come, or that die: all get a communicator with the new ranks in
 * it, or a status that says why not.
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const with_access[] = {"THRUM_PEER_ACCESS=auto", NULL};
static const char *const without_access[] = {"THRUM_PEER_ACCESS=none", NULL};
static const char *const short_deadlines[] = {"THRUM_INIT_DEADLINE_MS=1500", NULL};
static const char *const longer_deadlines[] = {"THRUM_INIT_DEADLINE_MS=3000", NULL};

/*
 * "start N": the first communicator, of ranks 0 .. N-1. "id", "grow N", "shrink R": of the one made last, else of the first.
 * "join N R": makes one as rank R by the id that follows. "sum": of the one made last; "whole": of the first. Until "end".
 */
static void elastic(struct child *child)
{
    thrum_comm_t made = NULL;

    child_open(child);
    for (const char *line; strcmp(line = hear(), "end");) {
        thrum_comm_t from = made ? made : child->comm, next = NULL;
        struct thrum_unique_id id;
        thrum_status_t status;
        int n = 0, rank = 0;
        bool right = false;

        if (sscanf(line, "start %d", &n) == 1) {
            child->comm = child_join_by_relay(child, n);
            say("joined");
        } else if (!strcmp(line, "id")) {
            MUST(thrum_comm_get_unique_id(from, &id));
            say_id(&id);
        } else if (!strcmp(line, "abort")) {
            say_result(thrum_comm_abort(from));
        } else if (!strcmp(line, "sum") || !strcmp(line, "whole")) {
            thrum_comm_t comm = strcmp(line, "sum") ? child->comm : made;

            MUST(thrum_comm_size(comm, &n));
            MUST(thrum_comm_rank(comm, &rank));
            status = child_sum(child, comm, 1000, &right);
            if (status) {
                say_result(status);
                MUST(thrum_comm_culprit(comm, &rank));
                say("culprit %d", rank);
            } else {
                say(right ? "right %d of %d" : "wrong %d of %d", rank, n);
            }
        } else {
            bool joins = sscanf(line, "join %d %d", &n, &rank) == 2;
            bool grows = sscanf(line, "grow %d", &n) == 1;

            if (sscanf(line, "shrink %d", &rank) != 1 && !joins && !grows)
                exit(10);
            if (joins)
                id = hear_id();
            say("calling");
            status = joins   ? thrum_comm_init_rank(&id, n, rank, child->device, NULL, &next)
                     : grows ? thrum_comm_grow(from, n, NULL, &next)
                             : thrum_comm_shrink(from, &rank, 1, NULL, &next);
            say_result(status);
            if (!status) {
                thrum_comm_destroy(made);
                made = next;
            }
        }
    }
    thrum_comm_destroy(made);
    child_close(child);
}

static const struct role roles[] = {{"elastic", elastic}};

/* `old` ranks with a communicator and `spare` ones without; processes old .. old + spare - 1 are the spare ones. */
static void start(struct crew *crew, int old, int spare, const char *const *env)
{
    char text[32];

    crew_start(crew, "elastic", old + spare, env);
    snprintf(text, sizeof text, "start %d", old);
    for (int r = 0; r < old; r++)
        crew_say(crew, r, text);
    crew_relay_id(crew, 0, old);
    for (int r = 0; r < old; r++)
        crew_expect(crew, r, "joined");
}

__attribute__((format(printf, 3, 4))) static void tell(struct crew *crew, int process,
                                                       const char *format, ...)
{
    char text[64];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    crew_say(crew, process, text);
}

/* The spare process is to join as rank `rank` of `nranks`, by the id that `old` names, and is on its way. */
static void come(struct crew *crew, int spare, int rank, int nranks, int old)
{
    char id[CREW_LINE];

    crew_say(crew, old, "id");
    snprintf(id, sizeof id, "%s", crew_expect(crew, old, "id "));
    tell(crew, spare, "join %d %d", nranks, rank);
    crew_say(crew, spare, id);
    crew_expect(crew, spare, "calling");
}

/* All processes that live, but for `but`, are told to grow to n. */
static void grow_all(struct crew *crew, int but, int n)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r] && r != but) {
            tell(crew, r, "grow %d", n);
            crew_expect(crew, r, "calling");
        }
}

static void expect_all(struct crew *crew, thrum_status_t status, const char *text)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r])
            crew_expect_result(crew, r, status, text, NULL);
}

static void sum_all(struct crew *crew, int n)
{
    char right[32];

    crew_say_all(crew, "sum");
    snprintf(right, sizeof right, "of %d", n);
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r])
            assert_non_null(strstr(crew_expect(crew, r, "right "), right));
}

static void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_finish(crew);
}

static void one_comes(const char *const *env)
{
    struct crew crew;

    start(&crew, 3, 1, env);
    come(&crew, 3, 3, 4, 2);
    grow_all(&crew, 3, 4);
    expect_all(&crew, THRUM_OK, NULL);
    sum_all(&crew, 4);
    for (int r = 0; r < 3; r++)
        crew_say(&crew, r, "whole");
    crew_expect(&crew, 0, "right 0 of 3");
    crew_expect(&crew, 1, "right 1 of 3");
    crew_expect(&crew, 2, "right 2 of 3");
    end(&crew);
}

static void a_newcomer(void **state)
{
    (void)state;
    one_comes(with_access);
}

static void a_newcomer_fabric(void **state)
{
    (void)state;
    one_comes(without_access);
}

/* From one rank to three, then to four, by the id of one that came itself; the numbers are the ones that were given. */
static void twice(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 1, 3, with_access);
    come(&crew, 1, 1, 3, 0);
    come(&crew, 2, 2, 3, 0);
    tell(&crew, 0, "grow 3");
    crew_expect(&crew, 0, "calling");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    come(&crew, 3, 3, 4, 2);
    grow_all(&crew, 3, 4);
    expect_all(&crew, THRUM_OK, NULL);
    crew_say_all(&crew, "sum");
    for (int r = 0; r < 4; r++) {
        char right[32];

        snprintf(right, sizeof right, "right %d of 4", r);
        crew_expect(&crew, r, right);
    }
    end(&crew);
}

/* One dies, the others go on without it; another takes its part. */
static void after_shrink(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, 1, with_access);
    crew_kill(&crew, 0, SIGKILL);
    for (int r = 1; r < 3; r++) {
        crew_say(&crew, r, "shrink 0");
        crew_expect(&crew, r, "calling");
    }
    for (int r = 1; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    come(&crew, 3, 2, 3, 1);
    grow_all(&crew, 3, 3);
    expect_all(&crew, THRUM_OK, NULL);
    sum_all(&crew, 3);
    end(&crew);
}

/* Failed, but nobody is dead. */
static void after_abort(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 1, with_access);
    crew_say(&crew, 1, "abort");
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    come(&crew, 2, 2, 3, 0);
    grow_all(&crew, 2, 3);
    expect_all(&crew, THRUM_OK, NULL);
    sum_all(&crew, 3);
    end(&crew);
}

/* Killed on its way: all are told which rank is missing. With the next id another one comes instead. */
static void newcomer_is_dead(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 2, short_deadlines);
    come(&crew, 2, 2, 3, 0);
    crew_kill(&crew, 2, SIGKILL);
    grow_all(&crew, 3, 3);
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_ERR_TIMEOUT, "rank 2 did not join", NULL);
    come(&crew, 3, 2, 3, 1);
    grow_all(&crew, 3, 3);
    expect_all(&crew, THRUM_OK, NULL);
    sum_all(&crew, 3);
    end(&crew);
}

/* Killed later: the grown one fails, by its name; the old one does not know it. */
static void newcomer_dies(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 1, with_access);
    come(&crew, 2, 2, 3, 0);
    grow_all(&crew, 2, 3);
    expect_all(&crew, THRUM_OK, NULL);
    crew_kill(&crew, 2, SIGKILL);
    crew_say_all(&crew, "sum");
    expect_all(&crew, THRUM_ERR_PEER_DEAD, "rank 2");
    crew_expect_all(&crew, "culprit 2");
    crew_say_all(&crew, "whole");
    crew_expect(&crew, 0, "right 0 of 2");
    crew_expect(&crew, 1, "right 1 of 2");
    end(&crew);
}

/* All are told at once, whoever of them came first; and the next call is not kept waiting by this one. */
static void wrong_number(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 1, with_access);
    come(&crew, 2, 2, 4, 0);
    grow_all(&crew, 2, 3);
    expect_all(&crew, THRUM_ERR_MISMATCH, "says nranks is");
    come(&crew, 2, 2, 3, 0);
    grow_all(&crew, 2, 3);
    expect_all(&crew, THRUM_OK, NULL);
    sum_all(&crew, 3);
    end(&crew);
}

/*
 * The first attempt has failed, and waits to tell rank 1 so. A new rank that comes with the next id meanwhile waits, as it
 * would for ranks that have not called.
 */
static void early_after_failure(void **state)
{
    const struct timespec pause = {.tv_sec = 3};
    struct crew crew;

    (void)state;
    start(&crew, 2, 2, with_access);
    come(&crew, 2, 2, 4, 0);
    tell(&crew, 0, "grow 3");
    crew_expect(&crew, 0, "calling");
    crew_expect_result(&crew, 0, THRUM_ERR_MISMATCH, "says nranks is", NULL);
    crew_expect_result(&crew, 2, THRUM_ERR_MISMATCH, "says nranks is", NULL);
    come(&crew, 3, 2, 3, 0);
    nanosleep(&pause, NULL);
    tell(&crew, 1, "grow 3");
    crew_expect(&crew, 1, "calling");
    crew_expect_result(&crew, 1, THRUM_ERR_MISMATCH, "says nranks is", NULL);
    for (int r = 0; r < 2; r++) {
        tell(&crew, r, "grow 3");
        crew_expect(&crew, r, "calling");
    }
    crew_expect_result(&crew, 3, THRUM_OK, NULL);
    crew_expect_result(&crew, 0, THRUM_OK, NULL);
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    end(&crew);
}

/* A new rank may not take the number of an old one. */
static void wrong_rank(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 1, with_access);
    come(&crew, 2, 1, 3, 0);
    grow_all(&crew, 2, 3);
    expect_all(&crew, THRUM_ERR_INVALID_RANK, "rank 1 is claimed twice");
    end(&crew);
}

/* Rank 0 has called once more than the other, which is not in time to hear of the failure of the first call. */
static void unequally_often(void **state)
{
    const struct timespec pause = {.tv_nsec = 500000000};
    struct crew crew;

    (void)state;
    start(&crew, 2, 0, longer_deadlines);
    grow_all(&crew, 1, 3);
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "ranks 1, 2 did not join", NULL);
    grow_all(&crew, 1, 3);
    nanosleep(&pause, NULL);
    grow_all(&crew, 0, 3);
    crew_expect_result(&crew, 1, THRUM_ERR_MISMATCH, "rank 1 and rank 0",
                       "thrum_comm_grow equally often", NULL);
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "ranks 1, 2 did not join", NULL);
    end(&crew);
}

/* Rank 0 of the old ones is dead: the other one knows where they would have met. */
static void first_is_dead(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, 1, short_deadlines);
    come(&crew, 2, 2, 3, 1);
    crew_kill(&crew, 0, SIGKILL);
    grow_all(&crew, 2, 3);
    crew_expect_result(&crew, 1, THRUM_ERR_UNREACHABLE, "the ranks meet at rank 0", NULL);
    crew_expect_result(&crew, 2, THRUM_ERR_UNREACHABLE, "rank 2 could not reach", NULL);
    end(&crew);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_newcomer, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(a_newcomer_fabric, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(twice, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(after_shrink, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(after_abort, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(newcomer_is_dead, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(newcomer_dies, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(wrong_number, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(early_after_failure, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(wrong_rank, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(unequally_often, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(first_is_dead, leftovers_before, leftovers_after)};

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
