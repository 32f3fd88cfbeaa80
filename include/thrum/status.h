/*
 * Status codes of every Thrum call, and the text of the last error.
 *
 * Zero is success, negative values are errors; only queries (thrum_queue_query, thrum_event_query,
 * thrum_event_elapsed) return the positive THRUM_IN_PROGRESS. A call that fails takes nothing and
 * changes nothing unless its comment says otherwise.
 */
#ifndef THRUM_STATUS_H
#define THRUM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

#if defined(__GNUC__)
#define THRUM_MUST_CHECK __attribute__((warn_unused_result))
#else
#define THRUM_MUST_CHECK
#endif

/* One row per status: name, value, text. The enum and thrum_status_string() are made from it, so they cannot drift. */
#define THRUM_STATUS_MAP(X) \
    X(OK, 0, "success") \
    X(IN_PROGRESS, 1, "not complete yet") \
    X(ERR_INVALID_ARGUMENT, -1, "invalid argument") \
    X(ERR_INVALID_POINTER, -2, \
      "pointer is null, foreign, freed, or its range leaves its allocation") \
    X(ERR_INVALID_COUNT, -3, "count is out of range or overflows") \
    X(ERR_INVALID_TYPE, -4, "no such data type") \
    X(ERR_INVALID_OP, -5, "no such reduction, or not for this data type") \
    X(ERR_INVALID_RANK, -6, "rank or root is outside the communicator") \
    X(ERR_INVALID_QUEUE, -7, "queue is null, destroyed, or of another device") \
    X(ERR_INVALID_COMM, -8, "communicator is null, destroyed, or finalized") \
    X(ERR_INVALID_CONFIG, -9, "configuration value is malformed or out of range") \
    X(ERR_INVALID_USAGE, -10, "call is not allowed in this state") \
    X(ERR_INVALID_COMMAND, -11, "device command is malformed") \
    X(ERR_UNSUPPORTED, -20, "not supported by this device, fabric or build") \
    X(ERR_NO_MEMORY, -21, "out of host memory") \
    X(ERR_NO_DEVICE_MEMORY, -22, "out of device memory") \
    X(ERR_NO_DEVICE, -23, "no such device") \
    X(ERR_BUSY, -24, "device or resource is in use") \
    X(ERR_LIMIT, -25, "a limit of the operating system was reached") \
    X(ERR_SYSTEM, -26, "operating system call failed") \
    X(ERR_FAULT, -40, "device page fault; the queue has stopped") \
    X(ERR_BAD_PACKET, -41, "device met a malformed packet; the queue has stopped") \
    X(ERR_RESET, -42, "device was reset; the handle is of an older generation") \
    X(ERR_DEVICE_LOST, -43, "device failed") \
    X(ERR_TIMEOUT, -60, "deadline passed") \
    X(ERR_MISMATCH, -61, "ranks disagree about the operation") \
    X(ERR_PEER_DEAD, -62, "a rank has died") \
    X(ERR_ABORTED, -63, "communicator was aborted") \
    X(ERR_UNREACHABLE, -64, "peer cannot be reached") \
    X(ERR_AUTH, -65, "peer did not prove the job's secret") \
    X(ERR_PROTOCOL, -66, "peer speaks another protocol or version") \
    X(ERR_PLAN, -80, "plan is wrong") \
    X(ERR_INTERNAL, -99, "internal error: please report it")

typedef enum thrum_status {
#define X(name, value, text) THRUM_##name = value,
    THRUM_STATUS_MAP(X)
#undef X
} thrum_status_t;

/*
 * The name of a status, such as "THRUM_ERR_TIMEOUT"; "THRUM_ERR_UNKNOWN" for any other value.
 * Static storage; never fails; any thread.
 */
const char *thrum_status_name(thrum_status_t status);

/* The sentence that belongs to a status. Static storage; never fails; any thread. */
const char *thrum_status_string(thrum_status_t status);

/*
 * The message of the last error that a Thrum call returned on this thread: it names the argument or rank and the
 * value. Empty string if there was none. Owned by the thread; valid until the next failing call on it.
 */
const char *thrum_last_error(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
