/* See fabric_nodes.h. Called by the fabric tests. */
#include "fabric_nodes.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

const struct thrum_fabric_ops *nodes_ops;
const char *nodes_device;
bool nodes_quick;
int64_t nodes_limit_ns = 60 * 1000000000ll;

void node_expect(const struct node *node, bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "node %d: %s (last error: %s)\n", node->index, what, thrum_last_error());
    _exit(1);
}

void node_open(struct node *node)
{
    uint64_t key;
    struct thrum_fabric_address address;
    thrum_status_t status;

    node->memory =
        mmap(NULL, NODE_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    node_expect(node, node->memory != MAP_FAILED, "mmap");
    status = node->ops->open(nodes_device, &node->endpoint, &address);
    node_expect(node, status == THRUM_OK, "open");
    status = node->ops->region_register(node->endpoint, node->memory, NODE_MEMORY_BYTES,
                                        &node->region, &key);
    node_expect(node, status == THRUM_OK && key != 0, "region_register");
    node->board->address[node->index] = address;
    node->board->key[node->index] = key;
    atomic_store(&node->board->ready[node->index], 1);
}

void node_connect(struct node *node, int to)
{
    while (!atomic_load(&node->board->ready[to]))
        node_poll(node);
    node_expect(node,
                node->ops->connect(node->endpoint, &node->board->address[to], &node->peers[to]) ==
                    THRUM_OK,
                "connect");
}

void node_close(struct node *node)
{
    for (int i = 0; i < node->nodes; i++) {
        if (node->peers[i])
            node->ops->disconnect(node->peers[i]);
        node->peers[i] = NULL;
    }
    node->ops->region_deregister(node->endpoint, node->region);
    node->ops->close(node->endpoint);
    munmap(node->memory, NODE_MEMORY_BYTES);
}

void node_poll(struct node *node)
{
    thrum_status_t status = node->ops->progress(node->endpoint);

    node_expect(node, status == THRUM_OK || status == THRUM_IN_PROGRESS, "progress");
    node_expect(node, now_ns() < node->deadline_ns, "the test's time is over");
    if (status == THRUM_IN_PROGRESS)
        sched_yield();
}

void node_barrier(struct node *node)
{
    struct board *board = node->board;
    int round = atomic_load(&board->barrier_round);

    if (atomic_fetch_add(&board->barrier_count, 1) == node->nodes - 1) {
        atomic_store(&board->barrier_count, 0);
        atomic_store(&board->barrier_round, round + 1);
    }
    while (atomic_load(&board->barrier_round) == round)
        node_poll(node);
}

thrum_status_t node_try_put(struct node *node, void *peer, const struct thrum_fabric_put *put)
{
    thrum_status_t status;

    while ((status = node->ops->put_signal(peer, put)) == THRUM_IN_PROGRESS)
        node_poll(node);
    return status;
}

thrum_status_t node_try_flush(struct node *node, void *peer)
{
    thrum_status_t status;

    while ((status = node->ops->flush(peer)) == THRUM_IN_PROGRESS)
        node_poll(node);
    return status;
}

void node_put(struct node *node, int to, const struct thrum_fabric_put *put)
{
    node_expect(node, node_try_put(node, node->peers[to], put) == THRUM_OK, "put_signal");
}

void node_flush(struct node *node, int to)
{
    node_expect(node, node_try_flush(node, node->peers[to]) == THRUM_OK, "flush");
}

size_t node_signal_offset(int i)
{
    return NODE_SIGNALS_AT + 8 * (size_t)i;
}

uint64_t node_signal(const struct node *node, int i)
{
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(node->memory + node_signal_offset(i));
    return atomic_load_explicit(word, memory_order_acquire);
}

void node_wait_signal(struct node *node, int i, uint64_t value)
{
    while (node_signal(node, i) < value)
        node_poll(node);
}

struct thrum_fabric_put node_make_put(const struct node *node, int to, size_t from, size_t bytes,
                                      size_t offset, int signal, uint64_t value)
{
    struct thrum_fabric_put put = {
        .local = node->memory + from,
        .local_region = node->region,
        .bytes = bytes,
        .remote_key = node->board->key[to],
        .remote_offset = offset,
    };

    if (signal >= 0) {
        put.signal_key = node->board->key[to];
        put.signal_offset = node_signal_offset(signal);
        put.signal_value = value;
    }
    return put;
}

static void run_node(struct board *board, int index, void (*body)(struct node *node))
{
    struct node node = {.ops = nodes_ops,
                        .board = board,
                        .index = index,
                        .nodes = board->nodes,
                        .deadline_ns = now_ns() + nodes_limit_ns};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    board->pid[index] = getpid();
    node_open(&node);
    for (int i = 0; i < node.nodes; i++)
        if (i != index)
            node_connect(&node, i);
    node_barrier(&node);
    body(&node);
    node_close(&node);
    _exit(0);
}

static bool ended_well(int status, bool expect_killed)
{
    if (expect_killed)
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The first that fails ends the others, which would wait for it. */
static bool wait_for_nodes(pid_t *pids, int n, int killed)
{
    bool good = true;

    for (int left = n; left; left--) {
        int status = 0, i = 0;
        pid_t pid = waitpid(-1, &status, 0);

        if (pid < 0)
            return false;
        while (i < n && pids[i] != pid)
            i++;
        if (i < n)
            pids[i] = -1; /* may soon be another process's */
        if (ended_well(status, i == killed) || !good)
            continue;
        good = false;
        for (int k = 0; k < n; k++)
            if (pids[k] > 0)
                kill(pids[k], SIGKILL);
    }
    return good;
}

bool nodes_run(int n, int killed, void (*body)(struct node *node))
{
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[NODES_MAX];
    bool good;

    if (board == MAP_FAILED)
        return false;
    board->nodes = n;
    for (int i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            run_node(board, i, body);
    }
    good = wait_for_nodes(pids, n, killed);
    munmap(board, sizeof *board);
    return good;
}
