/*
 * Inside of the tcp fabric: puts over plain TCP connections, for hosts that have Ethernet and no RDMA. A shared object:
 * thrum-fabric-tcp.so.
 *
 *   tcp.c         the table, endpoints, regions, progress
 *   interfaces.c  this host's network interfaces: which serve, what an address says of them
 *   listen.c      the service thread: accepts who knows the endpoint's secret, sees cables go and come
 *   link.c        connections: calling an endpoint, who of two callers wins, how one ends
 *   send.c        put, get, flush: what goes out on a link
 *   receive.c     stores what comes in on a link
 *
 * There is one TCP connection, a link, between two endpoints, for both directions and all communicators, so that
 * acknowledgements ride on data. What connect returns, a peer, is a number on a link. On the stream go frames: a header
 * of 64 bytes, and the bytes that it announces. A put of more than TCP_SEGMENT_BYTES goes in several frames, each of
 * which says all that is needed to store it; so peers take turns, and a put that is dropped leaves the stream whole.
 *
 * Sending is done by whoever calls, under the link's send_lock; receiving by one thread at a time, under the endpoint's
 * lock; so that both go on at once. The order of locks: `lock`, then `send_lock` of one link.
 */
#ifndef TCP_H
#define TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include <thrum/fabric_plugin.h>
#include <thrum/plugin.h>

#include "../common/keys.h"
#include "../common/limit.h"
#include "../common/order.h"
#include "../common/process.h"
#include "../common/text.h"
#include "base/base.h"

#define TCP_MAGIC 0x50435454u /* "TTCP" */
#define TCP_VERSION 1
#define TCP_ID_BYTES 16
#define TCP_CANDIDATES 4
#define TCP_INLINE_BYTES 32768
#define TCP_SEGMENT_BYTES 262144 /* of a put, in one frame */
#define TCP_STAGE_BYTES 16384 /* what one look at a socket takes beyond a payload that is awaited */
#define TCP_GETS 64 /* outstanding per link */
#define TCP_REFUSED \
    64 /* connections of a link that broke the rules: the last ones are remembered */
#define TCP_QUEUE_MAX (16u << 20)
#define TCP_TEXT_BYTES 256
#define TCP_CONNECT_MS 5000 /* at most: see limit_connect_ms */
#define TCP_LINGER_MS 1000
#define TCP_EVENTS 16
#define TCP_INTERFACES 32

/* Where an endpoint can be called. */
struct tcp_candidate {
    uint8_t family; /* 4 or 6 */
    uint8_t prefix; /* bits of the subnet */
    uint16_t speed; /* of its interface, in units of 100 Mbit/s; 0: unknown */
    uint8_t ip[16];
};

/* The bytes of a fabric address. */
struct tcp_address {
    uint32_t magic, version;
    uint8_t id[TCP_ID_BYTES]; /* random; names the endpoint */
    uint8_t token[TCP_ID_BYTES]; /* random; who calls has to know it */
    uint64_t network; /* process_namespace_hash: see tcp_same_network; 0: unknown */
    int32_t pid;
    uint16_t port;
    uint8_t ncandidates, reserved;
    char host[16];
    struct tcp_candidate candidates[TCP_CANDIDATES]; /* best first */
};
_Static_assert(sizeof(struct tcp_address) <= THRUM_FABRIC_ADDRESS_BYTES, "fits");

/* How likely an interface leads to the other hosts. */
enum tcp_class {
    TCP_MET, /* the ranks met on it */
    TCP_DEFAULT_ROUTE,
    TCP_ADAPTER,
    TCP_VIRTUAL,
    TCP_INNER, /* from here on: taken only if there is nothing else. Of containers and virtual machines */
    TCP_LOOPBACK /* better than nothing: a host without a network */
};

/* A network interface of this host. */
struct tcp_interface {
    char name[32];
    int index;
    bool usable; /* else `why` says what stands against it */
    bool loopback;
    enum tcp_class class; /* less is better */
    double gigabytes_per_second; /* 0: unknown */
    unsigned ncandidates;
    struct tcp_candidate candidates[2]; /* IPv4 before IPv6 */
    char why[96];
};

struct tcp_interfaces {
    struct tcp_interface list[TCP_INTERFACES]; /* best first */
    size_t n;
};

