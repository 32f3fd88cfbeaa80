/*
 * thrum-bench-overlap: what computing loses while a collective is in flight. Each rank computes alone, reduces alone,
 * and computes with the allreduce begun before; the three take turns.
 */
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "perf.h"

enum { MAX_ROUNDS = 1000 };

struct options {
    uint64_t bytes;
    long rounds, compute_ms;
    bool json;
};

struct rank {
    thrum_device_t device;
    thrum_comm_t comm;
    thrum_queue_t queue;
    void *send, *recv;
    size_t count;
    uint64_t work; /* iterations of the computation */
};

struct samples {
    double compute[MAX_ROUNDS], reduce[MAX_ROUNDS], both[MAX_ROUNDS], rest[MAX_ROUNDS];
};

static void usage(FILE *file)
{
    fputs("Usage: mpirun -n RANKS thrum-bench-overlap [OPTION]...\n"
          "Measures what a computation on the host loses while an allreduce is in flight.\n"
          "\n"
          "  -b, --bytes SIZE     of the allreduce, float32 sum (default 16M)\n"
          "  -c, --compute MS     length of the computation (default 20)\n"
          "  -r, --rounds N       1 to 1000 (default 15)\n"
          "  -j, --json           one JSON object\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "Exit status: 0 all right, 2 bad usage, 3 an operation failed.\n",
          file);
}

static void parse_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"bytes", 1, 0, 'b'}, {"compute", 1, 0, 'c'}, {"rounds", 1, 0, 'r'}, {"json", 0, 0, 'j'},
        {"help", 0, 0, 'h'},  {"version", 0, 0, 'V'}, {0, 0, 0, 0}};
    int c;

    *o = (struct options){.bytes = 16 << 20, .rounds = 15, .compute_ms = 20};
    while ((c = getopt_long(argc, argv, "b:c:r:jhV", names, NULL)) != -1) {
        if (c == 'b' && (!perf_parse_bytes(optarg, &o->bytes) || !o->bytes || o->bytes % 4))
            perf_die(PERF_EXIT_USAGE, "--bytes %s: must be a multiple of 4", optarg);
        else if (c == 'c' && !perf_parse_int(optarg, 1, 10000, &o->compute_ms))
            perf_die(PERF_EXIT_USAGE, "--compute %s: must be 1 to 10000", optarg);
        else if (c == 'r' && !perf_parse_int(optarg, 1, MAX_ROUNDS, &o->rounds))
            perf_die(PERF_EXIT_USAGE, "--rounds %s: must be 1 to %d", optarg, MAX_ROUNDS);
        else if (c == 'j')
            o->json = true;
        else if (c == 'h')
            usage(stdout);
        else if (c == 'V')
            printf("thrum-bench-overlap %s\n", thrum_version());
        else if (c == '?')
            exit(PERF_EXIT_USAGE);
        if (c == 'h' || c == 'V')
            exit(PERF_EXIT_OK);
    }
    if (optind < argc)
        perf_die(PERF_EXIT_USAGE, "unexpected argument: %s", argv[optind]);
}

/* A computation that lives in registers: what it loses, it loses to others on its core. */
static double compute(uint64_t iterations)
{
    volatile double sink;
    double x = 1;

    for (uint64_t i = 0; i < iterations; i++)
        x = x * 1.0000001 + 1e-9;
    sink = x;
    return sink;
}

static void calibrate(struct rank *r, long ms)
{
    uint64_t trial = 1000000;
    double best = HUGE_VAL;

    for (int i = 0; i < 5; i++) {
        double start = perf_now_us();
        (void)compute(trial);
        best = fmin(best, perf_now_us() - start);
    }
    r->work = (uint64_t)((double)trial * (double)ms * 1e3 / best);
}

static void synchronize(struct rank *r)
{
    perf_check(thrum_queue_synchronize(r->queue), "synchronize");
}

static void meet(struct rank *r)
{
    perf_check(thrum_barrier(r->comm, r->queue), "barrier");
    synchronize(r);
}

static void begin(struct rank *r)
{
    perf_check(
        thrum_allreduce(r->send, r->recv, r->count, THRUM_FLOAT32, THRUM_SUM, r->comm, r->queue),
        "allreduce");
}

static void round_of(struct rank *r, struct samples *s, long i)
{
    double start;

    meet(r);
    start = perf_now_us();
    (void)compute(r->work);
    s->compute[i] = perf_now_us() - start;
    meet(r);
    start = perf_now_us();
    begin(r);
    synchronize(r);
    s->reduce[i] = perf_now_us() - start;
    meet(r);
    start = perf_now_us();
    begin(r);
    (void)compute(r->work);
    s->both[i] = perf_now_us() - start;
    synchronize(r);
    s->rest[i] = perf_now_us() - start - s->both[i];
}

static void print(const struct options *o, int nranks, struct samples *s)
{
    double alone = perf_statistics(s->compute, (int)o->rounds).median;
    double reduce = perf_statistics(s->reduce, (int)o->rounds).median;
    double both = perf_statistics(s->both, (int)o->rounds).median;
    double rest = perf_statistics(s->rest, (int)o->rounds).median;
    double loss = 100 * (both - alone - reduce) / alone;
    char text[24];

    if (o->json) {
        printf("{\"ranks\": %d, \"bytes\": %llu, \"compute_us\": %.1f, \"allreduce_us\": %.1f, "
               "\"both_us\": %.1f, \"rest_us\": %.1f, \"loss_percent\": %.2f}\n",
               nranks, (unsigned long long)o->bytes, alone, reduce, both, rest, loss);
        return;
    }
    printf("allreduce of %s on %d ranks; medians of %ld rounds, rank 0\n"
           "  computation alone                 %10.0f us\n"
           "  allreduce alone                   %10.0f us\n"
           "  computation, allreduce in flight  %10.0f us, then %.0f us until it has ended\n"
           "  lost beyond the allreduce's own   %10.1f %%\n",
           perf_format_bytes(o->bytes, text), nranks, o->rounds, alone, reduce, both, rest, loss);
}

int main(int argc, char **argv)
{
    struct samples *samples = perf_malloc(sizeof *samples);
    struct rank r = {0};
    struct options o;
    int nranks;

    perf_program = "thrum-bench-overlap";
    perf_rank = -1;
    parse_options(argc, argv, &o);
    perf_check(thrum_device_open(THRUM_DEVICE_ANY, &r.device), "open a device");
    perf_check(thrum_comm_init(r.device, NULL, &r.comm), "join the other ranks");
    perf_check(thrum_comm_rank(r.comm, &perf_rank), "rank");
    perf_check(thrum_comm_size(r.comm, &nranks), "size");
    perf_check(thrum_queue_create(r.device, THRUM_QUEUE_DEFAULT, &r.queue), "create a queue");
    perf_check(thrum_mem_alloc(r.device, o.bytes, &r.send), "allocate device memory");
    perf_check(thrum_mem_alloc(r.device, o.bytes, &r.recv), "allocate device memory");
    r.count = o.bytes / sizeof(float);
    calibrate(&r, o.compute_ms);
    begin(&r);
    for (long i = 0; i < o.rounds; i++)
        round_of(&r, samples, i);
    if (perf_rank == 0)
        print(&o, nranks, samples);
    perf_check(thrum_comm_finalize(r.comm), "finalize");
    thrum_comm_destroy(r.comm);
    thrum_queue_destroy(r.queue);
    thrum_device_close(r.device);
    free(samples);
    return PERF_EXIT_OK;
}
