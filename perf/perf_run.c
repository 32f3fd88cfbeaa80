/* Buffers, data check and timing of one case. See perf_run.h. */
#include "perf_run.h"

#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 1 << 20, POISON = 0xa5 };
enum { MOST_TIMES = 10000 }; /* of an operation in a batch */
enum {
    BATCH_US = 1000
}; /* at least, so that what others left in the caches before it counts for little */

/* ---- memory ---- */

static void *buffer_alloc(struct perf_context *x, size_t bytes)
{
    void *memory;

    if (x->memory == PERF_MEMORY_DEVICE) {
        perf_check(thrum_mem_alloc(x->device, bytes, &memory), "allocate device memory");
        return memory;
    }
    memory = perf_malloc(bytes);
    if (x->memory == PERF_MEMORY_REGISTERED)
        perf_check(thrum_mem_register_host(x->device, memory, bytes), "register host memory");
    return memory;
}

static void buffer_free(struct perf_context *x, struct perf_buffer *buffer)
{
    if (!buffer->address)
        return;
    if (x->memory == PERF_MEMORY_DEVICE) {
        perf_check(thrum_mem_free(x->device, buffer->address), "free device memory");
    } else {
        if (x->memory == PERF_MEMORY_REGISTERED)
            perf_check(thrum_mem_unregister_host(x->device, buffer->address),
                       "unregister host memory");
        free(buffer->address);
    }
    *buffer = (struct perf_buffer){0};
}

static void buffer_grow(struct perf_context *x, struct perf_buffer *buffer, size_t bytes)
{
    bytes += PERF_CANARY_BYTES;
    if (buffer->bytes >= bytes)
        return;
    buffer_free(x, buffer);
    *buffer = (struct perf_buffer){buffer_alloc(x, bytes), bytes};
}

static void mpi_buffer_grow(struct perf_buffer *buffer, size_t bytes)
{
    bytes += PERF_CANARY_BYTES;
    if (buffer->bytes >= bytes)
        return;
    perf_mpi_free(buffer->address);
    *buffer = (struct perf_buffer){perf_mpi_alloc(bytes), bytes};
    if (!buffer->address)
        perf_die(PERF_EXIT_FAILED, "MPI_Alloc_mem: no %zu bytes", bytes);
}

void perf_reserve(struct perf_context *x, size_t send_bytes, size_t recv_bytes)
{
    buffer_grow(x, &x->send, send_bytes);
    buffer_grow(x, &x->recv, recv_bytes);
    if (x->compare_mpi) {
        mpi_buffer_grow(&x->mpi_send, send_bytes);
        mpi_buffer_grow(&x->mpi_recv, recv_bytes);
    }
}

static void release_forced(struct perf_context *x)
{
    while (x->nforced)
        thrum_comm_destroy(x->forced[--x->nforced].comm);
}

/* A communicator of the same ranks that uses no other algorithm. Collective; kept for the next size. */
static thrum_comm_t forced_comm(struct perf_context *x, const char *collective,
                                const char *algorithm)
{
    struct thrum_comm_config config = {.size = sizeof config};
    char rule[96];
    thrum_comm_t comm;

    if (x->nforced && (x->forced[0].collective != collective || x->nforced == PERF_MAX_ALGORITHMS))
        release_forced(x);
    for (int i = 0; i < x->nforced; i++)
        if (!strcmp(x->forced[i].algorithm, algorithm))
            return x->forced[i].comm;
    snprintf(rule, sizeof rule, "%s:%s", collective, algorithm);
    config.algorithms = rule;
    perf_check(thrum_comm_dup(x->comm, &config, &comm), rule);
    x->forced[x->nforced].comm = comm;
    x->forced[x->nforced].collective = collective;
    x->forced[x->nforced++].algorithm = algorithm;
    return comm;
}

void perf_release(struct perf_context *x)
{
    release_forced(x);
    buffer_free(x, &x->send);
    buffer_free(x, &x->recv);
    perf_mpi_free(x->mpi_send.address);
    perf_mpi_free(x->mpi_recv.address);
    x->mpi_send = x->mpi_recv = (struct perf_buffer){0};
}

