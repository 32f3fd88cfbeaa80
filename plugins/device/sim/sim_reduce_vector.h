/*
 * The arithmetic of the vector variants, in the compiler's vector extensions. Included by a variant after it has
 * defined VEC_BYTES and the instructions that the extensions cannot name:
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
 *   blend_odd_words(x, y)  even 16-bit lanes of x, odd ones of y
 *   bytes_widen, bytes_narrow    half a vector of signed bytes to 16-bit lanes, and back if they fit
 *   mul64(x, y)            low halves of the products of 64-bit lanes
 *   mulhi(bytes, x, y)     high halves of the products of unsigned lanes of 2, 4 or 8 bytes
 */

/*
 * What a kernel accumulates in.
 *   sums and products of narrow floats    two vectors of float32. bfloat16: even elements in `a`, odd in `b`, so that
 *                                         no bytes cross lanes; others: the lower and the upper half
 *   minima and maxima of narrow floats    see combine_ordered
 *   sums of 8-bit floats                  see open_scaled
 *   all others                            `a`
 */
struct acc {
    vec a, b, c, d;
};

static SIM_ALWAYS_INLINE bool is_logical(thrum_redop_t op)
{
    return op == THRUM_LAND || op == THRUM_LOR;
}

/* Narrow floats are compared as integers, and summed and multiplied as float32. */
static SIM_ALWAYS_INLINE bool is_ordered(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_narrow(elem) && (op == THRUM_MAX || op == THRUM_MIN);
}

static SIM_ALWAYS_INLINE bool is_scaled(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_float8(elem) && op == THRUM_SUM;
}

static SIM_ALWAYS_INLINE bool is_widened(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_narrow(elem) && !is_logical(op) && !is_ordered(elem, op) && !is_scaled(elem, op);
}

static SIM_ALWAYS_INLINE size_t step_bytes(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_float8(elem) && is_widened(elem, op) ? VEC_BYTES / 2 : VEC_BYTES;
}

