/*
 * What every fabric plugin must do, tried through its table only. Run by thrum-conformance, for vendors and for our own
 * suite. This file: data and order; fabric_conformance_errors.c: failures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/base.h"
#include "fabric/fabric.h"
#include "fabric_conformance.h"
#include "fabric_nodes.h"
#include "holdings.h"

#define SLEEP_LIMIT_NS 5000000000

static uint8_t pattern_byte(uint64_t seed, size_t i)
{
    return (uint8_t)((i * 131 + i / 255 + seed * 29) ^ seed >> 3);
}

static void fill_pattern(char *p, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        p[i] = (char)pattern_byte(seed, i);
}

static bool holds_pattern(const char *p, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        if ((uint8_t)p[i] != pattern_byte(seed, i))
            return false;
    return true;
}

static bool holds_byte(const char *p, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != (char)value)
            return false;
    return true;
}

/* ---- one process ------------------------------------------------------------------------------ */

static void describes_itself(void **state)
{
    struct thrum_fabric_info info[4];
    size_t n = 0;

    (void)state;
    assert_true(*nodes_ops->name);
    assert_int_equal(nodes_ops->enumerate(NULL, 0, &n), THRUM_OK);
    assert_int_equal(nodes_ops->enumerate(info, 4, &n), THRUM_OK);
    assert_true(n >= 1);
    assert_non_null(memchr(info[0].name, 0, sizeof info[0].name));
    assert_non_null(memchr(info[0].detail, 0, sizeof info[0].detail));
}

/* Two endpoints from open to close; `use` says what of it is left for close to undo. */
static void use_once(int use)
{
    struct thrum_fabric_address first, second;
    void *one = NULL, *two = NULL, *peer = NULL, *region = NULL;
    static char memory[4096];
    uint64_t key = 0;

    assert_int_equal(nodes_ops->open(nodes_device, &one, &first), THRUM_OK);
    assert_int_equal(nodes_ops->open(nodes_device, &two, &second), THRUM_OK);
    assert_memory_not_equal(&first, &second, sizeof first);
    assert_int_equal(nodes_ops->region_register(one, memory, sizeof memory, &region, &key),
                     THRUM_OK);
    assert_true(key != 0);
    assert_int_equal(nodes_ops->connect(one, &second, &peer), THRUM_OK);
    assert_int_equal(nodes_ops->flush(peer), THRUM_OK); /* nothing to wait for */
    if (use)
        nodes_ops->disconnect(peer); /* else close does it */
    if (use == 2)
        nodes_ops->region_deregister(one, region);
    nodes_ops->close(one);
    nodes_ops->close(two);
}

static void opens_and_closes_without_a_trace(void **state)
{
    enum { TIMES = 12 };
    struct holdings before, after;

    (void)state;
    for (int i = 0; i < 3; i++) /* what a library keeps after its first use is not counted */
        use_once(i);
    before = holdings_count();
    for (int i = 0; i < TIMES; i++)
        use_once(i % 3);
    after = holdings_count();
    assert_true(holdings_are_equal(&before, &after, TIMES));
    nodes_ops->close(NULL);
    nodes_ops->disconnect(NULL);
}

static void unknown_device_is_an_error(void **state)
{
    struct thrum_fabric_address address;
    void *endpoint = NULL;

    (void)state;
    assert_true(nodes_ops->open("no-such-device-here", &endpoint, &address) < 0);
    assert_null(endpoint);
}

/* ---- data and order --------------------------------------------------------------------------- */

/* Lengths 0 to past a page, unaligned on both sides, plain and inline; neighbours stay as they were. */
static void lengths_body(struct node *node)
{
    static const size_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 4095, 4096, 4097, 70001};
    uint64_t sequence = 0;

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t shift = 0; shift < 4; shift++) {
            size_t bytes = lengths[i], at = 4096 + shift;
            sequence++;
            if (node->index == 0) {
                struct thrum_fabric_put put =
                    node_make_put(node, 1, shift * 3, bytes, at, 0, sequence);
                bool inlined = shift == 3 && bytes <= 64;

                fill_pattern(node->memory + shift * 3, bytes, sequence);
                if (inlined) {
                    put.local_region = NULL;
                    put.flags = THRUM_PUT_INLINE;
                }
                node_put(node, 1, &put);
                if (inlined) /* it has been read */
                    memset(node->memory + shift * 3, 0, bytes);
                node_flush(node, 1);
            } else {
                node_wait_signal(node, 0, sequence);
                node_expect(node, holds_pattern(node->memory + at, bytes, sequence), "data");
                node_expect(node, holds_byte(node->memory, at, 0), "bytes before");
                node_expect(node, holds_byte(node->memory + at + bytes, 4096, 0), "bytes behind");
                memset(node->memory + at, 0, bytes);
            }
            node_barrier(node);
        }
    }
}

