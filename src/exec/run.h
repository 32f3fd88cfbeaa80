/* What run.c stands on: queues (queue.c), registrations (region.c), operations ahead of their turn (ahead.c), records (record.c). */
#ifndef EXEC_RUN_H
#define EXEC_RUN_H

#include "comm/trace.h"
#include "exec/exec.h"

/* Lane 0 is on the user's queue; its own is for lines ahead of their turn: nothing of other lanes waits before them. */
#define AHEAD_LANE 0

/* The queue of a lane above 0, or of AHEAD_LANE; created when first asked for. Errors of thrum_queue_create. */
thrum_status_t exec_lane_queue(struct thrum_comm *comm, uint32_t lane, struct thrum_queue **out);

/* The fabric registration of the allocation around an address; made when first used. */
thrum_status_t exec_find_region(struct thrum_comm *comm, uint64_t address,
                                struct comm_region **region_out);

/*
 * The record of an operation that is about to be submitted, where they are recorded; NULL: there is no place for it.
 * comm_trace_add follows.
 */
struct comm_record_of_time *exec_record(struct thrum_comm *comm, const struct exec_program *program,
                                        const struct thrum_queue *queue,
                                        const struct call_record *call, int64_t called_ns);

/* ---- ahead.c ---- */

/* Before an operation is submitted: what the queue holds. */
void exec_follow_row(struct thrum_comm *comm, const struct exec_program *program,
                     const struct exec_staging *staging, const struct thrum_queue *queue);
/* Whether its lines may go although others before it still wait. Only of a program that has such (nahead). */
bool exec_may_run_ahead(const struct thrum_comm *comm, const struct exec_program *program,
                        const struct exec_buffers *buffers, const struct thrum_queue *queue);
/*
 * Who needs a credit is as far ahead as can be, and would be in step with the others ever after if that were queued, too.
 * So what was begun is let end, and the credits come, for a while; true if they are there.
 */
bool exec_let_catch_up(struct thrum_comm *comm, const struct exec_program *program,
                       struct thrum_queue *queue);
/*
 * The operation's lines go now, on a queue where nothing else waits, and the rest in its turn. The lines are with the
 * peers when this returns, so that the operation ends with the rest of it.
 */
thrum_status_t exec_submit_ahead(struct thrum_comm *comm, struct exec_program *program,
                                 struct thrum_queue *queue, uint32_t first, uint32_t n,
                                 struct comm_operation *operation);
/* After it was submitted. */
void exec_extend_row(struct comm_row *row, const struct exec_program *program,
                     const struct exec_buffers *buffers, const struct comm_operation *operation,
                     bool awaits_credit);

#endif
