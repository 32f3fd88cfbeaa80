/* The oracle of check_fuzz_test: see oracle.h. */
#include "oracle.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RANKS 8
#define LANES PLAN_MAX_LANES
#define FINAL_FACTOR 0x9e3779b97f4a7c15u /* REDUCE|FINAL multiplies by it, as AVG would divide */

struct buffer {
    uint64_t *at;
    uint64_t bytes;
};

/* What is under way from one rank to another in one lane, in order. */
struct channel {
    const struct plan_op *ops[256];
    const struct plan_operand *operands[256];
    uint64_t values[256]; /* absolute */
    unsigned first, n;
    uint64_t done; /* elements of the first */
};

struct line_slot {
    uint64_t sequence;
    uint64_t data[ORACLE_LINE_BYTES / 8];
};

struct actor_rank {
    struct buffer spaces[3]; /* by enum plan_space */
    uint64_t *owned[3];
    uint64_t *before; /* RECV as it was when the plan began */
    int round; /* == rounds: finished */
    size_t next[LANES];
    uint64_t done[LANES]; /* elements of the lane's op */
    uint64_t raise_max[MAX_RANKS][LANES], wait_max[MAX_RANKS][LANES];
    uint64_t scratch_used; /* bytes: up to the highest that any plan names */
};

struct oracle {
    const struct plan *plans;
    int n, rounds;
    uint64_t random;
    struct actor_rank ranks[MAX_RANKS];
    struct channel channels[MAX_RANKS][MAX_RANKS][LANES]; /* from, to, lane */
    uint64_t semaphores[MAX_RANKS][MAX_RANKS][LANES]; /* to, from, lane */
    struct line_slot lines[MAX_RANKS][MAX_RANKS][PLAN_CHECK_ROUNDS];
    bool wrong;
};

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t draw(struct oracle *o)
{
    return o->random = mix(o->random);
}

