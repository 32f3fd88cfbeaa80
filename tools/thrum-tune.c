/*
 * thrum-tune: measures what collectives are made of on this machine, for the choice of algorithms, and keeps it in the
 * tuning file. Started by a launcher, one process a rank. Links the library's inside for the file's place and format.
 */
#include "tune.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "topo/topo.h"

struct options {
    const char *output, *name; /* NULL: the place that is read; the host's name */
    bool dry_run, quick, json;
};

static int own_rank; /* rank 0 says what is wrong with the options */

static void usage(FILE *file)
{
    fputs("Usage: mpirun -n RANKS thrum-tune [OPTION]...\n"
          "Measures, with 2 to 8 ranks and in some seconds, what a call, an exchange and a byte "
          "take here,\n"
          "and writes it to the tuning file from which algorithms are chosen.\n"
          "\n"
          "  -o, --output FILE    write there (default: the file that would be read: "
          "THRUM_TUNE_FILE,\n"
          "                       else thrum/tune.json under XDG_CONFIG_HOME or ~/.config)\n"
          "  -n, --name TEXT      name of the machine in the file (default: the host's name)\n"
          "      --dry-run        measure and print, write nothing\n"
          "      --quick          in about a second, less exact\n"
          "  -j, --json           print the file instead of a table\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "A run measures what its ranks can show and leaves the other figures in the file as they "
          "are:\n"
          "with a core for each rank, exchanges and bandwidths; with more ranks than cores, what "
          "taking\n"
          "turns costs; with THRUM_PEER_ACCESS=none, puts through the fabric; with one rank on "
          "each of\n"
          "several hosts, what is between hosts. Rules in the file "
          "stay.\n"
          "\n"
          "Exit status: 0 all right, 1 something failed, 2 bad usage.\n",
          file);
}

/* ---- joining ---- */

struct place { /* what ranks tell each other to find out who shares cores */
    char host[64];
    struct topo_cores cores;
};

static int find_share(struct tune *t)
{
    struct place mine, *all = calloc((size_t)t->job.nranks, sizeof *all);
    int worst = 1;

    if (!all)
        job_check(THRUM_ERR_NO_MEMORY, "host memory");
    memset(&mine, 0, sizeof mine);
    gethostname(mine.host, sizeof mine.host - 1);
    topo_get_cores(&mine.cores);
    job_gather(&t->job, &mine, all, sizeof mine);
    for (int r = 0; r < t->job.nranks; r++) {
        int sharers = 0, local = 0, share;

        for (int k = 0; k < t->job.nranks; k++) {
            bool same = !strcmp(all[k].host, all[r].host);
            local += same;
            sharers += same && all[k].cores.set == all[r].cores.set;
        }
        share = topo_share_of_core(&all[r].cores, sharers, local);
        worst = share > worst ? share : worst;
    }
    free(all);
    return worst;
}

/* Whether an algorithm of allreduce can serve; `refusal_out` then NULL, else why not. */
static bool can_serve(const struct tune *t, const char *algorithm, const char **refusal_out)
{
    struct thrum_algorithm_candidate candidate = {.size = sizeof candidate};

    for (int i = 0;
         !thrum_comm_candidate(t->job.comm, "allreduce", 1, THRUM_FLOAT32, i, &candidate); i++)
        if (!strcmp(candidate.name, algorithm)) {
            *refusal_out = candidate.refusal;
            return !candidate.refusal;
        }
    *refusal_out = "there is none";
    return false;
}

static void join(struct tune *t)
{
    const char *refusal;
    bool can_measure;

    job_join(&t->job);
    t->share = find_share(t);
    t->peer_access = t->job.nranks == 1 || can_serve(t, "direct", &refusal);
    /* Ranks on one host cannot use what knows hosts either, but for another reason. */
    can_measure = !can_serve(t, "hosts", &refusal);
    t->hosts = !t->peer_access && strstr(refusal, "one rank only");
    if (!can_measure) {
        fprintf(stderr, "thrum-tune: several ranks on several hosts: start one on each to measure "
                        "what is between hosts, or all on one\n");
        exit(1);
    }
}

