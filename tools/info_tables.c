/* thrum-info: configuration, algorithms, fabrics, and why an algorithm is chosen. See info.h. */
#include "info.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "algo/algo.h"
#include "base/config.h"
#include "exec/exec.h"
#include "fabric/fabric.h"
#include "select/select.h"
#include "topo/topo.h"

/* ---- configuration ---- */

static const char *const type_names[] = {
    [CONFIG_INT] = "integer",   [CONFIG_BOOL] = "boolean", [CONFIG_BYTES] = "bytes",
    [CONFIG_CHOICE] = "choice", [CONFIG_STRING] = "text",
};

/* The effective value as text; a secret is not shown. */
static const char *value_text(enum config_key key)
{
    if (key == CFG_SECRET && thrum_config_is_set(key))
        return "(not shown)";
    return thrum_config_string(key);
}

static void number_text(const struct config_row *row, int64_t value, char text[32])
{
    if (row->type == CONFIG_BYTES)
        info_bytes((uint64_t)value, text);
    else
        snprintf(text, 32, "%lld", (long long)value);
}

static void print_allowed(const struct config_row *row)
{
    char low[32], high[32];

    switch (row->type) {
    case CONFIG_INT:
    case CONFIG_BYTES:
        number_text(row, row->min, low);
        number_text(row, row->max, high);
        printf("%s to %s%s%s", low, high, row->type == CONFIG_INT && *row->unit ? " " : "",
               row->type == CONFIG_INT ? row->unit : "");
        break;
    case CONFIG_BOOL:
        printf("0 or 1");
        break;
    case CONFIG_CHOICE:
        for (const char *c = row->unit; *c; c++)
            printf(*c == '|' ? ", " : "%c", *c);
        break;
    case CONFIG_STRING:
        printf("text");
        break;
    }
}

static void print_config_row(enum config_key key)
{
    const struct config_row *row = &thrum_config_rows[key];
    bool set = thrum_config_is_set(key);

    printf("%s = %s%s\n", row->name, *value_text(key) ? value_text(key) : "\"\"",
           set ? "   (set)" : "");
    printf("    ");
    print_allowed(row);
    if (set)
        printf("; default %s", *row->default_text ? row->default_text : "\"\"");
    printf("\n");
    info_wrap(row->help, 4, 98);
    printf("\n");
}

static json_t *config_row_json(enum config_key key)
{
    const struct config_row *row = &thrum_config_rows[key];
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s}", "name", row->name, "type",
                             type_names[row->type], "value", value_text(key), "default",
                             row->default_text, "set", thrum_config_is_set(key), "help", row->help);

    if (row->type == CONFIG_INT || row->type == CONFIG_BYTES) {
        json_object_set_new(json, "min", json_integer(row->min));
        json_object_set_new(json, "max", json_integer(row->max));
        json_object_set_new(json, "unit", json_string(row->unit));
        json_object_set_new(json, "number", json_integer(thrum_config_int(key)));
    } else if (row->type == CONFIG_CHOICE) {
        json_t *choices = json_array();
        for (const char *word = row->unit; *word;
             word += strcspn(word, "|") + (word[strcspn(word, "|")] == '|'))
            json_array_append_new(choices, json_stringn(word, strcspn(word, "|")));
        json_object_set_new(json, "choices", choices);
    }
    return json;
}

int info_config(bool json)
{
    json_t *list;

    if (!json) {
        for (int key = 0; key < CFG_COUNT; key++)
            print_config_row((enum config_key)key);
        return 0;
    }
    list = json_array();
    for (int key = 0; key < CFG_COUNT; key++)
        json_array_append_new(list, config_row_json((enum config_key)key));
    return info_print_json(list);
}

/* ---- algorithms ---- */

