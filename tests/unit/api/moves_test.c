/*
 * reduce, gather, scatter, alltoall, scan and exscan against their definitions: 1 to 5 ranks in one process, every root,
 * in place and not, each kind of memory, with and without peer access. What is not received into stays as it was.
 */
#include "ranks.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RANKS 5
#define MAX_COUNT 70001
#define UNTOUCHED INT64_C(0x5a5a5a5a5a5a5a5a)

enum kind { REDUCE, GATHER, SCATTER, ALLTOALL, SCAN, EXSCAN, KINDS };

struct setup {
    enum kind kind;
    int n, root;
    size_t count;
    bool in_place;
    enum memory memory;
};

static int64_t value(int rank, size_t i)
{
    return (int64_t)(rank + 1) * 1000003 + (int64_t)i * 7;
}

static int64_t sum(int ranks, size_t i)
{
    int64_t total = 0;

    for (int r = 0; r < ranks; r++)
        total += value(r, i);
    return total;
}

static size_t send_blocks(const struct setup *s, int rank)
{
    return s->kind == ALLTOALL || (s->kind == SCATTER && rank == s->root) ? (size_t)s->n : 1;
}

static size_t recv_blocks(const struct setup *s, int rank)
{
    return s->kind == ALLTOALL || (s->kind == GATHER && rank == s->root) ? (size_t)s->n : 1;
}

/* Whether the call is in place on this rank. */
static bool in_place_here(const struct setup *s, int rank)
{
    return s->in_place && (s->kind == SCAN || s->kind == EXSCAN || rank == s->root);
}

/* Element i of recv after the call, which was `before`. */
static int64_t expected(const struct setup *s, int rank, size_t i, int64_t before)
{
    size_t block = s->count ? i / s->count : 0, at = s->count ? i % s->count : 0;

    switch (s->kind) {
    case REDUCE:
        return rank == s->root ? sum(s->n, i) : before;
    case GATHER:
        return rank == s->root ? value((int)block, at) : before;
    case SCATTER:
        return value(s->root, s->count * (size_t)rank + i);
    case ALLTOALL:
        return value((int)block, s->count * (size_t)rank + at);
    case SCAN:
        return sum(rank + 1, i);
    default:
        return rank ? sum(rank, i) : before;
    }
}

static thrum_status_t call(const struct setup *s, int r, const void *send, void *recv)
{
    switch (s->kind) {
    case REDUCE:
        return thrum_reduce(send, recv, s->count, THRUM_INT64, THRUM_SUM, s->root, comms[r],
                            queues[r]);
    case GATHER:
        return thrum_gather(send, recv, s->count, THRUM_INT64, s->root, comms[r], queues[r]);
    case SCATTER:
        return thrum_scatter(send, recv, s->count, THRUM_INT64, s->root, comms[r], queues[r]);
    case ALLTOALL:
        return thrum_alltoall(send, recv, s->count, THRUM_INT64, comms[r], queues[r]);
    case SCAN:
        return thrum_scan(send, recv, s->count, THRUM_INT64, THRUM_SUM, comms[r], queues[r]);
    default:
        return thrum_exscan(send, recv, s->count, THRUM_INT64, THRUM_SUM, comms[r], queues[r]);
    }
}

static struct buffer sends[MAX_RANKS], recvs[MAX_RANKS];
static int64_t *before[MAX_RANKS]; /* of recv */
static int64_t *got;

/* Contents, and where the buffers are: in place the smaller one lies in the larger. */
static void prepare(const struct setup *s, int r, const int64_t **send_out, int64_t **recv_out)
{
    size_t nsend = send_blocks(s, r) * s->count, nrecv = recv_blocks(s, r) * s->count;
    size_t own = s->count * (size_t)r;
    int64_t *values = malloc((nsend + 1) * sizeof *values);

    assert_non_null(values);
    for (size_t i = 0; i < nsend; i++)
        values[i] = value(r, i);
    for (size_t i = 0; i < nrecv; i++)
        before[r][i] = UNTOUCHED;
    *send_out = (const int64_t *)(const void *)sends[r].address;
    *recv_out = (int64_t *)(void *)recvs[r].address;
    if (in_place_here(s, r) && s->kind == SCATTER) {
        *recv_out = (int64_t *)(void *)sends[r].address + own;
    } else if (in_place_here(s, r)) {
        size_t at = s->kind == GATHER ? own : 0;

        *send_out = (const int64_t *)(const void *)recvs[r].address + at;
        memcpy(before[r] + at, values, nsend * sizeof *values);
    }
    buffer_write(&sends[r], values, nsend * sizeof *values);
    buffer_write(&recvs[r], before[r], nrecv * sizeof *values);
    free(values);
}

