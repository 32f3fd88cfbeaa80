/* plan_check: right plans pass; each kind of wrong one is found, and the report says what is wrong in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "samples.h"

static void check_passes(struct sample *sample)
{
    char *text;
    size_t bytes;
    FILE *report = open_memstream(&text, &bytes);

    for (int rounds = 1; rounds <= 3; rounds++) {
        thrum_status_t status = plan_check(sample->plans, sample->n, rounds, report);

        fflush(report);
        if (status)
            print_error("%s", text);
        assert_int_equal(status, THRUM_OK);
    }
    fclose(report);
    free(text);
    sample_fini(sample);
}

/* Every one of the `|`-separated words must be in the report. */
static void check_fails(struct sample *sample, const char *words)
{
    char *text, copy[256], *rest = copy;
    size_t bytes;
    FILE *report = open_memstream(&text, &bytes);
    thrum_status_t status = plan_check(sample->plans, sample->n, 2, report);

    fclose(report);
    if (getenv("SHOW_REPORTS"))
        print_message("%s\n", text);
    assert_int_equal(status, THRUM_ERR_PLAN);
    assert_int_equal(plan_check(sample->plans, sample->n, 2, NULL), THRUM_ERR_PLAN);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strsep(&rest, "|"); word; word = strsep(&rest, "|"))
        if (!strstr(text, word))
            fail_msg("no \"%s\" in:\n%s", word, text);
    free(text);
    sample_fini(sample);
}

static struct plan_operand *dst_of(struct plan *plan, size_t op)
{
    return &plan->operands[plan->ops[op].first_operand];
}

static struct plan_operand *src_of(struct plan *plan, size_t op)
{
    return dst_of(plan, op) + plan->ops[op].ndst;
}

/* ---- right plans ------------------------------------------------------------------------------------------------- */

static void right_plans_pass(void **state)
{
    struct sample s;

    (void)state;
    for (int n = 1; n <= SAMPLE_MAX_RANKS; n++) {
        sample_inline(&s, n);
        check_passes(&s);
        sample_direct(&s, n);
        check_passes(&s);
    }
    for (int n = 2; n <= SAMPLE_MAX_RANKS; n++) {
        sample_ring(&s, n);
        check_passes(&s);
    }
    for (int credit = 1; credit <= 6; credit++) {
        sample_pipeline(&s, credit, credit, credit);
        check_passes(&s);
    }
}

/* Lines are read when the PUT is done; a slice is folded before anyone writes it: both stand in-place buffers. */
static void in_place_passes(void **state)
{
    struct sample s;

    (void)state;
    sample_inline(&s, 3);
    for (int r = 0; r < s.n; r++)
        s.plans[r].params.in_place = true;
    check_passes(&s);
    sample_direct(&s, 3);
    for (int r = 0; r < s.n; r++)
        s.plans[r].params.in_place = r != 1; /* each rank may choose */
    check_passes(&s);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static void missing_wait(void **state)
{
    struct sample s;

    (void)state;
    sample_ring(&s, 3);
    sample_delete(&s.plans[1], sample_find(&s.plans[1], PLAN_WAIT, 0, 0));
    check_fails(
        &s, "data race on rank 1 SCRATCH[0..16)|nothing orders a read before a write|"
            "rank 0 (round 1) op 2: lane 0 PUT to 1 value 1 16 bytes SCRATCH[1]+0 <- SEND[0]+0");
}

static void signal_never_waited_for(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 2);
    sample_delete(&s.plans[1], sample_find(&s.plans[1], PLAN_WAIT, 0, 0));
    check_fails(&s, "signal never waited for: rank 0|at rank 1, lane 0, to 1|SIGNAL to 1 value 1");
}

static void wait_without_signal(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 2);
    sample_delete(&s.plans[1], sample_find(&s.plans[1], PLAN_SIGNAL, 0, 0));
    check_fails(&s, "wait without a signal: rank 0 waits for 1 of rank 1");
}

