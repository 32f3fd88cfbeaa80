/*
 * thrum-ras on jobs that are idle, held up and failed: it names the rank that the others wait for, and says what that one does.
 * The program that is installed is run, on processes of a crew.
 */
#include "harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- roles ---- */

static void fork_sleeper(void)
{
    pid_t pid = fork();

    if (!pid) {
        close(0); /* the test waits for the end of what its parent says */
        close(1);
        pause();
        _exit(0);
    }
    say("forked %d", (int)pid);
}

/* From now on no descriptor is free. */
static void use_up_descriptors(void)
{
    struct rlimit limit;
    int free_one = dup(0);

    close(free_one);
    if (getrlimit(RLIMIT_NOFILE, &limit))
        say("no limit");
    limit.rlim_cur = (rlim_t)free_one;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        say("no limit");
    say("used up");
}

/* Does nothing for half a second; says how many ms of a core the process has spent. */
static void tell_spent(void)
{
    clock_t begin = clock();

    poll(NULL, 0, 500);
    say("spent %d", (int)((clock() - begin) * 1000 / CLOCKS_PER_SEC));
}

/*
 * Joins, sums twice; then does what it hears: "sum", "reduce RANK", "send RANK", "recv RANK", "signal RANK", "wait RANK" (for
 * its signal), "fork", "use up", "spend"; until "end". Says each result.
 */
static void obey(struct child *child)
{
    thrum_status_t status;
    bool right;
    void *buffer;

    MUST(thrum_mem_alloc(child->device, 4096, &buffer));
    MUST(child_sum(child, child->comm, 10, &right));
    MUST(child_sum(child, child->comm, 10, &right));
    say("joined");
    for (;;) {
        const char *line = hear();

        if (!strcmp(line, "fork")) {
            fork_sleeper();
            continue;
        }
        if (!strcmp(line, "use up")) {
            use_up_descriptors();
            continue;
        }
        if (!strcmp(line, "spend")) {
            tell_spent();
            continue;
        }
        if (!strcmp(line, "sum")) {
            status = child_sum(child, child->comm, 10, &right);
        } else if (!strncmp(line, "recv ", 5)) {
            MUST(thrum_recv(buffer, 7, THRUM_INT32, atoi(line + 5), child->comm, child->queue));
            status = thrum_queue_synchronize(child->queue);
        } else if (!strncmp(line, "send ", 5)) {
            MUST(thrum_send(buffer, 7, THRUM_INT32, atoi(line + 5), child->comm, child->queue));
            status = thrum_queue_synchronize(child->queue);
        } else if (!strncmp(line, "reduce ", 7)) {
            MUST(thrum_reduce(buffer, buffer, 7, THRUM_INT32, THRUM_SUM, atoi(line + 7),
                              child->comm, child->queue));
            status = thrum_queue_synchronize(child->queue);
        } else if (!strncmp(line, "signal ", 7)) {
            MUST(thrum_signal(atoi(line + 7), child->comm, child->queue));
            status = thrum_queue_synchronize(child->queue);
        } else if (!strncmp(line, "wait ", 5)) {
            MUST(thrum_wait_signal(atoi(line + 5), 1, child->comm, child->queue));
            status = thrum_queue_synchronize(child->queue);
        } else {
            break;
        }
        say_result(status);
    }
    child_close(child);
    say("closed");
}

static void obedient(struct child *child)
{
    child_join(child);
    obey(child);
}

/* Of its communicator's name the end does not fit: what is left is no UTF-8. */
static void named(struct child *child)
{
    const struct thrum_comm_config config = {
        .size = sizeof config,
        .name = "a name of forty-six characters, and one more: \xc3\xa9\xc3\xa9"};

    child_open(child);
    MUST(thrum_comm_init(child->device, &config, &child->comm));
    obey(child);
}

static const struct role roles[] = {{"obedient", obedient}, {"named", named}};

/* ---- asking ---- */

static char said[65536]; /* by the last thrum-ras */
static const char *from = ""; /* what starts it */

