/*
 * Every collective, through the public interface only, under a launcher with any number of ranks: types, operations,
 * roots and kinds of memory, counts from nothing to more than the scratch holds, in place and not. Calls are issued in
 * batches without a wait between them, also where ranks differ in what they may differ in. Each element is compared with an independent reference; so is every byte around
 * and between the buffers, and what was sent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference.h"

enum kind {
    ALLREDUCE,
    REDUCE_SCATTER,
    BROADCAST,
    ALLGATHER,
    REDUCE,
    SCAN,
    EXSCAN,
    GATHER,
    SCATTER,
    ALLTOALL,
    KINDS
};
static const char *const kind_names[KINDS] = {
    "allreduce", "reduce_scatter", "broadcast", "allgather", "reduce",
    "scan",      "exscan",         "gather",    "scatter",   "alltoall"};

static bool reduces(enum kind kind)
{
    return kind == ALLREDUCE || kind == REDUCE_SCATTER || kind == REDUCE || kind == SCAN ||
           kind == EXSCAN;
}

static bool has_root(enum kind kind)
{
    return kind == BROADCAST || kind == REDUCE || kind == GATHER || kind == SCATTER;
}

#define GUARD_BYTES 64
#define GUARD_BYTE 0xa5
#define ARENA_BYTES (6u << 20)
#define MAX_CALLS 512

/* One call of a batch. Offsets are into the arenas; in place, `send` is inside the receive arena. */
struct call {
    enum kind kind;
    thrum_datatype_t dtype;
    thrum_redop_t op;
    uint64_t count;
    int root;
    bool in_place;
    uint64_t seed;
    uint64_t send, send_bytes, recv, recv_bytes;
};

struct batch {
    struct job *job;
    bool mixed; /* each rank has other memory than its neighbours, and is in place where it likes */
    struct buffer send, recv;
    uint8_t *send_image, *recv_image, *expected, *got;
    uint64_t send_used, recv_used;
    struct call calls[MAX_CALLS];
    int ncalls;
    uint64_t next_seed;
    size_t errors;
};

static void batch_create(struct batch *batch, struct job *job, enum memory memory)
{
    enum memory send = memory, recv = memory;

    batch->job = job;
    batch->mixed = memory == MEMORY_KINDS;
    if (batch->mixed) {
        send = (enum memory)(job->rank % MEMORY_KINDS);
        recv = (enum memory)((job->rank / 2 + 1) % MEMORY_KINDS);
    }
    buffer_create(job, &batch->send, send, ARENA_BYTES);
    buffer_create(job, &batch->recv, recv, ARENA_BYTES);
    batch->send_image = job_alloc(ARENA_BYTES);
    batch->recv_image = job_alloc(ARENA_BYTES);
    batch->expected = job_alloc(ARENA_BYTES);
    batch->got = job_alloc(ARENA_BYTES);
    batch->send_used = batch->recv_used = 0;
    batch->ncalls = 0;
    batch->next_seed = 1;
    batch->errors = 0;
}

static void batch_destroy(struct batch *batch)
{
    buffer_destroy(batch->job, &batch->send);
    buffer_destroy(batch->job, &batch->recv);
    free(batch->send_image);
    free(batch->recv_image);
    free(batch->expected);
    free(batch->got);
}

static bool sends_here(const struct call *call, int rank)
{
    return (call->kind != BROADCAST && call->kind != SCATTER) || call->root == rank;
}

static bool receives_here(const struct call *call, int rank)
{
    if (call->kind == EXSCAN)
        return rank > 0;
    return (call->kind != REDUCE && call->kind != GATHER) || call->root == rank;
}

static void contribute(const struct call *call, const struct job *job, uint8_t *to)
{
    uint64_t elements = call->send_bytes / thrum_datatype_size(call->dtype);

    if (reduces(call->kind))
        reference_contribution(to, 0, elements, call->dtype, call->op, job->nranks, call->seed,
                               job->rank);
    else
        reference_bytes(to, 0, call->send_bytes, call->seed, job->rank);
}

