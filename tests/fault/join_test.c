/*
 * Joining that goes wrong: a missing rank, a rank taken twice, ranks that disagree about their number, a wrong secret,
 * strangers' bytes at the port while ranks join and while a job runs, no root, a bad configuration. Whoever is told, is
 * told what and who; the others go on; nothing is left behind.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const in_time[] = {"THRUM_INIT_DEADLINE_MS=20000", "THRUM_DEADLINE_MS=20000",
                                      NULL};
/* With a secret, ranks of one host meet at THRUM_ROOT's port too, not over a socket of the kernel's. */
static const char *const in_time_at_the_port[] = {"THRUM_INIT_DEADLINE_MS=20000",
                                                  "THRUM_DEADLINE_MS=20000",
                                                  "THRUM_SECRET=a secret of this test", NULL};
/* Rank 0 listens that long for ranks that come late, to tell them why not. */
static const char *const in_some_time[] = {"THRUM_INIT_DEADLINE_MS=2000", NULL};
static const char *const in_a_hurry[] = {"THRUM_INIT_DEADLINE_MS=1200", NULL};
/* Rank 0 gives up long before the others would, whose numbers are larger: 02260 is 1200. */
static const char *const rank_0_in_a_hurry[] = {"THRUM_INIT_DEADLINE_MS=@2260", NULL};

/* ---- roles ---- */

/* Hears "join [AS-RANK [OF]]", joins, says the result; then a sum if it is in; ends at "end". */
static void joiner(struct child *child)
{
    thrum_status_t status;
    const char *line;
    bool right = false;

    child_open(child);
    say("ready");
    line = hear();
    if (!strcmp(line, "leave"))
        return;
    status = thrum_comm_init(child->device, NULL, &child->comm);
    if (status != THRUM_OK && child->comm)
        say("failed: a communicator was returned with an error");
    say_result(status);
    for (;;) {
        line = hear();
        if (!strcmp(line, "end"))
            return;
        if (!strcmp(line, "sum")) {
            status = child_sum(child, child->comm, 5000, &right);
            say_result(status);
            if (status == THRUM_OK && !right)
                say("failed: the sum is wrong");
        }
    }
}

/* By thrum_comm_init_rank, with an id that rank 0 makes; hears the rank and size to claim. */
static void by_id(struct child *child)
{
    struct thrum_unique_id id;
    char text[2 * THRUM_UNIQUE_ID_BYTES + 1] = "";
    int rank, nranks;
    const char *line;

    child_open(child);
    if (child->rank == 0) {
        MUST(thrum_get_unique_id(&id));
        for (size_t i = 0; i < sizeof id.bytes; i++)
            snprintf(text + 2 * i, 3, "%02x", id.bytes[i]);
        say("id %s", text);
    } else {
        line = hear() + 3;
        for (size_t i = 0; i < sizeof id.bytes; i++) {
            unsigned byte = 0;
            if (sscanf(line + 2 * i, "%2x", &byte) != 1)
                exit(20);
            id.bytes[i] = (uint8_t)byte;
        }
    }
    for (;;) {
        line = hear();
        if (!strcmp(line, "end"))
            return;
        if (sscanf(line, "%d %d", &rank, &nranks) != 2)
            exit(21);
        if (strstr(line, "forged"))
            id.bytes[40] ^= 1;
        say_result(thrum_comm_init_rank(&id, nranks, rank, child->device, NULL, &child->comm));
    }
}

struct one_of_two {
    thrum_device_t device;
    thrum_comm_t comm;
    thrum_status_t status;
    char message[300];
};

static void *join_as_well(void *argument)
{
    struct one_of_two *mine = argument;

    mine->status = thrum_comm_init(mine->device, NULL, &mine->comm);
    snprintf(mine->message, sizeof mine->message, "%s", thrum_last_error());
    return NULL;
}

