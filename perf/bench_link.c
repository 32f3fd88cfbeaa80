/*
 * thrum-bench-link: what two devices give each other without any collective: copies between their memories, and flags
 * there and back, beside what the host gives two processes without the library. Side 0 (this process) measures, side 1
 * (a child) owns the other device and answers.
 */
#include "bench_link.h"

#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct options {
    uint64_t min_bytes, max_bytes;
    double factor, budget_us;
    int devices[2];
    bool json, stream, bare, min_given;
    unsigned queue_flags;
};

/* One side's device, with the other's memory mapped into it. */
struct endpoint {
    const struct options *options;
    struct link_side link;
    thrum_device_t device;
    thrum_queue_t queue;
    struct thrum_device_properties properties, peer_properties;
    void *memory, *scratch, *peer_memory; /* max_bytes each; scratch on side 0 only */
    thrum_semaphore_t semaphore, peer_semaphore;
    uint64_t line, peer_line; /* device addresses of a line of each side */
};

enum { DEADLINE_MS = 20000, SLICE_MS = 100 };

/* Waits for the queue, looking now and then whether the other process is still there. */
static void synchronize(struct endpoint *e, const char *what)
{
    thrum_status_t status = THRUM_ERR_TIMEOUT;

    for (int ms = 0; status == THRUM_ERR_TIMEOUT && ms < DEADLINE_MS; ms += SLICE_MS) {
        status = thrum_queue_synchronize_for(e->queue, (int64_t)SLICE_MS * 1000000);
        if (status == THRUM_ERR_TIMEOUT)
            link_check(&e->link);
    }
    perf_check(status, what);
}

/* ---- flags ---- */

enum flag_kind { FLAG_SIGNAL, FLAG_LINE };

/* One exchange of side 0: tell the peer, hear from it; side 1 the other way round. Returns the number of commands. */
static size_t flag_commands(const struct endpoint *e, enum flag_kind kind, uint64_t value,
                            struct thrum_command *commands, struct thrum_operand *operands)
{
    static const uint64_t payload = 0x7468726d;
    struct thrum_command tell = {.ndst = 1, .operands = &operands[0]},
                         hear = {.nsrc = 1, .operands = &operands[1]};

    if (kind == FLAG_SIGNAL) {
        tell.opcode = THRUM_CMD_SIGNAL;
        tell.value = 1;
        hear.opcode = THRUM_CMD_WAIT;
        operands[0] = (struct thrum_operand){.base = thrum_semaphore_address(e->peer_semaphore)};
        operands[1] = (struct thrum_operand){.base = thrum_semaphore_address(e->semaphore)};
    } else {
        tell.opcode = THRUM_CMD_WRITE_LINE;
        tell.value = value;
        tell.payload = &payload;
        tell.bytes = sizeof payload;
        hear.opcode = THRUM_CMD_WAIT_LINE;
        hear.mask = UINT64_MAX;
        operands[0] = (struct thrum_operand){.base = e->peer_line};
        operands[1] = (struct thrum_operand){.base = e->line};
    }
    hear.value = value;
    commands[e->link.side] = tell;
    commands[!e->link.side] = hear;
    return 2;
}

/* `rounds` exchanges: all of them queued at once, or each submitted and waited for by the host. */
static void exchange_flags(struct endpoint *e, enum flag_kind kind, uint64_t first, int rounds,
                           bool by_host)
{
    enum { CHUNK = 32 };
    struct thrum_command commands[2 * CHUNK];
    struct thrum_operand operands[2 * CHUNK];

    for (int done = 0; done < rounds;) {
        int chunk = by_host ? 1 : rounds - done < CHUNK ? rounds - done : CHUNK;
        size_t n = 0;

        for (int i = 0; i < chunk; i++)
            n += flag_commands(e, kind, first + (uint64_t)(done + i), &commands[n], &operands[n]);
        perf_check(thrum_queue_submit(e->queue, commands, n, NULL), "submit flags");
        if (by_host)
            synchronize(e, "flags");
        done += chunk;
    }
    synchronize(e, "flags");
}

/* The value that the flag of this kind had last; both sides count alike. */
static uint64_t flag_values[2];

