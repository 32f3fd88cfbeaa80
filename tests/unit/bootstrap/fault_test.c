/* Joining when something is wrong: strangers, wrong secrets, ranks that are missing, doubled, dead, stopped. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/config.h"
#include "bootstrap/internal.h"
#include "world.h"

static int64_t join_ms; /* deadline of the ranks in the test that runs */

static thrum_status_t join(struct world *world, int rank, struct bootstrap **b)
{
    struct thrum_unique_id id = world_id(world, rank);

    atomic_fetch_add(&world->counter, 1);
    return bootstrap_join(&id, rank, world->nranks, join_ms, b);
}

/* Rank 0 serves the id, so it stays until `others` ranks know what has become of them. */
static void stay(struct world *world, int rank, int others)
{
    atomic_store(&world->ranks[rank].stage, 1);
    atomic_fetch_add(&world->noted, 1);
    if (!rank)
        world_await(&world->noted, 1 + others);
}

/* Joins, and notes what comes of it. */
static void join_and_note(struct world *world, int rank)
{
    int files = world_open_files(), threads = world_threads();
    struct bootstrap *b = NULL;

    world_note(world, rank, join(world, rank, &b));
    bootstrap_close(b);
    stay(world, rank, atomic_load(&world->stay_for));
    WORLD_CHECK(world_settles(files, threads + (rank == 0)));
}

static void expect_all_but(struct world *world, const int *except, thrum_status_t status,
                           const char *text)
{
    for (int r = 0; r < world->nranks; r++) {
        bool skip = false;

        for (const int *e = except; *e >= 0; e++)
            skip |= *e == r;
        if (skip)
            continue;
        if (world->ranks[r].status != status || !strstr(world->ranks[r].message, text))
            fail_msg("rank %d has %s: %s; expected %s: %s", r,
                     thrum_status_name(world->ranks[r].status), world->ranks[r].message,
                     thrum_status_name(status), text);
    }
}

/* ---- missing, late ---- */

static void some_do_not_come(struct world *world, int rank)
{
    if (rank == 3 || (rank >= 5 && rank <= 7))
        return;
    join_and_note(world, rank);
}

static void missing_ranks_are_named(void **state)
{
    static const int missing[] = {3, 5, 6, 7, -1};
    struct world *world;

    (void)state;
    join_ms = 1500; /* enough for those that come */
    world = world_start(9, some_do_not_come);
    assert_int_equal(world_wait(world), 0);
    expect_all_but(world, missing, THRUM_ERR_TIMEOUT, "ranks 3, 5-7 did not join");
    world_free(world);
}

static void nobody_serves(void **state)
{
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    (void)state;
    assert_int_equal(bootstrap_id_from("127.0.0.1:9", "secret", 6, &id), THRUM_OK);
    assert_int_equal(bootstrap_join(&id, 1, 2, 200, &b), THRUM_ERR_UNREACHABLE);
    assert_non_null(strstr(thrum_last_error(), "127.0.0.1:9"));
    assert_null(b);
}

static void serves_late(struct world *world, int rank)
{
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;
    char root[40];

    /* a port that another run of this test does not use */
    snprintf(root, sizeof root, "127.0.0.1:%d", 30000 + getppid() % 2000);
    WORLD_CHECK(bootstrap_id_from(root, "secret", 6, &id) == THRUM_OK);
    if (!rank) {
        int64_t until = now_ns() + 300000000;

        world_await(&world->counter, world->nranks - 1);
        while (now_ns() < until) /* the others try in vain for a while */
            world_await(&world->counter, 1);
        WORLD_CHECK(bootstrap_serve(&id) == THRUM_OK);
        WORLD_CHECK(bootstrap_serve(&id) == THRUM_ERR_BUSY);
    }
    atomic_fetch_add(&world->counter, 1);
    WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 20000, &b) == THRUM_OK);
    WORLD_CHECK(bootstrap_barrier(b) == THRUM_OK);
    bootstrap_close(b);
    if (!rank) /* the port is free as soon as all have joined */
        WORLD_CHECK(bootstrap_serve(&id) == THRUM_OK);
}

static void the_root_may_come_late(void **state)
{
    (void)state;
    assert_int_equal(world_run(5, serves_late), 0);
}

/* ---- ranks that contradict ---- */

