/*
 * Messages that fit a line are sent at once: they keep their order, also among those that rendezvous; a sender that has
 * used up its lines waits for the receiver and for nobody else; and whoever waits in vain, or for another message than
 * the one that was sent, is told by whom.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ranks.h"

#define N 3
#define SLOT 65536 /* bytes of a message at most; longer than any line */
#define MESSAGES 120

static struct buffer sends[N], recvs[N];
static uint8_t *image; /* of a buffer */

static const struct thrum_comm_config patient = {.size = sizeof patient, .deadline_ms = 20000};
static const struct thrum_comm_config probing = {
    .size = sizeof probing, .deadline_ms = 20000, .probes = 1};
static const struct thrum_comm_config hasty = {.size = sizeof hasty, .deadline_ms = 400};

static uint8_t byte_of(int rank, size_t at)
{
    return (uint8_t)((at * 167 + at / 251) ^ (size_t)(rank * 71 + 5));
}

static void begin(enum memory memory, size_t slots, const struct thrum_comm_config *config)
{
    size_t bytes = slots * SLOT;

    ranks_open(N);
    ranks_join(N, config);
    image = malloc(bytes);
    assert_non_null(image);
    for (int r = 0; r < N; r++) {
        buffer_make(&sends[r], r, memory, bytes);
        buffer_make(&recvs[r], r, memory, bytes);
        for (size_t i = 0; i < bytes; i++)
            image[i] = byte_of(r, i);
        buffer_write(&sends[r], image, bytes);
        memset(image, 0, bytes);
        buffer_write(&recvs[r], image, bytes);
    }
}

static void end(void)
{
    for (int r = 0; r < N; r++) {
        buffer_free(&sends[r]);
        buffer_free(&recvs[r]);
    }
    free(image);
    ranks_leave(N);
    ranks_close(N);
}

static void send_slot(int from, int to, size_t slot, size_t bytes)
{
    ok(thrum_send(sends[from].address + slot * SLOT, bytes, THRUM_UINT8, to, comms[from],
                  queues[from]));
}

static void recv_slot(int from, int to, size_t slot, size_t bytes)
{
    ok(thrum_recv(recvs[to].address + slot * SLOT, bytes, THRUM_UINT8, from, comms[to],
                  queues[to]));
}

/* Slot `slot` of a rank, read into `image` before, has what `from` has sent, and nothing behind it. */
static void check_slot(int from, int to, size_t slot, size_t bytes)
{
    const uint8_t *got = image + slot * SLOT;

    for (size_t i = 0; i < SLOT; i++)
        if (got[i] != (i < bytes ? byte_of(from, slot * SLOT + i) : 0))
            fail_msg("rank %d, message %zu of rank %d, %zu bytes: byte %zu is %u", to, slot, from,
                     bytes, i, got[i]);
}

/* Lengths around all that makes a difference: nothing, a line, its room, a long line, the longest, rendezvous. */
static size_t length_of(size_t i)
{
    static const size_t lengths[] = {8,    0,    248,   249,   1,     256,   4088, 4089, 4096,
                                     4097, 5000, 32767, 32768, 32769, 65536, 3,    300,  12345};

    return lengths[i % (sizeof lengths / sizeof *lengths)];
}

/* The first message of a pair is a rendezvous; after it lines need no receiver. */
static void meet(int from, int to)
{
    send_slot(from, to, 0, 8);
    assert_int_equal(thrum_queue_query(queues[from]), THRUM_IN_PROGRESS);
    recv_slot(from, to, 0, 8);
    ok(thrum_queue_synchronize(queues[from]));
    ok(thrum_queue_synchronize(queues[to]));
}

