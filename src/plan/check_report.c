/*
 * check_report: the counterexample in words. Called by all of the checker; ops look as in a dump.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"
#include "plan/check.h"

#define OP_CHARACTERS 320 /* of one op; direct algorithms name every rank */
#define LAST_OPS 5

void report_begin(struct check *check, const char *format, ...)
{
    const struct plan_params *p = check_params(check);
    char text[900];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    check->status = thrum_fail(THRUM_ERR_PLAN, "%s %s: %s", collective_name(p->collective),
                               check->plans[0].algorithm, text);
    if (!check->report)
        return;
    fprintf(check->report, "plan_check: %s\n", text);
    fprintf(check->report,
            "  in %s %s: %d ranks, count %" PRIu64 " %s, op %s, root %d, %s, lanes %d",
            collective_name(p->collective), check->plans[0].algorithm, check->n, p->count,
            thrum_datatype_name(p->dtype), thrum_redop_name(p->redop), p->root,
            p->in_place ? "in place" : "not in place", p->lanes);
    if (check->round != UINT32_MAX)
        fprintf(check->report, ", round %" PRIu32 " of %" PRIu32, check->round + 1, check->rounds);
    fputc('\n', check->report);
}

static void print_op(const struct check *check, int rank, size_t index)
{
    const struct plan *plan = &check->plans[rank];
    const struct plan_op *op = &plan->ops[index];
    struct plan_text text;
    size_t n = (size_t)op->ndst + op->nsrc;

    text.length = 0;
    if (op->first_operand + n <= plan->noperands)
        plan_text_op(&text, op, plan->operands + (n ? op->first_operand : 0));
    fprintf(check->report, "op %zu: %.*s%s\n", index, (int)min_u64(text.length, OP_CHARACTERS),
            text.bytes, text.length > OP_CHARACTERS ? " ..." : "");
}

void report_op(struct check *check, const char *label, int rank, size_t op, uint32_t round)
{
    if (!check->report)
        return;
    fprintf(check->report, "  %s: rank %d ", label, rank);
    if (round != UINT32_MAX && check->rounds > 1)
        fprintf(check->report, "(round %" PRIu32 ") ", round + 1);
    print_op(check, rank, op);
}

void report_access(struct check *check, const char *label, const struct access *access)
{
    int rank = check_rank_of(check, access->thread);

    if (access->op < OP_AFTER)
        report_op(check, label, rank, access->op, access->round);
    else if (check->report)
        fprintf(check->report, "  %s: the caller of rank %d, %s the plan of round %" PRIu32 "\n",
                label, rank, access->op == OP_BEFORE ? "before" : "after", access->round + 1);
}

void report_lane(struct check *check, uint32_t thread)
{
    const struct lane *lane = &check->lane_of[thread];
    int rank = check_rank_of(check, thread);
    uint32_t first = lane->next > LAST_OPS ? lane->next - LAST_OPS : 0;

    if (!check->report)
        return;
    fprintf(check->report, "  rank %d lane %" PRIu32 ", round %" PRIu32 ", %s:\n", rank,
            thread % (uint32_t)check->lanes, check->ranks[rank].round + 1,
            lane->next < lane->nops ? "is at" : "has ended");
    for (uint32_t i = first; i <= lane->next && i < lane->nops; i++) {
        fputs(i == lane->next ? "  > " : "    ", check->report);
        print_op(check, rank, lane->ops[i]);
    }
}

/* ---- contents ---------------------------------------------------------------------------------------------------- */

#define MAX_LISTED 32 /* ranks of a run by name; a longer one is first-last */

struct line_text {
    char *at;
    size_t left;
    const char *separator;
};

static void __attribute__((format(printf, 2, 3)))
add(struct line_text *out, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(out->at, out->left, format, args);
    va_end(args);
    if (n < 0)
        return;
    n = (size_t)n < out->left ? n : (int)out->left - 1;
    out->at += n;
    out->left -= (size_t)n;
}

static void add_run(struct line_text *out, const struct content_run *run, uint32_t round)
{
    bool list = run->last - run->first < MAX_LISTED;

    for (uint32_t rank = run->first; rank <= (list ? run->last : run->first); rank++)
        for (uint32_t time = 0; time < run->times; time++) {
            add(out, "%s%" PRIu32, out->separator, rank);
            out->separator = ",";
            if (!list)
                add(out, "-%" PRIu32, run->last);
            if (run->shift)
                add(out, "%+" PRId64 " bytes", run->shift);
            if (run->round != round)
                add(out, " of round %" PRIu32, run->round + 1);
        }
}

void report_content(const struct check *check, uint32_t content, uint32_t round, char *text,
                    size_t size)
{
    const struct content *c = &check->contents.all.at[content];
    struct line_text out = {text, size, ""};

    if (content == CONTENT_UNDEFINED) {
        add(&out, "nothing");
        return;
    }
    add(&out, "{");
    for (uint32_t i = 0; i < c->nruns; i++)
        add_run(&out, &check->contents.runs.at[c->first_run + i], round);
    add(&out, "}");
}
