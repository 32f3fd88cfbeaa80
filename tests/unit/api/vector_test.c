/*
 * The v-variants: blocks of different sizes, also none, one after the other, with gaps, and in another order than
 * ranks'; each kind of memory, in place and not, with and without peer access. What lies between the blocks stays.
 * Counts that disagree are told by what they are.
 */
#include "ranks.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RANKS 5
#define ELEMENTS 40000 /* of a buffer */
#define UNTOUCHED INT32_C(0x5a5a5a5a)

static struct buffer sends[MAX_RANKS], recvs[MAX_RANKS];
static int32_t image[MAX_RANKS][ELEMENTS], want[MAX_RANKS][ELEMENTS], got[ELEMENTS];

static int32_t value(int from, int to, size_t i)
{
    return (int32_t)((from + 1) * 1000000 + (to + 1) * 100000 + (int)i);
}

/* Sizes that differ between ranks, with a zero among them, and larger ones. */
static size_t size_of(int from, int to, int round)
{
    static const size_t sizes[] = {3, 0, 17, 1, 1000, 2500};

    return sizes[(size_t)(from * 3 + to + round) % 6];
}

enum layout { PACKED, GAPS, REVERSED, LAYOUTS };

/* displs for counts; returns what to pass. */
static const size_t *lay_out(enum layout layout, const size_t *counts, int n, size_t *displs)
{
    size_t at = layout == PACKED ? 0 : 5;

    for (int k = 0; k < n; k++) {
        int r = layout == REVERSED ? n - 1 - k : k;
        displs[r] = at;
        at += counts[r] + (layout == PACKED ? 0 : 3 + (size_t)r);
    }
    return layout == PACKED ? NULL : displs;
}

static void fill_untouched(int n)
{
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < ELEMENTS; i++)
            image[r][i] = want[r][i] = UNTOUCHED;
}

static void check_all(int n, const char *name)
{
    ranks_synchronize(n);
    for (int r = 0; r < n; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        for (size_t i = 0; i < ELEMENTS; i++)
            if (got[i] != want[r][i])
                fail_msg("%s, %d ranks, rank %d: element %zu is %d, not %d", name, n, r, i, got[i],
                         want[r][i]);
    }
}

static void allgatherv(int n, enum layout layout, bool in_place, int round)
{
    size_t counts[MAX_RANKS] = {0}, displs[MAX_RANKS];
    const size_t *pass;

    for (int r = 0; r < n; r++)
        counts[r] = size_of(r, 0, round);
    pass = lay_out(layout, counts, n, displs);
    fill_untouched(n);
    for (int r = 0; r < n; r++) {
        int32_t block[ELEMENTS];
        for (size_t i = 0; i < counts[r]; i++) {
            block[i] = value(r, 0, i);
            for (int to = 0; to < n; to++)
                want[to][displs[r] + i] = value(r, 0, i);
            if (in_place)
                image[r][displs[r] + i] = value(r, 0, i);
        }
        buffer_write(&sends[r], block, counts[r] * 4);
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    }
    for (int r = 0; r < n; r++)
        ok(thrum_allgatherv(in_place ? recvs[r].address + displs[r] * 4 : sends[r].address,
                            recvs[r].address, counts, pass, THRUM_INT32, comms[r], queues[r]));
    check_all(n, "allgatherv");
}

enum place {
    APART,
    OWN_BLOCK,
    FRONT,
    PLACES
}; /* where recv is: in send at the own block, or send itself */

static void reduce_scatterv(int n, enum place place, int round)
{
    size_t counts[MAX_RANKS] = {0}, displs[MAX_RANKS], total = 0;

    for (int r = 0; r < n; r++) {
        counts[r] = size_of(r, 1, round);
        total += counts[r];
    }
    (void)lay_out(PACKED, counts, n, displs);
    fill_untouched(n);
    for (int r = 0; r < n; r++) {
        int32_t whole[ELEMENTS];
        for (size_t i = 0; i < total; i++)
            whole[i] = value(r, 0, i);
        buffer_write(&sends[r], whole, total * 4);
        buffer_write(&recvs[r], image[r], sizeof image[r]);
        for (size_t i = 0; i < counts[r]; i++) {
            want[r][i] = 0;
            for (int from = 0; from < n; from++)
                want[r][i] += value(from, 0, displs[r] + i);
        }
    }
    for (int r = 0; r < n; r++) {
        uint8_t *places[PLACES] = {recvs[r].address, sends[r].address + displs[r] * 4,
                                   sends[r].address};
        ok(thrum_reduce_scatterv(sends[r].address, places[place], counts, THRUM_INT32, THRUM_SUM,
                                 comms[r], queues[r]));
    }
    ranks_synchronize(n);
    for (int r = 0; r < n && place != APART; r++) { /* to where check_all looks */
        int32_t whole[ELEMENTS];
        buffer_read(&sends[r], whole, total * 4);
        memcpy(image[r], whole + (place == FRONT ? 0 : displs[r]), counts[r] * 4);
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    }
    check_all(n, "reduce_scatterv");
}