/* One-way time. A few exchanges before make sure that both sides are awake. */
static double flag_batch(struct endpoint *e, enum flag_kind kind, int rounds, bool by_host)
{
    enum { BEFORE = 4 };
    double start;

    link_sync(&e->link);
    exchange_flags(e, kind, flag_values[kind] + 1, BEFORE, by_host);
    flag_values[kind] += BEFORE;
    start = perf_now_us();
    exchange_flags(e, kind, flag_values[kind] + 1, rounds, by_host);
    flag_values[kind] += (uint64_t)rounds;
    return (perf_now_us() - start) / rounds / 2;
}

static struct perf_stats flag_latency(struct endpoint *e, enum flag_kind kind, bool by_host)
{
    enum { BATCHES = 60 };
    double samples[BATCHES], once;
    int rounds = 16;

    /* side 0's estimate decides how many exchanges a batch has */
    once = flag_batch(e, kind, rounds, by_host);
    if (e->link.side)
        link_exchange(&e->link, &rounds, &rounds, sizeof rounds);
    else {
        int unused;
        double wanted = e->options->budget_us / BATCHES / (2 * once);
        rounds = wanted < 20 ? 20 : wanted > 1000 ? 1000 : (int)wanted;
        link_exchange(&e->link, &rounds, &unused, sizeof rounds);
    }
    for (int b = 0; b < BATCHES; b++)
        samples[b] = flag_batch(e, kind, rounds, by_host);
    return perf_statistics(samples, BATCHES);
}

static void print_latency(const struct endpoint *e, const char *key, const char *text,
                          const struct perf_stats *us, const struct perf_stats *limit)
{
    if (e->link.side)
        return;
    if (e->options->json)
        printf("{\"test\": \"latency\", \"what\": \"%s\", \"latency_ns_min\": %.1f, "
               "\"latency_ns_median\": %.1f, "
               "\"latency_ns_p99\": %.1f, \"limit_ns\": %.1f}\n",
               key, us->min * 1e3, us->median * 1e3, us->p99 * 1e3, limit->min * 1e3);
    else
        printf("  %-50s %10.1f %10.1f %10.1f %9.1fx\n", text, us->min * 1e3, us->median * 1e3,
               us->p99 * 1e3, us->min / limit->min);
    fflush(stdout);
}

static void measure_flags(struct endpoint *e)
{
    static const char *const names[2][2][2] = {
        {{"signal_wait", "SIGNAL and WAIT, queued ahead"},
         {"signal_wait_by_host", "SIGNAL and WAIT, host waits for each"}},
        {{"line", "WRITE_LINE and WAIT_LINE, queued ahead"},
         {"line_by_host", "WRITE_LINE and WAIT_LINE, host waits for each"}}};
    struct perf_stats raw, us;
    int kinds = e->properties.capabilities & e->peer_properties.capabilities & THRUM_CAP_INLINE_LINE
                    ? 2
                    : 1;

    if (!e->link.side && !e->options->json)
        printf("# one way, from one device to the other, half of a round trip\n#\n# %-50s %10s "
               "%10s %10s %10s\n"
               "# %-50s %10s %10s %10s %10s\n",
               "flag", "min", "median", "p99", "min/limit", "", "(ns)", "(ns)", "(ns)", "");
    raw = link_raw_flag(&e->link, e->options->budget_us);
    print_latency(e, "raw_flag", "limit: a flag in a shared page, no library", &raw, &raw);
    for (int kind = 0; kind < kinds; kind++) {
        for (int by_host = 0; by_host < 2; by_host++) {
            us = flag_latency(e, (enum flag_kind)kind, by_host);
            print_latency(e, names[kind][by_host][0], names[kind][by_host][1], &us, &raw);
        }
    }
}

/* ---- copies ---- */

enum copy_kind { COPY_RAW, COPY_LOCAL, COPY_PUSH, COPY_PULL, COPY_KINDS };

static const char *const copy_names[COPY_KINDS] = {"raw_memcpy", "local", "push", "pull"};

struct raw_memory { /* of the host, shared pages like those of a sim device */
    void *src, *dst;
};