static void expect(const struct call *call, const struct job *job, uint8_t *to)
{
    uint64_t block = call->count * thrum_datatype_size(call->dtype);
    uint64_t first = call->kind == REDUCE_SCATTER ? call->count * (uint64_t)job->rank : 0;

    switch (call->kind) {
    case ALLREDUCE:
    case REDUCE_SCATTER:
    case REDUCE:
        reference_reduction(to, first, call->count, call->dtype, call->op, job->nranks, job->nranks,
                            call->seed);
        break;
    case SCAN:
    case EXSCAN:
        reference_reduction(to, 0, call->count, call->dtype, call->op, job->nranks,
                            job->rank + (call->kind == SCAN), call->seed);
        break;
    case BROADCAST:
        reference_bytes(to, 0, block, call->seed, call->root);
        break;
    case SCATTER:
        reference_bytes(to, block * (uint64_t)job->rank, block, call->seed, call->root);
        break;
    case ALLTOALL:
        for (int r = 0; r < job->nranks; r++)
            reference_bytes(to + block * (uint64_t)r, block * (uint64_t)job->rank, block,
                            call->seed, r);
        break;
    default:
        for (int r = 0; r < job->nranks; r++)
            reference_bytes(to + block * (uint64_t)r, 0, block, call->seed, r);
    }
}

static void issue(const struct batch *batch, const struct call *call)
{
    const struct job *job = batch->job;
    const uint8_t *send = (call->in_place ? batch->recv.address : batch->send.address) + call->send;
    uint8_t *recv = batch->recv.address + call->recv;

    if (!sends_here(call, job->rank) && !call->in_place)
        send = NULL;
    switch (call->kind) {
    case ALLREDUCE:
        MUST(
            thrum_allreduce(send, recv, call->count, call->dtype, call->op, job->comm, job->queue));
        break;
    case REDUCE_SCATTER:
        MUST(thrum_reduce_scatter(send, recv, call->count, call->dtype, call->op, job->comm,
                                  job->queue));
        break;
    case BROADCAST:
        MUST(thrum_broadcast(send, recv, call->count, call->dtype, call->root, job->comm,
                             job->queue));
        break;
    case REDUCE:
        MUST(thrum_reduce(send, recv, call->count, call->dtype, call->op, call->root, job->comm,
                          job->queue));
        break;
    case SCAN:
        MUST(thrum_scan(send, recv, call->count, call->dtype, call->op, job->comm, job->queue));
        break;
    case EXSCAN:
        MUST(thrum_exscan(send, recv, call->count, call->dtype, call->op, job->comm, job->queue));
        break;
    case GATHER:
        MUST(thrum_gather(send, recv, call->count, call->dtype, call->root, job->comm, job->queue));
        break;
    case SCATTER:
        MUST(
            thrum_scatter(send, recv, call->count, call->dtype, call->root, job->comm, job->queue));
        break;
    case ALLTOALL:
        MUST(thrum_alltoall(send, recv, call->count, call->dtype, job->comm, job->queue));
        break;
    default:
        MUST(thrum_allgather(send, recv, call->count, call->dtype, job->comm, job->queue));
    }
}

static void describe(const struct call *call, char *text, size_t size)
{
    snprintf(text, size, "%s count=%llu %s %s root=%d%s", kind_names[call->kind],
             (unsigned long long)call->count, thrum_datatype_name(call->dtype),
             thrum_redop_name(call->op), call->root, call->in_place ? " in place" : "");
}

/* Bit patterns for the message; narrow types in the low bits. */
static unsigned long long element(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, bytes);
    return value;
}

static void complain(struct batch *batch, const struct call *call, uint64_t at)
{
    size_t bytes = thrum_datatype_size(call->dtype);
    char text[160];

    batch->errors++;
    if (batch->errors > 5)
        return;
    describe(call, text, sizeof text);
    job_complain(batch->job, "%s: element %llu is 0x%llx, not 0x%llx", text, (unsigned long long)at,
                 element(batch->got + call->recv + at * bytes, bytes),
                 element(batch->expected + call->recv + at * bytes, bytes));
}

/* Whatever lies outside of the received data has to be as it was. */
static void check_untouched(struct batch *batch, const uint8_t *got, const uint8_t *expected,
                            uint64_t used, const char *name)
{
    if (!memcmp(got, expected, used))
        return;
    for (uint64_t i = 0; i < used; i++) {
        if (got[i] == expected[i])
            continue;
        batch->errors++;
        job_complain(batch->job, "byte %llu of the %s arena was overwritten with 0x%x",
                     (unsigned long long)i, name, got[i]);
        return;
    }
}

