/* The cost model: what an algorithm's exchanges, messages and bytes take. See select.h. */
#include "select/select.h"

#include "base/base.h"

/* Of lines to the root or from it: those of some calls go before anyone waits. Measured with 2 and 4 ranks a core. */
#define ONE_WAY_LINE_TURNS 0.4
/* Lines that go with those of other calls: what each costs of a message alone, and up to which length. */
#define TOGETHER_PART 0.6
#define TOGETHER_BYTES 4096

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

/* The root sends a line to each other rank; lines that it gets come from as many senders. */
static bool sends_to_each(const struct algo *algo)
{
    return algo->flags & ALGO_INLINE_ONLY &&
           (algo->collective == COLL_BROADCAST || algo->collective == COLL_SCATTER);
}

static enum plan_talks talks_of(const struct algo *algo)
{
    return algo->flags & ALGO_TO_NEXT    ? PLAN_TALKS_TO_NEXT
           : algo->flags & ALGO_DOUBLING ? PLAN_TALKS_DOUBLING
           : algo->flags & ALGO_IN_PAIRS ? PLAN_TALKS_IN_PAIRS
           : algo->flags & ALGO_IN_TREE  ? PLAN_TALKS_IN_TREE
           : algo->flags & ALGO_TO_ROOT  ? PLAN_TALKS_TO_ROOT
                                         : PLAN_TALKS_TO_ALL;
}

static double max_double(double a, double b)
{
    return a > b ? a : b;
}

/* The root gets from each other rank what that sends. */
static bool gets_from_each(const struct algo *algo)
{
    return algo->flags & ALGO_TO_ROOT &&
           (algo->collective == COLL_GATHER || algo->collective == COLL_REDUCE);
}

/* Moves what an algorithm that knows nothing of hosts sends between them to the costs of that. */
static void split_by_hosts(const struct algo *algo, const struct plan_params *params,
                           struct algo_cost *cost)
{
    const struct plan_crossing *crossing;
    bool lines = algo->flags & ALGO_INLINE_ONLY || cost->lines;
    bool far = algo->flags & ALGO_FAR_LONG;
    double sent = (cost->passed_bytes + (lines ? 0 : cost->copied_bytes)) / 2, inside;
    double n = params->nranks;

    if (!params->layout || algo->flags & ALGO_OF_HOSTS || cost->net_messages > 0)
        return;
    crossing = &params->layout->crossing[talks_of(algo)];
    inside = 1 - (far ? crossing->far_rank : crossing->rank);
    if (sends_to_each(algo)) /* n - 1 of these by the root, one by another */
        sent = cost->passed_bytes * (n - 1) / n;
    else if (gets_from_each(algo) && lines) /* the other way round */
        sent = cost->passed_bytes / n;
    cost->net_steps = crossing->steps * cost->steps;
    cost->net_messages = crossing->messages * cost->messages;
    cost->net_bytes = (1 - inside) * sent;
    cost->port_bytes = (far ? crossing->far_host : crossing->host) * sent;
    if (gets_from_each(algo))
        cost->port_bytes *= n - 1;
    cost->turns *= 1 - crossing->steps;
    cost->steps -= cost->net_steps;
    cost->messages -= cost->net_messages;
    if (algo->flags & ALGO_TO_NEXT && crossing->steps < 1)
        cost->overlap =
            max_double(cost->overlap, 1 - crossing->steps); /* some pass all inside, meanwhile */
    else
        cost->passed_bytes *= inside;
    if (!lines)
        cost->copied_bytes *= inside;
}

/* Lines to the root or from it: nobody waits for an answer. */
static bool is_one_way(const struct algo *algo, const struct algo_cost *cost)
{
    bool lines = algo->flags & (ALGO_INLINE_ONLY | ALGO_LEADERS) || cost->lines;

    return lines && (algo->collective == COLL_BROADCAST || algo->collective == COLL_REDUCE ||
                     algo->collective == COLL_GATHER || algo->collective == COLL_SCATTER);
}

/*
 * Putting a message between hosts. An algorithm that sends all its lines before it waits sends those of the next call, too
 * (exec/ahead.c), and short ones to one host go together: such a call takes less than one alone.
 */
static double net_message_us(const struct select_figures *f, const struct algo *algo,
                             const struct algo_cost *cost)
{
    double bytes = cost->net_messages > 0 ? 2 * cost->net_bytes / cost->net_messages : 0;
    bool together = algo->flags & ALGO_INLINE_ONLY && bytes <= TOGETHER_BYTES;

    return together ? TOGETHER_PART * f->net_message_us : f->net_message_us;
}

