/*
 * Reductions that no kernel does by itself, made of kernels tile by tile, in memory that stays in the L1 cache: with
 * float32 partial results of narrow floats, by a scalar, and by a function of the host. Called by sim_reduce.c and the
 * packet executor.
 */
#include <string.h>

#include "sim_reduce_variants.h"

#define TILE_ELEMS 512 /* 2 KiB of float32 for each source that is widened */
#define TILE_SOURCES 8
#define CALLBACK_TILE_BYTES 8192

/* ---- kernels ------------------------------------------------------------------------------------------------- */

/* SUM in place of AVG by nothing, and the kernel for the divisor. */
static void run_kernel(const struct sim_kernel_table *table, enum sim_elem elem, thrum_redop_t op,
                       const struct sim_kernel_args *args)
{
    if (op == THRUM_AVG && args->divisor <= 1)
        op = THRUM_SUM;
    else if (op == THRUM_AVG && sim_division_is_shift(elem, args->divisor))
        op = SIM_AVG_POW2;
    /* sums take any sign: there is one kernel */
    if (op == THRUM_SUM && elem_is_signed_int(elem))
        elem = (enum sim_elem)(elem - ELEM_I8 + ELEM_U8);
    table->kernels[elem][op](args);
}

/* ---- wide operands ------------------------------------------------------------------------------------------- */

static bool source_is_wide(const struct sim_reduce_args *args, int s)
{
    return args->wide_src || (args->wide_first && s == 0);
}

/* The first destination has got its part. */
static void copy_to_others(void *const *dsts, int ndst, size_t at, size_t bytes)
{
    for (int d = 1; d < ndst; d++)
        memcpy((char *)dsts[d] + at, (const char *)dsts[0] + at, bytes);
}

/*
 * One tile of at most TILE_ELEMS from element `at`: folded TILE_SOURCES at a time, the partial result first. Only the
 * last fold divides. Every source is read before a destination is written.
 */
static void reduce_tile(const struct sim_kernel_table *table, enum sim_elem elem, thrum_redop_t op,
                        const struct sim_reduce_args *args, size_t at, size_t count)
{
    float widened[TILE_SOURCES][TILE_ELEMS], result[TILE_ELEMS];
    size_t narrow_bytes = elem_bytes(elem);
    size_t dst_bytes = args->wide_dst ? sizeof(float) : narrow_bytes;
    const void *srcs[TILE_SOURCES];
    void *dsts[] = {result};
    struct sim_kernel_args kernel = {
        .dsts = dsts, .srcs = srcs, .ndst = 1, .bytes = count * sizeof(float)};
    int done = 0;

    while (done < args->nsrc) {
        kernel.nsrc = 0;
        if (done)
            srcs[kernel.nsrc++] = result;
        for (; done < args->nsrc && kernel.nsrc < TILE_SOURCES; done++, kernel.nsrc++) {
            const char *src = args->srcs[done];
            srcs[kernel.nsrc] = src + at * sizeof(float);
            if (!source_is_wide(args, done)) {
                srcs[kernel.nsrc] = widened[kernel.nsrc];
                table->widen[elem](widened[kernel.nsrc], src + at * narrow_bytes, count);
            }
        }
        kernel.divisor = 1;
        if (done == args->nsrc) {
            kernel.divisor = args->divisor;
            if (args->wide_dst)
                dsts[0] = (char *)args->dsts[0] + at * sizeof(float);
        }
        run_kernel(table, ELEM_F32, op, &kernel);
    }
    if (!args->wide_dst)
        table->narrow[elem]((char *)args->dsts[0] + at * narrow_bytes, result, count);
    copy_to_others(args->dsts, args->ndst, at * dst_bytes, count * dst_bytes);
}

static void reduce_wide(const struct sim_kernel_table *table, enum sim_elem elem, thrum_redop_t op,
                        const struct sim_reduce_args *args)
{
    for (size_t at = 0; at < args->count; at += TILE_ELEMS) {
        size_t left = args->count - at;
        reduce_tile(table, elem, op, args, at, left < TILE_ELEMS ? left : TILE_ELEMS);
    }
}

void sim_reduce_with(const struct sim_kernel_table *table, thrum_datatype_t dtype, thrum_redop_t op,
                     const struct sim_reduce_args *args)
{
    enum sim_elem elem = sim_elem_for(dtype, op);
    struct sim_kernel_args kernel = {.dsts = args->dsts,
                                     .srcs = args->srcs,
                                     .ndst = args->ndst,
                                     .nsrc = args->nsrc,
                                     .bytes = args->count * thrum_datatype_size(dtype),
                                     .divisor = args->divisor,
                                     .stream = args->stream};
    bool sources_wide = args->wide_src || (args->wide_first && args->nsrc == 1);

    if (elem_is_narrow(elem) && sources_wide && args->wide_dst) { /* nothing here is narrow */
        elem = ELEM_F32;
        kernel.bytes = args->count * sizeof(float);
    } else if (elem_is_narrow(elem) && (args->wide_src || args->wide_first || args->wide_dst)) {
        reduce_wide(table, elem, op, args);
        return;
    }
    run_kernel(table, elem, op, &kernel);
}

/* ---- by a scalar --------------------------------------------------------------------------------------------- */

/* A multiple of `size` bytes. */
static void fill_with(char *to, const void *scalar, size_t size, size_t bytes)
{
    memcpy(to, scalar, size);
    for (size_t done = size, more; done < bytes; done += more) {
        more = bytes - done < done ? bytes - done : done;
        memcpy(to + done, to, more);
    }
}

void sim_scale_with(const struct sim_kernel_table *table, thrum_datatype_t dtype,
                    const struct sim_scale_args *args)
{
    _Alignas(SIM_SCALAR_BYTES) char scalars[SIM_SCALAR_BYTES];
    enum sim_elem elem = sim_elem_for(dtype, THRUM_PROD);
    const void *srcs[] = {args->src, scalars};
    struct sim_kernel_args kernel = {.dsts = args->dsts,
                                     .srcs = srcs,
                                     .ndst = args->ndst,
                                     .nsrc = 2,
                                     .bytes = args->count * elem_bytes(elem),
                                     .stream = args->stream};

    fill_with(scalars, args->scalar, elem_bytes(elem), sizeof scalars);
    table->scale[elem](&kernel);
}

/* ---- by a function of the host ------------------------------------------------------------------------------- */

/* Into a tile first: the function may write its result before it has read the sources that are still to come. */
thrum_status_t sim_reduce_by_callback(thrum_datatype_t dtype, thrum_reduce_fn reduce, void *context,
                                      const struct sim_reduce_args *args)
{
    _Alignas(64) char tile[CALLBACK_TILE_BYTES];
    size_t size = thrum_datatype_size(dtype), most = sizeof tile / size;

    for (size_t at = 0; at < args->count; at += most) {
        size_t count = args->count - at < most ? args->count - at : most;
        const void *left = (const char *)args->srcs[0] + at * size;

        for (int s = 1; s < args->nsrc; s++) {
            thrum_status_t status =
                reduce(left, (const char *)args->srcs[s] + at * size, tile, count, dtype, context);
            if (status)
                return status;
            left = tile;
        }
        for (int d = 0; d < args->ndst; d++)
            memmove((char *)args->dsts[d] + at * size, left, count * size);
    }
    return THRUM_OK;
}
