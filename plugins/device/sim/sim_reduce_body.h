/*
 * The k-ary reduction in one pass, and all kernels made from it. Included once by each variant, after it has defined
 *
 *   VARIANT_TABLE                      name of its table
 *   vec                                what one step takes from each source: a vector or half of one, or one element
 *   struct acc                         that, in the precision in which it accumulates
 *   vec_store(bytes, p, v), vec_stream(bytes, p, v)         a step; unaligned; stream: aligned, past the cache
 *   vec_load_part(p, bytes), vec_store_part(p, v, bytes)    fewer bytes than a step, or as many
 *
 * A part is a step or less, which is computed whatever its values are:
 *   part_bytes(elem, op)               at most
 *   acc_open(elem, op, v), acc_combine(elem, op, x, y)
 *   close_part(elem, op, division, x)  divides, rounds, makes NaN canonical
 *
 * A block is several steps at once, for the usual values:
 *   step_bytes(elem, op), block_steps(elem, op)    steps for which there are registers
 *   has_blocks(elem, op, division)     does the division, does the number of sources allow them?
 *   block_open(elem, op, p), block_combine(elem, op, x, y)
 *   close_block(elem, op, division, x, n, v)    false: there are values that only parts do right
 *
 *   stream_fence()                     orders streamed stores before later ones
 *   SIM_COMPLEX_PRODUCTS               1: from the primitives above; 0: reduce_C64_PROD, scale_C64 .. are there
 *   widen(elem, dst, src, count), narrow(elem, dst, src, count)    as in struct sim_kernel_table
 *
 * Everything is inlined with constant elem and op, so that each kernel holds only its own instructions. All sources of
 * a block are read before any destination is written: a destination may be a source.
 */

#define STREAM_MIN_BYTES 4096 /* below this, what is stored is soon read: leave it in the cache */

/* A block in registers, to every destination. */
static SIM_ALWAYS_INLINE void store_block(const struct sim_kernel_args *args, int ndst, int steps,
                                          size_t step, size_t at, uint64_t streamed, const vec *v)
{
    for (int d = 0; d < ndst; d++) {
        char *to = (char *)args->dsts[d] + at;
        if (streamed && d < 64 && (streamed >> d & 1)) {
            SIM_UNROLLED
            for (int i = 0; i < steps; i++)
                vec_stream(step, to + (size_t)i * step, v[i]);
        } else {
            SIM_UNROLLED
            for (int i = 0; i < steps; i++)
                vec_store(step, to + (size_t)i * step, v[i]);
        }
    }
}

/*
 * Whole blocks from `at` on; returns where it stopped: at one that holds unusual values, or with less than one left.
 * The loops over steps are unrolled, `x` lives in registers: nothing here is called that works on it in memory.
 */
static SIM_ALWAYS_INLINE size_t reduce_blocks(const struct sim_kernel_args *args,
                                              enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division, int nsrc,
                                              int ndst, bool scalar, size_t at, uint64_t streamed)
{
    struct sim_division known = *division; /* so that nsrc is a constant here where it is one */
    int steps = block_steps(elem, op);
    size_t step = step_bytes(elem, op), block_bytes = (size_t)steps * step;
    struct acc constant = {0}; /* the scalar, ready for use */

    if (scalar)
        constant = block_open(elem, op, args->srcs[1]);
    known.nsrc = nsrc;
    for (; args->bytes - at >= block_bytes; at += block_bytes) {
        const char *p = (const char *)args->srcs[0] + at;
        struct acc x[BLOCK_STEPS];
        vec v[BLOCK_STEPS];

        SIM_UNROLLED
        for (int i = 0; i < steps; i++)
            x[i] = block_open(elem, op, p + (size_t)i * step);
        for (int s = 1; s < nsrc; s++) {
            p = (const char *)args->srcs[s] + at;
            SIM_UNROLLED
            for (int i = 0; i < steps; i++)
                x[i] = block_combine(
                    elem, op, x[i], scalar ? constant : block_open(elem, op, p + (size_t)i * step));
        }
        if (__builtin_expect(!close_block(elem, op, &known, x, steps, v), 0))
            break;
        store_block(args, ndst, steps, step, at, streamed, v);
    }
    return at;
}

static SIM_ALWAYS_INLINE size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The scalar is the same everywhere. */
static SIM_ALWAYS_INLINE void reduce_part(const struct sim_kernel_args *args, enum sim_elem elem,
                                          thrum_redop_t op, const struct sim_division *division,
                                          bool scalar, size_t at, size_t part)
{
    struct acc x = acc_open(elem, op, vec_load_part((const char *)args->srcs[0] + at, part));
    vec v;

    for (int s = 1; s < args->nsrc; s++)
        x = acc_combine(
            elem, op, x,
            acc_open(elem, op,
                     vec_load_part((const char *)args->srcs[s] + (scalar ? 0 : at), part)));
    v = close_part(elem, op, division, x);
    for (int i = 0; i < args->ndst; i++)
        vec_store_part((char *)args->dsts[i] + at, v, part);
}

