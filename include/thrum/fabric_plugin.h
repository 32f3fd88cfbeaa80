/*
 * The fabric plugin interface: moves bytes between device memories where there is no peer access.
 *
 * One-sided and asynchronous: put_signal is primary, everything else is built above it. The callers are a device's
 * port engine (put_signal, flush, progress) and comm and exec (all else). A plugin is a shared object that exports
 * `thrum_fabric_plugin`, or a built-in one (loopback). The table starts with its size, as device_plugin.h says.
 *
 * Threads: calls on one endpoint may come from several threads at once; the plugin locks. No call blocks, except open
 * and close (milliseconds) and connect (until the peer answers: some seconds, and no longer than half of
 * THRUM_DEADLINE_MS, so that an operation can still say whom it did not reach).
 */
#ifndef THRUM_FABRIC_PLUGIN_H
#define THRUM_FABRIC_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#include <thrum/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

#define THRUM_FABRIC_ABI_VERSION 1
#define THRUM_FABRIC_ADDRESS_BYTES 160

/*
 * Where an endpoint listens: exchanged by bootstrap. The first eight bytes mark plugin and version, so that connect can
 * refuse what it does not understand; the rest is opaque.
 */
struct thrum_fabric_address {
    uint8_t bytes[THRUM_FABRIC_ADDRESS_BYTES];
};

struct thrum_fabric_info {
    char name[64]; /* device or provider, as the user may choose it by THRUM_FABRIC_DEVICE */
    char detail[128]; /* for thrum-info; or why it cannot be used */
    int usable; /* 0: refused, for the reason in `detail` */
    int same_host_only; /* 1: cannot leave the host */
    double bandwidth_gbps; /* gigabytes per second; 0 if unknown */
    uint64_t max_inline_bytes; /* at least 4096: see max_inline */
};

enum {
    THRUM_PUT_INLINE = 1 << 0, /* `local` is read before the call returns and needs no region */
    THRUM_PUT_LENIENT =
        1 << 1 /* a signal alone: may be passed over where its region is gone; else as any put */
};

struct thrum_fabric_put {
    /* Source on the host's view of the memory, or an offset where the region came by dmabuf; any when bytes is 0. */
    const void *local;
    void *local_region; /* from region_register; NULL with THRUM_PUT_INLINE */
    size_t bytes; /* 0: only the signal */
    uint64_t remote_key;
    uint64_t remote_offset; /* bytes from the start of the remote region */
    uint64_t signal_key; /* 0: no signal */
    uint64_t signal_offset; /* multiple of 8 */
    uint64_t
        signal_value; /* the 64-bit word at signal_offset becomes this, after the data is visible */
    unsigned flags;
};

/* What happened to a port, or on it; the device that it is attached to makes RAS events of them. */
enum thrum_fabric_event_kind {
    THRUM_FABRIC_LINK_DOWN,
    THRUM_FABRIC_LINK_UP,
    THRUM_FABRIC_FATAL /* a connection or queue of the port broke */
};

struct thrum_fabric_event {
    enum thrum_fabric_event_kind kind;
    uint32_t port; /* of the endpoint, from 0 */
    char text[88]; /* names the port, and what it was */
};

struct thrum_fabric_ops {
    size_t size;
    uint32_t abi_version; /* THRUM_FABRIC_ABI_VERSION */
    const char *name; /* "loopback"; static */

    /* Writes up to `max` entries; *n_out is how many there are. */
    thrum_status_t (*enumerate)(struct thrum_fabric_info *info_out, size_t max, size_t *n_out);
    /* Opens an endpoint on the named device (NULL: the best), listening at *address_out. */
    thrum_status_t (*open)(const char *device, void **endpoint_out,
                           struct thrum_fabric_address *address_out);
    void (*close)(void *endpoint); /* also with work in flight, which is dropped */

    /* UNREACHABLE, PEER_DEAD, AUTH, LIMIT. For one direction; usable at once. Each communicator makes its own, also where
     * there is one to that address already. */
    thrum_status_t (*connect)(void *endpoint, const struct thrum_fabric_address *address,
                              void **peer_out);
    void (*disconnect)(void *peer);

    /* Lets peers write [cpu_base, +bytes) by *key_out (never 0). UNSUPPORTED, LIMIT (says what to raise). */
    thrum_status_t (*region_register)(void *endpoint, void *cpu_base, size_t bytes,
                                      void **region_out, uint64_t *key_out);
    thrum_status_t (*region_register_dmabuf)(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                             void **region_out, uint64_t *key_out);
    void (*region_deregister)(void *endpoint, void *region);

    /*
     * OK: accepted; the source must stay until flush says so. IN_PROGRESS: no room now, nothing was taken; call
     * progress and try again. Signals to one peer become visible in order, each after the data of its own put and of all
     * earlier ones. Puts to the same bytes are not ordered among themselves until the earlier one's signal has been seen.
     */
    thrum_status_t (*put_signal)(void *peer, const struct thrum_fabric_put *put);
    /* Reads remote bytes; done when flush returns OK. */
    thrum_status_t (*get)(void *peer, void *local, void *local_region, size_t bytes,
                          uint64_t remote_key, uint64_t remote_offset);
    /* OK when all accepted work to this peer is complete here (sources may be reused), else IN_PROGRESS or an error. */
    thrum_status_t (*flush)(void *peer);
    /* Drives the endpoint, both as sender and as receiver. OK: something moved. IN_PROGRESS: nothing to do. */
    thrum_status_t (*progress)(void *endpoint);
    /* Descriptor that becomes readable when progress is needed; -1: none (now), poll. Asked before each sleep. */
    int (*wait_fd)(void *endpoint);
    /* First error of a connection, with a message owned by it; OK if there is none. */
    thrum_status_t (*peer_error)(void *peer, const char **message_out);
    /* Takes up to `max` events of the endpoint's ports, oldest first; returns how many. One load if there are none. */
    size_t (*get_events)(void *endpoint, struct thrum_fabric_event *events_out, size_t max);
    /*
     * Optional: OK, or UNREACHABLE with a message: whether an endpoint at `from` reaches one at `to`, by what both addresses
     * say alone, so that all who have them come to the same answer. Without it all do.
     */
    thrum_status_t (*reaches)(const struct thrum_fabric_address *from,
                              const struct thrum_fabric_address *to);
    /*
     * Optional: so many bytes the endpoint takes with THRUM_PUT_INLINE, 4096 or more, the same as long as it is open.
     * Lines of collectives and messages get as long as that.
     */
    size_t (*max_inline)(void *endpoint);
    /*
     * Optional: as flush, for what had been accepted when *mark was 0: then *mark becomes a number that stands for that, to
     * call again with. So later puts can be on their way meanwhile. A fabric that has this keeps puts to the same bytes in
     * the order in which it accepted them. NULL: the port flushes, and hands on no put before all earlier ones are done.
     */
    thrum_status_t (*flush_mark)(void *peer, uint64_t *mark_inout);
    /*
     * Optional: 1 if an adapter moves the data of puts, which no core of either host touches; 0, and without it: cores do. The
     * same as long as the endpoint is open. The choice of algorithms depends on it.
     */
    int (*offloads)(void *endpoint);
};

typedef const struct thrum_fabric_ops *(*thrum_fabric_plugin_fn)(uint32_t library_abi_version);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
