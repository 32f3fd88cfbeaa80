/*
 * Inside of the kernels: what sim_reduce.c, which chooses, and the variants have in common. A variant is one file that
 * defines the primitives of its instruction set and includes sim_reduce_body.h, which makes the kernels.
 */
#ifndef SIM_REDUCE_VARIANTS_H
#define SIM_REDUCE_VARIANTS_H

#include "sim_reduce.h"

#if defined(__x86_64__)
#define SIM_HAVE_X86 1
#else
#define SIM_HAVE_X86 0
#endif

#define SIM_ALWAYS_INLINE inline __attribute__((always_inline))

/* How elements are computed. Types that an operation treats alike share one (int8 and uint8 sums). */
enum sim_elem {
    ELEM_U8,
    ELEM_U16,
    ELEM_U32,
    ELEM_U64,
    ELEM_I8,
    ELEM_I16,
    ELEM_I32,
    ELEM_I64,
    ELEM_F16,
    ELEM_BF16,
    ELEM_F32,
    ELEM_F64,
    ELEM_COUNT
};

/* Every kernel there is: element, operation. */
/* clang-format off */
#define SIM_KERNEL_MAP(X) \
    X(U8, SUM) X(U8, PROD) X(U8, MAX) X(U8, MIN) X(U8, AVG) X(U8, BAND) X(U8, BOR) X(U8, BXOR) X(U8, LAND) X(U8, LOR) \
    X(U16, SUM) X(U16, PROD) X(U16, MAX) X(U16, MIN) X(U16, AVG) X(U16, BAND) X(U16, BOR) X(U16, BXOR) X(U16, LAND) X(U16, LOR) \
    X(U32, SUM) X(U32, PROD) X(U32, MAX) X(U32, MIN) X(U32, AVG) X(U32, BAND) X(U32, BOR) X(U32, BXOR) X(U32, LAND) X(U32, LOR) \
    X(U64, SUM) X(U64, PROD) X(U64, MAX) X(U64, MIN) X(U64, AVG) X(U64, BAND) X(U64, BOR) X(U64, BXOR) X(U64, LAND) X(U64, LOR) \
    X(I8, MAX) X(I8, MIN) X(I8, AVG) \
    X(I16, MAX) X(I16, MIN) X(I16, AVG) \
    X(I32, MAX) X(I32, MIN) X(I32, AVG) \
    X(I64, MAX) X(I64, MIN) X(I64, AVG) \
    X(F16, SUM) X(F16, PROD) X(F16, MAX) X(F16, MIN) X(F16, AVG) X(F16, LAND) X(F16, LOR) \
    X(BF16, SUM) X(BF16, PROD) X(BF16, MAX) X(BF16, MIN) X(BF16, AVG) X(BF16, LAND) X(BF16, LOR) \
    X(F32, SUM) X(F32, PROD) X(F32, MAX) X(F32, MIN) X(F32, AVG) X(F32, LAND) X(F32, LOR) \
    X(F64, SUM) X(F64, PROD) X(F64, MAX) X(F64, MIN) X(F64, AVG) X(F64, LAND) X(F64, LOR)
/* clang-format on */

/* A variant's kernels; NULL where the operation is not defined. */
struct sim_kernel_table {
    sim_reduce_fn kernels[ELEM_COUNT][THRUM_REDOP_COUNT];
};

extern const struct sim_kernel_table sim_reduce_scalar_table;
#if SIM_HAVE_X86
extern const struct sim_kernel_table sim_reduce_avx2_table;
extern const struct sim_kernel_table sim_reduce_avx512_table;
#endif

/* The kernel of a type and operation in a table; NULL if there is none. */
sim_reduce_fn sim_reduce_lookup(const struct sim_kernel_table *table, thrum_datatype_t dtype,
                                thrum_redop_t op);

/* Does this CPU run the table's instructions? */
bool sim_reduce_runs_here(const struct sim_kernel_table *table);

/*
 * Division of unsigned integers of one width by a fixed n >= 2 as a multiplication (Granlund and Montgomery, "Division
 * by Invariant Integers using Multiplication", PLDI 1994, figure 4.1): q = (t + ((x - t) >> 1)) >> shift, where t is
 * the high half of x * magic. Exact for every x. Floats divide truly.
 */
struct sim_division {
    uint64_t magic;
    int shift;
    uint64_t n; /* <= 1: no division */
};

struct sim_division sim_division_for(enum sim_elem elem, uint64_t n);

static SIM_ALWAYS_INLINE size_t elem_bytes(enum sim_elem elem)
{
    switch (elem) {
    case ELEM_U8:
    case ELEM_I8:
        return 1;
    case ELEM_U16:
    case ELEM_I16:
    case ELEM_F16:
    case ELEM_BF16:
        return 2;
    case ELEM_U32:
    case ELEM_I32:
    case ELEM_F32:
        return 4;
    default:
        return 8;
    }
}

static SIM_ALWAYS_INLINE bool elem_is_float(enum sim_elem elem)
{
    return elem == ELEM_F16 || elem == ELEM_BF16 || elem == ELEM_F32 || elem == ELEM_F64;
}

static SIM_ALWAYS_INLINE bool elem_is_signed_int(enum sim_elem elem)
{
    return elem == ELEM_I8 || elem == ELEM_I16 || elem == ELEM_I32 || elem == ELEM_I64;
}

/* The element 1, as bits. */
static SIM_ALWAYS_INLINE uint64_t elem_one(enum sim_elem elem)
{
    switch (elem) {
    case ELEM_F16:
        return 0x3c00;
    case ELEM_BF16:
        return 0x3f80;
    case ELEM_F32:
        return 0x3f800000;
    case ELEM_F64:
        return 0x3ff0000000000000;
    default:
        return 1;
    }
}

/* The bits that make an element true: all but the sign of a float's zero. */
static SIM_ALWAYS_INLINE uint64_t elem_truth_mask(enum sim_elem elem)
{
    uint64_t all = UINT64_MAX >> (64 - 8 * elem_bytes(elem));
    return elem_is_float(elem) ? all >> 1 : all;
}

#endif
