/* api: the public collectives. Validates every argument, fills struct coll_args; groups. No policy here. */
#ifndef API_API_H
#define API_API_H

#include "exec/exec.h"

/*
 * The path of one collective, step by step: placed buffers, the cached program or select, build and compile, run.
 * The arguments are valid.
 */
thrum_status_t collective_run(const struct coll_args *args);

/*
 * The same for a call that has been made before with these very arguments, and was good: true if it has been made
 * again; false, with nothing done, if it has to be looked at anew. The arguments may be anything.
 */
bool collective_repeat(const struct coll_args *args, thrum_status_t *status_out);

/* A call whose buffers are placed. Points into itself: it may not be moved. */
struct prepared {
    struct exec_placement placement;
    struct exec_staging staging;
    bool staged; /* the staging has anything to do */
    bool in_place; /* what the program takes it for */
    bool on_stage; /* needs a stage of the communicator's, which is placed anew for each run */
    thrum_redop_t program_op; /* what the program folds by */
    struct call_record call; /* without its sequence */
    struct exec_copy
        *outs; /* v-variants with host memory: one for each block; NULL: placement.out */
    struct thrum_command scale; /* premul_sum: before the program */
    struct thrum_operand scale_operands[3];
    uint8_t scalar[16];
};

/* Any call: places its buffers. After success collective_unplace. The arguments are valid. */
thrum_status_t collective_place(const struct coll_args *args, struct prepared *out);
void collective_unplace(struct prepared *prepared);
/* A program of one's own for the placed call, to be freed by exec_program_free. */
thrum_status_t collective_build(const struct coll_args *args, const struct prepared *prepared,
                                struct exec_program **program_out);
/* Issues the call. */
thrum_status_t collective_begin(const struct coll_args *args, struct exec_program *program,
                                struct prepared *prepared);

/* For groups: has the program of a call ready in the cache, so that what cannot be planned is refused early. */
thrum_status_t collective_plan(const struct coll_args *args);

/* A call with the arrays that it borrows, as one block for free(). NULL: no memory. */
struct coll_args *coll_args_copy(const struct coll_args *args);

/* The arguments of a call, without blocks of their own sizes. */
static inline struct coll_args coll_args_of(enum collective collective, const void *send,
                                            void *recv, size_t count, thrum_datatype_t dtype,
                                            thrum_redop_t op, int root, struct thrum_comm *comm,
                                            struct thrum_queue *queue)
{
    return (struct coll_args){.collective = collective,
                              .send = send,
                              .recv = recv,
                              .count = count,
                              .dtype = dtype,
                              .redop = op,
                              .root = root,
                              .comm = comm,
                              .queue = queue};
}

/* ---- collectives.c: checks, and what follows them ---- */

/* What is wrong with a call, if anything; checked when it is made, also inside a group. */
thrum_status_t collective_check(const struct coll_args *args);
/* Parts of it. */
thrum_status_t collective_check_comm(struct thrum_comm *comm);
thrum_status_t collective_check_queue(const struct thrum_comm *comm,
                                      const struct thrum_queue *queue);
thrum_status_t collective_check_count(const struct thrum_comm *comm, const char *argument,
                                      uint64_t count, thrum_datatype_t dtype);
/* Runs a call whose check gave this, or keeps it for the end of the group. */
thrum_status_t collective_call_checked(const struct coll_args *args, thrum_status_t check);

/* The buffers of a call, as place would find them; for groups, where nothing may begin before all is known to be good. */
thrum_status_t collective_check_buffers(const struct coll_args *args);

/* ---- v-variants (vector.c) ---- */

/* Whether send, nsend bytes, and a block of recv overlap; they lie in one range. */
bool vector_overlaps(const struct coll_args *args, uint64_t nsend);
/* What a v-variant's call record says of its blocks. */
void vector_record(const struct coll_args *args, struct call_record *call);
/* The same for a placed call, and the copies out of a stage with gaps. */
thrum_status_t vector_place(const struct coll_args *args, struct prepared *prepared);

/* ---- reductions of the caller (redop.c) ---- */

/* Puts the multiplication by the scalar in front of the program, where the op asks for it. */
thrum_status_t redop_place(const struct coll_args *args, uint64_t nsend, struct prepared *prepared);
/* Whether the communicator has the op, and for this type. INVALID_OP. */
thrum_status_t redop_check(const struct coll_args *args);
/* The group that used it has ended: it goes if it was destroyed meanwhile. */
void redop_leave(struct thrum_comm *comm, thrum_redop_t op);

/* ---- point to point (p2p.c) ---- */

struct p2p_call {
    bool is_send;
    const void *buffer;
    uint64_t count;
    thrum_datatype_t dtype;
    int peer;
    enum message_kind kind; /* what it is part of */
    bool
        copied_first; /* a send from where others of the group are received: copied before any of them begins */
    struct thrum_queue *queue;
};
/* Runs the point-to-point calls of one group on one communicator. */
thrum_status_t p2p_run(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);

/* What p2p_run would refuse before anything is enqueued: messages to oneself, queues; buffers. */
thrum_status_t p2p_check(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);
thrum_status_t p2p_check_buffers(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);

/*
 * Whether a call is the i-th of the newest group on the communicator, so that there is nothing to check. The communicator
 * is valid; the call may be anything.
 */
