/*
 * The exchange of an allreduce between two processes, and nothing else: what a library can at best come close to on this
 * machine. Small vectors are sent whole; large ones are folded half by half, each byte moved once. See bench_link.h.
 */
#include "bench_link.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));
enum { LANES = sizeof(vector) / sizeof(float) };

struct bare_side { /* what the other side writes */
    _Atomic uint64_t flag;
    uint8_t rest_of_two_lines[120]; /* neighbours are fetched in pairs */
    struct {
        _Atomic uint64_t flag;
        float data[LINK_BARE_LINE_BYTES / sizeof(float) +
                   14]; /* a line more: not all in one cache set */
    } lines[2];
};

struct bare {
    const struct link_side *link;
    struct bare_side *mine, *peers;
    float *send[2], *recv[2]; /* by side */
    uint64_t flag, line; /* the latest of each; both sides count alike */
};

/* Buffers do not begin at equal offsets of pages, which would make loads wait for stores that only look the same. */
static size_t padded(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096 + 4096 + 1088;
}

size_t link_bare_bytes(size_t max_bytes)
{
    return 2 * padded(sizeof(struct bare_side)) + 4 * padded(max_bytes);
}

/* ---- folding ---- */

static inline __attribute__((always_inline)) void put(float *out, const vector *value, bool stream)
{
#if defined(__x86_64__)
    for (int k = 0; stream && k < LANES; k += 4) {
        __m128 part;
        memcpy(&part, (const char *)value + 4 * k, sizeof part);
        _mm_stream_ps(out + k, part);
    }
    if (stream)
        return;
#endif
    (void)stream;
    *(vector *)out = *value;
}

/* out[i] <- a[i] + b[i], and the same to `more` if it is not NULL; a few vectors at a time, one destination after the other. */
static inline __attribute__((always_inline)) void fold(float *restrict out, float *restrict more,
                                                       const float *a, const float *b, size_t n,
                                                       bool stream)
{
    enum { STEPS = 4 };
    size_t i = 0;

    for (; i + STEPS * LANES <= n; i += STEPS * LANES) {
        vector sum[STEPS];

        for (int k = 0; k < STEPS; k++)
            sum[k] = *(const vector *)(a + i + k * LANES) + *(const vector *)(b + i + k * LANES);
        for (int k = 0; k < STEPS; k++)
            put(out + i + k * LANES, &sum[k], stream);
        for (int k = 0; more && k < STEPS; k++)
            put(more + i + k * LANES, &sum[k], stream);
    }
    for (; i < n; i++) {
        out[i] = a[i] + b[i];
        if (more)
            more[i] = out[i];
    }
#if defined(__x86_64__)
    if (stream)
        _mm_sfence();
#endif
}

/* The same code for wider vectors, where the processor has them. */
#define FOLDS(suffix, attributes) \
    attributes static void fold_one_##suffix(float *out, const float *a, const float *b, size_t n) \
    { \
        fold(out, NULL, a, b, n, false); \
    } \
    attributes static void fold_two_##suffix(float *const *out, const float *a, const float *b, \
                                             size_t n) \
    { \
        fold(out[0], out[1], a, b, n, false); \
    } \
    attributes static void fold_stream_##suffix(float *const *out, const float *a, const float *b, \
                                                size_t n) \
    { \
        fold(out[0], out[1], a, b, n, true); \
    }

FOLDS(plain, )
#if defined(__x86_64__)
FOLDS(avx2, __attribute__((target("avx2"))))
FOLDS(avx512, __attribute__((target("avx512f"))))
#endif

static struct {
    void (*one)(float *out, const float *a, const float *b, size_t n);
    void (*two)(float *const *out, const float *a, const float *b, size_t n);
    void (*stream)(float *const *out, const float *a, const float *b, size_t n);
} folds = {fold_one_plain, fold_two_plain, fold_stream_plain};

static void choose_folds(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        folds.one = fold_one_avx512;
        folds.two = fold_two_avx512;
        folds.stream = fold_stream_avx512;
    } else if (__builtin_cpu_supports("avx2")) {
        folds.one = fold_one_avx2;
        folds.two = fold_two_avx2;
        folds.stream = fold_stream_avx2;
    }
#endif
}

/* ---- exchanges ---- */

static void await(const struct bare *b, _Atomic uint64_t *flag, uint64_t value)
{
    unsigned spins = 0;

    while (atomic_load_explicit(flag, memory_order_acquire) < value) {
        if (!b->link->one_core && ++spins % 20000) {
#if defined(__x86_64__)
            _mm_pause();
#endif
            continue;
        }
        sched_yield();
        if (++spins % 100 == 0)
            link_check(b->link);
    }
}

static void meet(struct bare *b)
{
    atomic_store_explicit(&b->peers->flag, ++b->flag, memory_order_release);
    await(b, &b->mine->flag, b->flag);
}

