/*
 * plan_check: runs the plans of all ranks against each other, symbolically, and proves what plan.h promises. Called by
 * thrum-plan --check and by tests; docs/plan.md explains why one execution is enough.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

bool check_no_memory(struct check *check)
{
    if (!check->status)
        check->status =
            thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to check plans of %d ranks", check->n);
    return false;
}

bool check_grow(void **array, size_t *capacity, size_t wanted, size_t item_bytes)
{
    size_t larger = max_u64(wanted, *capacity * 2);
    void *moved;

    if (wanted <= *capacity)
        return true;
    if (larger < 8)
        larger = 8;
    moved = realloc(*array, larger * item_bytes);
    if (!moved)
        return false;
    *array = moved;
    *capacity = larger;
    return true;
}

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

static void join(const struct check *check, uint32_t *into, const uint32_t *from)
{
    for (uint32_t i = 0; i < check->threads; i++)
        into[i] = into[i] > from[i] ? into[i] : from[i];
}

/* A copy of the thread's clock, for whoever waits; what the thread does next is not in it. */
static bool release(struct check *check, uint32_t thread, uint32_t *clock_out)
{
    uint32_t *clock = check_clock(check, thread);
    size_t bytes = check->threads * sizeof *clock;

    if (!check->free_clocks.n) {
        uint32_t *fresh = malloc(bytes);

        if (!fresh || !VECTOR_RESERVE(&check->clock_pool, check->clock_pool.n + 1) ||
            !VECTOR_RESERVE(&check->free_clocks, check->clock_pool.n + 1)) {
            free(fresh);
            return check_no_memory(check);
        }
        check->free_clocks.at[check->free_clocks.n++] = (uint32_t)check->clock_pool.n;
        check->clock_pool.at[check->clock_pool.n++] = fresh;
    }
    *clock_out = check->free_clocks.at[--check->free_clocks.n];
    memcpy(check->clock_pool.at[*clock_out], clock, bytes);
    clock[thread]++;
    return true;
}

/* Room is there: free_clocks can hold the whole pool. */
static void give_back_clock(struct check *check, uint32_t clock)
{
    check->free_clocks.at[check->free_clocks.n++] = clock;
}

/* ---- who may run ------------------------------------------------------------------------------------------------- */

static bool wake(struct check *check, uint32_t thread)
{
    if (!check->lane_of[thread].blocked)
        return true;
    check->lane_of[thread].blocked = false;
    if (!VECTOR_RESERVE(&check->runnable, check->runnable.n + 1))
        return check_no_memory(check);
    check->runnable.at[check->runnable.n++] = thread;
    return true;
}

/* ---- signals and waits ------------------------------------------------------------------------------------------- */

static struct semaphore *semaphore_of(const struct check *check, int to, int from, int lane)
{
    size_t slot =
        ((size_t)to * (size_t)check->n + (size_t)from) * (size_t)check->lanes + (size_t)lane;

    return &check->semaphores.at[check->semaphore_of[slot] - 1];
}

static struct line *line_of(const struct check *check, int to, int from)
{
    return &check->lines.at[check->line_of[(size_t)to * (size_t)check->n + (size_t)from] - 1];
}

static uint64_t absolute(const struct check *check, const struct semaphore *semaphore,
                         uint64_t value)
{
    return check->round * semaphore->raise_max + value;
}

static bool new_raise(struct check *check, uint32_t *id_out)
{
    if (check->free_raises.n) {
        *id_out = check->free_raises.at[--check->free_raises.n];
        return true;
    }
    if (!VECTOR_RESERVE(&check->raises, check->raises.n + 1) ||
        !VECTOR_RESERVE(&check->free_raises, check->raises.n + 1))
        return check_no_memory(check);
    check->raises.n++;
    *id_out = (uint32_t)check->raises.n;
    return true;
}

