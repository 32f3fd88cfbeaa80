/*
 * thrum-bench-kernels: how fast a device reduces, for every type and operation that it has: REDUCE and SCALE commands
 * written straight to a queue, with operands that stay in its caches or do not, held against the sum of float32.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "perf.h"

enum { MAX_OPERANDS = 16, MAX_ROUNDS = 400, SCALE = THRUM_REDOP_COUNT, COLUMNS };

struct options {
    uint64_t bytes, divisor;
    double budget_us; /* of one type and operation, in all */
    long sources, destinations, device;
    bool json, stream, direct;
};

struct bench {
    const struct options *options;
    thrum_device_t device;
    thrum_queue_t queue;
    struct thrum_device_properties properties;
    void *srcs[MAX_OPERANDS], *dsts[MAX_OPERANDS];
    void *pattern; /* in host memory */
};

/* One type and operation. */
struct cell {
    bool defined;
    int commands; /* timed together */
    int rounds;
    double us[MAX_ROUNDS]; /* of one command */
    struct perf_stats stats;
};

/* ---- data ---- */

/* Numbers between one and two of either sign, so that no operation meets a special value; integers of any bits. */
static void make_element(thrum_datatype_t dtype, uint32_t random, void *out)
{
    uint8_t byte = 0;
    uint16_t half = 0;
    float single = (1 + (float)(random & 0xffff) / 65536) * (random >> 31 ? -1.f : 1.f);
    double real = single;
    uint64_t bits = random * 0x9e3779b97f4a7c15ull;

    switch (dtype) {
    case THRUM_FLOAT8_E4M3:
        byte = (uint8_t)(0x38 | (random & 0x87));
        memcpy(out, &byte, sizeof byte);
        break;
    case THRUM_FLOAT8_E5M2:
        byte = (uint8_t)(0x3c | (random & 0x83));
        memcpy(out, &byte, sizeof byte);
        break;
    case THRUM_FLOAT16:
        half = (uint16_t)(0x3c00 | (random & 0x83ff));
        memcpy(out, &half, sizeof half);
        break;
    case THRUM_BFLOAT16:
        half = (uint16_t)(0x3f80 | (random & 0x807f));
        memcpy(out, &half, sizeof half);
        break;
    case THRUM_FLOAT32:
    case THRUM_COMPLEX64:
        for (size_t i = 0; i < thrum_datatype_size(dtype); i += sizeof single)
            memcpy((char *)out + i, &single, sizeof single);
        break;
    case THRUM_FLOAT64:
    case THRUM_COMPLEX128:
        for (size_t i = 0; i < thrum_datatype_size(dtype); i += sizeof real)
            memcpy((char *)out + i, &real, sizeof real);
        break;
    default:
        memcpy(out, &bits, thrum_datatype_size(dtype));
    }
}

/* xorshift (Marsaglia, "Xorshift RNGs", 2003) */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void fill_sources(struct bench *b, thrum_datatype_t dtype)
{
    size_t size = thrum_datatype_size(dtype);
    uint32_t state = 2463534242u;

    for (size_t at = 0; at < b->options->bytes; at += size)
        make_element(dtype, next_random(&state), (char *)b->pattern + at);
    for (long s = 0; s < b->options->sources; s++)
        perf_check(thrum_copy_to_device(b->queue, b->srcs[s], b->pattern, b->options->bytes),
                   "copy to the device");
}

/* ---- one cell ---- */

static struct thrum_command make_command(const struct bench *b, thrum_datatype_t dtype, int column,
                                         struct thrum_operand *operands)
{
    static const uint64_t three[2] = {0x4008000000000000, 0x4008000000000000}; /* some scalar */
    const struct options *o = b->options;
    struct thrum_command command = {.opcode = THRUM_CMD_REDUCE,
                                    .flags = o->stream ? THRUM_CMD_FLAG_STREAM : 0,
                                    .dtype = (uint8_t)dtype,
                                    .redop = (uint8_t)column,
                                    .ndst = (uint16_t)o->destinations,
                                    .nsrc = (uint16_t)o->sources,
                                    .bytes = o->bytes,
                                    .operands = operands,
                                    .divisor = o->divisor};

