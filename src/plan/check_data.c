/*
 * check_data: COPY, REDUCE and PUT: may the op name these operands now, and what do they hold afterwards? Called by
 * plan_check.c.
 */
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

/* Has the line of `from` been waited for, by a lane that is ordered before this op? */
static bool line_is_known(const struct check *check, const struct step *step, int from,
                          bool is_inline)
{
    const uint32_t *clock = check_clock(check, step->thread);
    uint32_t id = check->line_of[check_line_slot(check, step->rank, from, is_inline)];

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
    if (o->space != PLAN_SCRATCH && o->space != PLAN_WIDE &&
        !line_is_known(check, step, o->rank, false)) {
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
    const struct line *line = check_line(check, step->rank, (int)o->offset, true);
    const pieces_t *data = &line->pieces[check->round % PLAN_CHECK_ROUNDS];
    uint64_t left = step->op->bytes;

    if (!line_is_known(check, step, line->from, true)) {
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
    bool rounds = check->narrows && step->operands[0].space != PLAN_WIDE;

    for (unsigned i = 1; i < step->op->nsrc; i++)
        if (!gather(check, step, &step->operands[step->op->ndst + i], &check->source) ||
            !fold_source(check, step->op->bytes))
            return false;
    for (size_t i = 0; i < check->gathered.n; i++) {
        uint32_t *content = &check->gathered.at[i].content;

        if (!content_finish(&check->contents, *content, final, rounds, content))
            return check_no_memory(check);
        if (final && !result_check_final(check, step->rank, step->index, *content))
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
    struct line *line = check_line(check, step->op->peer, step->rank, true);
    pieces_t *data = &line->pieces[check->round % PLAN_CHECK_ROUNDS];

    data->n = 0;
    if (check->gathered.n) {
        if (!VECTOR_RESERVE(data, check->gathered.n))
            return check_no_memory(check);
        memcpy(data->at, check->gathered.at, check->gathered.n * sizeof *data->at);
        data->n = check->gathered.n;
    }
    return order_send_line(check, step->thread, line);
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
    struct semaphore *s = check_semaphore(check, op->peer, step->rank, op->lane);

    check->puts.at[step->access.put - 1].next = s->open_puts;
    s->open_puts = op->value ? 0 : step->access.put;
    return op->value ? order_raise(check, step->thread, s, op->value, step->access.put) : true;
}

bool data_move(struct check *check, struct step *step)
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
