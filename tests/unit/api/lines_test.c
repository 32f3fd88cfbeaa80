/*
 * Small messages travel in lines, of which a pair has a few slots. Collectives whose lines go one way only let their
 * senders run ahead; nothing may be overwritten, however far, and nothing may wait for ever, whatever the order of
 * collectives that answer and such that do not. Where ranks share a core or put to each other, lines go ahead of their turn,
 * but not before what they carry is there.
 */
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ranks.h"

#define N 3
#define CALLS 240 /* fewer than a host may be ahead */
#define INLINE \
    "broadcast:inline,reduce:inline,gather:inline,scatter:inline,scan:inline,allreduce:inline," \
    "alltoall:inline"

enum kind { BROADCAST, REDUCE, GATHER, SCATTER, SCAN, ALLREDUCE, ALLTOALL, KINDS };

struct one {
    enum kind kind;
    int root;
};

static struct buffer sends[N], recvs[N];
static uint64_t state;

static unsigned next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33);
}

/* Element i of what a rank gives to call number `call`. */
static int64_t given(int call, int rank, int i)
{
    return call * 1000 + rank * 100 + i;
}

static int64_t *element(const struct buffer *buffer, int call)
{
    return (int64_t *)(void *)buffer->address + (size_t)call * N;
}

static thrum_status_t issue(const struct one *one, int call, int r)
{
    const int64_t *send = element(&sends[r], call);
    int64_t *recv = element(&recvs[r], call);
    thrum_comm_t comm = comms[r];
    thrum_queue_t queue = queues[r];

    switch (one->kind) {
    case BROADCAST:
        return thrum_broadcast(send, recv, 1, THRUM_INT64, one->root, comm, queue);
    case REDUCE:
        return thrum_reduce(send, recv, 1, THRUM_INT64, THRUM_SUM, one->root, comm, queue);
    case GATHER:
        return thrum_gather(send, recv, 1, THRUM_INT64, one->root, comm, queue);
    case SCATTER:
        return thrum_scatter(send, recv, 1, THRUM_INT64, one->root, comm, queue);
    case SCAN:
        return thrum_scan(send, recv, 1, THRUM_INT64, THRUM_SUM, comm, queue);
    case ALLREDUCE:
        return thrum_allreduce(send, recv, 1, THRUM_INT64, THRUM_SUM, comm, queue);
    default:
        return thrum_alltoall(send, recv, 1, THRUM_INT64, comm, queue);
    }
}

static int64_t sum(int call, int ranks)
{
    int64_t total = 0;

    for (int r = 0; r < ranks; r++)
        total += given(call, r, 0);
    return total;
}

/* -1: left alone. */
static int64_t expected(const struct one *one, int call, int rank, int i)
{
    switch (one->kind) {
    case BROADCAST:
        return i ? -1 : given(call, one->root, 0);
    case REDUCE:
        return i || rank != one->root ? -1 : sum(call, N);
    case GATHER:
        return rank == one->root ? given(call, i, 0) : -1;
    case SCATTER:
        return i ? -1 : given(call, one->root, rank);
    case SCAN:
        return i ? -1 : sum(call, rank + 1);
    case ALLREDUCE:
        return i ? -1 : sum(call, N);
    default:
        return given(call, i, rank);
    }
}

static void begin(void)
{
    int64_t values[CALLS * N];

    ranks_open(N);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, MEMORY_DEVICE, sizeof values);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, sizeof values);
        for (int i = 0; i < CALLS * N; i++)
            values[i] = given(i / N, r, i % N);
        buffer_write(&sends[r], values, sizeof values);
        for (int i = 0; i < CALLS * N; i++)
            values[i] = -1;
        buffer_write(&recvs[r], values, sizeof values);
    }
}

static void end(const struct one *calls, int n)
{
    int64_t got[CALLS * N];

    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        for (int i = 0; i < n * N; i++)
            if (got[i] != expected(&calls[i / N], i / N, r, i % N))
                fail_msg("call %d of kind %d from root %d, rank %d: element %d is %lld, not %lld",
                         i / N, calls[i / N].kind, calls[i / N].root, r, i % N, (long long)got[i],
                         (long long)expected(&calls[i / N], i / N, r, i % N));
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

/* Each rank in turn makes all its calls: those that wait for nobody are done with before the others have begun. */
static void run_in_turns(const struct one *calls, int n)
{
    begin();
    for (int r = 0; r < N; r++)
        for (int call = 0; call < n; call++)
            ok(issue(&calls[call], call, r));
    end(calls, n);
}

static void one_way_for_long(void **unused)
{
    static const enum kind kinds[] = {BROADCAST, REDUCE, GATHER, SCATTER, SCAN};
    struct one calls[CALLS];

    (void)unused;
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int root = 0; root < N; root++) {
            for (int call = 0; call < CALLS; call++)
                calls[call] = (struct one){kinds[k], root};
            run_in_turns(calls, CALLS);
        }
}

