/*
 * The measurements of thrum-tune: some collectives with a given algorithm and size, in turns, so that all of them meet
 * the same machine; the figures of the cost model follow from the medians, by the costs that the algorithms state. See
 * tune.h.
 */
#include "tune.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum probe_id {
    CALL, /* a communicator of one rank: nothing is exchanged */
    BARRIER,
    INLINE_SMALL,
    INLINE_LARGE,
    DIRECT_SMALL,
    REDUCE_CACHED,
    REDUCE_MEMORY,
    COPY_CACHED,
    COPY_MEMORY,
    REDUCE_STEPS, /* ever larger, to find the end of the cache */
    PROBES = REDUCE_STEPS + 5
};

enum { SMALL = 8, LARGE = 2048, CACHED = 128 << 10, FIRST_STEP = 512 << 10, MAX_ROUNDS = 25 };

struct probe {
    bool used;
    thrum_comm_t comm;
    enum collective collective; /* BARRIER, ALLREDUCE, ALLGATHER */
    size_t bytes; /* of the larger buffer */
    int times; /* calls in a batch */
    double samples[MAX_ROUNDS], us;
};

struct bench {
    struct tune *tune;
    thrum_comm_t alone, in_line, direct;
    void *send, *recv;
    struct probe probes[PROBES];
};

static void synchronize(struct bench *b)
{
    job_check(thrum_queue_synchronize(b->tune->job.queue), "measure");
}

static void call(struct bench *b, const struct probe *p)
{
    thrum_queue_t queue = b->tune->job.queue;
    thrum_status_t status;

    if (p->collective == COLL_BARRIER)
        status = thrum_barrier(p->comm, queue);
    else if (p->collective == COLL_ALLREDUCE)
        status =
            thrum_allreduce(b->send, p->comm == b->alone ? b->send : b->recv,
                            p->bytes / sizeof(float), THRUM_FLOAT32, THRUM_SUM, p->comm, queue);
    else
        status = thrum_allgather(b->send, b->recv,
                                 p->bytes / sizeof(float) / (size_t)b->tune->job.nranks,
                                 THRUM_FLOAT32, p->comm, queue);
    job_check(status, "measure");
}

/* Microseconds of one call in a batch that all ranks begin together. */
static double batch(struct bench *b, const struct probe *p, int times)
{
    int64_t start;

    job_check(thrum_barrier(b->tune->job.comm, b->tune->job.queue), "measure");
    synchronize(b);
    start = now_ns();
    for (int i = 0; i < times; i++)
        call(b, p);
    synchronize(b);
    return (double)(now_ns() - start) / 1e3 / times;
}

/* values[i] <- the largest of all ranks. */
static void max_over_ranks(struct tune *t, double *values, int n)
{
    double *all = malloc(sizeof *all * (size_t)n * (size_t)t->job.nranks);

    if (!all)
        job_check(THRUM_ERR_NO_MEMORY, "host memory");
    job_gather(&t->job, values, all, sizeof *values * (size_t)n);
    for (int r = 0; r < t->job.nranks; r++)
        for (int i = 0; i < n; i++)
            values[i] = all[r * n + i] > values[i] ? all[r * n + i] : values[i];
    free(all);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/*
 * How many calls a batch has: so that it takes about a millisecond, or many turns where ranks take turns, since they do
 * not begin together then. The same on all ranks.
 */
static void estimate(struct bench *b, struct probe *p)
{
    double target = b->tune->quick ? 300 : 1500, us = batch(b, p, 2);

    target *= b->tune->share > 1 ? 10 : 1;
    us = batch(b, p, 5);
    max_over_ranks(b->tune, &us, 1);
    p->times = us * 1000 < target ? 1000 : us > target ? 1 : (int)(target / us);
}

static void run_all(struct bench *b)
{
    int rounds = b->tune->quick ? 7 : MAX_ROUNDS;

    for (int i = 0; i < PROBES; i++)
        if (b->probes[i].used)
            estimate(b, &b->probes[i]);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < PROBES; i++)
            if (b->probes[i].used)
                b->probes[i].samples[round] = batch(b, &b->probes[i], b->probes[i].times);
    for (int i = 0; i < PROBES; i++) {
        struct probe *p = &b->probes[i];

        if (!p->used)
            continue;
        max_over_ranks(b->tune, p->samples, rounds);
        qsort(p->samples, (size_t)rounds, sizeof *p->samples, ascending);
        p->us = p->samples[rounds / 2];
    }
}

/* ---- which, and with what ---- */

static thrum_comm_t with_algorithms(struct tune *t, const char *algorithms)
{
    struct thrum_comm_config config = {.size = sizeof config, .algorithms = algorithms};
    thrum_comm_t comm;

    job_check(thrum_comm_dup(t->job.comm, &config, &comm), "a communicator");
    return comm;
}