/* `puts`: those that the raise tells about. */
static bool raise_semaphore(struct check *check, uint32_t thread, struct semaphore *s,
                            uint64_t value, uint32_t puts)
{
    uint32_t id = 0, clock = 0;

    if (!release(check, thread, &clock) || !new_raise(check, &id))
        return false;
    s->raised = absolute(check, s, value);
    check->raises.at[id - 1] = (struct raise){.value = s->raised, .clock = clock, .puts = puts};
    if (s->last_raise)
        check->raises.at[s->last_raise - 1].next = id;
    else
        s->first_raise = id;
    s->last_raise = id;
    return wake(check, check_thread(check, s->to, s->lane));
}

/* The receiver knows of these PUTs from now on. */
static void receive_puts(struct check *check, uint32_t puts, uint32_t epoch)
{
    for (; puts; puts = check->puts.at[puts - 1].next)
        check->puts.at[puts - 1].epoch = epoch;
}

/*
 * Done if raised so far, else the lane blocks. The first raise that is high enough is all that a WAIT can be sure of,
 * so only what is known up to it is taken over, however far the semaphore has come.
 */
static bool wait_semaphore(struct check *check, uint32_t thread, struct semaphore *s,
                           uint64_t value)
{
    uint32_t *clock = check_clock(check, thread);
    uint64_t wanted = absolute(check, s, value);

    if (s->raised < wanted)
        return false;
    while (s->seen < wanted) {
        uint32_t id = s->first_raise;
        struct raise *raise = &check->raises.at[id - 1];

        s->seen = raise->value;
        join(check, clock, check->clock_pool.at[raise->clock]);
        receive_puts(check, raise->puts, clock[thread]);
        s->first_raise = raise->next;
        if (!raise->next)
            s->last_raise = 0;
        give_back_clock(check, raise->clock);
        check->free_raises.at[check->free_raises.n++] = id;
    }
    return true;
}

static bool send_line(struct check *check, uint32_t thread, struct line *line)
{
    uint32_t slot = check->round & 1;

    if (line->sent_round[slot])
        give_back_clock(check, line->clock[slot]);
    if (!release(check, thread, &line->clock[slot]))
        return false;
    line->sent_round[slot] = check->round + 1;
    for (int lane = 0; lane < check->lanes; lane++)
        if (!wake(check, check_thread(check, line->to, lane)))
            return false;
    return true;
}

