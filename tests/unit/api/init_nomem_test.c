/* thrum_comm_init_all with every allocation, each thread, and the descriptor of the control plane, made to fail in turn: an error soon, and nothing left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define DEVICES 2

static thrum_device_t devices[DEVICES];
static atomic_long allocations = -1, threads = -1,
                   eventfds = -1; /* until one fails; negative: none does */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *at, size_t bytes);
int __real_eventfd(unsigned count, int flags);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *argument);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
int __wrap_eventfd(unsigned count, int flags);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *argument);

static int fails(atomic_long *left)
{
    return atomic_load(left) >= 0 && atomic_fetch_sub(left, 1) == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails(&allocations) ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails(&allocations) ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *at, size_t bytes)
{
    return fails(&allocations) ? NULL : __real_realloc(at, bytes);
}

int __wrap_eventfd(unsigned count, int flags)
{
    if (!fails(&eventfds))
        return __real_eventfd(count, flags);
    errno = EMFILE;
    return -1;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *argument)
{
    return fails(&threads) ? 11 : __real_pthread_create(thread, attributes, main, argument);
}

static int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int entries(const char *path)
{
    DIR *folder = opendir(path);
    int n = 0;

    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}

/* Descriptors and threads: a detached thread may take a while to end. */
static void expect_left(int files, int tasks, long failing)
{
    int64_t end = clock_ns() + 5000000000;

    while (entries("/proc/self/fd") > files || entries("/proc/self/task") > tasks) {
        if (clock_ns() > end)
            fail_msg("number %ld fails: %d descriptors instead of %d, %d threads instead of %d",
                     failing, entries("/proc/self/fd"), files, entries("/proc/self/task"), tasks);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static int make(void **state)
{
    (void)state;
    for (int i = 0; i < DEVICES; i++)
        if (thrum_device_open(THRUM_DEVICE_ANY, &devices[i]))
            return 1;
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    for (int i = 0; i < DEVICES; i++)
        thrum_device_close(devices[i]);
    return 0;
}

/* Makes n ranks in `deadline_ms` and destroys them. */
static thrum_status_t init(int n, int64_t deadline_ms)
{
    struct thrum_comm_config config = {.size = sizeof config, .init_deadline_ms = deadline_ms};
    thrum_comm_t comms[DEVICES] = {NULL};
    thrum_status_t status = thrum_comm_init_all(devices, n, &config, comms);

    atomic_store(&allocations, -1);
    atomic_store(&threads, -1);
    atomic_store(&eventfds, -1);
    for (int i = 0; i < DEVICES; i++)
        thrum_comm_destroy(comms[i]);
    return status;
}

/* The first communicator of the process. A child of fork has what is not the library's all the same. */
static void without_a_descriptor(void **state)
{
    int status = -1;
    pid_t pid;

    (void)state;
    atomic_store(&eventfds, 1); /* the first is the service's */
    assert_int_equal(init(1, 20000), THRUM_ERR_LIMIT);
    assert_true(fcntl(0, F_GETFD) >= 0);
    pid = fork();
    if (!pid)
        _exit(fcntl(0, F_GETFD) < 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void without_memory(void **state)
{
    int files, tasks, good = 0;

    (void)state;
    assert_int_equal(init(1, 20000), THRUM_OK);
    files = entries("/proc/self/fd");
    tasks = entries("/proc/self/task");
    for (long n = 0; good < 3; n++) { /* in a row: not every failure is one of the call */
        atomic_store(&allocations, n);
        good = init(1, 100) ? 0 : good + 1;
        expect_left(files, tasks, n);
    }
}

/* The ranks that have a thread do not wait for those that have none. */
static void without_threads(void **state)
{
    int files = entries("/proc/self/fd"), tasks = entries("/proc/self/task");

    (void)state;
    for (long n = 0; n <= DEVICES; n++) { /* the first is the service's */
        int64_t begin = clock_ns();

        atomic_store(&threads, n);
        assert_int_equal(init(DEVICES, 20000), THRUM_ERR_LIMIT);
        if (clock_ns() - begin > 10000000000)
            fail_msg("thread %ld: waited %lld ms", n, (long long)(clock_ns() - begin) / 1000000);
        expect_left(files, tasks, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_a_descriptor, make, unmake),
        cmocka_unit_test_setup_teardown(without_memory, make, unmake),
        cmocka_unit_test_setup_teardown(without_threads, make, unmake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
