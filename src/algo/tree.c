/* Pipelined reductions and broadcasts on trees; see tree.h. */
#include "algo/tree.h"
#include "base/base.h"

#define TREE_SLOTS 4
#define LEAST_PIECE_BYTES 8192
#define LEAST_PUT_BYTES 65536 /* a put through a fabric costs what tens of KiB take on a link */
#define MOST_PIECE_BYTES 262144

/* What a rank tells others in a turn, in the order in which it does. */
enum phase { PHASE_CREDIT, PHASE_UP, PHASE_DOWN = 2 * TREE_MAX, PHASE_COLLECT = 3 * TREE_MAX };
#define PHASES (3 * TREE_MAX + 2)

struct pipeline {
    const struct tree_job *job;
    uint64_t slot_bytes, piece_bytes;
    uint64_t pieces[TREE_MAX], most_pieces;
};

static uint64_t value_of(uint64_t turn, int tree, int phase)
{
    int place = phase == PHASE_CREDIT || phase == PHASE_UP ? 2 * tree + phase
                : phase == PHASE_DOWN                      ? phase + tree
                                                           : phase;
    return turn * PHASES + (uint64_t)place + 1;
}

static uint64_t sets_of(const struct tree_job *job)
{
    bool collects = job->collector >= 0;
    return (uint64_t)job->ntrees * ((uint64_t)job->max_children + 1) + (collects ? 1 : 0);
}

static void pipeline_init(struct pipeline *p, const struct plan_params *params,
                          const struct tree_job *job)
{
    uint64_t elem = algo_elem_bytes(params), longest = 0, slot = UINT64_MAX;
    for (int t = 0; t < job->ntrees; t++)
        longest = max_u64(longest, job->trees[t].bytes);
    if (job->directions & TREE_UP)
        slot = algo_slot_bytes(params, algo_partial_room(params), sets_of(job) * TREE_SLOTS);
    /* enough pieces to keep all ranks at work, but none too small to be worth a signal */
    uint64_t least = params->peer_access ? LEAST_PIECE_BYTES : LEAST_PUT_BYTES;
    uint64_t wanted = max_u64(longest / (2 * ((uint64_t)job->max_depth + 1)), least);
    wanted = min_u64(wanted, MOST_PIECE_BYTES);
    *p = (struct pipeline){
        .job = job, .slot_bytes = slot, .piece_bytes = min_u64(slot, wanted) / elem * elem};
    for (int t = 0; t < job->ntrees; t++) {
        p->pieces[t] = (job->trees[t].bytes + p->piece_bytes - 1) / p->piece_bytes;
        p->most_pieces = max_u64(p->most_pieces, p->pieces[t]);
    }
}

struct piece {
    uint64_t index, offset, bytes;
};
static struct piece piece_of(const struct pipeline *p, int t, uint64_t q)
{
    const struct tree *tree = &p->job->trees[t];
    uint64_t offset = q * p->piece_bytes;
    return (struct piece){q, tree->offset + offset, min_u64(p->piece_bytes, tree->bytes - offset)};
}

/* Sets of slots: of each child, then the own one, tree after tree; the collector's behind all. */
static struct plan_operand slot(const struct plan *plan, const struct pipeline *p, int rank,
                                uint64_t set, uint64_t q)
{
    return algo_partial_at(&plan->params, rank,
                           (set * TREE_SLOTS + q % TREE_SLOTS) * p->slot_bytes);
}
static struct plan_operand slot_of_child(const struct plan *plan, const struct pipeline *p,
                                         int rank, int t, int index, uint64_t q)
{
    return slot(plan, p, rank, (uint64_t)(t * (p->job->max_children + 1) + index), q);
}
static struct plan_operand slot_own(const struct plan *plan, const struct pipeline *p, int t,
                                    uint64_t q)
{
    return slot_of_child(plan, p, plan->params.rank, t, p->job->max_children, q);
}
static struct plan_operand slot_collected(const struct plan *plan, const struct pipeline *p,
                                          uint64_t q)
{
    return slot(plan, p, p->job->collector, sets_of(p->job) - 1, q);
}

static bool frees_another(const struct pipeline *p, int t, uint64_t q)
{
    return q + TREE_SLOTS < p->pieces[t];
}

/* ---- up ---------------------------------------------------------------------------------------------------------- */

static int sources_of(const struct plan *plan, const struct pipeline *p, int t,
                      const struct piece *piece, struct plan_operand *srcs)
{
    const struct tree *tree = &p->job->trees[t];
    struct plan_operand mine = algo_send_at(plan->params.rank, piece->offset);
    int n = 0;
    if (tree->own_first)
        srcs[n++] = mine;
    for (int i = 0; i < tree->nchildren; i++)
        srcs[n++] = slot_of_child(plan, p, plan->params.rank, t, i, piece->index);
    if (!tree->own_first)
        srcs[n++] = mine;
    return n;
}

