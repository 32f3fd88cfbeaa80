/*
 * thrum-perf: time, bandwidth and correctness of the collectives, in the manner of nccl-tests. Started by a launcher,
 * one process a rank. Options and the sweep are here; perf_run.c measures.
 */
#include "perf_output.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CASES = 16384 };

struct options {
    bool collectives[16], dtypes[THRUM_DATATYPE_COUNT], ops[THRUM_REDOP_COUNT];
    bool in_place, out_of_place, check, compare_mpi, sync_each, all_algorithms;
    uint64_t min_bytes, max_bytes;
    double factor, budget_ms;
    long root, warmup, iterations, batches;
    enum perf_memory memory;
    unsigned queue_flags;
    const char *algorithm, *plot;
    enum perf_format format;
    int progress; /* -1: where stderr is a terminal */
};

static void usage(FILE *file)
{
    fputs(
        "Usage: mpirun -n RANKS thrum-perf [OPTION]...\n"
        "Measures collectives of Thrum over a sweep of sizes and checks every result.\n"
        "\n"
        "What to run\n"
        "  -c, --collective LIST   allreduce, broadcast, allgather, reduce_scatter, reduce, "
        "alltoall, gather,\n"
        "                          scatter, scan, exscan, barrier, sendrecv, or all\n"
        "                          (default allreduce); sendrecv is a ring: to the next, from the "
        "previous rank\n"
        "  -b, --min SIZE          smallest size in bytes; suffixes K, M, G (default 8)\n"
        "  -e, --max SIZE          largest size (default 16M)\n"
        "  -f, --factor X          each size is X times the one before (default 2)\n"
        "  -d, --dtype LIST        int8 uint8 int16 uint16 int32 uint32 int64 uint64 float8_e4m3 "
        "float8_e5m2\n"
        "                          float16 bfloat16 float32 float64 complex64 complex128, or all\n"
        "                          (default float32)\n"
        "  -o, --op LIST           sum prod max min avg band bor bxor land lor, or all (default "
        "sum)\n"
        "  -r, --root RANK         of broadcast, reduce, gather, scatter (default 0)\n"
        "  -i, --in-place          receive where the data was sent from; with --out-of-place both "
        "(default out)\n"
        "      --out-of-place\n"
        "  -a, --algorithm NAME    force an algorithm: ring, or collective:name,... (as "
        "THRUM_ALGO)\n"
        "      --all-algorithms    each size with every algorithm that can serve, beside what the "
        "model\n"
        "                          that chooses predicts, and how far its choice is from the best\n"
        "  -m, --memory KIND       device, registered (host memory), host (plain; staged) (default "
        "device)\n"
        "  -q, --queue KIND        kernel (mediated; default) or direct\n"
        "\n"
        "How to measure\n"
        "  -w, --warmup N          operations before the measurement (default: by time)\n"
        "  -n, --iters N           operations in a batch (default: by time)\n"
        "      --batches N         batches, 1 to 100 (default: by time)\n"
        "  -t, --time MS           time to spend on each row, for each library (default 200)\n"
        "      --sync-each         wait for each operation before the next is called\n"
        "      --check on|off      compare every element with a reference (default on)\n"
        "      --compare mpi       also run MPI's operation on its own buffers, in turns\n"
        "\n"
        "What to print\n"
        "  -j, --json              one JSON object a line\n"
        "      --csv               comma-separated values\n"
        "  -p, --plot FILE         also draw time and bandwidth over size as PNG (needs gnuplot)\n"
        "      --progress on|off   progress on stderr (default: where it is a terminal)\n"
        "  -h, --help\n"
        "  -V, --version\n"
        "\n"
        "Exit status: 0 all right, 1 wrong data, 2 bad usage, 3 an operation failed.\n",
        file);
}

/* ---- options ---- */

/* The first thing wrong with the command line; printed once it is known which rank this is. */
static char usage_error[512];
static enum { PRINT_NOTHING, PRINT_HELP, PRINT_VERSION } print_only;

