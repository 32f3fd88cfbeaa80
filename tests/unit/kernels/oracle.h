/*
 * What a reduction should give: its arithmetic written again, in another way than the kernels. Called by the tests of the
 * kernels.
 */
#ifndef KERNELS_ORACLE_H
#define KERNELS_ORACLE_H

#include "sim_reduce_variants.h"

/* The same sequence in every run. */
uint64_t oracle_random(void);

bool oracle_is_narrow(thrum_datatype_t dtype);
bool oracle_is_float(thrum_datatype_t dtype);
bool oracle_is_complex(thrum_datatype_t dtype);
bool oracle_is_bitwise(thrum_redop_t op);

/* The type as which an operand, and source s, lie in memory. */
thrum_datatype_t oracle_stored_as(thrum_datatype_t dtype, bool wide);
thrum_datatype_t oracle_source_type(thrum_datatype_t dtype, const struct sim_reduce_args *a, int s);

/*
 * Of a narrow float: bits of precision behind the point, least exponent, bits, whether the largest exponent holds
 * numbers (all but one), whether results saturate.
 */
struct oracle_format {
    int fraction_bits, min_exponent, bits_total;
    bool all_finite, saturates;
};

const struct oracle_format *oracle_format_of(thrum_datatype_t dtype);
double oracle_decode(const struct oracle_format *format, uint64_t bits);
/* To nearest, of two equally near ones the even one. */
uint64_t oracle_encode(const struct oracle_format *format, double value);
/* The first magnitude beyond all numbers: infinity, or the NaN of E4M3. */
uint64_t oracle_beyond(const struct oracle_format *format);

void oracle_write_float(thrum_datatype_t dtype, void *p, double value);
__int128 oracle_read_int(thrum_datatype_t dtype, const void *p);

/* Element i of the result; expect_float: of types that are floats. */
void oracle_expect(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                   size_t i, void *out);
void oracle_expect_float(thrum_datatype_t dtype, thrum_redop_t op, const struct sim_reduce_args *a,
                         size_t i, void *out);

#endif
