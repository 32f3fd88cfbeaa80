/*
 * What is wrong with a point-to-point operation that does not end: which message waits for whom, and whether the other
 * end means another one. Called by failure.c, on the control plane's thread.
 *
 * Two ends that both rendezvous, or both use lines, find out by the flag of the line. A receiver that waits for a put
 * sees the line that has come instead. Only a sender that waits for an arrival, and a receiver that waits for a line,
 * see nothing of each other: these are asked.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <string.h>

#include "exec/exec.h"

#define RANK_BITS 20
#define NUMBER_BITS 23

/* " by alltoallv"; "" for what the other end is part of too. */
static const char *by_call(unsigned kind, unsigned other)
{
    static const char *const texts[] = {" by send and recv", " by alltoallv", " by gatherv",
                                        " by scatterv"};

    return kind == other || kind >= sizeof texts / sizeof *texts ? "" : texts[kind];
}

/* One end of a message. */
struct end {
    int rank;
    uint64_t count;
    unsigned dtype, kind;
};

static void describe_ends(const struct end *sender, const struct end *receiver, char *text,
                          size_t bytes)
{
    snprintf(text, bytes, "rank %d sends %llu %s to rank %d%s, which receives %llu %s%s",
             sender->rank, (unsigned long long)sender->count,
             thrum_datatype_name((thrum_datatype_t)sender->dtype), receiver->rank,
             by_call(sender->kind, MESSAGE_PLAIN), (unsigned long long)receiver->count,
             thrum_datatype_name((thrum_datatype_t)receiver->dtype),
             by_call(receiver->kind, sender->kind));
}

static uint64_t peek(struct thrum_comm *comm, uint64_t address)
{
    uint64_t word = 0;

    (void)comm->ops->mem_peek(comm->device->impl, address, &word, sizeof word);
    return word;
}

static bool is_met(struct thrum_comm *comm, const struct comm_message *m)
{
    return peek(comm, m->word) >= m->value;
}

/* What the other end says of itself in the line; false: nothing, or what this end says too. */
static bool shows_another(struct thrum_comm *comm, const struct comm_message *m, struct end *out)
{
    enum comm_channel channel = m->is_send ? CHANNEL_P2P : CHANNEL_EAGER;
    struct thrum_line line;
    struct comm_arrival arrival;
    uint64_t flag;
    size_t size;

    /* the rest of the line only when its flag says that it is another's and has come: it may be on its way */
    if (!m->line || (flag = peek(comm, m->line)) == m->flag ||
        flag < (m->flag & exec_sequence_mask(channel)))
        return false;
    if (comm->ops->mem_peek(comm->device->impl, m->line, &line, sizeof line) || line.flag != flag)
        return false;
    if (!m->is_send && !m->is_eager && is_met(comm, m))
        return false; /* it is one that came later */
    if (m->is_send) {
        memcpy(&arrival, line.payload, sizeof arrival);
        *out = (struct end){m->peer, arrival.count, arrival.dtype, arrival.redop};
        return true;
    }
    size = thrum_datatype_size((thrum_datatype_t)exec_message_dtype(line.flag));
    *out = (struct end){m->peer, size ? exec_message_bytes(line.flag) / size : 0,
                        exec_message_dtype(line.flag), exec_message_kind(line.flag)};
    return true;
}

void comm_describe_mismatch(struct thrum_comm *comm, const struct comm_operation *operation,
                            char *text, size_t bytes)
{
    for (uint32_t i = 0; i < operation->nmessages; i++) {
        const struct comm_message *m = &operation->messages[i];
        struct end own = {comm->rank, m->count, m->dtype, m->kind}, other;

        if (!shows_another(comm, m, &other))
            continue;
        describe_ends(m->is_send ? &own : &other, m->is_send ? &other : &own, text, bytes);
        return;
    }
}

int comm_describe_unmet(struct thrum_comm *comm, const struct comm_operation *operation, char *text,
                        size_t bytes)
{
    for (uint32_t i = 0; i < operation->nmessages; i++) {
        const struct comm_message *m = &operation->messages[i];

        if (is_met(comm, m))
            continue;
        if (m->is_send && m->is_eager)
            snprintf(text, bytes,
                     "rank %d has not received what was sent before message #%llu to it", m->peer,
                     (unsigned long long)m->number);
        else
            snprintf(text, bytes, "rank %d has not %s message #%llu %s rank %d", m->peer,
                     m->is_send ? "received" : "sent", (unsigned long long)m->number,
                     m->is_send ? "of" : "to", comm->rank);
        return m->peer;
    }
    snprintf(text, bytes, "every message of it was met");
    return -1;
}

