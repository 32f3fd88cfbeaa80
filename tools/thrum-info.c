/*
 * thrum-info: what Thrum finds here: devices, topology, configuration, algorithms, fabrics; and why it would choose an
 * algorithm. Links the library's inside, since most of this has no public interface.
 */
#include "info.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/thrum.h>

#include "base/config.h"
#include "select/select.h"
#include "topo/topo.h"

int info_fail(const char *what, thrum_status_t status)
{
    const char *message = thrum_last_error();

    fflush(stdout);
    fprintf(stderr, "thrum-info: %s: %s: %s\n", what, thrum_status_name(status),
            *message ? message : thrum_status_string(status));
    return 1;
}

const char *info_bytes(uint64_t bytes, char text[24])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;

    while (unit < 4 && value >= 1024) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 24, value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value,
             units[unit]);
    return text;
}

void info_wrap(const char *text, int indent, int width)
{
    int column = 0;

    while (*text) {
        int length = (int)strcspn(text, " ");

        if (column && column + 1 + length > width) {
            printf("\n");
            column = 0;
        }
        column +=
            column ? printf(" %.*s", length, text) : printf("%*s%.*s", indent, "", length, text);
        text += length;
        text += strspn(text, " ");
    }
    printf("\n");
}

int info_print_json(json_t *json)
{
    int failed = !json || json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) ||
                 printf("\n") < 0;

    json_decref(json);
    return failed ? info_fail("JSON", THRUM_ERR_NO_MEMORY) : 0;
}

/* The first screen: version, devices, host. */
static int show_overview(bool all, bool json)
{
    json_t *devices = NULL;
    int exit_code;
    thrum_status_t status;

    if (json)
        printf("{\n\"version\": \"%s\",\n\"devices\": ", thrum_version());
    else
        printf("Thrum %s\n\n", thrum_version());
    exit_code = info_devices(all, json, &devices);
    if (json && devices)
        exit_code = info_print_json(devices);
    if (exit_code)
        return exit_code;
    printf(json ? ",\"topology\":\n" : "\n");
    status = topo_print(stdout, json);
    if (status)
        return info_fail("topology", status);
    if (json)
        printf("\n}\n");
    return 0;
}

static int show_topology(bool json)
{
    struct topo *topo = NULL;
    thrum_status_t status = topo_load(&topo);

    if (!status)
        status = topo_write(topo, stdout, json);
    topo_free(topo);
    return status ? info_fail("topology", status) : 0;
}

static void usage(FILE *file)
{
    fputs("Usage: thrum-info [OPTION]...\n"
          "Shows what Thrum finds on this host. Without an option: devices and topology.\n"
          "\n"
          "  -a, --all            look at every device, not only at the first few\n"
          "  -c, --config         effective configuration with defaults, ranges and help\n"
          "  -l, --algorithms     the algorithms of each collective\n"
          "  -f, --fabrics        fabric plugins and what they find\n"
          "  -t, --tuning         what the choice of algorithms is made from, and where it comes "
          "from\n"
          "  -T, --topology       hosts, NUMA nodes and ports: of this host, or of "
          "THRUM_TOPOLOGY_FILE\n"
          "  -w, --why COLLECTIVE SIZE RANKS\n"
          "                       which algorithm would serve such a call, and why; such as "
          "allreduce 1M 8\n"
          "      --dtype TYPE     with --why (default float32)\n"
          "      --op OP          with --why (default sum)\n"
          "      --in-place       with --why\n"
          "      --hosts N        with --why: ranks on so many hosts, in order; without it on "
          "those of\n"
          "                       THRUM_TOPOLOGY_FILE, else one\n"
          "      --adapters       with --why: between hosts adapters move the data, as with verbs; "
          "without\n"
          "                       it cores do, as with tcp\n"
          "      --ranks-per-core N\n"
          "                       with --why: ranks that take turns on a core (default 1)\n"
          "  -j, --json           as JSON\n"
          "  -h, --help\n"
          "  -V, --version\n"
          "\n"
          "Exit status: 0 all right, 1 something failed, 2 bad usage.\n",
          file);
}