/* Between the buffers, wherever they are, and plain host memory. */
static void write_buffer(struct perf_context *x, void *dst, const void *src, size_t bytes)
{
    if (x->memory == PERF_MEMORY_DEVICE)
        perf_check(thrum_copy_to_device(x->queue, dst, src, bytes), "copy to the device");
    else
        memcpy(dst, src, bytes);
}

static void read_buffer(struct perf_context *x, void *dst, const void *src, size_t bytes)
{
    if (x->memory == PERF_MEMORY_DEVICE)
        perf_check(thrum_copy_to_host(x->queue, dst, src, bytes), "copy to the host");
    else
        memcpy(dst, src, bytes);
}

static void synchronize(struct perf_context *x, const char *what)
{
    perf_check(thrum_queue_synchronize(x->queue), what);
}

void perf_gather(struct perf_context *x, const void *mine, void *all, size_t bytes)
{
    char *blocks = x->control;

    perf_check(thrum_copy_to_device(x->queue, blocks + bytes * (size_t)x->rank, mine, bytes),
               "gather results");
    perf_check(thrum_allgather(blocks + bytes * (size_t)x->rank, blocks, bytes, THRUM_UINT8,
                               x->comm, x->queue),
               "gather results");
    synchronize(x, "gather results");
    perf_check(thrum_copy_to_host(x->queue, all, blocks, bytes * (size_t)x->nranks),
               "gather results");
}

/* values[i] <- the largest of any rank's values[i]. */
static void max_over_ranks(struct perf_context *x, double *values, int n)
{
    double *all = perf_malloc(sizeof *values * (size_t)n * (size_t)x->nranks);

    perf_gather(x, values, all, sizeof *values * (size_t)n);
    for (int r = 0; r < x->nranks; r++) {
        for (int i = 0; i < n; i++)
            values[i] = all[r * n + i] > values[i] ? all[r * n + i] : values[i];
    }
    free(all);
}

/* ---- a call, and its data ---- */

/* Whether the call of this rank is in place: with a root, only its buffers are of different sizes, or matter. */
static bool placed_here(const struct perf_context *x, const struct perf_case *what)
{
    bool root_only = what->collective->send_at_root || what->collective->recv_at_root;

    return what->in_place && (!root_only || x->rank == what->root);
}

/* The arguments of the case, on the buffers of the library or of MPI. */
static struct perf_call make_call(struct perf_context *x, const struct perf_case *what, bool mpi)
{
    char *send = mpi ? x->mpi_send.address : x->send.address,
         *recv = mpi ? x->mpi_recv.address : x->recv.address;
    size_t block = what->count * thrum_datatype_size(what->dtype) * (size_t)x->rank;

    if (placed_here(x, what)) {
        if (what->collective->send_is_blocks && what->collective->recv_is_blocks)
            send = recv;
        else if (what->collective->send_is_blocks)
            recv = send + block;
        else
            send = recv + (what->collective->recv_is_blocks ? block : 0);
    }
    return (struct perf_call){
        .send = send,
        .recv = recv,
        .count = what->count,
        .dtype = what->dtype,
        .op = what->op,
        .root = what->root,
        .rank = x->rank,
        .nranks = x->nranks,
        .comm = what->algorithm ? forced_comm(x, what->collective->name, what->algorithm) : x->comm,
        .queue = x->queue,
    };
}

static void write_table(struct perf_context *x, const struct perf_table *table, void *dst,
                        size_t count)
{
    size_t chunk = STAGE_BYTES / table->element_bytes;
    char *stage = perf_malloc(STAGE_BYTES);

    for (size_t done = 0; done < count; done += chunk) {
        size_t n = count - done < chunk ? count - done : chunk;
        perf_table_copy(table, done, n, stage);
        write_buffer(x, (char *)dst + done * table->element_bytes, stage, n * table->element_bytes);
    }
    free(stage);
}

