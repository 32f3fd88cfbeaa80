/*
 * Reproducible mode: sums of floats whose exponents differ widely are, bit for bit, the left fold in rank order, for
 * every number of ranks, size, collective that reduces, algorithm that the mode allows, number of lanes, kind of
 * memory, and with and without peer access. (Partial results of bfloat16 are float32: rounded once, at the end.)
 */
#include "ranks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ELEMENTS ((size_t)1 << 20)
#define SALT 977

enum kind { ALLREDUCE, REDUCE, REDUCE_SCATTER, SCAN, KINDS };

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Any sign and fraction, exponents from -20 to 20: that of a sum depends on the order. */
static float value(int rank, size_t i)
{
    uint64_t h = mix(((uint64_t)rank * SALT + 1) * 0x9e3779b97f4a7c15u + i);
    float fraction = 1.0f + (float)(h & 0x7fffff) / 8388608.0f;

    return ldexpf(h >> 63 ? -fraction : fraction, (int)(h >> 32 & 0xff) % 41 - 20);
}

static uint16_t to_bfloat16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, 4);
    bits += 0x7fff + (bits >> 16 & 1); /* to nearest even */
    return (uint16_t)(bits >> 16);
}

static float from_bfloat16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float result;

    memcpy(&result, &bits, 4);
    return result;
}

static void store(thrum_datatype_t dtype, uint8_t *out, size_t at, float x)
{
    uint16_t narrow = to_bfloat16(x);

    if (dtype == THRUM_FLOAT32)
        memcpy(out + at * 4, &x, 4);
    else
        memcpy(out + at * 2, &narrow, 2);
}

static float contribution(thrum_datatype_t dtype, int rank, size_t i)
{
    float x = value(rank, i);

    return dtype == THRUM_FLOAT32 ? x : from_bfloat16(to_bfloat16(x));
}

static uint8_t *values, *got;
static struct buffer sends[RANKS_MAX], recvs[RANKS_MAX];

static thrum_status_t call(enum kind kind, int r, size_t count, thrum_datatype_t dtype)
{
    const void *send = sends[r].address;
    void *recv = recvs[r].address;

    switch (kind) {
    case ALLREDUCE:
        return thrum_allreduce(send, recv, count, dtype, THRUM_SUM, comms[r], queues[r]);
    case REDUCE:
        return thrum_reduce(send, recv, count, dtype, THRUM_SUM, 0, comms[r], queues[r]);
    case REDUCE_SCATTER:
        return thrum_reduce_scatter(send, recv, count, dtype, THRUM_SUM, comms[r], queues[r]);
    default:
        return thrum_scan(send, recv, count, dtype, THRUM_SUM, comms[r], queues[r]);
    }
}

static void check(enum kind kind, int n, int r, size_t count, thrum_datatype_t dtype)
{
    size_t size = thrum_datatype_size(dtype),
           first = kind == REDUCE_SCATTER ? count * (size_t)r : 0;
    int ranks = kind == SCAN ? r + 1 : n;

    buffer_read(&recvs[r], got, count * size);
    for (size_t i = 0; i < count; i++) {
        uint8_t want[4] = {0};
        float sum = contribution(dtype, 0, first + i);

        for (int k = 1; k < ranks; k++)
            sum += contribution(dtype, k, first + i);
        store(dtype, want, 0, sum);
        if (memcmp(want, got + i * size, size))
            fail_msg("kind %d, %s, %d ranks, rank %d, count %zu: element %zu is no left fold", kind,
                     thrum_datatype_name(dtype), n, r, count, i);
    }
}

static void run(enum kind kind, int n, size_t count, thrum_datatype_t dtype)
{
    size_t size = thrum_datatype_size(dtype),
           nsend = kind == REDUCE_SCATTER ? count * (size_t)n : count;

    for (int r = 0; r < n; r++) {
        for (size_t i = 0; i < nsend; i++)
            store(dtype, values, i, value(r, i));
        buffer_write(&sends[r], values, nsend * size);
    }
    for (int r = 0; r < n; r++)
        ok(call(kind, r, count, dtype));
    ranks_synchronize(n);
    /* all ranks of an allreduce have the same plan but for their slice: two of them will do */
    for (int r = 0; r < n; r++)
        if ((kind != REDUCE || r == 0) && (kind != ALLREDUCE || r == 0 || r == n - 1))
            check(kind, n, r, count, dtype);
}