enum { OPT_DTYPE = 256, OPT_OP, OPT_IN_PLACE, OPT_SHARE, OPT_HOSTS, OPT_ADAPTERS };

static int run(int argc, char **argv)
{
    static const struct option names[] = {{"all", 0, 0, 'a'},
                                          {"config", 0, 0, 'c'},
                                          {"algorithms", 0, 0, 'l'},
                                          {"fabrics", 0, 0, 'f'},
                                          {"tuning", 0, 0, 't'},
                                          {"topology", 0, 0, 'T'},
                                          {"why", 0, 0, 'w'},
                                          {"json", 0, 0, 'j'},
                                          {"dtype", 1, 0, OPT_DTYPE},
                                          {"op", 1, 0, OPT_OP},
                                          {"in-place", 0, 0, OPT_IN_PLACE},
                                          {"ranks-per-core", 1, 0, OPT_SHARE},
                                          {"hosts", 1, 0, OPT_HOSTS},
                                          {"adapters", 0, 0, OPT_ADAPTERS},
                                          {"help", 0, 0, 'h'},
                                          {"version", 0, 0, 'V'},
                                          {0, 0, 0, 0}};
    struct info_question question = {.dtype = "float32", .op = "sum", .ranks_per_core = "1"};
    bool all = false, json = false;
    int mode = 0, c, positional;
    struct select_policy policy;
    thrum_status_t status;

    while ((c = getopt_long(argc, argv, "aclftTwjhV", names, NULL)) != -1) {
        switch (c) {
        case 'a':
            all = true;
            break;
        case 'j':
            json = true;
            break;
        case 'c':
        case 'l':
        case 'f':
        case 't':
        case 'T':
        case 'w':
            if (mode && mode != c) {
                fprintf(stderr, "thrum-info: one of --config, --algorithms, --fabrics, --tuning, "
                                "--topology and --why at a time\n");
                return 2;
            }
            mode = c;
            break;
        case OPT_DTYPE:
            question.dtype = optarg;
            break;
        case OPT_OP:
            question.op = optarg;
            break;
        case OPT_IN_PLACE:
            question.in_place = true;
            break;
        case OPT_SHARE:
            question.ranks_per_core = optarg;
            break;
        case OPT_HOSTS:
            question.hosts = optarg;
            break;
        case OPT_ADAPTERS:
            question.adapters = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        case 'V':
            printf("thrum-info %s\n", thrum_version());
            return 0;
        default:
            fprintf(stderr, "thrum-info: --help shows the options\n");
            return 2;
        }
    }
    positional = argc - optind;
    if (positional != (mode == 'w' ? 3 : 0)) {
        if (mode == 'w')
            fprintf(
                stderr,
                "thrum-info: --why needs COLLECTIVE SIZE RANKS, such as: --why allreduce 1M 8\n");
        else
            fprintf(stderr, "thrum-info: \"%s\" is not an option; --help shows them\n",
                    argv[optind]);
        return 2;
    }
    status = thrum_config_load();
    if (!status)
        status = select_policy_load(NULL, &policy);
    if (status)
        return info_fail("configuration", status);
    switch (mode) {
    case 'c':
        return info_config(json);
    case 'l':
        return info_algorithms(json);
    case 'f':
        return info_fabrics(json);
    case 't':
        return info_tuning(&policy, json);
    case 'T':
        return show_topology(json);
    case 'w':
        question.collective = argv[optind];
        question.size = argv[optind + 1];
        question.ranks = argv[optind + 2];
        return info_why(&question, &policy, json);
    default:
        return show_overview(all, json);
    }
}

int main(int argc, char **argv)
{
    int result = run(argc, argv);

    if (!result && (fflush(stdout) || ferror(stdout))) {
        fprintf(stderr, "thrum-info: cannot write: %s\n", strerror(errno));
        return 1;
    }
    return result;
}
