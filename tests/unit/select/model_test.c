/*
 * The cost model against the simulator, which plays the plans that it tells the time of: over a grid of collectives,
 * algorithms, hosts, ranks and sizes their ratio stays within bounds. Nothing is timed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "comm/comm.h"
#include "select/select.h"

#define MOST_RANKS 64

/* Latencies built in and links of 10 Gb/s, or what is taken for adapters. */
static struct select_figures figures_of(bool fast)
{
    struct select_policy policy;

    select_policy_init(&policy);
    if (fast) {
        select_use_adapters(&policy, true);
    } else {
        policy.figures.net_overlap = 1; /* so the simulator plays it */
        policy.figures.net_gbps = 1;
        policy.figures.port_gbps = 1.25;
    }
    return policy.figures;
}

/* What the model leaves out of single algorithms, and on purpose; all others keep to ordinary_*. */
static const double ordinary_least = 0.65, ordinary_most = 1.65;
static const struct exception {
    const char *collective, *algorithm; /* NULL: of all */
    bool inside; /* one host, or several */
    double least, most;
} exceptions[] = {
    /* Calls in a row, whose lines go together: a single one takes longer. */
    {NULL, "inline", false, 0.55, 1.75},
    {"scan", "inline", false, 0.3, 1},
    {"exscan", "inline", false, 0.3, 1.05},
    {"scan", "inline", true, 0.6, 1},
    {"exscan", "inline", true, 0.6, 1.05},
    /* Its many small copies take longer than by their bytes. */
    {"alltoall", "leaders", false, 0.9, 4},
    /* Puts inside a host are faster than those of partial results; prefixes stay in the cache. Both were measured. */
    {"alltoall", "pairwise", true, 0.35, 1.5},
    {"scan", "direct", true, 0.4, 1.2},
    {"exscan", "direct", true, 0.5, 2.1},
    /* Two ranks, of which one folds while the other does nothing, or what goes beyond the cache. */
    {"reduce", "binomial", true, 0.9, 2},
    {"reduce", "binomial", false, 0.65, 1.75},
    {"scan", "chain", true, 0.9, 1.7},
    {"exscan", "chain", true, 0.9, 1.8},
    /* Reductions beyond the cache, and pieces that wait for credits. */
    {"reduce", "chain", false, 0.6, 1.1},
    {"scan", "recursive_doubling", false, 0.8, 1.7},
    /* Distances over which only some ranks cross hosts. */
    {"exscan", "recursive_doubling", false, 0.65, 1.85},
};

static void bounds_of(const struct algo *algo, bool inside, double *least, double *most)
{
    *least = ordinary_least;
    *most = ordinary_most;
    for (size_t i = 0; i < sizeof exceptions / sizeof *exceptions; i++) {
        const struct exception *e = &exceptions[i];

        if ((!e->collective || !strcmp(e->collective, collective_name(algo->collective))) &&
            !strcmp(e->algorithm, algo->name) && e->inside == inside) {
            *least = e->least;
            *most = e->most;
        }
    }
}

static double simulated_us(const struct select_figures *figures, const struct algo *algo,
                           const struct plan_params *params, const int *host)
{
    struct simulate_machine machine = select_machine(figures, params);
    struct simulate_result result;
    struct simulation *s;

    assert_int_equal(simulate_create(&machine, params->nranks, host, 1 << 24, &s), THRUM_OK);
    for (int r = 0; r < params->nranks; r++) {
        struct plan_params own = *params;
        struct plan plan;

        own.rank = r;
        plan_init(&plan, &own);
        plan.algorithm = algo->name;
        plan.sink = simulate_take;
        plan.sink_argument = s;
        algo->build(&plan);
        assert_int_equal(plan.status, THRUM_OK);
        plan_fini(&plan);
    }
    assert_int_equal(simulate_run(s, NULL, NULL, &result), THRUM_OK);
    simulate_destroy(s);
    return result.path.us;
}

struct tally {
    int cells, close; /* within 0.7 to 1.5 */
    int outside; /* the bounds */
};