static void zero_and_unaligned_lengths(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, lengths_body));
}

/*
 * The receiver looks at the data as soon as it sees the signal: all of it must be there. It drives the endpoint itself, or
 * has another thread do so, and sees each word as it is stored.
 */
#define HAMMER_SLOTS 4
static void hammer(struct node *node, uint64_t rounds, void (*pass)(struct node *node))
{
    const size_t slot_bytes = 12000;

    for (uint64_t i = 1; i <= rounds; i++) {
        size_t slot = i % HAMMER_SLOTS, bytes = 1 + (i * 7919) % slot_bytes;
        char *at = node->memory + slot * slot_bytes;

        if (node->index == 0) {
            struct thrum_fabric_put put =
                node_make_put(node, 1, slot * slot_bytes, bytes, slot * slot_bytes, 0, i);
            if (i > HAMMER_SLOTS)
                node_wait_signal(node, 1, i - HAMMER_SLOTS); /* taken, so also sent */
            memset(at, (int)(i % 251), bytes);
            node_put(node, 1, &put);
        } else {
            struct thrum_fabric_put taken = node_make_put(node, 0, 0, 0, 0, 1, i);
            while (node_signal(node, 0) < i)
                pass(node);
            node_expect(node, holds_byte(at, bytes, (int)(i % 251)), "data after its signal");
            node_put(node, 0, &taken);
        }
    }
    node_flush(node, !node->index);
}

static void hammer_body(struct node *node)
{
    hammer(node, nodes_rounds(3000), node_poll);
    node_barrier(node);
}

static void data_is_there_before_its_signal(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, hammer_body));
}

static void *drive(void *argument)
{
    struct node *node = argument;

    while (!atomic_load(&node->board->stage))
        node_poll(node);
    return NULL;
}

static void look_on(struct node *node)
{
    node_expect(node, now_ns() < node->deadline_ns, "the test's time is over");
}

static void driven_body(struct node *node)
{
    pthread_t driver;

    if (node->index == 1)
        node_expect(node, !pthread_create(&driver, NULL, drive, node), "thread");
    hammer(node, nodes_rounds(1000), look_on);
    if (node->index == 1) {
        atomic_store(&node->board->stage, 1);
        pthread_join(driver, NULL);
    }
    node_barrier(node);
}

static void data_is_there_whoever_drives(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, driven_body));
}

/* Runs of small puts with a large one between: a fabric may send these by other ways than those. */
static void sizes_by_turns_body(struct node *node)
{
    const size_t slot_bytes = 100000;

    for (uint64_t i = 1; i <= 1500; i++) {
        size_t slot = i % HAMMER_SLOTS, bytes = i % 150 ? i * 7919 % 12000 : slot_bytes;
        char *at = node->memory + slot * slot_bytes;
        struct thrum_fabric_put put =
            node_make_put(node, !node->index, slot * slot_bytes, bytes, slot * slot_bytes, 0, i);

        if (node->index == 0) {
            if (i > HAMMER_SLOTS)
                node_wait_signal(node, 1, i - HAMMER_SLOTS);
            memset(at, (int)(i % 251), bytes);
            node_put(node, 1, &put);
        } else {
            node_wait_signal(node, 0, i);
            node_expect(node, holds_byte(at, bytes, (int)(i % 251)), "data after its signal");
            put = node_make_put(node, 0, 0, 0, 0, 1, i);
            node_put(node, 0, &put);
        }
    }
    node_flush(node, !node->index);
    node_barrier(node);
}

static void small_and_large_by_turns(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, sizes_by_turns_body));
}

