/*
 * thrum-plan: prints what one rank does for a collective, or proves that all ranks together do it right. Needs no device
 * and no other ranks: a builder makes the plan of any rank alone, and plan_check runs all of them symbolically.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "algo/prove.h"
#include "base/base.h"
#include "base/config.h"
#include "call.h"

enum { EXIT_WRONG = 1, EXIT_USAGE = 2 };
enum mode { MODE_PRINT, MODE_LIST, MODE_CHECK };

struct options {
    enum mode mode;
    struct call call;
    enum plan_format format;
    enum algo_fault fault;
    bool quick;
};

static const char usage[] =
    "Usage: thrum-plan --collective C --algorithm A [--ranks N] [--rank R] [option...]\n"
    "       thrum-plan --check [--collective C] [--algorithm A] [--ranks N] [--plant FAULT]\n"
    "       thrum-plan --list\n"
    "Prints the plan of one rank for a collective, or proves the plans of all ranks.\n"
    "\n"
    "  -c, --collective C   allreduce, broadcast, allgather, reduce_scatter, barrier, sendrecv,\n"
    "                       reduce, gather, scatter, alltoall, scan, exscan\n"
    "  -a, --algorithm A    one of --list\n"
    "  -n, --ranks N        ranks of the communicator (4); with --check: only this size\n"
    "  -r, --rank R         whose plan (0)\n" CALL_USAGE
    "      --format F       text, json or dot (text)\n"
    "      --list           the algorithms\n"
    "      --check          prove: no deadlock, no race, right result, safe twice in a row\n"
    "      --quick          with --check: fewer sizes\n"
    "      --plant FAULT    with --check: damage the plans first, to see it found: missing-wait,\n"
    "                       swapped-chunk, doubled-contribution, early-scratch-reuse,\n"
    "                       double-rounding\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "Exit status: 0 printed or proved; 1 a plan is wrong or cannot be made or written; 2 usage.\n";

/* ---- options ----------------------------------------------------------------------------------------------------- */

static bool parse_format(const char *text, enum plan_format *out)
{
    static const char *const names[] = {
        [PLAN_TEXT] = "text", [PLAN_JSON] = "json", [PLAN_DOT] = "dot"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum plan_format)i;
            return true;
        }
    return false;
}

static bool parse_fault(const char *text, enum algo_fault *out)
{
    int fault = algo_fault_by_name(text);
    if (fault < 0)
        return false;
    *out = (enum algo_fault)fault;
    return true;
}

enum { OPT_FORMAT = CALL_END, OPT_LIST, OPT_CHECK, OPT_QUICK, OPT_PLANT };

static const struct option long_options[] = {
    CALL_OPTIONS,
    {"rank", required_argument, NULL, 'r'},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"list", no_argument, NULL, OPT_LIST},
    {"check", no_argument, NULL, OPT_CHECK},
    {"quick", no_argument, NULL, OPT_QUICK},
    {"plant", required_argument, NULL, OPT_PLANT},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* Takes one option; false if its value is no good. */
static bool take(struct options *options, int option, const char *value)
{
    switch (option) {
    case 'r':
        return call_parse_int(value, 0, (1 << 20) - 1, &options->call.params.rank);
    case OPT_FORMAT:
        return parse_format(value, &options->format);
    case OPT_LIST:
        options->mode = MODE_LIST;
        return true;
    case OPT_CHECK:
        options->mode = MODE_CHECK;
        return true;
    case OPT_QUICK:
        options->quick = true;
        return true;
    case OPT_PLANT:
        options->mode = MODE_CHECK;
        return parse_fault(value, &options->fault);
    default:
        return call_take(&options->call, option, value);
    }
}

/* -1: go on; else the exit status. */
static int parse_options(int argc, char **argv, struct options *options)
{
    int option, index = -1;
    while ((option = getopt_long(argc, argv, "c:a:n:r:hV", long_options, &index)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == 'V') {
            printf("thrum-plan %d.%d.%d\n", THRUM_VERSION_MAJOR, THRUM_VERSION_MINOR,
                   THRUM_VERSION_PATCH);
            return 0;
        }
        if (option == '?')
            return EXIT_USAGE;
        if (!take(options, option, optarg))
            return call_complain_option(option, index < 0 ? "" : long_options[index].name, optarg);
    }
    if (optind < argc)
        return call_complain("unexpected argument", argv[optind]);
    return call_check(&options->call);
}

/* ---- list and check ---------------------------------------------------------------------------------------------- */

