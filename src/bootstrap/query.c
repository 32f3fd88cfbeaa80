/*
 * "What is every rank doing?", asked when a collective does not come to its end. On the control plane's thread.
 *
 * A question goes up to rank 0, which floods it down; records are gathered upward, subtree by subtree, each level with
 * a little less time than the one above, so that a stopped rank costs its own subtree only; the complete answer goes
 * down to those who asked. Questions about the same collective are answered together: in a hang all ranks ask at once.
 * If the way up is blocked by a stopped rank, the rank below it gathers what it can reach itself.
 */
#include <stdlib.h>
#include <string.h>

#include "bootstrap/control.h"

#define GATHER_MS 250 /* at rank 0 */
#define LEVEL_MS 40 /* less at each level below */
#define LEAST_MS 40
#define WAIT_MS (GATHER_MS + 4 * LEVEL_MS) /* for the complete answer */
#define UNKNOWN 0xff

enum { RECORD_WIRE = 34, HEAD = 16, CHUNK = (BOOT_FRAME_MAX - HEAD) / RECORD_WIRE };

struct query {
    uint64_t sequence;
    enum { ASKED_ABOVE, GATHERING, ANSWERED_ABOVE } state;
    bool asked_by[BOOT_LINKS], asked_here, asked_for_status;
    bool asked_above; /* the parent knows that the complete answer is wanted here */
    bool for_parent; /* the records below are to go up */
    bool waiting[BOOT_LINKS]; /* children that have not answered */
    int64_t due;
    struct call_record *records; /* of all ranks */
    struct query *next;
};

/* ---- records on the wire ---- */

static void put_record(const struct call_record *record, uint8_t *wire)
{
    boot_put_u64(wire, record->sequence);
    boot_put_u64(wire + 8, record->count);
    boot_put_u64(wire + 16, record->detail);
    boot_put_u32(wire + 24, (uint32_t)record->root);
    boot_put_u32(wire + 28, (uint32_t)record->redop << 8 | record->state);
    wire[32] = record->collective;
    wire[33] = record->dtype;
}

static void get_record(const uint8_t *wire, struct call_record *record)
{
    record->sequence = boot_get_u64(wire);
    record->count = boot_get_u64(wire + 8);
    record->detail = boot_get_u64(wire + 16);
    record->root = (int32_t)boot_get_u32(wire + 24);
    record->redop = (uint16_t)(boot_get_u32(wire + 28) >> 8);
    record->state = (uint8_t)boot_get_u32(wire + 28);
    record->collective = wire[32];
    record->dtype = wire[33];
}

static void send_records(struct control *control, int link, enum boot_frame_type type,
                         const struct query *q, int begin, int end)
{
    uint8_t head[HEAD] = {0}, wire[CHUNK * RECORD_WIRE];

    boot_put_u64(head, q->sequence);
    while (begin < end) {
        int n = end - begin < CHUNK ? end - begin : CHUNK;

        boot_put_u32(head + 8, (uint32_t)begin);
        for (int i = 0; i < n; i++)
            put_record(&q->records[begin + i], wire + i * RECORD_WIRE);
        control_send(control, link, type, head, sizeof head, wire, (size_t)n * RECORD_WIRE);
        begin += n;
    }
}

/* Copies a chunk that lies within [begin, end). Returns where it ends, or -1. */
static int take_records(struct query *q, const struct boot_frame *frame, int begin, int end)
{
    uint32_t first = boot_get_u32(frame->payload + 8);
    size_t n = (frame->bytes - HEAD) / RECORD_WIRE;

    if (first < (uint32_t)begin || first > (uint32_t)end || n > (size_t)end - first)
        return -1;
    for (size_t i = 0; i < n; i++)
        get_record(frame->payload + HEAD + i * RECORD_WIRE, &q->records[first + i]);
    return (int)(first + n);
}

/* ---- queries ---- */

static struct query *find(struct control *control, uint64_t sequence)
{
    for (struct query *q = control->queries; q; q = q->next)
        if (q->sequence == sequence)
            return q;
    return NULL;
}

static void mark_unknown(struct query *q, int begin, int end, int blocker)
{
    for (int r = begin; r < end; r++)
        q->records[r] = (struct call_record){.root = blocker, .state = UNKNOWN};
}

