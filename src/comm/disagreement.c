/*
 * What ranks have called, where they disagree, and who keeps the others waiting: the records that the control plane
 * gathers when a collective does not come to its end. Called by api (comm_record) and, on the control plane's thread,
 * by comm_control_callbacks.
 */
#include "comm/comm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "exec/exec.h"

/* ---- what was called, in words ---- */

static const char *message_kind_name(unsigned kind)
{
    static const char *const names[] = {"point-to-point", "alltoallv", "gatherv", "scatterv"};

    return kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static void add_text(char *text, size_t bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add_text(char *text, size_t bytes, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text + used, bytes - used, format, arguments);
    va_end(arguments);
}

/* What is not a collective: messages, and one-sided operations. */
static void describe_pair(const struct call_record *call, char *text, size_t bytes)
{
    switch ((enum exec_kind)call->state) {
    case EXEC_MESSAGES:
        if (call->redop)
            snprintf(text, bytes, "%s", message_kind_name(call->redop));
        else
            snprintf(text, bytes, "point-to-point with rank %d", call->root);
        break;
    case EXEC_PUT:
        snprintf(text, bytes, "put to rank %d (count=%llu, %s)", call->root,
                 (unsigned long long)call->count, thrum_datatype_name(call->dtype));
        break;
    case EXEC_SIGNAL:
        snprintf(text, bytes, "signal to rank %d", call->root);
        break;
    case EXEC_WAIT_SIGNAL:
        snprintf(text, bytes, "wait for %llu signal%s of rank %d", (unsigned long long)call->count,
                 call->count == 1 ? "" : "s", call->root);
        break;
    }
}

void comm_describe_call(const struct call_record *call, char *text, size_t bytes)
{
    enum collective collective = (enum collective)call->collective;

    *text = 0;
    if (!call->sequence) {
        describe_pair(call, text, bytes);
        return;
    }
    add_text(text, bytes, "%s%s #%llu", collective_name(collective), call->detail ? "v" : "",
             (unsigned long long)call->sequence);
    if (collective == COLL_BARRIER)
        return;
    add_text(text, bytes, " (%s=%llu, %s", call->detail ? "sum of counts" : "count",
             (unsigned long long)call->count, thrum_datatype_name(call->dtype));
    if (plan_reduces(collective) && call->redop < THRUM_REDOP_COUNT)
        add_text(text, bytes, ", %s", thrum_redop_name((thrum_redop_t)call->redop));
    else if (plan_reduces(collective))
        add_text(text, bytes, ", the caller's op %d", call->redop);
    if (plan_has_root(collective))
        add_text(text, bytes, ", root=%d", call->root);
    add_text(text, bytes, ")");
}

/* What is different in two calls of a v-variant with blocks of different sizes or places; nothing for others. */
static void describe_blocks(const struct call_record *records, int nranks, int a, int b, char *text,
                            size_t bytes)
{
    uint64_t more = records[b].count - records[a].count;
    uint64_t weighted = records[b].detail - records[a].detail;

    if (!records[a].detail || !records[b].detail || records[a].collective != records[b].collective)
        return;
    for (int r = 0; r < nranks && more; r++)
        if (comm_count_weight(r) * more == weighted) {
            bool fewer = (int64_t)more < 0;
            add_text(text, bytes, "; counts[%d] of rank %d is %llu %s than rank %d's", r, b,
                     (unsigned long long)(fewer ? 0 - more : more), fewer ? "less" : "more", a);
            return;
        }
    if (weighted)
        add_text(text, bytes, "; their counts differ");
    else if (records[a].root != records[b].root)
        add_text(text, bytes, "; their displacements differ");
}

static bool same_call(const struct call_record *a, const struct call_record *b)
{
    return a->collective == b->collective && a->count == b->count && a->dtype == b->dtype &&
           a->redop == b->redop && a->root == b->root && a->detail == b->detail;
}

/* ---- records ---- */

void comm_record(struct thrum_comm *comm, const struct call_record *call)
{
    struct comm_history *h = &comm->history[call->sequence % COMM_HISTORY];
    uint64_t packed = (uint64_t)(uint32_t)call->root << 32 | (uint64_t)call->collective << 16 |
                      (uint64_t)call->dtype << 24 | call->redop;

    atomic_store_explicit(&h->sequence, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&h->count, call->count, memory_order_relaxed);
    atomic_store_explicit(&h->detail, call->detail, memory_order_relaxed);
    atomic_store_explicit(&h->call, packed, memory_order_relaxed);
    atomic_store_explicit(&h->sequence, call->sequence, memory_order_release);
}

void comm_unrecord(struct thrum_comm *comm, const struct call_record *call)
{
    struct comm_history *h = &comm->history[call->sequence % COMM_HISTORY];

    atomic_store_explicit(&h->sequence, 0, memory_order_release);
}

/* False if the record is not there (any more). */
static bool read_record(struct thrum_comm *comm, uint64_t sequence, struct call_record *out)
{
    struct comm_history *h = &comm->history[sequence % COMM_HISTORY];
    uint64_t packed;

    if (atomic_load_explicit(&h->sequence, memory_order_acquire) != sequence)
        return false;
    out->sequence = sequence;
    out->count = atomic_load_explicit(&h->count, memory_order_relaxed);
    out->detail = atomic_load_explicit(&h->detail, memory_order_relaxed);
    packed = atomic_load_explicit(&h->call, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&h->sequence, memory_order_relaxed) != sequence)
        return false;
    out->root = (int32_t)(packed >> 32);
    out->collective = (uint8_t)(packed >> 16);
    out->dtype = (uint8_t)(packed >> 24);
    out->redop = (uint16_t)packed;
    return true;
}

