/* Launchers by fake environments: what is detected, what is refused, and each way to an id but PMIx (launch_mpirun.sh). */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/config.h"
#include "bootstrap/launch.h"
#include "world.h"

extern char **environ;

/* Another run of this test on the host has other ports. */
static int base_port;

static const char *with_port(const char *prefix, int offset)
{
    static char texts[4][100];
    static int next;
    char *text = texts[next++ % 4];

    snprintf(text, sizeof texts[0], "%s%d", prefix, base_port + offset);
    return text;
}

static bool is_launcher_variable(const char *entry)
{
    static const char *const prefixes[] = {"THRUM_", "OMPI_",   "PMIX_",        "PMI_",
                                           "SLURM_", "MPI_",    "RANK",         "WORLD_SIZE",
                                           "LOCAL_", "MASTER_", "TORCHELASTIC_"};

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (!strncmp(entry, prefixes[i], strlen(prefixes[i])))
            return true;
    return false;
}

/* An environment of no launcher, then "NAME=value" words up to NULL. */
static void environment(const char *first, ...)
{
    char name[200];
    va_list args;

    for (char **entry = environ; *entry;)
        if (is_launcher_variable(*entry)) {
            snprintf(name, sizeof name, "%.*s", (int)strcspn(*entry, "="), *entry);
            unsetenv(name);
            entry = environ;
        } else {
            entry++;
        }
    va_start(args, first);
    for (const char *word = first; word; word = va_arg(args, const char *)) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
        setenv(name, strchr(word, '=') + 1, 1);
    }
    va_end(args);
    thrum_config_reset();
}

static void expect(const char *launcher, int rank, int nranks, int local_rank)
{
    struct launch_info info;

    assert_int_equal(launch_detect(&info), THRUM_OK);
    assert_string_equal(info.launcher, launcher);
    assert_int_equal(info.rank, rank);
    assert_int_equal(info.nranks, nranks);
    assert_int_equal(info.local_rank, local_rank);
}

static void expect_error(thrum_status_t status, const char *text)
{
    struct launch_info info = {.rank = 77};

    assert_int_equal(launch_detect(&info), status);
    if (!strstr(thrum_last_error(), text))
        fail_msg("\"%s\" does not name %s", thrum_last_error(), text);
    assert_int_equal(info.rank, 77); /* untouched */
}

static void launchers_are_found(void **state)
{
    (void)state;
    environment("THRUM_RANK=1", "THRUM_SIZE=3", "THRUM_ROOT=a:1", "THRUM_LOCAL_RANK=1", NULL);
    expect("thrum", 1, 3, 1);
    environment("THRUM_RANK=0", "THRUM_SIZE=1", NULL);
    expect("thrum", 0, 1, -1);
    environment("PMIX_RANK=2", "PMIX_NAMESPACE=n", "OMPI_COMM_WORLD_SIZE=4",
                "OMPI_COMM_WORLD_RANK=2", "OMPI_COMM_WORLD_LOCAL_RANK=0", NULL);
    expect("pmix", 2, 4, 0);
    environment("PMIX_RANK=2", "PMIX_NAMESPACE=n", "SLURM_STEP_NUM_TASKS=8", "SLURM_LOCALID=2",
                "SLURM_PROCID=2", "SLURM_STEP_ID=0", NULL);
    expect("pmix", 2, 8, 2);
    environment("OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", NULL);
    expect("open-mpi", 1, 2, -1);
    environment("PMI_FD=9", "PMI_RANK=1", "PMI_SIZE=2", "MPI_LOCALRANKID=1", NULL);
    expect("pmi", 1, 2, 1);
    environment("SLURM_PROCID=5", "SLURM_NTASKS=6", "SLURM_STEP_ID=3", "SLURM_LOCALID=1", NULL);
    expect("slurm", 5, 6, 1);
    environment("RANK=5", "WORLD_SIZE=6", "LOCAL_RANK=1", NULL);
    expect("torchrun", 5, 6, 1);
}

