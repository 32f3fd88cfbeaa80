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

/* So many bytes may be left each time: malloc's caches fill, and libraries keep what is not the plugin's to free. */
extern size_t holdings_let_pass;

/* Whether no more was left by `times` repetitions between both counts; says what was. */
bool holdings_are_equal(const struct holdings *before, const struct holdings *after,
                        unsigned times);

#endif