static const struct {
    unsigned bit;
    const char *name;
} algorithm_flags[] = {
    {ALGO_NEEDS_PEER_ACCESS, "peer-access"},
    {ALGO_INLINE_ONLY, "inline-only"},
    {ALGO_ORDERED, "ordered"},
    {ALGO_POWER_OF_TWO, "power-of-two"},
};
enum { ALGORITHM_FLAGS = sizeof algorithm_flags / sizeof *algorithm_flags };

static void print_algorithm(const struct algo *algo)
{
    char flags[96] = "";

    for (int i = 0; i < ALGORITHM_FLAGS; i++) {
        size_t used = strlen(flags);
        if (algo->flags & algorithm_flags[i].bit)
            snprintf(flags + used, sizeof flags - used, "%s%s", used ? "," : "",
                     algorithm_flags[i].name);
    }
    printf("%-15s %-19s %-20s %s\n", collective_name(algo->collective), algo->name,
           *flags ? flags : "-", algo->help);
}

static json_t *algorithm_json(const struct algo *algo)
{
    json_t *flags = json_array();

    for (int i = 0; i < ALGORITHM_FLAGS; i++) {
        if (algo->flags & algorithm_flags[i].bit)
            json_array_append_new(flags, json_string(algorithm_flags[i].name));
    }
    return json_pack("{s:s, s:s, s:o, s:s}", "collective", collective_name(algo->collective),
                     "algorithm", algo->name, "flags", flags, "help", algo->help);
}

int info_algorithms(bool json)
{
    json_t *list;

    if (!json) {
        printf("%-15s %-19s %-20s %s\n", "COLLECTIVE", "ALGORITHM", "FLAGS", "HOW");
        for (size_t i = 0; i < thrum_algo_count; i++)
            print_algorithm(&thrum_algos[i]);
        printf("\npeer-access: loads and stores peers' memory; inline-only: what fits a line, "
               "at least %d bytes;\n"
               "ordered: folds contributions from the left in the order of ranks.\n"
               "THRUM_ALGO=collective:algorithm forces one; --why says what would be chosen.\n",
               PLAN_INLINE_BYTES);
        return 0;
    }
    list = json_array();
    for (size_t i = 0; i < thrum_algo_count; i++)
        json_array_append_new(list, algorithm_json(&thrum_algos[i]));
    return info_print_json(list);
}

/* ---- fabrics ---- */

static json_t *fabric_json(const struct thrum_fabric_info *info)
{
    return json_pack("{s:s, s:s, s:b, s:b, s:f, s:I}", "name", info->name, "detail", info->detail,
                     "usable", info->usable != 0, "same_host_only", info->same_host_only != 0,
                     "bandwidth_gbps", info->bandwidth_gbps, "max_inline_bytes",
                     (json_int_t)info->max_inline_bytes);
}

static void print_fabric(const struct thrum_fabric_info *info)
{
    char inline_bytes[24];

    printf("  %-20s %-10s %-12s inline %s", info->name, info->usable ? "usable" : "refused",
           info->same_host_only ? "this host" : "any host",
           info_bytes(info->max_inline_bytes, inline_bytes));
    if (info->bandwidth_gbps > 0)
        printf(", %.1f GB/s", info->bandwidth_gbps);
    printf("\n    %s\n", info->detail);
}

/* When THRUM_FABRIC=auto takes the plugin. */
static void print_choice(const char *name, const struct thrum_fabric_info *infos, size_t n)
{
    bool usable = false;

    for (size_t i = 0; infos && i < n; i++)
        usable |= infos[i].usable && !infos[i].same_host_only;
    if (strcmp(thrum_config_string(CFG_FABRIC), "auto") != 0)
        return;
    if (!strcmp(name, "loopback"))
        printf("  auto takes it where all ranks are on one host and may not load and store\n");
    else if (!strcmp(name, "tcp"))
        printf(
            "  auto takes it between hosts, where neither verbs nor ofi has RDMA on every rank\n");
    else if (!strcmp(name, "ofi"))
        printf(
            "  auto takes it between hosts, where not every rank can use verbs, if libfabric has a "
            "provider with RDMA on every rank or THRUM_OFI_* are set\n");
    else if (!strcmp(name, "verbs") && usable)
        printf("  auto takes it between hosts, if every rank has an active port in a network with "
               "one of every other\n");
    else if (!strcmp(name, "verbs"))
        printf("  auto does not take it: this host has no port for it\n");
}

