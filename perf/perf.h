/* What thrum-perf, thrum-bench-link and thrum-bench-kernels share: time, statistics, sizes as text, failing. */
#ifndef PERF_PERF_H
#define PERF_PERF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <thrum/thrum.h>

/* Exit codes of the programs. */
enum { PERF_EXIT_OK = 0, PERF_EXIT_WRONG = 1, PERF_EXIT_USAGE = 2, PERF_EXIT_FAILED = 3 };

double perf_now_us(void); /* CLOCK_MONOTONIC */

struct perf_stats {
    double min, median, p99;
};
/* Sorts the n >= 1 samples. The 99th percentile is by nearest rank: with fewer than 100 samples the largest. */
struct perf_stats perf_statistics(double *samples, int n);

/* "8", "64K", "1.5M", "2G" (1024), "64KiB": true if it is one and fits. */
bool perf_parse_bytes(const char *text, uint64_t *bytes_out);
/* A whole number from min to max. */
bool perf_parse_int(const char *text, long min, long max, long *value_out);
/* "64K": exact, with the largest unit that divides it. Returns `text`. */
const char *perf_format_bytes(uint64_t bytes, char text[24]);

/* Set by main, for messages. */
extern const char *perf_program;
extern int perf_rank; /* -1: do not print */

/* Prints "program: rank N: what: NAME: last error" and exits with PERF_EXIT_FAILED, unless the status is OK. */
void perf_check(thrum_status_t status, const char *what);
/* The same with a text of its own. */
void perf_die(int exit_code, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

void *
perf_malloc(size_t bytes); /* zeroed and touched, aligned to a page; dies if there is no memory */

#endif
