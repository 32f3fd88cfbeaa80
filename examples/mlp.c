/* The perceptron's arithmetic: what runs as kernels on a real accelerator. See mlp.h. */
#include "mlp.h"

#include <math.h>
#include <string.h>

void mlp_init(float *weights, uint64_t seed)
{
    struct random random = {seed | 1};

    /* He et al., "Delving deep into rectifiers", 2015: variance 2 / inputs */
    memset(weights, 0, sizeof *weights * MLP_WEIGHTS);
    for (int i = WEIGHTS_1; i < BIASES_1; i++)
        weights[i] = (float)(random_normal(&random) * sqrt(2.0 / DIGIT_PIXELS));
    for (int i = WEIGHTS_2; i < BIASES_2; i++)
        weights[i] = (float)(random_normal(&random) * sqrt(2.0 / HIDDEN));
}

static void forward(const float *weights, const struct digit *digit, float *hidden,
                    float *probability)
{
    float largest = -INFINITY, total = 0;

    for (int h = 0; h < HIDDEN; h++) {
        const float *row = weights + WEIGHTS_1 + h * DIGIT_PIXELS;
        float sum = weights[BIASES_1 + h];
        for (int p = 0; p < DIGIT_PIXELS; p++)
            sum += row[p] * digit->pixels[p];
        hidden[h] = sum > 0 ? sum : 0;
    }
    for (int c = 0; c < DIGIT_CLASSES; c++) {
        const float *row = weights + WEIGHTS_2 + c * HIDDEN;
        float sum = weights[BIASES_2 + c];
        for (int h = 0; h < HIDDEN; h++)
            sum += row[h] * hidden[h];
        probability[c] = sum;
        largest = fmaxf(largest, sum);
    }
    for (int c = 0; c < DIGIT_CLASSES; c++)
        total += probability[c] = expf(probability[c] - largest);
    for (int c = 0; c < DIGIT_CLASSES; c++)
        probability[c] /= total;
}

int mlp_evaluate(const float *weights, const struct digit *digit, double *loss)
{
    float hidden[HIDDEN], probability[DIGIT_CLASSES];
    int best = 0;

    forward(weights, digit, hidden, probability);
    *loss -= log(fmax(probability[digit->label], 1e-30));
    for (int c = 1; c < DIGIT_CLASSES; c++)
        best = probability[c] > probability[best] ? c : best;
    return best == digit->label;
}

void mlp_backward(const float *weights, const struct digit *digit, float *gradient, double *loss)
{
    float hidden[HIDDEN], probability[DIGIT_CLASSES], back[HIDDEN] = {0};

    forward(weights, digit, hidden, probability);
    *loss -= log(fmax(probability[digit->label], 1e-30));

    /* second layer: the derivative of softmax with cross-entropy is probability - target */
    for (int c = 0; c < DIGIT_CLASSES; c++) {
        float delta = probability[c] - (c == digit->label ? 1.0f : 0.0f);
        const float *row = weights + WEIGHTS_2 + c * HIDDEN;
        float *row_gradient = gradient + WEIGHTS_2 + c * HIDDEN;

        gradient[BIASES_2 + c] += delta;
        for (int h = 0; h < HIDDEN; h++) {
            row_gradient[h] += delta * hidden[h];
            back[h] += delta * row[h];
        }
    }
    /* first layer: ReLU lets the derivative through where it was active */
    for (int h = 0; h < HIDDEN; h++) {
        float *row_gradient = gradient + WEIGHTS_1 + h * DIGIT_PIXELS;

        if (hidden[h] <= 0)
            continue;
        gradient[BIASES_1 + h] += back[h];
        for (int p = 0; p < DIGIT_PIXELS; p++)
            row_gradient[p] += back[h] * digit->pixels[p];
    }
}

void mlp_update(float *weights, float *velocity, const float *gradient, float rate, float momentum)
{
    for (int i = 0; i < MLP_WEIGHTS; i++) {
        velocity[i] = momentum * velocity[i] - rate * gradient[i];
        weights[i] += velocity[i];
    }
}
