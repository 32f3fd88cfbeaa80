/*
 * bfloat16 on the host: __nv_bfloat16 with conversions, and in C++ arithmetic, comparisons and operators. Each result is rounded
 * once, to nearest even; NaN becomes 0x7fff.
 */
#ifndef CUDA_BF16_H
#define CUDA_BF16_H

#include <string.h>

typedef struct __nv_bfloat16_raw {
    unsigned short x;
} __nv_bfloat16_raw;

static inline unsigned short cudart_bf16_of_float(float value)
{
    unsigned bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float cudart_float_of_bf16(unsigned short bf16)
{
    unsigned bits = (unsigned)bf16 << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The float next to it that is odd where it is none: rounding that again is as if there had been no float between. */
static inline float cudart_odd_bf16_float(double value)
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
struct __nv_bfloat16 {
    unsigned short __x;

    __nv_bfloat16() = default;
    __nv_bfloat16(const __nv_bfloat16_raw &raw) : __x(raw.x) {}
    __nv_bfloat16(float value) : __x(cudart_bf16_of_float(value)) {}
    __nv_bfloat16(double value) : __x(cudart_bf16_of_float(cudart_odd_bf16_float(value))) {}
    __nv_bfloat16(int value) : __x(cudart_bf16_of_float(cudart_odd_bf16_float(value))) {}
    __nv_bfloat16(unsigned value) : __x(cudart_bf16_of_float(cudart_odd_bf16_float(value))) {}
    operator float() const { return cudart_float_of_bf16(__x); }
    operator __nv_bfloat16_raw() const
    {
        __nv_bfloat16_raw raw = {__x};
        return raw;
    }
};
typedef __nv_bfloat16 nv_bfloat16;
#define CUDART_BF16_BITS(h) ((h).__x)
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    __nv_bfloat16_raw raw = {bits};
    return __nv_bfloat16(raw);
}
#else
typedef __nv_bfloat16_raw __nv_bfloat16;
#define CUDART_BF16_BITS(h) ((h).x)
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    __nv_bfloat16 value = {bits};
    return value;
}
#endif

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value)
{
    return CUDART_BF16_BITS(value);
}

static inline short __bfloat16_as_short(__nv_bfloat16 value)
{
    return (short)CUDART_BF16_BITS(value);
}

static inline __nv_bfloat16 __short_as_bfloat16(short bits)
{
    return __ushort_as_bfloat16((unsigned short)bits);
}

static inline __nv_bfloat16 __float2bfloat16(float value)
{
    return __ushort_as_bfloat16(cudart_bf16_of_float(value));
}

static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    return __float2bfloat16(value);
}

static inline __nv_bfloat16 __double2bfloat16(double value)
{
    return __float2bfloat16(cudart_odd_bf16_float(value));
}

static inline __nv_bfloat16 __int2bfloat16_rn(int value)
{
    return __double2bfloat16(value);
}

static inline float __bfloat162float(__nv_bfloat16 value)
{
    return cudart_float_of_bf16(CUDART_BF16_BITS(value));
}

#ifdef __cplusplus /* in C they are those of __half */
static inline int __hisnan(__nv_bfloat16 value)
{
    return (CUDART_BF16_BITS(value) & 0x7fff) > 0x7f80;
}

static inline int __hisinf(__nv_bfloat16 value)
{
    return (CUDART_BF16_BITS(value) & 0x7fff) != 0x7f80 ? 0
           : CUDART_BF16_BITS(value) >> 15              ? -1
                                                        : 1;
}
#endif

typedef struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;
#ifdef __cplusplus
typedef __nv_bfloat162 nv_bfloat162;
#endif

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y)
{
    __nv_bfloat162 both;

    both.x = x;
    both.y = y;
    return both;
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return __halves2bfloat162(__float2bfloat16(x), __float2bfloat16(y));
}

static inline __nv_bfloat162 __float2bfloat162_rn(float value)
{
    return __floats2bfloat162_rn(value, value);
}

#ifdef __cplusplus /* in C they are those of __half2 */
static inline float __low2float(__nv_bfloat162 both)
{
    return __bfloat162float(both.x);
}

