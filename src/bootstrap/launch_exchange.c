/*
 * How the ranks of a launched job come by one id. Called by thrum_comm_init.
 *
 * Where the launcher has a channel of its own (PMIx, PMI), rank 0's random id goes over it. Where only an address is
 * known, the id has to be computed on each side from a secret that the user gives, or, on one host, handed out by a
 * unix socket, where the kernel says who is at the other end.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/config.h"
#include "bootstrap/launch.h"

#define SECRET_LEAST 16
#define BUSY_RETRY_NS \
    (2000 * MS_NS) /* for the communicator before this one to let go of the port */

/* ---- an address and a secret ---- */

static thrum_status_t derive(const char *root, uint64_t instance, struct thrum_unique_id *id_out)
{
    const char *secret = thrum_config_string(CFG_SECRET);
    size_t a = strlen(secret) + 1, b = strlen(root) + 1;
    uint8_t *bytes = malloc(a + b + 8);
    thrum_status_t status;

    if (!bytes)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for the id");
    memcpy(bytes, secret, a);
    memcpy(bytes + a, root, b);
    boot_put_u64(bytes + a + b, instance);
    status = bootstrap_id_from(root, bytes, a + b + 8, id_out);
    sodium_memzero(bytes, a + b + 8);
    free(bytes);
    if (status == THRUM_ERR_INVALID_CONFIG && !strcmp(root, thrum_config_string(CFG_ROOT)))
        return thrum_fail(status, "THRUM_ROOT: %s", thrum_last_error());
    return status;
}

static thrum_status_t serve(const struct thrum_unique_id *id, int64_t deadline)
{
    int64_t due = now_ns() + BUSY_RETRY_NS;
    thrum_status_t status;

    while ((status = bootstrap_serve(id)) == THRUM_ERR_BUSY && now_ns() < due &&
           now_ns() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 5 * MS_NS}, NULL);
    return status;
}

static thrum_status_t exchange_by_secret(const struct launch_info *info, const char *root,
                                         uint64_t instance, int64_t deadline,
                                         struct thrum_unique_id *id_out)
{
    struct thrum_unique_id id;
    thrum_status_t status;

    if (strlen(thrum_config_string(CFG_SECRET)) < SECRET_LEAST)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "THRUM_SECRET has %zu characters; at least %d, taken at random, keep "
                          "strangers out",
                          strlen(thrum_config_string(CFG_SECRET)), SECRET_LEAST);
    if ((status = derive(root, instance, &id)))
        return status;
    if (!info->rank && (status = serve(&id, deadline)))
        return status;
    *id_out = id;
    return THRUM_OK;
}

/* ---- an address only ---- */

/* What the launcher says about hosts: 1 one, 0 several, -1 nothing. */
static thrum_status_t one_host(const struct launch_info *info, int *answer_out)
{
    int nodes = -1, local = -1;
    thrum_status_t status;

    if ((status = launch_env_int("SLURM_STEP_NUM_NODES", 1, INT32_MAX, &nodes)) ||
        (status = launch_env_int("LOCAL_WORLD_SIZE", 1, INT32_MAX, &local)))
        return status;
    *answer_out = -1;
    if (!strcmp(info->launcher, "slurm") && nodes > 0)
        *answer_out = nodes == 1;
    if (!strcmp(info->launcher, "torchrun") && local > 0)
        *answer_out = local >= info->nranks;
    return THRUM_OK;
}

static thrum_status_t exchange_on_host(const struct launch_info *info, const char *root,
                                       const char *job, uint64_t instance, int64_t deadline,
                                       struct thrum_unique_id *id_out)
{
    struct boot_address address;
    thrum_status_t status;
    char key[600];
    bool named;
    int one;

    if ((status = one_host(info, &one)))
        return status;
    if (one < 0) {
        if ((status = boot_address_resolve(root, &address, &named)))
            return status;
        one = boot_address_is_local(&address);
    }
    if (!one)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "rank %d of %d: the job spans several hosts (rank 0 is at %.200s) and "
                          "THRUM_SECRET is not set. %s has no channel for a secret, so set the "
                          "same THRUM_SECRET (at least %d random characters) for every rank; "
                          "without one anybody who reaches the port could join",
                          info->rank, info->nranks, root, info->launcher, SECRET_LEAST);
    snprintf(key, sizeof key, "%s/%.255s/%.255s", info->launcher, root, job);
    return launch_local_exchange(info, key, instance, deadline, id_out);
}

