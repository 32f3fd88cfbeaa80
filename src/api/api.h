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

/* What is wrong with a call, if anything; checked when it is made, also inside a group. */
thrum_status_t collective_check(const struct coll_args *args);

/* The buffers of a call, as place would find them; for groups, where nothing may begin before all is known to be good. */
thrum_status_t collective_check_buffers(const struct coll_args *args);

/* ---- point to point (p2p.c) ---- */

struct p2p_call {
    bool is_send;
    const void *buffer;
    uint64_t count;
    thrum_datatype_t dtype;
    int peer;
    struct thrum_queue *queue;
};
/* Runs the point-to-point calls of one group on one communicator. */
thrum_status_t p2p_run(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);

/* ---- capture (capture.c) ---- */

/*
 * collective_run and p2p_run, for calls that are known to be good; or their recording, where the call's queue is being
 * captured. A launch of the graph checks and runs the call on its own queue, outside any group.
 */
thrum_status_t collective_issue(const struct coll_args *args);
thrum_status_t p2p_issue(struct thrum_comm *comm, const struct p2p_call *calls, size_t n);

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
/* Runs a checked call. */
thrum_status_t one_sided_run(struct thrum_comm *comm, const struct one_sided_call *call);

/* ---- calls that block until all ranks have come (setup.c) ---- */

enum setup_kind { SETUP_SPLIT, SETUP_REGISTER, SETUP_DEREGISTER };

struct setup_call {
    enum setup_kind kind;
    struct thrum_comm *comm;
    int color, key;
    bool has_config;
    struct thrum_comm_config config; /* of a split; its name is in `name` */
    char name[COMM_NAME_BYTES];
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

/* ---- checks of collectives.c that other calls share ---- */
thrum_status_t collective_check_comm(struct thrum_comm *comm);
thrum_status_t collective_check_queue(const struct thrum_comm *comm,
                                      const struct thrum_queue *queue);
thrum_status_t collective_check_count(const struct thrum_comm *comm, const char *argument,
                                      uint64_t count, thrum_datatype_t dtype);

/* ---- groups (group.c) ---- */

bool group_is_open(void);
/* Keeps a call for the end of this thread's group. `check` is its own status: an error fails the whole group. */
thrum_status_t group_add_collective(const struct coll_args *args, thrum_status_t check);
thrum_status_t group_add_p2p(struct thrum_comm *comm, const struct p2p_call *call,
                             thrum_status_t check);

thrum_status_t group_add_one_sided(struct thrum_comm *comm, const struct one_sided_call *call,
                                   thrum_status_t check);
thrum_status_t group_add_setup(const struct setup_call *call, thrum_status_t check);

#endif
