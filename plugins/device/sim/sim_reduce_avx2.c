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

static SIM_ALWAYS_INLINE vec vec_load(enum sim_elem elem, const void *p)
{
    (void)elem;
    return _mm256_loadu_si256(p);
}

static SIM_ALWAYS_INLINE void vec_store(enum sim_elem elem, void *p, vec v)
{
    (void)elem;
    _mm256_storeu_si256(p, v);
}

static SIM_ALWAYS_INLINE void vec_stream(enum sim_elem elem, void *p, vec v)
{
    (void)elem;
    _mm256_stream_si256(p, v);
}

static SIM_ALWAYS_INLINE void stream_fence(void)
{
    _mm_sfence();
}

/* The sizes of small messages without going through memory; zeros after the last byte. */
static SIM_ALWAYS_INLINE vec vec_load_part(const void *p, size_t bytes)
{
    char padded[VEC_BYTES] __attribute__((aligned(VEC_BYTES))) = {0};

    if (bytes == 8)
        return _mm256_zextsi128_si256(_mm_loadu_si64(p));
    if (bytes == 16)
        return _mm256_zextsi128_si256(_mm_loadu_si128(p));
    if (bytes == 4)
        return _mm256_zextsi128_si256(_mm_loadu_si32(p));
    if (bytes == VEC_BYTES)
        return vec_load(ELEM_U8, p);
    memcpy(padded, p, bytes);
    return *(const vec *)padded;
}

static SIM_ALWAYS_INLINE void vec_store_part(void *to, vec v, size_t bytes)
{
    char *p = to;
    __m128i low = _mm256_castsi256_si128(v);
    uint64_t rest;

    if (bytes == VEC_BYTES) {
        vec_store(ELEM_U8, p, v);
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

static SIM_ALWAYS_INLINE vec half_from_f32(vec a, vec b)
{
    __m128i low = _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i high = _mm256_cvtps_ph((__m256)b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
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
    vec low = _mm256_set1_epi16(0xff);

    switch (bytes) {
    case 1: /* `y` holds the same byte in all lanes */
        return _mm256_srli_epi16(_mm256_mullo_epi16(x & low, y & low), 8) |
               _mm256_andnot_si256(low, _mm256_mullo_epi16(_mm256_srli_epi16(x, 8), y & low));
    case 2:
        return _mm256_mulhi_epu16(x, y);
    case 4:
        return mulhi32(x, y);
    default:
        return mulhi64(x, y);
    }
}

#include "sim_reduce_vector.h"

#define VARIANT_TABLE sim_reduce_avx2_table
#include "sim_reduce_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
