/* Tuning files: good ones are taken, every other is refused with a message that says what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "select/select.h"

static char directory[] = "/tmp/tuning_test-XXXXXX";
static char path[64];
static struct select_policy policy;

static const char good[] =
    "{\n  \"format\": \"thrum-tune\",\n  \"version\": 1,\n  \"name\": \"here\",\n"
    "  \"description\": \"a machine\",\n"
    "  \"figures\": {\"call_us\": 0.5, \"exchange_us\": 2, \"cache_bytes\": 1048576},\n"
    "  \"rules\": [{\"collective\": \"allreduce\", \"algorithm\": \"ring\", \"min_bytes\": 1024,\n"
    "             \"max_bytes\": 4096, \"min_ranks\": 2, \"max_ranks\": 8}]\n}\n";

static int make_directory(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/tune.json", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(directory);
}

static void put(const char *text, size_t bytes)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static thrum_status_t read_file(void)
{
    select_policy_init(&policy);
    return select_tuning_read(path, &policy, NULL);
}

/* Refused: the message names the file and says `word`; nothing is taken over. */
static void refused(const char *word)
{
    struct select_policy before;

    select_policy_init(&before);
    assert_int_equal(read_file(), THRUM_ERR_INVALID_CONFIG);
    if (!strstr(thrum_last_error(), word) || !strstr(thrum_last_error(), path))
        fail_msg("\"%s\" is not in: %s", word, thrum_last_error());
    assert_memory_equal(&policy, &before, sizeof policy);
}

static void refused_text(const char *text, const char *word)
{
    put(text, strlen(text));
    refused(word);
}

static void test_good(void **state)
{
    (void)state;
    put(good, strlen(good));
    assert_int_equal(read_file(), THRUM_OK);
    assert_true(policy.figures.call_us == 0.5 && policy.figures.exchange_us == 2);
    assert_true(policy.figures.cache_bytes == 1048576);
    assert_true(policy.figures.put_us == select_figure_rows[FIGURE_put_us].value);
    assert_int_equal(policy.given,
                     1 << FIGURE_call_us | 1 << FIGURE_exchange_us | 1 << FIGURE_cache_bytes);
    assert_string_equal(policy.source, path);
    assert_int_equal(policy.nrules, 1);
    assert_ptr_equal(policy.rules[0].algo, algo_find(COLL_ALLREDUCE, "ring"));
    assert_int_equal(policy.rules[0].min_bytes, 1024);
    assert_int_equal(policy.rules[0].max_bytes, 4096);
    assert_int_equal(policy.rules[0].min_ranks, 2);
    assert_int_equal(policy.rules[0].max_ranks, 8);
    assert_false(policy.rules[0].forced);
}

#define HEAD "{\"format\": \"thrum-tune\", \"version\": 1, "

static void test_wrong_fields(void **state)
{
    (void)state;
    refused_text("[]", "object");
    refused_text("{}", "format");
    refused_text("{\"format\": \"else\", \"version\": 1}", "format");
    refused_text("{\"format\": 1, \"version\": 1}", "format");
    refused_text("{\"format\": \"thrum-tune\"}", "version");
    refused_text("{\"format\": \"thrum-tune\", \"version\": 2}", "version");
    refused_text("{\"format\": \"thrum-tune\", \"version\": \"1\"}", "version");
    refused_text(HEAD "\"name\": 5}", "name");
    refused_text(HEAD "\"colour\": 5}", "colour");
    refused_text(HEAD "\"figures\": []}", "figures");
    refused_text(HEAD "\"figures\": {\"call_us\": \"fast\"}}", "figures.call_us");
    refused_text(HEAD "\"figures\": {\"call_us\": null}}", "figures.call_us");
    refused_text(HEAD "\"figures\": {\"call_us\": -1}}", "figures.call_us");
    refused_text(HEAD "\"figures\": {\"call_us\": 0}}", "figures.call_us");
    refused_text(HEAD "\"figures\": {\"copy_gbps\": 1e300}}", "figures.copy_gbps");
    refused_text(HEAD "\"figures\": {\"copy_gbps\": 1e999}}", "line 1");
    refused_text(HEAD "\"figures\": {\"copy_mbps\": 1}}", "figures.copy_mbps");
    refused_text(HEAD "\"figures\": {\"call_us\": 1, \"call_us\": 2}}", "line 1");
    refused_text(HEAD "\"rules\": {}}", "rules");
    refused_text(HEAD "\"rules\": [5]}", "rules[0]");
    refused_text(HEAD "\"rules\": [{}]}", "rules[0]");
    refused_text(HEAD "\"rules\": [{\"collective\": \"allreduce\"}]}", "rules[0]");
    refused_text(HEAD "\"rules\": [{\"collective\": \"gossip\", \"algorithm\": \"ring\"}]}",
                 "gossip");
    refused_text(HEAD "\"rules\": [{\"collective\": \"allreduce\", \"algorithm\": \"rung\"}]}",
                 "rung");
    refused_text(HEAD "\"rules\": [{\"collective\": \"barrier\", \"algorithm\": \"ring\"}]}",
                 "ring");
#define RULE HEAD "\"rules\": [{\"collective\": \"allreduce\", \"algorithm\": \"ring\", "
    refused_text(RULE "\"min_bytes\": -1}]}", "rules[0]");
    refused_text(RULE "\"min_bytes\": 1.5}]}", "rules[0]");
    refused_text(RULE "\"min_bytes\": 2, \"max_bytes\": 1}]}", "rules[0]");
    refused_text(RULE "\"max_ranks\": 0}]}", "rules[0]");
    refused_text(RULE "\"max_ranks\": 99999999999}]}", "rules[0]");
    refused_text(RULE "\"max_rank\": 1}]}", "rules[0].max_rank");
    refused_text("{\n\"format\": \"thrum-tune\",\n\"version\": 1,\n\"figures\": {,}\n}\n",
                 "line 4");
    refused_text("", "line");
}

