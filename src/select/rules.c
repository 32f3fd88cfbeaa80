/* Rules as text, as THRUM_ALGO has them. See select.h. */
#include "select/select.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* "64K": false if it is none or too large. *text <- behind it. */
static bool take_bytes(const char **text, uint64_t *bytes_out)
{
    static const char units[] = "KMGT";
    unsigned long long value;
    const char *unit;
    char *end;

    if (!isdigit((unsigned char)**text))
        return false;
    errno = 0;
    value = strtoull(*text, &end, 10);
    if (errno)
        return false;
    unit = isalpha((unsigned char)*end) ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        int shift = 10 * (int)(unit - units + 1);
        if (value >> (63 - shift))
            return false;
        value <<= shift;
        end++;
    }
    *text = end;
    *bytes_out = value;
    return true;
}

/* "64K-4M", "64K-", "-4M". */
static bool parse_sizes(const char *text, struct select_rule *rule)
{
    if (*text != '-' && !take_bytes(&text, &rule->min_bytes))
        return false;
    if (*text++ != '-')
        return false;
    if (*text && !take_bytes(&text, &rule->max_bytes))
        return false;
    return !*text && rule->min_bytes <= rule->max_bytes;
}

/* One "collective:algorithm[?][:sizes]", which is taken apart. */
static thrum_status_t parse_one(const char *what, char *part, struct select_rule *rule)
{
    char *name = strchr(part, ':'), *sizes = name ? strchr(name + 1, ':') : NULL;
    int collective;

    if (name)
        *name++ = 0;
    if (sizes)
        *sizes++ = 0;
    collective = collective_by_name(part);
    if (collective < 0)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s: there is no collective \"%s\"", what,
                          part);
    *rule = (struct select_rule){
        .max_bytes = UINT64_MAX, .min_ranks = 1, .max_ranks = INT32_MAX, .forced = true};
    if (name && *name && name[strlen(name) - 1] == '?') {
        name[strlen(name) - 1] = 0;
        rule->forced = false;
    }
    rule->algo = name ? algo_find((enum collective)collective, name) : NULL;
    if (!rule->algo)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "%s: %s has no algorithm \"%s\"; thrum-info --algorithms lists them",
                          what, part, name ? name : "");
    if (sizes && !parse_sizes(sizes, rule))
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "%s: %s:%s: \"%s\" are no sizes such as 64K-4M, 64K- or -4M", what, part,
                          name, sizes);
    return THRUM_OK;
}

thrum_status_t select_rules_parse(const char *what, const char *text, struct select_policy *policy)
{
    while (*text) {
        size_t n = strcspn(text, ",");
        char part[160];
        thrum_status_t status;

        if (policy->nrules == SELECT_MAX_RULES)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s: more than %d rules", what,
                              SELECT_MAX_RULES);
        if (n >= sizeof part)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s: \"%.40s...\" is too long", what, text);
        memcpy(part, text, n);
        part[n] = 0;
        status = parse_one(what, part, &policy->rules[policy->nrules]);
        if (status)
            return status;
        policy->nrules++;
        text += n + (text[n] == ',');
    }
    return THRUM_OK;
}