static void bad_option(const char *name, const char *value, const char *allowed)
{
    if (!*usage_error)
        snprintf(usage_error, sizeof usage_error, "--%s %s: must be %s", name, value, allowed);
}

static const char *collective_at(int i)
{
    return i < perf_collective_count ? perf_collectives[i].name : NULL;
}

static const char *dtype_at(int i)
{
    return i < THRUM_DATATYPE_COUNT ? thrum_datatype_name((thrum_datatype_t)i) : NULL;
}

static const char *op_at(int i)
{
    return i < THRUM_REDOP_COUNT ? thrum_redop_name((thrum_redop_t)i) : NULL;
}

/* chosen[i] <- whether the i-th name is in the comma-separated list, or the list is "all". */
static void parse_list(const char *option, const char *list, const char *(*name_at)(int),
                       bool *chosen)
{
    bool all = !strcmp(list, "all");

    for (int i = 0; name_at(i); i++)
        chosen[i] = all;
    while (!all && *list) {
        size_t length = strcspn(list, ",");
        int i = 0;

        while (name_at(i) && (strlen(name_at(i)) != length || strncmp(list, name_at(i), length)))
            i++;
        if (!name_at(i)) {
            bad_option(option, list,
                       "a list of names that --help shows, separated by commas, or all");
            return;
        }
        chosen[i] = true;
        list += length + (list[length] == ',');
    }
}

static int parse_word(const char *option, const char *text, const char *const *words)
{
    char allowed[96] = "";

    for (int i = 0; words[i]; i++) {
        size_t used = strlen(allowed);
        if (!strcmp(words[i], text))
            return i;
        snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? " or " : "", words[i]);
    }
    bad_option(option, text, allowed);
    return 0;
}

static uint64_t parse_size(const char *option, const char *text)
{
    uint64_t bytes = 0;

    if (!perf_parse_bytes(text, &bytes))
        bad_option(option, text, "a number of bytes, such as 8, 64K or 1.5M");
    return bytes;
}

static long parse_number(const char *option, const char *text, long min, long max)
{
    long value = 0;
    char allowed[64];

    snprintf(allowed, sizeof allowed, "a whole number from %ld to %ld", min, max);
    if (!perf_parse_int(text, min, max, &value))
        bad_option(option, text, allowed);
    return value;
}

static double parse_real(const char *option, const char *text, double above, double most)
{
    char *end, allowed[64];
    double value = strtod(text, &end);

    snprintf(allowed, sizeof allowed, "a number above %g and up to %g", above, most);
    if (end == text || *end || !(value > above && value <= most))
        bad_option(option, text, allowed);
    return value;
}

enum {
    OPT_OUT = 256,
    OPT_BATCHES,
    OPT_SYNC,
    OPT_CHECK,
    OPT_COMPARE,
    OPT_CSV,
    OPT_PROGRESS,
    OPT_ALL
};

static const struct option long_options[] = {
    {"collective", 1, 0, 'c'},
    {"min", 1, 0, 'b'},
    {"max", 1, 0, 'e'},
    {"factor", 1, 0, 'f'},
    {"dtype", 1, 0, 'd'},
    {"op", 1, 0, 'o'},
    {"root", 1, 0, 'r'},
    {"in-place", 0, 0, 'i'},
    {"out-of-place", 0, 0, OPT_OUT},
    {"algorithm", 1, 0, 'a'},
    {"all-algorithms", 0, 0, OPT_ALL},
    {"memory", 1, 0, 'm'},
    {"queue", 1, 0, 'q'},
    {"warmup", 1, 0, 'w'},
    {"iters", 1, 0, 'n'},
    {"batches", 1, 0, OPT_BATCHES},
    {"time", 1, 0, 't'},
    {"sync-each", 0, 0, OPT_SYNC},
    {"check", 1, 0, OPT_CHECK},
    {"json", 0, 0, 'j'},
    {"compare", 1, 0, OPT_COMPARE},
    {"csv", 0, 0, OPT_CSV},
    {"plot", 1, 0, 'p'},
    {"progress", 1, 0, OPT_PROGRESS},
    {"help", 0, 0, 'h'},
    {"version", 0, 0, 'V'},
    {0, 0, 0, 0},
};