static double copy_batch(struct endpoint *e, const struct raw_memory *raw, enum copy_kind kind,
                         size_t bytes, int times)
{
    struct thrum_operand operands[2] = {
        {.base = (uint64_t)(uintptr_t)(kind == COPY_PUSH    ? e->peer_memory
                                       : kind == COPY_LOCAL ? e->scratch
                                                            : e->memory)},
        {.base = (uint64_t)(uintptr_t)(kind == COPY_PULL ? e->peer_memory : e->memory)}};
    struct thrum_command copy = {.opcode = THRUM_CMD_COPY,
                                 .flags = e->options->stream ? THRUM_CMD_FLAG_STREAM : 0,
                                 .ndst = 1,
                                 .nsrc = 1,
                                 .bytes = bytes,
                                 .operands = operands};
    double start;

    if (kind == COPY_RAW)
        return link_raw_copy(raw->dst, raw->src, bytes, times);
    start = perf_now_us();
    for (int i = 0; i < times; i++)
        perf_check(thrum_queue_submit(e->queue, &copy, 1, NULL), "submit a copy");
    synchronize(e, "copy");
    return (perf_now_us() - start) / times;
}

static void print_copy(const struct endpoint *e, uint64_t bytes, const struct perf_stats *us)
{
    char size[24];

    for (int kind = 0; e->options->json && kind < COPY_KINDS; kind++)
        printf(
            "{\"test\": \"copy\", \"what\": \"%s\", \"size_bytes\": %llu, \"time_us_min\": %.3f, "
            "\"time_us_median\": %.3f, \"time_us_p99\": %.3f, \"bandwidth_gbps\": %.6g, "
            "\"limit_gbps\": %.6g}\n",
            copy_names[kind], (unsigned long long)bytes, us[kind].min, us[kind].median,
            us[kind].p99, (double)bytes / 1e3 / us[kind].median,
            (double)bytes / 1e3 / us[COPY_RAW].median);
    if (!e->options->json)
        printf(
            "  %8s %12.2f %12.2f %12.2f %12.2f %9.0f %% %9.0f %%\n", perf_format_bytes(bytes, size),
            (double)bytes / 1e3 / us[COPY_RAW].median, (double)bytes / 1e3 / us[COPY_LOCAL].median,
            (double)bytes / 1e3 / us[COPY_PUSH].median, (double)bytes / 1e3 / us[COPY_PULL].median,
            100 * us[COPY_RAW].median / us[COPY_PUSH].median,
            100 * us[COPY_RAW].median / us[COPY_PULL].median);
    fflush(stdout);
}

/* The kinds of copy take turns, so that all meet the same machine. */
static void measure_size(struct endpoint *e, const struct raw_memory *raw, uint64_t bytes)
{
    enum { BATCHES = 40 };
    double samples[COPY_KINDS][BATCHES], slowest = 0, wanted;
    struct perf_stats us[COPY_KINDS];
    int times, batches;

    for (int kind = 0; kind < COPY_KINDS; kind++) {
        double once;
        (void)copy_batch(e, raw, (enum copy_kind)kind, bytes, 1);
        once = copy_batch(e, raw, (enum copy_kind)kind, bytes, 2);
        slowest = once > slowest ? once : slowest;
    }
    wanted = e->options->budget_us / COPY_KINDS / (slowest > 0.01 ? slowest : 0.01);
    batches = wanted < 5 ? 5 : wanted > BATCHES ? BATCHES : (int)wanted;
    times = wanted / batches < 1 ? 1 : wanted / batches > 1000 ? 1000 : (int)(wanted / batches);
    for (int b = 0; b < batches; b++) {
        for (int kind = 0; kind < COPY_KINDS; kind++)
            samples[kind][b] = copy_batch(e, raw, (enum copy_kind)kind, bytes, times);
    }
    for (int kind = 0; kind < COPY_KINDS; kind++)
        us[kind] = perf_statistics(samples[kind], batches);
    print_copy(e, bytes, us);
}

static void *map_shared(size_t bytes)
{
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (memory == MAP_FAILED)
        perf_die(PERF_EXIT_FAILED, "out of host memory (%zu bytes)", bytes);
    return memory;
}