    if (column == SCALE) {
        command.opcode = THRUM_CMD_SCALE;
        command.nsrc = 1;
        command.redop = 0;
        command.payload = three;
    }
    for (int d = 0; d < command.ndst; d++)
        operands[d] = (struct thrum_operand){.base = (uint64_t)(uintptr_t)b->dsts[d]};
    for (int s = 0; s < command.nsrc; s++)
        operands[command.ndst + s] =
            (struct thrum_operand){.base = (uint64_t)(uintptr_t)b->srcs[s]};
    return command;
}

/* Microseconds of one command, of n. */
static double time_commands(struct bench *b, const struct thrum_command *command, int n)
{
    double start = perf_now_us();

    for (int i = 0; i < n; i++)
        perf_check(thrum_queue_submit(b->queue, command, 1, NULL), "submit");
    perf_check(thrum_queue_synchronize(b->queue), "synchronize");
    return (perf_now_us() - start) / n;
}

/* How many commands to time together, and how often. */
static void plan_cell(struct bench *b, const struct thrum_command *command, struct cell *cell)
{
    enum { BATCH_US = 50 }; /* long against a look at the clock, short against a time slice */
    double once = time_commands(b, command, 2);
    double rounds;

    cell->commands = once > BATCH_US ? 1 : (int)(BATCH_US / once) + 1;
    rounds = b->options->budget_us / (once * (cell->commands + 1));
    cell->rounds = rounds < 5 ? 5 : rounds > MAX_ROUNDS ? MAX_ROUNDS : (int)rounds;
}

/* Round -1 plans. */
static void visit_cell(struct bench *b, thrum_datatype_t dtype, int column, struct cell *cell,
                       int round)
{
    struct thrum_operand operands[2 * MAX_OPERANDS];
    struct thrum_command command = make_command(b, dtype, column, operands);

    (void)time_commands(b, &command, 1); /* brings the operands near */
    if (round < 0)
        plan_cell(b, &command, cell);
    else
        cell->us[round] = time_commands(b, &command, cell->commands);
}

/* ---- all of them ---- */

static bool is_defined(const struct bench *b, thrum_datatype_t dtype, int column)
{
    bool complex = dtype == THRUM_COMPLEX64 || dtype == THRUM_COMPLEX128;
    bool real = dtype == THRUM_FLOAT8_E4M3 || dtype == THRUM_FLOAT8_E5M2 ||
                dtype == THRUM_FLOAT16 || dtype == THRUM_BFLOAT16 || dtype == THRUM_FLOAT32 ||
                dtype == THRUM_FLOAT64;

    if (!(b->properties.reduce_types >> dtype & 1))
        return false;
    if (column == SCALE)
        return b->properties.capabilities & THRUM_CAP_SCALE;
    if (!(b->properties.reduce_ops >> column & 1))
        return false;
    if (complex)
        return column == THRUM_SUM || column == THRUM_PROD || column == THRUM_AVG;
    return !real || (column != THRUM_BAND && column != THRUM_BOR && column != THRUM_BXOR);
}

/* Rounds over all types and operations, so that all of them meet the same machine. */
static void measure(struct bench *b, struct cell cells[][COLUMNS])
{
    int rounds = 0;

    for (int round = -1; round < rounds; round++) {
        for (int t = 0; t < THRUM_DATATYPE_COUNT; t++) {
            bool filled = false;
            for (int c = 0; c < COLUMNS; c++) {
                struct cell *cell = &cells[t][c];
                cell->defined = is_defined(b, (thrum_datatype_t)t, c);
                if (!cell->defined || (round >= 0 && round >= cell->rounds))
                    continue;
                if (!filled)
                    fill_sources(b, (thrum_datatype_t)t);
                filled = true;
                visit_cell(b, (thrum_datatype_t)t, c, cell, round);
                rounds = cell->rounds > rounds ? cell->rounds : rounds;
            }
        }
    }
    for (int t = 0; t < THRUM_DATATYPE_COUNT; t++)
        for (int c = 0; c < COLUMNS; c++)
            if (cells[t][c].defined)
                cells[t][c].stats = perf_statistics(cells[t][c].us, cells[t][c].rounds);
}

