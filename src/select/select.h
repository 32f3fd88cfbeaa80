/*
 * select: chooses the algorithm of a call: by the user's rules first, then the one that the cost model says is fastest.
 * Called by api (on a plan-cache miss), comm (which makes the policy), thrum-info --why and thrum-sim.
 *
 * The model: each algorithm says how many exchanges, messages and bytes a call takes its busiest rank (struct algo_cost);
 * the figures say what each of them takes on this machine. They are built in, or measured by thrum-tune and kept in a
 * tuning file. All ranks must choose alike: a communicator takes the figures of its rank 0, and the ranks' rules must be
 * equal.
 */
#ifndef SELECT_SELECT_H
#define SELECT_SELECT_H

#include <stdint.h>

#include "algo/algo.h"
#include "plan/simulate.h"

struct select_figures {
#define X(name, value, least, most, unit, help) double name;
#include "select/figure_rows.h"
#undef X
};

enum select_figure {
#define X(name, value, least, most, unit, help) FIGURE_##name,
#include "select/figure_rows.h"
#undef X
    FIGURE_COUNT
};

struct select_figure_row {
    const char *name;
    double value, least, most; /* value: the default */
    const char *unit, *help;
};
extern const struct select_figure_row select_figure_rows[FIGURE_COUNT];

/* The figure of that index. */
static inline double *select_figure_at(struct select_figures *figures, int index)
{
    return (double *)figures + index;
}

/* Calls of these sizes and numbers of ranks, both ends included, are served by `algo`. */
struct select_rule {
    const struct algo *algo;
    uint64_t min_bytes, max_bytes; /* of the larger buffer of the rank that has most */
    int min_ranks, max_ranks;
    bool forced; /* by the user, without "?": an error where it cannot serve; else passed over */
};

#define SELECT_MAX_RULES 64
#define SELECT_SOURCE_BYTES 256

struct select_policy {
    struct select_figures figures;
    uint32_t given; /* bit per figure: from the tuning file, not built in */
    double link_gbytes; /* a second, of a host's ports; 0: not known */
    struct select_rule rules[SELECT_MAX_RULES]; /* the last that fits holds */
    int nrules;
    char source[SELECT_SOURCE_BYTES]; /* the tuning file; "" if there is none */
};

/* ---- select.c ---- */

/*
 * The tuning file's figures and rules, then those of `algorithms`, a text as THRUM_ALGO has it (NULL: THRUM_ALGO).
 * Reads a file. INVALID_CONFIG names what is wrong and where; *policy_out is then not written.
 */
thrum_status_t select_policy_load(const char *algorithms, struct select_policy *policy_out);

/*
 * What is known of the network: the speed of a host's ports, 0 if that is not known, for the figure port_gbps; and whether
 * adapters move what goes between hosts, for all net_* and, where the speed is not known, port_gbps. Figures that the tuning
 * file has stay. In this order; the second may be left out, or called again.
 */
void select_use_link(struct select_policy *policy, double gbytes);
void select_use_adapters(struct select_policy *policy, bool offloads);

/* Equal for policies with equal rules; figures do not count. */
uint64_t select_rules_digest(const struct select_policy *policy);

/*
 * The algorithm for these params, the same on every rank. INVALID_CONFIG if the user's rule names one that cannot
 * serve. Microseconds; no allocation; any thread.
 */
thrum_status_t select_algorithm(const struct select_policy *policy,
                                const struct plan_params *params, const struct algo **algo_out);

struct select_candidate {
    const struct algo *algo;
    bool chosen;
    const char *refusal; /* NULL if it could serve; static */
    double predicted_us; /* by the cost model; 0 where refused */
    char reason[160]; /* why it was chosen or passed over */
};

/* Every algorithm of the collective, the chosen one marked. *n_out is how many there are; up to max are written. */
thrum_status_t select_explain(const struct select_policy *policy, const struct plan_params *params,
                              struct select_candidate *out, size_t max, size_t *n_out);

/* ---- model.c ---- */

/* What the figures come to for the data of a call: inside hosts by peer access or puts, in the cache or beyond. */
struct simulate_machine select_machine(const struct select_figures *figures,
                                       const struct plan_params *params);

/* Time of a call by the model, out of place; the same whichever rank params is of. */
double select_predict_us(const struct select_figures *figures, const struct algo *algo,
                         const struct plan_params *params);

/* Bytes that sizes in rules mean: the larger buffer of the rank that has most. */
uint64_t select_call_bytes(const struct plan_params *params);

/* ---- rules.c ---- */

/*
 * Appends the rules of a text such as "allreduce:ring:64K-4M,broadcast:binomial". INVALID_CONFIG: the message begins
 * with `what` and names the part.
 */
thrum_status_t select_rules_parse(const char *what, const char *text, struct select_policy *policy);

/* ---- tuning.c ---- */

/* Figures built in, no rules. */
void select_policy_init(struct select_policy *policy);

/*
 * Where the tuning file is: THRUM_TUNE_FILE, else thrum/tune.json under XDG_CONFIG_HOME or ~/.config. False: it is
 * "none", or there is no such place (no HOME). *required_out: it was named, so that it must exist.
 */
bool select_tuning_path(char *path, size_t bytes, bool *required_out);

/*
 * Sets figures and appends rules from a file. INVALID_CONFIG: cannot be read, or the line or field that is wrong. With
 * *missing_out not NULL a file that is not there is no error.
 */
thrum_status_t select_tuning_read(const char *path, struct select_policy *policy,
                                  bool *missing_out);

#endif