/* One after the other; the sender has done all that it can before the receiver begins. */
static void in_order(void **unused)
{
    static const enum memory kinds[] = {MEMORY_DEVICE, MEMORY_REGISTERED, MEMORY_HOST};

    (void)unused;
    for (unsigned k = 0; k < 3; k++) {
        begin(kinds[k], MESSAGES, &patient);
        for (size_t i = 0; i < MESSAGES; i++)
            send_slot(0, 1, i, length_of(i));
        for (size_t i = 0; i < MESSAGES; i++)
            recv_slot(0, 1, i, length_of(i));
        ranks_synchronize(N);
        buffer_read(&recvs[1], image, MESSAGES * SLOT);
        for (size_t i = 0; i < MESSAGES; i++)
            check_slot(0, 1, i, length_of(i));
        end();
    }
}

/* The buffer of a send is the sender's again when its queue says so, although nobody has received. */
static void sent_before_received(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 4, &patient);
    meet(0, 1);
    for (size_t i = 0; i < 4; i++)
        send_slot(0, 1, i, 1000);
    ok(thrum_queue_synchronize(queues[0]));
    ok(thrum_fill(queues[0], sends[0].address, 0xee, 4 * SLOT));
    ok(thrum_queue_synchronize(queues[0]));
    for (size_t i = 0; i < 4; i++)
        recv_slot(0, 1, i, 1000);
    ranks_synchronize(N);
    buffer_read(&recvs[1], image, 4 * SLOT);
    for (size_t i = 0; i < 4; i++)
        check_slot(0, 1, i, 1000);
    end();
}

/* What a rank has sent is received, although it has left: it was there when the first message came. */
static void the_sender_has_left(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 80, &patient);
    meet(0, 1);
    for (size_t i = 1; i < 80; i++)
        send_slot(0, 1, i, 100);
    ok(thrum_queue_synchronize(queues[0]));
    thrum_comm_destroy(comms[0]);
    comms[0] = NULL;
    for (size_t i = 1; i < 80; i++)
        recv_slot(0, 1, i, 100);
    ok(thrum_queue_synchronize(queues[1]));
    buffer_read(&recvs[1], image, 80 * SLOT);
    for (size_t i = 1; i < 80; i++)
        check_slot(0, 1, i, 100);
    end();
}

/* ---- thrum_probe ---- */

static bool has(int from, int to)
{
    int has = 77;

    ok(thrum_probe(from, comms[to], &has));
    assert_in_range(has, 0, 1);
    return has;
}

/* A queue may be executed by its device's own thread. */
static void await_message(int from, int to)
{
    struct timespec now, begun;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    while (!has(from, to)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > begun.tv_sec + 20)
            fail_msg("rank %d sees no message from %d", to, from);
        sched_yield();
    }
}

