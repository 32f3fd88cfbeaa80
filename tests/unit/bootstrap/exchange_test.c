/* Exchanges over a running control plane, with ranks as processes: values, late ranks, disagreement; and sealed ids. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "bootstrap/internal.h"
#include "world.h"

#define RANKS 40 /* three levels of the tree */

struct node {
    struct world *world;
    int rank, nranks;
    struct bootstrap *bootstrap;
    struct control *control;
};

static const struct control_callbacks callbacks;

static void enter(struct world *world, int rank, struct node *node)
{
    struct thrum_unique_id id = world_id(world, rank);

    *node = (struct node){.world = world, .rank = rank, .nranks = world->nranks};
    WORLD_CHECK(!bootstrap_join(&id, rank, world->nranks, 30000, &node->bootstrap));
    WORLD_CHECK(!control_start(node->bootstrap, &callbacks, NULL, 20, &node->control));
}

static void leave(struct node *node)
{
    WORLD_CHECK(!control_finalize(node->control, 30000));
    control_stop(node->control);
    bootstrap_close(node->bootstrap);
}

static uint8_t byte_of(int rank, uint64_t sequence, size_t at)
{
    return (uint8_t)((size_t)rank * 31 + sequence * 7 + at);
}

static thrum_status_t exchange(struct node *node, uint64_t sequence, size_t bytes,
                               int64_t deadline_ms)
{
    uint8_t *values = calloc((size_t)node->nranks, bytes);
    thrum_status_t status;

    WORLD_CHECK(values);
    for (size_t i = 0; i < bytes; i++)
        values[(size_t)node->rank * bytes + i] = byte_of(node->rank, sequence, i);
    status = control_exchange(node->control, EXCHANGE_SPLIT, sequence, values, bytes, deadline_ms,
                              deadline_ms);
    for (int r = 0; r < node->nranks && !status; r++)
        for (size_t i = 0; i < bytes; i++)
            WORLD_CHECK(values[(size_t)r * bytes + i] == byte_of(r, sequence, i));
    free(values);
    return status;
}

/* ---- values ---- */

static void run_values(struct world *world, int rank)
{
    static const size_t sizes[] = {1, 8, 100, CONTROL_EXCHANGE_BYTES, 17, 300};
    struct node node;

    enter(world, rank, &node);
    for (uint64_t i = 0; i < 30; i++)
        WORLD_CHECK(!exchange(&node, 2 * i + 5, sizes[i % 6], 30000));
    leave(&node);
}

static void values(void **state)
{
    static const int sizes[] = {1, 2, 9, 10, RANKS};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_equal(world_run(sizes[i], run_values), 0);
}

/* ---- ranks that come too late ---- */

/* Ranks 3 and 20 come when the others have been told. Everybody hears the same, and the next one works. */
static void run_late(struct world *world, int rank)
{
    bool late = rank == 3 || rank == 20;
    struct node node;

    enter(world, rank, &node);
    WORLD_CHECK(!exchange(&node, 1, 1, 30000)); /* all are there */
    if (late)
        world_await(&world->counter, world->nranks - 2);
    world_note(world, rank, exchange(&node, 2, 64, 1000));
    atomic_fetch_add(&world->counter, 1);
    WORLD_CHECK(world->ranks[rank].status == THRUM_ERR_TIMEOUT);
    WORLD_CHECK(!exchange(&node, 4, 64, 30000));
    leave(&node);
}

static void late_ranks(void **state)
{
    struct world *world = world_start(RANKS, run_late);

    (void)state;
    assert_int_equal(world_wait(world), 0);
    for (int r = 0; r < RANKS; r++)
        if (!strstr(world->ranks[r].message,
                    "ranks 3, 20 did not call thrum_comm_split within 1000 ms"))
            fail_msg("rank %d: %s", r, world->ranks[r].message);
    world_free(world);
}

/* ---- different calls ---- */

static void run_different(struct world *world, int rank)
{
    uint8_t values[2 * RANKS] = {0};
    struct node node;

    enter(world, rank, &node);
    world_note(world, rank,
               control_exchange(node.control, rank == 30 ? EXCHANGE_REGISTER : EXCHANGE_SPLIT, 2,
                                values, 2, 30000, 30000));
    WORLD_CHECK(world->ranks[rank].status == THRUM_ERR_MISMATCH);
    WORLD_CHECK(!exchange(&node, 4, 64, 30000));
    leave(&node);
}

static void different_calls(void **state)
{
    struct world *world = world_start(RANKS, run_different);

    (void)state;
    assert_int_equal(world_wait(world), 0);
    for (int r = 0; r < RANKS; r++)
        if (!strstr(world->ranks[r].message, "rank 30") ||
            !strstr(world->ranks[r].message, "thrum_comm_register"))
            fail_msg("rank %d: %s", r, world->ranks[r].message);
    world_free(world);
}

/* ---- more than a connection may otherwise have queued ---- */

enum { MANY = 9000, SIZE = CONTROL_EXCHANGE_BYTES, AT_ONCE = 7, HEAD = 40 };

static void wait_for(struct boot_conn *conn)
{
    struct pollfd fd = {.fd = conn->fd, .events = boot_conn_events(conn)};

    WORLD_CHECK(poll(&fd, 1, 20000) == 1);
    boot_conn_io(conn);
    WORLD_CHECK(!conn->ended);
}

