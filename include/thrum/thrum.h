/*
 * Thrum: communicators and collectives on device memory.
 *
 * A communicator joins ranks, each with one device. Collectives are asynchronous on a queue of the rank's device, in
 * issue order per communicator: results are visible to later commands of the queue, and to the host after
 * thrum_queue_synchronize. Buffers may be device memory, registered host memory or plain host memory (staged).
 *
 * Every operation has a deadline. If a rank dies, stops, or calls something else, every surviving rank gets a status
 * that names the rank and the cause: from thrum_queue_synchronize, thrum_comm_async_error and every later call on
 * the communicator. Nothing hangs.
 *
 * Threads: one thread at a time per communicator, except thrum_comm_abort, thrum_comm_async_error and the queries,
 * which any thread may call at any time.
 */
#ifndef THRUM_THRUM_H
#define THRUM_THRUM_H

#include <thrum/device.h>
#include <thrum/status.h>
#include <thrum/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

#define THRUM_VERSION_MAJOR 0
#define THRUM_VERSION_MINOR 1
#define THRUM_VERSION_PATCH 0

/* "0.1.0" of the library that is loaded. Static storage. */
const char *thrum_version(void);

typedef struct thrum_comm *thrum_comm_t;

/* ---- communicators ----------------------------------------------------------------------------------------------- */

#define THRUM_UNIQUE_ID_BYTES 128

/*
 * Names a communicator to be: where to meet and a secret of 256 bits. Pass it to every rank over a channel that you
 * trust (MPI_Bcast, a file that only you can read): whoever has it can join.
 */
struct thrum_unique_id {
    uint8_t bytes[THRUM_UNIQUE_ID_BYTES];
};

/*
 * Makes an id and starts listening for the ranks, in this process, which must stay until all have joined.
 * The address is that of THRUM_BOOTSTRAP_INTERFACE, or of the first interface that is up. Errors: SYSTEM, LIMIT,
 * INVALID_CONFIG.
 */
THRUM_MUST_CHECK thrum_status_t thrum_get_unique_id(struct thrum_unique_id *id_out);

/*
 * An id for ranks that have no channel to pass one on, but know an address of rank 0, "host:port", which is free there.
 * All of them call it, then thrum_comm_init_rank. Ranks on several hosts need the same THRUM_SECRET; without one the
 * address is just a name, and rank 0 hands the id to ranks of its user on its host. Each call of a rank is for another
 * communicator, with an id of its own: all call equally often. Blocks until rank 0 has called, or
 * THRUM_INIT_DEADLINE_MS have passed. Errors: INVALID_ARGUMENT, INVALID_RANK, INVALID_CONFIG (root is no address; no
 * secret, or a short one), TIMEOUT, BUSY (the port), SYSTEM.
 */
THRUM_MUST_CHECK thrum_status_t thrum_agree_unique_id(const char *root, int rank, int nranks,
                                                      struct thrum_unique_id *id_out);

/* Choices for one communicator. Set `size`, leave the rest 0 for the defaults of the environment. */
struct thrum_comm_config {
    size_t size; /* sizeof(struct thrum_comm_config) */
    int64_t deadline_ms; /* of each operation; 0: THRUM_DEADLINE_MS */
    int64_t init_deadline_ms; /* of joining; 0: THRUM_INIT_DEADLINE_MS */
    uint64_t scratch_bytes; /* device memory for staging; 0: THRUM_SCRATCH_BYTES */
    const char
        *name; /* for messages; the first 47 characters are copied; NULL: "comm" and a number */
    int reproducible; /* 1: reductions give the same bits whatever the size, algorithm, lanes and hosts; -1: they need
                         not; 0: THRUM_REPRODUCIBLE */
    int lanes; /* independent sequences of commands that one operation may use, 1 .. 4; 0: THRUM_LANES */
    const char *
        algorithms; /* rules for choosing algorithms, as THRUM_ALGO has them and instead of it; at most 511
                               characters, copied; NULL: THRUM_ALGO */
    int probes; /* 1: this rank may call thrum_probe; -1: not; 0: as the parent's, else not. Ranks choose each for
                   itself */
    /*
     * Fewer ranks of comm than that are an error of thrum_comm_shrink_to_survivors, which is told so alike on all ranks;
     * 0: any number will do. Other calls pass it over, and nothing inherits it.
     */
    int64_t survivors_least;
};

