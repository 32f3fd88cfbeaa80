/* Rules as text, and what they and the cost model choose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "select/select.h"

static struct select_policy policy;

static int reset(void **state)
{
    (void)state;
    select_policy_init(&policy);
    return 0;
}

static struct plan_params call(enum collective collective, int nranks, uint64_t bytes)
{
    return (struct plan_params){.collective = collective,
                                .nranks = nranks,
                                .count = bytes / 4,
                                .dtype = THRUM_FLOAT32,
                                .redop = THRUM_SUM,
                                .peer_access = true,
                                .lanes = 1,
                                .ranks_per_core = 1,
                                .scratch_bytes = 4 << 20};
}

static const char *chosen(struct plan_params params)
{
    const struct algo *algo = NULL;

    return select_algorithm(&policy, &params, &algo) ? NULL : algo->name;
}

static void refused(const char *text, const char *word)
{
    struct select_policy before = policy;

    assert_int_equal(select_rules_parse("RULES", text, &policy), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "RULES"));
    assert_non_null(strstr(thrum_last_error(), word));
    policy.nrules = before.nrules;
}

static void test_rules_have_sizes(void **state)
{
    (void)state;
    assert_int_equal(select_rules_parse("RULES",
                                        "allreduce:ring:64K-4M,broadcast:chain,"
                                        "allgather:ring:-1K,reduce:chain:1G-",
                                        &policy),
                     THRUM_OK);
    assert_int_equal(policy.nrules, 4);
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 64 << 10)), "ring");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 4 << 20)), "ring");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, (64 << 10) - 4)), "direct");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, (4 << 20) + 4)), "direct");
    assert_string_equal(chosen(call(COLL_BROADCAST, 2, 8)), "chain");
    assert_string_equal(chosen(call(COLL_ALLGATHER, 2, 512)), "ring"); /* two blocks are 1K */
    assert_string_not_equal(chosen(call(COLL_ALLGATHER, 2, 516)), "ring");
    assert_string_not_equal(chosen(call(COLL_REDUCE, 2, 1 << 20)), "chain");
}

static void test_the_last_rule_holds(void **state)
{
    (void)state;
    assert_int_equal(select_rules_parse("RULES", "allreduce:ring,allreduce:chain:1M-", &policy),
                     THRUM_OK);
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 8)), "ring");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 1 << 20)), "chain");
}

static void test_bad_rules_are_named(void **state)
{
    char many[32 * (SELECT_MAX_RULES + 1)] = "";
    (void)state;
    refused("alreduce:ring", "alreduce");
    refused("allreduce", "allreduce");
    refused("allreduce:rung", "rung");
    refused("allreduce:ring:", "sizes");
    refused("allreduce:ring:64K", "64K");
    refused("allreduce:ring:4M-64K", "4M-64K");
    refused("allreduce:ring:1Q-2Q", "1Q-2Q");
    refused("allreduce:ring:1-99999999999999999999", "99999");
    refused("allreduce:ring:1-9999999999T", "9999");
    refused("allreduce:ring:1-2-3", "1-2-3");
    refused("broadcast:chain,,allreduce:ring", "\"\"");
    for (int i = 0; i <= SELECT_MAX_RULES; i++)
        strcat(many, "allreduce:ring,");
    refused(many, "more than");
}

/* The user's word is an error where it cannot be kept; with a question mark, or in the tuning file, it gives way. */
static void test_who_gives_way(void **state)
{
    struct plan_params params = call(COLL_ALLREDUCE, 2, 32 << 10);
    const struct algo *algo;

    (void)state;
    assert_int_equal(select_rules_parse("RULES", "allreduce:inline", &policy), THRUM_OK);
    assert_int_equal(select_algorithm(&policy, &params, &algo), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "allreduce:inline"));
    policy.nrules = 0;
    assert_int_equal(select_rules_parse("RULES", "allreduce:inline?:-1G", &policy), THRUM_OK);
    assert_int_equal(policy.rules[0].max_bytes, 1 << 30);
    assert_string_equal(chosen(params), "direct");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 8)), "inline");
    policy.rules[0].max_ranks = 2;
    policy.rules[0].algo = algo_find(COLL_ALLREDUCE, "ring");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 8)), "ring");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 3, 8)), "inline");
}

