/* What the machine gives without the library: the limit for everything else. See bench_link.h. */
#include "bench_link.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void move_all(const struct link_side *link, void *data, size_t bytes, bool out)
{
    char *at = data;

    while (bytes) {
        ssize_t n =
            out ? send(link->socket, at, bytes, MSG_NOSIGNAL) : recv(link->socket, at, bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            perf_die(PERF_EXIT_FAILED, "the other process has ended");
        at += n;
        bytes -= (size_t)n;
    }
}

void link_exchange(const struct link_side *link, const void *mine, void *theirs, size_t bytes)
{
    move_all(link, (void *)(uintptr_t)mine, bytes, true);
    move_all(link, theirs, bytes, false);
}

void link_sync(const struct link_side *link)
{
    char mine = 1, theirs;
    link_exchange(link, &mine, &theirs, 1);
}

void link_check(const struct link_side *link)
{
    char byte;

    if (recv(link->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        perf_die(PERF_EXIT_FAILED, "the other process has ended");
}

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_for(const struct link_side *link, struct link_flag *flag, uint64_t value)
{
    unsigned spins = 0, yields = 0;

    while (atomic_load_explicit(&flag->value, memory_order_acquire) < value) {
        if (!link->one_core && ++spins % 20000) {
            pause_cpu();
            continue;
        }
        sched_yield();
        if (++yields % 100 == 0)
            link_check(link);
    }
}

enum { BEFORE = 4 };

/* One-way time of `rounds` exchanges, after a few that make sure that both sides are awake. */
static double ping_pong(const struct link_side *link, uint64_t first, int rounds)
{
    double start = perf_now_us();

    for (uint64_t v = first; v < first + (uint64_t)(BEFORE + rounds); v++) {
        if (v == first + BEFORE)
            start = perf_now_us();
        if (link->side)
            wait_for(link, &link->flags[1], v);
        atomic_store_explicit(&link->flags[!link->side].value, v, memory_order_release);
        if (!link->side)
            wait_for(link, &link->flags[0], v);
    }
    return (perf_now_us() - start) / rounds / 2;
}

struct perf_stats link_raw_flag(const struct link_side *link, double budget_us)
{
    enum { ROUNDS = 1000, BATCHES = 100 };
    double samples[BATCHES], end;
    uint64_t value = 1;
    int n = 0, rounds = link->one_core ? ROUNDS / 10 : ROUNDS, more = 1, unused;

    link_sync(link);
    ping_pong(link, value, rounds);
    value += (uint64_t)(BEFORE + rounds);
    end = perf_now_us() + budget_us;
    do {
        link_sync(link);
        samples[n++] = ping_pong(link, value, rounds);
        value += (uint64_t)(BEFORE + rounds);
        if (!link->side)
            more = n < BATCHES && (n < 5 || perf_now_us() < end);
        if (link->side)
            link_exchange(link, &more, &more, sizeof more); /* side 0 decides */
        else
            link_exchange(link, &more, &unused, sizeof more);
    } while (more);
    return perf_statistics(samples, n);
}

double link_raw_copy(void *dst, const void *src, size_t bytes, int times)
{
    double start = perf_now_us();

    for (int i = 0; i < times; i++) {
        memcpy(dst, src, bytes);
        __asm__ volatile("" ::"r"(dst) : "memory"); /* each copy is made */
    }
    return (perf_now_us() - start) / times;
}