static size_t wrong_in_buffer(struct perf_context *x, const struct perf_table *table, size_t first,
                              size_t count, const void *got)
{
    size_t chunk = STAGE_BYTES / table->element_bytes, wrong = 0;
    char *stage = perf_malloc(STAGE_BYTES);

    for (size_t done = 0; done < count; done += chunk) {
        size_t n = count - done < chunk ? count - done : chunk;
        read_buffer(x, stage, (const char *)got + done * table->element_bytes,
                    n * table->element_bytes);
        wrong += perf_table_wrong(table, first + done, n, stage);
    }
    free(stage);
    return wrong;
}

static struct perf_pattern pattern_of(const struct perf_context *x, const struct perf_case *what)
{
    return (struct perf_pattern){.dtype = what->dtype,
                                 .op = what->collective->has_op ? what->op : PERF_MOVE,
                                 .nranks = x->nranks,
                                 .salt = x->salt};
}

/* Whether this rank receives anything. */
static bool receives_here(const struct perf_context *x, const struct perf_case *what)
{
    if (what->collective->recv_at_root)
        return x->rank == what->root;
    return !what->collective->excludes_own || x->rank > 0;
}

static void poison(struct perf_context *x, void *memory, size_t bytes)
{
    char *stage = perf_malloc(STAGE_BYTES);

    memset(stage, POISON, STAGE_BYTES);
    for (size_t done = 0; done < bytes; done += STAGE_BYTES) {
        size_t n = bytes - done < STAGE_BYTES ? bytes - done : STAGE_BYTES;
        write_buffer(x, (char *)memory + done, stage, n);
    }
    free(stage);
}

/* This rank's input, and poison where the output will be. */
static void prepare(struct perf_context *x, const struct perf_case *what,
                    const struct perf_call *call)
{
    struct perf_pattern pattern = pattern_of(x, what);
    size_t send_elems = perf_send_elems(what, x->nranks), bytes = thrum_datatype_size(what->dtype);
    struct perf_table table;

    poison(x, x->send.address, send_elems * bytes + PERF_CANARY_BYTES);
    poison(x, x->recv.address, perf_recv_elems(what, x->nranks) * bytes + PERF_CANARY_BYTES);
    perf_table_make(&table, &pattern, x->rank, send_elems);
    write_table(x, &table, (void *)(uintptr_t)call->send, send_elems);
    perf_table_free(&table);
}

/* Bytes after [start, start + used) of a buffer that are no longer poison, up to the canary's length. */
static size_t canary_wrong(struct perf_context *x, const struct perf_buffer *buffer, size_t used)
{
    uint8_t canary[PERF_CANARY_BYTES];
    size_t wrong = 0;

    read_buffer(x, canary, (char *)buffer->address + used, sizeof canary);
    for (size_t i = 0; i < sizeof canary; i++)
        wrong += canary[i] != POISON;
    return wrong;
}

static size_t table_wrong(struct perf_context *x, const struct perf_pattern *pattern, int rank,
                          size_t table_elems, size_t first, size_t count, const void *got)
{
    struct perf_table table;
    size_t wrong;

    perf_table_make(&table, pattern, rank, table_elems);
    wrong = wrong_in_buffer(x, &table, first, count, got);
    perf_table_free(&table);
    return wrong;
}

