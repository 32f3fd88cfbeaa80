/*
 * thrum-sim: what a collective takes on a machine that one does not have. Makes the plans of all ranks, plays them op by op
 * (plan/simulate.h) on the figures that algorithms are chosen by, and compares all algorithms; or shows one as a timeline.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"
#include "call.h"
#include "exec/exec.h"
#include "select/select.h"
#include "sim.h"

enum { EXIT_WRONG = 1, EXIT_USAGE = 2, MOST_ROWS = 32 };

struct options {
    struct call call;
    struct select_policy policy;
    uint64_t min, max, limit;
    double factor, figures[FIGURE_COUNT]; /* figures: 0: not said */
    bool sweep, json;
    const char *output;
    int show;
    int *host; /* of each rank; owned */
};

/* An algorithm at one size. */
struct row {
    const struct algo *algo;
    const char *refusal; /* NULL: it was simulated */
    bool chosen;
    double predicted_us;
    struct simulate_result result;
};

static const char usage[] =
    "Usage: thrum-sim --collective C [--ranks N] [--hosts N] [option...]\n"
    "Simulates a collective op by op, on the figures of this machine and on links that you name:\n"
    "every algorithm that can serve, the fastest first.\n"
    "\n"
    "  -c, --collective C   allreduce, broadcast, allgather, reduce_scatter, barrier, sendrecv,\n"
    "                       reduce, gather, scatter, alltoall, scan, exscan\n"
    "  -a, --algorithm A    only this one\n"
    "  -n, --ranks N        ranks of the communicator (4)\n"
    "  -b, --min SIZE       instead of --count: a sweep of sizes from here, in bytes of a rank's\n"
    "                       larger buffer (8)\n"
    "  -e, --max SIZE       up to here (16M)\n"
    "  -f, --factor X       each size is X times the one before (8)\n" CALL_USAGE
    "      --port-gbps X    gigabytes per second that a host sends, and receives\n"
    "      --net-gbps X     that one rank sends to other hosts\n"
    "      --net-us X       microseconds of an exchange between hosts\n"
    "      --figure NAME=X  any figure of thrum-info --tuning; may be repeated\n"
    "  -o, --output FILE    with --algorithm, of one size: a timeline for ui.perfetto.dev\n"
    "      --show N         ranks in it, and the slowest (32)\n"
    "      --limit OPS      give up beyond so many; K, M, G allowed (16M: about a gigabyte)\n"
    "  -j, --json           as JSON\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "Exit status: 0 simulated; 1 it cannot be, or cannot be written; 2 usage.\n";

/* ---- options ----------------------------------------------------------------------------------------------------- */

enum { OPT_PORT_GBPS = CALL_END, OPT_NET_GBPS, OPT_NET_US, OPT_FIGURE, OPT_SHOW, OPT_LIMIT };

