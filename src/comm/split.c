/*
 * New communicators from an old one. Two exchanges over the parent's control plane: colors and keys; then the id that the
 * first rank of each color has made, sealed. With it the ranks of a color join as any others do, so that the new
 * communicator has its own secret, connections and control plane and owes the parent nothing. Called by api.
 */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"

#define NS_PER_MS 1000000

struct choice {
    int32_t color, key;
};

struct offer { /* of the first rank of a color; nothing elsewhere */
    uint8_t sealed[CONTROL_SEALED_BYTES];
    int32_t status; /* thrum_status_t of making the id */
    char message[128];
};

/* What one call works on. */
struct split {
    struct thrum_comm *comm;
    int64_t granted_ms, end_ns;
    uint64_t sequence; /* of its first exchange */
    struct choice *choices; /* by old rank */
    struct offer *offers;
    int nranks, rank, first; /* of the new communicator; first: old rank of its rank 0 */
};

thrum_status_t comm_child_config(const struct thrum_comm *parent,
                                 const struct thrum_comm_config *config,
                                 struct thrum_comm_config *out)
{
    struct thrum_comm_config given = {.size = sizeof given};
    thrum_status_t status = comm_effective_config(config, out); /* refuses what is wrong */

    if (status)
        return status;
    if (config)
        memcpy(&given, config, min_u64(config->size, sizeof given));
    given.size = sizeof given;
    if (!given.deadline_ms)
        given.deadline_ms = parent->deadline_ns / NS_PER_MS;
    if (!given.init_deadline_ms)
        given.init_deadline_ms = parent->init_deadline_ms;
    if (!given.scratch_bytes)
        given.scratch_bytes = parent->scratch_bytes;
    if (!given.reproducible)
        given.reproducible = parent->reproducible ? 1 : -1;
    if (!given.lanes)
        given.lanes = parent->lanes;
    if (!given.probes)
        given.probes = parent->peers[parent->rank].probes ? 1 : -1;
    if (!given.algorithms)
        given.algorithms = parent->algorithms;
    return comm_effective_config(&given, out);
}

thrum_status_t comm_check_split(const struct thrum_comm *comm, int color,
                                const struct thrum_comm_config *config)
{
    struct thrum_comm_config effective;

    if (color < 0 && color != THRUM_SPLIT_NONE)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "color=%d is neither 0 or more nor THRUM_SPLIT_NONE", color);
    return comm_child_config(comm, config, &effective);
}

static int64_t left_ms(const struct split *s)
{
    int64_t left = (s->end_ns - now_ns()) / NS_PER_MS;

    return left > 1 ? left : 1;
}

/* Whether old rank a comes before b in the new communicator. */
static bool before(const struct split *s, int a, int b)
{
    return s->choices[a].key != s->choices[b].key ? s->choices[a].key < s->choices[b].key : a < b;
}

static void find_place(struct split *s)
{
    int color = s->choices[s->comm->rank].color;

    s->first = s->comm->rank;
    for (int r = 0; r < s->comm->nranks; r++) {
        if (s->choices[r].color != color)
            continue;
        s->nranks++;
        s->rank += before(s, r, s->comm->rank);
        if (before(s, r, s->first))
            s->first = r;
    }
}

static thrum_status_t exchange(struct split *s, enum control_exchange_kind kind, void *values,
                               size_t bytes)
{
    struct thrum_comm *comm = s->comm;
    thrum_status_t status =
        control_exchange(comm->control, kind, s->sequence + (kind == EXCHANGE_SPLIT_ID), values,
                         bytes, left_ms(s), s->granted_ms);

    return status ? thrum_fail(status, "%s: %s", comm->name, thrum_last_error()) : THRUM_OK;
}

/* What the id of a color is sealed for: nothing else of this parent has the same purpose. */
static uint64_t purpose(const struct split *s, int first)
{
    return s->sequence << 20 ^ (uint64_t)first;
}

/* The first rank of the color makes the id, all get it. */
static thrum_status_t agree_on_id(struct split *s, struct thrum_unique_id *id_out)
{
    struct thrum_comm *comm = s->comm;
    bool leads = s->nranks && s->first == comm->rank;
    struct offer *mine = &s->offers[comm->rank];
    const struct offer *offer;
    struct thrum_unique_id id;
    thrum_status_t status = leads ? bootstrap_make_id_of_part(&id) : THRUM_OK, made = status;

    if (leads && !made)
        control_seal_id(comm->control, purpose(s, comm->rank), &id, mine->sealed);
    mine->status = made;
    if (made)
        snprintf(mine->message, sizeof mine->message, "%s", thrum_last_error());
    /* Also after a failure: the others learn of it instead of waiting. */
    status = exchange(s, EXCHANGE_SPLIT_ID, s->offers, sizeof *s->offers);
    if (status && leads && !made)
        bootstrap_withdraw(&id);
    if (status || !s->nranks)
        return status;
    offer = &s->offers[s->first];
    if (offer->status)
        return thrum_fail((thrum_status_t)offer->status, "%s: rank %d: %.*s", comm->name, s->first,
                          (int)sizeof offer->message - 1, offer->message);
    return control_open_id(comm->control, purpose(s, s->first), offer->sealed, id_out);
}

static thrum_status_t run(struct split *s, int color, int key,
                          const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct thrum_unique_id id;
    struct thrum_comm_config rest = *config;
    thrum_status_t status;

    s->choices[s->comm->rank] = (struct choice){color, key};
    status = exchange(s, EXCHANGE_SPLIT, s->choices, sizeof *s->choices);
    if (status)
        return status;
    if (color != THRUM_SPLIT_NONE)
        find_place(s);
    status = agree_on_id(s, &id);
    if (status)
        return status;
    if (color == THRUM_SPLIT_NONE) {
        *comm_out = NULL;
        return THRUM_OK;
    }
    rest.init_deadline_ms = left_ms(s);
    status = comm_create(&id, s->nranks, s->rank, s->comm->device, &rest, comm_out);
    explicit_bzero(&id, sizeof id);
    if (!status)
        (*comm_out)->init_deadline_ms = config->init_deadline_ms;
    return status;
}

thrum_status_t comm_split(struct thrum_comm *comm, int color, int key,
                          const struct thrum_comm_config *config, thrum_comm_t *comm_out)
{
    struct split s = {.comm = comm};
    struct thrum_comm_config effective;
    thrum_status_t status = comm_child_config(comm, config, &effective);

    if (!status)
        status = comm_failure(comm);
    if (status)
        return status;
    s.choices = calloc((size_t)comm->nranks, sizeof *s.choices);
    s.offers = calloc((size_t)comm->nranks, sizeof *s.offers);
    if (!s.choices || !s.offers) {
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    } else {
        s.granted_ms = effective.init_deadline_ms;
        s.end_ns = now_ns() + effective.init_deadline_ms * NS_PER_MS;
        s.sequence = 2 * ++comm->setups;
        status = run(&s, color, key, &effective, comm_out);
    }
    free(s.choices);
    free(s.offers);
    return status;
}
