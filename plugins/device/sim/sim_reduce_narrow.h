/*
 * The arithmetic of the vector variants on 16-bit and 8-bit floats: between them and float32, folds of 8-bit floats, and
 * their order. Included by a variant after sim_reduce_vector.h.
 */

/* ---- narrow floats: conversion --------------------------------------------------------------- */

/*
 * To bfloat16, in 16-bit lanes: the upper halves of the numbers and half a unit, but of two equally near ones the even
 * one: that is where nothing is left in the lower half. NaN does not come here.
 */
static SIM_ALWAYS_INLINE vec bfloat_from_f32(vec even, vec odd)
{
    vec half = splat(ELEM_F32, 0x8000), top, rest;

    even = int_add(ELEM_U32, even, half);
    odd = int_add(ELEM_U32, odd, half);
    top = blend_odd_words((vec)((vec_u32)even >> 16), odd);
    rest = blend_odd_words(even, (vec)((vec_u32)odd << 16));
    return top & words_add_saturated(rest, splat(ELEM_U16, 0xfffe));
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

/* ---- 8-bit floats: blocks -------------------------------------------------------------------- */

/*
 * Blocks of 8-bit floats are computed in float32 that is 2^-120 (E4M3) or 2^-112 (E5M2) of the truth: there the
 * exponents of both formats have the same bits, their subnormal numbers are some of float32's, and nothing is lost, as
 * all are multiples of one unit. So opening and rounding are shifts. `a` and `b` are the even bytes, `c` and `d` the odd
 * ones, each even 16-bit lanes first; `e` is the greatest magnitude so far, as bits: a block with NaN or infinity goes
 * in parts.
 *
 * A product of two needs half of the unit's bits more, and an average by n their logarithm of n: float32 has 20 (E4M3)
 * or 21 (E5M2) below the unit.
 */
#define SCALED_MAX_DIVISOR 65536

static SIM_ALWAYS_INLINE int scaled_shift(enum sim_elem elem)
{
    return elem == ELEM_E4M3 ? 4 : 5; /* bits of float32's upper half below the 8-bit float's */
}

/* From the byte at the top of each 16-bit lane. */
static SIM_ALWAYS_INLINE vec_u16 scale_words(enum sim_elem elem, vec_u16 bytes)
{
    const uint16_t kept = elem == ELEM_E4M3 ? 0x87f0 : 0x8fe0;
    return (vec_u16)((vec_i16)bytes >> (int16_t)(8 - scaled_shift(elem))) & kept;
}

static SIM_ALWAYS_INLINE struct acc open_scaled(enum sim_elem elem, vec v)
{
    vec_u16 even = scale_words(elem, (vec_u16)v << 8), odd = scale_words(elem, (vec_u16)v);

    return (struct acc){.a = (vec)((vec_u32)even << 16),
                        .b = (vec)((vec_u32)even & 0xffff0000),
                        .c = (vec)((vec_u32)odd << 16),
                        .d = (vec)((vec_u32)odd & 0xffff0000),
                        .e = v & splat(elem, 0x7f)};
}

static SIM_ALWAYS_INLINE vec combine_scaled_part(enum sim_elem elem, thrum_redop_t op, vec x, vec y)
{
    if (op == THRUM_PROD) /* one of two is as it is in truth */
        y = (vec)((vec_f32)y * (elem == ELEM_E4M3 ? 0x1p120f : 0x1p112f));
    return combine_f32(op, x, y);
}

static SIM_ALWAYS_INLINE struct acc combine_scaled(enum sim_elem elem, thrum_redop_t op,
                                                   struct acc x, struct acc y)
{
    return (struct acc){.a = combine_scaled_part(elem, op, x.a, y.a),
                        .b = combine_scaled_part(elem, op, x.b, y.b),
                        .c = combine_scaled_part(elem, op, x.c, y.c),
                        .d = combine_scaled_part(elem, op, x.d, y.d),
                        .e = int_max(ELEM_U8, x.e, y.e)};
}

/*
 * Upper halves of float32, rounded to nearest even, leaving the code and its sign where they were. With `sticky`, their
 * last bit tells whether the lower half holds anything.
 */
static SIM_ALWAYS_INLINE vec_u16 round_words(enum sim_elem elem, vec even, vec odd, bool sticky)
{
    uint16_t shift = (uint16_t)scaled_shift(elem);
    vec_u16 top = (vec_u16)blend_odd_words((vec)((vec_u32)even >> 16), odd);

    if (sticky)
        top |= (vec_u16)int_min(ELEM_U16, blend_odd_words(even, (vec)((vec_u32)odd << 16)),
                                splat(ELEM_U16, 1));
    return top + (uint16_t)((1 << (shift - 1)) - 1) + (top >> shift & 1);
}

/*
 * A sum of two E5M2 that is near the middle between two results has no bits in the lower half; all others may. Sums of
 * no more than 256 numbers saturate rightly.
 */
static SIM_ALWAYS_INLINE vec close_scaled(enum sim_elem elem, thrum_redop_t op,
                                          const struct sim_division *division, struct acc x)
{
    bool sticky = elem == ELEM_E4M3 || op != THRUM_SUM || division->nsrc > 2;
    uint16_t shift = (uint16_t)scaled_shift(elem);
    vec_u16 even =
        round_words(elem, finish_f32(op, division, x.a), finish_f32(op, division, x.b), sticky);
    vec_u16 odd =
        round_words(elem, finish_f32(op, division, x.c), finish_f32(op, division, x.d), sticky);
    vec code = blend_odd_bytes((vec)(even >> shift), (vec)(odd << (uint16_t)(8 - shift)));
    vec sign = blend_odd_bytes((vec)(even >> 8), (vec)odd) & splat(elem, 0x80);

    return int_min(ELEM_U8, code, splat(elem, elem == ELEM_E4M3 ? 0x7e : 0x7b)) | sign;
}

/* Are all magnitudes numbers? */
static SIM_ALWAYS_INLINE bool scaled_is_right(enum sim_elem elem, const struct acc *x, int n)
{
    vec most = x[0].e;

    SIM_UNROLLED
    for (int i = 1; i < n; i++)
        most = int_max(ELEM_U8, most, x[i].e);
    return vec_is_zero((vec)((vec_i8)most > (vec_i8)splat(elem, elem == ELEM_E4M3 ? 0x7e : 0x7b)));
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
        return select_by_sign(elem_bytes(elem), x.b, x.b, x.a);
    return select_by_sign(elem_bytes(elem), x.c, x.a, x.c);
}

/* The largest magnitude that is a result as it is: the infinities of E5M2 saturate. */
static SIM_ALWAYS_INLINE uint64_t ordered_largest(enum sim_elem elem)
{
    return elem_infinity(elem) - (elem == ELEM_E5M2);
}

static SIM_ALWAYS_INLINE vec close_ordered(enum sim_elem elem, thrum_redop_t op, struct acc x)
{
    vec v = ordered_result(elem, op, x);

    if (elem == ELEM_E5M2) /* one less than infinity */
        v = int_add(ELEM_U8, v, int_above(elem, v & splat(elem, 0x7f), ordered_largest(elem)));
    return select_lanes(ordered_above(elem, x, elem_infinity(elem)), splat(elem, elem_nan(elem)),
                        v);
}

/* One look at all steps, of which there are n: the extremes of all of them. */
static SIM_ALWAYS_INLINE bool close_ordered_block(enum sim_elem elem, thrum_redop_t op,
                                                  const struct acc *x, int n, vec *v)
{
    struct acc most = x[0];

    SIM_UNROLLED
    for (int i = 0; i < n; i++) {
        v[i] = ordered_result(elem, op, x[i]);
        most.b = int_max(unsigned_of(elem), most.b, x[i].b);
        most.c = int_max(int_of(elem), most.c, x[i].c);
    }
    return vec_is_zero(ordered_above(elem, most, ordered_largest(elem)));
}
