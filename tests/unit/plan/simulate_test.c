/* simulate: closed forms come out, ports are shared, nothing depends on the order of ranks, what does not end is told. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "algo/prove.h"
#include "base/base.h"
#include "plan/simulate.h"
#include "samples.h"

#define FAST 1e12 /* GB/s: takes no time */
#define MOST_RANKS 24
#define SCRATCH (4 << 20)

/* Only what a test sets takes time. */
static const struct simulate_machine nothing = {
    .copy_gbps = FAST, .reduce_gbps = FAST, .pass_gbps = FAST, .net_gbps = FAST, .port_gbps = FAST};

static const struct simulate_machine ordinary = {.call_us = 0.1,
                                                 .exchange_us = 0.3,
                                                 .message_us = 0.04,
                                                 .copy_gbps = 45,
                                                 .reduce_gbps = 50,
                                                 .pass_gbps = 16,
                                                 .net_us = 15,
                                                 .net_message_us = 5,
                                                 .net_gbps = 1,
                                                 .port_gbps = 1.25};

struct job {
    struct plan plans[MOST_RANKS];
    struct plan_p2p p2p[MOST_RANKS][2 * MOST_RANKS];
    struct plan_params params;
    struct plan_layout *layout;
    int host[MOST_RANKS];
};

/* As many ranks on each host, in order, or in turns. False: the algorithm cannot serve. */
static bool build(struct job *job, enum collective collective, const char *name, int n, int nhosts,
                  uint64_t count, bool in_turns)
{
    const struct algo *algo = algo_find(collective, name);

    assert_non_null(algo);
    memset(job, 0, sizeof *job);
    job->params = (struct plan_params){.collective = collective,
                                       .nranks = n,
                                       .count = count,
                                       .dtype = THRUM_FLOAT32,
                                       .redop = THRUM_SUM,
                                       .root = n / 2,
                                       .peer_access = nhosts == 1,
                                       .lanes = 1,
                                       .scratch_bytes = SCRATCH};
    for (int r = 0; r < n; r++)
        job->host[r] = in_turns ? r % nhosts : r * nhosts / n;
    assert_int_equal(plan_layout_create(job->host, n, &job->layout), THRUM_OK);
    if (nhosts > 1)
        job->params.layout = job->layout;
    if (collective == COLL_SENDRECV)
        job->params.np2p = algo_pattern_p2p(ALGO_SHIFT, 0, n, 4 * count, job->p2p[0]);
    job->params.p2p = job->p2p[0];
    if (algo_refusal(algo, &job->params)) {
        plan_layout_destroy(job->layout);
        return false;
    }
    for (int r = 0; r < n; r++) {
        struct plan_params own = job->params;

        own.rank = r;
        if (collective == COLL_SENDRECV) {
            own.np2p = algo_pattern_p2p(ALGO_SHIFT, r, n, 4 * count, job->p2p[r]);
            own.p2p = job->p2p[r];
        }
        assert_int_equal(algo_build(algo, &own, &job->plans[r]), THRUM_OK);
    }
    return true;
}

static void end(struct job *job)
{
    for (int r = 0; r < job->params.nranks; r++)
        plan_fini(&job->plans[r]);
    plan_layout_destroy(job->layout);
}

static struct simulate_result run(const struct job *job, const struct simulate_machine *machine)
{
    struct simulation *simulation;
    struct simulate_result result;
    int n = job->params.nranks;

    assert_int_equal(simulate_create(machine, n, job->host, 1 << 24, &simulation), THRUM_OK);
    for (int r = 0; r < n; r++)
        assert_int_equal(simulate_add(simulation, &job->plans[r]), THRUM_OK);
    assert_int_equal(simulate_run(simulation, NULL, NULL, &result), THRUM_OK);
    simulate_destroy(simulation);
    return result;
}

static struct simulate_result run_one(enum collective collective, const char *name, int n,
                                      int nhosts, uint64_t count,
                                      const struct simulate_machine *machine)
{
    struct simulate_result result;
    struct job job;

    assert_true(build(&job, collective, name, n, nhosts, count, false));
    result = run(&job, machine);
    end(&job);
    return result;
}

