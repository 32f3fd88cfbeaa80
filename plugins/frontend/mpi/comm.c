/*
 * The Thrum communicator of an MPI communicator, and the library's own beginning and end. Called by take.c, request.c.
 *
 * When it is made: at the THRUM_MPI_AFTER-th collective on the MPI communicator, if that one blocks: all ranks come there
 * in the same order, and may wait for each other there, which they may not in a nonblocking call. The calls are counted
 * alike on all ranks, so nothing has to be said. Either all ranks have a Thrum communicator afterwards or none.
 *
 * Making one takes milliseconds, and programs may have hundreds that live for a few calls. So but for the first one the
 * ranks ask each other there whether they have lived long enough for it, and where one has not, again after as many calls.
 *
 * When it goes: with the MPI communicator, by the delete callback of an attribute, or with the last request that the program
 * has left on it; at the latest when MPI_Finalize begins,
 * which MPI tells by deleting the attributes of MPI_COMM_SELF before anything else.
 */
#include "frontend.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thrum/plugin.h>

#define DEADLINE_DEFAULT "300000" /* of THRUM_DEADLINE_MS */
#define FEW_FOR_LINES 4 /* ranks, to each of which a line is written */
/* Of a program's time, and of a communicator's life, one part in so many may go into making Thrum communicators. */
#define SHARE 16
#define DEADLINE_LONGEST_MS 86400000 /* MPI has no deadlines: as long as a communicator can have */

struct tmpi_state tmpi = {.self = MPI_COMM_NULL};
_Atomic uint64_t tmpi_generation = 1;
__thread struct tmpi_memory tmpi_memories[TMPI_MEMORIES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows, and of set-up */
static struct tmpi_comm *comms;
static int comm_keyval = MPI_KEYVAL_INVALID, self_keyval = MPI_KEYVAL_INVALID;

void tmpi_progress_mpi(void)
{
    int flag;

    (void)PMPI_Iprobe(MPI_ANY_SOURCE, 0, tmpi.self, &flag, MPI_STATUS_IGNORE);
}

/* ---- errors ---- */

static int class_of(thrum_status_t status)
{
    switch (status) {
    case THRUM_ERR_INVALID_POINTER:
        return MPI_ERR_BUFFER;
    case THRUM_ERR_INVALID_COUNT:
        return MPI_ERR_COUNT;
    case THRUM_ERR_INVALID_TYPE:
        return MPI_ERR_TYPE;
    case THRUM_ERR_INVALID_OP:
        return MPI_ERR_OP;
    case THRUM_ERR_INVALID_RANK:
        return MPI_ERR_ROOT;
    case THRUM_ERR_INVALID_ARGUMENT:
        return MPI_ERR_ARG;
    case THRUM_ERR_MISMATCH: /* what MPI says where counts differ and it notices */
        return MPI_ERR_TRUNCATE;
    case THRUM_ERR_NO_MEMORY:
    case THRUM_ERR_NO_DEVICE_MEMORY:
        return MPI_ERR_NO_MEM;
    case THRUM_ERR_INTERNAL:
    case THRUM_ERR_PLAN:
        return MPI_ERR_INTERN;
    default:
        return MPI_ERR_OTHER;
    }
}

/* One code for each status, made when it first happens; its text is that of the newest error. */
int tmpi_code_of(thrum_status_t status, const char *message)
{
    static int codes[128];
    char text[MPI_MAX_ERROR_STRING];
    int index = status < 0 && status > -128 ? -status : 127, code;

    pthread_mutex_lock(&lock);
    if (!codes[index] && PMPI_Add_error_code(class_of(status), &codes[index]))
        codes[index] = 0;
    code = codes[index];
    if (code) {
        /* Thrum does not know of calls that MPI has */
        snprintf(text, sizeof text, "Thrum: %s%s",
                 message[0] ? message : thrum_status_string(status),
                 status == THRUM_ERR_TIMEOUT ? ", or has given one of another size to MPI" : "");
        (void)PMPI_Add_error_string(code, text);
    }
    pthread_mutex_unlock(&lock);
    return code ? code : class_of(status);
}

int tmpi_raise(MPI_Comm comm, thrum_status_t status, const char *message)
{
    int code = tmpi_code_of(status, message);

    thrum_plugin_log(THRUM_LOG_INFO, "MPI: %s", message);
    (void)PMPI_Comm_call_errhandler(comm, code);
    return code;
}

/* ---- the library's beginning and end ---- */

uint64_t tmpi_hash(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *byte = data;

    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ byte[i]) * 0x100000001b3u;
    return hash;
}

