/* The digits: reading them, and the split into training and test set that is the same on every rank. */
#ifndef DATASET_H
#define DATASET_H

#include <stdint.h>

enum { DIGIT_SIDE = 8, DIGIT_PIXELS = DIGIT_SIDE * DIGIT_SIDE, DIGIT_CLASSES = 10 };

struct digit {
    float pixels[DIGIT_PIXELS]; /* 0 to 1 */
    int label; /* 0 to 9 */
};

struct dataset {
    struct digit
        *digits; /* shuffled; the first ntrain are for training, the last ntest for the test */
    int ntrain, ntest;
};

/* A small generator of random numbers (xorshift64*): the same seed gives the same numbers everywhere. */
struct random {
    uint64_t state; /* not 0 */
};
double random_uniform(struct random *random); /* in [0, 1) */
double random_normal(struct random *random); /* mean 0, variance 1 */
void random_shuffle(struct random *random, int *numbers, int n);

/* Moves half of the images by up to one pixel in each direction: more digits to learn from than there are. */
void digit_shift(struct random *random, struct digit *digit);

/*
 * Reads a CSV file of 65 numbers a line (gzipped or plain) and holds out a fifth of it for the test. Returns NULL, or a
 * message that says what is wrong with the file (static storage; `line_out` has the line, 0 if it is not about one).
 */
const char *dataset_read(const char *path, uint64_t seed, struct dataset *data_out, int *line_out);
void dataset_free(struct dataset *data);

#endif
