/* All contributions of a part to the rank that folds it; see pairwise.h. */
#include "algo/pairwise.h"
#include "base/base.h"

#define SETS 2

struct exchange {
    const struct plan_params *params;
    int n, rank;
    bool everywhere; /* results go to all: allreduce */
    bool widens; /* contributions travel as partial results: one REDUCE does not take them all */
    uint64_t slot_bytes, pieces;
};

static uint64_t part_offset(const struct plan_params *params, int part)
{
    return params->collective == COLL_ALLREDUCE ? algo_slice_offset(params, part)
                                                : algo_block_offset(params, part);
}
static uint64_t part_bytes(const struct plan_params *params, int part)
{
    return params->collective == COLL_ALLREDUCE ? algo_slice_bytes(params, part)
                                                : algo_block_bytes(params, part);
}

static bool takes_several_reduces(const struct plan_params *params)
{
    return params->nranks > PLAN_MAX_OPERANDS - 1;
}

/* The accumulator of several REDUCEs, slots to receive, and slots in which contributions are widened. */
static uint64_t slots_of(const struct plan_params *params)
{
    uint64_t n = (uint64_t)params->nranks;
    bool widens = takes_several_reduces(params) && algo_stages(params);
    return 1 + SETS * n * (widens ? 2 : 1);
}

/* SCRATCH takes contributions as they are, whatever their type; WIDE only what is widened. */
static uint64_t room_of(const struct plan_params *params)
{
    return takes_several_reduces(params) ? algo_partial_room(params) : params->scratch_bytes;
}

bool pairwise_fits(const struct plan_params *params)
{
    return algo_slot_bytes(params, room_of(params), slots_of(params)) > 0;
}

static void exchange_init(struct exchange *x, const struct plan_params *params)
{
    bool everywhere = params->collective == COLL_ALLREDUCE;
    uint64_t largest = everywhere ? algo_slice_bytes(params, 0) : algo_count_bytes(params);
    uint64_t slot = algo_slot_bytes(params, room_of(params), slots_of(params));
    *x = (struct exchange){
        .params = params,
        .n = params->nranks,
        .rank = params->rank,
        .everywhere = everywhere,
        .widens = takes_several_reduces(params) && algo_stages(params),
        .slot_bytes = slot,
        .pieces = (largest + slot - 1) / slot,
    };
}

/* Bytes of piece q of a part; 0 where the part has no such piece. */
static uint64_t piece_bytes(const struct exchange *x, int part, uint64_t q)
{
    uint64_t bytes = part_bytes(x->params, part), offset = q * x->slot_bytes;
    return bytes > offset ? min_u64(bytes - offset, x->slot_bytes) : 0;
}

static struct plan_operand slot(const struct exchange *x, int rank, uint64_t index)
{
    return plan_at(x->widens ? PLAN_WIDE : PLAN_SCRATCH, rank, index * x->slot_bytes);
}
static struct plan_operand slot_in(const struct exchange *x, int rank, int from, uint64_t q)
{
    return slot(x, rank, 1 + q % SETS * (uint64_t)x->n + (uint64_t)from);
}
static struct plan_operand slot_out(const struct exchange *x, int to, uint64_t q)
{
    return slot(x, x->rank, 1 + (SETS + q % SETS) * (uint64_t)x->n + (uint64_t)to);
}

/* Values between two ranks: the contribution to piece q, then the answer to it. */
static uint64_t value_of_piece(uint64_t q)
{
    return 2 * q + 1;
}
static uint64_t value_of_answer(uint64_t q)
{
    return 2 * q + 2;
}

static void send_piece(struct plan *plan, const struct exchange *x, int to, uint64_t q)
{
    uint64_t bytes = piece_bytes(x, to, q);
    struct plan_operand src = algo_send_at(x->rank, part_offset(x->params, to) + q * x->slot_bytes);
    struct plan_operand dst = slot_in(x, to, x->rank, q);
    if (x->widens) {
        struct plan_operand out = to == x->rank ? dst : slot_out(x, to, q);
        algo_stage(plan, out, src, bytes);
        src = out;
    }
    if (to != x->rank)
        plan_put(plan, 0, to, dst, src, bytes, value_of_piece(q));
}

/* The fold is of one piece, at its place in SEND: that tells which. */
static struct plan_operand source_of(const struct plan *plan, int rank, uint64_t offset)
{
    struct exchange x;
    exchange_init(&x, &plan->params);
    uint64_t q = (offset - part_offset(x.params, x.rank)) / x.slot_bytes;
    return rank == x.rank && !x.widens ? algo_send_at(rank, offset) : slot_in(&x, x.rank, rank, q);
}

static void fold_piece(struct plan *plan, const struct exchange *x, uint64_t q)
{
    uint64_t first = part_offset(x->params, x->rank), done = q * x->slot_bytes;
    algo_fold(plan, &(struct algo_fold){.source = source_of,
                                        .ranks = x->n,
                                        .to = x->rank,
                                        .offset = first + done,
                                        .dst_offset = x->everywhere ? first + done : done,
                                        .bytes = piece_bytes(x, x->rank, q)});
}

static void answer(struct plan *plan, const struct exchange *x, uint64_t q)
{
    uint64_t offset = part_offset(x->params, x->rank) + q * x->slot_bytes;
    for (int i = 1; i < x->n; i++) {
        int peer = algo_rank_at(x->rank, i, x->n);
        if (x->everywhere)
            plan_put(plan, 0, peer, algo_recv_at(peer, offset), algo_recv_at(x->rank, offset),
                     piece_bytes(x, x->rank, q), value_of_answer(q));
        else if (q + SETS < x->pieces)
            plan_signal(plan, 0, peer, value_of_answer(q));
    }
}

void pairwise_build(struct plan *plan)
{
    struct exchange x;
    if (algo_build_alone(plan))
        return;
    exchange_init(&x, &plan->params);
    algo_meet_all(plan);
    for (uint64_t q = 0; q < x.pieces && plan->status == THRUM_OK; q++) {
        for (int i = 1; i <= x.n; i++) {
            int peer = algo_rank_at(x.rank, i, x.n);
            if (q >= SETS && peer != x.rank)
                plan_wait(plan, 0, peer, value_of_answer(q - SETS));
            if (peer != x.rank || x.widens)
                send_piece(plan, &x, peer, q);
        }
        for (int i = 1; i < x.n; i++)
            plan_wait(plan, 0, algo_rank_at(x.rank, -i, x.n), value_of_piece(q));
        fold_piece(plan, &x, q);
        answer(plan, &x, q);
    }
    for (int i = 1; x.everywhere && x.pieces > 0 && i < x.n; i++)
        plan_wait(plan, 0, algo_rank_at(x.rank, -i, x.n), value_of_answer(x.pieces - 1));
}
