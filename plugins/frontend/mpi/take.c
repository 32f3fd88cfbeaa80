/*
 * Whether Thrum serves a call. Called by entry.c.
 *
 * Ranks must come to the same answer without a word. What a rank may look at, beside what the communicator's ranks agreed
 * on: arguments that MPI requires to match, which are the bytes of a type signature (never count and type by themselves,
 * except in reductions), root and operation. Where the memory is, whether types have gaps, MPI_IN_PLACE and
 * displacements may differ: they are dealt with on the rank itself (work.c). Arguments that MPI refuses go to MPI, which
 * says what is wrong through the communicator's error handler; the others then wait, as they would without Thrum.
 */
#include "frontend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

/* ---- policy: from how many bytes to how many ---- */

struct range {
    uint64_t from, to; /* both included; to 0: never */
};

#define ANY UINT64_MAX
#define NEVER \
    { \
        0, 0 \
    }
enum { ROW_TWO, ROW_MORE, ROW_CROWDED, ROWS };

/*
 * Where Thrum was measured to be faster than the MPI below, by perf/compare-mpi-frontend. Bytes of the whole vector for
 * reductions and Bcast, of one block for the others. The v-variants of which no rank knows all sizes are taken always or
 * never. [row][0] blocking, [1] nonblocking and persistent.
 */
static const struct range built_in[ROWS][2][TMPI_FUNCTIONS] = {
#include "policy_rows.h"
};

static struct range rules[ROWS][2][TMPI_FUNCTIONS];
static bool take_all;

static const char *const rule_names[] = {
#define X(name, text, rule) rule,
#include "function_rows.h"
#undef X
};

static void set_rule(int function, bool with_blocking, struct range range)
{
    for (int row = 0; row < ROWS; row++) {
        if (with_blocking)
            rules[row][0][function] = range;
        rules[row][1][function] = range;
    }
}

/* "64", "4K", or nothing, up to the end or `stop`. */
static bool read_size(const char **text, uint64_t missing, uint64_t *out)
{
    char *end;

    if (**text < '0' || **text > '9') {
        *out = missing;
        return true;
    }
    *out = strtoull(*text, &end, 10);
    if (*end == 'K' || *end == 'M' || *end == 'G') {
        int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30;

        if (*out > ANY >> shift)
            return false;
        *out <<= shift;
        end++;
    }
    *text = end;
    return true;
}

/* What follows the name: "", ":all", ":none", ":FROM-TO". */
static bool read_range(const char *text, struct range *out)
{
    *out = (struct range){0, ANY};
    if (!*text || !strcmp(text, ":all"))
        return true;
    if (!strcmp(text, ":none")) {
        *out = (struct range)NEVER;
        return true;
    }
    text++;
    if (!read_size(&text, 0, &out->from) || *text++ != '-')
        return false;
    return read_size(&text, ANY, &out->to) && !*text;
}

static bool add_rule(const char *rule)
{
    const struct range all = {0, ANY}, none = NEVER;
    size_t length = strcspn(rule, ":");
    struct range range;

    if (!strcmp(rule, "auto"))
        return true;
    if (!strcmp(rule, "all") || !strcmp(rule, "none")) {
        take_all = rule[0] == 'a';
        for (int function = 0; function < TMPI_FUNCTIONS; function++)
            set_rule(function, true, take_all ? all : none);
        return true;
    }
    if (!read_range(rule + length, &range))
        return false;
    for (int function = 0; function < TMPI_FUNCTIONS; function++) {
        const char *name = rule_names[function];
        bool nonblocking = rule[0] == 'i' && strncmp(rule, name, length);

        if (length - nonblocking == strlen(name) &&
            !strncmp(rule + nonblocking, name, strlen(name))) {
            set_rule(function, !nonblocking, range);
            return true;
        }
    }
    return false;
}

bool tmpi_policy_init(void)
{
    char *text = strdup(thrum_plugin_config("THRUM_MPI_TAKE")), *rest = text, *rule;
    bool good = text != NULL;

    memcpy(rules, built_in, sizeof rules);
    while (good && (rule = strtok_r(rest, ",", &rest)))
        if (!add_rule(rule)) {
            thrum_plugin_log(THRUM_LOG_ERROR,
                             "THRUM_MPI_TAKE=%s: \"%s\" is not auto, all, none or "
                             "FUNCTION[:all|:none|:FROM-TO]; all calls go to MPI",
                             thrum_plugin_config("THRUM_MPI_TAKE"), rule);
            good = false;
        }
    free(text);
    return good;
}

