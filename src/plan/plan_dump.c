/*
 * plan_dump: plans as text, JSON or DOT, an op at a time, so that a plan longer than memory can be printed while it is
 * built. Called by thrum-plan; the text of one op also by the checker's reports.
 */
#include "plan/plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/base.h"
#include "plan/plan_text.h"

static const char *const opcode_names[] = {"COPY", "REDUCE", "PUT", "SIGNAL", "WAIT"};
static const char *const space_names[] = {"SEND", "RECV", "SCRATCH", "LINE", "WIDE"};

static const struct {
    unsigned flag;
    const char *name;
} flag_names[] = {{PLAN_ARRIVE, "ARRIVE"},
                  {PLAN_INLINE, "INLINE"},
                  {PLAN_FINAL, "FINAL"},
                  {PLAN_STREAM, "STREAM"}};
#define FLAG_NAMES (sizeof flag_names / sizeof *flag_names)

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

static void put_bytes(struct plan_text *text, const char *bytes, size_t n)
{
    if (n > sizeof text->bytes - text->length)
        n = sizeof text->bytes - text->length;
    memcpy(text->bytes + text->length, bytes, n);
    text->length += n;
}

void plan_text_string(struct plan_text *text, const char *string)
{
    put_bytes(text, string, strlen(string));
}

void plan_text_number(struct plan_text *text, uint64_t number)
{
    char digits[20];
    size_t first = sizeof digits;

    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    put_bytes(text, digits + first, sizeof digits - first);
}

