/*
 * select: chooses the algorithm of a call. Data rows first to last, the user's THRUM_ALGO before them.
 * Called by api (on a plan-cache miss) and by thrum-info --why.
 */
#ifndef SELECT_SELECT_H
#define SELECT_SELECT_H

#include "algo/algo.h"

/* The algorithm for these params. INVALID_CONFIG if THRUM_ALGO names one that does not exist or cannot serve. */
thrum_status_t select_algorithm(const struct plan_params *params, const struct algo **algo_out);

struct select_candidate {
    const struct algo *algo;
    bool chosen;
    const char *refusal; /* NULL if it could serve; static */
    double predicted_us; /* by the cost model; 0 where refused */
    char reason[128]; /* why it was chosen or passed over */
};

/* Every algorithm of the collective, the chosen one marked. *n_out is how many there are; up to max are written. */
thrum_status_t select_explain(const struct plan_params *params, struct select_candidate *out,
                              size_t max, size_t *n_out);

/* Checks THRUM_ALGO as a whole; called when a communicator is made, so that a typing error is found at once. */
thrum_status_t select_check_config(void);

#endif
