/* Data types and reductions, shared by the device and the collective interface. */
#ifndef THRUM_TYPES_H
#define THRUM_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include <thrum/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* what is declared here is exported */
#endif

/*
 * One row per element type: NAME, value, size in bytes, printed name. Values are part of the ABI. FLOAT8_*: the OCP
 * 8-bit floating point specification (revision 1.0, 2023), results saturated to the largest finite value, NaN kept.
 * COMPLEX64 and COMPLEX128: two float32 or float64, real part first.
 */
#define THRUM_DATATYPE_MAP(X) \
    X(INT8, 0, 1, "int8") \
    X(UINT8, 1, 1, "uint8") \
    X(INT32, 2, 4, "int32") \
    X(UINT32, 3, 4, "uint32") \
    X(INT64, 4, 8, "int64") \
    X(UINT64, 5, 8, "uint64") \
    X(FLOAT16, 6, 2, "float16") \
    X(FLOAT32, 7, 4, "float32") \
    X(FLOAT64, 8, 8, "float64") \
    X(BFLOAT16, 9, 2, "bfloat16") \
    X(INT16, 10, 2, "int16") \
    X(UINT16, 11, 2, "uint16") \
    X(FLOAT8_E4M3, 12, 1, "float8_e4m3") \
    X(FLOAT8_E5M2, 13, 1, "float8_e5m2") \
    X(COMPLEX64, 14, 8, "complex64") \
    X(COMPLEX128, 15, 16, "complex128")

typedef enum thrum_datatype {
#define X(name, value, bytes, text) THRUM_##name = value,
    THRUM_DATATYPE_MAP(X)
#undef X
        THRUM_DATATYPE_COUNT = 16
} thrum_datatype_t;

/*
 * Reductions. AVG is the sum divided by the number of contributions (integers: rounded toward zero). The bitwise ones
 * take integer types only; the logical ones take any type but complex, count non-zero as true and yield 0 or 1;
 * complex numbers take SUM, PROD and AVG. 8- and 16-bit floats accumulate in float32 and are rounded once, to nearest
 * even. MIN and MAX yield NaN if any contribution is NaN. Integer sums and products wrap modulo two to the width of
 * the type. Values from THRUM_REDOP_COUNT on name reductions made for one communicator: see thrum_redop_create.
 */
#define THRUM_REDOP_MAP(X) \
    X(SUM, 0, "sum") \
    X(PROD, 1, "prod") \
    X(MAX, 2, "max") \
    X(MIN, 3, "min") \
    X(AVG, 4, "avg") \
    X(BAND, 5, "band") \
    X(BOR, 6, "bor") \
    X(BXOR, 7, "bxor") \
    X(LAND, 8, "land") \
    X(LOR, 9, "lor")

typedef enum thrum_redop {
#define X(name, value, text) THRUM_##name = value,
    THRUM_REDOP_MAP(X)
#undef X
        THRUM_REDOP_COUNT = 10
} thrum_redop_t;

/* Bytes of one element; 0 if there is no such type. Never fails; any thread. */
size_t thrum_datatype_size(thrum_datatype_t dtype);

/* Printed names ("float32", "sum"); "?" if there is no such value. Static storage; any thread. */
const char *thrum_datatype_name(thrum_datatype_t dtype);
const char *thrum_redop_name(thrum_redop_t op);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
