/*
 * check_result: does RECV hold what the collective promises? Called by plan_check.c at each rank's end of the plan,
 * and for each REDUCE.
 */
#include <inttypes.h>

#include "base/base.h"
#include "plan/check.h"

/* RECV bytes [offset, offset + bytes) of a rank shall be `content` of the input from byte `origin` on. */
struct expectation {
    int rank;
    struct place place; /* of `offset` */
    uint64_t offset, bytes;
    uint32_t content;
    uint64_t origin;
    int contributions; /* that are reduced; 0: none, `content` as it was */
};

/*
 * Why a result with the right contributions is wrong all the same; NULL: it is not. Of one contribution the reduction is
 * the contribution itself and AVG divides by 1, so that a COPY will do; but LAND and LOR yield 0 or 1, so they must pass
 * through a REDUCE.
 */
static const char *reduction_fault(const struct check *check, const struct expectation *e,
                                   const struct content *content)
{
    const struct plan_params *params = check_params(check);

    if (e->contributions == 1 && (params->redop == THRUM_LAND || params->redop == THRUM_LOR) &&
        !content->passes)
        return "no REDUCE has made it 0 or 1";
    if (e->contributions > 1 && !content->finals)
        return "it does not come from a REDUCE|FINAL, so AVG is never divided";
    if (content->finals > 1)
        return "it has passed two REDUCE|FINAL, so AVG is divided twice";
    if (content->roundings > 1)
        return "it was rounded more than once: partial results belong in WIDE";
    if (check->ordered && !content->ordered)
        return "it is not folded in rank order";
    return NULL;
}

static bool wrong(struct check *check, const struct expectation *e, const struct segment *segment,
                  uint64_t first, uint64_t last, const char *fault)
{
    char expected[256], found[256];
    uint64_t base = e->offset - e->place.offset;
    uint64_t wanted = e->origin + (first - e->place.offset);
    uint64_t got = segment->origin + (first - segment->start);

    if (segment->content == CONTENT_UNDEFINED && check->undefined.found)
        return memory_report_undefined(check);
    report_content(check, e->content, check->round, expected, sizeof expected);
    report_content(check, segment->content, check->round, found, sizeof found);
    if (fault)
        report_begin(check, "wrong result: rank %d RECV[%" PRIu64 "..%" PRIu64 "): %s", e->rank,
                     first + base, last + base, fault);
    else if (segment->content != CONTENT_UNDEFINED && got != wanted)
        report_begin(check,
                     "wrong result: rank %d RECV[%" PRIu64 "..%" PRIu64
                     "): expected %s of input byte %" PRIu64 ", found %s of input byte %" PRIu64,
                     e->rank, first + base, last + base, expected, wanted, found, got);
    else
        report_begin(check,
                     "wrong result: rank %d RECV[%" PRIu64 "..%" PRIu64 "): expected %s, found %s",
                     e->rank, first + base, last + base, expected, found);
    report_access(check,
                  segment->content == CONTENT_UNDEFINED ? "nothing written since" : "written by",
                  &segment->write);
    if (segment->write.op < OP_AFTER)
        report_lane(check, segment->write.thread);
    return false;
}

static bool meets(struct check *check, const struct expectation *e)
{
    struct store *store = &check->stores.at[e->place.store];
    uint64_t at = e->place.offset, end = at + e->bytes;
    struct cursor cursor;

    if (!e->bytes)
        return true;
    for (cursor = store_find(store, at); at < end; cursor_next(&cursor)) {
        const struct segment *segment = cursor_segment(&cursor);
        uint64_t last = min_u64(cursor_end(&cursor), end);
        const char *fault = NULL;
        bool same = content_same_terms(&check->contents, segment->content, e->content) &&
                    segment->origin + (at - segment->start) == e->origin + (at - e->place.offset);

        if (same && e->contributions)
            fault = reduction_fault(check, e, &check->contents.all.at[segment->content]);
        if (!same || fault)
            return wrong(check, e, segment, at, last, fault);
        at = last;
    }
    return true;
}

static struct expectation expectation_of(const struct check *check, int rank, uint64_t offset,
                                         uint64_t bytes, uint64_t origin)
{
    struct place recv = check->ranks[rank].recv;

    return (struct expectation){.rank = rank,
                                .place = {recv.store, recv.offset + offset},
                                .offset = offset,
                                .bytes = bytes,
                                .origin = origin};
}

/* The input of `from`. */
static bool expect_input(struct check *check, int rank, uint64_t offset, uint64_t bytes, int from,
                         uint64_t origin)
{
    struct expectation e = expectation_of(check, rank, offset, bytes, origin);

    if (!content_of_rank(&check->contents, from, check->round, &e.content))
        return check_no_memory(check);
    return meets(check, &e);
}

/* The first bytes of RECV: the fold of the first `contributions` ranks. */
static bool expect_fold(struct check *check, int rank, uint64_t bytes, int contributions,
                        uint64_t origin)
{
    struct expectation e = expectation_of(check, rank, 0, bytes, origin);

    e.contributions = contributions;
    if (!content_of_prefix(&check->contents, contributions - 1, check->round, &e.content))
        return check_no_memory(check);
    return meets(check, &e);
}

