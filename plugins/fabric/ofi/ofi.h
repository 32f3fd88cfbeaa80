/*
 * Inside of the ofi fabric: puts through libfabric, on any provider with reliable datagram endpoints and RMA (tcp and
 * verbs through ofi_rxm, efa, shm, ...). A shared object: thrum-fabric-ofi.so.
 *
 *   ofi.c       the table; endpoints and their progress
 *   start.c     the first call into libfabric
 *   provider.c  what libfabric finds here, which of it can serve, and why the rest cannot
 *   region.c    registered memory, and the directory in which peers look up what a key means
 *   peer.c      connections: addresses, is the peer alive, errors
 *   send.c      put, get, flush: writes, reads and signals
 *
 * Data goes by RMA writes. A signal goes as a message that the receiver's progress stores: libfabric promises nothing
 * about when bytes of a write become visible to a reader who polls memory, and the tcp provider does store half words.
 * A key of this fabric names an entry of the peer's directory: it says where the region is and how long, so that
 * providers with virtual addresses need no wider keys, and a put that leaves its region is refused by the sender, before
 * it could break what other connections share.
 *
 * Each connection has an endpoint of libfabric of its own for sending: it fails alone, and closing it drops its work.
 * Over tcp that makes two sockets of each pair of ranks, on which data go one way only, so that each message costs an
 * acknowledgement of its own. Small puts that follow one another therefore take a shared route, from one listening
 * endpoint to the other, where an answer is the acknowledgement; see send.c.
 */
#ifndef OFI_H
#define OFI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include <thrum/fabric_plugin.h>
#include <thrum/plugin.h>

#include "../common/keys.h"
#include "../common/limit.h"
#include "../common/process.h"
#include "../common/text.h"
#include "base/base.h"

#define OFI_API FI_VERSION(1, 17) /* what this plugin was written against */
#define OFI_MAGIC 0x5449464fu /* "OFIT" */
#define OFI_VERSION 2
#define OFI_INLINE_BYTES 4096 /* at least; over tcp as many as a slot holds */
#define OFI_REGIONS 8192 /* entries of the directory */
#define OFI_LINE_BYTES 4088 /* of data that go with their signal: what a line holds */
#define OFI_JOINED_BYTES 32768 /* and over tcp not only in lines */
#define OFI_SHORT_BYTES 56 /* of these, what is kept with the work; more takes a slot */
#define OFI_SLOTS 128 /* inline and small puts and look-ups on their way */
#define OFI_SMALL_BYTES 32768 /* are copied for a shared route, where there is one */
#define OFI_OPS 256 /* outstanding operations of a connection */
#define OFI_STREAK 64 /* so many small puts in a row, and the shared route is taken */
#define OFI_RECEIVES 256 /* posted for signals */
#define OFI_STREAM_RECEIVES \
    64 /* over tcp, where they are longer: they take turns, and should stay in the cache */
#define OFI_TEXT_BYTES 256
#define OFI_CONNECT_MS 5000

/* One registered region, as peers read it. A half-written entry does not match its check. */
struct ofi_entry {
    uint64_t key; /* of this fabric; 0: free */
    uint64_t base, bytes; /* what remote addresses begin at */
    uint64_t rma_key; /* of libfabric */
    uint64_t write_signals; /* 1: memory that the CPU does not store to; signals come as writes */
    uint64_t check;
};

/* The bytes of a fabric address. */
struct ofi_address {
    uint32_t magic;
    uint16_t version, name_bytes; /* of `name`, which is what fi_getname said */
    uint32_t format; /* of libfabric's addresses */
    int32_t pid;
    uint64_t boot; /* hash of boot id and pid namespace: says whether `pid` means something to us */
    uint64_t token; /* random; signals must bring it */
    uint64_t directory, directory_key;
    char provider[24], host[16];
    uint8_t name[64];
};
_Static_assert(sizeof(struct ofi_address) <= THRUM_FABRIC_ADDRESS_BYTES, "fits");

