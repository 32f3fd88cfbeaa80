/* See perf_output.h. */
#include "perf_output.h"

#include <string.h>

static const char *dtype_text(const struct perf_case *what)
{
    return what->collective->has_data ? thrum_datatype_name(what->dtype) : "none";
}

static const char *op_text(const struct perf_case *what)
{
    return what->collective->has_op ? thrum_redop_name((thrum_redop_t)what->op) : "none";
}

static const char *memory_text(enum perf_memory memory)
{
    return memory == PERF_MEMORY_DEVICE       ? "device memory"
           : memory == PERF_MEMORY_REGISTERED ? "registered host memory"
                                              : "plain host memory";
}

static void print_ranks(const struct perf_host_rank *ranks, int nranks)
{
    enum { MOST = 16 };

    for (int r = 0; r < nranks && r < MOST; r++)
        printf("#   rank %3d  %-10s pid %-8d on %s\n", r, ranks[r].device, ranks[r].pid,
               ranks[r].host);
    if (nranks > MOST)
        printf("#   and %d more\n", nranks - MOST);
}

static void print_columns(bool compare, bool all)
{
    printf("#\n#%11s %11s  %-8s %-5s %-5s %-18s %10s %10s %10s %8s %8s %7s", "size", "count",
           "type", "op", "place", "algorithm", "min", "median", "p99", "algbw", "busbw", "wrong");
    if (compare)
        printf(" %10s %7s", "MPI median", "ratio");
    if (all)
        printf(" %10s %8s", "predicted", "/best");
    printf("\n");
    printf("#%11s %11s  %-8s %-5s %-5s %-18s %10s %10s %10s %8s %8s %7s", "(B)", "(elements)", "",
           "", "", "", "(us)", "(us)", "(us)", "(GB/s)", "(GB/s)", "");
    if (compare)
        printf(" %10s %7s", "(us)", "");
    if (all)
        printf(" %10s %8s", "(us)", "");
    printf("\n");
}

void perf_output_begin(struct perf_output *out, const struct perf_context *x,
                       const struct perf_host_rank *ranks, const char *queue_name)
{
    if (out->format == PERF_CSV) {
        printf("collective,algorithm,ranks,size_bytes,dtype,op,in_place,time_us_min,time_us_median,"
               "time_us_p99,"
               "algbw_gbps,busbw_gbps,wrong%s%s\n",
               out->compare_mpi ? ",mpi_time_us_median,ratio" : "",
               out->all_algorithms ? ",predicted_us,times_best,chosen" : "");
    } else if (out->format == PERF_TABLE) {
        printf("# thrum-perf %s: %d rank%s on %d host%s, %s, %s queue\n", thrum_version(),
               x->nranks, x->nranks == 1 ? "" : "s", x->hosts, x->hosts == 1 ? "" : "s",
               memory_text(x->memory), queue_name);
        print_ranks(ranks, x->nranks);
        printf("# Times are of one operation on the slowest rank; bandwidths are of the median; 1 "
               "GB is 10^9 bytes.\n");
        if (out->all_algorithms)
            printf(
                "# Every algorithm that can serve; predicted is by the model that chooses, /best "
                "is the median over the smallest.\n");
        if (out->compare_mpi)
            printf("# ratio is MPI's median over Thrum's, in turns in the same run: above 1, Thrum "
                   "is faster.\n");
    }
    fflush(stdout);
}