static void two_are_rank_2(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;

    /* rank 4 claims to be 2; the real 4 is missing, so that nobody is through before */
    world_note(world, rank, bootstrap_join(&id, rank == 4 ? 2 : rank, 5, 20000, &b));
    bootstrap_close(b);
    stay(world, rank, 4);
}

static void both_claimants_of_a_rank_are_told(void **state)
{
    struct world *world = world_start(5, two_are_rank_2);

    (void)state;
    assert_int_equal(world_wait(world), 0);
    expect_all_but(world, (int[]){-1}, THRUM_ERR_INVALID_RANK, "rank 2 is claimed twice");
    world_free(world);
}

static void one_says_8(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;

    world_note(world, rank, bootstrap_join(&id, rank, rank == 1 ? 8 : 4, 20000, &b));
    bootstrap_close(b);
    stay(world, rank, 3);
}

static void ranks_that_disagree_about_nranks(void **state)
{
    struct world *world = world_start(4, one_says_8);
    int told = 0;

    (void)state;
    assert_int_equal(world_wait(world), 0);
    for (int r = 0; r < 4; r++) {
        assert_int_equal(world->ranks[r].status, THRUM_ERR_MISMATCH);
        told += strstr(world->ranks[r].message, "8") && strstr(world->ranks[r].message, "4");
    }
    assert_int_equal(told, 4);
    world_free(world);
}

