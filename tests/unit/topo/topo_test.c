/* Tests of src/topo: affinity, CPU quotas of control groups, the printed topology. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "topo/topo.h"
#include "topo/topo_internal.h"

static char root[] = "/tmp/topo_test-XXXXXX";

static int make_root(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    static const char *const names[] = {
        "/a/b/cpu.max",         "/a/b", "/a/cpu.max", "/a/cpu.cfs_quota_us",
        "/a/cpu.cfs_period_us", "/a",   "/cpu.max"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s%s", root, names[i]);
        (void)remove(path);
    }
    return rmdir(root);
}

static void put(const char *name, const char *text)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof path, "%s%s", root, name);
    file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void make_directory(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s%s", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void quota_is_the_least_of_the_group_and_those_above(void **state)
{
    (void)state;
    make_directory("/a");
    make_directory("/a/b");
    assert_int_equal(topo_quota_cores(root, "/a/b"), INT_MAX);
    put("/a/b/cpu.max", "max 100000\n");
    assert_int_equal(topo_quota_cores(root, "/a/b"), INT_MAX);
    put("/a/b/cpu.max", "350000 100000\n");
    assert_int_equal(topo_quota_cores(root, "/a/b"), 4); /* rounded up */
    put("/a/cpu.max", "150000 100000\n");
    assert_int_equal(topo_quota_cores(root, "/a/b"), 2);
    put("/cpu.max", "100000 100000\n");
    assert_int_equal(topo_quota_cores(root, "/a/b"), 1);
    assert_int_equal(topo_quota_cores(root, ""), 1);
    put("/cpu.max", "what is this\n");
    put("/a/cpu.max", "-1 0\n");
    assert_int_equal(topo_quota_cores(root, "/a/b"), 4);
}

static void quota_of_version_1(void **state)
{
    (void)state;
    put("/a/cpu.max", "");
    put("/a/cpu.cfs_quota_us", "-1\n");
    put("/a/cpu.cfs_period_us", "100000\n");
    assert_int_equal(topo_quota_cores(root, "/a"), INT_MAX);
    put("/a/cpu.cfs_quota_us", "20000\n");
    assert_int_equal(topo_quota_cores(root, "/a"), 1);
}

static void affinity_bounds_the_usable_cores(void **state)
{
    cpu_set_t all, one;
    int before = topo_usable_cores();

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_in_range(before, 1, CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) {
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(topo_usable_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(topo_usable_cores(), before);
}

static void prints_text_and_json(void **state)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    json_t *json;

    (void)state;
    assert_int_equal(topo_print(file, false), THRUM_OK);
    fclose(file);
    assert_non_null(strstr(text, "Machine"));
    free(text);

    file = open_memstream(&text, &bytes);
    assert_int_equal(topo_print(file, true), THRUM_OK);
    fclose(file);
    json = json_loads(text, 0, NULL);
    assert_non_null(json);
    assert_int_equal(json_integer_value(json_object_get(json, "usable_cores")),
                     topo_usable_cores());
    assert_true(json_integer_value(json_object_get(json, "hardware_threads")) >= 1);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(json, "objects"), "type")), "Machine");
    json_decref(json);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quota_is_the_least_of_the_group_and_those_above),
        cmocka_unit_test(quota_of_version_1),
        cmocka_unit_test(affinity_bounds_the_usable_cores),
        cmocka_unit_test(prints_text_and_json),
    };
    return cmocka_run_group_tests_name("topo", tests, make_root, remove_root);
}