/* ---- the file ---- */

static void processor(char *text, size_t bytes)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(text, bytes, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) || !colon)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(text, bytes, "%s", colon + 2);
        break;
    }
    if (file)
        fclose(file);
}

static void describe(const struct tune *t, char *text, size_t bytes)
{
    char model[160], day[32];
    time_t now = time(NULL);
    struct tm local;

    processor(model, sizeof model);
    localtime_r(&now, &local);
    strftime(day, sizeof day, "%Y-%m-%d", &local);
    snprintf(text, bytes, "%s, %ld cores; last run: %d ranks, %d on a core, %s, %s", model,
             sysconf(_SC_NPROCESSORS_ONLN), t->job.nranks, t->share,
             t->peer_access ? "with peer access" : "without peer access", day);
}

/* Four digits that count: more is noise. */
static double rounded(double value)
{
    double unit = pow(10, floor(log10(value)) - 3);
    return round(value / unit) * unit;
}

static json_t *rule_json(const struct select_rule *rule)
{
    json_t *json =
        json_pack("{s:s, s:s, s:I}", "collective", collective_name(rule->algo->collective),
                  "algorithm", rule->algo->name, "min_bytes", (json_int_t)rule->min_bytes);

    if (rule->max_bytes <= INT64_MAX)
        json_object_set_new(json, "max_bytes", json_integer((json_int_t)rule->max_bytes));
    json_object_set_new(json, "min_ranks", json_integer(rule->min_ranks));
    json_object_set_new(json, "max_ranks", json_integer(rule->max_ranks));
    return json;
}

static json_t *file_json(const struct tune *t, const struct options *o,
                         const struct select_policy *policy)
{
    struct select_figures values = policy->figures;
    json_t *figures = json_object(), *rules = json_array();
    char host[64] = "", text[400];

    gethostname(host, sizeof host - 1);
    describe(t, text, sizeof text);
    for (int i = 0; i < FIGURE_COUNT; i++)
        if (policy->given >> i & 1)
            json_object_set_new(figures, select_figure_rows[i].name,
                                json_real(rounded(*select_figure_at(&values, i))));
    for (int i = 0; i < policy->nrules; i++)
        json_array_append_new(rules, rule_json(&policy->rules[i]));
    return json_pack("{s:s, s:i, s:s, s:s, s:o, s:o}", "format", "thrum-tune", "version", 1, "name",
                     o->name ? o->name : host, "description", text, "figures", figures, "rules",
                     rules);
}

static int fail(const char *path, const char *what)
{
    fprintf(stderr, "thrum-tune: %s: %s: %s\n", path, what, strerror(errno));
    return 1;
}

/* The directories above a file. */
static void make_directories(const char *path)
{
    char copy[4096];

    snprintf(copy, sizeof copy, "%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(copy, 0777); /* what matters shows when the file is made */
        *slash = '/';
    }
}

/* Whoever reads it finds the old file or the new one, never a part. */
static int write_file(const char *path, json_t *json)
{
    char temporary[4128];
    FILE *file;

    make_directories(path);
    snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    file = fopen(temporary, "we");
    if (!file)
        return fail(temporary, "cannot be made");
    if (json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) || fputc('\n', file) < 0 ||
        fflush(file) || fsync(fileno(file))) {
        (void)fail(temporary, "cannot be written");
        fclose(file);
        (void)unlink(temporary);
        return 1;
    }
    if (fclose(file) || rename(temporary, path)) {
        (void)fail(path, "cannot be written");
        (void)unlink(temporary);
        return 1;
    }
    return 0;
}

static void print_table(const struct select_policy *policy, uint32_t measured)
{
    struct select_figures values = policy->figures;

    printf("%-20s %12s %-6s %12s\n", "FIGURE", "VALUE", "", "BUILT IN");
    for (int i = 0; i < FIGURE_COUNT; i++) {
        const struct select_figure_row *row = &select_figure_rows[i];
        printf("%-20s %12.4g %-6s %12.4g   %s\n", row->name, *select_figure_at(&values, i),
               row->unit, row->value,
               measured >> i & 1        ? "measured now"
               : policy->given >> i & 1 ? "measured before"
                                        : "built in");
    }
}

