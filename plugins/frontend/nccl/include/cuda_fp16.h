/*
 * IEEE half precision on the host: __half and its conversions, rounded once, to nearest even. NaN becomes 0x7fff. In C++ with
 * arithmetic, which goes by float and is rounded for each operation, as CUDA's on the host is.
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

#ifdef __cplusplus
#define CUDART_HALF_OPERATOR(op) \
    static inline __half operator op(const __half &a, const __half &b) \
    { \
        return __float2half(__half2float(a) op __half2float(b)); \
    } \
    static inline __half &operator op##=(__half &a, const __half &b) \
    { \
        return a = a op b; \
    }
CUDART_HALF_OPERATOR(+)
CUDART_HALF_OPERATOR(-)
CUDART_HALF_OPERATOR(*)
CUDART_HALF_OPERATOR(/)
#undef CUDART_HALF_OPERATOR
#endif

#endif
