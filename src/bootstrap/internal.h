/*
 * What the files of bootstrap share: addresses and ids, the tree, connections that prove the secret, frames.
 * Wire format: docs/bootstrap.md. Nothing here is used outside this folder.
 *
 * Nothing of this blocks except where a comment says so: every socket is non-blocking and served with poll.
 */
#ifndef BOOTSTRAP_INTERNAL_H
#define BOOTSTRAP_INTERNAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/base.h"
#include "bootstrap/bootstrap.h"

#define BOOT_VERSION 2
#define BOOT_SECRET_BYTES 32
#define BOOT_NONCE_BYTES 32
#define BOOT_PROOF_BYTES 32
#define BOOT_TREE_WIDTH 8
#define BOOT_LINKS (BOOT_TREE_WIDTH + 1) /* parent first, then children */
#define BOOT_MAX_RANKS (1 << 20)
#define BOOT_MESSAGE_BYTES 512 /* text of a failure, with its zero */
#define BOOT_ADDRESS_TEXT 64
#define BOOT_FRAME_MAX 32768 /* payload of a frame between ranks */
#define BOOT_ROOT_FRAME_MAX 1024 /* payload of a frame from or to the root service */
#define BOOT_OUT_BYTES (16u << 20)
#define BOOT_SHAKE_TIMEOUT_NS \
    5000000000LL /* a connection that has not proved the secret by then is closed */
#define BOOT_LINGER_NS 100000000LL /* at most this long to hand over last words when closing */
#define MS_NS 1000000LL

/* ---- ids and addresses: id.c, net.c ---- */

struct boot_address {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
};

enum {
    BOOT_ID_DERIVED = 1,
    /* both sides made it from a shared secret */ BOOT_ID_NAMED = 2, /* host given by name */
    BOOT_ID_EARLY = 4, /* who has it may come while its port still serves another id */
    BOOT_ID_KEPT = 8, /* its port listens as long as the rank lives whose place it is (meeting.c) */
    BOOT_ID_AWAITED = 16 /* who comes when its port serves another id comes too late */
};

struct boot_id {
    struct boot_address address;
    uint8_t secret[BOOT_SECRET_BYTES];
    unsigned flags;
};

void boot_id_encode(const struct boot_id *id, struct thrum_unique_id *out);
thrum_status_t boot_id_decode(const struct thrum_unique_id *in, struct boot_id *out);

socklen_t boot_address_length(const struct boot_address *address);
uint16_t boot_address_port(const struct boot_address *address);
void boot_address_set_port(struct boot_address *address, uint16_t port);
bool boot_address_is_loopback(const struct boot_address *address);
/* "192.0.2.1:5000" or "[2001:db8::1]:5000"; text has BOOT_ADDRESS_TEXT bytes. Returns text. */
const char *boot_address_text(const struct boot_address *address, char *text);
#define BOOT_ADDRESS_WIRE 20
void boot_address_put(const struct boot_address *address, uint8_t *wire);
bool boot_address_get(const uint8_t *wire, struct boot_address *out);
/* Splits and resolves "host:port"; may block in the resolver. *named_out: the host was not a literal address. */
thrum_status_t boot_address_resolve(const char *host_port, struct boot_address *out,
                                    bool *named_out);
/* Address of THRUM_BOOTSTRAP_INTERFACE, or of the first interface that is up, or loopback; port 0. */
thrum_status_t boot_address_choose(struct boot_address *out);
/* True if the address belongs to this host. */
bool boot_address_is_local(const struct boot_address *address);

/* A listening socket on *address (port 0: any; filled in). BUSY if the port is taken. */
thrum_status_t boot_listen(struct boot_address *address, bool any_interface, int *fd_out);
/* Failure of a call that makes a descriptor: LIMIT naming RLIMIT_NOFILE, or SYSTEM. */
thrum_status_t boot_fail_descriptor(int error, const char *what);

/* ---- the tree: tree.c ---- */

