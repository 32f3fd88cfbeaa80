/*
 * Large puts of one rank into the device memory of another one, as fast as they go: what perf/compare-verbs runs beside
 * perftest's ib_write_bw. Two ranks; the fabric is what the environment says. Every byte is compared at the end.
 *
 * usage: put-bench BYTES PUTS [BYTES PUTS ...]
 * Rank 0 prints "BYTES MIB-PER-SECOND" for each pair.
 */
#include <stdlib.h>
#include <string.h>

#include "perf.h"

struct bench {
    thrum_device_t device;
    thrum_queue_t queue;
    thrum_comm_t comm;
    int rank;
};

/* What rank 0 has at `i` of a buffer of `bytes`. */
static unsigned char pattern(uint64_t i, uint64_t bytes)
{
    return (unsigned char)(i * 7 + i / 4096 + bytes / 65536);
}

static void wait_queue(const struct bench *b)
{
    perf_check(thrum_queue_synchronize(b->queue), "waiting");
}

/* Time in us for `puts` of them, until the last one is in the peer's memory. The first one makes the connection. */
static double put_all(const struct bench *b, const void *memory, thrum_window_t window,
                      uint64_t bytes, long puts)
{
    double start = 0;

    for (long i = -1; i < puts; i++) {
        perf_check(thrum_put(memory, bytes, THRUM_UINT8, 1, window, 0, b->comm, b->queue), "put");
        if (i >= 0)
            continue;
        wait_queue(b);
        start = perf_now_us();
    }
    wait_queue(b);
    start = perf_now_us() - start;
    perf_check(thrum_signal(1, b->comm, b->queue), "signal");
    wait_queue(b);
    return start;
}

static void compare(const struct bench *b, unsigned char *host, void *memory, uint64_t bytes)
{
    perf_check(thrum_wait_signal(0, 1, b->comm, b->queue), "waiting for the signal");
    perf_check(thrum_copy_to_host(b->queue, host, memory, bytes), "copying");
    for (uint64_t i = 0; i < bytes; i++)
        if (host[i] != pattern(i, bytes))
            perf_die(PERF_EXIT_WRONG, "byte %llu of %llu is %d, not %d", (unsigned long long)i,
                     (unsigned long long)bytes, host[i], pattern(i, bytes));
}

static void run(const struct bench *b, uint64_t bytes, long puts)
{
    unsigned char *host = perf_malloc(bytes);
    thrum_window_t window;
    void *memory;

    perf_check(thrum_mem_alloc(b->device, bytes, &memory), "allocating");
    for (uint64_t i = 0; i < bytes && b->rank == 0; i++)
        host[i] = pattern(i, bytes);
    perf_check(thrum_copy_to_device(b->queue, memory, host, bytes), "copying");
    perf_check(thrum_comm_register(b->comm, memory, bytes, &window), "opening a window");
    if (b->rank == 0) {
        double us = put_all(b, memory, window, bytes, puts);
        printf("%llu %.2f\n", (unsigned long long)bytes,
               (double)bytes * (double)puts / 1048576 / (us / 1e6));
        fflush(stdout);
    }
    /* Rank 1 sleeps in here meanwhile, as the server of ib_write_bw does. */
    perf_check(thrum_comm_deregister(window), "closing the window");
    if (b->rank == 1)
        compare(b, host, memory, bytes);
    perf_check(thrum_mem_free(b->device, memory), "freeing");
    free(host);
}

int main(int argc, char **argv)
{
    struct bench b = {.rank = 0};
    int nranks;

    perf_program = "put-bench";
    if (argc < 3 || argc % 2 == 0)
        perf_die(PERF_EXIT_USAGE, "usage: put-bench BYTES PUTS [BYTES PUTS ...]");
    perf_check(thrum_device_open(THRUM_DEVICE_ANY, &b.device), "opening a device");
    perf_check(thrum_queue_create(b.device, THRUM_QUEUE_DEFAULT, &b.queue), "making a queue");
    perf_check(thrum_comm_init(b.device, NULL, &b.comm), "joining");
    perf_check(thrum_comm_rank(b.comm, &b.rank), "asking for the rank");
    perf_check(thrum_comm_size(b.comm, &nranks), "asking for the size");
    perf_rank = b.rank;
    if (nranks != 2)
        perf_die(PERF_EXIT_USAGE, "%d ranks: there must be two", nranks);
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t bytes;
        long puts;

        if (!perf_parse_bytes(argv[i], &bytes) || !bytes ||
            !perf_parse_int(argv[i + 1], 1, 1000000, &puts))
            perf_die(PERF_EXIT_USAGE, "%s %s: a size and a number of puts", argv[i], argv[i + 1]);
        run(&b, bytes, puts);
    }
    perf_check(thrum_comm_finalize(b.comm), "finalizing");
    thrum_comm_destroy(b.comm);
    thrum_device_close(b.device);
    return PERF_EXIT_OK;
}