static void falling_values(void **state)
{
    struct sample s;

    (void)state;
    sample_ring(&s, 3);
    s.plans[2].ops[sample_find(&s.plans[2], PLAN_PUT, 0, 1)].value = 1;
    check_fails(&s, "values must grow|raises its semaphore at rank 0 to 1");
}

static void missing_departure(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 2);
    sample_delete(&s.plans[0], sample_find(&s.plans[0], PLAN_SIGNAL, 0, 0));
    sample_delete(&s.plans[1], sample_find(&s.plans[1], PLAN_WAIT, 0, 0));
    check_fails(&s, "departure|rank 0|REDUCE|FINAL");
}

static void remote_write_before_arrival(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 2);
    sample_move(&s.plans[0], sample_find(&s.plans[0], PLAN_WAIT, PLAN_ARRIVE, 0), 2);
    check_fails(&s, "rank 0 op 1|of rank 1 before its arrival");
}

/* The peer has started, but nobody has said where its buffer is. */
static void no_address(void **state)
{
    struct sample s;
    struct plan *plan;

    (void)state;
    sample_pipeline(&s, 1, 1, 1);
    plan = &s.plans[0];
    dst_of(plan, sample_find(plan, PLAN_PUT, 0, 0))->space = PLAN_RECV;
    check_fails(&s, "names RECV of rank 1 before its arrival: no WAIT|has told where it is");
}

static void deadlock_cycle(void **state)
{
    struct sample s;

    (void)state;
    sample_ring(&s, 3);
    for (int r = 0; r < 3; r++)
        sample_move(&s.plans[r], sample_find(&s.plans[r], PLAN_WAIT, 0, 1),
                    sample_find(&s.plans[r], PLAN_PUT, 0, 0));
    check_fails(&s, "deadlock: 3 lanes wait for ever; a cycle of 3|waits: rank 0|waits: rank 1|"
                    "waits: rank 2|WAIT from 0 value 2|WAIT from 1 value 2|WAIT from 2 value 2");
}

static void line_sent_twice(void **state)
{
    struct sample s;

    (void)state;
    sample_inline(&s, 2);
    plan_put_inline(&s.plans[0], 0, 1, plan_at(PLAN_SEND, 0, 0), 8);
    check_fails(&s, "rank 0 op 3 sends a second line to rank 1|the first: op 0");
}

static void lines_must_meet(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 2);
    sample_delete(&s.plans[0], sample_find(&s.plans[0], PLAN_SIGNAL, PLAN_ARRIVE, 0));
    check_fails(&s, "wait without a line: rank 1 waits for one of rank 0");
    sample_direct(&s, 2);
    sample_delete(&s.plans[0], sample_find(&s.plans[0], PLAN_WAIT, PLAN_ARRIVE, 0));
    check_fails(&s, "line never waited for: rank 1 to rank 0");
    sample_inline(&s, 2);
    s.plans[0].ops[sample_find(&s.plans[0], PLAN_WAIT, PLAN_INLINE, 0)].flags = PLAN_ARRIVE;
    check_fails(&s, "wrong kind: rank 1 to rank 0");
}

/* One-way lines: a collective's sender may run ahead, which exec bounds. */
static void line_sender_runs_ahead(void **state)
{
    struct sample s;

    (void)state;
    sample_pipeline(&s, 1, 1, 1);
    for (int r = 0; r < 2; r++) {
        s.plans[r].params.peer_access = true; /* longer lines */
        s.plans[r].nops = 0;
    }
    plan_copy(&s.plans[0], 0, plan_at(PLAN_RECV, 0, 0), plan_at(PLAN_SEND, 0, 0), 96);
    plan_put_inline(&s.plans[0], 0, 1, plan_at(PLAN_SEND, 0, 0), 96);
    plan_wait_inline(&s.plans[1], 0, 0, 96);
    plan_copy(&s.plans[1], 0, plan_at(PLAN_RECV, 1, 0), plan_at(PLAN_LINE, 1, 0), 96);
    for (int rounds = 1; rounds <= PLAN_CHECK_ROUNDS; rounds++)
        assert_int_equal(plan_check(s.plans, 2, rounds, stderr), THRUM_OK);
    assert_int_equal(plan_check(s.plans, 2, PLAN_CHECK_ROUNDS + 1, NULL),
                     THRUM_ERR_INVALID_ARGUMENT);
    sample_fini(&s);
}

