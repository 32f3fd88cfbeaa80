/* What thrum-trace is told of an operation: see comm/trace.h. */
#include <stdio.h>

#include "base/base.h"
#include "exec/run.h"

struct comm_record_of_time *exec_record(struct thrum_comm *comm, const struct exec_program *program,
                                        const struct thrum_queue *queue,
                                        const struct call_record *call, int64_t called_ns)
{
    static const char *const others[] = {[EXEC_MESSAGES] = "messages",
                                         [EXEC_PUT] = "put",
                                         [EXEC_SIGNAL] = "signal",
                                         [EXEC_WAIT_SIGNAL] = "wait_signal"};
    struct comm_record_of_time *record = comm_trace_next(comm);
    struct trace_operation *o;

    if (!record)
        return NULL;
    o = &record->operation;
    o->called_ns = called_ns;
    o->queue = (uint64_t)(uintptr_t)queue;
    snprintf(o->algorithm, sizeof o->algorithm, "%s", program->algorithm);
    if (call->sequence) {
        comm_trace_call(o, call);
        o->bytes = max_u64(program->send_bytes, program->recv_bytes);
        return record;
    }
    o->root = -1;
    snprintf(o->what, sizeof o->what, "%s", others[call->state & 3]);
    o->peer = call->state != EXEC_MESSAGES || program->nmessages == 1 ? call->root : -1;
    if (call->state == EXEC_PUT)
        o->bytes = program->commands[1].bytes;
    for (uint32_t i = 0; i < program->nmessages; i++)
        o->bytes += program->messages[i].count *
                    thrum_datatype_size((thrum_datatype_t)program->messages[i].dtype);
    return record;
}
