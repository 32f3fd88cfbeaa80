/*
 * What the tcp fabric promises beyond every fabric: one connection between two endpoints, also where both call at once;
 * connections of one link do not hold each other up; small puts in a row go together; a busy peer, limits, strangers,
 * secrets, damaged frames.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../plugins/fabric/tcp/tcp.h"
#include "../counts.h"
#include "fabric/fabric.h"
#include "fabric_nodes.h"

/* ---- tools ---- */

/* Lets this process open no more descriptors than it has. */
static void use_up_descriptors(void)
{
    struct rlimit limit;
    int fd = dup(0), fds = fd;

    getrlimit(RLIMIT_NOFILE, &limit);
    close(fd);
    limit.rlim_cur = (rlim_t)fds;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static struct tcp_address address_of(const struct node *node, int index)
{
    struct tcp_address address;

    memcpy(&address, node->board->address[index].bytes, sizeof address);
    return address;
}

/* A bare connection to a node's endpoint. */
static int call_bare(const struct node *node, int index)
{
    struct tcp_address address = address_of(node, index);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(address.port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(address.port)};
    bool four = address.candidates[0].family == 4;
    int fd = socket(four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(&in.sin_addr, address.candidates[0].ip, 4);
    memcpy(&in6.sin6_addr, address.candidates[0].ip, 16);
    node_expect(node,
                fd >= 0 && !connect(fd, four ? (struct sockaddr *)&in : (struct sockaddr *)&in6,
                                    four ? sizeof in : sizeof in6),
                "a bare connection");
    return fd;
}

static struct tcp_hello good_hello(const struct node *node, int index, uint8_t id)
{
    struct tcp_address address = address_of(node, index);
    struct tcp_hello hello = {.magic = TCP_MAGIC, .version = TCP_VERSION, .pid = 1, .host = "test"};

    memcpy(hello.token, address.token, sizeof hello.token);
    memset(hello.id, id, sizeof hello.id);
    return hello;
}

/* What comes back, within 5 s; 0: the end. */
static ssize_t hear(const struct node *node, int fd, void *out, size_t bytes)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    ssize_t n;

    node_expect(node, poll(&entry, 1, 20000) == 1, "an answer or an end");
    n = recv(fd, out, bytes, MSG_WAITALL);
    return n < 0 && errno == ECONNRESET ? 0 : n;
}

/* Afterwards a node's service thread has done all that it was doing, and has closed what it was closing. */
static void settle(const struct node *node, int index)
{
    int fd = call_bare(node, index);
    char byte;

    node_expect(node, send(fd, &(struct tcp_hello){0}, sizeof(struct tcp_hello), MSG_NOSIGNAL) > 0,
                "send");
    node_expect(node, !hear(node, fd, &byte, 1), "the end of a connection");
    close(fd);
}

/* ---- one connection ---- */

/* Both nodes open an endpoint and call the other's at the same moment, many times. */
static void crossing_body(struct node *node)
{
    const int other = !node->index, rounds = 40;
    struct thrum_fabric_address own;

    settle(node, other);
    node_barrier(node);
    for (int i = 1; i <= rounds; i++) {
        struct node fresh = *node; /* endpoint and keys of this round */
        struct thrum_fabric_put put;
        void *again = NULL, *peer = NULL;
        int before;

        node_expect(node, node->ops->open(NULL, &fresh.endpoint, &own) == THRUM_OK, "open");
        node_expect(node,
                    node->ops->region_register(fresh.endpoint, node->memory, NODE_MEMORY_BYTES,
                                               &fresh.region,
                                               &node->board->key[2 + node->index]) == THRUM_OK,
                    "region_register");
        node->board->address[2 + node->index] = own;
        before = count_descriptors();
        node_barrier(node);
        node_expect(node,
                    node->ops->connect(fresh.endpoint, &node->board->address[2 + other], &peer) ==
                        THRUM_OK,
                    "connect");
        settle(node, 2 + other);
        node_barrier(node);
        node_expect(node,
                    node->ops->connect(fresh.endpoint, &node->board->address[2 + other], &again) ==
                        THRUM_OK,
                    "connect again");
        node_expect(node, count_descriptors() == before + 1, "one connection for all of it");
        put = node_make_put(&fresh, 2 + other, 0, 8, 64, 7, (uint64_t)i);
        node_expect(node, node_try_put(&fresh, i % 2 ? peer : again, &put) == THRUM_OK, "put");
        while (node_signal(node, 7) < (uint64_t)i)
            node_poll(&fresh);
        node_expect(node, node_try_flush(&fresh, i % 2 ? peer : again) == THRUM_OK, "flush");
        node->ops->disconnect(peer);
        node->ops->disconnect(again);
        node_barrier(node);
        node->ops->close(fresh.endpoint);
    }
}

static void two_that_call_at_once_get_one_connection(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, crossing_body));
}

