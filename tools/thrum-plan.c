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
#include "topo/topo.h"

enum { EXIT_WRONG = 1, EXIT_USAGE = 2 };
enum mode { MODE_PRINT, MODE_LIST, MODE_CHECK };

struct options {
    enum mode mode;
    struct plan_params params;
    const char *collective, *algorithm; /* NULL: not named */
    enum plan_format format;
    enum algo_fault fault;
    bool quick, ranks_named;
    uint64_t *counts; /* of --counts, owned; NULL: none */
    int ncounts;
    int hosts; /* of --hosts; 0: not said */
    struct plan_layout *layout; /* owned; NULL: one host */
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
    "  -r, --rank R         whose plan (0)\n"
    "      --count N        elements, as in the call; K, M, G allowed (1M)\n"
    "      --counts A,B,..  of allgather, reduce_scatter: elements of each rank's block, instead "
    "of\n"
    "                       --count and --ranks\n"
    "      --dtype T        float32, bfloat16, int8, ... (float32)\n"
    "      --op O           sum, prod, max, min, avg, band, ... (sum)\n"
    "      --root R         of broadcast, reduce, gather, scatter (0)\n"
    "      --ordered        fold in rank order: refuse the algorithms that do not\n"
    "      --in-place       send and receive buffer are one\n"
    "      --no-peer-access only puts reach other ranks' memory\n"
    "      --hosts N        hosts, with as many ranks on each, in order; without it those of\n"
    "                       THRUM_TOPOLOGY_FILE, else one\n"
    "      --lanes N        lanes that the plan may use, 1 to 4 (1)\n"
    "      --scratch BYTES  scratch of each rank; K, M, G allowed (4M)\n"
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

static int complain(const char *what, const char *value)
{
    fprintf(stderr, "thrum-plan: %s: '%s' (see --help)\n", what, value);
    return EXIT_USAGE;
}

/* A number with an optional binary suffix. */
static bool parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    int shift = 0;
    if (*end == 'K' || *end == 'k')
        shift = 10;
    else if (*end == 'M' || *end == 'm')
        shift = 20;
    else if (*end == 'G' || *end == 'g')
        shift = 30;
    if (shift > 0)
        end++;
    if (end == text || *end || errno || *text == '-' || value > UINT64_MAX >> shift)
        return false;
    value <<= shift;
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

static bool parse_int(const char *text, int min, int max, int *out)
{
    uint64_t value;
    if (!parse_u64(text, (uint64_t)min, (uint64_t)max, &value))
        return false;
    *out = (int)value;
    return true;
}

static bool parse_dtype(const char *text, thrum_datatype_t *out)
{
    for (int i = 0; i < THRUM_DATATYPE_COUNT; i++)
        if (strcmp(text, thrum_datatype_name((thrum_datatype_t)i)) == 0) {
            *out = (thrum_datatype_t)i;
            return true;
        }
    return false;
}

static bool parse_redop(const char *text, thrum_redop_t *out)
{
    for (int i = 0; i < THRUM_REDOP_COUNT; i++)
        if (strcmp(text, thrum_redop_name((thrum_redop_t)i)) == 0) {
            *out = (thrum_redop_t)i;
            return true;
        }
    return false;
}

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

static bool parse_collective(const char *text, struct options *options)
{
    int collective = collective_by_name(text);
    if (collective < 0)
        return false;
    options->params.collective = (enum collective)collective;
    options->collective = text;
    return true;
}

static bool parse_fault(const char *text, enum algo_fault *out)
{
    int fault = algo_fault_by_name(text);
    if (fault < 0)
        return false;
    *out = (enum algo_fault)fault;
    return true;
}

/* "3,0,2" */
static bool parse_counts(const char *text, struct options *options)
{
    char *copy = strdup(text), *rest = copy;
    bool good = copy != NULL;
    options->ncounts = 0;
    for (char *word = strsep(&rest, ","); good && word; word = strsep(&rest, ",")) {
        uint64_t *more =
            realloc(options->counts, ((size_t)options->ncounts + 1) * sizeof(*options->counts));
        if (more)
            options->counts = more;
        good = more && parse_u64(word, 0, UINT64_MAX, &options->counts[options->ncounts++]);
    }
    free(copy);
    return good;
}

enum {
    OPT_COUNT = 256,
    OPT_COUNTS,
    OPT_DTYPE,
    OPT_OP,
    OPT_ROOT,
    OPT_ORDERED,
    OPT_IN_PLACE,
    OPT_NO_PEER_ACCESS,
    OPT_HOSTS,
    OPT_LANES,
    OPT_SCRATCH,
    OPT_FORMAT,
    OPT_LIST,
    OPT_CHECK,
    OPT_QUICK,
    OPT_PLANT
};

static const struct option long_options[] = {
    {"collective", required_argument, NULL, 'c'},
    {"algorithm", required_argument, NULL, 'a'},
    {"ranks", required_argument, NULL, 'n'},
    {"rank", required_argument, NULL, 'r'},
    {"count", required_argument, NULL, OPT_COUNT},
    {"counts", required_argument, NULL, OPT_COUNTS},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"op", required_argument, NULL, OPT_OP},
    {"root", required_argument, NULL, OPT_ROOT},
    {"ordered", no_argument, NULL, OPT_ORDERED},
    {"in-place", no_argument, NULL, OPT_IN_PLACE},
    {"no-peer-access", no_argument, NULL, OPT_NO_PEER_ACCESS},
    {"hosts", required_argument, NULL, OPT_HOSTS},
    {"lanes", required_argument, NULL, OPT_LANES},
    {"scratch", required_argument, NULL, OPT_SCRATCH},
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
    struct plan_params *params = &options->params;
    switch (option) {
    case 'c':
        return parse_collective(value, options);
    case 'a':
        options->algorithm = value;
        return true;
    case 'n':
        options->ranks_named = true;
        return parse_int(value, 1, 1 << 20, &params->nranks);
    case 'r':
        return parse_int(value, 0, (1 << 20) - 1, &params->rank);
    case OPT_COUNT:
        return parse_u64(value, 0, UINT64_MAX, &params->count);
    case OPT_COUNTS:
        return parse_counts(value, options);
    case OPT_DTYPE:
        return parse_dtype(value, &params->dtype);
    case OPT_OP:
        return parse_redop(value, &params->redop);
    case OPT_ROOT:
        return parse_int(value, 0, (1 << 20) - 1, &params->root);
    case OPT_ORDERED:
        params->ordered = true;
        return true;
    case OPT_IN_PLACE:
        params->in_place = true;
        return true;
    case OPT_NO_PEER_ACCESS:
        params->peer_access = false;
        return true;
    case OPT_HOSTS:
        return parse_int(value, 1, 1 << 20, &options->hosts);
    case OPT_LANES:
        return parse_int(value, 1, PLAN_MAX_LANES, &params->lanes);
    case OPT_SCRATCH:
        return parse_u64(value, 0, UINT64_MAX, &params->scratch_bytes);
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
    default: /* OPT_PLANT */
        options->mode = MODE_CHECK;
        return parse_fault(value, &options->fault);
    }
}

