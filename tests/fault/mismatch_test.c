/*
 * Ranks that disagree in the collective, its count, type, operation or root: every rank gets MISMATCH, in time, with a
 * message that names a rank and both values. Small (inline) and large, in both access modes; and sends that do not fit
 * their receives.
 */
#include "harness.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NRANKS 3

static const char *const with_access[] = {"THRUM_DEADLINE_MS=20000", "THRUM_PEER_ACCESS=auto",
                                          NULL};
static const char *const without_access[] = {"THRUM_DEADLINE_MS=20000", "THRUM_PEER_ACCESS=none",
                                             NULL};

/* ---- the role ---- */

/* Does the call that it hears: "COLLECTIVE COUNT TYPE OP ROOT". */
static thrum_status_t do_call(struct child *child, const char *line, uint8_t *send, uint8_t *recv)
{
    char kind[32];
    unsigned long long count;
    int type, op, root;

    if (sscanf(line, "%31s %llu %d %d %d", kind, &count, &type, &op, &root) != 5)
        exit(20);
    if (!strcmp(kind, "allreduce"))
        return thrum_allreduce(send, recv, count, (thrum_datatype_t)type, (thrum_redop_t)op,
                               child->comm, child->queue);
    if (!strcmp(kind, "broadcast"))
        return thrum_broadcast(send, recv, count, (thrum_datatype_t)type, root, child->comm,
                               child->queue);
    if (!strcmp(kind, "allgather"))
        return thrum_allgather(send, recv, count, (thrum_datatype_t)type, child->comm,
                               child->queue);
    if (!strcmp(kind, "reduce_scatter"))
        return thrum_reduce_scatter(send, recv, count, (thrum_datatype_t)type, (thrum_redop_t)op,
                                    child->comm, child->queue);
    if (!strcmp(kind, "barrier"))
        return thrum_barrier(child->comm, child->queue);
    if (!strcmp(kind, "send"))
        return thrum_send(send, count, (thrum_datatype_t)type, root, child->comm, child->queue);
    if (!strcmp(kind, "recv"))
        return thrum_recv(recv, count, (thrum_datatype_t)type, root, child->comm, child->queue);
    if (!strcmp(kind, "nothing"))
        return THRUM_OK;
    exit(21);
}

/*
 * A rank that does not depend on the one that disagrees may be done before anybody knows; then the communicator has the
 * error soon after, and that is what every later call returns.
 */
static void say_late_result(struct child *child)
{
    int64_t end = clock_ms() + 10000;
    thrum_status_t status = THRUM_OK;
    const char *message = NULL;

    while (status == THRUM_OK && clock_ms() < end) {
        MUST(thrum_comm_async_error(child->comm, &status, &message));
        poll(NULL, 0, 1);
    }
    say("result %s %s", thrum_status_name(status), message ? message : "-");
}

/* One good collective, then the calls that it is told, each waited for; "late" asks for an error that comes later. */
static void caller(struct child *child)
{
    enum { BYTES = 8 << 20 };
    void *send, *recv;
    thrum_status_t status = THRUM_OK;
    bool right = false;

    child_join(child);
    MUST(thrum_mem_alloc(child->device, BYTES, &send));
    MUST(thrum_mem_alloc(child->device, BYTES, &recv));
    MUST(child_sum(child, child->comm, 100, &right));
    say("joined");
    for (;;) {
        const char *line = hear();
        if (!strcmp(line, "end"))
            return;
        if (!strcmp(line, "late")) {
            say_late_result(child);
            continue;
        }
        if (!strcmp(line, "good")) {
            status = thrum_fill(child->queue, send, 1, 100);
            if (status == THRUM_OK)
                status = thrum_queue_synchronize(child->queue);
            if (status == THRUM_OK)
                say("good");
            else
                say("failed: the queue does not go on: %s: %s", thrum_status_name(status),
                    thrum_last_error());
            continue;
        }
        status = do_call(child, line, send, recv);
        if (status == THRUM_OK)
            status = thrum_queue_synchronize(child->queue);
        say_result(status);
    }
}

static const struct role roles[] = {{"caller", caller}};

/* ---- the tests ---- */

/*
 * Ranks 0 and 2 make the call `most`, rank 1 the call `other`: all get MISMATCH, and a message with all the texts. Both
 * access modes.
 */
static void disagree(const char *most, const char *other, const char *text, const char *other_text)
{
    const char *const *const modes[] = {with_access, without_access};

    for (int mode = 0; mode < 2; mode++) {
        struct crew crew;
        int64_t since;

        crew_start(&crew, "caller", NRANKS, modes[mode]);
        crew_expect_all(&crew, "joined");
        since = clock_ms();
        for (int r = 0; r < NRANKS; r++)
            crew_say(&crew, r, r == 1 ? other : most);
        for (int r = 0; r < NRANKS; r++) {
            const char *line = crew_expect(&crew, r, "result THRUM_");
            bool done_before = !strncmp(line, "result THRUM_OK", 15);

            /* not all: somebody has to notice at its queue */
            if (strncmp(line, "result THRUM_ERR_MISMATCH", 25) && (!done_before || r == 1))
                fail_msg("rank %d: \"%s\"", r, line);
            crew_say(&crew, r, "late");
            crew_expect_result(&crew, r, THRUM_ERR_MISMATCH, "rank 1", text, other_text, NULL);
        }
        assert_in_range(clock_ms() - since, 0, 10000);
        crew_say_all(&crew, "good");
        crew_expect_all(&crew, "good");
        crew_say_all(&crew, "end");
        crew_finish(&crew);
    }
}

