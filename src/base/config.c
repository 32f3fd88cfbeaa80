/* Parses THRUM_* once, by the one table. Called by every public entry that makes an object. */
#include "base/config.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

extern char **environ;

const struct config_row thrum_config_rows[CFG_COUNT] = {
#define X(key, name, type, default_text, min, max, unit, help) \
    [CFG_##key] = {name, type, default_text, min, max, unit, help},
#include "config_rows.h"
#undef X
};

static struct {
    pthread_mutex_t lock;
    atomic_bool loaded;
    thrum_status_t status;
    char message[1024];
    int64_t numbers[CFG_COUNT];
    char *texts[CFG_COUNT]; /* NULL: the default */
} config = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool parse_number(const struct config_row *row, const char *text, int64_t *out)
{
    char *end;
    long long value;
    int shift = 0;

    errno = 0;
    value = strtoll(text, &end, 0);
    if (end == text || errno)
        return false;
    if (row->type == CONFIG_BYTES && *end) {
        shift = strchr("kK", *end) ? 10 : strchr("mM", *end) ? 20 : strchr("gG", *end) ? 30 : 0;
        if (!shift || end[1])
            return false;
    } else if (*end) {
        return false;
    }
    if (__builtin_mul_overflow(value, 1LL << shift, &value) || value < row->min || value > row->max)
        return false;
    *out = value;
    return true;
}

static bool parse_choice(const char *choices, const char *text, int64_t *out)
{
    size_t length = strlen(text);
    int64_t index = 0;

    for (const char *word = choices; word; index++) {
        const char *bar = strchr(word, '|');
        size_t n = bar ? (size_t)(bar - word) : strlen(word);
        if (n == length && !strncasecmp(word, text, n)) {
            *out = index;
            return true;
        }
        word = bar ? bar + 1 : NULL;
    }
    return false;
}

static bool parse(const struct config_row *row, const char *text, int64_t *out)
{
    *out = 0;
    switch (row->type) {
    case CONFIG_INT:
    case CONFIG_BYTES:
        return parse_number(row, text, out);
    case CONFIG_BOOL:
        return parse_choice("0|1", text, out) || parse_choice("no|yes", text, out) ||
               parse_choice("false|true", text, out);
    case CONFIG_CHOICE:
        return parse_choice(row->unit, text, out);
    case CONFIG_STRING:
        return true;
    }
    return false;
}

static void complain(const struct config_row *row, const char *text)
{
    size_t used = strlen(config.message);
    char allowed[160];

    switch (row->type) {
    case CONFIG_INT:
        snprintf(allowed, sizeof allowed, "a number from %lld to %lld%s%s", (long long)row->min,
                 (long long)row->max, *row->unit ? " " : "", row->unit);
        break;
    case CONFIG_BYTES:
        snprintf(allowed, sizeof allowed, "bytes from %lld to %lld, with K, M or G",
                 (long long)row->min, (long long)row->max);
        break;
    case CONFIG_BOOL:
        snprintf(allowed, sizeof allowed, "0 or 1");
        break;
    default:
        snprintf(allowed, sizeof allowed, "one of %s", row->unit);
    }
    snprintf(config.message + used, sizeof config.message - used, "%s%s=\"%.80s\" is not %s",
             used ? "; " : "", row->name, text, allowed);
    config.status = THRUM_ERR_INVALID_CONFIG;
}

static void warn_unknown(void)
{
    for (char **entry = environ; *entry; entry++) {
        const char *equals = strchr(*entry, '=');
        bool known = false;

        if (strncmp(*entry, "THRUM_", 6) || !equals)
            continue;
        for (int i = 0; i < CFG_COUNT && !known; i++) {
            size_t n = strlen(thrum_config_rows[i].name);
            known =
                n == (size_t)(equals - *entry) && !strncmp(*entry, thrum_config_rows[i].name, n);
        }
        if (!known)
            fprintf(stderr,
                    "thrum WARN: unknown variable %.*s is ignored; thrum-info --config lists the "
                    "known ones\n",
                    (int)(equals - *entry), *entry);
    }
}

static void load_locked(void)
{
    config.status = THRUM_OK;
    config.message[0] = 0;
    for (int i = 0; i < CFG_COUNT; i++) {
        const struct config_row *row = &thrum_config_rows[i];
        const char *text = getenv(row->name);

        (void)parse(row, row->default_text, &config.numbers[i]);
        if (!text)
            continue;
        config.texts[i] = strdup(text);
        if (!parse(row, text, &config.numbers[i])) {
            complain(row, text);
            (void)parse(row, row->default_text, &config.numbers[i]);
        }
    }
    if (config.numbers[CFG_LOG] >= LOG_WARN)
        warn_unknown();
}

thrum_status_t thrum_config_load(void)
{
    if (!atomic_load_explicit(&config.loaded, memory_order_acquire)) {
        pthread_mutex_lock(&config.lock);
        if (!atomic_load_explicit(&config.loaded, memory_order_relaxed)) {
            load_locked();
            atomic_store_explicit(&config.loaded, true, memory_order_release);
        }
        pthread_mutex_unlock(&config.lock);
    }
    return config.status ? thrum_set_last_error(config.status, config.message) : THRUM_OK;
}

static void ensure_loaded(void)
{
    if (!atomic_load_explicit(&config.loaded, memory_order_acquire))
        (void)thrum_config_load();
}

int64_t thrum_config_int(enum config_key key)
{
    ensure_loaded();
    return config.numbers[key];
}

bool thrum_config_bool(enum config_key key)
{
    return thrum_config_int(key) != 0;
}

const char *thrum_config_string(enum config_key key)
{
    ensure_loaded();
    return config.texts[key] ? config.texts[key] : thrum_config_rows[key].default_text;
}

bool thrum_config_is_set(enum config_key key)
{
    ensure_loaded();
    return config.texts[key] != NULL;
}

void thrum_config_reset(void)
{
    for (int i = 0; i < CFG_COUNT; i++) {
        free(config.texts[i]);
        config.texts[i] = NULL;
    }
    atomic_store(&config.loaded, false);
}