static void add(struct bench *b, enum probe_id id, thrum_comm_t comm, enum collective collective,
                size_t bytes)
{
    b->probes[id] =
        (struct probe){.used = true, .comm = comm, .collective = collective, .bytes = bytes};
}

/* What lies beyond any cache, in buffers that fit the machine however many ranks there are. */
static size_t memory_bytes(const struct tune *t)
{
    size_t bytes = (t->quick ? (size_t)64 << 20 : (size_t)256 << 20) / (size_t)t->job.nranks;
    size_t most = (size_t)32 << 20;

    return (bytes < most ? bytes : most) / 4096 * 4096;
}

static void choose_probes(struct bench *b)
{
    const struct tune *t = b->tune;
    size_t beyond = memory_bytes(t);

    add(b, CALL, b->alone, COLL_ALLREDUCE, SMALL);
    if (t->job.nranks == 1)
        return;
    add(b, INLINE_SMALL, b->in_line, COLL_ALLREDUCE, SMALL);
    if (!t->peer_access) {
        add(b, COPY_MEMORY, b->direct, COLL_ALLGATHER, (size_t)(t->hosts ? 8 : 1) << 20);
        return;
    }
    add(b, DIRECT_SMALL, b->direct, COLL_ALLREDUCE, SMALL);
    if (t->share > 1)
        return; /* what follows takes a core for each rank */
    add(b, BARRIER, t->job.comm, COLL_BARRIER, 0);
    add(b, INLINE_LARGE, b->in_line, COLL_ALLREDUCE, LARGE);
    add(b, REDUCE_CACHED, b->direct, COLL_ALLREDUCE, CACHED);
    add(b, REDUCE_MEMORY, b->direct, COLL_ALLREDUCE, beyond);
    add(b, COPY_CACHED, b->direct, COLL_ALLGATHER, CACHED);
    add(b, COPY_MEMORY, b->direct, COLL_ALLGATHER, beyond);
    for (int i = REDUCE_STEPS; i < PROBES && !t->quick; i++) {
        size_t bytes = (size_t)FIRST_STEP << (i - REDUCE_STEPS);
        if (bytes < beyond)
            add(b, (enum probe_id)i, b->direct, COLL_ALLREDUCE, bytes);
    }
}

static void open_bench(struct bench *b)
{
    struct tune *t = b->tune;
    size_t bytes = memory_bytes(t);

    b->in_line = with_algorithms(t, "allreduce:inline");
    b->direct = with_algorithms(t, t->peer_access ? "allreduce:direct,allgather:direct"
                                                  : "allgather:direct");
    job_check(thrum_comm_split(t->job.comm, t->job.rank, 0, NULL, &b->alone), "a communicator");
    job_check(thrum_mem_alloc(t->job.device, bytes, &b->send), "device memory");
    job_check(thrum_mem_alloc(t->job.device, bytes, &b->recv), "device memory");
    job_check(thrum_fill(t->job.queue, b->send, 0, bytes), "device memory");
    job_check(thrum_fill(t->job.queue, b->recv, 0, bytes), "device memory");
    synchronize(b);
}

static void close_bench(struct bench *b)
{
    job_check(thrum_mem_free(b->tune->job.device, b->recv), "device memory");
    job_check(thrum_mem_free(b->tune->job.device, b->send), "device memory");
    thrum_comm_destroy(b->alone);
    thrum_comm_destroy(b->direct);
    thrum_comm_destroy(b->in_line);
}

/* ---- from times to figures ---- */

struct result {
    struct select_figures *figures;
    uint32_t *given;
};

static void set(const struct result *r, enum select_figure figure, double value)
{
    const struct select_figure_row *row = &select_figure_rows[figure];

    if (!(value >= row->least)) /* noise: a difference of times came out below 0 */
        value = row->least;
    *select_figure_at(r->figures, (int)figure) = value > row->most ? row->most : value;
    *r->given |= 1u << figure;
}

/* GB/s of so many bytes in so many microseconds; no difference at all counts as very fast. */
static double gbps(double bytes, double us)
{
    return us > 1e-6 ? bytes / us / 1e3 : 1000;
}

/*
 * An allreduce in lines is one exchange with 2 (n - 1) messages, the direct one two of them; a barrier ceil(log2(n))
 * with 2 messages each. With two ranks that is one equation for both: then a message has its built-in share.
 */
static void set_latencies(const struct bench *b, const struct result *r)
{
    const struct probe *p = b->probes;
    double others = b->tune->job.nranks - 1, call = p[CALL].us;
    double with_all = (p[DIRECT_SMALL].us - call) / 2, with_one, message;
    double usual = select_figure_rows[FIGURE_message_us].value /
                   (select_figure_rows[FIGURE_exchange_us].value +
                    2 * select_figure_rows[FIGURE_message_us].value);
    int rounds = 0;

    while (1 << rounds < b->tune->job.nranks)
        rounds++;
    with_one = others > 1 ? (p[BARRIER].us - call) / rounds : with_all;
    message = others > 1 ? (with_all - with_one) / (2 * (others - 1)) : usual * with_one;
    if (message > 0.45 * with_one)
        message = 0.45 * with_one;
    set(r, FIGURE_call_us, call);
    set(r, FIGURE_message_us, message);
    set(r, FIGURE_exchange_us, with_one - 2 * r->figures->message_us);
}

