/*
 * thrum_comm_shrink_to_survivors: ranks die, stop and come late, and nobody says who; those that are left get one and the same
 * communicator, and who is left out is told so.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const with_access[] = {"THRUM_PEER_ACCESS=auto", NULL};
static const char *const without_access[] = {"THRUM_PEER_ACCESS=none", NULL};
static const char *const short_deadlines[] = {"THRUM_INIT_DEADLINE_MS=4000", NULL};
static const char *const longer_deadlines[] = {"THRUM_INIT_DEADLINE_MS=8000", NULL};

/*
 * Where a rank dies in the midst of a call: at its connect or eventfd of this number, 0: not. A guest connects once to agree, and
 * again to meet; the host makes an eventfd for the service at which they meet. The library calls these.
 */
static _Atomic int connects_left, eventfds_left, signal_at_connect = SIGKILL;

__attribute__((visibility("default"))) int connect(int fd, const struct sockaddr *address,
                                                   socklen_t length)
{
    if (connects_left && !--connects_left)
        raise(signal_at_connect);
    return (int)syscall(SYS_connect, fd, address, length);
}

__attribute__((visibility("default"))) int eventfd(unsigned value, int flags)
{
    if (eventfds_left && !--eventfds_left)
        raise(SIGKILL);
    return (int)syscall(SYS_eventfd2, value, flags);
}

static int place_port; /* of the last that listened: the communicator's place comes last */

__attribute__((visibility("default"))) int listen(int fd, int backlog)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;

    if (!getsockname(fd, (struct sockaddr *)&address, &length) && address.sin_family == AF_INET)
        place_port = ntohs(address.sin_port);
    return (int)syscall(SYS_listen, fd, backlog);
}

/*
 * "shrink", "exclude R": the first communicator; "again": the one made last. "parents": the old numbers of its ranks. "drop": destroys
 * the first one. "fork": a child that does nothing. "die at connect N" and
 * "die at eventfd N", of the next call. "sum": of the one made last; "whole": of the first. Until "end".
 */
static void survivor(struct child *child)
{
    thrum_comm_t made = NULL;
    const char *line;

    child_join(child);
    say("joined");
    while (strcmp(line = hear(), "end")) {
        thrum_comm_t from = strcmp(line, "again") && strcmp(line, "passing") ? child->comm : made,
                     next = NULL;
        int n = 0, rank = 0;

        if (!strcmp(line, "sum") || !strcmp(line, "whole")) {
            thrum_comm_t comm = strcmp(line, "sum") ? child->comm : made;
            bool right = false;
            thrum_status_t status = child_sum(child, comm, 1000, &right);

            MUST(thrum_comm_size(comm, &n));
            if (status)
                say_result(status);
            else
                say(right ? "right %d" : "wrong %d", n);
        } else if (!strcmp(line, "parents")) {
            char text[80] = "parents";

            MUST(thrum_comm_size(made, &n));
            for (int r = 0; r < n; r++) {
                size_t used = strlen(text);

                MUST(thrum_comm_parent_rank(made, r, &rank));
                snprintf(text + used, sizeof text - used, " %d", rank);
            }
            say("%s", text);
        } else if (!strcmp(line, "culprit")) {
            MUST(thrum_comm_culprit(child->comm, &rank));
            say("culprit %d", rank);
        } else if (!strcmp(line, "abort")) {
            say_result(thrum_comm_abort(child->comm));
        } else if (!strcmp(line, "fork")) {
            pid_t pid = fork();

            while (!pid)
                pause();
            say("forked %d", (int)pid);
        } else if (!strcmp(line, "port")) {
            say("port %d", place_port);
        } else if (sscanf(line, "die at connect %d", &n) == 1) {
            connects_left = n;
        } else if (sscanf(line, "stop at connect %d", &n) == 1) {
            signal_at_connect = SIGSTOP;
            connects_left = n;
        } else if (sscanf(line, "die at eventfd %d", &n) == 1) {
            eventfds_left = n;
        } else if (!strcmp(line, "drop")) {
            thrum_comm_destroy(child->comm);
            child->comm = NULL;
            say("dropped");
        } else {
            struct thrum_comm_config config = {.size = sizeof config};
            thrum_status_t status;

            if (sscanf(line, "least %d", &n) == 1)
                config.survivors_least = n;
            say("calling");
            status = sscanf(line, "exclude %d", &rank) == 1
                         ? thrum_comm_shrink(from, &rank, 1, NULL, &next)
                         : thrum_comm_shrink_to_survivors(
                               from, config.survivors_least ? &config : NULL, &next);
            if (!status && !strcmp(line, "passing")) {
                thrum_comm_destroy(next);
            } else if (!status) {
                thrum_comm_destroy(made);
                made = next;
            }
            say_result(status);
        }
    }
    thrum_comm_destroy(made);
    child_close(child);
}