/*
 * dst <- the fold of children and own contribution. Sources may be wide all of them or the first alone: behind more than
 * one child, or before any, the own contribution is widened first.
 */
static void fold(struct plan *plan, const struct pipeline *p, int t, const struct piece *piece,
                 bool final, struct plan_operand dst)
{
    struct plan_operand srcs[TREE_MAX_CHILDREN + 1], own = slot_own(plan, p, t, piece->index);
    int n = sources_of(plan, p, t, piece, srcs);
    bool wide = algo_stages(&plan->params), own_first = p->job->trees[t].own_first;
    if (wide && (own_first || n > 2)) {
        struct plan_operand mine = algo_send_at(plan->params.rank, piece->offset);
        algo_stage(plan, own, mine, piece->bytes);
        srcs[own_first ? 0 : n - 1] = own;
    }
    plan_reduce(plan, 0, final ? PLAN_FINAL : 0, &dst, 1, srcs, n, piece->bytes);
}

/* What this rank gives its parent: its contribution as it is where a PUT can take it. */
static struct plan_operand composed(struct plan *plan, const struct pipeline *p, int t,
                                    const struct piece *piece)
{
    struct plan_operand out = slot_own(plan, p, t, piece->index);
    if (p->job->trees[t].nchildren > 0) {
        fold(plan, p, t, piece, false, out);
        return out;
    }
    if (!algo_stages(&plan->params))
        return algo_send_at(plan->params.rank, piece->offset);
    algo_stage(plan, out, algo_send_at(plan->params.rank, piece->offset), piece->bytes);
    return out;
}

static void give_credits(struct plan *plan, const struct pipeline *p, int t, uint64_t q)
{
    const struct tree *tree = &p->job->trees[t];
    for (int i = 0; frees_another(p, t, q) && i < tree->nchildren; i++)
        plan_signal(plan, 0, tree->children[i], value_of(q, t, PHASE_CREDIT));
}

static void turn_up(struct plan *plan, const struct pipeline *p, int t, uint64_t turn)
{
    const struct tree_job *job = p->job;
    const struct tree *tree = &job->trees[t];
    bool hands_over = tree->parent < 0 && job->collector >= 0;
    int rank = plan->params.rank, to = hands_over ? job->collector : tree->parent;
    if (turn >= p->pieces[t])
        return;
    struct piece piece = piece_of(p, t, turn);
    for (int i = 0; i < tree->nchildren; i++)
        plan_wait(plan, 0, tree->children[i], value_of(turn, t, PHASE_UP));
    if (to < 0) {
        fold(plan, p, t, &piece, true, algo_recv_at(rank, piece.offset));
        give_credits(plan, p, t, turn);
        return;
    }
    if (turn >= TREE_SLOTS && hands_over)
        plan_wait(
            plan, 0, to,
            value_of(turn - TREE_SLOTS + 2 * (uint64_t)job->collector_depth, 0, PHASE_COLLECT));
    else if (turn >= TREE_SLOTS)
        plan_wait(plan, 0, to, value_of(turn - TREE_SLOTS, t, PHASE_CREDIT));
    struct plan_operand out = composed(plan, p, t, &piece);
    give_credits(plan, p, t, turn);
    plan_put(plan, 0, to,
             hands_over ? slot_collected(plan, p, turn)
                        : slot_of_child(plan, p, to, t, tree->index, turn),
             out, piece.bytes, value_of(turn, t, PHASE_UP));
}

/* ---- down -------------------------------------------------------------------------------------------------------- */

static void turn_down(struct plan *plan, const struct pipeline *p, int t, uint64_t turn)
{
    const struct tree *tree = &p->job->trees[t];
    uint64_t lag = 2 * (uint64_t)tree->depth;
    int rank = plan->params.rank;
    if (turn < lag || turn - lag >= p->pieces[t])
        return;
    struct piece piece = piece_of(p, t, turn - lag);
    bool from_send = tree->parent < 0 && !(p->job->directions & TREE_UP);
    struct plan_operand src =
        from_send ? algo_send_at(rank, piece.offset) : algo_recv_at(rank, piece.offset);
    if (tree->parent >= 0)
        plan_wait(plan, 0, tree->parent, value_of(turn - 2, t, PHASE_DOWN));
    for (int i = 0; i < tree->nchildren; i++)
        plan_put(plan, 0, tree->children[i], algo_recv_at(tree->children[i], piece.offset), src,
                 piece.bytes, value_of(turn, t, PHASE_DOWN));
}

/* ---- the collector ----------------------------------------------------------------------------------------------- */

