/* Appending and printing plans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/base.h"
#include "plan/plan.h"
#include "plan/plan_text.h"

static struct plan_params params(void)
{
    return (struct plan_params){.collective = COLL_ALLREDUCE,
                                .rank = 1,
                                .nranks = 3,
                                .count = 12,
                                .dtype = THRUM_FLOAT32,
                                .lanes = 2,
                                .scratch_bytes = 4096};
}

static struct plan new_plan(void)
{
    struct plan_params p = params();
    struct plan plan;

    plan_init(&plan, &p);
    plan.algorithm = "ring";
    return plan;
}

/* One op of each kind. */
static void one_of_each(struct plan *plan)
{
    struct plan_operand dsts[] = {plan_at(PLAN_RECV, 0, 16), plan_at(PLAN_RECV, 1, 16)};
    struct plan_operand srcs[] = {plan_at(PLAN_SEND, 1, 16), plan_at(PLAN_LINE, 1, 2),
                                  plan_at(PLAN_SCRATCH, 1, 64)};

    plan_arrive(plan, 0, 2);
    plan_wait_arrival(plan, 0, 2);
    plan_put_inline(plan, 0, 2, srcs[0], 8);
    plan_wait_inline(plan, 0, 2, 8);
    plan_copy_multi(plan, 1, dsts, 2, srcs[0], 16);
    plan_reduce(plan, 0, PLAN_FINAL | PLAN_STREAM, dsts, 2, srcs, 3, 16);
    plan_put(plan, 1, 2, plan_at(PLAN_SCRATCH, 2, 0), srcs[0], 16, 7);
    plan_signal(plan, 1, 2, 8);
    plan_wait(plan, 1, 0, 1);
}

static const char *const text_of_each =
    "# allreduce ring, rank 1 of 3, count 12 float32, op sum, root 0, not in place, no peer "
    "access, "
    "lanes 2, scratch limit 4096\n"
    "0 lane 0 SIGNAL|ARRIVE to 2\n"
    "1 lane 0 WAIT|ARRIVE from 2\n"
    "2 lane 0 PUT|INLINE to 2 8 bytes <- SEND[1]+16\n"
    "3 lane 0 WAIT|INLINE from 2\n"
    "4 lane 1 COPY 16 bytes RECV[0]+16 RECV[1]+16 <- SEND[1]+16\n"
    "5 lane 0 REDUCE|FINAL|STREAM 16 bytes RECV[0]+16 RECV[1]+16 <- SEND[1]+16 LINE[1] from 2 "
    "SCRATCH[1]+64\n"
    "6 lane 1 PUT to 2 value 7 16 bytes SCRATCH[2]+0 <- SEND[1]+16\n"
    "7 lane 1 SIGNAL to 2 value 8\n"
    "8 lane 1 WAIT from 0 value 1\n"
    "# 9 ops, scratch 80 bytes\n";

static char *dump(const struct plan *plan, enum plan_format format)
{
    char *text;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);

    assert_int_equal(plan_dump(plan, file, format), THRUM_OK);
    fclose(file);
    return text;
}

static char *stream(enum plan_format format)
{
    struct plan plan = new_plan();
    struct plan_dump dump_state;
    char *text;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);

    plan_dump_begin(&plan, &dump_state, file, format);
    one_of_each(&plan);
    plan_dump_end(&plan, &dump_state);
    assert_int_equal(plan.status, THRUM_OK);
    assert_int_equal(plan.nops, 0); /* nothing is kept */
    fclose(file);
    plan_fini(&plan);
    return text;
}

static void names_go_both_ways(void **state)
{
    (void)state;
    for (int i = 0; i < COLL_COUNT; i++)
        assert_int_equal(collective_by_name(collective_name((enum collective)i)), i);
    assert_int_equal(collective_by_name("teleport"), -1);
    assert_string_equal(collective_name(COLL_COUNT), "?");
}