/* One plugin; devices are appended to the list where it is not NULL. A plugin that fails is part of the answer. */
static void show_plugin(const char *name, json_t *list)
{
    enum { MOST = 64 };
    const struct thrum_fabric_ops *ops;
    struct thrum_fabric_info *infos = calloc(MOST, sizeof *infos);
    size_t n = 0;
    thrum_status_t status = infos ? fabric_plugin_load(name, &ops) : THRUM_ERR_NO_MEMORY;
    json_t *devices = json_array();

    if (status == THRUM_OK)
        status = ops->enumerate(infos, MOST, &n);
    if (!list)
        printf("%s%s\n", name,
               !strcmp(name, thrum_config_string(CFG_FABRIC)) ? " (THRUM_FABRIC)" : "");
    if (status && !list)
        printf("  cannot be used: %s: %s\n", thrum_status_name(status), thrum_last_error());
    if (!list)
        print_choice(name, status ? 0 : infos, n < MOST ? n : MOST);
    for (size_t i = 0; status == THRUM_OK && i < n && i < MOST; i++) {
        if (list)
            json_array_append_new(devices, fabric_json(&infos[i]));
        else
            print_fabric(&infos[i]);
    }
    if (list)
        json_array_append_new(list,
                              json_pack("{s:s, s:s*, s:O}", "plugin", name, "error",
                                        status ? thrum_last_error() : NULL, "devices", devices));
    json_decref(devices);
    free(infos);
}

int info_fabrics(bool json)
{
    const char *chosen = thrum_config_string(CFG_FABRIC);
    json_t *list = json ? json_array() : NULL;
    bool built_in = false;

    for (const char *const *name = thrum_fabric_builtin_names; *name; name++) {
        built_in = built_in || !strcmp(*name, chosen);
        show_plugin(*name, list);
    }
    if (!built_in && *chosen)
        show_plugin(strcmp(chosen, "auto") ? chosen : "tcp", list); /* which serves other hosts */
    if (!strcmp(chosen, "auto")) {
        show_plugin("ofi", list);
        show_plugin("verbs", list);
    }
    return json ? info_print_json(list) : 0;
}

/* ---- why ---- */

static int bad_argument(const char *what, const char *value, const char *allowed)
{
    fprintf(stderr, "thrum-info: --why: %s \"%s\": must be %s\n", what, value, allowed);
    return 2;
}

static bool parse_size(const char *text, uint64_t *bytes_out)
{
    static const char units[] = "KMGT";
    char *end;
    unsigned long long value;
    const char *unit;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (end == text || *text == '-' || errno)
        return false;
    unit = isalpha((unsigned char)*end) ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        int shift = 10 * (int)(unit - units + 1);
        if (value >> (63 - shift))
            return false;
        value <<= shift;
        end++;
    }
    *bytes_out = value;
    return *end == 0;
}

static int index_of(const char *name, const char *(*name_at)(int), int n)
{
    for (int i = 0; i < n; i++) {
        if (!strcmp(name_at(i), name))
            return i;
    }
    return -1;
}

static const char *dtype_at(int i)
{
    return thrum_datatype_name((thrum_datatype_t)i);
}

static const char *op_at(int i)
{
    return thrum_redop_name((thrum_redop_t)i);
}

/* Whether one buffer of a rank has a block for every rank. */
static bool has_blocks(enum collective collective)
{
    return collective == COLL_ALLGATHER || collective == COLL_REDUCE_SCATTER ||
           collective == COLL_ALLTOALL || collective == COLL_GATHER || collective == COLL_SCATTER;
}

