/*
 * Whether Thrum serves a call. Called by entry.c.
 *
 * Ranks must come to the same answer without a word. What a rank may look at, beside what the communicator's ranks agreed
 * on: arguments that MPI requires to match, which are the bytes of a type signature (never count and type by themselves,
 * except in reductions), root and operation. Where the memory is, whether types have gaps, MPI_IN_PLACE and
 * displacements may differ: they are dealt with on the rank itself (give.c). Arguments that MPI refuses go to MPI, which
 * says what is wrong through the communicator's error handler; the others then wait, as they would without Thrum.
 */
#include "frontend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

/* ---- policy: from how many bytes to how many ---- */

#define ANY UINT64_MAX
#define MOST_GATHERED (64u << 10) /* of more than two ranks, for tmpi_fold */
#define NEVER \
    { \
        0, 0 \
    }
enum { ROW_TWO, ROW_MORE, ROW_CROWDED, ROWS };

/*
 * Where Thrum was measured to be faster than the MPI below, by perf/compare-mpi-frontend. Bytes of the whole vector for
 * reductions and Bcast, of one block for the others. The v-variants of which no rank knows all sizes are taken always or
 * never.
 */
static const struct tmpi_policy built_in[ROWS] = {
#include "policy_rows.h"
};

static struct tmpi_policy rules[ROWS];
static bool take_all;
const struct tmpi_policy tmpi_all_pass; /* to 0 */
#define X(NAME, Name, name) [TMPI_##NAME] = {0, ANY},
const struct tmpi_policy tmpi_none_passes = {.ranges = {
                                                 {
#include "function_rows.h"
                                                 },
                                                 {
#include "function_rows.h"
                                                 },
                                             }};
const struct tmpi_policy tmpi_nonblocking_pass = {.ranges = {{
#include "function_rows.h"
                                                  }}};
#undef X

static const char *const rule_names[] = {
#define X(NAME, Name, name) #name,
#include "function_rows.h"
#undef X
};

/* What can be tried out: functions of whose size every rank knows. */
#define TRIED (~(1u << TMPI_ALLTOALLV | 1u << TMPI_GATHERV | 1u << TMPI_SCATTERV))

/*
 * Of more than two ranks the last bits of a sum depend on who adds it up, and a run should not differ from the next: there
 * reductions are tried if that was asked for.
 */
static void set_tried(unsigned two, unsigned more)
{
    rules[ROW_TWO].tried = two;
    rules[ROW_MORE].tried = rules[ROW_CROWDED].tried = more;
}