/* RECV bytes [first, end): nobody has written them since the caller. */
static bool expect_untouched(struct check *check, int rank, uint64_t first, uint64_t end)
{
    struct place recv = check->ranks[rank].recv;
    struct store *store = &check->stores.at[recv.store];
    uint64_t at = recv.offset + first, last = recv.offset + end;
    struct cursor cursor;

    if (first >= end)
        return true;
    for (cursor = store_find(store, at); at < last; cursor_next(&cursor)) {
        const struct segment *segment = cursor_segment(&cursor);

        at = min_u64(cursor_end(&cursor), last);
        if (segment->write.op == OP_BEFORE)
            continue;
        report_begin(
            check, "rank %d RECV[%" PRIu64 "..%" PRIu64 ") is written, which is not the plan's",
            rank, max_u64(segment->start, recv.offset + first) - recv.offset, at - recv.offset);
        report_access(check, "written by", &segment->write);
        return false;
    }
    return true;
}

/* The message of `peer` that meets receive i of `rank`; rules have found that there is one of equal length. */
static bool expect_message(struct check *check, int rank, int i)
{
    const struct plan_p2p *recv = &check->plans[rank].params.p2p[i];
    const struct plan_params *from = &check->plans[recv->peer].params;
    struct expectation e = {.rank = rank, .offset = recv->offset, .bytes = recv->bytes};

    e.place = (struct place){check->ranks[rank].first_store + 1 + (uint32_t)i, 0};
    for (int k = 0; k < from->np2p; k++)
        if (from->p2p[k].is_send && from->p2p[k].peer == rank)
            e.origin = from->p2p[k].offset;
    if (!content_of_rank(&check->contents, recv->peer, check->round, &e.content))
        return check_no_memory(check);
    return meets(check, &e);
}

static bool expect_blocks(struct check *check, int rank)
{
    const struct plan_params *params = &check->plans[rank].params;
    uint64_t elem = thrum_datatype_size(params->dtype);
    bool gaps = params->counts && params->displs;

    for (int from = 0; from < check->n; from++)
        if (!expect_input(check, rank, plan_block_first(params, from) * elem,
                          plan_block_elems(params, from) * elem, from, 0))
            return false;
    for (int r = -1; gaps && r < check->n; r++) { /* behind block r up to the next one */
        uint64_t first = r < 0 ? 0 : params->displs[r] + params->counts[r];
        uint64_t end = plan_recv_bytes(params, rank) / elem;

        for (int other = 0; other < check->n; other++)
            if (params->counts[other] && params->displs[other] + params->counts[other] > first)
                end = min_u64(end, max_u64(params->displs[other], first));
        if (!expect_untouched(check, rank, first * elem, end * elem))
            return false;
    }
    return true;
}

static bool expect_messages(struct check *check, int rank)
{
    const struct plan_params *params = &check->plans[rank].params;

    for (int i = 0; i < params->np2p; i++)
        if (!params->p2p[i].is_send && !expect_message(check, rank, i))
            return false;
    return true;
}

/* `block` bytes of each rank, from byte `origin` of its input. */
static bool expect_block_of_each(struct check *check, int rank, uint64_t block, uint64_t origin)
{
    for (int from = 0; from < check->n; from++)
        if (!expect_input(check, rank, (uint64_t)from * block, block, from, origin))
            return false;
    return true;
}

bool result_check(struct check *check, int rank)
{
    const struct plan_params *params = &check->plans[rank].params;
    uint64_t elem = thrum_datatype_size(params->dtype), block = params->count * elem;
    uint64_t own = (uint64_t)rank * block;

    switch (params->collective) {
    case COLL_ALLREDUCE:
        return expect_fold(check, rank, block, check->n, 0);
    case COLL_BROADCAST:
        return expect_input(check, rank, 0, block, params->root, 0);
    case COLL_ALLGATHER:
        return expect_blocks(check, rank);
    case COLL_REDUCE_SCATTER:
        return expect_fold(check, rank, plan_block_elems(params, rank) * elem, check->n,
                           plan_block_first(params, rank) * elem);
    case COLL_REDUCE:
        return rank != params->root || expect_fold(check, rank, block, check->n, 0);
    case COLL_GATHER:
        return rank != params->root || expect_block_of_each(check, rank, block, 0);
    case COLL_SCATTER:
        return expect_input(check, rank, 0, block, params->root, own);
    case COLL_ALLTOALL:
        return expect_block_of_each(check, rank, block, own);
    case COLL_SCAN:
        return expect_fold(check, rank, block, rank + 1, 0);
    case COLL_EXSCAN:
        return rank ? expect_fold(check, rank, block, rank, 0)
                    : expect_untouched(check, rank, 0, block);
    case COLL_SENDRECV:
        return expect_messages(check, rank);
    default:
        return true;
    }
}

bool result_check_final(struct check *check, int rank, size_t op, uint32_t content)
{
    const struct content *found = &check->contents.all.at[content];
    uint64_t contributions = check->plans[rank].ops[op].value;
    char expected_text[256], found_text[256];
    uint32_t expected;
    int last = (contributions ? (int)contributions : check->n) - 1;

    if (content == CONTENT_UNDEFINED)
        return true; /* noted when it was read */
    if (found->finals > 1) {
        report_begin(check, "rank %d op %zu divides what a REDUCE|FINAL has divided already", rank,
                     op);
        report_op(check, "op", rank, op, check->round);
        return false;
    }
    if (!content_of_prefix(&check->contents, last, check->round, &expected))
        return check_no_memory(check);
    if (content_same_terms(&check->contents, content, expected))
        return true;
    report_content(check, expected, check->round, expected_text, sizeof expected_text);
    report_content(check, content, check->round, found_text, sizeof found_text);
    report_begin(check,
                 "rank %d op %zu is FINAL without all contributions once: expected %s, found %s",
                 rank, op, expected_text, found_text);
    report_op(check, "op", rank, op, check->round);
    report_lane(check, check_thread(check, rank, check->plans[rank].ops[op].lane));
    return false;
}
