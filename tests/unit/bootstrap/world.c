/* See world.h. */
#include "world.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../counts.h"
#include "base/base.h"

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

struct world *world_start(int nranks, world_main main)
{
    struct world *world =
        mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (world == MAP_FAILED || pipe(world->id_pipe))
        abort();
    world->nranks = nranks;
    fflush(NULL);
    for (int r = 0; r < nranks; r++) {
        pid_t pid = fork();

        if (pid < 0)
            abort();
        if (!pid) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm(90);
            if (r)
                close(world->id_pipe[1]);
            main(world, r);
            fflush(NULL);
            exit(0);
        }
        world->pids[r] = pid;
    }
    close(world->id_pipe[1]);
    return world;
}

int world_wait(struct world *world)
{
    int failed = 0, how;

    for (int r = 0; r < world->nranks; r++) {
        if (waitpid(world->pids[r], &how, 0) < 0 || how) {
            failed++;
        }
    }
    return failed;
}

void world_free(struct world *world)
{
    close(world->id_pipe[0]);
    munmap(world, sizeof *world);
}

int world_run(int nranks, world_main main)
{
    struct world *world = world_start(nranks, main);
    int failed = world_wait(world);

    world_free(world);
    return failed;
}

struct thrum_unique_id world_id(struct world *world, int rank)
{
    struct thrum_unique_id id = {{0}};

    if (rank) {
        WORLD_CHECK(read(world->id_pipe[0], &id, sizeof id) == (ssize_t)sizeof id);
        return id;
    }
    WORLD_CHECK(bootstrap_make_id(&id) == THRUM_OK);
    world->id = id;
    for (int r = 1; r < world->nranks; r++)
        WORLD_CHECK(write(world->id_pipe[1], &id, sizeof id) == (ssize_t)sizeof id);
    return id;
}

void world_note(struct world *world, int rank, thrum_status_t status)
{
    world->ranks[rank].status = status;
    world->ranks[rank].at_ns = now_ns();
    snprintf(world->ranks[rank].message, sizeof world->ranks[rank].message, "%s",
             status ? thrum_last_error() : "");
}

void world_await(atomic_int *value, int least)
{
    int64_t due = now_ns() + 60000000000;

    while (atomic_load(value) < least) {
        if (now_ns() > due)
            world_broken(__FILE__, __LINE__, "the others come");
        nap();
    }
}

void world_broken(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: %s does not hold (last error: %s)\n", file, line, condition,
            thrum_last_error());
    fflush(NULL);
    _exit(1);
}

int world_open_files(void)
{
    return count_descriptors();
}

int world_threads(void)
{
    return count_threads();
}

#ifdef __SANITIZE_THREAD__
#define SANITIZER_THREADS 1 /* the sanitizer starts one of its own with the first */
#else
#define SANITIZER_THREADS 0
#endif

bool world_settles(int files, int threads)
{
    int64_t due = now_ns() + 5000000000;

    while (world_open_files() > files || world_threads() > threads + SANITIZER_THREADS) {
        if (now_ns() > due)
            return false;
        nap();
    }
    return true;
}

int world_tcp_ports(pid_t pid, unsigned state, int *ports, int most)
{
    char path[400], target[100], line[400];
    int n = 0;
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    while (dir && n < most && (entry = readdir(dir))) {
        unsigned long inode, found;
        unsigned port, found_state;
        ssize_t length;
        FILE *table;

        snprintf(path, sizeof path, "/proc/%d/fd/%s", (int)pid, entry->d_name);
        length = readlink(path, target, sizeof target - 1);
        if (length < 0)
            continue;
        target[length] = 0;
        if (sscanf(target, "socket:[%lu]", &inode) != 1)
            continue;
        table = fopen("/proc/net/tcp", "r");
        while (table && fgets(line, sizeof line, table))
            if (sscanf(line, " %*d: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x %*d %*d %lu", &port,
                       &found_state, &found) == 3 &&
                found_state == state && found == inode)
                ports[n++] = (int)port;
        if (table)
            fclose(table);
    }
    if (dir)
        closedir(dir);
    return n;
}
