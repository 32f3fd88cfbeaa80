/* The conformance suite of fabric plugins, second part: bad requests, and peers that go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "fabric_conformance.h"
#include "fabric_nodes.h"

/* Puts, flushes, and expects the connection to fail with a message; an error of put_signal itself is as good. */
static void expect_refused(struct node *node, void *peer, const struct thrum_fabric_put *put,
                           const char *what)
{
    thrum_status_t status = node_try_put(node, peer, put);
    const char *message = "";

    if (status == THRUM_OK)
        status = node_try_flush(node, peer);
    node_expect(node, status < 0, what);
    node_expect(node, *thrum_last_error(), "the error has a message");
    if (node->ops->peer_error(peer, &message) < 0)
        node_expect(node, *message, "the connection's error has a message");
}

static bool untouched(const struct node *node)
{
    for (size_t i = 0; i < NODE_MEMORY_BYTES - 64; i++)
        if (node->memory[i])
            return false;
    return true;
}

enum {
    BAD_KEY,
    BAD_SLOT,
    BAD_OFFSET,
    BAD_LENGTH,
    BAD_WRAP,
    BAD_SIGNAL_KEY,
    BAD_SIGNAL_OFFSET,
    BAD_LENIENT,
    BAD_KINDS
};

static struct thrum_fabric_put bad_put(const struct node *node, int kind)
{
    struct thrum_fabric_put put = node_make_put(node, 1, 0, 64, 128, 0, 5);

    switch (kind) {
    case BAD_KEY:
        put.remote_key ^= 0x5555;
        break;
    case BAD_SLOT: /* not far from a good one */
        put.remote_key += 5;
        break;
    case BAD_OFFSET:
        put.remote_offset = NODE_MEMORY_BYTES - 63;
        break;
    case BAD_LENGTH: /* begins well: nothing of it may be stored either */
        put.bytes = NODE_MEMORY_BYTES / 2;
        put.remote_offset = NODE_MEMORY_BYTES / 2 + 1;
        break;
    case BAD_WRAP:
        put.remote_offset = UINT64_MAX - 7;
        break;
    case BAD_SIGNAL_KEY:
        put.signal_key = 1;
        break;
    case BAD_LENIENT: /* not even where nobody would miss it: the key never was */
        put.bytes = 0;
        put.signal_key = 1;
        put.flags |= THRUM_PUT_LENIENT;
        break;
    default:
        put.signal_offset = NODE_MEMORY_BYTES;
    }
    return put;
}

static void bad_ranges_body(struct node *node)
{
    memset(node->memory, node->index ? 0 : 0x77, NODE_MEMORY_BYTES);
    node_barrier(node);
    if (node->index == 0) {
        struct thrum_fabric_put good = node_make_put(node, 1, 0, 0, 0, 511, 1);

        for (int kind = 0; kind < BAD_KINDS; kind++) {
            struct thrum_fabric_put put = bad_put(node, kind);
            void *peer = NULL;

            node_expect(node,
                        node->ops->connect(node->endpoint, &node->board->address[1], &peer) ==
                            THRUM_OK,
                        "a new connection");
            expect_refused(node, peer, &put, "bad put");
            node->ops->disconnect(peer);
        }
        node_put(node, 1, &good); /* the first connection is as good as ever */
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 511, 1);
        node_expect(node, untouched(node), "the receiver's memory is untouched");
    }
    node_barrier(node);
}

void bad_keys_and_ranges_fail_the_connection_only(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, bad_ranges_body));
}

/* A key dies with its region, even if another region follows it. */
static void stale_key_body(struct node *node)
{
    static char memory[4096];
    void *region = NULL;
    uint64_t key = 0;

    if (node->index == 1) {
        node_expect(node,
                    node->ops->region_register(node->endpoint, memory, sizeof memory, &region,
                                               &key) == THRUM_OK,
                    "region_register");
        node->board->key[1] = key;
        node->ops->region_deregister(node->endpoint, region);
        node_expect(node,
                    node->ops->region_register(node->endpoint, memory, sizeof memory, &region,
                                               &key) == THRUM_OK,
                    "region_register again");
    }
    node_barrier(node);
    if (node->index == 0) {
        struct thrum_fabric_put put = node_make_put(node, 1, 0, 64, 0, -1, 0);
        memset(node->memory, 0x66, 64);
        expect_refused(node, node->peers[1], &put, "put by a stale key");
        /* Once failed, it stays so. */
        node_expect(node, node_try_put(node, node->peers[1], &put) < 0, "put after failure");
    }
    node_barrier(node);
    for (size_t i = 0; i < sizeof memory; i++)
        node_expect(node, !memory[i], "memory is untouched");
    node->ops->region_deregister(node->endpoint, region);
}

void stale_keys_are_refused(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, stale_key_body));
}

