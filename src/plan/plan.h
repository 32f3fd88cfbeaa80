/*
 * plan: what one rank does for one collective, as ops in lanes. Builders (src/algo) append, the checker proves,
 * exec binds and runs, thrum-plan prints. One IR for all of them.
 *
 * Ordering: ops of a lane run in order. Between lanes and ranks only SIGNAL, WAIT, PUT (its signal) and lines order.
 *
 * Semaphores. Rank r has one semaphore for every (signaller, lane): sem(r, from, lane). SIGNAL and PUT with `value` v
 * raise sem(peer, me, lane) to v; WAIT waits until sem(me, peer, lane) >= v. Values count from 0 at the start of each
 * plan (exec adds the base), are raised by the one signaller in growing order, and every raise is waited for by the
 * receiver before its plan ends: so both ends know the base of the next plan without talking.
 *
 * Lines. Each ordered pair has some line slots, used in turn. SIGNAL|ARRIVE writes the caller's call record (signature,
 * where its buffers are) into the next slot at the peer, PUT|INLINE writes up to plan_line_bytes of data; at most one
 * line per ordered pair and plan (of messages one of each kind). WAIT|ARRIVE (or |INLINE) by the peer waits for it and compares the signatures.
 * After WAIT|ARRIVE from r, operands may name r's SEND and RECV; after WAIT|INLINE, (LINE, rank = me, offset =
 * from) holds the data: offset is the sender's rank, not bytes.
 *
 * What makes any plan safe after any other (the checker proves it for each plan alone):
 *  1. an access to a peer's SEND, RECV or SCRATCH is ordered after the peer's start of this plan (its arrival, or a
 *     signal or line from it), and before the peer's end of it;
 *  2. whoever arrives at r for a message ends its plan only after r has started it (so two slots are enough).
 * Other lines may be sent and be done with: exec keeps a sender from getting more than its slots ahead (struct
 * comm_lines of comm.h).
 *
 * A PUT reads its source until the peer's receipt is known: the source may be overwritten only by what is ordered after
 * the WAIT of the peer (or after the end of the plan, where exec flushes). PUT|INLINE reads it when the op runs.
 * Raises of one semaphore take effect in the order of their lane, PUT or SIGNAL, and a PUT's data before its raise; a
 * PUT without a raise is told of by the next PUT of its lane to the same peer that has one.
 *
 * SEND is the caller's input: never a destination. Several lanes may each WAIT for the same line. docs/plan.md tells
 * the rules in full, with examples.
 */
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <thrum/thrum.h>

#include "plan/layout.h"

/* One row per collective: NAME, value, printed name. */
#define COLLECTIVE_MAP(X) \
    X(ALLREDUCE, 0, "allreduce") \
    X(BROADCAST, 1, "broadcast") \
    X(ALLGATHER, 2, "allgather") \
    X(REDUCE_SCATTER, 3, "reduce_scatter") \
    X(BARRIER, 4, "barrier") \
    X(SENDRECV, 5, "sendrecv") \
    X(REDUCE, 6, "reduce") \
    X(GATHER, 7, "gather") \
    X(SCATTER, 8, "scatter") \
    X(ALLTOALL, 9, "alltoall") \
    X(SCAN, 10, "scan") \
    X(EXSCAN, 11, "exscan")

enum collective {
#define X(name, value, text) COLL_##name = value,
    COLLECTIVE_MAP(X)
#undef X
        COLL_COUNT = 12
};
const char *collective_name(enum collective collective);
/* -1 if there is no such name. */
int collective_by_name(const char *name);

#define PLAN_INLINE_BYTES 4088 /* that any line can carry, stored or put */
#define PLAN_MAX_LANES 4
#define PLAN_MAX_OPERANDS 256 /* of one op */