/* The newest sequence in the history; 0 if there was no call. */
static uint64_t newest_sequence(struct thrum_comm *comm)
{
    uint64_t newest = 0;

    for (int i = 0; i < COMM_HISTORY; i++)
        newest =
            max_u64(newest, atomic_load_explicit(&comm->history[i].sequence, memory_order_acquire));
    return newest;
}

/* The oldest operation's, where it is one of messages. */
static void record_unmet(struct thrum_comm *comm, struct call_record *record_out)
{
    uint64_t done;

    pthread_mutex_lock(&comm->retire_lock);
    done = comm_done(comm);
    if (done < atomic_load_explicit(&comm->issued, memory_order_acquire))
        comm_record_unmet(comm, comm_operation_at(comm, done + 1), record_out);
    pthread_mutex_unlock(&comm->retire_lock);
}

/* The record of collective `sequence`, or the newest sequence where that has not been called. */
void comm_on_record(void *argument, uint64_t sequence, struct call_record *record_out)
{
    struct thrum_comm *comm = argument;

    memset(record_out, 0, sizeof *record_out);
    if (comm_asks_message(sequence)) {
        pthread_mutex_lock(&comm->retire_lock);
        comm_record_message(comm, sequence, record_out);
        pthread_mutex_unlock(&comm->retire_lock);
        return;
    }
    if (read_record(comm, sequence, record_out)) {
        record_out->state = COMM_RECORD_PENDING;
        return;
    }
    record_out->sequence = newest_sequence(comm);
    record_out->state = record_out->sequence > sequence ? COMM_RECORD_DONE : COMM_RECORD_NEVER;
    if (record_out->state == COMM_RECORD_NEVER)
        record_unmet(comm, record_out);
}

/* ---- what they say ---- */

/* The first two ranks that called different things, if any: the first caller against the first that differs. */
static bool find_mismatch(const struct call_record *records, int nranks, int *a_out, int *b_out)
{
    int first = -1;

    for (int r = 0; r < nranks; r++) {
        if (records[r].state != COMM_RECORD_PENDING)
            continue;
        if (first < 0)
            first = r;
        else if (!same_call(&records[first], &records[r])) {
            *a_out = first;
            *b_out = r;
            return true;
        }
    }
    return false;
}

/* Who is the odd one out of a and b: the one that fewer ranks agree with. */
static int odd_one(const struct call_record *records, int nranks, int a, int b)
{
    int with_a = 0, with_b = 0;

    for (int r = 0; r < nranks; r++) {
        if (records[r].state != COMM_RECORD_PENDING)
            continue;
        with_a += same_call(&records[r], &records[a]);
        with_b += same_call(&records[r], &records[b]);
    }
    return with_a < with_b ? a : b;
}

static void report_mismatch(struct thrum_comm *comm, const struct call_record *records, int a,
                            int b)
{
    char text_a[160], text_b[160], message[COMM_MESSAGE_BYTES];

    comm_describe_call(&records[a], text_a, sizeof text_a);
    comm_describe_call(&records[b], text_b, sizeof text_b);
    snprintf(message, sizeof message, "%s: ranks disagree: rank %d called %s, rank %d called %s",
             comm->name, a, text_a, b, text_b);
    describe_blocks(records, comm->nranks, a, b, message, sizeof message);
    comm_fail(comm, THRUM_ERR_MISMATCH, odd_one(records, comm->nranks, a, b), true, message);
}

/* Whether this rank's part of a call cannot end without rank r, whatever the algorithm. */
static bool needs(const struct thrum_comm *comm, const struct call_record *call, int r)
{
    enum collective collective = (enum collective)call->collective;

    if (collective == COLL_SCAN || collective == COLL_EXSCAN)
        return r < comm->rank;
    return !plan_has_root(collective) || r == call->root || comm->rank == call->root;
}

/* The same where the call is small: a root may send and be done, and so may who sends to a root. */
static bool waits_for(const struct thrum_comm *comm, const struct call_record *call, int r)
{
    switch ((enum collective)call->collective) {
    case COLL_BROADCAST:
    case COLL_SCATTER:
        return r == call->root;
    case COLL_REDUCE:
    case COLL_GATHER:
        return comm->rank == call->root;
    default:
        return needs(comm, call, r);
    }
}

