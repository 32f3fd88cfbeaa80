/*
 * Which of the two is faster, tried out where the program runs: with THRUM_MPI_TAKE=auto. Called by take.c and entry.c.
 *
 * For each communicator, function and size class: the first calls go where the built-in table says, so that a program with
 * few of them is not experimented with. Then Thrum and MPI have some calls each, twice in turns, and each rank measures its own. Then
 * the ranks add up their medians, once, and from then on the faster one has the class; the other one must be clearly
 * faster than the table's. Everything goes by the number of the call, which is alike on all ranks.
 */
#include "frontend.h"

#include <stdlib.h>

#include <thrum/plugin.h>

#define BY_TABLE 16u /* calls before the first trial */
#define BLOCKS 4u /* Thrum, MPI, Thrum, MPI */
#define LARGE_CLASS 18u /* from 256 KiB on fewer calls are enough, and cost more */
#define CALLS 6u /* in a block, of which the first is not counted */
#define LARGE_CALLS 3u
#define CLEARLY 20 /* one part in so many */

_Static_assert(BLOCKS / 2 * (CALLS - 1) <= TMPI_TRIAL_SAMPLES, "samples");

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static int64_t median(uint32_t *samples, unsigned n)
{
    qsort(samples, n, sizeof *samples, by_size);
    return samples[n / 2];
}

/* All ranks are here. */
static void settle(struct tmpi_comm *comm, enum tmpi_function function, unsigned class,
                   unsigned nsamples, bool in_range)
{
    struct tmpi_trial *trial = &comm->trials[function][class];
    struct tmpi_verdict *verdict = &comm->verdicts[function];
    int64_t mine[2] = {median(trial->ns[0], nsamples), median(trial->ns[1], nsamples)};
    int64_t all[2];
    bool by_thrum = in_range;

    if (!PMPI_Allreduce(mine, all, 2, MPI_INT64_T, MPI_SUM, comm->handle)) {
        by_thrum =
            in_range ? all[1] - all[1] / CLEARLY <= all[0] : all[1] < all[0] - all[0] / CLEARLY;
        tmpi_report_trial(comm, function, class, (uint64_t)all[0] / (unsigned)comm->size,
                          (uint64_t)all[1] / (unsigned)comm->size, by_thrum);
    }
    if (by_thrum)
        verdict->thrum |= (uint64_t)1 << class;
    verdict->settled |= (uint64_t)1 << class;
}

enum tmpi_reason tmpi_trial_decide(struct tmpi_taken *taken, enum tmpi_function function,
                                   uint64_t bytes, bool in_range)
{
    struct tmpi_comm *comm = taken->comm;
    unsigned class = tmpi_size_class(bytes), calls = class < LARGE_CLASS ? CALLS : LARGE_CALLS;
    struct tmpi_verdict *verdict = &comm->verdicts[function];
    struct tmpi_trial *trial = &comm->trials[function][class];
    unsigned call, block;

    if (!(verdict->settled >> class & 1)) {
        if (taken
                ->is_user_op) /* its own time would count; but it goes by the verdict, as tmpi_passes does */
            return in_range ? TMPI_TAKEN : TMPI_POLICY;
        call = trial->calls++;
        if (call < BY_TABLE)
            return in_range ? TMPI_TAKEN : TMPI_POLICY;
        call -= BY_TABLE;
        block = call / calls;
        call %= calls;
        if (block < BLOCKS) {
            bool by_thrum = block % 2 == 0;

            if (call)
                taken->sample = &trial->ns[by_thrum][block / 2 * (calls - 1) + call - 1];
            return by_thrum ? TMPI_TAKEN : TMPI_TRIAL;
        }
        tmpi_requests_flush(comm); /* as before every blocking call that goes to MPI */
        settle(comm, function, class, BLOCKS / 2 * (calls - 1), in_range);
    }
    return verdict->thrum >> class & 1 ? TMPI_TAKEN : TMPI_POLICY;
}

int tmpi_trial_run(const struct tmpi_call *call, const struct tmpi_taken *taken,
                   enum tmpi_reason reason)
{
    int64_t begin = tmpi_now_ns(), ns;
    int code = reason ? tmpi_fall(call) : tmpi_work_run(call, taken);

    ns = tmpi_now_ns() - begin;
    *taken->sample = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
    return code;
}