/* Lines: inline data right behind the word of its signal, in both directions by turns. */
static void lines_body(struct node *node)
{
    const size_t line = 4096;
    const int other = !node->index;
    _Atomic uint64_t *flag = (_Atomic uint64_t *)(void *)(node->memory + line);
    enum { MOST = 4088 };
    char data[MOST];

    for (uint64_t i = 1; i <= nodes_rounds(3000); i++) {
        size_t bytes = i % 16 ? i % 65 : i * 37 % (MOST + 1);
        struct thrum_fabric_put put = {.local = data,
                                       .bytes = bytes,
                                       .remote_key = node->board->key[other],
                                       .remote_offset = line + 8,
                                       .signal_key = node->board->key[other],
                                       .signal_offset = line,
                                       .signal_value = i,
                                       .flags = THRUM_PUT_INLINE};
        if (node->index == (int)(i & 1)) {
            fill_pattern(data, bytes, i);
            node_put(node, other, &put);
        } else {
            while (atomic_load_explicit(flag, memory_order_acquire) < i)
                node_poll(node);
            node_expect(node, holds_pattern(node->memory + line + 8, bytes, i), "data of a line");
            node_expect(node, holds_byte(node->memory + line + 8 + MOST, 64, 0), "bytes behind");
        }
    }
    node_flush(node, other);
    node_barrier(node);
}

static void lines_come_whole(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, lines_body));
}

/* As long as the endpoint says that inline data may be. */
static void inline_body(struct node *node)
{
    size_t most = node->ops->max_inline(node->endpoint);
    struct thrum_fabric_put put = node_make_put(node, !node->index, 0, most, 1u << 20, 0, 1);

    node_expect(node, most >= 4096 && most <= 1u << 20, "max_inline of 4096 and more");
    node_expect(node, (unsigned)node->ops->offloads(node->endpoint) <= 1, "offloads is 0 or 1");
    put.local_region = NULL;
    put.flags = THRUM_PUT_INLINE;
    fill_pattern(node->memory, most, 6);
    node_put(node, !node->index, &put);
    memset(node->memory, 0xff, most); /* it has been read */
    node_wait_signal(node, 0, 1);
    node_expect(node, holds_pattern(node->memory + (1u << 20), most, 6), "inline data");
    node_flush(node, !node->index);
    node_barrier(node);
}

static void inline_data_may_be_as_long_as_is_told(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, inline_body));
}

/* Later puts overtake nothing: of puts to the same word, the last one stays. */
static void many_outstanding_body(struct node *node)
{
    const uint64_t puts = nodes_rounds(20000);

    if (node->index == 0) {
        for (uint64_t i = 1; i <= puts; i++) {
            struct thrum_fabric_put put =
                node_make_put(node, 1, 8 * (i % 512), 8, 8 * (i % 1024), 0, i);
            node_put(node, 1, &put);
        }
        node_flush(node, 1);
    } else {
        uint64_t seen = 0;
        while (seen < puts) {
            uint64_t now = node_signal(node, 0);
            node_expect(node, now >= seen, "signals go back in time");
            seen = now;
            node_poll(node);
        }
        node_expect(node, seen == puts, "last signal");
    }
    node_barrier(node);
}

static void many_outstanding_puts_stay_in_order(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, many_outstanding_body));
}

/* Far more than any internal buffer, in both directions at once. */
static void large_body(struct node *node)
{
    const size_t bytes = (3u << 20) + 5, in = 4u << 20;
    int to = !node->index;
    struct thrum_fabric_put put = node_make_put(node, to, 1, bytes, in, 0, 1);

    fill_pattern(node->memory + 1, bytes, (uint64_t)node->index + 1);
    node_put(node, to, &put);
    put = node_make_put(node, to, 0, 0, 0, 1, 1); /* follows the large one */
    node_put(node, to, &put);
    node_wait_signal(node, 1, 1);
    node_expect(node, node_signal(node, 0) == 1, "a later put is not seen before");
    node_expect(node, holds_pattern(node->memory + in, bytes, (uint64_t)to + 1), "data");
    node_flush(node, to);
    node_barrier(node);
}

static void large_puts_in_both_directions(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, large_body));
}

/* After flush the source may change, without the receiver noticing. */
static void flush_body(struct node *node)
{
    const size_t bytes = 300000;

    for (uint64_t i = 1; i <= 8; i++) {
        struct thrum_fabric_put put =
            node_make_put(node, 1, 0, bytes, (size_t)i * bytes, (int)i, i);
        if (node->index)
            continue;
        fill_pattern(node->memory, bytes, i);
        node_put(node, 1, &put);
        node_flush(node, 1);
        memset(node->memory, 0xff, bytes);
    }
    if (node->index) {
        node_wait_signal(node, 8, 8);
        for (uint64_t i = 1; i <= 8; i++)
            node_expect(node, holds_pattern(node->memory + i * bytes, bytes, i), "data");
    }
    node_barrier(node);
}

