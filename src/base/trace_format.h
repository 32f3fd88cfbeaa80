/*
 * The stream of what a process records of its operations: to a file of THRUM_TRACE, or to thrum-trace while that is connected.
 * Written by comm/trace.c and bootstrap/trace.c, read by tools/trace_read.c.
 *
 * A stream is frames, each a struct trace_frame and then `bytes` of what its type says; readers skip types that they do not
 * know, and what is longer than they know. Words are as the machine has them: x86-64 and arm64 agree. A process comes
 * first, and again where a file is gone on with; a communicator comes before its operations, and may come again. Operations
 * come when they have ended, or when the stream ends before they do. A collective that takes long may come before it has ended,
 * too: the last time that it comes holds.
 */
#ifndef BASE_TRACE_FORMAT_H
#define BASE_TRACE_FORMAT_H

#include <stdint.h>

/* As STATUS_SOCKET: who connects is sent a stream, until it shuts its side down for writing; then what is left, and an end. */
#define TRACE_SOCKET "thrum-trace-"

#define TRACE_MAGIC "thrumtr1" /* without the 0 */

enum trace_type {
    TRACE_PROCESS = 1,
    TRACE_COMM,
    TRACE_OPERATION,
    TRACE_LOST,
    TRACE_END,
    TRACE_TIME
};

struct trace_frame {
    uint32_t type; /* enum trace_type */
    uint32_t bytes; /* that follow; a multiple of 8 */
};

/* All times are CLOCK_MONOTONIC of the process's clock, in nanoseconds. */
struct trace_process {
    char magic[8]; /* TRACE_MAGIC */
    uint64_t clock; /* processes with the same number have the same clock */
    int64_t monotonic_ns, realtime_ns; /* CLOCK_REALTIME at the time monotonic_ns; approximately */
    int32_t pid; /* in its own namespace */
    int32_t reserved;
    char host[64], program[16]; /* ended by 0 */
};

struct trace_comm {
    uint64_t id; /* the same on all ranks; of no other communicator */
    int32_t rank, nranks;
    uint32_t number; /* by which operations and losses of this stream name it; never 0 */
    uint32_t reserved;
    char name[48]; /* ended by 0 */
};

struct trace_operation {
    uint32_t comm; /* trace_comm.number */
    int32_t peer; /* of one message, put or signal; -1: none, or several */
    uint64_t sequence; /* collectives: the same on all ranks, from 1 on; 0: it is none */
    uint64_t count; /* elements, as the call has it; 0 where it is no collective */
    uint64_t bytes; /* that the call is about on this rank */
    uint64_t queue; /* by which queues of the process can be told apart */
    int64_t called_ns; /* the call was made */
    int64_t begun_ns; /* its queue came to it: from here it waits for others; 0: it never did */
    int64_t ended_ns; /* 0: it had not ended */
    int32_t root; /* -1: there is none */
    uint16_t redop; /* thrum_redop_t, of reductions */
    uint8_t dtype; /* thrum_datatype_t */
    uint8_t reserved;
    char what[16], algorithm[24]; /* "allreduce", "allgatherv", "direct"; ended by 0 */
};

/* So many operations were not recorded, for want of room. */
struct trace_lost {
    uint32_t comm; /* 0: of any */
    uint32_t reserved;
    uint64_t operations;
};

/* At this time everything that was pending in the communicator has come, as it is: how long it has been, where nothing ends. */
struct trace_time {
    uint32_t comm;
    uint32_t reserved;
    int64_t monotonic_ns;
};

/* The stream ends here; that of a file may go on, with a process again, where there are communicators again. */
struct trace_end {
    int64_t monotonic_ns;
};

#endif
