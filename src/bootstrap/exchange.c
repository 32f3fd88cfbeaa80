/*
 * Allgather of small values over the control plane, while everything else goes on: how communicators are split and
 * windows opened. control_exchange is called by comm and api; the rest runs on the control plane's thread.
 *
 * Up: each rank hands on the values of the ranks below it as they come, with how long they will wait. Rank 0 decides: when it has
 * all, they go down; when the least patient is about to give up, it tells everybody who is missing. A rank that notices
 * that the exchange cannot come about (a neighbour has left, ranks call different things) tells everybody too. Exchanges
 * are numbered by their callers, alike on all ranks: one that failed is kept until this rank calls it, and fails there
 * at once, so that the next one can do better.
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "bootstrap/control.h"

#define MARGIN_MOST_NS (100 * MS_NS) /* rank 0 gives up so long before the least patient rank */
#define GRACE_NS (1000 * MS_NS) /* others wait so long for rank 0 to say who is missing */

enum {
    SEQUENCE_AT = 0,
    KIND_AT = 8,
    BYTES_AT = 12,
    FIRST_AT = 16,
    COUNT_AT = 20,
    PATIENCE_AT = 24,
    GRANTED_AT = 32,
    HEAD = 40,
    CHUNK = BOOT_FRAME_MAX - HEAD
};

struct exchange {
    uint64_t sequence;
    enum control_exchange_kind kind;
    size_t bytes; /* per rank */
    uint8_t *values; /* of all ranks */
    bool *have, *sent; /* by rank: is here; went up */
    int missing; /* of this rank's subtree */
    int came_down; /* ranks whose values came from above */
    bool called; /* by this rank */
    bool news; /* a value came since exchange_progress */
    int64_t due; /* of the least patient; at rank 0 and before the values go up */
    int64_t granted; /* what that rank had granted in all */
    int64_t own_due;
    struct boot_failure failure; /* kept until this rank calls */
    struct exchange *next;
};

static const char *kind_name(enum control_exchange_kind kind)
{
    static const char *const names[] = {
        [EXCHANGE_SPLIT] = "thrum_comm_split",
        [EXCHANGE_SPLIT_ID] = "thrum_comm_split (second step)",
        [EXCHANGE_REGISTER] = "thrum_comm_register",
        [EXCHANGE_DEREGISTER] = "thrum_comm_deregister",
    };

    return (unsigned)kind < sizeof names / sizeof *names && names[kind] ? names[kind] : "?";
}

/* ---- exchanges of a control plane ---- */

static struct exchange *find(struct control *control, uint64_t sequence)
{
    for (struct exchange *e = control->exchanges; e; e = e->next)
        if (e->sequence == sequence)
            return e;
    return NULL;
}

static void drop(struct control *control, struct exchange *e)
{
    for (struct exchange **link = &control->exchanges; *link; link = &(*link)->next)
        if (*link == e) {
            *link = e->next;
            break;
        }
    free(e->values);
    free(e->have);
    free(e->sent);
    free(e);
}

void exchange_free_all(struct control *control)
{
    while (control->exchanges)
        drop(control, control->exchanges);
}

/* NULL without memory: the exchange then waits for its deadline. */
static struct exchange *find_or_make(struct control *control, uint64_t sequence)
{
    const struct boot_tree *tree = &control->tree;
    struct exchange *e = find(control, sequence);

    if (e)
        return e;
    e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->have = calloc((size_t)tree->nranks, sizeof *e->have);
    e->sent = calloc((size_t)tree->nranks, sizeof *e->sent);
    e->sequence = sequence;
    e->missing = tree->end - tree->rank;
    e->due = e->own_due = INT64_MAX;
    e->next = control->exchanges;
    control->exchanges = e;
    if (e->have && e->sent)
        return e;
    drop(control, e);
    return NULL;
}

/* The first contribution says what the exchange is. */
static bool make_values(struct control *control, struct exchange *e,
                        enum control_exchange_kind kind, size_t bytes)
{
    if (e->values)
        return true;
    e->kind = kind;
    e->bytes = bytes;
    e->values = calloc((size_t)control->tree.nranks, bytes);
    return e->values != NULL;
}

