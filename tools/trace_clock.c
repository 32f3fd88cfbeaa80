/*
 * thrum-trace: one time for all hosts. Nobody can end an allreduce, say, before everybody has begun it: each bounds what one
 * clock is ahead of another from both sides. Within these bounds that is taken which lets the ranks end at the same time,
 * as they nearly do: the bounds alone cannot tell a rank that is always late from a clock that is slow.
 */
#include "trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"

#define MOST_SAMPLES 4096
#define WINDOWS 32 /* between whose medians the drift is looked for */
#define SHORTEST_NS 200000000 /* in less no drift can be told from noise */
#define MOST_NS (INT64_MAX / 8)
#define MOST_DRIFT 5e-4 /* a clock that is worse is broken */

/* A communicator's collectives in which everybody waits for everybody. */
struct proofs {
    const struct trace *trace;
    const struct comm *comm;
    size_t *starts, n; /* refs of the first rank; the others follow */
    struct by_clock {
        uint32_t clock, position; /* of a member */
    } * order; /* all members, by clocks */
};

struct sample {
    int64_t at, difference; /* in the own time; by which the hub is ahead of it */
};

/* Within limits, whatever somebody says the time is. */
static int64_t mapped(const struct clock *clock, int64_t t)
{
    __int128 there;

    if (t == NEVER)
        return t;
    there = (__int128)t + clock->offset + llrint(clock->rate * (double)(t - clock->base));
    return there > MOST_NS ? MOST_NS : there < -MOST_NS ? -MOST_NS : (int64_t)there;
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int64_t trace_quantile(int64_t *values, size_t n, double q)
{
    if (!n)
        return 0;
    qsort(values, n, sizeof *values, by_number);
    return values[(size_t)(q * (double)(n - 1) + 0.5)];
}

/* ---- what can be used ---- */

static bool is_proof(const struct trace *trace, const struct ref *refs, uint32_t n)
{
    const struct kind *first = &trace->kinds[trace->ops[refs[0].op].kind];
    size_t length = strlen(first->what);

    if (first->needs != NEEDS_ALL ||
        first->what[length - 1] == 'v') /* some may have nothing to send */
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct op *op = &trace->ops[refs[i].op];
        const struct kind *kind = &trace->kinds[op->kind];

        if (op->begun == NEVER || op->ended == NEVER || kind->needs != NEEDS_ALL ||
            kind->bytes != first->bytes || (!kind->bytes && strcmp(kind->what, "barrier") != 0))
            return false;
    }
    return true;
}