static void flush_gives_the_source_back(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, flush_body));
}

/* The same with all puts on their way at once: each flush waits for those before its mark. */
static void marks_body(struct node *node)
{
    const size_t bytes = 100000;
    uint64_t marks[9] = {0};

    for (uint64_t i = 1; i <= 8 && !node->index; i++) {
        struct thrum_fabric_put put =
            node_make_put(node, 1, i * bytes, bytes, (size_t)i * bytes, (int)i, i);
        fill_pattern(node->memory + i * bytes, bytes, i);
        node_put(node, 1, &put);
        node_expect(node, node->ops->flush_mark(node->peers[1], &marks[i]) >= 0, "mark");
        node_expect(node, marks[i] != 0, "a mark");
    }
    for (uint64_t i = 1; i <= 8 && !node->index; i++) {
        while (node->ops->flush_mark(node->peers[1], &marks[i]) == THRUM_IN_PROGRESS)
            node_poll(node);
        memset(node->memory + i * bytes, 0xff, bytes);
    }
    if (node->index) {
        node_wait_signal(node, 8, 8);
        for (uint64_t i = 1; i <= 8; i++)
            node_expect(node, holds_pattern(node->memory + i * bytes, bytes, i), "data");
    }
    node_barrier(node);
}

static void marks_give_sources_back_one_by_one(void **state)
{
    (void)state;
    if (!nodes_ops->flush_mark)
        skip();
    assert_true(nodes_run(2, -1, marks_body));
}

/* All to all among eight, several rounds. */
static void many_peers_body(struct node *node)
{
    const size_t bytes = 20000;

    for (uint64_t round = 1; round <= 5; round++) {
        for (int to = 0; to < node->nodes; to++) {
            size_t from = (size_t)(NODES_MAX + to) * bytes;
            struct thrum_fabric_put put = node_make_put(
                node, to, from, bytes, (size_t)node->index * bytes, node->index, round);
            if (to == node->index)
                continue;
            fill_pattern(node->memory + from, bytes, round * 64 + (uint64_t)(node->index * 8 + to));
            node_put(node, to, &put);
        }
        for (int from = 0; from < node->nodes; from++) {
            if (from == node->index)
                continue;
            node_wait_signal(node, from, round);
            node_expect(node,
                        holds_pattern(node->memory + (size_t)from * bytes, bytes,
                                      round * 64 + (uint64_t)(from * 8 + node->index)),
                        "data of a peer");
            node_flush(node, from);
        }
        node_barrier(node);
    }
}

static void eight_peers_all_to_all(void **state)
{
    (void)state;
    assert_true(nodes_run(8, -1, many_peers_body));
}

static void get_body(struct node *node)
{
    static const size_t lengths[] = {0, 1, 5, 64, 4097, 65536, 300001};
    size_t at = 0;

    if (node->index == 1)
        fill_pattern(node->memory, 1u << 20, 9);
    node_barrier(node);
    if (node->index == 0) {
        size_t n = sizeof lengths / sizeof *lengths;
        thrum_status_t status;

        for (size_t i = 0; i < n; i++) { /* all outstanding at once, read backwards */
            while ((status = node->ops->get(node->peers[1], node->memory + at, node->region,
                                            lengths[i], node->board->key[1], n - i)) ==
                   THRUM_IN_PROGRESS)
                node_poll(node);
            node_expect(node, status == THRUM_OK, "get");
            at += lengths[i] + 1;
        }
        node_flush(node, 1);
        at = 0;
        for (size_t i = 0; i < n; i++) {
            for (size_t b = 0; b < lengths[i]; b++)
                node_expect(node, (uint8_t)node->memory[at + b] == pattern_byte(9, n - i + b),
                            "data that was got");
            node_expect(node, node->memory[at + lengths[i]] == 0, "byte behind");
            at += lengths[i] + 1;
        }
    }
    node_barrier(node);
}

static void gets_read_remote_memory(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, get_body));
}

