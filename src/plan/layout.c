/* Which ranks share a host; see layout.h. Called by comm, tools and tests. */
#include "plan/layout.h"

#include <stdlib.h>

#include "base/base.h"

struct member {
    int key, rank;
};

static int by_key_and_rank(const void *a, const void *b)
{
    const struct member *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* host[r] <- the number of its host, in the order of first ranks; returns how many there are. */
static int number_hosts(struct member *members, int nranks, int *host, int *scratch)
{
    int nhosts = 0;

    qsort(members, (size_t)nranks, sizeof *members, by_key_and_rank);
    for (int i = 0, leader = 0; i < nranks; i++) {
        if (i == 0 || members[i].key != members[i - 1].key)
            leader = members[i].rank;
        host[members[i].rank] = leader;
    }
    for (int r = 0; r < nranks; r++) { /* a host's first rank comes before its others */
        if (host[r] == r)
            scratch[r] = nhosts++;
        host[r] = scratch[host[r]];
    }
    return nhosts;
}

static void fill(struct plan_layout *l, int *host, int *index, int *first, int *ranks)
{
    for (int r = 0; r < l->nranks; r++)
        index[r] = first[host[r] + 1]++;
    l->least_local = l->nranks;
    for (int h = 0; h < l->nhosts; h++) {
        int local = first[h + 1];

        l->least_local = local < l->least_local ? local : l->least_local;
        l->most_local = local > l->most_local ? local : l->most_local;
        first[h + 1] += first[h];
    }
    for (int r = 0; r < l->nranks; r++)
        ranks[first[host[r]] + index[r]] = r;
}

/* Ranks of a host whose message over `distance` leaves it; *any_out: of any host. Counts them in `leaving`. */
static void count_leaving(const struct plan_layout *l, int64_t distance, double *leaving,
                          bool *any_out)
{
    *any_out = false;
    for (int r = 0; r < l->nranks; r++)
        if (l->host[r] != l->host[(r + distance) % l->nranks]) {
            leaving[l->host[r]]++;
            *any_out = true;
        }
}

/* Of so many exchanges so many cross, and so many messages leave each host in them. */
static struct plan_crossing shares_of(const struct plan_layout *l, int levels, int crossing,
                                      const double *leaving)
{
    struct plan_crossing c = {0};

    if (!levels)
        return c;
    c.steps = c.rank = (double)crossing / levels;
    for (int h = 0; h < l->nhosts; h++)
        c.host = leaving[h] / levels > c.host ? leaving[h] / levels : c.host;
    return c;
}

/* Over distances 1, 2, 4, .. below `end`. */
static struct plan_crossing cross_distances(const struct plan_layout *l, int64_t end,
                                            double *leaving)
{
    int levels = 0, crossing = 0;

    for (int h = 0; h < l->nhosts; h++)
        leaving[h] = 0;
    for (int64_t distance = 1; distance < end; distance *= 2, levels++) {
        bool any;

        count_leaving(l, distance, leaving, &any);
        crossing += any;
    }
    return shares_of(l, levels, crossing, leaving);
}

/* Of the largest power of two of ranks, those whose numbers differ in one bit; see algo_rank_of_number. */
static struct plan_crossing cross_pairs(const struct plan_layout *l, double *leaving)
{
    int levels = 0, crossing = 0, power = 1, rem;

    while (power <= l->nranks / 2)
        power *= 2;
    rem = l->nranks - power;
    for (int h = 0; h < l->nhosts; h++)
        leaving[h] = 0;
    for (int bit = 1; bit < power; bit *= 2, levels++) {
        bool any = false;

        for (int i = 0; i < power; i++) {
            int pair = i ^ bit;
            int a = i < rem ? 2 * i + 1 : i + rem, b = pair < rem ? 2 * pair + 1 : pair + rem;

            if (l->host[a] != l->host[b]) {
                leaving[l->host[a]]++;
                any = true;
            }
        }
        crossing += any;
    }
    return shares_of(l, levels, crossing, leaving);
}

static void find_crossings(struct plan_layout *l, double *leaving)
{
    double others = l->nranks > 1 ? l->nranks - 1 : 1;
    double away = (l->nranks - l->least_local) / others;
    struct plan_crossing *all = &l->crossing[PLAN_TALKS_TO_ALL];

    l->crossing[PLAN_TALKS_TO_NEXT] = cross_distances(l, 2, leaving);
    l->crossing[PLAN_TALKS_DOUBLING] = cross_distances(l, l->nranks, leaving);
    l->crossing[PLAN_TALKS_IN_PAIRS] = cross_pairs(l, leaving);
    *all = (struct plan_crossing){.steps = l->nhosts > 1, .rank = away};
    for (int h = 0; h < l->nhosts; h++) {
        double local = plan_layout_local(l, h), out = local * (l->nranks - local) / others;
        all->host = out > all->host ? out : all->host;
    }
    l->crossing[PLAN_TALKS_TO_ROOT] =
        (struct plan_crossing){.steps = l->nhosts > 1, .rank = away, .host = away};
}

thrum_status_t plan_layout_create(const int *hosts, int nranks, struct plan_layout **layout_out)
{
    size_t n = (size_t)nranks;
    struct plan_layout *l = calloc(1, sizeof *l + (4 * n + 1) * sizeof(int));
    struct member *members = calloc(n, sizeof *members);
    double *leaving = calloc(n, sizeof *leaving);
    int *host = l ? (int *)(l + 1) : NULL;

    if (!l || !members || !leaving) {
        free(l);
        free(members);
        free(leaving);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for the layout of %d ranks", nranks);
    }
    for (int r = 0; r < nranks; r++)
        members[r] = (struct member){hosts[r], r};
    l->nranks = nranks;
    l->nhosts = number_hosts(members, nranks, host, host + n);
    l->host = host;
    l->index = host + n;
    l->ranks = host + 2 * n;
    l->first = host + 3 * n;
    fill(l, host, host + n, host + 3 * n, host + 2 * n);
    l->in_order = true;
    for (int r = 0; r < nranks; r++)
        l->in_order &= l->ranks[r] == r;
    find_crossings(l, leaving);
    free(members);
    free(leaving);
    *layout_out = l;
    return THRUM_OK;
}

void plan_layout_destroy(struct plan_layout *layout)
{
    free(layout);
}
