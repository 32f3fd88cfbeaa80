/*
 * check: what the files of the checker share. plan_check.c runs the plans, check_rules.c looks at them
 * before, check_order.c keeps the clocks, check_data.c does the ops that move data, check_memory.c (on check_segments.c)
 * finds races, check_content.c says what bytes are made of, check_result.c whether that is right, and check_report.c
 * writes the counterexample. Nobody else includes this. docs/plan.md explains the method.
 *
 * Everything belongs to one call of plan_check, on one thread. Functions that return bool have reported the error,
 * or run out of memory, when they return false; check->status says which.
 */
#ifndef PLAN_CHECK_H
#define PLAN_CHECK_H

#include "plan/plan.h"
#include "plan/plan_text.h"

/* A growing array of anything; zeroed is empty. */
#define VECTOR(type) \
    struct { \
        type *at; \
        size_t n, capacity; \
    }
bool check_grow(void **array, size_t *capacity, size_t wanted, size_t item_bytes);
#define VECTOR_RESERVE(v, wanted) \
    check_grow((void **)&(v)->at, &(v)->capacity, (wanted), sizeof *(v)->at)

/* ---- contents: what a byte is made of ------------------------------------------------------------------------- */

#define CONTENT_UNDEFINED 0

/* Contributions of ranks first..last, each `times` times, of one round, `shift` bytes from the segment's origin. */
struct content_run {
    uint32_t first, last;
    uint32_t times, round;
    int64_t shift;
};

/* Immutable and interned: equal contents have equal ids. */
struct content {
    size_t first_run;
    uint32_t nruns;
    uint32_t passes; /* REDUCEs behind each other */
    uint32_t roundings; /* to an 8- or 16-bit float, behind each other */
    uint32_t finals; /* REDUCE|FINALs among them */
    bool ordered; /* the left fold of ascending neighbours, each contribution by itself */
    uint32_t hash;
};

struct content_memo {
    uint32_t a, b, result;
    int64_t shift;
};

struct contents {
    VECTOR(struct content) all;
    VECTOR(struct content_run) runs;
    uint32_t *table; /* of ids, open addressing; 0: free */
    size_t table_size;
    struct content_memo *memo; /* direct mapped cache of folds */
};

bool contents_init(struct contents *contents);
void contents_fini(struct contents *contents);
/* These return false only when memory is out. */
bool content_of_rank(struct contents *contents, int rank, uint32_t round, uint32_t *id_out);
/* Of ranks 0 .. last. */
bool content_of_prefix(struct contents *contents, int last, uint32_t round, uint32_t *id_out);
bool content_fold(struct contents *contents, uint32_t a, uint32_t b, int64_t shift,
                  uint32_t *id_out);
/* What a REDUCE makes of the fold of its sources. */
bool content_finish(struct contents *contents, uint32_t id, bool final, bool rounds,
                    uint32_t *id_out);
/* The same contributions, however they were folded? */
bool content_same_terms(const struct contents *contents, uint32_t a, uint32_t b);

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* Ops of an access that are none. */
#define OP_BEFORE UINT32_MAX /* the caller, before the plan */
#define OP_AFTER (UINT32_MAX - 1) /* the caller, after it */

/*
 * Who touched a range: an op of a thread (rank x lanes + lane), ordered before whatever knows `epoch` of the thread.
 * A PUT's accesses last longer: then `put` is its index + 1 in check->puts.
 */
struct access {
    uint32_t thread, epoch, op, round, put;
};

/*
 * A PUT is over when its receiver's WAIT has seen a raise at or after it: `epoch` of thread `receiver` then, 0 before.
 * Its source is also free once the sender's plan has ended.
 */
struct put {
    uint32_t receiver, epoch, sender, round;
    uint32_t next; /* of the puts that one raise tells about: index + 1 */
};

struct read {
    struct access access;
    uint32_t next; /* older ones: index + 1; cells are shared and never change */
};

struct segment {
    uint64_t start; /* it ends where the next one starts */
    uint64_t origin; /* input byte that its first byte is made of */
    uint32_t content;
    uint32_t reads; /* since the write: index + 1 */
    struct access write;
};

#define SEGMENTS_PER_LEAF 32

/* One piece of memory, all of it covered by segments. */
struct leaf;
struct leaf_entry {
    uint64_t start; /* of its first segment: a search need not touch the leaf */
    struct leaf *leaf;
};
struct store {
    uint64_t bytes;
    VECTOR(struct leaf_entry) leaves; /* none is empty; none at all if there are no bytes */
};