/* How many elements of this rank's buffers are not what the collective's definition asks for. */
static size_t verify(struct perf_context *x, const struct perf_case *what,
                     const struct perf_call *call)
{
    struct perf_pattern pattern = pattern_of(x, what);
    size_t count = what->count, bytes = thrum_datatype_size(what->dtype), wrong = 0;
    size_t send_elems = perf_send_elems(what, x->nranks),
           recv_elems = perf_recv_elems(what, x->nranks);
    struct perf_pattern received = pattern;

    if (what->collective->prefix)
        received.folded = x->rank + !what->collective->excludes_own;
    if (!receives_here(x, what)) {
        /* recv is left alone, and looked at no further than where it ends */
    } else if (what->collective->recv_is_blocks) {
        size_t first = what->collective->send_is_blocks ? count * (size_t)x->rank : 0;
        for (int r = 0; r < x->nranks; r++)
            wrong += table_wrong(x, &pattern, r, send_elems, first, count,
                                 (char *)call->recv + count * bytes * (size_t)r);
    } else {
        int source = what->collective->has_op     ? PERF_ALL_RANKS
                     : what->collective->has_root ? what->root
                                                  : (x->rank + x->nranks - 1) % x->nranks;
        size_t first = what->collective->send_is_blocks ? count * (size_t)x->rank : 0;
        wrong += table_wrong(x, &received, source, send_elems, first, count, call->recv);
    }
    if (!what->in_place) /* the input must be as it was */
        wrong += table_wrong(x, &pattern, x->rank, send_elems, 0, send_elems, call->send);
    if (placed_here(x, what) && what->collective->send_is_blocks &&
        !what->collective->recv_is_blocks)
        wrong += canary_wrong(x, &x->send, send_elems * bytes);
    else
        wrong += canary_wrong(x, &x->recv, recv_elems * bytes);
    return wrong;
}

/* ---- timing ---- */

static void run(struct perf_context *x, const struct perf_case *what, const struct perf_call *call,
                bool mpi, int times)
{
    for (int i = 0; i < times; i++) {
        if (mpi) {
            int error = what->collective->run_mpi(call);
            if (error)
                perf_die(PERF_EXIT_FAILED, "MPI %s: error %d", what->collective->name, error);
        } else {
            perf_check(what->collective->run(call), what->collective->name);
            if (x->sync_each)
                synchronize(x, what->collective->name);
        }
    }
    if (!mpi)
        synchronize(x, what->collective->name);
}

/* Time of one operation on this rank, in a batch that all ranks begin together. */
static double time_batch(struct perf_context *x, const struct perf_case *what,
                         const struct perf_call *call, bool mpi, int times)
{
    double start;

    if (mpi) {
        perf_mpi_barrier();
    } else {
        perf_check(thrum_barrier(x->comm, x->queue), "barrier");
        synchronize(x, "barrier");
    }
    start = perf_now_us();
    run(x, what, call, mpi, times);
    return (perf_now_us() - start) / times;
}

static int clamp(double value, int low, int high)
{
    return value < low ? low : value > high ? high : (int)value;
}

/*
 * Warms up and estimates the time of one operation; the same number on all ranks. Those that follow one another closely may
 * take much less than one alone, so the batch grows until it lasts.
 */
static double estimate(struct perf_context *x, const struct perf_case *what,
                       const struct perf_call *call, bool mpi)
{
    double us;
    int times = 1;

    for (;; times *= 4) {
        double again;

        us = time_batch(x, what, call, mpi, times);
        again = time_batch(x, what, call, mpi, times); /* something else may have had the core */
        us = us < again ? us : again;
        max_over_ranks(x, &us, 1);
        if (us * times > BATCH_US || times >= MOST_TIMES || x->warmup >= 0)
            break;
    }
    if (x->warmup >= 0) {
        us = time_batch(x, what, call, mpi, x->warmup + 1);
        max_over_ranks(x, &us, 1);
    }
    return us < 0.01 ? 0.01 : us;
}

/*
 * Whether the batches so far have taken much more time than they should: the estimate was made on a calmer machine.
 * Asked by all ranks together, and not after every batch.
 */
static bool late(struct perf_context *x, int batches_done, double start_us, double allowed_us)
{
    double elapsed = perf_now_us() - start_us;

    if (x->batches || batches_done % 5)
        return false;
    max_over_ranks(x, &elapsed, 1);
    return elapsed > allowed_us;
}

