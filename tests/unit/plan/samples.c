/* Plans by hand: see samples.h. */
#include "samples.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 16u /* bytes: two uint64 */

static void begin(struct sample *sample, int n, enum collective collective, uint64_t chunks,
                  bool peer_access)
{
    struct plan_params params = {.collective = collective,
                                 .nranks = n,
                                 .count = chunks * CHUNK / 8,
                                 .dtype = THRUM_UINT64,
                                 .redop = THRUM_AVG,
                                 .peer_access = peer_access,
                                 .lanes = 1,
                                 .scratch_bytes = 256};

    *sample = (struct sample){.n = n};
    for (params.rank = 0; params.rank < n; params.rank++) {
        plan_init(&sample->plans[params.rank], &params);
        sample->plans[params.rank].algorithm = "sample";
    }
}

void sample_fini(struct sample *sample)
{
    for (int r = 0; r < sample->n; r++)
        plan_fini(&sample->plans[r]);
}

void sample_inline(struct sample *sample, int n)
{
    begin(sample, n, COLL_ALLREDUCE, 1, true);
    for (int r = 0; r < n; r++) {
        struct plan *plan = &sample->plans[r];
        struct plan_operand dst = plan_at(PLAN_RECV, r, 0), srcs[SAMPLE_MAX_RANKS];

        for (int i = 1; i < n; i++)
            plan_put_inline(plan, 0, (r + i) % n, plan_at(PLAN_SEND, r, 0), CHUNK);
        for (int i = 1; i < n; i++)
            plan_wait_inline(plan, 0, (r + i) % n, CHUNK);
        for (int i = 0; i < n; i++)
            srcs[i] = i == r ? plan_at(PLAN_SEND, r, 0) : plan_at(PLAN_LINE, r, (uint64_t)i);
        plan_reduce(plan, 0, PLAN_FINAL, &dst, 1, srcs, n, CHUNK);
    }
}

void sample_direct(struct sample *sample, int n)
{
    begin(sample, n, COLL_ALLREDUCE, (uint64_t)n, true);
    for (int r = 0; r < n; r++) {
        struct plan *plan = &sample->plans[r];
        struct plan_operand dsts[SAMPLE_MAX_RANKS], srcs[SAMPLE_MAX_RANKS];

        for (int i = 1; i < n; i++)
            plan_arrive(plan, 0, (r + i) % n);
        for (int i = 1; i < n; i++)
            plan_wait_arrival(plan, 0, (r + i) % n);
        for (int i = 0; i < n; i++) {
            dsts[i] = plan_at(PLAN_RECV, i, (uint64_t)r * CHUNK);
            srcs[i] = plan_at(PLAN_SEND, i, (uint64_t)r * CHUNK);
        }
        plan_reduce(plan, 0, PLAN_FINAL, dsts, n, srcs, n, CHUNK);
        for (int i = 1; i < n; i++)
            plan_signal(plan, 0, (r + i) % n, 1);
        for (int i = 1; i < n; i++)
            plan_wait(plan, 0, (r + i) % n, 1);
    }
}

static uint64_t chunk(int n, int index)
{
    return (uint64_t)((index % n + n) % n) * CHUNK;
}

/* Partial sums of chunk c gather from rank c to rank c - 1, then the result goes around. */
static void ring_of(struct plan *plan, int n, int r)
{
    int next = (r + 1) % n, previous = (r + n - 1) % n;

    plan_arrive(plan, 0, previous);
    plan_wait_arrival(plan, 0, next);
    for (int s = 0; s < n - 1; s++) {
        uint64_t in = chunk(n, r - s - 1), out = chunk(n, r - s);
        struct plan_operand dst = plan_at(PLAN_RECV, r, in);
        struct plan_operand srcs[] = {plan_at(PLAN_SCRATCH, r, (uint64_t)s * CHUNK),
                                      plan_at(PLAN_SEND, r, in)};

        plan_put(plan, 0, next, plan_at(PLAN_SCRATCH, next, (uint64_t)s * CHUNK),
                 plan_at(s ? PLAN_RECV : PLAN_SEND, r, out), CHUNK, (uint64_t)s + 1);
        plan_wait(plan, 0, previous, (uint64_t)s + 1);
        plan_reduce(plan, 0, s == n - 2 ? PLAN_FINAL : 0, &dst, 1, srcs, 2, CHUNK);
    }
    for (int s = 0; s < n - 1; s++) {
        uint64_t out = chunk(n, r + 1 - s), value = (uint64_t)(n + s);

        plan_put(plan, 0, next, plan_at(PLAN_RECV, next, out), plan_at(PLAN_RECV, r, out), CHUNK,
                 value);
        plan_wait(plan, 0, previous, value);
    }
}

void sample_ring(struct sample *sample, int n)
{
    begin(sample, n, COLL_ALLREDUCE, (uint64_t)n, false);
    for (int r = 0; r < n; r++)
        ring_of(&sample->plans[r], n, r);
}

#define PIPELINE_CHUNKS 6

void sample_pipeline(struct sample *sample, int stages, int slots, int credit)
{
    struct plan *sender = &sample->plans[0], *receiver = &sample->plans[1];

    begin(sample, 2, COLL_BROADCAST, PIPELINE_CHUNKS, false);
    plan_copy(sender, 0, plan_at(PLAN_RECV, 0, 0), plan_at(PLAN_SEND, 0, 0),
              PIPELINE_CHUNKS * CHUNK);
    plan_wait(sender, 0, 1, 1); /* it has started */
    plan_signal(receiver, 0, 0, 1);
    for (int c = 0; c < PIPELINE_CHUNKS; c++) {
        uint64_t at = (uint64_t)c * CHUNK, stage = (uint64_t)(c % stages) * CHUNK,
                 slot = (uint64_t)(c % slots) * CHUNK;

        if (c >= credit)
            plan_wait(sender, 0, 1, (uint64_t)(c - credit) + 2);
        plan_copy(sender, 0, plan_at(PLAN_SCRATCH, 0, stage), plan_at(PLAN_SEND, 0, at), CHUNK);
        plan_put(sender, 0, 1, plan_at(PLAN_SCRATCH, 1, slot), plan_at(PLAN_SCRATCH, 0, stage),
                 CHUNK, (uint64_t)c + 1);
        plan_wait(receiver, 0, 0, (uint64_t)c + 1);
        plan_copy(receiver, 0, plan_at(PLAN_RECV, 1, at), plan_at(PLAN_SCRATCH, 1, slot), CHUNK);
        plan_signal(receiver, 0, 0, (uint64_t)c + 2);
    }
    plan_wait(sender, 0, 1, PIPELINE_CHUNKS + 1);
}

/* ---- mutations --------------------------------------------------------------------------------------------------- */

size_t sample_find(const struct plan *plan, enum plan_opcode opcode, unsigned flags, int nth)
{
    for (size_t i = 0; i < plan->nops; i++)
        if (plan->ops[i].opcode == opcode && plan->ops[i].flags == flags && nth-- == 0)
            return i;
    abort();
}

void sample_delete(struct plan *plan, size_t op)
{
    memmove(plan->ops + op, plan->ops + op + 1, (plan->nops - op - 1) * sizeof *plan->ops);
    plan->nops--;
}

void sample_move(struct plan *plan, size_t op, size_t to)
{
    struct plan_op moved = plan->ops[op];

    sample_delete(plan, op);
    memmove(plan->ops + to + 1, plan->ops + to, (plan->nops - to) * sizeof *plan->ops);
    plan->ops[to] = moved;
    plan->nops++;
}
