/*
 * Inside of the verbs fabric: puts by RDMA writes through libibverbs, on InfiniBand and RoCE v2 ports. A shared object:
 * thrum-fabric-verbs.so.
 *
 *   verbs.c     the table; endpoints, progress
 *   device.c    devices and ports: which can serve and why not, GIDs, settings
 *   region.c    registered memory, and the directory in which peers look up what a key means
 *   control.c   the service thread: control messages and events of devices; the receiving side of connections
 *   peer.c      connections as their sender sees them: lanes made on demand, errors
 *   put.c       put, get, flush: how they enter the ring of a connection's operations
 *   send.c      that ring: what is posted where, and what its completion means
 *   failover.c  a lane that failed: fence, replay on another one, its return
 *   closer.c    a thread that destroys queue pairs, which may take long
 *
 * A connection has one direction and one or more lanes: pairs of queue pairs, over one or more ports. Its work is a ring
 * of operations in order. All signals, and the data of small puts, go over one lane, the primary: RC queue pairs execute
 * writes in order, so data is there before its signal. A large put is cut into pieces that any lane takes; each piece is
 * followed by a small read on its own queue pair. The answer of that read proves that the piece is in memory (a read is
 * executed after the writes before it, and on a PCIe bus it pushes them out), which the acknowledgement of a write, seen
 * from another queue pair or adapter, does not. When all reads are answered the signal goes.
 *
 * Each signal is preceded by a write of its number into a word that the receiver keeps for this connection. When the
 * primary fails, the receiver first resets its queue pair (a fence: nothing of the old one can arrive any more), then
 * says that number, A. What came before signal A is in place and has been signalled; the
 * data of signal A is in place, the signal itself is written again, which is the same word with the same value; nothing
 * behind A has been signalled, so it is sent again. Hence no put is lost, and no data is written after its signal. A connection with one
 * lane waits for this answer until its port leads there again, and goes on when the lane is made anew.
 *
 * Locks: endpoint->lock, and then mail_lock, which nobody holds for long. The service thread never takes the former: a
 * thread that waits for data has it most of the time, and might have it for very long (pthread's locks are not fair).
 */
#ifndef VERBS_H
#define VERBS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <infiniband/verbs.h>

#include <thrum/fabric_plugin.h>
#include <thrum/plugin.h>

#include "../common/keys.h"
#include "../common/limit.h"
#include "../common/process.h"
#include "base/base.h"

#define VERBS_MAGIC 0x3253424556524854u /* "THRVEBS2": plugin and version */
#define VERBS_PORTS 4
#define VERBS_LANES 8
#define VERBS_REGIONS 8192 /* entries of the directory */
#define VERBS_INBOUND 4096 /* connections to one endpoint */
#define VERBS_INLINE_BYTES 4096
#define VERBS_SMALL_BYTES 64 /* inline in a work request */
#define VERBS_SLOTS 128 /* of VERBS_INLINE_BYTES */
#define VERBS_OPS 256 /* of a connection, in order */
#define VERBS_DEPTH 512 /* work requests of a lane */
#define VERBS_PIECES 4 /* of large puts, on their way on one lane */
#define VERBS_READS \
    16 /* outstanding reads of a queue pair, at most: both adapters have limits, too */
#define VERBS_REPLAYS 16 /* of the same operation; then it is not the lanes' fault */
#define VERBS_EVENTS 64
#define VERBS_ANSWERS 64
#define VERBS_CONTROL_RECEIVES 64 /* posted on each port */
#define VERBS_CONTROL_SENDS 64 /* buffers of an endpoint, in turn */
#define VERBS_SCRATCH (VERBS_PORTS * VERBS_CONTROL_RECEIVES + VERBS_CONTROL_SENDS)
#define VERBS_CONTROL_BUFFERS (VERBS_SCRATCH + 1) /* the last one takes bytes that nobody wants */
#define VERBS_LEAST_PIECE ((uint64_t)64 << 10) /* of a put that goes over all lanes, but its last */
#define VERBS_MOST_PIECE ((uint64_t)1 << 20)
#define VERBS_TEXT_BYTES 256
#define VERBS_CONNECT_MS 15000

