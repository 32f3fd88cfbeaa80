/*
 * bfloat16 on the host: __nv_bfloat16 and its conversions, rounded once, to nearest even. NaN becomes 0x7fff. In C++ with
 * arithmetic, which goes by float and is rounded for each operation, as CUDA's on the host is.
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

#ifdef __cplusplus
#define CUDART_BF16_OPERATOR(op) \
    static inline __nv_bfloat16 operator op(const __nv_bfloat16 &a, const __nv_bfloat16 &b) \
    { \
        return __float2bfloat16(__bfloat162float(a) op __bfloat162float(b)); \
    } \
    static inline __nv_bfloat16 &operator op##=(__nv_bfloat16 &a, const __nv_bfloat16 &b) \
    { \
        return a = a op b; \
    }
CUDART_BF16_OPERATOR(+)
CUDART_BF16_OPERATOR(-)
CUDART_BF16_OPERATOR(*)
CUDART_BF16_OPERATOR(/)
#undef CUDART_BF16_OPERATOR
#endif

#endif
