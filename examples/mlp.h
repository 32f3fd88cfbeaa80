/*
 * A multilayer perceptron with one hidden layer: 64 pixels, ReLU, 10 classes, softmax with cross-entropy. All its
 * weights are one array of floats, and so are all its gradients: one allreduce moves them.
 */
#ifndef MLP_H
#define MLP_H

#include "dataset.h"

enum {
    HIDDEN = 128,
    /* where the parts begin in the array of weights */
    WEIGHTS_1 = 0, /* [HIDDEN][DIGIT_PIXELS] */
    BIASES_1 = WEIGHTS_1 + HIDDEN * DIGIT_PIXELS, /* [HIDDEN] */
    WEIGHTS_2 = BIASES_1 + HIDDEN, /* [DIGIT_CLASSES][HIDDEN] */
    BIASES_2 = WEIGHTS_2 + DIGIT_CLASSES * HIDDEN, /* [DIGIT_CLASSES] */
    MLP_WEIGHTS = BIASES_2 + DIGIT_CLASSES
};

/* Random weights, scaled to the inputs of each layer. */
void mlp_init(float *weights, uint64_t seed);

/* Forward only. Adds the cross-entropy to *loss; returns 1 if the most likely class is the label. */
int mlp_evaluate(const float *weights, const struct digit *digit, double *loss);

/* Forward and backward. Adds this digit's gradient to `gradient`, and its cross-entropy to *loss. */
void mlp_backward(const float *weights, const struct digit *digit, float *gradient, double *loss);

/* Stochastic gradient descent with momentum. */
void mlp_update(float *weights, float *velocity, const float *gradient, float rate, float momentum);

#endif
