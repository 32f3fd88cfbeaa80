/* Pieces; see pieces.h. */
#include "algo/pieces.h"

#include "base/base.h"

#define PIECE_BYTES (128u << 10)
#define MIN_PIECES 4
#define MAX_PIECES 64

struct algo_pieces algo_cut(const struct plan_params *params, uint64_t count)
{
    struct algo_pieces p = {.elem = algo_elem_bytes(params)};
    uint64_t unit = CACHE_LINE_BYTES / p.elem;

    p.count = min_u64(PIECE_BYTES / p.elem, (count + MIN_PIECES - 1) / MIN_PIECES);
    p.count = max_u64(p.count, (count + MAX_PIECES - 1) / MAX_PIECES);
    if (p.count > unit)
        p.count = round_up_u64(p.count, unit);
    p.n = (count + p.count - 1) / p.count;
    return p;
}

uint64_t algo_piece_elems(const struct algo_pieces *p, uint64_t count, uint64_t k)
{
    uint64_t first = k * p->count;

    return first < count ? min_u64(p->count, count - first) : 0;
}

void algo_raise_all(struct plan *plan, uint64_t value)
{
    for (int i = 1; i < plan->params.nranks; i++)
        plan_signal(plan, 0, algo_rank_at(plan->params.rank, i, plan->params.nranks), value);
}

void algo_await_all(struct plan *plan, uint64_t value)
{
    for (int i = 1; i < plan->params.nranks; i++)
        plan_wait(plan, 0, algo_rank_at(plan->params.rank, i, plan->params.nranks), value);
}
