/*
 * The id over PMI-1: MPICH's mpiexec (Hydra), srun --mpi=pmi2 (which speaks PMI-1 to clients that ask for it). Called
 * by launch_exchange.c.
 *
 * The protocol is lines of key=value words on the socket PMI_FD: init, get_maxes, get_my_kvsname, put, barrier_in, get,
 * finalize. An MPI library in the same process would use the same socket; its lines are not mixed with these as long
 * as nobody calls both at once. Not spoken: PMI-2's own commands, PMI_PORT (mpiexec -pmi-port).
 */
#include "bootstrap/launch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 2048
#define NAME_BYTES 512
enum { ID_TEXT = 2 * THRUM_UNIQUE_ID_BYTES + 1 };

static struct {
    pthread_mutex_t lock; /* all of it, for the length of one exchange */
    bool ready;
    pid_t owner; /* a child of fork that exits does not say goodbye for its parent */
    int fd;
    char name[NAME_BYTES]; /* of the key-value space */
} pmi = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

/* ---- lines ---- */

static bool wait_for(short events, int64_t deadline)
{
    struct pollfd fd = {.fd = pmi.fd, .events = events};
    int rc;

    do
        rc = poll(&fd, 1, boot_poll_ms(deadline, now_ns()));
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

/* The socket may be blocking, and others use it: neither is changed. */
static bool send_line(const char *line, int64_t deadline)
{
    size_t left = strlen(line);

    while (left) {
        ssize_t n =
            wait_for(POLLOUT, deadline) ? send(pmi.fd, line, left, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

        if (n < 0 && errno == ENOTSOCK)
            n = write(pmi.fd, line, left);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return false;
        line += n;
        left -= (size_t)n;
    }
    return true;
}

/* Byte by byte, so that nothing of a later line is taken. */
static bool read_line(char *line, size_t bytes, int64_t deadline)
{
    for (size_t i = 0; i + 1 < bytes; i++) {
        ssize_t n = wait_for(POLLIN, deadline) ? read(pmi.fd, &line[i], 1) : 0;

        if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
            i--;
            continue;
        }
        if (n <= 0)
            return false;
        if (line[i] == '\n') {
            line[i] = 0;
            return true;
        }
    }
    return false;
}

/* Value of `key` in a line; NULL if it is not there. The value ends at a blank. */
static const char *word(const char *line, const char *key, char *value, size_t bytes)
{
    size_t length = strlen(key);

    for (const char *at = line; (at = strstr(at, key)); at++) {
        size_t n;

        if ((at != line && at[-1] != ' ') || at[length] != '=')
            continue;
        at += length + 1;
        n = strcspn(at, " ");
        if (n >= bytes)
            return NULL;
        memcpy(value, at, n);
        value[n] = 0;
        return value;
    }
    return NULL;
}

/* Sends a command and takes its answer. */
static thrum_status_t command(const char *request, const char *expected, char *answer,
                              int64_t deadline)
{
    char got[NAME_BYTES] = "", rc[32] = "0";

    if (!send_line(request, deadline) || !read_line(answer, LINE_BYTES, deadline)) {
        if (now_ns() >= deadline)
            return thrum_fail(THRUM_ERR_TIMEOUT,
                              "the PMI server did not answer \"%.30s\" in time: not every rank has "
                              "come",
                              expected);
        return thrum_fail(THRUM_ERR_UNREACHABLE,
                          "the PMI server has closed PMI_FD (was MPI_Finalize called?)");
    }
    (void)word(answer, "cmd", got, sizeof got);
    (void)word(answer, "rc", rc, sizeof rc);
    if (strcmp(got, expected) || strcmp(rc, "0"))
        return thrum_fail(THRUM_ERR_PROTOCOL,
                          "the PMI server answers \"%.100s\" where PMI-1 has cmd=%s rc=0", answer,
                          expected);
    return THRUM_OK;
}

/* ---- start and end ---- */

static void at_exit(void)
{
    char line[LINE_BYTES];
    int64_t soon = now_ns() + 1000 * MS_NS;

    /* without it the launcher thinks of a crash */
    if (getpid() == pmi.owner && send_line("cmd=finalize\n", soon))
        (void)read_line(line, sizeof line, soon);
}

static thrum_status_t start_locked(int64_t deadline)
{
    char answer[LINE_BYTES], text[64] = "";
    thrum_status_t status;
    int fd = -1;

    if ((status = launch_env_int("PMI_FD", 0, 1 << 20, &fd)))
        return status;
    pmi.fd = fd;
    status =
        command("cmd=init pmi_version=1 pmi_subversion=1\n", "response_to_init", answer, deadline);
    if (status)
        return status;
    if (strcmp(word(answer, "pmi_version", text, sizeof text) ? text : "", "1"))
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "the PMI server speaks version \"%s\" only; this needs PMI-1 or PMIx "
                          "(with Slurm: srun --mpi=pmix)",
                          text);
    if ((status = command("cmd=get_maxes\n", "maxes", answer, deadline)))
        return status;
    if (!word(answer, "vallen_max", text, sizeof text) || atoi(text) < ID_TEXT)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "the PMI server takes values of %s bytes; an id needs %d", text, ID_TEXT);
    if ((status = command("cmd=get_my_kvsname\n", "my_kvsname", answer, deadline)))
        return status;
    if (!word(answer, "kvsname", pmi.name, sizeof pmi.name))
        return thrum_fail(THRUM_ERR_PROTOCOL, "the PMI server does not say its kvsname");
    pmi.ready = true;
    pmi.owner = getpid();
    atexit(at_exit);
    return THRUM_OK;
}

