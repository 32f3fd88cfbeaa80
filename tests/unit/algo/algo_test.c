/* The algorithm table: look-ups, refusals, coverage of every call, growth of plans and costs with the ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "algo/algo.h"
#include "base/base.h"
#include "select/select.h"

static struct select_policy policy; /* built in */

static struct plan_params params_of(enum collective collective, int nranks, uint64_t count)
{
    return (struct plan_params){
        .collective = collective,
        .nranks = nranks,
        .count = count,
        .dtype = THRUM_FLOAT32,
        .redop = THRUM_SUM,
        .peer_access = true,
        .lanes = 1,
        .scratch_bytes = 65536,
    };
}

static void test_find(void **state)
{
    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        assert_ptr_equal(algo_find(algo->collective, algo->name), algo);
        assert_true(strlen(algo->help) > 0);
    }
    assert_null(algo_find(COLL_ALLREDUCE, "teleport"));
    assert_null(algo_find(COLL_BARRIER, "ring"));
}

static void test_refusals_say_why(void **state)
{
    (void)state;
    struct plan_params params = params_of(COLL_ALLREDUCE, 4, 1023);
    const struct algo *in_line = algo_find(COLL_ALLREDUCE, "inline");
    const struct algo *direct = algo_find(COLL_ALLREDUCE, "direct");
    const struct algo *ring = algo_find(COLL_ALLREDUCE, "ring");
    assert_non_null(strstr(algo_refusal(in_line, &params), "fit a line"));
    params.count = 1022;
    assert_null(algo_refusal(in_line, &params));
    params.peer_access = false; /* a line may be put as well */
    assert_null(algo_refusal(in_line, &params));
    params.peer_access = true;

    assert_null(algo_refusal(direct, &params));
    params.peer_access = false;
    assert_non_null(strstr(algo_refusal(direct, &params), "access"));

    assert_null(algo_refusal(ring, &params));
    params.scratch_bytes = 65535;
    assert_non_null(strstr(algo_refusal(ring, &params), "scratch"));
    params.scratch_bytes = 65536;

    params.ordered = true;
    assert_non_null(strstr(algo_refusal(ring, &params), "rank order"));
    assert_null(algo_refusal(in_line, &params));
    params.ordered = false;

    params.collective = COLL_ALLTOALL;
    params.in_place = true;
    assert_non_null(
        strstr(algo_refusal(algo_find(COLL_ALLTOALL, "pairwise"), &params), "in place"));
    params.in_place = false;

    params.collective = COLL_BROADCAST;
    assert_non_null(strstr(algo_refusal(ring, &params), "another collective"));
    params.collective = COLL_ALLREDUCE;
    params.rank = 4;
    assert_non_null(strstr(algo_refusal(ring, &params), "rank"));

    params = params_of(COLL_REDUCE_SCATTER, 5000, 1000);
    assert_non_null(
        strstr(algo_refusal(algo_find(COLL_REDUCE_SCATTER, "recursive_halving"), &params),
               "more scratch"));
}

static const thrum_datatype_t some_types[] = {THRUM_FLOAT32, THRUM_BFLOAT16, THRUM_FLOAT8_E4M3,
                                              THRUM_COMPLEX128};

/* Every rank has the same algorithm, and it can serve. */
static void selected_alike(struct plan_params params)
{
    const struct algo *first, *last;
    params.rank = 0;
    assert_int_equal(select_algorithm(&policy, &params, &first), THRUM_OK);
    params.rank = params.nranks - 1;
    assert_int_equal(select_algorithm(&policy, &params, &last), THRUM_OK);
    assert_ptr_equal(first, last);
    assert_null(algo_refusal(first, &params));
    assert_true(!params.ordered || params.nranks == 1 || !plan_reduces(params.collective) ||
                (first->flags & ALGO_ORDERED));
}

