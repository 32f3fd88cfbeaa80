/*
 * Stages made real, for proofs: see algo_check_staged in prove.h. Called by prove.c and the tests of algorithms.
 */
#include "algo/prove.h"

#include <stdlib.h>

#include "base/base.h"

struct staging {
    const struct plan *plans;
    const bool *staged;
    uint64_t base,
        scratch_bytes; /* of the stages in scratch, behind what the plans use; and all of it */
};

static struct plan_operand stage_of(const struct staging *call, int rank, enum plan_space space,
                                    uint64_t offset)
{
    bool apart = space == PLAN_RECV && !call->plans[rank].shares_stages;

    return plan_at(PLAN_SCRATCH, rank,
                   call->base + offset +
                       (apart ? plan_send_bytes(&call->plans[rank].params, rank) : 0));
}

static struct plan_operand seen_by(const struct staging *call, int rank,
                                   const struct plan_operand *o)
{
    if (o->rank == rank || !call->staged[o->rank] ||
        (o->space != PLAN_SEND && o->space != PLAN_RECV))
        return *o;
    return stage_of(call, o->rank, (enum plan_space)o->space, o->offset);
}

static void add_stages(const struct staging *call, int rank, size_t op, size_t *next,
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

static void add_op(const struct staging *call, int rank, const struct plan_op *op, struct plan *out)
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
            plan_wait_inline(out, op->lane, op->peer, op->bytes);
        else
            plan_wait(out, op->lane, op->peer, op->value);
        return;
    }
}

/* The plan of one rank. */
static void make_staged(const struct staging *call, int rank, struct plan *out)
{
    const struct plan *plan = &call->plans[rank];
    struct plan_params params = plan->params;
    size_t next = 0;

    params.scratch_bytes = call->scratch_bytes;
    plan_init(out, &params);
    out->algorithm = plan->algorithm;
    for (size_t i = 0; i < plan->nops; i++) {
        add_stages(call, rank, i, &next, out);
        add_op(call, rank, &plan->ops[i], out);
    }
    add_stages(call, rank, plan->nops, &next, out);
}

static bool uses_wide(const struct plan *plan)
{
    for (size_t i = 0; i < plan->noperands; i++)
        if (plan->operands[i].space == PLAN_WIDE)
            return true;
    return false;
}

/* A plan may use scratch or wide scratch. */
static bool can_be_staged(const struct plan *plans, int nranks)
{
    for (int r = 0; r < nranks; r++)
        if (!plans[r].names_stages || uses_wide(&plans[r]))
            return false;
    return true;
}

thrum_status_t algo_check_staged(const struct plan *plans, int nranks, const bool *staged,
                                 int rounds, FILE *report)
{
    struct staging call = {.plans = plans, .staged = staged};
    struct plan *made;
    thrum_status_t status = THRUM_OK;

    if (nranks < 1 || !can_be_staged(plans, nranks))
        return THRUM_OK;
    made = calloc((size_t)nranks, sizeof *made);
    if (!made)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d plans", nranks);
    call.base = round_up_u64(plans[0].params.scratch_bytes, CACHE_LINE_BYTES);
    for (int r = 0; r < nranks; r++)
        call.scratch_bytes =
            max_u64(call.scratch_bytes, call.base + plan_send_bytes(&plans[r].params, r) +
                                            plan_recv_bytes(&plans[r].params, r));
    for (int r = 0; r < nranks && !status; r++) {
        make_staged(&call, r, &made[r]);
        status = made[r].status;
    }
    if (!status)
        status = plan_check(made, nranks, rounds, report);
    for (int r = 0; r < nranks; r++)
        plan_fini(&made[r]);
    free(made);
    return status;
}
