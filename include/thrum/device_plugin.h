/*
 * The device plugin interface: what a vendor writes. The device runtime (src/device) and exec are its only callers.
 *
 * A plugin is a shared object that exports `thrum_device_plugin`, or one that is built in (sim). Its table starts with
 * its size, so a table that is older than the library stays usable: missing calls get defaults that return
 * THRUM_ERR_UNSUPPORTED. All calls may come from any thread. Only `wait` blocks, and `close`, `reset`, `mem_alloc`,
 * `peer_window_open` for milliseconds. Handles are the plugin's own; the runtime passes them back unseen.
 */
#ifndef THRUM_DEVICE_PLUGIN_H
#define THRUM_DEVICE_PLUGIN_H

#include <stdbool.h>

#include <thrum/device.h>
#include <thrum/fabric_plugin.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

#define THRUM_DEVICE_ABI_VERSION 2 /* 1: submit_meanwhile took all commands at once */

/* How peers find a device: opaque bytes, made by the plugin that reads them. Fits in a bootstrap message. */
struct thrum_device_address {
    uint8_t bytes[96];
};

/* A region of device memory in the form in which a fabric can register it. */
struct thrum_port_region {
    void *cpu_base; /* where the host can reach it; NULL if it cannot */
    int dmabuf_fd; /* owned by the plugin; -1 if there is none */
    uint64_t device_base; /* device address of its first byte */
    uint64_t bytes;
};

struct thrum_device_ops {
    size_t size; /* of the table that the plugin was compiled with */
    uint32_t abi_version; /* THRUM_DEVICE_ABI_VERSION */
    const char *name; /* "sim"; static */

    /* How many devices there are; INVALID_CONFIG if the plugin's own configuration is bad. */
    thrum_status_t (*enumerate)(int *count_out);
    /* BUSY if another process has it. */
    thrum_status_t (*open)(int index, void **device_out);
    void (*close)(void *device);
    thrum_status_t (*properties)(void *device,
                                 struct thrum_device_properties *properties_out); /* full size */
    /* generation: bumped by every reset, read often; a plain load. */
    uint32_t (*generation)(void *device);
    thrum_status_t (*reset)(void *device, enum thrum_reset_kind kind);

    thrum_status_t (*mem_alloc)(void *device, size_t bytes, uint64_t *address_out);
    thrum_status_t (*mem_free)(void *device, uint64_t address); /* allocated or imported */
    thrum_status_t (*host_register)(void *device, void *address, size_t bytes);
    thrum_status_t (*host_unregister)(void *device, void *address);
    thrum_status_t (*mem_query)(void *device, uint64_t address, struct thrum_mem_info *info_out);
    thrum_status_t (*mem_export)(void *device, uint64_t address,
                                 struct thrum_mem_handle *handle_out);
    thrum_status_t (*mem_import)(void *device, const struct thrum_mem_handle *handle,
                                 uint64_t *address_out);
    /* Whether an address has the form of a device address, live or not: what no host pointer can be. */
    bool (*address_is_device)(uint64_t address);
    /* The host reads or writes a few bytes (<= 4096) of device memory; not ordered with queues. */
    thrum_status_t (*mem_peek)(void *device, uint64_t address, void *host_out, size_t bytes);
    thrum_status_t (*mem_poke)(void *device, uint64_t address, const void *host, size_t bytes);

    /* Peers. The address of this device, for others; what `device` may do to the device at `peer`. */
    thrum_status_t (*address)(void *device, struct thrum_device_address *address_out);
    enum thrum_peer_access (*peer_access)(void *device, const struct thrum_device_address *peer);
    /*
     * Opens a window on all of a peer's memory: what the peer knows as device address a in its own allocations is
     * *window_base_out + (a - the peer's own window base, see own_base) here. Each access checks the peer's live
     * allocations. PEER_DEAD, AUTH, UNSUPPORTED. Windows are shared and counted; one close each.
     */
    thrum_status_t (*peer_window_open)(void *device, const struct thrum_device_address *peer,
                                       uint64_t *window_base_out);
    void (*peer_window_close)(void *device, uint64_t window_base);
    /* Base that this device's own addresses count from, as in peer_window_open. */
    uint64_t (*own_base)(void *device);

