/* thrum-conformance: runs the conformance suite on a plugin. For vendors, and for `make check`. */
#include <ctype.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#include "device_conformance.h"
#include "fabric_conformance.h"
#include "fabric_nodes.h"
#include "holdings.h"

static void usage(FILE *file)
{
    fputs(
        "Usage: thrum-conformance [OPTION ...] fabric NAME [DEVICE]\n"
        "       thrum-conformance [OPTION ...] device NAME [INDEX]\n"
        "Tries whether a plugin keeps the contract of its header, through its table only.\n"
        "\n"
        "  fabric NAME   thrum-fabric-NAME.so of THRUM_PLUGIN_PATH or the installed folder,\n"
        "                or a built-in fabric\n"
        "  DEVICE        as THRUM_FABRIC_DEVICE; the plugin's best if not given\n"
        "  device NAME   the same of thrum-device-NAME.so, or sim\n"
        "  INDEX         of the device; the first that no process has if not given\n"
        "  -q, --quick   a fifth of the rounds where a test repeats something\n"
        "  -t, --test PATTERN  only tests whose name matches, with * and ?\n"
        "  -l, --leak BYTES    so many bytes may be left behind by a use (512)\n"
        "  -h, --help\n"
        "  -V, --version\n"
        "\n"
        "CMOCKA_MESSAGE_OUTPUT=TAP changes the output, as cmocka says.\n"
        "Exit status: 0 all right, 1 a test failed or the plugin cannot be loaded, 2 bad usage.\n",
        file);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"quick", 0, 0, 'q'},   {"test", 1, 0, 't'},
                                          {"leak", 1, 0, 'l'},    {"help", 0, 0, 'h'},
                                          {"version", 0, 0, 'V'}, {0, 0, 0, 0}};
    char *end;
    int c;

    while ((c = getopt_long(argc, argv, "qt:l:hV", names, NULL)) != -1) {
        switch (c) {
        case 'q':
            nodes_quick = true;
            break;
        case 't':
            cmocka_set_test_filter(optarg);
            break;
        case 'l':
            holdings_let_pass = strtoul(optarg, &end, 10);
            if (!isdigit((unsigned char)*optarg) || *end || holdings_let_pass > 1u << 30) {
                fprintf(stderr, "thrum-conformance: --leak %s: not a number of bytes\n", optarg);
                return 2;
            }
            break;
        case 'h':
            usage(stdout);
            return 0;
        case 'V':
            printf("thrum-conformance %s\n", thrum_version());
            return 0;
        default:
            fprintf(stderr, "thrum-conformance: --help shows the options\n");
            return 2;
        }
    }
    argc -= optind;
    argv += optind;
    if (argc < 2 || argc > 3 || (strcmp(argv[0], "fabric") && strcmp(argv[0], "device"))) {
        fprintf(stderr, "thrum-conformance: usage: thrum-conformance [OPTION ...] fabric|device "
                        "NAME [DEVICE]\n");
        return 2;
    }
    return (*argv[0] == 'f' ? fabric_conformance
                            : device_conformance)(argv[1], argc > 2 ? argv[2] : NULL) != 0;
}