static void test_too_many_rules(void **state)
{
    char text[8192] = HEAD "\"rules\": [";

    (void)state;
    for (int i = 0; i <= SELECT_MAX_RULES; i++)
        sprintf(text + strlen(text), "%s{\"collective\": \"allreduce\", \"algorithm\": \"ring\"}",
                i ? ", " : "");
    strcat(text, "]}");
    refused_text(text, "64");
}

static void test_what_is_no_file(void **state)
{
    bool missing = false;
    int fd;

    (void)state;
    unlink(path);
    refused("cannot be opened");
    assert_int_equal(select_tuning_read(path, &policy, &missing), THRUM_OK);
    assert_true(missing);
    assert_int_equal(mkdir(path, 0700), 0);
    refused("regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused("regular file"); /* and does not wait for a writer */
    unlink(path);
    put(good, strlen(good));
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, 100 << 20), 0); /* 100 MB, of holes */
    close(fd);
    refused("104857600");
    unlink(path);
    assert_int_equal(symlink(path, path), 0);
    refused("cannot be opened");
    unlink(path);
    if (geteuid() != 0) { /* root reads everything */
        put(good, strlen(good));
        assert_int_equal(chmod(path, 0), 0);
        refused("cannot be opened");
        unlink(path);
    }
}

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

/* Cut, changed, doubled: taken or refused, never more than that; and what is taken is within bounds. */
static void test_mutations(void **state)
{
    static const char pieces[] = "{}[]\",:0-9.eE+\\u \n\xff\x00null";
    int taken = 0, refusals = 0;

    (void)state;
    for (size_t cut = 0; cut < strlen(good) - 1; cut++) { /* the last byte is a new line */
        put(good, cut);
        assert_int_equal(read_file(), THRUM_ERR_INVALID_CONFIG);
    }
    for (int i = 0; i < 4000; i++) {
        char text[sizeof good];

        memcpy(text, good, sizeof good);
        for (uint32_t k = 0; k <= draw(3); k++)
            text[draw(sizeof good - 1)] = pieces[draw(sizeof pieces - 1)];
        put(text, sizeof good - 1);
        if (read_file()) {
            assert_non_null(strstr(thrum_last_error(), path));
            refusals++;
            continue;
        }
        taken++;
        assert_in_range(policy.nrules, 0, SELECT_MAX_RULES);
        for (int f = 0; f < FIGURE_COUNT; f++) {
            double value = *select_figure_at(&policy.figures, f);
            assert_true(value >= select_figure_rows[f].least &&
                        value <= select_figure_rows[f].most);
        }
    }
    assert_true(taken > 10 && refusals > 1000);
}

/* ---- where it is looked for -------------------------------------------------------------------------------------- */

static const char *place(const char *named, const char *xdg, const char *home, bool *required)
{
    static char found[4096];

    named ? setenv("THRUM_TUNE_FILE", named, 1) : unsetenv("THRUM_TUNE_FILE");
    xdg ? setenv("XDG_CONFIG_HOME", xdg, 1) : unsetenv("XDG_CONFIG_HOME");
    home ? setenv("HOME", home, 1) : unsetenv("HOME");
    thrum_config_reset();
    return select_tuning_path(found, sizeof found, required) ? found : "nowhere";
}

static void test_places(void **state)
{
    bool required;
    struct select_policy loaded;

    (void)state;
    assert_string_equal(place("/a/b", "/x", "/h", &required), "/a/b");
    assert_true(required);
    assert_string_equal(place(NULL, "/x", "/h", &required), "/x/thrum/tune.json");
    assert_false(required);
    assert_string_equal(place(NULL, "relative", "/h", &required), "/h/.config/thrum/tune.json");
    assert_string_equal(place(NULL, NULL, NULL, &required), "nowhere");
    assert_string_equal(place("none", "/x", "/h", &required), "nowhere");

    put(good, strlen(good));
    place(path, NULL, NULL, &required);
    assert_int_equal(select_policy_load("broadcast:chain", &loaded), THRUM_OK);
    assert_int_equal(loaded.nrules, 2);
    assert_true(loaded.figures.call_us == 0.5);
    unlink(path);
    assert_int_equal(select_policy_load(NULL, &loaded), THRUM_ERR_INVALID_CONFIG);
    place(NULL, directory, NULL, &required); /* not there, and nobody asked for it */
    assert_int_equal(select_policy_load(NULL, &loaded), THRUM_OK);
    assert_string_equal(loaded.source, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),           cmocka_unit_test(test_wrong_fields),
        cmocka_unit_test(test_too_many_rules), cmocka_unit_test(test_what_is_no_file),
        cmocka_unit_test(test_mutations),      cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests_name("tuning", tests, make_directory, remove_directory);
}