static const struct role roles[] = {{"survivor", survivor}};

static void start(struct crew *crew, int n, const char *const *env)
{
    crew_start(crew, "survivor", n, env);
    crew_expect_all(crew, "joined");
}

static void pause_ms(int ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    nanosleep(&pause, NULL);
}

static void call(struct crew *crew, int rank, const char *what)
{
    crew_say(crew, rank, what);
    crew_expect(crew, rank, "calling");
}

static void call_all(struct crew *crew, int but, const char *what)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r] && r != but)
            call(crew, r, what);
}

/* All that live, but for `but`, have a communicator that works, of the old ranks `parents`. */
static void expect_made(struct crew *crew, int but, const char *parents)
{
    char right[32], text[80];
    int n = 0;

    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r] && r != but) {
            crew_expect_result(crew, r, THRUM_OK, NULL);
            n++;
        }
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r] && r != but)
            crew_say(crew, r, "sum");
    snprintf(right, sizeof right, "right %d", n);
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r] && r != but) {
            crew_expect(crew, r, right);
            crew_say(crew, r, "parents");
            snprintf(text, sizeof text, "%s", crew_expect(crew, r, "parents"));
            assert_string_equal(text, parents);
        }
}

static void end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_finish(crew);
}

/* Fast, since the dead refuse connections: far from any deadline. */
static void without(int n, const int *dead, int ndead, const char *const *env, const char *parents)
{
    struct crew crew;
    int64_t begin;

    start(&crew, n, env);
    for (int i = 0; i < ndead; i++)
        assert_int_equal(kill(crew.pids[dead[i]], SIGKILL), 0);
    for (int i = 0; i < ndead; i++)
        crew_kill(&crew, dead[i], SIGKILL);
    begin = clock_ms();
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, parents);
    assert_true(clock_ms() - begin < 30000);
    end(&crew);
}

static void nobody_is_dead(void **state)
{
    (void)state;
    without(3, NULL, 0, with_access, "parents 0 1 2");
}

static void two_of_four(void **state)
{
    (void)state;
    without(4, (int[]){1, 3}, 2, with_access, "parents 0 2");
}

static void the_first_two(void **state)
{
    (void)state;
    without(4, (int[]){0, 1}, 2, without_access, "parents 2 3");
}

static void all_but_one(void **state)
{
    (void)state;
    without(4, (int[]){0, 1, 3}, 3, with_access, "parents 2");
}

/* As with a host: half of the ranks, and the first. */
static void half_of_eight(void **state)
{
    (void)state;
    without(8, (int[]){0, 1, 2, 3}, 4, with_access, "parents 4 5 6 7");
}