/* Equal for processes that run under the same kernel and name. */
static uint64_t host_hash(void)
{
    char text[256] = "";
    uint64_t hash;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (read(fd, text, sizeof text - 1) < 0)
            text[0] = 0;
        close(fd);
    }
    hash = tmpi_hash(0xcbf29ce484222325u, text, strlen(text));
    text[0] = 0;
    (void)gethostname(text, sizeof text - 1);
    return tmpi_hash(hash, text, strlen(text)) >> 1; /* positive as an int64_t */
}

/* What has to be the same on all ranks. */
static uint64_t settings_hash(void)
{
    static const char *const names[] = {"THRUM_MPI_TAKE", "THRUM_MPI_AFTER"};
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        hash = tmpi_hash(hash, thrum_plugin_config(names[i]),
                         strlen(thrum_plugin_config(names[i])) + 1);
    return tmpi_hash(hash, thrum_version(), strlen(thrum_version())) >> 1;
}

/* "64M" in bytes. */
static uint64_t bytes_of(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    return value << (*end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : *end == 'T' ? 40 : 0);
}

/* The deadline of Thrum's own programs is none that MPI programs know of: only another one is meant for them. */
static int64_t deadline_of(const char *text)
{
    return strcmp(text, DEADLINE_DEFAULT) ? strtoll(text, NULL, 10) : DEADLINE_LONGEST_MS;
}

static void unlink_comm(struct tmpi_comm *comm)
{
    pthread_mutex_lock(&lock);
    for (struct tmpi_comm **link = &comms; *link; link = &(*link)->next)
        if (*link == comm) {
            *link = comm->next;
            break;
        }
    pthread_mutex_unlock(&lock);
}

void tmpi_comm_destroy(struct tmpi_comm *comm)
{
    unlink_comm(comm);
    tmpi_requests_drop(comm);
    thrum_comm_destroy(comm->thrum);
    thrum_queue_destroy(comm->queue);
    free(comm->trials);
    pthread_mutex_destroy(&comm->lock);
    free(comm);
}

static int on_comm_free(MPI_Comm handle, int key, void *state, void *extra)
{
    struct tmpi_comm *comm = state;

    (void)handle, (void)key, (void)extra;
    comm->handle = MPI_COMM_NULL;
    atomic_fetch_add(&tmpi_generation, 1);
    if (tmpi_requests_leave(comm) || atomic_load(&tmpi.ready) < 0)
        tmpi_comm_destroy(comm);
    return MPI_SUCCESS;
}

/* MPI_Finalize has begun; MPI still works. */
static int on_finalize(MPI_Comm self, int key, void *state, void *extra)
{
    (void)self, (void)key, (void)state, (void)extra;
    atomic_store(&tmpi.ready, -1);
    atomic_fetch_add(&tmpi_generation, 1);
    tmpi_issuer_stop();
    while (comms) {
        struct tmpi_comm *comm = comms;

        if (comm->handle == MPI_COMM_NULL)
            tmpi_comm_destroy(comm);
        else
            (void)PMPI_Comm_delete_attr(comm->handle, comm_keyval); /* calls on_comm_free */
        if (comms == comm)
            break;
    }
    thrum_device_close(tmpi.device);
    tmpi.device = NULL;
    (void)PMPI_Comm_free(&tmpi.self);
    (void)PMPI_Comm_free_keyval(&comm_keyval);
    tmpi_types_fini();
    tmpi_report_print();
    return MPI_SUCCESS;
}

