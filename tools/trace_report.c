/* thrum-trace: what the recorded operations come to, as text. */
#include "trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"

#define FEW_COMMS \
    10 /* of more, only those are listed in which most time is spent, or something hangs */
#define TABLE_ROWS 20
#define FEW_RANKS 16 /* of more, only those are listed for which the others wait longest */
#define MOST_PENDING 5
#define MOST_RANGES 8
#define RANGES_BYTES 320 /* for so many, of any numbers */
#define TEXT_NOTES 20

/* ---- text ---- */

static double percent(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

/* "310 us", with three digits. */
static const char *time_text(double ns, char *text, size_t bytes)
{
    const char *unit = ns < 999.5e3 ? "us" : ns < 999.5e6 ? "ms" : "s";
    double value = ns / (ns < 999.5e3 ? 1e3 : ns < 999.5e6 ? 1e6 : 1e9);

    if (ns > 0)
        snprintf(text, bytes, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, unit);
    else
        snprintf(text, bytes, "0");
    return text;
}

const char *trace_size_text(uint64_t size, char *text, size_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)size;
    size_t unit = 0;

    while (unit < 4 && size >= 10240 && value >= 1024) {
        value /= 1024;
        unit++;
    }
    if (unit && (uint64_t)value << 10 * unit != size)
        snprintf(text, bytes, "%.*f %s", value < 99.95 ? 1 : 0, value, units[unit]);
    else
        snprintf(text, bytes, "%.0f %s", value, units[unit]);
    return text;
}

static bool reduces(const struct kind *kind)
{
    return strstr(kind->what, "reduce") || strstr(kind->what, "scan");
}

/* "allreduce float32 sum 4 MiB" */
static const char *kind_text(const struct kind *kind, char *text, size_t bytes)
{
    char size[32];

    if (!strcmp(kind->what, "barrier"))
        snprintf(text, bytes, "%s", kind->what);
    else
        snprintf(text, bytes, "%s %s%s%s %s", kind->what,
                 thrum_datatype_name((thrum_datatype_t)kind->dtype), reduces(kind) ? " " : "",
                 !reduces(kind)                     ? ""
                 : kind->redop >= THRUM_REDOP_COUNT ? "own"
                                                    : thrum_redop_name((thrum_redop_t)kind->redop),
                 trace_size_text(kind->bytes, size, sizeof size));
    return text;
}

#define COLUMNS 10
#define CELL 104

/* Columns are as wide as they have to be. */
struct table_text {
    const char *align; /* of each column: l, r */
    char (*cells)[COLUMNS][CELL];
    size_t n, room;
};

static void __attribute__((format(printf, 3, 4)))
put(struct table_text *table, int column, const char *format, ...)
{
    va_list arguments;

    if (!column) {
        table->cells = trace_room(table->cells, table->n, &table->room, sizeof *table->cells);
        memset(table->cells[table->n++], 0, sizeof *table->cells);
    }
    va_start(arguments, format);
    vsnprintf(table->cells[table->n - 1][column], CELL, format, arguments);
    va_end(arguments);
}

static void head(struct table_text *table, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        put(table, i, "%s", names[i]);
}

static void print_table(struct table_text *table, FILE *out)
{
    int columns = (int)strlen(table->align), width[COLUMNS] = {0};

    for (size_t i = 0; i < table->n; i++)
        for (int c = 0; c < columns; c++)
            width[c] = (int)max_i64(width[c], (int64_t)strlen(table->cells[i][c]));
    for (size_t i = 0; i < table->n; i++) {
        char line[COLUMNS * (CELL + 4)];
        size_t at = 0;

        for (int c = 0; c < columns; c++)
            at +=
                (size_t)snprintf(line + at, sizeof line - at, "%s%*s", c ? "  " : "",
                                 table->align[c] == 'l' ? -width[c] : width[c], table->cells[i][c]);
        while (at && line[at - 1] == ' ')
            at--;
        fprintf(out, "%.*s\n", (int)at, line);
    }
    free(table->cells);
}