/* The larger part of a cut network may go on, the smaller may not, and neither if they are equal. */
static void too_few_are_left(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 5, with_access);
    for (int r = 0; r < 4; r += r ? 2 : 1) { /* 0, 1, 3 */
        assert_int_equal(kill(crew.pids[r], SIGKILL), 0);
        crew_kill(&crew, r, SIGKILL);
    }
    for (int i = 0; i < 2; i++) {
        call_all(&crew, -1, "least 3");
        for (int r = 2; r < 5; r += 2)
            crew_expect_result(&crew, r, THRUM_ERR_UNREACHABLE, "left of 5 ranks: ranks 2, 4;",
                               "survivors_least is 3", NULL);
    }
    call_all(&crew, -1, "least 6");
    for (int r = 2; r < 5; r += 2)
        crew_expect_result(&crew, r, THRUM_ERR_INVALID_ARGUMENT, "survivors_least=6", NULL);
    call_all(&crew, -1, "least 2");
    expect_made(&crew, -1, "parents 2 4");
    end(&crew);
}

/* Its child lives on, as those that load data do: that does not make it seem alive. */
static void its_child_lives(void **state)
{
    struct crew crew;
    int64_t begin;
    int child = 0;

    (void)state;
    start(&crew, 3, with_access);
    crew_say(&crew, 0, "fork");
    assert_int_equal(sscanf(crew_expect(&crew, 0, "forked"), "forked %d", &child), 1);
    crew_kill(&crew, 0, SIGKILL);
    begin = clock_ms();
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, "parents 1 2");
    assert_true(clock_ms() - begin < 30000);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    end(&crew);
}

/* Somebody who is no rank, and knows no secret, answers all that connect to the port; from a process of its own. */
static pid_t start_stranger(int port)
{
    static const char words[] =
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
        "There is nothing here for you, whoever you are, and never was.\r\n";
    const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    pid_t pid;

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(listen(fd, 64), 0);
    pid = fork();
    while (!pid) {
        char said[256];
        int conn = accept(fd, NULL, NULL);

        if (conn < 0)
            _exit(1);
        (void)!read(conn, said, sizeof said);
        (void)!write(conn, words, sizeof words);
        close(conn);
    }
    close(fd);
    return pid;
}

/* Its port is another program's by now: that is not taken for it. */
static void its_port_is_a_strangers(void **state)
{
    struct crew crew;
    pid_t stranger;
    int port = 0;

    (void)state;
    start(&crew, 3, short_deadlines);
    crew_say(&crew, 1, "port");
    assert_int_equal(sscanf(crew_expect(&crew, 1, "port"), "port %d", &port), 1);
    crew_kill(&crew, 1, SIGKILL);
    stranger = start_stranger(port);
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, "parents 0 2");
    assert_int_equal(kill(stranger, SIGKILL), 0);
    assert_int_equal(waitpid(stranger, NULL, 0), stranger);
    end(&crew);
}

/* While the others wait for it, at its place or another one's. */
static void dies_before_it_comes(int victim, const char *parents)
{
    struct crew crew;

    start(&crew, 4, with_access);
    call_all(&crew, victim, "shrink");
    crew_kill(&crew, victim, SIGKILL);
    expect_made(&crew, -1, parents);
    end(&crew);
}

static void one_dies_before_it_comes(void **state)
{
    (void)state;
    dies_before_it_comes(2, "parents 0 1 3");
}

static void the_first_dies_before_it_comes(void **state)
{
    (void)state;
    dies_before_it_comes(0, "parents 1 2 3");
}

/* It waits with the others for the last one, and dies. */
static void dies_while_it_waits(int victim, const char *parents)
{
    struct crew crew;

    start(&crew, 4, with_access);
    call_all(&crew, 3, "shrink");
    pause_ms(300);
    crew_kill(&crew, victim, SIGKILL);
    call(&crew, 3, "shrink");
    expect_made(&crew, -1, parents);
    end(&crew);
}

static void a_guest_dies(void **state)
{
    (void)state;
    dies_while_it_waits(1, "parents 0 2 3");
}

static void the_host_dies(void **state)
{
    (void)state;
    dies_while_it_waits(0, "parents 1 2 3");
}

/* When they have agreed who lives, and it among them, but have not met yet: they agree once more, without it. */
static void dies_in_between(int victim, const char *how, const char *parents)
{
    struct crew crew;

    start(&crew, 4, with_access);
    crew_say(&crew, victim, how);
    call_all(&crew, -1, "shrink");
    crew_wait(&crew, victim);
    expect_made(&crew, -1, parents);
    end(&crew);
}