static void compare(const struct select_figures *figures, const struct algo *algo,
                    const struct plan_params *params, const int *host, struct tally *tally)
{
    double model = select_predict_us(figures, algo, params), least, most;
    double ratio = model / simulated_us(figures, algo, params, host);
    bool inside = !params->layout;

    bounds_of(algo, inside, &least, &most);
    tally->cells++;
    tally->close += ratio >= 0.7 && ratio <= 1.5;
    if (ratio >= least && ratio <= most)
        return;
    tally->outside++;
    print_error("%s %s, %d ranks on %d hosts, count %llu: the model says %.2f us, %.2f times what "
                "is simulated\n",
                collective_name(algo->collective), algo->name, params->nranks,
                inside ? 1 : params->layout->nhosts, (unsigned long long)params->count, model,
                ratio);
}

/* All algorithms, and sizes of the larger buffer from 8 bytes to 16 MiB. */
static struct tally compare_on(int nhosts, int local, bool fast)
{
    struct select_figures figures = figures_of(fast);
    struct plan_layout *layout = NULL;
    struct tally tally = {0};
    int host[MOST_RANKS], n = nhosts * local;

    for (int r = 0; r < n; r++)
        host[r] = r / local;
    assert_int_equal(plan_layout_create(host, n, &layout), THRUM_OK);
    for (size_t i = 0; i < thrum_algo_count; i++)
        for (uint64_t bytes = 8; bytes <= 16 << 20; bytes *= 8) {
            const struct algo *algo = &thrum_algos[i];
            struct plan_params params = {.collective = algo->collective,
                                         .nranks = n,
                                         .count = bytes / 4,
                                         .dtype = THRUM_FLOAT32,
                                         .redop = THRUM_SUM,
                                         .peer_access = nhosts == 1,
                                         .layout = nhosts > 1 ? layout : NULL,
                                         .lanes = 1,
                                         .ranks_per_core = 1,
                                         .scratch_bytes = 4 << 20};
            uint64_t whole;

            params.line_bytes =
                COMM_LINE_UNITS_MAX * comm_used_unit_bytes(params.peer_access, 1, n);
            if (algo->collective == COLL_BARRIER)
                params.count = 0;
            whole = select_call_bytes(&params);
            if (whole > bytes) /* of blocks of all ranks */
                params.count = max_u64(bytes / 4 / (uint64_t)n, 1);
            if (algo->collective == COLL_SENDRECV || algo_refusal(algo, &params))
                continue; /* the model knows nothing of who sends to whom */
            compare(&figures, algo, &params, nhosts > 1 ? host : NULL, &tally);
        }
    plan_layout_destroy(layout);
    return tally;
}

static void check(const int (*grid)[2], size_t n, bool fast, double least_close)
{
    struct tally sum = {0};

    for (size_t i = 0; i < n; i++) {
        struct tally one = compare_on(grid[i][0], grid[i][1], fast);

        sum.cells += one.cells;
        sum.close += one.close;
        sum.outside += one.outside;
    }
    print_message("    %d of %d are within 0.7 to 1.5\n", sum.close, sum.cells);
    assert_true(sum.cells > 500);
    assert_int_equal(sum.outside, 0);
    assert_true(sum.close >= least_close * sum.cells);
}

static const int between[][2] = {{2, 1}, {3, 1}, {4, 1}, {8, 1}, {2, 2}, {3, 2}, {4, 4}, {8, 8}};

static void between_hosts(void **state)
{
    (void)state;
    check(between, sizeof between / sizeof *between, false, 0.92);
}

static void between_hosts_with_fast_links(void **state)
{
    (void)state;
    check(between, sizeof between / sizeof *between, true, 0.92);
}

static void inside_a_host(void **state)
{
    static const int one[][2] = {{1, 2}, {1, 3}, {1, 4}, {1, 8}};

    (void)state;
    check(one, sizeof one / sizeof *one, false, 0.92);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_hosts),
        cmocka_unit_test(between_hosts_with_fast_links),
        cmocka_unit_test(inside_a_host),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
