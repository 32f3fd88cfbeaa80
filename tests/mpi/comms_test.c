/*
 * Several communicators at once, through the public interface only, under a launcher: made again by thrum_comm_init, by
 * an id passed over the first one, of a part of the ranks; on one queue and on several; named in different orders; and
 * destroyed in any order while others go on.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../counts.h"
#include "harness.h"

/* *out <- the sum over the ranks of `comm` of value, on the job's queue or another. */
static int64_t sum_on(struct job *job, thrum_comm_t comm, thrum_queue_t queue, int64_t value)
{
    struct buffer buffer;

    buffer_create(job, &buffer, MEMORY_DEVICE, sizeof value);
    buffer_write(job, &buffer, &value, sizeof value);
    MUST(thrum_allreduce(buffer.address, buffer.address, 1, THRUM_INT64, THRUM_SUM, comm, queue));
    MUST(thrum_queue_synchronize(queue));
    buffer_read(job, &buffer, &value, sizeof value);
    buffer_destroy(job, &buffer);
    return value;
}

static int64_t triangle(int n)
{
    return (int64_t)n * (n + 1) / 2;
}

/* A communicator of `size` ranks; `is_root` makes the id, and everybody of the job gets it from `source`. */
static thrum_comm_t join_by_id(struct job *job, int source, int nranks, int rank)
{
    struct thrum_unique_id id;
    struct buffer buffer;
    thrum_comm_t comm = NULL;

    memset(&id, 0, sizeof id);
    if (job->rank == source)
        MUST(thrum_get_unique_id(&id));
    buffer_create(job, &buffer, MEMORY_DEVICE, sizeof id);
    buffer_write(job, &buffer, &id, sizeof id);
    MUST(thrum_broadcast(buffer.address, buffer.address, sizeof id, THRUM_UINT8, source, job->comm,
                         job->queue));
    MUST(thrum_queue_synchronize(job->queue));
    buffer_read(job, &buffer, &id, sizeof id);
    buffer_destroy(job, &buffer);
    if (rank >= 0)
        MUST(thrum_comm_init_rank(&id, nranks, rank, job->device, NULL, &comm));
    return comm;
}

static size_t initialised_again(struct job *job)
{
    size_t errors = 0;

    for (int i = 0; i < 4; i++) {
        thrum_comm_t again;
        int rank, nranks;

        MUST(thrum_comm_init(job->device, NULL, &again));
        MUST(thrum_comm_rank(again, &rank));
        MUST(thrum_comm_size(again, &nranks));
        errors += rank != job->rank || nranks != job->nranks;
        errors += sum_on(job, again, job->queue, rank + 1) != triangle(nranks);
        if (i % 2)
            MUST(thrum_comm_finalize(again));
        thrum_comm_destroy(again);
    }
    return errors;
}

/* Ranks are numbered backwards in the new communicator. */
static size_t joined_by_id(struct job *job)
{
    size_t errors = 0;

    for (int source = 0; source < job->nranks && source < 3; source++) {
        int mirrored = job->nranks - 1 - job->rank, rank;
        thrum_comm_t comm = join_by_id(job, source, job->nranks, mirrored);

        MUST(thrum_comm_rank(comm, &rank));
        errors += rank != mirrored;
        errors += sum_on(job, comm, job->queue, rank + 1) != triangle(job->nranks);
        MUST(thrum_comm_finalize(comm));
        thrum_comm_destroy(comm);
    }
    return errors;
}

/* Even and odd ranks, each a communicator; both live at once, and the job's too. */
static size_t parts(struct job *job)
{
    int evens = (job->nranks + 1) / 2, odds = job->nranks / 2, odd = job->rank % 2;
    thrum_comm_t even_comm = join_by_id(job, 0, evens, odd ? -1 : job->rank / 2);
    thrum_comm_t odd_comm = join_by_id(job, 1, odds, odd ? job->rank / 2 : -1);
    thrum_comm_t mine = odd ? odd_comm : even_comm;
    size_t errors = 0;

    for (int round = 0; round < 10; round++) {
        errors += sum_on(job, mine, job->queue, job->rank / 2 + 1) != triangle(odd ? odds : evens);
        errors += sum_on(job, job->comm, job->queue, job->rank + 1) != triangle(job->nranks);
    }
    thrum_comm_destroy(mine);
    return errors;
}

/*
 * Two communicators at once, on two queues, named in another order by every rank: in a group, and, since each has its
 * own queue, without one.
 */