static void near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance * expected + 1e-9))
        fail_msg("%.9g us, expected %.9g", found, expected);
}

static int log2_ceil(int n)
{
    int steps = 0;

    while (1 << steps < n)
        steps++;
    return steps;
}

/* ---- closed forms ------------------------------------------------------------------------------------------------ */

#define EXACT 1e-9

/* Arrivals, then 2 (n - 1) steps of a slice: the latency, and the slice at the port's pace. */
static void ring_allreduce(void **state)
{
    struct simulate_machine machine = nothing;

    (void)state;
    machine.net_us = 7;
    machine.port_gbps = 2;
    for (int n = 2; n <= 17; n++) {
        uint64_t slice = 1000; /* elements */
        double step = 7 + 4000 / 2e3, steps = 2 * (n - 1);
        struct simulate_result result =
            run_one(COLL_ALLREDUCE, "ring", n, n, slice * (uint64_t)n, &machine);

        near(result.path.us, 7 + steps * step, EXACT);
        near(result.path.part_us[SIMULATE_NET], 7 + steps * 7, EXACT);
        near(result.path.part_us[SIMULATE_PORT], steps * 2, EXACT);
        assert_int_equal(result.path.net_steps, 1 + 2 * (n - 1));
        assert_int_equal(result.path.steps, 0);
        assert_int_equal(result.port_bytes, 2 * (uint64_t)(n - 1) * slice * 4);
    }
}

/* In pieces, so that the next one is under way while one is folded: the ports never rest. */
static void ring_of_large_messages(void **state)
{
    struct simulate_machine machine = nothing;

    (void)state;
    machine.port_gbps = 2;
    for (int n = 2; n <= 8; n++) {
        uint64_t slice = 1 << 20;
        struct simulate_result result =
            run_one(COLL_ALLREDUCE, "ring", n, n, slice * (uint64_t)n, &machine);

        near(result.path.us, 2 * (n - 1) * (double)slice * 4 / 2e3, 0.01);
    }
}

/* Children of one parent hear at the same time where sending takes none: as many hops as a number has bits set. */
static int most_bits(int n)
{
    int most = 0;

    for (int number = 1; number < n; number++)
        most = __builtin_popcount((unsigned)number) > most ? __builtin_popcount((unsigned)number)
                                                           : most;
    return most;
}

static void trees(void **state)
{
    struct simulate_machine machine = nothing, slow = nothing;

    (void)state;
    machine.net_us = 7;
    machine.exchange_us = 3;
    slow.net_gbps = 1; /* one message after the other: as many as there are rounds */
    for (int n = 2; n <= 17; n++) {
        double rounds = log2_ceil(n);

        near(run_one(COLL_BROADCAST, "binomial", n, n, 1, &machine).path.us, 7 * most_bits(n),
             EXACT);
        near(run_one(COLL_BROADCAST, "binomial", n, 1, 1, &machine).path.us, 3 * most_bits(n),
             EXACT);
        near(run_one(COLL_BROADCAST, "binomial", n, n, 1000, &slow).path.us, 4 * rounds, EXACT);
        near(run_one(COLL_BROADCAST, "binomial", n, n, 100000, &slow).path.us, 400 * rounds, EXACT);
        near(run_one(COLL_BARRIER, "dissemination", n, 1, 0, &machine).path.us, 3 * rounds, EXACT);
        near(run_one(COLL_BARRIER, "dissemination", n, n, 0, &machine).path.us, 7 * rounds, EXACT);
    }
}