/* Settings, from the THRUM_VERBS_* rows. */
struct verbs_settings {
    int gid_index; /* -1: chosen */
    int family; /* of the GID: 4, 6, or 0: either */
    enum ibv_mtu mtu; /* 0: the port's */
    uint8_t traffic_class, retries, timeout, qps;
    uint64_t stripe_bytes;
    int64_t recovery_ns;
};

/* An opened RDMA device. */
struct verbs_device {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_mr *arena_mr;
    struct ibv_cq
        *passive_cq; /* of queue pairs that only receive writes: nothing completes there */
    uint8_t reads,
        served_reads; /* outstanding reads of a queue pair: its own, and the other end's */
    bool has_dmabuf, has_paging;
};

/* A port that is used. Control messages come and go by its UD queue pair. */
struct verbs_port {
    struct verbs_device *device;
    char name[IBV_SYSFS_NAME_MAX + 8]; /* "mlx5_0/1" */
    char address[48]; /* of the GID, as text */
    uint8_t number, gid_index, link_layer, prefix; /* prefix: length of the network's; 0: unknown */
    uint16_t lid;
    enum ibv_mtu mtu;
    uint64_t max_message;
    union ibv_gid gid;
    _Atomic bool up;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *ud;
};

/* A port in an address. */
struct verbs_port_address {
    uint8_t gid[16];
    uint32_t qpn; /* UD */
    uint16_t lid;
    uint8_t prefix, link_layer;
};

/* The bytes of a fabric address. */
struct verbs_address {
    uint64_t magic;
    uint64_t token; /* control messages must bring it */
    uint64_t boot; /* hash of boot id and pid namespace: says whether `pid` means something here */
    int32_t pid;
    uint8_t nports, up; /* up: bits, ports that were when it was opened */
    uint8_t unused[2];
    char host[16];
    struct verbs_port_address ports[VERBS_PORTS];
};
_Static_assert(sizeof(struct verbs_address) <= THRUM_FABRIC_ADDRESS_BYTES, "fits");

/* One registered region, as peers read it. A half-written entry does not match its check. */
struct verbs_entry {
    uint64_t key; /* of this fabric; 0: free */
    uint64_t base, bytes; /* what remote addresses begin at */
    uint32_t rkey[VERBS_PORTS];
    uint64_t check;
};

struct verbs_region {
    struct ibv_mr *mr[VERBS_PORTS]; /* by device */
    uint32_t lkey[VERBS_PORTS]; /* by port */
    char *base;
    size_t bytes;
    uint32_t slot; /* in the directory */
};

/* ---- control messages ---- */

enum verbs_message_kind {
    VERBS_HELLO = 1, /* make a lane, or make it anew */
    VERBS_WELCOME,
    VERBS_REFUSED, /* with the reason in `text` */
    VERBS_FENCE, /* let nothing in by this lane any more */
    VERBS_FENCED, /* `number` of the last signal */
    VERBS_BYE
};

struct verbs_message {
    uint64_t magic,
        token; /* token: of an endpoint in a request, the sender's endpoint's in an answer */
    uint64_t connection, from_token;
    uint32_t kind, lane, attempt, by; /* by: lane whose way the answer takes */
    uint32_t qpn, psn, ud_qpn;
    uint8_t port, mtu; /* port: index of the one of the receiver of a request */
    uint16_t lid;
    uint8_t reads, reserved[7]; /* outstanding at once: what is asked for, and what is granted */
    uint8_t gid[16];
    uint64_t directory, words; /* addresses */
    uint32_t arena_rkey[VERBS_PORTS]; /* by port */
    uint64_t number;
    char text[48];
};
_Static_assert(sizeof(struct verbs_message) <= 256 - 40, "fits the smallest MTU with its header");

/* The receiving side of a connection. The service thread's. */
struct verbs_inbound_lane {
    struct ibv_qp *qp; /* NULL: fenced */
    struct ibv_ah *ah;
    uint32_t attempt, fenced;
    uint32_t ud_qpn;
    uint8_t port;
    struct verbs_message answer; /* to HELLO, as it may come again */
};