static const struct option long_options[] = {
    CALL_OPTIONS,
    {"min", required_argument, NULL, 'b'},
    {"max", required_argument, NULL, 'e'},
    {"factor", required_argument, NULL, 'f'},
    {"port-gbps", required_argument, NULL, OPT_PORT_GBPS},
    {"net-gbps", required_argument, NULL, OPT_NET_GBPS},
    {"net-us", required_argument, NULL, OPT_NET_US},
    {"figure", required_argument, NULL, OPT_FIGURE},
    {"output", required_argument, NULL, 'o'},
    {"show", required_argument, NULL, OPT_SHOW},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static bool parse_number(const char *text, double least, double most, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end != text && !*end && *out >= least && *out <= most;
}

static bool take_figure(struct options *o, enum select_figure figure, const char *value)
{
    const struct select_figure_row *row = &select_figure_rows[figure];

    return parse_number(value, row->least, row->most, &o->figures[figure]);
}

/* "net_us=5" */
static bool take_named_figure(struct options *o, const char *text)
{
    const char *value = strchr(text, '=');

    for (int i = 0; value && i < FIGURE_COUNT; i++)
        if (strlen(select_figure_rows[i].name) == (size_t)(value - text) &&
            !strncmp(select_figure_rows[i].name, text, (size_t)(value - text)))
            return take_figure(o, (enum select_figure)i, value + 1);
    return false;
}

static bool take(struct options *o, int option, const char *value)
{
    switch (option) {
    case 'b':
        o->sweep = true;
        return call_parse_u64(value, 1, UINT64_MAX, &o->min);
    case 'e':
        o->sweep = true;
        return call_parse_u64(value, 1, UINT64_MAX, &o->max);
    case 'f':
        return parse_number(value, 1.01, 1e9, &o->factor);
    case OPT_PORT_GBPS:
        return take_figure(o, FIGURE_port_gbps, value);
    case OPT_NET_GBPS:
        return take_figure(o, FIGURE_net_gbps, value);
    case OPT_NET_US:
        return take_figure(o, FIGURE_net_us, value);
    case OPT_FIGURE:
        return take_named_figure(o, value);
    case 'o':
        o->output = value;
        return true;
    case OPT_SHOW:
        return call_parse_int(value, 0, 1 << 20, &o->show);
    case OPT_LIMIT:
        return call_parse_u64(value, 1, UINT32_MAX, &o->limit);
    case 'j':
        o->json = true;
        return true;
    default:
        return call_take(&o->call, option, value);
    }
}

static int check_options(struct options *o)
{
    int status = call_check(&o->call);
    const char *reason = call_refuse(&o->call.params);

    if (status >= 0)
        return status;
    if (!o->call.collective)
        return call_complain("which --collective?", "");
    if (reason)
        return call_complain(reason, o->call.collective);
    if (o->sweep && (o->call.counts || o->call.count_named))
        return call_complain("--min and --max, or --count, or --counts", o->call.collective);
    if (o->min > o->max)
        o->max = o->min;
    if (o->output && (!o->call.algorithm || (o->sweep && o->min < o->max)))
        return call_complain("--output needs an --algorithm and one size", o->output);
    return -1;
}

/* -1: go on; else the exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
    int option, index = -1;

    while ((option = getopt_long(argc, argv, "c:a:n:b:e:f:o:jhV", long_options, &index)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == 'V') {
            printf("thrum-sim %s\n", thrum_version());
            return 0;
        }
        if (option == '?')
            return EXIT_USAGE;
        if (!take(o, option, optarg))
            return call_complain_option(option, index < 0 ? "" : long_options[index].name, optarg);
    }
    if (optind < argc)
        return call_complain("unexpected argument", argv[optind]);
    return check_options(o);
}

static int fail(void)
{
    fflush(stdout);
    fprintf(stderr, "thrum-sim: %s\n", thrum_last_error());
    return EXIT_WRONG;
}

/* Figures, hosts and what follows from them. */
static thrum_status_t prepare(struct options *o)
{
    struct plan_params *params = &o->call.params;
    double link = 0;
    thrum_status_t status = select_policy_load(NULL, &o->policy);

    if (!status)
        status = call_lay_out(&o->call, &link);
    if (status)
        return status;
    select_use_link(&o->policy, link);
    select_use_adapters(&o->policy, true); /* as it plays it */
    for (int i = 0; i < FIGURE_COUNT; i++)
        if (o->figures[i] > 0)
            *select_figure_at(&o->policy.figures, i) = o->figures[i];
    o->host = calloc((size_t)params->nranks, sizeof *o->host);
    if (!o->host)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for %d ranks", params->nranks);
    for (int r = 0; o->call.layout && r < params->nranks; r++)
        o->host[r] = o->call.layout->host[r];
    params->ranks_per_core = 1;
    params->line_bytes =
        COMM_LINE_UNITS_MAX * comm_used_unit_bytes(params->peer_access, 1, params->nranks);
    return THRUM_OK;
}

/* ---- one algorithm at one size ----------------------------------------------------------------------------------- */

/* The ops of all ranks, which are told to the simulation as they are made. */
static thrum_status_t add_ranks(const struct algo *algo, const struct plan_params *params,
                                struct simulation *simulation)
{
    thrum_status_t status = THRUM_OK;

    for (int r = 0; r < params->nranks && !status; r++) {
        struct plan_params own = *params;
        struct plan_p2p p2p[2];
        struct plan plan;

        own.rank = r;
        if (own.collective == COLL_SENDRECV)
            call_shift(&own, p2p);
        plan_init(&plan, &own);
        plan.algorithm = algo->name;
        plan.sink = simulate_take;
        plan.sink_argument = simulation;
        algo->build(&plan);
        status = plan.status;
        plan_fini(&plan);
    }
    return status;
}

static thrum_status_t write_timeline(const struct options *o, const struct algo *algo,
                                     struct simulation *simulation,
                                     const struct simulate_result *result)
{
    struct simulate_result again;
    struct timeline timeline;
    char title[128];
    FILE *file = fopen(o->output, "we");
    thrum_status_t status;
    bool failed;

    if (!file)
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "%s cannot be made", o->output);
    snprintf(title, sizeof title, "%s %s, %d ranks", collective_name(algo->collective), algo->name,
             o->call.params.nranks);
    if (timeline_begin(&timeline, file, title, o->call.params.nranks, o->host, o->show,
                       result->slowest)) {
        status = simulate_run(simulation, timeline_slice, &timeline, &again);
        timeline_end(&timeline);
    } else {
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a timeline");
    }
    failed = ferror(file);
    if ((fclose(file) || failed) && !status)
        status = thrum_fail_errno(THRUM_ERR_SYSTEM, "%s cannot be written", o->output);
    return status;
}