static thrum_status_t find_root(const struct launch_info *info, char *root, size_t bytes, char *job,
                                size_t job_bytes)
{
    const char *text;
    int port = -1;
    thrum_status_t status;

    job[0] = 0;
    if (info->root) {
        snprintf(root, bytes, "%s", info->root);
        return THRUM_OK;
    }
    if (!strcmp(info->launcher, "thrum")) {
        snprintf(root, bytes, "%s", thrum_config_string(CFG_ROOT));
        return THRUM_OK;
    }
    if (!strcmp(info->launcher, "slurm")) {
        const char *id = launch_env("SLURM_JOB_ID"), *step = launch_env("SLURM_STEP_ID");

        snprintf(job, job_bytes, "%s.%s", id ? id : "", step ? step : "");
        return launch_slurm_root(root, bytes);
    }
    text = launch_env("MASTER_ADDR");
    if ((status = launch_env_int("MASTER_PORT", 1, 65534, &port)))
        return status;
    if (!text || port < 0)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "RANK and WORLD_SIZE are set and %s is not",
                          text ? "MASTER_PORT" : "MASTER_ADDR");
    /* MASTER_PORT itself is where torch's own store listens. */
    if (thrum_config_int(CFG_BOOTSTRAP_PORT))
        port = (int)thrum_config_int(CFG_BOOTSTRAP_PORT);
    else
        port++;
    snprintf(root, bytes, strchr(text, ':') ? "[%s]:%d" : "%s:%d", text, port);
    text = launch_env("TORCHELASTIC_RUN_ID");
    snprintf(job, job_bytes, "%s", text ? text : "");
    return THRUM_OK;
}

static thrum_status_t exchange_by_address(const struct launch_info *info, uint64_t instance,
                                          int64_t deadline, struct thrum_unique_id *id_out)
{
    char root[300], job[256];
    thrum_status_t status = find_root(info, root, sizeof root, job, sizeof job);

    if (status)
        return status;
    if (*thrum_config_string(CFG_SECRET))
        return exchange_by_secret(info, root, instance, deadline, id_out);
    return exchange_on_host(info, root, job, instance, deadline, id_out);
}

/* ---- Open MPI without libpmix ---- */

static thrum_status_t exchange_open_mpi(const struct launch_info *info, uint64_t instance,
                                        int64_t deadline, struct thrum_unique_id *id_out)
{
    static const char *const job_names[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid",
                                            "OMPI_MCA_orte_hnp_uri"};
    int local = -1;
    thrum_status_t status;
    char key[400], why[300];
    size_t used;

    snprintf(why, sizeof why, "%s", thrum_last_error());
    if ((status = launch_env_int("OMPI_COMM_WORLD_LOCAL_SIZE", 1, INT32_MAX, &local)))
        return status;
    if (local < info->nranks)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "%d ranks started by Open MPI on several hosts need libpmix.so.2 to meet "
                          "(%.200s); install it, or set THRUM_RANK, THRUM_SIZE, THRUM_ROOT and "
                          "THRUM_SECRET",
                          info->nranks, *why ? why : "PMIX_RANK is not set");
    used = (size_t)snprintf(key, sizeof key, "open-mpi");
    for (size_t i = 0; i < sizeof job_names / sizeof *job_names; i++) {
        const char *text = launch_env(job_names[i]);

        if (text && used < sizeof key)
            used += (size_t)snprintf(key + used, sizeof key - used, "/%.120s", text);
    }
    return launch_local_exchange(info, key, instance, deadline, id_out);
}

static thrum_status_t exchange_pmix(const struct launch_info *info, uint64_t instance,
                                    int64_t deadline, struct thrum_unique_id *id_out)
{
    thrum_status_t status = launch_pmix_exchange(info, instance, deadline, id_out);

    if (status == THRUM_ERR_UNSUPPORTED && launch_env("OMPI_COMM_WORLD_SIZE"))
        return exchange_open_mpi(info, instance, deadline, id_out);
    return status;
}

thrum_status_t launch_exchange_id(const struct launch_info *info, uint64_t instance,
                                  int64_t deadline_ms, struct thrum_unique_id *id_out)
{
    int64_t deadline;

    if (!info || !id_out || info->nranks < 1 || info->rank < 0 || info->rank >= info->nranks)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "info or id_out is NULL or malformed");
    if (deadline_ms < 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "deadline is %lld ms",
                          (long long)deadline_ms);
    deadline = now_ns() + (int64_t)min_u64((uint64_t)deadline_ms, 1ull << 40) * MS_NS;
    if (info->nranks == 1)
        return bootstrap_make_id(id_out);
    if (info->root)
        return exchange_by_address(info, instance, deadline, id_out);
    if (!strcmp(info->launcher, "pmix"))
        return exchange_pmix(info, instance, deadline, id_out);
    if (!strcmp(info->launcher, "open-mpi")) {
        (void)thrum_set_last_error(THRUM_OK, "");
        return exchange_open_mpi(info, instance, deadline, id_out);
    }
    if (!strcmp(info->launcher, "pmi"))
        return launch_pmi_exchange(info, instance, deadline, id_out);
    return exchange_by_address(info, instance, deadline, id_out);
}