static void parse_option(struct options *o, int c, const char *value)
{
    static const char *const on_off[] = {"off", "on", NULL}, *const mpi[] = {"mpi", NULL};
    static const char *const memories[] = {"device", "registered", "host", NULL};
    static const char *const queues[] = {"kernel", "direct", NULL};

    switch (c) {
    case 'c':
        parse_list("collective", value, collective_at, o->collectives);
        break;
    case 'b':
        o->min_bytes = parse_size("min", value);
        break;
    case 'e':
        o->max_bytes = parse_size("max", value);
        break;
    case 'f':
        o->factor = parse_real("factor", value, 1, 1e6);
        break;
    case 'd':
        parse_list("dtype", value, dtype_at, o->dtypes);
        break;
    case 'o':
        parse_list("op", value, op_at, o->ops);
        break;
    case 'r':
        o->root = parse_number("root", value, 0, 1048575);
        break;
    case 'i':
        o->in_place = true;
        break;
    case OPT_OUT:
        o->out_of_place = true;
        break;
    case 'a':
        o->algorithm = value;
        break;
    case 'm':
        o->memory = (enum perf_memory)parse_word("memory", value, memories);
        break;
    case 'q':
        o->queue_flags =
            parse_word("queue", value, queues) ? THRUM_QUEUE_DIRECT : THRUM_QUEUE_DEFAULT;
        break;
    case 'w':
        o->warmup = parse_number("warmup", value, 0, 1000000);
        break;
    case 'n':
        o->iterations = parse_number("iters", value, 1, 1000000);
        break;
    case OPT_BATCHES:
        o->batches = parse_number("batches", value, 1, PERF_MAX_BATCHES);
        break;
    case 't':
        o->budget_ms = parse_real("time", value, 0, 1e7);
        break;
    case OPT_ALL:
        o->all_algorithms = true;
        break;
    case OPT_SYNC:
        o->sync_each = true;
        break;
    case OPT_CHECK:
        o->check = parse_word("check", value, on_off);
        break;
    case OPT_COMPARE:
        o->compare_mpi = parse_word("compare", value, mpi) == 0;
        break;
    case 'j':
        o->format = PERF_JSON;
        break;
    case OPT_CSV:
        o->format = PERF_CSV;
        break;
    case 'p':
        o->plot = value;
        break;
    case OPT_PROGRESS:
        o->progress = parse_word("progress", value, on_off);
        break;
    case 'h':
        print_only = PRINT_HELP;
        break;
    case 'V':
        print_only = PRINT_VERSION;
        break;
    }
}

static void parse_options(int argc, char **argv, struct options *o)
{
    int c;

    *o = (struct options){.min_bytes = 8,
                          .max_bytes = 16 << 20,
                          .factor = 2,
                          .budget_ms = 200,
                          .warmup = -1,
                          .check = true,
                          .progress = -1};
    parse_list("collective", "allreduce", collective_at, o->collectives);
    parse_list("dtype", "float32", dtype_at, o->dtypes);
    parse_list("op", "sum", op_at, o->ops);
    opterr = 0;
    while ((c = getopt_long(argc, argv, "c:b:e:f:d:o:r:ia:m:q:w:n:t:jp:hV", long_options, NULL)) !=
           -1) {
        if (c == '?' && !*usage_error)
            snprintf(usage_error, sizeof usage_error,
                     "%s: no such option, or its value is missing or unwanted; --help shows them",
                     argv[optind - 1]);
        else
            parse_option(o, c, optarg);
    }
    if (optind < argc && !*usage_error)
        snprintf(usage_error, sizeof usage_error, "%s: not an option; --help shows them",
                 argv[optind]);
    if (o->min_bytes > o->max_bytes)
        bad_option("min", "SIZE", "at most --max SIZE");
    if (o->all_algorithms && o->plot)
        bad_option("plot", o->plot, "left out with --all-algorithms");
    if (o->all_algorithms && o->algorithm)
        bad_option("algorithm", o->algorithm, "left out with --all-algorithms");
    if (!o->in_place)
        o->out_of_place = true;
}