/* Runs it; returns its exit status. */
static int ras(const char *arguments)
{
    char command[256];
    size_t n;
    FILE *pipe;
    int status;

    snprintf(command, sizeof command, "%s./thrum-ras %s 2>&1", from, arguments);
    pipe = popen(command, "re");
    assert_non_null(pipe);
    n = fread(said, 1, sizeof said - 1, pipe);
    said[n] = 0;
    status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool says(const char *text)
{
    return strstr(said, text) != NULL;
}

static void must_say(const char *text)
{
    if (!says(text))
        fail_msg("\"%s\" is missing in:\n%s", text, said);
}

/* Asks one process of the crew, until it is as expected: what is held up has to have been so for a moment. */
static void expect_ras(const struct crew *crew, int rank, const char *options, int expected)
{
    int64_t end = clock_ms() + 20000;
    char arguments[128];
    int status;

    snprintf(arguments, sizeof arguments, "--limit 0.3 --pid %d %s", (int)crew->pids[rank],
             options);
    while ((status = ras(arguments)) != expected && clock_ms() < end)
        poll(NULL, 0, 20);
    if (status != expected)
        fail_msg("exit status %d, not %d: %s", status, expected, said);
}

static void start(struct crew *crew, int nranks, const char *setting)
{
    const char *const env[] = {setting, NULL};

    crew_start(crew, "obedient", nranks, env);
    crew_expect_all(crew, "joined");
}

static void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_expect_all(crew, "closed");
    crew_finish(crew);
}

/* ---- tests ---- */

static void idle_jobs_are_told(void **state)
{
    struct crew crew;
    char pid[64];
    pid_t gone;

    (void)state;
    start(&crew, 3, NULL);
    expect_ras(&crew, 1, "", 0);
    must_say("comm0, 3 ranks on 1 host: idle, 2 operations so far");
    expect_ras(&crew, 1, "--all", 0);
    for (int r = 0; r < 3; r++) {
        snprintf(pid, sizeof pid, "  %7d            2\n", (int)crew.pids[r]);
        must_say(pid);
    }
    expect_ras(&crew, 1, "--json", 0);
    must_say("\"pending\": null");
    must_say("\"state\": \"idle\"");
    gone = crew.pids[1];
    end(&crew);
    crew.pids[1] = gone;
    expect_ras(&crew, 1, "", 3);
}

static void who_has_not_called_is_named(void **state)
{
    struct crew crew;
    char line[128];

    (void)state;
    start(&crew, 4, NULL);
    for (int r = 0; r < 4; r++)
        if (r != 2)
            crew_say(&crew, r, "sum");
    for (int asked = 0; asked < 4; asked += 3) {
        expect_ras(&crew, asked, "", 1);
        must_say("in allreduce #3 (count=10, int32, sum) for ");
        snprintf(line, sizeof line, "%7d            2  has not called it\n", (int)crew.pids[2]);
        must_say(line);
        must_say("  >    2 ");
        assert_false(says("  >    1 "));
        must_say("has waited for ");
    }
    crew_say(&crew, 2, "sum");
    for (int r = 0; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    expect_ras(&crew, 0, "", 0);
    end(&crew);
}

static void who_is_stopped_is_named(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, NULL);
    crew_kill(&crew, 1, SIGSTOP);
    crew_say(&crew, 0, "sum");
    crew_say(&crew, 2, "sum");
    expect_ras(&crew, 2, "", 1);
    must_say("  >    1 ");
    must_say("does not answer: stopped by a signal\n");
    expect_ras(&crew, 1, "", 1); /* the one itself */
    must_say("gives no answer: stopped by a signal");
    assert_int_equal(kill(crew.pids[1], SIGCONT), 0);
    crew_say(&crew, 1, "sum");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    end(&crew);
}

