/*
 * Communicators made from communicators, with all ranks in one process: from one thread inside a group, and from a thread
 * for each rank. Ranks as processes of their own, and ranks that die, are in tests/fault and tests/mpi.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#include "../../counts.h"

#define RANKS 5
#define COUNT 1000

static thrum_device_t devices[RANKS];
static thrum_queue_t queues[RANKS];
static int64_t *buffers[RANKS];
static thrum_comm_t world[RANKS]; /* new for each test */

#define ok(call) ok_at((call), #call, __LINE__)
static void ok_at(thrum_status_t status, const char *call, int line)
{
    if (status != THRUM_OK)
        fail_msg("line %d: %s: %s: %s", line, call, thrum_status_name(status), thrum_last_error());
}

static void says_at(const char *text, const char *wanted, int line)
{
    if (!strstr(text, wanted))
        fail_msg("line %d: \"%s\" does not say \"%s\"", line, text, wanted);
}
#define says(wanted) says_at(thrum_last_error(), wanted, __LINE__)

static int make_devices(void **state)
{
    (void)state;
    for (int i = 0; i < RANKS; i++) {
        void *address;

        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[i]));
        ok(thrum_queue_create(devices[i], THRUM_QUEUE_DEFAULT, &queues[i]));
        ok(thrum_mem_alloc(devices[i], COUNT * sizeof(int64_t), &address));
        buffers[i] = address;
    }
    return 0;
}

static int unmake_devices(void **state)
{
    (void)state;
    for (int i = 0; i < RANKS; i++) {
        thrum_queue_destroy(queues[i]);
        thrum_device_close(devices[i]);
    }
    return 0;
}

static int make_world(void **state)
{
    (void)state;
    ok(thrum_comm_init_all(devices, RANKS, NULL, world));
    return 0;
}

static int unmake_world(void **state)
{
    (void)state;
    for (int r = 0; r < RANKS; r++)
        thrum_comm_destroy(world[r]);
    return 0;
}

static void destroy_all(thrum_comm_t *comms)
{
    for (int r = 0; r < RANKS; r++)
        thrum_comm_destroy(comms[r]);
}

static void check_place(thrum_comm_t comm, int rank, int nranks)
{
    int value;

    ok(thrum_comm_rank(comm, &value));
    assert_int_equal(value, rank);
    ok(thrum_comm_size(comm, &value));
    assert_int_equal(value, nranks);
}

/* Every rank brings 10^(old rank): the sum shows who takes part. */
static int64_t power(int rank)
{
    int64_t value = 1;

    while (rank--)
        value *= 10;
    return value;
}

static void bring(int rank)
{
    int64_t values[COUNT];

    for (int i = 0; i < COUNT; i++)
        values[i] = power(rank);
    ok(thrum_copy_to_device(queues[rank], buffers[rank], values, sizeof values));
}

static void issue_sum(thrum_comm_t comm, int rank)
{
    ok(thrum_allreduce(buffers[rank], buffers[rank], COUNT, THRUM_INT64, THRUM_SUM, comm,
                       queues[rank]));
}

static void check_sum(int rank, int64_t wanted)
{
    int64_t values[COUNT];

    ok(thrum_copy_to_host(queues[rank], values, buffers[rank], sizeof values));
    for (int i = 0; i < COUNT; i++)
        if (values[i] != wanted)
            fail_msg("rank %d, element %d: %lld, not %lld", rank, i, (long long)values[i],
                     (long long)wanted);
}

/* One sum on each rank's communicator (NULL: none); `wanted[r]` for old rank r. */
static void check_sums(thrum_comm_t *comms, const int64_t *wanted)
{
    for (int r = 0; r < RANKS; r++)
        bring(r);
    for (int r = 0; r < RANKS; r++)
        if (comms[r])
            issue_sum(comms[r], r);
    for (int r = 0; r < RANKS; r++)
        if (comms[r])
            check_sum(r, wanted[r]);
}

static const int64_t everybody[RANKS] = {11111, 11111, 11111, 11111, 11111};
static const int64_t odd_and_even[RANKS] = {10101, 1010, 10101, 1010, 10101};

static void split_odd_even(thrum_comm_t *from, thrum_comm_t *to)
{
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_split(from[r], r % 2, -r, NULL, &to[r]));
    ok(thrum_group_end());
}