static void sweep(enum memory memory, const int *ranks, size_t nranks, const size_t *counts,
                  size_t ncounts)
{
    const char *lanes = getenv("TEST_LANES");
    const struct thrum_comm_config config = {
        .size = sizeof config, .reproducible = 1, .lanes = lanes ? atoi(lanes) : 0};
    const int most = ranks[nranks - 1];
    size_t bytes = counts[ncounts - 1] * 4 + 4096;

    ranks_open(most);
    for (int r = 0; r < most; r++) {
        buffer_make(&sends[r], r, memory, bytes * (size_t)(bytes < 1 << 20 ? most : 1));
        buffer_make(&recvs[r], r, memory, bytes);
    }
    for (size_t k = 0; k < nranks; k++) {
        ranks_join(ranks[k], &config);
        for (size_t c = 0; c < ncounts; c++)
            for (int kind = 0; kind < KINDS; kind++)
                for (int narrow = 0; narrow < 2; narrow++) {
                    bool is_large = counts[c] * 4 > 1 << 20;
                    if (!is_large || kind == ALLREDUCE)
                        run((enum kind)kind, ranks[k], counts[c],
                            narrow ? THRUM_BFLOAT16 : THRUM_FLOAT32);
                }
        ranks_leave(ranks[k]);
    }
    for (int r = 0; r < most; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_close(most);
}

static void many_ranks(void **state)
{
    static const int all[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
                     few[] = {2, 5, 7};
    static const size_t counts[] = {1, 33, 1000};

    (void)state;
    if (getenv("TEST_FEW"))
        sweep(MEMORY_DEVICE, few, 3, counts, 3);
    else
        sweep(MEMORY_DEVICE, all, 16, counts, 3);
}

static void large(void **state)
{
    static const int ranks[] = {3};
    static const size_t counts[] = {20011, MAX_ELEMENTS};

    (void)state;
    sweep(MEMORY_DEVICE, ranks, 1, counts, getenv("TEST_FEW") ? 1 : 2);
}

static void host_memory(void **state)
{
    static const int ranks[] = {2, 5};
    static const size_t counts[] = {3, 20011};

    (void)state;
    sweep(MEMORY_HOST, ranks, 2, counts, 2);
}

/* The data are such that another order shows; else this test would prove nothing. */
static void order_matters(void **state)
{
    size_t differ = 0;

    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        float forward = value(0, i) + value(1, i) + value(2, i) + value(3, i);
        float pairs = (value(0, i) + value(1, i)) + (value(2, i) + value(3, i));
        differ += forward != pairs;
    }
    assert_in_range(differ, 100, 1000);
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {
        "THRUM_PEER_ACCESS=auto",
        "THRUM_PEER_ACCESS=none",
        "THRUM_PEER_ACCESS=auto TEST_LANES=3 TEST_FEW=1",
        "THRUM_PEER_ACCESS=none TEST_LANES=2 TEST_FEW=1",
        ("THRUM_PEER_ACCESS=auto TEST_FEW=1 "
         "THRUM_ALGO=allreduce:direct,reduce:direct,reduce_scatter:direct,scan:direct"),
        "THRUM_PEER_ACCESS=auto TEST_FEW=1 THRUM_ALGO=allreduce:chain,reduce:chain,scan:chain",
        "THRUM_PEER_ACCESS=none TEST_FEW=1 THRUM_ALGO=allreduce:chain,reduce:chain,scan:chain",
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_matters),
        cmocka_unit_test(many_ranks),
        cmocka_unit_test(large),
        cmocka_unit_test(host_memory),
    };
    int failed;

    run_with_each(argc, argv, settings, sizeof settings / sizeof *settings);
    values = malloc(MAX_ELEMENTS * 4 + RANKS_MAX * 4096 * 4);
    got = malloc(MAX_ELEMENTS * 4);
    if (!values || !got)
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(values);
    free(got);
    return failed;
}