/* Size is that of the larger buffer of a rank, as in thrum-perf. Exit code. */
static int fill_params(const struct info_question *q, struct plan_params *params,
                       uint64_t *bytes_out)
{
    int collective = collective_by_name(q->collective),
        dtype = index_of(q->dtype, dtype_at, THRUM_DATATYPE_COUNT);
    int op = index_of(q->op, op_at, THRUM_REDOP_COUNT);
    uint64_t bytes, unit;
    char *end;
    long ranks = strtol(q->ranks, &end, 10), share;

    if (collective < 0)
        return bad_argument("collective", q->collective, "one that --algorithms shows");
    if (!parse_size(q->size, &bytes))
        return bad_argument("size", q->size, "a number of bytes, such as 8, 64K or 1M");
    if (end == q->ranks || *end || ranks < 1 || ranks > 1 << 20)
        return bad_argument("ranks", q->ranks, "a number from 1 to 1048576");
    share = strtol(q->ranks_per_core, &end, 10);
    if (end == q->ranks_per_core || *end || share < 1 || share > 1 << 20)
        return bad_argument("ranks per core", q->ranks_per_core, "a number from 1 to 1048576");
    if (dtype < 0)
        return bad_argument("dtype", q->dtype, "a type such as float32");
    if (op < 0)
        return bad_argument("op", q->op, "an operation such as sum");
    if (plan_reduces((enum collective)collective) &&
        !plan_op_takes((thrum_redop_t)op, (thrum_datatype_t)dtype))
        return bad_argument("op", q->op, "one for the type");
    unit = thrum_datatype_size((thrum_datatype_t)dtype);
    if (has_blocks((enum collective)collective))
        unit *= (uint64_t)ranks;
    *params = (struct plan_params){
        .collective = (enum collective)collective,
        .nranks = (int)ranks,
        .count = collective == COLL_BARRIER ? 0 : bytes / unit,
        .dtype = (thrum_datatype_t)dtype,
        .redop = (thrum_redop_t)op,
        .in_place =
            q->in_place && collective != COLL_ALLTOALL, /* copied first, then out of place */
        .peer_access = thrum_config_int(CFG_PEER_ACCESS) == 0,
        .lanes = (int)thrum_config_int(CFG_LANES),
        .ranks_per_core = (int)share,
        .ordered = thrum_config_bool(CFG_REPRODUCIBLE) && plan_rounds((thrum_datatype_t)dtype),
        .scratch_bytes = (uint64_t)thrum_config_int(CFG_SCRATCH_BYTES),
    };
    *bytes_out = params->count * unit;
    return 0;
}

/* The hosts of the ranks: by --hosts, or by THRUM_TOPOLOGY_FILE, whose links count, too. Exit code. */
static int lay_out(const struct info_question *q, struct plan_params *params,
                   struct select_policy *policy, struct plan_layout **layout_out)
{
    const char *path = thrum_config_string(CFG_TOPOLOGY_FILE);
    size_t n = (size_t)params->nranks;
    int *hosts = calloc(n, sizeof *hosts);
    struct topo *topo = NULL;
    thrum_status_t status = hosts ? THRUM_OK : THRUM_ERR_NO_MEMORY;
    long given = 1;

    if (q->hosts) {
        char *end;

        given = strtol(q->hosts, &end, 10);
        if (end == q->hosts || *end || given < 1 || given > params->nranks) {
            free(hosts);
            return bad_argument("hosts", q->hosts, "a number from 1 to that of the ranks");
        }
    }
    if (!status && *path)
        status = topo_read(path, &topo);
    if (topo)
        select_use_link(policy, topo_link_gbytes(topo));
    if (q->adapters)
        select_use_adapters(policy, true);
    for (size_t r = 0; r < n && q->hosts && !status; r++)
        hosts[r] = (int)(r * (size_t)given / n);
    if (topo && !q->hosts && !status)
        status = topo_place(topo, params->nranks, hosts);
    if (!status)
        status = plan_layout_create(hosts, params->nranks, layout_out);
    free(hosts);
    topo_free(topo);
    if (status)
        return info_fail("--why", status);
    if ((*layout_out)->nhosts > 1) {
        params->layout = params->peer_access ? *layout_out : NULL;
        params->peer_access = false;
    }
    params->line_bytes =
        COMM_LINE_UNITS_MAX *
        comm_used_unit_bytes(params->peer_access, params->ranks_per_core, params->nranks);
    return 0;
}

