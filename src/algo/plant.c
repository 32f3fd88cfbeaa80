/* Damages plans the way builders go wrong; see prove.h. */
#include "algo/prove.h"

#include <string.h>

static const char *const fault_names[] = {
#define X(name, text, help) text,
    ALGO_FAULT_MAP(X)
#undef X
};
static const char *const fault_helps[] = {
#define X(name, text, help) help,
    ALGO_FAULT_MAP(X)
#undef X
};

const char *algo_fault_name(enum algo_fault fault)
{
    return fault_names[fault];
}

const char *algo_fault_help(enum algo_fault fault)
{
    return fault_helps[fault];
}

int algo_fault_by_name(const char *name)
{
    for (int i = 0; i < ALGO_FAULT_COUNT; i++)
        if (strcmp(fault_names[i], name) == 0)
            return i;
    return -1;
}

/* ---- missing wait ------------------------------------------------------------------------------------------------ */

static void remove_op(struct plan *plan, size_t i)
{
    memmove(&plan->ops[i], &plan->ops[i + 1], (plan->nops - i - 1) * sizeof(plan->ops[0]));
    plan->nops--;
    for (size_t s = 0; s < plan->nstages; s++)
        plan->stages[s].op -= plan->stages[s].op > i;
}

static bool waits_again(const struct plan *plan, size_t i)
{
    const struct plan_op *op = &plan->ops[i];
    for (size_t j = i + 1; j < plan->nops; j++)
        if (plan->ops[j].opcode == PLAN_WAIT && plan->ops[j].flags == 0 &&
            plan->ops[j].peer == op->peer && plan->ops[j].lane == op->lane)
            return true;
    return false;
}

/*
 * The last WAIT of a plan: best one whose semaphore is waited for again, since then only what happens in between shows
 * that it is missing; then any for a semaphore; then one for a line.
 */
enum wait_kind { WAIT_REPEATED, WAIT_SEMAPHORE, WAIT_ANY, WAIT_KINDS };

static bool remove_last_wait(struct plan *plan, enum wait_kind kind)
{
    for (size_t i = plan->nops; i-- > 0;) {
        const struct plan_op *op = &plan->ops[i];
        if (op->opcode != PLAN_WAIT || (kind < WAIT_ANY && op->flags != 0) ||
            (kind == WAIT_REPEATED && !waits_again(plan, i)))
            continue;
        remove_op(plan, i);
        return true;
    }
    return false;
}

static bool plant_missing_wait(struct plan *plans, int nranks)
{
    for (int kind = 0; kind < WAIT_KINDS; kind++)
        for (int r = nranks - 1; r >= 0; r--)
            if (remove_last_wait(&plans[r], (enum wait_kind)kind))
                return true;
    return false;
}

/* ---- swapped chunk ----------------------------------------------------------------------------------------------- */

static bool moves_data(const struct plan_op *op)
{
    return op->opcode <= PLAN_PUT && !(op->flags & PLAN_INLINE);
}

/* The first operand of an op in `space`, among destinations or sources; NULL if there is none. */
static struct plan_operand *operand_in(struct plan *plan, const struct plan_op *op,
                                       enum plan_space space, bool dst)
{
    struct plan_operand *first = &plan->operands[op->first_operand] + (dst ? 0 : op->ndst);
    int n = dst ? op->ndst : op->nsrc;
    for (int i = 0; i < n; i++)
        if (first[i].space == space)
            return &first[i];
    return NULL;
}

/* All operands of the op in `space` move to `offset`. */
static void move_operands(struct plan *plan, const struct plan_op *op, enum plan_space space,
                          bool dst, uint64_t offset)
{
    struct plan_operand *first = &plan->operands[op->first_operand] + (dst ? 0 : op->ndst);
    int n = dst ? op->ndst : op->nsrc;
    for (int i = 0; i < n; i++)
        if (first[i].space == space)
            first[i].offset = offset;
}

static bool swap_ops(struct plan *a, const struct plan_op *op_a, struct plan *b,
                     const struct plan_op *op_b, enum plan_space space, bool dst)
{
    if (!moves_data(op_a) || !moves_data(op_b) || op_a->bytes != op_b->bytes)
        return false;
    struct plan_operand *x = operand_in(a, op_a, space, dst), *y = operand_in(b, op_b, space, dst);
    if (!x || !y || x->offset == y->offset)
        return false;
    uint64_t offset_a = x->offset, offset_b = y->offset;
    move_operands(a, op_a, space, dst, offset_b);
    move_operands(b, op_b, space, dst, offset_a);
    return true;
}

