/* thrum-plan as its users see it: what it prints, that it streams, its exit statuses. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define MAX_ARGUMENTS 32
#define KEPT_BYTES (1 << 20)

struct run {
    int exit_status; /* -1: killed */
    uint64_t lines;
    char *head; /* the first KEPT_BYTES of stdout and stderr together; freed by run_free */
    size_t head_bytes;
    char tail[65]; /* the last bytes */
    double cpu_seconds;
};

static void exec_tool(int out, const char *options, rlim_t address_bytes)
{
    char program[] = "thrum-plan";
    char *copy = strdup(options), *save = NULL, *argv[MAX_ARGUMENTS] = {program};
    int n = 1;
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        argv[n++] = word;
    struct rlimit limit = {address_bytes, address_bytes};
    if (dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0 ||
        (address_bytes > 0 && setrlimit(RLIMIT_AS, &limit) != 0))
        _exit(126);
    execv(THRUM_PLAN_PROGRAM, argv);
    _exit(127);
}

static void take_output(struct run *run, const char *bytes, size_t n)
{
    size_t room = KEPT_BYTES - run->head_bytes, kept = n < room ? n : room;
    memcpy(run->head + run->head_bytes, bytes, kept);
    run->head_bytes += kept;
    for (size_t i = 0; i < n; i++)
        run->lines += bytes[i] == '\n';
    size_t tail = n < 64 ? n : 64, old = strlen(run->tail);
    size_t keep_old = old + tail > 64 ? 64 - tail : old;
    memmove(run->tail, run->tail + old - keep_old, keep_old);
    memcpy(run->tail + keep_old, bytes + n - tail, tail);
    run->tail[keep_old + tail] = '\0';
}

