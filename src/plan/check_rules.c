/*
 * check_rules: what can be said of the plans without running them: shapes, ranges, semaphores and lines that meet.
 * Called by plan_check.c first; fills check->semaphores and check->lines for the run.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

/* ---- where operands lie ------------------------------------------------------------------------------------------ */

static bool within(uint64_t offset, uint64_t bytes, uint64_t size)
{
    return offset <= size && bytes <= size - offset;
}

/* SENDRECV: own operands are addresses, a peer's count from the message of the pair. */
static bool locate_message(const struct check *check, int rank, const struct plan_operand *operand,
                           uint64_t bytes, struct place *place_out)
{
    const struct plan_params *owner = &check->plans[operand->rank].params;
    bool is_send = operand->space == PLAN_SEND;

    for (int i = 0; i < owner->np2p; i++) {
        const struct plan_p2p *p = &owner->p2p[i];
        uint64_t start = operand->rank == rank ? p->offset : 0;

        if (p->is_send != is_send || (operand->rank != rank && p->peer != rank))
            continue;
        if (operand->offset >= start && within(operand->offset - start, bytes, p->bytes)) {
            place_out->store = check->ranks[operand->rank].first_store + 1 + (uint32_t)i;
            place_out->offset = operand->offset - start;
            return true;
        }
    }
    return false;
}

bool check_locate(const struct check *check, int rank, const struct plan_operand *operand,
                  uint64_t bytes, struct place *place_out)
{
    const struct plan_params *owner = &check->plans[operand->rank].params;
    const struct rank_state *state = &check->ranks[operand->rank];
    uint64_t size;

    if (operand->space == PLAN_SCRATCH || operand->space == PLAN_WIDE) {
        *place_out = state->scratch;
        size = owner->scratch_bytes;
        if (operand->space == PLAN_WIDE)
            size /= plan_widening(owner);
    } else if (owner->collective == COLL_SENDRECV) {
        return locate_message(check, rank, operand, bytes, place_out);
    } else if (operand->space == PLAN_SEND) {
        *place_out = state->send;
        size = plan_send_bytes(owner, operand->rank);
    } else {
        *place_out = state->recv;
        size = plan_recv_bytes(owner, operand->rank);
    }
    place_out->offset += operand->offset;
    return within(operand->offset, bytes, size);
}

/* ---- one op ------------------------------------------------------------------------------------------------------ */

struct view {
    struct check *check;
    const struct plan *plan;
    const struct plan_op *op;
    const struct plan_operand *operands;
    int rank;
    size_t index;
};

/* Reports a fault of the op. */
static bool __attribute__((format(printf, 2, 3)))
refuse(const struct view *v, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    report_begin(v->check, "rank %d op %zu %s", v->rank, v->index, text);
    report_op(v->check, "op", v->rank, v->index, UINT32_MAX);
    return false;
}

static const struct {
    unsigned flags; /* that it may have */
    uint16_t min_dst, max_dst, min_src, max_src;
} shapes[] = {
    [PLAN_COPY] = {PLAN_STREAM, 1, PLAN_MAX_OPERANDS, 1, 1},
    [PLAN_REDUCE] = {PLAN_FINAL | PLAN_STREAM, 1, PLAN_MAX_OPERANDS, 1, PLAN_MAX_OPERANDS},
    [PLAN_PUT] = {PLAN_INLINE, 0, 1, 1, 1},
    [PLAN_SIGNAL] = {PLAN_ARRIVE, 0, 0, 0, 0},
    [PLAN_WAIT] = {PLAN_ARRIVE | PLAN_INLINE, 0, 0, 0, 0},
};

