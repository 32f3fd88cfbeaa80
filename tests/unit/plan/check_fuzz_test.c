/*
 * The checker against an oracle that knows nothing of it: right plans and every small change of them. What the checker
 * accepts never goes wrong in any interleaving that the oracle tries; what the oracle breaks, the checker has refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "algo/algo.h"
#include "oracle.h"
#include "samples.h"

#define ROUNDS 3

static struct {
    int seeds; /* interleavings of each mutant */
    unsigned mutants, refused, broken, accepted;
} counts;

/* ---- mutants ----------------------------------------------------------------------------------------------------- */

/* An own copy: mutations change ops and operands. */
static struct plan copy_of(const struct plan *plan)
{
    struct plan copy = *plan;

    copy.ops = malloc((plan->nops + 1) * sizeof *copy.ops);
    copy.operands = malloc((plan->noperands + 1) * sizeof *copy.operands);
    if (plan->nops)
        memcpy(copy.ops, plan->ops, plan->nops * sizeof *copy.ops);
    if (plan->noperands)
        memcpy(copy.operands, plan->operands, plan->noperands * sizeof *copy.operands);
    return copy;
}

enum mutation {
    DELETE,
    SWAP_WITH_NEXT,
    NEXT_PEER,
    VALUE_UP,
    VALUE_DOWN,
    SHORTER,
    TOGGLE_FINAL,
    OPERANDS, /* from here on: three of each operand */
};

/* False: there is no such mutation of the op. */
static bool mutate(struct plan *plan, size_t index, int mutation)
{
    struct plan_op *op = &plan->ops[index];
    int n = plan->params.nranks, operand = (mutation - OPERANDS) / 3;
    struct plan_operand *o = plan->operands + op->first_operand + operand;

    switch (mutation) {
    case DELETE:
        sample_delete(plan, index);
        return true;
    case SWAP_WITH_NEXT:
        if (index + 1 == plan->nops)
            return false;
        sample_move(plan, index, index + 1);
        return true;
    case NEXT_PEER:
        if (op->peer < 0 || n < 3)
            return false;
        do
            op->peer = (op->peer + 1) % n;
        while (op->peer == plan->params.rank);
        return true;
    case VALUE_UP:
        return op->value && ++op->value;
    case VALUE_DOWN:
        return op->value && --op->value;
    case SHORTER:
        if (op->bytes <= 8)
            return false;
        op->bytes -= 8;
        return true;
    case TOGGLE_FINAL:
        if (op->opcode != PLAN_REDUCE)
            return false;
        op->flags ^= PLAN_FINAL;
        return true;
    default:
        if (operand >= op->ndst + op->nsrc)
            return false;
        if ((mutation - OPERANDS) % 3 == 0)
            o->offset += o->space == PLAN_LINE ? 1 : 8;
        else if ((mutation - OPERANDS) % 3 == 1)
            o->offset -= o->space == PLAN_LINE ? 1 : 8;
        else
            o->rank = (o->rank + 1) % n;
        return true;
    }
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

/* The oracle checks ranges, but a line of its own has only so much room. */
static bool oracle_can_run(const struct plan *plans, int n)
{
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < plans[r].nops; i++) {
            const struct plan_op *op = &plans[r].ops[i];

            for (unsigned k = 0; k < (unsigned)op->ndst + op->nsrc; k++)
                if (plans[r].operands[op->first_operand + k].space == PLAN_LINE &&
                    op->bytes > ORACLE_LINE_BYTES)
                    return false;
        }
    return true;
}

static void describe(const struct plan *plans, int n, const char *what)
{
    print_error("%s:\n", what);
    for (int r = 0; r < n; r++)
        (void)plan_dump(&plans[r], stderr, PLAN_TEXT);
    (void)plan_check(plans, n, ROUNDS, stderr);
}

/* True: accepted. */
static bool judge(const struct plan *plans, int n)
{
    bool accepted = plan_check(plans, n, ROUNDS, NULL) == THRUM_OK, broken = false;

    for (int seed = 1; !broken && seed <= counts.seeds && oracle_can_run(plans, n); seed++)
        broken = oracle_run(plans, n, ROUNDS, (uint64_t)seed) != ORACLE_RIGHT;
    if (accepted && broken) {
        describe(plans, n, "the checker accepts what goes wrong");
        fail();
    }
    counts.mutants++;
    counts.refused += !accepted;
    counts.broken += broken;
    counts.accepted += accepted;
    return accepted;
}

/* Calls `visit` with every mutant that the checker accepts. */
static void mutate_all(struct plan *plans, int n, bool one_rank_only,
                       void (*visit)(const struct plan *plan, size_t op, int mutation))
{
    for (int r = 0; r < (one_rank_only ? 1 : n); r++)
        for (size_t op = 0; op < plans[r].nops; op++)
            for (int m = 0; m < OPERANDS + 3 * (plans[r].ops[op].ndst + plans[r].ops[op].nsrc);
                 m++) {
                struct plan original = plans[r], mutant = copy_of(&original);

                if (mutate(&mutant, op, m)) {
                    plans[r] = mutant;
                    if (judge(plans, n) && visit)
                        visit(&original, op, m);
                    plans[r] = original;
                }
                free(mutant.ops);
                free(mutant.operands);
            }
}

static void report_counts(const char *what)
{
    print_message("%s: %u mutants, %u refused, %u seen to break, %u harmless\n", what,
                  counts.mutants, counts.refused, counts.broken, counts.accepted);
}

static int reset(void **state)
{
    (void)state;
    memset(&counts, 0, sizeof counts);
    counts.seeds = 12;
    return 0;
}

/* ---- plans by hand ----------------------------------------------------------------------------------------------- */