/*
 * WIDE is scratch for partial results, which are not rounded: 8- and 16-bit floats lie in it as float32, other types as
 * they are (see plan_widening). Offsets and lengths count in the call's type all the same; exec widens them. COPY and
 * PUT take WIDE to WIDE; only REDUCE (of one source, if need be) widens a contribution and rounds a partial result to
 * the type. Of a REDUCE's sources none, all, or the first alone may be WIDE; of its destinations none or all. The plans
 * of a call use SCRATCH or WIDE, not both, and scratch_bytes counts the widened bytes.
 */
enum plan_space { PLAN_SEND, PLAN_RECV, PLAN_SCRATCH, PLAN_LINE, PLAN_WIDE };

struct plan_operand {
    uint64_t offset; /* bytes; LINE: the rank that sent it */
    int32_t rank; /* whose memory */
    uint8_t space; /* enum plan_space */
};

enum plan_opcode { PLAN_COPY, PLAN_REDUCE, PLAN_PUT, PLAN_SIGNAL, PLAN_WAIT };

enum {
    PLAN_ARRIVE = 1 << 0, /* SIGNAL, WAIT: the line with the call record */
    PLAN_INLINE = 1 << 1, /* PUT, WAIT: data travels in the line; the PUT has no dst operand */
    PLAN_FINAL = 1 << 2, /* REDUCE: all contributions are in; AVG divides here, and only here */
    PLAN_STREAM = 1 << 3 /* COPY, REDUCE: past the cache */
};

struct plan_op {
    uint8_t opcode; /* enum plan_opcode */
    uint8_t flags;
    uint16_t lane;
    uint16_t ndst, nsrc;
    int32_t peer; /* PUT, SIGNAL: to whom; WAIT: from whom; else -1 */
    uint32_t first_operand; /* in plan.operands: ndst destinations, then nsrc sources */
    uint64_t bytes; /* COPY, REDUCE, PUT */
    uint64_t
        value; /* SIGNAL, WAIT, PUT (0: no signal): see "Semaphores"; the semaphore is that of `lane`.
                  REDUCE|FINAL: how many contributions there are, which AVG divides by; 0: one of each rank */
};

/*
 * Point-to-point work of one rank in one plan, for COLL_SENDRECV: at most one send and one receive per peer (api makes
 * a further plan for a second message of a pair). SEND and RECV operands of the own rank count from address 0, so
 * `offset` is an address, or whatever stands for one (api: the index of the message); RECV of a peer counts from the buffer that its arrival named, so the peer's data goes to
 * offset 0. Semaphores and lines are the pair's own, apart from those of collectives.
 */
struct plan_p2p {
    int peer;
    bool is_send;
    uint8_t dtype; /* thrum_datatype_t: both ends must name the same */
    uint8_t kind; /* enum message_kind of comm.h: the same */
    bool meets; /* rendezvous, also if it fits a line: see api/p2p.c */
    uint64_t bytes;
    uint64_t offset;
};

/* Everything a builder may look at. Plain values: equal params give equal plans, on every rank. */
struct plan_params {
    enum collective collective;
    int rank, nranks;
    uint64_t count; /* as in the call */
    thrum_datatype_t dtype;
    thrum_redop_t
        redop; /* from THRUM_REDOP_COUNT on: the caller's, which folds elements of the type */
    int root;
    bool in_place;
    bool
        peer_access; /* COPY and REDUCE may name any peer's memory; false: only PUT reaches them, */
    const struct plan_layout *
        layout; /* but for those on the same host where this is not NULL. Borrowed; see plan_reaches */
    int lanes; /* at most */
    int ranks_per_core; /* at most, on any host; above 1 they take turns. For cost functions */
    uint64_t scratch_bytes; /* of each rank, at most */
    uint64_t line_bytes; /* that a line can carry; 0: PLAN_INLINE_BYTES */
    /*
     * ALLGATHER and REDUCE_SCATTER with blocks of their own sizes (the v-variants): counts[r] elements of rank r's
     * block, and displs[r], where it lies in the whole, in elements. Borrowed, nranks each, equal on all ranks; NULL:
     * every block is `count` elements, one after the other. `count` is then the largest of counts. Displs NULL: one
     * after the other; finding a block then takes O(nranks), so give them where ranks are many.
     */
    const uint64_t *counts, *displs;
    bool
        ordered; /* fold from the left in rank order: reproducible mode, or a reduction that does not commute */
    const struct plan_p2p *p2p; /* SENDRECV: borrowed, outlives the plan */
    int np2p;
};