/* Blocks of their own sizes: as many as ranks. */
static bool take_counts(struct options *options)
{
    struct plan_params *params = &options->params;
    if (!options->collective ||
        (params->collective != COLL_ALLGATHER && params->collective != COLL_REDUCE_SCATTER) ||
        (options->ranks_named && params->nranks != options->ncounts))
        return false;
    params->nranks = options->ncounts;
    params->counts = options->counts;
    params->count = 0;
    for (int i = 0; i < options->ncounts; i++)
        params->count = max_u64(params->count, options->counts[i]);
    return true;
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
        if (!take(options, option, optarg)) {
            char what[64];
            if (option < OPT_COUNT)
                snprintf(what, sizeof(what), "no such or bad value of -%c", option);
            else
                snprintf(what, sizeof(what), "no such or bad value of --%s",
                         long_options[index].name);
            return complain(what, optarg);
        }
    }
    if (optind < argc)
        return complain("unexpected argument", argv[optind]);
    if (options->counts && !take_counts(options))
        return complain("--counts needs as many numbers as --ranks, and a collective with blocks",
                        options->collective ? options->collective : "");
    if (options->algorithm && !options->collective)
        return complain("--algorithm needs --collective", options->algorithm);
    if (options->algorithm && !algo_find(options->params.collective, options->algorithm))
        return complain("no such algorithm of this collective", options->algorithm);
    return -1;
}

/* ---- list and check ---------------------------------------------------------------------------------------------- */