static void selected_in_all_ways(struct plan_params params)
{
    for (int mask = 0; mask < 16; mask++) {
        params.in_place = (mask & 1) && params.collective != COLL_ALLTOALL;
        params.peer_access = mask & 2;
        params.ordered = mask & 4;
        params.scratch_bytes = mask & 8 ? 4 << 20 : 65536;
        params.root = params.nranks / 2;
        if (!params.layout || !params.peer_access)
            selected_alike(params);
    }
}

/* On hosts of up to three ranks, in turn. */
static struct plan_layout *lay_out(int nranks)
{
    struct plan_layout *layout = NULL;
    int hosts[1024];
    for (int r = 0; r < nranks; r++)
        hosts[r] = r % ((nranks + 2) / 3);
    assert_int_equal(plan_layout_create(hosts, nranks, &layout), THRUM_OK);
    return layout;
}

/* Whatever the call, some algorithm takes it, also in order, also where only puts reach the peers. */
static void test_every_call_has_an_algorithm(void **state)
{
    static const uint64_t counts[] = {0, 1, 7, 100003, 1 << 26};
    static const int sizes[] = {1, 2, 3, 16, 17, 64, 65, 128, 255, 256, 257, 300, 1000, 1024};
    (void)state;
    for (int collective = 0; collective < COLL_COUNT; collective++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
            for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
                for (size_t t = 0; t < sizeof(some_types) / sizeof(some_types[0]); t++) {
                    struct plan_params params =
                        params_of((enum collective)collective, sizes[s], counts[c]);
                    params.dtype = some_types[t];
                    selected_in_all_ways(params);
                }
}

static void test_every_call_between_hosts_has_an_algorithm(void **state)
{
    static const uint64_t counts[] = {0, 1, 100003, 1 << 26};
    static const int sizes[] = {2, 3, 4, 16, 17, 300, 1000};
    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct plan_layout *layout = lay_out(sizes[s]);
        for (int collective = 0; collective < COLL_COUNT; collective++)
            for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
                struct plan_params params =
                    params_of((enum collective)collective, sizes[s], counts[c]);
                params.layout = layout;
                selected_in_all_ways(params);
            }
        plan_layout_destroy(layout);
    }
}

static void test_scratch_is_kept_to(void **state)
{
    static const int sizes[] = {2, 3, 17, 64, 127, 128, 200, 300, 1000};
    static const uint64_t counts[] = {1, 15, 16384, 40009};
    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
            for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
                struct plan_params params =
                    params_of(thrum_algos[i].collective, sizes[s], counts[c]);
                struct plan plan;
                params.rank = sizes[s] - 1;
                params.in_place = params.collective != COLL_ALLTOALL;
                params.dtype = s % 2 ? THRUM_FLOAT64 : THRUM_BFLOAT16;
                bool long_plan = sizes[s] > 200 && counts[c] > 15; /* tiny slots, many pieces */
                if (params.collective == COLL_SENDRECV || long_plan ||
                    algo_refusal(&thrum_algos[i], &params))
                    continue;
                assert_int_equal(algo_build(&thrum_algos[i], &params, &plan), THRUM_OK);
                assert_true(plan.scratch_bytes <= params.scratch_bytes);
                assert_string_equal(plan.algorithm, thrum_algos[i].name);
                plan_fini(&plan);
            }
}

/* One rank: a copy, nothing in place; logical operations still make ones of what is not zero. */
static void test_one_rank(void **state)
{
    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        struct plan_params params = params_of(algo->collective, 1, 10);
        bool nothing = algo->collective == COLL_BARRIER || algo->collective == COLL_EXSCAN;
        bool reduces = plan_reduces(algo->collective) && !nothing;
        struct plan plan;
        if (algo->collective == COLL_SENDRECV)
            continue;
        assert_int_equal(algo_build(algo, &params, &plan), THRUM_OK);
        assert_int_equal(plan.nops, nothing ? 0 : 1);
        plan_fini(&plan);
        if (algo->collective == COLL_ALLTOALL)
            continue; /* not in place */
        params.in_place = true;
        assert_int_equal(algo_build(algo, &params, &plan), THRUM_OK);
        assert_int_equal(plan.nops, 0);
        plan_fini(&plan);
        params.redop = THRUM_LOR;
        assert_int_equal(algo_build(algo, &params, &plan), THRUM_OK);
        assert_int_equal(plan.nops, reduces ? 1 : 0);
        plan_fini(&plan);
    }
}

