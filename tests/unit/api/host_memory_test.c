/*
 * Collectives on host memory: plain, registered and device memory on different ranks of one call, in place and out of
 * place, small and in pieces, again and again, with device memory coming and going between the calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define RANKS 3
#define MAX_COUNT 150001
#define GUARD 64 /* elements after a buffer that must stay as they are */

enum kind { PLAIN, REGISTERED, DEVICE, KINDS };
enum which { ALLREDUCE, BROADCAST, ALLGATHER, REDUCE_SCATTER, COLLECTIVES };

struct rank {
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int32_t *buffers[KINDS][2]; /* send, recv */
};

static struct rank ranks[RANKS];
static int32_t *scratch;

#define BUFFER_ELEMS (RANKS * MAX_COUNT + GUARD)
#define BUFFER_BYTES (BUFFER_ELEMS * sizeof(int32_t))

#define ok(call) ok_at((call), #call, __LINE__)
static void ok_at(thrum_status_t status, const char *call, int line)
{
    if (status != THRUM_OK)
        fail_msg("line %d: %s: %s: %s", line, call, thrum_status_name(status), thrum_last_error());
}

static int make(void **state)
{
    thrum_device_t devices[RANKS];
    thrum_comm_t comms[RANKS];

    (void)state;
    scratch = malloc(BUFFER_BYTES);
    for (int r = 0; r < RANKS; r++) {
        struct rank *k = &ranks[r];

        ok(thrum_device_open(THRUM_DEVICE_ANY, &k->device));
        ok(thrum_queue_create(k->device, r ? THRUM_QUEUE_DEFAULT : THRUM_QUEUE_DIRECT, &k->queue));
        for (int i = 0; i < 2; i++) {
            k->buffers[PLAIN][i] = malloc(BUFFER_BYTES);
            k->buffers[REGISTERED][i] = malloc(BUFFER_BYTES);
            ok(thrum_mem_register_host(k->device, k->buffers[REGISTERED][i], BUFFER_BYTES));
            ok(thrum_mem_alloc(k->device, BUFFER_BYTES, (void **)&k->buffers[DEVICE][i]));
        }
        devices[r] = k->device;
    }
    ok(thrum_comm_init_all(devices, RANKS, NULL, comms));
    for (int r = 0; r < RANKS; r++)
        ranks[r].comm = comms[r];
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++) {
        thrum_comm_destroy(ranks[r].comm);
        thrum_device_close(ranks[r].device);
        for (int i = 0; i < 2; i++) {
            free(ranks[r].buffers[PLAIN][i]);
            free(ranks[r].buffers[REGISTERED][i]);
        }
    }
    free(scratch);
    return 0;
}

/* One call: each rank's kinds of memory are chosen by `mix`. */
struct call {
    enum which which;
    size_t count;
    bool in_place;
    int root, mix;
};

static int32_t value(const struct call *call, int rank, size_t i)
{
    return (int32_t)(i * 7 + (size_t)(rank + 1) * 1000003 + call->count + (size_t)call->mix);
}

static enum kind kind_of(const struct call *call, int rank, int which)
{
    int digits = call->mix / (rank == 0 ? 1 : rank == 1 ? KINDS : KINDS * KINDS);

    /* the two buffers of a rank differ in some of the mixes */
    return (enum kind)((digits + (which && call->mix % 2)) % KINDS);
}

static size_t send_elems(const struct call *call)
{
    return call->which == REDUCE_SCATTER ? call->count * RANKS : call->count;
}

static size_t recv_elems(const struct call *call)
{
    return call->which == ALLGATHER ? call->count * RANKS : call->count;
}

static int32_t expected(const struct call *call, int rank, size_t i)
{
    int32_t sum = 0;

    switch (call->which) {
    case BROADCAST:
        return value(call, call->root, i);
    case ALLGATHER:
        return value(call, (int)(i / call->count), i % call->count);
    case REDUCE_SCATTER:
        i += (size_t)rank * call->count;
        break;
    default:
        break;
    }
    for (int r = 0; r < RANKS; r++)
        sum += value(call, r, i);
    return sum;
}

static void put(const struct rank *k, enum kind kind, int32_t *to, const int32_t *from, size_t n)
{
    if (kind == DEVICE)
        ok(thrum_copy_to_device(k->queue, to, from, n * sizeof *to));
    else
        memcpy(to, from, n * sizeof *to);
}

static void get(const struct rank *k, enum kind kind, int32_t *to, const int32_t *from, size_t n)
{
    if (kind == DEVICE)
        ok(thrum_copy_to_host(k->queue, to, from, n * sizeof *to));
    else
        memcpy(to, from, n * sizeof *to);
}