static void bad_arguments(void **state)
{
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    (void)state;
    assert_int_equal(bootstrap_id_from("127.0.0.1:9", "secret", 6, &id), THRUM_OK);
    assert_int_equal(bootstrap_join(&id, 4, 4, 100, &b), THRUM_ERR_INVALID_RANK);
    assert_int_equal(bootstrap_join(&id, -1, 4, 100, &b), THRUM_ERR_INVALID_RANK);
    assert_int_equal(bootstrap_join(&id, 0, 0, 100, &b), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(bootstrap_join(NULL, 0, 1, 100, &b), THRUM_ERR_INVALID_POINTER);
    bootstrap_close(NULL);
}

/* ---- the secret ---- */

static void rank_3_has_another_secret(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;
    struct boot_id inside;

    if (rank == 3) {
        WORLD_CHECK(boot_id_decode(&id, &inside) == THRUM_OK);
        inside.secret[7] ^= 1;
        boot_id_encode(&inside, &id);
    }
    world_note(world, rank, bootstrap_join(&id, rank, world->nranks, 1000, &b));
    bootstrap_close(b);
}

static void a_wrong_secret_keeps_out(void **state)
{
    struct world *world = world_start(6, rank_3_has_another_secret);

    (void)state;
    assert_int_equal(world_wait(world), 0);
    assert_int_equal(world->ranks[3].status, THRUM_ERR_AUTH);
    assert_non_null(strstr(world->ranks[3].message, "secret"));
    expect_all_but(world, (int[]){3, -1}, THRUM_ERR_TIMEOUT, "rank 3 did not join");
    world_free(world);
}

/* ---- deaths ---- */

static void all_but_the_last(struct world *world, int rank)
{
    if (rank == world->nranks - 1)
        world_await(&world->go, 1);
    join_and_note(world, rank);
}

/* Kills a rank while all others wait for the last one. */
static void kill_while_joining(int victim, const char *text)
{
    struct world *world;
    int64_t killed;

    join_ms = 60000;
    world = world_start(11, all_but_the_last);
    atomic_store(&world->stay_for, 9);
    world_await(&world->counter, 10);
    /* Connected to the root service and to their parents: so they are registered. */
    for (int r = 1; r < 10; r++) {
        int ports[20];

        while (world_tcp_ports(world->pids[r], 1, ports, 20) < 2)
            usleep(1000);
    }
    killed = now_ns();
    kill(world->pids[victim], SIGKILL);
    for (int r = 0; r < 10; r++)
        if (r != victim)
            world_await(&world->ranks[r].stage, 1);
    assert_true(now_ns() - killed < 5000000000);
    atomic_store(&world->go, 1);
    if (victim) /* who comes late is told as well */
        world_await(&world->ranks[10].stage, 1);
    else
        kill(world->pids[10], SIGKILL);
    assert_int_equal(world_wait(world), victim ? 1 : 2);
    expect_all_but(world, (int[]){victim, victim ? -1 : 10, -1}, THRUM_ERR_PEER_DEAD, text);
    world_free(world);
}

static void a_death_while_joining_is_told(void **state)
{
    (void)state;
    kill_while_joining(4, "rank 4 ended while the ranks were joining");
    kill_while_joining(0, "the process that serves the id");
}

static void gathers(struct world *world, int rank)
{
    struct bootstrap *b = NULL;
    uint64_t values[WORLD_MAX] = {0};
    thrum_status_t status = join(world, rank, &b);

    WORLD_CHECK(status == THRUM_OK);
    atomic_fetch_add(&world->go, 1);
    if (rank == 5)
        world_await(&world->go, 1000); /* until it is killed or let go */
    world_note(world, rank, bootstrap_allgather(b, values, sizeof values[0]));
    WORLD_CHECK(bootstrap_barrier(b) == world->ranks[rank].status); /* it stays failed */
    bootstrap_close(b);
}

static void a_death_in_allgather_is_told(void **state)
{
    struct world *world;

    (void)state;
    join_ms = 60000;
    world = world_start(12, gathers);
    world_await(&world->go, 12);
    kill(world->pids[5], SIGKILL);
    assert_int_equal(world_wait(world), 1);
    expect_all_but(world, (int[]){5, -1}, THRUM_ERR_PEER_DEAD, "rank 5 ended");
    world_free(world);
}

static void a_stopped_rank_is_named_at_the_deadline(void **state)
{
    struct world *world;

    (void)state;
    join_ms = 2500;
    world = world_start(12, gathers);
    world_await(&world->go, 12);
    kill(world->pids[5], SIGSTOP);
    for (int r = 0; r < 12; r++) {
        int how;

        if (r != 5)
            assert_int_equal(waitpid(world->pids[r], &how, 0), world->pids[r]);
    }
    kill(world->pids[5], SIGKILL);
    waitpid(world->pids[5], NULL, 0);
    expect_all_but(world, (int[]){5, -1}, THRUM_ERR_TIMEOUT, "rank 5 did not answer");
    world_free(world);
}

/* ---- limits ---- */

static struct rlimit usual_limit;

static void restore_limit(void)
{
    WORLD_CHECK(!setrlimit(RLIMIT_NOFILE, &usual_limit));
}

static void lower_limit(int extra)
{
    struct rlimit limit;
    int free_fd = dup(0);

    close(free_fd);
    WORLD_CHECK(!getrlimit(RLIMIT_NOFILE, &usual_limit));
    limit = usual_limit;
    limit.rlim_cur = (rlim_t)(free_fd + extra);
    WORLD_CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
}

static void no_files_left(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;

    (void)thrum_config_load();
    if (rank == 1)
        lower_limit(0);
    world_note(world, rank, bootstrap_join(&id, rank, world->nranks, 800, &b));
    bootstrap_close(b);
    if (rank == 1)
        restore_limit();
}

static void root_has_few_files(struct world *world, int rank)
{
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    (void)thrum_config_load();
    id = world_id(world, rank);
    if (rank == 0)
        lower_limit(5);
    world_note(world, rank, bootstrap_join(&id, rank, world->nranks, 2500, &b));
    bootstrap_close(b);
    if (rank == 0)
        restore_limit();
}

static void out_of_descriptors(void **state)
{
    struct world *world = world_start(3, no_files_left);
    int limit = 0;

    (void)state;
    assert_int_equal(world_wait(world), 0);
    assert_int_equal(world->ranks[1].status, THRUM_ERR_LIMIT);
    assert_non_null(strstr(world->ranks[1].message, "RLIMIT_NOFILE"));
    assert_int_equal(world->ranks[2].status, THRUM_ERR_TIMEOUT);
    world_free(world);

    world = world_start(12, root_has_few_files);
    assert_int_equal(world_wait(world), 0);
    for (int r = 0; r < 12; r++) {
        limit += world->ranks[r].status == THRUM_ERR_LIMIT &&
                 strstr(world->ranks[r].message, "RLIMIT_NOFILE");
        assert_true(world->ranks[r].status < 0);
    }
    assert_true(limit >= 1);
    world_free(world);
}

/* ---- the service's own process gives up ---- */

static void rank_0_gives_up(struct world *world, int rank)
{
    int files = world_open_files(), threads = world_threads();
    struct thrum_unique_id id = world_id(world, rank);
    struct rlimit limit, none;
    struct bootstrap *b = NULL;

    (void)thrum_config_load();
    WORLD_CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
    if (!rank && world->nranks == 3) {
        bootstrap_withdraw(&id);
        world_note(world, rank, THRUM_ERR_ABORTED);
        return;
    }
    if (!rank) { /* it alone runs out of descriptors; its service has a connection at least */
        none = limit;
        none.rlim_cur = (rlim_t)(world->nranks == 1 ? files - 3 : 0);
        world_await(&world->counter, world->nranks - 1);
        WORLD_CHECK(!setrlimit(RLIMIT_NOFILE, &none));
    } else {
        atomic_fetch_add(&world->counter, 1);
    }
    world_note(world, rank, bootstrap_join(&id, rank, world->nranks, 20000, &b));
    bootstrap_close(b);
    if (!rank)
        WORLD_CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    stay(world, rank, world->nranks - 1);
    WORLD_CHECK(world_settles(files, threads));
}

static void nobody_waits_for_a_service_that_gave_up(void **state)
{
    static const int sizes[] = {1, 2, 3};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct world *world = world_start(sizes[i], rank_0_gives_up);
        int64_t begin = now_ns();

        assert_int_equal(world_wait(world), 0);
        assert_true(now_ns() - begin < 15000000000);
        if (sizes[i] < 3)
            assert_int_equal(world->ranks[0].status, THRUM_ERR_LIMIT);
        for (int r = 1; r < sizes[i]; r++)
            assert_true(world->ranks[r].status < 0);
        world_free(world);
    }
}

