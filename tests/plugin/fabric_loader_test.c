/* src/fabric: finding plugins, older and newer tables, and errors that name the file and the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/config.h"
#include "fabric/fabric.h"

static int use_test_plugins(void **state)
{
    (void)state;
    setenv("THRUM_PLUGIN_PATH", "/nonexistent:" TEST_PLUGIN_DIR, 1);
    thrum_config_reset();
    return 0;
}

static int forget(void **state)
{
    (void)state;
    unsetenv("THRUM_PLUGIN_PATH");
    thrum_config_reset();
    return 0;
}

/* Every entry that a plugin lacks answers for itself. */
static void check_defaults(const struct thrum_fabric_ops *ops)
{
    struct thrum_fabric_address address = {{0}};
    struct thrum_fabric_put put = {0};
    const char *message = NULL;
    void *handle = &put;
    uint64_t key = 7;

    assert_int_equal(ops->open(NULL, &handle, &address), THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->connect(NULL, &address, &handle), THRUM_ERR_UNSUPPORTED);
    assert_non_null(strstr(thrum_last_error(), "connect"));
    assert_int_equal(ops->region_register(NULL, &put, 1, &handle, &key), THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->region_register_dmabuf(NULL, 0, 0, 1, &handle, &key),
                     THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->put_signal(NULL, &put), THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->get(NULL, &put, NULL, 1, 1, 0), THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->flush(NULL), THRUM_ERR_UNSUPPORTED);
    assert_int_equal(ops->progress(NULL), THRUM_IN_PROGRESS);
    assert_int_equal(ops->peer_error(NULL, &message), THRUM_OK);
    assert_string_equal(message, "");
    assert_int_equal(ops->wait_fd(NULL), -1);
    ops->region_deregister(NULL, NULL);
    ops->disconnect(NULL);
    ops->close(NULL);
    assert_ptr_equal(handle, &put); /* outputs are written on success only */
    assert_int_equal(key, 7);
}

static void older_and_newer_tables_are_usable(void **state)
{
    static const char *const names[] = {"older", "newer"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        const struct thrum_fabric_ops *ops = NULL, *again = NULL;
        struct thrum_fabric_info info;
        size_t n = 0;

        assert_int_equal(fabric_plugin_load(names[i], &ops), THRUM_OK);
        assert_int_equal(fabric_plugin_load(names[i], &again), THRUM_OK);
        assert_ptr_equal(ops, again);
        assert_string_equal(ops->name, "skewed");
        assert_int_equal(ops->size, sizeof *ops);
        assert_int_equal(ops->enumerate(&info, 1, &n), THRUM_OK);
        assert_int_equal(n, 1);
        check_defaults(ops);
    }
}

static void expect_error(const char *name, thrum_status_t status, const char *file,
                         const char *reason)
{
    const struct thrum_fabric_ops *ops = NULL;

    assert_int_equal(fabric_plugin_load(name, &ops), status);
    assert_null(ops);
    if (!strstr(thrum_last_error(), file) || !strstr(thrum_last_error(), reason))
        fail_msg("\"%s\" names not \"%s\" or \"%s\"", thrum_last_error(), file, reason);
}

static void unusable_plugins_are_named_with_the_reason(void **state)
{
    (void)state;
    expect_error("otherabi", THRUM_ERR_UNSUPPORTED, TEST_PLUGIN_DIR "/thrum-fabric-otherabi.so",
                 "ABI version 2");
    expect_error("refusing", THRUM_ERR_UNSUPPORTED, "thrum-fabric-refusing.so", "refuses");
    expect_error("nosymbol", THRUM_ERR_UNSUPPORTED, "thrum-fabric-nosymbol.so",
                 "thrum_fabric_plugin");
    expect_error("nowhere", THRUM_ERR_UNSUPPORTED, "thrum-fabric-nowhere.so", TEST_PLUGIN_DIR);
}

static void garbage_is_not_loaded(void **state)
{
    char directory[] = "/tmp/loader_test-XXXXXX", path[80];
    FILE *file;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/thrum-fabric-garbage.so", directory);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs("this is no shared object\n", file);
    fclose(file);
    setenv("THRUM_PLUGIN_PATH", directory, 1);
    thrum_config_reset();
    expect_error("garbage", THRUM_ERR_UNSUPPORTED, path, "cannot be loaded");
    unlink(path);
    rmdir(directory);
}

static void names_cannot_leave_the_directory(void **state)
{
    static const char *const bad[] = {"", "../x", "a/b", "a.b",
                                      "a-name-that-is-longer-than-any-plugins-name"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_error(bad[i], THRUM_ERR_INVALID_CONFIG, bad[i], "name");
    expect_error(NULL, THRUM_ERR_INVALID_CONFIG, "", "name");
}

static void loopback_is_built_in(void **state)
{
    const struct thrum_fabric_ops *ops = NULL;

    (void)state;
    assert_string_equal(thrum_fabric_builtin_names[0], "loopback");
    assert_int_equal(fabric_plugin_load("loopback", &ops), THRUM_OK);
    assert_string_equal(ops->name, "loopback");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(older_and_newer_tables_are_usable, use_test_plugins,
                                        forget),
        cmocka_unit_test_setup_teardown(unusable_plugins_are_named_with_the_reason,
                                        use_test_plugins, forget),
        cmocka_unit_test_teardown(garbage_is_not_loaded, forget),
        cmocka_unit_test(names_cannot_leave_the_directory),
        cmocka_unit_test(loopback_is_built_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