/*
 * Joins rank `rank` of `nranks` on `device` (borrowed until destroy). Collective: blocks until all ranks have joined
 * or the init deadline passes. Several ranks of one process join from one thread each, or by thrum_comm_init_all.
 * Errors: INVALID_ARGUMENT, INVALID_RANK (outside, or two processes claim one rank: both are told), TIMEOUT (names
 * the ranks that are missing), AUTH, PROTOCOL, UNREACHABLE, PEER_DEAD, NO_DEVICE_MEMORY, LIMIT. After an error nothing
 * is left behind.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_init_rank(const struct thrum_unique_id *id, int nranks,
                                                     int rank, thrum_device_t device,
                                                     const struct thrum_comm_config *config,
                                                     thrum_comm_t *comm_out);

/*
 * Joins the job that a launcher started: mpirun or any PMIx server, PMI-1 (PMI_FD), Slurm, torchrun, or
 * THRUM_RANK, THRUM_SIZE and THRUM_ROOT (host:port). Rank, size and the id come from there; see docs/launching.md.
 * Collective over the job. May be called again, also by init: each call makes a new communicator. Threads of a process
 * that call it at once do so one after the other.
 * Errors as thrum_comm_init_rank, and INVALID_USAGE (no launcher found: says what was looked for).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_init(thrum_device_t device,
                                                const struct thrum_comm_config *config,
                                                thrum_comm_t *comm_out);

/* What thrum_comm_init would use, before any device is opened: rank, size, and rank among those on this host. */
THRUM_MUST_CHECK thrum_status_t thrum_launch_info(int *rank_out, int *nranks_out,
                                                  int *local_rank_out);

/*
 * One communicator of n ranks in this process: rank i is comms_out[i] on devices[i] (distinct). Blocks. Then calls for
 * all ranks may come from one thread, since collectives do not wait (inside a group or not).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_init_all(const thrum_device_t *devices, int n,
                                                    const struct thrum_comm_config *config,
                                                    thrum_comm_t *comms_out);

#define THRUM_SPLIT_NONE (-1)

/*
 * Makes new communicators of the ranks of `comm` that give the same color (>= 0, or THRUM_SPLIT_NONE: in none, then
 * *comm_out <- NULL), numbered by key, then by old rank, on the same devices. Collective over comm: blocks until all
 * its ranks have called, or the init deadline passes; operations of comm may be in flight. config as in
 * thrum_comm_init_rank; where it gives nothing, comm's own choices hold. The new communicators live on when comm is
 * destroyed, and do not fail when it fails.
 *
 * One thread that calls for several ranks of its process does so inside a group: then thrum_group_end blocks, after the
 * group's other calls have begun, and *comm_out is written there.
 *
 * Errors: as thrum_comm_init_rank; INVALID_CONFIG (ranks chose differently: names both), MISMATCH (a rank called
 * something else that blocks), PEER_DEAD (a rank has died or destroyed comm), and comm's own if it has failed. After
 * TIMEOUT and MISMATCH comm is as usable as before: a rank that comes late gets the same error.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_split(thrum_comm_t comm, int color, int key,
                                                 const struct thrum_comm_config *config,
                                                 thrum_comm_t *comm_out);

/* A communicator of the same ranks: thrum_comm_split with one color. */
THRUM_MUST_CHECK thrum_status_t thrum_comm_dup(thrum_comm_t comm,
                                               const struct thrum_comm_config *config,
                                               thrum_comm_t *comm_out);