/* ---- ends ---- */

/* Wakes the caller, if it still waits. */
static void answer(struct control *control, const struct exchange *e)
{
    pthread_mutex_lock(&control->lock);
    if (control->request && control->request->sequence == e->sequence) {
        control->request->failure = e->failure;
        if (!e->failure.status)
            memcpy(control->request->values, e->values, e->bytes * (size_t)control->tree.nranks);
        control->request->done = true;
        control->request = NULL;
        pthread_cond_broadcast(&control->changed);
    }
    pthread_mutex_unlock(&control->lock);
}

/* This rank has nothing more to do with the exchange. */
static void finish(struct control *control, struct exchange *e)
{
    answer(control, e);
    control->exchanged = max_u64(control->exchanged, e->sequence);
    drop(control, e);
}

static void fail(struct control *control, struct exchange *e, const struct boot_failure *failure,
                 int from_link)
{
    uint8_t head[16];

    if (e->failure.status)
        return;
    e->failure = *failure;
    boot_put_u64(head, e->sequence);
    boot_put_u32(head + 8, (uint32_t)failure->status);
    boot_put_u32(head + 12, (uint32_t)failure->rank);
    for (int i = 0; i < BOOT_LINKS; i++)
        if (i != from_link)
            control_send(control, i, FRAME_EXCHANGE_FAIL, head, sizeof head, failure->message,
                         strnlen(failure->message, sizeof failure->message - 1));
    if (e->called)
        finish(control, e);
}

static void fail_missing(struct control *control, struct exchange *e)
{
    const struct boot_tree *tree = &control->tree;
    bool *missing = calloc((size_t)tree->nranks, sizeof *missing);
    struct boot_failure failure;
    char text[300] = "some ranks";
    int first = -1, n = 0;

    for (int r = 0; r < tree->nranks; r++)
        if (!e->have[r]) {
            first = n++ ? -1 : r;
            if (missing)
                missing[r] = true;
        }
    if (missing)
        boot_ranks_text(missing, tree->nranks, text, sizeof text);
    free(missing);
    boot_failure_set(&failure, THRUM_ERR_TIMEOUT, first, "%s did not call %s within %lld ms", text,
                     kind_name(e->kind), (long long)(e->granted / MS_NS));
    fail(control, e, &failure, -1);
}

/* ---- values on their way ---- */

/* Ranks [begin, end) to a link, in frames of bounded size. */
static void send_values(struct control *control, const struct exchange *e, int link,
                        enum boot_frame_type type, int begin, int end)
{
    int64_t now = now_ns();
    uint8_t head[HEAD] = {0};
    int most = (int)(CHUNK / e->bytes);

    boot_put_u64(head + SEQUENCE_AT, e->sequence);
    boot_put_u32(head + KIND_AT, (uint32_t)e->kind);
    boot_put_u32(head + BYTES_AT, (uint32_t)e->bytes);
    boot_put_u64(head + PATIENCE_AT, e->due > now ? (uint64_t)(e->due - now) : 0);
    boot_put_u64(head + GRANTED_AT, (uint64_t)e->granted);
    while (begin < end) {
        int n = end - begin < most ? end - begin : most;

        boot_put_u32(head + FIRST_AT, (uint32_t)begin);
        boot_put_u32(head + COUNT_AT, (uint32_t)n);
        control_send(control, link, type, head, sizeof head, e->values + (size_t)begin * e->bytes,
                     (size_t)n * e->bytes);
        begin += n;
    }
}

static void send_up(struct control *control, struct exchange *e)
{
    const struct boot_tree *tree = &control->tree;

    for (int r = tree->rank; r < tree->end;) {
        int begin = r;

        while (r < tree->end && e->have[r] && !e->sent[r])
            e->sent[r++] = true;
        if (begin < r)
            send_values(control, e, 0, FRAME_EXCHANGE_UP, begin, r);
        else
            r++;
    }
}

static void send_down(struct control *control, const struct exchange *e)
{
    for (int i = 1; i <= control->tree.nchildren; i++)
        send_values(control, e, i, FRAME_EXCHANGE_DOWN, 0, control->tree.nranks);
}

