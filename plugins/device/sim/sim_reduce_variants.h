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

/* Before loops over the steps of a block, so that what they work on lives in registers. */
#if defined(__clang__)
#define SIM_UNROLLED _Pragma("unroll")
#else
#define SIM_UNROLLED _Pragma("GCC unroll 8")
#endif

#define BLOCK_STEPS \
    4 /* in a block at most: accumulators in flight, to hide the latency of the adds */

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
    ELEM_E4M3,
    ELEM_E5M2,
    ELEM_C64, /* products only: a sum of complex numbers is one of floats */
    ELEM_C128,
    ELEM_COUNT
};

/*
 * AVG by a power of two, which is exact as a shift or as a product with the reciprocal: an operation of its own inside
 * of the kernels, and AVG by anything else is one that always divides. AVG by 1 is SUM.
 */
#define SIM_AVG_POW2 ((thrum_redop_t)THRUM_REDOP_COUNT)
#define SIM_KERNEL_OPS (THRUM_REDOP_COUNT + 1)

/* Every kernel there is: element, operation. */
/* clang-format off */
#define SIM_KERNEL_MAP(X) \
    X(U8, SUM) X(U8, PROD) X(U8, MAX) X(U8, MIN) X(U8, AVG) X(U8, AVG_POW2) X(U8, BAND) X(U8, BOR) X(U8, BXOR) X(U8, LAND) X(U8, LOR) \
    X(U16, SUM) X(U16, PROD) X(U16, MAX) X(U16, MIN) X(U16, AVG) X(U16, AVG_POW2) X(U16, BAND) X(U16, BOR) X(U16, BXOR) X(U16, LAND) X(U16, LOR) \
    X(U32, SUM) X(U32, PROD) X(U32, MAX) X(U32, MIN) X(U32, AVG) X(U32, AVG_POW2) X(U32, BAND) X(U32, BOR) X(U32, BXOR) X(U32, LAND) X(U32, LOR) \
    X(U64, SUM) X(U64, PROD) X(U64, MAX) X(U64, MIN) X(U64, AVG) X(U64, AVG_POW2) X(U64, BAND) X(U64, BOR) X(U64, BXOR) X(U64, LAND) X(U64, LOR) \
    X(I8, MAX) X(I8, MIN) X(I8, AVG) X(I8, AVG_POW2) \
    X(I16, MAX) X(I16, MIN) X(I16, AVG) X(I16, AVG_POW2) \
    X(I32, MAX) X(I32, MIN) X(I32, AVG) X(I32, AVG_POW2) \
    X(I64, MAX) X(I64, MIN) X(I64, AVG) X(I64, AVG_POW2) \
    X(F16, SUM) X(F16, PROD) X(F16, MAX) X(F16, MIN) X(F16, AVG) X(F16, AVG_POW2) X(F16, LAND) X(F16, LOR) \
    X(BF16, SUM) X(BF16, PROD) X(BF16, MAX) X(BF16, MIN) X(BF16, AVG) X(BF16, AVG_POW2) X(BF16, LAND) X(BF16, LOR) \
    X(F32, SUM) X(F32, PROD) X(F32, MAX) X(F32, MIN) X(F32, AVG) X(F32, AVG_POW2) X(F32, LAND) X(F32, LOR) \
    X(F64, SUM) X(F64, PROD) X(F64, MAX) X(F64, MIN) X(F64, AVG) X(F64, AVG_POW2) X(F64, LAND) X(F64, LOR) \
    X(E4M3, SUM) X(E4M3, PROD) X(E4M3, MAX) X(E4M3, MIN) X(E4M3, AVG) X(E4M3, AVG_POW2) X(E4M3, LAND) X(E4M3, LOR) \
    X(E5M2, SUM) X(E5M2, PROD) X(E5M2, MAX) X(E5M2, MIN) X(E5M2, AVG) X(E5M2, AVG_POW2) X(E5M2, LAND) X(E5M2, LOR)

/* A kernel of its own: the product with a scalar. */
#define SIM_SCALE_MAP(X) \
    X(U8) X(U16) X(U32) X(U64) X(F16) X(BF16) X(F32) X(F64) X(E4M3) X(E5M2)

/* Narrow floats that REDUCE also takes and gives as float32, not rounded. */
#define SIM_NARROW_MAP(X) X(F16) X(BF16) X(E4M3) X(E5M2)
/* clang-format on */

/*
 * `bytes` of elements. To scale, there are two sources: the second one is SIM_SCALAR_BYTES that hold one element
 * again and again. Divides by `divisor` if the operation is AVG (not a power of two) or AVG_POW2 (one).
 */
struct sim_kernel_args {
    void *const *dsts;
    const void *const *srcs;
    int ndst, nsrc;
    size_t bytes;
    uint64_t divisor;
    bool stream;
};
#define SIM_SCALAR_BYTES 64 /* of the widest vector */
typedef void (*sim_kernel_fn)(const struct sim_kernel_args *args);