/* A get that follows a put to the same place reads what was put. */
static void get_after_put_body(struct node *node)
{
    if (node->index == 0) {
        for (uint64_t i = 1; i <= 200; i++) {
            struct thrum_fabric_put put = node_make_put(node, 1, 0, 5000, 64, -1, 0);
            thrum_status_t status;

            memset(node->memory, (int)i, 5000);
            node_put(node, 1, &put);
            while ((status = node->ops->get(node->peers[1], node->memory + 8192, node->region, 5000,
                                            node->board->key[1], 64)) == THRUM_IN_PROGRESS)
                node_poll(node);
            node_expect(node, status == THRUM_OK, "get");
            node_flush(node, 1);
            node_expect(node, holds_byte(node->memory + 8192, 5000, (int)i), "what was put");
        }
    }
    node_barrier(node);
}

static void get_sees_earlier_puts(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, get_after_put_body));
}

/* Several threads put to one peer and progress one endpoint. */
#define THREADS 4
struct thread {
    struct node *node;
    int index;
};

static void *put_thread(void *argument)
{
    struct thread *thread = argument;
    struct node *node = thread->node;

    for (uint64_t i = 1; i <= nodes_rounds(2000); i++) {
        struct thrum_fabric_put put = node_make_put(node, 1, 4096 * (size_t)thread->index, 1000,
                                                    4096 * (size_t)thread->index, thread->index, i);
        node_put(node, 1, &put);
    }
    return NULL;
}

static void threads_body(struct node *node)
{
    if (node->index == 0) {
        struct thread threads[THREADS];
        pthread_t ids[THREADS];

        for (int i = 0; i < THREADS; i++) {
            fill_pattern(node->memory + 4096 * i, 1000, (uint64_t)i);
            threads[i] = (struct thread){node, i};
            node_expect(node, !pthread_create(&ids[i], NULL, put_thread, &threads[i]), "thread");
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(ids[i], NULL);
        node_flush(node, 1);
    } else {
        for (int i = 0; i < THREADS; i++) {
            node_wait_signal(node, i, nodes_rounds(2000));
            node_expect(node, holds_pattern(node->memory + 4096 * i, 1000, (uint64_t)i), "data");
        }
    }
    node_barrier(node);
}

static void threads_share_an_endpoint(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, threads_body));
}

/* A region of 4 GiB of which a few pages are used, as device memory is; or it is said that there is no memory for it. */
static void sparse_body(struct node *node)
{
    const size_t bytes = 4ull << 30, at = bytes - 65536;
    char *sparse = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *region = NULL;
    uint64_t key = 0;

    node_expect(node, sparse != MAP_FAILED, "mmap");
    if (node->index == 1) {
        thrum_status_t status =
            node->ops->region_register(node->endpoint, sparse, bytes, &region, &key);
        node_expect(node, status == THRUM_OK || (status == THRUM_ERR_LIMIT && *thrum_last_error()),
                    "region_register");
        atomic_store(&node->board->stage, status == THRUM_OK); /* what has to pin pages may not */
        node->board->key[1] = key;
    }
    node_barrier(node);
    if (!atomic_load(&node->board->stage)) {
        munmap(sparse, bytes);
        return;
    }
    if (node->index == 0) {
        struct thrum_fabric_put put = node_make_put(node, 1, 0, 65535, at, -1, 0);

        fill_pattern(node->memory, 65535, 4);
        put.signal_key = key = node->board->key[1];
        put.signal_offset = 2ull << 30;
        put.signal_value = 77;
        node_put(node, 1, &put);
        node_flush(node, 1);
    } else {
        _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(sparse + (2ull << 30));
        while (atomic_load_explicit(word, memory_order_acquire) != 77)
            node_poll(node);
        node_expect(node, holds_pattern(sparse + at, 65535, 4), "data at the end");
    }
    node_barrier(node);
    node->ops->region_deregister(node->endpoint, region);
    munmap(sparse, bytes);
}

static void regions_may_be_sparse(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, sparse_body));
}

/* Node 1 computes, that is, calls nothing of the fabric, while node 0 connects once more. */
static void busy_body(struct node *node)
{
    if (node->index == 0) {
        void *again = NULL;
        node_expect(
            node, node->ops->connect(node->endpoint, &node->board->address[1], &again) == THRUM_OK,
            "connect to a busy process");
        atomic_store(&node->board->stage, 1);
        node->ops->disconnect(again);
    } else {
        while (!atomic_load(&node->board->stage)) {
            node_expect(node, now_ns() < node->deadline_ns, "the test's time is over");
            sched_yield();
        }
    }
    node_barrier(node);
}

static void connect_does_not_wait_for_progress(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, busy_body));
}

