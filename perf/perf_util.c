/* See perf.h. */
#include "perf.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *perf_program = "thrum-perf";
int perf_rank = -1;

double perf_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct perf_stats perf_statistics(double *samples, int n)
{
    int middle = n / 2, last = (int)ceil(0.99 * n) - 1;

    qsort(samples, (size_t)n, sizeof *samples, compare_doubles);
    return (struct perf_stats){
        .min = samples[0],
        .median = n % 2 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2,
        .p99 = samples[last],
    };
}

bool perf_parse_bytes(const char *text, uint64_t *bytes_out)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit =
        isalpha((unsigned char)*end) ? strchr(units, toupper((unsigned char)*end)) : NULL;

    if (end == text || !(value >= 0))
        return false;
    if (unit) {
        value *= (double)(UINT64_C(1024) << (10 * (unit - units)));
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B')
        end++;
    if (*end || value >= 0x1p62 || value != floor(value))
        return false;
    *bytes_out = (uint64_t)value;
    return true;
}

bool perf_parse_int(const char *text, long min, long max, long *value_out)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return false;
    *value_out = value;
    return true;
}

const char *perf_format_bytes(uint64_t bytes, char text[24])
{
    static const char *const units[] = {"", "K", "M", "G", "T"};
    int unit = 0;

    while (unit < 4 && bytes && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, 24, "%llu%s", (unsigned long long)bytes, units[unit]);
    return text;
}

/* In one write, so that lines of several ranks do not mix. */
void perf_die(int exit_code, const char *format, ...)
{
    char message[2048], rank[24] = "";
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (perf_rank >= 0)
        snprintf(rank, sizeof rank, "rank %d: ", perf_rank);
    fflush(stdout);
    dprintf(STDERR_FILENO, "%s: %s%s\n", perf_program, rank, message);
    exit(exit_code);
}

void perf_check(thrum_status_t status, const char *what)
{
    if (status != THRUM_OK)
        perf_die(PERF_EXIT_FAILED, "%s: %s: %s", what, thrum_status_name(status),
                 thrum_last_error());
}

void *perf_malloc(size_t bytes)
{
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    void *memory = aligned_alloc(4096, rounded ? rounded : 4096);

    if (!memory)
        perf_die(PERF_EXIT_FAILED, "out of host memory (%zu bytes)", bytes);
    memset(memory, 0, rounded ? rounded : 4096);
    return memory;
}
