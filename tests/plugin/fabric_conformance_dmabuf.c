/*
 * Part of the fabric conformance suite: memory that comes as a dmabuf, here one that the kernel makes of a memfd (udmabuf).
 * Where plugin or driver have no dmabuf they say UNSUPPORTED, and the memory is registered by its mapping, as exec does. So
 * it is, too, where the kernel makes no dmabuf and the memfd is offered as one, which has to be refused.
 */
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#include "fabric_conformance.h"
#include "fabric_nodes.h"

#define BYTES (1u << 20)
#define MAKER "/dev/udmabuf"

struct memory {
    int memfd, dmabuf; /* the same: there is no dmabuf to be had */
    unsigned char *map;
};

static struct memory make_memory(const struct node *node)
{
    struct memory m = {.memfd = memfd_create("dmabuf", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    struct udmabuf_create create = {.flags = UDMABUF_FLAGS_CLOEXEC, .size = BYTES};
    int maker = open(MAKER, O_RDWR | O_CLOEXEC);

    node_expect(node, m.memfd >= 0 && !ftruncate(m.memfd, BYTES), "a memfd");
    node_expect(node, !fcntl(m.memfd, F_ADD_SEALS, F_SEAL_SHRINK), "its seal");
    create.memfd = (uint32_t)m.memfd;
    m.dmabuf = maker < 0 ? m.memfd : ioctl(maker, UDMABUF_CREATE, &create);
    node_expect(node, m.dmabuf >= 0, "a dmabuf");
    if (maker >= 0)
        close(maker);
    m.map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m.memfd, 0);
    node_expect(node, m.map != MAP_FAILED, "its mapping");
    return m;
}

static void *register_memory(const struct node *node, const struct memory *m, uint64_t *key_out)
{
    void *region = NULL;
    thrum_status_t status =
        node->ops->region_register_dmabuf(node->endpoint, m->dmabuf, 0, BYTES, &region, key_out);

    printf("# %s: %s\n", m->dmabuf == m->memfd ? "no " MAKER ", so a memfd" : "a dmabuf",
           status ? thrum_last_error() : "registered");
    fflush(stdout);
    if (m->dmabuf == m->memfd)
        node_expect(node, status < 0, "what is no dmabuf is refused");
    else
        node_expect(node, !status || status == THRUM_ERR_UNSUPPORTED, "done or UNSUPPORTED");
    if (status) {
        node_expect(node, strstr(thrum_last_error(), "dmabuf") != NULL, "and says of what");
        node_expect(node, !region, "nothing is written on failure");
        status = node->ops->region_register(node->endpoint, m->map, BYTES, &region, key_out);
        node_expect(node, !status, "its mapping can be registered");
    }
    node_expect(node, region && *key_out, "a region and its key");
    return region;
}

/* Node 0 puts into the memory, with a signal into that of the suite. */
static void dmabuf_body(struct node *node)
{
    uint64_t signal_key = node->board->key[1];
    struct memory m = {0};
    void *region = NULL;

    node_barrier(node);
    if (node->index) {
        m = make_memory(node);
        region = register_memory(node, &m, &node->board->key[1]);
    }
    node_barrier(node);
    if (!node->index) {
        struct thrum_fabric_put put = node_make_put(node, 1, 0, BYTES - 100, 100, 0, 1);
        put.signal_key = signal_key;
        memset(node->memory, 0x5a, BYTES);
        node_put(node, 1, &put);
        node_flush(node, 1);
    } else {
        node_wait_signal(node, 0, 1);
        for (size_t i = 0; i < BYTES; i++)
            node_expect(node, m.map[i] == (i < 100 ? 0 : 0x5a), "data");
    }
    node_barrier(node);
    if (node->index) {
        node->ops->region_deregister(node->endpoint, region);
        munmap(m.map, BYTES);
        if (m.dmabuf != m.memfd)
            close(m.dmabuf);
        close(m.memfd);
    }
}

void dmabufs_are_registered_or_refused(void **state)
{
    (void)state;
    assert_true(nodes_run(2, -1, dmabuf_body));
}