/* While a put of one connection is under way that nobody takes, one of another connection is accepted and arrives. */
static void sharing_body(struct node *node)
{
    struct thrum_fabric_put large = node_make_put(node, 1, 0, 4u << 20, 0, 0, 1);
    struct thrum_fabric_put small = node_make_put(node, 1, 0, 1000, 6u << 20, 1, 1);
    char *data = node->memory + (5u << 20);
    void *other = NULL;

    if (node->index == 0) {
        node_expect(
            node, node->ops->connect(node->endpoint, &node->board->address[1], &other) == THRUM_OK,
            "a second connection");
        memset(node->memory, 0x42, 4u << 20);
        for (int i = 0; i < 8; i++) /* more than any socket holds */
            if (node->ops->put_signal(node->peers[1], &large) == THRUM_IN_PROGRESS)
                atomic_store(&node->board->stage, 1);
        memset(data, 0x43, 1000);
        small.local = data;
        small.flags = THRUM_PUT_INLINE;
        node_expect(node, atomic_load(&node->board->stage) == 1, "the socket is full");
        node_expect(node, node->ops->put_signal(other, &small) == THRUM_OK, "accepted");
        memset(data, 0, 1000); /* it has been read */
        atomic_store(&node->board->stage, 2);
        while (atomic_load(&node->board->stage) == 2)
            node_poll(node);
        node->ops->disconnect(other);
        node_flush(node, 1);
    } else {
        while (atomic_load(&node->board->stage) != 2)
            sched_yield();
        node_wait_signal(node, 1, 1);
        for (size_t i = 0; i < 1000; i++)
            node_expect(node, node->memory[(6u << 20) + i] == 0x43, "data of the small put");
        atomic_store(&node->board->stage, 3);
        node_wait_signal(node, 0, 1);
    }
    node_barrier(node);
}

static void large_puts_do_not_hold_up_other_connections(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, sharing_body));
}

/*
 * A put that is refused while most of it waits for room. Whoever hears of the failure takes its memory away; the connection
 * is not read from any more, and another one to the same endpoint goes on.
 */
#define REFUSED_BYTES (64u << 20)
static void refused_body(struct node *node)
{
    struct thrum_fabric_put large, small = node_make_put(node, 1, 0, 1000, 0, 1, 1);
    void *other = NULL, *region = NULL, *memory;
    uint64_t key;

    if (node->index == 0) {
        memory = mmap(NULL, REFUSED_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        node_expect(node, memory != MAP_FAILED, "memory");
        node_expect(
            node,
            node->ops->connect(node->endpoint, &node->board->address[1], &other) == THRUM_OK &&
                node->ops->region_register(node->endpoint, memory, REFUSED_BYTES, &region, &key) ==
                    THRUM_OK,
            "a second connection, and a region");
        large = node_make_put(node, 1, 0, REFUSED_BYTES, 0, 0, 1); /* their region is smaller */
        large.local = memory;
        large.local_region = region;
        node_put(node, 1, &large);
        node_expect(node, node_try_flush(node, node->peers[1]) == THRUM_ERR_INVALID_POINTER,
                    "it is refused");
        node->ops->region_deregister(node->endpoint, region);
        munmap(memory, REFUSED_BYTES);
        node_expect(node, node_try_put(node, other, &small) == THRUM_OK, "another one's put");
        node_expect(node, node_try_flush(node, other) == THRUM_OK, "is done");
        node->ops->disconnect(other);
    } else {
        node_wait_signal(node, 1, 1);
    }
    node_barrier(node);
}

static void a_refused_put_lets_go_of_its_memory(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, refused_body));
}

