/*
 * Training that outlives its ranks: when some die, the others go on without them; when a spare one comes, it takes part.
 *
 *   for r in 0 1 2 3; do THRUM_RANK=$r THRUM_SIZE=4 THRUM_ROOT=127.0.0.1:4711 elastic invitation & done
 *   sleep 3; kill -9 $!              # the last one: the others say so, and go on
 *   elastic --join invitation        # and now they are four again
 *
 * The ranks sum their gradients as those of digits.c do, here straight from host memory. A dead rank makes every
 * operation end with an error. Those that are left, whoever they are, shrink the communicator to themselves, take over the
 * model of the first of them, and repeat the epoch. Rank 0 keeps a file with an id by which one more rank can join. Who takes
 * the file away comes: at the end of the epoch all grow the communicator, and the new rank gets the model by broadcast.
 *
 * To compile it by hand: cc -O2 elastic.c mlp.c dataset.c $(pkg-config --cflags --libs thrum zlib) -lm -o elastic
 */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <thrum/thrum.h>

#include "dataset.h"
#include "mlp.h"

#ifndef DIGITS_DATA
#define DIGITS_DATA "data/digits.csv.gz"
#endif

enum { BATCH = 32, SEED = 2026, PATIENCE_MS = 20000 /* for ranks that are to meet */ };
static const float RATE = 0.05f, MOMENTUM = 0.9f;

/* What a new rank has to get, as one array of floats. */
struct model {
    float weights[MLP_WEIGHTS], velocity[MLP_WEIGHTS];
    float epoch; /* that comes next, from 1 */
};

/* What is in the file: only this user may read it, since whoever has the id can join. */
struct invitation {
    struct thrum_unique_id id;
    int nranks; /* with the one that comes, who is the last of them */
};

struct job {
    int rank, nranks;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    const char *file; /* of the invitation */
};

static const struct thrum_comm_config config = {.size = sizeof config,
                                                .init_deadline_ms = PATIENCE_MS};

/* For what nothing can be done about. */
static void check(thrum_status_t status, const char *what)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "elastic: %s: %s: %s\n", what, thrum_status_name(status), thrum_last_error());
    exit(1);
}

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- invitations ---- */

static void invite(const struct job *job)
{
    struct invitation invitation = {.nranks = job->nranks + 1};
    char draft[4096];
    int fd;

    if (job->rank != 0)
        return;
    check(thrum_comm_get_unique_id(job->comm, &invitation.id), "id");
    snprintf(draft, sizeof draft, "%s.draft", job->file);
    fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, &invitation, sizeof invitation) != sizeof invitation || close(fd) ||
        rename(draft, job->file)) /* it is there as a whole, or not at all */
        fail(job->file);
}

static int is_taken(const struct job *job)
{
    return job->rank == 0 && access(job->file, F_OK) != 0;
}

/* Waits for an invitation. Of several that want it one can rename the file. */
static struct invitation take_invitation(const char *file)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    struct invitation invitation;
    char taken[4096];
    int fd;

    snprintf(taken, sizeof taken, "%s.%d", file, (int)getpid());
    while (rename(file, taken))
        nanosleep(&pause, NULL);
    fd = open(taken, O_RDONLY);
    if (fd < 0 || read(fd, &invitation, sizeof invitation) != sizeof invitation)
        fail(taken);
    close(fd);
    unlink(taken);
    return invitation;
}

/* ---- communicators ---- */

/* Goes on with another communicator. */
static void adopt(struct job *job, thrum_comm_t comm)
{
    thrum_comm_destroy(job->comm);
    job->comm = comm;
    check(thrum_comm_rank(comm, &job->rank), "rank");
    check(thrum_comm_size(comm, &job->nranks), "size");
    invite(job);
}

