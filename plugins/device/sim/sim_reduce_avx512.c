/*
 * The kernels in AVX-512 (F, BW, DQ, VL). Compiled for that by the pragmas, whatever the rest is compiled for; called through
 * the table by sim_reduce.c after it has asked the CPU.
 */
#include "sim_reduce_variants.h"

#if SIM_HAVE_X86

#include <immintrin.h>

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

static SIM_ALWAYS_INLINE vec vec_load(enum sim_elem elem, const void *p)
{
    (void)elem;
    return _mm512_loadu_si512(p);
}

static SIM_ALWAYS_INLINE void vec_store(enum sim_elem elem, void *p, vec v)
{
    (void)elem;
    _mm512_storeu_si512(p, v);
}

static SIM_ALWAYS_INLINE void vec_stream(enum sim_elem elem, void *p, vec v)
{
    (void)elem;
    _mm512_stream_si512(p, v);
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
    vec low = _mm512_set1_epi16(0xff);

    switch (bytes) {
    case 1: /* `y` holds the same byte in all lanes */
        return _mm512_srli_epi16(_mm512_mullo_epi16(x & low, y & low), 8) |
               _mm512_andnot_si512(low, _mm512_mullo_epi16(_mm512_srli_epi16(x, 8), y & low));
    case 2:
        return _mm512_mulhi_epu16(x, y);
    case 4:
        return mulhi32(x, y);
    default:
        return mulhi64(x, y);
    }
}

#include "sim_reduce_vector.h"

#define VARIANT_TABLE sim_reduce_avx512_table
#include "sim_reduce_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
