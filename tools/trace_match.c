/* thrum-trace: collectives of all ranks brought together: who waited in each, for whom, and for how long. */
#include "trace.h"

#include <stdlib.h>
#include <string.h>

#include "process.h"

/* ---- sorting ---- */

static const struct trace *sorted; /* qsort takes no argument */

static int by_rank(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const struct member *m = &sorted->members[x], *n = &sorted->members[y];

    if (m->comm != n->comm)
        return m->comm < n->comm ? -1 : 1;
    if (m->rank != n->rank)
        return m->rank < n->rank ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int by_sequence(const void *a, const void *b)
{
    const struct ref *x = a, *y = b;

    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    if (x->member != y->member)
        return x->member < y->member ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op;
}

/* Each communicator's members by rank; *position_out: of each in it, NONE where another has its rank. From malloc. */
static void sort_members(struct trace *trace, uint32_t **position_out)
{
    uint32_t *order = process_must(calloc(trace->nmembers + 1, sizeof *order));
    uint32_t *position = process_must(calloc(trace->nmembers + 1, sizeof *position));

    for (uint32_t i = 0; i < trace->nmembers; i++)
        order[i] = i;
    sorted = trace;
    qsort(order, trace->nmembers, sizeof *order, by_rank);
    for (size_t i = 0, next; i < trace->nmembers; i = next) {
        struct comm *comm = &trace->comms[trace->members[order[i]].comm];

        for (next = i; next < trace->nmembers &&
                       trace->members[order[next]].comm == trace->members[order[i]].comm;)
            next++;
        comm->members = process_must(calloc(next - i, sizeof *comm->members));
        for (size_t k = i; k < next; k++) {
            const struct member *member = &trace->members[order[k]];

            position[order[k]] = NONE;
            if (comm->nmembers &&
                trace->members[comm->members[comm->nmembers - 1]].rank == member->rank) {
                trace_note(trace,
                           "%s: rank %d was recorded by two processes, of which one is left out",
                           comm->name, member->rank);
                continue;
            }
            position[order[k]] = comm->nmembers;
            comm->members[comm->nmembers++] = order[k];
        }
    }
    free(order);
    *position_out = position;
}

/* One that had not ended when it was told of first may have come again; the last time holds. */
static void drop_repeated(struct trace *trace, struct comm *comm)
{
    size_t n = 0;

    for (size_t i = 0; i < comm->nrefs; i++) {
        struct ref *ref = &comm->refs[i], *before = n ? &comm->refs[n - 1] : NULL;

        if (!before || before->sequence != ref->sequence || before->member != ref->member) {
            comm->refs[n++] = *ref;
        } else if (trace->ops[before->op].ended == NEVER) {
            trace->ops[before->op].begun = NEVER;
            *before = *ref;
        } else {
            comm->again++;
        }
    }
    comm->nrefs = n;
}

static void number_queues(struct trace *trace)
{
    uint32_t *n = process_must(calloc(trace->nprocs + 1, sizeof *n));

    for (size_t i = 0; i < trace->nqueues; i++)
        trace->queues[i].number = n[trace->queues[i].proc]++;
    free(n);
}

void trace_sort(struct trace *trace)
{
    uint32_t *position;

    sort_members(trace, &position);
    number_queues(trace);
    for (size_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];

        trace->comms[trace->members[op->member].comm].nrefs +=
            op->sequence && position[op->member] != NONE;
    }
    for (size_t i = 0; i < trace->ncomms; i++) {
        struct comm *comm = &trace->comms[i];

        comm->refs = process_must(calloc(comm->nrefs + 1, sizeof *comm->refs));
        comm->nrefs = 0;
    }
    for (uint32_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];
        struct comm *comm = &trace->comms[trace->members[op->member].comm];

        if (op->sequence && position[op->member] != NONE)
            comm->refs[comm->nrefs++] = (struct ref){op->sequence, i, position[op->member]};
    }
    for (size_t i = 0; i < trace->ncomms; i++) {
        qsort(trace->comms[i].refs, trace->comms[i].nrefs, sizeof *trace->comms[i].refs,
              by_sequence);
        drop_repeated(trace, &trace->comms[i]);
    }
    free(position);
}