static thrum_status_t simulate(const struct options *o, const struct plan_params *params,
                               struct row *row)
{
    struct simulate_machine machine = select_machine(&o->policy.figures, params);
    struct simulation *simulation = NULL;
    thrum_status_t status =
        simulate_create(&machine, params->nranks, o->host, o->limit, &simulation);

    if (!status)
        status = add_ranks(row->algo, params, simulation);
    if (!status)
        status = simulate_run(simulation, NULL, NULL, &row->result);
    if (!status && o->output)
        status = write_timeline(o, row->algo, simulation, &row->result);
    simulate_destroy(simulation);
    return status;
}

/* ---- what is printed --------------------------------------------------------------------------------------------- */

static bool has_blocks(enum collective collective)
{
    return collective == COLL_ALLGATHER || collective == COLL_REDUCE_SCATTER ||
           collective == COLL_ALLTOALL || collective == COLL_GATHER || collective == COLL_SCATTER;
}

/* GB/s, by the definition of thrum-perf. */
static double bus_bandwidth(const struct plan_params *params, uint64_t bytes, double us)
{
    double n = params->nranks, others = (n - 1) / n;
    double factor = params->collective == COLL_ALLREDUCE ? 2 * others
                    : has_blocks(params->collective)     ? others
                                                         : 1;

    return us > 0 ? factor * (double)bytes / us / 1000 : 0;
}

