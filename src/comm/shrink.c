/*
 * A new communicator of those ranks that are left, from one whose control plane may have broken with the others: they meet
 * at the place of the first of them (meet.c). Who is left they know, or find out (bootstrap/survivors.c). Public entry points.
 */
#include "comm/comm.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* What all that meet agree on; hashed with the communicator's secret. */
struct purpose {
    char what[16];
    uint64_t number; /* of the calls that exclude the same ranks, or to survivors */
    uint8_t excluded[]; /* by rank: 1 or 0 */
};

static thrum_status_t check_comm(thrum_comm_t comm, const thrum_comm_t *out)
{
    if (!comm_is_valid(comm) || comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is %s", (void *)comm,
                          comm_is_valid(comm) ? "finalized" : "not a live communicator");
    if (!out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    return THRUM_OK;
}

static thrum_status_t check_excluded(const struct thrum_comm *comm, const int *excluded, int n)
{
    if (n < 0 || n >= comm->nranks || (n && !excluded))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "nexcluded=%d is not between 0 and %d, or excluded is NULL", n,
                          comm->nranks - 1);
    for (int i = 0; i < n; i++)
        if (excluded[i] < 0 || excluded[i] >= comm->nranks || excluded[i] == comm->rank)
            return thrum_fail(THRUM_ERR_INVALID_RANK, "excluded[%d]=%d is %s", i, excluded[i],
                              excluded[i] == comm->rank ? "the calling rank"
                                                        : "outside the communicator");
    return THRUM_OK;
}

/* Ranks that are left agree on how often they were left by the same others, and on nothing else. */
static thrum_status_t count_call(struct thrum_comm *comm, struct purpose *purpose)
{
    size_t n = (size_t)comm->nranks;
    struct comm_shrink *shrink = comm->shrinks;

    while (shrink && memcmp(shrink->excluded, purpose->excluded, n))
        shrink = shrink->next;
    if (!shrink) {
        shrink = calloc(1, sizeof *shrink + n);
        if (!shrink)
            return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
        memcpy(shrink->excluded, purpose->excluded, n);
        shrink->next = comm->shrinks;
        comm->shrinks = shrink;
    }
    purpose->number = ++shrink->calls;
    return THRUM_OK;
}

static struct purpose *make_purpose(const struct thrum_comm *comm, const char *what)
{
    struct purpose *purpose = calloc(1, sizeof *purpose + (size_t)comm->nranks);

    if (purpose)
        memcpy(purpose->what, what, strlen(what));
    else
        (void)thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    return purpose;
}

static thrum_status_t meet(struct thrum_comm *comm, const struct purpose *purpose,
                           const char *disagreement, const struct thrum_comm_config *config,
                           thrum_comm_t *comm_out)
{
    struct comm_meeting meeting = {.purpose = purpose,
                                   .purpose_bytes = sizeof *purpose + (size_t)comm->nranks,
                                   .excluded = purpose->excluded,
                                   .early = disagreement ? BOOTSTRAP_A_LITTLE_EARLY
                                                         : BOOTSTRAP_NOT_EARLY,
                                   .disagreement = disagreement};
    thrum_status_t status;
    int n = 0;

    while (purpose->excluded[meeting.host])
        meeting.host++;
    for (int r = 0; r < comm->nranks; r++) {
        meeting.nranks += !purpose->excluded[r];
        meeting.rank += r < comm->rank && !purpose->excluded[r];
    }
    status = comm_meet(comm, &meeting, config, comm_out);
    for (int r = 0; r < comm->nranks && !status; r++)
        if (!purpose->excluded[r])
            (*comm_out)->peers[n++].parent_rank = r;
    return status;
}

thrum_status_t thrum_comm_shrink(thrum_comm_t comm, const int *excluded, int nexcluded,
                                 const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct purpose *purpose;
    thrum_status_t status = check_comm(comm, comm_out);

    if (!status)
        status = check_excluded(comm, excluded, nexcluded);
    if (!status)
        status = comm_child_config(comm, config, &effective);
    if (status)
        return status;
    purpose = make_purpose(comm, "thrum shrink");
    if (!purpose)
        return THRUM_ERR_NO_MEMORY;
    for (int i = 0; i < nexcluded; i++)
        purpose->excluded[excluded[i]] = 1;
    status = count_call(comm, purpose);
    if (!status)
        status = meet(comm, purpose,
                      "exclude different ranks, or one has excluded them more often than the other",
                      &effective, comm_out);
    free(purpose);
    return status;
}

/* ---- without a list ---- */

void comm_drop_notices(struct thrum_comm *comm)
{
    for (int i = 0; i < comm->nnotices; i++) {
        struct comm_notice *notice = comm->notices[i];

        if (atomic_fetch_sub(&notice->holders, 1) > 1)
            continue;
        bootstrap_drop_notice(notice->place, notice->number);
        free(notice);
    }
}