/*
 * Which destinations to store past the cache: those aligned like the first, and not read by this call (their lines
 * are in the cache already). *head_out is what precedes the first aligned step.
 */
static uint64_t choose_streamed(const struct sim_kernel_args *args, size_t elem_size, size_t step,
                                size_t *head_out)
{
    uintptr_t head = -(uintptr_t)args->dsts[0] & (step - 1);
    uint64_t streamed = 0;

    if (!args->stream || args->bytes < STREAM_MIN_BYTES || head % elem_size)
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

/* The usual shape as constants: two sources, one destination in the cache. */
static SIM_ALWAYS_INLINE size_t reduce_shapes(const struct sim_kernel_args *args,
                                              enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division, bool scalar,
                                              size_t at, uint64_t streamed)
{
    if (args->nsrc == 2 && args->ndst == 1 && !streamed) {
        /* a copy that lives in registers: what is stored could be `args` */
        void *const dsts[] = {args->dsts[0]};
        const void *const srcs[] = {args->srcs[0], args->srcs[1]};
        const struct sim_kernel_args copy = {.dsts = dsts, .srcs = srcs, .bytes = args->bytes};
        return reduce_blocks(&copy, elem, op, division, 2, 1, scalar, at, 0);
    }
    return reduce_blocks(args, elem, op, division, scalar ? 2 : args->nsrc, args->ndst, scalar, at,
                         streamed);
}

static SIM_ALWAYS_INLINE void reduce(const struct sim_kernel_args *args, enum sim_elem elem,
                                     thrum_redop_t op, bool scalar)
{
    size_t step = step_bytes(elem, op), bytes = args->bytes, at = 0, head = 0;
    struct sim_division division = {0};
    bool small = bytes && bytes <= part_bytes(elem, op); /* a part and nothing else */
    uint64_t streamed = small ? 0 : choose_streamed(args, elem_bytes(elem), step, &head);

    if (op == THRUM_AVG || op == SIM_AVG_POW2)
        division = sim_division_for(elem, args->divisor);
    division.nsrc = args->nsrc;
    if (small) {
        reduce_part(args, elem, op, &division, scalar, 0, bytes);
        return;
    }
    /* A head up to the alignment; then blocks, and in parts what they refuse, and what is left. */
    while (at < bytes) {
        size_t end;
        if (!head && has_blocks(elem, op, &division))
            at = reduce_shapes(args, elem, op, &division, scalar, at, streamed);
        end = at + (head ? head : min_size(bytes - at, (size_t)block_steps(elem, op) * step));
        while (at < end) {
            size_t part = min_size(end - at, part_bytes(elem, op));
            reduce_part(args, elem, op, &division, scalar, at, part);
            at += part;
        }
        head = 0;
    }
    if (streamed)
        stream_fence();
}

#define THRUM_AVG_POW2 SIM_AVG_POW2 /* for the names that the map makes */
#define X(elem, op) \
    static void reduce_##elem##_##op(const struct sim_kernel_args *args) \
    { \
        reduce(args, ELEM_##elem, THRUM_##op, false); \
    }
SIM_KERNEL_MAP(X)
#if SIM_COMPLEX_PRODUCTS
X(C64, PROD)
X(C128, PROD)
#endif
#undef X

#define X(elem) \
    static void scale_##elem(const struct sim_kernel_args *args) \
    { \
        reduce(args, ELEM_##elem, THRUM_PROD, true); \
    }
SIM_SCALE_MAP(X)
#if SIM_COMPLEX_PRODUCTS
X(C64)
X(C128)
#endif
#undef X

#define X(elem) \
    static void widen_##elem(float *dst, const void *src, size_t count) \
    { \
        widen(ELEM_##elem, dst, src, count); \
    } \
    static void narrow_##elem(void *dst, const float *src, size_t count) \
    { \
        narrow(ELEM_##elem, dst, src, count); \
    }
SIM_NARROW_MAP(X)
#undef X

const struct sim_kernel_table VARIANT_TABLE = {
    .kernels =
        {
#define X(elem, op) [ELEM_##elem][THRUM_##op] = reduce_##elem##_##op,
            SIM_KERNEL_MAP(X)
#undef X
                [ELEM_C64][THRUM_PROD] = reduce_C64_PROD,
            [ELEM_C128][THRUM_PROD] = reduce_C128_PROD,
        },
    .scale =
        {
#define X(elem) [ELEM_##elem] = scale_##elem,
            SIM_SCALE_MAP(X)
#undef X
                [ELEM_C64] = scale_C64,
            [ELEM_C128] = scale_C128,
        },
#define X(elem) [ELEM_##elem] = widen_##elem,
    .widen = {SIM_NARROW_MAP(X)},
#undef X
#define X(elem) [ELEM_##elem] = narrow_##elem,
    .narrow = {SIM_NARROW_MAP(X)},
#undef X
};
#undef THRUM_AVG_POW2
