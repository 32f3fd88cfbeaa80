/*
 * bootstrap: how ranks find each other over TCP and prove the job's secret; allgather of small values over a tree;
 * then the same tree stays as the control plane that notices deaths and carries aborts and questions.
 * Called by comm. Wire format and protocol: docs/bootstrap.md.
 */
#ifndef BOOTSTRAP_BOOTSTRAP_H
#define BOOTSTRAP_BOOTSTRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/thrum.h>

/* ---- rendezvous ---- */

/* See thrum_get_unique_id. A thread serves the ranks until all of one communicator have joined, or exit. */
thrum_status_t bootstrap_make_id(struct thrum_unique_id *id_out);
/* The same for one of several at once, of which others may be on this host: any port if THRUM_BOOTSTRAP_PORT is taken. */
thrum_status_t bootstrap_make_id_of_part(struct thrum_unique_id *id_out);

/* Like bootstrap_make_id with a given address and secret (any bytes; hashed): both sides can derive the same id. */
thrum_status_t bootstrap_id_from(const char *host_port, const void *secret, size_t secret_bytes,
                                 struct thrum_unique_id *id_out);
/* Starts serving an id made by bootstrap_id_from, in the process of rank 0. BUSY if the port is taken. */
thrum_status_t bootstrap_serve(const struct thrum_unique_id *id);

/* Ends the service of an id made or served in this process that this process is not going to join; who waits is told
 * (ABORTED). After a failed bootstrap_join it is not needed. */
void bootstrap_withdraw(const struct thrum_unique_id *id);

struct bootstrap;

/* Joins; blocks until all are there or the deadline. Errors as thrum_comm_init_rank. */
thrum_status_t bootstrap_join(const struct thrum_unique_id *id, int rank, int nranks,
                              int64_t deadline_ms, struct bootstrap **bootstrap_out);
void bootstrap_close(struct bootstrap *bootstrap); /* takes NULL */

/* values: nranks x bytes; each rank has filled its own; afterwards all are. Collective; obeys the deadline. */
thrum_status_t bootstrap_allgather(struct bootstrap *bootstrap, void *values, size_t bytes);
thrum_status_t bootstrap_barrier(struct bootstrap *bootstrap);

/* ---- control plane ---- */

/* What a rank is doing, as the control plane reports it. Plain values, sent over the wire. */
struct call_record {
    uint64_t sequence; /* collectives called so far on the communicator, this one included */
    uint64_t count; /* v-variants: of all blocks */
    uint64_t
        detail; /* v-variants: sum of the counts, each times a number of its rank, see vector.c; else 0 */
    int32_t root; /* v-variants: hash of the displacements */
    uint16_t redop;
    uint8_t collective, dtype;
    uint8_t state; /* 0 never called, 1 called (pending), 2 this sequence is done; or of these: */
};
#define CONTROL_RECORD_LEFT 3 /* the rank has said goodbye; `sequence` was its last */
#define CONTROL_NEWEST INT64_MAX /* a sequence that is never called: asks for the newest one */

struct control;

enum control_trace {
    CONTROL_TRACE_ANNOUNCE, /* somebody new is told: who it is; record from now on */
    CONTROL_TRACE_ENDED, /* tell of operations that have ended, each once */
    CONTROL_TRACE_PENDING, /* tell of those that have not, as they are */
    CONTROL_TRACE_OFF /* record no more */
};

/*
 * Callbacks of the control plane, on its thread; they must not block or call control_stop.
 */
