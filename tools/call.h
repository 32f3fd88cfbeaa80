/* The call that thrum-plan and thrum-sim are asked about: its options, and the hosts of its ranks. */
#ifndef TOOLS_CALL_H
#define TOOLS_CALL_H

#include "plan/plan.h"
#include "topo/topo.h"

struct call {
    struct plan_params params;
    const char *collective, *algorithm; /* NULL: not named */
    bool ranks_named, count_named;
    uint64_t *counts; /* of --counts, owned; NULL: none */
    int ncounts;
    int hosts; /* of --hosts; 0: not said */
    struct plan_layout *layout; /* owned; NULL: one host */
};

/* Rows of a table for getopt_long, which a program's own follow; call_take takes these, and -c, -a and -n. */
enum {
    CALL_COUNT = 256,
    CALL_COUNTS,
    CALL_DTYPE,
    CALL_OP,
    CALL_ROOT,
    CALL_ORDERED,
    CALL_IN_PLACE,
    CALL_NO_PEER_ACCESS,
    CALL_HOSTS,
    CALL_LANES,
    CALL_SCRATCH,
    CALL_END
};
/* clang-format off */
#define CALL_OPTIONS \
    {"collective", required_argument, NULL, 'c'}, \
    {"algorithm", required_argument, NULL, 'a'}, \
    {"ranks", required_argument, NULL, 'n'}, \
    {"count", required_argument, NULL, CALL_COUNT}, \
    {"counts", required_argument, NULL, CALL_COUNTS}, \
    {"dtype", required_argument, NULL, CALL_DTYPE}, \
    {"op", required_argument, NULL, CALL_OP}, \
    {"root", required_argument, NULL, CALL_ROOT}, \
    {"ordered", no_argument, NULL, CALL_ORDERED}, \
    {"in-place", no_argument, NULL, CALL_IN_PLACE}, \
    {"no-peer-access", no_argument, NULL, CALL_NO_PEER_ACCESS}, \
    {"hosts", required_argument, NULL, CALL_HOSTS}, \
    {"lanes", required_argument, NULL, CALL_LANES}, \
    {"scratch", required_argument, NULL, CALL_SCRATCH}
/* clang-format on */

/* The lines of a usage text for those that have no letter. */
#define CALL_USAGE \
    "      --count N        elements, as in the call; K, M, G allowed (1M)\n" \
    "      --counts A,B,..  of allgather, reduce_scatter: elements of each rank's block, instead " \
    "of\n" \
    "                       --count and --ranks\n" \
    "      --dtype T        float32, bfloat16, int8, ... (float32)\n" \
    "      --op O           sum, prod, max, min, avg, band, ... (sum)\n" \
    "      --root R         of broadcast, reduce, gather, scatter (0)\n" \
    "      --ordered        fold in rank order: refuse the algorithms that do not\n" \
    "      --in-place       send and receive buffer are one\n" \
    "      --no-peer-access only puts reach other ranks' memory\n" \
    "      --hosts N        hosts, with as many ranks on each, in order; without it those of\n" \
    "                       THRUM_TOPOLOGY_FILE, else one\n" \
    "      --lanes N        lanes that the plan may use, 1 to 4 (1)\n" \
    "      --scratch BYTES  scratch of each rank; K, M, G allowed (4M)\n"

/* Defaults: 4 ranks, 1M float32, sum, peer access, one lane, 4M of scratch. */
void call_init(struct call *call);
void call_fini(struct call *call);
/* False if its value is no good. */
bool call_take(struct call *call, int option, const char *value);

/* A number with an optional binary suffix; false if it is none, or not in the range. */
bool call_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out);
bool call_parse_int(const char *text, int min, int max, int *out);

/* Says so on stderr, behind the program's name. Returns the exit status for it, 2. */
int call_complain(const char *what, const char *value);
/* That an option of the program's table was not understood. */
int call_complain_option(int option, const char *name, const char *value);

/* After the options: what contradicts what is complained of. -1: nothing; else the exit status. */
int call_check(struct call *call);
/* What the library's interface would refuse too; NULL: nothing. Static. */
const char *call_refuse(const struct plan_params *params);

/*
 * Sets layout, and peer access: by --hosts, or by THRUM_TOPOLOGY_FILE. *link_out (NULL: not wanted): what the hosts' links
 * carry, GB/s, 0 if it is not known.
 */
thrum_status_t call_lay_out(struct call *call, double *link_out);

/* The example of SENDRECV: to the next rank, from the one before. Sets p2p, which `entries` has to outlive. */
void call_shift(struct plan_params *params, struct plan_p2p entries[2]);

#endif