/* Runs the calls that were added, checks everything, and empties the batch. */
static void batch_run(struct batch *batch)
{
    struct job *job = batch->job;

    memset(batch->send_image, GUARD_BYTE, batch->send_used);
    memset(batch->recv_image, GUARD_BYTE, batch->recv_used);
    for (int i = 0; i < batch->ncalls; i++) {
        const struct call *call = &batch->calls[i];
        if (sends_here(call, job->rank))
            contribute(call, job,
                       (call->in_place ? batch->recv_image : batch->send_image) + call->send);
    }
    buffer_write(job, &batch->send, batch->send_image, batch->send_used);
    buffer_write(job, &batch->recv, batch->recv_image, batch->recv_used);
    for (int i = 0; i < batch->ncalls; i++)
        issue(batch, &batch->calls[i]);
    MUST(thrum_queue_synchronize(job->queue));

    memcpy(batch->expected, batch->recv_image, batch->recv_used);
    buffer_read(job, &batch->recv, batch->got, batch->recv_used);
    for (int i = 0; i < batch->ncalls; i++) {
        const struct call *call = &batch->calls[i];
        uint64_t elements = call->recv_bytes / thrum_datatype_size(call->dtype);
        uint64_t at;

        if (!receives_here(call, job->rank))
            continue; /* what is there is looked at with the rest of the arena */
        expect(call, job, batch->expected + call->recv);
        at = reference_difference(batch->got + call->recv, batch->expected + call->recv, elements,
                                  call->dtype);
        if (at != elements)
            complain(batch, call, at);
        memcpy(batch->got + call->recv, batch->expected + call->recv, call->recv_bytes);
    }
    /* In-place reduce_scatter may use the other blocks of its buffer; those are inside the call's own range. */
    for (int i = 0; i < batch->ncalls; i++)
        if (batch->calls[i].kind == REDUCE_SCATTER && batch->calls[i].in_place)
            memcpy(batch->got + batch->calls[i].send, batch->expected + batch->calls[i].send,
                   batch->calls[i].send_bytes);
    check_untouched(batch, batch->got, batch->expected, batch->recv_used, "receive");
    buffer_read(job, &batch->send, batch->got, batch->send_used);
    check_untouched(batch, batch->got, batch->send_image, batch->send_used, "send");
    batch->ncalls = 0;
    batch->send_used = batch->recv_used = 0;
}

/* Takes `bytes` from an arena, with a guard in front, at odd multiples of the element size. */
static uint64_t take(uint64_t *used, uint64_t bytes, uint64_t element_bytes, uint64_t seed)
{
    uint64_t at = *used + GUARD_BYTES + seed % 5 * element_bytes;

    *used = (at + bytes + GUARD_BYTES + 63) / 64 * 64;
    return at;
}

static void batch_add(struct batch *batch, struct call call)
{
    uint64_t n = (uint64_t)batch->job->nranks, rank = (uint64_t)batch->job->rank;
    uint64_t element_bytes = thrum_datatype_size(call.dtype), block = call.count * element_bytes;

    if (block > batch->job->max_bytes)
        return;
    call.send_bytes = call.kind == REDUCE_SCATTER || call.kind == SCATTER || call.kind == ALLTOALL
                          ? block * n
                          : block;
    call.recv_bytes =
        call.kind == ALLGATHER || call.kind == GATHER || call.kind == ALLTOALL ? block * n : block;
    if (batch->mixed)
        call.in_place = call.kind != ALLTOALL && (batch->next_seed + rank) % 3 == 0;
    if (has_root(call.kind) && call.kind != BROADCAST && call.root != batch->job->rank)
        call.in_place = false;
    if (batch->ncalls == MAX_CALLS || batch->send_used + call.send_bytes + 512 > ARENA_BYTES ||
        batch->recv_used + call.recv_bytes + call.send_bytes + 512 > ARENA_BYTES)
        batch_run(batch);
    call.seed = batch->next_seed++;
    if (!call.in_place) {
        call.send = take(&batch->send_used, call.send_bytes, element_bytes, call.seed);
        call.recv = take(&batch->recv_used, call.recv_bytes, element_bytes, call.seed / 5);
    } else if (call.kind == REDUCE_SCATTER || call.kind == SCATTER) {
        call.send = take(&batch->recv_used, call.send_bytes, element_bytes, call.seed);
        call.recv = call.send + block * rank;
    } else {
        call.recv = take(&batch->recv_used, call.recv_bytes, element_bytes, call.seed);
        call.send = call.recv + (call.kind == ALLGATHER || call.kind == GATHER ? block * rank : 0);
    }
    batch->calls[batch->ncalls++] = call;
}

static void add_both(struct batch *batch, enum kind kind, uint64_t count, thrum_datatype_t dtype,
                     thrum_redop_t op, int root)
{
    for (int in_place = 0; in_place < (kind == ALLTOALL ? 1 : 2); in_place++)
        batch_add(batch, (struct call){.kind = kind,
                                       .dtype = dtype,
                                       .op = op,
                                       .count = count,
                                       .root = root,
                                       .in_place = in_place});
}

