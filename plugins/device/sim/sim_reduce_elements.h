/*
 * What the kernels of a vector variant are made of, for any element and operation: the primitives that
 * sim_reduce_body.h asks for. Included by a variant after sim_reduce_narrow.h.
 */

/* ---- parts --------------------------------------------------------------------------------- */

static SIM_ALWAYS_INLINE size_t part_bytes(enum sim_elem elem, thrum_redop_t op)
{
    return is_scaled(elem, op) ? VEC_BYTES / 2 : VEC_BYTES; /* two vectors of float32 at most */
}

static SIM_ALWAYS_INLINE struct acc acc_open(enum sim_elem elem, thrum_redop_t op, vec v)
{
    struct acc x = {v, v, v, v, v};

    if (is_widened(elem, op))
        return open_narrow(elem, v);
    if (is_logical(op)) {
        if (elem_is_float(elem))
            v &= splat(elem, elem_truth_mask(elem));
        x.a = op == THRUM_LAND ? not_zero(elem, v) : v;
    } else if ((elem == ELEM_F32 || elem == ELEM_F64) && op == THRUM_MAX) {
        x.a ^= splat(elem, elem == ELEM_F64 ? 1ull << 63 : 1u << 31);
    }
    return x;
}

static SIM_ALWAYS_INLINE struct acc acc_combine(enum sim_elem elem, thrum_redop_t op, struct acc x,
                                                struct acc y)
{
    if (is_logical(op) || (!elem_is_float(elem) && !elem_is_complex(elem)))
        x.a = combine_int(elem, op, x.a, y.a);
    else if (is_ordered(elem, op))
        x = combine_ordered(elem, x, y);
    else if (elem == ELEM_C64)
        x.a = f32_complex_mul(x.a, y.a);
    else if (elem == ELEM_C128)
        x.a = f64_complex_mul(x.a, y.a);
    else if (elem == ELEM_F64)
        x.a = combine_f64(op, x.a, y.a);
    else
        x.a = combine_f32(op, x.a, y.a);
    if (is_widened(elem, op))
        x.b = combine_f32(op, x.b, y.b);
    return x;
}

static SIM_ALWAYS_INLINE bool is_in_f64(enum sim_elem elem, thrum_redop_t op)
{
    return !is_logical(op) && (elem == ELEM_F64 || elem == ELEM_C128);
}

static SIM_ALWAYS_INLINE bool is_in_f32(enum sim_elem elem, thrum_redop_t op)
{
    return !is_logical(op) && (elem == ELEM_F32 || elem == ELEM_C64 || is_widened(elem, op));
}

/* Integers and truth values. */
static SIM_ALWAYS_INLINE vec close_other(enum sim_elem elem, thrum_redop_t op,
                                         const struct sim_division *division, vec x)
{
    if (is_logical(op))
        return not_zero(elem, x) & splat(elem, elem_one(elem));
    return is_average(op) ? divide_int(elem, op, division, x) : x;
}