static void appended_ops_are_kept(void **state)
{
    struct plan plan = new_plan();

    (void)state;
    for (uint64_t i = 0; i < 10000; i++)
        plan_put(&plan, 0, 2, plan_at(PLAN_RECV, 2, i), plan_at(PLAN_SCRATCH, 1, i * 4), 4, i + 1);
    assert_int_equal(plan.status, THRUM_OK);
    assert_int_equal(plan.nops, 10000);
    for (uint64_t i = 0; i < plan.nops; i++) {
        assert_int_equal(plan.ops[i].value, i + 1);
        assert_int_equal(plan.operands[plan.ops[i].first_operand].offset, i);
        assert_int_equal(plan.operands[plan.ops[i].first_operand + 1].offset, i * 4);
    }
    assert_int_equal(plan.scratch_bytes, 40000);
    plan_fini(&plan);
    plan_fini(&plan);
}

static void nothing_to_move_is_no_op(void **state)
{
    struct plan plan = new_plan();
    struct plan_operand at = plan_at(PLAN_RECV, 1, 0);

    (void)state;
    plan_copy(&plan, 0, at, plan_at(PLAN_SEND, 1, 0), 0);
    plan_reduce(&plan, 0, 0, &at, 1, &at, 1, 0);
    plan_put(&plan, 0, 2, plan_at(PLAN_RECV, 2, 0), at, 0, 0);
    assert_int_equal(plan.nops, 0);
    plan_put(&plan, 0, 2, plan_at(PLAN_RECV, 2, 0), at, 0, 5);
    assert_int_equal(plan.nops, 1);
    assert_int_equal(plan.ops[0].opcode, PLAN_SIGNAL);
    assert_int_equal(plan.ops[0].value, 5);
    plan_fini(&plan);
}

static void refuses(void (*append)(struct plan *plan), const char *words)
{
    struct plan plan = new_plan();

    append(&plan);
    assert_int_equal(plan.status, THRUM_ERR_PLAN);
    assert_non_null(strstr(thrum_last_error(), words));
    plan_signal(&plan, 0, 2, 1); /* later ones do nothing */
    assert_int_equal(plan.nops, 0);
    plan_fini(&plan);
}

static void lane_2(struct plan *plan)
{
    plan_signal(plan, 2, 2, 1);
}
static void to_itself(struct plan *plan)
{
    plan_signal(plan, 0, 1, 1);
}
static void from_nobody(struct plan *plan)
{
    plan_wait(plan, 0, 3, 1);
}
static void no_source(struct plan *plan)
{
    struct plan_operand at = plan_at(PLAN_RECV, 1, 0);

    plan_reduce(plan, 0, 0, &at, 1, NULL, 0, 4);
}
static void too_many(struct plan *plan)
{
    static struct plan_operand at[PLAN_MAX_OPERANDS];

    plan_reduce(plan, 0, 0, at, 1, at, PLAN_MAX_OPERANDS, 4);
}

static void the_first_error_stays(void **state)
{
    (void)state;
    refuses(lane_2, "allreduce ring, rank 1 of 3: SIGNAL with lane 2");
    refuses(to_itself, "SIGNAL with peer 1");
    refuses(from_nobody, "WAIT with peer 3");
    refuses(no_source, "REDUCE with sources 0");
    refuses(too_many, "REDUCE with operands 257");
}