/* Ranks numbered in preorder, so that the subtree of a rank is [rank, end). */
struct boot_tree {
    int rank, nranks, end;
    int parent; /* -1 at rank 0 */
    int depth;
    int nchildren;
    int child[BOOT_TREE_WIDTH], child_end[BOOT_TREE_WIDTH];
};
void boot_tree_make(int rank, int nranks, struct boot_tree *out);

/* ---- connections: conn.c, handshake.c ---- */

enum boot_role { BOOT_ROLE_ROOT = 1, BOOT_ROLE_TREE = 2 };

/* What a connecting rank says about itself; part of what both sides MAC. */
struct boot_hello {
    enum boot_role role;
    int rank, target, nranks; /* target: rank that it wants to reach; -1 the root service */
};

enum boot_shake {
    SHAKE_CONNECTING,
    SHAKE_WAIT_HELLO,
    SHAKE_WAIT_CHALLENGE,
    SHAKE_WAIT_PROOF,
    SHAKE_WAIT_VERDICT,
    SHAKE_DONE
};

#define BOOT_HELLO_BYTES (8 + 12 + BOOT_NONCE_BYTES)
#define BOOT_CHALLENGE_BYTES (8 + BOOT_NONCE_BYTES)
#define BOOT_VERDICT_BYTES (8 + BOOT_PROOF_BYTES)
#define BOOT_TRANSCRIPT_BYTES (BOOT_HELLO_BYTES + BOOT_CHALLENGE_BYTES)

struct boot_buffer {
    uint8_t *data;
    size_t capacity, begin, end;
};

enum boot_frame_type {
    FRAME_REGISTER =
        1, /* rank to root service: where it listens, how long it still waits and waits in all */
    FRAME_PARENT, /* root service to rank: where its parent listens */
    FRAME_READY, /* rank to root service: parent and children are connected */
    FRAME_GO, /* root service to rank: all are ready */
    FRAME_FAIL, /* status, culprit, text */
    FRAME_DATA, /* allgather */
    FRAME_GOODBYE, /* closing on purpose; the last collective, or "early": before control_start */
    FRAME_QUERY_UP,
    FRAME_QUERY_DOWN,
    FRAME_QUERY_WAIT,
    FRAME_ANSWER,
    FRAME_RECORDS,
    FRAME_FINAL_UP,
    FRAME_FINAL_DOWN,
    FRAME_EXCHANGE_UP,
    FRAME_EXCHANGE_DOWN,
    FRAME_EXCHANGE_FAIL,
    FRAME_MEET, /* survivors.c: which call this is; whether the sender comes, or asks; its patience */
    FRAME_SURVIVORS, /* survivors.c: a bit for each rank */
    FRAME_TYPES
};

#define BOOT_MEET_BYTES 24

struct boot_frame {
    enum boot_frame_type type;
    const uint8_t *payload; /* in the connection's buffer until boot_conn_pop */
    size_t bytes;
};

/* One TCP connection. Owned by one thread at a time. */
struct boot_conn {
    int fd; /* -1: none */
    enum boot_shake shake;
    bool
        ended; /* the peer has closed, or the connection broke; frames read before are still there */
    int error; /* errno of the break, 0: orderly */
    struct boot_hello hello; /* ours as client; the peer's as server, true once SHAKE_DONE */
    struct boot_address peer;
    int64_t since_ns; /* when it was opened */
    size_t frame_max, out_most; /* payload of a frame that comes; bytes that may wait to be sent */
    struct boot_buffer in, out;
    uint8_t transcript[BOOT_TRANSCRIPT_BYTES];
    uint8_t send_key[32], receive_key[32];
    uint64_t sent, received; /* frames */
    bool is_discreet; /* as the door */
    bool peeked; /* the frame at the front of `in` has been verified */
};

void boot_conn_init(struct boot_conn *conn);
/* Starts connecting as a client. */
thrum_status_t boot_conn_open(struct boot_conn *conn, const struct boot_address *address,
                              const struct boot_hello *hello, size_t frame_max);
