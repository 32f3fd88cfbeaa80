/* Reading the digits. See dataset.h. */
#include "dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

double random_uniform(struct random *random)
{
    /* S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016. */
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return (double)((random->state * 0x2545f4914f6cdd1dull) >> 11) * 0x1p-53;
}

double random_normal(struct random *random)
{
    /* Box and Muller, 1958 */
    double radius = sqrt(-2 * log(1 - random_uniform(random)));
    return radius * cos(2 * 3.14159265358979323846 * random_uniform(random));
}

void random_shuffle(struct random *random, int *numbers, int n)
{
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(random_uniform(random) * (i + 1));
        int swapped = numbers[i];
        numbers[i] = numbers[j];
        numbers[j] = swapped;
    }
}

void digit_shift(struct random *random, struct digit *digit)
{
    int dx = (int)(random_uniform(random) * 3) - 1, dy = (int)(random_uniform(random) * 3) - 1;
    struct digit from = *digit;

    if (random_uniform(random) < 0.5)
        return;
    for (int y = 0; y < DIGIT_SIDE; y++) {
        for (int x = 0; x < DIGIT_SIDE; x++) {
            int inside = x - dx >= 0 && x - dx < DIGIT_SIDE && y - dy >= 0 && y - dy < DIGIT_SIDE;
            digit->pixels[y * DIGIT_SIDE + x] =
                inside ? from.pixels[(y - dy) * DIGIT_SIDE + x - dx] : 0;
        }
    }
}

/* One line of 65 numbers. False if it is not that. */
static int parse_digit(const char *line, struct digit *digit)
{
    for (int i = 0; i <= DIGIT_PIXELS; i++) {
        char *end;
        long value = strtol(line, &end, 10);

        if (end == line || value < 0 || value > (i < DIGIT_PIXELS ? 16 : DIGIT_CLASSES - 1))
            return 0;
        if (i < DIGIT_PIXELS)
            digit->pixels[i] = (float)value / 16;
        else
            digit->label = (int)value;
        line = *end == ',' ? end + 1 : end;
    }
    return *line == '\n' || *line == '\r' || *line == 0;
}

static const char *read_lines(gzFile file, struct digit **digits, int *n, int *line_out)
{
    char line[1024];
    int capacity = 0, error;

    while (gzgets(file, line, sizeof line)) {
        if (*n == capacity) {
            struct digit *more = realloc(*digits, sizeof **digits * (size_t)(capacity += 1024));
            if (!more)
                return "out of memory";
            *digits = more;
        }
        *line_out = *n + 1;
        if (!parse_digit(line, &(*digits)[*n]))
            return "is not 64 pixels from 0 to 16 and a digit, separated by commas";
        ++*n;
    }
    *line_out = 0;
    (void)gzerror(file, &error);
    if (error != Z_OK && error != Z_STREAM_END)
        return "is damaged";
    return *n < 10 ? "has fewer than 10 digits" : NULL;
}

const char *dataset_read(const char *path, uint64_t seed, struct dataset *data_out, int *line_out)
{
    struct digit *digits = NULL;
    const char *problem = "out of memory";
    struct random random = {seed | 1};
    int n = 0, *order = NULL;
    gzFile file = gzopen(path, "rb");

    *line_out = 0;
    if (!file)
        return "cannot be opened";
    problem = read_lines(file, &digits, &n, line_out);
    gzclose(file);
    if (problem)
        goto out;

    *data_out = (struct dataset){.digits = malloc(sizeof *digits * (size_t)n)};
    order = malloc(sizeof *order * (size_t)n);
    if (!data_out->digits || !order) {
        free(data_out->digits);
        problem = "out of memory";
        goto out;
    }
    for (int i = 0; i < n; i++)
        order[i] = i;
    random_shuffle(&random, order, n);
    for (int i = 0; i < n; i++)
        data_out->digits[i] = digits[order[i]];
    data_out->ntest = n / 5;
    data_out->ntrain = n - data_out->ntest;
out:
    free(order);
    free(digits);
    return problem;
}

void dataset_free(struct dataset *data)
{
    free(data->digits);
    data->digits = NULL;
}
