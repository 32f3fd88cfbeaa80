/*
 * Inside of the loopback fabric: puts between endpoints of one host through mailboxes in shared pages. It is the small
 * reference plugin: a new fabric starts as a copy of it.
 *
 *   loopback.c   the table, endpoints, regions
 *   connect.c    how two endpoints meet: a service thread accepts, checks the user and hands out a mailbox
 *   send.c       put, get, flush: fills mailboxes of peers
 *   receive.c    empties the mailboxes of others into registered regions, and answers gets
 *
 * Each connection has one mailbox, made by the receiver: a ring of messages that the sender writes and the receiver
 * reads, and a ring of bytes back for gets. Neither side trusts what the other writes there.
 */
#ifndef LOOPBACK_H
#define LOOPBACK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <thrum/fabric_plugin.h>

#include "../common/keys.h"
#include "../common/limit.h"
#include "../common/order.h"
#include "base/base.h"

#define LOOPBACK_MAGIC 0x544c4f42u /* "TLOB" */
#define LOOPBACK_VERSION 1
#define LOOPBACK_INLINE_BYTES 32768 /* at most */
#define LOOPBACK_MESSAGE_ALIGN 64
#define LOOPBACK_REPLY_BYTES 65536
#define LOOPBACK_GETS 64 /* outstanding per peer */
#define LOOPBACK_TEXT_BYTES 192
#define LOOPBACK_CONNECT_MS 5000
#define LOOPBACK_BOOT_ID_BYTES 40

/* The shared page before the rings. Byte counts only grow; the position in a ring is the count modulo its size. */
struct loopback_mailbox {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t head; /* sender: messages up to here are complete */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t tail; /* receiver: messages up to here are done */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t reply_head; /* receiver: bytes read for gets */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t reply_tail; /* sender: bytes taken */
    _Alignas(
        CACHE_LINE_BYTES) _Atomic int32_t refused; /* receiver: a status after which it stops */
    char refusal[LOOPBACK_TEXT_BYTES]; /* written before `refused` */
};

#define LOOPBACK_HEADER_PAGE 4096 /* where the message ring starts; the reply ring follows it */

enum loopback_kind { LOOPBACK_PUT = 1, LOOPBACK_GET };

/* One message; the bytes of a PUT follow, padded to LOOPBACK_MESSAGE_ALIGN. */
struct loopback_message {
    uint32_t kind;
    uint32_t bytes; /* in this message; GET: 0 */
    uint64_t key, offset; /* where they go; GET: where they are */
    uint64_t rest; /* bytes of the same put in later messages; GET: bytes wanted */
    uint64_t signal_key; /* stored with the last message of a put; 0: none */
    uint64_t signal_offset, signal_value;
    uint64_t flags; /* of the put: THRUM_PUT_LENIENT, or none */
};

struct loopback_region {
    struct loopback_endpoint *endpoint;
    char *base;
    size_t bytes;
    uint64_t key; /* salt in the upper half, slot + 1 in the lower */
};

struct loopback_get {
    char *local;
    size_t left;
};

/* Where we send. */
struct loopback_peer {
    struct loopback_endpoint *endpoint;
    struct loopback_peer *next;
    uint64_t id; /* names it to the service thread */
    int fd; /* its end tells us that the peer is gone; nothing is sent */
    int pid;
    bool gone; /* set by the service thread */
    struct loopback_mailbox *mailbox;
    char *ring, *reply;
    size_t ring_bytes, map_bytes;
    uint64_t head, tail_seen, reply_tail;
    struct thrum_fabric_put put; /* accepted, and not yet wholly in the ring if `unfinished` */
    bool unfinished;
    struct loopback_get gets[LOOPBACK_GETS]; /* oldest at first_get */
    unsigned first_get, get_count;
    thrum_status_t status; /* first error */
    char message[LOOPBACK_TEXT_BYTES + 64];
};

/* Whom we receive from. */
struct loopback_source {
    struct loopback_source *next;
    uint64_t id;
    int fd;
    int pid;
    bool gone; /* set by the service thread */
    bool refused;
    struct loopback_mailbox *mailbox;
    char *ring, *reply;
    size_t ring_bytes, map_bytes;
    uint64_t tail, reply_head;
    uint64_t get_done; /* bytes already answered of the GET at the tail */
};

struct loopback_endpoint {
    pthread_mutex_t lock; /* all that follows, and all of its peers, sources and regions */
    struct loopback_peer *peers;
    struct loopback_source *sources;
    struct loopback_region **regions; /* by slot; NULL: free */
    size_t slots;
    uint32_t key_salt, first_salt; /* of the newest region; before the first */
    uint64_t next_id;
    /* Set once by open. */
    size_t ring_bytes;
    char boot_id[LOOPBACK_BOOT_ID_BYTES];
    int listen_fd, epoll_fd, stop_fd;
    pthread_t service;
    /* The service thread's own: given up for a moment to refuse a caller when descriptors have run out. */
    int spare_fd;
};

/* connect.c */
thrum_status_t loopback_listen(struct loopback_endpoint *endpoint,
                               struct thrum_fabric_address *address_out);
void loopback_stop_listening(struct loopback_endpoint *endpoint);
thrum_status_t loopback_connect(void *endpoint, const struct thrum_fabric_address *address,
                                void **peer_out);
void loopback_disconnect(void *peer);
void loopback_source_free(struct loopback_source *source);

/* send.c; _locked: under the endpoint's lock. True if something moved. */
thrum_status_t loopback_put_signal(void *peer, const struct thrum_fabric_put *put);
thrum_status_t loopback_get(void *peer, void *local, void *local_region, size_t bytes,
                            uint64_t remote_key, uint64_t remote_offset);
thrum_status_t loopback_flush(void *peer);
thrum_status_t loopback_peer_error(void *peer, const char **message_out);
bool loopback_send_locked(struct loopback_peer *peer);

/* receive.c */
bool loopback_receive_locked(struct loopback_endpoint *endpoint, struct loopback_source *source);

/* loopback.c: drives all connections. */
bool loopback_progress_locked(struct loopback_endpoint *endpoint);

/* Copies into or out of a ring at byte count `at`, round its end. `size` is a power of two. */
void loopback_ring_write(char *ring, size_t size, uint64_t at, const void *from, size_t bytes);
void loopback_ring_read(const char *ring, size_t size, uint64_t at, void *to, size_t bytes);

#endif