static const char *bytes_text(uint64_t bytes, char text[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;

    for (; unit < 4 && value >= 1024; unit++)
        value /= 1024;
    snprintf(text, 24, "%.4g %s", value, units[unit]);
    return text;
}

static void print_question(const struct options *o)
{
    const struct plan_params *p = &o->call.params;
    const struct select_figures *f = &o->policy.figures;
    int hosts = o->call.layout ? o->call.layout->nhosts : 1;

    printf("%s, %d ranks on %d host%s, %s%s%s, %s\n", collective_name(p->collective), p->nranks,
           hosts, hosts == 1 ? "" : "s", thrum_datatype_name(p->dtype),
           plan_reduces(p->collective) ? " " : "",
           plan_reduces(p->collective) ? thrum_redop_name(p->redop) : "",
           p->in_place ? "in place" : "out of place");
    printf("Figures: %s", *o->policy.source ? o->policy.source : "built in");
    if (hosts > 1)
        printf("; between hosts: %g us, a rank %g GB/s, a port %g GB/s", f->net_us, f->net_gbps,
               f->port_gbps);
    printf("\n");
}

static void print_path(const struct simulate_result *result)
{
    struct simulate_path path = result->path;
    const char *between = "critical path:";

    for (;;) {
        int largest = 0;
        double share;

        for (int i = 1; i < SIMULATE_PARTS; i++)
            largest = path.part_us[i] > path.part_us[largest] ? i : largest;
        share = 100 * path.part_us[largest] / path.us;
        if (!(share >= 0.5))
            break;
        printf("%s %.0f %% %s", between, share, simulate_part_text((enum simulate_part)largest));
        path.part_us[largest] = 0;
        between = ",";
    }
    printf("; it ends on rank %d\n", result->slowest);
}

static void print_row(const struct options *o, const struct plan_params *params,
                      const struct row *row, uint64_t bytes)
{
    const struct simulate_result *result = &row->result;
    char port[24] = "-", steps[32];

    printf("%s %-19s ", row->chosen ? "->" : "  ", row->algo->name);
    if (row->refusal) {
        printf("%12s  %s\n", "-", row->refusal);
        return;
    }
    if (o->call.layout && o->call.layout->nhosts > 1)
        bytes_text(result->port_bytes, port);
    snprintf(steps, sizeof steps, "%" PRIu32 " + %" PRIu32, result->path.steps,
             result->path.net_steps);
    printf("%12.2f us %12.2f us %8.3f %12s %12s\n", result->path.us, row->predicted_us,
           bus_bandwidth(params, bytes, result->path.us), port, steps);
}

static void print_rows(const struct options *o, const struct plan_params *params,
                       const struct row *rows, size_t n)
{
    uint64_t bytes = select_call_bytes(params);
    char text[24];

    printf("\n%s (count %" PRIu64 ")\n", bytes_text(bytes, text), params->count);
    printf("   %-19s %15s %15s %8s %12s %12s\n", "ALGORITHM", "SIMULATED", "MODEL", "BUSBW",
           "BUSIEST PORT", "EXCHANGES");
    for (size_t i = 0; i < n; i++)
        print_row(o, params, &rows[i], bytes);
    if (n && !rows[0].refusal) {
        printf("   %s, ", rows[0].algo->name);
        print_path(&rows[0].result);
    }
}

static json_t *row_json(const struct plan_params *params, const struct row *row)
{
    const struct simulate_result *result = &row->result;
    uint64_t bytes = select_call_bytes(params);
    json_t *path = json_object(), *json;

    json = json_pack("{s:s, s:I, s:I, s:b, s:f}", "algorithm", row->algo->name, "size_bytes",
                     (json_int_t)bytes, "count", (json_int_t)params->count, "chosen", row->chosen,
                     "predicted_us", row->predicted_us);
    if (row->refusal) {
        json_decref(path);
        json_object_set_new(json, "refusal", json_string(row->refusal));
        return json;
    }
    for (int i = 0; i < SIMULATE_PARTS; i++)
        json_object_set_new(path, simulate_part_key((enum simulate_part)i),
                            json_real(result->path.part_us[i]));
    json_object_set_new(json, "simulated_us", json_real(result->path.us));
    json_object_set_new(json, "busbw_gbps",
                        json_real(bus_bandwidth(params, bytes, result->path.us)));
    json_object_set_new(json, "port_bytes", json_integer((json_int_t)result->port_bytes));
    json_object_set_new(json, "exchanges", json_integer(result->path.steps));
    json_object_set_new(json, "net_exchanges", json_integer(result->path.net_steps));
    json_object_set_new(json, "slowest_rank", json_integer(result->slowest));
    json_object_set_new(json, "ops", json_integer((json_int_t)result->ops));
    json_object_set_new(json, "critical_path_us", path);
    return json;
}

static int print_json(const struct options *o, json_t *rows)
{
    const struct plan_params *p = &o->call.params;
    struct select_figures figures = o->policy.figures;
    json_t *values = json_object(), *json;
    bool failed;

    for (int i = 0; i < FIGURE_COUNT; i++)
        json_object_set_new(values, select_figure_rows[i].name,
                            json_real(*select_figure_at(&figures, i)));
    json = json_pack("{s:s, s:i, s:i, s:s, s:s, s:b, s:o, s:O}", "collective",
                     collective_name(p->collective), "ranks", p->nranks, "hosts",
                     o->call.layout ? o->call.layout->nhosts : 1, "dtype",
                     thrum_datatype_name(p->dtype), "op", thrum_redop_name(p->redop), "in_place",
                     p->in_place, "figures", values, "rows", rows);
    failed = !json || json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) ||
             printf("\n") < 0;
    json_decref(json);
    if (failed)
        fprintf(stderr, "thrum-sim: the JSON cannot be written\n");
    return failed ? EXIT_WRONG : 0;
}

