/* Selection as data: the rows, the override, and their explanation. */
#include "select/select.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"

#define ANY UINT64_MAX
#define ANYWHERE false
#define WITH_PEER_ACCESS true
#define LINE PLAN_INLINE_LONG_BYTES /* or a short one: "inline" refuses what does not fit */

/*
 * First row that fits and whose algorithm can serve wins. Bytes are the largest that any rank sends or receives, so that
 * all ranks choose the same. The last rows of a reduction are for those that must be in rank order, which the ones before
 * refuse where ranks are many. The limits come from sweeps with thrum-perf --algorithm on two cores.
 */
static const struct {
    enum collective collective;
    int max_ranks;
    uint64_t max_bytes;
    const char *algorithm;
    bool peer_access; /* only where there is */
} rows[] = {
    {COLL_ALLREDUCE, 4, LINE, "inline", ANYWHERE},
    {COLL_ALLREDUCE, 16, 1024, "inline", ANYWHERE},
    {COLL_ALLREDUCE, 64, ANY, "direct", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, 65536, "recursive_doubling", ANYWHERE},
    {COLL_ALLREDUCE, 64, ANY, "pairwise", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, 4 << 20, "rabenseifner", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, ANY, "double_tree", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, 1024, "inline", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_ALLREDUCE, 255, ANY, "pairwise", ANYWHERE},
    {COLL_ALLREDUCE, INT32_MAX, ANY, "chain", ANYWHERE},
    {COLL_BROADCAST, 4, LINE, "inline", ANYWHERE},
    {COLL_BROADCAST, 16, 1024, "inline", ANYWHERE},
    {COLL_BROADCAST, 64, 512 << 10, "direct", WITH_PEER_ACCESS},
    {COLL_BROADCAST, 64, ANY, "sliced", WITH_PEER_ACCESS},
    {COLL_BROADCAST, 2, ANY, "direct", ANYWHERE},
    {COLL_BROADCAST, INT32_MAX, 65536, "binomial", ANYWHERE},
    {COLL_BROADCAST, 64, ANY, "scatter_allgather", ANYWHERE},
    {COLL_BROADCAST, INT32_MAX, ANY, "chain", ANYWHERE},
    {COLL_ALLGATHER, 4, 4 * LINE, "inline", ANYWHERE},
    {COLL_ALLGATHER, 16, 16 * 512, "inline", ANYWHERE},
    {COLL_ALLGATHER, 64, ANY, "direct", ANYWHERE},
    {COLL_ALLGATHER, INT32_MAX, 65536, "bruck", ANYWHERE},
    {COLL_ALLGATHER, INT32_MAX, ANY, "ring", ANYWHERE},
    {COLL_REDUCE_SCATTER, 4, 4 * LINE, "inline", ANYWHERE},
    {COLL_REDUCE_SCATTER, 16, 16 * 512, "inline", ANYWHERE},
    {COLL_REDUCE_SCATTER, 64, ANY, "direct", ANYWHERE},
    {COLL_REDUCE_SCATTER, INT32_MAX, 65536, "recursive_halving", ANYWHERE},
    {COLL_REDUCE_SCATTER, 64, ANY, "pairwise", ANYWHERE},
    {COLL_REDUCE_SCATTER, INT32_MAX, ANY, "ring", ANYWHERE},
    {COLL_REDUCE_SCATTER, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_REDUCE_SCATTER, INT32_MAX, ANY, "pairwise", ANYWHERE},
    {COLL_BARRIER, INT32_MAX, ANY, "dissemination", ANYWHERE},
    {COLL_SENDRECV, INT32_MAX, ANY, "rendezvous", ANYWHERE},
    {COLL_REDUCE, 4, LINE, "inline", ANYWHERE},
    {COLL_REDUCE, 64, 512, "inline", ANYWHERE},
    {COLL_REDUCE, 64, ANY, "direct", ANYWHERE},
    {COLL_REDUCE, INT32_MAX, 1 << 20, "binomial", ANYWHERE},
    {COLL_REDUCE, INT32_MAX, 1024, "inline", ANYWHERE},
    {COLL_REDUCE, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_REDUCE, INT32_MAX, ANY, "chain", ANYWHERE},
    {COLL_GATHER, 4, 4 * LINE, "inline", ANYWHERE},
    {COLL_GATHER, 64, 64 * 128, "inline", ANYWHERE},
    {COLL_GATHER, 64, ANY, "direct", ANYWHERE},
    {COLL_GATHER, INT32_MAX, 65536, "binomial", ANYWHERE},
    {COLL_GATHER, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_SCATTER, 4, 4 * LINE, "inline", ANYWHERE},
    {COLL_SCATTER, 64, 64 * 128, "inline", ANYWHERE},
    {COLL_SCATTER, 64, ANY, "direct", ANYWHERE},
    {COLL_SCATTER, INT32_MAX, 65536, "binomial", ANYWHERE},
    {COLL_SCATTER, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_ALLTOALL, 4, 4 * LINE, "inline", ANYWHERE},
    {COLL_ALLTOALL, 16, 16 * 512, "inline", ANYWHERE},
    {COLL_ALLTOALL, 64, ANY, "direct", ANYWHERE},
    {COLL_ALLTOALL, INT32_MAX, 65536, "bruck", ANYWHERE},
    {COLL_ALLTOALL, INT32_MAX, ANY, "pairwise", ANYWHERE},
    {COLL_SCAN, 4, LINE, "inline", ANYWHERE},
    {COLL_SCAN, 16, 1024, "inline", ANYWHERE},
    {COLL_SCAN, 64, ANY, "direct", ANYWHERE},
    {COLL_SCAN, INT32_MAX, 65536, "recursive_doubling", ANYWHERE},
    {COLL_SCAN, INT32_MAX, 1024, "inline", ANYWHERE},
    {COLL_SCAN, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_SCAN, INT32_MAX, ANY, "chain", ANYWHERE},
    {COLL_EXSCAN, 4, LINE, "inline", ANYWHERE},
    {COLL_EXSCAN, 16, 1024, "inline", ANYWHERE},
    {COLL_EXSCAN, 64, ANY, "direct", ANYWHERE},
    {COLL_EXSCAN, INT32_MAX, 65536, "recursive_doubling", ANYWHERE},
    {COLL_EXSCAN, INT32_MAX, 1024, "inline", ANYWHERE},
    {COLL_EXSCAN, INT32_MAX, ANY, "direct", ANYWHERE},
    {COLL_EXSCAN, INT32_MAX, ANY, "chain", ANYWHERE},
};

