/*
 * reduce_scatter, recursive halving (Thakur, Rabenseifner, Gropp 2005, section 4.3): at each level the ranks that still
 * work on a range of blocks split into halves; each sends its partner the half of the blocks that it gives up and folds
 * what the partner sends into the half that it keeps.
 *
 * Where n is no power of two, of the first 2 x (n - p2) ranks the even ones hand all of their contribution to the odd one
 * on their right and get their complete block from it; p2 numbers remain, numbered in rank order, of which the first
 * n - p2 stand for two ranks and their two blocks.
 *
 * The scratch of a rank has a region for what comes in at each level (which then holds the fold of it, and is where the
 * next level is sent from), one for what the left neighbour hands over, and one for that neighbour's complete block,
 * which goes to the same place of its own scratch to be rounded there. Where partial results are wider than the type, a
 * rank begins by widening its contribution, into the region for what is handed over.
 * Blocks that are too large for it are cut into chunks, the same elements of every block. Chunks take turns in three
 * sets of regions. That is enough: a partner writes chunk q + 3 after it has received chunk q + 2, which this rank sent
 * when it was through with chunk q + 1, for which it had received from each of the others what they sent when they
 * were through with chunk q, including what this rank had put to them.
 */
#include "algo/build.h"
#include "base/base.h"

#define SETS 3

struct halving {
    const struct plan_params *params;
    int n, rank, p2, levels, rem;
    int number; /* among the p2 that remain; -1: handed over */
    uint64_t elem;
    uint64_t chunk_elems, chunks;
};

/* The elements that a chunk takes of every block, in bytes: of the largest. */
struct chunk {
    uint64_t index, offset, bytes;
};

/* Blocks of the regions that come before those of the levels, and of a whole set of regions. */
static uint64_t blocks_before_levels(const struct plan_params *params)
{
    int n = params->nranks;
    return (n & (n - 1)) != 0 || algo_stages(params) ? (uint64_t)n + 1 : 0;
}
static uint64_t set_blocks(const struct plan_params *params)
{
    int n = params->nranks, p2 = 1 << algo_log2_floor(n);
    uint64_t halves = (uint64_t)(p2 - 1);
    return blocks_before_levels(params) + (n > p2 ? 2 : 1) * halves;
}

/* Room for a cache line of each block; with less, the ring is the better way. */
bool algo_recursive_halving_fits(const struct plan_params *params)
{
    uint64_t elem = algo_elem_bytes(params), sets = set_blocks(params) * SETS;
    uint64_t wanted = min_u64(algo_count_bytes(params), CACHE_LINE_BYTES);
    return algo_partial_room(params) / sets / elem * elem >= wanted;
}

static void halving_init(struct halving *h, const struct plan_params *params)
{
    int n = params->nranks, rank = params->rank, levels = algo_log2_floor(n), p2 = 1 << levels;
    int rem = n - p2;
    uint64_t elem = algo_elem_bytes(params), blocks = set_blocks(params);
    uint64_t room = algo_partial_room(params) / blocks / elem;
    if (room < params->count)
        room = algo_partial_room(params) / (blocks * SETS) / elem;
    uint64_t chunk_elems = max_u64(1, min_u64(room, params->count));
    *h = (struct halving){
        .params = params,
        .n = n,
        .rank = rank,
        .p2 = p2,
        .levels = levels,
        .rem = rem,
        .number = algo_number_of(rank, rem),
        .elem = elem,
        .chunk_elems = chunk_elems,
        .chunks = (params->count + chunk_elems - 1) / chunk_elems,
    };
}

/* The rank that goes by a number, and the first block of the number (and of those after it). */
static int rank_of(const struct halving *h, int number)
{
    return algo_rank_of_number(number, h->rem);
}
static int first_block(const struct halving *h, int number)
{
    return number < h->rem ? 2 * number : number + h->rem;
}