/* What the cost model says of them is what happens: all ranks do the same at the same time. */
static void in_lines_and_direct(void **state)
{
    const struct simulate_machine *m = &ordinary;

    (void)state;
    for (int n = 2; n <= 17; n++) {
        double others = n - 1, bytes = 480.0 * n;
        struct simulate_result result = run_one(COLL_ALLREDUCE, "inline", n, 1, 120, m);

        near(result.path.us,
             m->call_us + m->exchange_us + 2 * others * m->message_us +
                 2 * others * 480 / m->pass_gbps / 1e3 + 2 * 480 / m->reduce_gbps / 1e3,
             EXACT);
        assert_int_equal(result.path.steps, 1);
        result = run_one(COLL_ALLREDUCE, "direct", n, 1, 120 * (uint64_t)n, m);
        near(result.path.us,
             m->call_us + 2 * m->exchange_us + 4 * others * m->message_us +
                 2 * bytes / m->reduce_gbps / 1e3,
             EXACT);
        assert_int_equal(result.path.steps, 2);
        result = run_one(COLL_ALLREDUCE, "inline", n, n, 120, m);
        assert_int_equal(result.path.net_steps, 1);
        assert_int_equal(result.port_bytes, 480 * (uint64_t)(n - 1));
    }
}

/* Two ranks put halves to each other, fold, and put the results. */
static void puts_inside_a_host(void **state)
{
    const struct simulate_machine *m = &ordinary;
    double half = 4000;

    (void)state;
    near(run_one(COLL_ALLREDUCE, "ring", 2, 1, 2000, m).path.us,
         m->call_us + 3 * m->exchange_us + 6 * m->message_us + 4 * half / m->pass_gbps / 1e3 +
             3 * half / m->reduce_gbps / 1e3,
         EXACT);
}

/* A message between two hosts: what the rank's stream, and what the port, lets through. */
static void streams_and_ports(void **state)
{
    struct simulate_machine machine = nothing;
    double bytes = 4e6;

    (void)state;
    machine.net_us = 10;
    machine.net_gbps = 1;
    machine.port_gbps = 4;
    near(run_one(COLL_SENDRECV, "rendezvous", 2, 2, 1000000, &machine).path.us, 20 + bytes / 1e3,
         EXACT);
    machine.port_gbps = 0.5;
    near(run_one(COLL_SENDRECV, "rendezvous", 2, 2, 1000000, &machine).path.us, 20 + bytes / 0.5e3,
         EXACT);
}

/* Ranks of one host put to as many on the other: k times the bytes; of k hosts into one: the same. */
static void shared_port(void **state)
{
    enum { BYTES = 100000 };
    struct simulate_machine machine = nothing;

    (void)state;
    machine.net_us = 10;
    machine.net_gbps = machine.port_gbps = 1;
    for (int k = 1; k <= 8; k++)
        for (int incast = 0; incast < 2; incast++) {
            struct job job = {.params = {.nranks = 2 * k, .lanes = 1, .dtype = THRUM_INT8}};
            struct simulate_result result;

            for (int r = 0; r < 2 * k; r++) {
                struct plan *plan = &job.plans[r];
                int peer = (r + k) % (2 * k);

                job.host[r] = r < k ? (incast ? 1 + r : 1) : 0;
                job.params.rank = r;
                plan_init(plan, &job.params);
                if (r < k) {
                    plan_put(plan, 0, peer, plan_at(PLAN_RECV, peer, 0), plan_at(PLAN_SEND, r, 0),
                             BYTES, 1);
                } else {
                    plan_wait(plan, 0, peer, 1);
                }
            }
            result = run(&job, &machine);
            near(result.path.us, 10 + k * BYTES / 1e3, EXACT);
            near(result.path.part_us[SIMULATE_PORT] + result.path.part_us[SIMULATE_STREAM],
                 k * BYTES / 1e3, EXACT);
            assert_int_equal(result.port_bytes, k * BYTES);
            assert_int_equal(result.slowest, 2 * k - 1);
            end(&job);
        }
}

/* Data that wait for the port are there before what was signalled behind them. */
static void overtake(uint64_t value)
{
    struct simulate_machine machine = nothing;
    struct job job = {.params = {.nranks = 4, .lanes = 1, .dtype = THRUM_INT8}};

    machine.net_us = 10;
    machine.port_gbps = 1;
    for (int r = 0; r < 4; r++) {
        struct plan *plan = &job.plans[r];

        job.host[r] = r < 2 ? r : 2;
        job.params.rank = r;
        plan_init(plan, &job.params);
        if (r < 2)
            plan_put(plan, 0, r + 2, plan_at(PLAN_RECV, r + 2, 0), plan_at(PLAN_SEND, r, 0),
                     r ? 5000 : 90000, r ? value : 1);
        if (r == 1)
            plan_signal(plan, 0, 3, 2); /* its data come behind rank 0's */
        if (r >= 2)
            plan_wait(plan, 0, r - 2, (uint64_t)r - 1);
    }
    near(run(&job, &machine).path.us, 10 + 95, EXACT);
    end(&job);
}