static void start(struct job *job, int joins)
{
    struct invitation invitation;
    thrum_status_t status;
    thrum_comm_t comm;

    check(thrum_device_open(THRUM_DEVICE_ANY, &job->device), "open a device");
    check(thrum_queue_create(job->device, THRUM_QUEUE_DEFAULT, &job->queue), "create a queue");
    if (!joins)
        check(thrum_comm_init(job->device, &config, &comm), "join the other ranks");
    for (; joins; joins = status != THRUM_OK) { /* an invitation may be old: its ranks are gone */
        invitation = take_invitation(job->file);
        status = thrum_comm_init_rank(&invitation.id, invitation.nranks, invitation.nranks - 1,
                                      job->device, &config, &comm);
        if (status)
            fprintf(stderr, "elastic: %s: %s\n", thrum_status_name(status), thrum_last_error());
    }
    adopt(job, comm);
}

/* Of the old ranks, those that are not among the new ones. */
static void print_dead(thrum_comm_t comm, int nold, int nnew)
{
    printf("elastic: ");
    for (int old = 0, rank = 0; old < nold; old++) {
        int parent = nold;

        if (rank < nnew)
            check(thrum_comm_parent_rank(comm, rank, &parent), "old rank");
        if (parent == old)
            rank++;
        else
            printf("rank %d is dead; ", old);
    }
    printf("%d ranks go on\n", nnew);
}

/* With the ranks that live. */
static void shrink(struct job *job)
{
    int nold = job->nranks;
    const char *message;
    thrum_status_t status;
    thrum_comm_t comm;

    check(thrum_comm_async_error(job->comm, &status, &message), "error");
    fprintf(stderr, "elastic: rank %d of %d: %s: %s\n", job->rank, job->nranks,
            thrum_status_name(status), message);
    if (status != THRUM_ERR_PEER_DEAD && status != THRUM_ERR_UNREACHABLE)
        exit(1);
    check(thrum_comm_shrink_to_survivors(job->comm, &config, &comm), "shrink");
    adopt(job, comm);
    if (job->rank == 0)
        print_dead(comm, nold, job->nranks);
}

/* With the one that has taken the invitation; without it if it does not come. */
static void grow(struct job *job)
{
    thrum_comm_t comm;

    if (thrum_comm_grow(job->comm, job->nranks + 1, &config, &comm) == THRUM_OK) {
        adopt(job, comm);
        if (job->rank == 0)
            printf("elastic: rank %d has come; %d ranks go on\n", job->nranks - 1, job->nranks);
    } else {
        fprintf(stderr, "elastic: rank %d of %d: nobody comes: %s\n", job->rank, job->nranks,
                thrum_last_error());
        invite(job);
    }
}

/* ---- training ---- */

/* values[i] <- the sum over all ranks of values[i], in host memory. */
static thrum_status_t sum(struct job *job, void *values, size_t n, thrum_datatype_t dtype)
{
    thrum_status_t status =
        thrum_allreduce(values, values, n, dtype, THRUM_SUM, job->comm, job->queue);

    return status ? status : thrum_queue_synchronize(job->queue);
}

/* Rank 0's model becomes everybody's. */
static thrum_status_t share_model(struct job *job, struct model *model)
{
    thrum_status_t status = thrum_broadcast(model, model, sizeof *model / sizeof(float),
                                            THRUM_FLOAT32, 0, job->comm, job->queue);

    return status ? status : thrum_queue_synchronize(job->queue);
}

/* Where rank's share of n things begins; shares differ by at most one, and may be empty. */
static int share(int n, int rank, int nranks)
{
    return (int)((long long)n * rank / nranks);
}

static thrum_status_t train_epoch(struct job *job, const struct dataset *data, int *order,
                                  struct model *model)
{
    static float gradient[MLP_WEIGHTS];
    struct random random = {SEED *
                            (uint64_t)model->epoch}; /* alike on every rank, whenever it came */