static void set_rule(int function, bool with_blocking, struct tmpi_range range)
{
    for (int row = 0; row < ROWS; row++) {
        if (with_blocking) {
            rules[row].ranges[0][function] = range;
            rules[row].tried &= ~(1u << function);
        }
        rules[row].ranges[1][function] = rules[row].moved[function] = range;
        rules[row].ruled |= 1u << function;
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
static bool read_range(const char *text, struct tmpi_range *out)
{
    *out = (struct tmpi_range){0, ANY};
    if (!*text || !strcmp(text, ":all"))
        return true;
    if (!strcmp(text, ":none")) {
        *out = (struct tmpi_range)NEVER;
        return true;
    }
    text++;
    if (!read_size(&text, 0, &out->from) || *text++ != '-')
        return false;
    return read_size(&text, ANY, &out->to) && !*text;
}

static bool add_rule(const char *rule)
{
    const struct tmpi_range all = {0, ANY}, none = NEVER;
    size_t length = strcspn(rule, ":");
    struct tmpi_range range;

    if (!strcmp(rule, "auto"))
        return true;
    if (!strcmp(rule, "table") || !strcmp(rule, "try")) {
        unsigned tried = rule[1] == 'r' ? TRIED : 0;

        set_tried(tried, tried);
        return true;
    }
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
    set_tried(TRIED, TRIED & ~TMPI_REDUCTIONS);
    while (good && (rule = strtok_r(rest, ",", &rest)))
        if (!add_rule(rule)) {
            thrum_plugin_log(THRUM_LOG_ERROR,
                             "THRUM_MPI_TAKE=%s: \"%s\" is not auto, table, try, all, none or "
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

const struct tmpi_policy *tmpi_policy_of(int size, bool crowded)
{
    return &rules[crowded ? ROW_CROWDED : size == 2 ? ROW_TWO : ROW_MORE];
}

/* ---- the call ---- */

/* MPI_IN_PLACE where it has no meaning is for MPI to refuse. */
static bool is_in_place_allowed(const struct tmpi_call *call, bool at_root)
{
    bool send = call->send == MPI_IN_PLACE, recv = call->recv == MPI_IN_PLACE;

    switch (call->function) {
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

static bool are_good(const int *counts, int n)
{
    if (!counts)
        return false;
    for (int r = 0; r < n; r++)
        if (counts[r] < 0)
            return false;
    return true;
}

/* The operation of a reduction. */
static enum tmpi_reason look_at_op(const struct tmpi_call *call, enum tmpi_mode mode,
                                   struct tmpi_taken *taken)
{
    const struct tmpi_comm *comm = taken->comm;
    bool commutes = true;

    if (!tmpi_op_of(call->op, taken->sendtype, &taken->redop, &taken->is_user_op, &commutes))
        return taken->is_user_op ? TMPI_TYPE : TMPI_OP;
    if (!taken->is_user_op)
        return TMPI_TAKEN;
    taken->is_moved = mode != TMPI_BLOCKING || !taken->sendtype->has_dtype || !comm->has_user_ops;
    taken->redop = comm->user_ops[commutes];
    return TMPI_TAKEN;
}

/* Counts of all ranks, where this one must have them. */
static bool has_good_counts(const struct tmpi_call *call, const struct tmpi_taken *taken)
{
    const struct tmpi_comm *comm = taken->comm;
    bool at_root = call->root == comm->rank;

    switch (call->function) {
    case TMPI_REDUCE_SCATTER:
    case TMPI_ALLGATHERV:
        return are_good(call->recvcounts, comm->size);
    case TMPI_ALLTOALLV:
        return are_good(call->recvcounts, comm->size) &&
               (!taken->sendtype || are_good(call->sendcounts, comm->size));
    case TMPI_GATHERV:
        return !at_root || are_good(call->recvcounts, comm->size);
    case TMPI_SCATTERV:
        return !at_root || are_good(call->sendcounts, comm->size);
    default:
        return true;
    }
}

/* The most that any rank may have to stage, of what the policy calls `bytes`; 0: what nobody knows. */
static uint64_t staged_bytes(enum tmpi_function function, uint64_t bytes, uint64_t n)
{
    switch (function) {
    case TMPI_ALLGATHER:
    case TMPI_ALLTOALL:
        return 2 * n * bytes;
    case TMPI_ALLGATHERV:
        return 2 * n * bytes + n; /* `bytes` was rounded down */
    case TMPI_GATHER:
    case TMPI_SCATTER:
        return (n + 1) * bytes;
    case TMPI_ALLTOALLV:
    case TMPI_GATHERV:
    case TMPI_SCATTERV:
        return 0;
    default:
        return 2 * bytes;
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

/*
 * A reduction whose contributions are moved; the rest as for others, so that tmpi_passes need not know. The table was
 * measured with up to four ranks: what is gathered grows with their number, and what MPI moves does not.
 */
static enum tmpi_reason look_at_moved(const struct tmpi_comm *comm, enum tmpi_function function,
                                      uint64_t bytes, bool good)
{
    const struct tmpi_range *range = &comm->policy->moved[function];
    bool scatters = function == TMPI_REDUCE_SCATTER || function == TMPI_REDUCE_SCATTER_BLOCK;
    uint64_t gathered = (scatters ? 1 : (uint64_t)comm->size) * bytes;
    bool by_table = !(comm->policy->ruled >> function & 1);

    if (!good || bytes < range->from || bytes > range->to ||
        (by_table && !scatters && comm->size > 2 && gathered > MOST_GATHERED))
        return TMPI_POLICY;
    return gathered + bytes > comm->stage_bytes ? TMPI_LARGE : TMPI_TAKEN;
}

static enum tmpi_reason look(const struct tmpi_call *call, enum tmpi_mode mode,
                             struct tmpi_taken *taken)
{
    const struct tmpi_comm *comm = taken->comm;
    const struct tmpi_range *range = &comm->policy->ranges[mode != TMPI_BLOCKING][call->function];
    enum tmpi_reason reason = TMPI_TAKEN;
    const struct tmpi_type *type;
    bool send, recv, in_range;
    bool tried = mode == TMPI_BLOCKING && comm->policy->tried >> call->function & 1;
    uint64_t bytes;

    if (!range->to && !tried)
        return TMPI_POLICY;
    meaning(call, comm, &send, &recv);
    if (send && !(taken->sendtype = tmpi_type_of(call->sendtype)))
        return TMPI_ARGUMENTS;
    if (recv && !(taken->recvtype = tmpi_type_of(call->recvtype)))
        return TMPI_ARGUMENTS;
    if (!is_known(call, taken) || !has_good_counts(call, taken))
        return TMPI_ARGUMENTS;
    if (tmpi_reduces(call->function))
        reason = look_at_op(call, mode, taken);
    if (reason)
        return reason;
    type = tmpi_goes_by_recv(call, comm) ? taken->recvtype : taken->sendtype;
    bytes = tmpi_policy_bytes(call, comm, type ? type->size : 0);
    in_range = bytes >= range->from && bytes <= range->to;
    if (!bytes || (!in_range && !tried))
        return TMPI_POLICY;
    if (taken->is_moved)
        return look_at_moved(comm, call->function, bytes,
                             !tried || !tmpi_settled_for_mpi(comm, call->function, bytes));
    if (staged_bytes(call->function, bytes, (uint64_t)comm->size) > comm->stage_bytes)
        return TMPI_LARGE;
    return tried ? tmpi_trial_decide(taken, call->function, bytes, in_range) : TMPI_TAKEN;
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
        if (comm->calls < comm->after) {
            comm->calls++;
            return TMPI_EARLY;
        }
        if (mode == TMPI_NONBLOCKING) {
            (void)tmpi_comm_learn(call->comm); /* so that the next one passes */
            return TMPI_NOT_MADE;
        }
        tmpi_comm_make(comm);
    }
    if (comm->why)
        return comm->why;
    *taken_out = (struct tmpi_taken){.comm = comm};
    return look(call, mode, taken_out);
}