/* From one to many calls of a kind between others: every state of the pairs' slots and credits is met. */
static void mixed(void **unused)
{
    struct one calls[CALLS];

    (void)unused;
    state = 20;
    for (int round = 0; round < 8; round++) {
        int left = 0;
        struct one one = {BROADCAST, 0};

        for (int call = 0; call < CALLS; call++, left--) {
            if (left <= 0) {
                left = 1 + (int)(next() % (next() % 2 ? 3 : 20));
                one = (struct one){(enum kind)(next() % KINDS), (int)(next() % N)};
            }
            calls[call] = one;
        }
        run_in_turns(calls, CALLS);
    }
}

/* The ranks advance in steps of their own. */
static void interleaved(void **unused)
{
    struct one calls[CALLS];

    (void)unused;
    state = 77;
    for (int round = 0; round < 8; round++) {
        int at[N] = {0}, left = N * CALLS;

        for (int call = 0; call < CALLS; call++)
            calls[call] = (struct one){(enum kind)(next() % KINDS), (int)(next() % N)};
        begin();
        while (left) {
            int r = (int)(next() % N);
            for (unsigned steps = next() % 12; steps && at[r] < CALLS; steps--, left--, at[r]++)
                ok(issue(&calls[at[r]], at[r], r));
        }
        end(calls, CALLS);
    }
}

/* ---- what is sent ---- */

enum { LONGEST = 511, SOME_CALLS = 100 };

static int length_of(int call)
{
    static const int lengths[] = {1, 7, 8, 33, 64, 300, LONGEST};

    return lengths[((unsigned)call * 2654435761u >> 7) % 7];
}

/* Of all lengths that a line takes, more than there is room for at a time. */
static void of_many_lengths(void **unused)
{
    static int64_t values[SOME_CALLS][LONGEST];

    (void)unused;
    ranks_open(N);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, MEMORY_DEVICE, sizeof values);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, sizeof values);
        for (int call = 0; call < SOME_CALLS; call++)
            for (int i = 0; i < LONGEST; i++)
                values[call][i] = given(call, r, i);
        buffer_write(&sends[r], values, sizeof values);
        memset(values, 0, sizeof values);
        buffer_write(&recvs[r], values, sizeof values);
    }
    for (int r = 0; r < N; r++)
        for (int call = 0; call < SOME_CALLS; call++) {
            size_t at = (size_t)call * sizeof values[0];
            size_t count = (size_t)length_of(call);
            if (call % 3)
                ok(thrum_broadcast(sends[r].address + at, recvs[r].address + at, count, THRUM_INT64,
                                   call % N, comms[r], queues[r]));
            else
                ok(thrum_allreduce(sends[r].address + at, recvs[r].address + at, count, THRUM_INT64,
                                   THRUM_SUM, comms[r], queues[r]));
        }
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], values, sizeof values);
        for (int call = 0; call < SOME_CALLS; call++)
            for (int i = 0; i < LONGEST; i++) {
                int64_t wanted = call % 3
                                     ? given(call, call % N, i)
                                     : given(call, 0, i) + given(call, 1, i) + given(call, 2, i);
                assert_int_equal(values[call][i], i < length_of(call) ? wanted : 0);
            }
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

/* Room for an element of each call. */
static void begin_chain(void)
{
    int64_t values[SOME_CALLS];

    ranks_open(N);
    ranks_join(N, NULL);
    for (int r = 0; r < N; r++) {
        for (int call = 0; call < SOME_CALLS; call++)
            values[call] = given(call, r, 0);
        buffer_make(&sends[r], r, MEMORY_DEVICE, sizeof values);
        buffer_make(&recvs[r], r, MEMORY_DEVICE, sizeof values);
        buffer_write(&sends[r], values, sizeof values);
    }
}

