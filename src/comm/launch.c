/* Communicators from a launcher's environment, and for many devices of one process. Public entry points. */
#include "comm/comm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/config.h"

thrum_status_t thrum_get_unique_id(struct thrum_unique_id *id_out)
{
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!id_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "id_out is NULL");
    return bootstrap_make_id(id_out);
}

thrum_status_t thrum_launch_info(int *rank_out, int *nranks_out, int *local_rank_out)
{
    struct launch_info info;
    thrum_status_t status = thrum_config_load();

    if (!status)
        status = launch_detect(&info);
    if (status)
        return status;
    if (rank_out)
        *rank_out = info.rank;
    if (nranks_out)
        *nranks_out = info.nranks;
    if (local_rank_out)
        *local_rank_out = info.local_rank;
    return THRUM_OK;
}

thrum_status_t thrum_comm_init(thrum_device_t device, const struct thrum_comm_config *config,
                               thrum_comm_t *comm_out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t instances; /* how many this process asked the launcher for; under the lock */
    struct thrum_unique_id id;
    struct launch_info info;
    struct thrum_comm_config effective;
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!comm_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (!device_is_valid(device))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "device=%p is not an open device",
                          (void *)device);
    status = comm_effective_config(config, &effective);
    if (!status)
        status = launch_detect(&info);
    if (status)
        return status;
    /* One after the other: the launcher's fence, and the address, are good for one communicator at a time. */
    pthread_mutex_lock(&lock);
    status = launch_exchange_id(&info, instances++, effective.init_deadline_ms, &id);
    if (!status)
        status = comm_create(&id, info.nranks, info.rank, device, config, comm_out);
    pthread_mutex_unlock(&lock);
    return status;
}

/* How often a rank of this process has asked for an id at an address. */
struct agreement {
    struct agreement *next;
    int rank, nranks;
    uint32_t asked;
    char root[];
};

/*
 * Which of the communicators that meet at the address this is to be, so that each has an id and keys of its own. Ranks
 * come there alike, so each counts for itself; several may be in one process.
 */
static thrum_status_t next_instance(const char *root, int rank, int nranks, uint64_t *instance_out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct agreement *first; /* under the lock; never freed */
    struct agreement *a;

    pthread_mutex_lock(&lock);
    for (a = first; a; a = a->next)
        if (a->rank == rank && a->nranks == nranks && !strcmp(a->root, root))
            break;
    if (!a && (a = calloc(1, sizeof *a + strlen(root) + 1))) {
        a->rank = rank;
        a->nranks = nranks;
        strcpy(a->root, root);
        a->next = first;
        first = a;
    }
    if (a)
        *instance_out = (uint64_t)(unsigned)nranks << 32 | a->asked++;
    pthread_mutex_unlock(&lock);
    return a ? THRUM_OK : thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for the id");
}

thrum_status_t thrum_agree_unique_id(const char *root, int rank, int nranks,
                                     struct thrum_unique_id *id_out)
{
    const struct launch_info info = {
        .rank = rank, .nranks = nranks, .local_rank = -1, .launcher = "an address", .root = root};
    thrum_status_t status = thrum_config_load();
    uint64_t instance = 0;

    if (status)
        return status;
    if (!root || !id_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s is NULL", root ? "id_out" : "root");
    if (strlen(root) > 255)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "root has %zu characters, not up to 255",
                          strlen(root));
    if (rank < 0 || rank >= nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "rank=%d of nranks=%d", rank, nranks);
    status = next_instance(root, rank, nranks, &instance);
    return status ? status
                  : launch_exchange_id(&info, instance, thrum_config_int(CFG_INIT_DEADLINE_MS),
                                       id_out);
}

/* One rank of thrum_comm_init_all, on a thread of its own. */
struct joiner {
    pthread_t thread;
    const struct thrum_unique_id *id;
    int rank, nranks;
    thrum_device_t device;
    const struct thrum_comm_config *config;
    thrum_comm_t comm;
    thrum_status_t status;
    char message[512];
};

static void *join_rank(void *argument)
{
    struct joiner *joiner = argument;

    joiner->status = comm_create(joiner->id, joiner->nranks, joiner->rank, joiner->device,
                                 joiner->config, &joiner->comm);
    if (joiner->status)
        snprintf(joiner->message, sizeof joiner->message, "%s", thrum_last_error());
    return NULL;
}

static thrum_status_t check_devices(const thrum_device_t *devices, int n)
{
    for (int i = 0; i < n; i++) {
        if (!device_is_valid(devices[i]))
            return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "devices[%d]=%p is not an open device", i,
                              (void *)devices[i]);
        for (int j = 0; j < i; j++)
            if (devices[j] == devices[i])
                return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                                  "devices[%d] and devices[%d] are the same device", j, i);
    }
    return THRUM_OK;
}

thrum_status_t thrum_comm_init_all(const thrum_device_t *devices, int n,
                                   const struct thrum_comm_config *config, thrum_comm_t *comms_out)
{
    struct thrum_unique_id id;
    struct joiner *joiners;
    int started = 0;
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!devices || !comms_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s is NULL",
                          devices ? "comms_out" : "devices");
    if (n < 1 || n > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "n=%d is not between 1 and 4096", n);
    status = check_devices(devices, n);
    if (!status)
        status = bootstrap_make_id(&id);
    if (status)
        return status;
    joiners = calloc((size_t)n, sizeof *joiners);
    if (!joiners) {
        bootstrap_withdraw(&id);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", n);
    }
    for (; started < n; started++) {
        joiners[started] = (struct joiner){
            .id = &id, .rank = started, .nranks = n, .device = devices[started], .config = config};
        if (pthread_create(&joiners[started].thread, NULL, join_rank, &joiners[started])) {
            status = thrum_fail(THRUM_ERR_LIMIT, "no thread for rank %d of %d", started, n);
            bootstrap_withdraw(&id); /* those that have one need not wait for it */
            break;
        }
    }
    for (int i = 0; i < started; i++)
        pthread_join(joiners[i].thread, NULL);
    for (int i = 0; i < started && !status; i++)
        if (joiners[i].status)
            status = thrum_set_last_error(joiners[i].status, joiners[i].message);
    for (int i = 0; i < started; i++) {
        if (status)
            thrum_comm_destroy(joiners[i].comm);
        else
            comms_out[i] = joiners[i].comm;
    }
    free(joiners);
    return status;
}
