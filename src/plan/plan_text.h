/*
 * plan_text: ops as text. Used by the dump and by the checker's reports, so that both read alike.
 * Formats by hand: a dump of hundreds of thousands of ops is bound by this code.
 */
#ifndef PLAN_PLAN_TEXT_H
#define PLAN_PLAN_TEXT_H

#include "plan/plan.h"

/* Room for one op with PLAN_MAX_OPERANDS operands in the longest format. */
#define PLAN_TEXT_BYTES (PLAN_MAX_OPERANDS * 80 + 512)

struct plan_text {
    size_t length;
    char bytes[PLAN_TEXT_BYTES];
};

void plan_text_string(struct plan_text *text, const char *string);
void plan_text_number(struct plan_text *text, uint64_t number);

/* "SEND", "RECV", "SCRATCH", "LINE", "WIDE"; "?" for anything else. */
const char *plan_space_name(unsigned space);

/* "lane 0 REDUCE|FINAL 4096 bytes RECV[2]+0 <- SEND[2]+0 SCRATCH[2]+4096" */
void plan_text_op(struct plan_text *text, const struct plan_op *op,
                  const struct plan_operand *operands);

#endif