bool tmpi_policy_all(void)
{
    return take_all;
}

unsigned tmpi_policy_row(int size, bool crowded)
{
    return crowded ? ROW_CROWDED : size == 2 ? ROW_TWO : ROW_MORE;
}

/* ---- the call ---- */

/* What a look at the arguments yields. */
struct size {
    uint64_t bytes; /* what the policy goes by */
    uint64_t staged; /* the most that any rank may have to stage */
};

/* MPI_IN_PLACE where it has no meaning is for MPI to refuse. */
static bool is_in_place_allowed(const struct tmpi_call *call, bool at_root)
{
    bool send = call->send == MPI_IN_PLACE, recv = call->recv == MPI_IN_PLACE;

    switch (call->function) {
    case TMPI_BCAST:
        return !send;
    case TMPI_REDUCE:
        return at_root ? !recv : !send;
    case TMPI_GATHER:
    case TMPI_GATHERV:
        return at_root ? !recv : !send;
    case TMPI_SCATTER:
    case TMPI_SCATTERV:
        return at_root ? !send : !recv;
    default:
        return !recv;
    }
}

static bool is_known(const struct tmpi_call *call, const struct tmpi_taken *taken)
{
    const struct tmpi_comm *comm = taken->comm;

    return call->root >= 0 && call->root < comm->size &&
           is_in_place_allowed(call, call->root == comm->rank) &&
           (!taken->sendtype || call->sendcount >= 0) && (!taken->recvtype || call->recvcount >= 0);
}

static uint64_t send_size(const struct tmpi_call *call, const struct tmpi_taken *taken)
{
    return (uint64_t)call->sendcount * taken->sendtype->size;
}

static uint64_t recv_size(const struct tmpi_call *call, const struct tmpi_taken *taken)
{
    return (uint64_t)call->recvcount * taken->recvtype->size;
}

static bool are_good(const int *counts, int n)
{
    if (!counts)
        return false;
    for (int r = 0; r < n; r++)
        if (counts[r] < 0)
            return false;
    return true;
}

static uint64_t sum(const int *counts, int n)
{
    uint64_t total = 0;

    for (int r = 0; r < n; r++)
        total += (uint64_t)counts[r];
    return total;
}

/* The operation; counts and types of reductions are the same on all ranks. */
static enum tmpi_reason look_at_reduction(const struct tmpi_call *call, enum tmpi_mode mode,
                                          struct tmpi_taken *taken, struct size *size)
{
    const struct tmpi_comm *comm = taken->comm;
    uint64_t count = (uint64_t)call->sendcount;
    bool commutes = true;

    if (call->function == TMPI_REDUCE_SCATTER) {
        if (!are_good(call->recvcounts, comm->size))
            return TMPI_ARGUMENTS;
        count = sum(call->recvcounts, comm->size);
    } else if (call->function == TMPI_REDUCE_SCATTER_BLOCK) {
        count = (uint64_t)call->recvcount * (uint64_t)comm->size;
    }
    if (!tmpi_op_of(call->op, taken->sendtype, &taken->redop, &taken->is_user_op, &commutes))
        return taken->is_user_op ? TMPI_TYPE : TMPI_OP;
    if (taken->is_user_op) {
        if (!comm->has_user_ops)
            return TMPI_OP;
        if (mode != TMPI_BLOCKING)
            return TMPI_USER_OP;
        taken->redop = comm->user_ops[commutes];
    }
    size->bytes = count * taken->sendtype->size;
    size->staged = 2 * size->bytes;
    return TMPI_TAKEN;
}

/* Sizes of calls that move data only. */
static enum tmpi_reason look_at_move(const struct tmpi_call *call, const struct tmpi_taken *taken,
                                     struct size *size)
{
    const struct tmpi_comm *comm = taken->comm;
    uint64_t n = (uint64_t)comm->size;
    bool at_root = call->root == comm->rank;