static void set_bandwidths(const struct bench *b, const struct result *r)
{
    const struct probe *p = b->probes;
    double n = b->tune->job.nranks, small = p[DIRECT_SMALL].us, more = LARGE - SMALL;
    double blocks =
        (n + 1) / n; /* read and written by the direct allgather, per byte of the whole */

    set(r, FIGURE_reduce_gbps, gbps(2.0 * CACHED, p[REDUCE_CACHED].us - small));
    set(r, FIGURE_copy_gbps, gbps(blocks * CACHED, p[COPY_CACHED].us - small));
    set(r, FIGURE_reduce_memory_gbps,
        gbps(2 * (double)p[REDUCE_MEMORY].bytes, p[REDUCE_MEMORY].us - small));
    set(r, FIGURE_copy_memory_gbps,
        gbps(blocks * (double)p[COPY_MEMORY].bytes, p[COPY_MEMORY].us - small));
    set(r, FIGURE_pass_gbps,
        gbps(2 * (n - 1) * more,
             p[INLINE_LARGE].us - p[INLINE_SMALL].us - 2 * more / r->figures->reduce_gbps / 1e3));
}

/* The smallest size whose bandwidth is nearer to that of memory than to that of the cache. */
static void set_cache(const struct bench *b, const struct result *r)
{
    double fast = r->figures->reduce_gbps, slow = r->figures->reduce_memory_gbps;

    for (int i = REDUCE_STEPS; i < PROBES && b->probes[i].used; i++) {
        const struct probe *p = &b->probes[i];
        double rate = gbps(2 * (double)p->bytes, p->us - b->probes[DIRECT_SMALL].us);

        if (rate * rate > fast * slow)
            set(r, FIGURE_cache_bytes, 2 * (double)p->bytes);
        else if (i == REDUCE_STEPS)
            set(r, FIGURE_cache_bytes, (double)p->bytes);
        else
            break;
    }
}

/* Where ranks take turns: only what a turn takes can be told, given what the rest takes. */
static void set_switch(const struct bench *b, const struct result *r)
{
    const struct probe *p = b->probes;
    double share = b->tune->share, others = b->tune->job.nranks - 1;
    double exchange = (p[DIRECT_SMALL].us - p[CALL].us) / 2;

    set(r, FIGURE_switch_us,
        (exchange - r->figures->exchange_us - share * 2 * others * r->figures->message_us) / share);
}

/* One rank on each host: an exchange, and what a rank sends to n - 1 others while it receives as much. */
static void set_hosts(const struct bench *b, const struct result *r)
{
    const struct probe *p = b->probes;
    double others = b->tune->job.nranks - 1, exchange = p[INLINE_SMALL].us - p[CALL].us;
    double usual =
        select_figure_rows[FIGURE_net_message_us].value / select_figure_rows[FIGURE_net_us].value;
    double sent = (double)p[COPY_MEMORY].bytes * others / b->tune->job.nranks;

    set(r, FIGURE_net_us, exchange / (1 + 2 * others * usual));
    set(r, FIGURE_net_message_us, usual * r->figures->net_us);
    set(r, FIGURE_net_gbps, gbps(sent, p[COPY_MEMORY].us - 2 * exchange));
    if (r->figures->port_gbps < r->figures->net_gbps)
        set(r, FIGURE_port_gbps, r->figures->net_gbps);
}

static void set_puts(const struct bench *b, const struct result *r)
{
    const struct probe *p = b->probes;
    double others = b->tune->job.nranks - 1, exchange = p[INLINE_SMALL].us - p[CALL].us;

    set(r, FIGURE_put_us,
        exchange / (1 + 2 * others * r->figures->message_us / r->figures->exchange_us));
    set(r, FIGURE_put_gbps,
        gbps(2 * (double)p[COPY_MEMORY].bytes, p[COPY_MEMORY].us - 2 * exchange));
}

void tune_measure(struct tune *tune, struct select_figures *figures, uint32_t *given)
{
    struct bench b = {.tune = tune};
    const struct result result = {figures, given};

    open_bench(&b);
    choose_probes(&b);
    run_all(&b);
    if (tune->job.nranks == 1) {
        set(&result, FIGURE_call_us, b.probes[CALL].us);
    } else if (!tune->peer_access) {
        if (tune->hosts)
            set_hosts(&b, &result);
        else if (tune->share == 1)
            set_puts(&b, &result);
    } else if (tune->share > 1) {
        set_switch(&b, &result);
    } else {
        set_latencies(&b, &result);
        set_bandwidths(&b, &result);
        if (!tune->quick)
            set_cache(&b, &result);
    }
    close_bench(&b);
}