/* ---- the exchange ---- */

static thrum_status_t publish(uint64_t instance, int64_t deadline, struct thrum_unique_id *id_out)
{
    char request[LINE_BYTES], answer[LINE_BYTES], hex[ID_TEXT];
    struct thrum_unique_id id;
    thrum_status_t status = bootstrap_make_id(&id);

    if (status)
        return status;
    sodium_bin2hex(hex, sizeof hex, id.bytes, sizeof id.bytes);
    snprintf(request, sizeof request, "cmd=put kvsname=%s key=thrum-id-%llu value=%s\n", pmi.name,
             (unsigned long long)instance, hex);
    if ((status = command(request, "put_result", answer, deadline)) ||
        (status = command("cmd=barrier_in\n", "barrier_out", answer, deadline))) {
        bootstrap_withdraw(&id);
        return status;
    }
    *id_out = id;
    return THRUM_OK;
}

static thrum_status_t fetch(uint64_t instance, int64_t deadline, struct thrum_unique_id *id_out)
{
    char request[LINE_BYTES], answer[LINE_BYTES], hex[ID_TEXT];
    struct thrum_unique_id id;
    thrum_status_t status;
    size_t n = 0;

    snprintf(request, sizeof request, "cmd=get kvsname=%s key=thrum-id-%llu\n", pmi.name,
             (unsigned long long)instance);
    if ((status = command("cmd=barrier_in\n", "barrier_out", answer, deadline)) ||
        (status = command(request, "get_result", answer, deadline)))
        return status;
    if (!word(answer, "value", hex, sizeof hex) ||
        sodium_hex2bin(id.bytes, sizeof id.bytes, hex, strlen(hex), NULL, &n, NULL) ||
        n != sizeof id.bytes)
        return thrum_fail(THRUM_ERR_PROTOCOL, "the PMI server gives something that is not an id");
    *id_out = id;
    return THRUM_OK;
}

thrum_status_t launch_pmi_exchange(const struct launch_info *info, uint64_t instance,
                                   int64_t deadline, struct thrum_unique_id *id_out)
{
    thrum_status_t status = THRUM_OK;

    pthread_mutex_lock(&pmi.lock);
    if (!pmi.ready)
        status = start_locked(deadline);
    if (!status)
        status =
            info->rank ? fetch(instance, deadline, id_out) : publish(instance, deadline, id_out);
    pthread_mutex_unlock(&pmi.lock);
    return status;
}