static void print_rows(const struct trace *trace, const struct comm *comm, bool all, FILE *out)
{
    static const char *const names[] = {"  collective", "algorithm", "calls",   "median",
                                        "p99",          "total",     "waiting", "last to come"};
    struct table_text table = {.align = "llrrrrrl"};
    struct row *rows;
    size_t n = trace_rows(comm, all ? SIZE_MAX - 1 : TABLE_ROWS, &rows);
    char text[96], median[24], p99[24], total[24], late[24];

    head(&table, names, 8);
    for (size_t i = 0; i < n; i++) {
        const struct row *row = &rows[i];
        const struct kind *kind = row->kind == NONE ? NULL : &trace->kinds[row->kind];

        if (kind)
            put(&table, 0, "  %s", kind_text(kind, text, sizeof text));
        else
            put(&table, 0, "  %zu others", row->kinds);
        put(&table, 1, "%s", kind ? kind->algorithm : "");
        put(&table, 2, "%zu", row->calls);
        put(&table, 3, "%s", kind ? time_text((double)row->median, median, sizeof median) : "");
        put(&table, 4, "%s", kind ? time_text((double)row->p99, p99, sizeof p99) : "");
        put(&table, 5, "%s", time_text(row->spent / comm->nmembers, total, sizeof total));
        put(&table, 6, "%.0f %%", percent(row->waited, row->spent));
        if (row->last != NONE)
            put(&table, 7, "rank %d in %.0f %%, by %s", trace->members[row->last].rank,
                percent((double)row->times, (double)row->calls),
                time_text((double)row->late, late, sizeof late));
    }
    print_table(&table, out);
    free(rows);
}

/* Of the rank for which others waited the FEW_RANKS'th longest. */
static int64_t least_held(const struct trace *trace, const struct comm *comm)
{
    int64_t *held = process_must(calloc(comm->nmembers + 1, sizeof *held)), least;
    uint32_t n = comm->nmembers;

    for (uint32_t i = 0; i < n; i++)
        held[i] = trace->members[comm->members[i]].held;
    trace_quantile(held, n, 0); /* sorts them */
    least = held[n - FEW_RANKS];
    free(held);
    return least;
}

static void print_ranks(const struct trace *trace, const struct comm *comm,
                        const struct verdict *verdict, bool all, FILE *out)
{
    static const char *const names[] = {"    rank", "host",           "process",
                                        "waiting",  "moving",         "elsewhere",
                                        "last in",  "held up others", "messages"};
    bool few = all || comm->nmembers <= FEW_RANKS;
    int64_t least = few ? 0 : least_held(trace, comm);
    struct table_text table = {.align = comm->others ? "rlrrrrrrr" : "rlrrrrrr"};
    char waiting[24], moving[24], other[24], elsewhere[24], held[24];
    double time = (double)(comm->ended - comm->begun), n = comm->nmembers;
    uint32_t shown = 0;

    head(&table, names, 9);
    for (uint32_t i = 0; i < comm->nmembers; i++) {
        const struct member *m = &trace->members[comm->members[i]];
        bool named = comm->members[i] == verdict->member;
        double rest = trace_rest(time, (double)m->waiting, (double)m->moving, (double)m->other);

        if (!few && !named && (shown >= FEW_RANKS || m->held < least))
            continue;
        shown++;
        put(&table, 0, "  %s %4d", named ? ">" : " ", m->rank);
        put(&table, 1, "%s", trace->procs[m->proc].host);
        put(&table, 2, "%d", trace->procs[m->proc].pid);
        put(&table, 3, "%s", time_text((double)m->waiting, waiting, sizeof waiting));
        put(&table, 4, "%s", time_text((double)m->moving, moving, sizeof moving));
        put(&table, 5, "%s", time_text(rest, elsewhere, sizeof elsewhere));
        put(&table, 6, "%.0f %%", percent((double)m->last, (double)comm->nmatches));
        put(&table, 7, "%s", time_text((double)m->held / (n > 1 ? n - 1 : 1), held, sizeof held));
        put(&table, 8, "%s", time_text((double)m->other, other, sizeof other));
    }
    print_table(&table, out);
    if (shown < comm->nmembers)
        fprintf(out, "  and %u others, for which less was waited; --all lists them\n",
                comm->nmembers - shown);
}

/* "rank 2", or "ranks 0, 4 to 7": those of [0, nranks) for which `is` says so. */
typedef bool rank_test(const struct trace *trace, const struct comm *comm, uint32_t position,
                       const struct pending *pending);

static void add_range(FILE *out, size_t ranges, int from, int until)
{
    if (ranges > MOST_RANGES)
        return;
    fprintf(out, "%s%d", ranges > 1 ? ", " : "", from);
    if (until > from)
        fprintf(out, "%s%d", until == from + 1 ? ", " : " to ", until);
}