/* ---- ranks that wait for each other in different calls ---- */

enum { UNMET = 1, UNMET_SEND = 2 }; /* call_record.detail */

void comm_record_unmet(struct thrum_comm *comm, const struct comm_operation *operation,
                       struct call_record *record_out)
{
    for (uint32_t i = 0; i < operation->nmessages; i++) {
        const struct comm_message *m = &operation->messages[i];

        if (is_met(comm, m) || (m->is_send && m->is_eager))
            continue; /* an eager send waits for messages before it */
        record_out->detail = UNMET | (m->is_send ? UNMET_SEND : 0);
        record_out->root = m->peer;
        record_out->redop = m->kind;
        record_out->count = m->number;
        return;
    }
}

bool comm_owes_message(struct thrum_comm *comm, int r, const struct call_record *record)
{
    const struct comm_peer *peer = &comm->peers[r];
    const uint64_t *count =
        record->detail & UNMET_SEND ? &peer->messages_received : &peer->messages_sent;

    return record->detail & UNMET && record->root == comm->rank &&
           __atomic_load_n(count, __ATOMIC_RELAXED) < record->count;
}

/* ---- the question: which message of which pair ---- */

static uint64_t question_of(int sender, int receiver, uint64_t number)
{
    return (uint64_t)1 << 63 | (uint64_t)sender << (RANK_BITS + NUMBER_BITS) |
           (uint64_t)receiver << NUMBER_BITS | (number & (((uint64_t)1 << NUMBER_BITS) - 1));
}

static int sender_of(uint64_t question)
{
    return (int)(question >> (RANK_BITS + NUMBER_BITS) & ((1u << RANK_BITS) - 1));
}

static int receiver_of(uint64_t question)
{
    return (int)(question >> NUMBER_BITS & ((1u << RANK_BITS) - 1));
}

static uint64_t question_about(const struct thrum_comm *comm, const struct comm_message *m)
{
    return m->is_send ? question_of(comm->rank, m->peer, m->number)
                      : question_of(m->peer, comm->rank, m->number);
}

uint64_t comm_message_question(struct thrum_comm *comm, const struct comm_operation *operation)
{
    for (uint32_t i = 0; i < operation->nmessages; i++) {
        const struct comm_message *m = &operation->messages[i];

        if (m->is_send != m->is_eager && !is_met(comm, m))
            return question_about(comm, m);
    }
    return 0;
}

static bool answer_of(const struct thrum_comm *comm, const struct comm_operation *operation,
                      uint64_t question, struct call_record *out)
{
    for (uint32_t i = 0; i < operation->nmessages; i++) {
        const struct comm_message *m = &operation->messages[i];

        if (question_about(comm, m) != question)
            continue;
        out->count = m->count;
        out->dtype = m->dtype;
        out->redop = m->kind;
        out->state = COMM_RECORD_PENDING;
        return true;
    }
    return false;
}

void comm_record_message(struct thrum_comm *comm, uint64_t question, struct call_record *out)
{
    uint64_t issued = atomic_load_explicit(&comm->issued, memory_order_acquire);
    uint64_t number = atomic_load_explicit(&comm->retired_number, memory_order_relaxed) + 1;

    for (; number <= issued; number++)
        if (answer_of(comm, comm_operation_at(comm, number), question, out))
            return;
}

int comm_compare_messages(uint64_t question, const struct call_record *records, int nranks,
                          char *text, size_t bytes)
{
    int s = sender_of(question), r = receiver_of(question);
    struct end sender, receiver;

    if (s >= nranks || r >= nranks || records[s].state != COMM_RECORD_PENDING ||
        records[r].state != COMM_RECORD_PENDING)
        return -1;
    sender = (struct end){s, records[s].count, records[s].dtype, records[s].redop};
    receiver = (struct end){r, records[r].count, records[r].dtype, records[r].redop};
    if (sender.count == receiver.count && sender.dtype == receiver.dtype &&
        sender.kind == receiver.kind)
        return -1;
    describe_ends(&sender, &receiver, text, bytes);
    return s;
}