/* A process that takes nothing for far longer than a connection may be silent is no broken connection. */
#define SILENCE_MS 250
static void busy_body(struct node *node)
{
    struct thrum_fabric_put large = node_make_put(node, 1, 0, 7u << 20, 0, 0, 1);
    int64_t end = now_ns() + 5ll * SILENCE_MS * 1000000;

    if (node->index == 0) {
        memset(node->memory, 0x17, 7u << 20);
        node_put(node, 1, &large);
        while (now_ns() < end)
            node_poll(node);
        node_expect(node, node->ops->flush(node->peers[1]) == THRUM_IN_PROGRESS,
                    "there is no room for all of it, and the connection is good");
        atomic_store(&node->board->stage, 1);
        node_flush(node, 1);
    } else {
        while (!atomic_load(&node->board->stage))
            usleep(1000);
        node_wait_signal(node, 0, 1);
        for (size_t i = 0; i < 7u << 20; i++)
            node_expect(node, node->memory[i] == 0x17, "data");
    }
    node_barrier(node);
}

static void a_busy_peer_is_not_taken_for_dead(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, busy_body));
}

/* Calls node 1 as the endpoint `id`; *fd_out is the connection. */
static int32_t verdict_of_call(const struct node *node, uint8_t id, int *fd_out)
{
    struct tcp_hello hello = good_hello(node, 1, id);
    struct tcp_welcome welcome = {.verdict = 0};

    *fd_out = call_bare(node, 1);
    node_expect(node, send(*fd_out, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello, "send");
    node_expect(node, hear(node, *fd_out, &welcome, sizeof welcome) == sizeof welcome, "an answer");
    return welcome.verdict;
}

/* Who calls again just after its call has crossed another; and who does because it has lost its connection. */
static void again_body(struct node *node)
{
    int first, second;

    if (node->index == 0) {
        node_expect(node, verdict_of_call(node, 0x77, &first) == TCP_TAKEN, "taken");
        node_expect(node, verdict_of_call(node, 0x77, &second) == TCP_CROSSED, "one is enough");
        close(second);
        close(first); /* node 1 makes no progress, and has not seen that */
        node_expect(node, verdict_of_call(node, 0x77, &first) == TCP_TAKEN, "taken again");
        close(first);
        atomic_store(&node->board->stage, 1);
    }
    while (!atomic_load(&node->board->stage))
        usleep(1000);
    node_barrier(node);
}

static void a_lost_connection_is_made_again(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, again_body));
}

/* Who sleeps on the descriptor that it was given before hears of room in a socket that has filled up since. */
static void sleeper_body(struct node *node)
{
    struct thrum_fabric_put first = node_make_put(node, 1, 0, 64, 0, 0, 1);
    struct thrum_fabric_put large = node_make_put(node, 1, 0, 7u << 20, 0, 0, 2);
    struct pollfd entry = {.fd = -1, .events = POLLIN};

    if (node->index == 0) {
        node_put(node, 1, &first); /* from now on the other side has nothing to say to a put */
        node_flush(node, 1);
        while (entry.fd < 0)
            entry.fd = node->ops->wait_fd(node->endpoint);
        node_put(node, 1, &large);
        node_expect(node, node->ops->flush(node->peers[1]) == THRUM_IN_PROGRESS,
                    "the socket is full");
        node_expect(node, !poll(&entry, 1, 0), "nothing to do");
        atomic_store(&node->board->stage, 1);
        node_expect(node, poll(&entry, 1, 10000) == 1, "the descriptor tells of room");
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 0, 1);
        while (!atomic_load(&node->board->stage))
            usleep(1000);
        node_wait_signal(node, 0, 2);
    }
    node_barrier(node);
}

static void a_sleeper_hears_of_room(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, sleeper_body));
}

/* ---- puts in a row ---- */

#define ROW 200

