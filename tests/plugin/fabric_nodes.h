/*
 * Several processes, each with an endpoint of the fabric under test, connected all to all: what the fabric tests stand
 * on. Only the table of the plugin is used.
 */
#ifndef TESTS_FABRIC_NODES_H
#define TESTS_FABRIC_NODES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/fabric_plugin.h>

#define NODES_MAX 8
#define NODE_MEMORY_BYTES (8u << 20)
#define NODE_SIGNALS_AT (NODE_MEMORY_BYTES - 4096) /* signal words live in the last page */

/* Shared by all processes of a test; how they tell each other what does not go through the fabric. */
struct board {
    struct thrum_fabric_address address[NODES_MAX];
    uint64_t key[NODES_MAX];
    int pid[NODES_MAX];
    _Atomic int ready[NODES_MAX];
    _Atomic int stage; /* tests use it as they like */
    _Atomic int barrier_count, barrier_round;
    int nodes;
};

struct node {
    const struct thrum_fabric_ops *ops;
    struct board *board;
    int index, nodes;
    void *endpoint;
    char *memory; /* NODE_MEMORY_BYTES, registered */
    void *region;
    void *peers[NODES_MAX]; /* NULL: not connected, or this node itself */
    int64_t deadline_ns; /* a test that takes longer has failed */
};

/* The plugin and device under test; set by main, before any fork. */
extern const struct thrum_fabric_ops *nodes_ops;
extern const char *nodes_device;
extern bool nodes_quick;
extern int64_t nodes_limit_ns; /* a test that takes longer has failed */

/* How often a test repeats something: a fifth of it where that is slow. */
static inline uint64_t nodes_rounds(uint64_t rounds)
{
    return nodes_quick ? rounds / 5 : rounds;
}

/*
 * Runs `body` in `n` processes, with the endpoint open, memory registered and all connected, and cleans up after it.
 * True if all ended well; `killed` >= 0: that node is expected to die of SIGKILL.
 */
bool nodes_run(int n, int killed, void (*body)(struct node *node));

/* In a node: ends the process with a message unless `good`. */
void node_expect(const struct node *node, bool good, const char *what);

/* Opens an endpoint with registered memory, without peers. */
void node_open(struct node *node);
void node_close(struct node *node);
void node_connect(struct node *node, int to);

/* One round of progress, and a look at the clock; gives the core away if nothing moved. */
void node_poll(struct node *node);
/* All nodes come here, progressing meanwhile. */
void node_barrier(struct node *node);
/* put_signal and flush until accepted or done; any error is returned. */
thrum_status_t node_try_put(struct node *node, void *peer, const struct thrum_fabric_put *put);
thrum_status_t node_try_flush(struct node *node, void *peer);
/* The same, expecting success. */
void node_put(struct node *node, int to, const struct thrum_fabric_put *put);
void node_flush(struct node *node, int to);

/* Signal word `i` of this node, acquired. */
uint64_t node_signal(const struct node *node, int i);
void node_wait_signal(struct node *node, int i, uint64_t value);
size_t node_signal_offset(int i);

/* A put from this node's memory at `from` to the same or another node's at `offset`; signal < 0: none. */
struct thrum_fabric_put node_make_put(const struct node *node, int to, size_t from, size_t bytes,
                                      size_t offset, int signal, uint64_t value);

#endif