static void measure_copies(struct endpoint *e)
{
    const struct options *o = e->options;

    if (!e->link.side) {
        struct raw_memory raw = {.src = map_shared(o->max_bytes), .dst = map_shared(o->max_bytes)};

        if (!o->json)
            printf("#\n# copies, GB/s (10^9 bytes), median; push: by the owner of the source, "
                   "pull: of the destination\n"
                   "#\n# %8s %12s %12s %12s %12s %11s %11s\n# %8s %12s %12s %12s %12s %11s %11s\n",
                   "size", "memcpy", "local", "push", "pull", "push", "pull", "(bytes)", "(limit)",
                   "", "", "", "of limit", "of limit");
        for (double size = (double)o->min_bytes; (uint64_t)size <= o->max_bytes; size *= o->factor)
            measure_size(e, &raw, (uint64_t)size);
        munmap(raw.src, o->max_bytes);
        munmap(raw.dst, o->max_bytes);
    }
    link_sync(&e->link); /* side 1 sleeps here, with its memory at hand */
}

/* What was pushed must be there: side 0 fills, pushes and pulls back; side 1 looks. */
static void verify_copies(struct endpoint *e)
{
    size_t bytes = e->options->max_bytes < 65536 ? e->options->max_bytes : 65536;
    uint8_t *mine = perf_malloc(bytes);

    for (size_t i = 0; i < bytes; i++)
        mine[i] = (uint8_t)(i * 37 + i / 251);
    if (!e->link.side) {
        perf_check(thrum_copy_to_device(e->queue, e->memory, mine, bytes), "copy to the device");
        perf_check(thrum_copy(e->queue, e->peer_memory, e->memory, bytes), "push");
        synchronize(e, "push");
    }
    link_sync(&e->link);
    if (e->link.side) {
        uint8_t *got = perf_malloc(bytes);
        perf_check(thrum_copy_to_host(e->queue, got, e->memory, bytes), "copy to the host");
        if (memcmp(got, mine, bytes))
            perf_die(PERF_EXIT_WRONG, "data pushed by the other device arrived changed");
        free(got);
    }
    link_sync(&e->link);
    free(mine);
}

/* ---- the two sides ---- */

struct introduction { /* what each side tells the other */
    struct thrum_mem_handle memory, semaphore, line;
    struct thrum_device_properties properties;
};

static void open_endpoint(struct endpoint *e)
{
    struct introduction mine, theirs;
    void *line, *peer_line;

    perf_check(thrum_device_open(e->options->devices[e->link.side], &e->device), "open a device");
    e->properties.size = sizeof e->properties;
    perf_check(thrum_device_get_properties(e->device, &e->properties), "device properties");
    perf_check(thrum_queue_create(e->device, e->options->queue_flags, &e->queue), "create a queue");
    perf_check(thrum_mem_alloc(e->device, e->options->max_bytes, &e->memory),
               "allocate device memory");
    if (!e->link.side)
        perf_check(thrum_mem_alloc(e->device, e->options->max_bytes, &e->scratch),
                   "allocate device memory");
    perf_check(thrum_mem_alloc(e->device, THRUM_LINE_BYTES, &line), "allocate device memory");
    perf_check(thrum_semaphore_create(e->device, 0, &e->semaphore), "create a semaphore");

    memset(&mine, 0, sizeof mine);
    mine.properties = e->properties;
    perf_check(thrum_mem_export(e->device, e->memory, &mine.memory), "export memory");
    perf_check(thrum_mem_export(e->device, line, &mine.line), "export memory");
    perf_check(thrum_semaphore_export(e->semaphore, &mine.semaphore), "export a semaphore");
    link_exchange(&e->link, &mine, &theirs, sizeof mine);
    e->peer_properties = theirs.properties;
    perf_check(thrum_mem_import(e->device, &theirs.memory, &e->peer_memory),
               "import the peer's memory");
    perf_check(thrum_mem_import(e->device, &theirs.line, &peer_line), "import the peer's memory");
    perf_check(thrum_semaphore_import(e->device, &theirs.semaphore, &e->peer_semaphore),
               "import the peer's semaphore");
    e->line = (uint64_t)(uintptr_t)line;
    e->peer_line = (uint64_t)(uintptr_t)peer_line;
    link_sync(&e->link);
}

static void close_endpoint(struct endpoint *e)
{
    link_sync(&e->link); /* nobody uses the other's memory any more */
    thrum_semaphore_destroy(e->peer_semaphore);
    thrum_semaphore_destroy(e->semaphore);
    thrum_queue_destroy(e->queue);
    thrum_device_close(e->device); /* with its memory */
}

