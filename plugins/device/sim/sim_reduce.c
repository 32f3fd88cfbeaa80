/* Chooses the kernels of the REDUCE engine once, by THRUM_SIM_KERNELS and the CPU. Called by the packet executor. */
#include "sim_reduce.h"

#include <pthread.h>
#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#include "base/base.h"
#include "base/config.h"
#include "sim_reduce_variants.h"

static const struct variant {
    const char *name; /* as in THRUM_SIM_KERNELS */
    const struct sim_kernel_table *table;
} variants[] = {
    /* the widest last */
    {"scalar", &sim_reduce_scalar_table},
#if SIM_HAVE_X86
    {"avx2", &sim_reduce_avx2_table},
    {"avx512", &sim_reduce_avx512_table},
#endif
};

#define VARIANT_COUNT (sizeof variants / sizeof *variants)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const struct variant *chosen; /* written under `once` */
static sim_kernel_fn
    kernels[THRUM_DATATYPE_COUNT]
           [THRUM_REDOP_COUNT]; /* of ops without a divisor; NULL: others. As `chosen` */
static _Atomic bool is_chosen; /* for who only wants the kernels */

#if SIM_HAVE_X86
/* Not all compilers know it by name. The registers are AVX's, which the question for AVX2 covers. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

bool sim_reduce_runs_here(const struct sim_kernel_table *table)
{
#if SIM_HAVE_X86
    if (table == &sim_reduce_avx512_table)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (table == &sim_reduce_avx2_table)
        return __builtin_cpu_supports("avx2") && has_f16c();
#endif
    return table == &sim_reduce_scalar_table;
}

static void list_kernels(void)
{
    for (int dtype = 0; dtype < THRUM_DATATYPE_COUNT; dtype++)
        for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
            enum sim_elem elem = sim_elem_for((thrum_datatype_t)dtype, (thrum_redop_t)op);
            if (elem != ELEM_COUNT && op != THRUM_AVG)
                kernels[dtype][op] = chosen->table->kernels[elem][op];
        }
    atomic_store_explicit(&is_chosen, true, memory_order_release);
}

/* "auto" is word 0 of the choice, and the variants follow in the order above. */
static void choose(void)
{
    size_t asked = (size_t)thrum_config_int(CFG_SIM_KERNELS);
    size_t index = asked ? asked - 1 : VARIANT_COUNT - 1;

    if (index >= VARIANT_COUNT)
        index = VARIANT_COUNT - 1;
    while (!sim_reduce_runs_here(variants[index].table))
        index--;
    chosen = &variants[index];
    if (asked && index != asked - 1)
        thrum_log(LOG_WARN, "THRUM_SIM_KERNELS=%s: this CPU has no such instructions; using %s",
                  thrum_config_string(CFG_SIM_KERNELS), chosen->name);
    list_kernels();
}

/* Types that the operation treats alike share a kernel; sums of complex numbers are sums of floats. */
static enum sim_elem elem_of(thrum_datatype_t dtype, thrum_redop_t op)
{
    bool sign_matters = op == THRUM_MAX || op == THRUM_MIN || op == THRUM_AVG;
    bool componentwise = op == THRUM_SUM || op == THRUM_AVG;

    switch (dtype) {
    case THRUM_INT8:
        return sign_matters ? ELEM_I8 : ELEM_U8;
    case THRUM_UINT8:
        return ELEM_U8;
    case THRUM_INT16:
        return sign_matters ? ELEM_I16 : ELEM_U16;
    case THRUM_UINT16:
        return ELEM_U16;
    case THRUM_INT32:
        return sign_matters ? ELEM_I32 : ELEM_U32;
    case THRUM_UINT32:
        return ELEM_U32;
    case THRUM_INT64:
        return sign_matters ? ELEM_I64 : ELEM_U64;
    case THRUM_UINT64:
        return ELEM_U64;
    case THRUM_FLOAT8_E4M3:
        return ELEM_E4M3;
    case THRUM_FLOAT8_E5M2:
        return ELEM_E5M2;
    case THRUM_FLOAT16:
        return ELEM_F16;
    case THRUM_BFLOAT16:
        return ELEM_BF16;
    case THRUM_FLOAT32:
        return ELEM_F32;
    case THRUM_FLOAT64:
        return ELEM_F64;
    case THRUM_COMPLEX64:
        return componentwise ? ELEM_F32 : ELEM_C64;
    case THRUM_COMPLEX128:
        return componentwise ? ELEM_F64 : ELEM_C128;
    case THRUM_DATATYPE_COUNT:
        break;
    }
    return ELEM_COUNT;
}