static bool check_shape(const struct view *v)
{
    const struct plan_op *op = v->op;
    bool is_line = op->flags & (PLAN_ARRIVE | PLAN_INLINE);

    if (op->opcode > PLAN_WAIT)
        return refuse(v, "has opcode %u, which does not exist", op->opcode);
    if (op->lane >= v->plan->params.lanes || op->lane >= PLAN_MAX_LANES)
        return refuse(v, "is in lane %u, out of range: the plan may have %d", op->lane,
                      v->plan->params.lanes);
    if (op->flags & ~shapes[op->opcode].flags ||
        (op->flags & PLAN_ARRIVE && op->flags & PLAN_INLINE))
        return refuse(v, "has flags %#x, not for this op", op->flags);
    if (op->ndst < shapes[op->opcode].min_dst || op->ndst > shapes[op->opcode].max_dst ||
        op->nsrc < shapes[op->opcode].min_src || op->nsrc > shapes[op->opcode].max_src ||
        op->ndst + op->nsrc > PLAN_MAX_OPERANDS ||
        (op->opcode == PLAN_PUT && op->ndst != (is_line ? 0 : 1)) ||
        (size_t)op->first_operand + op->ndst + op->nsrc > v->plan->noperands)
        return refuse(v, "has %u destinations and %u sources, not for this op", op->ndst, op->nsrc);
    if (op->opcode < PLAN_PUT)
        return true;
    if (op->peer < 0 || op->peer >= v->check->n || op->peer == v->rank)
        return refuse(v, "names peer %d, which is no other rank", op->peer);
    if (is_line && op->value)
        return refuse(v, "is a line and has a value");
    if (op->opcode != PLAN_PUT && !is_line && !op->value)
        return refuse(v, "has value 0: semaphores count from there");
    if (op->opcode == PLAN_PUT && is_line && op->bytes > plan_line_bytes(&v->plan->params))
        return refuse(v, "puts %" PRIu64 " bytes into a line, out of range: %" PRIu64 " fit",
                      op->bytes, plan_line_bytes(&v->plan->params));
    return true;
}

/* Who may name what. */
static bool check_reach(const struct view *v, const struct plan_operand *o, bool is_dst)
{
    const struct plan_op *op = v->op;

    if (o->space > PLAN_WIDE || o->rank < 0 || o->rank >= v->check->n)
        return refuse(v, "names rank %d, space %u, which does not exist", o->rank, o->space);
    if (is_dst && o->space == PLAN_SEND)
        return refuse(v, "writes SEND of rank %d: the caller's input is never written", o->rank);
    if (o->space == PLAN_LINE &&
        (is_dst || o->rank != v->rank || (op->opcode == PLAN_PUT && !(op->flags & PLAN_INLINE))))
        return refuse(v, "names LINE of rank %d as something other than an own source", o->rank);
    if (op->opcode == PLAN_PUT && o->rank != (is_dst ? op->peer : v->rank))
        return refuse(v, "puts from own memory to rank %d, but names memory of rank %d", op->peer,
                      o->rank);
    if (op->opcode != PLAN_PUT && !plan_reaches(&v->plan->params, v->rank, o->rank))
        return refuse(v, "names memory of rank %d without peer access", o->rank);
    return true;
}

static bool check_line_operand(const struct view *v, const struct plan_operand *o)
{
    uint32_t id;

    if (o->offset >= (uint64_t)v->check->n || (int)o->offset == v->rank)
        return refuse(v, "names the LINE of rank %" PRIu64 ", which is no other rank", o->offset);
    id = v->check->line_of[check_line_slot(v->check, v->rank, (int)o->offset, true)];
    if (!id || !v->check->lines.at[id - 1].is_inline)
        return refuse(v, "names a LINE that rank %" PRIu64 " never sends", o->offset);
    if (v->op->bytes > v->check->lines.at[id - 1].bytes)
        return refuse(v, "reads %" PRIu64 " bytes of a LINE of %" PRIu64 ", out of range",
                      v->op->bytes, v->check->lines.at[id - 1].bytes);
    return true;
}

static uint64_t element_bytes(const struct plan_params *params)
{
    if (params->collective == COLL_SENDRECV || params->collective == COLL_BARRIER)
        return 1;
    return thrum_datatype_size(params->dtype);
}