enum tcp_kind {
    TCP_PUT = 1, /* `bytes` of data follow; `rest` more of the same put in later frames */
    TCP_GET, /* `rest` bytes are wanted; `signal_value` is the number of the get */
    TCP_DATA, /* for get `signal_value`; `bytes` follow, `rest` later */
    TCP_KNOWN, /* answer to TCP_ASKS: `offset` and `signal_offset` are the lengths of the regions */
    TCP_ERROR /* of that channel: status in `offset`, and `bytes` of text follow */
};

enum { /* flags */
       TCP_ASKS = 1, /* the sender wants to know that the put is good */
       TCP_LENIENT = 2 /* THRUM_PUT_LENIENT */
};

/* What goes before everything on a link. Numbers are in the byte order of the hosts, which is one. */
struct tcp_frame {
    uint8_t kind, flags;
    uint16_t reserved;
    uint32_t channel; /* which of the sender's peers on this link; in answers, of the receiver's */
    uint32_t bytes; /* of payload */
    uint32_t reserved2;
    uint64_t rest;
    uint64_t key, offset; /* where the bytes go; GET: where they are */
    uint64_t signal_key; /* stored with the last frame of a put; 0: none */
    uint64_t signal_offset, signal_value;
};
_Static_assert(sizeof(struct tcp_frame) == 64, "the format of the wire");

struct tcp_region {
    struct tcp_endpoint *endpoint;
    char *base;
    size_t bytes;
    uint64_t key; /* salt in the upper half, slot + 1 in the lower */
};

/* A get that we wait for. */
struct tcp_get {
    struct tcp_peer *peer; /* NULL: free */
    uint64_t number;
    char *local;
    size_t left;
};

/* A get that a peer waits for. */
struct tcp_wanted {
    uint32_t channel;
    uint64_t number, key, offset, left;
};

/* Whole frames, one behind the other. */
struct tcp_queue {
    char *frames;
    size_t bytes, room;
};

/* One connection as connect made it. Under its link's send_lock. */
struct tcp_peer {
    struct tcp_link *link; /* fixed */
    struct tcp_peer *next; /* of the link's */
    uint32_t channel;
    struct thrum_fabric_put put; /* accepted, and not yet wholly in frames if `unfinished` */
    bool unfinished, asks; /* asks: its first frame asks whether it is good */
    unsigned unanswered; /* such questions */
    unsigned gets;
    thrum_status_t status; /* first error that somebody was told of, or that the other side told */
    char message[TCP_TEXT_BYTES];
};

struct tcp_link {
    struct tcp_endpoint *endpoint;
    int fd;
    uint8_t id[TCP_ID_BYTES]; /* of the other endpoint */
    char name[96]; /* for messages: process, host, address, interface */

    /* Under the endpoint's lock. */
    struct tcp_link *next;
    bool ended; /* nothing more comes */
    int64_t since_ns; /* when it was made */
    int64_t silent_since_ns; /* when something had come back last, at a look; */
    unsigned repeats; /* and how often something had been sent again then */
    struct tcp_frame in; /* whose payload is being received, while in_left */
    size_t in_done, in_left;
    bool in_dropped; /* its payload goes nowhere */
    char text[TCP_TEXT_BYTES]; /* payload of an error */
    size_t stage_from, stage_to; /* what of `stage` is not looked at yet */
    char *stage;
    struct tcp_wanted wanted[TCP_GETS]; /* oldest at first_wanted */
    unsigned first_wanted, nwanted;
    uint32_t refused[TCP_REFUSED]; /* channels of which nothing more is taken */
    unsigned nrefused;

    /* Under send_lock. */
    pthread_mutex_t send_lock;
    struct tcp_peer *peers, *turn; /* turn: whose put goes on next; NULL: the first's */
    uint32_t next_channel;
    struct tcp_frame out; /* the frame that is being sent, while out_left */
    size_t out_head; /* bytes of its header that are not sent */
    size_t out_left; /* and with them, of header and payload */
    const char *out_data;
    struct tcp_peer *out_peer; /* whose memory out_data is; NULL: `copy` */
    char *copy; /* TCP_SEGMENT_BYTES; NULL until it is needed */
    struct tcp_queue queue,
        queue_out; /* go before any put's next frame; and what of it `out` holds */
    unsigned nunfinished; /* peers */
    unsigned row; /* puts, each soon after one before, with hardly any progress between */
    unsigned row_looks; /* the endpoint's, at the last of them */
    struct keys known; /* of the peer's regions, and how long they are: */
    uint64_t known_bytes[KEYS_REMEMBERED];
    struct tcp_get gets[TCP_GETS];
    uint64_t next_get;
    thrum_status_t status; /* why nothing can be sent any more */
    char message[TCP_TEXT_BYTES];

