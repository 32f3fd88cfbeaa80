/*
 * IEEE half precision on the host: __half with conversions, arithmetic and comparisons. Each result is rounded once, to nearest
 * even; NaN becomes 0x7fff. In C++ with operators.
 */
#ifndef CUDA_FP16_H
#define CUDA_FP16_H

#include <string.h>

typedef struct __half_raw {
    unsigned short x;
} __half_raw;

static inline unsigned short cudart_half_of_float(float value)
{
    unsigned bits, sign, rest, mantissa, shift, middle;

    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return 0x7fff;
    if (rest >= 0x477ff000) /* 65520: what is nearer to 65536, or as near */
        return (unsigned short)(sign | 0x7c00);
    if (rest >= 0x38800000) { /* 2^-14: the smallest normal one */
        rest -= 0x38000000;
        return (unsigned short)(sign | (rest + 0xfff + (rest >> 13 & 1)) >> 13);
    }
    if (rest < 0x33000000) /* 2^-25: half of the smallest */
        return (unsigned short)sign;
    mantissa = (rest & 0x7fffff) | 0x800000;
    shift = 126 - (rest >> 23);
    middle = 1u << (shift - 1);
    rest = mantissa & (2 * middle - 1);
    mantissa >>= shift;
    return (unsigned short)(sign |
                            (mantissa + (rest > middle || (rest == middle && mantissa & 1))));
}

