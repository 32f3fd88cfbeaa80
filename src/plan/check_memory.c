/*
 * check_memory: the memory of all ranks as segments: who wrote each last, who has read it since, and what it is made
 * of. Finds races and moves contents. Called by plan_check.c for every operand.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

/* ---- layout ------------------------------------------------------------------------------------------------------ */

static bool add_store(struct check *check, uint64_t bytes)
{
    if (!VECTOR_RESERVE(&check->stores, check->stores.n + 1) ||
        !store_init(&check->stores.at[check->stores.n], bytes))
        return check_no_memory(check);
    check->stores.n++;
    return true;
}

/* In place by the rules of thrum.h: one store for both, the smaller buffer somewhere in the larger. */
static void alias(const struct plan_params *params, int rank, struct rank_state *state)
{
    uint64_t elem = thrum_datatype_size(params->dtype);
    uint64_t block = (uint64_t)rank * params->count * elem;
    bool root = rank == params->root;

    switch (params->collective) {
    case COLL_ALLREDUCE:
    case COLL_SCAN:
    case COLL_EXSCAN:
        state->send = state->recv;
        break;
    case COLL_BROADCAST:
    case COLL_REDUCE:
        if (root)
            state->send = state->recv;
        break;
    case COLL_GATHER:
        if (root)
            state->send = (struct place){state->recv.store, block};
        break;
    case COLL_SCATTER:
        if (root)
            state->recv = (struct place){state->send.store, block};
        break;
    case COLL_ALLGATHER:
        state->send = (struct place){state->recv.store, plan_block_first(params, rank) * elem};
        break;
    case COLL_REDUCE_SCATTER:
        state->recv = (struct place){state->send.store, plan_block_first(params, rank) * elem};
        break;
    default:
        break;
    }
}

/* Stores of a rank: SCRATCH; then SEND and RECV, or one for each message of SENDRECV. */
bool memory_init(struct check *check)
{
    for (int rank = 0; rank < check->n; rank++) {
        const struct plan_params *params = &check->plans[rank].params;
        struct rank_state *state = &check->ranks[rank];
        uint32_t first = (uint32_t)check->stores.n;

        state->first_store = first;
        state->scratch = (struct place){first, 0};
        state->send = (struct place){first + 1, 0};
        state->recv = (struct place){first + 2, 0};
        if (!add_store(check, params->scratch_bytes))
            return false;
        if (params->collective == COLL_SENDRECV) {
            for (int i = 0; i < params->np2p; i++)
                if (!add_store(check, params->p2p[i].bytes))
                    return false;
        } else {
            if (!add_store(check, plan_send_bytes(params, rank)) ||
                !add_store(check, plan_recv_bytes(params, rank)))
                return false;
            if (params->in_place)
                alias(params, rank, state);
        }
    }
    return true;
}