/* What the caller alone gets wrong is told at once, and the connection stays. */
static void arguments_body(struct node *node)
{
    if (node->index == 0) {
        struct thrum_fabric_put put = node_make_put(node, 1, 0, 64, 0, 0, 1);
        void *region = NULL;
        uint64_t key = 0;

        put.signal_offset = 4;
        node_expect(node, node->ops->put_signal(node->peers[1], &put) < 0, "odd signal offset");
        node_expect(node,
                    node->ops->region_register(node->endpoint, NULL, 64, &region, &key) < 0 &&
                        !region && !key,
                    "region at NULL");
        put = node_make_put(node, 1, 0, 64, 0, 0, 1);
        node_put(node, 1, &put);
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 0, 1);
    }
    node_barrier(node);
}

void bad_arguments_are_refused_at_the_call(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, arguments_body));
}

/* As many regions as it takes, or more than anybody needs. The limit costs what was registered before nothing. */
#define MANY_REGIONS 10000
static void regions_body(struct node *node)
{
    static char memory[MANY_REGIONS][64];
    static void *regions[MANY_REGIONS + 1];
    struct thrum_fabric_put put = node_make_put(node, 0, 0, 64, 4096, 0, 1);
    thrum_status_t status = THRUM_OK;
    void *self = NULL;
    uint64_t key = 0, last = 0;
    int n = 0;

    while (n < MANY_REGIONS && !status) {
        status = node->ops->region_register(node->endpoint, memory[n], 64, &regions[n], &key);
        node_expect(node, status || (key && key != last), "a key of its own");
        last = key;
        n += !status;
    }
    node_expect(node, !status || (status == THRUM_ERR_LIMIT && *thrum_last_error()),
                "the limit is told");
    node_expect(node, n >= 1000, "a thousand regions at least");
    node_expect(node,
                node->ops->connect(node->endpoint, &node->board->address[0], &self) == THRUM_OK,
                "connect to itself");
    node->peers[0] = self;
    node_put(node, 0, &put); /* the first region is as good as ever */
    put.remote_key = last;
    put.remote_offset = 0;
    put.signal_value = 2;
    node_put(node, 0, &put); /* and so is the last */
    node_wait_signal(node, 0, 2);
    node_flush(node, 0);
    while (n)
        node->ops->region_deregister(node->endpoint, regions[--n]);
    node_expect(node,
                node->ops->region_register(node->endpoint, memory[0], 64, &regions[0], &key) ==
                    THRUM_OK,
                "there is room again");
    node->ops->region_deregister(node->endpoint, regions[0]);
}

void regions_have_a_limit_that_is_told(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, regions_body));
}

/* The first eight bytes of an address say whose it is and of which version. */
static void skew_body(struct node *node)
{
    for (int i = 0; i < 8; i++) {
        struct thrum_fabric_address address = node->board->address[0];
        void *peer = NULL;

        address.bytes[i] ^= 0x5a;
        node_expect(node, node->ops->connect(node->endpoint, &address, &peer) < 0, "refused");
        node_expect(node, !peer && *thrum_last_error(), "with a message, and no output");
    }
}

void addresses_of_other_versions_are_refused(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, skew_body));
}

/* Node 1 takes nothing; node 0 fills whatever room there is. */
static void put_until_full(struct node *node, void *peer)
{
    struct thrum_fabric_put put = node_make_put(node, 1, 0, 1u << 20, 0, 0, 1);

    for (int i = 0; i < 64; i++)
        if (node->ops->put_signal(peer, &put) != THRUM_OK)
            break;
}

static void close_body(struct node *node)
{
    if (node->index == 0) {
        put_until_full(node, node->peers[1]);
        node->ops->close(node->endpoint); /* node_close would do it again */
        atomic_store(&node->board->stage, 1);
        _exit(0);
    }
    while (!atomic_load(&node->board->stage)) {
        node_expect(node, now_ns() < node->deadline_ns, "the test's time is over");
        sched_yield();
    }
    for (int i = 0; i < 1000; i++)
        node_poll(node); /* what is left of it harms nobody */
}

void close_drops_work_in_flight(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, close_body));
}

static void disconnect_body(struct node *node)
{
    if (node->index == 0) {
        struct thrum_fabric_put last = node_make_put(node, 1, 0, 0, 0, 1, 1);

        for (int i = 0; i < 5; i++) {
            void *peer = NULL;
            node_expect(node,
                        node->ops->connect(node->endpoint, &node->board->address[1], &peer) ==
                            THRUM_OK,
                        "connect");
            put_until_full(node, peer);
            node->ops->disconnect(peer);
        }
        node_put(node, 1, &last);
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 1, 1);
    }
    node_barrier(node);
}

void disconnect_drops_work_in_flight(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, disconnect_body));
}