static bool check_range(const struct view *v, const struct plan_operand *o)
{
    uint64_t element = element_bytes(&v->plan->params);
    struct place place;

    if (o->space == PLAN_LINE)
        return check_line_operand(v, o);
    if (!check_locate(v->check, v->rank, o, v->op->bytes, &place))
        return refuse(v, "names %s of rank %d, bytes %" PRIu64 "..%" PRIu64 ", out of range",
                      plan_space_name(o->space), o->rank, o->offset, o->offset + v->op->bytes);
    if (o->offset % element || v->op->bytes % element)
        return refuse(v, "is not aligned to elements of %" PRIu64 " bytes", element);
    return true;
}

/* Destinations are apart from each other; a source of REDUCE may be exactly a destination, no other overlap. */
static bool check_overlap(const struct view *v)
{
    const struct plan_op *op = v->op;
    unsigned n = (unsigned)op->ndst + op->nsrc;
    struct place places[PLAN_MAX_OPERANDS];

    for (unsigned i = 0; i < n; i++) {
        places[i].store = UINT32_MAX;
        if (v->operands[i].space != PLAN_LINE)
            (void)check_locate(v->check, v->rank, &v->operands[i], op->bytes, &places[i]);
    }
    for (unsigned i = 0; i < op->ndst; i++)
        for (unsigned k = i + 1; k < n; k++) {
            uint64_t a = places[i].offset, b = places[k].offset;

            if (places[i].store != places[k].store || a + op->bytes <= b || b + op->bytes <= a)
                continue;
            if (k < op->ndst)
                return refuse(v, "has destinations %u and %u that overlap", i, k);
            if ((op->opcode != PLAN_REDUCE && op->opcode != PLAN_COPY) || a != b)
                return refuse(v, "has a destination that overlaps source %u", k - op->ndst);
        }
    return true;
}

/* How many of the operands are WIDE. */
static unsigned count_wide(const struct plan_operand *operands, unsigned n)
{
    unsigned wide = 0;

    for (unsigned i = 0; i < n; i++)
        wide += operands[i].space == PLAN_WIDE;
    return wide;
}

/* Who may be wide together, and that a call stages in one kind of scratch. */
static bool check_wide(const struct view *v)
{
    const struct plan_op *op = v->op;
    const struct plan_operand *srcs = v->operands + op->ndst;
    unsigned dsts_wide = count_wide(v->operands, op->ndst), srcs_wide = count_wide(srcs, op->nsrc);
    bool first_only = srcs_wide == 1 && srcs[0].space == PLAN_WIDE;

    if (op->opcode != PLAN_REDUCE && dsts_wide + srcs_wide &&
        (op->flags & PLAN_INLINE || dsts_wide != op->ndst || srcs_wide != op->nsrc))
        return refuse(v, "moves between WIDE and what is not: only REDUCE widens and rounds");
    if (dsts_wide && dsts_wide != op->ndst)
        return refuse(v, "has some destinations WIDE and some not");
    if (srcs_wide && srcs_wide != op->nsrc && !first_only)
        return refuse(v, "has WIDE sources that are neither all nor the first alone");
    for (unsigned i = 0; i < (unsigned)op->ndst + op->nsrc; i++) {
        int space = v->operands[i].space;

        if (space != PLAN_SCRATCH && space != PLAN_WIDE)
            continue;
        if (v->check->scratch_space >= 0 && v->check->scratch_space != space)
            return refuse(v, "names %s where the call's plans name %s too: one of them, not both",
                          plan_space_name((unsigned)space),
                          plan_space_name((unsigned)v->check->scratch_space));
        v->check->scratch_space = space;
    }
    return true;
}