static void line_read_too_early(void **state)
{
    struct sample s;

    (void)state;
    sample_inline(&s, 2);
    sample_move(&s.plans[1], sample_find(&s.plans[1], PLAN_WAIT, PLAN_INLINE, 0), 2);
    check_fails(&s, "rank 1 op 1 reads the LINE of rank 0 before it has waited for it");
}

static void incomplete_barrier(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 3);
    for (int r = 0; r < 3; r++) {
        struct plan *plan = &s.plans[r];

        plan->params.collective = COLL_BARRIER;
        plan->params.count = 0;
        plan->nops = 0;
        plan_signal(plan, 0, (r + 1) % 3, 1);
        plan_wait(plan, 0, (r + 2) % 3, 1);
    }
    check_fails(&s, "no barrier: rank|without knowing that rank");
}

static void put_without_signal(void **state)
{
    struct sample s;
    size_t put;

    (void)state;
    sample_pipeline(&s, 6, 6, 6);
    plan_put(&s.plans[0], 0, 1, plan_at(PLAN_SCRATCH, 1, 96), plan_at(PLAN_SEND, 0, 0), 8, 0);
    check_fails(&s, "rank 0 op 15 puts without a signal, and no PUT with one follows to rank 1");
    /* A later PUT of the lane with one tells of both. */
    sample_ring(&s, 2);
    put = sample_find(&s.plans[0], PLAN_PUT, 0, 1);
    s.plans[0].ops[put].value = 0;
    s.plans[0].ops[put].bytes = 8;
    plan_put(&s.plans[0], 0, 1, plan_at(PLAN_RECV, 1, 24), plan_at(PLAN_RECV, 0, 24), 8, 2);
    check_passes(&s);
}

/* Two lanes, each with half of the slice; each waits for the arrivals itself, since nothing else orders lanes. */
static void two_lane_plans(struct sample *s)
{
    sample_direct(s, 2);
    for (int r = 0; r < 2; r++) {
        struct plan *plan = &s->plans[r];

        plan->params.lanes = 2;
        plan->nops = 0;
        plan_arrive(plan, 0, 1 - r);
        for (int lane = 0; lane < 2; lane++) {
            uint64_t at = (uint64_t)r * 16 + (uint64_t)lane * 8;
            struct plan_operand dsts[] = {plan_at(PLAN_RECV, 0, at), plan_at(PLAN_RECV, 1, at)};
            struct plan_operand srcs[] = {plan_at(PLAN_SEND, 0, at), plan_at(PLAN_SEND, 1, at)};

            plan_wait_arrival(plan, lane, 1 - r);
            plan_reduce(plan, lane, PLAN_FINAL, dsts, 2, srcs, 2, 8);
            plan_signal(plan, lane, 1 - r, 1);
            plan_wait(plan, lane, 1 - r, 1);
        }
    }
}