static struct run run_limited(const char *options, rlim_t address_bytes)
{
    static char buffer[1 << 16];
    struct run run = {.exit_status = -1, .head = malloc(KEPT_BYTES + 1)};
    struct rusage usage;
    int pipe_ends[2], status;
    ssize_t n;
    assert_non_null(run.head);
    assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        exec_tool(pipe_ends[1], options, address_bytes);
    close(pipe_ends[1]);
    while ((n = read(pipe_ends[0], buffer, sizeof(buffer))) > 0)
        take_output(&run, buffer, (size_t)n);
    close(pipe_ends[0]);
    assert_int_equal(wait4(child, &status, 0, &usage), child);
    if (WIFEXITED(status))
        run.exit_status = WEXITSTATUS(status);
    run.cpu_seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                      (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    run.head[run.head_bytes] = '\0';
    return run;
}

static void run_free(struct run *run)
{
    free(run->head);
}

static void expect(const char *options, int exit_status, const char *text)
{
    struct run run = run_limited(options, 0);
    if (run.exit_status != exit_status || !strstr(run.head, text))
        fail_msg("thrum-plan %s: status %d instead of %d, or no '%s' in:\n%.2000s", options,
                 run.exit_status, exit_status, text, run.head);
    run_free(&run);
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static const char *const every_algorithm[] = {
    "-c allreduce -a inline --count 3",
    "-c allreduce -a direct --count 100",
    "-c allreduce -a recursive_doubling --count 100 --no-peer-access",
    "-c allreduce -a ring --count 1000 --op avg --dtype bfloat16 --in-place",
    "-c allreduce -a rabenseifner --count 1000 --dtype float8_e4m3",
    "-c allreduce -a double_tree --count 1000",
    "-c allreduce -a chain --ordered",
    "-c allreduce -a pairwise --ordered --no-peer-access",
    "-c allreduce -a hosts --hosts 2",
    "-c broadcast -a inline --root 4 --count 1",
    "-c broadcast -a direct --root 2",
    "-c broadcast -a sliced --root 1",
    "-c broadcast -a binomial --root 2 --count 1",
    "-c broadcast -a hosts --hosts 2 --root 3",
    "-c broadcast -a chain --root 3",
    "-c broadcast -a scatter_allgather",
    "-c allgather -a inline --count 1",
    "-c allgather -a direct --count 1K",
    "-c allgather -a ring --count 0",
    "-c allgather -a bruck --counts 5,0,1,7,3",
    "-c allgather -a recursive_doubling --ranks 8",
    "-c reduce_scatter -a inline --count 1",
    "-c reduce_scatter -a direct --count 1",
    "-c reduce_scatter -a ring --count 100K --scratch 64K",
    "-c reduce_scatter -a recursive_halving --count 100",
    "-c reduce_scatter -a pairwise --counts 5,0,1,7,3",
    "-c barrier -a inline",
    "-c barrier -a dissemination",
    "-c sendrecv -a eager --count 12",
    "-c sendrecv -a rendezvous --count 12",
    "-c reduce -a inline --root 1 --count 2",
    "-c reduce -a direct --root 1",
    "-c reduce -a binomial --root 1 --dtype float16",
    "-c reduce -a chain --root 1",
    "-c gather -a inline --count 1",
    "-c gather -a direct",
    "-c gather -a binomial --count 1K",
    "-c scatter -a inline --count 1",
    "-c scatter -a direct --root 4",
    "-c scatter -a binomial --count 1K",
    "-c allgather -a hosts --hosts 2",
    "-c reduce_scatter -a hosts --hosts 2 --dtype float16",
    "-c alltoall -a inline --count 1",
    "-c alltoall -a direct",
    "-c alltoall -a pairwise",
    "-c alltoall -a bruck --count 10",
    "-c alltoall -a hosts --hosts 3 --count 10",
    "-c allreduce -a leaders --hosts 2 --count 100",
    "-c broadcast -a leaders --hosts 2 --root 3 --count 100",
    "-c allgather -a leaders --hosts 2 --count 9",
    "-c reduce_scatter -a leaders --hosts 2 --count 9",
    "-c barrier -a leaders --hosts 2",
    "-c reduce -a hosts --hosts 3 --root 1 --dtype float16",
    "-c reduce -a leaders --hosts 3 --root 1 --count 9",
    "-c alltoall -a leaders --hosts 2 --count 9",
    "-c scan -a inline --count 1",
    "-c scan -a direct",
    "-c scan -a recursive_doubling --op avg",
    "-c scan -a chain --in-place",
    "-c exscan -a inline --count 1",
    "-c exscan -a direct --dtype bfloat16",
    "-c exscan -a recursive_doubling",
    "-c exscan -a chain",
};

/* "-c C -a A" of every algorithm is there. */
static void test_every_algorithm_is_here(void **state)
{
    uint64_t algorithms = 0;
    (void)state;
    struct run run = run_limited("--list", 0);
    for (char *line = strtok(run.head, "\n"); line; line = strtok(NULL, "\n"), algorithms++) {
        char collective[32], algorithm[32], wanted[96];
        bool found = false;
        assert_int_equal(sscanf(line, "%31s %31s", collective, algorithm), 2);
        snprintf(wanted, sizeof(wanted), "-c %s -a %s", collective, algorithm);
        for (size_t i = 0; i < sizeof(every_algorithm) / sizeof(every_algorithm[0]); i++)
            found = found || strncmp(every_algorithm[i], wanted, strlen(wanted)) == 0;
        if (!found)
            fail_msg("no %s", wanted);
    }
    assert_true(algorithms > 40);
    run_free(&run);
}

static void test_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(every_algorithm) / sizeof(every_algorithm[0]); i++)
        for (int rank = 0; rank < 5; rank += 2) {
            char options[256];
            snprintf(options, sizeof(options), "--ranks 5 %s --rank %d", every_algorithm[i], rank);
            expect(options, 0, " ops, scratch ");
        }
    expect("-c allreduce -a ring -n 4 -r 2 --count 10", 0, "REDUCE|FINAL");
    expect("-c allreduce -a hosts -n 4", 1, "all ranks are on one");
    expect("-c allreduce -a hosts -n 4 --hosts 4", 1, "each has one rank only");
    expect("-c allreduce -a hosts -n 4 --hosts 2 -r 2", 0, "peer access within hosts");
    expect("-c allreduce -a hosts -n 4 --hosts 2 -r 2", 0, "on host 1 of 2\n");
    expect("-c barrier -a dissemination -n 2", 0, "WAIT|ARRIVE from 1");
    expect("-c allgather -a ring --counts 3,0,2", 0, "rank 0 of 3, count 3");
    expect("-c allgather -a ring --counts 3,0,2", 0, ", counts 3,0,2\n");
    expect("-c allgather -a ring --counts 3,0,2 --format json", 0, "\"counts\":[3,0,2]");
    expect("-c scan -a direct --op avg -n 3 --ordered", 0, "REDUCE|FINAL of 3 ranks");
    expect("-c scan -a direct --op avg -n 3 --format json", 0, "\"contributions\":3");
    expect("-c reduce -a chain --dtype bfloat16 -n 3 -r 1", 0, " <- WIDE[1]+0 SEND[1]+0");
}

static void test_json_parses(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(every_algorithm) / sizeof(every_algorithm[0]); i++) {
        char options[256];
        json_error_t error;
        snprintf(options, sizeof(options), "--ranks 5 %s --rank 3 --format json",
                 every_algorithm[i]);
        struct run run = run_limited(options, 0);
        assert_int_equal(run.exit_status, 0);
        json_t *plan = json_loadb(run.head, run.head_bytes, 0, &error);
        if (!plan)
            fail_msg("%s: line %d: %s", options, error.line, error.text);
        assert_int_equal(json_integer_value(json_object_get(plan, "rank")), 3);
        assert_in_range(json_integer_value(json_object_get(plan, "ranks")), 5, 8);
        json_t *ops = json_object_get(plan, "ops");
        assert_true(json_is_array(ops) && json_array_size(ops) > 0);
        assert_string_not_equal(json_string_value(json_object_get(json_array_get(ops, 0), "op")),
                                "");
        json_decref(plan);
        run_free(&run);
    }
}