/* REDUCE's value: a prefix of the ranks, in collectives that have prefixes. */
static bool check_contributions(const struct view *v)
{
    enum collective collective = v->plan->params.collective;
    const struct plan_op *op = v->op;

    if (!op->value)
        return true;
    if (!(op->flags & PLAN_FINAL) || (collective != COLL_SCAN && collective != COLL_EXSCAN))
        return refuse(v, "says how many contributions there are, which only FINAL of a scan does");
    if (op->value > (uint64_t)v->check->n)
        return refuse(v, "is of %" PRIu64 " contributions, out of range", op->value);
    return true;
}

static bool check_data(const struct view *v)
{
    const struct plan_op *op = v->op;

    if (op->opcode == PLAN_REDUCE && !plan_reduces(v->plan->params.collective))
        return refuse(v, "reduces, in a collective that does not");
    if (op->opcode == PLAN_REDUCE && !check_contributions(v))
        return false;
    if (!op->bytes && !(op->flags & PLAN_INLINE))
        return refuse(v, "moves 0 bytes");
    for (unsigned i = 0; i < (unsigned)op->ndst + op->nsrc; i++)
        if (!check_reach(v, &v->operands[i], i < op->ndst) || !check_range(v, &v->operands[i]))
            return false;
    return check_wide(v) && check_overlap(v);
}

/* ---- semaphores and lines ---------------------------------------------------------------------------------------- */

static struct semaphore *semaphore_at(struct check *check, int to, int from, int lane)
{
    size_t slot =
        ((size_t)to * (size_t)check->n + (size_t)from) * (size_t)check->lanes + (size_t)lane;

    if (!check->semaphore_of[slot]) {
        if (!VECTOR_RESERVE(&check->semaphores, check->semaphores.n + 1)) {
            check_no_memory(check);
            return NULL;
        }
        check->semaphores.at[check->semaphores.n++] =
            (struct semaphore){.from = from, .to = to, .lane = lane, .silent_put = SIZE_MAX};
        check->semaphore_of[slot] = (uint32_t)check->semaphores.n;
    }
    return &check->semaphores.at[check->semaphore_of[slot] - 1];
}

static struct line *line_at(struct check *check, int to, int from, bool is_inline)
{
    size_t slot = check_line_slot(check, to, from, is_inline);

    if (!check->line_of[slot]) {
        if (!VECTOR_RESERVE(&check->lines, check->lines.n + 1)) {
            check_no_memory(check);
            return NULL;
        }
        check->lines.at[check->lines.n++] =
            (struct line){.from = from, .to = to, .send_op = SIZE_MAX, .wait_op = SIZE_MAX};
        check->line_of[slot] = (uint32_t)check->lines.n;
    }
    return &check->lines.at[check->line_of[slot] - 1];
}

static bool note_raise(const struct view *v)
{
    struct semaphore *semaphore = semaphore_at(v->check, v->op->peer, v->rank, v->op->lane);

    if (!semaphore)
        return false;
    if (v->op->value <= semaphore->raise_max)
        return refuse(v,
                      "raises its semaphore at rank %d to %" PRIu64 ", but op %zu did to %" PRIu64
                      " already: values must grow",
                      v->op->peer, v->op->value, semaphore->raise_op, semaphore->raise_max);
    semaphore->raise_max = v->op->value;
    semaphore->raise_op = v->index;
    if (v->op->opcode == PLAN_PUT)
        semaphore->silent_put = SIZE_MAX;
    return true;
}

static bool note_silent_put(const struct view *v)
{
    struct semaphore *semaphore = semaphore_at(v->check, v->op->peer, v->rank, v->op->lane);

    if (semaphore)
        semaphore->silent_put = v->index;
    return semaphore;
}

static bool note_wait(const struct view *v)
{
    struct semaphore *semaphore = semaphore_at(v->check, v->rank, v->op->peer, v->op->lane);

    if (!semaphore)
        return false;
    if (v->op->value > semaphore->wait_max) {
        semaphore->wait_max = v->op->value;
        semaphore->wait_op = v->index;
    }
    return true;
}