static uint64_t input(int rank, int round, uint64_t element)
{
    return mix(((uint64_t)rank << 48) ^ ((uint64_t)round << 40) ^ element);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void lay_out(struct oracle *o, int rank)
{
    const struct plan_params *p = &o->plans[rank].params;
    struct actor_rank *a = &o->ranks[rank];
    uint64_t bytes[3] = {plan_send_bytes(p, rank), plan_recv_bytes(p, rank), p->scratch_bytes};
    uint64_t block = p->count * (uint64_t)rank;
    bool root = rank == p->root;

    for (int s = 0; s < 3; s++) {
        a->owned[s] = calloc(bytes[s] / 8 + 1, 8);
        a->spaces[s] = (struct buffer){a->owned[s], bytes[s]};
    }
    a->before = calloc(bytes[PLAN_RECV] / 8 + 1, 8);
    if (!p->in_place)
        return;
    if (p->collective == COLL_ALLGATHER || (p->collective == COLL_GATHER && root))
        a->spaces[PLAN_SEND].at = a->owned[PLAN_RECV] + block;
    else if (p->collective == COLL_REDUCE_SCATTER || (p->collective == COLL_SCATTER && root))
        a->spaces[PLAN_RECV].at = a->owned[PLAN_SEND] + block;
    else if (p->collective == COLL_ALLREDUCE || p->collective == COLL_SCAN ||
             p->collective == COLL_EXSCAN ||
             (root && (p->collective == COLL_BROADCAST || p->collective == COLL_REDUCE)))
        a->spaces[PLAN_SEND].at = a->owned[PLAN_RECV];
}

/* New input; rubbish everywhere else. */
static void fill(struct oracle *o, int rank)
{
    struct actor_rank *a = &o->ranks[rank];

    for (uint64_t i = 0; i < a->spaces[PLAN_RECV].bytes / 8; i++)
        a->spaces[PLAN_RECV].at[i] = draw(o);
    for (uint64_t i = 0; i < a->scratch_used / 8; i++)
        a->spaces[PLAN_SCRATCH].at[i] = draw(o);
    for (uint64_t i = 0; i < a->spaces[PLAN_SEND].bytes / 8; i++)
        a->spaces[PLAN_SEND].at[i] = input(rank, a->round, i);
    memcpy(a->before, a->spaces[PLAN_RECV].at, a->spaces[PLAN_RECV].bytes);
}

static uint64_t *element(struct oracle *o, int rank, const struct plan_operand *operand, uint64_t i)
{
    static uint64_t nowhere;
    const struct buffer *b;
    unsigned space = operand->space == PLAN_WIDE ? PLAN_SCRATCH : operand->space; /* as wide */

    if (operand->space == PLAN_LINE && operand->offset < (uint64_t)o->n)
        return &o->lines[rank][operand->offset][o->ranks[rank].round % PLAN_CHECK_ROUNDS].data[i];
    if (space > PLAN_SCRATCH || operand->rank < 0 || operand->rank >= o->n) {
        o->wrong = true;
        return &nowhere;
    }
    b = &o->ranks[operand->rank].spaces[space];
    if (operand->offset % 8 || operand->offset > b->bytes ||
        i * 8 + 8 > b->bytes - operand->offset) {
        o->wrong = true;
        return &nowhere;
    }
    return b->at + operand->offset / 8 + i;
}

static uint64_t expected_reduction(int ranks, int round, uint64_t i)
{
    uint64_t sum = 0;

    for (int r = 0; r < ranks; r++)
        sum += input(r, round, i);
    return ranks > 1 ? sum * FINAL_FACTOR : sum;
}

/* What element i of RECV shall be. */
static uint64_t expected(const struct oracle *o, int rank, uint64_t i)
{
    const struct plan_params *p = &o->plans[rank].params;
    const struct actor_rank *a = &o->ranks[rank];
    uint64_t own = p->count * (uint64_t)rank;
    int from = (int)(i / p->count);

    switch (p->collective) {
    case COLL_ALLREDUCE:
    case COLL_REDUCE:
        return expected_reduction(o->n, a->round, i);
    case COLL_REDUCE_SCATTER:
        return expected_reduction(o->n, a->round, own + i);
    case COLL_SCAN:
        return expected_reduction(rank + 1, a->round, i);
    case COLL_EXSCAN:
        return rank ? expected_reduction(rank, a->round, i) : a->before[i];
    case COLL_BROADCAST:
        return input(p->root, a->round, i);
    case COLL_SCATTER:
        return input(p->root, a->round, own + i);
    case COLL_ALLGATHER:
    case COLL_GATHER:
        return input(from, a->round, i % p->count);
    case COLL_ALLTOALL:
        return input(from, a->round, own + i % p->count);
    default:
        return 0;
    }
}

static void check_output(struct oracle *o, int rank)
{
    const struct actor_rank *a = &o->ranks[rank];

    for (uint64_t i = 0; i < a->spaces[PLAN_RECV].bytes / 8; i++)
        if (expected(o, rank, i) != a->spaces[PLAN_RECV].at[i])
            o->wrong = true;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void move_element(struct oracle *o, int rank, const struct plan_op *op,
                         const struct plan_operand *operands, uint64_t i)
{
    uint64_t value = 0;

    for (unsigned s = 0; s < op->nsrc; s++)
        value += *element(o, rank, &operands[op->ndst + s], i);
    if (op->flags & PLAN_FINAL && (op->value ? op->value : (uint64_t)o->n) > 1)
        value *= FINAL_FACTOR;
    for (unsigned d = 0; d < op->ndst; d++)
        *element(o, rank, &operands[d], i) = value;
}

/* Moves one element, or the signal, of the first thing in the channel. False: it is empty. */
static bool step_channel(struct oracle *o, int from, int to, int lane)
{
    struct channel *c = &o->channels[from][to][lane];
    const struct plan_op *op = c->ops[c->first % 256];

    if (!c->n)
        return false;
    if (op->opcode == PLAN_PUT && c->done < op->bytes / 8) {
        move_element(o, from, op, c->operands[c->first % 256], c->done++);
        return true;
    }
    if (op->value)
        o->semaphores[to][from][lane] = c->values[c->first % 256];
    c->first++;
    c->n--;
    c->done = 0;
    return true;
}

static bool send(struct oracle *o, int rank, const struct plan_op *op,
                 const struct plan_operand *operands)
{
    struct channel *c = &o->channels[rank][op->peer][op->lane];
    unsigned slot = (c->first + c->n) % 256;

    if (c->n == 256)
        return false;
    c->ops[slot] = op;
    c->operands[slot] = operands;
    c->values[slot] =
        (uint64_t)o->ranks[rank].round * o->ranks[rank].raise_max[op->peer][op->lane] + op->value;
    c->n++;
    return true;
}

static void send_line(struct oracle *o, int rank, const struct plan_op *op,
                      const struct plan_operand *operands)
{
    struct line_slot *slot = &o->lines[op->peer][rank][o->ranks[rank].round % PLAN_CHECK_ROUNDS];

    for (uint64_t i = 0; op->nsrc && i < op->bytes / 8; i++)
        slot->data[i] = *element(o, rank, operands, i);
    slot->sequence = (uint64_t)o->ranks[rank].round + 1;
}

static bool step_op(struct oracle *o, int rank, const struct plan_op *op,
                    const struct plan_operand *operands)
{
    struct actor_rank *a = &o->ranks[rank];
    bool line = op->flags & (PLAN_ARRIVE | PLAN_INLINE);

    switch (op->opcode) {
    case PLAN_WAIT:
        if (line)
            return o->lines[rank][op->peer][a->round % PLAN_CHECK_ROUNDS].sequence == (uint64_t)a->round + 1;
        return o->semaphores[rank][op->peer][op->lane] >=
               (uint64_t)a->round * a->wait_max[op->peer][op->lane] + op->value;
    case PLAN_SIGNAL:
    case PLAN_PUT:
        if (!line)
            return send(o, rank, op, operands);
        send_line(o, rank, op, operands);
        return true;
    default:
        move_element(o, rank, op, operands, a->done[op->lane]);
        return true;
    }
}

static size_t seek(const struct plan *plan, size_t from, int lane)
{
    while (from < plan->nops && plan->ops[from].lane != lane)
        from++;
    return from;
}

static bool step_lane(struct oracle *o, int rank, int lane)
{
    const struct plan *plan = &o->plans[rank];
    struct actor_rank *a = &o->ranks[rank];
    const struct plan_op *op;

    if (a->round == o->rounds || a->next[lane] == plan->nops)
        return false;
    op = &plan->ops[a->next[lane]];
    if (!step_op(o, rank, op, plan->operands + op->first_operand))
        return false;
    if (op->opcode <= PLAN_REDUCE && ++a->done[lane] < op->bytes / 8)
        return true;
    a->done[lane] = 0;
    a->next[lane] = seek(plan, a->next[lane] + 1, lane);
    return true;
}

static void begin(struct oracle *o, int rank)
{
    for (int lane = 0; lane < LANES; lane++)
        o->ranks[rank].next[lane] = seek(&o->plans[rank], 0, lane);
    fill(o, rank);
}

/* The end of a plan, once all lanes are through and the rank's own PUTs have read their sources. */
static bool step_end(struct oracle *o, int rank)
{
    struct actor_rank *a = &o->ranks[rank];

    if (a->round == o->rounds)
        return false;
    for (int lane = 0; lane < LANES; lane++) {
        if (a->next[lane] < o->plans[rank].nops)
            return false;
        for (int to = 0; to < o->n; to++)
            if (o->channels[rank][to][lane].n)
                return false;
    }
    check_output(o, rank);
    a->round++;
    begin(o, rank);
    return true;
}

/* ---- the schedule ------------------------------------------------------------------------------------------------ */

static bool step(struct oracle *o, unsigned actor)
{
    unsigned n = (unsigned)o->n, lanes = n * LANES, channels = n * n * LANES;

    if (actor < lanes)
        return step_lane(o, (int)(actor / LANES), (int)(actor % LANES));
    actor -= lanes;
    if (actor < channels)
        return step_channel(o, (int)(actor / LANES / n), (int)(actor / LANES % n),
                            (int)(actor % LANES));
    return step_end(o, (int)(actor - channels));
}

static void shuffle(struct oracle *o, unsigned *order, unsigned n)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned k = (unsigned)(draw(o) % i), swap = order[i - 1];

        order[i - 1] = order[k];
        order[k] = swap;
    }
}