/*
 * A communicator of the ranks that live, in their old order, on the same devices, when nobody knows which have died: what to
 * call when comm has failed because ranks died, one or a whole host of them, rank 0 among them or not. Every rank that lives
 * calls it, at its own time, and blocks; comm may also be healthy, and is as it was afterwards. thrum_comm_parent_rank
 * tells who is in the new one. One thread per rank; a group does not collect it. config as in thrum_comm_split.
 *
 * Who is left out: ranks whose process has ended, or that have destroyed comm, at once; ranks that are stopped, or whose host is
 * lost without a word, or that have not called, when half of the init deadline has passed since the first one called. A rank
 * that dies meanwhile is left out, too. All that get a communicator get the same. A rank that comes when the others have
 * gone on gets ABORTED, with their numbers, as long as one of them has the new communicator, or one shrunk from it in the same
 * way (of the last 8); if its own deadline has passed meanwhile, TIMEOUT, PEER_DEAD or UNREACHABLE.
 *
 * Limits: where the network is cut in two for that long, both sides get a communicator, as either may be the one that is left;
 * with more than half of the ranks as config.survivors_least one side at most.
 * Where a rank dies in the moment when the new communicator is complete, some may get it, which then fails and is to be
 * shrunk, and others ABORTED or PEER_DEAD.
 *
 * Errors: as thrum_comm_init_rank; ABORTED (see above; it will not be otherwise when called again); TIMEOUT (names ranks that
 * answered, and stopped then: call it again, and they are left out); UNREACHABLE (fewer than survivors_least are left, and
 * which: more may be when it is called again); INVALID_ARGUMENT (survivors_least is below 0 or more than comm has).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_shrink_to_survivors(
    thrum_comm_t comm, const struct thrum_comm_config *config, thrum_comm_t *comm_out);

/*
 * *parent_rank_out <- the number that rank `rank` of comm had in the communicator that comm was shrunk from; -1: comm was
 * made otherwise. Any thread. Errors: INVALID_COMM, INVALID_RANK (rank is outside comm), INVALID_ARGUMENT (parent_rank_out
 * is NULL).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_parent_rank(thrum_comm_t comm, int rank,
                                                       int *parent_rank_out);

/*
 * A communicator of the ranks that are not excluded, in their old order, on the same devices. Those call it, alike and
 * blocking, and nobody else need live: comm may have failed, or been aborted, and is as it was afterwards. One thread per
 * rank; a group does not collect it. config as in thrum_comm_split. Errors: as thrum_comm_init_rank; INVALID_RANK (a rank
 * outside comm, or the caller's own, is excluded); MISMATCH (ranks exclude different ones); TIMEOUT (names those of the
 * new ranks that did not come); PEER_DEAD (names one of the new ranks that has died before it came); UNREACHABLE (names
 * the first rank that is left, at whose place they meet).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_shrink(thrum_comm_t comm, const int *excluded,
                                                  int nexcluded,
                                                  const struct thrum_comm_config *config,
                                                  thrum_comm_t *comm_out);

/*
 * The id by which new ranks join when comm grows next; it is for that one call of thrum_comm_grow, also if that fails. Asks
 * nobody: every rank gets the same one, as often as it likes. Nobody has to listen yet: who has it may join before the
 * others call, and waits. Errors: INVALID_COMM, INVALID_ARGUMENT (id_out is NULL).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_get_unique_id(thrum_comm_t comm,
                                                         struct thrum_unique_id *id_out);

/*
 * A communicator of nranks ranks: those of comm, with their old numbers and devices, call this, alike and blocking; new ones,
 * numbered from comm's size on, join by thrum_comm_init_rank with nranks and the id of thrum_comm_get_unique_id. comm may
 * have failed, as long as all its ranks live, and is as it was afterwards. One thread per rank; a group does not collect
 * it. config as in thrum_comm_split; the new ranks have to choose the same. Errors: as thrum_comm_init_rank;
 * INVALID_ARGUMENT (nranks is not more than comm's size); MISMATCH (ranks say different nranks, or have not called this
 * equally often); TIMEOUT (names those that did not come, old or new); PEER_DEAD (names an old one that has died); UNREACHABLE
 * (names rank 0, at whose place they meet).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_grow(thrum_comm_t comm, int nranks,
                                                const struct thrum_comm_config *config,
                                                thrum_comm_t *comm_out);

/*
 * Waits until every operation of this rank has ended and every rank has called finalize; afterwards only destroy and
 * queries are allowed. Returns the communicator's error if it has failed.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_finalize(thrum_comm_t comm);

/*
 * Frees the communicator; without finalize it first waits for this rank's operations. The others may go on with what
 * does not need this rank; what does gets PEER_DEAD. Takes NULL. Other threads must be out of it. Of one that has failed it
 * cancels the operations, and waits up to 2 s for what executes: a reduction of the caller's that takes longer on another thread keeps the
 * communicator's memory for good, with a warning.
 */
void thrum_comm_destroy(thrum_comm_t comm);