/* Takes over an accepted socket. */
void boot_conn_accepted(struct boot_conn *conn, int fd, const struct boot_address *peer,
                        size_t frame_max);
void boot_conn_close(struct boot_conn *conn);
short boot_conn_events(const struct boot_conn *conn);
/* Reads and writes what goes without waiting. Never fails: see ended. */
void boot_conn_io(struct boot_conn *conn);
bool boot_conn_flushed(const struct boot_conn *conn);
size_t boot_conn_pending(const struct boot_conn *conn);
/*
 * One step of the handshake with what has arrived. OK: done. IN_PROGRESS. AUTH, PROTOCOL: the peer is not one of us,
 * or says that we are not. UNREACHABLE: the connection ended. Silent: no thrum_fail, since a stranger is no error.
 */
thrum_status_t boot_conn_handshake(struct boot_conn *conn, const uint8_t *secret);
/* Queues a frame and writes what goes. NO_MEMORY if too much is queued already. */
thrum_status_t boot_conn_send(struct boot_conn *conn, enum boot_frame_type type, const void *head,
                              size_t head_bytes, const void *body, size_t body_bytes);
/* The first frame that has arrived, left in place. IN_PROGRESS: none. PROTOCOL: malformed or forged. */
thrum_status_t boot_conn_peek(struct boot_conn *conn, struct boot_frame *frame_out);
void boot_conn_pop(struct boot_conn *conn);
/* For tests: bytes that go out as they are. */
bool boot_buffer_append(struct boot_buffer *buffer, const void *data, size_t bytes, size_t limit);

void boot_put_u32(uint8_t *wire, uint32_t value);
void boot_put_u64(uint8_t *wire, uint64_t value);
uint32_t boot_get_u32(const uint8_t *wire);
uint64_t boot_get_u64(const uint8_t *wire);

/* ---- failures on the wire: conn.c ---- */