/* ---- sizes and algorithms ---------------------------------------------------------------------------------------- */

/* The fastest first; of those that were refused, and of equals, as they are in the table. */
static int by_time(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    if (!x->refusal != !y->refusal)
        return x->refusal ? 1 : -1;
    if (x->result.path.us != y->result.path.us)
        return x->result.path.us < y->result.path.us ? -1 : 1;
    return x->algo < y->algo ? -1 : x->algo > y->algo;
}

/* Every algorithm that can serve, or the one that was named. */
static thrum_status_t simulate_all(const struct options *o, const struct plan_params *params,
                                   struct row *rows, size_t *n_out)
{
    const struct algo *chosen = NULL;
    thrum_status_t status = select_algorithm(&o->policy, params, &chosen);
    size_t n = 0;

    for (size_t i = 0; i < thrum_algo_count && n < MOST_ROWS && !status; i++) {
        const struct algo *algo = &thrum_algos[i];
        bool named = o->call.algorithm && !strcmp(o->call.algorithm, algo->name);
        struct row *row = &rows[n];

        if (algo->collective != params->collective || (o->call.algorithm && !named))
            continue;
        *row = (struct row){.algo = algo, .chosen = algo == chosen};
        row->refusal = algo_refusal(algo, params);
        if (row->refusal && named)
            return thrum_fail(THRUM_ERR_UNSUPPORTED, "%s %s: %s", collective_name(algo->collective),
                              algo->name, row->refusal);
        if (row->refusal)
            continue;
        row->predicted_us = select_predict_us(&o->policy.figures, algo, params);
        status = simulate(o, params, row);
        if (status == THRUM_ERR_UNSUPPORTED && !named) {
            row->refusal = "more ops than --limit";
            status = THRUM_OK;
        }
        n++;
    }
    qsort(rows, n, sizeof *rows, by_time);
    *n_out = n;
    return status;
}

static thrum_status_t one_size(const struct options *o, struct plan_params params, json_t *list)
{
    struct row rows[MOST_ROWS];
    struct plan_p2p p2p[2];
    size_t n = 0;
    thrum_status_t status;

    if (params.collective == COLL_BARRIER)
        params.count = 0;
    if (params.collective == COLL_SENDRECV)
        call_shift(&params, p2p);
    status = simulate_all(o, &params, rows, &n);
    if (status)
        return status;
    if (!o->json)
        print_rows(o, &params, rows, n);
    for (size_t i = 0; i < n && o->json; i++)
        json_array_append_new(list, row_json(&params, &rows[i]));
    return THRUM_OK;
}

static int run(const struct options *o)
{
    struct plan_params params = o->call.params;
    uint64_t unit = thrum_datatype_size(params.dtype), before = 0;
    json_t *list = json_array();
    thrum_status_t status = THRUM_OK;
    int exit_status = 0;

    if (has_blocks(params.collective))
        unit *= (uint64_t)params.nranks;
    if (!o->json)
        print_question(o);
    if (!o->sweep || params.collective == COLL_BARRIER)
        status = one_size(o, params, list);
    else
        for (double bytes = (double)o->min; bytes <= (double)o->max && !status;
             bytes *= o->factor) {
            params.count = max_u64((uint64_t)bytes / unit, 1);
            if (params.count != before)
                status = one_size(o, params, list);
            before = params.count;
        }
    if (status)
        exit_status = fail();
    else if (o->json)
        exit_status = print_json(o, list);
    json_decref(list);
    return exit_status;
}

int main(int argc, char **argv)
{
    struct options o = {.min = 8, .max = 16 << 20, .factor = 8, .limit = 16 << 20, .show = 32};
    int status;

    call_init(&o.call);
    if (thrum_config_load() != THRUM_OK)
        return fail();
    status = parse_options(argc, argv, &o);
    if (status < 0)
        status = prepare(&o) ? fail() : run(&o);
    call_fini(&o.call);
    free(o.host);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "thrum-sim: cannot write: %s\n", strerror(errno));
        return EXIT_WRONG;
    }
    return status;
}