static int by_clocks(const void *a, const void *b)
{
    const struct by_clock *x = a, *y = b;

    if (x->clock != y->clock)
        return x->clock < y->clock ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

/* False: all its ranks have the same clock. */
static bool find_proofs(const struct trace *trace, const struct comm *comm, struct proofs *out)
{
    uint32_t n = comm->nmembers;

    *out = (struct proofs){.trace = trace, .comm = comm};
    out->order = process_must(calloc(n + 1, sizeof *out->order));
    for (uint32_t i = 0; i < n; i++)
        out->order[i] =
            (struct by_clock){trace->procs[trace->members[comm->members[i]].proc].clock, i};
    qsort(out->order, n, sizeof *out->order, by_clocks);
    if (!n || out->order[0].clock == out->order[n - 1].clock)
        return false;
    out->starts = process_must(calloc(comm->nrefs / n + 1, sizeof *out->starts));
    for (size_t i = 0, next; i < comm->nrefs; i = next) {
        for (next = i; next < comm->nrefs && comm->refs[next].sequence == comm->refs[i].sequence;)
            next++;
        if (next - i == n && is_proof(trace, comm->refs + i, n))
            out->starts[out->n++] = i;
    }
    return true;
}

static void forget_proofs(struct proofs *proofs)
{
    free(proofs->starts);
    free(proofs->order);
}

/* ---- comparing two clocks ---- */

/* The latest begin and the earliest end of the ranks with a clock in a collective, in the time of clock 0, or else `as`. */
static void times_of(const struct proofs *proofs, size_t start, const struct by_clock *ranks,
                     const struct clock *as, int64_t *begun_out, int64_t *ended_out)
{
    *begun_out = NEVER;
    *ended_out = INT64_MAX;
    for (const struct by_clock *r = ranks;
         r < proofs->order + proofs->comm->nmembers && r->clock == ranks->clock; r++) {
        const struct op *op = &proofs->trace->ops[proofs->comm->refs[start + r->position].op];

        *begun_out = max_i64(*begun_out, mapped(as, op->begun));
        *ended_out = min_i64(*ended_out, mapped(as, op->ended));
    }
}

static size_t take_samples(const struct proofs *proofs, const struct by_clock *hub,
                           const struct by_clock *other, struct sample *samples)
{
    static const struct clock own = {0};
    size_t n = 0, step = 1;
    int64_t begun, here, there;

    for (size_t i = 0; i < proofs->n; i += step) {
        if (n == MOST_SAMPLES) { /* every second one is enough */
            for (n = 0; n < MOST_SAMPLES / 2; n++)
                samples[n] = samples[2 * n];
            step *= 2;
        }
        times_of(proofs, proofs->starts[i], hub, &proofs->trace->clocks[hub->clock], &begun, &here);
        times_of(proofs, proofs->starts[i], other, &own, &begun, &there);
        samples[n++] = (struct sample){there, here - there};
    }
    return n;
}

static int64_t median_difference(const struct sample *samples, size_t n, int64_t base, double rate,
                                 int64_t *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = samples[i].difference - llrint(rate * (double)(samples[i].at - base));
    return trace_quantile(values, n, 0.5);
}

/* The median of the slopes between the medians of stretches, which what is late once in a while does not bend. */
static double drift_of(const struct sample *samples, size_t n, int64_t *values)
{
    int64_t at[WINDOWS], difference[WINDOWS], slopes[WINDOWS * WINDOWS / 2];
    size_t nslopes = 0;
    double drift;

    if (n < 2 * WINDOWS || samples[n - 1].at - samples[0].at < SHORTEST_NS)
        return 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        size_t from = w * n / WINDOWS, until = (w + 1) * n / WINDOWS;

        at[w] = samples[(from + until) / 2].at;
        difference[w] = median_difference(samples + from, until - from, 0, 0, values);
    }
    for (size_t i = 0; i < WINDOWS; i++)
        for (size_t k = i + WINDOWS / 4; k < WINDOWS; k++)
            if (at[k] > at[i])
                slopes[nslopes++] = llrint((double)(difference[k] - difference[i]) /
                                           (double)(at[k] - at[i]) * 1e15);
    drift = (double)trace_quantile(slopes, nslopes, 0.5) / 1e15;
    return fabs(drift) > MOST_DRIFT ? 0 : drift;
}

/* What all collectives together say of the offset, at this rate. */
static void bound(const struct proofs *proofs, const struct by_clock *hub,
                  const struct by_clock *other, const struct clock *as, int64_t *low_out,
                  int64_t *high_out)
{
    struct clock straight = *as;

    straight.offset = 0;
    *low_out = INT64_MIN / 2;
    *high_out = INT64_MAX / 2;
    for (size_t i = 0; i < proofs->n; i++) {
        int64_t begun, ended, hub_begun, hub_ended;

        times_of(proofs, proofs->starts[i], hub, &proofs->trace->clocks[hub->clock], &hub_begun,
                 &hub_ended);
        times_of(proofs, proofs->starts[i], other, &straight, &begun, &ended);
        *low_out = max_i64(*low_out, hub_begun - ended);
        *high_out = min_i64(*high_out, hub_ended - begun);
    }
}