/* The only message: store `bytes` of data, if there are any, and then `value` in the word. */
struct ofi_signal {
    uint32_t magic;
    uint16_t version, bytes;
    uint64_t token, key, offset, value;
    uint64_t data_key, data_offset; /* key 0: right behind the word */
    char data[OFI_SHORT_BYTES]; /* or more, where it lies in a slot */
};
#define OFI_SIGNAL_HEAD offsetof(struct ofi_signal, data)
#define OFI_SLOT_BYTES 4160 /* and of a receive; more over tcp, where they need not be pinned */
#define OFI_STREAM_SLOT_BYTES (OFI_SMALL_BYTES + 256)
_Static_assert(OFI_SLOT_BYTES >= OFI_SIGNAL_HEAD + OFI_LINE_BYTES &&
                   OFI_SLOT_BYTES >= OFI_INLINE_BYTES && OFI_SMALL_BYTES >= OFI_JOINED_BYTES &&
                   OFI_STREAM_SLOT_BYTES >= OFI_SIGNAL_HEAD + OFI_JOINED_BYTES,
               "fits");

/* One of libfabric's offers. */
struct ofi_offer {
    struct fi_info *info; /* owned */
    bool usable; /* and else `why` says what stands against it */
    bool automatic; /* taken without being asked for by name */
    bool ordered; /* data before signal by the provider's order; else by waiting for the data */
    bool same_host;
    int rank; /* less is better */
    char name[64]; /* provider/domain */
    char address[64];
    char why[112];
};

struct ofi_offers {
    struct ofi_offer *list;
    size_t n;
};

struct ofi_region {
    struct fid_mr *mr;
    char *base;
    size_t bytes;
    void *desc;
    uint32_t slot; /* in the directory */
};

/* An operation that libfabric has; it hands back `context`. */
struct ofi_op {
    struct fi_context2 context; /* first */
    struct ofi_op *next; /* free list */
    struct ofi_peer *peer; /* whose it is; NULL: a receive, or the connection is closed */
    bool shared; /* of the endpoint's pool, for shared routes; else of the connection's */
    void *slot; /* freed with it; NULL: none */
};

/* A way to a peer. */
struct ofi_route {
    struct fid_ep *ep;
    struct fid_av *av;
    struct fid_cq *cq;
    fi_addr_t to;
};

enum ofi_work_kind { OFI_NOTHING, OFI_PUT, OFI_GET };

/* What was accepted last: not all of it is with libfabric yet, unless NOTHING. */
struct ofi_work {
    enum ofi_work_kind kind;
    bool started, data_done;
    char *local;
    void *desc;
    size_t left;
    uint64_t remote, rma_key;
    void *slot; /* holds inline data; goes with the last piece */
    bool inject; /* `local` is `small` */
    struct ofi_signal signal; /* magic 0: none */
    void *message; /* a slot with all of it, where the data are more than short; else NULL */
    uint64_t signal_remote, signal_rma_key; /* rma key 0: it goes as a message */
    char small[64];
};

struct ofi_peer {
    struct ofi_endpoint *endpoint;
    struct ofi_peer *next;
    struct ofi_route own; /* an endpoint for this connection alone */
    struct ofi_route
        shared; /* by the listening endpoints of both; ep NULL: not with this provider */
    const struct ofi_route *route; /* of the two, where things go now */
    unsigned streak; /* small puts since the last that was none */
    struct ofi_address address;
    char name[64]; /* for messages */
    struct ofi_op *ops, *free_ops;
    unsigned outstanding; /* operations that libfabric has, all on `route` */
    struct ofi_work work;
    int64_t active_ns; /* when something was last given to libfabric */
    uint64_t given, confirmed; /* how many were, and up to which one something was read back */
    struct keys keys; /* remembered; their entries: */
    struct ofi_entry entries[KEYS_REMEMBERED];
    uint64_t wanted; /* key that is being looked up; 0: none */
    struct ofi_entry *answer; /* slot where it arrives */
    struct ofi_op *lookup;
    uint64_t lookup_given; /* `given` when it began */
    int pid_fd; /* readable when the process is gone; -1: it is not ours to watch */
    int probe_fd; /* a connection that is tried to see whether the host answers; -1: none */
    int64_t looked_ns, stalled_since_ns, probed_ns;
    thrum_status_t status; /* first error */
    char message[OFI_TEXT_BYTES];
};