/*
 * A plan under construction or finished. With `sink` set, ops are handed to it instead of being kept, so that plans
 * longer than memory can be printed. Owned by whoever called plan_init; single-threaded.
 */
struct plan;
typedef thrum_status_t (*plan_sink_fn)(void *argument, const struct plan *plan,
                                       const struct plan_op *op,
                                       const struct plan_operand *operands);

/*
 * Stages are for buffers in host memory, which peers cannot reach: for them device memory stands for the buffer. Here,
 * before op `op`, this part of SEND is copied in (no peer reads it before), or this part of RECV, that peers have
 * written, is copied out (it is complete). A plan that names its stages (plan_names_stages) names all that peers touch;
 * this rank's own ops then work on the caller's memory itself. One that does not has all of SEND copied in before it,
 * all of RECV copied out after it, and works on the copies.
 */
struct plan_stage {
    size_t op; /* index; nops: after the last one */
    uint64_t offset, bytes;
    uint8_t space; /* PLAN_SEND or PLAN_RECV */
};

struct plan {
    struct plan_params params;
    const char *algorithm; /* static */
    struct plan_op *ops;
    size_t nops, ops_capacity;
    struct plan_operand *operands;
    size_t noperands, operands_capacity;
    struct plan_stage *stages;
    size_t nstages, stages_capacity;
    bool names_stages;
    bool shares_stages; /* one piece of memory may stand for SEND and RECV */
    bool runs_ahead; /* see plan_runs_ahead */
    uint64_t
        scratch_bytes; /* used of this rank's scratch: highest end of any SCRATCH or WIDE operand of it */
    thrum_status_t status; /* first error of an append; later ones do nothing */
    plan_sink_fn sink;
    void *sink_argument;
};

void plan_init(struct plan *plan, const struct plan_params *params);
void plan_fini(struct plan *plan); /* takes a zeroed one too */

/*
 * Appending. They keep the first error in plan->status, so that builders need no checks between ops. COPY and REDUCE
 * of 0 bytes append nothing, a PUT of 0 bytes is a SIGNAL of its value (nothing if that is 0 too).
 */
void plan_copy(struct plan *plan, int lane, struct plan_operand dst, struct plan_operand src,
               uint64_t bytes);
void plan_copy_multi(struct plan *plan, int lane, const struct plan_operand *dsts, int ndst,
                     struct plan_operand src, uint64_t bytes);
void plan_reduce(struct plan *plan, int lane, unsigned flags, const struct plan_operand *dsts,
                 int ndst, const struct plan_operand *srcs, int nsrc, uint64_t bytes);
/* REDUCE|FINAL of a prefix (SCAN, EXSCAN): of the first `contributions` ranks. */
void plan_reduce_prefix(struct plan *plan, int lane, int contributions, struct plan_operand dst,
                        const struct plan_operand *srcs, int nsrc, uint64_t bytes);
void plan_put(struct plan *plan, int lane, int peer, struct plan_operand dst,
              struct plan_operand src, uint64_t bytes, uint64_t value);
void plan_put_inline(struct plan *plan, int lane, int peer, struct plan_operand src,
                     uint64_t bytes);
void plan_signal(struct plan *plan, int lane, int peer, uint64_t value);
void plan_wait(struct plan *plan, int lane, int peer, uint64_t value);
void plan_arrive(struct plan *plan, int lane, int peer); /* SIGNAL|ARRIVE */
void plan_wait_arrival(struct plan *plan, int lane, int peer); /* WAIT|ARRIVE */
/* WAIT|INLINE of a line that the peer puts `bytes` into. */
void plan_wait_inline(struct plan *plan, int lane, int peer, uint64_t bytes);
/*
 * Of all ranks' plans: lines are all that passes between ranks. So those that a plan sends first, from SEND, may go while
 * what was called before has not ended.
 */