static size_t in_any_order(struct job *job)
{
    enum { COMMS = 3, ROUNDS = 30 };
    thrum_comm_t comms[COMMS];
    thrum_queue_t queues[COMMS];
    struct buffer buffers[COMMS];
    size_t errors = 0;

    for (int i = 0; i < COMMS; i++) {
        MUST(thrum_comm_init(job->device, NULL, &comms[i]));
        MUST(thrum_queue_create(job->device, i % 2 ? THRUM_QUEUE_DIRECT : THRUM_QUEUE_DEFAULT,
                                &queues[i]));
        buffer_create(job, &buffers[i], MEMORY_DEVICE, 1000 * sizeof(int64_t));
    }
    for (int round = 0; round < ROUNDS; round++) {
        int64_t values[1000];
        bool one_queue = round % 3 == 2; /* only a group makes that safe */
        bool grouped = one_queue || round % 3 == 1;

        for (int i = 0; i < COMMS; i++) {
            for (int k = 0; k < 1000; k++)
                values[k] = (job->rank + 1) * (k + 1) * (i + 1);
            buffer_write(job, &buffers[i], values, sizeof values);
        }
        if (grouped)
            MUST(thrum_group_start());
        for (int k = 0; k < COMMS; k++) {
            int i = (k + job->rank + round) % COMMS;
            MUST(thrum_allreduce(buffers[i].address, buffers[i].address, 1000, THRUM_INT64,
                                 THRUM_SUM, comms[i], one_queue ? queues[0] : queues[i]));
        }
        if (grouped)
            MUST(thrum_group_end());
        for (int k = 0; k < COMMS; k++)
            MUST(thrum_queue_synchronize(queues[(k + job->rank) % COMMS]));
        for (int i = 0; i < COMMS; i++) {
            buffer_read(job, &buffers[i], values, sizeof values);
            for (int k = 0; k < 1000; k++)
                errors += values[k] != triangle(job->nranks) * (k + 1) * (i + 1);
        }
    }
    for (int k = 0; k < COMMS; k++) {
        int i =
            (k + job->rank) % COMMS; /* each rank another order: destroy does not wait for peers */
        thrum_comm_destroy(comms[i]);
        thrum_queue_destroy(queues[i]);
        buffer_destroy(job, &buffers[i]);
    }
    return errors;
}

/* What a communicator said before it was made is what it holds. */
static size_t memory_as_planned(struct job *job)
{
    struct thrum_comm_memory_info plan = {.size = sizeof plan}, now = {.size = sizeof now};
    size_t errors = 0;

    MUST(thrum_comm_memory_plan(job->nranks, NULL, &plan));
    MUST(thrum_comm_memory(job->comm, &now));
    errors += plan.device_bytes != now.device_bytes - now.stage_bytes || now.device_bytes == 0;
    errors += plan.stage_bytes || now.stage_bytes > plan.stage_limit_bytes;
    errors += plan.scratch_bytes < now.scratch_bytes;
    errors += now.host_bytes > plan.host_limit_bytes || now.host_bytes > now.host_limit_bytes;
    if (errors)
        job_complain(
            job, "planned device %llu host limit %llu; holds device %llu, host %llu of %llu",
            (unsigned long long)plan.device_bytes, (unsigned long long)plan.host_limit_bytes,
            (unsigned long long)now.device_bytes, (unsigned long long)now.host_bytes,
            (unsigned long long)now.host_limit_bytes);
    return errors;
}

/* All that a communicator took from the device comes back. */
static size_t memory_returned(struct job *job)
{
    struct thrum_device_properties before = {.size = sizeof before}, after = {.size = sizeof after};
    thrum_comm_t comm;

    MUST(thrum_device_get_properties(job->device, &before));
    for (int i = 0; i < 3; i++) {
        MUST(thrum_comm_init(job->device, NULL, &comm));
        (void)sum_on(job, comm, job->queue, 1);
        MUST(thrum_comm_finalize(comm));
        thrum_comm_destroy(comm);
    }
    MUST(thrum_device_get_properties(job->device, &after));
    if (after.memory_free_bytes == before.memory_free_bytes)
        return 0;
    job_complain(job, "%llu bytes were free before, %llu after",
                 (unsigned long long)before.memory_free_bytes,
                 (unsigned long long)after.memory_free_bytes);
    return 1;
}

/* Odd and even ranks, backwards, and copies of the halves; all of them, and the job's, work at once. */
static size_t split_and_copied(struct job *job)
{
    int odd = job->rank % 2, half = (job->nranks + 1 - odd) / 2, rank;
    thrum_comm_t part, copy, none = job->comm;
    size_t errors = 0;

    MUST(thrum_comm_split(job->comm, odd, -job->rank, NULL, &part));
    MUST(thrum_comm_dup(part, NULL, &copy));
    MUST(thrum_comm_split(job->comm, THRUM_SPLIT_NONE, 0, NULL, &none));
    errors += none != NULL;
    MUST(thrum_comm_rank(part, &rank));
    errors += rank != half - 1 - job->rank / 2;
    for (int round = 0; round < 10; round++) {
        errors += sum_on(job, part, job->queue, job->rank / 2 + 1) != triangle(half);
        errors += sum_on(job, job->comm, job->queue, job->rank + 1) != triangle(job->nranks);
        errors += sum_on(job, copy, job->queue, rank + 1) != triangle(half);
    }
    thrum_comm_destroy(part);
    errors += sum_on(job, copy, job->queue, rank + 1) != triangle(half);
    MUST(thrum_comm_finalize(copy));
    thrum_comm_destroy(copy);
    return errors;
}

