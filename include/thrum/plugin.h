/*
 * What the library offers to plugins: errors, log and configuration, so that a plugin's messages reach
 * thrum_last_error() and its variables stand in `thrum-info --config`. A plugin does not link with the library: what
 * loads it provides these.
 */
#ifndef THRUM_PLUGIN_H
#define THRUM_PLUGIN_H

#include <thrum/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#define THRUM_PLUGIN_FORMAT __attribute__((format(printf, 2, 3)))
#else
#define THRUM_PLUGIN_FORMAT
#endif

enum thrum_log_level {
    THRUM_LOG_NOTE = -1 /* always written */,
    THRUM_LOG_ERROR,
    THRUM_LOG_WARN,
    THRUM_LOG_INFO,
    THRUM_LOG_DEBUG
};

/*
 * Decides an error: keeps the message (printf's format; up to 500 bytes) for thrum_last_error() of this thread, logs it
 * at INFO and returns `status`. Any thread; does not block.
 */
thrum_status_t thrum_plugin_fail(thrum_status_t status, const char *format,
                                 ...) THRUM_PLUGIN_FORMAT;

/* One line to stderr if THRUM_LOG asks for the level. Any thread. */
void thrum_plugin_log(enum thrum_log_level level, const char *format, ...) THRUM_PLUGIN_FORMAT;

/*
 * What is logged, and the file to which (NULL: stderr; %h stands for the host, %p for the process), where THRUM_LOG and
 * THRUM_LOG_FILE do not say it: for a front end whose programs have variables of their own. Call it once.
 */
void thrum_plugin_log_default(enum thrum_log_level level, const char *file);

/*
 * The effective text of a variable of the library's table, such as "THRUM_FABRIC_DEVICE": the environment's or the
 * default; "" where it is unset or the configuration is not valid. NULL: there is no such variable. Static storage; any
 * thread.
 */
const char *thrum_plugin_config(const char *name);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
