/*
 * One rank of a launched job, run by launch_mpirun.sh: three communicators from the launcher's environment, before,
 * during and after MPI where asked for. Arguments: "plain", or "mpi-first" or "mpi-last" where MPI is there.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef LAUNCH_WITH_MPI
#include <mpi.h>
#endif

#include "base/base.h"
#include "bootstrap/bootstrap.h"

static void check(thrum_status_t status, const char *what)
{
    if (!status)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, thrum_status_name(status), thrum_last_error());
    exit(1);
}

static void communicator(const struct launch_info *info, uint64_t instance)
{
    struct thrum_unique_id id;
    struct bootstrap *b;
    int *ranks = calloc((size_t)info->nranks, sizeof *ranks);

    check(launch_exchange_id(info, instance, 30000, &id), "launch_exchange_id");
    check(bootstrap_join(&id, info->rank, info->nranks, 30000, &b), "bootstrap_join");
    ranks[info->rank] = 1000 + info->rank;
    check(bootstrap_allgather(b, ranks, sizeof *ranks), "bootstrap_allgather");
    for (int r = 0; r < info->nranks; r++)
        if (ranks[r] != 1000 + r)
            exit(1);
    bootstrap_close(b);
    free(ranks);
}

/* As a server that starts workers does: it does not say goodbye to the launcher for its parent, nor wait for that. */
static void exit_in_a_child(void)
{
    pid_t child = fork();
    int how;

    if (!child) {
        alarm(10);
        exit(0);
    }
    if (child < 0 || waitpid(child, &how, 0) != child || how) {
        fprintf(stderr, "a child that exits does not come to its end\n");
        exit(1);
    }
}

#ifdef LAUNCH_WITH_MPI
static void use_mpi(const struct launch_info *info)
{
    int sum = 0, one = 1;

    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (sum != info->nranks)
        exit(1);
}
#endif

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "plain";
    struct launch_info info;

    check(launch_detect(&info), "launch_detect");
#ifdef LAUNCH_WITH_MPI
    if (!strcmp(how, "mpi-first"))
        MPI_Init(NULL, NULL);
#endif
    communicator(&info, 0);
    if (!strcmp(how, "plain")) /* MPI has not been asked whether it takes a fork */
        exit_in_a_child();
    communicator(&info, 1);
#ifdef LAUNCH_WITH_MPI
    if (!strcmp(how, "mpi-last"))
        MPI_Init(NULL, NULL);
    if (strcmp(how, "plain")) {
        use_mpi(&info);
        communicator(&info, 2);
        MPI_Finalize();
        communicator(&info, 3);
    }
#endif
    printf("rank %d of %d by %s, local rank %d, %s: joined\n", info.rank, info.nranks,
           info.launcher, info.local_rank, how);
    return 0;
}
