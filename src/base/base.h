/*
 * base: what every layer stands on. Errors and log, checked arithmetic, time, small helpers.
 * Called by everyone; calls nobody.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <thrum/status.h>

enum log_level { LOG_NOTE = -1 /* always */, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/*
 * Decides an error: keeps the message for thrum_last_error() of this thread, logs it once at INFO, returns `status`.
 * Callers further up pass the status on silently.
 */
thrum_status_t thrum_fail(thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same with ": <strerror(errno)>" appended. */
thrum_status_t thrum_fail_errno(thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Replaces the kept message without logging; for errors found on another thread. Returns status. */
thrum_status_t thrum_set_last_error(thrum_status_t status, const char *message);

/*
 * The log where THRUM_LOG and THRUM_LOG_FILE do not say it: for what has variables of its own. file NULL: stderr. What
 * was written before stays where it is. Not while others log.
 */
void thrum_log_default(enum log_level level, const char *file);
/* One line "thrum[host:pid] LEVEL: text" to the log if THRUM_LOG asks for the level. */
void thrum_log(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Checked arithmetic: true if it overflowed (like the compiler's builtins). */
static inline bool mul_overflows(size_t a, size_t b, size_t *out)
{
    return __builtin_mul_overflow(a, b, out);
}
static inline bool add_overflows(size_t a, size_t b, size_t *out)
{
    return __builtin_add_overflow(a, b, out);
}

static inline uint64_t round_up_u64(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* CLOCK_MONOTONIC, nanoseconds. */
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* For the few words of a thread that every call looks at: no call into the loader. */
#define BASE_FAST_TLS __attribute__((tls_model("initial-exec")))

/* The line at p is about to be written: it may come here now. Any p will do. */
static inline void cpu_prefetch_for_write(const void *p)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)p)); /* the builtin would only read */
#else
    __builtin_prefetch(p, 1);
#endif
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* FNV-1a: adds bytes to a hash that began with HASH_START. */
#define HASH_START 0xcbf29ce484222325u
static inline uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

#define CACHE_LINE_BYTES 64

/*
 * Where a process that has communicators answers thrum-ras: the abstract unix socket of this name, its number, and the inode of
 * the PID namespace where that is its number: "thrum-ras-4711-4026531836".
 */
#define STATUS_SOCKET "thrum-ras-"

#endif