/* ---- strangers ---- */

static int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* One connection of each kind of nuisance; those that stay open go to `held`. */
static int pester(int port, int *held)
{
    uint8_t junk[3000], hello[BOOT_HELLO_BYTES] = "THRM\1\0\1\0";
    int n = 0, fd;

    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (uint8_t)(i * 2654435761u >> 7);
    if ((fd = connect_to(port)) >= 0)
        close(fd); /* a port scan */
    if ((fd = connect_to(port)) >= 0) {
        (void)!send(fd, junk, sizeof junk, MSG_NOSIGNAL);
        close(fd);
    }
    if ((fd = connect_to(port)) >= 0)
        held[n++] = fd; /* says nothing */
    if ((fd = connect_to(port)) >= 0) {
        (void)!send(fd, hello, 3, MSG_NOSIGNAL); /* says little */
        held[n++] = fd;
    }
    if ((fd = connect_to(port)) >= 0) {
        (void)!send(fd, hello, sizeof hello, MSG_NOSIGNAL);
        (void)!send(fd, junk, 400, MSG_NOSIGNAL); /* a proof out of the air */
        held[n++] = fd;
    }
    if ((fd = connect_to(port)) >= 0) {
        hello[4] = 9; /* another version */
        (void)!send(fd, hello, 8, MSG_NOSIGNAL);
        held[n++] = fd;
    }
    return n;
}

static void strangers_do_not_disturb(void **state)
{
    enum { ROUNDS = 80 };
    static int held[20 * 4 * ROUNDS];
    int ports[20], nports = 0, nheld = 0, more[4];
    struct world *world;

    (void)state;
    setenv("THRUM_BOOTSTRAP_INTERFACE", "lo", 1);
    thrum_config_reset();
    join_ms = 60000;
    world = world_start(11, all_but_the_last);
    world_await(&world->counter, 10);
    while (nports < 3) { /* the root service, rank 0, and the inner ranks */
        nports = 0;
        for (int r = 0; r < 11; r++)
            nports += world_tcp_ports(world->pids[r], 10, ports + nports, 20 - nports);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < nports; i++)
            nheld += pester(ports[i], held + nheld);
    assert_true(nheld > 256); /* more than a door holds */
    atomic_store(&world->go, 1);
    for (int r = 0; r < 11; r++)
        world_await(&world->ranks[r].stage, 1);
    for (int i = 0; i < nheld; i++)
        close(held[i]);
    for (int i = 0; i < nports; i++) /* and afterwards nobody listens */
        assert_int_equal(pester(ports[i], more), 0);
    assert_int_equal(world_wait(world), 0);
    expect_all_but(world, (int[]){-1}, THRUM_OK, "");
    world_free(world);
    unsetenv("THRUM_BOOTSTRAP_INTERFACE");
    thrum_config_reset();
}