static void end_ranges(FILE *out, size_t ranges)
{
    if (ranges > MOST_RANGES)
        fprintf(out, " and more");
}

/* How many, with their list. */
static uint32_t list_members(const struct trace *trace, const struct comm *comm, rank_test *is,
                             const struct pending *pending, char *text, size_t bytes)
{
    FILE *out = process_must(fmemopen(text, bytes, "w"));
    int from = -1, until = -1;
    uint32_t n = 0;
    size_t ranges = 0;

    for (uint32_t i = 0; i < comm->nmembers; i++) {
        int rank = trace->members[comm->members[i]].rank;

        if (!is(trace, comm, i, pending))
            continue;
        n++;
        if (from >= 0 && rank == until + 1) {
            until = rank;
            continue;
        }
        if (from >= 0)
            add_range(out, ++ranges, from, until);
        from = until = rank;
    }
    if (from >= 0)
        add_range(out, ++ranges, from, until);
    end_ranges(out, ranges);
    fclose(out);
    return n;
}

/* The same of ranks that were not recorded. */
static uint32_t list_missing(const struct trace *trace, const struct comm *comm, char *text,
                             size_t bytes)
{
    FILE *out = process_must(fmemopen(text, bytes, "w"));
    int next = 0;
    size_t ranges = 0;

    for (uint32_t i = 0; i <= comm->nmembers; i++) {
        int rank = i < comm->nmembers ? trace->members[comm->members[i]].rank : comm->nranks;

        if (rank > next)
            add_range(out, ++ranges, next, rank - 1);
        next = rank < INT32_MAX ? rank + 1 : rank;
    }
    end_ranges(out, ranges);
    fclose(out);
    return (uint32_t)comm->nranks - comm->nmembers;
}

static bool has_lost(const struct trace *trace, const struct comm *comm, uint32_t position,
                     const struct pending *pending)
{
    (void)pending;
    return trace->members[comm->members[position]].lost;
}

static void print_pending(const struct trace *trace, const struct comm *comm, FILE *out)
{
    for (size_t i = 0; i < comm->npending && i < MOST_PENDING; i++) {
        const struct pending *pending = &comm->pending[i];
        char age[24], absent[RANGES_BYTES], unknown[RANGES_BYTES];
        uint32_t nabsent =
            list_members(trace, comm, trace_not_begun, pending, absent, sizeof absent);
        uint32_t nunknown =
            list_members(trace, comm, trace_unknown, pending, unknown, sizeof unknown);

        fprintf(out, "  in flight: %s #%" PRIu64,
                trace->kinds[trace->ops[comm->refs[pending->first].op].kind].what,
                pending->sequence);
        if (trace_age(trace, comm, pending) > 0)
            fprintf(out, " since %s", time_text(trace_age(trace, comm, pending), age, sizeof age));
        fputs(": ", out);
        if (nabsent)
            fprintf(out, "rank%s %s %s not begun it", nabsent > 1 ? "s" : "", absent,
                    nabsent > 1 ? "have" : "has");
        else if (!nunknown)
            fprintf(out, "%s have begun it",
                    (int)comm->nmembers < comm->nranks ? "all recorded ranks" : "all ranks");
        if (nunknown)
            fprintf(out, "%snothing is known of rank%s %s", nabsent ? "; " : "",
                    nunknown > 1 ? "s" : "", unknown);
        fputc('\n', out);
    }
    if (comm->npending > MOST_PENDING)
        fprintf(out, "  in flight: %zu more\n", comm->npending - MOST_PENDING);
}

/* What the figures lack. */
static void print_limits(const struct trace *trace, const struct comm *comm, FILE *out)
{
    char ranks[RANGES_BYTES];
    uint32_t n = list_missing(trace, comm, ranks, sizeof ranks);
    uint64_t lost = 0;

    if (n)
        fprintf(out,
                "  rank%s %s %s not recorded: what the others waited for %s counts as moving, and "
                "%s\n  may have come last without "
                "being seen.\n",
                n > 1 ? "s" : "", ranks, n > 1 ? "were" : "was", n > 1 ? "them" : "it",
                n > 1 ? "they" : "it");
    n = list_members(trace, comm, has_lost, NULL, ranks, sizeof ranks);
    for (uint32_t i = 0; i < comm->nmembers; i++)
        lost += trace->members[comm->members[i]].lost;
    if (n)
        fprintf(out,
                "  %" PRIu64 " operations of rank%s %s were not recorded for want of room:\n  "
                "their time counts as elsewhere.\n",
                lost, n > 1 ? "s" : "", ranks);
    if (comm->partial > comm->nmatches / 10)
        fprintf(out,
                "  %" PRIu64 " collectives do not count, of which some rank's part was not "
                "recorded:\n  their time counts as elsewhere.\n",
                comm->partial);
    if (comm->again)
        fprintf(out, "  %zu operations were recorded twice, and count once.\n", comm->again);
}