static void who_does_not_send_is_named(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, NULL);
    crew_say(&crew, 2, "recv 0");
    expect_ras(&crew, 2, "", 1);
    must_say("in point-to-point with rank 0 for ");
    must_say("rank 0 has not sent message #1 to rank 2\n");
    must_say("  >    0 ");
    expect_ras(&crew, 0, "", 0); /* that one waits for nobody */
    crew_say(&crew, 0, "send 2");
    crew_expect_result(&crew, 0, THRUM_OK, NULL);
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    end(&crew);
}

static void failures_are_told(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, NULL);
    crew_kill(&crew, 1, SIGKILL);
    expect_ras(&crew, 0, "", 1);
    must_say("comm0, 3 ranks on 1 host: failed, THRUM_ERR_PEER_DEAD: comm0: rank 1 has died");
    crew_say(&crew, 0, "end");
    crew_say(&crew, 2, "end");
    crew_expect(&crew, 0, "closed");
    crew_expect(&crew, 2, "closed");
    crew_finish(&crew);
}

static void who_does_not_want_is_not_asked(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 2, "THRUM_RAS=0");
    expect_ras(&crew, 0, "", 3);
    must_say("has no communicators here");
    end(&crew);
}

/* Of a process's socket. */
static int name_of(pid_t pid, char *text, size_t bytes)
{
    struct stat space;

    assert_int_equal(stat("/proc/self/ns/pid", &space), 0);
    return snprintf(text, bytes, "thrum-ras-%d-%llu", (int)pid, (unsigned long long)space.st_ino);
}

/* A connection to a process's socket, by this user or by nobody; -1: it cannot be made. */
static int knock(pid_t pid)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int n = name_of(pid, name.sun_path + 1, sizeof name.sun_path - 1);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&name,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)),
                     0);
    return fd;
}

/* What comes from it until its end. */
static size_t read_all(int fd)
{
    size_t bytes = 0;
    ssize_t n;

    while ((n = read(fd, said, sizeof said)) > 0)
        bytes += (size_t)n;
    return bytes;
}

static void other_users_hear_nothing(void **state)
{
    struct crew crew;
    int status, fd;
    pid_t pid;

    (void)state;
    if (geteuid())
        skip();
    start(&crew, 2, NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        if (setgid(65534) || setuid(65534))
            _exit(2);
        _exit(read_all(knock(crew.pids[0])) ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    fd = knock(crew.pids[0]);
    assert_true(read_all(fd) > 0); /* root does */
    close(fd);
    end(&crew);
}

/* Who connects and says or reads nothing holds up neither the job nor those who ask after him. */
static void callers_cannot_hold_it_up(void **state)
{
    enum { CALLERS = 6 };
    int callers[CALLERS];
    struct crew crew;

    (void)state;
    start(&crew, 2, NULL);
    for (int i = 0; i < CALLERS; i++)
        callers[i] = knock(crew.pids[0]);
    crew_say_all(&crew, "sum");
    crew_expect_result(&crew, 0, THRUM_OK, NULL);
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    expect_ras(&crew, 0, "", 0);
    must_say("idle, 3 operations so far");
    end(&crew); /* with connections open */
    for (int i = 0; i < CALLERS; i++)
        close(callers[i]);
}

/* As from a host into a container that shares its network, or the other way round: numbers of processes are others there. */
static void other_pid_namespaces_are_asked(void **state)
{
    struct crew crew;
    char line[128];

    (void)state;
    if (geteuid() || system("unshare --pid --fork true 2>/dev/null") != 0)
        skip();
    start(&crew, 2, NULL);
    crew_say(&crew, 0, "sum");
    from = "unshare --pid --fork ";
    expect_ras(&crew, 0, "", 1);
    from = "";
    snprintf(line, sizeof line, "%7d            2  has not called it\n", (int)crew.pids[1]);
    must_say(line);
    crew_say(&crew, 1, "sum");
    crew_expect_result(&crew, 0, THRUM_OK, NULL);
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    end(&crew);
}

/* A loader of data, say, that outlives its parent, does not keep its place. */
static void forks_do_not_stand_for_their_parents(void **state)
{
    struct crew crew;
    int forked;
    pid_t gone;

    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1),
                     0); /* it is this process that sees its end */
    start(&crew, 2, NULL);
    crew_say(&crew, 0, "fork");
    forked = atoi(crew_expect(&crew, 0, "forked ") + strlen("forked "));
    assert_true(forked > 0);
    gone = crew.pids[0];
    end(&crew);
    crew.pids[0] = gone;
    assert_int_equal(kill(forked, 0), 0); /* it is there */
    expect_ras(&crew, 0, "", 3);
    assert_int_equal(kill(forked, SIGKILL), 0);
    assert_int_equal(waitpid(forked, NULL, 0), forked);
}

