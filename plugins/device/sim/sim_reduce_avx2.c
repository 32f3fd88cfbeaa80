/*
 * The kernels in AVX2 and F16C. Compiled for that by the pragmas, whatever the rest is compiled for; called through
 * the table by sim_reduce.c after it has asked the CPU.
 */
#include "sim_reduce_variants.h"

#if SIM_HAVE_X86

#include <immintrin.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

#define VEC_BYTES 32
typedef __m256i vec;
#include "sim_reduce_lanes.h"

static SIM_ALWAYS_INLINE vec vec_load(size_t bytes, const void *p)
{
    return bytes == VEC_BYTES ? _mm256_loadu_si256(p) : _mm256_castsi128_si256(_mm_loadu_si128(p));
}

static SIM_ALWAYS_INLINE void vec_store(size_t bytes, void *p, vec v)
{
    if (bytes == VEC_BYTES)
        _mm256_storeu_si256(p, v);
    else
        _mm_storeu_si128(p, _mm256_castsi256_si128(v));
}

static SIM_ALWAYS_INLINE void vec_stream(size_t bytes, void *p, vec v)
{
    if (bytes == VEC_BYTES)
        _mm256_stream_si256(p, v);
    else
        _mm_stream_si128(p, _mm256_castsi256_si128(v));
}

static SIM_ALWAYS_INLINE void stream_fence(void)
{
    _mm_sfence();
}

/* The sizes of small messages without going through memory; zeros after the last byte. */
static SIM_ALWAYS_INLINE vec vec_load_part(const void *p, size_t bytes)
{
    if (bytes == 8)
        return _mm256_zextsi128_si256(_mm_loadu_si64(p));
    if (bytes == 16)
        return _mm256_zextsi128_si256(_mm_loadu_si128(p));
    if (bytes == 4)
        return _mm256_zextsi128_si256(_mm_loadu_si32(p));
    if (bytes == VEC_BYTES)
        return vec_load(VEC_BYTES, p);
    {
        char padded[VEC_BYTES] __attribute__((aligned(VEC_BYTES))) = {0};

        memcpy(padded, p, bytes);
        return *(const vec *)padded;
    }
}

static SIM_ALWAYS_INLINE void vec_store_part(void *to, vec v, size_t bytes)
{
    char *p = to;
    __m128i low = _mm256_castsi256_si128(v);
    uint64_t rest;

    if (bytes == 8) {
        _mm_storeu_si64(p, low);
        return;
    }
    if (bytes == VEC_BYTES) {
        vec_store(VEC_BYTES, p, v);
        return;
    }
    if (bytes & 16) {
        memcpy(p, &low, 16);
        low = _mm256_extracti128_si256(v, 1);
        p += 16;
    }
    rest = (uint64_t)_mm_cvtsi128_si64(low);
    if (bytes & 8) {
        memcpy(p, &rest, 8);
        rest = (uint64_t)_mm_extract_epi64(low, 1);
        p += 8;
    }
    if (bytes & 4) {
        memcpy(p, &rest, 4);
        rest >>= 32;
        p += 4;
    }
    if (bytes & 2) {
        memcpy(p, &rest, 2);
        rest >>= 16;
        p += 2;
    }
    if (bytes & 1)
        memcpy(p, &rest, 1);
}

static SIM_ALWAYS_INLINE bool vec_is_zero(vec x)
{
    return _mm256_testz_si256(x, x);
}

static SIM_ALWAYS_INLINE vec int_min(enum sim_elem elem, vec x, vec y)
{
    switch (elem) {
    case ELEM_U8:
        return _mm256_min_epu8(x, y);
    case ELEM_U16:
        return _mm256_min_epu16(x, y);
    case ELEM_U32:
        return _mm256_min_epu32(x, y);
    case ELEM_I8:
        return _mm256_min_epi8(x, y);
    case ELEM_I16:
        return _mm256_min_epi16(x, y);
    case ELEM_I32:
        return _mm256_min_epi32(x, y);
    case ELEM_U64: {
        vec top = _mm256_set1_epi64x(INT64_MIN);
        return _mm256_blendv_epi8(x, y, _mm256_cmpgt_epi64(x ^ top, y ^ top));
    }
    default:
        return _mm256_blendv_epi8(x, y, _mm256_cmpgt_epi64(x, y));
    }
}