static const uint64_t small_counts[] = {0, 1, 2, 7, 13, 1000};
#define SMALL_COUNTS (sizeof small_counts / sizeof *small_counts)

/* Host memory is staged, whatever the type; a third of them will do. */
static bool is_full(const struct batch *batch)
{
    return batch->send.memory == MEMORY_DEVICE && !batch->mixed;
}

static int type_step(const struct batch *batch)
{
    return is_full(batch) ? 1 : 3;
}

/* Of all combinations allreduce has each; the others, which are built of the same parts, every so many. */
static bool is_sampled(const struct batch *batch, enum kind kind, int *at)
{
    int step = kind == ALLREDUCE ? 1 : kind <= ALLGATHER ? 3 : 5;

    return (*at)++ % (is_full(batch) ? step : 2 * step - 1) == 0;
}

static void reductions(struct batch *batch, enum kind kind)
{
    int at = 0;

    for (int type = 0; type < THRUM_DATATYPE_COUNT; type += type_step(batch))
        for (int op = 0; op < THRUM_REDOP_COUNT; op++)
            if (reference_valid((thrum_datatype_t)type, (thrum_redop_t)op))
                for (size_t c = 0; c < SMALL_COUNTS; c++)
                    if (is_sampled(batch, kind, &at))
                        add_both(batch, kind, small_counts[c], (thrum_datatype_t)type,
                                 (thrum_redop_t)op,
                                 has_root(kind) ? at / 3 % batch->job->nranks : 0);
}

/* What moves in slices and chunks; fewer combinations, since the reference takes its time. */
static void large_reductions(struct batch *batch, enum kind kind)
{
    static const struct {
        thrum_datatype_t dtype;
        thrum_redop_t op;
    } picks[] = {{THRUM_FLOAT32, THRUM_SUM}, {THRUM_BFLOAT16, THRUM_SUM},
                 {THRUM_FLOAT16, THRUM_AVG}, {THRUM_FLOAT64, THRUM_MIN},
                 {THRUM_UINT8, THRUM_BXOR},  {THRUM_INT32, THRUM_MAX},
                 {THRUM_UINT64, THRUM_PROD}};
    uint64_t share = kind == REDUCE_SCATTER ? (uint64_t)batch->job->nranks : 1;
    size_t npicks = sizeof picks / sizeof *picks;

    /* with many ranks the reference costs more than what is tested */
    if (batch->job->nranks > 4 || !is_full(batch) || kind > ALLGATHER)
        npicks = 3;
    for (size_t i = 0; i < npicks; i++) {
        add_both(batch, kind, 4099 / share + 1, picks[i].dtype, picks[i].op, 0);
        add_both(batch, kind, 65537 / share, picks[i].dtype, picks[i].op, 0);
    }
    /* more than the default scratch */
    add_both(batch, kind, 1200007 / share, THRUM_FLOAT32, THRUM_SUM, 0);
}

static void moves(struct batch *batch, enum kind kind)
{
    int roots = has_root(kind) ? batch->job->nranks : 1, at = 0;

    for (int type = 0; type < THRUM_DATATYPE_COUNT; type += type_step(batch))
        for (int root = 0; root < roots; root++)
            for (size_t c = 0; c < SMALL_COUNTS; c++)
                if (is_sampled(batch, kind, &at))
                    add_both(batch, kind, small_counts[c], (thrum_datatype_t)type, THRUM_SUM, root);
}

static void large_moves(struct batch *batch, enum kind kind)
{
    int roots = has_root(kind) ? batch->job->nranks : 1;
    uint64_t share = kind == BROADCAST ? 1 : (uint64_t)batch->job->nranks;

    for (int root = 0; root < roots; root++) {
        add_both(batch, kind, 65537 / share, THRUM_INT16, THRUM_SUM, root);
        add_both(batch, kind, 4099, THRUM_FLOAT64, THRUM_SUM, root);
    }
    add_both(batch, kind, 4800007 / share, THRUM_UINT8, THRUM_SUM, roots - 1);
}

static void run_kind(struct job *job, enum memory memory, enum kind kind)
{
    char small[80], large[80];
    const char *name = memory == MEMORY_KINDS ? "mixed" : memory_names[memory];
    struct batch *batch;

    snprintf(small, sizeof small, "%s, %s memory: types, operations and roots", kind_names[kind],
             name);
    snprintf(large, sizeof large, "%s, %s memory: large", kind_names[kind], name);
    if (!job_wants(job, small))
        return;
    batch = job_alloc(sizeof *batch);
    batch_create(batch, job, memory);
    (reduces(kind) ? reductions : moves)(batch, kind);
    batch_run(batch);
    job_case(job, small, batch->errors);
    batch->errors = 0;
    (reduces(kind) ? large_reductions : large_moves)(batch, kind);
    batch_run(batch);
    job_case(job, large, batch->errors);
    batch_destroy(batch);
    free(batch);
}