static void the_interface_is_named(void **state)
{
    struct thrum_unique_id id;

    (void)state;
    setenv("THRUM_BOOTSTRAP_INTERFACE", "nosuch0", 1);
    thrum_config_reset();
    assert_int_equal(bootstrap_make_id(&id), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "nosuch0"));
    unsetenv("THRUM_BOOTSTRAP_INTERFACE");
    thrum_config_reset();
}

static void wait_readable(int fd)
{
    struct pollfd waiting = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&waiting, 1, 20000), 1);
}

#define LATE_MS 500

/* Stops a process once it has sent something and waits for the answer. */
static void stop_asleep(pid_t pid, int fd)
{
    char path[64], state = 0;
    int how;

    wait_readable(fd);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    while (state != 'S') {
        FILE *file = fopen(path, "r");

        assert_non_null(file);
        assert_int_equal(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
        fclose(file);
    }
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, &how, WUNTRACED), pid);
    assert_true(WIFSTOPPED(how));
}

/* A rank is stopped while it shakes hands, until its time is up: it does not ask the service to wait for ever then. */
static void a_rank_that_registers_too_late(void **state)
{
    struct boot_id id = {.address.in = {.sin_family = AF_INET}};
    struct boot_conn conn;
    struct boot_frame frame;
    struct thrum_unique_id bytes;
    struct bootstrap *b;
    int fd, how;
    pid_t child;

    (void)state;
    id.address.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(boot_listen(&id.address, false, &fd), THRUM_OK);
    boot_id_encode(&id, &bytes);
    child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(bootstrap_join(&bytes, 0, 1, LATE_MS, &b) == THRUM_OK);
    }
    wait_readable(fd);
    boot_conn_accepted(&conn, accept4(fd, NULL, NULL, SOCK_NONBLOCK), &id.address,
                       BOOT_ROOT_FRAME_MAX);
    stop_asleep(child, conn.fd); /* it has said hello */
    assert_int_equal(boot_conn_handshake(&conn, id.secret), THRUM_IN_PROGRESS);
    assert_int_equal(kill(child, SIGCONT), 0);
    stop_asleep(child, conn.fd); /* it has sent its proof */
    poll(NULL, 0, LATE_MS + 50);
    assert_int_equal(boot_conn_handshake(&conn, id.secret), THRUM_OK);
    assert_int_equal(kill(child, SIGCONT), 0);
    wait_readable(conn.fd);
    boot_conn_io(&conn);
    assert_int_equal(boot_conn_peek(&conn, &frame), THRUM_OK);
    assert_int_equal(frame.type, FRAME_REGISTER);
    assert_int_equal(boot_get_u64(frame.payload + BOOT_ADDRESS_WIRE), 0);
    boot_conn_close(&conn);
    close(fd);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
}

/* Who starts the ranks by fork makes the id first: they do not hold its port. */
static void a_child_does_not_listen(void **state)
{
    struct thrum_unique_id id;
    int pipes[2], ports[4];
    pid_t child;
    char byte;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(bootstrap_make_id(&id), THRUM_OK);
    assert_int_equal(world_tcp_ports(getpid(), 10, ports, 4), 1);
    child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)!write(pipes[1], "", 1);
        pause();
    }
    assert_true(child > 0);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    assert_int_equal(world_tcp_ports(child, 10, ports, 4), 0);
    bootstrap_withdraw(&id);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(pipes[0]);
    close(pipes[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_ranks_are_named),
        cmocka_unit_test(nobody_serves),
        cmocka_unit_test(the_root_may_come_late),
        cmocka_unit_test(both_claimants_of_a_rank_are_told),
        cmocka_unit_test(ranks_that_disagree_about_nranks),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(a_wrong_secret_keeps_out),
        cmocka_unit_test(a_death_while_joining_is_told),
        cmocka_unit_test(a_death_in_allgather_is_told),
        cmocka_unit_test(a_stopped_rank_is_named_at_the_deadline),
        cmocka_unit_test(out_of_descriptors),
        cmocka_unit_test(nobody_waits_for_a_service_that_gave_up),
        cmocka_unit_test(strangers_do_not_disturb),
        cmocka_unit_test(the_interface_is_named),
        cmocka_unit_test(a_rank_that_registers_too_late),
        cmocka_unit_test(a_child_does_not_listen),
    };
    return cmocka_run_group_tests_name("bootstrap faults", tests, NULL, NULL);
}
