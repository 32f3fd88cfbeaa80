/* thrum-sim as its users see it: rows, JSON, timelines, exit statuses. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static char output[1 << 20];

/* stdout and stderr into `output`. Returns the exit status. */
static int run(const char *options)
{
    char command[1024];
    size_t n;
    FILE *pipe;
    int status;

    snprintf(command, sizeof command, "THRUM_TUNE_FILE=none %s 2>&1 %s", THRUM_SIM_PROGRAM,
             options);
    pipe = popen(command, "r");
    assert_non_null(pipe);
    n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = 0;
    status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(const char *options, int exit_status, const char *text)
{
    int status = run(options);

    if (status != exit_status || !strstr(output, text))
        fail_msg("thrum-sim %s: status %d instead of %d, or no '%s' in:\n%.2000s", options, status,
                 exit_status, text, output);
}

static json_t *json_of(const char *options)
{
    json_t *json;

    assert_int_equal(run(options), 0);
    json = json_loads(output, 0, NULL);
    assert_non_null(json);
    return json;
}

static void rows(void **state)
{
    (void)state;
    expect("-c allreduce -n 2", 0, "-> direct");
    expect("-c allreduce -n 2 --count 2", 0, "0.48 us         0.48 us");
    expect("-c allreduce -n 16 --hosts 4", 0, "critical path: ");
    expect("-c allreduce -n 16 --hosts 4", 0, "16 ranks on 4 hosts");
    expect("-c allgather --counts 5,0,1,7,3 -a ring", 0, "5 ranks");
    expect("-c sendrecv -n 1 --count 8", 0, "eager");
    expect("-c barrier -n 9 -b 8 -e 1M", 0, "dissemination");
    expect("-c broadcast -n 8 -b 1K -e 4K -f 2", 0, "\n2 KiB (count 512)");
}

/* The fastest first; what the user says of the links is what counts. */
static void sorted_and_by_the_links(void **state)
{
    json_t *json = json_of("-c allreduce -n 64 --hosts 8 --json"), *row;
    double before = 0, fast, total = 0, part;
    const char *key;
    size_t i;
    json_t *value;
    int chosen = 0;

    (void)state;
    json_array_foreach(json_object_get(json, "rows"), i, row)
    {
        double us = json_number_value(json_object_get(row, "simulated_us"));

        assert_true(us >= before);
        before = us;
        chosen += json_is_true(json_object_get(row, "chosen"));
    }
    assert_true(i > 5);
    assert_int_equal(chosen, 1);
    row = json_array_get(json_object_get(json, "rows"), 0);
    fast = json_number_value(json_object_get(row, "simulated_us"));
    json_object_foreach(json_object_get(row, "critical_path_us"), key, value)
    {
        part = json_number_value(value);
        assert_true(part >= 0);
        total += part;
    }
    assert_true(fabs(total - fast) < 1e-3 * fast);
    json_decref(json);
    json = json_of("-c allreduce -n 64 --hosts 8 --json --net-gbps 1 --port-gbps 1 "
                   "--figure net_us=20");
    row = json_array_get(json_object_get(json, "rows"), 0);
    assert_true(json_number_value(json_object_get(row, "simulated_us")) > fast * 3);
    assert_true(json_number_value(json_object_get(json_object_get(json, "figures"), "net_us")) ==
                20);
    json_decref(json);
}

/* In a viewer that counts in whole ns no slice begins before the one in front of it has ended; all have names. */
static void check_slices(const json_t *events)
{
    enum { THREADS = 8 }; /* of a process */
    long long end[32 * THREADS] = {0};
    bool has_name[32 * THREADS] = {false}; /* thread 0: the process */
    json_t *event;
    size_t i;

    json_array_foreach(events, i, event)
    {
        const char *phase = json_string_value(json_object_get(event, "ph"));
        const char *name = json_string_value(json_object_get(event, "name"));
        json_int_t process = json_integer_value(json_object_get(event, "pid"));
        json_int_t thread = json_integer_value(json_object_get(event, "tid"));
        size_t at = (size_t)(process * THREADS + thread);
        long long from, dur;

        assert_true(process > 0 && process < 32 && thread > 0 && thread < THREADS);
        has_name[process * THREADS] |= !strcmp(name, "process_name");
        has_name[at] |= !strcmp(name, "thread_name");
        if (*phase != 'X')
            continue;
        from = llround(json_number_value(json_object_get(event, "ts")) * 1e3);
        dur = llround(json_number_value(json_object_get(event, "dur")) * 1e3);
        assert_true(has_name[at] && has_name[process * THREADS]);
        assert_true(dur >= 0 && from >= end[at]);
        end[at] = from + dur;
    }
}

/* All slices have a rank that is shown, arrows come in pairs. */
static void timeline(void **state)
{
    char path[] = "/tmp/thrum_sim_test.XXXXXX", options[256];
    int fd = mkstemp(path), begins = 0, ends = 0, slices = 0, shown = 0;
    bool seen[13] = {false};
    json_t *json, *event;
    size_t i;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    snprintf(options, sizeof options,
             "-c allreduce -a hosts -n 12 --hosts 3 --count 64K --show 4 -o %s", path);
    expect(options, 0, "hosts");
    json = json_load_file(path, 0, NULL);
    assert_non_null(json);
    json_array_foreach(json_object_get(json, "traceEvents"), i, event)
    {
        const char *phase = json_string_value(json_object_get(event, "ph"));
        json_int_t process = json_integer_value(json_object_get(event, "pid"));

        if (*phase == 'X') {
            slices++;
            assert_true(json_number_value(json_object_get(event, "dur")) >= 0);
            assert_true(process >= 1 && process <= 12 + 3); /* 1 + rank, then hosts */
            if (process <= 12)
                seen[process] = true;
        }
        begins += *phase == 's';
        ends += *phase == 'f';
    }
    for (int r = 1; r <= 12; r++)
        shown += seen[r];
    assert_true(seen[1] && seen[2] && seen[11] && seen[12] && shown <= 5); /* and the slowest */
    assert_true(slices > 30);
    assert_true(begins > 0 && ends > 0);
    check_slices(json_object_get(json, "traceEvents"));
    json_decref(json);
    snprintf(options, sizeof options, "-c broadcast -a chain -n 3 --hosts 3 --count 1 -o %s", path);
    expect(options, 0, "chain"); /* all are shown: every message is */
    json = json_load_file(path, 0, NULL);
    check_slices(json_object_get(json, "traceEvents"));
    begins = ends = 0;
    json_array_foreach(json_object_get(json, "traceEvents"), i, event)
    {
        begins += *json_string_value(json_object_get(event, "ph")) == 's';
        ends += *json_string_value(json_object_get(event, "ph")) == 'f';
    }
    assert_true(begins > 0);
    assert_int_equal(begins, ends);
    json_decref(json);
    assert_int_equal(unlink(path), 0);
}

static void refusals(void **state)
{
    (void)state;
    expect("--help", 0, "Usage: thrum-sim");
    expect("--version", 0, "thrum-sim ");
    expect("", 2, "which --collective?");
    expect("-c teleport", 2, "-c: 'teleport'");
    expect("-c allreduce -a teleport", 2, "no such algorithm");
    expect("-c allreduce --figure speed=3", 2, "--figure: 'speed=3'");
    expect("-c allreduce --net-us 0", 2, "--net-us: '0'");
    expect("-c allreduce --min 1K --count 3", 2, "--min and --max, or --count");
    expect("-c allreduce -o x.json", 2, "--output needs an --algorithm");
    expect("-c allreduce -a ring -b 8 -o x.json", 2, "one size");
    expect("-c allreduce --root 4", 2, "--root");
    expect("-c allreduce extra", 2, "unexpected argument");
    expect("-c allreduce -a direct --hosts 2", 1, "access");
    expect("-c allreduce -a ring -n 64 --limit 1K", 1, "more than 1024 ops");
    expect("-c allreduce -n 64 --limit 1K", 0, "more ops than --limit");
    expect("-c allreduce -a ring -o /no/such/place", 1, "cannot be made");
    expect("-c allreduce -a ring -o /dev/full", 1, "cannot be written");
    expect("-c allreduce >/dev/full", 1, "cannot write");
}

/* A thousand ranks of a ring in little memory. */
static void thousand_ranks(void **state)
{
    (void)state;
    expect("-c allreduce -a ring -n 1024 --hosts 128", 0, "ring, critical path");
    expect("-c allreduce -a ring -n 1024 --hosts 128 --count 1G", 1, "more than 16777216 ops");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows),           cmocka_unit_test(sorted_and_by_the_links),
        cmocka_unit_test(timeline),       cmocka_unit_test(refusals),
        cmocka_unit_test(thousand_ranks),
    };
    return cmocka_run_group_tests_name("thrum-sim", tests, NULL, NULL);
}
