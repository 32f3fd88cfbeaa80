/* What thrum-perf prints: a table, JSON or CSV; a picture; progress. Only rank 0 calls it. */
#ifndef PERF_PERF_OUTPUT_H
#define PERF_PERF_OUTPUT_H

#include "perf_run.h"

enum perf_format { PERF_TABLE, PERF_JSON, PERF_CSV };

struct perf_host_rank { /* what each rank tells rank 0 about itself */
    char host[64], device[THRUM_DEVICE_NAME_MAX];
    int pid;
};

struct perf_output {
    enum perf_format format;
    bool compare_mpi, progress, all_algorithms;
    int shown, cases;
};

void perf_output_begin(struct perf_output *out, const struct perf_context *context,
                       const struct perf_host_rank *ranks, const char *queue_name);
void perf_output_progress(struct perf_output *out, const struct perf_case *next);
void perf_output_result(struct perf_output *out, const struct perf_result *result, int nranks);
/* The closing lines. Returns the number of wrong elements in all. */
long perf_output_end(struct perf_output *out, const struct perf_result *results, int n);

/* Draws time and bus bandwidth over size with gnuplot. NULL, or what went wrong. */
const char *perf_plot(const char *file, const struct perf_result *results, int n, int nranks);

#endif