static void a_guest_dies_in_between(void **state)
{
    (void)state;
    dies_in_between(1, "die at connect 2", "parents 0 2 3");
}

static void the_host_dies_in_between(void **state)
{
    (void)state;
    dies_in_between(0, "die at eventfd 1", "parents 1 2 3");
}

/* The same, and another one was stopped in between: when it goes on, the host asks who lives once more, and waits for it. */
static void a_guest_is_slow_in_between(void **state)
{
    struct crew crew;
    int status;

    (void)state;
    start(&crew, 4, with_access);
    crew_say(&crew, 1, "die at connect 2");
    crew_say(&crew, 3, "stop at connect 2");
    call_all(&crew, -1, "shrink");
    crew_wait(&crew, 1);
    assert_int_equal(waitpid(crew.pids[3], &status, WUNTRACED), crew.pids[3]);
    assert_true(WIFSTOPPED(status));
    pause_ms(1500);
    crew_kill(&crew, 3, SIGCONT);
    expect_made(&crew, -1, "parents 0 2 3");
    end(&crew);
}

/* It comes back at once, and not only when it would be passed over. */
static void a_guest_is_a_bit_slow(void **state)
{
    struct crew crew;
    int64_t begin;
    int status;

    (void)state;
    start(&crew, 4, with_access);
    crew_say(&crew, 1, "die at connect 2");
    crew_say(&crew, 3, "stop at connect 2");
    call_all(&crew, -1, "shrink");
    crew_wait(&crew, 1);
    assert_int_equal(waitpid(crew.pids[3], &status, WUNTRACED), crew.pids[3]);
    pause_ms(500);
    begin = clock_ms();
    crew_kill(&crew, 3, SIGCONT);
    expect_made(&crew, -1, "parents 0 2 3");
    assert_true(clock_ms() - begin < 1500);
    end(&crew);
}

/* So slow that the others have gone on without it. */
static void a_guest_is_too_slow_in_between(void **state)
{
    struct crew crew;
    int status;

    (void)state;
    start(&crew, 4, longer_deadlines);
    crew_say(&crew, 1, "die at connect 2");
    crew_say(&crew, 3, "stop at connect 2");
    call_all(&crew, -1, "shrink");
    crew_wait(&crew, 1);
    assert_int_equal(waitpid(crew.pids[3], &status, WUNTRACED), crew.pids[3]);
    expect_made(&crew, 3, "parents 0 2");
    crew_kill(&crew, 3, SIGCONT);
    crew_expect_result(&crew, 3, THRUM_ERR_ABORTED, "ranks 0, 2 have gone on", NULL);
    end(&crew);
}

/* A list, of a communicator that has a notice at the place of its first rank, which comes last. */
static void a_list_after_a_notice(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, "parents 0 1 2");
    call(&crew, 1, "exclude 2");
    pause_ms(3500);
    call(&crew, 0, "exclude 2");
    expect_made(&crew, 2, "parents 0 1");
    end(&crew);
}

/*
 * In the midst of it, at a moment that nobody chooses: it may be in the new communicator, which fails then, and is shrunk again.
 * Where it died in the very moment of completion, some have the new one, and the others an error: they are through.
 */