static SIM_ALWAYS_INLINE int block_steps(enum sim_elem elem, thrum_redop_t op)
{
    return elem_is_float8(elem) && (is_widened(elem, op) || is_scaled(elem, op)) ? 1 : 4;
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

/* ---- narrow floats: conversion --------------------------------------------------------------- */

/*
 * To bfloat16, in 16-bit lanes: the upper halves, plus one where the lower half is above 0x8000, or is that and the
 * upper one is odd. NaN is canonical here.
 */
static SIM_ALWAYS_INLINE vec bfloat_from_f32(vec even, vec odd)
{
    vec_u16 top = (vec_u16)blend_odd_words((vec)((vec_u32)even >> 16), odd);
    vec_u16 rest = (vec_u16)blend_odd_words(even, (vec)((vec_u32)odd << 16));
    vec_u16 stays = (vec_u16)((vec_i16)(~top & 1) > (vec_i16)(rest ^ 0x8000)); /* -1: true */

    return (vec)(top + 1 + stays);
}

/*
 * 8-bit floats pass through float16, which holds all of them: E5M2 are float16 without the lower byte, E4M3 are its
 * bits in another place with an exponent 8 too low. (OCP 8-bit Floating Point Specification, revision 1.0, 2023.)
 */
static SIM_ALWAYS_INLINE struct acc open_float8(enum sim_elem elem, vec v)
{
    vec_u16 half = (vec_u16)bytes_widen(v);
    struct acc x;

    if (elem == ELEM_E5M2) {
        half <<= 8;
    } else {
        half = half << 7 & 0xbf80;
        half |= (vec_u16)((half & 0x3f80) == 0x3f80) >> 1; /* NaN, and not 480 / 256 */
    }
    f32_from_half((vec)half, &x.a, &x.b);
    if (elem == ELEM_E4M3) {
        x.a = (vec)((vec_f32)x.a * 256);
        x.b = (vec)((vec_f32)x.b * 256);
    }
    return x;
}

/*
 * Rounds to the bits that the 8-bit float has: adding and taking away 1.5 * 2^k, with k such that a unit in the last
 * place of the sum is one of the result, which is that of the least normal number for all below. Values too large for
 * the format may become any that still are; NaN stays.
 */
static SIM_ALWAYS_INLINE vec round_to_float8(enum sim_elem elem, vec x)
{
    unsigned least = elem == ELEM_E4M3 ? 121 : 113, bits = elem == ELEM_E4M3 ? 20 : 21;
    vec exponent = x & splat(ELEM_F32, 0x7f800000), sign = x & splat(ELEM_F32, 1u << 31);
    vec big;

    exponent = int_max(ELEM_I32, exponent, splat(ELEM_F32, least << 23));
    exponent = int_min(ELEM_I32, exponent, splat(ELEM_F32, 200u << 23));
    big = int_add(ELEM_I32, exponent, splat(ELEM_F32, (bits << 23) + 0x400000));
    x = (vec)((vec_f32)x + (vec_f32)big);
    return (vec)((vec_f32)x - (vec_f32)big) | sign; /* of what became zero */
}

static SIM_ALWAYS_INLINE vec float8_from_f32(enum sim_elem elem, vec a, vec b)
{
    vec_u16 half, magnitude, is_nan, code;

    a = round_to_float8(elem, a);
    b = round_to_float8(elem, b);
    if (elem == ELEM_E4M3) {
        a = (vec)((vec_f32)a * 0x1p-8f);
        b = (vec)((vec_f32)b * 0x1p-8f);
    }
    half = (vec_u16)half_from_f32(a, b); /* exact, or too large */
    magnitude = half & 0x7fff;
    is_nan = (vec_u16)((vec_i16)magnitude > 0x7c00);
    magnitude = (vec_u16)int_min(ELEM_U16, (vec)magnitude,
                                 splat(ELEM_U16, elem == ELEM_E4M3 ? 0x3f00 : 0x7b00));
    code = magnitude >> (elem == ELEM_E4M3 ? 7 : 8) | (half >> 8 & 0x80);
    code = (code & ~is_nan) | (is_nan & (uint16_t)elem_nan(elem));
    return bytes_narrow((vec)code);
}

static SIM_ALWAYS_INLINE struct acc open_narrow(enum sim_elem elem, vec v)
{
    struct acc x;

    if (elem_is_float8(elem))
        return open_float8(elem, v);
    if (elem == ELEM_F16) {
        f32_from_half(v, &x.a, &x.b);
    } else {
        x.a = (vec)((vec_u32)v << 16);
        x.b = (vec)((vec_u32)v & 0xffff0000);
    }
    return x;
}

/* NaN is canonical here, or the element has 8 bits. */
static SIM_ALWAYS_INLINE vec close_narrow(enum sim_elem elem, struct acc x)
{
    if (elem_is_float8(elem))
        return float8_from_f32(elem, x.a, x.b);
    return elem == ELEM_F16 ? half_from_f32(x.a, x.b) : bfloat_from_f32(x.a, x.b);
}

/* ---- 8-bit floats: sums ---------------------------------------------------------------------- */

/*
 * Sums of 8-bit floats are made in float32 that is 2^-120 (E4M3) or 2^-112 (E5M2) of the truth: there the exponents of
 * both formats have the same bits, their subnormal numbers are some of float32's, and nothing is lost, as all are
 * multiples of one unit. So opening and rounding are shifts. NaN and infinity get float32's exponent for them. `a` and
 * `b` are the even bytes, `c` and `d` the odd ones, each even 16-bit lanes first.
 */
static SIM_ALWAYS_INLINE int scaled_shift(enum sim_elem elem)
{
    return elem == ELEM_E4M3 ? 4 : 5; /* bits of float32's upper half below the 8-bit float's */
}

/* From the byte at the top of each 16-bit lane. */
static SIM_ALWAYS_INLINE vec_u16 scale_words(enum sim_elem elem, vec_u16 bytes)
{
    const uint16_t kept = elem == ELEM_E4M3 ? 0x87f0 : 0x8fe0;
    const int16_t largest = elem == ELEM_E4M3 ? 0x7e0 : 0xf60;
    vec_u16 x = (vec_u16)((vec_i16)bytes >> (int16_t)(8 - scaled_shift(elem))) & kept;
    vec_u16 special = (vec_u16)((vec_i16)(x & 0x7fff) > largest);

    return x | (special & 0x7f80);
}

static SIM_ALWAYS_INLINE struct acc open_scaled(enum sim_elem elem, vec v)
{
    vec_u16 even = scale_words(elem, (vec_u16)v << 8), odd = scale_words(elem, (vec_u16)v);

    return (struct acc){.a = (vec)((vec_u32)even << 16),
                        .b = (vec)((vec_u32)even & 0xffff0000),
                        .c = (vec)((vec_u32)odd << 16),
                        .d = (vec)((vec_u32)odd & 0xffff0000)};
}

/* Upper halves of float32; with `sticky`, their last bit tells whether the lower half holds anything. */
static SIM_ALWAYS_INLINE vec_u16 top_words(vec even, vec odd, bool sticky)
{
    if (sticky) {
        even |= (vec)(((vec_u32)even & 0xffff) + 0xffff);
        odd |= (vec)(((vec_u32)odd & 0xffff) + 0xffff);
    }
    return (vec_u16)blend_odd_words((vec)((vec_u32)even >> 16), odd);
}

/* To nearest even, leaving the code and its sign where they were. */
static SIM_ALWAYS_INLINE vec_u16 round_words(enum sim_elem elem, vec_u16 x)
{
    int shift = scaled_shift(elem);
    return x + (uint16_t)((1 << (shift - 1)) - 1) + (x >> (uint16_t)shift & 1);
}

static SIM_ALWAYS_INLINE vec nan_bytes(struct acc x)
{
    vec_u16 even = (vec_u16)blend_odd_words((vec)((vec_f32)x.a != (vec_f32)x.a),
                                            (vec)((vec_f32)x.b != (vec_f32)x.b));
    vec_u16 odd = (vec_u16)blend_odd_words((vec)((vec_f32)x.c != (vec_f32)x.c),
                                           (vec)((vec_f32)x.d != (vec_f32)x.d));
    return (vec)((even & 0xff) | (odd & 0xff00));
}

/*
 * A sum of two E5M2 that is near the middle between two results has no bits in the lower half; all others may. Sums of
 * no more than 256 numbers saturate rightly.
 */
static SIM_ALWAYS_INLINE vec close_scaled(enum sim_elem elem, int nsrc, struct acc x)
{
    bool sticky = elem == ELEM_E4M3 || nsrc > 2;
    uint16_t shift = (uint16_t)scaled_shift(elem);
    vec_u16 even = round_words(elem, top_words(x.a, x.b, sticky));
    vec_u16 odd = round_words(elem, top_words(x.c, x.d, sticky));
    vec code = (vec)((even >> shift & 0xff) | (odd << (uint16_t)(8 - shift) & 0xff00));
    vec sign = (vec)((even >> 8 & 0x80) | (odd & 0x8000)), is_nan;
    vec all[4] = {x.a, x.b, x.c, x.d};

    code = int_min(ELEM_U8, code, splat(elem, elem == ELEM_E4M3 ? 0x7e : 0x7b)) | sign;
    if (__builtin_expect(f32_any_nan(all, 4), 0)) {
        is_nan = nan_bytes(x);
        code = (code & ~is_nan) | (is_nan & splat(elem, elem_nan(elem)));
    }
    return code;
}

/* ---- narrow floats: order -------------------------------------------------------------------- */

/* Signed integers of the element's width. */
static SIM_ALWAYS_INLINE enum sim_elem int_of(enum sim_elem elem)
{
    return elem_bytes(elem) == 1 ? ELEM_I8 : ELEM_I16;
}

static SIM_ALWAYS_INLINE enum sim_elem unsigned_of(enum sim_elem elem)
{
    return elem_bytes(elem) == 1 ? ELEM_U8 : ELEM_U16;
}

/*
 * Floats of sign and magnitude are ordered by integer comparisons. `a`: the least, `b`: the greatest as unsigned
 * integers; `c`: the greatest as signed ones. If any element is negative, `b` is the most negative one, else `a` is the
 * least; if any is not, `c` is the greatest, else `a` is.
 */
static SIM_ALWAYS_INLINE struct acc combine_ordered(enum sim_elem elem, struct acc x, struct acc y)
{
    x.a = int_min(unsigned_of(elem), x.a, y.a);
    x.b = int_max(unsigned_of(elem), x.b, y.b);
    x.c = int_max(int_of(elem), x.c, y.c);
    return x;
}

/* All ones in the lanes where x, as a signed integer, is greater. */
static SIM_ALWAYS_INLINE vec int_above(enum sim_elem elem, vec x, uint64_t limit)
{
    vec y = splat(elem, limit);
    return elem_bytes(elem) == 1 ? (vec)((vec_i8)x > (vec_i8)y) : (vec)((vec_i16)x > (vec_i16)y);
}

/* Where an element was above `limit` in magnitude: the greatest negative one is in `b`, any other in `c`. */
static SIM_ALWAYS_INLINE vec ordered_above(enum sim_elem elem, struct acc x, uint64_t limit)
{
    return int_above(elem, x.c, limit) |
           int_above(elem, x.b & splat(elem, elem_truth_mask(elem)), limit);
}

static SIM_ALWAYS_INLINE vec select_lanes(vec mask, vec x, vec y)
{
    return (x & mask) | (y & ~mask);
}

static SIM_ALWAYS_INLINE vec ordered_result(enum sim_elem elem, thrum_redop_t op, struct acc x)
{
    if (op == THRUM_MIN)
        return select_lanes(int_sign(int_of(elem), x.b), x.b, x.a);
    return select_lanes(int_sign(int_of(elem), x.c), x.a, x.c);
}

/* NaN, and the infinities of E5M2, which saturate, are rare: one look at all steps. */
static SIM_ALWAYS_INLINE void close_ordered_block(enum sim_elem elem, thrum_redop_t op,
                                                  const struct acc *x, int n, vec *v)
{
    uint64_t infinity = elem_infinity(elem), largest = infinity - (elem == ELEM_E5M2);
    vec rare = {0};

    SIM_UNROLLED
    for (int i = 0; i < n; i++) {
        v[i] = ordered_result(elem, op, x[i]);
        rare |= ordered_above(elem, x[i], largest);
    }
    if (__builtin_expect(vec_is_zero(rare), 1))
        return;
    SIM_UNROLLED
    for (int i = 0; i < n; i++) {
        if (elem == ELEM_E5M2) /* one less than infinity */
            v[i] = int_add(ELEM_U8, v[i], int_above(elem, v[i] & splat(elem, 0x7f), largest));
        v[i] = select_lanes(ordered_above(elem, x[i], infinity), splat(elem, elem_nan(elem)), v[i]);
    }
}

/* ---- any element --------------------------------------------------------------------------- */

static SIM_ALWAYS_INLINE struct acc acc_opened(enum sim_elem elem, thrum_redop_t op, struct acc x)
{
    if ((elem == ELEM_F32 || elem == ELEM_F64) && op == THRUM_MAX)
        x.a ^= splat(elem, elem == ELEM_F64 ? 1ull << 63 : 1u << 31);
    return x;
}

static SIM_ALWAYS_INLINE struct acc acc_open(enum sim_elem elem, thrum_redop_t op, vec v)
{
    struct acc x = {v, v, v, v};

    if (is_logical(op)) {
        if (elem_is_float(elem))
            v &= splat(elem, elem_truth_mask(elem));
        x.a = op == THRUM_LAND ? not_zero(elem, v) : v;
        return x;
    }
    if (is_scaled(elem, op))
        return open_scaled(elem, v);
    return is_widened(elem, op) ? open_narrow(elem, v) : acc_opened(elem, op, x);
}

static SIM_ALWAYS_INLINE struct acc acc_load(enum sim_elem elem, thrum_redop_t op, const void *p)
{
    struct acc x;

    if (elem != ELEM_F16 || !is_widened(elem, op))
        return acc_open(elem, op, vec_load(step_bytes(elem, op), p));
    f32_from_half_at(p, &x.a,
                     &x.b); /* conversion from memory costs half of what it does from registers */
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
    if (is_widened(elem, op) || is_scaled(elem, op))
        x.b = combine_f32(op, x.b, y.b);
    if (is_scaled(elem, op)) {
        x.c = combine_f32(op, x.c, y.c);
        x.d = combine_f32(op, x.d, y.d);
    }
    return x;
}

/* Canonical NaN in n vectors, most often none: one look at all of them costs less than one at each. */
static SIM_ALWAYS_INLINE void f32_canonical_all(vec *x, int n)
{
    if (__builtin_expect(f32_any_nan(x, n), 0)) {
        SIM_UNROLLED
        for (int i = 0; i < n; i++)
            x[i] = f32_canonical(x[i]);
    }
}

static SIM_ALWAYS_INLINE void f64_canonical_all(vec *x, int n)
{
    if (__builtin_expect(f64_any_nan(x, n), 0)) {
        SIM_UNROLLED
        for (int i = 0; i < n; i++)
            x[i] = f64_canonical(x[i]);
    }
}

/* Steps in float32: `parts` vectors each. */
static SIM_ALWAYS_INLINE void close_f32_block(enum sim_elem elem, thrum_redop_t op,
                                              const struct sim_division *division,
                                              const struct acc *x, int n, vec *v)
{
    int parts = is_widened(elem, op) ? 2 : 1;
    vec y[8];

    SIM_UNROLLED
    for (int i = 0; i < n; i++) {
        y[i] = finish_f32(op, division, x[i].a);
        if (parts == 2)
            y[n + i] = finish_f32(op, division, x[i].b);
    }
    if (!elem_is_float8(elem)) /* which look for themselves */
        f32_canonical_all(y, parts * n);
    SIM_UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = parts == 2 ? close_narrow(elem, (struct acc){.a = y[i], .b = y[n + i]}) : y[i];
}

static SIM_ALWAYS_INLINE void close_f64_block(thrum_redop_t op, const struct sim_division *division,
                                              const struct acc *x, int n, vec *v)
{
    SIM_UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = finish_f64(op, division, x[i].a);
    f64_canonical_all(v, n);
}

static SIM_ALWAYS_INLINE vec close_other(enum sim_elem elem, thrum_redop_t op,
                                         const struct sim_division *division, struct acc x)
{
    if (is_logical(op))
        return not_zero(elem, x.a) & splat(elem, elem_one(elem));
    if (is_scaled(elem, op))
        return close_scaled(elem, division->nsrc, x);
    return op == THRUM_AVG || op == SIM_AVG_POW2 ? divide_int(elem, op, division, x.a) : x.a;
}

/* n is 4 at most. */
static SIM_ALWAYS_INLINE void close_block(enum sim_elem elem, thrum_redop_t op,
                                          const struct sim_division *division, const struct acc *x,
                                          int n, vec *v)
{
    if (!is_logical(op) && (elem == ELEM_F64 || elem == ELEM_C128)) {
        close_f64_block(op, division, x, n, v);
    } else if (!is_logical(op) && (elem == ELEM_F32 || elem == ELEM_C64 || is_widened(elem, op))) {
        close_f32_block(elem, op, division, x, n, v);
    } else if (is_ordered(elem, op)) {
        close_ordered_block(elem, op, x, n, v);
    } else {
        SIM_UNROLLED
        for (int i = 0; i < n; i++)
            v[i] = close_other(elem, op, division, x[i]);
    }
}

/* ---- between narrow floats and float32 ------------------------------------------------------- */

/* A step of narrow elements is two vectors of float32. */
static SIM_ALWAYS_INLINE void widen_step(enum sim_elem elem, float *dst, const void *src)
{
    struct acc x = acc_load(elem, THRUM_PROD, src);

    if (elem == ELEM_BF16)
        f32_zip(x.a, x.b, &x.a, &x.b);
    vec_store(VEC_BYTES, dst, x.a);
    vec_store(VEC_BYTES, dst + VEC_BYTES / sizeof *dst, x.b);
}

static SIM_ALWAYS_INLINE void narrow_step(enum sim_elem elem, void *dst, const float *src)
{
    vec x[2] = {vec_load(VEC_BYTES, src), vec_load(VEC_BYTES, src + VEC_BYTES / sizeof *src)};

    if (!elem_is_float8(elem))
        f32_canonical_all(x, 2);
    if (elem == ELEM_BF16)
        f32_unzip(x[0], x[1], &x[0], &x[1]);
    vec_store(step_bytes(elem, THRUM_PROD), dst,
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
