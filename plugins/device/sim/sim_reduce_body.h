/*
 * The k-ary reduction in one pass, and all kernels made from it. Included once by each variant, after it has defined
 *
 *   VARIANT_TABLE                      name of its table
 *   vec, step_bytes(elem)              what one step takes from each source: a vector, or one element
 *   struct acc                         that, in the precision in which it accumulates
 *   vec_load(elem, p), vec_store(elem, p, v), vec_stream(elem, p, v)    unaligned; stream: aligned, past the cache
 *   vec_load_part(p, bytes), vec_store_part(p, v, bytes)                fewer bytes than a step
 *   acc_open(elem, op, v), acc_combine(elem, op, x, y)
 *   acc_close(elem, op, division, x)   divides, rounds, makes NaN canonical
 *   stream_fence()                     orders streamed stores before later ones
 *
 * Everything is inlined with constant elem and op, so that each kernel holds only its own instructions. All sources of
 * a block are read before any destination is written: a destination may be a source.
 */

#define BLOCK_STEPS 4 /* accumulators in flight: hides the latency of the adds */
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 4")
#endif
#define STREAM_MIN_BYTES 4096 /* below this, what is stored is soon read: leave it in the cache */

/* Whole blocks from `at` on; returns where it stopped. The loops over steps are unrolled, `x` lives in registers. */
static SIM_ALWAYS_INLINE size_t reduce_blocks(const struct sim_reduce_args *args,
                                              enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division, size_t at,
                                              size_t bytes, uint64_t streamed)
{
    size_t step = step_bytes(elem), block_bytes = BLOCK_STEPS * step;

    for (; bytes - at >= block_bytes; at += block_bytes) {
        const char *p = (const char *)args->srcs[0] + at;
        struct acc x[BLOCK_STEPS];
        vec v[BLOCK_STEPS];

        UNROLLED
        for (int i = 0; i < BLOCK_STEPS; i++)
            x[i] = acc_open(elem, op, vec_load(elem, p + (size_t)i * step));
        for (int s = 1; s < args->nsrc; s++) {
            p = (const char *)args->srcs[s] + at;
            UNROLLED
            for (int i = 0; i < BLOCK_STEPS; i++)
                x[i] = acc_combine(elem, op, x[i],
                                   acc_open(elem, op, vec_load(elem, p + (size_t)i * step)));
        }
        UNROLLED
        for (int i = 0; i < BLOCK_STEPS; i++)
            v[i] = acc_close(elem, op, division, x[i]);
        for (int d = 0; d < args->ndst; d++) {
            char *to = (char *)args->dsts[d] + at;
            if (d < 64 && (streamed >> d & 1)) {
                UNROLLED
                for (int i = 0; i < BLOCK_STEPS; i++)
                    vec_stream(elem, to + (size_t)i * step, v[i]);
            } else {
                UNROLLED
                for (int i = 0; i < BLOCK_STEPS; i++)
                    vec_store(elem, to + (size_t)i * step, v[i]);
            }
        }
    }
    return at;
}

static SIM_ALWAYS_INLINE size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* One step or less. */
static SIM_ALWAYS_INLINE void reduce_part(const struct sim_reduce_args *args, enum sim_elem elem,
                                          thrum_redop_t op, const struct sim_division *division,
                                          size_t at, size_t part)
{
    struct acc x = acc_open(elem, op, vec_load_part((const char *)args->srcs[0] + at, part));
    vec v;

    for (int s = 1; s < args->nsrc; s++)
        x = acc_combine(elem, op, x,
                        acc_open(elem, op, vec_load_part((const char *)args->srcs[s] + at, part)));
    v = acc_close(elem, op, division, x);
    for (int i = 0; i < args->ndst; i++)
        vec_store_part((char *)args->dsts[i] + at, v, part);
}

/*
 * Which destinations to store past the cache: those aligned like the first, and not read by this call (their lines
 * are in the cache already). *head_out is what precedes the first aligned step.
 */
static uint64_t choose_streamed(const struct sim_reduce_args *args, size_t elem_size, size_t step,
                                size_t bytes, size_t *head_out)
{
    uintptr_t head = -(uintptr_t)args->dsts[0] & (step - 1);
    uint64_t streamed = 0;

    if (!args->stream || bytes < STREAM_MIN_BYTES || head % elem_size)
        return 0;
    for (int i = 0; i < args->ndst && i < 64; i++) {
        bool fits = (-(uintptr_t)args->dsts[i] & (step - 1)) == head;
        for (int s = 0; s < args->nsrc; s++)
            fits = fits && args->srcs[s] != args->dsts[i];
        streamed |= (uint64_t)fits << i;
    }
    if (streamed)
        *head_out = head;
    return streamed;
}

static SIM_ALWAYS_INLINE void reduce(const struct sim_reduce_args *args, enum sim_elem elem,
                                     thrum_redop_t op)
{
    size_t step = step_bytes(elem), bytes = args->count * elem_bytes(elem), at = 0, head = 0;
    struct sim_division division = {0};
    uint64_t streamed = choose_streamed(args, elem_bytes(elem), step, bytes, &head);

    if (op == THRUM_AVG)
        division = sim_division_for(elem, args->divisor);
    /* A head up to the alignment, blocks, and what is left in steps. */
    while (at < bytes) {
        size_t part;
        if (!head)
            at = reduce_blocks(args, elem, op, &division, at, bytes, streamed);
        part = min_size(head ? head : bytes - at, step);
        if (part)
            reduce_part(args, elem, op, &division, at, part);
        at += part;
        head = 0;
    }
    if (streamed)
        stream_fence();
}

#define X(elem, op) \
    static void reduce_##elem##_##op(const struct sim_reduce_args *args) \
    { \
        reduce(args, ELEM_##elem, THRUM_##op); \
    }
SIM_KERNEL_MAP(X)
#undef X

const struct sim_kernel_table VARIANT_TABLE = {{
#define X(elem, op) [ELEM_##elem][THRUM_##op] = reduce_##elem##_##op,
    SIM_KERNEL_MAP(X)
#undef X
}};