static void put_int(struct plan_text *text, int64_t number)
{
    if (number < 0)
        plan_text_string(text, "-");
    plan_text_number(text, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}

const char *plan_space_name(unsigned space)
{
    return space < sizeof space_names / sizeof *space_names ? space_names[space] : "?";
}

static const char *opcode_name(unsigned opcode)
{
    return opcode < sizeof opcode_names / sizeof *opcode_names ? opcode_names[opcode] : "?";
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void text_operands(struct plan_text *text, const struct plan_operand *operands, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct plan_operand *o = &operands[i];

        plan_text_string(text, " ");
        plan_text_string(text, plan_space_name(o->space));
        plan_text_string(text, "[");
        put_int(text, o->rank);
        plan_text_string(text, o->space == PLAN_LINE ? "] from " : "]+");
        plan_text_number(text, o->offset);
    }
}

void plan_text_op(struct plan_text *text, const struct plan_op *op,
                  const struct plan_operand *operands)
{
    bool moves = op->opcode <= PLAN_PUT;

    plan_text_string(text, "lane ");
    plan_text_number(text, op->lane);
    plan_text_string(text, " ");
    plan_text_string(text, opcode_name(op->opcode));
    for (size_t i = 0; i < FLAG_NAMES; i++)
        if (op->flags & flag_names[i].flag) {
            plan_text_string(text, "|");
            plan_text_string(text, flag_names[i].name);
        }
    if (op->opcode >= PLAN_PUT) {
        plan_text_string(text, op->opcode == PLAN_WAIT ? " from " : " to ");
        put_int(text, op->peer);
    }
    if (op->opcode >= PLAN_PUT && !(op->flags & (PLAN_ARRIVE | PLAN_INLINE))) {
        plan_text_string(text, " value ");
        plan_text_number(text, op->value);
    }
    if (op->opcode == PLAN_REDUCE && op->value) {
        plan_text_string(text, " of ");
        plan_text_number(text, op->value);
        plan_text_string(text, " ranks");
    }
    if (moves) {
        plan_text_string(text, " ");
        plan_text_number(text, op->bytes);
        plan_text_string(text, " bytes");
        text_operands(text, operands, op->ndst);
        plan_text_string(text, " <-");
        text_operands(text, operands + op->ndst, op->nsrc);
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void json_field(struct plan_text *text, const char *key, uint64_t number)
{
    plan_text_string(text, ",\"");
    plan_text_string(text, key);
    plan_text_string(text, "\":");
    plan_text_number(text, number);
}

static void json_operands(struct plan_text *text, const char *key,
                          const struct plan_operand *operands, unsigned n)
{
    plan_text_string(text, ",\"");
    plan_text_string(text, key);
    plan_text_string(text, "\":[");
    for (unsigned i = 0; i < n; i++) {
        plan_text_string(text, i ? ",{\"space\":\"" : "{\"space\":\"");
        plan_text_string(text, plan_space_name(operands[i].space));
        plan_text_string(text, "\",\"rank\":");
        put_int(text, operands[i].rank);
        json_field(text, operands[i].space == PLAN_LINE ? "from" : "offset", operands[i].offset);
        plan_text_string(text, "}");
    }
    plan_text_string(text, "]");
}

static void json_op(struct plan_text *text, uint64_t index, const struct plan_op *op,
                    const struct plan_operand *operands)
{
    const char *separator = "";

    plan_text_string(text, index ? ",\n{\"index\":" : "\n{\"index\":");
    plan_text_number(text, index);
    json_field(text, "lane", op->lane);
    plan_text_string(text, ",\"op\":\"");
    plan_text_string(text, opcode_name(op->opcode));
    plan_text_string(text, "\",\"flags\":[");
    for (size_t i = 0; i < FLAG_NAMES; i++)
        if (op->flags & flag_names[i].flag) {
            plan_text_string(text, separator);
            plan_text_string(text, "\"");
            plan_text_string(text, flag_names[i].name);
            plan_text_string(text, "\"");
            separator = ",";
        }
    plan_text_string(text, "]");
    if (op->opcode >= PLAN_PUT) {
        plan_text_string(text, ",\"peer\":");
        put_int(text, op->peer);
        json_field(text, "value", op->value);
    }
    if (op->opcode == PLAN_REDUCE && op->value)
        json_field(text, "contributions", op->value);
    if (op->opcode <= PLAN_PUT) {
        json_field(text, "bytes", op->bytes);
        json_operands(text, "dst", operands, op->ndst);
        json_operands(text, "src", operands + op->ndst, op->nsrc);
    }
    plan_text_string(text, "}");
}

/* ---- DOT --------------------------------------------------------------------------------------------------------- */

static void dot_op(struct plan_text *text, struct plan_dump *dump, const struct plan_op *op,
                   const struct plan_operand *operands)
{
    uint64_t *last = op->lane < PLAN_MAX_LANES ? &dump->last_of_lane[op->lane] : NULL;

    plan_text_string(text, "  op");
    plan_text_number(text, dump->index);
    plan_text_string(text, " [label=\"");
    plan_text_number(text, dump->index);
    plan_text_string(text, ": ");
    plan_text_op(text, op, operands);
    plan_text_string(text, op->opcode == PLAN_WAIT  ? "\", style=dashed];\n"
                           : op->opcode >= PLAN_PUT ? "\", style=bold];\n"
                                                    : "\"];\n");
    if (last && *last) {
        plan_text_string(text, "  op");
        plan_text_number(text, *last - 1);
        plan_text_string(text, " -> op");
        plan_text_number(text, dump->index);
        plan_text_string(text, ";\n");
    }
    if (last)
        *last = dump->index + 1;
}

/* ---- whole plans ------------------------------------------------------------------------------------------------- */

/* The blocks of a v-variant; nothing where all are of one size. */
static void print_blocks(FILE *file, const struct plan_params *p, const char *before,
                         const char *after)
{
    for (int r = 0; p->counts && r < p->nranks; r++)
        fprintf(file, "%s%" PRIu64, r == 0 ? before : ",", p->counts[r]);
    if (p->counts)
        fputs(after, file);
}

static void begin(const struct plan *plan, struct plan_dump *dump, FILE *file,
                  enum plan_format format)
{
    const struct plan_params *p = &plan->params;
    const char *collective = collective_name(p->collective), *type = thrum_datatype_name(p->dtype),
               *redop = thrum_redop_name(p->redop), *algorithm = plan->algorithm;

    *dump = (struct plan_dump){.file = file, .format = format};
    if (format == PLAN_JSON) {
        fprintf(file,
                "{\"collective\":\"%s\",\"algorithm\":\"%s\",\"rank\":%d,\"ranks\":%d,"
                "\"count\":%" PRIu64 ",\"type\":\"%s\",\"op\":\"%s\",\"root\":%d,"
                "\"in_place\":%s,\"peer_access\":%s,\"hosts\":%d,\"ordered\":%s,\"lanes\":%d,"
                "\"scratch_limit\":%" PRIu64,
                collective, algorithm, p->rank, p->nranks, p->count, type, redop, p->root,
                p->in_place ? "true" : "false", p->peer_access ? "true" : "false",
                p->layout ? p->layout->nhosts : 1, p->ordered ? "true" : "false", p->lanes,
                p->scratch_bytes);
        print_blocks(file, p, ",\"counts\":[", "]");
        fputs(",\"ops\":[", file);
        return;
    }
    fprintf(file,
            "%s %s %s, rank %d of %d, count %" PRIu64
            " %s, op %s, root %d, %s, %s%s, lanes %d, scratch limit %" PRIu64,
            format == PLAN_DOT ? "//" : "#", collective, algorithm, p->rank, p->nranks, p->count,
            type, redop, p->root, p->in_place ? "in place" : "not in place",
            p->peer_access ? "peer access"
            : p->layout    ? "peer access within hosts"
                           : "no peer access",
            p->ordered ? ", ordered" : "", p->lanes, p->scratch_bytes);
    if (p->layout)
        fprintf(file, ", on host %d of %d", p->layout->host[p->rank], p->layout->nhosts);
    print_blocks(file, p, ", counts ", "");
    fputc('\n', file);
    if (format == PLAN_DOT)
        fprintf(file, "digraph plan {\n  node [shape=box, fontname=monospace];\n");
}

static thrum_status_t print_op(void *argument, const struct plan *plan, const struct plan_op *op,
                               const struct plan_operand *operands)
{
    struct plan_dump *dump = argument;
    struct plan_text text;

    (void)plan;
    text.length = 0;
    if (dump->format == PLAN_JSON) {
        json_op(&text, dump->index, op, operands);
    } else if (dump->format == PLAN_DOT) {
        dot_op(&text, dump, op, operands);
    } else {
        plan_text_number(&text, dump->index);
        plan_text_string(&text, " ");
        plan_text_op(&text, op, operands);
        plan_text_string(&text, "\n");
    }
    dump->index++;
    if (fwrite_unlocked(text.bytes, 1, text.length, dump->file) != text.length)
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "writing the plan, at op %" PRIu64,
                                dump->index - 1);
    return THRUM_OK;
}

static void end(const struct plan *plan, struct plan_dump *dump)
{
    if (dump->format == PLAN_JSON)
        fprintf(dump->file, "],\"op_count\":%" PRIu64 ",\"scratch_bytes\":%" PRIu64 "}\n",
                dump->index, plan->scratch_bytes);
    else if (dump->format == PLAN_DOT)
        fprintf(dump->file, "}\n");
    else
        fprintf(dump->file, "# %" PRIu64 " ops, scratch %" PRIu64 " bytes\n", dump->index,
                plan->scratch_bytes);
}

void plan_dump_begin(struct plan *plan, struct plan_dump *dump, FILE *file, enum plan_format format)
{
    begin(plan, dump, file, format);
    plan->sink = print_op;
    plan->sink_argument = dump;
}

void plan_dump_end(struct plan *plan, struct plan_dump *dump)
{
    end(plan, dump);
    plan->sink = NULL;
    plan->sink_argument = NULL;
}

thrum_status_t plan_dump(const struct plan *plan, FILE *file, enum plan_format format)
{
    struct plan_dump dump;
    thrum_status_t status;

    begin(plan, &dump, file, format);
    for (size_t i = 0; i < plan->nops; i++) {
        const struct plan_op *op = &plan->ops[i];

        status = print_op(&dump, plan, op, plan->operands + op->first_operand);
        if (status)
            return status;
    }
    end(plan, &dump);
    if (ferror(file))
        return thrum_fail(THRUM_ERR_SYSTEM, "writing the plan failed");
    return THRUM_OK;
}
