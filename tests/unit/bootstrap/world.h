/*
 * Ranks as processes, for the tests of bootstrap. Rank 0 makes the id and hands it to the others through a pipe; what
 * they find out goes to memory that all share.
 */
#ifndef TESTS_BOOTSTRAP_WORLD_H
#define TESTS_BOOTSTRAP_WORLD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bootstrap/bootstrap.h"

#define WORLD_MAX 128

struct world_rank {
    thrum_status_t status;
    int culprit;
    char message[1024];
    int64_t at_ns; /* when the rank noted what the test asks for */
    int calls;
    atomic_int stage; /* the test's own */
};

struct world {
    int nranks;
    int id_pipe[2];
    atomic_int counter, go, noted, stay_for; /* the test's own */
    pid_t pids[WORLD_MAX];
    struct thrum_unique_id id;
    struct world_rank ranks[WORLD_MAX];
};

typedef void (*world_main)(struct world *world, int rank);

/* Starts the ranks; each runs `main` and exits. */
struct world *world_start(int nranks, world_main main);
/* Waits for all; returns how many did not exit with 0 (a rank killed by `world_kill` counts too). */
int world_wait(struct world *world);
void world_free(struct world *world);
int world_run(int nranks, world_main main); /* all three */

/* In a rank: makes (rank 0) or receives the id. */
struct thrum_unique_id world_id(struct world *world, int rank);
/* In a rank: keeps what the last call gave. */
void world_note(struct world *world, int rank, thrum_status_t status);
/* Waits until *value >= least; ends the process after 60 s. */
void world_await(atomic_int *value, int least);
/* TCP ports of a process's sockets that are in `state` (1 established, 10 listening), from /proc. Returns how many. */
int world_tcp_ports(pid_t pid, unsigned state, int *ports, int most);
/* In a rank: ends it with a message if it is not so. */
#define WORLD_CHECK(condition) \
    do { \
        if (!(condition)) \
            world_broken(__FILE__, __LINE__, #condition); \
    } while (0)
void world_broken(const char *file, int line, const char *condition) __attribute__((noreturn));

int world_open_files(void); /* how many descriptors this process has */
int world_threads(void);
/* Waits up to 5 s until there are again this many descriptors and threads; true if so. */
bool world_settles(int files, int threads);

#endif