/* Somebody has left for good who had not called what this rank is in: it would wait in vain. */
static bool report_left(struct thrum_comm *comm, uint64_t sequence,
                        const struct call_record *records)
{
    const struct call_record *own = &records[comm->rank];
    char call[160], message[COMM_MESSAGE_BYTES];
    int r = 0;

    while (r < comm->nranks && (records[r].state != COMM_RECORD_LEFT ||
                                records[r].sequence >= sequence || !needs(comm, own, r)))
        r++;
    if (r == comm->nranks || own->state != COMM_RECORD_PENDING)
        return false;
    comm_describe_call(own, call, sizeof call);
    snprintf(message, sizeof message,
             "%s: rank %d has left: it destroyed the communicator without calling %s", comm->name,
             r, call);
    comm_fail(comm, THRUM_ERR_PEER_DEAD, r, true, message);
    return true;
}

/* Whether the collective is the oldest operation that has not ended. */
static bool is_oldest(struct thrum_comm *comm, uint64_t sequence)
{
    uint64_t done;
    bool oldest;

    pthread_mutex_lock(&comm->retire_lock);
    done = comm_done(comm);
    oldest = done < atomic_load_explicit(&comm->issued, memory_order_acquire) &&
             comm_operation_at(comm, done + 1)->call.sequence == sequence;
    pthread_mutex_unlock(&comm->retire_lock);
    return oldest;
}

/*
 * This rank needs rank r in the collective, and r, which has not called it, waits for a message that this rank has yet to
 * call: each is behind the other for good, since operations of a communicator follow one another.
 */
static bool report_crossing(struct thrum_comm *comm, uint64_t sequence,
                            const struct call_record *records)
{
    const struct call_record *own = &records[comm->rank];
    char call[160], message[COMM_MESSAGE_BYTES];
    int r = 0;

    while (r < comm->nranks && (records[r].state != COMM_RECORD_NEVER || !waits_for(comm, own, r) ||
                                !comm_owes_message(comm, r, &records[r])))
        r++;
    if (r == comm->nranks || own->state != COMM_RECORD_PENDING || !is_oldest(comm, sequence))
        return false;
    comm_describe_call(own, call, sizeof call);
    snprintf(message, sizeof message,
             "%s: ranks disagree: rank %d called %s, rank %d is in %s and waits for rank %d there",
             comm->name, comm->rank, call, r, message_kind_name(records[r].redop), comm->rank);
    comm_fail(comm, THRUM_ERR_MISMATCH, r, true, message);
    return true;
}

/* Remembers, for the deadline's message, who has not called the collective that we wait for. */
static void note_laggards(struct thrum_comm *comm, uint64_t sequence,
                          const struct call_record *records)
{
    char text[sizeof comm->laggards] = "";
    size_t used = 0;
    int first = -1;

    for (int r = 0; r < comm->nranks && used < sizeof text - 80; r++) {
        if (records[r].state == COMM_RECORD_NO_ANSWER)
            used += (size_t)snprintf(text + used, sizeof text - used,
                                     "%srank %d does not answer (stopped?)", used ? ", " : "", r);
        else if (records[r].state == COMM_RECORD_LEFT && records[r].sequence < sequence)
            used += (size_t)snprintf(text + used, sizeof text - used,
                                     "%srank %d has left (its last was #%llu)", used ? ", " : "", r,
                                     (unsigned long long)records[r].sequence);
        else if (records[r].state == COMM_RECORD_NEVER)
            used += (size_t)snprintf(text + used, sizeof text - used,
                                     "%srank %d has not called it (its last is #%llu)",
                                     used ? ", " : "", r, (unsigned long long)records[r].sequence);
        else
            continue;
        if (first < 0)
            first = r;
    }
    memcpy(comm->laggards, text, sizeof text);
    comm->first_laggard = first;
}

static void report_messages(struct thrum_comm *comm, uint64_t question,
                            const struct call_record *records, int nranks)
{
    char text[400] = "", message[COMM_MESSAGE_BYTES];
    int sender = comm_compare_messages(question, records, nranks, text, sizeof text);

    snprintf(message, sizeof message, "%s: ranks disagree: %s", comm->name, text);
    if (sender >= 0)
        comm_fail(comm, THRUM_ERR_MISMATCH, sender, true, message);
}

void comm_on_records(void *argument, uint64_t sequence, const struct call_record *records,
                     int nranks)
{
    struct thrum_comm *comm = argument;
    int a, b;

    if (comm_asks_message(sequence))
        report_messages(comm, sequence, records, nranks);
    else if (find_mismatch(records, nranks, &a, &b))
        report_mismatch(comm, records, a, b);
    else if (!report_left(comm, sequence, records) && !report_crossing(comm, sequence, records))
        note_laggards(comm, sequence, records);
}
