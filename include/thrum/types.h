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

/* One row per element type: NAME, value, size in bytes, printed name. Values are part of the ABI. */
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
    X(UINT16, 11, 2, "uint16")

typedef enum thrum_datatype {
#define X(name, value, bytes, text) THRUM_##name = value,
    THRUM_DATATYPE_MAP(X)
#undef X
        THRUM_DATATYPE_COUNT = 12
} thrum_datatype_t;

/*
 * Reductions. AVG is the sum divided by the number of contributions (integers: rounded toward zero). The bitwise ones
 * take integer types only; the logical ones take any type, count non-zero as true and yield 0 or 1. 8- and 16-bit
 * floats accumulate in float32 and are rounded once, to nearest even. MIN and MAX yield NaN if any contribution is NaN.
 * Integer sums and products wrap modulo two to the width of the type.
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