static void print_question(const struct plan_params *p, uint64_t bytes)
{
    char size[24];

    printf("%s, %d rank%s", collective_name(p->collective), p->nranks, p->nranks == 1 ? "" : "s");
    if (p->collective != COLL_BARRIER)
        printf(", %s (count %llu of %s)", info_bytes(bytes, size), (unsigned long long)p->count,
               thrum_datatype_name(p->dtype));
    if (plan_reduces(p->collective))
        printf(", %s", thrum_redop_name(p->redop));
    printf(", %s, %s, %d lane%s", p->in_place ? "in place" : "out of place",
           p->peer_access ? "with peer access"
           : p->layout    ? "with peer access within hosts"
                          : "without peer access",
           p->lanes, p->lanes == 1 ? "" : "s");
    if (p->ranks_per_core > 1)
        printf(", %d ranks on each core", p->ranks_per_core);
    if (p->layout && p->layout->least_local == p->layout->most_local)
        printf(", on %d hosts with %d each", p->layout->nhosts, p->layout->most_local);
    else if (p->layout)
        printf(", on %d hosts with %d to %d each", p->layout->nhosts, p->layout->least_local,
               p->layout->most_local);
    printf("\n");
}

static void print_candidate(const struct select_candidate *c)
{
    char predicted[24] = "-";

    if (!c->refusal)
        snprintf(predicted, sizeof predicted, "%.2f us", c->predicted_us);
    printf("%s %-20s %14s   %s\n", c->chosen ? "->" : "  ", c->algo->name, predicted, c->reason);
}

static json_t *candidate_json(const struct select_candidate *c)
{
    json_t *json = json_pack("{s:s, s:b, s:b, s:s}", "algorithm", c->algo->name, "chosen",
                             c->chosen, "can_serve", c->refusal == NULL, "reason", c->reason);

    if (!c->refusal)
        json_object_set_new(json, "predicted_us", json_real(c->predicted_us));
    return json;
}

/* "3 of 12 figures and 1 rule from /x/tune.json" */
static const char *source_text(const struct select_policy *policy, char *text, size_t bytes)
{
    int given = __builtin_popcount(policy->given);

    if (!*policy->source)
        snprintf(text, bytes, "built in; thrum-tune measures this machine's");
    else
        snprintf(text, bytes, "%d of %d from %s, the others built in", given, FIGURE_COUNT,
                 policy->source);
    return text;
}

static void print_rule(const struct select_rule *rule)
{
    char low[24], high[24];

    printf("  %s:%s, %s to %s", collective_name(rule->algo->collective), rule->algo->name,
           info_bytes(rule->min_bytes, low),
           rule->max_bytes == UINT64_MAX ? "any size" : info_bytes(rule->max_bytes, high));
    if (rule->min_ranks > 1 || rule->max_ranks < INT32_MAX)
        printf(", %d to %d ranks", rule->min_ranks, rule->max_ranks);
    printf("   (%s)\n", rule->forced ? "THRUM_ALGO" : "tuning file");
}

static json_t *rule_json(const struct select_rule *rule)
{
    json_t *json = json_pack("{s:s, s:s, s:I, s:i, s:i, s:b}", "collective",
                             collective_name(rule->algo->collective), "algorithm", rule->algo->name,
                             "min_bytes", (json_int_t)rule->min_bytes, "min_ranks", rule->min_ranks,
                             "max_ranks", rule->max_ranks, "forced", rule->forced);

    if (rule->max_bytes <= INT64_MAX)
        json_object_set_new(json, "max_bytes", json_integer((json_int_t)rule->max_bytes));
    return json;
}

