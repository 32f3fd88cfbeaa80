/*
 * thrum-ras: what the jobs on this host are doing, and who holds them up. It asks every process that has communicators
 * (ras_ask.c); each has asked all ranks of its own before it answers, also those on other hosts, so that one process of a
 * job on this host is enough to see all of it.
 */
#include "ras.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <thrum/thrum.h>

#define ANSWER_MS 4000 /* a process asks its ranks for 0.6 s, and may be at it for somebody else */
#define FEW_RANKS 16 /* of more only those are listed that matter */

struct options {
    bool all, json;
    double every, limit; /* seconds; every: 0 once */
    pid_t pid; /* 0: all processes */
};

static void usage(FILE *file)
{
    fputs("Usage: thrum-ras [OPTION]...\n"
          "Shows what the jobs on this host are doing that use Thrum, and which rank the others "
          "wait for.\n"
          "\n"
          "  -a, --all              list every rank, not only those that others wait for\n"
          "  -p, --pid NUMBER       only the communicators of this process\n"
          "  -l, --limit SECONDS    what waits longer is held up (default 1)\n"
          "  -w, --watch SECONDS    again and again, every so many seconds\n"
          "  -j, --json             the processes' answers, one array\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "Exit status: 0 all right, 1 something has failed, is held up or does not answer, 2 bad "
          "usage, 3 no process found.\n",
          file);
}

/* ---- answers ---- */

/* Fields of what other processes have sent: of the type that is asked for, or empty. */
static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static double seconds_of(const json_t *communicator)
{
    return json_number_value(json_object_get(json_object_get(communicator, "pending"), "seconds"));
}

static bool has_failed(const json_t *communicator)
{
    return strcmp(text_of(communicator, "status"), "THRUM_OK") != 0;
}

/* A communicator as the processes here see it. */
struct group {
    const char *id; /* of an answer */
    size_t n;
    const json_t *views[]; /* the first is the one that waits longest */
};

static bool is_worse(const json_t *a, const json_t *b)
{
    if (has_failed(a) != has_failed(b))
        return has_failed(a);
    return seconds_of(a) > seconds_of(b);
}

static void add_view(struct group *group, const json_t *view)
{
    size_t at = group->n++;

    group->views[at] = view;
    if (is_worse(view, group->views[0])) {
        group->views[at] = group->views[0];
        group->views[0] = view;
    }
}

/* The one with the id, new if need be. There are never more views than `most`. */
static struct group *group_of(struct group **groups, size_t *n, const char *id, size_t most)
{
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(groups[i]->id, id))
            return groups[i];
    groups[*n] = calloc(1, sizeof **groups + most * sizeof groups[0]->views[0]);
    if (!groups[*n]) {
        fprintf(stderr, "thrum-ras: no memory\n");
        exit(2);
    }
    groups[*n]->id = id;
    return groups[(*n)++];
}

/* ---- telling ---- */

static const json_t *view_of(const struct group *group, int rank)
{
    for (size_t i = 0; i < group->n; i++)
        if (number_of(group->views[i], "rank") == rank)
            return group->views[i];
    return NULL;
}

/* At its lowest rank here: ranks of one process number theirs apart. */
static const char *name_of(const struct group *group)
{
    const json_t *lowest = group->views[0];

    for (size_t i = 1; i < group->n; i++)
        if (number_of(group->views[i], "rank") < number_of(lowest, "rank"))
            lowest = group->views[i];
    return text_of(lowest, "name");
}

static const char *silence_of(const struct ras_process *processes, size_t n, int64_t pid)
{
    for (size_t i = 0; i < n; i++)
        if (processes[i].who.pid == pid)
            return processes[i].answer ? "" : processes[i].why;
    return "";
}

/* What the one that waits longest is in. */
static const char *call_of(const struct group *group)
{
    return text_of(json_object_get(group->views[0], "pending"), "call");
}

/* Whether this rank holds up the one whose view it is. */
static bool holds_up(const json_t *view, const json_t *rank)
{
    const json_t *pending = json_object_get(view, "pending");
    const json_t *awaits = json_object_get(pending, "awaits");
    const char *state = text_of(rank, "state");

    if (!json_is_object(pending))
        return false;
    if (awaits)
        return json_integer_value(awaits) == number_of(rank, "rank");
    if (!strcmp(state, "left")) /* perhaps after it had done its part */
        return number_of(rank, "calls") < number_of(pending, "sequence");
    return !strcmp(state, "not called") || !strcmp(state, "no answer");
}