static void buffers_by_definition(void **state)
{
    struct plan_params p = params();
    struct plan_p2p p2p[] = {{.peer = 2, .is_send = true, .bytes = 10, .offset = 1000},
                             {.peer = 0, .bytes = 20, .offset = 2000},
                             {.peer = 2, .bytes = 30, .offset = 3000}};

    (void)state;
    assert_int_equal(plan_send_bytes(&p, 0), 48);
    assert_int_equal(plan_recv_bytes(&p, 2), 48);
    p.collective = COLL_BROADCAST;
    p.root = 2;
    assert_int_equal(plan_send_bytes(&p, 0), 0);
    assert_int_equal(plan_send_bytes(&p, 2), 48);
    p.collective = COLL_ALLGATHER;
    assert_int_equal(plan_send_bytes(&p, 0), 48);
    assert_int_equal(plan_recv_bytes(&p, 0), 144);
    p.collective = COLL_REDUCE_SCATTER;
    assert_int_equal(plan_send_bytes(&p, 0), 144);
    assert_int_equal(plan_recv_bytes(&p, 0), 48);
    p.collective = COLL_REDUCE;
    assert_int_equal(plan_send_bytes(&p, 0), 48);
    assert_int_equal(plan_recv_bytes(&p, 0), 0);
    assert_int_equal(plan_recv_bytes(&p, 2), 48);
    p.collective = COLL_GATHER;
    assert_int_equal(plan_send_bytes(&p, 0), 48);
    assert_int_equal(plan_recv_bytes(&p, 0), 0);
    assert_int_equal(plan_recv_bytes(&p, 2), 144);
    p.collective = COLL_SCATTER;
    assert_int_equal(plan_send_bytes(&p, 0), 0);
    assert_int_equal(plan_send_bytes(&p, 2), 144);
    assert_int_equal(plan_recv_bytes(&p, 0), 48);
    p.collective = COLL_ALLTOALL;
    assert_int_equal(plan_send_bytes(&p, 0), 144);
    assert_int_equal(plan_recv_bytes(&p, 0), 144);
    p.collective = COLL_EXSCAN;
    assert_int_equal(plan_send_bytes(&p, 0), 48);
    assert_int_equal(plan_recv_bytes(&p, 0), 48);
    p.collective = COLL_BARRIER;
    assert_int_equal(plan_recv_bytes(&p, 0), 0);
    p.collective = COLL_SENDRECV;
    p.p2p = p2p;
    p.np2p = 3;
    assert_int_equal(plan_send_bytes(&p, 1), 1010); /* own: addresses */
    assert_int_equal(plan_recv_bytes(&p, 1), 3030);
    assert_int_equal(plan_recv_bytes(&p, 2), 10); /* a peer's: the message of the pair */
    assert_int_equal(plan_send_bytes(&p, 2), 30);
    assert_int_equal(plan_send_bytes(&p, 0), 20);
}

static void blocks_of_their_own_sizes(void **state)
{
    static const uint64_t counts[] = {3, 0, 2}, displs[] = {4, 9, 1};
    struct plan_params p = params();
    uint64_t elem = thrum_datatype_size(p.dtype);

    (void)state;
    p.collective = COLL_ALLGATHER;
    p.counts = counts;
    assert_int_equal(plan_block_elems(&p, 2), 2);
    assert_int_equal(plan_block_first(&p, 2), 3);
    assert_int_equal(plan_send_bytes(&p, 0), 3 * elem);
    assert_int_equal(plan_recv_bytes(&p, 0), 5 * elem);
    p.displs = displs;
    assert_int_equal(plan_block_first(&p, 2), 1);
    assert_int_equal(plan_recv_bytes(&p, 0), 9 * elem); /* up to where the last block would be */
    p.collective = COLL_REDUCE_SCATTER;
    assert_int_equal(plan_send_bytes(&p, 1), 9 * elem);
    assert_int_equal(plan_recv_bytes(&p, 1), 0);
}

static void partial_results_are_wide(void **state)
{
    static const struct {
        thrum_datatype_t dtype;
        unsigned widening;
    } types[] = {{THRUM_BFLOAT16, 2}, {THRUM_FLOAT16, 2}, {THRUM_FLOAT8_E4M3, 4},
                 {THRUM_INT16, 1},    {THRUM_FLOAT32, 1}, {THRUM_COMPLEX64, 1}};
    struct plan_params p = params();

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct plan plan;
        struct plan_operand wide = plan_at(PLAN_WIDE, p.rank, 16), src = plan_at(PLAN_SEND, 0, 0);

        p.dtype = types[i].dtype;
        p.redop = THRUM_SUM;
        assert_int_equal(plan_widening(&p), types[i].widening);
        plan_init(&plan, &p);
        plan_reduce(&plan, 0, 0, &wide, 1, &src, 1, 8);
        assert_int_equal(plan.scratch_bytes, 24 * types[i].widening);
        plan_fini(&plan);
        p.redop = THRUM_REDOP_COUNT;
        assert_int_equal(plan_widening(&p), 1);
    }
}

static void text_is_a_line_an_op(void **state)
{
    struct plan plan = new_plan();
    char *kept, *streamed = stream(PLAN_TEXT);

    (void)state;
    one_of_each(&plan);
    kept = dump(&plan, PLAN_TEXT);
    assert_string_equal(kept, text_of_each);
    assert_string_equal(streamed, text_of_each);
    free(kept);
    free(streamed);
    plan_fini(&plan);
}

