/*
 * Which launcher started this process, and what rank it gave it. Called by thrum_comm_init and thrum_launch_info.
 * The only place besides its neighbours launch_*.c that reads variables which are not THRUM_*. See docs/launching.md.
 */
#include "bootstrap/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

const char *launch_env(const char *name)
{
    const char *text = getenv(name);

    return text && *text ? text : NULL;
}

thrum_status_t launch_env_int(const char *name, int least, int most, int *out)
{
    const char *text = launch_env(name);
    char *end;
    long value;

    if (!text)
        return THRUM_OK;
    errno = 0;
    value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < least || value > most)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s=\"%.80s\" is not a number from %d to %d",
                          name, text, least, most);
    *out = (int)value;
    return THRUM_OK;
}

/* One row per launcher: the variables that say rank, size and local rank. */
struct launcher {
    const char *name;
    const char *rank, *size, *other_size, *local_rank;
    bool (*present)(void);
};

static bool torchrun_present(void)
{
    return launch_env("TORCHELASTIC_RUN_ID") && launch_env("RANK");
}

static bool pmix_present(void)
{
    return launch_env("PMIX_RANK") && launch_env("PMIX_NAMESPACE");
}

static bool open_mpi_present(void)
{
    return launch_env("OMPI_COMM_WORLD_RANK") || launch_env("OMPI_COMM_WORLD_SIZE");
}

static bool pmi_present(void)
{
    return launch_env("PMI_FD");
}

static bool slurm_present(void)
{
    /* A batch script has SLURM_PROCID too, but is no rank: only a step's tasks are. */
    return launch_env("SLURM_PROCID") &&
           (launch_env("SLURM_STEP_ID") || launch_env("SLURM_STEPID"));
}

static bool torch_variables_present(void)
{
    return launch_env("RANK") && launch_env("WORLD_SIZE");
}

/*
 * In this order. torchrun is often started by srun or mpirun, once per host, and so inherits their variables; the
 * bare torch variables are also exported by scripts under another launcher, which then knows better.
 */
static const struct launcher launchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", NULL, "LOCAL_RANK", torchrun_present},
    {"pmix", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS",
     "OMPI_COMM_WORLD_LOCAL_RANK", pmix_present},
    {"open-mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL, "OMPI_COMM_WORLD_LOCAL_RANK",
     open_mpi_present},
    {"pmi", "PMI_RANK", "PMI_SIZE", NULL, "MPI_LOCALRANKID", pmi_present},
    {"slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID",
     slurm_present},
    {"torchrun", "RANK", "WORLD_SIZE", NULL, "LOCAL_RANK", torch_variables_present},
};

static thrum_status_t check(const struct launch_info *info, const char *rank_name,
                            const char *size_name)
{
    if (info->rank < 0 || info->nranks < 1)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s is set and %s is not",
                          info->rank < 0 ? size_name : rank_name,
                          info->rank < 0 ? rank_name : size_name);
    if (info->rank >= info->nranks)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s=%d is not below %s=%d", rank_name,
                          info->rank, size_name, info->nranks);
    return THRUM_OK;
}

static thrum_status_t read_launcher(const struct launcher *launcher, struct launch_info *info)
{
    const char *size_name = launcher->size;
    thrum_status_t status;

    info->launcher = launcher->name;
    if (!launch_env(size_name) && launcher->other_size && launch_env(launcher->other_size))
        size_name = launcher->other_size;
    if ((status = launch_env_int(launcher->rank, 0, BOOT_MAX_RANKS - 1, &info->rank)) ||
        (status = launch_env_int(size_name, 1, BOOT_MAX_RANKS, &info->nranks)) ||
        (status = launch_env_int(launcher->local_rank, 0, BOOT_MAX_RANKS - 1, &info->local_rank)))
        return status;
    if (info->local_rank < 0 &&
        (status = launch_env_int("SLURM_LOCALID", 0, BOOT_MAX_RANKS - 1, &info->local_rank)))
        return status;
    if (launcher->present == pmix_present && info->nranks < 0) {
        /* PRRTE's prun: only the server knows. */
        if ((status = launch_pmix_size(&info->nranks)))
            return status;
        size_name = "the PMIx job size";
    }
    return check(info, launcher->rank, size_name);
}

static thrum_status_t read_thrum(struct launch_info *info)
{
    info->launcher = "thrum";
    info->rank = (int)thrum_config_int(CFG_RANK);
    info->nranks = (int)thrum_config_int(CFG_SIZE);
    if (info->nranks == 0)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "THRUM_SIZE=0: a job has at least one rank");
    if (info->nranks > 1 && info->rank >= 0 && !*thrum_config_string(CFG_ROOT))
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "THRUM_RANK and THRUM_SIZE are set and THRUM_ROOT (host:port of rank 0) "
                          "is not");
    return check(info, "THRUM_RANK", "THRUM_SIZE");
}

static thrum_status_t find(struct launch_info *info)
{
    if (thrum_config_int(CFG_RANK) >= 0 || thrum_config_int(CFG_SIZE) >= 0)
        return read_thrum(info);
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (launchers[i].present())
            return read_launcher(&launchers[i], info);
    return thrum_fail(THRUM_ERR_INVALID_USAGE,
                      "no launcher found: looked for THRUM_RANK and THRUM_SIZE, torchrun (RANK, "
                      "WORLD_SIZE), PMIx (PMIX_RANK, PMIX_NAMESPACE), Open MPI "
                      "(OMPI_COMM_WORLD_RANK), PMI (PMI_FD), a Slurm step (SLURM_PROCID, "
                      "SLURM_STEP_ID)");
}

thrum_status_t launch_detect(struct launch_info *info_out)
{
    struct launch_info info = {.rank = -1, .nranks = -1, .local_rank = -1};
    thrum_status_t status;

    if (!info_out)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "info_out is NULL");
    if ((status = thrum_config_load()) || (status = find(&info)))
        return status;
    if (thrum_config_int(CFG_LOCAL_RANK) >= 0)
        info.local_rank = (int)thrum_config_int(CFG_LOCAL_RANK);
    *info_out = info;
    return THRUM_OK;
}