/* Regions, counted in blocks: handed over (n blocks), complete block of the neighbour (1), then one for each level. */
static uint64_t region(const struct halving *h, const struct chunk *chunk, uint64_t first)
{
    uint64_t set = chunk->index % SETS * set_blocks(h->params);
    return (set + first) * h->chunk_elems * h->elem;
}
static struct plan_operand handed_over(const struct halving *h, int rank, const struct chunk *chunk,
                                       int block)
{
    return algo_partial_at(h->params, rank, region(h, chunk, 0) + (uint64_t)block * chunk->bytes);
}
static struct plan_operand neighbours_block(const struct halving *h, int rank,
                                            const struct chunk *chunk)
{
    return algo_partial_at(h->params, rank, region(h, chunk, (uint64_t)h->n));
}
static struct plan_operand level_region(const struct halving *h, int rank,
                                        const struct chunk *chunk, int level, int blocks_in)
{
    uint64_t twice = h->rem > 0 ? 2 : 1, before = blocks_before_levels(h->params);
    for (int i = 0; i < level; i++)
        before += twice * (uint64_t)(h->p2 >> (i + 1));
    return algo_partial_at(h->params, rank,
                           region(h, chunk, before) + (uint64_t)blocks_in * chunk->bytes);
}

/* The numbers [low, high) that work together at a level, halved: which half this rank keeps. */
struct halves {
    int partner; /* rank */
    int keep_first, keep_end, give_first, give_end; /* blocks */
    int have_first; /* block */
};
static struct halves halves_at(const struct halving *h, int level)
{
    int size = h->p2 >> level, low = h->number / size * size, middle = low + size / 2;
    bool keep_low = h->number < middle;
    int a = first_block(h, low), b = first_block(h, middle), c = first_block(h, low + size);
    return (struct halves){
        .partner = rank_of(h, h->number ^ (size / 2)),
        .keep_first = keep_low ? a : b,
        .keep_end = keep_low ? b : c,
        .give_first = keep_low ? b : a,
        .give_end = keep_low ? c : b,
        .have_first = a,
    };
}

/* The chunk of this rank's own block b. */
static struct plan_operand contribution(const struct halving *h, const struct chunk *chunk,
                                        int block)
{
    return algo_send_at(h->rank, algo_block_offset(h->params, block) + chunk->offset);
}

/* Where this rank has block b when a level begins. */
static struct plan_operand current(const struct halving *h, const struct chunk *chunk, int level,
                                   int block)
{
    if (level > 0)
        return level_region(h, h->rank, chunk, level - 1, block - halves_at(h, level).have_first);
    if (h->rank < 2 * h->rem || algo_stages(h->params))
        return handed_over(h, h->rank, chunk, block);
    return contribution(h, chunk, block);
}

/* How many blocks from SEND or from scratch lie side by side. Those of their own sizes leave gaps. */
static int run_length(const struct halving *h, bool in_send, int blocks)
{
    return h->params->counts || (in_send && h->chunks > 1) ? 1 : blocks;
}

/* Of a run of blocks that starts with `block`. */
static uint64_t run_bytes(const struct halving *h, const struct chunk *chunk, int block, int run)
{
    uint64_t own = algo_block_bytes(h->params, block);
    if (run > 1)
        return (uint64_t)run * chunk->bytes;
    return own > chunk->offset ? min_u64(own - chunk->offset, chunk->bytes) : 0;
}

/* Values between two ranks: up to n per chunk, the last of a chunk always the same. */
static uint64_t last_value(const struct halving *h, const struct chunk *chunk)
{
    return (chunk->index + 1) * (uint64_t)h->n;
}

/* Level -1: hands over all that there is. */
static void put_blocks(struct plan *plan, const struct halving *h, const struct chunk *chunk,
                       int peer, int level, int first, int end, struct plan_operand dst)
{
    bool in_send = !algo_stages(h->params) && (level < 0 || (level == 0 && h->rank >= 2 * h->rem));
    int run = run_length(h, in_send, end - first);
    uint64_t value = chunk->index * (uint64_t)h->n;
    for (int block = first; block < end; block += run) {
        struct plan_operand src = in_send     ? contribution(h, chunk, block)
                                  : level < 0 ? handed_over(h, h->rank, chunk, block)
                                              : current(h, chunk, level, block);
        bool last = block + run >= end;
        plan_put(plan, 0, peer, dst, src, run_bytes(h, chunk, block, run),
                 last ? last_value(h, chunk) : ++value);
        dst.offset += (uint64_t)run * chunk->bytes;
    }
}