/* ---- one collective ---- */

/* Times may be anything, where somebody writes what he wants. */
static int64_t added(int64_t a, int64_t b)
{
    int64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

/* A collective that all recorded ranks have done: refs[i] is that of comm->members[i]. */
struct meeting {
    struct trace *trace;
    const struct comm *comm;
    const struct ref *refs;
    uint32_t n;
};

static struct op *op_of(const struct meeting *meeting, uint32_t i)
{
    return &meeting->trace->ops[meeting->refs[i].op];
}

/* Position of its root; NONE: there is none, or it was not recorded. */
static uint32_t root_of(const struct meeting *meeting)
{
    int32_t root = op_of(meeting, 0)->root;
    uint32_t low = 0, high = meeting->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int32_t rank = meeting->trace->members[meeting->comm->members[middle]].rank;

        if (rank == root)
            return middle;
        if (rank < root)
            low = middle + 1;
        else
            high = middle;
    }
    return NONE;
}

static void wait_for(const struct meeting *meeting, uint32_t i, uint32_t other)
{
    struct op *op = op_of(meeting, i);
    int64_t until = other == NONE ? NEVER : min_i64(op->ended, op_of(meeting, other)->begun);

    op->waited = until == NEVER ? 0 : max_i64(0, until - op->begun);
    op->last = op->waited ? meeting->comm->members[other] : NONE;
}

/* The one that begins last, but for `not`; NONE: there is none. */
static uint32_t latest(const struct meeting *meeting, uint32_t not )
{
    uint32_t at = NONE;

    for (uint32_t i = 0; i < meeting->n; i++)
        if (i != not &&(at == NONE || op_of(meeting, i)->begun > op_of(meeting, at)->begun))
            at = i;
    return at;
}

/* Says how long each waited, and returns the position of the one for which one did longest; NONE: nobody had to wait. */
static uint32_t find_waits(const struct meeting *meeting)
{
    const struct trace *trace = meeting->trace;
    uint32_t last = NONE, root = NONE, before = NONE, found = NONE;
    uint32_t needs = trace->kinds[op_of(meeting, 0)->kind].needs;
    int64_t longest = 0;

    switch (needs) {
    case NEEDS_ALL:
        last = latest(meeting, NONE);
        break;
    case NEEDS_ROOT:
        last = root_of(meeting);
        break;
    case NEEDS_AT_ROOT:
        root = root_of(meeting);
        last = root == NONE ? NONE : latest(meeting, root);
        break;
    default:
        break;
    }
    for (uint32_t i = 0; i < meeting->n; i++) {
        uint32_t other = needs == NEEDS_LOWER                  ? before
                         : needs == NEEDS_AT_ROOT && i != root ? NONE
                                                               : last;

        wait_for(meeting, i, other);
        if (op_of(meeting, i)->waited > longest) {
            longest = op_of(meeting, i)->waited;
            found = other;
        }
        if (before == NONE || op_of(meeting, i)->begun > op_of(meeting, before)->begun)
            before = i;
    }
    return found;
}

static void add_match(struct comm *comm, size_t *room, const struct meeting *meeting,
                      int64_t *begins)
{
    uint32_t last = find_waits(meeting), nothers = 0;
    struct match match = {
        .sequence = meeting->refs[0].sequence, .kind = op_of(meeting, 0)->kind, .last = NONE};
    int64_t begun = NEVER, ended = NEVER;

    for (uint32_t i = 0; i < meeting->n; i++) {
        struct op *op = op_of(meeting, i);

        op->counts = true;
        begun = max_i64(begun, op->begun);
        ended = max_i64(ended, op->ended);
        match.waited = added(match.waited, op->waited);
        match.spent = added(match.spent, op->ended - op->begun);
        comm->begun = comm->begun == NEVER ? op->begun : min_i64(comm->begun, op->begun);
        if (last != NONE && op->last == comm->members[last])
            begins[nothers++] = op->begun;
    }
    comm->ended = max_i64(comm->ended, ended);
    match.moving = max_i64(0, ended - begun);
    if (last != NONE) {
        match.last = comm->members[last];
        match.begun = op_of(meeting, last)->begun;
        match.late = max_i64(0, match.begun - trace_quantile(begins, nothers, 0.5));
        meeting->trace->members[match.last].last++;
    }
    comm->matches = trace_room(comm->matches, comm->nmatches, room, sizeof *comm->matches);
    comm->matches[comm->nmatches++] = match;
}