struct control_callbacks {
    /*
     * The communicator has failed: a rank died (PEER_DEAD), aborted (ABORTED), reported a mismatch, a fault, a
     * timeout. Called once, with the first cause that arrives, also on the rank that called control_fail. `rank` is
     * the culprit (-1 unknown).
     */
    void (*failed)(void *argument, thrum_status_t status, int rank, const char *message);
    /* Every tick_ms; now is now_ns(). */
    void (*tick)(void *argument, int64_t now);
    /* Fill in this rank's record for collective `sequence`. */
    void (*record)(void *argument, uint64_t sequence, struct call_record *record_out);
    /*
     * Answer to control_query, on the rank that asked: records[r].state is 0xff where rank r did not answer in time
     * (it is stopped, or its parent in the tree is); then records[r].root is the rank on the way to r that did not
     * answer: r itself, or one between.
     */
    void (*records)(void *argument, uint64_t sequence, const struct call_record *records,
                    int nranks);
    /*
     * For thrum-ras: the collective to ask the ranks about, and then a JSON object of the communicator, from malloc.
     * records: as above; NULL: they have not come in time. Both NULL: it has nothing to tell.
     */
    uint64_t (*question)(void *argument);
    char *(*describe)(void *argument, uint64_t sequence, const struct call_record *records,
                      int64_t now);
    /* Operations are to be recorded, or no more, or what was is to be told by control_trace. NULL: it has none. */
    void (*trace)(void *argument, enum control_trace what);
};

/*
 * In `trace`, and nowhere else: a frame of base/trace_format.h for everybody who is told. `type` is an enum trace_type; `bytes`
 * a multiple of 8.
 */
void control_trace(uint32_t type, const void *data, uint32_t bytes);

/* Turns the tree's connections into the control plane and starts its thread; bootstrap stays valid for allgather no
 * longer (only bootstrap_close). */
thrum_status_t control_start(struct bootstrap *bootstrap, const struct control_callbacks *callbacks,
                             void *argument, int tick_ms, struct control **control_out);
/* Tells every rank that the communicator has failed. Does not block; safe from any thread, also from callbacks. */
void control_fail(struct control *control, thrum_status_t status, int rank, const char *message);
/* Asks every rank for its record; the answer comes by callback within about 500 ms. From any thread. */
void control_query(struct control *control, uint64_t sequence);
/* Says goodbye, so that peers do not take the closing for a death, and joins the thread. Takes NULL. Never waits for
 * peers longer than 100 ms. */
void control_stop(struct control *control);
/* All ranks have called control_finalize, or the communicator has failed (returns its status), or deadline. */
thrum_status_t control_finalize(struct control *control, int64_t deadline_ms);

/* ---- exchanges: what ranks tell each other while the control plane runs ---- */

enum control_exchange_kind {
    EXCHANGE_SPLIT = 1,
    EXCHANGE_SPLIT_ID,
    EXCHANGE_REGISTER,
    EXCHANGE_DEREGISTER
};
#define CONTROL_EXCHANGE_BYTES 4096 /* of one rank, at most */

/*
 * Like bootstrap_allgather, on a running control plane: values is nranks x bytes; each rank has filled its own, afterwards
 * all are. Blocks, for left_ms at most; granted_ms is what that is left of, and what a message says. One thread at a time per control plane. `sequence` grows from call to call and is the same on all
 * ranks. Errors: TIMEOUT (names the ranks that have not come), PEER_DEAD (or left), MISMATCH (another kind of call),
 * the communicator's failure. After TIMEOUT and MISMATCH a rank that comes late gets the same error for this sequence,
 * and the next one is free to succeed.
 */
thrum_status_t control_exchange(struct control *control, enum control_exchange_kind kind,
                                uint64_t sequence, void *values, size_t bytes, int64_t left_ms,
                                int64_t granted_ms);

/*
 * An id, encrypted for the ranks of this communicator and nobody else, to be sent over its control plane, whose frames are
 * not. `purpose` is bound to it. PROTOCOL: not sealed so.
 */
#define CONTROL_SEALED_BYTES (24 + THRUM_UNIQUE_ID_BYTES + 16)
void control_seal_id(const struct control *control, uint64_t purpose,
                     const struct thrum_unique_id *id, uint8_t *sealed);
thrum_status_t control_open_id(const struct control *control, uint64_t purpose,
                               const uint8_t *sealed, struct thrum_unique_id *id_out);