/* Whatever its length, a message is seen from when it is sent until its receive is called, by its receiver alone. */
static void probes(void **unused)
{
    int none = 1;

    (void)unused;
    begin(MEMORY_DEVICE, MESSAGES, &probing);
    for (size_t i = 0; i < 40; i++) {
        assert_false(has(0, 1));
        send_slot(0, 1, i, length_of(i));
        await_message(0, 1);
        assert_false(has(2, 1) || has(1, 0) || has(0, 2) || has(1, 1));
        recv_slot(0, 1, i, length_of(i));
        assert_false(has(0, 1)); /* it has been asked for */
        ranks_synchronize(N);
    }
    for (size_t i = 40; i < 50; i++)
        send_slot(0, 1, i, i % 3 == 0 ? 20000 : 100);
    for (size_t i = 40; i < 50; i++) {
        await_message(0, 1);
        recv_slot(0, 1, i, i % 3 == 0 ? 20000 : 100);
    }
    assert_false(has(0, 1));
    ranks_synchronize(N);
    recv_slot(0, 1, 50, 300); /* one that is called before its send takes that, and no later one */
    send_slot(0, 1, 50, 300);
    send_slot(0, 1, 51, 300);
    ranks_synchronize(N);
    ok(thrum_group_start());
    recv_slot(0, 1, 51, 300);
    assert_true(has(0, 1));
    ok(thrum_group_end());
    assert_false(has(0, 1));
    ranks_synchronize(N);
    buffer_read(&recvs[1], image, MESSAGES * SLOT);
    for (size_t i = 0; i < 40; i++)
        check_slot(0, 1, i, length_of(i));
    for (size_t i = 40; i < 50; i++)
        check_slot(0, 1, i, i % 3 == 0 ? 20000 : 100);
    assert_int_equal(thrum_probe(N, comms[0], &none), THRUM_ERR_INVALID_RANK);
    assert_non_null(strstr(thrum_last_error(), "peer=3"));
    assert_int_equal(thrum_probe(-1, comms[0], &none), THRUM_ERR_INVALID_RANK);
    assert_int_equal(thrum_probe(1, NULL, &none), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_probe(1, comms[0], NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(none, 1);
    end();
    begin(MEMORY_DEVICE, 1, &patient);
    assert_int_equal(thrum_probe(1, comms[0], &none), THRUM_ERR_INVALID_USAGE);
    assert_non_null(strstr(thrum_last_error(), "config.probes"));
    end();
}

/* More than a pair has lines for, many times; calls and receives in steps of their own. */
static void more_than_there_is_room_for(void **unused)
{
    static const size_t lengths[] = {8, 700, 4000, 20000};
    enum { CALLS = 230 };

    (void)unused;
    for (unsigned l = 0; l < 4; l++) {
        begin(MEMORY_DEVICE, CALLS, &patient);
        for (size_t i = 0; i < CALLS; i++)
            send_slot(2, 0, i, lengths[l]);
        for (size_t i = 0; i < CALLS; i++)
            recv_slot(2, 0, i, lengths[l]);
        ranks_synchronize(N);
        buffer_read(&recvs[0], image, CALLS * SLOT);
        for (size_t i = 0; i < CALLS; i++)
            check_slot(2, 0, i, lengths[l]);
        end();
    }
}

/* Many rounds, all to all, eager and rendezvous in one group, each rank with an order of its own. */
static void groups_both_ways(void **unused)
{
    enum { ROUNDS = 40 };

    (void)unused;
    begin(MEMORY_DEVICE, ROUNDS * N, &patient);
    for (int r = 0; r < N; r++) {
        ok(thrum_group_start());
        for (size_t k = 0; k < ROUNDS; k++)
            for (int i = 0; i < N; i++) {
                int peer = (r + i + (int)k) % N;
                size_t out = k * N + (size_t)r, in = k * N + (size_t)peer;

                if (r == 1)
                    recv_slot(peer, r, in, length_of(in * 5));
                send_slot(r, peer, out, length_of(out * 5));
                if (r != 1)
                    recv_slot(peer, r, in, length_of(in * 5));
            }
        ok(thrum_group_end());
    }
    ranks_synchronize(N);
    for (int r = 0; r < N; r++) {
        buffer_read(&recvs[r], image, (size_t)ROUNDS * N * SLOT);
        for (size_t slot = 0; slot < (size_t)ROUNDS * N; slot++)
            check_slot((int)(slot % N), r, slot, length_of(slot * 5));
    }
    end();
}

/* One rank receives a line and sends a rendezvous in a group; the other wants the rendezvous before it sends the line. */
static void group_meets_calls(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 2, &patient);
    ok(thrum_group_start());
    recv_slot(1, 0, 1, 100);
    send_slot(0, 1, 0, SLOT);
    ok(thrum_group_end());
    recv_slot(0, 1, 0, SLOT);
    send_slot(1, 0, 1, 100);
    ranks_synchronize(N);
    buffer_read(&recvs[0], image, 2 * SLOT);
    check_slot(1, 0, 1, 100);
    buffer_read(&recvs[1], image, 2 * SLOT);
    check_slot(0, 1, 0, SLOT);
    end();
}

/* Ranks 0 and 1 send each other so many bytes; rank 0 has both in one group. */
static void exchange(size_t bytes)
{
    ok(thrum_group_start());
    send_slot(0, 1, 0, bytes);
    recv_slot(1, 0, 1, bytes);
    ok(thrum_group_end());
    recv_slot(0, 1, 0, bytes);
    send_slot(1, 0, 1, bytes);
    ok(thrum_queue_synchronize(queues[0]));
    ok(thrum_queue_synchronize(queues[1]));
}

/* What was found out about a group holds for the next one of the same calls. */
static void the_same_again(void **unused)
{
    static const enum memory kinds[] = {MEMORY_DEVICE, MEMORY_REGISTERED, MEMORY_HOST};
    static const size_t lengths[] = {8, 0, 4000, SLOT};

    (void)unused;
    for (unsigned k = 0; k < 3; k++) {
        begin(kinds[k], 2, &patient);
        for (size_t i = 0; i < 40; i++) {
            size_t bytes = lengths[i / 3 % 4];

            memset(image, 0, 2 * SLOT);
            buffer_write(&recvs[0], image, 2 * SLOT);
            buffer_write(&recvs[1], image, 2 * SLOT);
            exchange(bytes);
            buffer_read(&recvs[0], image, 2 * SLOT);
            check_slot(1, 0, 1, bytes);
            buffer_read(&recvs[1], image, 2 * SLOT);
            check_slot(0, 1, 0, bytes);
        }
        end();
    }
}

/* But not when its memory was given back. */
static void the_same_without_its_memory(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 2, &patient);
    for (int i = 0; i < 3; i++)
        exchange(8);
    buffer_free(&sends[0]);
    assert_int_equal(thrum_send(sends[0].address, 8, THRUM_UINT8, 1, comms[0], queues[0]),
                     THRUM_ERR_INVALID_POINTER);
    ok(thrum_group_start());
    assert_int_equal(thrum_send(sends[0].address, 8, THRUM_UINT8, 1, comms[0], queues[0]),
                     THRUM_ERR_INVALID_POINTER);
    recv_slot(1, 0, 1, 8);
    assert_int_equal(thrum_group_end(), THRUM_ERR_INVALID_POINTER);
    buffer_make(&sends[0], 0, MEMORY_DEVICE, 2 * SLOT);
    for (size_t i = 0; i < 2 * SLOT; i++)
        image[i] = byte_of(0, i);
    buffer_write(&sends[0], image, 2 * SLOT);
    exchange(8);
    buffer_read(&recvs[1], image, 2 * SLOT);
    check_slot(0, 1, 0, 8);
    end();
}