/* What there is to say of a rank; *stuck: others wait for it. */
static void describe_rank(const struct group *group, const json_t *rank, bool stuck,
                          const struct ras_process *processes, size_t n, char *text, size_t bytes)
{
    const json_t *view = view_of(group, (int)number_of(rank, "rank"));
    const json_t *pending = json_object_get(view, "pending");
    const char *state = text_of(rank, "state");
    const char *silence = silence_of(processes, n, number_of(rank, "pid"));

    text[0] = 0;
    if (!strcmp(state, "no answer") && json_object_get(rank, "behind"))
        snprintf(text, bytes, "not known: rank %lld, through which it is asked, does not answer",
                 (long long)number_of(rank, "behind"));
    else if (!strcmp(state, "no answer"))
        snprintf(text, bytes, "does not answer%s%s", *silence ? ": " : "", silence);
    else if (!strcmp(state, "left"))
        snprintf(text, bytes, "has destroyed the communicator");
    else if (stuck && !strcmp(state, "not called"))
        snprintf(text, bytes, "has not called it");
    if (json_is_object(pending) && !strcmp(text_of(pending, "call"), call_of(group)))
        snprintf(text, bytes, "has waited for %.1f s", seconds_of(view));
    else if (json_is_object(pending))
        snprintf(text + strlen(text), bytes - strlen(text), "%sin %s for %.1f s",
                 *text ? "; is " : "", text_of(pending, "call"), seconds_of(view));
}

static void print_rank(const json_t *rank, bool culprit, const char *text)
{
    char calls[24] = "?";

    if (json_object_get(rank, "calls"))
        snprintf(calls, sizeof calls, "%lld", (long long)number_of(rank, "calls"));
    printf("  %s%5lld  %-20s  %7lld  %11s%s%s\n", culprit ? ">" : " ",
           (long long)number_of(rank, "rank"), text_of(rank, "host"),
           (long long)number_of(rank, "pid"), calls, *text ? "  " : "", text);
}

static void print_ranks(const struct group *group, bool stuck, const struct options *options,
                        const struct ras_process *processes, size_t n)
{
    const json_t *view = group->views[0], *ranks = json_object_get(view, "ranks");
    bool few = json_array_size(ranks) <= FEW_RANKS;
    size_t left_out = 0;

    printf("    rank  %-20s  process        calls\n", "host");
    for (size_t i = 0; i < json_array_size(ranks); i++) {
        const json_t *rank = json_array_get(ranks, i);
        bool culprit = stuck && holds_up(view, rank);
        char text[512];

        if (!options->all && !few && !culprit) {
            left_out++;
            continue;
        }
        describe_rank(group, rank, culprit, processes, n, text, sizeof text);
        print_rank(rank, culprit, text);
    }
    if (left_out)
        printf("   and %zu others, which wait; --all lists them\n", left_out);
}

static size_t count_hosts(const json_t *ranks)
{
    json_t *hosts = json_object();
    size_t n;

    for (size_t i = 0; i < json_array_size(ranks); i++)
        json_object_set_new(hosts, text_of(json_array_get(ranks, i), "host"), json_true());
    n = json_object_size(hosts);
    json_decref(hosts);
    return n;
}

/* True if it is as it should be. */
static bool print_group(const struct group *group, const struct options *options,
                        const struct ras_process *processes, size_t n)
{
    const json_t *view = group->views[0], *pending = json_object_get(view, "pending");
    bool failed = has_failed(view), stuck = seconds_of(view) > options->limit;
    size_t hosts = count_hosts(json_object_get(view, "ranks"));
    const char *detail = text_of(pending, "detail");

    printf("%s, %lld rank%s", name_of(group), (long long)number_of(view, "size"),
           number_of(view, "size") == 1 ? "" : "s");
    if (hosts)
        printf(" on %zu host%s", hosts, hosts == 1 ? "" : "s");
    if (failed)
        printf(": failed, %s: %s\n", text_of(view, "status"), text_of(view, "message"));
    else if (stuck)
        printf(": rank %lld has been in %s for %.1f s of %.0f\n",
               (long long)number_of(view, "rank"), text_of(pending, "call"), seconds_of(view),
               json_number_value(json_object_get(view, "deadline_seconds")));
    else
        printf(": %s, %lld operations so far\n", json_is_object(pending) ? "at work" : "idle",
               (long long)number_of(view, "operations"));
    if (stuck && *detail)
        printf("    %s\n", detail);
    if (!failed && (stuck || options->all))
        print_ranks(group, stuck, options, processes, n);
    return !failed && !stuck;
}