static void alltoallv(int n, enum layout layout, int round)
{
    size_t sendcounts[MAX_RANKS][MAX_RANKS], sdispls[MAX_RANKS][MAX_RANKS];
    size_t recvcounts[MAX_RANKS][MAX_RANKS], rdispls[MAX_RANKS][MAX_RANKS];
    const size_t *spass[MAX_RANKS], *rpass[MAX_RANKS];

    fill_untouched(n);
    for (int r = 0; r < n; r++) {
        int32_t out[ELEMENTS];
        for (int k = 0; k < n; k++) {
            sendcounts[r][k] = size_of(r, k, round);
            recvcounts[r][k] = size_of(k, r, round);
        }
        spass[r] = lay_out((layout + 1) % LAYOUTS, sendcounts[r], n, sdispls[r]);
        rpass[r] = lay_out(layout, recvcounts[r], n, rdispls[r]);
        memset(out, 0, sizeof out);
        for (int k = 0; k < n; k++) {
            for (size_t i = 0; i < sendcounts[r][k]; i++)
                out[sdispls[r][k] + i] = value(r, k, i);
            for (size_t i = 0; i < recvcounts[r][k]; i++)
                want[r][rdispls[r][k] + i] = value(k, r, i);
        }
        buffer_write(&sends[r], out, sizeof out);
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    }
    for (int r = 0; r < n; r++)
        ok(thrum_alltoallv(sends[r].address, sendcounts[r], spass[r], recvs[r].address,
                           recvcounts[r], rpass[r], THRUM_INT32, comms[r], queues[r]));
    check_all(n, "alltoallv");
}

/*
 * Blocks that change places, in a group where other messages between neighbours go first: their blocks are sent later
 * than those that come into their places.
 */
static void alltoallv_in_place(int n, enum layout layout, int round)
{
    size_t counts[MAX_RANKS][MAX_RANKS], displs[MAX_RANKS][MAX_RANKS];
    const size_t *pass[MAX_RANKS];

    fill_untouched(n);
    for (int r = 0; r < n; r++) {
        for (int k = 0; k < n; k++)
            counts[r][k] = size_of(r < k ? r : k, r < k ? k : r, round);
        pass[r] = lay_out(layout, counts[r], n, displs[r]);
        for (int k = 0; k < n; k++)
            for (size_t i = 0; i < counts[r][k]; i++) {
                image[r][displs[r][k] + i] = value(r, k, i);
                want[r][displs[r][k] + i] = value(k, r, i);
            }
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    }
    ok(thrum_group_start());
    for (int r = 0; r < n; r++) {
        ok(thrum_send(sends[r].address, 3, THRUM_INT32, (r + 1) % n, comms[r], queues[r]));
        ok(thrum_recv(sends[r].address + 400, 3, THRUM_INT32, (r + n - 1) % n, comms[r],
                      queues[r]));
        ok(thrum_alltoallv(recvs[r].address, counts[r], pass[r], recvs[r].address, counts[r],
                           pass[r], THRUM_INT32, comms[r], queues[r]));
    }
    ok(thrum_group_end());
    check_all(n, "alltoallv in place");
}

static void gatherv(int n, int root, enum layout layout, bool in_place, int round)
{
    size_t counts[MAX_RANKS] = {0}, displs[MAX_RANKS];
    const size_t *pass;

    for (int r = 0; r < n; r++)
        counts[r] = size_of(r, 2, round);
    pass = lay_out(layout, counts, n, displs);
    fill_untouched(n);
    for (int r = 0; r < n; r++) {
        int32_t block[ELEMENTS];
        for (size_t i = 0; i < counts[r]; i++) {
            block[i] = value(r, root, i);
            want[root][displs[r] + i] = value(r, root, i);
            if (in_place && r == root)
                image[root][displs[r] + i] = value(r, root, i);
        }
        buffer_write(&sends[r], block, counts[r] * 4);
    }
    for (int r = 0; r < n; r++)
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    for (int r = 0; r < n; r++)
        ok(thrum_gatherv(in_place && r == root ? recvs[r].address + displs[r] * 4
                                               : sends[r].address,
                         counts[r], r == root ? recvs[r].address : NULL, r == root ? counts : NULL,
                         r == root ? pass : NULL, THRUM_INT32, root, comms[r], queues[r]));
    check_all(n, "gatherv");
}