    _Atomic bool
        busy; /* there is something to send, and the epoll descriptor tells of room; written under send_lock */
    _Atomic bool held; /* else: `queue` waits for more to go with it; written under send_lock */
};

/* Somebody who has called and not yet said who it is. The service thread's. */
struct tcp_caller;

/* An endpoint that is being called right now, by a thread in connect. */
struct tcp_call {
    struct tcp_call *next;
    const uint8_t *id;
};

struct tcp_endpoint {
    pthread_mutex_t lock; /* up to `changed`, and what the links say */
    struct tcp_link *links;
    struct tcp_call *calls;
    unsigned nwanted; /* of all links */
    struct tcp_region **regions; /* by slot; NULL: free */
    size_t slots, free_slot; /* none is free below free_slot */
    uint32_t key_salt, first_salt; /* of the newest region; before the first */
    struct thrum_fabric_event events[TCP_EVENTS];
    size_t nevents;
    pthread_cond_t changed; /* links or calls did */

    _Atomic bool has_events;
    _Atomic unsigned rounds,
        waited; /* of progress and puts; and how many there were when wait_fd was called */
    _Atomic unsigned nlinks; /* written under lock */
    _Atomic unsigned nheld, nbusy; /* links that are */
    _Atomic unsigned looks; /* by progress; written under lock */
    _Atomic int64_t row_ns; /* when the newest put was done */
    _Atomic bool alarmed; /* the alarm is set, and not heard yet */

    /* Set once by open. */
    struct tcp_address address;
    struct tcp_interface interfaces[TCP_CANDIDATES]; /* those of the address, each once */
    unsigned ninterfaces;
    bool chosen; /* the user said which interface */
    int connect_ms, timeout_ms, buffer_bytes, hold_us;
    int listen_fd, epoll_fd, stop_fd, watch_fd;
    int alarm_fd; /* a timer, for what is held; -1: nothing is */
    pthread_t service;
    bool has_service;

    /* The service thread's own. */
    struct tcp_caller *callers;
    unsigned ncallers;
    int spare_fd; /* given up for a moment to refuse a caller when descriptors have run out */
    bool up[TCP_CANDIDATES]; /* of `interfaces` */
};

/* The first words on a connection: of the side that called, and the answer. */
struct tcp_hello {
    uint32_t magic, version;
    uint8_t token[TCP_ID_BYTES]; /* of the endpoint that is called */
    uint8_t id[TCP_ID_BYTES]; /* of the one that calls */
    int32_t pid;
    uint32_t reserved;
    char host[16];
};

enum tcp_verdict {
    TCP_TAKEN = 1, /* this connection is the link */
    TCP_CROSSED, /* both called, and the other connection is */
    TCP_REJECTED /* for the reason in `text` */
};

struct tcp_welcome {
    uint32_t magic, version;
    uint8_t id[TCP_ID_BYTES]; /* of the endpoint that was called, which only it knows */
    int32_t verdict, status;
    char text[96];
};

/* Somebody is at it: see wait_fd. Some that are at it at once may count as one. */
static inline void tcp_note_round(struct tcp_endpoint *endpoint)
{
    unsigned rounds = atomic_load_explicit(&endpoint->rounds, memory_order_relaxed);

    atomic_store_explicit(&endpoint->rounds, rounds + 1, memory_order_relaxed);
}

