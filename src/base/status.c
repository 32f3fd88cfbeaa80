/* Status names, the last error of a thread, and the log. Called by every layer. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"

#define MESSAGE_BYTES 1024

/*
 * Allocated with a thread's first error: the loader has only a few hundred bytes left for all thread-local memory of a
 * library that a running program opens, such as Python.
 */
static _Thread_local BASE_FAST_TLS char *last_error;
static pthread_key_t last_error_key; /* frees it with the thread */
static bool has_key;

static void drop_last_error(void *text)
{
    last_error = NULL;
    free(text);
}

static void make_key(void)
{
    has_key = !pthread_key_create(&last_error_key, drop_last_error);
}

/* The library goes, maybe before its threads. */
__attribute__((destructor)) static void delete_key(void)
{
    if (has_key)
        pthread_key_delete(last_error_key);
    has_key = false;
}

/* NULL: no memory. */
static char *need_last_error(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (last_error)
        return last_error;
    pthread_once(&once, make_key);
    last_error = calloc(1, MESSAGE_BYTES);
    if (last_error && (!has_key || pthread_setspecific(last_error_key, last_error)))
        drop_last_error(last_error);
    return last_error;
}

const char *thrum_status_name(thrum_status_t status)
{
    switch (status) {
#define X(name, value, text) \
    case THRUM_##name: \
        return "THRUM_" #name;
        THRUM_STATUS_MAP(X)
#undef X
    }
    return "THRUM_ERR_UNKNOWN";
}

const char *thrum_status_string(thrum_status_t status)
{
    switch (status) {
#define X(name, value, text) \
    case THRUM_##name: \
        return text;
        THRUM_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *thrum_last_error(void)
{
    return last_error ? last_error : "";
}

/* ---- the log ---- */

/* What thrum_log_default said. */
static _Atomic int default_level = -1;
static char *_Atomic default_file; /* never freed: others may be reading it */

void thrum_log_default(enum log_level level, const char *file)
{
    atomic_store(&default_level, (int)level);
    if (file && *file && !atomic_load(&default_file))
        atomic_store(&default_file, strdup(file));
}

/* The name with %h and %p replaced; false: it is too long. */
static bool expand_name(const char *name, const char *host, char *out, size_t bytes)
{
    size_t used = 0;

    for (; *name && used < bytes; name++) {
        bool is_mark = *name == '%' && (name[1] == 'h' || name[1] == 'p' || name[1] == '%');
        int n;

        name += is_mark;
        if (is_mark && *name == 'h')
            n = snprintf(out + used, bytes - used, "%s", host);
        else if (is_mark && *name == 'p')
            n = snprintf(out + used, bytes - used, "%d", (int)getpid());
        else
            n = snprintf(out + used, bytes - used, "%c", *name);
        used += n > 0 ? (size_t)n : 0;
    }
    return used < bytes;
}

/* A descriptor to append to, the caller's to close; -1: stderr. A process that was forked has a name of its own. */
static int open_log(const char *host)
{
    const char *name = thrum_config_is_set(CFG_LOG_FILE) ? thrum_config_string(CFG_LOG_FILE)
                                                         : atomic_load(&default_file);
    char path[4096];

    if (!name || !*name || !expand_name(name, host, path, sizeof path))
        return -1;
    /* a fifo that nobody reads must not hold up a rank: it cannot be opened, or loses lines while it is full */
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
}

static void log_line(enum log_level level, const char *text)
{
    static const char *const names[] = {"NOTE", "ERROR", "WARN", "INFO", "DEBUG"};
    char host[65] = "";
    int fd, error = errno; /* who logs may not have looked at it yet */

    gethostname(host, sizeof host - 1);
    fd = open_log(host);
    dprintf(fd < 0 ? STDERR_FILENO : fd, "thrum[%s:%d] %s: %s\n", host, (int)getpid(),
            names[level + 1], text);
    if (fd >= 0)
        close(fd);
    errno = error;
}

static bool log_wanted(enum log_level level)
{
    int fallback = atomic_load_explicit(&default_level, memory_order_relaxed);

    return (int64_t)level <=
           (fallback >= 0 && !thrum_config_is_set(CFG_LOG) ? fallback : thrum_config_int(CFG_LOG));
}

void thrum_log(enum log_level level, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;

    if (!log_wanted(level))
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_line(level, text);
}

thrum_status_t thrum_set_last_error(thrum_status_t status, const char *message)
{
    char *text = *message || last_error ? need_last_error() : NULL;

    if (text)
        snprintf(text, MESSAGE_BYTES, "%s", message);
    return status;
}

static thrum_status_t keep(thrum_status_t status, const char *text)
{
    thrum_set_last_error(status, text);
    if (log_wanted(LOG_INFO)) {
        char line[MESSAGE_BYTES + 64];
        snprintf(line, sizeof line, "%s (%s)", text, thrum_status_name(status));
        log_line(LOG_INFO, line);
    }
    return status;
}

thrum_status_t thrum_fail(thrum_status_t status, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return keep(status, text);
}

thrum_status_t thrum_fail_errno(thrum_status_t status, const char *format, ...)
{
    int error = errno;
    char text[MESSAGE_BYTES], cause[128];
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length >= 0 && (size_t)length < sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, ": %s",
                 strerror_r(error, cause, sizeof cause));
    return keep(status, text);
}
