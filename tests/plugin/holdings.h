/* What a process has, to see what a plugin leaves behind. Used by both conformance suites. */
#ifndef TESTS_PLUGIN_HOLDINGS_H
#define TESTS_PLUGIN_HOLDINGS_H

#include <stdbool.h>
#include <stddef.h>

struct holdings {
    int descriptors, threads, mappings;
    size_t bytes; /* that malloc has given */
};

struct holdings holdings_count(void);

/*
 * Whether nothing was left by `times` repetitions between both counts; says what was. Some bytes are let pass: caches of
 * libraries, which do not grow each time.
 */
bool holdings_are_equal(const struct holdings *before, const struct holdings *after,
                        unsigned times);

#endif