struct ofi_endpoint {
    pthread_mutex_t lock; /* all that follows, and all of its peers */
    struct process_endpoint open;
    struct ofi_peer *peers;
    struct fi_info *info;
    bool ordered;
    bool is_stream; /* tcp's own: the queue `cq` drives all endpoints, and shared routes pay */
    size_t piece_bytes, inject_bytes, inline_bytes;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_av *av;
    struct fid_cq *cq;
    struct fid_ep *ep; /* receives signals, and is what peers write through */
    struct ofi_address address;
    /* One allocation: directory, then slots, then receive buffers. */
    char *arena;
    size_t arena_bytes;
    struct fid_mr *arena_mr;
    void *arena_desc;
    size_t slot_bytes, receive_bytes;
    struct ofi_entry *directory;
    struct ofi_region *regions[OFI_REGIONS]; /* by directory slot */
    uint32_t regions_high, key_salt;
    uint16_t free_slots[OFI_SLOTS];
    unsigned nfree;
    struct ofi_op receives[OFI_RECEIVES]; /* `slot`: its buffer */
    struct ofi_op *unposted; /* receives that libfabric did not take back yet */
    struct ofi_op shared_ops[OFI_SLOTS], *free_shared;
    bool warned;
    int64_t silent_until_ns; /* a peer did not answer a moment ago, see confirm */
};

/* start.c */
void ofi_start(void); /* before any other call of libfabric */

/* provider.c */
thrum_status_t ofi_offers_find(struct ofi_offers *out);
void ofi_offers_free(struct ofi_offers *offers);
thrum_status_t ofi_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out);
/* The best that is usable, of those that `device` and the configuration name; info is the caller's. */
thrum_status_t ofi_choose(const char *device, struct fi_info **info_out, bool *ordered_out);

/* region.c; slots under the endpoint's lock. */
thrum_status_t ofi_arena_create(struct ofi_endpoint *endpoint);
void ofi_arena_destroy(struct ofi_endpoint *endpoint);
void *ofi_slot_take(struct ofi_endpoint *endpoint); /* NULL: none is free */
void ofi_slot_free(struct ofi_endpoint *endpoint, void *slot);
thrum_status_t ofi_region_register(void *endpoint, void *cpu_base, size_t bytes, void **region_out,
                                   uint64_t *key_out);
thrum_status_t ofi_region_register_dmabuf(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                          void **region_out, uint64_t *key_out);
void ofi_region_deregister(void *endpoint, void *region);
uint64_t ofi_entry_check(const struct ofi_entry *entry);
/* Stores what a peer's signal says; false: it may not. */
bool ofi_signal_apply(struct ofi_endpoint *endpoint, const struct ofi_signal *signal);

/* peer.c */
thrum_status_t ofi_connect(void *endpoint, const struct thrum_fabric_address *address,
                           void **peer_out);
void ofi_disconnect(void *peer);
thrum_status_t ofi_peer_error(void *peer, const char **message_out);
/* Sets the first error of a connection. Returns the one that it has. */
thrum_status_t ofi_peer_fail(struct ofi_peer *peer, thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Takes an error of libfabric (a positive number) as the connection's. */
thrum_status_t ofi_peer_broke(struct ofi_peer *peer, int error, const char *doing);
/* As ofi_peer_broke, of an operation that libfabric had taken. */
void ofi_peer_lost(struct ofi_peer *peer, int error);
/* Looks now and then whether the process is there. `stalled`: libfabric takes nothing. */
void ofi_peer_watch(struct ofi_peer *peer, bool stalled);
/* Drops its work, and what it has of what all connections share. Under the endpoint's lock. */
void ofi_peer_let_go(struct ofi_peer *peer);

/* send.c; _locked: under the endpoint's lock. True if something moved. */
thrum_status_t ofi_put_signal(void *peer, const struct thrum_fabric_put *put);
thrum_status_t ofi_get(void *peer, void *local, void *local_region, size_t bytes,
                       uint64_t remote_key, uint64_t remote_offset);
thrum_status_t ofi_flush(void *peer);
bool ofi_send_locked(struct ofi_peer *peer);
/* libfabric is done with it. */
void ofi_op_done(struct ofi_endpoint *endpoint, struct ofi_op *op);
/* All that was given to libfabric has arrived. */
bool ofi_is_confirmed(const struct ofi_peer *peer);
/* Starts to read the directory entry of `key`, whatever is remembered of it. IN_PROGRESS: not now. */
thrum_status_t ofi_lookup_start(struct ofi_peer *peer, uint64_t key);

/* ofi.c */
bool ofi_progress_locked(struct ofi_endpoint *endpoint);
thrum_status_t ofi_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
