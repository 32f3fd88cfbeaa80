/*
 * plan: making plans. Builders (src/algo) append here; exec, thrum-plan and the checker read what came out.
 * An append never fails in the caller's face: the first error stays in plan->status.
 */
#include "plan/plan.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const char *const collective_names[] = {
#define X(name, value, text) [value] = text,
    COLLECTIVE_MAP(X)
#undef X
};

const char *collective_name(enum collective collective)
{
    return (unsigned)collective < COLL_COUNT ? collective_names[collective] : "?";
}

int collective_by_name(const char *name)
{
    for (int i = 0; i < COLL_COUNT; i++)
        if (!strcmp(name, collective_names[i]))
            return i;
    return -1;
}

/* ---- buffers by the collective's definition ---------------------------------------------------------------------- */

/*
 * SENDRECV. Own operands are addresses, so the size is the highest end; a peer's buffers count from what its arrival
 * named: what the peer receives from us is as long as what we send it, and the other way round.
 */
static uint64_t p2p_bytes(const struct plan_params *params, int rank, bool is_send)
{
    uint64_t bytes = 0;

    for (int i = 0; i < params->np2p; i++) {
        const struct plan_p2p *p = &params->p2p[i];

        if (rank == params->rank && p->is_send == is_send)
            bytes = max_u64(bytes, p->offset + p->bytes);
        else if (rank != params->rank && p->peer == rank && p->is_send != is_send)
            bytes = max_u64(bytes, p->bytes);
    }
    return bytes;
}

uint64_t plan_block_elems(const struct plan_params *params, int rank)
{
    return params->counts ? params->counts[rank] : params->count;
}

uint64_t plan_block_first(const struct plan_params *params, int rank)
{
    uint64_t first = 0;

    if (!params->counts)
        return (uint64_t)rank * params->count;
    if (params->displs)
        return params->displs[rank];
    for (int r = 0; r < rank; r++)
        first += params->counts[r];
    return first;
}

/* Elements of all blocks, with what lies between. */
static uint64_t whole_elems(const struct plan_params *params)
{
    uint64_t end = 0;

    if (!params->counts || !params->displs)
        return plan_block_first(params, params->nranks);
    for (int r = 0; r < params->nranks; r++)
        end = max_u64(end, params->displs[r] + params->counts[r]);
    return end;
}

unsigned plan_widening(const struct plan_params *params)
{
    if (params->redop >= THRUM_REDOP_COUNT)
        return 1;
    switch (params->dtype) {
    case THRUM_FLOAT16:
    case THRUM_BFLOAT16:
        return 2;
    case THRUM_FLOAT8_E4M3:
    case THRUM_FLOAT8_E5M2:
        return 4;
    default:
        return 1;
    }
}

bool plan_has_root(enum collective collective)
{
    return collective == COLL_BROADCAST || collective == COLL_REDUCE || collective == COLL_GATHER ||
           collective == COLL_SCATTER;
}

bool plan_reduces(enum collective collective)
{
    switch (collective) {
    case COLL_ALLREDUCE:
    case COLL_REDUCE_SCATTER:
    case COLL_REDUCE:
    case COLL_SCAN:
    case COLL_EXSCAN:
        return true;
    default:
        return false;
    }
}

bool plan_rounds(thrum_datatype_t dtype)
{
    switch (dtype) {
    case THRUM_FLOAT8_E4M3:
    case THRUM_FLOAT8_E5M2:
    case THRUM_FLOAT16:
    case THRUM_BFLOAT16:
    case THRUM_FLOAT32:
    case THRUM_FLOAT64:
    case THRUM_COMPLEX64:
    case THRUM_COMPLEX128:
        return true;
    default:
        return false;
    }
}

bool plan_op_takes(thrum_redop_t op, thrum_datatype_t dtype)
{
    if (dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128)
        return op == THRUM_SUM || op == THRUM_PROD || op == THRUM_AVG;
    return !plan_rounds(dtype) || (op != THRUM_BAND && op != THRUM_BOR && op != THRUM_BXOR);
}