static inline float cudart_float_of_half(unsigned short h)
{
    unsigned exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    float value;

    if (exponent == 0) {
        value = (float)mantissa * 5.9604644775390625e-8f /* 2^-24 */;
        return h & 0x8000 ? -value : value;
    }
    bits = (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    bits |= (unsigned)(h & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The float next to it that is odd where it is none: rounding that again is as if there had been no float between. */
static inline float cudart_odd_float(double value)
{
    float near = (float)value;
    unsigned bits;

    if ((double)near == value || value != value)
        return near;
    memcpy(&bits, &near, sizeof bits);
    if (!(bits & 1)) /* one further from zero, or nearer to it */
        bits += (near < 0 ? -(double)near : (double)near) < (value < 0 ? -value : value) ? 1u : -1u;
    memcpy(&near, &bits, sizeof near);
    return near;
}

#ifdef __cplusplus
struct __half {
    unsigned short __x;

    __half() = default;
    __half(const __half_raw &raw) : __x(raw.x) {}
    __half(float value) : __x(cudart_half_of_float(value)) {}
    __half(double value) : __x(cudart_half_of_float(cudart_odd_float(value))) {}
    __half(int value) : __x(cudart_half_of_float(cudart_odd_float(value))) {}
    __half(unsigned value) : __x(cudart_half_of_float(cudart_odd_float(value))) {}
    operator float() const { return cudart_float_of_half(__x); }
    operator __half_raw() const
    {
        __half_raw raw = {__x};
        return raw;
    }
};
typedef __half half;
#define CUDART_HALF_BITS(h) ((h).__x)
static inline __half __ushort_as_half(unsigned short bits)
{
    __half_raw raw = {bits};
    return __half(raw);
}
#else
typedef __half_raw __half;
#define CUDART_HALF_BITS(h) ((h).x)
static inline __half __ushort_as_half(unsigned short bits)
{
    __half h = {bits};
    return h;
}
#endif

static inline unsigned short __half_as_ushort(__half h)
{
    return CUDART_HALF_BITS(h);
}

static inline short __half_as_short(__half h)
{
    return (short)CUDART_HALF_BITS(h);
}

static inline __half __short_as_half(short bits)
{
    return __ushort_as_half((unsigned short)bits);
}

static inline __half __float2half(float value)
{
    return __ushort_as_half(cudart_half_of_float(value));
}

static inline __half __float2half_rn(float value)
{
    return __float2half(value);
}

static inline __half __double2half(double value)
{
    return __float2half(cudart_odd_float(value));
}

static inline __half __int2half_rn(int value)
{
    return __double2half(value);
}

static inline float __half2float(__half h)
{
    return cudart_float_of_half(CUDART_HALF_BITS(h));
}

static inline int __hisnan(__half h)
{
    return (CUDART_HALF_BITS(h) & 0x7fff) > 0x7c00;
}

static inline int __hisinf(__half h)
{
    return (CUDART_HALF_BITS(h) & 0x7fff) != 0x7c00 ? 0 : CUDART_HALF_BITS(h) >> 15 ? -1 : 1;
}

typedef struct __attribute__((aligned(4))) __half2 {
    __half x, y;
} __half2;
#ifdef __cplusplus
typedef __half2 half2;
#endif

static inline __half2 __halves2half2(__half x, __half y)
{
    __half2 both;

    both.x = x;
    both.y = y;
    return both;
}

static inline __half2 __floats2half2_rn(float x, float y)
{
    return __halves2half2(__float2half(x), __float2half(y));
}

static inline __half2 __float2half2_rn(float value)
{
    return __floats2half2_rn(value, value);
}

static inline float __low2float(__half2 both)
{
    return __half2float(both.x);
}

static inline float __high2float(__half2 both)
{
    return __half2float(both.y);
}

/* ---- arithmetic: the exact result, rounded once ---- */

#define CUDART_HALF_BINARY(name, op) \
    static inline __half name(__half a, __half b) \
    { \
        return __float2half(__half2float(a) op __half2float(b)); \
    } \
    static inline __half name##_rn(__half a, __half b) \
    { \
        return name(a, b); \
    }
CUDART_HALF_BINARY(__hadd, +)
CUDART_HALF_BINARY(__hsub, -)
CUDART_HALF_BINARY(__hmul, *)
#undef CUDART_HALF_BINARY

static inline __half __hdiv(__half a, __half b)
{
    return __double2half((double)__half2float(a) / (double)__half2float(b));
}

static inline __half __hneg(__half a)
{
    return __ushort_as_half((unsigned short)(CUDART_HALF_BITS(a) ^ 0x8000));
}

static inline __half __habs(__half a)
{
    return __ushort_as_half(CUDART_HALF_BITS(a) & 0x7fff);
}

/* The product of two halves is exact in a double, and so is its sum with a third where that could matter. */
static inline __half __hfma(__half a, __half b, __half c)
{
    return __double2half((double)__half2float(a) * (double)__half2float(b) +
                         (double)__half2float(c));
}

static inline __half cudart_half_clamp(float value)
{
    return __float2half(!(value > 0) ? 0 : value > 1 ? 1 : value);
}

static inline __half __hadd_sat(__half a, __half b)
{
    return cudart_half_clamp(__half2float(__hadd(a, b)));
}

static inline __half __hsub_sat(__half a, __half b)
{
    return cudart_half_clamp(__half2float(__hsub(a, b)));
}

static inline __half __hmul_sat(__half a, __half b)
{
    return cudart_half_clamp(__half2float(__hmul(a, b)));
}

static inline __half __hfma_sat(__half a, __half b, __half c)
{
    return cudart_half_clamp(__half2float(__hfma(a, b, c)));
}

/* ---- comparison: false where there is a NaN; those with a u, and the operator !=, are true there ---- */

#ifdef __cplusplus
typedef bool cudart_half_truth;
#else
typedef int cudart_half_truth;
#endif
#define CUDART_HALF_COMPARISON(name, op) \
    static inline cudart_half_truth __h##name(__half a, __half b) \
    { \
        float x = __half2float(a), y = __half2float(b); \
        return x == x && y == y && x op y; \
    } \
    static inline cudart_half_truth __h##name##u(__half a, __half b) \
    { \
        float x = __half2float(a), y = __half2float(b); \
        return x != x || y != y || x op y; \
    }
CUDART_HALF_COMPARISON(eq, ==)
CUDART_HALF_COMPARISON(ne, !=)
CUDART_HALF_COMPARISON(lt, <)
CUDART_HALF_COMPARISON(le, <=)
CUDART_HALF_COMPARISON(gt, >)
CUDART_HALF_COMPARISON(ge, >=)
#undef CUDART_HALF_COMPARISON

/* The number, where the other is NaN; the same with nan in its name: NaN. -0 is less than +0. */
static inline __half __hmax(__half a, __half b)
{
    if (__hisnan(a) || __hisnan(b))
        return !__hisnan(a) ? a : !__hisnan(b) ? b : __ushort_as_half(0x7fff);
    if (__half2float(a) == __half2float(b))
        return CUDART_HALF_BITS(a) >> 15 ? b : a;
    return __half2float(a) > __half2float(b) ? a : b;
}

static inline __half __hmin(__half a, __half b)
{
    if (__hisnan(a) || __hisnan(b))
        return !__hisnan(a) ? a : !__hisnan(b) ? b : __ushort_as_half(0x7fff);
    if (__half2float(a) == __half2float(b))
        return CUDART_HALF_BITS(a) >> 15 ? a : b;
    return __half2float(a) < __half2float(b) ? a : b;
}

static inline __half __hmax_nan(__half a, __half b)
{
    return __hisnan(a) || __hisnan(b) ? __ushort_as_half(0x7fff) : __hmax(a, b);
}

static inline __half __hmin_nan(__half a, __half b)
{
    return __hisnan(a) || __hisnan(b) ? __ushort_as_half(0x7fff) : __hmin(a, b);
}

/* ---- pairs, each for itself ---- */

static inline __half __low2half(__half2 both)
{
    return both.x;
}

static inline __half __high2half(__half2 both)
{
    return both.y;
}

static inline __half2 __half2half2(__half value)
{
    return __halves2half2(value, value);
}

#define CUDART_HALF2_BINARY(name) \
    static inline __half2 name##2(__half2 a, __half2 b) \
    { \
        return __halves2half2(name(a.x, b.x), name(a.y, b.y)); \
    }
CUDART_HALF2_BINARY(__hadd)
CUDART_HALF2_BINARY(__hsub)
CUDART_HALF2_BINARY(__hmul)
CUDART_HALF2_BINARY(__hmax)
CUDART_HALF2_BINARY(__hmin)
#undef CUDART_HALF2_BINARY

static inline __half2 __h2div(__half2 a, __half2 b)
{
    return __halves2half2(__hdiv(a.x, b.x), __hdiv(a.y, b.y));
}

static inline __half2 __hneg2(__half2 a)
{
    return __halves2half2(__hneg(a.x), __hneg(a.y));
}

static inline __half2 __habs2(__half2 a)
{
    return __halves2half2(__habs(a.x), __habs(a.y));
}

static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __halves2half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

#ifdef __cplusplus
#define CUDART_HALF_OPERATOR(op, name) \
    static inline __half operator op(const __half &a, const __half &b) \
    { \
        return name(a, b); \
    } \
    static inline __half &operator op##=(__half &a, const __half &b) \
    { \
        return a = name(a, b); \
    }
CUDART_HALF_OPERATOR(+, __hadd)
CUDART_HALF_OPERATOR(-, __hsub)
CUDART_HALF_OPERATOR(*, __hmul)
CUDART_HALF_OPERATOR(/, __hdiv)
#undef CUDART_HALF_OPERATOR
#define CUDART_HALF_OPERATOR(op, name) \
    static inline bool operator op(const __half &a, const __half &b) \
    { \
        return name(a, b); \
    }
CUDART_HALF_OPERATOR(==, __heq)
CUDART_HALF_OPERATOR(!=, __hneu)
CUDART_HALF_OPERATOR(<, __hlt)
CUDART_HALF_OPERATOR(<=, __hle)
CUDART_HALF_OPERATOR(>, __hgt)
CUDART_HALF_OPERATOR(>=, __hge)
#undef CUDART_HALF_OPERATOR
static inline __half operator-(const __half &a)
{
    return __hneg(a);
}
static inline __half operator+(const __half &a)
{
    return a;
}
#endif

#endif
