/*
 * What the fault tests share: a crew of ranks as processes of their own (the test's own program, started again with
 * --child), a line protocol over pipes between the test and each rank, and a check that nothing is left behind.
 *
 * Nothing here sleeps to order things: a rank says a line when it has come somewhere, and hears one before it goes on.
 */
#ifndef TESTS_FAULT_HARNESS_H
#define TESTS_FAULT_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/types.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#include "../counts.h"

/* ---- the side of the test ---- */

#define CREW_MAX 8
#define CREW_LINE 2048

struct crew {
    int nranks;
    pid_t pids[CREW_MAX]; /* 0: gone, and waited for */
    int to[CREW_MAX], from[CREW_MAX]; /* pipes */
    char lines[CREW_MAX][CREW_LINE]; /* what was read and not yet handed out */
    size_t held[CREW_MAX];
    int status[CREW_MAX]; /* of waitpid */
    int port; /* of THRUM_ROOT */
};

/*
 * Starts `nranks` processes in the role `role`, with THRUM_RANK, _SIZE and _ROOT and the settings "NAME=value" of `env`
 * (ends with NULL; may be NULL; @ in a value stands for the rank).
 */
void crew_start(struct crew *crew, const char *role, int nranks, const char *const *env);
/* The next line of a rank, without its end; fails the test after `timeout_ms` or if the rank is gone. */
const char *crew_hear(struct crew *crew, int rank, int timeout_ms);
/* Hears a line from a rank, or from all, that has to begin with `start`. Returns the (last) line. */
const char *crew_expect(struct crew *crew, int rank, const char *start);
void crew_expect_all(struct crew *crew, const char *start);
/* Hears "result STATUS message" and compares the status; the message has to contain each of the NULL-ended texts. */
void crew_expect_result(struct crew *crew, int rank, thrum_status_t status, ...);
void crew_say(struct crew *crew, int rank, const char *text);
void crew_say_all(struct crew *crew, const char *text);
void crew_kill(struct crew *crew, int rank, int signal);
/* Waits for a rank that ends by itself, with whatever status. */
void crew_wait(struct crew *crew, int rank);
/* Hears an id from rank `from` and says it to all other ranks in [0, nranks). */
void crew_relay_id(struct crew *crew, int from, int nranks);
/* Every rank that was not killed has to leave by itself with status 0 in time. */
void crew_finish(struct crew *crew);

/* A free TCP port on this host, or so it seems. */
int free_port(void);
int64_t clock_ms(void);

/* cmocka setup and teardown of every test: what is there before and after has to be the same. */
int leftovers_before(void **state);
int leftovers_after(void **state);

/* ---- the side of a rank ---- */

struct child {
    int rank, nranks;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
};

struct role {
    const char *name;
    void (*run)(struct child *child);
};

/* If the program was started as a rank: plays the role and exits. Else returns. */
void child_main(int argc, char **argv, const struct role *roles, size_t nroles);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The next line of the test; leaves if there is none within a minute. */
const char *hear(void);
/* Says "result STATUS message". */
void say_result(thrum_status_t status);
/* Says "id HEX"; hears it, and leaves if that is not what comes. */
void say_id(const struct thrum_unique_id *id);
struct thrum_unique_id hear_id(void);
/* Leaves with a message if the status is not OK. */
#define MUST(call) child_must((call), #call)
void child_must(thrum_status_t status, const char *call);

/* Opens a device and a queue; joins by the environment; closes what is open. */
void child_open(struct child *child);
void child_join(struct child *child);
void child_close(struct child *child);
/* A communicator of ranks 0 .. nranks-1 by an id that rank 0 makes and the test relays (crew_relay_id). */
thrum_comm_t child_join_by_relay(struct child *child, int nranks);
/* Sum over the ranks of `count` int32 ones, by device memory; the status, and whether each element is nranks. */
thrum_status_t child_sum(struct child *child, thrum_comm_t comm, size_t count, bool *right_out);

#endif