/* Who comes late to the old communicators learns so as long as the new one lives, and those made of it. */
static void post_notices(struct thrum_comm *comm, const struct survivors_call *call,
                         const uint8_t *alive, struct thrum_comm *made)
{
    struct comm_notice *notice = calloc(1, sizeof *notice);

    if (notice && !control_post_notice(comm->control, call, alive)) {
        memcpy(notice->place, comm->peers[comm->rank].place, sizeof notice->place);
        notice->number = call->number;
        notice->holders = 1;
        made->notices[made->nnotices++] = notice;
    } else {
        free(notice);
    }
    for (int i = 0; i < comm->nnotices && made->nnotices < COMM_NOTICES; i++) {
        atomic_fetch_add(&comm->notices[i]->holders, 1);
        made->notices[made->nnotices++] = comm->notices[i];
    }
}

/* All that are left find the same. */
static thrum_status_t check_number(const struct thrum_comm *comm, const uint8_t *alive,
                                   int64_t least)
{
    bool *left = calloc((size_t)comm->nranks, sizeof *left);
    char text[300] = "too few";
    int n = 0;

    for (int r = 0; r < comm->nranks; r++) {
        n += alive[r] != 0;
        if (left)
            left[r] = alive[r];
    }
    if (n < least && left)
        boot_ranks_text(left, comm->nranks, text, sizeof text);
    free(left);
    return n >= least ? THRUM_OK
                      : thrum_fail(THRUM_ERR_UNREACHABLE,
                                   "%s: left of %d ranks: %s; config.survivors_least is %lld",
                                   comm->name, comm->nranks, text, (long long)least);
}

/* One attempt: they agree who they are, and meet. */
static thrum_status_t meet_survivors(struct thrum_comm *comm, const struct survivors_call *call,
                                     struct purpose *purpose, uint8_t *alive,
                                     const struct thrum_comm_config *config, bool *is_agreed_out,
                                     thrum_comm_t *comm_out)
{
    struct thrum_comm_config rest = *config;
    thrum_status_t status;

    bootstrap_clear_place(comm->peers[comm->rank].place, call->end_ns);
    status = control_survivors(comm->control, call, alive);
    *is_agreed_out = !status;
    if (status)
        return thrum_fail(status, "%s: %s", comm->name, thrum_last_error());
    status = check_number(comm, alive, config->survivors_least);
    if (status) {
        *is_agreed_out = false; /* to go on */
        return status;
    }
    for (int r = 0; r < comm->nranks; r++)
        purpose->excluded[r] = !alive[r];
    rest.init_deadline_ms = (call->end_ns - now_ns()) / 1000000;
    if (rest.init_deadline_ms < 1)
        rest.init_deadline_ms = 1;
    return meet(comm, purpose, NULL, &rest, comm_out);
}

static thrum_status_t shrink_to_survivors(struct thrum_comm *comm, struct survivors_call *call,
                                          const struct thrum_comm_config *config,
                                          thrum_comm_t *comm_out)
{
    struct purpose *purpose = make_purpose(comm, "thrum survivors");
    uint8_t *alive = malloc((size_t)comm->nranks);
    thrum_status_t status = THRUM_ERR_NO_MEMORY;
    bool again = purpose && alive;

    if (purpose && !alive)
        (void)thrum_fail(status, "no host memory for %d ranks", comm->nranks);
    while (again) {
        bool is_agreed;

        purpose->number = call->number;
        status = meet_survivors(comm, call, purpose, alive, config, &is_agreed, comm_out);
        /* One has died between the agreement and the end of the meeting. AUTH: the host knows that already, and asks again. */
        again = is_agreed &&
                (status == THRUM_ERR_PEER_DEAD || status == THRUM_ERR_UNREACHABLE ||
                 status == THRUM_ERR_AUTH) &&
                now_ns() < call->end_ns;
    }
    if (!status) {
        comm->survivors = call->number;
        (*comm_out)->init_deadline_ms = config->init_deadline_ms;
        post_notices(comm, call, alive, *comm_out);
    }
    free(alive);
    free(purpose);
    return status;
}

thrum_status_t thrum_comm_shrink_to_survivors(thrum_comm_t comm,
                                              const struct thrum_comm_config *config,
                                              thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct survivors_call call;
    thrum_status_t status = check_comm(comm, comm_out);
    uint8_t *places;
    int64_t whole;
    int n;

    if (!status)
        status = comm_child_config(comm, config, &effective);
    if (!status && effective.survivors_least > comm->nranks)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                            "config.survivors_least=%lld is more than the %d ranks of %s",
                            (long long)effective.survivors_least, comm->nranks, comm->name);
    if (status)
        return status;
    places = comm_places(comm, NULL, &n);
    if (!places)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    whole = effective.init_deadline_ms * 1000000;
    call = (struct survivors_call){.places = places,
                                   .rank = comm->rank,
                                   .nranks = comm->nranks,
                                   .place_fd = comm->place_fd,
                                   .number = comm->survivors + 1,
                                   .begun_ns = now_ns()};
    call.silent_ns = call.begun_ns + whole / 2;
    call.end_ns = call.begun_ns + whole;
    status = shrink_to_survivors(comm, &call, &effective, comm_out);
    free(places);
    return status;
}
