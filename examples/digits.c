/*
 * Data-parallel training: a classifier of handwritten digits, on as many ranks as the launcher starts, each with its
 * own accelerator.
 *
 *   mpirun -n 4 digits [--epochs N] [--batch N] [--data FILE]
 *
 * Each rank works on its share of every minibatch; its gradients go to device memory, are summed there over all ranks
 * (thrum_allreduce), come back, and every rank makes the same step. So all ranks always have the same weights, to the
 * last bit: the end of the program compares them.
 *
 * To compile it by hand: cc -O2 digits.c mlp.c dataset.c $(pkg-config --cflags --libs thrum zlib) -lm -o digits
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <thrum/thrum.h>

#include "dataset.h"
#include "mlp.h"

#ifndef DIGITS_DATA
#define DIGITS_DATA "data/digits.csv.gz"
#endif

/* What a rank needs to take part: its place among the ranks, its device, and a buffer in device memory. */
struct job {
    int rank, nranks;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    float *weights_on_device; /* nranks x MLP_WEIGHTS + 1; also carries gradients and sums */
    double seconds_in_allreduce;
};

static struct options {
    int epochs, batch, flip_rank;
    uint64_t seed; /* of the split, the weights and the order of the images */
    float rate, momentum;
    const char *data;
} options = {.epochs = 30,
             .batch = 32,
             .flip_rank = -1,
             .seed = 2026,
             .rate = 0.1f,
             .momentum = 0.9f,
             .data = DIGITS_DATA};

static int my_rank = -1; /* for messages */

/* Every Thrum call goes through here: an error says which rank, what it did and why it failed, and ends the job. */
static void check(thrum_status_t status, const char *what)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "digits: rank %d: %s: %s: %s\n", my_rank, what, thrum_status_name(status),
            thrum_last_error());
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);

    if (!memory) {
        fprintf(stderr, "digits: rank %d: out of memory\n", my_rank);
        exit(1);
    }
    return memory;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void join(struct job *job)
{
    struct thrum_device_properties device = {.size = sizeof device};
    void *buffer;

    check(thrum_device_open(THRUM_DEVICE_ANY, &job->device), "open a device");
    check(thrum_device_get_properties(job->device, &device), "device properties");
    check(thrum_queue_create(job->device, THRUM_QUEUE_DEFAULT, &job->queue), "create a queue");
    check(thrum_comm_init(job->device, NULL, &job->comm), "join the other ranks");
    check(thrum_comm_rank(job->comm, &job->rank), "rank");
    check(thrum_comm_size(job->comm, &job->nranks), "size");
    my_rank = job->rank;
    check(thrum_mem_alloc(job->device, sizeof(float) * (MLP_WEIGHTS * (size_t)job->nranks + 1),
                          &buffer),
          "allocate device memory");
    job->weights_on_device = buffer;
    if (job->rank == 0)
        printf("digits: %d ranks; rank 0 has %s with %.1f GiB; Thrum %s\n", job->nranks,
               device.name, (double)device.memory_bytes / 0x1p30, thrum_version());
}

static void leave(struct job *job)
{
    check(thrum_comm_finalize(job->comm), "finalize");
    thrum_comm_destroy(job->comm);
    check(thrum_mem_free(job->device, job->weights_on_device), "free device memory");
    thrum_queue_destroy(job->queue);
    thrum_device_close(job->device);
}

/* values[i] <- the sum over all ranks of values[i], through device memory. */
static void sum_over_ranks(struct job *job, void *values, size_t n, thrum_datatype_t dtype)
{
    void *on_device = job->weights_on_device;
    size_t bytes = n * thrum_datatype_size(dtype);
    double start;

    check(thrum_copy_to_device(job->queue, on_device, values, bytes), "copy to the device");
    start = seconds();
    check(thrum_allreduce(on_device, on_device, n, dtype, THRUM_SUM, job->comm, job->queue),
          "allreduce");
    check(thrum_queue_synchronize(job->queue), "allreduce");
    job->seconds_in_allreduce += seconds() - start;
    check(thrum_copy_to_host(job->queue, values, on_device, bytes), "copy to the host");
}

/* Rank 0's weights become everybody's. */
static void broadcast_weights(struct job *job, float *weights)
{
    size_t bytes = sizeof *weights * MLP_WEIGHTS;
    float *on_device = job->weights_on_device;

    check(thrum_copy_to_device(job->queue, on_device, weights, bytes), "copy to the device");
    check(
        thrum_broadcast(on_device, on_device, MLP_WEIGHTS, THRUM_FLOAT32, 0, job->comm, job->queue),
        "broadcast");
    check(thrum_queue_synchronize(job->queue), "broadcast");
    check(thrum_copy_to_host(job->queue, weights, on_device, bytes), "copy to the host");
}