void plan_runs_ahead(struct plan *plan);
/* The plan's stages are those that plan_stage names; for plans of one lane without PUTs. See struct plan_stage. */
void plan_names_stages(struct plan *plan, bool shared);
/* Before the next op; 0 bytes are none. Not kept where the plan has a sink. */
void plan_stage(struct plan *plan, enum plan_space space, uint64_t offset, uint64_t bytes);

static inline uint64_t plan_line_bytes(const struct plan_params *params)
{
    return params->line_bytes ? params->line_bytes : PLAN_INLINE_BYTES;
}

/* COPY and REDUCE of rank a may name memory of rank b. */
static inline bool plan_reaches(const struct plan_params *params, int a, int b)
{
    return params->peer_access || a == b ||
           (params->layout && params->layout->host[a] == params->layout->host[b]);
}

/* Whether a message of SENDRECV goes in a line, by both ends' reckoning. */
static inline bool plan_is_eager(const struct plan_p2p *p2p, uint64_t line_bytes)
{
    return !p2p->meets && p2p->bytes <= line_bytes;
}

static inline struct plan_operand plan_at(enum plan_space space, int rank, uint64_t offset)
{
    return (struct plan_operand){.offset = offset, .rank = rank, .space = (uint8_t)space};
}

/* Printing: one line per op, JSON (one object), or DOT (ops as nodes, lanes as chains). */
enum plan_format { PLAN_TEXT, PLAN_JSON, PLAN_DOT };
/*
 * plan_dump_begin sets the plan's sink so that a builder that follows prints at once; plan_dump_end closes the text.
 * plan_dump prints a finished plan.
 */
struct plan_dump {
    FILE *file;
    enum plan_format format;
    uint64_t index;
    uint64_t last_of_lane[PLAN_MAX_LANES];
};
void plan_dump_begin(struct plan *plan, struct plan_dump *dump, FILE *file,
                     enum plan_format format);
void plan_dump_end(struct plan *plan, struct plan_dump *dump);
thrum_status_t plan_dump(const struct plan *plan, FILE *file, enum plan_format format);

/* Elements of rank's block, and where it starts in the whole: ALLGATHER and REDUCE_SCATTER (see `counts`). */
uint64_t plan_block_elems(const struct plan_params *params, int rank);
uint64_t plan_block_first(const struct plan_params *params, int rank);

/* How many times wider than the type a partial result lies in WIDE: 16-bit floats 2, 8-bit floats 4, others 1. */
unsigned plan_widening(const struct plan_params *params);

/* Does the collective fold contributions? */
bool plan_reduces(enum collective collective);
bool plan_has_root(enum collective collective);

/* Whether the operation is one for elements of the type. */
bool plan_op_takes(thrum_redop_t op, thrum_datatype_t dtype);

/* Whether another order of folding elements of the type could give other bits. */
bool plan_rounds(thrum_datatype_t dtype);

/*
 * Bytes of SEND and RECV of a rank by the collective's definition (0 where it has none, as send of a non-root). That of
 * EXSCAN's rank 0 is left alone.
 */
uint64_t plan_send_bytes(const struct plan_params *params, int rank);
uint64_t plan_recv_bytes(const struct plan_params *params, int rank);

/*
 * Checks the plans of all ranks, plans[r] for rank r, all of one call: the rules at the top of this file, no deadlock,
 * no data race, the right contributions in every output element, and all of it with the same plans `rounds` times in a
 * row, PLAN_CHECK_ROUNDS at most. Returns OK, or ERR_PLAN with a counterexample written to `report` (may be NULL), or NO_MEMORY.
 */
#define PLAN_CHECK_ROUNDS 4
thrum_status_t plan_check(const struct plan *plans, int nranks, int rounds, FILE *report);
/*
 * The same, and every reduced element is the left fold of ranks 0, 1, .. in that order: what reproducible mode needs.
 */
thrum_status_t plan_check_ordered(const struct plan *plans, int nranks, int rounds, FILE *report);

#endif
