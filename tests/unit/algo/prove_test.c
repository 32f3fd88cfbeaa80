/* Every algorithm holds over the whole sweep; every planted fault is found, with a counterexample. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "algo/prove.h"
#include "base/base.h"

#ifdef THRUM_SANITIZED
#define QUICK true
#else
#define QUICK false
#endif

static void prove_collective(enum collective collective)
{
    struct algo_sweep sweep = {.quick = QUICK};
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        struct algo_proof proof;
        if (algo->collective != collective)
            continue;
        int64_t start = now_ns();
        assert_int_equal(algo_prove(algo, &sweep, stderr, &proof), THRUM_OK);
        assert_true(proof.cases >= 18);
        print_message("    %s: %llu cases, %llu ops, %.2f s\n", algo->name,
                      (unsigned long long)proof.cases, (unsigned long long)proof.ops,
                      (double)(now_ns() - start) * 1e-9);
    }
}

static void test_allreduce(void **state)
{
    (void)state;
    prove_collective(COLL_ALLREDUCE);
}
static void test_broadcast(void **state)
{
    (void)state;
    prove_collective(COLL_BROADCAST);
}
static void test_allgather(void **state)
{
    (void)state;
    prove_collective(COLL_ALLGATHER);
}
static void test_reduce_scatter(void **state)
{
    (void)state;
    prove_collective(COLL_REDUCE_SCATTER);
}
static void test_barrier(void **state)
{
    (void)state;
    prove_collective(COLL_BARRIER);
}
static void test_sendrecv(void **state)
{
    (void)state;
    prove_collective(COLL_SENDRECV);
}
static void test_reduce(void **state)
{
    (void)state;
    prove_collective(COLL_REDUCE);
}
static void test_gather_and_scatter(void **state)
{
    (void)state;
    prove_collective(COLL_GATHER);
    prove_collective(COLL_SCATTER);
}
static void test_alltoall(void **state)
{
    (void)state;
    prove_collective(COLL_ALLTOALL);
}
static void test_scans(void **state)
{
    (void)state;
    prove_collective(COLL_SCAN);
    prove_collective(COLL_EXSCAN);
}

/* More ranks than one REDUCE has operands: contributions and destinations in several ops. */
static void test_more_ranks_than_operands(void **state)
{
    static const struct {
        enum collective collective;
        const char *name;
        int nranks;
        uint64_t count;
    } cases[] = {
        {COLL_ALLREDUCE, "direct", 129, 20000}, {COLL_ALLREDUCE, "direct", 257, 5},
        {COLL_ALLREDUCE, "inline", 256, 3},     {COLL_REDUCE_SCATTER, "direct", 256, 3},
        {COLL_ALLGATHER, "direct", 257, 3},     {COLL_REDUCE_SCATTER, "pairwise", 256, 3},
        {COLL_REDUCE, "direct", 256, 40},       {COLL_SCAN, "inline", 257, 3},
    };
    (void)state;
    for (size_t i = 0; i < (QUICK ? 1 : sizeof(cases) / sizeof(cases[0])); i++)
        for (int wide = 0; wide < 2; wide++) {
            struct plan_params params = {
                .collective = cases[i].collective,
                .nranks = cases[i].nranks,
                .count = cases[i].count,
                .dtype = wide ? THRUM_BFLOAT16 : THRUM_FLOAT32,
                .redop = THRUM_AVG,
                .in_place = wide, /* one more way that they differ */
                .peer_access = true,
                .lanes = 1,
                .scratch_bytes = 65536,
            };
            const struct algo *algo = algo_find(cases[i].collective, cases[i].name);
            struct algo_proof proof = {0};
            assert_int_equal(
                algo_prove_case(algo, &params, ALGO_SHIFT, ALGO_FAULT_NONE, stderr, &proof),
                THRUM_OK);
        }
}

/* ---- planted faults ---------------------------------------------------------------------------------------------- */

/*
 * What moves one whole buffer has nothing to swap, who stages nothing has no slots, and so on: but where there is a
 * place, the fault is found. `places`: in how many algorithms there must be one.
 */