/* Cost model: what an exchange and a byte take on a host with shared caches; microseconds. */
static const double us_per_step = 0.25, us_per_byte = 1.0 / 12000;

/* Rooted collectives are at their largest at the root; blocks of their own sizes in the whole. */
static uint64_t call_bytes(const struct plan_params *params)
{
    int rank = params->collective == COLL_SENDRECV ? params->rank : params->root;

    return max_u64(plan_send_bytes(params, rank), plan_recv_bytes(params, rank));
}

static double predict_us(const struct algo *algo, const struct plan_params *params)
{
    struct algo_cost cost = algo->cost(params);
    return cost.steps * us_per_step + cost.bytes_moved * us_per_byte;
}

/* One "collective:algorithm" of THRUM_ALGO; false at the end of the text. */
static bool next_override(const char **text, char *collective, char *algorithm, size_t bytes)
{
    size_t n = strcspn(*text, ",");
    const char *colon = memchr(*text, ':', n);

    if (n == 0 && !**text)
        return false;
    snprintf(collective, bytes, "%.*s", (int)(colon ? (size_t)(colon - *text) : n), *text);
    snprintf(algorithm, bytes, "%.*s", colon ? (int)(*text + n - colon - 1) : 0,
             colon ? colon + 1 : "");
    *text += n + ((*text)[n] == ',');
    return true;
}

thrum_status_t select_check_config(void)
{
    const char *text = thrum_config_string(CFG_ALGO);
    char collective[48], algorithm[48];

    while (next_override(&text, collective, algorithm, sizeof collective)) {
        int index = collective_by_name(collective);
        if (index < 0)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG, "THRUM_ALGO: there is no collective \"%s\"",
                              collective);
        if (!algo_find((enum collective)index, algorithm))
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "THRUM_ALGO: %s has no algorithm \"%s\"; thrum-info --algorithms "
                              "lists them",
                              collective, algorithm);
    }
    return THRUM_OK;
}