static void signals_do_not_overtake(void **state)
{
    (void)state;
    overtake(1);
    overtake(0);
}

/* Lanes that wait for one line all do. */
static void lines_of_several_lanes(void **state)
{
    struct simulate_machine machine = nothing;

    (void)state;
    machine.exchange_us = 10;
    machine.copy_gbps = 1;
    for (int busy = 0; busy < 2; busy++) {
        struct job job = {.params = {.nranks = 2, .lanes = 2, .count = 4000}};

        plan_init(&job.plans[0], &job.params);
        plan_arrive(&job.plans[0], 0, 1);
        job.params.rank = 1;
        plan_init(&job.plans[1], &job.params);
        for (int lane = 0; lane < 2; lane++)
            plan_wait_arrival(&job.plans[1], lane, 0);
        plan_copy(&job.plans[1], busy, plan_at(PLAN_RECV, 1, 0), plan_at(PLAN_SEND, 1, 0), 4000);
        near(run(&job, &machine).path.us, 10 + 8, EXACT);
        end(&job);
    }
}

/* What 16-bit floats are folded in is sent as float32. */
static void wide_partial_results(void **state)
{
    struct plan_params params = {
        .nranks = 2, .lanes = 1, .dtype = THRUM_BFLOAT16, .redop = THRUM_SUM};
    struct simulate_machine machine = nothing;
    struct job job = {.params = params};
    const int host[2] = {0, 1};

    (void)state;
    machine.port_gbps = 1;
    plan_init(&job.plans[0], &params);
    plan_put(&job.plans[0], 0, 1, plan_at(PLAN_WIDE, 1, 0), plan_at(PLAN_WIDE, 0, 0), 5000, 1);
    params.rank = 1;
    plan_init(&job.plans[1], &params);
    plan_wait(&job.plans[1], 0, 0, 1);
    memcpy(job.host, host, sizeof host);
    near(run(&job, &machine).path.us, 10, EXACT);
    end(&job);
}

/* ---- every algorithm --------------------------------------------------------------------------------------------- */

/* Bytes that have to go through some port, in one direction, whatever the algorithm. Equal numbers of ranks on hosts, in order. */
static double least_port_bytes(const struct plan_params *p, int nhosts)
{
    double bytes = 4 * (double)p->count, local = (double)p->nranks / nhosts,
           elsewhere = p->nranks - local;

    if (nhosts == 1)
        return 0;
    switch (p->collective) {
    case COLL_BARRIER:
        return 0;
    case COLL_ALLGATHER:
    case COLL_GATHER:
    case COLL_SCATTER:
    case COLL_REDUCE_SCATTER: /* out: partial results for all the others */
        return elsewhere * bytes;
    case COLL_ALLTOALL:
        return local * elsewhere * bytes;
    default:
        return bytes;
    }
}

/* Every rank hears of twice as many with each exchange, at most. */
static bool is_logarithmic(const struct algo *algo)
{
    return algo->collective != COLL_EXSCAN &&
           (!strcmp(algo->name, "recursive_doubling") || !strcmp(algo->name, "bruck") ||
            !strcmp(algo->name, "dissemination") || !strcmp(algo->name, "rabenseifner"));
}