static void the_innermost_launcher_counts(void **state)
{
    (void)state;
    /* torchrun started by srun on each host */
    environment("RANK=5", "WORLD_SIZE=16", "LOCAL_RANK=5", "TORCHELASTIC_RUN_ID=7",
                "SLURM_PROCID=0", "SLURM_NTASKS=2", "SLURM_STEP_ID=0", "PMIX_RANK=0",
                "PMIX_NAMESPACE=n", NULL);
    expect("torchrun", 5, 16, 5);
    /* a script under mpirun that also exports torch's variables */
    environment("RANK=5", "WORLD_SIZE=16", "OMPI_COMM_WORLD_RANK=5", "OMPI_COMM_WORLD_SIZE=16",
                NULL);
    expect("open-mpi", 5, 16, -1);
    environment("THRUM_RANK=0", "THRUM_SIZE=2", "THRUM_ROOT=a:1", "OMPI_COMM_WORLD_RANK=5",
                "OMPI_COMM_WORLD_SIZE=16", NULL);
    expect("thrum", 0, 2, -1);
}

static void contradictions_name_the_variables(void **state)
{
    (void)state;
    environment(NULL, NULL);
    expect_error(THRUM_ERR_INVALID_USAGE, "no launcher found");
    /* a batch script is no task */
    environment("SLURM_PROCID=0", "SLURM_NTASKS=2", "SLURM_JOB_ID=3", NULL);
    expect_error(THRUM_ERR_INVALID_USAGE, "no launcher found");
    environment("THRUM_RANK=1", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "THRUM_SIZE");
    environment("THRUM_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "THRUM_RANK");
    environment("THRUM_RANK=2", "THRUM_SIZE=2", "THRUM_ROOT=a:1", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "THRUM_RANK=2 is not below THRUM_SIZE=2");
    environment("THRUM_RANK=1", "THRUM_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "THRUM_ROOT");
    environment("THRUM_RANK=x", "THRUM_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "THRUM_RANK");
    environment("OMPI_COMM_WORLD_RANK=1", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "OMPI_COMM_WORLD_SIZE");
    environment("OMPI_COMM_WORLD_RANK=-1", "OMPI_COMM_WORLD_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "OMPI_COMM_WORLD_RANK=\"-1\"");
    environment("OMPI_COMM_WORLD_RANK=9", "OMPI_COMM_WORLD_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "OMPI_COMM_WORLD_RANK=9");
    environment("PMI_FD=3", "PMI_RANK=0", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "PMI_SIZE");
    environment("SLURM_PROCID=0", "SLURM_STEP_ID=3", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "SLURM_");
    environment("RANK=1e3", "WORLD_SIZE=2", NULL);
    expect_error(THRUM_ERR_INVALID_CONFIG, "RANK=\"1e3\"");
}

static void slurm_node_lists(void **state)
{
    static const struct {
        const char *list, *first; /* NULL: malformed */
    } cases[] = {
        {"login1", "login1"},
        {"a,b", "a"},
        {"gpu[03-06,9],login1", "gpu03"},
        {"gpu[7]", "gpu7"},
        {"gpu[10,12-14]-ib,x", "gpu10-ib"},
        {"rack[1-2]node[005-128]", "rack1node005"},
        {"", NULL},
        {",a", NULL},
        {"gpu[3", NULL},
        {"gpu]3", NULL},
    };
    char host[64], tiny[4];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool good = launch_slurm_first_host(cases[i].list, host, sizeof host);

        assert_int_equal(good, cases[i].first != NULL);
        if (good)
            assert_string_equal(host, cases[i].first);
    }
    assert_false(launch_slurm_first_host("gpu[03-06]", tiny, sizeof tiny));
    assert_false(launch_slurm_first_host("login1", tiny, sizeof tiny));
}

/* ---- ids ---- */

static thrum_status_t exchange(void)
{
    struct launch_info info;
    struct thrum_unique_id id;

    if (launch_detect(&info))
        return THRUM_ERR_INTERNAL;
    return launch_exchange_id(&info, 0, 500, &id);
}

static void secrets_are_asked_for(void **state)
{
    (void)state;
    environment("THRUM_RANK=1", "THRUM_SIZE=2", "THRUM_ROOT=192.0.2.77:4000", NULL);
    assert_int_equal(exchange(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "THRUM_SECRET"));
    environment("THRUM_RANK=1", "THRUM_SIZE=2", "THRUM_ROOT=192.0.2.77:4000", "THRUM_SECRET=short",
                NULL);
    assert_int_equal(exchange(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "16"));
    assert_null(strstr(thrum_last_error(), "short"));
    environment("THRUM_RANK=1", "THRUM_SIZE=2", "THRUM_ROOT=192.0.2.77", NULL);
    assert_int_equal(exchange(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "host:port"));
    environment("SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_ID=0", "SLURM_JOB_ID=9",
                "SLURM_STEP_NUM_NODES=2", "SLURM_STEP_NODELIST=n[1-2]", NULL);
    assert_int_equal(exchange(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "n1:"));
    environment("RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=n1", NULL);
    assert_int_equal(exchange(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "MASTER_PORT"));
    environment("OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=1",
                NULL);
    assert_int_equal(exchange(), THRUM_ERR_UNSUPPORTED);
    assert_non_null(strstr(thrum_last_error(), "libpmix"));
}

static void two_communicators(struct world *world, int rank)
{
    int files = world_open_files();
    struct launch_info info;
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    WORLD_CHECK(launch_detect(&info) == THRUM_OK);
    WORLD_CHECK(info.rank == rank && info.nranks == world->nranks);
    for (uint64_t instance = 0; instance < 4; instance++) {
        WORLD_CHECK(launch_exchange_id(&info, instance, 20000, &id) == THRUM_OK);
        WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 20000, &b) == THRUM_OK);
        WORLD_CHECK(bootstrap_barrier(b) == THRUM_OK);
        bootstrap_close(b);
    }
    WORLD_CHECK(world_settles(files, 1000));
}

static void set_int(const char *name, int value)
{
    char text[20];

    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static void by_thrum(struct world *world, int rank)
{
    set_int("THRUM_RANK", rank);
    set_int("THRUM_SIZE", world->nranks);
    two_communicators(world, rank);
}

static void by_torchrun(struct world *world, int rank)
{
    set_int("RANK", rank);
    set_int("WORLD_SIZE", world->nranks);
    two_communicators(world, rank);
}

static void by_slurm(struct world *world, int rank)
{
    set_int("SLURM_PROCID", rank);
    set_int("SLURM_STEP_NUM_TASKS", world->nranks);
    two_communicators(world, rank);
}

static void by_open_mpi(struct world *world, int rank)
{
    set_int("OMPI_COMM_WORLD_RANK", rank);
    set_int("OMPI_COMM_WORLD_SIZE", world->nranks);
    set_int("OMPI_COMM_WORLD_LOCAL_SIZE", world->nranks);
    two_communicators(world, rank);
}

static void every_way_leads_together(void **state)
{
    (void)state;
    environment(with_port("THRUM_ROOT=127.0.0.1:", 1), NULL);
    assert_int_equal(world_run(5, by_thrum), 0);
    environment(with_port("THRUM_ROOT=127.0.0.1:", 2), "THRUM_SECRET=0123456789abcdef0123", NULL);
    assert_int_equal(world_run(5, by_thrum), 0);
    environment(with_port("THRUM_ROOT=localhost:", 3), "THRUM_SECRET=0123456789abcdef0123", NULL);
    assert_int_equal(world_run(5, by_thrum), 0);
    environment("MASTER_ADDR=127.0.0.1", with_port("MASTER_PORT=", 4), "TORCHELASTIC_RUN_ID=none",
                NULL);
    assert_int_equal(world_run(4, by_torchrun), 0);
    environment("MASTER_ADDR=127.0.0.1", with_port("MASTER_PORT=", 6),
                "THRUM_SECRET=0123456789abcdef0123", NULL);
    assert_int_equal(world_run(4, by_torchrun), 0);
    environment("SLURM_STEP_ID=0", "SLURM_JOB_ID=123", "SLURM_STEP_NUM_NODES=1",
                "SLURM_STEP_NODELIST=nowhere[1-2]", NULL);
    assert_int_equal(world_run(4, by_slurm), 0);
    environment("SLURM_STEP_ID=0", "SLURM_JOB_ID=124", "SLURM_STEP_NODELIST=localhost",
                "THRUM_SECRET=0123456789abcdef0123", NULL);
    assert_int_equal(world_run(4, by_slurm), 0);
    environment("OMPI_MCA_ess_base_jobid=99", NULL);
    assert_int_equal(world_run(4, by_open_mpi), 0);
}

static void wrong_secret(struct world *world, int rank)
{
    struct launch_info info;
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    set_int("THRUM_RANK", rank);
    set_int("THRUM_SIZE", world->nranks);
    if (rank == 1)
        setenv("THRUM_SECRET", "0123456789abcdef9999", 1);
    WORLD_CHECK(launch_detect(&info) == THRUM_OK);
    WORLD_CHECK(launch_exchange_id(&info, 0, 20000, &id) == THRUM_OK);
    world_note(world, rank, bootstrap_join(&id, rank, world->nranks, 3000, &b));
    bootstrap_close(b);
}

static void a_mistyped_secret_is_found(void **state)
{
    struct world *world;

    (void)state;
    environment(with_port("THRUM_ROOT=127.0.0.1:", 8), "THRUM_SECRET=0123456789abcdef0123", NULL);
    world = world_start(3, wrong_secret);
    assert_int_equal(world_wait(world), 0);
    assert_int_equal(world->ranks[0].status, THRUM_ERR_TIMEOUT);
    assert_int_equal(world->ranks[1].status, THRUM_ERR_AUTH);
    assert_int_equal(world->ranks[2].status, THRUM_ERR_TIMEOUT);
    assert_non_null(strstr(world->ranks[2].message, "rank 1 did not join"));
    world_free(world);
}

static void alone(struct world *world, int rank)
{
    struct launch_info info;
    struct thrum_unique_id id;

    if (rank == 1)
        return;
    set_int("THRUM_RANK", rank);
    set_int("THRUM_SIZE", world->nranks);
    WORLD_CHECK(launch_detect(&info) == THRUM_OK);
    world_note(world, rank, launch_exchange_id(&info, 0, 300, &id));
}

static void a_missing_rank_is_named_on_one_host(void **state)
{
    struct world *world;

    (void)state;
    environment(with_port("THRUM_ROOT=127.0.0.1:", 9), NULL);
    world = world_start(2, alone);
    assert_int_equal(world_wait(world), 0);
    assert_int_equal(world->ranks[0].status, THRUM_ERR_TIMEOUT);
    assert_non_null(strstr(world->ranks[0].message, "rank 1 did not ask"));
    world_free(world);
}

static void of_another_size(struct world *world, int rank)
{
    struct launch_info info;
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;
    thrum_status_t status;

    set_int("THRUM_RANK", rank);
    set_int("THRUM_SIZE", world->nranks + rank);
    WORLD_CHECK(launch_detect(&info) == THRUM_OK);
    status = launch_exchange_id(&info, 0, 3000, &id);
    if (!status)
        status = bootstrap_join(&id, rank, info.nranks, 3000, &b);
    world_note(world, rank, status);
}

static void ranks_on_one_host_disagree_about_nranks(void **state)
{
    struct world *world;

    (void)state;
    environment(with_port("THRUM_ROOT=127.0.0.1:", 12), NULL);
    world = world_start(2, of_another_size);
    assert_int_equal(world_wait(world), 0);
    for (int r = 0; r < 2; r++) {
        assert_int_equal(world->ranks[r].status, THRUM_ERR_MISMATCH);
        assert_non_null(strstr(world->ranks[r].message, "nranks"));
    }
    world_free(world);
}

/* ---- other users of the host ---- */

static char other_sockets[4000];

/* The abstract socket where rank 0 hands out the id, as any user can see it. */
static bool find_socket(struct sockaddr_un *name, socklen_t *length)
{
    char line[400];
    FILE *table = fopen("/proc/net/unix", "r");
    bool found = false;

    while (table && !found && fgets(line, sizeof line, table)) {
        char *at = strstr(line, "@thrum-id-");

        if (!at)
            continue;
        at[strcspn(at, "\n")] = 0;
        *name = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(name->sun_path + 1, at + 1, strlen(at + 1));
        *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(at));
        found = !strstr(other_sockets, at);
    }
    if (table)
        fclose(table);
    return found;
}

/* Those of other runs on this host. */
static void note_other_sockets(void)
{
    struct sockaddr_un name;
    socklen_t length;

    other_sockets[0] = 0;
    while (strlen(other_sockets) + sizeof name.sun_path + 2 < sizeof other_sockets &&
           find_socket(&name, &length)) {
        strcat(other_sockets, "@");
        strcat(other_sockets, name.sun_path + 1);
    }
}

static void nobody_asks(struct world *world)
{
    struct sockaddr_un name;
    socklen_t length;
    int32_t hello[2] = {1, 2};
    char answer[200];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    WORLD_CHECK(!setgid(65534) && !setuid(65534));
    while (!find_socket(&name, &length) || connect(fd, (struct sockaddr *)&name, length))
        usleep(1000);
    (void)!send(fd, hello, sizeof hello, MSG_NOSIGNAL);
    WORLD_CHECK(recv(fd, answer, sizeof answer, 0) <= 0);
    close(fd);
    atomic_store(&world->go, 1);
}

static void with_another_user(struct world *world, int rank)
{
    struct launch_info info = {rank, 2, -1, "thrum", NULL};
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    if (rank == 2) {
        nobody_asks(world);
        return;
    }
    if (rank == 1)
        world_await(&world->go, 1);
    WORLD_CHECK(launch_exchange_id(&info, 0, 20000, &id) == THRUM_OK);
    WORLD_CHECK(bootstrap_join(&id, rank, 2, 20000, &b) == THRUM_OK);
    bootstrap_close(b);
}

static void an_id_goes_to_its_user_only(void **state)
{
    (void)state;
    if (geteuid())
        skip(); /* only root can be somebody else */
    environment(with_port("THRUM_ROOT=127.0.0.1:", 10), NULL);
    note_other_sockets();
    assert_int_equal(world_run(3, with_another_user), 0);
}

/* The name is taken by another user: the ranks do not believe what they would get there. */
static void squats(struct world *world, int rank)
{
    struct launch_info info = {rank, 2, -1, "thrum", NULL};
    struct thrum_unique_id id;

    if (rank == 2) {
        struct sockaddr_un name;
        socklen_t length;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        while (!find_socket(&name, &length))
            usleep(1000);
        world_await(&world->go, 2);
        WORLD_CHECK(!setgid(65534) && !setuid(65534));
        WORLD_CHECK(!bind(fd, (struct sockaddr *)&name, length) && !listen(fd, 9));
        atomic_store(&world->go, 3);
        world_await(&world->go, 4);
        close(fd);
        return;
    }
    if (rank == 0) {
        WORLD_CHECK(launch_exchange_id(&info, 0, 1500, &id) == THRUM_ERR_TIMEOUT);
        atomic_store(&world->go, 2);
        return;
    }
    world_await(&world->go, 3);
    WORLD_CHECK(launch_exchange_id(&info, 0, 5000, &id) == THRUM_ERR_AUTH);
    WORLD_CHECK(strstr(thrum_last_error(), "65534"));
    atomic_store(&world->go, 4);
}

static void a_squatter_is_not_believed(void **state)
{
    (void)state;
    if (geteuid())
        skip();
    environment(with_port("THRUM_ROOT=127.0.0.1:", 11), NULL);
    note_other_sockets();
    assert_int_equal(world_run(3, squats), 0);
}

/* ---- PMI-1 ---- */

struct pmi_server {
    int fds[8], nranks, in_barrier, finalized;
    char keys[8][64], values[8][400];
    int nkeys;
    int version;
};

static void answer(int fd, const char *text)
{
    (void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void pmi_line(struct pmi_server *server, int rank, char *line)
{
    int fd = server->fds[rank];
    char reply[600], key[64], value[400];

    if (!strncmp(line, "cmd=init", 8)) {
        snprintf(reply, sizeof reply, "cmd=response_to_init pmi_version=%d pmi_subversion=1 rc=0\n",
                 server->version);
        answer(fd, reply);
    } else if (!strncmp(line, "cmd=get_maxes", 13)) {
        answer(fd, "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n");
    } else if (!strncmp(line, "cmd=get_my_kvsname", 18)) {
        answer(fd, "cmd=my_kvsname kvsname=kvs_1_0\n");
    } else if (sscanf(line, "cmd=put kvsname=kvs_1_0 key=%63s value=%399s", key, value) == 2) {
        snprintf(server->keys[server->nkeys], 64, "%s", key);
        snprintf(server->values[server->nkeys++], 400, "%s", value);
        answer(fd, "cmd=put_result rc=0 msg=success\n");
    } else if (!strncmp(line, "cmd=barrier_in", 14)) {
        if (++server->in_barrier == server->nranks) {
            server->in_barrier = 0;
            for (int r = 0; r < server->nranks; r++)
                answer(server->fds[r], "cmd=barrier_out rc=0\n");
        }
    } else if (sscanf(line, "cmd=get kvsname=kvs_1_0 key=%63s", key) == 1) {
        snprintf(reply, sizeof reply, "cmd=get_result rc=-1 msg=key_not_found\n");
        for (int i = 0; i < server->nkeys; i++)
            if (!strcmp(server->keys[i], key))
                snprintf(reply, sizeof reply, "cmd=get_result rc=0 msg=success value=%s\n",
                         server->values[i]);
        answer(fd, reply);
    } else if (!strncmp(line, "cmd=finalize", 12)) {
        server->finalized++;
        answer(fd, "cmd=finalize_ack\n");
    }
}

/* Reads single bytes from all ranks in turn until they have closed. */
static void pmi_serve(struct pmi_server *server)
{
    static char lines[8][1000];
    size_t lengths[8] = {0};
    int open = server->nranks;

    while (open)
        for (int r = 0; r < server->nranks; r++) {
            ssize_t n;

            if (server->fds[r] < 0)
                continue;
            n = recv(server->fds[r], &lines[r][lengths[r]], 1, MSG_DONTWAIT);
            if (n < 0) {
                usleep(200);
                continue;
            }
            if (!n || lengths[r] == 998) {
                close(server->fds[r]);
                server->fds[r] = -1;
                open--;
            } else if (lines[r][lengths[r]++] == '\n') {
                lines[r][lengths[r]] = 0;
                lengths[r] = 0;
                pmi_line(server, r, lines[r]);
            }
        }
}

static int pmi_ends[8]; /* the ranks' sides */
static thrum_status_t pmi_expected;

/* It does not say goodbye to the launcher for its parent. */
static void exit_in_a_child(void)
{
    pid_t child = fork();
    int how;

    WORLD_CHECK(child >= 0);
    if (!child)
        exit(0);
    WORLD_CHECK(waitpid(child, &how, 0) == child && !how);
}

static void by_pmi(struct world *world, int rank)
{
    struct launch_info info;
    struct thrum_unique_id id;
    struct bootstrap *b = NULL;

    for (int r = 0; r < world->nranks; r++)
        if (r != rank)
            close(pmi_ends[r]);
    set_int("PMI_FD", pmi_ends[rank]);
    set_int("PMI_RANK", rank);
    set_int("PMI_SIZE", world->nranks);
    WORLD_CHECK(launch_detect(&info) == THRUM_OK);
    for (uint64_t instance = 0; instance < 3; instance++) {
        WORLD_CHECK(launch_exchange_id(&info, instance, 20000, &id) == pmi_expected);
        if (pmi_expected) {
            WORLD_CHECK(strstr(thrum_last_error(), "PMI"));
            return;
        }
        WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 20000, &b) == THRUM_OK);
        bootstrap_close(b);
    }
    exit_in_a_child();
}

static int run_pmi(int nranks, int version)
{
    struct pmi_server server = {.nranks = nranks, .version = version};
    struct world *world;
    int failed;

    for (int r = 0; r < nranks; r++) {
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        server.fds[r] = pair[0];
        pmi_ends[r] = pair[1];
    }
    environment(NULL, NULL);
    world = world_start(nranks, by_pmi);
    for (int r = 0; r < nranks; r++)
        close(pmi_ends[r]);
    pmi_serve(&server);
    failed = world_wait(world);
    world_free(world);
    if (!pmi_expected)
        assert_int_equal(server.finalized, nranks);
    return failed;
}

static void pmi_1_is_spoken(void **state)
{
    (void)state;
    pmi_expected = THRUM_OK;
    assert_int_equal(run_pmi(4, 1), 0);
    pmi_expected = THRUM_ERR_UNSUPPORTED;
    assert_int_equal(run_pmi(2, 2), 0);
}

static int restore(void **state)
{
    (void)state;
    environment(NULL, NULL);
    return 0;
}

/* Each communicator that meets at an address has an id of its own, the same on all ranks. */
static void ids_of_one_address_differ(void **state)
{
    const char *root = with_port("127.0.0.1:", 40);
    struct thrum_unique_id ids[3][2], other;

    (void)state;
    environment("THRUM_SECRET=0123456789abcdef0123456789abcdef", NULL);
    for (int i = 0; i < 3; i++) /* no rank 0: it would serve there */
        for (int rank = 1; rank <= 2; rank++)
            assert_int_equal(thrum_agree_unique_id(root, rank, 3, &ids[i][rank - 1]), THRUM_OK);
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(&ids[i][0], &ids[i][1], sizeof ids[i][0]);
        assert_memory_not_equal(&ids[i][0], &ids[(i + 1) % 3][0], sizeof ids[i][0]);
    }
    assert_int_equal(thrum_agree_unique_id(root, 1, 4, &other), THRUM_OK); /* of other ranks */
    for (int i = 0; i < 3; i++)
        assert_memory_not_equal(&ids[i][0], &other, sizeof other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(launchers_are_found),
        cmocka_unit_test(the_innermost_launcher_counts),
        cmocka_unit_test(contradictions_name_the_variables),
        cmocka_unit_test(slurm_node_lists),
        cmocka_unit_test(secrets_are_asked_for),
        cmocka_unit_test(every_way_leads_together),
        cmocka_unit_test(a_mistyped_secret_is_found),
        cmocka_unit_test(a_missing_rank_is_named_on_one_host),
        cmocka_unit_test(ranks_on_one_host_disagree_about_nranks),
        cmocka_unit_test(an_id_goes_to_its_user_only),
        cmocka_unit_test(a_squatter_is_not_believed),
        cmocka_unit_test(pmi_1_is_spoken),
        cmocka_unit_test(ids_of_one_address_differ),
    };
    base_port = 20000 + getpid() % 500 * 20;
    return cmocka_run_group_tests_name("bootstrap launchers", tests, NULL, restore);
}