static void dies_at_some_moment(int victim, int microseconds)
{
    const struct timespec pause = {.tv_nsec = microseconds * 1000L};
    bool made[4] = {false}, some = false, all = true;
    struct crew crew;

    start(&crew, 4, short_deadlines);
    call_all(&crew, -1, "shrink");
    nanosleep(&pause, NULL);
    crew_kill(&crew, victim, SIGKILL);
    for (int r = 0; r < 4; r++)
        if (r != victim) {
            const char *line = crew_hear(&crew, r, 60000);

            made[r] = !strncmp(line, "result THRUM_OK", 15);
            if (!made[r] && strncmp(line, "result THRUM_ERR_ABORTED", 24) &&
                strncmp(line, "result THRUM_ERR_PEER_DEAD", 26))
                fail_msg("rank %d: \"%s\"", r, line);
            some |= made[r];
            all &= made[r];
        }
    assert_true(some);
    for (int r = 0; r < 4; r++)
        if (r != victim && !made[r]) {
            crew_say(&crew, r, "end");
            crew_wait(&crew, r);
        }
    for (int r = 0; r < 4; r++)
        if (r != victim && made[r])
            call(&crew, r, "again");
    for (int r = 0; r < 4; r++)
        if (r != victim && made[r])
            crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say_all(&crew, "sum");
    crew_expect_all(&crew, all ? "right 3" : "right");
    end(&crew);
}

static void at_some_moment(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++)
        dies_at_some_moment(i % 4, i * 1500);
}

/* Stopped while the others go on without it; when it goes on it learns that. Their old communicator may be gone by then. */
static void comes_back(int victim, bool drops, const char *parents, const char *others)
{
    struct crew crew;

    start(&crew, 4, short_deadlines);
    crew_kill(&crew, victim, SIGSTOP);
    crew_say(&crew, victim, "shrink");
    call_all(&crew, victim, "shrink");
    expect_made(&crew, victim, parents);
    for (int r = 0; r < 4 && drops; r++)
        if (r != victim) {
            crew_say(&crew, r, "drop");
            crew_expect(&crew, r, "dropped");
        }
    crew_kill(&crew, victim, SIGCONT);
    crew_expect(&crew, victim, "calling");
    crew_expect_result(&crew, victim, THRUM_ERR_ABORTED, "left out", others, NULL);
    /* and the others are as they were */
    for (int r = 0; r < 4; r++)
        if (r != victim)
            crew_say(&crew, r, "sum");
    for (int r = 0; r < 4; r++)
        if (r != victim)
            crew_expect(&crew, r, "right 3");
    end(&crew);
}

static void one_comes_back(void **state)
{
    (void)state;
    comes_back(3, false, "parents 0 1 2", "ranks 0-2 have gone on");
}

static void the_first_comes_back(void **state)
{
    (void)state;
    comes_back(0, true, "parents 1 2 3", "ranks 1-3 have gone on");
}

/* It was the last that the others waited for: they have not decided, so it is among them. */
static void comes_back_in_time(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, with_access);
    crew_kill(&crew, 0, SIGSTOP);
    crew_say(&crew, 0, "shrink");
    call_all(&crew, 0, "shrink");
    pause_ms(300);
    crew_kill(&crew, 0, SIGCONT);
    crew_expect(&crew, 0, "calling");
    expect_made(&crew, -1, "parents 0 1 2 3");
    end(&crew);
}

/* The first two are stopped, one after the other is passed over; those left get together though each has looked by itself. */
static void two_are_stopped(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, short_deadlines);
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGSTOP);
    call(&crew, 3, "shrink");
    pause_ms(1000);
    call(&crew, 2, "shrink");
    for (int r = 2; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    for (int r = 2; r < 4; r++)
        crew_say(&crew, r, "sum");
    for (int r = 2; r < 4; r++)
        crew_expect(&crew, r, "right 2");
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGCONT);
    end(&crew);
}

/* The last comes late. The others have not passed the first two over for it, and have it not wait as long once more. */
static void one_clock_for_all(void **state)
{
    struct crew crew;
    int64_t begin;

    (void)state;
    start(&crew, 4, longer_deadlines);
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGSTOP);
    begin = clock_ms();
    call(&crew, 2, "shrink");
    pause_ms(3500);
    call(&crew, 3, "shrink");
    for (int r = 2; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    assert_in_range(clock_ms() - begin, 4000, 6800);
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGCONT);
    end(&crew);
}

/*
 * Rank 0 is passed over, and rank 1 is the host, and waits for rank 3 whether it answers. Now rank 0 goes on: nobody has decided, so
 * all go to it.
 */