/* ---- at scale ---------------------------------------------------------------------------------------------------- */

static thrum_status_t count_op(void *argument, const struct plan *plan, const struct plan_op *op,
                               const struct plan_operand *operands)
{
    (void)plan, (void)op, (void)operands;
    ++*(uint64_t *)argument;
    return THRUM_OK;
}

static uint64_t count_ops(enum collective collective, const char *name, int nranks, int rank,
                          uint64_t count)
{
    uint64_t nops = 0;
    struct plan plan;
    struct plan_params params = params_of(collective, nranks, count);
    params.rank = rank;
    params.scratch_bytes = 4 << 20;
    plan_init(&plan, &params);
    plan.sink = count_op;
    plan.sink_argument = &nops;
    algo_find(collective, name)->build(&plan);
    assert_int_equal(plan.status, THRUM_OK);
    assert_null(plan.ops); /* all went to the sink */
    plan_fini(&plan);
    return nops;
}

/* Trees and exchanges are O(log n) for each rank, rings O(n). */
static void test_plans_of_many_ranks(void **state)
{
    static const int ranks[] = {0, 1, 7, 34464, 65535, 65536, 99999};
    (void)state;
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        int rank = ranks[i], n = 100000;
        assert_in_range(count_ops(COLL_ALLREDUCE, "recursive_doubling", n, rank, 14), 3, 60);
        assert_in_range(count_ops(COLL_ALLREDUCE, "double_tree", n, rank, 100), 4, 40);
        assert_in_range(count_ops(COLL_REDUCE, "binomial", n, rank, 100), 3, 100);
        assert_in_range(count_ops(COLL_SCAN, "recursive_doubling", n, rank, 100), 30, 150);
        assert_in_range(count_ops(COLL_ALLREDUCE, "recursive_doubling", n, rank, 2000), 4, 100);
        assert_in_range(count_ops(COLL_BROADCAST, "binomial", n, rank, 2000), 3, 100);
        assert_in_range(count_ops(COLL_BROADCAST, "binomial", n, rank, 1), 2, 60);
        assert_in_range(count_ops(COLL_ALLGATHER, "bruck", n, rank, 100), 17, 120);
        assert_in_range(count_ops(COLL_BARRIER, "dissemination", n, rank, 0), 34, 34);
        assert_in_range(count_ops(COLL_ALLGATHER, "ring", n, rank, 100), 2 * n, 3 * n);
        assert_in_range(count_ops(COLL_ALLREDUCE, "inline", n, rank, 1), 2 * n, 3 * n);
        assert_in_range(count_ops(COLL_ALLREDUCE, "direct", n, rank, 100000), 4 * n, 5 * n);
    }
}

/* ---- costs ------------------------------------------------------------------------------------------------------- */

static double cost_us(enum collective collective, const char *name, int nranks, uint64_t count,
                      bool peer_access)
{
    struct plan_params params = params_of(collective, nranks, count);
    params.peer_access = peer_access;
    const struct algo *algo = algo_find(collective, name);
    struct algo_cost cost = algo->cost(&params);
    assert_true(cost.steps >= 1 && cost.messages >= 0 && cost.passed_bytes >= 0 &&
                cost.copied_bytes >= 0 && cost.reduced_bytes >= 0);
    double us = select_predict_us(&policy.figures, algo, &params);
    params.rank = nranks / 2 + 1; /* no rank sees it differently */
    assert_true(select_predict_us(&policy.figures, algo, &params) == us);
    return us;
}