/* The complete fold of the blocks kept: this rank's to RECV, the left neighbour's put to it. */
static void finish(struct plan *plan, const struct halving *h, const struct chunk *chunk,
                   const struct halves *halves, int level)
{
    for (int block = halves->keep_first; block < halves->keep_end; block++) {
        bool own = block == h->rank;
        uint64_t bytes = run_bytes(h, chunk, block, 1);
        struct plan_operand dst =
            own ? algo_recv_at(h->rank, chunk->offset) : neighbours_block(h, h->rank, chunk);
        algo_reduce2(plan, own ? PLAN_FINAL : 0, dst, current(h, chunk, level, block),
                     level_region(h, h->rank, chunk, level, block - halves->keep_first), bytes);
        if (!own)
            plan_put(plan, 0, block, neighbours_block(h, block, chunk), dst, bytes,
                     last_value(h, chunk));
    }
}

static void fold_kept(struct plan *plan, const struct halving *h, const struct chunk *chunk,
                      const struct halves *halves, int level)
{
    bool in_send = level == 0 && h->rank >= 2 * h->rem && !algo_stages(h->params);
    int run = run_length(h, in_send, halves->keep_end - halves->keep_first);
    for (int block = halves->keep_first; block < halves->keep_end; block += run) {
        struct plan_operand in = level_region(h, h->rank, chunk, level, block - halves->keep_first);
        algo_reduce2(plan, 0, in, current(h, chunk, level, block), in,
                     run_bytes(h, chunk, block, run));
    }
}

/* Takes over the contribution of the left neighbour. */
static void take_over(struct plan *plan, const struct halving *h, const struct chunk *chunk)
{
    int run = run_length(h, true, h->n);
    plan_wait(plan, 0, h->rank - 1, last_value(h, chunk));
    for (int block = 0; block < h->n; block += run) {
        struct plan_operand in = handed_over(h, h->rank, chunk, block);
        algo_reduce2(plan, 0, in, in, contribution(h, chunk, block),
                     run_bytes(h, chunk, block, run));
    }
}

static void widen(struct plan *plan, const struct halving *h, const struct chunk *chunk)
{
    int run = run_length(h, true, h->n);
    for (int block = 0; block < h->n; block += run)
        algo_stage(plan, handed_over(h, h->rank, chunk, block), contribution(h, chunk, block),
                   run_bytes(h, chunk, block, run));
}

/* A rank that hands over: contribution out, complete block in. */
static void build_folded(struct plan *plan, const struct halving *h, const struct chunk *chunk)
{
    int right = h->rank + 1;
    struct plan_operand recv = algo_recv_at(h->rank, chunk->offset);
    struct plan_operand mine = neighbours_block(h, h->rank, chunk);
    put_blocks(plan, h, chunk, right, -1, 0, h->n, handed_over(h, right, chunk, 0));
    plan_wait(plan, 0, right, last_value(h, chunk));
    plan_reduce(plan, 0, PLAN_FINAL, &recv, 1, &mine, 1, run_bytes(h, chunk, h->rank, 1));
}

static void build_chunk(struct plan *plan, const struct halving *h, const struct chunk *chunk)
{
    if (algo_stages(h->params) && (h->number < 0 || h->rank >= 2 * h->rem))
        widen(plan, h, chunk);
    if (h->number < 0) {
        build_folded(plan, h, chunk);
        return;
    }
    if (h->rank < 2 * h->rem)
        take_over(plan, h, chunk);
    for (int level = 0; level < h->levels; level++) {
        struct halves halves = halves_at(h, level);
        put_blocks(plan, h, chunk, halves.partner, level, halves.give_first, halves.give_end,
                   level_region(h, halves.partner, chunk, level, 0));
        plan_wait(plan, 0, halves.partner, last_value(h, chunk));
        if (level == h->levels - 1)
            finish(plan, h, chunk, &halves, level);
        else
            fold_kept(plan, h, chunk, &halves, level);
    }
}