/* The others are stopped, and answer nothing: to leave them takes no longer than to leave one. */
static void stopped_body(struct node *node)
{
    int64_t start_ns;

    for (int to = 1; to < node->nodes && !node->index; to++) {
        struct thrum_fabric_put put = node_make_put(node, to, 0, 64, 0, 0, 1);

        node_put(node, to, &put); /* what is asked once has been answered */
        node_flush(node, to);
        kill(node->board->pid[to], SIGSTOP);
        put.signal_value = 2;
        (void)node->ops->put_signal(node->peers[to], &put);
    }
    start_ns = now_ns();
    for (int to = 1; to < node->nodes && !node->index; to++) {
        node->ops->disconnect(node->peers[to]);
        node->peers[to] = NULL;
    }
    node_expect(node, now_ns() - start_ns < 2500000000, "disconnect from those who are stopped");
    for (int to = 1; to < node->nodes && !node->index; to++)
        kill(node->board->pid[to], SIGCONT);
    node_barrier(node);
}

void stopped_peers_do_not_hold_up_disconnect(void **state)
{
    (void)state;
    assert_true(nodes_run(6, -1, stopped_body));
}

/* Node 1 dies with work of node 0 before it; the error comes, from whatever call, and stays. */
static void killed_body(struct node *node)
{
    struct thrum_fabric_put put = node_make_put(node, 1, 0, 100000, 0, 0, 1);
    const char *message = "";
    thrum_status_t status;

    if (node->index == 1) {
        node_wait_signal(node, 0, 1);
        kill(getpid(), SIGKILL);
    }
    node_put(node, 1, &put);
    do {
        status = node->ops->put_signal(node->peers[1], &put);
        node_poll(node);
    } while (status >= 0);
    node_expect(node, status == THRUM_ERR_PEER_DEAD || status == THRUM_ERR_UNREACHABLE, "status");
    node_expect(node, node_try_flush(node, node->peers[1]) == status, "flush says the same");
    node_expect(node, node->ops->peer_error(node->peers[1], &message) == status, "so peer_error");
    node_expect(node, *message, "with a message");
}

void killed_peer_is_noticed(void **state)
{
    (void)state;
    assert_true(nodes_run(2, 1, killed_body));
}

/* Puts inline to node 1 until nothing more is accepted for a while, or so many were. */
static thrum_status_t put_inline(struct node *node, uint64_t most)
{
    struct thrum_fabric_put put = node_make_put(node, 1, 0, 4096, 0, 0, 2);
    thrum_status_t status = THRUM_OK;

    put.flags = THRUM_PUT_INLINE;
    for (int looks = 0; most && looks < 1000 && status >= 0;) {
        status = node->ops->put_signal(node->peers[1], &put);
        looks = status ? looks + 1 : 0;
        most -= !status;
        if (status)
            node_poll(node);
    }
    return status;
}

/* Node 1 is stopped, and dies with as much under way to it as there can be: that takes nothing away from node 2. */
static void left_over_body(struct node *node)
{
    if (node->index != 0) {
        node_wait_signal(node, 1, 1); /* node 1 in vain */
        return;
    }
    for (int to = 1; to < 3; to++) { /* what is asked once is answered */
        struct thrum_fabric_put first = node_make_put(node, to, 0, 4096, 0, 0, 1);
        node_put(node, to, &first);
        node_flush(node, to);
    }
    kill(node->board->pid[1], SIGSTOP);
    (void)put_inline(node, nodes_rounds(4000));
    kill(node->board->pid[1], SIGKILL);
    while (put_inline(node, UINT64_MAX) >= 0)
        ;
    for (uint64_t i = 1; i <= 300; i++) {
        struct thrum_fabric_put put = node_make_put(node, 2, 0, 4096, 0, 1, i / 300);
        put.flags = THRUM_PUT_INLINE;
        node_put(node, 2, &put);
    }
    node_flush(node, 2);
}

void failed_connection_holds_up_no_other(void **state)
{
    (void)state;
    assert_true(nodes_run(3, 1, left_over_body));
}

static void dead_address_body(struct node *node)
{
    void *endpoint = NULL, *peer = NULL;
    struct thrum_fabric_address address;
    thrum_status_t status;

    node_expect(node, node->ops->open(nodes_device, &endpoint, &address) == THRUM_OK, "open");
    node->ops->close(endpoint);
    status = node->ops->connect(node->endpoint, &address, &peer);
    node_expect(node, status == THRUM_ERR_PEER_DEAD || status == THRUM_ERR_UNREACHABLE, "status");
    node_expect(node, !peer && *thrum_last_error(), "message, and no output");
    memset(&address, 0x33, sizeof address);
    node_expect(node, node->ops->connect(node->endpoint, &address, &peer) < 0, "garbage");
}

void dead_address_cannot_be_connected(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, dead_address_body));
}