/* Where rank's share of n things begins; shares differ by at most one, and may be empty. */
static int share(int n, int rank, int nranks)
{
    return (int)((long long)n * rank / nranks);
}

/* One pass over the training set. Returns the mean loss. */
static double train_epoch(struct job *job, const struct dataset *data, int *order,
                          struct random *random, float *weights, float *velocity, float *gradient,
                          float rate)
{
    double epoch_loss = 0;

    random_shuffle(random, order, data->ntrain); /* alike on every rank: same seed */
    for (int first = 0; first < data->ntrain; first += options.batch) {
        int n = data->ntrain - first < options.batch ? data->ntrain - first : options.batch;
        int begin = share(n, job->rank, job->nranks), end = share(n, job->rank + 1, job->nranks);
        double loss = 0;

        memset(gradient, 0, sizeof *gradient * (MLP_WEIGHTS + 1));
        for (int i = 0; i < n; i++) {
            struct digit digit = data->digits[order[first + i]];

            digit_shift(random, &digit); /* on every rank, so that all draw the same numbers */
            if (i >= begin && i < end)
                mlp_backward(weights, &digit, gradient, &loss);
        }

        /* The sum over all examples of the minibatch, divided by their number: right for shares of any size. */
        gradient[MLP_WEIGHTS] = (float)loss;
        sum_over_ranks(job, gradient, MLP_WEIGHTS + 1, THRUM_FLOAT32);
        for (int i = 0; i < MLP_WEIGHTS; i++)
            gradient[i] /= (float)n;
        mlp_update(weights, velocity, gradient, rate, options.momentum);
        epoch_loss += gradient[MLP_WEIGHTS];
    }
    return epoch_loss / data->ntrain;
}

/* Each rank tests its share of the held-out digits. Returns the accuracy. */
static double test(struct job *job, const struct dataset *data, const float *weights,
                   double *loss_out)
{
    double sums[2] = {0, 0}; /* loss, correct */
    int end = share(data->ntest, job->rank + 1, job->nranks);

    for (int i = share(data->ntest, job->rank, job->nranks); i < end; i++)
        sums[1] += mlp_evaluate(weights, &data->digits[data->ntrain + i], &sums[0]);
    sum_over_ranks(job, sums, 2, THRUM_FLOAT64);
    *loss_out = sums[0] / data->ntest;
    return sums[1] / data->ntest;
}

