/* What the loopback fabric promises beyond every fabric: limits, strangers at its socket, a damaged mailbox. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <signal.h>
#include <dirent.h>

#include <cmocka.h>

#include "../../plugins/fabric/loopback/loopback.h"
#include "fabric/fabric.h"
#include "fabric_nodes.h"

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

static void own_limit_body(struct node *node)
{
    struct thrum_fabric_address address = node->board->address[1 - node->index];
    void *out = NULL;

    if (node->index == 0) {
        use_up_descriptors();
        node_expect(node,
                    node->ops->connect(node->endpoint, &address, &out) == THRUM_ERR_LIMIT && !out,
                    "connect says LIMIT");
        node_expect(node, strstr(thrum_last_error(), "RLIMIT_NOFILE") != NULL, "names the limit");
        node_expect(node, node->ops->open(NULL, &out, &address) == THRUM_ERR_LIMIT && !out,
                    "open says LIMIT");
        node_expect(node, strstr(thrum_last_error(), "RLIMIT_NOFILE") != NULL, "names the limit");
    }
    node_barrier(node);
}

static void own_descriptor_limit_is_named(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, own_limit_body));
}

/* The limit of the process that is called; its other connections go on. */
static void their_limit_body(struct node *node)
{
    struct thrum_fabric_put put = node_make_put(node, 1 - node->index, 0, 8, 0, 0, 1);
    void *out = NULL;

    if (node->index == 1)
        use_up_descriptors();
    node_barrier(node);
    if (node->index == 0) {
        for (int i = 0; i < 3; i++)
            node_expect(node,
                        node->ops->connect(node->endpoint, &node->board->address[1], &out) ==
                                THRUM_ERR_LIMIT &&
                            strstr(thrum_last_error(), "RLIMIT_NOFILE"),
                        "connect says LIMIT and names it");
        node_put(node, 1, &put);
        node_flush(node, 1);
    }
    node_barrier(node);
}

static void descriptor_limit_of_the_peer_is_named(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, their_limit_body));
}

/* The mailbox of a sender, seen from inside: this test damages what the receiver reads. */
static void damage_body(struct node *node)
{
    struct loopback_message junk;
    struct thrum_fabric_put last = node_make_put(node, 1, 0, 0, 0, 3, 1);

    if (node->index == 0) {
        for (int kind = 0; kind < 4; kind++) {
            struct loopback_peer *peer = NULL;
            void *handle = NULL;
            const char *message = "";

            node_expect(node,
                        node->ops->connect(node->endpoint, &node->board->address[1], &handle) ==
                            THRUM_OK,
                        "connect");
            peer = handle;
            memset(&junk, 0xa5, sizeof junk);
            if (kind == 1)
                junk.kind = LOOPBACK_PUT; /* absurd length */
            if (kind == 2) {
                junk.kind = LOOPBACK_PUT;
                junk.bytes = 0;
                junk.rest = UINT64_MAX;
            }
            memcpy(peer->ring, &junk, sizeof junk);
            atomic_store(&peer->mailbox->head, kind == 3 ? UINT64_MAX / 2 : sizeof junk);
            while (node->ops->peer_error(handle, &message) == THRUM_OK)
                node_poll(node);
            node_expect(node, *message, "the reason");
            node->ops->disconnect(handle);
        }
        node_put(node, 1, &last);
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 3, 1);
        for (size_t i = 0; i < NODE_SIGNALS_AT; i++)
            node_expect(node, !node->memory[i], "the receiver's memory is untouched");
    }
    node_barrier(node);
}

static void damaged_mailbox_harms_nobody(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, damage_body));
}

/* Callers that say nothing, say junk or hang up do not keep others out. */
static void strangers_body(struct node *node)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const char *text = (const char *)node->board->address[1].bytes;
    size_t at = 0, length;
    int fds[20];

    if (node->index == 0) {
        static const char prefix[] = "thrum-loopback-";
        void *peer = NULL;

        while (memcmp(text + at, prefix, sizeof prefix - 1))
            at++;
        length = strlen(text + at);
        memcpy(name.sun_path + 1, text + at, length);
        for (int i = 0; i < 20; i++) {
            fds[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
            node_expect(node,
                        !connect(fds[i], (const struct sockaddr *)&name,
                                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)),
                        "socket of the endpoint");
            if (i % 3 == 1)
                (void)!send(fds[i], "junk", 4, MSG_NOSIGNAL);
            if (i % 3 == 2)
                close(fds[i]);
        }
        node_expect(node,
                    node->ops->connect(node->endpoint, &node->board->address[1], &peer) == THRUM_OK,
                    "connect past the strangers");
        node->ops->disconnect(peer);
        for (int i = 0; i < 20; i++)
            if (i % 3 != 2)
                close(fds[i]);
    }
    node_barrier(node);
}

static void strangers_do_not_disturb(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, strangers_body));
}

/* Do all threads of a process stand still? SIGSTOP takes them one by one. */
static bool all_stopped(pid_t pid)
{
    char path[64], line[512];
    struct dirent *entry;
    bool stopped = true;
    DIR *directory;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    directory = opendir(path);
    if (!directory)
        return false;
    while ((entry = readdir(directory))) {
        char name[330];
        FILE *file;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s/stat", path, entry->d_name);
        file = fopen(name, "r");
        if (!file)
            continue;
        if (fgets(line, sizeof line, file) && !strstr(line, ") T "))
            stopped = false;
        fclose(file);
    }
    closedir(directory);
    return stopped;
}

/* A peer that is stopped cannot answer: the caller is told after 5 s at most. Its backlog takes the call at once. */
static void stopped_body(struct node *node)
{
    void *peer = NULL;
    int64_t start;

    if (node->index == 1) {
        atomic_store(&node->board->stage, (int)getpid());
    } else {
        pid_t pid;
        while (!(pid = (pid_t)atomic_load(&node->board->stage)))
            node_poll(node);
        kill(pid, SIGSTOP);
        while (!all_stopped(pid))
            node_poll(node);
        start = now_ns();
        node_expect(node,
                    node->ops->connect(node->endpoint, &node->board->address[1], &peer) ==
                        THRUM_ERR_UNREACHABLE,
                    "connect to a stopped process");
        node_expect(node, now_ns() - start < 8000000000, "in time");
        kill(pid, SIGCONT);
    }
    node_barrier(node);
}

static void stopped_peer_is_unreachable(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, stopped_body));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_descriptor_limit_is_named),
        cmocka_unit_test(descriptor_limit_of_the_peer_is_named),
        cmocka_unit_test(damaged_mailbox_harms_nobody),
        cmocka_unit_test(strangers_do_not_disturb),
        cmocka_unit_test(stopped_peer_is_unreachable),
    };

    if (fabric_plugin_load("loopback", &nodes_ops))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