    for (int i = 0; i < data->ntrain; i++)
        order[i] = i;
    random_shuffle(&random, order, data->ntrain);
    for (int first = 0; first < data->ntrain; first += BATCH) {
        int n = data->ntrain - first < BATCH ? data->ntrain - first : BATCH;
        int end = share(n, job->rank + 1, job->nranks);
        thrum_status_t status;
        double loss = 0;

        memset(gradient, 0, sizeof gradient);
        for (int i = share(n, job->rank, job->nranks); i < end; i++)
            mlp_backward(model->weights, &data->digits[order[first + i]], gradient, &loss);
        status = sum(job, gradient, MLP_WEIGHTS, THRUM_FLOAT32);
        if (status)
            return status;
        for (int i = 0; i < MLP_WEIGHTS; i++)
            gradient[i] /= (float)n;
        mlp_update(model->weights, model->velocity, gradient, RATE, MOMENTUM);
    }
    return THRUM_OK;
}

/* On the digits that are held out. All hear from rank 0 whether somebody comes. */
static thrum_status_t test(struct job *job, const struct dataset *data, const struct model *model,
                           double *accuracy_out, int *comes_out)
{
    double sums[3] = {0, 0, is_taken(job)}; /* loss, correct */
    int end = share(data->ntest, job->rank + 1, job->nranks);
    thrum_status_t status;

    for (int i = share(data->ntest, job->rank, job->nranks); i < end; i++)
        sums[1] += mlp_evaluate(model->weights, &data->digits[data->ntrain + i], &sums[0]);
    status = sum(job, sums, 3, THRUM_FLOAT64);
    if (status)
        return status;
    *accuracy_out = sums[1] / data->ntest;
    *comes_out = sums[2] > 0;
    if (job->rank == 0)
        printf("epoch %3d  ranks %d  test loss %.4f  test accuracy %.4f\n", (int)model->epoch,
               job->nranks, sums[0] / data->ntest, *accuracy_out);
    return THRUM_OK;
}

static double train(struct job *job, const struct dataset *data, int epochs)
{
    static struct model model = {.epoch = 1};
    int *order = malloc(sizeof *order * (size_t)data->ntrain);
    int comes, is_shared = 0;
    double accuracy = 0;

    if (!order)
        fail("elastic");
    mlp_init(model.weights, SEED);
    for (;;) {
        thrum_status_t status = is_shared ? THRUM_OK : share_model(job, &model);

        is_shared = 1;
        if (!status && model.epoch > (float)epochs)
            break;
        if (!status)
            status = train_epoch(job, data, order, &model);
        if (!status)
            status = test(job, data, &model, &accuracy, &comes);
        if (!status)
            model.epoch++;
        if (status)
            shrink(job);
        else if (comes)
            grow(job);
        if (status || comes)
            is_shared = 0; /* it may be half an epoch ahead here, or new */
    }
    free(order);
    return accuracy;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"join", 0, 0, 'j'}, {"epochs", 1, 0, 'e'}, {"data", 1, 0, 'd'}, {0, 0, 0, 0}};
    const char *path = DIGITS_DATA, *problem;
    struct job job = {.rank = -1};
    int epochs = 100, joins = 0, line, c;
    struct dataset data;
    double accuracy;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (c == 'j')
            joins = 1;
        else if (c == 'e')
            epochs = atoi(optarg);
        else if (c == 'd')
            path = optarg;
        else
            optind = argc;
    }
    if (optind != argc - 1) {
        fprintf(stderr, "Usage: elastic [--join] [--epochs N] [--data FILE] INVITATION\n"
                        "Trains on handwritten digits, on ranks that may die and come.\n");
        return 2;
    }
    job.file = argv[optind];
    setlinebuf(stdout);
    problem = dataset_read(path, SEED, &data, &line);
    if (problem) {
        fprintf(stderr, "elastic: %s: %s\n", path, problem);
        return 1;
    }
    start(&job, joins);
    accuracy = train(&job, &data, epochs);
    if (job.rank == 0) {
        unlink(job.file);
        printf("final: accuracy=%.3f ranks=%d\n", accuracy, job.nranks);
    }
    check(thrum_comm_finalize(job.comm), "finalize");
    thrum_comm_destroy(job.comm);
    thrum_device_close(job.device);
    dataset_free(&data);
    return 0;
}
