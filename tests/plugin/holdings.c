/* See holdings.h. */
#include "holdings.h"

#include <malloc.h>
#include <stdio.h>

#include "../counts.h"

size_t holdings_let_pass = 512;

static int count_lines(const char *path)
{
    FILE *file = fopen(path, "re");
    int c, n = 0;

    while (file && (c = getc(file)) != EOF)
        n += c == '\n';
    if (file)
        fclose(file);
    return n;
}

struct holdings holdings_count(void)
{
    int mappings = count_lines("/proc/self/maps"), threads = count_threads();
    struct mallinfo2 heap = mallinfo2();

    return (struct holdings){.descriptors = count_descriptors(),
                             .threads = threads,
                             .mappings = mappings,
                             .bytes = heap.uordblks + heap.hblkhd};
}

bool holdings_are_equal(const struct holdings *before, const struct holdings *after, unsigned times)
{
    /* a heap may have grown; a sanitizer maps what it likes, and counts no bytes */
    bool fewer = after->mappings - before->mappings < (int)times || !after->bytes;
    bool bytes = after->bytes <= before->bytes + times * holdings_let_pass;

    if (after->descriptors == before->descriptors && after->threads == before->threads && fewer &&
        bytes)
        return true;
    fprintf(
        stderr,
        "left behind by %u times: %d descriptors, %d threads, %d mappings, %zd bytes of malloc\n",
        times, after->descriptors - before->descriptors, after->threads - before->threads,
        after->mappings - before->mappings, (ssize_t)(after->bytes - before->bytes));
    return false;
}
