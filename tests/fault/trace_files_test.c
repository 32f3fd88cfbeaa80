/* What processes record of their operations into files of THRUM_TRACE: all of it, up to what they hung or died in. */
#include "trace_streams.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "%s", "/tmp/thrum-trace-test-XXXXXX");
    return leftovers_before(state) || !mkdtemp(folder);
}

static struct stream read_file(const char *name)
{
    struct stream s = {.fd = -1};
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    s.fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(s.fd >= 0);
    while (s.fd >= 0)
        read_some(&s);
    parse(&s);
    return s;
}

/* The only file there whose name ends so, which is removed. */
static struct stream take_file(const char *ending)
{
    DIR *dir = opendir(folder);
    struct stream s = {.fd = -1};
    struct dirent *entry;
    char path[512];
    int found = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        size_t length = strlen(entry->d_name);

        if (length < strlen(ending) || strcmp(entry->d_name + length - strlen(ending), ending))
            continue;
        s = read_file(entry->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
        found++;
    }
    closedir(dir);
    assert_int_equal(found, 1);
    return s;
}

static int remove_folder(void **state)
{
    return rmdir(folder) || leftovers_after(state);
}

static void files_have_all(void **state)
{
    char setting[128], ending[64];
    pid_t pids[2];
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    memcpy(pids, crew.pids, sizeof pids);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    end(&crew);
    for (int r = 0; r < 2; r++) {
        struct stream s;

        snprintf(ending, sizeof ending, "-%d.trace", (int)pids[r]);
        s = take_file(ending);
        assert_int_equal(s.n, 500);
        assert_int_equal(s.lost, 0);
        assert_int_equal(s.ends, 1);
        for (size_t i = 0; i < s.n; i++)
            must_be_a_sum(&s.operations[i], i + 1);
        forget(&s);
    }
}

/* Its file has what had ended; the other's also what never will. */
static void files_of_who_leaves(void **state)
{
    char setting[128], ending[64];
    struct stream s;
    struct crew crew;
    pid_t pids[2];

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    memcpy(pids, crew.pids, sizeof pids);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    crew_say(&crew, 0, "sum");
    crew_say(&crew, 1, "leave");
    crew_expect_result(&crew, 0, THRUM_ERR_PEER_DEAD, NULL);
    crew_wait(&crew, 1);
    crew_say(&crew, 0, "end");
    crew_expect(&crew, 0, "closed");
    crew_finish(&crew);
    snprintf(ending, sizeof ending, "-%d.trace", (int)pids[1]);
    s = take_file(ending);
    assert_int_equal(s.n, 500);
    forget(&s);
    snprintf(ending, sizeof ending, "-%d.trace", (int)pids[0]);
    s = take_file(ending);
    assert_true(s.times >= 1); /* a second one where the other took its time to leave */
    assert_int_equal(s.n, 501);
    assert_int_equal(s.operations[500].sequence, 501);
    assert_int_equal(s.operations[500].ended_ns, 0);
    assert_true(s.operations[500].begun_ns > 0);
    forget(&s);
}

/* That of a process that hangs, and is killed, has what it hung in. */
static void files_of_who_hangs(void **state)
{
    int64_t limit = clock_ms() + 20000;
    char setting[128], path[512];
    struct stream s = {.fd = -1};
    struct dirent **names;
    struct crew crew;
    int found;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 2, setting);
    crew_say_all(&crew, "sums 500");
    crew_expect_all(&crew, "summed");
    crew_say(&crew, 0, "sum");
    snprintf(path, sizeof path, "-%d.trace", (int)crew.pids[0]);
    while (s.n != 501) {
        poll(NULL, 0, 100);
        assert_true(clock_ms() < limit);
        forget(&s);
        found = scandir(folder, &names, NULL, NULL);
        for (int i = 0; i < found; i++) {
            if (strstr(names[i]->d_name, path))
                s = read_file(names[i]->d_name);
            free(names[i]);
        }
        free(names);
    }
    assert_int_equal(s.operations[500].sequence, 501);
    assert_int_equal(s.operations[500].ended_ns, 0);
    assert_true(s.operations[500].begun_ns > 0);
    assert_true(s.times > 0);
    forget(&s);
    for (int r = 0; r < 2; r++)
        crew_kill(&crew, r, SIGKILL);
    crew_finish(&crew);
    s = take_file(path);
    assert_int_equal(s.n, 501);
    forget(&s);
    s = take_file(".trace");
    assert_int_equal(s.n, 500);
    forget(&s);
}

/* What is called as soon as there is a communicator is in it, too. */
static void files_have_the_first_calls(void **state)
{
    char setting[128];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    for (int i = 0; i < 5; i++) {
        crew_say(&crew, 0, "at once");
        crew_expect(&crew, 0, "summed");
    }
    end(&crew);
    s = take_file(".trace");
    assert_int_equal(s.n, 250);
    assert_int_equal(s.lost, 0);
    forget(&s);
}

/* A disk that is full: what is there can be read to its end, also of a communicator that comes when there is room. */
static void files_end_with_whole_frames(void **state)
{
    struct rlimit before, little = {.rlim_cur = 1003};
    char setting[128], ending[64];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, NULL, &before), 0);
    little.rlim_max = before.rlim_max;
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, &little, NULL), 0);
    crew_say(&crew, 0, "sums 50");
    crew_expect(&crew, 0, "summed");
    crew_say(&crew, 0, "again");
    crew_expect(&crew, 0, "destroyed");
    assert_int_equal(prlimit(crew.pids[0], RLIMIT_FSIZE, &before, NULL), 0);
    crew_say(&crew, 0, "join");
    crew_expect(&crew, 0, "joined");
    crew_say(&crew, 0, "sums 50");
    crew_expect(&crew, 0, "summed");
    snprintf(ending, sizeof ending, "-%d-1.trace", (int)crew.pids[0]);
    end(&crew);
    s = take_file(ending);
    assert_int_equal(s.n, 50);
    forget(&s);
    s = take_file(".trace");
    assert_true(s.n && s.n < 50);
    forget(&s);
}

/* Taken away while there is no communicator, as one looks at it: the next one's is written all the same. */
static void files_are_taken_away(void **state)
{
    char setting[128];
    struct stream s;
    struct crew crew;

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s", folder);
    start(&crew, 1, setting);
    for (int i = 0; i < 2; i++) {
        crew_say(&crew, 0, "sums 50");
        crew_expect(&crew, 0, "summed");
        crew_say(&crew, 0, "again");
        crew_expect(&crew, 0, "destroyed");
        s = take_file(".trace");
        assert_int_equal(s.n, 50);
        forget(&s);
        crew_say(&crew, 0, "join");
        crew_expect(&crew, 0, "joined");
    }
    end(&crew);
    s = take_file(".trace");
    forget(&s);
}

static void no_folder_is_no_failure(void **state)
{
    struct crew crew;
    char setting[128];

    (void)state;
    snprintf(setting, sizeof setting, "THRUM_TRACE=%s/not/there", folder);
    start(&crew, 2, setting);
    crew_say_all(&crew, "sums 20");
    crew_expect_all(&crew, "summed");
    end(&crew);
}

int main(int argc, char **argv)
{
#define test(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        test(files_have_all),
        test(files_of_who_leaves),
        test(files_of_who_hangs),
        test(files_have_the_first_calls),
        test(files_end_with_whole_frames),
        test(files_are_taken_away),
        test(no_folder_is_no_failure),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests_name("trace_files", tests, NULL, NULL);
}