struct verbs_inbound {
    struct verbs_inbound *next;
    uint64_t connection;
    uint32_t word; /* in the arena: number of the last signal */
    struct verbs_inbound_lane lanes[VERBS_LANES];
};

/* ---- connections ---- */

enum verbs_kind { VERBS_PUT = 1, VERBS_GET };

struct verbs_op {
    uint8_t kind, small_bytes;
    bool striped; /* data goes by any lane, in pieces */
    bool cleared; /* and may do so before the ops in front of it */
    bool data_done; /* only the signal is left to do */
    bool posted; /* by the primary; `mark` says up to where */
    bool copied; /* local is `small` or a slot */
    char *local;
    struct verbs_region *region;
    void *slot;
    uint64_t bytes, remote;
    uint64_t handed, safe; /* bytes of a striped put: given to lanes, and proved to be there */
    uint32_t rkey[VERBS_PORTS], signal_rkey[VERBS_PORTS];
    uint64_t signal; /* remote address; 0: none */
    uint64_t value;
    uint64_t number; /* of its signal, or of the one that follows it */
    uint64_t mark; /* count of the primary's work requests with its last one */
    char small[VERBS_SMALL_BYTES];
};

struct verbs_piece {
    uint64_t op; /* index in order */
    uint64_t offset, bytes;
    uint64_t mark;
};

enum verbs_lane_state {
    LANE_DOWN, /* no queue pair; tried again */
    LANE_HELLO, /* waits for an answer */
    LANE_UP,
    LANE_FENCE /* failed; waits until the receiver has fenced it */
};

struct verbs_lane {
    enum verbs_lane_state state;
    uint8_t port, remote_port; /* indices */
    bool refused; /* by the peer; `why` says */
    struct ibv_qp *qp;
    struct ibv_cq *cq;
    uint32_t attempt, psn;
    uint64_t posted, completed; /* work requests; completed: all up to here */
    uint64_t asked; /* the last one that will report */
    struct verbs_piece pieces[VERBS_PIECES]; /* in order */
    unsigned npieces;
    int64_t retry_ns, began_ns, sent_ns, repeat_ns, pause_ns;
    struct verbs_message answer; /* kind 0: none */
    uint32_t arena_rkey;
    char why[96]; /* it is not up */
};

struct verbs_peer {
    struct verbs_endpoint *endpoint;
    struct verbs_peer *next;
    struct verbs_address address;
    uint64_t connection; /* random; answers must bring it */
    char name[64];
    struct ibv_ah *ah[VERBS_LANES];
    struct verbs_lane lanes[VERBS_LANES];
    unsigned nlanes;
    int primary; /* -1: none is up, or the one before is not fenced yet */
    int fallen; /* lane that was the primary and is not fenced yet; -1: none */
    unsigned ways; /* bits: lanes that have been up, so the receiver can answer by them */
    unsigned next_way;
    bool unsettled; /* a lane is not up */
    uint64_t directory, word; /* remote addresses */
    /* The ring: [head, tail); before `cursor` the primary has it. */
    struct verbs_op *ops;
    uint64_t head, cursor, tail;
    uint64_t stripe; /* where the search for striped puts with pieces to give away begins */
    struct verbs_piece redo[VERBS_LANES * VERBS_PIECES];
    unsigned nredo;
    unsigned replays; /* since an operation ended */
    uint64_t number; /* of signals */
    struct keys keys; /* remembered; their entries: */
    struct verbs_entry entries[KEYS_REMEMBERED];
    uint64_t wanted; /* key that is being looked up; 0: none */
    struct verbs_entry *answer; /* slot where it arrives */
    bool looking;
    uint64_t look_mark;
    int pid_fd; /* readable when the process is gone; -1: it is not ours to watch */
    int64_t looked_ns;
    int64_t lost_ns; /* since when no lane is up; 0: one is */
    thrum_status_t status; /* first error */
    char message[VERBS_TEXT_BYTES];
};

/* What is to be destroyed, in this order. */
struct verbs_closing {
    struct verbs_closing *next;
    struct ibv_qp *qp;
    struct ibv_cq *cq;
    struct ibv_ah *ah;
};

struct verbs_closer {
    pthread_mutex_t lock; /* all that follows; nothing else is taken under it */
    pthread_cond_t changed;
    struct verbs_closing *first;
    pthread_t thread;
    bool has_thread, stop;
};