uint64_t plan_send_bytes(const struct plan_params *params, int rank)
{
    uint64_t elem = thrum_datatype_size(params->dtype), bytes = params->count * elem;

    switch (params->collective) {
    case COLL_ALLREDUCE:
    case COLL_REDUCE:
    case COLL_GATHER:
    case COLL_SCAN:
    case COLL_EXSCAN:
        return bytes;
    case COLL_ALLGATHER:
        return plan_block_elems(params, rank) * elem;
    case COLL_BROADCAST:
        return rank == params->root ? bytes : 0;
    case COLL_REDUCE_SCATTER:
        return whole_elems(params) * elem;
    case COLL_SCATTER:
        return rank == params->root ? bytes * (uint64_t)params->nranks : 0;
    case COLL_ALLTOALL:
        return bytes * (uint64_t)params->nranks;
    case COLL_SENDRECV:
        return p2p_bytes(params, rank, true);
    default:
        return 0;
    }
}

uint64_t plan_recv_bytes(const struct plan_params *params, int rank)
{
    uint64_t elem = thrum_datatype_size(params->dtype), bytes = params->count * elem;

    switch (params->collective) {
    case COLL_ALLREDUCE:
    case COLL_BROADCAST:
    case COLL_SCATTER:
    case COLL_SCAN:
    case COLL_EXSCAN:
        return bytes;
    case COLL_REDUCE_SCATTER:
        return plan_block_elems(params, rank) * elem;
    case COLL_ALLGATHER:
        return whole_elems(params) * elem;
    case COLL_REDUCE:
        return rank == params->root ? bytes : 0;
    case COLL_GATHER:
        return rank == params->root ? bytes * (uint64_t)params->nranks : 0;
    case COLL_ALLTOALL:
        return bytes * (uint64_t)params->nranks;
    case COLL_SENDRECV:
        return p2p_bytes(params, rank, false);
    default:
        return 0;
    }
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void plan_init(struct plan *plan, const struct plan_params *params)
{
    *plan = (struct plan){.params = *params, .algorithm = ""};
}

void plan_fini(struct plan *plan)
{
    free(plan->ops);
    free(plan->operands);
    free(plan->stages);
    *plan = (struct plan){0};
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

/* Doubles, so that a plan of N ops costs O(N) in all. */
static bool reserve(void **array, size_t *capacity, size_t wanted, size_t item_bytes)
{
    size_t larger = *capacity ? *capacity : 16, bytes;
    void *moved;

    if (wanted <= *capacity)
        return true;
    while (larger < wanted)
        if (mul_overflows(larger, 2, &larger))
            return false;
    if (mul_overflows(larger, item_bytes, &bytes))
        return false;
    moved = realloc(*array, bytes);
    if (!moved)
        return false;
    *array = moved;
    *capacity = larger;
    return true;
}

static void refuse(struct plan *plan, const struct plan_op *op, const char *what, int64_t value)
{
    static const char *const names[] = {"COPY", "REDUCE", "PUT", "SIGNAL", "WAIT"};

    plan->status =
        thrum_fail(THRUM_ERR_PLAN, "%s %s, rank %d of %d: %s with %s %lld",
                   collective_name(plan->params.collective), plan->algorithm, plan->params.rank,
                   plan->params.nranks, names[op->opcode], what, (long long)value);
}

/* What would corrupt the plan itself is refused here; what is merely wrong is the checker's to find. */
static bool acceptable(struct plan *plan, const struct plan_op *op, int lane, int ndst, int nsrc)
{
    const struct plan_params *params = &plan->params;
    bool data = op->opcode == PLAN_COPY || op->opcode == PLAN_REDUCE;

    if (lane < 0 || lane >= params->lanes || lane >= PLAN_MAX_LANES)
        refuse(plan, op, "lane", lane);
    else if (ndst < 0 || nsrc < 0 || ndst > PLAN_MAX_OPERANDS || nsrc > PLAN_MAX_OPERANDS - ndst)
        refuse(plan, op, "operands", (int64_t)ndst + nsrc);
    else if (data && (ndst < 1 || nsrc < 1))
        refuse(plan, op, ndst < 1 ? "destinations" : "sources", ndst < 1 ? ndst : nsrc);
    else if (!data && (op->peer < 0 || op->peer >= params->nranks || op->peer == params->rank))
        refuse(plan, op, "peer", op->peer);
    else
        return true;
    return false;
}

static void note_scratch(struct plan *plan, const struct plan_op *op,
                         const struct plan_operand *operands, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool wide = operands[i].space == PLAN_WIDE;
        uint64_t end = operands[i].offset + op->bytes;

        if ((wide || operands[i].space == PLAN_SCRATCH) && operands[i].rank == plan->params.rank)
            plan->scratch_bytes =
                max_u64(plan->scratch_bytes, wide ? end * plan_widening(&plan->params) : end);
    }
}

static void keep(struct plan *plan, struct plan_op *op, const struct plan_operand *dsts,
                 const struct plan_operand *srcs)
{
    size_t n = (size_t)op->ndst + op->nsrc;

    if (plan->noperands + n > UINT32_MAX ||
        !reserve((void **)&plan->ops, &plan->ops_capacity, plan->nops + 1, sizeof *plan->ops) ||
        !reserve((void **)&plan->operands, &plan->operands_capacity, plan->noperands + n,
                 sizeof *plan->operands)) {
        plan->status = thrum_fail(THRUM_ERR_NO_MEMORY, "%s %s, rank %d: no memory for op %zu",
                                  collective_name(plan->params.collective), plan->algorithm,
                                  plan->params.rank, plan->nops);
        return;
    }
    op->first_operand = (uint32_t)plan->noperands;
    if (op->ndst)
        memcpy(plan->operands + plan->noperands, dsts, op->ndst * sizeof *dsts);
    if (op->nsrc)
        memcpy(plan->operands + plan->noperands + op->ndst, srcs, op->nsrc * sizeof *srcs);
    note_scratch(plan, op, plan->operands + plan->noperands, n);
    plan->noperands += n;
    plan->ops[plan->nops++] = *op;
}

static void hand_to_sink(struct plan *plan, const struct plan_op *op,
                         const struct plan_operand *dsts, const struct plan_operand *srcs)
{
    struct plan_operand operands[PLAN_MAX_OPERANDS];

    if (op->ndst)
        memcpy(operands, dsts, op->ndst * sizeof *dsts);
    if (op->nsrc)
        memcpy(operands + op->ndst, srcs, op->nsrc * sizeof *srcs);
    note_scratch(plan, op, operands, (size_t)op->ndst + op->nsrc);
    plan->status = plan->sink(plan->sink_argument, plan, op, operands);
}

static void append(struct plan *plan, struct plan_op op, int lane, const struct plan_operand *dsts,
                   int ndst, const struct plan_operand *srcs, int nsrc)
{
    if (plan->status || !acceptable(plan, &op, lane, ndst, nsrc))
        return;
    op.lane = (uint16_t)lane;
    op.ndst = (uint16_t)ndst;
    op.nsrc = (uint16_t)nsrc;
    if (plan->sink)
        hand_to_sink(plan, &op, dsts, srcs);
    else
        keep(plan, &op, dsts, srcs);
}

void plan_copy(struct plan *plan, int lane, struct plan_operand dst, struct plan_operand src,
               uint64_t bytes)
{
    plan_copy_multi(plan, lane, &dst, 1, src, bytes);
}

void plan_copy_multi(struct plan *plan, int lane, const struct plan_operand *dsts, int ndst,
                     struct plan_operand src, uint64_t bytes)
{
    if (bytes)
        append(plan, (struct plan_op){.opcode = PLAN_COPY, .peer = -1, .bytes = bytes}, lane, dsts,
               ndst, &src, 1);
}

void plan_reduce(struct plan *plan, int lane, unsigned flags, const struct plan_operand *dsts,
                 int ndst, const struct plan_operand *srcs, int nsrc, uint64_t bytes)
{
    struct plan_op op = {
        .opcode = PLAN_REDUCE, .flags = (uint8_t)flags, .peer = -1, .bytes = bytes};

    if (bytes)
        append(plan, op, lane, dsts, ndst, srcs, nsrc);
}

void plan_reduce_prefix(struct plan *plan, int lane, int contributions, struct plan_operand dst,
                        const struct plan_operand *srcs, int nsrc, uint64_t bytes)
{
    struct plan_op op = {.opcode = PLAN_REDUCE,
                         .flags = PLAN_FINAL,
                         .peer = -1,
                         .bytes = bytes,
                         .value = (uint64_t)contributions};

    if (bytes)
        append(plan, op, lane, &dst, 1, srcs, nsrc);
}

void plan_put(struct plan *plan, int lane, int peer, struct plan_operand dst,
              struct plan_operand src, uint64_t bytes, uint64_t value)
{
    if (bytes)
        append(plan,
               (struct plan_op){.opcode = PLAN_PUT, .peer = peer, .bytes = bytes, .value = value},
               lane, &dst, 1, &src, 1);
    else if (value)
        plan_signal(plan, lane, peer, value);
}

void plan_put_inline(struct plan *plan, int lane, int peer, struct plan_operand src, uint64_t bytes)
{
    struct plan_op op = {.opcode = PLAN_PUT, .flags = PLAN_INLINE, .peer = peer, .bytes = bytes};

    append(plan, op, lane, NULL, 0, &src, 1);
}

static void append_bare(struct plan *plan, int lane, enum plan_opcode opcode, unsigned flags,
                        int peer, uint64_t value)
{
    append(plan,
           (struct plan_op){
               .opcode = (uint8_t)opcode, .flags = (uint8_t)flags, .peer = peer, .value = value},
           lane, NULL, 0, NULL, 0);
}

void plan_signal(struct plan *plan, int lane, int peer, uint64_t value)
{
    append_bare(plan, lane, PLAN_SIGNAL, 0, peer, value);
}

void plan_wait(struct plan *plan, int lane, int peer, uint64_t value)
{
    append_bare(plan, lane, PLAN_WAIT, 0, peer, value);
}

void plan_arrive(struct plan *plan, int lane, int peer)
{
    append_bare(plan, lane, PLAN_SIGNAL, PLAN_ARRIVE, peer, 0);
}

void plan_wait_arrival(struct plan *plan, int lane, int peer)
{
    append_bare(plan, lane, PLAN_WAIT, PLAN_ARRIVE, peer, 0);
}

void plan_wait_inline(struct plan *plan, int lane, int peer, uint64_t bytes)
{
    struct plan_op op = {.opcode = PLAN_WAIT, .flags = PLAN_INLINE, .peer = peer, .bytes = bytes};

    append(plan, op, lane, NULL, 0, NULL, 0);
}

void plan_runs_ahead(struct plan *plan)
{
    plan->runs_ahead = true;
}

void plan_names_stages(struct plan *plan, bool shared)
{
    plan->names_stages = true;
    plan->shares_stages = shared;
}

void plan_stage(struct plan *plan, enum plan_space space, uint64_t offset, uint64_t bytes)
{
    struct plan_stage *last = plan->nstages ? &plan->stages[plan->nstages - 1] : NULL;

    if (plan->status || plan->sink || !bytes)
        return;
    if (last && last->op == plan->nops && last->space == space &&
        last->offset + last->bytes == offset) {
        last->bytes += bytes;
        return;
    }
    if (!reserve((void **)&plan->stages, &plan->stages_capacity, plan->nstages + 1,
                 sizeof *plan->stages)) {
        plan->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    plan->stages[plan->nstages++] = (struct plan_stage){
        .op = plan->nops, .offset = offset, .bytes = bytes, .space = (uint8_t)space};
}
