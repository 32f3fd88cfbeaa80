/*
 * What plan_check says of results: which contributions each collective's outputs are made of, what must be left alone,
 * and how often 8- and 16-bit floats are rounded. Each right plan passes; the same with one mistake is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "samples.h"

#define N 3
#define COUNT 4u

/* All ranks meet, `work` appends what each does with the others' memory, all depart. */
static void build(struct sample *s, struct plan_params params, void (*work)(struct plan *plan))
{
    *s = (struct sample){.n = N};
    params.nranks = N;
    params.count = params.count ? params.count : COUNT;
    params.peer_access = true;
    params.lanes = 1;
    params.scratch_bytes = 256;
    for (params.rank = 0; params.rank < N; params.rank++) {
        struct plan *plan = &s->plans[params.rank];

        plan_init(plan, &params);
        plan->algorithm = "sample";
        for (int i = 1; i < N; i++)
            plan_arrive(plan, 0, (params.rank + i) % N);
        for (int i = 1; i < N; i++)
            plan_wait_arrival(plan, 0, (params.rank + i) % N);
        work(plan);
        for (int i = 1; i < N; i++)
            plan_signal(plan, 0, (params.rank + i) % N, 1);
        for (int i = 1; i < N; i++)
            plan_wait(plan, 0, (params.rank + i) % N, 1);
    }
}

static void passes(struct sample *s)
{
    thrum_status_t status = plan_check(s->plans, N, 2, NULL);

    if (status)
        (void)plan_check(s->plans, N, 2, stderr);
    assert_int_equal(status, THRUM_OK);
    sample_fini(s);
}

static void fails(struct sample *s, const char *words)
{
    char *text;
    size_t bytes;
    FILE *report = open_memstream(&text, &bytes);
    thrum_status_t status = plan_check(s->plans, N, 2, report);

    fclose(report);
    assert_int_equal(status, THRUM_ERR_PLAN);
    if (!strstr(text, words))
        fail_msg("no \"%s\" in:\n%s", words, text);
    free(text);
    sample_fini(s);
}

static uint64_t whole(const struct plan *plan)
{
    return plan->params.count * thrum_datatype_size(plan->params.dtype);
}

/* REDUCE|FINAL of the SENDs of ranks first .. last into the own RECV, told to be of `contributions`. */
static void fold(struct plan *plan, int first, int last, int contributions)
{
    struct plan_operand srcs[N];

    for (int r = first; r <= last; r++)
        srcs[r - first] = plan_at(PLAN_SEND, r, 0);
    plan_reduce_prefix(plan, 0, contributions, plan_at(PLAN_RECV, plan->params.rank, 0), srcs,
                       last - first + 1, whole(plan));
}

static struct plan_params call(enum collective collective)
{
    return (struct plan_params){
        .collective = collective, .dtype = THRUM_INT32, .redop = THRUM_AVG, .root = 1};
}

/* ---- prefixes ---------------------------------------------------------------------------------------------------- */

static void scan_right(struct plan *plan)
{
    fold(plan, 0, plan->params.rank, plan->params.rank + 1);
}
static void scan_one_too_many(struct plan *plan)
{
    int last = plan->params.rank == 1 ? 2 : plan->params.rank;
    fold(plan, 0, last, last + 1);
}
static void scan_divided_wrongly(struct plan *plan)
{
    fold(plan, 0, plan->params.rank, plan->params.rank == 2 ? 2 : plan->params.rank + 1);
}
static void exscan_right(struct plan *plan)
{
    if (plan->params.rank > 0)
        fold(plan, 0, plan->params.rank - 1, plan->params.rank);
}
static void exscan_touches_rank_0(struct plan *plan)
{
    exscan_right(plan);
    if (plan->params.rank == 0)
        plan_copy(plan, 0, plan_at(PLAN_RECV, 0, 4), plan_at(PLAN_SEND, 1, 4), 4);
}

static void prefixes(void **state)
{
    struct sample s;

    (void)state;
    build(&s, call(COLL_SCAN), scan_right);
    passes(&s);
    build(&s, call(COLL_EXSCAN), exscan_right);
    passes(&s);
    build(&s, call(COLL_SCAN), scan_one_too_many);
    fails(&s, "rank 1 RECV[0..16): expected {0,1}, found {0,1,2}");
    build(&s, call(COLL_SCAN), scan_divided_wrongly);
    fails(&s, "is FINAL without all contributions once: expected {0,1}, found {0,1,2}");
    build(&s, call(COLL_SCAN), exscan_right);
    fails(&s, "rank 1 RECV[0..16): expected {0,1}, found {0}");
    build(&s, call(COLL_EXSCAN), scan_right);
    fails(&s, "rank 1 RECV[0..16): expected {0}, found {0,1}");
    build(&s, call(COLL_EXSCAN), exscan_touches_rank_0);
    fails(&s, "rank 0 RECV[4..8) is written, which is not the plan's");
    build(&s, call(COLL_ALLREDUCE), scan_right);
    fails(&s, "says how many contributions there are");
}