static void test_digest_is_of_rules(void **state)
{
    uint64_t none = select_rules_digest(&policy), one;

    (void)state;
    policy.figures.call_us *= 2;
    assert_true(select_rules_digest(&policy) == none); /* figures come from rank 0 */
    assert_int_equal(select_rules_parse("RULES", "allreduce:ring:8-64", &policy), THRUM_OK);
    one = select_rules_digest(&policy);
    assert_true(one != none);
    policy.rules[0].max_bytes++;
    assert_true(select_rules_digest(&policy) != one);
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

/* The smallest size from which the direct algorithm is chosen, by powers of two. */
static uint64_t crossover(struct plan_params params)
{
    for (uint64_t bytes = 8; bytes <= 1 << 20; bytes *= 2) {
        params.count = bytes / 4;
        if (!strcmp(chosen(params), "direct"))
            return bytes;
    }
    return UINT64_MAX;
}

static void test_small_in_lines_large_direct(void **state)
{
    struct plan_params params = call(COLL_ALLREDUCE, 2, 8);
    uint64_t alone, in_turns;

    (void)state;
    params.line_bytes = 32 << 10; /* so that it is the figures that decide */
    assert_string_equal(chosen(params), "inline");
    assert_string_equal(chosen(call(COLL_ALLREDUCE, 2, 32 << 10)), "direct");
    alone = crossover(params);
    assert_in_range(alone, 512, 4096);
    params.nranks = 4;
    params.ranks_per_core = 2;
    in_turns = crossover(params);
    assert_true(in_turns >= alone); /* an exchange costs more where ranks take turns */
    params.nranks = 2;
    policy.figures.exchange_us *= 100;
    policy.figures.pass_gbps *= 100;
    assert_true(crossover(params) > alone);
}

/* Whatever the figures, within their bounds: some algorithm, and times that are times. */
static void test_extreme_figures(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FIGURE_COUNT; i++) {
        const struct select_figure_row *row = &select_figure_rows[i / 2];

        select_policy_init(&policy);
        *select_figure_at(&policy.figures, i / 2) = i % 2 ? row->most : row->least;
        for (int collective = 0; collective < COLL_COUNT; collective++) {
            struct plan_params params =
                call((enum collective)collective, 1 + i, UINT64_C(4000) << (i % 20));
            struct select_candidate all[32];
            size_t n, choices = 0;

            params.ranks_per_core = i;
            params.peer_access = i & 1;
            assert_int_equal(select_explain(&policy, &params, all, 32, &n), THRUM_OK);
            for (size_t k = 0; k < n; k++) {
                choices += all[k].chosen;
                assert_true(all[k].refusal ||
                            (all[k].predicted_us > 0 && all[k].predicted_us < 1e30));
                assert_true(strlen(all[k].reason) > 0);
            }
            assert_int_equal(choices, 1);
        }
    }
}

/* Four hosts with eight ranks each, in order or in turn. */
static struct plan_layout *four_hosts(bool in_turn)
{
    struct plan_layout *layout = NULL;
    int hosts[32];

    for (int r = 0; r < 32; r++)
        hosts[r] = in_turn ? r % 4 : r / 8;
    assert_int_equal(plan_layout_create(hosts, 32, &layout), THRUM_OK);
    return layout;
}

static struct plan_params on_hosts(enum collective collective, uint64_t bytes,
                                   const struct plan_layout *layout)
{
    struct plan_params params = call(collective, 32, bytes);

    params.peer_access = false;
    params.layout = layout;
    return params;
}

static double predicted(const struct plan_params *params, const char *algorithm)
{
    return select_predict_us(&policy.figures, algo_find(params->collective, algorithm), params);
}