/*
 * Ends every operation of the communicator on every rank with THRUM_ERR_ABORTED and a message that names this rank.
 * Never waits for a peer. Only queries and destroy are allowed afterwards.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_abort(thrum_comm_t comm);

/*
 * *status_out <- the communicator's first error (OK if none), and where message_out is not NULL its text, owned by
 * the communicator until destroy.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_async_error(thrum_comm_t comm,
                                                       thrum_status_t *status_out,
                                                       const char **message_out);

/*
 * *rank_out <- the rank that the communicator's first error names; -1 if there is no error, or it names nobody. Where several
 * ranks fail at once, others may have heard of another one first: thrum_comm_shrink_to_survivors finds out who is left.
 * Errors: INVALID_COMM, INVALID_ARGUMENT (rank_out is NULL).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_culprit(thrum_comm_t comm, int *rank_out);

/* This rank's number; how many ranks there are; the device of this rank. Also of a failed or finalized communicator. */
THRUM_MUST_CHECK thrum_status_t thrum_comm_rank(thrum_comm_t comm, int *rank_out);
THRUM_MUST_CHECK thrum_status_t thrum_comm_size(thrum_comm_t comm, int *nranks_out);
THRUM_MUST_CHECK thrum_status_t thrum_comm_device(thrum_comm_t comm,
                                                  thrum_device_t *device_out); /* borrowed */

/* Memory that a communicator holds on this rank, now, and at most. Also before creation: see thrum_comm_memory_plan. */
struct thrum_comm_memory_info {
    size_t size; /* in: sizeof of the caller's struct */
    uint64_t device_bytes; /* device memory in all: control area, scratch and stage */
    uint64_t scratch_bytes; /* of it scratch */
    uint64_t
        host_bytes; /* host memory for plans, peers and records, windows and persistent calls */
    uint64_t host_limit_bytes; /* with the windows and persistent calls that there are */
    uint64_t
        stage_bytes; /* of device_bytes: what stands for host buffers, and what is copied first; 0 before */
    uint64_t stage_limit_bytes; /* THRUM_STAGE_BYTES */
};

/*
 * What the communicator holds now; and what one of nranks ranks would hold at most, asked before it is made (config NULL:
 * the environment's choices); there stage_bytes is 0, and host buffers take up to stage_limit_bytes more.
 * Errors: INVALID_ARGUMENT (size is 0), INVALID_COMM, INVALID_CONFIG.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_memory(thrum_comm_t comm,
                                                  struct thrum_comm_memory_info *memory_out);
THRUM_MUST_CHECK thrum_status_t thrum_comm_memory_plan(int nranks,
                                                       const struct thrum_comm_config *config,
                                                       struct thrum_comm_memory_info *memory_out);

/*
 * Name of the algorithm that the communicator would use for an out-of-place call of `collective` ("allreduce"; root 0,
 * sum) with this count. Static storage; NULL if an argument is bad. Thread-safe.
 */
const char *thrum_comm_algorithm(thrum_comm_t comm, const char *collective, size_t count,
                                 thrum_datatype_t dtype);

/* One of the algorithms of a collective, for a given call. */
struct thrum_algorithm_candidate {
    size_t size; /* in: sizeof of the caller's struct */
    const char *name; /* static storage */
    const char *refusal; /* why it cannot serve the call, static storage; NULL: it can */
    double predicted_us; /* by the model from which the communicator chooses; 0 where refused */
    int chosen; /* 1: the one that thrum_comm_algorithm names */
};

/*
 * The algorithms that there are for the call that thrum_comm_algorithm describes: index 0, 1, .. Thread-safe; does not
 * block. Errors: INVALID_ARGUMENT (an argument is bad, or index is beyond the last one), INVALID_CONFIG (a rule of the
 * user names one that cannot serve).
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_candidate(
    thrum_comm_t comm, const char *collective, size_t count, thrum_datatype_t dtype, int index,
    struct thrum_algorithm_candidate *candidate_out);

/* ---- collectives ------------------------------------------------------------------------------------------------- */

/*
 * Counts are elements. A buffer is in place where the comment says so; any other overlap of send and receive is
 * INVALID_POINTER. Host pointers that no device knows are taken as they are: a wild one is a segmentation fault.
 * count 0 is allowed and still has to be called by every rank. No call waits for another rank, but where 256 operations
 * of the communicator have not ended: then while some do end; where 16384 have not, until one has. Errors of all of them,
 * with nothing enqueued: INVALID_COMM, INVALID_POINTER, INVALID_COUNT, INVALID_TYPE, INVALID_OP, INVALID_RANK,
 * INVALID_QUEUE, INVALID_USAGE, UNSUPPORTED, and the communicator's own error once it has failed. Errors that come later
 * are met at the queue: MISMATCH, TIMEOUT, PEER_DEAD, ABORTED, FAULT, RESET, BAD_PACKET.
 */

/* recv[i] <- op over ranks r of send_r[i], on every rank; count elements. In place: send == recv. */
THRUM_MUST_CHECK thrum_status_t thrum_allreduce(const void *send, void *recv, size_t count,
                                                thrum_datatype_t dtype, thrum_redop_t op,
                                                thrum_comm_t comm, thrum_queue_t queue);

