/*
 * Nothing left to take: device memory, file descriptors. The call that meets it fails with a name for it, what was there
 * before goes on, and when there is room again so does everything else.
 */
#include "harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- roles ---- */

static void hbm(struct child *child)
{
    enum { BLOCK = 1 << 20, MAX = 256 };
    struct thrum_device_properties before = {.size = sizeof before}, after = {.size = sizeof after};
    thrum_status_t status = THRUM_OK;
    void *blocks[MAX], *huge = blocks;
    thrum_comm_t second = NULL;
    bool right = false;
    int n = 0;

    child_join(child);
    MUST(thrum_device_get_properties(child->device, &before));
    while (n < MAX && (status = thrum_mem_alloc(child->device, BLOCK, &blocks[n])) == THRUM_OK)
        n++;
    say_result(status);
    say_result(thrum_mem_alloc(child->device, SIZE_MAX, &huge));
    say_result(thrum_mem_alloc(child->device, SIZE_MAX - 4096, &huge));
    if (huge != blocks)
        say("failed: an output was written on error");
    /* A communicator needs room; the one that is there goes on, also with plain host memory. */
    say_result(thrum_comm_init(child->device, NULL, &second));
    while (n > 0)
        MUST(thrum_mem_free(child->device, blocks[--n]));
    MUST(thrum_device_get_properties(child->device, &after));
    if (after.memory_free_bytes != before.memory_free_bytes)
        say("failed: %llu bytes free before, %llu after",
            (unsigned long long)before.memory_free_bytes,
            (unsigned long long)after.memory_free_bytes);
    status = child_sum(child, child->comm, 1000, &right);
    say_result(status);
    say_result(thrum_comm_init(child->device, NULL, &second));
    say_result(child_sum(child, second, 1000, &right));
    thrum_comm_destroy(second);
}

static int plugs[1024], nplugs; /* descriptors that fill the gaps */

/* Lets this process have `more` descriptors than it has now. */
static void limit_descriptors(int more)
{
    int highest = 0;

    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            highest = fd;
    for (nplugs = 0; nplugs < 1024; nplugs++) {
        plugs[nplugs] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (plugs[nplugs] > highest)
            break;
    }
    close(plugs[nplugs]);
    if (setrlimit(RLIMIT_NOFILE,
                  &(struct rlimit){.rlim_cur = (rlim_t)(highest + 1 + more), .rlim_max = 4096}))
        exit(30);
}

static void unlimit_descriptors(void)
{
    while (nplugs > 0)
        close(plugs[--nplugs]);
    if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 1024, .rlim_max = 4096}))
        exit(31);
}

/* Opening a device, making an id and joining, with room for 0, 1, 2 ... descriptors: LIMIT until there is room. */
static void few_descriptors(struct child *child)
{
    for (int more = 0;; more++) {
        thrum_device_t device = NULL;
        thrum_queue_t queue = NULL;
        thrum_comm_t comm = NULL;
        struct thrum_unique_id id;
        const struct thrum_comm_config config = {.size = sizeof config, .init_deadline_ms = 3000};
        thrum_status_t status;

        if (more > 200) {
            say("failed: never enough");
            return;
        }
        limit_descriptors(more);
        status = thrum_device_open(THRUM_DEVICE_ANY, &device);
        if (!status)
            status = thrum_queue_create(device, 0, &queue);
        if (!status)
            status = thrum_get_unique_id(&id);
        if (!status)
            status = thrum_comm_init_rank(&id, 1, 0, device, &config, &comm);
        unlimit_descriptors();
        if (status != THRUM_OK && status != THRUM_ERR_LIMIT)
            say("failed: with %d descriptors more: %s: %s", more, thrum_status_name(status),
                thrum_last_error());
        thrum_comm_destroy(comm);
        thrum_queue_destroy(queue);
        thrum_device_close(device);
        if (status == THRUM_OK) {
            say("enough with %d", more);
            break;
        }
    }
    (void)child;
}

/* A job in which one rank has no descriptor left: that rank is told LIMIT, and nobody waits for ever. */
static void one_rank_without(struct child *child)
{
    thrum_status_t status;

    child_open(child);
    say("ready");
    (void)hear();
    if (child->rank == 1)
        limit_descriptors(0);
    status = thrum_comm_init(child->device, NULL, &child->comm);
    unlimit_descriptors();
    say_result(status);
    (void)hear();
}

/* A running job goes on when a rank runs out of descriptors later. */
static void later(struct child *child)
{
    bool right = false;

    child_join(child);
    say_result(child_sum(child, child->comm, 1000, &right));
    limit_descriptors(0);
    for (int i = 0; i < 20; i++) {
        thrum_status_t status = child_sum(child, child->comm, (size_t)i * 1000, &right);
        if (status != THRUM_OK || !right)
            say("failed: %s: %s", thrum_status_name(status), thrum_last_error());
    }
    unlimit_descriptors();
    say("done");
}

static const struct role roles[] = {
    {"hbm", hbm},
    {"few_descriptors", few_descriptors},
    {"one_rank_without", one_rank_without},
    {"later", later},
};

/* ---- tests ---- */

static void device_memory_is_exhausted(void **state)
{
    static const char *const env[] = {"THRUM_SIM_HBM_BYTES=32M", NULL};
    struct crew crew;

    (void)state;
    crew_start(&crew, "hbm", 2, env);
    for (int r = 0; r < 2; r++) {
        crew_expect_result(&crew, r, THRUM_ERR_NO_DEVICE_MEMORY, "1048576", NULL);
        crew_expect_result(&crew, r, THRUM_ERR_NO_DEVICE_MEMORY, "18446744073709551615", NULL);
        crew_expect_result(&crew, r, THRUM_ERR_NO_DEVICE_MEMORY, "18446744073709547519", NULL);
    }
    for (int r = 0; r < 2; r++) {
        crew_expect_result(&crew, r, THRUM_ERR_NO_DEVICE_MEMORY, NULL);
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    }
    for (int r = 0; r < 2; r++) {
        crew_expect_result(&crew, r, THRUM_OK, NULL);
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    }
    crew_finish(&crew);
}

static void descriptors_are_exhausted(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "few_descriptors", 1, NULL);
    crew_expect(&crew, 0, "enough with ");
    crew_finish(&crew);
}

static void descriptors_of_one_rank_are_exhausted(void **state)
{
    static const char *const env[] = {"THRUM_INIT_DEADLINE_MS=3000", NULL};
    struct crew crew;
    int64_t since;

    (void)state;
    crew_start(&crew, "one_rank_without", 3, env);
    crew_expect_all(&crew, "ready");
    since = clock_ms();
    crew_say_all(&crew, "go");
    crew_expect_result(&crew, 1, THRUM_ERR_LIMIT, NULL);
    for (int r = 0; r < 3; r += 2) {
        const char *line = crew_hear(&crew, r, 20000);
        if (strncmp(line, "result THRUM_ERR_", 17) || !strstr(line, "1"))
            fail_msg("rank %d: %s", r, line);
    }
    assert_in_range(clock_ms() - since, 0, 10000);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

static void descriptors_are_exhausted_later(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "later", 3, NULL);
    for (int r = 0; r < 3; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_expect_all(&crew, "done");
    crew_finish(&crew);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(device_memory_is_exhausted),
        TEST(descriptors_are_exhausted),
        TEST(descriptors_of_one_rank_are_exhausted),
        TEST(descriptors_are_exhausted_later),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
