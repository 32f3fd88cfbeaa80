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
    struct store store = {.bytes = bytes};

    if (!VECTOR_RESERVE(&check->stores, check->stores.n + 1))
        return check_no_memory(check);
    if (bytes) {
        if (!VECTOR_RESERVE(&store.segments, 4))
            return check_no_memory(check);
        store.segments.at[store.segments.n++] = (struct segment){0};
    }
    check->stores.at[check->stores.n++] = store;
    return true;
}

/* In place by the rules of thrum.h: one store for both, the smaller buffer somewhere in the larger. */
static void alias(const struct plan_params *params, int rank, struct rank_state *state)
{
    uint64_t block = params->count * thrum_datatype_size(params->dtype);

    switch (params->collective) {
    case COLL_ALLREDUCE:
        state->send = state->recv;
        break;
    case COLL_BROADCAST:
        if (rank == params->root)
            state->send = state->recv;
        break;
    case COLL_ALLGATHER:
        state->send = (struct place){state->recv.store, (uint64_t)rank * block};
        break;
    case COLL_REDUCE_SCATTER:
        state->recv = (struct place){state->send.store, (uint64_t)rank * block};
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
        free(check->stores.at[i].segments.at);
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
                 "): a %s is not ordered after a %s%s",
                 range->operand->rank, plan_space_name(range->operand->space), range->first + base,
                 range->last + base, reads ? "read" : "write", earlier_reads ? "read" : "write",
                 !earlier->put   ? ""
                 : earlier_reads ? " by a PUT, whose source stays in use until its receipt is known"
                                 : " by a PUT, which is over when its receiver has waited for it");
    report_access(check, earlier_reads ? "read by" : "written by", earlier);
    report_access(check, reads ? "read by" : "written by", access);
    report_lane(check, earlier->thread);
    if (access->thread != earlier->thread)
        report_lane(check, access->thread);
    return false;
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

size_t memory_find(const struct store *store, uint64_t offset)
{
    size_t low = 0, high = store->segments.n;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (store->segments.at[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint64_t end_of(const struct store *store, size_t i)
{
    return i + 1 < store->segments.n ? store->segments.at[i + 1].start : store->bytes;
}

/* Makes room for `n` segments in place of `old` ones from i on. */
static bool replace(struct check *check, struct store *store, size_t i, size_t old, size_t n)
{
    size_t total = store->segments.n - old + n;

    if (!VECTOR_RESERVE(&store->segments, total))
        return check_no_memory(check);
    memmove(store->segments.at + i + n, store->segments.at + i + old,
            (store->segments.n - i - old) * sizeof *store->segments.at);
    store->segments.n = total;
    return true;
}

static void cut(struct segment *segment, uint64_t offset)
{
    segment->origin += offset - segment->start;
    segment->start = offset;
}

/* Cuts segment i at `offset`, inside it. */
static bool split(struct check *check, struct store *store, size_t i, uint64_t offset)
{
    if (!replace(check, store, i, 1, 2))
        return false;
    store->segments.at[i + 1] = store->segments.at[i];
    cut(&store->segments.at[i + 1], offset);
    return true;
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

static bool report_undefined(struct check *check, const struct range *range,
                             const struct access *access)
{
    uint64_t base = range->operand->offset - range->place.offset;

    report_begin(
        check, "reads what nothing in this plan has written: rank %d %s[%" PRIu64 "..%" PRIu64 ")",
        range->operand->rank, plan_space_name(range->operand->space), range->first + base,
        range->last + base);
    report_access(check, "read by", access);
    report_lane(check, access->thread);
    return false;
}

bool memory_read(struct check *check, struct place place, const struct plan_operand *operand,
                 uint64_t bytes, struct access access, pieces_t *pieces_out)
{
    struct store *store = &check->stores.at[place.store];
    const uint32_t *clock = check_clock(check, access.thread);
    uint64_t at = place.offset, end = place.offset + bytes;

    for (size_t i = bytes ? memory_find(store, at) : 0; at < end; i++) {
        struct segment *segment = &store->segments.at[i];
        struct range range = {operand, place, at, min_u64(end_of(store, i), end)};

        if (!is_over(check, &segment->write, clock, false))
            return report_race(check, &range, &segment->write, false, &access, true);
        if (pieces_out && segment->content == CONTENT_UNDEFINED)
            return report_undefined(check, &range, &access);
        if (segment->start < at) {
            if (!split(check, store, i, at))
                return false;
            segment = &store->segments.at[++i];
        }
        if (end_of(store, i) > end) {
            if (!split(check, store, i, end))
                return false;
            segment = &store->segments.at[i];
        }
        if (pieces_out && !add_piece(check, pieces_out,
                                     (struct piece){at - place.offset, range.last - at,
                                                    segment->origin, segment->content}))
            return false;
        if (!add_read(check, segment, access))
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

bool memory_write(struct check *check, struct place place, const struct plan_operand *operand,
                  const pieces_t *pieces, struct access access)
{
    struct store *store = &check->stores.at[place.store];
    const struct piece *last_piece;
    uint64_t at = place.offset, end;
    size_t first, last, n;
    struct segment left, right;
    bool keep_left, keep_right;

    if (!pieces->n)
        return true;
    last_piece = &pieces->at[pieces->n - 1];
    end = at + last_piece->offset + last_piece->bytes;
    first = memory_find(store, at);
    for (last = first;; last++) {
        const struct segment *segment = &store->segments.at[last];
        struct range range = {operand, place, max_u64(segment->start, at),
                              min_u64(end_of(store, last), end)};

        if (!may_overwrite(check, segment, &range, &access))
            return false;
        if (end_of(store, last) >= end)
            break;
    }
    left = store->segments.at[first];
    right = store->segments.at[last];
    keep_left = left.start < at;
    keep_right = end_of(store, last) > end;
    n = pieces->n + keep_left + keep_right;
    if (!replace(check, store, first, last - first + 1, n))
        return false;
    if (keep_left)
        store->segments.at[first++] = left;
    for (size_t i = 0; i < pieces->n; i++)
        store->segments.at[first++] = (struct segment){.start = at + pieces->at[i].offset,
                                                       .origin = pieces->at[i].origin,
                                                       .content = pieces->at[i].content,
                                                       .write = access};
    if (keep_right) {
        cut(&right, end);
        store->segments.at[first] = right;
    }
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