/* recv <- root's send; count elements. send is read at root only (elsewhere it may be NULL). In place: send == recv. */
THRUM_MUST_CHECK thrum_status_t thrum_broadcast(const void *send, void *recv, size_t count,
                                                thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                                thrum_queue_t queue);

/* recv, nranks x count elements, <- block r is rank r's send, count elements. In place: send == recv + rank x count. */
THRUM_MUST_CHECK thrum_status_t thrum_allgather(const void *send, void *recv, size_t count,
                                                thrum_datatype_t dtype, thrum_comm_t comm,
                                                thrum_queue_t queue);

/*
 * recv, count elements, <- op over ranks r of block `rank` of send_r; send has nranks x count elements.
 * In place: recv == send + rank x count. Or, as in MPI, recv == send: the block comes to the front; then all of send is
 * copied to a stage first (THRUM_STAGE_BYTES). What other blocks hold afterwards is not defined.
 */
THRUM_MUST_CHECK thrum_status_t thrum_reduce_scatter(const void *send, void *recv, size_t count,
                                                     thrum_datatype_t dtype, thrum_redop_t op,
                                                     thrum_comm_t comm, thrum_queue_t queue);

/*
 * recv at root <- op over ranks r of send_r; count elements. recv is written at root only (elsewhere it may be NULL).
 * In place: send == recv at root.
 */
THRUM_MUST_CHECK thrum_status_t thrum_reduce(const void *send, void *recv, size_t count,
                                             thrum_datatype_t dtype, thrum_redop_t op, int root,
                                             thrum_comm_t comm, thrum_queue_t queue);

/*
 * Block s of recv <- block `rank` of rank s's send; nranks blocks of count elements. In place: send == recv; then all of
 * it is copied to a stage first (THRUM_STAGE_BYTES).
 */
THRUM_MUST_CHECK thrum_status_t thrum_alltoall(const void *send, void *recv, size_t count,
                                               thrum_datatype_t dtype, thrum_comm_t comm,
                                               thrum_queue_t queue);

/*
 * recv at root, nranks x count elements, <- block r is rank r's send. recv matters at root only.
 * In place at root: send == recv + root x count.
 */
THRUM_MUST_CHECK thrum_status_t thrum_gather(const void *send, void *recv, size_t count,
                                             thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                             thrum_queue_t queue);

/*
 * recv, count elements, <- block `rank` of root's send, nranks x count elements, which matters at root only.
 * In place at root: recv == send + root x count.
 */
THRUM_MUST_CHECK thrum_status_t thrum_scatter(const void *send, void *recv, size_t count,
                                              thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                              thrum_queue_t queue);

/*
 * recv <- op over ranks 0 .. rank (scan) or 0 .. rank - 1 (exscan; rank 0's recv is left alone) of their send; count
 * elements. In place: send == recv.
 */
