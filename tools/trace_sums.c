/* thrum-trace: what the operations of a communicator come to; told by trace_report.c and trace_json.c. */
#include "trace.h"

#include <stdlib.h>
#include <string.h>

#include "process.h"

/* ---- rows ---- */

struct keyed_match {
    uint32_t kind, last;
    size_t match;
};

static int by_kind(const void *a, const void *b)
{
    const struct keyed_match *x = a, *y = b;

    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->last != y->last)
        return x->last < y->last ? -1 : 1;
    return x->match < y->match ? -1 : x->match > y->match;
}

static int by_spent(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    if (x->spent != y->spent)
        return x->spent > y->spent ? -1 : 1;
    return x->kind < y->kind ? -1 : x->kind > y->kind;
}

/* Of matches that are sorted by who came last. */
static void find_last(const struct comm *comm, const struct keyed_match *keyed, size_t n,
                      int64_t *values, struct row *row)
{
    size_t best = 0;

    row->last = NONE;
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && keyed[next].last == keyed[i].last;)
            next++;
        if (keyed[i].last == NONE || next - i <= row->times)
            continue;
        row->last = keyed[i].last;
        row->times = next - i;
        best = i;
    }
    for (size_t i = 0; i < row->times; i++)
        values[i] = comm->matches[keyed[best + i].match].late;
    row->late = trace_quantile(values, row->times, 0.5);
}

static struct row row_of(const struct comm *comm, const struct keyed_match *keyed, size_t n,
                         int64_t *values)
{
    struct row row = {.kind = keyed[0].kind, .calls = n, .kinds = 1};

    for (size_t i = 0; i < n; i++) {
        const struct match *match = &comm->matches[keyed[i].match];

        values[i] = match->moving;
        row.spent += (double)match->spent;
        row.waited += (double)match->waited;
    }
    row.median = trace_quantile(values, n, 0.5);
    row.p99 = trace_quantile(values, n, 0.99);
    find_last(comm, keyed, n, values, &row);
    return row;
}

/* What is too much for a table comes to one row at its end, of which only sums are known. */
static size_t fold(struct row *rows, size_t n, size_t most)
{
    struct row *rest = &rows[most];

    if (n <= most + 1)
        return n;
    for (size_t i = most + 1; i < n; i++) {
        rest->calls += rows[i].calls;
        rest->spent += rows[i].spent;
        rest->waited += rows[i].waited;
        rest->kinds++;
    }
    rest->kind = rest->last = NONE;
    return most + 1;
}

size_t trace_rows(const struct comm *comm, size_t most, struct row **out)
{
    size_t n = comm->nmatches, nrows = 0, room = 0;
    struct keyed_match *keyed = process_must(calloc(n + 1, sizeof *keyed));
    int64_t *values = process_must(calloc(n + 1, sizeof *values));

    *out = NULL;
    for (size_t i = 0; i < n; i++)
        keyed[i] = (struct keyed_match){comm->matches[i].kind, comm->matches[i].last, i};
    qsort(keyed, n, sizeof *keyed, by_kind);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && keyed[next].kind == keyed[i].kind;)
            next++;
        *out = trace_room(*out, nrows, &room, sizeof **out);
        (*out)[nrows++] = row_of(comm, keyed + i, next - i, values);
    }
    if (nrows)
        qsort(*out, nrows, sizeof **out, by_spent);
    free(keyed);
    free(values);
    return fold(*out, nrows, most);
}

/* ---- sums ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t count_hosts(const struct trace *trace, const struct comm *comm)
{
    const char **hosts = process_must(calloc(comm->nmembers + 1, sizeof *hosts));
    size_t n = 0;

    for (uint32_t i = 0; i < comm->nmembers; i++)
        hosts[i] = trace->procs[trace->members[comm->members[i]].proc].host;
    qsort(hosts, comm->nmembers, sizeof *hosts, by_text);
    for (uint32_t i = 0; i < comm->nmembers; i++)
        n += !i || strcmp(hosts[i], hosts[i - 1]) != 0;
    free(hosts);
    return n;
}

struct sums trace_sums(const struct trace *trace, const struct comm *comm)
{
    struct sums sums = {.time = (double)(comm->ended - comm->begun) * comm->nmembers,
                        .hosts = count_hosts(trace, comm)};

    for (uint32_t i = 0; i < comm->nmembers; i++) {
        const struct member *member = &trace->members[comm->members[i]];

        sums.waiting += (double)member->waiting;
        sums.moving += (double)member->moving;
        sums.other += (double)member->other;
    }
    return sums;
}

double trace_rest(double time, double waiting, double moving, double other)
{
    double rest = time - waiting - moving - other;

    return rest > 0 ? rest : 0;
}

/* ---- what has not ended ---- */

/* NULL: it has none. */
static const struct op *op_in(const struct trace *trace, const struct comm *comm, uint32_t position,
                              const struct pending *pending)
{
    uint32_t low = pending->first, high = pending->first + pending->n;

    while (low < high) { /* they are sorted by rank */
        uint32_t middle = low + (high - low) / 2;

        if (comm->refs[middle].member == position)
            return &trace->ops[comm->refs[middle].op];
        if (comm->refs[middle].member < position)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

bool trace_not_begun(const struct trace *trace, const struct comm *comm, uint32_t position,
                     const struct pending *pending)
{
    const struct op *op = op_in(trace, comm, position, pending);
    const struct member *member = &trace->members[comm->members[position]];

    return op ? op->begun == NEVER
              : (member->whole || (member->sure >= pending->since && !member->lost)) &&
                    member->newest < pending->sequence;
}

bool trace_unknown(const struct trace *trace, const struct comm *comm, uint32_t position,
                   const struct pending *pending)
{
    return !op_in(trace, comm, position, pending) &&
           !trace_not_begun(trace, comm, position, pending);
}

/* The end of the recording. */
static int64_t end_of(const struct trace *trace, const struct comm *comm)
{
    int64_t end = NEVER;

    for (uint32_t i = 0; i < comm->nmembers; i++)
        end = max_i64(end, trace->members[comm->members[i]].until);
    return end;
}

double trace_age(const struct trace *trace, const struct comm *comm, const struct pending *pending)
{
    int64_t end = end_of(trace, comm);

    return end > pending->since ? (double)(end - pending->since) : 0;
}

const char *trace_clock_host(const struct trace *trace, uint32_t clock)
{
    for (size_t i = 0; i < trace->nprocs; i++)
        if (trace->procs[i].clock == clock)
            return trace->procs[i].host;
    return "?";
}
