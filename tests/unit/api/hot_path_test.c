/*
 * What a call costs that is made again and again: no allocation, no lock (but for one in some hundred calls), no system
 * call. The functions of the C
 * library are counted by standing in front of them, system calls by a seccomp filter of the calling thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "ranks.h"

#define RANKS 2
#define ROUNDS 2000
#define COUNT 4096

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* the sanitizers stand there themselves */
#else
#define SANITIZED 0
#endif

static float *sends[RANKS], *recvs[RANKS];

static _Thread_local bool counting;
static _Thread_local unsigned allocations, locks;
static _Thread_local volatile unsigned system_calls;

#if !SANITIZED
#pragma GCC visibility push(default) /* the library is to find these, not those of libc */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);

void *malloc(size_t bytes)
{
    allocations += counting;
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    allocations += counting;
    return __libc_calloc(n, bytes);
}

void *realloc(void *old, size_t bytes)
{
    allocations += counting;
    return __libc_realloc(old, bytes);
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*real)(pthread_mutex_t *);

    if (!real)
        real = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    locks += counting;
    return real(mutex);
}
#pragma GCC visibility pop
#endif

static int make(void **state)
{
    (void)state;
    ranks_open(RANKS);
    for (int r = 0; r < RANKS; r++) {
        void *address;

        ok(thrum_mem_alloc(devices[r], COUNT * sizeof(float), &address));
        sends[r] = address;
        ok(thrum_mem_alloc(devices[r], COUNT * sizeof(float) * RANKS, &address));
        recvs[r] = address;
    }
    ranks_join(RANKS, NULL);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    ranks_leave(RANKS);
    ranks_close(RANKS);
    return 0;
}

/* What is done in a round by each rank. Statuses are collected: a failed assertion is not for a filtered thread. */
typedef thrum_status_t (*round_fn)(int rank);

static thrum_status_t tiny(int r)
{
    return thrum_allreduce(sends[r], recvs[r], 2, THRUM_FLOAT32, THRUM_SUM, comms[r], queues[r]);
}

static thrum_status_t mixed(int r)
{
    thrum_status_t status =
        thrum_allreduce(sends[r], recvs[r], COUNT, THRUM_FLOAT32, THRUM_MAX, comms[r], queues[r]);

    if (!status)
        status = thrum_broadcast(sends[r], recvs[r], 100, THRUM_FLOAT32, 1, comms[r], queues[r]);
    if (!status)
        status = thrum_allgather(sends[r], recvs[r], 300, THRUM_FLOAT32, comms[r], queues[r]);
    return status ? status : thrum_barrier(comms[r], queues[r]);
}

/* A message each way, which both fits a line and does not. */
static thrum_status_t exchange(int r, size_t count)
{
    int other = RANKS - 1 - r;
    thrum_status_t status = thrum_group_start();

    if (!status)
        status = thrum_send(sends[r], count, THRUM_FLOAT32, other, comms[r], queues[r]);
    if (!status)
        status = thrum_recv(recvs[r], count, THRUM_FLOAT32, other, comms[r], queues[r]);
    return status ? status : thrum_group_end();
}

static thrum_status_t messages(int r)
{
    thrum_status_t status = exchange(r, 2);

    return status ? status : exchange(r, COUNT);
}

static thrum_status_t rounds(round_fn one, int n)
{
    for (int i = 0; i < n; i++) {
        thrum_status_t status = THRUM_OK;

        for (int r = 0; r < RANKS && !status; r++)
            status = one(r);
        for (int r = RANKS - 1; r >= 0 && !status; r--)
            status = thrum_queue_synchronize(queues[r]);
        if (status)
            return status;
    }
    return THRUM_OK;
}

/* Records of operations that have ended are collected under a lock, once in so many calls. */
#define CALLS_PER_LOCK 250

static void count_library_calls(round_fn one, unsigned calls)
{
    if (SANITIZED)
        skip();
    ok(rounds(one, 10));
    allocations = locks = 0;
    counting = true;
    ok(rounds(one, ROUNDS));
    counting = false;
    assert_int_equal(allocations, 0);
    if (locks > calls / CALLS_PER_LOCK + 1)
        fail_msg("%u locks in %u calls", locks, calls);
}

static void tiny_takes_no_allocation_and_no_lock(void **state)
{
    (void)state;
    count_library_calls(tiny, RANKS * ROUNDS);
}

static void mixed_takes_no_allocation_and_no_lock(void **state)
{
    (void)state;
    count_library_calls(mixed, RANKS * ROUNDS * 4);
}

static void messages_take_no_allocation_and_no_lock(void **state)
{
    (void)state;
    count_library_calls(messages, RANKS * ROUNDS * 2);
}

/* ---- system calls ---- */

static void on_system_call(int signal, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;

    (void)signal, (void)info;
    system_calls++;
#if defined(__x86_64__)
    /* it was not made: an allocation has failed; a yield or a wake that is missing does no harm */
    frame->uc_mcontext.gregs[REG_RAX] = -ENOMEM;
#elif defined(__aarch64__)
    frame->uc_mcontext.regs[0] = (unsigned long long)-ENOMEM;
#endif
}

static bool trap_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_rt_sigreturn, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

#define QUIET_WITHIN 20
#define SYSTEM_CALLS (1 + ROUNDS * RANKS / 1000) /* for an engine thread that had gone to sleep */

struct trapped {
    thrum_status_t status;
    unsigned system_calls;
    bool filtered;
};

static void *run_trapped(void *argument)
{
    struct trapped *t = argument;

    t->status = rounds(tiny, 10);
    t->filtered = trap_system_calls();
    /* where the engine thread is put aside while it has a queue, a yield is due: so once in so many it is quiet */
    for (int i = 0; i < QUIET_WITHIN && (!i || t->system_calls > SYSTEM_CALLS); i++) {
        system_calls = 0;
        if (t->filtered && !t->status)
            t->status = rounds(tiny, ROUNDS);
        t->system_calls = system_calls;
    }
    return NULL;
}

static void tiny_takes_no_system_call(void **state)
{
    struct sigaction action = {.sa_sigaction = on_system_call, .sa_flags = SA_SIGINFO};
    struct trapped trapped = {0};
    pthread_t thread;

    (void)state;
    if (SANITIZED)
        skip();
    assert_int_equal(sigaction(SIGSYS, &action, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_trapped, &trapped), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (!trapped.filtered)
        skip(); /* a sandbox without seccomp */
    ok(trapped.status);
    if (trapped.system_calls > SYSTEM_CALLS)
        fail_msg("%u system calls in %d calls", trapped.system_calls, ROUNDS * RANKS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tiny_takes_no_allocation_and_no_lock, make, unmake),
        cmocka_unit_test_setup_teardown(mixed_takes_no_allocation_and_no_lock, make, unmake),
        cmocka_unit_test_setup_teardown(messages_take_no_allocation_and_no_lock, make, unmake),
        cmocka_unit_test_setup_teardown(tiny_takes_no_system_call, make, unmake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