static void check_bounds(const struct job *job, const struct algo *algo, int nhosts, bool in_order)
{
    double least = least_port_bytes(&job->params, nhosts);
    struct simulate_result result = run(job, &ordinary);
    struct simulate_machine latency = nothing;
    double sum = 0;

    for (int i = 0; i < SIMULATE_PARTS; i++) {
        assert_true(result.path.part_us[i] >= 0);
        sum += result.path.part_us[i];
    }
    near(sum, result.path.us, 1e-6);
    if (in_order && nhosts > 1 && job->params.nranks % nhosts == 0) {
        if ((double)result.port_bytes < least)
            fail_msg("%s %s: %d ranks on %d hosts, %.0f bytes through a port, %.0f have to",
                     collective_name(algo->collective), algo->name, job->params.nranks, nhosts,
                     (double)result.port_bytes, least);
    }
    if ((double)result.port_bytes / ordinary.port_gbps / 1e3 > result.path.us)
        fail_msg("%s %s: faster than its port", collective_name(algo->collective), algo->name);
    if (nhosts > 1)
        assert_true(result.path.us >= ordinary.call_us + ordinary.net_us);
    latency.net_us = 1;
    if (nhosts == job->params.nranks && is_logarithmic(algo))
        assert_true(run(job, &latency).path.us >= log2_ceil(nhosts) - 1e-9);
}

static void every_algorithm_ends(void **state)
{
    static const uint64_t counts[] = {1, 301, 40009};
    uint64_t cases = 0;

    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++)
        for (int n = 1; n <= 17; n++)
            for (int layout = 0; layout < 5; layout++)
                for (size_t c = 0; c < 3; c++) {
                    const struct algo *algo = &thrum_algos[i];
                    const int hosts[] = {1, 2, (n + 2) / 3, n, 3};
                    int nhosts = hosts[layout] < n ? hosts[layout] : n;
                    struct job job;

                    if (!build(&job, algo->collective, algo->name, n, nhosts,
                               algo->collective == COLL_BARRIER ? 0 : counts[c], layout == 4))
                        continue;
                    check_bounds(&job, algo, nhosts, layout != 4);
                    end(&job);
                    cases++;
                }
    assert_true(cases > 5000);
}

/* Twice as slow in everything takes twice as long, to the bit. */
static void scales(void **state)
{
    struct simulate_machine slow = ordinary;

    (void)state;
    slow.call_us *= 2;
    slow.exchange_us *= 2;
    slow.message_us *= 2;
    slow.net_us *= 2;
    slow.net_message_us *= 2;
    slow.copy_gbps /= 2;
    slow.reduce_gbps /= 2;
    slow.pass_gbps /= 2;
    slow.net_gbps /= 2;
    slow.port_gbps /= 2;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        struct job job;

        if (!build(&job, thrum_algos[i].collective, thrum_algos[i].name, 12, 3, 5000, false))
            continue;
        assert_true(run(&job, &slow).path.us == 2 * run(&job, &ordinary).path.us);
        end(&job);
    }
}

/* One message at a time comes to a port and goes, in the order of the plans. */
static bool has_no_races(const struct algo *algo)
{
    static const char *const names[] = {"ring", "chain", "dissemination", "binomial", "inline"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(algo->name, names[i]))
            return true;
    return false;
}

/*
 * Slower links, in each way and all, are not faster. Where messages race for a port, first come, first served may let the
 * right one win by it (as Graham's anomalies of scheduling): seldom, and not by much.
 */
static void slower_links_are_not_faster(void **state)
{
    int anomalies = 0, cases = 0;

    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++)
        for (int n = 2; n <= 17; n++)
            for (int which = 0; which < 32; which++) {
                const struct algo *algo = &thrum_algos[i];
                bool one_each = which & 16;
                struct simulate_machine slow = ordinary;
                double fast_us, slow_us;
                struct job job;

                if (!build(&job, algo->collective, algo->name, n, one_each ? n : (n + 2) / 3,
                           algo->collective == COLL_BARRIER ? 0 : 5000, false))
                    continue;
                slow.net_us *= which & 1 ? 1.3 : 1;
                slow.net_message_us *= which & 2 ? 1.3 : 1;
                slow.net_gbps /= which & 4 ? 1.3 : 1;
                slow.port_gbps /= which & 8 ? 1.3 : 1;
                fast_us = run(&job, &ordinary).path.us;
                slow_us = run(&job, &slow).path.us;
                end(&job);
                cases++;
                if (slow_us >= fast_us * (1 - 1e-12))
                    continue;
                anomalies++;
                if (slow_us < 0.85 * fast_us || (one_each && has_no_races(algo)))
                    fail_msg("%s %s, %d ranks, %d: %.3f us, with slower links %.3f",
                             collective_name(algo->collective), algo->name, n, which, fast_us,
                             slow_us);
            }
    print_message("    %d of %d cases are faster with slower links\n", anomalies, cases);
    assert_true(anomalies < cases / 100);
}