/* ---- rounding ---------------------------------------------------------------------------------------------------- */

/* ((0 + 1), kept in `space`) + 2. */
static void fold_in_two(struct plan *plan, enum plan_space space)
{
    int rank = plan->params.rank;
    struct plan_operand sum = plan_at(space, rank, 0), dst = plan_at(PLAN_RECV, rank, 0);
    struct plan_operand first[2] = {plan_at(PLAN_SEND, 0, 0), plan_at(PLAN_SEND, 1, 0)};
    struct plan_operand then[2] = {sum, plan_at(PLAN_SEND, 2, 0)};

    plan_reduce(plan, 0, 0, &sum, 1, first, 2, whole(plan));
    plan_reduce(plan, 0, PLAN_FINAL, &dst, 1, then, 2, whole(plan));
}
static void fold_in_scratch(struct plan *plan)
{
    fold_in_two(plan, PLAN_SCRATCH);
}
static void fold_in_wide(struct plan *plan)
{
    fold_in_two(plan, PLAN_WIDE);
}

static void rounded_once(void **state)
{
    struct plan_params params = call(COLL_ALLREDUCE);
    struct sample s;

    (void)state;
    build(&s, params, fold_in_scratch);
    passes(&s);
    build(&s, params, fold_in_wide); /* as wide as the type */
    assert_int_equal(s.plans[0].scratch_bytes, 16);
    passes(&s);
    params.dtype = THRUM_BFLOAT16;
    build(&s, params, fold_in_wide);
    assert_int_equal(s.plans[0].scratch_bytes, 16);
    assert_int_equal(plan_check_ordered(s.plans, N, 2, NULL), THRUM_OK);
    passes(&s);
    build(&s, params, fold_in_scratch);
    fails(&s, "it was rounded more than once: partial results belong in WIDE");
    params.dtype = THRUM_FLOAT8_E5M2;
    build(&s, params, fold_in_wide);
    assert_int_equal(s.plans[0].scratch_bytes, 16);
    passes(&s);
    build(&s, params, fold_in_scratch);
    fails(&s, "rounded more than once");
    params.redop =
        THRUM_REDOP_COUNT; /* the caller's function folds elements of the type, and rounds as it likes */
    build(&s, params, fold_in_scratch);
    passes(&s);
    params.count = 65; /* four times wider: more than the 256 bytes of scratch */
    params.redop = THRUM_SUM;
    build(&s, params, fold_in_wide);
    fails(&s, "names WIDE of rank 0, bytes 0..65, out of range");
}

static struct {
    enum plan_space dst, srcs[3];
    int ndst, nsrc;
} op;

static void any_reduce(struct plan *plan)
{
    int rank = plan->params.rank;
    struct plan_operand dsts[2] = {plan_at(op.dst, rank, 32), plan_at(PLAN_SCRATCH, rank, 64)};
    struct plan_operand srcs[3];

    for (int i = 0; i < op.nsrc; i++)
        srcs[i] = plan_at(op.srcs[i], rank, op.srcs[i] == PLAN_SEND ? 0 : 16 * (uint64_t)i);
    plan_reduce(plan, 0, 0, dsts, op.ndst, srcs, op.nsrc, 8);
}
static void any_copy(struct plan *plan)
{
    int rank = plan->params.rank;

    plan_copy(plan, 0, plan_at(op.dst, rank, 0), plan_at(op.srcs[0], rank, 16), 8);
}

static void refused_op(void (*work)(struct plan *plan), const char *words)
{
    struct plan_params params = call(COLL_ALLREDUCE);
    struct sample s;

    params.dtype = THRUM_BFLOAT16;
    params.count = 16;
    build(&s, params, work);
    fails(&s, words);
}