/* A segment; changes of the store through another cursor make it invalid. */
struct cursor {
    struct store *store;
    size_t leaf;
    uint32_t slot;
};

/* Content on its way from sources to destinations. */
struct piece {
    uint64_t offset, bytes, origin;
    uint32_t content;
};
typedef VECTOR(struct piece) pieces_t;

/* Where an operand lies: SEND and RECV of a rank may share a store. */
struct place {
    uint32_t store;
    uint64_t offset;
};

/* ---- the run --------------------------------------------------------------------------------------------------- */

struct raise {
    uint64_t value; /* counted through all rounds */
    uint32_t clock;
    uint32_t puts; /* that it tells about */
    uint32_t next;
};

struct semaphore {
    int from, to, lane;
    uint64_t raise_max, wait_max; /* within one plan */
    size_t raise_op, wait_op; /* which do that */
    size_t silent_put; /* a PUT without a signal that no other has followed yet; SIZE_MAX: none */
    uint64_t raised, seen; /* through all rounds */
    uint32_t first_raise, last_raise; /* raised, not seen: index + 1 */
    uint32_t open_puts; /* no raise behind them yet */
};

struct line {
    int from, to, lane; /* the sender's lane */
    uint64_t bytes; /* of an INLINE one */
    size_t send_op, wait_op; /* SIZE_MAX: there is none */
    uint64_t wait_bytes; /* that its receiver expects */
    bool is_inline, wait_is_inline;
    uint32_t sent_round[PLAN_CHECK_ROUNDS]; /* + 1 */
    uint32_t clock[PLAN_CHECK_ROUNDS];
    pieces_t pieces[PLAN_CHECK_ROUNDS];
    struct {
        uint32_t epoch, round; /* in which the receiver's lane last had it; epoch 0: never */
    } waited[PLAN_MAX_LANES];
};

struct lane {
    const uint32_t *ops; /* indices into the plan's ops */
    uint32_t nops, next;
    bool blocked;
};

struct rank_state {
    uint32_t round;
    bool finished; /* all rounds */
    uint32_t lanes_done;
    uint32_t first_store;
    struct place send, recv, scratch; /* not SENDRECV: send and recv */
};

struct remote_access {
    uint32_t epoch, op, round;
};

struct check {
    const struct plan *plans;
    int n, lanes;
    uint32_t threads, rounds;
    bool ordered;
    bool narrows; /* WIDE is wider than the type, so that results are rounded */
    int scratch_space; /* SCRATCH or WIDE, whichever the plans name; -1: none so far */
    FILE *report;
    thrum_status_t status;
    uint32_t round; /* of what is being looked at, for the report; UINT32_MAX: none */
    struct {
        bool found;
        struct plan_operand operand; /* `offset` is that of the first byte */
        uint64_t bytes;
        struct access access;
    } undefined; /* the first read of what nothing had written */

    struct contents contents;
    VECTOR(struct store) stores;
    VECTOR(struct read) reads;
    VECTOR(struct put) puts;
    VECTOR(struct raise) raises;
    VECTOR(uint32_t) free_raises;
    VECTOR(uint32_t) free_clocks;
    VECTOR(uint32_t *) clock_pool;
    VECTOR(struct semaphore) semaphores;
    VECTOR(struct line) lines;
    uint32_t *semaphore_of; /* [(to x n + from) x lanes + lane]: index + 1 */
    uint32_t *line_of; /* see check_line_slot: index + 1 */
    struct rank_state *ranks;
    struct lane *lane_of; /* [thread] */
    uint32_t *lane_ops;
    uint32_t *clocks; /* [thread][thread] */
    uint32_t *joined; /* scratch clock */
    uint32_t *start_epoch; /* [round][rank], of lane 0 */
    struct remote_access *remote; /* [rank][thread]: last COPY or REDUCE there */
    VECTOR(uint32_t) runnable;
    pieces_t gathered, folded, source;
};