/* The model puts algorithms into the order that the field knows. */
/* Lanes that the plan of rank 0 uses. */
static int lanes_used(const struct algo *algo, struct plan_params params)
{
    struct plan plan;
    unsigned used = 0;
    assert_int_equal(algo_build(algo, &params, &plan), THRUM_OK);
    for (size_t i = 0; i < plan.nops; i++)
        used |= 1u << plan.ops[i].lane;
    plan_fini(&plan);
    assert_int_equal(used & (used + 1), 0); /* from 0 on */
    return __builtin_popcount(used);
}

/* Where a message is large enough for them; the proofs of prove_test.c say that it is right. */
static void test_lanes_are_used(void **state)
{
    (void)state;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        struct plan_params params = params_of(algo->collective, 4, 100003);
        if (!(algo->flags & ALGO_LANES))
            continue;
        for (params.lanes = 1; params.lanes <= PLAN_MAX_LANES; params.lanes++)
            assert_int_equal(lanes_used(algo, params), params.lanes);
        params.lanes = PLAN_MAX_LANES;
        params.count = 1000;
        assert_int_equal(lanes_used(algo, params), 1);
    }
}

static void test_costs_order_the_algorithms(void **state)
{
    uint64_t large = 16 << 20;
    (void)state;
    assert_true(cost_us(COLL_ALLREDUCE, "inline", 4, 1, true) <
                cost_us(COLL_ALLREDUCE, "direct", 4, 1, true));
    assert_true(cost_us(COLL_ALLREDUCE, "direct", 4, large, true) <
                cost_us(COLL_ALLREDUCE, "ring", 4, large, true));
    assert_true(cost_us(COLL_ALLREDUCE, "recursive_doubling", 128, 1000, false) <
                cost_us(COLL_ALLREDUCE, "ring", 128, 1000, false));
    assert_true(cost_us(COLL_ALLREDUCE, "ring", 16, large, false) <
                cost_us(COLL_ALLREDUCE, "recursive_doubling", 16, large, false));
    assert_true(cost_us(COLL_ALLREDUCE, "double_tree", 1000, 65536, false) <
                cost_us(COLL_ALLREDUCE, "chain", 1000, 65536, false));
    assert_true(cost_us(COLL_ALLREDUCE, "rabenseifner", 128, large, false) <
                cost_us(COLL_ALLREDUCE, "recursive_doubling", 128, large, false));
    assert_true(cost_us(COLL_ALLTOALL, "bruck", 128, 1, false) <
                cost_us(COLL_ALLTOALL, "pairwise", 128, 1, false));
    assert_true(cost_us(COLL_ALLTOALL, "pairwise", 128, 100000, false) <
                cost_us(COLL_ALLTOALL, "bruck", 128, 100000, false));
    assert_true(cost_us(COLL_SCAN, "chain", 16, large, false) <
                cost_us(COLL_SCAN, "recursive_doubling", 16, large, false));
    assert_true(cost_us(COLL_BROADCAST, "binomial", 64, 1000, false) <
                cost_us(COLL_BROADCAST, "direct", 64, 100000, false));
    assert_true(cost_us(COLL_ALLGATHER, "bruck", 64, 1, false) <
                cost_us(COLL_ALLGATHER, "ring", 64, 1, false));
    assert_true(cost_us(COLL_REDUCE_SCATTER, "recursive_halving", 64, 10, false) <
                cost_us(COLL_REDUCE_SCATTER, "ring", 64, 10, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_refusals_say_why),
        cmocka_unit_test(test_every_call_has_an_algorithm),
        cmocka_unit_test(test_every_call_between_hosts_has_an_algorithm),
        cmocka_unit_test(test_scratch_is_kept_to),
        cmocka_unit_test(test_one_rank),
        cmocka_unit_test(test_plans_of_many_ranks),
        cmocka_unit_test(test_lanes_are_used),
        cmocka_unit_test(test_costs_order_the_algorithms),
    };
    select_policy_init(&policy);
    return cmocka_run_group_tests_name("algo", tests, NULL, NULL);
}
