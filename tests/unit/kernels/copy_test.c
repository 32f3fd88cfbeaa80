/* sim_copy: sizes, alignments, several destinations, streaming, overlap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim_reduce.h"

#define LARGE 200003

static char *pattern(size_t bytes)
{
    char *p = malloc(bytes);
    assert_non_null(p);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (char)(i * 7 + i / 251);
    return p;
}

static void check(size_t bytes, int ndst, size_t skew, bool stream)
{
    char *src = pattern(bytes + 1), *dst[3];
    void *to[3];

    for (int d = 0; d < ndst; d++) {
        dst[d] = malloc(bytes + 64);
        assert_non_null(dst[d]);
        memset(dst[d], 0x5a, bytes + 64);
        to[d] = dst[d] + skew + (size_t)d;
    }
    sim_copy(to, ndst, src, bytes, stream);
    for (int d = 0; d < ndst; d++) {
        assert_memory_equal(to[d], src, bytes);
        assert_int_equal(dst[d][skew + (size_t)d + bytes], 0x5a);
        if (skew + (size_t)d)
            assert_int_equal(dst[d][skew + (size_t)d - 1], 0x5a);
        free(dst[d]);
    }
    free(src);
}

static void all_sizes_and_alignments(void **state)
{
    static const size_t sizes[] = {0, 1, 8, 63, 64, 4097, 8192, 65535, 65536, LARGE};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int ndst = 1; ndst <= 3; ndst++)
            for (size_t skew = 0; skew < 17; skew += 5)
                for (int stream = 0; stream < 2; stream++)
                    check(sizes[i], ndst, skew, stream);
}

/* Where the destination lies a little behind the source within their pages, another way is taken. */
static void a_little_behind_in_the_page(void **state)
{
    char *memory = pattern(4 * 65536), *to = malloc(2 * 65536);

    (void)state;
    assert_non_null(to);
    for (size_t behind = 0; behind <= 64; behind += 8) {
        char *from = (char *)(((uintptr_t)memory + 4095) & ~(uintptr_t)4095);
        char *page = (char *)(((uintptr_t)to + 4095) & ~(uintptr_t)4095);
        void *dst[] = {page + behind};

        memset(to, 0x5a, 2 * 65536);
        sim_copy(dst, 1, from, 50001, false);
        assert_memory_equal(dst[0], from, 50001);
        assert_int_equal(page[behind + 50001], 0x5a);
        if (behind)
            assert_int_equal(page[behind - 1], 0x5a);
    }
    free(memory);
    free(to);
}

static void overlap_is_a_memmove(void **state)
{
    static const int shifts[] = {-5000, -64, -1, 0, 1, 64, 5000};

    (void)state;
    for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
        for (int stream = 0; stream < 2; stream++) {
            char *memory = pattern(LARGE + 10000), *expected = pattern(LARGE + 10000);
            void *to[] = {memory + 5000 + shifts[i]};

            memmove(expected + 5000 + shifts[i], expected + 5000, LARGE);
            sim_copy(to, 1, memory + 5000, LARGE, stream);
            assert_memory_equal(memory, expected, LARGE + 10000);
            free(memory);
            free(expected);
        }
    }
}

/* A source that is also a destination, and another one elsewhere. */
static void one_of_several_may_be_the_source(void **state)
{
    char *memory = pattern(LARGE), *expected = pattern(LARGE), *other = malloc(LARGE);
    void *to[] = {memory, other};

    (void)state;
    assert_non_null(other);
    sim_copy(to, 2, memory, LARGE, true);
    assert_memory_equal(memory, expected, LARGE);
    assert_memory_equal(other, expected, LARGE);
    free(memory);
    free(expected);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_sizes_and_alignments),
        cmocka_unit_test(a_little_behind_in_the_page),
        cmocka_unit_test(overlap_is_a_memmove),
        cmocka_unit_test(one_of_several_may_be_the_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
