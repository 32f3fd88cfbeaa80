/*
 * thrum-trace: where the time of a job goes, and which rank the others wait for; from what running processes send of their
 * operations while it is connected, or what THRUM_TRACE has left of a job.
 */
#include "trace.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process.h"

#define NOT_WHOLE 1 /* exit status */
#define BAD 2
#define NOTHING 3

struct options {
    bool all, json;
    bool live_only; /* an option for running processes was given */
    double seconds;
    pid_t pid; /* 0: all processes */
    const char *timeline; /* NULL: none */
};

static void usage(FILE *file)
{
    fputs("Usage: thrum-trace [OPTION]...\n"
          "       thrum-trace [OPTION]... FILE|DIRECTORY...\n"
          "Records what the jobs on this host do that use Thrum, or takes what "
          "THRUM_TRACE=DIRECTORY has "
          "left of one,\n"
          "and shows where the time goes and which rank the others wait for.\n"
          "\n"
          "  -s, --seconds SECONDS  record for so long (default 2); an interrupt ends it earlier\n"
          "  -p, --pid NUMBER       only the communicators of this process\n"
          "  -o, --output FILE      a timeline of all ranks, for ui.perfetto.dev and "
          "chrome://tracing\n"
          "  -a, --all              list every communicator, rank and kind of collective\n"
          "  -j, --json             the summary as one object\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "Exit status: 0 all right, 1 a recording is damaged or a process does not answer, 2 bad "
          "usage or "
          "a file that\n"
          "cannot be read or written, 3 nothing recorded.\n",
          file);
}

static void __attribute__((noreturn)) bad_file(const char *path)
{
    fprintf(stderr, "thrum-trace: %s: %s\n", path, strerror(errno));
    exit(BAD);
}

/* ---- files ---- */

static int is_recording(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');

    return end && !strcmp(end, ".trace");
}

static void read_directory(struct trace *trace, const char *path)
{
    struct dirent **names;
    int n = scandir(path, &names, is_recording, alphasort);

    if (n < 0)
        bad_file(path);
    for (int i = 0; i < n; i++) {
        char *file = NULL;

        if (asprintf(&file, "%s/%s", path, names[i]->d_name) < 0)
            process_must(NULL);
        if (!trace_read_file(trace, file))
            bad_file(file);
        free(file);
        free(names[i]);
    }
    free(names);
}

static void read_all(struct trace *trace, char **paths, int n)
{
    for (int i = 0; i < n; i++) {
        struct stat about;

        if (stat(paths[i], &about))
            bad_file(paths[i]);
        if (S_ISDIR(about.st_mode))
            read_directory(trace, paths[i]);
        else if (!trace_read_file(trace, paths[i]))
            bad_file(paths[i]);
    }
}

/* Before the recording, so that it is not in vain; what is in it stays until there is a timeline. */
static FILE *open_timeline(const char *path)
{
    FILE *file = fopen(path, "ae");

    if (!file)
        bad_file(path);
    setvbuf(file, NULL, _IOFBF, 1 << 20);
    return file;
}

static void write_timeline(const struct trace *trace, const char *path, FILE *file)
{
    struct stat about;

    if (!fstat(fileno(file), &about) && S_ISREG(about.st_mode) && ftruncate(fileno(file), 0))
        bad_file(path);
    trace_timeline(trace, file);
    if (ferror(file) | fclose(file))
        bad_file(path);
}

/* ---- options ---- */

static double seconds_option(const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (*text && !*end && value > 0 && value <= 1e6)
        return value;
    fprintf(stderr, "thrum-trace: --seconds %s: a number of seconds is wanted\n", text);
    exit(BAD);
}

static void take_options(int argc, char **argv, struct options *out)
{
    static const struct option table[] = {
        {"seconds", required_argument, NULL, 's'}, {"pid", required_argument, NULL, 'p'},
        {"output", required_argument, NULL, 'o'},  {"all", no_argument, NULL, 'a'},
        {"json", no_argument, NULL, 'j'},          {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},       {NULL, 0, NULL, 0},
    };
    int c;

    *out = (struct options){.seconds = 2};
    while ((c = getopt_long(argc, argv, "s:p:o:ajhV", table, NULL)) != -1)
        switch (c) {
        case 's':
            out->seconds = seconds_option(optarg);
            out->live_only = true;
            break;
        case 'p':
            out->pid = process_pid_option(optarg);
            out->live_only = true;
            break;
        case 'o':
            out->timeline = optarg;
            break;
        case 'a':
            out->all = true;
            break;
        case 'j':
            out->json = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        case 'V':
            printf("thrum-trace %s\n", thrum_version());
            exit(0);
        default:
            usage(stderr);
            exit(BAD);
        }
    if (optind < argc && out->live_only) {
        fprintf(stderr, "thrum-trace: --seconds and --pid are for running processes, not for %s\n",
                argv[optind]);
        exit(BAD);
    }
}

/* Whether there is something to tell. */
static bool is_recorded(const struct trace *trace)
{
    for (size_t i = 0; i < trace->ncomms; i++)
        if (!trace->comms[i].left_out)
            return true;
    return false;
}

static void say_nothing(const struct trace *trace, const struct options *options, bool live,
                        size_t found)
{
    for (size_t i = 0; i < trace->nnotes; i++)
        fprintf(stderr, "note: %s\n", trace->notes[i]);
    if (options->json)
        printf("{\"communicators\": []}\n");
    else if (!live)
        printf("nothing is recorded there\n");
    else if (options->pid)
        printf("process %d has no communicators here\n", (int)options->pid);
    else
        printf(found ? "nothing was recorded\n" : "no process here has communicators\n");
}

int main(int argc, char **argv)
{
    struct options options;
    struct trace trace;
    FILE *timeline = NULL;
    size_t found = 0;
    int status;

    take_options(argc, argv, &options);
    if (options.timeline)
        timeline = open_timeline(options.timeline);
    trace_init(&trace);
    if (optind < argc)
        read_all(&trace, argv + optind, argc - optind);
    else
        found = trace_live(&trace, options.pid, options.seconds);
    trace_sort(&trace);
    trace_align(&trace);
    trace_match(&trace);
    status = trace.damaged ? NOT_WHOLE : 0;
    if (!is_recorded(&trace)) {
        say_nothing(&trace, &options, optind == argc, found);
        status = status ? status : NOTHING;
    } else {
        if (options.json)
            trace_json(&trace, stdout);
        else
            trace_report(&trace, options.all, stdout);
        fflush(stdout);
        if (timeline)
            write_timeline(&trace, options.timeline, timeline);
    }
    trace_free(&trace);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "thrum-trace: cannot write: %s\n", strerror(errno));
        return BAD;
    }
    return status;
}
