/*
 * check_content: what bytes are made of: a multiset of contributions, and how it was folded. Called by the checker's
 * memory. Contents are interned, and sets of neighbouring ranks are runs, so that a ring of n ranks needs two runs for
 * each of its partial sums and equality is that of two numbers.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

#define MEMO_SIZE 4096 /* a power of two */

bool contents_init(struct contents *contents)
{
    contents->table_size = 256;
    contents->table = calloc(contents->table_size, sizeof *contents->table);
    contents->memo = calloc(MEMO_SIZE, sizeof *contents->memo);
    if (!contents->table || !contents->memo || !VECTOR_RESERVE(&contents->all, 1))
        return false;
    contents->all.at[contents->all.n++] = (struct content){0}; /* CONTENT_UNDEFINED */
    return true;
}

void contents_fini(struct contents *contents)
{
    free(contents->all.at);
    free(contents->runs.at);
    free(contents->table);
    free(contents->memo);
}

/* ---- interning --------------------------------------------------------------------------------------------------- */

static uint32_t mix(uint32_t hash, uint64_t value)
{
    uint64_t x = (value + hash) * 0x9e3779b97f4a7c15u;

    return (uint32_t)(x >> 32) ^ (uint32_t)x;
}

static uint32_t hash_of(const struct content *content, const struct content_run *runs)
{
    uint32_t hash = mix(content->passes * 4 + content->finals * 2 + content->ordered, 1);

    hash = mix(hash, content->roundings);
    for (uint32_t i = 0; i < content->nruns; i++) {
        hash = mix(hash, ((uint64_t)runs[i].first << 32) | runs[i].last);
        hash = mix(hash, ((uint64_t)runs[i].times << 32) | runs[i].round);
        hash = mix(hash, (uint64_t)runs[i].shift);
    }
    return hash;
}

static bool same_runs(const struct content_run *a, const struct content_run *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (a[i].first != b[i].first || a[i].last != b[i].last || a[i].times != b[i].times ||
            a[i].round != b[i].round || a[i].shift != b[i].shift)
            return false;
    return true;
}

bool content_same_terms(const struct contents *contents, uint32_t a, uint32_t b)
{
    const struct content *x = &contents->all.at[a], *y = &contents->all.at[b];

    return a == b ||
           (x->nruns == y->nruns && same_runs(contents->runs.at + x->first_run,
                                              contents->runs.at + y->first_run, x->nruns));
}

static void enter(struct contents *contents, uint32_t id)
{
    size_t mask = contents->table_size - 1, slot = contents->all.at[id].hash & mask;

    while (contents->table[slot])
        slot = (slot + 1) & mask;
    contents->table[slot] = id;
}

static bool enlarge_table(struct contents *contents)
{
    size_t size = contents->table_size * 2;
    uint32_t *table = calloc(size, sizeof *table);

    if (!table)
        return false;
    free(contents->table);
    contents->table = table;
    contents->table_size = size;
    for (uint32_t id = 1; id < contents->all.n; id++)
        enter(contents, id);
    return true;
}

/* The runs of `content` are the last of contents->runs; they are taken back if there is an equal one already. */
static bool intern(struct contents *contents, struct content content, uint32_t *id_out)
{
    const struct content_run *runs = contents->runs.at + content.first_run;
    size_t mask = contents->table_size - 1;

    content.hash = hash_of(&content, runs);
    for (size_t slot = content.hash & mask; contents->table[slot]; slot = (slot + 1) & mask) {
        const struct content *other = &contents->all.at[contents->table[slot]];

        if (other->hash == content.hash && other->nruns == content.nruns &&
            other->passes == content.passes && other->roundings == content.roundings &&
            other->finals == content.finals && other->ordered == content.ordered &&
            same_runs(runs, contents->runs.at + other->first_run, content.nruns)) {
            contents->runs.n = content.first_run;
            *id_out = contents->table[slot];
            return true;
        }
    }
    if (!VECTOR_RESERVE(&contents->all, contents->all.n + 1))
        return false;
    *id_out = (uint32_t)contents->all.n;
    contents->all.at[contents->all.n++] = content;
    enter(contents, *id_out);
    return contents->all.n * 2 < contents->table_size || enlarge_table(contents);
}

static bool of_ranks(struct contents *contents, uint32_t first, uint32_t last, uint32_t round,
                     uint32_t *id_out)
{
    struct content content = {.first_run = contents->runs.n, .nruns = 1, .ordered = true};

    if (!VECTOR_RESERVE(&contents->runs, contents->runs.n + 1))
        return false;
    contents->runs.at[contents->runs.n++] =
        (struct content_run){.first = first, .last = last, .times = 1, .round = round};
    return intern(contents, content, id_out);
}

bool content_of_rank(struct contents *contents, int rank, uint32_t round, uint32_t *id_out)
{
    return of_ranks(contents, (uint32_t)rank, (uint32_t)rank, round, id_out);
}

