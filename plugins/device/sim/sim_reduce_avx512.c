/*
 * The kernels in AVX-512 (F, BW, DQ, VL). Compiled for that by the pragmas, whatever the rest is compiled for; called through
 * the table by sim_reduce.c after it has asked the CPU.
 */
#include "sim_reduce_variants.h"

#if SIM_HAVE_X86

#include <immintrin.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

#define VEC_BYTES 64
typedef __m512i vec;
#include "sim_reduce_lanes.h"

static SIM_ALWAYS_INLINE vec vec_load(size_t bytes, const void *p)
{
    return bytes == VEC_BYTES ? _mm512_loadu_si512(p)
                              : _mm512_castsi256_si512(_mm256_loadu_si256(p));
}

static SIM_ALWAYS_INLINE void vec_store(size_t bytes, void *p, vec v)
{
    if (bytes == VEC_BYTES)
        _mm512_storeu_si512(p, v);
    else
        _mm256_storeu_si256(p, _mm512_castsi512_si256(v));
}

static SIM_ALWAYS_INLINE void vec_stream(size_t bytes, void *p, vec v)
{
    if (bytes == VEC_BYTES)
        _mm512_stream_si512(p, v);
    else
        _mm256_stream_si256(p, _mm512_castsi512_si256(v));
}

static SIM_ALWAYS_INLINE void stream_fence(void)
{
    _mm_sfence();
}

static SIM_ALWAYS_INLINE __mmask64 first_bytes(size_t bytes)
{
    return UINT64_MAX >> (VEC_BYTES - bytes); /* 1 .. 64 */
}

static SIM_ALWAYS_INLINE vec vec_load_part(const void *p, size_t bytes)
{
    return _mm512_maskz_loadu_epi8(first_bytes(bytes), p);
}

static SIM_ALWAYS_INLINE void vec_store_part(void *p, vec v, size_t bytes)
{
    _mm512_mask_storeu_epi8(p, first_bytes(bytes), v);
}

static SIM_ALWAYS_INLINE bool vec_is_zero(vec x)
{
    return !_mm512_test_epi64_mask(x, x);
}

static SIM_ALWAYS_INLINE vec int_min(enum sim_elem elem, vec x, vec y)
{
    switch (elem) {
    case ELEM_U8:
        return _mm512_min_epu8(x, y);
    case ELEM_U16:
        return _mm512_min_epu16(x, y);
    case ELEM_U32:
        return _mm512_min_epu32(x, y);
    case ELEM_I8:
        return _mm512_min_epi8(x, y);
    case ELEM_I16:
        return _mm512_min_epi16(x, y);
    case ELEM_I32:
        return _mm512_min_epi32(x, y);
    case ELEM_U64:
        return _mm512_min_epu64(x, y);
    default:
        return _mm512_min_epi64(x, y);
    }
}

static SIM_ALWAYS_INLINE vec int_max(enum sim_elem elem, vec x, vec y)
{
    switch (elem) {
    case ELEM_U8:
        return _mm512_max_epu8(x, y);
    case ELEM_U16:
        return _mm512_max_epu16(x, y);
    case ELEM_U32:
        return _mm512_max_epu32(x, y);
    case ELEM_I8:
        return _mm512_max_epi8(x, y);
    case ELEM_I16:
        return _mm512_max_epi16(x, y);
    case ELEM_I32:
        return _mm512_max_epi32(x, y);
    case ELEM_U64:
        return _mm512_max_epu64(x, y);
    default:
        return _mm512_max_epi64(x, y);
    }
}

static SIM_ALWAYS_INLINE vec f32_min(vec x, vec y)
{
    return (vec)_mm512_min_ps((__m512)x, (__m512)y);
}

static SIM_ALWAYS_INLINE vec f64_min(vec x, vec y)
{
    return (vec)_mm512_min_pd((__m512d)x, (__m512d)y);
}