static int list(const struct options *options)
{
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        if (options->call.collective && algo->collective != options->call.params.collective)
            continue;
        printf("%-15s %-18s %s%s%s%s\n", collective_name(algo->collective), algo->name, algo->help,
               algo->flags & ALGO_NEEDS_PEER_ACCESS ? "; needs peer access" : "",
               algo->flags & ALGO_INLINE_ONLY ? "; in lines" : "",
               algo->flags & ALGO_ORDERED ? "; folds in rank order" : "");
    }
    return 0;
}

static bool named(const struct options *options, const struct algo *algo)
{
    return (!options->call.collective || algo->collective == options->call.params.collective) &&
           (!options->call.algorithm || strcmp(algo->name, options->call.algorithm) == 0);
}

static int check(const struct options *options)
{
    struct algo_sweep sweep = {
        .nranks = options->call.ranks_named ? options->call.params.nranks : 0,
        .quick = options->quick,
        .fault = options->fault,
    };
    int exit_status = 0;
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        struct algo_proof proof;
        if (!named(options, algo))
            continue;
        int64_t start = now_ns();
        thrum_status_t status = algo_prove(algo, &sweep, stdout, &proof);
        double seconds = (double)(now_ns() - start) * 1e-9;
        const char *verdict = status != THRUM_OK                  ? "WRONG"
                              : proof.cases == 0                  ? "not applicable"
                              : options->fault != ALGO_FAULT_NONE ? "NOT FOUND"
                                                                  : "proved";
        if (status != THRUM_OK && status != THRUM_ERR_PLAN)
            fprintf(stderr, "thrum-plan: %s\n", thrum_status_string(status));
        printf("%-15s %-18s %-14s %6llu cases %9llu ops %7.2f s\n",
               collective_name(algo->collective), algo->name, verdict,
               (unsigned long long)proof.cases, (unsigned long long)proof.ops, seconds);
        fflush(stdout);
        if (status != THRUM_OK)
            exit_status = EXIT_WRONG;
    }
    return exit_status;
}

/* ---- print ------------------------------------------------------------------------------------------------------- */

static thrum_status_t print_plan(const struct algo *algo, const struct options *options)
{
    struct plan plan;
    struct plan_dump dump;
    plan_init(&plan, &options->call.params);
    plan.algorithm = algo->name;
    plan_dump_begin(&plan, &dump, stdout, options->format);
    algo->build(&plan);
    plan_dump_end(&plan, &dump);
    thrum_status_t status = plan.status;
    plan_fini(&plan);
    return status;
}

static int print(struct options *options)
{
    struct plan_params *params = &options->call.params;
    struct plan_p2p p2p[2];
    if (!options->call.algorithm) {
        fputs("thrum-plan: --collective and --algorithm, --check or --list? (see --help)\n",
              stderr);
        return EXIT_USAGE;
    }
    const struct algo *algo = algo_find(params->collective, options->call.algorithm);
    const char *reason = call_refuse(params);
    if (!reason && params->rank >= params->nranks)
        reason = "--rank is not below --ranks";
    if (reason) {
        fprintf(stderr, "thrum-plan: %s (see --help)\n", reason);
        return EXIT_USAGE;
    }
    if (call_lay_out(&options->call, NULL)) {
        fprintf(stderr, "thrum-plan: %s\n", thrum_last_error());
        return EXIT_WRONG;
    }
    if (params->collective == COLL_SENDRECV)
        call_shift(params, p2p);
    reason = algo_refusal(algo, params);
    if (reason) {
        fprintf(stderr, "thrum-plan: %s %s: %s\n", options->call.collective, algo->name, reason);
        return EXIT_WRONG;
    }
    thrum_status_t status = print_plan(algo, options);
    if (status != THRUM_OK) {
        fprintf(stderr, "thrum-plan: %s\n", thrum_last_error());
        return EXIT_WRONG;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {.mode = MODE_PRINT};
    int status;
    call_init(&options.call);
    if (thrum_config_load() != THRUM_OK) {
        fprintf(stderr, "thrum-plan: %s\n", thrum_last_error());
        return EXIT_WRONG;
    }
    status = parse_options(argc, argv, &options);
    if (status < 0)
        status = options.mode == MODE_LIST    ? list(&options)
                 : options.mode == MODE_CHECK ? check(&options)
                                              : print(&options);
    call_fini(&options.call);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "thrum-plan: cannot write: %s\n", strerror(errno));
        return EXIT_WRONG;
    }
    return status;
}
