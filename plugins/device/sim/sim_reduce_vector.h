/*
 * The arithmetic of the vector variants on integers, float32 and float64, in the compiler's vector extensions. Included
 * by a variant, which goes on with sim_reduce_narrow.h and sim_reduce_elements.h, after it has defined VEC_BYTES and
 * the instructions that the extensions cannot name:
 *
 *   vec_store, vec_stream, vec_load_part, vec_store_part, stream_fence    see sim_reduce_body.h
 *   vec_load(bytes, p)     a vector or half of one
 *   vec_is_zero(x)         all bits
 *   int_min(elem, x, y), int_max(elem, x, y)
 *   int_abs(elem, x), int_negate_where(elem, x, sign)    of signed lanes; negates the lanes where `sign` is negative
 *   f32_min, f64_min       the second operand if both are zero or one is NaN (as the machine does it)
 *   f32_any_nan(x, n), f64_any_nan(x, n)    in n vectors
 *   f32_canonical, f64_canonical    NaN becomes the quiet NaN without payload
 *   f32_from_half, half_from_f32    between one vector of 16-bit and two of 32-bit floats
 *   f32_from_half_at       the same from memory
 *   f32_zip, f32_unzip     two vectors to and from one with their even, one with their odd elements
 *   f32_complex_mul, f64_complex_mul    real parts in even lanes
 *   blend_odd_words(x, y), blend_odd_bytes(x, y)    even lanes of x, odd ones of y
 *   select_by_sign(bytes, sign, x, y)    x in the lanes of 1 or 2 bytes where `sign` is negative, else y
 *   words_add_saturated(x, y)    of unsigned 16-bit lanes
 *   bytes_widen, bytes_narrow    half a vector of signed bytes to 16-bit lanes, and back if they fit
 *   mul64(x, y)            low halves of the products of 64-bit lanes
 *   mulhi(bytes, x, y)     high halves of the products of unsigned lanes of 2, 4 or 8 bytes
 */

/*
 * What a kernel accumulates in.
 *   sums and products of narrow floats    two vectors of float32. bfloat16: even elements in `a`, odd in `b`, so that
 *                                         no bytes cross lanes; others: the lower and the upper half
 *   of 8-bit floats, in blocks            see open_scaled
 *   minima and maxima of narrow floats    see combine_ordered
 *   all others                            `a`
 */
struct acc {
    vec a, b, c, d, e;
};

static SIM_ALWAYS_INLINE bool is_logical(thrum_redop_t op)
{
    return op == THRUM_LAND || op == THRUM_LOR;
}

static SIM_ALWAYS_INLINE bool is_average(thrum_redop_t op)
{
    return op == THRUM_AVG || op == SIM_AVG_POW2;
}

/* Narrow floats are compared as integers, and summed and multiplied as float32. */
static SIM_ALWAYS_INLINE bool is_ordered(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_narrow(elem) && (op == THRUM_MAX || op == THRUM_MIN);
}

static SIM_ALWAYS_INLINE bool is_widened(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_narrow(elem) && !is_logical(op) && !is_ordered(elem, op);
}

/* In blocks. */
static SIM_ALWAYS_INLINE bool is_scaled(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_float8(elem) && is_widened(elem, op);
}

/* All lanes of an element's width hold `bits`. */
static SIM_ALWAYS_INLINE vec splat(enum sim_elem elem, uint64_t bits)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_u8){0} + (uint8_t)bits);
    case 2:
        return (vec)((vec_u16){0} + (uint16_t)bits);
    case 4:
        return (vec)((vec_u32){0} + (uint32_t)bits);
    default:
        return (vec)((vec_u64){0} + bits);
    }
}

/* All ones in the lanes that are not zero. */
static SIM_ALWAYS_INLINE vec not_zero(enum sim_elem elem, vec x)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_u8)x != 0);
    case 2:
        return (vec)((vec_u16)x != 0);
    case 4:
        return (vec)((vec_u32)x != 0);
    default:
        return (vec)((vec_u64)x != 0);
    }
}

/* ---- integers ------------------------------------------------------------------------------ */

static SIM_ALWAYS_INLINE vec int_add(enum sim_elem elem, vec x, vec y)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_u8)x + (vec_u8)y);
    case 2:
        return (vec)((vec_u16)x + (vec_u16)y);
    case 4:
        return (vec)((vec_u32)x + (vec_u32)y);
    default:
        return (vec)((vec_u64)x + (vec_u64)y);
    }
}

static SIM_ALWAYS_INLINE vec int_sub(enum sim_elem elem, vec x, vec y)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_u8)x - (vec_u8)y);
    case 2:
        return (vec)((vec_u16)x - (vec_u16)y);
    case 4:
        return (vec)((vec_u32)x - (vec_u32)y);
    default:
        return (vec)((vec_u64)x - (vec_u64)y);
    }
}

static SIM_ALWAYS_INLINE vec int_mul(enum sim_elem elem, vec x, vec y)
{
    vec_u16 low = {0};

    switch (elem_bytes(elem)) {
    case 1: /* there is no byte product: even and odd bytes as 16-bit lanes */
        low += 0xff;
        return (vec)(((vec_u16)x * (vec_u16)y & low) | ((vec_u16)x >> 8) * ((vec_u16)y & ~low));
    case 2:
        return (vec)((vec_u16)x * (vec_u16)y);
    case 4:
        return (vec)((vec_u32)x * (vec_u32)y);
    default:
        return mul64(x, y);
    }
}

