/*
 * Inside the launchers: environment helpers and the ways to hand out an id. launch.c finds the launcher,
 * launch_exchange.c chooses the way; the others are one way each. Called by nobody else.
 */
#ifndef BOOTSTRAP_LAUNCH_H
#define BOOTSTRAP_LAUNCH_H

#include "bootstrap/internal.h"

/* launch.c: launcher variables. A malformed number is INVALID_CONFIG, naming the variable. */
const char *launch_env(const char *name); /* NULL if unset or empty */
/* *out is left alone if the variable is not there. */
thrum_status_t launch_env_int(const char *name, int least, int most, int *out);

/* launch_slurm.c: the first host of a Slurm node list such as "gpu[03-06,9],login1". False if it is malformed. */
bool launch_slurm_first_host(const char *list, char *host, size_t bytes);
/* "host:port" where rank 0 of this step is to serve. */
thrum_status_t launch_slurm_root(char *text, size_t bytes);

/*
 * launch_local.c: rank 0 makes an id and hands it to the others over an abstract unix socket whose name comes from the
 * user and `key`; both sides check the other's uid. All ranks are on one host.
 */
thrum_status_t launch_local_exchange(const struct launch_info *info, const char *key,
                                     uint64_t instance, int64_t deadline,
                                     struct thrum_unique_id *id_out);

/* launch_pmix.c. UNSUPPORTED: no usable libpmix; the message says why. */
thrum_status_t launch_pmix_exchange(const struct launch_info *info, uint64_t instance,
                                    int64_t deadline, struct thrum_unique_id *id_out);
/* Size of the job, asked from the server, where no variable says it. */
thrum_status_t launch_pmix_size(int *nranks_out);

/* launch_pmi.c: PMI-1 over PMI_FD. */
thrum_status_t launch_pmi_exchange(const struct launch_info *info, uint64_t instance,
                                   int64_t deadline, struct thrum_unique_id *id_out);

#endif