/* Exchanges between hosts. Where ranks take turns one's messages are under way while others work. */
static double net_exchanges_us(const struct select_figures *f, const struct algo *algo,
                               const struct algo_cost *cost, double share)
{
    double waits = share > 1 && is_one_way(algo, cost) ? ONE_WAY_LINE_TURNS : 1;

    return waits * cost->net_steps * (f->net_us / share + (share > 1 ? share * f->switch_us : 0));
}

/* What is on its way between hosts: a rank sends at its pace, all ranks of a host share its ports. */
static double net_bytes_us(const struct select_figures *f, const struct algo_cost *cost,
                           double share)
{
    double rank = cost->net_bytes / f->net_gbps * share, port = cost->port_bytes / f->port_gbps;

    return (rank > port ? rank : port) / 1000;
}

/* How often the ranks of a core take turns. */
static double turns(const struct algo *algo, const struct algo_cost *cost)
{
    if (cost->turns > 0)
        return cost->turns;
    return is_one_way(algo, cost) ? ONE_WAY_LINE_TURNS * cost->steps : cost->steps;
}

struct simulate_machine select_machine(const struct select_figures *f,
                                       const struct plan_params *params)
{
    bool loads = params->peer_access || params->layout;
    double share = params->ranks_per_core > 1 ? params->ranks_per_core : 1;
    double touched = 2 * share * (double)select_call_bytes(params);
    double beyond = touched > f->cache_bytes ? 1 - f->cache_bytes / touched : 0;
    double pass = blend(f->pass_gbps, f->copy_memory_gbps, beyond);

    return (struct simulate_machine){
        .call_us = f->call_us,
        .exchange_us = loads ? f->exchange_us : f->put_us,
        .message_us = loads ? f->message_us : f->message_us * f->put_us / f->exchange_us,
        .copy_gbps = blend(f->copy_gbps, f->copy_memory_gbps, beyond),
        .pass_gbps = loads ? pass : f->put_gbps,
        .reduce_gbps = blend(f->reduce_gbps, f->reduce_memory_gbps, beyond),
        .net_us = f->net_us,
        .net_message_us = f->net_message_us,
        .net_gbps = f->net_gbps,
        .port_gbps = f->port_gbps,
    };
}

/* What a rank itself does, and those that it shares its core with. */
static double work_us(const struct select_figures *f, const struct algo *algo,
                      const struct plan_params *params, const struct algo_cost *cost, double share)
{
    struct simulate_machine rates = select_machine(f, params);
    bool loads = params->peer_access || params->layout;
    double copy_gbps = loads ? rates.copy_gbps : f->put_gbps;

    /* Ranks of one core find in its cache what the others of it have written. */
    return cost->passed_bytes / rates.pass_gbps / 1000 +
           share * (cost->messages * rates.message_us +
                    cost->net_messages * net_message_us(f, algo, cost) +
                    ((cost->copied_bytes + cost->own_bytes) / copy_gbps +
                     cost->reduced_bytes / rates.reduce_gbps) /
                        1000);
}

/*
 * Latencies, work and transfers add up (Hockney 1994), but for what a rank does while messages are on their way (the gap and
 * overhead of LogGP: Alexandrov, Ionescu, Schauser, Scheiman 1995). Ranks that share cores share them with what carries.
 */
double select_predict_us(const struct select_figures *f, const struct algo *algo,
                         const struct plan_params *params)
{
    struct plan_params of_all =
        *params; /* nothing in which ranks may differ: they choose without asking */
    double share = params->ranks_per_core > 1 ? params->ranks_per_core : 1, others = 0;
    double work, transfer;
    struct algo_cost cost;

    if (params->collective != COLL_SENDRECV)
        of_all.rank = 0;
    of_all.in_place = false;
    cost = algo->cost(&of_all);
    split_by_hosts(algo, &of_all, &cost);
    if (share > 1) /* the others' turns; what is said meanwhile is there when the own turn comes */
        others = turns(algo, &cost) * share * f->switch_us;
    work = work_us(f, algo, &of_all, &cost, share);
    transfer = net_bytes_us(f, &cost, share);
    return f->call_us * share + net_exchanges_us(f, algo, &cost, share) +
           cost.steps * select_machine(f, &of_all).exchange_us + others + work + transfer -
           (share > 1 ? 0 : cost.overlap * f->net_overlap) * (work < transfer ? work : transfer);
}
