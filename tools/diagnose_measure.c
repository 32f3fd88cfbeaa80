/*
 * thrum-diagnose: the measurements. The best of some rounds counts: what else runs on a machine only ever makes them worse,
 * and what is really slow has no good one. See diagnose.h.
 */
#include "diagnose.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum {
    ROUNDS = 15,
    TRIPS = 10, /* to and fro in one */
    MESSAGE_BYTES = 2 << 20,
    COPY_BYTES = 16 << 20
};

static void synchronize(const struct diagnosis *d)
{
    job_check(thrum_queue_synchronize(d->job.queue), "measure");
}

static void meet(const struct diagnosis *d)
{
    job_check(thrum_barrier(d->job.comm, d->job.queue), "measure");
    synchronize(d);
}

/* Until all others have come; without asking for a core all the time, which those that measure may need. */
static void rest(const struct diagnosis *d)
{
    thrum_status_t status;

    job_check(thrum_barrier(d->job.comm, d->job.queue), "rest");
    while ((status = thrum_queue_query(d->job.queue)) == THRUM_IN_PROGRESS)
        usleep(1000);
    job_check(status, "rest");
}

static void *buffer_of(const struct diagnosis *d, size_t bytes)
{
    void *buffer;

    job_check(thrum_mem_alloc(d->job.device, bytes, &buffer), "device memory");
    return buffer;
}

static void free_buffer(const struct diagnosis *d, void *buffer)
{
    job_check(thrum_mem_free(d->job.device, buffer), "device memory");
}

static int64_t shorter(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- devices ---- */

static double copy_gbytes(const struct diagnosis *d)
{
    char *from = buffer_of(d, COPY_BYTES), *to = buffer_of(d, COPY_BYTES);
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        int64_t begin = now_ns();

        job_check(thrum_copy(d->job.queue, to, from, COPY_BYTES), "copy");
        synchronize(d);
        best = shorter(best, now_ns() - begin);
    }
    free_buffer(d, from);
    free_buffer(d, to);
    return COPY_BYTES / (double)best;
}

static void measure_device(struct diagnosis *d)
{
    struct thrum_device_properties properties = {.size = sizeof properties};
    struct place *mine = &d->places[d->job.rank];

    topo_identify_host(&mine->host, &mine->machine);
    topo_get_cores(&mine->cores);
    mine->pid = getpid();
    if (gethostname(mine->name, sizeof mine->name - 1))
        mine->name[0] = 0;
    job_check(thrum_device_get_properties(d->job.device, &properties), "the device's properties");
    memcpy(mine->device, properties.name, sizeof mine->device);
    mine->copy_gbytes = copy_gbytes(d);
    job_gather(&d->job, &d->places[d->job.rank], d->places, sizeof *d->places);
}

void diagnose_device_again(struct diagnosis *d, int rank)
{
    meet(d);
    if (rank == d->job.rank) {
        double gbytes = copy_gbytes(d);

        if (gbytes > d->places[rank].copy_gbytes)
            d->places[rank].copy_gbytes = gbytes;
    }
    rest(d);
    job_gather(&d->job, &d->places[d->job.rank], d->places, sizeof *d->places);
}

/* ---- links ---- */

/* Both ends do it at the same time; each has half of the time that there and back takes. */
static double one_way_us(const struct diagnosis *d, int peer, char *buffer)
{
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        int64_t begin = now_ns();

        for (int k = 0; k < TRIPS; k++) {
            bool first = d->job.rank < peer;
            char *in = buffer + 64;

            if (first)
                job_check(thrum_send(buffer, 8, THRUM_UINT8, peer, d->job.comm, d->job.queue),
                          "send");
            job_check(thrum_recv(in, 8, THRUM_UINT8, peer, d->job.comm, d->job.queue), "receive");
            if (!first)
                job_check(thrum_send(buffer, 8, THRUM_UINT8, peer, d->job.comm, d->job.queue),
                          "send");
            synchronize(d);
        }
        best = shorter(best, now_ns() - begin);
    }
    return (double)best / 1e3 / (2 * TRIPS);
}

static double both_ways_gbytes(const struct diagnosis *d, int peer, char *buffer)
{
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        int64_t begin = now_ns();

        job_check(thrum_group_start(), "group");
        job_check(thrum_send(buffer, MESSAGE_BYTES, THRUM_UINT8, peer, d->job.comm, d->job.queue),
                  "send");
        job_check(thrum_recv(buffer + MESSAGE_BYTES, MESSAGE_BYTES, THRUM_UINT8, peer, d->job.comm,
                             d->job.queue),
                  "receive");
        job_check(thrum_group_end(), "group");
        synchronize(d);
        best = shorter(best, now_ns() - begin);
    }
    return 2.0 * MESSAGE_BYTES / (double)best;
}

static struct link measure_link(const struct diagnosis *d, int peer, char *buffer)
{
    double us = one_way_us(d, peer, buffer);

    return (struct link){.us = (float)us, .gbytes = (float)both_ways_gbytes(d, peer, buffer)};
}

/* Both ends have measured it: the worse counts. */
static void agree(struct diagnosis *d)
{
    size_t n = (size_t)d->nmasks;

    job_gather(&d->job, &d->links[(size_t)d->job.rank * n], d->links, n * sizeof *d->links);
    for (int r = 0; r < d->job.nranks; r++)
        for (int i = 0; i < d->nmasks; i++) {
            int other = r ^ d->masks[i];
            struct link *a = &d->links[(size_t)r * n + (size_t)i], *b;

            if (other >= d->job.nranks || other < r)
                continue;
            b = &d->links[(size_t)other * n + (size_t)i];
            a->us = b->us = a->us > b->us ? a->us : b->us;
            a->gbytes = b->gbytes = a->gbytes < b->gbytes ? a->gbytes : b->gbytes;
        }
}

static void measure_links(struct diagnosis *d)
{
    char *buffer = buffer_of(d, 2 * MESSAGE_BYTES);
    struct link *mine = &d->links[(size_t)d->job.rank * (size_t)d->nmasks];

    for (int i = 0; i < d->nmasks; i++) {
        int peer = d->job.rank ^ d->masks[i];

        meet(d);
        if (peer < d->job.nranks)
            mine[i] = measure_link(d, peer, buffer);
    }
    free_buffer(d, buffer);
    if (d->nmasks)
        agree(d);
}

void diagnose_link_again(struct diagnosis *d, int rank, int mask_index)
{
    int other = rank ^ d->masks[mask_index];
    struct link *mine = &d->links[(size_t)d->job.rank * (size_t)d->nmasks + (size_t)mask_index];

    meet(d);
    if (d->job.rank == rank || d->job.rank == other) {
        char *buffer = buffer_of(d, 2 * MESSAGE_BYTES);
        struct link again = measure_link(d, d->job.rank == rank ? other : rank, buffer);

        mine->us = again.us < mine->us ? again.us : mine->us;
        mine->gbytes = again.gbytes > mine->gbytes ? again.gbytes : mine->gbytes;
        free_buffer(d, buffer);
    }
    rest(d);
    agree(d);
}

void diagnose_measure(struct diagnosis *d)
{
    measure_device(d);
    measure_links(d);
}