struct boot_failure {
    thrum_status_t status; /* THRUM_OK: none */
    int rank; /* culprit, -1 unknown */
    char message[BOOT_MESSAGE_BYTES];
};
void boot_failure_set(struct boot_failure *failure, thrum_status_t status, int rank,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
void boot_send_failure(struct boot_conn *conn, const struct boot_failure *failure);
bool boot_get_failure(const struct boot_frame *frame, struct boot_failure *out);
/* Writes what is queued, half-closes, and reads until the peers close, for at most BOOT_LINGER_NS; then closes. */
void boot_conns_linger(struct boot_conn *conns, int n);

/* ---- connections that are tried until they stand: caller.c ---- */

#define BOOT_DESERTED_NS (2000 * MS_NS)
struct pollfd;

struct boot_caller {
    struct boot_conn conn;
    struct boot_address address;
    struct boot_hello hello;
    size_t frame_max;
    bool wanted, up;
    bool is_patient; /* the port may be there long before somebody answers */
    int64_t next_try, backoff;
    int64_t first_refusal; /* when AUTH was met first; 0 never. join.c */
    int64_t deserted; /* since when nobody listens there; 0: somebody may */
    int last_error; /* errno of the last attempt; 0: none, or a handshake that took too long */
};
/* OK: it stands since just now. IN_PROGRESS. AUTH and PROTOCOL as the peer said. Else a local error. */
thrum_status_t boot_caller_step(struct boot_caller *caller, const uint8_t *secret, int64_t now);
/* Closes the connection, which has failed or ended; it is tried again after a pause. */
void boot_caller_retry(struct boot_caller *caller, int64_t now);
/* Appends what is to be polled, and brings *due forward. */
void boot_caller_poll(const struct boot_caller *caller, struct pollfd *fds, int *n, int64_t *due);

/* ---- accepting: accept.c ---- */

/* Connections that have not proved the secret yet: bounded in number and in time. */
#define BOOT_STRANGERS 256
struct boot_door {
    int fd; /* listening socket, -1 closed */
    struct boot_conn *strangers[BOOT_STRANGERS];
    int nstrangers, most; /* most: how many at once */
    size_t frame_max;
    bool
        is_discreet; /* who knows another secret is not told so: what he comes for may be served later */
    int64_t shut_until; /* no accept before: the table is full, or descriptors have run out */
    int error; /* errno of the last failed accept for want of descriptors; 0 none */
};
void boot_door_open(struct boot_door *door, int fd, int most, size_t frame_max);
void boot_door_close(struct boot_door *door);
/* Appends what is to be polled; returns how many. fds has room for most + 1. */
int boot_door_poll(const struct boot_door *door, struct pollfd *fds, int64_t now);
/* When something has to happen without an event. */
int64_t boot_door_due(const struct boot_door *door);
/* Accepts, shakes hands, and closes who is late. Returns a connection that has proved the secret (now the caller's,
 * from malloc), or NULL when there is none left. */
struct boot_conn *boot_door_next(struct boot_door *door, const uint8_t *secret, int64_t now);

/* ---- the root service: root.c ---- */

thrum_status_t boot_root_start(const struct boot_id *id, int listen_fd);
/*
 * The same for ranks of which the first `nplaces` have kept places (copied): one that has not come and whose place is gone has
 * died, and is not waited for.
 */
thrum_status_t boot_root_start_watching(const struct boot_id *id, int listen_fd,
                                        const uint8_t *places, int nplaces);
/* Only tells survivors' meetings, up to `number`, that they come too late; until boot_root_clear or
 * boot_root_end_notice. */
thrum_status_t boot_root_start_notice(const struct boot_id *id, int listen_fd, uint64_t number,
                                      const struct boot_failure *failure);
/* errno where the service of this id, in this process, could not accept for want of descriptors; else 0. */
int boot_root_accept_error(const struct boot_id *id);
/* Waits a little for the service of this id to end, if it runs in this process and is about to. */
void boot_root_settle(const struct boot_id *id);
/* A claimant that cannot be let in: told why, then closed and freed. */
void boot_refuse(struct boot_conn *conn, const struct boot_failure *failure);
/* A rank of the service's own process that cannot join: the others, of `nranks`, are told until `until`. nranks 0: the
 * service ends at once. */
struct boot_giving_up {
    struct boot_failure failure;
    int nranks;
    int64_t until;
};
/* No effect if the service is not in this process, or has ended or failed already. */
void boot_root_give_up(const struct boot_id *id, const struct boot_giving_up *what);
/* Services at this address that have failed end, and with `notices` those of boot_root_start_notice. */
void boot_root_clear(const struct boot_address *address, bool notices);
void boot_root_end_notice(const struct boot_address *address, uint64_t number);
/* Waits until none of this process listens at the address any more, or until `until`. */
void boot_root_await_clear(const struct boot_address *address, int64_t until);
/* As bootstrap_withdraw, with what to tell those who wait. */
void boot_withdraw(const struct thrum_unique_id *id, thrum_status_t status, const char *why);
/* Starts a thread with all signals blocked. */
int boot_thread_start(void *(*main)(void *), void *argument, bool detached, uint64_t *thread_out);

/* A descriptor of its own for who serves at a place that is kept: meeting.c. */
thrum_status_t boot_share_place(int fd, int *fd_out);

/* ---- a joined rank: join.c, allgather.c ---- */

/* Owned by the thread that calls bootstrap_*; control_start takes the links away. */
struct bootstrap {
    struct boot_tree tree;
    struct boot_conn links[BOOT_LINKS]; /* 0 the parent, 1 .. children */
    int64_t deadline;
    int64_t deadline_ms;
    uint32_t step;
    uint8_t seal_key[BOOT_SECRET_BYTES]; /* from the secret, for control_seal_id */
    bool handed_over; /* the links belong to the control plane */
    struct boot_failure failure;
};
/* Rank at the other end of links[i]. */
static inline int boot_link_rank(const struct boot_tree *tree, int i)
{
    return i ? tree->child[i - 1] : tree->parent;
}
/* poll timeout in ms, rounded up, for a point in time; 0 if it has passed. */
int boot_poll_ms(int64_t due, int64_t now);

#endif