/* ---- all of them ---- */

/* One that has not ended everywhere is told where somebody has begun it; if others have ended it, it is only cut off by the end. */
static void add_pending(const struct trace *trace, struct comm *comm, size_t *room, size_t first,
                        uint32_t n)
{
    struct pending pending = {.sequence = comm->refs[first].sequence,
                              .first = (uint32_t)first,
                              .n = n,
                              .since = INT64_MAX};
    bool ended_somewhere = false, open = false;

    for (uint32_t i = 0; i < n; i++) {
        const struct op *op = &trace->ops[comm->refs[first + i].op];

        ended_somewhere |= op->begun != NEVER && op->ended != NEVER;
        open |= op->begun != NEVER && op->ended == NEVER;
        if (op->begun != NEVER)
            pending.since = min_i64(pending.since, op->begun);
    }
    if (!open || (ended_somewhere &&
                  trace->kinds[trace->ops[comm->refs[first].op].kind].needs == NEEDS_ALL)) {
        comm->partial++;
        return;
    }
    comm->pending = trace_room(comm->pending, comm->npending, room, sizeof *comm->pending);
    comm->pending[comm->npending++] = pending;
}

static void match_comm(struct trace *trace, struct comm *comm)
{
    int64_t *begins = process_must(calloc(comm->nmembers + 1, sizeof *begins));
    size_t match_room = 0, pending_room = 0;

    for (size_t i = 0, next; i < comm->nrefs; i = next) {
        bool all = true;

        for (next = i; next < comm->nrefs && comm->refs[next].sequence == comm->refs[i].sequence;
             next++)
            all &= trace->ops[comm->refs[next].op].begun != NEVER &&
                   trace->ops[comm->refs[next].op].ended != NEVER;
        if (all && next - i == comm->nmembers)
            add_match(comm, &match_room,
                      &(struct meeting){trace, comm, comm->refs + i, comm->nmembers}, begins);
        else
            add_pending(trace, comm, &pending_room, i, (uint32_t)(next - i));
    }
    free(begins);
}

/* Messages, puts and signals. */
static void add_others(struct trace *trace)
{
    for (size_t i = 0; i < trace->nops; i++) {
        struct op *op = &trace->ops[i];
        struct comm *comm = &trace->comms[trace->members[op->member].comm];

        if (op->sequence || op->begun == NEVER || op->ended == NEVER || comm->left_out)
            continue;
        op->counts = true;
        comm->others++;
        comm->begun = comm->begun == NEVER ? op->begun : min_i64(comm->begun, op->begun);
        comm->ended = max_i64(comm->ended, op->ended);
    }
}