/* One round of progress when the descriptor tells of it; without a descriptor at once. */
static void sleep_and_poll(struct node *node, int64_t *quiet_since_ns)
{
    struct pollfd fd = {.fd = node->ops->wait_fd(node->endpoint), .events = POLLIN};

    if (fd.fd >= 0 && poll(&fd, 1, 10) == 0) {
        node_expect(node, now_ns() - *quiet_since_ns < SLEEP_LIMIT_NS,
                    "the descriptor does not tell that progress is needed");
        return;
    }
    node_poll(node);
    *quiet_since_ns = now_ns();
}

/* Both ends call progress only when the descriptor says so, and what is small and what is large arrives. */
static void sleeper_body(struct node *node)
{
    const int other = !node->index;

    for (uint64_t i = 1; i <= 40; i++) {
        size_t bytes = i % 8 ? 100 : 1u << 20;
        struct thrum_fabric_put put = node_make_put(node, other, 0, bytes, 2u << 20, 0, i);
        int64_t quiet_since_ns = now_ns();
        thrum_status_t status = THRUM_OK;

        if (node->index == (int)(i & 1)) {
            fill_pattern(node->memory, bytes, i);
            while ((status = node->ops->put_signal(node->peers[other], &put)) == THRUM_IN_PROGRESS)
                sleep_and_poll(node, &quiet_since_ns);
            while (!status &&
                   (status = node->ops->flush(node->peers[other])) == THRUM_IN_PROGRESS) {
                sleep_and_poll(node, &quiet_since_ns);
                status = THRUM_OK;
            }
            node_expect(node, status == THRUM_OK, "put and flush");
        } else {
            while (node_signal(node, 0) < i)
                sleep_and_poll(node, &quiet_since_ns);
            node_expect(node, holds_pattern(node->memory + (2u << 20), bytes, i), "data");
        }
    }
    node_barrier(node);
}

static void sleepers_are_told_by_the_descriptor(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, sleeper_body));
}

int fabric_conformance_run(const struct thrum_fabric_ops *ops, const char *device)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(opens_and_closes_without_a_trace),
        cmocka_unit_test(unknown_device_is_an_error),
        cmocka_unit_test(zero_and_unaligned_lengths),
        cmocka_unit_test(data_is_there_before_its_signal),
        cmocka_unit_test(data_is_there_whoever_drives),
        cmocka_unit_test(small_and_large_by_turns),
        cmocka_unit_test(lines_come_whole),
        cmocka_unit_test(inline_data_may_be_as_long_as_is_told),
        cmocka_unit_test(many_outstanding_puts_stay_in_order),
        cmocka_unit_test(large_puts_in_both_directions),
        cmocka_unit_test(flush_gives_the_source_back),
        cmocka_unit_test(marks_give_sources_back_one_by_one),
        cmocka_unit_test(eight_peers_all_to_all),
        cmocka_unit_test(gets_read_remote_memory),
        cmocka_unit_test(get_sees_earlier_puts),
        cmocka_unit_test(threads_share_an_endpoint),
        cmocka_unit_test(regions_may_be_sparse),
        cmocka_unit_test(connect_does_not_wait_for_progress),
        cmocka_unit_test(sleepers_are_told_by_the_descriptor),
        cmocka_unit_test(dmabufs_are_registered_or_refused),
        cmocka_unit_test(bad_keys_and_ranges_fail_the_connection_only),
        cmocka_unit_test(stale_keys_are_refused),
        cmocka_unit_test(bad_arguments_are_refused_at_the_call),
        cmocka_unit_test(regions_have_a_limit_that_is_told),
        cmocka_unit_test(addresses_of_other_versions_are_refused),
        cmocka_unit_test(close_drops_work_in_flight),
        cmocka_unit_test(disconnect_drops_work_in_flight),
        cmocka_unit_test(stopped_peers_do_not_hold_up_disconnect),
        cmocka_unit_test(killed_peer_is_noticed),
        cmocka_unit_test(failed_connection_holds_up_no_other),
        cmocka_unit_test(dead_address_cannot_be_connected),
    };

    nodes_ops = ops;
    nodes_device = device;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int fabric_conformance(const char *plugin, const char *device)
{
    const struct thrum_fabric_ops *ops;

    if (fabric_plugin_load(plugin, &ops)) {
        fprintf(stderr, "thrum-conformance: %s\n", thrum_last_error());
        return 1;
    }
    return fabric_conformance_run(ops, device);
}