static inline float __high2float(__nv_bfloat162 both)
{
    return __bfloat162float(both.y);
}
#endif

static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 both)
{
    return both.x;
}

static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 both)
{
    return both.y;
}

static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value)
{
    return __halves2bfloat162(value, value);
}

#ifdef __cplusplus /* in C these names are those of __half */
/* ---- arithmetic: the exact result, rounded once ---- */

#define CUDART_BF16_BINARY(name, op) \
    static inline __nv_bfloat16 name(__nv_bfloat16 a, __nv_bfloat16 b) \
    { \
        return __float2bfloat16(__bfloat162float(a) op __bfloat162float(b)); \
    } \
    static inline __nv_bfloat16 name##_rn(__nv_bfloat16 a, __nv_bfloat16 b) \
    { \
        return name(a, b); \
    }
CUDART_BF16_BINARY(__hadd, +)
CUDART_BF16_BINARY(__hsub, -)
CUDART_BF16_BINARY(__hmul, *)
#undef CUDART_BF16_BINARY

static inline __nv_bfloat16 __hdiv(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __double2bfloat16((double)__bfloat162float(a) / (double)__bfloat162float(b));
}

static inline __nv_bfloat16 __hneg(__nv_bfloat16 a)
{
    return __ushort_as_bfloat16((unsigned short)(CUDART_BF16_BITS(a) ^ 0x8000));
}

static inline __nv_bfloat16 __habs(__nv_bfloat16 a)
{
    return __ushort_as_bfloat16(CUDART_BF16_BITS(a) & 0x7fff);
}

/*
 * The product is exact in a double, but the sum may not be, where c is far smaller or larger: then it is made odd in its last
 * bit, so that rounding it again is as if it had been exact.
 */
static inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    double product = (double)__bfloat162float(a) * (double)__bfloat162float(b);
    double other = (double)__bfloat162float(c), sum = product + other;
    double part = sum - product, rest = (product - (sum - part)) + (other - part);
    unsigned long long bits;

    memcpy(&bits, &sum, sizeof bits);
    if (rest != 0 && rest == rest && !(bits & 1)) /* away from zero, or back */
        bits += (rest > 0) == (sum > 0) ? 1ull : -1ull;
    memcpy(&sum, &bits, sizeof sum);
    return __double2bfloat16(sum);
}

static inline __nv_bfloat16 cudart_bf16_clamp(float value)
{
    return __float2bfloat16(!(value > 0) ? 0 : value > 1 ? 1 : value);
}

static inline __nv_bfloat16 __hadd_sat(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return cudart_bf16_clamp(__bfloat162float(__hadd(a, b)));
}

static inline __nv_bfloat16 __hsub_sat(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return cudart_bf16_clamp(__bfloat162float(__hsub(a, b)));
}

static inline __nv_bfloat16 __hmul_sat(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return cudart_bf16_clamp(__bfloat162float(__hmul(a, b)));
}

static inline __nv_bfloat16 __hfma_sat(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    return cudart_bf16_clamp(__bfloat162float(__hfma(a, b, c)));
}

/* ---- comparison: false where there is a NaN; those with a u, and the operator !=, are true there ---- */

#define CUDART_BF16_COMPARISON(name, op) \
    static inline bool __h##name(__nv_bfloat16 a, __nv_bfloat16 b) \
    { \
        float x = __bfloat162float(a), y = __bfloat162float(b); \
        return x == x && y == y && x op y; \
    } \
    static inline bool __h##name##u(__nv_bfloat16 a, __nv_bfloat16 b) \
    { \
        float x = __bfloat162float(a), y = __bfloat162float(b); \
        return x != x || y != y || x op y; \
    }
CUDART_BF16_COMPARISON(eq, ==)
CUDART_BF16_COMPARISON(ne, !=)
CUDART_BF16_COMPARISON(lt, <)
CUDART_BF16_COMPARISON(le, <=)
CUDART_BF16_COMPARISON(gt, >)
CUDART_BF16_COMPARISON(ge, >=)
#undef CUDART_BF16_COMPARISON