/* Where the rank's buffers are. In place both lie in one. */
static void find_buffers(const struct call *call, int rank, int32_t **send, int32_t **recv,
                         enum kind *send_kind, enum kind *recv_kind)
{
    *recv_kind = kind_of(call, rank, 1);
    *recv = ranks[rank].buffers[*recv_kind][1];
    *send_kind = call->in_place ? *recv_kind : kind_of(call, rank, 0);
    *send = ranks[rank].buffers[*send_kind][0];
    if (!call->in_place)
        return;
    *send = *recv;
    if (call->which == ALLGATHER)
        *send += (size_t)rank * call->count;
    else if (call->which == REDUCE_SCATTER)
        *recv += (size_t)rank * call->count;
}

static void begin(const struct call *call, int rank)
{
    struct rank *k = &ranks[rank];
    int32_t *send, *recv;
    enum kind send_kind, recv_kind;

    find_buffers(call, rank, &send, &recv, &send_kind, &recv_kind);
    memset(scratch, 0x55, BUFFER_BYTES);
    put(k, recv_kind, recv, scratch, recv_elems(call) + GUARD);
    for (size_t i = 0; i < send_elems(call); i++)
        scratch[i] = value(call, rank, i);
    put(k, send_kind, send, scratch, send_elems(call));
    switch (call->which) {
    case ALLREDUCE:
        ok(thrum_allreduce(send, recv, call->count, THRUM_INT32, THRUM_SUM, k->comm, k->queue));
        break;
    case BROADCAST:
        ok(thrum_broadcast(send, recv, call->count, THRUM_INT32, call->root, k->comm, k->queue));
        break;
    case ALLGATHER:
        ok(thrum_allgather(send, recv, call->count, THRUM_INT32, k->comm, k->queue));
        break;
    default:
        ok(thrum_reduce_scatter(send, recv, call->count, THRUM_INT32, THRUM_SUM, k->comm,
                                k->queue));
    }
}

static void check(const struct call *call, int rank)
{
    int32_t *send, *recv;
    enum kind send_kind, recv_kind;
    size_t n = recv_elems(call);
    bool guarded = !(call->in_place && call->which == REDUCE_SCATTER);

    find_buffers(call, rank, &send, &recv, &send_kind, &recv_kind);
    get(&ranks[rank], recv_kind, scratch, recv, n + GUARD);
    for (size_t i = 0; i < n; i++)
        if (scratch[i] != expected(call, rank, i))
            fail_msg("collective %d, count %zu, %s, mix %d, rank %d: element %zu is %d, not %d",
                     call->which, call->count, call->in_place ? "in place" : "out of place",
                     call->mix, rank, i, scratch[i], expected(call, rank, i));
    for (size_t i = n; i < n + GUARD && guarded; i++)
        assert_int_equal(scratch[i], 0x55555555);
    if (call->in_place)
        return;
    get(&ranks[rank], send_kind, scratch, send, send_elems(call));
    for (size_t i = 0; i < send_elems(call); i++)
        assert_int_equal(scratch[i], value(call, rank, i));
}

static void run(const struct call *call)
{
    for (int r = 0; r < RANKS; r++)
        begin(call, r);
    for (int r = 0; r < RANKS; r++)
        ok(thrum_queue_synchronize(ranks[r].queue));
    for (int r = 0; r < RANKS; r++)
        check(call, r);
}

/* All kinds on all ranks for small counts; a few mixes for what goes in pieces. */
static void test_kinds(void **state)
{
    static const size_t counts[] = {0, 1, 2, 13, 700, 20011, MAX_COUNT};

    (void)state;
    for (int which = 0; which < COLLECTIVES; which++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (int mix = 0; mix<KINDS * KINDS * KINDS; mix += counts[c]> 20000 ? 5 : 1)
                for (int in_place = 0; in_place < 2; in_place++)
                    run(&(struct call){.which = (enum which)which,
                                       .count = counts[c],
                                       .in_place = in_place,
                                       .root = mix % RANKS,
                                       .mix = mix});
}

/* A call made again finds its stages, also when they have moved, and when memory has been freed. */
static void test_repeats(void **state)
{
    static const size_t counts[] = {13, 700, MAX_COUNT, 700, 13};

    (void)state;
    for (int round = 0; round < 3; round++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (int again = 0; again < 3; again++) {
                void *memory;

                run(&(struct call){.which = ALLREDUCE, .count = counts[c]});
                ok(thrum_mem_alloc(ranks[again].device, 100, &memory));
                if (round)
                    ok(thrum_mem_free(ranks[again].device, memory));
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_kinds),
    };

    return cmocka_run_group_tests_name("host memory", tests, make, unmake);
}