static bool note_line(const struct view *v)
{
    bool sends = v->op->opcode != PLAN_WAIT, is_inline = v->op->flags & PLAN_INLINE;
    struct line *line = sends ? line_at(v->check, v->op->peer, v->rank, is_inline)
                              : line_at(v->check, v->rank, v->op->peer, is_inline);

    if (!line)
        return false;
    if (sends && line->send_op != SIZE_MAX)
        return refuse(
            v, "sends a second line to rank %d (the first: op %zu); a pair has one in a plan",
            v->op->peer, line->send_op);
    if (sends) {
        line->send_op = v->index;
        line->lane = v->op->lane;
        line->bytes = v->op->bytes;
        line->is_inline = is_inline;
    } else {
        if (line->wait_op != SIZE_MAX &&
            (line->wait_is_inline != is_inline || line->wait_bytes != v->op->bytes))
            return refuse(v, "waits for another kind of line than op %zu", line->wait_op);
        line->wait_op = v->index;
        line->wait_bytes = v->op->bytes;
        line->wait_is_inline = is_inline;
    }
    return true;
}

static bool note_order(const struct view *v)
{
    if (v->op->opcode < PLAN_PUT)
        return true;
    if (v->op->flags & (PLAN_ARRIVE | PLAN_INLINE))
        return note_line(v);
    if (v->op->opcode == PLAN_WAIT)
        return note_wait(v);
    return v->op->value ? note_raise(v) : note_silent_put(v);
}

static bool check_semaphores(struct check *check)
{
    for (size_t i = 0; i < check->semaphores.n; i++) {
        const struct semaphore *s = &check->semaphores.at[i];

        if (s->silent_put != SIZE_MAX) {
            report_begin(
                check,
                "rank %d op %zu puts without a signal, and no PUT with one follows to rank %d "
                "in lane %d: its receipt is never known",
                s->from, s->silent_put, s->to, s->lane);
            report_op(check, "op", s->from, s->silent_put, UINT32_MAX);
            return false;
        }
        if (s->raise_max == s->wait_max)
            continue;
        if (s->raise_max > s->wait_max)
            report_begin(
                check,
                "signal never waited for: rank %d raises its semaphore at rank %d, lane %d, "
                "to %" PRIu64 "; rank %d waits for no more than %" PRIu64,
                s->from, s->to, s->lane, s->raise_max, s->to, s->wait_max);
        else
            report_begin(check,
                         "wait without a signal: rank %d waits for %" PRIu64
                         " of rank %d, lane %d, which raises it to no more than %" PRIu64,
                         s->to, s->wait_max, s->from, s->lane, s->raise_max);
        if (s->raise_max)
            report_op(check, "last raise", s->from, s->raise_op, UINT32_MAX);
        if (s->wait_max)
            report_op(check, "last wait", s->to, s->wait_op, UINT32_MAX);
        return false;
    }
    return true;
}

