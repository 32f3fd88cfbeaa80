/*
 * Many ranks in one process: thrum_comm_init_all with the calls of all ranks from one thread and with a thread for each,
 * several communicators on the same devices, and what a queue of one rank sees of another's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include <thrum/thrum.h>

#define MAX_RANKS 5
#define COUNT 30011

static thrum_device_t devices[MAX_RANKS];
static thrum_queue_t queues[MAX_RANKS];
static int64_t *sends[MAX_RANKS], *recvs[MAX_RANKS];
static int64_t host[MAX_RANKS][COUNT];

#define ok(call) ok_at((call), #call, __LINE__)
static void ok_at(thrum_status_t status, const char *call, int line)
{
    if (status != THRUM_OK)
        fail_msg("line %d: %s: %s: %s", line, call, thrum_status_name(status), thrum_last_error());
}

static int make(void **state)
{
    (void)state;
    for (int i = 0; i < MAX_RANKS; i++) {
        void *address;

        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[i]));
        ok(thrum_queue_create(devices[i], THRUM_QUEUE_DEFAULT, &queues[i]));
        ok(thrum_mem_alloc(devices[i], COUNT * sizeof(int64_t), &address));
        sends[i] = address;
        ok(thrum_mem_alloc(devices[i], COUNT * sizeof(int64_t) * MAX_RANKS, &address));
        recvs[i] = address;
    }
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    for (int i = 0; i < MAX_RANKS; i++) {
        thrum_queue_destroy(queues[i]);
        thrum_device_close(devices[i]);
    }
    return 0;
}

static int64_t value(int rank, size_t i)
{
    return (int64_t)(rank + 1) * 1000003 + (int64_t)i * 7;
}

static void write_sends(int nranks, size_t count)
{
    for (int r = 0; r < nranks; r++) {
        for (size_t i = 0; i < count; i++)
            host[r][i] = value(r, i);
        ok(thrum_copy_to_device(queues[r], sends[r], host[r], count * sizeof(int64_t)));
    }
}

static void check_sum(int nranks, int rank, size_t count)
{
    memset(host[rank], 0, sizeof host[rank]);
    ok(thrum_copy_to_host(queues[rank], host[rank], recvs[rank], count * sizeof(int64_t)));
    for (size_t i = 0; i < count; i++) {
        int64_t sum = 0;
        for (int r = 0; r < nranks; r++)
            sum += value(r, i);
        if (host[rank][i] != sum)
            fail_msg("rank %d of %d, element %zu of %zu: %lld, not %lld", rank, nranks, i, count,
                     (long long)host[rank][i], (long long)sum);
    }
}

static const size_t counts[] = {0, 1, 7, 1000, COUNT};
#define COUNTS (sizeof counts / sizeof *counts)

static void one_thread(void **state)
{
    thrum_comm_t comms[MAX_RANKS];

    (void)state;
    for (int n = 1; n <= MAX_RANKS; n++) {
        ok(thrum_comm_init_all(devices, n, NULL, comms));
        for (size_t c = 0; c < COUNTS; c++) {
            write_sends(n, counts[c]);
            for (int r = n - 1; r >= 0; r--)
                ok(thrum_allreduce(sends[r], recvs[r], counts[c], THRUM_INT64, THRUM_SUM, comms[r],
                                   queues[r]));
            for (int r = 0; r < n; r++)
                ok(thrum_queue_synchronize(queues[r]));
            for (int r = 0; r < n; r++)
                check_sum(n, r, counts[c]);
        }
        for (int r = 0; r < n; r++)
            thrum_comm_destroy(comms[r]);
    }
}

static void one_thread_in_a_group(void **state)
{
    thrum_comm_t comms[MAX_RANKS];

    (void)state;
    ok(thrum_comm_init_all(devices, MAX_RANKS, NULL, comms));
    write_sends(MAX_RANKS, COUNT);
    ok(thrum_group_start());
    for (int r = 0; r < MAX_RANKS; r++)
        ok(thrum_allreduce(sends[r], recvs[r], COUNT, THRUM_INT64, THRUM_SUM, comms[r], queues[r]));
    ok(thrum_group_end());
    for (int r = 0; r < MAX_RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
    for (int r = 0; r < MAX_RANKS; r++)
        check_sum(MAX_RANKS, r, COUNT);
    for (int r = 0; r < MAX_RANKS; r++)
        thrum_comm_destroy(comms[r]);
}

/* Each rank's messages to all, from one thread: neither a send nor a receive waits. */
static void all_pairs_from_one_thread(void **state)
{
    enum { BLOCK = 1000 };
    thrum_comm_t comms[MAX_RANKS];

    (void)state;
    ok(thrum_comm_init_all(devices, MAX_RANKS, NULL, comms));
    write_sends(MAX_RANKS, COUNT);
    ok(thrum_group_start());
    for (int r = 0; r < MAX_RANKS; r++)
        for (int p = 0; p < MAX_RANKS; p++) {
            ok(thrum_send(sends[r] + p * BLOCK, BLOCK, THRUM_INT64, p, comms[r], queues[r]));
            ok(thrum_recv(recvs[r] + p * BLOCK, BLOCK, THRUM_INT64, p, comms[r], queues[r]));
        }
    ok(thrum_group_end());
    for (int r = 0; r < MAX_RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
    for (int r = 0; r < MAX_RANKS; r++) {
        ok(thrum_copy_to_host(queues[r], host[r], recvs[r], MAX_RANKS * BLOCK * sizeof(int64_t)));
        for (int p = 0; p < MAX_RANKS; p++)
            for (size_t i = 0; i < BLOCK; i++)
                assert_int_equal(host[r][(size_t)p * BLOCK + i], value(p, (size_t)r * BLOCK + i));
    }
    for (int r = 0; r < MAX_RANKS; r++)
        thrum_comm_destroy(comms[r]);
}

struct worker {
    pthread_t thread;
    int rank, nranks;
    struct thrum_unique_id id;
    thrum_comm_t comm; /* NULL: joins by the id */
    thrum_status_t status;
    char message[256];
};

static thrum_status_t work(struct worker *worker)
{
    int r = worker->rank;
    thrum_status_t status = THRUM_OK;
    bool joins = !worker->comm;

    if (joins)
        status =
            thrum_comm_init_rank(&worker->id, worker->nranks, r, devices[r], NULL, &worker->comm);
    for (size_t i = 0; i < 100 && !status; i++) {
        status = thrum_allreduce(sends[r], recvs[r], counts[i % COUNTS], THRUM_INT64, THRUM_SUM,
                                 worker->comm, queues[r]);
        if (!status && i % 9 == 0)
            status = thrum_queue_synchronize(queues[r]);
    }
    if (!status)
        status = thrum_queue_synchronize(queues[r]);
    if (joins && !status)
        status = thrum_comm_finalize(worker->comm);
    if (joins)
        thrum_comm_destroy(worker->comm);
    return status;
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;

    worker->status = work(worker);
    strncpy(worker->message, thrum_last_error(), sizeof worker->message - 1);
    return NULL;
}

static void run_workers(struct worker *workers, int n)
{
    write_sends(n, COUNT);
    for (int r = 0; r < n; r++) {
        workers[r].rank = r;
        workers[r].nranks = n;
        assert_int_equal(pthread_create(&workers[r].thread, NULL, worker_main, &workers[r]), 0);
    }
    for (int r = 0; r < n; r++)
        assert_int_equal(pthread_join(workers[r].thread, NULL), 0);
    for (int r = 0; r < n; r++)
        if (workers[r].status)
            fail_msg("rank %d: %s: %s", r, thrum_status_name(workers[r].status),
                     workers[r].message);
    for (int r = 0; r < n; r++)
        check_sum(n, r, COUNT);
}

static void a_thread_for_each_rank(void **state)
{
    struct worker workers[MAX_RANKS];
    thrum_comm_t comms[MAX_RANKS];

    (void)state;
    memset(workers, 0, sizeof workers);
    ok(thrum_comm_init_all(devices, MAX_RANKS, NULL, comms));
    for (int r = 0; r < MAX_RANKS; r++)
        workers[r].comm = comms[r];
    run_workers(workers, MAX_RANKS);
    for (int r = 0; r < MAX_RANKS; r++)
        thrum_comm_destroy(comms[r]);
}

static void threads_that_join_by_an_id(void **state)
{
    struct worker workers[MAX_RANKS];
    struct thrum_unique_id id;

    (void)state;
    memset(workers, 0, sizeof workers);
    ok(thrum_get_unique_id(&id));
    for (int r = 0; r < MAX_RANKS; r++)
        workers[r].id = id;
    run_workers(workers, MAX_RANKS);
}

/* Two communicators with the same devices numbered differently, used in turn on the same queues. */
static void two_on_the_same_devices(void **state)
{
    thrum_device_t reversed[MAX_RANKS];
    thrum_comm_t comms[MAX_RANKS], others[MAX_RANKS];

    (void)state;
    for (int r = 0; r < MAX_RANKS; r++)
        reversed[r] = devices[MAX_RANKS - 1 - r];
    ok(thrum_comm_init_all(devices, MAX_RANKS, NULL, comms));
    ok(thrum_comm_init_all(reversed, MAX_RANKS, NULL, others));
    write_sends(MAX_RANKS, 1000);
    for (int round = 0; round < 10; round++) {
        for (int r = 0; r < MAX_RANKS; r++)
            ok(thrum_allreduce(sends[r], recvs[r], 1000, THRUM_INT64, THRUM_SUM, comms[r],
                               queues[r]));
        for (int r = 0; r < MAX_RANKS; r++)
            ok(thrum_allreduce(sends[r], recvs[r], 1000, THRUM_INT64, THRUM_SUM,
                               others[MAX_RANKS - 1 - r], queues[r]));
    }
    for (int r = 0; r < MAX_RANKS; r++)
        ok(thrum_queue_synchronize(queues[r]));
    for (int r = 0; r < MAX_RANKS; r++) {
        int rank, other;

        check_sum(MAX_RANKS, r, 1000);
        ok(thrum_comm_rank(comms[r], &rank));
        ok(thrum_comm_rank(others[MAX_RANKS - 1 - r], &other));
        assert_int_equal(rank, r);
        assert_int_equal(other, MAX_RANKS - 1 - r);
        thrum_comm_destroy(comms[r]);
    }
    for (int r = 0; r < MAX_RANKS; r++)
        thrum_comm_destroy(others[r]);
}

/* Results are visible to later commands of the queue without a wait by the host. */
static void later_commands_see_results(void **state)
{
    thrum_comm_t comms[2];

    (void)state;
    ok(thrum_comm_init_all(devices, 2, NULL, comms));
    write_sends(2, COUNT);
    for (int r = 0; r < 2; r++) {
        ok(thrum_allreduce(sends[r], recvs[r] + COUNT, COUNT, THRUM_INT64, THRUM_SUM, comms[r],
                           queues[r]));
        ok(thrum_copy(queues[r], recvs[r], recvs[r] + COUNT, COUNT * sizeof(int64_t)));
    }
    for (int r = 0; r < 2; r++)
        ok(thrum_queue_synchronize(queues[r]));
    for (int r = 0; r < 2; r++) {
        check_sum(2, r, COUNT);
        thrum_comm_destroy(comms[r]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread),
        cmocka_unit_test(one_thread_in_a_group),
        cmocka_unit_test(all_pairs_from_one_thread),
        cmocka_unit_test(a_thread_for_each_rank),
        cmocka_unit_test(threads_that_join_by_an_id),
        cmocka_unit_test(two_on_the_same_devices),
        cmocka_unit_test(later_commands_see_results),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