/* Two communicators, each from a thread of its own, at once. */
static void two_at_once(struct child *child)
{
    struct one_of_two all[2];
    pthread_t threads[2];

    child_open(child);
    say("ready");
    hear();
    for (int i = 0; i < 2; i++) {
        all[i] = (struct one_of_two){.device = child->device};
        if (pthread_create(&threads[i], NULL, join_as_well, &all[i]))
            exit(22);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        say("result %s %s", thrum_status_name(all[i].status), all[i].message);
        thrum_comm_destroy(all[i].comm);
    }
    hear();
}

static const struct role roles[] = {
    {"joiner", joiner}, {"by_id", by_id}, {"two_at_once", two_at_once}};

/* ---- tests: who comes ---- */

static void all_ready(struct crew *crew, const char *role, int nranks, const char *const *env)
{
    crew_start(crew, role, nranks, env);
    crew_expect_all(crew, "ready");
}

static void all_end(struct crew *crew)
{
    crew_say_all(crew, "end");
    crew_finish(crew);
}

static void without_rank_2(const char *const *env)
{
    struct crew crew;
    int64_t since;

    all_ready(&crew, "joiner", 4, env);
    crew_say(&crew, 2, "leave");
    since = clock_ms();
    for (int r = 0; r < 4; r++)
        if (r != 2)
            crew_say(&crew, r, "join");
    for (int r = 0; r < 4; r++)
        if (r != 2)
            crew_expect_result(&crew, r, THRUM_ERR_TIMEOUT, "2", NULL);
    assert_in_range(clock_ms() - since, 1000, 8000);
    all_end(&crew);
}

static void a_rank_is_missing(void **state)
{
    (void)state;
    without_rank_2(in_a_hurry);
}

static void a_rank_is_missing_and_rank_0_gives_up(void **state)
{
    (void)state;
    without_rank_2(rank_0_in_a_hurry);
}

static void the_root_is_missing(void **state)
{
    struct crew crew;
    int64_t since;

    (void)state;
    all_ready(&crew, "joiner", 3, in_a_hurry);
    crew_say(&crew, 0, "leave");
    since = clock_ms();
    crew_say(&crew, 1, "join");
    crew_say(&crew, 2, "join");
    for (int r = 1; r < 3; r++) {
        const char *line = crew_hear(&crew, r, 10000);
        if (strncmp(line, "result THRUM_ERR_TIMEOUT", 24) &&
            strncmp(line, "result THRUM_ERR_UNREACHABLE", 28))
            fail_msg("rank %d: %s", r, line);
        if (!strstr(line, "127.0.0.1"))
            fail_msg("rank %d: \"%s\" does not say where it looked", r, line);
    }
    assert_in_range(clock_ms() - since, 0, 8000);
    all_end(&crew);
}

static void a_rank_dies_while_joining(void **state)
{
    struct crew crew;

    (void)state;
    all_ready(&crew, "joiner", 4, in_a_hurry);
    for (int r = 0; r < 3; r++)
        crew_say(&crew, r, "join");
    crew_kill(&crew, 1, SIGKILL);
    crew_say(&crew, 3, "join");
    for (int r = 0; r < 4; r++) {
        const char *line;
        if (r == 1)
            continue;
        line = crew_hear(&crew, r, 10000);
        if (strncmp(line, "result THRUM_ERR_", 17))
            fail_msg("rank %d: %s", r, line);
    }
    all_end(&crew);
}

static void a_rank_is_taken_twice(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "by_id", 4, in_some_time);
    crew_relay_id(&crew, 0, 4);
    crew_say(&crew, 0, "0 4");
    crew_say(&crew, 1, "1 4");
    crew_say(&crew, 2, "1 4");
    crew_say(&crew, 3, "3 4");
    crew_expect_result(&crew, 1, THRUM_ERR_INVALID_RANK, "1", NULL);
    crew_expect_result(&crew, 2, THRUM_ERR_INVALID_RANK, "1", NULL);
    for (int r = 0; r < 4; r += 3) {
        const char *line = crew_hear(&crew, r, 30000);
        if (strncmp(line, "result THRUM_ERR_", 17) || !strstr(line, "1"))
            fail_msg("rank %d: %s", r, line);
    }
    all_end(&crew);
}