static void find_planted(enum algo_fault fault, int nranks, int places)
{
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        struct algo_sweep sweep = {.nranks = nranks, .fault = fault};
        struct algo_proof proof;
        char *text = NULL;
        size_t size = 0;
        if (algo->flags & ALGO_POWER_OF_TWO && nranks & (nranks - 1)) {
            places--; /* it serves no such number */
            continue;
        }
        FILE *report = open_memstream(&text, &size);
        assert_non_null(report);
        thrum_status_t status = algo_prove(algo, &sweep, report, &proof);
        fclose(report);
        if (proof.cases > 0) {
            if (status != THRUM_ERR_PLAN || !strstr(text, "plan_check: ") ||
                !strstr(text, algo_fault_name(fault)))
                fail_msg("%s %s, %d ranks: %s not found: %s", collective_name(algo->collective),
                         algo->name, nranks, algo_fault_name(fault), text);
            places--;
        }
        free(text);
    }
    assert_true(places <= 0);
}

static void find_planted_everywhere(enum algo_fault fault, int places)
{
    static const int sizes[] = {3, 5, 4, 8};
    for (size_t i = 0; i < (QUICK ? 2 : sizeof(sizes) / sizeof(sizes[0])); i++)
        find_planted(fault, sizes[i], places);
}

static void test_missing_wait(void **state)
{
    (void)state;
    find_planted_everywhere(ALGO_FAULT_MISSING_WAIT, (int)thrum_algo_count);
}
static void test_swapped_chunk(void **state)
{
    (void)state;
    find_planted_everywhere(ALGO_FAULT_SWAPPED_CHUNK, 35);
}
static void test_doubled_contribution(void **state)
{
    (void)state;
    find_planted_everywhere(ALGO_FAULT_DOUBLED_CONTRIBUTION, 24);
}
static void test_early_scratch_reuse(void **state)
{
    (void)state;
    find_planted_everywhere(ALGO_FAULT_EARLY_SCRATCH_REUSE, 15);
}
static void test_double_rounding(void **state)
{
    (void)state;
    find_planted_everywhere(ALGO_FAULT_DOUBLE_ROUNDING, 12);
}

/* Not only one WAIT: any for what is then folded, and any for a credit of the right neighbour, rank 2. */
static size_t find_wait(const struct plan *plan, size_t number)
{
    for (size_t i = 0; i + 1 < plan->nops; i++)
        if (plan->ops[i].opcode == PLAN_WAIT && plan->ops[i].flags == 0 &&
            (plan->ops[i + 1].opcode == PLAN_REDUCE || plan->ops[i].peer == 2) && number-- == 0)
            return i;
    return SIZE_MAX;
}

static void test_every_wait_of_a_ring_is_needed(void **state)
{
    const struct algo *algo = algo_find(COLL_ALLREDUCE, "ring");
    struct plan_params params = {
        .collective = COLL_ALLREDUCE,
        .nranks = 3,
        .count = 100003,
        .dtype = THRUM_FLOAT32,
        .redop = THRUM_SUM,
        .lanes = 1,
        .scratch_bytes = 65536,
    };
    size_t victim = 0, at;
    (void)state;
    do {
        struct plan plans[3];
        for (int r = 0; r < 3; r++) {
            params.rank = r;
            assert_int_equal(algo_build(algo, &params, &plans[r]), THRUM_OK);
        }
        at = find_wait(&plans[1], victim++);
        if (at != SIZE_MAX) {
            memmove(&plans[1].ops[at], &plans[1].ops[at + 1],
                    (plans[1].nops - at - 1) * sizeof(plans[1].ops[0]));
            plans[1].nops--;
        }
        thrum_status_t status = plan_check(plans, 3, 1, NULL);
        for (int r = 0; r < 3; r++)
            plan_fini(&plans[r]);
        if (status != (at == SIZE_MAX ? THRUM_OK : THRUM_ERR_PLAN))
            fail_msg("without WAIT number %zu: %s", victim, thrum_status_name(status));
    } while (at != SIZE_MAX);
    assert_true(victim > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allreduce),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_allgather),
        cmocka_unit_test(test_reduce_scatter),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_sendrecv),
        cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_gather_and_scatter),
        cmocka_unit_test(test_alltoall),
        cmocka_unit_test(test_scans),
        cmocka_unit_test(test_more_ranks_than_operands),
        cmocka_unit_test(test_missing_wait),
        cmocka_unit_test(test_swapped_chunk),
        cmocka_unit_test(test_doubled_contribution),
        cmocka_unit_test(test_early_scratch_reuse),
        cmocka_unit_test(test_double_rounding),
        cmocka_unit_test(test_every_wait_of_a_ring_is_needed),
    };
    return cmocka_run_group_tests_name("prove", tests, NULL, NULL);
}
