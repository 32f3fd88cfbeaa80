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

/* Exchanges, one after the other, and what of them leaves hosts. */
struct levels {
    const struct plan_layout *layout;
    double *leaving, *far_leaving; /* of each host */
    double all, crossing, far_all, far_crossing;
};

/* Rank a sends to b; true: to another host. */
static bool count_message(struct levels *x, int a, int b, double distance)
{
    int host = x->layout->host[a];

    if (host == x->layout->host[b])
        return false;
    x->leaving[host]++;
    x->far_leaving[host] += distance;
    return true;
}

static void end_level(struct levels *x, bool crosses, double distance)
{
    x->all++;
    x->far_all += distance;
    x->crossing += crosses;
    x->far_crossing += crosses ? distance : 0;
}

static struct plan_crossing shares_of(const struct levels *x)
{
    struct plan_crossing c = {0};

    if (x->all == 0)
        return c;
    c.steps = c.messages = c.rank = x->crossing / x->all;
    c.far_rank = x->far_crossing / x->far_all;
    for (int h = 0; h < x->layout->nhosts; h++) {
        double host = x->leaving[h] / x->all, far = x->far_leaving[h] / x->far_all;

        c.host = host > c.host ? host : c.host;
        c.far_host = far > c.far_host ? far : c.far_host;
    }
    return c;
}

static struct levels levels_of(const struct plan_layout *l, double *scratch)
{
    for (int h = 0; h < 2 * l->nhosts; h++)
        scratch[h] = 0;
    return (struct levels){.layout = l, .leaving = scratch, .far_leaving = scratch + l->nhosts};
}

/*
 * Over distances 1, 2, 4, .. below `end`: all ranks, or those of a binomial tree. Distances over which only some ranks cross
 * come to less than a host together, so that what depends on each other crosses once in them.
 */
static struct plan_crossing cross_distances(const struct plan_layout *l, int end, bool tree,
                                            double *scratch)
{
    struct levels x = levels_of(l, scratch);
    struct plan_crossing c;
    int whole = 0;

    for (int64_t d = 1; d < end; d *= 2) {
        bool any = false, all = true;

        for (int64_t r = 0; r < (tree ? l->nranks - d : l->nranks); r += tree ? 2 * d : 1) {
            bool crosses = count_message(&x, (int)r, (int)((r + d) % l->nranks), (double)d);

            any |= crosses;
            all &= crosses;
        }
        end_level(&x, any, (double)d);
        whole += all;
    }
    c = shares_of(&x);
    if (!tree && x.crossing > whole + 1)
        c.steps = (whole + 1) / x.all;
    return c;
}

/*
 * Around the ring a block comes to each host once for each time that its ranks follow each other; the rank that sends to
 * another host hears from its own, but where it is alone.
 */
static struct plan_crossing cross_ring(const struct plan_layout *l, double *scratch)
{
    struct plan_crossing c = cross_distances(l, 2, false, scratch);
    int n = l->nranks, edges = 0;

    c.messages = 0;
    for (int r = 0; r < n; r++) {
        bool in = l->host[(r + n - 1) % n] != l->host[r], out = l->host[r] != l->host[(r + 1) % n];

        edges += out;
        c.messages = (in + out) / 2.0 > c.messages ? (in + out) / 2.0 : c.messages;
    }
    c.steps = (double)edges / n;
    return c;
}

/* Of the largest power of two of ranks, those whose numbers differ in one bit; see algo_rank_of_number. */
static struct plan_crossing cross_pairs(const struct plan_layout *l, double *scratch)
{
    struct levels x = levels_of(l, scratch);
    int power = 1, rem;

    while (power <= l->nranks / 2)
        power *= 2;
    rem = l->nranks - power;
    for (int bit = 1; bit < power; bit *= 2) {
        bool any = false;

        for (int i = 0; i < power; i++) {
            int pair = i ^ bit;
            int a = i < rem ? 2 * i + 1 : i + rem, b = pair < rem ? 2 * pair + 1 : pair + rem;

            any |= count_message(&x, a, b, bit);
        }
        end_level(&x, any, bit);
    }
    for (int before = 0; before < 2 && rem > 0; before++) { /* the others hand over, and get back */
        bool any = false;

        for (int i = 0; i < rem; i++)
            any |= count_message(&x, 2 * i + before, 2 * i + 1 - before, power / 2.0);
        end_level(&x, any, power / 2.0);
    }
    return shares_of(&x);
}

static void find_crossings(struct plan_layout *l, double *scratch)
{
    double others = l->nranks > 1 ? l->nranks - 1 : 1;
    double away = (l->nranks - l->least_local) / others;
    struct plan_crossing *all = &l->crossing[PLAN_TALKS_TO_ALL];

    l->crossing[PLAN_TALKS_TO_NEXT] = cross_ring(l, scratch);
    l->crossing[PLAN_TALKS_DOUBLING] = cross_distances(l, l->nranks, false, scratch);
    l->crossing[PLAN_TALKS_IN_TREE] = cross_distances(l, l->nranks, true, scratch);
    l->crossing[PLAN_TALKS_IN_PAIRS] = cross_pairs(l, scratch);
    *all = (struct plan_crossing){.steps = l->nhosts > 1, .messages = away, .rank = away};
    for (int h = 0; h < l->nhosts; h++) {
        double local = plan_layout_local(l, h), out = local * (l->nranks - local) / others;
        all->host = out > all->host ? out : all->host;
    }
    l->crossing[PLAN_TALKS_TO_ROOT] = (struct plan_crossing){
        .steps = l->nhosts > 1, .messages = away, .rank = away, .host = away};
}

thrum_status_t plan_layout_create(const int *hosts, int nranks, struct plan_layout **layout_out)
{
    size_t n = (size_t)nranks;
    struct plan_layout *l = calloc(1, sizeof *l + (4 * n + 1) * sizeof(int));
    struct member *members = calloc(n, sizeof *members);
    double *scratch = calloc(2 * n, sizeof *scratch);
    int *host = l ? (int *)(l + 1) : NULL;

    if (!l || !members || !scratch) {
        free(l);
        free(members);
        free(scratch);
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
    find_crossings(l, scratch);
    free(members);
    free(scratch);
    *layout_out = l;
    return THRUM_OK;
}

void plan_layout_destroy(struct plan_layout *layout)
{
    free(layout);
}
