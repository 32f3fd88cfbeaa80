/*
 * What plans say of stages is true, with some ranks staged or all; and the proof of it (algo_check_staged) finds what
 * is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "algo/prove.h"
#include "base/base.h"

#define MAX_RANKS 8

/* The ranks of one call, some of them with buffers in host memory. */
struct staged_call {
    struct plan_params params;
    struct plan plans[MAX_RANKS];
    bool staged[MAX_RANKS];
};

static thrum_status_t check_staged(const struct staged_call *call, FILE *report)
{
    return algo_check_staged(call->plans, call->params.nranks, call->staged, 2, report);
}

static bool build_call(struct staged_call *call, const struct algo *algo,
                       const struct plan_params *params)
{
    call->params = *params;
    for (int r = 0; r < params->nranks; r++) {
        struct plan_params mine = *params;

        mine.rank = r;
        if (algo_refusal(algo, &mine))
            return false;
        assert_int_equal(algo_build(algo, &mine, &call->plans[r]), THRUM_OK);
        if (!call->plans[r].names_stages) {
            for (; r >= 0; r--)
                plan_fini(&call->plans[r]);
            return false;
        }
    }
    return true;
}

static void fini_call(struct staged_call *call)
{
    for (int r = 0; r < call->params.nranks; r++)
        plan_fini(&call->plans[r]);
}

static const uint64_t counts[] = {0, 1, 7, 14, 1000, 200003};

/* Checks all cases of the algorithm; returns how many have stages. */
static int check_algorithm(const struct algo *algo)
{
    int cases = 0;

    for (int n = 2; n <= MAX_RANKS; n++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (int in_place = 0; in_place < 2; in_place++)
                for (int who = 0; who < 3; who++) {
                    struct staged_call call;
                    struct plan_params params = {.collective = algo->collective,
                                                 .nranks = n,
                                                 .count = counts[c],
                                                 .dtype = THRUM_FLOAT32,
                                                 .root = n / 2,
                                                 .in_place = in_place,
                                                 .peer_access = true,
                                                 .lanes = 1,
                                                 .scratch_bytes = 4u << 20};
                    if (!build_call(&call, algo, &params))
                        continue;
                    for (int r = 0; r < n; r++)
                        call.staged[r] = who == 0 || r % 2 == who - 1;
                    assert_int_equal(check_staged(&call, stderr), THRUM_OK);
                    fini_call(&call);
                    cases++;
                }
    return cases;
}

static void test_stages_are_right(void **state)
{
    int algorithms = 0;

    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        int cases = check_algorithm(&thrum_algos[i]);

        if (!cases)
            continue;
        print_message("    %s %s: %d cases\n", collective_name(thrum_algos[i].collective),
                      thrum_algos[i].name, cases);
        algorithms++;
    }
    assert_true(algorithms >= 6);
}

/* Every stage is needed: without it something is missing. */
static void test_every_stage_counts(void **state)
{
    const struct algo *algo = algo_find(COLL_ALLREDUCE, "direct");
    struct plan_params params = {.collective = COLL_ALLREDUCE,
                                 .nranks = 3,
                                 .count = 1000,
                                 .dtype = THRUM_FLOAT32,
                                 .peer_access = true,
                                 .lanes = 1,
                                 .scratch_bytes = 4u << 20};
    struct staged_call call;

    (void)state;
    assert_true(build_call(&call, algo, &params));
    memset(call.staged, 1, sizeof call.staged);
    assert_int_equal(check_staged(&call, stderr), THRUM_OK);
    for (size_t i = 0; i < call.plans[1].nstages; i++) {
        struct plan_stage *stage = &call.plans[1].stages[i], kept = *stage;

        stage->bytes = 0;
        assert_int_equal(check_staged(&call, NULL), THRUM_ERR_PLAN);
        *stage = kept;
    }
    fini_call(&call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages_are_right),
        cmocka_unit_test(test_every_stage_counts),
    };

    return cmocka_run_group_tests_name("stage", tests, NULL, NULL);
}
