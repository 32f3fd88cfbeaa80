/*
 * A training step recorded once and replayed 100 times: each rank has its own points of one line, and all of them
 * together find the line by gradient descent. The step is a graph: compute the gradient on the host, copy it to the
 * device, average it over the ranks, copy it back, move. A launch is one call, whatever the step holds.
 *
 *   cc graph.c $(pkg-config --cflags --libs thrum) -lm -o graph && mpirun -n 4 ./graph
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <thrum/thrum.h>

#define POINTS 1000
#define STEPS 100
#define SLOPE 3.0f /* the line to be found */
#define OFFSET (-2.0f)
#define RATE 0.5f

/* The host's side of the model; the device reaches it because it is registered. */
struct model {
    float weights[2]; /* slope, offset */
    float gradient[2];
    float x[POINTS], y[POINTS]; /* this rank's points */
};

static void check(thrum_status_t status)
{
    if (status != THRUM_OK) {
        fprintf(stderr, "graph: %s: %s\n", thrum_status_name(status), thrum_last_error());
        exit(1);
    }
}

/* Of the mean squared error over this rank's points. Called on a host thread when the queue comes to it. */
static thrum_status_t compute_gradient(void *argument)
{
    struct model *m = argument;

    m->gradient[0] = m->gradient[1] = 0;
    for (int i = 0; i < POINTS; i++) {
        float error = m->weights[0] * m->x[i] + m->weights[1] - m->y[i];
        m->gradient[0] += 2 * error * m->x[i] / POINTS;
        m->gradient[1] += 2 * error / POINTS;
    }
    return THRUM_OK;
}

static thrum_status_t move(void *argument)
{
    struct model *m = argument;

    for (int i = 0; i < 2; i++)
        m->weights[i] -= RATE * m->gradient[i];
    return THRUM_OK;
}

/* Points on the line, each shifted by +-1 in turn; the shifts of two neighbours cancel out. */
static void make_points(struct model *m, int rank, int nranks)
{
    for (int i = 0; i < POINTS; i++) {
        int number = (rank * POINTS + i) / 2;
        m->x[i] = 2 * (float)number / (float)(nranks * POINTS / 2 - 1) - 1;
        m->y[i] = SLOPE * m->x[i] + OFFSET + (i % 2 ? 1.0f : -1.0f);
    }
}

int main(void)
{
    static struct model model;
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    thrum_graph_t step;
    int rank, nranks;
    void *gradient; /* in device memory */

    check(thrum_device_open(THRUM_DEVICE_ANY, &device));
    check(thrum_queue_create(device, THRUM_QUEUE_DEFAULT, &queue));
    check(thrum_comm_init(device, NULL, &comm));
    check(thrum_comm_rank(comm, &rank));
    check(thrum_comm_size(comm, &nranks));
    check(thrum_mem_alloc(device, sizeof model.gradient, &gradient));
    check(thrum_mem_register_host(device, &model, sizeof model));
    make_points(&model, rank, nranks);

    check(thrum_queue_capture_begin(queue)); /* nothing runs from here ... */
    check(thrum_queue_callback(queue, compute_gradient, &model));
    check(thrum_copy(queue, gradient, model.gradient, sizeof model.gradient));
    check(thrum_allreduce(gradient, gradient, 2, THRUM_FLOAT32, THRUM_AVG, comm, queue));
    check(thrum_copy(queue, model.gradient, gradient, sizeof model.gradient));
    check(thrum_queue_callback(queue, move, &model));
    check(thrum_queue_capture_end(queue, &step)); /* ... to here */

    for (int i = 0; i < STEPS; i++)
        check(thrum_graph_launch(step, queue)); /* enqueued, all of it */
    check(thrum_queue_synchronize(queue));
    thrum_graph_destroy(step);
    printf("rank %d of %d: y = %.3f x + %.3f after %d steps\n", rank, nranks, model.weights[0],
           model.weights[1], STEPS);

    check(thrum_comm_finalize(comm));
    thrum_comm_destroy(comm);
    thrum_device_close(device);
    return fabsf(model.weights[0] - SLOPE) < 1e-3f && fabsf(model.weights[1] - OFFSET) < 1e-3f ? 0
                                                                                               : 1;
}