/* Puts that wait on the only link of the node to go together. */
static size_t held(const struct node *node)
{
    struct tcp_endpoint *endpoint = node->endpoint;
    struct tcp_link *link = endpoint->links;
    size_t n;

    node_expect(node, link && !link->next, "one link");
    pthread_mutex_lock(&link->send_lock);
    n = link->held ? link->queue.bytes / (sizeof(struct tcp_frame) + 8) : 0;
    pthread_mutex_unlock(&link->send_lock);
    return n;
}

/* Numbers first + 1 .. first + ROW to places of their own, each with a signal; and nobody looks at what comes. */
static void put_row(struct node *node, uint64_t first)
{
    for (uint64_t i = 1; i <= ROW; i++) {
        uint64_t number = first + i;
        struct thrum_fabric_put put = node_make_put(node, 1, 0, 8, 8 * i, 0, number);

        put.local = &number;
        put.local_region = NULL;
        put.flags = THRUM_PUT_INLINE;
        node_expect(node, node->ops->put_signal(node->peers[1], &put) == THRUM_OK, "put");
    }
}

static void expect_row(const struct node *node, uint64_t first)
{
    for (uint64_t i = 1; i <= ROW; i++) {
        uint64_t number;

        memcpy(&number, node->memory + 8 * i, 8);
        node_expect(node, number == first + i, "data of a row");
    }
}

/* So that later puts ask nothing, and the other side has nothing to say to them. */
static void get_to_know(struct node *node)
{
    struct thrum_fabric_put first = node_make_put(node, 1, 0, 64, 0, 0, 1);

    if (node->index == 0) {
        node_put(node, 1, &first);
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 0, 1);
    }
}

/* Most wait for a common call of the kernel; and who has put does nothing more for them. */
static void row_body(struct node *node)
{
    bool together = false;
    uint64_t first = 1;

    get_to_know(node);
    /* on a busy machine a row may be torn apart; not each time */
    for (int round = 1; round <= 200; round++, first += ROW) {
        if (node->index == 0) {
            put_row(node, first);
            together |= held(node) > ROW / 2;
            while (atomic_load(&node->board->stage) < round)
                usleep(100);
        } else {
            node_wait_signal(node, 0, first + ROW);
            expect_row(node, first);
            atomic_store(&node->board->stage, round);
        }
    }
    node_expect(node, together || node->index, "puts in a row go together");
    node_barrier(node);
}

static void small_puts_in_a_row_go_together(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, row_body));
}

/* A larger one that follows, in one frame, does not overtake them. */
static void behind_a_row_body(struct node *node)
{
    struct thrum_fabric_put large = node_make_put(node, 1, 1 << 20, 1 << 16, 1 << 20, 1, 1);

    get_to_know(node);
    for (int round = 1; round <= 20; round++) {
        uint64_t first = (uint64_t)round * ROW;

        large.signal_value = (uint64_t)round;
        if (node->index == 0) {
            put_row(node, first);
            node_put(node, 1, &large);
            while (atomic_load(&node->board->stage) < round)
                usleep(100);
        } else {
            node_wait_signal(node, 1, large.signal_value);
            node_expect(node, node_signal(node, 0) == first + ROW, "the row's signals");
            expect_row(node, first);
            atomic_store(&node->board->stage, round);
        }
    }
    node_barrier(node);
}

static void what_follows_a_row_does_not_overtake_it(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, behind_a_row_body));
}

/* Who has put a row closes its endpoint. */
static void last_row_body(struct node *node)
{
    get_to_know(node);
    node_barrier(node);
    if (node->index == 0)
        put_row(node, ROW);
    else
        node_wait_signal(node, 0, 2 * ROW);
}

static void a_row_goes_before_its_connection(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, last_row_body));
}

/* ---- whom to call, and for how long ---- */

/* A socket that listens there; `port` 0: any, and then which. */
static int listen_at(const struct node *node, const char *ip, uint16_t *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(*port)};
    socklen_t length = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    node_expect(node, inet_pton(AF_INET, ip, &in.sin_addr) == 1, ip);
    node_expect(node,
                fd >= 0 && !bind(fd, (struct sockaddr *)&in, sizeof in) && !listen(fd, 8) &&
                    !getsockname(fd, (struct sockaddr *)&in, &length),
                "a socket that listens");
    *port = ntohs(in.sin_port);
    return fd;
}