static void lanes_are_apart(void **state)
{
    struct sample s;

    (void)state;
    two_lane_plans(&s);
    check_passes(&s);
    two_lane_plans(&s);
    sample_delete(&s.plans[1], sample_find(&s.plans[1], PLAN_WAIT, PLAN_ARRIVE, 1));
    check_fails(&s, "of rank 0 before its arrival|rank 1 lane 1");
    two_lane_plans(&s);
    src_of(&s.plans[1], sample_find(&s.plans[1], PLAN_REDUCE, PLAN_FINAL, 1))[0].offset = 16;
    check_fails(&s, "expected {0,1}, found");
    two_lane_plans(&s);
    s.plans[0].ops[sample_find(&s.plans[0], PLAN_SIGNAL, 0, 1)].lane = 0;
    check_fails(&s, "values must grow");
    /* Lane 1 goes on with what lane 0 has made: nothing says that it is there. */
    two_lane_plans(&s);
    plan_copy(&s.plans[0], 1, plan_at(PLAN_SCRATCH, 0, 0), plan_at(PLAN_RECV, 0, 0), 8);
    check_fails(&s, "data race on rank 0 RECV[0..8)|rank 0 lane 0|rank 0 lane 1");
}

/* ---- reuse ------------------------------------------------------------------------------------------------------- */

static void too_early_scratch_reuse(void **state)
{
    struct sample s;

    (void)state;
    sample_pipeline(&s, 3, 2, 3); /* three under way, two slots to land in */
    check_fails(&s, "data race on rank 1 SCRATCH[0..16)|PUT to 1 value 3|COPY");
}

static void put_source_overwritten_too_early(void **state)
{
    struct sample s;

    (void)state;
    sample_pipeline(&s, 2, 3, 3); /* three under way, two to start from */
    check_fails(&s,
                "data race on rank 0 SCRATCH[0..16)|nothing orders a read before a write; a PUT "
                "reads its source until its receipt is known");
}

static void stale_scratch(void **state)
{
    struct sample s;
    struct plan *plan;

    (void)state;
    sample_ring(&s, 3);
    plan = &s.plans[1];
    src_of(plan, sample_find(plan, PLAN_REDUCE, 0, 0))->offset = 64;
    check_fails(&s, "reads what nothing in this plan has written: rank 1 SCRATCH[64..80)");
}

/* ---- contributions ----------------------------------------------------------------------------------------------- */

static void swapped_chunk(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 3);
    dst_of(&s.plans[1], sample_find(&s.plans[1], PLAN_REDUCE, PLAN_FINAL, 0))[2].offset = 0;
    check_fails(&s, "RECV[0..16)|rank 2");
    sample_ring(&s, 4);
    dst_of(&s.plans[1], sample_find(&s.plans[1], PLAN_REDUCE, PLAN_FINAL, 0))->offset = 48;
    check_fails(&s, "rank 1");
    sample_ring(&s, 3);
    src_of(&s.plans[1], sample_find(&s.plans[1], PLAN_REDUCE, 0, 0))[1].offset = 16;
    check_fails(&s, "bytes}|expected {0,1,2}, found {0,2,1+16 bytes}");
}

static void doubled_contribution(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 4);
    src_of(&s.plans[2], sample_find(&s.plans[2], PLAN_REDUCE, PLAN_FINAL, 0))[2] =
        plan_at(PLAN_SEND, 1, 32);
    check_fails(&s, "rank 2 op|expected {0,1,2,3}, found {0,1,1,3}");
}

static void wrong_divide(void **state)
{
    struct sample s;
    struct plan *plan;

    (void)state;
    sample_direct(&s, 2);
    plan = &s.plans[0];
    plan->ops[sample_find(plan, PLAN_REDUCE, PLAN_FINAL, 0)].flags = 0;
    check_fails(&s, "RECV[0..16): it does not come from a REDUCE|FINAL, so AVG is never divided");
    sample_ring(&s, 3);
    plan = &s.plans[1];
    plan->ops[sample_find(plan, PLAN_REDUCE, 0, 0)].flags = PLAN_FINAL;
    check_fails(
        &s, "rank 1 op 4 is FINAL without all contributions once: expected {0,1,2}, found {0,1}");
    sample_direct(&s, 2);
    plan = &s.plans[0];
    plan_reduce(plan, 0, PLAN_FINAL, &(struct plan_operand){.rank = 0, .space = PLAN_RECV}, 1,
                &(struct plan_operand){.rank = 0, .space = PLAN_RECV}, 1, 16);
    check_fails(&s, "divides what a REDUCE|FINAL has divided already");
}