/* ---- order, repetition, timelines -------------------------------------------------------------------------------- */

static void order_of_ranks_does_not_count(void **state)
{
    enum { N = 24 };

    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        struct simulate_result results[3], again;
        double ends[3][N];
        struct job job;

        if (!build(&job, thrum_algos[i].collective, thrum_algos[i].name, N, 4, 3000, i % 2))
            continue;
        for (int order = 0; order < 3; order++) {
            const int strides[] = {1, N - 1, 7};
            struct simulation *s;

            assert_int_equal(simulate_create(&ordinary, N, job.host, 1 << 20, &s), THRUM_OK);
            for (int r = 0; r < N; r++)
                assert_int_equal(simulate_add(s, &job.plans[r * strides[order] % N]), THRUM_OK);
            assert_int_equal(simulate_run(s, NULL, NULL, &results[order]), THRUM_OK);
            assert_int_equal(simulate_run(s, NULL, NULL, &again), THRUM_OK);
            assert_memory_equal(&again.path, &results[order].path, sizeof again.path);
            assert_int_equal(again.port_bytes, results[order].port_bytes);
            for (int r = 0; r < N; r++)
                ends[order][r] = simulate_rank_us(s, r);
            simulate_destroy(s);
            assert_memory_equal(&results[order].path, &results[0].path, sizeof results[0].path);
            assert_int_equal(results[order].slowest, results[0].slowest);
            assert_int_equal(results[order].port_bytes, results[0].port_bytes);
            assert_memory_equal(ends[order], ends[0], sizeof ends[0]);
        }
        end(&job);
    }
}

struct watch {
    double until[MOST_RANKS][PLAN_MAX_LANES], port[MOST_RANKS][3], last;
    uint64_t slices, ops, sent, seen;
};

static void watch_slice(void *argument, const struct simulate_slice *s)
{
    struct watch *w = argument;
    double *until =
        s->place == SIMULATE_LANE ? &w->until[s->rank][s->lane] : &w->port[s->host][s->place];

    assert_true(s->from >= *until - 1e-9);
    assert_true(s->begun >= s->from && s->until >= s->begun);
    if (s->place == SIMULATE_LANE && w->ops)
        assert_true(fabs(s->from - *until) < 1e-9 || *until == 0);
    *until = s->until;
    w->last = s->until > w->last && s->place == SIMULATE_LANE ? s->until : w->last;
    w->ops += s->place == SIMULATE_LANE;
    w->sent += s->sent > 0;
    w->seen += s->seen > 0;
}

/* A lane's slices follow one another without a gap; ports serve one message at a time. */
static void timelines(void **state)
{
    struct simulate_result result;
    struct simulation *s;
    struct job job;

    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        struct watch watch = {.last = 0};

        if (!build(&job, thrum_algos[i].collective, thrum_algos[i].name, 12, 3, 3000, false))
            continue;
        assert_int_equal(simulate_create(&ordinary, 12, job.host, 1 << 20, &s), THRUM_OK);
        for (int r = 0; r < 12; r++)
            assert_int_equal(simulate_add(s, &job.plans[r]), THRUM_OK);
        assert_int_equal(simulate_run(s, watch_slice, &watch, &result), THRUM_OK);
        assert_true(watch.last == result.path.us);
        assert_int_equal(watch.ops, result.ops);
        assert_true(watch.sent > 0 && watch.seen > 0 && watch.seen <= watch.sent);
        simulate_destroy(s);
        end(&job);
    }
}

