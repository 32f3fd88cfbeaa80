/* The picture of a sweep, drawn by gnuplot from inline data. See perf_output.h. */
#include "perf_output.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static bool same_series(const struct perf_case *a, const struct perf_case *b)
{
    return a->collective == b->collective && a->dtype == b->dtype && a->op == b->op &&
           a->in_place == b->in_place;
}

/* The index of the first result of the series that follows the one at `i`; n if there is none. */
static int series_end(const struct perf_result *results, int n, int i)
{
    int end = i + 1;
    while (end < n && same_series(&results[i].what, &results[end].what))
        end++;
    return end;
}

static void series_name(const struct perf_case *what, char *name, size_t bytes)
{
    int n = snprintf(name, bytes, "%s", what->collective->name);

    if (n > 0 && what->collective->has_data)
        n += snprintf(name + n, bytes - (size_t)n, " %s", thrum_datatype_name(what->dtype));
    if (n > 0 && what->collective->has_op)
        n +=
            snprintf(name + n, bytes - (size_t)n, " %s", thrum_redop_name((thrum_redop_t)what->op));
    if (n > 0 && what->in_place)
        snprintf(name + n, bytes - (size_t)n, " in place");
    for (char *c = name; *c; c++) /* '_' would lower the next character */
        *c = *c == '_' ? '-' : *c;
}

static int write_data(FILE *gnuplot, const struct perf_result *results, int n)
{
    int series = 0;

    for (int i = 0; i < n; i = series_end(results, n, i), series++) {
        int end = series_end(results, n, i);

        fprintf(gnuplot, "$s%d << EOD\n", series);
        for (int k = i; k < end; k++) {
            const struct perf_result *r = &results[k];
            double mpi_busbw = r->mpi_us > 0 ? r->busbw * r->time_us.median / r->mpi_us : 0;
            fprintf(gnuplot, "%llu %.4f %.6g ", (unsigned long long)r->what.bytes,
                    r->time_us.median, r->busbw);
            if (r->mpi_us > 0)
                fprintf(gnuplot, "%.4f %.6g\n", r->mpi_us, mpi_busbw);
            else
                fprintf(gnuplot, "NaN NaN\n");
        }
        fprintf(gnuplot, "EOD\n");
    }
    return series;
}

/* One panel: columns of the data for Thrum and for MPI. */
static void write_curves(FILE *gnuplot, const struct perf_result *results, int n, int column,
                         int mpi_column)
{
    static const char *const colors[] = {"#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad",
                                         "#b8860b", "#16808a", "#d35480", "#555555"};
    bool single = series_end(results, n, 0) == n;
    int series = 0;

    fprintf(gnuplot, "plot ");
    for (int i = 0; i < n; i = series_end(results, n, i), series++) {
        char name[96];
        bool mpi = false;

        series_name(&results[i].what, name, sizeof name);
        for (int k = i; k < series_end(results, n, i); k++)
            mpi = mpi || results[k].mpi_us > 0;
        fprintf(gnuplot,
                "%s$s%d using 1:%d with linespoints lw 2 pt 7 ps 0.8 lc rgb '%s' title 'Thrum %s'",
                series ? ", " : "", series, column, colors[series % 8], name);
        if (mpi)
            fprintf(gnuplot,
                    ", $s%d using 1:%d with linespoints lw 2 dt 2 pt 6 ps 0.8 lc rgb '%s' title "
                    "'MPI %s'",
                    series, mpi_column, colors[single ? 1 : series % 8], name);
    }
    fprintf(gnuplot, "\n");
}

static void write_script(FILE *gnuplot, const char *file, const struct perf_result *results, int n,
                         int nranks)
{
    write_data(gnuplot, results, n);
    fprintf(gnuplot, "set terminal pngcairo size 1500,640 enhanced font 'sans,11' background "
                     "'#ffffff'\nset output '");
    for (const char *c = file; *c; c++)
        fprintf(gnuplot, *c == '\'' ? "''" : "%c", *c);
    fprintf(gnuplot,
            "'\nset multiplot layout 1,2 title 'thrum-perf, %d ranks, sizes per rank'\n"
            "set logscale xy\nset grid xtics ytics lt 1 lw 1 lc rgb '#d8d8d8'\nset key left "
            "top\nset border 3\n"
            "set xtics nomirror rotate by -40 ('8' 8, '64' 64, '512' 512, '4K' 4096, '32K' 32768, "
            "'256K' 262144, "
            "'2M' 2097152, '16M' 16777216, '128M' 134217728, '1G' 1073741824)\nset ytics nomirror\n"
            "set format y '%%g'\nset xlabel 'message size (bytes)'\nset ylabel 'time of one "
            "operation, median (us)'\n"
            "set title 'Time: lower is better'\n",
            nranks);
    write_curves(gnuplot, results, n, 2, 4);
    fprintf(gnuplot,
            "set ylabel 'bus bandwidth (GB/s)'\nset title 'Bandwidth: higher is better'\n");
    write_curves(gnuplot, results, n, 3, 5);
    fprintf(gnuplot, "unset multiplot\n");
}

const char *perf_plot(const char *file, const struct perf_result *results, int n, int nranks)
{
    void (*old_handler)(int);
    FILE *gnuplot;
    int status;

    while (n > 0 && !results[n - 1].what.collective->has_data)
        n--; /* a barrier has no size to be drawn at */
    if (n == 0)
        return "there is nothing to draw: no collective with data ran";
    old_handler = signal(SIGPIPE, SIG_IGN);
    gnuplot = popen("gnuplot", "w");
    if (!gnuplot) {
        signal(SIGPIPE, old_handler);
        return "gnuplot cannot be started";
    }
    write_script(gnuplot, file, results, n, nranks);
    status = pclose(gnuplot);
    signal(SIGPIPE, old_handler);
    if (status == 127 << 8)
        return "gnuplot is not installed";
    return status ? "gnuplot failed" : NULL;
}