static const char *column_name(int column)
{
    return column == SCALE ? "scale" : thrum_redop_name((thrum_redop_t)column);
}

/* 10^9 bytes, read and written, a second. */
static double gbps(const struct options *o, int column, double us)
{
    long sources = column == SCALE ? 1 : o->sources;
    return (double)o->bytes * (double)(sources + o->destinations) / us / 1e3;
}

static void print_json(const struct bench *b, struct cell cells[][COLUMNS])
{
    const struct options *o = b->options;
    double base = gbps(o, THRUM_SUM, cells[THRUM_FLOAT32][THRUM_SUM].stats.median);

    for (int t = 0; t < THRUM_DATATYPE_COUNT; t++)
        for (int c = 0; c < COLUMNS; c++) {
            const struct perf_stats *us = &cells[t][c].stats;
            if (cells[t][c].defined)
                printf(
                    "{\"device\": \"%s\", \"type\": \"%s\", \"op\": \"%s\", \"size_bytes\": %llu, "
                    "\"sources\": %ld, \"destinations\": %ld, \"time_us_min\": %.3f, "
                    "\"time_us_median\": %.3f, \"bandwidth_gbps\": %.4g, \"relative\": %.4g}\n",
                    b->properties.name, thrum_datatype_name((thrum_datatype_t)t), column_name(c),
                    (unsigned long long)o->bytes, c == SCALE ? 1 : o->sources, o->destinations,
                    us->min, us->median, gbps(o, c, us->median), gbps(o, c, us->median) / base);
        }
}

static void print_table(const struct bench *b, struct cell cells[][COLUMNS])
{
    const struct options *o = b->options;
    double base = gbps(o, THRUM_SUM, cells[THRUM_FLOAT32][THRUM_SUM].stats.median);
    char size[24];

    printf("# %s, operands of %s bytes, %ld sources, %ld destinations, averages by %llu%s\n"
           "# float32 sum: %.1f GB/s (10^9 bytes, read and written); all others in %% of it\n"
           "#\n# %-12s",
           b->properties.name, perf_format_bytes(o->bytes, size), o->sources, o->destinations,
           (unsigned long long)o->divisor, o->stream ? ", past the cache" : "", base, "type");
    for (int c = 0; c < COLUMNS; c++)
        printf("%7s", column_name(c));
    printf("\n");
    for (int t = 0; t < THRUM_DATATYPE_COUNT; t++) {
        if (!(b->properties.reduce_types >> t & 1))
            continue;
        printf("  %-12s", thrum_datatype_name((thrum_datatype_t)t));
        for (int c = 0; c < COLUMNS; c++)
            if (cells[t][c].defined)
                printf("%7.0f", 100 * gbps(o, c, cells[t][c].stats.median) / base);
            else
                printf("%7s", "-");
        printf("\n");
    }
}

/* ---- the program ---- */

static void open_bench(struct bench *b)
{
    const struct options *o = b->options;
    unsigned flags = o->direct ? THRUM_QUEUE_DIRECT : THRUM_QUEUE_DEFAULT;

    perf_check(thrum_device_open((int)o->device, &b->device), "open a device");
    b->properties.size = sizeof b->properties;
    perf_check(thrum_device_get_properties(b->device, &b->properties), "device properties");
    if (!(b->properties.reduce_types >> THRUM_FLOAT32 & 1) ||
        o->sources > b->properties.max_reduce_sources)
        perf_die(PERF_EXIT_FAILED, "%s does not reduce %ld sources of float32", b->properties.name,
                 o->sources);
    perf_check(thrum_queue_create(b->device, flags, &b->queue), "create a queue");
    for (long i = 0; i < o->sources; i++)
        perf_check(thrum_mem_alloc(b->device, o->bytes, &b->srcs[i]), "allocate device memory");
    for (long i = 0; i < o->destinations; i++)
        perf_check(thrum_mem_alloc(b->device, o->bytes, &b->dsts[i]), "allocate device memory");
    b->pattern = perf_malloc(o->bytes);
}

