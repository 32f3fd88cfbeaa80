/*
 * allreduce, Rabenseifner (Thakur, Rabenseifner, Gropp 2005, section 4.5): recursive halving, in which partners exchange
 * the half that the other goes on with and fold it, then recursive doubling, in which they exchange what they have. In
 * log2(n) steps each, with as few bytes as a ring.
 *
 * Where n is no power of two, of the first 2 x (n - p2) ranks the even ones hand their contribution to the odd one on
 * their right and get the result from it, so that p2 ranks remain, numbered in rank order.
 *
 * The scratch has a region for what the left neighbour hands over (where partial results are wider than the type: for
 * this rank's contribution too), and one for what comes in at each level, in which it is folded and from which the next
 * level is sent. Vectors that are too large are cut into pieces. A piece needs no second set of regions: who writes the
 * next one has got this one's result, which came when the region had been folded.
 */
#include "algo/build.h"
#include "base/base.h"

struct halving {
    const struct plan_params *params;
    int rank, p2, levels, rem;
    int number; /* among the p2 that remain; -1: handed over */
    uint64_t elem, piece_elems, pieces;
};

struct piece {
    uint64_t index, first, elems; /* of the vector */
};

/* A part of a piece, in bytes from its start. */
struct range {
    uint64_t first, end;
};

static void halving_init(struct halving *h, const struct plan_params *params)
{
    int n = params->nranks, rank = params->rank, levels = algo_log2_floor(n), p2 = 1 << levels;
    int rem = n - p2;
    uint64_t elem = algo_elem_bytes(params);
    /* what is handed over, and a half, a quarter .. of a piece, each with at most one element more */
    uint64_t room = algo_partial_room(params) / elem, extra = (uint64_t)levels + 1;
    uint64_t piece = (room - extra) / 2;
    *h = (struct halving){
        .params = params,
        .rank = rank,
        .p2 = p2,
        .levels = levels,
        .rem = rem,
        .number = rank >= 2 * rem ? rank - rem : (rank % 2 ? rank / 2 : -1),
        .elem = elem,
        .piece_elems = piece,
        .pieces = (params->count + piece - 1) / piece,
    };
}

static int rank_of(const struct halving *h, int number)
{
    return number < h->rem ? 2 * number + 1 : number + h->rem;
}

/* Parts [first, end) of the p2 parts of a piece. Halves of any run of them differ by one element at most. */
static struct range range_of(const struct halving *h, const struct piece *piece, int first, int end)
{
    uint64_t p2 = (uint64_t)h->p2;
    return (struct range){piece->elems * (uint64_t)first / p2 * h->elem,
                          piece->elems * (uint64_t)end / p2 * h->elem};
}

/* What a number goes on with behind a level, and what its partner does. */
static struct range kept_at(const struct halving *h, const struct piece *piece, int number,
                            int level)
{
    int size = h->p2 >> (level + 1), first = number / size * size;
    return range_of(h, piece, first, first + size);
}

static struct plan_operand send_of(const struct halving *h, const struct piece *piece, uint64_t at)
{
    return algo_send_at(h->rank, piece->first * h->elem + at);
}
static struct plan_operand recv_of(const struct halving *h, int rank, const struct piece *piece,
                                   uint64_t at)
{
    return algo_recv_at(rank, piece->first * h->elem + at);
}

/* Where byte `at` of the piece is in the region of a level; level -1: what is handed over. */
static struct plan_operand region(const struct halving *h, int rank, int number,
                                  const struct piece *piece, int level, uint64_t at)
{
    uint64_t start = 0;
    for (int l = -1; l < level; l++)
        start += (l < 0 ? h->piece_elems : (h->piece_elems >> (l + 1)) + 1) * h->elem;
    if (level >= 0)
        at -= kept_at(h, piece, number, level).first;
    return algo_partial_at(h->params, rank, start + at);
}

/* Where this rank has byte `at` when a level begins. */
static struct plan_operand current(const struct halving *h, const struct piece *piece, int level,
                                   uint64_t at)
{
    if (level == 0 && h->rank >= 2 * h->rem && !algo_stages(h->params))
        return send_of(h, piece, at);
    return region(h, h->rank, h->number, piece, level - 1, at);
}

/* Values between partners: two for each piece. */
static uint64_t value_of(const struct piece *piece, bool result)
{
    return 2 * piece->index + (result ? 2 : 1);
}

