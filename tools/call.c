/* What thrum-plan and thrum-sim share; see call.h. */
#include "call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algo/algo.h"
#include "base/base.h"
#include "base/config.h"

enum { EXIT_USAGE = 2 };

void call_init(struct call *call)
{
    *call = (struct call){
        .params = {.nranks = 4,
                   .count = 1 << 20,
                   .dtype = THRUM_FLOAT32,
                   .peer_access = true,
                   .lanes = 1,
                   .scratch_bytes = 4 << 20},
    };
}

void call_fini(struct call *call)
{
    free(call->counts);
    plan_layout_destroy(call->layout);
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

int call_complain(const char *what, const char *value)
{
    fprintf(stderr, "%s: %s: '%s' (see --help)\n", program_invocation_short_name, what, value);
    return EXIT_USAGE;
}

int call_complain_option(int option, const char *name, const char *value)
{
    char what[64];

    if (option < CALL_COUNT)
        snprintf(what, sizeof(what), "no such or bad value of -%c", option);
    else
        snprintf(what, sizeof(what), "no such or bad value of --%s", name);
    return call_complain(what, value);
}

bool call_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out)
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

bool call_parse_int(const char *text, int min, int max, int *out)
{
    uint64_t value;
    if (!call_parse_u64(text, (uint64_t)min, (uint64_t)max, &value))
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

static bool parse_collective(const char *text, struct call *call)
{
    int collective = collective_by_name(text);
    if (collective < 0)
        return false;
    call->params.collective = (enum collective)collective;
    call->collective = text;
    return true;
}

/* "3,0,2" */
static bool parse_counts(const char *text, struct call *call)
{
    char *copy = strdup(text), *rest = copy;
    bool good = copy != NULL;
    call->ncounts = 0;
    for (char *word = strsep(&rest, ","); good && word; word = strsep(&rest, ",")) {
        uint64_t *more = realloc(call->counts, ((size_t)call->ncounts + 1) * sizeof(*call->counts));
        if (more)
            call->counts = more;
        good = more && call_parse_u64(word, 0, UINT64_MAX, &call->counts[call->ncounts++]);
    }
    free(copy);
    return good;
}

bool call_take(struct call *call, int option, const char *value)
{
    struct plan_params *params = &call->params;

    switch (option) {
    case 'c':
        return parse_collective(value, call);
    case 'a':
        call->algorithm = value;
        return true;
    case 'n':
        call->ranks_named = true;
        return call_parse_int(value, 1, 1 << 20, &params->nranks);
    case CALL_COUNT:
        call->count_named = true;
        return call_parse_u64(value, 0, UINT64_MAX, &params->count);
    case CALL_COUNTS:
        return parse_counts(value, call);
    case CALL_DTYPE:
        return parse_dtype(value, &params->dtype);
    case CALL_OP:
        return parse_redop(value, &params->redop);
    case CALL_ROOT:
        return call_parse_int(value, 0, (1 << 20) - 1, &params->root);
    case CALL_ORDERED:
        params->ordered = true;
        return true;
    case CALL_IN_PLACE:
        params->in_place = true;
        return true;
    case CALL_NO_PEER_ACCESS:
        params->peer_access = false;
        return true;
    case CALL_HOSTS:
        return call_parse_int(value, 1, 1 << 20, &call->hosts);
    case CALL_LANES:
        return call_parse_int(value, 1, PLAN_MAX_LANES, &params->lanes);
    case CALL_SCRATCH:
        return call_parse_u64(value, 0, UINT64_MAX, &params->scratch_bytes);
    default:
        return false;
    }
}

/* Blocks of their own sizes: as many as ranks. */
static bool take_counts(struct call *call)
{
    struct plan_params *params = &call->params;
    if (!call->collective ||
        (params->collective != COLL_ALLGATHER && params->collective != COLL_REDUCE_SCATTER) ||
        (call->ranks_named && params->nranks != call->ncounts))
        return false;
    params->nranks = call->ncounts;
    params->counts = call->counts;
    params->count = 0;
    for (int i = 0; i < call->ncounts; i++)
        params->count = max_u64(params->count, call->counts[i]);
    return true;
}

int call_check(struct call *call)
{
    if (call->counts && !take_counts(call))
        return call_complain(
            "--counts needs as many numbers as --ranks, and a collective with blocks",
            call->collective ? call->collective : "");
    if (call->algorithm && !call->collective)
        return call_complain("--algorithm needs --collective", call->algorithm);
    if (call->algorithm && !algo_find(call->params.collective, call->algorithm))
        return call_complain("no such algorithm of this collective", call->algorithm);
    return -1;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

const char *call_refuse(const struct plan_params *params)
{
    size_t bytes;
    if (params->root >= params->nranks)
        return "--root is not below --ranks";
    if (!plan_op_takes(params->redop, params->dtype))
        return "--op is not defined for this --dtype";
    if (mul_overflows(params->count, thrum_datatype_size(params->dtype), &bytes) ||
        mul_overflows(bytes, (size_t)params->nranks, &bytes))
        return "--count is too large";
    return NULL;
}

thrum_status_t call_lay_out(struct call *call, double *link_out)
{
    struct plan_params *params = &call->params;
    struct topo *topo = NULL;
    const char *path = thrum_config_string(CFG_TOPOLOGY_FILE);
    int *hosts = malloc((size_t)params->nranks * sizeof(*hosts));
    thrum_status_t status = hosts ? THRUM_OK : THRUM_ERR_NO_MEMORY;
    if (!status && (!call->hosts || link_out) && *path)
        status = topo_read(path, &topo);
    for (int r = 0; r < params->nranks && call->hosts && !status; r++)
        hosts[r] = (int)((int64_t)r * call->hosts / params->nranks);
    if (!status && topo && !call->hosts)
        status = topo_place(topo, params->nranks, hosts);
    if (!status && (topo || call->hosts))
        status = plan_layout_create(hosts, params->nranks, &call->layout);
    if (link_out)
        *link_out = topo ? topo_link_gbytes(topo) : 0;
    topo_free(topo);
    free(hosts);
    if (!call->layout || call->layout->nhosts == 1)
        return status;
    params->layout = params->peer_access ? call->layout : NULL;
    params->peer_access = false;
    return status;
}

void call_shift(struct plan_params *params, struct plan_p2p entries[2])
{
    uint64_t bytes = params->count * thrum_datatype_size(params->dtype);
    int n = params->nranks, next = (params->rank + 1) % n, before = (params->rank + n - 1) % n;

    entries[0] = (struct plan_p2p){.peer = next, .is_send = true, .bytes = bytes, .offset = 0};
    entries[1] = (struct plan_p2p){.peer = before, .is_send = false, .bytes = bytes, .offset = 0};
    params->p2p = entries;
    params->np2p = 2;
}