/* Must be done before the library reads its environment. */
static void force_algorithm(const struct options *o)
{
    char list[512] = "";

    if (!o->algorithm)
        return;
    if (strchr(o->algorithm, ':')) {
        snprintf(list, sizeof list, "%s", o->algorithm);
    } else {
        for (int i = 0; i < perf_collective_count; i++) {
            size_t used = strlen(list);
            if (o->collectives[i])
                snprintf(list + used, sizeof list - used, "%s%s:%s", used ? "," : "",
                         perf_collectives[i].name, o->algorithm);
        }
    }
    setenv("THRUM_ALGO", list, 1);
}

/* ---- the sweep ---- */

struct sweep {
    struct perf_case *cases;
    int n;
    size_t send_bytes, recv_bytes; /* the largest of any case */
};

static void add_case(struct sweep *sweep, const struct perf_case *what, int nranks)
{
    size_t element = thrum_datatype_size(what->dtype);
    size_t send = perf_send_elems(what, nranks) * element,
           recv = perf_recv_elems(what, nranks) * element;

    if (sweep->n == MAX_CASES)
        perf_die(PERF_EXIT_USAGE, "more than %d rows: choose fewer sizes, types or operations",
                 MAX_CASES);
    sweep->cases[sweep->n++] = *what;
    sweep->send_bytes = send > sweep->send_bytes ? send : sweep->send_bytes;
    sweep->recv_bytes = recv > sweep->recv_bytes ? recv : sweep->recv_bytes;
}

/* One series: all sizes of one collective, type, op and place. */
static void add_sizes(struct sweep *sweep, const struct options *o, struct perf_case what,
                      int nranks)
{
    bool blocks = what.collective->send_is_blocks || what.collective->recv_is_blocks;
    size_t unit = thrum_datatype_size(what.dtype) * (blocks ? (size_t)nranks : 1);
    uint64_t last = UINT64_MAX;

    if (!what.collective->has_data) {
        add_case(sweep, &what, nranks);
        return;
    }
    for (double size = (double)o->min_bytes; (uint64_t)size <= o->max_bytes; size *= o->factor) {
        what.count = (uint64_t)size / unit;
        if (what.count == 0 && o->min_bytes > 0)
            what.count = 1; /* the smallest that there is */
        what.bytes = what.count * unit;
        if (what.bytes != last)
            add_case(sweep, &what, nranks);
        last = what.bytes;
        if (size < 1)
            size = 4 / o->factor; /* 0, then 4, 4 x factor ... */
    }
}

static void make_sweep(struct sweep *sweep, const struct options *o,
                       const struct thrum_device_properties *device, int nranks)
{
    sweep->cases = perf_malloc(sizeof *sweep->cases * MAX_CASES);
    for (int c = 0; c < perf_collective_count; c++) {
        const struct perf_collective *collective = &perf_collectives[c];
        bool typed = collective->has_data;

        for (int d = 0; o->collectives[c] && d < (typed ? THRUM_DATATYPE_COUNT : 1); d++) {
            for (int op = 0; op < (collective->has_op ? THRUM_REDOP_COUNT : 1); op++) {
                if (typed && !o->dtypes[d])
                    continue;
                if (collective->has_op &&
                    (!o->ops[op] || !perf_op_takes(op, (thrum_datatype_t)d) ||
                     !(device->reduce_types >> d & 1) || !(device->reduce_ops >> op & 1)))
                    continue;
                for (int in_place = 0; in_place < 2; in_place++) {
                    struct perf_case what = {.collective = collective,
                                             .dtype = (thrum_datatype_t)d,
                                             .op = collective->has_op ? op : PERF_MOVE,
                                             .root = (int)o->root,
                                             .in_place = in_place};
                    if (in_place ? o->in_place && collective->can_be_in_place
                                 : o->out_of_place || !collective->can_be_in_place)
                        add_sizes(sweep, o, what, nranks);
                }
            }
        }
    }
    if (sweep->n == 0)
        perf_die(PERF_EXIT_USAGE,
                 "nothing to run: no chosen operation takes a chosen type on this device");
}