    thrum_status_t (*queue_create)(void *device, unsigned flags, void **queue_out);
    void (*queue_destroy)(void *queue);
    uint64_t (*queue_id)(void *queue);
    thrum_status_t (*submit)(void *queue, const struct thrum_command *commands, size_t n,
                             uint64_t *ticket_out);
    /*
     * State of a submission: OK, IN_PROGRESS, or the error that it ended with (kept for the last 1024 submissions,
     * OK for older ones unless the queue has faulted). Executes what can be executed, but no reductions of the
     * caller's; never blocks.
     */
    thrum_status_t (*poll)(void *queue, uint64_t ticket);
    /* Like poll, but spins, yields, then sleeps until the ticket has ended or timeout_ns (< 0: none) has passed. */
    thrum_status_t (*wait)(void *queue, uint64_t ticket, int64_t timeout_ns);
    /* Every submission in first..last that has not ended ends with `status`; the command that executes is let finish. */
    void (*cancel)(void *queue, uint64_t first_ticket, uint64_t last_ticket, thrum_status_t status);
    /* How many threads of this host compete for a core while waiting: > 1 means give the core away early. */
    void (*set_oversubscribed)(void *device, bool oversubscribed);

    /* Ports. region: the largest registrable region around an address. attach: PUT commands go to this endpoint,
     * and waiting progresses it, until it has been detached as often; detach returns when no PUT executes any more. */
    thrum_status_t (*port_region)(void *device, uint64_t address,
                                  struct thrum_port_region *region_out);
    thrum_status_t (*port_attach)(void *device, const struct thrum_fabric_ops *fabric,
                                  void *endpoint);
    thrum_status_t (*port_detach)(void *device, void *endpoint);
    /* Makes data that a NIC has written visible to engines. */
    thrum_status_t (*rdma_flush)(void *device);

    int (*event_fd)(void *device);
    thrum_status_t (*get_events)(void *device, struct thrum_ras_event *events_out, size_t max,
                                 size_t *n_out);
    thrum_status_t (*counters)(void *device,
                               struct thrum_ras_counters *counters_out); /* full size */
    thrum_status_t (*fault_info)(void *device, struct thrum_ras_event *fault_out);
    thrum_status_t (*inject)(void *device, const char *script, uint64_t seed);

    /*
     * Optional, for commands that are submitted again and again: `check` is what submit finds wrong with them
     * (INVALID_COMMAND); submit_checked is submit for commands that check has accepted, and of which since then only
     * values and operands' addresses (aligned as before) have changed. Without them submit looks each time.
     */
    thrum_status_t (*check)(void *device, const struct thrum_command *commands, size_t n);
    thrum_status_t (*submit_checked)(void *queue, const struct thrum_command *commands, size_t n,
                                     uint64_t *ticket_out);

    /*
     * Optional: mem_alloc for memory that will be used late, or not at all. What can be put off until a page is touched
     * is put off; that the memory is there and zero is not. Without it: mem_alloc.
     */
    thrum_status_t (*mem_reserve)(void *device, size_t bytes, uint64_t *address_out);

    /*
     * Optional: submit_checked for a caller whose first commands are urgent, and who has things to write that can wait until
     * these are on their way, the other commands among them. It takes (executes, or copies) commands[0..nfirst), which is at
     * most n, and nothing else. Then it calls `meanwhile` once on the caller's thread, with *ticket_out written and before
     * another submission to the queue gets its ticket; that writes the other commands, and anew those that were taken, for
     * a submission to come. Then it takes the others. `meanwhile` is short and calls nothing of the device. A refusal comes
     * before all that. Without it the library writes all commands first.
     */
    thrum_status_t (*submit_meanwhile)(void *queue, const struct thrum_command *commands, size_t n,
                                       size_t nfirst, uint64_t *ticket_out,
                                       void (*meanwhile)(void *argument), void *argument);

    /*
     * Optional, for a device whose runtime has streams of its own: a queue that submits to the stream `native` (a CUstream,
     * say; NULL: the runtime's default stream), in one order with what the runtime itself submits there. flags: 0. The
     * stream stays its owner's: queue_destroy lets go of it, cancel ends only what came through this queue, tickets count
     * only that. What ends with an error here is no error of the stream. Once its owner has destroyed the stream (another
     * may have its address by now) queue_id is 0, submit returns INVALID_QUEUE, and poll and wait call everything ended.
     * INVALID_QUEUE: not a live stream of this device.
     */
    thrum_status_t (*queue_import)(void *device, void *native, unsigned flags, void **queue_out);
};

/* What a loadable plugin exports under the name "thrum_device_plugin". */
typedef const struct thrum_device_ops *(*thrum_device_plugin_fn)(uint32_t library_abi_version);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