static void test_dot(void **state)
{
    (void)state;
    struct run run = run_limited("-c allgather -a bruck -n 5 --format dot", 0);
    assert_int_equal(run.exit_status, 0);
    assert_non_null(strstr(run.head, "digraph"));
    assert_non_null(strstr(run.head, " -> "));
    assert_string_equal(run.head + run.head_bytes - 2, "}\n");
    run_free(&run);
}

/* A rank among a hundred thousand: in under a second, in memory that does not grow with the plan. */
static void test_hundred_thousand_ranks(void **state)
{
    rlim_t address_bytes = 32 << 20; /* the plan would take more than 90 MiB */
    (void)state;
#ifdef THRUM_SANITIZED
    address_bytes = 0; /* shadow memory */
#endif
    struct run run = run_limited("--collective allreduce --algorithm ring --ranks 100000 --rank 7",
                                 address_bytes);
    if (run.exit_status != 0)
        fail_msg("status %d: %.500s", run.exit_status, run.head);
    assert_in_range(run.lines, 600000, 1000000);
    assert_non_null(strstr(run.tail, " ops, scratch "));
#ifndef THRUM_SANITIZED
    if (run.cpu_seconds >= 1.0)
        fail_msg("took %.2f s", run.cpu_seconds);
#endif
    run_free(&run);
}

/* ---- proving ----------------------------------------------------------------------------------------------------- */

static void test_check(void **state)
{
    (void)state;
    expect("--check --collective barrier", 0, "proved");
    expect("--check --quick --collective broadcast --algorithm binomial", 0, "proved");
    expect("--check --collective allreduce --algorithm ring --ranks 6", 0, "proved");
}

static void test_planted_faults_are_shown(void **state)
{
    (void)state;
    expect("--check -c allreduce -a ring -n 4 --plant missing-wait", 1, "plan_check: data race");
    expect("--check -c allreduce -a direct -n 4 --plant swapped-chunk", 1,
           "plan_check: wrong result");
    expect("--check -c allreduce -a inline -n 4 --plant doubled-contribution", 1,
           "without all contributions once");
    expect("--check -c reduce_scatter -a ring -n 4 --plant early-scratch-reuse", 1,
           "plan_check: data race");
    expect("--check -c barrier -n 4 --plant swapped-chunk", 0, "not applicable");
    expect("--check -c reduce -a chain -n 4 --plant double-rounding", 1, "rounded more than once");
}

/* ---- exit statuses ----------------------------------------------------------------------------------------------- */

static void test_usage(void **state)
{
    (void)state;
    expect("--help", 0, "Exit status");
    expect("--version", 0, "thrum-plan 0.");
    expect("--list", 0, "recursive_halving");
    expect("--list -c allgather", 0, "bruck");
    expect("", 2, "--help");
    expect("--collective teleport", 2, "'teleport'");
    expect("--collective allreduce --algorithm teleport", 2, "'teleport'");
    expect("--algorithm ring", 2, "--collective");
    expect("-c allreduce -a ring -n 0", 2, "'0'");
    expect("-c allreduce -a ring -n 4x", 2, "'4x'");
    expect("-c allreduce -a ring -n -4", 2, "'-4'");
    expect("-c allreduce -a ring -n 4 -r 4", 2, "--rank");
    expect("-c broadcast -a direct -n 4 --root 4", 2, "--root");
    expect("-c allreduce -a ring --count 99999999999999999999", 2, "--count");
    expect("-c allgather -a ring --count 4611686018427387904", 2, "--count");
    expect("-c allreduce -a ring --dtype complex", 2, "'complex'");
    expect("-c allreduce -a ring --dtype complex64 --op max", 2, "--op");
    expect("-c allreduce -a ring --counts 1,2", 2, "--counts");
    expect("-c allgather -a ring -n 3 --counts 1,2", 2, "--counts");
    expect("-c allgather -a ring --counts 1,two", 2, "'1,two'");
    expect("-c allreduce -a ring --op band", 2, "--op");
    expect("-c allreduce -a ring --lanes 5", 2, "'5'");
    expect("-c allreduce -a ring --format xml", 2, "'xml'");
    expect("--check --plant bug", 2, "'bug'");
    expect("--nonsense", 2, "nonsense");
    expect("more", 2, "'more'");
}

static void test_refusals(void **state)
{
    (void)state;
    expect("-c allreduce -a inline --count 1023 --no-peer-access", 1, "fit a line");
    expect("-c allreduce -a inline --count 1K", 1, "fit a line");
    expect("-c allreduce -a direct --no-peer-access", 1, "access");
    expect("-c allreduce -a ring --scratch 100", 1, "scratch");
    expect("-c allreduce -a ring --ordered", 1, "rank order");
    expect("-c alltoall -a pairwise --in-place", 1, "in place");
    expect("-c gather -a binomial --count 100M", 1, "scratch");
}

static void test_full_disk(void **state)
{
    (void)state;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full < 0)
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        exec_tool(full, "-c allreduce -a ring", 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    close(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_algorithm_is_here),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_json_parses),
        cmocka_unit_test(test_dot),
        cmocka_unit_test(test_hundred_thousand_ranks),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_planted_faults_are_shown),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests_name("thrum-plan", tests, NULL, NULL);
}