/* ---- what goes wrong ---- */

static void fails_with(int rank, thrum_status_t status, const char *text)
{
    assert_int_equal(thrum_queue_synchronize(queues[rank]), status);
    if (!strstr(thrum_last_error(), text))
        fail_msg("rank %d is told \"%s\", not \"%s\"", rank, thrum_last_error(), text);
}

struct pair {
    size_t sent, received;
    thrum_datatype_t type; /* of the receive; of the send uint8 */
    const char *text;
};

/* Both in lines; neither; and each of them in a line where the other is not. After some that agree. */
static void lengths_that_differ(void **unused)
{
    static const struct pair pairs[] = {
        {8, 9, THRUM_UINT8, "rank 0 sends 8 uint8 to rank 1, which receives 9 uint8"},
        {0, 1, THRUM_UINT8, "rank 0 sends 0 uint8 to rank 1, which receives 1 uint8"},
        {8, 8, THRUM_INT8, "rank 0 sends 8 uint8 to rank 1, which receives 8 int8"},
        {SLOT, SLOT - 1, THRUM_UINT8, "rank 0 sends 65536 uint8 to rank 1, which receives 65535"},
        {8, SLOT, THRUM_UINT8, "rank 0 sends 8 uint8 to rank 1, which receives 65536 uint8"},
        {SLOT, 8, THRUM_UINT8, "rank 0 sends 65536 uint8 to rank 1, which receives 8 uint8"},
    };

    (void)unused;
    for (unsigned k = 0; k < sizeof pairs / sizeof *pairs; k++) {
        begin(MEMORY_DEVICE, 8, &patient);
        for (size_t i = 0; i < 6; i++) {
            send_slot(0, 1, i, length_of(i + 12));
            recv_slot(0, 1, i, length_of(i + 12));
        }
        send_slot(0, 1, 6, pairs[k].sent);
        ok(thrum_recv(recvs[1].address, pairs[k].received, pairs[k].type, 0, comms[1], queues[1]));
        fails_with(1, THRUM_ERR_MISMATCH, pairs[k].text);
        end();
    }
}

