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

#include <thrum/types.h>

/*
 * Every dsts[d][i] <- op over s of srcs[s][i], in the order of s, for i < count. A destination may be one of the
 * sources. `divisor` > 1 with THRUM_AVG divides once at the end; 8- and 16-bit floats accumulate in float32 and are
 * rounded once. `stream`: the destinations are stored past the cache.
 */
struct sim_reduce_args {
    void *const *dsts;
    const void *const *srcs;
    int ndst, nsrc;
    size_t count;
    uint64_t divisor;
    bool stream;
};
typedef void (*sim_reduce_fn)(const struct sim_reduce_args *args);

/* NULL if the operation is not defined for the type (bitwise on floats). Reads the configuration on first use. */
sim_reduce_fn sim_reduce_kernel(thrum_datatype_t dtype, thrum_redop_t op);

/* Every dsts[d] <- src, `bytes`; memmove semantics for a single destination. */
void sim_copy(void *const *dsts, int ndst, const void *src, size_t bytes, bool stream);

/* "scalar", "avx2" or "avx512". */
const char *sim_kernels_name(void);

#endif