/* ---- ranks ---- */

/* Without a launcher this process is the only rank. */
static thrum_status_t join(thrum_device_t device, bool launched, thrum_comm_t *comm_out)
{
    struct thrum_unique_id id;
    thrum_status_t status;

    if (launched)
        return thrum_comm_init(device, NULL, comm_out);
    status = thrum_get_unique_id(&id);
    return status == THRUM_OK ? thrum_comm_init_rank(&id, 1, 0, device, NULL, comm_out) : status;
}

static void open_context(struct perf_context *x, const struct options *o, bool launched,
                         struct thrum_device_properties *device)
{
    const char *problem = NULL;

    if (o->compare_mpi && (problem = perf_mpi_start()))
        perf_die(PERF_EXIT_FAILED, "--compare mpi: %s", problem);
    perf_check(thrum_device_open(THRUM_DEVICE_ANY, &x->device), "open a device");
    perf_check(thrum_device_get_properties(x->device, device), "device properties");
    perf_check(thrum_queue_create(x->device, o->queue_flags, &x->queue), "create a queue");
    perf_check(join(x->device, launched, &x->comm), "join the other ranks");
    perf_check(thrum_comm_rank(x->comm, &x->rank), "rank");
    perf_check(thrum_comm_size(x->comm, &x->nranks), "size");
    perf_rank = x->rank;
    if (o->root >= x->nranks) {
        if (x->rank == 0)
            fprintf(stderr, "thrum-perf: --root %ld: there are %d ranks\n", o->root, x->nranks);
        perf_mpi_stop();
        exit(PERF_EXIT_USAGE);
    }
    x->memory = o->memory;
    x->check = o->check;
    x->compare_mpi = o->compare_mpi;
    x->sync_each = o->sync_each;
    x->warmup = (int)o->warmup;
    x->iterations = (int)o->iterations;
    x->batches = (int)o->batches;
    x->budget_us = o->budget_ms * 1e3;
    x->control_bytes = sizeof(double) * 2 * PERF_MAX_BATCHES;
    perf_check(thrum_mem_alloc(x->device, x->control_bytes * (size_t)x->nranks, &x->control),
               "allocate device memory");
    if (x->compare_mpi && (problem = perf_mpi_same_ranks(x->rank, x->nranks)))
        perf_die(PERF_EXIT_FAILED, "--compare mpi: %s", problem);
}

static void close_context(struct perf_context *x)
{
    perf_release(x);
    perf_check(thrum_comm_finalize(x->comm), "finalize");
    thrum_comm_destroy(x->comm);
    perf_check(thrum_mem_free(x->device, x->control), "free device memory");
    thrum_queue_destroy(x->queue);
    perf_mpi_stop();
    thrum_device_close(x->device);
}

static struct perf_host_rank *gather_ranks(struct perf_context *x,
                                           const struct thrum_device_properties *device)
{
    struct perf_host_rank mine = {.pid = (int)getpid()},
                          *all = perf_malloc(sizeof *all * (size_t)x->nranks);

    gethostname(mine.host, sizeof mine.host - 1);
    snprintf(mine.device, sizeof mine.device, "%s", device->name);
    perf_gather(x, &mine, all, sizeof mine);
    for (int r = 0; r < x->nranks; r++) {
        bool seen = false;
        for (int k = 0; k < r; k++)
            seen = seen || !strcmp(all[k].host, all[r].host);
        x->hosts += !seen;
    }
    return all;
}