struct verbs_counters {
    uint64_t puts, signals, written, copied, striped, failovers;
};

struct verbs_endpoint {
    struct process_endpoint open;
    pthread_mutex_t lock; /* all that follows, and all of its peers */
    struct verbs_peer *peers;
    struct verbs_settings settings;
    struct verbs_device devices[VERBS_PORTS];
    unsigned ndevices;
    struct verbs_port ports[VERBS_PORTS]; /* fixed after open, but for `up` */
    unsigned nports;
    struct verbs_address address;
    struct verbs_counters counters;
    _Atomic uint32_t changes; /* of ports; peers look when it moves */
    uint32_t seen_changes;
    /* One allocation: directory, words of inbound connections, slots, control messages. */
    char *arena;
    size_t arena_bytes;
    struct verbs_entry *directory;
    uint64_t *words;
    struct verbs_region *regions[VERBS_REGIONS]; /* by directory slot */
    uint32_t regions_high, key_salt;
    uint16_t free_slots[VERBS_SLOTS];
    unsigned nfree;

    /* The service thread's, until it has ended. */
    struct verbs_inbound *inbound;
    uint8_t word_used[VERBS_INBOUND];
    bool warned;

    pthread_mutex_t mail_lock; /* what the service thread has for the others: */
    pthread_cond_t answered;
    struct verbs_message answers[VERBS_ANSWERS];
    struct thrum_fabric_event events[VERBS_EVENTS];
    unsigned nanswers, nevents;
    _Atomic bool has_answers, has_events;

    struct verbs_closer closer;
    _Atomic unsigned control_send; /* next buffer for a control message */
    pthread_t thread;
    bool has_thread;
    int stop_fd;
};

/* device.c */
thrum_status_t verbs_settings_read(struct verbs_settings *out);
thrum_status_t verbs_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out);
/* Opens the ports that `names` (comma-separated; NULL: the best) and the settings ask for. */
thrum_status_t verbs_ports_open(struct verbs_endpoint *endpoint, const char *names);
void verbs_ports_close(struct verbs_endpoint *endpoint);
void verbs_gid_text(const uint8_t gid[16], char text[48]);

/* region.c; slots under the endpoint's lock. */
thrum_status_t verbs_arena_create(struct verbs_endpoint *endpoint);
thrum_status_t verbs_arena_register(struct verbs_endpoint *endpoint);
void verbs_arena_destroy(struct verbs_endpoint *endpoint);
void *verbs_slot_take(struct verbs_endpoint *endpoint); /* NULL: none is free */
void verbs_slot_free(struct verbs_endpoint *endpoint, void *slot);
void *verbs_control_buffer(struct verbs_endpoint *endpoint, unsigned index);
thrum_status_t verbs_region_register(void *endpoint, void *cpu_base, size_t bytes,
                                     void **region_out, uint64_t *key_out);
thrum_status_t verbs_region_register_dmabuf(void *endpoint, int fd, uint64_t offset, size_t bytes,
                                            void **region_out, uint64_t *key_out);
void verbs_region_deregister(void *endpoint, void *region);
uint64_t verbs_entry_check(const struct verbs_entry *entry);
uint64_t verbs_random(void);

/* control.c */
thrum_status_t verbs_control_open(struct verbs_endpoint *endpoint);
void verbs_control_close(struct verbs_endpoint *endpoint);
/* Sends by port `port`. False: not now; it is like a lost datagram. */
bool verbs_control_send(struct verbs_endpoint *endpoint, unsigned port, struct ibv_ah *ah,
                        uint32_t qpn, const struct verbs_message *message);
/* NULL with errno where the way there cannot be found. May ask the network, for about a second. */
struct ibv_ah *verbs_way(struct verbs_endpoint *endpoint, unsigned port, const uint8_t gid[16],
                         uint16_t lid);
/* The way to a remote queue pair, as ibv_modify_qp and ibv_create_ah want it. */
struct ibv_ah_attr verbs_way_attr(const struct verbs_endpoint *endpoint, unsigned port,
                                  const uint8_t gid[16], uint16_t lid);