/* False where MPI itself refuses; then there is nothing to be done here at all. */
static bool attach(void)
{
    int provided, initialized, finalized;

    if (PMPI_Initialized(&initialized) || !initialized || PMPI_Finalized(&finalized) || finalized)
        return false;
    if (PMPI_Query_thread(&provided) || PMPI_Comm_dup(MPI_COMM_SELF, &tmpi.self))
        return false;
    tmpi.threads = provided == MPI_THREAD_MULTIPLE;
    (void)PMPI_Comm_set_errhandler(tmpi.self, MPI_ERRORS_RETURN);
    (void)PMPI_Comm_rank(MPI_COMM_WORLD, &tmpi.world_rank);
    (void)PMPI_Comm_size(MPI_COMM_WORLD, &tmpi.world_size);
    return !PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_comm_free, &comm_keyval, NULL) &&
           !PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_finalize, &self_keyval, NULL) &&
           !PMPI_Comm_set_attr(MPI_COMM_SELF, self_keyval, NULL) && tmpi_types_init();
}

static void read_settings(void)
{
    tmpi_report_init();
    tmpi.host = host_hash();
    tmpi.settings = settings_hash();
    tmpi.stage_bytes = bytes_of(thrum_plugin_config("THRUM_STAGE_BYTES"));
    tmpi.after = (unsigned)strtoul(thrum_plugin_config("THRUM_MPI_AFTER"), NULL, 10);
    tmpi.deadline_ms = deadline_of(thrum_plugin_config("THRUM_DEADLINE_MS"));
    tmpi.begun_ns = tmpi_now_ns();
    tmpi.works = tmpi_policy_init(); /* else this rank says so when a communicator is to be made */
}