/* A neighbour that has said goodbye answers no more. */
static void mark_left(const struct control *control, struct query *q, int link)
{
    if (control->left[link])
        q->records[boot_link_rank(&control->tree, link)] =
            (struct call_record){.sequence = control->left_at[link], .state = CONTROL_RECORD_LEFT};
}

static struct query *find_or_make(struct control *control, uint64_t sequence)
{
    struct query *q = find(control, sequence);

    if (q)
        return q;
    q = calloc(1, sizeof *q);
    if (!q || !(q->records = calloc((size_t)control->tree.nranks, sizeof *q->records))) {
        free(q);
        return NULL;
    }
    q->sequence = sequence;
    mark_unknown(q, 0, control->tree.nranks, control->tree.parent);
    q->next = control->queries;
    control->queries = q;
    return q;
}

static void unlink_query(struct control *control, struct query *q)
{
    for (struct query **link = &control->queries; *link; link = &(*link)->next)
        if (*link == q) {
            *link = q->next;
            break;
        }
    free(q->records);
    free(q);
}

void query_free_all(struct control *control)
{
    while (control->queries)
        unlink_query(control, control->queries);
}

/* To all who asked; ends the query. */
static void deliver(struct control *control, struct query *q)
{
    const struct boot_tree *tree = &control->tree;

    for (int i = 1; i < BOOT_LINKS; i++)
        if (q->asked_by[i])
            send_records(control, i, FRAME_RECORDS, q, 0, tree->nranks);
    if (q->asked_here && control->callbacks.records)
        control->callbacks.records(control->argument, q->sequence, q->records, tree->nranks);
    if (q->asked_for_status)
        status_records(control, q->sequence, q->records);
    unlink_query(control, q);
}

static bool anybody_asked(const struct query *q)
{
    bool any = q->asked_here || q->asked_for_status;

    for (int i = 1; i < BOOT_LINKS; i++)
        any |= q->asked_by[i];
    return any;
}

/* All below have answered, or their time is up. */
static void gathered(struct control *control, struct query *q, int64_t now)
{
    const struct boot_tree *tree = &control->tree;

    if (!q->for_parent) {
        deliver(control, q);
        return;
    }
    send_records(control, 0, FRAME_ANSWER, q, tree->rank, tree->end);
    if (!anybody_asked(q)) {
        unlink_query(control, q);
        return;
    }
    q->state = ANSWERED_ABOVE;
    /* A leaf has answered at once, while rank 0 still waits for the slowest. */
    q->due = now + WAIT_MS * MS_NS;
}

static bool all_answered(const struct query *q)
{
    for (int i = 1; i < BOOT_LINKS; i++)
        if (q->waiting[i])
            return false;
    return true;
}

static void gather(struct control *control, struct query *q, int budget_ms, int64_t now)
{
    const struct boot_tree *tree = &control->tree;
    uint8_t head[HEAD] = {0};
    int below = budget_ms - LEVEL_MS < LEAST_MS ? LEAST_MS : budget_ms - LEVEL_MS;

    q->state = GATHERING;
    q->due = now + budget_ms * MS_NS;
    if (control->callbacks.record) {
        memset(&q->records[tree->rank], 0, sizeof *q->records);
        control->callbacks.record(control->argument, q->sequence, &q->records[tree->rank]);
    }
    mark_left(control, q, 0);
    boot_put_u64(head, q->sequence);
    boot_put_u32(head + 8, (uint32_t)below);
    for (int i = 1; i <= tree->nchildren; i++) {
        mark_unknown(q, tree->child[i - 1], tree->child_end[i - 1], tree->child[i - 1]);
        mark_left(control, q, i);
        q->waiting[i] = !control->gone[i];
        control_send(control, i, FRAME_QUERY_DOWN, head, sizeof head, NULL, 0);
    }
    if (all_answered(q))
        gathered(control, q, now);
}

static void ask_above(struct control *control, struct query *q)
{
    uint8_t head[HEAD] = {0};

    if (q->asked_above)
        return;
    q->asked_above = true;
    boot_put_u64(head, q->sequence);
    control_send(control, 0, FRAME_QUERY_UP, head, sizeof head, NULL, 0);
}

/* The gathering has passed the asker's subtree already: its patience with the parent is not to run out. */
static void tell_to_wait(struct control *control, int link, const struct query *q)
{
    uint8_t head[HEAD] = {0};

    boot_put_u64(head, q->sequence);
    control_send(control, link, FRAME_QUERY_WAIT, head, sizeof head, NULL, 0);
}