/* Lanes shifted right, zeros coming in. */
static SIM_ALWAYS_INLINE vec int_shift(enum sim_elem elem, vec x, int shift)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_u16)x >> (uint16_t)shift) & splat(ELEM_U8, 0xffu >> shift);
    case 2:
        return (vec)((vec_u16)x >> (uint16_t)shift);
    case 4:
        return (vec)((vec_u32)x >> (uint32_t)shift);
    default:
        return (vec)((vec_u64)x >> (uint64_t)shift);
    }
}

/* All ones in the negative lanes. */
static SIM_ALWAYS_INLINE vec int_sign(enum sim_elem elem, vec x)
{
    switch (elem_bytes(elem)) {
    case 1:
        return (vec)((vec_i8)x < 0);
    case 2:
        return (vec)((vec_i16)x < 0);
    case 4:
        return (vec)((vec_i32)x < 0);
    default:
        return (vec)((vec_i64)x < 0);
    }
}

/* See struct sim_division. */
static SIM_ALWAYS_INLINE vec divide_bytes(const struct sim_division *division, vec x)
{
    vec magic = splat(ELEM_U16, division->magic);
    vec even = mulhi(2, x & splat(ELEM_U16, 0xff), magic);
    vec odd = mulhi(2, (vec)((vec_u16)x >> 8), magic);
    return even | (vec)((vec_u16)odd << 8);
}

static SIM_ALWAYS_INLINE vec divide_magnitude(enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division, vec x)
{
    vec t;

    if (op == SIM_AVG_POW2)
        return int_shift(elem, x, division->shift);
    if (elem_bytes(elem) == 1)
        return divide_bytes(division, x);
    t = mulhi(elem_bytes(elem), x, splat(elem, division->magic));
    if (!elem_is_signed_int(elem))
        t = int_add(elem, t, int_shift(elem, int_sub(elem, x, t), 1));
    return int_shift(elem, t, division->shift);
}

/* Toward zero: the absolute value is divided, and gets its sign back. */
static SIM_ALWAYS_INLINE vec divide_int(enum sim_elem elem, thrum_redop_t op,
                                        const struct sim_division *division, vec x)
{
    if (!elem_is_signed_int(elem))
        return divide_magnitude(elem, op, division, x);
    return int_negate_where(elem, divide_magnitude(elem, op, division, int_abs(elem, x)), x);
}

static SIM_ALWAYS_INLINE vec combine_int(enum sim_elem elem, thrum_redop_t op, vec x, vec y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return int_add(elem, x, y);
    case THRUM_PROD:
        return int_mul(elem, x, y);
    case THRUM_MAX:
        return int_max(elem, x, y);
    case THRUM_MIN:
        return int_min(elem, x, y);
    case THRUM_BAND:
    case THRUM_LAND:
        return x & y;
    case THRUM_BOR:
    case THRUM_LOR:
        return x | y;
    default:
        return x ^ y;
    }
}

/* ---- floats -------------------------------------------------------------------------------- */

/*
 * The machine's minimum yields the second operand for zeros of both signs and for NaN. Both ways round and OR-ed, -0
 * wins and NaN stays NaN. A maximum is the negated minimum of the negated values: negated when opened and closed.
 */
static SIM_ALWAYS_INLINE vec combine_f32(thrum_redop_t op, vec x, vec y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return (vec)((vec_f32)x + (vec_f32)y);
    case THRUM_PROD:
        return (vec)((vec_f32)x * (vec_f32)y);
    default:
        return f32_min(x, y) | f32_min(y, x);
    }
}

static SIM_ALWAYS_INLINE vec combine_f64(thrum_redop_t op, vec x, vec y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
    case SIM_AVG_POW2:
        return (vec)((vec_f64)x + (vec_f64)y);
    case THRUM_PROD:
        return (vec)((vec_f64)x * (vec_f64)y);
    default:
        return f64_min(x, y) | f64_min(y, x);
    }
}

/* Before NaN becomes canonical and all is rounded. */
static SIM_ALWAYS_INLINE vec finish_f32(thrum_redop_t op, const struct sim_division *division,
                                        vec x)
{
    if (op == THRUM_MAX)
        return x ^ splat(ELEM_F32, 1u << 31);
    if (op == THRUM_AVG)
        return (vec)((vec_f32)x / ((vec_f32){0} + (float)division->n));
    if (op == SIM_AVG_POW2)
        return (vec)((vec_f32)x * ((vec_f32){0} + 1 / (float)division->n));
    return x;
}

static SIM_ALWAYS_INLINE vec finish_f64(thrum_redop_t op, const struct sim_division *division,
                                        vec x)
{
    if (op == THRUM_MAX)
        return x ^ splat(ELEM_F64, 1ull << 63);
    if (op == THRUM_AVG)
        return (vec)((vec_f64)x / ((vec_f64){0} + (double)division->n));
    if (op == SIM_AVG_POW2)
        return (vec)((vec_f64)x * ((vec_f64){0} + 1 / (double)division->n));
    return x;
}