static void test_hosts_count(void **state)
{
    struct plan_layout *in_order = four_hosts(false), *in_turn = four_hosts(true);
    struct plan_params ordered = on_hosts(COLL_ALLREDUCE, 16 << 20, in_order),
                       turned = on_hosts(COLL_ALLREDUCE, 16 << 20, in_turn);
    double ring, hosts;

    (void)state;
    assert_string_equal(chosen(ordered), "hosts");
    assert_string_equal(chosen(turned), "hosts");
    assert_string_equal(chosen(on_hosts(COLL_ALLGATHER, 16 << 20, in_order)), "hosts");
    /* Around the ring one rank of a host sends to another, or all do. */
    ring = predicted(&ordered, "ring");
    assert_true(predicted(&turned, "ring") > 1.5 * ring);
    assert_float_equal(predicted(&turned, "hosts"), predicted(&ordered, "hosts"), 1e-6);
    /* A faster link helps what it holds back; the tuning file's figure stays. */
    hosts = predicted(&ordered, "hosts");
    policy.given = 1u << FIGURE_port_gbps;
    select_use_link(&policy, 12.5);
    assert_float_equal(predicted(&ordered, "hosts"), hosts, 1e-6);
    policy.given = 0;
    select_use_link(&policy, 12.5);
    assert_true(predicted(&ordered, "hosts") < 0.7 * hosts);
    plan_layout_destroy(in_order);
    plan_layout_destroy(in_turn);
}

/* What is on its way costs a rank no time where an adapter moves it: pieces that follow one another gain by that. */
static void test_adapters_count(void **state)
{
    struct plan_layout *in_order = four_hosts(false);
    struct plan_params params = on_hosts(COLL_BROADCAST, 8 << 20, in_order);
    double by_cores = predicted(&params, "chain");

    (void)state;
    select_use_adapters(&policy, true);
    assert_true(predicted(&params, "chain") < 0.9 * by_cores);
    select_use_adapters(&policy, false);
    assert_float_equal(predicted(&params, "chain"), by_cores, 1e-6);
    policy.given = 0x7fffffff;
    select_use_adapters(&policy, true);
    assert_float_equal(predicted(&params, "chain"), by_cores, 1e-6);
    /* One rank fills the ports, as fast as they are known to be. */
    policy.given = 0;
    select_use_link(&policy, 50);
    select_use_adapters(&policy, true);
    assert_float_equal(policy.figures.net_gbps, 50, 1e-9);
    assert_float_equal(policy.figures.port_gbps, 50, 1e-9);
    select_use_adapters(&policy, false);
    assert_float_equal(policy.figures.net_gbps, select_figure_rows[FIGURE_net_gbps].value, 1e-9);
    assert_float_equal(policy.figures.port_gbps, 50, 1e-9);
    plan_layout_destroy(in_order);
}

/* Ranks choose without asking each other. A root may work in place, alone or not; so may any other. */
static void test_all_ranks_choose_the_same(void **state)
{
    struct plan_layout *in_turn = four_hosts(true);

    (void)state;
    for (int i = 0; i < COLL_COUNT * 20 * 8; i++) {
        int collective = i % COLL_COUNT, size = i / COLL_COUNT % 20, kind = i / COLL_COUNT / 20;
        struct plan_params params =
            call((enum collective)collective, kind & 1 ? 32 : 3, UINT64_C(24) << size);
        const char *by_first;

        if (collective == COLL_SENDRECV)
            continue;
        params.layout = kind & 1 ? in_turn : NULL;
        params.peer_access = kind & 2;
        params.ranks_per_core = kind & 4 ? 2 : 1;
        by_first = chosen(params);
        for (params.rank = 0; params.rank < params.nranks; params.rank++) {
            assert_string_equal(chosen(params), by_first);
            params.in_place = collective != COLL_ALLTOALL;
            assert_string_equal(chosen(params), by_first);
            params.in_place = false;
        }
    }
    plan_layout_destroy(in_turn);
}

/* What fits lines: one message between each two hosts, where the ranks of a host are neighbours for all collectives. */
static void test_leaders_send_small_messages(void **state)
{
    static const enum collective all[] = {COLL_ALLREDUCE, COLL_BROADCAST, COLL_REDUCE},
                                 blocks[] = {COLL_ALLGATHER, COLL_REDUCE_SCATTER, COLL_ALLTOALL};
    struct plan_layout *in_order = four_hosts(false), *in_turn = four_hosts(true);
    struct plan_params params;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(chosen(on_hosts(all[i], 512, in_order)), "leaders");
        assert_string_equal(chosen(on_hosts(all[i], 512, in_turn)), "leaders");
        assert_string_equal(chosen(on_hosts(blocks[i], 16, in_order)), "leaders");
        assert_string_not_equal(chosen(on_hosts(blocks[i], 16, in_turn)), "leaders");
    }
    params = on_hosts(COLL_ALLREDUCE, 512, in_order);
    params.dtype = THRUM_BFLOAT16; /* partial results are wider */
    assert_string_not_equal(chosen(params), "leaders");
    params = on_hosts(COLL_ALLREDUCE, 512, in_order);
    params.ordered = true;
    assert_string_not_equal(chosen(params), "leaders");
    assert_string_equal(chosen(on_hosts(COLL_ALLREDUCE, 16 << 20, in_order)), "hosts");
    plan_layout_destroy(in_order);
    plan_layout_destroy(in_turn);
}

