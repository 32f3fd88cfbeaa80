/*
 * What plans say of stages is true: with every stage made a real copy through scratch, and every peer's access to a
 * staged rank's buffers made one to that scratch, the checker still finds the right result and no race. Some ranks
 * staged, or all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "algo/algo.h"
#include "base/base.h"

#define MAX_RANKS 8

/* The ranks of one call, some of them with buffers in host memory. */
struct staged_call {
    struct plan_params params;
    struct plan plans[MAX_RANKS];
    bool staged[MAX_RANKS];
};

static struct plan_operand stage_of(const struct staged_call *call, int rank, enum plan_space space,
                                    uint64_t offset)
{
    bool apart = space == PLAN_RECV && !call->plans[rank].shares_stages;

    return plan_at(PLAN_SCRATCH, rank, offset + (apart ? plan_send_bytes(&call->params, rank) : 0));
}

static struct plan_operand seen_by(const struct staged_call *call, int rank,
                                   const struct plan_operand *o)
{
    if (o->rank == rank || !call->staged[o->rank] ||
        (o->space != PLAN_SEND && o->space != PLAN_RECV))
        return *o;
    return stage_of(call, o->rank, (enum plan_space)o->space, o->offset);
}

static void add_stages(const struct staged_call *call, int rank, size_t op, size_t *next,
                       struct plan *out)
{
    const struct plan *plan = &call->plans[rank];

    for (; *next < plan->nstages && plan->stages[*next].op == op; ++*next) {
        const struct plan_stage *s = &plan->stages[*next];
        struct plan_operand buffer = plan_at((enum plan_space)s->space, rank, s->offset);
        struct plan_operand stage = stage_of(call, rank, (enum plan_space)s->space, s->offset);

        if (!call->staged[rank])
            continue;
        if (s->space == PLAN_SEND)
            plan_copy(out, 0, stage, buffer, s->bytes);
        else
            plan_copy(out, 0, buffer, stage, s->bytes);
    }
}

static void add_op(const struct staged_call *call, int rank, const struct plan_op *op,
                   struct plan *out)
{
    const struct plan_operand *from = &call->plans[rank].operands[op->first_operand];
    struct plan_operand o[PLAN_MAX_OPERANDS];

    for (int i = 0; i < op->ndst + op->nsrc; i++)
        o[i] = seen_by(call, rank, &from[i]);
    switch ((enum plan_opcode)op->opcode) {
    case PLAN_COPY:
        plan_copy_multi(out, op->lane, o, op->ndst, o[op->ndst], op->bytes);
        return;
    case PLAN_REDUCE:
        plan_reduce(out, op->lane, op->flags, o, op->ndst, o + op->ndst, op->nsrc, op->bytes);
        if (op->bytes)
            out->ops[out->nops - 1].value = op->value; /* contributions */
        return;
    case PLAN_PUT:
        assert_true(op->flags & PLAN_INLINE); /* a port cannot take host memory */
        plan_put_inline(out, op->lane, op->peer, o[0], op->bytes);
        return;
    case PLAN_SIGNAL:
        if (op->flags & PLAN_ARRIVE)
            plan_arrive(out, op->lane, op->peer);
        else
            plan_signal(out, op->lane, op->peer, op->value);
        return;
    case PLAN_WAIT:
        if (op->flags & PLAN_ARRIVE)
            plan_wait_arrival(out, op->lane, op->peer);
        else if (op->flags & PLAN_INLINE)
            plan_wait_inline(out, op->lane, op->peer);
        else
            plan_wait(out, op->lane, op->peer, op->value);
        return;
    }
}

static void make_staged(const struct staged_call *call, int rank, struct plan *out)
{
    const struct plan *plan = &call->plans[rank];
    struct plan_params params = plan->params;
    size_t next = 0;

    params.scratch_bytes = 64u << 20;
    plan_init(out, &params);
    out->algorithm = plan->algorithm;
    for (size_t i = 0; i < plan->nops; i++) {
        add_stages(call, rank, i, &next, out);
        add_op(call, rank, &plan->ops[i], out);
    }
    add_stages(call, rank, plan->nops, &next, out);
    assert_int_equal(next, plan->nstages);
    assert_int_equal(out->status, THRUM_OK);
}

static thrum_status_t check_staged(const struct staged_call *call, FILE *report)
{
    struct plan plans[MAX_RANKS] = {0};
    int n = call->params.nranks;
    thrum_status_t status;

    for (int r = 0; r < n; r++)
        make_staged(call, r, &plans[r]);
    status = plan_check(plans, n, 2, report);
    for (int r = 0; r < n; r++)
        plan_fini(&plans[r]);
    return status;
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
    const struct algo *algo = algo_find(COLL_ALLREDUCE, "pieces");
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
