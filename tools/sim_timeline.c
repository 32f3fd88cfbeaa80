/* thrum-sim: the timeline. See sim.h. Of thrum-trace's it has the format alone: that one shows calls, this one their ops. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "sim.h"

enum { LANE_THREAD = 1, OUT_THREAD = 1, IN_THREAD = 2 };

static void begin_event(struct timeline *t, const char *phase, int process, int thread)
{
    fprintf(t->out, "%s\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d", t->between, phase, process, thread);
    t->between = ",";
}

/* Ranks, and hosts behind them. */
static int rank_process(int rank)
{
    return rank + 1;
}
static int host_process(const struct timeline *t, int host)
{
    return t->nranks + host + 1;
}

static void name_process(struct timeline *t, int process, const char *what, int number,
                         const char *more)
{
    begin_event(t, "M", process, LANE_THREAD);
    fprintf(t->out, ",\"name\":\"process_name\",\"args\":{\"name\":\"%s %d%s\"}}", what, number,
            more);
    begin_event(t, "M", process, LANE_THREAD);
    fprintf(t->out, ",\"name\":\"process_sort_index\",\"args\":{\"sort_index\":%d}}", process);
}

static void name_thread(struct timeline *t, int process, int thread, const char *name)
{
    begin_event(t, "M", process, thread);
    fprintf(t->out, ",\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}", name);
}

bool timeline_begin(struct timeline *t, FILE *out, const char *title, int nranks, const int *host,
                    int most, int slowest)
{
    *t = (struct timeline){.out = out, .nranks = nranks, .between = ""};
    t->shown = calloc((size_t)nranks, sizeof *t->shown);
    t->threads = calloc(2 * (size_t)nranks + 1, sizeof *t->threads);
    if (!t->shown || !t->threads) {
        free(t->shown);
        free(t->threads);
        return false;
    }
    fprintf(out, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"title\":\"%s\"},\"traceEvents\":[",
            title);
    for (int r = 0; r < nranks; r++) {
        char more[48];

        t->shown[r] = r < most - most / 2 || r >= nranks - most / 2 || r == slowest;
        snprintf(more, sizeof more, " (host %d%s)", host[r], r == slowest ? ", ends last" : "");
        if (t->shown[r])
            name_process(t, rank_process(r), "rank", r, more);
    }
    return true;
}

/* In whole ns, as ui.perfetto.dev counts: it leaves out what begins before the slice in front of it has ended. */
static void write_time(struct timeline *t, const char *key, long long ns)
{
    fprintf(t->out, ",\"%s\":%lld.%03lld", key, ns / 1000, ns % 1000);
}

static void write_slice(struct timeline *t, int process, int thread, double from, double until)
{
    begin_event(t, "X", process, thread);
    write_time(t, "ts", llround(from * 1e3));
    write_time(t, "dur", llround(until * 1e3) - llround(from * 1e3));
    fprintf(t->out, ",\"name\":");
}

/* An arrow's end; it binds to the slice there. */
static void write_flow(struct timeline *t, const char *phase, int process, int thread, double at,
                       uint64_t message)
{
    begin_event(t, phase, process, thread);
    write_time(t, "ts", llround(at * 1e3));
    fprintf(t->out, ",\"id\":%" PRIu64 ",\"bp\":\"e\",\"cat\":\"message\",\"name\":\"message\"}",
            message);
}

/* It gets its name when it is first used. Returns whether its process was not used before. */
static bool use_thread(struct timeline *t, int process, int thread, const char *name)
{
    bool first = !t->threads[process];

    if (!(t->threads[process] & 1u << thread))
        name_thread(t, process, thread, name);
    t->threads[process] |= 1u << thread;
    return first;
}

static void port_slice(struct timeline *t, const struct simulate_slice *s)
{
    int process = host_process(t, s->host);
    bool out = s->place == SIMULATE_PORT_OUT;
    int thread = out ? OUT_THREAD : IN_THREAD;

    if (!t->shown[s->rank] && !t->shown[s->peer])
        return;
    if (use_thread(t, process, thread, out ? "port, out" : "port, in"))
        name_process(t, process, "host", s->host, "");
    write_slice(t, process, thread, s->from, s->until);
    fprintf(t->out, "\"%d to %d\",\"args\":{\"bytes\":%" PRIu64 "}}", s->rank, s->peer, s->bytes);
}

void timeline_slice(void *timeline, const struct simulate_slice *s)
{
    struct timeline *t = timeline;
    int process = rank_process(s->rank), thread = s->lane + LANE_THREAD;
    char name[24];
    bool arrow = s->peer >= 0 && t->shown[s->peer];

    if (s->place != SIMULATE_LANE) {
        port_slice(t, s);
        return;
    }
    if (!t->shown[s->rank])
        return;
    snprintf(name, sizeof name, "lane %d", s->lane);
    use_thread(t, process, thread, name);
    if (s->begun > s->from) {
        write_slice(t, process, thread, s->from, s->begun);
        fprintf(t->out, "\"wait for rank %d\",\"cname\":\"grey\"}",
                s->peer); /* in chrome://tracing */
    }
    write_slice(t, process, thread, s->begun, s->until);
    fprintf(t->out, "\"%s\",\"args\":{\"bytes\":%" PRIu64, s->what, s->bytes);
    if (s->peer >= 0)
        fprintf(t->out, ",\"peer\":%d", s->peer);
    fprintf(t->out, "}}");
    if (arrow && s->sent)
        write_flow(t, "s", process, thread, s->begun, s->sent);
    if (arrow && s->seen)
        write_flow(t, "f", process, thread, s->begun, s->seen);
}

void timeline_end(struct timeline *t)
{
    fprintf(t->out, "\n]}\n");
    free(t->shown);
    free(t->threads);
}