static void dup_all(thrum_comm_t *from, const struct thrum_comm_config *config, thrum_comm_t *to)
{
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_dup(from[r], config, &to[r]));
    ok(thrum_group_end());
}

/* ---- what comes out ---- */

static void odd_and_even_backwards(void **state)
{
    thrum_comm_t parts[RANKS];

    (void)state;
    split_odd_even(world, parts);
    check_place(parts[0], 2, 3);
    check_place(parts[1], 1, 2);
    check_place(parts[2], 1, 3);
    check_place(parts[3], 0, 2);
    check_place(parts[4], 0, 3);
    check_sums(parts, odd_and_even);
    destroy_all(parts);
}

static void equal_keys_keep_the_order(void **state)
{
    thrum_comm_t copies[RANKS];

    (void)state;
    dup_all(world, NULL, copies);
    for (int r = 0; r < RANKS; r++)
        check_place(copies[r], r, RANKS);
    check_sums(copies, everybody);
    destroy_all(copies);
}

static void none(void **state)
{
    static const int64_t wanted[RANKS] = {10011, 10011, 0, 0, 10011};
    thrum_comm_t parts[RANKS];

    (void)state;
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++) {
        parts[r] = world[r];
        ok(thrum_comm_split(world[r], r == 2 || r == 3 ? THRUM_SPLIT_NONE : 7, 0, NULL, &parts[r]));
    }
    ok(thrum_group_end());
    assert_null(parts[2]);
    assert_null(parts[3]);
    check_place(parts[4], 2, 3);
    check_sums(parts, wanted);
    destroy_all(parts);
}

static void split_of_a_split(void **state)
{
    static const int64_t wanted[RANKS] = {101, 1000, 101, 10, 10000};
    thrum_comm_t parts[RANKS], leaves[RANKS];

    (void)state;
    split_odd_even(world, parts);
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_split(parts[r], r == 4 || r == 3, r, NULL, &leaves[r]));
    ok(thrum_group_end());
    check_place(leaves[0], 0, 2);
    check_place(leaves[2], 1, 2);
    check_place(leaves[1], 0, 1);
    for (int r = 0; r < RANKS; r++)
        bring(r);
    for (int r = 0; r < RANKS; r++)
        issue_sum(leaves[r], r);
    check_sum(1, 10);
    check_sum(3, 1000);
    for (int r = 0; r < RANKS; r += 2)
        check_sum(r, wanted[r]);
    destroy_all(leaves);
    destroy_all(parts);
}

/* ---- parent and child at the same time ---- */

static void interleaved(void **state)
{
    thrum_comm_t parts[RANKS], copies[RANKS];

    (void)state;
    split_odd_even(world, parts);
    dup_all(world, NULL, copies);
    for (int round = 0; round < 20; round++) {
        for (int r = 0; r < RANKS; r++)
            bring(r);
        /* odd and even, then the sum over all of that: 3 x the even and 2 x the odd sum; then x 5 */
        for (int r = 0; r < RANKS; r++) {
            issue_sum(parts[r], r);
            issue_sum(round % 2 ? world[r] : copies[r], r);
            issue_sum(round % 2 ? copies[r] : world[r], r);
        }
        for (int r = 0; r < RANKS; r++)
            check_sum(r, 5 * (3 * 10101 + 2 * 1010));
    }
    destroy_all(copies);
    destroy_all(parts);
}

static void split_while_the_parent_works(void **state)
{
    thrum_comm_t parts[RANKS];

    (void)state;
    for (int r = 0; r < RANKS; r++)
        bring(r);
    for (int r = 0; r < RANKS - 1; r++)
        issue_sum(world[r], r);
    split_odd_even(world, parts); /* the sum cannot have ended: one rank has not called it */
    issue_sum(world[RANKS - 1], RANKS - 1);
    for (int r = 0; r < RANKS; r++)
        check_sum(r, 11111);
    check_sums(parts, odd_and_even);
    destroy_all(parts);
}

static void child_outlives_its_parent(void **state)
{
    thrum_comm_t copies[RANKS], grandchildren[RANKS];

    (void)state;
    dup_all(world, NULL, copies);
    dup_all(copies, NULL, grandchildren);
    ok(thrum_comm_abort(copies[1]));
    destroy_all(copies);
    check_sums(grandchildren, everybody);
    check_sums(world, everybody);
    destroy_all(grandchildren);
}

