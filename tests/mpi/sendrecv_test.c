/*
 * Point to point, through the public interface only, under a launcher: patterns of sends and receives in groups, one or
 * several messages for a pair, to oneself, without a group, and between and together with collectives. Every byte
 * received is compared, and every byte around it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference.h"

#define GUARD_BYTES 64
#define GUARD_BYTE 0x5a
#define ARENA_BYTES (10u << 20)
#define MAX_TRANSFERS 512

/* One message as one of its ends sees it. */
struct transfer {
    bool is_send;
    int peer;
    uint64_t count;
    thrum_datatype_t dtype;
    uint64_t seed; /* of the data; the same at both ends */
    uint64_t offset; /* in the arena of its direction */
};

struct exchange {
    struct job *job;
    struct buffer send, recv;
    uint8_t *image, *got;
    uint64_t send_used, recv_used;
    struct transfer transfers[MAX_TRANSFERS];
    int ntransfers;
    uint64_t round; /* makes seeds differ between exchanges */
    size_t errors;
};

static void exchange_create(struct exchange *exchange, struct job *job, enum memory memory)
{
    memset(exchange, 0, sizeof *exchange);
    exchange->job = job;
    buffer_create(job, &exchange->send, memory, ARENA_BYTES);
    buffer_create(job, &exchange->recv, memory, ARENA_BYTES);
    exchange->image = job_alloc(ARENA_BYTES);
    exchange->got = job_alloc(ARENA_BYTES);
}

static void exchange_destroy(struct exchange *exchange)
{
    buffer_destroy(exchange->job, &exchange->send);
    buffer_destroy(exchange->job, &exchange->recv);
    free(exchange->image);
    free(exchange->got);
}

/* `index` counts the messages from one rank to another. */
static void add(struct exchange *exchange, bool is_send, int peer, int index, uint64_t count,
                thrum_datatype_t dtype)
{
    int me = exchange->job->rank, from = is_send ? me : peer, to = is_send ? peer : me;
    uint64_t *used = is_send ? &exchange->send_used : &exchange->recv_used;
    uint64_t element = thrum_datatype_size(dtype);
    struct transfer *transfer = &exchange->transfers[exchange->ntransfers++];

    *transfer = (struct transfer){
        .is_send = is_send,
        .peer = peer,
        .count = count,
        .dtype = dtype,
        .seed = exchange->round * 1000000 + (uint64_t)(index * 10000 + from * 100 + to),
        .offset = *used + GUARD_BYTES + (uint64_t)(index % 3) * element,
    };
    *used = (transfer->offset + count * element + GUARD_BYTES + 63) / 64 * 64;
    if (*used > ARENA_BYTES || exchange->ntransfers == MAX_TRANSFERS) {
        job_complain(exchange->job, "the test's arena is too small");
        exit(1);
    }
}

static uint64_t transfer_bytes(const struct transfer *transfer)
{
    return transfer->count * thrum_datatype_size(transfer->dtype);
}

static void prepare(struct exchange *exchange)
{
    memset(exchange->image, GUARD_BYTE, exchange->recv_used);
    buffer_write(exchange->job, &exchange->recv, exchange->image, exchange->recv_used);
    memset(exchange->image, GUARD_BYTE, exchange->send_used);
    for (int i = 0; i < exchange->ntransfers; i++) {
        const struct transfer *transfer = &exchange->transfers[i];
        if (transfer->is_send)
            reference_bytes(exchange->image + transfer->offset, 0, transfer_bytes(transfer),
                            transfer->seed, 0);
    }
    buffer_write(exchange->job, &exchange->send, exchange->image, exchange->send_used);
}

static void issue(const struct exchange *exchange, const struct transfer *transfer)
{
    const struct job *job = exchange->job;

    if (transfer->is_send)
        MUST(thrum_send(exchange->send.address + transfer->offset, transfer->count, transfer->dtype,
                        transfer->peer, job->comm, job->queue));
    else
        MUST(thrum_recv(exchange->recv.address + transfer->offset, transfer->count, transfer->dtype,
                        transfer->peer, job->comm, job->queue));
}