static void json_has_everything(void **state)
{
    char *text = stream(PLAN_JSON);
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error), *op, *operand;

    (void)state;
    if (!root)
        fail_msg("line %d: %s", error.line, error.text);
    assert_string_equal(json_string_value(json_object_get(root, "algorithm")), "ring");
    assert_int_equal(json_integer_value(json_object_get(root, "op_count")), 9);
    assert_int_equal(json_integer_value(json_object_get(root, "scratch_bytes")), 80);
    assert_int_equal(json_array_size(json_object_get(root, "ops")), 9);
    op = json_array_get(json_object_get(root, "ops"), 5);
    assert_string_equal(json_string_value(json_object_get(op, "op")), "REDUCE");
    assert_int_equal(json_array_size(json_object_get(op, "flags")), 2);
    assert_int_equal(json_array_size(json_object_get(op, "dst")), 2);
    operand = json_array_get(json_object_get(op, "src"), 1);
    assert_string_equal(json_string_value(json_object_get(operand, "space")), "LINE");
    assert_int_equal(json_integer_value(json_object_get(operand, "from")), 2);
    op = json_array_get(json_object_get(root, "ops"), 6);
    assert_int_equal(json_integer_value(json_object_get(op, "value")), 7);
    json_decref(root);
    free(text);
}

static void dot_chains_lanes(void **state)
{
    char *text = stream(PLAN_DOT);

    (void)state;
    assert_non_null(strstr(text, "digraph plan {"));
    assert_non_null(strstr(text, "op3 -> op5;")); /* lane 0 */
    assert_non_null(strstr(text, "op4 -> op6;")); /* lane 1 */
    assert_null(strstr(text, "op3 -> op4;"));
    assert_string_equal(text + strlen(text) - 2, "}\n");
    free(text);
}

/* The widest op fits the text of one op, in each format. */
static void widest_op_is_not_cut(void **state)
{
    static struct plan_operand at[PLAN_MAX_OPERANDS];
    struct plan plan = new_plan();

    (void)state;
    for (int i = 0; i < PLAN_MAX_OPERANDS; i++)
        at[i] = plan_at(PLAN_SCRATCH, INT32_MAX, UINT64_MAX);
    plan_reduce(&plan, 0, PLAN_FINAL, at, 128, at, 128, UINT64_MAX);
    assert_int_equal(plan.status, THRUM_OK);
    for (int format = PLAN_TEXT; format <= PLAN_DOT; format++) {
        char *text = dump(&plan, (enum plan_format)format), *at_end = strrchr(text, ']');

        assert_true(strlen(text) < PLAN_TEXT_BYTES);
        assert_non_null(at_end);
        if (format == PLAN_JSON) {
            json_t *root = json_loads(text, JSON_DECODE_INT_AS_REAL, NULL);

            assert_non_null(root);
            json_decref(root);
        }
        free(text);
    }
    plan_fini(&plan);
}

/* A full disk is an error, not a short dump. */
static void failed_output_is_an_error(void **state)
{
    struct plan plan = new_plan();
    struct plan_dump dump_state;
    FILE *full = fopen("/dev/full", "w");

    (void)state;
    if (!full)
        skip();
    setvbuf(full, NULL, _IONBF, 0);
    plan_dump_begin(&plan, &dump_state, full, PLAN_TEXT);
    one_of_each(&plan);
    assert_int_equal(plan.status, THRUM_ERR_SYSTEM);
    plan_dump_end(&plan, &dump_state);
    plan_fini(&plan);
    plan = new_plan();
    one_of_each(&plan);
    assert_int_equal(plan_dump(&plan, full, PLAN_JSON), THRUM_ERR_SYSTEM);
    plan_fini(&plan);
    fclose(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_go_both_ways),        cmocka_unit_test(appended_ops_are_kept),
        cmocka_unit_test(nothing_to_move_is_no_op),  cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(blocks_of_their_own_sizes), cmocka_unit_test(partial_results_are_wide),
        cmocka_unit_test(buffers_by_definition),     cmocka_unit_test(text_is_a_line_an_op),
        cmocka_unit_test(json_has_everything),       cmocka_unit_test(dot_chains_lanes),
        cmocka_unit_test(widest_op_is_not_cut),      cmocka_unit_test(failed_output_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
