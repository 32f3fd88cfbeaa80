/* Joining and allgather with ranks as processes: the good way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "world.h"

static void gather_some(struct world *world, int rank, struct bootstrap *b, size_t bytes)
{
    size_t total = bytes * (size_t)world->nranks;
    uint8_t *values = calloc(1, total);

    for (size_t i = 0; i < bytes; i++)
        values[bytes * (size_t)rank + i] = (uint8_t)(rank * 7 + (int)i);
    WORLD_CHECK(bootstrap_allgather(b, values, bytes) == THRUM_OK);
    for (int r = 0; r < world->nranks; r++)
        for (size_t i = 0; i < bytes; i++)
            WORLD_CHECK(values[bytes * (size_t)r + i] == (uint8_t)(r * 7 + (int)i));
    free(values);
}

static void join_and_gather(struct world *world, int rank)
{
    int files = world_open_files(), threads = world_threads();
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;

    WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 30000, &b) == THRUM_OK);
    for (size_t bytes = 1; bytes < 5000; bytes = bytes * 3 + 1)
        gather_some(world, rank, b, bytes);
    WORLD_CHECK(bootstrap_barrier(b) == THRUM_OK);
    bootstrap_close(b);
    WORLD_CHECK(world_settles(files, threads));
}

static void every_size_joins(void **state)
{
    (void)state;
    for (int n = 1; n <= 17; n++)
        assert_int_equal(world_run(n, join_and_gather), 0);
}

static void join_only(struct world *world, int rank)
{
    struct thrum_unique_id id = world_id(world, rank);
    struct bootstrap *b = NULL;

    WORLD_CHECK(bootstrap_join(&id, rank, world->nranks, 60000, &b) == THRUM_OK);
    gather_some(world, rank, b, 64);
    bootstrap_close(b);
}

static void many_ranks_start_fast(void **state)
{
    int64_t begin = now_ns();

    (void)state;
    assert_int_equal(world_run(128, join_only), 0);
    print_message("128 ranks: %.2f s from fork to exit\n", (double)(now_ns() - begin) / 1e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_joins),
        cmocka_unit_test(many_ranks_start_fast),
    };
    return cmocka_run_group_tests_name("bootstrap join", tests, NULL, NULL);
}
