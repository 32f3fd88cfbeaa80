/*
 * src/device/plugin.c: finding device plugins, older and newer tables, errors that name the file and the reason; also where
 * libthrum itself came in by dlopen and nobody else sees its symbols.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <thrum/device.h>

/* The library, as a front end opens it: its symbols are for the opener alone. */
static struct {
    thrum_status_t (*count)(int *count_out);
    thrum_status_t (*open)(int index, thrum_device_t *device_out);
    void (*close)(thrum_device_t device);
    thrum_status_t (*queue_create)(thrum_device_t device, unsigned flags, thrum_queue_t *queue_out);
    thrum_status_t (*mem_free)(thrum_device_t device, void *address);
    const char *(*last_error)(void);
} thrum;

/* In the process that tries one plugin: cmocka's asserts are for the other. */
static void expect(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s (last error: %s)\n", what, thrum.last_error ? thrum.last_error() : "");
    _exit(1);
}

static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);

    expect(symbol, name);
    memcpy(function, &symbol, sizeof symbol); /* ISO C has no cast for this */
}

static void open_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    expect(library, LIBRARY);
    find(library, "thrum_last_error", &thrum.last_error);
    find(library, "thrum_device_count", &thrum.count);
    find(library, "thrum_device_open", &thrum.open);
    find(library, "thrum_device_close", &thrum.close);
    find(library, "thrum_queue_create", &thrum.queue_create);
    find(library, "thrum_mem_free", &thrum.mem_free);
}

static void expect_usable(void)
{
    thrum_device_t device = NULL, second = NULL;
    thrum_queue_t queue = NULL;
    int n = 0;

    expect(!thrum.count(&n) && n == 2, "two devices");
    expect(!thrum.open(0, &device), "open");
    expect(thrum.open(1, &second) == THRUM_ERR_BUSY &&
               !strcmp(thrum.last_error(), "skewed1: somebody sits on it"),
           "the plugin's own message");
    expect(thrum.queue_create(device, 0, &queue) == THRUM_ERR_UNSUPPORTED &&
               strstr(thrum.last_error(), "queue_create"),
           "what it lacks answers for itself");
    expect(thrum.mem_free(device, &n) == THRUM_ERR_UNSUPPORTED, "so does what it must not have");
    thrum.close(device);
}

static void expect_error(const char *one, const char *two)
{
    int n = 7;

    expect(thrum.count(&n) < 0 && n == 7, "an error, and no output");
    expect(strstr(thrum.last_error(), one) && strstr(thrum.last_error(), two),
           "the message says which plugin, and why");
}

struct skew {
    const char *name, *says[2]; /* NULL: it is usable */
};

/* A process for each: the library reads its configuration once. */
static void expect_of(const struct skew *skew)
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid) {
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            fail_msg("plugin \"%s\": status 0x%x", skew->name, (unsigned)status);
        return;
    }
    setenv("THRUM_PLUGIN_PATH", "/nonexistent:" TEST_PLUGIN_DIR, 1);
    setenv("THRUM_DEVICE", skew->name, 1);
    open_library();
    if (skew->says[0])
        expect_error(skew->says[0], skew->says[1]);
    else
        expect_usable();
    _exit(0);
}

static void older_and_newer_tables_are_usable(void **state)
{
    (void)state;
    expect_of(&(struct skew){"older", {NULL, NULL}});
    expect_of(&(struct skew){"newer", {NULL, NULL}});
}

static void unusable_plugins_are_named_with_the_reason(void **state)
{
    static const struct skew skews[] = {
        {"otherabi", {"thrum-device-otherabi.so", "made for device ABI version 3"}},
        {"refusing", {"thrum-device-refusing.so", "refuses device ABI version 2"}},
        {"nosymbol", {"thrum-device-nosymbol.so", "thrum_device_plugin"}},
        {"stub", {"thrum-device-stub.so", "lacks one of"}},
        {"nowhere", {"thrum-device-nowhere.so", TEST_PLUGIN_DIR}},
        {"../x", {"\"../x\"", "no name of a device plugin"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof skews / sizeof *skews; i++)
        expect_of(&skews[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(older_and_newer_tables_are_usable),
        cmocka_unit_test(unusable_plugins_are_named_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