/* An endpoint on lo, and the address of one that is not: at 127.0.0.2, .3 ... with these speeds. */
static void *open_on_lo(const struct node *node, const uint16_t *speeds, unsigned n, uint16_t port,
                        struct thrum_fabric_address *address_out)
{
    struct tcp_address address;
    void *endpoint = NULL;

    node_expect(node, node->ops->open("lo", &endpoint, address_out) == THRUM_OK, "open on lo");
    memcpy(&address, address_out->bytes, sizeof address);
    memset(address.id, 0x77, sizeof address.id);
    address.port = port;
    address.ncandidates = (uint8_t)n;
    for (unsigned i = 0; i < n; i++)
        address.candidates[i] = (struct tcp_candidate){
            .family = 4, .prefix = 8, .speed = speeds[i], .ip = {127, 0, 0, (uint8_t)(2 + i)}};
    memcpy(address_out->bytes, &address, sizeof address);
    return endpoint;
}

struct calling {
    const struct node *node;
    void *endpoint;
    const struct thrum_fabric_address *address;
};

static void *call_in_vain(void *argument)
{
    struct calling *calling = argument;
    const struct node *node = calling->node;
    int64_t start_ns = now_ns();
    void *peer = NULL;

    node_expect(node, node->ops->connect(calling->endpoint, calling->address, &peer) < 0 && !peer,
                "nobody answers");
    node_expect(node, now_ns() - start_ns < 6500000000, "a call takes 5 s at most");
    return NULL;
}

/* Of three addresses in a subnet of ours the fastest is called first, wherever it stands; none answers. */
static void fastest_body(struct node *node)
{
    static const uint16_t speeds[] = {10, 0, 1000};
    static const int order[] = {2, 0, 1};
    static const char *const ips[] = {"127.0.0.2", "127.0.0.3", "127.0.0.4"};
    struct thrum_fabric_address address;
    struct calling calling = {node, NULL, &address};
    struct pollfd fds[3];
    uint16_t port = 0;
    pthread_t thread;

    for (int i = 0; i < 3; i++)
        fds[i] = (struct pollfd){.fd = listen_at(node, ips[i], &port), .events = POLLIN};
    calling.endpoint = open_on_lo(node, speeds, 3, port, &address);
    node_expect(node, !pthread_create(&thread, NULL, call_in_vain, &calling), "thread");
    for (int i = 0; i < 3; i++) {
        struct pollfd *called = &fds[order[i]];
        struct tcp_hello hello;
        int fd;

        node_expect(node, poll(fds, 3, 10000) == 1 && called->revents, "the fastest of those left");
        fd = accept4(called->fd, NULL, NULL, SOCK_CLOEXEC);
        node_expect(node, recv(fd, &hello, sizeof hello, MSG_WAITALL) == (ssize_t)sizeof hello,
                    "a greeting");
        /* no answer that makes sense: the next one is tried */
        node_expect(node,
                    send(fd, &(struct tcp_welcome){0}, sizeof(struct tcp_welcome), 0) ==
                        (ssize_t)sizeof(struct tcp_welcome),
                    "send");
        close(fd);
    }
    pthread_join(thread, NULL);
    node->ops->close(calling.endpoint);
    for (int i = 0; i < 3; i++)
        close(fds[i].fd);
}

static void the_fastest_of_near_addresses_is_called_first(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, fastest_body));
}

/* Who waits for another thread's call does not call for as long again. */
static void silent_body(struct node *node)
{
    static const uint16_t speeds[] = {0};
    struct thrum_fabric_address address;
    struct calling calling = {node, NULL, &address};
    uint16_t port = 0;
    int fd =
        listen_at(node, "127.0.0.2", &port); /* the kernel takes the call, and nobody answers */
    pthread_t threads[2];

    calling.endpoint = open_on_lo(node, speeds, 1, port, &address);
    for (int i = 0; i < 2; i++)
        node_expect(node, !pthread_create(&threads[i], NULL, call_in_vain, &calling), "thread");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    node->ops->close(calling.endpoint);
    close(fd);
}

