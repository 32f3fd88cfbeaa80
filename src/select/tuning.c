/*
 * The tuning file: what thrum-tune has measured on a machine, and rules that somebody wrote into it. Everything in it is
 * checked, since people edit it. See select.h; docs/performance.md describes the format.
 */
#include "select/select.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"

#define FORMAT "thrum-tune"
#define FORMAT_VERSION 1
#define MAX_FILE_BYTES (1 << 20)

const struct select_figure_row select_figure_rows[FIGURE_COUNT] = {
#define X(name, value, least, most, unit, help) {#name, value, least, most, unit, help},
#include "select/figure_rows.h"
#undef X
};

void select_policy_init(struct select_policy *policy)
{
    memset(policy, 0, sizeof *policy);
    for (int i = 0; i < FIGURE_COUNT; i++)
        *select_figure_at(&policy->figures, i) = select_figure_rows[i].value;
}

bool select_tuning_path(char *path, size_t bytes, bool *required_out)
{
    const char *named = thrum_config_string(CFG_TUNE_FILE);
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = -1;

    *required_out = *named != 0;
    if (!strcmp(named, "none"))
        return false;
    if (*named)
        n = snprintf(path, bytes, "%s", named);
    else if (config && *config == '/') /* the XDG specification: relative ones are ignored */
        n = snprintf(path, bytes, "%s/thrum/tune.json", config);
    else if (home && *home == '/')
        n = snprintf(path, bytes, "%s/.config/thrum/tune.json", home);
    return n > 0 && (size_t)n < bytes;
}

/* ---- reading ---- */

/* The content, to be freed. */
static thrum_status_t load(const char *path, bool *missing_out, char **text_out, size_t *bytes_out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would block */
    thrum_status_t status = THRUM_OK;
    struct stat stat;
    char *text = NULL;
    size_t have = 0;
    ssize_t n = 1;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR) && missing_out) {
        *missing_out = true;
        return THRUM_OK;
    }
    if (fd < 0 || fstat(fd, &stat)) {
        status = thrum_fail_errno(errno == EMFILE || errno == ENFILE ? THRUM_ERR_LIMIT
                                                                     : THRUM_ERR_INVALID_CONFIG,
                                  "tuning file %s cannot be opened", path);
        goto out;
    }
    if (!S_ISREG(stat.st_mode)) {
        status = thrum_fail(THRUM_ERR_INVALID_CONFIG, "tuning file %s is not a regular file", path);
        goto out;
    }
    if (stat.st_size > MAX_FILE_BYTES) {
        status = thrum_fail(THRUM_ERR_INVALID_CONFIG,
                            "tuning file %s has %lld bytes; at most %d are read", path,
                            (long long)stat.st_size, MAX_FILE_BYTES);
        goto out;
    }
    text = malloc((size_t)stat.st_size + 1);
    if (!text)
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for tuning file %s", path);
    while (text && n > 0 && have < (size_t)stat.st_size) {
        n = read(fd, text + have, (size_t)stat.st_size - have);
        have += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        status = thrum_fail_errno(THRUM_ERR_INVALID_CONFIG, "tuning file %s cannot be read", path);
out:
    if (fd >= 0)
        close(fd);
    if (status || !text) {
        free(text);
        return status;
    }
    *text_out = text;
    *bytes_out = have;
    return THRUM_OK;
}

static thrum_status_t wrong(const char *path, const char *field, const char *must)
{
    return thrum_fail(THRUM_ERR_INVALID_CONFIG, "tuning file %s: \"%s\" %s", path, field, must);
}

static thrum_status_t read_figure(const char *path, const char *key, const json_t *value,
                                  struct select_policy *policy)
{
    char field[96], must[96];
    double number = json_number_value(value);
    int i = 0;

    snprintf(field, sizeof field, "figures.%.60s", key);
    while (i < FIGURE_COUNT && strcmp(select_figure_rows[i].name, key))
        i++;
    if (i == FIGURE_COUNT)
        return wrong(path, field, "is no figure; thrum-info --tuning lists them");
    const struct select_figure_row *row = &select_figure_rows[i];
    snprintf(must, sizeof must, "is not a number from %.15g to %.15g %s", row->least, row->most,
             row->unit);
    if (!json_is_number(value) || !(number >= row->least && number <= row->most))
        return wrong(path, field, must);
    *select_figure_at(&policy->figures, i) = number;
    policy->given |= 1u << i;
    return THRUM_OK;
}

static thrum_status_t read_figures(const char *path, json_t *figures, struct select_policy *policy)
{
    const char *key;
    json_t *value;

    if (!json_is_object(figures))
        return wrong(path, "figures", "is not an object");
    json_object_foreach(figures, key, value)
    {
        thrum_status_t status = read_figure(path, key, value, policy);
        if (status)
            return status;
    }
    return THRUM_OK;
}

/* A whole number of a rule; absent: left as it is. */
static bool read_bound(const json_t *rule, const char *key, json_int_t least, json_int_t most,
                       json_int_t *value)
{
    const json_t *json = json_object_get(rule, key);

    if (!json)
        return true;
    *value = json_integer_value(json);
    return json_is_integer(json) && *value >= least && *value <= most;
}

