/* Copies of the DMA engine. Called by the packet executor. */
#include "sim_reduce.h"

#include <string.h>

#include "sim_reduce_variants.h"

#if SIM_HAVE_X86
#include <emmintrin.h>
#endif

/* A block is read once from memory and written to every destination while it is in the L1 cache. */
#define TILE_BYTES 8192
/*
 * From here on the C library copies by a string instruction, which takes ten times as long where the destination lies up
 * to a cache line behind the source within their pages (seen on EPYC with glibc 2.36): so do memory from malloc, 16 bytes
 * into its page, and device memory.
 */
#define STRING_MIN_BYTES 2048
/* Below this, what is stored is soon read: leave it in the cache. */
#define STREAM_MIN_BYTES 65536

#if SIM_HAVE_X86
/* Past the cache, 64 bytes a step. `dst` is aligned to 16. SSE2 is as fast as anything wider here: the memory limits. */
static void copy_streamed(char *dst, const char *src, size_t bytes)
{
    size_t at = 0;

    for (; bytes - at >= 64; at += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(src + at));
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 48));
        _mm_stream_si128((__m128i *)(void *)(dst + at), a);
        _mm_stream_si128((__m128i *)(void *)(dst + at + 16), b);
        _mm_stream_si128((__m128i *)(void *)(dst + at + 32), c);
        _mm_stream_si128((__m128i *)(void *)(dst + at + 48), d);
    }
    memcpy(dst + at, src + at, bytes - at);
}

/* The same through the cache, at any alignment. */
static void copy_vectors(char *dst, const char *src, size_t bytes)
{
    size_t at = 0;

    for (; bytes - at >= 64; at += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(src + at));
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(const void *)(src + at + 48));
        _mm_storeu_si128((__m128i *)(void *)(dst + at), a);
        _mm_storeu_si128((__m128i *)(void *)(dst + at + 16), b);
        _mm_storeu_si128((__m128i *)(void *)(dst + at + 32), c);
        _mm_storeu_si128((__m128i *)(void *)(dst + at + 48), d);
    }
    memcpy(dst + at, src + at, bytes - at);
}

static void fence(void)
{
    _mm_sfence();
}
#else
static void copy_vectors(char *dst, const char *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}
static void copy_streamed(char *dst, const char *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}
static void fence(void) {}
#endif

static bool overlap(const char *dst, const char *src, size_t bytes)
{
    return dst < src + bytes && src < dst + bytes;
}

/* Into the cache; no overlap. */
static void copy_cached(char *dst, const char *src, size_t bytes)
{
    size_t behind = ((uintptr_t)dst - (uintptr_t)src) & 4095;

    if (bytes >= STRING_MIN_BYTES && behind && behind < 64)
        copy_vectors(dst, src, bytes);
    else
        memcpy(dst, src, bytes);
}

static void copy_part(char *dst, const char *src, size_t bytes, bool stream)
{
    size_t head = -(uintptr_t)dst & 15;

    if (dst == src)
        return;
    if (!stream || bytes < 64 + head) {
        copy_cached(dst, src, bytes);
        return;
    }
    memcpy(dst, src, head);
    copy_streamed(dst + head, src + head, bytes - head);
}

/* Whole, where tiles could overwrite what is still to be read; the destinations that would do so last. */
static void copy_overlapping(void *const *dsts, int ndst, const char *src, size_t bytes)
{
    for (int d = 0; d < ndst; d++)
        if (!overlap(dsts[d], src, bytes))
            memcpy(dsts[d], src, bytes);
    for (int d = 0; d < ndst; d++)
        if (overlap(dsts[d], src, bytes))
            memmove(dsts[d], src, bytes);
}

void sim_copy(void *const *dsts, int ndst, const void *src, size_t bytes, bool stream)
{
    const char *from = src;
    size_t tile = ndst == 1 ? bytes : TILE_BYTES;

    stream = stream && bytes >= STREAM_MIN_BYTES;
    if (!bytes)
        return;
    for (int d = 0; d < ndst; d++) {
        if (dsts[d] != src && overlap(dsts[d], from, bytes)) {
            copy_overlapping(dsts, ndst, from, bytes);
            return;
        }
    }
    for (size_t at = 0; at < bytes; at += tile) {
        size_t part = bytes - at < tile ? bytes - at : tile;
        for (int d = 0; d < ndst; d++)
            copy_part((char *)dsts[d] + at, from + at, part, stream);
    }
    if (stream)
        fence();
}
