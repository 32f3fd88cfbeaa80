/* The algorithm table and its look-ups; see algo.h. Called by select, exec, thrum-info and thrum-plan. */
#include "algo/algo.h"
#include "algo/build.h"
#include "algo/hosts.h"
#include "algo/pairwise.h"

#include <string.h>

const struct algo thrum_algos[] = {
#define X(coll, text, file, bits, line) \
    {.collective = COLL_##coll, \
     .name = text, \
     .build = algo_##file##_build, \
     .cost = algo_##file##_cost, \
     .flags = bits, \
     .help = line},
#include "algo/algo_rows.h"
#undef X
};
const size_t thrum_algo_count = sizeof(thrum_algos) / sizeof(thrum_algos[0]);

const struct algo *algo_find(enum collective collective, const char *name)
{
    for (size_t i = 0; i < thrum_algo_count; i++)
        if (thrum_algos[i].collective == collective && strcmp(thrum_algos[i].name, name) == 0)
            return &thrum_algos[i];
    return NULL;
}

/* Whoever folds may need scratch, and who forwards blocks in lines. */
static bool uses_scratch(enum collective collective)
{
    return plan_reduces(collective) || collective == COLL_ALLGATHER;
}

/* Algorithms whose need of scratch grows with the ranks. */
static const struct {
    algo_build_fn build;
    bool (*fits)(const struct plan_params *params);
} needs[] = {
    {algo_reduce_scatter_recursive_halving_build, algo_recursive_halving_fits},
    {algo_reduce_scatter_pairwise_build, pairwise_fits},
    {algo_allreduce_pairwise_build, pairwise_fits},
    {algo_gather_binomial_build, algo_gather_binomial_fits},
    {algo_scatter_binomial_build, algo_scatter_binomial_fits},
    {algo_alltoall_bruck_build, algo_alltoall_bruck_fits},
    {algo_allreduce_hosts_build, hosts_allreduce_fits},
    {algo_reduce_scatter_hosts_build, hosts_reduce_scatter_fits},
    {algo_reduce_hosts_build, hosts_reduce_fits},
    {algo_alltoall_hosts_build, hosts_alltoall_fits},
    {algo_alltoall_leaders_build, hosts_alltoall_leaders_fits},
};

static bool fits_scratch(const struct algo *algo, const struct plan_params *params)
{
    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
        if (needs[i].build == algo->build)
            return needs[i].fits(params);
    return true;
}

const char *algo_refusal(const struct algo *algo, const struct plan_params *params)
{
    int n = params->nranks;
    if (algo->collective != params->collective)
        return "is an algorithm of another collective";
    if (n < 1 || params->rank < 0 || params->rank >= n)
        return "rank is outside the communicator";
    if (params->in_place && params->collective == COLL_ALLTOALL)
        return "cannot work in place";
    if ((algo->flags & ALGO_OF_HOSTS) && hosts_refusal(params))
        return hosts_refusal(params);
    if (n == 1 && params->collective != COLL_SENDRECV)
        return NULL; /* a copy, whatever the algorithm */
    if ((algo->flags & ALGO_LEADERS) && hosts_leaders_refusal(params))
        return hosts_leaders_refusal(params);
    if ((algo->flags & ALGO_NEEDS_PEER_ACCESS) && !params->peer_access)
        return "needs load and store access to the peers' memory";
    if (params->ordered && plan_reduces(params->collective) && !(algo->flags & ALGO_ORDERED))
        return "does not fold in rank order";
    if ((algo->flags & ALGO_INLINE_ONLY) && algo_count_bytes(params) > plan_line_bytes(params))
        return "a contribution must fit a line";
    if (algo->build == algo_sendrecv_eager_build &&
        algo_count_bytes(params) > plan_line_bytes(params))
        return "a message must fit a line";
    if ((algo->flags & ALGO_POWER_OF_TWO) && (n & (n - 1)) != 0)
        return "needs a power of two of ranks";
    if (uses_scratch(params->collective) && params->scratch_bytes < ALGO_MIN_SCRATCH_BYTES)
        return "needs at least 65536 bytes of scratch";
    if (!fits_scratch(algo, params))
        return "needs more scratch for so many ranks";
    return NULL;
}

thrum_status_t algo_build(const struct algo *algo, const struct plan_params *params,
                          struct plan *plan_out)
{
    struct plan plan;
    plan_init(&plan, params);
    plan.algorithm = algo->name;
    algo->build(&plan);
    if (algo->flags & ALGO_INLINE_ONLY && params->peer_access)
        plan_names_stages(&plan, false); /* none: lines carry all */
    thrum_status_t status = plan.status;
    if (status != THRUM_OK) {
        plan_fini(&plan);
        return status;
    }
    *plan_out = plan;
    return THRUM_OK;
}
