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

/* ---- one rank's plan --------------------------------------------------------------------------------------------- */

/* All lanes know what any of them knows. */
static void join_lanes(struct check *check, int rank)
{
    uint32_t first = check_thread(check, rank, 0), *joined = check_clock(check, first);

    for (int lane = 1; lane < check->lanes; lane++)
        order_join(check, joined, check_clock(check, first + (uint32_t)lane));
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
        if (!order_wake(check, thread))
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

/* Rule 2 of plan.h, for messages; of a barrier, that all have started. */
static bool check_started(struct check *check, int rank, const uint32_t *clock)
{
    bool barrier = check_params(check)->collective == COLL_BARRIER;

    if (!barrier && check_params(check)->collective != COLL_SENDRECV)
        return true;
    for (int peer = 0; peer < check->n; peer++) {
        uint32_t id = check->line_of[check_line_slot(check, peer, rank, false)];
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
    bool is_inline = op->flags & PLAN_INLINE, is_line = is_inline || op->flags & PLAN_ARRIVE, ok;

    if (op->opcode == PLAN_WAIT) {
        ok = is_line
                 ? order_wait_line(check, step->thread,
                                   check_line(check, step->rank, op->peer, is_inline))
                 : order_wait(check, step->thread,
                              check_semaphore(check, step->rank, op->peer, op->lane), op->value);
        return ok ? DONE : STUCK;
    }
    if (op->opcode == PLAN_SIGNAL)
        ok = is_line ? order_send_line(check, step->thread,
                                       check_line(check, op->peer, step->rank, is_inline))
                     : order_raise(check, step->thread,
                                   check_semaphore(check, op->peer, step->rank, op->lane),
                                   op->value, 0);
    else
        ok = data_move(check, step);
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
        other = check_thread(check, op->peer,
                             check_line(check, rank, op->peer, op->flags & PLAN_INLINE)->lane);
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
    check->line_of = calloc(2 * n * n, sizeof *check->line_of);
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
        for (int slot = 0; slot < PLAN_CHECK_ROUNDS; slot++)
            free(check->lines.at[i].pieces[slot].at);
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

    if (nranks < 1 || rounds < 1 || rounds > PLAN_CHECK_ROUNDS)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "plan_check of %d ranks, %d rounds", nranks,
                          rounds);
    for (int r = 0; r < nranks; r++)
        if (plans[r].status)
            return plans[r].status;
    check.rounds = (uint32_t)rounds;
    check.round = UINT32_MAX;
    check.narrows = plan_widening(&plans[0].params) > 1;
    check.scratch_space = -1;
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
