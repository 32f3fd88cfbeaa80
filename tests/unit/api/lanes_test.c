/*
 * Algorithms that use several lanes: the same bits as with one, for every number of them, on device and host memory, in
 * place or not, also where one operation follows another at once. With and without peer access.
 */
#include "ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 3, COUNT = 25003, MOST_LANES = 4, CALLS = 2 };

static struct buffer sends[RANKS], recvs[RANKS];
static float values[COUNT];
static uint8_t with_one[CALLS][RANKS][COUNT * sizeof(float)], got[COUNT * sizeof(float)];

/* Of very different sizes, so that the order of a sum shows. */
static float value(int call, int rank, int i)
{
    uint32_t h = ((uint32_t)i + 1) * 2654435761u ^ ((uint32_t)(rank * CALLS + call) + 1) * 40503u;

    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    return ldexpf((float)(h % 20011) - 10005, (int)(h >> 24) % 41 - 20);
}

static void write_inputs(int call, bool in_place, size_t size)
{
    for (int r = 0; r < RANKS; r++) {
        for (int i = 0; i < COUNT; i++)
            values[i] = value(call, r, i);
        if (size == 2) /* bfloat16: any bits but NaN and infinities */
            for (int i = 0; i < COUNT; i++) {
                uint32_t bits;
                memcpy(&bits, &values[i], sizeof bits);
                memcpy((uint8_t *)values + i * 2, (uint8_t *)&bits + 2, 2);
            }
        buffer_write(in_place ? &recvs[r] : &sends[r], values, COUNT * size);
    }
}

/* All results of one number of lanes: kept if that is 1, else compared. */
static void run(int lanes, thrum_datatype_t dtype, bool in_place)
{
    size_t bytes = COUNT * thrum_datatype_size(dtype);

    for (int call = 0; call < CALLS; call++) {
        write_inputs(call, in_place, thrum_datatype_size(dtype));
        for (int times = in_place ? 1 : 3; times > 0; times--) /* on each other's heels */
            for (int r = 0; r < RANKS; r++)
                ok(thrum_allreduce(in_place ? recvs[r].address : sends[r].address, recvs[r].address,
                                   COUNT, dtype, THRUM_SUM, comms[r], queues[r]));
        ranks_synchronize(RANKS);
        for (int r = 0; r < RANKS; r++) {
            buffer_read(&recvs[r], lanes == 1 ? with_one[call][r] : got, bytes);
            assert_memory_equal(with_one[call][r], with_one[call][0], bytes);
            if (lanes > 1 && memcmp(got, with_one[call][r], bytes))
                fail_msg("%s, %d lanes, rank %d, call %d, in place %d", thrum_datatype_name(dtype),
                         lanes, r, call, in_place);
        }
    }
}

static void sweep(const char *algorithms, enum memory memory)
{
    struct thrum_comm_config config = {.size = sizeof config, .algorithms = algorithms};

    ranks_open(RANKS);
    for (int r = 0; r < RANKS; r++) {
        buffer_make(&sends[r], r, memory, sizeof values);
        buffer_make(&recvs[r], r, memory, sizeof values);
    }
    for (int kind = 0; kind < 4; kind++)
        for (config.lanes = 1; config.lanes <= MOST_LANES; config.lanes++) {
            ranks_join(RANKS, &config);
            run(config.lanes, kind & 1 ? THRUM_BFLOAT16 : THRUM_FLOAT32, kind & 2);
            ranks_leave(RANKS);
        }
    for (int r = 0; r < RANKS; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_close(RANKS);
}

static void direct(void **state)
{
    (void)state;
    sweep("allreduce:direct", MEMORY_DEVICE);
    sweep("allreduce:direct", MEMORY_HOST);
}

static void ring(void **state)
{
    (void)state;
    sweep("allreduce:ring", MEMORY_DEVICE);
    sweep("allreduce:ring", MEMORY_HOST);
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"THRUM_PEER_ACCESS=auto",
                                           "THRUM_PEER_ACCESS=none TEST_NO_PEERS=1"};
    const struct CMUnitTest all[] = {cmocka_unit_test(direct), cmocka_unit_test(ring)},
                            without_peers[] = {cmocka_unit_test(ring)};

    run_with_each(argc, argv, settings, sizeof settings / sizeof *settings);
    if (getenv("TEST_NO_PEERS"))
        return cmocka_run_group_tests(without_peers, NULL, NULL);
    return cmocka_run_group_tests(all, NULL, NULL);
}