/* tcp.c */
/* Adds strerror(errno), and which limit to raise if that is what is missing. */
thrum_status_t tcp_fail_errno(thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The bytes at [offset, +bytes) of a registered region; NULL if there are no such. Under the endpoint's lock. */
char *tcp_region_find(const struct tcp_endpoint *endpoint, uint64_t key, uint64_t offset,
                      uint64_t bytes);
uint64_t tcp_region_bytes(const struct tcp_endpoint *endpoint, uint64_t key); /* 0: there is none */
/* Under the endpoint's lock. */
void tcp_event_keep(struct tcp_endpoint *endpoint, enum thrum_fabric_event_kind kind, uint32_t port,
                    const char *text);
bool tcp_progress_locked(struct tcp_endpoint *endpoint);

/* interfaces.c */
/* `choice`: names, addresses and subnets between commas; where an interface has several addresses those come first. */
thrum_status_t tcp_interfaces_find(const char *choice, struct tcp_interfaces *out);
thrum_status_t tcp_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out);
/* The best interfaces, or those that `device` or THRUM_TCP_INTERFACE name; into address and endpoint. */
thrum_status_t tcp_interfaces_choose(struct tcp_endpoint *endpoint, const char *device);
thrum_status_t tcp_reaches(const struct thrum_fabric_address *from,
                           const struct thrum_fabric_address *to);
/* Whether 127.0.0.1 is the same for both; false where that cannot be told. */
bool tcp_same_network(const struct tcp_address *a, const struct tcp_address *b);
/* A socket address of a candidate; port 0: none. */
socklen_t tcp_socket_address(const struct tcp_candidate *candidate, uint16_t port,
                             struct sockaddr_storage *out);
void tcp_candidate_text(const struct tcp_candidate *candidate, char *text, size_t bytes);
bool tcp_same_subnet(const struct tcp_candidate *a, const struct tcp_candidate *b);

/* listen.c */
thrum_status_t tcp_listen(struct tcp_endpoint *endpoint);
void tcp_stop_listening(struct tcp_endpoint *endpoint);
void tcp_socket_tune(const struct tcp_endpoint *endpoint, int fd);

/* link.c */
thrum_status_t tcp_connect(void *endpoint, const struct thrum_fabric_address *address,
                           void **peer_out);
void tcp_disconnect(void *peer);
/* Takes over `fd`, if it succeeds. Under the endpoint's lock. */
thrum_status_t tcp_link_add(struct tcp_endpoint *endpoint, int fd, const uint8_t *id, int32_t pid,
                            const char *host, struct tcp_link **link_out);
/* The link to that endpoint; NULL: there is none that works. Under the endpoint's lock. */
struct tcp_link *tcp_link_find(const struct tcp_endpoint *endpoint, const uint8_t *id);
/* Nothing more comes on it, because of `error` (0: its end). Under the endpoint's lock. */
void tcp_link_end(struct tcp_link *link, int error);
/* All work on a link is done for, with this reason; keeps the first. Under send_lock. */
void tcp_link_fail(struct tcp_link *link, thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
thrum_status_t tcp_status_of(int error);
void tcp_link_free(struct tcp_link *link);
/*
 * Before links are closed: until all that they accepted is at the other sides, for a second at most. What is closed with
 * bytes unread is reset, and drops its own.
 */
void tcp_linger(const struct tcp_endpoint *endpoint);

/* send.c; _locked: under the link's send_lock. */
thrum_status_t tcp_put_signal(void *peer, const struct thrum_fabric_put *put);
thrum_status_t tcp_get(void *peer, void *local, void *local_region, size_t bytes,
                       uint64_t remote_key, uint64_t remote_offset);
thrum_status_t tcp_flush(void *peer);
thrum_status_t tcp_peer_error(void *peer, const char **message_out);
/* Goes on with what waits, and sends what is held. True if something moved. */
bool tcp_send_locked(struct tcp_link *link);
/* Sends what is held on any link. Under the endpoint's lock. True if something moved. */
bool tcp_send_held(struct tcp_endpoint *endpoint);
/* Sets `busy`. */
void tcp_mark_busy_locked(struct tcp_link *link, bool busy);
/* Nothing is held on the link any more. */
void tcp_unhold_locked(struct tcp_link *link);
/* A frame that goes before any put's next one; it is copied. */
void tcp_queue_locked(struct tcp_link *link, const struct tcp_frame *frame, const void *payload);
/* The peer's work is dropped; what of it has begun to go out goes on without its memory. */
void tcp_drop_locked(struct tcp_peer *peer);

/* receive.c; under the endpoint's lock. True if something moved. */
bool tcp_receive(struct tcp_link *link);
/* Goes on with answers to gets. */
bool tcp_answer_gets(struct tcp_link *link);

#endif