static void told_to_wait(struct control *control, struct query *q, int64_t now)
{
    if (!q || q->state != ASKED_ABOVE)
        return;
    q->state = ANSWERED_ABOVE;
    q->due = now + WAIT_MS * MS_NS;
    for (int i = 1; i < BOOT_LINKS; i++)
        if (q->asked_by[i])
            tell_to_wait(control, i, q);
}

void query_ask(struct control *control, int asker, uint64_t sequence)
{
    const struct boot_tree *tree = &control->tree;
    bool known = find(control, sequence) != NULL;
    struct query *q = find_or_make(control, sequence);
    int64_t now = now_ns();

    if (!q)
        return;
    if (asker == QUERY_BY_RANK)
        q->asked_here = true;
    else if (asker == QUERY_BY_STATUS)
        q->asked_for_status = true;
    else
        q->asked_by[asker] = true;
    if (known && asker >= 0 && q->state != ASKED_ABOVE)
        tell_to_wait(control, asker, q);
    if (tree->parent < 0 || control->gone[0]) {
        if (!known)
            gather(control, q, GATHER_MS, now);
        return;
    }
    ask_above(control, q);
    /* Nearer to the root runs out of patience first, and takes those below along. */
    if (!known)
        q->due = now + (60 + LEVEL_MS * tree->depth) * MS_NS;
}

/* ---- frames ---- */

static void asked_from_above(struct control *control, uint64_t sequence, int budget_ms, int64_t now)
{
    struct query *q = find_or_make(control, sequence);

    if (!q)
        return;
    q->for_parent = true;
    if (q->state != GATHERING) /* else already at it, on its own behalf */
        gather(control, q, budget_ms, now);
}

static void answered_from_below(struct control *control, struct query *q, int link,
                                const struct boot_frame *frame, int64_t now)
{
    int end = control->tree.child_end[link - 1];

    if (!q || q->state != GATHERING ||
        take_records(q, frame, control->tree.child[link - 1], end) != end)
        return;
    q->waiting[link] = false;
    if (all_answered(q))
        gathered(control, q, now);
}

void query_frame(struct control *control, int link, const struct boot_frame *frame)
{
    int64_t now = now_ns();
    uint64_t sequence;
    struct query *q;
    int budget;

    if (frame->bytes < HEAD)
        return;
    sequence = boot_get_u64(frame->payload);
    q = find(control, sequence);
    switch (frame->type) {
    case FRAME_QUERY_UP:
        if (link)
            query_ask(control, link, sequence);
        break;
    case FRAME_QUERY_DOWN:
        budget = (int)min_u64(boot_get_u32(frame->payload + 8), GATHER_MS);
        if (!link)
            asked_from_above(control, sequence, budget, now);
        break;
    case FRAME_QUERY_WAIT:
        if (!link)
            told_to_wait(control, q, now);
        break;
    case FRAME_ANSWER:
        if (link)
            answered_from_below(control, q, link, frame, now);
        break;
    case FRAME_RECORDS:
        if (!link && q && take_records(q, frame, 0, control->tree.nranks) == control->tree.nranks)
            deliver(control, q);
        break;
    default:
        break;
    }
}

/* ---- time, and neighbours that go ---- */

void query_link_gone(struct control *control, int link)
{
    struct query *q = control->queries, *next;
    int64_t now = now_ns();

    for (; q; q = next) {
        next = q->next;
        q->asked_by[link] = false;
        if (!link && q->state != GATHERING) {
            q->due = now;
        } else if (!link) {
            q->for_parent = false;
        } else if (q->waiting[link]) {
            q->waiting[link] = false;
            mark_left(control, q, link);
            if (q->state == GATHERING && all_answered(q))
                gathered(control, q, now);
        }
    }
}

void query_time(struct control *control, int64_t now)
{
    struct query *q = control->queries, *next;

    for (; q; q = next) {
        next = q->next;
        if (now < q->due)
            continue;
        if (q->state == ASKED_ABOVE)
            gather(control, q, GATHER_MS - LEVEL_MS * control->tree.depth, now);
        else if (q->state == GATHERING)
            gathered(control, q, now);
        else
            deliver(control, q); /* what is known below; the rest stays unknown */
    }
}

int64_t query_due(const struct control *control)
{
    int64_t due = INT64_MAX;

    for (const struct query *q = control->queries; q; q = q->next)
        due = q->due < due ? q->due : due;
    return due;
}