static void usage(FILE *file)
{
    fputs("Usage: thrum-bench-kernels [OPTION]...\n"
          "Measures how fast a device reduces and scales, for each type and operation, against "
          "its sum of float32.\n"
          "\n"
          "  -b, --bytes SIZE         of each operand; suffixes K, M, G (default 64K)\n"
          "  -n, --sources N          of a reduction (default 2)\n"
          "  -m, --destinations N     of each command (default 1)\n"
          "  -a, --average N          avg divides by N (default: the number of sources)\n"
          "  -t, --time MS            time to spend on each type and operation (default 10)\n"
          "  -d, --device INDEX       (default: the first that is free)\n"
          "  -q, --queue KIND         kernel (mediated; default) or direct\n"
          "  -s, --stream             results may bypass the cache\n"
          "  -j, --json               one JSON object a line\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "THRUM_SIM_KERNELS chooses the instructions of a sim device.\n"
          "Exit status: 0 all right, 2 bad usage, 3 an operation failed.\n",
          file);
}

static void bad_option(const char *name, const char *value, const char *allowed)
{
    perf_die(PERF_EXIT_USAGE, "--%s %s: must be %s", name, value, allowed);
}

static void parse_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"bytes", 1, 0, 'b'},   {"sources", 1, 0, 'n'}, {"destinations", 1, 0, 'm'},
        {"average", 1, 0, 'a'}, {"time", 1, 0, 't'},    {"device", 1, 0, 'd'},
        {"queue", 1, 0, 'q'},   {"stream", 0, 0, 's'},  {"json", 0, 0, 'j'},
        {"help", 0, 0, 'h'},    {"version", 0, 0, 'V'}, {0, 0, 0, 0}};
    long number;
    int c;

    while ((c = getopt_long(argc, argv, "b:n:m:a:t:d:q:sjhV", names, NULL)) != -1) {
        switch (c) {
        case 'b':
            if (!perf_parse_bytes(optarg, &o->bytes) || !o->bytes || o->bytes % 16)
                bad_option("bytes", optarg, "a multiple of 16 above 0, such as 64K or 1.5M");
            break;
        case 'n':
        case 'm':
            if (!perf_parse_int(optarg, 1, MAX_OPERANDS, c == 'n' ? &o->sources : &o->destinations))
                bad_option(c == 'n' ? "sources" : "destinations", optarg, "between 1 and 16");
            break;
        case 'a':
            if (!perf_parse_int(optarg, 1, 1000000000, &number))
                bad_option("average", optarg, "between 1 and 1000000000");
            o->divisor = (uint64_t)number;
            break;
        case 't':
            if (!perf_parse_int(optarg, 1, 1000000, &number))
                bad_option("time", optarg, "milliseconds from 1 to 1000000");
            o->budget_us = (double)number * 1e3;
            break;
        case 'd':
            if (!perf_parse_int(optarg, 0, 1000000, &o->device))
                bad_option("device", optarg, "the index of a device");
            break;
        case 'q':
            if (strcmp(optarg, "kernel") && strcmp(optarg, "direct"))
                bad_option("queue", optarg, "kernel or direct");
            o->direct = *optarg == 'd';
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
            printf("thrum-bench-kernels %s\n", thrum_version());
            exit(PERF_EXIT_OK);
        default:
            exit(PERF_EXIT_USAGE);
        }
    }
    if (optind < argc)
        perf_die(PERF_EXIT_USAGE, "\"%s\" is not an option; --help shows them", argv[optind]);
    if (!o->divisor)
        o->divisor = (uint64_t)o->sources;
}

int main(int argc, char **argv)
{
    static struct cell cells[THRUM_DATATYPE_COUNT][COLUMNS];
    struct options o = {.bytes = 65536,
                        .budget_us = 10e3,
                        .sources = 2,
                        .destinations = 1,
                        .device = THRUM_DEVICE_ANY};
    struct bench b = {.options = &o};

    perf_program = "thrum-bench-kernels";
    parse_options(argc, argv, &o);
    open_bench(&b);
    measure(&b, cells);
    if (o.json)
        print_json(&b, cells);
    else
        print_table(&b, cells);
    free(b.pattern);
    thrum_queue_destroy(b.queue);
    thrum_device_close(b.device);
    return PERF_EXIT_OK;
}