static inline uint32_t *check_clock(const struct check *check, uint32_t thread)
{
    return check->clocks + (size_t)thread * check->threads;
}
static inline int check_rank_of(const struct check *check, uint32_t thread)
{
    return (int)(thread / (uint32_t)check->lanes);
}
static inline uint32_t check_thread(const struct check *check, int rank, int lane)
{
    return (uint32_t)rank * (uint32_t)check->lanes + (uint32_t)lane;
}
static inline uint32_t *check_start(const struct check *check, uint32_t round, int rank)
{
    return &check->start_epoch[(size_t)round * (size_t)check->n + (size_t)rank];
}
static inline struct semaphore *check_semaphore(const struct check *check, int to, int from,
                                                int lane)
{
    size_t slot =
        ((size_t)to * (size_t)check->n + (size_t)from) * (size_t)check->lanes + (size_t)lane;

    return &check->semaphores.at[check->semaphore_of[slot] - 1];
}
static inline const struct plan_params *check_params(const struct check *check)
{
    return &check->plans[0].params;
}
/* A pair has one line in a plan; with messages one that arrives and one with data. */
static inline size_t check_line_slot(const struct check *check, int to, int from, bool is_inline)
{
    size_t n = (size_t)check->n;
    bool second = is_inline && check_params(check)->collective == COLL_SENDRECV;

    return ((second ? n : 0) + (size_t)to) * n + (size_t)from;
}
static inline struct line *check_line(const struct check *check, int to, int from, bool is_inline)
{
    return &check->lines.at[check->line_of[check_line_slot(check, to, from, is_inline)] - 1];
}

bool check_no_memory(struct check *check);

/* check_rules.c: are these plans of one call? Needs nothing but the plans. */
bool check_agree(struct check *check);
/* What needs no order; after memory_init. Fills semaphores and lines. */
bool check_rules(struct check *check);
/* Where an operand of `rank`'s plan lies; false if it leaves its buffer. Reports nothing. */
bool check_locate(const struct check *check, int rank, const struct plan_operand *operand,
                  uint64_t bytes, struct place *place_out);

/* check_order.c; check->round is that of the lane. */
void order_join(const struct check *check, uint32_t *into, const uint32_t *from);
/* A blocked lane may run again. */
bool order_wake(struct check *check, uint32_t thread);
/* `puts`: those that the raise tells about. */
bool order_raise(struct check *check, uint32_t thread, struct semaphore *s, uint64_t value,
                 uint32_t puts);
/* False: not raised so far. */
bool order_wait(struct check *check, uint32_t thread, struct semaphore *s, uint64_t value);
bool order_send_line(struct check *check, uint32_t thread, struct line *line);
/* False: it is not there yet. */
bool order_wait_line(struct check *check, uint32_t thread, struct line *line);

/* check_data.c */
/* An op that a lane is about to do. */
struct step {
    uint32_t thread;
    int rank;
    size_t index;
    const struct plan_op *op;
    const struct plan_operand *operands;
    struct access access;
};

bool data_move(struct check *check, struct step *step);

/* check_segments.c. What returns bool returns false only when memory is out. */
bool store_init(struct store *store, uint64_t bytes);
void store_fini(struct store *store);
/* The segment around `offset`, which the store has. */
struct cursor store_find(struct store *store, uint64_t offset);
struct segment *cursor_segment(const struct cursor *cursor);
uint64_t cursor_end(const struct cursor *cursor); /* byte behind the segment */
void cursor_next(struct cursor *cursor); /* not behind the last byte */
/* Cuts the segment at `offset`, inside it; the cursor is then at the part that starts there. */
bool cursor_split(struct cursor *cursor, uint64_t offset);
/* Makes the segment reach up to `end` at least; those that it swallows are gone. */
void cursor_extend(const struct cursor *cursor, uint64_t end);

/* check_memory.c */
bool memory_init(struct check *check);
void memory_fini(struct check *check);
/* Adds what the bytes are made of to pieces, and the read to the memory. `operand` is for the report. */
bool memory_read(struct check *check, struct place place, const struct plan_operand *operand,
                 uint64_t bytes, struct access access, pieces_t *pieces_out);
bool memory_write(struct check *check, struct place place, const struct plan_operand *operand,
                  const pieces_t *pieces, struct access access);
/* Reports check->undefined. */
bool memory_report_undefined(struct check *check);
/* The caller's own writes, around the plan: new input in SEND, no content in RECV and SCRATCH. */
bool memory_caller_write(struct check *check, int rank, uint32_t op, uint32_t round);

/* check_result.c: is what the collective promises in RECV of `rank`? check->round is its round. */
bool result_check(struct check *check, int rank);
/* The content that a REDUCE|FINAL makes. */
bool result_check_final(struct check *check, int rank, size_t op, uint32_t content);

/* check_report.c. Each report begins once; the rest adds to it. */
void report_begin(struct check *check, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "label: rank 2 lane 0 op 7 (round 1): ..." */
void report_op(struct check *check, const char *label, int rank, size_t op, uint32_t round);
void report_access(struct check *check, const char *label, const struct access *access);
/* The last ops that the lane has done, and the next. */
void report_lane(struct check *check, uint32_t thread);
/* "{0,1,1,3}" into text. */
void report_content(const struct check *check, uint32_t content, uint32_t round, char *text,
                    size_t size);

#endif