static bool travels_in_lines(const struct plan_params *params)
{
    uint64_t n = (uint64_t)params->nranks;
    return (n & (n - 1)) == 0 && !params->counts && !algo_stages(params) &&
           algo_count_bytes(params) <=
               min_u64(plan_line_bytes(params), params->scratch_bytes / 2) / (n / 2);
}

/* In the scratch: the fold of the half that is kept, level after level. */
static void build_with_lines(struct plan *plan, const struct halving *h)
{
    uint64_t bytes = algo_count_bytes(h->params), used = 0;
    struct plan_operand mine = algo_send_at(h->rank, 0);
    for (int level = 0; level < h->levels; level++) {
        struct halves halves = halves_at(h, level);
        bool last = level == h->levels - 1;
        uint64_t half = (uint64_t)(halves.keep_end - halves.keep_first) * bytes;
        struct plan_operand give = mine,
                            kept = last ? algo_recv_at(h->rank, 0) : algo_scratch_at(h->rank, used);
        give.offset += (uint64_t)(halves.give_first - halves.have_first) * bytes;
        mine.offset += (uint64_t)(halves.keep_first - halves.have_first) * bytes;
        plan_put_inline(plan, 0, halves.partner, give, half);
        plan_wait_inline(plan, 0, halves.partner, half);
        algo_reduce2(plan, last ? PLAN_FINAL : 0, kept, mine, algo_line_of(h->rank, halves.partner),
                     half);
        mine = kept;
        used += half;
    }
}

/* Arrivals of all that this rank exchanges with. */
static void meet(struct plan *plan, const struct halving *h,
                 void (*op)(struct plan *plan, int lane, int peer))
{
    if (h->rank < 2 * h->rem)
        op(plan, 0, h->number < 0 ? h->rank + 1 : h->rank - 1);
    for (int level = 0; h->number >= 0 && level < h->levels; level++)
        op(plan, 0, halves_at(h, level).partner);
}

void algo_reduce_scatter_recursive_halving_build(struct plan *plan)
{
    const struct plan_params *params = &plan->params;
    struct halving h;
    if (algo_build_alone(plan))
        return;
    halving_init(&h, params);
    if (travels_in_lines(params)) {
        build_with_lines(plan, &h);
        return;
    }
    meet(plan, &h, plan_arrive);
    meet(plan, &h, plan_wait_arrival);
    for (uint64_t q = 0; q < h.chunks && plan->status == THRUM_OK; q++) {
        uint64_t first = q * h.chunk_elems;
        struct chunk chunk = {
            .index = q,
            .offset = first * h.elem,
            .bytes = min_u64(h.chunk_elems, params->count - first) * h.elem,
        };
        build_chunk(plan, &h, &chunk);
    }
}

struct algo_cost algo_reduce_scatter_recursive_halving_cost(const struct plan_params *params)
{
    int n = params->nranks, levels = algo_log2_floor(n), p2 = 1 << levels;
    double block = (double)algo_count_bytes(params), rounds = levels + (n > p2 ? 2 : 0);
    /* half, a quarter ... of the blocks; all of them and one block more for the neighbour */
    double blocks = (double)n * (p2 - 1) / p2 + (n > p2 ? n : 0);
    if (n > 1 && travels_in_lines(params))
        return (struct algo_cost){.steps = levels,
                                  .messages = 2 * levels,
                                  .passed_bytes = 2 * block * (n - 1),
                                  .reduced_bytes = 3 * block * (n - 1)};
    return (struct algo_cost){.steps = 1 + rounds,
                              .messages = 4 * rounds,
                              .passed_bytes = 2 * block * (blocks + (n > p2)),
                              .reduced_bytes = 3 * block * blocks};
}