static void scatterv(int n, int root, enum layout layout, int round)
{
    size_t counts[MAX_RANKS] = {0}, displs[MAX_RANKS];
    int32_t out[ELEMENTS] = {0};
    const size_t *pass;

    for (int r = 0; r < n; r++)
        counts[r] = size_of(2, r, round);
    pass = lay_out(layout, counts, n, displs);
    fill_untouched(n);
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < counts[r]; i++)
            out[displs[r] + i] = want[r][i] = value(root, r, i);
    buffer_write(&sends[root], out, sizeof out);
    for (int r = 0; r < n; r++)
        buffer_write(&recvs[r], image[r], sizeof image[r]);
    for (int r = 0; r < n; r++)
        ok(thrum_scatterv(r == root ? sends[r].address : NULL, r == root ? counts : NULL,
                          r == root ? pass : NULL, recvs[r].address, counts[r], THRUM_INT32, root,
                          comms[r], queues[r]));
    check_all(n, "scatterv");
}

static void with_memory(enum memory memory)
{
    for (int r = 0; r < MAX_RANKS; r++) {
        buffer_make(&sends[r], r, memory, ELEMENTS * 4);
        buffer_make(&recvs[r], r, memory, ELEMENTS * 4);
    }
    for (int n = 1; n <= MAX_RANKS; n += memory == MEMORY_DEVICE ? 1 : 2) {
        ranks_join(n, NULL);
        for (int round = 0; round < 3; round++)
            for (int layout = 0; layout < LAYOUTS; layout++) {
                allgatherv(n, (enum layout)layout, false, round);
                allgatherv(n, (enum layout)layout, true, round);
                for (int place = 0; place < PLACES; place++)
                    reduce_scatterv(n, (enum place)place, round);
                alltoallv(n, (enum layout)layout, round);
                alltoallv_in_place(n, (enum layout)layout, round);
                gatherv(n, round % n, (enum layout)layout, false, round);
                gatherv(n, round % n, (enum layout)layout, true, round);
                scatterv(n, (round + 1) % n, (enum layout)layout, round);
            }
        ranks_leave(n);
    }
    for (int r = 0; r < MAX_RANKS; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
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

/* Arrays with one sum and one largest count: a program that was made for one must not serve the other. */
static void alike_but_not_equal(void **state)
{
    static const size_t counts[][3] = {{4, 0, 2}, {4, 2, 0}, {0, 4, 2}, {2, 4, 0}};

    (void)state;
    for (int r = 0; r < 3; r++) {
        buffer_make(&sends[r], r, MEMORY_DEVICE, ELEMENTS * 4);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, ELEMENTS * 4);
    }
    ranks_join(3, NULL);
    for (int round = 0; round < 12; round++) {
        const size_t *c = counts[round % 4];

        fill_untouched(3);
        for (int r = 0; r < 3; r++) {
            int32_t block[8];
            size_t at = 0;
            for (size_t i = 0; i < c[r]; i++)
                block[i] = value(r, round, i);
            buffer_write(&sends[r], block, c[r] * 4);
            buffer_write(&recvs[r], image[r], sizeof image[r]);
            for (int from = 0; from < 3; from++)
                for (size_t i = 0; i < c[from]; i++)
                    want[r][at++] = value(from, round, i);
        }
        for (int r = 0; r < 3; r++)
            ok(thrum_allgatherv(sends[r].address, recvs[r].address, c, NULL, THRUM_INT32, comms[r],
                                queues[r]));
        check_all(3, "allgatherv");
    }
    ranks_leave(3);
    for (int r = 0; r < 3; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
}

/* All ranks get MISMATCH and the texts. */
static void told(const char *text, const char *other)
{
    for (int r = 0; r < 3; r++) {
        thrum_status_t status = THRUM_OK;
        const char *message = NULL;

        status = thrum_queue_synchronize(queues[r]);
        status = THRUM_OK; /* a rank may be done before anybody knows */
        for (int tries = 0; !status && tries < 10000; tries++) {
            ok(thrum_comm_async_error(comms[r], &status, &message));
            if (!status)
                poll(NULL, 0, 1);
        }
        if (status != THRUM_ERR_MISMATCH || !strstr(message, text) || !strstr(message, other))
            fail_msg("rank %d: %s: \"%s\" instead of \"%s\" and \"%s\"", r,
                     thrum_status_name(status), message, text, other);
    }
    ranks_leave(3);
}

/* The others may have found out before the last rank calls. */
static void called(thrum_status_t status)
{
    if (status != THRUM_ERR_MISMATCH)
        ok(status);
}

static void disagreements(void **state)
{
    const struct thrum_comm_config config = {.size = sizeof config, .deadline_ms = 20000};
    static const size_t a[] = {10, 20, 30}, b[] = {10, 25, 30}, c[] = {20, 10, 30};
    static const size_t near[] = {0, 10, 30}, far[] = {0, 10, 40};

    (void)state;
    for (int r = 0; r < 3; r++) {
        buffer_make(&sends[r], r, MEMORY_DEVICE, ELEMENTS * 4);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, ELEMENTS * 4);
    }
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++)
        called(thrum_allgatherv(sends[r].address, recvs[r].address, r == 2 ? b : a, NULL,
                                THRUM_INT32, comms[r], queues[r]));
    told("allgatherv", "counts[1] of rank 2 is 5 more than rank 0's");
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++)
        called(thrum_reduce_scatterv(sends[r].address, recvs[r].address, r == 1 ? c : a,
                                     THRUM_INT32, THRUM_SUM, comms[r], queues[r]));
    told("reduce_scatterv", "their counts differ");
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++)
        called(thrum_allgatherv(sends[r].address, recvs[r].address, a, r ? near : far, THRUM_INT32,
                                comms[r], queues[r]));
    told("allgatherv", "displacements differ");
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++) {
        size_t same[] = {20, 20, 20};
        if (r)
            called(thrum_allgather(sends[r].address, recvs[r].address, 20, THRUM_INT32, comms[r],
                                   queues[r]));
        else
            called(thrum_allgatherv(sends[r].address, recvs[r].address, same, NULL, THRUM_INT32,
                                    comms[r], queues[r]));
    }
    told("rank 0 called allgatherv #1 (sum of counts=60, int32)",
         "rank 1 called allgather #1 (count=20, int32)");
    /* messages: the sender sees it */
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++) {
        size_t sendcounts[] = {7, 7, 7}, recvcounts[] = {7, r == 1 ? 9 : 7, 7};
        if (r == 1)
            sendcounts[1] = 9; /* to itself it agrees */
        if (r == 2)
            recvcounts[1] = 8;
        called(thrum_alltoallv(sends[r].address, sendcounts, NULL, recvs[r].address, recvcounts,
                               NULL, THRUM_INT32, comms[r], queues[r]));
    }
    told("rank 1 sends 7 int32 to rank 2 by alltoallv", "which receives 8 int32");
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++) {
        size_t counts[] = {4, 5, 0};
        called(thrum_gatherv(sends[r].address, 4 + (size_t)r, recvs[r].address, counts, NULL,
                             THRUM_INT32, 0, comms[r], queues[r]));
    }
    told("rank 2 sends 6 int32 to rank 0 by gatherv", "which receives 0 int32");
    ranks_join(3, &config);
    for (int r = 0; r < 3; r++) {
        size_t counts[] = {4, 0, 4};
        called(thrum_scatterv(sends[r].address, counts, NULL, recvs[r].address, 4, THRUM_INT32, 0,
                              comms[r], queues[r]));
    }
    told("rank 0 sends 0 int32 to rank 1 by scatterv", "which receives 4 int32");
    ranks_join(3, &config);
    called(thrum_recv(recvs[0].address, 5, THRUM_INT32, 1, comms[0], queues[0]));
    for (int r = 1; r < 3; r++) {
        size_t counts[] = {5, 5, 5};
        called(thrum_gatherv(sends[r].address, 5, recvs[r].address, counts, NULL, THRUM_INT32, 0,
                             comms[r], queues[r]));
    }
    told("rank 1 sends 5 int32 to rank 0 by gatherv", "which receives 5 int32 by send and recv");
    /* a collective and messages, each waiting for the other */
    for (int large = 0; large < 2; large++) {
        ranks_join(3, &config);
        for (int r = 0; r < 3; r++) {
            size_t count = large ? 10000 : 5, counts[] = {count, count, count};
            if (r == 1)
                called(thrum_alltoallv(sends[r].address, counts, NULL, recvs[r].address, counts,
                                       NULL, THRUM_INT32, comms[r], queues[r]));
            else
                called(thrum_alltoall(sends[r].address, recvs[r].address, count, THRUM_INT32,
                                      comms[r], queues[r]));
        }
        told("called alltoall #1", "rank 1 is in alltoallv");
    }
    for (int r = 0; r < 3; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
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
        cmocka_unit_test(device_memory), cmocka_unit_test(registered_memory),
        cmocka_unit_test(host_memory),   cmocka_unit_test(alike_but_not_equal),
        cmocka_unit_test(disagreements),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, make, unmake);
}