static bool check_lines(struct check *check)
{
    for (size_t i = 0; i < check->lines.n; i++) {
        const struct line *l = &check->lines.at[i];
        bool sent = l->send_op != SIZE_MAX, waited = l->wait_op != SIZE_MAX;

        if (sent && waited && l->is_inline == l->wait_is_inline && l->bytes == l->wait_bytes)
            continue;
        if (sent && waited && l->is_inline == l->wait_is_inline)
            report_begin(check,
                         "line of the wrong length: rank %d to rank %d, which waits for %" PRIu64
                         " bytes",
                         l->from, l->to, l->wait_bytes);
        else if (sent && waited)
            report_begin(check, "line of the wrong kind: rank %d to rank %d", l->from, l->to);
        else if (sent)
            report_begin(check, "line never waited for: rank %d to rank %d", l->from, l->to);
        else
            report_begin(check, "wait without a line: rank %d waits for one of rank %d", l->to,
                         l->from);
        if (sent)
            report_op(check, "sent by", l->from, l->send_op, UINT32_MAX);
        if (waited)
            report_op(check, "waited for by", l->to, l->wait_op, UINT32_MAX);
        return false;
    }
    return true;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static bool same_numbers(const uint64_t *a, const uint64_t *b, int n)
{
    return a == b || (a && b && !memcmp(a, b, (size_t)n * sizeof *a));
}

static bool same_hosts(const struct plan_layout *a, const struct plan_layout *b)
{
    return a == b || (a && b && a->nranks == b->nranks &&
                      !memcmp(a->host, b->host, (size_t)a->nranks * sizeof *a->host));
}

static bool check_agreement(struct check *check)
{
    const struct plan_params *a = check_params(check);

    for (int r = 0; r < check->n; r++) {
        const struct plan_params *b = &check->plans[r].params;

        if (b->rank != r || b->nranks != check->n)
            report_begin(check, "plan %d is of rank %d of %d, not of rank %d of %d", r, b->rank,
                         b->nranks, r, check->n);
        else if (b->collective != a->collective || b->count != a->count || b->dtype != a->dtype ||
                 b->redop != a->redop || b->root != a->root || b->peer_access != a->peer_access ||
                 !same_hosts(b->layout, a->layout) || b->ordered != a->ordered ||
                 !same_numbers(b->counts, a->counts, check->n) ||
                 !same_numbers(b->displs, a->displs, check->n))
            report_begin(check, "plans of rank 0 and %d are of different calls", r);
        else
            continue;
        return false;
    }
    return true;
}

static const struct plan_p2p *message(const struct check *check, int rank, int peer, bool is_send,
                                      int *count_out)
{
    const struct plan_params *params = &check->plans[rank].params;
    const struct plan_p2p *found = NULL;

    *count_out = 0;
    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].peer == peer && params->p2p[i].is_send == is_send) {
            found = &params->p2p[i];
            ++*count_out;
        }
    return found;
}

/* Every send has its receive of the same length, one in each direction of a pair. */
static bool check_messages(struct check *check)
{
    for (int r = 0; r < check->n; r++)
        for (int i = 0; i < check->plans[r].params.np2p; i++) {
            const struct plan_p2p *mine = &check->plans[r].params.p2p[i], *theirs;
            const char *what = mine->is_send ? "sends" : "receives";
            int own, other;

            if (mine->peer < 0 || mine->peer >= check->n) {
                report_begin(check, "rank %d %s with rank %d, which does not exist", r, what,
                             mine->peer);
                return false;
            }
            (void)message(check, r, mine->peer, mine->is_send, &own);
            theirs = message(check, mine->peer, r, !mine->is_send, &other);
            if (own == 1 && other == 1 && theirs->bytes == mine->bytes)
                continue;
            report_begin(check,
                         "rank %d %s %" PRIu64 " bytes with rank %d (%d such), which has %d of the "
                         "other side, the last of %" PRIu64 " bytes",
                         r, what, mine->bytes, mine->peer, own, other, theirs ? theirs->bytes : 0);
            return false;
        }
    return true;
}

static bool each_op(struct check *check, bool (*visit)(const struct view *view))
{
    for (int r = 0; r < check->n; r++)
        for (size_t i = 0; i < check->plans[r].nops; i++) {
            const struct plan_op *op = &check->plans[r].ops[i];
            struct view view = {
                .check = check, .plan = &check->plans[r], .op = op, .rank = r, .index = i};

            view.operands = view.plan->operands + (op->ndst || op->nsrc ? op->first_operand : 0);
            if (!visit(&view))
                return false;
        }
    return true;
}

static bool check_shape_and_order(const struct view *view)
{
    return check_shape(view) && note_order(view);
}

static bool check_moves(const struct view *view)
{
    return view->op->opcode > PLAN_PUT || check_data(view);
}

bool check_agree(struct check *check)
{
    return check_agreement(check) && check_messages(check);
}

bool check_rules(struct check *check)
{
    return each_op(check, check_shape_and_order) && check_lines(check) && check_semaphores(check) &&
           each_op(check, check_moves);
}