static void the_first_comes_back_in_time(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, longer_deadlines);
    crew_kill(&crew, 0, SIGSTOP);
    crew_kill(&crew, 3, SIGSTOP);
    crew_say(&crew, 0, "shrink");
    crew_say(&crew, 3, "shrink");
    call(&crew, 1, "shrink");
    call(&crew, 2, "shrink");
    pause_ms(4400);
    crew_kill(&crew, 0, SIGCONT);
    crew_expect(&crew, 0, "calling");
    expect_made(&crew, 3, "parents 0 1 2");
    crew_kill(&crew, 3, SIGCONT);
    crew_expect(&crew, 3, "calling");
    crew_expect_result(&crew, 3, THRUM_ERR_ABORTED, "ranks 0-2 have gone on", NULL);
    end(&crew);
}

/* On the new one, and on that: late ones of the first have their answer from the last. */
static void again_and_again(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 5, short_deadlines);
    crew_kill(&crew, 4, SIGSTOP);
    crew_say(&crew, 4, "shrink");
    call_all(&crew, 4, "shrink");
    expect_made(&crew, 4, "parents 0 1 2 3");
    for (int r = 0; r < 4; r++) {
        crew_say(&crew, r, "drop");
        crew_expect(&crew, r, "dropped");
    }
    crew_kill(&crew, 0, SIGKILL);
    call_all(&crew, 4, "again");
    expect_made(&crew, 4, "parents 1 2 3");
    crew_kill(&crew, 2, SIGKILL);
    call_all(&crew, 4, "again");
    expect_made(&crew, 4, "parents 0 2");
    crew_kill(&crew, 4, SIGCONT);
    crew_expect(&crew, 4, "calling");
    crew_expect_result(&crew, 4, THRUM_ERR_ABORTED, "ranks 0-3 have gone on", NULL);
    end(&crew);
}

/* One more is made of the second, and destroyed, and the second goes on: it still tells who comes late to the first. */
static void a_passing_one(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, short_deadlines);
    crew_kill(&crew, 2, SIGSTOP);
    crew_say(&crew, 2, "shrink");
    call_all(&crew, 2, "shrink");
    expect_made(&crew, 2, "parents 0 1");
    for (int r = 0; r < 2; r++) {
        crew_say(&crew, r, "drop");
        crew_expect(&crew, r, "dropped");
    }
    call_all(&crew, 2, "passing");
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_kill(&crew, 2, SIGCONT);
    crew_expect(&crew, 2, "calling");
    crew_expect_result(&crew, 2, THRUM_ERR_ABORTED, "have gone on", NULL);
    end(&crew);
}

/* Of one communicator, which goes on; who calls early waits for the others. What the last call says to latecomers holds. */
static void twice_of_one(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, short_deadlines);
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, "parents 0 1 2");
    call(&crew, 2, "shrink");
    pause_ms(500);
    call(&crew, 1, "shrink");
    call(&crew, 0, "shrink");
    expect_made(&crew, -1, "parents 0 1 2");
    crew_say_all(&crew, "whole");
    crew_expect_all(&crew, "right 3");
    crew_kill(&crew, 1, SIGSTOP);
    crew_say(&crew, 1, "shrink");
    call_all(&crew, 1, "shrink");
    expect_made(&crew, 1, "parents 0 2");
    for (int r = 0; r < 3; r += 2) {
        crew_say(&crew, r, "drop");
        crew_expect(&crew, r, "dropped");
    }
    crew_kill(&crew, 1, SIGCONT);
    crew_expect(&crew, 1, "calling");
    crew_expect_result(&crew, 1, THRUM_ERR_ABORTED, "ranks 0, 2 have gone on", NULL);
    end(&crew);
}