/* ---- configuration ---- */

static void own_deadline(void **state)
{
    struct thrum_comm_config config = {
        .size = sizeof config, .deadline_ms = 100, .name = "impatient"};
    thrum_comm_t copies[RANKS], after[RANKS];
    thrum_status_t status;

    (void)state;
    dup_all(world, &config, copies);
    issue_sum(copies[0], 0);
    assert_int_equal(thrum_queue_synchronize(queues[0]), THRUM_ERR_TIMEOUT);
    says("impatient");
    ok(thrum_comm_async_error(copies[0], &status, NULL));
    assert_int_equal(status, THRUM_ERR_TIMEOUT);
    assert_int_equal(thrum_comm_dup(copies[0], NULL, &after[0]), THRUM_ERR_TIMEOUT);
    destroy_all(copies);
    check_sums(world, everybody); /* the parent has not failed */
}

static void choices_are_inherited(void **state)
{
    struct thrum_comm_config config = {.size = sizeof config,
                                       .scratch_bytes = 1 << 20,
                                       .lanes = 2,
                                       .reproducible = 1,
                                       .probes = 1};
    struct thrum_comm_config other = {.size = sizeof other, .scratch_bytes = 128 << 10};
    struct thrum_comm_memory_info plan = {.size = sizeof plan}, now = {.size = sizeof now};
    thrum_comm_t first[RANKS], second[RANKS], third[RANKS];
    int has = 1;

    (void)state;
    dup_all(world, &config, first);
    dup_all(first, NULL, second);
    ok(thrum_probe(1, second[0], &has));
    assert_int_equal(has, 0);
    dup_all(second, &other, third);
    ok(thrum_comm_memory(second[1], &now));
    assert_int_equal(now.scratch_bytes, 1 << 20);
    ok(thrum_comm_memory_plan(RANKS, &config, &plan));
    assert_int_equal(now.device_bytes, plan.device_bytes);
    assert_true(now.host_bytes <= plan.host_limit_bytes);
    ok(thrum_comm_memory(third[0], &now));
    assert_int_equal(now.scratch_bytes, 128 << 10);
    ok(thrum_comm_memory_plan(8, NULL, &plan));
    assert_true(plan.device_bytes <= 16 << 20);
    check_sums(third, everybody);
    destroy_all(third);
    destroy_all(second);
    destroy_all(first);
}

static void choices_must_agree(void **state)
{
    static const struct {
        struct thrum_comm_config config;
        const char *text;
    } cases[] = {
        {{.size = sizeof(struct thrum_comm_config), .reproducible = 1}, "reproducible=1"},
        {{.size = sizeof(struct thrum_comm_config), .lanes = 3}, "lanes=3"},
        {{.size = sizeof(struct thrum_comm_config), .scratch_bytes = 65536}, "scratch_bytes=65536"},
        {{.size = sizeof(struct thrum_comm_config), .algorithms = "allreduce:ring"},
         "allreduce:ring"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        thrum_comm_t copies[RANKS];

        ok(thrum_group_start());
        for (int r = 0; r < RANKS; r++)
            ok(thrum_comm_dup(world[r], r == 3 ? &cases[i].config : NULL, &copies[r]));
        assert_int_equal(thrum_group_end(), THRUM_ERR_INVALID_CONFIG);
        says("rank 3 has");
        says(cases[i].text);
    }
    check_sums(world, everybody);
}

static const char *algorithm_of(thrum_comm_t comm, size_t count)
{
    return thrum_comm_algorithm(comm, "allreduce", count, THRUM_FLOAT32);
}

/* Rules are the communicator's own, and its children's; the caller's text may go once the call was made. */
static void algorithms_of_a_communicator(void **state)
{
    char text[] = "allreduce:ring:4K-,allreduce:chain:1M-";
    struct thrum_comm_config config = {.size = sizeof config, .algorithms = text};
    struct thrum_comm_config none = {.size = sizeof none, .algorithms = ""};
    struct thrum_algorithm_candidate candidate = {.size = sizeof candidate};
    thrum_comm_t first[RANKS], second[RANKS], third[RANKS];
    int chosen = 0, index = 0;

    (void)state;
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_dup(world[r], &config, &first[r]));
    memset(text, '?', sizeof text - 1);
    ok(thrum_group_end());
    dup_all(first, NULL, second);
    dup_all(second, &none, third);
    for (int r = 0; r < RANKS; r++) {
        assert_string_equal(algorithm_of(first[r], 1024), "ring");
        assert_string_equal(algorithm_of(second[r], 256 << 10), "chain");
        assert_string_equal(algorithm_of(first[r], 1), algorithm_of(world[r], 1));
        assert_string_equal(algorithm_of(third[r], 1024), algorithm_of(world[r], 1024));
    }
    check_sums(second, everybody);
    for (; !thrum_comm_candidate(first[0], "allreduce", 1024, THRUM_FLOAT32, index, &candidate);
         index++) {
        assert_true(candidate.refusal || candidate.predicted_us > 0);
        assert_int_equal(candidate.chosen, !strcmp(candidate.name, "ring"));
        chosen += candidate.chosen;
    }
    assert_int_equal(chosen, 1);
    assert_in_range(index, 4, 32);
    assert_int_equal(
        thrum_comm_candidate(first[0], "allreduce", 1024, THRUM_FLOAT32, -1, &candidate),
        THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_comm_candidate(first[0], "gossip", 1, THRUM_FLOAT32, 0, &candidate),
                     THRUM_ERR_INVALID_ARGUMENT);
    candidate.size = 0;
    assert_int_equal(thrum_comm_candidate(first[0], "allreduce", 1, THRUM_FLOAT32, 0, &candidate),
                     THRUM_ERR_INVALID_ARGUMENT);
    destroy_all(third);
    destroy_all(second);
    destroy_all(first);
}