/* ---- meeting again, when the control plane is broken ---- */

/*
 * An address of this rank, where connections are let in, though mostly nobody answers, until bootstrap_leave_place: once the
 * process has ended, they are refused.
 */
#define BOOTSTRAP_PLACE_BYTES 20
thrum_status_t bootstrap_keep_place(uint8_t *place_out, int *fd_out);
void bootstrap_leave_place(const uint8_t *place, int fd); /* fd -1: nothing */
/*
 * The id by which ranks of this communicator meet at the place, the same for all that give the same purpose; who has the
 * place serves it (bootstrap_serve_place). Also after the communicator has failed. While the place serves another one, who comes
 * EARLY waits for this one until the deadline, A_LITTLE_EARLY for a moment; NOT_EARLY: it has been served already.
 */
enum bootstrap_early { BOOTSTRAP_A_LITTLE_EARLY, BOOTSTRAP_EARLY, BOOTSTRAP_NOT_EARLY };
thrum_status_t control_meeting_id(const struct control *control, const uint8_t *place,
                                  const void *purpose, size_t bytes, enum bootstrap_early early,
                                  struct thrum_unique_id *id_out);
/*
 * Serves it at the own place. `known`: the places of its first nknown ranks; one that has not come and whose place is gone is not
 * waited for (PEER_DEAD).
 */
thrum_status_t bootstrap_serve_place(const struct thrum_unique_id *id, int place_fd,
                                     const uint8_t *known, int nknown);
/* What was served at this process's place before, and goes on to tell latecomers why they are, ends; waits for that. */
void bootstrap_clear_place(const uint8_t *place, int64_t until_ns);

/* ---- who of a communicator's ranks lives: survivors.c ---- */

struct survivors_call {
    const uint8_t *places; /* nranks of them */
    int rank, nranks;
    int place_fd;
    uint64_t
        number; /* of the communicators that are made so, from 1: those who meet say the same */
    int64_t begun_ns, silent_ns,
        end_ns; /* from silent_ns on nobody waits for who does not answer */
};
/*
 * alive_out, by rank: whether it lives, and has called this; the same on all ranks to which this returns OK and which then get
 * together. Blocks. Errors: PEER_DEAD (the others have gone on without this rank), TIMEOUT, LIMIT, SYSTEM, NO_MEMORY.
 */
thrum_status_t control_survivors(const struct control *control, const struct survivors_call *call,
                                 uint8_t *alive_out);
/*
 * They have got together: from now on, at the own place, who comes to this call is told so. A thread serves the notice, also
 * after bootstrap_leave_place, until bootstrap_drop_notice or bootstrap_clear_place.
 */
thrum_status_t control_post_notice(const struct control *control, const struct survivors_call *call,
                                   const uint8_t *alive);
void bootstrap_drop_notice(const uint8_t *place, uint64_t number);

/* "rank 3" or "ranks 3, 5-7" of those r with set[r]; shortened with "and N more" if it does not fit. */
void boot_ranks_text(const bool *set, int nranks, char *text, size_t bytes);

/* ---- launchers ---- */

struct launch_info {
    int rank, nranks;
    int local_rank; /* -1 unknown */
    const char *launcher; /* "pmix", "pmi", "slurm", "torchrun", "thrum", "open-mpi"; static */
    const char *root; /* host:port of rank 0 where the caller knows it: then that is the way */
};
/* Reads the environment only. INVALID_USAGE: no launcher; INVALID_CONFIG: its variables contradict. */
thrum_status_t launch_detect(struct launch_info *info_out);
/* Makes (rank 0) or receives the id for the `instance`-th communicator of this job, instance 0, 1, 2 ...; blocking. */
thrum_status_t launch_exchange_id(const struct launch_info *info, uint64_t instance,
                                  int64_t deadline_ms, struct thrum_unique_id *id_out);

#endif