/* A rendezvous that waits although its peer has sent a line, later, is no mismatch. */
static void later_line_is_none(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 4, &hasty);
    ok(thrum_group_start());
    recv_slot(0, 1, 0, SLOT);
    recv_slot(2, 1, 1, SLOT); /* is never sent */
    ok(thrum_group_end());
    send_slot(0, 1, 0, SLOT);
    send_slot(0, 1, 2, 8);
    fails_with(1, THRUM_ERR_TIMEOUT, "rank 2 has not sent message #1 to rank 1");
    end();
}

static void nobody_receives(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 200, &hasty);
    meet(0, 2);
    for (size_t i = 0; i < 200; i++)
        send_slot(0, 2, i, 8);
    fails_with(0, THRUM_ERR_TIMEOUT, "rank 2 has not received what was sent before message #130");
    end();
}

static void nobody_sends(void **unused)
{
    (void)unused;
    begin(MEMORY_DEVICE, 2, &hasty);
    send_slot(0, 2, 0, 8);
    recv_slot(0, 2, 0, 8);
    recv_slot(0, 2, 1, 8);
    fails_with(2, THRUM_ERR_TIMEOUT, "rank 0 has not sent message #2 to rank 2");
    end();
}

/* A send that its queue refused leaves nothing behind: the next one of the same length sends its own buffer. */
static void refused_then_another(void **unused)
{
    thrum_queue_t stopped;

    (void)unused;
    begin(MEMORY_DEVICE, 4, &patient);
    ok(thrum_queue_create(devices[0], THRUM_QUEUE_DEFAULT, &stopped));
    meet(0, 1);
    send_slot(0, 1, 1, 100);
    ok(thrum_copy(stopped, recvs[0].address, (void *)(uintptr_t)0x1000, 64));
    assert_int_equal(thrum_queue_synchronize(stopped), THRUM_ERR_FAULT);
    assert_int_not_equal(
        thrum_send(sends[0].address + 3 * SLOT, 100, THRUM_UINT8, 1, comms[0], stopped), THRUM_OK);
    send_slot(0, 1, 2, 100);
    recv_slot(0, 1, 1, 100);
    recv_slot(0, 1, 2, 100);
    ranks_synchronize(N);
    buffer_read(&recvs[1], image, 4 * SLOT);
    check_slot(0, 1, 1, 100);
    check_slot(0, 1, 2, 100);
    thrum_queue_destroy(stopped);
    end();
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"THRUM_PEER_ACCESS=auto", "THRUM_PEER_ACCESS=none"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order),
        cmocka_unit_test(sent_before_received),
        cmocka_unit_test(the_sender_has_left),
        cmocka_unit_test(more_than_there_is_room_for),
        cmocka_unit_test(groups_both_ways),
        cmocka_unit_test(group_meets_calls),
        cmocka_unit_test(the_same_again),
        cmocka_unit_test(the_same_without_its_memory),
        cmocka_unit_test(lengths_that_differ),
        cmocka_unit_test(later_line_is_none),
        cmocka_unit_test(refused_then_another),
        cmocka_unit_test(probes),
        cmocka_unit_test(nobody_receives),
        cmocka_unit_test(nobody_sends),
    };

    run_with_each(argc, argv, settings, 2);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
