/*
 * The one configuration table: every THRUM_* variable, parsed once, printed by thrum-info --config.
 * Adding a variable is adding a row to config_rows.h.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/status.h>

enum config_type { CONFIG_INT, CONFIG_BOOL, CONFIG_BYTES, CONFIG_CHOICE, CONFIG_STRING };

struct config_row {
    const char *name; /* environment variable */
    enum config_type type;
    const char *default_text;
    int64_t min, max; /* INT, BYTES */
    const char *unit; /* "ms", "bytes", ""; for CHOICE the words, separated by '|' */
    const char *help;
};

enum config_key {
#define X(key, name, type, default_text, min, max, unit, help) CFG_##key,
#include "config_rows.h"
#undef X
    CFG_COUNT
};

/* The rows, indexed by enum config_key. */
extern const struct config_row thrum_config_rows[CFG_COUNT];

/*
 * Parses the environment on the first call (any thread), then returns what that gave: OK, or INVALID_CONFIG with a
 * message that names each bad variable, its value and what is allowed. Every public entry that makes an object calls
 * it first. Unknown THRUM_* variables are warned about once.
 */
thrum_status_t thrum_config_load(void);

/* Values after a successful load. BYTES take suffixes K, M, G (1024). CHOICE yields the index of the word. */
int64_t thrum_config_int(enum config_key key);
bool thrum_config_bool(enum config_key key);
const char *
thrum_config_string(enum config_key key); /* effective text of any type; never NULL; "" if unset */
bool thrum_config_is_set(enum config_key key); /* given in the environment */

/* Forgets the parsed values; for tests that change the environment. Not thread-safe. */
void thrum_config_reset(void);

#endif