/* Four ranks on hosts that share two cores, with lines as tcp takes them. */
static struct plan_params on_two_cores(enum collective collective, uint64_t bytes,
                                       const struct plan_layout *layout)
{
    struct plan_params params = call(collective, 4, bytes);

    params.peer_access = false;
    params.layout = layout;
    params.ranks_per_core = 2;
    params.line_bytes = 32768;
    return params;
}

/*
 * Between hosts that share cores, as those of tests do, messages take turns of a core. Short ones of calls that follow one
 * another go together; of longer ones few win.
 */
static void test_messages_count_where_hosts_share_cores(void **state)
{
    static const int one_each[] = {0, 1, 2, 3}, two_each[] = {0, 0, 1, 1};
    struct plan_layout *four = NULL, *two = NULL;

    (void)state;
    assert_int_equal(plan_layout_create(one_each, 4, &four), THRUM_OK);
    assert_int_equal(plan_layout_create(two_each, 4, &two), THRUM_OK);
    for (uint64_t bytes = 4; bytes <= 16384; bytes *= 4) { /* of a block */
        bool together = bytes <= 4096;
        assert_string_equal(chosen(on_two_cores(COLL_ALLGATHER, bytes, four)),
                            together ? "inline" : "recursive_doubling");
        assert_string_equal(chosen(on_two_cores(COLL_REDUCE_SCATTER, bytes, four)),
                            together ? "inline" : "recursive_halving");
    }
    assert_string_equal(chosen(on_two_cores(COLL_ALLREDUCE, 2048, four)), "inline");
    assert_string_equal(chosen(on_two_cores(COLL_ALLREDUCE, 8192, four)), "recursive_doubling");
    assert_string_equal(chosen(on_two_cores(COLL_ALLTOALL, 16, two)), "leaders");
    assert_string_equal(chosen(on_two_cores(COLL_ALLTOALL, 8192, two)), "leaders");
    plan_layout_destroy(four);
    plan_layout_destroy(two);
}

static void test_explains(void **state)
{
    struct plan_params params = call(COLL_ALLREDUCE, 2, 1 << 20);
    struct select_candidate all[32];
    size_t n;

    (void)state;
    assert_int_equal(select_explain(&policy, &params, all, 32, &n), THRUM_OK);
    for (size_t i = 0; i < n; i++) {
        if (all[i].chosen)
            assert_non_null(strstr(all[i].reason, "fastest"));
        else if (all[i].refusal)
            assert_non_null(strstr(all[i].reason, "cannot serve"));
        else
            assert_non_null(strstr(all[i].reason, "slower by"));
    }
    assert_int_equal(select_rules_parse("RULES", "allreduce:ring", &policy), THRUM_OK);
    assert_int_equal(select_explain(&policy, &params, all, 32, &n), THRUM_OK);
    for (size_t i = 0; i < n; i++)
        assert_non_null(strstr(all[i].reason, all[i].refusal ? "cannot serve" : "force"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_rules_have_sizes, reset),
        cmocka_unit_test_setup(test_the_last_rule_holds, reset),
        cmocka_unit_test_setup(test_bad_rules_are_named, reset),
        cmocka_unit_test_setup(test_who_gives_way, reset),
        cmocka_unit_test_setup(test_digest_is_of_rules, reset),
        cmocka_unit_test_setup(test_small_in_lines_large_direct, reset),
        cmocka_unit_test_setup(test_extreme_figures, reset),
        cmocka_unit_test_setup(test_hosts_count, reset),
        cmocka_unit_test_setup(test_adapters_count, reset),
        cmocka_unit_test_setup(test_all_ranks_choose_the_same, reset),
        cmocka_unit_test_setup(test_leaders_send_small_messages, reset),
        cmocka_unit_test_setup(test_messages_count_where_hosts_share_cores, reset),
        cmocka_unit_test_setup(test_explains, reset),
    };
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