static void count_small(void **state)
{
    (void)state;
    disagree("allreduce 3 7 0 0", "allreduce 5 7 0 0", "3", "5");
}

static void count_large(void **state)
{
    (void)state;
    disagree("allreduce 100003 7 0 0", "allreduce 100019 7 0 0", "100003", "100019");
}

static void count_small_and_large(void **state)
{
    (void)state;
    disagree("allreduce 1 7 0 0", "allreduce 100019 7 0 0", "1", "100019");
}

static void count_zero_and_not(void **state)
{
    (void)state;
    disagree("allreduce 0 7 0 0", "allreduce 517 7 0 0", "0", "517");
}

static void type_small(void **state)
{
    (void)state;
    disagree("allreduce 4 7 0 0", "allreduce 4 2 0 0", "float32", "int32");
}

static void type_large(void **state)
{
    (void)state;
    disagree("reduce_scatter 50000 9 0 0", "reduce_scatter 50000 6 0 0", "bfloat16", "float16");
}

static void op_small(void **state)
{
    (void)state;
    disagree("allreduce 4 7 0 0", "allreduce 4 7 2 0", "sum", "max");
}

static void op_large(void **state)
{
    (void)state;
    disagree("allreduce 70000 2 5 0", "allreduce 70000 2 6 0", "band", "bor");
}

static void root_small(void **state)
{
    (void)state;
    disagree("broadcast 4 7 0 0", "broadcast 4 7 0 2", "root", "2");
}

static void root_large(void **state)
{
    (void)state;
    disagree("broadcast 90000 7 0 2", "broadcast 90000 7 0 1", "2", "1");
}

static void collective_small(void **state)
{
    (void)state;
    disagree("allreduce 2 7 0 0", "broadcast 2 7 0 0", "allreduce", "broadcast");
}

static void collective_large(void **state)
{
    (void)state;
    disagree("allgather 30000 7 0 0", "reduce_scatter 30000 7 0 0", "allgather", "reduce_scatter");
}

static void barrier_and_data(void **state)
{
    (void)state;
    disagree("barrier 0 0 0 0", "allreduce 30000 7 0 0", "barrier", "allreduce");
}

/* Rank 0 sends to 1, which takes another number of elements, or type. */
static void pair_disagrees(const char *send, const char *recv, const char *text,
                           const char *other_text)
{
    const char *const *const modes[] = {with_access, without_access};

    for (int mode = 0; mode < 2; mode++) {
        struct crew crew;

        crew_start(&crew, "caller", 2, modes[mode]);
        crew_expect_all(&crew, "joined");
        crew_say(&crew, 0, send);
        crew_say(&crew, 1, recv);
        for (int r = 0; r < 2; r++) {
            const char *line = crew_expect(&crew, r, "result THRUM_");

            /* a short send may be over before it is received */
            if (strncmp(line, "result THRUM_ERR_MISMATCH", 25) &&
                (r == 1 || strncmp(line, "result THRUM_OK", 15)))
                fail_msg("rank %d: \"%s\"", r, line);
            crew_say(&crew, r, "late");
            crew_expect_result(&crew, r, THRUM_ERR_MISMATCH, text, other_text, "rank ", NULL);
        }
        crew_say_all(&crew, "end");
        crew_finish(&crew);
    }
}

static void message_count_small(void **state)
{
    (void)state;
    pair_disagrees("send 5 7 0 1", "recv 6 7 0 0", "5", "6");
}

static void message_count_large(void **state)
{
    (void)state;
    pair_disagrees("send 100003 7 0 1", "recv 100019 7 0 0", "100003", "100019");
}

static void message_type(void **state)
{
    (void)state;
    pair_disagrees("send 1000 7 0 1", "recv 1000 2 0 0", "float32", "int32");
}

/* A rank more or fewer calls: what is behind the others' fourth call is its third. */
static void one_call_fewer(void **state)
{
    struct crew crew;

    (void)state;
    crew_start(&crew, "caller", NRANKS, with_access);
    crew_expect_all(&crew, "joined");
    crew_say_all(&crew, "allreduce 100 7 0 0");
    for (int r = 0; r < NRANKS; r++)
        crew_expect_result(&crew, r, THRUM_OK, NULL);
    crew_say(&crew, 0, "allreduce 40 7 0 0");
    crew_say(&crew, 1, "allgather 20 7 0 0"); /* has left out the allreduce */
    crew_say(&crew, 2, "allreduce 40 7 0 0");
    for (int r = 0; r < NRANKS; r++)
        crew_expect_result(&crew, r, THRUM_ERR_MISMATCH, "allreduce", "allgather", NULL);
    crew_say_all(&crew, "end");
    crew_finish(&crew);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leftovers_before, leftovers_after)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(count_small),
        TEST(count_large),
        TEST(count_small_and_large),
        TEST(count_zero_and_not),
        TEST(type_small),
        TEST(type_large),
        TEST(op_small),
        TEST(op_large),
        TEST(root_small),
        TEST(root_large),
        TEST(collective_small),
        TEST(collective_large),
        TEST(barrier_and_data),
        TEST(message_count_small),
        TEST(message_count_large),
        TEST(message_type),
        TEST(one_call_fewer),
    };

    child_main(argc, argv, roles, sizeof roles / sizeof *roles);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