static SIM_ALWAYS_INLINE vec int_abs(enum sim_elem elem, vec x)
{
    switch (elem) {
    case ELEM_I8:
        return _mm512_abs_epi8(x);
    case ELEM_I16:
        return _mm512_abs_epi16(x);
    case ELEM_I32:
        return _mm512_abs_epi32(x);
    default:
        return _mm512_abs_epi64(x);
    }
}

static SIM_ALWAYS_INLINE vec int_negate_where(enum sim_elem elem, vec x, vec sign)
{
    vec zero = _mm512_setzero_si512();

    switch (elem) {
    case ELEM_I8:
        return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(sign), zero, x);
    case ELEM_I16:
        return _mm512_mask_sub_epi16(x, _mm512_movepi16_mask(sign), zero, x);
    case ELEM_I32:
        return _mm512_mask_sub_epi32(x, _mm512_movepi32_mask(sign), zero, x);
    default:
        return _mm512_mask_sub_epi64(x, _mm512_movepi64_mask(sign), zero, x);
    }
}

/* One comparison tells of two vectors. */
static SIM_ALWAYS_INLINE bool f32_any_nan(const vec *x, int n)
{
    unsigned any = 0;

    SIM_UNROLLED
    for (int i = 0; i < n; i += 2)
        any |= _mm512_cmp_ps_mask((__m512)x[i], (__m512)x[i + 1 < n ? i + 1 : i], _CMP_UNORD_Q);
    return any;
}

static SIM_ALWAYS_INLINE bool f64_any_nan(const vec *x, int n)
{
    unsigned any = 0;

    SIM_UNROLLED
    for (int i = 0; i < n; i += 2)
        any |= _mm512_cmp_pd_mask((__m512d)x[i], (__m512d)x[i + 1 < n ? i + 1 : i], _CMP_UNORD_Q);
    return any;
}

static SIM_ALWAYS_INLINE vec f32_canonical(vec x)
{
    __m512 nan = (__m512)_mm512_set1_epi32(0x7fc00000);
    __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    return (vec)_mm512_mask_blend_ps(is_nan, (__m512)x, nan);
}

static SIM_ALWAYS_INLINE vec f64_canonical(vec x)
{
    __m512d nan = (__m512d)_mm512_set1_epi64(0x7ff8000000000000);
    __mmask8 is_nan = _mm512_cmp_pd_mask((__m512d)x, (__m512d)x, _CMP_UNORD_Q);
    return (vec)_mm512_mask_blend_pd(is_nan, (__m512d)x, nan);
}

static SIM_ALWAYS_INLINE void f32_from_half(vec v, vec *a_out, vec *b_out)
{
    *a_out = (vec)_mm512_cvtph_ps(_mm512_castsi512_si256(v));
    *b_out = (vec)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1));
}