static void check(const struct setup *s, int r, const int64_t *recv)
{
    size_t nrecv = recv_blocks(s, r) * s->count;
    bool in_send = in_place_here(s, r) && s->kind == SCATTER;
    struct buffer where = in_send ? sends[r] : recvs[r];

    where.address = (uint8_t *)(uintptr_t)recv;
    buffer_read(&where, got, nrecv * sizeof *got);
    for (size_t i = 0; i < nrecv; i++)
        if (got[i] != expected(s, r, i, before[r][i]))
            fail_msg("kind %d, rank %d of %d, root %d, %s, memory %d: element %zu of %zu is %lld, "
                     "not %lld",
                     s->kind, r, s->n, s->root, s->in_place ? "in place" : "out", s->memory, i,
                     nrecv, (long long)got[i], (long long)expected(s, r, i, before[r][i]));
}

static void run(const struct setup *s)
{
    const int64_t *send[MAX_RANKS];
    int64_t *recv[MAX_RANKS];

    for (int r = 0; r < s->n; r++)
        prepare(s, r, &send[r], &recv[r]);
    for (int r = s->n - 1; r >= 0; r--)
        ok(call(s, r, send[r], recv[r]));
    ranks_synchronize(s->n);
    for (int r = 0; r < s->n; r++)
        check(s, r, recv[r]);
}

static void all_places(struct setup s)
{
    int roots = s.kind == REDUCE || s.kind == GATHER || s.kind == SCATTER ? s.n : 1;

    for (s.root = 0; s.root < roots; s.root++)
        for (int in_place = 0; in_place < 2; in_place++) {
            s.in_place = in_place;
            run(&s);
        }
}

static void with_memory(enum memory memory)
{
    static const size_t counts[] = {0, 1, 7, 1000, MAX_COUNT};

    for (int r = 0; r < MAX_RANKS; r++) {
        size_t bytes = (size_t)MAX_RANKS * MAX_COUNT * sizeof(int64_t);

        buffer_make(&sends[r], r, memory, bytes);
        buffer_make(&recvs[r], r, memory, bytes);
        before[r] = malloc(bytes);
        assert_non_null(before[r]);
    }
    got = malloc((size_t)MAX_RANKS * MAX_COUNT * sizeof *got);
    assert_non_null(got);
    for (int n = 1; n <= MAX_RANKS; n += memory == MEMORY_DEVICE ? 1 : 2) {
        ranks_join(n, NULL);
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
                if (counts[c] < 50000 || n == 3)
                    all_places((struct setup){
                        .kind = (enum kind)kind, .n = n, .count = counts[c], .memory = memory});
        ranks_leave(n);
    }
    for (int r = 0; r < MAX_RANKS; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
        free(before[r]);
    }
    free(got);
}

static void device_memory(void **state)
{
    (void)state;
    with_memory(MEMORY_DEVICE);
}

static void registered_memory(void **state)
{
    (void)state;
    with_memory(MEMORY_REGISTERED);
}

static void host_memory(void **state)
{
    (void)state;
    with_memory(MEMORY_HOST);
}

static int make(void **state)
{
    (void)state;
    ranks_open(MAX_RANKS);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    ranks_close(MAX_RANKS);
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"THRUM_PEER_ACCESS=auto", "THRUM_PEER_ACCESS=none"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_memory),
        cmocka_unit_test(registered_memory),
        cmocka_unit_test(host_memory),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, make, unmake);
}