static void end_chain(const int64_t *wanted)
{
    int64_t got[SOME_CALLS];

    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        for (int call = 0; call < SOME_CALLS; call++)
            if (got[call] != wanted[call])
                fail_msg("rank %d, call %d: %lld, not %lld", r, call, (long long)got[call],
                         (long long)wanted[call]);
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

/* Each call sends what the one before it has received. */
static void what_was_received(void **unused)
{
    int64_t wanted[SOME_CALLS];

    (void)unused;
    begin_chain();
    for (int r = 0; r < N; r++)
        for (int call = 0; call < SOME_CALLS; call++) {
            uint8_t *recv = recvs[r].address + (size_t)call * sizeof(int64_t);
            ok(thrum_allreduce(call ? recv - sizeof(int64_t) : sends[r].address, recv, 1,
                               THRUM_INT64, THRUM_BXOR, comms[r], queues[r]));
        }
    wanted[0] = given(0, 0, 0) ^ given(0, 1, 0) ^ given(0, 2, 0);
    for (int call = 1; call < SOME_CALLS; call++)
        wanted[call] = wanted[call - 1]; /* of an odd number of ranks */
    end_chain(wanted);
}

/* Each call sends what was copied there just before it, by the same queue. */
static void what_was_copied(void **unused)
{
    int64_t wanted[SOME_CALLS];
    struct buffer sent[N];

    (void)unused;
    begin_chain();
    for (int r = 0; r < N; r++) {
        buffer_make(&sent[r], r, MEMORY_DEVICE, sizeof(int64_t));
        for (int call = 0; call < SOME_CALLS; call++) {
            size_t at = (size_t)call * sizeof(int64_t);
            ok(thrum_copy(queues[r], sent[r].address, sends[r].address + at, sizeof(int64_t)));
            ok(thrum_allreduce(sent[r].address, recvs[r].address + at, 1, THRUM_INT64, THRUM_SUM,
                               comms[r], queues[r]));
        }
    }
    for (int call = 0; call < SOME_CALLS; call++)
        wanted[call] = sum(call, N);
    ranks_synchronize(N);
    for (int r = 0; r < N; r++)
        buffer_free(&sent[r]);
    end_chain(wanted);
}

static void broadcast_element(int call, int r)
{
    size_t at = (size_t)call * sizeof(int64_t);

    ok(thrum_broadcast(sends[r].address + at, recvs[r].address + at, 1, THRUM_INT64, 0, comms[r],
                       queues[r]));
}

/*
 * A root whose lines are all on their way may leave: what the others would tell it of them is of no use any more, and no
 * failure of the way to it, as the next call shows. After a call in which they have connected to it.
 */
static void root_has_left(void **unused)
{
    int64_t wanted[SOME_CALLS];
    thrum_comm_t others[N]; /* keep the devices' endpoints open */

    (void)unused;
    begin_chain();
    ok(thrum_comm_init_all(devices, N, NULL, others));
    for (int r = 0; r < N; r++)
        broadcast_element(0, r);
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        for (int call = 1; call < SOME_CALLS; call++)
            broadcast_element(call, r);
        ok(thrum_queue_synchronize(queues[r]));
        if (r == 0) {
            thrum_comm_destroy(comms[0]);
            comms[0] = NULL;
        }
    }
    broadcast_element(0, 1);
    refused(thrum_queue_synchronize(queues[1]), THRUM_ERR_PEER_DEAD, "rank 0 has left",
            "without calling broadcast");
    for (int r = 0; r < N; r++)
        thrum_comm_destroy(others[r]);
    for (int call = 0; call < SOME_CALLS; call++)
        wanted[call] = given(call, 0, 0);
    end_chain(wanted);
}

static uint64_t bytes_put(int r)
{
    struct thrum_ras_counters counters = {.size = sizeof counters};

    ok(thrum_ras_get_counters(devices[r], &counters));
    return counters.bytes_put;
}

/* Who puts has put the lines of all its calls before anybody else has made any of them; also in place. */
static void puts_go_ahead(void **unused)
{
    enum { ROW = 20 };
    int64_t wanted[SOME_CALLS];

    (void)unused;
    if (strcmp(getenv("THRUM_PEER_ACCESS"), "none") != 0)
        skip();
    begin_chain();
    for (int call = 0; call < SOME_CALLS; call++)
        wanted[call] = sum(call, N);
    for (int row = 0; row < SOME_CALLS / ROW; row++) {
        uint64_t before = bytes_put(0);

        for (int r = 0; r < N; r++) {
            for (int call = row * ROW; call < (row + 1) * ROW; call++) {
                size_t at = (size_t)call * sizeof(int64_t);
                uint8_t *recv = recvs[r].address + at;

                if (row % 2)
                    ok(thrum_copy(queues[r], recv, sends[r].address + at, sizeof(int64_t)));
            }
            ok(thrum_queue_synchronize(queues[r]));
            for (int call = row * ROW; call < (row + 1) * ROW; call++) {
                size_t at = (size_t)call * sizeof(int64_t);
                uint8_t *recv = recvs[r].address + at;

                ok(thrum_allreduce(row % 2 ? recv : sends[r].address + at, recv, 1, THRUM_INT64,
                                   THRUM_SUM, comms[r], queues[r]));
            }
            if (r == 0 && row) /* in the first they connect */
                assert_int_equal(bytes_put(0) - before, ROW * (N - 1) * sizeof(int64_t));
        }
        ranks_synchronize(N);
    }
    end_chain(wanted);
}