/* `count` narrow floats to float32, or back: rounded once, NaN made canonical. No overlap. */
typedef void (*sim_widen_fn)(float *dst, const void *src, size_t count);
typedef void (*sim_narrow_fn)(void *dst, const float *src, size_t count);

/* A variant's kernels; NULL where the operation is not defined. */
struct sim_kernel_table {
    sim_kernel_fn kernels[ELEM_COUNT][SIM_KERNEL_OPS];
    sim_kernel_fn scale[ELEM_COUNT];
    sim_widen_fn widen[ELEM_COUNT];
    sim_narrow_fn narrow[ELEM_COUNT];
};

extern const struct sim_kernel_table sim_reduce_scalar_table;
#if SIM_HAVE_X86
extern const struct sim_kernel_table sim_reduce_avx2_table;
extern const struct sim_kernel_table sim_reduce_avx512_table;
#endif

/* sim_reduce and sim_scale by the kernels of one table. */
void sim_reduce_with(const struct sim_kernel_table *table, thrum_datatype_t dtype, thrum_redop_t op,
                     const struct sim_reduce_args *args);
void sim_scale_with(const struct sim_kernel_table *table, thrum_datatype_t dtype,
                    const struct sim_scale_args *args);

/* How a kernel computes elements of a type; ELEM_COUNT if the operation is not defined for it. */
enum sim_elem sim_elem_for(thrum_datatype_t dtype, thrum_redop_t op);

/* Does this CPU run the table's instructions? */
bool sim_reduce_runs_here(const struct sim_kernel_table *table);

/*
 * Division of integers of one width by a fixed n >= 2, not a power of two, as a multiplication (Granlund and
 * Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994). With t the high half of x * magic:
 *   unsigned, as in figure 4.1       q = (t + ((x - t) >> 1)) >> shift
 *   signed, of the absolute value    q = t >> shift: it has a bit less, so that the magic number has no more than x
 *   8 bits, in 16-bit lanes          q = t
 * Exact for every x. Powers of two: q = x >> shift. Floats divide truly, or multiply by the reciprocal.
 */
struct sim_division {
    uint64_t magic;
    int shift;
    int nsrc; /* what there is to know of the fold when it closes, besides */
    uint64_t n;
};

struct sim_division sim_division_for(enum sim_elem elem, uint64_t n);

/* May AVG by n >= 2 be AVG_POW2? */
bool sim_division_is_shift(enum sim_elem elem, uint64_t n);

static SIM_ALWAYS_INLINE size_t elem_bytes(enum sim_elem elem)
{
    switch (elem) {
    case ELEM_U8:
    case ELEM_I8:
    case ELEM_E4M3:
    case ELEM_E5M2:
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
    case ELEM_C128:
        return 16;
    default:
        return 8;
    }
}

static SIM_ALWAYS_INLINE bool elem_is_float8(enum sim_elem elem)
{
    return elem == ELEM_E4M3 || elem == ELEM_E5M2;
}

/* Narrower than what it is accumulated in. */
static SIM_ALWAYS_INLINE bool elem_is_narrow(enum sim_elem elem)
{
    return elem == ELEM_F16 || elem == ELEM_BF16 || elem_is_float8(elem);
}

static SIM_ALWAYS_INLINE bool elem_is_complex(enum sim_elem elem)
{
    return elem == ELEM_C64 || elem == ELEM_C128;
}

/* Of real numbers. */
static SIM_ALWAYS_INLINE bool elem_is_float(enum sim_elem elem)
{
    return elem_is_narrow(elem) || elem == ELEM_F32 || elem == ELEM_F64;
}

static SIM_ALWAYS_INLINE bool elem_is_signed_int(enum sim_elem elem)
{
    return elem == ELEM_I8 || elem == ELEM_I16 || elem == ELEM_I32 || elem == ELEM_I64;
}

/* The element 1, as bits. */
static SIM_ALWAYS_INLINE uint64_t elem_one(enum sim_elem elem)
{
    switch (elem) {
    case ELEM_E4M3:
        return 0x38;
    case ELEM_E5M2:
        return 0x3c;
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

/* Of narrow floats: the largest magnitude that is no NaN, and the NaN that results have. */
static SIM_ALWAYS_INLINE uint64_t elem_infinity(enum sim_elem elem)
{
    return elem == ELEM_F16 ? 0x7c00 : elem == ELEM_BF16 ? 0x7f80 : elem == ELEM_E5M2 ? 0x7c : 0x7e;
}

static SIM_ALWAYS_INLINE uint64_t elem_nan(enum sim_elem elem)
{
    return elem == ELEM_F16 ? 0x7e00 : elem == ELEM_BF16 ? 0x7fc0 : elem == ELEM_E5M2 ? 0x7e : 0x7f;
}

#endif