/* Of the weights' bits, to compare runs by. */
static unsigned long long hash(const float *weights)
{
    const unsigned char *bytes = (const void *)weights;
    unsigned long long h = 0xcbf29ce484222325u; /* FNV-1a */

    for (size_t i = 0; i < sizeof *weights * MLP_WEIGHTS; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

/* Gathers every rank's weights on every rank. True, on all ranks, if all are the same to the last bit. */
static int weights_identical(struct job *job, const float *weights)
{
    size_t bytes = sizeof *weights * MLP_WEIGHTS;
    float *mine = job->weights_on_device + (size_t)job->rank * MLP_WEIGHTS;
    char *all = allocate(bytes * (size_t)job->nranks);
    int identical = 1;

    check(thrum_copy_to_device(job->queue, mine, weights, bytes), "copy to the device");
    check(thrum_allgather(mine, job->weights_on_device, MLP_WEIGHTS, THRUM_FLOAT32, job->comm,
                          job->queue),
          "allgather");
    check(thrum_queue_synchronize(job->queue), "allgather");
    check(thrum_copy_to_host(job->queue, all, job->weights_on_device, bytes * (size_t)job->nranks),
          "copy to the host");
    for (int r = 0; r < job->nranks; r++) {
        if (!memcmp(all + bytes * (size_t)r, weights, bytes))
            continue;
        identical = 0;
        fprintf(stderr, "digits: rank %d: my weights differ from those of rank %d\n", job->rank, r);
    }
    free(all);
    return identical;
}

static int train(struct job *job, const struct dataset *data)
{
    float *weights = allocate(sizeof *weights * MLP_WEIGHTS);
    float *velocity = allocate(sizeof *velocity * MLP_WEIGHTS);
    float *gradient = allocate(sizeof *gradient * (MLP_WEIGHTS + 1)); /* and the loss */
    int *order = allocate(sizeof *order * (size_t)data->ntrain);
    struct random random = {options.seed | 1};
    double accuracy = 0, loss = 0, start = seconds(), took;
    int identical;

    if (job->rank == 0) {
        mlp_init(weights, options.seed);
        printf("digits: %d images to train on, %d held out; %d weights, minibatch %d\n\n",
               data->ntrain, data->ntest, MLP_WEIGHTS, options.batch);
        printf("epoch  training loss  test loss  test accuracy\n");
    }
    broadcast_weights(job, weights);
    for (int i = 0; i < data->ntrain; i++)
        order[i] = i;

    for (int epoch = 1; epoch <= options.epochs; epoch++) {
        float rate = options.rate * (float)(options.epochs + 1 - epoch) / (float)options.epochs;
        double train_loss =
            train_epoch(job, data, order, &random, weights, velocity, gradient, rate);

        accuracy = test(job, data, weights, &loss);
        if (job->rank == 0) {
            printf("%5d  %13.4f  %9.4f  %13.4f\n", epoch, train_loss, loss, accuracy);
            fflush(stdout);
        }
    }
    took = seconds() - start;

    if (job->rank == options.flip_rank)
        ((unsigned char *)weights)[MLP_WEIGHTS] ^= 1;
    identical = weights_identical(job, weights);
    if (job->rank == 0) {
        printf("\ndigits: trained in %.2f s, of which %.2f s in allreduce; hash of the weights "
               "%016llx\n",
               took, job->seconds_in_allreduce, hash(weights));
        printf("final: accuracy=%.3f ranks=%d weights=%s\n", accuracy, job->nranks,
               identical ? "identical" : "DIFFERENT");
    }
    free(order);
    free(gradient);
    free(velocity);
    free(weights);
    return identical;
}

static void usage(FILE *file)
{
    fprintf(file,
            "Usage: mpirun -n RANKS digits [OPTION]...\n"
            "Trains a classifier of handwritten digits, data-parallel, gradients summed in device "
            "memory.\n\n"
            "  --epochs N       passes over the training set (default %d)\n"
            "  --batch N        images in a minibatch, over all ranks (default %d)\n"
            "  --rate X         learning rate at the start; it falls linearly (default %g)\n"
            "  --momentum X     of the descent (default %g)\n"
            "  --data FILE      the images (default %s)\n"
            "  --seed N         of the split, the first weights and the order (default %d)\n"
            "  --flip-bit RANK  damage one bit of a rank's weights at the end, to see that it is "
            "found\n"
            "  --help\n",
            options.epochs, options.batch, (double)options.rate, (double)options.momentum,
            options.data, (int)options.seed);
}

static double number(const char *name, const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= min && value <= max)) {
        fprintf(stderr, "digits: --%s %s: must be a number from %g to %g\n", name, text, min, max);
        exit(2);
    }
    return value;
}

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"epochs", 1, 0, 'e'},   {"batch", 1, 0, 'b'}, {"rate", 1, 0, 'r'},
        {"momentum", 1, 0, 'm'}, {"data", 1, 0, 'd'},  {"seed", 1, 0, 's'},
        {"flip-bit", 1, 0, 'f'}, {"help", 0, 0, 'h'},  {0, 0, 0, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        switch (c) {
        case 'e':
            options.epochs = (int)number("epochs", optarg, 1, 1e6);
            break;
        case 'b':
            options.batch = (int)number("batch", optarg, 1, 1e6);
            break;
        case 'r':
            options.rate = (float)number("rate", optarg, 0, 100);
            break;
        case 'm':
            options.momentum = (float)number("momentum", optarg, 0, 1);
            break;
        case 's':
            options.seed = (uint64_t)number("seed", optarg, 0, 1e9);
            break;
        case 'd':
            options.data = optarg;
            break;
        case 'f':
            options.flip_rank = (int)number("flip-bit", optarg, 0, 1e6);
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "digits: \"%s\" is not an option\n", argv[optind]);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct job job = {.rank = -1};
    struct dataset data;
    const char *problem;
    int line, identical;

    parse_options(argc, argv);
    problem = dataset_read(options.data, options.seed, &data, &line);
    if (problem) {
        fprintf(stderr, "digits: %s: ", options.data);
        if (line)
            fprintf(stderr, "line %d ", line);
        fprintf(stderr, "%s\n", problem);
        return 1;
    }
    join(&job);
    identical = train(&job, &data);
    leave(&job);
    dataset_free(&data);
    return identical ? 0 : 1;
}