static void who_does_not_signal_is_named(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, NULL);
    crew_say(&crew, 1, "wait 2");
    expect_ras(&crew, 1, "", 1);
    must_say("in wait for 1 signal of rank 2 for ");
    must_say("  >    2 ");
    crew_say(&crew, 2, "signal 1");
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    end(&crew);
}

/* Who has done its part and left holds up nobody. */
static void who_has_left_after_the_call_is_not_named(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, NULL);
    crew_say(&crew, 1, "reduce 0");
    crew_expect_result(&crew, 1, THRUM_OK, NULL);
    crew_say(&crew, 1, "end");
    crew_expect(&crew, 1, "closed");
    crew_say(&crew, 0, "reduce 0");
    expect_ras(&crew, 0, "", 1);
    must_say("  >    2 ");
    must_say("has not called it");
    assert_false(says("  >    1 "));
    crew_say(&crew, 2, "reduce 0");
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    crew_expect_result(&crew, 0, THRUM_OK, NULL);
    for (int r = 0; r < 3; r += 2) {
        crew_say(&crew, r, "end");
        crew_expect(&crew, r, "closed");
    }
    crew_finish(&crew);
}

static void names_that_are_no_text_are_told(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "named", 1, NULL);
    crew_expect_all(&crew, "joined");
    expect_ras(&crew, 0, "", 0);
    must_say("a name of forty-six characters, and one more: ");
    end(&crew);
}

/* A caller who cannot be let in does not keep the thread busy, and is let in later. */
static void no_descriptor_is_free(void **state)
{
    struct crew crew;
    int caller;

    (void)state;
    start(&crew, 2, NULL);
    crew_say(&crew, 0, "use up");
    crew_expect(&crew, 0, "used up");
    caller = knock(crew.pids[0]);
    crew_say(&crew, 0, "spend");
    assert_true(atoi(crew_expect(&crew, 0, "spent ") + strlen("spent ")) < 100);
    close(caller);
    end(&crew);
}

/* Callers who give up stay in the queue of a process that is stopped, until it is full. */
static void stopped_for_many_callers(void **state)
{
    enum { CALLERS = 9 };
    int callers[CALLERS];
    struct crew crew;

    (void)state;
    start(&crew, 1, NULL);
    crew_kill(&crew, 0, SIGSTOP);
    for (int i = 0; i < CALLERS; i++)
        callers[i] = knock(crew.pids[0]);
    for (int i = 0; i < 3; i++) {
        expect_ras(&crew, 0, "", 1);
        must_say("gives no answer: stopped by a signal");
    }
    assert_int_equal(kill(crew.pids[0], SIGCONT), 0);
    for (int i = 0; i < CALLERS; i++)
        close(callers[i]);
    end(&crew);
}

/* Who has given up is not answered before those who wait. While a rank is stopped each answer takes a quarter of a second. */
static void callers_that_are_gone_cost_nothing(void **state)
{
    struct crew crew;
    int64_t begin;

    (void)state;
    start(&crew, 2, NULL);
    crew_kill(&crew, 1, SIGSTOP);
    crew_kill(&crew, 0, SIGSTOP);
    for (int i = 0; i < 8; i++)
        close(knock(crew.pids[0]));
    assert_int_equal(kill(crew.pids[0], SIGCONT), 0);
    begin = clock_ms();
    expect_ras(&crew, 0, "", 0);
    assert_true(clock_ms() - begin < 1500);
    assert_int_equal(kill(crew.pids[1], SIGCONT), 0);
    end(&crew);
}

