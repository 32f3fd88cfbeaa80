/*
 * thrum_comm_shrink with ranks that are dead, stopped or wrong: those that are left get a communicator of their own, or a
 * status that says why not.
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const with_access[] = {"THRUM_PEER_ACCESS=auto", NULL};
static const char *const without_access[] = {"THRUM_PEER_ACCESS=none", NULL};
static const char *const short_deadlines[] = {"THRUM_INIT_DEADLINE_MS=1500", NULL};

/* "shrink A,B": without those; "sum": of the communicator made last; "whole": of the first one; until "end". */
static void obedient(struct child *child)
{
    thrum_comm_t made = NULL;
    int excluded[8], n, ranks;
    const char *line;
    bool right;

    child_join(child);
    say("joined");
    while (strcmp(line = hear(), "end")) {
        if (!strncmp(line, "shrink ", 7)) {
            char *at = (char *)(uintptr_t)line + 7;

            for (n = 0; *at && n < 8; n++) {
                excluded[n] = (int)strtol(at, &at, 10);
                at += *at == ',';
            }
            thrum_comm_destroy(made);
            made = NULL;
            say("calling");
            say_result(thrum_comm_shrink(child->comm, excluded, n, NULL, &made));
        } else if (!strcmp(line, "abort")) {
            say_result(thrum_comm_abort(child->comm));
        } else {
            thrum_comm_t comm = strcmp(line, "sum") ? child->comm : made;

            MUST(thrum_comm_size(comm, &ranks));
            MUST(child_sum(child, comm, 1000, &right));
            say(right ? "right %d" : "wrong %d", ranks);
        }
    }
    thrum_comm_destroy(made);
    child_close(child);
}

static const struct role roles[] = {{"obedient", obedient}};

static void start(struct crew *crew, int n, const char *const *env)
{
    crew_start(crew, "obedient", n, env);
    crew_expect_all(crew, "joined");
}

static void say_but(struct crew *crew, int but, const char *text)
{
    for (int r = 0; r < crew->nranks; r++)
        if (r != but)
            crew_say(crew, r, text);
}

/* All but one shrink by it, and work. */
static void shrink_by(struct crew *crew, int victim)
{
    char text[32], right[32];

    snprintf(text, sizeof text, "shrink %d", victim);
    snprintf(right, sizeof right, "right %d", crew->nranks - 1);
    say_but(crew, victim, text);
    for (int r = 0; r < crew->nranks; r++)
        if (r != victim) {
            crew_expect(crew, r, "calling");
            crew_expect_result(crew, r, THRUM_OK, NULL);
        }
    say_but(crew, victim, "sum");
    for (int r = 0; r < crew->nranks; r++)
        if (r != victim)
            crew_expect(crew, r, right);
}

static void without_the_dead(const char *const *env, int victim)
{
    struct crew crew;

    start(&crew, 4, env);
    crew_kill(&crew, victim, SIGKILL);
    shrink_by(&crew, victim);
    say_but(&crew, victim, "end");
    crew_finish(&crew);
}

static void first_is_dead(void **state)
{
    (void)state;
    without_the_dead(with_access, 0);
}

static void last_is_dead_fabric(void **state)
{
    (void)state;
    without_the_dead(without_access, 3);
}

/* Nobody is dead: the first communicator goes on; again, by the same rank and by another. */
static void all_alive(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    shrink_by(&crew, 1);
    shrink_by(&crew, 1);
    shrink_by(&crew, 0);
    crew_say_all(&crew, "whole");
    crew_expect_all(&crew, "right 3");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

/* Aborted: all make a new one, without anybody excluded. */
static void after_abort(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    crew_say(&crew, 1, "abort");
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    crew_say_all(&crew, "shrink ");
    crew_expect_all(&crew, "calling");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say_all(&crew, "sum");
    crew_expect_all(&crew, "right 3");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

/* One of those that are left is dead too: the others are told which of the new ranks is missing. */
static void another_is_dead(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, short_deadlines);
    crew_kill(&crew, 3, SIGKILL);
    for (int r = 0; r < 3; r++)
        if (r != 1)
            crew_say(&crew, r, "shrink 1");
    for (int r = 0; r < 3; r++)
        if (r != 1) {
            crew_expect(&crew, r, "calling");
            crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, "rank 2", NULL);
        }
    for (int r = 0; r < 3; r++)
        crew_say(&crew, r, "end");
    crew_finish(&crew);
}

static void wrong_arguments(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, with_access);
    crew_say(&crew, 0, "shrink 0");
    crew_expect(&crew, 0, "calling");
    crew_expect_result(&crew, 0, THRUM_ERR_INVALID_RANK, "excluded[0]=0", "the calling rank", NULL);
    crew_say(&crew, 0, "shrink 2");
    crew_expect(&crew, 0, "calling");
    crew_expect_result(&crew, 0, THRUM_ERR_INVALID_RANK, "outside", NULL);
    crew_say(&crew, 0, "shrink 1,1");
    crew_expect(&crew, 0, "calling");
    crew_expect_result(&crew, 0, THRUM_ERR_INVALID_ARGUMENT, "nexcluded=2", NULL);
    crew_say_all(&crew, "whole");
    crew_expect_all(&crew, "right 2");
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_is_dead, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(last_is_dead_fabric, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(all_alive, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(after_abort, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(another_is_dead, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(wrong_arguments, leftovers_before, leftovers_after)};

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