/* What ranks 1 to MANY - 1 send up, and what comes down to them: rank 1 has all of them below it. */
static void speak_for_many(struct world *world, struct boot_conn *conn)
{
    static uint8_t values[AT_ONCE * SIZE];
    uint8_t head[HEAD] = {0};
    struct boot_frame frame;
    uint32_t n;

    boot_put_u64(head, 2);
    boot_put_u32(head + 8, EXCHANGE_REGISTER);
    boot_put_u32(head + 12, SIZE);
    boot_put_u64(head + 24, 30000 * MS_NS);
    boot_put_u64(head + 32, 30000 * MS_NS);
    for (uint32_t r = 1; r < MANY; r += n) {
        n = r + AT_ONCE < MANY ? AT_ONCE : MANY - r;
        boot_put_u32(head + 16, r);
        boot_put_u32(head + 20, n);
        memset(values, (int)(r % 251), n * SIZE);
        WORLD_CHECK(!boot_conn_send(conn, FRAME_EXCHANGE_UP, head, HEAD, values, n * SIZE));
        while (boot_conn_pending(conn))
            wait_for(conn);
    }
    world_await(&world->go, 1); /* until then nothing is read */
    for (uint32_t r = 0; r < MANY;) {
        while (boot_conn_peek(conn, &frame))
            wait_for(conn);
        WORLD_CHECK(frame.type == FRAME_EXCHANGE_DOWN && boot_get_u32(frame.payload + 16) == r);
        r += boot_get_u32(frame.payload + 20);
        boot_conn_pop(conn);
    }
}

static void run_many(struct world *world, int rank)
{
    struct node node = {.world = world, .nranks = MANY};
    struct thrum_unique_id id = world_id(world, rank);
    struct boot_tree *tree;

    WORLD_CHECK(!bootstrap_join(&id, rank, 2, 30000, &node.bootstrap));
    tree = &node.bootstrap->tree;
    if (rank) {
        speak_for_many(world, &node.bootstrap->links[0]);
        atomic_fetch_add(&world->counter, 1);
    } else {
        uint8_t *values = calloc(MANY, SIZE);

        tree->nranks = tree->end = tree->child_end[0] = MANY;
        WORLD_CHECK(!control_start(node.bootstrap, &callbacks, NULL, 20, &node.control));
        WORLD_CHECK(
            !control_exchange(node.control, EXCHANGE_REGISTER, 2, values, SIZE, 30000, 30000));
        WORLD_CHECK(values[(size_t)(MANY - 1) * SIZE] != 0);
        free(values);
        atomic_store(&world->go, 1);
        world_await(&world->counter, 1);
        control_stop(node.control);
    }
    bootstrap_close(node.bootstrap);
}

static void values_of_many_ranks(void **state)
{
    (void)state;
    assert_int_equal(world_run(2, run_many), 0);
}

/* ---- sealed ids ---- */

static bool contains(const uint8_t *text, size_t bytes, const uint8_t *part, size_t part_bytes)
{
    for (size_t i = 0; i + part_bytes <= bytes; i++)
        if (!memcmp(text + i, part, part_bytes))
            return true;
    return false;
}

static void sealed_ids(void **state)
{
    struct thrum_unique_id ids[2], secret, opened;
    uint8_t sealed[CONTROL_SEALED_BYTES], again[CONTROL_SEALED_BYTES];
    struct bootstrap *bootstraps[2];
    struct control *controls[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bootstrap_make_id(&ids[i]), THRUM_OK);
        assert_int_equal(bootstrap_join(&ids[i], 0, 1, 10000, &bootstraps[i]), THRUM_OK);
        assert_int_equal(control_start(bootstraps[i], &callbacks, NULL, 20, &controls[i]),
                         THRUM_OK);
    }
    for (size_t i = 0; i < sizeof secret.bytes; i++)
        secret.bytes[i] = (uint8_t)(i * 3 + 1);
    control_seal_id(controls[0], 7, &secret, sealed);
    control_seal_id(controls[0], 7, &secret, again);
    assert_memory_not_equal(sealed, again, sizeof sealed); /* a fresh nonce each time */
    assert_false(contains(sealed, sizeof sealed, secret.bytes + 30, 8));
    assert_int_equal(control_open_id(controls[0], 7, sealed, &opened), THRUM_OK);
    assert_memory_equal(&opened, &secret, sizeof secret);
    assert_int_equal(control_open_id(controls[0], 8, sealed, &opened), THRUM_ERR_PROTOCOL);
    assert_int_equal(control_open_id(controls[1], 7, sealed, &opened), THRUM_ERR_PROTOCOL);
    for (size_t i = 0; i < sizeof sealed; i += 11) {
        sealed[i] ^= 1;
        assert_int_equal(control_open_id(controls[0], 7, sealed, &opened), THRUM_ERR_PROTOCOL);
        sealed[i] ^= 1;
    }
    for (int i = 0; i < 2; i++) {
        control_stop(controls[i]);
        bootstrap_close(bootstraps[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),          cmocka_unit_test(late_ranks),
        cmocka_unit_test(different_calls), cmocka_unit_test(values_of_many_ranks),
        cmocka_unit_test(sealed_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