/* ---- an allreduce without the library ---- */

static void print_bare(const struct options *o, uint64_t bytes, const struct perf_stats *us)
{
    static const char *const names[LINK_BARE_KINDS] = {"lines", "direct", "stream"};
    char size[24];
    int best = -1;

    for (int kind = 0; kind < LINK_BARE_KINDS; kind++)
        if (us[kind].median > 0 && (best < 0 || us[kind].median < us[best].median))
            best = kind;
    if (o->json)
        printf("{\"test\": \"bare_allreduce\", \"what\": \"%s\", \"size_bytes\": %llu, "
               "\"time_us_min\": %.3f, \"time_us_median\": %.3f, \"time_us_p99\": %.3f}\n",
               names[best], (unsigned long long)bytes, us[best].min, us[best].median, us[best].p99);
    else
        printf("  %8s %12.2f %12.2f %12.2f %12.2f  %s\n", perf_format_bytes(bytes, size),
               us[best].min, us[best].median, us[best].p99, (double)bytes / 1e3 / us[best].median,
               names[best]);
    fflush(stdout);
}

static void run_bare(const struct options *o, const struct link_side *link, void *shared)
{
    if (!link->side && !o->json)
        printf("# thrum-bench-link %s: sum of float32 over two processes, without the library\n"
               "#\n# %8s %12s %12s %12s %12s  %s\n# %8s %12s %12s %12s %12s\n",
               thrum_version(), "size", "min", "median", "p99", "bandwidth", "how", "(bytes)",
               "(us)", "(us)", "(us)", "(GB/s)");
    for (double size = (double)o->min_bytes; (uint64_t)size <= o->max_bytes; size *= o->factor) {
        struct perf_stats us[LINK_BARE_KINDS];
        size_t bytes = (size_t)size < 4 ? 4 : (size_t)size / 4 * 4;

        link_bare_allreduce(link, shared, o->max_bytes, bytes, o->budget_us, us);
        if (!link->side)
            print_bare(o, bytes, us);
    }
}

static void run_side(const struct options *o, struct link_side link)
{
    struct endpoint e = {.options = o, .link = link};

    open_endpoint(&e);
    if (!link.side && !o->json)
        printf("# thrum-bench-link %s: %s and %s, %s queue%s\n", thrum_version(), e.properties.name,
               e.peer_properties.name,
               o->queue_flags & THRUM_QUEUE_DIRECT ? "direct" : "kernel-mediated",
               link.one_core ? "; one core for both sides" : "");
    verify_copies(&e);
    measure_flags(&e);
    measure_copies(&e);
    close_endpoint(&e);
}

static void usage(FILE *file)
{
    fputs(
        "Usage: thrum-bench-link [OPTION]...\n"
        "Measures the link between two devices: flags there and back and copies between their "
        "memories, beside\n"
        "what two processes of this host can do without the library.\n"
        "\n"
        "  -b, --min SIZE       smallest copy; suffixes K, M, G (default 4K)\n"
        "  -e, --max SIZE       largest copy (default 64M)\n"
        "  -f, --factor X       each size is X times the one before (default 4)\n"
        "  -t, --time MS        time to spend on each row (default 200)\n"
        "  -d, --devices A,B    indices of the two devices (default: the first two that are free)\n"
        "  -q, --queue KIND     kernel (mediated; default) or direct\n"
        "  -s, --stream         copies may bypass the cache\n"
        "      --bare           instead: an allreduce of two processes over shared pages, without "
        "the "
        "library,\n"
        "                       as the limit for thrum-perf (default --min 8)\n"
        "  -j, --json           one JSON object a line\n"
        "  -h, --help\n"
        "  -V, --version\n"
        "\n"
        "Exit status: 0 all right, 1 wrong data, 2 bad usage, 3 an operation failed.\n",
        file);
}

static void bad_option(const char *name, const char *value, const char *allowed)
{
    perf_die(PERF_EXIT_USAGE, "--%s %s: must be %s", name, value, allowed);
}

