/* Policy and choice: the user's rules, then the cost model. See select.h. */
#include "select/select.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"

thrum_status_t select_policy_load(const char *algorithms, struct select_policy *policy_out)
{
    struct select_policy policy;
    char path[4096];
    bool required, missing = false;
    thrum_status_t status = THRUM_OK;

    select_policy_init(&policy);
    if (select_tuning_path(path, sizeof path, &required))
        status = select_tuning_read(path, &policy, required ? NULL : &missing);
    if (!status)
        status =
            select_rules_parse(algorithms ? "config.algorithms" : "THRUM_ALGO",
                               algorithms ? algorithms : thrum_config_string(CFG_ALGO), &policy);
    if (!status)
        *policy_out = policy;
    return status;
}

/* Of an adapter of 100 Gb/s: what its kind is usually said to take, a put and a look at it counted; not measured here. */
static const struct {
    enum select_figure figure;
    double value;
} of_adapters[] = {{FIGURE_net_us, 3},
                   {FIGURE_net_message_us, 0.5},
                   {FIGURE_net_gbps, 12.5},
                   {FIGURE_port_gbps, 12.5},
                   {FIGURE_net_overlap, 1}};

static void use_figure(struct select_policy *policy, enum select_figure figure, double value)
{
    if (!(policy->given >> figure & 1))
        *select_figure_at(&policy->figures, (int)figure) = value;
}

void select_use_link(struct select_policy *policy, double gbytes)
{
    policy->link_gbytes = gbytes;
    if (gbytes > 0)
        use_figure(policy, FIGURE_port_gbps, gbytes);
}

void select_use_adapters(struct select_policy *policy, bool offloads)
{
    for (size_t i = 0; i < sizeof of_adapters / sizeof *of_adapters; i++) {
        enum select_figure figure = of_adapters[i].figure;
        double value = offloads ? of_adapters[i].value : select_figure_rows[figure].value;

        /* One rank can fill the ports if an adapter does the work. */
        if (policy->link_gbytes > 0 &&
            (figure == FIGURE_port_gbps || (figure == FIGURE_net_gbps && offloads)))
            value = policy->link_gbytes;
        use_figure(policy, figure, value);
    }
}

uint64_t select_rules_digest(const struct select_policy *policy)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, a word at a time */

    for (int i = 0; i < policy->nrules; i++) {
        const struct select_rule *rule = &policy->rules[i];
        const uint64_t words[] = {(uint64_t)(rule->algo - thrum_algos), rule->min_bytes,
                                  rule->max_bytes, (uint64_t)rule->min_ranks,
                                  (uint64_t)rule->max_ranks << 1 | rule->forced};

        for (size_t k = 0; k < sizeof words / sizeof *words; k++)
            h = (h ^ words[k]) * 0x100000001b3u;
    }
    return h;
}

struct choice {
    const struct algo *algo;
    const struct select_rule *rule; /* NULL: by the model */
    double us; /* by the model: of the fastest */
};

/* The last rule that fits: the user's whatever it is, one of the tuning file if its algorithm can serve. */
static const struct select_rule *find_rule(const struct select_policy *policy,
                                           const struct plan_params *params)
{
    uint64_t bytes = select_call_bytes(params);

    for (int i = policy->nrules - 1; i >= 0; i--) {
        const struct select_rule *rule = &policy->rules[i];

        if (rule->algo->collective == params->collective && bytes >= rule->min_bytes &&
            bytes <= rule->max_bytes && params->nranks >= rule->min_ranks &&
            params->nranks <= rule->max_ranks &&
            (rule->forced || !algo_refusal(rule->algo, params)))
            return rule;
    }
    return NULL;
}

/* Of equals the first in the table. */
static void find_fastest(const struct select_policy *policy, const struct plan_params *params,
                         struct choice *choice)
{
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        double us;

        if (algo->collective != params->collective || algo_refusal(algo, params))
            continue;
        us = select_predict_us(&policy->figures, algo, params);
        if (!choice->algo || us < choice->us) {
            choice->algo = algo;
            choice->us = us;
        }
    }
}

static thrum_status_t choose(const struct select_policy *policy, const struct plan_params *params,
                             struct choice *choice_out)
{
    const char *refusal;

    *choice_out = (struct choice){.rule = find_rule(policy, params)};
    if (!choice_out->rule) {
        find_fastest(policy, params, choice_out);
        if (!choice_out->algo)
            return thrum_fail(THRUM_ERR_INTERNAL,
                              "no algorithm for %s of %llu elements on %d ranks",
                              collective_name(params->collective),
                              (unsigned long long)params->count, params->nranks);
        return THRUM_OK;
    }
    choice_out->algo = choice_out->rule->algo;
    refusal = algo_refusal(choice_out->algo, params);
    if (refusal)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "THRUM_ALGO=%s:%s cannot serve this call: %s",
                          collective_name(params->collective), choice_out->algo->name, refusal);
    choice_out->us = select_predict_us(&policy->figures, choice_out->algo, params);
    return THRUM_OK;
}

thrum_status_t select_algorithm(const struct select_policy *policy,
                                const struct plan_params *params, const struct algo **algo_out)
{
    struct choice choice;
    thrum_status_t status = choose(policy, params, &choice);

    if (!status)
        *algo_out = choice.algo;
    return status;
}

static void explain_one(const struct select_policy *policy, const struct plan_params *params,
                        const struct choice *choice, const struct algo *algo,
                        struct select_candidate *out)
{
    const char *who = !choice->rule          ? NULL
                      : choice->rule->forced ? "THRUM_ALGO"
                                             : "a rule of the tuning file";
    double more;

    *out = (struct select_candidate){.algo = algo, .chosen = algo == choice->algo};
    out->refusal = algo_refusal(algo, params);
    if (!out->refusal)
        out->predicted_us = select_predict_us(&policy->figures, algo, params);
    more = out->predicted_us - choice->us;
    if (out->refusal)
        snprintf(out->reason, sizeof out->reason, "cannot serve: %s", out->refusal);
    else if (out->chosen && who)
        snprintf(out->reason, sizeof out->reason, "forced by %s", who);
    else if (out->chosen)
        snprintf(out->reason, sizeof out->reason, "the fastest by the model");
    else if (who)
        snprintf(out->reason, sizeof out->reason, "%s forces another (%s by %.2f us)", who,
                 more < 0 ? "this is faster" : "this is slower", more < 0 ? -more : more);
    else if (more <= 0)
        snprintf(out->reason, sizeof out->reason, "just as fast, later in the table");
    else
        snprintf(out->reason, sizeof out->reason, "slower by %.2f us (%.2f times)", more,
                 out->predicted_us / choice->us);
}

thrum_status_t select_explain(const struct select_policy *policy, const struct plan_params *params,
                              struct select_candidate *out, size_t max, size_t *n_out)
{
    struct choice choice;
    size_t n = 0;
    thrum_status_t status = choose(policy, params, &choice);

    if (status)
        return status;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        if (thrum_algos[i].collective != params->collective)
            continue;
        if (n < max)
            explain_one(policy, params, &choice, &thrum_algos[i], &out[n]);
        n++;
    }
    *n_out = n;
    return THRUM_OK;
}
