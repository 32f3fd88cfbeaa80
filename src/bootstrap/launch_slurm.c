/* Slurm without PMIx: where rank 0 is. Called by launch_exchange.c. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "bootstrap/launch.h"

/* Above the range from which Linux takes ports of its own accord (32768 to 60999). */
#define FIRST_PORT 61001
#define PORTS 4000

bool launch_slurm_first_host(const char *list, char *host, size_t bytes)
{
    size_t n = 0;

    while (*list && *list != ',') {
        if (*list != '[') {
            if (n + 1 >= bytes || *list == ']')
                return false;
            host[n++] = *list++;
            continue;
        }
        for (list++; *list && !strchr(",-]", *list); list++) {
            if (n + 1 >= bytes)
                return false;
            host[n++] = *list;
        }
        list = strchr(list, ']');
        if (!list)
            return false;
        list++;
    }
    host[n] = 0;
    return n > 0;
}

thrum_status_t launch_slurm_root(char *text, size_t bytes)
{
    const char *list = launch_env("SLURM_STEP_NODELIST");
    const char *name = "SLURM_STEP_NODELIST";
    int job = 0, step = 0, port = (int)thrum_config_int(CFG_BOOTSTRAP_PORT);
    thrum_status_t status;
    char host[256];

    if (!list)
        list = launch_env(name = "SLURM_JOB_NODELIST");
    if (!list)
        list = launch_env(name = "SLURM_NODELIST");
    if (!list)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "SLURM_PROCID is set and SLURM_STEP_NODELIST and SLURM_JOB_NODELIST are "
                          "not: where is rank 0?");
    if (!launch_slurm_first_host(list, host, sizeof host))
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "%s=\"%.200s\" is not a node list", name, list);
    if ((status = launch_env_int("SLURM_JOB_ID", 0, INT32_MAX, &job)) ||
        (status = launch_env_int("SLURM_STEP_ID", 0, INT32_MAX, &step)))
        return status;
    if (!port)
        port = FIRST_PORT + (int)(((int64_t)job * 31 + step) % PORTS);
    snprintf(text, bytes, "%s:%d", host, port);
    return THRUM_OK;
}