/* In the ring every op matters, and every change breaks it but these, each at one rank alone. */
static void only_harmless(const struct plan *plan, size_t op, int mutation)
{
    const struct plan_op *a = &plan->ops[op], *b = a + 1;
    bool tells = a->opcode == PLAN_SIGNAL || a->opcode == PLAN_PUT;

    /* To tell the next rank and then hear of the previous one, or the other way round: while the other ranks tell
       first, nobody waits for ever, and what is told does not depend on what is heard. */
    if (mutation == SWAP_WITH_NEXT && tells && b->opcode == PLAN_WAIT)
        return;
    /* Waits for one step more of the previous rank than it needs, which does not wait for this one. */
    if (mutation == VALUE_UP && a->opcode == PLAN_WAIT)
        return;
    print_error("rank %d op %zu, mutation %d is accepted\n", plan->params.rank, op, mutation);
    (void)plan_dump(plan, stderr, PLAN_TEXT);
    fail();
}

/*
 * No op of a builder may be missed, but in place for a block that returns to its place after a tour of scratch, and for
 * the first rank's prefix, since the others do not know that it is in place.
 */
static void no_spare_op(const struct plan *plan, size_t op, int mutation)
{
    bool single = plan->ops[op].opcode == PLAN_COPY ||
                  (plan->ops[op].opcode == PLAN_REDUCE && plan->ops[op].value == 1);

    if (mutation != DELETE || (plan->params.in_place && single))
        return;
    print_error("rank %d op %zu is not needed\n", plan->params.rank, op);
    (void)plan_dump(plan, stderr, PLAN_TEXT);
    fail();
}

static void ring_by_hand(void **state)
{
    struct sample s;

    (void)state;
    sample_ring(&s, 4);
    counts.seeds = 24;
    assert_true(judge(s.plans, 4));
    mutate_all(s.plans, 4, false, only_harmless);
    report_counts("ring");
    sample_fini(&s);
}

static void others_by_hand(void **state)
{
    struct sample s;

    (void)state;
    sample_inline(&s, 3);
    assert_true(judge(s.plans, s.n));
    mutate_all(s.plans, s.n, false, NULL);
    sample_fini(&s);
    sample_direct(&s, 3);
    assert_true(judge(s.plans, s.n));
    mutate_all(s.plans, s.n, false, NULL);
    sample_fini(&s);
    for (int credit = 1; credit <= 3; credit++)
        for (int stages = 1; stages <= 3; stages++)
            for (int slots = 1; slots <= 3; slots++) {
                sample_pipeline(&s, stages, slots, credit);
                assert_int_equal(judge(s.plans, s.n), stages >= credit && slots >= credit);
                if (stages == credit && slots == credit)
                    mutate_all(s.plans, s.n, false, NULL);
                sample_fini(&s);
            }
    report_counts("inline, direct and pipeline");
}

/* ---- plans of the builders --------------------------------------------------------------------------------------- */

static void with_plans(const struct algo *algo, struct plan_params params, bool mutants)
{
    struct plan plans[8] = {0};

    if (algo_refusal(algo, &params))
        return;
    for (params.rank = 0; params.rank < params.nranks; params.rank++)
        assert_int_equal(algo_build(algo, &params, &plans[params.rank]), THRUM_OK);
    if (!judge(plans, params.nranks)) {
        describe(plans, params.nranks, "a builder's plan is refused");
        fail();
    }
    if (mutants)
        mutate_all(plans, params.nranks, params.nranks > 3, no_spare_op);
    for (int r = 0; r < params.nranks; r++)
        plan_fini(&plans[r]);
}

static void each_algorithm(void (*with)(const struct algo *algo, struct plan_params params))
{
    for (size_t i = 0; i < thrum_algo_count; i++)
        for (int variant = 0; variant < 4; variant++) {
            struct plan_params params = {.collective = thrum_algos[i].collective,
                                         .dtype = THRUM_UINT64,
                                         .redop = THRUM_AVG,
                                         .root = 1,
                                         .in_place = variant & 1,
                                         .peer_access = variant & 2,
                                         .lanes = 2,
                                         .scratch_bytes = 65536};

            if (params.collective != COLL_SENDRECV)
                with(&thrum_algos[i], params);
        }
}

/* Every algorithm as it is, in many interleavings. */
static void run_right(const struct algo *algo, struct plan_params params)
{
    for (int n = 2; n <= 6; n++)
        for (uint64_t count = 1; count <= 17; count += 8) {
            params.nranks = n;
            params.count = count;
            with_plans(algo, params, false);
        }
}

static void run_mutants(const struct algo *algo, struct plan_params params)
{
#ifdef THRUM_SANITIZED /* one thread, and slow: each line is reached with fewer mutants, too */
    if (params.in_place || params.peer_access)
        return;
#endif
    params.nranks = 3;
    params.count = 3;
    with_plans(algo, params, true);
#ifndef THRUM_SANITIZED
    params.nranks = 4;
    params.count = 5;
    if (params.in_place == params.peer_access)
        with_plans(algo, params, true);
#endif
}

static void algorithms_are_right(void **state)
{
    (void)state;
    each_algorithm(run_right);
    report_counts("algorithms as they are");
}

static void algorithms_mutated(void **state)
{
    (void)state;
    counts.seeds = 4;
    each_algorithm(run_mutants);
    report_counts("algorithms");
    assert_true(counts.refused > counts.mutants / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(ring_by_hand, reset),
        cmocka_unit_test_setup(others_by_hand, reset),
        cmocka_unit_test_setup(algorithms_are_right, reset),
        cmocka_unit_test_setup(algorithms_mutated, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