void exchange_progress(struct control *control)
{
    struct exchange *next;

    for (struct exchange *e = control->exchanges; e; e = next) {
        next = e->next;
        if (e->failure.status || !e->news)
            continue;
        e->news = false;
        if (control->tree.parent >= 0) {
            send_up(control, e);
        } else if (!e->missing) {
            send_down(control, e);
            finish(control, e);
        }
    }
}

/* A rank that contributes gives up at `due`. */
static void note_due(struct exchange *e, int64_t due, int64_t granted)
{
    if (due >= e->due)
        return;
    e->due = due;
    e->granted = granted;
}

/* Whether a contribution is of the same call as those that are here. */
static bool same_call(struct control *control, struct exchange *e, enum control_exchange_kind kind,
                      size_t bytes, int rank)
{
    struct boot_failure failure;
    int other = 0;

    if (!e->values || (e->kind == kind && e->bytes == bytes))
        return true;
    while (other < control->tree.nranks - 1 && !e->have[other])
        other++;
    boot_failure_set(&failure, THRUM_ERR_MISMATCH, rank, "rank %d calls %s, rank %d %s", other,
                     kind_name(e->kind), rank, kind_name(kind));
    fail(control, e, &failure, -1);
    return false;
}

static void take(struct exchange *e, int rank, const void *value)
{
    if (e->have[rank])
        return;
    e->have[rank] = true;
    e->news = true;
    e->missing--;
    memcpy(e->values + (size_t)rank * e->bytes, value, e->bytes);
}

/* Ranks have left for good where the tree has a hole: nothing passes there. */
static bool hole(struct control *control, struct boot_failure *failure)
{
    const struct boot_tree *tree = &control->tree;

    for (int i = tree->parent >= 0 ? 0 : 1; i <= tree->nchildren; i++)
        if (control->gone[i]) {
            int rank = boot_link_rank(tree, i);

            boot_failure_set(failure, THRUM_ERR_PEER_DEAD, rank,
                             "rank %d has left the communicator", rank);
            return true;
        }
    return false;
}

void exchange_link_gone(struct control *control)
{
    struct boot_failure failure;
    struct exchange *next;

    if (!hole(control, &failure))
        return;
    for (struct exchange *e = control->exchanges; e; e = next) {
        next = e->next;
        fail(control, e, &failure, -1);
    }
}

/* Copies a new request and this rank's value; false if there is none. The caller may give up as soon as it is unlocked. */
static bool take_request(struct control *control, struct exchange_request *out, uint8_t *value)
{
    bool is_new;

    pthread_mutex_lock(&control->lock);
    is_new = control->request && control->request_is_new;
    control->request_is_new = false;
    if (is_new) {
        *out = *control->request;
        memcpy(value, (const uint8_t *)out->values + out->bytes * (size_t)control->tree.rank,
               out->bytes);
    }
    pthread_mutex_unlock(&control->lock);
    return is_new;
}

static void refuse(struct control *control)
{
    pthread_mutex_lock(&control->lock);
    if (control->request) {
        boot_failure_set(&control->request->failure, THRUM_ERR_NO_MEMORY, control->tree.rank,
                         "no host memory for %d ranks", control->tree.nranks);
        control->request->done = true;
        control->request = NULL;
        pthread_cond_broadcast(&control->changed);
    }
    pthread_mutex_unlock(&control->lock);
}

/* This rank takes part. */
static void contribute(struct control *control, struct exchange *e,
                       const struct exchange_request *request, const uint8_t *value)
{
    struct boot_failure failure;

    if (control->failed) /* the caller has been told */
        return;
    if (hole(control, &failure)) {
        fail(control, e, &failure, -1);
        return;
    }
    if (!same_call(control, e, request->kind, request->bytes, control->tree.rank))
        return;
    if (!make_values(control, e, request->kind, request->bytes)) {
        boot_failure_set(&failure, THRUM_ERR_NO_MEMORY, control->tree.rank,
                         "rank %d has no host memory for %d ranks", control->tree.rank,
                         control->tree.nranks);
        fail(control, e, &failure, -1);
        return;
    }
    e->own_due = request->due;
    note_due(e, request->due, request->granted);
    take(e, control->tree.rank, value);
    exchange_progress(control);
}