/* Of rank 0. */
static void wrong_shrinks(thrum_comm_t comm)
{
    const int outside[] = {1, RANKS}, own[] = {0}, negative[] = {-1};
    struct thrum_comm_config bad_lanes = {.size = sizeof bad_lanes, .lanes = 5};
    thrum_comm_t out = NULL;

    assert_int_equal(thrum_comm_shrink(NULL, own, 1, NULL, &out), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_shrink(comm, outside, 1, NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    says("comm_out");
    assert_int_equal(thrum_comm_shrink(comm, NULL, 1, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("excluded is NULL");
    assert_int_equal(thrum_comm_shrink(comm, own, -1, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("nexcluded=-1");
    assert_int_equal(thrum_comm_shrink(comm, own, RANKS, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("nexcluded=5");
    assert_int_equal(thrum_comm_shrink(comm, outside, 2, NULL, &out), THRUM_ERR_INVALID_RANK);
    says("excluded[1]=5");
    assert_int_equal(thrum_comm_shrink(comm, own, 1, NULL, &out), THRUM_ERR_INVALID_RANK);
    says("the calling rank");
    assert_int_equal(thrum_comm_shrink(comm, negative, 1, NULL, &out), THRUM_ERR_INVALID_RANK);
    assert_int_equal(thrum_comm_shrink(comm, outside, 1, &bad_lanes, &out),
                     THRUM_ERR_INVALID_ARGUMENT);
    says("lanes=5");
    assert_int_equal(thrum_comm_shrink_to_survivors(NULL, NULL, &out), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_shrink_to_survivors(comm, NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    says("comm_out");
    assert_int_equal(thrum_comm_shrink_to_survivors(comm, &bad_lanes, &out),
                     THRUM_ERR_INVALID_ARGUMENT);
    says("lanes=5");
    assert_null(out);
}

/* Of rank 0 of a communicator that was not made by a shrink. */
static void wrong_parents(thrum_comm_t comm)
{
    int parent = 7;

    assert_int_equal(thrum_comm_parent_rank(NULL, 0, &parent), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_parent_rank(comm, 0, NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_comm_parent_rank(comm, -1, &parent), THRUM_ERR_INVALID_RANK);
    assert_int_equal(thrum_comm_parent_rank(comm, RANKS, &parent), THRUM_ERR_INVALID_RANK);
    says("rank=5");
    assert_int_equal(parent, 7);
    ok(thrum_comm_parent_rank(comm, 1, &parent));
    assert_int_equal(parent, -1);
}

/* Of rank 0. */
static void wrong_grows(thrum_comm_t comm)
{
    struct thrum_comm_config bad_lanes = {.size = sizeof bad_lanes, .lanes = 5};
    struct thrum_unique_id id;
    thrum_comm_t out = NULL;

    assert_int_equal(thrum_comm_get_unique_id(NULL, &id), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_get_unique_id(comm, NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_comm_grow(NULL, RANKS + 1, NULL, &out), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_grow(comm, RANKS + 1, NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    says("comm_out");
    assert_int_equal(thrum_comm_grow(comm, RANKS, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("nranks=5 is not between 6 and 1048576");
    assert_int_equal(thrum_comm_grow(comm, INT_MAX, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_comm_grow(comm, RANKS + 1, &bad_lanes, &out),
                     THRUM_ERR_INVALID_ARGUMENT);
    says("lanes=5");
    assert_null(out);
}

static void wrong_arguments(void **state)
{
    char long_text[600];
    struct thrum_comm_config no_such = {.size = sizeof no_such, .algorithms = "allreduce:rung"};
    struct thrum_comm_config too_long = {.size = sizeof too_long, .algorithms = long_text};
    struct thrum_comm_config bad_lanes = {.size = sizeof bad_lanes, .lanes = 5};
    struct thrum_comm_config bad_mode = {.size = sizeof bad_mode, .reproducible = 2};
    thrum_comm_t out = NULL;
    int culprit;

    (void)state;
    assert_int_equal(thrum_comm_split(NULL, 0, 0, NULL, &out), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_split(world[0], -2, 0, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("color=-2");
    assert_int_equal(thrum_comm_split(world[0], 0, 0, NULL, NULL), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_comm_dup(world[0], &bad_lanes, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("lanes=5");
    assert_int_equal(thrum_comm_dup(world[0], &bad_mode, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("reproducible=2");
    assert_int_equal(thrum_comm_dup(world[0], &no_such, &out), THRUM_ERR_INVALID_CONFIG);
    says("config.algorithms");
    says("rung");
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    assert_int_equal(thrum_comm_dup(world[0], &too_long, &out), THRUM_ERR_INVALID_ARGUMENT);
    says("599 characters");
    wrong_shrinks(world[0]);
    wrong_parents(world[0]);
    wrong_grows(world[0]);
    assert_int_equal(thrum_comm_culprit(NULL, &culprit), THRUM_ERR_INVALID_COMM);
    assert_int_equal(thrum_comm_culprit(world[0], NULL), THRUM_ERR_INVALID_ARGUMENT);
    says("rank_out is NULL");
    ok(thrum_comm_culprit(world[0], &culprit));
    assert_int_equal(culprit, -1);
    ok(thrum_group_start());
    assert_int_equal(thrum_comm_split(world[0], -7, 0, NULL, &out), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(thrum_group_end(), THRUM_ERR_INVALID_ARGUMENT);
    assert_null(out);
    check_sums(world, everybody); /* nobody waits for anybody */
}

/* ---- a thread for each rank ---- */

struct caller {
    pthread_t thread;
    thrum_comm_t comm, made;
    int64_t init_deadline_ms;
    int rounds;
    bool registers;
    thrum_window_t window;
    thrum_status_t status;
    char message[512];
};

static void *call(void *argument)
{
    struct caller *caller = argument;
    struct thrum_comm_config config = {.size = sizeof config,
                                       .init_deadline_ms = caller->init_deadline_ms};

    for (int i = 0; i < caller->rounds && !caller->status; i++) {
        if (i)
            thrum_comm_destroy(caller->made);
        caller->status = caller->registers
                             ? thrum_comm_register(caller->comm, NULL, 0, &caller->window)
                             : thrum_comm_dup(caller->comm, &config, &caller->made);
    }
    snprintf(caller->message, sizeof caller->message, "%s", thrum_last_error());
    return NULL;
}

static void start(struct caller *caller)
{
    assert_int_equal(pthread_create(&caller->thread, NULL, call, caller), 0);
}

static void finish(struct caller *caller, thrum_status_t status, const char *text)
{
    pthread_join(caller->thread, NULL);
    if (caller->status != status)
        fail_msg("%s, not %s: %s", thrum_status_name(caller->status), thrum_status_name(status),
                 caller->message);
    if (status)
        says_at(caller->message, text, __LINE__);
}

/* Rank 2 comes when the others have given up: it hears the same, and the next split is as good as ever. */
static void one_does_not_come(void **state)
{
    struct caller callers[RANKS];
    thrum_comm_t copies[RANKS];

    (void)state;
    for (int r = 0; r < RANKS; r++)
        callers[r] = (struct caller){.comm = world[r], .init_deadline_ms = 400, .rounds = 1};
    for (int r = 0; r < RANKS; r++)
        if (r != 2)
            start(&callers[r]);
    for (int r = 0; r < RANKS; r++)
        if (r != 2)
            finish(&callers[r], THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_split");
    start(&callers[2]);
    finish(&callers[2], THRUM_ERR_TIMEOUT, "rank 2 did not call thrum_comm_split");
    check_sums(world, everybody);
    dup_all(world, NULL, copies);
    check_sums(copies, everybody);
    destroy_all(copies);
}

static void rank_0_does_not_come(void **state)
{
    struct caller callers[RANKS];

    (void)state;
    for (int r = 0; r < RANKS; r++)
        callers[r] = (struct caller){.comm = world[r], .init_deadline_ms = 400, .rounds = 1};
    for (int r = 1; r < RANKS; r++)
        start(&callers[r]);
    for (int r = 1; r < RANKS; r++)
        finish(&callers[r], THRUM_ERR_TIMEOUT, "rank 0 did not call thrum_comm_split");
    start(&callers[0]);
    finish(&callers[0], THRUM_ERR_TIMEOUT, "rank 0 did not call thrum_comm_split");
    check_sums(world, everybody);
}

static void one_calls_something_else(void **state)
{
    struct caller callers[RANKS];
    thrum_comm_t copies[RANKS];

    (void)state;
    for (int r = 0; r < RANKS; r++) {
        callers[r] = (struct caller){.comm = world[r], .rounds = 1, .registers = r == 3};
        start(&callers[r]);
    }
    for (int r = 0; r < RANKS; r++)
        finish(&callers[r], THRUM_ERR_MISMATCH, "thrum_comm_register");
    dup_all(world, NULL, copies);
    check_sums(copies, everybody);
    destroy_all(copies);
}

/* A communicator, and one that is made of it while it is split too, each from threads of their own. */
static void many_threads(void **state)
{
    struct caller callers[2][RANKS];
    thrum_comm_t copies[RANKS];

    (void)state;
    dup_all(world, NULL, copies);
    for (int r = 0; r < RANKS; r++) {
        callers[0][r] = (struct caller){.comm = world[r], .rounds = 5};
        callers[1][r] = (struct caller){.comm = copies[r], .rounds = 5};
        start(&callers[0][r]);
        start(&callers[1][r]);
    }
    for (int r = 0; r < RANKS; r++) {
        finish(&callers[0][r], THRUM_OK, "");
        finish(&callers[1][r], THRUM_OK, "");
    }
    for (int i = 0; i < 2; i++) {
        thrum_comm_t made[RANKS];
        for (int r = 0; r < RANKS; r++)
            made[r] = callers[i][r].made;
        check_sums(made, everybody);
        destroy_all(made);
    }
    destroy_all(copies);
}

struct grower {
    pthread_t thread;
    thrum_comm_t comm, made; /* comm NULL: a new rank */
    int rank;
    const struct thrum_unique_id *id;
    thrum_status_t status;
};

static void *grow(void *argument)
{
    struct grower *grower = argument;

    grower->status = grower->comm
                         ? thrum_comm_grow(grower->comm, RANKS, NULL, &grower->made)
                         : thrum_comm_init_rank(grower->id, RANKS, grower->rank,
                                                devices[grower->rank], NULL, &grower->made);
    return NULL;
}

/* A pair out of a split becomes as many as all, and again; each of the two knows the id. */
static void grows(void **state)
{
    struct grower growers[RANKS];
    struct thrum_unique_id ids[2], before[2];
    thrum_comm_t pair[RANKS], grown[RANKS];

    (void)state;
    ok(thrum_group_start());
    for (int r = 0; r < RANKS; r++)
        ok(thrum_comm_split(world[r], r < 2 ? 0 : THRUM_SPLIT_NONE, 0, NULL, &pair[r]));
    ok(thrum_group_end());
    memset(before, 0, sizeof before);
    for (int round = 0; round < 2; round++) {
        for (int r = 0; r < 2; r++)
            ok(thrum_comm_get_unique_id(pair[r], &ids[r]));
        assert_memory_equal(&ids[0], &ids[1], sizeof ids[0]);
        assert_memory_not_equal(&ids[0], &before[0], sizeof ids[0]);
        memcpy(before, ids, sizeof before);
        for (int r = RANKS - 1; r >= 0; r--) {
            growers[r] = (struct grower){.comm = pair[r], .rank = r, .id = &ids[r % 2]};
            assert_int_equal(pthread_create(&growers[r].thread, NULL, grow, &growers[r]), 0);
        }
        for (int r = 0; r < RANKS; r++) {
            pthread_join(growers[r].thread, NULL);
            assert_int_equal(growers[r].status, THRUM_OK);
            grown[r] = growers[r].made;
        }
        check_sums(grown, everybody);
        destroy_all(grown);
    }
    destroy_all(pair);
}

/* Somebody destroys the parent without having called: the others need not wait for their deadline. */
static void one_leaves(void **state)
{
    struct caller callers[RANKS];

    (void)state;
    for (int r = 0; r < RANKS - 1; r++) {
        callers[r] = (struct caller){.comm = world[r], .rounds = 1};
        start(&callers[r]);
    }
    thrum_comm_destroy(world[RANKS - 1]);
    world[RANKS - 1] = NULL;
    for (int r = 0; r < RANKS - 1; r++)
        finish(&callers[r], THRUM_ERR_PEER_DEAD, "rank 4 has left");
}

/* ---- many ---- */

/* The root services' threads end by themselves, a moment after the ranks have joined: waits for few, and for no fewer. */
static int settled_threads(int most)
{
    int n = count_threads(), before = 0;

    for (int i = 0; i < 500 && (n > most || n != before); i++) {
        poll(NULL, 0, 10);
        before = n;
        n = count_threads();
    }
    return n;
}

static void a_hundred(void **state)
{
    enum { MANY = 100, PAIR = 2 };
    struct thrum_device_properties before = {.size = sizeof before}, after = {.size = sizeof after};
    struct thrum_comm_config config = {.size = sizeof config, .scratch_bytes = 65536};
    static thrum_comm_t copies[MANY][PAIR];
    thrum_comm_t not_made[RANKS];
    int descriptors = count_descriptors(), threads = settled_threads(1000);

    (void)state;
    ok(thrum_device_get_properties(devices[0], &before));
    for (int i = 0; i < MANY; i++) {
        ok(thrum_group_start());
        for (int r = 0; r < RANKS; r++)
            ok(thrum_comm_split(world[r], r < PAIR ? 0 : THRUM_SPLIT_NONE, 0, &config,
                                r < PAIR ? &copies[i][r] : &not_made[r]));
        ok(thrum_group_end());
    }
    assert_true(settled_threads(threads) <= threads);
    /* of each rank one end of a connection and the place for a shrink, and no more */
    assert_true(count_descriptors() - descriptors <= 2 * PAIR * MANY);
    for (int r = 0; r < PAIR; r++)
        bring(r);
    for (int i = 0; i < 10; i++) /* sum after sum: each doubles, but for the first */
        for (int r = 0; r < PAIR; r++)
            issue_sum(copies[i * 10][r], r);
    for (int r = 0; r < PAIR; r++)
        check_sum(r, 11 * 512);
    for (int i = 0; i < MANY; i++)
        for (int r = 0; r < PAIR; r++)
            thrum_comm_destroy(copies[i][(i + r) % PAIR]);
    assert_int_equal(count_descriptors(), descriptors);
    assert_int_equal(settled_threads(threads), threads);
    ok(thrum_device_get_properties(devices[0], &after));
    assert_int_equal(before.memory_free_bytes, after.memory_free_bytes);
}

#define test(function) cmocka_unit_test_setup_teardown(function, make_world, unmake_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(odd_and_even_backwards),
        test(equal_keys_keep_the_order),
        test(none),
        test(split_of_a_split),
        test(interleaved),
        test(split_while_the_parent_works),
        test(child_outlives_its_parent),
        test(own_deadline),
        test(choices_are_inherited),
        test(choices_must_agree),
        test(algorithms_of_a_communicator),
        test(wrong_arguments),
        test(one_does_not_come),
        test(rank_0_does_not_come),
        test(one_calls_something_else),
        test(many_threads),
        test(grows),
        test(one_leaves),
        test(a_hundred),
    };

    return cmocka_run_group_tests(tests, make_devices, unmake_devices);
}