THRUM_MUST_CHECK thrum_status_t thrum_scan(const void *send, void *recv, size_t count,
                                           thrum_datatype_t dtype, thrum_redop_t op,
                                           thrum_comm_t comm, thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_exscan(const void *send, void *recv, size_t count,
                                             thrum_datatype_t dtype, thrum_redop_t op,
                                             thrum_comm_t comm, thrum_queue_t queue);

/*
 * The v-variants: blocks of their own sizes. counts[r] elements at element displs[r] of the whole buffer, for rank r;
 * displs NULL: one after the other. The arrays, nranks each, are read during the call only. Blocks that are written
 * may not overlap. Ranks that disagree in the counts get MISMATCH.
 *
 * allgatherv: every rank gives the same recvcounts and displs; send has recvcounts[rank] elements. In place:
 * send == recv + displs[rank].
 * reduce_scatterv: the same counts on every rank; send has all blocks one after the other, recv has counts[rank]
 * elements. In place: recv is the own block in send, or send, as in reduce_scatter.
 * alltoallv: block s of send goes to rank s, block s of recv comes from it; sendcounts[s] here is recvcounts[rank]
 * there. In place: send == recv, with equal counts and displacements of both, as in alltoall.
 * gatherv, scatterv: the arrays matter at root only, whose entry for a rank must be that rank's own count. In place at
 * root as in gather and scatter.
 */
THRUM_MUST_CHECK thrum_status_t thrum_allgatherv(const void *send, void *recv,
                                                 const size_t *recvcounts, const size_t *displs,
                                                 thrum_datatype_t dtype, thrum_comm_t comm,
                                                 thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_reduce_scatterv(const void *send, void *recv,
                                                      const size_t *counts, thrum_datatype_t dtype,
                                                      thrum_redop_t op, thrum_comm_t comm,
                                                      thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_alltoallv(const void *send, const size_t *sendcounts,
                                                const size_t *sdispls, void *recv,
                                                const size_t *recvcounts, const size_t *rdispls,
                                                thrum_datatype_t dtype, thrum_comm_t comm,
                                                thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_gatherv(const void *send, size_t sendcount, void *recv,
                                              const size_t *recvcounts, const size_t *displs,
                                              thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                              thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_scatterv(const void *send, const size_t *sendcounts,
                                               const size_t *displs, void *recv, size_t recvcount,
                                               thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                               thrum_queue_t queue);

/* Later commands of the queue execute after every rank's earlier commands on its queue. */
THRUM_MUST_CHECK thrum_status_t thrum_barrier(thrum_comm_t comm, thrum_queue_t queue);

/*
 * Point to point: the i-th send from a to b meets the i-th recv of b from a; counts and types must agree. A rank may
 * send to itself inside a group. Sends and receives that wait for each other belong into one group. There a second
 * message of this rank to or from one peer begins when the first ones of all its peers have ended. A send may end before
 * its receive has begun, if what it sends is short and it is not the first one to that peer.
 */
THRUM_MUST_CHECK thrum_status_t thrum_send(const void *send, size_t count, thrum_datatype_t dtype,
                                           int peer, thrum_comm_t comm, thrum_queue_t queue);
THRUM_MUST_CHECK thrum_status_t thrum_recv(void *recv, size_t count, thrum_datatype_t dtype,
                                           int peer, thrum_comm_t comm, thrum_queue_t queue);
/*
 * *has_out is 1 if peer has begun to send a message that no thrum_recv called so far takes, so that one called now would
 * not wait for the sender; else 0. A send begins when its queue has reached it and earlier messages to this rank have been
 * received, or are short. Does not wait; to receive from whoever sends first, ask about each. A rank's messages to itself
 * are never seen, and receives that are still in a group do not count as called. Where a peer is ahead with alltoallv,
 * gatherv or scatterv, a short block of it counts as a message: ask between calls that all ranks have made. Errors:
 * INVALID_COMM, INVALID_RANK, INVALID_ARGUMENT, INVALID_USAGE (config.probes was not 1, so that long messages would not be
 * seen), the communicator's own.
 */
THRUM_MUST_CHECK thrum_status_t thrum_probe(int peer, thrum_comm_t comm, int *has_out);

/*
 * Calls of this thread between start and end are collected and begin together at the outermost end, on any number of
 * communicators; whatever the order in which ranks name different communicators, they do not deadlock. A call that is
 * refused inside a group makes thrum_group_end return its status and nothing of the group begins.
 * Errors of end: INVALID_USAGE (no start).
 */
THRUM_MUST_CHECK thrum_status_t thrum_group_start(void);
THRUM_MUST_CHECK thrum_status_t thrum_group_end(void);

/* ---- reductions of the caller ------------------------------------------------------------------------------------- */

/*
 * A reduction for the communicator's collectives: fold calls `fold` with elements of the call's type, from any thread,
 * contributions in rank order, left to right (with `commutative` in any order). It must not block or call Thrum: a wait in
 * it waits for itself, and no deadline ends that. An error that it returns fails the communicator with it, on every rank.
 * Needs THRUM_CAP_REDUCE_CALLBACK. Every rank makes its reductions in the same order. Lives until destroyed, or the communicator is. Errors: INVALID_COMM, INVALID_ARGUMENT, LIMIT, UNSUPPORTED.
 */
THRUM_MUST_CHECK thrum_status_t thrum_redop_create(thrum_comm_t comm, thrum_reduce_fn fold,
                                                   void *context, bool commutative,
                                                   thrum_redop_t *op_out);

enum thrum_scalar_residence { THRUM_SCALAR_HOST, THRUM_SCALAR_DEVICE };

/*
 * The sum of contributions that each rank first multiplies by its own scalar (and rounds to the type): one element of
 * dtype, read now (HOST) or when a collective executes (DEVICE: device memory that must stay). The op is for
 * collectives of that dtype. Needs THRUM_CAP_SCALE. Otherwise as thrum_redop_create.
 */
THRUM_MUST_CHECK thrum_status_t thrum_redop_create_premul_sum(thrum_comm_t comm, const void *scalar,
                                                              thrum_datatype_t dtype,
                                                              enum thrum_scalar_residence residence,
                                                              thrum_redop_t *op_out);

/*
 * Operations that were called with it go on; where calls of this thread's open group use it, it goes, and its context may
 * be freed, when the group has ended. Errors: INVALID_COMM, INVALID_OP (not a live one).
 */
THRUM_MUST_CHECK thrum_status_t thrum_redop_destroy(thrum_comm_t comm, thrum_redop_t op);

/* ---- persistent collectives --------------------------------------------------------------------------------------- */

/*
 * A collective that is called again and again with the same arguments: checked, planned and placed once by its *_init,
 * begun by each thrum_start, in issue order among the communicator's other calls. init is local and enqueues nothing;
 * its errors are those of the call. Buffers and queue must stay. A start may follow the previous one at once.
 * Free it when no start of it is to come; NULL is allowed.
 */
typedef struct thrum_persistent *thrum_persistent_t;

/* Begins the call once more. Errors: those of the call that can come up anew, INVALID_ARGUMENT (not a live one). */
THRUM_MUST_CHECK thrum_status_t thrum_start(thrum_persistent_t persistent);
/* Starts all of them as one group. */
THRUM_MUST_CHECK thrum_status_t thrum_start_all(const thrum_persistent_t *persistents, size_t n);
/* Takes NULL. What was started goes on. */
void thrum_persistent_free(thrum_persistent_t persistent);

/* thrum_allreduce as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_allreduce_init(const void *send, void *recv, size_t count,
                                                     thrum_datatype_t dtype, thrum_redop_t op,
                                                     thrum_comm_t comm, thrum_queue_t queue,
                                                     thrum_persistent_t *persistent_out);
/* thrum_broadcast as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_broadcast_init(const void *send, void *recv, size_t count,
                                                     thrum_datatype_t dtype, int root,
                                                     thrum_comm_t comm, thrum_queue_t queue,
                                                     thrum_persistent_t *persistent_out);
/* thrum_allgather as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_allgather_init(const void *send, void *recv, size_t count,
                                                     thrum_datatype_t dtype, thrum_comm_t comm,
                                                     thrum_queue_t queue,
                                                     thrum_persistent_t *persistent_out);
/* thrum_reduce_scatter as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_reduce_scatter_init(const void *send, void *recv,
                                                          size_t count, thrum_datatype_t dtype,
                                                          thrum_redop_t op, thrum_comm_t comm,
                                                          thrum_queue_t queue,
                                                          thrum_persistent_t *persistent_out);
/* thrum_reduce as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_reduce_init(const void *send, void *recv, size_t count,
                                                  thrum_datatype_t dtype, thrum_redop_t op,
                                                  int root, thrum_comm_t comm, thrum_queue_t queue,
                                                  thrum_persistent_t *persistent_out);
/* thrum_alltoall as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_alltoall_init(const void *send, void *recv, size_t count,
                                                    thrum_datatype_t dtype, thrum_comm_t comm,
                                                    thrum_queue_t queue,
                                                    thrum_persistent_t *persistent_out);
/* thrum_gather as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_gather_init(const void *send, void *recv, size_t count,
                                                  thrum_datatype_t dtype, int root,
                                                  thrum_comm_t comm, thrum_queue_t queue,
                                                  thrum_persistent_t *persistent_out);
/* thrum_scatter as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_scatter_init(const void *send, void *recv, size_t count,
                                                   thrum_datatype_t dtype, int root,
                                                   thrum_comm_t comm, thrum_queue_t queue,
                                                   thrum_persistent_t *persistent_out);
/* thrum_scan as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_scan_init(const void *send, void *recv, size_t count,
                                                thrum_datatype_t dtype, thrum_redop_t op,
                                                thrum_comm_t comm, thrum_queue_t queue,
                                                thrum_persistent_t *persistent_out);
/* thrum_exscan as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_exscan_init(const void *send, void *recv, size_t count,
                                                  thrum_datatype_t dtype, thrum_redop_t op,
                                                  thrum_comm_t comm, thrum_queue_t queue,
                                                  thrum_persistent_t *persistent_out);
/* thrum_barrier as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_barrier_init(thrum_comm_t comm, thrum_queue_t queue,
                                                   thrum_persistent_t *persistent_out);
/* The v-variants copy their arrays. */
/* thrum_allgatherv as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_allgatherv_init(const void *send, void *recv,
                                                      const size_t *recvcounts,
                                                      const size_t *displs, thrum_datatype_t dtype,
                                                      thrum_comm_t comm, thrum_queue_t queue,
                                                      thrum_persistent_t *persistent_out);
/* thrum_reduce_scatterv as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_reduce_scatterv_init(const void *send, void *recv,
                                                           const size_t *counts,
                                                           thrum_datatype_t dtype, thrum_redop_t op,
                                                           thrum_comm_t comm, thrum_queue_t queue,
                                                           thrum_persistent_t *persistent_out);
/* thrum_alltoallv as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_alltoallv_init(const void *send, const size_t *sendcounts,
                                                     const size_t *sdispls, void *recv,
                                                     const size_t *recvcounts,
                                                     const size_t *rdispls, thrum_datatype_t dtype,
                                                     thrum_comm_t comm, thrum_queue_t queue,
                                                     thrum_persistent_t *persistent_out);
/* thrum_gatherv as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_gatherv_init(const void *send, size_t sendcount, void *recv,
                                                   const size_t *recvcounts, const size_t *displs,
                                                   thrum_datatype_t dtype, int root,
                                                   thrum_comm_t comm, thrum_queue_t queue,
                                                   thrum_persistent_t *persistent_out);
/* thrum_scatterv as a persistent call. */
THRUM_MUST_CHECK thrum_status_t thrum_scatterv_init(const void *send, const size_t *sendcounts,
                                                    const size_t *displs, void *recv,
                                                    size_t recvcount, thrum_datatype_t dtype,
                                                    int root, thrum_comm_t comm,
                                                    thrum_queue_t queue,
                                                    thrum_persistent_t *persistent_out);

/* ---- windows: one-sided ------------------------------------------------------------------------------------------- */

typedef struct thrum_window *thrum_window_t;

/*
 * Opens [buffer, buffer + bytes) of this rank's device memory to puts of the other ranks; sizes may differ between
 * ranks, 0 opens nothing. Collective over comm: blocks until all ranks have called or the deadline passes; inside a group
 * at its end, as thrum_comm_split. The memory must stay until deregistered: a put into memory that is gone is a FAULT of
 * the rank that puts, where it has peer access; a fabric may write what was allocated there since. An open window goes
 * with its communicator. Errors: INVALID_COMM, INVALID_POINTER (not device memory of the communicator's device),
 * INVALID_ARGUMENT, TIMEOUT, PEER_DEAD, MISMATCH, NO_MEMORY, LIMIT.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_register(thrum_comm_t comm, void *buffer, size_t bytes,
                                                    thrum_window_t *window_out);
/*
 * Closes the window. Collective: returns when this rank's puts into it have ended and all ranks have called, so that
 * the memory may be freed. Inside a group it is done at the group's end. Puts into a window that was deregistered are
 * INVALID_ARGUMENT. After an error (TIMEOUT, PEER_DEAD, MISMATCH, the communicator's own) it is closed on this rank only:
 * others may still put into the memory. INVALID_ARGUMENT: not a live window; nothing was closed.
 */
THRUM_MUST_CHECK thrum_status_t thrum_comm_deregister(thrum_window_t window);

/*
 * Writes `count` elements of send to peer's part of the window, `offset` bytes from its start. send may be reused when
 * the queue has reached the end of the put; the data are at the peer when a later thrum_signal to it has arrived.
 * Errors: those of collectives, INVALID_ARGUMENT (window is not live or of another communicator; range outside),
 * INVALID_POINTER (also: peer is this rank itself, and send and the target overlap without being the same).
 */
THRUM_MUST_CHECK thrum_status_t thrum_put(const void *send, size_t count, thrum_datatype_t dtype,
                                          int peer, thrum_window_t window, size_t offset,
                                          thrum_comm_t comm, thrum_queue_t queue);

/* Tells peer that all earlier puts of this rank to it (in issue order on the communicator) are there. */
THRUM_MUST_CHECK thrum_status_t thrum_signal(int peer, thrum_comm_t comm, thrum_queue_t queue);

/*
 * Later commands of the queue execute after `n` more signals from peer have come; each signal is waited for once.
 * Errors: those of collectives; INVALID_COUNT: more signals than can be counted.
 */
THRUM_MUST_CHECK thrum_status_t thrum_wait_signal(int peer, uint64_t n, thrum_comm_t comm,
                                                  thrum_queue_t queue);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