int verbs_qp_init(struct ibv_qp *qp, const struct verbs_port *port, int access);
/* Answers that came for this endpoint's connections, at most `max`. */
unsigned verbs_answers_take(struct verbs_endpoint *endpoint, struct verbs_message *out,
                            unsigned max);
/* Waits until there are some, or some milliseconds are over. */
void verbs_answers_wait(struct verbs_endpoint *endpoint, int64_t wait_ns);
size_t verbs_get_events(void *endpoint, struct thrum_fabric_event *events_out, size_t max);

/* peer.c */
thrum_status_t verbs_connect(void *endpoint, const struct thrum_fabric_address *address,
                             void **peer_out);
thrum_status_t verbs_reaches(const struct thrum_fabric_address *from,
                             const struct thrum_fabric_address *to);
void verbs_disconnect(void *peer);
thrum_status_t verbs_peer_error(void *peer, const char **message_out);
/* Sets the first error of a connection. Returns the one that it has. */
thrum_status_t verbs_peer_fail(struct verbs_peer *peer, thrum_status_t status, const char *format,
                               ...) __attribute__((format(printf, 3, 4)));
/* Gives the answers that have come to the lanes that wait for them. */
void verbs_peers_answered(struct verbs_endpoint *endpoint);
/* One step of whatever a lane waits for. True if something changed. */
bool verbs_lane_step(struct verbs_peer *peer, unsigned lane, int64_t now);
void verbs_lane_close(struct verbs_endpoint *endpoint, struct verbs_lane *lane);
/* Looks now and then whether the process is there. */
void verbs_peer_watch(struct verbs_peer *peer, int64_t now);

/* put.c */
thrum_status_t verbs_put_signal(void *peer, const struct thrum_fabric_put *put);
thrum_status_t verbs_get(void *peer, void *local, void *local_region, size_t bytes,
                         uint64_t remote_key, uint64_t remote_offset);
thrum_status_t verbs_flush(void *peer);
thrum_status_t verbs_flush_mark(void *peer, uint64_t *mark_inout);

/* send.c; under the endpoint's lock. True if something moved. */
bool verbs_send_locked(struct verbs_peer *peer);
/* Posts what can be posted. */
bool verbs_advance(struct verbs_peer *peer);
/* Has the work requests of the operations before `end` report, which may be silent. */
void verbs_report_ask(struct verbs_peer *peer, uint64_t end);
/* What `key` names at the peer, and whether [offset, +bytes) lies in it. IN_PROGRESS: it is being asked for. */
thrum_status_t verbs_key_resolve(struct verbs_peer *peer, uint64_t key, uint64_t offset,
                                 size_t bytes, const struct verbs_entry **out);
/* Takes what a lane's queue has to tell. */
bool verbs_lane_poll(struct verbs_peer *peer, unsigned lane);
static inline struct verbs_op *verbs_op(const struct verbs_peer *peer, uint64_t index)
{
    return &peer->ops[index % VERBS_OPS];
}

/* failover.c */
/* The lane is of no use any more: what it had goes to another one, or the connection fails. */
void verbs_lane_failed(struct verbs_peer *peer, unsigned lane, const char *why);
/* The receiver has fenced it, and says the number of the last signal. */
void verbs_lane_fenced(struct verbs_peer *peer, unsigned lane, uint64_t number);
/* Each lane's port and addresses, and how it is. */
void verbs_lanes_describe(const struct verbs_peer *peer, char *text, size_t bytes);
/* After a port of this side went or came, and now and then. True if something changed. */
bool verbs_peer_mend(struct verbs_peer *peer, int64_t now, bool ports_changed);

/* closer.c */
/* The queue pair stops at once; it, and then the others (each may be NULL), are destroyed by and by. */
void verbs_close_later(struct verbs_endpoint *endpoint, struct ibv_qp *qp, struct ibv_cq *cq,
                       struct ibv_ah *ah);
void verbs_closer_init(struct verbs_closer *closer);
/* Waits until all is destroyed. */
void verbs_closer_finish(struct verbs_closer *closer);

/* verbs.c */
bool verbs_progress_locked(struct verbs_endpoint *endpoint);
thrum_status_t verbs_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