static void ranks_disagree_about_their_number(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "by_id", 3, in_some_time);
    crew_relay_id(&crew, 0, 3);
    crew_say(&crew, 0, "0 3");
    crew_say(&crew, 1, "1 4");
    crew_say(&crew, 2, "2 3");
    for (int r = 0; r < 3; r++) {
        const char *line = crew_hear(&crew, r, 30000);
        if (strncmp(line, "result THRUM_ERR_", 17) || !strstr(line, "3") || !strstr(line, "4"))
            fail_msg("rank %d: %s", r, line);
    }
    all_end(&crew);
}

static void a_rank_is_out_of_range(void **state)
{
    static const char *const bad[] = {"3 3", "-1 3", "0 0", "0 -5", "2147483647 3"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct crew crew;

        crew_start(&crew, "by_id", 1, in_time);
        crew_expect(&crew, 0, "id ");
        crew_say(&crew, 0, bad[i]);
        const char *line = crew_hear(&crew, 0, 10000);
        if (strncmp(line, "result THRUM_ERR_INVALID_", 25))
            fail_msg("\"%s\": %s", bad[i], line);
        crew_say(&crew, 0, "0 1"); /* nothing was changed: the id is still good */
        crew_expect_result(&crew, 0, THRUM_OK, NULL);
        all_end(&crew);
    }
}

/* One address serves one communicator at a time: the second waits for the first, however late its last rank is. */
static void two_threads_at_one_address(void **state)
{
    static const char *const env[] = {"THRUM_INIT_DEADLINE_MS=20000",
                                      "THRUM_SECRET=a secret of this test", NULL};
    struct crew crew;

    (void)state;
    all_ready(&crew, "two_at_once", 2, env);
    crew_say(&crew, 0, "join");
    poll(NULL, 0, 2300); /* longer than a port that another program has is waited for */
    crew_say(&crew, 1, "join");
    for (int i = 0; i < 2; i++)
        for (int r = 0; r < 2; r++)
            crew_expect_result(&crew, r, THRUM_OK, NULL);
    all_end(&crew);
}

/* ---- tests: secrets ---- */

/* Rank 2 has another secret: it is told AUTH; the job does not start without it, and says who is missing. */
static void a_wrong_secret(void **state)
{
    static const char *const env[] = {"THRUM_INIT_DEADLINE_MS=2500",
                                      "THRUM_SECRET=a secret of this test, rank @", NULL};
    struct crew crew;

    (void)state;
    all_ready(&crew, "joiner", 2, env);
    crew_say_all(&crew, "join");
    crew_expect_result(&crew, 1, THRUM_ERR_AUTH, NULL);
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "1", NULL);
    all_end(&crew);
}

static void a_forged_id(void **state)
{
    static const char *const env[] = {"THRUM_INIT_DEADLINE_MS=2500", NULL};
    struct crew crew;
    const char *line;

    (void)state;
    crew_start(&crew, "by_id", 2, env);
    crew_relay_id(&crew, 0, 2);
    crew_say(&crew, 0, "0 2");
    crew_say(&crew, 1, "1 2 forged");
    line = crew_hear(&crew, 1, 20000);
    if (strncmp(line, "result THRUM_ERR_", 17))
        fail_msg("with a forged id: %s", line);
    crew_expect_result(&crew, 0, THRUM_ERR_TIMEOUT, "rank 1 did not join within 2500 ms", NULL);
    all_end(&crew);
}

/* ---- tests: strangers ---- */

/* A connection to the job's port; -1 if nobody listens. */
static int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (!connect(fd, (struct sockaddr *)&address, sizeof address))
        return fd;
    close(fd);
    return -1;
}

static int connect_when_it_listens(int port)
{
    int64_t end = clock_ms() + 20000;
    int fd;

    while ((fd = connect_to(port)) < 0) {
        if (clock_ms() > end)
            fail_msg("nobody listens at port %d", port);
        poll(NULL, 0, 2);
    }
    return fd;
}