static void in_lines(struct bare *b, size_t n)
{
    int side = b->link->side;
    uint64_t value = ++b->line;

    memcpy(b->peers->lines[value % 2].data, b->send[side], n * sizeof(float));
    atomic_store_explicit(&b->peers->lines[value % 2].flag, value, memory_order_release);
    await(b, &b->mine->lines[value % 2].flag, value);
    folds.one(b->recv[side], b->send[side], b->mine->lines[value % 2].data, n);
}

static void direct(struct bare *b, size_t n, bool stream)
{
    size_t half = n / 2 / LANES * LANES, first = b->link->side ? half : 0;
    size_t count = b->link->side ? n - half : half;
    float *const out[2] = {b->recv[0] + first, b->recv[1] + first};

    meet(b);
    (stream ? folds.stream : folds.two)(out, b->send[0] + first, b->send[1] + first, count);
    meet(b);
}

static void exchange(struct bare *b, enum link_bare_kind kind, size_t n)
{
    if (kind == LINK_BARE_LINES)
        in_lines(b, n);
    else
        direct(b, n, kind == LINK_BARE_STREAM);
}

/* Time of one, after one that finds the cache as another kind has left it. */
static double batch(struct bare *b, enum link_bare_kind kind, size_t n, int times)
{
    double start;

    exchange(b, kind, n);
    meet(b);
    start = perf_now_us();
    for (int i = 0; i < times; i++)
        exchange(b, kind, n);
    return (perf_now_us() - start) / times;
}

/* ---- data ---- */

static struct bare lay_out(const struct link_side *link, void *shared, size_t max_bytes)
{
    struct bare b = {.link = link};
    char *at = shared;
    struct bare_side *sides[2];

    for (int s = 0; s < 2; s++, at += padded(sizeof(struct bare_side)))
        sides[s] = (struct bare_side *)(void *)at;
    for (int s = 0; s < 2; s++, at += padded(max_bytes))
        b.send[s] = (float *)(void *)at;
    for (int s = 0; s < 2; s++, at += padded(max_bytes))
        b.recv[s] = (float *)(void *)at;
    b.mine = sides[link->side];
    b.peers = sides[!link->side];
    b.flag = atomic_load(&b.mine->flag); /* where the call before has left off */
    for (int i = 0; i < 2; i++) {
        uint64_t line = atomic_load(&b.mine->lines[i].flag);
        b.line = line > b.line ? line : b.line;
    }
    return b;
}

static void fill(struct bare *b, size_t n)
{
    int side = b->link->side;

    for (size_t i = 0; i < n; i++)
        b->send[side][i] = (float)(i % 1021 + (size_t)side);
    memset(b->recv[side], 0xff, n * sizeof(float));
}

static void verify(const struct bare *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b->recv[b->link->side][i] != (float)(2 * (i % 1021) + 1))
            perf_die(PERF_EXIT_WRONG, "the sum of %zu elements is wrong at %zu", n, i);
}

/* Side 0's value on both sides. */
static int agree(const struct link_side *link, int value)
{
    int other;

    link_exchange(link, &value, &other, sizeof value);
    return link->side ? other : value;
}

void link_bare_allreduce(const struct link_side *link, void *shared, size_t max_bytes, size_t bytes,
                         double budget_us, struct perf_stats us_out[LINK_BARE_KINDS])
{
    enum { BATCHES = 60 };
    double samples[LINK_BARE_KINDS][BATCHES], wanted;
    struct bare b;
    size_t n = bytes / sizeof(float);
    int times[LINK_BARE_KINDS], batches,
        first = bytes > LINK_BARE_LINE_BYTES ? LINK_BARE_DIRECT : 0;

    link_sync(link);
    b = lay_out(link, shared, max_bytes);
    choose_folds();
    for (int kind = first; kind < LINK_BARE_KINDS; kind++) {
        fill(&b, n);
        link_sync(link);
        (void)batch(&b, (enum link_bare_kind)kind, n, 1);
        link_sync(link);
        verify(&b, n);
        wanted = budget_us / LINK_BARE_KINDS / BATCHES / batch(&b, (enum link_bare_kind)kind, n, 3);
        times[kind] = agree(link, wanted < 1 ? 1 : wanted > 2000 ? 2000 : (int)wanted);
    }
    wanted = budget_us / LINK_BARE_KINDS / batch(&b, LINK_BARE_DIRECT, n, 1);
    batches = agree(link, wanted < 5 ? 5 : wanted > BATCHES ? BATCHES : (int)wanted);
    for (int i = 0; i < batches; i++) /* the kinds take turns, so that all meet the same machine */
        for (int kind = first; kind < LINK_BARE_KINDS; kind++)
            samples[kind][i] = batch(&b, (enum link_bare_kind)kind, n, times[kind]);
    for (int kind = 0; kind < LINK_BARE_KINDS; kind++)
        us_out[kind] =
            kind < first ? (struct perf_stats){0} : perf_statistics(samples[kind], batches);
    link_sync(link);
}