/* Swaps the first two ops of the two plans (which may be one) that can be swapped. */
static bool swap_in(struct plan *a, struct plan *b, enum plan_space space, bool dst)
{
    for (size_t i = 0; i < a->nops; i++)
        for (size_t j = a == b ? i + 1 : 0; j < b->nops; j++)
            if (swap_ops(a, &a->ops[i], b, &b->ops[j], space, dst))
                return true;
    return false;
}

static bool plant_swapped_chunk(struct plan *plans, int nranks)
{
    if (plans[0].params.collective == COLL_SENDRECV)
        return false; /* offsets are addresses of one rank */
    for (int r = 0; r < nranks; r++)
        if (swap_in(&plans[r], &plans[r], PLAN_RECV, true) ||
            swap_in(&plans[r], &plans[r], PLAN_SEND, false))
            return true;
    for (int a = 0; a < nranks; a++)
        for (int b = a + 1; b < nranks; b++)
            if (swap_in(&plans[a], &plans[b], PLAN_RECV, true) ||
                swap_in(&plans[a], &plans[b], PLAN_SEND, false))
                return true;
    return false;
}

/* ---- doubled contribution ---------------------------------------------------------------------------------------- */

static bool plant_doubled_contribution(struct plan *plans, int nranks)
{
    for (int r = 0; r < nranks; r++)
        for (size_t i = 0; i < plans[r].nops; i++) {
            const struct plan_op *op = &plans[r].ops[i];
            struct plan_operand *srcs = &plans[r].operands[op->first_operand] + op->ndst;
            if (op->opcode == PLAN_REDUCE && op->nsrc > 1) {
                srcs[1] = srcs[0];
                return true;
            }
        }
    return false;
}

/* ---- early reuse of scratch -------------------------------------------------------------------------------------- */

static bool is_scratch(const struct plan_operand *operand)
{
    return operand->space == PLAN_SCRATCH || operand->space == PLAN_WIDE;
}

/* The lowest offset into scratch, of any rank's, that is at least `from`; UINT64_MAX if there is none. */
static uint64_t next_slot(const struct plan *plans, int nranks, uint64_t from)
{
    uint64_t lowest = UINT64_MAX;
    for (int r = 0; r < nranks; r++)
        for (size_t i = 0; i < plans[r].noperands; i++) {
            const struct plan_operand *operand = &plans[r].operands[i];
            if (is_scratch(operand) && operand->offset >= from && operand->offset < lowest)
                lowest = operand->offset;
        }
    return lowest;
}

static bool plant_early_scratch_reuse(struct plan *plans, int nranks)
{
    uint64_t first = next_slot(plans, nranks, 0);
    uint64_t second = first == UINT64_MAX ? first : next_slot(plans, nranks, first + 1);
    if (second == UINT64_MAX)
        return false;
    for (int r = 0; r < nranks; r++)
        for (size_t i = 0; i < plans[r].noperands; i++) {
            struct plan_operand *operand = &plans[r].operands[i];
            if (is_scratch(operand) && operand->offset == second)
                operand->offset = first;
        }
    return true;
}

/* ---- double rounding --------------------------------------------------------------------------------------------- */

static bool plant_double_rounding(struct plan *plans, int nranks)
{
    bool found = false;
    for (int r = 0; r < nranks; r++)
        for (size_t i = 0; i < plans[r].noperands; i++) {
            struct plan_operand *operand = &plans[r].operands[i];
            found = found || operand->space == PLAN_WIDE;
            if (operand->space == PLAN_WIDE)
                operand->space = PLAN_SCRATCH;
        }
    return found;
}

bool algo_plant(struct plan *plans, int nranks, enum algo_fault fault)
{
    switch (fault) {
    case ALGO_FAULT_MISSING_WAIT:
        return plant_missing_wait(plans, nranks);
    case ALGO_FAULT_SWAPPED_CHUNK:
        return plant_swapped_chunk(plans, nranks);
    case ALGO_FAULT_DOUBLED_CONTRIBUTION:
        return plant_doubled_contribution(plans, nranks);
    case ALGO_FAULT_EARLY_SCRATCH_REUSE:
        return plant_early_scratch_reuse(plans, nranks);
    case ALGO_FAULT_DOUBLE_ROUNDING:
        return plant_double_rounding(plans, nranks);
    default:
        return true;
    }
}