static struct clock compared(const struct proofs *proofs, const struct by_clock *hub,
                             const struct by_clock *other, const struct sample *samples, size_t n,
                             double rate, int64_t *values)
{
    struct clock clock = proofs->trace->clocks[other->clock];
    int64_t low, high;

    clock.base = samples[0].at;
    clock.rate = rate;
    clock.offset = median_difference(samples, n, clock.base, rate, values);
    for (size_t i = 0; i < n; i++)
        values[i] = llabs(values[i] - clock.offset);
    clock.spread = trace_quantile(values, n, 0.5);
    bound(proofs, hub, other, &clock, &low, &high);
    clock.contradiction = max_i64(0, low - high);
    if (low <= high) {
        clock.offset = max_i64(low, min_i64(high, clock.offset));
        clock.bound = max_i64(clock.offset - low, high - clock.offset);
    }
    clock.hub = hub->clock;
    clock.aligned = true;
    clock.samples = proofs->n;
    return clock;
}

/* With a drift only where there is one, or the bounds contradict each other without. */
static void compare(struct trace *trace, const struct proofs *proofs, const struct by_clock *hub,
                    const struct by_clock *other)
{
    struct sample *samples = process_must(calloc(MOST_SAMPLES, sizeof *samples));
    int64_t *values = process_must(calloc(MOST_SAMPLES, sizeof *values));
    size_t n = take_samples(proofs, hub, other, samples);
    double drift = drift_of(samples, n, values);
    struct clock best = compared(proofs, hub, other, samples, n, drift, values);

    if (best.contradiction && drift != 0) {
        struct clock steady = compared(proofs, hub, other, samples, n, 0, values);

        if (steady.contradiction < best.contradiction)
            best = steady;
    }
    trace->clocks[other->clock] = best;
    free(samples);
    free(values);
}

/* ---- all of them ---- */

static const struct by_clock *aligned_one(const struct trace *trace, const struct proofs *proofs)
{
    for (uint32_t i = 0; i < proofs->comm->nmembers; i++)
        if (trace->clocks[proofs->order[i].clock].aligned)
            return &proofs->order[i];
    return NULL;
}

/* Those of a communicator that are not aligned yet, where one is. Returns whether there were some. */
static bool align_comm(struct trace *trace, const struct proofs *proofs)
{
    const struct by_clock *hub = proofs->n ? aligned_one(trace, proofs) : NULL;
    bool some = false;

    for (uint32_t i = 0; hub && i < proofs->comm->nmembers; i++) {
        const struct by_clock *other = &proofs->order[i];

        if (trace->clocks[other->clock].aligned)
            continue;
        compare(trace, proofs, hub, other);
        some = true;
    }
    return some;
}

/* There is no better guess. */
static void align_by_realtime(struct clock *clock, const struct clock *first)
{
    clock->offset = clock->realtime - first->realtime;
    clock->aligned = true;
}

static void apply(struct trace *trace)
{
    for (size_t i = 0; i < trace->nops; i++) {
        struct op *op = &trace->ops[i];
        const struct clock *clock =
            &trace->clocks[trace->procs[trace->members[op->member].proc].clock];

        op->called = mapped(clock, op->called);
        op->begun = mapped(clock, op->begun);
        op->ended = mapped(clock, op->ended);
    }
    for (size_t i = 0; i < trace->nmembers; i++) {
        struct member *member = &trace->members[i];

        member->sure = mapped(&trace->clocks[trace->procs[member->proc].clock], member->sure);
        member->until = mapped(&trace->clocks[trace->procs[member->proc].clock], member->until);
    }
}

void trace_align(struct trace *trace)
{
    struct proofs *proofs = process_must(calloc(trace->ncomms + 1, sizeof *proofs));
    size_t next = 0;

    for (size_t i = 0; i < trace->ncomms; i++)
        find_proofs(trace, &trace->comms[i], &proofs[i]);
    if (trace->nclocks)
        trace->clocks[0].aligned = true;
    for (;;) {
        bool some = false;

        for (size_t i = 0; i < trace->ncomms; i++)
            some |= align_comm(trace, &proofs[i]);
        if (some)
            continue;
        while (next < trace->nclocks && trace->clocks[next].aligned)
            next++;
        if (next == trace->nclocks)
            break;
        align_by_realtime(&trace->clocks[next], &trace->clocks[0]);
    }
    for (size_t i = 0; i < trace->ncomms; i++)
        forget_proofs(&proofs[i]);
    free(proofs);
    apply(trace);
}