bool tmpi_ready_slow(void)
{
    int initialized;

    if (PMPI_Initialized(&initialized) || !initialized)
        return false;
    pthread_mutex_lock(&lock);
    if (!atomic_load(&tmpi.ready)) {
        bool attached = attach();

        if (attached)
            read_settings();
        atomic_store_explicit(&tmpi.ready, attached ? 1 : -1, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return atomic_load(&tmpi.ready) > 0;
}

/* ---- the device ---- */

static bool open_device(void)
{
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&lock);
    if (!tmpi.device)
        status = thrum_device_open(THRUM_DEVICE_ANY, &tmpi.device);
    pthread_mutex_unlock(&lock);
    if (status)
        thrum_plugin_log(THRUM_LOG_WARN, "MPI stays below: no device: %s", thrum_last_error());
    return !status;
}

thrum_status_t thrum_mpi_device(thrum_device_t *device_out)
{
    if (!device_out)
        return thrum_plugin_fail(THRUM_ERR_INVALID_ARGUMENT, "device_out=NULL");
    if (!tmpi_ready())
        return thrum_plugin_fail(THRUM_ERR_INVALID_USAGE,
                                 "MPI is not initialized, or is being finalized");
    if (!open_device())
        return THRUM_ERR_NO_DEVICE;
    atomic_store(&tmpi.device_used, true);
    atomic_fetch_add(&tmpi_generation, 1);
    *device_out = tmpi.device;
    return THRUM_OK;
}

/* ---- communicators ---- */

/* What the ranks tell each other, each entry being the least of all. */
enum {
    SAID_WORKS,
    SAID_HOST,
    SAID_HOST_NEGATIVE,
    SAID_SETTINGS,
    SAID_SETTINGS_NEGATIVE,
    SAID_STAGE,
    SAID_UNCROWDED,
    SAID_AFFORDS,
    SAID_HOST_MEMORY,
    SAID
};

/* Whether what another one takes is little beside the time that has passed. The first one, mostly MPI_COMM_WORLD's, always is. */
static bool affords(const struct tmpi_comm *comm)
{
    int64_t now = tmpi_now_ns(), each, all;

    if (!tmpi.after || tmpi_policy_all())
        return true;
    pthread_mutex_lock(&lock);
    each = tmpi.nmade ? tmpi.making_ns / tmpi.nmade : 0;
    all = tmpi.making_ns + each;
    pthread_mutex_unlock(&lock);
    return now - comm->since_ns >= SHARE * each && now - tmpi.begun_ns >= SHARE * all;
}

static enum tmpi_reason agree(struct tmpi_comm *comm)
{
    int64_t mine[SAID], least[SAID];

    mine[SAID_WORKS] = tmpi.works && open_device();
    mine[SAID_HOST] = (int64_t)tmpi.host;
    mine[SAID_HOST_NEGATIVE] = -(int64_t)tmpi.host;
    mine[SAID_SETTINGS] = (int64_t)tmpi.settings;
    mine[SAID_SETTINGS_NEGATIVE] = -(int64_t)tmpi.settings;
    mine[SAID_STAGE] = (int64_t)tmpi.stage_bytes;
    mine[SAID_UNCROWDED] = tmpi.world_size <= sysconf(_SC_NPROCESSORS_ONLN);
    mine[SAID_AFFORDS] = affords(comm);
    mine[SAID_HOST_MEMORY] = !atomic_load(&tmpi.device_used);
    if (PMPI_Allreduce(mine, least, SAID, MPI_INT64_T, MPI_MIN, comm->handle) || !least[SAID_WORKS])
        return TMPI_FAILED;
    /* MPI refuses nonblocking calls with device memory, be it one rank's: that is not to depend on the time */
    if (!least[SAID_AFFORDS] && least[SAID_HOST_MEMORY])
        return TMPI_EARLY;
    if (least[SAID_SETTINGS] != -least[SAID_SETTINGS_NEGATIVE])
        return TMPI_CONFIG;
    if (least[SAID_HOST] != -least[SAID_HOST_NEGATIVE] && !tmpi_policy_all())
        return TMPI_HOSTS;
    comm->stage_bytes = (uint64_t)least[SAID_STAGE];
    comm->crowded = !least[SAID_UNCROWDED];
    comm->policy = tmpi_policy_of(comm->size, comm->crowded);
    return TMPI_TAKEN;
}

/*
 * Rules for choosing algorithms, in front of which the caller's have their say. A line carries data of host memory as it
 * does device memory's, where other algorithms have to stage it: so what fits a line goes by line, which the cost model,
 * made for device memory, says only of less. Sizes are of all blocks.
 */
static const char *rules_for(int size, char *text, size_t bytes)
{
    static const char *const whole[] = {"allreduce", "reduce", "broadcast", "scan", "exscan"};
    static const char *const blocks[] = {"allgather", "alltoall", "gather", "scatter",
                                         "reduce_scatter"};
    const int line = 4096;
    size_t length = 0;

    if (thrum_plugin_config("THRUM_ALGO")[0] || size > FEW_FOR_LINES)
        return NULL;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        length +=
            (size_t)snprintf(text + length, bytes - length, "%s:inline?:-%d,", whole[i], line);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        length += (size_t)snprintf(text + length, bytes - length, "%s:inline?:-%d,", blocks[i],
                                   size * line);
    text[length - 1] = 0;
    return text;
}

static thrum_status_t join(struct tmpi_comm *comm, const struct thrum_unique_id *id)
{
    char rules[512], name[MPI_MAX_OBJECT_NAME] = "";
    int length = 0; /* of the name, of which messages and tools show 47 characters */
    bool has_name = !PMPI_Comm_get_name(comm->handle, name, &length) && length > 0;
    struct thrum_comm_config config = {.size = sizeof config,
                                       .deadline_ms = tmpi.deadline_ms,
                                       .name = has_name ? name : NULL,
                                       .algorithms = rules_for(comm->size, rules, sizeof rules)};
    thrum_status_t status;

    comm->trials = calloc(TMPI_FUNCTIONS, sizeof *comm->trials);
    if (!comm->trials)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "no host memory for a communicator");
    status = thrum_comm_init_rank(id, comm->size, comm->rank, tmpi.device, &config, &comm->thrum);
    if (!status)
        status = thrum_queue_create(tmpi.device, THRUM_QUEUE_DIRECT, &comm->queue);
    for (int commutes = 0; commutes < 2 && !status; commutes++) {
        status = thrum_redop_create(comm->thrum, tmpi_user_fold, &comm->user, commutes,
                                    &comm->user_ops[commutes]);
        comm->has_user_ops = !status;
    }
    /* a device may lack functions of the host; all ranks' lack them */
    return status == THRUM_ERR_UNSUPPORTED && comm->queue ? THRUM_OK : status;
}