static const struct algo *overridden(enum collective collective)
{
    const char *text = thrum_config_string(CFG_ALGO);
    const struct algo *found = NULL;
    char name[48], algorithm[48];

    while (next_override(&text, name, algorithm, sizeof name))
        if (!strcmp(name, collective_name(collective)))
            found = algo_find(collective, algorithm);
    return found;
}

static const struct algo *by_rows(const struct plan_params *params, size_t *row_out)
{
    uint64_t bytes = call_bytes(params);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct algo *algo;
        if (rows[i].collective != params->collective || params->nranks > rows[i].max_ranks ||
            bytes > rows[i].max_bytes || (rows[i].peer_access && !params->peer_access))
            continue;
        algo = algo_find(rows[i].collective, rows[i].algorithm);
        if (algo && !algo_refusal(algo, params)) {
            *row_out = i;
            return algo;
        }
    }
    return NULL;
}

thrum_status_t select_algorithm(const struct plan_params *params, const struct algo **algo_out)
{
    const struct algo *algo = overridden(params->collective);
    const char *refusal = algo ? algo_refusal(algo, params) : NULL;
    size_t row;

    if (refusal)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "THRUM_ALGO=%s:%s cannot serve this call: %s",
                          collective_name(params->collective), algo->name, refusal);
    if (!algo)
        algo = by_rows(params, &row);
    if (!algo)
        return thrum_fail(THRUM_ERR_INTERNAL, "no algorithm for %s of %llu elements on %d ranks",
                          collective_name(params->collective), (unsigned long long)params->count,
                          params->nranks);
    *algo_out = algo;
    return THRUM_OK;
}

/* "row 1: any size, up to 64 ranks" */
static void describe_row(size_t row, char *text, size_t bytes)
{
    char size[48] = "any size", ranks[48] = "any number of ranks";

    if (rows[row].max_bytes != ANY)
        snprintf(size, sizeof size, "up to %llu bytes", (unsigned long long)rows[row].max_bytes);
    if (rows[row].max_ranks != INT32_MAX)
        snprintf(ranks, sizeof ranks, "up to %d ranks", rows[row].max_ranks);
    snprintf(text, bytes, "row %zu: %s, %s%s", row, size, ranks,
             rows[row].peer_access ? ", peer access" : "");
}

static void explain_one(const struct plan_params *params, const struct algo *algo,
                        const struct algo *chosen, size_t row, bool forced,
                        struct select_candidate *out)
{
    *out = (struct select_candidate){.algo = algo, .chosen = algo == chosen};
    out->refusal = algo_refusal(algo, params);
    if (!out->refusal)
        out->predicted_us = predict_us(algo, params);
    if (out->chosen && forced)
        snprintf(out->reason, sizeof out->reason, "forced by THRUM_ALGO");
    else if (out->chosen)
        describe_row(row, out->reason, sizeof out->reason);
    else if (out->refusal)
        snprintf(out->reason, sizeof out->reason, "cannot serve: %s", out->refusal);
    else
        snprintf(out->reason, sizeof out->reason, "%s",
                 forced ? "THRUM_ALGO forces another" : "an earlier row fits");
}

thrum_status_t select_explain(const struct plan_params *params, struct select_candidate *out,
                              size_t max, size_t *n_out)
{
    const struct algo *chosen;
    size_t n = 0, row = 0;
    bool forced = overridden(params->collective) != NULL;
    thrum_status_t status = select_algorithm(params, &chosen);

    if (status)
        return status;
    if (!forced)
        by_rows(params, &row);
    for (size_t i = 0; i < thrum_algo_count; i++) {
        if (thrum_algos[i].collective != params->collective)
            continue;
        if (n < max)
            explain_one(params, &thrum_algos[i], chosen, row, forced, &out[n]);
        n++;
    }
    *n_out = n;
    return THRUM_OK;
}