/* Compares all that was received, and empties the exchange. */
static void check(struct exchange *exchange)
{
    struct job *job = exchange->job;

    memset(exchange->image, GUARD_BYTE, exchange->recv_used);
    buffer_read(job, &exchange->recv, exchange->got, exchange->recv_used);
    for (int i = 0; i < exchange->ntransfers; i++) {
        const struct transfer *transfer = &exchange->transfers[i];
        if (!transfer->is_send)
            reference_bytes(exchange->image + transfer->offset, 0, transfer_bytes(transfer),
                            transfer->seed, 0);
    }
    for (uint64_t i = 0; i < exchange->recv_used; i++) {
        if (exchange->got[i] == exchange->image[i])
            continue;
        exchange->errors++;
        job_complain(job, "receive arena, byte %llu of %llu: 0x%x, not 0x%x", (unsigned long long)i,
                     (unsigned long long)exchange->recv_used, exchange->got[i], exchange->image[i]);
        break;
    }
    exchange->ntransfers = 0;
    exchange->send_used = exchange->recv_used = 0;
    exchange->round++;
}

static void run_group(struct exchange *exchange)
{
    prepare(exchange);
    MUST(thrum_group_start());
    for (int i = 0; i < exchange->ntransfers; i++)
        issue(exchange, &exchange->transfers[i]);
    MUST(thrum_group_end());
    MUST(thrum_queue_synchronize(exchange->job->queue));
    check(exchange);
}

static const uint64_t counts[] = {0, 1, 7, 57, 1000, 65537, 300001};
#define COUNTS (sizeof counts / sizeof *counts)

static void to_oneself(struct exchange *exchange)
{
    for (size_t c = 0; c < COUNTS; c++) {
        add(exchange, true, exchange->job->rank, 0, counts[c], THRUM_FLOAT32);
        add(exchange, false, exchange->job->rank, 0, counts[c], THRUM_FLOAT32);
        run_group(exchange);
    }
}

static void ring(struct exchange *exchange)
{
    const struct job *job = exchange->job;
    int next = (job->rank + 1) % job->nranks,
        previous = (job->rank + job->nranks - 1) % job->nranks;

    for (int type = 0; type < THRUM_DATATYPE_COUNT; type++) {
        for (size_t c = 0; c < COUNTS; c++) {
            if (type != THRUM_FLOAT64 && counts[c] > 1000)
                continue;
            for (int receive_first = 0; receive_first < 2; receive_first++) {
                if (receive_first)
                    add(exchange, false, previous, 0, counts[c], (thrum_datatype_t)type);
                add(exchange, true, next, 0, counts[c], (thrum_datatype_t)type);
                if (!receive_first)
                    add(exchange, false, previous, 0, counts[c], (thrum_datatype_t)type);
                run_group(exchange);
            }
        }
    }
}

static uint64_t pair_count(int from, int to, int index)
{
    return (uint64_t)(from * 7919 + to * 104729 + index * 1299709) % 9001;
}

static void all_pairs(struct exchange *exchange)
{
    const struct job *job = exchange->job;

    for (int peer = 0; peer < job->nranks; peer++) {
        add(exchange, true, peer, 0, pair_count(job->rank, peer, 0), THRUM_INT32);
        add(exchange, false, peer, 0, pair_count(peer, job->rank, 0), THRUM_INT32);
    }
    run_group(exchange);
}

/* All sends, then all receives from the last peer to the first: only the order within a pair may matter. */
static void several_per_pair(struct exchange *exchange)
{
    enum { MESSAGES = 5 };
    const struct job *job = exchange->job;

    for (int index = 0; index < MESSAGES; index++)
        for (int peer = 0; peer < job->nranks; peer++)
            add(exchange, true, peer, index, pair_count(job->rank, peer, index), THRUM_UINT16);
    for (int peer = job->nranks - 1; peer >= 0; peer--)
        for (int index = 0; index < MESSAGES; index++)
            add(exchange, false, peer, index, pair_count(peer, job->rank, index), THRUM_UINT16);
    run_group(exchange);
}

/* Not every pair talks, and not in both directions. */
static void irregular(struct exchange *exchange)
{
    const struct job *job = exchange->job;

    for (int round = 0; round < 12; round++) {
        for (int peer = 0; peer < job->nranks; peer++) {
            if (pair_count(job->rank, peer, round) % 3 == 0)
                add(exchange, true, peer, 0, pair_count(job->rank, peer, round), THRUM_UINT8);
            if (pair_count(peer, job->rank, round) % 3 == 0)
                add(exchange, false, peer, 0, pair_count(peer, job->rank, round), THRUM_UINT8);
        }
        run_group(exchange);
    }
}

