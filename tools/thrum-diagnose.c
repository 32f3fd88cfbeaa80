/*
 * thrum-diagnose: whether the devices and the links of a job are as good as each other, and which rank or host is not. It
 * measures every link while the others are in use too, and what is remarkable again, alone, before it says so.
 */
#include "diagnose.h"

#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALL_LINKS \
    64 /* up to so many ranks each link is measured; of more those of distances 1, 2, 4, .. */
#define AGAIN \
    64 /* so many links are measured again, the worst first; if most stay so, the rest is believed */
#define TABLE_RANKS 16
#define FEWEST 3 /* of what is compared */

/*
 * What is so many times worse than the best quarter is remarkable; some us more are nothing. Ranks that share cores measure for
 * the most part how long they wait for each other, which differs much.
 */
#define TIMES 2.5
#define TIMES_SHARED 10
#define SLACK_US 5
#define SLACK_SHARED_US 200

#define FAILED 3 /* exit status */

struct options {
    bool json;
};

static void usage(FILE *file)
{
    fputs("Usage: mpirun -n RANKS thrum-diagnose [OPTION]...\n"
          "Measures the devices of the ranks and the links between them, and names what is worse "
          "than its like:\n"
          "a device, a link, a rank or a host.\n"
          "\n"
          "  -j, --json             one object, with every link\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "Exit status: 0 all alike, 1 something is worse, 2 bad usage, 3 an operation failed.\n",
          file);
}

void *diagnose_memory(size_t n, size_t bytes)
{
    void *memory = calloc(n + 1, bytes);

    if (!memory)
        job_check(THRUM_ERR_NO_MEMORY, "host memory");
    return memory;
}

/* ---- links by index ---- */

static const struct link *link_at(const struct diagnosis *d, int rank, int i)
{
    return &d->links[(size_t)rank * (size_t)d->nmasks + (size_t)i];
}

/* Rank r's link to r ^ masks[i] is measured, and counted at the lower end. */
static bool is_link(const struct diagnosis *d, int rank, int i)
{
    int other = rank ^ d->masks[i];

    return other < d->job.nranks && other > rank && link_at(d, rank, i)->us > 0;
}

static bool is_between(const struct diagnosis *d, int rank, int i)
{
    return d->places[rank].host != d->places[rank ^ d->masks[i]].host;
}

/* ---- what is usual ---- */

struct usual {
    size_t n; /* links */
    bool shared; /* some ranks take turns on a core */
    float us, gbytes; /* a quarter is as good */
    float best_us, worst_us, best_gbytes, worst_gbytes;
};

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* How many ranks take turns on a core of rank r's. */
static int share_of_core(const struct diagnosis *d, int rank)
{
    const struct place *own = &d->places[rank];
    int sharers = 0, local = 0;

    for (int r = 0; r < d->job.nranks; r++) {
        bool here = d->places[r].machine == own->machine;

        local += here;
        sharers += here && d->places[r].cores.set == own->cores.set;
    }
    return topo_share_of_core(&own->cores, sharers, local);
}

static bool shares_cores(const struct diagnosis *d)
{
    bool shared = false;

    for (int r = 0; r < d->job.nranks; r++)
        shared |= share_of_core(d, r) > 1;
    return shared;
}

/* Of the links between hosts, or within them. */
static struct usual usual_of(const struct diagnosis *d, bool between)
{
    size_t most = (size_t)d->job.nranks * (size_t)d->nmasks;
    float *us = diagnose_memory(most, sizeof *us), *gbytes = diagnose_memory(most, sizeof *gbytes);
    struct usual usual = {.shared = shares_cores(d)};

    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++)
            if (is_link(d, r, i) && is_between(d, r, i) == between) {
                us[usual.n] = link_at(d, r, i)->us;
                gbytes[usual.n++] = link_at(d, r, i)->gbytes;
            }
    if (usual.n) {
        qsort(us, usual.n, sizeof *us, ascending);
        qsort(gbytes, usual.n, sizeof *gbytes, ascending);
        usual.us = us[usual.n / 4];
        usual.gbytes = gbytes[usual.n - 1 - usual.n / 4];
        usual.best_us = us[0];
        usual.worst_us = us[usual.n - 1];
        usual.worst_gbytes = gbytes[0];
        usual.best_gbytes = gbytes[usual.n - 1];
    }
    free(us);
    free(gbytes);
    return usual;
}