static void wide_operands(void **state)
{
    static const char neither[] = "has WIDE sources that are neither all nor the first alone";

    (void)state;
    op.ndst = 1;
    op.nsrc = 3;
    op.dst = PLAN_WIDE;
    memcpy(op.srcs, (enum plan_space[]){PLAN_SEND, PLAN_WIDE, PLAN_WIDE}, sizeof op.srcs);
    refused_op(any_reduce, neither);
    memcpy(op.srcs, (enum plan_space[]){PLAN_WIDE, PLAN_WIDE, PLAN_SEND}, sizeof op.srcs);
    refused_op(any_reduce, neither);
    memcpy(op.srcs, (enum plan_space[]){PLAN_WIDE, PLAN_SEND, PLAN_SEND}, sizeof op.srcs);
    op.ndst = 2;
    refused_op(any_reduce, "has some destinations WIDE and some not");
    op.ndst = 1;
    op.dst = PLAN_SCRATCH;
    refused_op(any_reduce, "one of them, not both");
    op.srcs[0] = PLAN_SEND;
    op.dst = PLAN_WIDE;
    refused_op(any_copy, "only REDUCE widens and rounds");
    op.srcs[0] = PLAN_WIDE;
    op.dst = PLAN_RECV;
    refused_op(any_copy, "only REDUCE widens and rounds");
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static int wrong_rank; /* who takes the wrong block; -1: nobody */

static void gather_blocks(struct plan *plan)
{
    int rank = plan->params.rank, root = plan->params.root;
    int block = rank == wrong_rank ? (rank + 1) % N : rank;

    plan_copy(plan, 0, plan_at(PLAN_RECV, root, (uint64_t)block * whole(plan)),
              plan_at(PLAN_SEND, rank, 0), whole(plan));
}
static void scatter_blocks(struct plan *plan)
{
    int rank = plan->params.rank, root = plan->params.root;
    int block = rank == wrong_rank ? (rank + 1) % N : rank;

    plan_copy(plan, 0, plan_at(PLAN_RECV, rank, 0),
              plan_at(PLAN_SEND, root, (uint64_t)block * whole(plan)), whole(plan));
}
static void alltoall_blocks(struct plan *plan)
{
    int rank = plan->params.rank, block = rank == wrong_rank ? (rank + 1) % N : rank;

    for (int from = 0; from < N; from++)
        plan_copy(plan, 0, plan_at(PLAN_RECV, rank, (uint64_t)from * whole(plan)),
                  plan_at(PLAN_SEND, from, (uint64_t)block * whole(plan)), whole(plan));
}
static void reduce_at_root(struct plan *plan)
{
    if (plan->params.rank == plan->params.root)
        plan_reduce(plan, 0, PLAN_FINAL, &(struct plan_operand){.rank = 1, .space = PLAN_RECV}, 1,
                    (struct plan_operand[]){plan_at(PLAN_SEND, 0, 0), plan_at(PLAN_SEND, 1, 0),
                                            plan_at(PLAN_SEND, wrong_rank < 0 ? 2 : 1, 0)},
                    3, whole(plan));
}

static void blocks(void **state)
{
    struct sample s;

    (void)state;
    wrong_rank = -1;
    build(&s, call(COLL_GATHER), gather_blocks);
    passes(&s);
    build(&s, call(COLL_SCATTER), scatter_blocks);
    passes(&s);
    build(&s, call(COLL_ALLTOALL), alltoall_blocks);
    passes(&s);
    build(&s, call(COLL_REDUCE), reduce_at_root);
    passes(&s);
    wrong_rank = 2;
    build(&s, call(COLL_GATHER), gather_blocks);
    fails(&s, "data race on rank 1 RECV[0..16)");
    build(&s, call(COLL_SCATTER), scatter_blocks);
    fails(&s, "expected {1} of input byte 32, found {1} of input byte 0");
    build(&s, call(COLL_ALLTOALL), alltoall_blocks);
    fails(&s, "expected {0} of input byte 32, found {0} of input byte 0");
    build(&s, call(COLL_REDUCE), reduce_at_root);
    fails(&s, "expected {0,1,2}, found {0,1,1}");
}

/* ---- blocks of their own sizes ----------------------------------------------------------------------------------- */

static const uint64_t counts[N] = {3, 0, 2}, displs[N] = {4, 0, 1};

static void gather_own_blocks(struct plan *plan)
{
    const struct plan_params *p = &plan->params;

    for (int to = 0; to < N; to++)
        plan_copy(plan, 0, plan_at(PLAN_RECV, to, plan_block_first(p, p->rank) * 4),
                  plan_at(PLAN_SEND, p->rank, 0), plan_block_elems(p, p->rank) * 4);
}
static void gather_into_the_gap(struct plan *plan)
{
    gather_own_blocks(plan);
    if (plan->params.rank == 2)
        plan_copy(plan, 0, plan_at(PLAN_RECV, 0, 12), plan_at(PLAN_SEND, 2, 0), 4);
}

static void own_sizes(void **state)
{
    struct plan_params params = call(COLL_ALLGATHER);
    static const uint64_t others[N] = {3, 1, 2};
    struct sample s;

    (void)state;
    params.counts = counts;
    build(&s, params, gather_own_blocks);
    passes(&s);
    params.displs = displs;
    build(&s, params, gather_own_blocks);
    passes(&s);
    build(&s, params, gather_into_the_gap);
    fails(&s, "rank 0 RECV[12..16) is written, which is not the plan's");
    build(&s, params, gather_own_blocks);
    s.plans[1].params.counts = others;
    fails(&s, "plans of rank 0 and 1 are of different calls");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixes), cmocka_unit_test(rounded_once), cmocka_unit_test(wide_operands),
        cmocka_unit_test(blocks),   cmocka_unit_test(own_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