/* Batches of the library and of MPI take turns, so that both meet the same machine. */
static void measure(struct perf_context *x, const struct perf_case *what, bool mpi,
                    struct perf_result *result)
{
    struct perf_call ours = make_call(x, what, false), theirs = make_call(x, what, mpi);
    double samples[2][PERF_MAX_BATCHES] = {{0}}, start;
    double us = estimate(x, what, &ours, false),
           mpi_us = mpi ? estimate(x, what, &theirs, true) : us;
    double slower = us > mpi_us ? us : mpi_us, longest = slower > BATCH_US ? slower : BATCH_US;
    int batches = x->batches ? x->batches : clamp(x->budget_us / longest, 5, PERF_MAX_BATCHES);
    int times = x->iterations ? x->iterations : clamp(x->budget_us / batches / us, 1, MOST_TIMES);
    int mpi_times =
        x->iterations ? x->iterations : clamp(x->budget_us / batches / mpi_us, 1, MOST_TIMES);
    int done = 0;

    start = perf_now_us();
    do {
        samples[0][done] = time_batch(x, what, &ours, false, times);
        if (mpi)
            samples[1][done] = time_batch(x, what, &theirs, true, mpi_times);
        done++;
    } while (done < batches && !late(x, done, start, 3 * x->budget_us * (mpi ? 2 : 1)));
    max_over_ranks(x, samples[0], 2 * PERF_MAX_BATCHES);
    result->time_us = perf_statistics(samples[0], done);
    result->iterations = times * done;
    if (mpi) {
        result->mpi_us = perf_statistics(samples[1], done).median;
        result->ratio = result->mpi_us / result->time_us.median;
    }
}

/* One checked call on fresh data. */
static size_t checked_call(struct perf_context *x, const struct perf_case *what,
                           const struct perf_call *call)
{
    prepare(x, what, call);
    run(x, what, call, false, 1);
    return verify(x, what, call);
}

static void sum_wrong(struct perf_context *x, double wrong, struct perf_result *result)
{
    double *all = perf_malloc(sizeof *all * (size_t)x->nranks);

    perf_gather(x, &wrong, all, sizeof wrong);
    for (int r = 0; r < x->nranks; r++)
        result->wrong += (long)all[r];
    free(all);
}

void perf_run_case(struct perf_context *x, const struct perf_case *what,
                   struct perf_result *result_out)
{
    struct perf_result result = {.what = *what, .algorithm = "-", .wrong = -1};
    struct perf_call call = make_call(x, what, false);
    bool check = x->check && what->collective->has_data;
    const char *name;
    size_t wrong = 0;

    x->salt++;
    name = what->algorithm
               ? what->algorithm
               : thrum_comm_algorithm(x->comm, what->collective->name, what->count, what->dtype);
    if (name)
        result.algorithm = name;
    if (check)
        wrong = checked_call(x, what, &call);
    else if (what->collective->has_data)
        prepare(x, what, &call);
    measure(x, what, x->compare_mpi && perf_mpi_can(what), &result);
    if (check && !what->in_place)
        wrong += verify(x, what, &call); /* also the last of many calls in a row */
    if (check) {
        result.wrong = 0;
        sum_wrong(x, (double)wrong, &result);
    }
    result.algbw = (double)what->bytes / 1e3 / result.time_us.median;
    result.busbw = result.algbw * what->collective->bus_factor(x->nranks);
    *result_out = result;
}

int perf_run_all(struct perf_context *x, const struct perf_case *what,
                 struct perf_result *results_out)
{
    struct thrum_algorithm_candidate candidate = {.size = sizeof candidate};
    double best = 0;
    int n = 0;

    for (int i = 0;
         n < PERF_MAX_ALGORITHMS && !thrum_comm_candidate(x->comm, what->collective->name,
                                                          what->count, what->dtype, i, &candidate);
         i++) {
        struct perf_case one = *what;
        struct perf_result *result = &results_out[n];

        if (candidate.refusal)
            continue;
        one.algorithm = candidate.name;
        perf_run_case(x, &one, result);
        result->predicted_us = candidate.predicted_us;
        result->chosen = candidate.chosen;
        if (!n++ || result->time_us.median < best)
            best = result->time_us.median;
    }
    for (int i = 0; i < n; i++)
        results_out[i].times_best = results_out[i].time_us.median / best;
    return n;
}