void exchange_ask(struct control *control)
{
    struct exchange_request request;
    uint8_t value[CONTROL_EXCHANGE_BYTES];
    struct exchange *e;

    if (!take_request(control, &request, value))
        return;
    e = find_or_make(control, request.sequence);
    if (!e) {
        refuse(control);
        return;
    }
    e->called = true;
    if (e->failure.status) /* it was over before this rank came */
        finish(control, e);
    else
        contribute(control, e, &request, value);
}

/* ---- frames ---- */

struct head {
    uint64_t sequence, patience, granted;
    enum control_exchange_kind kind;
    size_t bytes;
    int first, n;
};

static bool get_head(const struct control *control, const struct boot_frame *frame,
                     struct head *out)
{
    uint32_t first, n;

    if (frame->bytes < HEAD)
        return false;
    first = boot_get_u32(frame->payload + FIRST_AT);
    n = boot_get_u32(frame->payload + COUNT_AT);
    *out = (struct head){.sequence = boot_get_u64(frame->payload + SEQUENCE_AT),
                         .patience = boot_get_u64(frame->payload + PATIENCE_AT),
                         .granted = boot_get_u64(frame->payload + GRANTED_AT),
                         .kind = (enum control_exchange_kind)boot_get_u32(frame->payload + KIND_AT),
                         .bytes = boot_get_u32(frame->payload + BYTES_AT),
                         .first = (int)first,
                         .n = (int)n};
    return out->bytes && out->bytes <= CONTROL_EXCHANGE_BYTES && n &&
           first < (uint32_t)control->tree.nranks && n <= (uint32_t)control->tree.nranks - first &&
           frame->bytes - HEAD == out->bytes * n;
}

static void from_below(struct control *control, int link, const struct boot_frame *frame)
{
    const struct boot_tree *tree = &control->tree;
    int64_t now = now_ns();
    struct exchange *e;
    struct head head;

    if (!get_head(control, frame, &head) || head.sequence <= control->exchanged ||
        head.first < tree->child[link - 1] || head.first + head.n > tree->child_end[link - 1])
        return;
    e = find_or_make(control, head.sequence);
    if (!e || e->failure.status || !same_call(control, e, head.kind, head.bytes, head.first) ||
        !make_values(control, e, head.kind, head.bytes))
        return;
    note_due(e, now + (int64_t)min_u64(head.patience, 1ull << 60),
             (int64_t)min_u64(head.granted, 1ull << 60));
    for (int i = 0; i < head.n; i++)
        take(e, head.first + i, frame->payload + HEAD + (size_t)i * head.bytes);
}

static void from_above(struct control *control, const struct boot_frame *frame)
{
    struct exchange *e;
    struct head head;

    if (!get_head(control, frame, &head))
        return;
    e = find(control, head.sequence);
    if (!e || !e->called || e->failure.status || head.bytes != e->bytes ||
        head.first != e->came_down)
        return;
    memcpy(e->values + (size_t)head.first * e->bytes, frame->payload + HEAD,
           (size_t)head.n * e->bytes);
    e->came_down += head.n;
    for (int i = 1; i <= control->tree.nchildren; i++)
        control_send(control, i, FRAME_EXCHANGE_DOWN, frame->payload, frame->bytes, NULL, 0);
    if (e->came_down == control->tree.nranks)
        finish(control, e);
}

static void failed_elsewhere(struct control *control, int link, const struct boot_frame *frame)
{
    struct boot_frame inner = {FRAME_FAIL, frame->payload + 8, frame->bytes - 8};
    struct boot_failure failure;
    struct exchange *e;

    if (frame->bytes < 8 || boot_get_u64(frame->payload) <= control->exchanged ||
        !boot_get_failure(&inner, &failure) || failure.rank >= control->tree.nranks)
        return;
    e = find_or_make(control, boot_get_u64(frame->payload));
    if (e)
        fail(control, e, &failure, link);
}

void exchange_frame(struct control *control, int link, const struct boot_frame *frame)
{
    if (frame->type == FRAME_EXCHANGE_UP && link)
        from_below(control, link, frame);
    else if (frame->type == FRAME_EXCHANGE_DOWN && !link)
        from_above(control, frame);
    else if (frame->type == FRAME_EXCHANGE_FAIL)
        failed_elsewhere(control, link, frame);
}