static thrum_status_t check_rule_keys(const char *path, const char *field, json_t *rule)
{
    static const char *const known[] = {"collective", "algorithm", "min_bytes",
                                        "max_bytes",  "min_ranks", "max_ranks"};
    const char *key;
    json_t *value;

    json_object_foreach(rule, key, value)
    {
        bool found = false;
        char name[128];

        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || !strcmp(key, known[i]);
        snprintf(name, sizeof name, "%s.%.60s", field, key);
        if (!found)
            return wrong(path, name, "is not known");
    }
    return THRUM_OK;
}

static thrum_status_t read_rule(const char *path, size_t index, json_t *json,
                                struct select_policy *policy)
{
    const char *collective = json_string_value(json_object_get(json, "collective"));
    const char *algorithm = json_string_value(json_object_get(json, "algorithm"));
    json_int_t min_bytes = 0, max_bytes = INT64_MAX, min_ranks = 1, max_ranks = INT32_MAX;
    char field[32], must[160];
    int id = collective ? collective_by_name(collective) : -1;
    const struct algo *algo =
        id >= 0 && algorithm ? algo_find((enum collective)id, algorithm) : NULL;
    thrum_status_t status;

    snprintf(field, sizeof field, "rules[%zu]", index);
    if (!json_is_object(json))
        return wrong(path, field, "is not an object");
    status = check_rule_keys(path, field, json);
    if (status)
        return status;
    if (id < 0) {
        snprintf(must, sizeof must, "names no collective (\"%.40s\")",
                 collective ? collective : "");
        return wrong(path, field, must);
    }
    if (!algo) {
        snprintf(must, sizeof must,
                 "names no algorithm of %s (\"%.40s\"); thrum-info --algorithms lists them",
                 collective, algorithm ? algorithm : "");
        return wrong(path, field, must);
    }
    if (!read_bound(json, "min_bytes", 0, INT64_MAX, &min_bytes) ||
        !read_bound(json, "max_bytes", 0, INT64_MAX, &max_bytes) ||
        !read_bound(json, "min_ranks", 1, INT32_MAX, &min_ranks) ||
        !read_bound(json, "max_ranks", 1, INT32_MAX, &max_ranks) || min_bytes > max_bytes ||
        min_ranks > max_ranks)
        return wrong(path, field,
                     "has bounds that are no whole numbers, negative, or in the wrong order");
    policy->rules[policy->nrules++] =
        (struct select_rule){.algo = algo,
                             .min_bytes = (uint64_t)min_bytes,
                             .max_bytes = max_bytes == INT64_MAX ? UINT64_MAX : (uint64_t)max_bytes,
                             .min_ranks = (int)min_ranks,
                             .max_ranks = (int)max_ranks};
    return THRUM_OK;
}

static thrum_status_t read_rules(const char *path, json_t *rules, struct select_policy *policy)
{
    thrum_status_t status = THRUM_OK;

    if (!json_is_array(rules))
        return wrong(path, "rules", "is not an array");
    if (json_array_size(rules) > SELECT_MAX_RULES)
        return wrong(path, "rules", "has more than 64 rules");
    for (size_t i = 0; i < json_array_size(rules) && !status; i++)
        status = read_rule(path, i, json_array_get(rules, i), policy);
    return status;
}

static thrum_status_t read_all(const char *path, json_t *root, struct select_policy *policy)
{
    const char *format = json_string_value(json_object_get(root, "format")), *key;
    const json_t *version = json_object_get(root, "version");
    json_t *value;
    thrum_status_t status = THRUM_OK;

    if (!format || strcmp(format, FORMAT))
        return wrong(path, "format", "is not \"thrum-tune\": this is no tuning file");
    if (!json_is_integer(version) || json_integer_value(version) != FORMAT_VERSION)
        return wrong(path, "version", "is not 1, which this library reads; run thrum-tune anew");
    json_object_foreach(root, key, value)
    {
        char name[64];

        snprintf(name, sizeof name, "%.60s", key);
        if (!strcmp(key, "name") || !strcmp(key, "description"))
            status = json_is_string(value) ? THRUM_OK : wrong(path, name, "is not a text");
        else if (!strcmp(key, "figures"))
            status = read_figures(path, value, policy);
        else if (!strcmp(key, "rules"))
            status = read_rules(path, value, policy);
        else if (strcmp(key, "format") && strcmp(key, "version"))
            status = wrong(path, name, "is not known");
        if (status)
            return status;
    }
    return THRUM_OK;
}

thrum_status_t select_tuning_read(const char *path, struct select_policy *policy, bool *missing_out)
{
    struct select_policy read = *policy;
    char *text = NULL;
    size_t bytes = 0;
    json_error_t error;
    json_t *root;
    thrum_status_t status = load(path, missing_out, &text, &bytes);

    if (status || !text)
        return status;
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!root)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "tuning file %s: line %d, column %d: %s", path,
                          error.line, error.column, error.text);
    if (!json_is_object(root))
        status = thrum_fail(THRUM_ERR_INVALID_CONFIG, "tuning file %s: is not a JSON object", path);
    else
        status = read_all(path, root, &read);
    json_decref(root);
    if (status)
        return status;
    snprintf(read.source, sizeof read.source, "%s", path);
    *policy = read;
    return THRUM_OK;
}