static void parse_devices(const char *text, int devices[2])
{
    int end = 0;

    if (sscanf(text, "%d,%d%n", &devices[0], &devices[1], &end) != 2 || text[end] ||
        devices[0] < 0 || devices[1] < 0 || devices[0] == devices[1])
        bad_option("devices", text, "two different indices, such as 0,1");
}

static double parse_real(const char *option, const char *text, double above)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value > above && value < 1e9))
        perf_die(PERF_EXIT_USAGE, "--%s %s: must be a number above %g", option, text, above);
    return value;
}

static void parse_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"min", 1, 0, 'b'},     {"max", 1, 0, 'e'},   {"factor", 1, 0, 'f'},  {"time", 1, 0, 't'},
        {"devices", 1, 0, 'd'}, {"queue", 1, 0, 'q'}, {"stream", 0, 0, 's'},  {"bare", 0, 0, 'B'},
        {"json", 0, 0, 'j'},    {"help", 0, 0, 'h'},  {"version", 0, 0, 'V'}, {0, 0, 0, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "b:e:f:t:d:q:sjhV", names, NULL)) != -1) {
        switch (c) {
        case 'B':
            o->bare = true;
            break;
        case 'b':
        case 'e':
            o->min_given = o->min_given || c == 'b';
            if (!perf_parse_bytes(optarg, c == 'b' ? &o->min_bytes : &o->max_bytes))
                bad_option(c == 'b' ? "min" : "max", optarg,
                           "a number of bytes, such as 8, 64K or 1.5M");
            break;
        case 'f':
            o->factor = parse_real("factor", optarg, 1);
            break;
        case 't':
            o->budget_us = parse_real("time", optarg, 0) * 1e3;
            break;
        case 'd':
            parse_devices(optarg, o->devices);
            break;
        case 'q':
            if (strcmp(optarg, "kernel") && strcmp(optarg, "direct"))
                bad_option("queue", optarg, "kernel or direct");
            o->queue_flags = *optarg == 'd' ? THRUM_QUEUE_DIRECT : THRUM_QUEUE_DEFAULT;
            break;
        case 's':
            o->stream = true;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            usage(stdout);
            exit(PERF_EXIT_OK);
        case 'V':
            printf("thrum-bench-link %s\n", thrum_version());
            exit(PERF_EXIT_OK);
        default:
            exit(PERF_EXIT_USAGE);
        }
    }
    if (optind < argc)
        perf_die(PERF_EXIT_USAGE, "\"%s\" is not an option; --help shows them", argv[optind]);
    if (o->bare && !o->min_given)
        o->min_bytes = 8;
    if (o->min_bytes == 0 || o->min_bytes > o->max_bytes)
        perf_die(PERF_EXIT_USAGE, "--min %llu: must be above 0 and at most --max %llu",
                 (unsigned long long)o->min_bytes, (unsigned long long)o->max_bytes);
}

int main(int argc, char **argv)
{
    struct options o = {.min_bytes = 4096,
                        .max_bytes = 64 << 20,
                        .factor = 4,
                        .budget_us = 200e3,
                        .devices = {THRUM_DEVICE_ANY, THRUM_DEVICE_ANY}};
    struct link_side link = {0};
    int sockets[2], child_status;
    cpu_set_t cores;
    pid_t child, parent = getpid();
    void *shared = NULL;

    perf_program = "thrum-bench-link";
    parse_options(argc, argv, &o);
    link.flags = map_shared(2 * sizeof *link.flags);
    if (o.bare)
        shared = map_shared(link_bare_bytes(o.max_bytes));
    link.one_core = sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) < 2;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        perf_die(PERF_EXIT_FAILED, "socketpair failed");
    child = fork(); /* before the library starts anything in this process */
    if (child < 0)
        perf_die(PERF_EXIT_FAILED, "fork failed");
    link.side = child == 0;
    link.socket = sockets[link.side];
    close(sockets[!link.side]);
    if (link.side) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            return PERF_EXIT_FAILED;
    }
    perf_rank = link.side;
    if (o.bare)
        run_bare(&o, &link, shared);
    else
        run_side(&o, link);
    if (link.side)
        return PERF_EXIT_OK;
    close(link.socket);
    if (waitpid(child, &child_status, 0) != child || child_status)
        perf_die(PERF_EXIT_FAILED, "the other process ended with an error");
    return PERF_EXIT_OK;
}