static void calls_of_two_threads_take_no_longer_than_one(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, silent_body));
}

/* Several who want much and read nothing: close waits for all of them together. */
static void deaf_body(struct node *node)
{
    enum { DEAF = 5 };
    struct thrum_fabric_address bytes;
    uint64_t key = 0;
    void *endpoint = NULL, *region = NULL;
    int fds[DEAF];
    int64_t start_ns;

    node_expect(node, node->ops->open("lo", &endpoint, &bytes) == THRUM_OK, "open on lo");
    node_expect(node,
                node->ops->region_register(endpoint, node->memory, NODE_MEMORY_BYTES, &region,
                                           &key) == THRUM_OK,
                "region");
    node->board->address[0] = bytes;
    for (int i = 0; i < DEAF; i++) {
        struct tcp_hello hello = good_hello(node, 0, (uint8_t)(0x40 + i));
        struct tcp_frame get = {.kind = TCP_GET, .key = key, .rest = NODE_MEMORY_BYTES};
        struct tcp_welcome welcome;

        fds[i] = call_bare(node, 0);
        node_expect(node, send(fds[i], &hello, sizeof hello, MSG_NOSIGNAL) > 0, "hello");
        node_expect(node, hear(node, fds[i], &welcome, sizeof welcome) == sizeof welcome,
                    "welcome");
        node_expect(node, send(fds[i], &get, sizeof get, MSG_NOSIGNAL) > 0, "a get");
    }
    for (int i = 0; i < 1000; i++)
        (void)node->ops->progress(endpoint);
    start_ns = now_ns();
    node->ops->close(endpoint);
    node_expect(node, now_ns() - start_ns < 3000000000, "close waits for one second at most");
    for (int i = 0; i < DEAF; i++)
        close(fds[i]);
}

static void close_waits_for_all_at_once(void **state)
{
    (void)state;
    assert_true(nodes_run(1, -1, deaf_body));
}

/* ---- limits ---- */

static void own_limit_body(struct node *node)
{
    struct thrum_fabric_address address, unused;
    void *endpoint = NULL, *out = NULL;

    if (node->index == 1) {
        node_expect(node, node->ops->open(NULL, &endpoint, &address) == THRUM_OK, "open");
        node->board->address[2] = address;
        settle(node, 0);
    }
    node_barrier(node);
    if (node->index == 0) {
        use_up_descriptors();
        node_expect(node,
                    node->ops->connect(node->endpoint, &node->board->address[2], &out) ==
                            THRUM_ERR_LIMIT &&
                        !out,
                    "connect says LIMIT");
        node_expect(node, strstr(thrum_last_error(), "RLIMIT_NOFILE") != NULL, "names the limit");
        node_expect(node, node->ops->open(NULL, &out, &unused) < 0 && !out, "open fails");
    }
    node_barrier(node);
    node->ops->close(endpoint);
}

static void own_descriptor_limit_is_named(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, own_limit_body));
}

/* The limit of the process that is called; its other connections go on. */
static void their_limit_body(struct node *node)
{
    struct thrum_fabric_put put = node_make_put(node, 1, 0, 8, 0, 0, 1);
    struct thrum_fabric_address unused;
    void *endpoint = NULL, *out = NULL;

    if (node->index == 0) {
        node_expect(node, node->ops->open(NULL, &endpoint, &unused) == THRUM_OK, "open");
        settle(node, 1);
    }
    node_barrier(node);
    if (node->index == 1)
        use_up_descriptors();
    node_barrier(node);
    if (node->index == 0) {
        for (int i = 0; i < 3; i++)
            node_expect(node,
                        node->ops->connect(endpoint, &node->board->address[1], &out) ==
                                THRUM_ERR_LIMIT &&
                            strstr(thrum_last_error(), "RLIMIT_NOFILE"),
                        "connect says LIMIT and names it");
        node_put(node, 1, &put);
        node_flush(node, 1);
    }
    node_barrier(node);
    node->ops->close(endpoint);
}

