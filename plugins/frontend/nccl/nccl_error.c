/* Results and texts. The last text is a thread's own; a thread that has none is shown the process's. */
#include "frontend.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <strings.h>

#include <thrum/plugin.h>
#include <thrum/thrum.h>

static _Thread_local struct {
    char text[NCCL_TEXT_BYTES];
    char shown[NCCL_TEXT_BYTES]; /* what ncclGetLastError returned */
} thread;

static bool is_debugging; /* NCCL_DEBUG asks for something; fixed by nccl_debug_init */

static struct {
    pthread_mutex_t lock;
    char text[NCCL_TEXT_BYTES];
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(thread.text, sizeof thread.text, format, arguments);
    va_end(arguments);
    thrum_plugin_log(THRUM_LOG_INFO, "%s (%s)", thread.text, ncclGetErrorString(result));
    pthread_mutex_lock(&process.lock);
    memcpy(process.text, thread.text, sizeof process.text);
    pthread_mutex_unlock(&process.lock);
    return result;
}

ncclResult_t nccl_result_of(thrum_status_t status)
{
    switch (status) {
    case THRUM_OK:
        return ncclSuccess;
    case THRUM_IN_PROGRESS:
        return ncclInProgress;
    case THRUM_ERR_INVALID_ARGUMENT:
    case THRUM_ERR_INVALID_POINTER:
    case THRUM_ERR_INVALID_COUNT:
    case THRUM_ERR_INVALID_TYPE:
    case THRUM_ERR_INVALID_OP:
    case THRUM_ERR_INVALID_RANK:
    case THRUM_ERR_INVALID_QUEUE:
    case THRUM_ERR_INVALID_COMM:
        return ncclInvalidArgument;
    case THRUM_ERR_INVALID_CONFIG:
    case THRUM_ERR_INVALID_USAGE:
    case THRUM_ERR_UNSUPPORTED:
    case THRUM_ERR_MISMATCH:
        return ncclInvalidUsage;
    case THRUM_ERR_NO_DEVICE_MEMORY:
    case THRUM_ERR_NO_DEVICE:
    case THRUM_ERR_BUSY:
    case THRUM_ERR_FAULT:
    case THRUM_ERR_BAD_PACKET:
    case THRUM_ERR_RESET:
    case THRUM_ERR_DEVICE_LOST:
        return ncclUnhandledCudaError;
    case THRUM_ERR_NO_MEMORY:
    case THRUM_ERR_LIMIT:
    case THRUM_ERR_SYSTEM:
    case THRUM_ERR_AUTH:
    case THRUM_ERR_PROTOCOL:
        return ncclSystemError;
    case THRUM_ERR_TIMEOUT:
    case THRUM_ERR_PEER_DEAD:
    case THRUM_ERR_ABORTED:
    case THRUM_ERR_UNREACHABLE:
        return ncclRemoteError;
    default:
        return ncclInternalError;
    }
}

ncclResult_t nccl_of_status(const char *function, const struct ncclComm *comm,
                            thrum_status_t status)
{
    if (status >= 0)
        return nccl_result_of(status);
    if (comm)
        return nccl_fail(nccl_result_of(status), "%s, rank %d of %d: %s", function, comm->rank,
                         comm->nranks, thrum_last_error());
    return nccl_fail(nccl_result_of(status), "%s: %s", function, thrum_last_error());
}

const char *nccl_last_text(void)
{
    return thread.text;
}

/* Why a communicator has failed; false: it has not. */
static bool failure_text(struct ncclComm *comm, char *out, size_t bytes)
{
    const char *message = NULL;
    thrum_status_t status = THRUM_OK;
    int state = atomic_load(&comm->state);

    if (state != ncclSuccess && state != ncclInProgress) {
        snprintf(out, bytes, "%s", comm->text);
        return true;
    }
    if (state == ncclInProgress || !comm->comm ||
        thrum_comm_async_error(comm->comm, &status, &message) || !status)
        return false;
    snprintf(out, bytes, "rank %d of %d: %s", comm->rank, comm->nranks, message ? message : "");
    return true;
}

const char *ncclGetLastError(ncclComm_t comm)
{
    char kept[NCCL_TEXT_BYTES];

    memcpy(kept, thread.text, sizeof kept);
    if (comm && nccl_comm_check("ncclGetLastError", comm) == ncclSuccess &&
        failure_text(comm, thread.shown, sizeof thread.shown))
        return thread.shown;
    memcpy(thread.text, kept, sizeof kept); /* asking is no error */
    if (*thread.text) {
        memcpy(thread.shown, thread.text, sizeof thread.shown);
        return thread.shown;
    }
    pthread_mutex_lock(&process.lock);
    memcpy(thread.shown, process.text, sizeof thread.shown);
    pthread_mutex_unlock(&process.lock);
    return thread.shown;
}
NCCL_TWIN(ncclGetLastError);

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[ncclNumResults] = {
        [ncclSuccess] = "no error",
        [ncclUnhandledCudaError] = "device error (ask ncclGetLastError)",
        [ncclSystemError] = "system error (ask ncclGetLastError)",
        [ncclInternalError] = "internal error: please report it",
        [ncclInvalidArgument] = "invalid argument (ask ncclGetLastError)",
        [ncclInvalidUsage] = "invalid usage (ask ncclGetLastError)",
        [ncclRemoteError] = "remote process exited or did not come in time (ask ncclGetLastError)",
        [ncclInProgress] = "operation in progress"};

    return (unsigned)result < ncclNumResults ? texts[result] : "unknown result code";
}
NCCL_TWIN(ncclGetErrorString);

ncclResult_t ncclGetVersion(int *version)
{
    if (!version)
        return nccl_fail(ncclInvalidArgument, "ncclGetVersion: version=NULL");
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
NCCL_TWIN(ncclGetVersion);

/* NCCL_DEBUG is the log's default, in a program of NCCL. */
static void read_debug(void)
{
    static const struct {
        const char *name;
        enum thrum_log_level level;
    } rows[] = {{"version", THRUM_LOG_WARN},
                {"warn", THRUM_LOG_WARN},
                {"info", THRUM_LOG_INFO},
                {"abort", THRUM_LOG_INFO},
                {"trace", THRUM_LOG_DEBUG}};
    const char *wanted = thrum_plugin_config("NCCL_DEBUG");

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcasecmp(rows[i].name, wanted))
            continue;
        thrum_plugin_log_default(rows[i].level, thrum_plugin_config("NCCL_DEBUG_FILE"));
        is_debugging = true;
    }
}

void nccl_debug_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, read_debug);
}

void nccl_debug_version(void)
{
    static _Atomic bool told;

    if (is_debugging && !atomic_exchange(&told, true))
        thrum_plugin_log(THRUM_LOG_NOTE, "NCCL version %d.%d.%d+thrum%d.%d.%d", NCCL_MAJOR,
                         NCCL_MINOR, NCCL_PATCH, THRUM_VERSION_MAJOR, THRUM_VERSION_MINOR,
                         THRUM_VERSION_PATCH);
}

void ncclResetDebugInit(void)
{
    /* What is logged is the environment's choice, which is read once. */
}
NCCL_TWIN(ncclResetDebugInit);