/* Many to one and one to many, large. */
static void star(struct exchange *exchange)
{
    const struct job *job = exchange->job;

    for (int inward = 0; inward < 2; inward++) {
        for (int peer = 1; peer < job->nranks; peer++) {
            if (job->rank == 0)
                add(exchange, !inward, peer, 0, 100003, THRUM_FLOAT64);
            else if (job->rank == peer)
                add(exchange, inward, 0, 0, 100003, THRUM_FLOAT64);
        }
        run_group(exchange);
    }
}

/* Plain calls: ranks pair up; the even one sends first. */
static void without_group(struct exchange *exchange)
{
    const struct job *job = exchange->job;
    int peer = job->rank ^ 1;

    for (size_t c = 0; c < COUNTS; c++) {
        bool first = job->rank < peer;

        if (peer >= job->nranks) { /* the last of an odd number has no partner */
            exchange->round++;
            continue;
        }
        add(exchange, first, peer, 0, counts[c], THRUM_BFLOAT16);
        add(exchange, !first, peer, 0, counts[c], THRUM_BFLOAT16);
        prepare(exchange);
        issue(exchange, &exchange->transfers[0]);
        issue(exchange, &exchange->transfers[1]);
        MUST(thrum_queue_synchronize(job->queue));
        check(exchange);
    }
}

/* Allreduces before, in and after a group of messages, nothing waited for between them. */
static void with_collectives(struct exchange *exchange)
{
    struct job *job = exchange->job;
    int64_t values[3] = {job->rank + 1, 10 * (job->rank + 1), 100 * (job->rank + 1)};
    int64_t total = (int64_t)job->nranks * (job->nranks + 1) / 2;
    struct buffer sums;

    buffer_create(job, &sums, MEMORY_DEVICE, sizeof values);
    for (int round = 0; round < 8; round++) {
        int64_t got[3];
        for (int peer = 0; peer < job->nranks; peer++) {
            add(exchange, true, peer, 0, pair_count(job->rank, peer, round), THRUM_FLOAT32);
            add(exchange, false, peer, 0, pair_count(peer, job->rank, round), THRUM_FLOAT32);
        }
        prepare(exchange);
        buffer_write(job, &sums, values, sizeof values);
        MUST(thrum_allreduce(sums.address, sums.address, 1, THRUM_INT64, THRUM_SUM, job->comm,
                             job->queue));
        MUST(thrum_group_start());
        for (int i = 0; i < exchange->ntransfers / 2; i++)
            issue(exchange, &exchange->transfers[i]);
        MUST(thrum_allreduce(sums.address + 8, sums.address + 8, 1, THRUM_INT64, THRUM_SUM,
                             job->comm, job->queue));
        for (int i = exchange->ntransfers / 2; i < exchange->ntransfers; i++)
            issue(exchange, &exchange->transfers[i]);
        MUST(thrum_group_end());
        MUST(thrum_allreduce(sums.address + 16, sums.address + 16, 1, THRUM_INT64, THRUM_SUM,
                             job->comm, job->queue));
        MUST(thrum_queue_synchronize(job->queue));
        buffer_read(job, &sums, got, sizeof got);
        if (got[0] != total || got[1] != 10 * total || got[2] != 100 * total) {
            exchange->errors++;
            job_complain(job, "round %d: sums %lld %lld %lld", round, (long long)got[0],
                         (long long)got[1], (long long)got[2]);
        }
        check(exchange);
    }
    buffer_destroy(job, &sums);
}

static const struct {
    const char *name;
    void (*run)(struct exchange *exchange);
} patterns[] = {
    {"to oneself", to_oneself},         {"ring", ring},
    {"all pairs", all_pairs},           {"several messages for each pair", several_per_pair},
    {"irregular", irregular},           {"star", star},
    {"without a group", without_group}, {"between and with collectives", with_collectives},
};

int main(int argc, char **argv)
{
    struct exchange *exchange = job_alloc(sizeof *exchange);
    struct job job;

    job_open(&job, argc, argv);
    for (int memory = 0; memory < MEMORY_KINDS; memory++) {
        exchange_create(exchange, &job, (enum memory)memory);
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
            char name[100];
            snprintf(name, sizeof name, "sendrecv, %s memory: %s", memory_names[memory],
                     patterns[i].name);
            if (!job_wants(&job, name))
                continue;
            patterns[i].run(exchange);
            job_case(&job, name, exchange->errors);
            exchange->errors = 0;
        }
        exchange_destroy(exchange);
    }
    free(exchange);
    return job_close(&job);
}