static int tuning_json(const struct select_policy *policy)
{
    struct select_figures figures = policy->figures;
    json_t *list = json_array(), *rules = json_array();

    for (int i = 0; i < FIGURE_COUNT; i++) {
        const struct select_figure_row *row = &select_figure_rows[i];
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:s, s:b, s:s}", "name", row->name,
                                              "value", *select_figure_at(&figures, i), "default",
                                              row->value, "unit", row->unit, "measured",
                                              (int)(policy->given >> i & 1), "help", row->help));
    }
    for (int i = 0; i < policy->nrules; i++)
        json_array_append_new(rules, rule_json(&policy->rules[i]));
    return info_print_json(
        json_pack("{s:s, s:o, s:o}", "source", policy->source, "figures", list, "rules", rules));
}

int info_tuning(const struct select_policy *policy, bool json)
{
    struct select_figures figures = policy->figures;
    char source[SELECT_SOURCE_BYTES + 96];

    if (json)
        return tuning_json(policy);
    printf("Figures: %s\n\n%-20s %12s %-6s %12s\n", source_text(policy, source, sizeof source),
           "FIGURE", "VALUE", "", "BUILT IN");
    for (int i = 0; i < FIGURE_COUNT; i++) {
        const struct select_figure_row *row = &select_figure_rows[i];
        printf("%-20s %12.6g %-6s %12.6g   %s%s\n", row->name, *select_figure_at(&figures, i),
               row->unit, row->value, row->help, policy->given >> i & 1 ? " (from the file)" : "");
    }
    printf("\nRules%s\n", policy->nrules ? ", of which the last that fits holds:" : ": none");
    for (int i = 0; i < policy->nrules; i++)
        print_rule(&policy->rules[i]);
    return 0;
}

static int answer(const struct plan_params *params, uint64_t bytes,
                  const struct select_policy *policy, bool json)
{
    enum { MOST = 32 };
    struct select_candidate candidates[MOST];
    char source[SELECT_SOURCE_BYTES + 96];
    size_t n;
    json_t *list;
    thrum_status_t status = select_explain(policy, params, candidates, MOST, &n);

    if (status)
        return info_fail("--why", status);
    n = n < MOST ? n : MOST;
    if (!json) {
        print_question(params, bytes);
        printf("Figures: %s\n\n", source_text(policy, source, sizeof source));
        printf("   %-20s %14s   %s\n", "ALGORITHM", "PREDICTED", "REASON");
        for (size_t i = 0; i < n; i++)
            print_candidate(&candidates[i]);
        return 0;
    }
    list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, candidate_json(&candidates[i]));
    return info_print_json(
        json_pack("{s:s, s:i, s:i, s:I, s:I, s:s, s:s, s:b, s:b, s:i, s:s, s:o}", "collective",
                  collective_name(params->collective), "ranks", params->nranks, "hosts",
                  params->layout ? params->layout->nhosts : 1, "size_bytes", (json_int_t)bytes,
                  "count", (json_int_t)params->count, "dtype", thrum_datatype_name(params->dtype),
                  "op", thrum_redop_name(params->redop), "in_place", params->in_place,
                  "peer_access", params->peer_access, "ranks_per_core", params->ranks_per_core,
                  "figures", policy->source, "candidates", list));
}

int info_why(const struct info_question *question, const struct select_policy *policy, bool json)
{
    struct select_policy with_links = *policy;
    struct plan_layout *layout = NULL;
    struct plan_params params;
    uint64_t bytes;
    int exit_code = fill_params(question, &params, &bytes);

    if (!exit_code)
        exit_code = lay_out(question, &params, &with_links, &layout);
    if (!exit_code)
        exit_code = answer(&params, bytes, &with_links, json);
    plan_layout_destroy(layout);
    return exit_code;
}
