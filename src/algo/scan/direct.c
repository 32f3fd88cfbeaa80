/*
 * scan and exscan, direct: arrival; each rank computes its slice of all prefixes, rank after rank, and writes them to
 * every RECV; departure. Every byte of input is read once and every byte of output written once; the running prefix is
 * kept in scratch, in pieces that stay in the cache, and is not rounded there. Needs peer access.
 *
 * Two accumulators in turn, since in place a rank's contribution must be folded in before its result is written over
 * it, and exscan's result is the prefix before it.
 */
#include "algo/build.h"
#include "base/base.h"

#define PIECE_BYTES 32768

/* What fits the two accumulators; without them, whatever there is. */
static uint64_t piece_bytes(const struct plan_params *params, uint64_t bytes)
{
    int longest = params->collective == COLL_EXSCAN ? params->nranks - 1 : params->nranks;
    uint64_t room = algo_slot_bytes(params, algo_partial_room(params), 2);
    return longest <= 2 ? bytes : min_u64(room, PIECE_BYTES);
}

/* Room for the fold of the first `ranks` ranks. */
static struct plan_operand accumulator_of(const struct plan_params *params, int ranks)
{
    return algo_partial_at(params, params->rank, ranks % 2 ? piece_bytes(params, PIECE_BYTES) : 0);
}

/* RECV of rank <- the fold of the first `ranks` ranks. A REDUCE also of one: rank 0 may be in place. */
static void deliver(struct plan *plan, int rank, int ranks, uint64_t offset, uint64_t bytes)
{
    struct plan_operand src =
        ranks == 1 ? algo_send_at(0, offset) : accumulator_of(&plan->params, ranks);
    plan_reduce_prefix(plan, 0, ranks, algo_recv_at(rank, offset), &src, 1, bytes);
}

/* The longest prefix needs no accumulator: it is written as it is folded. */
static void build_piece(struct plan *plan, bool exclusive, uint64_t offset, uint64_t bytes)
{
    const struct plan_params *params = &plan->params;
    int n = params->nranks, longest = exclusive ? n - 1 : n;
    for (int ranks = 2; ranks <= longest; ranks++) {
        struct plan_operand sum = accumulator_of(params, ranks);
        struct plan_operand srcs[2] = {ranks == 2 ? algo_send_at(0, offset)
                                                  : accumulator_of(params, ranks - 1),
                                       algo_send_at(ranks - 1, offset)};
        if (ranks == longest)
            plan_reduce_prefix(plan, 0, ranks, algo_recv_at(n - 1, offset), srcs, 2, bytes);
        else
            plan_reduce(plan, 0, 0, &sum, 1, srcs, 2, bytes);
        deliver(plan, exclusive ? ranks - 1 : ranks - 2, ranks - 1, offset, bytes);
    }
    if (longest == 1)
        deliver(plan, 1, 1, offset, bytes);
}

void algo_scan_direct_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    bool exclusive = params->collective == COLL_EXSCAN;
    if (algo_build_alone(plan))
        return;
    uint64_t first = algo_slice_offset(params, params->rank);
    uint64_t bytes = algo_slice_bytes(params, params->rank);
    uint64_t piece = piece_bytes(params, bytes);
    algo_meet_all(plan);
    for (uint64_t done = 0; done < bytes; done += piece)
        build_piece(plan, exclusive, first + done, min_u64(piece, bytes - done));
    algo_depart_all(plan, algo_has_slice);
}

struct algo_cost algo_scan_direct_cost(const struct plan_params *params)
{
    double n = params->nranks, bytes = (double)algo_count_bytes(params);
    return (struct algo_cost){.steps = 2, .messages = 4 * (n - 1), .reduced_bytes = 2 * bytes};
}
