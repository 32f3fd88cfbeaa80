/* The cost model: what an algorithm's exchanges, messages and bytes take. See select.h. */
#include "select/select.h"

#include "base/base.h"

/* Rooted collectives are at their largest at the root; blocks of their own sizes in the whole. */
uint64_t select_call_bytes(const struct plan_params *params)
{
    int rank = params->collective == COLL_SENDRECV ? params->rank : params->root;

    return max_u64(plan_send_bytes(params, rank), plan_recv_bytes(params, rank));
}

/* GB/s for data of which a share lies beyond the cache. */
static double blend(double cached, double memory, double beyond)
{
    return 1 / ((1 - beyond) / cached + beyond / memory);
}

double select_predict_us(const struct select_figures *f, const struct algo *algo,
                         const struct plan_params *params)
{
    struct plan_params of_rank0 = *params; /* costs are the same on all ranks */
    double share = params->ranks_per_core > 1 ? params->ranks_per_core : 1;
    double exchange = params->peer_access ? f->exchange_us : f->put_us;
    double message =
        params->peer_access ? f->message_us : f->message_us * f->put_us / f->exchange_us;
    double touched, beyond, copy, reduce, pass;
    struct algo_cost cost;

    if (params->collective != COLL_SENDRECV)
        of_rank0.rank = 0;
    cost = algo->cost(&of_rank0);
    touched = 2 * share * (double)select_call_bytes(&of_rank0);
    beyond = touched > f->cache_bytes ? 1 - f->cache_bytes / touched : 0;
    copy = blend(f->copy_gbps, f->copy_memory_gbps, beyond);
    pass = blend(f->pass_gbps, f->copy_memory_gbps, beyond);
    reduce = blend(f->reduce_gbps, f->reduce_memory_gbps, beyond);
    if (!params->peer_access)
        copy = pass = f->put_gbps;
    if (share > 1) /* the others' turns; what is said meanwhile is there when the own turn comes */
        exchange += share * f->switch_us;
    /* Ranks of one core find in its cache what the others of it have written. */
    return f->call_us * share + cost.steps * exchange + cost.passed_bytes / pass / 1000 +
           share * (cost.messages * message +
                    (cost.copied_bytes / copy + cost.reduced_bytes / reduce) / 1000);
}
