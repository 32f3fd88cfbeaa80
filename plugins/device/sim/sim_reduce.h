/*
 * Kernels of the sim device's REDUCE and DMA engines. Called by the packet executor only, with host pointers that the
 * MMU has checked. Vector variants are chosen once at run time (THRUM_SIM_KERNELS) and give bit for bit what the
 * scalar ones give.
 */
#ifndef SIM_REDUCE_H
#define SIM_REDUCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <thrum/device.h>

/*
 * Every dsts[d][i] <- op over s of srcs[s][i], in the order of s, for i < count. A destination may be one of the
 * sources, of the same width. `divisor` > 1 with THRUM_AVG divides once at the end; 8- and 16-bit floats accumulate in
 * float32 and are rounded once; the `wide` ones are float32 in memory, other types are as they are. `stream`: the
 * destinations are stored past the cache.
 */
struct sim_reduce_args {
    void *const *dsts;
    const void *const *srcs;
    int ndst, nsrc;
    size_t count;
    uint64_t divisor;
    bool stream;
    bool wide_dst, wide_src, wide_first; /* all destinations, all sources, the first source */
};

/* Is the operation defined for the type? Bitwise ones on floats are not, and most on complex numbers. */
bool sim_reduce_defined(thrum_datatype_t dtype, thrum_redop_t op);

/* Only what is defined. Reads the configuration on first use. */
void sim_reduce(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *args);

/* sim_reduce of `bytes` of operands that are not wide, in few instructions; false, with nothing done, for some ops. */
bool sim_reduce_small(thrum_datatype_t dtype, thrum_redop_t op, void *const *dsts, int ndst,
                      const void *const *srcs, int nsrc, size_t bytes);

/* Does a wide operand of this type differ from others? */
bool sim_type_widens(thrum_datatype_t dtype);

/* Every dsts[d][i] <- src[i] * scalar[0], rounded once. A destination may be the source; none may hold the scalar. */
struct sim_scale_args {
    void *const *dsts;
    int ndst;
    const void *src, *scalar;
    size_t count;
    bool stream;
};
void sim_scale(thrum_datatype_t dtype, const struct sim_scale_args *args);

/*
 * The fold of sim_reduce by a function of the host, from left to right; `args` as there, never wide. Stops at the
 * function's first error and returns it.
 */
thrum_status_t sim_reduce_by_callback(thrum_datatype_t dtype, thrum_reduce_fn reduce, void *context,
                                      const struct sim_reduce_args *args);

/* Every dsts[d] <- src, `bytes`; memmove semantics for a single destination. */
void sim_copy(void *const *dsts, int ndst, const void *src, size_t bytes, bool stream);

/* "scalar", "avx2" or "avx512". */
const char *sim_kernels_name(void);

#endif