void perf_output_progress(struct perf_output *out, const struct perf_case *next)
{
    char size[24];

    if (!out->progress)
        return;
    if (next)
        fprintf(stderr, "\r\033[K[%d/%d] %s %s %s %s", out->shown + 1, out->cases,
                next->collective->name, perf_format_bytes(next->bytes, size), dtype_text(next),
                op_text(next));
    else
        fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

static void print_row(const struct perf_output *out, const struct perf_result *r)
{
    char wrong[24] = "-";

    if (r->wrong >= 0)
        snprintf(wrong, sizeof wrong, "%ld", r->wrong);
    printf(" %11llu %11llu  %-8s %-5s %-5s %-18s %10.2f %10.2f %10.2f %8.3f %8.3f %7s",
           (unsigned long long)r->what.bytes, (unsigned long long)r->what.count,
           dtype_text(&r->what), op_text(&r->what), r->what.in_place ? "in" : "out", r->algorithm,
           r->time_us.min, r->time_us.median, r->time_us.p99, r->algbw, r->busbw, wrong);
    if (out->compare_mpi && r->mpi_us > 0)
        printf(" %10.2f %7.2f", r->mpi_us, r->ratio);
    else if (out->compare_mpi)
        printf(" %10s %7s", "-", "-");
    if (out->all_algorithms)
        printf(" %10.2f %8.2f%s", r->predicted_us, r->times_best, r->chosen ? "  <- chosen" : "");
    putchar('\n');
}

static void print_json(const struct perf_output *out, const struct perf_result *r, int nranks)
{
    printf("{\"collective\": \"%s\", \"algorithm\": \"%s\", \"ranks\": %d, \"size_bytes\": %llu, "
           "\"dtype\": \"%s\", "
           "\"op\": \"%s\", \"in_place\": %s, \"time_us_min\": %.3f, \"time_us_median\": %.3f, "
           "\"time_us_p99\": %.3f, "
           "\"algbw_gbps\": %.6g, \"busbw_gbps\": %.6g, \"wrong\": ",
           r->what.collective->name, r->algorithm, nranks, (unsigned long long)r->what.bytes,
           dtype_text(&r->what), op_text(&r->what), r->what.in_place ? "true" : "false",
           r->time_us.min, r->time_us.median, r->time_us.p99, r->algbw, r->busbw);
    if (r->wrong >= 0)
        printf("%ld", r->wrong);
    else
        printf("null");
    if (out->compare_mpi && r->mpi_us > 0)
        printf(", \"mpi_time_us_median\": %.3f, \"ratio\": %.3f", r->mpi_us, r->ratio);
    else if (out->compare_mpi)
        printf(", \"mpi_time_us_median\": null, \"ratio\": null");
    if (out->all_algorithms)
        printf(", \"predicted_us\": %.3f, \"times_best\": %.3f, \"chosen\": %s", r->predicted_us,
               r->times_best, r->chosen ? "true" : "false");
    printf("}\n");
}

static void print_csv(const struct perf_output *out, const struct perf_result *r, int nranks)
{
    printf("%s,%s,%d,%llu,%s,%s,%d,%.3f,%.3f,%.3f,%.6g,%.6g,", r->what.collective->name,
           r->algorithm, nranks, (unsigned long long)r->what.bytes, dtype_text(&r->what),
           op_text(&r->what), r->what.in_place, r->time_us.min, r->time_us.median, r->time_us.p99,
           r->algbw, r->busbw);
    if (r->wrong >= 0)
        printf("%ld", r->wrong);
    if (out->compare_mpi && r->mpi_us > 0)
        printf(",%.3f,%.3f", r->mpi_us, r->ratio);
    else if (out->compare_mpi)
        printf(",,");
    if (out->all_algorithms)
        printf(",%.3f,%.3f,%d", r->predicted_us, r->times_best, r->chosen);
    putchar('\n');
}

void perf_output_result(struct perf_output *out, const struct perf_result *result, int nranks)
{
    static const struct perf_collective *last;

    perf_output_progress(out, NULL);
    if (out->format == PERF_JSON) {
        print_json(out, result, nranks);
    } else if (out->format == PERF_CSV) {
        print_csv(out, result, nranks);
    } else {
        if (result->what.collective != last) {
            printf("#\n# %s", result->what.collective->name);
            if (result->what.collective->has_root)
                printf(" from rank %d", result->what.root);
            putchar('\n');
            print_columns(out->compare_mpi, out->all_algorithms);
        }
        last = result->what.collective;
        print_row(out, result);
    }
    out->shown++;
    fflush(stdout);
}

/* How good the choices were. */
static void print_choices(const struct perf_result *results, int n)
{
    int choices = 0, close = 0;
    const struct perf_result *worst = NULL;

    for (int i = 0; i < n; i++) {
        if (!results[i].chosen)
            continue;
        choices++;
        close += results[i].times_best <= 1.1;
        if (!worst || results[i].times_best > worst->times_best)
            worst = &results[i];
    }
    if (worst)
        printf("# choices: %d of %d within 10 %% of the fastest; at worst %.2f times as long (%s, "
               "%llu bytes: %s)\n",
               close, choices, worst->times_best, worst->what.collective->name,
               (unsigned long long)worst->what.bytes, worst->algorithm);
}

long perf_output_end(struct perf_output *out, const struct perf_result *results, int n)
{
    long wrong = 0;
    double bandwidth = 0;
    int checked = 0, with_data = 0;

    for (int i = 0; i < n; i++) {
        wrong += results[i].wrong > 0 ? results[i].wrong : 0;
        checked += results[i].wrong >= 0;
        with_data += results[i].what.collective->has_data;
        bandwidth += results[i].busbw;
    }
    if (out->format == PERF_TABLE) {
        printf("#\n");
        if (with_data)
            printf("# mean bus bandwidth: %.3f GB/s over %d rows\n", bandwidth / with_data,
                   with_data);
        if (out->all_algorithms)
            print_choices(results, n);
        if (checked)
            printf("# wrong elements: %ld%s\n", wrong,
                   wrong ? "" : " (every element of every row was compared)");
        else if (with_data)
            printf("# data was not checked\n");
    }
    fflush(stdout);
    return wrong;
}