void memory_fini(struct check *check)
{
    for (size_t i = 0; i < check->stores.n; i++)
        store_fini(&check->stores.at[i]);
    free(check->stores.at);
    free(check->reads.at);
    free(check->puts.at);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* Is an earlier access over for someone who knows `clock`? */
static bool is_over(const struct check *check, const struct access *access, const uint32_t *clock,
                    bool was_read)
{
    const struct put *put;
    uint32_t end;

    if (!access->put)
        return clock[access->thread] >= access->epoch;
    put = &check->puts.at[access->put - 1];
    if (put->epoch && clock[put->receiver] >= put->epoch)
        return true;
    if (!was_read)
        return false;
    end = *check_start(check, put->round + 1, (int)put->sender);
    return end && clock[check_thread(check, (int)put->sender, 0)] >= end;
}

struct range {
    const struct plan_operand *operand;
    struct place place;
    uint64_t first, last; /* bytes of the store */
};

static bool report_race(struct check *check, const struct range *range,
                        const struct access *earlier, bool earlier_reads,
                        const struct access *access, bool reads)
{
    uint64_t base = range->operand->offset - range->place.offset;

    report_begin(check,
                 "data race on rank %d %s[%" PRIu64 "..%" PRIu64
                 "): nothing orders a %s before a %s%s",
                 range->operand->rank, plan_space_name(range->operand->space), range->first + base,
                 range->last + base, earlier_reads ? "read" : "write", reads ? "read" : "write",
                 !earlier->put   ? ""
                 : earlier_reads ? "; a PUT reads its source until its receipt is known"
                                 : "; a PUT writes until its receiver has waited for it");
    report_access(check, earlier_reads ? "read by" : "written by", earlier);
    report_access(check, reads ? "read by" : "written by", access);
    report_lane(check, earlier->thread);
    if (access->thread != earlier->thread)
        report_lane(check, access->thread);
    return false;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool add_read(struct check *check, struct segment *segment, struct access access)
{
    uint32_t older = segment->reads;

    if (older && !access.put) {
        const struct read *last = &check->reads.at[older - 1];

        if (!last->access.put && last->access.thread == access.thread) {
            if (last->access.epoch == access.epoch)
                return true;
            older = last->next;
        }
    }
    if (!VECTOR_RESERVE(&check->reads, check->reads.n + 1))
        return check_no_memory(check);
    check->reads.at[check->reads.n++] = (struct read){access, older};
    segment->reads = (uint32_t)check->reads.n;
    return true;
}

static bool add_piece(struct check *check, pieces_t *pieces, struct piece piece)
{
    struct piece *last = pieces->n ? &pieces->at[pieces->n - 1] : NULL;

    if (last && last->content == piece.content && last->origin + last->bytes == piece.origin &&
        last->offset + last->bytes == piece.offset) {
        last->bytes += piece.bytes;
        return true;
    }
    if (!VECTOR_RESERVE(pieces, pieces->n + 1))
        return check_no_memory(check);
    pieces->at[pieces->n++] = piece;
    return true;
}

/*
 * Nothing has written it in this run. If somebody still will, in an order that nobody enforces, that is a race and the
 * better thing to report: so it is only kept in mind here.
 */
static void note_undefined(struct check *check, const struct range *range,
                           const struct access *access)
{
    if (check->undefined.found)
        return;
    check->undefined.found = true;
    check->undefined.operand = *range->operand;
    check->undefined.operand.offset += range->first - range->place.offset;
    check->undefined.bytes = range->last - range->first;
    check->undefined.access = *access;
}

bool memory_report_undefined(struct check *check)
{
    const struct plan_operand *o = &check->undefined.operand;

    report_begin(
        check, "reads what nothing in this plan has written: rank %d %s[%" PRIu64 "..%" PRIu64 ")",
        o->rank, plan_space_name(o->space), o->offset, o->offset + check->undefined.bytes);
    report_access(check, "read by", &check->undefined.access);
    report_lane(check, check->undefined.access.thread);
    return false;
}

/* Cuts so that the cursor's segment is [first, last) of what it was. */
static bool isolate(struct check *check, struct cursor *cursor, uint64_t first, uint64_t last)
{
    if (cursor_segment(cursor)->start < first && !cursor_split(cursor, first))
        return check_no_memory(check);
    if (cursor_end(cursor) > last) {
        if (!cursor_split(cursor, last))
            return check_no_memory(check);
        *cursor = store_find(cursor->store, first);
    }
    return true;
}

bool memory_read(struct check *check, struct place place, const struct plan_operand *operand,
                 uint64_t bytes, struct access access, pieces_t *pieces_out)
{
    struct store *store = &check->stores.at[place.store];
    const uint32_t *clock = check_clock(check, access.thread);
    uint64_t at = place.offset, end = place.offset + bytes;
    struct cursor cursor;

    if (!bytes)
        return true;
    for (cursor = store_find(store, at); at < end; cursor_next(&cursor)) {
        const struct segment *segment = cursor_segment(&cursor);
        struct range range = {operand, place, at, min_u64(cursor_end(&cursor), end)};
        struct piece piece = {at - place.offset, range.last - at,
                              segment->origin + (at - segment->start), segment->content};

        if (!is_over(check, &segment->write, clock, false))
            return report_race(check, &range, &segment->write, false, &access, true);
        if (pieces_out && segment->content == CONTENT_UNDEFINED)
            note_undefined(check, &range, &access);
        if (pieces_out && !add_piece(check, pieces_out, piece))
            return false;
        if (!isolate(check, &cursor, at, range.last) ||
            !add_read(check, cursor_segment(&cursor), access))
            return false;
        at = range.last;
    }
    return true;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool may_overwrite(struct check *check, const struct segment *segment,
                          const struct range *range, const struct access *access)
{
    const uint32_t *clock = check_clock(check, access->thread);

    if (!is_over(check, &segment->write, clock, false))
        return report_race(check, range, &segment->write, false, access, false);
    for (uint32_t i = segment->reads; i; i = check->reads.at[i - 1].next)
        if (!is_over(check, &check->reads.at[i - 1].access, clock, true))
            return report_race(check, range, &check->reads.at[i - 1].access, true, access, false);
    return true;
}

static bool write_piece(struct check *check, struct store *store, uint64_t start,
                        const struct piece *piece, const struct access *access)
{
    struct cursor cursor = store_find(store, start);

    cursor_extend(&cursor, start + piece->bytes);
    if (!isolate(check, &cursor, start, start + piece->bytes))
        return false;
    *cursor_segment(&cursor) = (struct segment){
        .start = start, .origin = piece->origin, .content = piece->content, .write = *access};
    return true;
}

bool memory_write(struct check *check, struct place place, const struct plan_operand *operand,
                  const pieces_t *pieces, struct access access)
{
    struct store *store = &check->stores.at[place.store];
    const struct piece *last;
    uint64_t at = place.offset, end;
    struct cursor cursor;

    if (!pieces->n)
        return true;
    last = &pieces->at[pieces->n - 1];
    end = at + last->offset + last->bytes;
    for (cursor = store_find(store, at); at < end; cursor_next(&cursor)) {
        struct range range = {operand, place, at, min_u64(cursor_end(&cursor), end)};

        if (!may_overwrite(check, cursor_segment(&cursor), &range, &access))
            return false;
        at = range.last;
    }
    for (size_t i = 0; i < pieces->n; i++)
        if (!write_piece(check, store, place.offset + pieces->at[i].offset, &pieces->at[i],
                         &access))
            return false;
    return true;
}

/* ---- the caller -------------------------------------------------------------------------------------------------- */

static bool set_all(struct check *check, struct place place, const struct plan_operand *operand,
                    uint64_t bytes, uint32_t content, uint64_t origin, struct access access)
{
    struct piece piece = {0, bytes, origin, content};
    pieces_t one = {&piece, bytes ? 1 : 0, 1};

    return memory_write(check, place, operand, &one, access);
}

static struct plan_operand caller_operand(int rank, const struct plan_params *params, size_t store)
{
    unsigned space = PLAN_SCRATCH;

    if (store && params->collective == COLL_SENDRECV)
        space = params->p2p[store - 1].is_send ? PLAN_SEND : PLAN_RECV;
    else if (store)
        space = store == 1 ? PLAN_SEND : PLAN_RECV;
    return plan_at((enum plan_space)space, rank, 0);
}

bool memory_caller_write(struct check *check, int rank, uint32_t op, uint32_t round)
{
    const struct plan_params *params = &check->plans[rank].params;
    const struct rank_state *state = &check->ranks[rank];
    uint32_t thread = check_thread(check, rank, 0), input;
    struct access access = {thread, check_clock(check, thread)[thread], op, round, 0};
    size_t nstores = params->collective == COLL_SENDRECV ? 1 + (size_t)params->np2p : 3;

    for (size_t i = 0; i < nstores; i++) {
        struct place place = {state->first_store + (uint32_t)i, 0};
        struct plan_operand operand = caller_operand(rank, params, i);

        if (!set_all(check, place, &operand, check->stores.at[place.store].bytes, CONTENT_UNDEFINED,
                     0, access))
            return false;
    }
    if (op != OP_BEFORE)
        return true;
    if (!content_of_rank(&check->contents, rank, round, &input))
        return check_no_memory(check);
    if (params->collective != COLL_SENDRECV) {
        struct plan_operand operand = plan_at(PLAN_SEND, rank, 0);

        return set_all(check, state->send, &operand, plan_send_bytes(params, rank), input, 0,
                       access);
    }
    for (int i = 0; i < params->np2p; i++) {
        struct place place = {state->first_store + 1 + (uint32_t)i, 0};
        struct plan_operand operand = plan_at(PLAN_SEND, rank, params->p2p[i].offset);

        if (params->p2p[i].is_send && !set_all(check, place, &operand, params->p2p[i].bytes, input,
                                               params->p2p[i].offset, access))
            return false;
    }
    return true;
}