/* How many times as bad as is still usual; above 1 it is remarkable. */
static double badness(const struct link *link, const struct usual *usual)
{
    double times = usual->shared ? TIMES_SHARED : TIMES;
    double by_us = link->us / (times * usual->us + (usual->shared ? SLACK_SHARED_US : SLACK_US));
    double by_gbytes = usual->gbytes / times / link->gbytes;

    if (usual->n < FEWEST)
        return 0;
    return by_us > by_gbytes ? by_us : by_gbytes;
}

/* What a device has to copy at least. */
static double least_copy(const struct diagnosis *d)
{
    float *all = diagnose_memory((size_t)d->job.nranks, sizeof *all);
    double usual;

    for (int r = 0; r < d->job.nranks; r++)
        all[r] = (float)d->places[r].copy_gbytes;
    qsort(all, (size_t)d->job.nranks, sizeof *all, ascending);
    usual = all[d->job.nranks - 1 - d->job.nranks / 4];
    free(all);
    return d->job.nranks < FEWEST ? 0 : usual / (shares_cores(d) ? TIMES_SHARED : TIMES);
}

/* ---- again, alone ---- */

struct suspect {
    int rank, i;
    double badness;
};

static int worse_first(const void *a, const void *b)
{
    const struct suspect *x = a, *y = b;

    if (x->badness != y->badness)
        return x->badness > y->badness ? -1 : 1;
    return x->rank != y->rank ? x->rank - y->rank : x->i - y->i;
}

/* All ranks have the same figures, and so the same suspects. */
static void look_again(struct diagnosis *d, const struct usual usual[2], double least)
{
    struct suspect *suspects =
        diagnose_memory((size_t)d->job.nranks * (size_t)d->nmasks, sizeof *suspects);
    size_t n = 0, stayed = 0;

    for (int r = 0; r < d->job.nranks; r++)
        if (d->places[r].copy_gbytes < least)
            diagnose_device_again(d, r);
    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++) {
            double bad =
                is_link(d, r, i) ? badness(link_at(d, r, i), &usual[is_between(d, r, i)]) : 0;
            if (bad > 1)
                suspects[n++] = (struct suspect){r, i, bad};
        }
    qsort(suspects, n, sizeof *suspects, worse_first);
    for (size_t k = 0; k < n && (k % AGAIN || 2 * stayed <= k); k++) {
        int r = suspects[k].rank, i = suspects[k].i;

        diagnose_link_again(d, r, i);
        stayed += badness(link_at(d, r, i), &usual[is_between(d, r, i)]) > 1;
    }
    free(suspects);
}

/* ---- findings ---- */

struct report {
    json_t *findings, *notes; /* texts */
};