/* The same call again and again, each on what the last one left: 0 <= value <= nranks ^ rounds, exact in float64. */
static void repeated(struct job *job)
{
    enum { COUNT = 1021, ROUNDS = 12 };
    const char *name = "allreduce, repeated on its own result";
    double *values = job_alloc(COUNT * sizeof *values), power = 1;
    struct buffer buffer;
    size_t errors = 0;

    if (!job_wants(job, name) || job->max_bytes < COUNT * sizeof *values) {
        free(values);
        return;
    }
    for (int i = 0; i < COUNT; i++)
        values[i] = i;
    buffer_create(job, &buffer, MEMORY_DEVICE, COUNT * sizeof *values);
    buffer_write(job, &buffer, values, buffer.bytes);
    for (int round = 0; round < ROUNDS; round++) {
        MUST(thrum_allreduce(buffer.address, buffer.address, COUNT, THRUM_FLOAT64, THRUM_SUM,
                             job->comm, job->queue));
        power *= job->nranks;
    }
    MUST(thrum_queue_synchronize(job->queue));
    buffer_read(job, &buffer, values, buffer.bytes);
    for (int i = 0; i < COUNT; i++)
        errors += values[i] != i * power;
    buffer_destroy(job, &buffer);
    free(values);
    job_case(job, name, errors);
}

/*
 * A barrier orders the queues: what a neighbour's queue wrote before it, this queue reads after it. Looks at the
 * neighbour's memory, so it needs peer access.
 */
static void barrier_orders(struct job *job)
{
    enum { ROUNDS = 50, BYTES = 4096 };
    const char *name = "barrier, orders queues";
    struct thrum_mem_handle *handles = job_alloc(sizeof *handles * (size_t)job->nranks);
    struct buffer mine, seen, all;
    uint8_t got[ROUNDS];
    void *theirs = NULL;
    size_t errors = 0;
    thrum_status_t status;

    if (!job_wants(job, name) || job->nranks == 1) { /* one rank has no neighbour */
        free(handles);
        return;
    }
    buffer_create(job, &mine, MEMORY_DEVICE, BYTES);
    buffer_create(job, &seen, MEMORY_DEVICE, BYTES);
    buffer_create(job, &all, MEMORY_DEVICE, sizeof *handles * (size_t)job->nranks);
    MUST(thrum_mem_export(job->device, mine.address, &handles[job->rank]));
    buffer_write(job, &all, handles, sizeof *handles * (size_t)job->nranks);
    MUST(thrum_allgather(all.address + sizeof *handles * (size_t)job->rank, all.address,
                         sizeof *handles, THRUM_UINT8, job->comm, job->queue));
    MUST(thrum_queue_synchronize(job->queue));
    buffer_read(job, &all, handles, sizeof *handles * (size_t)job->nranks);
    status = thrum_mem_import(job->device, &handles[(job->rank + 1) % job->nranks], &theirs);
    if (status != THRUM_ERR_UNSUPPORTED) {
        MUST(status);
        for (int round = 0; round < ROUNDS; round++) {
            MUST(thrum_fill(job->queue, mine.address, (uint8_t)(round + 1), BYTES));
            MUST(thrum_barrier(job->comm, job->queue));
            MUST(thrum_copy(job->queue, seen.address + round, (uint8_t *)theirs + BYTES - 1, 1));
            MUST(thrum_barrier(job->comm, job->queue));
        }
        MUST(thrum_queue_synchronize(job->queue));
        buffer_read(job, &seen, got, sizeof got);
        for (int round = 0; round < ROUNDS; round++)
            errors += got[round] != round + 1;
        MUST(thrum_mem_free(job->device, theirs));
    }
    job_case(job, name, errors);
    buffer_destroy(job, &mine);
    buffer_destroy(job, &seen);
    buffer_destroy(job, &all);
    free(handles);
}

int main(int argc, char **argv)
{
    struct job job;

    job_open(&job, argc, argv);
    for (int kind = 0; kind < KINDS; kind++)
        for (int memory = 0; memory <= MEMORY_KINDS; memory++)
            run_kind(&job, (enum memory)memory, (enum kind)kind);
    repeated(&job);
    barrier_orders(&job);
    return job_close(&job);
}