static SIM_ALWAYS_INLINE vec int_max(enum sim_elem elem, vec x, vec y)
{
    switch (elem) {
    case ELEM_U8:
        return _mm256_max_epu8(x, y);
    case ELEM_U16:
        return _mm256_max_epu16(x, y);
    case ELEM_U32:
        return _mm256_max_epu32(x, y);
    case ELEM_I8:
        return _mm256_max_epi8(x, y);
    case ELEM_I16:
        return _mm256_max_epi16(x, y);
    case ELEM_I32:
        return _mm256_max_epi32(x, y);
    case ELEM_U64: {
        vec top = _mm256_set1_epi64x(INT64_MIN);
        return _mm256_blendv_epi8(y, x, _mm256_cmpgt_epi64(x ^ top, y ^ top));
    }
    default:
        return _mm256_blendv_epi8(y, x, _mm256_cmpgt_epi64(x, y));
    }
}

static SIM_ALWAYS_INLINE vec f32_min(vec x, vec y)
{
    return (vec)_mm256_min_ps((__m256)x, (__m256)y);
}

static SIM_ALWAYS_INLINE vec f64_min(vec x, vec y)
{
    return (vec)_mm256_min_pd((__m256d)x, (__m256d)y);
}

static SIM_ALWAYS_INLINE vec int_abs(enum sim_elem elem, vec x)
{
    switch (elem) {
    case ELEM_I8:
        return _mm256_abs_epi8(x);
    case ELEM_I16:
        return _mm256_abs_epi16(x);
    case ELEM_I32:
        return _mm256_abs_epi32(x);
    default: {
        vec sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), x);
        return _mm256_sub_epi64(x ^ sign, sign);
    }
    }
}

/* Where `sign` is zero, so is `x`: it is the absolute value of that, divided. */
static SIM_ALWAYS_INLINE vec int_negate_where(enum sim_elem elem, vec x, vec sign)
{
    switch (elem) {
    case ELEM_I8:
        return _mm256_sign_epi8(x, sign);
    case ELEM_I16:
        return _mm256_sign_epi16(x, sign);
    case ELEM_I32:
        return _mm256_sign_epi32(x, sign);
    default:
        sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), sign);
        return _mm256_sub_epi64(x ^ sign, sign);
    }
}

/* One comparison tells of two vectors. */
static SIM_ALWAYS_INLINE bool f32_any_nan(const vec *x, int n)
{
    __m256 any = _mm256_setzero_ps();

    SIM_UNROLLED
    for (int i = 0; i < n; i += 2)
        any = _mm256_or_ps(
            any, _mm256_cmp_ps((__m256)x[i], (__m256)x[i + 1 < n ? i + 1 : i], _CMP_UNORD_Q));
    return _mm256_movemask_ps(any);
}

static SIM_ALWAYS_INLINE bool f64_any_nan(const vec *x, int n)
{
    __m256d any = _mm256_setzero_pd();

    SIM_UNROLLED
    for (int i = 0; i < n; i += 2)
        any = _mm256_or_pd(
            any, _mm256_cmp_pd((__m256d)x[i], (__m256d)x[i + 1 < n ? i + 1 : i], _CMP_UNORD_Q));
    return _mm256_movemask_pd(any);
}

static SIM_ALWAYS_INLINE vec f32_canonical(vec x)
{
    __m256 nan = (__m256)_mm256_set1_epi32(0x7fc00000);
    __m256 is_nan = _mm256_cmp_ps((__m256)x, (__m256)x, _CMP_UNORD_Q);
    return (vec)_mm256_blendv_ps((__m256)x, nan, is_nan);
}

static SIM_ALWAYS_INLINE vec f64_canonical(vec x)
{
    __m256d nan = (__m256d)_mm256_set1_epi64x(0x7ff8000000000000);
    __m256d is_nan = _mm256_cmp_pd((__m256d)x, (__m256d)x, _CMP_UNORD_Q);
    return (vec)_mm256_blendv_pd((__m256d)x, nan, is_nan);
}

static SIM_ALWAYS_INLINE void f32_from_half(vec v, vec *a_out, vec *b_out)
{
    *a_out = (vec)_mm256_cvtph_ps(_mm256_castsi256_si128(v));
    *b_out = (vec)_mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
}