/* False: not there yet. */
static bool wait_line(struct check *check, uint32_t thread, struct line *line)
{
    uint32_t slot = check->round & 1, *clock = check_clock(check, thread);

    if (line->sent_round[slot] != check->round + 1)
        return false;
    join(check, clock, check->clock_pool.at[line->clock[slot]]);
    line->waited[thread % (uint32_t)check->lanes].epoch = clock[thread];
    line->waited[thread % (uint32_t)check->lanes].round = check->round;
    return true;
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

struct step {
    uint32_t thread;
    int rank;
    size_t index;
    const struct plan_op *op;
    const struct plan_operand *operands;
    struct access access;
};

/* Has the line of `from` been waited for, by a lane that is ordered before this op? */
static bool line_is_known(const struct check *check, const struct step *step, int from)
{
    const uint32_t *clock = check_clock(check, step->thread);
    uint32_t id = check->line_of[(size_t)step->rank * (size_t)check->n + (size_t)from];

    for (int lane = 0; id && lane < check->lanes; lane++) {
        const struct line *line = &check->lines.at[id - 1];
        uint32_t epoch = line->waited[lane].epoch;

        if (epoch && line->waited[lane].round == check->round &&
            clock[check_thread(check, step->rank, lane)] >= epoch)
            return true;
    }
    return false;
}

static bool report_step(struct check *check, const struct step *step)
{
    report_op(check, "op", step->rank, step->index, check->round);
    report_lane(check, step->thread);
    return false;
}

/* Rule 1 of plan.h, and the arrival before SEND and RECV. */
static bool check_remote(struct check *check, const struct step *step, const struct plan_operand *o)
{
    const uint32_t *clock = check_clock(check, step->thread);
    uint32_t lane0 = check_thread(check, o->rank, 0);
    const char *space = plan_space_name(o->space);

    if (clock[lane0] < *check_start(check, check->round, o->rank) ||
        check->ranks[o->rank].round < check->round) {
        report_begin(
            check,
            "rank %d op %zu touches %s of rank %d before its arrival: nothing orders it after "
            "that rank's start of this plan",
            step->rank, step->index, space, o->rank);
        return report_step(check, step);
    }
    if (o->space != PLAN_SCRATCH && !line_is_known(check, step, o->rank)) {
        report_begin(
            check,
            "rank %d op %zu names %s of rank %d before its arrival: no WAIT|ARRIVE has told "
            "where it is",
            step->rank, step->index, space, o->rank);
        return report_step(check, step);
    }
    if (check->ranks[o->rank].round > check->round || check->ranks[o->rank].finished) {
        report_begin(
            check,
            "rank %d op %zu touches %s of rank %d without a departure: that rank's plan can "
            "end before",
            step->rank, step->index, space, o->rank);
        report_lane(check, lane0);
        return report_step(check, step);
    }
    if (step->op->opcode != PLAN_PUT)
        check->remote[(size_t)o->rank * check->threads + step->thread] =
            (struct remote_access){step->access.epoch, (uint32_t)step->index, check->round};
    return true;
}

static bool gather_line(struct check *check, const struct step *step, const struct plan_operand *o,
                        pieces_t *pieces)
{
    const struct line *line = line_of(check, step->rank, (int)o->offset);
    const pieces_t *data = &line->pieces[check->round & 1];
    uint64_t left = step->op->bytes;

    if (!line_is_known(check, step, line->from)) {
        report_begin(check, "rank %d op %zu reads the LINE of rank %d before it has waited for it",
                     step->rank, step->index, line->from);
        return report_step(check, step);
    }
    for (size_t i = 0; i < data->n && left; i++) {
        struct piece piece = data->at[i];

        piece.bytes = min_u64(piece.bytes, left);
        left -= piece.bytes;
        if (!VECTOR_RESERVE(pieces, pieces->n + 1))
            return check_no_memory(check);
        pieces->at[pieces->n++] = piece;
    }
    return true;
}

static bool gather(struct check *check, const struct step *step, const struct plan_operand *o,
                   pieces_t *pieces)
{
    struct place place;

    pieces->n = 0;
    if (o->space == PLAN_LINE)
        return gather_line(check, step, o, pieces);
    if (o->rank != step->rank && !check_remote(check, step, o))
        return false;
    (void)check_locate(check, step->rank, o, step->op->bytes, &place);
    return memory_read(check, place, o, step->op->bytes, step->access, pieces);
}

/* check->gathered <- check->gathered op check->source, cut where either is. */
static bool fold_source(struct check *check, uint64_t bytes)
{
    size_t i = 0, k = 0;
    pieces_t swap;

    check->folded.n = 0;
    for (uint64_t at = 0; at < bytes;) {
        const struct piece *a = &check->gathered.at[i], *b = &check->source.at[k];
        uint64_t end = min_u64(a->offset + a->bytes, b->offset + b->bytes);
        uint64_t origin = a->origin + (at - a->offset);
        uint64_t shift = b->origin + (at - b->offset) - origin;
        uint32_t content;

        if (!content_fold(&check->contents, a->content, b->content, (int64_t)shift, &content) ||
            !VECTOR_RESERVE(&check->folded, check->folded.n + 1))
            return check_no_memory(check);
        check->folded.at[check->folded.n++] = (struct piece){at, end - at, origin, content};
        i += end == a->offset + a->bytes;
        k += end == b->offset + b->bytes;
        at = end;
    }
    swap = check->gathered;
    check->gathered = check->folded;
    check->folded = swap;
    return true;
}

static bool fold_sources(struct check *check, const struct step *step)
{
    bool final = step->op->flags & PLAN_FINAL;

    for (unsigned i = 1; i < step->op->nsrc; i++)
        if (!gather(check, step, &step->operands[step->op->ndst + i], &check->source) ||
            !fold_source(check, step->op->bytes))
            return false;
    for (size_t i = 0; i < check->gathered.n; i++) {
        uint32_t *content = &check->gathered.at[i].content;

        if (!content_finish(&check->contents, *content, final, content))
            return check_no_memory(check);
        if (final && !result_check_reduce(check, step->rank, step->index, *content))
            return false;
    }
    return true;
}

static bool scatter(struct check *check, const struct step *step)
{
    for (unsigned i = 0; i < step->op->ndst; i++) {
        const struct plan_operand *o = &step->operands[i];
        struct place place;

        if (o->rank != step->rank && !check_remote(check, step, o))
            return false;
        (void)check_locate(check, step->rank, o, step->op->bytes, &place);
        if (!memory_write(check, place, o, &check->gathered, step->access))
            return false;
    }
    return true;
}

static bool put_inline(struct check *check, const struct step *step)
{
    struct line *line = line_of(check, step->op->peer, step->rank);
    pieces_t *data = &line->pieces[check->round & 1];

    data->n = 0;
    if (check->gathered.n) {
        if (!VECTOR_RESERVE(data, check->gathered.n))
            return check_no_memory(check);
        memcpy(data->at, check->gathered.at, check->gathered.n * sizeof *data->at);
        data->n = check->gathered.n;
    }
    return send_line(check, step->thread, line);
}

/* The PUT's number: its accesses are over when its receiver knows of it. */
static bool begin_put(struct check *check, struct step *step)
{
    if (!VECTOR_RESERVE(&check->puts, check->puts.n + 1))
        return check_no_memory(check);
    check->puts.at[check->puts.n++] =
        (struct put){.receiver = check_thread(check, step->op->peer, step->op->lane),
                     .sender = (uint32_t)step->rank,
                     .round = check->round};
    step->access.put = (uint32_t)check->puts.n;
    return true;
}

/* A PUT without a signal is told of by the next one that has one. */
static bool end_put(struct check *check, const struct step *step)
{
    const struct plan_op *op = step->op;
    struct semaphore *s = semaphore_of(check, op->peer, step->rank, op->lane);

    check->puts.at[step->access.put - 1].next = s->open_puts;
    s->open_puts = op->value ? 0 : step->access.put;
    return op->value ? raise_semaphore(check, step->thread, s, op->value, step->access.put) : true;
}

static bool move_data(struct check *check, struct step *step)
{
    const struct plan_op *op = step->op;
    bool is_put = op->opcode == PLAN_PUT && !(op->flags & PLAN_INLINE);

    if (is_put && !begin_put(check, step))
        return false;
    if (!gather(check, step, &step->operands[op->ndst], &check->gathered))
        return false;
    if (op->opcode == PLAN_REDUCE && !fold_sources(check, step))
        return false;
    if (op->flags & PLAN_INLINE)
        return put_inline(check, step);
    return scatter(check, step) && (!is_put || end_put(check, step));
}

/* ---- one rank's plan --------------------------------------------------------------------------------------------- */

/* All lanes know what any of them knows. */
static void join_lanes(struct check *check, int rank)
{
    uint32_t first = check_thread(check, rank, 0), *joined = check_clock(check, first);

    for (int lane = 1; lane < check->lanes; lane++)
        join(check, joined, check_clock(check, first + (uint32_t)lane));
    for (int lane = 0; lane < check->lanes; lane++)
        joined[first + (uint32_t)lane]++;
    for (int lane = 1; lane < check->lanes; lane++)
        memcpy(check_clock(check, first + (uint32_t)lane), joined, check->threads * sizeof *joined);
}

static bool start_plan(struct check *check, int rank, uint32_t round)
{
    struct rank_state *state = &check->ranks[rank];
    uint32_t first = check_thread(check, rank, 0);

    state->round = round;
    state->lanes_done = 0;
    *check_start(check, round, rank) = check_clock(check, first)[first];
    if (!memory_caller_write(check, rank, OP_BEFORE, round))
        return false;
    for (int lane = 0; lane < check->lanes; lane++) {
        uint32_t thread = first + (uint32_t)lane;

        check_clock(check, thread)[thread]++; /* the lanes part */
        check->lane_of[thread].next = 0;
        check->lane_of[thread].blocked = true;
        if (!wake(check, thread))
            return false;
    }
    return true;
}

/* Every access of others to this rank's memory is over for it. Those of PUTs are: it has waited for each. */
static bool check_departures(struct check *check, int rank, const uint32_t *clock)
{
    for (uint32_t thread = 0; thread < check->threads; thread++) {
        const struct remote_access *access = &check->remote[(size_t)rank * check->threads + thread];
        struct access last = {thread, access->epoch, access->op, access->round, 0};

        if (clock[thread] >= access->epoch)
            continue;
        report_begin(
            check,
            "missing departure: rank %d ends its plan while rank %d may still touch its memory",
            rank, check_rank_of(check, thread));
        report_access(check, "touched by", &last);
        report_lane(check, thread);
        report_lane(check, check_thread(check, rank, 0));
        return false;
    }
    return true;
}

/* Rule 2 of plan.h; of a barrier, that all have started. */
static bool check_started(struct check *check, int rank, const uint32_t *clock)
{
    bool barrier = check_params(check)->collective == COLL_BARRIER;

    for (int peer = 0; peer < check->n; peer++) {
        uint32_t id = check->line_of[(size_t)peer * (size_t)check->n + (size_t)rank];
        uint32_t start = *check_start(check, check->round, peer);
        bool sent = id && check->lines.at[id - 1].send_op != SIZE_MAX;

        if (peer == rank || !(sent || barrier) ||
            (start && clock[check_thread(check, peer, 0)] >= start))
            continue;
        if (barrier) {
            report_begin(
                check, "no barrier: rank %d ends its plan without knowing that rank %d has started",
                rank, peer);
        } else {
            report_begin(
                check,
                "rank %d has sent rank %d a line and ends its plan without knowing that rank %d "
                "has started: a third line could overwrite the first",
                rank, peer, peer);
            report_op(check, "line", rank, check->lines.at[id - 1].send_op, check->round);
        }
        report_lane(check, check_thread(check, rank, 0));
        return false;
    }
    return true;
}

/* The caller reads its results: nothing may still be writing them. */
static bool check_results(struct check *check, int rank)
{
    const struct plan_params *params = &check->plans[rank].params;
    uint32_t thread = check_thread(check, rank, 0);
    struct access access = {thread, check_clock(check, thread)[thread], OP_AFTER, check->round, 0};

    if (params->collective == COLL_SENDRECV) {
        for (int i = 0; i < params->np2p; i++) {
            struct plan_operand o = plan_at(PLAN_RECV, rank, params->p2p[i].offset);
            struct place place = {check->ranks[rank].first_store + 1 + (uint32_t)i, 0};

            if (!params->p2p[i].is_send &&
                !memory_read(check, place, &o, params->p2p[i].bytes, access, NULL))
                return false;
        }
    } else {
        struct plan_operand o = plan_at(PLAN_RECV, rank, 0);

        if (!memory_read(check, check->ranks[rank].recv, &o, plan_recv_bytes(params, rank), access,
                         NULL))
            return false;
    }
    return result_check(check, rank);
}

static bool end_plan(struct check *check, int rank)
{
    struct rank_state *state = &check->ranks[rank];
    uint32_t *clock = check_clock(check, check_thread(check, rank, 0));

    join_lanes(check, rank);
    if (!check_departures(check, rank, clock) || !check_started(check, rank, clock) ||
        !check_results(check, rank))
        return false;
    if (state->round + 1 < check->rounds)
        return start_plan(check, rank, state->round + 1);
    state->finished = true;
    *check_start(check, check->rounds, rank) = clock[check_thread(check, rank, 0)];
    return memory_caller_write(check, rank, OP_AFTER, state->round);
}

/* ---- the greedy run ---------------------------------------------------------------------------------------------- */

enum progress { STUCK, DONE, FAILED };

static enum progress execute(struct check *check, struct step *step)
{
    const struct plan_op *op = step->op;
    bool is_line = op->flags & (PLAN_ARRIVE | PLAN_INLINE), ok;

    if (op->opcode == PLAN_WAIT) {
        ok = is_line
                 ? wait_line(check, step->thread, line_of(check, step->rank, op->peer))
                 : wait_semaphore(check, step->thread,
                                  semaphore_of(check, step->rank, op->peer, op->lane), op->value);
        return ok ? DONE : STUCK;
    }
    if (op->opcode == PLAN_SIGNAL)
        ok = is_line ? send_line(check, step->thread, line_of(check, op->peer, step->rank))
                     : raise_semaphore(check, step->thread,
                                       semaphore_of(check, op->peer, step->rank, op->lane),
                                       op->value, 0);
    else
        ok = move_data(check, step);
    return ok ? DONE : FAILED;
}

/* Until it blocks or ends. */
static bool run_lane(struct check *check, uint32_t thread)
{
    struct lane *lane = &check->lane_of[thread];
    int rank = check_rank_of(check, thread);
    const struct plan *plan = &check->plans[rank];

    check->round = check->ranks[rank].round;
    for (; lane->next < lane->nops; lane->next++) {
        struct step step = {.thread = thread, .rank = rank, .index = lane->ops[lane->next]};
        uint32_t epoch = check_clock(check, thread)[thread];

        step.op = &plan->ops[step.index];
        step.operands =
            plan->operands + (step.op->ndst || step.op->nsrc ? step.op->first_operand : 0);
        step.access = (struct access){thread, epoch, (uint32_t)step.index, check->round, 0};
        switch (execute(check, &step)) {
        case STUCK:
            lane->blocked = true;
            return true;
        case FAILED:
            return false;
        case DONE:
            break;
        }
    }
    if (++check->ranks[rank].lanes_done < (uint32_t)check->lanes)
        return true;
    return end_plan(check, rank);
}

/* The lane that the blocked lane `thread` waits for. */
static uint32_t waits_for(const struct check *check, uint32_t thread)
{
    int rank = check_rank_of(check, thread);
    const struct lane *lane = &check->lane_of[thread];
    const struct plan_op *op = &check->plans[rank].ops[lane->ops[lane->next]];
    uint32_t other;

    if (op->flags & (PLAN_ARRIVE | PLAN_INLINE))
        other = check_thread(check, op->peer, line_of(check, rank, op->peer)->lane);
    else
        other = check_thread(check, op->peer, op->lane);
    if (check->lane_of[other].blocked)
        return other;
    /* It is through with an earlier round, which another lane of its rank cannot end. */
    for (int i = 0; i < check->lanes; i++)
        if (check->lane_of[check_thread(check, op->peer, i)].blocked)
            return check_thread(check, op->peer, i);
    return thread;
}

static void report_blocked(struct check *check, uint32_t thread, const char *label)
{
    int rank = check_rank_of(check, thread);
    const struct lane *lane = &check->lane_of[thread];

    report_op(check, label, rank, lane->ops[lane->next], check->ranks[rank].round);
}

#define MAX_REPORTED 16

/* Every blocked lane waits for another blocked one, so that following them ends in a cycle. */
static bool report_deadlock(struct check *check)
{
    uint32_t first = 0, blocked = 0, at, length = 0;

    for (uint32_t thread = 0; thread < check->threads; thread++)
        if (check->lane_of[thread].blocked) {
            first = thread;
            blocked++;
        }
    check->round = check->ranks[check_rank_of(check, first)].round;
    for (uint32_t i = 0; i < check->threads; i++)
        first = waits_for(check, first); /* now it is in the cycle */
    for (at = first; !length || at != first; at = waits_for(check, at))
        length++;
    report_begin(check, "deadlock: %" PRIu32 " lanes wait for ever; a cycle of %" PRIu32 ":",
                 blocked, length);
    at = first;
    for (uint32_t i = 0; i < length && i < MAX_REPORTED; i++, at = waits_for(check, at))
        report_blocked(check, at, "waits");
    at = first;
    for (uint32_t i = 0; i < length && i < 4; i++, at = waits_for(check, at))
        report_lane(check, at);
    return false;
}

static bool run(struct check *check)
{
    for (int rank = 0; rank < check->n; rank++) {
        join_lanes(check, rank);
        if (!start_plan(check, rank, 0))
            return false;
    }
    while (check->runnable.n)
        if (!run_lane(check, check->runnable.at[--check->runnable.n]))
            return false;
    for (int rank = 0; rank < check->n; rank++)
        if (!check->ranks[rank].finished)
            return report_deadlock(check);
    return check->undefined.found ? memory_report_undefined(check) : true;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static int count_lanes(const struct plan *plans, int n)
{
    int lanes = 1;

    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < plans[r].nops; i++)
            if (plans[r].ops[i].lane >= lanes && plans[r].ops[i].lane < PLAN_MAX_LANES)
                lanes = plans[r].ops[i].lane + 1;
    return lanes;
}

static bool allocate(struct check *check)
{
    size_t n = (size_t)check->n, threads = check->threads, ops = 1;

    for (int r = 0; r < check->n; r++)
        ops += check->plans[r].nops;
    check->semaphore_of = calloc(n * n * (size_t)check->lanes, sizeof *check->semaphore_of);
    check->line_of = calloc(n * n, sizeof *check->line_of);
    check->ranks = calloc(n, sizeof *check->ranks);
    check->lane_of = calloc(threads, sizeof *check->lane_of);
    check->lane_ops = calloc(ops, sizeof *check->lane_ops);
    check->clocks = calloc(threads * threads, sizeof *check->clocks);
    check->start_epoch = calloc((check->rounds + 1) * n, sizeof *check->start_epoch);
    check->remote = calloc(n * threads, sizeof *check->remote);
    if (!check->semaphore_of || !check->line_of || !check->ranks || !check->lane_of ||
        !check->lane_ops || !check->clocks || !check->start_epoch || !check->remote ||
        !contents_init(&check->contents))
        return check_no_memory(check);
    return true;
}

/* After check_rules: lanes are in range. */
static void sort_into_lanes(struct check *check)
{
    uint32_t *slot = check->lane_ops;

    for (uint32_t thread = 0; thread < check->threads; thread++) {
        const struct plan *plan = &check->plans[check_rank_of(check, thread)];
        struct lane *lane = &check->lane_of[thread];

        lane->ops = slot;
        for (size_t i = 0; i < plan->nops; i++)
            if (plan->ops[i].lane == thread % (uint32_t)check->lanes)
                *slot++ = (uint32_t)i;
        lane->nops = (uint32_t)(slot - lane->ops);
    }
}

static void release_all(struct check *check)
{
    memory_fini(check);
    contents_fini(&check->contents);
    for (size_t i = 0; i < check->clock_pool.n; i++)
        free(check->clock_pool.at[i]);
    for (size_t i = 0; i < check->lines.n; i++) {
        free(check->lines.at[i].pieces[0].at);
        free(check->lines.at[i].pieces[1].at);
    }
    free(check->clock_pool.at);
    free(check->free_clocks.at);
    free(check->free_raises.at);
    free(check->raises.at);
    free(check->semaphores.at);
    free(check->lines.at);
    free(check->runnable.at);
    free(check->gathered.at);
    free(check->folded.at);
    free(check->source.at);
    free(check->semaphore_of);
    free(check->line_of);
    free(check->ranks);
    free(check->lane_of);
    free(check->lane_ops);
    free(check->clocks);
    free(check->start_epoch);
    free(check->remote);
}

static thrum_status_t check_all(const struct plan *plans, int nranks, int rounds, bool ordered,
                                FILE *report)
{
    struct check check = {.plans = plans, .n = nranks, .ordered = ordered, .report = report};

    if (nranks < 1 || rounds < 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "plan_check of %d ranks, %d rounds", nranks,
                          rounds);
    for (int r = 0; r < nranks; r++)
        if (plans[r].status)
            return plans[r].status;
    check.rounds = (uint32_t)rounds;
    check.round = UINT32_MAX;
    check.lanes = count_lanes(plans, nranks);
    check.threads = (uint32_t)nranks * (uint32_t)check.lanes;
    if (check_agree(&check) && allocate(&check) && memory_init(&check) && check_rules(&check)) {
        sort_into_lanes(&check);
        (void)run(&check);
    }
    release_all(&check);
    return check.status;
}

thrum_status_t plan_check(const struct plan *plans, int nranks, int rounds, FILE *report)
{
    return check_all(plans, nranks, rounds, false, report);
}

thrum_status_t plan_check_ordered(const struct plan *plans, int nranks, int rounds, FILE *report)
{
    return check_all(plans, nranks, rounds, true, report);
}