/* Each has heard of another culprit first: rank 2 of itself, the others of rank 0; and rank 1 is dead, too. */
static void culprits_differ(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 5, with_access);
    crew_kill(&crew, 0, SIGSTOP);
    crew_say(&crew, 2, "abort");
    crew_expect_result(&crew, 2, THRUM_OK, NULL);
    crew_kill(&crew, 0, SIGKILL);
    crew_kill(&crew, 1, SIGKILL);
    for (int r = 3; r < 5; r++) {
        crew_say(&crew, r, "whole");
        crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, NULL);
    }
    for (int r = 2; r < 5; r++)
        crew_say(&crew, r, "culprit");
    crew_expect(&crew, 2, "culprit 2");
    crew_expect(&crew, 3, "culprit 0");
    crew_expect(&crew, 4, "culprit 0");
    call_all(&crew, -1, "shrink");
    expect_made(&crew, -1, "parents 2 3 4");
    end(&crew);
}

/* One after the other, the host last. */
static void at_different_times(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, with_access);
    crew_kill(&crew, 0, SIGKILL);
    for (int r = 3; r > 0; r--) {
        call(&crew, r, "shrink");
        pause_ms(1000);
    }
    expect_made(&crew, -1, "parents 1 2 3");
    end(&crew);
}

/* Who has destroyed the communicator does not come. */
static void one_has_left(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 3, with_access);
    crew_say(&crew, 0, "drop");
    crew_expect(&crew, 0, "dropped");
    call_all(&crew, 0, "shrink");
    expect_made(&crew, 0, "parents 1 2");
    end(&crew);
}

/* thrum_comm_shrink with a list: one that is not on it dies before it comes, and is not waited for. */
static void another_dies(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, with_access);
    crew_kill(&crew, 3, SIGKILL);
    call(&crew, 0, "exclude 3");
    call(&crew, 1, "exclude 3");
    crew_kill(&crew, 2, SIGKILL);
    for (int r = 0; r < 2; r++)
        crew_expect_result(&crew, r, THRUM_ERR_PEER_DEAD, "rank 2 did not join", NULL);
    call(&crew, 0, "shrink");
    call(&crew, 1, "shrink");
    expect_made(&crew, -1, "parents 0 1");
    end(&crew);
}

/* The same, and they were to meet at its place. */
static void where_they_meet_dies(void **state)
{
    struct crew crew;

    (void)state;
    start(&crew, 4, with_access);
    crew_kill(&crew, 3, SIGKILL);
    call(&crew, 1, "exclude 3");
    call(&crew, 2, "exclude 3");
    crew_kill(&crew, 0, SIGKILL);
    for (int r = 1; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_ERR_UNREACHABLE, "the ranks meet at rank 0", NULL);
    end(&crew);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)
    const struct CMUnitTest tests[] = {TEST(nobody_is_dead),
                                       TEST(two_of_four),
                                       TEST(the_first_two),
                                       TEST(all_but_one),
                                       TEST(half_of_eight),
                                       TEST(too_few_are_left),
                                       TEST(its_child_lives),
                                       TEST(its_port_is_a_strangers),
                                       TEST(one_dies_before_it_comes),
                                       TEST(the_first_dies_before_it_comes),
                                       TEST(a_guest_dies),
                                       TEST(the_host_dies),
                                       TEST(a_guest_dies_in_between),
                                       TEST(the_host_dies_in_between),
                                       TEST(a_guest_is_slow_in_between),
                                       TEST(a_guest_is_a_bit_slow),
                                       TEST(a_guest_is_too_slow_in_between),
                                       TEST(a_list_after_a_notice),
                                       TEST(at_some_moment),
                                       TEST(one_comes_back),
                                       TEST(the_first_comes_back),
                                       TEST(comes_back_in_time),
                                       TEST(two_are_stopped),
                                       TEST(one_clock_for_all),
                                       TEST(the_first_comes_back_in_time),
                                       TEST(again_and_again),
                                       TEST(a_passing_one),
                                       TEST(twice_of_one),
                                       TEST(culprits_differ),
                                       TEST(at_different_times),
                                       TEST(one_has_left),
                                       TEST(another_dies),
                                       TEST(where_they_meet_dies)};

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    if (argc > 1) /* only those */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