static void descriptor_limit_of_the_peer_is_named(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, their_limit_body));
}

/* ---- strangers ---- */

/* Callers that say nothing, say junk or hang up, more than are kept, do not keep others out. */
static void strangers_body(struct node *node)
{
    enum { STRANGERS = 150 };
    struct thrum_fabric_address unused;
    void *endpoint = NULL, *peer = NULL;
    int fds[STRANGERS];

    if (node->index == 0) {
        for (int i = 0; i < STRANGERS; i++) {
            fds[i] = call_bare(node, 1);
            if (i % 3 == 1)
                (void)!send(fds[i], "junk", 4, MSG_NOSIGNAL);
            if (i % 3 == 2)
                shutdown(fds[i], SHUT_RDWR);
        }
        node_expect(node, node->ops->open(NULL, &endpoint, &unused) == THRUM_OK, "open");
        node_expect(node, node->ops->connect(endpoint, &node->board->address[1], &peer) == THRUM_OK,
                    "connect past the strangers");
        node->ops->close(endpoint);
        for (int i = 0; i < STRANGERS; i++)
            close(fds[i]);
    }
    node_barrier(node);
}

static void strangers_do_not_disturb(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, strangers_body));
}

/* Who does not know the secret gets no word; who speaks another version is told. */
static void secret_body(struct node *node)
{
    if (node->index == 0) {
        struct tcp_hello hello = good_hello(node, 1, 0x11);
        struct tcp_welcome welcome;
        struct thrum_fabric_address address = node->board->address[1];
        void *peer = NULL;
        int fd;

        for (size_t bit = 0; bit < 8 * sizeof hello.token; bit += 17) {
            struct tcp_hello wrong = hello;
            wrong.token[bit / 8] ^= (uint8_t)(1 << bit % 8);
            fd = call_bare(node, 1);
            node_expect(node, send(fd, &wrong, sizeof wrong, MSG_NOSIGNAL) == sizeof wrong, "send");
            node_expect(node, !hear(node, fd, &welcome, sizeof welcome), "no answer");
            close(fd);
        }
        hello.version++;
        fd = call_bare(node, 1);
        node_expect(node, send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello, "send");
        node_expect(node, hear(node, fd, &welcome, sizeof welcome) == sizeof welcome, "an answer");
        node_expect(node, welcome.verdict == TCP_REJECTED && welcome.status == THRUM_ERR_PROTOCOL,
                    "another version is refused");
        close(fd);
        /* where another endpoint has come to the port */
        address.bytes[offsetof(struct tcp_address, id)] ^= 1;
        address.bytes[offsetof(struct tcp_address, token)] ^= 1;
        node_expect(node,
                    node->ops->connect(node->endpoint, &address, &peer) == THRUM_ERR_PEER_DEAD &&
                        !peer && *thrum_last_error(),
                    "an endpoint that is not there any more");
    }
    node_barrier(node);
}

static void who_calls_must_know_the_secret(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, secret_body));
}

/* ---- damage ---- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A frame that could be good, with something wrong in it; and as many bytes behind it as come to mind. */
static size_t make_damage(const struct node *node, uint64_t *seed, char *out, size_t most)
{
    struct tcp_frame frame = {.kind = (uint8_t)(next_random(seed) % 8),
                              .flags = (uint8_t)(next_random(seed) % 4),
                              .channel = (uint32_t)(next_random(seed) % 3),
                              .bytes = (uint32_t)(next_random(seed) % 5000),
                              .key = node->board->key[2],
                              .offset = next_random(seed) % 5000,
                              .signal_key = node->board->key[2],
                              .signal_offset = next_random(seed) % 5000,
                              .signal_value = next_random(seed)};
    uint64_t *const fields[] = {&frame.rest,       &frame.key,           &frame.offset,
                                &frame.signal_key, &frame.signal_offset, &frame.signal_value};
    size_t bytes = sizeof frame + next_random(seed) % 6000;

    if (next_random(seed) % 2)
        *fields[next_random(seed) % 6] = next_random(seed) >> next_random(seed) % 64;
    if (next_random(seed) % 8 == 0)
        frame.bytes = (uint32_t)next_random(seed);
    for (size_t i = sizeof frame; i < bytes && i < most; i++)
        out[i] = (char)next_random(seed);
    memcpy(out, &frame, sizeof frame);
    return min_u64(bytes, most);
}