static void halve(struct plan *plan, const struct halving *h, const struct piece *piece, int level)
{
    int number = h->number ^ (h->p2 >> (level + 1)), partner = rank_of(h, number);
    struct range give = kept_at(h, piece, number, level);
    struct range keep = kept_at(h, piece, h->number, level);
    bool last = level == h->levels - 1;
    struct plan_operand in = region(h, h->rank, h->number, piece, level, keep.first);
    plan_put(plan, 0, partner, region(h, partner, number, piece, level, give.first),
             current(h, piece, level, give.first), give.end - give.first, value_of(piece, false));
    plan_wait(plan, 0, partner, value_of(piece, false));
    algo_reduce2(plan, last ? PLAN_FINAL : 0, last ? recv_of(h, h->rank, piece, keep.first) : in,
                 current(h, piece, level, keep.first), in, keep.end - keep.first);
}

static void double_back(struct plan *plan, const struct halving *h, const struct piece *piece,
                        int level)
{
    int partner = rank_of(h, h->number ^ (h->p2 >> (level + 1)));
    struct range have = kept_at(h, piece, h->number, level);
    plan_put(plan, 0, partner, recv_of(h, partner, piece, have.first),
             recv_of(h, h->rank, piece, have.first), have.end - have.first, value_of(piece, true));
    plan_wait(plan, 0, partner, value_of(piece, true));
}

/* A rank that hands over: contribution out, result in. */
static void build_folded(struct plan *plan, const struct halving *h, const struct piece *piece)
{
    int right = h->rank + 1;
    uint64_t bytes = piece->elems * h->elem;
    struct plan_operand src = send_of(h, piece, 0);
    if (algo_stages(h->params)) {
        src = region(h, h->rank, 0, piece, -1, 0);
        algo_stage(plan, src, send_of(h, piece, 0), bytes);
    }
    plan_put(plan, 0, right, region(h, right, 0, piece, -1, 0), src, bytes, value_of(piece, false));
    plan_wait(plan, 0, right, value_of(piece, true));
}

static void build_piece(struct plan *plan, const struct halving *h, const struct piece *piece)
{
    uint64_t bytes = piece->elems * h->elem;
    struct plan_operand whole = region(h, h->rank, 0, piece, -1, 0);
    bool has_left = h->rank < 2 * h->rem;
    if (has_left) {
        plan_wait(plan, 0, h->rank - 1, value_of(piece, false));
        algo_reduce2(plan, 0, whole, whole, send_of(h, piece, 0), bytes);
    } else if (algo_stages(h->params)) {
        algo_stage(plan, whole, send_of(h, piece, 0), bytes);
    }
    for (int level = 0; level < h->levels; level++)
        halve(plan, h, piece, level);
    for (int level = h->levels - 1; level >= 0; level--)
        double_back(plan, h, piece, level);
    if (has_left)
        plan_put(plan, 0, h->rank - 1, recv_of(h, h->rank - 1, piece, 0),
                 recv_of(h, h->rank, piece, 0), bytes, value_of(piece, true));
}

/* All that this rank exchanges with. */
static void meet(struct plan *plan, const struct halving *h,
                 void (*op)(struct plan *plan, int lane, int peer))
{
    if (h->rank < 2 * h->rem)
        op(plan, 0, h->number < 0 ? h->rank + 1 : h->rank - 1);
    for (int level = 0; h->number >= 0 && level < h->levels; level++)
        op(plan, 0, rank_of(h, h->number ^ (h->p2 >> (level + 1))));
}

void algo_allreduce_rabenseifner_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct halving h;
    if (algo_build_alone(plan))
        return;
    halving_init(&h, params);
    meet(plan, &h, plan_arrive);
    meet(plan, &h, plan_wait_arrival);
    for (uint64_t q = 0; q < h.pieces && plan->status == THRUM_OK; q++) {
        uint64_t first = q * h.piece_elems;
        struct piece piece = {q, first, min_u64(h.piece_elems, params->count - first)};
        if (h.number < 0)
            build_folded(plan, &h, &piece);
        else
            build_piece(plan, &h, &piece);
    }
}

struct algo_cost algo_allreduce_rabenseifner_cost(const struct plan_params *params)
{
    int n = params->nranks, levels = algo_log2_floor(n);
    double bytes = (double)algo_count_bytes(params), p2 = 1 << levels;
    double extra = n > 1 << levels ? 1 : 0, share = (p2 - 1) / p2 + extra;
    return (struct algo_cost){.steps = 1 + 2 * levels + 2 * extra,
                              .messages = 6 * levels + 6 * extra,
                              .passed_bytes = 4 * bytes * share,
                              .reduced_bytes = 3 * bytes * share};
}