static void add_text(json_t *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_text(json_t *list, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_array_append_new(list, json_string(text));
}

/* Hosts of the same name get numbers. */
static const char *host_name(const struct diagnosis *d, int rank, char text[80])
{
    const struct place *place = &d->places[rank];
    int same = 0, number = 0;

    for (int r = 0; r < d->job.nranks; r++) {
        bool first = true;

        for (int k = 0; k < r && first; k++)
            first = d->places[k].host != d->places[r].host;
        if (!first || strcmp(d->places[r].name, place->name) != 0)
            continue;
        same++;
        if (d->places[r].host == place->host)
            number = same;
    }
    if (same > 1)
        snprintf(text, 80, "%s#%d", place->name, number);
    else
        snprintf(text, 80, "%s", place->name);
    return text;
}

/* Bad links of a rank, or of all ranks of its host to others: how many of how many, and what they are like. */
struct share {
    int bad, all;
    float us, gbytes; /* the sums of the bad ones; then what they are on the average */
};

static void count_link(struct share *share, const struct link *link, bool bad)
{
    share->all++;
    if (!bad)
        return;
    share->bad++;
    share->us += link->us;
    share->gbytes += link->gbytes;
}

/* More than half are bad. */
static bool is_to_blame(struct share *share)
{
    if (share->bad) {
        share->us /= (float)share->bad;
        share->gbytes /= (float)share->bad;
    }
    return share->all >= 2 && 2 * share->bad > share->all;
}

static void clear(const struct diagnosis *d, bool *bad,
                  bool (*belongs)(const struct diagnosis *, int, int, int), int whose)
{
    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++)
            if (is_link(d, r, i) && belongs(d, r, i, whose))
                bad[r * d->nmasks + i] = false;
}

static bool is_of_host(const struct diagnosis *d, int rank, int i, int whose)
{
    uint64_t host = d->places[whose].host;

    return is_between(d, rank, i) &&
           (d->places[rank].host == host || d->places[rank ^ d->masks[i]].host == host);
}

static bool is_of_rank(const struct diagnosis *d, int rank, int i, int whose)
{
    return rank == whose || (rank ^ d->masks[i]) == whose;
}

static struct share share_of(const struct diagnosis *d, const bool *bad,
                             bool (*belongs)(const struct diagnosis *, int, int, int), int whose)
{
    struct share share = {0};

    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++)
            if (is_link(d, r, i) && belongs(d, r, i, whose))
                count_link(&share, link_at(d, r, i), bad[r * d->nmasks + i]);
    return share;
}

/* The rank of whose links, or of whose host's, the largest part is bad, if that is more than half; else -1. */
static int most_to_blame(const struct diagnosis *d, const bool *bad,
                         bool (*belongs)(const struct diagnosis *, int, int, int),
                         struct share *share_out)
{
    int most = -1;

    for (int r = 0; r < d->job.nranks; r++) {
        struct share share = share_of(d, bad, belongs, r);

        if (!is_to_blame(&share) ||
            (most >= 0 && share.bad * share_out->all <= share_out->bad * share.all))
            continue;
        most = r;
        *share_out = share;
    }
    return most;
}

/* Hosts take the bad links that are to blame on them, then ranks, the worst first; what is left is the link's own. */
static void blame(const struct diagnosis *d, bool *bad, const struct usual usual[2],
                  json_t *findings)
{
    char host[80], other_host[80];
    struct share share;
    int who;

    while ((who = most_to_blame(d, bad, is_of_host, &share)) >= 0) {
        add_text(findings,
                 "host %s: its links to other hosts take %.1f us and carry %.2f GB/s, the usual "
                 "ones %.1f us and %.2f GB/s",
                 host_name(d, who, host), share.us, share.gbytes, usual[1].us, usual[1].gbytes);
        clear(d, bad, is_of_host, who);
    }
    while ((who = most_to_blame(d, bad, is_of_rank, &share)) >= 0) {
        add_text(findings, "rank %d on %s: %d of its %d links are slow: %.1f us and %.2f GB/s", who,
                 host_name(d, who, host), share.bad, share.all, share.us, share.gbytes);
        clear(d, bad, is_of_rank, who);
    }
    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++) {
            const struct usual *like = is_link(d, r, i) ? &usual[is_between(d, r, i)] : NULL;

            if (like && bad[r * d->nmasks + i])
                add_text(findings,
                         "the link of rank %d on %s and rank %d on %s takes %.1f us and carries "
                         "%.2f GB/s, the usual one %.1f us and %.2f GB/s",
                         r, host_name(d, r, host), r ^ d->masks[i],
                         host_name(d, r ^ d->masks[i], other_host), link_at(d, r, i)->us,
                         link_at(d, r, i)->gbytes, like->us, like->gbytes);
        }
}

