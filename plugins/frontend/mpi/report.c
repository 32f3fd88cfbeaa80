/* Counts calls by function, form and reason; prints them at the end if THRUM_MPI_REPORT asks for it. Called by entry.c, other.c, comm.c. */
#include "frontend.h"

#include <stdio.h>
#include <string.h>

#include <thrum/plugin.h>

bool tmpi_reporting;
static bool all_ranks;
static _Atomic uint64_t counts[TMPI_ALL_FUNCTIONS][TMPI_MODES][TMPI_REASONS];

void tmpi_report_init(void)
{
    const char *wanted = thrum_plugin_config("THRUM_MPI_REPORT");

    all_ranks = wanted && !strcmp(wanted, "all");
    tmpi_reporting = all_ranks || (wanted && !strcmp(wanted, "1"));
}

void tmpi_report_count(unsigned function, enum tmpi_mode mode, enum tmpi_reason reason)
{
    atomic_fetch_add_explicit(&counts[function][mode][reason], 1, memory_order_relaxed);
}

static const char *const names[] = {
#define X(NAME, Name, name) #Name,
#include "function_rows.h"
#undef X
#define X(Name, name, parameters) #Name,
#include "other_rows.h"
#undef X
};

/* What trials came to, line by line; lines that do not fit are left out. */
static char trials[16384];
static size_t trials_length;
static pthread_mutex_t trials_lock = PTHREAD_MUTEX_INITIALIZER;

void tmpi_report_trial(const struct tmpi_comm *comm, enum tmpi_function function, unsigned class,
                       uint64_t mpi_ns, uint64_t thrum_ns, bool by_thrum)
{
    char line[200];
    int length = snprintf(line, sizeof line,
                          "MPI_%s from %llu bytes on, %d ranks: Thrum %.2f us, MPI %.2f us: %s",
                          names[function], 1ull << class, comm->size, (double)thrum_ns / 1e3,
                          (double)mpi_ns / 1e3, by_thrum ? "by Thrum" : "to MPI");

    if (comm->rank == 0)
        thrum_plugin_log(THRUM_LOG_INFO, "MPI: %s", line);
    pthread_mutex_lock(&trials_lock);
    if (tmpi_reporting && trials_length + (size_t)length + 32 < sizeof trials)
        trials_length += (size_t)snprintf(trials + trials_length, sizeof trials - trials_length,
                                          "thrum-mpi: tried %s\n", line);
    pthread_mutex_unlock(&trials_lock);
}

/* Returns whether there was something to print. */
static bool print_function(FILE *stream, unsigned function, enum tmpi_mode mode)
{
    static const char *const reasons[] = {
#define X(name, text) text,
#include "reason_rows.h"
#undef X
    };
    char name[64];
    bool called = false;

    snprintf(name, sizeof name, "MPI_%s%s%s", mode == TMPI_NONBLOCKING ? "I" : "", names[function],
             mode == TMPI_PERSISTENT ? "_init" : "");
    if (mode == TMPI_NONBLOCKING) /* MPI_Iallreduce */
        name[5] = (char)(name[5] | 0x20);
    for (int reason = 0; reason < TMPI_REASONS; reason++) {
        uint64_t n = atomic_load_explicit(&counts[function][mode][reason], memory_order_relaxed);

        if (n)
            fprintf(stream, "thrum-mpi: %-31s %10llu %s%s\n", name, (unsigned long long)n,
                    reason ? "to MPI: " : "", reason ? reasons[reason] : "by Thrum");
        called |= n > 0;
    }
    return called;
}

void tmpi_report_print(void)
{
    char text[65536];
    bool called = false;
    FILE *stream;

    if (!tmpi_reporting || (!all_ranks && tmpi.world_rank != 0))
        return;
    stream = fmemopen(text, sizeof text, "w"); /* one write: the ranks' lines stay together */
    if (!stream)
        return;
    fprintf(stream, "thrum-mpi: collectives of rank %d, Thrum %s\n", tmpi.world_rank,
            thrum_version());
    for (unsigned function = 0; function < TMPI_ALL_FUNCTIONS; function++)
        for (int mode = 0; mode < TMPI_MODES; mode++)
            called |= print_function(stream, function, (enum tmpi_mode)mode);
    if (!called)
        fputs("thrum-mpi: no collective was called\n", stream);
    fputs(trials, stream);
    if (tmpi.nmade)
        fprintf(stream, "thrum-mpi: %u Thrum communicator%s, made in %.1f ms\n", tmpi.nmade,
                tmpi.nmade == 1 ? "" : "s", (double)tmpi.making_ns / 1e6);
    fclose(stream);
    fputs(text, stderr);
    fflush(stderr);
}