bool content_of_prefix(struct contents *contents, int last, uint32_t round, uint32_t *id_out)
{
    return of_ranks(contents, 0, (uint32_t)last, round, id_out);
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

/* Room is there. Joins a run to the one before it where they are one. */
static void emit(struct contents *contents, size_t first, const struct content_run *run)
{
    struct content_run *last = contents->runs.at + contents->runs.n - 1;

    if (contents->runs.n > first && last->last + 1 == run->first && last->times == run->times &&
        last->round == run->round && last->shift == run->shift)
        last->last = run->last;
    else
        contents->runs.at[contents->runs.n++] = *run;
}

/* Of two runs: which comes first? 0: they meet. */
static int compare(const struct content_run *a, const struct content_run *b)
{
    if (a->round != b->round)
        return a->round < b->round ? -1 : 1;
    if (a->shift != b->shift)
        return a->shift < b->shift ? -1 : 1;
    if (a->last < b->first)
        return -1;
    return b->last < a->first ? 1 : 0;
}

/* The part of two meeting runs that lies before both, or both of them together; shortens the runs by it. */
static struct content_run split(struct content_run *a, struct content_run *b)
{
    struct content_run part = a->first <= b->first ? *a : *b;

    if (a->first < b->first) {
        part.last = b->first - 1;
        a->first = b->first;
    } else if (b->first < a->first) {
        part.last = a->first - 1;
        b->first = a->first;
    } else {
        part.last = a->last < b->last ? a->last : b->last;
        part.times = a->times + b->times;
        a->first = b->first = part.last + 1;
    }
    return part;
}

static bool merge(struct contents *contents, const struct content *x, const struct content *y,
                  int64_t shift)
{
    size_t first = contents->runs.n, i = 0, j = 0;
    struct content_run a = {0}, b = {0};
    bool have_a = false, have_b = false;

    /* Two runs that meet make at most three. */
    if (!VECTOR_RESERVE(&contents->runs, first + 3 * ((size_t)x->nruns + y->nruns)))
        return false;
    for (;;) {
        struct content_run part;
        int order;

        if (!have_a && i < x->nruns) {
            a = contents->runs.at[x->first_run + i++];
            have_a = true;
        }
        if (!have_b && j < y->nruns) {
            b = contents->runs.at[y->first_run + j++];
            b.shift += shift;
            have_b = true;
        }
        if (!have_a && !have_b)
            return true;
        order = !have_b ? -1 : !have_a ? 1 : compare(&a, &b);
        if (order) {
            emit(contents, first, order < 0 ? &a : &b);
            *(order < 0 ? &have_a : &have_b) = false;
        } else {
            part = split(&a, &b);
            emit(contents, first, &part);
            have_a = a.first <= a.last;
            have_b = b.first <= b.last;
        }
    }
}

/* Is y the one contribution that comes right behind the left fold x? */
static bool continues(const struct contents *contents, const struct content *x,
                      const struct content *y, int64_t shift)
{
    const struct content_run *a = contents->runs.at + x->first_run,
                             *b = contents->runs.at + y->first_run;

    return x->ordered && x->nruns == 1 && y->nruns == 1 && !shift && b->first == b->last &&
           a->times == 1 && b->times == 1 && a->last + 1 == b->first && a->round == b->round;
}

static bool fold(struct contents *contents, uint32_t a, uint32_t b, int64_t shift, uint32_t *id_out)
{
    struct content x = contents->all.at[a], y = contents->all.at[b], result = {0};

    result.first_run = contents->runs.n;
    if (!merge(contents, &x, &y, shift))
        return false;
    result.nruns = (uint32_t)(contents->runs.n - result.first_run);
    result.passes = x.passes > y.passes ? x.passes : y.passes;
    result.roundings = x.roundings > y.roundings ? x.roundings : y.roundings;
    result.finals = x.finals + y.finals;
    result.ordered = continues(contents, &x, &y, shift);
    return intern(contents, result, id_out);
}

bool content_fold(struct contents *contents, uint32_t a, uint32_t b, int64_t shift,
                  uint32_t *id_out)
{
    uint32_t hash;
    struct content_memo *memo;

    if (a == CONTENT_UNDEFINED || b == CONTENT_UNDEFINED) {
        *id_out = CONTENT_UNDEFINED;
        return true;
    }
    hash = mix(mix(a, b), (uint64_t)shift);
    memo = &contents->memo[hash & (MEMO_SIZE - 1)];
    if (!memo->result || memo->a != a || memo->b != b || memo->shift != shift) {
        if (!fold(contents, a, b, shift, id_out))
            return false;
        *memo = (struct content_memo){.a = a, .b = b, .shift = shift, .result = *id_out};
    }
    *id_out = memo->result;
    return true;
}

bool content_finish(struct contents *contents, uint32_t id, bool final, bool rounds,
                    uint32_t *id_out)
{
    struct content content = contents->all.at[id];
    size_t first = contents->runs.n;

    *id_out = id;
    if (id == CONTENT_UNDEFINED)
        return true;
    if (!VECTOR_RESERVE(&contents->runs, first + content.nruns))
        return false;
    memcpy(contents->runs.at + first, contents->runs.at + content.first_run,
           content.nruns * sizeof *contents->runs.at);
    contents->runs.n += content.nruns;
    content.first_run = first;
    content.passes++;
    content.roundings += rounds;
    content.finals += final;
    return intern(contents, content, id_out);
}