/* Strict priorities, drawn again now and then, so that some actors lag far behind. */
static void run(struct oracle *o)
{
    unsigned actors = (unsigned)o->n * (LANES + (unsigned)o->n * LANES + 1), order[1024];
    uint64_t patience = 1 + draw(o) % 64;
    bool moved = true;

    for (unsigned i = 0; i < actors; i++)
        order[i] = i;
    while (moved && !o->wrong) {
        if (draw(o) % patience == 0)
            shuffle(o, order, actors);
        moved = false;
        for (unsigned i = 0; i < actors && !moved; i++)
            moved = step(o, order[i]);
    }
}

static void note_scratch(struct oracle *o, const struct plan_op *op,
                         const struct plan_operand *operands)
{
    for (unsigned i = 0; i < (unsigned)op->ndst + op->nsrc; i++) {
        struct actor_rank *a = &o->ranks[(unsigned)operands[i].rank % MAX_RANKS];
        uint64_t end = operands[i].offset + op->bytes;

        if ((operands[i].space == PLAN_SCRATCH || operands[i].space == PLAN_WIDE) &&
            end > a->scratch_used && end <= a->spaces[PLAN_SCRATCH].bytes)
            a->scratch_used = end;
    }
}

static void note_limits(struct oracle *o, int rank)
{
    for (size_t i = 0; i < o->plans[rank].nops; i++) {
        const struct plan_op *op = &o->plans[rank].ops[i];
        uint64_t *max = NULL;

        note_scratch(o, op, o->plans[rank].operands + op->first_operand);
        if (op->opcode == PLAN_WAIT)
            max = &o->ranks[rank].wait_max[op->peer][op->lane];
        else if (op->opcode >= PLAN_PUT)
            max = &o->ranks[rank].raise_max[op->peer][op->lane];
        if (max && *max < op->value)
            *max = op->value;
    }
}

enum oracle_verdict oracle_run(const struct plan *plans, int nranks, int rounds, uint64_t seed)
{
    struct oracle *o = calloc(1, sizeof *o);
    enum oracle_verdict verdict = ORACLE_RIGHT;

    o->plans = plans;
    o->n = nranks;
    o->rounds = rounds;
    o->random = seed;
    for (int r = 0; r < nranks; r++)
        lay_out(o, r);
    for (int r = 0; r < nranks; r++)
        note_limits(o, r);
    for (int r = 0; r < nranks; r++)
        begin(o, r);
    run(o);
    for (int r = 0; r < nranks; r++) {
        if (o->ranks[r].round < rounds)
            verdict = ORACLE_STUCK;
        for (int s = 0; s < 3; s++)
            free(o->ranks[r].owned[s]);
        free(o->ranks[r].before);
    }
    if (o->wrong)
        verdict = ORACLE_WRONG;
    free(o);
    return verdict;
}