/* Exit status. */
static int print_all(const struct ras_process *processes, size_t n, const struct options *options)
{
    size_t nviews = 0, ngroups = 0;
    struct group **groups;
    bool good = true;

    for (size_t i = 0; i < n; i++)
        nviews += json_array_size(json_object_get(processes[i].answer, "communicators"));
    groups = calloc(nviews + 1, sizeof *groups);
    if (!groups) {
        fprintf(stderr, "thrum-ras: no memory\n");
        exit(2);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *list = json_object_get(processes[i].answer, "communicators");

        for (size_t k = 0; k < json_array_size(list); k++) {
            const json_t *view = json_array_get(list, k);
            add_view(group_of(groups, &ngroups, text_of(view, "id"), nviews), view);
        }
    }
    for (size_t i = 0; i < ngroups; i++) {
        good &= print_group(groups[i], options, processes, n);
        free(groups[i]);
    }
    free(groups);
    for (size_t i = 0; i < n; i++)
        if (processes[i].is_asked && !processes[i].answer) {
            printf("process %d gives no answer: %s\n", (int)processes[i].who.pid, processes[i].why);
            good = false;
        }
    return good ? 0 : 1;
}

static int print_json(const struct ras_process *processes, size_t n)
{
    json_t *list = json_array();
    int status = 0;

    for (size_t i = 0; i < n; i++)
        if (processes[i].answer)
            json_array_append(list, processes[i].answer);
        else if (processes[i].is_asked)
            json_array_append_new(list, json_pack("{s:i, s:s}", "pid", (int)processes[i].who.pid,
                                                  "error", processes[i].why));
    if (json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)))
        status = 2;
    printf("\n");
    json_decref(list);
    return status;
}

static int look(const struct options *options)
{
    struct ras_process *processes;
    size_t n = ras_ask(options->pid, ANSWER_MS, &processes), nasked = 0;
    int status = 3;

    for (size_t i = 0; i < n; i++)
        nasked += processes[i].is_asked;
    if (options->json && nasked)
        status = print_json(processes, n);
    else if (nasked)
        status = print_all(processes, n, options);
    else if (options->json)
        printf("[]\n");
    else if (options->pid)
        printf("process %d has no communicators here\n", (int)options->pid);
    else
        printf("no process here has communicators\n");
    ras_forget(processes, n);
    return status;
}

/* ---- options ---- */

static double seconds_option(const char *name, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (*text && !*end && value >= 0 && value <= 1e6)
        return value;
    fprintf(stderr, "thrum-ras: --%s %s: a number of seconds is wanted\n", name, text);
    exit(2);
}

static void take_options(int argc, char **argv, struct options *out)
{
    static const struct option table[] = {
        {"all", no_argument, NULL, 'a'},         {"pid", required_argument, NULL, 'p'},
        {"limit", required_argument, NULL, 'l'}, {"watch", required_argument, NULL, 'w'},
        {"json", no_argument, NULL, 'j'},        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},     {NULL, 0, NULL, 0},
    };
    int c;

    *out = (struct options){.limit = 1};
    while ((c = getopt_long(argc, argv, "ap:l:w:jhV", table, NULL)) != -1)
        switch (c) {
        case 'a':
            out->all = true;
            break;
        case 'p':
            out->pid = process_pid_option(optarg);
            break;
        case 'l':
            out->limit = seconds_option("limit", optarg);
            break;
        case 'w':
            out->every = seconds_option("watch", optarg);
            break;
        case 'j':
            out->json = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        case 'V':
            printf("thrum-ras %s\n", thrum_version());
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    if (optind < argc) {
        fprintf(stderr, "thrum-ras: %s: not an option\n", argv[optind]);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct options options;
    int status;

    take_options(argc, argv, &options);
    for (;;) {
        double whole = (double)(int64_t)options.every;
        struct timespec pause = {.tv_sec = (time_t)whole,
                                 .tv_nsec = (long)((options.every - whole) * 1e9)};

        status = look(&options);
        if (fflush(stdout) || ferror(stdout)) {
            fprintf(stderr, "thrum-ras: cannot write: %s\n", strerror(errno));
            return 2;
        }
        if (!(options.every > 0))
            return status;
        nanosleep(&pause, NULL);
        if (!options.json)
            printf("\n");
    }
}