/* Nor does a small one wait, in its call, for the lanes of a large one before it that the others have not called. */
static void behind_several_lanes(void **unused)
{
    enum { LARGE = 25003 };
    const struct thrum_comm_config config = {
        .size = sizeof config, .lanes = 2, .algorithms = "allreduce:ring,alltoall:inline"};
    struct buffer large[N];
    int64_t got[SOME_CALLS];

    (void)unused;
    begin_chain();
    ranks_leave(N);
    ranks_join(N, &config);
    for (int r = 0; r < N; r++) {
        uint64_t before;

        buffer_make(&large[r], r, MEMORY_DEVICE, LARGE * sizeof(float));
        ok(thrum_fill(queues[r], large[r].address, 0, LARGE * sizeof(float)));
        ok(thrum_queue_synchronize(queues[r]));
        ok(thrum_allreduce(large[r].address, large[r].address, LARGE, THRUM_FLOAT32, THRUM_SUM,
                           comms[r], queues[r]));
        before = bytes_put(r);
        ok(thrum_alltoall(sends[r].address, recvs[r].address, 1, THRUM_INT64, comms[r], queues[r]));
        if (r == 0 && !strcmp(getenv("THRUM_PEER_ACCESS"), "none"))
            assert_int_equal(bytes_put(0) - before, (N - 1) * sizeof(int64_t));
    }
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        for (int peer = 0; peer < N; peer++)
            assert_int_equal(got[peer], given(r, peer, 0));
        buffer_free(&large[r]);
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

static atomic_int gate;

static thrum_status_t wait_for_gate(void *unused)
{
    (void)unused;
    return atomic_load(&gate) ? THRUM_OK : THRUM_IN_PROGRESS;
}

static int64_t *number(const struct buffer *buffer, int i)
{
    return (int64_t *)(void *)buffer->address + i;
}

static void meet_and_add_up(int r, bool by_barrier)
{
    if (by_barrier)
        ok(thrum_barrier(comms[r], queues[r]));
    else
        ok(thrum_allreduce(number(&sends[r], 2), number(&recvs[r], 3), 1, THRUM_INT64, THRUM_SUM,
                           comms[r], queues[r]));
    ok(thrum_allreduce(number(r == 1 ? &recvs[r] : &sends[r], 1), number(&recvs[r], 2), 1,
                       THRUM_INT64, THRUM_SUM, comms[r], queues[r]));
}

/* Rank 1 sends what rank 0 has put there, late, before they met. */
static void put_before(bool by_barrier)
{
    thrum_window_t windows[N];
    int64_t got[SOME_CALLS];

    begin_chain();
    ok(thrum_group_start());
    for (int r = 0; r < N; r++)
        ok(thrum_comm_register(comms[r], recvs[r].address, recvs[r].bytes, &windows[r]));
    ok(thrum_group_end());
    for (int r = 0; r < N; r++)
        meet_and_add_up(r, by_barrier);
    ranks_synchronize(N);
    atomic_store(&gate, 0);
    ok(thrum_queue_callback(queues[0], wait_for_gate, NULL));
    ok(thrum_put(number(&sends[0], 7), 1, THRUM_INT64, 1, windows[0], sizeof(int64_t), comms[0],
                 queues[0]));
    for (int r = 0; r < N; r++)
        meet_and_add_up(r, by_barrier);
    atomic_store(&gate, 1);
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], got, sizeof got);
        assert_int_equal(got[2], given(1, 0, 0) + given(7, 0, 0) + given(1, 2, 0));
    }
    ok(thrum_group_start());
    for (int r = 0; r < N; r++)
        ok(thrum_comm_deregister(windows[r]));
    ok(thrum_group_end());
    for (int r = 0; r < N; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

static void what_a_barrier_brings(void **unused)
{
    (void)unused;
    put_before(true);
}

static void what_another_collective_brings(void **unused)
{
    (void)unused;
    put_before(false);
}

/* What one queue is still to receive is sent on another, behind it in the communicator's order. */
static void what_another_queue_brings(void **unused)
{
    thrum_queue_t seconds[N];
    int64_t got[SOME_CALLS];

    (void)unused;
    begin_chain();
    for (int r = 0; r < N; r++) {
        ok(thrum_queue_create(devices[r], THRUM_QUEUE_DEFAULT, &seconds[r]));
        meet_and_add_up(r, true);
    }
    ranks_synchronize(N);
    atomic_store(&gate, 0);
    for (int r = 0; r < N; r++) {
        ok(thrum_queue_callback(queues[r], wait_for_gate, NULL));
        ok(thrum_allreduce(number(&sends[r], 7), number(&recvs[r], 7), 1, THRUM_INT64, THRUM_SUM,
                           comms[r], queues[r]));
        ok(thrum_allreduce(number(&sends[r], 8), number(&recvs[r], 8), 1, THRUM_INT64, THRUM_SUM,
                           comms[r], seconds[r]));
        ok(thrum_allreduce(number(&recvs[r], 7), number(&recvs[r], 9), 1, THRUM_INT64, THRUM_SUM,
                           comms[r], seconds[r]));
    }
    atomic_store(&gate, 1);
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        ok(thrum_queue_synchronize(seconds[r]));
        buffer_read(&recvs[r], got, sizeof got);
        assert_int_equal(got[9], N * sum(7, N));
    }
    for (int r = 0; r < N; r++) {
        thrum_queue_destroy(seconds[r]);
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    ranks_leave(N);
    ranks_close(N);
}

/* Nobody has failed for so long that a rank has asked the others what they do. */
static void still_well(void)
{
    for (int wait = 0; wait < 500; wait++) {
        poll(NULL, 0, 1);
        for (int r = 0; r < N; r++) {
            thrum_status_t status;
            const char *message;

            ok(thrum_comm_async_error(comms[r], &status, &message));
            if (status)
                fail_msg("rank %d: %s", r, message);
        }
    }
}

/*
 * Rank 0 sends its line of a collective, held up, and then a message, for which rank 1 waits before it calls the
 * collective: rank 0 waits for nobody there, so nobody waits in vain.
 */
static void a_message_comes_first(void **unused)
{
    static const struct one calls[] = {{BROADCAST, 0}, {SCATTER, 0}, {REDUCE, 1}, {GATHER, 1}};

    (void)unused;
    if (getenv("SHARE_A_CORE"))
        skip(); /* nothing of it is about cores */
    for (size_t kind = 0; kind < sizeof calls / sizeof *calls; kind++) {
        int64_t got;

        begin();
        atomic_store(&gate, 0);
        ok(thrum_queue_callback(queues[0], wait_for_gate, NULL));
        ok(issue(&calls[kind], 0, 0));
        ok(thrum_recv(element(&recvs[1], CALLS - 1), 1, THRUM_INT64, 0, comms[1], queues[1]));
        still_well();
        atomic_store(&gate, 1);
        ok(thrum_send(element(&sends[0], CALLS - 1), 1, THRUM_INT64, 1, comms[0], queues[0]));
        for (int r = 1; r < N; r++)
            ok(issue(&calls[kind], 0, r));
        ranks_synchronize(N);
        ok(thrum_copy_to_host(queues[1], &got, element(&recvs[1], CALLS - 1), sizeof got));
        assert_int_equal(got, given(CALLS - 1, 0, 0));
        end(&calls[kind], 1);
    }
}

/* Where the environment asks for it, all ranks share a core. */
static void share_a_core(void)
{
    cpu_set_t all, one;
    size_t core = 0;

    if (!getenv("SHARE_A_CORE") || sched_getaffinity(0, sizeof all, &all))
        return;
    while (core < CPU_SETSIZE - 1 && !CPU_ISSET(core, &all))
        core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        perror("sched_setaffinity");
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {
        "THRUM_DEADLINE_MS=5000 THRUM_PEER_ACCESS=auto THRUM_ALGO=" INLINE,
        "THRUM_DEADLINE_MS=5000 THRUM_PEER_ACCESS=none THRUM_ALGO=" INLINE,
        "SHARE_A_CORE=1 THRUM_DEADLINE_MS=5000 THRUM_PEER_ACCESS=auto THRUM_ALGO=" INLINE};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_way_for_long),
        cmocka_unit_test(mixed),
        cmocka_unit_test(interleaved),
        cmocka_unit_test(of_many_lengths),
        cmocka_unit_test(what_was_received),
        cmocka_unit_test(what_was_copied),
        cmocka_unit_test(root_has_left),
        cmocka_unit_test(puts_go_ahead),
        cmocka_unit_test(behind_several_lanes),
        cmocka_unit_test(what_a_barrier_brings),
        cmocka_unit_test(what_another_collective_brings),
        cmocka_unit_test(what_another_queue_brings),
        cmocka_unit_test(a_message_comes_first),
    };

    run_with_each(argc, argv, settings, 3);
    share_a_core();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