/* One rank: AVG divides by 1, so a copy will do; LAND yields 0 or 1, so it will not. */
static void one_rank(void **state)
{
    struct sample s;

    (void)state;
    for (int op = 0; op < THRUM_REDOP_COUNT; op++) {
        sample_direct(&s, 1);
        s.plans[0].params.redop = (thrum_redop_t)op;
        s.plans[0].nops = 0;
        plan_copy(&s.plans[0], 0, plan_at(PLAN_RECV, 0, 0), plan_at(PLAN_SEND, 0, 0), 16);
        if (op == THRUM_LAND || op == THRUM_LOR)
            check_fails(&s, "no REDUCE has made it 0 or 1");
        else
            check_passes(&s);
    }
}

static void nothing_written(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 1);
    s.plans[0].nops = 0;
    check_fails(&s, "rank 0 RECV[0..16): expected {0}, found nothing");
}

static void rank_order(void **state)
{
    struct sample s;

    (void)state;
    sample_direct(&s, 4);
    assert_int_equal(plan_check_ordered(s.plans, 4, 2, NULL), THRUM_OK);
    src_of(&s.plans[2], sample_find(&s.plans[2], PLAN_REDUCE, PLAN_FINAL, 0))[0].rank = 1;
    src_of(&s.plans[2], sample_find(&s.plans[2], PLAN_REDUCE, PLAN_FINAL, 0))[1].rank = 0;
    assert_int_equal(plan_check(s.plans, 4, 2, NULL), THRUM_OK);
    assert_int_equal(plan_check_ordered(s.plans, 4, 2, NULL), THRUM_ERR_PLAN);
    sample_fini(&s);
    sample_ring(&s, 3);
    assert_int_equal(plan_check_ordered(s.plans, 3, 2, NULL), THRUM_ERR_PLAN);
    sample_fini(&s);
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

static void bad_operands(void **state)
{
    struct sample s;
    size_t reduce;

    (void)state;
#define WITH(sample_call, change, words) \
    do { \
        sample_call; \
        reduce = sample_find(&s.plans[1], PLAN_REDUCE, PLAN_FINAL, 0); \
        change; \
        check_fails(&s, words); \
    } while (0)
    WITH(sample_direct(&s, 2), dst_of(&s.plans[1], reduce)->offset = 24,
         "names RECV of rank 0, bytes 24..40, out of range");
    WITH(sample_direct(&s, 2), src_of(&s.plans[1], reduce)->space = PLAN_SCRATCH;
         src_of(&s.plans[1], reduce)->offset = UINT64_MAX - 7, "out of range");
    WITH(sample_direct(&s, 2), src_of(&s.plans[1], reduce)->offset = 4, "not aligned");
    WITH(sample_direct(&s, 2), dst_of(&s.plans[1], reduce)->space = PLAN_SEND,
         "writes SEND of rank 0");
    WITH(sample_direct(&s, 2), src_of(&s.plans[1], reduce)->rank = 2, "names rank 2");
    WITH(sample_direct(&s, 2), s.plans[1].ops[reduce].lane = 1, "is in lane 1, out of range");
    WITH(sample_direct(&s, 2), dst_of(&s.plans[1], reduce)[1] = dst_of(&s.plans[1], reduce)[0],
         "destinations 0 and 1 that overlap");
    WITH(sample_direct(&s, 2), src_of(&s.plans[1], reduce)[0] = plan_at(PLAN_RECV, 1, 8),
         "overlaps source 0");
    WITH(sample_direct(&s, 2), s.plans[1].ops[reduce].flags |= PLAN_ARRIVE, "has flags");
    WITH(sample_direct(&s, 2),
         s.plans[0].params.peer_access = s.plans[1].params.peer_access = false,
         "without peer access");
    WITH(sample_inline(&s, 2), s.plans[1].ops[reduce].bytes = 24, "out of range");
    WITH(sample_ring(&s, 2), s.plans[1].ops[sample_find(&s.plans[1], PLAN_PUT, 0, 0)].peer = 1,
         "names peer 1, which is no other rank");
    WITH(sample_ring(&s, 2), s.plans[1].params.count = 2, "different calls");
#undef WITH
}

/* ---- point to point ---------------------------------------------------------------------------------------------- */

static void message_plans(struct sample *s, struct plan_p2p *send, struct plan_p2p *recv)
{
    sample_direct(s, 2);
    for (int r = 0; r < 2; r++) {
        s->plans[r].params.collective = COLL_SENDRECV;
        s->plans[r].params.p2p = r ? recv : send;
        s->plans[r].params.np2p = 1;
        s->plans[r].nops = 0;
    }
    plan_arrive(&s->plans[1], 0, 0);
    plan_wait_arrival(&s->plans[0], 0, 1);
    plan_put(&s->plans[0], 0, 1, plan_at(PLAN_RECV, 1, 0), plan_at(PLAN_SEND, 0, send->offset),
             send->bytes, 1);
    plan_wait(&s->plans[1], 0, 0, 1);
}

static void messages(void **state)
{
    struct plan_p2p send = {.peer = 1, .is_send = true, .bytes = 100, .offset = 0x7f0000001003};
    struct plan_p2p recv = {.peer = 0, .is_send = false, .bytes = 100, .offset = 0x7f0000002001};
    struct sample s;

    (void)state;
    message_plans(&s, &send, &recv);
    check_passes(&s);
    message_plans(&s, &send, &recv);
    s.plans[0].ops[1].bytes = 99;
    check_fails(&s, "rank 1 RECV|expected {0}, found nothing");
    message_plans(&s, &send, &recv);
    src_of(&s.plans[0], 1)->offset++;
    check_fails(&s, "out of range");
    recv.bytes = 96;
    message_plans(&s, &send, &recv);
    check_fails(&s, "rank 0 sends 100 bytes with rank 1|of 96 bytes");
    send.bytes = recv.bytes = 0;
    message_plans(&s, &send, &recv);
    check_passes(&s);
    message_plans(&s, &send, &recv);
    s.plans[0].nops = s.plans[1].nops = 1; /* an arrival that nothing answers */
    check_fails(&s, "ends its plan without knowing that rank 0 has started|third line");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_plans_pass),
        cmocka_unit_test(in_place_passes),
        cmocka_unit_test(missing_wait),
        cmocka_unit_test(signal_never_waited_for),
        cmocka_unit_test(wait_without_signal),
        cmocka_unit_test(falling_values),
        cmocka_unit_test(missing_departure),
        cmocka_unit_test(remote_write_before_arrival),
        cmocka_unit_test(no_address),
        cmocka_unit_test(deadlock_cycle),
        cmocka_unit_test(line_sent_twice),
        cmocka_unit_test(lines_must_meet),
        cmocka_unit_test(line_sender_runs_ahead),
        cmocka_unit_test(line_read_too_early),
        cmocka_unit_test(incomplete_barrier),
        cmocka_unit_test(put_without_signal),
        cmocka_unit_test(lanes_are_apart),
        cmocka_unit_test(too_early_scratch_reuse),
        cmocka_unit_test(put_source_overwritten_too_early),
        cmocka_unit_test(stale_scratch),
        cmocka_unit_test(swapped_chunk),
        cmocka_unit_test(doubled_contribution),
        cmocka_unit_test(wrong_divide),
        cmocka_unit_test(one_rank),
        cmocka_unit_test(nothing_written),
        cmocka_unit_test(rank_order),
        cmocka_unit_test(bad_operands),
        cmocka_unit_test(messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