static void leave(struct tmpi_comm *comm)
{
    thrum_comm_destroy(comm->thrum);
    thrum_queue_destroy(comm->queue);
    free(comm->trials);
    comm->trials = NULL;
    comm->thrum = NULL;
    comm->queue = NULL;
}

static enum tmpi_reason make(struct tmpi_comm *comm)
{
    struct {
        int good;
        struct thrum_unique_id id;
    } start;
    enum tmpi_reason why = agree(comm);
    int64_t begin_ns = tmpi_now_ns();
    int good, all_good;

    if (why)
        return why;
    memset(&start, 0, sizeof start);
    if (comm->rank == 0)
        start.good = !thrum_get_unique_id(&start.id);
    if (PMPI_Bcast(&start, sizeof start, MPI_BYTE, 0, comm->handle) || !start.good)
        return TMPI_FAILED;
    good = !join(comm, &start.id);
    if (!good)
        thrum_plugin_log(THRUM_LOG_WARN, "MPI stays below for one communicator: %s",
                         thrum_last_error());
    if (PMPI_Allreduce(&good, &all_good, 1, MPI_INT, MPI_MIN, comm->handle))
        all_good = 0;
    pthread_mutex_lock(&lock);
    tmpi.making_ns += tmpi_now_ns() - begin_ns;
    tmpi.nmade += all_good != 0;
    pthread_mutex_unlock(&lock);
    if (!all_good)
        leave(comm);
    return all_good ? TMPI_TAKEN : TMPI_FAILED;
}

void tmpi_comm_make(struct tmpi_comm *comm)
{
    comm->why = make(comm);
    comm->made = comm->why != TMPI_EARLY;
    if (!comm->made)
        comm->after = comm->after < UINT_MAX / 2 ? 2 * comm->after : UINT_MAX;
    atomic_fetch_add(&tmpi_generation, 1);
}

static struct tmpi_comm *learn(MPI_Comm handle)
{
    struct tmpi_comm *comm;
    int inter, size, rank;

    if (PMPI_Comm_test_inter(handle, &inter) || PMPI_Comm_size(handle, &size) ||
        PMPI_Comm_rank(handle, &rank))
        return NULL;
    comm = calloc(1, sizeof *comm);
    if (!comm)
        return NULL;
    comm->handle = handle;
    comm->size = size;
    comm->rank = rank;
    comm->after = tmpi.after;
    comm->since_ns = tmpi_now_ns();
    comm->made = inter || size == 1;
    comm->why = inter ? TMPI_INTERCOMM : TMPI_ONE_RANK;
    pthread_mutex_init(&comm->lock, NULL);
    if (PMPI_Comm_set_attr(handle, comm_keyval, comm)) {
        pthread_mutex_destroy(&comm->lock);
        free(comm);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    comm->next = comms;
    comms = comm;
    pthread_mutex_unlock(&lock);
    return comm;
}

static struct tmpi_comm *look_up(MPI_Comm handle)
{
    struct tmpi_comm *comm;
    int found;

    if (PMPI_Comm_get_attr(handle, comm_keyval, &comm, &found))
        return NULL;
    return found ? comm : learn(handle);
}

/* By what calls on it may pass without being counted or looked at for device memory. */
static const struct tmpi_policy *policy_of(const struct tmpi_comm *comm)
{
    if (tmpi_reporting || atomic_load(&tmpi.device_used))
        return &tmpi_none_passes;
    if (!comm->made)
        return comm->calls < comm->after ? &tmpi_none_passes : &tmpi_nonblocking_pass;
    return comm->why ? &tmpi_all_pass : comm->policy;
}

struct tmpi_comm *tmpi_comm_learn(MPI_Comm handle)
{
    uint64_t generation = atomic_load_explicit(&tmpi_generation, memory_order_acquire);
    struct tmpi_comm *comm = look_up(handle);

    if (comm)
        tmpi_memories[tmpi_memory_of(handle)] = (struct tmpi_memory){
            .handle = handle, .generation = generation, .comm = comm, .policy = policy_of(comm)};
    return comm;
}