/* A process that answers the first caller so, and ends. */
static pid_t answer_once(const char *answer)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int ready[2], door, caller, n;
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        door = socket(AF_UNIX, SOCK_STREAM, 0);
        n = name_of(getpid(), name.sun_path + 1, sizeof name.sun_path - 1);
        if (bind(door, (const struct sockaddr *)&name,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ||
            listen(door, 8) || write(ready[1], "r", 1) != 1)
            _exit(1);
        caller = accept(door, NULL, NULL);
        close(door);
        _exit(send(caller, answer, strlen(answer), MSG_NOSIGNAL) < 0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static int ras_of(pid_t pid)
{
    char arguments[64];
    int status;

    snprintf(arguments, sizeof arguments, "--pid %d", (int)pid);
    status = ras(arguments);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return status;
}

/* Names are not to do anything to a terminal. */
static void control_characters_are_not_shown(void **state)
{
    (void)state;
    assert_int_equal(
        ras_of(answer_once("{\"communicators\":[{\"id\":\"1\",\"name\":\"a\\u001b[2J\\nb\\u009bc\","
                           "\"size\":1,\"status\":\"THRUM_OK\"}]}")),
        0);
    must_say("a?[2J?b?c, 1 rank: idle");
}

/* Ranks of one process number theirs apart: it has the name that it has at its lowest rank. */
static void the_lowest_rank_names_it(void **state)
{
    (void)state;
    assert_int_equal(ras_of(answer_once("{\"communicators\":["
                                        "{\"id\":\"1\",\"name\":\"comm1\",\"rank\":1,\"size\":2,"
                                        "\"status\":\"THRUM_OK\",\"pending\":{\"seconds\":0.5}},"
                                        "{\"id\":\"1\",\"name\":\"comm0\",\"rank\":0,\"size\":2,"
                                        "\"status\":\"THRUM_OK\"}]}")),
                     0);
    must_say("comm0, 2 ranks: at work");
}

/* It is not asked any more, and so nothing is wrong with it. */
static void who_ends_while_it_is_asked_is_left_out(void **state)
{
    (void)state;
    assert_int_equal(ras_of(answer_once("")), 3);
    must_say("has no communicators here");
    assert_int_equal(ras_of(answer_once("{\"communicators\":[")), 3);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    assert_int_equal(ras("--limit x"), 2);
    must_say("--limit x: a number of seconds is wanted");
    assert_int_equal(ras("--pid 0"), 2);
    must_say("--pid 0: the number of a process is wanted");
    assert_int_equal(ras("more"), 2);
    must_say("more: not an option");
    assert_int_equal(ras("--help"), 0);
    must_say("Usage: thrum-ras");
    assert_int_equal(ras("--version"), 0);
    must_say("thrum-ras ");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(idle_jobs_are_told, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(who_has_not_called_is_named, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(who_is_stopped_is_named, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(who_does_not_send_is_named, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(failures_are_told, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(who_does_not_want_is_not_asked, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(other_users_hear_nothing, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(callers_cannot_hold_it_up, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(other_pid_namespaces_are_asked, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(forks_do_not_stand_for_their_parents, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(who_does_not_signal_is_named, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(who_has_left_after_the_call_is_not_named, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(names_that_are_no_text_are_told, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(no_descriptor_is_free, leftovers_before, leftovers_after),
        cmocka_unit_test_setup_teardown(stopped_for_many_callers, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(callers_that_are_gone_cost_nothing, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(control_characters_are_not_shown, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(the_lowest_rank_names_it, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test_setup_teardown(who_ends_while_it_is_asked_is_left_out, leftovers_before,
                                        leftovers_after),
        cmocka_unit_test(bad_options_are_named),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