static void note_shared_cores(const struct diagnosis *d, json_t *notes)
{
    int ranks = 0, first = -1, share = 1;
    char host[80];

    for (int r = 0; r < d->job.nranks; r++) {
        int own = share_of_core(d, r);

        if (own <= 1)
            continue;
        ranks++;
        first = first < 0 ? r : first;
        share = own > share ? own : share;
    }
    if (ranks)
        add_text(notes,
                 "%d ranks share cores, up to %d a core, the first of them rank %d on %s: what "
                 "they measure is how "
                 "long they wait for each other",
                 ranks, share, first, host_name(d, first, host));
}

static struct report conclude(const struct diagnosis *d, const struct usual usual[2], double least)
{
    bool *bad = diagnose_memory((size_t)d->job.nranks * (size_t)d->nmasks, sizeof *bad);
    struct report report = {json_array(), json_array()};
    char host[80];

    for (int r = 0; r < d->job.nranks; r++)
        if (d->places[r].copy_gbytes < least)
            add_text(report.findings,
                     "rank %d on %s: its device %s copies %.1f GB/s, the others %.1f GB/s or more",
                     r, host_name(d, r, host), d->places[r].device, d->places[r].copy_gbytes,
                     least);
    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++)
            bad[r * d->nmasks + i] =
                is_link(d, r, i) && badness(link_at(d, r, i), &usual[is_between(d, r, i)]) > 1;
    blame(d, bad, usual, report.findings);
    note_shared_cores(d, report.notes);
    free(bad);
    return report;
}

/* ---- printing ---- */

static void print_ranks(const struct diagnosis *d)
{
    char host[80];

    printf("  rank  %-20s  process  cores  device      copies\n", "host");
    for (int r = 0; r < d->job.nranks; r++) {
        const struct place *place = &d->places[r];

        printf(" %5d  %-20s  %7d  %5d  %-8s  %5.1f GB/s\n", r, host_name(d, r, host),
               (int)place->pid, place->cores.affinity, place->device, place->copy_gbytes);
    }
}

static int mask_index(const struct diagnosis *d, int mask)
{
    for (int i = 0; i < d->nmasks; i++)
        if (d->masks[i] == mask)
            return i;
    return -1;
}

/* us above the diagonal, GB/s below it. */
static void print_table(const struct diagnosis *d)
{
    printf(
        "\n  links: us one way to the right, GB/s both ways to the left of the diagonal\n      ");
    for (int c = 0; c < d->job.nranks; c++)
        printf(" %7d", c);
    printf("\n");
    for (int r = 0; r < d->job.nranks; r++) {
        printf(" %5d", r);
        for (int c = 0; c < d->job.nranks; c++) {
            int i = mask_index(d, r ^ c);

            if (r == c)
                printf("       .");
            else
                printf(r < c ? " %7.2f" : " %7.3f",
                       r < c ? link_at(d, r, i)->us : link_at(d, r, i)->gbytes);
        }
        printf("\n");
    }
}

static void print_usual(const char *where, const struct usual *usual)
{
    if (usual->n)
        printf("  %s: %zu link%s, one way %.2f to %.2f us, both ways %.3f to %.3f GB/s\n", where,
               usual->n, usual->n == 1 ? "" : "s", usual->best_us, usual->worst_us,
               usual->worst_gbytes, usual->best_gbytes);
}

static void print_texts(const json_t *list, const char *before)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        printf("%s%s\n", before, json_string_value(json_array_get(list, i)));
}

static void print(const struct diagnosis *d, const struct report *report)
{
    struct usual within = usual_of(d, false), between = usual_of(d, true);

    printf("thrum-diagnose: %d rank%s, Thrum %s\n\n", d->job.nranks, d->job.nranks == 1 ? "" : "s",
           thrum_version());
    print_ranks(d);
    if (d->job.nranks > 1 && d->job.nranks <= TABLE_RANKS)
        print_table(d);
    printf("\n");
    print_usual("within hosts", &within);
    print_usual("between hosts", &between);
    print_texts(report->notes, "  note: ");
    print_texts(report->findings, "> ");
    if (!json_array_size(report->findings))
        printf("nothing is worse than its like\n");
}