/* Something hangs that some rank has not begun. */
static bool is_awaited(const struct trace *trace, const struct comm *comm)
{
    for (size_t i = 0; i < comm->npending && i < MOST_PENDING; i++)
        for (uint32_t k = 0; k < comm->nmembers; k++)
            if (trace_not_begun(trace, comm, k, &comm->pending[i]))
                return true;
    return false;
}

#define FAR_WORSE 10

static void print_dear(const struct trace *trace, const struct comm *comm,
                       const struct verdict *verdict, FILE *out)
{
    const struct member *member = &trace->members[verdict->member];
    const struct proc *proc = &trace->procs[member->proc];
    const struct match *worst = verdict->worst;
    char late[24];

    fprintf(out, "  Most of the waiting is for rank %d (process %d on %s): %.0f %% of it,\n",
            member->rank, proc->pid, proc->host, 100 * verdict->share);
    if (worst->late > FAR_WORSE * verdict->late || verdict->times == 1)
        fprintf(out,
                "  above all in %s #%" PRIu64 ", to which it came %s after the others (median).\n",
                trace->kinds[worst->kind].what, worst->sequence,
                time_text((double)worst->late, late, sizeof late));
    else
        fprintf(
            out,
            "  in %" PRIu64 " of %zu collectives, to which it came %s after the others (median).\n",
            verdict->times, comm->nmatches, time_text((double)verdict->late, late, sizeof late));
}

static void print_verdict(const struct trace *trace, const struct comm *comm,
                          const struct verdict *verdict, const struct sums *sums, FILE *out)
{
    const struct member *member = verdict->member == NONE ? NULL : &trace->members[verdict->member];
    const struct proc *proc = member ? &trace->procs[member->proc] : NULL;
    char late[24];

    if (comm->nmembers < 2 || !comm->nmatches)
        return;
    if (verdict->suspect != NONE)
        fprintf(out,
                "  No rank is clearly late: rank %d seems to be, by %s (median), but the clocks\n"
                "  of the hosts are not known so well.\n",
                trace->members[verdict->suspect].rank,
                time_text((double)verdict->late, late, sizeof late));
    else if (!member && is_awaited(trace, comm))
        return; /* by what hangs */
    else if (!member)
        fprintf(out, percent(sums->waiting, sums->time) < 5
                         ? "  No rank is clearly late, and there is little waiting.\n"
                     : comm->nmatches < TRACE_FEWEST
                         ? "  No rank is clearly late, in so few collectives: record for longer.\n"
                         : "  No rank is clearly late: they wait for each other by turns.\n");
    else if (verdict->often)
        fprintf(out,
                "  The others wait for rank %d (process %d on %s): it is the last to come\n  in "
                "%.0f %% of the collectives, %s after the others (median).\n",
                member->rank, proc->pid, proc->host, 100 * verdict->share,
                time_text((double)verdict->late, late, sizeof late));
    else
        print_dear(trace, comm, verdict, out);
    if (verdict->member != NONE && verdict->busy >= 0.25)
        fprintf(out,
                "  In %.0f %% of the time by which it was late it was in messages or other "
                "collectives\n"
                "  itself: it may only pass on that others are late or slow.\n",
                100 * verdict->busy);
}