/* What strangers send: nothing, text, zeroes, ones, noise, a flood; some hang up at once, some stay. */
#define STRANGERS 7
static void annoy(int port, int fds[STRANGERS])
{
    static const char *const texts[] = {"", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "\n"};
    char noise[65536];
    unsigned x = 12345;

    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)((x = x * 1103515245u + 12345u) >> 16);
    for (int i = 0; i < STRANGERS; i++) {
        ssize_t n = 0;

        fds[i] = connect_to(port);
        if (fds[i] < 0)
            continue;
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        if (i < 3)
            n = send(fds[i], texts[i], strlen(texts[i]), MSG_NOSIGNAL);
        else if (i == 3)
            n = send(fds[i], noise, sizeof noise, MSG_NOSIGNAL);
        else if (i == 4)
            n = send(fds[i], noise, 3, MSG_NOSIGNAL);
        else
            memset(noise, i == 5 ? 0 : 0xff, 4096), n = send(fds[i], noise, 4096, MSG_NOSIGNAL);
        (void)n; /* being hung up upon is fine */
    }
}

static void hang_up(int fds[STRANGERS])
{
    for (int i = 0; i < STRANGERS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* Strangers come before the ranks, among them and while the job runs, and stay on the line. */
static void strangers_at_the_port(void **state)
{
    int fds[3][STRANGERS], early;
    struct crew crew;

    (void)state;
    all_ready(&crew, "joiner", 4, in_time_at_the_port);
    crew_say(&crew, 0, "join");
    early = connect_when_it_listens(crew.port);
    annoy(crew.port, fds[0]);
    crew_say(&crew, 1, "join");
    crew_say(&crew, 2, "join");
    annoy(crew.port, fds[1]);
    crew_say(&crew, 3, "join");
    for (int r = 0; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    annoy(crew.port, fds[2]);
    crew_say_all(&crew, "sum");
    for (int r = 0; r < 4; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    all_end(&crew);
    close(early);
    for (int i = 0; i < 3; i++)
        hang_up(fds[i]);
}

/* Every port that a process of the job listens on, from the kernel's table by the sockets that the process holds. */
static int listening_ports(pid_t pid, int *ports_out, int max)
{
    unsigned long inodes[64];
    char path[300], link[64], line[512];
    int ninodes = 0, n = 0;
    FILE *file;

    for (int fd = 0; fd < 256 && ninodes < 64; fd++) {
        ssize_t length;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
        length = readlink(path, link, sizeof link - 1);
        if (length <= 0)
            continue;
        link[length] = 0;
        ninodes += sscanf(link, "socket:[%lu]", &inodes[ninodes]) == 1;
    }
    file = fopen("/proc/net/tcp", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) && n < max) {
        unsigned port, socket_state;
        unsigned long inode;
        if (sscanf(line, " %*d: %*8x:%4x %*8x:%*4x %2x %*s %*s %*s %*s %*s %lu", &port,
                   &socket_state, &inode) != 3 ||
            socket_state != 0x0a)
            continue;
        for (int i = 0; i < ninodes; i++)
            if (inodes[i] == inode)
                ports_out[n++] = (int)port;
    }
    fclose(file);
    return n;
}

/* Also at whatever ports the ranks keep open for each other once the job runs. */
static void strangers_at_every_port(void **state)
{
    struct crew crew;

    (void)state;
    all_ready(&crew, "joiner", 3, in_time);
    crew_say_all(&crew, "join");
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    for (int r = 0; r < 3; r++) {
        int ports[16], n = listening_ports(crew.pids[r], ports, 16);
        for (int i = 0; i < n; i++) {
            int fds[STRANGERS];
            annoy(ports[i], fds);
            hang_up(fds);
        }
    }
    for (int i = 0; i < 3; i++) {
        crew_say_all(&crew, "sum");
        for (int r = 0; r < 3; r++)
            crew_expect_result(&crew, r, THRUM_OK, NULL);
    }
    all_end(&crew);
}

/* ---- tests: configuration ---- */

static void bad_config(const char *setting, const char *name, const char *value)
{
    const char *const env[] = {setting, NULL};
    struct crew crew;
    const char *line;

    crew_start(&crew, "joiner", 1, env);
    line = crew_hear(&crew, 0, 20000); /* opening a device reads the configuration */
    if (!strstr(line, "THRUM_ERR_INVALID_CONFIG") || !strstr(line, name) || !strstr(line, value))
        fail_msg("%s: %s", setting, line);
    crew_wait(&crew, 0);
}

static void a_bad_config_value(void **state)
{
    (void)state;
    bad_config("THRUM_DEADLINE_MS=soon", "THRUM_DEADLINE_MS", "soon");
    bad_config("THRUM_SCRATCH_BYTES=4Q", "THRUM_SCRATCH_BYTES", "4Q");
    bad_config("THRUM_PEER_ACCESS=perhaps", "THRUM_PEER_ACCESS", "perhaps");
    bad_config("THRUM_SIM_HBM_BYTES=-1", "THRUM_SIM_HBM_BYTES", "-1");
    bad_config("THRUM_LANES=99", "THRUM_LANES", "99");
}

/* An algorithm that does not exist is found when the communicator is made or used, and named. */
static void a_bad_algorithm(void **state)
{
    static const char *const settings[] = {"THRUM_ALGO=allreduce:teleport",
                                           "THRUM_ALGO=allreduse:ring",
                                           "THRUM_ALGO=allreduce",
                                           "THRUM_ALGO=allreduce:ring:4M-1K",
                                           "THRUM_TUNE_FILE=/there/is/no/such.json",
                                           "THRUM_TUNE_FILE=/proc/self/cmdline"};
    static const char *const names[] = {"teleport", "allreduse", "allreduce",
                                        "4M-1K",    "such.json", "/proc/self/cmdline"};

    (void)state;
    for (int i = 0; i < 6; i++) {
        const char *const env[] = {settings[i], NULL};
        struct crew crew;
        const char *line;

        crew_start(&crew, "joiner", 1, env);
        line = crew_hear(&crew, 0, 20000);
        if (!strcmp(line, "ready")) {
            crew_say(&crew, 0, "join");
            line = crew_hear(&crew, 0, 20000);
        }
        if (!strstr(line, "THRUM_ERR_INVALID_CONFIG") || !strstr(line, names[i]))
            fail_msg("%s: %s", settings[i], line);
        crew_say(&crew, 0, "end");
        crew_wait(&crew, 0);
    }
}

static void a_bad_root(void **state)
{
    static const char *const roots[] = {"THRUM_ROOT=nonsense", "THRUM_ROOT=127.0.0.1:notaport",
                                        "THRUM_ROOT=127.0.0.1:99999999"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *const env[] = {roots[i], "THRUM_INIT_DEADLINE_MS=1000", "THRUM_SIZE=2",
                                   "THRUM_SECRET=a secret of this test", NULL};
        struct crew crew;
        const char *line;

        all_ready(&crew, "joiner", 1, env);
        crew_say(&crew, 0, "join");
        line = crew_hear(&crew, 0, 20000);
        if (!strstr(line, "THRUM_ERR_INVALID_CONFIG") || !strstr(line, "THRUM_ROOT"))
            fail_msg("%s: %s", roots[i], line);
        all_end(&crew);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_rank_is_missing),
        TEST(a_rank_is_missing_and_rank_0_gives_up),
        TEST(the_root_is_missing),
        TEST(a_rank_dies_while_joining),
        TEST(a_rank_is_taken_twice),
        TEST(ranks_disagree_about_their_number),
        TEST(a_rank_is_out_of_range),
        TEST(two_threads_at_one_address),
        TEST(a_wrong_secret),
        TEST(a_forged_id),
        TEST(strangers_at_the_port),
        TEST(strangers_at_every_port),
        TEST(a_bad_config_value),
        TEST(a_bad_algorithm),
        TEST(a_bad_root),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