static int list(const struct options *options)
{
    for (size_t i = 0; i < thrum_algo_count; i++) {
        const struct algo *algo = &thrum_algos[i];
        if (options->collective && algo->collective != options->params.collective)
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
    return (!options->collective || algo->collective == options->params.collective) &&
           (!options->algorithm || strcmp(algo->name, options->algorithm) == 0);
}

static int check(const struct options *options)
{
    struct algo_sweep sweep = {
        .nranks = options->ranks_named ? options->params.nranks : 0,
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

/* What the library's interface would refuse too. */
static const char *refuse(const struct plan_params *params)
{
    size_t bytes;
    if (params->rank >= params->nranks)
        return "--rank is not below --ranks";
    if (params->root >= params->nranks)
        return "--root is not below --ranks";
    if (!plan_op_takes(params->redop, params->dtype))
        return "--op is not defined for this --dtype";
    if (mul_overflows(params->count, thrum_datatype_size(params->dtype), &bytes) ||
        mul_overflows(bytes, (size_t)params->nranks, &bytes))
        return "--count is too large";
    return NULL;
}

static thrum_status_t print_plan(const struct algo *algo, const struct options *options)
{
    struct plan plan;
    struct plan_dump dump;
    plan_init(&plan, &options->params);
    plan.algorithm = algo->name;
    plan_dump_begin(&plan, &dump, stdout, options->format);
    algo->build(&plan);
    plan_dump_end(&plan, &dump);
    thrum_status_t status = plan.status;
    plan_fini(&plan);
    return status;
}

/* Ranks on several hosts: by --hosts, or by THRUM_TOPOLOGY_FILE. */
static thrum_status_t lay_out(struct options *options)
{
    struct plan_params *params = &options->params;
    struct topo *topo = NULL;
    const char *path = thrum_config_string(CFG_TOPOLOGY_FILE);
    int *hosts = malloc((size_t)params->nranks * sizeof(*hosts));
    thrum_status_t status = hosts ? THRUM_OK : THRUM_ERR_NO_MEMORY;
    if (!status && !options->hosts && *path)
        status = topo_read(path, &topo);
    for (int r = 0; r < params->nranks && options->hosts && !status; r++)
        hosts[r] = (int)((int64_t)r * options->hosts / params->nranks);
    if (!status && topo)
        status = topo_place(topo, params->nranks, hosts);
    if (!status && (topo || options->hosts))
        status = plan_layout_create(hosts, params->nranks, &options->layout);
    topo_free(topo);
    free(hosts);
    if (!options->layout || options->layout->nhosts == 1)
        return status;
    params->layout = params->peer_access ? options->layout : NULL;
    params->peer_access = false;
    return status;
}

static int print(struct options *options)
{
    struct plan_params *params = &options->params;
    struct plan_p2p p2p[2];
    if (!options->algorithm) {
        fputs("thrum-plan: --collective and --algorithm, --check or --list? (see --help)\n",
              stderr);
        return EXIT_USAGE;
    }
    const struct algo *algo = algo_find(params->collective, options->algorithm);
    const char *reason = refuse(params);
    if (reason) {
        fprintf(stderr, "thrum-plan: %s (see --help)\n", reason);
        return EXIT_USAGE;
    }
    if (lay_out(options)) {
        fprintf(stderr, "thrum-plan: %s\n", thrum_last_error());
        return EXIT_WRONG;
    }
    if (params->collective == COLL_SENDRECV) {
        /* An example: to the next rank, from the one before. */
        uint64_t bytes = params->count * thrum_datatype_size(params->dtype);
        int next = (params->rank + 1) % params->nranks;
        int before = (params->rank + params->nranks - 1) % params->nranks;
        p2p[0] = (struct plan_p2p){.peer = next, .is_send = true, .bytes = bytes, .offset = 0};
        p2p[1] = (struct plan_p2p){.peer = before, .is_send = false, .bytes = bytes, .offset = 0};
        params->p2p = p2p;
        params->np2p = 2;
    }
    reason = algo_refusal(algo, params);
    if (reason) {
        fprintf(stderr, "thrum-plan: %s %s: %s\n", options->collective, algo->name, reason);
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
    struct options options = {
        .params = {.nranks = 4,
                   .count = 1 << 20,
                   .dtype = THRUM_FLOAT32,
                   .peer_access = true,
                   .lanes = 1,
                   .scratch_bytes = 4 << 20},
    };
    int status;
    if (thrum_config_load() != THRUM_OK) {
        fprintf(stderr, "thrum-plan: %s\n", thrum_last_error());
        return EXIT_WRONG;
    }
    status = parse_options(argc, argv, &options);
    if (status < 0)
        status = options.mode == MODE_LIST    ? list(&options)
                 : options.mode == MODE_CHECK ? check(&options)
                                              : print(&options);
    free(options.counts);
    plan_layout_destroy(options.layout);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "thrum-plan: cannot write: %s\n", strerror(errno));
        return EXIT_WRONG;
    }
    return status;
}