static void print_comm(const struct trace *trace, const struct comm *comm, bool all, FILE *out)
{
    struct sums sums = trace_sums(trace, comm);
    struct verdict verdict;
    char span[24];

    trace_judge(trace, comm, &verdict);
    fprintf(out, "%s, %d rank%s on %zu host%s%s: %zu collective%s", comm->name, comm->nranks,
            comm->nranks == 1 ? "" : "s", sums.hosts, sums.hosts == 1 ? "" : "s",
            (int)comm->nmembers < comm->nranks ? " or more" : "", comm->nmatches,
            comm->nmatches == 1 ? "" : "s");
    if (comm->others)
        fprintf(out, ", %" PRIu64 " message%s", comm->others, comm->others == 1 ? "" : "s");
    if (comm->ended > comm->begun)
        fprintf(out, " in %s", time_text((double)(comm->ended - comm->begun), span, sizeof span));
    fputc('\n', out);
    if (comm->nmatches || comm->others) {
        fprintf(out, "  %.0f %% of the ranks' time waiting for others, %.0f %% moving data, ",
                percent(sums.waiting, sums.time), percent(sums.moving, sums.time));
        if (comm->others)
            fprintf(out, "%.0f %% in messages, ", percent(sums.other, sums.time));
        fprintf(out, "%.0f %% elsewhere\n",
                percent(trace_rest(sums.time, sums.waiting, sums.moving, sums.other), sums.time));
    }
    if (comm->nmatches)
        print_rows(trace, comm, all, out);
    if (comm->nmatches || comm->others || comm->npending)
        print_ranks(trace, comm, &verdict, all, out);
    print_verdict(trace, comm, &verdict, &sums, out);
    print_pending(trace, comm, out);
    print_limits(trace, comm, out);
}

/* ---- clocks ---- */

static void print_clocks(const struct trace *trace, FILE *out)
{
    size_t told = 0;

    for (uint32_t i = 1; i < trace->nclocks; i++) {
        const struct clock *clock = &trace->clocks[i];
        char spread[24], limit[24];

        if (told++ == TEXT_NOTES) {
            fprintf(out, "note: and so on for %zu more clocks\n", trace->nclocks - i);
            return;
        }
        if (clock->hub == NONE) {
            fprintf(out,
                    "note: %s's clock is set by CLOCK_REALTIME, for want of collectives with "
                    "others: perhaps by ms wrong\n",
                    trace_clock_host(trace, i));
            continue;
        }
        fprintf(out, "note: %s's clock was compared with %s's by %" PRIu64 " collectives: +- %s",
                trace_clock_host(trace, i), trace_clock_host(trace, clock->hub), clock->samples,
                time_text((double)clock->spread, spread, sizeof spread));
        if (clock->contradiction)
            fprintf(out, ", which contradict each other by %s",
                    time_text((double)clock->contradiction, limit, sizeof limit));
        else
            fprintf(out, ", at most %s", time_text((double)clock->bound, limit, sizeof limit));
        if (clock->rate * 1e6 > 0.5 || clock->rate * 1e6 < -0.5)
            fprintf(out, "; drift %.1f ppm", -clock->rate * 1e6);
        fputc('\n', out);
    }
}

struct spent {
    const struct comm *comm;
    double time; /* in its operations */
};

static int by_time(const void *a, const void *b)
{
    const struct spent *x = a, *y = b;

    if (x->time != y->time)
        return x->time > y->time ? -1 : 1;
    return x->comm < y->comm ? -1 : x->comm > y->comm;
}

/* The most time first. */
static void print_comms(const struct trace *trace, bool all, FILE *out)
{
    struct spent *spent = process_must(calloc(trace->ncomms + 1, sizeof *spent));
    size_t n = 0, shown = 0;

    for (size_t i = 0; i < trace->ncomms; i++) {
        struct sums sums = trace_sums(trace, &trace->comms[i]);

        if (!trace->comms[i].left_out)
            spent[n++] = (struct spent){&trace->comms[i], sums.waiting + sums.moving + sums.other};
    }
    qsort(spent, n, sizeof *spent, by_time);
    for (size_t i = 0; i < n; i++)
        if (all || i < FEW_COMMS || spent[i].comm->npending) {
            fputs(shown++ ? "\n" : "", out);
            print_comm(trace, spent[i].comm, all, out);
        }
    if (shown < n)
        fprintf(out, "\nand %zu communicator%s, in which less time was spent; --all lists them\n",
                n - shown, n - shown == 1 ? "" : "s");
    free(spent);
}

void trace_report(const struct trace *trace, bool all, FILE *out)
{
    print_comms(trace, all, out);
    if (trace->nclocks > 1 || trace->nnotes)
        fputc('\n', out);
    print_clocks(trace, out);
    for (size_t i = 0; i < trace->nnotes && (all || i < TEXT_NOTES); i++)
        fprintf(out, "note: %s\n", trace->notes[i]);
    if (!all && trace->nnotes > TEXT_NOTES)
        fprintf(out, "note: and %zu more; --all lists them\n", trace->nnotes - TEXT_NOTES);
}