/* A line of one lane that all lanes wait for. */
static void several_lanes(void **state)
{
    double before = 0;

    (void)state;
    for (int lanes = 1; lanes <= PLAN_MAX_LANES; lanes++)
        for (int direct = 0; direct < 2; direct++) {
            const struct algo *algo = algo_find(COLL_ALLREDUCE, direct ? "direct" : "ring");
            struct job job;
            double us;

            assert_true(build(&job, COLL_ALLREDUCE, algo->name, 4, 1, 1 << 20, false));
            for (int r = 0; r < 4; r++) {
                plan_fini(&job.plans[r]);
                job.params.lanes = lanes;
                job.params.rank = r;
                assert_int_equal(algo_build(algo, &job.params, &job.plans[r]), THRUM_OK);
            }
            us = run(&job, &ordinary).path.us;
            if (direct && lanes > 1) /* each folds its part */
                assert_true(us < before);
            if (direct)
                before = us;
            end(&job);
        }
}

/* ---- what cannot be simulated ------------------------------------------------------------------------------------ */

static void check_stuck(struct sample *sample, const char *words)
{
    struct simulate_result result;
    struct simulation *s;
    char copy[256], *rest = copy;

    assert_int_equal(simulate_create(&ordinary, sample->n, NULL, 1000, &s), THRUM_OK);
    for (int r = 0; r < sample->n; r++)
        assert_int_equal(simulate_add(s, &sample->plans[r]), THRUM_OK);
    assert_int_equal(simulate_run(s, NULL, NULL, &result), THRUM_ERR_PLAN);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strsep(&rest, "|"); word; word = strsep(&rest, "|"))
        if (!strstr(thrum_last_error(), word))
            fail_msg("no \"%s\" in: %s", word, thrum_last_error());
    simulate_destroy(s);
    sample_fini(sample);
}

static void who_waits_is_told(void **state)
{
    struct sample sample;

    (void)state;
    sample_direct(&sample, 3);
    sample_delete(&sample.plans[1], sample_find(&sample.plans[1], PLAN_SIGNAL, 0, 1));
    check_stuck(&sample, "1 of 3 ranks|rank 0 waits for a signal of rank 1, which has ended");
    sample_direct(&sample, 2);
    sample_delete(&sample.plans[0], sample_find(&sample.plans[0], PLAN_SIGNAL, PLAN_ARRIVE, 0));
    check_stuck(&sample, "2 of 2 ranks|rank 0 waits for a signal of rank 1|rank 1 waits for the "
                         "arrival of rank 0");
    sample_inline(&sample, 3);
    sample_delete(&sample.plans[2], sample_find(&sample.plans[2], PLAN_PUT, PLAN_INLINE, 0));
    check_stuck(&sample, "rank 0 waits for a line of rank 2");
}

static void too_many_ops(void **state)
{
    struct sample sample;
    struct simulation *s;

    (void)state;
    sample_direct(&sample, 2);
    assert_int_equal(simulate_create(&ordinary, 2, NULL, 9, &s), THRUM_OK);
    assert_int_equal(simulate_add(s, &sample.plans[0]), THRUM_OK);
    assert_int_equal(simulate_add(s, &sample.plans[1]), THRUM_ERR_UNSUPPORTED);
    assert_non_null(strstr(thrum_last_error(), "more than 9 ops"));
    simulate_destroy(s);
    simulate_destroy(NULL);
    sample_fini(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ring_allreduce),
        cmocka_unit_test(ring_of_large_messages),
        cmocka_unit_test(trees),
        cmocka_unit_test(in_lines_and_direct),
        cmocka_unit_test(puts_inside_a_host),
        cmocka_unit_test(streams_and_ports),
        cmocka_unit_test(shared_port),
        cmocka_unit_test(signals_do_not_overtake),
        cmocka_unit_test(lines_of_several_lanes),
        cmocka_unit_test(wide_partial_results),
        cmocka_unit_test(every_algorithm_ends),
        cmocka_unit_test(scales),
        cmocka_unit_test(slower_links_are_not_faster),
        cmocka_unit_test(order_of_ranks_does_not_count),
        cmocka_unit_test(timelines),
        cmocka_unit_test(several_lanes),
        cmocka_unit_test(who_waits_is_told),
        cmocka_unit_test(too_many_ops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