/* Rank 0: what is in the file already, if it is any good. */
static void read_old(const char *path, struct select_policy *policy)
{
    bool missing = false;

    select_policy_init(policy);
    if (*path && select_tuning_read(path, policy, &missing))
        fprintf(stderr, "thrum-tune: %s; it will be replaced\n", thrum_last_error());
}

/* Rank 0, at the end. Exit code. */
static int finish(const struct tune *t, const struct options *o, const char *path,
                  const struct select_policy *policy, uint32_t measured)
{
    json_t *json = file_json(t, o, policy);
    int exit_code = 0;

    if (!json)
        job_check(THRUM_ERR_NO_MEMORY, "JSON");
    if (!o->json)
        print_table(policy, measured);
    else if (json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) || printf("\n") < 0)
        exit_code = fail("standard output", "cannot be written");
    if (!exit_code && !o->dry_run) {
        exit_code = write_file(path, json);
        if (!exit_code && !o->json)
            printf("\nwritten to %s\n", path);
    }
    json_decref(json);
    return exit_code;
}

/* ---- options ---- */

static int bad_usage(const char *text)
{
    if (own_rank == 0)
        fprintf(stderr, "thrum-tune: %s; --help shows the options\n", text);
    return 2;
}

/* -1: go on; else the exit code. */
static int parse_options(int argc, char **argv, struct options *o)
{
    enum { OPT_DRY = 256, OPT_QUICK };
    static const struct option names[] = {{"output", 1, 0, 'o'},      {"name", 1, 0, 'n'},
                                          {"dry-run", 0, 0, OPT_DRY}, {"quick", 0, 0, OPT_QUICK},
                                          {"json", 0, 0, 'j'},        {"help", 0, 0, 'h'},
                                          {"version", 0, 0, 'V'},     {0, 0, 0, 0}};
    int c;

    opterr = own_rank == 0;
    while ((c = getopt_long(argc, argv, "o:n:jhV", names, NULL)) != -1) {
        switch (c) {
        case 'o':
            o->output = optarg;
            break;
        case 'n':
            o->name = optarg;
            break;
        case OPT_DRY:
            o->dry_run = true;
            break;
        case OPT_QUICK:
            o->quick = true;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            if (own_rank == 0)
                usage(stdout);
            return 0;
        case 'V':
            if (own_rank == 0)
                printf("thrum-tune %s\n", thrum_version());
            return 0;
        default:
            return bad_usage("bad option");
        }
    }
    return optind < argc ? bad_usage("unexpected argument") : -1;
}

/* Where to write, and what to start from; what is tuned already must not have a say in the measurement. */
static int find_path(const struct options *o, char *path, size_t bytes)
{
    bool required;

    *path = 0;
    if (o->output)
        snprintf(path, bytes, "%s", o->output);
    else if (!select_tuning_path(path, bytes, &required)) {
        *path = 0;
        if (!o->dry_run)
            return bad_usage("there is no place for the tuning file: give --output");
    }
    setenv("THRUM_TUNE_FILE", "none", 1);
    thrum_config_reset();
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct tune t = {0};
    struct select_policy policy;
    char path[4096];
    uint32_t measured = 0;
    int exit_code;

    own_rank = job_begin("thrum-tune", 1);
    exit_code = parse_options(argc, argv, &o);
    if (exit_code >= 0)
        return exit_code;
    exit_code = find_path(&o, path, sizeof path);
    if (exit_code)
        return exit_code;
    t.quick = o.quick;
    join(&t);
    select_policy_init(&policy);
    if (t.job.rank == 0)
        read_old(path, &policy);
    tune_measure(&t, &policy.figures, &measured);
    policy.given |= measured;
    if (t.job.rank == 0)
        exit_code = finish(&t, &o, path, &policy, measured);
    job_leave(&t.job);
    return fflush(stdout) || ferror(stdout) ? 1 : exit_code;
}
