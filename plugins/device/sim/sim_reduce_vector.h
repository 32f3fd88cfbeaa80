/*
 * The arithmetic of the vector variants, in the compiler's vector extensions. Included by a variant after it has
 * defined VEC_BYTES and the instructions that the extensions cannot name:
 *
 *   vec_load, vec_store, vec_stream, vec_load_part, vec_store_part, stream_fence    see sim_reduce_body.h
 *   int_min(elem, x, y), int_max(elem, x, y)
 *   f32_min, f64_min       the second operand if both are zero or one is NaN (as the machine does it)
 *   f32_canonical, f64_canonical    NaN becomes the quiet NaN without payload
 *   f32_from_half, half_from_f32    between one vector of 16-bit and two of 32-bit floats
 *   mulhi(bytes, x, y)     high halves of the products of unsigned lanes
 */

/*
 * 16-bit floats take two vectors of float32. bfloat16: even elements in `a`, odd in `b`, so that no bytes cross lanes;
 * float16: the lower and the upper half.
 */
struct acc {
    vec a, b;
};

static SIM_ALWAYS_INLINE size_t step_bytes(enum sim_elem elem)
{
    (void)elem;
    return VEC_BYTES;
}

static SIM_ALWAYS_INLINE bool is_logical(thrum_redop_t op)
{
    return op == THRUM_LAND || op == THRUM_LOR;
}

static SIM_ALWAYS_INLINE bool is_half_float(enum sim_elem elem)
{
    return elem == ELEM_F16 || elem == ELEM_BF16;
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
        return (vec)(((vec_u16)x * (vec_u16)y & low) |
                     (((vec_u16)x >> 8) * ((vec_u16)y & ~low) & ~low));
    case 2:
        return (vec)((vec_u16)x * (vec_u16)y);
    case 4:
        return (vec)((vec_u32)x * (vec_u32)y);
    default:
        return (vec)((vec_u64)x * (vec_u64)y);
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

static SIM_ALWAYS_INLINE vec divide_unsigned(enum sim_elem elem,
                                             const struct sim_division *division, vec x)
{
    vec t = mulhi(elem_bytes(elem), x, splat(elem, division->magic));
    vec half = int_shift(elem, int_sub(elem, x, t), 1);
    return int_shift(elem, int_add(elem, t, half), division->shift);
}

static SIM_ALWAYS_INLINE vec divide_int(enum sim_elem elem, const struct sim_division *division,
                                        vec x)
{
    vec sign, quotient;

    if (!elem_is_signed_int(elem))
        return divide_unsigned(elem, division, x);
    sign = int_sign(elem, x); /* toward zero: divide the absolute value, put the sign back */
    quotient = divide_unsigned(elem, division, int_sub(elem, x ^ sign, sign));
    return int_sub(elem, quotient ^ sign, sign);
}

static SIM_ALWAYS_INLINE vec combine_int(enum sim_elem elem, thrum_redop_t op, vec x, vec y)
{
    switch (op) {
    case THRUM_SUM:
    case THRUM_AVG:
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
        return (vec)((vec_f64)x + (vec_f64)y);
    case THRUM_PROD:
        return (vec)((vec_f64)x * (vec_f64)y);
    default:
        return f64_min(x, y) | f64_min(y, x);
    }
}

static SIM_ALWAYS_INLINE vec close_f32(thrum_redop_t op, const struct sim_division *division, vec x)
{
    if (op == THRUM_MAX)
        x ^= splat(ELEM_F32, 1u << 31);
    if (op == THRUM_AVG && division->n > 1)
        x = (vec)((vec_f32)x / ((vec_f32){0} + (float)division->n));
    return f32_canonical(x);
}

static SIM_ALWAYS_INLINE vec close_f64(thrum_redop_t op, const struct sim_division *division, vec x)
{
    if (op == THRUM_MAX)
        x ^= splat(ELEM_F64, 1ull << 63);
    if (op == THRUM_AVG && division->n > 1)
        x = (vec)((vec_f64)x / ((vec_f64){0} + (double)division->n));
    return f64_canonical(x);
}

/* Rounds to nearest even, leaving the bfloat16 in the upper half of each lane. */
static SIM_ALWAYS_INLINE vec_u32 round_bfloat(vec x)
{
    vec_u32 bits = (vec_u32)x;
    return bits + 0x7fff + (bits >> 16 & 1);
}

static SIM_ALWAYS_INLINE struct acc open_half(enum sim_elem elem, vec v)
{
    struct acc x;

    if (elem == ELEM_F16) {
        f32_from_half(v, &x.a, &x.b);
    } else {
        x.a = (vec)((vec_u32)v << 16);
        x.b = (vec)((vec_u32)v & 0xffff0000);
    }
    return x;
}

static SIM_ALWAYS_INLINE vec close_half(enum sim_elem elem, vec a, vec b)
{
    if (elem == ELEM_F16)
        return half_from_f32(a, b);
    return (vec)(round_bfloat(a) >> 16 | (round_bfloat(b) & 0xffff0000));
}

/* ---- any element --------------------------------------------------------------------------- */

static SIM_ALWAYS_INLINE struct acc acc_open(enum sim_elem elem, thrum_redop_t op, vec v)
{
    struct acc x = {v, v};

    if (is_logical(op)) {
        if (elem_is_float(elem))
            v &= splat(elem, elem_truth_mask(elem));
        x.a = op == THRUM_LAND ? not_zero(elem, v) : v;
        return x;
    }
    if (is_half_float(elem))
        x = open_half(elem, v);
    if (elem_is_float(elem) && op == THRUM_MAX) {
        enum sim_elem lane = elem == ELEM_F64 ? ELEM_F64 : ELEM_F32;
        vec sign = splat(lane, lane == ELEM_F64 ? 1ull << 63 : 1u << 31);
        x.a ^= sign;
        x.b ^= sign;
    }
    return x;
}

static SIM_ALWAYS_INLINE struct acc acc_combine(enum sim_elem elem, thrum_redop_t op, struct acc x,
                                                struct acc y)
{
    if (is_logical(op) || !elem_is_float(elem)) {
        x.a = combine_int(elem, op, x.a, y.a);
    } else if (elem == ELEM_F64) {
        x.a = combine_f64(op, x.a, y.a);
    } else {
        x.a = combine_f32(op, x.a, y.a);
        if (is_half_float(elem))
            x.b = combine_f32(op, x.b, y.b);
    }
    return x;
}

static SIM_ALWAYS_INLINE vec acc_close(enum sim_elem elem, thrum_redop_t op,
                                       const struct sim_division *division, struct acc x)
{
    if (is_logical(op))
        return not_zero(elem, x.a) & splat(elem, elem_one(elem));
    if (elem == ELEM_F64)
        return close_f64(op, division, x.a);
    if (elem == ELEM_F32)
        return close_f32(op, division, x.a);
    if (is_half_float(elem))
        return close_half(elem, close_f32(op, division, x.a), close_f32(op, division, x.b));
    return op == THRUM_AVG && division->n > 1 ? divide_int(elem, division, x.a) : x.a;
}