static SIM_ALWAYS_INLINE void f32_from_half_at(const void *p, vec *a_out, vec *b_out)
{
    *a_out = (vec)_mm256_cvtph_ps(_mm_loadu_si128(p));
    *b_out = (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
}

static SIM_ALWAYS_INLINE vec half_from_f32(vec a, vec b)
{
    __m128i low = _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i high = _mm256_cvtps_ph((__m256)b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

static SIM_ALWAYS_INLINE void f32_zip(vec even, vec odd, vec *a_out, vec *b_out)
{
    vec low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
    *a_out = _mm256_permute2x128_si256(low, high, 0x20);
    *b_out = _mm256_permute2x128_si256(low, high, 0x31);
}

static SIM_ALWAYS_INLINE void f32_unzip(vec a, vec b, vec *even_out, vec *odd_out)
{
    vec even = (vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
    vec odd = (vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
    *even_out = _mm256_permute4x64_epi64(even, 0xd8);
    *odd_out = _mm256_permute4x64_epi64(odd, 0xd8);
}

/* (a + bi)(c + di): (ac, ad) and (bd, bc), then the difference in even lanes, the sum in odd ones. */
static SIM_ALWAYS_INLINE vec f32_complex_mul(vec x, vec y)
{
    __m256 swapped = _mm256_permute_ps((__m256)y, 0xb1);
    __m256 left = _mm256_mul_ps(_mm256_moveldup_ps((__m256)x), (__m256)y);
    __m256 right = _mm256_mul_ps(_mm256_movehdup_ps((__m256)x), swapped);
    return (vec)_mm256_addsub_ps(left, right);
}

static SIM_ALWAYS_INLINE vec f64_complex_mul(vec x, vec y)
{
    __m256d swapped = _mm256_permute_pd((__m256d)y, 0x5);
    __m256d left = _mm256_mul_pd(_mm256_movedup_pd((__m256d)x), (__m256d)y);
    __m256d right = _mm256_mul_pd(_mm256_permute_pd((__m256d)x, 0xf), swapped);
    return (vec)_mm256_addsub_pd(left, right);
}

static SIM_ALWAYS_INLINE vec blend_odd_words(vec x, vec y)
{
    return _mm256_blend_epi16(x, y, 0xaa);
}

static SIM_ALWAYS_INLINE vec blend_odd_bytes(vec x, vec y)
{
    return _mm256_blendv_epi8(x, y, _mm256_set1_epi16((short)0xff00));
}

static SIM_ALWAYS_INLINE vec select_by_sign(size_t bytes, vec sign, vec x, vec y)
{
    return _mm256_blendv_epi8(y, x, bytes == 1 ? sign : _mm256_srai_epi16(sign, 15));
}

static SIM_ALWAYS_INLINE vec words_add_saturated(vec x, vec y)
{
    return _mm256_adds_epu16(x, y);
}

static SIM_ALWAYS_INLINE vec bytes_widen(vec v)
{
    return _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
}

static SIM_ALWAYS_INLINE vec bytes_narrow(vec v)
{
    return _mm256_castsi128_si256(
        _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

/* The cross products by 32-bit products, added in the upper half. */
static SIM_ALWAYS_INLINE vec mul64(vec x, vec y)
{
    vec cross = _mm256_mullo_epi32(x, _mm256_shuffle_epi32(y, 0xb1));
    vec upper = _mm256_add_epi32(_mm256_slli_epi64(cross, 32), cross);
    upper = _mm256_blend_epi32(upper, _mm256_setzero_si256(), 0x55);
    return _mm256_add_epi64(upper, _mm256_mul_epu32(x, y));
}

/* Products of 32-bit lanes: even lanes, then odd ones brought to their place. */
static SIM_ALWAYS_INLINE vec mulhi32(vec x, vec y)
{
    vec even = _mm256_mul_epu32(x, y);
    vec odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

/* By the schoolbook, from four products of 32 bits. */
static SIM_ALWAYS_INLINE vec mulhi64(vec x, vec y)
{
    vec xh = _mm256_srli_epi64(x, 32), yh = _mm256_srli_epi64(y, 32);
    vec low = _mm256_set1_epi64x(0xffffffff);
    vec mid = _mm256_mul_epu32(xh, y) + _mm256_srli_epi64(_mm256_mul_epu32(x, y), 32);
    vec mid2 = _mm256_mul_epu32(x, yh) + (mid & low);
    return _mm256_mul_epu32(xh, yh) + _mm256_srli_epi64(mid, 32) + _mm256_srli_epi64(mid2, 32);
}

static SIM_ALWAYS_INLINE vec mulhi(size_t bytes, vec x, vec y)
{
    switch (bytes) {
    case 2:
        return _mm256_mulhi_epu16(x, y);
    case 4:
        return mulhi32(x, y);
    default:
        return mulhi64(x, y);
    }
}

#include "sim_reduce_vector.h"
#include "sim_reduce_narrow.h"
#include "sim_reduce_elements.h"

#define VARIANT_TABLE sim_reduce_avx2_table
#define SIM_COMPLEX_PRODUCTS 1
#include "sim_reduce_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