enum sim_elem sim_elem_for(thrum_datatype_t dtype, thrum_redop_t op)
{
    enum sim_elem elem = elem_of(dtype, op);

    if (elem == ELEM_COUNT || (unsigned)op >= THRUM_REDOP_COUNT ||
        !sim_reduce_scalar_table.kernels[elem][op])
        return ELEM_COUNT;
    return elem;
}

bool sim_reduce_defined(thrum_datatype_t dtype, thrum_redop_t op)
{
    return sim_elem_for(dtype, op) != ELEM_COUNT;
}

bool sim_type_widens(thrum_datatype_t dtype)
{
    return elem_is_narrow(elem_of(dtype, THRUM_SUM));
}

static const struct sim_kernel_table *chosen_table(void)
{
    pthread_once(&once, choose);
    return chosen->table;
}

enum { EXCEPTIONS = 0x3f, DEFAULT = 0x1f80 }; /* of MXCSR, which takes some nanoseconds to read */

/*
 * Who executes may have changed how its thread computes (rounding, subnormals as zero: programs built with -ffast-math
 * do); the device always computes alike. Returns what to put back.
 */
static unsigned enter_arithmetic(void)
{
#if SIM_HAVE_X86
    unsigned mode = _mm_getcsr();

    if (__builtin_expect((mode & ~(unsigned)EXCEPTIONS) != DEFAULT, 0))
        _mm_setcsr(DEFAULT);
    return mode;
#else
    return 0;
#endif
}

static void leave_arithmetic(unsigned mode)
{
#if SIM_HAVE_X86
    if (__builtin_expect((mode & ~(unsigned)EXCEPTIONS) != DEFAULT, 0))
        _mm_setcsr(mode);
#else
    (void)mode;
#endif
}

void sim_reduce(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *args)
{
    unsigned mode = enter_arithmetic();

    sim_reduce_with(chosen_table(), dtype, op, args);
    leave_arithmetic(mode);
}

bool sim_reduce_small(thrum_datatype_t dtype, thrum_redop_t op, void *const *dsts, int ndst,
                      const void *const *srcs, int nsrc, size_t bytes)
{
    struct sim_kernel_args args = {
        .dsts = dsts, .srcs = srcs, .ndst = ndst, .nsrc = nsrc, .bytes = bytes};
    unsigned mode;

    if (!atomic_load_explicit(&is_chosen, memory_order_acquire) || !kernels[dtype][op])
        return false;
    mode = enter_arithmetic();
    kernels[dtype][op](&args);
    leave_arithmetic(mode);
    return true;
}

void sim_scale(thrum_datatype_t dtype, const struct sim_scale_args *args)
{
    unsigned mode = enter_arithmetic();

    sim_scale_with(chosen_table(), dtype, args);
    leave_arithmetic(mode);
}

const char *sim_kernels_name(void)
{
    pthread_once(&once, choose);
    return chosen->name;
}

bool sim_division_is_shift(enum sim_elem elem, uint64_t n)
{
    size_t bits = 8 * elem_bytes(elem);

    return !(n & (n - 1)) && (elem_is_float(elem) || bits == 64 || !(n >> bits));
}

struct sim_division sim_division_for(enum sim_elem elem, uint64_t n)
{
    int bits = 8 * (int)elem_bytes(elem), log;
    struct sim_division division = {.n = n};

    if (elem_is_float(elem))
        return division;
    if (sim_division_is_shift(elem, n)) {
        division.shift = __builtin_ctzll(n);
        return division;
    }
    if (bits < 64 && n >> bits) { /* greater than every x: 0 */
        division.shift = bits - 1;
        return division;
    }
    if (bits == 8) {
        division.magic = 65535 / n + 1;
        return division;
    }
    log = 64 - __builtin_clzll(n - 1); /* ceil(log2 n) */
    division.shift = log - 1;
    if (elem_is_signed_int(elem)) /* absolute values have one bit less */
        division.magic = (uint64_t)(((unsigned __int128)1 << (bits - 1 + log)) / n) + 1;
    else
        division.magic =
            (uint64_t)((((unsigned __int128)1 << bits) * (((unsigned __int128)1 << log) - n)) / n) +
            1;
    return division;
}