static int by_begin(const void *a, const void *b)
{
    const struct op *x = &sorted->ops[*(const uint32_t *)a];
    const struct op *y = &sorted->ops[*(const uint32_t *)b];

    if (x->member != y->member)
        return x->member < y->member ? -1 : 1;
    if (x->begun != y->begun)
        return x->begun < y->begun ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* What of a time comes after *busy, which goes on to its end. */
static int64_t beyond(int64_t from, int64_t until, int64_t *busy)
{
    int64_t time = max_i64(0, until - max_i64(from, *busy));

    *busy = max_i64(*busy, until);
    return time;
}

/* Adds what it took each rank. What overlaps counts once: it is in a message only where it is in no collective. */
static void add_times(struct trace *trace)
{
    uint32_t *order = process_must(calloc(trace->nops + 1, sizeof *order)), last = NONE;
    int64_t collectives = NEVER, all = NEVER; /* until when its last member was busy */
    size_t n = 0;

    for (uint32_t i = 0; i < trace->nops; i++)
        if (trace->ops[i].counts)
            order[n++] = i;
    sorted = trace;
    qsort(order, n, sizeof *order, by_begin);
    for (size_t i = 0; i < n; i++) {
        const struct op *op = &trace->ops[order[i]];
        struct member *member = &trace->members[op->member];
        int64_t waiting = 0, moving = 0;

        if (op->member != last)
            collectives = all = NEVER;
        last = op->member;
        if (op->sequence) {
            waiting = beyond(op->begun, op->begun + op->waited, &collectives);
            moving = beyond(op->begun + op->waited, op->ended, &collectives);
        }
        member->waiting += waiting;
        member->moving += moving;
        member->other += beyond(op->begun, op->ended, &all) - waiting - moving;
        if (op->last != NONE)
            trace->members[op->last].held += waiting;
    }
    free(order);
}

void trace_match(struct trace *trace)
{
    for (size_t i = 0; i < trace->ncomms; i++)
        if (!trace->comms[i].left_out)
            match_comm(trace, &trace->comms[i]);
    add_others(trace);
    add_times(trace);
}

/* ---- the verdict ---- */

/* What a difference between two ranks of a communicator has to exceed to be one, for their clocks' sake. */
static int64_t doubt_of(const struct trace *trace, const struct comm *comm)
{
    uint32_t first = comm->nmembers ? trace->procs[trace->members[comm->members[0]].proc].clock : 0;
    bool several = false;
    int64_t doubt = 0;

    for (uint32_t i = 0; i < comm->nmembers; i++) {
        uint32_t at = trace->procs[trace->members[comm->members[i]].proc].clock;
        const struct clock *clock = &trace->clocks[at];

        several |= at != first;
        if (at)
            doubt = max_i64(doubt, clock->hub == NONE ? 10000000
                                                      : 2 * clock->spread + clock->contradiction);
    }
    return several ? doubt : 0;
}

static int64_t median_lateness(const struct comm *comm, uint32_t member)
{
    int64_t *late = process_must(calloc(comm->nmatches + 1, sizeof *late)), median;
    size_t n = 0;

    for (size_t i = 0; i < comm->nmatches; i++)
        if (comm->matches[i].last == member)
            late[n++] = comm->matches[i].late;
    median = trace_quantile(late, n, 0.5);
    free(late);
    return median;
}

/* The collective to which it came latest; it was the last in some. */
static const struct match *latest_match(const struct comm *comm, uint32_t member)
{
    const struct match *worst = NULL;

    for (size_t i = 0; i < comm->nmatches; i++)
        if (comm->matches[i].last == member && (!worst || comm->matches[i].late > worst->late))
            worst = &comm->matches[i];
    return worst;
}

/* Squares of what was waited in each collective, over the square of all: one over the number of waits that matter. */
static double concentration(const struct comm *comm)
{
    double sum = 0, squares = 0;

    for (size_t i = 0; i < comm->nmatches; i++) {
        double waited = (double)comm->matches[i].waited;

        sum += waited;
        squares += waited * waited;
    }
    return sum > 0 ? squares / (sum * sum) : 1;
}

/* Whether a share is far from `fair`, that of chance, in so many tries: three deviations. */
static bool is_far(double share, double fair, double tries)
{
    return share > fair && (share - fair) * (share - fair) * tries > 9 * fair * (1 - fair);
}

/* Clearly most: three quarters where there are two ranks, hardly more than half where there are many. */
static double most(const struct comm *comm)
{
    return 0.5 + 0.5 / comm->nmembers;
}

/* It comes last most of the time, and that is worth to speak of. */
static bool is_often_last(const struct comm *comm, const struct member *member, double time)
{
    double n = (double)comm->nmatches, share = (double)member->last / n;

    return n >= TRACE_FEWEST && share >= most(comm) && is_far(share, 1.0 / comm->nmembers, n) &&
           (double)member->held >= 0.05 * time;
}

/* Most of the waiting is for it, which is much: in a few collectives, or more than chance would have it. */
static bool is_dear(const struct comm *comm, const struct member *member, double waiting,
                    double time)
{
    double fair = 1.0 / comm->nmembers, share = (double)member->held / waiting;
    double few = concentration(comm), tries = 1 / few;

    if (waiting < 0.1 * time || share < most(comm))
        return false;
    if (comm->nmatches < TRACE_FEWEST) /* of one, somebody is always the last */
        return tries >= TRACE_FEWEST / 2 && is_far(share, fair, tries);
    return few * (double)comm->nmatches >= 10 || is_far(share, fair, tries);
}

/* ---- whether it is late because others are ---- */

struct stretch {
    int64_t from, until;
};

static int by_from(const void *a, const void *b)
{
    const struct stretch *x = a, *y = b;

    return x->from < y->from ? -1 : x->from > y->from;
}

/* Operations in all communicators are a rank's own if its process has no other rank of this one: devices are not told. */
static bool has_process(const struct trace *trace, const struct comm *comm, uint32_t member)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < comm->nmembers; i++)
        n += trace->members[comm->members[i]].proc == trace->members[member].proc;
    return n == 1;
}