static SIM_ALWAYS_INLINE vec close_part(enum sim_elem elem, thrum_redop_t op,
                                        const struct sim_division *division, struct acc x)
{
    if (is_in_f64(elem, op))
        return f64_canonical(finish_f64(op, division, x.a));
    if (is_ordered(elem, op))
        return close_ordered(elem, op, x);
    if (!is_in_f32(elem, op))
        return close_other(elem, op, division, x.a);
    x.a = f32_canonical(finish_f32(op, division, x.a));
    if (!is_widened(elem, op))
        return x.a;
    x.b = f32_canonical(finish_f32(op, division, x.b));
    return close_narrow(elem, x);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static SIM_ALWAYS_INLINE size_t step_bytes(enum sim_elem elem, thrum_redop_t op)
{
    (void)elem, (void)op;
    return VEC_BYTES;
}

static SIM_ALWAYS_INLINE int block_steps(enum sim_elem elem, thrum_redop_t op)
{
    return is_scaled(elem, op) ? 1 : is_widened(elem, op) ? 2 : BLOCK_STEPS;
}

static SIM_ALWAYS_INLINE bool has_blocks(enum sim_elem elem, thrum_redop_t op,
                                         const struct sim_division *division)
{
    if (!is_scaled(elem, op))
        return true;
    return op == THRUM_PROD ? division->nsrc == 2 : division->n <= SCALED_MAX_DIVISOR;
}

/* Conversion of float16 from memory costs half of what it does from registers. */
static SIM_ALWAYS_INLINE struct acc open_step(enum sim_elem elem, const void *p)
{
    struct acc x;

    if (elem != ELEM_F16)
        return open_narrow(elem, vec_load(part_bytes(elem, THRUM_PROD), p));
    f32_from_half_at(p, &x.a, &x.b);
    return x;
}

static SIM_ALWAYS_INLINE struct acc block_open(enum sim_elem elem, thrum_redop_t op, const void *p)
{
    if (is_scaled(elem, op))
        return open_scaled(elem, vec_load(VEC_BYTES, p));
    return is_widened(elem, op) ? open_step(elem, p) : acc_open(elem, op, vec_load(VEC_BYTES, p));
}

static SIM_ALWAYS_INLINE struct acc block_combine(enum sim_elem elem, thrum_redop_t op,
                                                  struct acc x, struct acc y)
{
    return is_scaled(elem, op) ? combine_scaled(elem, op, x, y) : acc_combine(elem, op, x, y);
}

/* NaN is rare: one look at all steps costs less than one at each. */
static SIM_ALWAYS_INLINE bool close_f32_block(enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division,
                                              const struct acc *x, int n, vec *v)
{
    int parts = is_widened(elem, op) ? 2 : 1;
    vec y[2 * BLOCK_STEPS];

    SIM_UNROLLED
    for (int i = 0; i < n; i++) {
        y[i] = finish_f32(op, division, x[i].a);
        if (parts == 2)
            y[n + i] = finish_f32(op, division, x[i].b);
    }
    SIM_UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = parts == 2 ? close_narrow(elem, (struct acc){.a = y[i], .b = y[n + i]}) : y[i];
    return !f32_any_nan(y, parts * n);
}

static SIM_ALWAYS_INLINE bool close_f64_block(thrum_redop_t op, const struct sim_division *division,
                                              const struct acc *x, int n, vec *v)
{
    SIM_UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = finish_f64(op, division, x[i].a);
    return !f64_any_nan(v, n);
}

static SIM_ALWAYS_INLINE bool close_block(enum sim_elem elem, thrum_redop_t op,
                                          const struct sim_division *division, const struct acc *x,
                                          int n, vec *v)
{
    if (is_in_f64(elem, op))
        return close_f64_block(op, division, x, n, v);
    if (is_ordered(elem, op))
        return close_ordered_block(elem, op, x, n, v);
    if (is_in_f32(elem, op) && !is_scaled(elem, op))
        return close_f32_block(elem, op, division, x, n, v);
    SIM_UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = is_scaled(elem, op) ? close_scaled(elem, op, division, x[i])
                                   : close_other(elem, op, division, x[i].a);
    return !is_scaled(elem, op) || scaled_is_right(elem, x, n);
}

/* ---- between narrow floats and float32 ------------------------------------------------------- */

/* A step of narrow elements is two vectors of float32. */
static SIM_ALWAYS_INLINE void widen_step(enum sim_elem elem, float *dst, const void *src)
{
    struct acc x = open_step(elem, src);

    if (elem == ELEM_BF16)
        f32_zip(x.a, x.b, &x.a, &x.b);
    vec_store(VEC_BYTES, dst, x.a);
    vec_store(VEC_BYTES, dst + VEC_BYTES / sizeof *dst, x.b);
}

static SIM_ALWAYS_INLINE void narrow_step(enum sim_elem elem, void *dst, const float *src)
{
    vec x[2] = {vec_load(VEC_BYTES, src), vec_load(VEC_BYTES, src + VEC_BYTES / sizeof *src)};

    if (!elem_is_float8(elem)) {
        x[0] = f32_canonical(x[0]);
        x[1] = f32_canonical(x[1]);
    }
    if (elem == ELEM_BF16)
        f32_unzip(x[0], x[1], &x[0], &x[1]);
    vec_store(part_bytes(elem, THRUM_PROD), dst,
              close_narrow(elem, (struct acc){.a = x[0], .b = x[1]}));
}

#define STEP_ELEMS (2 * VEC_BYTES / sizeof(float))

static SIM_ALWAYS_INLINE void widen(enum sim_elem elem, float *dst, const void *src, size_t count)
{
    const char *from = src;
    size_t i = 0, size = elem_bytes(elem);
    float last[STEP_ELEMS];
    uint16_t padded[STEP_ELEMS] = {0};

    for (; count - i >= STEP_ELEMS; i += STEP_ELEMS)
        widen_step(elem, dst + i, from + i * size);
    if (i < count) {
        memcpy(padded, from + i * size, (count - i) * size);
        widen_step(elem, last, padded);
        memcpy(dst + i, last, (count - i) * sizeof *dst);
    }
}

static SIM_ALWAYS_INLINE void narrow(enum sim_elem elem, void *dst, const float *src, size_t count)
{
    char *to = dst;
    size_t i = 0, size = elem_bytes(elem);
    float padded[STEP_ELEMS] = {0};
    uint16_t last[STEP_ELEMS];

    for (; count - i >= STEP_ELEMS; i += STEP_ELEMS)
        narrow_step(elem, to + i * size, src + i);
    if (i < count) {
        memcpy(padded, src + i, (count - i) * sizeof *src);
        narrow_step(elem, last, padded);
        memcpy(to + i * size, last, (count - i) * size);
    }
}
