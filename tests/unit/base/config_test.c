/* The configuration table: values, suffixes, and errors that name the variable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/config.h"

static int clear(void **state)
{
    (void)state;
    for (int i = 0; i < CFG_COUNT; i++)
        unsetenv(thrum_config_rows[i].name);
    thrum_config_reset();
    return 0;
}

static void defaults_are_valid(void **state)
{
    (void)state;
    assert_int_equal(thrum_config_load(), THRUM_OK);
    assert_int_equal(thrum_config_int(CFG_SCRATCH_BYTES), 4 << 20);
    assert_string_equal(thrum_config_string(CFG_DEVICE), "sim");
    assert_false(thrum_config_is_set(CFG_DEVICE));
}

static void suffixes_multiply(void **state)
{
    (void)state;
    setenv("THRUM_SCRATCH_BYTES", "3M", 1);
    assert_int_equal(thrum_config_load(), THRUM_OK);
    assert_int_equal(thrum_config_int(CFG_SCRATCH_BYTES), 3 << 20);
}

static void bad_values_are_named(void **state)
{
    static const char *const bad[] = {"", "x", "5q", "-1", "99999999999999999999", "1M1"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        thrum_config_reset();
        setenv("THRUM_SCRATCH_BYTES", bad[i], 1);
        assert_int_equal(thrum_config_load(), THRUM_ERR_INVALID_CONFIG);
        assert_non_null(strstr(thrum_last_error(), "THRUM_SCRATCH_BYTES"));
        assert_non_null(strstr(thrum_last_error(), bad[i]));
    }
}

static void bad_choice_lists_the_words(void **state)
{
    (void)state;
    setenv("THRUM_PEER_ACCESS", "maybe", 1);
    assert_int_equal(thrum_config_load(), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "auto|none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults_are_valid, clear),
        cmocka_unit_test_setup(suffixes_multiply, clear),
        cmocka_unit_test_setup(bad_values_are_named, clear),
        cmocka_unit_test_setup(bad_choice_lists_the_words, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