/* When a rank was in operations, in order, without overlaps. From malloc. */
static size_t find_busy(const struct trace *trace, const struct comm *comm, uint32_t member,
                        struct stretch **out)
{
    bool all = has_process(trace, comm, member);
    size_t n = 0, merged = 0, room = 0;
    struct stretch *busy = NULL;

    for (size_t i = 0; i < trace->nops; i++) {
        const struct op *op = &trace->ops[i];

        if (op->begun == NEVER || op->ended == NEVER ||
            (op->member != member &&
             !(all && trace->members[op->member].proc == trace->members[member].proc)))
            continue;
        busy = trace_room(busy, n, &room, sizeof *busy);
        busy[n++] = (struct stretch){op->begun, op->ended};
    }
    if (n)
        qsort(busy, n, sizeof *busy, by_from);
    for (size_t i = 0; i < n; i++)
        if (merged && busy[i].from <= busy[merged - 1].until)
            busy[merged - 1].until = max_i64(busy[merged - 1].until, busy[i].until);
        else
            busy[merged++] = busy[i];
    *out = busy;
    return merged;
}

/* How much of a time was in these. */
static int64_t within(const struct stretch *busy, size_t n, int64_t from, int64_t until)
{
    size_t low = 0, high = n;
    int64_t time = 0;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (busy[middle].until <= from)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < n && busy[low].from < until; low++)
        time += min_i64(until, busy[low].until) - max_i64(from, busy[low].from);
    return time;
}

static double busy_share(const struct trace *trace, const struct comm *comm, uint32_t member)
{
    struct stretch *busy;
    size_t n = find_busy(trace, comm, member, &busy);
    double late = 0, in = 0;

    for (size_t i = 0; i < comm->nmatches; i++) {
        const struct match *match = &comm->matches[i];

        if (match->last != member)
            continue;
        late += (double)match->late;
        in += (double)within(busy, n, match->begun - match->late, match->begun);
    }
    free(busy);
    return late > 0 ? in / late : 0;
}

void trace_judge(const struct trace *trace, const struct comm *comm, struct verdict *out)
{
    double time = (double)(comm->ended - comm->begun) * comm->nmembers, waiting = 0;
    const struct member *often = NULL, *dear = NULL;

    *out = (struct verdict){.member = NONE, .suspect = NONE};
    if (!comm->nmatches || comm->nmembers < 2 || !(time > 0))
        return;
    for (uint32_t i = 0; i < comm->nmembers; i++) {
        const struct member *member = &trace->members[comm->members[i]];

        waiting += (double)member->waiting;
        if (!often || member->last > often->last)
            often = member;
        if (!dear || member->held > dear->held)
            dear = member;
    }
    if (is_often_last(comm, often, time))
        *out = (struct verdict){.member = (uint32_t)(often - trace->members),
                                .suspect = NONE,
                                .often = true,
                                .share = (double)often->last / (double)comm->nmatches,
                                .times = often->last};
    else if (is_dear(comm, dear, waiting, time))
        *out = (struct verdict){.member = (uint32_t)(dear - trace->members),
                                .suspect = NONE,
                                .share = (double)dear->held / waiting,
                                .times = dear->last};
    if (out->member == NONE)
        return;
    out->late = median_lateness(comm, out->member);
    out->worst = latest_match(comm, out->member);
    if (out->late <= doubt_of(trace, comm)) {
        out->suspect = out->member;
        out->member = NONE;
        return;
    }
    out->busy = busy_share(trace, comm, out->member);
}