static SIM_ALWAYS_INLINE vec half_from_f32(vec a, vec b)
{
    __m256i low = _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i high = _mm512_cvtps_ph((__m512)b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static SIM_ALWAYS_INLINE void f32_from_half_at(const void *p, vec *a_out, vec *b_out)
{
    *a_out = (vec)_mm512_cvtph_ps(_mm256_loadu_si256(p));
    *b_out = (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p + 1));
}

static SIM_ALWAYS_INLINE void f32_zip(vec even, vec odd, vec *a_out, vec *b_out)
{
    vec first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    *a_out = _mm512_permutex2var_epi32(even, first, odd);
    *b_out = _mm512_permutex2var_epi32(even, _mm512_add_epi32(first, _mm512_set1_epi32(8)), odd);
}

static SIM_ALWAYS_INLINE void f32_unzip(vec a, vec b, vec *even_out, vec *odd_out)
{
    vec first = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    *even_out = _mm512_permutex2var_epi32(a, first, b);
    *odd_out = _mm512_permutex2var_epi32(a, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b);
}

/* (a + bi)(c + di): (ac, ad) and (bd, bc), then the difference in even lanes, the sum in odd ones. */
static SIM_ALWAYS_INLINE vec f32_complex_mul(vec x, vec y)
{
    __m512 swapped = _mm512_permute_ps((__m512)y, 0xb1);
    __m512 left = _mm512_mul_ps(_mm512_moveldup_ps((__m512)x), (__m512)y);
    __m512 right = _mm512_mul_ps(_mm512_movehdup_ps((__m512)x), swapped);
    return (vec)_mm512_mask_sub_ps(_mm512_add_ps(left, right), 0x5555, left, right);
}

static SIM_ALWAYS_INLINE vec f64_complex_mul(vec x, vec y)
{
    __m512d swapped = _mm512_permute_pd((__m512d)y, 0x55);
    __m512d left = _mm512_mul_pd(_mm512_movedup_pd((__m512d)x), (__m512d)y);
    __m512d right = _mm512_mul_pd(_mm512_permute_pd((__m512d)x, 0xff), swapped);
    return (vec)_mm512_mask_sub_pd(_mm512_add_pd(left, right), 0x55, left, right);
}

static SIM_ALWAYS_INLINE vec blend_odd_words(vec x, vec y)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, x, y);
}

static SIM_ALWAYS_INLINE vec blend_odd_bytes(vec x, vec y)
{
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, x, y);
}

static SIM_ALWAYS_INLINE vec select_by_sign(size_t bytes, vec sign, vec x, vec y)
{
    return bytes == 1 ? _mm512_mask_blend_epi8(_mm512_movepi8_mask(sign), y, x)
                      : _mm512_mask_blend_epi16(_mm512_movepi16_mask(sign), y, x);
}

static SIM_ALWAYS_INLINE vec words_add_saturated(vec x, vec y)
{
    return _mm512_adds_epu16(x, y);
}

static SIM_ALWAYS_INLINE vec bytes_widen(vec v)
{
    return _mm512_cvtepi8_epi16(_mm512_castsi512_si256(v));
}

static SIM_ALWAYS_INLINE vec bytes_narrow(vec v)
{
    return _mm512_castsi256_si512(_mm512_cvtepi16_epi8(v));
}

static SIM_ALWAYS_INLINE vec mul64(vec x, vec y)
{
    return _mm512_mullo_epi64(x, y);
}

/* Products of 32-bit lanes: even lanes, then odd ones brought to their place. */
static SIM_ALWAYS_INLINE vec mulhi32(vec x, vec y)
{
    vec even = _mm512_mul_epu32(x, y);
    vec odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32));
    return _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

/* By the schoolbook, from four products of 32 bits. */
static SIM_ALWAYS_INLINE vec mulhi64(vec x, vec y)
{
    vec xh = _mm512_srli_epi64(x, 32), yh = _mm512_srli_epi64(y, 32);
    vec low = _mm512_set1_epi64(0xffffffff);
    vec mid = _mm512_mul_epu32(xh, y) + _mm512_srli_epi64(_mm512_mul_epu32(x, y), 32);
    vec mid2 = _mm512_mul_epu32(x, yh) + (mid & low);
    return _mm512_mul_epu32(xh, yh) + _mm512_srli_epi64(mid, 32) + _mm512_srli_epi64(mid2, 32);
}

static SIM_ALWAYS_INLINE vec mulhi(size_t bytes, vec x, vec y)
{
    switch (bytes) {
    case 2:
        return _mm512_mulhi_epu16(x, y);
    case 4:
        return mulhi32(x, y);
    default:
        return mulhi64(x, y);
    }
}

#include "sim_reduce_vector.h"
#include "sim_reduce_narrow.h"
#include "sim_reduce_elements.h"

#define VARIANT_TABLE sim_reduce_avx512_table
#define SIM_COMPLEX_PRODUCTS 1
#include "sim_reduce_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