static void print_json(const struct diagnosis *d, const struct report *report)
{
    json_t *ranks = json_array(), *links = json_array(), *json;
    char host[80];

    for (int r = 0; r < d->job.nranks; r++) {
        const struct place *place = &d->places[r];

        json_array_append_new(ranks, json_pack("{s:i, s:s, s:i, s:i, s:s, s:f}", "rank", r, "host",
                                               host_name(d, r, host), "pid", (int)place->pid,
                                               "cores", place->cores.affinity, "device",
                                               place->device, "copy_gbytes", place->copy_gbytes));
        for (int i = 0; i < d->nmasks; i++)
            if (is_link(d, r, i))
                json_array_append_new(links, json_pack("{s:i, s:i, s:b, s:f, s:f}", "a", r, "b",
                                                       r ^ d->masks[i], "between_hosts",
                                                       (int)is_between(d, r, i), "us",
                                                       (double)link_at(d, r, i)->us, "gbytes",
                                                       (double)link_at(d, r, i)->gbytes));
    }
    json = json_pack("{s:s, s:o, s:o, s:O, s:O}", "thrum", thrum_version(), "ranks", ranks, "links",
                     links, "notes", report->notes, "findings", report->findings);
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(4));
    printf("\n");
    json_decref(json);
}

/* ---- the program ---- */

static void choose_links(struct diagnosis *d)
{
    int end = 1;

    while (end < d->job.nranks)
        end *= 2;
    d->masks = diagnose_memory((size_t)end, sizeof *d->masks);
    for (int mask = 1; mask < end; mask = d->job.nranks <= ALL_LINKS ? mask + 1 : mask * 2)
        d->masks[d->nmasks++] = mask;
    d->places = diagnose_memory((size_t)d->job.nranks, sizeof *d->places);
    d->links = diagnose_memory((size_t)d->job.nranks * (size_t)d->nmasks, sizeof *d->links);
}

static void leave(struct diagnosis *d)
{
    job_leave(&d->job);
    free(d->masks);
    free(d->places);
    free(d->links);
}

/* Where `says` is not set another rank says what there is to say. */
static void take_options(int argc, char **argv, bool says, struct options *out)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    int c;

    opterr = says;
    *out = (struct options){0};
    while ((c = getopt_long(argc, argv, "jhV", table, NULL)) != -1)
        switch (c) {
        case 'j':
            out->json = true;
            break;
        case 'h':
            if (says)
                usage(stdout);
            exit(0);
        case 'V':
            if (says)
                printf("thrum-diagnose %s\n", thrum_version());
            exit(0);
        default:
            if (says)
                usage(stderr);
            exit(2);
        }
    if (optind < argc) {
        if (says)
            fprintf(stderr, "thrum-diagnose: %s: not an option\n", argv[optind]);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct diagnosis d = {0};
    struct usual usual[2];
    struct options options;
    struct report report;
    int status = 0;
    double least;

    take_options(argc, argv, job_begin("thrum-diagnose", FAILED) == 0, &options);
    job_join(&d.job);
    choose_links(&d);
    diagnose_measure(&d);
    usual[0] = usual_of(&d, false);
    usual[1] = usual_of(&d, true);
    least = least_copy(&d);
    look_again(&d, usual, least);
    report = conclude(&d, usual, least);
    if (d.job.rank == 0) {
        if (options.json)
            print_json(&d, &report);
        else
            print(&d, &report);
        status = json_array_size(report.findings) > 0;
        if (fflush(stdout) || ferror(stdout))
            status = FAILED;
    }
    json_decref(report.findings);
    json_decref(report.notes);
    leave(&d);
    return status;
}