static long run_sweep(struct perf_context *x, const struct options *o, const struct sweep *sweep,
                      const struct perf_host_rank *ranks)
{
    size_t most = (size_t)sweep->n * (o->all_algorithms ? PERF_MAX_ALGORITHMS : 1);
    struct perf_result *results = perf_malloc(sizeof *results * most);
    struct perf_output out = {.format = o->format,
                              .compare_mpi = o->compare_mpi,
                              .all_algorithms = o->all_algorithms,
                              .progress = o->progress >= 0 ? o->progress : isatty(STDERR_FILENO),
                              .cases = sweep->n};
    const char *problem = NULL;
    long wrong = 0;
    int nresults = 0;

    if (x->rank == 0)
        perf_output_begin(&out, x, ranks,
                          o->queue_flags & THRUM_QUEUE_DIRECT ? "direct" : "kernel-mediated");
    for (int i = 0; i < sweep->n; i++) {
        int n = 1;

        if (x->rank == 0)
            perf_output_progress(&out, &sweep->cases[i]);
        if (o->all_algorithms)
            n = perf_run_all(x, &sweep->cases[i], &results[nresults]);
        else
            perf_run_case(x, &sweep->cases[i], &results[nresults]);
        for (int end = nresults + n; nresults < end; nresults++) {
            if (x->rank == 0)
                perf_output_result(&out, &results[nresults], x->nranks);
            wrong += results[nresults].wrong > 0 ? results[nresults].wrong : 0;
        }
    }
    if (x->rank == 0) {
        perf_output_end(&out, results, nresults);
        if (o->plot)
            problem = perf_plot(o->plot, results, nresults, x->nranks);
        if (problem)
            perf_die(PERF_EXIT_FAILED, "--plot %s: %s", o->plot, problem);
    }
    free(results);
    return wrong;
}

/* What needs no job: --help, --version, a wrong command line. */
static void print_and_exit(void)
{
    bool prints = perf_rank <= 0;

    if (*usage_error) {
        if (prints)
            fprintf(stderr, "thrum-perf: %s\n", usage_error);
        exit(PERF_EXIT_USAGE);
    }
    if (print_only == PRINT_HELP && prints)
        usage(stdout);
    if (print_only == PRINT_VERSION && prints)
        printf("thrum-perf %s\n", thrum_version());
    if (print_only)
        exit(PERF_EXIT_OK);
}

int main(int argc, char **argv)
{
    struct thrum_device_properties device = {.size = sizeof device};
    struct perf_context x = {.rank = -1};
    struct perf_host_rank *ranks;
    struct sweep sweep = {0};
    struct options o;
    int nranks, local_rank;
    thrum_status_t launched;
    long wrong;

    parse_options(argc, argv, &o);
    force_algorithm(&o); /* before anything reads the environment */
    launched = thrum_launch_info(&perf_rank, &nranks, &local_rank);
    print_and_exit();
    if (launched != THRUM_ERR_INVALID_USAGE) /* no launcher: a single rank */
        perf_check(launched, "find the launcher");
    open_context(&x, &o, launched == THRUM_OK, &device);
    ranks = gather_ranks(&x, &device);
    make_sweep(&sweep, &o, &device, x.nranks);
    perf_reserve(&x, sweep.send_bytes, sweep.recv_bytes);
    wrong = run_sweep(&x, &o, &sweep, ranks);
    free(sweep.cases);
    free(ranks);
    close_context(&x);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "thrum-perf: cannot write the results: %s\n", strerror(errno));
        return PERF_EXIT_FAILED;
    }
    return wrong ? PERF_EXIT_WRONG : PERF_EXIT_OK;
}