/* Node 1 has a region of 4 KiB in the middle of its memory; whoever sends nonsense may write there, and nowhere else. */
static void damage_body(struct node *node)
{
    const size_t from = 1u << 20, small = 4096;
    uint64_t seed = 0x9e3779b97f4a7c15u, key = 0;
    void *region = NULL;

    if (node->index == 1) {
        node_expect(node,
                    node->ops->region_register(node->endpoint, node->memory + from, small, &region,
                                               &key) == THRUM_OK,
                    "region_register");
        node->board->key[2] = key;
    }
    node_barrier(node);
    if (node->index == 0) {
        struct thrum_fabric_put last = node_make_put(node, 1, 0, 0, 0, 3, 1);

        for (int i = 0; i < 200; i++) {
            struct tcp_hello hello = good_hello(node, 1, (uint8_t)(i + 1));
            struct tcp_welcome welcome;
            int fd = call_bare(node, 1);
            char junk[8192];

            node_expect(node, send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello, "send");
            node_expect(node, hear(node, fd, &welcome, sizeof welcome) == sizeof welcome, "answer");
            node_expect(node, welcome.verdict == TCP_TAKEN, "it is let in");
            for (int k = 0; k < 8; k++) {
                size_t bytes = make_damage(node, &seed, junk, sizeof junk);
                if (send(fd, junk, bytes, MSG_NOSIGNAL) < 0)
                    break; /* it was cut off, rightly */
            }
            close(fd);
        }
        node_put(node, 1, &last);
        node_flush(node, 1);
        while (!atomic_load(&node->board->stage))
            node_poll(node);
    } else {
        node_wait_signal(node, 3, 1);
        for (int i = 0; i < 3000; i++)
            node_poll(node);
        atomic_store(&node->board->stage, 1);
        for (size_t i = 0; i < NODE_SIGNALS_AT; i++)
            node_expect(node, !node->memory[i] || (i >= from && i < from + small),
                        "memory outside of the region is untouched");
        node->ops->region_deregister(node->endpoint, region);
    }
    node_barrier(node);
}

static void damaged_frames_harm_nobody(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, damage_body));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_that_call_at_once_get_one_connection),
        cmocka_unit_test(large_puts_do_not_hold_up_other_connections),
        cmocka_unit_test(a_refused_put_lets_go_of_its_memory),
        cmocka_unit_test(a_busy_peer_is_not_taken_for_dead),
        cmocka_unit_test(a_lost_connection_is_made_again),
        cmocka_unit_test(a_sleeper_hears_of_room),
        cmocka_unit_test(small_puts_in_a_row_go_together),
        cmocka_unit_test(what_follows_a_row_does_not_overtake_it),
        cmocka_unit_test(a_row_goes_before_its_connection),
        cmocka_unit_test(the_fastest_of_near_addresses_is_called_first),
        cmocka_unit_test(calls_of_two_threads_take_no_longer_than_one),
        cmocka_unit_test(close_waits_for_all_at_once),
        cmocka_unit_test(own_descriptor_limit_is_named),
        cmocka_unit_test(descriptor_limit_of_the_peer_is_named),
        cmocka_unit_test(strangers_do_not_disturb),
        cmocka_unit_test(who_calls_must_know_the_secret),
        cmocka_unit_test(damaged_frames_harm_nobody),
    };

    setenv("THRUM_PLUGIN_PATH", TCP_PLUGIN_DIR, 1);
    setenv("THRUM_LOG", "error", 0);
    setenv("THRUM_TCP_TIMEOUT_MS", "250", 1); /* SILENCE_MS */
    if (fabric_plugin_load("tcp", &nodes_ops)) {
        fprintf(stderr, "%s\n", thrum_last_error());
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