/* ---- time ---- */

static int64_t due_of(const struct control *control, const struct exchange *e)
{
    int64_t margin;

    if (e->failure.status || e->due == INT64_MAX)
        return INT64_MAX;
    if (control->tree.parent >= 0)
        return e->own_due == INT64_MAX ? INT64_MAX : e->own_due + GRACE_NS;
    margin = (int64_t)min_u64((uint64_t)e->granted / 10, MARGIN_MOST_NS);
    return e->due - margin;
}

void exchange_time(struct control *control, int64_t now)
{
    struct exchange *next;

    for (struct exchange *e = control->exchanges; e; e = next) {
        struct boot_failure failure;

        next = e->next;
        if (now < due_of(control, e))
            continue;
        if (control->tree.parent < 0) {
            fail_missing(control, e);
            continue;
        }
        boot_failure_set(&failure, THRUM_ERR_TIMEOUT, control->tree.parent,
                         "rank %d, on rank %d's way to the others, does not answer (stopped?)",
                         control->tree.parent, control->tree.rank);
        fail(control, e, &failure, -1);
    }
}

int64_t exchange_due(const struct control *control)
{
    int64_t due = INT64_MAX;

    for (const struct exchange *e = control->exchanges; e; e = e->next)
        due = due_of(control, e) < due ? due_of(control, e) : due;
    return due;
}

/* ---- public ---- */

thrum_status_t control_exchange(struct control *control, enum control_exchange_kind kind,
                                uint64_t sequence, void *values, size_t bytes, int64_t left_ms,
                                int64_t granted_ms)
{
    struct exchange_request request = {.sequence = sequence,
                                       .kind = kind,
                                       .values = values,
                                       .bytes = bytes,
                                       .due = now_ns() + left_ms * MS_NS,
                                       .granted = granted_ms * MS_NS};
    struct boot_failure failure = {.status = THRUM_OK};

    if (!bytes || bytes > CONTROL_EXCHANGE_BYTES)
        return thrum_fail(THRUM_ERR_INTERNAL, "an exchange of %zu bytes a rank", bytes);
    pthread_mutex_lock(&control->lock);
    control->request = &request;
    control->request_is_new = true;
    pthread_mutex_unlock(&control->lock);
    engine_wake();
    pthread_mutex_lock(&control->lock);
    while (!request.done && !control->failure.status)
        pthread_cond_wait(&control->changed, &control->lock);
    control->request = NULL;
    failure = request.done ? request.failure : control->failure;
    pthread_mutex_unlock(&control->lock);
    return failure.status ? thrum_fail(failure.status, "%s", failure.message) : THRUM_OK;
}

#define NONCE_BYTES crypto_aead_xchacha20poly1305_ietf_NPUBBYTES

_Static_assert(CONTROL_SEALED_BYTES == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES +
                                           THRUM_UNIQUE_ID_BYTES +
                                           crypto_aead_xchacha20poly1305_ietf_ABYTES,
               "a sealed id is nonce, ciphertext, tag");

void control_seal_id(const struct control *control, uint64_t purpose,
                     const struct thrum_unique_id *id, uint8_t *sealed)
{
    uint8_t label[8];

    boot_put_u64(label, purpose);
    randombytes_buf(sealed, NONCE_BYTES);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(sealed + NONCE_BYTES, NULL, id->bytes,
                                                     sizeof id->bytes, label, sizeof label, NULL,
                                                     sealed, control->seal_key);
}

thrum_status_t control_open_id(const struct control *control, uint64_t purpose,
                               const uint8_t *sealed, struct thrum_unique_id *id_out)
{
    uint8_t label[8];

    boot_put_u64(label, purpose);
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(id_out->bytes, NULL, NULL, sealed + NONCE_BYTES,
                                                   CONTROL_SEALED_BYTES - NONCE_BYTES, label,
                                                   sizeof label, sealed, control->seal_key))
        return thrum_fail(THRUM_ERR_PROTOCOL, "the new communicator's id arrived damaged");
    return THRUM_OK;
}