/* The number, where the other is NaN; the same with nan in its name: NaN. -0 is less than +0. */
static inline __nv_bfloat16 __hmax(__nv_bfloat16 a, __nv_bfloat16 b)
{
    if (__hisnan(a) || __hisnan(b))
        return !__hisnan(a) ? a : !__hisnan(b) ? b : __ushort_as_bfloat16(0x7fff);
    if (__bfloat162float(a) == __bfloat162float(b))
        return CUDART_BF16_BITS(a) >> 15 ? b : a;
    return __bfloat162float(a) > __bfloat162float(b) ? a : b;
}

static inline __nv_bfloat16 __hmin(__nv_bfloat16 a, __nv_bfloat16 b)
{
    if (__hisnan(a) || __hisnan(b))
        return !__hisnan(a) ? a : !__hisnan(b) ? b : __ushort_as_bfloat16(0x7fff);
    if (__bfloat162float(a) == __bfloat162float(b))
        return CUDART_BF16_BITS(a) >> 15 ? a : b;
    return __bfloat162float(a) < __bfloat162float(b) ? a : b;
}

static inline __nv_bfloat16 __hmax_nan(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __hisnan(a) || __hisnan(b) ? __ushort_as_bfloat16(0x7fff) : __hmax(a, b);
}

static inline __nv_bfloat16 __hmin_nan(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __hisnan(a) || __hisnan(b) ? __ushort_as_bfloat16(0x7fff) : __hmin(a, b);
}

/* ---- pairs, each for itself ---- */

#define CUDART_BF162_BINARY(name) \
    static inline __nv_bfloat162 name##2(__nv_bfloat162 a, __nv_bfloat162 b) \
    { \
        return __halves2bfloat162(name(a.x, b.x), name(a.y, b.y)); \
    }
CUDART_BF162_BINARY(__hadd)
CUDART_BF162_BINARY(__hsub)
CUDART_BF162_BINARY(__hmul)
CUDART_BF162_BINARY(__hmax)
CUDART_BF162_BINARY(__hmin)
#undef CUDART_BF162_BINARY

static inline __nv_bfloat162 __h2div(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __halves2bfloat162(__hdiv(a.x, b.x), __hdiv(a.y, b.y));
}

static inline __nv_bfloat162 __hneg2(__nv_bfloat162 a)
{
    return __halves2bfloat162(__hneg(a.x), __hneg(a.y));
}

static inline __nv_bfloat162 __habs2(__nv_bfloat162 a)
{
    return __halves2bfloat162(__habs(a.x), __habs(a.y));
}

static inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
    return __halves2bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

#define CUDART_BF16_OPERATOR(op, name) \
    static inline __nv_bfloat16 operator op(const __nv_bfloat16 &a, const __nv_bfloat16 &b) \
    { \
        return name(a, b); \
    } \
    static inline __nv_bfloat16 &operator op##=(__nv_bfloat16 &a, const __nv_bfloat16 &b) \
    { \
        return a = name(a, b); \
    }
CUDART_BF16_OPERATOR(+, __hadd)
CUDART_BF16_OPERATOR(-, __hsub)
CUDART_BF16_OPERATOR(*, __hmul)
CUDART_BF16_OPERATOR(/, __hdiv)
#undef CUDART_BF16_OPERATOR
#define CUDART_BF16_OPERATOR(op, name) \
    static inline bool operator op(const __nv_bfloat16 &a, const __nv_bfloat16 &b) \
    { \
        return name(a, b); \
    }
CUDART_BF16_OPERATOR(==, __heq)
CUDART_BF16_OPERATOR(!=, __hneu)
CUDART_BF16_OPERATOR(<, __hlt)
CUDART_BF16_OPERATOR(<=, __hle)
CUDART_BF16_OPERATOR(>, __hgt)
CUDART_BF16_OPERATOR(>=, __hge)
#undef CUDART_BF16_OPERATOR
static inline __nv_bfloat16 operator-(const __nv_bfloat16 &a)
{
    return __hneg(a);
}
static inline __nv_bfloat16 operator+(const __nv_bfloat16 &a)
{
    return a;
}
#endif

#endif