bool p2p_is_known(const struct thrum_comm *comm, size_t i, const struct p2p_call *call);
/*
 * Runs that group once more, all n calls of which are known: true, with the outcome; false, with nothing done, if it has to be
 * looked at anew.
 */
bool p2p_repeat(struct thrum_comm *comm, size_t n, thrum_status_t *status_out);

/*
 * p2p_run in steps, one operation each, so that groups can take turns between the ranks of a process. The calls have
 * been checked. open enqueues nothing. A step returns IN_PROGRESS until all is issued; then, or after an error, or
 * instead of the first step comes close, which returns the error.
 */
struct p2p_work;
thrum_status_t p2p_open(struct thrum_comm *comm, const struct p2p_call *calls, size_t n,
                        struct p2p_work **work_out);
thrum_status_t p2p_step(struct p2p_work *work);
thrum_status_t p2p_close(struct p2p_work *work);

/* ---- capture (capture.c) ---- */

/*
 * collective_run and p2p_run, for calls that are known to be good; or their recording, where the call's queue is being
 * captured. A launch of the graph checks and runs the call on its own queue, outside any group.
 */
thrum_status_t collective_issue(const struct coll_args *args);
thrum_status_t p2p_issue(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);

/* Whether the calls are for a graph; one is of one queue. INVALID_USAGE. */
thrum_status_t p2p_check_capture(const struct p2p_call *calls, size_t n, bool *captured_out);

/* ---- one-sided (window.c) ---- */

struct one_sided_call {
    enum exec_kind kind; /* EXEC_PUT, EXEC_SIGNAL, EXEC_WAIT_SIGNAL */
    const void *send;
    struct thrum_window *window;
    uint64_t offset;
    uint64_t count; /* elements, or signals */
    thrum_datatype_t dtype;
    int peer;
    struct thrum_queue *queue;
};
/* What is wrong with a call, if anything. */
thrum_status_t one_sided_check(struct thrum_comm *comm, const struct one_sided_call *call);
/* Runs a checked call; issue: or records it, where its queue is being captured. */
thrum_status_t one_sided_issue(struct thrum_comm *comm, const struct one_sided_call *call);
thrum_status_t one_sided_run(struct thrum_comm *comm, const struct one_sided_call *call);

/* ---- calls that block until all ranks have come (setup.c) ---- */

enum setup_kind { SETUP_SPLIT, SETUP_REGISTER, SETUP_DEREGISTER };

struct setup_call {
    enum setup_kind kind;
    struct thrum_comm *comm;
    int color, key;
    bool has_config;
    struct thrum_comm_config config; /* of a split; its texts are in `name` and `algorithms` */
    char name[COMM_NAME_BYTES], algorithms[COMM_ALGORITHMS_BYTES];
    thrum_comm_t *comm_out;
    void *buffer;
    size_t bytes;
    struct thrum_window *window;
    struct thrum_window **window_out;
};
/* At once, or at the end of the group. `check` is the call's own status: an error is returned, or fails the group. */
thrum_status_t setup_call(const struct setup_call *call, thrum_status_t check);
/* All of a group: calls on one communicator one after the other, different communicators at the same time. */
thrum_status_t setup_run_all(const struct setup_call *calls, size_t n);

/* ---- groups (group.c) ---- */

bool group_is_open(void);
/* Whether this thread's open group has a call with that reduction of the caller's. */
bool group_uses_redop(const struct thrum_comm *comm, thrum_redop_t op);
/* Keeps a call for the end of this thread's group. `check` is its own status: an error fails the whole group. */
thrum_status_t group_add_collective(const struct coll_args *args, thrum_status_t check);
/* Whether it would be the call that is expected next, see p2p_is_known. The communicator is valid. */
bool group_expects(const struct thrum_comm *comm, const struct p2p_call *call);
thrum_status_t group_add_messages(struct thrum_comm *comm, const struct p2p_call *calls, size_t n,
                                  thrum_status_t check);
thrum_status_t group_add_persistent(struct thrum_persistent *persistent, thrum_status_t check);

/* ---- persistent calls (persistent.c) ---- */

/* Makes one of a call whose check gave this; the arrays of the call are copied. */
thrum_status_t persistent_of_collective(const struct coll_args *args, thrum_status_t check,
                                        struct thrum_persistent **persistent_out);
thrum_status_t persistent_of_messages(struct thrum_comm *comm, struct thrum_queue *queue,
                                      const struct p2p_call *calls, size_t n, thrum_status_t check,
                                      struct thrum_persistent **persistent_out);
/* INVALID_ARGUMENT: there is nowhere to put it. */
thrum_status_t persistent_no_output(void);

/*
 * For groups. The communicator, NULL if it was destroyed; the queue; the reduction of a collective; a reference for as
 * long as the group has it.
 */
struct thrum_comm *persistent_comm(const struct thrum_persistent *persistent);
struct thrum_queue *persistent_queue(const struct thrum_persistent *persistent);
thrum_redop_t persistent_redop(const struct thrum_persistent *persistent);
void persistent_hold(struct thrum_persistent *persistent);
void persistent_release(struct thrum_persistent *persistent);
/* Begins a collective once more. */
thrum_status_t persistent_run(struct thrum_persistent *persistent);

thrum_status_t group_add_one_sided(struct thrum_comm *comm, const struct one_sided_call *call,
                                   thrum_status_t check);
thrum_status_t group_add_setup(const struct setup_call *call, thrum_status_t check);

#endif