    switch (call->function) {
    case TMPI_BCAST:
        size->bytes = send_size(call, taken);
        size->staged = 2 * size->bytes;
        return TMPI_TAKEN;
    case TMPI_ALLGATHER:
    case TMPI_ALLTOALL:
        size->bytes = recv_size(call, taken);
        size->staged = 2 * n * size->bytes;
        return TMPI_TAKEN;
    case TMPI_GATHER:
        size->bytes = at_root ? recv_size(call, taken) : send_size(call, taken);
        size->staged = (n + 1) * size->bytes;
        return TMPI_TAKEN;
    case TMPI_SCATTER:
        size->bytes = at_root ? send_size(call, taken) : recv_size(call, taken);
        size->staged = (n + 1) * size->bytes;
        return TMPI_TAKEN;
    case TMPI_ALLGATHERV:
        if (!are_good(call->recvcounts, comm->size))
            return TMPI_ARGUMENTS;
        size->bytes = sum(call->recvcounts, comm->size) * taken->recvtype->size / n;
        size->staged = 2 * n * size->bytes + n;
        return TMPI_TAKEN;
    case TMPI_ALLTOALLV:
        if (!are_good(call->recvcounts, comm->size) ||
            (taken->sendtype && !are_good(call->sendcounts, comm->size)))
            return TMPI_ARGUMENTS;
        size->bytes = 1; /* what nobody knows */
        return TMPI_TAKEN;
    case TMPI_GATHERV:
        if (at_root && !are_good(call->recvcounts, comm->size))
            return TMPI_ARGUMENTS;
        size->bytes = 1;
        return TMPI_TAKEN;
    case TMPI_SCATTERV:
        if (at_root && !are_good(call->sendcounts, comm->size))
            return TMPI_ARGUMENTS;
        size->bytes = 1;
        return TMPI_TAKEN;
    default:
        return TMPI_ARGUMENTS;
    }
}

/* Which of the two types mean something on this rank. */
static void meaning(const struct tmpi_call *call, const struct tmpi_comm *comm, bool *send_out,
                    bool *recv_out)
{
    bool at_root = call->root == comm->rank;

    *send_out = *recv_out = true;
    switch (call->function) {
    case TMPI_BARRIER:
        *send_out = *recv_out = false;
        break;
    case TMPI_GATHER:
    case TMPI_GATHERV:
        *recv_out = at_root;
        *send_out = !at_root || call->send != MPI_IN_PLACE;
        break;
    case TMPI_SCATTER:
    case TMPI_SCATTERV:
        *send_out = at_root;
        *recv_out = !at_root || call->recv != MPI_IN_PLACE;
        break;
    case TMPI_ALLGATHER:
    case TMPI_ALLGATHERV:
    case TMPI_ALLTOALL:
    case TMPI_ALLTOALLV:
        *send_out = call->send != MPI_IN_PLACE;
        break;
    default:
        *recv_out = false; /* one type for both */
        break;
    }
}

static enum tmpi_reason look(const struct tmpi_call *call, enum tmpi_mode mode,
                             struct tmpi_taken *taken)
{
    const struct tmpi_comm *comm = taken->comm;
    const struct range *range = &rules[comm->row][mode != TMPI_BLOCKING][call->function];
    struct size size = {0, 0};
    enum tmpi_reason reason = TMPI_TAKEN;
    bool send, recv;

    if (!range->to)
        return TMPI_POLICY;
    meaning(call, comm, &send, &recv);
    if (send && !(taken->sendtype = tmpi_type_of(call->sendtype)))
        return TMPI_ARGUMENTS;
    if (recv && !(taken->recvtype = tmpi_type_of(call->recvtype)))
        return TMPI_ARGUMENTS;
    if (!is_known(call, taken))
        return TMPI_ARGUMENTS;
    if (call->function == TMPI_BARRIER)
        return TMPI_TAKEN;
    reason = tmpi_reduces(call->function) ? look_at_reduction(call, mode, taken, &size)
                                          : look_at_move(call, taken, &size);
    if (reason)
        return reason;
    if (!size.bytes || size.bytes < range->from || size.bytes > range->to)
        return TMPI_POLICY;
    return size.staged > comm->stage_bytes ? TMPI_LARGE : TMPI_TAKEN;
}

enum tmpi_reason tmpi_decide(const struct tmpi_call *call, enum tmpi_mode mode,
                             struct tmpi_taken *taken_out)
{
    struct tmpi_comm *comm;

    if (TMPI_UNLIKELY(!tmpi_ready()))
        return TMPI_FINALIZING;
    if (call->comm == MPI_COMM_NULL || !(comm = tmpi_comm_of(call->comm)))
        return TMPI_ARGUMENTS;
    if (TMPI_UNLIKELY(!comm->made)) {
        if (comm->calls++ < tmpi.after)
            return TMPI_EARLY;
        if (mode == TMPI_NONBLOCKING)
            return TMPI_NOT_MADE;
        tmpi_comm_make(comm);
    }
    if (comm->why)
        return comm->why;
    *taken_out = (struct tmpi_taken){.comm = comm};
    return look(call, mode, taken_out);
}