static void turn_collect(struct plan *plan, const struct pipeline *p, uint64_t turn, int from)
{
    uint64_t lag = 2 * (uint64_t)p->job->collector_depth;
    if (turn < lag || turn - lag >= p->pieces[0])
        return;
    struct piece piece = piece_of(p, 0, turn - lag);
    struct plan_operand dst = algo_recv_at(plan->params.rank, piece.offset);
    struct plan_operand src = slot_collected(plan, p, piece.index);
    plan_wait(plan, 0, from, value_of(piece.index, 0, PHASE_UP));
    plan_reduce(plan, 0, PLAN_FINAL, &dst, 1, &src, 1, piece.bytes);
    if (frees_another(p, 0, piece.index))
        plan_signal(plan, 0, from, value_of(turn, 0, PHASE_COLLECT));
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static bool add_peer(int *peers, int n, int peer)
{
    for (int i = 0; i < n; i++)
        if (peers[i] == peer)
            return false;
    peers[n] = peer;
    return true;
}

/* Every neighbour once, however many ties there are. */
static int neighbours(const struct plan *plan, const struct tree_job *job, int tree_root,
                      int *peers)
{
    int n = 0;
    for (int t = 0; t < job->ntrees; t++) {
        const struct tree *tree = &job->trees[t];
        if (tree->parent >= 0)
            n += add_peer(peers, n, tree->parent);
        for (int i = 0; i < tree->nchildren; i++)
            n += add_peer(peers, n, tree->children[i]);
    }
    if (job->collector >= 0 && plan->params.rank == tree_root)
        n += add_peer(peers, n, job->collector);
    if (job->collector >= 0 && plan->params.rank == job->collector)
        n += add_peer(peers, n, tree_root);
    return n;
}

void tree_build(struct plan *plan, const struct tree_job *job)
{
    int peers[TREE_MAX * (TREE_MAX_CHILDREN + 1) + 1], tree_root = plan->params.nranks - 1;
    int npeers = neighbours(plan, job, tree_root, peers);
    bool collects = job->collector == plan->params.rank;
    struct pipeline p;
    for (int i = 0; i < npeers; i++)
        plan_arrive(plan, 0, peers[i]);
    for (int i = 0; i < npeers; i++)
        plan_wait_arrival(plan, 0, peers[i]);
    if (plan->params.count == 0)
        return;
    pipeline_init(&p, &plan->params, job);
    uint64_t turns = p.most_pieces, lag = collects ? (uint64_t)job->collector_depth : 0;
    for (int t = 0; (job->directions & TREE_DOWN) && t < job->ntrees; t++)
        lag = max_u64(lag, (uint64_t)job->trees[t].depth);
    for (uint64_t turn = 0; turn < turns + 2 * lag && plan->status == THRUM_OK; turn++) {
        for (int t = 0; (job->directions & TREE_UP) && t < job->ntrees; t++)
            turn_up(plan, &p, t, turn);
        for (int t = 0; (job->directions & TREE_DOWN) && t < job->ntrees; t++)
            turn_down(plan, &p, t, turn);
        if (collects)
            turn_collect(plan, &p, turn, tree_root);
    }
}

/* ---- what it costs ----------------------------------------------------------------------------------------------- */

/* Of a rank, for each piece; [1] where it crosses hosts. */
struct load {
    double up[2], down[2]; /* edges over which pieces go; each is a message */
    double puts[2], gets; /* gets: across hosts only */
    double folded; /* operands of REDUCE */
};

/* All ranks, and the way from the root to the farthest leaf. */
struct span {
    struct load busiest; /* each the most of any rank */
    double host_puts; /* across hosts, by all ranks of one or to them, whichever is more */
    int depth, crossing_edges;
    double crossing; /* hops of that way between hosts */
};

static bool crosses(const struct plan_params *params, int a, int b)
{
    return params->layout && params->layout->host[a] != params->layout->host[b];
}

static void add_edge(struct load *load, const struct tree_job *job, bool crosses, bool to_parent)
{
    bool up = job->directions & TREE_UP, down = job->directions & TREE_DOWN;

    load->up[crosses] += up;
    load->down[crosses] += down;
    load->puts[crosses] += to_parent ? up : down;
    load->gets += crosses && (to_parent ? down : up);
}

static struct load load_of(const struct plan_params *params, const struct tree_job *job,
                           tree_of_fn tree_of, struct span *span)
{
    struct load load = {.folded = 0};
    bool up = job->directions & TREE_UP;

    for (int t = 0; t < job->ntrees; t++) {
        struct tree tree = tree_of(params, t);

        if (tree.parent >= 0) {
            bool crossing = crosses(params, params->rank, tree.parent);

            add_edge(&load, job, crossing, true);
            span->depth = tree.depth > span->depth ? tree.depth : span->depth;
            span->crossing_edges += crossing;
        }
        for (int i = 0; i < tree.nchildren; i++)
            add_edge(&load, job, crosses(params, params->rank, tree.children[i]), false);
        load.folded += up && tree.nchildren > 0 ? tree.nchildren + 2 : 0;
    }
    return load;
}

static void most(double *so_far, double value)
{
    *so_far = value > *so_far ? value : *so_far;
}

static struct span span_of(const struct plan_params *params, const struct tree_job *job,
                           tree_of_fn tree_of)
{
    const struct plan_layout *l = params->layout;
    struct span span = {.depth = 0};
    double out = 0, in = 0;

    for (int i = 0; i < params->nranks; i++) {
        struct plan_params of_rank = *params;
        struct load load;

        of_rank.rank = l ? l->ranks[i] : i;
        load = load_of(&of_rank, job, tree_of, &span);
        for (int k = 0; k < 2; k++) {
            most(&span.busiest.up[k], load.up[k]);
            most(&span.busiest.down[k], load.down[k]);
            most(&span.busiest.puts[k], load.puts[k]);
        }
        most(&span.busiest.folded, load.folded);
        if (i > 0 && crosses(params, of_rank.rank, l ? l->ranks[i - 1] : i - 1))
            out = in = 0; /* of the next host */
        out += load.puts[1];
        in += load.gets;
        most(&span.host_puts, out > in ? out : in);
    }
    span.crossing = job->max_children == 1 ? span.crossing_edges
                    : l                    ? l->crossing[PLAN_TALKS_IN_TREE].steps * span.depth
                                           : 0;
    return span;
}

/*
 * A pipeline of p pieces over d hops takes d hops, latency and all, for the first piece, and for each of the other p - 1
 * what the busiest rank or port has to do for one (Sanders, Speck, Traff 2009). Only that overlaps.
 *
 * Two trees do not overlap: a rank inside one waits in a turn for leaves that are inside the other and wait for it there, so
 * that each piece takes three times the depth in hops, as simulated. And where ranks share cores, what goes one way only fills
 * while others work.
 */
struct algo_cost tree_cost(const struct plan_params *params, const struct tree_job *job,
                           tree_of_fn tree_of)
{
    struct span span = span_of(params, job, tree_of);
    const struct load *busiest = &span.busiest;
    struct algo_cost cost = {0};
    struct pipeline p;
    pipeline_init(&p, params, job);
    bool both = job->directions == (TREE_UP | TREE_DOWN), up = job->directions & TREE_UP;
    bool two = job->ntrees > 1, fills = both || params->ranks_per_core <= 1;
    double pieces = p.most_pieces > 0 ? (double)p.most_pieces : 1, others = pieces - 1;
    double credits = pieces > TREE_SLOTS ? pieces - TREE_SLOTS : 0;
    double ways = two ? 3 * pieces : both ? 2 : 1, overlapping = two ? 0 : others;
    double piece = (double)job->trees[0].bytes / pieces, turns;
    double messages[2], puts[2], hops[2] = {span.depth - span.crossing, span.crossing};
    if (job->collector >= 0)
        hops[crosses(params, params->nranks - 1, job->collector)]++;
    for (int k = 0; k < 2; k++) {
        double up_edges = busiest->up[k], edges = both ? up_edges : up_edges + busiest->down[k];
        messages[k] = 2 * edges + 2 * ways * hops[k] +
                      overlapping * (busiest->up[k] + busiest->down[k]) + credits * up_edges;
        puts[k] = ways * (fills || hops[k] < 1 ? hops[k] : 1) + overlapping * busiest->puts[k];
    }
    turns = pieces + (both ? 2 : 1) * job->max_depth;
    cost.steps = ways * hops[0] + (span.crossing == 0);
    cost.turns = (both ? 1 : ALGO_TURNS_ONE_WAY) * (1 + turns);
    cost.messages = messages[0];
    cost.passed_bytes = 2 * piece * puts[0];
    if (up &&
        span.depth > 0) /* two operands and a result while it fills, then those of the busiest */
        cost.reduced_bytes =
            (two ? 2 : 1) * piece * (3.0 * (fills ? span.depth - 1 : 0) + pieces * busiest->folded);
    if (span.crossing_edges == 0)
        return cost;
    cost.turns *= hops[0] / (hops[0] + hops[1]);
    cost.net_steps = ways * hops[1] + 1;
    cost.net_messages = messages[1];
    cost.net_bytes = piece * puts[1];
    cost.port_bytes = piece * (ways * hops[1] + others * span.host_puts);
    cost.overlap = overlapping * busiest->puts[1] / puts[1];
    return cost;
}

struct tree tree_chain(const struct plan_params *params, int which)
{
    (void)which;
    int rank = params->rank, n = params->nranks;
    return (struct tree){.parent = rank == n - 1 ? -1 : rank + 1,
                         .depth = n - 1 - rank,
                         .nchildren = rank > 0 ? 1 : 0,
                         .children = {rank - 1},
                         .bytes = algo_count_bytes(params)};
}