/* 100 copies with two ranks: they take no thread, and few descriptors, and leave none behind. */
static size_t many_copies(struct job *job)
{
    struct thrum_comm_config config = {.size = sizeof config, .scratch_bytes = 65536};
    int n = 200 / (job->nranks > 2 ? job->nranks : 2), threads = 0, descriptors;
    thrum_comm_t *copies = job_alloc((size_t)n * sizeof(thrum_comm_t));
    int64_t sum = 0;
    size_t errors = 0;

    sum_on(job, job->comm, job->queue, 1); /* what is made once is there */
    descriptors = count_descriptors();
    for (int i = 0; i < n; i++) {
        MUST(thrum_comm_dup(job->comm, &config, &copies[i]));
        if (i == 2) /* the threads of a communicator, if it had one */
            threads = count_threads();
    }
    for (int wait = 0; wait < 200 && count_threads() > threads; wait++)
        poll(NULL, 0, 10); /* services of ids end by themselves */
    errors += count_threads() > threads;
    for (int i = 0; i < n; i += n / 10)
        sum += sum_on(job, copies[i], job->queue, i + job->rank);
    for (int i = 0; i < n; i += n / 10)
        sum -= (int64_t)i * job->nranks + triangle(job->nranks - 1);
    errors += sum != 0;
    for (int i = 0; i < n; i++)
        thrum_comm_destroy(copies[(i + job->rank) % n]);
    sum_on(job, job->comm, job->queue, 1);
    for (int wait = 0; wait < 200 && count_descriptors() > descriptors; wait++)
        poll(NULL, 0, 10); /* the ends of what others have just closed */
    if (count_descriptors() > descriptors) {
        job_complain(job, "%d descriptors before, %d after", descriptors, count_descriptors());
        errors++;
    }
    free(copies);
    return errors;
}

/* Each rank puts its number everywhere, several times over, each time after everybody has read the last one. */
static size_t windows(struct job *job)
{
    enum { ROUNDS = 20 };
    size_t bytes = sizeof(int64_t) * (size_t)job->nranks, errors = 0;
    int64_t *values = job_alloc(bytes);
    struct buffer target, source;
    thrum_window_t window;

    buffer_create(job, &target, MEMORY_DEVICE, bytes);
    buffer_create(job, &source, MEMORY_HOST, sizeof(int64_t));
    MUST(thrum_comm_register(job->comm, target.address, bytes, &window));
    for (int round = 0; round < ROUNDS; round++) {
        int64_t mine = job->rank * 1000 + round;

        buffer_write(job, &source, &mine, sizeof mine);
        for (int r = 0; r < job->nranks; r++) {
            int peer = (job->rank + r) % job->nranks;
            MUST(thrum_put(source.address, 1, THRUM_INT64, peer, window,
                           sizeof(int64_t) * (size_t)job->rank, job->comm, job->queue));
            MUST(thrum_signal(peer, job->comm, job->queue));
        }
        for (int r = 0; r < job->nranks; r++)
            MUST(thrum_wait_signal(r, 1, job->comm, job->queue));
        MUST(thrum_queue_synchronize(job->queue));
        buffer_read(job, &target, values, bytes);
        for (int r = 0; r < job->nranks; r++)
            errors += values[r] != r * 1000 + round;
        MUST(thrum_barrier(job->comm, job->queue));
    }
    MUST(thrum_comm_deregister(window));
    buffer_destroy(job, &source);
    buffer_destroy(job, &target);
    free(values);
    return errors;
}

static const struct {
    const char *name;
    size_t (*run)(struct job *job);
} cases[] = {
    {"initialised again and again", initialised_again},
    {"joined by an id, ranks backwards", joined_by_id},
    {"parts of the ranks", parts},
    {"several at once, named in any order", in_any_order},
    {"split, and copies of the halves", split_and_copied},
    {"many copies", many_copies},
    {"windows", windows},
    {"memory is as planned", memory_as_planned},
    {"memory is returned", memory_returned},
};

int main(int argc, char **argv)
{
    struct job job;

    job_open(&job, argc, argv);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[100];
        snprintf(name, sizeof name, "comms, %s", cases[i].name);
        if (job_wants(&job, name))
            job_case(&job, name, cases[i].run(&job));
    }
    return job_close(&job);
}
